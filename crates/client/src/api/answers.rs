//! The JSON bodies of answers, and their conversion to and from the types of the contract.
//!
//! They are read leniently: an older client understands the answers of a newer node. Refusals are
//! in [`super::Problem`], not here.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::schemas;
use super::values::TimeToLiveMs;
use super::{Problem, to_ms};
use keyward_core::error::Error;
use keyward_core::types::{
    BatchAnswer, CheckResponse, DecidedAt, DeleteStatus, Grant, Holder, ListResponse, LockRecord,
    LockResponse, LockStatus, Mode, Place, SessionId, SessionLock, SessionLocksResponse,
    TableDefaults, TableInfo, TablesResponse, TimeToLive, Token, TransferReason, UnlockResponse,
    UnlockStatus, Waiting,
};

/// The result of a successful lock request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[derive(utoipa::ToSchema)]
pub enum LockStatusWord {
    /// The lock was free.
    Ok,
    /// It was mine already.
    Renewed,
    /// It was another's.
    Transferred,
}

/// The answer to `POST /v1/lock`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LockAnswer {
    /// The result of the request.
    pub status: LockStatusWord,
    /// The fencing token to hand to the guarded resource.
    pub token: u64,
    /// The level of the grant.
    pub level: i64,
    /// The time until the grant expires; count it from before the request was sent.
    pub expires_in_ms: u64,
    /// The time until the record is removed; absent if it never is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed_in_ms: Option<u64>,
    /// `false` only in a repeated answer whose grant has ended since.
    pub live: bool,
    /// With `transferred`: the former owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_signee: Option<String>,
    /// With `transferred`: `expired`, `forced` or `preempted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub reason: Option<TransferReason>,
    /// The mode of the grant. A reader takes an answer without one for exclusive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = schemas::Mode, required = true)]
    pub mode: Option<Mode>,
    /// The number of the permit, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<u32>,
    /// The time from when the lock was last asked for until the grant expires; count it from before
    /// that request was sent. It is `expires_in_ms` if nobody waited, and a reader takes an answer
    /// without it for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = u64, required = true)]
    pub valid_ms: Option<u64>,
}

/// The answer to `POST /v1/lock`, status 202: the request stands in the queue.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WaitingAnswer {
    /// Always `waiting`.
    pub status: WaitingWord,
    /// The name of the place.
    #[schema(example = "42.0")]
    pub place: String,
    /// The number of places before it, and itself: 1 is the next to be granted.
    pub position: u64,
    /// The time until the wait is over.
    pub ends_in_ms: u64,
}

/// The result of a lock request that waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[derive(utoipa::ToSchema)]
pub enum WaitingWord {
    /// It waits for its turn.
    Waiting,
}

impl WaitingAnswer {
    /// The wire form of a place.
    pub fn new(waiting: &Waiting) -> Self {
        Self {
            status: WaitingWord::Waiting,
            place: waiting.place.to_string(),
            position: waiting.position,
            ends_in_ms: to_ms(waiting.ends_in),
        }
    }
}

/// An answer to a lock request that is not refused.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LockReply {
    /// The requester has the lock.
    Granted(LockAnswer),
    /// It waits.
    Waiting(WaitingAnswer),
}

impl LockReply {
    /// The answer as a type of the contract; `None` if it is not whole.
    pub fn into_words(self, decided_at: Option<DecidedAt>) -> Option<LockResponse> {
        match self {
            Self::Granted(answer) => answer.into_words(decided_at),
            Self::Waiting(answer) => {
                let waiting = Waiting {
                    place: answer.place.parse().ok()?,
                    position: answer.position,
                    ends_in: Duration::from_millis(answer.ends_in_ms),
                };
                Some(LockResponse { status: LockStatus::Waiting(waiting), decided_at })
            }
        }
    }
}

impl LockAnswer {
    /// The wire form of a grant; `None` for a refusal, which is a problem document.
    pub fn new(response: &LockResponse) -> Option<Self> {
        let (status, previous_signee, reason) = match &response.status {
            LockStatus::Ok(_) => (LockStatusWord::Ok, None, None),
            LockStatus::Renewed(_) => (LockStatusWord::Renewed, None, None),
            LockStatus::Transferred { previous_signee, reason, .. } => {
                (LockStatusWord::Transferred, Some(previous_signee.clone()), Some(*reason))
            }
            LockStatus::Waiting(_) | LockStatus::Failed(_) => return None,
        };
        let grant = response.grant()?;
        Some(Self {
            status,
            token: grant.token.0,
            level: grant.level,
            expires_in_ms: to_ms(grant.expires_in),
            removed_in_ms: grant.removed_in.map(to_ms),
            live: grant.live,
            previous_signee,
            reason,
            mode: Some(grant.mode),
            slot: grant.slot,
            valid_ms: Some(to_ms(grant.valid)),
        })
    }

    /// The answer as a type of the contract; `None` if it is a transfer without the former owner or
    /// the reason.
    pub fn into_words(self, decided_at: Option<DecidedAt>) -> Option<LockResponse> {
        let grant = Grant {
            token: Token(self.token),
            level: self.level,
            expires_in: Duration::from_millis(self.expires_in_ms),
            removed_in: self.removed_in_ms.map(Duration::from_millis),
            live: self.live,
            mode: self.mode.unwrap_or_default(),
            slot: self.slot,
            valid: Duration::from_millis(self.valid_ms.unwrap_or(self.expires_in_ms)),
        };
        let status = match self.status {
            LockStatusWord::Ok => LockStatus::Ok(grant),
            LockStatusWord::Renewed => LockStatus::Renewed(grant),
            LockStatusWord::Transferred => LockStatus::Transferred {
                grant,
                previous_signee: self.previous_signee?,
                reason: self.reason?,
            },
        };
        Some(LockResponse { status, decided_at })
    }
}

/// The result of a successful unlock request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[derive(utoipa::ToSchema)]
pub enum UnlockStatusWord {
    /// It was mine and is released.
    Ok,
    /// There was no such lock.
    NoLock,
}

/// The answer to `POST /v1/unlock`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct UnlockAnswer {
    /// The result of the request.
    pub status: UnlockStatusWord,
    /// Whether there was no grant but a place, which is left.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub left: bool,
}

impl UnlockAnswer {
    /// The wire form of an answer; `None` for a refusal, which is a problem document.
    pub fn new(response: &UnlockResponse) -> Option<Self> {
        let status = match response.status {
            UnlockStatus::Ok | UnlockStatus::Left => UnlockStatusWord::Ok,
            UnlockStatus::NoLock => UnlockStatusWord::NoLock,
            UnlockStatus::Failed(_) => return None,
        };
        Some(Self { status, left: response.status == UnlockStatus::Left })
    }

    /// The answer as a type of the contract.
    pub fn into_words(self, decided_at: Option<DecidedAt>) -> UnlockResponse {
        let status = match self.status {
            UnlockStatusWord::Ok if self.left => UnlockStatus::Left,
            UnlockStatusWord::Ok => UnlockStatus::Ok,
            UnlockStatusWord::NoLock => UnlockStatus::NoLock,
        };
        UnlockResponse { status, decided_at }
    }
}

/// The answer to `POST /v1/batch`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BatchAnswers {
    /// One answer for each request, in their order.
    pub answers: Vec<BatchItemAnswer>,
}

/// The answer to one request of a batch: `lock`, `unlock` or `problem`, as it would be alone.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BatchItemAnswer {
    /// The answer to a lock request that was granted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<LockAnswer>,
    /// The answer to a lock request that waits, with `respond: queued`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<WaitingAnswer>,
    /// The answer to an unlock request after which the lock does not exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unlock: Option<UnlockAnswer>,
    /// The answer to a request that was refused or could not be answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
    /// The position at which it was decided, as in the header `Keyward-Log-Position` of a single
    /// request.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "log_position")]
    #[schema(value_type = Option<String>, example = "42.0")]
    pub log_position: Option<DecidedAt>,
}

impl From<&Result<BatchAnswer, Error>> for BatchItemAnswer {
    fn from(answer: &Result<BatchAnswer, Error>) -> Self {
        match answer {
            Ok(BatchAnswer::Lock(response)) => Self {
                lock: LockAnswer::new(response),
                waiting: response.waiting().map(WaitingAnswer::new),
                problem: response.forbidden().map(Problem::forbidden),
                log_position: response.decided_at,
                ..Self::default()
            },
            Ok(BatchAnswer::Unlock(response)) => Self {
                unlock: UnlockAnswer::new(response),
                problem: response.forbidden().map(Problem::forbidden),
                log_position: response.decided_at,
                ..Self::default()
            },
            Err(error) => Self { problem: Some(error.into()), ..Self::default() },
        }
    }
}

/// A log position as text, such as `42.0`; the `Option` around it is for serde's `with`.
mod log_position {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use crate::api::parse_log_position;
    use keyward_core::types::DecidedAt;

    #[allow(clippy::ref_option, reason = "serde calls it like this")]
    pub(super) fn serialize<S: Serializer>(
        position: &Option<DecidedAt>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match position {
            Some(position) => serializer.collect_str(position),
            None => serializer.serialize_none(),
        }
    }

    /// A text that is not a position is read as none: a newer node may send more.
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<DecidedAt>, D::Error> {
        let text = Option::<std::borrow::Cow<'_, str>>::deserialize(deserializer)?;
        Ok(text.as_deref().and_then(parse_log_position))
    }
}

/// The answer to a request that returns nothing but its success.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DoneAnswer {
    /// Always `ok`.
    pub status: String,
}

impl Default for DoneAnswer {
    fn default() -> Self {
        Self { status: "ok".to_owned() }
    }
}

/// The result of a table's deletion.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[derive(utoipa::ToSchema)]
pub enum DeleteStatusWord {
    /// It existed and is deleted.
    Ok,
    /// There was no such table.
    NoTable,
}

/// The answer to `DELETE /v1/table`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DeleteAnswer {
    /// The result of the deletion.
    pub status: DeleteStatusWord,
}

impl From<DeleteStatus> for DeleteAnswer {
    fn from(status: DeleteStatus) -> Self {
        let status = match status {
            DeleteStatus::Ok => DeleteStatusWord::Ok,
            DeleteStatus::NoTable => DeleteStatusWord::NoTable,
        };
        Self { status }
    }
}

impl From<DeleteAnswer> for DeleteStatus {
    fn from(answer: DeleteAnswer) -> Self {
        match answer.status {
            DeleteStatusWord::Ok => Self::Ok,
            DeleteStatusWord::NoTable => Self::NoTable,
        }
    }
}

/// One holder of a lock.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct HolderAnswer {
    /// The owner.
    pub signee: String,
    /// The run of the owner, if it named one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Its level.
    pub level: i64,
    /// Its token.
    pub token: u64,
    /// The time until it expires; zero if it has.
    pub expires_in_ms: u64,
    /// Whether another owner may acquire the lock.
    #[serde(default)]
    pub expired: bool,
    /// The time until the record is removed; absent if it never is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed_in_ms: Option<u64>,
    /// The mode of its grant. A reader takes an answer without one for exclusive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = schemas::Mode, required = true)]
    pub mode: Option<Mode>,
    /// The number of its permit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<u32>,
    /// The session that its grant lives in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schemas::SessionName>)]
    pub session: Option<SessionId>,
}

impl From<&Holder> for HolderAnswer {
    fn from(holder: &Holder) -> Self {
        Self {
            signee: holder.signee.clone(),
            instance: holder.instance.clone(),
            level: holder.level,
            token: holder.token.0,
            expires_in_ms: to_ms(holder.expires_in),
            expired: holder.expired,
            removed_in_ms: holder.removed_in.map(to_ms),
            mode: Some(holder.mode),
            slot: holder.slot,
            session: holder.session,
        }
    }
}

impl From<HolderAnswer> for Holder {
    fn from(holder: HolderAnswer) -> Self {
        Self {
            signee: holder.signee,
            instance: holder.instance,
            level: holder.level,
            token: Token(holder.token),
            expires_in: Duration::from_millis(holder.expires_in_ms),
            expired: holder.expired,
            removed_in: holder.removed_in_ms.map(Duration::from_millis),
            mode: holder.mode.unwrap_or_default(),
            slot: holder.slot,
            session: holder.session,
        }
    }
}

/// The answer to `GET /v1/lock`, and one item of `GET /v1/locks`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CheckAnswer {
    /// The lock's name.
    pub signature: String,
    /// Its holders, in the order of their tokens: up to 1000, in a list up to ten. They show the
    /// *past*: a lock is held by holding it, not by looking.
    pub holders: Vec<HolderAnswer>,
    /// The number of holders that are not shown, if there are more.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_holders: u64,
    /// The table, among the locks of a session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// The limit of a lock in mode permits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// The number of places in its queue, if there are any.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub waiting: u64,
    /// A hundred of the places; in a list none, among the locks of a session those that live in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub places: Vec<PlaceAnswer>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it like this")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// One place in a queue.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PlaceAnswer {
    /// The name of the place.
    #[schema(example = "42.0")]
    pub place: String,
    /// The owner.
    pub signee: String,
    /// The run of the owner, if it named one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The session that it lives in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schemas::SessionName>)]
    pub session: Option<SessionId>,
    /// Its level.
    pub level: i64,
    /// Its mode.
    #[schema(value_type = schemas::Mode)]
    pub mode: Mode,
    /// The time for which it has stood.
    pub since_ms: u64,
    /// The number of places before it, and itself; 0 among the locks of a session.
    pub position: u64,
}

impl From<&Place> for PlaceAnswer {
    fn from(place: &Place) -> Self {
        Self {
            place: place.place.to_string(),
            signee: place.signee.clone(),
            instance: place.instance.clone(),
            session: place.session,
            level: place.level,
            mode: place.mode,
            since_ms: to_ms(place.since),
            position: place.position,
        }
    }
}

impl From<PlaceAnswer> for Place {
    fn from(place: PlaceAnswer) -> Self {
        Self {
            place: place.place.parse().unwrap_or_default(),
            signee: place.signee,
            instance: place.instance,
            session: place.session,
            level: place.level,
            mode: place.mode,
            since: Duration::from_millis(place.since_ms),
            position: place.position,
        }
    }
}

impl From<&SessionLock> for CheckAnswer {
    fn from(lock: &SessionLock) -> Self {
        Self {
            signature: lock.signature.clone(),
            holders: lock.holders.iter().map(HolderAnswer::from).collect(),
            more_holders: 0,
            table: Some(lock.table.clone()),
            limit: None,
            waiting: 0,
            places: lock.places.iter().map(PlaceAnswer::from).collect(),
        }
    }
}

impl From<&LockRecord> for CheckAnswer {
    fn from(record: &LockRecord) -> Self {
        Self {
            signature: record.signature.clone(),
            holders: record.holders.iter().map(HolderAnswer::from).collect(),
            more_holders: record.more_holders,
            table: None,
            limit: record.limit,
            waiting: record.waiting,
            places: record.places.iter().map(PlaceAnswer::from).collect(),
        }
    }
}

impl From<CheckAnswer> for LockRecord {
    fn from(answer: CheckAnswer) -> Self {
        let holders = answer.holders.into_iter().map(Into::into).collect();
        let places = answer.places.into_iter().map(Into::into).collect();
        Self {
            signature: answer.signature,
            holders,
            more_holders: answer.more_holders,
            limit: answer.limit,
            waiting: answer.waiting,
            places,
        }
    }
}

impl CheckAnswer {
    /// The answer as a type of the contract.
    pub fn into_words(self, decided_at: Option<DecidedAt>) -> CheckResponse {
        CheckResponse { record: self.into(), decided_at }
    }
}

/// The answer to `GET /v1/locks`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ListAnswer {
    /// The records, in byte order of their signatures; expired ones included and marked. There may
    /// be fewer than the limit, and even none, although more follow.
    pub locks: Vec<CheckAnswer>,
    /// The value of `after` for the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Among the locks of a session: the value of `table` for the next page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_table: Option<String>,
}

impl From<&SessionLocksResponse> for ListAnswer {
    fn from(response: &SessionLocksResponse) -> Self {
        let (next_table, next) = response.next.clone().unzip();
        Self { locks: response.locks.iter().map(CheckAnswer::from).collect(), next, next_table }
    }
}

impl From<&ListResponse> for ListAnswer {
    fn from(response: &ListResponse) -> Self {
        Self {
            locks: response.locks.iter().map(CheckAnswer::from).collect(),
            next: response.next.clone(),
            next_table: None,
        }
    }
}

impl ListAnswer {
    /// The answer about the locks of a session, as a type of the contract.
    pub fn into_session_locks(self, decided_at: Option<DecidedAt>) -> SessionLocksResponse {
        let lock = |lock: CheckAnswer| SessionLock {
            table: lock.table.unwrap_or_default(),
            signature: lock.signature,
            holders: lock.holders.into_iter().map(Into::into).collect(),
            places: lock.places.into_iter().map(Into::into).collect(),
        };
        let locks = self.locks.into_iter().map(lock).collect();
        SessionLocksResponse { locks, next: self.next_table.zip(self.next), decided_at }
    }

    /// The answer as a type of the contract.
    pub fn into_words(self, decided_at: Option<DecidedAt>) -> ListResponse {
        let locks = self.locks.into_iter().map(Into::into).collect();
        ListResponse { locks, next: self.next, decided_at }
    }
}

/// One item of `GET /v1/tables`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TableAnswer {
    /// Its name.
    pub table: String,
    /// The duration of grants whose request has none; absent is the service's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// The least time_to_live of records whose request has none; `"none"` never removes them.
    /// Absent: they are removed a day after they expired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schemas::TimeToLive>)]
    pub time_to_live_ms: Option<TimeToLiveMs>,
    /// The lock-delay of grants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock_delay_ms: Option<u64>,
    /// The longest time for which renewals keep a grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_hold_ms: Option<u64>,
    /// Its records, expired ones included.
    pub locks: u64,
}

impl From<&TableInfo> for TableAnswer {
    fn from(info: &TableInfo) -> Self {
        Self {
            table: info.table.clone(),
            duration_ms: info.defaults.duration.map(to_ms),
            time_to_live_ms: info.defaults.time_to_live.map(|time_to_live| match time_to_live {
                TimeToLive::For(length) => TimeToLiveMs::Ms(to_ms(length)),
                TimeToLive::Never => TimeToLiveMs::Never,
            }),
            lock_delay_ms: info.defaults.lock_delay.map(to_ms),
            max_hold_ms: info.defaults.max_hold.map(to_ms),
            locks: info.locks,
        }
    }
}

impl From<TableAnswer> for TableInfo {
    fn from(answer: TableAnswer) -> Self {
        Self {
            table: answer.table,
            defaults: TableDefaults {
                duration: answer.duration_ms.map(Duration::from_millis),
                time_to_live: answer.time_to_live_ms.map(|time_to_live| match time_to_live {
                    TimeToLiveMs::Ms(ms) => TimeToLive::For(Duration::from_millis(ms)),
                    TimeToLiveMs::Never => TimeToLive::Never,
                }),
                lock_delay: answer.lock_delay_ms.map(Duration::from_millis),
                max_hold: answer.max_hold_ms.map(Duration::from_millis),
            },
            locks: answer.locks,
        }
    }
}

/// The answer to `GET /v1/tables`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TablesAnswer {
    /// The tables, in byte order.
    pub tables: Vec<TableAnswer>,
    /// The value of `after` for the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl From<&TablesResponse> for TablesAnswer {
    fn from(response: &TablesResponse) -> Self {
        Self {
            tables: response.tables.iter().map(TableAnswer::from).collect(),
            next: response.next.clone(),
        }
    }
}

impl TablesAnswer {
    /// The answer as a type of the contract.
    pub fn into_words(self, decided_at: Option<DecidedAt>) -> TablesResponse {
        let tables = self.tables.into_iter().map(Into::into).collect();
        TablesResponse { tables, next: self.next, decided_at }
    }
}
