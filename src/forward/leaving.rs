//! Leaving the places of callers that have gone away.
//!
//! A caller that waits outside of a session and drops its request, because its connection was closed,
//! will not use the lock. [`LEAVE_AFTER`] later its node proposes that its place is left: until then
//! the caller may ask again, on any node, and then the place has a newer ask and stays. If the place
//! has become a grant meanwhile that nobody asked for, the grant is released.
//!
//! One task for each node proposes for all its callers, several in one entry, until the leader
//! answers or no place can be left any more.

use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use super::Router;
use crate::clock::Deadline;
use crate::error::Error;
use crate::lock::{Awaited, Command, Decision, LeaveCommand, Operation};
use crate::node::{Wait, deadline};
use crate::task::of_host;
use crate::types::{CallOptions, LEAVE_AFTER, MAX_WAIT};

/// The pause before a proposal that failed is repeated.
const PAUSE: Duration = Duration::from_millis(500);

/// The most places that are left in one proposal.
const MAX_TOGETHER: usize = 1000;

/// The way to the task that leaves places. The task ends when this is dropped.
pub(super) struct Leaving {
    gone: UnboundedSender<Gone>,
}

/// A request whose caller has gone.
struct Gone {
    awaited: Awaited,
    /// The time from which its place may be left.
    from: Deadline,
    /// The time after which it has ended anyway.
    until: Deadline,
}

/// A caller that waits outside of a session: if it is dropped without an answer, its place is left.
pub(super) struct Caller {
    gone: UnboundedSender<Gone>,
    wait: Wait,
    known: Known,
}

/// The state of a caller's request.
enum Known {
    /// It is being decided.
    Deciding(oneshot::Receiver<Result<Decision, Error>>),
    /// It has a place.
    Waiting(Awaited),
    /// It is answered, or has no place.
    Nothing,
}

impl Leaving {
    pub(super) fn start(router: &Arc<Router>) -> Self {
        let (gone, coming) = unbounded_channel();
        // It holds nothing of the node while it waits, so that a node that was dropped is gone.
        tokio::spawn(of_host(run(Arc::downgrade(router), coming)));
        Self { gone }
    }

    /// A caller of a request that `deciding` decides, whether or not the caller is still there.
    pub(super) fn caller(
        &self,
        wait: Wait,
        deciding: impl Future<Output = Result<Decision, Error>> + Send + 'static,
    ) -> Caller {
        let (decided, receiver) = oneshot::channel();
        let (gone, waiter) = (self.gone.clone(), wait.clone());
        tokio::spawn(of_host(async move {
            if let Err(Ok(decision)) = decided.send(deciding.await) {
                leave(&gone, waiter.after(&decision));
            }
        }));
        Caller { gone: self.gone.clone(), wait, known: Known::Deciding(receiver) }
    }
}

impl Caller {
    /// The decision on its request. Called once.
    pub(super) async fn decision(&mut self) -> Result<Decision, Error> {
        let Known::Deciding(receiver) = &mut self.known else {
            unreachable!("a request is decided once")
        };
        let stopped = |_| Err(Error::unknown("the node has stopped; it may have been done"));
        let decided = receiver.await.unwrap_or_else(stopped);
        let awaited = decided.as_ref().ok().and_then(|decision| self.wait.after(decision));
        self.known = awaited.map_or(Known::Nothing, Known::Waiting);
        decided
    }

    /// Ends the watch: the answer is on its way, and from here on the caller is asked for nothing.
    pub(super) fn answered(mut self) {
        self.known = Known::Nothing;
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let awaited = match std::mem::replace(&mut self.known, Known::Nothing) {
            Known::Deciding(mut receiver) => {
                // From here on the task that decides leaves the place itself.
                receiver.close();
                let decided = receiver.try_recv().ok().and_then(Result::ok);
                decided.and_then(|decision| self.wait.after(&decision))
            }
            Known::Waiting(awaited) => Some(awaited),
            Known::Nothing => None,
        };
        leave(&self.gone, awaited);
    }
}

fn leave(gone: &UnboundedSender<Gone>, awaited: Option<Awaited>) {
    let Some(awaited) = awaited else { return };
    // Outside of a session no wait is longer than this.
    let until = Deadline::after(LEAVE_AFTER + MAX_WAIT);
    // It fails when the node stops: then the place stands until its wait is over.
    let _ = gone.send(Gone { awaited, from: Deadline::after(LEAVE_AFTER), until });
}

async fn run(router: Weak<Router>, mut coming: UnboundedReceiver<Gone>) {
    let mut gone = Vec::new();
    loop {
        if gone.is_empty() && coming.recv_many(&mut gone, MAX_TOGETHER).await == 0 {
            return;
        }
        // They came in the order of their times.
        let Some(first) = gone.first() else { continue };
        tokio::time::sleep(first.from.remaining()).await;
        let due = gone.iter().take_while(|gone| gone.from.remaining().is_zero()).count();
        let rest = gone.split_off(due);
        let left = std::mem::replace(&mut gone, rest);
        let again = match router.upgrade() {
            Some(router) => propose(&router, left).await,
            None => return,
        };
        if !again.is_empty() {
            tokio::time::sleep(PAUSE).await;
            gone.splice(..0, again);
        }
    }
}

/// Proposes that these places are left; returns those of which nobody knows whether they are.
async fn propose(router: &Router, gone: Vec<Gone>) -> Vec<Gone> {
    let commands: Vec<Command> = gone.iter().map(|gone| command(&gone.awaited)).collect();
    let decided = router.decide_valid(commands, None, deadline(&CallOptions::default())).await;
    let mut again = Vec::new();
    for (gone, decided) in gone.into_iter().zip(decided) {
        if let Err(error) = decided
            && !gone.until.remaining().is_zero()
        {
            tracing::debug!(%error, lock = %gone.awaited.signature, "a place is not left yet");
            again.push(gone);
        }
    }
    again
}

fn command(awaited: &Awaited) -> Command {
    let Awaited { table, signature, place, decided_at, request_id: _ } = awaited.clone();
    Operation::Leave(Box::new(LeaveCommand { table, signature, place, ask: decided_at })).into()
}
