//! The records and the index of their deadlines, kept equal by construction.
//!
//! Every change of a record goes through [`Locks::put`] or [`Locks::remove`], which keep three
//! things equal to the records: the deadline index, the number of unexpired grants, and the number
//! of records per table. Each record has at most one entry in the index, for what happens to it
//! next: its expiry until that is worked off, then its removal.
//!
//! Deadlines are worked off in (deadline, key) order and in bounded portions, so that a million
//! locks that expire together do not hold up the log. A record may therefore be expired, or past
//! its time_to_live, without its mark: [`Locks::settle`] works off one record's own deadlines before
//! a command is judged, and reads judge by the clock. So nobody can tell how far the work has come.

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use imbl::{OrdMap, OrdSet};

use crate::lock::ClusterTime;
use crate::lock::changes::{RecordKey, Tracker};
use crate::lock::record::{Grant, Key, Record};
use crate::types::{DEFAULT_DURATION, TableDefaults, TableInfo};

/// All locks of all tables.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Locks {
    records: OrdMap<Key, Arc<Record>>,
    deadlines: OrdSet<(ClusterTime, Key)>,
    tables: OrdMap<Arc<str>, Table>,
    /// Tables that have defaults.
    configured: u64,
    unexpired: u64,
    /// Grants that expired since the cluster began.
    pub(super) expiries: u64,
    /// Records whose time_to_live passed since the cluster began.
    pub(super) removals: u64,
}

/// A table that has defaults or records.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Table {
    defaults: Defaults,
    records: u64,
}

/// What a table gives to requests that leave it out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Defaults {
    pub(super) duration_ms: Option<u64>,
    pub(super) time_to_live_ms: Option<u64>,
}

impl Defaults {
    /// The duration and time_to_live of a request that has these of its own.
    pub(super) fn resolve(
        self,
        duration_ms: Option<u64>,
        time_to_live_ms: Option<u64>,
    ) -> (u64, Option<u64>) {
        let fallback = u64::try_from(DEFAULT_DURATION.as_millis()).unwrap_or(u64::MAX);
        let duration = duration_ms.or(self.duration_ms).unwrap_or(fallback);
        let least = self.time_to_live_ms.map(|least| least.max(duration));
        (duration, time_to_live_ms.or(least))
    }
}

impl From<Defaults> for TableDefaults {
    fn from(defaults: Defaults) -> Self {
        Self {
            duration: defaults.duration_ms.map(Duration::from_millis),
            time_to_live: defaults.time_to_live_ms.map(Duration::from_millis),
        }
    }
}

impl Locks {
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    pub(super) fn unexpired(&self) -> u64 {
        self.unexpired
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Record> {
        self.records.get(key).map(|record| &**record)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Key, &Record)> {
        self.records.iter().map(|(key, record)| (key, &**record))
    }

    /// The records of a table whose signatures begin with `prefix` and come after `after`.
    pub(super) fn range<'a>(
        &'a self,
        table: &str,
        prefix: &str,
        after: Option<&str>,
    ) -> impl Iterator<Item = (&'a Key, &'a Record)> {
        // Plain bytes, not keys: with a NUL in prefix or after they name a place where no key lies.
        let place = |name: &str| [table.as_bytes(), b"\0", name.as_bytes()].concat();
        let first = place(prefix);
        let after = after.map(place).filter(|after| *after >= first);
        let from = match &after {
            Some(after) => Bound::Excluded(after.as_slice()),
            None => Bound::Included(first.as_slice()),
        };
        let range = self.records.range::<_, [u8]>((from, Bound::Unbounded));
        let within = range.take_while(move |(key, _)| key.as_bytes().starts_with(&first));
        within.map(|(key, record)| (key, &**record))
    }

    /// When the first deadline is due that is not worked off yet.
    pub(super) fn next_deadline(&self) -> Option<ClusterTime> {
        self.deadlines.get_min().map(|(deadline, _)| *deadline)
    }

    /// Works off at most this many due deadlines, in (deadline, key) order.
    pub(super) fn work_off(&mut self, now: ClusterTime, most: usize, tracker: &mut Tracker) {
        for _ in 0..most {
            match self.deadlines.get_min() {
                Some((deadline, key)) if deadline.reached(now) => {
                    let key = key.clone();
                    self.pass_deadline(&key, now, tracker);
                }
                Some(_) | None => return,
            }
        }
    }

    /// Works off the due deadlines of one record. Afterwards it is absent, or its grant's mark
    /// says whether it is expired.
    pub(super) fn settle(&mut self, key: &Key, now: ClusterTime, tracker: &mut Tracker) {
        while self.get(key).is_some_and(|record| record.due().reached(now)) {
            self.pass_deadline(key, now, tracker);
        }
    }

    /// One step: the first due grant of the record expires, or else is removed with its record.
    fn pass_deadline(&mut self, key: &Key, now: ClusterTime, tracker: &mut Tracker) {
        let record = self.records.get(key).expect("a deadline has a record");
        let holder = record.holder();
        assert!(holder.due().reached(now), "{key:?} is not due at {now}: {holder:?}");
        if holder.expired {
            self.removals += 1;
            self.remove(key, tracker);
        } else {
            self.expiries += 1;
            let mut record = Record::clone(record);
            record.grants[0].expired = true;
            self.put(key.clone(), record, tracker);
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
            Self::note_replaced(shared, &old, slot, tracker);
            // The index must share the key's text with the records, not hold a second one.
            key = shared.clone();
            old.due()
        } else {
            for grant in &record.grants {
                tracker.come(|| RecordKey::Grant(key.clone(), grant.token));
            }
            self.count_in_table(key.table(), 1);
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

    /// Removes a record that exists.
    pub(super) fn remove(&mut self, key: &Key, tracker: &mut Tracker) {
        let (key, record) =
            self.records.remove_with_key(key).expect("only a record that exists is removed");
        self.unexpired -= record.unexpired();
        self.count_in_table(key.table(), -1);
        for grant in &record.grants {
            tracker.gone(|| RecordKey::Grant(key.clone(), grant.token));
        }
        let due = record.due();
        if due != ClusterTime::NEVER {
            self.deadlines.remove(&(due, key));
        }
    }

    /// Adds a record as a snapshot has it; `false` if the key is taken. Its deadline is not in the
    /// index before [`Locks::load_deadlines`].
    pub(super) fn load(&mut self, key: Key, grant: Grant) -> bool {
        let record = Record::exclusive(grant);
        self.unexpired += record.unexpired();
        self.count_in_table(key.table(), 1);
        self.records.insert(key, Arc::new(record)).is_none()
    }

    /// Builds the deadline index of the records that were loaded: in its own order, which is much
    /// faster than in theirs.
    pub(super) fn load_deadlines(&mut self) {
        let dues = self.records.iter().map(|(key, record)| (record.due(), key.clone()));
        let mut dues: Vec<_> = dues.filter(|(due, _)| *due != ClusterTime::NEVER).collect();
        dues.sort_unstable();
        self.deadlines = dues.into_iter().collect();
    }

    /// Adds a table's defaults as a snapshot has them; `false` if it has some, or these are none.
    pub(super) fn load_defaults(&mut self, table: &str, defaults: Defaults) -> bool {
        let is_new = self.defaults(table) == Defaults::default();
        self.configure(table, defaults, &mut Tracker::default());
        is_new && defaults != Defaults::default()
    }

    pub(super) fn defaults(&self, table: &str) -> Defaults {
        self.tables.get(table).map(|table| table.defaults).unwrap_or_default()
    }

    /// The tables that have defaults, in byte order.
    pub(super) fn all_defaults(&self) -> impl Iterator<Item = (&Arc<str>, Defaults)> {
        let tables = self.tables.iter().map(|(name, table)| (name, table.defaults));
        tables.filter(|(_, defaults)| *defaults != Defaults::default())
    }

    pub(super) fn tables(&self) -> impl Iterator<Item = TableInfo> {
        self.tables.iter().map(|(name, table)| TableInfo {
            table: name.to_string(),
            defaults: table.defaults.into(),
            locks: table.records,
        })
    }

    pub(super) fn configured(&self) -> u64 {
        self.configured
    }

    pub(super) fn table_count(&self) -> usize {
        self.tables.len()
    }

    pub(super) fn configure(&mut self, table: &str, defaults: Defaults, tracker: &mut Tracker) {
        let name = Arc::<str>::from(table);
        let slot = &mut self.tables.entry(Arc::clone(&name)).or_default().defaults;
        let old = std::mem::replace(slot, defaults);
        let (had, has) = (old != Defaults::default(), defaults != Defaults::default());
        self.configured -= u64::from(had);
        self.configured += u64::from(has);
        self.drop_empty_table(table);
        match (had, has) {
            (false, true) => tracker.come(|| RecordKey::Table(name)),
            (true, true) => tracker.note(|| RecordKey::Table(name)),
            (true, false) => tracker.gone(|| RecordKey::Table(name)),
            (false, false) => {}
        }
    }

    /// Deletes a table whole. The one operation whose cost grows with what it meets, a few
    /// microseconds for each record of the table: a table is gone at one log position or not at all.
    pub(super) fn delete_table(&mut self, table: &str, tracker: &mut Tracker) {
        let keys: Vec<Key> = self.range(table, "", None).map(|(key, _)| key.clone()).collect();
        for key in keys {
            self.remove(&key, tracker);
        }
        if self.defaults(table) != Defaults::default() {
            self.configure(table, Defaults::default(), tracker);
        }
    }

    fn count_in_table(&mut self, name: &str, change: i64) {
        if !self.tables.contains_key(name) {
            self.tables.insert(name.into(), Table::default());
        }
        let table = self.tables.get_mut(name).expect("the table was put there");
        table.records = table
            .records
            .checked_add_signed(change)
            .expect("a table has as many records as were counted");
        if table.records == 0 {
            self.drop_empty_table(name);
        }
    }

    fn drop_empty_table(&mut self, name: &str) {
        if self.tables.get(name).is_some_and(|table| *table == Table::default()) {
            self.tables.remove(name);
        }
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn assert_indexes_equal_records(&self) {
        let due = self.iter().map(|(key, record)| (record.due(), key.clone()));
        let due = due.filter(|(due, _)| *due != ClusterTime::NEVER);
        assert_eq!(due.collect::<OrdSet<_>>(), self.deadlines);
        assert_eq!(self.iter().map(|(_, record)| record.unexpired()).sum::<u64>(), self.unexpired);
        assert_eq!(self.all_defaults().count() as u64, self.configured);
        let mut tables: OrdMap<Arc<str>, Table> = self
            .all_defaults()
            .map(|(name, defaults)| (Arc::clone(name), Table { defaults, records: 0 }))
            .collect();
        for (key, record) in self.iter() {
            tables.entry(key.table().into()).or_default().records += 1;
            assert_eq!((record.grants.len(), record.limit), (1, 1), "{key:?}");
            assert!(record.holder().deadline <= record.holder().removal, "{key:?}");
        }
        assert_eq!(tables, self.tables);
    }
}
