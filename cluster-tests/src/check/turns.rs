//! Locks with turns: shared by several, waited for in a queue, or held in sessions.
//!
//! What must hold of any log, from the answers and their places in it alone: no model is replayed,
//! so nothing has to be known of requests without an answer. A fact at a place in an entry holds at
//! the end of that entry if another fact says so of a later one; hand-overs within one entry are not
//! compared, because their places do not tell their order.
//!
//! - Grants that were held at the end of one entry are compatible, and permits are within the limit.
//! - Each token belongs to one grant of one owner, and later grants have larger ones.
//! - Nobody is granted past a place of the same or a higher level that waits before and after.
//! - An exclusive grant that expired was held for its duration and its lock-delay.
//! - A grant that becomes exclusive among others, or goes to another session, has a new token.
//!
//! The rules of sessions themselves are in [`super::sessions`].

use std::collections::{BTreeMap, HashMap, HashSet};

use keyward::types::{DecidedAt, Mode, RequestId, SessionId, TransferReason};
use smol_str::SmolStr;

use super::holders::Found;
use super::sessions::Sessions;
use super::survey::{Survey, is_judged};
use super::time::shortened;
use super::violation::{Broken, seconds};
use crate::history::{
    Action, Answer, Granted, HolderSeen, LockAction, LockName, NewsSeen, Operation, Outcome,
    Status, Turn,
};

/// The most violations kept for each lock.
const MAX_FOUND: usize = 4;

/// The check, fed with operations in the order in which they ended. It keeps them.
pub(super) struct Turns<'a> {
    survey: &'a Survey,
    locks: BTreeMap<LockName, Vec<Operation>>,
}

/// The counts of the check.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) locks: usize,
    pub(super) grants: usize,
    pub(super) places: usize,
    pub(super) sessions: usize,
}

/// Signee and instance.
type Owner = (SmolStr, Option<SmolStr>);

/// A grant in one mode.
#[derive(Clone, Debug)]
struct Held {
    token: u64,
    owner: Owner,
    mode: Mode,
    slot: Option<u32>,
    /// The first and the last entry at whose end it was held.
    from: u64,
    to: u64,
    id: u64,
}

/// A new grant: its place in the log, and the place in the queue that it may have come from.
#[derive(Clone, Copy, Debug)]
struct Given {
    at: DecidedAt,
    token: u64,
    level: i64,
    /// The order among its level; `None` if the request waited at an unknown place.
    order: Option<DecidedAt>,
    forced: bool,
    id: u64,
}

/// A place that is known to have waited at the ends of the entries up to `to`.
#[derive(Clone, Debug)]
struct Waited {
    at: DecidedAt,
    level: i64,
    owner: Owner,
    to: u64,
    id: u64,
}

/// The facts about one lock.
struct Facts<'a> {
    survey: &'a Survey,
    sessions: &'a Sessions<'a>,
    operations: &'a [Operation],
    /// Owners with a request on this lock whose outcome is not known.
    uncertain: HashSet<SmolStr>,
    held: BTreeMap<(u64, Mode), Held>,
    given: Vec<Given>,
    waited: BTreeMap<DecidedAt, Waited>,
    found: Vec<Found>,
}

impl<'a> Turns<'a> {
    pub(super) fn new(survey: &'a Survey) -> Self {
        Self { survey, locks: BTreeMap::new() }
    }

    pub(super) fn feed(&mut self, operation: &Operation) {
        if self.survey.turns.contains(operation.lock()) && is_judged(operation) {
            self.locks.entry(operation.lock().clone()).or_default().push(operation.clone());
        }
    }

    pub(super) fn finish(self) -> (Vec<Found>, Counts) {
        let sessions = Sessions::new(self.survey);
        let mut unknown: HashMap<&LockName, HashSet<SmolStr>> = HashMap::new();
        for operation in &self.survey.unknown_turns {
            let signee = match &operation.action {
                Action::Lock(asked) => sessions.owner_of(asked).0,
                Action::Unlock(asked) => asked.signee.clone(),
                Action::Check(_) | Action::StaleCheck(_) | Action::Read(_) | Action::Write(_) => {
                    continue;
                }
            };
            unknown.entry(operation.lock()).or_default().insert(signee);
        }
        let mut counts = Counts { locks: self.locks.len(), ..Counts::default() };
        let mut found = Vec::new();
        for (lock, operations) in &self.locks {
            let mut facts = Facts {
                survey: self.survey,
                sessions: &sessions,
                operations,
                uncertain: unknown.get(lock).cloned().unwrap_or_default(),
                held: BTreeMap::new(),
                given: Vec::new(),
                waited: BTreeMap::new(),
                found: Vec::new(),
            };
            facts.gather(lock);
            facts.judge();
            counts.grants += facts.given.len();
            counts.places += facts.waited.len();
            facts.found.truncate(MAX_FOUND);
            found.append(&mut facts.found);
        }
        counts.sessions = sessions.count();
        found.extend(sessions.judge(&self.locks));
        (found, counts)
    }
}

impl Facts<'_> {
    fn gather(&mut self, lock: &LockName) {
        let mut asked: HashMap<RequestId, (DecidedAt, i64, Owner)> = HashMap::new();
        for operation in self.operations {
            let (Action::Lock(request), Outcome::Ok(Answer::Waiting(waiting))) =
                (&operation.action, &operation.outcome)
            else {
                continue;
            };
            let (owner, level) = (self.sessions.owner_of(request), request.level.unwrap_or(0));
            if let Some(id) = operation.request_id {
                asked.insert(id, (waiting.place, level, owner.clone()));
            }
            self.waits(waiting.place, (level, owner), waiting.place.index, operation.id);
        }
        for operation in self.operations {
            let Some(at) = operation.decided_at else { continue };
            let known = operation.request_id.and_then(|id| asked.get(&id));
            if let Some((place, level, owner)) = known
                && at.index > place.index
            {
                self.waits(*place, (*level, owner.clone()), at.index - 1, operation.id);
            }
            match (&operation.action, &operation.outcome) {
                (Action::Lock(request), Outcome::Ok(Answer::Granted(granted))) => {
                    self.granted(operation, (at, known.map(|known| known.0)), request, granted);
                }
                (_, Outcome::Ok(Answer::Record(Some(holder)))) => self.seen(operation, at, holder),
                (_, Outcome::Ok(Answer::Queue(queue))) => {
                    for holder in &queue.holders {
                        self.seen(operation, at, holder);
                    }
                    for place in &queue.places {
                        let owner = (place.signee.clone(), place.instance.clone());
                        self.waits(place.place, (place.level, owner), at.index, operation.id);
                    }
                }
                (Action::Unlock(request), Outcome::Ok(Answer::Released)) => {
                    if let Some(token) = request.token {
                        self.released(token, at);
                    }
                }
                _ => {}
            }
        }
        for (at, token, level) in self.sessions.granted(lock) {
            let given = Given { at, token, level, order: None, forced: false, id: u64::MAX };
            self.given.push(given);
        }
        self.given.sort_by_key(|given| (given.at, given.token, given.id));
        self.given.dedup_by_key(|given| (given.at, given.token));
    }

    fn waits(&mut self, at: DecidedAt, (level, owner): (i64, Owner), to: u64, id: u64) {
        let waited = self.waited.entry(at).or_insert(Waited { at, level, owner, to, id });
        waited.to = waited.to.max(to);
    }

    fn granted(
        &mut self,
        operation: &Operation,
        (at, place): (DecidedAt, Option<DecidedAt>),
        request: &LockAction,
        granted: &Granted,
    ) {
        let owner = self.sessions.owner_of(request);
        // The terms of a grant that has ended are not in its answer.
        if granted.live {
            let terms = (granted.token, granted.mode, granted.slot);
            self.holds(operation, at, &owner, terms);
        }
        if granted.status == Status::Renewed {
            return;
        }
        let forced = request.force
            || matches!(&granted.status, Status::Transferred { reason, .. }
                if *reason == TransferReason::Forced);
        let tried = (request.turn.wait_ms == 0).then_some(at);
        self.given.push(Given {
            at,
            token: granted.token,
            level: granted.level,
            order: place.or(tried),
            forced,
            id: operation.id,
        });
    }

    fn seen(&mut self, operation: &Operation, at: DecidedAt, holder: &HolderSeen) {
        if !holder.expired {
            let owner = (holder.signee.clone(), holder.instance.clone());
            self.holds(operation, at, &owner, (holder.token, holder.mode, holder.slot));
        }
    }

    fn holds(
        &mut self,
        operation: &Operation,
        at: DecidedAt,
        owner: &Owner,
        (token, mode, slot): (u64, Mode, Option<u32>),
    ) {
        let (id, to) = (operation.id, held_until(at));
        let new = Held { token, owner: owner.clone(), mode, slot, from: at.index, to, id };
        let held = self.held.entry((token, mode)).or_insert(new);
        held.from = held.from.min(at.index);
        held.to = held.to.max(to);
        if held.owner != *owner || held.slot != slot {
            let (first, what) =
                (held.id, format!("token {token} is {}'s and {}'s", held.owner.0, owner.0));
            self.report(Broken::TokenReused, what, vec![first, id]);
        }
    }

    /// A grant that was released was there until then.
    fn released(&mut self, token: u64, at: DecidedAt) {
        let of_token = self.held.range_mut((token, Mode::Exclusive)..=(token, Mode::Permits));
        // It may have become a shared one by a request without an answer.
        let last = of_token.map(|(_, held)| held).max_by_key(|held| held.from);
        if let Some(held) = last.filter(|held| !self.uncertain.contains(&held.owner.0)) {
            held.to = held.to.max(held_until(at));
        }
    }

    fn judge(&mut self) {
        self.overlaps();
        self.permits();
        self.tokens();
        self.overtaken();
        self.ends();
        self.kept();
    }

    fn overlaps(&mut self) {
        let mut all: Vec<Held> =
            self.held.values().filter(|held| held.from <= held.to).cloned().collect();
        all.sort_by_key(|held| (held.from, held.token));
        let mut beside: Vec<Held> = Vec::new();
        for held in all {
            beside.retain(|other| other.to >= held.from);
            for other in beside.iter().filter(|other| other.token != held.token) {
                let slots = held.mode == Mode::Permits && held.slot == other.slot;
                let alone = held.mode == Mode::Exclusive || held.mode != other.mode;
                if slots || alone || held.owner == other.owner {
                    let what = format!(
                        "{} ({}, token {}) and {} ({}, token {}) held it at the end of entry {}",
                        other.owner.0,
                        other.mode.word(),
                        other.token,
                        held.owner.0,
                        held.mode.word(),
                        held.token,
                        held.from,
                    );
                    self.report(Broken::TwoHolders, what, vec![other.id, held.id]);
                }
            }
            beside.push(held);
        }
    }

    /// No permit has a number beyond every limit that was named.
    fn permits(&mut self) {
        let asked = self.operations.iter().filter_map(asked_turn);
        let limits = asked.filter_map(|turn| turn.limit);
        let Some(limit) = limits.max() else { return };
        let beyond = self.held.values().find(|held| held.slot.is_some_and(|slot| slot >= limit));
        if let Some(held) = beyond {
            let what = format!(
                "{} holds permit number {}, and the limit is {limit}",
                held.owner.0,
                held.slot.unwrap_or_default()
            );
            let ids = vec![held.id];
            self.report(Broken::TwoHolders, what, ids);
        }
    }

    fn tokens(&mut self) {
        let mut latest: Option<Given> = None;
        for given in self.given.clone() {
            let Some(last) = latest else {
                latest = Some(given);
                continue;
            };
            let what = format!(
                "token {} at {}, after {} at {}",
                given.token, given.at, last.token, last.at
            );
            if given.at.index > last.at.index && given.token <= last.token {
                self.report(Broken::TokenNotGrowing, what, vec![last.id, given.id]);
            }
            if given.token > last.token {
                latest = Some(given);
            }
        }
    }

    fn overtaken(&mut self) {
        let waited: Vec<Waited> = self.waited.values().cloned().collect();
        for place in waited {
            let first = self.given.partition_point(|given| given.at.index <= place.at.index);
            let others = self.given[first..].iter().take_while(|given| given.at.index <= place.to);
            let before = |given: &&Given| {
                let later = given.order.is_some_and(|order| order > place.at);
                !given.forced
                    && (given.level < place.level || (given.level == place.level && later))
            };
            let is_other = |given: &&Given| {
                let mut held = self.held.values().filter(|held| held.token == given.token);
                held.any(|held| held.owner != place.owner)
            };
            // Whoever has a lower level comes later, wherever it waited.
            if let Some(given) = others.filter(before).find(is_other).copied() {
                let what = format!(
                    "token {} was given at {} on level {}, and {} waited at {} on level {} before \
                     and after",
                    given.token, given.at, given.level, place.owner.0, place.at, place.level
                );
                self.report(Broken::Overtaken, what, vec![place.id, given.id]);
            }
        }
    }

    /// Exclusive grants that were taken over because they had expired.
    fn ends(&mut self) {
        let operations = self.operations;
        for operation in operations {
            let (Some(granted), Some(at)) = (operation.granted(), operation.decided_at) else {
                continue;
            };
            let Status::Transferred { previous_signee, reason: TransferReason::Expired } =
                &granted.status
            else {
                continue;
            };
            let tokens = self.held.range(..(granted.token, Mode::Exclusive));
            let Some((_, former)) = tokens.last() else { continue };
            // Another grant may have come between that is known from an inbox alone.
            let between = former.token + 1..granted.token;
            let is_certain = !self.given.iter().any(|given| between.contains(&given.token))
                && former.owner.0 == *previous_signee
                && former.mode == Mode::Exclusive
                && !self.uncertain.contains(previous_signee)
                && !self.may_have_been_given(previous_signee, at);
            if !is_certain {
                continue;
            }
            let (token, ended) = (former.token, self.end_of(former.token, at));
            let returned = operation.returned.unwrap_or(u64::MAX);
            if let Some((end, id)) = ended
                && returned < end
            {
                let what = format!(
                    "token {token} with its lock-delay lasted until {}, and the lock was given as \
                     expired by {}",
                    seconds(end),
                    seconds(returned)
                );
                self.report(Broken::EarlyExpiry, what, vec![id, operation.id]);
            }
        }
    }

    /// Whether a place of this signee may have become a grant before a place in the log without an
    /// answer that says so: its caller has not asked again, and was told nothing.
    fn may_have_been_given(&self, signee: &SmolStr, before: DecidedAt) -> bool {
        let mut places = self.waited.values();
        places.any(|place| {
            let mut given = self.given.iter();
            place.owner.0 == *signee
                && place.at < before
                && !given.any(|given| given.order == Some(place.at))
        })
    }

    /// The earliest time at which a grant and its lock-delay may be over, as its last renewal before
    /// a place in the log has it.
    fn end_of(&self, token: u64, before: DecidedAt) -> Option<(u64, u64)> {
        let renewals = self.operations.iter().filter(|operation| {
            operation.granted().is_some_and(|granted| granted.token == token)
                && operation.decided_at.is_some_and(|at| at.index < before.index)
        });
        let mut renewals: Vec<&Operation> = renewals.collect();
        renewals.sort_by_key(|operation| operation.decided_at);
        let mut delay = 0;
        for operation in &renewals {
            let Action::Lock(asked) = &operation.action else { continue };
            delay = asked.turn.lock_delay_ms.unwrap_or(delay);
        }
        let last = *renewals.last()?;
        let Action::Lock(asked) = &last.action else { return None };
        let clocks = self.survey.header.clocks;
        let repeated = last.request_id.and_then(|id| self.survey.repeated.get(&id));
        let invoked = repeated.map_or(last.invoked, |repeated| repeated.invoked);
        // A renewal by token stays in its session without naming it.
        let mut named = renewals.iter().rev().filter_map(|operation| asked_turn(operation));
        let session = named.find_map(|turn| turn.session);
        let (from, length) = match session {
            None => (invoked, asked.duration_ms),
            Some(_) if asked.turn.session.is_none() => return None,
            Some(session) => self.sessions.lasts(session, before)?,
        };
        Some((from.saturating_add(shortened(length.saturating_add(delay), clocks)), last.id))
    }

    /// Grants that kept a token where they had to get a new one.
    fn kept(&mut self) {
        let mut before: HashMap<u64, (DecidedAt, Mode, Option<SessionId>, u64)> = HashMap::new();
        let mut all: Vec<&Operation> = self.operations.iter().collect();
        all.sort_by_key(|operation| operation.decided_at);
        for operation in all {
            let (Action::Lock(asked), Some(granted), Some(at)) =
                (&operation.action, operation.granted(), operation.decided_at)
            else {
                continue;
            };
            if !granted.live {
                continue;
            }
            let session = asked.turn.session;
            if let Some((first, mode, other, id)) = before.get(&granted.token).copied()
                && first.index < at.index
            {
                let raised = mode == Mode::Shared && granted.mode == Mode::Exclusive;
                let moved = session.is_some() && other.is_some() && session != other;
                if raised || moved {
                    let what = format!(
                        "token {} was kept when its grant {}",
                        granted.token,
                        if raised { "became exclusive" } else { "moved to another session" }
                    );
                    self.report(Broken::TokenKept, what, vec![id, operation.id]);
                }
            }
            let session = session.or(before.get(&granted.token).and_then(|known| known.2));
            before.insert(granted.token, (at, granted.mode, session, operation.id));
        }
    }

    fn report(&mut self, broken: Broken, what: String, ids: Vec<u64>) {
        if self.found.len() < MAX_FOUND {
            self.found.push(Found { broken, what, ids });
        }
    }
}

/// The last entry at whose end something holds that is seen at a place: a read sees whole entries.
fn held_until(at: DecidedAt) -> u64 {
    if at.position == u32::MAX { at.index } else { at.index.saturating_sub(1) }
}

fn asked_turn(operation: &Operation) -> Option<&Turn> {
    if let Action::Lock(asked) = &operation.action { Some(&asked.turn) } else { None }
}

/// Whether an item of an inbox says that a place was granted.
pub(super) fn granted_item(news: &NewsSeen) -> Option<(u64, i64)> {
    match news {
        NewsSeen::Granted { token, level, .. } => Some((*token, *level)),
        NewsSeen::Ended(_) | NewsSeen::Lost { .. } => None,
    }
}
