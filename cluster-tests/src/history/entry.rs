//! The lines between header and footer.

use keyward::types::{DecidedAt, RequestId};
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use super::{LockName, Operation};

/// One line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::large_enum_variant, reason = "nearly every entry is an operation")]
pub enum Entry {
    /// Something was asked.
    Operation(Operation),
    /// Something was done to the service.
    Fault(Fault),
    /// Something happened.
    Event(Event),
    /// What a node had at the end.
    Observation(Observation),
    /// What the service's own log says of a request.
    Applied(Applied),
}

/// A fault, from its installation to its removal.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// What was done, such as `kill` or `partition`.
    pub name: SmolStr,
    /// To whom, such as `node 2` or `1 | 2 3`.
    pub target: SmolStr,
    /// When its installation began.
    pub begin: u64,
    /// When it was gone again; `None` if it was there to the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<u64>,
    /// Whether it came about.
    pub state: FaultState,
    /// Anything more, for a person.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// Whether a fault came about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultState {
    /// It did.
    Installed,
    /// It was not even tried, for a reason that `detail` gives.
    Skipped,
    /// Nobody knows.
    Indeterminate,
}

/// Something that happened. Two names mean something to the checks: `leader` (another node leads)
/// and `healed` (from here on no fault is installed).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// When it was seen.
    pub at: u64,
    /// What, such as `leader`.
    pub name: SmolStr,
    /// Anything more, such as `node 2, term 7`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// What one node had when the run was over and it had caught up.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Observation {
    /// When it was asked.
    pub at: u64,
    /// Which node.
    pub node: SmolStr,
    /// The index that it had applied.
    pub applied: u64,
    /// A digest of its state at that index, if it can be had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_hash: Option<SmolStr>,
    /// Every record that it had; `None` if it was not asked for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<Vec<RecordSeen>>,
}

/// A record in an observation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordSeen {
    /// Which lock.
    pub lock: LockName,
    /// The owner.
    pub signee: SmolStr,
    /// The run of the owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<SmolStr>,
    /// Its level.
    pub level: i64,
    /// Its token.
    pub token: u64,
}

/// The log of the service holds this request, first at this place.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Applied {
    /// The request.
    pub request_id: RequestId,
    /// Where.
    pub decided_at: DecidedAt,
}
