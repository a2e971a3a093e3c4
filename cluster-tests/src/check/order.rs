//! Sorts operations that arrive in the order in which they ended into the order of the log. It
//! keeps only as many in memory as the slowest answer makes necessary.
//!
//! An operation that ended more than the longest latency after another was invoked after that one
//! had ended, and so must follow it in the log. So once such an operation has arrived, nothing that
//! precedes the other can still arrive: unless the service broke the order of real time, which is
//! then plain to see.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use keyward::types::DecidedAt;

use crate::history::{Answer, Operation, Outcome};

/// Holds operations back while others may still precede them.
#[derive(Debug)]
pub(super) struct Order {
    latency: u64,
    waiting: BinaryHeap<Reverse<Placed>>,
    /// The operations that ended lately, with their places in the log.
    recent: VecDeque<(u64, DecidedAt)>,
    /// The place up to which everything has been released, and the time at which the operation
    /// there ended.
    passed: Option<(DecidedAt, u64)>,
    /// The time at which the last arrived operation ended.
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

/// Orders reads at one place by the time that their answers show, whichever returned first: the
/// more is left of a grant, the earlier it was read.
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

    /// Adds an operation.
    ///
    /// # Errors
    /// The operation, and the end of another one that comes later in the log and was already
    /// released.
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

    /// The next operation that nothing can precede any more.
    pub(super) fn next(&mut self) -> Option<(DecidedAt, Arc<Operation>)> {
        let Reverse(first) = self.waiting.peek()?;
        // One place can have any number of reads, if nothing is written. A read that was decided
        // earlier was requested before this one had ended.
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

    /// The number of operations held back.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }
}
