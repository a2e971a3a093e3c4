//! A second lock machine, written from the contract alone: for tests and fuzzing.
//!
//! It shares no code with the machine it judges, only the types. It has no index, no portions of
//! work and no encodings: everything that is due is looked for in all locks and sessions, one thing
//! after the other, and a queue is a list that is searched.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use crate::gate::{Gate, Refused};
use keyward_core::access::Principal;
use keyward_core::lock::{
    Command, Keep, LockCommand, Operation, Outcome, Proposal, Refusal, SessionCommand,
    UnlockCommand,
};
use keyward_core::types::{
    CloseStatus, DecidedAt, Forbidden, ForbiddenReason, Grant, Holder, InboxItem, ListRequest,
    Liveness, LockRecord, LockStatus, Loss, Mode, News, Place, RecordState, RequestId, Seen,
    Session, SessionId, SessionStatus, TableDefaults, TableInfo, TablesRequest, TimeToLive, Token,
    TransferReason, UnlockStatus, Waiting,
};

/// The oracle's result of a command, without the reason of a bad request. A result that a step
/// brought has no position of its own but the entry.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Said {
    Outcome(Outcome, Where),
    BadRequest,
    /// Refused by access control, for whatever reason in words.
    Denied(Refused),
}

/// The entry, and the command in it unless a step has decided.
pub(crate) type Where = (u64, Option<u32>);

/// A fact of an inbox: its position if it was told, the lock, the owner and the news.
type Fact = (Option<DecidedAt>, Name, Owner, News);

/// The end of a place.
#[derive(Clone, PartialEq, Debug)]
pub struct Became {
    /// Its name.
    pub place: DecidedAt,
    /// The position of its last ask.
    pub ask: DecidedAt,
    /// The id of the last ask.
    pub request_id: Option<RequestId>,
    /// The answer to the request.
    pub outcome: Outcome,
}

#[derive(Default, Debug)]
pub(crate) struct Oracle {
    now: u64,
    tokens_given: u64,
    level: u32,
    locks: BTreeMap<Name, Lock>,
    tables: BTreeMap<String, Table>,
    lanes: BTreeMap<u128, Remembered>,
    sessions: BTreeMap<SessionId, Life>,
    at: DecidedAt,
    own: Option<CameOfIt>,
    pub(crate) gate: Gate,
    pub(crate) became: Vec<Became>,
}

/// Table and signature.
type Name = (String, String);
/// Signee and instance.
type Owner = (String, Option<String>);

#[derive(Clone, Copy, Default, Debug)]
struct Table {
    duration: Option<u64>,
    time_to_live: Option<Keep>,
    delay: Option<u64>,
    hold: Option<u64>,
}

#[derive(Clone, Default, Debug)]
struct Lock {
    mode: Mode,
    limit: u32,
    grants: Vec<Held>,
    places: Vec<Wait>,
}

#[derive(Clone, Debug)]
struct Held {
    owner: Owner,
    level: i64,
    token: u64,
    since: u64,
    /// Never, if it is none: the session decides.
    expires_at: Option<u64>,
    removed_at: Option<u64>,
    expired: bool,
    session: Option<SessionId>,
    keep: Keep,
    delay: u64,
    hold_end: Option<u64>,
    slot: Option<u32>,
    forced: Option<DecidedAt>,
    asked: Option<(DecidedAt, DecidedAt)>,
}

#[derive(Clone, Debug)]
struct Wait {
    owner: Owner,
    level: i64,
    mode: Mode,
    at: DecidedAt,
    since: u64,
    end: u64,
    ask: DecidedAt,
    asked: u64,
    id: Option<RequestId>,
    terms: Terms,
}

#[derive(Clone, Copy, Debug)]
struct Terms {
    duration: u64,
    session: Option<SessionId>,
    keep: Keep,
    delay: u64,
    hold: Option<u64>,
}

#[derive(Clone, Debug)]
struct Life {
    ttl: u64,
    end: u64,
    owner: Owner,
    actor: Option<String>,
    /// Whether it was closed, once it has ended.
    ended: Option<bool>,
    /// Facts, with their positions once these were told.
    inbox: Vec<Fact>,
}

#[derive(Clone, Debug)]
struct Remembered {
    seq: u64,
    asked: Operation,
    came_of_it: CameOfIt,
    at: Where,
    used: u64,
}

/// The part of a result that a repeated request gets again, whatever happens in between.
#[derive(Clone, Debug)]
enum CameOfIt {
    Locked {
        how: How,
        token: u64,
        level: i64,
    },
    Waits(DecidedAt),
    NotLocked(ForbiddenReason),
    NotUnlocked(ForbiddenReason),
    Opened(SessionId),
    /// A result without anything that changes.
    Plain(Outcome),
    /// A bad request that another state would have granted.
    Wrong,
}

#[derive(Clone, Debug)]
enum How {
    Free,
    Mine,
    From(String, TransferReason),
}

const DAY: u64 = 86_400_000;

fn later(from: u64, ms: u64) -> u64 {
    from + ms * 1000
}

fn kept(from: u64, keep: Keep) -> Option<u64> {
    match keep {
        Keep::Ms(ms) => Some(later(from, ms)),
        Keep::ForEver => None,
    }
}

impl Held {
    fn delaying(&self) -> bool {
        self.expired && self.delay > 0
    }

    fn in_the_way(&self) -> bool {
        !self.expired || self.delaying()
    }

    /// Its longest hold has ended it.
    fn held_out(&self) -> bool {
        self.hold_end.is_some_and(|end| self.expires_at.is_some_and(|at| at >= end))
    }

    fn due(&self) -> Option<u64> {
        if !self.expired {
            self.expires_at
        } else if self.delay > 0 {
            self.expires_at.map(|at| later(at, self.delay))
        } else {
            self.removed_at
        }
    }
}

impl Lock {
    fn head(&self) -> Option<&Wait> {
        self.places.iter().min_by_key(|place| (Reverse(place.level), place.at))
    }

    fn rank(&self, at: DecidedAt) -> u64 {
        let mut order: Vec<_> =
            self.places.iter().map(|place| (Reverse(place.level), place.at)).collect();
        order.sort();
        let rank = order.iter().position(|(_, place)| *place == at);
        rank.map_or(0, |rank| rank as u64 + 1)
    }

    /// Those who must go for an owner to come, or why it may not.
    fn victims(
        &self,
        owner: &Owner,
        (mode, level, limit): (Mode, i64, u32),
        force: bool,
        place: Option<DecidedAt>,
    ) -> Result<Vec<u64>, ForbiddenReason> {
        let others: Vec<&Held> = self
            .grants
            .iter()
            .filter(|held| held.in_the_way())
            .filter(|held| held.owner != *owner || (held.held_out() && !force))
            .collect();
        let too_many = if mode != self.mode || mode == Mode::Exclusive {
            others.len()
        } else if mode == Mode::Shared {
            0
        } else {
            (others.len() + 1).saturating_sub(limit as usize)
        };
        if too_many == 0 {
            return Ok(Vec::new());
        }
        let mut live: Vec<&Held> = others.iter().copied().filter(|held| !held.expired).collect();
        live.sort_by_key(|held| (held.level, Reverse(held.token)));
        let mut delaying: Vec<&Held> = others.iter().copied().filter(|held| held.expired).collect();
        delaying.sort_by_key(|held| held.token);
        if force {
            let all = live.into_iter().chain(delaying);
            return Ok(all.take(too_many).map(|held| held.token).collect());
        }
        let chosen: Vec<&Held> = live.iter().copied().take(too_many).collect();
        if chosen.iter().any(|held| held.level >= level) {
            return Err(ForbiddenReason::Held);
        }
        if chosen.len() < too_many {
            return Err(ForbiddenReason::Delay);
        }
        if place.is_some_and(|at| chosen.iter().any(|held| held.forced > Some(at))) {
            return Err(ForbiddenReason::Held);
        }
        Ok(chosen.iter().map(|held| held.token).collect())
    }
}

impl Oracle {
    pub(crate) fn apply(&mut self, term: u64, index: u64, proposal: &Proposal) -> Vec<Said> {
        let mut said = Vec::new();
        self.became.clear();
        let stale = proposal.stamp.term != term;
        self.at = DecidedAt { index, position: u32::MAX };
        if !stale {
            self.now = self.now.max(proposal.stamp.time.0);
            while self.pass_one() {}
        }
        for (number, command) in proposal.commands.iter().enumerate() {
            let position = u32::try_from(number).expect("they are few");
            self.at = DecidedAt { index, position };
            said.push(if stale {
                Said::Outcome(Outcome::Refused(Refusal::StaleStamp), (index, Some(position)))
            } else {
                self.one(command)
            });
        }
        said
    }

    pub(crate) fn feature_level(&self) -> u32 {
        self.level.max(1)
    }

    /// Learns the positions of the facts that a session was told. A later command of the same entry
    /// may have put another fact in the place of one.
    pub(crate) fn learn(&mut self, id: SessionId, told: &[InboxItem]) {
        let Some(life) = self.sessions.get_mut(&id) else { return };
        // They are told in order, so that each search begins where the last one ended.
        let mut next = 0;
        for item in told {
            let is_it = |(_, (table, signature), (signee, instance), news): &Fact| {
                (&item.table, &item.signature, &item.signee) == (table, signature, signee)
                    && item.instance == *instance
                    && item.news == *news
            };
            let behind = life.inbox.iter().skip(next).position(is_it).map(|at| next + at);
            if let Some(at) = behind.or_else(|| life.inbox.iter().position(is_it)) {
                life.inbox[at].0 = Some(item.position);
                next = at + 1;
            }
        }
    }

    // What is due.

    /// Works off the first thing that is due anywhere; `false` if nothing is.
    fn pass_one(&mut self) -> bool {
        let due_of = |lock: &Lock| {
            let grants = lock.grants.iter().filter_map(Held::due);
            grants.chain(lock.places.iter().map(|place| place.end)).min()
        };
        let locks = self.locks.iter().filter_map(|(name, lock)| Some((due_of(lock)?, name)));
        let lock = locks.min().filter(|(due, _)| *due <= self.now);
        let lock = lock.map(|(due, name)| (due, name.clone()));
        let sessions = self.sessions.iter().map(|(id, life)| (life.end, *id));
        let session = sessions.min().filter(|(end, _)| *end <= self.now);
        match (lock, session) {
            (Some((due, _)), Some((end, id))) if end < due => self.pass_session(id),
            (Some((_, name)), _) => self.pass_lock(&name),
            (None, Some((_, id))) => self.pass_session(id),
            (None, None) => return false,
        }
        true
    }

    /// The first due thing of a lock: ends of grants, then ends of sessions, then time-outs.
    fn pass_lock(&mut self, name: &Name) {
        let lock = &self.locks[name];
        let grant = lock.grants.iter().filter_map(|held| Some((held.due()?, 0, held.token)));
        let grant = grant.min();
        let dead = self.sessions.iter().filter(|(id, life)| {
            life.end <= self.now
                && (lock.grants.iter().any(|held| held.session == Some(**id))
                    || lock.places.iter().any(|place| place.terms.session == Some(**id)))
        });
        let dead = dead.map(|(id, life)| (life.end, *id)).min();
        let place = lock.places.iter().map(|place| (place.end, place.at)).min();
        let first = [
            grant.map(|(due, ..)| (due, 0)),
            dead.map(|(end, _)| (end, 1)),
            place.map(|(end, _)| (end, 2)),
        ];
        match first.into_iter().flatten().min() {
            Some((_, 0)) => {
                let (_, _, token) = grant.expect("it is first");
                let held = self.held_mut(name, token);
                if !held.expired {
                    let at = held.expires_at.expect("it is due");
                    self.end_grant(name, token, at, false);
                } else if held.delaying() && self.locks[name].mode == Mode::Exclusive {
                    self.held_mut(name, token).delay = 0;
                } else {
                    self.drop_grant(name, token);
                }
            }
            Some((end, 1)) => self.end_in_session(name, dead.expect("it is first").1, end),
            Some(_) => {
                let at = place.expect("it is first").1;
                self.end_place(name, at, ForbiddenReason::Timeout);
            }
            None => unreachable!("it is due"),
        }
        self.hand_over(name);
    }

    /// Marks a session that has ended, or ends what it has in its next lock.
    fn pass_session(&mut self, id: SessionId) {
        let life = &self.sessions[&id];
        if life.ended.is_none() {
            self.sessions.get_mut(&id).expect("it is there").ended = Some(false);
        } else if let Some(name) = self.next_of(id) {
            let end = life.end;
            self.end_in_session(&name, id, end);
            self.hand_over(&name);
        }
        if self.next_of(id).is_none() {
            self.sessions.remove(&id);
        }
    }

    /// The locks in which somebody may wait or share come first.
    fn next_of(&self, id: SessionId) -> Option<Name> {
        let mine = self.locks.iter().filter(|(_, lock)| {
            lock.grants.iter().any(|held| held.session == Some(id))
                || lock.places.iter().any(|place| place.terms.session == Some(id))
        });
        let mine = mine
            .map(|(name, lock)| (lock.places.is_empty() && lock.grants.len() < 2, name.clone()));
        mine.min().map(|(_, name)| name)
    }

    fn end_in_session(&mut self, name: &Name, id: SessionId, end: u64) {
        let closed = self.sessions[&id].ended == Some(true);
        let lock = &self.locks[name];
        let mut tokens: Vec<u64> = lock
            .grants
            .iter()
            .filter(|held| held.session == Some(id))
            .map(|held| held.token)
            .collect();
        tokens.sort_unstable();
        let mut places: Vec<DecidedAt> = lock
            .places
            .iter()
            .filter(|place| place.terms.session == Some(id))
            .map(|place| place.at)
            .collect();
        places.sort_unstable();
        for token in tokens {
            self.end_grant(name, token, end, closed);
        }
        for at in places {
            self.end_place(name, at, ForbiddenReason::SessionLost);
        }
    }

    fn held_mut(&mut self, name: &Name, token: u64) -> &mut Held {
        let lock = self.locks.get_mut(name).expect("there is such a lock");
        lock.grants.iter_mut().find(|held| held.token == token).expect("there is such a grant")
    }

    fn drop_grant(&mut self, name: &Name, token: u64) {
        let lock = self.locks.get_mut(name).expect("there is such a lock");
        lock.grants.retain(|held| held.token != token);
        self.tidy(name);
    }

    fn tidy(&mut self, name: &Name) {
        let Some(lock) = self.locks.get_mut(name) else { return };
        if lock.grants.is_empty() {
            lock.mode = Mode::Exclusive;
        }
        let waits = lock.places.iter().any(|place| place.mode == Mode::Permits);
        if lock.mode != Mode::Permits && !waits {
            lock.limit = 0;
        }
        if lock.grants.is_empty() && lock.places.is_empty() {
            self.locks.remove(name);
        }
    }

    fn end_grant(&mut self, name: &Name, token: u64, at: u64, closed: bool) {
        let mode = self.locks[name].mode;
        let held = self.held_mut(name, token).clone();
        if closed {
            return self.drop_grant(name, token);
        }
        if held.expires_at == Some(at) {
            let news = News::Lost { token: Some(Token(token)), reason: Loss::Expired };
            self.tell(held.session, name, &held.owner, news);
        }
        if mode != Mode::Exclusive && held.delay == 0 {
            return self.drop_grant(name, token);
        }
        let changed = self.held_mut(name, token);
        changed.expired = true;
        if changed.session.take().is_some() {
            changed.expires_at = Some(at);
            changed.removed_at = kept(at, held.keep);
        }
    }

    fn take(&mut self, name: &Name, token: u64, loss: Loss) -> Held {
        let held = self.held_mut(name, token).clone();
        self.drop_grant_only(name, token);
        let news = News::Lost { token: Some(Token(token)), reason: loss };
        self.tell(held.session, name, &held.owner, news);
        held
    }

    fn drop_grant_only(&mut self, name: &Name, token: u64) {
        let lock = self.locks.get_mut(name).expect("there is such a lock");
        lock.grants.retain(|held| held.token != token);
    }

    fn tell(&mut self, session: Option<SessionId>, name: &Name, owner: &Owner, news: News) {
        let Some(life) = session.and_then(|id| self.sessions.get_mut(&id)) else { return };
        if life.ended.is_none() {
            life.inbox.retain(|(_, of, told, _)| of != name || told != owner);
            life.inbox.push((None, name.clone(), owner.clone(), news));
        }
    }

    fn end_place(&mut self, name: &Name, at: DecidedAt, reason: ForbiddenReason) {
        let lock = self.locks.get_mut(name).expect("there is such a lock");
        let index = lock.places.iter().position(|place| place.at == at).expect("it waits");
        let place = lock.places.remove(index);
        self.tell(place.terms.session, name, &place.owner, News::Ended(reason));
        self.came(name, &place, CameOfIt::NotLocked(reason));
        self.tidy(name);
    }

    /// Tells the last ask of a place what came of it.
    fn came(&mut self, name: &Name, place: &Wait, came_of_it: CameOfIt) {
        let outcome = self.lock_answer(self.locks.get(name), &came_of_it, place.asked);
        self.became.push(Became { place: place.at, ask: place.ask, request_id: place.id, outcome });
        if place.ask == self.at {
            self.own = Some(came_of_it.clone());
        }
        if let Some(id) = place.id
            && let Some(lane) = self.lanes.get_mut(&id.lane)
            && lane.seq == id.seq
            && matches!(lane.came_of_it, CameOfIt::Waits(at) if at == place.at)
        {
            lane.came_of_it = came_of_it;
            lane.at = (self.at.index, None);
        }
    }

    fn hand_over(&mut self, name: &Name) {
        while let Some(lock) = self.locks.get(name) {
            let Some(head) = lock.head().cloned() else { break };
            if head.terms.session.is_some_and(|id| !self.lives(id)) {
                self.end_place(name, head.at, ForbiddenReason::SessionLost);
                continue;
            }
            let wish = (head.mode, head.level, lock.limit);
            let Ok(victims) = lock.victims(&head.owner, wish, false, Some(head.at)) else { break };
            let limit = lock.limit;
            let lock = self.locks.get_mut(name).expect("it is there");
            lock.places.retain(|place| place.at != head.at);
            let asked = head.terms.session.is_none().then_some((head.at, head.ask));
            let wish = Wish { level: head.level, mode: head.mode, limit, terms: head.terms };
            let (came_of_it, slot) = self.give(name, &head.owner, wish, &victims, None, asked);
            if let CameOfIt::Locked { token, level, .. } = came_of_it {
                let news = News::Granted { token: Token(token), level, mode: head.mode, slot };
                self.tell(head.terms.session, name, &head.owner, news);
            }
            self.came(name, &head, came_of_it);
        }
        self.tidy(name);
    }

    fn lives(&self, id: SessionId) -> bool {
        self.sessions.get(&id).is_some_and(|life| life.ended.is_none() && self.now < life.end)
    }

    fn give(
        &mut self,
        name: &Name,
        owner: &Owner,
        wish: Wish,
        victims: &[u64],
        forced: Option<DecidedAt>,
        asked: Option<(DecidedAt, DecidedAt)>,
    ) -> (CameOfIt, Option<u32>) {
        self.locks.entry(name.clone()).or_default();
        let (loss, reason) = if forced.is_some() {
            (Loss::Forced, TransferReason::Forced)
        } else {
            (Loss::Preempted, TransferReason::Preempted)
        };
        let mut taken: Vec<Held> =
            victims.iter().map(|token| self.take(name, *token, loss)).collect();
        taken.sort_by_key(|held| held.token);
        let lock = self.locks.get_mut(name).expect("it was put there");
        let was_mine = lock.grants.iter().any(|held| held.owner == *owner);
        lock.grants.retain(|held| held.owner != *owner);
        let left_over = lock.grants.iter().position(|held| !held.in_the_way());
        let left_over = left_over.map(|at| lock.grants.remove(at));
        let how = match (was_mine, left_over, taken.pop()) {
            (true, ..) => How::Mine,
            (false, Some(expired), _) => How::From(expired.owner.0, TransferReason::Expired),
            (false, None, Some(newest)) => How::From(newest.owner.0, reason),
            (false, None, None) => How::Free,
        };
        let taken_slots: Vec<u32> = lock.grants.iter().filter_map(|held| held.slot).collect();
        let free = (0..=u32::MAX).find(|slot| !taken_slots.contains(slot)).expect("there are many");
        let slot = (wish.mode == Mode::Permits).then_some(free);
        lock.mode = wish.mode;
        lock.limit = wish.limit;
        self.tokens_given += 1;
        let given = self.tokens_given;
        let held = self.new_held(owner, (given, self.now), wish, (slot, forced, asked));
        self.locks.get_mut(name).expect("it was put there").grants.push(held);
        (CameOfIt::Locked { how, token: given, level: wish.level }, slot)
    }

    fn new_held(
        &self,
        owner: &Owner,
        (token, since): (u64, u64),
        wish: Wish,
        (slot, forced, asked): Marks,
    ) -> Held {
        let terms = wish.terms;
        let hold_end = terms.hold.map(|ms| later(since, ms).max(self.now));
        let own = terms.session.is_none().then(|| later(self.now, terms.duration));
        let removed_at = if terms.session.is_some() { None } else { kept(self.now, terms.keep) };
        Held {
            owner: owner.clone(),
            level: wish.level,
            token,
            since,
            expires_at: own.into_iter().chain(hold_end).min(),
            removed_at,
            expired: false,
            session: terms.session,
            keep: terms.keep,
            delay: terms.delay,
            hold_end,
            slot,
            forced,
            asked,
        }
    }

    // Commands.

    fn one(&mut self, command: &Command) -> Said {
        let here = (self.at.index, Some(self.at.position));
        if command.level() > self.feature_level() {
            return Said::Outcome(Outcome::Refused(Refusal::LevelTooLow), here);
        }
        if let Err(refused) = self.admitted(command) {
            return Said::Denied(refused);
        }
        match &command.operation {
            Operation::Access(change) => {
                return match self.gate.change(change) {
                    Some(changed) => Said::Outcome(Outcome::Access(changed), here),
                    None => Said::BadRequest,
                };
            }
            Operation::Advance => return Said::Outcome(Outcome::Advanced, here),
            Operation::RaiseFeatureLevel(level) => {
                self.level = self.level.max(*level);
                return Said::Outcome(Outcome::FeatureLevel, here);
            }
            Operation::KeepAlive(sessions) => {
                let all = sessions.iter().map(|seen| self.keep_alive(command, *seen)).collect();
                return Said::Outcome(Outcome::KeptAlive(all), here);
            }
            Operation::Lock(_)
            | Operation::Unlock(_)
            | Operation::ConfigureTable(_)
            | Operation::DeleteTable { .. }
            | Operation::OpenSession(_)
            | Operation::CloseSession(_)
            | Operation::Leave(_)
            | Operation::SetLimit(_) => {}
        }
        let asked = without_waits(&command.operation);
        self.own = None;
        let Some(id) = command.request_id else {
            let came_of_it = self.fresh(command);
            return self.finish(command, &came_of_it, here);
        };
        let ten_minutes = 600_000_000;
        let known = self.lanes.get(&id.lane).filter(|lane| self.now < lane.used + ten_minutes);
        if let Some(lane) = known.cloned() {
            if id.seq < lane.seq || (id.seq == lane.seq && asked != lane.asked) {
                return Said::BadRequest;
            }
            if id.seq == lane.seq {
                let used = self.lanes.get_mut(&id.lane).expect("it was found above");
                used.used = self.now;
                self.asked_again(command, &lane.came_of_it);
                // Who waits has asked anew, here.
                let waits = matches!(lane.came_of_it, CameOfIt::Waits(_));
                return self.say(command, &lane.came_of_it, if waits { here } else { lane.at });
            }
        } else if id.seq > 1 {
            return Said::Outcome(Outcome::Refused(Refusal::LaneForgotten(id)), here);
        }
        let came_of_it = self.fresh(command);
        let lane = Remembered {
            seq: id.seq,
            asked,
            came_of_it: came_of_it.clone(),
            at: here,
            used: self.now,
        };
        self.lanes.insert(id.lane, lane);
        self.finish(command, &came_of_it, here)
    }

    fn admitted(&self, command: &Command) -> Result<(), Refused> {
        let life = |id: &SessionId| self.sessions.get(id).filter(|_| self.lives(*id));
        let (mut signee, mut level, mut opener) = (None, 0, Err(()));
        if let Operation::Lock(lock) = &command.operation {
            signee = Some(&*lock.signee)
                .filter(|signee| !signee.is_empty())
                .or_else(|| lock.session.as_ref().and_then(life).map(|life| life.owner.0.as_str()));
            let name = (lock.table.to_string(), lock.signature.to_string());
            let held = self.locks.get(&name).into_iter().flat_map(|lock| &lock.grants);
            let mut held = held.filter(|held| Some(Token(held.token)) == lock.token);
            level = lock.level.or_else(|| held.next().map(|held| held.level)).unwrap_or(0);
        } else if let Operation::CloseSession(id) = &command.operation {
            opener = life(id).map(|life| life.actor.as_deref()).ok_or(());
        }
        self.gate.judge(command, (signee, level), opener)
    }

    /// Hands the lock over, and says what came of the command, which may be granted by that.
    fn finish(&mut self, command: &Command, came_of_it: &CameOfIt, here: Where) -> Said {
        if let Some(name) = name_of(&command.operation) {
            self.hand_over(&name);
        }
        match self.own.take() {
            Some(came_of_it) => self.say(command, &came_of_it, (here.0, None)),
            None => self.say(command, came_of_it, here),
        }
    }

    fn say(&self, command: &Command, came_of_it: &CameOfIt, at: Where) -> Said {
        if matches!(came_of_it, CameOfIt::Wrong) {
            return Said::BadRequest;
        }
        Said::Outcome(self.answer(&command.operation, came_of_it), at)
    }

    fn asked_again(&mut self, command: &Command, came_of_it: &CameOfIt) {
        let Operation::Lock(lock) = &command.operation else { return };
        let name = (lock.table.to_string(), lock.signature.to_string());
        let (now, ask) = (self.now, self.at);
        let Some(found) = self.locks.get_mut(&name) else { return };
        if let CameOfIt::Waits(at) = came_of_it {
            if let Some(place) = found.places.iter_mut().find(|place| place.at == *at) {
                place.end = place.end.max(later(now, lock.wait_ms));
                (place.ask, place.asked) = (ask, now);
            }
        } else if let CameOfIt::Locked { token, .. } = came_of_it
            && let Some(held) = found.grants.iter_mut().find(|held| held.token == *token)
        {
            held.asked = None;
        }
    }

    fn fresh(&mut self, command: &Command) -> CameOfIt {
        if let Some(name) = name_of(&command.operation) {
            let is_due = |lock: &Lock| {
                let grants = lock.grants.iter().filter_map(Held::due);
                grants.chain(lock.places.iter().map(|place| place.end)).any(|due| due <= self.now)
            };
            if self.locks.get(&name).is_some_and(is_due) {
                self.pass_lock(&name);
                return self.fresh(command);
            }
        }
        match &command.operation {
            Operation::Lock(lock) => self.lock(command, lock),
            Operation::Unlock(unlock) => self.unlock(unlock),
            Operation::ConfigureTable(command) => {
                let table = Table {
                    duration: command.duration_ms,
                    time_to_live: command.time_to_live,
                    delay: command.lock_delay_ms,
                    hold: command.max_hold_ms,
                };
                self.tables.insert(command.table.to_string(), table);
                CameOfIt::Plain(Outcome::Table)
            }
            Operation::DeleteTable { table } => self.delete(table),
            Operation::OpenSession(session) => self.open(command, session),
            Operation::CloseSession(id) => self.close(*id),
            Operation::Leave(leave) => {
                let name = (leave.table.to_string(), leave.signature.to_string());
                let lock = self.locks.get(&name).cloned().unwrap_or_default();
                let both = (leave.place, leave.ask);
                let place = lock.places.iter().find(|place| (place.at, place.ask) == both);
                if place.is_some_and(|place| place.terms.session.is_none()) {
                    self.end_place(&name, leave.place, ForbiddenReason::Timeout);
                    return CameOfIt::Plain(Outcome::Left);
                }
                match lock.grants.iter().find(|held| held.asked == Some(both)) {
                    Some(held) => {
                        self.drop_grant(&name, held.token);
                        CameOfIt::Plain(Outcome::Left)
                    }
                    None => CameOfIt::Plain(Outcome::NotLeft),
                }
            }
            Operation::SetLimit(limit) => {
                let name = (limit.table.to_string(), limit.signature.to_string());
                match self.locks.get_mut(&name).filter(|lock| lock.limit > 0) {
                    Some(lock) => {
                        lock.limit = limit.limit;
                        CameOfIt::Plain(Outcome::Limit)
                    }
                    None => CameOfIt::Plain(Outcome::NoLimit),
                }
            }
            Operation::Advance
            | Operation::KeepAlive(_)
            | Operation::Access(_)
            | Operation::RaiseFeatureLevel(_) => {
                unreachable!()
            }
        }
    }

    fn delete(&mut self, table: &str) -> CameOfIt {
        let was_there = self.all_tables().iter().any(|info| info.table == *table);
        let names: Vec<Name> = self.locks.keys().filter(|(of, _)| of == table).cloned().collect();
        for name in names {
            let lock = self.locks[&name].clone();
            let mut places = lock.places.clone();
            places.sort_by_key(|place| (Reverse(place.level), place.at));
            let mut grants = lock.grants.clone();
            grants.sort_by_key(|held| held.token);
            // Whoever waits is not told of holders that have gone with the table.
            for held in &grants {
                self.drop_grant(&name, held.token);
            }
            for place in places {
                self.end_place(&name, place.at, ForbiddenReason::TableDeleted);
            }
            for held in grants {
                let token = Some(Token(held.token));
                let news = News::Lost { token, reason: Loss::TableDeleted };
                self.tell(held.session, &name, &held.owner, news);
            }
        }
        self.tables.remove(table);
        CameOfIt::Plain(if was_there { Outcome::Table } else { Outcome::NoTable })
    }

    fn open(&mut self, command: &Command, session: &SessionCommand) -> CameOfIt {
        let Some(id) = session.id else {
            return CameOfIt::Plain(Outcome::Refused(Refusal::Unnamed));
        };
        if self.sessions.contains_key(&id) {
            return CameOfIt::Wrong;
        }
        let instance = session.instance.as_ref().map_or(id.to_string(), ToString::to_string);
        let life = Life {
            ttl: session.ttl_ms,
            end: later(self.now, session.ttl_ms),
            owner: (session.signee.to_string(), Some(instance)),
            actor: command.actor().map(str::to_owned),
            ended: None,
            inbox: Vec::new(),
        };
        self.sessions.insert(id, life);
        CameOfIt::Opened(id)
    }

    fn close(&mut self, id: SessionId) -> CameOfIt {
        if !self.lives(id) {
            return CameOfIt::Plain(Outcome::Closed(CloseStatus::NoSession));
        }
        let life = self.sessions.get_mut(&id).expect("it lives");
        (life.ended, life.end) = (Some(true), self.now);
        while self.sessions.contains_key(&id) {
            self.pass_session(id);
        }
        CameOfIt::Plain(Outcome::Closed(CloseStatus::Ok))
    }

    fn keep_alive(&mut self, command: &Command, seen: Seen) -> Liveness {
        let is_mine = |life: &&mut Life| life.actor.as_deref() == command.actor();
        let lives = self.lives(seen.session);
        let now = self.now;
        let life = self.sessions.get_mut(&seen.session).filter(|_| lives);
        let Some(life) = life.filter(is_mine) else { return Liveness::Lost };
        life.end = life.end.max(later(now, life.ttl));
        life.inbox.retain(|(position, ..)| {
            seen.seen.is_none_or(|seen| position.is_none_or(|at| at > seen))
        });
        let told = life.inbox.iter().map(|(position, (table, signature), owner, news)| InboxItem {
            position: position.unwrap_or_default(),
            table: table.clone(),
            signature: signature.clone(),
            signee: owner.0.clone(),
            instance: owner.1.clone(),
            news: *news,
        });
        let valid = left(life.end, now);
        Liveness::Alive { valid, inbox: told.collect(), more: false, overflow: false }
    }

    fn lock(&mut self, request: &Command, command: &LockCommand) -> CameOfIt {
        let actor = request.actor().map(str::to_owned);
        let mut owner =
            (command.signee.to_string(), command.instance.as_ref().map(ToString::to_string));
        if let Some(id) = command.session {
            let life = self.sessions.get(&id).filter(|life| life.actor == actor);
            let Some(life) = life.filter(|_| self.lives(id)) else {
                return CameOfIt::NotLocked(ForbiddenReason::SessionLost);
            };
            if owner.0.is_empty() {
                owner.0.clone_from(&life.owner.0);
            }
            owner.1 = owner.1.or_else(|| life.owner.1.clone());
        }
        let table = self.tables.get(&*command.table).copied().unwrap_or_default();
        let duration = command.duration_ms.or(table.duration).unwrap_or(30_000);
        let duration = if command.session.is_some() { 0 } else { duration };
        let keep = match (command.time_to_live, table.time_to_live) {
            (Some(Keep::Ms(explicit)), _) if explicit < duration => return CameOfIt::Wrong,
            (Some(explicit), _) => explicit,
            (None, Some(Keep::ForEver)) => Keep::ForEver,
            (None, Some(Keep::Ms(least))) => Keep::Ms(least.max(duration)),
            (None, None) => Keep::Ms(duration + DAY),
        };
        let mut terms = Terms {
            duration,
            session: command.session,
            keep,
            delay: command.lock_delay_ms.or(table.delay).unwrap_or(0),
            hold: table.hold,
        };
        let name = (command.table.to_string(), command.signature.to_string());
        let lock = self.locks.get(&name).cloned().unwrap_or_default();
        let mine = lock.grants.iter().find(|held| held.owner == owner).cloned();
        if let Some(held) = mine.clone().filter(|held| !held.expired) {
            return self.renew(&name, &held, command, terms, actor.as_ref());
        }
        if command.token.is_some() {
            return CameOfIt::NotLocked(ForbiddenReason::Lost);
        }
        let former = mine.filter(Held::delaying);
        let mode = command.mode.or(former.as_ref().map(|_| lock.mode)).unwrap_or_default();
        let limit = match limit_of(&lock, command, mode) {
            Ok(limit) => limit,
            Err(came_of_it) => return came_of_it,
        };
        if let Some(former) = former.as_ref().filter(|_| command.lock_delay_ms.is_none()) {
            terms.delay = former.delay;
        }
        let level = command.level.unwrap_or(0);
        let place = lock.places.iter().find(|place| place.owner == owner).cloned();
        let place_session = place.as_ref().and_then(|place| place.terms.session);
        if place_session.is_some()
            && place_session != terms.session
            && place_session.and_then(|id| self.sessions.get(&id)).map(|life| &life.actor)
                != Some(&actor)
        {
            return CameOfIt::NotLocked(ForbiddenReason::Held);
        }
        let wish = Wish { level, mode, limit, terms };
        let judged = Self::judge(&lock, &owner, wish, command.force, former.as_ref());
        match judged {
            Ok(victims) => {
                if let Some(place) = place {
                    self.supersede_away(&name, &place);
                }
                let forced = (command.force && !victims.is_empty()).then_some(self.at);
                self.give(&name, &owner, wish, &victims, forced, None).0
            }
            Err(reason) if command.wait_ms == 0 => CameOfIt::NotLocked(reason),
            Err(_) => {
                let wait = Wait {
                    owner,
                    level,
                    mode,
                    at: self.at,
                    since: self.now,
                    end: later(self.now, command.wait_ms),
                    ask: self.at,
                    asked: self.now,
                    id: request.request_id,
                    terms,
                };
                self.queue(&name, wait, place, limit)
            }
        }
    }

    fn judge(
        lock: &Lock,
        owner: &Owner,
        wish: Wish,
        force: bool,
        former: Option<&Held>,
    ) -> Result<Vec<u64>, ForbiddenReason> {
        let Wish { level, mode, limit, .. } = wish;
        let judged = lock.victims(owner, (mode, level, limit), force, None);
        let may_return = former.is_some_and(|held| !held.held_out());
        if may_return && judged == Ok(Vec::new()) {
            return judged;
        }
        let behind = |place: &Wait| place.owner != *owner && place.level >= level;
        if !force && lock.places.iter().any(behind) {
            return Err(ForbiddenReason::Queued);
        }
        judged
    }

    fn queue(&mut self, name: &Name, wait: Wait, old: Option<Wait>, limit: u32) -> CameOfIt {
        let mut wait = wait;
        let alike = old.filter(|old| {
            let same = old.level == wait.level && old.mode == wait.mode;
            let (one, other) = (&old.terms, &wait.terms);
            let lasts =
                one.session.is_some() || other.session.is_some() || one.duration == other.duration;
            if !(same && lasts) {
                self.supersede_away(name, old);
            }
            same && lasts
        });
        if let Some(old) = alike {
            (wait.at, wait.since) = (old.at, old.since);
            let lock = self.locks.get_mut(name).expect("it waits there");
            lock.places.retain(|place| place.at != old.at);
            lock.places.push(wait.clone());
            if old.terms.session != wait.terms.session {
                let news = News::Lost { token: None, reason: Loss::Moved };
                self.tell(old.terms.session, name, &old.owner, news);
            }
            if old.id.is_none() || old.id != wait.id {
                self.came(name, &old, CameOfIt::NotLocked(ForbiddenReason::Superseded));
            }
            return CameOfIt::Waits(wait.at);
        }
        let at = wait.at;
        let lock = self.locks.entry(name.clone()).or_default();
        if wait.mode == Mode::Permits {
            lock.limit = limit;
        }
        lock.places.push(wait);
        CameOfIt::Waits(at)
    }

    fn supersede_away(&mut self, name: &Name, place: &Wait) {
        let lock = self.locks.get_mut(name).expect("it waits there");
        lock.places.retain(|other| other.at != place.at);
        self.came(name, place, CameOfIt::NotLocked(ForbiddenReason::Superseded));
        self.tidy(name);
    }

    fn renew(
        &mut self,
        name: &Name,
        held: &Held,
        command: &LockCommand,
        mut terms: Terms,
        actor: Option<&String>,
    ) -> CameOfIt {
        if command.token.is_some_and(|token| token.0 != held.token) {
            return CameOfIt::NotLocked(ForbiddenReason::Lost);
        }
        let says_nothing = command.session.is_none() && command.duration_ms.is_none();
        if command.token.is_some() && says_nothing && held.session.is_some() {
            (terms.session, terms.keep) = (held.session, held.keep);
        }
        let moves = held.session != terms.session;
        if let Some(id) = held.session
            && moves
            && self.sessions.get(&id).and_then(|life| life.actor.as_ref()) != actor
        {
            return CameOfIt::NotLocked(ForbiddenReason::Held);
        }
        if command.lock_delay_ms.is_none() {
            terms.delay = held.delay;
        }
        let lock = self.locks[name].clone();
        let mode = command.mode.unwrap_or(lock.mode);
        let others: Vec<u64> = lock
            .grants
            .iter()
            .filter(|other| other.token != held.token && other.in_the_way())
            .map(|other| other.token)
            .collect();
        let allowed = [(Mode::Exclusive, Mode::Shared), (Mode::Shared, Mode::Exclusive)];
        if mode != lock.mode && !allowed.contains(&(lock.mode, mode)) {
            return CameOfIt::NotLocked(ForbiddenReason::ModeDiffers);
        }
        let limit = match limit_of(&lock, command, mode) {
            Ok(limit) => limit,
            Err(came_of_it) => return came_of_it,
        };
        let upgrades = (lock.mode, mode) == (Mode::Shared, Mode::Exclusive);
        if upgrades && !others.is_empty() && !command.force {
            return CameOfIt::NotLocked(ForbiddenReason::Shared);
        }
        if upgrades {
            for token in others {
                self.take(name, token, Loss::Forced);
            }
        }
        if moves {
            let news = News::Lost { token: Some(Token(held.token)), reason: Loss::Moved };
            self.tell(held.session, name, &held.owner, news);
        }
        let mut token = held.token;
        if moves || upgrades {
            self.tokens_given += 1;
            token = self.tokens_given;
        }
        let by_token = command.token.map(|_| held.level);
        let level = command.level.or(by_token).unwrap_or(0);
        let wish = Wish { level, mode, limit, terms };
        let marks = (held.slot, held.forced, None);
        let new = self.new_held(&held.owner, (token, held.since), wish, marks);
        let lock = self.locks.get_mut(name).expect("it is held");
        lock.mode = mode;
        lock.grants.retain(|other| other.token != held.token);
        lock.grants.push(new);
        CameOfIt::Locked { how: How::Mine, token, level }
    }

    fn unlock(&mut self, command: &UnlockCommand) -> CameOfIt {
        let name = (command.table.to_string(), command.signature.to_string());
        let owner =
            (command.signee.to_string(), command.instance.as_ref().map(ToString::to_string));
        let lock = self.locks.get(&name).cloned().unwrap_or_default();
        let no_lock = CameOfIt::Plain(Outcome::Unlock(UnlockStatus::NoLock));
        let ok = CameOfIt::Plain(Outcome::Unlock(UnlockStatus::Ok));
        let left = CameOfIt::Plain(Outcome::Unlock(UnlockStatus::Left));
        let lost = CameOfIt::NotUnlocked(ForbiddenReason::Lost);
        let with = |token: Token| lock.grants.iter().find(|held| held.token == token.0);
        if command.force {
            if let Some(held) = command.token.and_then(with).cloned() {
                self.drop_grant(&name, held.token);
                let token = Some(Token(held.token));
                let news = News::Lost { token, reason: Loss::Released };
                self.tell(held.session, &name, &held.owner, news);
                return ok;
            }
            if let Some(at) = command.place
                && lock.places.iter().any(|place| place.at == at)
            {
                self.end_place(&name, at, ForbiddenReason::Lost);
                return left;
            }
            let is_lost = command.token.is_some() && !lock.grants.is_empty();
            return if is_lost { lost } else { no_lock };
        }
        let mine = lock.grants.iter().find(|held| held.owner == owner);
        let place = lock.places.iter().find(|place| place.owner == owner);
        if let Some(held) = mine {
            if command.token.is_some_and(|token| token.0 != held.token) {
                return lost;
            }
            self.drop_grant(&name, held.token);
            return ok;
        }
        if let Some(place) = place {
            if command.token.is_some() {
                return lost;
            }
            self.end_place(&name, place.at, ForbiddenReason::Lost);
            return left;
        }
        match (lock.grants.is_empty(), command.token) {
            (true, _) => no_lock,
            (false, Some(_)) => lost,
            (false, None) => CameOfIt::NotUnlocked(ForbiddenReason::Held),
        }
    }

    // Answers.

    fn answer(&self, asked: &Operation, came_of_it: &CameOfIt) -> Outcome {
        let lock = name_of(asked).and_then(|name| self.locks.get(&name));
        self.lock_answer(lock, came_of_it, self.now)
    }

    fn lock_answer(&self, lock: Option<&Lock>, came_of_it: &CameOfIt, asked: u64) -> Outcome {
        let refusal = |reason| {
            let holders = lock.map(|lock| self.holders(lock)).unwrap_or_default();
            let named = holders.into_iter().take(Forbidden::MAX_HOLDERS).collect();
            let mut forbidden = Forbidden::new(reason, named);
            if reason == ForbiddenReason::LimitDiffers {
                forbidden.limit = lock.map(|lock| lock.limit).filter(|limit| *limit > 0);
            }
            if reason == ForbiddenReason::Delay {
                let delaying = lock.into_iter().flat_map(|lock| &lock.grants);
                let ends = delaying.filter(|held| held.delaying()).filter_map(Held::due);
                forbidden.delay = ends.max().map(|end| left(end, self.now));
            }
            forbidden
        };
        match came_of_it {
            CameOfIt::Locked { how, token, level } => {
                let grant = self.granted(lock, *token, *level, asked);
                Outcome::Lock(match how.clone() {
                    How::Free => LockStatus::Ok(grant),
                    How::Mine => LockStatus::Renewed(grant),
                    How::From(previous_signee, reason) => {
                        LockStatus::Transferred { grant, previous_signee, reason }
                    }
                })
            }
            CameOfIt::Waits(at) => {
                let lock = lock.expect("a lock is waited for");
                let place = lock.places.iter().find(|place| place.at == *at);
                let ends_in = left(place.expect("it waits").end, self.now);
                Outcome::Lock(LockStatus::Waiting(Waiting {
                    place: *at,
                    position: lock.rank(*at),
                    ends_in,
                }))
            }
            CameOfIt::NotLocked(reason) => Outcome::Lock(LockStatus::Failed(refusal(*reason))),
            CameOfIt::NotUnlocked(reason) => {
                Outcome::Unlock(UnlockStatus::Failed(refusal(*reason)))
            }
            CameOfIt::Opened(id) => {
                let life = self.sessions.get(id);
                let lives = life.filter(|_| self.lives(*id));
                Outcome::Session(SessionStatus::Open(Session {
                    id: *id,
                    ttl: Duration::from_millis(life.map_or(0, |life| life.ttl)),
                    valid: lives.map_or(Duration::ZERO, |life| left(life.end, self.now)),
                }))
            }
            CameOfIt::Plain(outcome) => outcome.clone(),
            CameOfIt::Wrong => unreachable!("a bad request has no outcome"),
        }
    }

    fn granted(&self, lock: Option<&Lock>, token: u64, level: i64, asked: u64) -> Grant {
        let held = lock.and_then(|lock| lock.grants.iter().find(|held| held.token == token));
        let seen = held.map(|held| self.seen(lock.map(|lock| lock.mode).unwrap_or_default(), held));
        let live = seen.as_ref().is_some_and(|seen| !seen.expired);
        let end = held.and_then(|held| self.end_of(held)).unwrap_or(u64::MAX);
        Grant {
            token: Token(token),
            level,
            expires_in: seen.as_ref().map_or(Duration::ZERO, |seen| seen.expires_in),
            removed_in: seen.as_ref().map_or(Some(Duration::ZERO), |seen| seen.removed_in),
            live,
            mode: seen.as_ref().map(|seen| seen.mode).unwrap_or_default(),
            slot: seen.as_ref().and_then(|seen| seen.slot),
            valid: if live { left(end, asked) } else { Duration::ZERO },
        }
    }

    fn end_of(&self, held: &Held) -> Option<u64> {
        let session = held.session.and_then(|id| self.sessions.get(&id)).map(|life| life.end);
        held.expires_at.into_iter().chain(session).min()
    }

    fn seen(&self, mode: Mode, held: &Held) -> Holder {
        let end = self.end_of(held).expect("it has an end");
        let removed_at =
            if held.session.is_some() { kept(end, held.keep) } else { held.removed_at };
        Holder {
            signee: held.owner.0.clone(),
            instance: held.owner.1.clone(),
            level: held.level,
            token: Token(held.token),
            expires_in: left(end, self.now),
            expired: self.now >= end,
            removed_in: removed_at.map(|at| left(at, self.now)),
            mode,
            slot: held.slot,
            session: held.session,
        }
    }

    fn holders(&self, lock: &Lock) -> Vec<Holder> {
        let past = |at: Option<u64>| at.is_some_and(|at| at <= self.now);
        let is_gone = |held: &Held| {
            let end = self.end_of(held);
            let removed = match (held.session, end) {
                (Some(_), Some(end)) => kept(end, held.keep),
                _ => held.removed_at,
            };
            let delayed = end.map(|end| later(end, held.delay));
            let life = held.session.and_then(|id| self.sessions.get(&id));
            let is_kept = lock.mode == Mode::Exclusive && !past(removed);
            life.is_some_and(|life| life.ended == Some(true)) || (past(delayed) && !is_kept)
        };
        let mut grants: Vec<&Held> = lock.grants.iter().filter(|held| !is_gone(held)).collect();
        grants.sort_by_key(|held| held.token);
        let mut seen: Vec<Holder> =
            grants.into_iter().map(|held| self.seen(lock.mode, held)).collect();
        // Those that are live come first.
        seen.sort_by_key(|holder| holder.expired);
        seen
    }

    pub(crate) fn check(&self, table: &str, signature: &str) -> Option<LockRecord> {
        self.shown(table, signature, LockRecord::MAX_HOLDERS)
    }

    fn shown(&self, table: &str, signature: &str, most: usize) -> Option<LockRecord> {
        let lock = self.locks.get(&(table.to_owned(), signature.to_owned()))?;
        let holders = self.holders(lock);
        if holders.is_empty() && lock.places.is_empty() {
            return None;
        }
        Some(LockRecord {
            signature: signature.to_owned(),
            more_holders: holders.len().saturating_sub(most) as u64,
            holders: holders.into_iter().take(most).collect(),
            limit: (lock.limit > 0).then_some(lock.limit),
            waiting: lock.places.len() as u64,
            places: Vec::new(),
        })
    }

    pub(crate) fn places(&self, table: &str, signature: &str) -> Vec<Place> {
        let lock = self.locks.get(&(table.to_owned(), signature.to_owned()));
        let Some(lock) = lock else { return Vec::new() };
        let mut places = lock.places.clone();
        places.sort_by_key(|place| (Reverse(place.level), place.at));
        let view = |place: Wait| Place {
            place: place.at,
            position: lock.rank(place.at),
            signee: place.owner.0,
            instance: place.owner.1,
            session: place.terms.session,
            level: place.level,
            mode: place.mode,
            since: Duration::from_micros(self.now - place.since),
        };
        places.into_iter().map(view).collect()
    }

    pub(crate) fn list(
        &self,
        table: &str,
        request: &ListRequest,
    ) -> (Vec<LockRecord>, Option<String>) {
        let mut all: Vec<LockRecord> = Vec::new();
        for (of, signature) in self.locks.keys() {
            let after = request.after.as_ref().is_none_or(|after| signature > after);
            if of == table && after && signature.starts_with(&request.prefix) {
                let record = self.shown(table, signature, LockRecord::MAX_LISTED_HOLDERS);
                let is_held =
                    |record: &LockRecord| record.holders.iter().any(|holder| !holder.expired);
                all.extend(record.filter(|record| match request.state {
                    None => true,
                    Some(RecordState::Held) => is_held(record),
                    Some(RecordState::Expired) => !is_held(record),
                }));
            }
        }
        let limit = request.limit as usize;
        let next = (all.len() > limit).then(|| all[limit - 1].signature.clone());
        all.truncate(limit);
        (all, next)
    }

    /// The page that somebody may see; `None` for a stranger.
    pub(crate) fn list_for(
        &self,
        principal: Option<&Principal>,
        table: &str,
        request: &ListRequest,
    ) -> Option<(Vec<LockRecord>, Option<String>)> {
        let known = self.gate.admit(principal).ok()?;
        let (mut all, _) = self.list(table, &ListRequest { limit: 1000, ..request.clone() });
        if let Some(known) = known {
            all.retain(|record| self.gate.observes(&known, table, &record.signature));
        }
        let limit = request.limit as usize;
        let next = (all.len() > limit).then(|| all[limit - 1].signature.clone());
        all.truncate(limit);
        Some((all, next))
    }

    pub(crate) fn tables(&self, request: &TablesRequest) -> (Vec<TableInfo>, Option<String>) {
        let mut all = self.all_tables();
        all.retain(|info| request.after.as_ref().is_none_or(|after| info.table > *after));
        let limit = request.limit as usize;
        let next = (all.len() > limit).then(|| all[limit - 1].table.clone());
        all.truncate(limit);
        (all, next)
    }

    fn all_tables(&self) -> Vec<TableInfo> {
        let mut infos: BTreeMap<String, TableInfo> = BTreeMap::new();
        let info = |table: &String| TableInfo {
            table: table.clone(),
            defaults: TableDefaults::default(),
            locks: 0,
        };
        for (table, given) in &self.tables {
            let Table { duration, time_to_live, delay, hold } = *given;
            let given = TableDefaults {
                duration: duration.map(Duration::from_millis),
                time_to_live: time_to_live.map(|keep| match keep {
                    Keep::Ms(ms) => TimeToLive::For(Duration::from_millis(ms)),
                    Keep::ForEver => TimeToLive::Never,
                }),
                lock_delay: delay.map(Duration::from_millis),
                max_hold: hold.map(Duration::from_millis),
            };
            if given != TableDefaults::default() {
                infos.entry(table.clone()).or_insert_with(|| info(table)).defaults = given;
            }
        }
        for (table, _) in self.locks.keys() {
            infos.entry(table.clone()).or_insert_with(|| info(table)).locks += 1;
        }
        infos.into_values().collect()
    }
}

/// The terms of a wish to hold a lock.
#[derive(Clone, Copy, Debug)]
struct Wish {
    level: i64,
    mode: Mode,
    limit: u32,
    terms: Terms,
}

/// Slot, force, and the place that a grant was.
type Marks = (Option<u32>, Option<DecidedAt>, Option<(DecidedAt, DecidedAt)>);

fn limit_of(lock: &Lock, command: &LockCommand, mode: Mode) -> Result<u32, CameOfIt> {
    match (mode, command.limit) {
        (Mode::Permits, None) if lock.limit == 0 => Err(CameOfIt::Wrong),
        (Mode::Permits, Some(limit)) if lock.limit != 0 && limit != lock.limit => {
            Err(CameOfIt::NotLocked(ForbiddenReason::LimitDiffers))
        }
        (Mode::Permits, Some(limit)) => Ok(limit),
        _ => Ok(lock.limit),
    }
}

/// Whole milliseconds, rounded down.
fn left(at: u64, now: u64) -> Duration {
    Duration::from_millis(at.saturating_sub(now) / 1000)
}

/// The operation as a repetition is compared with it: waits and drawn names may differ.
fn without_waits(operation: &Operation) -> Operation {
    let mut operation = operation.clone();
    if let Operation::Lock(command) = &mut operation {
        (command.wait_ms, command.queued) = (0, false);
    } else if let Operation::OpenSession(command) = &mut operation {
        command.id = None;
    }
    operation
}

fn name_of(operation: &Operation) -> Option<Name> {
    let name = |table: &str, signature: &str| Some((table.to_owned(), signature.to_owned()));
    match operation {
        Operation::Lock(command) => name(&command.table, &command.signature),
        Operation::Unlock(command) => name(&command.table, &command.signature),
        Operation::Leave(command) => name(&command.table, &command.signature),
        Operation::SetLimit(command) => name(&command.table, &command.signature),
        Operation::Advance
        | Operation::ConfigureTable(_)
        | Operation::DeleteTable { .. }
        | Operation::OpenSession(_)
        | Operation::KeepAlive(_)
        | Operation::CloseSession(_)
        | Operation::Access(_)
        | Operation::RaiseFeatureLevel(_) => None,
    }
}
