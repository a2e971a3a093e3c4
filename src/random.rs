//! Where chance comes from: names that must not coincide, and pauses that must not be in step.
//!
//! One place, so that all of it can be dealt from a seed where a run has to be repeatable.

use std::ops::RangeInclusive;

use rand::Rng;
use rand::distr::{Distribution, StandardUniform};

/// A number that nobody can guess.
pub(crate) fn number<T>() -> T
where
    StandardUniform: Distribution<T>,
{
    rand::rng().random()
}

/// A factor in this range, by which something is stretched or cut.
pub(crate) fn factor(range: RangeInclusive<f64>) -> f64 {
    rand::rng().random_range(range)
}
