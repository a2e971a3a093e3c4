//! One member of a cluster: answers requests while it leads.
//!
//! A request is checked, admitted by the node's own semaphore, put into a proposal together with
//! other waiting requests, stamped, and answered with the decision that applying it produced. A
//! node that does not lead, may not stamp yet, or has had no acknowledgement from a majority for as
//! long as a leader may accept proposals without one, answers `Unavailable` at once. The outcome of
//! a command that was proposed and got no answer is `Unknown`: the entry may still be committed by
//! this leader or the next.
//!
//! A node forwards nothing; see [`crate::forward`]. It lets no time pass by itself; see
//! [`crate::advance`]. Look next at [`proposer`] and [`reader`].

mod audited;
mod backup;
mod config;
mod confirm;
mod proposer;
mod reader;
mod status;
mod transfers;
mod waiting;

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, TryAcquireError};
use tokio::task::JoinSet;

pub use backup::BackupStream;
pub use config::{Member, NodeConfig, Profile, StartError};

use crate::access::Access;
use crate::api::{ClusterStatus, NodeFigures};
use crate::audit::AuditFigures;
use crate::budget::Budget;
use crate::clock::{Clock, Deadline, OffsetClock};
use crate::error::Error;
use crate::lock::{Command, Decision, Invalid, Operation, Query, Refusal, View};
use crate::raft::compaction;
use crate::raft::leadership::{self, is_beginning};
use crate::raft::member::{self, Home, Phase};
use crate::raft::stamper::{Stamper, real_time_for};
use crate::raft::state_machine::Machine;
use crate::raft::{Observer, Surroundings, absence, leader_watch};
use crate::service::LockService;
use crate::task::{self, of_host};
use crate::tls::Tls;
use crate::types::{CallOptions, DEFAULT_TIMEOUT, DecidedAt};
pub(crate) use proposer::Traced;
pub(crate) use waiting::Wait;

use audited::Audited;
use backup::Backups;
use proposer::Proposer;
use reader::Reader;

/// The longest interval between two moves of the cluster clock while there are unexpired locks, so
/// that the remaining time in a read is at most this old.
const TICK: Duration = Duration::from_secs(1);

/// The longest time that a request waits for this node to begin its term after an election; also
/// at most half of the request's own timeout. A leader without a majority by then will not get one
/// soon.
const BEGINNING: Duration = Duration::from_millis(500);

/// The pause before a leader that has lost touch with its majority checks again whether it may move
/// the cluster clock.
const OUT_OF_TOUCH: Duration = Duration::from_millis(100);

/// The interval at which a leader checks whether it may raise the feature level of the cluster.
const RAISE_EVERY: Duration = Duration::from_secs(1);

/// A member of a cluster. Clones are handles to the same node. It runs until [`Node::shutdown`], or
/// until its runtime is gone; dropping the handles does not stop it.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    member: Arc<member::Member>,
    proposer: Proposer,
    reader: Reader,
    admission: Arc<Semaphore>,
    budget: Budget,
    debug_clock: Option<OffsetClock>,
    rho_ppm: u32,
    audited: Option<Arc<Audited>>,
    backups: Backups,
    tasks: Mutex<JoinSet<()>>,
}

/// The term of a leader, and the stamper for its proposals.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leading {
    pub(crate) term: u64,
    pub(crate) stamper: Stamper,
}

impl Node {
    /// Opens the data folder and starts. The cluster forms in the background: peers must be able
    /// to reach this node's peer listener from now on, see [`Node::wait_ready`].
    ///
    /// # Errors
    /// The folder is another node's, damaged or in use; the configuration is wrong.
    pub async fn start(config: NodeConfig, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        config.validate()?;
        let options = config.options(clock);
        Self::start_at(config, options).await
    }

    /// Starts as [`Node::start`] does, with these surroundings in place of a folder of this machine and
    /// of its network.
    ///
    /// # Errors
    /// The disk is another node's, damaged or in use; the configuration is wrong.
    pub async fn start_in(
        mut surroundings: Surroundings,
        config: NodeConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        config.validate()?;
        let mut options = config.options(clock);
        options.observers.extend(surroundings.observer.take());
        options.home = Home::Given(surroundings);
        Self::start_at(config, options).await
    }

    async fn start_at(
        config: NodeConfig,
        mut options: member::Options,
    ) -> Result<Self, StartError> {
        let audited = config.audit.map(|audit| Arc::new(Audited::new(audit, config.id)));
        options.observers.extend(audited.clone().map(|it| it as Arc<dyn Observer>));
        let member = Arc::new(member::Member::open(options).await?);
        if let Some(audited) =
            audited.as_ref().filter(|_| member.identity.facts().cluster.is_none())
        {
            audited.begin_anew();
        }
        let mut tasks = JoinSet::new();
        let proposer = Proposer::start(member.clone(), config.max_requests, &mut tasks);
        let reader = Reader::start(member.clone(), config.max_requests, &mut tasks);
        let joining = member.clone();
        tasks.spawn(of_host(async move {
            if let Err(error) = joining.join().await {
                joining.stop.stop(error.to_string());
            }
        }));
        tasks.spawn(of_host(leader_watch::keep(member.clone())));
        let kept = member.clone();
        tasks.spawn(of_host(async move { kept.keep_identity().await }));
        let watched = member.clone();
        tasks.spawn(of_host(async move { watched.watch_folder().await }));
        tasks.spawn(of_host(compaction::keep(member.clone())));
        let watched = member.clone();
        tasks.spawn(of_host(async move { watched.watch_clocks().await }));
        tasks.spawn(of_host(absence::keep(member.clone())));
        tasks.spawn(of_host(leadership::follow(member.clone())));
        let watched = member.clone();
        tasks.spawn(of_host(async move { watched.watch_core().await }));
        let node = Self {
            inner: Arc::new(Inner {
                member,
                proposer,
                reader,
                admission: Arc::new(Semaphore::new(config.max_requests)),
                budget: Budget::new(config.buffer_bytes),
                debug_clock: config.debug_clock,
                rho_ppm: config.rho_ppm,
                audited,
                backups: Backups::default(),
                tasks: Mutex::new(tasks),
            }),
        };
        let raised = Arc::downgrade(&node.inner);
        node.inner.tasks.lock().await.spawn(of_host(raise_level(raised)));
        Ok(node)
    }

    /// The state of the cluster as this node knows it.
    pub fn status(&self) -> ClusterStatus {
        status::cluster_status(&self.inner.member)
    }

    /// The cluster's id, once it is known.
    pub fn cluster(&self) -> Option<String> {
        self.inner.member.identity.facts().cluster.map(|cluster| cluster.to_string())
    }

    /// Begins a backup of this node's state, with the entry of this index at least.
    ///
    /// # Errors
    /// `Unavailable` if another is being read, or the entry is not applied here in time.
    pub async fn backup(
        &self,
        at_least: Option<u64>,
        deadline: Deadline,
    ) -> Result<BackupStream, Error> {
        self.inner.backups.begin(&self.inner.member, at_least, deadline).await
    }

    /// Figures for `/metrics`; forwarded requests are counted elsewhere.
    pub fn figures(&self) -> NodeFigures {
        status::figures(&self.inner.member)
    }

    /// Notes in the audit that the maker of a request could not be found out.
    pub(crate) fn unauthorized(&self, why: &str, address: Option<SocketAddr>) {
        if let Some(audited) = &self.inner.audited {
            audited.unauthorized(why, address, self.inner.member.clock.raw());
        }
    }

    /// The counters of the audit, if one is written.
    pub(crate) fn audit_figures(&self) -> Option<AuditFigures> {
        self.inner.audited.as_ref().map(|audited| audited.figures())
    }

    /// The reason why this node cannot serve requests now; `None` when it can.
    pub fn not_ready(&self) -> Option<String> {
        status::not_ready(&self.inner.member)
    }

    /// The rules and tokens as this node knows them; `None` until every member of the cluster knows
    /// of access control.
    pub fn access(&self) -> Option<Arc<Access>> {
        let replica = &self.inner.member.replica;
        (replica.figures().feature_level >= Command::ACCESS_LEVEL).then(|| replica.access())
    }

    /// Whether the cluster has formed and this node has caught up with what was committed before
    /// it was started.
    pub fn is_ready(&self) -> bool {
        self.not_ready().is_none()
    }

    /// Waits until the cluster has formed and this node has caught up.
    pub async fn wait_ready(&self) {
        let mut phases = self.inner.member.phases();
        // The sender lives as long as `self`.
        let _ = phases.wait_for(|phase| *phase == Phase::Ready).await;
    }

    /// Resolves with the reason when the node has stopped by itself: the process must end then.
    pub async fn stopped(&self) -> String {
        self.inner.member.stop.stopped().await
    }

    /// Asks the member `to` to take the leadership over from this node, and does not wait for it.
    ///
    /// # Errors
    /// If this node has stopped.
    pub async fn transfer_to(&self, to: u64) -> Result<(), Error> {
        let transferred = self.inner.member.raft.trigger().transfer_leader(to).await;
        transferred.map_err(|error| Error::unavailable(error.to_string()))
    }

    /// The index of the last entry that was applied here, and the encoded state after it; `None` if
    /// there is none. It waits for an entry that is being applied, on this thread.
    pub fn applied_state(&self) -> Option<(u64, Vec<u8>)> {
        let machine = self.inner.member.replica.read();
        let index = machine.applied.as_ref()?.index();
        Some((index, machine.state.encode()))
    }

    /// Hands the leadership over if this node has it, admits no more requests, and stops. Each
    /// admitted request is answered, or its outcome is unknown.
    pub async fn shutdown(&self) {
        let member = &self.inner.member;
        member.hand_over().await;
        member.advance_phase(Phase::Stopping);
        self.inner.admission.close();
        member.replica.waiters.close();
        member.close().await;
        self.inner.tasks.lock().await.shutdown().await;
        if let Some(audited) = self.inner.audited.clone() {
            audited.stop().await;
        }
    }

    /// Moves the cluster clock forward by at least `by`; only on a node that leads and was started
    /// with a `debug_clock`.
    ///
    /// # Errors
    /// `Unavailable`, `Unknown`; `BadRequest` without a `debug_clock`.
    pub async fn debug_advance(&self, by: Duration) -> Result<(), Error> {
        let Some(clock) = &self.inner.debug_clock else {
            return Err(Error::bad_request("this node was not started with a debug clock"));
        };
        self.leading()?;
        clock.advance(real_time_for(by, self.inner.rho_ppm));
        self.advance().await
    }

    /// Moves the cluster clock up to the current time.
    ///
    /// # Errors
    /// `Unavailable`, `Unknown`.
    pub(crate) async fn advance(&self) -> Result<(), Error> {
        let deadline = deadline(&CallOptions::default());
        let decided = self.propose(vec![Command::advance().into()], deadline).await;
        decided.into_iter().try_for_each(|decision| decision?.into_done())
    }

    /// Raises the feature level of the cluster if this node leads and the programs of all members
    /// support a higher one.
    async fn raise_level(&self) {
        let member = &self.inner.member;
        if self.leading().is_err() {
            return;
        }
        let members = member.metrics_ref(|metrics| {
            metrics.membership_config.nodes().map(|(id, _)| *id).collect::<Vec<_>>()
        });
        let own = (member.id, member.peers.own().level);
        let Some(common) = member.peers.levels.common(members, own) else { return };
        let current = member.replica.figures().feature_level;
        if common <= current {
            return;
        }
        let raise = Command::from(Operation::RaiseFeatureLevel(common));
        let decided = self.propose(vec![raise.into()], deadline(&CallOptions::default())).await;
        match decided.into_iter().try_for_each(|decision| decision?.into_done()) {
            Ok(()) => tracing::info!(from = current, to = common, "the feature level is raised"),
            Err(error) => tracing::debug!(%error, "the feature level is not raised yet"),
        }
    }

    /// The time until the clock must be moved next without a request; `None` if not before the next
    /// change, which [`Node::changed`] waits for.
    pub(crate) fn next_advance(&self) -> Option<Duration> {
        let member = &self.inner.member;
        let Ok(Leading { stamper, .. }) = self.leading() else {
            return member.raft.is_leader().then_some(OUT_OF_TOUCH);
        };
        let figures = member.replica.figures();
        let tick = figures.has_unexpired.then(|| figures.clock.saturating_add(TICK));
        let next = figures.next_deadline.into_iter().chain(tick).min()?;
        Some(stamper.until(next, &*member.clock))
    }

    /// Whether the last entry has left work over that was due.
    pub(crate) fn is_behind(&self) -> bool {
        let figures = self.inner.member.replica.figures();
        figures.next_deadline.is_some_and(|due| due <= figures.clock)
    }

    /// Waits until entries have been applied: deadlines or the leadership may have changed.
    pub(crate) async fn changed(&self) {
        self.inner.member.replica.applied_bell.notified().await;
    }

    /// The consensus member behind this node.
    pub(crate) fn member(&self) -> &Arc<member::Member> {
        &self.inner.member
    }

    /// The term and stamper of this node's leadership.
    fn leading(&self) -> Result<Leading, Error> {
        leading(&self.inner.member)
    }

    /// As [`Node::leading`], but if this node has just been elected, first waits until its own
    /// entry of the term is applied, which takes one sync on a majority.
    async fn begun(&self, deadline: Deadline) -> Result<Leading, Error> {
        let member = &self.inner.member;
        if is_beginning(member) {
            let wait = BEGINNING.min(deadline.remaining() / 2);
            let begun =
                leadership::wait_for(member, wait, |_| (!is_beginning(member)).then_some(()));
            // Boxed: hardly any request needs it, and its size would be part of every request's
            // future. The result is ignored: the next line checks again.
            let _ = Box::pin(begun).await;
        }
        leading(member)
    }

    /// Proposes commands if this node leads, and returns their decisions, in order. If not all can
    /// be admitted, only the first are proposed: with all or none, a batch would have no chance
    /// while single requests keep the node nearly full.
    async fn propose(
        &self,
        mut commands: Vec<Traced>,
        deadline: Deadline,
    ) -> Vec<Result<Decision, Error>> {
        let count = commands.len();
        let admitted = admit_up_to(&self.inner.admission, count);
        commands.truncate(admitted.as_ref().map_or(0, OwnedSemaphorePermit::num_permits));
        let proposed = commands.len();
        let mut decisions = Vec::new();
        if proposed > 0 {
            // Checked again when the proposal is made; checked here so that a refusal does not
            // queue.
            decisions = match self.begun(deadline).await {
                Ok(_) => self.inner.proposer.propose(commands, deadline).await,
                Err(error) => vec![Err(error); proposed],
            };
        }
        if count > proposed {
            let refused = not_admitted(&self.inner.admission);
            decisions.extend(std::iter::repeat_n(Err(refused), count - proposed));
        }
        decisions
    }

    /// Decides commands that were validated.
    pub(crate) async fn decide_valid(
        &self,
        commands: Vec<Command>,
        trace_id: Option<String>,
        deadline: Deadline,
    ) -> Vec<Result<Decision, Error>> {
        let trace_id: Option<Arc<str>> = trace_id.map(Into::into);
        if let Some(reason) = self.inner.audited.as_ref().and_then(|audited| audited.refusal()) {
            return commands.iter().map(|_| Err(Error::unavailable(reason.clone()))).collect();
        }
        let traced = |command| Traced { command, trace_id: trace_id.clone() };
        let forced = transfers::forced_releases(&commands);
        let commands = commands.into_iter().map(traced).collect();
        let decided = self.propose(commands, deadline).await;
        let accept = |decided: Result<Decision, Error>| decided.and_then(Decision::accepted);
        let decided: Vec<_> = decided.into_iter().map(accept).collect();
        transfers::tell_releases(&forced, &decided, trace_id.as_deref());
        decided
    }

    /// Refuses a request of a feature level that the cluster does not have yet: an older program
    /// among its members would not understand it.
    pub(crate) fn allows(&self, level: u32) -> Result<(), Error> {
        if level <= 1 || level <= self.inner.member.replica.figures().feature_level {
            return Ok(());
        }
        Err(Refusal::LevelTooLow.into())
    }

    fn admit(&self) -> Result<OwnedSemaphorePermit, Error> {
        let admission = &self.inner.admission;
        admit_up_to(admission, 1).ok_or_else(|| not_admitted(admission))
    }

    /// The TLS between members, if there is one.
    pub(crate) fn peer_tls(&self) -> Option<&Arc<Tls>> {
        self.inner.member.peers.tls()
    }

    /// The budget of bytes that large bodies and answers of this node share.
    pub(crate) fn budget(&self) -> &Budget {
        &self.inner.budget
    }
}

/// Raises the feature level of the cluster whenever it may be, for as long as the node lives.
async fn raise_level(node: Weak<Inner>) {
    loop {
        tokio::time::sleep(RAISE_EVERY).await;
        let Some(inner) = node.upgrade() else { return };
        Node { inner }.raise_level().await;
    }
}

/// The deadline of a call.
pub(crate) fn deadline(call: &CallOptions) -> Deadline {
    Deadline::after(call.timeout.unwrap_or(DEFAULT_TIMEOUT))
}

/// The term and stamper of a member that may accept proposals: it leads, its own entry of the term
/// is applied, and a majority has acknowledged it recently enough.
pub(crate) fn leading(member: &member::Member) -> Result<Leading, Error> {
    let leader = member.raft.as_leader().map_err(|forward| not_leading(member, &forward))?;
    let term = leader.term();
    if out_of_touch(member, leader.last_quorum_acked()) {
        return Err(Error::unavailable("this node leads but has lost touch with the majority"));
    }
    match member.replica.stamper(term) {
        Some(stamper) => Ok(Leading { term, stamper }),
        None => Err(Error::unavailable("this node has just been elected; try again")),
    }
}

/// Takes as many permits as are available, up to `count`; `None` if there are none.
pub(crate) fn admit_up_to(
    admission: &Arc<Semaphore>,
    mut count: usize,
) -> Option<OwnedSemaphorePermit> {
    loop {
        count = count.min(admission.available_permits());
        let permits = u32::try_from(count).ok().filter(|permits| *permits > 0)?;
        match Arc::clone(admission).try_acquire_many_owned(permits) {
            Ok(admitted) => return Some(admitted),
            // Other tasks have just taken some. Fewer are left, so the loop ends.
            Err(TryAcquireError::NoPermits) => {}
            Err(TryAcquireError::Closed) => return None,
        }
    }
}

fn not_admitted(admission: &Semaphore) -> Error {
    Error::unavailable(if admission.is_closed() {
        "this node is shutting down"
    } else {
        "this node has as many requests under way as it admits"
    })
}

/// Whether a leader has been without its majority for longer than it may accept proposals. openraft
/// checks this too; this check keeps requests from queueing behind proposals that get no answer.
fn out_of_touch(member: &member::Member, acked: Option<openraft_rt_tokio::TokioInstant>) -> bool {
    use openraft::Instant;
    // Runs for every request, so the costly check, whether the node is its own majority, is last.
    acked.is_none_or(|acked| acked.elapsed() > member.timing.election_max)
        && member.metrics_ref(|metrics| metrics.membership_config.voter_ids().count() > 1)
}

/// `Unavailable`, with the client address of the leader if it is known.
pub(crate) fn not_leading(
    member: &member::Member,
    forward: &openraft::errors::ForwardToLeader<crate::raft::types::TypeConfig>,
) -> Error {
    let Some(leader) = forward.leader_id.filter(|leader| *leader != member.id) else {
        return Error::unavailable("no leader is known");
    };
    let logged = || forward.leader_node.as_ref().and_then(|node| node.client_addr.clone());
    Error::Unavailable {
        reason: format!("node {leader} leads"),
        leader: member.peers.client_addr(leader).or_else(logged),
        retry_after: None,
    }
}

/// A request that waits is answered with its place at once: the caller's own node waits for the rest.
impl LockService for Node {
    async fn decide(
        &self,
        mut commands: Vec<Command>,
        call: CallOptions,
    ) -> Vec<Result<Decision, Error>> {
        let deadline = deadline(&call);
        let invalid = Invalid::remove_by(&mut commands, |command| {
            command.validate()?;
            self.allows(command.level())
        });
        invalid.merge(self.decide_valid(commands, call.trace_id, deadline).await)
    }

    async fn read(&self, query: Query, call: CallOptions) -> Result<View, Error> {
        query.validate()?;
        if !query.stale {
            let deadline = deadline(&call);
            let _admitted = self.admit()?;
            self.begun(deadline).await?;
            self.inner.reader.confirm(deadline).await?;
        } else if self.inner.member.identity.facts().cluster.is_none() {
            // Its empty state is not even an old state of a cluster.
            return Err(Error::unavailable("this node does not know its cluster yet"));
        }
        let position = |machine: &Machine| {
            let applied = machine.applied.as_ref();
            applied.map(|id| DecidedAt { index: id.index(), position: u32::MAX })
        };
        let replica = &self.inner.member.replica;
        if !query.subject.takes_long() {
            return replica.look(|machine| query.view(&machine.state, position(machine))).await;
        }
        // A copy costs next to nothing, and nothing is applied while the state is looked at.
        let (state, at) = replica.look(|machine| (machine.state.clone(), position(machine))).await;
        let viewed = task::blocking(move || query.view(&state, at)).await;
        viewed.unwrap_or_else(|error| Err(Error::unavailable(error.to_string())))
    }
}
