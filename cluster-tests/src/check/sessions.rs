//! Sessions: their ends, what is granted in them, and their inboxes.
//!
//! - A session that was seen to have ended is never alive later, and nothing is granted or held in
//!   it.
//! - One that nobody closed has not ended before its time to live has passed since its last
//!   acknowledged keep-alive was invoked.
//! - The items of an inbox ascend, and come after what was seen.
//! - The end of each place is in the inbox of its session until it was seen.

use std::collections::{BTreeMap, HashMap, HashSet};

use keyward::types::{DecidedAt, ForbiddenReason, RequestId, SessionId};
use smol_str::SmolStr;

use super::holders::Found;
use super::survey::Survey;
use super::time::shortened;
use super::turns::granted_item;
use super::violation::{Broken, seconds};
use crate::history::{
    Action, Answer, ItemSeen, LockAction, LockName, Operation, Outcome, Refusal, SessionAction,
    SessionOperation, SessionOutcome,
};

/// The most violations kept.
const MAX_FOUND: usize = 20;

/// All sessions of a history.
pub(super) struct Sessions<'a> {
    survey: &'a Survey,
    lives: BTreeMap<SessionId, Life<'a>>,
}

/// One session.
#[derive(Default)]
struct Life<'a> {
    /// The request that opened it, if its answer is known.
    opened: Option<&'a SessionOperation>,
    kept: Vec<Kept<'a>>,
    /// Whether somebody asked to close it.
    closing: bool,
    /// The first place in the log from which it was said to have ended, and when that was said.
    ended: Option<(DecidedAt, u64)>,
}

/// A keep-alive that was acknowledged.
struct Kept<'a> {
    at: DecidedAt,
    seen: Option<DecidedAt>,
    inbox: &'a [ItemSeen],
    cut: bool,
    operation: &'a SessionOperation,
}

/// The end of a place, from the answers to its request.
struct Fate<'a> {
    session: SessionId,
    lock: &'a LockName,
    signee: SmolStr,
    at: DecidedAt,
    id: u64,
}

impl<'a> Sessions<'a> {
    pub(super) fn new(survey: &'a Survey) -> Self {
        let mut lives: BTreeMap<SessionId, Life<'a>> = BTreeMap::new();
        for operation in &survey.sessions {
            let Some(session) = operation.session() else { continue };
            lives.entry(session).or_default().note(operation);
        }
        for life in lives.values_mut() {
            life.kept.sort_by_key(|kept| kept.at);
        }
        Self { survey, lives }
    }

    pub(super) fn count(&self) -> usize {
        self.lives.len()
    }

    /// The owner that a request is for: in a session, signee and instance may be left out.
    pub(super) fn owner_of(&self, asked: &LockAction) -> (SmolStr, Option<SmolStr>) {
        let mut owner = (asked.signee.clone(), asked.instance.clone());
        let Some(session) = asked.turn.session else { return owner };
        let opened = self.lives.get(&session).and_then(|life| life.opened);
        let (signee, instance) = match opened.map(|operation| &operation.action) {
            Some(SessionAction::Open { signee, instance, .. }) => {
                (signee.clone(), instance.clone())
            }
            _ => (SmolStr::default(), None),
        };
        if owner.0.is_empty() {
            owner.0 = signee;
        }
        owner.1 = owner.1.or(instance).or_else(|| Some(session.to_string().into()));
        owner
    }

    /// The grants of places of a lock that inboxes told: place in the log, token and level.
    pub(super) fn granted(&self, lock: &LockName) -> Vec<(DecidedAt, u64, i64)> {
        let items = self.lives.values().flat_map(|life| &life.kept).flat_map(|kept| kept.inbox);
        let items = items.filter(|item| item.lock == *lock);
        let granted = items.filter_map(|item| {
            granted_item(&item.news).map(|(token, level)| (item.position, token, level))
        });
        granted.collect()
    }

    /// From when a session lasts for how long, as its last keep-alive before a place has it.
    pub(super) fn lasts(&self, session: SessionId, before: DecidedAt) -> Option<(u64, u64)> {
        let life = self.lives.get(&session)?;
        let opened = life.opened?;
        let SessionAction::Open { ttl_ms, .. } = opened.action else { return None };
        let kept = life.kept.iter().filter(|kept| kept.at.index < before.index);
        let invoked = kept.map(|kept| kept.operation.invoked).max().unwrap_or(0);
        Some((invoked.max(opened.invoked), ttl_ms))
    }

    pub(super) fn judge(mut self, locks: &BTreeMap<LockName, Vec<Operation>>) -> Vec<Found> {
        let mut found = Vec::new();
        for operation in locks.values().flatten() {
            self.refused(operation);
        }
        for (session, life) in &self.lives {
            self.life(*session, life, &mut found);
        }
        for operation in locks.values().flatten() {
            self.held(operation, &mut found);
        }
        for fate in self.fates(locks) {
            self.told(&fate, &mut found);
        }
        found.truncate(MAX_FOUND);
        found
    }

    /// A refusal that says that the session has ended.
    fn refused(&mut self, operation: &Operation) {
        let lost = matches!(&operation.outcome, Outcome::Refused(Refusal::Forbidden { reason, .. })
            if *reason == ForbiddenReason::SessionLost);
        if let (true, Action::Lock(asked), Some(at), Some(returned)) =
            (lost, &operation.action, operation.decided_at, operation.returned)
            && let Some(life) = asked.turn.session.and_then(|id| self.lives.get_mut(&id))
        {
            life.ends(at, returned);
        }
    }

    fn life(&self, session: SessionId, life: &Life<'_>, found: &mut Vec<Found>) {
        for kept in &life.kept {
            let mut last = kept.seen;
            for item in kept.inbox {
                if last.is_some_and(|last| item.position <= last) {
                    let what = format!(
                        "session {session}: an item of {} after {}, in the answer at {}",
                        item.position,
                        last.unwrap_or_default(),
                        kept.at
                    );
                    found.push(Found { broken: Broken::InboxLost, what, ids: Vec::new() });
                }
                last = Some(item.position);
            }
        }
        let Some((ended, returned)) = life.ended else { return };
        if let Some(kept) = life.kept.iter().find(|kept| kept.at.index > ended.index) {
            let what = format!(
                "session {session} had ended by {ended}, and a keep-alive at {} found it alive",
                kept.at
            );
            found.push(Found { broken: Broken::SessionEnded, what, ids: Vec::new() });
        }
        if let Some((from, ttl_ms)) = self.lasts(session, ended)
            && !life.closing
        {
            let end = from.saturating_add(shortened(ttl_ms, self.survey.header.clocks));
            if returned < end {
                let what = format!(
                    "session {session} was to live until {} at least, and was said to have ended \
                     by {}",
                    seconds(end),
                    seconds(returned)
                );
                found.push(Found { broken: Broken::EarlyExpiry, what, ids: Vec::new() });
            }
        }
    }

    /// Whether an operation shows something that is held in a session that has ended before.
    fn held(&self, operation: &Operation, found: &mut Vec<Found>) {
        let Some(at) = operation.decided_at else { return };
        let in_it: Vec<SessionId> = match (&operation.action, &operation.outcome) {
            (Action::Lock(asked), Outcome::Ok(Answer::Granted(_) | Answer::Waiting(_))) => {
                asked.turn.session.into_iter().collect()
            }
            (_, Outcome::Ok(Answer::Record(Some(holder)))) if !holder.expired => {
                holder.session.into_iter().collect()
            }
            (_, Outcome::Ok(Answer::Queue(queue))) => {
                let live = queue.holders.iter().filter(|holder| !holder.expired);
                live.filter_map(|holder| holder.session).collect()
            }
            _ => return,
        };
        for session in in_it {
            let ended = self.lives.get(&session).and_then(|life| life.ended);
            if let Some((ended, _)) = ended
                && ended.index < at.index
            {
                let what = format!(
                    "session {session} had ended by {ended}, and at {at} something was held or \
                     waited for in it"
                );
                found.push(Found { broken: Broken::SessionEnded, what, ids: vec![operation.id] });
            }
        }
    }

    /// The ends of places that are certain to be in the inbox of a session: all requests of their
    /// owner are known, and name no other session.
    fn fates<'b>(&self, locks: &'b BTreeMap<LockName, Vec<Operation>>) -> Vec<Fate<'b>> {
        let mut fates = Vec::new();
        for (lock, operations) in locks {
            let mut homes: HashMap<SmolStr, HashSet<Option<SessionId>>> = HashMap::new();
            let unknown = self.survey.unknown_turns.iter().filter(|one| one.lock() == lock);
            for operation in operations.iter().chain(unknown) {
                if let Action::Lock(asked) = &operation.action {
                    let home = homes.entry(self.owner_of(asked).0).or_default();
                    home.insert(asked.turn.session);
                }
            }
            let mut waits: HashMap<RequestId, DecidedAt> = HashMap::new();
            for operation in operations {
                if let (Some(id), Outcome::Ok(Answer::Waiting(waiting))) =
                    (operation.request_id, &operation.outcome)
                {
                    waits.insert(id, waiting.place);
                }
            }
            for operation in operations {
                let (Action::Lock(asked), Some(at), Some(id)) =
                    (&operation.action, operation.decided_at, operation.request_id)
                else {
                    continue;
                };
                let (Some(session), Some(place)) = (asked.turn.session, waits.get(&id)) else {
                    continue;
                };
                let signee = self.owner_of(asked).0;
                let is_told = match &operation.outcome {
                    Outcome::Ok(Answer::Granted(_)) => true,
                    Outcome::Refused(Refusal::Forbidden { reason, .. }) => {
                        matches!(reason, ForbiddenReason::Timeout | ForbiddenReason::Lost)
                    }
                    Outcome::Ok(_)
                    | Outcome::Refused(Refusal::BadRequest | Refusal::Stale)
                    | Outcome::Unavailable
                    | Outcome::Unknown => false,
                };
                let alone = homes.get(&signee).is_some_and(|homes| homes.len() == 1);
                if is_told && alone && at.index > place.index {
                    fates.push(Fate { session, lock, signee, at, id: operation.id });
                }
            }
        }
        fates
    }

    /// Whether every answer after the end of a place told of it, until that was seen.
    fn told(&self, fate: &Fate<'_>, found: &mut Vec<Found>) {
        let Some(life) = self.lives.get(&fate.session) else { return };
        let may_be_seen = |seen: Option<DecidedAt>| seen.is_some_and(|seen| seen >= fate.at);
        // A keep-alive that has seen it may have been done whenever its answer was lost.
        let first_seen = self
            .survey
            .sessions
            .iter()
            .filter(|operation| operation.session() == Some(fate.session))
            .filter(|operation| match &operation.action {
                SessionAction::KeepAlive { seen, .. } => may_be_seen(*seen),
                SessionAction::Open { .. } | SessionAction::Close { .. } => false,
            })
            .map(|operation| operation.invoked)
            .min();
        for kept in life.kept.iter().filter(|kept| kept.at.index > fate.at.index && !kept.cut) {
            let returned = kept.operation.returned.unwrap_or(u64::MAX);
            if first_seen.is_some_and(|first| first <= returned) {
                break;
            }
            let is_there = kept.inbox.iter().any(|item| {
                item.lock == *fate.lock
                    && item.signee == fate.signee
                    && item.position.index >= fate.at.index
            });
            if !is_there {
                let what = format!(
                    "{}'s place ended at {}, and the inbox of its session at {} does not tell it",
                    fate.signee, fate.at, kept.at
                );
                found.push(Found { broken: Broken::InboxLost, what, ids: vec![fate.id] });
                break;
            }
        }
    }
}

impl<'a> Life<'a> {
    fn note(&mut self, operation: &'a SessionOperation) {
        if let SessionAction::Close { .. } = &operation.action {
            self.closing |= operation.outcome != SessionOutcome::Unavailable;
        }
        let returned = operation.returned.unwrap_or(u64::MAX);
        match (&operation.action, &operation.outcome, operation.decided_at) {
            (_, SessionOutcome::Opened { .. }, _) => self.opened = Some(operation),
            (
                SessionAction::KeepAlive { seen, .. },
                SessionOutcome::Alive { inbox, cut, .. },
                Some(at),
            ) => self.kept.push(Kept { at, seen: *seen, inbox, cut: *cut, operation }),
            (
                _,
                SessionOutcome::Lost | SessionOutcome::Closed | SessionOutcome::NoSession,
                Some(at),
            ) => self.ends(at, returned),
            _ => {}
        }
    }

    fn ends(&mut self, at: DecidedAt, returned: u64) {
        if self.ended.is_none_or(|(known, _)| at < known) {
            self.ended = Some((at, returned));
        }
    }
}
