//! Answers: JSON, problem documents, and the headers that go with them.

use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::api::{Code, PROBLEM_MEDIA_TYPE, Problem, headers};
use crate::error::Error;
use crate::types::DecidedAt;

/// The time after which a foreign client retries. Elections are over within a second; our own
/// client has a finer backoff and ignores this header.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// A refusal, with the log position at which it was decided.
#[derive(Debug)]
pub(crate) struct Refusal {
    // Boxed, because a refusal is the error type of many small functions.
    problem: Box<Problem>,
    decided_at: Option<DecidedAt>,
    /// The time for which the answer is held back.
    held: Option<Held>,
}

/// The time for which an answer is held back, among its extensions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held(pub(super) Duration);

impl Refusal {
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Self {
        Problem::new(code, detail).into()
    }

    pub(crate) fn decided_at(mut self, decided_at: Option<DecidedAt>) -> Self {
        self.decided_at = decided_at;
        self
    }

    /// Has the answer held back.
    pub(super) fn held(self, held: Held) -> Self {
        Self { held: Some(held), ..self }
    }

    /// The reason why its maker could not be found out, if that is why it is refused.
    pub(super) fn unauthorized(&self) -> Option<&str> {
        let Problem { code, detail, .. } = &*self.problem;
        if *code == Code::Unauthorized { Some(detail.as_deref().unwrap_or_default()) } else { None }
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self { problem: Box::new(problem), decided_at: None, held: None }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let decided_at = match &error {
            Error::NotFound { decided_at } => *decided_at,
            Error::Forbidden(_)
            | Error::BadRequest { .. }
            | Error::Unavailable { .. }
            | Error::Unknown { .. }
            | Error::Unauthorized { .. }
            | Error::NotAllowed { .. }
            | Error::LaneForgotten { .. } => None,
        };
        Self { problem: Box::new(Problem::from(&error)), decided_at, held: None }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let code = self.problem.code;
        let mut response = body(code.status(), PROBLEM_MEDIA_TYPE, &*self.problem);
        let fields = response.headers_mut();
        if code == Code::Unauthorized {
            fields.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(wait) = self.problem.retry_after_ms {
            fields.insert(RETRY_AFTER, wait.div_ceil(1000).into());
        } else if code == Code::Unavailable {
            fields.insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
        }
        // If a leader's address is no valid header value, it is still in the document.
        if let Some(leader) = &self.problem.leader
            && let Ok(value) = HeaderValue::try_from(leader)
        {
            fields.insert(HeaderName::from_static(headers::LEADER), value);
        }
        response.extensions_mut().insert(code);
        if let Some(held) = self.held {
            response.extensions_mut().insert(held);
        }
        with_position(response, self.decided_at)
    }
}

/// A success as JSON, with the log position at which it was decided.
pub(crate) fn json<T: Serialize>(value: &T, decided_at: Option<DecidedAt>) -> Response {
    with_position(body(200, "application/json", value), decided_at)
}

/// An answer to a request that waits.
pub(crate) fn accepted<T: Serialize>(value: &T, decided_at: Option<DecidedAt>) -> Response {
    with_position(body(202, "application/json", value), decided_at)
}

fn body<T: Serialize>(status: u16, media_type: &'static str, value: &T) -> Response {
    let mut bytes = serde_json::to_vec(value).expect("our documents have string keys only");
    // For people who read answers on a terminal.
    bytes.push(b'\n');
    // The body is kept until it is read, which may take long; growing has left spare capacity.
    bytes.shrink_to_fit();
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = StatusCode::from_u16(status).expect("our codes name real statuses");
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    // A cache in between must not answer with an old state of a lock.
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn with_position(mut response: Response, decided_at: Option<DecidedAt>) -> Response {
    if let Some(decided_at) = decided_at {
        let value = HeaderValue::try_from(decided_at.to_string()).expect("digits and a dot");
        response.headers_mut().insert(HeaderName::from_static(headers::LOG_POSITION), value);
    }
    response
}
