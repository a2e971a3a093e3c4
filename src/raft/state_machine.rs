//! openraft's state machine over [`crate::lock::State`].
//!
//! The state lives in memory behind a lock that is held for one entry at a time; readers see it
//! between two entries, with the index it was read at. Every entry that a client waits for is
//! answered, whatever it was, or the client would wait for ever.
//!
//! Two copies reach the disk, neither on the way of an answer: snapshots, encoded from a clone that
//! shares structure with the live state, and the checkpoint, fed by [`super::checkpoint`].

use std::io;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use futures::{Stream, TryStreamExt};
use openraft::EntryPayload;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot};
use openraft::type_config::alias::SnapshotOf;
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::lock::{ClusterTime, Decision, FEATURE_LEVEL, State};
use crate::raft::checkpoint::Bell;
use crate::raft::codec;
use crate::raft::stamper::{CurrentStamper, Stamper};
use crate::raft::types::{
    Applied, Data, Entry, LogId, SnapshotMeta, StoredMembership, TypeConfig, raft_log_id,
    stored_log_id,
};
use crate::storage::snapshots::{SnapshotMeta as StoredMeta, SnapshotReceiver, StoredSnapshot};
use crate::storage::{Identity, Snapshots, StorageError, Uuid};
use crate::task::blocking;

/// The state and how far it has come.
#[derive(Debug, Default)]
pub(crate) struct Machine {
    /// The locks.
    pub(crate) state: State,
    /// The last entry in it.
    pub(crate) applied: Option<LogId>,
    /// The membership as of that entry.
    pub(crate) membership: StoredMembership,
    /// Counts the times the state was replaced by a snapshot's: changes of one generation mean
    /// nothing to a copy of another.
    pub(crate) generation: u64,
}

impl Machine {
    /// What a snapshot of it is of.
    pub(crate) fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() }
    }
}

/// What the state machine shares with the node: the state to read from, the stamper, and a bell
/// that rings when the next deadline may have changed.
pub(crate) struct Replica {
    machine: RwLock<Machine>,
    /// Stamps of the current term.
    pub(crate) stampers: CurrentStamper,
    /// Rings after entries were applied.
    pub(crate) applied_bell: Notify,
    /// Rings when a term has begun here, after which its leader may stamp.
    pub(crate) term_begun: Notify,
    clock: Arc<dyn Clock>,
    rho_ppm: u32,
}

impl Replica {
    pub(crate) fn new(machine: Machine, clock: Arc<dyn Clock>, rho_ppm: u32) -> Self {
        Self {
            machine: RwLock::new(machine),
            stampers: CurrentStamper::default(),
            applied_bell: Notify::new(),
            term_begun: Notify::new(),
            clock,
            rho_ppm,
        }
    }

    /// The state between two entries.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Machine> {
        self.machine.read().expect("a panic in the lock machine ends the process")
    }

    /// The state between two entries, to be changed.
    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Machine> {
        self.machine.write().expect("a panic in the lock machine ends the process")
    }

    /// Begins to stamp in a term, from this cluster time on, which is now.
    pub(crate) fn begin_term(&self, term: u64, base: ClusterTime) {
        self.stampers.begin(Stamper::new(term, base, self.rho_ppm, &*self.clock));
        self.term_begun.notify_one();
    }

    /// Applies one entry. Data of ours that does not decode stops the node.
    fn apply(&self, entry: &Entry) -> io::Result<Vec<Decision>> {
        let (term, index) = (entry.log_id.committed_leader_id().term, entry.log_id.index());
        let mut machine = self.write();
        let decisions = match &entry.payload {
            EntryPayload::Blank => {
                self.begin_term(term, machine.state.clock());
                Vec::new()
            }
            EntryPayload::Normal(data) => {
                let proposal = decode(data, index)?;
                let decisions = machine.state.apply(term, index, &proposal);
                understood(&machine.state)?;
                decisions
            }
            EntryPayload::Membership(membership) => {
                machine.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                Vec::new()
            }
        };
        machine.applied = Some(entry.log_id);
        #[cfg(feature = "simulation")]
        crate::sim::witness::applied(entry, &decisions);
        Ok(decisions)
    }
}

/// A state whose rules are newer than this program must not be touched by it.
pub(crate) fn understood(state: &State) -> io::Result<()> {
    let level = state.feature_level();
    if level <= FEATURE_LEVEL {
        return Ok(());
    }
    let what = format!(
        "the cluster has raised its feature level to {level}, this program knows up to \
         {FEATURE_LEVEL}; start a newer one"
    );
    Err(io::Error::new(io::ErrorKind::Unsupported, what))
}

fn decode(data: &Data, index: u64) -> io::Result<crate::lock::Proposal> {
    codec::proposal_of(data).map_err(|error| {
        let what = format!("the commands of log entry {index} do not decode: {error}");
        io::Error::new(io::ErrorKind::InvalidData, what)
    })
}

/// A snapshot on this node's disk, or one that has come from the leader and counts for nothing
/// until it is installed.
pub(crate) enum SnapshotData {
    /// A file, and the folder it is in.
    Stored(Snapshots, StoredSnapshot),
    /// A file that has come whole and is not verified yet.
    Received(SnapshotReceiver),
}

/// The bytes that are copied at once from one folder's snapshot to another's.
const COPY_BYTES: usize = 1 << 20;

impl SnapshotData {
    /// Makes it the newest snapshot in `snapshots`, durably.
    fn keep(
        self,
        snapshots: &Snapshots,
        cluster: Option<Uuid>,
    ) -> Result<StoredSnapshot, StorageError> {
        let receiver = match self {
            Self::Stored(_, stored) if snapshots.latest().as_ref() == Some(&stored) => {
                return Ok(stored);
            }
            Self::Stored(source, stored) => {
                let mut receiver = snapshots.receive()?;
                loop {
                    let piece = source.piece(&stored, receiver.received(), COPY_BYTES)?;
                    if piece.is_empty() {
                        break receiver;
                    }
                    receiver.write(&piece)?;
                }
            }
            Self::Received(receiver) => receiver,
        };
        receiver.finish(cluster)
    }
}

/// The state machine as openraft wants it.
pub(crate) struct StateMachine {
    replica: Arc<Replica>,
    snapshots: Snapshots,
    identity: Identity,
    checkpoint: Bell,
}

impl StateMachine {
    pub(crate) fn new(
        replica: Arc<Replica>,
        snapshots: Snapshots,
        identity: Identity,
        checkpoint: Bell,
    ) -> Self {
        Self { replica, snapshots, identity, checkpoint }
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let machine = self.replica.read();
        Ok((machine.applied, machine.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + Send,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let decisions = self.replica.apply(&entry)?;
            if let Some(responder) = responder {
                responder.send(Applied { decisions });
            }
        }
        self.replica.applied_bell.notify_one();
        self.checkpoint.ring();
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        let machine = self.replica.read();
        SnapshotBuilder {
            state: machine.state.clone(),
            meta: machine.meta(),
            snapshots: self.snapshots.clone(),
            identity: self.identity.clone(),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotData,
    ) -> io::Result<()> {
        let snapshots = self.snapshots.clone();
        let cluster = self.identity.facts().cluster;
        let (stored, state) = blocking(move || {
            let stored = snapshot.keep(&snapshots, cluster).map_err(io::Error::other)?;
            let body = snapshots.body(&stored).map_err(io::Error::other)?;
            io::Result::Ok((stored, decode_state(&body)?))
        })
        .await??;
        if stored.meta.last != meta.last_log_id.as_ref().map(stored_log_id) {
            let what = format!("a snapshot of {:?} came as one of {meta}", stored.meta.last);
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        {
            let mut machine = self.replica.write();
            machine.state = state;
            machine.applied = meta.last_log_id;
            machine.membership = meta.last_membership.clone();
            machine.generation += 1;
        }
        self.replica.applied_bell.notify_one();
        self.checkpoint.ring();
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> io::Result<Option<SnapshotOf<TypeConfig, SnapshotData>>> {
        let Some(stored) = self.snapshots.latest() else { return Ok(None) };
        let meta = snapshot_meta(&stored.meta)?;
        let snapshot = SnapshotData::Stored(self.snapshots.clone(), stored);
        Ok(Some(Snapshot { meta, snapshot }))
    }
}

/// Writes one snapshot from a clone of the state.
pub(crate) struct SnapshotBuilder {
    state: State,
    meta: SnapshotMeta,
    snapshots: Snapshots,
    identity: Identity,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<TypeConfig, SnapshotData>> {
        let state = self.state.clone();
        let snapshots = self.snapshots.clone();
        let meta = self.meta.clone();
        let stored_meta = StoredMeta {
            cluster: self.identity.facts().cluster,
            last: meta.last_log_id.as_ref().map(stored_log_id),
            membership: codec::encode_snapshot_meta(&meta).to_vec(),
            membership_log: meta.last_membership.log_id().as_ref().map(stored_log_id),
            feature_level: state.feature_level(),
            body_bytes: 0,
        };
        let stored = blocking(move || {
            let body = state.encode();
            #[cfg(feature = "simulation")]
            crate::sim::witness::state(stored_meta.last.map(|last| last.index), &body);
            let meta = StoredMeta { body_bytes: body.len() as u64, ..stored_meta };
            snapshots.save(meta, &body).map_err(io::Error::other)
        })
        .await??;
        Ok(Snapshot { meta, snapshot: SnapshotData::Stored(self.snapshots.clone(), stored) })
    }
}

/// What a snapshot of ours contains, as openraft has it.
pub(crate) fn snapshot_meta(stored: &StoredMeta) -> io::Result<SnapshotMeta> {
    let meta = codec::decode_snapshot_meta(stored.membership.clone().into()).map_err(|error| {
        let what = format!("the membership in the snapshot does not decode: {error}");
        io::Error::new(io::ErrorKind::InvalidData, what)
    })?;
    if meta.last_log_id != stored.last.map(raft_log_id) {
        let what = "the snapshot names two different last entries";
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(meta)
}

/// A snapshot's body as a state.
pub(crate) fn decode_state(body: &[u8]) -> io::Result<State> {
    let state = State::decode(body).map_err(|error| {
        let what = format!("the state in the snapshot does not decode: {error}");
        io::Error::new(io::ErrorKind::InvalidData, what)
    })?;
    understood(&state)?;
    Ok(state)
}

#[cfg(test)]
mod tests;
