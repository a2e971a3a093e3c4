//! One member's consensus: its storage, its raft core, and the state of its joining.
//!
//! [`Member::open`] opens the folder and starts openraft; [`Member::join`] finds out which cluster
//! the node belongs to and lets it take part. Until then no vote, no append and nothing else that
//! could be a promise is answered.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use openraft::async_runtime::WatchReceiver;
use openraft::errors::{Fatal as RaftFatal, InitializeError, RaftError};
use openraft::{Instant as _, Raft, RaftMetrics};
use tokio::sync::{OnceCell, oneshot, watch};

use crate::client::carrier::Carry;
use crate::clock::Clock;
use crate::lock::{Loader, State};
use crate::raft::absence::Failures;
use crate::raft::bootstrap::{Asker, BootstrapError, Introduction, encode_introduction};
use crate::raft::checkpoint::{self, CheckpointWriter};
use crate::raft::compaction::Thresholds;
use crate::raft::config::{Settings, raft_config};
use crate::raft::leader_watch::LeaderWatch;
use crate::raft::leadership;
use crate::raft::log_store::LogStore;
use crate::raft::network::Network;
use crate::raft::observer::Observer;
use crate::raft::peer::{Channel, Own, Peers};
use crate::raft::state_machine::{
    Machine, Replica, StateMachine, read_state, snapshot_meta, understood,
};
use crate::raft::stop::StopSignal;
use crate::raft::types::{LogId, MemberNode, SnapshotMeta, TypeConfig};
use crate::raft::ways::Ways;
use crate::storage::checkpoint::{CheckpointMeta, CheckpointOptions, Opened};
use crate::storage::io_may_pass;
use crate::storage::log::Fatal;
use crate::storage::snapshots;
use crate::storage::{
    Checkpoint, Disk, FolderLock, Identity, Log, LogOptions, RealDisk, Snapshots, StorageError,
    Vote,
};
use crate::task::blocking;
use crate::tls::Tls;

/// The interval at which the identity file is written while the node makes promises. A node that is
/// killed forgets the promises of others from up to this interval.
const KEEP_EVERY: std::time::Duration = std::time::Duration::from_secs(10);

/// The interval at which the node makes sure that its folder is still there.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_secs(1);

pub(crate) type KeywardRaft = Raft<TypeConfig, StateMachine>;

/// The options of a member.
pub(crate) struct Options {
    pub(crate) id: u64,
    /// Peer addresses of the initial members, this one among them.
    pub(crate) addrs: BTreeMap<u64, String>,
    pub(crate) client_addr: Option<String>,
    pub(crate) home: Home,
    pub(crate) settings: Settings,
    pub(crate) rho_ppm: u32,
    /// The feature level of this program.
    pub(crate) level: u32,
    pub(crate) clock: Arc<dyn Clock>,
    /// Each sees what is applied.
    pub(crate) observers: Vec<Arc<dyn Observer>>,
}

/// The storage of a member, and its connections to the others.
pub(crate) enum Home {
    /// A folder of this machine, used by this member alone, and connections of this machine.
    Folder {
        path: PathBuf,
        /// The size of a segment of the log.
        segment_bytes: u64,
        /// The TLS between members, if there is one.
        tls: Option<Arc<Tls>>,
    },
    /// A disk and a network that are handed in.
    Given(Surroundings),
}

/// The surroundings of a node in place of a folder and a network of this machine. No copy of the
/// state is kept in them: the node starts from snapshot and log, as it does whenever the copy is not
/// accepted.
pub struct Surroundings {
    /// The disk, used by this node alone.
    pub disk: Arc<dyn Disk>,
    /// The options of the log on it, but for what happens when a write has failed.
    pub log: LogOptions,
    /// Called as soon as the log is open, before it is recovered: from then on it may wait for whoever
    /// drives it to write.
    pub log_opened: Box<dyn Fn(Log) + Send + Sync>,
    /// Makes the carrier to other members for a kind of call.
    pub carrier: Box<dyn Fn(Channel) -> Arc<dyn Carry> + Send + Sync>,
    /// Sees what the node applies.
    pub observer: Option<Arc<dyn Observer>>,
}

/// A home that was opened.
struct Entered {
    disk: Arc<dyn Disk>,
    /// The lock on the folder, if other processes could use it.
    folder: Option<Arc<FolderLock>>,
    /// The folder for the copy of the state, if one is kept.
    checkpoint: Option<PathBuf>,
    log: LogOptions,
    ways: Ways,
}

impl Home {
    fn enter(&self) -> Result<Entered, OpenError> {
        match self {
            &Self::Folder { path: ref folder, segment_bytes, ref tls } => {
                let lock = Arc::new(FolderLock::acquire(folder)?);
                let disk = RealDisk::new(folder)
                    .map_err(|source| OpenError::Folder { folder: folder.clone(), source })?;
                Ok(Entered {
                    disk: Arc::new(disk),
                    folder: Some(lock),
                    checkpoint: Some(folder.join("checkpoint")),
                    log: LogOptions { segment_bytes, ..LogOptions::default() },
                    ways: Ways::http(tls.clone())?,
                })
            }
            Self::Given(given) => Ok(Entered {
                disk: given.disk.clone(),
                folder: None,
                checkpoint: None,
                log: given.log.clone(),
                ways: Ways::given(&given.carrier),
            }),
        }
    }

    /// Called as soon as the log is open: recovery may already wait for it to write.
    fn opened(&self, log: &Log) {
        match self {
            // Its log has a thread of its own.
            Self::Folder { .. } => {}
            Self::Given(given) => (given.log_opened)(log.clone()),
        }
    }
}

/// The reason why a member does not open.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("cannot use the data folder {folder}")]
    Folder {
        folder: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the settings of the cluster do not fit together")]
    Settings(#[from] openraft::ConfigError),
    #[error("the snapshot cannot be read")]
    Snapshot(#[source] std::io::Error),
    #[error(
        "the data folder of a member that has taken part lacks its vote: a member that lost data \
         may not come back under its id; see docs/operations.md#replacing-a-node"
    )]
    VoteMissing,
    #[error("the connections to peers cannot be set up")]
    Connections(#[from] reqwest::Error),
    #[error("the log cannot be recovered")]
    Raft(#[from] RaftFatal<TypeConfig>),
}

impl OpenError {
    /// Whether a later start may succeed with the same settings and the same folder.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Storage(error) => error.may_pass(),
            Self::Folder { source, .. } | Self::Snapshot(source) => io_may_pass(source),
            // The error does not contain the cause; a full disk is among the possible ones.
            Self::Connections(_) | Self::Raft(_) => true,
            Self::Settings(_) | Self::VoteMissing => false,
        }
    }
}

/// The stage of a node's start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// It does not know its cluster yet; contains the members it waits for.
    Forming(String),
    /// It takes part, but does not know yet whether its state is as new as before the start.
    Recovering,
    /// It serves.
    Ready,
    /// It shuts down.
    Stopping,
}

/// One member.
pub(crate) struct Member {
    pub(crate) id: u64,
    pub(crate) addrs: BTreeMap<u64, String>,
    pub(crate) raft: KeywardRaft,
    pub(crate) replica: Arc<Replica>,
    pub(crate) log: Log,
    pub(crate) snapshots: Snapshots,
    pub(crate) identity: Identity,
    pub(crate) peers: Arc<Peers>,
    /// The reasons why messages to the other members failed.
    pub(crate) failures: Arc<Failures>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) timing: crate::raft::config::Timing,
    pub(crate) stop: StopSignal,
    /// The watch for the end of the leader's process.
    pub(crate) leader_watch: Arc<LeaderWatch>,
    /// The current leader, for requests that wait for one.
    pub(crate) leadership: leadership::Known,
    /// The number of times that another leader became known.
    pub(crate) leader_changes: AtomicU64,
    /// The thresholds at which this node writes snapshots.
    pub(crate) thresholds: Thresholds,
    /// The lock on the data folder, if it is one of this machine.
    folder: Option<Arc<FolderLock>>,
    /// Held while a snapshot from the leader is decoded and installed.
    pub(crate) installing: Arc<tokio::sync::Mutex<()>>,
    phase: watch::Sender<Phase>,
    /// Set once it is durable that this node takes part.
    joined: OnceCell<()>,
    checkpoint: std::sync::Mutex<Option<CheckpointWriter>>,
}

impl Member {
    /// Opens the folder and recovers its contents. From now on the member answers introductions,
    /// and nothing else until [`Member::join`] is done.
    pub(crate) async fn open(options: Options) -> Result<Self, OpenError> {
        let stop = StopSignal::new();
        let store = Store::open(&options, &stop)?;
        let Store { folder, log, snapshots, identity, ways, machine, copy } = store;
        let facts = identity.facts();
        if facts.joined && log.vote().is_none() {
            return Err(OpenError::VoteMissing);
        }
        let (clock, level) = (options.clock.clone(), options.level);
        let replica = Replica::new(machine, clock, options.rho_ppm, level);
        let replica = Arc::new(replica.observed_by(options.observers));
        let (bell, rung) = checkpoint::bell();
        let checkpoint = copy.map(|Copy { checkpoint, written }| {
            CheckpointWriter::start(replica.clone(), checkpoint, (bell.clone(), rung), written)
        });
        bell.ring();
        let own = Own {
            id: options.id,
            identity: identity.clone(),
            client_addr: options.client_addr,
            addrs: options.addrs.clone(),
            rho_ppm: options.rho_ppm,
            level,
        };
        let thresholds = Thresholds {
            entries: options.settings.snapshot_every,
            rank: options.addrs.range(..options.id).count() as u64,
            members: options.addrs.len() as u64,
        };
        let peers = Arc::new(Peers::new(own, ways, stop.clone()));
        let failures = Arc::<Failures>::default();
        let leader_watch = Arc::<LeaderWatch>::default();
        let raft = Raft::new(
            options.id,
            Arc::new(raft_config(options.settings)?),
            Network::new(peers.clone(), failures.clone(), Arc::clone(&leader_watch)),
            LogStore::new(log.clone(), folder.clone()),
            StateMachine::new(replica.clone(), snapshots.clone(), identity.clone(), bell),
        )
        .await?;
        let metrics = raft.metrics();
        peers.tell_of_majority(Box::new(move || {
            let metrics = metrics.borrow_watched();
            Some(metrics.last_quorum_acked?.into_inner().elapsed())
        }));
        Ok(Self {
            id: options.id,
            addrs: options.addrs,
            raft,
            replica,
            log,
            snapshots,
            identity,
            peers,
            failures,
            clock: options.clock,
            timing: options.settings.timing,
            stop,
            leader_watch,
            leadership: leadership::Known::default(),
            leader_changes: AtomicU64::new(0),
            thresholds,
            folder,
            installing: Arc::default(),
            phase: watch::Sender::new(Phase::Forming("the other members".to_owned())),
            joined: OnceCell::new_with(facts.joined.then_some(())),
            checkpoint: std::sync::Mutex::new(checkpoint),
        })
    }

    /// Finds out which cluster the node belongs to, takes part in it from then on, and waits until
    /// the state is at least as new as before the start.
    pub(crate) async fn join(&self) -> Result<(), BootstrapError> {
        let waiting = |text: String| self.still_forming(text);
        let asker = Asker {
            id: self.id,
            uuid: self.identity.facts().uuid,
            rho_ppm: self.peers.own().rho_ppm,
            restored: self.identity.facts().restored,
            introduction: encode_introduction(&self.introduction()),
            addrs: &self.addrs,
            peers: &self.peers,
            waiting: &waiting,
        };
        let facts = self.identity.facts();
        if let Some(cluster) = facts.cluster {
            self.still_forming("another member of the cluster".to_owned());
            asker.present(cluster, &facts.members).await?;
            if self.peers.is_retired() || self.stop.reason().is_some() {
                return Ok(());
            }
        } else {
            let found = asker.find_out().await?;
            tracing::info!(cluster = %found.cluster, "this node belongs to a cluster");
            let identity = self.identity.clone();
            written(move || identity.set_cluster(found.cluster, found.members)).await?;
        }
        self.advance_phase(Phase::Recovering);
        self.initialize().await;
        // Resolves when a leader has committed everything this node had. There is no timeout,
        // because a node may be the first of its cluster to come back.
        match self.raft.wait_for_recovery(None).await {
            Ok(_) => self.advance_phase(Phase::Ready),
            Err(error) => tracing::info!(%error, "stopped before it was ready"),
        }
        Ok(())
    }

    fn still_forming(&self, waiting: String) {
        self.phase.send_if_modified(|phase| {
            let changed = matches!(phase, Phase::Forming(before) if *before != waiting);
            if changed {
                *phase = Phase::Forming(waiting);
            }
            changed
        });
    }

    /// Writes the first entry of the log, if this node is the one to do so and it was not done
    /// before.
    async fn initialize(&self) {
        let facts = self.identity.facts();
        if facts.members.keys().next() != Some(&self.id) {
            return;
        }
        match self.raft.is_initialized().await {
            Ok(false) => {}
            Ok(true) | Err(_) => return,
        }
        if let Err(error) = self.take_part().await {
            self.stop.stop(format!("the data folder cannot be written: {error}"));
            return;
        }
        let members: BTreeMap<u64, MemberNode> = facts
            .members
            .iter()
            .map(|(id, uuid)| {
                let peer_addr = self.addrs.get(id).cloned().unwrap_or_default();
                let client_addr = self.peers.client_addr(*id);
                (*id, MemberNode { uuid: *uuid, peer_addr, client_addr })
            })
            .collect();
        match self.raft.initialize(members).await {
            Ok(()) => tracing::info!("the cluster is formed"),
            // A vote of another member came first. Nothing but this node's own log, which is empty,
            // could have elected it, so this is logged and retried at the next start.
            Err(RaftError::APIError(InitializeError::NotAllowed(error))) => {
                tracing::info!(%error, "the log was begun already");
            }
            Err(error) => self.stop.stop(format!("the cluster cannot be formed: {error}")),
        }
    }

    /// This node's introduction of itself.
    pub(crate) fn introduction(&self) -> Introduction {
        let facts = self.identity.facts();
        Introduction {
            level: self.peers.own().level,
            node: self.id,
            uuid: facts.uuid,
            cluster: facts.cluster,
            members: facts.members.clone(),
            configured: self.addrs.clone(),
            rho_ppm: Some(self.peers.own().rho_ppm),
            client_addr: self.peers.client_addr(self.id),
            restored: facts.restored,
        }
    }

    /// The node's current phase.
    pub(crate) fn phase(&self) -> Phase {
        self.phase.borrow().clone()
    }

    /// Watches the node's phase.
    pub(crate) fn phases(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Sets the phase, unless the node is stopping: no phase follows that one.
    pub(crate) fn advance_phase(&self, next: Phase) {
        self.phase.send_if_modified(|phase| {
            let advance = *phase != Phase::Stopping;
            if advance {
                *phase = next;
            }
            advance
        });
    }

    /// Makes it durable that this node takes part, before its first promise. The vote is written
    /// first, as openraft would begin with: a folder that is marked as having taken part and has no
    /// vote has lost data. The first call does it and the others wait for it: two at once could
    /// write this vote after one that was given.
    pub(crate) async fn take_part(&self) -> Result<(), StorageError> {
        self.joined.get_or_try_init(|| self.begin_part()).await.copied()
    }

    async fn begin_part(&self) -> Result<(), StorageError> {
        let (sender, receiver) = oneshot::channel();
        let done = move |result| {
            // The receiver is gone if the node or the caller is.
            let _ = sender.send(result);
        };
        if self.log.vote().is_none() {
            self.log.save_vote(Vote { term: 0, node: self.id, committed: false }, done);
        } else {
            // A caller that went away may have left its vote in flight to the disk: this is
            // reported after everything before it.
            self.log.append(Vec::new(), done);
        }
        match receiver.await {
            Ok(result) => result.map_err(StorageError::Failed)?,
            Err(_) => return Err(StorageError::Closed),
        }
        let identity = self.identity.clone();
        written(move || identity.set_joined()).await
    }

    /// Writes this node's promises and those of others every few seconds, until the node stops.
    pub(crate) async fn keep_identity(&self) {
        let mut is_full = false;
        loop {
            tokio::time::sleep(KEEP_EVERY).await;
            let identity = self.identity.clone();
            let was_full = is_full;
            is_full = match written(move || identity.keep()).await {
                Ok(()) => false,
                Err(error) if error.is_full_disk() => {
                    if !was_full {
                        tracing::warn!(%error, "what peers have promised is not written down");
                    }
                    true
                }
                Err(error) => {
                    self.stop.stop(format!("the data folder cannot be written: {error}"));
                    return;
                }
            };
        }
    }

    /// Stops the node when its folder is removed or replaced under it.
    pub(crate) async fn watch_folder(&self) {
        let Some(folder) = self.folder.clone() else { return };
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let looked = Arc::clone(&folder);
            let why = match blocking(move || looked.is_in_place()).await.and_then(|found| found) {
                Ok(true) => continue,
                Ok(false) => "it was removed or replaced while the node ran, and nothing that is \
                              written to it now would be there at the next start"
                    .to_owned(),
                Err(error) => error.to_string(),
            };
            let path = folder.folder().display();
            self.stop.stop(format!("the data folder {path} cannot be used any more: {why}"));
            return;
        }
    }

    /// A copy of openraft's current metrics.
    pub(crate) fn metrics(&self) -> RaftMetrics<TypeConfig> {
        self.raft.metrics().borrow_watched().clone()
    }

    /// Reads openraft's current metrics without copying them.
    pub(crate) fn metrics_ref<T>(&self, look: impl FnOnce(&RaftMetrics<TypeConfig>) -> T) -> T {
        look(&self.raft.metrics().borrow_watched())
    }

    /// Stops the node when openraft has failed, which the node must not survive; resolves when
    /// openraft has stopped.
    pub(crate) async fn watch_core(&self) {
        let mut metrics = self.raft.metrics();
        loop {
            let state = metrics.borrow_watched().running_state.clone();
            match state {
                Ok(()) => {}
                Err(RaftFatal::Stopped) => return,
                Err(error) => {
                    self.stop.stop(format!("consensus has stopped: {error}"));
                    return;
                }
            }
            if metrics.changed().await.is_err() {
                return;
            }
        }
    }

    /// Hands the leadership over whenever this machine's clocks have diverged.
    pub(crate) async fn watch_clocks(&self) {
        loop {
            self.replica.clocks_bell.notified().await;
            self.hand_over().await;
        }
    }

    /// Hands the leadership, if this node has it, to the most advanced of the voters that have
    /// recently acknowledged a heartbeat; waits briefly for it.
    pub(crate) async fn hand_over(&self) {
        let metrics = self.metrics();
        let Some(replication) = metrics.replication.as_ref().filter(|_| self.raft.is_leader())
        else {
            return;
        };
        let voters: BTreeSet<u64> = metrics.membership_config.voter_ids().collect();
        let heard = |id: &u64| {
            let acked = metrics.heartbeat.as_ref().and_then(|acked| acked.get(id)?.as_ref());
            acked.is_some_and(|acked| acked.elapsed() < self.timing.election_max)
        };
        let others = replication.iter().filter(|(id, _)| **id != self.id && voters.contains(id));
        let others =
            others.map(|(id, matched)| (*id, matched.as_ref().map(LogId::index), heard(id)));
        let Some(target) = successor(others) else { return };
        tracing::info!(to = target, "handing the leadership over");
        if self.raft.trigger().transfer_leader(target).await.is_err() {
            return;
        }
        let id = self.id;
        let waited = self
            .raft
            .wait(Some(self.timing.election_max))
            .metrics(move |m| m.current_leader.is_some_and(|leader| leader != id), "another leader")
            .await;
        // The error is not logged, because it contains openraft's metrics, which fill a screen.
        if waited.is_err() {
            tracing::info!("no other leader yet; an election will find one");
        }
    }

    /// Stops openraft and closes the storage; everything acknowledged is on the disk before that.
    pub(crate) async fn close(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "openraft did not end well");
        }
        let checkpoint = self.checkpoint.lock().expect("nothing panics while it holds it").take();
        let (log, identity) = (self.log.clone(), self.identity.clone());
        let in_order = self.stop.reason().is_none();
        let closing = blocking(move || {
            drop(checkpoint);
            log.close();
            // Only a folder that stopped without an error may be copied.
            if in_order { identity.close() } else { Ok(()) }
        });
        match closing.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the end is not noted"),
            Err(_) => tracing::warn!("closing the storage panicked"),
        }
    }
}

/// Chooses the member to hand the leadership to, given each member's last matching entry and
/// whether it was heard from recently: the most advanced live one.
fn successor(members: impl Iterator<Item = (u64, Option<u64>, bool)>) -> Option<u64> {
    let alive = members.filter(|(_, matched, heard)| *heard && matched.is_some());
    alive.max_by_key(|(_, matched, _)| *matched).map(|(id, ..)| id)
}

/// An opened data folder, with the state that was in it.
struct Store {
    folder: Option<Arc<FolderLock>>,
    log: Log,
    snapshots: Snapshots,
    identity: Identity,
    ways: Ways,
    machine: Machine,
    copy: Option<Copy>,
}

/// The checkpoint.
struct Copy {
    checkpoint: Checkpoint,
    /// The generation of the state that the checkpoint continues, if it does.
    written: Option<u64>,
}

impl Store {
    fn open(options: &Options, stop: &StopSignal) -> Result<Self, OpenError> {
        let Entered { disk, folder, checkpoint, log, ways } = options.home.enter()?;
        let identity = Identity::open(disk.clone(), options.id)?;
        let fatal: Fatal = {
            let stop = stop.clone();
            Arc::new(move |error: &StorageError| stop.stop(format!("the disk failed: {error}")))
        };
        identity.on_failure(fatal.clone());
        let log_options = LogOptions { fatal, ..log };
        let (log, recovered) = Log::open(disk.clone(), log_options)?;
        identity.attach(log.promised())?;
        options.home.opened(&log);
        for warning in &recovered.warnings {
            tracing::warn!("{warning}");
        }
        let snapshots = Snapshots::open(disk, recovered.purged)?;
        if identity.facts().restored.is_some() && snapshots.latest().is_none() {
            return Err(snapshots::restored_state_missing().into());
        }
        let Some(checkpoint) = checkpoint else {
            let (machine, _) = machine_of(Opened::Empty, &snapshots, options.level)?;
            return Ok(Self { folder, log, snapshots, identity, ways, machine, copy: None });
        };
        let checkpoint_options =
            CheckpointOptions { folder: checkpoint, node: identity.facts().uuid };
        let last = snapshots.latest().and_then(|snapshot| snapshot.meta.last);
        let level = options.level;
        let load = move |meta: &CheckpointMeta, records: &mut dyn Iterator<Item = _>| {
            load(meta, records, level)
        };
        let (checkpoint, opened) = Checkpoint::open(checkpoint_options, &log, last, load)?;
        let (mut machine, written) = machine_of(opened, &snapshots, level)?;
        machine.state.track_changes(true);
        let copy = Some(Copy { checkpoint, written });
        Ok(Self { folder, log, snapshots, identity, ways, machine, copy })
    }
}

/// Writes the identity file on a thread that may block.
async fn written(
    write: impl FnOnce() -> Result<(), StorageError> + Send + 'static,
) -> Result<(), StorageError> {
    blocking(write).await.map_err(StorageError::io("write", "identity"))?
}

/// Builds the state from a checkpoint, for a program of this feature level.
///
/// # Errors
/// If the records are no state, or need a newer program.
pub fn load(
    meta: &CheckpointMeta,
    records: &mut dyn Iterator<Item = (bytes::Bytes, bytes::Bytes)>,
    level: u32,
) -> Result<(State, SnapshotMeta), String> {
    let mut loader = Loader::new(&meta.state).map_err(|error| error.to_string())?;
    for (key, value) in records {
        loader.add(&key, &value).map_err(|error| error.to_string())?;
    }
    let state = loader.finish().map_err(|error| error.to_string())?;
    understood(state.feature_level(), level).map_err(|error| error.to_string())?;
    Ok((state, checkpoint::snapshot_meta_of(meta)?))
}

/// The state to start with: the checkpoint's, else the snapshot's, else an empty one. The log is
/// replayed on top of it.
fn machine_of(
    opened: Opened<(State, SnapshotMeta)>,
    snapshots: &Snapshots,
    level: u32,
) -> Result<(Machine, Option<u64>), OpenError> {
    let (state, meta, is_written) = match (opened, snapshots.latest()) {
        (Opened::Accepted(_, (state, meta)), _) => (state, meta, true),
        (Opened::Empty, None) => (State::new(), SnapshotMeta::default(), true),
        (opened @ (Opened::Empty | Opened::Discarded(_)), latest) => {
            if let Opened::Discarded(reason) = opened {
                tracing::warn!(reason, "the checkpoint is rebuilt from snapshot and log");
            }
            let body = latest.map(|stored| {
                let state = snapshots.read(&stored, |body| read_state(body, level));
                Ok((state.map_err(std::io::Error::other)?, snapshot_meta(&stored.meta)?))
            });
            match body.transpose().map_err(OpenError::Snapshot)? {
                Some((state, meta)) => (state, meta, false),
                None => (State::new(), SnapshotMeta::default(), true),
            }
        }
    };
    let machine = Machine {
        state,
        applied: meta.last_log_id,
        membership: meta.last_membership,
        generation: 0,
    };
    Ok((machine, is_written.then_some(0)))
}

#[cfg(test)]
mod tests {
    use super::successor;

    #[test]
    fn the_leadership_goes_to_the_furthest_that_lives() {
        let of = |members: &[(u64, Option<u64>, bool)]| successor(members.iter().copied());
        assert_eq!(of(&[(2, Some(7), true), (3, Some(9), true)]), Some(3));
        assert_eq!(of(&[(2, Some(7), true), (3, Some(9), false)]), Some(2), "node 3 is dead");
        assert_eq!(of(&[(2, Some(9), true), (3, Some(9), false)]), Some(2));
        assert_eq!(of(&[(2, None, true), (3, Some(9), false)]), None);
    }
}
