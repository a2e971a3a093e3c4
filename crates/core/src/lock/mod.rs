//! The lock machine: pure, total and the same on every node.
//!
//! A [`Proposal`] is a leader's payload for the log: one stamp of the cluster clock and the
//! commands of the requests it serves. [`State::apply`] turns it into one [`Decision`] per command.
//! A short chapter in `state.rs` explains the guarantees of the machine and how it works.
//!
//! It never reads a clock, does I/O, waits, draws random numbers or iterates in hash order: equal
//! logs give equal bytes. It may use [`crate::types`], [`crate::error`], [`crate::access`] and the
//! primitives of `codec.rs` and nothing else of the crate.
//!
//! Look next at `state.rs` (the machine), `rules.rs` (the contract's table), `authority.rs` (who may
//! ask for what), `lanes.rs` (repeated
//! requests), `snapshot.rs` (a state as bytes) and `validate.rs` (checks before anything is
//! proposed).

mod authority;
mod awaited;
mod changes;
mod command;
mod decision;
pub mod encoding;
mod ends;
mod events;
mod holders;
mod lanes;
mod locks;
mod query;
mod queue;
mod record;
mod requests;
mod restore;
mod rules;
mod sessions;
mod small;
mod snapshot;
mod state;
mod table;
mod turns;
mod validate;
mod views;

#[cfg(test)]
mod tests;

pub use crate::codec::DecodeError;
pub use awaited::{Awaited, Fate};
pub use changes::{Changed, Changes};
pub use command::{
    ClusterTime, Command, Keep, LeaveCommand, LimitCommand, LockCommand, Operation, Proposal,
    SessionCommand, Stamp, TableCommand, UnlockCommand,
};
pub use decision::{Decision, Outcome, Refusal, Step};
pub use ends::{End, Ends, HELD_BOUNDS, Held, WaitEnd};
pub use events::{Change, Event, GrantEnd, HowLock, LockChange, SessionChange};
pub use locks::Deleted;
pub use query::{Query, Subject, View};
pub use restore::{NoTokensLeft, TOKEN_GAP};
pub use snapshot::Loader;
pub use state::{Counts, FEATURE_LEVEL, State};
pub use validate::Invalid;
pub use validate::MAX_COMMAND_BYTES;
