//! The state of one lock: its key, its record and the grants in it.
//!
//! A record without a grant does not exist today; wait queues will change that. Sizes matter here:
//! a node holds a million of these, so the key's text is shared with the deadline index, and fields
//! that most grants lack are boxed.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;

use smallvec::SmallVec;
use smol_str::SmolStr;
use triomphe::ThinArc;

use crate::lock::ClusterTime;
use crate::types::{Holder, LockRecord, Token};

/// The key of a lock: (table, signature), in this order.
///
/// Held as one text with a NUL between the two, which neither may contain: so the byte order is the
/// order of the pairs, and one allocation serves the records and the deadline index. A thin pointer
/// to it, because each of the two holds a million.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Key(ThinArc<(), u8>);

impl Key {
    /// `None` if one of the names contains a NUL: such a lock cannot exist.
    pub(super) fn new(table: &str, signature: &str) -> Option<Self> {
        if table.contains('\0') || signature.contains('\0') {
            return None;
        }
        let mut text = SmallVec::<[u8; 128]>::new();
        for part in [table.as_bytes(), b"\0", signature.as_bytes()] {
            text.extend_from_slice(part);
        }
        Some(Self(ThinArc::from_header_and_slice((), &text)))
    }

    pub(super) fn table(&self) -> &str {
        self.split().0
    }

    pub(super) fn signature(&self) -> &str {
        self.split().1
    }

    /// Table and signature with a NUL between them.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0.slice
    }

    fn split(&self) -> (&str, &str) {
        let text = std::str::from_utf8(self.as_bytes()).expect("a key is made of two texts");
        text.split_once('\0').expect("a key has a NUL between table and signature")
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{:?}", self.table(), self.signature())
    }
}

/// The number of owners that may hold a lock at once, and the terms.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    /// One holder.
    Exclusive,
}

/// A lock that exists.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Record {
    pub(super) mode: Mode,
    /// The limit of grants: 1 for an exclusive lock.
    pub(super) limit: u32,
    /// The grants in the order of their tokens. Never empty.
    pub(super) grants: SmallVec<[Grant; 1]>,
}

/// The right of one owner to a lock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Grant {
    pub(super) token: Token,
    pub(super) level: i64,
    /// The time at which the token was given. A renewal keeps both.
    pub(super) since: ClusterTime,
    /// The time from which another signee may take the lock.
    pub(super) deadline: ClusterTime,
    /// The time at which the record is removed; never before the deadline.
    pub(super) removal: ClusterTime,
    /// Stored inline if it is short, as most are.
    pub(super) signee: SmolStr,
    pub(super) rare: Option<Box<Rare>>,
    /// Whether its deadline was worked off. The deadline may have passed before that, see
    /// `locks.rs`.
    pub(super) expired: bool,
}

/// The fields that most grants lack. A grant without any of them has no box at all, so that equal
/// grants compare equal. Sessions and payloads will live here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Rare {
    pub(super) instance: Box<str>,
}

impl Record {
    pub(super) fn exclusive(grant: Grant) -> Self {
        Self { mode: Mode::Exclusive, limit: 1, grants: SmallVec::from_buf([grant]) }
    }

    /// The one holder of an exclusive lock.
    pub(super) fn holder(&self) -> &Grant {
        match (self.mode, self.grants.as_slice()) {
            (Mode::Exclusive, [grant]) => grant,
            (Mode::Exclusive, grants) => {
                panic!("an exclusive lock must have one grant, not {grants:?}")
            }
        }
    }

    /// The next time at which the record changes.
    pub(super) fn due(&self) -> ClusterTime {
        self.grants.iter().map(Grant::due).min().unwrap_or(ClusterTime::NEVER)
    }

    pub(super) fn unexpired(&self) -> u64 {
        self.grants.iter().filter(|grant| !grant.expired).count() as u64
    }

    /// The record as others see it at `now`; `None` if its removal is due, worked off or not.
    pub(super) fn view(&self, signature: &str, now: ClusterTime) -> Option<LockRecord> {
        let holders = self.holders(now);
        (!holders.is_empty()).then(|| LockRecord { signature: signature.to_owned(), holders })
    }

    pub(super) fn holders(&self, now: ClusterTime) -> Vec<Holder> {
        let kept = self.grants.iter().filter(|grant| !grant.removal.reached(now));
        kept.map(|grant| grant.view(now)).collect()
    }
}

impl Grant {
    pub(super) fn instance(&self) -> Option<&str> {
        self.rare.as_ref().map(|rare| &*rare.instance)
    }

    /// Whether this owner holds it: another instance is another owner.
    pub(super) fn belongs_to(&self, signee: &str, instance: Option<&str>) -> bool {
        self.signee == signee && self.instance() == instance
    }

    /// The next time at which the grant changes: it expires, then it is removed.
    pub(super) fn due(&self) -> ClusterTime {
        if self.expired { self.removal } else { self.deadline }
    }

    fn view(&self, now: ClusterTime) -> Holder {
        Holder {
            signee: self.signee.to_string(),
            instance: self.instance().map(str::to_owned),
            level: self.level,
            token: self.token,
            expires_in: self.deadline.left(now),
            expired: self.deadline.reached(now),
            removed_in: self.removal.left_unless_never(now),
        }
    }
}

impl Rare {
    pub(super) fn boxed(instance: Option<&str>) -> Option<Box<Self>> {
        instance.map(|instance| Box::new(Self { instance: instance.into() }))
    }
}
