//! One table: its records, the index of their deadlines, and its defaults.
//!
//! Every change of a record goes through [`Table::put`] or [`Table::remove`], which keep the index
//! and the number of unexpired grants consistent with the records. Each record has at most one
//! entry in the index, for its next deadline: its expiry until that is worked off, then its
//! removal.
//!
//! A table is a value of its own, so that it can be taken out of the state as a whole, see
//! [`super::locks::Locks::delete_table`].

use std::ops::Bound;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use crate::lock::ClusterTime;
use crate::lock::changes::{RecordKey, Tracker};
use crate::lock::ends::End;
use crate::lock::locks::Defaults;
use crate::lock::record::{Grant, Key, Record};

/// Records in the order of their keys.
pub(super) type Records = OrdMap<Key, Arc<Record>>;

/// A table that has defaults or records.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Table {
    pub(super) defaults: Defaults,
    records: Records,
    deadlines: OrdSet<(ClusterTime, Key)>,
    unexpired: u64,
}

/// The contribution of a table to the sums over all tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Tally {
    pub(super) records: u64,
    pub(super) unexpired: u64,
    /// 1 if it has defaults.
    pub(super) configured: u64,
}

impl Tally {
    /// The sums after one table's contribution has changed.
    pub(super) fn with(self, before: Self, after: Self) -> Self {
        let sum = |sum: u64, before, after| {
            let rest = sum.checked_sub(before).expect("a sum holds what each table adds to it");
            rest + after
        };
        Self {
            records: sum(self.records, before.records, after.records),
            unexpired: sum(self.unexpired, before.unexpired, after.unexpired),
            configured: sum(self.configured, before.configured, after.configured),
        }
    }
}

/// The effect of a deadline that was worked off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Passed {
    Expired,
    Removed,
}

impl Table {
    /// Whether it has neither defaults nor records, and so does not exist.
    pub(super) fn is_nothing(&self) -> bool {
        self.records.is_empty() && !self.has_defaults()
    }

    pub(super) fn has_defaults(&self) -> bool {
        self.defaults != Defaults::default()
    }

    pub(super) fn tally(&self) -> Tally {
        Tally {
            records: self.records.len() as u64,
            unexpired: self.unexpired,
            configured: u64::from(self.has_defaults()),
        }
    }

    /// The first deadline that is not worked off yet.
    pub(super) fn first_deadline(&self) -> Option<ClusterTime> {
        self.deadlines.get_min().map(|(deadline, _)| *deadline)
    }

    pub(super) fn records(&self) -> &Records {
        &self.records
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Record> {
        self.records.get(key).map(|record| &**record)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Key, &Record)> {
        self.records.iter().map(|(key, record)| (key, &**record))
    }

    /// The records whose keys begin with the bytes `first` and come after the bytes `after`.
    pub(super) fn range(
        &self,
        first: Vec<u8>,
        after: Option<Vec<u8>>,
    ) -> impl Iterator<Item = (&Key, &Record)> {
        let after = after.filter(|after| *after >= first);
        let from = match &after {
            Some(after) => Bound::Excluded(after.as_slice()),
            None => Bound::Included(first.as_slice()),
        };
        let range = self.records.range::<_, [u8]>((from, Bound::Unbounded));
        let within = range.take_while(move |(key, _)| key.as_bytes().starts_with(&first));
        within.map(|(key, record)| (key, &**record))
    }

    /// Works off the first deadline, which is due.
    pub(super) fn pass_first_deadline(
        &mut self,
        now: ClusterTime,
        tracker: &mut Tracker,
    ) -> Passed {
        let (_, key) = self.deadlines.get_min().expect("there is a deadline that is due");
        let key = key.clone();
        self.pass_deadline(&key, now, tracker)
    }

    /// Works off one deadline: the first due grant of the record expires, or else is removed with
    /// its record.
    pub(super) fn pass_deadline(
        &mut self,
        key: &Key,
        now: ClusterTime,
        tracker: &mut Tracker,
    ) -> Passed {
        let record = self.records.get(key).expect("a deadline has a record");
        let holder = record.holder();
        assert!(holder.due().reached(now), "{key:?} is not due at {now}: {holder:?}");
        if holder.expired {
            self.remove(key, tracker);
            Passed::Removed
        } else {
            tracker.ends.add(End::Expired, holder.deadline.since(holder.since));
            let mut record = Record::clone(record);
            record.grants[0].expired = true;
            self.put(key.clone(), record, tracker);
            Passed::Expired
        }
    }

    /// Creates or replaces a record.
    pub(super) fn put(&mut self, mut key: Key, record: Record, tracker: &mut Tracker) {
        assert!(!record.grants.is_empty(), "{key:?} would be a record without a grant");
        self.unexpired += record.unexpired();
        let due = record.due();
        let old_due = if let Some((shared, slot)) = self.records.get_key_value_mut(&key) {
            let old = std::mem::replace(slot, Arc::new(record));
            self.unexpired -= old.unexpired();
            note_replaced(shared, &old, slot, tracker);
            // The index must share the key's text with the records, not hold a second one.
            key = shared.clone();
            old.due()
        } else {
            for grant in &record.grants {
                tracker.come(|| RecordKey::Grant(key.clone(), grant.token));
            }
            self.records.insert(key.clone(), Arc::new(record));
            ClusterTime::NEVER
        };
        if old_due == due {
            return;
        }
        if old_due != ClusterTime::NEVER {
            self.deadlines.remove(&(old_due, key.clone()));
        }
        if due != ClusterTime::NEVER {
            self.deadlines.insert((due, key));
        }
    }

    /// Removes a record that exists.
    pub(super) fn remove(&mut self, key: &Key, tracker: &mut Tracker) {
        let (key, record) =
            self.records.remove_with_key(key).expect("only a record that exists is removed");
        self.unexpired -= record.unexpired();
        for grant in &record.grants {
            tracker.gone(|| RecordKey::Grant(key.clone(), grant.token));
        }
        let due = record.due();
        if due != ClusterTime::NEVER {
            self.deadlines.remove(&(due, key));
        }
    }

    /// Adds a record from a snapshot; `false` if the key is taken. Its deadline is not in the index
    /// before [`Table::load_deadlines`].
    pub(super) fn load(&mut self, key: Key, grant: Grant) -> bool {
        let record = Record::exclusive(grant);
        self.unexpired += record.unexpired();
        self.records.insert(key, Arc::new(record)).is_none()
    }

    /// Builds the deadline index of the loaded records, in the order of the deadlines, which is
    /// much faster than in key order.
    pub(super) fn load_deadlines(&mut self) {
        let dues = self.records.iter().map(|(key, record)| (record.due(), key.clone()));
        let mut dues: Vec<_> = dues.filter(|(due, _)| *due != ClusterTime::NEVER).collect();
        dues.sort_unstable();
        self.deadlines = dues.into_iter().collect();
    }

    pub(super) fn assert_index_equals_records(&self, name: &str) {
        let due = self.iter().map(|(key, record)| (record.due(), key.clone()));
        let due = due.filter(|(due, _)| *due != ClusterTime::NEVER);
        assert_eq!(due.collect::<OrdSet<_>>(), self.deadlines);
        assert_eq!(self.iter().map(|(_, record)| record.unexpired()).sum::<u64>(), self.unexpired);
        assert!(!self.is_nothing(), "{name:?} is no table");
        for (key, record) in self.iter() {
            assert_eq!(key.table(), name);
            assert_eq!((record.grants.len(), record.limit), (1, 1), "{key:?}");
            assert!(record.holder().deadline <= record.holder().removal, "{key:?}");
            assert!(record.holder().since <= record.holder().deadline, "{key:?}");
        }
    }
}

fn note_replaced(key: &Key, old: &Record, new: &Record, tracker: &mut Tracker) {
    let has = |record: &Record, token| record.grants.iter().any(|grant| grant.token == token);
    for token in old.grants.iter().map(|grant| grant.token) {
        if !has(new, token) {
            tracker.gone(|| RecordKey::Grant(key.clone(), token));
        }
    }
    for token in new.grants.iter().map(|grant| grant.token) {
        let record_key = || RecordKey::Grant(key.clone(), token);
        if has(old, token) { tracker.note(record_key) } else { tracker.come(record_key) }
    }
}
