//! The intervals in which each lock was certainly held, and by whom, from the answers alone: no
//! log, no model.
//!
//! A grant is certainly held from the moment its answer returned until the invocation of the last
//! renewal or linearizable check that still found it, and from there for the duration of that
//! renewal, counted from its invocation; less if its owner released it or another may have taken it
//! by force or level. No two such intervals of one lock overlap, each token belongs to one grant,
//! and no token is seen after a larger one was.

use std::collections::{BTreeMap, HashMap};

use keyward::types::{RequestId, TransferReason};
use smol_str::SmolStr;

use super::latest::{Latest, Seen};
use super::survey::Survey;
use super::time::shortened;
use super::violation::{Broken, seconds};
use crate::history::{
    Action, Answer, Clocks, Granted, HolderSeen, LockAction, LockName, Operation, Outcome, Refusal,
    Status,
};

/// A violation that names its operations by their ids; they are fetched later.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Found {
    pub(super) broken: Broken,
    pub(super) what: String,
    pub(super) ids: Vec<u64>,
}

/// The most violations kept for each lock.
const MAX_FOUND: usize = 4;

/// The check, fed with operations in the order in which they ended.
#[derive(Debug)]
pub(super) struct Holders<'a> {
    survey: &'a Survey,
    locks: HashMap<LockName, Holding>,
}

#[derive(Debug, Default)]
struct Holding {
    grants: BTreeMap<u64, Held>,
    latest: Latest,
    /// Releases without a token, by owner: invoked and returned.
    releases: HashMap<Owner, Vec<(u64, u64)>>,
    found: Vec<Found>,
}

type Owner = (SmolStr, Option<SmolStr>);

/// The facts about a grant that are certain.
#[derive(Clone, Debug)]
struct Held {
    owner: Owner,
    /// The time at which the first answer with it returned; `None` if only other clients saw it.
    from: Option<u64>,
    /// The operation that first acquired it, and its request; `None` until it is seen.
    given_by: Option<(u64, Option<RequestId>)>,
    /// The latest time at which it was certainly held.
    seen_until: u64,
    /// The last renewal: when it was invoked and had returned, the end of the grant, and its level.
    /// Of several that overlap, the least values.
    renewed: u64,
    returned: u64,
    until: u64,
    level: i64,
    /// The earliest release that names its token.
    released: u64,
    /// The invocation of the operation that took it over from a live grant.
    took_over: Option<u64>,
    last_id: u64,
}

impl<'a> Holders<'a> {
    pub(super) fn new(survey: &'a Survey) -> Self {
        Self { survey, locks: HashMap::new() }
    }

    pub(super) fn feed(&mut self, operation: &Operation) {
        if matches!(operation.action, Action::StaleCheck(_) | Action::Read(_) | Action::Write(_)) {
            return;
        }
        if !self.locks.contains_key(operation.lock()) {
            self.locks.insert(operation.lock().clone(), Holding::default());
        }
        let Some(lock) = self.locks.get_mut(operation.lock()) else { return };
        let (latency, clocks) = (self.survey.latency, self.survey.header.clocks);
        let mut invoked = operation.invoked;
        if let Some(id) = operation.request_id
            && let Some(repeated) = self.survey.repeated.get(&id)
        {
            invoked = repeated.invoked;
        }
        let now = Now { operation, invoked, latency, clocks };
        match (&operation.action, &operation.outcome) {
            (Action::Lock(asked), Outcome::Ok(Answer::Granted(granted))) => {
                lock.granted(&now, asked, granted);
            }
            (_, Outcome::Ok(Answer::Record(Some(holder)))) => lock.seen(&now, holder, true),
            (_, Outcome::Refused(Refusal::Forbidden { holder: Some(holder), .. })) => {
                lock.seen(&now, holder, false);
            }
            (Action::Unlock(asked), Outcome::Ok(Answer::Released)) => {
                let owner = (asked.signee.clone(), asked.instance.clone());
                let returned = operation.returned.unwrap_or(u64::MAX);
                lock.released(&owner, asked.token, invoked, returned);
            }
            _ => {}
        }
    }

    pub(super) fn finish(mut self) -> Vec<Found> {
        let mut unknown: HashMap<&LockName, Vec<&Operation>> = HashMap::new();
        let applied = self.survey.applied.iter().map(|(_, operation)| operation);
        for operation in self.survey.unknown.iter().chain(applied) {
            unknown.entry(operation.lock()).or_default().push(operation);
        }
        let mut locks: Vec<_> = self.locks.drain().collect();
        locks.sort_by(|a, b| a.0.cmp(&b.0));
        let mut found = Vec::new();
        for (name, mut lock) in locks {
            let unknown = unknown.get(&name).map_or(&[][..], Vec::as_slice);
            lock.overlaps(unknown, self.survey.header.clocks, self.survey.latency);
            found.extend(lock.found);
        }
        found
    }
}

/// An operation with the context that its judgement needs.
struct Now<'a> {
    operation: &'a Operation,
    /// The time at which the request was first sent.
    invoked: u64,
    latency: u64,
    clocks: Clocks,
}

impl Now<'_> {
    fn returned(&self) -> u64 {
        self.operation.returned.unwrap_or(u64::MAX)
    }
}

impl Holding {
    fn granted(&mut self, now: &Now<'_>, asked: &LockAction, granted: &Granted) {
        let new = granted.status != Status::Renewed;
        let owner = (asked.signee.clone(), asked.instance.clone());
        self.token_seen(now, granted.token, &owner, new);
        let given = (now.operation.id, now.operation.request_id);
        let Some(held) = self.grants.get_mut(&granted.token) else { return };
        if new {
            let other = held.given_by.filter(|(_, id)| id.is_none() || *id != given.1);
            if let Some((other, _)) = other {
                let what = format!("token {} was given twice", granted.token);
                let ids = vec![other, given.0];
                self.report(Broken::TokenReused, what, ids);
                return;
            }
            held.given_by = Some(given);
        }
        held.from = Some(held.from.map_or(now.returned(), |from| from.min(now.returned())));
        let taken = matches!(&granted.status, Status::Transferred { reason, .. }
            if *reason != TransferReason::Expired);
        if taken {
            held.took_over = Some(now.invoked);
        }
        held.seen_until = held.seen_until.max(now.invoked);
        if granted.live {
            let left = asked.duration_ms.min(granted.expires_in_ms.saturating_add(1));
            let until = now.invoked.saturating_add(shortened(left, now.clocks));
            held.renew(now, until, granted.level);
        } else {
            // A late answer: it may have set the end to an earlier time, and never to a later one
            // that anybody can be certain of.
            let until = now.invoked.saturating_add(shortened(asked.duration_ms, now.clocks));
            held.until = held.until.min(until);
        }
    }

    fn seen(&mut self, now: &Now<'_>, holder: &HolderSeen, is_read: bool) {
        let owner = (holder.signee.clone(), holder.instance.clone());
        self.token_seen(now, holder.token, &owner, false);
        if let Some(held) = self.grants.get_mut(&holder.token)
            && is_read
            && !holder.expired
        {
            held.seen_until = held.seen_until.max(now.invoked);
        }
    }

    /// Notes that a token was seen: it belongs to one owner, and no smaller one is seen any more.
    fn token_seen(&mut self, now: &Now<'_>, token: u64, owner: &Owner, new: bool) {
        let id = now.operation.id;
        let held = self.grants.entry(token).or_insert_with(|| Held {
            owner: owner.clone(),
            from: None,
            given_by: None,
            seen_until: 0,
            renewed: 0,
            returned: 0,
            until: 0,
            level: i64::MIN,
            released: u64::MAX,
            took_over: None,
            last_id: id,
        });
        if held.owner != *owner {
            let what = format!("token {token} is {}'s and {}'s", held.owner.0, owner.0);
            let ids = vec![held.given_by.map_or(held.last_id, |(id, _)| id), id];
            self.report(Broken::TokenReused, what, ids);
        }
        if let Some(other) = self.latest.before(now.invoked)
            && (token < other.value || (new && token == other.value))
        {
            let what = format!(
                "token {token} was {} in an operation invoked at {}, and token {} had been seen \
                 by {}",
                if new { "given" } else { "seen" },
                seconds(now.invoked),
                other.value,
                seconds(other.returned),
            );
            self.report(Broken::TokenDecreased, what, vec![other.id, id]);
        }
        self.latest.note(Seen { returned: now.returned(), value: token, id }, now.latency);
    }

    fn released(&mut self, owner: &Owner, token: Option<u64>, invoked: u64, returned: u64) {
        match token {
            Some(token) => {
                if let Some(held) = self.grants.get_mut(&token) {
                    held.released = held.released.min(invoked);
                }
            }
            None => self.releases.entry(owner.clone()).or_default().push((invoked, returned)),
        }
    }

    fn overlaps(&mut self, unknown: &[&Operation], clocks: Clocks, latency: u64) {
        let grants: Vec<(u64, Held)> = std::mem::take(&mut self.grants).into_iter().collect();
        self.releases.values_mut().for_each(|releases| releases.sort_by_key(|release| release.1));
        let mut longest: Option<(u64, u64, u64, SmolStr)> = None;
        for (place, (token, held)) in grants.iter().enumerate() {
            let Some(from) = held.from else { continue };
            if let Some((until, other, id, owner)) = &longest
                && *until > from
            {
                let what = format!(
                    "{} held it with token {token} from {}, and {owner} with token {other} until {}",
                    held.owner.0,
                    seconds(from),
                    seconds(*until),
                );
                let ids = vec![*id, held.given_by.map_or(held.last_id, |(id, _)| id)];
                self.report(Broken::TwoHolders, what, ids);
            }
            let next = grants.get(place + 1).and_then(|(_, next)| next.took_over);
            let until = self.certain_end(held, *token, next, unknown, clocks, latency);
            if until > from && longest.as_ref().is_none_or(|(longest, ..)| *longest < until) {
                longest = Some((until, *token, held.last_id, held.owner.0.clone()));
            }
        }
    }

    fn certain_end(
        &self,
        held: &Held,
        token: u64,
        taken_over: Option<u64>,
        unknown: &[&Operation],
        clocks: Clocks,
        latency: u64,
    ) -> u64 {
        let mut until = held.until.min(held.released).min(taken_over.unwrap_or(u64::MAX));
        let releases = self.releases.get(&held.owner).map_or(&[][..], Vec::as_slice);
        let first = releases.partition_point(|(_, returned)| *returned <= held.renewed);
        for (invoked, returned) in &releases[first..] {
            if *returned > held.until.saturating_add(latency) {
                break;
            }
            until = until.min(*invoked);
        }
        for operation in unknown {
            until = until.min(end_by(operation, held, token, clocks));
        }
        until.max(held.seen_until)
    }

    fn report(&mut self, broken: Broken, what: String, ids: Vec<u64>) {
        if self.found.len() < MAX_FOUND {
            self.found.push(Found { broken, what, ids });
        }
    }
}

impl Held {
    /// Applies a renewal, which sets the end anew, also to an earlier time. Of several that overlap
    /// the last one is unknown.
    fn renew(&mut self, now: &Now<'_>, until: u64, level: i64) {
        if now.returned() < self.renewed {
            return;
        }
        if now.invoked > self.returned {
            self.renewed = now.invoked;
            self.until = until;
            self.level = level;
        } else {
            self.renewed = self.renewed.min(now.invoked);
            self.until = self.until.min(until);
            self.level = self.level.min(level);
        }
        self.returned = self.returned.max(now.returned());
        self.last_id = now.operation.id;
    }
}

/// The time from which the grant may be over because of an operation whose outcome is unknown.
fn end_by(operation: &Operation, held: &Held, token: u64, clocks: Clocks) -> u64 {
    match &operation.action {
        Action::Unlock(asked) => {
            let mine = (&asked.signee, &asked.instance) == (&held.owner.0, &held.owner.1);
            let this = asked.token.is_none_or(|asked| asked == token);
            if mine && this { operation.invoked } else { u64::MAX }
        }
        Action::Lock(asked) => {
            let mine = (&asked.signee, &asked.instance) == (&held.owner.0, &held.owner.1);
            if mine && asked.token.is_none_or(|asked| asked == token) {
                // It may have changed the duration of the grant, and its level to one that others
                // exceed.
                let from = operation.invoked.max(held.renewed);
                let shorter = from.saturating_add(shortened(asked.duration_ms, clocks));
                let lower = asked.level.is_some_and(|level| level < held.level)
                    || (asked.token.is_none() && asked.level.unwrap_or(0) < held.level);
                return if lower { operation.invoked } else { shorter };
            }
            let stronger = asked.force || asked.level.unwrap_or(0) > held.level;
            if asked.token.is_none() && !mine && stronger { operation.invoked } else { u64::MAX }
        }
        Action::Check(_) | Action::StaleCheck(_) | Action::Read(_) | Action::Write(_) => u64::MAX,
    }
}
