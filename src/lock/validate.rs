//! The checks before anything is proposed, and the words of their refusals.
//!
//! Every function here is pure and does not read the state, so that the node that receives a
//! request can refuse it at once and the leader can check again. The limits hold for *input*: apply
//! and the decoders never look at them, so a value that was once accepted stays readable and
//! removable when a limit changes.

use std::time::Duration;

use crate::error::Error;
use crate::limits::{self, Limit, MAX_AUDIT_BYTES};
use crate::lock::{Command, Keep, LockCommand, Operation, TableCommand, UnlockCommand};
use crate::types::{
    CallOptions, DEFAULT_TABLE, ListRequest, LockOptions, LockRequest, MAX_NAME_BYTES, ReadOptions,
    RequestId, TableDefaults, TableOptions, TablesRequest, TimeToLive, Token, UnlockOptions,
    UnlockRequest,
};

/// The maximum size of a command made here in a proposal, in bytes: four names, actor and cause,
/// and the fields of fixed size.
#[cfg_attr(not(feature = "server"), allow(dead_code, reason = "a log is of servers"))]
pub(crate) const MAX_COMMAND_BYTES: usize = 4 * MAX_NAME_BYTES + 2 * MAX_AUDIT_BYTES + 128;

/// The command of a lock request. Options that are left out get the table's defaults at apply.
///
/// # Errors
/// `BadRequest`, saying what is wrong and what is allowed.
pub fn lock_command(request: &LockRequest, options: &LockOptions) -> Result<Command, Error> {
    let table = table_name(options.table.as_ref())?;
    name(limits::SIGNATURE, &request.signature)?;
    name(limits::SIGNEE, &request.signee)?;
    optional_name(limits::INSTANCE, options.instance.as_ref())?;
    token(options.token)?;
    let duration_ms = options.duration.map(|value| duration("duration", value)).transpose()?;
    let time_to_live = options.time_to_live.map(keep).transpose()?;
    not_shorter(time_to_live, duration_ms)?;
    let operation = Operation::Lock(Box::new(LockCommand {
        table: table.into(),
        signature: request.signature.as_str().into(),
        signee: request.signee.as_str().into(),
        instance: options.instance.as_deref().map(Into::into),
        level: request.level,
        force: options.force,
        duration_ms,
        time_to_live,
        token: options.token,
    }));
    command(options.request_id, &options.call, operation)
}

/// The command of an unlock request.
///
/// # Errors
/// `BadRequest`, saying what is wrong and what is allowed.
pub fn unlock_command(request: &UnlockRequest, options: &UnlockOptions) -> Result<Command, Error> {
    let table = table_name(options.table.as_ref())?;
    name(limits::SIGNATURE, &request.signature)?;
    name(limits::SIGNEE, &request.signee)?;
    optional_name(limits::INSTANCE, options.instance.as_ref())?;
    token(options.token)?;
    let operation = Operation::Unlock(Box::new(UnlockCommand {
        table: table.into(),
        signature: request.signature.as_str().into(),
        signee: request.signee.as_str().into(),
        instance: options.instance.as_deref().map(Into::into),
        token: options.token,
    }));
    command(options.request_id, &options.call, operation)
}

/// The command that sets a table's defaults.
///
/// # Errors
/// `BadRequest`, saying what is wrong and what is allowed.
pub fn configure_table_command(
    defaults: &TableDefaults,
    options: &TableOptions,
) -> Result<Command, Error> {
    let table = table_name(options.table.as_ref())?;
    let duration_ms = defaults.duration.map(|value| duration("duration", value)).transpose()?;
    let time_to_live = defaults.time_to_live.map(keep).transpose()?;
    not_shorter(time_to_live, duration_ms)?;
    let operation = Operation::ConfigureTable(Box::new(TableCommand {
        table: table.into(),
        duration_ms,
        time_to_live,
    }));
    command(options.request_id, &options.call, operation)
}

/// The command that deletes a table whole.
///
/// # Errors
/// `BadRequest`, saying what is wrong and what is allowed.
pub fn delete_table_command(options: &TableOptions) -> Result<Command, Error> {
    let table = table_name(options.table.as_ref())?.into();
    command(options.request_id, &options.call, Operation::DeleteTable { table })
}

/// Validates the arguments of a check; returns the table.
///
/// # Errors
/// `BadRequest`, saying what is wrong and what is allowed.
pub fn validate_read<'a>(signature: &str, options: &'a ReadOptions) -> Result<&'a str, Error> {
    name(limits::SIGNATURE, signature)?;
    table_name(options.table.as_ref())
}

/// Validates the arguments of a list; returns the table.
///
/// # Errors
/// `BadRequest`, saying what is wrong and what is allowed.
pub fn validate_list<'a>(
    request: &ListRequest,
    options: &'a ReadOptions,
) -> Result<&'a str, Error> {
    page_limit(request.limit)?;
    // Both are compared with names but need not be names: the empty text is allowed.
    name_text(limits::PREFIX, &request.prefix)?;
    name_text(limits::AFTER, request.after.as_deref().unwrap_or_default())?;
    table_name(options.table.as_ref())
}

/// Validates the request for a page of the tables.
///
/// # Errors
/// `BadRequest`, saying what is wrong and what is allowed.
pub fn validate_tables(request: &TablesRequest) -> Result<(), Error> {
    page_limit(request.limit)?;
    name_text(limits::AFTER, request.after.as_deref().unwrap_or_default())
}

fn page_limit(limit: u32) -> Result<(), Error> {
    let Limit { smallest, largest, .. } = limits::PAGE;
    if !limits::PAGE.allows(limit.into()) {
        return Err(Error::bad_request(format!(
            "the limit is {limit}; it must be {smallest} to {largest}"
        )));
    }
    Ok(())
}

/// Validates the duration of a grant.
///
/// # Errors
/// `BadRequest`, saying what is wrong and what is allowed.
pub fn validate_duration(value: Duration) -> Result<(), Error> {
    duration("duration", value).map(drop)
}

fn command(
    request_id: Option<RequestId>,
    call: &CallOptions,
    operation: Operation,
) -> Result<Command, Error> {
    let actor = audit_text("actor", call.actor.as_deref())?;
    let cause = audit_text("cause", call.cause.as_deref())?;
    Ok(Command { request_id, actor, cause, operation })
}

fn table_name(table: Option<&String>) -> Result<&str, Error> {
    let table = table.map_or(DEFAULT_TABLE, String::as_str);
    name(limits::TABLE, table)?;
    Ok(table)
}

fn optional_name(limit: Limit, text: Option<&String>) -> Result<(), Error> {
    text.map_or(Ok(()), |text| name(limit, text))
}

fn name(limit: Limit, text: &str) -> Result<(), Error> {
    let Limit { name: what, smallest, largest, .. } = limit;
    if text.is_empty() {
        return Err(Error::bad_request(format!(
            "the {what} is empty; it must have {smallest} to {largest} bytes"
        )));
    }
    name_text(limit, text)
}

fn name_text(limit: Limit, text: &str) -> Result<(), Error> {
    let what = limit.name;
    if text.len() > limit.most() {
        return Err(Error::bad_request(format!(
            "the {what} has {} bytes; at most {} are allowed",
            text.len(),
            limit.largest
        )));
    }
    if text.contains('\0') {
        return Err(Error::bad_request(format!("the {what} contains a NUL byte")));
    }
    Ok(())
}

fn audit_text(what: &str, text: Option<&str>) -> Result<Option<Box<str>>, Error> {
    match text {
        Some(text) if text.len() > MAX_AUDIT_BYTES => Err(Error::bad_request(format!(
            "the {what} has {} bytes; at most {MAX_AUDIT_BYTES} are allowed",
            text.len()
        ))),
        Some(text) => Ok(Some(text.into())),
        None => Ok(None),
    }
}

fn token(token: Option<Token>) -> Result<(), Error> {
    let Limit { smallest, largest, .. } = limits::TOKEN;
    match token {
        Some(Token(value)) if !limits::TOKEN.allows(value.into()) => Err(Error::bad_request(
            format!("the token is {value}; it must be {smallest} to {largest}"),
        )),
        Some(_) | None => Ok(()),
    }
}

fn duration(what: &str, value: Duration) -> Result<u64, Error> {
    let ms = whole_ms(what, value)?;
    let Limit { smallest, largest, .. } = limits::DURATION;
    if !limits::DURATION.allows(ms.into()) {
        return Err(Error::bad_request(format!(
            "the {what} is {ms} ms; it must be {smallest} ms to {largest} ms (366 days)"
        )));
    }
    Ok(ms)
}

fn keep(time_to_live: TimeToLive) -> Result<Keep, Error> {
    let TimeToLive::For(value) = time_to_live else { return Ok(Keep::ForEver) };
    let ms = whole_ms("time_to_live", value)?;
    let Limit { smallest, largest, .. } = limits::TIME_TO_LIVE;
    if !limits::TIME_TO_LIVE.allows(ms.into()) {
        return Err(Error::bad_request(format!(
            "the time_to_live is {ms} ms; it must be {smallest} ms to {largest} ms"
        )));
    }
    Ok(Keep::Ms(ms))
}

fn whole_ms(what: &str, value: Duration) -> Result<u64, Error> {
    if value.is_zero() {
        return Err(Error::bad_request(format!("the {what} is 0 ms; it must be at least 1 ms")));
    }
    if !value.subsec_nanos().is_multiple_of(1_000_000) {
        return Err(Error::bad_request(format!(
            "the {what} is {} ns; it must be a whole number of milliseconds",
            value.as_nanos()
        )));
    }
    // More than u64 milliseconds is above any limit; the caller refuses it with its own.
    Ok(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
}

fn not_shorter(time_to_live: Option<Keep>, duration_ms: Option<u64>) -> Result<(), Error> {
    match (time_to_live, duration_ms) {
        (Some(Keep::Ms(time_to_live)), Some(duration)) if time_to_live < duration => {
            Err(Error::bad_request(shorter(time_to_live, duration)))
        }
        _ => Ok(()),
    }
}

/// The reason of a refusal that is the same at the edge and at apply.
pub(super) fn shorter(time_to_live_ms: u64, duration_ms: u64) -> String {
    format!(
        "the time_to_live is {time_to_live_ms} ms; it must not be shorter than the duration, \
         {duration_ms} ms"
    )
}
