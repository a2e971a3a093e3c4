//! Tracking of the records that changed since the checkpoint last took the changes.
//!
//! Only keys are tracked. A lock renewed a hundred times between two takes is written once, with
//! the value it has when the changes are taken; a lock acquired and released in between is not
//! written at all. So there are never more keys than records now and at the last take together. The
//! records of a deleted table are kept as they were, as one value that shares its structure with
//! other copies: the records to remove are computed where the changes are written out. Nothing is
//! tracked unless tracking is switched on.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::access::RuleKey;
use crate::lock::State;
use crate::lock::decision::Step;
use crate::lock::ends::Ends;
use crate::lock::events::Event;
use crate::lock::record::Key;
use crate::lock::table::Records;
use crate::lock::turns::Work;
use crate::principal::TokenId;
use crate::types::{DecidedAt, SessionId, Token};

/// The writes that bring the checkpoint from one applied index to a later one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    /// Everything that is not a record: the cluster clock, the next token, counters.
    pub meta: Vec<u8>,
    /// Records, each once: a new value, or `None` for a record that is gone. No key is longer than
    /// 2.4 KiB and no value longer than 7 KiB.
    pub records: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

/// Changes that are not encoded yet. Taking them costs next to nothing, however many they are.
#[derive(Debug)]
pub struct Changed {
    state: State,
    touched: Touched,
}

impl Changed {
    pub(super) fn new(state: State, touched: Touched) -> Self {
        Self { state, touched }
    }

    /// The number of records that changed, at most.
    pub fn len(&self) -> usize {
        let deleted: usize = self.touched.deleted.iter().map(Records::len).sum();
        self.touched.keys.len() + deleted
    }

    /// Whether no record changed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// As [`Changes::meta`].
    pub fn meta(&self) -> Vec<u8> {
        self.state.encoded_meta()
    }

    /// As [`Changes::records`], one by one.
    pub fn into_records(self) -> impl Iterator<Item = (Vec<u8>, Option<Vec<u8>>)> + Send + 'static {
        let Self { state, touched: Touched { keys, deleted } } = self;
        let keys: Arc<[(RecordKey, Origin)]> = keys.into_iter().collect();
        let known = Arc::clone(&keys);
        let changed = (0..keys.len()).filter_map(move |at| {
            let (key, origin) = &keys[at];
            let value = state.encoded_record(key);
            let was_never_told = value.is_none() && *origin == Origin::New;
            (!was_never_told).then(|| (key.encode(), value))
        });
        // Tokens are never given twice, so a deleted record has not come back since. If it was
        // created or changed since the last take, its key is among the changed keys above.
        let deleted = deleted.into_iter().flatten().flat_map(|(key, record)| {
            let tokens: Vec<Token> = record.holders.iter().map(|grant| grant.token).collect();
            tokens.into_iter().map(move |token| RecordKey::Grant(key.clone(), token))
        });
        let deleted =
            deleted.filter(move |key| known.binary_search_by(|(known, _)| known.cmp(key)).is_err());
        changed.chain(deleted.map(|key| (key.encode(), None)))
    }
}

impl From<Changed> for Changes {
    fn from(changed: Changed) -> Self {
        Self { meta: changed.meta(), records: changed.into_records().collect() }
    }
}

/// Whether a record was known at the last take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Origin {
    /// Created since: if it is removed again, there is nothing to write.
    New,
    /// Known, or possibly known, at the last take.
    Old,
}

/// The identity of one record of the checkpoint. The order is that of the encoded keys.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum RecordKey {
    /// One access token.
    Credential(TokenId),
    /// One grant of one lock.
    Grant(Key, Token),
    /// One item of the inbox of a session.
    Item(SessionId, DecidedAt),
    /// The limit of one lock, and whether its queue has a hand-over to go on with.
    Lock(Key),
    /// One request lane.
    Lane(u128),
    /// One place of one lock.
    Place(Key, DecidedAt),
    /// One access rule.
    Rule(RuleKey),
    /// One session.
    Session(SessionId),
    /// One table's value.
    Table(Arc<str>),
}

/// The keys that changed since the last take.
#[derive(Debug, Default)]
pub(super) struct Touched {
    keys: BTreeMap<RecordKey, Origin>,
    /// The records of deleted tables. Those that were created or changed since the last take are
    /// among the keys, too.
    deleted: Vec<Records>,
}

/// Tracks the changed records, if switched on, and counts how grants ended.
#[derive(Debug, Default)]
pub(super) struct Tracker {
    touched: Option<Touched>,
    pub(super) ends: Ends,
    /// The steps since the last take, if somebody wants to hear of them.
    pub(super) steps: Option<Vec<Step>>,
    /// The events since the last take, if somebody wants to hear of them.
    pub(super) events: Option<Vec<Event>>,
    pub(super) work: Work,
}

impl Tracker {
    pub(super) fn switch(&mut self, on: bool) {
        self.touched = on.then(Touched::default);
    }

    /// Notes that a record was created. Takes a closure, as the others do, because most states do
    /// not track and building a key costs something.
    pub(super) fn come(&mut self, key: impl FnOnce() -> RecordKey) {
        if let Some(Touched { keys, .. }) = &mut self.touched {
            // A record with this key that was removed since the last take may have been known then.
            keys.entry(key()).or_insert(Origin::New);
        }
    }

    /// Notes that a record may have another value.
    pub(super) fn note(&mut self, key: impl FnOnce() -> RecordKey) {
        if let Some(Touched { keys, .. }) = &mut self.touched {
            keys.entry(key()).or_insert(Origin::Old);
        }
    }

    /// Notes that a record was removed.
    pub(super) fn gone(&mut self, key: impl FnOnce() -> RecordKey) {
        if let Some(Touched { keys, .. }) = &mut self.touched {
            let key = key();
            if keys.get(&key) == Some(&Origin::New) {
                keys.remove(&key);
            } else {
                keys.insert(key, Origin::Old);
            }
        }
    }

    /// Notes that all records of a table were removed.
    pub(super) fn deleted(&mut self, records: &Records) {
        if let Some(touched) = &mut self.touched
            && !records.is_empty()
        {
            touched.deleted.push(records.clone());
        }
    }

    pub(super) fn take(&mut self) -> Touched {
        self.touched.as_mut().map(std::mem::take).unwrap_or_default()
    }
}

/// A clone of a state is a snapshot to read from; it does not inherit changes that the original has
/// yet to hand over.
impl Clone for Tracker {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// Tracked changes are not part of a state's value.
impl PartialEq for Tracker {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

impl Eq for Tracker {}
