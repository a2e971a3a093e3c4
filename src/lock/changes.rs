//! Which records changed since the checkpoint last asked.
//!
//! Only keys are remembered, so a lock renewed a hundred times between two takes is written once,
//! with the value it has when the changes are taken. Nothing is remembered unless somebody wants it.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::lock::record::Key;
use crate::types::Token;

/// What the checkpoint must write to get from one applied index to a later one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    /// Everything that is not a record: the cluster clock, the next token, counters.
    pub meta: Vec<u8>,
    /// Records in key order: a new value, or `None` for a record that is gone. What came and went
    /// between two takes is a `None`, too: the checkpoint may never have had it. No key is longer
    /// than 2.1 KiB and no value longer than 7 KiB.
    pub records: Vec<(Vec<u8>, Option<Vec<u8>>)>,
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
    changed: Option<BTreeSet<RecordKey>>,
}

impl Tracker {
    pub(super) fn switch(&mut self, on: bool) {
        self.changed = on.then(BTreeSet::new);
    }

    /// Takes a closure, because most states do not track and building a key costs something.
    pub(super) fn note(&mut self, key: impl FnOnce() -> RecordKey) {
        if let Some(changed) = &mut self.changed {
            changed.insert(key());
        }
    }

    pub(super) fn take(&mut self) -> BTreeSet<RecordKey> {
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
