//! The errors that a caller gets.
//!
//! The distinction that matters is between [`Error::Unavailable`] (certainly not done: try again)
//! and [`Error::Unknown`] (may have been done: repeat with the same `request_id`, or look).

use std::time::Duration;

use crate::types::{DecidedAt, Forbidden};

/// The reason why a call has no answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// Another owner holds the lock, or the grant is lost. The lock and unlock calls return this as
    /// a `failed` answer; the client turns it into an error where only a grant is useful.
    #[error("forbidden: {}", describe(.0))]
    Forbidden(Forbidden),
    /// The request is wrong and will be refused whenever it is sent.
    #[error("bad request: {reason}")]
    BadRequest {
        /// The description of what is wrong, for a person.
        reason: String,
    },
    /// There is no such record.
    #[error("not found")]
    NotFound {
        /// The log position of the state that was read.
        decided_at: Option<DecidedAt>,
    },
    /// Certainly not done. Trying again later is safe.
    #[error("unavailable: {reason}")]
    Unavailable {
        /// The description of what is missing, for a person.
        reason: String,
        /// The client address of the node believed to lead, if one is known.
        leader: Option<String>,
        /// The time after which the caller may ask again; set by a node that refuses those who ask
        /// more often than it allows.
        retry_after: Option<Duration>,
    },
    /// May have been done. Repeating with the same `request_id` is safe.
    #[error("unknown outcome: {reason}")]
    Unknown {
        /// The description of what happened, for a person.
        reason: String,
    },
    /// The caller is not who it must be. Not done.
    #[error("unauthorized: {reason}")]
    Unauthorized {
        /// The description of what is missing, for a person.
        reason: String,
    },
    /// It is known who the caller is, and no access rule allows the request. Not done.
    #[error("not allowed: {reason}")]
    NotAllowed {
        /// The right that is missing, for a person.
        reason: String,
    },
    /// The `request_id` continues a lane that the cluster does not remember: it was not used for
    /// long, or there were too many. This copy was not done; whether an earlier one with the same
    /// id was is unknown. Without an earlier one it is safe to repeat the request with a new lane,
    /// which begins with 1.
    #[error("lane forgotten: {reason}")]
    LaneForgotten {
        /// The description of the lane, for a person.
        reason: String,
    },
}

impl Error {
    /// An invalid request, with the reason.
    pub fn bad_request(reason: impl Into<String>) -> Self {
        Self::BadRequest { reason: reason.into() }
    }

    /// Certainly not done, with the reason and no known leader.
    pub fn unavailable(reason: impl Into<String>) -> Self {
        Self::Unavailable { reason: reason.into(), leader: None, retry_after: None }
    }

    /// Certainly not done, because the caller asks too often, and how long it has to wait.
    pub fn too_often(reason: impl Into<String>, retry_after: Duration) -> Self {
        Self::Unavailable { reason: reason.into(), leader: None, retry_after: Some(retry_after) }
    }

    /// The time that a caller who asks too often has to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        if let Self::Unavailable { retry_after, .. } = self { *retry_after } else { None }
    }

    /// May have been done, with the reason.
    pub fn unknown(reason: impl Into<String>) -> Self {
        Self::Unknown { reason: reason.into() }
    }
}

fn describe(forbidden: &Forbidden) -> String {
    let reason = forbidden.reason.describe();
    let holders = forbidden.holders.iter().map(|holder| {
        let left = if holder.expired {
            String::from("expired")
        } else {
            format!("{} ms left", holder.expires_in.as_millis())
        };
        format!("{} at level {} ({left})", holder.signee, holder.level)
    });
    std::iter::once(reason.to_owned()).chain(holders).collect::<Vec<_>>().join("; ")
}
