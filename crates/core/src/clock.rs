//! The only code that reads clocks.
//!
//! There are two clocks, both monotonic, neither of them the wall clock; that one is read for the
//! expiry of credentials alone ([`credential_time`]). A leader stamps by `raw`:
//! it has the rate of the hardware, which no time daemon slews. A holder counts its grant by
//! `boottime`: it goes on while the machine sleeps, as the grant does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use rustix::time::{ClockId, Timespec, clock_gettime};

/// Reads time as a duration since an origin of the clock's own; only differences mean anything.
pub trait Clock: Send + Sync + 'static {
    /// `CLOCK_MONOTONIC_RAW`: not slewed, stops while the machine sleeps.
    fn raw(&self) -> Duration;
    /// `CLOCK_BOOTTIME`: goes on while the machine sleeps.
    fn boottime(&self) -> Duration;
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn raw(&self) -> Duration {
        (**self).raw()
    }

    fn boottime(&self) -> Duration {
        (**self).boottime()
    }
}

/// The machine's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn raw(&self) -> Duration {
        since_origin(clock_gettime(ClockId::MonotonicRaw))
    }

    fn boottime(&self) -> Duration {
        since_origin(clock_gettime(ClockId::Boottime))
    }
}

/// The wall clock of this machine, for the expiry of credentials and for nothing else: it may be
/// wrong, and it may jump. A node whose wall clock is ahead refuses tokens too early, one whose clock
/// is behind accepts them too long; no lock is ever judged by it.
#[derive(Clone, Debug, Default)]
pub struct CredentialClock {
    /// The time that a test has set.
    set: Option<Arc<AtomicU64>>,
}

impl CredentialClock {
    /// A clock that shows this time until it is set to another; clones are set together.
    pub fn fixed(seconds: u64) -> Self {
        Self { set: Some(Arc::new(AtomicU64::new(seconds))) }
    }

    /// Sets a clock that was made by [`CredentialClock::fixed`].
    pub fn set(&self, seconds: u64) {
        if let Some(set) = &self.set {
            set.store(seconds, Ordering::SeqCst);
        }
    }

    /// The seconds since 1970. A machine that believes to be before that is at 0.
    pub fn seconds(&self) -> u64 {
        match &self.set {
            Some(set) => set.load(Ordering::SeqCst),
            None => credential_time().as_secs(),
        }
    }
}

/// The wall time since 1970, by which certificates and other credentials expire; zero if the clock is
/// set to before that. It may step in both directions, so nothing about a lock may depend on it.
pub fn credential_time() -> Duration {
    let time = clock_gettime(ClockId::Realtime);
    u64::try_from(time.tv_sec).map_or(Duration::ZERO, Duration::from_secs)
}

fn since_origin(time: Timespec) -> Duration {
    // Monotonic clocks count up from boot: neither part is ever negative.
    let seconds = u64::try_from(time.tv_sec).expect("monotonic seconds are not negative");
    let nanoseconds = u32::try_from(time.tv_nsec).expect("nanoseconds are below 10^9");
    Duration::new(seconds, nanoseconds)
}

/// A clock that advances only when a method advances it; clones share one time.
#[derive(Clone, Debug, Default)]
pub struct ManualClock {
    both: Arc<AtomicU64>,
    raw_ahead: Arc<AtomicU64>,
    boottime_ahead: Arc<AtomicU64>,
}

impl ManualClock {
    /// Advances both clocks.
    pub fn advance(&self, by: Duration) {
        Self::add(&self.both, by);
    }

    /// Advances only the raw clock, as a fault of the machine would.
    pub fn advance_raw(&self, by: Duration) {
        Self::add(&self.raw_ahead, by);
    }

    /// Advances only the boot time clock, as happens while a machine sleeps.
    pub fn advance_boottime(&self, by: Duration) {
        Self::add(&self.boottime_ahead, by);
    }

    fn add(nanoseconds: &AtomicU64, by: Duration) {
        let by = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        nanoseconds.fetch_add(by, Ordering::SeqCst);
    }

    fn sum(&self, ahead: &AtomicU64) -> Duration {
        let nanoseconds = |of: &AtomicU64| Duration::from_nanos(of.load(Ordering::SeqCst));
        nanoseconds(&self.both) + nanoseconds(ahead)
    }
}

impl Clock for ManualClock {
    fn raw(&self) -> Duration {
        self.sum(&self.raw_ahead)
    }

    fn boottime(&self) -> Duration {
        self.sum(&self.boottime_ahead)
    }
}

/// The time at which a call times out: a bound on waiting, never a statement about a lock.
///
/// It runs on the timers of the runtime, so that a test that pauses them pauses it, too.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    at: tokio::time::Instant,
}

impl Deadline {
    /// The deadline that is reached after this long.
    #[allow(clippy::disallowed_methods, reason = "this is the wrapper that others use")]
    pub fn after(timeout: Duration) -> Self {
        let now = tokio::time::Instant::now();
        // A deadline too far away to be represented becomes one in a year, which is never reached.
        let year = Duration::from_secs(365 * 24 * 60 * 60);
        Self { at: now.checked_add(timeout).unwrap_or(now + year) }
    }

    /// The remaining time; zero once the deadline is reached.
    #[allow(clippy::disallowed_methods, reason = "this is the wrapper that others use")]
    pub fn remaining(&self) -> Duration {
        self.at.saturating_duration_since(tokio::time::Instant::now())
    }

    /// Waits for the future until the deadline; `None` drops the future.
    // Not an async function: that would have room for the future twice, and these nest.
    pub fn bound<F: Future>(&self, future: F) -> impl Future<Output = Option<F::Output>> + use<F> {
        tokio::time::timeout_at(self.at, future).map(Result::ok)
    }
}

/// Measures elapsed time: for reports, never for a statement about a lock.
///
/// It runs on the timers of the runtime, as [`Deadline`] does.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    from: tokio::time::Instant,
}

impl Stopwatch {
    /// Begins now.
    #[allow(clippy::disallowed_methods, reason = "this is the wrapper that others use")]
    pub fn start() -> Self {
        Self { from: tokio::time::Instant::now() }
    }

    /// The time since it began.
    pub fn elapsed(&self) -> Duration {
        self.from.elapsed()
    }
}

/// The machine's clocks, advanced by tests: `keyward serve --debug-clock` runs on it, so that the
/// conformance suite need not wait for locks to expire. Clones share one offset.
#[derive(Clone, Debug, Default)]
pub struct OffsetClock {
    offset: ManualClock,
}

impl OffsetClock {
    /// Advances both clocks, beyond their own rate.
    pub fn advance(&self, by: Duration) {
        self.offset.advance(by);
    }

    /// Advances only the raw clock, as a fault of the machine would.
    pub fn advance_raw(&self, by: Duration) {
        self.offset.advance_raw(by);
    }
}

impl Clock for OffsetClock {
    fn raw(&self) -> Duration {
        SystemClock.raw() + self.offset.raw()
    }

    fn boottime(&self) -> Duration {
        SystemClock.boottime() + self.offset.boottime()
    }
}

/// The machine's clocks, too fast or too slow by a fixed share: `keyward serve --debug-clock-rate`
/// runs on it, so that the bound on clock rates can be tested with real processes.
#[derive(Clone, Copy, Debug)]
pub struct SkewedClock {
    ppm: i64,
    raw: Duration,
    boottime: Duration,
}

impl SkewedClock {
    /// A clock that runs faster than the machine's by `ppm` parts per million from now on; slower
    /// if that is negative.
    pub fn new(ppm: i64) -> Self {
        Self { ppm, raw: SystemClock.raw(), boottime: SystemClock.boottime() }
    }

    fn skew(&self, origin: Duration, now: Duration) -> Duration {
        let since = now.saturating_sub(origin);
        // In nanoseconds before the division: a rate that is applied in steps would turn time back.
        let by = since.as_nanos() * u128::from(self.ppm.unsigned_abs()) / 1_000_000;
        let by = Duration::from_nanos(u64::try_from(by).unwrap_or(u64::MAX));
        if self.ppm < 0 { now.saturating_sub(by) } else { now + by }
    }
}

impl Clock for SkewedClock {
    fn raw(&self) -> Duration {
        self.skew(self.raw, SystemClock.raw())
    }

    fn boottime(&self) -> Duration {
        self.skew(self.boottime, SystemClock.boottime())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skewed_clock_gains_or_loses_its_share() {
        let origin = Duration::from_secs(50);
        let now = Duration::from_secs(150);
        let clock = |ppm| SkewedClock { ppm, raw: origin, boottime: origin };
        assert_eq!(clock(100_000).skew(origin, now), Duration::from_secs(160));
        assert_eq!(clock(-100_000).skew(origin, now), Duration::from_secs(140));
        let readings = (0..3_000_000).step_by(777).map(|nanos| now + Duration::from_nanos(nanos));
        for ppm in [-100_000, -1, 1, 100_000] {
            let skewed = readings.clone().map(|now| clock(ppm).skew(origin, now));
            assert!(skewed.is_sorted(), "time does not go backwards at {ppm} ppm");
        }
    }
}
