//! The source of randomness: for names that must not coincide, and pauses that must not be in step.
//!
//! It has one place, so that a simulation can take all of it from a seed.

use std::ops::RangeInclusive;

use rand::Rng;
use rand::distr::{Distribution, StandardUniform};
use rand::rng as source;

/// A number that cannot be guessed.
pub fn number<T>() -> T
where
    StandardUniform: Distribution<T>,
{
    source().random()
}

/// A random factor in this range, by which a time is stretched or cut.
pub fn factor(range: RangeInclusive<f64>) -> f64 {
    source().random_range(range)
}
