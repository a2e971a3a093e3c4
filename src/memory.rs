//! An embedded lock service: the lock machine, a clock and a mutex.
//!
//! No server, no disk, no network: for programs that want the contract within one process, and for
//! tests. The expected results of the conformance suite are generated from it.
//!
//! It acts as a cluster of one node in its first term: every request is stamped from the clock and
//! applied as a log entry of its own, so the clock advances exactly when a request arrives. Nothing
//! is kept once the last handle is dropped.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::{Clock, SystemClock};
use crate::error::Error;
use crate::lock::{self, ClusterTime, Command, Counts, Decision, Proposal, Stamp, State};
use crate::service::{DebugLockService, LockService, ServiceOptions};
use crate::types::{
    CheckResponse, DecidedAt, DeleteStatus, ListRequest, ListResponse, LockOptions, LockRequest,
    LockResponse, ReadOptions, TableDefaults, TableOptions, TablesRequest, TablesResponse,
    UnlockOptions, UnlockRequest, UnlockResponse,
};

/// The only term: a cluster of one elects once.
const TERM: u64 = 1;

/// A handle to locks in memory. Clones are the same handle; [`MemoryLocks::handle`] makes another
/// one, with other defaults, to the same locks.
///
/// ```
/// use keyward::types::{LockOptions, LockRequest, UnlockOptions, UnlockRequest};
/// use keyward::{LockService, MemoryLocks};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), keyward::Error> {
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
    options: Arc<Mutex<ServiceOptions>>,
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
#[derive(Default)]
struct Machine {
    state: State,
    index: u64,
    advanced: Duration,
}

impl MemoryLocks {
    /// Creates an empty service with the machine's clock and default options.
    pub fn new() -> Self {
        Self::with_clock(Arc::new(SystemClock))
    }

    /// Like [`MemoryLocks::new`], with options of this handle's own.
    pub fn open(options: ServiceOptions) -> Self {
        Self::new().handle(options)
    }

    /// Like [`MemoryLocks::new`], on another clock.
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        let origin = clock.raw();
        let shared = Shared { clock, origin, machine: Mutex::default() };
        Self { shared: Arc::new(shared), options: Arc::default() }
    }

    /// Another handle to the same locks, with options of its own.
    #[must_use]
    pub fn handle(&self, options: ServiceOptions) -> Self {
        Self { shared: Arc::clone(&self.shared), options: Arc::new(Mutex::new(options)) }
    }

    /// The sizes and counters, as of the last request.
    pub fn counts(&self) -> Counts {
        self.shared.with_machine(|machine| machine.state.counts())
    }

    fn options(&self) -> ServiceOptions {
        self.options.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn fill_read(&self, mut options: ReadOptions) -> ReadOptions {
        self.options().fill_table(&mut options.table);
        options
    }
}

impl Default for MemoryLocks {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryLocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryLocks")
            .field("options", &self.options())
            .field("counts", &self.counts())
            .finish_non_exhaustive()
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
    fn read<T>(&self, f: impl FnOnce(&State) -> T) -> (T, DecidedAt) {
        self.with_machine(|machine| {
            machine.apply(self.now(), Command::advance());
            (f(&machine.state), DecidedAt { index: machine.index, position: u32::MAX })
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
    async fn lock(
        &self,
        request: LockRequest,
        mut options: LockOptions,
    ) -> Result<LockResponse, Error> {
        self.options().fill_lock(&mut options);
        let command = lock::lock_command(&request, &options)?;
        self.shared.apply(command).into_lock_response()
    }

    async fn unlock(
        &self,
        request: UnlockRequest,
        mut options: UnlockOptions,
    ) -> Result<UnlockResponse, Error> {
        self.options().fill_table(&mut options.table);
        let command = lock::unlock_command(&request, &options)?;
        self.shared.apply(command).into_unlock_response()
    }

    async fn check(&self, signature: String, options: ReadOptions) -> Result<CheckResponse, Error> {
        let options = self.fill_read(options);
        let table = lock::validate_read(&signature, &options)?;
        let (record, at) = self.shared.read(|state| state.check(table, &signature));
        let decided_at = Some(at);
        record
            .map(|record| CheckResponse { record, decided_at })
            .ok_or(Error::NotFound { decided_at })
    }

    async fn list(
        &self,
        request: ListRequest,
        options: ReadOptions,
    ) -> Result<ListResponse, Error> {
        let options = self.fill_read(options);
        let table = lock::validate_list(&request, &options)?;
        let ((locks, next), at) = self.shared.read(|state| state.list(table, &request));
        Ok(ListResponse { locks, next, decided_at: Some(at) })
    }

    async fn tables(
        &self,
        request: TablesRequest,
        _options: ReadOptions,
    ) -> Result<TablesResponse, Error> {
        lock::validate_tables(&request)?;
        let ((tables, next), at) = self.shared.read(|state| state.tables(&request));
        Ok(TablesResponse { tables, next, decided_at: Some(at) })
    }

    async fn configure_table(
        &self,
        defaults: TableDefaults,
        mut options: TableOptions,
    ) -> Result<(), Error> {
        self.options().fill_table(&mut options.table);
        let command = lock::configure_table_command(&defaults, &options)?;
        self.shared.apply(command).into_done()
    }

    async fn delete_table(&self, mut options: TableOptions) -> Result<DeleteStatus, Error> {
        self.options().fill_table(&mut options.table);
        let command = lock::delete_table_command(&options)?;
        self.shared.apply(command).into_delete_status()
    }
}

impl DebugLockService for MemoryLocks {
    async fn set_default_duration(&self, duration: Duration) -> Result<(), Error> {
        lock::validate_duration(duration)?;
        let mut options = self.options.lock().unwrap_or_else(PoisonError::into_inner);
        options.default_duration = Some(duration);
        Ok(())
    }

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
    use crate::types::{LockStatus, Token};

    fn request(signee: &str) -> LockRequest {
        LockRequest { signature: "s".to_owned(), signee: signee.to_owned(), level: None }
    }

    async fn expires_in(locks: &MemoryLocks) -> Duration {
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
        let clone = other.clone();
        other.set_default_duration(Duration::from_secs(3)).await.unwrap();
        assert!(expires_in(&clone).await <= Duration::from_secs(3));
        assert!(other.set_default_duration(Duration::ZERO).await.is_err());

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
