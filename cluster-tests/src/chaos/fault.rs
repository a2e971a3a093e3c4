//! The faults that a run can have, by name.

use std::fmt;
use std::str::FromStr;

/// A fault that can be installed in a cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Fault {
    /// `kill -9` of one node: the leader, a follower, any.
    Kill,
    /// `kill -9` of the leader.
    KillLeader,
    /// `kill -9` of a majority, or of all nodes at once.
    KillMany,
    /// `SIGSTOP`, and `SIGCONT` after a time between a tenth of a second and three leases.
    Pause,
    /// A graceful stop and start of one node; the leader hands its leadership over.
    Restart,
    /// A graceful stop of the leader, and its start, every two seconds.
    LeaderChange,
    /// A node's folder is missing when it starts: it must refuse to serve until the folder is back.
    Wipe,
    /// One node after the other switches to the other program, and back again.
    Upgrade,
    /// Links cut both ways: around the leader, around any node, or into two halves.
    Partition,
    /// Links cut in one direction only.
    OneWay,
    /// Each node reaches some of the others, and no two reach the same: a ring, or a bridge.
    Ring,
    /// Every byte is delayed by 5 to 500 ms, depending on the link.
    Delay,
    /// Packets lost and sent again.
    Loss,
    /// Links with little bandwidth.
    Throttle,
    /// Answers that break off with a reset, between nodes and to clients.
    Reset,
    /// Connections of which one end is gone without the other's knowledge.
    HalfOpen,
    /// Power is lost, and with it all unsynced data. One node, a minority, or all at once.
    PowerCut,
    /// Power is lost in the middle of writing: some sectors of the unsynced data survive.
    TornWrite,
    /// A node's process dies right before or after a call to its disk, with or without the unsynced
    /// data: at some point of its work, or a number of calls after its start.
    DieAtIo,
    /// Every sync takes 50 ms to 5 s.
    SlowDisk,
    /// Writes or syncs fail.
    DiskError,
    /// The disk of one node is full.
    DiskFull,
    /// A node's files are damaged while it does not run.
    BitFlip,
    /// The wall clock of one node or of all is stepped by an hour, and back.
    WallClock,
}

/// The requirement of a fault, without which it cannot be installed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Needs {
    /// Nothing but processes of this program's own.
    Nothing,
    /// Data folders on the file system that loses unsynced data: `/dev/fuse` and `fusermount3`.
    Fuse,
    /// A second program (`--binary-b`).
    SecondProgram,
    /// Wall clocks that can be stepped: libfaketime, and a program that is linked dynamically.
    WallClocks,
}

/// The lane of a fault. Faults of one lane exclude one another and follow one after the other;
/// those of different lanes overlap.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Lane {
    /// Nodes that are stopped or paused.
    Process,
    /// Links.
    Network,
    /// Disks of running nodes.
    Disk,
    /// Wall clocks.
    Clock,
}

impl Fault {
    /// All of them, in the order in which help lists them.
    pub const ALL: [Self; 24] = [
        Self::Kill,
        Self::KillLeader,
        Self::KillMany,
        Self::Pause,
        Self::Restart,
        Self::LeaderChange,
        Self::Wipe,
        Self::Upgrade,
        Self::BitFlip,
        Self::Partition,
        Self::OneWay,
        Self::Ring,
        Self::Delay,
        Self::Loss,
        Self::Throttle,
        Self::Reset,
        Self::HalfOpen,
        Self::PowerCut,
        Self::TornWrite,
        Self::DieAtIo,
        Self::SlowDisk,
        Self::DiskError,
        Self::DiskFull,
        Self::WallClock,
    ];

    /// Its name on the command line, and a one-line description.
    pub fn describe(self) -> (&'static str, &'static str) {
        match self {
            Self::Kill => ("kill", "kill -9 of the leader, a follower or any node"),
            Self::KillLeader => ("kill-leader", "kill -9 of the leader"),
            Self::KillMany => ("kill-many", "kill -9 of a majority or of all nodes at once"),
            Self::Pause => ("pause", "SIGSTOP for 0.1 s up to three leases, then SIGCONT"),
            Self::Restart => ("restart", "a graceful stop and start; a leader hands over"),
            Self::LeaderChange => ("leader-change", "the leader is stopped gracefully, every 2 s"),
            Self::Wipe => ("wipe", "a node starts without its folder and must refuse to serve"),
            Self::Upgrade => ("upgrade", "one node after the other goes on with --binary-b"),
            Self::BitFlip => ("bit-flip", "damaged files on one node, which must stop or rebuild"),
            Self::Partition => ("partition", "links cut around one node or into halves"),
            Self::OneWay => ("one-way", "links cut in one direction"),
            Self::Ring => ("ring", "partial partitions: every node reaches some of the others"),
            Self::Delay => ("delay", "every byte 5 to 500 ms late, by link"),
            Self::Loss => ("loss", "1 to 20 % of packets lost and sent again"),
            Self::Throttle => ("throttle", "links that carry 20 to 200 kB a second"),
            Self::Reset => ("reset", "answers that break off with a reset"),
            Self::HalfOpen => ("half-open", "connections that are dead at one end only"),
            Self::PowerCut => ("power-cut", "what was not synced is gone: one, a minority, all"),
            Self::TornWrite => ("torn-write", "a power cut that leaves some unsynced sectors"),
            Self::DieAtIo => ("die-at-io", "a node dies before or after a chosen call to its disk"),
            Self::SlowDisk => ("slow-disk", "every sync takes 50 ms to 5 s"),
            Self::DiskError => ("disk-error", "writes or syncs fail with EIO"),
            Self::DiskFull => ("disk-full", "writes fail with ENOSPC"),
            Self::WallClock => ("wall-clock", "the wall clock of one or all an hour off, and back"),
        }
    }

    /// Whether it affects a node's disk or folder.
    pub fn is_of_disk(self) -> bool {
        matches!(
            self,
            Self::SlowDisk | Self::DiskError | Self::DiskFull | Self::BitFlip | Self::Wipe
        )
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        self.describe().0
    }

    /// Its requirement.
    pub fn needs(self) -> Needs {
        match self {
            Self::PowerCut
            | Self::TornWrite
            | Self::DieAtIo
            | Self::SlowDisk
            | Self::DiskError
            | Self::DiskFull => Needs::Fuse,
            Self::Upgrade => Needs::SecondProgram,
            Self::WallClock => Needs::WallClocks,
            Self::Kill
            | Self::KillLeader
            | Self::KillMany
            | Self::Pause
            | Self::Restart
            | Self::LeaderChange
            | Self::Wipe
            | Self::BitFlip
            | Self::Partition
            | Self::OneWay
            | Self::Ring
            | Self::Delay
            | Self::Loss
            | Self::Throttle
            | Self::Reset
            | Self::HalfOpen => Needs::Nothing,
        }
    }

    /// Its lane.
    pub fn lane(self) -> Lane {
        match self {
            Self::Partition
            | Self::OneWay
            | Self::Ring
            | Self::Delay
            | Self::Loss
            | Self::Throttle
            | Self::Reset
            | Self::HalfOpen => Lane::Network,
            Self::SlowDisk => Lane::Disk,
            Self::WallClock => Lane::Clock,
            // A disk that fails ends its node, and a node without power does not run.
            Self::Kill
            | Self::KillLeader
            | Self::KillMany
            | Self::Pause
            | Self::Restart
            | Self::LeaderChange
            | Self::Wipe
            | Self::Upgrade
            | Self::BitFlip
            | Self::PowerCut
            | Self::TornWrite
            | Self::DieAtIo
            | Self::DiskError
            | Self::DiskFull => Lane::Process,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|fault| fault.name() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            format!("there is no fault `{text}`; there are {known}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_known_by_its_name() {
        for fault in Fault::ALL {
            assert_eq!(fault.name().parse(), Ok(fault));
        }
        assert!("fire".parse::<Fault>().expect_err("unknown").contains("kill, "));
    }
}
