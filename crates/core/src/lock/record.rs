//! The state of one lock: its key, its record and the grants in it.
//!
//! A record has grants, or a queue, or both. Sizes matter here: a node holds a million of these, so
//! the key's text is shared with the deadline index, and everything that most locks lack is boxed:
//! more than one grant (`holders.rs`), the queue (`queue.rs`) and the rare fields of a grant.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;

use smallvec::SmallVec;
use smol_str::SmolStr;
use triomphe::ThinArc;

use crate::lock::holders::Holders;
use crate::lock::queue::Queue;
use crate::lock::sessions::Sessions;
use crate::lock::table::Deletion;
use crate::lock::{ClusterTime, Keep};
use crate::types::{DecidedAt, Forbidden, Holder, LockRecord, Mode, SessionId, Token};

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
        let text = Self::text(table, signature)?;
        Some(Self(ThinArc::from_header_and_slice((), &text)))
    }

    /// The text of a key, by which a record is found without one.
    pub(super) fn text(table: &str, signature: &str) -> Option<SmallVec<[u8; 128]>> {
        let (table, signature) = (table.as_bytes(), signature.as_bytes());
        if table.contains(&NUL) || signature.contains(&NUL) {
            return None;
        }
        let mut text = SmallVec::with_capacity(table.len() + 1 + signature.len());
        text.extend_from_slice(table);
        text.push(NUL);
        text.extend_from_slice(signature);
        Some(text)
    }

    pub(super) fn table(&self) -> &str {
        name(&self.as_bytes()[..self.table_len()])
    }

    pub(super) fn signature(&self) -> &str {
        name(&self.as_bytes()[self.table_len() + 1..])
    }

    /// Table and signature with a NUL between them.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0.slice
    }

    fn table_len(&self) -> usize {
        let nul = self.as_bytes().iter().position(|byte| *byte == NUL);
        nul.expect("a key has a NUL between table and signature")
    }
}

/// Stands between the two names of a key.
const NUL: u8 = 0;

fn name(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("a key is made of two texts")
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

/// An owner: another instance is another owner.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Owner {
    pub(super) signee: SmolStr,
    pub(super) instance: Option<Box<str>>,
}

impl Owner {
    pub(super) fn new(signee: &str, instance: Option<&str>) -> Self {
        Self { signee: SmolStr::new(signee), instance: instance.map(Into::into) }
    }
}

/// A lock that exists.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Record {
    pub(super) holders: Holders,
    pub(super) queue: Option<Box<Queue>>,
    /// The time of what caused a hand-over that was broken off, because an entry's work is bounded.
    pub(super) pending: Option<ClusterTime>,
    /// The number of permits; 0 unless a grant or a place is in mode permits.
    pub(super) limit: u32,
    /// The mode of all grants; exclusive if there are none.
    pub(super) mode: Mode,
}

/// The right of one owner to a lock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Grant {
    pub(super) token: Token,
    pub(super) level: i64,
    /// The time from which the owner has held the lock. A renewal keeps it.
    pub(super) since: ClusterTime,
    /// The time from which another signee may take the lock; in a session, the end of the longest
    /// hold.
    pub(super) deadline: ClusterTime,
    /// The time at which the record is removed; never before the deadline.
    pub(super) removal: ClusterTime,
    /// Stored inline if it is short, as most are.
    pub(super) signee: SmolStr,
    pub(super) rare: Option<Box<Rare>>,
    /// Whether its end was worked off. The end may have come before that, see `locks.rs`.
    pub(super) expired: bool,
}

/// The fields that most grants lack. A grant without any of them has no box at all, so that equal
/// grants compare equal.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Rare {
    pub(super) instance: Option<Box<str>>,
    /// The session that the grant lives in, with the time_to_live that counts from its end.
    pub(super) session: Option<(SessionId, Keep)>,
    /// The lock-delay; 0 once it is over.
    pub(super) lock_delay_ms: u64,
    /// The end of the longest hold, as of the last request.
    pub(super) hold_end: Option<ClusterTime>,
    /// The number of the permit.
    pub(super) slot: Option<u32>,
    /// The position at which it was taken by force.
    pub(super) forced: Option<DecidedAt>,
    /// The place that became this grant and the last ask of it, until it is asked for, renewed or
    /// moved again.
    pub(super) asked: Option<(DecidedAt, DecidedAt)>,
}

impl Record {
    pub(super) fn exclusive(grant: Grant) -> Self {
        Self { holders: Holders::One(grant), ..Self::default() }
    }

    /// Whether there is neither a grant nor a place.
    pub(super) fn is_empty(&self) -> bool {
        self.holders.is_none() && self.queue.is_none()
    }

    /// Whether the first part of the contract is all there is to it: at most one grant, exclusive
    /// and outside of sessions, without a lock-delay, and nobody waits.
    pub(super) fn is_plain(&self) -> bool {
        let plain = |grant: &Grant| grant.rare.as_ref().is_none_or(|rare| rare.is_plain());
        match &self.holders {
            Holders::None => self.queue.is_none(),
            Holders::One(grant) => {
                self.queue.is_none() && self.mode == Mode::Exclusive && plain(grant)
            }
            Holders::Many(_) => false,
        }
    }

    /// Whether a session that ends works this lock off before those that nobody waits for.
    pub(super) fn is_urgent(&self) -> bool {
        self.queue.is_some() || matches!(self.holders, Holders::Many(_))
    }

    /// Whether it has something that belongs to none of its grants and places.
    pub(super) fn is_noted(&self) -> bool {
        self.limit > 0 || self.pending.is_some()
    }

    /// Whether more than the record goes with it: it has places, grants in sessions, or a limit.
    pub(super) fn is_entangled(&self) -> bool {
        self.queue.is_some() || self.holders.has_sessions() || self.is_noted()
    }

    /// The one holder of a plain record.
    pub(super) fn holder(&self) -> &Grant {
        match &self.holders {
            Holders::One(grant) => grant,
            holders @ (Holders::None | Holders::Many(_)) => {
                panic!("a plain lock must have one grant, not {holders:?}")
            }
        }
    }

    /// The next time at which the record changes by itself.
    pub(super) fn due(&self) -> ClusterTime {
        let queue = self.queue.as_ref().map_or(ClusterTime::NEVER, |queue| queue.due());
        self.holders.due().min(queue).min(self.pending.unwrap_or(ClusterTime::NEVER))
    }

    pub(super) fn unexpired(&self) -> u64 {
        self.holders.live()
    }

    pub(super) fn waiting(&self) -> u64 {
        self.queue.as_ref().map_or(0, |queue| queue.len())
    }

    /// The record as others see it, with this number of holders and without its places; `None` if
    /// its removal is due, worked off or not, and nobody waits.
    pub(super) fn view(
        &self,
        signature: &str,
        most: usize,
        moment: Moment<'_>,
    ) -> Option<LockRecord> {
        let mut shown = self.shown(moment);
        let view = |grant: &Grant| grant.view(self.mode, moment.now, moment.sessions);
        let holders: Vec<Holder> = shown.by_ref().take(most).map(view).collect();
        let more_holders = shown.count() as u64;
        let waiting = self.waiting();
        (!holders.is_empty() || waiting > 0).then(|| LockRecord {
            signature: signature.to_owned(),
            holders,
            more_holders,
            limit: (self.limit > 0).then_some(self.limit),
            waiting,
            places: Vec::new(),
        })
    }

    /// The holders that a refusal names.
    pub(super) fn refusers(&self, moment: Moment<'_>) -> Vec<Holder> {
        let named = self.shown(moment).take(Forbidden::MAX_HOLDERS);
        named.map(|grant| grant.view(self.mode, moment.now, moment.sessions)).collect()
    }

    /// The grants that others see, first those that are live: those that only wait to be worked off
    /// are left out.
    fn shown<'a>(&'a self, moment: Moment<'a>) -> impl Iterator<Item = &'a Grant> {
        let shown = move || self.holders.iter().filter(move |grant| self.is_shown(grant, moment));
        let is_over = move |grant: &&Grant| grant.end(moment.sessions).reached(moment.now);
        shown().filter(move |grant| !is_over(grant)).chain(shown().filter(is_over))
    }

    fn is_shown(&self, grant: &Grant, moment: Moment<'_>) -> bool {
        let Moment { now, sessions, .. } = moment;
        if moment.has_deleted(grant)
            || grant.session().is_some_and(|session| sessions.is_closed(session))
        {
            return false;
        }
        let end = grant.end(sessions);
        if !end.reached(now) {
            return true;
        }
        // Only an exclusive lock keeps its expired grant beyond the lock-delay.
        !end.after_ms(grant.lock_delay_ms()).reached(now)
            || (self.mode == Mode::Exclusive && !grant.removed_at(sessions).reached(now))
    }
}

/// The moment at which a record is looked at. What has ended by then is not all worked off.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment<'a> {
    pub(super) now: ClusterTime,
    pub(super) sessions: &'a Sessions,
    /// The deletion of the record's table that is not worked off yet.
    pub(super) deletion: Option<Deletion>,
}

impl Moment<'_> {
    /// Whether the deletion of the table has ended a grant.
    pub(super) fn has_deleted(self, grant: &Grant) -> bool {
        self.deletion.is_some_and(|deletion| deletion.ends_grant(grant.token))
    }

    /// Whether a grant has ended.
    pub(super) fn is_over(self, grant: &Grant) -> bool {
        self.has_deleted(grant) || grant.end(self.sessions).reached(self.now)
    }
}

impl Record {
    /// Whether its grants and places can be those of one lock. A record that does not come from
    /// this state's own changes is checked.
    pub(super) fn is_sound(&self) -> bool {
        let grants = self.holders.iter().all(|grant| {
            let slot = grant.rare.as_ref().and_then(|rare| rare.slot);
            // Only an exclusive lock keeps an expired grant beyond its lock-delay.
            slot.is_some() == (self.mode == Mode::Permits)
                && (self.mode == Mode::Exclusive || grant.is_in_the_way())
        });
        let fits = match self.mode {
            Mode::Exclusive => self.holders.len() <= 1,
            Mode::Shared => !self.holders.is_none(),
            Mode::Permits => self.holders.have_own_slots(),
        };
        let queue = self.queue.as_ref();
        let permits = queue.is_some_and(|queue| queue.has_permits());
        let mut places = queue.into_iter().flat_map(|queue| queue.iter());
        let lives = |owner| self.holders.of(owner).is_some_and(|own| !own.expired);
        grants
            && fits
            && !self.is_empty()
            && (self.limit > 0) == (permits || self.mode == Mode::Permits)
            && (self.pending.is_none() || queue.is_some())
            && !places.any(|place| lives(&place.owner))
    }

    pub(super) fn assert_sound(&self, key: &Key) {
        assert!(self.is_sound(), "{key:?}: {self:?}");
        let live = self.holders.iter().filter(|grant| !grant.expired).count() as u64;
        assert_eq!(live, self.holders.live(), "{key:?}");
        for grant in self.holders.iter() {
            assert!(grant.deadline <= grant.removal, "{key:?}: {grant:?}");
            assert!(grant.since <= grant.deadline, "{key:?}: {grant:?}");
            assert_eq!(self.holders.of(&grant.owner()), Some(grant), "{key:?}");
        }
    }
}

impl Grant {
    pub(super) fn instance(&self) -> Option<&str> {
        self.rare.as_ref().and_then(|rare| rare.instance.as_deref())
    }

    pub(super) fn owner(&self) -> Owner {
        Owner { signee: self.signee.clone(), instance: self.instance().map(Into::into) }
    }

    pub(super) fn session(&self) -> Option<SessionId> {
        self.rare.as_ref().and_then(|rare| rare.session).map(|(session, _)| session)
    }

    pub(super) fn lock_delay_ms(&self) -> u64 {
        self.rare.as_ref().map_or(0, |rare| rare.lock_delay_ms)
    }

    /// Whether it has expired and still keeps others out.
    pub(super) fn is_delaying(&self) -> bool {
        self.expired && self.lock_delay_ms() > 0
    }

    /// Whether it keeps others out: it is live, or its lock-delay is not over.
    pub(super) fn is_in_the_way(&self) -> bool {
        !self.expired || self.is_delaying()
    }

    pub(super) fn delay_end(&self) -> ClusterTime {
        self.deadline.after_ms(self.lock_delay_ms())
    }

    /// Whether the longest hold has ended it: then its former owner waits for the end of the
    /// lock-delay like anyone else.
    pub(super) fn is_held_out(&self) -> bool {
        let hold_end = self.rare.as_ref().and_then(|rare| rare.hold_end);
        hold_end.is_some_and(|end| self.deadline >= end)
    }

    /// The end of the grant: its deadline, or that of its session if it is earlier.
    pub(super) fn end(&self, sessions: &Sessions) -> ClusterTime {
        let session = self.session().filter(|_| !self.expired);
        session.map_or(self.deadline, |session| self.deadline.min(sessions.end_of(session)))
    }

    /// The time of the removal as far as it is known: in a session it counts from the session's
    /// end.
    fn removed_at(&self, sessions: &Sessions) -> ClusterTime {
        match self.rare.as_ref().and_then(|rare| rare.session) {
            Some((_, keep)) if !self.expired => keep.after(self.end(sessions)),
            Some(_) | None => self.removal,
        }
    }

    /// Changes the rare fields.
    pub(super) fn change_rare(&mut self, change: impl FnOnce(&mut Rare)) {
        let mut rare = self.rare.take().map(|rare| *rare).unwrap_or_default();
        change(&mut rare);
        self.rare = rare.boxed();
    }

    /// Ends the grant at this time, which its session may have set: from now on its removal is
    /// known, and it lives in no session.
    pub(super) fn expire(&mut self, at: ClusterTime) {
        self.expired = true;
        if let Some((_, keep)) = self.rare.as_ref().and_then(|rare| rare.session) {
            self.deadline = at;
            self.removal = keep.after(at);
            self.change_rare(|rare| rare.session = None);
        }
    }

    /// Whether this owner holds it: another instance is another owner.
    pub(super) fn belongs_to(&self, signee: &str, instance: Option<&str>) -> bool {
        self.signee == signee && self.instance() == instance
    }

    /// The next time at which the grant changes by itself: it expires, its lock-delay is over, then
    /// it is removed.
    pub(super) fn due(&self) -> ClusterTime {
        if !self.expired {
            self.deadline
        } else if self.is_delaying() {
            self.delay_end()
        } else {
            self.removal
        }
    }

    pub(super) fn view(&self, mode: Mode, now: ClusterTime, sessions: &Sessions) -> Holder {
        let end = self.end(sessions);
        Holder {
            signee: self.signee.to_string(),
            instance: self.instance().map(str::to_owned),
            level: self.level,
            token: self.token,
            expires_in: end.left(now),
            expired: end.reached(now),
            removed_in: self.removed_at(sessions).left_unless_never(now),
            mode,
            slot: self.rare.as_ref().and_then(|rare| rare.slot),
            session: self.session(),
        }
    }
}

impl Rare {
    /// The fields in a box, unless there are none.
    pub(super) fn boxed(self) -> Option<Box<Self>> {
        (self != Self::default()).then(|| Box::new(self))
    }

    pub(super) fn of_instance(instance: Option<&str>) -> Option<Box<Self>> {
        instance
            .map(|instance| Box::new(Self { instance: Some(instance.into()), ..Self::default() }))
    }

    /// Whether it has nothing of the second part of the contract.
    pub(super) fn is_plain(&self) -> bool {
        let Self { instance: _, session, lock_delay_ms, hold_end, slot, forced, asked } = self;
        session.is_none()
            && *lock_delay_ms == 0
            && hold_end.is_none()
            && slot.is_none()
            && forced.is_none()
            && asked.is_none()
    }
}
