//! Errors of the data folder, worded so that an operator knows what to do.

use std::io;
use std::sync::Arc;

use super::{Promises, Uuid};

/// The reason why the data folder cannot be used, or can no longer be used.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// A call to the file system failed. After a failed write or fsync the contents of the disk are
    /// unknown, so it is never retried.
    #[error("cannot {action} {file}{}", hint(.source))]
    Io {
        /// The operation that failed: "write", "sync", "read"…
        action: &'static str,
        /// The file, relative to the data folder.
        file: String,
        /// The error from the operating system.
        #[source]
        source: io::Error,
    },
    /// The file does not hold what was written to it.
    #[error("{file} is damaged at byte {offset}: {what}; {advice}")]
    Damaged {
        /// The file, relative to the data folder.
        file: String,
        /// The offset at which the first unreadable part begins.
        offset: u64,
        /// The damage found there.
        what: String,
        /// Advice to the operator.
        advice: &'static str,
    },
    /// A file that must exist does not.
    #[error("{file} is missing although {because}; {advice}")]
    Missing {
        /// The file, relative to the data folder.
        file: String,
        /// The reason why it must exist.
        because: &'static str,
        /// Advice to the operator.
        advice: &'static str,
    },
    /// The contents of the file need a later version of the program.
    #[error("{file} cannot be used: {what}")]
    TooNew {
        /// The file, relative to the data folder.
        file: String,
        /// The part that this program does not know.
        what: String,
    },
    /// The file was written by a later version of the program.
    #[error("{file} has format {found}, this program knows up to {known}; use a newer program")]
    Version {
        /// The file, relative to the data folder.
        file: String,
        /// Its version.
        found: u32,
        /// The latest version known here.
        known: u32,
    },
    /// Another process uses the folder.
    #[error("{folder} is in use by another process (it holds the lock on its LOCK file)")]
    Locked {
        /// The data folder.
        folder: String,
    },
    /// The folder belongs to another node.
    #[error(
        "the data folder belongs to node {found}, not to node {wanted}; check --id and --data-dir"
    )]
    WrongNode {
        /// The node that owns the folder.
        found: u64,
        /// The node that tried to open it.
        wanted: u64,
    },
    /// The folder belongs to another cluster.
    #[error(
        "the data folder belongs to cluster {found}, not to cluster {wanted}; check --data-dir and \
         --members"
    )]
    WrongCluster {
        /// The folder's cluster.
        found: Uuid,
        /// The cluster that was expected.
        wanted: Uuid,
    },
    /// The folder is a copy that may lack what its node had promised.
    #[error(
        "the data folder is an old copy: its {file} file is not the one that was written, and the \
         copy was made while the node ran or after it was killed, so it may lack votes and entries \
         that the node had acknowledged; put back the folder itself, or start the node on it once \
         more, stop it in good order and copy it then; see docs/operations.md#replacing-a-node"
    )]
    Copied {
        /// The file that is not the original.
        file: String,
    },
    /// Some files of the folder are older than others.
    #[error(
        "the data folder has files of an old copy: its log and vote hold the promises {found}, its \
         identity knows of {known}; put back the folder itself; see \
         docs/operations.md#replacing-a-node"
    )]
    OldFiles {
        /// The promises in the log and the vote.
        found: Promises,
        /// Those that the identity knows of.
        known: Promises,
    },
    /// A peer has found that the folder is an old copy.
    #[error(
        "the data folder must not be used again: {reason}; see \
         docs/operations.md#replacing-a-node"
    )]
    Retired {
        /// The peer's finding.
        reason: String,
    },
    /// The caller broke a rule of the interface; nothing was done.
    #[error("refused: {0}")]
    Misuse(String),
    /// A write failed earlier, so nothing is accepted any more.
    #[error("nothing is accepted after a failed write")]
    Failed(#[source] Arc<StorageError>),
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
    /// The checkpoint's writer ended.
    #[error("the checkpoint cannot be written: {0}")]
    Checkpoint(String),
}

/// Advice for a damaged or missing part of a node that has acknowledged entries or votes.
pub(crate) const REPLACE_NODE: &str = "do not edit or remove it: restore the file from this same \
     disk if that is possible, otherwise see docs/operations.md#replacing-a-node";

impl StorageError {
    /// Whether a later attempt may succeed with this folder and these settings: the disk is full,
    /// or another process is still using the folder.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Io { source, .. } => io_may_pass(source),
            Self::Failed(earlier) => earlier.may_pass(),
            Self::Locked { .. } | Self::Closed | Self::Checkpoint(_) => true,
            Self::Damaged { .. }
            | Self::Missing { .. }
            | Self::TooNew { .. }
            | Self::Version { .. }
            | Self::WrongNode { .. }
            | Self::WrongCluster { .. }
            | Self::Retired { .. }
            | Self::Copied { .. }
            | Self::OldFiles { .. }
            | Self::Misuse(_) => false,
        }
    }

    /// Whether the disk was full, in which case the write may be retried.
    pub(crate) fn is_full_disk(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_full_disk(source))
    }

    /// Returns a closure for `map_err` that adds the operation and the file.
    pub(crate) fn io(action: &'static str, file: impl Into<String>) -> impl Fn(io::Error) -> Self {
        let file = file.into();
        move |source| Self::Io { action, file: file.clone(), source }
    }

    pub(crate) fn damaged(file: &str, offset: u64, what: impl Into<String>) -> Self {
        Self::Damaged { file: file.to_owned(), offset, what: what.into(), advice: REPLACE_NODE }
    }
}

/// Whether the system may later allow what it has refused. A missing permission and wrong contents
/// do not pass.
pub(crate) fn io_may_pass(error: &io::Error) -> bool {
    !matches!(
        error.kind(),
        io::ErrorKind::PermissionDenied
            | io::ErrorKind::InvalidData
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::Unsupported
    )
}

fn is_full_disk(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn hint(source: &io::Error) -> &'static str {
    if is_full_disk(source) {
        ": the disk is full; free some space and start again"
    } else if source.kind() == io::ErrorKind::PermissionDenied {
        ": check the owner and the mode of the data folder"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_told_from_what_never_does() {
        let io = |kind: io::ErrorKind| StorageError::io("write", "log")(kind.into());
        for passing in [
            io(io::ErrorKind::StorageFull),
            io(io::ErrorKind::Other),
            StorageError::Locked { folder: "f".to_owned() },
            StorageError::Failed(Arc::new(io(io::ErrorKind::QuotaExceeded))),
        ] {
            assert!(passing.may_pass(), "{passing}");
        }
        for lasting in [
            io(io::ErrorKind::PermissionDenied),
            StorageError::damaged("log", 7, "a wrong sum"),
            StorageError::WrongNode { found: 1, wanted: 2 },
            StorageError::Failed(Arc::new(StorageError::damaged("log", 7, "a wrong sum"))),
        ] {
            assert!(!lasting.may_pass(), "{lasting}");
        }
    }
}
