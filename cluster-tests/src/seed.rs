//! The seed of a run's choices.
//!
//! Every random choice of the tests comes from here. The seed is printed, and `KEYWARD_SEED=N`
//! replays its choices; the behaviour of the kernel and the network is not replayed.

use rand::SeedableRng;
use rand::rngs::StdRng;

/// A generator from `KEYWARD_SEED`, or from a new seed; `name` is printed beside it.
///
/// # Panics
/// If `KEYWARD_SEED` is not a number.
pub fn seeded(name: &str) -> StdRng {
    let seed = std::env::var("KEYWARD_SEED")
        .map_or_else(|_| rand::random(), |text| text.parse().expect("KEYWARD_SEED is a number"));
    println!("{name}: KEYWARD_SEED={seed}");
    StdRng::seed_from_u64(seed)
}
