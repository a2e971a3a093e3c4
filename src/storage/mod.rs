//! The durable data of a node: the Raft log and vote, snapshot files, the checkpoint of the
//! replicated state, and the identity of the data folder.
//!
//! This module handles bytes and knows neither the consensus library nor the lock rules. Calls are
//! synchronous; the log has one writer thread, and the checkpoint's caller brings its own.
//! Everything except the checkpoint runs over [`Disk`], so that a test can cut the power after any
//! write.
//!
//! The rules that every file follows:
//! - Data that was reported durable is there after a crash, or the node stops with a message that
//!   names the file and what to do. Nothing that fails its checksum is skipped.
//! - A write or fsync that failed is never retried: after it, the contents of the disk are unknown.
//!   The log reports the failure, refuses everything from then on, and the program ends.
//! - The checkpoint is the one exception: it is a copy, so it is accepted whole or discarded.
//!
//! Start reading with [`log`], then [`disk`].

pub mod checkpoint;
pub mod disk;
mod encoding;
mod envelope;
mod error;
pub mod identity;
pub mod inspect;
pub mod log;
pub mod snapshots;
#[cfg(test)]
mod sweep;

use std::fmt;

use bytes::Bytes;
use serde::Serialize;

use crate::random;

pub use checkpoint::Checkpoint;
pub use disk::{Disk, MemDisk, RealDisk};
pub use error::StorageError;
pub(crate) use error::io_may_pass;
pub use identity::{FolderLock, Identity};
pub use inspect::inspect;
pub use log::{Log, LogOptions, LogState, PromiseCounter, Promises, Recovered};
pub use snapshots::Snapshots;

/// The id of a log entry: the term it was proposed in and its index in the log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize)]
pub struct LogId {
    /// The leader's term.
    pub term: u64,
    /// Counted from 0, without holes.
    pub index: u64,
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index, self.term)
    }
}

/// An entry of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogEntry {
    /// The entry's id.
    pub id: LogId,
    /// The entry's contents; the log does not interpret them.
    pub payload: Bytes,
}

/// The vote of this node: at most one candidate per term.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Vote {
    /// The term voted in.
    pub term: u64,
    /// The candidate voted for.
    pub node: u64,
    /// Whether a majority is known to have voted the same.
    pub committed: bool,
}

/// A random 128-bit number that names a node, a cluster or one run of the program.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Uuid(pub u128);

impl Uuid {
    /// A new one.
    pub fn random() -> Self {
        Self(random::number())
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Spreads a number over all 64 bits (the finaliser of `SplitMix64`); equal for ever.
pub(crate) fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}
