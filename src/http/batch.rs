//! `POST /v1/batch`: many lock and unlock requests in one exchange, answered one by one.
//!
//! A body that is no batch is refused whole, before anything is done: JSON of another shape, an
//! unknown field, too many requests. A single invalid request, with an empty signature for
//! instance, fails alone and does not affect the others.

use super::answer::{Refusal, json};
use super::handlers::{Answer, decide_all};
use super::request::{Arriving, Call, ClientRequest};
use super::{Context, openapi};
use crate::api::{
    BatchAnswers, BatchBody, BatchItemAnswer, Code, MAX_BATCH, MAX_BATCH_BYTES, Problem, routes,
};
use crate::budget;
use crate::error::Error;
use crate::lock::{Command, Operation};
use crate::service::LockService;
use crate::types::BatchAnswer;

/// Bytes of one answer in a batch, with names of usual length.
const ANSWER_BYTES: usize = 512;

/// Refuses a request that waits: the others of its batch would wait for it.
fn no_wait(command: Command) -> Result<Command, Error> {
    if let Operation::Lock(lock) = &command.operation
        && lock.waits()
    {
        let reason = "in a batch a request with wait_ms has \"respond\":\"queued\", too";
        return Err(Error::bad_request(reason));
    }
    Ok(command)
}

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
        (status = 429, description = "Too many requests of this client; not done", body = Problem),
        (status = 503, description = "No memory left for large requests; not done", body = Problem),
    ))]
pub(crate) async fn batch<S: LockService, B: Arriving>(
    context: &Context<S>,
    request: ClientRequest<B>,
) -> Answer {
    let settings = &context.settings;
    let call = request.call_without_query()?;
    call.no_idempotency_key()?;
    let (address, share, principal) = (request.address(), request.share, call.principal.clone());
    let keeps = call.keeps;
    let (body, _share): (BatchBody, _) =
        request.json(settings, MAX_BATCH_BYTES, call.deadline).await?;
    if body.requests.len() > MAX_BATCH {
        let detail = format!("a batch has at most {MAX_BATCH} requests");
        return Err(Refusal::new(Code::BadRequest, detail));
    }
    let rest = u32::try_from(body.requests.len().saturating_sub(1)).unwrap_or(u32::MAX);
    context.limiter.admit_rest(address, principal.as_deref(), share, rest)?;
    // Results must be sent once they exist, so room for the answers is reserved before.
    let room = settings.budget.take(body.requests.len() * ANSWER_BYTES);
    let _room = room.ok_or_else(|| Refusal::from(budget::exhausted()))?;
    let mut commands = Vec::with_capacity(body.requests.len());
    let judge = |command| Call::judge_share(keeps, &command).map(|()| command);
    let mut add = |command: Command| commands.push(command);
    let invalid: Vec<Option<Error>> = body
        .requests
        .into_iter()
        .map(|item| item.into_command().and_then(no_wait).and_then(judge).map(&mut add).err())
        .collect();
    let mut decisions = decide_all(context, call, commands).await.into_iter();
    let mut next = || {
        let decision = decisions.next().expect("each command has an answer");
        decision.and_then(BatchAnswer::try_from)
    };
    let answers = invalid.into_iter().map(|error| error.map_or_else(&mut next, Err));
    let answers: Vec<Result<BatchAnswer, Error>> = answers.collect();
    let answers: Vec<_> = answers.iter().map(BatchItemAnswer::from).collect();
    for answer in &answers {
        context.metrics.observe_item(answer.problem.as_ref().map(|problem| problem.code));
    }
    Ok(json(&BatchAnswers { answers }, None))
}
