//! Sends requests to the leader: waiting requests are coalesced into one message.
//!
//! A few messages are in flight at once; meanwhile the next requests queue up. The busier the node
//! is, the more of them share a message. The requests that one caller sends together, a batch, are
//! never split, so that the leader decides them in their order. The requests of different callers
//! have no order among each other. Each answer is returned as soon as it is known.
//!
//! A message that is not answered within [`STALLED`] no longer holds up those behind it: its
//! connection may be broken, or one of its requests slow. Its callers continue to wait for it. When
//! this node learns of another leader meanwhile, it abandons the message: requests that are safe to
//! repeat are returned as [`Outcome::Moved`], the others are `Unknown`.
//!
//! A request is not sent if its caller has gone away or its deadline has passed: it is certainly
//! not done. A request in a message without an answer may have been done, unless the message cannot
//! have left; a read has changed nothing in any case.

use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::frames::{Encoded, Frames};
use super::wire::{self, Answer, Request, WireError, mixed_up};
use crate::budget;
use crate::clock::Deadline;
use crate::error::Error;
use crate::node::{Node, admit_up_to};
use crate::raft::peer::{CallError, Channel, broken, paths};
use crate::storage::Uuid;
use crate::task::of_host;
use crate::types::CallOptions;

/// The most requests in flight to the leader at once; more are refused as `Unavailable`.
const MAX_FORWARDED: usize = 4096;

/// The most requests in a message, unless one caller sends more together: as many as share a log
/// entry on the other side.
const MAX_TOGETHER: usize = 256;

/// The most messages in flight that are not stalled; further requests queue up. With two, one is
/// being answered while the next is sent.
const IN_FLIGHT: usize = 2;

/// The time after which a message without all of its answers counts as stalled and gives its slot
/// to the next. It is longer than a round trip around the world and than a healthy disk takes, and
/// shorter than an election, after which a message to the old leader must not block others.
const STALLED: Duration = Duration::from_millis(300);

/// The most stalled messages to one leader. Two more stall in each [`STALLED`] without answers, so
/// the limit is reached after about ten seconds. Requests that wait then are certainly not done
/// when their deadline passes.
const MOST_STALLED: usize = 64;

/// The leader: its ids and its address.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Leader {
    pub(super) id: u64,
    pub(super) uuid: Option<Uuid>,
    pub(super) addr: String,
}

/// The outcome of one command, read or move of the clock.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The leader's answer, or the reason why there is none.
    Answered(Result<Answer, Error>),
    /// There is another leader, and sending it the request is safe.
    Moved(Box<Moved>),
}

/// A request with one answer that may be sent again.
#[derive(Debug)]
pub(super) struct Moved {
    pub(super) request: Request,
    /// Whether the previous leader may have done it.
    pub(super) open: bool,
}

/// The batcher of requests to the leader; clones are handles to the same one.
#[derive(Clone)]
pub(super) struct Batcher {
    node: Node,
    admission: Arc<Semaphore>,
    queues: Arc<Mutex<BTreeMap<u64, Queue>>>,
}

/// The queue of requests to one leader, with the number of its messages in flight. Each leader has
/// its own, so that requests to a dead leader do not hold up those to the next one.
#[derive(Default)]
struct Queue {
    waiting: VecDeque<Pending>,
    in_flight: usize,
    stalled: usize,
}

/// The request of one caller.
struct Pending {
    leader: Leader,
    request: Request,
    trace_id: Option<String>,
    deadline: Deadline,
    /// Set once, by the message that includes the requests or by the caller that cancels them.
    settled: Arc<AtomicBool>,
    caller: Caller,
}

/// The channel to the caller that waits for the answers.
struct Caller {
    answer: oneshot::Sender<Vec<Reply>>,
    /// Released when the request is answered or dropped, not when its caller goes away.
    _admitted: OwnedSemaphorePermit,
}

/// As [`Outcome`], before the answer is decoded. The caller decodes it, so that a large answer
/// exists in one form at a time and the work is spread over tasks.
enum Reply {
    Answered(Encoded),
    Failed(Error),
    Moved(Box<Moved>),
}

impl Batcher {
    pub(super) fn new(node: Node) -> Self {
        let admission = Arc::new(Semaphore::new(MAX_FORWARDED));
        Self { node, admission, queues: Arc::default() }
    }

    /// Sends a request to the leader; returns one outcome for each of its answers. If not all of its
    /// commands can be admitted, only the first are sent.
    pub(super) async fn ask(
        &self,
        leader: Leader,
        mut request: Request,
        trace_id: Option<String>,
        deadline: Deadline,
    ) -> Vec<Outcome> {
        let asked = request.answers();
        let admitted = admit_up_to(&self.admission, asked);
        let sent = admitted.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        if let Request::Decide(commands) = &mut request {
            commands.truncate(sent);
        }
        let mut outcomes = match admitted {
            Some(admitted) => {
                self.ask_admitted(leader, request, trace_id, deadline, admitted).await
            }
            None => Vec::new(),
        };
        let full = || {
            let reason = "this node has as many requests on their way to the leader as it admits";
            Outcome::Answered(Err(Error::unavailable(reason)))
        };
        outcomes.extend(std::iter::repeat_with(full).take(asked - sent));
        outcomes
    }

    async fn ask_admitted(
        &self,
        leader: Leader,
        request: Request,
        trace_id: Option<String>,
        deadline: Deadline,
        admitted: OwnedSemaphorePermit,
    ) -> Vec<Outcome> {
        let (is_read, answers) = (request.is_read(), request.answers());
        let (answer, answered) = oneshot::channel();
        let settled = Arc::<AtomicBool>::default();
        let caller = Caller { answer, _admitted: admitted };
        let settled_here = Arc::clone(&settled);
        self.enqueue(Pending { leader, request, trace_id, deadline, settled, caller });
        let error = match deadline.bound(answered).await {
            Some(Ok(replies)) => {
                return replies.into_iter().map(|reply| reply.read(is_read)).collect();
            }
            Some(Err(_)) => lost(is_read, "the node stopped before the leader's answer came"),
            None if settled_here.swap(true, Ordering::AcqRel) => {
                lost(is_read, "the leader did not answer in time")
            }
            None => not_sent(),
        };
        (0..answers).map(|_| Outcome::Answered(Err(error.clone()))).collect()
    }

    fn enqueue(&self, one: Pending) {
        let leader = one.leader.id;
        let mut queues = self.queues();
        let queue = queues.entry(leader).or_default();
        queue.waiting.push_back(one);
        let starts = queue.take_slot();
        drop(queues);
        if starts {
            self.start(leader);
        }
    }

    /// Starts a task for a slot that has been taken. It is detached: it ends when the queue is
    /// empty, and each message ends with the longest deadline of its requests.
    fn start(&self, leader: u64) {
        tokio::spawn(of_host(self.clone().run(leader)));
    }

    /// Sends messages until the queue is empty.
    async fn run(self, leader: u64) {
        loop {
            // The first of several simultaneous requests has started this task; the others are
            // enqueued now.
            tokio::task::yield_now().await;
            let Some(message) = self.next(leader) else { return };
            if !self.deliver(message).await {
                return;
            }
        }
    }

    /// The next message to this leader; releases the slot if there is none.
    fn next(&self, leader: u64) -> Option<Message> {
        if self.has_moved(leader) {
            self.move_waiting(leader);
        }
        let mut queues = self.queues();
        let queue = queues.entry(leader).or_default();
        let pending = queue.gather();
        if pending.is_empty() {
            queue.in_flight -= 1;
            return None;
        }
        drop(queues);
        Some(Message::new(pending))
    }

    /// Sends one message and distributes its answers. Returns `false` if the task no longer has a
    /// slot.
    async fn deliver(&self, mut message: Message) -> bool {
        let leader = message.leader.id;
        let moved = {
            let mut exchange = pin!(self.exchange(&mut message));
            if tokio::time::timeout(STALLED, exchange.as_mut()).await.is_ok() {
                return true;
            }
            self.free_slot(leader);
            tokio::select! {
                biased;
                () = exchange => false,
                () = self.succeeded(leader) => true,
            }
        };
        if moved {
            message.abandon();
            self.move_waiting(leader);
        }
        let mut queues = self.queues();
        let queue = queues.entry(leader).or_default();
        queue.stalled -= 1;
        queue.take_slot()
    }

    /// Frees the slot of a stalled message for waiting requests.
    fn free_slot(&self, leader: u64) {
        let mut queues = self.queues();
        let queue = queues.entry(leader).or_default();
        queue.in_flight -= 1;
        queue.stalled += 1;
        let starts = !queue.waiting.is_empty() && queue.take_slot();
        drop(queues);
        if starts {
            self.start(leader);
        }
    }

    /// Resolves when another node than this leader is known to lead.
    async fn succeeded(&self, leader: u64) {
        let other = |known: Option<u64>| known.is_some_and(|known| known != leader);
        let waited = self.node.member().raft.wait(None);
        let waited =
            waited.metrics(|metrics| other(metrics.current_leader), "another leader").await;
        if waited.is_err() {
            // Consensus has stopped on this node, so it learns of no other leader.
            std::future::pending::<()>().await;
        }
    }

    fn has_moved(&self, leader: u64) -> bool {
        let known = self.node.member().metrics_ref(|metrics| metrics.current_leader);
        known.is_some_and(|known| known != leader)
    }

    /// Returns all requests that wait for this leader as moved: they were never sent.
    fn move_waiting(&self, leader: u64) {
        let waiting = std::mem::take(&mut self.queues().entry(leader).or_default().waiting);
        for one in waiting {
            one.move_on();
        }
    }

    /// Sends the message and passes each caller the outcome of its requests.
    async fn exchange(&self, message: &mut Message) {
        let bound = Deadline::after(message.timeout);
        match bound.bound(self.receive(message)).await {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                let (reason, left) = outcome_of(&error);
                if !left {
                    // A leader that cannot be reached may be dead.
                    self.node.member().leader_watch.look();
                }
                let leader = message.leader.id;
                tracing::debug!(leader, %error, "forwarded requests have no answer");
                message.fail(&reason, left);
            }
            None => message.fail("the leader did not answer in time", true),
        }
    }

    /// Receives answers until all requests have one.
    async fn receive(&self, message: &mut Message) -> Result<(), CallError> {
        let leader = message.leader.clone();
        let target = (leader.id, leader.uuid, leader.addr.as_str());
        let peers = &self.node.member().peers;
        let body = message.bytes.clone().into();
        let mut response = peers.send(Channel::Forward, target, paths::FORWARD, body).await?;
        let mut frames = Frames::new(self.node.budget().clone());
        let wrong = |error: WireError| broken_by(&leader.addr, error);
        while !message.open.is_empty() {
            while let Some((number, answer)) = frames.next().map_err(wrong)? {
                let full = || Reply::Failed(budget::exhausted());
                message.settle(number, answer.map_or_else(full, Reply::Answered));
            }
            if message.open.is_empty() {
                break;
            }
            match response.chunk().await.map_err(|source| broken(&leader.addr, source))? {
                Some(chunk) => frames.push(&chunk),
                None => return Err(broken_by(&leader.addr, "it ended before its last answer")),
            }
        }
        // Read to its end, so that the connection can be used again.
        drain(response).await;
        Ok(())
    }

    fn queues(&self) -> MutexGuard<'_, BTreeMap<u64, Queue>> {
        // Each change under the lock is whole, so what a panicking thread left is too.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn drain(mut response: reqwest::Response) {
    // Nothing but the end of the body follows the last answer.
    while let Ok(Some(_)) = response.chunk().await {}
}

fn broken_by(addr: &str, source: impl Into<crate::client::carrier::Cause>) -> CallError {
    CallError::Broken { addr: addr.to_owned(), source: source.into() }
}

/// The text of the error for a client, without addresses of peers, and whether the requests may
/// have arrived.
fn outcome_of(error: &CallError) -> (String, bool) {
    match error {
        CallError::Connect { .. } => ("the leader cannot be reached".to_owned(), false),
        CallError::Refused { reason, .. } => {
            (format!("the leader takes no requests from this node: {reason}"), false)
        }
        CallError::Timeout { .. } => ("the leader did not answer in time".to_owned(), true),
        CallError::Broken { .. } => ("the connection to the leader failed".to_owned(), true),
        CallError::Distrusted { .. } | CallError::Answer { .. } | CallError::Status { .. } => {
            ("the leader's answer is none that this node accepts".to_owned(), true)
        }
    }
}

/// Requests that are sent together.
struct Message {
    leader: Leader,
    bytes: Bytes,
    /// The longest timeout of its requests.
    timeout: Duration,
    /// The unanswered requests, in the order of the number of their first answer.
    open: Vec<Open>,
}

/// A request whose answers are awaited.
struct Open {
    first: usize,
    is_read: bool,
    replies: Vec<Option<Reply>>,
    missing: usize,
    caller: Caller,
}

impl Open {
    fn new(first: usize, request: &Request, caller: Caller) -> Self {
        let missing = request.answers();
        let replies = std::iter::repeat_with(|| None).take(missing).collect();
        Self { first, is_read: request.is_read(), replies, missing, caller }
    }

    fn tell(self, mut missing: impl FnMut(usize) -> Reply) {
        let first = self.first;
        let numbered = self.replies.into_iter().enumerate();
        let replies =
            numbered.map(|(at, reply)| reply.unwrap_or_else(|| missing(first + at))).collect();
        // A caller that has gone away gets no answer.
        let _ = self.caller.answer.send(replies);
    }
}

impl Message {
    fn new(pending: Vec<Pending>) -> Self {
        let leader = pending[0].leader.clone();
        let mut open = Vec::with_capacity(pending.len());
        let mut requests = Vec::with_capacity(pending.len());
        let mut timeout = Duration::ZERO;
        let mut first = 0;
        for Pending { request, trace_id, deadline, caller, .. } in pending {
            let remaining = deadline.remaining();
            timeout = timeout.max(remaining);
            let call = CallOptions { trace_id, ..CallOptions::within(remaining) };
            open.push(Open::new(first, &request, caller));
            first += request.answers();
            requests.push((request, call));
        }
        let bytes = wire::encode_requests(requests.iter().map(|(request, call)| (request, call)));
        Self { leader, bytes, timeout, open }
    }

    /// Records the outcome of a request, and answers its caller once none is missing.
    fn settle(&mut self, number: usize, reply: Reply) {
        let at = match self.open.binary_search_by_key(&number, |open| open.first) {
            Ok(at) => at,
            Err(0) => return,
            Err(after) => after - 1,
        };
        let Some(open) = self.open.get_mut(at) else { return };
        // A second answer, or one without a request, is ignored.
        let Some(known) = open.replies.get_mut(number - open.first) else { return };
        if known.is_some() {
            return;
        }
        *known = Some(reply);
        open.missing -= 1;
        if open.missing == 0 {
            self.open.remove(at).tell(|_| Reply::Failed(mixed_up()));
        }
    }

    /// Fails all requests that have no answer yet; `left` if they may have arrived.
    fn fail(&mut self, reason: &str, left: bool) {
        for open in self.open.drain(..) {
            let is_read = open.is_read;
            open.tell(|_| {
                Reply::Failed(if left { lost(is_read, reason) } else { Error::unavailable(reason) })
            });
        }
    }

    /// Abandons a message to a deposed leader: requests that are safe to repeat are returned as
    /// moved.
    fn abandon(mut self) {
        let requests = wire::decode_requests(&self.bytes).unwrap_or_default();
        let mut requests: Vec<_> =
            requests.into_iter().flat_map(|(request, _)| request.split()).map(Some).collect();
        for open in self.open.drain(..) {
            let is_read = open.is_read;
            open.tell(|number| match requests.get_mut(number).and_then(Option::take) {
                Some(request) if request.is_repeatable() => {
                    Reply::Moved(Box::new(Moved { request, open: !is_read }))
                }
                _ => Reply::Failed(lost(false, "the leader did not answer, and another leads now")),
            });
        }
    }
}

impl Queue {
    /// Takes a slot for a message, if one is free.
    fn take_slot(&mut self) -> bool {
        let free = self.in_flight < IN_FLIGHT && self.stalled < MOST_STALLED;
        self.in_flight += usize::from(free);
        free
    }

    /// Takes the requests of the next message from the queue, in their order.
    fn gather(&mut self) -> Vec<Pending> {
        let mut pending: Vec<Pending> = Vec::new();
        let mut count = 0;
        while let Some(next) = self.waiting.front() {
            let fits = pending.first().is_none_or(|first| {
                first.leader == next.leader && count + next.request.answers() <= MAX_TOGETHER
            });
            if !fits {
                break;
            }
            let one = self.waiting.pop_front().expect("it was just looked at");
            if one.caller.answer.is_closed() || one.settled.swap(true, Ordering::AcqRel) {
                continue;
            }
            if one.deadline.remaining().is_zero() {
                one.expire();
                continue;
            }
            count += one.request.answers();
            pending.push(one);
        }
        pending
    }
}

impl Pending {
    fn expire(self) {
        let replies = (0..self.request.answers()).map(|_| Reply::Failed(not_sent())).collect();
        // A caller that has gone away gets no answer.
        let _ = self.caller.answer.send(replies);
    }

    fn move_on(self) {
        if self.settled.swap(true, Ordering::AcqRel) {
            return;
        }
        let moved = |request| Reply::Moved(Box::new(Moved { request, open: false }));
        // As above.
        let _ = self.caller.answer.send(self.request.split().map(moved).collect());
    }
}

impl Reply {
    fn read(self, is_read: bool) -> Outcome {
        match self {
            Self::Answered(encoded) => {
                let answer = wire::decode_answer(&encoded.bytes);
                Outcome::Answered(
                    answer.unwrap_or_else(|error| Err(lost(is_read, &error.to_string()))),
                )
            }
            Self::Failed(error) => Outcome::Answered(Err(error)),
            Self::Moved(moved) => Outcome::Moved(moved),
        }
    }
}

fn not_sent() -> Error {
    Error::unavailable("the time was up before the request was sent on to the leader")
}

/// The error for a request that may have arrived and got no answer.
pub(super) fn lost(is_read: bool, reason: &str) -> Error {
    if is_read { Error::unavailable(reason) } else { Error::unknown(reason) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Budget;
    use crate::lock::{Command, Operation, Query};
    use crate::types::{ReadOptions, RequestId};

    fn one(leader: u64, name: &str, count: usize) -> (Pending, oneshot::Receiver<Vec<Reply>>) {
        let (answer, answered) = oneshot::channel();
        let admitted = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let one = Pending {
            leader: Leader { id: 1, uuid: Some(Uuid(leader.into())), addr: "a:1".to_owned() },
            request: Request::Decide(vec![delete(name, None); count]),
            trace_id: None,
            deadline: Deadline::after(Duration::from_secs(60)),
            settled: Arc::default(),
            caller: Caller { answer, _admitted: admitted },
        };
        (one, answered)
    }

    fn names(pending: &[Pending]) -> Vec<&str> {
        let mut names = Vec::new();
        for one in pending {
            let Request::Decide(commands) = &one.request else { panic!("no commands") };
            let Operation::DeleteTable { table } = &commands[0].operation else {
                panic!("{names:?}")
            };
            names.push(&**table);
        }
        names
    }

    #[tokio::test]
    async fn a_message_takes_what_fits_in_order_and_splits_no_request() {
        let sizes = [("a", 1), ("b", 254), ("c", 2), ("d", 1), ("e", 1000), ("f", 1)];
        let (pending, answered): (VecDeque<_>, Vec<_>) =
            sizes.into_iter().map(|(name, count)| one(1, name, count)).unzip();
        let mut queue = Queue { waiting: pending, ..Queue::default() };
        for expected in [&["a", "b"][..], &["c", "d"], &["e"], &["f"], &[]] {
            assert_eq!(names(&queue.gather()), expected);
        }
        drop(answered);
    }

    #[tokio::test]
    async fn a_leader_that_came_back_with_another_folder_gets_a_message_of_its_own() {
        let (pending, answered): (VecDeque<_>, Vec<_>) =
            [one(1, "a", 1), one(2, "b", 1), one(2, "c", 1)].into_iter().unzip();
        let mut queue = Queue { waiting: pending, ..Queue::default() };
        assert_eq!(names(&queue.gather()), ["a"]);
        assert_eq!(names(&queue.gather()), ["b", "c"]);
        drop(answered);
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_waits_for_or_is_too_late_is_not_sent() {
        let (given_up, _) = one(1, "given up", 1);
        let (mut late, told) = one(1, "late", 2);
        late.deadline = Deadline::after(Duration::from_secs(1));
        let (sent, _waiting) = one(1, "sent", 1);
        let mut queue = Queue { waiting: [given_up, late, sent].into(), ..Queue::default() };
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(names(&queue.gather()), ["sent"]);
        let told = told.await.unwrap();
        assert_eq!(told.len(), 2);
        for answer in told {
            assert!(matches!(answer, Reply::Failed(Error::Unavailable { .. })));
        }
    }

    #[test]
    fn without_an_answer_a_write_is_unknown_and_a_read_is_not_done() {
        assert_eq!(lost(false, "cut off"), Error::unknown("cut off"));
        assert_eq!(lost(true, "cut off"), Error::unavailable("cut off"));
    }

    fn delete(table: &str, seq: Option<u64>) -> Command {
        let request_id = seq.map(|seq| RequestId { lane: 1, seq });
        Command { request_id, ..Operation::DeleteTable { table: table.into() }.into() }
    }

    /// A message of these requests, and the receivers of their callers.
    fn message(requests: Vec<Request>) -> (Message, Vec<oneshot::Receiver<Vec<Reply>>>) {
        let pending = requests.into_iter().map(|request| {
            let (unused, answered) = one(1, "unused", 1);
            (Pending { request, ..unused }, answered)
        });
        let (pending, answered) = pending.unzip();
        (Message::new(pending), answered)
    }

    #[test]
    fn of_a_leader_that_is_none_any_more_only_what_is_safe_is_asked_again() {
        let read = Request::Read(Query::check("r".to_owned(), &ReadOptions::default()));
        let commands = [None, Some(7), Some(8)].map(|seq| delete("t", seq));
        let requests = vec![read.clone(), Request::Decide(commands.to_vec())];
        let (mut message, mut answered) = message(requests);
        let frame = wire::encode_answer(3, &Ok(Answer::Advanced));
        let bytes = frame.slice(9..);
        let share = Budget::default().take(0).unwrap();
        message.settle(3, Reply::Answered(Encoded { bytes, _share: share }));
        message.abandon();
        let replies = answered[1].try_recv().unwrap();
        let [first, second, third] = <[Reply; 3]>::try_from(replies).ok().unwrap();
        assert!(matches!(first, Reply::Failed(Error::Unknown { .. })), "not safe to repeat");
        let Reply::Moved(second) = second else { panic!("it has an id") };
        assert_eq!(second.request, Request::Decide(vec![commands[1].clone()]));
        assert!(second.open, "the leader may have done it");
        assert!(matches!(third, Reply::Answered(_)), "it was answered before");
        let Ok([Reply::Moved(moved)]) = <[Reply; 1]>::try_from(answered[0].try_recv().unwrap())
        else {
            panic!("it is a read")
        };
        assert_eq!(moved.request, read);
        assert!(!moved.open, "a read has done nothing");
    }

    #[test]
    fn each_caller_is_told_when_all_of_its_own_is_answered() {
        let two = Request::Decide(vec![delete("t", None); 2]);
        let one = Request::Decide(vec![delete("t", None)]);
        let (mut message, mut answered) = message(vec![two, one]);
        let done = || Reply::Failed(Error::unavailable("stands for an answer"));
        message.settle(9, done());
        message.settle(1, done());
        message.settle(1, done());
        assert!(answered[0].try_recv().is_err(), "one of two is missing");
        message.settle(2, done());
        assert_eq!(answered[1].try_recv().unwrap().len(), 1);
        message.settle(0, done());
        assert_eq!(answered[0].try_recv().unwrap().len(), 2);
        assert!(message.open.is_empty());
    }
}
