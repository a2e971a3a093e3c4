//! One step of a replay: whether the answer is the contract's, and the lock after it.

use std::sync::Arc;

use super::model::{Grant, Life, Lock, Told, answer};
use super::time::{lives, may_be_left, may_follow, terms};
use crate::history::{Action, Answer, Clocks, Granted, HolderSeen, Operation, Outcome, Refusal};

/// The rules that a step enforces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Rules {
    pub(super) clocks: Clocks,
    /// Whether operations come in the order of the log, in which remaining times decrease.
    pub(super) along_the_log: bool,
    /// The rule that is left out, to find out whether it is the one that an answer breaks.
    pub(super) without: Option<Rule>,
}

/// One of the rules that can be left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rule {
    /// A grant ends only after its time.
    Time,
    /// An expired grant stays expired.
    Death,
    /// A new token is larger than all before.
    Tokens,
    /// Remaining times are consistent.
    Remaining,
}

impl Rules {
    pub(super) fn all(clocks: Clocks) -> Self {
        Self { clocks, along_the_log: true, without: None }
    }

    fn has(self, rule: Rule) -> bool {
        self.without != Some(rule)
    }
}

/// The possible states of the lock after the operation got its answer, decided no later than `now`.
/// None: the contract gives another answer.
pub(super) fn step(lock: &Lock, operation: &Operation, now: u64, rules: Rules) -> Vec<Lock> {
    let now = if rules.has(Rule::Time) { now } else { u64::MAX };
    let mut alive = None;
    if !rules.has(Rule::Death) && lock.grant.as_ref().is_some_and(|grant| grant.dead) {
        let mut lock = lock.clone();
        lock.grant.iter_mut().for_each(|grant| grant.dead = false);
        alive = Some(lock);
    }
    let mut after = Vec::new();
    for lock in std::iter::once(lock).chain(&alive) {
        for life in lives(lock, now, rules.clocks) {
            for told in told(lock, life, operation) {
                after.extend(answered(told, lock, life, operation, rules));
            }
        }
    }
    after
}

/// As [`step`], for an operation whose answer is not known: the possible states of the lock, if it
/// changed anything.
pub(super) fn effects(lock: &Lock, operation: &Operation, now: u64, rules: Rules) -> Vec<Lock> {
    let changed = right_answers(lock, operation, now, rules).into_iter();
    let changed = changed.filter_map(|(told, after)| match told {
        Told::Granted { .. } | Told::Released => Some(after),
        Told::Refused(_) | Told::NoLock | Told::Record => None,
    });
    changed.collect()
}

/// As [`effects`], for an operation that was decided, one way or the other.
pub(super) fn outcomes(lock: &Lock, operation: &Operation, now: u64, rules: Rules) -> Vec<Lock> {
    right_answers(lock, operation, now, rules).into_iter().map(|(_, after)| after).collect()
}

/// The answers of the contract, for each possible effect of time on the lock.
pub(super) fn right_answers(
    lock: &Lock,
    operation: &Operation,
    now: u64,
    rules: Rules,
) -> Vec<(Told, Lock)> {
    let lives = lives(lock, now, rules.clocks);
    lives.flat_map(|life| told(lock, life, operation)).collect()
}

/// The answers of the contract. If the token of the grant is unknown, the token of the request may
/// or may not be it.
fn told(lock: &Lock, life: Life, operation: &Operation) -> impl Iterator<Item = (Told, Lock)> {
    let (duration_ms, ttl_ms, token) = match &operation.action {
        Action::Lock(asked) => (asked.duration_ms, asked.time_to_live_ms, asked.token),
        Action::Unlock(asked) => (0, None, asked.token),
        Action::Check(_) | Action::StaleCheck(_) | Action::Read(_) | Action::Write(_) => {
            (0, None, None)
        }
    };
    let terms = terms(operation, duration_ms, ttl_ms);
    let is_open = lock.grant.as_ref().is_some_and(|grant| grant.token.is_none());
    let other = token.filter(|_| is_open).map(|_| {
        let mut action = operation.action.clone();
        match &mut action {
            // No grant has the token 0.
            Action::Lock(asked) => asked.token = Some(0),
            Action::Unlock(asked) => asked.token = Some(0),
            Action::Check(_) | Action::StaleCheck(_) | Action::Read(_) | Action::Write(_) => {}
        }
        answer(lock, life, &action, terms)
    });
    std::iter::once(answer(lock, life, &operation.action, terms)).chain(other)
}

fn answered(
    (told, mut after): (Told, Lock),
    lock: &Lock,
    life: Life,
    operation: &Operation,
    rules: Rules,
) -> Vec<Lock> {
    let fits = match (&told, &operation.outcome) {
        (_, Outcome::Unavailable | Outcome::Refused(Refusal::BadRequest)) => {
            return vec![lock.clone()];
        }
        (Told::Granted { status, new_token, level }, Outcome::Ok(Answer::Granted(granted))) => {
            granted.status == *status
                && granted.level == *level
                && learn_granted(&mut after, granted, *new_token, operation, rules)
        }
        (Told::Released, Outcome::Ok(Answer::Released))
        | (Told::NoLock, Outcome::Ok(Answer::NoLock)) => true,
        (Told::Record, Outcome::Ok(Answer::Record(None))) => after.grant.is_none(),
        (Told::Record, Outcome::Ok(Answer::Record(Some(seen)))) => {
            learn_seen(&mut after, life, seen, operation, rules)
        }
        (Told::Refused(why), Outcome::Refused(Refusal::Forbidden { reason, holder })) => {
            // The reason of a refused release is not part of the contract.
            let unlock = matches!(operation.action, Action::Unlock(_));
            if unlock || reason == why {
                return shown(after, life, holder.as_ref(), operation, rules);
            }
            false
        }
        _ => false,
    };
    if fits { vec![after] } else { Vec::new() }
}

fn learn_granted(
    after: &mut Lock,
    granted: &Granted,
    new_token: bool,
    operation: &Operation,
    rules: Rules,
) -> bool {
    let Some(grant) = &mut after.grant else { return false };
    let grows = granted.token > after.highest || !rules.has(Rule::Tokens);
    let token_fits = match grant.token {
        Some(kept) => granted.token == kept,
        // A new grant, or one whose token is unknown.
        None => grows,
    };
    if !token_fits || (new_token && !grows) {
        return false;
    }
    grant.token = Some(granted.token);
    after.highest = after.highest.max(granted.token);
    // An answer that is not live was repeated: it is about a grant that has ended since.
    let left = granted.expires_in_ms;
    if !granted.live {
        return left == 0;
    }
    !rules.has(Rule::Remaining) || may_be_left(&grant.terms, left, operation, rules.clocks)
}

/// The rules for an answer, where an operation of unknown outcome may have renewed its grant before
/// it was answered again: it is then the time of that renewal that is left.
pub(super) fn rules_beside(
    unknown: &[Arc<Operation>],
    operation: &Operation,
    rules: Rules,
) -> Option<Rules> {
    let (Action::Lock(given), Some(granted)) = (&operation.action, operation.granted()) else {
        return None;
    };
    let renews = |other: &Operation| match &other.action {
        Action::Lock(asked) => {
            let terms = terms(other, asked.duration_ms, None);
            (&asked.signee, &asked.instance) == (&given.signee, &given.instance)
                && operation.returned.is_some_and(|returned| other.invoked < returned)
                && may_be_left(&terms, granted.expires_in_ms, operation, rules.clocks)
        }
        Action::Unlock(_)
        | Action::Check(_)
        | Action::StaleCheck(_)
        | Action::Read(_)
        | Action::Write(_) => false,
    };
    let is_renewed = granted.live && unknown.iter().any(|other| renews(other));
    (is_renewed && rules.without.is_none())
        .then_some(Rules { without: Some(Rule::Remaining), ..rules })
}

/// The possible states of the lock after a refusal, which names the holder. A refusal that is
/// repeated, because the first answer was lost, shows the moment of its repetition: no holder, a
/// later one, or the same one at a later time, after a renewal or its expiry. A client retries by
/// itself, so any refusal may be a repeated one. None: it cannot name this holder.
fn shown(
    after: Lock,
    life: Life,
    holder: Option<&HolderSeen>,
    operation: &Operation,
    rules: Rules,
) -> Vec<Lock> {
    let Some(seen) = holder else { return vec![after] };
    let is_later = seen.token > after.highest;
    let Some(grant) = &after.grant else {
        return if is_later { vec![after] } else { Vec::new() };
    };
    let same_owner = seen.signee == grant.signee && seen.instance == grant.instance;
    if is_later && (grant.token.is_some() || !same_owner) {
        return vec![after];
    }
    let mut learned = after.clone();
    let same = learn_seen(&mut learned, life, seen, operation, rules);
    match grant.token {
        _ if !same_owner => Vec::new(),
        Some(_) if same => vec![learned],
        Some(token) if token == seen.token => vec![after],
        // Its token is unknown: it may be this one, or that of a later grant of the same owner.
        None if is_later => {
            if !same {
                learned.clone_from(&after);
                learned.grant.iter_mut().for_each(|grant| grant.token = Some(seen.token));
                learned.highest = seen.token;
            }
            vec![learned, after]
        }
        Some(_) | None => Vec::new(),
    }
}

fn learn_seen(
    after: &mut Lock,
    life: Life,
    seen: &HolderSeen,
    operation: &Operation,
    rules: Rules,
) -> bool {
    let Some(grant) = &mut after.grant else { return false };
    let same = seen.signee == grant.signee
        && seen.instance == grant.instance
        && seen.level == grant.level
        && grant.token.map_or(seen.token > after.highest, |token| token == seen.token)
        && seen.expired == (life == Life::Expired);
    if !same {
        return false;
    }
    grant.token = Some(seen.token);
    after.highest = after.highest.max(seen.token);
    if life == Life::Expired {
        // Reads at one place are ordered by their answers: a live grant must not have been seen
        // later.
        let returned = operation.returned.unwrap_or(u64::MAX);
        let alive_later = grant.terms.left.is_some_and(|(_, asked)| asked > returned);
        return seen.expires_in_ms == 0 && !(alive_later && rules.has(Rule::Death));
    }
    remaining_fits(grant, seen.expires_in_ms, operation, rules)
}

fn remaining_fits(grant: &mut Grant, left: u64, operation: &Operation, rules: Rules) -> bool {
    if rules.has(Rule::Remaining) {
        let terms = &grant.terms;
        let along = !rules.along_the_log || may_follow(terms, left, operation, rules.clocks);
        if !along || !may_be_left(terms, left, operation, rules.clocks) {
            return false;
        }
    }
    // A refusal may be a repeated one, and show a later moment than that of its place.
    let read = matches!(operation.action, Action::Check(_));
    if read && rules.along_the_log && grant.terms.left.is_none_or(|(least, _)| left < least) {
        // A read shows the clock as of the last entry, which may be older than the read: it is only
        // certain that it is no older than the grant.
        grant.terms.left = Some((left, grant.terms.invoked));
    }
    true
}
