//! The JSON bodies and query strings of requests, and their conversion to and from commands and
//! queries.
//!
//! An unknown field is refused, and so is an integer beyond those that JSON carries exactly, before
//! it can be rounded anywhere. All other rules are in [`keyward_core::lock`].

use std::fmt;
use std::marker::PhantomData;

use serde::{Deserialize, Serialize};

use super::schemas;
use super::values::{TimeToLiveMs, flag, whole, whole_text};
use keyward_core::error::Error;
use keyward_core::lock::{
    Command, Keep, LimitCommand, LockCommand, Operation, Query, SessionCommand, Subject,
    TableCommand, UnlockCommand,
};
use keyward_core::types::{
    DEFAULT_TABLE, DecidedAt, ListRequest, MAX_SAFE_INTEGER, Mode, RecordState, RequestId, Seen,
    SessionId, SessionLocksRequest, TablesRequest, Token,
};

/// The body of `POST /v1/lock`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[derive(utoipa::ToSchema)]
pub struct LockBody {
    /// The lock's name, 1 to 1024 bytes of UTF-8 without NUL, compared as bytes.
    #[schema(value_type = schemas::Name, example = "jobs/nightly")]
    pub signature: String,
    /// The owner that requests it, same limits. A name, never an authorisation.
    /// In a session it may be left out: then it is the session's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(value_type = Option<schemas::Name>, example = "worker-1")]
    pub signee: String,
    /// Priority within ±(2^53 − 1), 0 if left out; a higher level takes the lock from a lower one.
    /// If it is left out of a renewal with a token, the level stays as it was.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "whole")]
    #[schema(minimum = -9_007_199_254_740_991i64, maximum = 9_007_199_254_740_991i64)]
    pub level: Option<i64>,
    /// The time until the grant expires: 1 ms to 366 days.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "whole")]
    #[schema(minimum = 1, maximum = 31_622_400_000i64, example = 30000)]
    pub duration_ms: Option<u64>,
    /// The time until the record is removed, counted from this request; never shorter than the
    /// duration. `"none"` is never. If it is left out, the table's default applies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schemas::TimeToLive>)]
    pub time_to_live_ms: Option<TimeToLiveMs>,
    /// Take the lock even if another owner holds it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not", deserialize_with = "flag")]
    pub force: bool,
    /// Renew only: refused with reason `lost` unless the grant is mine, has this token and is not
    /// expired. Never creates a grant.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "whole")]
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991i64)]
    pub token: Option<u64>,
    /// Distinguishes two runs of one signee; another instance is another owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schemas::Name>)]
    pub instance: Option<String>,
    /// The table, `default` if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schemas::Name>)]
    pub table: Option<String>,
    /// Makes the request safe to repeat: 32 hexadecimal digits (a random number of the client's
    /// own, with one request in flight each), a hyphen, and a decimal number that increases with
    /// each request; or a UUID, new for each request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schemas::RequestId>)]
    pub request_id: Option<RequestId>,
    /// `exclusive`, `shared` or `permits`; left out, that of a holder, and else exclusive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schemas::Mode>)]
    pub mode: Option<Mode>,
    /// The limit of a lock in mode permits; left out, the one that the lock has.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "whole")]
    #[schema(minimum = 1, maximum = 65535)]
    pub limit: Option<u32>,
    /// The time to wait for the lock; left out or 0, it is tried once. At most a minute, in a session
    /// 366 days.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "whole")]
    #[schema(minimum = 0, maximum = 31_622_400_000i64)]
    pub wait_ms: Option<u64>,
    /// `queued`: answer with the place in the queue at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub respond: Option<RespondWord>,
    /// The session that the grant or the place lives in, in place of a duration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schemas::SessionName>)]
    pub session: Option<SessionId>,
    /// The time for which the expired grant keeps others out; left out, that of a holder or the
    /// table's.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "whole")]
    #[schema(minimum = 0, maximum = 60000)]
    pub lock_delay_ms: Option<u64>,
}

/// The time at which a request that waits is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[derive(utoipa::ToSchema)]
pub enum RespondWord {
    /// At once, with the place.
    Queued,
}

impl LockBody {
    /// The body of a command.
    pub fn new(command: &LockCommand, request_id: Option<RequestId>) -> Self {
        Self {
            signature: command.signature.to_string(),
            signee: command.signee.to_string(),
            level: command.level,
            duration_ms: command.duration_ms,
            time_to_live_ms: command.time_to_live.map(Into::into),
            force: command.force,
            token: command.token.map(|token| token.0),
            instance: command.instance.as_deref().map(str::to_owned),
            table: Some(command.table.to_string()),
            request_id,
            mode: command.mode,
            limit: command.limit,
            wait_ms: Some(command.wait_ms).filter(|wait| *wait > 0),
            respond: command.queued.then_some(RespondWord::Queued),
            session: command.session,
            lock_delay_ms: command.lock_delay_ms,
        }
    }

    /// The command of the request.
    ///
    /// # Errors
    /// `BadRequest` if an integer is beyond what JSON carries exactly.
    pub fn into_command(self) -> Result<Command, Error> {
        let operation = Operation::Lock(Box::new(LockCommand {
            table: table(self.table),
            signature: self.signature.into(),
            signee: self.signee.into(),
            instance: self.instance.map(Into::into),
            level: self.level.map(level).transpose()?,
            force: self.force,
            duration_ms: duration(self.duration_ms)?,
            time_to_live: time_to_live(self.time_to_live_ms)?,
            token: self.token.map(Token),
            mode: self.mode,
            limit: self.limit,
            wait_ms: exact("wait_ms", self.wait_ms.unwrap_or(0))?,
            queued: self.respond.is_some(),
            session: self.session,
            lock_delay_ms: self.lock_delay_ms.map(|ms| exact("lock_delay_ms", ms)).transpose()?,
        }));
        Ok(Command { request_id: self.request_id, ..operation.into() })
    }
}

/// The body of `POST /v1/unlock`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[derive(utoipa::ToSchema)]
pub struct UnlockBody {
    /// The lock's name.
    #[schema(value_type = schemas::Name, example = "jobs/nightly")]
    pub signature: String,
    /// The owner that releases it.
    #[schema(value_type = schemas::Name, example = "worker-1")]
    pub signee: String,
    /// Release only the grant with this token.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "whole")]
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991i64)]
    pub token: Option<u64>,
    /// The run of the signee that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schemas::Name>)]
    pub instance: Option<String>,
    /// The table, `default` if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schemas::Name>)]
    pub table: Option<String>,
    /// Makes the request safe to repeat; see `POST /v1/lock`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schemas::RequestId>)]
    pub request_id: Option<RequestId>,
    /// An operator's release: ends exactly the grant with the token, or the place, whoever has it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not", deserialize_with = "flag")]
    pub force: bool,
    /// With `force`: the place to be ended, as the answer to a lock request names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "42.0")]
    pub place: Option<String>,
}

impl UnlockBody {
    /// The body of a command.
    pub fn new(command: &UnlockCommand, request_id: Option<RequestId>) -> Self {
        Self {
            signature: command.signature.to_string(),
            signee: command.signee.to_string(),
            token: command.token.map(|token| token.0),
            instance: command.instance.as_deref().map(str::to_owned),
            table: Some(command.table.to_string()),
            request_id,
            force: command.force,
            place: command.place.map(|place| place.to_string()),
        }
    }

    /// The command of the request.
    ///
    /// # Errors
    /// `BadRequest` if the place is no log position.
    pub fn into_command(self) -> Result<Command, Error> {
        let operation = Operation::Unlock(Box::new(UnlockCommand {
            table: table(self.table),
            signature: self.signature.into(),
            signee: self.signee.into(),
            instance: self.instance.map(Into::into),
            token: self.token.map(Token),
            force: self.force,
            place: self.place.as_deref().map(|text| position("place", text)).transpose()?,
        }));
        Ok(Command { request_id: self.request_id, ..operation.into() })
    }
}

/// The body of `POST /v1/batch`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[derive(utoipa::ToSchema)]
pub struct BatchBody {
    /// The requests, 1000 at most; each succeeds or fails by itself, and those that are decided are
    /// decided in this order.
    #[schema(max_items = 1000)]
    pub requests: Vec<BatchItem>,
}

/// One request of a batch: the body that it would have alone, under the name of its operation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[derive(utoipa::ToSchema)]
pub enum BatchItem {
    /// As the body of `POST /v1/lock`.
    Lock(#[serde(deserialize_with = "object")] LockBody),
    /// As the body of `POST /v1/unlock`.
    Unlock(#[serde(deserialize_with = "object")] UnlockBody),
}

impl BatchItem {
    /// The command of the request.
    ///
    /// # Errors
    /// `BadRequest` if an integer is beyond what JSON carries exactly.
    pub fn into_command(self) -> Result<Command, Error> {
        match self {
            Self::Lock(body) => body.into_command(),
            Self::Unlock(body) => body.into_command(),
        }
    }
}

/// Reads an object only: serde would also accept an array, in the order of the fields, which is not
/// part of the API.
fn object<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Object<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> serde::de::Visitor<'de> for Object<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::deserialize(serde::de::value::MapAccessDeserializer::new(map))
        }
    }

    deserializer.deserialize_map(Object(PhantomData))
}

/// The body of `PUT /v1/table`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[derive(utoipa::ToSchema)]
pub struct TableBody {
    /// The table. It must be named: nothing is configured by leaving something out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = schemas::Name, required)]
    pub table: Option<String>,
    /// The duration of grants whose request has none; if it is left out, the service's own.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "whole")]
    #[schema(minimum = 1, maximum = 31_622_400_000i64)]
    pub duration_ms: Option<u64>,
    /// The least time_to_live of records whose request has none; if it is left out, they are
    /// removed a day after they expired. `"none"` never removes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schemas::TimeToLive>)]
    pub time_to_live_ms: Option<TimeToLiveMs>,
    /// The lock-delay of grants whose request has none; if it is left out, none.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "whole")]
    #[schema(minimum = 0, maximum = 60000)]
    pub lock_delay_ms: Option<u64>,
    /// The longest time for which renewals keep a grant; if it is left out, there is no bound.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "whole")]
    #[schema(minimum = 1, maximum = 31_622_400_000i64)]
    pub max_hold_ms: Option<u64>,
    /// Makes the request safe to repeat; see `POST /v1/lock`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schemas::RequestId>)]
    pub request_id: Option<RequestId>,
}

impl TableBody {
    /// The body of a command.
    pub fn new(command: &TableCommand, request_id: Option<RequestId>) -> Self {
        Self {
            table: Some(command.table.to_string()),
            duration_ms: command.duration_ms,
            time_to_live_ms: command.time_to_live.map(Into::into),
            lock_delay_ms: command.lock_delay_ms,
            max_hold_ms: command.max_hold_ms,
            request_id,
        }
    }

    /// The command of the request.
    ///
    /// # Errors
    /// `BadRequest` if no table is named, or if an integer is beyond what JSON carries exactly.
    pub fn into_command(self) -> Result<Command, Error> {
        let missing = || {
            Error::bad_request(
                "the table has to be named here; \"table\":\"default\" is the one that other \
                 requests mean when they name none",
            )
        };
        let operation = Operation::ConfigureTable(Box::new(TableCommand {
            table: self.table.ok_or_else(missing)?.into(),
            duration_ms: duration(self.duration_ms)?,
            time_to_live: time_to_live(self.time_to_live_ms)?,
            lock_delay_ms: self.lock_delay_ms.map(|ms| exact("lock_delay_ms", ms)).transpose()?,
            max_hold_ms: self.max_hold_ms.map(|ms| exact("max_hold_ms", ms)).transpose()?,
        }));
        Ok(Command { request_id: self.request_id, ..operation.into() })
    }
}

/// The body of `POST /debug/advance`, which works only on a node started for tests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdvanceBody {
    /// The time by which the clock is advanced.
    pub by_ms: u64,
}

/// The query of `GET /v1/lock`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct CheckQuery {
    /// The lock's name.
    #[param(value_type = schemas::Name)]
    pub signature: String,
    /// The table, `default` if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = schemas::Name, required = false)]
    pub table: Option<String>,
    /// The number of places to pass over before the hundred that are shown.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "whole_text")]
    #[param(value_type = u64, required = false, minimum = 0)]
    pub places_after: Option<u64>,
    /// Answer from the node's own copy, however old it is, instead of a linearizable read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stale: bool,
}

impl From<CheckQuery> for Query {
    fn from(query: CheckQuery) -> Self {
        let (table, signature) = (table(query.table), query.signature.into());
        let places_after = query.places_after.unwrap_or(0);
        Self {
            stale: query.stale,
            principal: None,
            subject: Subject::Lock { table, signature, places_after },
        }
    }
}

/// The query of `GET /v1/locks`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// Only signatures that begin with this.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[param(max_length = 1024)]
    pub prefix: String,
    /// Only signatures after this one, in byte order, exclusive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = String, required = false, max_length = 1024)]
    pub after: Option<String>,
    /// The maximum number of records: 1 to 1000, 100 if left out.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "whole_text")]
    #[param(value_type = u32, required = false, minimum = 1, maximum = 1000, default = 100)]
    pub limit: Option<u32>,
    /// Only locks that are `held`, or only `expired` ones; both if left out. Pages are shorter
    /// then, and some may be empty: `next` is present if more follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = schemas::RecordState, required = false)]
    pub state: Option<RecordState>,
    /// The table, `default` if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = schemas::Name, required = false)]
    pub table: Option<String>,
    /// Answer from the node's own copy, however old it is, instead of a linearizable read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stale: bool,
    /// Only the locks of this session, of all tables. `after` and `table` are then the `next` and
    /// `next_table` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = schemas::SessionName, required = false)]
    pub session: Option<SessionId>,
}

impl From<ListQuery> for Query {
    fn from(query: ListQuery) -> Self {
        if let Some(session) = query.session {
            let limit = query.limit.unwrap_or(ListRequest::DEFAULT_LIMIT);
            let after = query.after.map(|after| (table(query.table).into(), after));
            let subject = Subject::SessionLocks(SessionLocksRequest { session, after, limit });
            return Self { stale: query.stale, principal: None, subject };
        }
        let page = ListRequest {
            prefix: query.prefix,
            after: query.after,
            limit: query.limit.unwrap_or(ListRequest::DEFAULT_LIMIT),
            state: query.state,
        };
        Self {
            stale: query.stale,
            principal: None,
            subject: Subject::Locks { table: table(query.table), page },
        }
    }
}

/// The query of `GET /v1/deadlocks`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DeadlocksQuery {
    /// Answer from the node's own copy, however old it is, instead of a linearizable read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stale: bool,
}

impl From<DeadlocksQuery> for Query {
    fn from(query: DeadlocksQuery) -> Self {
        Self { stale: query.stale, principal: None, subject: Subject::Deadlocks }
    }
}

/// The query of `GET /v1/tables`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct TablesQuery {
    /// Only tables after this one, in byte order, exclusive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = String, required = false, max_length = 1024)]
    pub after: Option<String>,
    /// The maximum number of tables: 1 to 1000, 100 if left out.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "whole_text")]
    #[param(value_type = u32, required = false, minimum = 1, maximum = 1000, default = 100)]
    pub limit: Option<u32>,
    /// Answer from the node's own copy, however old it is, instead of a linearizable read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stale: bool,
}

impl From<TablesQuery> for Query {
    fn from(query: TablesQuery) -> Self {
        let limit = query.limit.unwrap_or(TablesRequest::DEFAULT_LIMIT);
        let subject = Subject::Tables(TablesRequest { after: query.after, limit });
        Self { stale: query.stale, principal: None, subject }
    }
}

/// The query of `GET /v1/backup`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct BackupQuery {
    /// What the node knows, without asking the others: also where no majority is left.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stale: bool,
}

/// The query of `DELETE /v1/table`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct TableQuery {
    /// The table. It must be named: nothing is deleted by leaving something out.
    #[param(value_type = schemas::Name)]
    pub table: String,
    /// Makes the request safe to repeat; see `POST /v1/lock`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = schemas::RequestId, required = false)]
    pub request_id: Option<RequestId>,
}

impl From<TableQuery> for Command {
    fn from(query: TableQuery) -> Self {
        let operation = Operation::DeleteTable { table: query.table.into() };
        Self { request_id: query.request_id, ..operation.into() }
    }
}

/// The body of `POST /v1/sessions`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[derive(utoipa::ToSchema)]
pub struct SessionBody {
    /// The time to live without a keep-alive: 1 s to 24 h.
    #[serde(default, deserialize_with = "whole")]
    #[schema(value_type = u64, required, minimum = 1000, maximum = 86_400_000)]
    pub ttl_ms: Option<u64>,
    /// The owner of locks that are requested in the session.
    #[schema(value_type = schemas::Name, example = "worker-1")]
    pub signee: String,
    /// The run of the owner; left out, the name of the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schemas::Name>)]
    pub instance: Option<String>,
    /// Makes the request safe to repeat; see `POST /v1/lock`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schemas::RequestId>)]
    pub request_id: Option<RequestId>,
}

impl SessionBody {
    /// The body of a command.
    pub fn new(command: &SessionCommand, request_id: Option<RequestId>) -> Self {
        Self {
            ttl_ms: Some(command.ttl_ms),
            signee: command.signee.to_string(),
            instance: command.instance.as_deref().map(str::to_owned),
            request_id,
        }
    }

    /// The command of the request.
    ///
    /// # Errors
    /// `BadRequest` if the time to live is missing, or beyond what JSON carries exactly.
    pub fn into_command(self) -> Result<Command, Error> {
        let ttl_ms = self.ttl_ms.ok_or_else(|| Error::bad_request("missing field `ttl_ms`"))?;
        let operation = Operation::OpenSession(Box::new(SessionCommand {
            id: None,
            ttl_ms: exact("ttl_ms", ttl_ms)?,
            signee: self.signee.into(),
            instance: self.instance.map(Into::into),
        }));
        Ok(Command { request_id: self.request_id, ..operation.into() })
    }
}

/// The body of `POST /v1/sessions/keepalive`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[derive(utoipa::ToSchema)]
pub struct KeepAliveBody {
    /// The sessions, 1000 at most.
    #[schema(min_items = 1, max_items = 1000)]
    pub sessions: Vec<SeenBody>,
}

/// A session to be kept alive.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[derive(utoipa::ToSchema)]
pub struct SeenBody {
    /// The session.
    #[schema(value_type = schemas::SessionName)]
    pub session: SessionId,
    /// The position of the last item of the inbox that was seen; the items up to it are dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "42.0")]
    pub seen: Option<String>,
}

impl KeepAliveBody {
    /// The body of a command.
    pub fn new(sessions: &[Seen]) -> Self {
        let one = |seen: &Seen| SeenBody {
            session: seen.session,
            seen: seen.seen.map(|at| at.to_string()),
        };
        Self { sessions: sessions.iter().map(one).collect() }
    }

    /// The command of the request.
    ///
    /// # Errors
    /// `BadRequest` if a position is none.
    pub fn into_command(self) -> Result<Command, Error> {
        let one = |body: SeenBody| {
            let seen = body.seen.as_deref().map(|text| position("seen", text)).transpose()?;
            Ok(Seen { session: body.session, seen })
        };
        let sessions: Result<Vec<Seen>, Error> = self.sessions.into_iter().map(one).collect();
        Ok(Operation::KeepAlive(sessions?).into())
    }
}

/// The query of `DELETE /v1/sessions`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct SessionQuery {
    /// The session to be closed.
    #[param(value_type = schemas::SessionName)]
    pub session: SessionId,
    /// Makes the request safe to repeat; see `POST /v1/lock`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = schemas::RequestId, required = false)]
    pub request_id: Option<RequestId>,
}

impl From<SessionQuery> for Command {
    fn from(query: SessionQuery) -> Self {
        let operation = Operation::CloseSession(query.session);
        Self { request_id: query.request_id, ..operation.into() }
    }
}

/// The body of `POST /v1/verify`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[derive(utoipa::ToSchema)]
pub struct VerifyBody {
    /// The lock's name.
    #[schema(value_type = schemas::Name, example = "jobs/nightly")]
    pub signature: String,
    /// The token.
    #[serde(default, deserialize_with = "whole")]
    #[schema(value_type = u64, required, minimum = 1, maximum = 9_007_199_254_740_991i64)]
    pub token: Option<u64>,
    /// The table, `default` if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schemas::Name>)]
    pub table: Option<String>,
}

impl VerifyBody {
    /// The query of the request.
    ///
    /// # Errors
    /// `BadRequest` if there is no token.
    pub fn into_query(self) -> Result<Query, Error> {
        let token = self.token.ok_or_else(|| Error::bad_request("missing field `token`"))?;
        let (table, signature) = (table(self.table), self.signature.into());
        let token = Token(exact("token", token)?);
        Ok(Query {
            stale: false,
            principal: None,
            subject: Subject::Verify { table, signature, token },
        })
    }
}

/// The body of `PUT /v1/limit`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[derive(utoipa::ToSchema)]
pub struct LimitBody {
    /// The lock's name.
    #[schema(value_type = schemas::Name, example = "jobs/nightly")]
    pub signature: String,
    /// The number of permits.
    #[serde(default, deserialize_with = "whole")]
    #[schema(value_type = u32, required, minimum = 1, maximum = 65535)]
    pub limit: Option<u32>,
    /// The table, `default` if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schemas::Name>)]
    pub table: Option<String>,
    /// Makes the request safe to repeat; see `POST /v1/lock`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schemas::RequestId>)]
    pub request_id: Option<RequestId>,
}

impl LimitBody {
    /// The body of a command.
    pub fn new(command: &LimitCommand, request_id: Option<RequestId>) -> Self {
        Self {
            signature: command.signature.to_string(),
            limit: Some(command.limit),
            table: Some(command.table.to_string()),
            request_id,
        }
    }

    /// The command of the request.
    ///
    /// # Errors
    /// `BadRequest` if there is no limit.
    pub fn into_command(self) -> Result<Command, Error> {
        let limit = self.limit.ok_or_else(|| Error::bad_request("missing field `limit`"))?;
        let (table, signature) = (table(self.table), self.signature.into());
        let operation = Operation::SetLimit(Box::new(LimitCommand { table, signature, limit }));
        Ok(Command { request_id: self.request_id, ..operation.into() })
    }
}

/// Reads a position in the log.
fn position(field: &str, text: &str) -> Result<DecidedAt, Error> {
    text.parse().map_err(|error| Error::bad_request(format!("{field}: {error}")))
}

fn table(named: Option<String>) -> Box<str> {
    named.map_or_else(|| DEFAULT_TABLE.into(), Into::into)
}

fn duration(ms: Option<u64>) -> Result<Option<u64>, Error> {
    ms.map(|ms| exact("duration_ms", ms)).transpose()
}

fn time_to_live(value: Option<TimeToLiveMs>) -> Result<Option<Keep>, Error> {
    if let Some(TimeToLiveMs::Ms(ms)) = value {
        exact("time_to_live_ms", ms)?;
    }
    Ok(value.map(Into::into))
}

/// Refuses a length that JSON does not carry exactly.
fn exact(field: &str, ms: u64) -> Result<u64, Error> {
    if ms > MAX_SAFE_INTEGER { Err(beyond(field, "0 to 2^53 - 1")) } else { Ok(ms) }
}

fn level(level: i64) -> Result<i64, Error> {
    if level.unsigned_abs() > MAX_SAFE_INTEGER {
        return Err(beyond("level", "-(2^53 - 1) to 2^53 - 1"));
    }
    Ok(level)
}

fn beyond(field: &str, range: &str) -> Error {
    Error::bad_request(format!("{field} is out of range: {range}"))
}
