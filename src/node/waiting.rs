//! Waiting on this node for the end of a place in a queue.
//!
//! The request was decided like any other, and its answer is its place. From then on it costs
//! neither an admission permit nor a task: it is a waiter beside the state machine
//! ([`crate::raft::waiters`]), which is told when this node applies the entry in which the place
//! ends. So it makes no difference who leads meanwhile.

use std::time::Duration;

use crate::api::MAX_TIMEOUT;
use crate::clock::Deadline;
use crate::error::Error;
use crate::lock::{Awaited, Command, Decision, Fate, Operation, Outcome};
use crate::node::Node;
use crate::raft::types::LogId;
use crate::raft::waiters::Registration;
use crate::types::{CallOptions, DEFAULT_TIMEOUT, LockStatus};

/// A command whose caller waits for the lock itself.
#[derive(Clone, Debug)]
pub(crate) struct Wait {
    length: Duration,
    /// Whether its place is left when its caller goes away.
    ends_with_caller: bool,
    /// The request without the places in the log, which its answer has.
    awaited: Awaited,
}

impl Wait {
    /// The wait of a command; `None` if its caller waits for nothing but the decision.
    pub(crate) fn of(command: &Command) -> Option<Self> {
        let Operation::Lock(lock) = &command.operation else { return None };
        lock.waits().then(|| Self {
            length: Duration::from_millis(lock.wait_ms),
            ends_with_caller: lock.ends_with_caller(),
            awaited: Awaited {
                table: lock.table.clone(),
                signature: lock.signature.clone(),
                place: crate::types::DecidedAt::default(),
                decided_at: crate::types::DecidedAt::default(),
                request_id: command.request_id,
            },
        })
    }

    /// The deadline of a call with this wait: if it names none, the wait and the time that any other
    /// call has.
    pub(crate) fn deadline(&self, call: &CallOptions) -> Deadline {
        let own = self.length.saturating_add(DEFAULT_TIMEOUT).min(MAX_TIMEOUT);
        Deadline::after(call.timeout.unwrap_or(own))
    }

    /// Whether its place is left when its caller goes away.
    pub(crate) fn ends_with_caller(&self) -> bool {
        self.ends_with_caller
    }

    /// The request that waits, if this is what was decided.
    pub(crate) fn after(&self, decision: &Decision) -> Option<Awaited> {
        let Outcome::Lock(LockStatus::Waiting(waiting)) = &decision.outcome else { return None };
        let decided_at = decision.decided_at?;
        Some(Awaited { place: waiting.place, decided_at, ..self.awaited.clone() })
    }
}

impl Node {
    /// The answer to a request whose decision is its place: what becomes of the place, as this node
    /// applies it. If the place still stands at the deadline, the answer is the place with its
    /// position at that time.
    pub(crate) async fn wait_out(
        &self,
        awaited: &Awaited,
        decision: Decision,
        deadline: Deadline,
    ) -> Result<Decision, Error> {
        let replica = &self.member().replica;
        let registered = replica
            .look(|machine| {
                let applied = machine.applied.as_ref().map(LogId::index);
                replica.waiters.register(awaited.clone(), &machine.state, applied)
            })
            .await;
        let mut registered = match registered {
            Registration::Ended(result) => return result,
            Registration::Registered(registered) => registered,
        };
        if let Some(Some(result)) = deadline.bound(registered.ended()).await {
            return result;
        }
        match replica.look(|machine| machine.state.fate(awaited)).await {
            Fate::Waiting(waiting) => {
                let outcome = Outcome::Lock(LockStatus::Waiting(waiting));
                Ok(Decision { outcome, ..decision })
            }
            Fate::Ended(ended) => Ok(ended),
            // This node is behind: the place is known from the leader alone.
            Fate::Unknown => Ok(decision),
        }
    }
}
