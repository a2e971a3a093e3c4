//! Ordered maps and sets that have few entries in nearly all cases.
//!
//! There are a hundred thousand queues and sessions, and a node of a map that shares its structure
//! has room for 64 entries. So few entries are kept in a vector, and only many in such a map: then
//! one more or less costs the same however many there are, and a copy costs nothing.

use std::fmt;
use std::ops::{Bound, RangeBounds};

use imbl::OrdMap;

/// The most entries that are kept in a vector.
const FEW: usize = 16;

/// An ordered map. Which form it has makes no difference to its value.
#[derive(Clone)]
pub(super) enum SmallMap<K, V> {
    Few(Vec<(K, V)>),
    Many(OrdMap<K, V>),
}

impl<K, V> Default for SmallMap<K, V> {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl<K: Ord + Clone + fmt::Debug, V: Clone + fmt::Debug> fmt::Debug for SmallMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Ord + Clone, V: Clone + PartialEq> PartialEq for SmallMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl<K: Ord + Clone, V: Clone + Eq> Eq for SmallMap<K, V> {}

impl<K: Ord + Clone, V: Clone> SmallMap<K, V> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Few(entries) => entries.len(),
            Self::Many(map) => map.len(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        match self {
            Self::Few(entries) => find(entries, key).ok().map(|at| &entries[at].1),
            Self::Many(map) => map.get(key),
        }
    }

    /// The entry with the smallest key.
    pub(super) fn get_min(&self) -> Option<(&K, &V)> {
        self.iter().next()
    }

    /// The entries in the order of their keys.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        let (few, many) = match self {
            Self::Few(entries) => (Some(entries.iter()), None),
            Self::Many(map) => (None, Some(map.iter())),
        };
        few.into_iter().flatten().map(|(key, value)| (key, value)).chain(many.into_iter().flatten())
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// The entries whose keys are in a range.
    pub(super) fn range(&self, range: impl RangeBounds<K>) -> impl Iterator<Item = (&K, &V)> {
        let (few, many) = match self {
            Self::Few(entries) => (Some(entries[within(entries, &range)].iter()), None),
            Self::Many(map) => {
                let bounds = (range.start_bound().cloned(), range.end_bound().cloned());
                (None, Some(map.range::<_, K>(bounds)))
            }
        };
        few.into_iter().flatten().map(|(key, value)| (key, value)).chain(many.into_iter().flatten())
    }

    /// Adds an entry, or replaces the value of its key, which is returned.
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self {
            Self::Few(entries) => match find(entries, &key) {
                Ok(at) => Some(std::mem::replace(&mut entries[at].1, value)),
                Err(at) if entries.len() < FEW => {
                    entries.insert(at, (key, value));
                    None
                }
                Err(_) => {
                    let mut map: OrdMap<K, V> = std::mem::take(entries).into_iter().collect();
                    map.insert(key, value);
                    *self = Self::Many(map);
                    None
                }
            },
            Self::Many(map) => map.insert(key, value),
        }
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        match self {
            Self::Few(entries) => find(entries, key).ok().map(|at| entries.remove(at).1),
            Self::Many(map) => {
                let removed = map.remove(key);
                // Not at the same number, so that one that comes and goes is not copied each time.
                if map.len() <= FEW / 2 {
                    *self = Self::Few(std::mem::take(map).into_iter().collect());
                }
                removed
            }
        }
    }
}

fn find<K: Ord, V>(entries: &[(K, V)], key: &K) -> Result<usize, usize> {
    entries.binary_search_by(|(known, _)| known.cmp(key))
}

/// The places of the entries whose keys are in a range.
fn within<K: Ord, V>(entries: &[(K, V)], range: &impl RangeBounds<K>) -> std::ops::Range<usize> {
    let before = |bound: &K, is_in: bool| {
        entries.partition_point(|(key, _)| if is_in { key < bound } else { key <= bound })
    };
    let start = match range.start_bound() {
        Bound::Included(bound) => before(bound, true),
        Bound::Excluded(bound) => before(bound, false),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(bound) => before(bound, false),
        Bound::Excluded(bound) => before(bound, true),
        Bound::Unbounded => entries.len(),
    };
    start..end.max(start)
}

/// An ordered set.
#[derive(Clone)]
pub(super) struct SmallSet<K>(SmallMap<K, ()>);

impl<K> Default for SmallSet<K> {
    fn default() -> Self {
        Self(SmallMap::default())
    }
}

impl<K: Ord + Clone + fmt::Debug> fmt::Debug for SmallSet<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl<K: Ord + Clone> PartialEq for SmallSet<K> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<K: Ord + Clone> Eq for SmallSet<K> {}

impl<K: Ord + Clone> SmallSet<K> {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn get_min(&self) -> Option<&K> {
        self.0.get_min().map(|(key, ())| key)
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &K> {
        self.0.iter().map(|(key, ())| key)
    }

    pub(super) fn range(&self, range: impl RangeBounds<K>) -> impl Iterator<Item = &K> {
        self.0.range(range).map(|(key, ())| key)
    }

    pub(super) fn insert(&mut self, key: K) {
        self.0.insert(key, ());
    }

    /// Whether it was there.
    pub(super) fn remove(&mut self, key: &K) -> bool {
        self.0.remove(key).is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn bound(kind: u8, key: u8) -> Bound<u8> {
        match kind % 3 {
            0 => Bound::Included(key),
            1 => Bound::Excluded(key),
            _ => Bound::Unbounded,
        }
    }

    proptest! {
        #[test]
        fn it_is_a_map_in_both_forms(
            changes in proptest::collection::vec((any::<bool>(), 0..40_u8, any::<u8>()), 0..200),
            (from, to) in ((0..3_u8, 0..40_u8), (0..3_u8, 0..40_u8)),
        ) {
            let mut map = SmallMap::default();
            let mut model = BTreeMap::new();
            for (comes, key, value) in changes {
                if comes {
                    prop_assert_eq!(map.insert(key, value), model.insert(key, value));
                } else {
                    prop_assert_eq!(map.remove(&key), model.remove(&key));
                }
                prop_assert_eq!(map.len(), model.len());
                prop_assert_eq!(map.get_min(), model.first_key_value());
                prop_assert_eq!(map.get(&key), model.get(&key));
            }
            prop_assert!(map.iter().eq(model.iter()));
            prop_assert!(map.iter().rev().eq(model.iter().rev()));
            let built: SmallMap<_, _> = model.iter().fold(SmallMap::default(), |mut map, (key, value)| {
                map.insert(*key, *value);
                map
            });
            prop_assert_eq!(&map, &built, "its form makes no difference");
            let range = (bound(from.0, from.1.min(to.1)), bound(to.0, from.1.max(to.1)));
            // The model panics at a range that cannot be.
            let is_range = from.1 != to.1 || from.0 % 3 != 1 || to.0 % 3 != 1;
            if is_range {
                prop_assert!(map.range(range).eq(model.range(range)));
            }
        }
    }
}
