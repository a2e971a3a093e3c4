//! An observer of a node's state machine, for what must know each entry that is applied.

use bytes::Bytes;

use crate::lock::{Decision, Event, Proposal, State};
use crate::raft::codec;
use crate::raft::types::Payload;

/// An entry that was applied.
#[derive(Clone, Debug)]
pub struct AppliedEntry<'a> {
    /// Its index in the log.
    pub index: u64,
    /// The term of the leader that proposed it.
    pub term: u64,
    /// The commands and their stamp, unless it is a blank or membership entry.
    pub proposal: Option<&'a Proposal>,
    /// One decision for each command, in order.
    pub decisions: &'a [Decision],
    /// Its changes, if the observer hears of them.
    pub events: &'a [Event],
    pub(super) payload: &'a Payload,
}

impl AppliedEntry<'_> {
    /// Its encoded payload, as it is in the log.
    pub fn payload(&self) -> Bytes {
        codec::encode_payload(self.payload)
    }
}

/// Sees what a node's state machine does. It is called in the task that applies, which waits for it.
pub trait Observer: Send + Sync + 'static {
    /// Whether it hears of the changes of each entry, which cost something.
    fn hears_events(&self) -> bool {
        false
    }

    /// An entry was applied. Entries that are applied again after a start are seen again.
    fn applied(&self, entry: &AppliedEntry<'_>);

    /// A snapshot of this state, up to the entry at `index`, is about to be written.
    fn snapshot(&self, index: Option<u64>, state: &State);
}
