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
use crate::lock::record::{Key, Record};

/// Records in the order of their keys.
pub(super) type Records = OrdMap<Key, Arc<Record>>;

/// A table that has defaults or records.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Table {
    pub(super) defaults: Defaults,
    records: Records,
    deadlines: OrdSet<(ClusterTime, Key)>,
    /// The locks with a queue, with grants in sessions, or with a limit: more goes with them than
    /// their records.
    entangled: OrdSet<Key>,
    unexpired: u64,
    /// The number of grants, and of locks with a limit or a hand-over that was broken off.
    grants: u64,
    noted: u64,
}

/// The contribution of a table to the sums over all tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Tally {
    pub(super) records: u64,
    pub(super) unexpired: u64,
    pub(super) grants: u64,
    pub(super) noted: u64,
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
            grants: sum(self.grants, before.grants, after.grants),
            noted: sum(self.noted, before.noted, after.noted),
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
            grants: self.grants,
            noted: self.noted,
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

    /// The record of the key with this text.
    pub(super) fn find(&self, text: &[u8]) -> Option<&Record> {
        self.records.get(text).map(|record| &**record)
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

    /// The record with the first deadline.
    pub(super) fn first_due(&self) -> Option<(&Key, &Record)> {
        let (_, key) = self.deadlines.get_min()?;
        Some((key, self.records.get(key).expect("a deadline has a record")))
    }

    /// The locks with a queue, or with grants in sessions.
    pub(super) fn entangled(&self) -> &OrdSet<Key> {
        &self.entangled
    }

    /// Works off one deadline of a plain record: the first due grant of the record expires, or else is removed with
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
            let mut grant = holder.clone();
            grant.expired = true;
            self.put(key.clone(), Record::exclusive(grant), tracker);
            Passed::Expired
        }
    }

    /// Creates or replaces a plain record by a plain one.
    pub(super) fn put(&mut self, key: Key, record: Record, tracker: &mut Tracker) {
        assert!(!record.is_empty(), "{key:?} would be a record without a grant");
        let new = record.holder().token;
        let name = key.clone();
        let old = self.store(key, record).map(|old| old.holder().token);
        let grant = |token| RecordKey::Grant(name.clone(), token);
        if old == Some(new) {
            tracker.note(|| grant(new));
        } else {
            if let Some(old) = old {
                tracker.gone(|| grant(old));
            }
            tracker.come(|| grant(new));
        }
    }

    /// Creates or replaces a record, whose grants and places are tracked elsewhere. Returns the one
    /// that was replaced.
    pub(super) fn store(&mut self, mut key: Key, record: Record) -> Option<Arc<Record>> {
        self.count_in(&record);
        let (due, is_entangled) = (record.due(), record.is_entangled());
        let old = if let Some((shared, slot)) = self.records.get_key_value_mut(&key) {
            let old = std::mem::replace(slot, Arc::new(record));
            // The index must share the key's text with the records, not hold a second one.
            key = shared.clone();
            self.count_out(&old);
            Some(old)
        } else {
            self.records.insert(key.clone(), Arc::new(record));
            None
        };
        let was_entangled = old.as_ref().is_some_and(|old| old.is_entangled());
        let old_due = old.as_ref().map_or(ClusterTime::NEVER, |old| old.due());
        if is_entangled && !was_entangled {
            self.entangled.insert(key.clone());
        } else if was_entangled && !is_entangled {
            self.entangled.remove(&key);
        }
        if old_due == due {
            return old;
        }
        if old_due != ClusterTime::NEVER {
            self.deadlines.remove(&(old_due, key.clone()));
        }
        if due != ClusterTime::NEVER {
            self.deadlines.insert((due, key));
        }
        old
    }

    /// Removes a plain record that exists.
    pub(super) fn remove(&mut self, key: &Key, tracker: &mut Tracker) {
        let token = self.take_out(key).holder().token;
        tracker.gone(|| RecordKey::Grant(key.clone(), token));
    }

    /// Removes a record that exists, whose grants and places are tracked elsewhere.
    pub(super) fn take_out(&mut self, key: &Key) -> Arc<Record> {
        let (key, record) =
            self.records.remove_with_key(key).expect("only a record that exists is removed");
        self.count_out(&record);
        if record.is_entangled() {
            self.entangled.remove(&key);
        }
        let due = record.due();
        if due != ClusterTime::NEVER {
            self.deadlines.remove(&(due, key));
        }
        record
    }

    /// Changes a record while a snapshot is loaded. Its deadline is not in the index before
    /// [`Table::load_deadlines`].
    pub(super) fn load<T>(&mut self, key: Key, change: impl FnOnce(&mut Record) -> T) -> T {
        let mut record = self.records.get(&key).map(|record| Record::clone(record));
        let record = record.get_or_insert_default();
        self.count_out(record);
        let result = change(record);
        self.count_in(record);
        self.records.insert(key, Arc::new(std::mem::take(record)));
        result
    }

    fn count_in(&mut self, record: &Record) {
        self.unexpired += record.unexpired();
        self.grants += record.holders.len() as u64;
        self.noted += u64::from(record.is_noted());
    }

    fn count_out(&mut self, record: &Record) {
        self.unexpired -= record.unexpired();
        self.grants -= record.holders.len() as u64;
        self.noted -= u64::from(record.is_noted());
    }

    /// Builds the deadline index of the loaded records, in the order of the deadlines, which is
    /// much faster than in key order.
    pub(super) fn load_deadlines(&mut self) {
        let dues = self.records.iter().map(|(key, record)| (record.due(), key.clone()));
        let mut dues: Vec<_> = dues.filter(|(due, _)| *due != ClusterTime::NEVER).collect();
        dues.sort_unstable();
        self.deadlines = dues.into_iter().collect();
        let entangled = self.records.iter().filter(|(_, record)| record.is_entangled());
        self.entangled = entangled.map(|(key, _)| key.clone()).collect();
    }

    pub(super) fn assert_index_equals_records(&self, name: &str) {
        let due = self.iter().map(|(key, record)| (record.due(), key.clone()));
        let due = due.filter(|(due, _)| *due != ClusterTime::NEVER);
        assert_eq!(due.collect::<OrdSet<_>>(), self.deadlines);
        assert_eq!(self.iter().map(|(_, record)| record.unexpired()).sum::<u64>(), self.unexpired);
        assert!(!self.is_nothing(), "{name:?} is no table");
        for (key, record) in self.iter() {
            assert_eq!(key.table(), name);
            assert!(!record.is_empty(), "{key:?}");
            assert_eq!(record.is_entangled(), self.entangled.contains(key), "{key:?}");
            record.assert_sound(key);
        }
        let entangled = self.iter().filter(|(_, record)| record.is_entangled()).count();
        assert_eq!(entangled, self.entangled.len());
    }
}
