//! One call: attempts at one node after the other until there is an answer or no time left.
//!
//! What an attempt's end means is decided here and nowhere else. A connection that never came
//! about is `Unavailable`. Once a byte has left, only our own problem document says what happened;
//! everything else is `Unknown` for a write and `Unavailable` for a read. A call that was `Unknown`
//! once stays so until a node answers the repetition.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::endpoints::{Endpoints, normalize};
use super::lanes::Lanes;
use super::resolve::Resolver;
use crate::api::{
    Code, MAX_CAUSE_BYTES, MAX_TIMEOUT, PROBLEM_MEDIA_TYPE, Problem, headers, is_trace_id,
    parse_log_position, to_ms,
};
use crate::carriage::{Carriage, Cause, SendError};
use crate::clock::Deadline;
use crate::error::Error;
use crate::random;
use crate::types::{CallOptions, DecidedAt, Forbidden};

/// The largest answer that is read: a full page of the longest names, each byte escaped.
const MAX_ANSWER_BYTES: usize = 32 * 1024 * 1024;

/// The first pause after every node was asked once, and the longest. An election takes a few
/// hundred milliseconds; asking more often than this only loads a cluster that has trouble.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(320);

/// An attempt that could be followed by another gets at least this much of the call's time.
const SHORTEST_ATTEMPT: Duration = Duration::from_millis(250);

/// With less time than this left, nothing is repeated: the repetition would most likely not be
/// answered, and turn what was certainly not done into something unknown.
const LEAST_REPETITION: Duration = Duration::from_millis(10);

/// How long an idle connection is kept: less than a node keeps it, so that a request is seldom
/// written to a connection that is just being closed.
const KEEP_IDLE: Duration = Duration::from_secs(15);

/// Connections to nodes, and what is remembered from call to call.
pub(super) struct Transport {
    way: Carriage,
    endpoints: Endpoints,
    timeout: Duration,
    lanes: Lanes,
}

/// What is sent; the same bytes each time.
pub(super) struct Request {
    method: Method,
    path_and_query: String,
    body: Option<bytes::Bytes>,
    kind: Kind,
}

/// What may be done when the answer is missing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Changes nothing.
    Read,
    /// Has a request id, so that it may be repeated.
    Write,
    /// May not be repeated.
    Once,
}

impl Request {
    pub(super) fn read<T: Serialize>(path: &str, query: &T) -> Self {
        Self::with_query(Method::GET, path, query, Kind::Read)
    }

    pub(super) fn delete<T: Serialize>(path: &str, query: &T) -> Self {
        Self::with_query(Method::DELETE, path, query, Kind::Write)
    }

    pub(super) fn write<T: Serialize>(method: &str, path: &str, body: &T) -> Self {
        Self::with_body(method, path, body, Kind::Write)
    }

    pub(super) fn once<T: Serialize>(method: &str, path: &str, body: &T) -> Self {
        Self::with_body(method, path, body, Kind::Once)
    }

    fn with_query<T: Serialize>(method: Method, path: &str, query: &T, kind: Kind) -> Self {
        let query = serde_urlencoded::to_string(query).expect("our queries are flat");
        let path_and_query =
            if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
        Self { method, path_and_query, body: None, kind }
    }

    fn with_body<T: Serialize>(method: &str, path: &str, body: &T, kind: Kind) -> Self {
        let method = method.parse().expect("our methods are methods");
        let body = serde_json::to_vec(body).expect("our bodies have string keys only");
        Self { method, path_and_query: path.to_owned(), body: Some(body.into()), kind }
    }

    /// Whether the same bytes may be sent once more: what was certainly not done always, what may
    /// have been done only if its id makes the repetition the same request.
    fn may_repeat_after(&self, error: &Error) -> bool {
        match error {
            Error::Unavailable { .. } => true,
            Error::Unknown { .. } => self.kind != Kind::Once,
            Error::Forbidden(_)
            | Error::BadRequest { .. }
            | Error::NotFound { .. }
            | Error::Unauthorized { .. } => false,
        }
    }

    /// The error when something has left and no answer of ours has come back.
    fn unanswered(&self, reason: impl Into<String>) -> Error {
        match self.kind {
            Kind::Read => Error::unavailable(reason),
            Kind::Write | Kind::Once => Error::unknown(reason),
        }
    }
}

/// What came back of one attempt, with where it was decided.
type Reply<T> = (T, Option<DecidedAt>);

impl Transport {
    pub(super) fn new(
        endpoints: &[String],
        connect_timeout: Duration,
        timeout: Duration,
    ) -> Result<Self, Error> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            // Repeating is decided here, by what the request is, not below.
            .retry(reqwest::retry::never())
            .dns_resolver(Resolver::default())
            .tcp_nodelay(true)
            .connect_timeout(connect_timeout)
            .pool_idle_timeout(KEEP_IDLE)
            .build()
            .map_err(|error| Error::bad_request(describe(&error)))?;
        Self::over(Carriage::Http(http), endpoints, timeout)
    }

    /// A transport whose requests go this way.
    pub(super) fn over(
        way: Carriage,
        endpoints: &[String],
        timeout: Duration,
    ) -> Result<Self, Error> {
        let endpoints = Endpoints::new(endpoints)?;
        Ok(Self { way, endpoints, timeout, lanes: Lanes::default() })
    }

    pub(super) fn endpoints(&self) -> Vec<String> {
        self.endpoints.known().iter().map(ToString::to_string).collect()
    }

    pub(super) fn lanes(&self) -> &Lanes {
        &self.lanes
    }

    /// As [`Transport::call`], with a refusal as an answer instead of an error.
    pub(super) async fn call_or_refusal<T: DeserializeOwned>(
        &self,
        request: &Request,
        call: &CallOptions,
    ) -> Result<Reply<Result<T, Forbidden>>, Error> {
        self.repeat(request, call).await
    }

    /// Asks until there is an answer or no time left.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        request: &Request,
        call: &CallOptions,
    ) -> Result<Reply<T>, Error> {
        granted(self.repeat(request, call).await?)
    }

    /// Asks this node, once.
    pub(super) async fn ask_one<T: DeserializeOwned>(
        &self,
        endpoint: &str,
        request: &Request,
        call: &CallOptions,
    ) -> Result<Reply<T>, Error> {
        let wait = call.timeout.unwrap_or(self.timeout).min(MAX_TIMEOUT);
        let endpoint = normalize(endpoint)?;
        granted(self.attempt(&endpoint, request, call, wait).await?)
    }

    async fn repeat<T: DeserializeOwned>(
        &self,
        request: &Request,
        call: &CallOptions,
    ) -> Result<Reply<Result<T, Forbidden>>, Error> {
        let deadline = Deadline::after(call.timeout.unwrap_or(self.timeout).min(MAX_TIMEOUT));
        let mut endpoint = self.endpoints.preferred();
        let mut failed = Vec::new();
        let mut open: Option<Error> = None;
        let mut attempts = 0;
        loop {
            let wait = share_of(deadline.remaining(), request.kind);
            let error = match self.attempt(&endpoint, request, call, wait).await {
                Ok(reply) => {
                    self.endpoints.prefer(&endpoint);
                    return Ok(reply);
                }
                Err(error) if request.may_repeat_after(&error) => error,
                Err(error) => return Err(error),
            };
            tracing::debug!(%error, "asking again");
            let hint = leader_in(&error);
            let pause = self.pause_after(attempts, hint.is_some());
            attempts += 1;
            failed.push(Arc::clone(&endpoint));
            endpoint = self.endpoints.after(&endpoint, hint.as_deref(), &failed);
            if let Error::Unknown { .. } = error {
                open = Some(error.clone());
            }
            if deadline.remaining() <= pause + LEAST_REPETITION {
                return Err(open.unwrap_or(error));
            }
            if !pause.is_zero() {
                // After a pause, whoever failed is worth another try.
                failed.clear();
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// None until each node was asked once; then longer and longer, less up to a half by chance,
    /// so that clients which failed together do not come back together.
    fn pause_after(&self, attempts: u32, hinted: bool) -> Duration {
        let asked_all = attempts as usize + 1 >= self.endpoints.known().len();
        if !asked_all || (hinted && attempts == 0) {
            return Duration::ZERO;
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << attempts.min(8)).min(LONGEST_PAUSE);
        pause.mul_f64(random::factor(0.5..=1.0))
    }

    async fn attempt<T: DeserializeOwned>(
        &self,
        endpoint: &Arc<str>,
        request: &Request,
        call: &CallOptions,
        wait: Duration,
    ) -> Result<Reply<Result<T, Forbidden>>, Error> {
        let ask = self.ask(endpoint, request, call, wait);
        match tokio::time::timeout(wait, ask).await {
            Ok(result) => result,
            Err(_) => Err(request.unanswered(format!("{endpoint}: no answer in time"))),
        }
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        endpoint: &Arc<str>,
        request: &Request,
        call: &CallOptions,
        wait: Duration,
    ) -> Result<Reply<Result<T, Forbidden>>, Error> {
        let sent = self.way.send(build(endpoint, request, call, wait)?).await;
        let mut response = sent.map_err(|error| {
            let reason = |cause: Cause| format!("{endpoint}: {}", describe(&*cause));
            match error {
                SendError::Connect(cause) => Error::unavailable(reason(cause)),
                SendError::Broken(cause) => request.unanswered(reason(cause)),
            }
        })?;
        let status = response.status();
        let field = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let decided_at = field(headers::LOG_POSITION).and_then(parse_log_position);
        let media_type = field("content-type").unwrap_or("").to_owned();
        let body = match read(&mut response).await {
            Ok(body) => body,
            Err(reason) => return Err(request.unanswered(format!("{endpoint}: {reason}"))),
        };
        if let Some(problem) = our_problem(&media_type, &body) {
            if problem.code == Code::Forbidden {
                return Ok((Err(problem.to_forbidden()), decided_at));
            }
            return Err(told(request, problem.into_error(decided_at)));
        }
        let answer = if status.is_success() { serde_json::from_slice(&body).ok() } else { None };
        match answer {
            Some(answer) => Ok((Ok(answer), decided_at)),
            None => Err(request.unanswered(format!(
                "{endpoint}: status {status}, and not an answer of a Keyward node"
            ))),
        }
    }
}

/// The request as HTTP has it.
fn build(
    endpoint: &str,
    request: &Request,
    call: &CallOptions,
    wait: Duration,
) -> Result<reqwest::Request, Error> {
    let url = Url::parse(&format!("{endpoint}{}", request.path_and_query));
    let url = url.map_err(|error| Error::bad_request(format!("endpoint {endpoint:?}: {error}")))?;
    let mut built = reqwest::Request::new(request.method.clone(), url);
    // The node is given a little less time than it is waited for, so that it can still say how it
    // ended.
    let timeout = to_ms(wait.mul_f64(0.9)).max(1);
    let fields = built.headers_mut();
    fields.insert(headers::TIMEOUT_MS, timeout.into());
    let words = [
        (headers::TRACE_ID, call.trace_id.as_deref().filter(|id| is_trace_id(id))),
        (headers::CAUSE, call.cause.as_deref().filter(|cause| is_cause(cause))),
    ];
    for (name, text) in words {
        // What is no header is left out, as what does not keep to the bounds is.
        if let Some(value) = text.and_then(|text| HeaderValue::from_str(text).ok()) {
            fields.insert(name, value);
        }
    }
    if let Some(body) = &request.body {
        fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        *built.body_mut() = Some(body.clone().into());
    }
    Ok(built)
}

/// How much of the time that is left one attempt gets: half, as long as that is enough, so that a
/// node that hangs does not use up what another needs.
fn share_of(remaining: Duration, kind: Kind) -> Duration {
    match kind {
        Kind::Once => remaining,
        Kind::Read | Kind::Write => (remaining / 2).max(SHORTEST_ATTEMPT).min(remaining),
    }
}

fn leader_in(error: &Error) -> Option<String> {
    match error {
        Error::Unavailable { leader, .. } => leader.clone(),
        Error::Forbidden(_)
        | Error::BadRequest { .. }
        | Error::NotFound { .. }
        | Error::Unknown { .. }
        | Error::Unauthorized { .. } => None,
    }
}

/// Where a refusal is no answer, it is an error.
fn granted<T>((answer, decided_at): Reply<Result<T, Forbidden>>) -> Result<Reply<T>, Error> {
    answer.map(|answer| (answer, decided_at)).map_err(Error::Forbidden)
}

/// A read is never unknown, whatever a node says.
fn told(request: &Request, error: Error) -> Error {
    match error {
        Error::Unknown { reason } => request.unanswered(reason),
        Error::Forbidden(_)
        | Error::BadRequest { .. }
        | Error::NotFound { .. }
        | Error::Unavailable { .. }
        | Error::Unauthorized { .. } => error,
    }
}

/// The problem document if it is one of ours; anything else may come from a proxy in between.
fn our_problem(media_type: &str, body: &[u8]) -> Option<Problem> {
    let (media_type, _) = media_type.split_once(';').unwrap_or((media_type, ""));
    if !media_type.trim().eq_ignore_ascii_case(PROBLEM_MEDIA_TYPE) {
        return None;
    }
    serde_json::from_slice::<Problem>(body).ok().filter(Problem::is_ours)
}

async fn read(response: &mut reqwest::Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > MAX_ANSWER_BYTES => {
                return Err("the answer is too large".to_owned());
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => return Ok(body),
            Err(error) => return Err(describe(&error)),
        }
    }
}

fn is_cause(cause: &str) -> bool {
    cause.len() <= MAX_CAUSE_BYTES && !cause.chars().any(char::is_control)
}

/// The error with its causes. The outermost says little ("error sending request"), and names the
/// URL, which the caller does already.
fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut texts = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        texts.push(error.to_string());
        cause = error.source();
    }
    if texts.is_empty() { error.to_string() } else { texts.join(": ") }
}
