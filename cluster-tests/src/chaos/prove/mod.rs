//! The list of runs that stands behind `docs/proof.md`.
//!
//! An [`Item`] is run in rounds, each with a seed of its own, until its count has reached the goal.
//! Every round leaves its summary in [`Results`], so the list can be run in pieces, on several days;
//! existing results are counted and not run again. The page is written from these
//! files alone: no figure in it was typed. [`Comparison`] is the part that is run on other
//! services, too; [`page()`] writes.

mod comparison;
mod page;
mod sweep;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::fault::Fault;
use super::run::{Nodes, Options};
use super::summary::Summary;
use super::workload::{Size, Workload};
use crate::limits::Reached;

pub use comparison::{Comparison, SERVICES};
pub use page::page;

/// A claim that the list has to show.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Item {
    /// Processes killed with -9.
    Kills,
    /// Power cuts, half of them of all nodes at once.
    PowerCuts,
    /// Updates under the lock, with holders that freeze.
    Updates,
    /// Expiries with clocks that are wrong.
    Expiries,
    /// Leaders killed, and the time to the next lock.
    Failovers,
    /// Changes of leader every two seconds.
    LeaderChanges,
    /// Links cut, slowed and broken.
    Network,
    /// Disks that are slow, full or failing, and files that are damaged.
    Disks,
    /// Nodes stopped and started again one after the other, some with another program.
    Upgrades,
    /// Nodes that die at one disk call after the other.
    IoSweep,
    /// Wall clocks that are stepped by an hour.
    WallClock,
    /// All nodes killed, or losing power, with a table of many locks with long names.
    Limits,
    /// Intruders at a cluster with TLS and access control, while things break.
    Access,
}

/// The locks that fill a table in a round of [`Item::Limits`]: with both names of full length,
/// three hundred megabytes.
const FILL: u64 = 150_000;

/// The configuration of a round.
#[derive(Clone, Debug)]
pub struct Round {
    /// The run, but for its seed and its files.
    pub options: Options,
    /// The nodes, but for their program.
    pub nodes: Nodes,
}

/// The programs that nodes run.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The program that is tested.
    pub first: PathBuf,
    /// The program that nodes are upgraded to and back from; it may be the same.
    pub second: PathBuf,
}

impl Item {
    /// All of them, in the order of the page.
    pub const ALL: [Self; 13] = [
        Self::Kills,
        Self::PowerCuts,
        Self::Updates,
        Self::Expiries,
        Self::Failovers,
        Self::LeaderChanges,
        Self::Network,
        Self::Disks,
        Self::Upgrades,
        Self::IoSweep,
        Self::WallClock,
        Self::Limits,
        Self::Access,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kills => "kills",
            Self::PowerCuts => "power-cuts",
            Self::Updates => "updates",
            Self::Expiries => "expiries",
            Self::Failovers => "failovers",
            Self::LeaderChanges => "leader-changes",
            Self::Network => "network",
            Self::Disks => "disks",
            Self::Upgrades => "upgrades",
            Self::IoSweep => "io-sweep",
            Self::WallClock => "wall-clock",
            Self::Limits => "limits",
            Self::Access => "access",
        }
    }

    /// The unit of its count, and the goal.
    pub fn goal(self) -> (&'static str, u64) {
        match self {
            Self::Kills => ("processes killed with -9 under load", 500),
            Self::PowerCuts => ("power cuts under load", 200),
            Self::Updates => ("updates under the lock, with holders that freeze", 100_000),
            Self::Expiries => ("expiries with clocks off by 10 %", 100_000),
            Self::Failovers => ("leaders killed under load", 300),
            Self::LeaderChanges => ("changes of leader, one every two seconds", 100),
            Self::Network => ("faults of links under load", 200),
            Self::Disks => ("faults of disks and files under load", 100),
            Self::Upgrades => ("restarts and changes of program, node after node, under load", 50),
            Self::IoSweep => ("deaths of nodes before and after calls to their disks", 300),
            Self::WallClock => ("times the wall clock of one node or of all was an hour off", 30),
            Self::Limits => ("deaths and power cuts with hundreds of megabytes of locks", 30),
            Self::Access => {
                ("requests of intruders, all refused, with TLS and access control", 10_000)
            }
        }
    }

    /// The part of its goal that a run achieved.
    pub fn done(self, summary: &Summary) -> u64 {
        match self {
            Self::Kills => summary.done.kills,
            Self::PowerCuts
            | Self::LeaderChanges
            | Self::Network
            | Self::Disks
            | Self::Upgrades
            | Self::Limits
            | Self::WallClock => summary.done.installed,
            Self::Updates => summary.registers.written,
            Self::Expiries => summary.counts.takeovers,
            Self::Failovers => summary.failovers_ms.len() as u64,
            Self::IoSweep => summary.deaths.len() as u64,
            Self::Access => summary.intruders.as_ref().map_or(0, |intruders| intruders.refused),
        }
    }

    fn faults(self) -> Vec<Fault> {
        match self {
            Self::Kills => vec![Fault::Kill, Fault::KillMany],
            Self::PowerCuts => vec![Fault::PowerCut, Fault::TornWrite],
            Self::Updates => vec![Fault::Pause],
            Self::Expiries => vec![],
            Self::Failovers => vec![Fault::KillLeader],
            Self::LeaderChanges => vec![Fault::LeaderChange],
            Self::Network => vec![
                Fault::Partition,
                Fault::OneWay,
                Fault::Ring,
                Fault::Delay,
                Fault::Loss,
                Fault::Throttle,
                Fault::Reset,
                Fault::HalfOpen,
            ],
            Self::Disks => {
                vec![
                    Fault::SlowDisk,
                    Fault::DiskError,
                    Fault::DiskFull,
                    Fault::BitFlip,
                    Fault::Wipe,
                ]
            }
            Self::Upgrades => vec![Fault::Upgrade, Fault::Restart],
            Self::IoSweep => vec![Fault::DieAtIo],
            Self::WallClock => vec![Fault::WallClock],
            Self::Limits => vec![Fault::KillMany, Fault::PowerCut],
            Self::Access => {
                vec![Fault::KillMany, Fault::LeaderChange, Fault::Partition, Fault::Reset]
            }
        }
    }

    fn workloads(self) -> Vec<Workload> {
        match self {
            Self::Updates => vec![Workload::Register, Workload::Freeze],
            Self::Expiries => vec![Workload::Expiry],
            Self::Failovers | Self::Limits => vec![Workload::Mix],
            Self::WallClock => vec![Workload::Mix, Workload::Expiry],
            Self::Kills
            | Self::PowerCuts
            | Self::LeaderChanges
            | Self::Network
            | Self::Disks
            | Self::Upgrades
            | Self::Access
            | Self::IoSweep => vec![Workload::Mix, Workload::Register, Workload::Turns],
        }
    }

    /// The mean time between two faults of one lane.
    fn every(self) -> Duration {
        match self {
            Self::LeaderChanges => Duration::from_millis(1700),
            Self::WallClock => Duration::from_millis(700),
            Self::Network | Self::Disks | Self::Upgrades => Duration::from_millis(1500),
            // A start with all the data takes longer.
            Self::Limits => Duration::from_secs(6),
            Self::Kills
            | Self::PowerCuts
            | Self::Updates
            | Self::Expiries
            | Self::Failovers
            | Self::Access
            | Self::IoSweep => Duration::from_millis(1200),
        }
    }

    fn size(self) -> Size {
        let (clients, locks, lease_ms) = match self {
            Self::Updates | Self::WallClock => (24, 8, 300),
            Self::Expiries => (120, 1, 300),
            Self::Kills
            | Self::PowerCuts
            | Self::Failovers
            | Self::LeaderChanges
            | Self::Network
            | Self::Disks
            | Self::Upgrades
            | Self::IoSweep
            | Self::Access
            | Self::Limits => (6, 4, 1000),
        };
        Size { clients, locks, lease: Duration::from_millis(lease_ms), tokens: true }
    }

    /// The thresholds at which a node writes a snapshot, and a new segment of its log. In the sweep
    /// both must happen repeatedly within a round.
    fn thresholds(self) -> &'static [&'static str] {
        if self == Self::IoSweep {
            &["--snapshot-every=100", "--debug-segment-bytes=65536"]
        } else {
            &["--snapshot-every=2000"]
        }
    }

    /// The round of this seed, of this length, in this folder.
    pub fn round(self, seed: u64, length: Duration, results: &Path, programs: &Programs) -> Round {
        let wrong_clocks = self == Self::Expiries;
        let rho_ppm = if wrong_clocks { 100_000 } else { 10_000 };
        let mut arguments = vec![format!("--rho={}%", rho_ppm / 10_000)];
        // Where no election may happen, only the faults may be able to cause one, not a busy
        // machine.
        let profile = if self == Self::WallClock { "stable" } else { "fast" };
        arguments.push(format!("--profile={profile}"));
        arguments.extend(self.thresholds().iter().map(|&argument| argument.to_owned()));
        Round {
            options: Options {
                seed,
                command: format!("scripts/prove {} --seed {seed}", self.name()),
                duration: length,
                faults: self.faults(),
                sweep: self == Self::IoSweep,
                undisturbed: self == Self::WallClock,
                every: self.every(),
                workloads: self.workloads(),
                size: self.size(),
                fill: if self == Self::Limits { FILL } else { 0 },
                rho_ppm,
                history: results.join(format!("{}-{seed}.history.jsonl", self.name())),
                report: None,
                quiet: true,
            },
            nodes: Nodes {
                count: 3,
                program: programs.first.clone(),
                other_program: Some(programs.second.clone()),
                secured: self == Self::Access,
                arguments,
                clock_rates: if wrong_clocks {
                    vec![100_000, -100_000, 50_000]
                } else {
                    Vec::new()
                },
            },
        }
    }
}

/// A series of runs of simulated clusters, seed after seed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Simulated {
    /// The seed of the first.
    pub first_seed: u64,
    /// The number of runs, each with the next seed.
    pub runs: u64,
    /// The requests of their clients.
    pub operations: u64,
    /// The faults in them.
    pub faults: u64,
    /// Their total length in simulated time.
    pub simulated: Duration,
    /// Their total length in real time.
    pub took: Duration,
    /// The seeds that failed.
    pub failed: Vec<u64>,
    /// The limits of the service that they reached.
    #[serde(default)]
    pub reached: Reached,
}

impl fmt::Display for Simulated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (simulated, took) = (self.simulated.as_secs_f64(), self.took.as_secs_f64());
        write!(
            f,
            "{} runs, {} failed; {} operations, {} faults, {:.2} simulated hours in {took:.1} s: \
             {:.0} simulated hours per hour",
            self.runs,
            self.failed.len(),
            self.operations,
            self.faults,
            simulated / 3600.0,
            simulated / took.max(f64::EPSILON)
        )
    }
}

/// The summaries of runs, in a folder: a file of JSON lines for each item, one line for each run.
///
/// Lines are ordered by seed, then by service. A line is never rewritten: an older result keeps the
/// fields that it was written with.
#[derive(Clone, Debug)]
pub struct Results {
    folder: PathBuf,
}

/// The fields that identify a run within its file.
#[derive(PartialEq, Eq, PartialOrd, Ord, Debug, Deserialize)]
struct Key {
    #[serde(alias = "first_seed")]
    seed: u64,
    #[serde(default)]
    service: String,
}

impl Results {
    /// Uses a folder, and creates it if necessary.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The runs of an item so far. A line that is not a summary is an error: a result that is left
    /// out would make the page wrong.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn of<T: DeserializeOwned>(&self, item: &str) -> io::Result<Vec<T>> {
        self.lines(item)?.values().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// Adds the summary of a run. It replaces that of the same seed and service.
    ///
    /// # Errors
    /// If the file cannot be read or written.
    pub fn keep<T: Serialize>(&self, item: &str, summary: &T) -> io::Result<()> {
        let line = serde_json::to_string(summary)?;
        let mut lines = self.lines(item)?;
        lines.insert(serde_json::from_str(&line)?, line);
        let text: String = lines.into_values().flat_map(|line| [line, "\n".to_owned()]).collect();
        // Renamed into place, so that an interruption loses no earlier result.
        let new = self.path(item).with_extension("new");
        fs::write(&new, text)?;
        fs::rename(new, self.path(item))
    }

    fn lines(&self, item: &str) -> io::Result<BTreeMap<Key, String>> {
        let text = match fs::read_to_string(self.path(item)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            read => read?,
        };
        text.lines().map(|line| Ok((serde_json::from_str(line)?, line.to_owned()))).collect()
    }

    fn path(&self, item: &str) -> PathBuf {
        self.folder.join(format!("{item}.jsonl"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_run_is_a_line_and_replaces_that_of_its_seed_and_service() {
        let folder = tempfile::tempdir().expect("a folder");
        let results = Results::open(folder.path()).expect("it is there");
        assert_eq!(results.of::<Value>("kills").expect("none yet"), Vec::<Value>::new());
        let run =
            |seed: u64, service, done| json!({"seed": seed, "service": service, "done": done});
        for run in [run(10, "a", 1), run(9, "a", 2), run(10, "b", 3), run(10, "a", 4)] {
            results.keep("kills", &run).expect("it is kept");
        }
        results.keep("simulation", &json!({"first_seed": 7, "runs": 3})).expect("it is kept");
        let kept = [run(9, "a", 2), run(10, "a", 4), run(10, "b", 3)];
        assert_eq!(results.of::<Value>("kills").expect("three"), kept);
        let text = fs::read_to_string(folder.path().join("kills.jsonl")).expect("it is there");
        assert_eq!(text.lines().count(), 3, "{text}");
        assert_eq!(results.of::<Value>("simulation").expect("one").len(), 1);
    }

    #[test]
    fn an_older_line_keeps_its_fields_and_a_broken_one_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let results = Results::open(folder.path()).expect("it is there");
        let path = folder.path().join("kills.jsonl");
        let old = r#"{"seed":2,"service":"a","a field of another version":1.0}"#;
        fs::write(&path, format!("{old}\n")).expect("it is written");
        results.keep("kills", &json!({"seed": 1, "service": "a"})).expect("it is kept");
        let text = fs::read_to_string(&path).expect("it is there");
        assert_eq!(text.lines().nth(1), Some(old));
        fs::write(&path, format!("{text}{{\"seed\":3")).expect("it is written");
        assert!(results.of::<Value>("kills").is_err());
        assert!(results.keep("kills", &json!({"seed": 4})).is_err());
    }
}
