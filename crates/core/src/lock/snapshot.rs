//! A state as bytes, for snapshots and for the checkpoint.
//!
//! Both are made of the same two parts: *meta* (the cluster clock, the next token, the feature
//! level, counters) and *records*, each a key and a value: one per grant, place, session, item of an
//! inbox, request lane, table with defaults, access rule and access token, and one per lock with a limit or a hand-over that
//! was broken off. A key is a tag, then names and numbers whose byte order is the order of the
//! state; a value begins with its version. A snapshot is a header, the meta bytes and all records
//! in key order, each part behind its length. So equal states give equal bytes, and the records of
//! a checkpoint are read like those of a snapshot.
//!
//! The deadline indexes, the ages of lanes and the sums over tables are not written: they follow
//! from the records. Nothing is written of a deleted table but what is yet to be told of its end. Names are not validated again, see
//! `codec.rs`.

use std::io::{self, Read, Write};
use std::sync::Arc;

use crate::access::{AccessToken, Rule, RuleKey};
use crate::codec::{
    DecodeError, Encoding as _, Reader, flags, put_bytes, put_i64, put_str, put_u64,
};
use crate::lock::changes::RecordKey;
use crate::lock::encoding::{
    keep_flags, keep_ms, mode_code, put_optional_numbers, put_positions, read_keep, read_mode,
    read_optional_numbers, read_position, read_session_id,
};
use crate::lock::lanes::{Effect, Granted, Lane};
use crate::lock::locks::Defaults;
use crate::lock::queue::{Lasts, Place, Terms};
use crate::lock::record::{Grant, Key, Owner, Rare, Record};
use crate::lock::sessions::{Ended, Item, Session};
use crate::lock::table::{Deletion, Value};
use crate::lock::{ClusterTime, State};
use crate::principal::TokenId;
use crate::types::{
    DecidedAt, ForbiddenReason, Loss, MAX_PERMITS, MAX_SAFE_INTEGER, Mode, News, RequestId,
    SessionId, Token, TransferReason,
};

/// The magic bytes of a snapshot's body.
const MAGIC: [u8; 4] = *b"KWLM";
/// The version of the snapshot's frame.
const VERSION: u8 = 1;
/// The version of the meta bytes. Those of a state without access control are written as version 1.
const META_VERSION: u8 = 2;
/// The version of each kind of value. Values that have nothing of feature level 2 are written as
/// version 1.
const GRANT_VERSION: u8 = 2;
const LANE_VERSION: u8 = 2;
const TABLE_VERSION: u8 = 3;
const PLACE_VERSION: u8 = 1;
const SESSION_VERSION: u8 = 1;
const ITEM_VERSION: u8 = 1;
const LOCK_VERSION: u8 = 1;
const RULE_VERSION: u8 = 1;
const CREDENTIAL_VERSION: u8 = 1;
const FIRST_VERSION: u8 = 1;

/// The tags of keys.
const CREDENTIAL: u8 = b'c';
const GRANT: u8 = b'g';
const ITEM: u8 = b'i';
const LOCK: u8 = b'k';
const LANE: u8 = b'l';
const PLACE: u8 = b'p';
const RULE: u8 = b'r';
const SESSION: u8 = b's';
const TABLE: u8 = b't';

/// The encoding of the mode of a grant of version 1.
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
        let waiting = self.totals.places + self.sessions.len() + self.sessions.items();
        let locks = self.locks.grants() + self.locks.noted() + self.locks.configured();
        let records = locks + self.lanes.len() as u64 + waiting;
        let records = records + self.access.records();
        let is_on = self.access.is_on();
        let mut out = vec![if is_on { META_VERSION } else { FIRST_VERSION }];
        put_u64(&mut out, u64::from(self.feature_level));
        put_u64(&mut out, self.clock.0);
        put_u64(&mut out, self.next_token);
        put_u64(&mut out, self.locks.expiries);
        put_u64(&mut out, self.locks.removals);
        put_u64(&mut out, self.lanes.evicted_young);
        put_u64(&mut out, records);
        if is_on {
            out.push(flags([true]));
        }
        out
    }

    /// Every record as key and value bytes, in key order, to refill a checkpoint.
    pub fn encoded_records(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> + '_ {
        let grants = self.locks.iter().flat_map(|(key, record)| {
            let mode = record.mode;
            let pair = move |grant| (grant_key(key, grant_token(grant)), grant_value(mode, grant));
            record.holders.iter().map(pair)
        });
        let items = self.sessions.iter().flat_map(|(id, session)| {
            session.inbox.iter().map(move |item| (item_key(id, item.position), item_value(item)))
        });
        let locks = self.locks.all_entangled();
        let locks = locks.filter_map(|(key, record)| Some((lock_key(key), lock_value(record)?)));
        let lanes = self.lanes.iter().map(|(id, lane)| (lane_key(id), lane_value(lane)));
        let places = self.locks.waited_for().flat_map(|(key, record)| {
            let places = record.queue.iter().flat_map(|queue| queue.iter());
            places.map(move |place| (place_key(key, place.at), place_value(place)))
        });
        let sessions = self.sessions.iter();
        let sessions = sessions.map(|(id, session)| (session_key(id), session_value(session)));
        let tables = self.locks.all_values();
        let tables = tables.map(|(name, value)| (table_key(name), table_value(value)));
        let tokens = self.access.tokens();
        let tokens = tokens.map(|(id, token)| (credential_key(id), credential_value(token)));
        let rules = self.access.rules().map(|(key, rule)| (rule_key(key), rule_value(rule)));
        let locks = grants.chain(items).chain(locks).chain(lanes).chain(places);
        tokens.chain(locks).chain(rules).chain(sessions).chain(tables)
    }

    /// The value that a record has now; `None` if it is gone.
    pub(super) fn encoded_record(&self, key: &RecordKey) -> Option<Vec<u8>> {
        match key {
            RecordKey::Credential(id) => self.access.token_named(*id).map(credential_value),
            RecordKey::Rule(key) => self.access.rule(key).map(rule_value),
            RecordKey::Grant(key, token) => {
                let record = self.locks.get(key)?;
                record.holders.get(*token).map(|grant| grant_value(record.mode, grant))
            }
            RecordKey::Item(id, position) => {
                self.sessions.get(*id)?.inbox.get(*position).map(item_value)
            }
            RecordKey::Lock(key) => lock_value(self.locks.get(key)?),
            RecordKey::Lane(id) => self.lanes.get(*id).map(lane_value),
            RecordKey::Place(key, at) => {
                self.locks.get(key)?.queue.as_ref()?.get(*at).map(place_value)
            }
            RecordKey::Session(id) => self.sessions.get(*id).map(session_value),
            RecordKey::Table(name) => {
                let value = self.locks.value(name);
                (value != Value::default()).then(|| table_value(value))
            }
        }
    }
}

impl RecordKey {
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Credential(id) => credential_key(*id),
            Self::Grant(key, token) => grant_key(key, *token),
            Self::Item(id, position) => item_key(*id, *position),
            Self::Lock(key) => lock_key(key),
            Self::Lane(id) => lane_key(*id),
            Self::Place(key, at) => place_key(key, *at),
            Self::Rule(key) => rule_key(key),
            Self::Session(id) => session_key(*id),
            Self::Table(name) => table_key(name),
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        const WHAT: &str = "the key of a record";
        let invalid = || DecodeError::Invalid(WHAT);
        let text = |bytes| std::str::from_utf8(bytes).map_err(|_| invalid());
        let mut reader = Reader::new(bytes, WHAT);
        match reader.u8()? {
            CREDENTIAL => {
                let id = TokenId(u64::from_be_bytes(reader.array()?));
                reader.end()?;
                Ok(Self::Credential(id))
            }
            RULE => Ok(Self::Rule(reader.rest().into())),
            GRANT => {
                let (names, token) = reader.rest().split_last_chunk().ok_or_else(invalid)?;
                let names = names.strip_suffix(b"\0").ok_or_else(invalid)?;
                let (table, signature) = text(names)?.split_once('\0').ok_or_else(invalid)?;
                let key = Key::new(table, signature).ok_or_else(invalid)?;
                Ok(Self::Grant(key, Token(u64::from_be_bytes(*token))))
            }
            ITEM => {
                let id = read_session_id(&mut reader)?;
                let position = position_of(reader.array()?);
                reader.end()?;
                Ok(Self::Item(id, position))
            }
            LOCK => {
                let (table, signature) =
                    text(reader.rest())?.split_once('\0').ok_or_else(invalid)?;
                Ok(Self::Lock(Key::new(table, signature).ok_or_else(invalid)?))
            }
            PLACE => {
                let (names, at) = reader.rest().split_last_chunk().ok_or_else(invalid)?;
                let names = names.strip_suffix(b"\0").ok_or_else(invalid)?;
                let (table, signature) = text(names)?.split_once('\0').ok_or_else(invalid)?;
                let key = Key::new(table, signature).ok_or_else(invalid)?;
                Ok(Self::Place(key, position_of(*at)))
            }
            SESSION => {
                let id = read_session_id(&mut reader)?;
                reader.end()?;
                Ok(Self::Session(id))
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
    /// Items whose sessions are not known yet.
    items: Vec<(SessionId, Item)>,
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
        if meta.first() != Some(&FIRST_VERSION) {
            // A state that is off is written as version 1.
            if reader.flags()? != [true] {
                return Err(reader.invalid());
            }
            Arc::make_mut(&mut state.access).load_switch(true);
        }
        if state.feature_level == 0 || !(1..=MAX_SAFE_INTEGER + 1).contains(&state.next_token) {
            return Err(reader.invalid());
        }
        reader.end()?;
        Ok(Self { state, missing, items: Vec::new() })
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
            RecordKey::Credential(id) => {
                let token = read_credential(value)?;
                Arc::make_mut(&mut state.access).load_token(id, token)
            }
            RecordKey::Rule(key) => {
                let rule = read_rule(value)?;
                Arc::make_mut(&mut state.access).load_rule(&key, rule)
            }
            RecordKey::Grant(key, token) => {
                let (mode, grant) = read_grant(token, value, state)?;
                state.locks.load(key, |record| {
                    let is_new = record.holders.get(token).is_none()
                        && record.holders.of(&grant.owner()).is_none()
                        && (record.holders.is_none() || record.mode == mode);
                    if is_new {
                        record.mode = mode;
                        record.holders.insert(grant);
                    }
                    is_new
                })
            }
            RecordKey::Item(id, position) => {
                self.items.push((id, read_item(position, value)?));
                true
            }
            RecordKey::Lock(key) => {
                let (limit, pending) = read_lock_value(value)?;
                state.locks.load(key, |record| {
                    let is_new = record.limit == 0 && record.pending.is_none();
                    (record.limit, record.pending) = (limit, pending);
                    is_new
                })
            }
            RecordKey::Lane(id) => state.lanes.load(id, read_lane(value)?),
            RecordKey::Place(key, at) => {
                let place = read_place(at, value)?;
                let totals = &mut state.totals;
                state.locks.load(key, |record| {
                    let queue = record.queue.get_or_insert_default();
                    let is_new = queue.get(at).is_none() && queue.of(&place.owner).is_none();
                    if is_new {
                        totals.add(&place);
                        queue.insert(place);
                    }
                    is_new
                })
            }
            RecordKey::Session(id) => state.sessions.load(id, read_session(value)?),
            RecordKey::Table(name) => state.locks.load_value(&name, read_table(value)?),
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
        for (id, item) in self.items {
            if !self.state.sessions.load_item(id, item) {
                return Err(DecodeError::Invalid("an item of an inbox"));
            }
        }
        if !self.state.locks.load_shelves(Token(self.state.next_token)) {
            return Err(DecodeError::Invalid("the deletion of a table"));
        }
        let State { locks, sessions, clock, .. } = &mut self.state;
        for (key, record) in locks.iter() {
            if !record.is_sound() || !sessions.load_members(key, record) {
                return Err(DecodeError::Invalid("the grants and places of a lock"));
            }
        }
        if !sessions.are_sound(*clock) {
            return Err(DecodeError::Invalid("a session"));
        }
        Ok(self.state)
    }
}

fn position_of(bytes: [u8; 12]) -> DecidedAt {
    let [index @ .., a, b, c, d] = bytes;
    DecidedAt { index: u64::from_be_bytes(index), position: u32::from_be_bytes([a, b, c, d]) }
}

fn put_position_key(out: &mut Vec<u8>, at: DecidedAt) {
    out.extend_from_slice(&at.index.to_be_bytes());
    out.extend_from_slice(&at.position.to_be_bytes());
}

fn place_key(key: &Key, at: DecidedAt) -> Vec<u8> {
    let mut out = vec![PLACE];
    out.extend_from_slice(key.as_bytes());
    out.push(0);
    put_position_key(&mut out, at);
    out
}

fn lock_key(key: &Key) -> Vec<u8> {
    let mut out = vec![LOCK];
    out.extend_from_slice(key.as_bytes());
    out
}

fn item_key(id: SessionId, position: DecidedAt) -> Vec<u8> {
    let mut out = vec![ITEM];
    out.extend_from_slice(&id.0.to_be_bytes());
    put_position_key(&mut out, position);
    out
}

fn session_key(id: SessionId) -> Vec<u8> {
    let mut out = vec![SESSION];
    out.extend_from_slice(&id.0.to_be_bytes());
    out
}

/// The limit of a lock and its hand-over that was broken off; `None` if it has neither.
fn lock_value(record: &Record) -> Option<Vec<u8>> {
    (record.limit > 0 || record.pending.is_some()).then(|| {
        let mut out = vec![LOCK_VERSION];
        put_u64(&mut out, record.limit.into());
        put_optional_numbers(&mut out, [record.pending.map(|time| time.0)]);
        out
    })
}

fn read_lock_value(value: &[u8]) -> Result<(u32, Option<ClusterTime>), DecodeError> {
    let mut reader = Reader::new(value, "the limit of a lock");
    reader.version(LOCK_VERSION)?;
    let limit = reader.u32()?;
    let [pending] = read_optional_numbers(&mut reader)?;
    if limit == 0 && pending.is_none() {
        return Err(reader.invalid());
    }
    reader.end()?;
    Ok((limit, pending.map(ClusterTime)))
}

fn place_value(place: &Place) -> Vec<u8> {
    let Place { owner, level, mode, at: _, since, end, ask, asked, request, actor, terms } = place;
    let Terms { lasts, keep, lock_delay_ms, max_hold_ms } = terms;
    let [is_ms, is_for_ever] = keep_flags(Some(*keep));
    let mut out = vec![PLACE_VERSION];
    out.push(flags([
        owner.instance.is_some(),
        request.is_some(),
        actor.is_some(),
        lasts.session().is_some(),
        max_hold_ms.is_some(),
        is_ms,
        is_for_ever,
    ]));
    out.push(mode_code(*mode));
    put_i64(&mut out, *level);
    put_positions(&mut out, [*ask]);
    for number in [since.0, end.0, asked.0, *lock_delay_ms] {
        put_u64(&mut out, number);
    }
    put_str(&mut out, &owner.signee);
    for text in [&owner.instance, actor].into_iter().flatten() {
        put_str(&mut out, text);
    }
    if let Some(RequestId { lane, seq }) = request {
        out.extend_from_slice(&lane.to_be_bytes());
        put_u64(&mut out, *seq);
    }
    match lasts {
        Lasts::Ms(ms) => put_u64(&mut out, *ms),
        Lasts::Session(session) => out.extend_from_slice(&session.0.to_be_bytes()),
    }
    for number in [*max_hold_ms, keep_ms(Some(*keep))].into_iter().flatten() {
        put_u64(&mut out, number);
    }
    out
}

fn read_place(at: DecidedAt, value: &[u8]) -> Result<Place, DecodeError> {
    let mut reader = Reader::new(value, "a place");
    reader.version(PLACE_VERSION)?;
    let [has_instance, has_request, has_actor, in_session, has_hold, is_ms, is_for_ever] =
        reader.flags()?;
    let mode = read_mode(&mut reader)?;
    let level = reader.i64()?;
    let ask = read_position(&mut reader)?;
    let (since, end, asked) = (reader.u64()?, reader.u64()?, reader.u64()?);
    let lock_delay_ms = reader.u64()?;
    let signee = reader.str()?;
    let instance = has_instance.then(|| reader.str()).transpose()?;
    let actor = has_actor.then(|| reader.str()).transpose()?.map(Into::into);
    let request = if has_request {
        let lane = u128::from_be_bytes(reader.array()?);
        Some(RequestId { lane, seq: reader.u64()? })
    } else {
        None
    };
    let lasts = if in_session {
        Lasts::Session(read_session_id(&mut reader)?)
    } else {
        Lasts::Ms(reader.u64()?)
    };
    let max_hold_ms = has_hold.then(|| reader.u64()).transpose()?;
    let keep = read_keep(&mut reader, [is_ms, is_for_ever])?.ok_or(reader.invalid())?;
    reader.end()?;
    Ok(Place {
        owner: Owner::new(signee, instance),
        level,
        mode,
        at,
        since: ClusterTime(since),
        end: ClusterTime(end),
        ask,
        asked: ClusterTime(asked),
        request,
        actor,
        terms: Terms { lasts, keep, lock_delay_ms, max_hold_ms },
    })
}

fn session_value(session: &Session) -> Vec<u8> {
    let mut out = vec![SESSION_VERSION];
    let overflowed = session.inbox.overflowed;
    out.push(flags([
        session.actor.is_some(),
        session.ended == Some(Ended::Closed),
        session.ended == Some(Ended::Expired),
        overflowed.is_some(),
    ]));
    put_u64(&mut out, session.ttl_ms);
    put_u64(&mut out, session.deadline.0);
    for text in [&session.signee, &session.instance].into_iter().chain(&session.actor) {
        put_str(&mut out, text);
    }
    put_positions(&mut out, overflowed);
    out
}

fn read_session(value: &[u8]) -> Result<Session, DecodeError> {
    let mut reader = Reader::new(value, "a session");
    reader.version(SESSION_VERSION)?;
    let [has_actor, is_closed, is_expired, has_overflowed] = reader.flags()?;
    let (ttl_ms, deadline) = (reader.u64()?, ClusterTime(reader.u64()?));
    let names = (reader.str()?, reader.str()?);
    let actor = has_actor.then(|| reader.str()).transpose()?;
    let mut session = Session::new(ttl_ms, deadline, names, actor);
    session.ended = match (is_closed, is_expired) {
        (false, false) => None,
        (true, false) => Some(Ended::Closed),
        (false, true) => Some(Ended::Expired),
        (true, true) => return Err(reader.invalid()),
    };
    session.inbox.overflowed = has_overflowed.then(|| read_position(&mut reader)).transpose()?;
    reader.end()?;
    Ok(session)
}

/// The tags of the facts of an inbox. A tag is never reused with another meaning.
const NEWS_GRANTED: u8 = 1;
const NEWS_ENDED: u8 = 2;
const NEWS_LOST: u8 = 3;

fn item_value(item: &Item) -> Vec<u8> {
    let Owner { signee, instance } = &item.owner;
    let mut out = vec![ITEM_VERSION, flags([instance.is_some()])];
    for text in [item.key.table(), item.key.signature(), signee.as_str()]
        .into_iter()
        .chain(instance.as_deref())
    {
        put_str(&mut out, text);
    }
    match item.news {
        News::Granted { token, level, mode, slot } => {
            out.push(NEWS_GRANTED);
            out.push(mode_code(mode));
            put_u64(&mut out, token.0);
            put_i64(&mut out, level);
            put_optional_numbers(&mut out, [slot.map(u64::from)]);
        }
        News::Ended(reason) => out.extend([NEWS_ENDED, reason_code(reason)]),
        News::Lost { token, reason } => {
            out.extend([NEWS_LOST, loss_code(reason)]);
            put_optional_numbers(&mut out, [token.map(|token| token.0)]);
        }
    }
    out
}

fn read_item(position: DecidedAt, value: &[u8]) -> Result<Item, DecodeError> {
    let mut reader = Reader::new(value, "an item of an inbox");
    reader.version(ITEM_VERSION)?;
    let [has_instance] = reader.flags()?;
    let (table, signature) = (reader.str()?, reader.str()?);
    let key = Key::new(table, signature).ok_or(reader.invalid())?;
    let signee = reader.str()?;
    let owner = Owner::new(signee, has_instance.then(|| reader.str()).transpose()?);
    let news = match reader.u8()? {
        NEWS_GRANTED => {
            let mode = read_mode(&mut reader)?;
            let (token, level) = (Token(reader.u64()?), reader.i64()?);
            let [slot] = read_optional_numbers(&mut reader)?;
            let slot = slot.map(u32::try_from).transpose().map_err(|_| reader.invalid())?;
            News::Granted { token, level, mode, slot }
        }
        NEWS_ENDED => News::Ended(read_code(&mut reader, &ForbiddenReason::ALL)?),
        NEWS_LOST => {
            let reason = read_code(&mut reader, &Loss::ALL)?;
            let [token] = read_optional_numbers(&mut reader)?;
            News::Lost { token: token.map(Token), reason }
        }
        _ => return Err(reader.invalid()),
    };
    reader.end()?;
    Ok(Item { position, key, owner, news })
}

/// The code of a reason: its number in the list, from 1.
fn reason_code(reason: ForbiddenReason) -> u8 {
    reason as u8 + 1
}

fn loss_code(loss: Loss) -> u8 {
    loss as u8 + 1
}

fn read_code<T: Copy>(reader: &mut Reader<'_>, all: &[T]) -> Result<T, DecodeError> {
    let code = usize::from(reader.u8()?).checked_sub(1);
    code.and_then(|code| all.get(code)).copied().ok_or(reader.invalid())
}

fn grant_token(grant: &Grant) -> Token {
    grant.token
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

fn credential_key(id: TokenId) -> Vec<u8> {
    let mut out = vec![CREDENTIAL];
    out.extend_from_slice(&id.0.to_be_bytes());
    out
}

fn credential_value(token: &AccessToken) -> Vec<u8> {
    let mut out = vec![CREDENTIAL_VERSION];
    token.put(&mut out);
    out
}

fn read_credential(value: &[u8]) -> Result<AccessToken, DecodeError> {
    let mut reader = Reader::new(value, "an access token");
    reader.version(CREDENTIAL_VERSION)?;
    let token = AccessToken::read(&mut reader)?;
    reader.end()?;
    Ok(token)
}

fn rule_key(key: &RuleKey) -> Vec<u8> {
    let mut out = Vec::with_capacity(key.len() + 1);
    out.push(RULE);
    out.extend_from_slice(key);
    out
}

fn rule_value(rule: &Rule) -> Vec<u8> {
    let mut out = vec![RULE_VERSION];
    rule.put(&mut out);
    out
}

fn read_rule(value: &[u8]) -> Result<Rule, DecodeError> {
    let mut reader = Reader::new(value, "an access rule");
    reader.version(RULE_VERSION)?;
    let rule = Rule::read(&mut reader)?;
    reader.end()?;
    Ok(rule)
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

/// A grant that has nothing of feature level 2 is written as version 1, with the limit of an
/// exclusive lock.
fn grant_value(mode: Mode, grant: &Grant) -> Vec<u8> {
    let is_plain = grant.rare.as_ref().is_none_or(|rare| rare.is_plain());
    if mode != Mode::Exclusive || !is_plain {
        return shared_grant_value(mode, grant);
    }
    let has_removal = grant.removal != ClusterTime::NEVER;
    let instance = grant.instance();
    let mut out = Vec::with_capacity(48 + grant.signee.len());
    out.push(FIRST_VERSION);
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

fn shared_grant_value(mode: Mode, grant: &Grant) -> Vec<u8> {
    let rare = grant.rare.as_deref().cloned().unwrap_or_default();
    let has_removal = grant.removal != ClusterTime::NEVER;
    let mut out = vec![GRANT_VERSION];
    out.push(flags([
        grant.expired,
        has_removal,
        rare.instance.is_some(),
        rare.session.is_some(),
        rare.hold_end.is_some(),
        rare.slot.is_some(),
        rare.forced.is_some(),
        rare.asked.is_some(),
    ]));
    out.push(mode_code(mode));
    put_i64(&mut out, grant.level);
    for number in [grant.since.0, grant.deadline.0, rare.lock_delay_ms] {
        put_u64(&mut out, number);
    }
    put_str(&mut out, &grant.signee);
    if let Some(instance) = &rare.instance {
        put_str(&mut out, instance);
    }
    let removal = has_removal.then_some(grant.removal.0);
    let hold_end = rare.hold_end.map(|end| end.0);
    for number in [removal, hold_end, rare.slot.map(u64::from)].into_iter().flatten() {
        put_u64(&mut out, number);
    }
    if let Some((session, keep)) = rare.session {
        out.extend_from_slice(&session.0.to_be_bytes());
        out.push(flags(keep_flags(Some(keep))));
        if let Some(ms) = keep_ms(Some(keep)) {
            put_u64(&mut out, ms);
        }
    }
    let asked = rare.asked.map(|(place, ask)| [place, ask]);
    put_positions(&mut out, rare.forced.into_iter().chain(asked.into_iter().flatten()));
    out
}

fn read_grant(token: Token, value: &[u8], state: &State) -> Result<(Mode, Grant), DecodeError> {
    let mut reader = Reader::new(value, "a grant");
    reader.version(GRANT_VERSION)?;
    let (mode, grant) = if value.first() == Some(&FIRST_VERSION) {
        (Mode::Exclusive, read_first_grant(token, &mut reader)?)
    } else {
        read_shared_grant(token, &mut reader)?
    };
    let is_plain = grant.rare.as_ref().is_none_or(|rare| rare.is_plain());
    let impossible = token.0 == 0
        || token.0 >= state.next_token
        || grant.since > state.clock
        || grant.since > grant.deadline
        || grant.deadline > grant.removal
        || (grant.expired && !grant.deadline.reached(state.clock))
        || (grant.expired && grant.session().is_some())
        || (is_plain && mode == Mode::Exclusive) != (value.first() == Some(&FIRST_VERSION));
    if impossible {
        return Err(reader.invalid());
    }
    reader.end()?;
    Ok((mode, grant))
}

fn read_first_grant(token: Token, reader: &mut Reader<'_>) -> Result<Grant, DecodeError> {
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
    if has_removal && removal == ClusterTime::NEVER {
        return Err(reader.invalid());
    }
    let since = ClusterTime(deadline.0.checked_sub(reader.u64()?).ok_or(reader.invalid())?);
    let signee = reader.str()?.into();
    let rare = Rare::of_instance(has_instance.then(|| reader.str()).transpose()?);
    Ok(Grant { token, level, since, deadline, removal, signee, rare, expired })
}

fn read_shared_grant(token: Token, reader: &mut Reader<'_>) -> Result<(Mode, Grant), DecodeError> {
    let [expired, has_removal, has_instance, in_session, has_hold, has_slot, is_forced, is_asked] =
        reader.flags()?;
    let mode = read_mode(reader)?;
    let level = reader.i64()?;
    let (since, deadline) = (ClusterTime(reader.u64()?), ClusterTime(reader.u64()?));
    let lock_delay_ms = reader.u64()?;
    let signee = reader.str()?.into();
    let instance = has_instance.then(|| reader.str()).transpose()?.map(Into::into);
    let removal = has_removal.then(|| reader.u64()).transpose()?;
    if removal == Some(u64::MAX) {
        return Err(reader.invalid());
    }
    let removal = removal.map_or(ClusterTime::NEVER, ClusterTime);
    let hold_end = has_hold.then(|| reader.u64()).transpose()?.map(ClusterTime);
    let slot = has_slot.then(|| reader.u32()).transpose()?;
    if slot.is_some_and(|slot| slot >= MAX_PERMITS) {
        return Err(reader.invalid());
    }
    let session = if in_session {
        let session = read_session_id(reader)?;
        let flags = reader.flags()?;
        Some((session, read_keep(reader, flags)?.ok_or(reader.invalid())?))
    } else {
        None
    };
    let forced = is_forced.then(|| read_position(reader)).transpose()?;
    let asked =
        if is_asked { Some((read_position(reader)?, read_position(reader)?)) } else { None };
    let rare = Rare { instance, session, lock_delay_ms, hold_end, slot, forced, asked }.boxed();
    Ok((mode, Grant { token, level, since, deadline, removal, signee, rare, expired }))
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
// Of version 2.
const WAITING: u8 = 16;
const PLACE_LEFT: u8 = 17;
const NO_LIMIT_NAMED: u8 = 18;
const OPENED: u8 = 19;
const OPEN_REFUSED: u8 = 20;
const CLOSED: u8 = 21;
const NO_SESSION: u8 = 22;
const LEFT: u8 = 23;
const NOT_LEFT: u8 = 24;
const LIMIT: u8 = 25;
const NO_LIMIT: u8 = 26;
const LOCK_REFUSED: u8 = 27;

fn lane_value(lane: &Lane) -> Vec<u8> {
    let mut effect = Vec::with_capacity(32);
    put_effect(&mut effect, &lane.effect);
    let is_new = effect.first().is_some_and(|tag| *tag >= WAITING);
    let mut out = vec![if is_new { LANE_VERSION } else { FIRST_VERSION }];
    put_u64(&mut out, lane.seq);
    out.extend_from_slice(&lane.digest.to_be_bytes());
    put_u64(&mut out, lane.last_used.0);
    put_u64(&mut out, lane.decided_at.index);
    put_u64(&mut out, lane.decided_at.position.into());
    out.extend(effect);
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
        Effect::LockRefused(_) => LOCK_REFUSED,
        Effect::Released => RELEASED,
        Effect::NoLock => NO_LOCK,
        Effect::UnlockRefused(ForbiddenReason::Held) => UNLOCK_REFUSED_HELD,
        // An unlock is refused for these two reasons only.
        Effect::UnlockRefused(_) => UNLOCK_REFUSED_LOST,
        Effect::Table => TABLE_DONE,
        Effect::NoTable => NO_TABLE,
        Effect::TooShort { .. } => TOO_SHORT,
        Effect::TokensExhausted => TOKENS_EXHAUSTED,
        Effect::Waiting(_) => WAITING,
        Effect::PlaceLeft => PLACE_LEFT,
        Effect::NoLimitNamed => NO_LIMIT_NAMED,
        Effect::Opened(_) => OPENED,
        Effect::OpenRefused(_) => OPEN_REFUSED,
        Effect::Closed => CLOSED,
        Effect::NoSession => NO_SESSION,
        Effect::Left => LEFT,
        Effect::NotLeft => NOT_LEFT,
        Effect::Limit => LIMIT,
        Effect::NoLimit => NO_LIMIT,
    });
    if let Effect::Waiting(place) = effect {
        put_positions(out, [*place]);
    }
    if let Effect::Opened(session) = effect {
        out.extend_from_slice(&session.0.to_be_bytes());
    }
    if let Effect::LockRefused(reason) | Effect::OpenRefused(reason) = effect
        && !matches!(effect, Effect::LockRefused(ForbiddenReason::Held | ForbiddenReason::Lost))
    {
        out.push(reason_code(*reason));
    }
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
        WAITING => return read_position(reader).map(Effect::Waiting),
        PLACE_LEFT => return Ok(Effect::PlaceLeft),
        NO_LIMIT_NAMED => return Ok(Effect::NoLimitNamed),
        OPENED => return read_session_id(reader).map(Effect::Opened),
        OPEN_REFUSED => {
            return read_code(reader, &ForbiddenReason::ALL).map(Effect::OpenRefused);
        }
        CLOSED => return Ok(Effect::Closed),
        NO_SESSION => return Ok(Effect::NoSession),
        LEFT => return Ok(Effect::Left),
        NOT_LEFT => return Ok(Effect::NotLeft),
        LIMIT => return Ok(Effect::Limit),
        NO_LIMIT => return Ok(Effect::NoLimit),
        LOCK_REFUSED => {
            let reason = read_code(reader, &ForbiddenReason::ALL)?;
            if matches!(reason, ForbiddenReason::Held | ForbiddenReason::Lost) {
                return Err(reader.invalid());
            }
            return Ok(Effect::LockRefused(reason));
        }
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

/// The second version of a table's value, with lock-delay and longest hold. The third has a
/// deletion, too.
const SECOND_TABLE_VERSION: u8 = 2;

fn table_version(value: Value) -> u8 {
    match value {
        Value { deletion: Some(_), .. } => TABLE_VERSION,
        Value { defaults, .. } if defaults.is_plain() => FIRST_VERSION,
        _ => SECOND_TABLE_VERSION,
    }
}

fn table_value(value: Value) -> Vec<u8> {
    let Value { defaults, deletion } = value;
    let Defaults { duration_ms, time_to_live, lock_delay_ms, max_hold_ms } = defaults;
    let version = table_version(value);
    let mut out = vec![version];
    let [is_ms, is_for_ever] = keep_flags(time_to_live);
    out.push(flags([duration_ms.is_some(), is_ms, is_for_ever]));
    for value in [duration_ms, keep_ms(time_to_live)].into_iter().flatten() {
        put_u64(&mut out, value);
    }
    if version > FIRST_VERSION {
        put_optional_numbers(&mut out, [lock_delay_ms, max_hold_ms]);
    }
    if let Some(Deletion { at, next_token }) = deletion {
        put_positions(&mut out, [at]);
        put_u64(&mut out, next_token.0);
    }
    out
}

fn read_table(value: &[u8]) -> Result<Value, DecodeError> {
    let version = value.first().copied();
    let mut reader = Reader::new(value, "the value of a table");
    reader.version(TABLE_VERSION)?;
    let [has_duration, is_ms, is_for_ever] = reader.flags()?;
    let duration_ms = has_duration.then(|| reader.u64()).transpose()?;
    let time_to_live = read_keep(&mut reader, [is_ms, is_for_ever])?;
    let is_first = version == Some(FIRST_VERSION);
    let [lock_delay_ms, max_hold_ms] =
        if is_first { [None; 2] } else { read_optional_numbers(&mut reader)? };
    let deletion = if version == Some(TABLE_VERSION) {
        let at = read_position(&mut reader)?;
        Some(Deletion { at, next_token: Token(reader.u64()?) })
    } else {
        None
    };
    let defaults = Defaults { duration_ms, time_to_live, lock_delay_ms, max_hold_ms };
    let value = Value { defaults, deletion };
    if Some(table_version(value)) != version {
        return Err(reader.invalid());
    }
    reader.end()?;
    Ok(value)
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
