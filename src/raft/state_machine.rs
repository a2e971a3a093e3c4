//! openraft's state machine over [`crate::lock::State`].
//!
//! The state is in memory behind a lock that is held for one entry at a time; readers see it
//! between two entries, with the index it was read at. No task blocks a thread of the runtime while
//! an entry is applied: readers retry, and frequently read figures are copied after each entry.
//! Every entry that a client waits for is answered, whatever it was, or the client would wait for
//! ever; if no client waits, no answer is built.
//!
//! Two copies are written to the disk, and no answer waits for either: snapshots, encoded from a
//! clone that shares structure with the live state, and the checkpoint, written by
//! [`super::checkpoint`].

use std::io::{self, Read};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};
use std::time::Duration;

use futures::{Stream, TryStreamExt};
use openraft::EntryPayload;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot};
use openraft::type_config::alias::SnapshotOf;
use tokio::sync::Notify;

use crate::access::Access;
use crate::clock::Clock;
use crate::lock::{ClusterTime, Counts, Decision, Deleted, Ends, State};
use crate::raft::checkpoint::Bell;
use crate::raft::codec;
use crate::raft::compaction::Compaction;
use crate::raft::observer::{AppliedEntry, Observer};
use crate::raft::stamper::{CurrentStamper, Stamper};
use crate::raft::types::{
    Applied, Data, Entry, LogId, SnapshotMeta, StoredMembership, TypeConfig, raft_log_id,
    stored_log_id,
};
use crate::raft::waiters::Waiters;
use crate::storage::snapshots::{
    SnapshotMeta as StoredMeta, SnapshotReceiver, StoredSnapshot, VerifiedSnapshot,
};
use crate::storage::{Identity, Snapshots, StorageError, Uuid};
use crate::task::{DroppedAside, blocking, of_host};

/// The state and its last applied entry.
#[derive(Debug, Default)]
pub(crate) struct Machine {
    /// The locks.
    pub(crate) state: State,
    /// The last applied entry.
    pub(crate) applied: Option<LogId>,
    /// The membership as of that entry.
    pub(crate) membership: StoredMembership,
    /// The number of times the state was replaced by a snapshot's: changes of one generation do not
    /// apply to a copy of another.
    pub(crate) generation: u64,
}

impl Machine {
    /// The meta data of a snapshot of it.
    pub(crate) fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() }
    }
}

/// Frequently read figures of the state, as of the last entry.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    /// The last applied entry.
    pub(crate) applied: Option<LogId>,
    /// The numbers of records, grants, lanes and tables.
    pub(crate) counts: Counts,
    /// The cluster clock.
    pub(crate) clock: ClusterTime,
    /// The first deadline that is not processed.
    pub(crate) next_deadline: Option<ClusterTime>,
    /// Whether there is an unexpired grant.
    pub(crate) has_unexpired: bool,
    /// The feature level of the cluster.
    pub(crate) feature_level: u32,
}

impl From<&Machine> for Figures {
    fn from(machine: &Machine) -> Self {
        let state = &machine.state;
        Self {
            applied: machine.applied,
            counts: state.counts(),
            clock: state.clock(),
            next_deadline: state.next_deadline(),
            has_unexpired: state.has_unexpired(),
            feature_level: state.feature_level(),
        }
    }
}

/// The number of times that a reader yields to an entry being applied before it sleeps: most
/// entries take a few microseconds.
const STEPS_BACK: usize = 16;

/// The time it sleeps then: an entry that processes many deadlines takes some milliseconds.
const NAP: Duration = Duration::from_millis(1);

/// The part of the state machine that is shared with the node: the state to read from, the stamper,
/// and notifications.
pub(crate) struct Replica {
    machine: RwLock<Machine>,
    figures: Mutex<Figures>,
    /// The rules and tokens as of the last entry.
    access: RwLock<Arc<Access>>,
    ends: Mutex<Ends>,
    /// Stamps of the current term.
    pub(crate) stampers: CurrentStamper,
    /// Notified after entries were applied.
    pub(crate) applied_bell: Notify,
    /// Decides when the next snapshot is written.
    pub(crate) compaction: Compaction,
    /// Notified when a leader has found that its clocks have diverged.
    pub(crate) clocks_bell: Notify,
    /// Notified when a term has begun here, after which its leader may stamp.
    pub(crate) term_begun: Notify,
    /// Callers that wait here for the end of a place.
    pub(crate) waiters: Arc<Waiters>,
    clock: Arc<dyn Clock>,
    rho_ppm: u32,
    /// The feature level of this program.
    level: u32,
    /// Each sees every entry.
    observers: Vec<Arc<dyn Observer>>,
}

impl Replica {
    pub(crate) fn new(
        mut machine: Machine,
        clock: Arc<dyn Clock>,
        rho_ppm: u32,
        level: u32,
    ) -> Self {
        let compaction = Compaction::default();
        compaction.applied(machine.applied.as_ref());
        machine.state.tell_steps(true);
        Self {
            figures: Mutex::new(Figures::from(&machine)),
            access: RwLock::new(Arc::clone(machine.state.access())),
            machine: RwLock::new(machine),
            ends: Mutex::default(),
            stampers: CurrentStamper::default(),
            applied_bell: Notify::new(),
            compaction,
            clocks_bell: Notify::new(),
            term_begun: Notify::new(),
            waiters: Arc::default(),
            clock,
            rho_ppm,
            level,
            observers: Vec::new(),
        }
    }

    /// Lets these observers see every entry from now on.
    #[must_use]
    pub(crate) fn observed_by(self, observers: Vec<Arc<dyn Observer>>) -> Self {
        let replica = Self { observers, ..self };
        replica.tell(&mut replica.write().state);
        replica
    }

    /// Lets a state tell what others wait to hear.
    fn tell(&self, state: &mut State) {
        state.tell_steps(true);
        state.tell_events(self.observers.iter().any(|observer| observer.hears_events()));
    }

    /// The frequently read figures, without waiting for an entry that is being applied.
    pub(crate) fn figures(&self) -> Figures {
        *self.figures.lock().expect("figures are copied, and nothing else")
    }

    /// The rules and tokens, without waiting for an entry that is being applied.
    pub(crate) fn access(&self) -> Arc<Access> {
        Arc::clone(&self.access.read().expect("a pointer is copied, and nothing else"))
    }

    /// How grants ended by entries that this node proposed, since it was started. So the figures of
    /// all nodes add up to the cluster's, and entries that are applied again at a start count
    /// nowhere.
    pub(crate) fn ends(&self) -> Ends {
        *self.ends.lock().expect("ends are added up, and nothing else")
    }

    /// Reads the state between two entries. While an entry is applied the task waits without
    /// blocking its thread.
    pub(crate) async fn look<T>(&self, look: impl FnOnce(&Machine) -> T) -> T {
        let mut steps = 0;
        loop {
            if let Some(machine) = self.try_read() {
                return look(&machine);
            }
            steps += 1;
            if steps < STEPS_BACK {
                tokio::task::yield_now().await;
            } else {
                tokio::time::sleep(NAP).await;
            }
        }
    }

    fn try_read(&self) -> Option<RwLockReadGuard<'_, Machine>> {
        match self.machine.try_read() {
            Ok(machine) => Some(machine),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Poisoned(_)) => {
                panic!("a panic in the lock machine ends the process")
            }
        }
    }

    /// Locks the state for reading between two entries, on a thread that may block.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Machine> {
        self.machine.read().expect("a panic in the lock machine ends the process")
    }

    /// Locks the state for writing between two entries.
    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Machine> {
        self.machine.write().expect("a panic in the lock machine ends the process")
    }

    /// The stamper of this node's term, if it may stamp.
    pub(crate) fn stamper(&self, term: u64) -> Option<Stamper> {
        let (stamper, apart) = self.stampers.of_term(term, &*self.clock)?;
        if let Some(apart) = apart {
            tracing::error!(
                raw_ms = apart.raw.as_millis(),
                boottime_ms = apart.boottime.as_millis(),
                "this machine's clocks have come apart: CLOCK_MONOTONIC_RAW and CLOCK_BOOTTIME \
                 moved on by this much since they last agreed. Either the machine slept, or one of \
                 them is wrong. The cluster clock goes on from where they last agreed, so that no \
                 lock ends early, and the leadership is handed over"
            );
            self.clocks_bell.notify_one();
        }
        Some(stamper)
    }

    /// Begins to stamp in a term, from the current cluster time `base`.
    pub(crate) fn begin_term(&self, term: u64, base: ClusterTime) {
        self.stampers.begin(Stamper::new(term, base, self.rho_ppm, &*self.clock), &*self.clock);
        self.term_begun.notify_one();
    }

    /// Applies one entry; its decisions are empty unless they are wanted. Data that does not
    /// decode, or that needs a newer program, stops the node. That is checked before anything is
    /// changed, so that state and index never diverge.
    fn apply(&self, entry: &Entry, wanted: bool) -> io::Result<(Vec<Decision>, Deleted)> {
        let (term, index) = (entry.log_id.committed_leader_id().term, entry.log_id.index());
        let mut machine = self.write();
        let mut proposal = None;
        let decisions = match &entry.payload {
            EntryPayload::Blank => {
                self.begin_term(term, machine.state.clock());
                Vec::new()
            }
            EntryPayload::Normal(data) => {
                let proposal = proposal.insert(decode(data, index)?);
                understood(machine.state.level_after(term, proposal), self.level)?;
                if wanted || !self.observers.is_empty() {
                    machine.state.apply(term, index, proposal)
                } else {
                    machine.state.apply_quietly(term, index, proposal);
                    Vec::new()
                }
            }
            EntryPayload::Membership(membership) => {
                machine.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                Vec::new()
            }
        };
        machine.applied = Some(entry.log_id);
        self.waiters.tell(machine.state.take_steps());
        let ends = machine.state.take_ends();
        if let Some(ends) = ends.filter(|_| wanted) {
            self.ends.lock().expect("ends are added up, and nothing else").merge(&ends);
        }
        self.publish(&machine);
        let events = machine.state.take_events();
        let applied = AppliedEntry {
            index,
            term,
            proposal: proposal.as_ref(),
            decisions: &decisions,
            events: &events,
            payload: &entry.payload,
        };
        self.observers.iter().for_each(|observer| observer.applied(&applied));
        Ok((decisions, machine.state.take_deleted()))
    }

    /// Copies the frequently read figures, and the rules if they have changed.
    fn publish(&self, machine: &Machine) {
        let figures = Figures::from(machine);
        *self.figures.lock().expect("figures are copied, and nothing else") = figures;
        let access = machine.state.access();
        let is_same = |known: &Arc<Access>| Arc::ptr_eq(known, access);
        if !is_same(&self.access.read().expect("a pointer is copied, and nothing else")) {
            let mut known = self.access.write().expect("a pointer is copied, and nothing else");
            *known = Arc::clone(access);
        }
    }
}

/// Checks the feature level of a state: one whose rules are newer than this program, which knows
/// those up to `own`, must not be touched.
pub(crate) fn understood(level: u32, own: u32) -> io::Result<()> {
    if level <= own {
        return Ok(());
    }
    let what = format!(
        "the cluster has raised its feature level to {level}, this program knows up to {own}; start \
         a newer one"
    );
    Err(io::Error::new(io::ErrorKind::Unsupported, what))
}

pub(crate) fn decode(data: &Data, index: u64) -> io::Result<crate::lock::Proposal> {
    codec::proposal_of(data).map_err(|error| {
        let what = format!("the commands of log entry {index} do not decode: {error}");
        io::Error::new(io::ErrorKind::InvalidData, what)
    })
}

/// A snapshot as openraft passes it around.
pub(crate) enum SnapshotData {
    /// A file, and its folder.
    Stored(Snapshots, StoredSnapshot),
    /// One received from the leader: verified, on the disk, decoded, and not in use until it is
    /// installed.
    Received(Box<ReceivedSnapshot>),
    /// No snapshot: it could not be written, and there is no earlier one.
    Unwritten,
}

/// A snapshot from the leader that is ready to be installed.
pub(crate) struct ReceivedSnapshot {
    file: VerifiedSnapshot,
    state: DroppedAside<State>,
}

impl ReceivedSnapshot {
    /// Verifies the received file, decodes it and makes it durable.
    pub(crate) fn prepare(
        receiver: SnapshotReceiver,
        cluster: Option<Uuid>,
        level: u32,
    ) -> Result<Self, StorageError> {
        let (file, state) = receiver.verify(cluster, |body| read_state(body, level))?;
        Ok(Self { file, state: DroppedAside::new(state) })
    }

    /// The meta data in the file.
    pub(crate) fn meta(&self) -> io::Result<SnapshotMeta> {
        snapshot_meta(&self.file.meta)
    }
}

/// The number of bytes copied at once from one folder's snapshot to another's.
const COPY_BYTES: usize = 1 << 20;

impl SnapshotData {
    /// Makes it the newest snapshot in `snapshots`, durably.
    fn keep(
        self,
        snapshots: &Snapshots,
        cluster: Option<Uuid>,
        level: u32,
    ) -> io::Result<(StoredSnapshot, DroppedAside<State>)> {
        let received = match self {
            Self::Stored(_, stored) if snapshots.latest().as_ref() == Some(&stored) => {
                let state = snapshots.read(&stored, |body| read_state(body, level));
                return Ok((stored, DroppedAside::new(state.map_err(io::Error::other)?)));
            }
            Self::Stored(source, stored) => {
                let copy = copied(&source, &stored, snapshots).map_err(io::Error::other)?;
                ReceivedSnapshot::prepare(copy, cluster, level).map_err(io::Error::other)?
            }
            Self::Received(received) => *received,
            Self::Unwritten => {
                return Err(io::Error::new(io::ErrorKind::NotFound, "there is no snapshot"));
            }
        };
        Ok((received.file.keep().map_err(io::Error::other)?, received.state))
    }
}

/// Copies a snapshot of another folder, as if it had arrived over the network.
fn copied(
    source: &Snapshots,
    stored: &StoredSnapshot,
    into: &Snapshots,
) -> Result<SnapshotReceiver, StorageError> {
    let mut receiver = into.receive()?;
    loop {
        let piece = source.piece(stored, receiver.received(), COPY_BYTES)?;
        if piece.is_empty() {
            return Ok(receiver);
        }
        receiver.write(&piece)?;
    }
}

/// The implementation of openraft's state machine.
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

    /// Notifies all observers of the state.
    fn changed(&self, applied: Option<&LogId>) {
        self.replica.applied_bell.notify_one();
        self.replica.compaction.applied(applied);
        self.checkpoint.ring();
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
        let mut last = None;
        while let Some((entry, responder)) = entries.try_next().await? {
            let (decisions, deleted) = self.replica.apply(&entry, responder.is_some())?;
            last = Some(entry.log_id);
            if !deleted.is_empty() {
                // It may be millions of records, so it is not dropped here, where entries wait.
                tokio::spawn(of_host(async move { blocking(move || drop(deleted)).await }));
            }
            if let Some(responder) = responder {
                responder.send(Applied { decisions });
            }
        }
        if last.is_some() {
            self.changed(last.as_ref());
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        let machine = self.replica.read();
        SnapshotBuilder {
            state: machine.state.clone(),
            meta: machine.meta(),
            snapshots: self.snapshots.clone(),
            identity: self.identity.clone(),
            replica: self.replica.clone(),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotData,
    ) -> io::Result<()> {
        let snapshots = self.snapshots.clone();
        let (cluster, level) = (self.identity.facts().cluster, self.replica.level);
        // openraft answers neither votes nor heartbeats before this is done. A snapshot from the
        // leader is already decoded: only a rename and a swap are left.
        let kept = blocking(move || snapshot.keep(&snapshots, cluster, level)).await?;
        let (stored, mut state) = kept?;
        if stored.meta.last != meta.last_log_id.as_ref().map(stored_log_id) {
            let what = format!("a snapshot of {:?} came as one of {meta}", stored.meta.last);
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        {
            let mut machine = self.replica.write();
            std::mem::swap(&mut machine.state, &mut *state);
            machine.applied = meta.last_log_id;
            machine.membership = meta.last_membership.clone();
            machine.generation += 1;
            self.replica.tell(&mut machine.state);
            let applied = machine.applied.as_ref().map(LogId::index);
            self.replica.waiters.replaced(&machine.state, applied);
            self.replica.publish(&machine);
        }
        self.changed(meta.last_log_id.as_ref());
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> io::Result<Option<SnapshotOf<TypeConfig, SnapshotData>>> {
        let Some(stored) = self.snapshots.latest().filter(is_of_entries) else { return Ok(None) };
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
    replica: Arc<Replica>,
}

impl SnapshotBuilder {
    /// The newest existing snapshot. openraft takes it for the requested one, sees that it is not
    /// newer than the last known one, and continues as before.
    fn earlier(&self) -> io::Result<SnapshotOf<TypeConfig, SnapshotData>> {
        let Some(stored) = self.snapshots.latest().filter(is_of_entries) else {
            let meta = SnapshotMeta::default();
            return Ok(Snapshot { meta, snapshot: SnapshotData::Unwritten });
        };
        let meta = snapshot_meta(&stored.meta)?;
        Ok(Snapshot { meta, snapshot: SnapshotData::Stored(self.snapshots.clone(), stored) })
    }
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotData;

    /// Writes the snapshot. A failure does not end the node: nothing depends on the snapshot before
    /// it has its name, and the log has everything in it.
    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<TypeConfig, SnapshotData>> {
        let cluster = self.identity.facts().cluster;
        let meta = stored_meta(&self.meta, cluster, self.state.feature_level());
        let state = std::mem::take(&mut self.state);
        let snapshots = self.snapshots.clone();
        let observers = self.replica.observers.clone();
        let written = blocking(move || {
            for observer in observers {
                observer.snapshot(meta.last.map(|last| last.index), &state);
            }
            snapshots.write(meta, |mut out| state.encode_into(&mut out))
        });
        let written = written.await?;
        self.replica.compaction.written(written.as_ref().err());
        match written {
            Ok(stored) => Ok(Snapshot {
                meta: self.meta.clone(),
                snapshot: SnapshotData::Stored(self.snapshots.clone(), stored),
            }),
            Err(_) => self.earlier(),
        }
    }
}

/// The meta data of a snapshot as they are stored.
pub(crate) fn stored_meta(meta: &SnapshotMeta, cluster: Option<Uuid>, level: u32) -> StoredMeta {
    StoredMeta {
        cluster,
        last: meta.last_log_id.as_ref().map(stored_log_id),
        membership: codec::encode_snapshot_meta(meta).to_vec(),
        membership_log: meta.last_membership.log_id().as_ref().map(stored_log_id),
        feature_level: level,
        body_bytes: 0,
    }
}

/// Whether it is a snapshot as openraft knows them: not the state that a restored folder begins with.
fn is_of_entries(stored: &StoredSnapshot) -> bool {
    stored.meta.last.is_some()
}

/// Converts a stored snapshot's meta data to openraft's type.
pub(crate) fn snapshot_meta(stored: &StoredMeta) -> io::Result<SnapshotMeta> {
    let meta = codec::decode_snapshot_meta(&stored.membership).map_err(|error| {
        let what = format!("the membership in the snapshot does not decode: {error}");
        io::Error::new(io::ErrorKind::InvalidData, what)
    })?;
    if meta.last_log_id != stored.last.map(raft_log_id) {
        let what = "the snapshot names two different last entries";
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(meta)
}

/// Decodes a state from a snapshot's body, for a program of this feature level.
pub(crate) fn read_state(body: &mut impl Read, level: u32) -> io::Result<State> {
    let state = State::decode_from(body)?;
    understood(state.feature_level(), level)?;
    Ok(state)
}

#[cfg(test)]
mod tests;
