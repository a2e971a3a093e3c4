//! The contents of the log: proposals, their stamp and their commands.
//!
//! A command holds the request, not its result: nothing in it depends on the state, so a follower
//! can build it. Durations are whole milliseconds; the cluster clock counts microseconds, because a
//! leader stamps many entries within one millisecond.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::access::Change;
use crate::error::Error;
use crate::principal::Principal;
use crate::types::{
    CallOptions, DEFAULT_TABLE, DecidedAt, LockOptions, LockRequest, Mode, RequestId, Seen,
    SessionId, SessionOptions, SessionRequest, TableDefaults, TableOptions, TimeToLive, Token,
    UnlockOptions, UnlockRequest,
};

/// Microseconds of the cluster clock `C` since the cluster began.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ClusterTime(pub u64);

impl ClusterTime {
    /// The end of time: a deadline that never comes.
    pub const NEVER: Self = Self(u64::MAX);

    /// The time that is `by` later; saturates at [`ClusterTime::NEVER`].
    #[must_use]
    pub fn saturating_add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_micros()).unwrap_or(u64::MAX)))
    }

    /// The time from `earlier` until this time; zero if this is not later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// The time this many milliseconds later; saturates at [`ClusterTime::NEVER`].
    pub(crate) fn after_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms.saturating_mul(1000)))
    }

    /// Whether the cluster clock has reached this deadline. [`ClusterTime::NEVER`] is never
    /// reached: a deadline that saturated there is no deadline.
    pub(crate) fn reached(self, now: Self) -> bool {
        self <= now && self != Self::NEVER
    }

    /// The time from `now` until this time in whole milliseconds, rounded down, because a reader
    /// must not believe in more time than there is.
    pub(crate) fn left(self, now: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(now.0) / 1000)
    }

    /// Like [`ClusterTime::left`], with `None` for a time that never comes.
    pub(crate) fn left_unless_never(self, now: Self) -> Option<Duration> {
        (self != Self::NEVER).then(|| self.left(now))
    }
}

impl fmt::Display for ClusterTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// The time and the term in which a leader made a proposal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stamp {
    /// The term the stamp was made in. In an entry of another term the proposal has no effect:
    /// its time would be measured from another leader's base.
    pub term: u64,
    /// The cluster clock as the leader believed it to be.
    pub time: ClusterTime,
}

/// The payload of one log entry: one stamp, one or more commands.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Proposal {
    /// When it was made.
    pub stamp: Stamp,
    /// The commands, in the order in which they are decided.
    pub commands: Vec<Command>,
}

/// One request, ready for the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Command {
    /// Makes the request safe to repeat.
    pub request_id: Option<RequestId>,
    /// The authenticated principal that made the request; `None` while access control is off, and in
    /// commands that the cluster itself proposes.
    pub principal: Option<Arc<Principal>>,
    /// The reason for the request, for the audit. Carried, not stored in the state.
    pub cause: Option<Box<str>>,
    /// The operation that is requested.
    pub operation: Operation,
}

/// Conversions of the requests of the contract. A table that is left out is [`DEFAULT_TABLE`], other
/// options that are left out get the table's defaults at apply. The values are not validated: see
/// [`Command::validate`].
impl Command {
    /// The command of a lock request.
    ///
    /// # Errors
    /// `BadRequest` if a length of time is not a whole number of milliseconds.
    pub fn lock(request: LockRequest, options: LockOptions) -> Result<Self, Error> {
        let operation = Operation::Lock(Box::new(LockCommand {
            table: table(options.table),
            signature: request.signature.into(),
            signee: request.signee.into(),
            instance: options.instance.map(Into::into),
            level: request.level,
            force: options.force,
            duration_ms: duration_ms(options.duration)?,
            time_to_live: options.time_to_live.map(Keep::try_from).transpose()?,
            token: options.token,
            mode: options.mode,
            limit: options.limit,
            wait_ms: options.wait.map_or(Ok(0), |wait| whole_ms("wait", wait))?,
            queued: options.queued,
            session: options.session,
            lock_delay_ms: options
                .lock_delay
                .map(|delay| whole_ms("lock_delay", delay))
                .transpose()?,
        }));
        let (principal, cause) = (options.call.principal, options.call.cause);
        Ok(Self::of(options.request_id, principal, cause, operation))
    }

    /// The command of an unlock request.
    pub fn unlock(request: UnlockRequest, options: UnlockOptions) -> Self {
        let operation = Operation::Unlock(Box::new(UnlockCommand {
            table: table(options.table),
            signature: request.signature.into(),
            signee: request.signee.into(),
            instance: options.instance.map(Into::into),
            token: options.token,
            force: options.force,
            place: options.place,
        }));
        let (principal, cause) = (options.call.principal, options.call.cause);
        Self::of(options.request_id, principal, cause, operation)
    }

    /// The command that opens a session, whose name the leader draws.
    ///
    /// # Errors
    /// As [`Command::lock`].
    pub fn open_session(request: SessionRequest, options: SessionOptions) -> Result<Self, Error> {
        let operation = Operation::OpenSession(Box::new(SessionCommand {
            id: None,
            ttl_ms: whole_ms("ttl", request.ttl)?,
            signee: request.signee.into(),
            instance: options.instance.map(Into::into),
        }));
        let (principal, cause) = (options.call.principal, options.call.cause);
        Ok(Self::of(options.request_id, principal, cause, operation))
    }

    /// The command that keeps sessions alive.
    pub fn keep_alive(sessions: Vec<Seen>, principal: Option<Arc<Principal>>) -> Self {
        Self::of(None, principal, None, Operation::KeepAlive(sessions))
    }

    /// The command that changes rules, tokens, or whether they count.
    pub fn access(change: Change, call: CallOptions) -> Self {
        Self::of(None, call.principal, call.cause, Operation::Access(Box::new(change)))
    }

    /// The command that closes a session.
    pub fn close_session(session: SessionId, options: SessionOptions) -> Self {
        let (principal, cause) = (options.call.principal, options.call.cause);
        Self::of(options.request_id, principal, cause, Operation::CloseSession(session))
    }

    /// The command that changes the limit of a lock in mode permits.
    pub fn set_limit(signature: String, limit: u32, options: TableOptions) -> Self {
        let operation = Operation::SetLimit(Box::new(LimitCommand {
            table: table(options.table),
            signature: signature.into(),
            limit,
        }));
        let (principal, cause) = (options.call.principal, options.call.cause);
        Self::of(options.request_id, principal, cause, operation)
    }

    /// The command that sets a table's defaults.
    ///
    /// # Errors
    /// As [`Command::lock`].
    pub fn configure_table(defaults: TableDefaults, options: TableOptions) -> Result<Self, Error> {
        let operation = Operation::ConfigureTable(Box::new(TableCommand {
            table: table(options.table),
            duration_ms: duration_ms(defaults.duration)?,
            time_to_live: defaults.time_to_live.map(Keep::try_from).transpose()?,
            lock_delay_ms: defaults
                .lock_delay
                .map(|delay| whole_ms("lock_delay", delay))
                .transpose()?,
            max_hold_ms: defaults.max_hold.map(|hold| whole_ms("max_hold", hold)).transpose()?,
        }));
        let (principal, cause) = (options.call.principal, options.call.cause);
        Ok(Self::of(options.request_id, principal, cause, operation))
    }

    /// The command that deletes a table whole.
    pub fn delete_table(options: TableOptions) -> Self {
        let operation = Operation::DeleteTable { table: table(options.table) };
        let (principal, cause) = (options.call.principal, options.call.cause);
        Self::of(options.request_id, principal, cause, operation)
    }

    /// The command that only moves the cluster clock on, for the leader's tick.
    pub fn advance() -> Self {
        Operation::Advance.into()
    }

    /// Whether it waits, and its place is left when its caller goes away.
    pub fn ends_with_caller(&self) -> bool {
        matches!(&self.operation, Operation::Lock(lock) if lock.ends_with_caller())
    }

    fn of(
        request_id: Option<RequestId>,
        principal: Option<Arc<Principal>>,
        cause: Option<String>,
        operation: Operation,
    ) -> Self {
        Self { request_id, principal, cause: cause.map(Into::into), operation }
    }

    /// The identity of the principal that made the request.
    pub fn actor(&self) -> Option<&str> {
        self.principal.as_ref().map(|principal| &*principal.identity)
    }

    /// The feature level that the command needs.
    pub fn level(&self) -> u32 {
        let has_details = self.principal.as_ref().is_some_and(|principal| principal.has_details());
        self.operation.level().max(if has_details { Self::ACCESS_LEVEL } else { 1 })
    }

    /// The feature level from which there is access control.
    pub const ACCESS_LEVEL: u32 = 3;

    /// The feature level from which requests wait, share locks and live in sessions.
    pub const TURNS_LEVEL: u32 = 2;
}

fn table(named: Option<String>) -> Box<str> {
    named.map_or_else(|| DEFAULT_TABLE.into(), Into::into)
}

fn duration_ms(duration: Option<Duration>) -> Result<Option<u64>, Error> {
    duration.map(|value| whole_ms("duration", value)).transpose()
}

/// A length of time as the log holds it. More milliseconds than 64 bits hold are beyond every limit,
/// whatever their number.
fn whole_ms(what: &str, value: Duration) -> Result<u64, Error> {
    if !value.subsec_nanos().is_multiple_of(1_000_000) {
        return Err(Error::bad_request(format!(
            "the {what} is {} ns; it must be a whole number of milliseconds",
            value.as_nanos()
        )));
    }
    Ok(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
}

impl From<Operation> for Command {
    fn from(operation: Operation) -> Self {
        Self { request_id: None, principal: None, cause: None, operation }
    }
}

/// The operation that a command requests.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Take, renew or take over a lock.
    Lock(Box<LockCommand>),
    /// Release a lock.
    Unlock(Box<UnlockCommand>),
    /// Only advance the cluster clock; deadlines that are due are worked off.
    Advance,
    /// Set a table's defaults.
    ConfigureTable(Box<TableCommand>),
    /// Delete a table with its records and its defaults.
    DeleteTable {
        /// The table.
        table: Box<str>,
    },
    /// Open a session.
    OpenSession(Box<SessionCommand>),
    /// Keep sessions alive, and drop the items of their inboxes that were seen.
    KeepAlive(Vec<Seen>),
    /// Close a session.
    CloseSession(SessionId),
    /// Leave a place, or release the grant it became, because its caller has gone away.
    Leave(Box<LeaveCommand>),
    /// Change the limit of a lock in mode permits.
    SetLimit(Box<LimitCommand>),
    /// Change rules, tokens, or whether they count.
    Access(Box<Change>),
    /// Allow commands of this level in the log from here on. Proposed only when every member
    /// supports it; a lower level than the present one changes nothing.
    RaiseFeatureLevel(u32),
}

/// The time for which a record is kept, counted from the request, as the log holds it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keep {
    /// This many milliseconds.
    Ms(u64),
    /// Until it is released or its table is deleted.
    ForEver,
}

impl Keep {
    /// The removal of a record that is kept for this long from a time on.
    pub(super) fn after(self, time: ClusterTime) -> ClusterTime {
        match self {
            Self::Ms(ms) => time.after_ms(ms),
            Self::ForEver => ClusterTime::NEVER,
        }
    }
}

impl TryFrom<TimeToLive> for Keep {
    type Error = Error;

    fn try_from(time_to_live: TimeToLive) -> Result<Self, Error> {
        match time_to_live {
            TimeToLive::For(length) => whole_ms("time_to_live", length).map(Self::Ms),
            TimeToLive::Never => Ok(Self::ForEver),
        }
    }
}

impl From<Keep> for TimeToLive {
    fn from(keep: Keep) -> Self {
        match keep {
            Keep::Ms(ms) => Self::For(Duration::from_millis(ms)),
            Keep::ForEver => Self::Never,
        }
    }
}

impl Operation {
    /// The feature level that the operation needs.
    pub fn level(&self) -> u32 {
        let is_new = match self {
            Self::Access(_) => return Command::ACCESS_LEVEL,
            Self::Lock(command) => command.is_new(),
            Self::Unlock(command) => command.is_new(),
            Self::ConfigureTable(command) => command.is_new(),
            Self::OpenSession(_)
            | Self::KeepAlive(_)
            | Self::CloseSession(_)
            | Self::Leave(_)
            | Self::SetLimit(_) => true,
            Self::Advance | Self::DeleteTable { .. } | Self::RaiseFeatureLevel(_) => false,
        };
        1 + u32::from(is_new)
    }
}

/// A lock request as the log holds it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LockCommand {
    /// The table.
    pub table: Box<str>,
    /// The lock's name.
    pub signature: Box<str>,
    /// The owner that requests the lock.
    pub signee: Box<str>,
    /// The run of the owner.
    pub instance: Option<Box<str>>,
    /// Left out: 0, or "as it was" if it is renew-only.
    pub level: Option<i64>,
    /// Take the lock even if another owner holds it.
    pub force: bool,
    /// Left out: the table's default.
    pub duration_ms: Option<u64>,
    /// Left out: the larger of the table's default and the duration; if there is none,
    /// [`crate::types::KEPT_AFTER_EXPIRY`] longer than the duration.
    pub time_to_live: Option<Keep>,
    /// Renew only.
    pub token: Option<Token>,
    /// Left out: that of the holder, or exclusive.
    pub mode: Option<Mode>,
    /// Left out: the limit that the lock has.
    pub limit: Option<u32>,
    /// The time to wait, in milliseconds of cluster time; 0 tries once. Not part of the digest.
    pub wait_ms: u64,
    /// The caller wants its place at once, and does not wait for the end. Not part of the digest.
    pub queued: bool,
    /// The session that the grant lives in.
    pub session: Option<SessionId>,
    /// Left out: that of the holder, or the table's.
    pub lock_delay_ms: Option<u64>,
}

impl LockCommand {
    /// Whether its caller waits for the lock itself, and not for its place alone.
    pub fn waits(&self) -> bool {
        self.wait_ms > 0 && !self.queued
    }

    /// Whether its place is left when its caller goes away: in a session, which lives without its
    /// callers, it is not.
    pub fn ends_with_caller(&self) -> bool {
        self.waits() && self.session.is_none()
    }

    /// Whether it has a field of feature level 2.
    pub(super) fn is_new(&self) -> bool {
        self.mode.is_some()
            || self.limit.is_some()
            || self.wait_ms != 0
            || self.queued
            || self.session.is_some()
            || self.lock_delay_ms.is_some()
    }
}

/// An unlock request as the log holds it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UnlockCommand {
    /// The table.
    pub table: Box<str>,
    /// The lock's name.
    pub signature: Box<str>,
    /// The owner that releases it.
    pub signee: Box<str>,
    /// The run of the owner.
    pub instance: Option<Box<str>>,
    /// Release only the grant with this token.
    pub token: Option<Token>,
    /// End the grant with the token, or the place, whoever has it.
    pub force: bool,
    /// The place to be ended by force.
    pub place: Option<DecidedAt>,
}

impl UnlockCommand {
    /// Whether it has a field of feature level 2.
    pub(super) fn is_new(&self) -> bool {
        self.force || self.place.is_some()
    }
}

/// A request to open a session, as the log holds it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SessionCommand {
    /// The name of the session, drawn by the leader when it proposes. Not part of the digest.
    pub id: Option<SessionId>,
    /// The time to live without a keep-alive, in milliseconds.
    pub ttl_ms: u64,
    /// The owner of locks requested in it.
    pub signee: Box<str>,
    /// The run of the owner; left out: the name of the session.
    pub instance: Option<Box<str>>,
}

/// The leaving of a place whose caller has gone away.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LeaveCommand {
    /// The table.
    pub table: Box<str>,
    /// The lock's name.
    pub signature: Box<str>,
    /// The place.
    pub place: DecidedAt,
    /// The position of the ask whose caller has gone.
    pub ask: DecidedAt,
}

/// A change of the limit of a lock.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LimitCommand {
    /// The table.
    pub table: Box<str>,
    /// The lock's name.
    pub signature: Box<str>,
    /// The number of permits.
    pub limit: u32,
}

/// A table's defaults as the log holds them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TableCommand {
    /// The table.
    pub table: Box<str>,
    /// The duration of a grant; `None` is [`crate::types::DEFAULT_DURATION`].
    pub duration_ms: Option<u64>,
    /// The least time_to_live; `None` is [`crate::types::KEPT_AFTER_EXPIRY`] longer than the
    /// duration.
    pub time_to_live: Option<Keep>,
    /// The lock-delay of grants; `None` is none.
    pub lock_delay_ms: Option<u64>,
    /// The longest time for which renewals keep a grant.
    pub max_hold_ms: Option<u64>,
}

impl TableCommand {
    /// Whether it has a field of feature level 2.
    pub(super) fn is_new(&self) -> bool {
        self.lock_delay_ms.is_some() || self.max_hold_ms.is_some()
    }
}
