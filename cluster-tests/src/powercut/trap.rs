//! A death that waits for one call.
//!
//! A disk can be told to end the process that uses it right before or right after one of its calls:
//! the power is off from then on, the process gets `SIGKILL`, and only then is the call answered, so
//! that nothing of the process runs on. Counted are the calls that change what is on the disk or
//! make a change durable; looking and reading are no boundaries. What the harness itself does in the
//! folder is not counted.

use std::fmt;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

/// A call that changes what is on a disk, or makes a change durable.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Call {
    /// A new file.
    Create,
    /// A new folder.
    CreateFolder,
    /// Bytes of a file.
    Write,
    /// A file's length.
    Truncate,
    /// `fsync` or `fdatasync` of a file.
    Sync,
    /// `fsync` of a folder.
    SyncFolder,
    /// Another name.
    Rename,
    /// A name that is taken away, of a file or a folder.
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

/// On which side of a call death comes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// The call has no effect.
    Before,
    /// It has, and nobody is told.
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

/// Where the process that uses a disk is to die.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trap {
    /// At which call, from 1.
    pub number: u64,
    /// Before it or after it.
    pub side: Side,
    /// The first call that is counted is the first on a path that contains this; every one, if it is
    /// empty.
    pub from: &'static str,
}

/// Where a process died.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sprung {
    /// At which kind of call.
    pub call: Call,
    /// On what, below the folder that the disk is mounted on. A rename is of the old name.
    pub path: String,
}

/// A trap that was set, and how far it is.
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

    /// Counts a call; gives the side on which death comes, if it is this one's.
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

/// `SIGKILL` to the process of a thread that waits for an answer; so the number is still its own.
pub(super) fn end(thread: u32) {
    let pid = i32::try_from(thread).ok().and_then(Pid::from_raw);
    // Whoever waits for the process's end notices if it does not come.
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
