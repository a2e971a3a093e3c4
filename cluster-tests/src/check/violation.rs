//! The ways in which a history can break the contract, in types and in words.

use std::fmt;

use serde::Serialize;

use crate::history::{LockName, Operation};

/// Something that the contract does not allow.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Violation {
    /// The invariant that was broken.
    pub broken: Broken,
    /// The lock, where it is about one.
    pub lock: Option<LockName>,
    /// The finding, in words and numbers.
    pub found: String,
    /// The operations that contradict each other: the fewest that show it. The one with the wrong
    /// answer comes last.
    pub operations: Vec<Operation>,
    /// The window from the invocation of the first of them to the end of the last, in nanoseconds.
    pub window: (u64, u64),
}

impl Violation {
    pub(super) fn new(broken: Broken, found: String, operations: Vec<Operation>) -> Self {
        let lock = operations.last().map(|operation| operation.lock().clone());
        let begin = operations.iter().map(|operation| operation.invoked).min().unwrap_or(0);
        let ends = operations
            .iter()
            .map(|operation| operation.returned.or(operation.gave_up).unwrap_or(operation.invoked));
        let window = (begin, ends.max().unwrap_or(begin));
        Self { broken, lock, found, operations, window }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.broken.invariant())?;
        if let Some(lock) = &self.lock {
            write!(f, "{lock}: ")?;
        }
        f.write_str(&self.found)
    }
}

/// The invariants.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Broken {
    /// Two writes were decided at one place of the log.
    PlaceTakenTwice,
    /// One operation returned before another was invoked, and comes after it in the log.
    RealTimeOrder,
    /// An answer differs from the contract's at its place in the log.
    WrongAnswer,
    /// A grant ended before its time.
    EarlyExpiry,
    /// A grant that was expired is live again.
    Revived,
    /// A new token is not larger than all before it.
    TokenNotGrowing,
    /// The remaining time of a grant is longer, or shorter, than possible.
    RemainingTime,
    /// The answers to a repeated request differ.
    RepeatedDifferently,
    /// No order of the operations explains their answers.
    NotLinearizable,
    /// More owners held the lock at once than may.
    TwoHolders,
    /// One token was given to two grants.
    TokenReused,
    /// A token was seen after a larger one.
    TokenDecreased,
    /// An update of the guarded register was overwritten by one that had not seen it.
    LostUpdate,
    /// The guarded register accepted a write with a token smaller than one that it had seen.
    StaleWriteAccepted,
    /// A read of the guarded register did not show what was written to it.
    RegisterRead,
    /// Somebody was granted past a place of the same or a higher level.
    Overtaken,
    /// Something was granted, held or waited for in a session that has ended, or it came back.
    SessionEnded,
    /// The inbox of a session does not tell what became of a place, or is out of order.
    InboxLost,
    /// A grant that moved to another session or became exclusive has its old token.
    TokenKept,
    /// An acknowledged write is missing from a node's final state.
    AcknowledgedLost,
    /// Two nodes that applied the same log differ.
    NodesDiffer,
    /// No lock could be acquired after the last fault was taken back.
    NotAlive,
}

impl Broken {
    /// The invariant that was broken, in words.
    pub fn invariant(self) -> &'static str {
        match self {
            Self::PlaceTakenTwice => "each write has a place of its own in the log",
            Self::RealTimeOrder => {
                "what returned before another was invoked comes before it in the log"
            }
            Self::WrongAnswer => "every answer is the contract's at its place in the log",
            Self::EarlyExpiry => "no grant ends before its duration has passed",
            Self::Revived => "a dead grant is never revived",
            Self::TokenNotGrowing => "a new token is larger than all before it",
            Self::RemainingTime => {
                "the remaining time is neither more than was given nor less than is left"
            }
            Self::RepeatedDifferently => "a repeated request is answered the same",
            Self::NotLinearizable => "some order within real time explains every answer",
            Self::TwoHolders => "a lock has at most the permitted holders",
            Self::TokenReused => "each grant has a token of its own",
            Self::TokenDecreased => "tokens grow in the order of real time",
            Self::LostUpdate => "no update made under the lock is lost",
            Self::StaleWriteAccepted => "the register refuses tokens smaller than it has seen",
            Self::RegisterRead => "a read of the register shows the last write before it",
            Self::Overtaken => "nobody overtakes a place of the same or a higher level",
            Self::SessionEnded => "nothing lives in a session that has ended, and none comes back",
            Self::InboxLost => "an inbox tells the end of each place, in order, until it was seen",
            Self::TokenKept => "a grant that is moved or becomes exclusive gets a new token",
            Self::AcknowledgedLost => "nothing acknowledged is lost",
            Self::NodesDiffer => "nodes that applied the same log are equal",
            Self::NotAlive => "once the faults are gone, a fresh lock is given in time",
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.invariant())
    }
}

/// A nanosecond time of a history, in seconds.
pub(super) fn seconds(nanos: u64) -> String {
    let micros = nanos / 1000;
    format!("{}.{:06} s", micros / 1_000_000, micros % 1_000_000)
}
