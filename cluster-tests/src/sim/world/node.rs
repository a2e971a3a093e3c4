//! A node on a simulated machine: production code from the routers down, with the machine's disk,
//! clock and network under it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use keyward::clock::Clock;
use keyward::forward::Forwarding;
use keyward::http::{self, ServedNode};
use keyward::node::{Member, Node, NodeConfig, Profile};
use keyward::raft::Surroundings;
use keyward::storage::log::{Drive, OnRead};
use keyward::storage::{Log, LogOptions};
use tokio::sync::Notify;

use super::disk::{HostDisk, MachineDisk};
use super::host::{Death, Host};
use super::network::{MachineId, Network, Uplink};
use super::witness::{NodeWitness, Witness};

/// The size of a segment of the log: small, so that runs of a minute begin new ones and recycle old
/// ones.
pub const SEGMENT_BYTES: u64 = 32 << 10;

/// The memory for recent entries: little, so that the log is read from its files too.
const CACHE_BYTES: usize = 4 << 10;

/// How long a process that has stopped itself may still run: the end of a real one takes a moment.
const LAST_MOMENT_MS: u64 = 20;

/// The settings of the nodes.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) nodes: u64,
    pub(crate) rho_ppm: u32,
    pub(crate) snapshot_every: u64,
    pub(crate) log_kept: u64,
    pub(crate) apply_bytes: u64,
    pub(crate) send_bytes: u64,
    pub(crate) profile: Profile,
}

/// The address at which peers reach a node.
fn peer_addr(id: MachineId) -> String {
    format!("n{id}:7421")
}

/// The address at which clients reach a node.
pub(crate) fn client_addr(id: MachineId) -> String {
    format!("http://n{id}:7420")
}

/// Everything that a process of a node needs.
pub(crate) struct Boot {
    pub(crate) id: MachineId,
    pub(crate) setup: Setup,
    pub(crate) host: Arc<Host>,
    pub(crate) witness: Arc<Witness>,
    pub(crate) disk: Arc<MachineDisk>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) network: Arc<Network>,
    /// Called with the node when it runs.
    pub(crate) running: Box<dyn FnOnce(Node) + Send>,
    /// Called with the reason when the process has stopped by itself.
    pub(crate) stopped: Box<dyn FnOnce(String) + Send>,
}

impl Boot {
    /// Starts the process.
    pub(crate) fn spawn(self) {
        self.host.clone().spawn(self.run());
    }

    async fn run(self) {
        let surroundings = self.surroundings();
        let Self { id, setup, host, clock, network, running, stopped, .. } = self;
        let reason = match Node::start_in(surroundings, config(id, &setup), clock).await {
            Ok(node) => {
                serve(&node, id, &host, &network);
                host.spawn(keyward::advance::run(node.clone()));
                running(node.clone());
                node.stopped().await
            }
            Err(error) => format!("cannot start: {error}"),
        };
        stopped(reason);
        let moment = keyward::random::number::<u64>() % LAST_MOMENT_MS;
        tokio::time::sleep(Duration::from_millis(moment)).await;
        host.die(Death::Killed);
    }

    /// The machine, its network and the witness, as the node's surroundings.
    fn surroundings(&self) -> Surroundings {
        let Self { id, setup, host, witness, disk: machine, clock, network, .. } = self;
        let waiting = Arc::new(Notify::new());
        let bell = waiting.clone();
        let log = LogOptions {
            segment_bytes: SEGMENT_BYTES,
            cache_bytes: CACHE_BYTES,
            apply_bytes: usize::try_from(setup.apply_bytes).unwrap_or(usize::MAX),
            send_bytes: usize::try_from(setup.send_bytes).unwrap_or(usize::MAX),
            on_whole_read: whole_reads(witness),
            on_waiting: Arc::new(move || bell.notify_one()),
            clock: clock.clone(),
            drive: Drive::Manual,
            ..LogOptions::default()
        };
        let (writer, written) = (host.clone(), machine.clone());
        let uplink = Uplink::new(network.clone(), *id, host.clone());
        Surroundings {
            disk: Arc::new(HostDisk::new(host.clone(), machine.clone())),
            log,
            log_opened: Box::new(move |log| {
                writer.spawn(write_log(log, written.clone(), waiting.clone()));
            }),
            carrier: Box::new(move |_| uplink.channel()),
            observer: Some(Arc::new(NodeWitness::new(witness.clone(), host.name.clone()))),
        }
    }
}

/// Reports reads that want all entries to the witness.
fn whole_reads(witness: &Arc<Witness>) -> OnRead {
    let witness = witness.clone();
    Arc::new(move |entries, bytes| witness.whole_read(entries, bytes))
}

fn config(id: MachineId, setup: &Setup) -> NodeConfig {
    let members = (1..=setup.nodes).map(|id| (id, Member { peer_addr: peer_addr(id) }));
    NodeConfig {
        client_addr: Some(client_addr(id)),
        profile: setup.profile,
        rho_ppm: setup.rho_ppm,
        snapshot_every: setup.snapshot_every,
        log_kept: setup.log_kept,
        ..NodeConfig::new(id, members.collect::<BTreeMap<_, _>>(), "")
    }
}

/// Lets the log's writer do its pending work, at the pace of the disk.
async fn write_log(log: Log, disk: Arc<MachineDisk>, waiting: Arc<Notify>) {
    loop {
        waiting.notified().await;
        let time = disk.sync_time();
        if !time.is_zero() {
            tokio::time::sleep(time).await;
        }
        log.drive();
    }
}

fn serve(node: &Node, id: MachineId, host: &Arc<Host>, network: &Arc<Network>) {
    let service = Arc::new(Forwarding::new(node.clone()));
    let served = Arc::new(ServedNode::new(Arc::clone(&service)));
    network.listen(format!("n{id}:7420"), id, host, http::clients_router(service, served));
    network.listen(peer_addr(id), id, host, http::peers::router(node.clone()));
}
