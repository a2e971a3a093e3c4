//! An embedded lock service: the lock machine, a clock and a mutex.
//!
//! No server, no disk, no network: for programs that want the contract within one process, and for
//! tests. The expected results of the conformance suite are generated from it.
//!
//! It acts as a cluster of one node in its first term: every request is stamped from the clock and
//! applied as a log entry of its own, so the clock advances exactly when a request arrives. Nothing
//! is kept once the last handle is dropped. It is without access control: who asks is whoever has a
//! handle. The machine inside can judge, which tests make use of.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;

use crate::access::Access;
use crate::clock::{Clock, SystemClock};
use crate::error::Error;
use crate::lock::{
    ClusterTime, Command, Counts, Decision, FEATURE_LEVEL, Invalid, LeaveCommand, Operation,
    Outcome, Proposal, Query, Stamp, State, View,
};
use crate::service::{DebugLockService, Handle, LockService, ServiceOptions};
use crate::task::of_host;
use crate::types::{
    CallOptions, DecidedAt, LEAVE_AFTER, LockStatus, MAX_WAIT, RequestId, SessionId,
};

/// The time for which a call lasts beyond its wait, if it names none.
const AFTER_WAIT: Duration = Duration::from_secs(5);

/// The only term: a cluster of one elects once.
const TERM: u64 = 1;

/// Locks in memory. Clones share the locks; [`MemoryLocks::handle`] makes a handle to them with
/// defaults of its own.
///
/// ```
/// use keyward_core::types::{LockOptions, LockRequest, UnlockOptions, UnlockRequest};
/// use keyward_core::{LockService, MemoryLocks};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), keyward_core::Error> {
/// let locks = MemoryLocks::new();
/// let by = |signee: &str| LockRequest {
///     signature: "jobs/nightly".to_owned(),
///     signee: signee.to_owned(),
///     level: None,
/// };
/// assert!(locks.lock(by("worker-1"), LockOptions::default()).await?.ok());
/// assert!(!locks.lock(by("worker-2"), LockOptions::default()).await?.ok());
///
/// let release =
///     UnlockRequest { signature: "jobs/nightly".to_owned(), signee: "worker-1".to_owned() };
/// assert!(locks.unlock(release, UnlockOptions::default()).await?.ok());
/// assert!(locks.lock(by("worker-2"), LockOptions::default()).await?.ok());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct MemoryLocks {
    shared: Arc<Shared>,
}

/// The part that all handles share.
struct Shared {
    /// Wakes the callers that wait for a lock after each entry.
    applied: Notify,
    clock: Arc<dyn Clock>,
    /// The clock's reading when the locks were created: their `C` begins at 0.
    origin: Duration,
    machine: Mutex<Machine>,
}

/// The only replica: its state, the index of its last entry, and the time by which tests advanced
/// its clock.
struct Machine {
    state: State,
    index: u64,
    advanced: Duration,
    /// The callers that wait, and what became of their requests.
    callers: BTreeMap<u64, Caller>,
    next_caller: u64,
}

/// A caller that waits for what becomes of a place.
struct Caller {
    place: DecidedAt,
    ask: DecidedAt,
    request_id: Option<RequestId>,
    decision: Option<Decision>,
}

impl Default for Machine {
    fn default() -> Self {
        let mut state = State::with_level(FEATURE_LEVEL);
        state.tell_steps(true);
        let (advanced, callers) = (Duration::ZERO, BTreeMap::new());
        Self { state, index: 0, advanced, callers, next_caller: 0 }
    }
}

impl MemoryLocks {
    /// Creates an empty service with the machine's clock and default options.
    pub fn new() -> Self {
        Self::with_clock(Arc::new(SystemClock))
    }

    /// A handle with these options to a service of its own.
    pub fn open(options: ServiceOptions) -> Handle<Self> {
        Self::new().handle(options)
    }

    /// Like [`MemoryLocks::new`], on another clock.
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        let origin = clock.raw();
        let (applied, machine) = (Notify::new(), Mutex::default());
        let shared = Shared { applied, clock, origin, machine };
        Self { shared: Arc::new(shared) }
    }

    /// A handle to the same locks, with options of its own.
    #[must_use]
    pub fn handle(&self, options: ServiceOptions) -> Handle<Self> {
        Handle::new(self.clone(), options)
    }

    /// The rules and tokens. There is no access control as long as nobody switches it on, which a
    /// program that embeds the locks has no reason for: it tells each request's principal itself.
    pub fn access(&self) -> Arc<Access> {
        self.shared.with_machine(|machine| Arc::clone(machine.state.access()))
    }

    /// The sizes and counters, as of the last request.
    pub fn counts(&self) -> Counts {
        self.shared.with_machine(|machine| machine.state.counts())
    }
}

impl Default for MemoryLocks {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryLocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryLocks").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

impl Shared {
    fn with_machine<T>(&self, f: impl FnOnce(&mut Machine) -> T) -> T {
        // A poisoned mutex means a broken invariant of the lock machine: nothing may be served
        // afterwards.
        let mut machine = self.machine.lock().expect("no request has panicked");
        f(&mut machine)
    }

    fn apply(&self, mut command: Command) -> Decision {
        if let Operation::OpenSession(session) = &mut command.operation {
            // This service is the leader that draws the names.
            session.id.get_or_insert_with(|| SessionId(rand::random()));
        }
        let (decision, deleted) = self.with_machine(|machine| {
            (machine.apply(self.now(), command), machine.state.take_deleted())
        });
        self.applied.notify_waiters();
        // The caller frees the tables it deleted; other requests go on meanwhile.
        drop(deleted);
        decision
    }

    /// Reads the state after advancing the clock to now.
    fn read<T>(&self, f: impl FnOnce(&State, DecidedAt) -> T) -> T {
        self.with_machine(|machine| {
            machine.apply(self.now(), Command::advance());
            f(&machine.state, DecidedAt { index: machine.index, position: u32::MAX })
        })
    }

    /// What became of a caller's place as of now, or the time until the next deadline.
    fn look(&self, caller: u64) -> (Option<Decision>, Option<Duration>) {
        let (found, deleted) = self.with_machine(|machine| {
            let now = machine.time(self.now());
            let is_due = |due: Option<ClusterTime>| due.is_some_and(|due| due.reached(now));
            let mut advanced = false;
            while is_due(machine.state.next_deadline()) {
                machine.apply(self.now(), Command::advance());
                advanced = true;
            }
            let caller = machine.callers.get_mut(&caller).expect("it is registered");
            let decision = caller.decision.take();
            let due = machine.state.next_deadline().map(|due| due.since(now));
            ((decision, due, advanced), machine.state.take_deleted())
        });
        drop(deleted);
        let (decision, due, advanced) = found;
        if advanced {
            self.applied.notify_waiters();
        }
        (decision, due)
    }

    /// Applies a command, and registers its caller if it waits: in one step, so that nothing that
    /// becomes of its place is missed.
    fn begin(self: &Arc<Self>, command: Command) -> Begun {
        let Some(asked) = Asked::of(&command) else {
            return Begun::Decided(self.apply(command).accepted());
        };
        let decision = self.with_machine(|machine| {
            let decision = machine.apply(self.now(), command);
            let ask = DecidedAt { index: machine.index, position: 0 };
            let Some(place) = place_of(&decision) else { return (None, decision) };
            let caller = machine.next_caller;
            machine.next_caller += 1;
            let waiting = Caller { place, ask, request_id: asked.request_id, decision: None };
            machine.callers.insert(caller, waiting);
            let leave = asked.leave.map(|leave| LeaveCommand { place, ask, ..leave });
            (Some((caller, leave)), decision)
        });
        self.applied.notify_waiters();
        match decision {
            (Some((number, leave)), decision) => {
                let (shared, limit) = (Arc::clone(self), asked.limit);
                Begun::Waits(Registered { shared, number, last: decision, limit, leave })
            }
            (None, decision) => Begun::Decided(decision.accepted()),
        }
    }

    fn now(&self) -> Duration {
        self.clock.raw().saturating_sub(self.origin)
    }
}

/// A command that was applied.
enum Begun {
    Decided(Result<Decision, Error>),
    Waits(Registered),
}

/// A caller that waits, until it is dropped.
struct Registered {
    shared: Arc<Shared>,
    number: u64,
    /// The latest answer: the place.
    last: Decision,
    /// The time to wait if the call has none of its own.
    limit: Duration,
    /// The leaving of its place, for when it is dropped without an answer; a session's places are
    /// not left.
    leave: Option<LeaveCommand>,
}

impl Registered {
    /// Resolves when it is known what became of the place, or with the place when the call's time
    /// is over. Whoever waits drives the clock to the next deadline.
    async fn wait(mut self, timeout: Option<Duration>) -> Result<Decision, Error> {
        let answer = self.answer(timeout).await;
        self.leave = None;
        answer
    }

    async fn answer(&self, timeout: Option<Duration>) -> Result<Decision, Error> {
        let over = tokio::time::sleep(timeout.unwrap_or(self.limit));
        tokio::pin!(over);
        loop {
            let shared = Arc::clone(&self.shared);
            let applied = shared.applied.notified();
            tokio::pin!(applied);
            applied.as_mut().enable();
            let (decision, due) = shared.look(self.number);
            if let Some(decision) = decision {
                return decision.accepted();
            }
            let due = async {
                match due {
                    Some(due) => tokio::time::sleep(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = applied => {}
                () = due => {}
                () = &mut over => {
                    return self.last.clone().accepted();
                }
            }
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        // After a panic of the machine nothing is served any more.
        if let Ok(mut machine) = self.shared.machine.lock() {
            machine.callers.remove(&self.number);
        }
        // Without a runtime the place stands until its wait is over.
        if let Some(leave) = self.leave.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let shared = Arc::clone(&self.shared);
            runtime.spawn(of_host(async move {
                tokio::time::sleep(LEAVE_AFTER).await;
                shared.apply(Operation::Leave(Box::new(leave)).into());
            }));
        }
    }
}

/// A request that waits for its turn.
struct Asked {
    request_id: Option<RequestId>,
    /// The longest time of its call.
    limit: Duration,
    /// The leaving of its place, but for the positions; `None` in a session.
    leave: Option<LeaveCommand>,
}

impl Asked {
    fn of(command: &Command) -> Option<Self> {
        let Operation::Lock(lock) = &command.operation else { return None };
        lock.waits().then(|| Self {
            request_id: command.request_id,
            limit: Duration::from_millis(lock.wait_ms).saturating_add(AFTER_WAIT).min(MAX_WAIT),
            leave: lock.ends_with_caller().then(|| LeaveCommand {
                table: lock.table.clone(),
                signature: lock.signature.clone(),
                ..LeaveCommand::default()
            }),
        })
    }
}

fn place_of(decision: &Decision) -> Option<DecidedAt> {
    if let Outcome::Lock(LockStatus::Waiting(waiting)) = &decision.outcome {
        Some(waiting.place)
    } else {
        None
    }
}

impl Machine {
    fn time(&self, now: Duration) -> ClusterTime {
        ClusterTime::default().saturating_add(now.saturating_add(self.advanced))
    }

    fn apply(&mut self, now: Duration, command: Command) -> Decision {
        let time = self.time(now);
        let stamp = Stamp { term: TERM, time };
        self.index += 1;
        let proposal = Proposal { stamp, commands: vec![command] };
        let mut decisions = self.state.apply(TERM, self.index, &proposal);
        for step in self.state.take_steps() {
            let callers = self.callers.values_mut().filter(|caller| caller.place == step.place);
            for caller in callers.filter(|caller| caller.decision.is_none()) {
                // Every caller of the same request is told.
                let is_same = match step.request_id {
                    Some(id) => caller.request_id == Some(id),
                    None => caller.ask == step.ask,
                };
                if is_same {
                    let outcome = step.outcome.clone();
                    caller.decision = Some(Decision { outcome, decided_at: Some(step.at) });
                }
            }
        }
        decisions.pop().expect("one command has one decision")
    }
}

impl LockService for MemoryLocks {
    async fn decide(
        &self,
        mut commands: Vec<Command>,
        call: CallOptions,
    ) -> Vec<Result<Decision, Error>> {
        let invalid = Invalid::remove_from(&mut commands);
        let begun: Vec<Begun> =
            commands.into_iter().map(|command| self.shared.begin(command)).collect();
        let mut answers = Vec::with_capacity(begun.len());
        for begun in begun {
            answers.push(match begun {
                Begun::Decided(answer) => answer,
                Begun::Waits(caller) => caller.wait(call.timeout).await,
            });
        }
        invalid.merge(answers)
    }

    async fn read(&self, query: Query, _: CallOptions) -> Result<View, Error> {
        query.validate()?;
        self.shared.read(|state, at| query.view(state, Some(at)))
    }
}

impl DebugLockService for MemoryLocks {
    /// Advances this service's own time, for all its handles, whatever clock it runs on.
    async fn advance_clock(&self, by: Duration) -> Result<(), Error> {
        self.shared.with_machine(|machine| machine.advanced = machine.advanced.saturating_add(by));
        // Whoever waits sees the new time.
        self.shared.applied.notify_waiters();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::service::all_tables;
    use crate::types::{
        ForbiddenReason, ListRequest, LockOptions, LockRequest, LockStatus, ReadOptions,
        TableOptions, Token,
    };

    fn request(signee: &str) -> LockRequest {
        LockRequest { signature: "s".to_owned(), signee: signee.to_owned(), level: None }
    }

    async fn expires_in(locks: &impl LockService) -> Duration {
        let response = locks.lock(request("ann"), LockOptions::default()).await.unwrap();
        response.grant().expect("a lock of mine or of nobody").expires_in
    }

    #[tokio::test]
    async fn time_passes_with_the_clock_and_by_hand() {
        let clock = ManualClock::default();
        clock.advance(Duration::from_secs(1000));
        let locks = MemoryLocks::with_clock(Arc::new(clock.clone()));
        assert_eq!(expires_in(&locks).await, Duration::from_secs(30));
        let left = async || {
            let seen = locks.check("s".to_owned(), ReadOptions::default()).await.unwrap();
            seen.record.holders[0].expires_in.as_secs()
        };
        clock.advance(Duration::from_secs(10));
        assert_eq!(left().await, 20);
        locks.advance_clock(Duration::from_secs(5)).await.unwrap();
        assert_eq!(left().await, 15);
        clock.advance(Duration::from_secs(15));
        assert_eq!(left().await, 0);
        let taken = locks.lock(request("bob"), LockOptions::default()).await.unwrap();
        assert!(matches!(taken.status, LockStatus::Transferred { grant, .. } if grant.live));
    }

    fn in_turn(wait: u64) -> LockOptions {
        let wait = Some(Duration::from_secs(wait));
        LockOptions { wait, duration: Some(Duration::from_secs(10)), ..LockOptions::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_for_its_turn_and_every_caller_of_its_id_is_told() {
        let clock = ManualClock::default();
        let locks = MemoryLocks::with_clock(Arc::new(clock.clone()));
        assert!(locks.lock(request("ann"), in_turn(0)).await.unwrap().ok());
        let id = Some(RequestId { lane: 7, seq: 1 });
        let waits = || {
            let options = LockOptions { request_id: id, ..in_turn(20) };
            let locks = locks.clone();
            tokio::spawn(async move { locks.lock(request("bob"), options).await.unwrap().status })
        };
        let (one, other) = (waits(), waits());
        tokio::task::yield_now().await;
        let queued = locks.check("s".to_owned(), ReadOptions::default()).await.unwrap();
        assert_eq!(queued.record.waiting, 1);
        locks.advance_clock(Duration::from_secs(10)).await.unwrap();
        for told in [one.await.unwrap(), other.await.unwrap()] {
            let LockStatus::Transferred { grant, previous_signee, .. } = told else {
                panic!("{told:?}")
            };
            assert_eq!((grant.token, &*previous_signee), (Token(2), "ann"));
            assert_eq!(grant.valid, Duration::from_secs(20), "from the ask on");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_ends_before_its_wait_is_told_its_place_and_a_wait_that_ends_a_timeout() {
        let locks = MemoryLocks::with_clock(Arc::new(ManualClock::default()));
        assert!(locks.lock(request("ann"), in_turn(0)).await.unwrap().ok());
        let call = CallOptions::within(Duration::from_secs(1));
        let answer = locks.lock(request("bob"), LockOptions { call, ..in_turn(5) }).await.unwrap();
        assert_eq!(answer.waiting().map(|waiting| waiting.position), Some(1));
        let again = locks.lock(request("bob"), in_turn(5));
        let over = locks.advance_clock(Duration::from_secs(5));
        let (again, _) = tokio::join!(again, over);
        let forbidden = again.unwrap().forbidden().cloned().unwrap();
        assert_eq!(forbidden.reason, ForbiddenReason::Timeout);
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_left_two_seconds_after_its_caller_went_away_unless_it_asked_again() {
        let locks = MemoryLocks::with_clock(Arc::new(ManualClock::default()));
        assert!(locks.lock(request("ann"), in_turn(0)).await.unwrap().ok());
        let ask = |signee, seq| LockOptions {
            request_id: Some(RequestId { lane: signee, seq }),
            ..in_turn(50)
        };
        let dropped = async |signee: &str, options| {
            let asked = locks.lock(request(signee), options);
            assert!(tokio::time::timeout(Duration::from_millis(1), asked).await.is_err());
        };
        dropped("bob", ask(1, 1)).await;
        dropped("cid", ask(2, 1)).await;
        assert_eq!(locks.counts().waiting, 2);
        tokio::time::sleep(LEAVE_AFTER / 2).await;
        let again = LockOptions { queued: true, ..ask(2, 1) };
        let again = locks.lock(request("cid"), again).await.unwrap();
        assert_eq!(again.waiting().unwrap().position, 2);
        tokio::time::sleep(LEAVE_AFTER).await;
        let again = LockOptions { queued: true, ..ask(2, 1) };
        let again = locks.lock(request("cid"), again).await.unwrap();
        assert_eq!(again.waiting().unwrap().position, 1, "only bob's place was left");
        assert_eq!(locks.counts().waiting, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_grant_that_a_left_place_became_is_released() {
        let locks = MemoryLocks::with_clock(Arc::new(ManualClock::default()));
        assert!(locks.lock(request("ann"), in_turn(0)).await.unwrap().ok());
        let asked = locks.lock(request("bob"), in_turn(50));
        assert!(tokio::time::timeout(Duration::from_millis(1), asked).await.is_err());
        locks.advance_clock(Duration::from_secs(10)).await.unwrap();
        let seen = async || locks.check("s".to_owned(), ReadOptions::default()).await;
        assert_eq!(seen().await.unwrap().record.holders[0].signee, "bob");
        tokio::time::sleep(LEAVE_AFTER + Duration::from_millis(1)).await;
        assert!(matches!(seen().await, Err(Error::NotFound { .. })));
    }

    #[tokio::test]
    async fn whoever_waits_drives_the_clock() {
        let locks = MemoryLocks::new();
        let short = |wait: u64| LockOptions {
            duration: Some(Duration::from_millis(30)),
            wait: Some(Duration::from_millis(wait)),
            ..LockOptions::default()
        };
        assert!(locks.lock(request("ann"), short(0)).await.unwrap().ok());
        let answer = locks.lock(request("bob"), short(5000)).await.unwrap();
        assert!(matches!(answer.status, LockStatus::Transferred { .. }), "{answer:?}");
    }

    #[tokio::test]
    async fn handles_share_the_locks_and_have_their_own_options() {
        let locks = MemoryLocks::new();
        let options = ServiceOptions {
            default_duration: Some(Duration::from_secs(7)),
            ..ServiceOptions::default()
        };
        let other = locks.handle(options.clone());
        assert_eq!(expires_in(&locks).await, Duration::from_secs(30));
        assert!(expires_in(&other).await <= Duration::from_secs(7));
        assert_eq!(other.service().counts(), locks.counts());

        let apart = locks.handle(ServiceOptions { table: "t".to_owned(), ..options });
        let found = apart.check("s".to_owned(), ReadOptions::default()).await;
        assert!(matches!(found, Err(Error::NotFound { decided_at: Some(_) })));
        assert_eq!(all_tables(&locks, ReadOptions::default()).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn every_request_is_an_entry_of_its_own() {
        let locks = MemoryLocks::new();
        let mut last = None;
        for token in 1..4 {
            let options = LockOptions { force: true, ..LockOptions::default() };
            let response = locks.lock(request(&format!("{token}")), options).await.unwrap();
            assert_eq!(response.grant().unwrap().token, Token(token));
            assert!(response.decided_at > last);
            last = response.decided_at;
        }
        let seen = locks.list(ListRequest::default(), ReadOptions::default()).await.unwrap();
        assert!(seen.decided_at > last);
        locks.delete_table(TableOptions::default()).await.unwrap();
        assert_eq!(locks.counts().records, 0);
    }
}
