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

mod batcher;
mod frames;
mod leaving;
mod results;
pub mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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
use crate::lock::{Command, Decision, Invalid, Query, View};
use crate::node::{Node, Wait, deadline};
use crate::raft::leadership;
use crate::service::{DebugLockService, LockService};
use crate::types::CallOptions;
use batcher::{Batcher, Leader, Moved, Outcome, lost};
use leaving::Leaving;
use wire::{Answer, Request, mixed_up};

/// The longest time that a request waits for a leader to become known; also at most half of the
/// request's own timeout. It is longer than an election takes once it has begun, but does not cover
/// the time until a dead leader is noticed.
const LEADER_WAIT: Duration = Duration::from_millis(500);

/// Answers on any node: itself if it leads, else the leader in one hop.
pub struct Forwarding {
    router: Arc<Router>,
    leaving: Leaving,
}

/// The way of a request to the leader.
struct Router {
    node: Node,
    batcher: Batcher,
    forwarded: AtomicU64,
}

impl Forwarding {
    /// Forwards requests that arrive at this node. It starts a task, so a runtime must be entered.
    pub fn new(node: Node) -> Self {
        let batcher = Batcher::new(node.clone());
        let router = Arc::new(Router { batcher, node, forwarded: AtomicU64::new(0) });
        Self { leaving: Leaving::start(&router), router }
    }

    /// The local node.
    pub fn node(&self) -> &Node {
        &self.router.node
    }

    /// The node's figures, with the number of forwarded requests.
    pub fn figures(&self) -> NodeFigures {
        let forwarded = self.router.forwarded.load(Ordering::Relaxed);
        NodeFigures { forwarded, ..self.node().figures() }
    }
}

impl Router {
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

    /// Sends a request to the leader; returns one result for each of its answers.
    fn send(
        &self,
        leader: Leader,
        request: Request,
        trace_id: Option<String>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Vec<Result<Answer, Error>>> {
        Box::pin(async move {
            self.forwarded.fetch_add(request.answers() as u64, Ordering::Relaxed);
            let trace = trace_id.clone();
            let outcomes = self.batcher.ask(leader, request, trace, deadline).await;
            let mut answers = Vec::with_capacity(outcomes.len());
            let mut moved = Vec::new();
            for outcome in outcomes {
                answers.push(match outcome {
                    Outcome::Answered(answer) => answer,
                    Outcome::Moved(request) => {
                        moved.push((answers.len(), *request));
                        Err(mixed_up())
                    }
                });
            }
            if !moved.is_empty() {
                self.send_again(moved, &mut answers, trace_id, deadline).await;
            }
            answers
        })
    }

    /// Sends parts of a request to the current leader. Each round needs another change of leader;
    /// the deadline ends them.
    async fn send_again(
        &self,
        mut moved: Vec<(usize, Moved)>,
        answers: &mut [Result<Answer, Error>],
        trace_id: Option<String>,
        deadline: Deadline,
    ) {
        loop {
            let mut asked = Vec::with_capacity(moved.len());
            let mut parts = Vec::with_capacity(moved.len());
            for (at, Moved { request, open }) in moved.drain(..) {
                asked.push((at, open));
                parts.push(request);
            }
            let Some(request) = Request::join(parts) else { return };
            let is_read = request.is_read();
            let trace = trace_id.clone();
            let outcomes = match self.leader(deadline).await {
                Err(error) => asked.iter().map(|_| Outcome::Answered(Err(error.clone()))).collect(),
                Ok(None) => self.ask_here(request, trace, deadline).await,
                Ok(Some(leader)) => self.batcher.ask(leader, request, trace, deadline).await,
            };
            for ((at, open), outcome) in asked.into_iter().zip(outcomes) {
                match outcome {
                    Outcome::Answered(answer) => answers[at] = in_doubt(answer, open, is_read),
                    Outcome::Moved(request) => {
                        let open = open || request.open;
                        moved.push((at, Moved { open, ..*request }));
                    }
                }
            }
        }
    }

    async fn decide_valid(
        &self,
        commands: Vec<Command>,
        trace_id: Option<String>,
        deadline: Deadline,
    ) -> Vec<Result<Decision, Error>> {
        if commands.is_empty() {
            return Vec::new();
        }
        match self.leader(deadline).await {
            Ok(None) => self.node.decide_valid(commands, trace_id, deadline).await,
            Ok(Some(leader)) => {
                let request = Request::Decide(commands);
                let answers = self.send(leader, request, trace_id, deadline).await;
                answers.into_iter().map(|answer| answer?.into_decision()).collect()
            }
            Err(error) => commands.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    /// Answers on this node a request that was on its way to the previous leader.
    async fn ask_here(
        &self,
        request: Request,
        trace_id: Option<String>,
        deadline: Deadline,
    ) -> Vec<Outcome> {
        let (is_read, answers) = (request.is_read(), request.answers());
        let call = CallOptions { trace_id, ..CallOptions::within(deadline.remaining()) };
        let answered = deadline.bound(answer_here(&self.node, request, call)).await;
        let late = || vec![Err(lost(is_read, "no answer in time")); answers];
        answered.unwrap_or_else(late).into_iter().map(Outcome::Answered).collect()
    }
}

impl Forwarding {
    /// The answer to a request that waits for its turn: the decision itself, unless it is a place;
    /// then what becomes of the place. Outside of a session the place is left if this is dropped.
    async fn decide_in_turn(
        &self,
        wait: Wait,
        command: Vec<Command>,
        call: CallOptions,
    ) -> Result<Decision, Error> {
        let (deadline, trace_id) = (wait.deadline(&call), call.trace_id);
        let (decision, caller) = if wait.ends_with_caller() {
            // A task of its own: if the caller goes away before its place is known, it is left yet.
            let router = Arc::clone(&self.router);
            let deciding =
                async move { only(router.decide_valid(command, trace_id, deadline).await) };
            let mut caller = self.leaving.caller(wait.clone(), deciding);
            (caller.decision().await?, Some(caller))
        } else {
            (only(self.router.decide_valid(command, trace_id, deadline).await)?, None)
        };
        let Some(awaited) = wait.after(&decision) else { return Ok(decision) };
        let ended = self.node().wait_out(&awaited, decision, deadline).await;
        if let Some(caller) = caller {
            caller.answered();
        }
        ended
    }
}

/// The answer to a write that an earlier leader may have done already. A refusal by the current
/// leader proves nothing about the earlier one, so it becomes `Unknown`.
fn in_doubt(answer: Result<Answer, Error>, open: bool, is_read: bool) -> Result<Answer, Error> {
    match answer {
        // The rules may have changed since, too, and they are judged before the lanes.
        Err(
            Error::Unavailable { reason, .. }
            | Error::LaneForgotten { reason }
            | Error::Unauthorized { reason }
            | Error::NotAllowed { reason },
        ) if open && !is_read => {
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
    let writes = FuturesUnordered::<BoxFuture<'static, Decided>>::new();
    let others = FuturesUnordered::<BoxFuture<'static, Decided>>::new();
    let mut first = 0;
    for (request, call) in requests {
        let (node, numbers) = (node.clone(), first..);
        first += request.answers();
        let answers = if matches!(request, Request::Decide(_)) { &writes } else { &others };
        let answer = async move { answer_here(&node, request, call).await };
        answers.push(Box::pin(answer.map(|answers| numbers.zip(answers).collect())));
    }
    // Commands that share an entry are answered together. Pages are large: the next one is looked at
    // when the one before it is on its way.
    let writes = writes.ready_chunks(MAX_CHUNK).map(|ready| ready.into_iter().flatten().collect());
    let budget = node.budget().clone();
    let frames = move |decided: Decided| frames_of(&budget, decided);
    Some(futures::stream::select(writes, others).map(frames))
}

/// The most calls whose decisions are looked at together.
const MAX_CHUNK: usize = 1024;

/// Answers that were decided together, with their numbers.
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
        if share.is_none() && matches!(answer, Ok(Answer::View(_))) {
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

async fn answer_here(
    node: &Node,
    request: Request,
    call: CallOptions,
) -> Vec<Result<Answer, Error>> {
    let span = tracing::debug_span!("answer", trace_id = call.trace_id);
    ask(node, request, call, |by| node.debug_advance(by)).instrument(span).await
}

/// The answers of a service to a request from the wire; `advance` moves its clock.
pub async fn ask<S: LockService, F: Future<Output = Result<(), Error>>>(
    service: &S,
    request: Request,
    call: CallOptions,
    advance: impl FnOnce(Duration) -> F,
) -> Vec<Result<Answer, Error>> {
    match request {
        Request::Decide(commands) => {
            let decided = service.decide(commands, call).await;
            decided.into_iter().map(|decision| decision.map(Answer::Decision)).collect()
        }
        Request::Read(query) => vec![service.read(query, call).await.map(Answer::View)],
        Request::Advance(by) => vec![advance(by).await.map(|()| Answer::Advanced)],
    }
}

/// The only answer to a request that has one.
fn only<T>(answers: Vec<Result<T, Error>>) -> Result<T, Error> {
    answers.into_iter().next().expect("each request has its answers")
}

impl LockService for Forwarding {
    async fn decide(
        &self,
        mut commands: Vec<Command>,
        call: CallOptions,
    ) -> Vec<Result<Decision, Error>> {
        // Invalid commands are refused here, before anything is sent.
        let invalid = Invalid::remove_by(&mut commands, |command| {
            command.validate()?;
            self.node().allows(command.level())
        });
        // Of several commands none is waited for, because all are answered together.
        let alone = <&[Command; 1]>::try_from(&*commands).ok();
        let decided = if let Some(wait) = alone.and_then(|[command]| Wait::of(command)) {
            // Boxed: most requests do not wait, and need no room for it.
            vec![Box::pin(self.decide_in_turn(wait, commands, call)).await]
        } else {
            let deadline = deadline(&call);
            self.router.decide_valid(commands, call.trace_id, deadline).await
        };
        invalid.merge(decided)
    }

    async fn read(&self, query: Query, call: CallOptions) -> Result<View, Error> {
        if query.stale {
            return self.node().read(query, call).await;
        }
        query.validate()?;
        let (router, deadline) = (&self.router, deadline(&call));
        match router.leader(deadline).await? {
            None => {
                let call = CallOptions { timeout: Some(deadline.remaining()), ..call };
                router.node.read(query, call).await
            }
            Some(leader) => {
                router.node.allows(query.level())?;
                let answers = router.send(leader, Request::Read(query), call.trace_id, deadline);
                only(answers.await)?.into_view()
            }
        }
    }
}

impl DebugLockService for Forwarding {
    async fn advance_clock(&self, by: Duration) -> Result<(), Error> {
        let (router, deadline) = (&self.router, deadline(&CallOptions::default()));
        match router.leader(deadline).await? {
            None => router.node.debug_advance(by).await,
            Some(leader) => {
                let answers = router.send(leader, Request::Advance(by), None, deadline);
                only(answers.await)?.into_advanced()
            }
        }
    }
}
