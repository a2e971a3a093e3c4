//! Lanes: sequences of request ids that make each request of a client repeatable.
//!
//! A lane is a random number with one request in flight and a rising sequence. A lane that is not
//! given back, because its request's outcome is open or its call was dropped, is never used again:
//! a copy of that request may still be in flight. The cluster may forget a lane that is idle here.
//! It then refuses the lane's next request, which was never sent before, so that request is sent
//! again on a new lane.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use keyward_core::clock::Deadline;
use keyward_core::random;
use keyward_core::types::RequestId;

/// The maximum number of idle lanes: as many as were ever in use at once, within reason. The
/// cluster remembers a lane for ten minutes whether it is kept here or not, and would have to
/// remember another one instead.
const MAX_IDLE: usize = 16 * 1024;

/// How long an idle lane is kept: half of the time that the cluster remembers it.
const KEEP_IDLE: Duration = Duration::from_secs(300);

/// The lanes of one client.
#[derive(Default)]
pub(super) struct Lanes {
    /// The idle lanes, the most recently used one last.
    idle: Mutex<Vec<Idle>>,
}

/// A lane that no request is using.
struct Idle {
    next: RequestId,
    until: Deadline,
}

impl Lanes {
    /// Takes a lane, with the id of its next request.
    pub(super) fn take(&self) -> Lane<'_> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        match idle.pop() {
            Some(Idle { next, until }) if !until.remaining().is_zero() => {
                Lane { lanes: self, next }
            }
            Some(_) => {
                // The lanes below it have been idle for even longer.
                idle.clear();
                self.begin()
            }
            None => self.begin(),
        }
    }

    /// Begins a lane that was never used.
    pub(super) fn begin(&self) -> Lane<'_> {
        Lane { lanes: self, next: RequestId { lane: random::number(), seq: 1 } }
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

    /// Returns the lane after its request was answered, for use by another.
    pub(super) fn give_back(self) {
        let Some(seq) = self.next.seq.checked_add(1) else { return };
        let mut idle = self.lanes.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            let next = RequestId { lane: self.next.lane, seq };
            idle.push(Idle { next, until: Deadline::after(KEEP_IDLE) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lane_that_was_idle_for_long_is_not_used_again() {
        let lanes = Lanes::default();
        let first = lanes.take();
        let id = first.id();
        first.give_back();
        tokio::time::advance(KEEP_IDLE / 2).await;
        let next = lanes.take();
        assert_eq!(next.id().lane, id.lane);
        next.give_back();
        tokio::time::advance(KEEP_IDLE).await;
        let fresh = lanes.take().id();
        assert_ne!(fresh.lane, id.lane);
        assert_eq!(fresh.seq, 1);
    }

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
