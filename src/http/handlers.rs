//! The handlers, one for each path and method: they read the request, call the service within the
//! deadline and write the answer.

use std::time::Duration;

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use super::answer::{Refusal, accepted, json};
use super::dispatch::no_such_path;
use super::request::{Arriving, Call, ClientRequest};
use super::slots::Slot;
use super::{Context, openapi};
use crate::api::{
    AdvanceBody, CheckAnswer, CheckQuery, CloseAnswer, CloseStatusWord, ClusterStatus, Code,
    DeadlocksAnswer, DeadlocksQuery, DeleteAnswer, DoneAnswer, KeepAliveAnswer, KeepAliveBody,
    LimitAnswer, LimitBody, LimitStatusWord, ListAnswer, ListQuery, LockAnswer, LockBody, Problem,
    SessionAnswer, SessionBody, SessionQuery, TableBody, TableQuery, TablesAnswer, TablesQuery,
    UnlockAnswer, UnlockBody, VerifyAnswer, VerifyBody, WaitingAnswer, routes,
};
use crate::budget::{self, Share};
use crate::error::Error;
use crate::lock::{Command, Decision, Operation, Query, View};
use crate::service::LockService;
use crate::types::{
    CloseStatus, ListRequest, LockStatus, SessionStatus, TablesRequest, UnlockStatus,
};

pub(crate) type Answer = Result<Response, Refusal>;

/// Takes, renews or takes over a lock.
#[utoipa::path(post, path = routes::LOCK, tag = "locks", request_body = LockBody,
    params(openapi::CallHeaders),
    responses(
        (status = 200, description = "The requester has the lock", body = LockAnswer),
        (status = 202, description = "The request waits; ask again under its request_id",
            body = WaitingAnswer),
        (status = 423, description = "Refused; nothing changed", body = Problem),
        openapi::WriteProblems,
    ))]
pub(crate) async fn lock<S: LockService, B: Arriving>(
    context: &Context<S>,
    request: ClientRequest<B>,
) -> Answer {
    let slot = request.slot.clone();
    let (mut call, body): (_, LockBody) = request.body(&context.settings).await?;
    call.wait(Duration::from_millis(body.wait_ms.unwrap_or(0)));
    let command = body.into_command()?;
    Call::judge_share(call.keeps, &command)?;
    // A place outside of a session is left when its caller has gone.
    let _watched = slot.filter(|_| command.ends_with_caller()).map(Slot::watch);
    let decision = decide(context, call, command).await?;
    let response = decision.into_lock_response()?;
    if let Some(waiting) = response.waiting() {
        return Ok(accepted(&WaitingAnswer::new(waiting), response.decided_at));
    }
    if let LockStatus::Failed(forbidden) = &response.status {
        return Err(Refusal::from(Problem::forbidden(forbidden)).decided_at(response.decided_at));
    }
    let answer = LockAnswer::new(&response).expect("what was not refused is a grant");
    Ok(json(&answer, response.decided_at))
}

/// Releases a lock.
#[utoipa::path(post, path = routes::UNLOCK, tag = "locks", request_body = UnlockBody,
    params(openapi::CallHeaders),
    responses(
        (status = 200, description = "The lock no longer exists", body = UnlockAnswer),
        (status = 423, description = "Refused; nothing changed", body = Problem),
        openapi::WriteProblems,
    ))]
pub(crate) async fn unlock<S: LockService, B: Arriving>(
    context: &Context<S>,
    request: ClientRequest<B>,
) -> Answer {
    let (call, body): (_, UnlockBody) = request.body(&context.settings).await?;
    let decision = decide(context, call, body.into_command()?).await?;
    let response = decision.into_unlock_response()?;
    if let UnlockStatus::Failed(forbidden) = &response.status {
        return Err(Refusal::from(Problem::forbidden(forbidden)).decided_at(response.decided_at));
    }
    let answer = UnlockAnswer::new(&response).expect("what was not refused was released");
    Ok(json(&answer, response.decided_at))
}

/// Reads one record. It tells what *was*: a lock is held by holding it, not by looking.
#[utoipa::path(get, path = routes::LOCK, tag = "locks", params(CheckQuery, openapi::CallHeaders),
    responses(
        (status = 200, description = "The record", body = CheckAnswer),
        (status = 404, description = "There is no such record", body = Problem),
        openapi::ReadProblems,
    ))]
pub(crate) async fn check<S: LockService, B: Arriving>(
    context: &Context<S>,
    request: ClientRequest<B>,
) -> Answer {
    let (call, query): (_, CheckQuery) = request.query()?;
    let response = read(context, call, query.into()).await?.into_check()?;
    Ok(json(&CheckAnswer::from(&response.record), response.decided_at))
}

/// Reads a page of a table, in byte order of the signatures. Pages are not one snapshot.
#[utoipa::path(get, path = routes::LOCKS, tag = "locks", params(ListQuery, openapi::CallHeaders),
    responses(
        (status = 200, description = "The page", body = ListAnswer),
        (status = 404, description = "There is no such session", body = Problem),
        openapi::ReadProblems,
    ))]
pub(crate) async fn list<S: LockService, B: Arriving>(
    context: &Context<S>,
    request: ClientRequest<B>,
) -> Answer {
    let (call, query): (_, ListQuery) = request.query()?;
    let _room = room_for(context, query.limit.unwrap_or(ListRequest::DEFAULT_LIMIT))?;
    if query.session.is_some() {
        let response = read(context, call, query.into()).await?.into_session_locks()?;
        return Ok(json(&ListAnswer::from(&response), response.decided_at));
    }
    let response = read(context, call, query.into()).await?.into_list()?;
    Ok(json(&ListAnswer::from(&response), response.decided_at))
}

/// Opens a session: liveness that many grants and places share.
#[utoipa::path(post, path = routes::SESSIONS, tag = "sessions", request_body = SessionBody,
    params(openapi::CallHeaders),
    responses(
        (status = 200, description = "The session is open", body = SessionAnswer),
        (status = 423, description = "Refused; nothing changed", body = Problem),
        openapi::WriteProblems,
    ))]
pub(crate) async fn open_session<S: LockService, B: Arriving>(
    context: &Context<S>,
    request: ClientRequest<B>,
) -> Answer {
    let (call, body): (_, SessionBody) = request.body(&context.settings).await?;
    let decision = decide(context, call, body.into_command()?).await?;
    let decided_at = decision.decided_at;
    match decision.into_session()? {
        SessionStatus::Open(session) => Ok(json(&SessionAnswer::from(&session), decided_at)),
        SessionStatus::Failed(forbidden) => {
            Err(Refusal::from(Problem::forbidden(&forbidden)).decided_at(decided_at))
        }
    }
}

/// Keeps sessions alive, and reads their inboxes.
#[utoipa::path(post, path = routes::KEEPALIVE, tag = "sessions", request_body = KeepAliveBody,
    params(openapi::CallHeaders),
    responses(
        (status = 200, description = "One answer for each session", body = KeepAliveAnswer),
        openapi::WriteProblems,
    ))]
pub(crate) async fn keep_alive<S: LockService, B: Arriving>(
    context: &Context<S>,
    request: ClientRequest<B>,
) -> Answer {
    let (call, body): (_, KeepAliveBody) = request.body(&context.settings).await?;
    call.no_idempotency_key()?;
    let command = body.into_command()?;
    let Operation::KeepAlive(asked) = &command.operation else {
        unreachable!("the body is that of a keep-alive")
    };
    let asked = asked.clone();
    let decision = decide(context, call, command).await?;
    let decided_at = decision.decided_at;
    Ok(json(&KeepAliveAnswer::new(&asked, &decision.into_kept_alive()?), decided_at))
}

/// Closes a session, with its grants and places.
#[utoipa::path(delete, path = routes::SESSIONS, tag = "sessions",
    params(SessionQuery, openapi::CallHeaders),
    responses(
        (status = 200, description = "There is no such session any more", body = CloseAnswer),
        openapi::WriteProblems,
    ))]
pub(crate) async fn close_session<S: LockService, B: Arriving>(
    context: &Context<S>,
    request: ClientRequest<B>,
) -> Answer {
    let (call, query): (_, SessionQuery) = request.query()?;
    let decision = decide(context, call, query.into()).await?;
    let decided_at = decision.decided_at;
    let status = match decision.into_close_status()? {
        CloseStatus::Ok => CloseStatusWord::Ok,
        CloseStatus::NoSession => CloseStatusWord::NoSession,
    };
    Ok(json(&CloseAnswer { status }, decided_at))
}

/// Reads whether a token is live.
#[utoipa::path(post, path = routes::VERIFY, tag = "locks", request_body = VerifyBody,
    params(openapi::CallHeaders),
    responses(
        (status = 200, description = "Whether it is", body = VerifyAnswer),
        openapi::BodyProblems,
        openapi::ReadProblems,
    ))]
pub(crate) async fn verify<S: LockService, B: Arriving>(
    context: &Context<S>,
    request: ClientRequest<B>,
) -> Answer {
    let (call, body): (_, VerifyBody) = request.body(&context.settings).await?;
    let response = read(context, call, body.into_query()?).await?.into_verify()?;
    Ok(json(&VerifyAnswer::from(&response), response.decided_at))
}

/// Changes the limit of a lock in mode permits. Too many holders stay until they go.
#[utoipa::path(put, path = routes::LIMIT, tag = "locks", request_body = LimitBody,
    params(openapi::CallHeaders),
    responses(
        (status = 200, description = "Whether the lock has a limit", body = LimitAnswer),
        openapi::WriteProblems,
    ))]
pub(crate) async fn set_limit<S: LockService, B: Arriving>(
    context: &Context<S>,
    request: ClientRequest<B>,
) -> Answer {
    let (call, body): (_, LimitBody) = request.body(&context.settings).await?;
    let decision = decide(context, call, body.into_command()?).await?;
    let decided_at = decision.decided_at;
    let status =
        if decision.into_limit()? { LimitStatusWord::Ok } else { LimitStatusWord::NoLimit };
    Ok(json(&LimitAnswer { status }, decided_at))
}

/// Reads the cycles of owners that hold and wait.
#[utoipa::path(get, path = routes::DEADLOCKS, tag = "locks",
    params(DeadlocksQuery, openapi::CallHeaders),
    responses(
        (status = 200, description = "The cycles", body = DeadlocksAnswer),
        openapi::ReadProblems,
    ))]
pub(crate) async fn deadlocks<S: LockService, B: Arriving>(
    context: &Context<S>,
    request: ClientRequest<B>,
) -> Answer {
    let (call, query): (_, DeadlocksQuery) = request.query()?;
    let response = read(context, call, query.into()).await?.into_deadlocks()?;
    Ok(json(&DeadlocksAnswer::from(&response), response.decided_at))
}

/// Reads a page of the tables that have defaults or records, in byte order. Pages are not one
/// snapshot.
#[utoipa::path(get, path = routes::TABLES, tag = "tables",
    params(TablesQuery, openapi::CallHeaders),
    responses(
        (status = 200, description = "The page", body = TablesAnswer),
        openapi::ReadProblems,
    ))]
pub(crate) async fn tables<S: LockService, B: Arriving>(
    context: &Context<S>,
    request: ClientRequest<B>,
) -> Answer {
    let (call, query): (_, TablesQuery) = request.query()?;
    let _room = room_for(context, query.limit.unwrap_or(TablesRequest::DEFAULT_LIMIT))?;
    let response = read(context, call, query.into()).await?.into_tables()?;
    Ok(json(&TablesAnswer::from(&response), response.decided_at))
}

/// Sets what a table gives to later requests that leave it out.
#[utoipa::path(put, path = routes::TABLE, tag = "tables", request_body = TableBody,
    params(openapi::CallHeaders),
    responses(
        (status = 200, description = "Done", body = DoneAnswer),
        openapi::WriteProblems,
    ))]
pub(crate) async fn configure_table<S: LockService, B: Arriving>(
    context: &Context<S>,
    request: ClientRequest<B>,
) -> Answer {
    let (call, body): (_, TableBody) = request.body(&context.settings).await?;
    decide(context, call, body.into_command()?).await?.into_done()?;
    Ok(json(&DoneAnswer::default(), None))
}

/// Deletes a table whole: its records and its defaults. Tokens go on growing.
#[utoipa::path(delete, path = routes::TABLE, tag = "tables",
    params(TableQuery, openapi::CallHeaders),
    responses(
        (status = 200, description = "There is no such table any more", body = DeleteAnswer),
        openapi::WriteProblems,
    ))]
pub(crate) async fn delete_table<S: LockService, B: Arriving>(
    context: &Context<S>,
    request: ClientRequest<B>,
) -> Answer {
    let (call, query): (_, TableQuery) = request.query()?;
    let status = decide(context, call, query.into()).await?.into_delete_status()?;
    Ok(json(&DeleteAnswer::from(status), None))
}

/// The cluster as the node that is asked sees it.
#[utoipa::path(get, path = routes::CLUSTER, tag = "node",
    responses((status = 200, description = "What this node knows", body = ClusterStatus)))]
pub(crate) async fn cluster<S: LockService>(context: &Context<S>) -> Answer {
    let status = context.node.status().ok_or_else(no_such_path)?;
    Ok(json(&status, None))
}

/// The process answers. Says nothing about the cluster.
#[utoipa::path(get, path = routes::HEALTHZ, tag = "node",
    responses((status = 200, description = "It does", body = DoneAnswer)))]
pub(crate) async fn healthz() -> Answer {
    Ok(json(&DoneAnswer::default(), None))
}

/// The node can serve requests now.
#[utoipa::path(get, path = routes::READYZ, tag = "node",
    responses(
        (status = 200, description = "It can", body = DoneAnswer),
        (status = 503, description = "It cannot; the detail says why", body = Problem),
    ))]
pub(crate) async fn readyz<S: LockService>(context: &Context<S>) -> Answer {
    let ready = context.node.ready();
    ready.map_err(|reason| Refusal::new(Code::Unavailable, reason))?;
    Ok(json(&DoneAnswer::default(), None))
}

/// Figures of this node in the Prometheus text format.
#[utoipa::path(get, path = routes::METRICS, tag = "node",
    responses((status = 200, description = "The figures", body = String,
        content_type = "text/plain; version=0.0.4")))]
pub(crate) async fn metrics<S: LockService>(context: &Context<S>) -> Answer {
    let (figures, audit) = (context.node.figures(), context.node.audit());
    let figures = figures.as_ref().map(|figures| (figures, audit.unwrap_or_default()));
    let jwts = context.settings.issuers.as_ref().map(|issuers| issuers.figures());
    let limited = context.limiter.refused();
    let certificates = &context.settings.certificates;
    let text = context.metrics.render(figures, certificates, jwts.as_ref(), limited);
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

/// This API, described.
#[utoipa::path(get, path = routes::OPENAPI, tag = "node",
    responses((status = 200, description = "An OpenAPI document", body = Object)))]
pub(crate) async fn description() -> Answer {
    Ok(json(&openapi::document(), None))
}

/// Moves the clock of the cluster forward. Not part of the API: it exists only on nodes that were
/// started for tests.
pub(crate) async fn advance<S: LockService, B: Arriving>(
    context: &Context<S>,
    request: ClientRequest<B>,
) -> Answer {
    let (call, body): (_, AdvanceBody) = request.body(&context.settings).await?;
    let advanced = context.node.advance(Duration::from_millis(body.by_ms));
    call.deadline.bound(advanced).await.unwrap_or_else(no_answer)?;
    Ok(json(&DoneAnswer::default(), None))
}

/// Bytes of one record in an answer, with names of usual length.
const RECORD_BYTES: usize = 1024;

/// Reserves room for an answer before it is made. Its size is known only once it exists; without
/// the reservation, pages for which there is no room in the end would all be made first.
fn room_for<S>(context: &Context<S>, records: u32) -> Result<Share, Refusal> {
    const _: () = assert!(ListRequest::MAX_LIMIT == TablesRequest::MAX_LIMIT, "one bound for both");
    let records = usize::try_from(records.min(ListRequest::MAX_LIMIT)).unwrap_or(usize::MAX);
    let room = context.settings.budget.take(records.saturating_mul(RECORD_BYTES));
    room.ok_or_else(|| Refusal::from(budget::exhausted()))
}

/// Passes a command to the service, with the request id of its headers if it has none itself.
pub(super) async fn decide<S: LockService>(
    context: &Context<S>,
    call: Call,
    mut command: Command,
) -> Result<Decision, Refusal> {
    command.request_id = call.request_id(command.request_id)?;
    let mut decisions = decide_all(context, call, vec![command]).await;
    Ok(decisions.pop().unwrap_or_else(no_answer)?)
}

/// Passes commands to the service, with the principal and the cause of their call: one answer for each. At the
/// deadline the outcome of all of them is unknown.
pub(super) async fn decide_all<S: LockService>(
    context: &Context<S>,
    mut call: Call,
    mut commands: Vec<Command>,
) -> Vec<Result<Decision, Error>> {
    let (count, deadline, cause) = (commands.len(), call.deadline, call.cause.take());
    let principal = call.principal.take();
    for command in &mut commands {
        command.cause.clone_from(&cause);
        command.principal.clone_from(&principal);
    }
    let decided = deadline.bound(context.service.decide(commands, call.options())).await;
    decided.unwrap_or_else(|| vec![no_answer(); count])
}

/// Passes a query to the service, with the principal of its call. It changes nothing, whenever it is dropped.
pub(super) async fn read<S: LockService>(
    context: &Context<S>,
    mut call: Call,
    query: Query,
) -> Result<View, Refusal> {
    let deadline = call.deadline;
    let query = Query { principal: call.principal.take(), ..query };
    let view = deadline.bound(context.service.read(query, call.options())).await;
    Ok(view.unwrap_or_else(|| Err(Error::unavailable("no answer in time")))?)
}

/// The result of a write that was not answered by the deadline.
fn no_answer<T>() -> Result<T, Error> {
    Err(Error::unknown("no answer in time; the request may have been done"))
}
