//! Waits for a condition with a deadline.
//!
//! Real processes do not report when they are done, so a condition is polled; a wait that has no
//! deadline, or that waits a fixed time and hopes, is never written.

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use keyward::clock::{Clock, SystemClock};

/// The polling interval: short enough that a measured time is good to a few hundredths of a second,
/// long enough that two cores are not busy with polling.
const POLL: Duration = Duration::from_millis(20);

/// Measures time on the test's own clock.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Duration);

impl Stopwatch {
    /// Starts at zero.
    pub fn start() -> Self {
        Self(SystemClock.raw())
    }

    /// A stopwatch that starts this much later: until then no time has passed on it.
    #[must_use]
    pub fn after(self, time: Duration) -> Self {
        Self(self.0 + time)
    }

    /// The time since the start.
    pub fn elapsed(&self) -> Duration {
        SystemClock.raw().saturating_sub(self.0)
    }
}

/// Polls `probe` until it returns a value.
///
/// # Panics
/// If `within` has passed first, with the probe's last error.
pub async fn eventually<T, E, F>(what: &str, within: Duration, mut probe: impl FnMut() -> F) -> T
where
    E: Display,
    F: Future<Output = Result<T, E>>,
{
    let watch = Stopwatch::start();
    loop {
        let last = match probe().await {
            Ok(value) => return value,
            Err(why) => why,
        };
        assert!(watch.elapsed() < within, "{what}: not within {within:?}; the last word: {last}");
        tokio::time::sleep(POLL).await;
    }
}

/// Polls `probe` until `time` has passed.
///
/// # Panics
/// As soon as the probe is false.
pub async fn throughout<F>(what: &str, time: Duration, mut probe: impl FnMut() -> F)
where
    F: Future<Output = bool>,
{
    let watch = Stopwatch::start();
    while watch.elapsed() < time {
        assert!(probe().await, "{what}: no longer so after {:?}", watch.elapsed());
        tokio::time::sleep(POLL).await;
    }
}
