//! Turns: the part of the machine in which owners wait, share, or live in sessions.
//!
//! Every change of a lock is an [`Edit`]: its record is taken out, changed, and put back, and what
//! else knows of the lock (the sessions, the checkpoint's tracker, the totals of places) follows
//! from the changes. Whoever changes a lock hands it over afterwards: the head of the queue is
//! judged as a request made now, until one is not granted.
//!
//! The work of an entry is bounded, see [`Work`]. A hand-over that is broken off is noted in the
//! queue with the time of what caused it; the lock is due at that time and goes on with it.

use smallvec::SmallVec;
use smol_str::SmolStr;

use crate::limits;
use crate::lock::changes::RecordKey;
use crate::lock::decision::Step;
use crate::lock::ends::{End, WaitEnd};
use crate::lock::events::{Change, GrantEnd, SessionChange};
use crate::lock::lanes::{Effect, Granted};
use crate::lock::queue::{Lasts, Place, Terms};
use crate::lock::record::{Grant, Key, Owner, Rare, Record};
use crate::lock::rules::{Asker, is_behind, judge_turn};
use crate::lock::sessions::{Ended, Item};
use crate::lock::state::new_token;
use crate::lock::table::Deletion;
use crate::lock::{ClusterTime, State};
use crate::types::{
    DecidedAt, ForbiddenReason, Loss, MAX_SAFE_INTEGER, Mode, News, SessionId, Token,
    TransferReason,
};

/// The work of a step, in deadlines of the first part of the contract: it tells a lane, a session and
/// the callers that wait, and changes the queue's indexes.
const STEP: usize = 4;

/// The work that an entry may still do, and what a command leaves behind for the end of its
/// decision. Not part of a state's value.
#[derive(Clone, Debug, Default)]
pub(super) struct Work {
    index: u64,
    /// The numbers of the next command and of the next step: those of the steps follow those of all
    /// commands, so that a command's number is its place in the entry.
    next_command: u32,
    next_step: u32,
    /// The work left in this entry; that of it left for the ends of sessions and of tables; and of
    /// that the part that tables may have, so that a session that is closed meanwhile finds some.
    left: usize,
    left_for_many: usize,
    left_for_tables: usize,
    /// The position of the command that is being decided.
    pub(super) current: DecidedAt,
    is_deciding: bool,
    /// The lock that the command has changed, to be handed over once the command is remembered.
    pub(super) changed: Option<Key>,
    /// What became of the command's own place, if it is gone already.
    pub(super) became: Option<(Effect, DecidedAt)>,
}

impl Work {
    pub(super) fn begin(&mut self, index: u64, commands: usize, steps: usize) {
        *self = Self {
            index,
            next_step: u32::try_from(commands).unwrap_or(u32::MAX),
            left: steps,
            left_for_many: steps / 2,
            left_for_tables: steps / 4,
            ..Self::default()
        };
    }

    /// The position of the next command.
    pub(super) fn command(&mut self) -> DecidedAt {
        self.current = DecidedAt { index: self.index, position: self.next_command };
        self.is_deciding = true;
        self.next_command += 1;
        self.current
    }

    /// The position within the entry of the command that is being decided.
    pub(super) fn deciding(&self) -> Option<u32> {
        self.is_deciding.then_some(self.current.position)
    }

    /// The position of the next step.
    pub(super) fn step(&mut self) -> DecidedAt {
        let at = DecidedAt { index: self.index, position: self.next_step };
        self.next_step += 1;
        at
    }

    pub(super) fn is_done(&self) -> bool {
        self.left == 0
    }

    /// Whether nothing is left for the ends of sessions and of tables.
    fn is_done_for_many(&self) -> bool {
        self.left == 0 || self.left_for_many == 0
    }

    fn is_done_for_tables(&self) -> bool {
        self.is_done_for_many() || self.left_for_tables == 0
    }

    /// Spends of the work for many what was spent since this much was left.
    fn spend_for_many(&mut self, left: usize) {
        self.left_for_many = self.left_for_many.saturating_sub((left - self.left).max(1));
    }

    fn spend_for_tables(&mut self, left: usize) {
        self.left_for_tables = self.left_for_tables.saturating_sub((left - self.left).max(1));
        self.spend_for_many(left);
    }

    /// Spends the work of one deadline of the first part of the contract.
    pub(super) fn spend(&mut self) {
        self.left = self.left.saturating_sub(1);
    }

    /// Spends the work of one step.
    pub(super) fn spend_step(&mut self) {
        self.left = self.left.saturating_sub(STEP);
    }
}

/// A lock that is being changed.
pub(super) struct Edit {
    pub(super) key: Key,
    pub(super) record: Record,
    /// The steps that the lock may still make.
    left: usize,
    was_urgent: bool,
    /// The session of the one grant that it had.
    was_in: Option<SessionId>,
    was_noted: bool,
    /// The deletion of its table, if that may have left something of the lock.
    deletion: Option<Deletion>,
    before: (u32, Option<ClusterTime>),
    /// The numbers of grants and places that sessions have more or less.
    counts: SmallVec<[(SessionId, i32); 4]>,
}

impl Edit {
    fn lock_value(&self) -> (u32, Option<ClusterTime>) {
        (self.record.limit, self.record.pending)
    }

    fn count(&mut self, session: Option<SessionId>, change: i32) {
        self.counts.extend(session.map(|session| (session, change)));
    }

    /// The deletion of its table, while that has yet to end something of the lock.
    fn is_dying(&self) -> Option<Deletion> {
        self.deletion.filter(|deletion| deletion.ends_any(&self.record))
    }

    fn pend(&mut self, at: ClusterTime) {
        let pending = self.record.pending.map_or(at, |pending| pending.min(at));
        self.record.pending = Some(pending);
    }
}

/// Something of a lock that is due.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Due {
    Deletion,
    Grant(Token),
    Session(SessionId),
    HandOver,
    Place(DecidedAt),
}

/// Edits.
impl State {
    pub(super) fn edit(&self, key: &Key) -> Edit {
        let record = self.locks.get(key).cloned().unwrap_or_default();
        let was_urgent = record.is_urgent();
        let single = record.holders.iter().next().filter(|_| !was_urgent);
        let was_in = single.and_then(Grant::session);
        let mut edit = Edit {
            key: key.clone(),
            left: limits::STEPS_PER_LOCK,
            was_urgent,
            was_in,
            was_noted: false,
            deletion: self.locks.deletion(key.table()),
            before: (0, None),
            counts: SmallVec::new(),
            record,
        };
        edit.before = edit.lock_value();
        edit.was_noted = edit.before != (0, None);
        edit
    }

    pub(super) fn commit(&mut self, mut edit: Edit) {
        let record = &mut edit.record;
        if record.queue.as_ref().is_some_and(|queue| queue.is_empty()) {
            record.queue = None;
        }
        if record.queue.is_none() {
            record.pending = None;
        }
        if record.holders.is_none() {
            record.mode = Mode::Exclusive;
        }
        let has_permits = record.queue.as_ref().is_some_and(|queue| queue.has_permits());
        if record.mode != Mode::Permits && !has_permits {
            record.limit = 0;
        }
        let value = edit.lock_value();
        let key = || RecordKey::Lock(edit.key.clone());
        match (edit.was_noted, value != (0, None)) {
            (false, true) => self.tracker.come(key),
            (true, false) => self.tracker.gone(key),
            (true, true) if value != edit.before => self.tracker.note(key),
            (true, true) | (false, false) => {}
        }
        self.commit_sessions(&edit);
        self.locks.store(edit.key, edit.record, &mut self.tracker);
    }

    /// Brings the sessions up to date. The lock is among their urgent ones while it is changed, if
    /// it was or will be.
    fn commit_sessions(&mut self, edit: &Edit) {
        let (was_urgent, is_urgent) = (edit.was_urgent, edit.record.is_urgent());
        if let Some(session) = edit.was_in.filter(|_| !was_urgent && is_urgent) {
            self.sessions.turn(session, true, &edit.key);
        }
        let is_calm = !(was_urgent || is_urgent);
        // First those that are more, so that no session is left without the lock in between.
        for (session, change) in edit.counts.iter().filter(|(_, change)| *change > 0) {
            self.sessions.count(*session, is_calm, &edit.key, *change);
        }
        for (session, change) in edit.counts.iter().filter(|(_, change)| *change < 0) {
            self.sessions.count(*session, is_calm, &edit.key, *change);
        }
        if was_urgent && !is_urgent {
            let session = edit.record.holders.iter().next().and_then(Grant::session);
            if let Some(session) = session {
                self.sessions.turn(session, false, &edit.key);
            }
        }
    }

    fn add_grant(&mut self, edit: &mut Edit, grant: Grant) {
        self.tracker.come(|| RecordKey::Grant(edit.key.clone(), grant.token));
        edit.count(grant.session(), 1);
        edit.record.holders.insert(grant);
    }

    fn drop_grant(&mut self, edit: &mut Edit, token: Token) -> Grant {
        let grant = edit.record.holders.remove(token).expect("only a grant that exists is dropped");
        edit.count(grant.session(), -1);
        self.tracker.gone(|| RecordKey::Grant(edit.key.clone(), token));
        grant
    }

    /// Replaces a grant by another with the same token.
    fn swap_grant(&mut self, edit: &mut Edit, grant: Grant) {
        let old = edit.record.holders.remove(grant.token).expect("a grant with this token exists");
        edit.count(old.session(), -1);
        edit.count(grant.session(), 1);
        self.tracker.note(|| RecordKey::Grant(edit.key.clone(), grant.token));
        edit.record.holders.insert(grant);
    }

    fn add_place(&mut self, edit: &mut Edit, place: Place) {
        self.tracker.come(|| RecordKey::Place(edit.key.clone(), place.at));
        edit.count(place.session(), 1);
        self.totals.add(&place);
        edit.record.queue.get_or_insert_default().insert(place);
    }

    fn drop_place(&mut self, edit: &mut Edit, at: DecidedAt) -> Place {
        let queue = edit.record.queue.as_mut().expect("a place is in a queue");
        let place = queue.remove(at).expect("only a place that exists is dropped");
        edit.count(place.session(), -1);
        self.totals.remove(&place);
        self.tracker.gone(|| RecordKey::Place(edit.key.clone(), at));
        place
    }

    /// Replaces a place by another of the same name.
    pub(super) fn swap_place(&mut self, edit: &mut Edit, place: Place) {
        self.drop_place(edit, place.at);
        self.add_place(edit, place);
    }
}

/// Edits of other files.
impl State {
    /// Notes that a grant was asked for since it was a place.
    pub(super) fn forget_ask(&mut self, edit: &mut Edit, token: Token) {
        if let Some(mut grant) = edit.record.holders.get(token).cloned() {
            grant.change_rare(|rare| rare.asked = None);
            self.swap_grant(edit, grant);
        }
    }
}

/// Steps.
impl State {
    /// A step: its position in the log. It uses up some of the work of the entry and of the lock.
    fn step(&mut self, edit: &mut Edit) -> DecidedAt {
        edit.left = edit.left.saturating_sub(1);
        self.tracker.work.spend_step();
        self.tracker.work.step()
    }

    fn tell_session_of(
        &mut self,
        session: Option<SessionId>,
        edit: &Edit,
        owner: &Owner,
        item: (DecidedAt, News),
    ) {
        if let Some(session) = session {
            let (position, news) = item;
            let item = Item { position, key: edit.key.clone(), owner: owner.clone(), news };
            self.sessions.tell(session, item, &mut self.tracker);
        }
    }

    /// Ends a grant at this time: it expires, or its session was closed.
    fn end_grant(&mut self, edit: &mut Edit, token: Token, at: ClusterTime, closed: bool) {
        let position = self.step(edit);
        let grant = edit.record.holders.get(token).expect("a grant that ends exists").clone();
        let end = if closed { End::Released } else { End::Expired };
        self.tracker.ends.add(end, at.since(grant.since));
        let end = if closed { GrantEnd::SessionClosed } else { GrantEnd::Expired };
        self.tracker.ended(&edit.key, &grant, end);
        if closed {
            self.drop_grant(edit, token);
            return;
        }
        self.locks.expiries += 1;
        if at == grant.deadline {
            let news = News::Lost { token: Some(token), reason: Loss::Expired };
            self.tell_session_of(grant.session(), edit, &grant.owner(), (position, news));
        }
        if edit.record.mode == Mode::Exclusive || grant.lock_delay_ms() > 0 {
            let mut expired = grant;
            expired.expire(at);
            self.swap_grant(edit, expired);
        } else {
            self.drop_grant(edit, token);
        }
    }

    /// Takes a live or delaying grant away from its holder.
    fn take_grant(&mut self, edit: &mut Edit, token: Token, reason: TransferReason) -> Grant {
        let position = self.step(edit);
        let grant = self.drop_grant(edit, token);
        let (end, loss) = match reason {
            TransferReason::Preempted => (End::Preempted, Loss::Preempted),
            TransferReason::Forced | TransferReason::Expired => (End::Forced, Loss::Forced),
        };
        if !grant.expired {
            self.tracker.ends.add(end, self.clock.since(grant.since));
        }
        self.tracker.ended(&edit.key, &grant, GrantEnd::of_transfer(reason));
        let news = News::Lost { token: Some(token), reason: loss };
        self.tell_session_of(grant.session(), edit, &grant.owner(), (position, news));
        grant
    }

    /// Releases a grant, live or expired. Its owner knows, unless an operator did it.
    pub(super) fn release(&mut self, edit: &mut Edit, token: Token, by_operator: bool) {
        let position = self.step(edit);
        let grant = self.drop_grant(edit, token);
        if !grant.expired {
            self.tracker.ends.add(End::Released, self.clock.since(grant.since));
        }
        self.tracker.ended(&edit.key, &grant, GrantEnd::Released);
        if by_operator {
            let news = News::Lost { token: Some(token), reason: Loss::Released };
            self.tell_session_of(grant.session(), edit, &grant.owner(), (position, news));
        }
    }

    /// Ends a place without a grant.
    pub(super) fn end_place(&mut self, edit: &mut Edit, at: DecidedAt, reason: ForbiddenReason) {
        self.end_place_by(edit, at, (reason, WaitEnd::of_refusal(reason)));
    }

    /// As [`State::end_place`], counted as this end.
    pub(super) fn end_place_by(
        &mut self,
        edit: &mut Edit,
        at: DecidedAt,
        (reason, end): (ForbiddenReason, WaitEnd),
    ) {
        let position = self.step(edit);
        let place = self.drop_place(edit, at);
        self.waited(edit, &place, end);
        self.tell_session_of(place.session(), edit, &place.owner, (position, News::Ended(reason)));
        self.became(edit, &place, (Effect::LockRefused(reason), position));
    }

    /// Counts the time that a place stood, and tells of its end.
    fn waited(&mut self, edit: &Edit, place: &Place, end: WaitEnd) {
        self.tracker.left(&edit.key, place, end);
        let until = self.clock.min(place.end);
        self.tracker.ends.add_wait(end, until.since(place.since));
    }

    /// Passes on what became of the last ask of a place: to its lane, to its command if that is
    /// being decided, and to the callers that wait for it.
    fn became(&mut self, edit: &Edit, place: &Place, (effect, position): (Effect, DecidedAt)) {
        if let Some(id) = place.request {
            let result = (effect.clone(), position);
            self.lanes.resolve(id, place.at, result, &mut self.tracker);
        }
        if place.ask == self.tracker.work.current {
            self.tracker.work.became = Some((effect.clone(), position));
        }
        if self.tracker.steps.is_some() {
            let outcome = self.tell_about(&edit.key, Some(&edit.record), effect, place.asked);
            let step = Step {
                at: position,
                table: edit.key.table().into(),
                signature: edit.key.signature().into(),
                place: place.at,
                ask: place.ask,
                request_id: place.request,
                outcome,
            };
            self.tracker.steps.get_or_insert_default().push(step);
        }
    }
}

/// Due things.
impl State {
    /// Works off one lock or session that is due; `false` if none is, or this entry has done
    /// enough.
    pub(super) fn work_off_next(&mut self) -> bool {
        if self.tracker.work.is_done() {
            return false;
        }
        let lock = self.locks.first_due().filter(|(due, ..)| due.reached(self.clock));
        if !self.tracker.work.is_done_for_tables()
            && let Some(key) = self.locks.first_dying().cloned()
        {
            self.work_off_dying(&key);
            return true;
        }
        let session = Some(()).filter(|()| !self.tracker.work.is_done_for_many());
        let session = session.and_then(|()| self.sessions.first_due());
        let session = session.filter(|(due, _)| due.reached(self.clock));
        match (lock, session) {
            (Some((due, ..)), Some((end, id))) if end < due => self.work_off_session(id),
            (Some((_, key, record)), _) => {
                let (key, is_plain) = (key.clone(), record.is_plain());
                self.work_off_lock(&key, is_plain);
            }
            (None, Some((_, id))) => self.work_off_session(id),
            (None, None) => return false,
        }
        true
    }

    fn work_off_lock(&mut self, key: &Key, is_plain: bool) {
        if is_plain {
            self.locks.pass(key, self.clock, &mut self.tracker);
            self.tracker.work.spend();
            return;
        }
        let mut edit = self.edit(key);
        if let Some((time, due)) = self.next_due(&edit) {
            self.pass(&mut edit, time, due);
        }
        self.commit(edit);
    }

    /// Works off what the deletion of a table ends, as far as this entry may.
    pub(super) fn work_off_deletion(&mut self, table: &str) {
        while let Some(key) = self.locks.first_dying_of(table).cloned()
            && !self.tracker.work.is_done_for_tables()
        {
            self.work_off_dying(&key);
        }
    }

    fn work_off_dying(&mut self, key: &Key) {
        let left = self.tracker.work.left;
        self.work_off_lock(key, false);
        self.tracker.work.spend_for_tables(left);
    }

    /// Marks a session as ended, or works off the next of its locks.
    pub(super) fn work_off_session(&mut self, id: SessionId) {
        let left = self.tracker.work.left;
        let session = self.sessions.get(id).expect("a session that is due exists");
        let (end, ended) = (session.deadline, session.ended);
        let first = session.first_member().cloned();
        match (ended, first) {
            (None, _) => {
                self.tracker.work.spend_step();
                self.tracker.work.step();
                let mark = |session: &mut crate::lock::sessions::Session| {
                    session.ended = Some(Ended::Expired);
                };
                self.sessions.change(id, &mut self.tracker, mark);
                self.tracker.ends.add_session(false);
                let how = SessionChange::Expired;
                self.tracker.event(|| Change::Session { session: id, how });
            }
            (Some(_), Some(key)) => {
                let mut edit = self.edit(&key);
                self.pass(&mut edit, end, Due::Session(id));
                self.commit(edit);
            }
            (Some(_), None) => {}
        }
        if self
            .sessions
            .get(id)
            .is_some_and(|session| session.ended.is_some() && session.first_member().is_none())
        {
            self.sessions.remove(id, &mut self.tracker);
        }
        self.tracker.work.spend_for_many(left);
    }

    /// Works off an ended session's locks, as far as this entry may.
    pub(super) fn work_off_whole_session(&mut self, id: SessionId) {
        while self.sessions.get(id).is_some() && !self.tracker.work.is_done_for_many() {
            self.work_off_session(id);
        }
    }

    /// The thing of a lock that is due first, worked off or not in the order of their times.
    fn next_due(&self, edit: &Edit) -> Option<(ClusterTime, Due)> {
        let record = &edit.record;
        if edit.is_dying().is_some() {
            return Some((self.clock, Due::Deletion));
        }
        let grant = record.holders.first_due().map(|(due, token)| (due, Due::Grant(token)));
        let queue = record.queue.as_ref();
        let hand_over = record.pending.map(|at| (at, Due::HandOver));
        let place = queue.and_then(|queue| queue.first_end());
        let place = place.map(|(end, at)| (end, Due::Place(at)));
        let session = self.first_ended(record).map(|(end, id)| (end, Due::Session(id)));
        let dues = [grant, hand_over, place, session].into_iter().flatten();
        dues.min().filter(|(due, _)| due.reached(self.clock))
    }

    /// The session of a grant or a place that has ended first. There is none to look for unless
    /// ends of sessions are yet to be worked off.
    fn first_ended(&self, record: &Record) -> Option<(ClusterTime, SessionId)> {
        if !record.is_entangled() || !self.sessions.has_work(self.clock) {
            return None;
        }
        let places = record.queue.as_ref().map(|queue| queue.sessions()).unwrap_or_default();
        let sessions = record.holders.sessions().into_iter().chain(places);
        let ended = sessions.filter(|id| self.sessions.live(*id, self.clock).is_none());
        ended.map(|id| (self.sessions.end_of(id), id)).min()
    }

    /// Works off a due thing of a lock, and hands it over.
    fn pass(&mut self, edit: &mut Edit, time: ClusterTime, due: Due) {
        match due {
            Due::Deletion => self.pass_deletion(edit),
            Due::Grant(token) => self.pass_grant(edit, token),
            Due::Session(id) => {
                let closed = self.sessions.is_closed(id);
                for token in edit.record.holders.in_session(id) {
                    self.end_grant(edit, token, time, closed);
                }
                let places = edit.record.queue.as_ref().map(|queue| queue.in_session(id));
                for at in places.unwrap_or_default() {
                    self.end_place(edit, at, ForbiddenReason::SessionLost);
                }
            }
            Due::HandOver => {}
            Due::Place(at) => self.end_place(edit, at, ForbiddenReason::Timeout),
        }
        self.hand_over(edit, time);
    }

    /// Ends what the deletion of the table ends, as far as the lock and the entry may: first the
    /// places, so that nobody who was there before is granted the lock.
    fn pass_deletion(&mut self, edit: &mut Edit) {
        let deletion = edit.is_dying().expect("only what is dying is due to be deleted");
        let may_go_on = |state: &Self, edit: &Edit| edit.left > 0 && !state.tracker.work.is_done();
        while may_go_on(self, edit) {
            let first =
                edit.record.queue.as_ref().and_then(|queue| queue.first_before(deletion.at));
            let Some(at) = first else { break };
            self.end_place(edit, at, ForbiddenReason::TableDeleted);
        }
        // With its last permit, the limit of a lock is gone, too.
        let has_limit = edit.record.limit > 0;
        while edit.record.holders.len() == 1 || may_go_on(self, edit) {
            let first = edit.record.holders.iter().next();
            let first = first.filter(|grant| deletion.ends_grant(grant.token)).cloned();
            let Some(grant) = first else { break };
            self.delete_grant(edit, &grant, has_limit);
        }
    }

    fn delete_grant(&mut self, edit: &mut Edit, grant: &Grant, has_limit: bool) {
        let is_told = has_limit || grant.session().is_some();
        let position = if is_told {
            Some(self.step(edit))
        } else {
            edit.left = edit.left.saturating_sub(1);
            self.tracker.work.spend();
            None
        };
        self.tracker.ends.add_deleted(u64::from(!grant.expired));
        self.tracker.ended(&edit.key, grant, GrantEnd::TableDeleted);
        self.drop_grant(edit, grant.token);
        if let Some(position) = position {
            let news = News::Lost { token: Some(grant.token), reason: Loss::TableDeleted };
            self.tell_session_of(grant.session(), edit, &grant.owner(), (position, news));
        }
    }

    fn pass_grant(&mut self, edit: &mut Edit, token: Token) {
        let grant = edit.record.holders.get(token).expect("a grant that is due exists");
        if !grant.expired {
            return self.end_grant(edit, token, grant.deadline, false);
        }
        self.tracker.work.spend();
        if edit.record.mode == Mode::Exclusive && grant.is_delaying() {
            let mut grant = grant.clone();
            grant.change_rare(|rare| rare.lock_delay_ms = 0);
            self.swap_grant(edit, grant);
        } else {
            self.locks.removals += 1;
            self.drop_grant(edit, token);
        }
    }

    /// Works off what is due of a lock that a command names. If that is more than the lock or the
    /// entry may do, the rest stays, except for the end of the only grant.
    pub(super) fn settle_edit(&mut self, edit: &mut Edit) {
        while let Some((time, due)) = self.next_due(edit) {
            if edit.left == 0 || self.tracker.work.is_done() {
                break;
            }
            self.pass(edit, time, due);
        }
        while edit.record.holders.len() == 1 {
            let grant = edit.record.holders.iter().next().expect("there is one");
            if edit.deletion.is_some_and(|deletion| deletion.ends_grant(grant.token)) {
                let has_limit = edit.record.limit > 0;
                self.delete_grant(edit, &grant.clone(), has_limit);
                break;
            }
            let (token, session) = (grant.token, grant.session());
            let end = grant.end(&self.sessions);
            if !grant.expired && end.reached(self.clock) {
                let closed = session.is_some_and(|session| self.sessions.is_closed(session));
                self.end_grant(edit, token, end, closed);
                edit.pend(end);
            } else if grant.due().reached(self.clock) {
                let due = grant.due();
                self.pass_grant(edit, token);
                edit.pend(due);
            } else {
                break;
            }
        }
    }

    /// Ends the owner's own grant or place if its end has come and was not worked off yet.
    pub(super) fn settle_own(&mut self, edit: &mut Edit, owner: &Owner) {
        if let Some(deletion) = edit.is_dying() {
            let place = edit.record.queue.as_ref().and_then(|queue| queue.of(owner));
            if let Some(at) = place.map(|place| place.at).filter(|at| deletion.ends_place(*at)) {
                self.end_place(edit, at, ForbiddenReason::TableDeleted);
            }
            let own = edit.record.holders.of(owner);
            if let Some(own) = own.filter(|own| deletion.ends_grant(own.token)).cloned() {
                let has_limit = edit.record.limit > 0;
                self.delete_grant(edit, &own, has_limit);
            }
        }
        let Some(own) = edit.record.holders.of(owner).filter(|own| !own.expired) else { return };
        let (token, end) = (own.token, own.end(&self.sessions));
        let closed = own.session().is_some_and(|session| self.sessions.is_closed(session));
        if closed || end.reached(self.clock) {
            self.end_grant(edit, token, end, closed);
            edit.pend(end);
        }
    }
}

/// Hand-over.
impl State {
    /// Hands a lock over after a command has changed it.
    pub(super) fn hand_over_changed(&mut self) {
        let Some(key) = self.tracker.work.changed.take() else { return };
        if self.locks.get(&key).is_some_and(|record| record.queue.is_some()) {
            let mut edit = self.edit(&key);
            let at = edit.before.1.unwrap_or(self.clock);
            self.hand_over(&mut edit, at);
            self.commit(edit);
        }
    }

    /// Grants the places at the head of the queue, for as long as they can be granted. A lock that
    /// is dying is handed over once it is not.
    fn hand_over(&mut self, edit: &mut Edit, at: ClusterTime) {
        if edit.is_dying().is_some() {
            return;
        }
        while let Some(head) = edit.record.queue.as_ref().and_then(|queue| queue.in_order().next())
        {
            let is_dead = head
                .session()
                .is_some_and(|session| self.sessions.live(session, self.clock).is_none());
            let asker = Asker {
                owner: &head.owner,
                mode: head.mode,
                level: head.level,
                limit: edit.record.limit,
                force: false,
                place: Some(head.at),
            };
            let victims = if is_dead { Ok(Vec::new()) } else { judge_turn(&edit.record, &asker) };
            let Ok(victims) = victims else { break };
            if edit.left == 0 || self.tracker.work.is_done() {
                return edit.pend(at);
            }
            let place = head.at;
            if is_dead {
                self.end_place(edit, place, ForbiddenReason::SessionLost);
            } else {
                self.grant_place(edit, place, &victims);
            }
        }
        edit.record.pending = None;
    }

    fn grant_place(&mut self, edit: &mut Edit, at: DecidedAt, victims: &[Token]) {
        let place = self.drop_place(edit, at);
        self.waited(edit, &place, WaitEnd::Granted);
        let asked = place.session().is_none().then_some((place.at, place.ask));
        let request = Wanted {
            owner: place.owner.clone(),
            level: place.level,
            mode: place.mode,
            limit: edit.record.limit,
            terms: place.terms,
            forced: false,
            asked,
        };
        let effect = self.grant(edit, &request, victims, TransferReason::Preempted);
        let position = self.step(edit);
        if let Effect::Granted { token, level, .. } = effect {
            let slot = edit.record.holders.get(token).and_then(|grant| grant.rare.as_ref()?.slot);
            let news = News::Granted { token, level, mode: place.mode, slot };
            self.tell_session_of(place.session(), edit, &place.owner, (position, news));
        }
        self.became(edit, &place, (effect, position));
    }

    /// Gives an owner without a live grant one, in place of these holders.
    pub(super) fn grant(
        &mut self,
        edit: &mut Edit,
        wanted: &Wanted,
        victims: &[Token],
        taken: TransferReason,
    ) -> Effect {
        if self.next_token > MAX_SAFE_INTEGER {
            return Effect::TokensExhausted;
        }
        let mut previous: Option<(Token, SmolStr, TransferReason)> = None;
        for victim in victims {
            let grant = self.take_grant(edit, *victim, taken);
            if previous.as_ref().is_none_or(|(newest, ..)| newest < victim) {
                previous = Some((*victim, grant.signee, taken));
            }
        }
        let own = edit.record.holders.of(&wanted.owner).map(|own| own.token);
        if let Some(own) = own {
            self.drop_grant(edit, own);
        }
        // Only an exclusive lock keeps an expired grant that is in nobody's way.
        let left_over = edit.record.holders.iter().next();
        if let Some(expired) = left_over.filter(|grant| !grant.is_in_the_way()).cloned() {
            self.drop_grant(edit, expired.token);
            previous = Some((expired.token, expired.signee, TransferReason::Expired));
        }
        let how = match previous {
            _ if own.is_some() => Granted::Renewed,
            Some((_, signee, reason)) => {
                Granted::Transferred { previous_signee: signee.as_str().into(), reason }
            }
            None => Granted::Ok,
        };
        let given = new_token(&mut self.next_token).expect("there is one, see above");
        let level = wanted.level;
        let slot = (wanted.mode == Mode::Permits).then(|| edit.record.holders.free_slot());
        let forced = wanted.forced.then_some(self.tracker.work.current);
        let rare = Rare { slot, forced, asked: wanted.asked, ..Rare::default() };
        edit.record.mode = wanted.mode;
        edit.record.limit = wanted.limit;
        let grant = self.new_grant(&wanted.owner, (given, level, self.clock), wanted.terms, &rare);
        self.tracker.granted(&edit.key, &grant, wanted.mode);
        self.add_grant(edit, grant);
        Effect::Granted { how, token: given, level }
    }

    /// A grant with these terms from now on.
    fn new_grant(
        &self,
        owner: &Owner,
        (token, level, since): (Token, i64, ClusterTime),
        terms: Terms,
        rare: &Rare,
    ) -> Grant {
        let hold_end = terms.max_hold_ms.map(|ms| since.after_ms(ms).max(self.clock));
        let latest = hold_end.unwrap_or(ClusterTime::NEVER);
        let (deadline, removal) = match terms.lasts {
            Lasts::Ms(ms) => (self.clock.after_ms(ms).min(latest), terms.keep.after(self.clock)),
            Lasts::Session(_) => (latest, ClusterTime::NEVER),
        };
        let rare = Rare {
            instance: owner.instance.clone(),
            session: terms.lasts.session().map(|session| (session, terms.keep)),
            lock_delay_ms: terms.lock_delay_ms,
            hold_end,
            ..rare.clone()
        };
        let signee = owner.signee.clone();
        let expired = false;
        Grant { token, level, since, deadline, removal, signee, rare: rare.boxed(), expired }
    }
}

/// A grant that is to be given.
pub(super) struct Wanted {
    pub(super) owner: Owner,
    pub(super) level: i64,
    pub(super) mode: Mode,
    /// The limit of the lock, if the mode is permits.
    pub(super) limit: u32,
    pub(super) terms: Terms,
    pub(super) forced: bool,
    pub(super) asked: Option<(DecidedAt, DecidedAt)>,
}

/// Holders and their places.
impl State {
    /// Renews a live grant, moves it, or changes its mode.
    pub(super) fn renew(
        &mut self,
        edit: &mut Edit,
        own: &Grant,
        wanted: &Wanted,
        force: bool,
    ) -> Effect {
        let others = edit.record.holders.in_the_way() - 1;
        let is_upgrade = match (edit.record.mode, wanted.mode) {
            (Mode::Shared, Mode::Exclusive) if others == 0 || force => true,
            (Mode::Shared, Mode::Exclusive) => {
                return Effect::LockRefused(ForbiddenReason::Shared);
            }
            (Mode::Exclusive, Mode::Shared) => false,
            (from, to) if from == to => false,
            (Mode::Exclusive | Mode::Shared | Mode::Permits, _) => {
                return Effect::LockRefused(ForbiddenReason::ModeDiffers);
            }
        };
        let is_moved = own.session() != wanted.terms.lasts.session();
        let needs_token = is_upgrade || is_moved;
        if needs_token && self.next_token > MAX_SAFE_INTEGER {
            return Effect::TokensExhausted;
        }
        if is_upgrade {
            let others: Vec<Token> = edit.record.holders.iter().map(|grant| grant.token).collect();
            for token in others.into_iter().filter(|token| *token != own.token) {
                self.take_grant(edit, token, TransferReason::Forced);
            }
        }
        if is_moved {
            let position = self.step(edit);
            let news = News::Lost { token: Some(own.token), reason: Loss::Moved };
            self.tell_session_of(own.session(), edit, &wanted.owner, (position, news));
        }
        let token = if needs_token {
            new_token(&mut self.next_token).expect("there is one, see above")
        } else {
            own.token
        };
        let old = own.rare.as_deref();
        let rare = Rare {
            slot: old.and_then(|rare| rare.slot),
            forced: old.and_then(|rare| rare.forced),
            ..Rare::default()
        };
        let level = wanted.level;
        let grant = self.new_grant(&wanted.owner, (token, level, own.since), wanted.terms, &rare);
        if needs_token {
            self.tracker.ended(&edit.key, own, GrantEnd::Replaced);
            self.tracker.granted(&edit.key, &grant, wanted.mode);
            self.drop_grant(edit, own.token);
            self.add_grant(edit, grant);
        } else {
            self.swap_grant(edit, grant);
        }
        edit.record.mode = wanted.mode;
        Effect::Granted { how: Granted::Renewed, token, level }
    }

    /// Takes a place at the end of its level, or refuses because there are too many.
    pub(super) fn join(&mut self, edit: &mut Edit, place: Place) -> Effect {
        let waiting = edit.record.waiting();
        if waiting >= limits::MAX_PLACES_PER_LOCK || !self.totals.have_room_for(&place) {
            return Effect::LockRefused(ForbiddenReason::QueueFull);
        }
        let at = place.at;
        self.tracker.queued(&edit.key, &place);
        self.add_place(edit, place);
        Effect::Waiting(at)
    }

    /// Passes a place on to another request of its owner; the older one is told.
    pub(super) fn supersede(&mut self, edit: &mut Edit, old: &Place, new: &Place) -> Effect {
        let same_request = old.request.is_some() && old.request == new.request;
        let moved = old.session() != new.session();
        self.swap_place(edit, new.clone());
        if moved {
            let position = self.step(edit);
            let news = News::Lost { token: None, reason: Loss::Moved };
            self.tell_session_of(old.session(), edit, &old.owner, (position, news));
        }
        if !same_request {
            let position = self.step(edit);
            let refused = Effect::LockRefused(ForbiddenReason::Superseded);
            self.became(edit, old, (refused, position));
        }
        Effect::Waiting(new.at)
    }

    /// Removes an owner's place because a later request does not need it.
    pub(super) fn drop_superseded(&mut self, edit: &mut Edit, old: &Place) {
        let position = self.step(edit);
        self.drop_place(edit, old.at);
        self.waited(edit, old, WaitEnd::Superseded);
        let refused = Effect::LockRefused(ForbiddenReason::Superseded);
        self.became(edit, old, (refused, position));
    }

    /// Judges a request of an owner without a live grant: the holders that it takes the place of.
    pub(super) fn judge_request(
        record: &Record,
        asker: &Asker<'_>,
    ) -> Result<Vec<Token>, ForbiddenReason> {
        let own = record.holders.of(asker.owner);
        let is_former = own.is_some_and(|own| own.is_delaying() && !own.is_held_out());
        if is_former
            && let Ok(victims) = judge_turn(record, asker)
            && victims.is_empty()
        {
            return Ok(victims);
        }
        let queue = record.queue.as_deref();
        if !asker.force && queue.is_some_and(|queue| is_behind(queue, asker.owner, asker.level)) {
            return Err(ForbiddenReason::Queued);
        }
        judge_turn(record, asker)
    }
}
