//! The oracle beside a machine: it is given the same log, and names the first difference.
//!
//! Two things are learned from the machine, because the oracle does not count steps: the position
//! of a step within its entry, and with it the positions of the facts in the inboxes of sessions.

use keyward_core::lock::{Command, Decision, Operation, Outcome, Proposal, Refusal};
use keyward_core::types::{DecidedAt, ForbiddenReason, Liveness, Loss, News};

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
            let (given, mut said) = (without_positions(given), without_positions(said));
            cut_inboxes(&given, &mut said);
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

/// Leaves out of inboxes what the machine has yet to tell of deletions of tables: it works them off in
/// portions, and the oracle at once. Leaves out, too, what an answer that is full has no room for, which
/// the oracle does not count. Nothing else may be missing, or be told in another order.
fn cut_inboxes(given: &Said, said: &mut Said) {
    let (Said::Outcome(Outcome::KeptAlive(given), _), Said::Outcome(Outcome::KeptAlive(said), _)) =
        (given, said)
    else {
        return;
    };
    let items = |state: &Liveness| match state {
        Liveness::Alive { inbox, .. } => inbox.len(),
        Liveness::Lost => 0,
    };
    let is_full = given.iter().map(items).sum::<usize>() == Liveness::MAX_ITEMS;
    for (given, said) in given.iter().zip(said) {
        let (
            Liveness::Alive { inbox: told, more: told_more, .. },
            Liveness::Alive { inbox, more, .. },
        ) = (given, said)
        else {
            continue;
        };
        let mut left = told.iter().peekable();
        inbox.retain(|item| left.next_if_eq(&item).is_some() || !is_of_a_deletion(item.news));
        if *told_more && is_full {
            inbox.truncate(told.len());
            *more = true;
        }
    }
}

fn is_of_a_deletion(news: News) -> bool {
    matches!(
        news,
        News::Lost { reason: Loss::TableDeleted, .. } | News::Ended(ForbiddenReason::TableDeleted)
    )
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
