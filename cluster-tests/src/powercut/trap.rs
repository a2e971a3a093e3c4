//! The death of a process at one chosen call.
//!
//! A disk can end the process that uses it right before or right after one of its calls: the power
//! is off from then on, the process gets `SIGKILL`, and only then is the call answered, so that no
//! part of the process runs on. Only calls that change the disk's contents or make a change durable
//! are counted; lookups and reads are no boundaries. Calls of the harness itself in the folder are
//! not counted.

use std::fmt;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

/// A call that changes the disk's contents, or makes a change durable.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Call {
    /// Creates a file.
    Create,
    /// Creates a folder.
    CreateFolder,
    /// Writes bytes of a file.
    Write,
    /// Sets a file's length.
    Truncate,
    /// `fsync` or `fdatasync` of a file.
    Sync,
    /// `fsync` of a folder.
    SyncFolder,
    /// Renames a file or folder.
    Rename,
    /// Removes the name of a file or a folder.
    Remove,
}

impl Call {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Create,
        Self::CreateFolder,
        Self::Write,
        Self::Truncate,
        Self::Sync,
        Self::SyncFolder,
        Self::Rename,
        Self::Remove,
    ];
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "create",
            Self::CreateFolder => "create a folder",
            Self::Write => "write",
            Self::Truncate => "truncate",
            Self::Sync => "sync",
            Self::SyncFolder => "sync a folder",
            Self::Rename => "rename",
            Self::Remove => "remove",
        })
    }
}

/// The side of a call on which the process dies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// The call has no effect.
    Before,
    /// The call has an effect, but is not answered.
    After,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Before => "before",
            Self::After => "after",
        })
    }
}

/// The call at which the process that uses a disk is to die.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trap {
    /// The number of the call, from 1.
    pub number: u64,
    /// Before the call or after it.
    pub side: Side,
    /// Counting begins with the first call on a path that contains this; with any call if it is
    /// empty.
    pub from: &'static str,
}

/// The call at which a process died.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sprung {
    /// The kind of call.
    pub call: Call,
    /// Its path, below the folder that the disk is mounted on. For a rename, the old name.
    pub path: String,
}

/// A trap that was set, with its progress.
#[derive(Debug)]
pub(super) struct Set {
    trap: Trap,
    counted: u64,
    sprung: Option<Sprung>,
}

impl Set {
    pub(super) fn new(trap: Trap) -> Self {
        Self { trap, counted: 0, sprung: None }
    }

    /// Counts a call; returns the side on which the process dies, if this is the chosen call.
    pub(super) fn count(&mut self, call: Call, path: &str) -> Option<Side> {
        let begun = self.counted > 0 || path.contains(self.trap.from);
        if self.sprung.is_some() || !begun {
            return None;
        }
        self.counted += 1;
        (self.counted == self.trap.number).then(|| {
            self.sprung = Some(Sprung { call, path: path.to_owned() });
            self.trap.side
        })
    }

    pub(super) fn sprung(&self) -> Option<&Sprung> {
        self.sprung.as_ref()
    }
}

/// Whether a call comes from a process that may be ended: not from this one, and from one that the
/// kernel knows here.
pub(super) fn is_anothers(thread: u32) -> bool {
    thread != 0 && !Path::new("/proc/self/task").join(thread.to_string()).exists()
}

/// Sends `SIGKILL` to the process of a thread. It waits for an answer, so the number is still its
/// own.
pub(super) fn end(thread: u32) {
    let pid = i32::try_from(thread).ok().and_then(Pid::from_raw);
    // If the signal fails, the wait for the process's end reveals it.
    let _ = pid.map(|pid| kill_process(pid, Signal::KILL));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(trap: Trap, calls: &[&str]) -> Vec<Option<Side>> {
        let mut set = Set::new(trap);
        calls.iter().map(|path| set.count(Call::Write, path)).collect()
    }

    #[test]
    fn the_call_that_is_meant_is_found_once() {
        let trap = Trap { number: 2, side: Side::After, from: "" };
        assert_eq!(counted(trap, &["a", "b", "c", "d"]), [None, Some(Side::After), None, None]);
    }

    #[test]
    fn counting_begins_with_the_first_call_on_a_path() {
        let trap = Trap { number: 2, side: Side::Before, from: "snap" };
        assert_eq!(counted(trap, &["log", "a/snap", "log"]), [None, None, Some(Side::Before)]);
    }
}
