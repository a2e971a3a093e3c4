//! The JSON bodies and query strings of requests, and their conversion to and from the types of the
//! contract.
//!
//! An unknown field is refused, and so is an integer beyond those that JSON carries exactly, before
//! it can be rounded anywhere. All other rules are in [`crate::lock`].

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::{Deserialize, Serialize};

#[cfg(feature = "server")]
use super::schemas;
use super::values::{TimeToLiveMs, flag, whole, whole_text};
use crate::error::Error;
use crate::types::{
    BatchRequest, CallOptions, ListRequest, LockOptions, LockRequest, MAX_SAFE_INTEGER,
    RecordState, RequestId, TableDefaults, TablesRequest, TimeToLive, Token, UnlockOptions,
    UnlockRequest,
};

/// The body of `POST /v1/lock`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct LockBody {
    /// The lock's name, 1 to 1024 bytes of UTF-8 without NUL, compared as bytes.
    #[cfg_attr(feature = "server", schema(value_type = schemas::Name, example = "jobs/nightly"))]
    pub signature: String,
    /// The owner that requests it, same limits. A name, never an authorisation.
    #[cfg_attr(feature = "server", schema(value_type = schemas::Name, example = "worker-1"))]
    pub signee: String,
    /// Priority within ±(2^53 − 1), 0 if left out; a higher level takes the lock from a lower one.
    /// If it is left out of a renewal with a token, the level stays as it was.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "whole")]
    #[cfg_attr(feature = "server",
        schema(minimum = -9_007_199_254_740_991i64, maximum = 9_007_199_254_740_991i64))]
    pub level: Option<i64>,
    /// The time until the grant expires: 1 ms to 366 days.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "whole")]
    #[cfg_attr(
        feature = "server",
        schema(minimum = 1, maximum = 31_622_400_000i64, example = 30000)
    )]
    pub duration_ms: Option<u64>,
    /// The time until the record is removed, counted from this request; never shorter than the
    /// duration. `"none"` is never. If it is left out, the table's default applies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schema(value_type = Option<schemas::TimeToLive>))]
    pub time_to_live_ms: Option<TimeToLiveMs>,
    /// Take the lock even if another owner holds it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not", deserialize_with = "flag")]
    pub force: bool,
    /// Renew only: refused with reason `lost` unless the grant is mine, has this token and is not
    /// expired. Never creates a grant.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "whole")]
    #[cfg_attr(feature = "server", schema(minimum = 1, maximum = 9_007_199_254_740_991i64))]
    pub token: Option<u64>,
    /// Distinguishes two runs of one signee; another instance is another owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schema(value_type = Option<schemas::Name>))]
    pub instance: Option<String>,
    /// The table, `default` if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schema(value_type = Option<schemas::Name>))]
    pub table: Option<String>,
    /// Makes the request safe to repeat: 32 hexadecimal digits (a random number of the client's
    /// own, with one request in flight each), a hyphen, and a decimal number that increases with
    /// each request; or a UUID, new for each request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schema(value_type = Option<schemas::RequestId>))]
    pub request_id: Option<RequestId>,
}

impl LockBody {
    /// The wire form of a request.
    pub fn new(request: LockRequest, options: &LockOptions) -> Self {
        Self {
            signature: request.signature,
            signee: request.signee,
            level: request.level,
            duration_ms: options.duration.map(to_ms_exactly),
            time_to_live_ms: options.time_to_live.map(time_to_live_ms),
            force: options.force,
            token: options.token.map(|token| token.0),
            instance: options.instance.clone(),
            table: options.table.clone(),
            request_id: options.request_id,
        }
    }

    /// The request as types of the contract; the caller fills in `options.call`.
    ///
    /// # Errors
    /// `BadRequest` if an integer is beyond what JSON carries exactly.
    pub fn into_words(self) -> Result<(LockRequest, LockOptions), Error> {
        let options = LockOptions {
            table: self.table,
            force: self.force,
            duration: duration("duration_ms", self.duration_ms)?,
            time_to_live: time_to_live(self.time_to_live_ms)?,
            token: self.token.map(Token),
            instance: self.instance,
            request_id: self.request_id,
            ..LockOptions::default()
        };
        let request = LockRequest {
            signature: self.signature,
            signee: self.signee,
            level: self.level.map(level).transpose()?,
        };
        Ok((request, options))
    }
}

/// The body of `POST /v1/unlock`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct UnlockBody {
    /// The lock's name.
    #[cfg_attr(feature = "server", schema(value_type = schemas::Name, example = "jobs/nightly"))]
    pub signature: String,
    /// The owner that releases it.
    #[cfg_attr(feature = "server", schema(value_type = schemas::Name, example = "worker-1"))]
    pub signee: String,
    /// Release only the grant with this token.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "whole")]
    #[cfg_attr(feature = "server", schema(minimum = 1, maximum = 9_007_199_254_740_991i64))]
    pub token: Option<u64>,
    /// The run of the signee that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schema(value_type = Option<schemas::Name>))]
    pub instance: Option<String>,
    /// The table, `default` if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schema(value_type = Option<schemas::Name>))]
    pub table: Option<String>,
    /// Makes the request safe to repeat; see `POST /v1/lock`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schema(value_type = Option<schemas::RequestId>))]
    pub request_id: Option<RequestId>,
}

impl UnlockBody {
    /// The wire form of a request.
    pub fn new(request: UnlockRequest, options: &UnlockOptions) -> Self {
        Self {
            signature: request.signature,
            signee: request.signee,
            token: options.token.map(|token| token.0),
            instance: options.instance.clone(),
            table: options.table.clone(),
            request_id: options.request_id,
        }
    }

    /// The request as types of the contract; the caller fills in `options.call`.
    ///
    /// # Errors
    /// `BadRequest` if an integer is beyond what JSON carries exactly.
    pub fn into_words(self) -> Result<(UnlockRequest, UnlockOptions), Error> {
        let options = UnlockOptions {
            table: self.table,
            token: self.token.map(Token),
            instance: self.instance,
            request_id: self.request_id,
            ..UnlockOptions::default()
        };
        Ok((UnlockRequest { signature: self.signature, signee: self.signee }, options))
    }
}

/// The body of `POST /v1/batch`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct BatchBody {
    /// The requests, 1000 at most; each succeeds or fails by itself, and those that are decided are
    /// decided in this order.
    #[cfg_attr(feature = "server", schema(max_items = 1000))]
    pub requests: Vec<BatchItem>,
}

/// One request of a batch: the body that it would have alone, under the name of its operation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum BatchItem {
    /// As the body of `POST /v1/lock`.
    Lock(#[serde(deserialize_with = "object")] LockBody),
    /// As the body of `POST /v1/unlock`.
    Unlock(#[serde(deserialize_with = "object")] UnlockBody),
}

impl From<BatchRequest> for BatchItem {
    fn from(request: BatchRequest) -> Self {
        match request {
            BatchRequest::Lock(request, options) => Self::Lock(LockBody::new(request, &options)),
            BatchRequest::Unlock(request, options) => {
                Self::Unlock(UnlockBody::new(request, &options))
            }
        }
    }
}

impl BatchItem {
    /// The request as types of the contract, with the options of the call that carried the batch.
    ///
    /// # Errors
    /// `BadRequest` if an integer is beyond what JSON carries exactly.
    pub fn into_words(self, call: &CallOptions) -> Result<BatchRequest, Error> {
        Ok(match self {
            Self::Lock(body) => {
                let (request, options) = body.into_words()?;
                BatchRequest::Lock(request, LockOptions { call: call.clone(), ..options })
            }
            Self::Unlock(body) => {
                let (request, options) = body.into_words()?;
                BatchRequest::Unlock(request, UnlockOptions { call: call.clone(), ..options })
            }
        })
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
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct TableBody {
    /// The table. It must be named: nothing is configured by leaving something out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schema(value_type = schemas::Name, required))]
    pub table: Option<String>,
    /// The duration of grants whose request has none; if it is left out, the service's own.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "whole")]
    #[cfg_attr(feature = "server", schema(minimum = 1, maximum = 31_622_400_000i64))]
    pub duration_ms: Option<u64>,
    /// The least time_to_live of records whose request has none; if it is left out, they are
    /// removed a day after they expired. `"none"` never removes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schema(value_type = Option<schemas::TimeToLive>))]
    pub time_to_live_ms: Option<TimeToLiveMs>,
    /// Makes the request safe to repeat; see `POST /v1/lock`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schema(value_type = Option<schemas::RequestId>))]
    pub request_id: Option<RequestId>,
}

impl TableBody {
    /// The wire form of a request.
    pub fn new(
        defaults: TableDefaults,
        table: Option<String>,
        request_id: Option<RequestId>,
    ) -> Self {
        Self {
            table,
            duration_ms: defaults.duration.map(to_ms_exactly),
            time_to_live_ms: defaults.time_to_live.map(time_to_live_ms),
            request_id,
        }
    }

    /// The table.
    ///
    /// # Errors
    /// `BadRequest` if none is named.
    pub fn named_table(&self) -> Result<String, Error> {
        let missing = || {
            Error::bad_request(
                "the table has to be named here; \"table\":\"default\" is the one that other \
                 requests mean when they name none",
            )
        };
        self.table.clone().ok_or_else(missing)
    }

    /// The defaults as a type of the contract.
    ///
    /// # Errors
    /// `BadRequest` if an integer is beyond what JSON carries exactly.
    pub fn defaults(&self) -> Result<TableDefaults, Error> {
        Ok(TableDefaults {
            duration: duration("duration_ms", self.duration_ms)?,
            time_to_live: time_to_live(self.time_to_live_ms)?,
        })
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
#[cfg_attr(feature = "server", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
pub struct CheckQuery {
    /// The lock's name.
    #[cfg_attr(feature = "server", param(value_type = schemas::Name))]
    pub signature: String,
    /// The table, `default` if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", param(value_type = schemas::Name, required = false))]
    pub table: Option<String>,
    /// Answer from the node's own copy, however old it is, instead of a linearizable read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stale: bool,
}

/// The query of `GET /v1/locks`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "server", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
pub struct ListQuery {
    /// Only signatures that begin with this.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[cfg_attr(feature = "server", param(max_length = 1024))]
    pub prefix: String,
    /// Only signatures after this one, in byte order, exclusive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", param(value_type = String, required = false, max_length = 1024))]
    pub after: Option<String>,
    /// The maximum number of records: 1 to 1000, 100 if left out.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "whole_text")]
    #[cfg_attr(feature = "server",
        param(value_type = u32, required = false, minimum = 1, maximum = 1000, default = 100))]
    pub limit: Option<u32>,
    /// Only locks that are `held`, or only `expired` ones; both if left out. Pages are shorter
    /// then, and some may be empty: `next` is present if more follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", param(value_type = schemas::RecordState, required = false))]
    pub state: Option<RecordState>,
    /// The table, `default` if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", param(value_type = schemas::Name, required = false))]
    pub table: Option<String>,
    /// Answer from the node's own copy, however old it is, instead of a linearizable read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stale: bool,
}

impl From<&ListQuery> for ListRequest {
    fn from(query: &ListQuery) -> Self {
        Self {
            prefix: query.prefix.clone(),
            after: query.after.clone(),
            limit: query.limit.unwrap_or(Self::DEFAULT_LIMIT),
            state: query.state,
        }
    }
}

/// The query of `GET /v1/tables`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "server", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
pub struct TablesQuery {
    /// Only tables after this one, in byte order, exclusive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", param(value_type = String, required = false, max_length = 1024))]
    pub after: Option<String>,
    /// The maximum number of tables: 1 to 1000, 100 if left out.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "whole_text")]
    #[cfg_attr(feature = "server",
        param(value_type = u32, required = false, minimum = 1, maximum = 1000, default = 100))]
    pub limit: Option<u32>,
    /// Answer from the node's own copy, however old it is, instead of a linearizable read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stale: bool,
}

impl From<&TablesQuery> for TablesRequest {
    fn from(query: &TablesQuery) -> Self {
        Self { after: query.after.clone(), limit: query.limit.unwrap_or(Self::DEFAULT_LIMIT) }
    }
}

/// The query of `DELETE /v1/table`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "server", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
pub struct TableQuery {
    /// The table. It must be named: nothing is deleted by leaving something out.
    #[cfg_attr(feature = "server", param(value_type = schemas::Name))]
    pub table: String,
    /// Makes the request safe to repeat; see `POST /v1/lock`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", param(value_type = schemas::RequestId, required = false))]
    pub request_id: Option<RequestId>,
}

/// A requested duration in milliseconds. Less than a millisecond becomes 0, and a duration too long
/// for JSON stays too long, so that the service refuses both as it does for every client.
fn to_ms_exactly(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn duration(field: &str, ms: Option<u64>) -> Result<Option<Duration>, Error> {
    match ms {
        Some(ms) if ms > MAX_SAFE_INTEGER => Err(beyond(field, "0 to 2^53 - 1")),
        _ => Ok(ms.map(Duration::from_millis)),
    }
}

fn time_to_live_ms(time_to_live: TimeToLive) -> TimeToLiveMs {
    match time_to_live {
        TimeToLive::For(length) => TimeToLiveMs::Ms(to_ms_exactly(length)),
        TimeToLive::Never => TimeToLiveMs::Never,
    }
}

fn time_to_live(value: Option<TimeToLiveMs>) -> Result<Option<TimeToLive>, Error> {
    match value {
        None => Ok(None),
        Some(TimeToLiveMs::Never) => Ok(Some(TimeToLive::Never)),
        Some(TimeToLiveMs::Ms(ms)) => {
            Ok(duration("time_to_live_ms", Some(ms))?.map(TimeToLive::For))
        }
    }
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
