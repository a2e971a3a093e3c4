//! The oracle beside a machine: it is given the same log, and names the first difference.
//!
//! Two things are learned from the machine, because the oracle does not count steps: the position
//! of a step within its entry, and with it the positions of the facts in the inboxes of sessions.

use keyward_core::lock::{Command, Decision, Operation, Outcome, Proposal, Refusal};
use keyward_core::types::{DecidedAt, Liveness};

use crate::gate::Refused;
use crate::oracle::{Became, Oracle, Said};

/// An oracle that follows the log of a machine.
#[derive(Default, Debug)]
pub struct Follower {
    pub(crate) oracle: Oracle,
}

impl Follower {
    /// Judges what a machine decided about the next entry of its log, one decision a command.
    ///
    /// # Errors
    /// The first difference, in words. Nothing that follows it can be judged.
    pub fn entry(
        &mut self,
        (term, index): (u64, u64),
        proposal: &Proposal,
        decisions: &[Decision],
    ) -> Result<(), String> {
        let expected = self.oracle.apply(term, index, proposal);
        if expected.len() != decisions.len() {
            let (given, wanted) = (decisions.len(), expected.len());
            return Err(format!("entry {index}: {given} decisions on {wanted} commands"));
        }
        for ((decision, said), command) in decisions.iter().zip(expected).zip(&proposal.commands) {
            let given = as_said(decision.clone());
            self.learn(command, &given);
            let is_same = position(&said).is_none_or(|known| position(&given) == Some(known));
            let (given, said) = (without_positions(given), without_positions(said));
            if !is_same || given != said {
                return Err(format!(
                    "entry {index}: {command:?}: the machine decided {decision:?}, and the oracle \
                     {said:?}"
                ));
            }
        }
        Ok(())
    }

    /// The places that have ended by the last entry, in order.
    pub fn became(&self) -> &[Became] {
        &self.oracle.became
    }

    /// Tells the oracle the positions of the facts that sessions were told.
    fn learn(&mut self, command: &Command, given: &Said) {
        if let (Operation::KeepAlive(asked), Said::Outcome(Outcome::KeptAlive(told), _)) =
            (&command.operation, given)
        {
            for (seen, state) in asked.iter().zip(told) {
                if let Liveness::Alive { inbox, .. } = state {
                    self.oracle.learn(seen.session, inbox);
                }
            }
        }
    }
}

/// A decision as the oracle gives it.
pub(crate) fn as_said(decision: Decision) -> Said {
    if let Outcome::Refused(refusal) = &decision.outcome {
        if matches!(refusal, Refusal::BadRequest(_)) {
            return Said::BadRequest;
        } else if matches!(refusal, Refusal::Unauthorized(_)) {
            return Said::Denied(Refused::Stranger);
        } else if matches!(refusal, Refusal::NotAllowed(_)) {
            return Said::Denied(Refused::NotAllowed);
        }
    }
    let at = decision.decided_at.expect("the machine has a log");
    Said::Outcome(decision.outcome, (at.index, Some(at.position)))
}

/// The position within the entry; the oracle knows none if a step brought the result.
fn position(said: &Said) -> Option<u32> {
    if let Said::Outcome(_, (_, position)) = said { *position } else { None }
}

/// Removes the positions that the oracle does not know: those of steps.
fn without_positions(said: Said) -> Said {
    match said {
        Said::Outcome(Outcome::KeptAlive(mut sessions), at) => {
            for session in &mut sessions {
                if let Liveness::Alive { inbox, .. } = session {
                    for item in inbox {
                        item.position = DecidedAt::default();
                    }
                }
            }
            Said::Outcome(Outcome::KeptAlive(sessions), at)
        }
        Said::Outcome(outcome, (index, _)) => Said::Outcome(outcome, (index, None)),
        said @ (Said::BadRequest | Said::Denied(_)) => said,
    }
}
