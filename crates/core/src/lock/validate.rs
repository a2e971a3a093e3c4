//! The checks before anything is proposed, and the words of their refusals.
//!
//! Every function here is pure and does not read the state, so that the node that receives a
//! request can refuse it at once and the leader can check again. The limits hold for *input*: apply
//! and the decoders never look at them, so a value that was once accepted stays readable and
//! removable when a limit changes.

use crate::error::Error;
use crate::limits::{
    self, Limit, MAX_AUDIT_BYTES, MAX_GROUPS, MAX_GROUPS_BYTES, MAX_IDENTITY_BYTES,
};
use crate::lock::query::{Query, Subject};
use crate::lock::{
    Command, Decision, Keep, LockCommand, Operation, SessionCommand, TableCommand, UnlockCommand,
};
use crate::types::{MAX_NAME_BYTES, Mode, Token};

/// The maximum size of a valid command in a proposal, in bytes: four names, the principal
/// with its groups, the cause, and the fields of fixed size.
pub const MAX_COMMAND_BYTES: usize =
    4 * MAX_NAME_BYTES + MAX_IDENTITY_BYTES + PRINCIPAL_GROUPS + MAX_AUDIT_BYTES + 128;

/// The bytes of the groups of a principal, each behind its length.
const PRINCIPAL_GROUPS: usize = MAX_GROUPS_BYTES + 2 * MAX_GROUPS;

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
                if command.session.is_some() && signee.is_empty() {
                    // It is the session's.
                    owner(table, signature, "-", instance.as_deref())?;
                } else {
                    owner(table, signature, signee, instance.as_deref())?;
                }
                validate_token(*token)?;
                lengths(*duration_ms, *time_to_live)?;
                turn(command)?;
            }
            Operation::Unlock(command) => {
                let UnlockCommand { table, signature, signee, instance, token, .. } = &**command;
                owner(table, signature, signee, instance.as_deref())?;
                validate_token(*token)?;
                forced(command)?;
            }
            Operation::ConfigureTable(command) => {
                let TableCommand { table, duration_ms, time_to_live, .. } = &**command;
                name(limits::TABLE, table)?;
                lengths(*duration_ms, *time_to_live)?;
                limited(limits::LOCK_DELAY, command.lock_delay_ms)?;
                limited(limits::MAX_HOLD, command.max_hold_ms)?;
            }
            Operation::OpenSession(command) => {
                let SessionCommand { id: _, ttl_ms, signee, instance } = &**command;
                name(limits::SIGNEE, signee)?;
                if let Some(instance) = instance {
                    name(limits::INSTANCE, instance)?;
                }
                limited(limits::TTL, Some(*ttl_ms))?;
            }
            Operation::KeepAlive(sessions) => {
                if sessions.is_empty() || sessions.len() > limits::MAX_KEPT_ALIVE {
                    return Err(Error::bad_request(format!(
                        "{} sessions are to be kept alive; it must be 1 to {}",
                        sessions.len(),
                        limits::MAX_KEPT_ALIVE
                    )));
                }
            }
            Operation::CloseSession(_) => {}
            Operation::Leave(command) => {
                name(limits::TABLE, &command.table)?;
                name(limits::SIGNATURE, &command.signature)?;
            }
            Operation::SetLimit(command) => {
                name(limits::TABLE, &command.table)?;
                name(limits::SIGNATURE, &command.signature)?;
                limited(LIMIT_FIELD, Some(command.limit.into()))?;
            }
            Operation::DeleteTable { table } => name(limits::TABLE, table)?,
            Operation::Access(change) => {
                if self.request_id.is_some() {
                    return Err(Error::bad_request(
                        "a change of rules or access tokens has no request_id: it may be repeated \
                         as it is",
                    ));
                }
                change.validate()?;
            }
            Operation::Advance | Operation::RaiseFeatureLevel(_) => {
                return Err(Error::bad_request("only a leader makes this command"));
            }
        }
        if let Some(principal) = &self.principal {
            principal.validate()?;
        }
        audit_text("cause", self.cause.as_deref())
    }
}

/// The errors of the invalid commands of a call; the others are decided.
pub struct Invalid(Vec<Option<Error>>);

impl Invalid {
    /// Removes the invalid commands.
    pub fn remove_from(commands: &mut Vec<Command>) -> Self {
        Self::remove_by(commands, Command::validate)
    }

    /// Removes the commands for which `judge` has an error.
    pub fn remove_by(
        commands: &mut Vec<Command>,
        judge: impl Fn(&Command) -> Result<(), Error>,
    ) -> Self {
        let errors: Vec<_> = commands.iter().map(|command| judge(command).err()).collect();
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
        if let Some(principal) = &self.principal {
            principal.validate()?;
        }
        match &self.subject {
            Subject::Lock { table, signature, .. } | Subject::Verify { table, signature, .. } => {
                name(limits::SIGNATURE, signature)?;
                name(limits::TABLE, table)
            }
            Subject::SessionLocks(page) => page_limit(page.limit),
            Subject::Deadlocks => Ok(()),
            Subject::Access(question) => question.validate(),
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

/// Checks the fields by which a request waits, shares or lives in a session.
fn turn(command: &LockCommand) -> Result<(), Error> {
    let waits = command.wait_ms > 0;
    let either = |one: &str, other: &str| {
        Err(Error::bad_request(format!("{one} and {other} exclude each other")))
    };
    if waits && command.token.is_some() {
        return either("token", "wait_ms");
    }
    if waits && command.force {
        return either("force", "wait_ms");
    }
    if command.session.is_some() && command.duration_ms.is_some() {
        return either("session", "duration");
    }
    if command.queued && !waits {
        return Err(Error::bad_request("a request that is to be queued has a wait_ms"));
    }
    if command.limit.is_some() && command.mode != Some(Mode::Permits) {
        return Err(Error::bad_request("only a request in mode permits has a limit"));
    }
    limited(LIMIT_FIELD, command.limit.map(u64::from))?;
    limited(limits::LOCK_DELAY, command.lock_delay_ms)?;
    let longest = if command.session.is_some() { SESSION_WAIT_FIELD } else { limits::WAIT };
    limited(longest, Some(command.wait_ms))
}

/// The limits of fields whose names other limits have, too: messages name the field.
const LIMIT_FIELD: Limit = Limit { name: "limit", ..limits::PERMITS };
const SESSION_WAIT_FIELD: Limit = Limit { name: "wait", ..limits::SESSION_WAIT };

/// Checks an operator's release.
fn forced(command: &UnlockCommand) -> Result<(), Error> {
    match (command.force, command.token, command.place) {
        (true, Some(_), None) | (true, None, Some(_)) | (false, _, None) => Ok(()),
        (true, _, _) => {
            Err(Error::bad_request("a release by force names a token or a place, and not both"))
        }
        (false, _, Some(_)) => Err(Error::bad_request("a place is released by force only")),
    }
}

fn limited(limit: Limit, value: Option<u64>) -> Result<(), Error> {
    let Limit { name: what, smallest, largest, unit, .. } = limit;
    let unit = if unit == limits::Unit::Milliseconds { " ms" } else { "" };
    match value {
        Some(value) if !limit.allows(value.into()) => Err(Error::bad_request(format!(
            "the {what} is {value}{unit}; it must be {smallest}{unit} to {largest}{unit}"
        ))),
        Some(_) | None => Ok(()),
    }
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
