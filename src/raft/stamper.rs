//! How a leader tells the cluster clock.
//!
//! A stamp is `base + (1 - ρ) · (raw time since)`, where `base` is the cluster clock at the moment
//! the leader's own blank entry of the term was applied. By then every stamp of earlier terms has
//! been applied too, so the clock goes on from where they left it; and however much faster than
//! real time this machine's clock runs, within ρ, a stamp never runs ahead of real time. No grant
//! ends early, then; an election only makes it longer.

use std::sync::Mutex;
use std::time::Duration;

use crate::clock::Clock;
use crate::lock::{ClusterTime, Stamp};
use crate::planted::{self, Bug};

/// One, in parts per million.
const MILLION: u128 = 1_000_000;

/// Stamps for one term.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stamper {
    term: u64,
    base: ClusterTime,
    raw_base: Duration,
    rho_ppm: u32,
}

impl Stamper {
    /// Begins at the cluster time `base`, which is now.
    pub(crate) fn new(term: u64, base: ClusterTime, rho_ppm: u32, clock: &dyn Clock) -> Self {
        Self { term, base, raw_base: clock.raw(), rho_ppm }
    }

    /// What the cluster clock should say now.
    pub(crate) fn now(self, clock: &dyn Clock) -> Stamp {
        // A raw clock never goes back; should one do so, time stands still rather than being taken
        // away from a holder or added to the clock.
        #[cfg(feature = "planted-bugs")]
        if planted::active(Bug::WallClockStamps) {
            let time = ClusterTime::default().saturating_add(planted::wall_clock());
            return Stamp { term: self.term, time };
        }
        let since = clock.raw().saturating_sub(self.raw_base);
        let time = self.base.saturating_add(slowed(since, self.rho_ppm));
        Stamp { term: self.term, time }
    }

    /// How long on this machine's clock until the cluster clock says `time`; rounded up.
    pub(crate) fn until(self, time: ClusterTime, clock: &dyn Clock) -> Duration {
        real_time_for(time.since(self.now(clock).time), self.rho_ppm)
    }
}

/// How much the cluster clock moves on in `real` time; rounded down.
fn slowed(real: Duration, rho_ppm: u32) -> Duration {
    let micros = real.as_micros() * (MILLION - u128::from(rho_ppm).min(MILLION - 1)) / MILLION;
    Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}

/// How much real time the cluster clock needs to move on by `cluster` time; rounded up.
pub(crate) fn real_time_for(cluster: Duration, rho_ppm: u32) -> Duration {
    let rate = MILLION - u128::from(rho_ppm).min(MILLION - 1);
    let micros = (cluster.as_micros() * MILLION).div_ceil(rate);
    Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}

/// The stamper of the newest term whose blank entry was applied here.
#[derive(Debug, Default)]
pub(crate) struct CurrentStamper(Mutex<Option<Stamper>>);

impl CurrentStamper {
    /// Begins a term, unless it was begun already: a base never moves.
    pub(crate) fn begin(&self, stamper: Stamper) {
        let mut current = self.lock();
        if planted::active(Bug::OldBaseReused)
            && let Some(old) = current.as_mut().filter(|old| old.term < stamper.term)
        {
            old.term = stamper.term;
        }
        if current.is_none_or(|current| current.term < stamper.term) {
            *current = Some(stamper);
        }
    }

    /// Takes another node's word for what time it is, which no node may.
    #[cfg(feature = "planted-bugs")]
    pub(crate) fn believe(&self, time: ClusterTime) {
        if let Some(current) = self.lock().as_mut() {
            current.base = current.base.max(time);
        }
    }

    /// The stamper of `term`, if its blank entry was applied and no later one.
    pub(crate) fn of_term(&self, term: u64) -> Option<Stamper> {
        self.lock().filter(|stamper| stamper.term == term)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Stamper>> {
        self.0.lock().expect("nothing panics while it holds the stamper")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    #[test]
    fn a_stamp_runs_slower_than_the_clock_by_rho() {
        let clock = ManualClock::default();
        clock.advance(Duration::from_secs(7));
        let stamper = Stamper::new(3, ClusterTime(500), 10_000, &clock);
        clock.advance(Duration::from_secs(100));
        let stamp = stamper.now(&clock);
        assert_eq!(stamp, Stamp { term: 3, time: ClusterTime(500 + 99_000_000) });
    }

    #[test]
    fn waiting_until_a_time_is_enough_for_the_stamp_to_reach_it() {
        let clock = ManualClock::default();
        let stamper = Stamper::new(1, ClusterTime(0), 12_345, &clock);
        for micros in [1, 2, 99, 1_000_003, 7_777_777] {
            let deadline = ClusterTime(stamper.now(&clock).time.0 + micros);
            clock.advance(stamper.until(deadline, &clock));
            assert!(stamper.now(&clock).time >= deadline);
        }
    }

    #[test]
    fn the_base_of_a_term_never_moves_and_an_older_term_has_no_stamper() {
        let clock = ManualClock::default();
        let current = CurrentStamper::default();
        let first = Stamper::new(2, ClusterTime(10), 0, &clock);
        current.begin(first);
        current.begin(Stamper::new(2, ClusterTime(99), 0, &clock));
        assert_eq!(current.of_term(2), Some(first));
        current.begin(Stamper::new(3, ClusterTime(20), 0, &clock));
        current.begin(first);
        assert_eq!(current.of_term(2), None);
        assert!(current.of_term(3).is_some());
    }
}
