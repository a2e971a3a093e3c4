//! An observer of a node's state machine, for what must know each entry that is applied.

use bytes::Bytes;

use crate::lock::{Decision, Proposal, State};

/// An entry that was applied.
#[derive(Clone, Debug)]
pub struct AppliedEntry<'a> {
    /// Its index in the log.
    pub index: u64,
    /// The term of the leader that proposed it.
    pub term: u64,
    /// Its encoded payload, as it is in the log.
    pub payload: Bytes,
    /// The commands and their stamp, unless it is a blank or membership entry.
    pub proposal: Option<&'a Proposal>,
    /// One decision for each command, in order.
    pub decisions: &'a [Decision],
}

/// Sees what a node's state machine does. It is called in the task that applies, which waits for it.
pub trait Observer: Send + Sync + 'static {
    /// An entry was applied. Entries that are applied again after a start are seen again.
    fn applied(&self, entry: &AppliedEntry<'_>);

    /// A snapshot of this state, up to the entry at `index`, is about to be written.
    fn snapshot(&self, index: Option<u64>, state: &State);
}
