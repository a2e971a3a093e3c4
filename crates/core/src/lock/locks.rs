//! All tables, the sums over them, and the order of their deadlines.
//!
//! Every change of a table goes through [`Locks::change`], which keeps the sums and the index of
//! the tables' first deadlines consistent with the values that `table.rs` keeps for each table: the
//! numbers of records, unexpired grants and tables with defaults, and the next deadline.
//!
//! Deadlines are worked off in (deadline, key) order and in bounded portions, so that a million
//! locks that expire together do not delay the log. A record may therefore be expired, or past its
//! time_to_live, without its mark. [`Locks::settle`] works off one record's own deadlines before a
//! command is judged, and reads judge by the clock, so the progress of that work is not observable.
//!
//! Deleting a table takes it out as one value, however many records it has: nothing is left in the
//! state to be hidden or worked off, and a lock that is acquired in it right afterwards is in
//! another table of the same name. The caller frees the deleted table, see [`Deleted`].

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use imbl::{OrdMap, OrdSet};

use crate::lock::changes::{RecordKey, Tracker};
use crate::lock::record::{Key, Record};
use crate::lock::table::{Passed, Table, Tally};
use crate::lock::{ClusterTime, Keep};
use crate::types::{DEFAULT_DURATION, KEPT_AFTER_EXPIRY, TableDefaults, TableInfo, TimeToLive};

/// All locks of all tables.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Locks {
    /// The tables that have defaults or records.
    tables: OrdMap<Arc<str>, Table>,
    /// The first deadline of each table that has one.
    first_deadlines: OrdSet<(ClusterTime, Arc<str>)>,
    sums: Tally,
    /// Grants that expired since the cluster began.
    pub(super) expiries: u64,
    /// Records whose time_to_live passed since the cluster began.
    pub(super) removals: u64,
    pub(super) deleted: Deleted,
}

/// Deleted tables that are not freed yet. Freeing takes about a microsecond per record: drop it
/// where nobody waits.
#[derive(Debug, Default)]
pub struct Deleted(Vec<Table>);

impl Deleted {
    /// Whether there is nothing to free.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A clone has no tables to free.
impl Clone for Deleted {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// Tables to be freed are not part of a state's value.
impl PartialEq for Deleted {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

impl Eq for Deleted {}

/// The values that a table supplies to requests that leave them out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Defaults {
    pub(super) duration_ms: Option<u64>,
    pub(super) time_to_live: Option<Keep>,
    pub(super) lock_delay_ms: Option<u64>,
    pub(super) max_hold_ms: Option<u64>,
}

impl Defaults {
    /// Whether it has nothing of the second part of the contract.
    pub(super) fn is_plain(self) -> bool {
        self.lock_delay_ms.is_none() && self.max_hold_ms.is_none()
    }

    /// The duration and time_to_live of a request with these options of its own.
    pub(super) fn resolve(
        self,
        duration_ms: Option<u64>,
        time_to_live: Option<Keep>,
    ) -> (u64, Keep) {
        let duration = duration_ms.or(self.duration_ms).unwrap_or(ms(DEFAULT_DURATION));
        let left_out = match self.time_to_live {
            None => Keep::Ms(duration.saturating_add(ms(KEPT_AFTER_EXPIRY))),
            Some(Keep::Ms(least)) => Keep::Ms(least.max(duration)),
            Some(Keep::ForEver) => Keep::ForEver,
        };
        (duration, time_to_live.unwrap_or(left_out))
    }
}

impl From<Defaults> for TableDefaults {
    fn from(defaults: Defaults) -> Self {
        Self {
            duration: defaults.duration_ms.map(Duration::from_millis),
            time_to_live: defaults.time_to_live.map(|keep| match keep {
                Keep::Ms(ms) => TimeToLive::For(Duration::from_millis(ms)),
                Keep::ForEver => TimeToLive::Never,
            }),
            lock_delay: defaults.lock_delay_ms.map(Duration::from_millis),
            max_hold: defaults.max_hold_ms.map(Duration::from_millis),
        }
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Locks {
    pub(super) fn len(&self) -> u64 {
        self.sums.records
    }

    pub(super) fn unexpired(&self) -> u64 {
        self.sums.unexpired
    }

    pub(super) fn grants(&self) -> u64 {
        self.sums.grants
    }

    /// The number of locks with a limit or a hand-over that was broken off.
    pub(super) fn noted(&self) -> u64 {
        self.sums.noted
    }

    /// The number of tables that have defaults.
    pub(super) fn configured(&self) -> u64 {
        self.sums.configured
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Record> {
        self.tables.get(key.table())?.get(key)
    }

    /// The record of a lock of which there is no key.
    pub(super) fn find(&self, table: &str, signature: &str) -> Option<&Record> {
        self.tables.get(table)?.find(&Key::text(table, signature)?)
    }

    /// The defaults of the lock's table, and its record.
    pub(super) fn look(&self, key: &Key) -> (Defaults, Option<&Record>) {
        let table = self.tables.get(key.table());
        table.map_or_else(Default::default, |table| (table.defaults, table.get(key)))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Key, &Record)> {
        self.tables.values().flat_map(Table::iter)
    }

    /// The records of a table whose signatures begin with `prefix` and come after `after`.
    pub(super) fn range<'a>(
        &'a self,
        table: &str,
        prefix: &str,
        after: Option<&str>,
    ) -> impl Iterator<Item = (&'a Key, &'a Record)> + use<'a> {
        // Plain bytes, not keys: with a NUL in prefix or after, no key is at that position.
        let place = |name: &str| [table.as_bytes(), b"\0", name.as_bytes()].concat();
        let (first, after) = (place(prefix), after.map(place));
        let range = self.tables.get(table).map(|table| table.range(first, after));
        range.into_iter().flatten()
    }

    /// The records of a table whose names begin with the prefix, from a name on.
    pub(super) fn range_from<'a>(
        &'a self,
        table: &str,
        prefix: &str,
        from: Bound<&str>,
    ) -> impl Iterator<Item = (&'a Key, &'a Record)> + use<'a> {
        let place = |name: &str| [table.as_bytes(), b"\0", name.as_bytes()].concat();
        let (first, from) = (place(prefix), from.map(place));
        let from = match from {
            Bound::Included(name) | Bound::Excluded(name) if name < first => {
                Bound::Included(first.clone())
            }
            Bound::Unbounded => Bound::Included(first.clone()),
            from @ (Bound::Included(_) | Bound::Excluded(_)) => from,
        };
        let range = self.tables.get(table).map(|table| {
            let from = from.as_ref().map(Vec::as_slice);
            table.records().range::<_, [u8]>((from, Bound::Unbounded))
        });
        let range = range.into_iter().flatten();
        let within = range.take_while(move |(key, _)| key.as_bytes().starts_with(&first));
        within.map(|(key, record)| (key, &**record))
    }

    /// The first deadline that is not worked off yet.
    pub(super) fn next_deadline(&self) -> Option<ClusterTime> {
        self.first_deadlines.get_min().map(|(deadline, _)| *deadline)
    }

    /// The record whose deadline is first, in (deadline, key) order.
    pub(super) fn first_due(&self) -> Option<(ClusterTime, &Key, &Record)> {
        let (deadline, table) = self.first_deadlines.get_min()?;
        let table = self.tables.get(table).expect("a deadline has a table");
        let (key, record) = table.first_due().expect("it has a first deadline");
        Some((*deadline, key, record))
    }

    /// Works off one deadline of a plain record.
    pub(super) fn pass(&mut self, key: &Key, now: ClusterTime, tracker: &mut Tracker) -> Passed {
        let passed = self.change(key.table(), |table| table.pass_deadline(key, now, tracker));
        match passed {
            Passed::Expired => self.expiries += 1,
            Passed::Removed => self.removals += 1,
        }
        passed
    }

    /// Works off the due deadlines of one plain record. Afterwards it is absent, or its grant's
    /// mark says whether it is expired.
    pub(super) fn settle(&mut self, key: &Key, now: ClusterTime, tracker: &mut Tracker) {
        while self.get(key).is_some_and(|record| record.due().reached(now)) {
            self.pass(key, now, tracker);
        }
    }

    /// The locks with a queue, with grants in sessions, or with a limit, in the order of their keys.
    pub(super) fn all_entangled(&self) -> impl Iterator<Item = (&Key, &Record)> {
        self.tables.values().flat_map(|table| {
            table.entangled().iter().filter_map(|key| Some((key, table.get(key)?)))
        })
    }

    /// The locks with a queue.
    pub(super) fn waited_for(&self) -> impl Iterator<Item = (&Key, &Record)> {
        self.all_entangled().filter(|(_, record)| record.queue.is_some())
    }

    /// The locks of a table with a queue, or with grants in sessions.
    pub(super) fn entangled(&self, table: &str) -> Vec<Key> {
        let table = self.tables.get(table);
        table.map(|table| table.entangled().iter().cloned().collect()).unwrap_or_default()
    }

    /// Creates, replaces or removes a record, whose grants and places are tracked elsewhere.
    pub(super) fn store(&mut self, key: Key, record: Record) {
        let exists = self.get(&key).is_some();
        if !record.is_empty() {
            self.change(key.clone().table(), |table| table.store(key, record));
        } else if exists {
            self.change(key.table(), |table| table.take_out(&key));
        }
    }

    /// Creates or replaces a plain record by a plain one.
    pub(super) fn put(&mut self, key: Key, record: Record, tracker: &mut Tracker) {
        self.change(key.clone().table(), |table| table.put(key, record, tracker));
    }

    /// Removes a plain record that exists.
    pub(super) fn remove(&mut self, key: &Key, tracker: &mut Tracker) {
        self.change(key.table(), |table| table.remove(key, tracker));
    }

    /// Changes a record while a snapshot is loaded. Its deadline is not in the indexes before
    /// [`Locks::load_deadlines`].
    pub(super) fn load<T>(&mut self, key: Key, change: impl FnOnce(&mut Record) -> T) -> T {
        self.change(key.clone().table(), |table| table.load(key, change))
    }

    /// Builds the deadline indexes of the records that were loaded.
    pub(super) fn load_deadlines(&mut self) {
        let names: Vec<_> = self.tables.keys().cloned().collect();
        for name in names {
            self.change(&name, Table::load_deadlines);
        }
    }

    /// Adds a table's defaults from a snapshot; `false` if it has some, or these are empty.
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
        let tables = self.tables.iter().filter(|(_, table)| table.has_defaults());
        tables.map(|(name, table)| (name, table.defaults))
    }

    /// The tables whose names come after `after`, in byte order.
    pub(super) fn tables<'a>(
        &'a self,
        after: Option<&str>,
    ) -> impl Iterator<Item = TableInfo> + use<'a> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.tables.range::<_, str>((from, Bound::Unbounded)).map(|(name, table)| info(name, table))
    }

    /// One table.
    pub(super) fn table(&self, name: &str) -> Option<TableInfo> {
        self.tables.get(name).map(|table| info(name, table))
    }

    pub(super) fn has_table(&self, name: &str) -> bool {
        self.tables.contains_key(name)
    }

    pub(super) fn table_count(&self) -> usize {
        self.tables.len()
    }

    pub(super) fn configure(&mut self, name: &str, defaults: Defaults, tracker: &mut Tracker) {
        let old = self.change(name, |table| std::mem::replace(&mut table.defaults, defaults));
        let key = || RecordKey::Table(name.into());
        match (old != Defaults::default(), defaults != Defaults::default()) {
            (false, true) => tracker.come(key),
            (true, true) => tracker.note(key),
            (true, false) => tracker.gone(key),
            (false, false) => {}
        }
    }

    /// Deletes a table in one step, however many records it has. A table whose last records are due
    /// for removal and not worked off yet still exists.
    pub(super) fn delete_table(&mut self, name: &str, tracker: &mut Tracker) {
        let Some((name, table)) = self.tables.remove_with_key(name) else { return };
        self.sums = self.sums.with(table.tally(), Tally::default());
        if let Some(first) = table.first_deadline() {
            self.first_deadlines.remove(&(first, Arc::clone(&name)));
        }
        if table.has_defaults() {
            tracker.gone(|| RecordKey::Table(name));
        }
        tracker.deleted(table.records());
        tracker.ends.add_deleted(table.tally().unexpired);
        self.deleted.0.push(table);
    }

    /// Changes a table, which need not exist before or afterwards, and updates the sums and the
    /// index over all tables.
    fn change<T>(&mut self, name: &str, change: impl FnOnce(&mut Table) -> T) -> T {
        if !self.tables.contains_key(name) {
            self.tables.insert(name.into(), Table::default());
        }
        let entry = self.tables.get_key_value_mut(name);
        let (shared, table) = entry.expect("the table was put there");
        let (tally, first) = (table.tally(), table.first_deadline());
        let result = change(table);
        self.sums = self.sums.with(tally, table.tally());
        let now_first = table.first_deadline();
        if first != now_first {
            if let Some(first) = first {
                self.first_deadlines.remove(&(first, Arc::clone(shared)));
            }
            if let Some(now_first) = now_first {
                self.first_deadlines.insert((now_first, Arc::clone(shared)));
            }
        }
        if table.is_nothing() {
            self.tables.remove(name);
        }
        result
    }

    pub(super) fn assert_indexes_equal_records(&self) {
        let mut sums = Tally::default();
        let mut first_deadlines = OrdSet::new();
        for (name, table) in &self.tables {
            table.assert_index_equals_records(name);
            sums = sums.with(Tally::default(), table.tally());
            first_deadlines.extend(table.first_deadline().map(|first| (first, Arc::clone(name))));
        }
        assert_eq!(sums, self.sums);
        assert_eq!(first_deadlines, self.first_deadlines);
    }
}

fn info(name: &str, table: &Table) -> TableInfo {
    TableInfo {
        table: name.to_owned(),
        defaults: table.defaults.into(),
        locks: table.tally().records,
    }
}
