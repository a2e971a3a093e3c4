//! The checks before anything is proposed, and the words of their refusals.
//!
//! Every function here is pure and does not read the state, so that the node that receives a
//! request can refuse it at once and the leader can check again. The limits hold for *input*: apply
//! and the decoders never look at them, so a value that was once accepted stays readable and
//! removable when a limit changes.

use crate::error::Error;
use crate::limits::{self, Limit, MAX_AUDIT_BYTES};
use crate::lock::query::{Query, Subject};
use crate::lock::{Command, Decision, Keep, LockCommand, Operation, TableCommand, UnlockCommand};
use crate::types::{MAX_NAME_BYTES, Token};

/// The maximum size of a valid command in a proposal, in bytes: four names, actor and cause,
/// and the fields of fixed size.
pub const MAX_COMMAND_BYTES: usize = 4 * MAX_NAME_BYTES + 2 * MAX_AUDIT_BYTES + 128;

impl Command {
    /// Checks everything that can be checked without the state.
    ///
    /// # Errors
    /// `BadRequest`, saying what is wrong and what is allowed. Commands that only a leader makes are
    /// refused, too.
    pub fn validate(&self) -> Result<(), Error> {
        match &self.operation {
            Operation::Lock(command) => {
                let LockCommand { table, signature, signee, .. } = &**command;
                let LockCommand { instance, duration_ms, time_to_live, token, .. } = &**command;
                owner(table, signature, signee, instance.as_deref())?;
                validate_token(*token)?;
                lengths(*duration_ms, *time_to_live)?;
            }
            Operation::Unlock(command) => {
                let UnlockCommand { table, signature, signee, instance, token } = &**command;
                owner(table, signature, signee, instance.as_deref())?;
                validate_token(*token)?;
            }
            Operation::ConfigureTable(command) => {
                let TableCommand { table, duration_ms, time_to_live } = &**command;
                name(limits::TABLE, table)?;
                lengths(*duration_ms, *time_to_live)?;
            }
            Operation::DeleteTable { table } => name(limits::TABLE, table)?,
            Operation::Advance | Operation::RaiseFeatureLevel(_) => {
                return Err(Error::bad_request("only a leader makes this command"));
            }
        }
        audit_text("actor", self.actor.as_deref())?;
        audit_text("cause", self.cause.as_deref())
    }
}

/// The errors of the invalid commands of a call; the others are decided.
pub struct Invalid(Vec<Option<Error>>);

impl Invalid {
    /// Removes the invalid commands.
    pub fn remove_from(commands: &mut Vec<Command>) -> Self {
        let errors: Vec<_> = commands.iter().map(|command| command.validate().err()).collect();
        if errors.iter().all(Option::is_none) {
            return Self(Vec::new());
        }
        let mut error = errors.iter();
        commands.retain(|_| error.next().is_some_and(Option::is_none));
        Self(errors)
    }

    /// The answers to all commands, from those to the valid ones.
    ///
    /// # Panics
    /// If there is not one answer for each valid command.
    pub fn merge(self, decided: Vec<Result<Decision, Error>>) -> Vec<Result<Decision, Error>> {
        if self.0.is_empty() {
            return decided;
        }
        let mut decided = decided.into_iter();
        let mut next = || decided.next().expect("each valid command has an answer");
        self.0.into_iter().map(|error| error.map_or_else(&mut next, Err)).collect()
    }
}

impl Query {
    /// Checks everything that can be checked without the state.
    ///
    /// # Errors
    /// `BadRequest`, saying what is wrong and what is allowed.
    pub fn validate(&self) -> Result<(), Error> {
        match &self.subject {
            Subject::Lock { table, signature } => {
                name(limits::SIGNATURE, signature)?;
                name(limits::TABLE, table)
            }
            Subject::Locks { table, page } => {
                page_limit(page.limit)?;
                // Both are compared with names but need not be names: the empty text is allowed.
                name_text(limits::PREFIX, &page.prefix)?;
                name_text(limits::AFTER, page.after.as_deref().unwrap_or_default())?;
                name(limits::TABLE, table)
            }
            Subject::Tables(page) => {
                page_limit(page.limit)?;
                name_text(limits::AFTER, page.after.as_deref().unwrap_or_default())
            }
        }
    }
}

fn owner(table: &str, signature: &str, signee: &str, instance: Option<&str>) -> Result<(), Error> {
    name(limits::TABLE, table)?;
    name(limits::SIGNATURE, signature)?;
    name(limits::SIGNEE, signee)?;
    instance.map_or(Ok(()), |instance| name(limits::INSTANCE, instance))
}

fn lengths(duration_ms: Option<u64>, time_to_live: Option<Keep>) -> Result<(), Error> {
    if let Some(ms) = duration_ms {
        length(limits::DURATION, ms, " (366 days)")?;
    }
    let Some(Keep::Ms(ms)) = time_to_live else { return Ok(()) };
    length(limits::TIME_TO_LIVE, ms, "")?;
    match duration_ms {
        Some(duration_ms) if ms < duration_ms => Err(Error::bad_request(shorter(ms, duration_ms))),
        Some(_) | None => Ok(()),
    }
}

fn length(limit: Limit, ms: u64, most_in_words: &str) -> Result<(), Error> {
    let Limit { name: what, smallest, largest, .. } = limit;
    if ms == 0 {
        return Err(Error::bad_request(format!("the {what} is 0 ms; it must be at least 1 ms")));
    }
    if !limit.allows(ms.into()) {
        return Err(Error::bad_request(format!(
            "the {what} is {ms} ms; it must be {smallest} ms to {largest} ms{most_in_words}"
        )));
    }
    Ok(())
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

fn audit_text(what: &str, text: Option<&str>) -> Result<(), Error> {
    match text {
        Some(text) if text.len() > MAX_AUDIT_BYTES => Err(Error::bad_request(format!(
            "the {what} has {} bytes; at most {MAX_AUDIT_BYTES} are allowed",
            text.len()
        ))),
        Some(_) | None => Ok(()),
    }
}

fn validate_token(token: Option<Token>) -> Result<(), Error> {
    let Limit { smallest, largest, .. } = limits::TOKEN;
    match token {
        Some(Token(value)) if !limits::TOKEN.allows(value.into()) => Err(Error::bad_request(
            format!("the token is {value}; it must be {smallest} to {largest}"),
        )),
        Some(_) | None => Ok(()),
    }
}

/// The reason of a refusal that is the same at the edge and at apply.
pub(super) fn shorter(time_to_live_ms: u64, duration_ms: u64) -> String {
    format!(
        "the time_to_live is {time_to_live_ms} ms; it must not be shorter than the duration, \
         {duration_ms} ms"
    )
}
