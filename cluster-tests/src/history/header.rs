//! The first and the last line of a history: the run, its plan, and the proof that the file is
//! complete.

use serde::{Deserialize, Serialize};

/// The mark that distinguishes a history from other files of JSON lines.
pub const FORMAT: &str = "keyward-history";

/// The version of the format that this module writes, and the newest that it reads. Version 2 has
/// turns: waiting, sharing and sessions.
pub const VERSION: u32 = 2;

/// The oldest version that it reads.
pub const OLDEST: u32 = 1;

/// The first line.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// [`FORMAT`].
    pub format: String,
    /// [`VERSION`].
    pub version: u32,
    /// The seed of the run's choices.
    pub seed: u64,
    /// The command that repeats the run, for a person to paste.
    pub command: String,
    /// The service under test, such as `keyward 0.1.0, three nodes`.
    pub service: String,
    /// The time at which the run began, for people. No check reads it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub started: String,
    /// The allowed error of clocks.
    #[serde(default)]
    pub clocks: Clocks,
    /// The minimum that the run had to contain to show anything.
    #[serde(default)]
    pub plan: Plan,
}

impl Header {
    /// A header of this version with no plan and clocks that keep the contract.
    pub fn new(seed: u64, command: impl Into<String>, service: impl Into<String>) -> Self {
        Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            seed,
            command: command.into(),
            service: service.into(),
            started: String::new(),
            clocks: Clocks::default(),
            plan: Plan::default(),
        }
    }
}

/// The allowed error of clocks, in parts per million.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Clocks {
    /// ρ: the rate error that the service was configured for. Bounds how *late* an expiry may be.
    pub rho_ppm: u32,
    /// ε: the share of its duration by which a grant may end early. Zero for Keyward, whose ρ
    /// covers it; a service that promises no bound may be given one here.
    pub epsilon_ppm: u32,
}

/// The minimum that a run had to contain. A run that lacks any of it shows nothing: it is an error
/// of the harness, neither a pass nor a violation. Zero demands nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Plan {
    /// Operations that were answered with a success.
    pub min_successes: u64,
    /// Faults that must have been installed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<PlannedFault>,
    /// Changes of leader: events named `leader`, the first one not counted.
    pub min_leader_changes: u64,
    /// Writes to the guarded register that it must have refused because their token was stale.
    pub min_stale_writes_refused: u64,
    /// Grants that must have expired and been taken over, or acquired anew.
    pub min_expiries: u64,
    /// The time in milliseconds after each event named `healed` within which a fresh lock must be
    /// granted.
    pub alive_within_ms: u64,
    /// Whether every answer must name its place in the log. Without it, answers without a place
    /// disable the witnessed check, and the verdict reports that.
    pub witnessed: bool,
    /// The number of nodes of which the history must contain a final observation.
    pub observed_nodes: u64,
}

/// A fault that a run had to contain.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedFault {
    /// Its name, such as `kill`.
    pub name: String,
    /// The minimum number of its installations.
    pub at_least: u64,
}

/// The last line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Footer {
    /// The number of operations in the history.
    pub operations: u64,
    /// Whether it contains an [`super::Applied`] line for *every* write of the run that is in the
    /// log of the service: then an unknown operation with a `request_id` and no such line was
    /// certainly never done.
    #[serde(default)]
    pub log_complete: bool,
}
