//! Which records changed since the checkpoint last asked.
//!
//! Only keys are remembered, so a lock renewed a hundred times between two takes is written once,
//! with the value it has when the changes are taken, and one that was taken and released in between
//! is not written at all. So there are never more of them than records now and at the last take.
//! Nothing is remembered unless somebody wants it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::lock::State;
use crate::lock::record::Key;
use crate::types::Token;

/// What the checkpoint must write to get from one applied index to a later one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    /// Everything that is not a record: the cluster clock, the next token, counters.
    pub meta: Vec<u8>,
    /// Records in key order: a new value, or `None` for a record that is gone. No key is longer
    /// than 2.1 KiB and no value longer than 7 KiB.
    pub records: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

/// What changed, not yet written out: taking it costs next to nothing, however much it is.
#[derive(Debug)]
pub struct Changed {
    state: State,
    keys: BTreeMap<RecordKey, Origin>,
}

impl Changed {
    pub(super) fn new(state: State, keys: BTreeMap<RecordKey, Origin>) -> Self {
        Self { state, keys }
    }

    /// How many records changed.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether no record changed.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// As [`Changes::meta`].
    pub fn meta(&self) -> Vec<u8> {
        self.state.encoded_meta()
    }

    /// As [`Changes::records`], one by one.
    pub fn into_records(self) -> impl Iterator<Item = (Vec<u8>, Option<Vec<u8>>)> + Send + 'static {
        let Self { state, keys } = self;
        keys.into_keys().map(move |key| (key.encode(), state.encoded_record(&key)))
    }
}

impl From<Changed> for Changes {
    fn from(changed: Changed) -> Self {
        Self { meta: changed.meta(), records: changed.into_records().collect() }
    }
}

/// Whether the last take knew a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Origin {
    /// It has come since: when it goes, there is nothing to tell.
    New,
    /// It was there, or may have been.
    Old,
}

/// What one record of the checkpoint is about. The order is that of the encoded keys.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum RecordKey {
    /// One grant of one lock.
    Grant(Key, Token),
    /// One request lane.
    Lane(u128),
    /// One table's defaults.
    Table(Arc<str>),
}

/// Remembers what changed, if it is asked to.
#[derive(Debug, Default)]
pub(super) struct Tracker {
    changed: Option<BTreeMap<RecordKey, Origin>>,
}

impl Tracker {
    pub(super) fn switch(&mut self, on: bool) {
        self.changed = on.then(BTreeMap::new);
    }

    /// A record has come into being. Takes a closure, as the others do, because most states do not
    /// track and building a key costs something.
    pub(super) fn come(&mut self, key: impl FnOnce() -> RecordKey) {
        if let Some(changed) = &mut self.changed {
            // What went earlier since the last take may have been there then.
            changed.entry(key()).or_insert(Origin::New);
        }
    }

    /// A record may have another value.
    pub(super) fn note(&mut self, key: impl FnOnce() -> RecordKey) {
        if let Some(changed) = &mut self.changed {
            changed.entry(key()).or_insert(Origin::Old);
        }
    }

    /// A record is gone.
    pub(super) fn gone(&mut self, key: impl FnOnce() -> RecordKey) {
        if let Some(changed) = &mut self.changed {
            let key = key();
            if changed.get(&key) == Some(&Origin::New) {
                changed.remove(&key);
            } else {
                changed.insert(key, Origin::Old);
            }
        }
    }

    pub(super) fn take(&mut self) -> BTreeMap<RecordKey, Origin> {
        self.changed.as_mut().map(std::mem::take).unwrap_or_default()
    }
}

/// A clone of a state is a snapshot to read from; what the original has yet to hand over is not
/// its business.
impl Clone for Tracker {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// What is remembered for the checkpoint is no part of what a state *is*.
impl PartialEq for Tracker {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

impl Eq for Tracker {}
