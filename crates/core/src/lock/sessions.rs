//! Sessions: liveness that is shared by many grants and places, each with an inbox.
//!
//! A keep-alive changes the session alone, however many locks live in it: a grant in a session has
//! no deadline of its own, the machine asks the session. A session ends at one position, and its
//! record stays as an end mark until its last grant and place is worked off.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use crate::limits::MAX_INBOX;
use crate::lock::ClusterTime;
use crate::lock::changes::{RecordKey, Tracker};
use crate::lock::record::{Key, Owner, Record};
use crate::lock::small::SmallMap;
use crate::types::{DecidedAt, InboxItem, News, SessionId};

/// A session that is open, or the mark of one that has ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Session {
    pub(super) ttl_ms: u64,
    /// The time at which it ends, or has ended.
    pub(super) deadline: ClusterTime,
    pub(super) signee: Box<str>,
    pub(super) instance: Box<str>,
    /// The principal that opened it.
    pub(super) actor: Option<Box<str>>,
    pub(super) ended: Option<Ended>,
    /// The locks in which it has grants or places, with their number; those that somebody may wait
    /// for in front.
    members: SmallMap<(Calm, Key), u32>,
    pub(super) inbox: Inbox,
}

/// How a session has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ended {
    Closed,
    Expired,
}

/// Whether nobody can wait for a lock.
type Calm = bool;

impl Session {
    pub(super) fn new(
        ttl_ms: u64,
        deadline: ClusterTime,
        (signee, instance): (&str, &str),
        actor: Option<&str>,
    ) -> Self {
        Self {
            ttl_ms,
            deadline,
            signee: signee.into(),
            instance: instance.into(),
            actor: actor.map(Into::into),
            ended: None,
            members: SmallMap::default(),
            inbox: Inbox::default(),
        }
    }

    /// The lock that is worked off first.
    pub(super) fn first_member(&self) -> Option<&Key> {
        self.members.get_min().map(|((_, key), _)| key)
    }

    /// Its locks after one of them, in the order of their keys.
    pub(super) fn locks<'a>(&'a self, after: Option<&'a [u8]>) -> impl Iterator<Item = &'a Key> {
        // Both halves are sorted: they are merged, and what is passed over is not looked at.
        let half = move |calm: bool| {
            self.members
                .iter()
                .map(|((is_calm, key), _)| (*is_calm, key))
                .filter(move |(is_calm, key)| {
                    *is_calm == calm && after.is_none_or(|after| key.as_bytes() > after)
                })
                .map(|(_, key)| key)
        };
        let (mut one, mut other) = (half(false).peekable(), half(true).peekable());
        std::iter::from_fn(move || match (one.peek(), other.peek()) {
            (Some(first), Some(second)) if first > second => other.next(),
            (Some(_), _) => one.next(),
            (None, _) => other.next(),
        })
    }
}

/// All sessions, by name and by end.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Sessions {
    by_id: OrdMap<SessionId, Arc<Session>>,
    /// The end of each session, worked off or not.
    dues: OrdSet<(ClusterTime, SessionId)>,
    /// The number of sessions that are marked as ended.
    ended: u64,
    /// The number of items in all inboxes.
    items: u64,
}

impl Sessions {
    pub(super) fn len(&self) -> u64 {
        self.by_id.len() as u64
    }

    pub(super) fn items(&self) -> u64 {
        self.items
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (SessionId, &Session)> {
        self.by_id.iter().map(|(id, session)| (*id, &**session))
    }

    pub(super) fn get(&self, id: SessionId) -> Option<&Session> {
        self.by_id.get(&id).map(|session| &**session)
    }

    /// A session that is open at this time.
    pub(super) fn live(&self, id: SessionId, now: ClusterTime) -> Option<&Session> {
        self.get(id).filter(|session| session.ended.is_none() && !session.deadline.reached(now))
    }

    pub(super) fn is_closed(&self, id: SessionId) -> bool {
        self.get(id).is_some_and(|session| session.ended == Some(Ended::Closed))
    }

    /// The time at which a session ends or has ended; the beginning of time if it is unknown.
    pub(super) fn end_of(&self, id: SessionId) -> ClusterTime {
        self.get(id).map_or(ClusterTime::default(), |session| session.deadline)
    }

    /// The end of a session that is first in time, worked off or not.
    pub(super) fn first_due(&self) -> Option<(ClusterTime, SessionId)> {
        self.dues.get_min().copied()
    }

    /// Whether the end of a session is due, or its grants and places are not worked off yet.
    pub(super) fn has_work(&self, now: ClusterTime) -> bool {
        self.ended > 0 || self.first_due().is_some_and(|(due, _)| due.reached(now))
    }

    pub(super) fn put(&mut self, id: SessionId, session: Session, tracker: &mut Tracker) {
        self.dues.insert((session.deadline, id));
        self.ended += u64::from(session.ended.is_some());
        self.items += session.inbox.len();
        let deadline = session.deadline;
        match self.by_id.insert(id, Arc::new(session)) {
            Some(old) => {
                self.items -= old.inbox.len();
                self.ended -= u64::from(old.ended.is_some());
                if old.deadline != deadline {
                    self.dues.remove(&(old.deadline, id));
                }
                tracker.note(|| RecordKey::Session(id));
            }
            None => tracker.come(|| RecordKey::Session(id)),
        }
    }

    pub(super) fn change(
        &mut self,
        id: SessionId,
        tracker: &mut Tracker,
        change: impl FnOnce(&mut Session),
    ) {
        let session = self.by_id.get(&id).expect("a session that exists is changed");
        let mut session = Session::clone(session);
        change(&mut session);
        self.put(id, session, tracker);
    }

    /// Removes a session without members, and drops its inbox.
    pub(super) fn remove(&mut self, id: SessionId, tracker: &mut Tracker) {
        let session = self.by_id.remove(&id).expect("a session that exists is removed");
        assert!(session.members.is_empty(), "{id} still has grants or places");
        self.dues.remove(&(session.deadline, id));
        self.ended -= u64::from(session.ended.is_some());
        self.items -= session.inbox.len();
        for item in session.inbox.iter() {
            tracker.gone(|| RecordKey::Item(id, item.position));
        }
        tracker.gone(|| RecordKey::Session(id));
    }

    /// Counts a grant or a place of a lock in a session, or one less.
    pub(super) fn count(&mut self, id: SessionId, calm: Calm, key: &Key, change: i32) {
        let Some(session) = self.by_id.get_mut(&id) else {
            panic!("{key:?} has grants or places in {id}, which does not exist")
        };
        let members = &mut Arc::make_mut(session).members;
        let place = (calm, key.clone());
        let old = members.get(&place).copied().unwrap_or(0);
        let new = old.checked_add_signed(change).expect("no more are removed than there are");
        if new == 0 {
            members.remove(&place);
        } else {
            members.insert(place, new);
        }
    }

    /// Notes that somebody may wait for a lock now, or that nobody can any more.
    pub(super) fn turn(&mut self, id: SessionId, from: Calm, key: &Key) {
        let Some(session) = self.by_id.get_mut(&id) else { return };
        let members = &mut Arc::make_mut(session).members;
        if let Some(count) = members.remove(&(from, key.clone())) {
            members.insert((!from, key.clone()), count);
        }
    }

    /// Tells a session a fact, unless it has ended.
    pub(super) fn tell(&mut self, id: SessionId, item: Item, tracker: &mut Tracker) {
        let Some(session) = self.by_id.get_mut(&id).filter(|session| session.ended.is_none())
        else {
            return;
        };
        let session = Arc::make_mut(session);
        let (overflowed, items) = (session.inbox.overflowed, session.inbox.len());
        session.inbox.add(id, item, tracker);
        self.items = self.items + session.inbox.len() - items;
        if session.inbox.overflowed != overflowed {
            tracker.note(|| RecordKey::Session(id));
        }
    }

    /// Adds a session from a snapshot; `false` if the name is taken. Its inbox and members are
    /// added later.
    pub(super) fn load(&mut self, id: SessionId, session: Session) -> bool {
        let is_new = !self.by_id.contains_key(&id);
        self.put(id, session, &mut Tracker::default());
        is_new
    }

    /// Adds an item of an inbox from a snapshot; `false` if there is no such session, or it has an
    /// item at this position or of this lock.
    pub(super) fn load_item(&mut self, id: SessionId, item: Item) -> bool {
        let Some(session) = self.by_id.get_mut(&id) else { return false };
        self.items += 1;
        Arc::make_mut(session).inbox.load(item)
    }

    /// Counts the grants and places of a loaded lock in their sessions; `false` if one of these
    /// does not exist, or had ended before it got one of them.
    pub(super) fn load_members(&mut self, key: &Key, record: &Record) -> bool {
        let grants = record.holders.iter();
        let grants = grants.filter_map(|grant| Some((grant.session()?, grant.since)));
        let places = record.queue.iter().flat_map(|queue| queue.iter());
        let places = places.filter_map(|place| Some((place.session()?, place.since)));
        for (id, since) in grants.chain(places) {
            if self.get(id).is_none_or(|session| session.deadline < since) {
                return false;
            }
            self.count(id, !record.is_urgent(), key, 1);
        }
        true
    }

    /// Whether each session that was loaded can exist at this time: one that has ended still has
    /// grants or places.
    pub(super) fn are_sound(&self, now: ClusterTime) -> bool {
        self.iter().all(|(_, session)| match session.ended {
            None => session.deadline != ClusterTime::NEVER,
            Some(_) => session.deadline.reached(now) && !session.members.is_empty(),
        })
    }

    pub(super) fn assert_sound(&self, now: ClusterTime) {
        assert!(self.are_sound(now), "{self:?}");
        assert_eq!(self.items, self.iter().map(|(_, session)| session.inbox.len()).sum::<u64>());
        assert_eq!(self.dues.len(), self.by_id.len());
    }
}

/// The facts that a session is yet to see: the latest of each lock and owner.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Inbox {
    items: SmallMap<DecidedAt, Arc<Item>>,
    by_lock: SmallMap<(Key, Owner), DecidedAt>,
    /// The position of the last item that had to go because there were too many.
    pub(super) overflowed: Option<DecidedAt>,
}

/// One fact of an inbox.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Item {
    pub(super) position: DecidedAt,
    pub(super) key: Key,
    pub(super) owner: Owner,
    pub(super) news: News,
}

impl Inbox {
    fn len(&self) -> u64 {
        self.items.len() as u64
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Item> {
        self.items.values().map(|item| &**item)
    }

    pub(super) fn get(&self, position: DecidedAt) -> Option<&Item> {
        self.items.get(&position).map(|item| &**item)
    }

    fn add(&mut self, id: SessionId, item: Item, tracker: &mut Tracker) {
        let lock = (item.key.clone(), item.owner.clone());
        if let Some(old) = self.by_lock.insert(lock, item.position) {
            self.items.remove(&old);
            tracker.gone(|| RecordKey::Item(id, old));
        }
        tracker.come(|| RecordKey::Item(id, item.position));
        self.items.insert(item.position, Arc::new(item));
        if self.items.len() > MAX_INBOX {
            let (oldest, _) = self.items.get_min().expect("there are many");
            self.overflowed = Some(*oldest);
            let oldest = *oldest;
            self.remove(id, oldest, tracker);
        }
    }

    fn load(&mut self, item: Item) -> bool {
        let lock = (item.key.clone(), item.owner.clone());
        let is_new = self.by_lock.insert(lock, item.position).is_none();
        self.items.insert(item.position, Arc::new(item)).is_none() && is_new
    }

    fn remove(&mut self, id: SessionId, position: DecidedAt, tracker: &mut Tracker) {
        let item = self.items.remove(&position).expect("only an item that exists is dropped");
        self.by_lock.remove(&(item.key.clone(), item.owner.clone()));
        tracker.gone(|| RecordKey::Item(id, position));
    }

    /// Drops the items up to one that was seen.
    pub(super) fn drop_seen(&mut self, id: SessionId, seen: DecidedAt, tracker: &mut Tracker) {
        while let Some(first) = self.items.get_min().map(|(first, _)| *first) {
            if first > seen {
                break;
            }
            self.remove(id, first, tracker);
        }
    }

    /// The items after one that was seen, as the session's owner gets them.
    pub(super) fn tell(
        &self,
        seen: Option<DecidedAt>,
        most: usize,
    ) -> (Vec<InboxItem>, bool, bool) {
        let items = self.iter().filter(|item| seen.is_none_or(|seen| item.position > seen));
        let mut items = items.map(|item| InboxItem {
            position: item.position,
            table: item.key.table().to_owned(),
            signature: item.key.signature().to_owned(),
            signee: item.owner.signee.to_string(),
            instance: item.owner.instance.as_deref().map(str::to_owned),
            news: item.news,
        });
        let told: Vec<_> = items.by_ref().take(most).collect();
        let overflow = self.overflowed.is_some_and(|gone| seen.is_none_or(|seen| seen < gone));
        (told, items.next().is_some(), overflow)
    }
}
