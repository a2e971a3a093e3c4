//! The observation of every request: its trace id, one line in the access log, its metrics.

use std::future::Future;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use hyper::body::Body as _;
use tracing::Instrument;

use super::Context;
use super::answer::Refusal;
use super::handlers::Answer;
use super::metrics::{Endpoint, outcome_word};
use super::written::Written;
use crate::api::{Code, headers, is_trace_id};
use crate::budget::{self, Budget};
use crate::clock::{Clock, SystemClock};

/// The trace id of a request: the caller's own id if it may be logged, otherwise that of its trace
/// context, else a new one.
pub(crate) fn trace_id(fields: &HeaderMap) -> String {
    let text = |name| fields.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let given = text(headers::TRACE_ID).filter(|text| is_trace_id(text));
    let context = || text(headers::TRACEPARENT).and_then(trace_of_context);
    let text = given.or_else(context).map(str::to_owned);
    text.unwrap_or_else(|| format!("{:032x}", crate::random::number::<u128>()))
}

/// Runs a request in a span, and counts and logs how it went.
pub(crate) async fn observed<S>(
    context: &Context<S>,
    endpoint: Endpoint,
    trace_id: String,
    answer: impl Future<Output = Answer>,
) -> Response {
    let (method, route) = (endpoint.method(), endpoint.route());
    // Created at debug level only: a span costs more than a request.
    let span = tracing::debug_span!("request", %trace_id, method, route);
    let began = SystemClock.raw();
    let metrics = &context.metrics;
    let in_flight = metrics.in_flight();
    let response = answer.instrument(span.clone()).await.into_response();
    let mut response = budgeted(response, endpoint, &context.settings.budget);
    drop(in_flight);
    let took = SystemClock.raw().saturating_sub(began);
    let code = response.extensions().get::<Code>().copied();
    metrics.observe(endpoint, code, took);
    let status = response.status().as_u16();
    if status < 500 || metrics.flood().admits() {
        span.in_scope(|| log(endpoint, &trace_id, (status, code), took));
    }
    if let Ok(value) = HeaderValue::try_from(trace_id) {
        response.headers_mut().insert(HeaderName::from_static(headers::TRACE_ID), value);
    }
    if let Some(cluster) = context.cluster() {
        let name = HeaderName::from_static(headers::CLUSTER);
        response.headers_mut().insert(name, cluster.clone());
    }
    response
}

/// Counts an answer's bytes until they are written. A read whose answer exceeds the budget is
/// refused; the answer of a write must be sent in any case.
fn budgeted(response: Response, endpoint: Endpoint, budget: &Budget) -> Response {
    let bytes = usize::try_from(response.body().size_hint().lower()).unwrap_or(usize::MAX);
    match budget.take(bytes) {
        Some(share) if share.is_free() => response,
        Some(share) => response.map(|body| Body::new(Written::new(body, share))),
        None if matches!(endpoint.method(), "GET" | "HEAD") => {
            Refusal::from(budget::exhausted()).into_response()
        }
        None => response,
    }
}

/// Logs a request: at info if an operator should look at it, otherwise at debug.
fn log(endpoint: Endpoint, trace_id: &str, (status, code): (u16, Option<Code>), took: Duration) {
    let outcome = outcome_word(code);
    let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    if status >= 500 {
        let (method, route) = (endpoint.method(), endpoint.route());
        tracing::info!(trace_id, method, route, status, outcome, took_us, "answered");
    } else {
        tracing::debug!(status, outcome, took_us, "answered");
    }
}

/// The trace id in `version-traceid-parentid-flags`.
fn trace_of_context(text: &str) -> Option<&str> {
    let id = text.split('-').nth(1)?;
    let whole = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    whole.then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fit_id_is_kept_and_an_unfit_one_replaced() {
        let id_for = |name: &'static str, value: &str| {
            let mut fields = HeaderMap::new();
            fields.insert(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
            trace_id(&fields)
        };
        assert_eq!(id_for(headers::TRACE_ID, "job-7"), "job-7");
        let context = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(id_for(headers::TRACEPARENT, context), "4bf92f3577b34da6a3ce929d0e0e4736");
        for unfit in ["", "a b", "é", &"x".repeat(129)] {
            let id = id_for(headers::TRACE_ID, unfit);
            assert!(id.len() == 32 && id != unfit, "{unfit:?} became {id:?}");
        }
    }
}
