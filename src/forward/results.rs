//! The encoding of answers to forwarded requests: decisions, views and errors.
//!
//! The shapes are those of the log: a tag for each kind, which is never reused with another meaning,
//! flags for optional parts, then the fields. Lengths of time are whole milliseconds.
//!
//! A part that feature level 2 has added fields to is a [`Form`] of its own under a tag of its own.
//! It is sent only if one of those fields says something, so that a cluster of level 1 speaks as it
//! did before.

use std::time::Duration;

use super::wire::{Answer, put_ms, read_ms};
use crate::access::Changed;
use crate::codec::{DecodeError, Encoding, Reader, flags, put_i64, put_str, put_u64};
use crate::error::Error;
use crate::lock::encoding::{
    keep_flags, keep_ms, mode_code, put_optional_numbers, put_positions, read_keep, read_mode,
    read_optional_numbers, read_position, read_session_id,
};
use crate::lock::{Decision, Keep, Outcome, View};
use crate::types::{
    CheckResponse, CloseStatus, DeadlockEdge, DeadlocksResponse, DecidedAt, Forbidden,
    ForbiddenReason, Grant, Holder, InboxItem, ListResponse, Liveness, LockRecord, LockStatus,
    Loss, Mode, News, Place, Session, SessionId, SessionLock, SessionLocksResponse, SessionStatus,
    TableDefaults, TableInfo, TablesResponse, Token, TransferReason, UnlockStatus, VerifyResponse,
    Waiting,
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
    // Of feature level 2. The full forms first, then what is new.
    pub(super) const LOCK_OK_FULL: u8 = 12;
    pub(super) const LOCK_RENEWED_FULL: u8 = 13;
    pub(super) const LOCK_TRANSFERRED_FULL: u8 = 14;
    pub(super) const LOCK_FAILED_FULL: u8 = 15;
    pub(super) const UNLOCK_FAILED_FULL: u8 = 16;
    pub(super) const LOCK_WAITING: u8 = 17;
    pub(super) const UNLOCK_LEFT: u8 = 18;
    pub(super) const SESSION: u8 = 19;
    pub(super) const SESSION_FAILED: u8 = 20;
    pub(super) const KEPT_ALIVE: u8 = 21;
    pub(super) const CLOSED: u8 = 22;
    pub(super) const NO_SESSION: u8 = 23;
    pub(super) const LEFT: u8 = 24;
    pub(super) const NOT_LEFT: u8 = 25;
    pub(super) const LIMIT: u8 = 26;
    pub(super) const NO_LIMIT: u8 = 27;
    pub(super) const RECORD_FULL: u8 = 35;
    pub(super) const RECORDS_FULL: u8 = 36;
    pub(super) const TABLES_FULL: u8 = 37;
    pub(super) const VERIFY: u8 = 38;
    pub(super) const SESSION_LOCKS: u8 = 39;
    pub(super) const DEADLOCKS: u8 = 40;
    pub(super) const FORBIDDEN_FULL: u8 = 71;
    // Of feature level 3.
    pub(super) const ACCESS_DONE: u8 = 28;
    pub(super) const ACCESS_NOTHING: u8 = 29;
    pub(super) const ACCESS: u8 = 41;
    pub(super) const NOT_ALLOWED: u8 = 72;
}

/// The form of a part: as it was at feature level 1, or with all fields.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Plain,
    Full,
}

impl Form {
    fn of(is_plain: bool) -> Self {
        if is_plain { Self::Plain } else { Self::Full }
    }

    fn of_grant(grant: &Grant) -> Self {
        let Grant { mode, slot, valid, expires_in, .. } = grant;
        Self::of(*mode == Mode::Exclusive && slot.is_none() && valid == expires_in)
    }

    fn of_holders(holders: &[Holder]) -> Self {
        let is_plain = |holder: &Holder| {
            holder.mode == Mode::Exclusive && holder.slot.is_none() && holder.session.is_none()
        };
        Self::of(holders.iter().all(is_plain))
    }

    fn of_forbidden(forbidden: &Forbidden) -> Self {
        let Forbidden { reason, holders, limit, delay } = forbidden;
        let is_old = matches!(reason, ForbiddenReason::Held | ForbiddenReason::Lost);
        let is_plain = is_old && limit.is_none() && delay.is_none();
        if is_plain { Self::of_holders(holders) } else { Self::Full }
    }

    fn of_records(records: &[LockRecord]) -> Self {
        let is_plain = |record: &LockRecord| {
            let LockRecord { signature: _, holders, more_holders, limit, waiting, places } = record;
            let is_alone =
                *more_holders == 0 && limit.is_none() && *waiting == 0 && places.is_empty();
            is_alone && Self::of_holders(holders) == Self::Plain
        };
        Self::of(records.iter().all(is_plain))
    }

    fn of_tables(tables: &[TableInfo]) -> Self {
        let is_plain = |table: &TableInfo| {
            table.defaults.lock_delay.is_none() && table.defaults.max_hold.is_none()
        };
        Self::of(tables.iter().all(is_plain))
    }

    /// The tag of this form.
    fn tag(self, plain: u8, full: u8) -> u8 {
        match self {
            Self::Plain => plain,
            Self::Full => full,
        }
    }
}

/// Appends an answer. A refusal of the lock machine becomes the error that it stands for.
pub(super) fn put_answer(out: &mut Vec<u8>, answer: &Result<Answer, Error>) {
    match answer {
        Ok(Answer::Decision(Decision { outcome: Outcome::Refused(refusal), .. })) => {
            put_error(out, &refusal.clone().into());
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

/// Reads the encoding of [`put_answer`].
pub(super) fn read_answer(reader: &mut Reader<'_>) -> Result<Result<Answer, Error>, DecodeError> {
    let tag = reader.u8()?;
    if tag >= answer_tag::FORBIDDEN {
        return read_error(tag, reader).map(Err);
    }
    if (answer_tag::RECORD..answer_tag::ADVANCED).contains(&tag) {
        return Ok(Ok(Answer::View(read_view(tag, reader)?)));
    }
    if tag == answer_tag::ADVANCED {
        return Ok(Ok(Answer::Advanced));
    }
    let outcome = read_outcome(tag, reader)?;
    Ok(Ok(Answer::Decision(Decision { outcome, decided_at: read_decided_at(reader)? })))
}

fn put_outcome(out: &mut Vec<u8>, outcome: &Outcome) {
    match outcome {
        Outcome::Lock(status) => put_lock_status(out, status),
        Outcome::Unlock(UnlockStatus::Ok) => out.push(answer_tag::UNLOCK_OK),
        Outcome::Unlock(UnlockStatus::NoLock) => out.push(answer_tag::UNLOCK_NO_LOCK),
        Outcome::Unlock(UnlockStatus::Left) => out.push(answer_tag::UNLOCK_LEFT),
        Outcome::Unlock(UnlockStatus::Failed(forbidden)) => {
            let form = Form::of_forbidden(forbidden);
            out.push(form.tag(answer_tag::UNLOCK_FAILED, answer_tag::UNLOCK_FAILED_FULL));
            put_forbidden(out, forbidden, form);
        }
        Outcome::Table => out.push(answer_tag::TABLE),
        Outcome::NoTable => out.push(answer_tag::NO_TABLE),
        Outcome::Advanced => out.push(answer_tag::CLOCK),
        Outcome::FeatureLevel => out.push(answer_tag::FEATURE_LEVEL),
        Outcome::Session(SessionStatus::Open(session)) => {
            out.push(answer_tag::SESSION);
            let Session { id, ttl, valid } = session;
            put_session_id(out, *id);
            put_ms(out, *ttl);
            put_ms(out, *valid);
        }
        Outcome::Session(SessionStatus::Failed(forbidden)) => {
            out.push(answer_tag::SESSION_FAILED);
            put_forbidden(out, forbidden, Form::Full);
        }
        Outcome::KeptAlive(sessions) => {
            out.push(answer_tag::KEPT_ALIVE);
            put_all(out, sessions, put_liveness);
        }
        Outcome::Closed(CloseStatus::Ok) => out.push(answer_tag::CLOSED),
        Outcome::Closed(CloseStatus::NoSession) => out.push(answer_tag::NO_SESSION),
        Outcome::Left => out.push(answer_tag::LEFT),
        Outcome::NotLeft => out.push(answer_tag::NOT_LEFT),
        Outcome::Limit => out.push(answer_tag::LIMIT),
        Outcome::NoLimit => out.push(answer_tag::NO_LIMIT),
        Outcome::Access(Changed::Done) => out.push(answer_tag::ACCESS_DONE),
        Outcome::Access(Changed::Nothing) => out.push(answer_tag::ACCESS_NOTHING),
        Outcome::Refused(_) => unreachable!("told as an error: {outcome:?}"),
    }
}

fn put_lock_status(out: &mut Vec<u8>, status: &LockStatus) {
    match status {
        LockStatus::Ok(grant) => {
            let form = Form::of_grant(grant);
            out.push(form.tag(answer_tag::LOCK_OK, answer_tag::LOCK_OK_FULL));
            put_grant(out, grant, form);
        }
        LockStatus::Renewed(grant) => {
            let form = Form::of_grant(grant);
            out.push(form.tag(answer_tag::LOCK_RENEWED, answer_tag::LOCK_RENEWED_FULL));
            put_grant(out, grant, form);
        }
        LockStatus::Transferred { grant, previous_signee, reason } => {
            let form = Form::of_grant(grant);
            out.push(form.tag(answer_tag::LOCK_TRANSFERRED, answer_tag::LOCK_TRANSFERRED_FULL));
            put_grant(out, grant, form);
            put_str(out, previous_signee);
            out.push(match reason {
                TransferReason::Expired => 1,
                TransferReason::Forced => 2,
                TransferReason::Preempted => 3,
            });
        }
        LockStatus::Waiting(Waiting { place, position, ends_in }) => {
            out.push(answer_tag::LOCK_WAITING);
            put_positions(out, [*place]);
            put_u64(out, *position);
            put_ms(out, *ends_in);
        }
        LockStatus::Failed(forbidden) => {
            let form = Form::of_forbidden(forbidden);
            out.push(form.tag(answer_tag::LOCK_FAILED, answer_tag::LOCK_FAILED_FULL));
            put_forbidden(out, forbidden, form);
        }
    }
}

fn read_outcome(tag: u8, reader: &mut Reader<'_>) -> Result<Outcome, DecodeError> {
    let (plain, full) = (Form::Plain, Form::Full);
    Ok(match tag {
        answer_tag::LOCK_OK => Outcome::Lock(LockStatus::Ok(read_grant(reader, plain)?)),
        answer_tag::LOCK_OK_FULL => Outcome::Lock(LockStatus::Ok(read_grant(reader, full)?)),
        answer_tag::LOCK_RENEWED => Outcome::Lock(LockStatus::Renewed(read_grant(reader, plain)?)),
        answer_tag::LOCK_RENEWED_FULL => {
            Outcome::Lock(LockStatus::Renewed(read_grant(reader, full)?))
        }
        answer_tag::LOCK_TRANSFERRED => Outcome::Lock(read_transferred(reader, plain)?),
        answer_tag::LOCK_TRANSFERRED_FULL => Outcome::Lock(read_transferred(reader, full)?),
        answer_tag::LOCK_WAITING => {
            let place = read_position(reader)?;
            let (position, ends_in) = (reader.u64()?, read_ms(reader)?);
            Outcome::Lock(LockStatus::Waiting(Waiting { place, position, ends_in }))
        }
        answer_tag::LOCK_FAILED => {
            Outcome::Lock(LockStatus::Failed(read_forbidden(reader, plain)?))
        }
        answer_tag::LOCK_FAILED_FULL => {
            Outcome::Lock(LockStatus::Failed(read_forbidden(reader, full)?))
        }
        answer_tag::UNLOCK_OK => Outcome::Unlock(UnlockStatus::Ok),
        answer_tag::UNLOCK_NO_LOCK => Outcome::Unlock(UnlockStatus::NoLock),
        answer_tag::UNLOCK_LEFT => Outcome::Unlock(UnlockStatus::Left),
        answer_tag::UNLOCK_FAILED => {
            Outcome::Unlock(UnlockStatus::Failed(read_forbidden(reader, plain)?))
        }
        answer_tag::UNLOCK_FAILED_FULL => {
            Outcome::Unlock(UnlockStatus::Failed(read_forbidden(reader, full)?))
        }
        answer_tag::TABLE => Outcome::Table,
        answer_tag::NO_TABLE => Outcome::NoTable,
        answer_tag::CLOCK => Outcome::Advanced,
        answer_tag::FEATURE_LEVEL => Outcome::FeatureLevel,
        answer_tag::SESSION => {
            let (id, ttl, valid) = (read_session_id(reader)?, read_ms(reader)?, read_ms(reader)?);
            Outcome::Session(SessionStatus::Open(Session { id, ttl, valid }))
        }
        answer_tag::SESSION_FAILED => {
            Outcome::Session(SessionStatus::Failed(read_forbidden(reader, full)?))
        }
        answer_tag::KEPT_ALIVE => Outcome::KeptAlive(read_all(reader, read_liveness)?),
        answer_tag::CLOSED => Outcome::Closed(CloseStatus::Ok),
        answer_tag::NO_SESSION => Outcome::Closed(CloseStatus::NoSession),
        answer_tag::LEFT => Outcome::Left,
        answer_tag::NOT_LEFT => Outcome::NotLeft,
        answer_tag::LIMIT => Outcome::Limit,
        answer_tag::NO_LIMIT => Outcome::NoLimit,
        answer_tag::ACCESS_DONE => Outcome::Access(Changed::Done),
        answer_tag::ACCESS_NOTHING => Outcome::Access(Changed::Nothing),
        _ => return Err(reader.invalid()),
    })
}

fn read_transferred(reader: &mut Reader<'_>, form: Form) -> Result<LockStatus, DecodeError> {
    let grant = read_grant(reader, form)?;
    let previous_signee = reader.str()?.to_owned();
    let reason = match reader.u8()? {
        1 => TransferReason::Expired,
        2 => TransferReason::Forced,
        3 => TransferReason::Preempted,
        _ => return Err(reader.invalid()),
    };
    Ok(LockStatus::Transferred { grant, previous_signee, reason })
}

fn put_view(out: &mut Vec<u8>, view: &View) {
    match view {
        View::Lock(CheckResponse { record, decided_at }) => {
            let form = Form::of_records(std::slice::from_ref(record));
            out.push(form.tag(answer_tag::RECORD, answer_tag::RECORD_FULL));
            put_record(out, record, form);
            put_decided_at(out, *decided_at);
        }
        View::Locks(ListResponse { locks, next, decided_at }) => {
            let form = Form::of_records(locks);
            out.push(form.tag(answer_tag::RECORDS, answer_tag::RECORDS_FULL));
            put_all(out, locks, |out, record| put_record(out, record, form));
            put_optional_text(out, next.as_deref());
            put_decided_at(out, *decided_at);
        }
        View::Tables(TablesResponse { tables, next, decided_at }) => {
            let form = Form::of_tables(tables);
            out.push(form.tag(answer_tag::TABLES, answer_tag::TABLES_FULL));
            put_all(out, tables, |out, table| put_table(out, table, form));
            put_optional_text(out, next.as_deref());
            put_decided_at(out, *decided_at);
        }
        View::Verify(VerifyResponse { live, holder, decided_at }) => {
            out.push(answer_tag::VERIFY);
            out.push(flags([*live, holder.is_some()]));
            if let Some(holder) = holder {
                put_holder(out, holder, Form::Full);
            }
            put_decided_at(out, *decided_at);
        }
        View::SessionLocks(SessionLocksResponse { locks, next, decided_at }) => {
            out.push(answer_tag::SESSION_LOCKS);
            put_all(out, locks, put_session_lock);
            out.push(flags([next.is_some()]));
            if let Some((table, signature)) = next {
                put_str(out, table);
                put_str(out, signature);
            }
            put_decided_at(out, *decided_at);
        }
        View::Deadlocks(DeadlocksResponse { cycles, cut, decided_at }) => {
            out.push(answer_tag::DEADLOCKS);
            out.push(flags([*cut]));
            put_all(out, cycles, |out, cycle| put_all(out, cycle, put_edge));
            put_decided_at(out, *decided_at);
        }
        View::Access(answer) => {
            out.push(answer_tag::ACCESS);
            answer.put(out);
        }
    }
}

fn read_view(tag: u8, reader: &mut Reader<'_>) -> Result<View, DecodeError> {
    Ok(match tag {
        answer_tag::RECORD | answer_tag::RECORD_FULL => {
            let record = read_record(reader, Form::of(tag == answer_tag::RECORD))?;
            View::Lock(CheckResponse { record, decided_at: read_decided_at(reader)? })
        }
        answer_tag::RECORDS | answer_tag::RECORDS_FULL => {
            let form = Form::of(tag == answer_tag::RECORDS);
            let locks = read_all(reader, |reader| read_record(reader, form))?;
            let next = read_optional_text(reader)?;
            View::Locks(ListResponse { locks, next, decided_at: read_decided_at(reader)? })
        }
        answer_tag::TABLES | answer_tag::TABLES_FULL => {
            let form = Form::of(tag == answer_tag::TABLES);
            let tables = read_all(reader, |reader| read_table(reader, form))?;
            let next = read_optional_text(reader)?;
            View::Tables(TablesResponse { tables, next, decided_at: read_decided_at(reader)? })
        }
        answer_tag::VERIFY => {
            let [live, is_there] = reader.flags()?;
            let holder = is_there.then(|| read_holder(reader, Form::Full)).transpose()?;
            View::Verify(VerifyResponse { live, holder, decided_at: read_decided_at(reader)? })
        }
        answer_tag::SESSION_LOCKS => {
            let locks = read_all(reader, read_session_lock)?;
            let [is_there] = reader.flags()?;
            let mut text = || reader.str().map(str::to_owned);
            let next = is_there.then(|| Ok((text()?, text()?))).transpose()?;
            let decided_at = read_decided_at(reader)?;
            View::SessionLocks(SessionLocksResponse { locks, next, decided_at })
        }
        answer_tag::DEADLOCKS => {
            let [cut] = reader.flags()?;
            let cycles = read_all(reader, |reader| read_all(reader, read_edge))?;
            let decided_at = read_decided_at(reader)?;
            View::Deadlocks(DeadlocksResponse { cycles, cut, decided_at })
        }
        answer_tag::ACCESS => View::Access(Encoding::read(reader)?),
        _ => return Err(reader.invalid()),
    })
}

fn put_error(out: &mut Vec<u8>, error: &Error) {
    let (tag, reason) = match error {
        Error::Forbidden(forbidden) => {
            let form = Form::of_forbidden(forbidden);
            out.push(form.tag(answer_tag::FORBIDDEN, answer_tag::FORBIDDEN_FULL));
            return put_forbidden(out, forbidden, form);
        }
        Error::NotFound { decided_at } => {
            out.push(answer_tag::NOT_FOUND);
            return put_decided_at(out, *decided_at);
        }
        // Who asks too often is refused before anything is forwarded.
        Error::Unavailable { reason, leader, retry_after: _ } => {
            out.push(answer_tag::UNAVAILABLE);
            put_str(out, reason);
            return put_optional_text(out, leader.as_deref());
        }
        Error::BadRequest { reason } => (answer_tag::BAD_REQUEST, reason),
        Error::Unknown { reason } => (answer_tag::UNKNOWN, reason),
        Error::Unauthorized { reason } => (answer_tag::UNAUTHORIZED, reason),
        Error::NotAllowed { reason } => (answer_tag::NOT_ALLOWED, reason),
        Error::LaneForgotten { reason } => (answer_tag::LANE_FORGOTTEN, reason),
    };
    out.push(tag);
    put_str(out, reason);
}

fn read_error(tag: u8, reader: &mut Reader<'_>) -> Result<Error, DecodeError> {
    let text = |reader: &mut Reader<'_>| reader.str().map(str::to_owned);
    Ok(match tag {
        answer_tag::FORBIDDEN => Error::Forbidden(read_forbidden(reader, Form::Plain)?),
        answer_tag::FORBIDDEN_FULL => Error::Forbidden(read_forbidden(reader, Form::Full)?),
        answer_tag::NOT_FOUND => Error::NotFound { decided_at: read_decided_at(reader)? },
        answer_tag::UNAVAILABLE => {
            let reason = text(reader)?;
            let leader = read_optional_text(reader)?;
            Error::Unavailable { reason, leader, retry_after: None }
        }
        answer_tag::BAD_REQUEST => Error::BadRequest { reason: text(reader)? },
        answer_tag::UNKNOWN => Error::Unknown { reason: text(reader)? },
        answer_tag::UNAUTHORIZED => Error::Unauthorized { reason: text(reader)? },
        answer_tag::NOT_ALLOWED => Error::NotAllowed { reason: text(reader)? },
        answer_tag::LANE_FORGOTTEN => Error::LaneForgotten { reason: text(reader)? },
        _ => return Err(reader.invalid()),
    })
}

fn put_grant(out: &mut Vec<u8>, grant: &Grant, form: Form) {
    let Grant { token: Token(token), level, expires_in, removed_in, live, mode, slot, valid } =
        grant;
    out.push(flags([removed_in.is_some(), *live]));
    put_u64(out, *token);
    put_i64(out, *level);
    for time in [Some(*expires_in), *removed_in].into_iter().flatten() {
        put_ms(out, time);
    }
    if form == Form::Full {
        out.push(mode_code(*mode));
        put_optional_numbers(out, [slot.map(u64::from)]);
        put_ms(out, *valid);
    }
}

fn read_grant(reader: &mut Reader<'_>, form: Form) -> Result<Grant, DecodeError> {
    let [is_removed, live] = reader.flags()?;
    let (token, level) = (Token(reader.u64()?), reader.i64()?);
    let expires_in = read_ms(reader)?;
    let removed_in = is_removed.then(|| read_ms(reader)).transpose()?;
    let mut grant = Grant {
        token,
        level,
        expires_in,
        removed_in,
        live,
        mode: Mode::Exclusive,
        slot: None,
        valid: expires_in,
    };
    if form == Form::Full {
        grant.mode = read_mode(reader)?;
        grant.slot = read_slot(reader)?;
        grant.valid = read_ms(reader)?;
    }
    Ok(grant)
}

fn read_slot(reader: &mut Reader<'_>) -> Result<Option<u32>, DecodeError> {
    let [slot] = read_optional_numbers(reader)?;
    slot.map(|slot| u32::try_from(slot).map_err(|_| reader.invalid())).transpose()
}

/// Its number in the list, from 1: 1 is held, 2 is lost.
fn put_reason(out: &mut Vec<u8>, reason: ForbiddenReason) {
    out.push(reason as u8 + 1);
}

fn read_reason(reader: &mut Reader<'_>) -> Result<ForbiddenReason, DecodeError> {
    let code = usize::from(reader.u8()?).checked_sub(1);
    code.and_then(|code| ForbiddenReason::ALL.get(code)).copied().ok_or(reader.invalid())
}

fn put_forbidden(out: &mut Vec<u8>, forbidden: &Forbidden, form: Form) {
    let Forbidden { reason, holders, limit, delay } = forbidden;
    put_reason(out, *reason);
    put_all(out, holders, |out, holder| put_holder(out, holder, form));
    if form == Form::Full {
        let delay = delay.map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
        put_optional_numbers(out, [limit.map(u64::from), delay]);
    }
}

fn read_forbidden(reader: &mut Reader<'_>, form: Form) -> Result<Forbidden, DecodeError> {
    let reason = read_reason(reader)?;
    let holders = read_all(reader, |reader| read_holder(reader, form))?;
    let mut forbidden = Forbidden::new(reason, holders);
    if form == Form::Full {
        let [limit, delay] = read_optional_numbers(reader)?;
        let limit = limit.map(|limit| u32::try_from(limit).map_err(|_| reader.invalid()));
        forbidden.limit = limit.transpose()?;
        forbidden.delay = delay.map(Duration::from_millis);
    }
    Ok(forbidden)
}

fn put_holder(out: &mut Vec<u8>, holder: &Holder, form: Form) {
    let Holder { signee, instance, level, token: Token(token), .. } = holder;
    let Holder { expires_in, expired, removed_in, mode, slot, session, .. } = holder;
    out.push(flags([instance.is_some(), *expired, removed_in.is_some()]));
    for text in std::iter::once(signee).chain(instance) {
        put_str(out, text);
    }
    put_i64(out, *level);
    put_u64(out, *token);
    for time in [Some(*expires_in), *removed_in].into_iter().flatten() {
        put_ms(out, time);
    }
    if form == Form::Full {
        out.push(mode_code(*mode));
        put_optional_numbers(out, [slot.map(u64::from)]);
        put_optional_session(out, *session);
    }
}

fn read_holder(reader: &mut Reader<'_>, form: Form) -> Result<Holder, DecodeError> {
    let [has_instance, expired, is_removed] = reader.flags()?;
    let mut holder = Holder {
        signee: reader.str()?.to_owned(),
        instance: has_instance.then(|| reader.str().map(str::to_owned)).transpose()?,
        level: reader.i64()?,
        token: Token(reader.u64()?),
        expires_in: read_ms(reader)?,
        expired,
        removed_in: is_removed.then(|| read_ms(reader)).transpose()?,
        ..Holder::default()
    };
    if form == Form::Full {
        holder.mode = read_mode(reader)?;
        holder.slot = read_slot(reader)?;
        holder.session = read_optional_session(reader)?;
    }
    Ok(holder)
}

fn put_place(out: &mut Vec<u8>, shown: &Place) {
    let Place { place, signee, instance, session, level, mode, since, position } = shown;
    put_positions(out, [*place]);
    out.push(flags([instance.is_some()]));
    for text in std::iter::once(signee).chain(instance) {
        put_str(out, text);
    }
    put_optional_session(out, *session);
    put_i64(out, *level);
    out.push(mode_code(*mode));
    put_ms(out, *since);
    put_u64(out, *position);
}

fn read_place(reader: &mut Reader<'_>) -> Result<Place, DecodeError> {
    let place = read_position(reader)?;
    let [has_instance] = reader.flags()?;
    Ok(Place {
        place,
        signee: reader.str()?.to_owned(),
        instance: has_instance.then(|| reader.str().map(str::to_owned)).transpose()?,
        session: read_optional_session(reader)?,
        level: reader.i64()?,
        mode: read_mode(reader)?,
        since: read_ms(reader)?,
        position: reader.u64()?,
    })
}

fn put_record(out: &mut Vec<u8>, record: &LockRecord, form: Form) {
    let LockRecord { signature, holders, more_holders, limit, waiting, places } = record;
    put_str(out, signature);
    put_all(out, holders, |out, holder| put_holder(out, holder, form));
    if form == Form::Full {
        put_optional_numbers(out, [limit.map(u64::from)]);
        put_u64(out, *more_holders);
        put_u64(out, *waiting);
        put_all(out, places, put_place);
    }
}

fn read_record(reader: &mut Reader<'_>, form: Form) -> Result<LockRecord, DecodeError> {
    let signature = reader.str()?.to_owned();
    let holders = read_all(reader, |reader| read_holder(reader, form))?;
    let mut record = LockRecord {
        signature,
        holders,
        more_holders: 0,
        limit: None,
        waiting: 0,
        places: Vec::new(),
    };
    if form == Form::Full {
        record.limit = read_slot(reader)?;
        record.more_holders = reader.u64()?;
        record.waiting = reader.u64()?;
        record.places = read_all(reader, read_place)?;
    }
    Ok(record)
}

fn put_session_lock(out: &mut Vec<u8>, lock: &SessionLock) {
    let SessionLock { table, signature, holders, places } = lock;
    put_str(out, table);
    put_str(out, signature);
    put_all(out, holders, |out, holder| put_holder(out, holder, Form::Full));
    put_all(out, places, put_place);
}

fn read_session_lock(reader: &mut Reader<'_>) -> Result<SessionLock, DecodeError> {
    Ok(SessionLock {
        table: reader.str()?.to_owned(),
        signature: reader.str()?.to_owned(),
        holders: read_all(reader, |reader| read_holder(reader, Form::Full))?,
        places: read_all(reader, read_place)?,
    })
}

fn put_edge(out: &mut Vec<u8>, edge: &DeadlockEdge) {
    let DeadlockEdge { signee, instance, table, signature } = edge;
    out.push(flags([instance.is_some()]));
    for text in std::iter::once(signee).chain(instance).chain([table, signature]) {
        put_str(out, text);
    }
}

fn read_edge(reader: &mut Reader<'_>) -> Result<DeadlockEdge, DecodeError> {
    let [has_instance] = reader.flags()?;
    let mut text = || reader.str().map(str::to_owned);
    let signee = text()?;
    let instance = has_instance.then(&mut text).transpose()?;
    Ok(DeadlockEdge { signee, instance, table: text()?, signature: text()? })
}

fn put_session_id(out: &mut Vec<u8>, id: SessionId) {
    out.extend_from_slice(&id.0.to_be_bytes());
}

fn put_optional_session(out: &mut Vec<u8>, session: Option<SessionId>) {
    out.push(flags([session.is_some()]));
    if let Some(session) = session {
        put_session_id(out, session);
    }
}

fn read_optional_session(reader: &mut Reader<'_>) -> Result<Option<SessionId>, DecodeError> {
    let [is_there] = reader.flags()?;
    is_there.then(|| read_session_id(reader)).transpose()
}

fn put_liveness(out: &mut Vec<u8>, liveness: &Liveness) {
    match liveness {
        Liveness::Alive { valid, inbox, more, overflow } => {
            out.push(flags([true, *more, *overflow]));
            put_ms(out, *valid);
            put_all(out, inbox, put_item);
        }
        Liveness::Lost => out.push(flags([false, false, false])),
    }
}

fn read_liveness(reader: &mut Reader<'_>) -> Result<Liveness, DecodeError> {
    let [is_alive, more, overflow] = reader.flags()?;
    if !is_alive {
        return if more || overflow { Err(reader.invalid()) } else { Ok(Liveness::Lost) };
    }
    let (valid, inbox) = (read_ms(reader)?, read_all(reader, read_item)?);
    Ok(Liveness::Alive { valid, inbox, more, overflow })
}

fn put_item(out: &mut Vec<u8>, item: &InboxItem) {
    let InboxItem { position, table, signature, signee, instance, news } = item;
    put_positions(out, [*position]);
    out.push(flags([instance.is_some()]));
    for text in [table, signature, signee].into_iter().chain(instance) {
        put_str(out, text);
    }
    match news {
        News::Granted { token, level, mode, slot } => {
            out.push(1);
            put_u64(out, token.0);
            put_i64(out, *level);
            out.push(mode_code(*mode));
            put_optional_numbers(out, [slot.map(u64::from)]);
        }
        News::Ended(reason) => {
            out.push(2);
            put_reason(out, *reason);
        }
        News::Lost { token, reason } => {
            out.push(3);
            put_optional_numbers(out, [token.map(|token| token.0)]);
            // Its number in the list, from 1.
            out.push(*reason as u8 + 1);
        }
    }
}

fn read_item(reader: &mut Reader<'_>) -> Result<InboxItem, DecodeError> {
    let position = read_position(reader)?;
    let [has_instance] = reader.flags()?;
    let mut text = || reader.str().map(str::to_owned);
    let (table, signature, signee) = (text()?, text()?, text()?);
    let instance = has_instance.then(text).transpose()?;
    let news = match reader.u8()? {
        1 => News::Granted {
            token: Token(reader.u64()?),
            level: reader.i64()?,
            mode: read_mode(reader)?,
            slot: read_slot(reader)?,
        },
        2 => News::Ended(read_reason(reader)?),
        3 => {
            let [token] = read_optional_numbers(reader)?;
            let code = usize::from(reader.u8()?).checked_sub(1);
            let reason = code.and_then(|code| Loss::ALL.get(code)).copied();
            News::Lost { token: token.map(Token), reason: reason.ok_or(reader.invalid())? }
        }
        _ => return Err(reader.invalid()),
    };
    Ok(InboxItem { position, table, signature, signee, instance, news })
}

fn put_table(out: &mut Vec<u8>, info: &TableInfo, form: Form) {
    let TableInfo { table, defaults, locks } = info;
    let TableDefaults { duration, time_to_live, lock_delay, max_hold } = defaults;
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
    if form == Form::Full {
        let ms = |time: &Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        put_optional_numbers(out, [lock_delay.as_ref().map(ms), max_hold.as_ref().map(ms)]);
    }
}

fn read_table(reader: &mut Reader<'_>, form: Form) -> Result<TableInfo, DecodeError> {
    let [has_duration, is_ms, is_for_ever] = reader.flags()?;
    let table = reader.str()?.to_owned();
    let duration = has_duration.then(|| read_ms(reader)).transpose()?;
    let time_to_live = read_keep(reader, [is_ms, is_for_ever])?.map(Into::into);
    let locks = reader.u64()?;
    let mut defaults = TableDefaults { duration, time_to_live, ..TableDefaults::default() };
    if form == Form::Full {
        let [lock_delay, max_hold] = read_optional_numbers(reader)?;
        defaults.lock_delay = lock_delay.map(Duration::from_millis);
        defaults.max_hold = max_hold.map(Duration::from_millis);
    }
    Ok(TableInfo { table, defaults, locks })
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
