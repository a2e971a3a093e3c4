//! The handlers, one for each path: they read the request, call the service within the deadline and
//! write the answer.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};

use super::answer::{Refusal, json};
use super::batch::batch;
use super::request::{self, Arriving, Asked, Call};
use super::{Context, observe, openapi, welcome};
use crate::api::{
    AdvanceBody, CheckAnswer, CheckQuery, ClusterStatus, Code, DeleteAnswer, DoneAnswer,
    ListAnswer, ListQuery, LockAnswer, LockBody, Problem, TableBody, TableQuery, TablesAnswer,
    TablesQuery, UnlockAnswer, UnlockBody, routes,
};
use crate::budget::{self, Share};
use crate::error::Error;
use crate::lock::{Command, Decision, Query, View};
use crate::service::LockService;
use crate::types::{ListRequest, LockStatus, TablesRequest, UnlockStatus};

pub(crate) type Answer = Result<Response, Refusal>;

/// Every path, with the layers that see every request.
pub(crate) fn router<S: LockService>(context: Arc<Context<S>>) -> Router {
    let mut router = Router::new()
        .route(routes::ROOT, get(welcome::welcome::<S>))
        .route(routes::LOCK, post(lock::<S, Body>).get(check::<S, Body>))
        .route(routes::UNLOCK, post(unlock::<S, Body>))
        .route(routes::BATCH, post(batch::<S>))
        .route(routes::LOCKS, get(list::<S>))
        .route(routes::TABLES, get(tables::<S>))
        .route(routes::TABLE, put(configure_table::<S>).delete(delete_table::<S>))
        .route(routes::HEALTHZ, get(healthz))
        .route(routes::READYZ, get(readyz::<S>))
        .route(routes::METRICS, get(metrics::<S>))
        .route(routes::OPENAPI, get(description));
    if context.extras.status.is_some() {
        router = router.route(routes::CLUSTER, get(cluster::<S>));
    }
    if context.extras.advance.is_some() {
        router = router.route(routes::DEBUG_ADVANCE, post(advance::<S>));
    }
    router
        .fallback(no_such_path)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&context), observe::observe::<S>))
        .with_state(context)
}

/// Takes, renews or takes over a lock.
#[utoipa::path(post, path = routes::LOCK, tag = "locks", request_body = LockBody,
    params(openapi::CallHeaders),
    responses(
        (status = 200, description = "The requester has the lock", body = LockAnswer),
        (status = 423, description = "Refused; nothing changed", body = Problem),
        openapi::WriteProblems,
    ))]
pub(crate) async fn lock<S: LockService, B: Arriving>(
    State(context): State<Arc<Context<S>>>,
    asked: Asked<B>,
) -> Answer {
    request::no_query(asked.request.uri())?;
    let call = Call::read(&asked)?;
    let body: LockBody = request::json(asked, &context.extras.limits, call.deadline).await?;
    let decision = decide(&context, call, body.into_command()?).await?;
    let response = decision.into_lock_response()?;
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
    State(context): State<Arc<Context<S>>>,
    asked: Asked<B>,
) -> Answer {
    request::no_query(asked.request.uri())?;
    let call = Call::read(&asked)?;
    let body: UnlockBody = request::json(asked, &context.extras.limits, call.deadline).await?;
    let decision = decide(&context, call, body.into_command()).await?;
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
    State(context): State<Arc<Context<S>>>,
    asked: Asked<B>,
) -> Answer {
    let call = Call::read(&asked)?;
    let query: CheckQuery = request::query(asked.request.uri())?;
    let response = read(&context, call, query.into()).await?.into_check()?;
    Ok(json(&CheckAnswer::from(&response.record), response.decided_at))
}

/// Reads a page of a table, in byte order of the signatures. Pages are not one snapshot.
#[utoipa::path(get, path = routes::LOCKS, tag = "locks", params(ListQuery, openapi::CallHeaders),
    responses(
        (status = 200, description = "The page", body = ListAnswer),
        openapi::ReadProblems,
    ))]
pub(crate) async fn list<S: LockService>(
    State(context): State<Arc<Context<S>>>,
    asked: Asked,
) -> Answer {
    let call = Call::read(&asked)?;
    let query: ListQuery = request::query(asked.request.uri())?;
    let _room = room_for(&context, query.limit.unwrap_or(ListRequest::DEFAULT_LIMIT))?;
    let response = read(&context, call, query.into()).await?.into_list()?;
    Ok(json(&ListAnswer::from(&response), response.decided_at))
}

/// Reads a page of the tables that have defaults or records, in byte order. Pages are not one
/// snapshot.
#[utoipa::path(get, path = routes::TABLES, tag = "tables",
    params(TablesQuery, openapi::CallHeaders),
    responses(
        (status = 200, description = "The page", body = TablesAnswer),
        openapi::ReadProblems,
    ))]
pub(crate) async fn tables<S: LockService>(
    State(context): State<Arc<Context<S>>>,
    asked: Asked,
) -> Answer {
    let call = Call::read(&asked)?;
    let query: TablesQuery = request::query(asked.request.uri())?;
    let _room = room_for(&context, query.limit.unwrap_or(TablesRequest::DEFAULT_LIMIT))?;
    let response = read(&context, call, query.into()).await?.into_tables()?;
    Ok(json(&TablesAnswer::from(&response), response.decided_at))
}

/// Sets what a table gives to later requests that leave it out.
#[utoipa::path(put, path = routes::TABLE, tag = "tables", request_body = TableBody,
    params(openapi::CallHeaders),
    responses(
        (status = 200, description = "Done", body = DoneAnswer),
        openapi::WriteProblems,
    ))]
pub(crate) async fn configure_table<S: LockService>(
    State(context): State<Arc<Context<S>>>,
    asked: Asked,
) -> Answer {
    request::no_query(asked.request.uri())?;
    let call = Call::read(&asked)?;
    let body: TableBody = request::json(asked, &context.extras.limits, call.deadline).await?;
    decide(&context, call, body.into_command()?).await?.into_done()?;
    Ok(json(&DoneAnswer::default(), None))
}

/// Deletes a table whole: its records and its defaults. Tokens go on growing.
#[utoipa::path(delete, path = routes::TABLE, tag = "tables",
    params(TableQuery, openapi::CallHeaders),
    responses(
        (status = 200, description = "There is no such table any more", body = DeleteAnswer),
        openapi::WriteProblems,
    ))]
pub(crate) async fn delete_table<S: LockService>(
    State(context): State<Arc<Context<S>>>,
    asked: Asked,
) -> Answer {
    let call = Call::read(&asked)?;
    let query: TableQuery = request::query(asked.request.uri())?;
    let status = decide(&context, call, query.into()).await?.into_delete_status()?;
    Ok(json(&DeleteAnswer::from(status), None))
}

/// The cluster as the node that is asked sees it.
#[utoipa::path(get, path = routes::CLUSTER, tag = "node",
    responses((status = 200, description = "What this node knows", body = ClusterStatus)))]
pub(crate) async fn cluster<S: LockService>(State(context): State<Arc<Context<S>>>) -> Answer {
    let status = context.extras.status.as_ref().expect("the route exists only with it");
    Ok(json(&status(), None))
}

/// The process answers. Says nothing about the cluster.
#[utoipa::path(get, path = routes::HEALTHZ, tag = "node",
    responses((status = 200, description = "It does", body = DoneAnswer)))]
pub(crate) async fn healthz() -> Response {
    json(&DoneAnswer::default(), None)
}

/// The node can serve requests now.
#[utoipa::path(get, path = routes::READYZ, tag = "node",
    responses(
        (status = 200, description = "It can", body = DoneAnswer),
        (status = 503, description = "It cannot; the detail says why", body = Problem),
    ))]
pub(crate) async fn readyz<S: LockService>(State(context): State<Arc<Context<S>>>) -> Answer {
    match context.extras.ready.as_ref().map_or(Ok(()), |ready| ready()) {
        Ok(()) => Ok(json(&DoneAnswer::default(), None)),
        Err(reason) => Err(Refusal::new(Code::Unavailable, reason)),
    }
}

/// Figures of this node in the Prometheus text format.
#[utoipa::path(get, path = routes::METRICS, tag = "node",
    responses((status = 200, description = "The figures", body = String,
        content_type = "text/plain; version=0.0.4")))]
pub(crate) async fn metrics<S: LockService>(State(context): State<Arc<Context<S>>>) -> Response {
    let figures = context.extras.figures.as_ref().map(|figures| figures());
    let text = context.metrics.render(figures.as_ref());
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// This API, described.
#[utoipa::path(get, path = routes::OPENAPI, tag = "node",
    responses((status = 200, description = "An OpenAPI document", body = Object)))]
pub(crate) async fn description() -> Response {
    json(&openapi::document(), None)
}

/// Moves the clock of the cluster forward. Not part of the API: it exists only on nodes that were
/// started for tests.
async fn advance<S: LockService>(State(context): State<Arc<Context<S>>>, asked: Asked) -> Answer {
    let advance = context.extras.advance.as_ref().expect("the route exists only with it");
    let deadline = Call::read(&asked)?.deadline;
    let body: AdvanceBody = request::json(asked, &context.extras.limits, deadline).await?;
    let advanced = deadline.bound(advance(Duration::from_millis(body.by_ms))).await;
    advanced.unwrap_or_else(no_answer)?;
    Ok(json(&DoneAnswer::default(), None))
}

async fn no_such_path() -> Refusal {
    let detail = format!("there is nothing here; {} describes what there is", routes::OPENAPI);
    Refusal::new(Code::NoSuchPath, detail)
}

async fn method_not_allowed() -> Refusal {
    Refusal::new(Code::MethodNotAllowed, "the allow header names the methods of this path")
}

/// Bytes of one record in an answer, with names of usual length.
const RECORD_BYTES: usize = 1024;

/// Reserves room for an answer before it is made. Its size is known only once it exists; without
/// the reservation, pages for which there is no room in the end would all be made first.
fn room_for<S>(context: &Context<S>, records: u32) -> Result<Share, Refusal> {
    const _: () = assert!(ListRequest::MAX_LIMIT == TablesRequest::MAX_LIMIT, "one bound for both");
    let records = usize::try_from(records.min(ListRequest::MAX_LIMIT)).unwrap_or(usize::MAX);
    let room = context.metrics.budget().take(records.saturating_mul(RECORD_BYTES));
    room.ok_or_else(|| Refusal::from(budget::exhausted()))
}

/// Passes a command to the service. At the deadline its outcome is unknown.
async fn decide<S: LockService>(
    context: &Context<S>,
    call: Call,
    mut command: Command,
) -> Result<Decision, Refusal> {
    let deadline = call.deadline;
    command.request_id = call.request_id(command.request_id)?;
    let (options, cause) = call.options();
    command.cause = cause;
    let decided = deadline.bound(context.service.decide_one(command, options)).await;
    Ok(decided.unwrap_or_else(no_answer)?)
}

/// Passes a query to the service. It changes nothing, whenever it is dropped.
async fn read<S: LockService>(
    context: &Context<S>,
    call: Call,
    query: Query,
) -> Result<View, Refusal> {
    let deadline = call.deadline;
    let (options, _) = call.options();
    let view = deadline.bound(context.service.read(query, options)).await;
    Ok(view.unwrap_or_else(|| Err(Error::unavailable("no answer in time")))?)
}

/// The result of a write that was not answered by the deadline.
pub(super) fn no_answer<T>() -> Result<T, Error> {
    Err(Error::unknown("no answer in time; the request may have been done"))
}
