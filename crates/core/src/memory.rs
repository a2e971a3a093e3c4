//! An embedded lock service: the lock machine, a clock and a mutex.
//!
//! No server, no disk, no network: for programs that want the contract within one process, and for
//! tests. The expected results of the conformance suite are generated from it.
//!
//! It acts as a cluster of one node in its first term: every request is stamped from the clock and
//! applied as a log entry of its own, so the clock advances exactly when a request arrives. Nothing
//! is kept once the last handle is dropped.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::clock::{Clock, SystemClock};
use crate::error::Error;
use crate::lock::{
    ClusterTime, Command, Counts, Decision, FEATURE_LEVEL, Invalid, Proposal, Query, Stamp, State,
    View,
};
use crate::service::{DebugLockService, Handle, LockService, ServiceOptions};
use crate::types::{CallOptions, DecidedAt};

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
}

impl Default for Machine {
    fn default() -> Self {
        Self { state: State::with_level(FEATURE_LEVEL), index: 0, advanced: Duration::ZERO }
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
        let shared = Shared { clock, origin, machine: Mutex::default() };
        Self { shared: Arc::new(shared) }
    }

    /// A handle to the same locks, with options of its own.
    #[must_use]
    pub fn handle(&self, options: ServiceOptions) -> Handle<Self> {
        Handle::new(self.clone(), options)
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

    fn apply(&self, command: Command) -> Decision {
        let (decision, deleted) = self.with_machine(|machine| {
            (machine.apply(self.now(), command), machine.state.take_deleted())
        });
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

    fn now(&self) -> Duration {
        self.clock.raw().saturating_sub(self.origin)
    }
}

impl Machine {
    fn apply(&mut self, now: Duration, command: Command) -> Decision {
        let time = ClusterTime::default().saturating_add(now.saturating_add(self.advanced));
        let stamp = Stamp { term: TERM, time };
        self.index += 1;
        let proposal = Proposal { stamp, commands: vec![command] };
        let mut decisions = self.state.apply(TERM, self.index, &proposal);
        decisions.pop().expect("one command has one decision")
    }
}

impl LockService for MemoryLocks {
    async fn decide(
        &self,
        mut commands: Vec<Command>,
        _: CallOptions,
    ) -> Vec<Result<Decision, Error>> {
        let invalid = Invalid::remove_from(&mut commands);
        let decide = |command: Command| self.shared.apply(command).accepted();
        invalid.merge(commands.into_iter().map(decide).collect())
    }

    async fn read(&self, query: Query, _: CallOptions) -> Result<View, Error> {
        query.validate()?;
        self.shared.read(|state, at| query.subject.view(state, Some(at)))
    }
}

impl DebugLockService for MemoryLocks {
    /// Advances this service's own time, for all its handles, whatever clock it runs on.
    async fn advance_clock(&self, by: Duration) -> Result<(), Error> {
        self.shared.with_machine(|machine| machine.advanced = machine.advanced.saturating_add(by));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::service::all_tables;
    use crate::types::{
        ListRequest, LockOptions, LockRequest, LockStatus, ReadOptions, TableOptions, Token,
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
