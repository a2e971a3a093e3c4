//! Deaths at calls to the disk.
//!
//! The trap is set before the node is started, or while it works. The disk ends the node's process
//! itself; the nemesis waits for that. The unsynced data is lost then, or some of it, or none. The
//! node is started again and must be ready and have everything that the others have.

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::process::Signal;

use super::disk::NO_DISK;
use super::{Attempt, Nemesis, Undo};
use crate::chaos::boundary::{Boundary, Death, Moment};
use crate::chaos::plan::{Planned, Whom};
use crate::chaos::victim::Victim;
use crate::cluster::NodeId;
use crate::history::OpenFault;
use crate::powercut::{Disk, Trouble};
use crate::wait::Stopwatch;

/// The timeout for a node to reach the call at which it is to die: under load there are hundreds a
/// second.
const REACHED: Duration = Duration::from_secs(15);

/// The timeout for the leader to purge the entries that an absent node lacks.
const PURGED: Duration = Duration::from_secs(20);

/// The time after its start within which a node must be ready and have caught up.
const BACK: Duration = Duration::from_secs(20);

/// The length of a sync before all nodes lose power: long enough that each has an unsynced write in
/// flight.
const SLOW: Duration = Duration::from_millis(20);

/// The polling interval: the next step must not wait.
const LOOK: Duration = Duration::from_millis(2);

impl<V: Victim> Nemesis<V> {
    /// Makes one node die at a boundary.
    pub(super) async fn die_at_io(&mut self, id: NodeId, at: Boundary) -> Attempt {
        if self.disks.of(id).is_none() {
            return Attempt::Skipped(String::from(NO_DISK));
        }
        // A broken cluster may never reach the boundary.
        if !self.findings.is_empty() {
            return Attempt::Skipped(String::from("something was found already"));
        }
        let died = match self.approach(id, at).await {
            Ok(()) => self.wait_death(id, at).await,
            Err(why) => Err(why),
        };
        let died_too = if at.moment == Moment::WorkOfAll { self.victim.ids() } else { vec![id] };
        let undo = Undo::Reboot(died_too);
        match died {
            Ok(()) => Attempt::Installed(undo),
            Err(why) => {
                if let Some(disk) = self.disks.of(id) {
                    disk.clear_trap();
                }
                self.all_disks(Trouble::default());
                Attempt::Indeterminate(undo, why)
            }
        }
    }

    /// Sets the trap and brings about the moment from which calls are counted.
    async fn approach(&mut self, id: NodeId, at: Boundary) -> Result<(), String> {
        match at.moment {
            Moment::FirstBoot => Err(format!("node {id} was started before")),
            Moment::Work => {
                self.set_trap(id, at);
                Ok(())
            }
            Moment::WorkOfAll => {
                self.all_disks(Trouble { slow: SLOW, ..Trouble::default() });
                self.set_trap(id, at);
                Ok(())
            }
            Moment::Start => {
                self.end(&[id]).await;
                self.set_trap(id, at);
                self.start_into_trap(id).await
            }
            Moment::StartOfAll => {
                let all = self.victim.ids();
                self.end(&all).await;
                self.set_trap(id, at);
                let started = self.start_into_trap(id).await;
                let others: Vec<NodeId> = all.into_iter().filter(|&other| other != id).collect();
                self.start(&others, "all had been stopped").await;
                started
            }
            Moment::Installation => {
                self.stay_away(id).await?;
                self.set_trap(id, at);
                self.start_into_trap(id).await
            }
        }
    }

    fn all_disks(&self, trouble: Trouble) {
        for disk in self.victim.ids().into_iter().filter_map(|id| self.disks.of(id)) {
            disk.set(trouble);
        }
    }

    fn set_trap(&self, id: NodeId, at: Boundary) {
        if let Some(disk) = self.disks.of(id) {
            disk.set_trap(at.trap());
        }
    }

    /// Sends `kill -9` to the running ones among them.
    async fn end(&mut self, nodes: &[NodeId]) {
        let running: Vec<NodeId> =
            nodes.iter().copied().filter(|&id| self.victim.runs(id)).collect();
        for &id in &running {
            self.victim.signal(id, Signal::KILL);
        }
        for &id in &running {
            self.victim.wait_end(id).await;
            self.done.kills += 1;
        }
    }

    /// Starts a node that may die at its trap before it listens, but of nothing else.
    async fn start_into_trap(&mut self, id: NodeId) -> Result<(), String> {
        let started = self.victim.start(id).await;
        match self.disks.of(id).and_then(Disk::sprung) {
            Some(_) => Ok(()),
            None => started.inspect_err(|why| {
                self.find(format!("node {id} does not start (it has a trap at its disk): {why}"));
            }),
        }
    }

    /// Keeps a node stopped until the leader's log does not reach back to it.
    async fn stay_away(&mut self, id: NodeId) -> Result<(), String> {
        let Some(cluster) = self.victim.cluster() else { return Err(NO_DISK.to_owned()) };
        let had = cluster.status(id).await?.last_log_index;
        self.end(&[id]).await;
        let watch = Stopwatch::start();
        loop {
            let Some(cluster) = self.victim.cluster() else { return Err(NO_DISK.to_owned()) };
            if let Some(leader) = cluster.believed_leader().await
                && let Ok(status) = cluster.status(leader).await
                && status.purged_index > had
            {
                return Ok(());
            }
            if watch.elapsed() > PURGED {
                return Err(format!("what node {id} lacks was not purged within {PURGED:?}"));
            }
            tokio::time::sleep(LOOK * 10).await;
        }
    }

    async fn wait_death(&mut self, id: NodeId, at: Boundary) -> Result<(), String> {
        let watch = Stopwatch::start();
        while self.disks.of(id).and_then(Disk::sprung).is_none() {
            if watch.elapsed() > REACHED {
                return Err(format!("node {id} did not come to call {} in time", at.number));
            }
            tokio::time::sleep(LOOK).await;
        }
        if at.moment == Moment::WorkOfAll {
            let mut others = self.victim.ids();
            others.retain(|&other| other != id && self.victim.runs(other));
            // The result is the same whichever of them is first.
            self.cut_power(&others, at.kept).await;
        }
        self.bury(id, at).await
    }

    /// Waits for the end of a node that its disk has ended, and discards the unsynced data.
    async fn bury(&mut self, id: NodeId, at: Boundary) -> Result<(), String> {
        let led = at.moment == Moment::Work && self.led(id).await;
        let by_itself = !self.victim.runs(id) || self.victim.wait_end(id).await;
        let Some(disk) = self.disks.of(id) else { return Err(NO_DISK.to_owned()) };
        let sprung = disk.sprung();
        disk.power_on(at.kept);
        let Some(sprung) = sprung.filter(|_| by_itself) else {
            return Err(format!("node {id} outlived its death and was killed"));
        };
        // The folder that the disk is mounted on contains only the data folder.
        let path = sprung.path.strip_prefix("data/").unwrap_or(&sprung.path).to_owned();
        let death = Death { node: id, led, at, call: sprung.call, path };
        self.recorder.event("death", death.to_string());
        self.deaths.push(death);
        Ok(())
    }

    /// Whether the others regard it as the leader, as they do for a while after its death.
    async fn led(&mut self, id: NodeId) -> bool {
        let Some(cluster) = self.victim.cluster() else { return false };
        for other in cluster.others(id) {
            if cluster.runs(other)
                && cluster.status(other).await.is_ok_and(|status| status.leader == Some(id))
            {
                return true;
            }
        }
        false
    }

    /// Starts nodes that have died. Each must be ready and have caught up in time, unless another
    /// fault is active.
    pub(super) async fn reboot(&mut self, nodes: &[NodeId]) {
        self.start(nodes, "it died at a call to its disk").await;
        if self.active.is_empty() {
            for &id in nodes {
                self.wait_back(id).await;
            }
        }
    }

    async fn wait_back(&mut self, id: NodeId) {
        let watch = Stopwatch::start();
        let mut goal = None;
        while self.victim.runs(id) && self.findings.is_empty() {
            match self.is_back(id, &mut goal).await {
                Ok(()) => return,
                Err(last) if watch.elapsed() > BACK => {
                    self.find(format!("node {id} is not back {BACK:?} after its start: {last}"));
                    return;
                }
                Err(_) => {}
            }
            self.note_ended().await;
            tokio::time::sleep(LOOK * 5).await;
        }
    }

    /// Whether a node is ready and has applied everything that was committed when a leader was
    /// first seen.
    async fn is_back(&mut self, id: NodeId, goal: &mut Option<u64>) -> Result<(), String> {
        let Some(cluster) = self.victim.cluster() else { return Ok(()) };
        cluster.readiness(id).await?;
        if goal.is_none() {
            let leader = cluster.believed_leader().await.ok_or("nobody leads")?;
            *goal = cluster.status(leader).await?.committed_index;
        }
        let applied = cluster.status(id).await?.applied_index;
        if applied >= *goal && goal.is_some() {
            Ok(())
        } else {
            Err(format!("it has applied {applied:?} of {goal:?}"))
        }
    }

    /// Starts all nodes for the first time; those that the plan names die on the way. All must be
    /// ready at the end.
    pub(super) async fn first_boots(&mut self, plan: &[Planned], told: &dyn Fn(String)) {
        let mut waiting = self.set_first_traps(plan);
        if waiting.is_empty() {
            return;
        }
        for id in self.victim.ids() {
            // Whether that was its death is checked below.
            let _ = self.start_into_trap(id).await;
        }
        let watch = Stopwatch::start();
        while let Some(id) = self.first_to_die(&waiting, &watch).await {
            let Some((at, mut open)) = waiting.remove(&id) else { break };
            let died = self.wait_death(id, at).await;
            match &died {
                Ok(()) => open.installed(),
                Err(why) => open.indeterminate(why.clone()),
            }
            self.done.installed += u64::from(died.is_ok());
            self.done.indeterminate += u64::from(died.is_err());
            told(format!("die-at-io of node {id} at its first boot"));
            self.start(&[id], "it died at its first boot").await;
            open.end();
        }
        for id in self.victim.ids() {
            self.wait_back(id).await;
        }
    }

    /// The nodes that are to die at their first boot: the boundary, and the fault in the history.
    fn set_first_traps(&mut self, plan: &[Planned]) -> BTreeMap<NodeId, (Boundary, OpenFault)> {
        let ids = self.victim.ids();
        let mut waiting = BTreeMap::new();
        for planned in plan {
            if let (Some(at), Whom::Node(place)) = (planned.boundary, planned.whom)
                && let Some(&id) = usize::try_from(place).ok().and_then(|place| ids.get(place))
                && at.moment == Moment::FirstBoot
            {
                self.set_trap(id, at);
                let open = self.recorder.begin_fault(planned.fault.name(), format!("node {id}"));
                waiting.insert(id, (at, open));
            }
        }
        waiting
    }

    /// The next of them that its disk has ended; any of them after a timeout; `None` if none is
    /// left, or something is already wrong.
    async fn first_to_die(
        &self,
        waiting: &BTreeMap<NodeId, (Boundary, OpenFault)>,
        watch: &Stopwatch,
    ) -> Option<NodeId> {
        loop {
            let dead = |id: &&NodeId| self.disks.of(**id).and_then(Disk::sprung).is_some();
            if !self.findings.is_empty() {
                return None;
            }
            let late = watch.elapsed() > REACHED;
            match waiting.keys().find(dead) {
                Some(&id) => return Some(id),
                None if late || waiting.is_empty() => return waiting.keys().next().copied(),
                None => tokio::time::sleep(LOOK).await,
            }
        }
    }
}
