//! `POST /v1/batch`: many lock and unlock requests in one exchange, answered one by one.
//!
//! A body that is no batch is refused whole, before anything is done: JSON of another shape, an
//! unknown field, too many requests. A single invalid request, with an empty signature for
//! instance, fails alone and does not affect the others.

use std::sync::Arc;

use axum::extract::State;

use super::answer::{Refusal, json};
use super::handlers::{Answer, no_answer};
use super::request::{self, Asked, Call};
use super::server::Limits;
use super::{Context, openapi};
use crate::api::{
    BatchAnswers, BatchBody, BatchItemAnswer, Code, MAX_BATCH, MAX_BATCH_BYTES, Problem, routes,
};
use crate::budget;
use crate::error::Error;
use crate::lock::Command;
use crate::service::LockService;
use crate::types::BatchAnswer;

/// Bytes of one answer in a batch, with names of usual length.
const ANSWER_BYTES: usize = 512;

/// Takes and releases many locks. Not a transaction: each request succeeds or fails by itself.
#[utoipa::path(post, path = routes::BATCH, tag = "locks", request_body = BatchBody,
    params(openapi::CallHeaders),
    responses(
        (status = 200, description = "One answer for each request, in their order; each may be a \
            problem", body = BatchAnswers),
        (status = 400, description = "Not a batch; the detail names the request that is wrong. \
            Nothing was done", body = Problem),
        (status = 408, description = "The body arrived too slowly; not done", body = Problem),
        (status = 413, description = "The body is larger than 1 MiB", body = Problem),
        (status = 415, description = "The body is not declared to be JSON", body = Problem),
        (status = 503, description = "No memory left for large requests; not done", body = Problem),
    ))]
pub(crate) async fn batch<S: LockService>(
    State(context): State<Arc<Context<S>>>,
    asked: Asked,
) -> Answer {
    request::no_query(asked.request.uri())?;
    let call = Call::read(&asked)?;
    call.no_idempotency_key()?;
    let deadline = call.deadline;
    let limits = Limits { body_bytes: MAX_BATCH_BYTES, ..context.extras.limits.clone() };
    let budget = asked.budget.clone();
    let (body, _share): (BatchBody, _) = request::json_and_share(asked, &limits, deadline).await?;
    if body.requests.len() > MAX_BATCH {
        let detail = format!("a batch has at most {MAX_BATCH} requests");
        return Err(Refusal::new(Code::BadRequest, detail));
    }
    // Results must be sent once they exist, so room for the answers is reserved before.
    let _room = budget
        .take(body.requests.len() * ANSWER_BYTES)
        .ok_or_else(|| Refusal::from(budget::exhausted()))?;
    let (call, cause) = call.options();
    let mut commands = Vec::with_capacity(body.requests.len());
    let mut add = |command: Command| commands.push(Command { cause: cause.clone(), ..command });
    let invalid: Vec<Option<Error>> =
        body.requests.into_iter().map(|item| item.into_command().map(&mut add).err()).collect();
    // At the deadline the outcome of all of them is unknown.
    let mut decisions =
        deadline.bound(context.service.decide(commands, call)).await.map(Vec::into_iter);
    let mut next = || match &mut decisions {
        Some(decisions) => {
            let decision = decisions.next().expect("each command has an answer");
            decision.and_then(BatchAnswer::try_from)
        }
        None => no_answer(),
    };
    let answers = invalid.into_iter().map(|error| error.map_or_else(&mut next, Err));
    let answers: Vec<Result<BatchAnswer, Error>> = answers.collect();
    let answers: Vec<_> = answers.iter().map(BatchItemAnswer::from).collect();
    for answer in &answers {
        context.metrics.observe_item(answer.problem.as_ref().map(|problem| problem.code));
    }
    Ok(json(&BatchAnswers { answers }, None))
}
