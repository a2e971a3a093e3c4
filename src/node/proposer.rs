//! Puts requests into the log: all that wait go into one entry, under one stamp.
//!
//! One task collects, so that stamps rise with the log. A few proposals are under way at once;
//! while they are, the next requests gather, and the busier the node is, the more of them share an
//! entry, its sync and its way to the followers.

use std::sync::Arc;

use openraft::errors::ClientWriteError;
use openraft::impls::ProgressResponder;
use openraft::raft::ClientWriteResult;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

use crate::clock::Deadline;
use crate::error::Error;
use crate::lock::{Command, Decision, Proposal};
use crate::node::{Leading, leading, not_leading};
use crate::raft::codec;
use crate::raft::member::Member;
use crate::raft::types::TypeConfig;

/// So many commands share an entry at most: with names of full length about 1.5 MiB.
const MAX_COMMANDS: usize = 256;

/// So many proposals are under way at once: enough to keep the disk and the network busy while
/// answers travel, few enough that requests gather under load.
const IN_FLIGHT: usize = 8;

type Answer = oneshot::Sender<Result<Decision, Error>>;

/// A command that waits to be proposed.
struct Waiting {
    command: Command,
    answer: Answer,
}

/// Hands commands to the task that proposes them.
pub(super) struct Proposer {
    queue: mpsc::Sender<Waiting>,
}

impl Proposer {
    /// Starts the task. `capacity` is what the node admits, so the queue never fills.
    pub(super) fn start(member: Arc<Member>, capacity: usize, tasks: &mut JoinSet<()>) -> Self {
        let (queue, waiting) = mpsc::channel(capacity);
        tasks.spawn(run(member, waiting));
        Self { queue }
    }

    /// Proposes the command and waits for what comes of it.
    pub(super) async fn propose(
        &self,
        command: Command,
        deadline: Deadline,
    ) -> Result<Decision, Error> {
        let (answer, answered) = oneshot::channel();
        if self.queue.try_send(Waiting { command, answer }).is_err() {
            return Err(Error::unavailable("this node takes no proposals now"));
        }
        match deadline.bound(answered).await {
            Some(Ok(result)) => result,
            // From the queue on it may have been proposed, and then it may be committed yet.
            Some(Err(_)) => Err(Error::unknown("the node stopped before the answer came")),
            None => Err(Error::unknown("no majority confirmed the request in time")),
        }
    }
}

async fn run(member: Arc<Member>, mut waiting: mpsc::Receiver<Waiting>) {
    let in_flight = Arc::new(Semaphore::new(IN_FLIGHT));
    loop {
        let Ok(permit) = in_flight.clone().acquire_owned().await else { return };
        let mut batch = Vec::new();
        if waiting.recv_many(&mut batch, MAX_COMMANDS).await == 0 {
            return;
        }
        // Whose caller has given up is not proposed any more.
        batch.retain(|waiting| !waiting.answer.is_closed());
        if !batch.is_empty() {
            propose_batch(&member, batch, permit).await;
        }
    }
}

async fn propose_batch(member: &Arc<Member>, batch: Vec<Waiting>, permit: OwnedSemaphorePermit) {
    let (commands, answers): (Vec<Command>, Vec<Answer>) =
        batch.into_iter().map(|waiting| (waiting.command, waiting.answer)).unzip();
    let Leading { term, stamper } = match leading(member) {
        Ok(leading) => leading,
        Err(error) => return answer_all(answers, &error),
    };
    let stamp = stamper.now(&*member.clock);
    let data = codec::data_of(&Proposal { stamp, commands });
    let (responder, outcome) = ProgressResponder::complete_only();
    // The core compares the term when it appends, so that an entry of another term never carries
    // this stamp; the lock machine would refuse it besides.
    let sent = member.raft.write(data).with_leader(term).responder(responder).await;
    if sent.is_err() {
        return answer_all(answers, &Error::unavailable("this node has stopped"));
    }
    let member = member.clone();
    // Detached: it ends with the answer, or when openraft drops the responder at its own end.
    tokio::spawn(async move {
        let outcome = outcome.await;
        drop(permit);
        match outcome {
            Ok(result) => distribute(&member, answers, result),
            Err(_) => {
                answer_all(answers, &Error::unknown("the node stopped before the answer came"));
            }
        }
    });
}

/// Gives each command its decision, or all of them the same error.
fn distribute(member: &Member, answers: Vec<Answer>, result: ClientWriteResult<TypeConfig>) {
    let error = match result {
        Ok(response) => {
            let decisions = response.data.decisions;
            if decisions.len() != answers.len() {
                let (got, asked) = (decisions.len(), answers.len());
                member.stop.stop(format!("{asked} commands were answered with {got} decisions"));
                return answer_all(answers, &Error::unknown("the node has stopped"));
            }
            for (answer, decision) in answers.into_iter().zip(decisions) {
                // A caller that has given up is told nothing.
                let _ = answer.send(Ok(decision));
            }
            return;
        }
        Err(error) => error,
    };
    let error = match error {
        // Checked before anything was appended.
        ClientWriteError::ForwardToLeader(forward) => not_leading(member, &forward),
        ClientWriteError::PreconditionFailed(error) => Error::unavailable(error.to_string()),
        // Appended, then replaced by another leader's entry here; perhaps not everywhere.
        ClientWriteError::LogEntryDiscarded(_) => {
            Error::unknown("the leadership changed while the request was under way")
        }
        ClientWriteError::ChangeMembershipError(error) => Error::unknown(error.to_string()),
    };
    answer_all(answers, &error);
}

fn answer_all(answers: Vec<Answer>, error: &Error) {
    for answer in answers {
        // A caller that has given up is told nothing.
        let _ = answer.send(Err(error.clone()));
    }
}
