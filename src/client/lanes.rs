//! Lanes: what makes each request of a client repeatable.
//!
//! A lane is a random number with one request in flight and a rising sequence. A lane that is not
//! given back, because its request's outcome is open or its call was dropped, is never used again:
//! a copy of that request may still be under way.

use std::sync::{Mutex, PoisonError};

use crate::random;
use crate::types::RequestId;

/// How many idle lanes are kept: as many as ever were in use at once, within reason. The cluster
/// remembers a lane for ten minutes whether it is kept here or not, and would have to remember
/// another one instead.
const MAX_IDLE: usize = 16 * 1024;

/// The lanes of one client.
#[derive(Default)]
pub(super) struct Lanes {
    idle: Mutex<Vec<RequestId>>,
}

impl Lanes {
    /// A lane with the id of its next request.
    pub(super) fn take(&self) -> Lane<'_> {
        let reused = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let next = reused.unwrap_or_else(|| RequestId { lane: random::number(), seq: 1 });
        Lane { lanes: self, next }
    }
}

/// A lane while its one request is in flight.
pub(super) struct Lane<'a> {
    lanes: &'a Lanes,
    next: RequestId,
}

impl Lane<'_> {
    /// The id of the request.
    pub(super) fn id(&self) -> RequestId {
        self.next
    }

    /// The request was answered: the lane may be used for another.
    pub(super) fn give_back(self) {
        let Some(seq) = self.next.seq.checked_add(1) else { return };
        let mut idle = self.lanes.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push(RequestId { lane: self.next.lane, seq });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answered_lane_goes_on_and_an_open_one_is_retired() {
        let lanes = Lanes::default();
        let first = lanes.take();
        let id = first.id();
        first.give_back();
        assert_eq!(lanes.take().id(), RequestId { lane: id.lane, seq: 2 });
        assert_ne!(lanes.take().id().lane, id.lane, "a lane with an open outcome is retired");
    }
}
