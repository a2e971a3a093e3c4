//! Makes sure, before a read, that this node still leads: ReadIndex, never a lease.
//!
//! Whoever comes while a round is under way waits for the next one together; a round that began
//! before a read was asked for proves nothing about it.

use std::sync::Arc;

use openraft::ReadPolicy;
use openraft::errors::{LinearizableReadError, RaftError};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::clock::Deadline;
use crate::error::Error;
use crate::node::not_leading;
use crate::raft::member::Member;
use crate::raft::types::TypeConfig;
use crate::task::of_host;

/// So many reads share a round at most; only a bound for the memory of one round.
const MAX_READS: usize = 4096;

type Answer = oneshot::Sender<Result<(), Error>>;

/// Hands reads to the task that confirms the leadership.
pub(super) struct Reader {
    queue: mpsc::Sender<Answer>,
}

impl Reader {
    /// Starts the task. `capacity` is what the node admits, so the queue never fills.
    pub(super) fn start(member: Arc<Member>, capacity: usize, tasks: &mut JoinSet<()>) -> Self {
        let (queue, waiting) = mpsc::channel(capacity);
        tasks.spawn(of_host(run(member, waiting)));
        Self { queue }
    }

    /// Returns when the state here has everything that was acknowledged anywhere before the call.
    pub(super) async fn confirm(&self, deadline: Deadline) -> Result<(), Error> {
        let (answer, answered) = oneshot::channel();
        if self.queue.try_send(answer).is_err() {
            return Err(Error::unavailable("this node takes no reads now"));
        }
        match deadline.bound(answered).await {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(Error::unavailable("this node has stopped")),
            None => Err(Error::unavailable("no majority confirmed in time that this node leads")),
        }
    }
}

async fn run(member: Arc<Member>, mut waiting: mpsc::Receiver<Answer>) {
    loop {
        let mut reads = Vec::new();
        if waiting.recv_many(&mut reads, MAX_READS).await == 0 {
            return;
        }
        let result = confirm(&member).await;
        for answer in reads {
            // A caller that has given up is told nothing.
            let _ = answer.send(result.clone());
        }
    }
}

/// One round: a majority confirms the leadership, then what was committed by then is applied.
async fn confirm(member: &Member) -> Result<(), Error> {
    let confirmed = async {
        let linearizer = member.raft.get_read_linearizer(ReadPolicy::ReadIndex).await?;
        linearizer.await_ready(&member.raft).await?;
        Ok::<_, RaftError<TypeConfig, LinearizableReadError<TypeConfig>>>(())
    };
    // A leader that gets no answer for as long as its lease would not be confirmed by waiting on.
    let bound = Deadline::after(member.timing.election_max);
    match bound.bound(confirmed).await {
        Some(Ok(())) => Ok(()),
        Some(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)))) => {
            Err(not_leading(member, &forward))
        }
        Some(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)))) | None => {
            Err(Error::unavailable("no majority confirmed that this node leads"))
        }
        Some(Err(RaftError::Fatal(_))) => Err(Error::unavailable("this node has stopped")),
    }
}
