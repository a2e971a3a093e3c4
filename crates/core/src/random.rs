//! The source of randomness: for names that must not coincide, and pauses that must not be in step.
//!
//! It has one place, so that a simulation can take all of it from a seed: [`install`] gives a thread
//! a generator of its own, and a thread without one draws from the system.

use std::cell::RefCell;
use std::ops::RangeInclusive;

use rand::distr::{Distribution, StandardUniform};
use rand::{Rng, RngCore};

/// A generator of numbers in place of the system's.
pub type Generator = Box<dyn FnMut() -> u64>;

thread_local! {
    static INSTALLED: RefCell<Option<Generator>> = const { RefCell::new(None) };
}

/// A guard: while it lives, the thread draws from the generator that was installed with it.
#[must_use = "the generator is removed when this is dropped"]
pub struct Installed(());

/// Lets the thread draw from this generator, which must not draw here itself, until the guard is
/// dropped.
pub fn install(generator: impl FnMut() -> u64 + 'static) -> Installed {
    INSTALLED.set(Some(Box::new(generator)));
    Installed(())
}

impl Drop for Installed {
    fn drop(&mut self) {
        INSTALLED.set(None);
    }
}

/// The next number of the thread's generator, or of the system.
fn next() -> u64 {
    INSTALLED.with_borrow_mut(|generator| match generator {
        None => rand::rng().next_u64(),
        Some(generator) => generator(),
    })
}

/// The numbers of the thread.
struct Source;

impl RngCore for Source {
    fn next_u32(&mut self) -> u32 {
        (next() >> 32) as u32
    }

    fn next_u64(&mut self) -> u64 {
        next()
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&next().to_le_bytes()[..chunk.len()]);
        }
    }
}

/// A number that cannot be guessed.
pub fn number<T>() -> T
where
    StandardUniform: Distribution<T>,
{
    Source.random()
}

/// Fills the bytes with such numbers.
pub fn fill(bytes: &mut [u8]) {
    Source.fill_bytes(bytes);
}

/// A random factor in this range, by which a time is stretched or cut.
pub fn factor(range: RangeInclusive<f64>) -> f64 {
    Source.random_range(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_installed_generator_gives_every_number_until_its_guard_is_dropped() {
        let drawn = || (number::<u64>(), factor(0.5..=1.0).to_bits(), number::<u128>());
        let counter = || {
            let mut last = 0;
            install(move || {
                last += 1;
                last
            })
        };
        let installed = counter();
        let first = drawn();
        assert_eq!(first.0, 1);
        let mut bytes = [0; 9];
        fill(&mut bytes);
        assert_eq!(bytes, [5, 0, 0, 0, 0, 0, 0, 0, 6]);
        drop(installed);
        assert_ne!(number::<u128>(), number());
        let _installed = counter();
        assert_eq!(drawn(), first);
    }
}
