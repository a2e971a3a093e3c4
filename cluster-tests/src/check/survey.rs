//! The first pass: collects everything that must be known before operations are judged one by one.

use std::collections::{BTreeMap, HashMap, HashSet};

use keyward::types::{DecidedAt, RequestId};

use super::figures::Figures;
use super::source::Source;
use crate::history::{
    Action, Applied, Entry, Event, Fault, Footer, Header, HistoryError, LockName, Observation,
    Operation, Outcome, Refusal, SessionOperation,
};

/// The results of the first pass.
#[derive(Debug)]
pub(super) struct Survey {
    pub(super) header: Header,
    pub(super) footer: Footer,
    pub(super) faults: Vec<Fault>,
    pub(super) events: Vec<Event>,
    pub(super) observations: Vec<Observation>,
    /// Writes that may have been done, without an answer or a log entry that decides it.
    pub(super) unknown: Vec<Operation>,
    /// Such writes whose place is known from the service's log.
    pub(super) applied: Vec<(DecidedAt, Operation)>,
    /// The locks that have turns: they are shared, waited for or held in sessions. Their operations
    /// are in none of the lists above.
    pub(super) turns: HashSet<LockName>,
    /// Writes on locks with turns that may have been done.
    pub(super) unknown_turns: Vec<Operation>,
    /// The operations on sessions.
    pub(super) sessions: Vec<SessionOperation>,
    /// The places in the log of requests, as far as they are known.
    pub(super) places: HashMap<RequestId, DecidedAt>,
    /// Requests that were sent more than once, as operations of their own.
    pub(super) repeated: HashMap<RequestId, Repeated>,
    /// The number of operations of each lock.
    pub(super) locks: BTreeMap<LockName, u64>,
    /// The longest time between a request and its answer.
    pub(super) latency: u64,
    /// Answered lock operations that name no place in the log.
    pub(super) without_place: u64,
    /// Answered lock operations that name one.
    pub(super) with_place: u64,
    pub(super) figures: Figures,
}

/// A request that is in the history more than once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Repeated {
    /// The time of its first invocation.
    pub(super) invoked: u64,
    /// Whether any of the operations was answered.
    pub(super) answered: bool,
}

/// The last request of a lane, so that a repetition is recognized.
struct Last {
    seq: u64,
    invoked: u64,
    answered: bool,
}

struct Pass {
    survey: Survey,
    lanes: HashMap<u128, Last>,
}

pub(super) fn survey(source: &Source<'_>) -> Result<Survey, HistoryError> {
    let survey = Survey {
        header: source.header()?,
        footer: Footer { operations: 0, log_complete: false },
        faults: Vec::new(),
        events: Vec::new(),
        observations: Vec::new(),
        unknown: Vec::new(),
        applied: Vec::new(),
        turns: HashSet::new(),
        unknown_turns: Vec::new(),
        sessions: Vec::new(),
        places: HashMap::new(),
        repeated: HashMap::new(),
        locks: BTreeMap::new(),
        latency: 0,
        without_place: 0,
        with_place: 0,
        figures: Figures::default(),
    };
    let mut pass = Pass { survey, lanes: HashMap::new() };
    let footer = source.pass(|entry| pass.note(entry))?;
    Ok(pass.finish(footer))
}

impl Pass {
    fn note(&mut self, entry: Entry) {
        match entry {
            Entry::Operation(operation) => self.operation(operation),
            Entry::Session(operation) => self.survey.sessions.push(operation),
            Entry::Fault(fault) => self.survey.faults.push(fault),
            Entry::Event(event) => self.survey.events.push(event),
            Entry::Observation(observation) => self.survey.observations.push(observation),
            Entry::Applied(Applied { request_id, decided_at }) => {
                self.survey.places.insert(request_id, decided_at);
            }
        }
    }

    fn operation(&mut self, operation: Operation) {
        let survey = &mut self.survey;
        survey.figures.count(&operation);
        if let Some(count) = survey.locks.get_mut(operation.lock()) {
            *count += 1;
        } else {
            survey.locks.insert(operation.lock().clone(), 1);
        }
        self.request_id(&operation);
        let survey = &mut self.survey;
        if operation.has_turns() {
            survey.turns.insert(operation.lock().clone());
        }
        if let Some(returned) = operation.returned {
            survey.latency = survey.latency.max(returned - operation.invoked);
        }
        if is_judged(&operation) {
            survey.with_place += u64::from(operation.decided_at.is_some());
            survey.without_place += u64::from(operation.decided_at.is_none());
        }
        if operation.outcome == Outcome::Unknown && operation.may_have_changed() {
            survey.unknown.push(operation);
        }
    }

    fn request_id(&mut self, operation: &Operation) {
        // The service does not remember a request that was certainly not done.
        let Some(id) = operation.request_id else { return };
        let answered = is_judged(operation);
        if !answered && operation.outcome != Outcome::Unknown {
            return;
        }
        let invoked = operation.invoked;
        let last = self.lanes.entry(id.lane).or_insert(Last { seq: 0, invoked, answered: false });
        if last.seq == id.seq {
            last.invoked = last.invoked.min(invoked);
            last.answered |= answered;
            let repeated = Repeated { invoked: last.invoked, answered: last.answered };
            self.survey.repeated.insert(id, repeated);
            // An answer to the second copy may be about an effect of the first one long ago.
            let waited = operation.returned.map_or(0, |returned| returned - last.invoked);
            self.survey.latency = self.survey.latency.max(waited);
        } else if last.seq < id.seq || last.seq == 0 {
            *last = Last { seq: id.seq, invoked, answered };
        }
    }

    fn finish(mut self, footer: Footer) -> Survey {
        self.survey.footer = footer;
        let unknown = std::mem::take(&mut self.survey.unknown);
        let mut known: HashSet<RequestId> = HashSet::new();
        let turns = std::mem::take(&mut self.survey.turns);
        self.survey.locks.retain(|lock, _| !turns.contains(lock));
        for mut operation in unknown {
            if turns.contains(operation.lock()) {
                self.survey.unknown_turns.push(operation);
                continue;
            }
            let Some(id) = operation.request_id else {
                self.survey.unknown.push(operation);
                continue;
            };
            if let Some(repeated) = self.survey.repeated.get(&id) {
                operation.invoked = repeated.invoked;
                if repeated.answered || !known.insert(id) {
                    continue;
                }
            }
            match self.survey.places.get(&id) {
                Some(place) => self.survey.applied.push((*place, operation)),
                None if footer.log_complete => {}
                None => self.survey.unknown.push(operation),
            }
        }
        self.survey.turns = turns;
        self.survey.unknown.sort_by_key(|operation| operation.invoked);
        self.survey
    }
}

/// Whether an answer is a statement about a lock: not the register's, not a read of old data, and
/// not one that only says that nothing was done.
pub(super) fn is_judged(operation: &Operation) -> bool {
    let about_a_lock =
        matches!(operation.action, Action::Lock(_) | Action::Unlock(_) | Action::Check(_));
    let answered = match &operation.outcome {
        Outcome::Ok(_) | Outcome::Refused(Refusal::Forbidden { .. }) => true,
        Outcome::Refused(Refusal::BadRequest | Refusal::Stale)
        | Outcome::Unavailable
        | Outcome::Unknown => false,
    };
    about_a_lock && answered
}
