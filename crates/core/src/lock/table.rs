//! One table: its records, the index of their deadlines, and its defaults.
//!
//! The records stand on three shelves: the plain ones, those with which more goes than the record,
//! and those that are *dying*. Every change of a record goes through [`Table::put`],
//! [`Table::store`] or [`Table::take_out`], which keep it on the shelf where it belongs, and a shelf
//! keeps the index and the sums consistent with its records. Each record has at most one entry in
//! the index, for its next deadline.
//!
//! A table that is deleted gives its plain records away as one value, however many they are, see
//! [`super::locks::Locks::delete_table`]. The others have places or grants of which somebody else
//! must hear: they are dying until these are ended, one by one and in portions. A request that comes
//! meanwhile finds the same lock, and [`Deletion`] tells what was there before.

use std::iter;
use std::ops::Bound;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use crate::lock::ClusterTime;
use crate::lock::changes::{RecordKey, Tracker};
use crate::lock::ends::End;
use crate::lock::events::GrantEnd;
use crate::lock::locks::Defaults;
use crate::lock::record::{Key, Record};
use crate::types::{DecidedAt, Token};

/// Records in the order of their keys.
pub(super) type Records = OrdMap<Key, Arc<Record>>;

/// A table that has defaults or records.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Table {
    value: Value,
    plain: Shelf,
    /// The locks with a queue, with grants in sessions, or with a limit.
    entangled: Shelf,
    /// The locks with a grant or a place that the deletion ends. They are due at once.
    dying: Shelf,
}

/// The part of a table that is none of its records.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Value {
    pub(super) defaults: Defaults,
    /// The last deletion, until all that it ends is worked off.
    pub(super) deletion: Option<Deletion>,
}

/// The deletion of a table: it ends the grants with smaller tokens and the places of earlier
/// positions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Deletion {
    pub(super) at: DecidedAt,
    pub(super) next_token: Token,
}

impl Deletion {
    pub(super) fn ends_grant(self, token: Token) -> bool {
        token < self.next_token
    }

    pub(super) fn ends_place(self, at: DecidedAt) -> bool {
        at < self.at
    }

    /// Whether it ends a grant or a place of this lock.
    pub(super) fn ends_any(self, record: &Record) -> bool {
        let first_grant = record.holders.iter().next();
        let first_place = record.queue.as_ref().and_then(|queue| queue.iter().next());
        first_grant.is_some_and(|grant| self.ends_grant(grant.token))
            || first_place.is_some_and(|place| self.ends_place(place.at))
    }
}

/// The shelf of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Plain,
    Entangled,
    Dying,
}

/// The contribution of a record or a table to the sums.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Tally {
    pub(super) records: u64,
    pub(super) unexpired: u64,
    pub(super) grants: u64,
    pub(super) noted: u64,
    /// 1 if it has defaults, or a deletion that is not worked off.
    pub(super) configured: u64,
}

impl Tally {
    fn plus(self, other: Self) -> Self {
        Self {
            records: self.records + other.records,
            unexpired: self.unexpired + other.unexpired,
            grants: self.grants + other.grants,
            noted: self.noted + other.noted,
            configured: self.configured + other.configured,
        }
    }

    /// The sums after one contribution has changed.
    pub(super) fn with(self, before: Self, after: Self) -> Self {
        let sum = |sum: u64, before, after| {
            let rest = sum.checked_sub(before).expect("a sum holds what each adds to it");
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
        self.shelves().iter().all(|shelf| shelf.is_empty()) && self.value == Value::default()
    }

    /// Whether all that it has is what its deletion has yet to end.
    pub(super) fn is_deleted(&self) -> bool {
        let has_more = !self.plain.is_empty() || !self.entangled.is_empty();
        !has_more && self.value.defaults == Defaults::default()
    }

    pub(super) fn value(&self) -> Value {
        self.value
    }

    /// Replaces the value, which may be read before the records of a snapshot. Returns the old one.
    pub(super) fn set_value(&mut self, value: Value) -> Value {
        std::mem::replace(&mut self.value, value)
    }

    pub(super) fn tally(&self) -> Tally {
        let configured = u64::from(self.value != Value::default());
        let shelves = self.shelves().map(|shelf| shelf.tally);
        shelves.into_iter().fold(Tally { configured, ..Tally::default() }, Tally::plus)
    }

    /// The first deadline that is not worked off yet. Dying locks are due without one.
    pub(super) fn first_deadline(&self) -> Option<ClusterTime> {
        let dues = [self.plain.first_deadline(), self.entangled.first_deadline()];
        dues.into_iter().flatten().min()
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Record> {
        self.find(key.as_bytes())
    }

    /// The record of the key with this text.
    pub(super) fn find(&self, text: &[u8]) -> Option<&Record> {
        self.shelves().into_iter().find_map(|shelf| shelf.find(text))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Key, &Record)> {
        merged(self.plain.iter(), self.entangled())
    }

    /// The locks with a queue, with grants in sessions or with a limit, and those that are dying.
    pub(super) fn entangled(&self) -> impl Iterator<Item = (&Key, &Record)> {
        merged(self.entangled.iter(), self.dying.iter())
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
        let range = self.range_from(from);
        range.take_while(move |(key, _)| key.as_bytes().starts_with(&first))
    }

    /// The records from a key on.
    pub(super) fn range_from<'a>(
        &'a self,
        from: Bound<&[u8]>,
    ) -> impl Iterator<Item = (&'a Key, &'a Record)> + use<'a> {
        let [plain, entangled, dying] = self.shelves().map(|shelf| shelf.range(from));
        merged(plain, merged(entangled, dying))
    }

    /// The record that is due first, of those that are not dying.
    pub(super) fn first_due(&self) -> Option<(&Key, &Record)> {
        let dues = [&self.plain, &self.entangled].map(Shelf::first_due);
        let first = dues.into_iter().flatten().min_by_key(|(due, key, _)| (*due, *key));
        first.map(|(_, key, record)| (key, record))
    }

    /// The first lock that is dying.
    pub(super) fn first_dying(&self) -> Option<&Key> {
        self.dying.records.keys().next()
    }

    /// Deletes everything. Returns the plain records; the others are dying from now on.
    pub(super) fn delete(&mut self, deletion: Deletion) -> Shelf {
        let mut dying = std::mem::take(&mut self.entangled);
        let mut earlier = std::mem::take(&mut self.dying);
        if earlier.len() > dying.len() {
            std::mem::swap(&mut dying, &mut earlier);
        }
        // Few: both an earlier deletion that is not worked off, and much that came after it, are
        // rare.
        for (key, record) in &earlier.records {
            dying.add(key.clone(), Arc::clone(record));
        }
        self.dying = dying;
        let deletion = Some(deletion).filter(|_| !self.dying.is_empty());
        self.value = Value { defaults: Defaults::default(), deletion };
        std::mem::take(&mut self.plain)
    }

    /// Works off one deadline of a plain record: the first due grant of the record expires, or else is removed with
    /// its record.
    pub(super) fn pass_deadline(
        &mut self,
        key: &Key,
        now: ClusterTime,
        tracker: &mut Tracker,
    ) -> Passed {
        let record = self.get(key).expect("a deadline has a record");
        let holder = record.holder();
        assert!(holder.due().reached(now), "{key:?} is not due at {now}: {holder:?}");
        if holder.expired {
            self.remove(key, tracker);
            Passed::Removed
        } else {
            tracker.ends.add(End::Expired, holder.deadline.since(holder.since));
            tracker.ended(key, holder, GrantEnd::Expired);
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
    pub(super) fn store(&mut self, key: Key, record: Record) -> Option<Arc<Record>> {
        let place = self.place(&record);
        let record = match self.shelf_mut(place).replace(&key, record) {
            Ok(old) => return Some(old),
            Err(record) => record,
        };
        let old = self.take(&key);
        self.shelf_mut(place).add(key, Arc::new(record));
        self.end_deletion();
        old
    }

    /// Removes a plain record that exists.
    pub(super) fn remove(&mut self, key: &Key, tracker: &mut Tracker) {
        let token = self.take_out(key).holder().token;
        tracker.gone(|| RecordKey::Grant(key.clone(), token));
    }

    /// Removes a record that exists, whose grants and places are tracked elsewhere.
    pub(super) fn take_out(&mut self, key: &Key) -> Arc<Record> {
        let record = self.take(key).expect("only a record that exists is removed");
        self.end_deletion();
        record
    }

    fn take(&mut self, key: &Key) -> Option<Arc<Record>> {
        let shelves = [&mut self.plain, &mut self.entangled, &mut self.dying];
        shelves.into_iter().find_map(|shelf| shelf.take(key))
    }

    /// Forgets the deletion once all that it ends is worked off.
    fn end_deletion(&mut self) {
        if self.dying.is_empty() {
            self.value.deletion = None;
        }
    }

    /// Changes a record while a snapshot is loaded. It comes to its shelf, and its deadline into
    /// the index, with [`Table::load_shelves`].
    pub(super) fn load<T>(&mut self, key: Key, change: impl FnOnce(&mut Record) -> T) -> T {
        let mut record = self.plain.records.get(&key).map(|record| Record::clone(record));
        let record = record.get_or_insert_default();
        let old = Tally::of(record);
        let result = change(record);
        self.plain.tally = self.plain.tally.with(old, Tally::of(record));
        self.plain.records.insert(key, Arc::new(std::mem::take(record)));
        result
    }

    /// Puts the loaded records onto their shelves and builds the indexes of their deadlines.
    pub(super) fn load_shelves(&mut self) {
        let loaded = std::mem::take(&mut self.plain).records;
        let mut shelves: [Vec<_>; 3] = Default::default();
        for (key, record) in &loaded {
            let number = match self.place(record) {
                Place::Plain => 0,
                Place::Entangled => 1,
                Place::Dying => 2,
            };
            shelves[number].push((key.clone(), Arc::clone(record)));
        }
        let [plain, entangled, dying] = shelves;
        self.plain =
            if plain.len() == loaded.len() { Shelf::of(loaded) } else { Shelf::of(plain.into()) };
        self.entangled = Shelf::of(entangled.into());
        self.dying = Shelf::of(dying.into());
    }

    /// Whether there is a deletion just if something is dying, and it ends nothing of the future.
    pub(super) fn is_sound(&self, next_token: Token) -> bool {
        let deletion = self.value.deletion;
        deletion.is_some() != self.dying.is_empty()
            && deletion.is_none_or(|deletion| deletion.next_token <= next_token)
    }

    fn place(&self, record: &Record) -> Place {
        if self.value.deletion.is_some_and(|deletion| deletion.ends_any(record)) {
            Place::Dying
        } else if record.is_entangled() {
            Place::Entangled
        } else {
            Place::Plain
        }
    }

    fn shelves(&self) -> [&Shelf; 3] {
        [&self.plain, &self.entangled, &self.dying]
    }

    fn shelf_mut(&mut self, place: Place) -> &mut Shelf {
        match place {
            Place::Plain => &mut self.plain,
            Place::Entangled => &mut self.entangled,
            Place::Dying => &mut self.dying,
        }
    }

    pub(super) fn assert_index_equals_records(&self, name: &str) {
        assert!(!self.is_nothing(), "{name:?} is no table");
        assert!(self.is_sound(Token(u64::MAX)), "{name:?}: {:?}", self.value);
        for (place, shelf) in
            [Place::Plain, Place::Entangled, Place::Dying].into_iter().zip(self.shelves())
        {
            assert_eq!(*shelf, Shelf::of(shelf.records.clone()), "{name:?}");
            for (key, record) in shelf.iter() {
                assert_eq!(key.table(), name);
                assert!(!record.is_empty(), "{key:?}");
                assert_eq!(self.place(record), place, "{key:?}");
                assert!(place == Place::Plain || !record.is_plain(), "{key:?}");
                record.assert_sound(key);
            }
        }
    }
}

/// Records, the index of their deadlines, and sums over them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Shelf {
    records: Records,
    deadlines: OrdSet<(ClusterTime, Key)>,
    tally: Tally,
}

impl Tally {
    fn of(record: &Record) -> Self {
        Self {
            records: u64::from(!record.is_empty()),
            unexpired: record.unexpired(),
            grants: record.holders.len() as u64,
            noted: u64::from(record.is_noted()),
            configured: 0,
        }
    }
}

impl Shelf {
    /// The shelf of these records, whose deadlines are sorted first: that is much faster than to add
    /// them in key order.
    fn of(records: Records) -> Self {
        let dues = records.iter().map(|(key, record)| (record.due(), key.clone()));
        let mut dues: Vec<_> = dues.filter(|(due, _)| *due != ClusterTime::NEVER).collect();
        dues.sort_unstable();
        let tallies = records.values().map(|record| Tally::of(record));
        let tally = tallies.fold(Tally::default(), Tally::plus);
        Self { records, deadlines: dues.into_iter().collect(), tally }
    }

    pub(super) fn records(&self) -> &Records {
        &self.records
    }

    pub(super) fn tally(&self) -> Tally {
        self.tally
    }

    fn len(&self) -> usize {
        self.records.len()
    }

    fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    fn find(&self, text: &[u8]) -> Option<&Record> {
        self.records.get(text).map(|record| &**record)
    }

    fn iter(&self) -> impl Iterator<Item = (&Key, &Record)> {
        self.records.iter().map(|(key, record)| (key, &**record))
    }

    fn range<'a>(
        &'a self,
        from: Bound<&[u8]>,
    ) -> impl Iterator<Item = (&'a Key, &'a Record)> + use<'a> {
        let range = self.records.range::<_, [u8]>((from, Bound::Unbounded));
        range.map(|(key, record)| (key, &**record))
    }

    fn first_deadline(&self) -> Option<ClusterTime> {
        self.deadlines.get_min().map(|(deadline, _)| *deadline)
    }

    fn first_due(&self) -> Option<(ClusterTime, &Key, &Record)> {
        let (due, key) = self.deadlines.get_min()?;
        Some((*due, key, self.records.get(key).expect("a deadline has a record")))
    }

    /// Adds a record of which there is none.
    fn add(&mut self, key: Key, record: Arc<Record>) {
        self.tally = self.tally.plus(Tally::of(&record));
        let due = record.due();
        if due != ClusterTime::NEVER {
            self.deadlines.insert((due, key.clone()));
        }
        self.records.insert(key, record);
    }

    /// Replaces a record. Returns the old one; the new one, if there is none.
    fn replace(&mut self, key: &Key, record: Record) -> Result<Arc<Record>, Record> {
        let Some((shared, slot)) = self.records.get_key_value_mut(key) else { return Err(record) };
        let (tally, due) = (Tally::of(&record), record.due());
        let old = std::mem::replace(slot, Arc::new(record));
        self.tally = self.tally.with(Tally::of(&old), tally);
        let old_due = old.due();
        if old_due == due {
            return Ok(old);
        }
        // The index must share the key's text with the records, not hold a second one.
        let shared = shared.clone();
        if old_due != ClusterTime::NEVER {
            self.deadlines.remove(&(old_due, shared.clone()));
        }
        if due != ClusterTime::NEVER {
            self.deadlines.insert((due, shared));
        }
        Ok(old)
    }

    fn take(&mut self, key: &Key) -> Option<Arc<Record>> {
        let (key, record) = self.records.remove_with_key(key)?;
        self.tally = self.tally.with(Tally::of(&record), Tally::default());
        let due = record.due();
        if due != ClusterTime::NEVER {
            self.deadlines.remove(&(due, key));
        }
        Some(record)
    }
}

/// The entries of both in the order of their keys, of which they share none.
fn merged<'a>(
    one: impl Iterator<Item = (&'a Key, &'a Record)>,
    other: impl Iterator<Item = (&'a Key, &'a Record)>,
) -> impl Iterator<Item = (&'a Key, &'a Record)> {
    let (mut one, mut other) = (one.peekable(), other.peekable());
    iter::from_fn(move || match (one.peek(), other.peek()) {
        (Some((first, _)), Some((second, _))) if second < first => other.next(),
        (Some(_), _) => one.next(),
        (None, _) => other.next(),
    })
}
