//! Routing: this node if it leads, else one hop to the leader.
//!
//! A request is forwarded, never a stamp, and in one hop: the node it is forwarded to answers it as
//! the leader or refuses it. The outcome of a write is `Unavailable` only if certainly nothing was
//! done; once a byte may have left, it is `Unknown`.
//!
//! Nothing is retried here, because only the caller knows whether a repetition does harm, with one
//! exception. When this node learns of a new leader while the old one does not answer, it sends the
//! new one those requests that are safe to repeat: reads, requests that never left, and writes with
//! a `request_id`. The old leader may have made an entry of such a write. Then the lane in the
//! replicated state answers the new leader's attempt with what that entry did, or, if the entry
//! comes later, refuses it as a repetition. The caller would do the same with the same id after a
//! timeout. A write without an id is `Unknown` at once.

mod courier;
mod frames;
#[cfg(feature = "planted-bugs")]
pub(crate) mod planting;
pub(crate) mod wire;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{RwLock, RwLockReadGuard};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, Stream, StreamExt as _};
use tracing::Instrument;

use crate::api::NodeFigures;
use crate::budget::{self, Budget, owned};
use crate::clock::Deadline;
use crate::error::Error;
use crate::lock;
use crate::node::{Node, Traced, command_of, deadline};
use crate::planted::{self, Bug};
use crate::raft::leadership;
use crate::service::{DebugLockService, LockService, ServiceOptions};
use crate::types::{
    BatchAnswer, BatchRequest, CallOptions, CheckResponse, DeleteStatus, ListRequest, ListResponse,
    LockOptions, LockRequest, LockResponse, ReadOptions, TableDefaults, TableOptions,
    TablesRequest, TablesResponse, UnlockOptions, UnlockRequest, UnlockResponse,
};
use courier::{Courier, Item, Leader, Moved, Outcome, lost};
use wire::{Answer, Request};

/// The longest time that a request waits for a leader to become known; also at most half of the
/// request's own timeout. It is longer than an election takes once it has begun, but does not cover
/// the time until a dead leader is noticed.
const LEADER_WAIT: Duration = Duration::from_millis(500);

/// Answers on any node: itself if it leads, else the leader in one hop.
pub struct Forwarding {
    node: Node,
    options: RwLock<ServiceOptions>,
    courier: Courier,
    forwarded: AtomicU64,
}

impl Forwarding {
    /// Forwards with the service's own table and no defaults.
    pub fn new(node: Node) -> Self {
        Self::with_options(node, ServiceOptions::default())
    }

    /// Forwards with a table and defaults for requests that leave them out.
    pub fn with_options(node: Node, options: ServiceOptions) -> Self {
        Self {
            courier: Courier::new(node.clone()),
            node,
            options: RwLock::new(options),
            forwarded: AtomicU64::new(0),
        }
    }

    /// The local node.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The node's figures, with the number of forwarded requests.
    pub fn figures(&self) -> NodeFigures {
        let forwarded = self.forwarded.load(Ordering::Relaxed);
        NodeFigures { forwarded, ..self.node.figures() }
    }

    fn options(&self) -> RwLockReadGuard<'_, ServiceOptions> {
        self.options.read().expect("nothing panics while it holds the options")
    }

    /// Answers a request on this node if it leads, else forwards it to the leader.
    async fn route(&self, request: Request, call: CallOptions) -> Result<Answer, Error> {
        let deadline = deadline(&call);
        match self.leader(deadline).await? {
            None => Box::pin(answer_here(&self.node, request)).await,
            Some(leader) => self.send_on(leader, request, call, deadline).await,
        }
    }

    /// The leader; `None` if it is this node.
    async fn leader(&self, deadline: Deadline) -> Result<Option<Leader>, Error> {
        let member = self.node.member();
        let mut known = member.leadership.get().leader;
        if known.is_none() {
            let wait = LEADER_WAIT.min(deadline.remaining() / 2);
            // Boxed, here and where a request is forwarded, so that the futures of the many
            // requests that need neither stay small: they are moved on their way to the executor.
            known = Box::pin(leadership::wait_for(member, wait, |known| known.leader)).await;
        }
        let Some(id) = known else { return Err(Error::unavailable("no leader is known")) };
        if id == member.id {
            return Ok(None);
        }
        let node = member.metrics_ref(|metrics| metrics.membership_config.get_node(&id).cloned());
        let logged = node.as_ref().map(|node| node.peer_addr.as_str());
        let Some(addr) = member.peers.addr(id, logged) else {
            return Err(Error::unavailable(format!("node {id} leads, its address is not known")));
        };
        Ok(Some(Leader { id, uuid: node.as_ref().map(|node| node.uuid), addr: addr.to_owned() }))
    }

    fn send_on(
        &self,
        leader: Leader,
        request: Request,
        call: CallOptions,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<Answer, Error>> {
        let asked = self.send_all_on(leader, vec![(request, call)], deadline);
        Box::pin(asked.map(|mut answers| answers.pop().expect("one answer for each request")))
    }

    /// Sends all requests to the leader, in this order; returns one answer for each.
    async fn send_all_on(
        &self,
        leader: Leader,
        items: Vec<Item>,
        deadline: Deadline,
    ) -> Vec<Result<Answer, Error>> {
        self.forwarded.fetch_add(items.len() as u64, Ordering::Relaxed);
        let outcomes = self.courier.ask(leader, items, deadline).await;
        let mut answers = Vec::with_capacity(outcomes.len());
        let mut moved = Vec::new();
        for outcome in outcomes {
            answers.push(match outcome {
                Outcome::Told(answer) => answer,
                Outcome::Moved(request) => {
                    moved.push((answers.len(), *request));
                    Err(mixed_up())
                }
            });
        }
        if !moved.is_empty() {
            Box::pin(self.ask_again(moved, &mut answers, deadline)).await;
        }
        answers
    }

    /// Sends requests to the current leader. Each round needs another change of leader; the
    /// deadline ends them.
    async fn ask_again(
        &self,
        mut moved: Vec<(usize, Moved)>,
        answers: &mut [Result<Answer, Error>],
        deadline: Deadline,
    ) {
        while !moved.is_empty() {
            let mut asked = Vec::with_capacity(moved.len());
            let mut items = Vec::with_capacity(moved.len());
            for (at, Moved { item, open }) in moved.drain(..) {
                asked.push((at, open, item.0.is_read()));
                items.push(item);
            }
            let outcomes = match self.leader(deadline).await {
                Err(error) => items.iter().map(|_| Outcome::Told(Err(error.clone()))).collect(),
                Ok(None) => self.ask_here(items, deadline).await,
                Ok(Some(leader)) => self.courier.ask(leader, items, deadline).await,
            };
            for ((at, open, is_read), outcome) in asked.into_iter().zip(outcomes) {
                match outcome {
                    Outcome::Told(answer) => answers[at] = in_doubt(answer, open, is_read),
                    Outcome::Moved(request) => {
                        let open = open || request.open;
                        moved.push((at, Moved { open, ..*request }));
                    }
                }
            }
        }
    }

    /// Answers on this node requests that were on their way to the previous leader.
    async fn ask_here(&self, items: Vec<Item>, deadline: Deadline) -> Vec<Outcome> {
        let reads: Vec<bool> = items.iter().map(|(request, _)| request.is_read()).collect();
        let requests = items.into_iter().map(|(request, _)| request).collect();
        let mut outcomes: Vec<Option<Outcome>> = reads.iter().map(|_| None).collect();
        let answers = answer_all(&self.node, requests).for_each(|decided| {
            for (number, answer) in decided {
                outcomes[number] = Some(Outcome::Told(answer));
            }
            std::future::ready(())
        });
        let _ended = deadline.bound(answers).await;
        let late = |is_read| Outcome::Told(Err(lost(is_read, "no answer in time")));
        let outcomes = outcomes.into_iter().zip(reads);
        outcomes.map(|(told, is_read)| told.unwrap_or_else(|| late(is_read))).collect()
    }

    /// Forwards the valid requests of a batch together.
    async fn send_batch_on(
        &self,
        leader: Leader,
        requests: Vec<BatchRequest>,
        deadline: Deadline,
    ) -> Vec<Result<BatchAnswer, Error>> {
        let mut items = Vec::with_capacity(requests.len());
        let mut asked = Vec::with_capacity(requests.len());
        for request in requests {
            let call = request.call().clone();
            asked.push(command_of(&request).map(|_| items.push((request.into(), call))));
        }
        let mut answers = self.send_all_on(leader, items, deadline).await.into_iter();
        let mut next = || answers.next().expect("one answer for each request");
        let answer = |asked: Result<(), Error>| {
            asked?;
            next()?.batch().ok_or_else(mixed_up)
        };
        asked.into_iter().map(answer).collect()
    }
}

/// The answer to a write that an earlier leader may have done already. A refusal by the current
/// leader proves nothing about the earlier one, so it becomes `Unknown`.
fn in_doubt(answer: Result<Answer, Error>, open: bool, is_read: bool) -> Result<Answer, Error> {
    match answer {
        Err(Error::Unavailable { reason, .. } | Error::LaneForgotten { reason })
            if open && !is_read =>
        {
            let reason = format!("the leader changed and may have done it before; now: {reason}");
            Err(lost(false, &reason))
        }
        answer => answer,
    }
}

/// Answers requests that another node has forwarded, each as soon as it is decided. They are not
/// forwarded again: if this node does not lead, it refuses them. The frames come in pieces as they
/// are ready; `None` if the message does not decode.
pub(crate) fn answer_forwarded(
    node: &Node,
    message: &[u8],
) -> Option<impl Stream<Item = Vec<Bytes>> + Send + use<>> {
    let requests = match wire::decode_requests(message) {
        Ok(requests) => requests,
        Err(error) => {
            tracing::warn!(%error, "forwarded requests are refused");
            return None;
        }
    };
    #[cfg(feature = "planted-bugs")]
    requests.iter().for_each(|request| planting::believe(node, request));
    let budget = node.budget().clone();
    let frames = move |decided: Decided| frames_of(&budget, decided);
    Some(answer_all(node, requests).map(frames))
}

/// Answers that were decided together, with the numbers of their requests.
type Decided = Vec<(usize, Result<Answer, Error>)>;

/// The answers as frames: small ones together, each large one by itself and counted until it is
/// written. An answer of a read that exceeds the budget is dropped, and replaced by a refusal.
fn frames_of(budget: &Budget, decided: Decided) -> Vec<Bytes> {
    let mut pieces = Vec::new();
    let mut small = BytesMut::new();
    for (number, answer) in decided {
        let mut frame = wire::encode_answer(number, &answer);
        let share = budget.take(frame.len());
        // Only a read has a large answer, so nothing was done.
        if share.is_none() && answer.is_ok_and(|answer| answer.is_of_a_read()) {
            frame = wire::encode_answer(number, &Err(budget::exhausted()));
        }
        match share {
            Some(share) if !share.is_free() => pieces.push(owned(frame, share)),
            Some(_) | None => small.extend_from_slice(&frame),
        }
    }
    if !small.is_empty() {
        pieces.push(small.freeze());
    }
    pieces
}

/// Answers many requests. Locks and releases are decided in their order, and together.
fn answer_all(node: &Node, requests: Vec<Request>) -> impl Stream<Item = Decided> + Send + use<> {
    let answers = FuturesUnordered::<BoxFuture<'static, Decided>>::new();
    let mut numbers = Vec::new();
    let mut batch = Vec::new();
    for (number, request) in requests.into_iter().enumerate() {
        match BatchRequest::try_from(request) {
            Ok(request) => {
                tracing::debug!(trace_id = request.call().trace_id, "a forwarded request");
                numbers.push(number);
                batch.push(request);
            }
            Err(other) => {
                let node = node.clone();
                answers
                    .push(Box::pin(async move { vec![(number, answer_here(&node, other).await)] }));
            }
        }
    }
    if !batch.is_empty() {
        let node = node.clone();
        answers.push(Box::pin(async move {
            let decided = node.batch(batch).await.into_iter();
            let decided = decided.map(|answer| answer.map(Answer::from));
            numbers.into_iter().zip(decided).collect()
        }));
    }
    answers
}

async fn answer_here(node: &Node, request: Request) -> Result<Answer, Error> {
    let trace_id = trace_id(&request).unwrap_or_default().to_owned();
    let span = tracing::debug_span!("answer", trace_id);
    ask(node, request, |by| node.debug_advance(by)).instrument(span).await
}

/// The answer of a service to a request from the wire; `advance` moves its clock.
pub(crate) async fn ask<S: LockService, F: Future<Output = Result<(), Error>>>(
    service: &S,
    request: Request,
    advance: impl FnOnce(Duration) -> F,
) -> Result<Answer, Error> {
    match request {
        Request::Lock(request, options) => service.lock(request, options).await.map(Answer::Lock),
        Request::Unlock(request, options) => {
            service.unlock(request, options).await.map(Answer::Unlock)
        }
        Request::Check(signature, options) => {
            service.check(signature, options).await.map(Answer::Check)
        }
        Request::List(request, options) => service.list(request, options).await.map(Answer::List),
        Request::Tables(request, options) => {
            service.tables(request, options).await.map(Answer::Tables)
        }
        Request::ConfigureTable(defaults, options) => {
            service.configure_table(defaults, options).await.map(|()| Answer::Done)
        }
        Request::DeleteTable(options) => {
            service.delete_table(options).await.map(Answer::TableDeleted)
        }
        Request::Advance(by) => advance(by).await.map(|()| Answer::Done),
    }
}

/// The call options of a request; `None` for a move of the clock.
pub(crate) fn call_of(request: &Request) -> Option<&CallOptions> {
    match request {
        Request::Lock(_, options) => Some(&options.call),
        Request::Unlock(_, options) => Some(&options.call),
        Request::Check(_, options) | Request::List(_, options) | Request::Tables(_, options) => {
            Some(&options.call)
        }
        Request::ConfigureTable(_, options) | Request::DeleteTable(options) => Some(&options.call),
        Request::Advance(_) => None,
    }
}

fn trace_id(request: &Request) -> Option<&str> {
    call_of(request)?.trace_id.as_deref()
}

/// The error for an answer of the wrong kind: the other node is broken, and may have done the
/// request.
fn mixed_up() -> Error {
    Error::unknown("the leader answered another question")
}

/// As [`mixed_up`]; a read has done nothing.
fn mixed_up_read() -> Error {
    Error::unavailable("the leader answered another question")
}

impl LockService for Forwarding {
    async fn lock(
        &self,
        request: LockRequest,
        mut options: LockOptions,
    ) -> Result<LockResponse, Error> {
        self.options().fill_lock(&mut options);
        // An invalid request is refused here, before anything is sent.
        let command = lock::lock_command(&request, &options)?;
        let deadline = deadline(&options.call);
        let Some(leader) = self.leader(deadline).await? else {
            let command = Traced { command, trace_id: options.call.trace_id };
            return self.node.propose(command, deadline).await?.into_lock_response();
        };
        let call = options.call.clone();
        let answer = self.send_on(leader, Request::Lock(request, options), call, deadline).await?;
        answer.lock().ok_or_else(mixed_up)
    }

    async fn unlock(
        &self,
        request: UnlockRequest,
        mut options: UnlockOptions,
    ) -> Result<UnlockResponse, Error> {
        self.options().fill_table(&mut options.table);
        let command = lock::unlock_command(&request, &options)?;
        let deadline = deadline(&options.call);
        let Some(leader) = self.leader(deadline).await? else {
            return self.node.propose(command.into(), deadline).await?.into_unlock_response();
        };
        let call = options.call.clone();
        let request = Request::Unlock(request, options);
        let answer = self.send_on(leader, request, call, deadline).await?;
        answer.unlock().ok_or_else(mixed_up)
    }

    async fn batch(&self, mut requests: Vec<BatchRequest>) -> Vec<Result<BatchAnswer, Error>> {
        self.options().fill_batch(&mut requests);
        let patience = requests.iter().map(|request| deadline(request.call()));
        let Some(deadline) = patience.max_by_key(Deadline::remaining) else { return Vec::new() };
        match self.leader(deadline).await {
            Ok(None) => self.node.batch(requests).await,
            Ok(Some(leader)) => Box::pin(self.send_batch_on(leader, requests, deadline)).await,
            Err(error) => vec![Err(error); requests.len()],
        }
    }

    async fn check(
        &self,
        signature: String,
        mut options: ReadOptions,
    ) -> Result<CheckResponse, Error> {
        self.options().fill_table(&mut options.table);
        lock::validate_read(&signature, &options)?;
        options.stale |= planted::active(Bug::LocalRead);
        if options.stale {
            return self.node.check(signature, options).await;
        }
        let deadline = deadline(&options.call);
        let Some(leader) = self.leader(deadline).await? else {
            return self.node.check(signature, options).await;
        };
        let call = options.call.clone();
        let request = Request::Check(signature, options);
        let answer = self.send_on(leader, request, call, deadline).await?;
        answer.check().ok_or_else(mixed_up_read)
    }

    async fn list(
        &self,
        request: ListRequest,
        mut options: ReadOptions,
    ) -> Result<ListResponse, Error> {
        self.options().fill_table(&mut options.table);
        lock::validate_list(&request, &options)?;
        if options.stale {
            return self.node.list(request, options).await;
        }
        let call = options.call.clone();
        self.route(Request::List(request, options), call).await?.list().ok_or_else(mixed_up_read)
    }

    async fn tables(
        &self,
        request: TablesRequest,
        options: ReadOptions,
    ) -> Result<TablesResponse, Error> {
        lock::validate_tables(&request)?;
        if options.stale {
            return self.node.tables(request, options).await;
        }
        let call = options.call.clone();
        self.route(Request::Tables(request, options), call)
            .await?
            .tables()
            .ok_or_else(mixed_up_read)
    }

    async fn configure_table(
        &self,
        defaults: TableDefaults,
        mut options: TableOptions,
    ) -> Result<(), Error> {
        self.options().fill_table(&mut options.table);
        lock::configure_table_command(&defaults, &options)?;
        let call = options.call.clone();
        self.route(Request::ConfigureTable(defaults, options), call)
            .await?
            .done()
            .ok_or_else(mixed_up)
    }

    async fn delete_table(&self, mut options: TableOptions) -> Result<DeleteStatus, Error> {
        self.options().fill_table(&mut options.table);
        lock::delete_table_command(&options)?;
        let call = options.call.clone();
        self.route(Request::DeleteTable(options), call).await?.table_deleted().ok_or_else(mixed_up)
    }
}

impl DebugLockService for Forwarding {
    async fn set_default_duration(&self, duration: Duration) -> Result<(), Error> {
        lock::validate_duration(duration)?;
        let mut options = self.options.write().expect("nothing panics while it holds the options");
        options.default_duration = Some(duration);
        Ok(())
    }

    async fn advance_clock(&self, by: Duration) -> Result<(), Error> {
        self.route(Request::Advance(by), CallOptions::default()).await?.done().ok_or_else(mixed_up)
    }
}
