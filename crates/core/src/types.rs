//! The types of the contract: names, levels, tokens, requests and answers.
//!
//! Everything here is plain data. Nothing reads a clock, does I/O or knows how an answer is
//! computed; the rules that turn a request into an answer are in [`crate::lock`].
//!
//! Durations that cross a boundary are whole milliseconds. Remaining times are rounded *down*, so
//! that a reader never believes in more time than there is.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::principal::Principal;

/// The longest signature, signee, instance or table name, in bytes of UTF-8.
pub const MAX_NAME_BYTES: usize = 1024;

/// The longest duration of a grant: 366 days.
pub const MAX_DURATION: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// The duration of a grant when neither the request nor its table specifies one: 30 seconds, long
/// enough that a renewal at a third of it survives an election, short enough that a crashed holder
/// is soon replaced.
pub const DEFAULT_DURATION: Duration = Duration::from_secs(30);

/// The time for which an expired record is kept when neither the request nor its table specifies
/// one: a day. Long enough to see in the morning who let a lock expire in the night, short enough
/// that records of locks with ever new names do not accumulate.
pub const KEPT_AFTER_EXPIRY: Duration = Duration::from_secs(24 * 60 * 60);

/// The largest integer that every JSON implementation carries exactly, 2^53 − 1. Tokens stop
/// there, and levels and milliseconds over HTTP stay within it.
pub const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;

/// The timeout of a call that specifies none.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// The table used when none is named.
pub const DEFAULT_TABLE: &str = "default";

/// A fencing token: 1 to 2^53 − 1, growing with every grant of a (table, signature), for ever.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Token(pub u64);

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The terms on which owners hold one lock together.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// One holder.
    #[default]
    Exclusive,
    /// Any number of holders, all of them shared.
    Shared,
    /// As many holders as the lock's limit, each with a slot of its own.
    Permits,
}

impl Mode {
    /// The word for it, in JSON, on the command line and in scripts.
    pub fn word(self) -> &'static str {
        match self {
            Self::Exclusive => "exclusive",
            Self::Shared => "shared",
            Self::Permits => "permits",
        }
    }
}

/// The largest limit of a lock in mode permits.
pub const MAX_PERMITS: u32 = 65_535;

/// The longest wait of a request outside of a session.
pub const MAX_WAIT: Duration = Duration::from_secs(60);

/// The time that a caller has to ask again after it went away, before its place is left.
pub const LEAVE_AFTER: Duration = Duration::from_secs(2);

/// The shortest and the longest time to live of a session.
pub const SESSION_TTL: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(24 * 60 * 60)];

/// The longest lock-delay.
pub const MAX_LOCK_DELAY: Duration = Duration::from_secs(60);

/// The name of a session: a random number, written as 32 hexadecimal digits. A name, not a secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionId(pub u128);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The text is not the name of a session; the message describes the format.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a session is named by 32 hexadecimal digits")]
pub struct InvalidSessionId;

impl FromStr for SessionId {
    type Err = InvalidSessionId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = is_hex.then(|| u128::from_str_radix(text, 16).ok()).flatten();
        number.map(Self).ok_or(InvalidSessionId)
    }
}

impl Serialize for SessionId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SessionId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Makes one request of one client repeatable: every copy with the same id gets the same answer.
///
/// `lane` is a random 128-bit number that belongs to one client (or one of its tasks) with one
/// request in flight; `seq` increases with each new request. Written as 32 hexadecimal digits, a
/// hyphen and a decimal number. A UUID is read as the first request of a lane of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId {
    /// The client's own random number.
    pub lane: u128,
    /// Increases by one with each new request on the lane.
    pub seq: u64,
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}-{}", self.lane, self.seq)
    }
}

/// The text is not a request id; the message describes the format.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "a request_id is 32 hexadecimal digits, a hyphen and a decimal number, such as \
     0123456789abcdef0123456789abcdef-1, or a UUID"
)]
pub struct InvalidRequestId;

impl FromStr for RequestId {
    type Err = InvalidRequestId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(lane) = uuid(text) {
            return Ok(Self { lane, seq: 1 });
        }
        let (lane, seq) = text.split_once('-').ok_or(InvalidRequestId)?;
        let plain = |part: &str, digit: fn(&u8) -> bool| part.as_bytes().iter().all(digit);
        if lane.len() != 32
            || !plain(lane, u8::is_ascii_hexdigit)
            || seq.is_empty()
            || !plain(seq, u8::is_ascii_digit)
        {
            return Err(InvalidRequestId);
        }
        let lane = u128::from_str_radix(lane, 16).map_err(|_| InvalidRequestId)?;
        let seq = seq.parse().map_err(|_| InvalidRequestId)?;
        Ok(Self { lane, seq })
    }
}

/// The number of a UUID in its usual form (RFC 9562: 8-4-4-4-12 hexadecimal digits).
fn uuid(text: &str) -> Option<u128> {
    let mut number = 0;
    let mut groups = text.split('-');
    for digits in [8, 4, 4, 4, 12] {
        let group = groups.next().filter(|group| group.len() == digits)?;
        for digit in group.chars() {
            number = number << 4 | u128::from(digit.to_digit(16)?);
        }
    }
    groups.next().is_none().then_some(number)
}

impl Serialize for RequestId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RequestId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The options that every call has besides its own.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CallOptions {
    /// The time the caller is willing to wait in all. `None`: the service's own limit (5 seconds).
    pub timeout: Option<Duration>,
    /// Identifies the request in the logs of every node it touches.
    pub trace_id: Option<String>,
    /// The authenticated principal that makes the request. Never an owner.
    pub principal: Option<Arc<Principal>>,
    /// The reason for the request, for the audit.
    pub cause: Option<String>,
}

impl CallOptions {
    /// The options of a call with this timeout and nothing else.
    pub fn within(timeout: impl Into<Option<Duration>>) -> Self {
        Self { timeout: timeout.into(), ..Self::default() }
    }
}

/// The time until a record is removed, counted from the last lock request or renewal of its grant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimeToLive {
    /// After this long, in whole milliseconds.
    For(Duration),
    /// Never: the record stays until the lock is released or its table is deleted.
    Never,
}

impl From<Duration> for TimeToLive {
    fn from(length: Duration) -> Self {
        Self::For(length)
    }
}

impl TimeToLive {
    /// The word for a record that is never removed, in JSON, on the command line and in scripts.
    pub const NEVER_WORD: &str = "none";

    /// The length; `None` for never.
    pub fn length(self) -> Option<Duration> {
        match self {
            Self::For(length) => Some(length),
            Self::Never => None,
        }
    }

    /// This time_to_live for a grant of this duration: never shorter than the duration.
    #[must_use]
    pub fn at_least(self, duration: Duration) -> Self {
        match self {
            Self::For(length) => Self::For(length.max(duration)),
            Self::Never => Self::Never,
        }
    }
}

/// A request for a lock.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LockRequest {
    /// The lock's name, 1 to 1024 bytes without NUL.
    pub signature: String,
    /// The owner that requests it, 1 to 1024 bytes without NUL.
    pub signee: String,
    /// Priority; a higher level takes the lock from a lower one. `None` is 0 for a new grant and
    /// "as it was" for a renew-only request.
    pub level: Option<i64>,
}

/// Options of a lock request.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LockOptions {
    /// The table; `None` is the service's own table.
    pub table: Option<String>,
    /// Take the lock even if another owner holds it.
    pub force: bool,
    /// The time until the grant expires: 1 ms to 366 days, in whole milliseconds.
    pub duration: Option<Duration>,
    /// The time until the record is removed, counted from this request; never shorter than the
    /// duration. `None` leaves it to the table.
    pub time_to_live: Option<TimeToLive>,
    /// Renew only: fails with reason `lost` unless the grant is mine, has this token and is not
    /// expired. Never creates a grant.
    pub token: Option<Token>,
    /// Distinguishes two runs of one signee.
    pub instance: Option<String>,
    /// The mode. `None` keeps that of a holder, and is exclusive for anyone else.
    pub mode: Option<Mode>,
    /// The limit of a lock in mode permits: 1 to 65,535. `None` is the limit that the lock has.
    pub limit: Option<u32>,
    /// The time to wait for the lock, in cluster time: at most 60 seconds without a session, 366
    /// days in one. `None` tries once.
    pub wait: Option<Duration>,
    /// Answer at once with the place in the queue, instead of waiting for what becomes of it.
    pub queued: bool,
    /// The session that the grant or the place lives in, in place of a duration. A signee that is
    /// empty and an instance that is left out are those of the session.
    pub session: Option<SessionId>,
    /// The time for which an expired grant keeps others out: at most 60 seconds. `None` keeps that
    /// of a holder, and is the table's for anyone else.
    pub lock_delay: Option<Duration>,
    /// Makes the request safe to repeat.
    pub request_id: Option<RequestId>,
    /// Time-out, trace and audit.
    pub call: CallOptions,
}

/// A request to release a lock.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UnlockRequest {
    /// The lock's name.
    pub signature: String,
    /// The owner that releases it.
    pub signee: String,
}

/// Options of an unlock request.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UnlockOptions {
    /// The table; `None` is the service's own table.
    pub table: Option<String>,
    /// Release only the grant with this token.
    pub token: Option<Token>,
    /// The run of the signee that holds it.
    pub instance: Option<String>,
    /// An operator's release: ends exactly the grant with the token, or the place, whoever has it.
    pub force: bool,
    /// The place to be ended by force.
    pub place: Option<DecidedAt>,
    /// Makes the request safe to repeat.
    pub request_id: Option<RequestId>,
    /// Time-out, trace and audit.
    pub call: CallOptions,
}

/// Options of a request to configure or delete a table.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TableOptions {
    /// The table; `None` is the service's own table.
    pub table: Option<String>,
    /// Makes the request safe to repeat.
    pub request_id: Option<RequestId>,
    /// Time-out, trace and audit.
    pub call: CallOptions,
}

/// Options of a read of a record, or of a page of records.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ReadOptions {
    /// The table; `None` is the service's own table.
    pub table: Option<String>,
    /// Answer from the local copy of the node that receives the request, however old it is. By
    /// default a read is linearizable: it sees every operation that was acknowledged before it was
    /// sent.
    pub stale: bool,
    /// Time-out, trace and audit.
    pub call: CallOptions,
}

/// The state of a record: whether its lock is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordState {
    /// At least one grant of the record is not expired.
    Held,
    /// All its grants are expired: anyone may acquire the lock.
    Expired,
}

/// A request for a page of a table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListRequest {
    /// Only signatures that begin with this.
    pub prefix: String,
    /// Only signatures after this one, in byte order, exclusive.
    pub after: Option<String>,
    /// The maximum number of records: 1 to 1000.
    pub limit: u32,
    /// Only records that are held, or only expired ones. `None`: both. With one, and many records
    /// of the other kind, pages are shorter than the limit, and some are empty.
    pub state: Option<RecordState>,
}

impl ListRequest {
    /// The largest page.
    pub const MAX_LIMIT: u32 = 1000;
    /// The page size by default.
    pub const DEFAULT_LIMIT: u32 = 100;

    /// Whether a record is in the requested state.
    pub fn shows(&self, record: &LockRecord) -> bool {
        self.state.is_none_or(|state| state == record.state())
    }
}

impl Default for ListRequest {
    fn default() -> Self {
        Self { prefix: String::new(), after: None, limit: Self::DEFAULT_LIMIT, state: None }
    }
}

/// A request for a page of the tables.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TablesRequest {
    /// Only tables after this one, in byte order, exclusive.
    pub after: Option<String>,
    /// The maximum number of tables: 1 to 1000.
    pub limit: u32,
}

impl TablesRequest {
    /// The largest page.
    pub const MAX_LIMIT: u32 = 1000;
    /// The page size by default.
    pub const DEFAULT_LIMIT: u32 = 100;
}

impl Default for TablesRequest {
    fn default() -> Self {
        Self { after: None, limit: Self::DEFAULT_LIMIT }
    }
}

/// The place in the log where an answer was decided: the entry, and the command within it.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct DecidedAt {
    /// The index of the log entry, counted from 0.
    pub index: u64,
    /// The command's position within the entry, counted from 0. For a read: `u32::MAX`, because it
    /// sees the entry whole.
    pub position: u32,
}

/// The text is not a log position; the message describes the format.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a log position is two decimal numbers with a dot between them, such as 17.0")]
pub struct InvalidPosition;

impl FromStr for DecidedAt {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (index, position) = text.split_once('.').ok_or(InvalidPosition)?;
        let index = index.parse().map_err(|_| InvalidPosition)?;
        Ok(Self { index, position: position.parse().map_err(|_| InvalidPosition)? })
    }
}

impl fmt::Display for DecidedAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index, self.position)
    }
}

/// The grant of a successful lock request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    /// The fencing token to hand to the guarded resource.
    pub token: Token,
    /// The level of the grant.
    pub level: i64,
    /// The time until it expires, from the moment it was decided; zero when it is not live.
    pub expires_in: Duration,
    /// The time until the record is removed; `None` for never.
    pub removed_in: Option<Duration>,
    /// `false` only in a repeated answer whose grant has ended since.
    pub live: bool,
    /// The mode of the grant.
    pub mode: Mode,
    /// The number of the permit, from 0; `None` in other modes.
    pub slot: Option<u32>,
    /// The time from the moment this request was last asked until the grant expires. Of a grant
    /// that was waited for it is longer than `expires_in`: a client counts it from before it asked.
    pub valid: Duration,
}

/// A place in the queue of a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waiting {
    /// The name of the place: the log position at which it joined the end of its level.
    pub place: DecidedAt,
    /// The number of places before it, and itself: 1 is the next to be granted.
    pub position: u64,
    /// The time until the wait is over.
    pub ends_in: Duration,
}

/// The reason why a lock changed hands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransferReason {
    /// The former grant was expired.
    Expired,
    /// The request was forced.
    Forced,
    /// The request had a higher level.
    Preempted,
}

/// The result of a lock request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LockStatus {
    /// The lock was free.
    Ok(Grant),
    /// It was mine already. The token is kept, or new if the grant had expired.
    Renewed(Grant),
    /// It was another's.
    Transferred {
        /// The new grant.
        grant: Grant,
        /// The former owner.
        previous_signee: String,
        /// The reason of the transfer.
        reason: TransferReason,
    },
    /// It waits for its turn.
    Waiting(Waiting),
    /// Refused; nothing changed.
    Failed(Forbidden),
}

/// The answer to a lock request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LockResponse {
    /// The result of the request.
    pub status: LockStatus,
    /// Where it was decided, if the service has a log.
    pub decided_at: Option<DecidedAt>,
}

impl LockResponse {
    /// Whether the requester has the lock.
    pub fn ok(&self) -> bool {
        self.grant().is_some()
    }

    /// Whether this request gave the requester a lock that it did not have: `ok` or `transferred`.
    pub fn created(&self) -> bool {
        matches!(self.status, LockStatus::Ok(_) | LockStatus::Transferred { .. })
    }

    /// The grant, if the requester has the lock.
    pub fn grant(&self) -> Option<&Grant> {
        match &self.status {
            LockStatus::Ok(grant)
            | LockStatus::Renewed(grant)
            | LockStatus::Transferred { grant, .. } => Some(grant),
            LockStatus::Waiting(_) | LockStatus::Failed(_) => None,
        }
    }

    /// The place in the queue, if the request waits.
    pub fn waiting(&self) -> Option<&Waiting> {
        if let LockStatus::Waiting(waiting) = &self.status { Some(waiting) } else { None }
    }

    /// The former owner, if the lock changed hands.
    pub fn previous_signee(&self) -> Option<&str> {
        match &self.status {
            LockStatus::Transferred { previous_signee, .. } => Some(previous_signee),
            LockStatus::Ok(_)
            | LockStatus::Renewed(_)
            | LockStatus::Waiting(_)
            | LockStatus::Failed(_) => None,
        }
    }

    /// The refusal, if the request was refused.
    pub fn forbidden(&self) -> Option<&Forbidden> {
        match &self.status {
            LockStatus::Failed(forbidden) => Some(forbidden),
            LockStatus::Ok(_)
            | LockStatus::Renewed(_)
            | LockStatus::Transferred { .. }
            | LockStatus::Waiting(_) => None,
        }
    }
}

/// The result of an unlock request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum UnlockStatus {
    /// It was mine and is released.
    Ok,
    /// There was no such lock: a success.
    NoLock,
    /// It was not held but waited for: the place is left.
    Left,
    /// It was another's, or mine with another token; nothing changed.
    Failed(Forbidden),
}

/// The answer to an unlock request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnlockResponse {
    /// The result of the request.
    pub status: UnlockStatus,
    /// Where it was decided, if the service has a log.
    pub decided_at: Option<DecidedAt>,
}

impl UnlockResponse {
    /// Whether the lock no longer exists.
    pub fn ok(&self) -> bool {
        self.forbidden().is_none()
    }

    /// The refusal, if the request was refused.
    pub fn forbidden(&self) -> Option<&Forbidden> {
        match &self.status {
            UnlockStatus::Failed(forbidden) => Some(forbidden),
            UnlockStatus::Ok | UnlockStatus::NoLock | UnlockStatus::Left => None,
        }
    }
}

/// The result of a table's deletion. Either way there is no such table afterwards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeleteStatus {
    /// It existed and is deleted.
    Ok,
    /// There was no such table, neither records nor defaults: a success.
    NoTable,
}

/// One write of a batch; see [`crate::LockService::batch`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BatchRequest {
    /// A request for a lock.
    Lock(LockRequest, LockOptions),
    /// A request to release a lock.
    Unlock(UnlockRequest, UnlockOptions),
}

impl BatchRequest {
    /// Time-out, trace and audit of the request.
    pub fn call(&self) -> &CallOptions {
        match self {
            Self::Lock(_, options) => &options.call,
            Self::Unlock(_, options) => &options.call,
        }
    }
}

/// The answer to one write of a batch, of the same kind as the request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BatchAnswer {
    /// To a lock request.
    Lock(LockResponse),
    /// To an unlock request.
    Unlock(UnlockResponse),
}

impl BatchAnswer {
    /// The answer to a lock request; `None` if it is one to an unlock request.
    pub fn lock(self) -> Option<LockResponse> {
        if let Self::Lock(response) = self { Some(response) } else { None }
    }

    /// The answer to an unlock request; `None` if it is one to a lock request.
    pub fn unlock(self) -> Option<UnlockResponse> {
        if let Self::Unlock(response) = self { Some(response) } else { None }
    }
}

/// The reason why a request was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ForbiddenReason {
    /// Another holds the lock.
    Held,
    /// The grant that was to be renewed or released is gone, expired or has another token; or an
    /// operator has ended the place.
    Lost,
    /// Others wait for the lock at the same or a higher level.
    Queued,
    /// The wait was over before the lock was granted.
    Timeout,
    /// A later request of the owner has taken over the place.
    Superseded,
    /// The session is unknown or has ended.
    SessionLost,
    /// The lock-delay of an expired grant is not over.
    Delay,
    /// A shared lock becomes exclusive only for its only holder.
    Shared,
    /// A holder has the lock in another mode, which cannot be changed to this one.
    ModeDiffers,
    /// The lock has another limit.
    LimitDiffers,
    /// There are too many places, or sessions.
    QueueFull,
    /// The table was deleted while the request waited.
    TableDeleted,
}

impl ForbiddenReason {
    /// Every reason, in the order of its code in messages.
    pub const ALL: [Self; 12] = [
        Self::Held,
        Self::Lost,
        Self::Queued,
        Self::Timeout,
        Self::Superseded,
        Self::SessionLost,
        Self::Delay,
        Self::Shared,
        Self::ModeDiffers,
        Self::LimitDiffers,
        Self::QueueFull,
        Self::TableDeleted,
    ];

    /// The word for it, in JSON and in scripts.
    pub fn word(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Lost => "lost",
            Self::Queued => "queued",
            Self::Timeout => "timeout",
            Self::Superseded => "superseded",
            Self::SessionLost => "session_lost",
            Self::Delay => "delay",
            Self::Shared => "shared",
            Self::ModeDiffers => "mode_differs",
            Self::LimitDiffers => "limit_differs",
            Self::QueueFull => "queue_full",
            Self::TableDeleted => "table_deleted",
        }
    }

    /// The reason as a person reads it.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Held => "held by another",
            Self::Lost => "the grant is lost",
            Self::Queued => "others wait for the lock",
            Self::Timeout => "the wait is over",
            Self::Superseded => "a later request of the owner has taken over the place",
            Self::SessionLost => "the session is unknown or has ended",
            Self::Delay => "the lock-delay of an expired grant is not over",
            Self::Shared => "others share the lock",
            Self::ModeDiffers => "the lock is held in another mode",
            Self::LimitDiffers => "the lock has another limit",
            Self::QueueFull => "there are too many places or sessions",
            Self::TableDeleted => "the table was deleted",
        }
    }
}

/// A refusal: the holders of the lock, with their levels and remaining times.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Forbidden {
    /// The reason.
    pub reason: ForbiddenReason,
    /// The present holders of the lock, first those that are live, in the order of their tokens: up
    /// to [`Forbidden::MAX_HOLDERS`]; empty if it has none.
    pub holders: Vec<Holder>,
    /// The limit that the lock has, if the request named another.
    pub limit: Option<u32>,
    /// The time until the last lock-delay is over, if that is what refused the request.
    pub delay: Option<Duration>,
}

impl Forbidden {
    /// The number of holders that a refusal names.
    pub const MAX_HOLDERS: usize = 10;

    /// A refusal for this reason, naming these holders.
    pub fn new(reason: ForbiddenReason, holders: Vec<Holder>) -> Self {
        Self { reason, holders, limit: None, delay: None }
    }
}

/// One holder of a lock, as others see it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Holder {
    /// The owner.
    pub signee: String,
    /// The run of the owner, if it named one.
    pub instance: Option<String>,
    /// Its level.
    pub level: i64,
    /// Its token.
    pub token: Token,
    /// The time until it expires; zero if it has.
    pub expires_in: Duration,
    /// Whether another owner may acquire the lock.
    pub expired: bool,
    /// The time until the record is removed; `None` for never.
    pub removed_in: Option<Duration>,
    /// The mode of its grant.
    pub mode: Mode,
    /// The number of its permit.
    pub slot: Option<u32>,
    /// The session that its grant lives in.
    pub session: Option<SessionId>,
}

/// One place in the queue of a lock, as others see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// The name of the place.
    pub place: DecidedAt,
    /// The owner.
    pub signee: String,
    /// The run of the owner, if it named one.
    pub instance: Option<String>,
    /// The session that it lives in.
    pub session: Option<SessionId>,
    /// Its level.
    pub level: i64,
    /// Its mode.
    pub mode: Mode,
    /// The time for which it has stood.
    pub since: Duration,
    /// The number of places before it, and itself; 0 in a list of the locks of a session, where it
    /// is not counted.
    pub position: u64,
}

/// A lock's record, as returned by a check or a list. It shows the *past*: a lock is held by
/// holding it, not by looking.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LockRecord {
    /// The lock's name.
    pub signature: String,
    /// Its holders, first those that are live, in the order of their tokens; one, for an exclusive
    /// lock. A check shows up to
    /// [`LockRecord::MAX_HOLDERS`] of them, a list up to [`LockRecord::MAX_LISTED_HOLDERS`].
    pub holders: Vec<Holder>,
    /// The number of holders that are not shown.
    pub more_holders: u64,
    /// The limit of a lock in mode permits.
    pub limit: Option<u32>,
    /// The number of places in its queue.
    pub waiting: u64,
    /// Up to [`LockRecord::MAX_PLACES`] of the places, in their order. Empty in a list.
    pub places: Vec<Place>,
}

impl LockRecord {
    /// The number of places that one check shows.
    pub const MAX_PLACES: usize = 100;
    /// The number of holders that one check shows.
    pub const MAX_HOLDERS: usize = 1000;
    /// The number of holders of each lock in a list.
    pub const MAX_LISTED_HOLDERS: usize = 10;

    /// Whether it is held.
    pub fn state(&self) -> RecordState {
        let is_expired = self.holders.iter().all(|holder| holder.expired);
        if is_expired { RecordState::Expired } else { RecordState::Held }
    }
}

/// The answer to a check.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckResponse {
    /// The record.
    pub record: LockRecord,
    /// The log position of the state that was read.
    pub decided_at: Option<DecidedAt>,
}

/// A page of a table. It may have fewer records than were requested, and even none, although more
/// follow: then `next` is present.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListResponse {
    /// The records, in byte order of their signatures; expired ones included and marked.
    pub locks: Vec<LockRecord>,
    /// The value of `after` for the next page; `None` on the last.
    pub next: Option<String>,
    /// The log position of the state that was read.
    pub decided_at: Option<DecidedAt>,
}

/// The values that a table supplies to requests that leave them out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TableDefaults {
    /// The duration; `None` is [`DEFAULT_DURATION`].
    pub duration: Option<Duration>,
    /// The least time_to_live; `None` removes a record [`KEPT_AFTER_EXPIRY`] after it expired.
    pub time_to_live: Option<TimeToLive>,
    /// The lock-delay of a grant; `None` is none.
    pub lock_delay: Option<Duration>,
    /// The longest time for which renewals keep a grant; `None` for no bound.
    pub max_hold: Option<Duration>,
}

/// A table and the number of its records.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableInfo {
    /// Its name.
    pub table: String,
    /// Its defaults.
    pub defaults: TableDefaults,
    /// Its records, expired ones included.
    pub locks: u64,
}

/// A page of the tables.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TablesResponse {
    /// The tables that have defaults or records, in byte order.
    pub tables: Vec<TableInfo>,
    /// The value of `after` for the next page; `None` on the last.
    pub next: Option<String>,
    /// The log position of the state that was read.
    pub decided_at: Option<DecidedAt>,
}

/// A request to open a session.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SessionRequest {
    /// The owner of locks that are requested in the session without naming one.
    pub signee: String,
    /// The time for which the session lives on without a keep-alive: 1 s to 24 h.
    pub ttl: Duration,
}

/// Options of a request to open or close a session.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SessionOptions {
    /// The run of the owner. `None` is the name of the session, so only an owner that names a
    /// stable instance takes over its former self.
    pub instance: Option<String>,
    /// Makes the request safe to repeat.
    pub request_id: Option<RequestId>,
    /// Time-out, trace and audit.
    pub call: CallOptions,
}

/// A session: liveness that is shared by many grants and places.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Session {
    /// Its name.
    pub id: SessionId,
    /// Its time to live.
    pub ttl: Duration,
    /// The time until it ends without a keep-alive; zero if it has ended.
    pub valid: Duration,
}

/// The result of a request to open a session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SessionStatus {
    /// It is open.
    Open(Session),
    /// Refused; nothing changed.
    Failed(Forbidden),
}

/// The result of a request to close a session. Either way there is no such session afterwards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseStatus {
    /// It was open and is closed.
    Ok,
    /// There was no such session: a success.
    NoSession,
}

/// A session to be kept alive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    /// The session.
    pub session: SessionId,
    /// The position of the last item of its inbox that the caller has seen; the items up to it are
    /// dropped.
    pub seen: Option<DecidedAt>,
}

/// The state of a session that was to be kept alive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Liveness {
    /// It lives on.
    Alive {
        /// The time until it ends without another keep-alive.
        valid: Duration,
        /// The items of the inbox after those that were seen, in their order.
        inbox: Vec<InboxItem>,
        /// Whether more items follow these.
        more: bool,
        /// Whether items that were not seen are gone because there were too many: list the locks
        /// of the session.
        overflow: bool,
    },
    /// It is unknown or has ended.
    Lost,
}

impl Liveness {
    /// The largest number of items in one answer, of the inboxes of all its sessions together.
    pub const MAX_ITEMS: usize = 1000;
}

/// A fact about one lock that the owner of a session must learn.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InboxItem {
    /// Its log position.
    pub position: DecidedAt,
    /// The table.
    pub table: String,
    /// The lock's name.
    pub signature: String,
    /// The owner within the session.
    pub signee: String,
    /// The run of the owner.
    pub instance: Option<String>,
    /// The fact.
    pub news: News,
}

/// A fact of an inbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum News {
    /// A place was granted.
    Granted {
        /// The token.
        token: Token,
        /// The level.
        level: i64,
        /// The mode.
        mode: Mode,
        /// The number of the permit.
        slot: Option<u32>,
    },
    /// A place has ended without a grant.
    Ended(ForbiddenReason),
    /// A grant was lost, or a grant or a place has moved out of the session.
    Lost {
        /// The token of the grant; `None` for a place.
        token: Option<Token>,
        /// The way in which it was lost.
        reason: Loss,
    },
}

/// The way in which a holder lost a grant.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// It expired: the longest hold was over.
    Expired,
    /// A request of a higher level has taken the lock.
    Preempted,
    /// A forced request has taken the lock.
    Forced,
    /// The owner has moved it to another session, or out of sessions.
    Moved,
    /// It was released, by its owner or by an operator.
    Released,
    /// The table was deleted.
    TableDeleted,
}

impl Loss {
    /// Every way, in the order of its code in records.
    pub const ALL: [Self; 6] = [
        Self::Expired,
        Self::Preempted,
        Self::Forced,
        Self::Moved,
        Self::Released,
        Self::TableDeleted,
    ];

    /// The word for it, in JSON and in scripts.
    pub fn word(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Preempted => "preempted",
            Self::Forced => "forced",
            Self::Moved => "moved",
            Self::Released => "released",
            Self::TableDeleted => "table_deleted",
        }
    }
}

/// The answer to a question whether a token is live.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifyResponse {
    /// Whether the grant with the token is held.
    pub live: bool,
    /// Its holder; `None` if there is no such grant.
    pub holder: Option<Holder>,
    /// The log position of the state that was read.
    pub decided_at: Option<DecidedAt>,
}

/// A request for a page of the locks of a session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionLocksRequest {
    /// The session.
    pub session: SessionId,
    /// Only locks after this one, as (table, signature), exclusive.
    pub after: Option<(String, String)>,
    /// The maximum number of locks: 1 to 1000.
    pub limit: u32,
}

/// One lock of a session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionLock {
    /// The table.
    pub table: String,
    /// The lock's name.
    pub signature: String,
    /// The grants that live in the session.
    pub holders: Vec<Holder>,
    /// The places that live in the session.
    pub places: Vec<Place>,
}

/// A page of the locks of a session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionLocksResponse {
    /// The locks, in the order of (table, signature).
    pub locks: Vec<SessionLock>,
    /// The value of `after` for the next page; `None` on the last.
    pub next: Option<(String, String)>,
    /// The log position of the state that was read.
    pub decided_at: Option<DecidedAt>,
}

/// One step of a cycle: an owner that holds a lock and waits for another.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct DeadlockEdge {
    /// The owner.
    pub signee: String,
    /// The run of the owner.
    pub instance: Option<String>,
    /// The table of the lock that it waits for.
    pub table: String,
    /// The lock that it waits for.
    pub signature: String,
}

/// The cycles of owners that hold and wait.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeadlocksResponse {
    /// The cycles: each owner waits for a lock that the next one holds, the last for one of the
    /// first's.
    pub cycles: Vec<Vec<DeadlockEdge>>,
    /// Whether the search ended early because there were too many waits.
    pub cut: bool,
    /// The log position of the state that was read.
    pub decided_at: Option<DecidedAt>,
}
