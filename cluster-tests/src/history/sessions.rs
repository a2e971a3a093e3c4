//! One operation on a session: the request, its times, and its outcome.

use keyward::types::{DecidedAt, ForbiddenReason, Loss, Mode, RequestId, SessionId};
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use super::LockName;

/// One operation of one client on a session. Times are nanoseconds since the recorder's start, and
/// mean what they mean in an [`super::Operation`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionOperation {
    /// Unique in the history, among all operations.
    pub id: u64,
    /// The client.
    pub client: SmolStr,
    /// The request.
    pub action: SessionAction,
    /// The request id that it was sent with, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestId>,
    /// The time before anything was sent.
    pub invoked: u64,
    /// The time after the answer arrived; `None` means that none did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub returned: Option<u64>,
    /// The outcome.
    pub outcome: SessionOutcome,
    /// The place in the log at which it was decided, if the service names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_at: Option<DecidedAt>,
}

/// A request about a session.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionAction {
    /// Opens one.
    Open {
        /// The time that it lives on without a keep-alive.
        ttl_ms: u64,
        /// The owner of its locks.
        signee: SmolStr,
        /// The run of the owner; `None` is the name of the session.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        instance: Option<SmolStr>,
    },
    /// Keeps one alive, and reads its inbox.
    KeepAlive {
        /// Its name.
        session: SessionId,
        /// The last item that was seen.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seen: Option<DecidedAt>,
    },
    /// Closes one.
    Close {
        /// Its name.
        session: SessionId,
    },
}

/// The outcome of an operation on a session.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionOutcome {
    /// It was opened.
    Opened {
        /// Its name.
        session: SessionId,
    },
    /// It lives on.
    Alive {
        /// The time until it ends without another keep-alive.
        valid_ms: u64,
        /// The inbox after the item that was seen.
        inbox: Vec<ItemSeen>,
        /// Whether it is not all of it: more follows, or there was too much.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        cut: bool,
    },
    /// It is unknown or has ended.
    Lost,
    /// It was open and is closed.
    Closed,
    /// There was none to close.
    NoSession,
    /// Nothing was changed.
    Refused,
    /// Certainly not done.
    Unavailable,
    /// May have been done, or may yet be done.
    Unknown,
}

/// An item of an inbox.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ItemSeen {
    /// Its place in the log.
    pub position: DecidedAt,
    /// The lock.
    pub lock: LockName,
    /// The owner within the session.
    pub signee: SmolStr,
    /// The fact.
    pub news: NewsSeen,
}

/// A fact of an inbox.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NewsSeen {
    /// A place was granted.
    Granted {
        /// The token.
        token: u64,
        /// The level.
        level: i64,
        /// The mode.
        mode: Mode,
        /// The number of the permit.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        slot: Option<u32>,
    },
    /// A place has ended without a grant.
    Ended(ForbiddenReason),
    /// A grant was lost, or a grant or a place has moved out of the session.
    Lost {
        /// The token of the grant; `None` for a place.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        token: Option<u64>,
        /// The way in which it was lost.
        reason: Loss,
    },
}

impl SessionOperation {
    /// The session that it names, or that was opened by it.
    pub fn session(&self) -> Option<SessionId> {
        match (&self.action, &self.outcome) {
            (SessionAction::KeepAlive { session, .. } | SessionAction::Close { session }, _)
            | (SessionAction::Open { .. }, SessionOutcome::Opened { session }) => Some(*session),
            (SessionAction::Open { .. }, _) => None,
        }
    }
}
