//! Dice: the random numbers of a run, all of them from its seed.
//!
//! Each purpose has a generator of its own, so that one more draw for one purpose changes no other.
//! Production code, through [`crate::random`], and openraft, for its election timeouts, draw from
//! the generator of the thread; a thread without one draws from the system.

use std::cell::Cell;
use std::convert::Infallible;
use std::ops::RangeInclusive;

use crate::storage::mix;

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

thread_local! {
    static DEALT: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Gives the thread a generator for production code until the guard is dropped.
pub(crate) fn deal(seed: u64) -> Dealt {
    DEALT.set(Some(Dice::new(seed, "production").0));
    Dealt(())
}

/// Whether this thread runs a simulation.
pub(crate) fn is_dealt() -> bool {
    DEALT.get().is_some()
}

/// A guard: while it lives, the thread draws from its generator.
pub(crate) struct Dealt(());

impl Drop for Dealt {
    fn drop(&mut self) {
        DEALT.set(None);
    }
}

/// The source of random numbers for production code.
pub(crate) fn source() -> Source {
    Source
}

/// Draws from the thread's generator if it has one, else from the system.
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

/// The interface of `rand` 0.9, which Keyward uses.
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

/// The interface of `rand` 0.10, which openraft uses.
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
