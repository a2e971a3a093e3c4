//! A cluster, its clients, and everything that can be done to them.

use std::collections::BTreeMap;
use std::fmt::Arguments;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keyward::Client;
use keyward::api::{ClusterStatus, NodeRole};
use keyward::clock::Clock;
use keyward::node::{Node, Profile};
use keyward::storage::Disk as _;
use keyward::storage::disk::{Fault, Unsynced};
use tokio::runtime::RngSeed;

use super::chance::{self, Dice};
use super::clock::{MachineClock, TrueTime};
use super::disk::{MachineDisk, Pace};
use super::durable::Disks;
use super::host::{Death, Host};
use super::network::{FIRST_CLIENT, Link, MachineId, Network, Uplink};
use super::node::{Boot, Setup, client_addr};
use super::trace::{Digest, Trace};
use super::witness::{Amounts, Witness, Witnessed};

/// The options of a world.
#[derive(Clone, Debug)]
pub struct WorldOptions {
    /// The seed of every random number of the run.
    pub seed: u64,
    /// The number of nodes; their ids begin at 1.
    pub nodes: u64,
    /// The number of client machines.
    pub clients: u64,
    /// The bound on clock drift, in parts per million.
    pub rho_ppm: u32,
    /// The number of entries after which a snapshot is written.
    pub snapshot_every: u64,
    /// Log entries kept after a snapshot covers them.
    pub log_kept: u64,
    /// Bytes of entries read at once to be applied, where a part is enough.
    pub apply_bytes: u64,
    /// Bytes of entries in a message to a follower.
    pub send_bytes: u64,
    /// The profile: how fast a dead leader is detected.
    pub profile: Profile,
    /// Whether the lines of the trace are kept, besides their digest.
    pub keep_trace: bool,
}

/// The result of a run.
#[derive(Clone, Debug)]
pub struct Run<T> {
    /// The value that the body returned.
    pub result: T,
    /// The digest of the trace.
    pub digest: Digest,
    /// The lines of the trace, if they were kept.
    pub trace: String,
    /// How long it took in simulated time.
    pub simulated: Duration,
}

/// A process that has stopped by itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stop {
    /// The time of the stop.
    pub at: Duration,
    /// The node.
    pub node: MachineId,
    /// The reason that the process gave.
    pub reason: String,
}

/// Runs `body` in a world of its own, on this thread.
///
/// # Panics
/// If the runtime cannot be built, or if a node outlives the run: with thousands of runs in one
/// process, that takes all memory.
pub fn run<T, F: Future<Output = T>>(
    options: WorldOptions,
    body: impl FnOnce(World) -> F,
) -> Run<T> {
    let _installed = chance::install(options.seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .rng_seed(RngSeed::from_bytes(&options.seed.to_le_bytes()))
        .build()
        .expect("a runtime without input and output needs nothing of the system");
    let (run, witness) = runtime.block_on(async {
        let world = World::new(options);
        let result = body(world.clone()).await;
        let inner = &world.inner;
        // The teardown afterwards is not part of the run.
        let (digest, trace) = (inner.trace.digest(), inner.trace.take());
        inner.network.close();
        let run = Run { result, digest, trace, simulated: inner.time.now() };
        (run, Arc::downgrade(&inner.witness))
    });
    drop(runtime);
    // Each node holds it, as do the tasks that start nodes.
    assert_eq!(witness.strong_count(), 0, "something outlives the run and holds the witness");
    run
}

/// A cluster and its clients. Clones are handles to the same one.
#[derive(Clone)]
pub struct World {
    inner: Arc<Inner>,
}

struct Inner {
    options: WorldOptions,
    time: TrueTime,
    trace: Arc<Trace>,
    network: Arc<Network>,
    witness: Arc<Witness>,
    nodes: BTreeMap<MachineId, Machine>,
    clients: BTreeMap<MachineId, ClientMachine>,
    state: Mutex<State>,
}

/// A machine of a node: the parts that outlive its processes.
struct Machine {
    disk: Arc<MachineDisk>,
    clock: MachineClock,
}

struct ClientMachine {
    host: Arc<Host>,
    clock: MachineClock,
}

#[derive(Default)]
struct State {
    processes: BTreeMap<MachineId, Process>,
    starts: BTreeMap<MachineId, u64>,
    stops: Vec<Stop>,
    panics: Vec<String>,
}

struct Process {
    host: Arc<Host>,
    node: Option<Node>,
}

impl World {
    fn new(options: WorldOptions) -> Self {
        let time = TrueTime::begin();
        let trace = Arc::new(Trace::new(options.keep_trace));
        let network = Network::new(options.seed, time, trace.clone());
        let mut dice = Dice::new(options.seed, "machines");
        let mut clock = |_| {
            let stood = Duration::from_millis(dice.within(0..=1_000_000_000));
            MachineClock::new(time, stood, 1_000_000)
        };
        let nodes = (1..=options.nodes).map(|id| {
            let disk = MachineDisk::new(options.seed, &format!("disk {id}"));
            (id, Machine { disk, clock: clock(id) })
        });
        let nodes: BTreeMap<MachineId, Machine> = nodes.collect();
        let disks = nodes.iter().map(|(id, machine)| (*id, machine.disk.clone()));
        let witness = Witness::new(time, Disks(disks.collect()));
        let clients = (FIRST_CLIENT..FIRST_CLIENT + options.clients).map(|id| {
            (id, ClientMachine { host: Host::new(format!("client {id}")), clock: clock(id) })
        });
        let clients = clients.collect();
        let state = Mutex::default();
        let inner = Inner { options, time, trace, network, witness, nodes, clients, state };
        Self { inner: Arc::new(inner) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn machine(&self, node: MachineId) -> &Machine {
        self.inner.nodes.get(&node).expect("nodes are numbered from 1")
    }

    /// The true time since the run began.
    pub fn now(&self) -> Duration {
        self.inner.time.now()
    }

    /// Waits on the true time.
    pub async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// The random numbers for one purpose in this run.
    pub fn dice(&self, purpose: &str) -> Dice {
        Dice::new(self.inner.options.seed, purpose)
    }

    /// The ids of the nodes.
    pub fn node_ids(&self) -> Vec<MachineId> {
        self.inner.nodes.keys().copied().collect()
    }

    /// The ids of the clients' machines.
    pub fn client_ids(&self) -> Vec<MachineId> {
        self.inner.clients.keys().copied().collect()
    }

    /// Adds a line to the trace.
    pub fn say(&self, what: Arguments<'_>) {
        self.inner.trace.line(format_args!("{} {what}", self.now().as_millis()));
    }

    /// Starts a node's process, unless it runs. After a power cut the machine is started with it:
    /// it has lost what was not synced, and its clock starts at another reading.
    pub fn start(&self, node: MachineId) {
        let mut state = self.state();
        let died = match state.processes.get(&node) {
            Some(process) if process.host.is_alive() => return,
            Some(process) => process.host.death(),
            None => None,
        };
        let start = state.starts.entry(node).or_default();
        *start += 1;
        let mut dice = self.dice(&format!("start {node} {start}"));
        let machine = self.machine(node);
        if died == Some(Death::PowerCut) {
            let unsynced = *dice.pick(&[Unsynced::Lost, Unsynced::Torn, Unsynced::Torn]);
            machine.disk.reboot(unsynced);
            machine.clock.stand_at(Duration::from_millis(dice.within(0..=1_000_000_000)));
        }
        // The first start has no folder yet.
        let files = machine.disk.bytes.list("log").unwrap_or_default();
        let segments = files.iter().filter(|file| file.starts_with("segment-"));
        self.inner.witness.segments(segments.count() as u64);
        let host = Host::new(format!("node {node}"));
        let process = Process { host: host.clone(), node: None };
        let before = state.processes.insert(node, process);
        let panic = before.as_ref().and_then(|before| before.host.panic());
        state.panics.extend(panic.map(|panic| format!("node {node}: {panic}")));
        drop(state);
        drop(before);
        self.say(format_args!("start node {node}"));
        self.boot(node, host).spawn();
    }

    fn boot(&self, id: MachineId, host: Arc<Host>) -> Boot {
        let Inner { options, network, .. } = &*self.inner;
        let machine = self.machine(id);
        let (here, there) = (self.clone(), self.clone());
        let of = host.clone();
        let setup = Setup {
            nodes: options.nodes,
            rho_ppm: options.rho_ppm,
            snapshot_every: options.snapshot_every,
            log_kept: options.log_kept,
            apply_bytes: options.apply_bytes,
            send_bytes: options.send_bytes,
            profile: options.profile,
        };
        Boot {
            id,
            setup,
            host,
            witness: self.inner.witness.clone(),
            disk: machine.disk.clone(),
            clock: Arc::new(machine.clock.clone()),
            network: network.clone(),
            running: Box::new(move |node| {
                let mut state = here.state();
                let process = state.processes.get_mut(&id);
                if let Some(process) = process.filter(|process| Arc::ptr_eq(&process.host, &of)) {
                    process.node = Some(node);
                }
            }),
            stopped: Box::new(move |reason| {
                there.say(format_args!("node {id} stops: {reason}"));
                let stop = Stop { at: there.now(), node: id, reason };
                there.state().stops.push(stop);
            }),
        }
    }

    /// Ends a node's process, or cuts the power of its machine.
    pub fn kill(&self, node: MachineId, death: Death) {
        let host = self.state().processes.get(&node).map(|process| process.host.clone());
        if let Some(host) = host.filter(|host| host.is_alive()) {
            self.say(format_args!("node {node} dies: {death:?}"));
            host.die(death);
        }
    }

    /// Whether a node's process lives.
    pub fn is_alive(&self, node: MachineId) -> bool {
        self.state().processes.get(&node).is_some_and(|process| process.host.is_alive())
    }

    /// Shuts a node down gracefully; its process ends soon afterwards.
    pub fn shut_down(&self, node: MachineId) {
        let Some((host, running)) = self.running(node) else { return };
        self.say(format_args!("node {node} shuts down"));
        let done = host.clone();
        host.spawn(async move {
            running.shutdown().await;
            done.die(Death::Killed);
        });
    }

    /// Stops running a node's or client's tasks until [`World::thaw`].
    pub fn freeze(&self, machine: MachineId) {
        self.say(format_args!("freeze {machine}"));
        if let Some(host) = self.host(machine) {
            host.freeze();
        }
    }

    /// Lets a machine's tasks run again.
    pub fn thaw(&self, machine: MachineId) {
        self.say(format_args!("thaw {machine}"));
        if let Some(host) = self.host(machine) {
            host.thaw();
        }
    }

    fn host(&self, machine: MachineId) -> Option<Arc<Host>> {
        if let Some(client) = self.inner.clients.get(&machine) {
            return Some(client.host.clone());
        }
        self.state().processes.get(&machine).map(|process| process.host.clone())
    }

    fn running(&self, node: MachineId) -> Option<(Arc<Host>, Node)> {
        let state = self.state();
        let process = state.processes.get(&node).filter(|process| process.host.is_alive())?;
        Some((process.host.clone(), process.node.clone()?))
    }

    /// The current behaviour of a link.
    pub fn link(&self, from: MachineId, to: MachineId) -> Link {
        self.inner.network.link(from, to)
    }

    /// Changes the behaviour of a link.
    pub fn set_link(&self, from: MachineId, to: MachineId, link: Link) {
        self.inner.network.set_link(from, to, link);
    }

    /// Sets the rate of a machine's clocks, in parts per million of the true time.
    pub fn set_clock_rate(&self, machine: MachineId, rate_ppm: u32) {
        self.say(format_args!("the clock of {machine} runs at {rate_ppm}"));
        match (self.inner.nodes.get(&machine), self.inner.clients.get(&machine)) {
            (Some(machine), _) => machine.clock.set_rate(rate_ppm),
            (None, Some(client)) => client.clock.set_rate(rate_ppm),
            (None, None) => {}
        }
    }

    /// Sets how long a node's syncs take.
    pub fn set_disk_pace(&self, node: MachineId, pace: Pace) {
        self.say(format_args!("a sync of {node} takes {} to {} ms", pace.min_ms, pace.max_ms));
        self.machine(node).disk.set_pace(pace);
    }

    /// Sets whether a node's disk is full.
    pub fn set_disk_full(&self, node: MachineId, full: bool) {
        self.say(format_args!("the disk of {node} is full: {full}"));
        self.machine(node).disk.set_full(full);
    }

    /// Makes calls to a node's disk fail from now on.
    pub fn fail_disk(&self, node: MachineId, fault: Fault) {
        self.say(format_args!("the disk of {node} fails: {fault:?}"));
        self.machine(node).disk.bytes.fail(fault);
    }

    /// Ends what [`World::fail_disk`] began.
    pub fn heal_disk(&self, node: MachineId) {
        self.machine(node).disk.bytes.heal();
    }

    /// Cuts a node's power after this many more changes to its disk.
    pub fn cut_power_after(&self, node: MachineId, changes: u64) {
        self.say(format_args!("the power of {node} is cut after {changes} changes"));
        self.machine(node).disk.set_fuse(changes);
    }

    /// Triggers a transfer of the leadership to `to`.
    pub fn transfer(&self, to: MachineId) {
        let Some((host, node)) = self.leader().and_then(|leader| self.running(leader)) else {
            return;
        };
        self.say(format_args!("transfer to {to}"));
        host.spawn(async move {
            if let Err(error) = node.transfer_to(to).await {
                tracing::debug!(%error, "no transfer");
            }
        });
    }

    /// The cluster as a running node knows it.
    pub fn status(&self, node: MachineId) -> Option<ClusterStatus> {
        self.running(node).map(|(_, node)| node.status())
    }

    /// The node that leads in the highest term.
    pub fn leader(&self) -> Option<MachineId> {
        let leads = |id: &MachineId| {
            let status = self.status(*id)?;
            (status.role == NodeRole::Leader).then_some((status.term, *id))
        };
        self.inner.nodes.keys().filter_map(leads).max().map(|(_, id)| id)
    }

    /// The last entry that a node has applied, and the bytes of its state.
    pub fn node_state(&self, node: MachineId) -> Option<(u64, Vec<u8>)> {
        let (_, node) = self.running(node)?;
        node.applied_state()
    }

    /// All processes that have stopped by themselves.
    pub fn stops(&self) -> Vec<Stop> {
        self.state().stops.clone()
    }

    /// The panics of tasks, with the process of each: of running processes and of those that ended
    /// by it.
    pub fn panics(&self) -> Vec<String> {
        let state = self.state();
        let hosts = state.processes.values().map(|process| &process.host);
        let hosts = hosts.chain(self.inner.clients.values().map(|client| &client.host));
        let panics = hosts.filter_map(|host| Some(format!("{}: {}", host.name, host.panic()?)));
        state.panics.iter().cloned().chain(panics).collect()
    }

    /// The differences between nodes.
    pub fn disagreements(&self) -> Vec<String> {
        self.inner.witness.disagreements()
    }

    /// The largest amounts that occurred in nodes, of what has limits.
    pub fn amounts(&self) -> Amounts {
        self.inner.witness.amounts()
    }

    /// Every entry that was ever applied by any node.
    pub fn log(&self) -> Vec<Witnessed> {
        self.inner.witness.entries()
    }

    /// A client on a client machine; it tries the node `first` first.
    ///
    /// # Panics
    /// If it is no client machine.
    pub fn client(&self, machine: MachineId, first: MachineId, timeout: Duration) -> Client {
        let ClientMachine { host, clock } = &self.inner.clients[&machine];
        let uplink = Uplink::new(self.inner.network.clone(), machine, host.clone());
        let nodes = self.inner.options.nodes;
        let endpoints = (0..nodes).map(|at| client_addr((first - 1 + at) % nodes + 1));
        Client::builder()
            .endpoints(endpoints)
            .timeout(timeout)
            .clock(Arc::new(clock.clone()))
            .build_with(uplink)
            .expect("the endpoints are URLs")
    }

    /// A machine's clock.
    ///
    /// # Panics
    /// If there is no such machine.
    pub fn clock(&self, machine: MachineId) -> Arc<dyn Clock> {
        match self.inner.clients.get(&machine) {
            Some(client) => Arc::new(client.clock.clone()),
            None => Arc::new(self.machine(machine).clock.clone()),
        }
    }

    /// Starts a task on a client machine: it is frozen with it.
    ///
    /// # Panics
    /// If it is no client machine.
    pub fn spawn_on<F>(&self, machine: MachineId, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.inner.clients[&machine].host.spawn(task);
    }
}

#[cfg(test)]
mod tests {
    use keyward::LockService as _;
    use keyward::types::{LockOptions, LockRequest};

    use super::*;

    fn options() -> WorldOptions {
        WorldOptions {
            seed: 1,
            nodes: 3,
            clients: 1,
            rho_ppm: 10_000,
            snapshot_every: 10,
            log_kept: 5,
            apply_bytes: 64 << 10,
            send_bytes: 64 << 10,
            profile: Profile::Fast,
            keep_trace: false,
        }
    }

    /// Locks and loses a node, and leaves requests in flight.
    async fn work(world: World) {
        world.node_ids().into_iter().for_each(|node| world.start(node));
        let client = world.client(FIRST_CLIENT, 1, Duration::from_secs(20));
        let lock = |signature: &str| {
            let (signature, signee) = (signature.to_owned(), "one".to_owned());
            client.lock(LockRequest { signature, signee, level: None }, LockOptions::default())
        };
        for number in 0..30 {
            lock(&format!("lock {number}")).await.expect("nothing is wrong yet");
        }
        world.kill(1, Death::Killed);
        world.kill(2, Death::PowerCut);
        world.start(1);
        lock("another").await.expect("two of three are a majority");
        world.freeze(3);
        let held_up = lock("held up");
        tokio::time::timeout(Duration::from_secs(1), held_up).await.expect_err("no majority runs");
    }

    /// The run itself looks.
    #[test]
    fn no_node_outlives_its_run() {
        run(options(), work);
    }
}
