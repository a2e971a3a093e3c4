//! The lines between header and footer.

use keyward::types::{DecidedAt, RequestId};
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use super::{LockName, Operation, SessionOperation};

/// One line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::large_enum_variant, reason = "nearly every entry is an operation")]
pub enum Entry {
    /// A request of a client.
    Operation(Operation),
    /// A request of a client about a session.
    Session(SessionOperation),
    /// A fault of the service.
    Fault(Fault),
    /// An event.
    Event(Event),
    /// The final state of a node.
    Observation(Observation),
    /// The place of a request in the service's own log.
    Applied(Applied),
}

impl Entry {
    /// Whether it is a request of a client: the footer counts these.
    pub fn is_operation(&self) -> bool {
        matches!(self, Self::Operation(_) | Self::Session(_))
    }
}

/// A fault, from its installation to its removal.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// The name, such as `kill` or `partition`.
    pub name: SmolStr,
    /// The target, such as `node 2` or `1 | 2 3`.
    pub target: SmolStr,
    /// The time at which its installation began.
    pub begin: u64,
    /// The time at which it was removed; `None` if it lasted to the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<u64>,
    /// Whether it was installed.
    pub state: FaultState,
    /// Further details, for a person.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// Whether a fault was installed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultState {
    /// It was.
    Installed,
    /// It was not even tried, for a reason that `detail` gives.
    Skipped,
    /// It is unknown.
    Indeterminate,
}

/// An event. Two names have a meaning in the checks: `leader` (another node leads) and `healed`
/// (from here on no fault is installed).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// The time at which it was seen.
    pub at: u64,
    /// The name, such as `leader`.
    pub name: SmolStr,
    /// Further details, such as `node 2, term 7`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// The state of one node when the run was over and it had caught up.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Observation {
    /// The time of the observation.
    pub at: u64,
    /// The node.
    pub node: SmolStr,
    /// Its applied index.
    pub applied: u64,
    /// A digest of its state at that index, if available.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_hash: Option<SmolStr>,
    /// All its records; `None` if they were not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<Vec<RecordSeen>>,
}

/// A record in an observation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordSeen {
    /// The lock.
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

/// The place of a request in the log of the service: the first, if there are several.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Applied {
    /// The request.
    pub request_id: RequestId,
    /// The place.
    pub decided_at: DecidedAt,
}
