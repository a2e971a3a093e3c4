//! Linearizability, by the service's own witness: each answer names the place in the log at which
//! it was decided.
//!
//! The model replays every request in that order, and must give every answer; an operation that
//! returned before another was invoked must come before it. There is no search, so this takes a
//! microsecond or so for each operation. Two things are not taken on trust:
//!
//! - An operation whose outcome is unknown may have been done, once, anywhere after it was invoked,
//!   or never. If the service's log was read (`applied` lines), its place is known. Otherwise it is
//!   inserted where answers cannot be explained without it.
//! - Time: a grant may be over as soon as [`super::time`] allows it, and is once an answer shows it.
//!
//! After the first violation of a lock the rest of its history is not judged: everything that
//! follows would be a consequence.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use keyward::types::{DecidedAt, RequestId};

use super::order::Order;
use super::replay::Replay;
use super::step::Rules;
use super::survey::{Survey, is_judged};
use super::violation::{Broken, Violation, seconds};
use crate::history::{
    Action, Answer, Granted, LockName, Operation, Outcome, RecordSeen, Refusal, Status,
};

/// The most violations kept; a service that is wrong is wrong a million times.
const MAX_VIOLATIONS: usize = 50;

/// The most grants whose lateness is kept, for the percentiles: 8 MB.
const MAX_LATENESS: usize = 1_000_000;

/// The check, fed with operations in the order in which they ended.
pub(super) struct Witnessed {
    rules: Rules,
    order: Order,
    locks: HashMap<LockName, Replay>,
    unknown: HashMap<LockName, Vec<Arc<Operation>>>,
    /// Those without an answer, their places known or not.
    unanswered: HashMap<LockName, Vec<Arc<Operation>>>,
    repeated: HashMap<RequestId, (u64, Option<Arc<Operation>>)>,
    lanes: Lanes,
    /// Locks of which only the order in the log is judged here: another check knows their rules.
    turns: HashSet<LockName>,
    /// The latest invocation so far in the order of the log, and those at the same place as the last.
    latest: Option<Arc<Operation>>,
    last: Option<(DecidedAt, Arc<Operation>)>,
    same_place: Option<Arc<Operation>>,
    violations: Vec<Violation>,
    out_of_order: u64,
    results: Results,
}

/// The counts of the check.
#[derive(Debug, Default)]
pub(super) struct Results {
    pub(super) checked: u64,
    pub(super) locks: u64,
    /// Locks whose unknown operations left more possibilities than are followed.
    pub(super) undecided: u64,
    pub(super) expiries: u64,
    pub(super) lateness: Vec<u64>,
    pub(super) most_waiting: usize,
}

impl Witnessed {
    pub(super) fn new(survey: &Survey) -> Self {
        let mut unknown: HashMap<LockName, Vec<Arc<Operation>>> = HashMap::new();
        for operation in &survey.unknown {
            let of_lock = unknown.entry(operation.lock().clone()).or_default();
            of_lock.push(Arc::new(operation.clone()));
        }
        let mut unanswered = unknown.clone();
        for (_, operation) in &survey.applied {
            let of_lock = unanswered.entry(operation.lock().clone()).or_default();
            of_lock.push(Arc::new(operation.clone()));
        }
        let mut order = Order::new(survey.latency);
        for (place, operation) in &survey.applied {
            // Nothing has been released yet, so nothing can be too late.
            let _ = order.push(*place, Arc::new(operation.clone()));
        }
        let repeated = survey.repeated.iter().filter(|(_, repeated)| repeated.answered);
        Self {
            rules: Rules::all(survey.header.clocks),
            order,
            locks: HashMap::new(),
            unknown,
            unanswered,
            repeated: repeated.map(|(id, repeated)| (*id, (repeated.invoked, None))).collect(),
            lanes: Lanes::default(),
            turns: survey.turns.clone(),
            latest: None,
            last: None,
            same_place: None,
            violations: Vec::new(),
            out_of_order: 0,
            results: Results::default(),
        }
    }

    /// Adds the next operation in the order in which they ended.
    pub(super) fn feed(&mut self, mut operation: Arc<Operation>) {
        let Some(place) = operation.decided_at else { return };
        if !is_judged(&operation) {
            return;
        }
        if let Some(id) = operation.request_id
            && let Some((invoked, first)) = self.repeated.get_mut(&id)
        {
            Arc::make_mut(&mut operation).invoked = *invoked;
            // A request for a turn has several answers, each with a place of its own.
            if let Some(first) = first
                && !self.turns.contains(operation.lock())
            {
                let first = Arc::clone(first);
                self.compare_repeated(&first, &operation);
                return;
            }
            *first = Some(Arc::clone(&operation));
        }
        if let Err(late) = self.order.push(place, operation) {
            self.too_late(late);
        }
        while let Some((place, operation)) = self.order.next() {
            self.judge(place, &operation);
        }
        self.results.most_waiting = self.results.most_waiting.max(self.order.waiting());
    }

    /// Judges the remaining operations, and returns the results.
    pub(super) fn finish(mut self, survey: &Survey) -> (Vec<Violation>, Results, u64) {
        while let Some((place, operation)) = self.order.last() {
            self.judge(place, &operation);
        }
        self.compare_final(survey);
        self.results.locks = self.locks.len() as u64;
        self.results.undecided =
            self.locks.values().filter(|replay| replay.is_undecided()).count() as u64;
        (self.violations, self.results, self.out_of_order)
    }

    fn judge(&mut self, place: DecidedAt, operation: &Arc<Operation>) {
        self.results.checked += 1;
        self.judge_order(place, operation);
        if self.turns.contains(operation.lock()) {
            return;
        }
        if !self.locks.contains_key(operation.lock()) {
            self.locks.insert(operation.lock().clone(), Replay::default());
        }
        let Some(replay) = self.locks.get_mut(operation.lock()) else { return };
        let lanes = &mut self.lanes;
        let is_unknown = operation.outcome == Outcome::Unknown;
        let answered = if is_unknown {
            // A copy of a request whose lane has gone past it is refused.
            if lanes.passed(operation).is_none() {
                replay.place_unknown(Arc::clone(operation));
            }
            Ok(None)
        } else {
            let unknown = self.unknown.get(operation.lock()).map_or(&[][..], Vec::as_slice);
            let open = |asked: &Operation, since: Option<DecidedAt>| {
                lanes.passed(asked).is_none_or(|passed| since.is_some_and(|since| since < passed))
            };
            let beside = self.unanswered.get(operation.lock()).map_or(&[][..], Vec::as_slice);
            replay.answer(operation, unknown, beside, open, self.rules)
        };
        // Only now: the explanation of this answer may be the request before it on its own lane.
        lanes.note(operation, place);
        match answered {
            Ok(ended) => {
                let Some(late) = ended else { return };
                self.results.expiries += 1;
                if self.results.lateness.len() < MAX_LATENESS {
                    self.results.lateness.push(late);
                }
            }
            Err(violation) => self.report(*violation),
        }
    }

    fn judge_order(&mut self, place: DecidedAt, operation: &Arc<Operation>) {
        let is_write = !matches!(operation.action, Action::Check(_));
        if let Some((last, other)) = &self.last
            && *last == place
            && is_write
            && !(other.request_id.is_some()
                && other.request_id == operation.request_id
                && self.turns.contains(operation.lock()))
        {
            let found = format!("operations {} and {} at {place}", other.id, operation.id);
            let both = vec![(**other).clone(), (**operation).clone()];
            self.report(Violation::new(Broken::PlaceTakenTwice, found, both));
        }
        // Reads at one place have no order among themselves.
        if self.last.as_ref().is_none_or(|(last, _)| *last < place)
            && let Some(other) = self.same_place.take()
            && self.latest.as_ref().is_none_or(|latest| latest.invoked < other.invoked)
        {
            self.latest = Some(other);
        }
        if let (Some(returned), Some(latest)) = (operation.returned, &self.latest)
            && returned < latest.invoked
        {
            let found = format!(
                "operation {} returned at {} and was decided at {place}, after operation {} at {}, \
                 which was invoked at {}",
                operation.id,
                seconds(returned),
                latest.id,
                latest.decided_at.map_or_else(String::new, |place| place.to_string()),
                seconds(latest.invoked),
            );
            let both = vec![(**latest).clone(), (**operation).clone()];
            self.report(Violation::new(Broken::RealTimeOrder, found, both));
        }
        if self.same_place.as_ref().is_none_or(|other| other.invoked < operation.invoked) {
            self.same_place = Some(Arc::clone(operation));
        }
        self.last = Some((place, Arc::clone(operation)));
    }

    fn too_late(&mut self, (operation, passed): (Arc<Operation>, u64)) {
        if passed < operation.invoked {
            let found = format!(
                "operation {} was invoked at {}, and decided before one that had returned at {}",
                operation.id,
                seconds(operation.invoked),
                seconds(passed),
            );
            let one = vec![(*operation).clone()];
            self.report(Violation::new(Broken::RealTimeOrder, found, one));
        } else {
            self.out_of_order += 1;
        }
    }

    fn compare_repeated(&mut self, first: &Operation, second: &Operation) {
        if first.action == second.action && essence(first) == essence(second) {
            return;
        }
        let found = format!("operations {} and {} had one request_id", first.id, second.id);
        let both = vec![first.clone(), second.clone()];
        self.report(Violation::new(Broken::RepeatedDifferently, found, both));
    }

    /// Compares the final records of nodes with the expected ones.
    fn compare_final(&mut self, survey: &Survey) {
        let last = self.last.as_ref().map_or(0, |(place, _)| place.index);
        let empty = Replay::default();
        let mut found = Vec::new();
        for observation in &survey.observations {
            let Some(records) = &observation.records else { continue };
            if observation.applied < last {
                continue;
            }
            let seen: HashMap<&LockName, &RecordSeen> =
                records.iter().map(|record| (&record.lock, record)).collect();
            let tables: HashSet<_> = survey.locks.keys().map(|lock| &lock.table).collect();
            let names = survey.locks.keys().chain(seen.keys().copied());
            let names = names.filter(|lock| !survey.turns.contains(*lock));
            let names: HashSet<_> = names.filter(|lock| tables.contains(&lock.table)).collect();
            for lock in names {
                let replay = self.locks.get(lock).unwrap_or(&empty);
                let unknown = self.unknown.get(lock).map_or(&[][..], Vec::as_slice);
                let record = seen.get(lock).copied();
                let wrong = replay.observed(record, unknown, observation.at, self.rules);
                if let Some((what, operations)) = wrong {
                    let what = format!("node {}: {what}", observation.node);
                    let mut violation = Violation::new(Broken::AcknowledgedLost, what, operations);
                    violation.lock = Some(lock.clone());
                    found.push(violation);
                }
            }
        }
        found.sort_by(|a, b| (&a.lock, &a.found).cmp(&(&b.lock, &b.found)));
        for violation in found {
            self.report(violation);
        }
    }

    fn report(&mut self, violation: Violation) {
        if self.violations.len() < MAX_VIOLATIONS {
            self.violations.push(violation);
        }
    }
}

/// The progress of the lanes of request ids, and the places in the log where it happened.
#[derive(Debug, Default)]
struct Lanes(HashMap<u128, Vec<(u64, DecidedAt)>>);

impl Lanes {
    fn note(&mut self, operation: &Operation, place: DecidedAt) {
        let Some(id) = operation.request_id else { return };
        let lane = self.0.entry(id.lane).or_default();
        if lane.last().is_none_or(|(seq, _)| *seq < id.seq) {
            lane.push((id.seq, place));
        }
    }

    /// The place where its lane has gone past a request: after it the request has no effect.
    fn passed(&self, operation: &Operation) -> Option<DecidedAt> {
        let id = operation.request_id?;
        let lane = self.0.get(&id.lane)?;
        let first = lane.partition_point(|(seq, _)| *seq <= id.seq);
        lane.get(first).map(|(_, place)| *place)
    }
}

/// The part that must be the same in every answer to one request: not the remaining time, nor the
/// current holders.
#[derive(PartialEq, Eq, Debug)]
enum Essence<'a> {
    Granted(&'a Status, u64, i64),
    Other(&'a Answer),
    Refused(keyward::types::ForbiddenReason),
    None,
}

fn essence(operation: &Operation) -> Essence<'_> {
    match &operation.outcome {
        Outcome::Ok(Answer::Granted(Granted { status, token, level, .. })) => {
            Essence::Granted(status, *token, *level)
        }
        Outcome::Ok(answer) => Essence::Other(answer),
        Outcome::Refused(Refusal::Forbidden { reason, .. }) => Essence::Refused(*reason),
        Outcome::Refused(Refusal::BadRequest | Refusal::Stale)
        | Outcome::Unavailable
        | Outcome::Unknown => Essence::None,
    }
}
