//! The list of runs that stands behind `docs/proof.md`.
//!
//! An [`Item`] is run in rounds, each with a seed of its own, until enough of what it counts was
//! done. Every round leaves its summary in the folder of results, so the list can be run in
//! pieces, on several days; what is there already is counted and not run again. The page is
//! written from these files alone: no figure in it was typed.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::fault::Fault;
use super::run::{Nodes, Options};
use super::summary::{Quantiles, Summary, Verdict};
use super::workload::{Size, Workload};

/// What is to be shown.
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
    /// Leaders killed, and how long the next lock took.
    Failovers,
    /// Changes of leader every two seconds.
    LeaderChanges,
    /// Links cut, slowed and broken.
    Network,
    /// Disks that are slow, full or broken, and files that are damaged.
    Disks,
    /// Nodes stopped and started again one after the other, some with another program.
    Upgrades,
}

/// How an item is run.
#[derive(Clone, Debug)]
pub struct Round {
    /// The run, but for its seed and its files.
    pub options: Options,
    /// The nodes, but for their program.
    pub nodes: Nodes,
}

/// What nodes run.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The program that is tested.
    pub first: PathBuf,
    /// The one that nodes are upgraded to and back from; it may be the same.
    pub second: PathBuf,
}

impl Item {
    /// All of them, in the order of the page.
    pub const ALL: [Self; 9] = [
        Self::Kills,
        Self::PowerCuts,
        Self::Updates,
        Self::Expiries,
        Self::Failovers,
        Self::LeaderChanges,
        Self::Network,
        Self::Disks,
        Self::Upgrades,
    ];

    /// Its name, as it is written.
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
        }
    }

    /// What is counted, and how much of it is the whole.
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
        }
    }

    /// How much of its goal a run did.
    pub fn done(self, summary: &Summary) -> u64 {
        match self {
            Self::Kills => summary.done.kills,
            Self::PowerCuts
            | Self::LeaderChanges
            | Self::Network
            | Self::Disks
            | Self::Upgrades => summary.done.installed,
            Self::Updates => summary.registers.written,
            Self::Expiries => summary.counts.takeovers,
            Self::Failovers => summary.failovers_ms.len() as u64,
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
        }
    }

    fn workloads(self) -> Vec<Workload> {
        match self {
            Self::Updates => vec![Workload::Register, Workload::Freeze],
            Self::Expiries => vec![Workload::Expiry],
            Self::Failovers => vec![Workload::Mix],
            Self::Kills
            | Self::PowerCuts
            | Self::LeaderChanges
            | Self::Network
            | Self::Disks
            | Self::Upgrades => vec![Workload::Mix, Workload::Register],
        }
    }

    /// The mean time between two faults of one lane.
    fn every(self) -> Duration {
        match self {
            Self::LeaderChanges => Duration::from_millis(1700),
            Self::Network | Self::Disks | Self::Upgrades => Duration::from_millis(1500),
            Self::Kills | Self::PowerCuts | Self::Updates | Self::Expiries | Self::Failovers => {
                Duration::from_millis(1200)
            }
        }
    }

    fn size(self) -> Size {
        let (clients, locks, lease_ms) = match self {
            Self::Updates => (24, 8, 300),
            Self::Expiries => (120, 1, 300),
            Self::Kills
            | Self::PowerCuts
            | Self::Failovers
            | Self::LeaderChanges
            | Self::Network
            | Self::Disks
            | Self::Upgrades => (6, 4, 1000),
        };
        Size { clients, locks, lease: Duration::from_millis(lease_ms), tokens: true }
    }

    /// The round of this seed, so long, in this folder.
    pub fn round(self, seed: u64, length: Duration, results: &Path, programs: &Programs) -> Round {
        let wrong_clocks = self == Self::Expiries;
        let rho_ppm = if wrong_clocks { 100_000 } else { 10_000 };
        let mut arguments = vec![format!("--rho={}%", rho_ppm / 10_000)];
        arguments.extend(["--profile=fast", "--snapshot-every=2000"].map(str::to_owned));
        Round {
            options: Options {
                seed,
                command: format!("scripts/prove {} --seed {seed}", self.name()),
                duration: length,
                faults: self.faults(),
                every: self.every(),
                workloads: self.workloads(),
                size: self.size(),
                rho_ppm,
                history: results.join(format!("{}-{seed}.jsonl", self.name())),
                report: None,
                quiet: true,
            },
            nodes: Nodes {
                count: 3,
                program: programs.first.clone(),
                other_program: Some(programs.second.clone()),
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

/// Simulated clusters that were run, seed after seed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Simulated {
    /// The seed of the first.
    pub first_seed: u64,
    /// How many there were, each with the next seed.
    pub runs: u64,
    /// What clients asked for in them.
    pub operations: u64,
    /// What was done to them.
    pub faults: u64,
    /// How long they took in their own time, together.
    pub simulated: Duration,
    /// How long they took.
    pub took: Duration,
    /// The seeds that failed.
    pub failed: Vec<u64>,
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

/// The summaries in the folder of results.
#[derive(Clone, Debug)]
pub struct Results {
    folder: PathBuf,
}

impl Results {
    /// Uses a folder, making it if need be.
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

    /// The rounds of something so far, by seed. A file that is not a summary is an error: a result
    /// that is left out would make the page wrong.
    ///
    /// # Errors
    /// If the folder or a file cannot be read.
    pub fn of<T: DeserializeOwned>(&self, name: &str) -> io::Result<Vec<T>> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(&self.folder)? {
            let file = entry?.file_name().to_string_lossy().into_owned();
            let seed = file.strip_prefix(name).and_then(|rest| rest.strip_prefix('-'));
            let seed = seed.and_then(|rest| rest.strip_suffix(".json"));
            if let Some(seed) = seed.and_then(|seed| seed.parse::<u64>().ok()) {
                let text = fs::read_to_string(self.folder.join(&file))?;
                found.insert(seed, serde_json::from_str(&text)?);
            }
        }
        Ok(found.into_values().collect())
    }

    /// Keeps the summary of a round.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep<T: Serialize>(&self, name: &str, seed: u64, summary: &T) -> io::Result<()> {
        let path = self.folder.join(format!("{name}-{seed}.json"));
        fs::write(path, serde_json::to_string_pretty(summary)?)
    }
}

/// The page, from the results. What was not run is said.
///
/// # Errors
/// If the results, or a table that is included, cannot be read.
pub fn page(results: &Results, docs: &Path) -> io::Result<String> {
    let mut page = String::from(HEAD);
    page.push_str(
        "| what | goal | done | violations | rounds | requests done | clients at work |\n",
    );
    page.push_str("|---|---|---|---|---|---|---|\n");
    for item in Item::ALL {
        let rounds: Vec<Summary> = results.of(item.name())?;
        let (what, goal) = item.goal();
        let done: u64 = rounds.iter().map(|round| item.done(round)).sum();
        let broken = rounds.iter().filter(|round| round.verdict == Verdict::Violation).count();
        let errors = rounds.iter().filter(|round| round.verdict == Verdict::HarnessError).count();
        let requests: u64 = rounds.iter().map(|round| round.counts.ok).sum();
        let seconds: u64 = rounds.iter().map(|round| round.took.as_secs()).sum();
        let verdict = match (rounds.len(), broken, errors) {
            (0, ..) => String::from("not run"),
            (_, broken, 0) => broken.to_string(),
            (_, broken, errors) => format!("{broken}, and {errors} rounds that show nothing"),
        };
        let _ = writeln!(
            page,
            "| {what} (`scripts/prove {}`) | {goal} | {done} | {verdict} | {} | {requests} | {} min |",
            item.name(),
            rounds.len(),
            seconds.div_ceil(60),
        );
    }
    simulation(&mut page, results)?;
    details(&mut page, results)?;
    peers(&mut page, results)?;
    if docs.join("run.png").exists() {
        page.push_str(
            "\n## A run, as the report shows it\n\n`check-history check FILE --report run.html` draws this of \
             any history; here holders freeze on Keyward, as in the table above.\n\n\
             ![A run](run.png)\n",
        );
    }
    for (title, file) in [("Bugs found", "bugs-found.md"), ("Bugs planted", "planted-bugs.md")] {
        if docs.join(file).exists() {
            let _ =
                writeln!(page, "\n## {title}\n\nThey have a page of their own: [{file}]({file}).");
        }
    }
    Ok(page)
}

const HEAD: &str = "# Proof\n
This page is written by `scripts/prove` from the results of its runs; nobody typed a figure into it.
Each run starts three real nodes, lets clients work, breaks things by a schedule that its seed
draws, heals, and judges the history of every request with the seven checks that
[chaos.md](chaos.md) tells of. The command behind each line runs it again.\n
";

fn simulation(page: &mut String, results: &Results) -> io::Result<()> {
    page.push_str("\n## Simulated clusters\n\n");
    let rounds: Vec<Simulated> = results.of("simulation")?;
    if rounds.is_empty() {
        page.push_str("None were run.\n");
        return Ok(());
    }
    let sum = |of: fn(&Simulated) -> u64| rounds.iter().map(of).sum::<u64>();
    let hours = |of: fn(&Simulated) -> Duration| {
        rounds.iter().map(of).sum::<Duration>().as_secs_f64() / 3600.0
    };
    let failed: Vec<String> =
        rounds.iter().flat_map(|round| &round.failed).map(ToString::to_string).collect();
    let (simulated, took) = (hours(|round| round.simulated), hours(|round| round.took));
    let _ = writeln!(
        page,
        "The production code above disk, network and clocks, on virtual time \
         ([simulation.md](simulation.md)); the goal is {SIMULATED_SEEDS} seeds and {SIMULATED_HOURS} \
         simulated hours.\n\n\
         | seeds | simulated | took | requests | faults | failed |\n|---|---|---|---|---|---|\n\
         | {} | {simulated:.1} h | {took:.2} h | {} | {} | {} |",
        sum(|round| round.runs),
        sum(|round| round.operations),
        sum(|round| round.faults),
        if failed.is_empty() { "none".to_owned() } else { failed.join(", ") },
    );
    Ok(())
}

/// How many seeds are to be run, and how long in the time of their worlds.
const SIMULATED_SEEDS: u64 = 10_000;
const SIMULATED_HOURS: u64 = 200;

fn details(page: &mut String, results: &Results) -> io::Result<()> {
    let kills: Vec<Summary> = results.of(Item::Kills.name())?;
    let sum = |rounds: &[Summary], of: fn(&Summary) -> u64| rounds.iter().map(of).sum::<u64>();
    page.push_str("\n## In more detail\n\n");
    if !kills.is_empty() {
        let leaders = sum(&kills, |round| round.done.leader_kills);
        let _ = writeln!(page, "- **kills**: {leaders} of the single kills hit the leader.");
    }
    let cuts: Vec<Summary> = results.of(Item::PowerCuts.name())?;
    if !cuts.is_empty() {
        let nodes = sum(&cuts, |round| round.done.power_cuts);
        let _ = writeln!(
            page,
            "- **power-cuts**: {nodes} nodes lost what they had not synced; each started again."
        );
    }
    let updates: Vec<Summary> = results.of(Item::Updates.name())?;
    if !updates.is_empty() {
        let (lost, stale) = (
            sum(&updates, |round| round.registers.lost),
            sum(&updates, |round| round.registers.refused),
        );
        let freezes = sum(&updates, |round| round.counts.freezes);
        let _ = writeln!(
            page,
            "- **updates**: {freezes} holders froze between check and write; {stale} stale reads and \
             writes were refused for their token; {lost} updates were lost."
        );
    }
    for round in results.of::<Summary>(Item::Expiries.name())?.iter().take(1) {
        let Quantiles { p50_ms, p99_ms, max_ms, .. } = round.lateness;
        let _ = writeln!(
            page,
            "- **expiries**: clocks 10 % fast, 10 % slow and 5 % fast, ρ = 10 %. In the first round \
             locks were had {p50_ms:.0} ms (p50), {p99_ms:.0} ms (p99), {max_ms:.0} ms (max) after \
             their duration of real time; up to 2ρ of a duration of 150 to 300 ms is what wrong \
             clocks cost."
        );
    }
    let mut failovers: Vec<Duration> = results
        .of::<Summary>(Item::Failovers.name())?
        .iter()
        .flat_map(|round| round.failovers_ms.clone())
        .map(|ms| Duration::from_secs_f64(ms / 1000.0))
        .collect();
    failovers.sort_unstable();
    if !failovers.is_empty() {
        let Quantiles { count, p50_ms, p99_ms, max_ms } = Quantiles::of(&failovers);
        let _ = writeln!(
            page,
            "- **failovers** (fast profile): {count} leaders killed; the next lock that was asked for \
             after it was had after {p50_ms:.0} ms (p50), {p99_ms:.0} ms (p99), {max_ms:.0} ms (max)."
        );
    }
    Ok(())
}

/// The services that the same command is run on, to see what it finds.
pub const SERVICES: [&str; 4] = ["keyward", "etcd", "redis", "redlock"];

fn peers(page: &mut String, results: &Results) -> io::Result<()> {
    page.push_str(
        "\n## The same command on other services\n\n`keyward-chaos run --workload freeze --service …`: \
         holders freeze for longer than their lock lasts, between check and write. The register that \
         the lock guards looks at the token that the service's lock interface hands to its holders: \
         Keyward's does, the others' ordinary use has none.\n\n\
         Two holders at once: a holder wrote while a later one, who had read already, had not given the lock \
         up. No lease can keep a holder that froze from trying; a token keeps it from succeeding.\n\n\
         | service | verdict | updates | lost | two holders at once: tried, succeeded | stale writes refused | what the checks found |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for service in SERVICES {
        for round in results.of::<Summary>(&format!("service-{service}"))?.iter().take(1) {
            let first = round.violations.first().map_or("nothing", String::as_str);
            let first = first.lines().next().unwrap_or_default().replace('|', "\\|");
            let _ = writeln!(
                page,
                "| {service} | {} | {} | {} | {}, {} | {} | {} violations: {first} |",
                round.verdict,
                round.registers.written,
                round.registers.lost,
                round.registers.two_at_once,
                round.registers.two_wrote,
                round.registers.refused,
                round.broken
            );
        }
    }
    Ok(())
}
