//! The HTTP API in data: routes, headers, limits, JSON bodies, problem documents.
//!
//! Both ends use this module: the server reads requests and writes answers, [`crate::Client`]
//! writes requests and reads answers. It has no rule of the contract; a request that is well-formed
//! here may still be refused by [`keyward_core::lock`].
//!
//! Invariants: integers are milliseconds and stay within ±(2^53 − 1); remaining times are rounded
//! down; a request with an unknown field is refused, an answer with an unknown field is read
//! without it, so that an older client understands a newer node.

mod access;
mod answers;
mod cluster;
mod problem;
mod requests;
pub mod schemas;
mod turns;
mod values;

use std::time::Duration;

pub use access::{
    BootstrapBody, CanIAnswer, CanIBody, ChangedAnswer, ChangedWord, CredentialWord, RuleBody,
    RuleQuery, RulesAnswer, RulesQuery, SwitchBody, TokenAnswer, TokenBody, TokenItem, TokenQuery,
    TokensAnswer, TokensQuery, WhoamiAnswer,
};
pub use answers::{
    BatchAnswers, BatchItemAnswer, CheckAnswer, DeleteAnswer, DeleteStatusWord, DoneAnswer,
    HolderAnswer, ListAnswer, LockAnswer, LockReply, LockStatusWord, PlaceAnswer, TableAnswer,
    TablesAnswer, UnlockAnswer, UnlockStatusWord, WaitingAnswer, WaitingWord,
};
pub use cluster::{
    ClusterStatus, HistogramFigures, MemberStatus, NodeFigures, NodeRole, PeerFigures,
};
pub use problem::{Code, MEDIA_TYPE as PROBLEM_MEDIA_TYPE, Problem};
pub use requests::{
    AdvanceBody, BackupQuery, BatchBody, BatchItem, CheckQuery, DeadlocksQuery, KeepAliveBody,
    LimitBody, ListQuery, LockBody, RespondWord, SeenBody, SessionBody, SessionQuery, TableBody,
    TableQuery, TablesQuery, UnlockBody, VerifyBody,
};
pub use turns::{
    CloseAnswer, CloseStatusWord, DeadlockAnswer, DeadlocksAnswer, InboxAnswer, KeepAliveAnswer,
    LimitAnswer, LimitStatusWord, LivenessAnswer, NewsWord, SessionAnswer, VerifyAnswer,
};
pub use values::TimeToLiveMs;

pub use keyward_core::limits::{
    MAX_BATCH, MAX_BATCH_BYTES, MAX_BODY_BYTES, MAX_CAUSE_BYTES, MAX_TIMEOUT, MAX_TRACE_ID_BYTES,
};
pub use keyward_core::types::DEFAULT_TIMEOUT;
use keyward_core::types::DecidedAt;

/// The path of each operation. No user text ever appears in a path.
pub mod routes {
    /// `GET`: an introduction with links, as a page for browsers and as JSON for others.
    pub const ROOT: &str = "/";
    /// `POST`: take, renew or take over a lock. `GET`: read one record.
    pub const LOCK: &str = "/v1/lock";
    /// `POST`: release a lock.
    pub const UNLOCK: &str = "/v1/unlock";
    /// `POST`: many requests for locks and releases, answered one by one.
    pub const BATCH: &str = "/v1/batch";
    /// `GET`: a page of a table.
    pub const LOCKS: &str = "/v1/locks";
    /// `GET`: the tables.
    pub const TABLES: &str = "/v1/tables";
    /// `PUT`: set a table's defaults. `DELETE`: delete it whole.
    pub const TABLE: &str = "/v1/table";
    /// `POST`: open a session. `DELETE`: close one.
    pub const SESSIONS: &str = "/v1/sessions";
    /// `POST`: keep sessions alive, and read their inboxes.
    pub const KEEPALIVE: &str = "/v1/sessions/keepalive";
    /// `POST`: whether a token is live.
    pub const VERIFY: &str = "/v1/verify";
    /// `PUT`: change the limit of a lock in mode permits.
    pub const LIMIT: &str = "/v1/limit";
    /// `GET`: the cycles of owners that hold and wait.
    pub const DEADLOCKS: &str = "/v1/deadlocks";
    /// `PUT`: switch access control on or off.
    pub const ACCESS: &str = "/v1/access";
    /// `POST`: make the first administrator, once.
    pub const ACCESS_BOOTSTRAP: &str = "/v1/access/bootstrap";
    /// `GET`: the rules. `PUT`: make or replace one. `DELETE`: remove one.
    pub const ACCESS_RULES: &str = "/v1/access/rules";
    /// `GET`: the access tokens, without secrets. `POST`: make one. `DELETE`: revoke one.
    pub const ACCESS_TOKENS: &str = "/v1/access/tokens";
    /// `GET`: who the caller is.
    pub const ACCESS_WHOAMI: &str = "/v1/access/whoami";
    /// `POST`: whether a request would be allowed.
    pub const ACCESS_CAN_I: &str = "/v1/access/can-i";
    /// `GET`: the cluster as the node that receives the request sees it.
    pub const CLUSTER: &str = "/v1/cluster";
    /// `GET`: the whole state, to be restored elsewhere.
    pub const BACKUP: &str = "/v1/backup";
    /// `GET`: succeeds while the process answers.
    pub const HEALTHZ: &str = "/healthz";
    /// `GET`: succeeds while the node can serve requests.
    pub const READYZ: &str = "/readyz";
    /// `GET`: figures in the Prometheus text format.
    pub const METRICS: &str = "/metrics";
    /// `GET`: the description of this API.
    pub const OPENAPI: &str = "/openapi.json";
    /// `POST`: advance the clock; only on a node started for tests.
    pub const DEBUG_ADVANCE: &str = "/debug/advance";
}

/// Header names, in lower case as they are sent.
pub mod headers {
    /// Request: the time the caller waits in all, in milliseconds, 1 to 60000.
    pub const TIMEOUT_MS: &str = "keyward-timeout-ms";
    /// Request: the caller's reason, for the audit; at most [`super::MAX_CAUSE_BYTES`] bytes.
    pub const CAUSE: &str = "keyward-cause";
    /// Request: a request id for clients that send one with every write (the draft
    /// draft-ietf-httpapi-idempotency-key-header); a UUID, or any value of `request_id`.
    pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
    /// Request: `true` if it only renews or releases what is held. It is then limited apart from
    /// other requests, and refused if it does anything else.
    pub const KEEPS: &str = "keyward-keeps";
    /// Request and answer: identifies the request in the logs of every node.
    pub const TRACE_ID: &str = "x-request-id";
    /// Request: the W3C trace context; its trace id is used when [`TRACE_ID`] is absent.
    pub const TRACEPARENT: &str = "traceparent";
    /// Answer, refusals and reads too: the log index and the position within the entry at which it
    /// was decided, such as `42.0`. A read sees its whole entry and has the position 4294967295.
    pub const LOG_POSITION: &str = "keyward-log-position";
    /// Request and answer: the cluster's id. A node refuses a request with the id of another
    /// cluster.
    pub const CLUSTER: &str = "keyward-cluster";
    /// Answer: the client address of the node believed to be the leader.
    pub const LEADER: &str = "keyward-leader";
}

/// Whether a trace id may be written to logs and headers unchanged.
pub fn is_trace_id(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= MAX_TRACE_ID_BYTES
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(&byte))
}

/// A duration as it is sent: whole milliseconds, rounded down, capped at the largest integer that
/// JSON carries exactly.
pub fn to_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis())
        .unwrap_or(u64::MAX)
        .min(keyward_core::types::MAX_SAFE_INTEGER)
}

/// Reads the value of [`headers::LOG_POSITION`].
pub fn parse_log_position(text: &str) -> Option<DecidedAt> {
    let (index, position) = text.split_once('.')?;
    Some(DecidedAt { index: index.parse().ok()?, position: position.parse().ok()? })
}
