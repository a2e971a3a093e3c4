//! Installs the faults of a plan in the nodes of a run, and takes them back.
//!
//! Every fault is recorded in the history with its beginning, its end and its outcome: installed,
//! skipped (with the reason) or indeterminate. The node that a role meant is decided when the fault
//! begins, and recorded, too.
//!
//! A finding is a problem that the nemesis sees and no check of a history can: a node that does not
//! start again, one that serves although it may not, one that ended by itself. `network` has the
//! faults of links, `disk` those of disks, `death` deaths at disk calls, `node` faults of a node's
//! folder or program, `clock` those of its wall clock.

mod clock;
mod death;
mod disk;
mod network;
mod node;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::boundary::{Death, Moment};
use super::fault::Fault;
use super::plan::{Planned, Whom};
use super::progress::Progress;
use super::victim::Victim;
use crate::cluster::NodeId;
use crate::history::{OpenFault, Recorder};
use crate::powercut::Kept;
use crate::wait::Stopwatch;

pub use clock::WallClocks;
pub use disk::Disks;

/// The time that a fault planned right after an acknowledgement waits for one.
const ACKNOWLEDGED: Duration = Duration::from_secs(2);

/// The time after a disk is repaired in which a node may still end because of an earlier failure.
const LATE: Duration = Duration::from_secs(3);

/// The time that a fault aimed at the leader waits for one.
const LED: Duration = Duration::from_secs(4);

/// Installs faults and takes them back.
pub trait Breaker {
    /// Starts nodes that were never started, if there are any, with the faults of the plan that are
    /// meant for a first boot.
    fn boot(&mut self, plan: &[Planned], told: &dyn Fn(String)) -> impl Future<Output = ()>;

    /// Installs and removes faults, from the first to the last.
    fn execute(&mut self, plan: &[Planned], told: &dyn Fn(String)) -> impl Future<Output = ()>;

    /// Takes back every installed fault.
    fn heal(&mut self) -> impl Future<Output = ()>;

    /// The numbers so far.
    fn done(&self) -> Done;

    /// The deaths of nodes at calls to their disks.
    fn deaths(&self) -> &[Death];

    /// The problems that the history does not show.
    fn findings(&self) -> &[String];
}

/// The numbers of faults and their effects.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Done {
    /// Faults that were installed.
    pub installed: u64,
    /// Faults that were not tried.
    pub skipped: u64,
    /// Faults whose outcome is unknown.
    pub indeterminate: u64,
    /// Processes that were killed (`-9`).
    pub kills: u64,
    /// Leaders among them.
    pub leader_kills: u64,
    /// Nodes that lost their unsynced data.
    pub power_cuts: u64,
    /// Steps of the wall clock of a node, each seen in its log.
    #[serde(default)]
    pub clock_steps: u64,
}

/// Executes plans.
#[derive(Debug)]
pub struct Nemesis<V> {
    /// Before the disks: a process that uses one is ended before it is unmounted.
    victim: V,
    disks: Disks,
    other_program: Option<PathBuf>,
    wall_clocks: WallClocks,
    /// Nodes that may end by themselves because of a failing disk, and until when: without a time,
    /// as long as it fails.
    excused: BTreeMap<NodeId, Option<Stopwatch>>,
    recorder: Recorder,
    progress: Progress,
    active: Vec<Active>,
    done: Done,
    deaths: Vec<Death>,
    findings: Vec<String>,
}

/// A fault that was installed and is to be taken back.
#[derive(Debug)]
struct Active {
    until: Duration,
    undo: Undo,
    open: OpenFault,
}

impl Active {
    fn has_disk_of(&self, nodes: &[NodeId]) -> bool {
        match &self.undo {
            Undo::Folder(id) | Undo::Disk(id) | Undo::Byte { id, .. } => nodes.contains(id),
            Undo::Start(_)
            | Undo::Reboot(_)
            | Undo::Continue(_)
            | Undo::HealLinks
            | Undo::WallClocks(_)
            | Undo::Downgrade(_) => false,
        }
    }
}

/// The way in which a fault is taken back.
#[derive(Debug)]
enum Undo {
    Start(Vec<NodeId>),
    /// A start of nodes that must catch up completely.
    Reboot(Vec<NodeId>),
    Continue(Vec<NodeId>),
    HealLinks,
    /// The node's own folder, which was moved aside.
    Folder(NodeId),
    /// A byte as it was before it was flipped.
    Byte {
        id: NodeId,
        path: PathBuf,
        offset: u64,
        flipped: Option<u8>,
    },
    /// The disk without faults.
    Disk(NodeId),
    /// The right time on wall clocks.
    WallClocks(Vec<NodeId>),
    /// The first program.
    Downgrade(Vec<NodeId>),
}

/// The outcome of an attempt to install a fault.
enum Attempt {
    Installed(Undo),
    Skipped(String),
    Indeterminate(Undo, String),
}

impl<V: Victim> Nemesis<V> {
    /// A nemesis without disks, other program or clocks.
    pub fn new(victim: V, recorder: Recorder, progress: Progress) -> Self {
        Self {
            victim,
            disks: Disks::default(),
            other_program: None,
            wall_clocks: WallClocks::default(),
            excused: BTreeMap::new(),
            recorder,
            progress,
            active: Vec::new(),
            done: Done::default(),
            deaths: Vec::new(),
            findings: Vec::new(),
        }
    }

    /// With the disks that the nodes' folders are on.
    #[must_use]
    pub fn with_disks(mut self, disks: Disks) -> Self {
        self.disks = disks;
        self
    }

    /// With a program that nodes can be upgraded to.
    #[must_use]
    pub fn with_other_program(mut self, program: Option<PathBuf>) -> Self {
        self.other_program = program;
        self
    }

    /// With the wall clocks that the nodes have.
    #[must_use]
    pub fn with_wall_clocks(mut self, clocks: WallClocks) -> Self {
        self.wall_clocks = clocks;
        self
    }

    /// The nodes.
    pub fn victim(&mut self) -> &mut V {
        &mut self.victim
    }

    /// Installs one fault; returns a description of what was done.
    async fn install(&mut self, planned: Planned, watch: &Stopwatch) -> String {
        let nodes = self.resolve(planned.whom).await;
        if planned.fault.is_of_disk() {
            self.give_back_disks(&nodes).await;
        }
        let target = words(&nodes);
        let mut behind = "";
        if let Some(soon) = planned.behind_answer {
            let answered = self.progress.acknowledgement(ACKNOWLEDGED).await;
            behind = if answered { ", behind an answer" } else { ", no answer came before" };
            tokio::time::sleep(soon).await;
        }
        let killed = matches!(planned.fault, Fault::Kill | Fault::KillLeader);
        let leader = if killed { self.victim.leader().await } else { None };
        let leads = leader.is_some_and(|id| nodes.contains(&id));
        let name = planned.fault.name();
        let mut open = self.recorder.begin_fault(name, target.clone());
        let mut random = StdRng::seed_from_u64(planned.seed);
        if leads {
            self.progress.leader_dies();
        }
        let attempt = self.attempt(planned, &nodes, &mut random).await;
        let (undo, how) = match attempt {
            Attempt::Installed(undo) => {
                open.installed();
                self.done.installed += 1;
                self.done.leader_kills += u64::from(leads);
                (undo, String::new())
            }
            Attempt::Indeterminate(undo, why) => {
                open.indeterminate(why.clone());
                self.done.indeterminate += 1;
                (undo, format!(" (indeterminate: {why})"))
            }
            Attempt::Skipped(why) => {
                open.skipped(why.clone());
                open.end();
                self.done.skipped += 1;
                return format!("{name} of {target} skipped: {why}");
            }
        };
        self.active.push(Active { until: watch.elapsed() + planned.lasts, undo, open });
        format!("{name} of {target} for {:.1} s{behind}{how}", planned.lasts.as_secs_f64())
    }

    async fn attempt(
        &mut self,
        planned: Planned,
        nodes: &[NodeId],
        random: &mut StdRng,
    ) -> Attempt {
        if nodes.is_empty() {
            return Attempt::Skipped(String::from("no node runs"));
        }
        match planned.fault {
            Fault::Kill | Fault::KillLeader | Fault::KillMany => self.kill(nodes).await,
            Fault::Pause => self.signal_all(nodes, Signal::STOP, Undo::Continue(nodes.to_vec())),
            Fault::Restart | Fault::LeaderChange => self.stop(nodes).await,
            Fault::Wipe => self.wipe(nodes[0]).await,
            Fault::Partition
            | Fault::OneWay
            | Fault::Ring
            | Fault::Delay
            | Fault::Loss
            | Fault::Throttle
            | Fault::Reset
            | Fault::HalfOpen => match self.victim.cluster() {
                Some(cluster) => network::install(cluster, planned.fault, nodes, random),
                None => Attempt::Skipped(String::from("there are no links between these nodes")),
            },
            Fault::Upgrade => self.upgrade(nodes).await,
            Fault::WallClock => self.step_clocks(nodes, random).await,
            Fault::BitFlip => self.damage(nodes[0], random).await,
            Fault::PowerCut => self.cut_power(nodes, Kept::Nothing).await,
            Fault::TornWrite => self.cut_power(nodes, Kept::SomeSectors(planned.seed)).await,
            Fault::DieAtIo => match planned.boundary {
                Some(at) => self.die_at_io(nodes[0], at).await,
                None => Attempt::Skipped(String::from("no call was chosen")),
            },
            Fault::SlowDisk | Fault::DiskError | Fault::DiskFull => {
                self.spoil_disk(nodes[0], planned.fault, random)
            }
        }
    }

    /// Ends other faults of these nodes' disks: a node that is started at the end of one fault must
    /// not meet another.
    async fn give_back_disks(&mut self, nodes: &[NodeId]) {
        while let Some(place) = self.active.iter().position(|other| other.has_disk_of(nodes)) {
            let active = self.active.remove(place);
            self.take_back(active).await;
        }
    }

    /// The nodes that are meant at this moment; only running ones.
    async fn resolve(&mut self, whom: Whom) -> Vec<NodeId> {
        let mut running = self.victim.ids();
        let all = running.len();
        running.retain(|&id| self.victim.runs(id));
        let any = |number: u64, among: &[NodeId]| {
            let count = u64::try_from(among.len()).unwrap_or(u64::MAX).max(1);
            among.iter().copied().nth(usize::try_from(number % count).unwrap_or(0))
        };
        match whom {
            Whom::All => running,
            Whom::Node(number) => any(number, &running).into_iter().collect(),
            Whom::Leader => match self.wait_leader().await {
                Some(leader) => vec![leader],
                None => running.into_iter().take(1).collect(),
            },
            Whom::Follower(number) => {
                let leader = self.wait_leader().await;
                let others: Vec<NodeId> =
                    running.into_iter().filter(|&id| Some(id) != leader).collect();
                any(number, &others).into_iter().collect()
            }
            Whom::Minority => running.into_iter().take((all - 1) / 2).collect(),
            Whom::Majority => running.into_iter().rev().take(all / 2 + 1).collect(),
        }
    }

    async fn wait_leader(&mut self) -> Option<NodeId> {
        let watch = Stopwatch::start();
        loop {
            let leader = self.victim.leader().await;
            if leader.is_some() || watch.elapsed() > LED {
                return leader;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Signals all nodes before it waits for any.
    async fn kill(&mut self, nodes: &[NodeId]) -> Attempt {
        let attempt = self.signal_all(nodes, Signal::KILL, Undo::Start(nodes.to_vec()));
        for &id in nodes {
            self.victim.wait_end(id).await;
            self.done.kills += 1;
        }
        attempt
    }

    async fn stop(&mut self, nodes: &[NodeId]) -> Attempt {
        let undo = || Undo::Start(nodes.to_vec());
        let attempt = self.signal_all(nodes, Signal::TERM, undo());
        for &id in nodes {
            if !self.victim.wait_end(id).await {
                let why = format!("node {id} did not stop and was killed");
                return Attempt::Indeterminate(undo(), why);
            }
        }
        attempt
    }

    fn signal_all(&mut self, nodes: &[NodeId], signal: Signal, undo: Undo) -> Attempt {
        for &id in nodes {
            self.victim.signal(id, signal);
        }
        Attempt::Installed(undo)
    }

    async fn take_back(&mut self, active: Active) {
        let Active { undo, open, .. } = active;
        match undo {
            Undo::Start(nodes) => self.start(&nodes, "it had been stopped").await,
            Undo::Reboot(nodes) => self.reboot(&nodes).await,
            Undo::Continue(nodes) => {
                for id in nodes {
                    if self.victim.runs(id) {
                        self.victim.signal(id, Signal::CONT);
                    }
                }
            }
            Undo::HealLinks => {
                if let Some(cluster) = self.victim.cluster() {
                    cluster.heal();
                }
            }
            Undo::Folder(id) => self.give_back_folder(id).await,
            Undo::Byte { id, path, offset, flipped } => {
                self.flip_back(id, &path, offset, flipped).await;
            }
            Undo::Disk(id) => self.mend_disk(id).await,
            Undo::WallClocks(nodes) => self.set_clocks_right(&nodes).await,
            Undo::Downgrade(nodes) => self.downgrade(&nodes).await,
        }
        open.end();
    }

    /// Starts nodes. One that does not start again is a finding: no fault excuses it.
    async fn start(&mut self, nodes: &[NodeId], after: &str) {
        for &id in nodes {
            if !self.victim.runs(id)
                && let Err(why) = self.victim.start(id).await
            {
                self.find(format!("node {id} does not start ({after}): {why}"));
            }
        }
    }

    /// Records every node that ended by itself; one whose disk had failed and is well again is
    /// started.
    async fn note_ended(&mut self) {
        self.excused.retain(|_, mended| mended.as_ref().is_none_or(|since| since.elapsed() < LATE));
        for (id, how) in self.victim.ended() {
            // A node with a foreign or damaged folder may notice late that it must not serve.
            if self.active.iter().any(|fault| fault.has_disk_of(&[id])) {
                continue;
            }
            match self.excused.get(&id) {
                Some(Some(_)) => self.start(&[id], "its disk is well again").await,
                Some(None) => {}
                None => self.find(format!("node {id} ended by itself: {how}")),
            }
        }
    }

    fn find(&mut self, what: String) {
        self.recorder.event("finding", what.clone());
        self.findings.push(what);
    }
}

impl<V: Victim> Breaker for Nemesis<V> {
    async fn boot(&mut self, plan: &[Planned], told: &dyn Fn(String)) {
        self.first_boots(plan, told).await;
    }

    async fn execute(&mut self, plan: &[Planned], told: &dyn Fn(String)) {
        let watch = Stopwatch::start();
        let later = |planned: &&Planned| {
            planned.boundary.is_none_or(|boundary| boundary.moment != Moment::FirstBoot)
        };
        let plan: Vec<Planned> = plan.iter().filter(later).copied().collect();
        let mut next = 0;
        while next < plan.len() || !self.active.is_empty() {
            let now = watch.elapsed();
            let due = self.active.iter().position(|active| active.until <= now);
            if let Some(place) = due {
                let active = self.active.remove(place);
                self.take_back(active).await;
            } else if plan.get(next).is_some_and(|planned| planned.at <= now) {
                let planned = plan[next];
                next += 1;
                told(self.install(planned, &watch).await);
            } else {
                self.note_ended().await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        self.note_ended().await;
    }

    /// Also starts every node that does not run.
    async fn heal(&mut self) {
        while let Some(active) = self.active.pop() {
            self.take_back(active).await;
        }
        self.note_ended().await;
        while self.excused.values().any(Option::is_some) {
            tokio::time::sleep(Duration::from_millis(50)).await;
            self.note_ended().await;
        }
        let all = self.victim.ids();
        self.start(&all, "healing").await;
    }

    fn done(&self) -> Done {
        self.done
    }

    fn deaths(&self) -> &[Death] {
        &self.deaths
    }

    fn findings(&self) -> &[String] {
        &self.findings
    }
}

fn words(nodes: &[NodeId]) -> String {
    let numbers: Vec<String> = nodes.iter().map(NodeId::to_string).collect();
    match numbers.as_slice() {
        [] => String::from("nobody"),
        [one] => format!("node {one}"),
        _ => format!("nodes {}", numbers.join(" ")),
    }
}

/// A random one of these.
fn any<T: Copy>(random: &mut StdRng, of: &[T]) -> T {
    *of.choose(random).expect("there is one")
}

/// A random number of milliseconds.
fn millis(random: &mut StdRng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(random.random_range(range))
}
