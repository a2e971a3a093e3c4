//! How grants, places and sessions ended, how long grants were held and how long places stood,
//! counted for metrics.
//!
//! A grant is held from the moment its token is given, through every renewal, until it is released,
//! expires or is taken by another owner; all of it in cluster time. An owner that takes its own
//! expired lock again gets a new token, and so another grant. A place stands from the request that
//! took it, through every request that asks for it again, until it is granted or ends without.
//!
//! The counts are not part of a state's value: they are not in its bytes, two states that differ in
//! them alone are equal, and a clone begins with none. Each end costs a few additions.

use std::time::Duration;

use crate::types::{ForbiddenReason, TransferReason};

/// The upper bounds of the histograms of hold and wait times: from a section that is guarded for a
/// moment to a leader that holds its lock for a week, and one that waits to take its place.
pub const HELD_BOUNDS: [Duration; 13] = [
    Duration::from_millis(10),
    Duration::from_millis(100),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(15),
    Duration::from_secs(30),
    Duration::from_secs(60),
    Duration::from_secs(5 * 60),
    Duration::from_secs(15 * 60),
    Duration::from_secs(3600),
    Duration::from_secs(6 * 3600),
    Duration::from_secs(24 * 3600),
    Duration::from_secs(7 * 24 * 3600),
];

/// How a grant ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Its owner released it before its deadline.
    Released,
    /// Its deadline passed.
    Expired,
    /// A request of a higher level took the lock.
    Preempted,
    /// A forced request took the lock.
    Forced,
}

impl End {
    /// Every end, in the order of [`Ends::by_end`].
    pub const ALL: [Self; 4] = [Self::Released, Self::Expired, Self::Preempted, Self::Forced];

    /// The label of this end in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::Expired => "expired",
            Self::Preempted => "preempted",
            Self::Forced => "forced",
        }
    }

    /// The end that a transfer gives to the grant before it; `None` if that had expired, which was
    /// counted then.
    pub(super) fn of_transfer(reason: TransferReason) -> Option<Self> {
        match reason {
            TransferReason::Expired => None,
            TransferReason::Forced => Some(Self::Forced),
            TransferReason::Preempted => Some(Self::Preempted),
        }
    }
}

/// How a place ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitEnd {
    /// It was granted.
    Granted,
    /// Its wait was over.
    Timeout,
    /// Its owner left it, or an operator ended it.
    Left,
    /// Its owner did not need it any more, or stands in the queue anew.
    Superseded,
    /// Its session had ended.
    SessionLost,
    /// Its table was deleted.
    TableDeleted,
}

impl WaitEnd {
    /// Every end, in the order of [`Ends::by_wait_end`].
    pub const ALL: [Self; 6] = [
        Self::Granted,
        Self::Timeout,
        Self::Left,
        Self::Superseded,
        Self::SessionLost,
        Self::TableDeleted,
    ];

    /// The label of this end in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Granted => "granted",
            Self::Timeout => "timeout",
            Self::Left => "left",
            Self::Superseded => "superseded",
            Self::SessionLost => "session_lost",
            Self::TableDeleted => "table_deleted",
        }
    }

    /// The end that a refusal of the request gives to its place.
    pub(super) fn of_refusal(reason: ForbiddenReason) -> Self {
        match reason {
            ForbiddenReason::Timeout => Self::Timeout,
            ForbiddenReason::Superseded => Self::Superseded,
            ForbiddenReason::SessionLost => Self::SessionLost,
            ForbiddenReason::TableDeleted => Self::TableDeleted,
            ForbiddenReason::Lost
            | ForbiddenReason::Held
            | ForbiddenReason::Queued
            | ForbiddenReason::Delay
            | ForbiddenReason::Shared
            | ForbiddenReason::ModeDiffers
            | ForbiddenReason::LimitDiffers
            | ForbiddenReason::QueueFull => Self::Left,
        }
    }
}

/// The hold times of the grants, or the wait times of the places, that ended in the same way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Held {
    /// The numbers of those that lasted for at most each of [`HELD_BOUNDS`] and longer than the bound
    /// before it.
    within: [u64; HELD_BOUNDS.len()],
    count: u64,
    micros: u128,
}

impl Held {
    /// The number of grants or places.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The sum of their times, in seconds.
    #[allow(clippy::cast_precision_loss, reason = "a figure to look at")]
    pub fn seconds(&self) -> f64 {
        self.micros as f64 / 1e6
    }

    /// Each bound, with the number of those that lasted for at most that long.
    pub fn at_most(&self) -> impl Iterator<Item = (Duration, u64)> {
        HELD_BOUNDS.into_iter().zip(self.within).scan(0, |sum, (bound, count)| {
            *sum += count;
            Some((bound, *sum))
        })
    }

    fn add(&mut self, held: Duration) {
        let place = HELD_BOUNDS.partition_point(|bound| *bound < held);
        if let Some(count) = self.within.get_mut(place) {
            *count += 1;
        }
        self.count += 1;
        self.micros += held.as_micros();
    }

    fn merge(&mut self, other: &Self) {
        for (sum, count) in self.within.iter_mut().zip(other.within) {
            *sum += count;
        }
        self.count += other.count;
        self.micros += other.micros;
    }
}

/// The numbers of grants, places and sessions by the way they ended, with the times that grants were
/// held and places stood.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ends {
    held: [Held; End::ALL.len()],
    waited: [Held; WaitEnd::ALL.len()],
    sessions_closed: u64,
    sessions_expired: u64,
    deleted: u64,
    some: bool,
}

impl Ends {
    /// The hold times by their end.
    pub fn by_end(&self) -> impl Iterator<Item = (End, &Held)> {
        End::ALL.into_iter().zip(&self.held)
    }

    /// The wait times by their end.
    pub fn by_wait_end(&self) -> impl Iterator<Item = (WaitEnd, &Held)> {
        WaitEnd::ALL.into_iter().zip(&self.waited)
    }

    /// The numbers of sessions that were closed and that expired.
    pub fn sessions(&self) -> (u64, u64) {
        (self.sessions_closed, self.sessions_expired)
    }

    /// The number of unexpired grants that were deleted with their tables. Their hold times are not
    /// counted: a table is deleted in one step, however many grants it has.
    pub fn deleted(&self) -> u64 {
        self.deleted
    }

    /// Adds the counts of another.
    pub fn merge(&mut self, other: &Self) {
        for (sum, held) in self.held.iter_mut().zip(&other.held) {
            sum.merge(held);
        }
        for (sum, waited) in self.waited.iter_mut().zip(&other.waited) {
            sum.merge(waited);
        }
        self.sessions_closed += other.sessions_closed;
        self.sessions_expired += other.sessions_expired;
        self.deleted += other.deleted;
        self.some |= other.some;
    }

    pub(super) fn add(&mut self, end: End, held: Duration) {
        self.held[end as usize].add(held);
        self.some = true;
    }

    pub(super) fn add_wait(&mut self, end: WaitEnd, waited: Duration) {
        self.waited[end as usize].add(waited);
        self.some = true;
    }

    pub(super) fn add_session(&mut self, is_closed: bool) {
        if is_closed {
            self.sessions_closed += 1;
        } else {
            self.sessions_expired += 1;
        }
        self.some = true;
    }

    pub(super) fn add_deleted(&mut self, unexpired: u64) {
        self.deleted += unexpired;
        self.some |= unexpired > 0;
    }

    /// Takes the counts so far; `None` if there are none.
    pub(super) fn take(&mut self) -> Option<Self> {
        self.some.then(|| std::mem::take(self))
    }
}
