//! Proposals as bytes: the contents of a log entry and of messages between nodes.
//!
//! A version, the stamp, and each command behind its length: flags for the optional fields, a tag
//! for the operation, then its fields. A tag or a flag is never reused with another meaning. An
//! older program refuses to read the additions of a newer one; the feature level ensures that it
//! never has to.

use std::sync::Arc;

use crate::access::{Change, put_details, read_details};
use crate::codec::{
    self, DecodeError, Encoding as _, Reader, flags, put_bytes, put_i64, put_str, put_u64,
};
use crate::lock::{
    ClusterTime, Command, Keep, LeaveCommand, LimitCommand, LockCommand, Operation, Proposal,
    SessionCommand, Stamp, TableCommand, UnlockCommand,
};
use crate::principal::Principal;
use crate::types::{DecidedAt, Mode, RequestId, Seen, SessionId, Token};

/// The version of the whole encoding.
const VERSION: u8 = 1;

const LOCK: u8 = 1;
const UNLOCK: u8 = 2;
const ADVANCE: u8 = 3;
const CONFIGURE_TABLE: u8 = 4;
const DELETE_TABLE: u8 = 5;
const RAISE_FEATURE_LEVEL: u8 = 6;
// Of feature level 2. The first three are the operations above with fields of that level.
const LOCK_IN_TURN: u8 = 7;
const UNLOCK_BY_FORCE: u8 = 8;
const CONFIGURE_TABLE_FULLY: u8 = 9;
const OPEN_SESSION: u8 = 10;
const KEEP_ALIVE: u8 = 11;
const CLOSE_SESSION: u8 = 12;
const LEAVE: u8 = 13;
const SET_LIMIT: u8 = 14;
// Of feature level 3.
const ACCESS: u8 = 15;

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
    /// The digest by which the bodies of two requests are compared. Principal, cause and request id are
    /// not part of it, nor is how long a caller waits, nor the name that a session is given.
    pub(super) fn digest(&self) -> u128 {
        let mut bytes = Vec::with_capacity(128);
        match self {
            Self::Lock(command) if command.is_new() => {
                let command = LockCommand { wait_ms: 0, queued: false, ..*command.clone() };
                put_operation(&mut bytes, &Self::Lock(Box::new(command)));
            }
            Self::OpenSession(command) => {
                let command = SessionCommand { id: None, ..*command.clone() };
                put_operation(&mut bytes, &Self::OpenSession(Box::new(command)));
            }
            Self::Lock(_)
            | Self::Unlock(_)
            | Self::Advance
            | Self::ConfigureTable(_)
            | Self::DeleteTable { .. }
            | Self::KeepAlive(_)
            | Self::CloseSession(_)
            | Self::Leave(_)
            | Self::SetLimit(_)
            | Self::Access(_)
            | Self::RaiseFeatureLevel(_) => put_operation(&mut bytes, self),
        }
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
    let Command { request_id, principal, cause, operation } = command;
    // Of feature level 3: the part of a principal besides its name.
    let details = principal.as_deref().filter(|principal| principal.has_details());
    let (has_principal, has_details) = (principal.is_some(), details.is_some());
    out.push(flags([request_id.is_some(), has_principal, cause.is_some(), has_details]));
    if let Some(RequestId { lane, seq }) = request_id {
        out.extend_from_slice(&lane.to_be_bytes());
        put_u64(out, *seq);
    }
    for text in [command.actor(), cause.as_deref()].into_iter().flatten() {
        put_str(out, text);
    }
    if let Some(principal) = details {
        put_details(out, principal);
    }
    put_operation(out, operation);
}

fn read_command(reader: &mut Reader<'_>) -> Result<Command, DecodeError> {
    let [has_id, has_principal, has_cause, has_details] = reader.flags()?;
    let request_id = if has_id {
        let lane = u128::from_be_bytes(reader.array()?);
        Some(RequestId { lane, seq: reader.u64()? })
    } else {
        None
    };
    let identity = optional_text(reader, has_principal)?;
    let cause = optional_text(reader, has_cause)?;
    let principal = match (identity, has_details) {
        (Some(identity), true) => Some(read_details(&identity, reader)?),
        (Some(identity), false) => Some(Principal { identity, ..Principal::default() }),
        (None, false) => None,
        (None, true) => return Err(reader.invalid()),
    };
    if principal.as_ref().is_some_and(|principal| principal.has_details() != has_details) {
        return Err(reader.invalid());
    }
    let operation = read_operation(reader)?;
    Ok(Command { request_id, principal: principal.map(Arc::new), cause, operation })
}

fn put_operation(out: &mut Vec<u8>, operation: &Operation) {
    match operation {
        Operation::Lock(command) if command.is_new() => {
            out.push(LOCK_IN_TURN);
            put_lock(out, command);
            put_turn(out, command);
        }
        Operation::Lock(command) => {
            out.push(LOCK);
            put_lock(out, command);
        }
        Operation::Unlock(command) => {
            out.push(if command.is_new() { UNLOCK_BY_FORCE } else { UNLOCK });
            put_unlock(out, command);
            if command.is_new() {
                out.push(flags([command.force, command.place.is_some()]));
                put_positions(out, command.place);
            }
        }
        Operation::ConfigureTable(command) if command.is_new() => {
            out.push(CONFIGURE_TABLE_FULLY);
            put_table(out, command);
            put_optional_numbers(out, [command.lock_delay_ms, command.max_hold_ms]);
        }
        Operation::OpenSession(command) => {
            out.push(OPEN_SESSION);
            put_session(out, command);
        }
        Operation::KeepAlive(sessions) => {
            out.push(KEEP_ALIVE);
            put_u64(out, sessions.len() as u64);
            for Seen { session, seen } in sessions {
                out.extend_from_slice(&session.0.to_be_bytes());
                out.push(flags([seen.is_some()]));
                put_positions(out, *seen);
            }
        }
        Operation::CloseSession(session) => {
            out.push(CLOSE_SESSION);
            out.extend_from_slice(&session.0.to_be_bytes());
        }
        Operation::Leave(command) => {
            out.push(LEAVE);
            put_str(out, &command.table);
            put_str(out, &command.signature);
            put_positions(out, [command.place, command.ask]);
        }
        Operation::SetLimit(command) => {
            out.push(SET_LIMIT);
            put_str(out, &command.table);
            put_str(out, &command.signature);
            put_u64(out, command.limit.into());
        }
        Operation::Access(change) => {
            out.push(ACCESS);
            change.put(out);
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
        LOCK_IN_TURN => {
            let command = read_lock(reader)?;
            let command = read_turn(reader, command)?;
            if !command.is_new() {
                return Err(reader.invalid());
            }
            Operation::Lock(Box::new(command))
        }
        UNLOCK_BY_FORCE => {
            let command = read_unlock(reader)?;
            let [force, has_place] = reader.flags()?;
            let place = has_place.then(|| read_position(reader)).transpose()?;
            let command = UnlockCommand { force, place, ..command };
            if !command.is_new() {
                return Err(reader.invalid());
            }
            Operation::Unlock(Box::new(command))
        }
        CONFIGURE_TABLE_FULLY => {
            let command = read_table(reader)?;
            let [lock_delay_ms, max_hold_ms] = read_optional_numbers(reader)?;
            let command = TableCommand { lock_delay_ms, max_hold_ms, ..command };
            if !command.is_new() {
                return Err(reader.invalid());
            }
            Operation::ConfigureTable(Box::new(command))
        }
        OPEN_SESSION => Operation::OpenSession(Box::new(read_session(reader)?)),
        KEEP_ALIVE => {
            let count = reader.u64()?;
            let mut sessions = Vec::new();
            for _ in 0..count {
                let session = read_session_id(reader)?;
                let [has_seen] = reader.flags()?;
                let seen = has_seen.then(|| read_position(reader)).transpose()?;
                sessions.push(Seen { session, seen });
            }
            Operation::KeepAlive(sessions)
        }
        CLOSE_SESSION => Operation::CloseSession(read_session_id(reader)?),
        LEAVE => Operation::Leave(Box::new(LeaveCommand {
            table: reader.str()?.into(),
            signature: reader.str()?.into(),
            place: read_position(reader)?,
            ask: read_position(reader)?,
        })),
        SET_LIMIT => Operation::SetLimit(Box::new(LimitCommand {
            table: reader.str()?.into(),
            signature: reader.str()?.into(),
            limit: reader.u32()?,
        })),
        ACCESS => Operation::Access(Box::new(Change::read(reader)?)),
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
        ..LockCommand::default()
    })
}

/// The fields of feature level 2.
fn put_turn(out: &mut Vec<u8>, command: &LockCommand) {
    let LockCommand { mode, limit, wait_ms, queued, session, lock_delay_ms, .. } = command;
    out.push(flags([
        mode.is_some(),
        limit.is_some(),
        *wait_ms != 0,
        *queued,
        session.is_some(),
        lock_delay_ms.is_some(),
    ]));
    out.extend(mode.map(mode_code));
    let wait_ms = Some(*wait_ms).filter(|ms| *ms != 0);
    for value in [limit.map(u64::from), wait_ms, *lock_delay_ms].into_iter().flatten() {
        put_u64(out, value);
    }
    if let Some(session) = session {
        out.extend_from_slice(&session.0.to_be_bytes());
    }
}

fn read_turn(reader: &mut Reader<'_>, command: LockCommand) -> Result<LockCommand, DecodeError> {
    let [has_mode, has_limit, has_wait, queued, has_session, has_delay] = reader.flags()?;
    let mode = has_mode.then(|| read_mode(reader)).transpose()?;
    let limit = has_limit.then(|| reader.u32()).transpose()?;
    let wait_ms = has_wait.then(|| reader.u64()).transpose()?;
    if wait_ms == Some(0) {
        return Err(reader.invalid());
    }
    let lock_delay_ms = has_delay.then(|| reader.u64()).transpose()?;
    let session = has_session.then(|| read_session_id(reader)).transpose()?;
    let wait_ms = wait_ms.unwrap_or(0);
    Ok(LockCommand { mode, limit, wait_ms, queued, session, lock_delay_ms, ..command })
}

/// The code of a mode; never reused with another meaning.
pub fn mode_code(mode: Mode) -> u8 {
    match mode {
        Mode::Exclusive => 1,
        Mode::Shared => 2,
        Mode::Permits => 3,
    }
}

/// Reads the code of a mode.
///
/// # Errors
/// If the byte is no code.
pub fn read_mode(reader: &mut Reader<'_>) -> Result<Mode, DecodeError> {
    Ok(match reader.u8()? {
        1 => Mode::Exclusive,
        2 => Mode::Shared,
        3 => Mode::Permits,
        _ => return Err(reader.invalid()),
    })
}

/// Reads the name of a session, 16 bytes.
///
/// # Errors
/// If the bytes end.
pub fn read_session_id(reader: &mut Reader<'_>) -> Result<SessionId, DecodeError> {
    reader.array().map(|bytes| SessionId(u128::from_be_bytes(bytes)))
}

/// Appends positions in the log.
pub fn put_positions(out: &mut Vec<u8>, positions: impl IntoIterator<Item = DecidedAt>) {
    for DecidedAt { index, position } in positions {
        put_u64(out, index);
        put_u64(out, position.into());
    }
}

/// Reads one of the positions of [`put_positions`].
///
/// # Errors
/// If the bytes are no position.
pub fn read_position(reader: &mut Reader<'_>) -> Result<DecidedAt, DecodeError> {
    Ok(DecidedAt { index: reader.u64()?, position: reader.u32()? })
}

/// Appends numbers of which each may be absent.
pub fn put_optional_numbers<const N: usize>(out: &mut Vec<u8>, numbers: [Option<u64>; N]) {
    out.push(flags(numbers.map(|number| number.is_some())));
    for number in numbers.into_iter().flatten() {
        put_u64(out, number);
    }
}

/// Reads the encoding of [`put_optional_numbers`].
///
/// # Errors
/// If the bytes are no such numbers.
pub fn read_optional_numbers<const N: usize>(
    reader: &mut Reader<'_>,
) -> Result<[Option<u64>; N], DecodeError> {
    let present: [bool; N] = reader.flags()?;
    let mut numbers = [None; N];
    for (number, present) in numbers.iter_mut().zip(present) {
        *number = present.then(|| reader.u64()).transpose()?;
    }
    Ok(numbers)
}

fn put_session(out: &mut Vec<u8>, command: &SessionCommand) {
    let SessionCommand { id, ttl_ms, signee, instance } = command;
    out.push(flags([id.is_some(), instance.is_some()]));
    if let Some(id) = id {
        out.extend_from_slice(&id.0.to_be_bytes());
    }
    put_u64(out, *ttl_ms);
    for text in std::iter::once(signee).chain(instance) {
        put_str(out, text);
    }
}

fn read_session(reader: &mut Reader<'_>) -> Result<SessionCommand, DecodeError> {
    let [has_id, has_instance] = reader.flags()?;
    Ok(SessionCommand {
        id: has_id.then(|| read_session_id(reader)).transpose()?,
        ttl_ms: reader.u64()?,
        signee: reader.str()?.into(),
        instance: optional_text(reader, has_instance)?,
    })
}

fn put_unlock(out: &mut Vec<u8>, command: &UnlockCommand) {
    let UnlockCommand { table, signature, signee, instance, token, .. } = command;
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
        ..UnlockCommand::default()
    })
}

fn put_table(out: &mut Vec<u8>, command: &TableCommand) {
    let TableCommand { table, duration_ms, time_to_live, .. } = command;
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
        ..TableCommand::default()
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
