//! Problem documents (RFC 9457): every answer that is not a success.
//!
//! The `code` is the contract: stable and open-ended. Clients decide by it alone, and only when the
//! media type says that the document is ours; a status without one may come from any proxy in
//! between.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::answers::HolderAnswer;
use keyward_core::error::Error;
use keyward_core::types::{DecidedAt, Forbidden, ForbiddenReason};

/// The media type of a problem document.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// The prefix of the `type` of every one of our documents.
const TYPE_PREFIX: &str = "urn:keyward:problem:";

/// The wait of a client that asks too often and is not told for how long.
const UNSAID_WAIT: Duration = Duration::from_secs(1);

/// The kind of problem, as a stable word.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[derive(utoipa::ToSchema)]
pub enum Code {
    /// Another holds the lock, or the grant is lost (423).
    Forbidden,
    /// The `request_id` continues a lane that is not remembered: this copy of the request was not
    /// done, and whether an earlier one was is unknown (409).
    LaneForgotten,
    /// The request is wrong and always will be (400).
    BadRequest,
    /// The request has a field that does not exist (400).
    UnknownField,
    /// The caller is not who it must be (401).
    Unauthorized,
    /// It is known who the caller is, and no access rule allows the request (403). Not to be confused
    /// with `forbidden`, which is about the lock.
    NotAllowed,
    /// There is no such record (404).
    NotFound,
    /// There is nothing at this path (404).
    NoSuchPath,
    /// The path exists, the method does not (405).
    MethodNotAllowed,
    /// The client was too slow to send its request (408).
    Timeout,
    /// The body is larger than allowed (413).
    TooLarge,
    /// The body is not declared to be JSON (415).
    UnsupportedMediaType,
    /// The client asks more often, or over more connections, than this node allows (429). Certainly
    /// not done; trying again after a while is safe.
    TooManyRequests,
    /// Certainly not done; trying again is safe (503).
    Unavailable,
    /// May have been done (504).
    Unknown,
    /// A code that this version does not know. Never sent.
    #[serde(other)]
    Other,
}

impl Code {
    /// The HTTP status of the answer.
    pub fn status(self) -> u16 {
        match self {
            Self::BadRequest | Self::UnknownField => 400,
            Self::Unauthorized => 401,
            Self::NotAllowed => 403,
            Self::NotFound | Self::NoSuchPath => 404,
            Self::MethodNotAllowed => 405,
            Self::Timeout => 408,
            Self::TooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::LaneForgotten => 409,
            Self::TooManyRequests => 429,
            Self::Forbidden => 423,
            Self::Unavailable => 503,
            Self::Unknown | Self::Other => 504,
        }
    }

    /// The word, as written in a document and in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Forbidden => "forbidden",
            Self::LaneForgotten => "lane_forgotten",
            Self::BadRequest => "bad_request",
            Self::UnknownField => "unknown_field",
            Self::Unauthorized => "unauthorized",
            Self::NotAllowed => "not_allowed",
            Self::NotFound => "not_found",
            Self::NoSuchPath => "no_such_path",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::Timeout => "timeout",
            Self::TooLarge => "too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::TooManyRequests => "too_many_requests",
            Self::Unavailable => "unavailable",
            Self::Unknown => "unknown",
            Self::Other => "other",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Forbidden => "Forbidden",
            Self::LaneForgotten => "Lane forgotten",
            Self::BadRequest => "Bad request",
            Self::UnknownField => "Unknown field",
            Self::Unauthorized => "Unauthorized",
            Self::NotAllowed => "Not allowed",
            Self::NotFound => "Not found",
            Self::NoSuchPath => "No such path",
            Self::MethodNotAllowed => "Method not allowed",
            Self::Timeout => "Request too slow",
            Self::TooLarge => "Request too large",
            Self::UnsupportedMediaType => "Unsupported media type",
            Self::TooManyRequests => "Too many requests",
            Self::Unavailable => "Unavailable",
            Self::Unknown | Self::Other => "Unknown outcome",
        }
    }
}

/// A problem document.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Problem {
    /// A URI that names the kind of problem: `urn:keyward:problem:` and the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind of problem, for a person.
    pub title: String,
    /// The HTTP status, once more.
    pub status: u16,
    /// The kind of problem, for a program. More may come.
    pub code: Code,
    /// The description of what is wrong with this request, for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// With `forbidden`: the reason, such as `held` (by another) or `lost` (the grant named by its
    /// token is gone), `queued` (others wait) or `timeout` (of a wait).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub reason: Option<ForbiddenReason>,
    /// With `forbidden`: the present holders of the lock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holders: Option<Vec<HolderAnswer>>,
    /// With the reason `limit_differs`: the limit that the lock has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// With the reason `delay`: the time until the lock-delay is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// With `unavailable`: the client address of the node believed to be the leader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// With `too_many_requests`: the time to wait, of which `Retry-After` has whole seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl Problem {
    /// A problem of this kind, with a description.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("{TYPE_PREFIX}{}", code.word()),
            title: code.title().to_owned(),
            status: code.status(),
            code,
            detail: Some(detail.into()),
            reason: None,
            holders: None,
            limit: None,
            delay_ms: None,
            leader: None,
            retry_after_ms: None,
        }
    }

    /// The refusal of a client that asks too often, and the time that it has to wait.
    pub fn too_many_requests(detail: impl Into<String>, wait: Duration) -> Self {
        // Rounded up: who asks a moment too early is refused again.
        let wait = wait.saturating_add(Duration::from_micros(999));
        let retry_after_ms = Some(super::to_ms(wait).max(1));
        Self { retry_after_ms, ..Self::new(Code::TooManyRequests, detail) }
    }

    /// Whether it was written by a Keyward node: a proxy in between may answer in the same format.
    pub fn is_ours(&self) -> bool {
        self.kind.starts_with(TYPE_PREFIX)
    }

    /// The refusal of a lock or unlock request.
    pub fn forbidden(forbidden: &Forbidden) -> Self {
        let detail = match (forbidden.reason, forbidden.holders.is_empty()) {
            (ForbiddenReason::Held, _) => "another holds the lock",
            (ForbiddenReason::Lost, true) => "the grant is gone, and nobody holds the lock",
            (ForbiddenReason::Lost, false) => {
                "the grant is gone, expired, or has another token than the one named"
            }
            (reason, _) => reason.describe(),
        };
        Self {
            reason: Some(forbidden.reason),
            holders: Some(forbidden.holders.iter().map(HolderAnswer::from).collect()),
            limit: forbidden.limit,
            delay_ms: forbidden.delay.map(super::to_ms),
            ..Self::new(Code::Forbidden, detail)
        }
    }

    /// The refusal as a type of the contract. A document without a reason is read as `held`.
    pub fn to_forbidden(&self) -> Forbidden {
        let holders = self.holders.iter().flatten().cloned().map(Into::into).collect();
        let reason = self.reason.unwrap_or(ForbiddenReason::Held);
        let delay = self.delay_ms.map(Duration::from_millis);
        Forbidden { limit: self.limit, delay, ..Forbidden::new(reason, holders) }
    }

    /// The error for the caller; `decided_at` is the position in the answer's header.
    pub fn into_error(self, decided_at: Option<DecidedAt>) -> Error {
        let code = self.code;
        let reason = || match &self.detail {
            Some(detail) => detail.clone(),
            None => self.title.clone(),
        };
        match code {
            Code::Forbidden => Error::Forbidden(self.to_forbidden()),
            Code::NotFound => Error::NotFound { decided_at },
            Code::Unauthorized => Error::Unauthorized { reason: reason() },
            Code::NotAllowed => Error::NotAllowed { reason: reason() },
            Code::LaneForgotten => Error::LaneForgotten { reason: reason() },
            Code::BadRequest
            | Code::UnknownField
            | Code::NoSuchPath
            | Code::MethodNotAllowed
            | Code::TooLarge
            | Code::UnsupportedMediaType => Error::bad_request(reason()),
            // The server stopped reading the request, so it cannot have acted on it.
            Code::Unavailable | Code::Timeout => {
                let leader = self.leader.clone();
                Error::Unavailable { reason: reason(), leader, retry_after: None }
            }
            Code::TooManyRequests => {
                let wait = self.retry_after_ms.map_or(UNSAID_WAIT, Duration::from_millis);
                Error::too_often(reason(), wait)
            }
            Code::Unknown | Code::Other => Error::unknown(reason()),
        }
    }
}

impl From<&Error> for Problem {
    fn from(error: &Error) -> Self {
        match error {
            Error::Forbidden(forbidden) => Self::forbidden(forbidden),
            Error::BadRequest { reason } => Self::new(Code::BadRequest, reason),
            Error::NotFound { .. } => Self::new(Code::NotFound, "there is no such lock"),
            Error::Unavailable { reason, retry_after: Some(wait), .. } => {
                Self::too_many_requests(reason, *wait)
            }
            Error::Unavailable { reason, leader, retry_after: None } => {
                Self { leader: leader.clone(), ..Self::new(Code::Unavailable, reason) }
            }
            Error::Unknown { reason } => Self::new(Code::Unknown, reason),
            Error::Unauthorized { reason } => Self::new(Code::Unauthorized, reason),
            Error::NotAllowed { reason } => Self::new(Code::NotAllowed, reason),
            Error::LaneForgotten { reason } => Self::new(Code::LaneForgotten, reason),
        }
    }
}
