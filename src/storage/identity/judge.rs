//! Judging a start of a peer's data folder by what is remembered of earlier ones.
//!
//! Everything remembered only grows: the order in which messages come does not matter, and two that
//! tell each other what they know come to the same.

use serde::{Deserialize, Serialize};

use super::super::Uuid;
use super::super::log::Promises;
use crate::planted::{self, Bug};

/// A start of a data folder, as the node says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Start {
    /// The folder.
    pub uuid: Uuid,
    /// How often it has been started.
    pub boot: u64,
    /// The random number of this start.
    pub run: Uuid,
    /// The promises that the folder held when it was started.
    pub found: Promises,
    /// Those it holds now.
    pub promised: Promises,
}

/// The latest start of a folder that was heard of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Seen {
    /// Its boot number.
    pub boot: u64,
    /// The random number of that run.
    pub run: Uuid,
    /// The promises that earlier runs have made: a start must have found them.
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
        /// The boot number it gave.
        boot: u64,
        /// The run it gave.
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
        /// The boot number it gave.
        boot: u64,
        /// What it held.
        found: Promises,
        /// What it has promised.
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
    /// A start of which nothing else is known.
    pub fn of(boot: u64, run: Uuid) -> Self {
        Self { boot, run, ..Self::default() }
    }

    /// Whether it is this start.
    pub fn is(&self, start: &Start) -> bool {
        self.boot == start.boot && self.run == start.run
    }

    /// What is known once a start was accepted.
    pub(super) fn next(known: Option<&Self>, start: &Start) -> Self {
        let Start { boot, run, promised, .. } = *start;
        let next = Self { promised, ..Self::of(boot, run) };
        known.map_or(next, |known| known.merge(&next))
    }

    /// What two know together.
    #[must_use]
    pub fn merge(&self, other: &Self) -> Self {
        let lacks = self.lacks || other.lacks;
        if self.run == other.run {
            let owed = self.owed.max_with(other.owed);
            return Self { owed, promised: self.promised.max_with(other.promised), lacks, ..*self };
        }
        let (late, early) = if self.boot < other.boot { (other, self) } else { (self, other) };
        let mut owed = late.owed.max_with(early.owed);
        // Two runs with one number: one of them is refused, and it is not known here which.
        if early.boot < late.boot {
            owed = owed.max_with(early.promised);
        }
        Self { owed, lacks, ..*late }
    }
}

/// What is known of a start that is known, with what it has promised since; `None` if it is new.
pub(super) fn judge(known: Option<&Seen>, start: &Start) -> Result<Option<Seen>, StaleFolder> {
    let Start { uuid, boot, run, found, promised } = *start;
    let Some(seen) = known else { return Ok(None) };
    let same = seen.run == run;
    if seen.lacks {
        return Err(StaleFolder::Lacks { uuid });
    }
    if !same && seen.boot >= boot && !planted::active(Bug::BootNumberIgnored) {
        return Err(StaleFolder::Boot { uuid, boot, run, seen: seen.boot });
    }
    let owed = if same { seen.owed } else { seen.owed.max_with(seen.promised) };
    if !found.cover(owed) && !is_blind() {
        return Err(StaleFolder::Promises { uuid, boot, found, owed });
    }
    Ok(same.then(|| Seen { promised: seen.promised.max_with(promised), ..*seen }))
}

/// Whether a bug is planted that would be found out by the promises.
pub(super) fn is_blind() -> bool {
    planted::active(Bug::BootNumberIgnored) || planted::active(Bug::CopyOfRunningFolderAccepted)
}
