//! Judges what the nodes applied, and whether every answer to a client came from there.
//!
//! The log is given to the oracle, a second machine that was written from the contract alone: the
//! nodes must have decided every command as it does. An answer that names its place in the log must
//! be what was decided there.

use std::collections::BTreeMap;

use keyward::lock;
use keyward::types::{DecidedAt, RequestId};
use keyward_oracle::follow::Follower;

use super::world::Witnessed;
use crate::history::{
    Answer, Entry, Granted, History, Operation, Outcome, Refusal, SessionAction, SessionOperation,
    SessionOutcome, decided, decided_session,
};

/// The differences that are reported of a run: what follows the first is often its consequence.
const REPORTED: usize = 3;

/// The decisions of a log, by what they answered.
#[derive(Default)]
struct Decided {
    /// The results of each request: of its commands, and of the place that it got.
    requests: BTreeMap<RequestId, Vec<Result>>,
    /// The results of commands without an id.
    others: BTreeMap<DecidedAt, lock::Outcome>,
}

struct Result {
    index: u64,
    /// The number of the command; `None` if a step brought the result.
    position: Option<u32>,
    outcome: lock::Outcome,
}

impl Result {
    fn is_at(&self, place: DecidedAt) -> bool {
        self.index == place.index && self.position.is_none_or(|known| known == place.position)
    }
}

/// Judges the log and the history of a run.
pub(super) fn judge(log: &[Witnessed], history: &History, failures: &mut Vec<String>) {
    let logged = match follow(log) {
        Ok(logged) => logged,
        Err(difference) => return failures.push(difference),
    };
    let mut wrong = Vec::new();
    for entry in &history.entries {
        let known = match entry {
            Entry::Operation(operation) => logged.explains(operation),
            Entry::Session(operation) => logged.explains_session(operation),
            Entry::Fault(_) | Entry::Event(_) | Entry::Observation(_) | Entry::Applied(_) => Ok(()),
        };
        wrong.extend(known.err());
    }
    failures.extend(wrong.into_iter().take(REPORTED));
}

fn follow(log: &[Witnessed]) -> std::result::Result<Decided, String> {
    let mut oracle = Follower::default();
    let mut logged = Decided::default();
    for entry in log {
        let Some((proposal, decisions)) = &entry.decided else { continue };
        oracle.entry((entry.term, entry.index), proposal, decisions)?;
        for (command, decision) in proposal.commands.iter().zip(decisions) {
            let Some(at) = decision.decided_at else { continue };
            let outcome = decision.outcome.clone();
            match command.request_id {
                Some(id) => logged.note(id, (at.index, Some(at.position)), outcome),
                None => drop(logged.others.insert(at, outcome)),
            }
        }
        for became in oracle.became() {
            if let Some(id) = became.request_id {
                logged.note(id, (entry.index, None), became.outcome.clone());
            }
        }
    }
    Ok(logged)
}

impl Decided {
    fn note(
        &mut self,
        id: RequestId,
        (index, position): (u64, Option<u32>),
        outcome: lock::Outcome,
    ) {
        self.requests.entry(id).or_default().push(Result { index, position, outcome });
    }

    /// Whether an answer is one that the log gave to its request.
    fn explains(&self, operation: &Operation) -> std::result::Result<(), String> {
        let (Some(id), Some(place)) = (operation.request_id, operation.decided_at) else {
            return Ok(());
        };
        let answered = matches!(operation.outcome, Outcome::Ok(_) | Outcome::Refused(_));
        let results = self.requests.get(&id).map_or(&[][..], Vec::as_slice);
        let mut results = results.iter().filter(|result| result.is_at(place));
        if !answered || results.any(|result| is_same(&operation.outcome, &decided(&result.outcome)))
        {
            return Ok(());
        }
        Err(format!(
            "operation {} of {} was answered from {place}, and the log has no such answer to {id}: \
             {:?} to {:?}",
            operation.id, operation.client, operation.outcome, operation.action
        ))
    }

    /// The same for an operation on a session. A keep-alive has no id, but a place of its own.
    fn explains_session(&self, operation: &SessionOperation) -> std::result::Result<(), String> {
        let Some(place) = operation.decided_at else { return Ok(()) };
        let is_here = |outcome: &lock::Outcome| {
            let most = if let lock::Outcome::KeptAlive(all) = outcome { all.len() } else { 1 };
            (0..most).any(|number| decided_session(outcome, number) == operation.outcome)
        };
        let is_known = match (&operation.action, operation.request_id) {
            (SessionAction::KeepAlive { .. }, _) => self.others.get(&place).is_some_and(is_here),
            (SessionAction::Open { .. } | SessionAction::Close { .. }, Some(id)) => {
                let results = self.requests.get(&id).map_or(&[][..], Vec::as_slice);
                let mut results = results.iter().filter(|result| result.is_at(place));
                results.any(|result| is_here(&result.outcome))
            }
            (SessionAction::Open { .. } | SessionAction::Close { .. }, None) => true,
        };
        let answered = operation.outcome != SessionOutcome::Unknown;
        if !answered || is_known {
            return Ok(());
        }
        Err(format!(
            "operation {} of {} was answered from {place}, and the log has no such answer there: \
             {:?} to {:?}",
            operation.id, operation.client, operation.outcome, operation.action
        ))
    }
}

/// Whether two answers are the same but for the times and the other holders that they show.
fn is_same(given: &Outcome, logged: &Outcome) -> bool {
    match (given, logged) {
        (Outcome::Ok(Answer::Granted(one)), Outcome::Ok(Answer::Granted(other))) => {
            let terms = |granted: &Granted| (granted.mode, granted.slot);
            // The terms of a grant that has ended are not remembered.
            let alike = !one.live || !other.live || terms(one) == terms(other);
            alike
                && (&one.status, one.token, one.level) == (&other.status, other.token, other.level)
        }
        (Outcome::Ok(Answer::Waiting(one)), Outcome::Ok(Answer::Waiting(other))) => {
            one.place == other.place
        }
        (
            Outcome::Refused(Refusal::Forbidden { reason: one, .. }),
            Outcome::Refused(Refusal::Forbidden { reason: other, .. }),
        ) => one == other,
        (given, logged) => given == logged,
    }
}
