//! Proposals as bytes: the contents of a log entry and of messages between nodes.
//!
//! A version, the stamp, and each command behind its length: flags for the optional fields, a tag
//! for the operation, then its fields. A tag or a flag is never reused with another meaning. An
//! older program refuses to read the additions of a newer one; the feature level ensures that it
//! never has to.

use crate::codec::{self, DecodeError, Reader, flags, put_bytes, put_i64, put_str, put_u64};
use crate::lock::{
    ClusterTime, Command, Keep, LockCommand, Operation, Proposal, Stamp, TableCommand,
    UnlockCommand,
};
use crate::types::{RequestId, Token};

/// The version of the whole encoding.
const VERSION: u8 = 1;

const LOCK: u8 = 1;
const UNLOCK: u8 = 2;
const ADVANCE: u8 = 3;
const CONFIGURE_TABLE: u8 = 4;
const DELETE_TABLE: u8 = 5;
const RAISE_FEATURE_LEVEL: u8 = 6;

impl Proposal {
    /// The proposal as bytes: tagged, versioned, length-prefixed.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        put_u64(&mut out, self.stamp.term);
        put_u64(&mut out, self.stamp.time.0);
        put_commands(&mut out, &self.commands);
        out
    }

    /// Reads what [`Proposal::encode`] wrote, in this or an earlier version.
    ///
    /// # Errors
    /// If the bytes are not a proposal. It never panics, and never allocates more than a small
    /// multiple of the bytes given.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes, "a proposal");
        reader.version(VERSION)?;
        let stamp = Stamp { term: reader.u64()?, time: ClusterTime(reader.u64()?) };
        let commands = read_commands(&mut reader)?;
        reader.end()?;
        Ok(Self { stamp, commands })
    }
}

impl Operation {
    /// The digest by which the bodies of two requests are compared. Actor, cause and request id are
    /// not part of it.
    pub(super) fn digest(&self) -> u128 {
        let mut bytes = Vec::with_capacity(128);
        put_operation(&mut bytes, self);
        codec::digest(&bytes)
    }
}

/// Appends commands: their number, and each behind its length.
pub fn put_commands(out: &mut Vec<u8>, commands: &[Command]) {
    put_u64(out, commands.len() as u64);
    let mut scratch = Vec::new();
    for command in commands {
        scratch.clear();
        put_command(&mut scratch, command);
        put_bytes(out, &scratch);
    }
}

/// Reads the encoding of [`put_commands`].
///
/// # Errors
/// If the bytes are no commands.
pub fn read_commands(reader: &mut Reader<'_>) -> Result<Vec<Command>, DecodeError> {
    // The count is not trusted with an allocation: the vector grows with the commands that are
    // there.
    let count = reader.u64()?;
    let mut commands = Vec::new();
    for _ in 0..count {
        let mut part = Reader::new(reader.bytes()?, "a command");
        commands.push(read_command(&mut part)?);
        part.end()?;
    }
    Ok(commands)
}

fn put_command(out: &mut Vec<u8>, command: &Command) {
    let Command { request_id, actor, cause, operation } = command;
    out.push(flags([request_id.is_some(), actor.is_some(), cause.is_some()]));
    if let Some(RequestId { lane, seq }) = request_id {
        out.extend_from_slice(&lane.to_be_bytes());
        put_u64(out, *seq);
    }
    for text in [actor, cause].into_iter().flatten() {
        put_str(out, text);
    }
    put_operation(out, operation);
}

fn read_command(reader: &mut Reader<'_>) -> Result<Command, DecodeError> {
    let [has_id, has_actor, has_cause] = reader.flags()?;
    let request_id = if has_id {
        let lane = u128::from_be_bytes(reader.array()?);
        Some(RequestId { lane, seq: reader.u64()? })
    } else {
        None
    };
    let actor = optional_text(reader, has_actor)?;
    let cause = optional_text(reader, has_cause)?;
    let operation = read_operation(reader)?;
    Ok(Command { request_id, actor, cause, operation })
}

fn put_operation(out: &mut Vec<u8>, operation: &Operation) {
    match operation {
        Operation::Lock(command) => {
            out.push(LOCK);
            put_lock(out, command);
        }
        Operation::Unlock(command) => {
            out.push(UNLOCK);
            put_unlock(out, command);
        }
        Operation::Advance => out.push(ADVANCE),
        Operation::ConfigureTable(command) => {
            out.push(CONFIGURE_TABLE);
            put_table(out, command);
        }
        Operation::DeleteTable { table } => {
            out.push(DELETE_TABLE);
            put_str(out, table);
        }
        Operation::RaiseFeatureLevel(level) => {
            out.push(RAISE_FEATURE_LEVEL);
            put_u64(out, u64::from(*level));
        }
    }
}

fn read_operation(reader: &mut Reader<'_>) -> Result<Operation, DecodeError> {
    Ok(match reader.u8()? {
        LOCK => Operation::Lock(Box::new(read_lock(reader)?)),
        UNLOCK => Operation::Unlock(Box::new(read_unlock(reader)?)),
        ADVANCE => Operation::Advance,
        CONFIGURE_TABLE => Operation::ConfigureTable(Box::new(read_table(reader)?)),
        DELETE_TABLE => Operation::DeleteTable { table: reader.str()?.into() },
        RAISE_FEATURE_LEVEL => Operation::RaiseFeatureLevel(reader.u32()?),
        _ => return Err(reader.invalid()),
    })
}

fn put_lock(out: &mut Vec<u8>, command: &LockCommand) {
    let LockCommand { table, signature, signee, .. } = command;
    let LockCommand { instance, level, force, duration_ms, time_to_live, token, .. } = command;
    let [is_ms, is_for_ever] = keep_flags(*time_to_live);
    out.push(flags([
        *force,
        instance.is_some(),
        level.is_some(),
        duration_ms.is_some(),
        is_ms,
        token.is_some(),
        is_for_ever,
    ]));
    for text in [table, signature, signee].into_iter().chain(instance) {
        put_str(out, text);
    }
    if let Some(level) = level {
        put_i64(out, *level);
    }
    let token = token.map(|Token(value)| value);
    for value in [*duration_ms, keep_ms(*time_to_live), token].into_iter().flatten() {
        put_u64(out, value);
    }
}

fn read_lock(reader: &mut Reader<'_>) -> Result<LockCommand, DecodeError> {
    let [force, has_instance, has_level, has_duration, is_ms, has_token, is_for_ever] =
        reader.flags()?;
    Ok(LockCommand {
        table: reader.str()?.into(),
        signature: reader.str()?.into(),
        signee: reader.str()?.into(),
        instance: optional_text(reader, has_instance)?,
        level: has_level.then(|| reader.i64()).transpose()?,
        force,
        duration_ms: has_duration.then(|| reader.u64()).transpose()?,
        time_to_live: read_keep(reader, [is_ms, is_for_ever])?,
        token: has_token.then(|| reader.u64().map(Token)).transpose()?,
    })
}

fn put_unlock(out: &mut Vec<u8>, command: &UnlockCommand) {
    let UnlockCommand { table, signature, signee, instance, token } = command;
    out.push(flags([instance.is_some(), token.is_some()]));
    for text in [table, signature, signee].into_iter().chain(instance) {
        put_str(out, text);
    }
    if let Some(Token(value)) = token {
        put_u64(out, *value);
    }
}

fn read_unlock(reader: &mut Reader<'_>) -> Result<UnlockCommand, DecodeError> {
    let [has_instance, has_token] = reader.flags()?;
    Ok(UnlockCommand {
        table: reader.str()?.into(),
        signature: reader.str()?.into(),
        signee: reader.str()?.into(),
        instance: optional_text(reader, has_instance)?,
        token: has_token.then(|| reader.u64().map(Token)).transpose()?,
    })
}

fn put_table(out: &mut Vec<u8>, command: &TableCommand) {
    let TableCommand { table, duration_ms, time_to_live } = command;
    let [is_ms, is_for_ever] = keep_flags(*time_to_live);
    out.push(flags([duration_ms.is_some(), is_ms, is_for_ever]));
    put_str(out, table);
    for value in [*duration_ms, keep_ms(*time_to_live)].into_iter().flatten() {
        put_u64(out, value);
    }
}

fn read_table(reader: &mut Reader<'_>) -> Result<TableCommand, DecodeError> {
    let [has_duration, is_ms, is_for_ever] = reader.flags()?;
    Ok(TableCommand {
        table: reader.str()?.into(),
        duration_ms: has_duration.then(|| reader.u64()).transpose()?,
        time_to_live: read_keep(reader, [is_ms, is_for_ever])?,
    })
}

/// The two flags of a time_to_live: a length follows; it is for ever. Never both.
pub fn keep_flags(keep: Option<Keep>) -> [bool; 2] {
    [matches!(keep, Some(Keep::Ms(_))), keep == Some(Keep::ForEver)]
}

/// The length that follows, if any.
pub fn keep_ms(keep: Option<Keep>) -> Option<u64> {
    match keep {
        Some(Keep::Ms(ms)) => Some(ms),
        Some(Keep::ForEver) | None => None,
    }
}

/// Reads the encoding of [`keep_flags`] and [`keep_ms`].
///
/// # Errors
/// If both flags are set, or the bytes are no number.
pub fn read_keep(reader: &mut Reader<'_>, flags: [bool; 2]) -> Result<Option<Keep>, DecodeError> {
    match flags {
        [false, false] => Ok(None),
        [true, false] => Ok(Some(Keep::Ms(reader.u64()?))),
        [false, true] => Ok(Some(Keep::ForEver)),
        [true, true] => Err(reader.invalid()),
    }
}

fn optional_text(reader: &mut Reader<'_>, present: bool) -> Result<Option<Box<str>>, DecodeError> {
    present.then(|| reader.str().map(Into::into)).transpose()
}
