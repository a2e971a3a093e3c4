//! The lock machine in the model: the real one, after the model's log.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use keyward::lock::{
    ClusterTime, Command, LockCommand, Operation, Outcome, Proposal, Stamp, State,
};
use keyward::types::{LockStatus, Token};

use super::world::{Made, What};
use super::{DURATION_TICKS, TICK_US};

const TABLE: &str = "default";
const SIGNATURE: &str = "s";
const SIGNEES: [&str; 2] = ["ann", "bob"];

/// The machine after the whole log. Two are equal if nodes that start from them are: their past is
/// not compared, so that worlds with different pasts and the same future are one.
#[derive(Clone)]
pub(super) struct Machine {
    state: Arc<State>,
    encoded: Arc<[u8]>,
}

impl Machine {
    fn of(state: State) -> Self {
        Self { encoded: state.encode().into(), state: Arc::new(state) }
    }
}

impl Default for Machine {
    fn default() -> Self {
        Self::of(State::default())
    }
}

impl PartialEq for Machine {
    fn eq(&self, other: &Self) -> bool {
        self.encoded == other.encoded
    }
}

impl Eq for Machine {}

impl Hash for Machine {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.encoded.hash(hasher);
    }
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "C = {}, {:?}", self.state.clock(), self.holder())
    }
}

/// The holder of the lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Holder {
    pub(super) client: usize,
    pub(super) token: u64,
    pub(super) expired: bool,
}

/// The answer to a client.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Told {
    /// It holds the lock.
    Granted {
        /// The token.
        token: u64,
        /// The remaining time in microseconds.
        expires_in_us: u64,
        /// Whether it is a renewal of the same token.
        renewed: bool,
    },
    /// It does not.
    Refused,
}

impl Machine {
    pub(super) fn clock_us(&self) -> u64 {
        self.state.clock().0
    }

    pub(super) fn holders(&self) -> usize {
        self.state.check(TABLE, SIGNATURE).map_or(0, |record| record.holders.len())
    }

    pub(super) fn holder(&self) -> Option<Holder> {
        let record = self.state.check(TABLE, SIGNATURE)?;
        let holder = record.holders.first()?;
        let client = SIGNEES.iter().position(|signee| *signee == holder.signee)?;
        Some(Holder { client, token: holder.token.0, expired: holder.expired })
    }

    /// The machine after one more entry, and the answer to its client.
    pub(super) fn apply(&self, entry_term: u8, index: u64, made: &Made) -> (Self, Option<Told>) {
        let command = command(made.what);
        let stamp = Stamp { term: made.term.into(), time: ClusterTime(made.time_us) };
        let proposal = Proposal { stamp, commands: vec![command] };
        let mut state = State::clone(&self.state);
        let decision = state.apply(entry_term.into(), index, &proposal).remove(0);
        let told = if let Outcome::Lock(
            LockStatus::Ok(grant)
            | LockStatus::Renewed(grant)
            | LockStatus::Transferred { grant, .. },
        ) = &decision.outcome
        {
            Some(Told::Granted {
                token: grant.token.0,
                expires_in_us: u64::try_from(grant.expires_in.as_micros()).unwrap_or(u64::MAX),
                renewed: matches!(made.what, What::Renew(..)),
            })
        } else if matches!(decision.outcome, Outcome::Lock(LockStatus::Failed(_))) {
            Some(Told::Refused)
        } else {
            // A stale stamp: the request was not done, and the answer says so.
            let is_stale = matches!(decision.outcome, Outcome::Refused(_));
            (is_stale && made.what != What::Advance).then_some(Told::Refused)
        };
        (Self::of(state), told)
    }

    pub(super) fn is_as(&self, other: &Self) -> bool {
        *self.state == *other.state
    }
}

fn command(what: What) -> Command {
    let (client, token) = match what {
        What::Advance => return Command::advance(),
        What::Lock(client) => (client, None),
        What::Renew(client, token) => (client, Some(Token(token))),
    };
    Command::from(Operation::Lock(Box::new(LockCommand {
        table: TABLE.into(),
        signature: SIGNATURE.into(),
        signee: SIGNEES[client].into(),
        duration_ms: Some(DURATION_TICKS * TICK_US / 1000),
        token,
        ..LockCommand::default()
    })))
}
