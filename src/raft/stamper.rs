//! The leader's cluster clock.
//!
//! A stamp is `base + (1 - ρ) · (raw time since)`, where `base` is the cluster clock at the moment
//! the leader's own blank entry of the term was applied. By then every stamp of earlier terms has
//! been applied, too, so the clock continues from there. However much faster than real time this
//! machine's clock runs, within ρ, a stamp never runs ahead of real time. So no grant ends early;
//! an election only makes it longer.
//!
//! A jump of the raw clock would end all grants at once, and advance the cluster clock for ever. So
//! before each stamp it is compared with the boot time clock; see [`Watch`].

use std::sync::Mutex;
use std::time::Duration;

use crate::clock::Clock;
use crate::lock::{ClusterTime, Stamp};

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
    /// Creates a stamper whose base is the current cluster time `base`.
    pub(crate) fn new(term: u64, base: ClusterTime, rho_ppm: u32, clock: &dyn Clock) -> Self {
        Self { term, base, raw_base: clock.raw(), rho_ppm }
    }

    /// A stamper that continues now from this one's time when the raw clock stood at `agreed`.
    fn resumed(self, agreed: Duration, clock: &dyn Clock) -> Self {
        let since = agreed.saturating_sub(self.raw_base);
        let base = self.base.saturating_add(slowed(since, self.rho_ppm));
        Self { base, raw_base: clock.raw(), ..self }
    }

    /// The cluster clock's current time, as a stamp.
    pub(crate) fn now(self, clock: &dyn Clock) -> Stamp {
        // A raw clock never goes back; if one did, the cluster clock would stand still: no time is
        // taken from a holder or added to the clock.
        let since = clock.raw().saturating_sub(self.raw_base);
        let time = self.base.saturating_add(slowed(since, self.rho_ppm));
        Stamp { term: self.term, time }
    }

    /// The time on this machine's clock until the cluster clock reaches `time`; rounded up.
    pub(crate) fn until(self, time: ClusterTime, clock: &dyn Clock) -> Duration {
        real_time_for(time.since(self.now(clock).time), self.rho_ppm)
    }
}

/// The time by which the cluster clock advances in `real` time; rounded down.
fn slowed(real: Duration, rho_ppm: u32) -> Duration {
    let micros = real.as_micros() * (MILLION - u128::from(rho_ppm).min(MILLION - 1)) / MILLION;
    Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}

/// The real time that the cluster clock needs to advance by `cluster` time; rounded up.
pub(crate) fn real_time_for(cluster: Duration, rho_ppm: u32) -> Duration {
    let rate = MILLION - u128::from(rho_ppm).min(MILLION - 1);
    let micros = (cluster.as_micros() * MILLION).div_ceil(rate);
    Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}

/// The difference that the clocks may have regardless of the elapsed time: a small jump ends no
/// lock by much.
const SLACK: Duration = Duration::from_secs(1);

/// The additional difference as a share of the elapsed time: one in twenty. A time daemon slews the
/// boot time clock by up to one in twelve, but never for long.
const SHARE: u32 = 20;

/// The time for which they are compared from one reading on: a share of hours would be minutes.
const WINDOW: Duration = Duration::from_secs(30);

/// Compares a leader's raw clock with its boot time clock.
#[derive(Clone, Copy, Debug)]
struct Watch {
    /// Both clocks at the start of the comparison.
    raw: Duration,
    boottime: Duration,
    /// The raw clock when the two were last found to agree.
    agreed: Duration,
}

/// The advances of two clocks that should have been equal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Apart {
    pub(crate) raw: Duration,
    pub(crate) boottime: Duration,
}

impl Watch {
    fn begin(clock: &dyn Clock) -> Self {
        let (raw, boottime) = (clock.raw(), clock.boottime());
        Self { raw, boottime, agreed: raw }
    }

    /// Compares both clocks, a second time if they seem to differ, because this thread may have
    /// been suspended between the two readings.
    fn look(&mut self, clock: &dyn Clock) -> Result<(), Apart> {
        self.compare(clock).or_else(|_| self.compare(clock))
    }

    fn compare(&mut self, clock: &dyn Clock) -> Result<(), Apart> {
        let now = Self::begin(clock);
        let raw = now.raw.saturating_sub(self.raw);
        let boottime = now.boottime.saturating_sub(self.boottime);
        if raw.abs_diff(boottime) > SLACK + raw.min(boottime) / SHARE {
            return Err(Apart { raw, boottime });
        }
        if raw >= WINDOW {
            *self = now;
        }
        self.agreed = now.raw;
        Ok(())
    }
}

/// The stamper of the newest term whose blank entry was applied here.
#[derive(Debug, Default)]
pub(crate) struct CurrentStamper(Mutex<Option<Current>>);

#[derive(Debug)]
struct Current {
    stamper: Stamper,
    watch: Watch,
}

impl CurrentStamper {
    /// Begins a term, unless it was begun already: the base of a term is not replaced.
    pub(crate) fn begin(&self, stamper: Stamper, clock: &dyn Clock) {
        let mut current = self.lock();
        if current.as_ref().is_none_or(|current| current.stamper.term < stamper.term) {
            *current = Some(Current { stamper, watch: Watch::begin(clock) });
        }
    }

    /// The stamper of `term`, if its blank entry was applied and no later one. If the clocks have
    /// diverged, that is reported once: the time since they last agreed is ignored, and the stamper
    /// continues from that point.
    pub(crate) fn of_term(&self, term: u64, clock: &dyn Clock) -> Option<(Stamper, Option<Apart>)> {
        let mut current = self.lock();
        let current = current.as_mut().filter(|current| current.stamper.term == term)?;
        let apart = current.watch.look(clock).err();
        if apart.is_some() {
            current.stamper = current.stamper.resumed(current.watch.agreed, clock);
            current.watch = Watch::begin(clock);
        }
        Some((current.stamper, apart))
    }

    /// Whether this node may stamp in `term`.
    pub(crate) fn has_begun(&self, term: u64) -> bool {
        self.lock().as_ref().is_some_and(|current| current.stamper.term == term)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Current>> {
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
        current.begin(first, &clock);
        current.begin(Stamper::new(2, ClusterTime(99), 0, &clock), &clock);
        assert_eq!(current.of_term(2, &clock), Some((first, None)));
        current.begin(Stamper::new(3, ClusterTime(20), 0, &clock), &clock);
        current.begin(first, &clock);
        assert_eq!(current.of_term(2, &clock), None);
        assert!(current.of_term(3, &clock).is_some());
    }

    /// A leader that gets its stamper every second: its last stamp, and the reported differences.
    fn stamps(clock: &ManualClock, current: &CurrentStamper, seconds: u64) -> (u64, Vec<Apart>) {
        let mut aparts = Vec::new();
        let mut time = 0;
        for _ in 0..seconds {
            clock.advance(Duration::from_secs(1));
            let (stamper, apart) = current.of_term(1, clock).unwrap();
            aparts.extend(apart);
            let stamp = stamper.now(clock).time.0;
            assert!(stamp >= time, "the cluster clock goes back");
            time = stamp;
        }
        (time / 1_000_000, aparts)
    }

    fn leading(clock: &ManualClock) -> CurrentStamper {
        let current = CurrentStamper::default();
        current.begin(Stamper::new(1, ClusterTime(0), 0, clock), clock);
        current
    }

    #[test]
    fn a_jump_of_the_raw_clock_moves_no_stamp_and_is_said_once() {
        let clock = ManualClock::default();
        let current = leading(&clock);
        assert_eq!(stamps(&clock, &current, 100), (100, vec![]));
        let hour = Duration::from_secs(3600);
        clock.advance_raw(hour);
        let (time, aparts) = stamps(&clock, &current, 100);
        assert_eq!(time, 199, "but for the second in which it jumped");
        let [Apart { raw, boottime }] = aparts[..] else { panic!("said once: {aparts:?}") };
        assert_eq!(raw, boottime + hour);
    }

    #[test]
    fn a_machine_that_slept_goes_on_from_before() {
        let clock = ManualClock::default();
        let current = leading(&clock);
        stamps(&clock, &current, 100);
        clock.advance_boottime(Duration::from_secs(3600));
        let (time, aparts) = stamps(&clock, &current, 100);
        assert_eq!((time, aparts.len()), (199, 1));
    }

    #[test]
    fn a_raw_clock_that_runs_much_too_fast_is_found_again_and_again() {
        let clock = ManualClock::default();
        let current = leading(&clock);
        let mut last = 0;
        let mut said = 0;
        for _ in 0..600 {
            clock.advance_raw(Duration::from_millis(500));
            let (time, aparts) = stamps(&clock, &current, 1);
            said += aparts.len();
            last = time;
        }
        assert!(said > 100, "{said}");
        assert!(last <= 600, "stamped {last} s of 600 s on a clock that gains half");
    }

    #[test]
    fn clocks_that_are_a_little_apart_are_believed_however_long_the_term() {
        let clock = ManualClock::default();
        let current = leading(&clock);
        for _ in 0..5000 {
            clock.advance_raw(Duration::from_millis(40));
            assert_eq!(stamps(&clock, &current, 1).1, []);
        }
        clock.advance_raw(Duration::from_secs(60));
        assert_eq!(stamps(&clock, &current, 1).1.len(), 1, "a share of hours would be minutes");
    }
}
