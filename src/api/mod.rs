//! The HTTP API in data: routes, headers, limits, JSON bodies, problem documents.
//!
//! Both ends speak through this module: [`crate::http`] reads requests and writes answers,
//! [`crate::client`] the other way round. It holds no rule of the contract; a request that is
//! well-formed here may still be refused by [`crate::lock`].
//!
//! Invariants: integers are milliseconds and stay within ±(2^53 − 1); remaining times are rounded
//! down; a request with a field that is not known is refused, an answer with one is read without
//! it, so that an older client understands a newer node.

mod answers;
mod cluster;
mod problem;
mod requests;
#[cfg(feature = "server")]
pub(crate) mod schemas;
mod values;

use std::time::Duration;

pub use answers::{
    BatchAnswers, BatchItemAnswer, CheckAnswer, DeleteAnswer, DeleteStatusWord, DoneAnswer,
    HolderAnswer, ListAnswer, LockAnswer, LockStatusWord, TableAnswer, TablesAnswer, UnlockAnswer,
    UnlockStatusWord,
};
pub use cluster::{
    ClusterStatus, HistogramFigures, MemberStatus, NodeFigures, NodeRole, PeerFigures,
};
pub use problem::{Code, MEDIA_TYPE as PROBLEM_MEDIA_TYPE, Problem};
pub use requests::{
    AdvanceBody, BatchBody, BatchItem, CheckQuery, ListQuery, LockBody, TableBody, TableQuery,
    TablesQuery, UnlockBody,
};
pub use values::TimeToLiveMs;

pub use crate::limits::{
    MAX_BATCH, MAX_BATCH_BYTES, MAX_BODY_BYTES, MAX_CAUSE_BYTES, MAX_TIMEOUT, MAX_TRACE_ID_BYTES,
};
use crate::types::DecidedAt;

/// Where each operation is served. No user text ever appears in a path.
pub mod routes {
    /// `GET`: what this is and where to go on, as a page for browsers and as JSON for others.
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
    /// `GET`: the cluster as the node that is asked sees it.
    pub const CLUSTER: &str = "/v1/cluster";
    /// `GET`: the process answers.
    pub const HEALTHZ: &str = "/healthz";
    /// `GET`: the node can serve requests now.
    pub const READYZ: &str = "/readyz";
    /// `GET`: figures in the Prometheus text format.
    pub const METRICS: &str = "/metrics";
    /// `GET`: this API, described.
    pub const OPENAPI: &str = "/openapi.json";
    /// `POST`: move the clock; only on a node started for tests.
    pub const DEBUG_ADVANCE: &str = "/debug/advance";
}

/// Header names, in lower case as they travel.
pub mod headers {
    /// Request: how long the caller waits in all, in milliseconds, 1 to 60000.
    pub const TIMEOUT_MS: &str = "keyward-timeout-ms";
    /// Request: why the caller asks, for the audit; at most [`super::MAX_CAUSE_BYTES`] bytes.
    pub const CAUSE: &str = "keyward-cause";
    /// Request: a request id for clients that send one with every write (the draft
    /// draft-ietf-httpapi-idempotency-key-header); a UUID, or what `request_id` may be.
    pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
    /// Request and answer: follows the request through the logs of every node.
    pub const TRACE_ID: &str = "x-request-id";
    /// Request: the W3C trace context; its trace id is used when [`TRACE_ID`] is absent.
    pub const TRACEPARENT: &str = "traceparent";
    /// Answer, refusals and reads too: the log index and the position within the entry at which it
    /// was decided, such as `42.0`. A read sees its entry whole and says so with 4294967295.
    pub const LOG_POSITION: &str = "keyward-log-position";
    /// Request and answer: the cluster's id. A node refuses a request that names another one's.
    pub const CLUSTER: &str = "keyward-cluster";
    /// Answer: the client address of the node believed to lead.
    pub const LEADER: &str = "keyward-leader";
}

/// How long a request waits when it does not say.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether a trace id is one that may be written to logs and headers as it is.
pub fn is_trace_id(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= MAX_TRACE_ID_BYTES
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(&byte))
}

/// A duration as it crosses the wire: whole milliseconds, rounded down, capped at what JSON
/// carries exactly.
pub fn to_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).min(crate::types::MAX_SAFE_INTEGER)
}

/// Reads the value of [`headers::LOG_POSITION`].
pub fn parse_log_position(text: &str) -> Option<DecidedAt> {
    let (index, position) = text.split_once('.')?;
    Some(DecidedAt { index: index.parse().ok()?, position: position.parse().ok()? })
}
