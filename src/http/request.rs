//! The parsing of requests: the options in the headers, the JSON bodies, the query strings.
//!
//! Each refusal is a problem document whose detail says what is wrong and where. Bytes are never
//! repaired: text that is not UTF-8 is refused, because its repaired form would name another lock.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::BoxError;
use axum::extract::Query;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, Uri};
use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body as HttpBody;
use serde::de::DeserializeOwned;

use super::ListenerSettings;
use super::answer::Refusal;
use super::identity::Caller;
use super::rates::{self, Share as RateShare};
use super::slots::Slot;
use crate::api::{Code, DEFAULT_TIMEOUT, MAX_CAUSE_BYTES, MAX_TIMEOUT, headers};
use crate::budget::{self, Budget, Share};
use crate::clock::Deadline;
use crate::error::Error;
use crate::lock::{Command, Operation};
use crate::principal::Principal;
use crate::types::{CallOptions, RequestId};

/// The time by which the service's timeout is shorter than the caller's, so that the answer still
/// reaches the caller.
const SLACK: Duration = Duration::from_millis(20);

/// A body that is still arriving.
pub(crate) trait Arriving:
    HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static
{
}

impl<B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static> Arriving for B {}

/// A request of a client, with its context.
pub(crate) struct ClientRequest<B> {
    pub(crate) http: axum::http::Request<B>,
    pub(crate) trace_id: String,
    /// The one that makes it, if that is known.
    pub(crate) caller: Option<Caller>,
    /// The slot of its connection, if it is known.
    pub(crate) slot: Option<Arc<Slot>>,
    /// The share of its maker that it takes from.
    pub(super) share: RateShare,
}

impl<B> ClientRequest<B> {
    /// The address of its client, if it is known.
    pub(super) fn address(&self) -> Option<IpAddr> {
        Some(self.slot.as_ref()?.from()?.ip())
    }
}

impl<B: Arriving> ClientRequest<B> {
    /// The options and the query of a request whose body is not read.
    pub(crate) fn query<T: DeserializeOwned>(&self) -> Result<(Call, T), Refusal> {
        Ok((self.call()?, query(self.http.uri())?))
    }

    /// The options and the JSON body of a request without a query, within the limits and its own
    /// timeout.
    pub(crate) async fn body<T: DeserializeOwned>(
        self,
        settings: &ListenerSettings,
    ) -> Result<(Call, T), Refusal> {
        let call = self.call_without_query()?;
        let (body, _) =
            self.json(settings, settings.terms.limits.body_bytes, call.deadline).await?;
        Ok((call, body))
    }

    /// The options of a request that has no query.
    pub(crate) fn call_without_query(&self) -> Result<Call, Refusal> {
        no_query(self.http.uri())?;
        self.call()
    }

    /// The JSON body, of at most this many bytes, with its share of the budget.
    pub(crate) async fn json<T: DeserializeOwned>(
        self,
        settings: &ListenerSettings,
        most: usize,
        deadline: Deadline,
    ) -> Result<(T, Share), Refusal> {
        declared_as_json(self.http.headers())?;
        let (bytes, share) = self.read_body(settings, most, deadline).await?;
        Ok((parse(&bytes)?, share))
    }

    fn call(&self) -> Result<Call, Refusal> {
        let fields = self.http.headers();
        Ok(Call {
            trace_id: Some(self.trace_id.clone()),
            principal: self.caller.as_ref().map(|caller| Arc::clone(&caller.principal)),
            cause: cause(fields)?,
            idempotency_key: idempotency_key(fields)?,
            keeps: keeps(fields)?,
            is_timed: fields.contains_key(headers::TIMEOUT_MS),
            deadline: Deadline::after(timeout(fields)?),
        })
    }

    async fn read_body(
        self,
        settings: &ListenerSettings,
        most: usize,
        deadline: Deadline,
    ) -> Result<(Bytes, Share), Refusal> {
        let too_large =
            || Refusal::new(Code::TooLarge, format!("the body is at most {most} bytes"));
        // A body that is declared too large is refused before it is sent, if the client waits for a
        // `100 Continue`.
        let declared = self.http.headers().get(CONTENT_LENGTH);
        let declared = declared.and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        if declared.is_some_and(|declared| declared > most) {
            return Err(too_large());
        }
        let mut body = pin!(collect(Limited::new(self.http.into_body(), most), &settings.budget));
        // A small body has usually arrived with its head.
        let read = if let Some(read) = body.as_mut().now_or_never() {
            Ok(read)
        } else {
            // Until its body has arrived, nothing is done for the request, so it may be evicted.
            let _pause = self.slot.as_ref().map(|slot| slot.pause());
            let timeout = settings.terms.limits.body_timeout.min(deadline.remaining());
            tokio::time::timeout(timeout, body).await
        };
        match read {
            Err(_) => Err(Refusal::new(Code::Timeout, "the body took too long to arrive")),
            Ok(Ok(body)) => Ok(body),
            Ok(Err(Uncollected::Budget)) => Err(Refusal::from(budget::exhausted())),
            Ok(Err(Uncollected::Body(error))) if error.is::<LengthLimitError>() => Err(too_large()),
            Ok(Err(Uncollected::Body(error))) => {
                let detail = format!("the body did not arrive whole: {error}");
                Err(Refusal::new(Code::BadRequest, detail))
            }
        }
    }
}

/// The options in the headers of a request.
pub(crate) struct Call {
    /// The time at which the handler answers without the service.
    pub(crate) deadline: Deadline,
    /// The reason for the call; part of each of its commands.
    pub(crate) cause: Option<Box<str>>,
    /// The one that calls; part of each of its commands and queries.
    pub(crate) principal: Option<Arc<Principal>>,
    /// Whether the caller says that it only renews and releases.
    pub(crate) keeps: bool,
    /// Whether the caller named a timeout.
    is_timed: bool,
    trace_id: Option<String>,
    idempotency_key: Option<RequestId>,
}

impl Call {
    /// Gives a call that names no timeout the time of its wait in addition.
    pub(crate) fn wait(&mut self, wait: Duration) {
        if !self.is_timed && !wait.is_zero() {
            let whole = self.deadline.remaining().saturating_add(wait);
            self.deadline = Deadline::after(whole.min(MAX_TIMEOUT));
        }
    }

    /// The request id of a write: the one in its body or query, or else in its headers.
    pub(crate) fn request_id(
        &self,
        named: Option<RequestId>,
    ) -> Result<Option<RequestId>, Refusal> {
        match (named, self.idempotency_key) {
            (Some(named), Some(key)) if named != key => Err(Refusal::new(
                Code::BadRequest,
                format!(
                    "request_id and {} differ; one of them is enough",
                    headers::IDEMPOTENCY_KEY
                ),
            )),
            (named, key) => Ok(named.or(key)),
        }
    }

    /// Refuses a lock request that does not renew, of a caller that says that it only renews and
    /// releases: it has taken from another share than it should have.
    pub(crate) fn judge_share(keeps: bool, command: &Command) -> Result<(), Error> {
        let asks = matches!(&command.operation, Operation::Lock(lock) if lock.token.is_none());
        if !keeps || !asks {
            return Ok(());
        }
        let name = headers::KEEPS;
        Err(Error::bad_request(format!(
            "with {name} a lock request has a token, so that it renews"
        )))
    }

    /// Refuses the header where each request has an id of its own.
    pub(crate) fn no_idempotency_key(&self) -> Result<(), Refusal> {
        match self.idempotency_key {
            None => Ok(()),
            Some(_) => Err(Refusal::new(
                Code::BadRequest,
                "a batch has no id of its own: give each of its requests a request_id",
            )),
        }
    }

    /// The options of the call for the service, with the rest of its timeout.
    pub(crate) fn options(self) -> CallOptions {
        let remaining = self.deadline.remaining();
        let timeout = remaining.saturating_sub(SLACK.min(remaining / 4));
        CallOptions { trace_id: self.trace_id, ..CallOptions::within(timeout) }
    }
}

fn timeout(fields: &HeaderMap) -> Result<Duration, Refusal> {
    let Some(value) = fields.get(headers::TIMEOUT_MS) else { return Ok(DEFAULT_TIMEOUT) };
    let ms = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    match ms.and_then(|text| text.parse().ok()).map(Duration::from_millis) {
        Some(timeout) if !timeout.is_zero() && timeout <= MAX_TIMEOUT => Ok(timeout),
        _ => Err(Refusal::new(
            Code::BadRequest,
            format!("{} is a number from 1 to {}", headers::TIMEOUT_MS, MAX_TIMEOUT.as_millis()),
        )),
    }
}

fn cause(fields: &HeaderMap) -> Result<Option<Box<str>>, Refusal> {
    let Some(value) = fields.get(headers::CAUSE) else { return Ok(None) };
    match std::str::from_utf8(value.as_bytes()) {
        Ok(text) if text.len() <= MAX_CAUSE_BYTES => Ok(Some(text.into())),
        _ => Err(Refusal::new(
            Code::BadRequest,
            format!("{} is at most {MAX_CAUSE_BYTES} bytes of UTF-8", headers::CAUSE),
        )),
    }
}

/// Whether the caller says that it only renews and releases.
fn keeps(fields: &HeaderMap) -> Result<bool, Refusal> {
    if fields.contains_key(headers::KEEPS) && !rates::keeps(fields) {
        let detail = format!("{} is `true`, or left out", headers::KEEPS);
        return Err(Refusal::new(Code::BadRequest, detail));
    }
    Ok(rates::keeps(fields))
}

/// The request id in the idempotency header. The draft's value is a string in quotes; most clients
/// leave them out.
fn idempotency_key(fields: &HeaderMap) -> Result<Option<RequestId>, Refusal> {
    let Some(value) = fields.get(headers::IDEMPOTENCY_KEY) else { return Ok(None) };
    let text = value.to_str().unwrap_or("");
    let bare = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    bare.parse().map(Some).map_err(|_| {
        let what = "is a UUID, or 32 hexadecimal digits, a hyphen and a decimal number";
        Refusal::new(Code::BadRequest, format!("{} {what}", headers::IDEMPOTENCY_KEY))
    })
}

/// Requires the media type of JSON. That also keeps a web page of another origin from sending
/// requests through a browser that can reach the cluster.
fn declared_as_json(fields: &HeaderMap) -> Result<(), Refusal> {
    let refuse = |detail| Err(Refusal::new(Code::UnsupportedMediaType, detail));
    if fields.contains_key(CONTENT_ENCODING) {
        return refuse("the body must not be compressed or encoded");
    }
    let declared = fields.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let (media_type, parameters) = declared.split_once(';').unwrap_or((declared, ""));
    if !media_type.trim().eq_ignore_ascii_case("application/json") {
        return refuse("the body must be declared with content-type: application/json");
    }
    let charset = parameters.trim().to_ascii_lowercase();
    match charset.as_str() {
        "" | "charset=utf-8" | "charset=\"utf-8\"" => Ok(()),
        _ => refuse("JSON is UTF-8; leave the parameters of content-type out"),
    }
}

/// The reason why a body was not collected.
enum Uncollected {
    /// The budget has no room for it.
    Budget,
    Body(BoxError),
}

/// Collects a body as it arrives. Only bytes that have arrived are taken from the budget: a length
/// that is only declared costs its sender nothing.
async fn collect<B>(body: Limited<B>, budget: &Budget) -> Result<(Bytes, Share), Uncollected>
where
    B: Arriving,
    Limited<B>: HttpBody<Data = Bytes, Error = BoxError>,
{
    let mut body = pin!(body);
    let mut share = Share::default();
    let mut whole = Bytes::new();
    // Used from the second part on: many small parts must not cost more than one large one.
    let mut joined = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(part) = frame.map_err(Uncollected::Body)?.into_data() else { continue };
        let bytes = whole.len() + joined.len() + part.len();
        if !budget.grow(&mut share, bytes) {
            return Err(Uncollected::Budget);
        }
        if whole.is_empty() && joined.is_empty() {
            whole = part;
        } else {
            joined.extend_from_slice(&std::mem::take(&mut whole));
            joined.extend_from_slice(&part);
        }
    }
    Ok((if joined.is_empty() { whole } else { joined.freeze() }, share))
}

/// Parses a JSON object. For a struct, serde would also accept an array in the order of its fields,
/// which is no API to promise.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        Refusal::new(Code::BadRequest, format!("the body is not UTF-8 at byte {at}"))
    })?;
    if !text.trim_start_matches([' ', '\t', '\r', '\n']).starts_with('{') {
        return Err(Refusal::new(Code::BadRequest, "the body must be a JSON object"));
    }
    serde_json::from_str(text).map_err(|_| refuse_json::<T>(text))
}

/// Parses an invalid body once more to locate the error: tracking the path costs more than the
/// parsing.
fn refuse_json<T: DeserializeOwned>(text: &str) -> Refusal {
    let mut json = serde_json::Deserializer::from_str(text);
    let parsed: Result<T, _> = serde_path_to_error::deserialize(&mut json);
    let wrong = match parsed {
        Ok(_) => json.end().map_err(|error| (String::new(), error)),
        Err(error) => Err((error.path().to_string(), error.into_inner())),
    };
    match wrong {
        Err((path, error)) => refuse_text(&path, &error.to_string()),
        Ok(()) => Refusal::new(Code::BadRequest, "the body is not what this path takes"),
    }
}

/// Parses the query string, strictly.
fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, Refusal> {
    let raw = uri.query().unwrap_or("");
    if !is_percent_encoded_utf8(raw) {
        let detail = "the query is not percent-encoded UTF-8";
        return Err(Refusal::new(Code::BadRequest, detail));
    }
    // A plus sign is a plus in a URL and a space in a form: a guess could name another lock.
    if raw.contains('+') {
        let detail = "a plus sign in the query is ambiguous: write %20 for a space, %2B for a plus";
        return Err(Refusal::new(Code::BadRequest, detail));
    }
    Query::try_from_uri(uri).map(|Query(value)| value).map_err(|rejection| {
        let text = rejection.body_text();
        let text = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
        refuse_text("", text)
    })
}

/// Refuses a query string on a path that takes none.
fn no_query(uri: &Uri) -> Result<(), Refusal> {
    match uri.query() {
        None | Some("") => Ok(()),
        Some(_) => Err(Refusal::new(Code::UnknownField, "this path takes no query string")),
    }
}

fn refuse_text(path: &str, text: &str) -> Refusal {
    // The text is serde's and names the field and the known ones.
    let unknown = text.starts_with("unknown field") || text.contains(": unknown field");
    let code = if unknown { Code::UnknownField } else { Code::BadRequest };
    let named = matches!(path, "" | "." | "?") || text.contains(&format!("`{path}`"));
    let text = match text.strip_prefix("EOF while parsing") {
        Some(rest) => format!("the body ends within{rest}"),
        None => text.to_owned(),
    };
    Refusal::new(code, if named { text } else { format!("{path}: {text}") })
}

/// Whether every escape is complete and the query decodes to UTF-8. The parser that reads it
/// afterwards would replace invalid bytes.
fn is_percent_encoded_utf8(raw: &str) -> bool {
    let mut decoded = Vec::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|digit| char::from(digit).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else { return false };
        decoded.extend(u8::try_from(high * 16 + low));
    }
    // Separators are ASCII, so a whole string of UTF-8 is one whose every part is.
    std::str::from_utf8(&decoded).is_ok()
}

#[cfg(test)]
mod tests {
    use super::is_percent_encoded_utf8;

    #[test]
    fn escapes_are_checked_as_utf8() {
        for good in ["", "signature=a%2Fb", "signature=%C3%A9+x", "a=%00"] {
            assert!(is_percent_encoded_utf8(good), "{good}");
        }
        for bad in ["signature=%FF", "signature=%C3", "signature=%", "signature=%2", "a=%zz"] {
            assert!(!is_percent_encoded_utf8(bad), "{bad}");
        }
    }
}
