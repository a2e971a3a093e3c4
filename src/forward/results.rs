//! The encoding of answers to forwarded requests: decisions, views and errors.
//!
//! The shapes are those of the log: a tag for each kind, which is never reused with another meaning,
//! flags for optional parts, then the fields. Lengths of time are whole milliseconds.

use super::wire::{Answer, put_ms, read_ms};
use crate::codec::{DecodeError, Reader, flags, put_i64, put_str, put_u64};
use crate::error::Error;
use crate::lock::encoding::{keep_flags, keep_ms, read_keep};
use crate::lock::{Decision, Keep, Outcome, View};
use crate::types::{
    CheckResponse, DecidedAt, Forbidden, ForbiddenReason, Grant, Holder, ListResponse, LockRecord,
    LockStatus, Mode, TableDefaults, TableInfo, TablesResponse, Token, TransferReason,
    UnlockStatus,
};

/// The first byte of an answer.
mod answer_tag {
    pub(super) const LOCK_OK: u8 = 1;
    pub(super) const LOCK_RENEWED: u8 = 2;
    pub(super) const LOCK_TRANSFERRED: u8 = 3;
    pub(super) const LOCK_FAILED: u8 = 4;
    pub(super) const UNLOCK_OK: u8 = 5;
    pub(super) const UNLOCK_NO_LOCK: u8 = 6;
    pub(super) const UNLOCK_FAILED: u8 = 7;
    pub(super) const TABLE: u8 = 8;
    pub(super) const NO_TABLE: u8 = 9;
    pub(super) const CLOCK: u8 = 10;
    pub(super) const FEATURE_LEVEL: u8 = 11;
    pub(super) const RECORD: u8 = 32;
    pub(super) const RECORDS: u8 = 33;
    pub(super) const TABLES: u8 = 34;
    pub(super) const ADVANCED: u8 = 48;
    pub(super) const FORBIDDEN: u8 = 64;
    pub(super) const BAD_REQUEST: u8 = 65;
    pub(super) const NOT_FOUND: u8 = 66;
    pub(super) const UNAVAILABLE: u8 = 67;
    pub(super) const UNKNOWN: u8 = 68;
    pub(super) const UNAUTHORIZED: u8 = 69;
    pub(super) const LANE_FORGOTTEN: u8 = 70;
}

/// Appends an answer. A refusal of the lock machine becomes the error that it stands for.
pub(super) fn put_answer(out: &mut Vec<u8>, answer: &Result<Answer, Error>) {
    match answer {
        Ok(Answer::Decision(Decision { outcome: Outcome::Refused(refusal), .. })) => {
            put_error(out, &refusal.clone().into());
        }
        Ok(Answer::Decision(Decision { outcome, .. })) if !has_words(outcome) => {
            put_error(out, &Error::unknown(NO_WORDS));
        }
        Ok(Answer::View(View::Verify(_) | View::SessionLocks(_) | View::Deadlocks(_))) => {
            put_error(out, &Error::unavailable(NO_WORDS));
        }
        Ok(Answer::Decision(decision)) => {
            put_outcome(out, &decision.outcome);
            put_decided_at(out, decision.decided_at);
        }
        Ok(Answer::View(view)) => put_view(out, view),
        Ok(Answer::Advanced) => out.push(answer_tag::ADVANCED),
        Err(error) => put_error(out, error),
    }
}

/// The reason why an answer does not come back from the leader.
const NO_WORDS: &str = "this kind of answer is not passed on between nodes yet: ask the leader";

/// Whether an outcome can be passed on.
fn has_words(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Lock(LockStatus::Waiting(_))
        | Outcome::Unlock(UnlockStatus::Left)
        | Outcome::Session(_)
        | Outcome::KeptAlive(_)
        | Outcome::Closed(_)
        | Outcome::Left
        | Outcome::NotLeft
        | Outcome::Limit
        | Outcome::NoLimit => false,
        Outcome::Lock(_)
        | Outcome::Unlock(_)
        | Outcome::Table
        | Outcome::NoTable
        | Outcome::Advanced
        | Outcome::FeatureLevel
        | Outcome::Refused(_) => true,
    }
}

/// Reads the encoding of [`put_answer`].
pub(super) fn read_answer(reader: &mut Reader<'_>) -> Result<Result<Answer, Error>, DecodeError> {
    let tag = reader.u8()?;
    if tag >= answer_tag::FORBIDDEN {
        return read_error(tag, reader).map(Err);
    }
    Ok(Ok(match tag {
        answer_tag::RECORD => {
            let record = read_record(reader)?;
            let decided_at = read_decided_at(reader)?;
            Answer::View(View::Lock(CheckResponse { record, decided_at }))
        }
        answer_tag::RECORDS => {
            let locks = read_all(reader, read_record)?;
            let next = read_optional_text(reader)?;
            let decided_at = read_decided_at(reader)?;
            Answer::View(View::Locks(ListResponse { locks, next, decided_at }))
        }
        answer_tag::TABLES => {
            let tables = read_all(reader, read_table)?;
            let next = read_optional_text(reader)?;
            let decided_at = read_decided_at(reader)?;
            Answer::View(View::Tables(TablesResponse { tables, next, decided_at }))
        }
        answer_tag::ADVANCED => Answer::Advanced,
        tag => {
            let outcome = read_outcome(tag, reader)?;
            Answer::Decision(Decision { outcome, decided_at: read_decided_at(reader)? })
        }
    }))
}

fn put_outcome(out: &mut Vec<u8>, outcome: &Outcome) {
    match outcome {
        Outcome::Lock(LockStatus::Ok(grant)) => {
            out.push(answer_tag::LOCK_OK);
            put_grant(out, grant);
        }
        Outcome::Lock(LockStatus::Renewed(grant)) => {
            out.push(answer_tag::LOCK_RENEWED);
            put_grant(out, grant);
        }
        Outcome::Lock(LockStatus::Transferred { grant, previous_signee, reason }) => {
            out.push(answer_tag::LOCK_TRANSFERRED);
            put_grant(out, grant);
            put_str(out, previous_signee);
            out.push(match reason {
                TransferReason::Expired => 1,
                TransferReason::Forced => 2,
                TransferReason::Preempted => 3,
            });
        }
        Outcome::Lock(LockStatus::Failed(forbidden)) => {
            out.push(answer_tag::LOCK_FAILED);
            put_forbidden(out, forbidden);
        }
        Outcome::Unlock(UnlockStatus::Ok) => out.push(answer_tag::UNLOCK_OK),
        Outcome::Unlock(UnlockStatus::NoLock) => out.push(answer_tag::UNLOCK_NO_LOCK),
        Outcome::Unlock(UnlockStatus::Failed(forbidden)) => {
            out.push(answer_tag::UNLOCK_FAILED);
            put_forbidden(out, forbidden);
        }
        Outcome::Table => out.push(answer_tag::TABLE),
        Outcome::NoTable => out.push(answer_tag::NO_TABLE),
        Outcome::Advanced => out.push(answer_tag::CLOCK),
        Outcome::FeatureLevel => out.push(answer_tag::FEATURE_LEVEL),
        Outcome::Lock(LockStatus::Waiting(_))
        | Outcome::Unlock(UnlockStatus::Left)
        | Outcome::Session(_)
        | Outcome::KeptAlive(_)
        | Outcome::Closed(_)
        | Outcome::Left
        | Outcome::NotLeft
        | Outcome::Limit
        | Outcome::NoLimit
        | Outcome::Refused(_) => unreachable!("told as an error: {outcome:?}"),
    }
}

fn read_outcome(tag: u8, reader: &mut Reader<'_>) -> Result<Outcome, DecodeError> {
    Ok(match tag {
        answer_tag::LOCK_OK => Outcome::Lock(LockStatus::Ok(read_grant(reader)?)),
        answer_tag::LOCK_RENEWED => Outcome::Lock(LockStatus::Renewed(read_grant(reader)?)),
        answer_tag::LOCK_TRANSFERRED => {
            let grant = read_grant(reader)?;
            let previous_signee = reader.str()?.to_owned();
            let reason = match reader.u8()? {
                1 => TransferReason::Expired,
                2 => TransferReason::Forced,
                3 => TransferReason::Preempted,
                _ => return Err(reader.invalid()),
            };
            Outcome::Lock(LockStatus::Transferred { grant, previous_signee, reason })
        }
        answer_tag::LOCK_FAILED => Outcome::Lock(LockStatus::Failed(read_forbidden(reader)?)),
        answer_tag::UNLOCK_OK => Outcome::Unlock(UnlockStatus::Ok),
        answer_tag::UNLOCK_NO_LOCK => Outcome::Unlock(UnlockStatus::NoLock),
        answer_tag::UNLOCK_FAILED => Outcome::Unlock(UnlockStatus::Failed(read_forbidden(reader)?)),
        answer_tag::TABLE => Outcome::Table,
        answer_tag::NO_TABLE => Outcome::NoTable,
        answer_tag::CLOCK => Outcome::Advanced,
        answer_tag::FEATURE_LEVEL => Outcome::FeatureLevel,
        _ => return Err(reader.invalid()),
    })
}

fn put_view(out: &mut Vec<u8>, view: &View) {
    match view {
        View::Lock(CheckResponse { record, decided_at }) => {
            out.push(answer_tag::RECORD);
            put_record(out, record);
            put_decided_at(out, *decided_at);
        }
        View::Locks(ListResponse { locks, next, decided_at }) => {
            out.push(answer_tag::RECORDS);
            put_all(out, locks, put_record);
            put_optional_text(out, next.as_deref());
            put_decided_at(out, *decided_at);
        }
        View::Tables(TablesResponse { tables, next, decided_at }) => {
            out.push(answer_tag::TABLES);
            put_all(out, tables, put_table);
            put_optional_text(out, next.as_deref());
            put_decided_at(out, *decided_at);
        }
        View::Verify(_) | View::SessionLocks(_) | View::Deadlocks(_) => {
            unreachable!("told as an error: {view:?}")
        }
    }
}

fn put_error(out: &mut Vec<u8>, error: &Error) {
    let (tag, reason) = match error {
        Error::Forbidden(forbidden) => {
            out.push(answer_tag::FORBIDDEN);
            return put_forbidden(out, forbidden);
        }
        Error::NotFound { decided_at } => {
            out.push(answer_tag::NOT_FOUND);
            return put_decided_at(out, *decided_at);
        }
        Error::Unavailable { reason, leader } => {
            out.push(answer_tag::UNAVAILABLE);
            put_str(out, reason);
            return put_optional_text(out, leader.as_deref());
        }
        Error::BadRequest { reason } => (answer_tag::BAD_REQUEST, reason),
        Error::Unknown { reason } => (answer_tag::UNKNOWN, reason),
        Error::Unauthorized { reason } => (answer_tag::UNAUTHORIZED, reason),
        Error::LaneForgotten { reason } => (answer_tag::LANE_FORGOTTEN, reason),
    };
    out.push(tag);
    put_str(out, reason);
}

fn read_error(tag: u8, reader: &mut Reader<'_>) -> Result<Error, DecodeError> {
    let text = |reader: &mut Reader<'_>| reader.str().map(str::to_owned);
    Ok(match tag {
        answer_tag::FORBIDDEN => Error::Forbidden(read_forbidden(reader)?),
        answer_tag::NOT_FOUND => Error::NotFound { decided_at: read_decided_at(reader)? },
        answer_tag::UNAVAILABLE => {
            let reason = text(reader)?;
            Error::Unavailable { reason, leader: read_optional_text(reader)? }
        }
        answer_tag::BAD_REQUEST => Error::BadRequest { reason: text(reader)? },
        answer_tag::UNKNOWN => Error::Unknown { reason: text(reader)? },
        answer_tag::UNAUTHORIZED => Error::Unauthorized { reason: text(reader)? },
        answer_tag::LANE_FORGOTTEN => Error::LaneForgotten { reason: text(reader)? },
        _ => return Err(reader.invalid()),
    })
}

fn put_grant(out: &mut Vec<u8>, grant: &Grant) {
    let Grant { token: Token(token), level, expires_in, removed_in, live, .. } = grant;
    out.push(flags([removed_in.is_some(), *live]));
    put_u64(out, *token);
    put_i64(out, *level);
    for time in [Some(*expires_in), *removed_in].into_iter().flatten() {
        put_ms(out, time);
    }
}

fn read_grant(reader: &mut Reader<'_>) -> Result<Grant, DecodeError> {
    let [is_removed, live] = reader.flags()?;
    let (token, level) = (Token(reader.u64()?), reader.i64()?);
    let expires_in = read_ms(reader)?;
    Ok(Grant {
        token,
        level,
        expires_in,
        removed_in: is_removed.then(|| read_ms(reader)).transpose()?,
        live,
        mode: Mode::Exclusive,
        slot: None,
        valid: expires_in,
    })
}

fn put_forbidden(out: &mut Vec<u8>, forbidden: &Forbidden) {
    // Its number in the list, from 1: 1 is held, 2 is lost.
    out.push(forbidden.reason as u8 + 1);
    put_all(out, &forbidden.holders, put_holder);
}

fn read_forbidden(reader: &mut Reader<'_>) -> Result<Forbidden, DecodeError> {
    let code = usize::from(reader.u8()?).checked_sub(1);
    let reason = code.and_then(|code| ForbiddenReason::ALL.get(code)).ok_or(reader.invalid())?;
    Ok(Forbidden::new(*reason, read_all(reader, read_holder)?))
}

fn put_holder(out: &mut Vec<u8>, holder: &Holder) {
    let Holder { signee, instance, level, token: Token(token), .. } = holder;
    let Holder { expires_in, expired, removed_in, .. } = holder;
    out.push(flags([instance.is_some(), *expired, removed_in.is_some()]));
    for text in std::iter::once(signee).chain(instance) {
        put_str(out, text);
    }
    put_i64(out, *level);
    put_u64(out, *token);
    for time in [Some(*expires_in), *removed_in].into_iter().flatten() {
        put_ms(out, time);
    }
}

fn read_holder(reader: &mut Reader<'_>) -> Result<Holder, DecodeError> {
    let [has_instance, expired, is_removed] = reader.flags()?;
    Ok(Holder {
        signee: reader.str()?.to_owned(),
        instance: has_instance.then(|| reader.str().map(str::to_owned)).transpose()?,
        level: reader.i64()?,
        token: Token(reader.u64()?),
        expires_in: read_ms(reader)?,
        expired,
        removed_in: is_removed.then(|| read_ms(reader)).transpose()?,
        ..Holder::default()
    })
}

fn put_record(out: &mut Vec<u8>, record: &LockRecord) {
    let LockRecord { signature, holders, .. } = record;
    put_str(out, signature);
    put_all(out, holders, put_holder);
}

fn read_record(reader: &mut Reader<'_>) -> Result<LockRecord, DecodeError> {
    let signature = reader.str()?.to_owned();
    let holders = read_all(reader, read_holder)?;
    Ok(LockRecord { signature, holders, limit: None, waiting: 0, places: Vec::new() })
}

fn put_table(out: &mut Vec<u8>, info: &TableInfo) {
    let TableInfo { table, defaults, locks } = info;
    let TableDefaults { duration, time_to_live, .. } = defaults;
    // Set from whole milliseconds, so no error is possible.
    let keep = time_to_live.and_then(|time_to_live| Keep::try_from(time_to_live).ok());
    let [is_ms, is_for_ever] = keep_flags(keep);
    out.push(flags([duration.is_some(), is_ms, is_for_ever]));
    put_str(out, table);
    if let Some(duration) = duration {
        put_ms(out, *duration);
    }
    if let Some(ms) = keep_ms(keep) {
        put_u64(out, ms);
    }
    put_u64(out, *locks);
}

fn read_table(reader: &mut Reader<'_>) -> Result<TableInfo, DecodeError> {
    let [has_duration, is_ms, is_for_ever] = reader.flags()?;
    let table = reader.str()?.to_owned();
    let duration = has_duration.then(|| read_ms(reader)).transpose()?;
    let time_to_live = read_keep(reader, [is_ms, is_for_ever])?.map(Into::into);
    let defaults = TableDefaults { duration, time_to_live, ..TableDefaults::default() };
    Ok(TableInfo { table, defaults, locks: reader.u64()? })
}

fn put_decided_at(out: &mut Vec<u8>, decided_at: Option<DecidedAt>) {
    out.push(flags([decided_at.is_some()]));
    if let Some(DecidedAt { index, position }) = decided_at {
        put_u64(out, index);
        put_u64(out, position.into());
    }
}

fn read_decided_at(reader: &mut Reader<'_>) -> Result<Option<DecidedAt>, DecodeError> {
    let [is_known] = reader.flags()?;
    let mut read = || Ok(DecidedAt { index: reader.u64()?, position: reader.u32()? });
    is_known.then(&mut read).transpose()
}

fn put_optional_text(out: &mut Vec<u8>, text: Option<&str>) {
    out.push(flags([text.is_some()]));
    if let Some(text) = text {
        put_str(out, text);
    }
}

fn read_optional_text(reader: &mut Reader<'_>) -> Result<Option<String>, DecodeError> {
    let [is_there] = reader.flags()?;
    is_there.then(|| reader.str().map(str::to_owned)).transpose()
}

fn put_all<T>(out: &mut Vec<u8>, all: &[T], put: impl Fn(&mut Vec<u8>, &T)) {
    put_u64(out, all.len() as u64);
    for one in all {
        put(out, one);
    }
}

/// Reads a list. Its count is not trusted with an allocation.
fn read_all<T>(
    reader: &mut Reader<'_>,
    read: impl Fn(&mut Reader<'_>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let count = reader.u64()?;
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(read(reader)?);
    }
    Ok(all)
}
