//! What is refused before anything is proposed, and in which words.
//!
//! Every function here is pure and asks nothing of the state, so that the node a client happens to
//! ask can refuse at once and the leader can check again. The limits hold for what comes *in*:
//! apply and the decoders never look at them, so whatever was once accepted stays readable and
//! removable when a limit changes.

use std::time::Duration;

use crate::error::Error;
use crate::lock::{Command, LockCommand, Operation, TableCommand, UnlockCommand};
use crate::types::{
    CallOptions, DEFAULT_TABLE, ListRequest, LockOptions, LockRequest, MAX_DURATION,
    MAX_NAME_BYTES, MAX_SAFE_INTEGER, ReadOptions, RequestId, TableDefaults, TableOptions,
    TablesRequest, Token, UnlockOptions, UnlockRequest,
};

/// The longest `actor` or `cause`, in bytes: they travel in every log entry.
const MAX_AUDIT_BYTES: usize = 1024;

/// The most bytes that a command made here takes in a proposal: four names, actor and cause, and
/// what has a fixed size.
pub(crate) const MAX_COMMAND_BYTES: usize = 4 * MAX_NAME_BYTES + 2 * MAX_AUDIT_BYTES + 128;

/// The command of a lock request. Left-out options are left to the table, at apply.
///
/// # Errors
/// `BadRequest`, saying what is wrong and what is allowed.
pub fn lock_command(request: &LockRequest, options: &LockOptions) -> Result<Command, Error> {
    let table = table_name(options.table.as_ref())?;
    name("signature", &request.signature)?;
    name("signee", &request.signee)?;
    optional_name("instance", options.instance.as_ref())?;
    token(options.token)?;
    let duration_ms = options.duration.map(|value| duration("duration", value)).transpose()?;
    let time_to_live_ms = options.time_to_live.map(time_to_live).transpose()?;
    not_shorter(time_to_live_ms, duration_ms)?;
    let operation = Operation::Lock(Box::new(LockCommand {
        table: table.into(),
        signature: request.signature.as_str().into(),
        signee: request.signee.as_str().into(),
        instance: options.instance.as_deref().map(Into::into),
        level: request.level,
        force: options.force,
        duration_ms,
        time_to_live_ms,
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
    name("signature", &request.signature)?;
    name("signee", &request.signee)?;
    optional_name("instance", options.instance.as_ref())?;
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
    let time_to_live_ms = defaults.time_to_live.map(time_to_live).transpose()?;
    not_shorter(time_to_live_ms, duration_ms)?;
    let operation = Operation::ConfigureTable(Box::new(TableCommand {
        table: table.into(),
        duration_ms,
        time_to_live_ms,
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

/// Checks what a check asks for; returns the table.
///
/// # Errors
/// `BadRequest`, saying what is wrong and what is allowed.
pub fn validate_read<'a>(signature: &str, options: &'a ReadOptions) -> Result<&'a str, Error> {
    name("signature", signature)?;
    table_name(options.table.as_ref())
}

/// Checks what a list asks for; returns the table.
///
/// # Errors
/// `BadRequest`, saying what is wrong and what is allowed.
pub fn validate_list<'a>(
    request: &ListRequest,
    options: &'a ReadOptions,
) -> Result<&'a str, Error> {
    page_limit(request.limit, ListRequest::MAX_LIMIT)?;
    // Both are compared with names, they need not be one: the empty text is allowed.
    name_text("prefix", &request.prefix)?;
    name_text("after", request.after.as_deref().unwrap_or_default())?;
    table_name(options.table.as_ref())
}

/// Checks which page of the tables is asked for.
///
/// # Errors
/// `BadRequest`, saying what is wrong and what is allowed.
pub fn validate_tables(request: &TablesRequest) -> Result<(), Error> {
    page_limit(request.limit, TablesRequest::MAX_LIMIT)?;
    name_text("after", request.after.as_deref().unwrap_or_default())
}

fn page_limit(limit: u32, most: u32) -> Result<(), Error> {
    if limit == 0 || limit > most {
        return Err(Error::bad_request(format!("the limit is {limit}; it must be 1 to {most}")));
    }
    Ok(())
}

/// Checks the duration of a grant.
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
    name("table", table)?;
    Ok(table)
}

fn optional_name(what: &str, text: Option<&String>) -> Result<(), Error> {
    text.map_or(Ok(()), |text| name(what, text))
}

fn name(what: &str, text: &str) -> Result<(), Error> {
    if text.is_empty() {
        return Err(Error::bad_request(format!(
            "the {what} is empty; it must have 1 to {MAX_NAME_BYTES} bytes"
        )));
    }
    name_text(what, text)
}

fn name_text(what: &str, text: &str) -> Result<(), Error> {
    if text.len() > MAX_NAME_BYTES {
        return Err(Error::bad_request(format!(
            "the {what} has {} bytes; at most {MAX_NAME_BYTES} are allowed",
            text.len()
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
    match token {
        Some(Token(value)) if value == 0 || value > MAX_SAFE_INTEGER => Err(Error::bad_request(
            format!("the token is {value}; it must be 1 to {MAX_SAFE_INTEGER}"),
        )),
        Some(_) | None => Ok(()),
    }
}

fn duration(what: &str, value: Duration) -> Result<u64, Error> {
    let ms = whole_ms(what, value)?;
    if value > MAX_DURATION {
        return Err(Error::bad_request(format!(
            "the {what} is {ms} ms; it must be 1 ms to {} ms (366 days)",
            MAX_DURATION.as_millis()
        )));
    }
    Ok(ms)
}

fn time_to_live(value: Duration) -> Result<u64, Error> {
    let ms = whole_ms("time_to_live", value)?;
    if ms > MAX_SAFE_INTEGER {
        return Err(Error::bad_request(format!(
            "the time_to_live is {ms} ms; it must be 1 ms to {MAX_SAFE_INTEGER} ms"
        )));
    }
    Ok(ms)
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
    // More than u64 milliseconds is more than any limit; the caller refuses it with its own.
    Ok(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
}

fn not_shorter(time_to_live_ms: Option<u64>, duration_ms: Option<u64>) -> Result<(), Error> {
    match (time_to_live_ms, duration_ms) {
        (Some(time_to_live), Some(duration)) if time_to_live < duration => {
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
