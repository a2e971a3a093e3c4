//! A histogram of whole numbers with a bucket for each power of two, as far as openraft needs one.

use std::fmt;
use std::marker::PhantomData;

const BUCKETS: usize = 65;

/// Counts values by their highest bit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Histogram<T = ()> {
    counts: [u64; BUCKETS],
    data: PhantomData<T>,
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Histogram<T> {
    /// Counts nothing yet.
    pub fn new() -> Self {
        Self { counts: [0; BUCKETS], data: PhantomData }
    }

    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts a value so many times.
    pub fn record_n(&mut self, value: u64, count: u64) {
        self.counts[bits(value)] += count;
    }

    /// How many values were counted.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The largest value that the bucket may hold in which so many in a thousand are reached.
    fn per_mille(&self, part: u64) -> u64 {
        let wanted = self.total().saturating_mul(part).div_ceil(1000).max(1);
        let mut seen = 0;
        for (bits, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return u64::MAX.checked_shr(64 - bits as u32).unwrap_or(0);
            }
        }
        0
    }

    /// Some of the distribution; each is up to twice as large as it was.
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total(),
            p0_1: self.per_mille(1),
            p1: self.per_mille(10),
            p5: self.per_mille(50),
            p10: self.per_mille(100),
            p50: self.per_mille(500),
            p90: self.per_mille(900),
            p99: self.per_mille(990),
            p99_9: self.per_mille(999),
        }
    }
}

fn bits(value: u64) -> usize {
    (u64::BITS - value.leading_zeros()) as usize
}

/// Some of a distribution.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PercentileStats {
    /// How many values there are.
    pub samples: u64,
    /// One in a thousand is at most this.
    pub p0_1: u64,
    /// One in a hundred is at most this.
    pub p1: u64,
    /// One in twenty is at most this.
    pub p5: u64,
    /// One in ten is at most this.
    pub p10: u64,
    /// Half are at most this.
    pub p50: u64,
    /// Nine in ten are at most this.
    pub p90: u64,
    /// All but one in a hundred are at most this.
    pub p99: u64,
    /// All but one in a thousand are at most this.
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { samples, p50, p90, p99, p99_9, .. } = self;
        write!(f, "[samples: {samples}, P50: {p50}, P90: {p90}, P99: {p99}, P99.9: {p99_9}]")
    }
}

/// Several histograms, one below the other.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AsciiChart {
    all: Vec<(String, Histogram)>,
}

impl AsciiChart {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more.
    #[allow(clippy::should_implement_trait, reason = "the name is that of the other crate")]
    #[must_use]
    pub fn add(mut self, name: impl Into<String>, histogram: Histogram) -> Self {
        self.all.push((name.into(), histogram));
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, histogram) in &self.all {
            writeln!(f, "{name}: {}", histogram.percentile_stats())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_in_their_power_of_two() {
        let mut histogram = Histogram::<()>::new();
        for value in [0, 1, 2, 3, 100, u64::MAX] {
            histogram.record(value);
        }
        let stats = histogram.percentile_stats();
        assert_eq!((stats.samples, stats.p0_1, stats.p50, stats.p99), (6, 0, 3, u64::MAX));
        assert_eq!(Histogram::<()>::new().percentile_stats(), PercentileStats::default());
    }
}
