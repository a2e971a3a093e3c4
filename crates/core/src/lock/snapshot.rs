//! A state as bytes, for snapshots and for the checkpoint.
//!
//! Both are made of the same two parts: *meta* (the cluster clock, the next token, the feature
//! level, counters) and *records*, each a key and a value: one per grant, per request lane and per
//! table with defaults. A key is a tag, then names and numbers whose byte order is the order of the
//! state; a value begins with its version. A snapshot is a header, the meta bytes and all records
//! in key order, each part behind its length. So equal states give equal bytes, and the records of
//! a checkpoint are read like those of a snapshot.
//!
//! The deadline indexes, the ages of lanes and the sums over tables are not written: they follow
//! from the records. Nothing is written of a deleted table. Names are not validated again, see
//! `codec.rs`.

use std::io::{self, Read, Write};
use std::sync::Arc;

use crate::codec::{DecodeError, Reader, flags, put_bytes, put_i64, put_str, put_u64};
use crate::lock::changes::RecordKey;
use crate::lock::encoding::{keep_flags, keep_ms, read_keep};
use crate::lock::lanes::{Effect, Granted, Lane};
use crate::lock::locks::Defaults;
use crate::lock::record::{Grant, Key, Rare};
use crate::lock::{ClusterTime, State};
use crate::types::{DecidedAt, ForbiddenReason, MAX_SAFE_INTEGER, Token, TransferReason};

/// The magic bytes of a snapshot's body.
const MAGIC: [u8; 4] = *b"KWLM";
/// The version of the snapshot's frame.
const VERSION: u8 = 1;
/// The version of the meta bytes.
const META_VERSION: u8 = 1;
/// The version of each kind of value.
const GRANT_VERSION: u8 = 1;
const LANE_VERSION: u8 = 1;
const TABLE_VERSION: u8 = 1;

/// The tags of keys. Waiters, sessions and transfers will get tags of their own.
const GRANT: u8 = b'g';
const LANE: u8 = b'l';
const TABLE: u8 = b't';

/// The encoding of the only mode.
const EXCLUSIVE: u8 = 1;

/// The size of the buffer between a state and a writer: large enough that system calls do not
/// matter.
const BUFFER_BYTES: usize = 64 * 1024;

impl State {
    /// The state as bytes. Equal states give equal bytes.
    ///
    /// # Panics
    /// Never: writing to memory does not fail.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode_into(&mut out).expect("writing to memory does not fail");
        out
    }

    /// Writes the bytes of [`State::encode`] piece by piece, so that a large state is never in
    /// memory twice.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn encode_into(&self, writer: &mut impl Write) -> io::Result<()> {
        let mut buffer = Vec::with_capacity(BUFFER_BYTES);
        buffer.extend_from_slice(&MAGIC);
        buffer.push(VERSION);
        put_bytes(&mut buffer, &self.encoded_meta());
        for (key, value) in self.encoded_records() {
            put_bytes(&mut buffer, &key);
            put_bytes(&mut buffer, &value);
            if buffer.len() >= BUFFER_BYTES {
                writer.write_all(&buffer)?;
                buffer.clear();
            }
        }
        writer.write_all(&buffer)
    }

    /// Reads the bytes of [`State::encode`].
    ///
    /// # Errors
    /// If the bytes are not a state. It never panics.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes, "a snapshot");
        if reader.array::<4>()? != MAGIC {
            return Err(reader.invalid());
        }
        reader.version(VERSION)?;
        let mut loader = Loader::new(reader.bytes()?)?;
        while !loader.is_complete() {
            let key = reader.bytes()?;
            loader.add(key, reader.bytes()?)?;
        }
        reader.end()?;
        loader.finish()
    }

    /// Reads the bytes of [`State::encode_into`], up to the end of the reader and piece by piece.
    /// Give it a buffered reader.
    ///
    /// # Errors
    /// Those of the reader; with a [`DecodeError`], `InvalidData` if the bytes are not a state and
    /// `Unsupported` if a newer program wrote them.
    pub fn decode_from(reader: &mut impl Read) -> io::Result<Self> {
        let mut header = [0; MAGIC.len() + 1];
        reader.read_exact(&mut header)?;
        let mut check = Reader::new(&header, "a snapshot");
        if check.array::<4>().map_err(invalid_data)? != MAGIC {
            return Err(invalid_data(check.invalid()));
        }
        check.version(VERSION).map_err(invalid_data)?;
        let mut key = Vec::new();
        let mut value = Vec::new();
        read_part(reader, &mut value)?;
        let mut loader = Loader::new(&value).map_err(invalid_data)?;
        while !loader.is_complete() {
            read_part(reader, &mut key)?;
            read_part(reader, &mut value)?;
            loader.add(&key, &value).map_err(invalid_data)?;
        }
        if reader.read(&mut [0])? != 0 {
            return Err(invalid_data(DecodeError::Trailing("a snapshot")));
        }
        loader.finish().map_err(invalid_data)
    }

    /// Builds a state from the result of [`State::take_changes`], or from [`State::encoded_meta`]
    /// and [`State::encoded_records`].
    ///
    /// # Errors
    /// If the bytes are not a state's.
    pub fn from_records<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        meta: &[u8],
        records: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, DecodeError> {
        let mut loader = Loader::new(meta)?;
        for (key, value) in records {
            loader.add(key.as_ref(), value.as_ref())?;
        }
        loader.finish()
    }

    /// The meta bytes: everything that is not a record, and the number of records.
    pub fn encoded_meta(&self) -> Vec<u8> {
        let records = self.locks.len() + self.lanes.len() as u64 + self.locks.configured();
        let mut out = vec![META_VERSION];
        put_u64(&mut out, u64::from(self.feature_level));
        put_u64(&mut out, self.clock.0);
        put_u64(&mut out, self.next_token);
        put_u64(&mut out, self.locks.expiries);
        put_u64(&mut out, self.locks.removals);
        put_u64(&mut out, self.lanes.evicted_young);
        put_u64(&mut out, records);
        out
    }

    /// Every record as key and value bytes, in key order, to refill a checkpoint.
    pub fn encoded_records(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> + '_ {
        let grants = self.locks.iter().flat_map(|(key, record)| {
            let pair = move |grant: &Grant| (grant_key(key, grant.token), grant_value(grant));
            record.grants.iter().map(pair)
        });
        let lanes = self.lanes.iter().map(|(id, lane)| (lane_key(id), lane_value(lane)));
        let tables = self.locks.all_defaults();
        let tables = tables.map(|(name, defaults)| (table_key(name), table_value(defaults)));
        grants.chain(lanes).chain(tables)
    }

    /// The value that a record has now; `None` if it is gone.
    pub(super) fn encoded_record(&self, key: &RecordKey) -> Option<Vec<u8>> {
        match key {
            RecordKey::Grant(key, token) => {
                let grants = &self.locks.get(key)?.grants;
                grants.iter().find(|grant| grant.token == *token).map(grant_value)
            }
            RecordKey::Lane(id) => self.lanes.get(*id).map(lane_value),
            RecordKey::Table(name) => {
                let defaults = self.locks.defaults(name);
                (defaults != Defaults::default()).then(|| table_value(defaults))
            }
        }
    }
}

impl RecordKey {
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Grant(key, token) => grant_key(key, *token),
            Self::Lane(id) => lane_key(*id),
            Self::Table(name) => table_key(name),
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        const WHAT: &str = "the key of a record";
        let invalid = || DecodeError::Invalid(WHAT);
        let text = |bytes| std::str::from_utf8(bytes).map_err(|_| invalid());
        let mut reader = Reader::new(bytes, WHAT);
        match reader.u8()? {
            GRANT => {
                let (names, token) = reader.rest().split_last_chunk().ok_or_else(invalid)?;
                let names = names.strip_suffix(b"\0").ok_or_else(invalid)?;
                let (table, signature) = text(names)?.split_once('\0').ok_or_else(invalid)?;
                let key = Key::new(table, signature).ok_or_else(invalid)?;
                Ok(Self::Grant(key, Token(u64::from_be_bytes(*token))))
            }
            LANE => {
                let id = u128::from_be_bytes(reader.array()?);
                reader.end()?;
                Ok(Self::Lane(id))
            }
            TABLE => Ok(Self::Table(text(reader.rest())?.into())),
            _ => Err(invalid()),
        }
    }
}

/// Builds a state from its meta bytes and its records, in any order. Refuses data that this program
/// does not understand: the replica would answer differently from the others.
#[derive(Debug)]
pub struct Loader {
    state: State,
    missing: u64,
}

impl Loader {
    /// Creates a loader from the meta bytes.
    ///
    /// # Errors
    /// If they are not meta bytes, or of a newer version.
    pub fn new(meta: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(meta, "the meta data of a state");
        reader.version(META_VERSION)?;
        let mut state = State::new();
        state.feature_level = reader.u32()?;
        state.clock = ClusterTime(reader.u64()?);
        state.next_token = reader.u64()?;
        state.locks.expiries = reader.u64()?;
        state.locks.removals = reader.u64()?;
        state.lanes.evicted_young = reader.u64()?;
        let missing = reader.u64()?;
        if state.feature_level == 0 || !(1..=MAX_SAFE_INTEGER + 1).contains(&state.next_token) {
            return Err(reader.invalid());
        }
        reader.end()?;
        Ok(Self { state, missing })
    }

    /// Whether as many records were added as the meta bytes announce.
    pub fn is_complete(&self) -> bool {
        self.missing == 0
    }

    /// Adds one record.
    ///
    /// # Errors
    /// If it is not a record, or contradicts another or the meta bytes.
    pub fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), DecodeError> {
        self.missing = self.missing.checked_sub(1).ok_or(DecodeError::Trailing("the records"))?;
        let state = &mut self.state;
        let is_new = match RecordKey::decode(key)? {
            RecordKey::Grant(key, token) => {
                let grant = read_grant(token, value, state)?;
                state.locks.load(key, grant)
            }
            RecordKey::Lane(id) => state.lanes.load(id, read_lane(value)?),
            RecordKey::Table(name) => state.locks.load_defaults(&name, read_table(value)?),
        };
        if is_new { Ok(()) } else { Err(DecodeError::Invalid("records: two for one key")) }
    }

    /// The state.
    ///
    /// # Errors
    /// If records are missing.
    pub fn finish(mut self) -> Result<State, DecodeError> {
        if !self.is_complete() {
            return Err(DecodeError::Truncated("the records"));
        }
        self.state.locks.load_deadlines();
        Ok(self.state)
    }
}

/// The token comes last and in full width, after a second NUL: so the byte order is that of (table,
/// signature, token).
fn grant_key(key: &Key, token: Token) -> Vec<u8> {
    let mut out = Vec::with_capacity(key.as_bytes().len() + 10);
    out.push(GRANT);
    out.extend_from_slice(key.as_bytes());
    out.push(0);
    out.extend_from_slice(&token.0.to_be_bytes());
    out
}

fn lane_key(id: u128) -> Vec<u8> {
    let mut out = vec![LANE];
    out.extend_from_slice(&id.to_be_bytes());
    out
}

fn table_key(name: &Arc<str>) -> Vec<u8> {
    let mut out = vec![TABLE];
    out.extend_from_slice(name.as_bytes());
    out
}

/// Mode and limit are written with each grant: a record has no value of its own.
fn grant_value(grant: &Grant) -> Vec<u8> {
    let has_removal = grant.removal != ClusterTime::NEVER;
    let instance = grant.instance();
    let mut out = Vec::with_capacity(48 + grant.signee.len());
    out.push(GRANT_VERSION);
    out.push(flags([grant.expired, has_removal, instance.is_some()]));
    out.push(EXCLUSIVE);
    put_u64(&mut out, 1);
    put_i64(&mut out, grant.level);
    put_u64(&mut out, grant.deadline.0);
    if has_removal {
        // A time_to_live is never shorter than the duration.
        put_u64(&mut out, grant.removal.0 - grant.deadline.0);
    }
    put_u64(&mut out, grant.deadline.0 - grant.since.0);
    put_str(&mut out, &grant.signee);
    if let Some(instance) = instance {
        put_str(&mut out, instance);
    }
    out
}

fn read_grant(token: Token, value: &[u8], state: &State) -> Result<Grant, DecodeError> {
    let mut reader = Reader::new(value, "a grant");
    reader.version(GRANT_VERSION)?;
    let [expired, has_removal, has_instance] = reader.flags()?;
    if reader.u8()? != EXCLUSIVE || reader.u64()? != 1 {
        return Err(reader.invalid());
    }
    let level = reader.i64()?;
    let deadline = ClusterTime(reader.u64()?);
    let removal = if has_removal {
        let removal = deadline.0.checked_add(reader.u64()?).ok_or(reader.invalid())?;
        ClusterTime(removal)
    } else {
        ClusterTime::NEVER
    };
    let since = ClusterTime(deadline.0.checked_sub(reader.u64()?).ok_or(reader.invalid())?);
    let signee = reader.str()?.into();
    let rare = Rare::boxed(has_instance.then(|| reader.str()).transpose()?);
    reader.end()?;
    let impossible = token.0 == 0
        || token.0 >= state.next_token
        || (has_removal && removal == ClusterTime::NEVER)
        || since > state.clock
        || (expired && !deadline.reached(state.clock));
    if impossible {
        return Err(reader.invalid());
    }
    Ok(Grant { token, level, since, deadline, removal, signee, rare, expired })
}

/// The tags of effects. A tag is never reused with another meaning.
const GRANTED: u8 = 1;
const RENEWED: u8 = 2;
const TRANSFERRED_EXPIRED: u8 = 3;
const TRANSFERRED_FORCED: u8 = 4;
const TRANSFERRED_PREEMPTED: u8 = 5;
const LOCK_REFUSED_HELD: u8 = 6;
const LOCK_REFUSED_LOST: u8 = 7;
const RELEASED: u8 = 8;
const NO_LOCK: u8 = 9;
const UNLOCK_REFUSED_HELD: u8 = 10;
const UNLOCK_REFUSED_LOST: u8 = 11;
const TABLE_DONE: u8 = 12;
const TOO_SHORT: u8 = 13;
const TOKENS_EXHAUSTED: u8 = 14;
const NO_TABLE: u8 = 15;

fn lane_value(lane: &Lane) -> Vec<u8> {
    let mut out = vec![LANE_VERSION];
    put_u64(&mut out, lane.seq);
    out.extend_from_slice(&lane.digest.to_be_bytes());
    put_u64(&mut out, lane.last_used.0);
    put_u64(&mut out, lane.decided_at.index);
    put_u64(&mut out, lane.decided_at.position.into());
    put_effect(&mut out, &lane.effect);
    out
}

fn read_lane(value: &[u8]) -> Result<Lane, DecodeError> {
    let mut reader = Reader::new(value, "a request lane");
    reader.version(LANE_VERSION)?;
    let lane = Lane {
        seq: reader.u64()?,
        digest: u128::from_be_bytes(reader.array()?),
        last_used: ClusterTime(reader.u64()?),
        decided_at: DecidedAt { index: reader.u64()?, position: reader.u32()? },
        effect: read_effect(&mut reader)?,
    };
    reader.end()?;
    Ok(lane)
}

fn put_effect(out: &mut Vec<u8>, effect: &Effect) {
    out.push(match effect {
        Effect::Granted { how: Granted::Ok, .. } => GRANTED,
        Effect::Granted { how: Granted::Renewed, .. } => RENEWED,
        Effect::Granted { how: Granted::Transferred { reason, .. }, .. } => match reason {
            TransferReason::Expired => TRANSFERRED_EXPIRED,
            TransferReason::Forced => TRANSFERRED_FORCED,
            TransferReason::Preempted => TRANSFERRED_PREEMPTED,
        },
        Effect::LockRefused(ForbiddenReason::Held) => LOCK_REFUSED_HELD,
        Effect::LockRefused(ForbiddenReason::Lost) => LOCK_REFUSED_LOST,
        Effect::Released => RELEASED,
        Effect::NoLock => NO_LOCK,
        Effect::UnlockRefused(ForbiddenReason::Held) => UNLOCK_REFUSED_HELD,
        Effect::UnlockRefused(ForbiddenReason::Lost) => UNLOCK_REFUSED_LOST,
        Effect::Table => TABLE_DONE,
        Effect::NoTable => NO_TABLE,
        Effect::TooShort { .. } => TOO_SHORT,
        Effect::TokensExhausted => TOKENS_EXHAUSTED,
    });
    if let Effect::TooShort { time_to_live_ms, duration_ms } = effect {
        put_u64(out, *time_to_live_ms);
        put_u64(out, *duration_ms);
    }
    if let Effect::Granted { how, token, level } = effect {
        put_u64(out, token.0);
        put_i64(out, *level);
        if let Granted::Transferred { previous_signee, .. } = how {
            put_str(out, previous_signee);
        }
    }
}

fn read_effect(reader: &mut Reader<'_>) -> Result<Effect, DecodeError> {
    let tag = reader.u8()?;
    let reason = match tag {
        GRANTED | RENEWED => None,
        TRANSFERRED_EXPIRED => Some(TransferReason::Expired),
        TRANSFERRED_FORCED => Some(TransferReason::Forced),
        TRANSFERRED_PREEMPTED => Some(TransferReason::Preempted),
        LOCK_REFUSED_HELD => return Ok(Effect::LockRefused(ForbiddenReason::Held)),
        LOCK_REFUSED_LOST => return Ok(Effect::LockRefused(ForbiddenReason::Lost)),
        RELEASED => return Ok(Effect::Released),
        NO_LOCK => return Ok(Effect::NoLock),
        UNLOCK_REFUSED_HELD => return Ok(Effect::UnlockRefused(ForbiddenReason::Held)),
        UNLOCK_REFUSED_LOST => return Ok(Effect::UnlockRefused(ForbiddenReason::Lost)),
        TABLE_DONE => return Ok(Effect::Table),
        NO_TABLE => return Ok(Effect::NoTable),
        TOO_SHORT => {
            let (time_to_live_ms, duration_ms) = (reader.u64()?, reader.u64()?);
            return Ok(Effect::TooShort { time_to_live_ms, duration_ms });
        }
        TOKENS_EXHAUSTED => return Ok(Effect::TokensExhausted),
        _ => return Err(reader.invalid()),
    };
    let token = Token(reader.u64()?);
    let level = reader.i64()?;
    let how = match reason {
        Some(reason) => Granted::Transferred { previous_signee: reader.str()?.into(), reason },
        None if tag == RENEWED => Granted::Renewed,
        None => Granted::Ok,
    };
    Ok(Effect::Granted { how, token, level })
}

fn table_value(defaults: Defaults) -> Vec<u8> {
    let Defaults { duration_ms, time_to_live } = defaults;
    let mut out = vec![TABLE_VERSION];
    let [is_ms, is_for_ever] = keep_flags(time_to_live);
    out.push(flags([duration_ms.is_some(), is_ms, is_for_ever]));
    for value in [duration_ms, keep_ms(time_to_live)].into_iter().flatten() {
        put_u64(&mut out, value);
    }
    out
}

fn read_table(value: &[u8]) -> Result<Defaults, DecodeError> {
    let mut reader = Reader::new(value, "the defaults of a table");
    reader.version(TABLE_VERSION)?;
    let [has_duration, is_ms, is_for_ever] = reader.flags()?;
    let duration_ms = has_duration.then(|| reader.u64()).transpose()?;
    let time_to_live = read_keep(&mut reader, [is_ms, is_for_ever])?;
    reader.end()?;
    Ok(Defaults { duration_ms, time_to_live })
}

/// Reads a length and that many bytes. The length is not trusted: the buffer grows with the bytes
/// that arrive.
fn read_part(reader: &mut impl Read, part: &mut Vec<u8>) -> io::Result<()> {
    let mut length = Vec::with_capacity(10);
    loop {
        let mut byte = [0];
        reader.read_exact(&mut byte)?;
        length.push(byte[0]);
        if byte[0] & 0x80 == 0 || length.len() == 10 {
            break;
        }
    }
    let mut check = Reader::new(&length, "a length in a snapshot");
    let length = check.u64().map_err(invalid_data)?;
    part.clear();
    let read = reader.by_ref().take(length).read_to_end(part)?;
    if read as u64 == length {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, DecodeError::Truncated("a snapshot")))
    }
}

fn invalid_data(error: DecodeError) -> io::Error {
    let is_newer = matches!(error, DecodeError::TooNew { .. });
    let kind = if is_newer { io::ErrorKind::Unsupported } else { io::ErrorKind::InvalidData };
    io::Error::new(kind, error)
}
