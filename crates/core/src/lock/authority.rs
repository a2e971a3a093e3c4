//! Authority: the rights that commands and queries need, and the changes of the rules.
//!
//! [`crate::access`] judges needs; this says which they are. A command is judged before it is
//! looked for in its lane, so that a repeated answer is told to nobody who may not ask. A refusal
//! names the right that is missing and leaves no trace in the state.
//!
//! | command or query | right |
//! |---|---|
//! | lock, renew, wait, unlock | `acquire` at a level up to 0, `preempt` above; for the signee |
//! | lock with force | the same, and `force` |
//! | unlock with force | `force` |
//! | limit of a lock | `configure` |
//! | defaults of a table | `configure` on the whole table |
//! | delete a table | `configure` and `force` on the whole table |
//! | open a session | `acquire` on any lock |
//! | keep alive, close, list a session | to have opened it; an administrator closes and lists any |
//! | check, verify | `observe` |
//! | lists, tables, deadlocks | none: they show what may be observed |
//! | rules, tokens, the switch | `admin` |
//!
//! What the cluster itself proposes (the clock, the feature level, the leaving of a place) needs
//! none.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::access::{
    Answer, Bounds, Change, Changed, Denied, Grantee, Judge, Need, Question, Right, Rule,
};
use crate::error::Error;
use crate::lock::changes::RecordKey;
use crate::lock::{Command, LockCommand, Operation, Refusal, State, UnlockCommand};
use crate::principal::Principal;
use crate::types::{DeadlockEdge, DecidedAt, SessionId};

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Unauthorized(reason) => Self::Unauthorized(reason),
            Denied::NotAllowed(reason) => Self::NotAllowed(reason),
        }
    }
}

impl From<Denied> for Error {
    fn from(denied: Denied) -> Self {
        Refusal::from(denied).into()
    }
}

impl State {
    /// Judges whether whoever makes a command may.
    pub(super) fn authorize(&self, command: &Command) -> Result<(), Refusal> {
        let operation = &command.operation;
        let is_of_the_cluster = matches!(
            operation,
            Operation::Advance | Operation::RaiseFeatureLevel(_) | Operation::Leave(_)
        );
        if is_of_the_cluster {
            return Ok(());
        }
        let Some(judge) = self.access.admit(command.principal.as_deref())? else { return Ok(()) };
        Ok(self.judge_operation(&judge, operation)?)
    }

    fn judge_operation(&self, judge: &Judge<'_>, operation: &Operation) -> Result<(), Denied> {
        match operation {
            Operation::Lock(command) => {
                let LockCommand { table, signature, force, .. } = &**command;
                let signee = self.signee(command);
                let level = self.level(command);
                judge.may(&Need::acquire(table, signature, level, signee))?;
                if *force { judge.may(&Need::new(Right::Force, table, signature)) } else { Ok(()) }
            }
            Operation::Unlock(command) => {
                let UnlockCommand { table, signature, signee, force, .. } = &**command;
                judge.may(&match force {
                    true => Need::new(Right::Force, table, signature),
                    false => Need::acquire(table, signature, 0, Some(signee)),
                })
            }
            Operation::SetLimit(command) => {
                judge.may(&Need::new(Right::Configure, &command.table, &command.signature))
            }
            Operation::ConfigureTable(command) => {
                judge.may(&Need::new(Right::Configure, &command.table, ""))
            }
            Operation::DeleteTable { table } => {
                judge.may(&Need::new(Right::Configure, table, ""))?;
                judge.may(&Need::new(Right::Force, table, ""))
            }
            Operation::OpenSession(_) => judge.may_somewhere(Right::Acquire, "open a session"),
            Operation::CloseSession(id) => {
                let session = self.sessions.live(*id, self.clock);
                let is_mine = session.is_none_or(|session| owns(judge, session.actor.as_deref()));
                if is_mine {
                    return Ok(());
                }
                judge.must_be_admin("end the session of another")
            }
            Operation::Access(_) => judge.must_be_admin("change rules and access tokens"),
            // Sessions that it may not keep alive are told as if they were not there. The others
            // are the cluster's own.
            Operation::KeepAlive(_)
            | Operation::Advance
            | Operation::RaiseFeatureLevel(_)
            | Operation::Leave(_) => Ok(()),
        }
    }

    /// The level of a lock request. A renewal by token that names none keeps that of the grant, and
    /// needs the right to it.
    fn level(&self, command: &LockCommand) -> i64 {
        let kept = || {
            let record = self.locks.find(&command.table, &command.signature)?;
            record.holders.get(command.token?).map(|grant| grant.level)
        };
        command.level.or_else(kept).unwrap_or(0)
    }

    /// The owner that a lock request is for, which its session may supply.
    fn signee<'a>(&'a self, command: &'a LockCommand) -> Option<&'a str> {
        if !command.signee.is_empty() {
            return Some(&command.signee);
        }
        let session = command.session.and_then(|id| self.sessions.live(id, self.clock));
        session.map(|session| &*session.signee)
    }

    /// Changes rules, tokens, or whether they count.
    pub(super) fn change_access(&mut self, change: &Change) -> Result<Changed, Refusal> {
        let touched = match change {
            Change::PutRule(rule) => Some(RecordKey::Rule(rule.name.key())),
            Change::RemoveRule(name) => Some(RecordKey::Rule(name.key())),
            Change::PutToken(token) => Some(RecordKey::Credential(token.id())),
            Change::RevokeToken(id) => Some(RecordKey::Credential(*id)),
            Change::Switch(_) | Change::Bootstrap { .. } => None,
        };
        let before = self.access.records();
        let access = Arc::make_mut(&mut self.access);
        let changed = access.change(change, Bounds::default()).map_err(Refusal::BadRequest)?;
        let after = self.access.records();
        if let Change::Bootstrap { token, .. } = change {
            self.tracker.come(|| RecordKey::Credential(token.id()));
            let rule = Rule::admin(Grantee::Identity(token.identity.clone()));
            self.tracker.note(|| RecordKey::Rule(rule.name.key()));
        } else if let Some(key) = touched.filter(|_| changed == Changed::Done) {
            match after.cmp(&before) {
                Ordering::Less => self.tracker.gone(|| key),
                Ordering::Equal => self.tracker.note(|| key),
                Ordering::Greater => self.tracker.come(|| key),
            }
        }
        Ok(changed)
    }

    /// Finds who reads; `None` if everybody may read everything.
    ///
    /// # Errors
    /// `Unauthorized`.
    pub(super) fn reader<'a>(
        &'a self,
        principal: Option<&'a Principal>,
    ) -> Result<Option<Judge<'a>>, Error> {
        Ok(self.access.admit(principal)?)
    }

    /// Whether a reader may look at a session: whoever has opened it, and administrators.
    pub(super) fn shows_session(&self, judge: &Judge<'_>, id: SessionId) -> bool {
        let session = self.sessions.live(id, self.clock);
        session.is_some_and(|session| owns(judge, session.actor.as_deref())) || judge.is_admin()
    }

    /// Answers a question about rules and tokens.
    ///
    /// # Errors
    /// `Unauthorized`, `NotAllowed`.
    pub(super) fn answer_access(
        &self,
        question: &Question,
        principal: Option<&Principal>,
        decided_at: Option<DecidedAt>,
    ) -> Result<Answer, Error> {
        Ok(self.access.answer(question, principal, decided_at)?)
    }
}

/// Whether somebody opened the session of this principal.
fn owns(judge: &Judge<'_>, actor: Option<&str>) -> bool {
    actor == Some(judge.identity())
}

/// Whether a reader may observe every lock of a cycle.
pub(super) fn shows_cycle(judge: &Judge<'_>, cycle: &[DeadlockEdge]) -> bool {
    cycle.iter().all(|edge| judge.observes(&edge.table, &edge.signature))
}
