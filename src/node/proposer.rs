//! Puts requests into the log: waiting requests are coalesced into one entry with one stamp.
//!
//! A single task collects them, so that stamps rise with the log. A few proposals are in flight at
//! once; meanwhile the next requests queue up. The busier the node is, the more of them share an
//! entry, its sync and its replication to the followers.

use std::sync::Arc;

use openraft::errors::ClientWriteError;
use openraft::raft::ClientWriteResult;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

use crate::clock::Deadline;
use crate::error::Error;
use crate::limits::MAX_ENTRY_COMMANDS;
use crate::lock::{self, Command, Decision, Operation, Proposal};
use crate::node::transfers::{Transfers, transfers_of};
use crate::node::{Leading, leading, not_leading};
use crate::raft::codec;
use crate::raft::member::Member;
use crate::raft::types::{Callback, TypeConfig};
use crate::random;
use crate::task::of_host;
use crate::types::SessionId;

const _: () = {
    let largest = MAX_ENTRY_COMMANDS * lock::MAX_COMMAND_BYTES + 64;
    assert!(largest <= codec::MAX_ENTRY_BYTES, "commands of any length that are accepted fit");
};

/// The most proposals in flight at once: enough to keep the disk and the network busy while
/// answers travel, few enough that requests are coalesced under load.
const IN_FLIGHT: usize = 8;

/// A command, with the trace id of its request, which is not stored in the log.
pub(crate) struct Traced {
    pub(crate) command: Command,
    pub(crate) trace_id: Option<Arc<str>>,
}

impl From<Command> for Traced {
    fn from(command: Command) -> Self {
        Self { command, trace_id: None }
    }
}

/// Commands that wait to be proposed, with the channel to their caller: at most
/// [`MAX_ENTRY_COMMANDS`], decided in this order.
struct Waiting {
    commands: Vec<Traced>,
    answer: Answer,
}

type Answer = oneshot::Sender<Result<Vec<Decision>, Error>>;

/// Passes commands to the task that proposes them.
pub(super) struct Proposer {
    queue: mpsc::Sender<Waiting>,
}

impl Proposer {
    /// Starts the task. `capacity` is the number of requests that the node admits, so the queue
    /// never fills.
    pub(super) fn start(member: Arc<Member>, capacity: usize, tasks: &mut JoinSet<()>) -> Self {
        let (queue, waiting) = mpsc::channel(capacity);
        tasks.spawn(of_host(run(member, waiting)));
        Self { queue }
    }

    /// Proposes the commands in this order and waits for their decisions. They may share an entry
    /// with commands of other callers, and a long batch needs several entries.
    pub(super) async fn propose(
        &self,
        mut commands: Vec<Traced>,
        deadline: Deadline,
    ) -> Vec<Result<Decision, Error>> {
        let mut parts = Vec::with_capacity(1);
        while !commands.is_empty() {
            let later = commands.split_off(commands.len().min(MAX_ENTRY_COMMANDS));
            let count = commands.len();
            let (answer, answered) = oneshot::channel();
            let queued = self.queue.try_send(Waiting { commands, answer });
            parts.push((count, queued.map(|()| answered)));
            commands = later;
        }
        let mut decisions = Vec::new();
        for (count, queued) in parts {
            let result = match queued {
                Ok(answered) => await_answer(answered, deadline).await,
                Err(_) => Err(full()),
            };
            match result {
                Ok(of_part) => decisions.extend(of_part.into_iter().map(Ok)),
                Err(error) => decisions.extend(std::iter::repeat_n(Err(error), count)),
            }
        }
        decisions
    }
}

fn full() -> Error {
    Error::unavailable("this node takes no proposals now")
}

async fn await_answer(
    answered: oneshot::Receiver<Result<Vec<Decision>, Error>>,
    deadline: Deadline,
) -> Result<Vec<Decision>, Error> {
    match deadline.bound(answered).await {
        Some(Ok(result)) => result,
        // Once queued, the command may have been proposed, and then it may still be committed.
        Some(Err(_)) => Err(Error::unknown("the node stopped before the answer came")),
        None => Err(Error::unknown("no majority confirmed the request in time")),
    }
}

async fn run(member: Arc<Member>, mut waiting: mpsc::Receiver<Waiting>) {
    let in_flight = Arc::new(Semaphore::new(IN_FLIGHT));
    let transfers = Arc::new(Transfers::default());
    let mut left_over = None;
    loop {
        let Ok(permit) = in_flight.clone().acquire_owned().await else { return };
        let first = match left_over.take() {
            Some(first) => first,
            None => match waiting.recv().await {
                Some(first) => first,
                None => return,
            },
        };
        let mut batch = vec![first];
        left_over = gather(&mut waiting, &mut batch).await;
        // Skips commands whose caller has gone away.
        batch.retain(|waiting| !waiting.answer.is_closed());
        if !batch.is_empty() {
            propose_batch(&member, batch, permit, &transfers).await;
        }
    }
}

/// Collects the requests that are about to arrive: this task was woken by the first of several
/// simultaneous requests, and runs before the others unless it yields once. Returns the request
/// that no longer fits, which is the first of the next entry.
async fn gather(
    waiting: &mut mpsc::Receiver<Waiting>,
    batch: &mut Vec<Waiting>,
) -> Option<Waiting> {
    tokio::task::yield_now().await;
    let mut count: usize = batch.iter().map(|waiting| waiting.commands.len()).sum();
    while count < MAX_ENTRY_COMMANDS {
        let more = waiting.try_recv().ok()?;
        count += more.commands.len();
        if count > MAX_ENTRY_COMMANDS {
            return Some(more);
        }
        batch.push(more);
    }
    None
}

async fn propose_batch(
    member: &Arc<Member>,
    batch: Vec<Waiting>,
    permit: OwnedSemaphorePermit,
    transfers: &Arc<Transfers>,
) {
    let mut commands = Vec::with_capacity(batch.len());
    let mut trace_ids = Vec::with_capacity(batch.len());
    let mut answers = Vec::with_capacity(batch.len());
    for Waiting { commands: of_caller, answer } in batch {
        answers.push((of_caller.len(), answer));
        for Traced { mut command, trace_id } in of_caller {
            name_session(&mut command);
            commands.push(command);
            trace_ids.push(trace_id);
        }
    }
    let Leading { term, stamper } = match leading(member) {
        Ok(leading) => leading,
        Err(error) => return fail_all(answers, &error),
    };
    let stamp = stamper.now(&*member.clock);
    let data = codec::data_of(&Proposal { stamp, commands });
    // Callers are answered where the entry is applied, so no task has to be woken for it. If
    // openraft drops the callback, it drops the senders that the callers wait for.
    let (answering, proposed, transfers) = (member.clone(), data.clone(), Arc::clone(transfers));
    let answered = Callback::new(move |result: ClientWriteResult<TypeConfig>| {
        drop(permit);
        let transferred = result.as_ref().map(transfers_of).unwrap_or_default();
        distribute(&answering, answers, result);
        // Behind the answers: nobody waits for a line of a log.
        transfers.tell(transferred, &proposed, &trace_ids, answering.clock.raw());
    });
    // The core compares the term when it appends, so that an entry of another term never carries
    // this stamp; the lock machine would refuse it besides.
    let write = member.raft.write(data).responder(answered).with_leader(term);
    if let Err(stopped) = write.await {
        tracing::debug!(%stopped, "nothing is proposed any more");
    }
}

/// Draws the name of a session that is to be opened. It is drawn once, by the leader: a repetition
/// gets the name that the first request has in the log.
fn name_session(command: &mut Command) {
    if let Operation::OpenSession(session) = &mut command.operation {
        session.id = Some(SessionId(random::number()));
    }
}

/// Sends each caller the decisions about its commands, or all of them the same error.
fn distribute(
    member: &Member,
    answers: Vec<(usize, Answer)>,
    result: ClientWriteResult<TypeConfig>,
) {
    let error = match result {
        Ok(response) => {
            let decisions = response.data.decisions;
            let asked: usize = answers.iter().map(|(count, _)| count).sum();
            if decisions.len() != asked {
                let got = decisions.len();
                member.stop.stop(format!("{asked} commands were answered with {got} decisions"));
                return fail_all(answers, &Error::unknown("the node has stopped"));
            }
            let mut decisions = decisions.into_iter();
            for (count, answer) in answers {
                // A caller that has gone away gets no answer.
                let _ = answer.send(Ok(decisions.by_ref().take(count).collect()));
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
    fail_all(answers, &error);
}

fn fail_all(answers: Vec<(usize, Answer)>, error: &Error) {
    for (_, answer) in answers {
        // As above.
        let _ = answer.send(Err(error.clone()));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use openraft::raft::AppendEntriesRequest;

    use super::*;
    use crate::limits::{MAX_GROUPS, MAX_GROUPS_BYTES, MAX_IDENTITY_BYTES};
    use crate::lock::{ClusterTime, Stamp, State};
    use crate::principal::{Principal, TokenId};
    use crate::raft::peer::MAX_MESSAGE_BYTES;
    use crate::raft::types::{Entry, Payload, raft_log_id, raft_vote};
    use crate::storage::{self, checkpoint::MAX_RECORD_BYTES};
    use crate::types::{CallOptions, LockOptions, LockRequest, MAX_NAME_BYTES, RequestId, Token};

    /// The request that takes most bytes, of those that are accepted.
    fn largest(signee: &str, number: usize) -> (LockRequest, LockOptions) {
        let name = |text: &str| format!("{text}{number:->width$}", width = MAX_NAME_BYTES - 1);
        let text = "c".repeat(1024);
        let groups = vec!["g".repeat(MAX_GROUPS_BYTES / MAX_GROUPS).into(); MAX_GROUPS];
        let identity = "p".repeat(MAX_IDENTITY_BYTES).into();
        let principal = Principal { identity, groups, token: Some(TokenId(u64::MAX)) };
        let lane = u128::MAX - number as u128;
        let options = LockOptions {
            table: Some(name("t")),
            instance: Some(name("i")),
            duration: Some(Duration::from_secs(366 * 24 * 3600)),
            time_to_live: Some(Duration::from_millis((1 << 53) - 1).into()),
            force: true,
            request_id: Some(RequestId { lane, seq: u64::MAX }),
            call: CallOptions {
                principal: Some(Arc::new(principal.clone())),
                cause: Some(text),
                ..Default::default()
            },
            ..LockOptions::default()
        };
        let (signature, signee) = (name("s"), name(signee));
        (LockRequest { signature, signee, level: Some(i64::MIN) }, options)
    }

    #[test]
    fn the_largest_entry_is_one_that_can_be_kept_and_sent() {
        let renewal = |number| {
            let (request, options) = largest("o", number);
            let options = LockOptions { token: Some(Token((1 << 53) - 1)), ..options };
            Command::lock(request, options).unwrap()
        };
        let stamp = Stamp { term: u64::MAX, time: ClusterTime(u64::MAX) };
        let commands = (0..MAX_ENTRY_COMMANDS).map(renewal).collect();
        let data = codec::data_of(&Proposal { stamp, commands });
        let bytes = data.payload().len();
        assert!(bytes <= codec::MAX_ENTRY_BYTES, "{bytes}");
        assert!(bytes > codec::MAX_ENTRY_BYTES / 2, "the bound is no guess: {bytes}");
        let vote = raft_vote(storage::Vote { term: 1, node: 1, committed: true });
        let entry = Entry {
            log_id: raft_log_id(storage::LogId::default()),
            payload: Payload::Normal(data),
        };
        let request = AppendEntriesRequest {
            vote,
            prev_log_id: None,
            leader_commit: None,
            entries: vec![entry],
        };
        let message = codec::encode_append(&request);
        assert!(message.len() <= bytes + 2 * codec::APPEND_BYTES);
        assert!(message.len() <= MAX_MESSAGE_BYTES);
        let read = codec::decode_append(&message).unwrap();
        assert_eq!(codec::encode_append(&read), message);
    }

    #[test]
    fn the_largest_records_fit_into_pages_of_the_checkpoint() {
        let mut state = State::with_level(lock::FEATURE_LEVEL);
        // The second takes the lock over from the first, so the lane records the previous owner.
        for (index, signee) in [(1, "a"), (2, "b")] {
            let (request, mut options) = largest(signee, 0);
            options.request_id = Some(RequestId { lane: u128::MAX - u128::from(index), seq: 1 });
            let stamp = Stamp { term: 1, time: ClusterTime(index) };
            let commands = vec![Command::lock(request, options).unwrap()];
            state.apply(1, index, &Proposal { stamp, commands });
        }
        let sizes = state.encoded_records().map(|(key, value)| key.len() + value.len());
        let sizes: Vec<usize> = sizes.collect();
        assert_eq!(sizes.len(), 3, "a grant and two lanes");
        let largest = sizes.into_iter().max().unwrap();
        assert!(largest > 4 * MAX_NAME_BYTES, "{largest}");
        assert!(largest <= MAX_RECORD_BYTES, "{largest}");
    }
}
