//! The clocks of simulated machines, each with a rate of its own.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use keyward::clock::Clock;

/// One, in parts per million.
const MILLION: u128 = 1_000_000;

/// The true time of the simulation: how long it has been running. The clocks of machines run slower
/// or faster than it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TrueTime(tokio::time::Instant);

impl TrueTime {
    /// Begins now. The runtime's clock is paused: it advances only when nothing is left to do.
    #[allow(clippy::disallowed_methods, reason = "this is the clock that others use")]
    pub(crate) fn begin() -> Self {
        Self(tokio::time::Instant::now())
    }

    #[allow(clippy::disallowed_methods, reason = "this is the clock that others use")]
    pub(crate) fn now(self) -> Duration {
        tokio::time::Instant::now().saturating_duration_since(self.0)
    }
}

/// A machine's clocks. Clones share them.
#[derive(Clone)]
pub(crate) struct MachineClock {
    time: TrueTime,
    anchor: Arc<Mutex<Anchor>>,
}

/// The reading of the clock at some true time, and its rate since then.
struct Anchor {
    at: Duration,
    stood: Duration,
    rate_ppm: u32,
}

impl MachineClock {
    /// A clock that reads `stood` now.
    pub(crate) fn new(time: TrueTime, stood: Duration, rate_ppm: u32) -> Self {
        let anchor = Anchor { at: time.now(), stood, rate_ppm };
        Self { time, anchor: Arc::new(Mutex::new(anchor)) }
    }

    /// Sets the reading of the clock, as a start of the machine does.
    pub(crate) fn stand_at(&self, stood: Duration) {
        let mut anchor = self.anchor.lock().unwrap_or_else(PoisonError::into_inner);
        anchor.at = self.time.now();
        anchor.stood = stood;
    }

    /// Sets the rate of the clock, in parts per million of the true time.
    pub(crate) fn set_rate(&self, rate_ppm: u32) {
        let (at, stood) = (self.time.now(), self.raw());
        *self.anchor.lock().unwrap_or_else(PoisonError::into_inner) =
            Anchor { at, stood, rate_ppm };
    }
}

impl Clock for MachineClock {
    fn raw(&self) -> Duration {
        let anchor = self.anchor.lock().unwrap_or_else(PoisonError::into_inner);
        let since = self.time.now().saturating_sub(anchor.at);
        let nanos = since.as_nanos() * u128::from(anchor.rate_ppm) / MILLION;
        anchor.stood + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn boottime(&self) -> Duration {
        self.raw()
    }
}
