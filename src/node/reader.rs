//! Confirms before a read that this node still leads: ReadIndex, never a lease.
//!
//! Reads that arrive while a round is in flight wait for the next one together; a round that began
//! before a read arrived proves nothing about it. The confirmation itself is in [`super::confirm`].

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::clock::Deadline;
use crate::error::Error;
use crate::node::confirm::{Claim, Confirmer, Outcome, by_peers};
use crate::node::leading;
use crate::raft::member::Member;
use crate::raft::types::{LogId, raft_vote};
use crate::storage;
use crate::task::of_host;

/// The most reads that share a round, which only bounds the memory of a round.
const MAX_READS: usize = 4096;

type Answer = oneshot::Sender<Result<(), Error>>;

/// Passes reads to the task that confirms the leadership.
pub(super) struct Reader {
    queue: mpsc::Sender<Answer>,
}

impl Reader {
    /// Starts the task. `capacity` is the number of requests that the node admits, so the queue
    /// never fills.
    pub(super) fn start(member: Arc<Member>, capacity: usize, tasks: &mut JoinSet<()>) -> Self {
        let (queue, waiting) = mpsc::channel(capacity);
        tasks.spawn(of_host(run(member, waiting)));
        Self { queue }
    }

    /// Resolves when the state here includes everything that was acknowledged anywhere before the
    /// call.
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
    let mut confirmer = Confirmer::new(by_peers(member.clone()));
    let mut reads = Vec::new();
    loop {
        tokio::select! {
            biased;
            count = waiting.recv_many(&mut reads, MAX_READS) => if count == 0 { return },
            () = confirmer.settle() => continue,
        }
        let result = confirm(&member, &mut confirmer).await;
        for answer in reads.drain(..) {
            // A caller that has gone away gets no answer.
            let _ = answer.send(result.clone());
        }
    }
}

/// Runs one round: a majority confirms the leadership, then everything committed when the round
/// began is applied.
async fn confirm(member: &Member, confirmer: &mut Confirmer) -> Result<(), Error> {
    let (claim, committed) = claim(member)?;
    // A leader that gets no answer for the length of its lease would not be confirmed by waiting
    // longer.
    let bound = Deadline::after(member.timing.election_max);
    match bound.bound(confirmer.confirm(&claim)).await {
        Some(Outcome::Leads) => applied(member, committed, bound).await,
        Some(Outcome::Deposed) => Err(Error::unavailable("another node is being elected")),
        None => Err(Error::unavailable("no majority confirmed that this node leads")),
    }
}

/// This node's claim as the current leader, and the last entry that it knows to be committed.
///
/// The claim is for a term whose first entry is applied, or this node would not be [`leading`]. So
/// everything acknowledged before a read is applied here: by this leader, which acknowledges only
/// what it has applied, or by an earlier one, whose committed entries precede the first entry. The
/// committed entry is awaited in addition, so that a read is not behind what a follower has shown
/// to a stale one.
fn claim(member: &Member) -> Result<(Claim, Option<LogId>), Error> {
    let term = leading(member)?.term;
    let vote = raft_vote(storage::Vote { term, node: member.id, committed: true });
    let own = member.log.vote().map(raft_vote);
    let (membership, committed) =
        member.metrics_ref(|metrics| (metrics.membership_config.clone(), metrics.local_committed));
    Ok((Claim { leader: member.id, vote, own, membership }, committed))
}

/// Resolves when an entry is applied.
async fn applied(member: &Member, entry: Option<LogId>, bound: Deadline) -> Result<(), Error> {
    let index = entry.map(|id| id.index());
    let here = member.replica.figures().applied.map(|id| id.index());
    if here >= index {
        return Ok(());
    }
    let waited = member.raft.wait(Some(bound.remaining()));
    match waited.applied_index_at_least(index, "what a read has to see").await {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::unavailable("this node is behind with what is committed")),
    }
}
