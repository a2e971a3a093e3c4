//! Request lanes, which make it safe to repeat a request.
//!
//! A client that got no answer sends the same request again, with the same id. For each lane the
//! state remembers the last request that was *judged*: its number, a digest of its body, its effect
//! and its place in the log. The rules:
//!
//! - the same number and digest: the same answer again, wherever the lock is by now. Remaining time
//!   is never stored; it is computed for each answer, and a grant that has ended since is reported
//!   as not live.
//! - the same number with another digest, or a lower number: refused as a bad request. A copy that
//!   a network delayed can do nothing once the client has gone on.
//! - a refusal (`Forbidden`) is judged, too, and remembered as a refusal. It changed no lock, so it
//!   would be possible to judge the copy anew; but then a delayed copy could acquire a lock *after*
//!   its client had been refused, and nobody would know of the grant. The holders named in a
//!   repeated refusal are those of the moment.
//! - so is a request that is wrong only because of the state: a time_to_live shorter than the
//!   duration of its table, or tokens that have run out. A delayed copy would otherwise be granted
//!   once the state has changed.
//! - a request that is wrong by itself is not judged and leaves no trace, nor does a request of a
//!   proposal that was refused as a whole (a stale stamp).
//!
//! A lane that was not used for ten minutes of the cluster clock is forgotten. Beyond 100,000 lanes
//! the least recently used one is forgotten, the smaller number first among equals. A request with
//! a number above 1 is refused when its lane is not known: the number implies that the lane was
//! used before, so the request may be a copy of one that was done, and the state no longer knows. A
//! lane begins with 1, so only a copy of a lane's very first request can be mistaken for a new one;
//! the documentation says so.

use std::sync::Arc;
use std::time::Duration;

use imbl::{OrdMap, OrdSet};

use crate::lock::changes::{RecordKey, Tracker};
use crate::lock::{ClusterTime, Operation};
use crate::types::{DecidedAt, ForbiddenReason, RequestId, SessionId, Token, TransferReason};

/// The time for which an unused lane is remembered: longer than any client retries, and longer than
/// a network delays a packet.
pub(super) const UNUSED_LIMIT: Duration = Duration::from_secs(600);

/// The limit of remembered lanes: about 20 MiB of them.
pub(super) const MAX_LANES: usize = 100_000;

/// The number of a lane's first request. A lower one counts as first, too.
const FIRST: u64 = 1;

/// A lane that is forgotten so soon after its last use may still have had a copy in flight.
const YOUNG: Duration = Duration::from_secs(60);

/// The result of a request, without anything that changes as time passes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Effect {
    /// The requester got the lock, with this token and level.
    Granted { how: Granted, token: Token, level: i64 },
    /// Another owner has the lock.
    LockRefused(ForbiddenReason),
    /// The requester's lock was released.
    Released,
    /// There was no lock to release.
    NoLock,
    /// The lock was not held by the requester.
    UnlockRefused(ForbiddenReason),
    /// A table was configured or deleted.
    Table,
    /// There was no table to delete.
    NoTable,
    /// The time_to_live was shorter than the duration, which may have been the table's.
    TooShort { time_to_live_ms: u64, duration_ms: u64 },
    /// There was no token left.
    TokensExhausted,
    /// The request waits at this place. What becomes of the place replaces it.
    Waiting(DecidedAt),
    /// The requester's place was left.
    PlaceLeft,
    /// The lock has no limit, and the request named none.
    NoLimitNamed,
    /// A session was opened.
    Opened(SessionId),
    /// No session was opened.
    OpenRefused(ForbiddenReason),
    /// A session was closed.
    Closed,
    /// There was no session to close.
    NoSession,
    /// A place was left because its caller has gone, or the grant it became is released.
    Left,
    /// There was nothing to leave.
    NotLeft,
    /// The limit of a lock was changed.
    Limit,
    /// The lock has no limit.
    NoLimit,
}

/// The way in which an owner got a lock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Granted {
    /// The lock was free.
    Ok,
    /// The lock was its own.
    Renewed,
    /// The lock was another owner's.
    Transferred { previous_signee: Box<str>, reason: TransferReason },
}

impl Effect {
    /// Whether its answer tells of the lock as it is.
    pub(super) fn is_told_of_lock(&self) -> bool {
        matches!(
            self,
            Self::Granted { .. } | Self::LockRefused(_) | Self::UnlockRefused(_) | Self::Waiting(_)
        )
    }

    /// Whether this can be the result of that operation.
    pub(super) fn fits(&self, operation: &Operation) -> bool {
        match operation {
            Operation::Lock(_) => matches!(
                self,
                Self::Granted { .. }
                    | Self::LockRefused(_)
                    | Self::TooShort { .. }
                    | Self::TokensExhausted
                    | Self::Waiting(_)
                    | Self::NoLimitNamed
            ),
            Operation::Unlock(_) => {
                matches!(
                    self,
                    Self::Released | Self::NoLock | Self::UnlockRefused(_) | Self::PlaceLeft
                )
            }
            Operation::ConfigureTable(_) => matches!(self, Self::Table),
            Operation::DeleteTable { .. } => matches!(self, Self::Table | Self::NoTable),
            Operation::OpenSession(_) => matches!(self, Self::Opened(_) | Self::OpenRefused(_)),
            Operation::CloseSession(_) => matches!(self, Self::Closed | Self::NoSession),
            Operation::Leave(_) => matches!(self, Self::Left | Self::NotLeft),
            Operation::SetLimit(_) => matches!(self, Self::Limit | Self::NoLimit),
            Operation::Advance
            | Operation::RaiseFeatureLevel(_)
            | Operation::Access(_)
            | Operation::KeepAlive(_) => false,
        }
    }
}

/// The last judged request of one client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Lane {
    pub(super) seq: u64,
    pub(super) digest: u128,
    pub(super) effect: Effect,
    pub(super) decided_at: DecidedAt,
    pub(super) last_used: ClusterTime,
}

/// The answer of a lane to a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Recall {
    /// The request is new.
    New,
    /// The request was judged before.
    Repeat(Arc<Lane>),
    /// The request cannot be the lane's next one.
    Wrong(String),
    /// The request is not the first of its lane, and the lane is not known.
    Forgotten,
}

/// All lanes, by number and by age.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Lanes {
    by_id: OrdMap<u128, Arc<Lane>>,
    by_age: OrdSet<(ClusterTime, u128)>,
    /// Lanes that were evicted less than a minute after their last use, since the cluster began.
    pub(super) evicted_young: u64,
}

impl Lanes {
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn get(&self, id: u128) -> Option<&Lane> {
        self.by_id.get(&id).map(|lane| &**lane)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u128, &Lane)> {
        self.by_id.iter().map(|(id, lane)| (*id, &**lane))
    }

    /// Looks a request up; a repeated request counts as a use of the lane.
    pub(super) fn recall(
        &mut self,
        id: RequestId,
        (operation, digest): (&Operation, u128),
        now: ClusterTime,
        tracker: &mut Tracker,
    ) -> Recall {
        let lane = self.by_id.get(&id.lane);
        let Some(lane) = lane.filter(|lane| !unused_until(lane.last_used).reached(now)) else {
            return if id.seq <= FIRST { Recall::New } else { Recall::Forgotten };
        };
        if id.seq > lane.seq {
            return Recall::New;
        }
        if id.seq < lane.seq {
            return Recall::Wrong(format!(
                "the request_id {id} is stale: its lane has come to {}",
                lane.seq
            ));
        }
        if digest != lane.digest || !lane.effect.fits(operation) {
            return Recall::Wrong(format!("the request_id {id} was used for another request"));
        }
        let mut lane = Lane::clone(lane);
        lane.last_used = now;
        let lane = Arc::new(lane);
        self.put(id.lane, Arc::clone(&lane), tracker);
        Recall::Repeat(lane)
    }

    /// Remembers a judged request. Makes room first, so that a lane cannot evict itself.
    pub(super) fn remember(&mut self, id: u128, lane: Lane, tracker: &mut Tracker) {
        if self.by_id.len() >= MAX_LANES && !self.by_id.contains_key(&id) {
            let oldest = self.by_age.get_min().copied();
            let (last_used, oldest) = oldest.expect("every lane has an age");
            self.evicted_young += u64::from(lane.last_used.since(last_used) < YOUNG);
            self.remove(oldest, tracker);
        }
        self.put(id, Arc::new(lane), tracker);
    }

    /// Writes what became of a place into the lane of its request, if the lane still waits for it.
    pub(super) fn resolve(
        &mut self,
        id: RequestId,
        place: DecidedAt,
        (effect, decided_at): (Effect, DecidedAt),
        tracker: &mut Tracker,
    ) {
        let lane = self.by_id.get(&id.lane);
        if let Some(lane) = lane.filter(|lane| lane.seq == id.seq)
            && lane.effect == Effect::Waiting(place)
        {
            let lane = Lane { effect, decided_at, ..Lane::clone(lane) };
            self.put(id.lane, Arc::new(lane), tracker);
        }
    }

    /// Forgets lanes that were not used for long, at most `most` of them.
    pub(super) fn forget_unused(&mut self, now: ClusterTime, most: usize, tracker: &mut Tracker) {
        for _ in 0..most {
            match self.by_age.get_min() {
                Some(&(last_used, id)) if unused_until(last_used).reached(now) => {
                    self.remove(id, tracker);
                }
                Some(_) | None => return,
            }
        }
    }

    /// Adds a lane from a snapshot; `false` if there is one of this number already.
    pub(super) fn load(&mut self, id: u128, lane: Lane) -> bool {
        self.by_age.insert((lane.last_used, id));
        self.by_id.insert(id, Arc::new(lane)).is_none()
    }

    fn put(&mut self, id: u128, lane: Arc<Lane>, tracker: &mut Tracker) {
        self.by_age.insert((lane.last_used, id));
        let used = lane.last_used;
        match self.by_id.insert(id, lane) {
            Some(old) => {
                if old.last_used != used {
                    self.by_age.remove(&(old.last_used, id));
                }
                tracker.note(|| RecordKey::Lane(id));
            }
            None => tracker.come(|| RecordKey::Lane(id)),
        }
    }

    fn remove(&mut self, id: u128, tracker: &mut Tracker) {
        let lane = self.by_id.remove(&id).expect("a lane with an age exists");
        self.by_age.remove(&(lane.last_used, id));
        tracker.gone(|| RecordKey::Lane(id));
    }

    pub(super) fn assert_index_equals_lanes(&self) {
        let ages = self.iter().map(|(id, lane)| (lane.last_used, id));
        assert_eq!(ages.collect::<OrdSet<_>>(), self.by_age);
        assert!(self.len() <= MAX_LANES);
    }
}

fn unused_until(last_used: ClusterTime) -> ClusterTime {
    last_used.saturating_add(UNUSED_LIMIT)
}
