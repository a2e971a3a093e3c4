//! One attempt: a request to one node, and the meaning of its result.
//!
//! A connection that was never established is `Unavailable`. Once a byte was sent, only our own
//! problem document tells the outcome; everything else is `Unknown` for a write and `Unavailable`
//! for a read. [`super::attempts`] combines attempts into a call.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::batch::{Batched, Message};
use super::batcher::{BatchedWrite, Batcher};
use super::credential::{Credential, Followed, Source};
use super::endpoints::{Endpoints, normalize};
use super::lanes::Lanes;
use crate::api::{
    BatchAnswers, BatchItemAnswer, Code, MAX_CAUSE_BYTES, MAX_TIMEOUT, PROBLEM_MEDIA_TYPE, Problem,
    headers, is_trace_id, parse_log_position, routes, to_ms,
};
use crate::carrier::{Carrier, Cause, SendError, describe};
use crate::tls::{self, Tls};
use keyward_core::clock::Deadline;
use keyward_core::error::Error;
use keyward_core::types::{CallOptions, DecidedAt, Forbidden};

/// The largest answer that is read: a full page of the longest names, each byte escaped.
const MAX_ANSWER_BYTES: usize = 32 * 1024 * 1024;

/// How long an idle connection is kept: less than a node keeps it, so that a request is seldom
/// written to a connection that is just being closed.
const KEEP_IDLE: Duration = Duration::from_secs(15);

/// How long a node that does not support batches gets writes one by one before a batch is tried
/// again: it may have been replaced by a newer one.
const ONE_BY_ONE: Duration = Duration::from_secs(60);

/// How long a client that was refused for asking too often keeps what renews and releases apart from
/// other writes: a message of both counts as a request for new locks.
const APART: Duration = Duration::from_secs(60);

/// Connections to nodes, and the state that is kept from call to call.
pub(super) struct Transport {
    way: Carrier,
    endpoints: Endpoints,
    /// The cluster of the node that answered first.
    cluster: OnceLock<HeaderValue>,
    timeout: Duration,
    /// The credential of each request, never printed.
    credential: Credential,
    lanes: Lanes,
    /// `None` if each write is sent by itself.
    batcher: Option<Batcher>,
    /// Until when the nodes are believed to limit this client.
    limited: Mutex<Option<Deadline>>,
    /// Nodes that do not support batches, and until when that is assumed.
    one_by_one: Mutex<HashMap<Arc<str>, Deadline>>,
}

/// The settings of a client's connections.
pub(super) struct Settings {
    pub(super) connect_timeout: Duration,
    /// The timeout of a call that sets none.
    pub(super) timeout: Duration,
    /// Whether writes that wait at the same time are coalesced.
    pub(super) batches: bool,
    pub(super) tls: Tls,
    /// The access token that each request is sent with.
    pub(super) access_token: Source,
}

/// A request that can be sent to one node once.
pub(super) trait Ask: Sync {
    /// The answer of a node.
    type Answer: Send;

    /// Whether a request may be repeated when its answer is missing.
    fn kind(&self) -> Kind;

    /// Sends the request to this node, with this timeout.
    fn ask(
        &self,
        endpoint: &Arc<str>,
        wait: Duration,
    ) -> impl Future<Output = Result<Self::Answer, Error>> + Send;
}

/// A request as it is sent; the same bytes each time.
#[derive(Clone)]
pub(super) struct Request {
    method: Method,
    path_and_query: String,
    body: Option<Bytes>,
    kind: Kind,
    /// Whether it only renews or releases what is held.
    keeps: bool,
}

/// Whether a request may be repeated when its answer is missing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Changes nothing.
    Read,
    /// Has a request id, so that it may be repeated.
    Write,
    /// Has a request id, and is answered late by intention: one node is asked at a time.
    Patient,
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

    pub(super) fn patient<T: Serialize>(method: &str, path: &str, body: &T) -> Self {
        Self::with_body(method, path, body, Kind::Patient)
    }

    /// A read whose question is in the body.
    pub(super) fn question<T: Serialize>(method: &str, path: &str, body: &T) -> Self {
        Self::with_body(method, path, body, Kind::Read)
    }

    pub(super) fn once<T: Serialize>(method: &str, path: &str, body: &T) -> Self {
        Self::with_body(method, path, body, Kind::Once)
    }

    fn with_query<T: Serialize>(method: Method, path: &str, query: &T, kind: Kind) -> Self {
        // A plus sign is refused by the server: some parsers take it for a space, others do not.
        let query = serde_urlencoded::to_string(query).expect("our queries are flat");
        let query = query.replace('+', "%20");
        let path_and_query =
            if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
        Self { method, path_and_query, body: None, kind, keeps: false }
    }

    fn with_body<T: Serialize>(method: &str, path: &str, body: &T, kind: Kind) -> Self {
        let method = method.parse().expect("our methods are methods");
        let body = serde_json::to_vec(body).expect("our bodies have string keys only");
        let path_and_query = path.to_owned();
        Self { method, path_and_query, body: Some(body.into()), kind, keeps: false }
    }

    /// A write whose body is encoded already.
    pub(super) fn post(path: &str, body: Bytes) -> Self {
        let path_and_query = path.to_owned();
        Self {
            method: Method::POST,
            path_and_query,
            body: Some(body),
            kind: Kind::Write,
            keeps: false,
        }
    }

    /// Says of a request whether it only renews or releases what is held.
    pub(super) fn keeping(self, keeps: bool) -> Self {
        Self { keeps, ..self }
    }

    /// Whether it only renews or releases what is held.
    pub(super) fn keeps(&self) -> bool {
        self.keeps
    }

    /// Whether only a node of the client's cluster may answer: all but requests about the node
    /// itself.
    fn is_of_one_cluster(&self) -> bool {
        let about_node = [routes::CLUSTER, routes::HEALTHZ, routes::READYZ];
        !about_node.contains(&self.path_and_query.as_str())
    }

    /// The body; empty if there is none.
    pub(super) fn body(&self) -> Bytes {
        self.body.clone().unwrap_or_default()
    }

    /// The error for a request that was sent, at least in part, and got no answer of a node.
    fn unanswered(&self, reason: impl Into<String>) -> Error {
        match self.kind {
            Kind::Read => Error::unavailable(reason),
            Kind::Write | Kind::Patient | Kind::Once => Error::unknown(reason),
        }
    }
}

impl Kind {
    /// Whether the request may be sent again: always if it was certainly not done; if it may have
    /// been done, only if its id makes the repetition the same request.
    pub(super) fn may_repeat_after(self, error: &Error) -> bool {
        match error {
            Error::Unavailable { .. } => true,
            Error::Unknown { .. } => self != Self::Once,
            Error::Forbidden(_)
            | Error::BadRequest { .. }
            | Error::NotFound { .. }
            | Error::Unauthorized { .. }
            | Error::NotAllowed { .. }
            | Error::LaneForgotten { .. } => false,
        }
    }

    /// Whether the request may be sent to a second node while the first has not answered.
    pub(super) fn is_hedged(self) -> bool {
        matches!(self, Self::Read | Self::Write)
    }
}

/// The answer to one attempt, with the position in the log where it was decided.
pub(super) type Reply<T> = (T, Option<DecidedAt>);

/// A node's response, before it is interpreted.
struct Heard {
    status: StatusCode,
    decided_at: Option<DecidedAt>,
    /// The body, if it is a problem document of ours.
    problem: Option<Problem>,
    body: Vec<u8>,
}

/// The head of an answer.
struct Begun {
    response: reqwest::Response,
    decided_at: Option<DecidedAt>,
}

/// A request that is not coalesced with others.
struct Alone<'a, T> {
    transport: &'a Transport,
    request: &'a Request,
    call: &'a CallOptions,
    answer: std::marker::PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned + Send> Ask for Alone<'_, T> {
    type Answer = Reply<Result<T, Forbidden>>;

    fn kind(&self) -> Kind {
        self.request.kind
    }

    async fn ask(&self, endpoint: &Arc<str>, wait: Duration) -> Result<Self::Answer, Error> {
        self.transport.attempt(endpoint, self.request, self.call, wait).await
    }
}

/// A request whose answer is read part by part.
struct Download<'a> {
    transport: &'a Transport,
    request: &'a Request,
    call: &'a CallOptions,
}

impl Ask for Download<'_> {
    type Answer = Reply<reqwest::Response>;

    fn kind(&self) -> Kind {
        self.request.kind
    }

    async fn ask(&self, endpoint: &Arc<str>, wait: Duration) -> Result<Self::Answer, Error> {
        let Self { transport, request, call } = *self;
        let begun =
            tokio::time::timeout(wait, transport.begin(endpoint, request, call, wait)).await;
        let Begun { response, decided_at } = begun.unwrap_or_else(|_| {
            Err(request.unanswered(format!("{endpoint}: no answer in time")))
        })?;
        if response.status() == StatusCode::OK {
            return Ok((response, decided_at));
        }
        let Heard { status, problem, .. } =
            transport.hear(endpoint, request, Begun { response, decided_at }).await?;
        Err(match problem {
            Some(problem) => told(request, problem.into_error(decided_at)),
            None => request.unanswered(no_answer(endpoint, status)),
        })
    }
}

impl Transport {
    pub(super) fn new(endpoints: &[String], settings: &Settings) -> Result<Self, Error> {
        let http = tls::http(settings.tls.config()?)
            // Retries are decided here, by the kind of the request, not below.
            .retry(reqwest::retry::never())
            .connect_timeout(settings.connect_timeout)
            .pool_idle_timeout(KEEP_IDLE)
            .build()
            .map_err(|error| Error::bad_request(describe(&error)))?;
        Self::over(Carrier::Http(http), endpoints, settings)
    }

    /// A transport over this carrier.
    pub(super) fn over(
        way: Carrier,
        endpoints: &[String],
        settings: &Settings,
    ) -> Result<Self, Error> {
        let Settings { timeout, batches, .. } = *settings;
        let credential = Credential::new(&settings.access_token)?;
        let endpoints = Endpoints::new(endpoints)?;
        Ok(Self {
            way,
            endpoints,
            cluster: OnceLock::new(),
            timeout,
            credential,
            lanes: Lanes::default(),
            batcher: batches.then(Batcher::default),
            limited: Mutex::default(),
            one_by_one: Mutex::default(),
        })
    }

    /// The nodes of the cluster.
    pub(super) fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    pub(super) fn lanes(&self) -> &Lanes {
        &self.lanes
    }

    /// The queued writes of a client that coalesces them.
    pub(super) fn batcher(&self) -> Option<&Batcher> {
        self.batcher.as_ref()
    }

    /// The timeout of a call, retries included.
    pub(super) fn patience(&self, call: &CallOptions) -> Duration {
        call.timeout.unwrap_or(self.timeout).min(MAX_TIMEOUT)
    }

    /// Sends a write as [`Transport::call`] does, possibly coalesced with others, with a refusal as
    /// an answer instead of an error.
    pub(super) async fn write_or_refusal<T: Batched>(
        self: &Arc<Self>,
        request: &Request,
        call: &CallOptions,
    ) -> Result<Reply<Result<T, Forbidden>>, Error> {
        match BatchedWrite::new(self, request, call) {
            Some(gathered) => self.repeat(&gathered, call).await,
            None => self.repeat(&self.alone(request, call), call).await,
        }
    }

    /// Sends a request as [`Transport::call`] does, with a refusal as an answer.
    pub(super) async fn call_or_refusal<T: DeserializeOwned + Send>(
        &self,
        request: &Request,
        call: &CallOptions,
    ) -> Result<Reply<Result<T, Forbidden>>, Error> {
        self.repeat(&self.alone(request, call), call).await
    }

    /// Sends a request until there is an answer or the time is up.
    pub(super) async fn call<T: DeserializeOwned + Send>(
        &self,
        request: &Request,
        call: &CallOptions,
    ) -> Result<Reply<T>, Error> {
        granted(self.repeat(&self.alone(request, call), call).await?)
    }

    /// Sends a request until the answer begins or the time is up.
    pub(super) async fn download(
        &self,
        request: &Request,
        call: &CallOptions,
    ) -> Result<Reply<reqwest::Response>, Error> {
        self.repeat(&Download { transport: self, request, call }, call).await
    }

    fn alone<'a, T>(&'a self, request: &'a Request, call: &'a CallOptions) -> Alone<'a, T> {
        Alone { transport: self, request, call, answer: std::marker::PhantomData }
    }

    /// Sends a request to this node, once.
    pub(super) async fn ask_one<T: DeserializeOwned>(
        &self,
        endpoint: &str,
        request: &Request,
        call: &CallOptions,
    ) -> Result<Reply<T>, Error> {
        let endpoint = normalize(endpoint)?;
        granted(self.attempt(&endpoint, request, call, self.patience(call)).await?)
    }

    /// Sends a request to this node once, with a refusal as an answer.
    pub(super) async fn attempt<T: DeserializeOwned>(
        &self,
        endpoint: &Arc<str>,
        request: &Request,
        call: &CallOptions,
        wait: Duration,
    ) -> Result<Reply<Result<T, Forbidden>>, Error> {
        let Heard { status, decided_at, problem, body } =
            self.exchange(endpoint, request, call, wait).await?;
        if let Some(problem) = problem {
            if problem.code == Code::Forbidden {
                return Ok((Err(problem.to_forbidden()), decided_at));
            }
            return Err(told(request, problem.into_error(decided_at)));
        }
        let answer = if status.is_success() { serde_json::from_slice(&body).ok() } else { None };
        match answer {
            Some(answer) => Ok((Ok(answer), decided_at)),
            None => Err(request.unanswered(no_answer(endpoint, status))),
        }
    }

    /// Sends a batch to this node once. `None`: the node does not support batches, or not this one,
    /// and has done nothing.
    pub(super) async fn attempt_batch(
        &self,
        endpoint: &Arc<str>,
        message: &Message,
        call: &CallOptions,
        wait: Duration,
    ) -> Result<Option<Vec<BatchItemAnswer>>, Error> {
        let Message { request, items } = message;
        let Heard { status, problem, body, .. } =
            self.exchange(endpoint, request, call, wait).await?;
        if matches!(status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) {
            // A proxy on the way to the node may not let batches through either.
            let mut nodes = self.one_by_one.lock().unwrap_or_else(PoisonError::into_inner);
            nodes.insert(Arc::clone(endpoint), Deadline::after(ONE_BY_ONE));
        }
        if let Some(problem) = problem {
            return match problem.code {
                // The batch as such is refused here; one of its requests may be to blame.
                Code::NoSuchPath
                | Code::MethodNotAllowed
                | Code::BadRequest
                | Code::UnknownField
                | Code::TooLarge
                | Code::UnsupportedMediaType => Ok(None),
                Code::Forbidden
                | Code::Unauthorized
                | Code::NotAllowed
                | Code::LaneForgotten
                | Code::NotFound
                | Code::Timeout
                | Code::TooManyRequests
                | Code::Unavailable
                | Code::Unknown
                | Code::Other => Err(told(request, problem.into_error(None))),
            };
        }
        let answers = if status.is_success() { serde_json::from_slice(&body).ok() } else { None };
        match answers {
            Some(BatchAnswers { answers }) if answers.len() == *items => Ok(Some(answers)),
            _ => Err(request.unanswered(no_answer(endpoint, status))),
        }
    }

    /// Whether this node is known not to support batches.
    pub(super) fn asks_one_by_one(&self, endpoint: &Arc<str>) -> bool {
        let nodes = self.one_by_one.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.get(endpoint).is_some_and(|until| !until.remaining().is_zero())
    }

    fn limited(&self) -> MutexGuard<'_, Option<Deadline>> {
        self.limited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a node has lately refused this client for asking too often.
    pub(super) fn is_limited(&self) -> bool {
        self.limited().is_some_and(|until| !until.remaining().is_zero())
    }

    async fn exchange(
        &self,
        endpoint: &Arc<str>,
        request: &Request,
        call: &CallOptions,
        wait: Duration,
    ) -> Result<Heard, Error> {
        match tokio::time::timeout(wait, self.send(endpoint, request, call, wait)).await {
            Ok(result) => result,
            Err(_) => Err(request.unanswered(format!("{endpoint}: no answer in time"))),
        }
    }

    /// Checks that the node belongs to the cluster of the one that answered first. The first
    /// answers of two nodes may come at once, so the request to the second may have been done.
    fn judge_cluster(
        &self,
        endpoint: &str,
        request: &Request,
        response: &reqwest::Response,
    ) -> Result<(), Error> {
        let Some(theirs) = response.headers().get(headers::CLUSTER) else { return Ok(()) };
        let ours = self.cluster.get_or_init(|| theirs.clone());
        if ours == theirs || response.status() == StatusCode::BAD_REQUEST {
            return Ok(());
        }
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        Err(request.unanswered(format!(
            "{endpoint} belongs to cluster {}, other endpoints to cluster {}: name the nodes of one \
             cluster",
            text(theirs),
            text(ours)
        )))
    }

    /// Sends the request with the credential of a file. One that is refused for it was not done: it is
    /// sent once more if the file has another one by now.
    async fn send_following(
        &self,
        followed: &Followed,
        mut built: reqwest::Request,
    ) -> Result<reqwest::Response, SendError> {
        let credential = followed.current().await;
        if let Some(credential) = &credential {
            built.headers_mut().insert(AUTHORIZATION, credential.clone());
        }
        let again = built.try_clone();
        let response = self.way.send(built).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        match (again, followed.instead_of(credential.as_ref()).await) {
            (Some(mut again), Some(newer)) => {
                again.headers_mut().insert(AUTHORIZATION, newer);
                self.way.send(again).await
            }
            (None, _) | (_, None) => Ok(response),
        }
    }

    async fn send(
        &self,
        endpoint: &Arc<str>,
        request: &Request,
        call: &CallOptions,
        wait: Duration,
    ) -> Result<Heard, Error> {
        let begun = self.begin(endpoint, request, call, wait).await?;
        self.hear(endpoint, request, begun).await
    }

    /// Sends a request, and waits for the head of its answer.
    async fn begin(
        &self,
        endpoint: &Arc<str>,
        request: &Request,
        call: &CallOptions,
        wait: Duration,
    ) -> Result<Begun, Error> {
        let mut built = build(endpoint, request, call, wait)?;
        // With this header, a node of another cluster does nothing.
        if let Some(cluster) = self.cluster.get().filter(|_| request.is_of_one_cluster()) {
            built.headers_mut().insert(headers::CLUSTER, cluster.clone());
        }
        if let Credential::Fixed(credential) = &self.credential {
            built.headers_mut().insert(AUTHORIZATION, credential.clone());
        }
        let sent = match &self.credential {
            // Boxed: it is larger than the rest, which moves with each request.
            Credential::Followed(followed) => Box::pin(self.send_following(followed, built)).await,
            Credential::Fixed(_) | Credential::Nothing => self.way.send(built).await,
        };
        let response = sent.map_err(|error| {
            let reason = |cause: Cause| format!("{endpoint}: {}", describe(&*cause));
            match error {
                SendError::Connect(cause) => Error::unavailable(reason(cause)),
                SendError::Broken(cause) => request.unanswered(reason(cause)),
            }
        })?;
        if request.is_of_one_cluster() {
            self.judge_cluster(endpoint, request, &response)?;
        }
        let position = response.headers().get(headers::LOG_POSITION);
        let position = position.and_then(|value| value.to_str().ok());
        let decided_at = position.and_then(parse_log_position);
        Ok(Begun { response, decided_at })
    }

    /// Reads the rest of an answer.
    async fn hear(
        &self,
        endpoint: &Arc<str>,
        request: &Request,
        Begun { mut response, decided_at }: Begun,
    ) -> Result<Heard, Error> {
        let status = response.status();
        let field = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let waits_ms = field("retry-after").and_then(|text| text.parse::<u64>().ok());
        let waits_ms = waits_ms.map(|seconds| seconds.saturating_mul(1000));
        let is_problem = is_problem(field("content-type").unwrap_or(""));
        let body = match read(&mut response).await {
            Ok(body) => body,
            Err(reason) => return Err(request.unanswered(format!("{endpoint}: {reason}"))),
        };
        let mut problem = if is_problem { our_problem(&body) } else { None };
        if let Some(problem) = problem.as_mut().filter(|it| it.code == Code::TooManyRequests) {
            problem.retry_after_ms = problem.retry_after_ms.or(waits_ms);
            *self.limited() = Some(Deadline::after(APART));
        }
        Ok(Heard { status, decided_at, problem, body })
    }
}

/// Builds the HTTP request.
fn build(
    endpoint: &str,
    request: &Request,
    call: &CallOptions,
    wait: Duration,
) -> Result<reqwest::Request, Error> {
    let url = Url::parse(&format!("{endpoint}{}", request.path_and_query));
    let url = url.map_err(|error| Error::bad_request(format!("endpoint {endpoint:?}: {error}")))?;
    let mut built = reqwest::Request::new(request.method.clone(), url);
    // The node gets a slightly shorter timeout than ours, so that it can still report the outcome.
    let timeout = to_ms(wait.mul_f64(0.9)).max(1);
    let fields = built.headers_mut();
    fields.insert(headers::TIMEOUT_MS, timeout.into());
    let words = [
        (headers::TRACE_ID, call.trace_id.as_deref().filter(|id| is_trace_id(id))),
        (headers::CAUSE, call.cause.as_deref().filter(|cause| is_cause(cause))),
    ];
    for (name, text) in words {
        // A value that is no valid header is left out, as one beyond the bounds is.
        if let Some(value) = text.and_then(|text| HeaderValue::from_str(text).ok()) {
            fields.insert(name, value);
        }
    }
    if request.keeps {
        fields.insert(headers::KEEPS, HeaderValue::from_static("true"));
    }
    if let Some(body) = &request.body {
        fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        *built.body_mut() = Some(body.clone().into());
    }
    Ok(built)
}

/// Turns a refusal into an error.
fn granted<T>((answer, decided_at): Reply<Result<T, Forbidden>>) -> Result<Reply<T>, Error> {
    answer.map(|answer| (answer, decided_at)).map_err(Error::Forbidden)
}

/// Keeps a read from being unknown, whatever a node reports.
fn told(request: &Request, error: Error) -> Error {
    match error {
        Error::Unknown { reason } => request.unanswered(reason),
        Error::Forbidden(_)
        | Error::BadRequest { .. }
        | Error::NotFound { .. }
        | Error::Unavailable { .. }
        | Error::Unauthorized { .. }
        | Error::NotAllowed { .. }
        | Error::LaneForgotten { .. } => error,
    }
}

fn no_answer(endpoint: &str, status: StatusCode) -> String {
    format!("{endpoint}: status {status}, and not an answer of a Keyward node")
}

fn is_problem(media_type: &str) -> bool {
    let (media_type, _) = media_type.split_once(';').unwrap_or((media_type, ""));
    media_type.trim().eq_ignore_ascii_case(PROBLEM_MEDIA_TYPE)
}

/// The problem document if it is one of ours; anything else may come from a proxy in between.
fn our_problem(body: &[u8]) -> Option<Problem> {
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
