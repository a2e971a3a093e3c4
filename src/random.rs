//! Where chance comes from: names that must not coincide, and pauses that must not be in step.
//!
//! One place, so that a simulation can deal all of it from a seed.

use std::ops::RangeInclusive;

use rand::Rng;
use rand::distr::{Distribution, StandardUniform};
#[cfg(not(feature = "simulation"))]
use rand::rng as source;

#[cfg(feature = "simulation")]
use crate::sim::chance::source;

/// A number that nobody can guess.
pub(crate) fn number<T>() -> T
where
    StandardUniform: Distribution<T>,
{
    source().random()
}

/// A factor in this range, by which something is stretched or cut.
pub(crate) fn factor(range: RangeInclusive<f64>) -> f64 {
    source().random_range(range)
}
