//! Dice: the random numbers of a run, all of them from its seed.
//!
//! Each purpose has a generator of its own, so that one more draw for one purpose changes no other.
//! Production code and openraft draw from one that is installed for the thread, see
//! [`keyward::random`].

use std::ops::RangeInclusive;

use keyward::random::{self, Installed};

/// A generator whose sequence is always the same for a seed: `SplitMix64`.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The generator for one purpose in the run of `seed`.
    pub fn new(seed: u64, purpose: &str) -> Self {
        Self(purpose.bytes().fold(mix(seed), |dice, byte| mix(dice ^ u64::from(byte))))
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// A number in this range, both ends included.
    ///
    /// # Panics
    /// If the range is empty.
    pub fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        let (low, high) = range.into_inner();
        assert!(low <= high, "{low}..={high} is empty");
        match (high - low).checked_add(1) {
            // The remainder favours small numbers by less than one in 2^32 for the ranges in use.
            Some(width) => low + self.number() % width,
            None => self.number(),
        }
    }

    /// Returns true with this probability, in parts per million.
    pub fn hits(&mut self, per_million: u32) -> bool {
        self.number() % 1_000_000 < u64::from(per_million)
    }

    /// Picks one of the elements.
    ///
    /// # Panics
    /// If there is none.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        let at = self.within(0..=of.len() as u64 - 1);
        &of[usize::try_from(at).expect("it is below a length")]
    }
}

/// A bijection that scatters numbers: the finaliser of `SplitMix64`.
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// Lets production code on this thread draw from the seed until the guard is dropped.
pub(crate) fn install(seed: u64) -> Installed {
    let mut dice = Dice::new(seed, "production");
    random::install(move || dice.number())
}
