//! Tests of the lock machine.
//!
//! A second lock machine, slow and simple, is in `crates/oracle/src/oracle.rs`; `histories.rs` there checks
//! on random logs that the two agree, and the properties of design and contract. `rows.rs` has each row of
//! the contract's table, `time.rs` expiry, removal and stamps, `repeats.rs` the request lanes,
//! `access.rs` who may do what, `restore.rs` the first state of a new cluster, `tables.rs` the tables, `deletion.rs` their end in portions, `bytes.rs` the encodings, also of hostile bytes, `ends.rs` how grants
//! end, `bounds.rs` the behaviour at the limits.

mod access;
mod bounds;
mod bytes;
mod deletion;
mod ends;
mod modes;
mod queue;
mod repeats;
mod restore;
mod rows;
mod sessions;
mod tables;
mod time;

use std::sync::Arc;
use std::time::Duration;

use crate::lock::{
    ClusterTime, Command, Decision, Keep, LockCommand, Operation, Outcome, Proposal, Stamp, State,
    TableCommand, UnlockCommand,
};
use crate::principal::Principal;
use crate::types::{DecidedAt, Grant, Holder, LockStatus, Mode, RequestId, Token, UnlockStatus};

const TERM: u64 = 1;

/// The grant of an answer, if there is one.
fn granted(status: &LockStatus) -> Option<&Grant> {
    match status {
        LockStatus::Ok(grant)
        | LockStatus::Renewed(grant)
        | LockStatus::Transferred { grant, .. } => Some(grant),
        LockStatus::Waiting(_) | LockStatus::Failed(_) => None,
    }
}

/// A state with a log of its own: each command is an entry, at a time that the test sets.
#[derive(Debug, Default)]
struct Machine {
    state: State,
    index: u64,
    now_ms: u64,
}

impl Machine {
    fn decide(&mut self, command: Command) -> Decision {
        self.index += 1;
        let time = ClusterTime(self.now_ms * 1000);
        let proposal = Proposal { stamp: Stamp { term: TERM, time }, commands: vec![command] };
        let mut decisions = self.state.apply(TERM, self.index, &proposal);
        self.state.assert_invariants();
        assert_eq!(decisions.len(), 1);
        decisions.remove(0)
    }

    /// Applies an entry of many commands, without a look at their decisions.
    fn apply(&mut self, commands: Vec<Command>) {
        self.index += 1;
        let time = ClusterTime(self.now_ms * 1000);
        let proposal = Proposal { stamp: Stamp { term: TERM, time }, commands };
        self.state.apply_quietly(TERM, self.index, &proposal);
    }

    fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        self.decide(Command::advance());
    }

    /// Works off all that is due. Returns the number of entries that it took.
    fn work_off(&mut self) -> usize {
        let now = ClusterTime(self.now_ms * 1000);
        let mut entries = 0;
        while self.state.next_deadline().is_some_and(|due| due.reached(now)) {
            self.pass(0);
            entries += 1;
        }
        entries
    }

    fn outcome(&mut self, operation: impl Into<Operation>) -> Outcome {
        let decision = self.decide(Command::from(operation.into()));
        assert_eq!(decision.decided_at, Some(DecidedAt { index: self.index, position: 0 }));
        decision.outcome
    }

    fn lock(&mut self, command: LockCommand) -> LockStatus {
        let outcome = self.outcome(command);
        let Outcome::Lock(status) = outcome else { panic!("not judged: {outcome:?}") };
        status
    }

    fn unlock(&mut self, command: UnlockCommand) -> UnlockStatus {
        let outcome = self.outcome(command);
        let Outcome::Unlock(status) = outcome else { panic!("not judged: {outcome:?}") };
        status
    }

    fn holder(&self) -> Option<Holder> {
        self.state.check("default", "s").map(|record| {
            assert_eq!(record.signature, "s");
            assert_eq!(record.holders.len(), 1, "an exclusive lock has one holder");
            record.holders.into_iter().next().unwrap()
        })
    }
}

impl From<LockCommand> for Operation {
    fn from(command: LockCommand) -> Self {
        Self::Lock(Box::new(command))
    }
}

impl From<UnlockCommand> for Operation {
    fn from(command: UnlockCommand) -> Self {
        Self::Unlock(Box::new(command))
    }
}

impl From<TableCommand> for Operation {
    fn from(command: TableCommand) -> Self {
        Self::ConfigureTable(Box::new(command))
    }
}

/// A lock command for the lock `s` of the default table, for 1000 ms; its record is kept for ever.
fn by(signee: &str) -> LockCommand {
    LockCommand {
        table: "default".into(),
        signature: "s".into(),
        signee: signee.into(),
        instance: None,
        level: None,
        force: false,
        duration_ms: Some(1000),
        time_to_live: Some(Keep::ForEver),
        ..LockCommand::default()
    }
}

fn release(signee: &str) -> UnlockCommand {
    UnlockCommand {
        table: "default".into(),
        signature: "s".into(),
        signee: signee.into(),
        ..UnlockCommand::default()
    }
}

/// A principal with this name and nothing else.
fn principal(identity: &str) -> Arc<Principal> {
    Arc::new(Principal::named(identity))
}

fn with_id(operation: impl Into<Operation>, lane: u128, seq: u64) -> Command {
    Command { request_id: Some(RequestId { lane, seq }), ..Command::from(operation.into()) }
}

/// A live grant whose record is kept for ever, as the answer to `by` shows it.
fn grant(token: u64, level: i64, expires_in_ms: u64) -> Grant {
    Grant {
        token: Token(token),
        level,
        expires_in: Duration::from_millis(expires_in_ms),
        removed_in: None,
        live: true,
        mode: Mode::Exclusive,
        slot: None,
        valid: Duration::from_millis(expires_in_ms),
    }
}

fn holder(signee: &str, token: u64, level: i64, expires_in_ms: u64) -> Holder {
    Holder {
        signee: signee.to_owned(),
        instance: None,
        level,
        token: Token(token),
        expires_in: Duration::from_millis(expires_in_ms),
        expired: expires_in_ms == 0,
        ..Holder::default()
    }
}
