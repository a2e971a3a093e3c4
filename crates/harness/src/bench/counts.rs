//! The counters of a run: one shard for each thread, so that recording costs no more than an
//! addition.
//!
//! An operation belongs to the measured time if it was in flight at any moment of it: one that
//! began in the warm-up and was answered seconds later, or that was not answered when the time was
//! up, is exactly the one that must not be lost. A *rate* counts answers within the time only.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::target::Failure;

/// The longest time that is distinguished from longer ones, in microseconds.
const LONGEST_US: u64 = 120_000_000;

/// The significant digits of a recorded time.
const DIGITS: u8 = 3;

/// The kind of an operation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Taking a lock.
    Acquire,
    /// Renewing one.
    Renew,
    /// Reading one.
    Check,
    /// Releasing one.
    Release,
}

impl Operation {
    /// All of them, in the order of a lock's life.
    pub const ALL: [Self; 4] = [Self::Acquire, Self::Renew, Self::Check, Self::Release];

    /// The operation in one word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Acquire => "acquire",
            Self::Renew => "renew",
            Self::Check => "check",
            Self::Release => "release",
        }
    }
}

/// The measured time, on the run's clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Window {
    pub(super) open: Duration,
    pub(super) close: Duration,
}

/// One operation that has ended.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) operation: Operation,
    pub(super) from: Duration,
    pub(super) ended: Duration,
    pub(super) failure: Option<Failure>,
}

/// The results of the operations of one kind.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    /// The times of those that succeeded, in microseconds.
    pub(super) times: Histogram<u64>,
    /// Those of `times` that were answered within the window.
    pub(super) answered: u64,
    pub(super) refused: u64,
    pub(super) not_done: u64,
    pub(super) unknown: u64,
    /// The longest wait that ended with a failure that was no refusal.
    pub(super) slowest_failure: Duration,
    /// The text of the first failure that was no refusal.
    pub(super) first_failure: Option<String>,
}

impl Tally {
    pub(super) fn new() -> Self {
        let times = Histogram::new_with_bounds(1, LONGEST_US, DIGITS);
        Self {
            times: times.expect("the bounds are a valid range"),
            answered: 0,
            refused: 0,
            not_done: 0,
            unknown: 0,
            slowest_failure: Duration::ZERO,
            first_failure: None,
        }
    }

    /// Counts an operation.
    fn note(&mut self, sample: &Sample, within: bool) {
        let took = sample.ended.saturating_sub(sample.from);
        match &sample.failure {
            None => {
                self.times.saturating_record(micros(took));
                self.answered += u64::from(within);
            }
            Some(Failure::Refused) => self.refused += 1,
            Some(failure) => {
                match failure {
                    Failure::Unknown(_) => self.unknown += 1,
                    Failure::Unavailable(_) | Failure::Refused => self.not_done += 1,
                }
                self.slowest_failure = self.slowest_failure.max(took);
                self.first_failure.get_or_insert_with(|| failure.to_string());
            }
        }
    }

    /// Counts an operation that no client was free to begin, with the time that it had waited.
    pub(super) fn note_waiting(&mut self, waited: Duration) {
        self.times.saturating_record(micros(waited));
    }

    /// Adds another tally.
    pub(super) fn add(&mut self, other: &Self) {
        self.times.add(&other.times).expect("all histograms have the same bounds");
        self.answered += other.answered;
        self.refused += other.refused;
        self.not_done += other.not_done;
        self.unknown += other.unknown;
        self.slowest_failure = self.slowest_failure.max(other.slowest_failure);
        if self.first_failure.is_none() {
            self.first_failure.clone_from(&other.first_failure);
        }
    }

    fn clear(&mut self) {
        self.times.reset();
        self.answered = 0;
        self.refused = 0;
        self.not_done = 0;
        self.unknown = 0;
        self.slowest_failure = Duration::ZERO;
        self.first_failure = None;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.times.is_empty() && self.refused + self.not_done + self.unknown == 0
    }
}

/// A whole count: one tally for each operation, and hand-overs.
#[derive(Clone, Debug)]
pub(super) struct Counts {
    tallies: [Tally; Operation::ALL.len()],
    /// Acquisitions of a lock that another client had before, answered within the window.
    pub(super) handovers: u64,
}

impl Counts {
    pub(super) fn new() -> Self {
        Self { tallies: std::array::from_fn(|_| Tally::new()), handovers: 0 }
    }

    pub(super) fn of(&self, operation: Operation) -> &Tally {
        &self.tallies[operation as usize]
    }

    pub(super) fn of_mut(&mut self, operation: Operation) -> &mut Tally {
        &mut self.tallies[operation as usize]
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (tally, other) in self.tallies.iter_mut().zip(&other.tallies) {
            tally.add(other);
        }
        self.handovers += other.handovers;
    }

    fn clear(&mut self) {
        self.tallies.iter_mut().for_each(Tally::clear);
        self.handovers = 0;
    }
}

/// The records of one thread's clients.
#[derive(Debug)]
pub(super) struct Shard {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Operations of the window.
    total: Counts,
    /// Operations since the last drain, whatever the window.
    recent: Counts,
}

impl Shard {
    pub(super) fn new() -> Self {
        Self { inner: Mutex::new(Inner { total: Counts::new(), recent: Counts::new() }) }
    }

    /// Counts an operation that has ended. `handover` is whether another client had the lock
    /// before.
    pub(super) fn record(&self, window: Window, sample: &Sample, handover: bool) {
        let mut inner = self.lock();
        inner.recent.of_mut(sample.operation).note(sample, true);
        inner.recent.handovers += u64::from(handover);
        if sample.ended < window.open || sample.from >= window.close {
            return;
        }
        let within = sample.ended < window.close;
        inner.total.of_mut(sample.operation).note(sample, within);
        inner.total.handovers += u64::from(handover && within);
    }

    /// Adds the operations since the last call to `into`, and clears them.
    pub(super) fn drain_recent(&self, into: &mut Counts) {
        let mut inner = self.lock();
        into.add(&inner.recent);
        inner.recent.clear();
    }

    /// Adds the operations of the window to `into`.
    pub(super) fn add_total(&self, into: &mut Counts) {
        into.add(&self.lock().total);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // Counters are valid even if a thread panicked while it was adding.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    const WINDOW: Window = Window { open: ms(1000), close: ms(2000) };

    fn sample(from: u64, ended: u64, failure: Option<Failure>) -> Sample {
        Sample { operation: Operation::Acquire, from: ms(from), ended: ms(ended), failure }
    }

    /// The counts of one shard for these, as (times, answered, longest time in ms).
    fn counted(samples: &[(u64, u64)]) -> (u64, u64, u64) {
        let shard = Shard::new();
        for (from, ended) in samples {
            shard.record(WINDOW, &sample(*from, *ended, None), false);
        }
        let mut counts = Counts::new();
        shard.add_total(&mut counts);
        let tally = counts.of(Operation::Acquire);
        (tally.times.len(), tally.answered, tally.times.max() / 1000)
    }

    #[test]
    fn what_was_under_way_in_the_window_is_counted_and_nothing_else() {
        assert_eq!(counted(&[(0, 999), (2000, 2001)]), (0, 0, 0));
        assert_eq!(counted(&[(1000, 1010), (1990, 1999)]), (2, 2, 10));
        // A stall from the warm-up into the window, and one that outlasts it.
        assert_eq!(counted(&[(10, 1500)]), (1, 1, 1490));
        assert_eq!(counted(&[(1500, 7500)]), (1, 0, 6000));
    }

    #[test]
    fn failures_are_told_apart_and_are_no_times() {
        let shard = Shard::new();
        for failure in [
            Failure::Refused,
            Failure::Unknown("cut".to_owned()),
            Failure::Unavailable("no leader".to_owned()),
            Failure::Unavailable("busy".to_owned()),
        ] {
            shard.record(WINDOW, &sample(1000, 1700, Some(failure)), false);
        }
        let mut counts = Counts::new();
        shard.add_total(&mut counts);
        let tally = counts.of(Operation::Acquire);
        assert_eq!((tally.refused, tally.unknown, tally.not_done), (1, 1, 2));
        assert_eq!((tally.times.len(), tally.answered), (0, 0));
        assert_eq!(tally.slowest_failure, ms(700));
        assert_eq!(tally.first_failure.as_deref(), Some("may have been done: cut"));
        assert!(counts.of(Operation::Release).is_empty());
    }

    #[test]
    fn what_is_recent_is_given_once() {
        let shard = Shard::new();
        shard.record(WINDOW, &sample(0, 10, None), true);
        let mut first = Counts::new();
        shard.drain_recent(&mut first);
        assert_eq!((first.of(Operation::Acquire).answered, first.handovers), (1, 1));
        let mut second = Counts::new();
        shard.drain_recent(&mut second);
        assert!(second.of(Operation::Acquire).is_empty());
        assert_eq!(second.handovers, 0);
    }
}
