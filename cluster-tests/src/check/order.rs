//! Brings operations that arrive in the order in which they ended into the order of the log, in
//! memory for only as many as the slowest answer is late.
//!
//! Whatever ended before the slowest possible answer to an operation was even asked for must
//! precede it in the log. So once an operation has arrived that ended more than the longest latency
//! after another, nothing that precedes that other can still be on its way: unless the service broke
//! the order of real time, which is then plain to see.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use keyward::types::DecidedAt;

use crate::history::{Answer, Operation, Outcome};

/// Holds back what may still be preceded.
#[derive(Debug)]
pub(super) struct Order {
    latency: u64,
    waiting: BinaryHeap<Reverse<Placed>>,
    /// What ended lately, and where it was decided.
    recent: VecDeque<(u64, DecidedAt)>,
    /// Everything up to here has been let go; the time at which the operation that showed it ended.
    passed: Option<(DecidedAt, u64)>,
    /// When the last one that has arrived ended.
    now: u64,
}

#[derive(Debug)]
struct Placed {
    place: DecidedAt,
    operation: Arc<Operation>,
}

impl Placed {
    fn key(&self) -> (DecidedAt, (u8, Reverse<u64>), u64, u64) {
        let returned = self.operation.returned.unwrap_or(u64::MAX);
        (self.place, shown(&self.operation), returned, self.operation.id)
    }
}

/// Reads at one place come in the order in which time passes, whichever returned first: the more is
/// left of a grant, the earlier it was looked at.
fn shown(operation: &Operation) -> (u8, Reverse<u64>) {
    match &operation.outcome {
        Outcome::Ok(Answer::Record(Some(holder))) => {
            (u8::from(holder.expired), Reverse(holder.expires_in_ms))
        }
        Outcome::Ok(Answer::Record(None)) => (2, Reverse(0)),
        Outcome::Ok(_) | Outcome::Refused(_) | Outcome::Unavailable | Outcome::Unknown => {
            (0, Reverse(0))
        }
    }
}

impl PartialEq for Placed {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Placed {}

impl PartialOrd for Placed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Placed {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl Order {
    pub(super) fn new(latency: u64) -> Self {
        let (waiting, recent) = (BinaryHeap::new(), VecDeque::new());
        Self { latency, waiting, recent, passed: None, now: 0 }
    }

    /// Takes an operation.
    ///
    /// # Errors
    /// The operation, and when another ended that comes later in the log and was let go already.
    pub(super) fn push(
        &mut self,
        place: DecidedAt,
        operation: Arc<Operation>,
    ) -> Result<(), (Arc<Operation>, u64)> {
        if let Some((passed, returned)) = self.passed
            && place < passed
        {
            return Err((operation, returned));
        }
        if let Some(returned) = operation.returned {
            self.now = returned;
            self.recent.push_back((returned, place));
            while let Some(&(earlier, place)) = self.recent.front()
                && earlier.saturating_add(self.latency) < returned
            {
                self.recent.pop_front();
                if self.passed.is_none_or(|(passed, _)| passed < place) {
                    self.passed = Some((place, earlier));
                }
            }
        }
        self.waiting.push(Reverse(Placed { place, operation }));
        Ok(())
    }

    /// The next operation whose turn has come.
    pub(super) fn next(&mut self) -> Option<(DecidedAt, Arc<Operation>)> {
        let Reverse(first) = self.waiting.peek()?;
        // At one place are any number of reads, as long as nothing is written. One that was decided
        // earlier was asked for before this one had ended.
        let alone = first
            .operation
            .returned
            .is_none_or(|returned| returned.saturating_add(self.latency) < self.now);
        let due = self
            .passed
            .is_some_and(|(passed, _)| first.place < passed || (first.place == passed && alone));
        if due { self.last() } else { None }
    }

    /// The next operation, once no more arrive.
    pub(super) fn last(&mut self) -> Option<(DecidedAt, Arc<Operation>)> {
        self.waiting.pop().map(|Reverse(Placed { place, operation })| (place, operation))
    }

    /// How many are held back.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }
}
