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
//! Deleting a table takes its plain records out as one value, however many they are: nothing of them
//! is left in the state to be hidden or worked off, and the caller frees them, see [`Deleted`].
//! Locks with places or with grants in sessions are *dying* until these are ended, in portions, see
//! `table.rs`, and due without a deadline.

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use imbl::{OrdMap, OrdSet};

use crate::lock::changes::{RecordKey, Tracker};
use crate::lock::record::{Key, Record};
use crate::lock::table::{Deletion, Passed, Shelf, Table, Tally, Value};
use crate::lock::{ClusterTime, Keep};
use crate::types::{
    DEFAULT_DURATION, KEPT_AFTER_EXPIRY, TableDefaults, TableInfo, TimeToLive, Token,
};

/// All locks of all tables.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Locks {
    /// The tables that have defaults or records.
    tables: OrdMap<Arc<str>, Table>,
    /// The first deadline of each table that has one.
    first_deadlines: OrdSet<(ClusterTime, Arc<str>)>,
    /// The tables with locks that are dying.
    dying: OrdSet<Arc<str>>,
    sums: Tally,
    /// Grants that expired since the cluster began.
    pub(super) expiries: u64,
    /// Records whose time_to_live passed since the cluster began.
    pub(super) removals: u64,
    pub(super) deleted: Deleted,
}

/// Records of deleted tables that are not freed yet. Freeing takes about a microsecond per record:
/// drop it where nobody waits.
#[derive(Debug, Default)]
pub struct Deleted(Vec<Shelf>);

impl Deleted {
    /// Whether there is nothing to free.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A clone has nothing to free.
impl Clone for Deleted {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// Records to be freed are not part of a state's value.
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

    /// The number of tables that have a value.
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
        table.map_or_else(Default::default, |table| (table.value().defaults, table.get(key)))
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
            table.range_from(from)
        });
        let range = range.into_iter().flatten();
        range.take_while(move |(key, _)| key.as_bytes().starts_with(&first))
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

    /// The locks with a queue, with grants in sessions or with a limit, and those that are dying, in
    /// the order of their keys.
    pub(super) fn all_entangled(&self) -> impl Iterator<Item = (&Key, &Record)> {
        self.tables.values().flat_map(Table::entangled)
    }

    /// The locks with a queue.
    pub(super) fn waited_for(&self) -> impl Iterator<Item = (&Key, &Record)> {
        self.all_entangled().filter(|(_, record)| record.queue.is_some())
    }

    /// The first lock that is dying.
    pub(super) fn first_dying(&self) -> Option<&Key> {
        self.first_dying_of(self.dying.get_min()?)
    }

    /// The first lock of a table that is dying.
    pub(super) fn first_dying_of(&self, table: &str) -> Option<&Key> {
        self.tables.get(table)?.first_dying()
    }

    /// The deletion of a table, if it is not worked off yet.
    pub(super) fn deletion(&self, table: &str) -> Option<Deletion> {
        if self.dying.is_empty() { None } else { self.value(table).deletion }
    }

    /// Creates, replaces or removes a record, whose grants and places are tracked elsewhere.
    pub(super) fn store(&mut self, key: Key, record: Record, tracker: &mut Tracker) {
        let exists = self.get(&key).is_some();
        let name = key.clone();
        if !record.is_empty() {
            self.change_value(name.table(), tracker, |table| table.store(key, record));
        } else if exists {
            self.change_value(name.table(), tracker, |table| table.take_out(&key));
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
    /// [`Locks::load_shelves`].
    pub(super) fn load<T>(&mut self, key: Key, change: impl FnOnce(&mut Record) -> T) -> T {
        self.change(key.clone().table(), |table| table.load(key, change))
    }

    /// Builds the shelves and the deadline indexes of the records that were loaded; `false` if a
    /// table's deletion contradicts them.
    pub(super) fn load_shelves(&mut self, next_token: Token) -> bool {
        let names: Vec<_> = self.tables.keys().cloned().collect();
        for name in names {
            self.change(&name, Table::load_shelves);
        }
        self.tables.values().all(|table| table.is_sound(next_token))
    }

    /// Adds a table's value from a snapshot; `false` if it has one, or this is empty.
    pub(super) fn load_value(&mut self, table: &str, value: Value) -> bool {
        let old = self.change(table, |table| table.set_value(value));
        old == Value::default() && value != Value::default()
    }

    pub(super) fn value(&self, table: &str) -> Value {
        self.tables.get(table).map(Table::value).unwrap_or_default()
    }

    pub(super) fn defaults(&self, table: &str) -> Defaults {
        self.value(table).defaults
    }

    /// The tables that have a value, in byte order.
    pub(super) fn all_values(&self) -> impl Iterator<Item = (&Arc<str>, Value)> {
        let values = self.tables.iter().map(|(name, table)| (name, table.value()));
        values.filter(|(_, value)| *value != Value::default())
    }

    /// The tables whose names come after `after`, in byte order.
    pub(super) fn tables<'a>(
        &'a self,
        after: Option<&str>,
    ) -> impl Iterator<Item = TableInfo> + use<'a> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let tables = self.tables.range::<_, str>((from, Bound::Unbounded));
        tables.filter(|(_, table)| !table.is_deleted()).map(|(name, table)| info(name, table))
    }

    /// One table.
    pub(super) fn table(&self, name: &str) -> Option<TableInfo> {
        let table = self.tables.get(name).filter(|table| !table.is_deleted());
        table.map(|table| info(name, table))
    }

    /// Whether a table exists: it is more than what its deletion has yet to end.
    pub(super) fn has_table(&self, name: &str) -> bool {
        self.tables.get(name).is_some_and(|table| !table.is_deleted())
    }

    pub(super) fn table_count(&self) -> usize {
        self.tables.len()
    }

    pub(super) fn configure(&mut self, name: &str, defaults: Defaults, tracker: &mut Tracker) {
        self.change_value(name, tracker, |table| {
            table.set_value(Value { defaults, ..table.value() });
        });
    }

    /// Deletes a table, however many records it has. A table whose last records are due for removal
    /// and not worked off yet still exists.
    pub(super) fn delete_table(&mut self, name: &str, deletion: Deletion, tracker: &mut Tracker) {
        if !self.tables.contains_key(name) {
            return;
        }
        let plain = self.change_value(name, tracker, |table| table.delete(deletion));
        tracker.deleted(plain.records());
        tracker.ends.add_deleted(plain.tally().unexpired);
        self.deleted.0.push(plain);
    }

    /// As [`Locks::change`], and tracks the table's value.
    fn change_value<T>(
        &mut self,
        name: &str,
        tracker: &mut Tracker,
        change: impl FnOnce(&mut Table) -> T,
    ) -> T {
        let (result, old, new) = self.change(name, |table| {
            let old = table.value();
            let result = change(table);
            (result, old, table.value())
        });
        let key = || RecordKey::Table(name.into());
        match (old != Value::default(), new != Value::default()) {
            (false, true) => tracker.come(key),
            (true, true) if old != new => tracker.note(key),
            (true, false) => tracker.gone(key),
            (true, true) | (false, false) => {}
        }
        result
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
        let was_dying = table.first_dying().is_some();
        let result = change(table);
        self.sums = self.sums.with(tally, table.tally());
        match (was_dying, table.first_dying().is_some()) {
            (false, true) => drop(self.dying.insert(Arc::clone(shared))),
            (true, false) => drop(self.dying.remove(shared)),
            (true, true) | (false, false) => {}
        }
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
        let mut dying = OrdSet::new();
        for (name, table) in &self.tables {
            table.assert_index_equals_records(name);
            sums = sums.with(Tally::default(), table.tally());
            first_deadlines.extend(table.first_deadline().map(|first| (first, Arc::clone(name))));
            dying.extend(table.first_dying().map(|_| Arc::clone(name)));
        }
        assert_eq!(sums, self.sums);
        assert_eq!(first_deadlines, self.first_deadlines);
        assert_eq!(dying, self.dying);
    }
}

fn info(name: &str, table: &Table) -> TableInfo {
    TableInfo {
        table: name.to_owned(),
        defaults: table.value().defaults.into(),
        locks: table.tally().records,
    }
}
