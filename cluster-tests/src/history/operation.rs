//! One operation: the request, its times, and its outcome.

use keyward::types::{DecidedAt, ForbiddenReason, Mode, RequestId, SessionId, TransferReason};
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

/// One operation of one client. Times are nanoseconds since the recorder's start.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    /// Unique in the history; ascends with the time of the invocation.
    pub id: u64,
    /// The client: one task that waits for each answer before it sends the next request, as far as
    /// its answers are known.
    pub client: SmolStr,
    /// The request.
    pub action: Action,
    /// The request id that it was sent with, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestId>,
    /// The node to which it was sent first, if one was chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<SmolStr>,
    /// The time before anything was sent.
    pub invoked: u64,
    /// The time after the answer arrived; `None` means that none did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub returned: Option<u64>,
    /// The time at which the client stopped waiting for an answer that never came. No check reads
    /// it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gave_up: Option<u64>,
    /// The outcome.
    pub outcome: Outcome,
    /// The place in the log at which it was decided, if the service names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_at: Option<DecidedAt>,
}

/// A lock's full name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockName {
    /// The table of the lock.
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

/// A request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Acquires, renews or takes over a lock.
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

/// A lock request; see the contract for each field. Durations are milliseconds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockAction {
    /// The lock.
    pub lock: LockName,
    /// The requested owner.
    pub signee: SmolStr,
    /// The run of the owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<SmolStr>,
    /// The priority, if one is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<i64>,
    /// The duration of the grant: the effective one, also where the request left it out.
    pub duration_ms: u64,
    /// The time until the record is removed: the effective one, also where the request left it out.
    /// `None` is never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_to_live_ms: Option<u64>,
    /// Takes the lock from any holder.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// Renews only the grant with this token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<u64>,
    /// The terms of waiting, sharing and sessions, if it has any.
    #[serde(default, skip_serializing_if = "Turn::is_plain")]
    pub turn: Turn,
}

/// The part of a lock request that is about others: how it waits, what it shares, which session its
/// grant lives in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Turn {
    /// The mode, if one is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// The limit of a lock in mode permits, if one is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// The time that it waits for its turn.
    #[serde(skip_serializing_if = "is_zero")]
    pub wait_ms: u64,
    /// Whether it is answered with its place at once.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub queued: bool,
    /// The session, in place of a duration, which is then 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// The lock-delay, if one is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lock_delay_ms: Option<u64>,
}

impl Turn {
    /// Whether it is an ordinary request for an exclusive lock, tried once.
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_exclusive(mode: &Mode) -> bool {
    *mode == Mode::Exclusive
}

/// An unlock request; see the contract for each field.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnlockAction {
    /// The lock.
    pub lock: LockName,
    /// The owner that releases it.
    pub signee: SmolStr,
    /// The run of the owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<SmolStr>,
    /// Releases only the grant with this token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<u64>,
    /// An operator's release: of the grant with the token or of the place, whoever has it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// The place to be ended by force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<DecidedAt>,
}

/// The first half of a read-modify-write on the register that a lock guards.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegisterRead {
    /// The lock that guards it.
    pub lock: LockName,
    /// The token that was presented; `None` if the register checks none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<u64>,
}

/// The second half: replaces the version that was read by the next.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegisterWrite {
    /// The lock that guards it.
    pub lock: LockName,
    /// The token that was presented; `None` if the register checks none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<u64>,
    /// The version that the new value was computed from: the answer to the read.
    pub based_on: u64,
}

/// The outcome of an operation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A success.
    Ok(Answer),
    /// A refusal that the contract defines: nothing was changed.
    Refused(Refusal),
    /// Certainly not done.
    Unavailable,
    /// May have been done, or may yet be done.
    Unknown,
}

/// A success.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The answer to a lock request.
    Granted(Granted),
    /// The answer to an unlock request: the record is removed.
    Released,
    /// The answer to an unlock request: there was no record.
    NoLock,
    /// The answer to an unlock request: a place was left.
    Left,
    /// The answer to a lock request: it has a place in the queue.
    Waiting(WaitingSeen),
    /// The answer to a check: the holder, or `None` where there is no record.
    Record(Option<HolderSeen>),
    /// The answer to a check of a lock that several hold, or that somebody waits for.
    Queue(QueueSeen),
    /// The answer to a read of a register: its version. A new register has version 0.
    Value(u64),
    /// The answer to a write of a register: the version that it created. The register counts them
    /// by one.
    Written(u64),
}

/// A grant of a lock.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Granted {
    /// The way in which it was granted.
    pub status: Status,
    /// The fencing token.
    pub token: u64,
    /// The level of the grant.
    pub level: i64,
    /// The remaining time in milliseconds, rounded down.
    pub expires_in_ms: u64,
    /// `false` only in a repeated answer whose grant has ended since.
    pub live: bool,
    /// The mode of the grant.
    #[serde(default, skip_serializing_if = "is_exclusive")]
    pub mode: Mode,
    /// The number of the permit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<u32>,
    /// The time from the last ask to the end of the grant; `None` is the same as the remaining time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_ms: Option<u64>,
}

/// A place in the queue of a lock.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WaitingSeen {
    /// Its name: the place in the log at which it joined the end of its level.
    pub place: DecidedAt,
    /// The number of places before it, and itself.
    pub position: u64,
    /// The time until the wait is over.
    pub ends_in_ms: u64,
}

/// The holders and the queue of a lock.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueSeen {
    /// The holders.
    pub holders: Vec<HolderSeen>,
    /// The number of places.
    pub waiting: u64,
    /// The first of the places, in their order.
    pub places: Vec<PlaceSeen>,
}

/// A place as a check shows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlaceSeen {
    /// Its name.
    pub place: DecidedAt,
    /// The owner.
    pub signee: SmolStr,
    /// The run of the owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<SmolStr>,
    /// Its level.
    pub level: i64,
    /// Its mode.
    #[serde(default, skip_serializing_if = "is_exclusive")]
    pub mode: Mode,
}

/// The way in which a lock was granted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The lock was free.
    Ok,
    /// The owner held it already.
    Renewed,
    /// Another owner had it.
    Transferred {
        /// The previous owner.
        previous_signee: SmolStr,
        /// The reason for the transfer.
        reason: TransferReason,
    },
}

/// A refusal.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// Another owner holds it, or the grant is lost.
    Forbidden {
        /// The reason.
        reason: ForbiddenReason,
        /// The holder, or `None` where there is no record.
        holder: Option<HolderSeen>,
    },
    /// The request is invalid, or its `request_id` was used for another.
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
    /// The remaining time in milliseconds, rounded down; zero if it is expired.
    pub expires_in_ms: u64,
    /// Whether another may take it.
    pub expired: bool,
    /// The mode of its grant.
    #[serde(default, skip_serializing_if = "is_exclusive")]
    pub mode: Mode,
    /// The number of its permit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<u32>,
    /// The session that its grant lives in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
}

impl Operation {
    /// The lock of the request.
    pub fn lock(&self) -> &LockName {
        match &self.action {
            Action::Lock(action) => &action.lock,
            Action::Unlock(action) => &action.lock,
            Action::Check(lock) | Action::StaleCheck(lock) => lock,
            Action::Read(read) => &read.lock,
            Action::Write(write) => &write.lock,
        }
    }

    /// Whether it may have changed the lock: a lock or unlock request, neither refused nor
    /// certainly not done.
    pub fn may_have_changed(&self) -> bool {
        let asks = matches!(self.action, Action::Lock(_) | Action::Unlock(_));
        asks && matches!(self.outcome, Outcome::Ok(_) | Outcome::Unknown)
    }

    /// Whether it shows that its lock has turns: it names their terms, or its answer does.
    pub fn has_turns(&self) -> bool {
        let asks = match &self.action {
            Action::Lock(asked) => !asked.turn.is_plain(),
            Action::Unlock(asked) => asked.force,
            Action::Check(_) | Action::StaleCheck(_) | Action::Read(_) | Action::Write(_) => false,
        };
        let shows = match &self.outcome {
            Outcome::Ok(Answer::Left | Answer::Waiting(_) | Answer::Queue(_)) => true,
            Outcome::Ok(Answer::Granted(granted)) => granted.mode != Mode::Exclusive,
            Outcome::Ok(Answer::Record(Some(holder))) => {
                holder.mode != Mode::Exclusive || holder.session.is_some()
            }
            Outcome::Refused(Refusal::Forbidden { reason, .. }) => {
                !matches!(reason, ForbiddenReason::Held | ForbiddenReason::Lost)
            }
            Outcome::Ok(_) | Outcome::Refused(_) | Outcome::Unavailable | Outcome::Unknown => false,
        };
        asks || shows
    }

    /// The grant in its answer.
    pub fn granted(&self) -> Option<&Granted> {
        match &self.outcome {
            Outcome::Ok(Answer::Granted(granted)) => Some(granted),
            Outcome::Ok(_) | Outcome::Refused(_) | Outcome::Unavailable | Outcome::Unknown => None,
        }
    }
}
