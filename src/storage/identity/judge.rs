//! Judges a start of a peer's data folder by the earlier starts that are remembered.
//!
//! Remembered values only grow. So the order in which messages arrive does not matter, and two
//! nodes that exchange their knowledge end up with the same.

use super::super::Uuid;
use super::super::log::Promises;

/// A start of a data folder, as its node reports it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Start {
    /// The folder.
    pub uuid: Uuid,
    /// The number of times it has been started.
    pub boot: u64,
    /// The random number of this start.
    pub run: Uuid,
    /// The promises that the folder held when it was started.
    pub found: Promises,
    /// The promises it holds now.
    pub promised: Promises,
}

/// The latest known start of a folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    /// Its boot number.
    pub boot: u64,
    /// The random number of that run.
    pub run: Uuid,
    /// The promises that earlier runs have made: a later start must hold them.
    pub owed: Promises,
    /// The promises this run has made.
    pub promised: Promises,
    /// Whether the folder was found to lack what it had acknowledged.
    pub lacks: bool,
}

/// A folder is an old copy, or two processes run on copies of one folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StaleFolder {
    /// Another start with this boot number, or a later one, is known.
    #[error(
        "data folder {uuid} was started with boot number {boot} (run {run}), but boot number \
         {seen} was already seen from another run: the folder is an old copy or is used twice"
    )]
    Boot {
        /// The folder.
        uuid: Uuid,
        /// The boot number it reported.
        boot: u64,
        /// The run it reported.
        run: Uuid,
        /// The highest boot number seen before.
        seen: u64,
    },
    /// It held fewer promises than it is known to have made.
    #[error(
        "data folder {uuid} was started with boot number {boot} and held the promises {found}, but \
         it has made the promises {owed} before: the folder is an old copy, made while its node \
         ran, or has lost what was synced"
    )]
    Promises {
        /// The folder.
        uuid: Uuid,
        /// The boot number it reported.
        boot: u64,
        /// The promises it held.
        found: Promises,
        /// The promises it had made.
        owed: Promises,
    },
    /// A leader has found that it lacks an entry that it had acknowledged.
    #[error(
        "data folder {uuid} lacks an entry that it had acknowledged: the folder is an old copy or \
         has lost what was synced"
    )]
    Lacks {
        /// The folder.
        uuid: Uuid,
    },
}

impl Seen {
    /// A start about which nothing else is known.
    pub fn of(boot: u64, run: Uuid) -> Self {
        Self { boot, run, ..Self::default() }
    }

    /// Whether this is the given start.
    pub fn is(&self, start: &Start) -> bool {
        self.boot == start.boot && self.run == start.run
    }

    /// The record of a folder after a start was accepted.
    pub(super) fn next(known: Option<&Self>, start: &Start) -> Self {
        let Start { boot, run, promised, .. } = *start;
        let next = Self { promised, ..Self::of(boot, run) };
        known.map_or(next, |known| known.merge(&next))
    }

    /// Merges two records of the same folder.
    #[must_use]
    pub fn merge(&self, other: &Self) -> Self {
        let lacks = self.lacks || other.lacks;
        if self.run == other.run {
            let owed = self.owed.max_with(other.owed);
            return Self { owed, promised: self.promised.max_with(other.promised), lacks, ..*self };
        }
        let (late, early) = if self.boot < other.boot { (other, self) } else { (self, other) };
        let mut owed = late.owed.max_with(early.owed);
        // Two runs with one boot number: one of them is refused, and it is not known here which.
        if early.boot < late.boot {
            owed = owed.max_with(early.promised);
        }
        Self { owed, lacks, ..*late }
    }
}

/// Judges a start by the record of its folder. Returns the record with the promises made since, or
/// `None` if the start is new.
pub(super) fn judge(known: Option<&Seen>, start: &Start) -> Result<Option<Seen>, StaleFolder> {
    let Start { uuid, boot, run, found, promised } = *start;
    let Some(seen) = known else { return Ok(None) };
    let same = seen.run == run;
    if seen.lacks {
        return Err(StaleFolder::Lacks { uuid });
    }
    if !same && seen.boot >= boot {
        return Err(StaleFolder::Boot { uuid, boot, run, seen: seen.boot });
    }
    let owed = if same { seen.owed } else { seen.owed.max_with(seen.promised) };
    if !found.cover(owed) {
        return Err(StaleFolder::Promises { uuid, boot, found, owed });
    }
    Ok(same.then(|| Seen { promised: seen.promised.max_with(promised), ..*seen }))
}
