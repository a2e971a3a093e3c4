//! Dice: every number of a run comes from its seed.
//!
//! Each purpose has dice of its own, so that one more throw for one of them changes no other. What
//! production code draws through [`crate::random`], and openraft for its election time-outs, comes
//! from the dice that were dealt to the thread; a thread without any draws from the system.

use std::cell::Cell;
use std::convert::Infallible;
use std::ops::RangeInclusive;

use crate::storage::mix;

/// A row of numbers that is the same for ever for the same seed: `SplitMix64`.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The dice of one purpose in the run of `seed`.
    pub fn new(seed: u64, purpose: &str) -> Self {
        Self(purpose.bytes().fold(mix(seed), |dice, byte| mix(dice ^ u64::from(byte))))
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// A number of this range; its ends are among them.
    ///
    /// # Panics
    /// If the range is empty.
    pub fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        let (low, high) = range.into_inner();
        assert!(low <= high, "{low}..={high} is empty");
        match (high - low).checked_add(1) {
            // The remainder prefers small numbers by less than one in 2^32 for the ranges in use.
            Some(width) => low + self.number() % width,
            None => self.number(),
        }
    }

    /// True in so many of a million throws.
    pub fn hits(&mut self, per_million: u32) -> bool {
        self.number() % 1_000_000 < u64::from(per_million)
    }

    /// One of them.
    ///
    /// # Panics
    /// If there is none.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        let at = self.within(0..=of.len() as u64 - 1);
        &of[usize::try_from(at).expect("it is below a length")]
    }
}

thread_local! {
    static DEALT: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Deals the thread the dice for production code until the guard is dropped.
pub(crate) fn deal(seed: u64) -> Dealt {
    DEALT.set(Some(Dice::new(seed, "production").0));
    Dealt(())
}

/// Whether this thread runs a simulation.
pub(crate) fn is_dealt() -> bool {
    DEALT.get().is_some()
}

/// While it lives, the thread draws from dice.
pub(crate) struct Dealt(());

impl Drop for Dealt {
    fn drop(&mut self) {
        DEALT.set(None);
    }
}

/// What production code draws from.
pub(crate) fn source() -> Source {
    Source
}

/// Draws from the thread's dice if it has any, else from the system.
#[derive(Debug)]
pub struct Source;

impl Source {
    fn number() -> u64 {
        let Some(dice) = DEALT.get() else { return rand::random() };
        let mut dice = Dice(dice);
        let number = dice.number();
        DEALT.set(Some(dice.0));
        number
    }

    fn fill(bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&Self::number().to_le_bytes()[..chunk.len()]);
        }
    }
}

/// As `rand` 0.9 has it, which Keyward uses.
impl rand::RngCore for Source {
    fn next_u32(&mut self) -> u32 {
        (Self::number() >> 32) as u32
    }

    fn next_u64(&mut self) -> u64 {
        Self::number()
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        Self::fill(bytes);
    }
}

/// As `rand` 0.10 has it, which openraft uses.
impl rand_core::TryRng for Source {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((Self::number() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(Self::number())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        Self::fill(bytes);
        Ok(())
    }
}
