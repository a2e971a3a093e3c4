//! The requests to a lock service, its answers, and the faults meanwhile.
//!
//! A history is written by one [`Recorder`] with one clock and read by the checks in
//! [`crate::check`]. It is kept as JSON lines: a [`Header`], then [`Entry`] after entry in the
//! order in which they ended, then a [`Footer`]; `docs/history.md` describes the format for people
//! and for other languages. A file without a footer was truncated, and cannot be checked.
//!
//! Three rules make a history worth checking, and are followed here, not in each workload:
//! - `invoked` is read *before* anything is sent, `returned` after the answer has arrived.
//! - A timeout, a reset or a dropped future is [`Outcome::Unknown`]. It has no `returned`: it stays
//!   open for ever, because it may still take effect.
//! - All the attempts of a client at one request, under one `request_id`, are one operation.
//!
//! [`Recorded`] wraps a [`keyward::LockService`] and keeps to all three.

mod entry;
mod file;
mod header;
mod open_writes;
mod operation;
mod recorded;
mod recorder;
mod sessions;
#[cfg(test)]
mod tests;

pub use entry::{Applied, Entry, Event, Fault, FaultState, Observation, RecordSeen};
pub use file::{History, HistoryError, Reader};
pub use header::{Clocks, FORMAT, Footer, Header, OLDEST, Plan, PlannedFault, VERSION};
pub use open_writes::OpenWrites;
pub use operation::{
    Action, Answer, Granted, HolderSeen, LockAction, LockName, Operation, Outcome, PlaceSeen,
    QueueSeen, Refusal, RegisterRead, RegisterWrite, Status, Turn, UnlockAction, WaitingSeen,
};
pub use recorded::{Recorded, answered_check, decided, decided_session};
pub use recorder::{Call, OpenFault, Recorder, SessionCall};
pub use sessions::{ItemSeen, NewsSeen, SessionAction, SessionOperation, SessionOutcome};
