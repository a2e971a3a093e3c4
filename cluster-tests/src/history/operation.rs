//! One operation: what was asked, when, and what became of it.

use keyward::types::{DecidedAt, ForbiddenReason, RequestId, TransferReason};
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

/// One operation of one client. Times are nanoseconds since the recorder's start.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    /// Unique in the history; rises with the time of the invocation.
    pub id: u64,
    /// Who asked: one task that waits for each answer before it asks again, as far as its answers
    /// are known.
    pub client: SmolStr,
    /// What was asked.
    pub action: Action,
    /// The request id that it was sent with, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestId>,
    /// The node that was asked first, if one was chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<SmolStr>,
    /// Read before anything was sent.
    pub invoked: u64,
    /// Read when the answer was there; `None` is never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub returned: Option<u64>,
    /// When the client stopped waiting for an answer that never came. No check reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gave_up: Option<u64>,
    /// What became of it.
    pub outcome: Outcome,
    /// Where in the log it was decided, if the service says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_at: Option<DecidedAt>,
}

/// A lock's full name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockName {
    /// The table that it is in.
    pub table: SmolStr,
    /// Its name within the table.
    pub signature: SmolStr,
}

impl LockName {
    /// A lock in a table.
    pub fn new(table: impl Into<SmolStr>, signature: impl Into<SmolStr>) -> Self {
        Self { table: table.into(), signature: signature.into() }
    }
}

impl std::fmt::Display for LockName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.table, self.signature)
    }
}

/// What was asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Takes, renews or takes over a lock.
    Lock(LockAction),
    /// Releases one.
    Unlock(UnlockAction),
    /// Reads a record, linearizably.
    Check(LockName),
    /// Reads a record from some node's own copy, however old. Only shown, never judged.
    StaleCheck(LockName),
    /// Reads the guarded register of a lock.
    Read(RegisterRead),
    /// Writes it.
    Write(RegisterWrite),
}

/// See the contract for what each field does. Durations are milliseconds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockAction {
    /// Which lock.
    pub lock: LockName,
    /// Who is to own it.
    pub signee: SmolStr,
    /// Which run of the owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<SmolStr>,
    /// The priority, if one is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<i64>,
    /// How long the grant is to last: what applies, also where the request left it out.
    pub duration_ms: u64,
    /// When the record is to be removed: what applies, also where the request left it out.
    /// `None` is never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_to_live_ms: Option<u64>,
    /// Take it whoever holds it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// Renew only the grant with this token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<u64>,
}

/// See the contract for what each field does.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnlockAction {
    /// Which lock.
    pub lock: LockName,
    /// Who releases it.
    pub signee: SmolStr,
    /// Which run of the owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<SmolStr>,
    /// Release only the grant with this token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<u64>,
}

/// The first half of a read-modify-write on the register that a lock guards.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegisterRead {
    /// The lock that guards it.
    pub lock: LockName,
    /// The token that was shown; `None` if the register looks at none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<u64>,
}

/// The second half: replaces the version that was read by the next.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegisterWrite {
    /// The lock that guards it.
    pub lock: LockName,
    /// The token that was shown; `None` if the register looks at none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<u64>,
    /// The version that the new value was computed from: what the read answered.
    pub based_on: u64,
}

/// What became of an operation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A success.
    Ok(Answer),
    /// A refusal that the contract knows: nothing was changed.
    Refused(Refusal),
    /// Certainly not done.
    Unavailable,
    /// May have been done, or be done yet.
    Unknown,
}

/// A success.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To a lock request.
    Granted(Granted),
    /// To an unlock request: the record is gone.
    Released,
    /// To an unlock request: there was none.
    NoLock,
    /// To a check: who holds it, or `None` where there is no record.
    Record(Option<HolderSeen>),
    /// To a read of a register: its version. A new register has version 0.
    Value(u64),
    /// To a write of a register: the version that it made. The register counts them by one.
    Written(u64),
}

/// How a lock was given.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Granted {
    /// How it came about.
    pub status: Status,
    /// The fencing token.
    pub token: u64,
    /// The level that the grant has.
    pub level: i64,
    /// What is left of it, in milliseconds, rounded down.
    pub expires_in_ms: u64,
    /// `false` only in a repeated answer whose grant has ended since.
    pub live: bool,
}

/// How a grant came about.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The lock was free.
    Ok,
    /// It was mine.
    Renewed,
    /// It was another's.
    Transferred {
        /// Whose it was.
        previous_signee: SmolStr,
        /// Why it changed hands.
        reason: TransferReason,
    },
}

/// A refusal.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// Another holds it, or the grant is lost.
    Forbidden {
        /// Which of the two.
        reason: ForbiddenReason,
        /// Who holds it, or `None` where there is no record.
        holder: Option<HolderSeen>,
    },
    /// The request is wrong, or its `request_id` was used for another.
    BadRequest,
    /// The register has seen a larger token.
    Stale,
}

/// A holder as an answer shows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HolderSeen {
    /// The owner.
    pub signee: SmolStr,
    /// The run of the owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<SmolStr>,
    /// Its level.
    pub level: i64,
    /// Its token.
    pub token: u64,
    /// What is left, in milliseconds, rounded down; zero if it is expired.
    pub expires_in_ms: u64,
    /// Whether another may take it.
    pub expired: bool,
}

impl Operation {
    /// The lock that it is about.
    pub fn lock(&self) -> &LockName {
        match &self.action {
            Action::Lock(action) => &action.lock,
            Action::Unlock(action) => &action.lock,
            Action::Check(lock) | Action::StaleCheck(lock) => lock,
            Action::Read(read) => &read.lock,
            Action::Write(write) => &write.lock,
        }
    }

    /// Whether it may have changed the lock: asked, and neither refused nor certainly not done.
    pub fn may_have_changed(&self) -> bool {
        let asks = matches!(self.action, Action::Lock(_) | Action::Unlock(_));
        asks && matches!(self.outcome, Outcome::Ok(_) | Outcome::Unknown)
    }

    /// The grant that it was answered with.
    pub fn granted(&self) -> Option<&Granted> {
        match &self.outcome {
            Outcome::Ok(Answer::Granted(granted)) => Some(granted),
            Outcome::Ok(_) | Outcome::Refused(_) | Outcome::Unavailable | Outcome::Unknown => None,
        }
    }
}
