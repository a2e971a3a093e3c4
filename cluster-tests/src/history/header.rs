//! The first and the last line of a history: what was run, what it had to contain, and that it is
//! whole.

use serde::{Deserialize, Serialize};

/// Tells a history from any other file of JSON lines.
pub const FORMAT: &str = "keyward-history";

/// The version of the format that this module writes, and the newest that it reads.
pub const VERSION: u32 = 1;

/// The first line.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// [`FORMAT`].
    pub format: String,
    /// [`VERSION`].
    pub version: u32,
    /// What the choices of the run were drawn from.
    pub seed: u64,
    /// The command that repeats the run, for a person to paste.
    pub command: String,
    /// What was asked, such as `keyward 0.1.0, three nodes`.
    pub service: String,
    /// When the run began, for people. No check reads it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub started: String,
    /// How far clocks were allowed to be off.
    #[serde(default)]
    pub clocks: Clocks,
    /// What the run had to contain to show anything.
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

/// How far clocks were allowed to be off, in parts per million.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Clocks {
    /// ρ: the rate error that the service was configured for. Bounds how *late* an expiry may be.
    pub rho_ppm: u32,
    /// ε: by how much of its duration a grant may end early. Zero for Keyward, whose ρ covers it;
    /// a service that promises no bound may be given one here.
    pub epsilon_ppm: u32,
}

/// What a run had to contain. A run that lacks any of it shows nothing: it is an error of the
/// harness, neither a pass nor a violation. Zero asks for nothing.
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
    /// Grants that must have expired and been taken over, or taken anew.
    pub min_expiries: u64,
    /// Within how many milliseconds of each event named `healed` a fresh lock must be given.
    pub alive_within_ms: u64,
    /// Whether every answer must name its place in the log. Without it, answers without a place
    /// leave the witnessed check aside, and the verdict says so.
    pub witnessed: bool,
    /// Whether the history must hold a final observation of each of so many nodes.
    pub observed_nodes: u64,
}

/// A fault that a run had to contain.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedFault {
    /// Its name, such as `kill`.
    pub name: String,
    /// How often it must have been installed.
    pub at_least: u64,
}

/// The last line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Footer {
    /// How many operations the history holds.
    pub operations: u64,
    /// Whether it holds an [`super::Applied`] line for *every* write of the run that the log of
    /// the service holds: then an unknown operation with a `request_id` and no such line was
    /// certainly never done.
    #[serde(default)]
    pub log_complete: bool,
}
