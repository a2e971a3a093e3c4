//! `POST /v1/batch`: many lock and unlock requests in one exchange, answered one by one.
//!
//! A body that is no batch is refused whole, before anything is done: JSON of another shape, an
//! unknown field, too many requests. A single invalid request, with an empty signature for
//! instance, fails alone and does not affect the others.

use std::sync::Arc;

use axum::extract::State;

use super::answer::{Refusal, json};
use super::handlers::Answer;
use super::request::{self, Asked, Call};
use super::server::Limits;
use super::{Context, openapi};
use crate::api::{
    BatchAnswers, BatchBody, BatchItemAnswer, Code, MAX_BATCH, MAX_BATCH_BYTES, Problem, routes,
};
use crate::budget;
use crate::clock::Deadline;
use crate::error::Error;
use crate::service::LockService;
use crate::types::{BatchAnswer, BatchRequest};

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
    let call = call.options();
    let requests = body.requests.into_iter().map(|item| item.into_words(&call)).collect();
    let answers = ask_all(&*context.service, requests, deadline).await;
    let answers: Vec<_> = answers.iter().map(BatchItemAnswer::from).collect();
    for answer in &answers {
        context.metrics.observe_item(answer.problem.as_ref().map(|problem| problem.code));
    }
    Ok(json(&BatchAnswers { answers }, None))
}

/// Passes the valid requests to the service. At the deadline the outcome of all of them is unknown.
async fn ask_all<S: LockService>(
    service: &S,
    requests: Vec<Result<BatchRequest, Error>>,
    deadline: Deadline,
) -> Vec<Result<BatchAnswer, Error>> {
    let mut asked = Vec::with_capacity(requests.len());
    let wrong: Vec<Option<Error>> = requests
        .into_iter()
        .map(|request| request.map(|request| asked.push(request)).err())
        .collect();
    let answers = deadline.bound(service.batch(asked)).await;
    let mut answers = answers.map(Vec::into_iter);
    let mut next = || match &mut answers {
        Some(answers) => answers.next().expect("a batch has one answer for each request"),
        None => Err(Error::unknown("no answer in time; the request may have been done")),
    };
    wrong.into_iter().map(|wrong| wrong.map_or_else(&mut next, Err)).collect()
}
