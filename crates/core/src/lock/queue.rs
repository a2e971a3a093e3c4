//! The queue of one lock: its places, in the order in which they are granted.
//!
//! A higher level goes first, then the earlier place. Each question that the machine asks has an
//! index, so that one place more or less costs the same however many there are.

use std::cmp::Reverse;
use std::ops::Bound;
use std::sync::Arc;

use imbl::OrdMap;

use crate::limits;
use crate::lock::record::Owner;
use crate::lock::small::{SmallMap, SmallSet};
use crate::lock::{ClusterTime, Keep};
use crate::types::{self, DecidedAt, Mode, RequestId, SessionId, Waiting};

/// A request that waits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub(super) owner: Owner,
    pub(super) level: i64,
    pub(super) mode: Mode,
    /// The log position at which it joined the end of its level: its name.
    pub(super) at: DecidedAt,
    pub(super) since: ClusterTime,
    /// The end of the wait.
    pub(super) end: ClusterTime,
    /// The position and the time of the last ask.
    pub(super) ask: DecidedAt,
    pub(super) asked: ClusterTime,
    pub(super) request: Option<RequestId>,
    pub(super) actor: Option<Box<str>>,
    pub(super) terms: Terms,
}

/// The terms of a grant that is to be given, resolved when it was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Terms {
    pub(super) lasts: Lasts,
    pub(super) keep: Keep,
    pub(super) lock_delay_ms: u64,
    pub(super) max_hold_ms: Option<u64>,
}

/// How long a grant lasts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lasts {
    /// This many milliseconds.
    Ms(u64),
    /// As long as the session.
    Session(SessionId),
}

impl Lasts {
    pub(super) fn session(self) -> Option<SessionId> {
        match self {
            Self::Ms(_) => None,
            Self::Session(session) => Some(session),
        }
    }

    /// Whether a change from one to the other is not one of the duration: moving between sessions
    /// keeps the place.
    pub(super) fn is_like(self, other: Self) -> bool {
        match (self, other) {
            (Self::Ms(one), Self::Ms(other)) => one == other,
            (Self::Ms(_) | Self::Session(_), Self::Session(_))
            | (Self::Session(_), Self::Ms(_)) => true,
        }
    }
}

impl Place {
    pub(super) fn session(&self) -> Option<SessionId> {
        self.terms.lasts.session()
    }

    /// The bytes of the texts that it holds, which are bounded in all. The key's are shared.
    pub(super) fn bytes(&self) -> u64 {
        let texts = [self.owner.instance.as_deref(), self.actor.as_deref()];
        let texts = texts.into_iter().flatten().map(str::len).sum::<usize>();
        (texts + self.owner.signee.len()) as u64
    }

    pub(super) fn view(&self, position: u64, now: ClusterTime) -> types::Place {
        types::Place {
            place: self.at,
            signee: self.owner.signee.to_string(),
            instance: self.owner.instance.as_deref().map(str::to_owned),
            session: self.session(),
            level: self.level,
            mode: self.mode,
            since: now.since(self.since),
            position,
        }
    }

    fn rank(&self) -> (Reverse<i64>, DecidedAt) {
        (Reverse(self.level), self.at)
    }
}

/// The places of one lock: at least one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Queue {
    places: SmallMap<DecidedAt, Arc<Place>>,
    order: SmallSet<(Reverse<i64>, DecidedAt)>,
    by_owner: SmallMap<Owner, DecidedAt>,
    ends: SmallSet<(ClusterTime, DecidedAt)>,
    by_session: SmallSet<(SessionId, DecidedAt)>,
    /// The number of places in mode permits.
    permits: u64,
}

impl Queue {
    pub(super) fn len(&self) -> u64 {
        self.places.len() as u64
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub(super) fn has_permits(&self) -> bool {
        self.permits > 0
    }

    /// The next time at which the queue changes by itself.
    pub(super) fn due(&self) -> ClusterTime {
        self.first_end().map_or(ClusterTime::NEVER, |(end, _)| end)
    }

    pub(super) fn first_end(&self) -> Option<(ClusterTime, DecidedAt)> {
        self.ends.get_min().copied()
    }

    /// The first place in order that joined before this position.
    pub(super) fn first_before(&self, at: DecidedAt) -> Option<DecidedAt> {
        let (first, _) = self.places.get_min()?;
        if *first >= at {
            return None;
        }
        let mut order = self.order.iter().map(|(_, place)| *place);
        order.find(|place| *place < at)
    }

    pub(super) fn get(&self, at: DecidedAt) -> Option<&Place> {
        self.places.get(&at).map(|place| &**place)
    }

    pub(super) fn of(&self, owner: &Owner) -> Option<&Place> {
        self.get(*self.by_owner.get(owner)?)
    }

    /// The places in the order of their names.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Place> {
        self.places.values().map(|place| &**place)
    }

    /// The places in the order in which they are granted.
    pub(super) fn in_order(&self) -> impl Iterator<Item = &Place> {
        self.order.iter().map(|(_, at)| self.get(*at).expect("the order has places"))
    }

    /// The places that live in a session, in the order of their names.
    pub(super) fn in_session(&self, session: SessionId) -> Vec<DecidedAt> {
        let last = DecidedAt { index: u64::MAX, position: u32::MAX };
        let range = (session, DecidedAt::default())..=(session, last);
        self.by_session.range(range).map(|(_, at)| *at).collect()
    }

    /// The sessions that places live in, each once.
    pub(super) fn sessions(&self) -> Vec<SessionId> {
        let mut sessions: Vec<_> = self.by_session.iter().map(|(session, _)| *session).collect();
        sessions.dedup();
        sessions
    }

    pub(super) fn insert(&mut self, place: Place) {
        let at = place.at;
        self.order.insert(place.rank());
        self.by_owner.insert(place.owner.clone(), at);
        if place.end != ClusterTime::NEVER {
            self.ends.insert((place.end, at));
        }
        if let Some(session) = place.session() {
            self.by_session.insert((session, at));
        }
        self.permits += u64::from(place.mode == Mode::Permits);
        self.places.insert(at, Arc::new(place));
    }

    pub(super) fn remove(&mut self, at: DecidedAt) -> Option<Place> {
        let place = self.places.remove(&at)?;
        self.order.remove(&place.rank());
        self.by_owner.remove(&place.owner);
        self.ends.remove(&(place.end, at));
        if let Some(session) = place.session() {
            self.by_session.remove(&(session, at));
        }
        self.permits -= u64::from(place.mode == Mode::Permits);
        Some(Arc::unwrap_or_clone(place))
    }

    /// The place as its owner sees it.
    pub(super) fn waiting(&self, at: DecidedAt, now: ClusterTime) -> Option<Waiting> {
        let place = self.get(at)?;
        let position = self.position(place.rank());
        Some(Waiting { place: at, position, ends_in: place.end.left(now) })
    }

    /// The position of a place that is in the queue. It counts those before it or those behind it,
    /// whichever are fewer: a place that has just joined is mostly the last, or the first of a higher
    /// level.
    fn position(&self, rank: (Reverse<i64>, DecidedAt)) -> u64 {
        let mut before = self.order.range(..rank);
        let mut behind = self.order.range((Bound::Excluded(rank), Bound::Unbounded));
        let mut counted = 0;
        loop {
            if before.next().is_none() {
                return counted + 1;
            }
            if behind.next().is_none() {
                return self.len() - counted;
            }
            counted += 1;
        }
    }
}

/// The places of all locks, which are bounded.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Totals {
    pub(super) places: u64,
    bytes: u64,
    /// The number of places of each principal.
    by_actor: OrdMap<Box<str>, u64>,
}

impl Totals {
    pub(super) fn add(&mut self, place: &Place) {
        self.places += 1;
        self.bytes += place.bytes();
        if let Some(actor) = &place.actor {
            *self.by_actor.entry(actor.clone()).or_insert(0) += 1;
        }
    }

    pub(super) fn remove(&mut self, place: &Place) {
        self.places -= 1;
        self.bytes -= place.bytes();
        if let Some(actor) = &place.actor
            && let Some(count) = self.by_actor.get_mut(actor)
        {
            *count -= 1;
            if *count == 0 {
                self.by_actor.remove(actor);
            }
        }
    }

    /// Whether one place more is within the bounds. Requests without a principal share none.
    pub(super) fn have_room_for(&self, place: &Place) -> bool {
        let of_actor = place.actor.as_ref().and_then(|actor| self.by_actor.get(actor));
        self.places < limits::MAX_PLACES
            && self.bytes + place.bytes() <= limits::MAX_PLACE_BYTES
            && of_actor.is_none_or(|count| *count < limits::MAX_PLACES_PER_ACTOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::record::Owner;

    /// A place whose texts have 5 bytes.
    fn place() -> Place {
        let owner = Owner { signee: "ann".into(), instance: Some("i".into()) };
        let (at, asked) = (DecidedAt::default(), ClusterTime::default());
        let lasts = Lasts::Ms(1);
        let terms = Terms { lasts, keep: Keep::ForEver, lock_delay_ms: 0, max_hold_ms: None };
        Place {
            at,
            owner,
            level: 0,
            mode: Mode::Exclusive,
            since: asked,
            end: asked,
            ask: at,
            asked,
            request: None,
            actor: Some("x".into()),
            terms,
        }
    }

    #[test]
    fn the_last_place_and_the_last_byte_are_taken_and_nothing_beyond() {
        let (places, bytes) = (limits::MAX_PLACES - 1, limits::MAX_PLACE_BYTES - 5);
        let mut totals = Totals { places, bytes, ..Totals::default() };
        assert!(totals.have_room_for(&place()));
        totals.add(&place());
        assert_eq!((totals.places, totals.bytes), (limits::MAX_PLACES, limits::MAX_PLACE_BYTES));
        assert!(!totals.have_room_for(&place()));
        totals.places -= 1;
        assert!(!totals.have_room_for(&place()), "there is no room for its names");
        totals.bytes -= 4;
        assert!(!totals.have_room_for(&place()), "a byte too much");
        totals.bytes -= 1;
        assert!(totals.have_room_for(&place()));
        totals.places += 1;
        assert!(!totals.have_room_for(&place()), "a place too much");
    }
}
