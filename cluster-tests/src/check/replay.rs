//! The replay of one lock along the log.
//!
//! The state is a set of candidates, nearly always one: a lock, and the operations of unknown
//! outcome that were inserted to explain it. Unknown operations are inserted only where an answer
//! cannot be explained otherwise; if that fails, a few steps are undone and they are tried earlier.

use std::collections::VecDeque;
use std::sync::Arc;

use keyward::types::DecidedAt;

use super::model::Lock;
use super::step::{Rule, Rules, effects, outcomes, rules_beside, step};
use super::time::{lateness, lives};
use super::violation::{Broken, Violation};
use super::words::{Words, answers};
use crate::history::{Answer, Operation, Outcome, RecordSeen, Refusal, Status};

/// The most candidates that are followed; beyond that, a failure is undecided.
const MAX_CANDIDATES: usize = 64;
/// The most attempts to explain one answer.
const MAX_TRIED: usize = 20_000;
/// The most unknown operations that may explain one answer together.
const MAX_DEPTH: usize = 4;
/// The most steps that are undone.
const MAX_BACK: usize = 12;

/// The state of a replay; see the module.
#[derive(Debug, Default)]
pub(super) struct Replay {
    /// `None`: no request for it yet.
    candidates: Option<Vec<Candidate>>,
    /// Unknown operations that come next according to the log.
    placed: Vec<Arc<Operation>>,
    /// Steps that can be undone, kept while there are unknown operations.
    back: VecDeque<Step>,
    /// The place of the last answer.
    place: Option<DecidedAt>,
    /// The operations that granted the last token, and that changed the lock last.
    granted_by: Option<Arc<Operation>>,
    changed_by: Option<Arc<Operation>>,
    /// The time by which the grant was seen to outlive its duration.
    late: u64,
    /// Candidates were dropped: an answer without explanation is undecided from now on.
    trimmed: bool,
    state: Judged,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Judged {
    #[default]
    Fine,
    Broken,
    Undecided,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
struct Candidate {
    lock: Lock,
    /// Ids of the inserted unknown operations, in ascending order.
    used: Vec<u64>,
}

/// An answer, and the candidates before it.
#[derive(Debug)]
struct Step {
    operation: Arc<Operation>,
    before: Vec<Candidate>,
    /// The place of the answer before it.
    since: Option<DecidedAt>,
}

/// Unknown operations that may explain an answer.
struct Unknown<'a, F> {
    operations: &'a [Arc<Operation>],
    /// Whether one may have been done after this place.
    open: F,
    /// The place of the answer before.
    since: Option<DecidedAt>,
    /// The time at which the answer returned; the operations were requested before it.
    now: u64,
    rules: Rules,
}

impl Replay {
    /// Whether the state of the lock has become unclear.
    pub(super) fn is_undecided(&self) -> bool {
        self.state == Judged::Undecided
    }

    /// Notes that the log has this operation here; its outcome is not known.
    pub(super) fn place_unknown(&mut self, operation: Arc<Operation>) {
        self.placed.push(operation);
    }

    /// Compares the next answer with the model. If it shows that a grant expired, returns the least
    /// delay of that, in nanoseconds.
    ///
    /// # Errors
    /// The violation that the answer shows.
    pub(super) fn answer(
        &mut self,
        operation: &Arc<Operation>,
        unknown: &[Arc<Operation>],
        unanswered: &[Arc<Operation>],
        open: impl Fn(&Operation, Option<DecidedAt>) -> bool,
        rules: Rules,
    ) -> Result<Option<u64>, Box<Violation>> {
        if self.state != Judged::Fine {
            return Ok(None);
        }
        let now = operation.returned.unwrap_or(u64::MAX);
        let mut before = self.candidates.take().unwrap_or_else(|| vec![Candidate::default()]);
        for placed in std::mem::take(&mut self.placed) {
            before = decided(&before, &placed, now, rules);
            self.changed_by = Some(placed);
        }
        let mut after = advance(&before, operation, now, rules);
        if after.is_empty() && !unknown.is_empty() {
            // Nearly always it was done just now, while its lane was open. One that was done before
            // its lane went on shows later if this lock had no request in between.
            let still = |asked: &Operation, _: Option<DecidedAt>| open(asked, None);
            let since = Some(self.since());
            let here = Unknown { operations: unknown, open: still, since, now, rules };
            after = self.explain(&before, operation, &here);
            if after.is_empty() {
                let here = Unknown { operations: unknown, open: &open, since, now, rules };
                after = self.explain(&before, operation, &here);
            }
        }
        if after.is_empty()
            && let Some(rules) = rules_beside(unanswered, operation, rules)
        {
            after = advance(&before, operation, now, rules);
        }
        if after.is_empty() {
            if self.trimmed {
                self.state = Judged::Undecided;
                return Ok(None);
            }
            self.state = Judged::Broken;
            return Err(Box::new(self.violation(&before, operation, rules)));
        }
        if after.len() > MAX_CANDIDATES {
            after.sort_by_key(|candidate| candidate.used.len());
            after.truncate(MAX_CANDIDATES);
            self.trimmed = true;
        }
        let ended = self.note(&before, &after, operation);
        if !unknown.is_empty() {
            let operation = Arc::clone(operation);
            self.back.push_back(Step { operation, before, since: Some(self.since()) });
            while self.back.len() > MAX_BACK {
                self.back.pop_front();
            }
        }
        self.candidates = Some(after);
        self.place = operation.decided_at;
        Ok(ended)
    }

    /// The place after which an unseen operation may have been done.
    fn since(&self) -> DecidedAt {
        self.place.unwrap_or(DecidedAt { index: 0, position: 0 })
    }

    /// Checks whether a node may have had this record in the end; if not, returns the reason and
    /// the operations that show it.
    pub(super) fn observed(
        &self,
        record: Option<&RecordSeen>,
        unknown: &[Arc<Operation>],
        now: u64,
        rules: Rules,
    ) -> Option<(String, Vec<Operation>)> {
        if self.state != Judged::Fine || self.trimmed {
            return None;
        }
        let mut candidates = self.candidates.clone().unwrap_or_else(|| vec![Candidate::default()]);
        for placed in &self.placed {
            candidates = decided(&candidates, placed, now, rules);
        }
        let fits = |candidate: &Candidate| may_be(&candidate.lock, record, now, rules);
        if candidates.iter().any(fits) {
            return None;
        }
        let open = |_: &Operation, _| true;
        let unknown = Unknown { operations: unknown, open, since: None, now, rules };
        let mut tried = MAX_TRIED;
        let mut layer = candidates;
        for _ in 0..MAX_DEPTH {
            layer = with_one_more(&layer, &unknown, &mut tried);
            if layer.iter().any(fits) || tried == 0 {
                return None;
            }
        }
        let found = match record {
            Some(record) => format!("{} with token {} is there", record.signee, record.token),
            None => String::from("it has no record"),
        };
        let last = self.changed_by.as_deref().cloned();
        let after = last.as_ref().map_or_else(String::new, |last| {
            format!(", although the last change of it was: {}", Words(last))
        });
        Some((format!("{found}{after}"), last.into_iter().collect()))
    }

    /// Inserts unknown operations, first directly before the answer, then a few steps earlier.
    fn explain(
        &mut self,
        before: &[Candidate],
        operation: &Arc<Operation>,
        unknown: &Unknown<'_, impl Fn(&Operation, Option<DecidedAt>) -> bool>,
    ) -> Vec<Candidate> {
        let mut tried = MAX_TRIED;
        let mut layer = before.to_vec();
        for _ in 0..MAX_DEPTH {
            layer = with_one_more(&layer, unknown, &mut tried);
            let after = advance(&layer, operation, unknown.now, unknown.rules);
            if !after.is_empty() || layer.is_empty() {
                return after;
            }
        }
        for start in (0..self.back.len()).rev() {
            let steps = self.back.iter().skip(start).map(|step| (&step.operation, step.since));
            let mut layer = self.back[start].before.clone();
            for (operation, since) in steps.chain([(operation, unknown.since)]) {
                let now = operation.returned.unwrap_or(u64::MAX);
                let mut all = layer.clone();
                let Unknown { operations, open, rules, .. } = unknown;
                let here = Unknown { operations, open, since, now, rules: *rules };
                all.extend(with_one_more(&layer, &here, &mut tried));
                layer = advance(&all, operation, now, unknown.rules);
            }
            if !layer.is_empty() {
                return layer;
            }
        }
        // A search that was cut off does not show that there is no explanation.
        self.trimmed |= tried == 0;
        Vec::new()
    }

    /// Remembers the operations with which the explanation of a later violation begins.
    fn note(
        &mut self,
        before: &[Candidate],
        after: &[Candidate],
        operation: &Arc<Operation>,
    ) -> Option<u64> {
        let first = (&before[0].lock, &after[0].lock);
        let was = first.0.grant.as_ref();
        let is = first.1.grant.as_ref();
        let changed = match (was, is) {
            (Some(was), Some(is)) => {
                (was.token, was.dead, was.terms.invoked) != (is.token, is.dead, is.terms.invoked)
            }
            (None, None) => false,
            (None, Some(_)) | (Some(_), None) => true,
        };
        if first.0.highest < first.1.highest {
            self.granted_by = Some(Arc::clone(operation));
        }
        if changed {
            self.changed_by = Some(Arc::clone(operation));
        }
        if let (Some(was), false) = (was, changed) {
            self.late = self.late.max(lateness(&was.terms, operation));
            return None;
        }
        let ended = was.is_some_and(|was| !was.dead) && shows_an_end(operation, was, is);
        let late = std::mem::take(&mut self.late);
        ended.then_some(late)
    }

    fn violation(
        &self,
        before: &[Candidate],
        operation: &Arc<Operation>,
        rules: Rules,
    ) -> Violation {
        let now = operation.returned.unwrap_or(u64::MAX);
        let explains = |rules| !advance(before, operation, now, rules).is_empty();
        let broken = [
            (Broken::EarlyExpiry, Rule::Time),
            (Broken::Revived, Rule::Death),
            (Broken::TokenNotGrowing, Rule::Tokens),
            (Broken::RemainingTime, Rule::Remaining),
        ]
        .into_iter()
        .find(|(_, rule)| explains(Rules { without: Some(*rule), ..rules }))
        .map_or(Broken::WrongAnswer, |(broken, _)| broken);
        let right = answers(before.iter().map(|candidate| &candidate.lock), operation, now, rules);
        let found = format!("{}; the contract answers {right}", Words(operation));
        let mut shown: Vec<Operation> = Vec::new();
        for earlier in [&self.granted_by, &self.changed_by].into_iter().flatten() {
            if shown.iter().all(|other| other.id != earlier.id) {
                shown.push((**earlier).clone());
            }
        }
        shown.push((**operation).clone());
        Violation::new(broken, found, shown)
    }
}

fn advance(
    candidates: &[Candidate],
    operation: &Operation,
    now: u64,
    rules: Rules,
) -> Vec<Candidate> {
    let mut after: Vec<Candidate> = Vec::with_capacity(1);
    for candidate in candidates {
        for lock in step(&candidate.lock, operation, now, rules) {
            add(&mut after, Candidate { lock, used: candidate.used.clone() });
        }
    }
    after
}

/// Applies an unknown operation that was decided here, with every possible outcome.
fn decided(
    candidates: &[Candidate],
    operation: &Operation,
    now: u64,
    rules: Rules,
) -> Vec<Candidate> {
    let mut after = Vec::with_capacity(1);
    for candidate in candidates {
        for lock in outcomes(&candidate.lock, operation, now, rules) {
            add(&mut after, Candidate { lock, used: candidate.used.clone() });
        }
    }
    after
}

/// Adds a candidate, unless another has the same state with fewer inserted operations.
fn add(candidates: &mut Vec<Candidate>, new: Candidate) {
    let covers = |other: &Candidate| {
        other.lock == new.lock && other.used.iter().all(|id| new.used.contains(id))
    };
    if !candidates.iter().any(covers) {
        candidates.push(new);
    }
}

fn with_one_more(
    candidates: &[Candidate],
    unknown: &Unknown<'_, impl Fn(&Operation, Option<DecidedAt>) -> bool>,
    tried: &mut usize,
) -> Vec<Candidate> {
    let mut more = Vec::new();
    for candidate in candidates {
        let asked = unknown.operations.iter().take_while(|other| other.invoked < unknown.now);
        for other in asked.filter(|other| (unknown.open)(other, unknown.since)) {
            if candidate.used.contains(&other.id) {
                continue;
            }
            if *tried == 0 {
                return more;
            }
            *tried -= 1;
            for lock in effects(&candidate.lock, other, unknown.now, unknown.rules) {
                let mut used = candidate.used.clone();
                used.push(other.id);
                used.sort_unstable();
                add(&mut more, Candidate { lock, used });
            }
        }
    }
    more
}

fn may_be(lock: &Lock, record: Option<&RecordSeen>, now: u64, rules: Rules) -> bool {
    let gone = || lives(lock, now, rules.clocks).any(|life| life == super::model::Life::Gone);
    match (&lock.grant, record) {
        (None, None) => true,
        (Some(_), None) => gone(),
        (None, Some(_)) => false,
        (Some(grant), Some(record)) => {
            (&grant.signee, &grant.instance, grant.level)
                == (&record.signee, &record.instance, record.level)
                && lock.may_have(grant, record.token)
        }
    }
}

/// Whether the answer shows that the grant had expired.
fn shows_an_end(
    operation: &Operation,
    was: Option<&super::model::Grant>,
    is: Option<&super::model::Grant>,
) -> bool {
    use keyward::types::TransferReason::Expired;
    let token = was.and_then(|grant| grant.token);
    match &operation.outcome {
        Outcome::Ok(Answer::Granted(granted)) => match &granted.status {
            Status::Transferred { reason, .. } => *reason == Expired,
            Status::Ok => true,
            Status::Renewed => token.is_some_and(|token| token != granted.token),
        },
        Outcome::Ok(Answer::Released) => false,
        Outcome::Ok(_) | Outcome::Refused(Refusal::Forbidden { .. }) => {
            is.is_none_or(|grant| grant.dead)
        }
        Outcome::Refused(_) | Outcome::Unavailable | Outcome::Unknown => false,
    }
}
