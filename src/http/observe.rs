//! What is seen of every request: its trace id, one line in the access log, its metrics.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument;

use super::Context;
use crate::api::{Code, headers, is_trace_id};
use crate::clock::{Clock, SystemClock};
use crate::service::LockService;

/// The trace id of a request, in its extensions.
#[derive(Clone, Debug)]
pub(crate) struct TraceId(pub(crate) String);

/// Runs the request in a span, and counts and logs how it went.
pub(crate) async fn observe<S: LockService>(
    State(context): State<Arc<Context<S>>>,
    mut request: Request,
    next: Next,
) -> Response {
    let trace_id = trace_id(request.headers());
    let route = request.extensions().get::<MatchedPath>().map_or("other", route_label);
    let method = method_label(&request);
    request.extensions_mut().insert(TraceId(trace_id.clone()));
    let span = tracing::info_span!("request", trace_id = %trace_id, method, route);
    let began = SystemClock.raw();
    let in_flight = context.metrics.in_flight();
    let mut response = next.run(request).instrument(span.clone()).await;
    drop(in_flight);
    let took = SystemClock.raw().saturating_sub(began);
    let outcome = response.extensions().get::<Code>().map_or("ok", |code| code.word());
    context.metrics.observe(method, route, outcome, took);
    span.in_scope(|| log(response.status().as_u16(), outcome, took));
    if let Ok(value) = HeaderValue::try_from(trace_id) {
        response.headers_mut().insert(HeaderName::from_static(headers::TRACE_ID), value);
    }
    response
}

/// What a person has to look at is logged at info, the rest at debug.
fn log(status: u16, outcome: &'static str, took: Duration) {
    let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    if status >= 500 {
        tracing::info!(status, outcome, took_us, "answered");
    } else {
        tracing::debug!(status, outcome, took_us, "answered");
    }
}

/// The caller's own id if it is fit to be logged, its trace context's otherwise, else a new one.
fn trace_id(fields: &HeaderMap) -> String {
    let text = |name| fields.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let given = text(headers::TRACE_ID).filter(|text| is_trace_id(text));
    let context = || text(headers::TRACEPARENT).and_then(trace_of_context);
    match given.or_else(context) {
        Some(text) => text.to_owned(),
        None => format!("{:032x}", crate::random::number::<u128>()),
    }
}

/// The trace id in `version-traceid-parentid-flags`.
fn trace_of_context(text: &str) -> Option<&str> {
    let id = text.split('-').nth(1)?;
    let whole = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    whole.then_some(id)
}

/// The labels are few and ours: what a client sends never becomes one.
fn route_label(path: &MatchedPath) -> &'static str {
    use crate::api::routes;
    let known = [
        routes::LOCK,
        routes::UNLOCK,
        routes::BATCH,
        routes::LOCKS,
        routes::TABLES,
        routes::TABLE,
        routes::CLUSTER,
        routes::HEALTHZ,
        routes::READYZ,
        routes::METRICS,
        routes::OPENAPI,
        routes::DEBUG_ADVANCE,
    ];
    known.into_iter().find(|route| *route == path.as_str()).unwrap_or("other")
}

fn method_label(request: &Request) -> &'static str {
    match request.method().as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        _ => "other",
    }
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
