//! Installs the faults of a schedule in a cluster, and restarts dead nodes.

use std::collections::BTreeMap;
use std::time::Duration;

use super::world::{Death, Dice, FIRST_CLIENT, Link, MachineId, Pace, World};
use keyward::storage::disk::{Fault as DiskFault, FaultyCall};

use super::schedule::{Fault, Schedule, Target, Timed};
use crate::history::Recorder;

/// The shortest and the longest time until a node that has died by itself is restarted.
const RESTART_MS: (u64, u64) = (5, 1_000);

/// The interval at which dead nodes are looked for.
const WATCH: Duration = Duration::from_millis(25);

/// The pace of a disk without faults.
const HEALTHY_DISK: Pace = Pace { min_ms: 0, max_ms: 2 };

/// Sets some clocks to the largest allowed error from the beginning.
pub(super) fn set_up(world: &World, schedule: &Schedule) {
    let mut dice = world.dice("clocks");
    for machine in world.node_ids().into_iter().chain(world.client_ids()) {
        let off = *dice.pick(&[0, 0, schedule.rho_ppm]);
        let rate = if dice.hits(500_000) { 1_000_000 - off } else { 1_000_000 + off };
        world.set_clock_rate(machine, rate);
    }
}

/// The state of the faults at a moment.
struct Nemesis<'a> {
    world: &'a World,
    schedule: &'a Schedule,
    /// The faults that are installed, with the nodes they were resolved to.
    active: BTreeMap<usize, (Fault, Option<MachineId>)>,
    /// The time at which each dead node is restarted.
    restarts: BTreeMap<MachineId, Duration>,
}

/// The next step.
enum Next<'a> {
    Begin(&'a Timed),
    End(usize),
    Watch,
}

/// Installs and removes the faults, until all are over, and heals the rest.
pub(super) async fn run(world: &World, schedule: &Schedule, recorder: &Recorder) {
    let mut nemesis =
        Nemesis { world, schedule, active: BTreeMap::new(), restarts: BTreeMap::new() };
    let mut dice = world.dice("restarts");
    let mut coming = schedule.faults.iter().peekable();
    let mut ends: BTreeMap<(u64, usize), crate::history::OpenFault> = BTreeMap::new();
    let length = Duration::from_millis(schedule.length_ms);
    while world.now() < length {
        let begin = coming.peek().map(|timed| Duration::from_millis(timed.at_ms));
        let end = ends.keys().next().map(|(at, _)| Duration::from_millis(*at));
        let watch = world.now() + WATCH;
        let at = [begin, end, Some(watch)].into_iter().flatten().min().unwrap_or(watch);
        world.sleep(at.saturating_sub(world.now())).await;
        let next = if begin == Some(at) {
            coming.next().map_or(Next::Watch, Next::Begin)
        } else if end == Some(at) {
            ends.keys().next().map_or(Next::Watch, |(_, number)| Next::End(*number))
        } else {
            Next::Watch
        };
        match next {
            Next::Begin(timed) => {
                let name = format!("{:?}", timed.fault);
                let name = name.split(['(', ' ']).next().unwrap_or_default().to_owned();
                let mut fault = recorder.begin_fault(name, format!("{:?}", timed.fault));
                nemesis.begin(timed);
                fault.installed();
                ends.insert((timed.at_ms + timed.lasts_ms, timed.number), fault);
            }
            Next::End(number) => {
                if let Some((_, fault)) = ends.pop_first() {
                    nemesis.end(number);
                    fault.end();
                }
            }
            Next::Watch => {}
        }
        nemesis.restart(&mut dice);
    }
    while let Some(((_, number), fault)) = ends.pop_first() {
        nemesis.end(number);
        fault.end();
    }
    nemesis.heal();
}

impl Nemesis<'_> {
    fn resolve(&self, target: Target) -> MachineId {
        let leader = self.world.leader().unwrap_or(1);
        match target {
            Target::Node(node) => node,
            Target::Leader => leader,
            Target::Follower(at) => {
                let others: Vec<MachineId> =
                    self.world.node_ids().into_iter().filter(|id| *id != leader).collect();
                others[usize::try_from(at).unwrap_or(0) % others.len()]
            }
        }
    }

    fn begin(&mut self, timed: &Timed) {
        let world = self.world;
        world.say(format_args!("fault {timed}"));
        let mut node = None;
        let mut at = |target: &Target| {
            let found = self.resolve(*target);
            node = Some(found);
            found
        };
        match &timed.fault {
            Fault::Kill(target) => world.kill(at(target), Death::Killed),
            Fault::ShutDown(target) => world.shut_down(at(target)),
            Fault::PowerCut(target) => world.kill(at(target), Death::PowerCut),
            Fault::PowerCutAll => {
                for node in world.node_ids() {
                    world.kill(node, Death::PowerCut);
                }
            }
            Fault::PowerCutAt(target, changes) => world.cut_power_after(at(target), *changes),
            Fault::BrownOut(nodes) => {
                for node in nodes {
                    world.fail_disk(*node, broken(FaultyCall::Sync));
                }
            }
            Fault::Freeze(target) => world.freeze(at(target)),
            Fault::FreezeClient(client) => world.freeze(FIRST_CLIENT + client),
            Fault::SlowDisk(target, ms) => {
                world.set_disk_pace(at(target), Pace { min_ms: ms / 2, max_ms: *ms });
            }
            Fault::FullDisk(target) => world.set_disk_full(at(target), true),
            Fault::BadDisk(target) => world.fail_disk(at(target), broken(FaultyCall::Write)),
            Fault::Clock(node, rate) => world.set_clock_rate(*node, *rate),
            Fault::Transfer(to) => world.transfer(*to),
            Fault::Deaf(target) | Fault::Mute(target) => drop(at(target)),
            Fault::Partition(_) | Fault::OneWay(..) | Fault::BadLinks { .. } => {}
        }
        self.active.insert(timed.number, (timed.fault.clone(), node));
        self.set_links();
    }

    fn end(&mut self, number: usize) {
        let Some((fault, node)) = self.active.remove(&number) else { return };
        let world = self.world;
        world.say(format_args!("end of fault {number}"));
        match (&fault, node) {
            (Fault::BrownOut(nodes), _) => {
                for node in nodes {
                    world.kill(*node, Death::PowerCut);
                    world.heal_disk(*node);
                }
            }
            (Fault::Freeze(_), Some(node)) => world.thaw(node),
            (Fault::FreezeClient(client), _) => world.thaw(FIRST_CLIENT + client),
            (Fault::SlowDisk(..), Some(node)) => world.set_disk_pace(node, HEALTHY_DISK),
            (Fault::FullDisk(_), Some(node)) => world.set_disk_full(node, false),
            (Fault::BadDisk(_), Some(node)) => world.heal_disk(node),
            // The others have no end of their own, or end with the links and restarts.
            _ => {}
        }
        self.set_links();
    }

    /// Sets every link to the result of all active faults.
    fn set_links(&self) {
        let nodes = self.world.node_ids();
        let clients = self.world.client_ids();
        let machines: Vec<MachineId> = nodes.iter().chain(&clients).copied().collect();
        for from in &machines {
            for to in machines.iter().filter(|to| *to != from) {
                let peers = nodes.contains(from) && nodes.contains(to);
                let mut link = Link::default();
                for (fault, node) in self.active.values() {
                    match fault {
                        Fault::Partition(side) => {
                            link.cut |= peers && side.contains(from) != side.contains(to);
                        }
                        Fault::OneWay(a, b) => link.cut |= a == from && b == to,
                        Fault::Deaf(_) => link.cut |= peers && *node == Some(*to),
                        Fault::Mute(_) => link.cut |= peers && *node == Some(*from),
                        Fault::BadLinks { max_ms, loss_ppm, late_ppm, late_ms, repeat_ppm } => {
                            link.max_ms = link.max_ms.max(*max_ms);
                            link.loss_ppm = link.loss_ppm.max(*loss_ppm);
                            link.late_ppm = link.late_ppm.max(*late_ppm);
                            link.late_ms = link.late_ms.max(*late_ms);
                            link.repeat_ppm = link.repeat_ppm.max(*repeat_ppm);
                        }
                        Fault::Kill(_)
                        | Fault::ShutDown(_)
                        | Fault::PowerCut(_)
                        | Fault::PowerCutAll
                        | Fault::PowerCutAt(..)
                        | Fault::BrownOut(_)
                        | Fault::Freeze(_)
                        | Fault::FreezeClient(_)
                        | Fault::SlowDisk(..)
                        | Fault::FullDisk(_)
                        | Fault::BadDisk(_)
                        | Fault::Clock(..)
                        | Fault::Transfer(_) => {}
                    }
                }
                self.world.set_link(*from, *to, link);
            }
        }
    }

    /// Restarts dead nodes, except those that a fault keeps down.
    fn restart(&mut self, dice: &mut Dice) {
        let now = self.world.now();
        for node in self.world.node_ids() {
            if self.world.is_alive(node) || self.is_down(node) {
                self.restarts.remove(&node);
                continue;
            }
            let at = *self.restarts.entry(node).or_insert_with(|| {
                let (soonest, latest) = RESTART_MS;
                let latest = *dice.pick(&[soonest, latest]);
                now + Duration::from_millis(dice.within(soonest..=latest))
            });
            if at <= now {
                self.restarts.remove(&node);
                self.world.start(node);
            }
        }
    }

    /// Whether a fault that is installed keeps the node from being started.
    fn is_down(&self, node: MachineId) -> bool {
        self.active.values().any(|(fault, of)| match fault {
            Fault::Kill(_) | Fault::ShutDown(_) | Fault::PowerCut(_) => *of == Some(node),
            Fault::PowerCutAll => true,
            Fault::BrownOut(nodes) => nodes.contains(&node),
            Fault::PowerCutAt(..)
            | Fault::Freeze(_)
            | Fault::FreezeClient(_)
            | Fault::Partition(_)
            | Fault::OneWay(..)
            | Fault::Deaf(_)
            | Fault::Mute(_)
            | Fault::BadLinks { .. }
            | Fault::SlowDisk(..)
            | Fault::FullDisk(_)
            | Fault::BadDisk(_)
            | Fault::Clock(..)
            | Fault::Transfer(_) => false,
        })
    }

    /// Ends everything that is left, and starts every node; one that is still shutting down is
    /// started when the cluster is waited for.
    fn heal(&self) {
        for node in self.world.node_ids() {
            self.world.cut_power_after(node, u64::MAX);
            self.world.heal_disk(node);
            self.world.start(node);
        }
        debug_assert!(self.schedule.faults.len() >= self.active.len());
    }
}

fn broken(call: FaultyCall) -> DiskFault {
    DiskFault {
        call,
        path: String::new(),
        after: 0,
        times: u64::MAX,
        kind: std::io::ErrorKind::Other,
    }
}
