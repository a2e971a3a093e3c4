//! Guards over locks in memory: one clock for the locks, one for the holder, both moved by hand.
//!
//! The runtime's timers are paused and moved along with the clocks, so that nothing here waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::guard::Common;
use crate::{Acquire, Guard, GuardState, LostReason};
use keyward_core::clock::{Clock, ManualClock};
use keyward_core::error::Error;
use keyward_core::lock::{Command, Decision, Operation, Query, View};
use keyward_core::memory::MemoryLocks;
use keyward_core::service::LockService;
use keyward_core::types::{
    CallOptions, Forbidden, LockOptions, LockRequest, LockResponse, ReadOptions, RequestId,
    UnlockOptions, UnlockRequest,
};

const SECOND: Duration = Duration::from_secs(1);

/// Locks in memory behind a link that can be cut.
#[derive(Clone)]
struct Linked {
    locks: MemoryLocks,
    cut: Arc<AtomicBool>,
    hangs: Arc<AtomicBool>,
    /// How long a release takes, in milliseconds.
    slow_release: Arc<AtomicU64>,
    renewals: Arc<AtomicUsize>,
}

impl Linked {
    async fn pass(&self) -> Result<(), Error> {
        if self.hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        if self.cut.load(Ordering::SeqCst) {
            return Err(Error::unavailable("the link is cut"));
        }
        Ok(())
    }
}

/// The same, with a timeout for each call as a client has.
#[derive(Clone)]
struct Bounded(Linked);

impl LockService for Bounded {
    async fn decide(
        &self,
        commands: Vec<Command>,
        call: CallOptions,
    ) -> Vec<Result<Decision, Error>> {
        let (timeout, count) = (call.timeout.unwrap_or(5 * SECOND), commands.len());
        let answers = tokio::time::timeout(timeout, self.0.decide(commands, call)).await;
        answers.unwrap_or_else(|_| vec![Err(Error::unknown("no answer in time")); count])
    }

    async fn read(&self, query: Query, call: CallOptions) -> Result<View, Error> {
        self.0.read(query, call).await
    }
}

impl LockService for Linked {
    async fn decide(
        &self,
        commands: Vec<Command>,
        call: CallOptions,
    ) -> Vec<Result<Decision, Error>> {
        for command in &commands {
            if let Operation::Lock(lock) = &command.operation {
                self.renewals.fetch_add(usize::from(lock.token.is_some()), Ordering::SeqCst);
            } else if let Operation::Unlock(_) = &command.operation {
                let slow = self.slow_release.load(Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(slow)).await;
            }
        }
        match self.pass().await {
            Ok(()) => self.locks.decide(commands, call).await,
            Err(error) => vec![Err(error); commands.len()],
        }
    }

    async fn read(&self, query: Query, call: CallOptions) -> Result<View, Error> {
        self.locks.read(query, call).await
    }
}

struct World {
    service: Linked,
    clock: ManualClock,
    holder: ManualClock,
}

impl World {
    fn new() -> Self {
        let clock = ManualClock::default();
        let service = Linked {
            locks: MemoryLocks::with_clock(Arc::new(clock.clone())),
            cut: Arc::default(),
            hangs: Arc::default(),
            slow_release: Arc::default(),
            renewals: Arc::default(),
        };
        Self { service, clock, holder: ManualClock::default() }
    }

    async fn acquire(&self) -> Guard<Linked> {
        self.ask(Acquire::new("a", "me").duration(3 * SECOND)).await.unwrap()
    }

    async fn ask(&self, request: Acquire) -> Result<Guard<Linked>, Error> {
        Guard::acquire(self.service.clone(), self.clock_of_holder(), request).await
    }

    fn clock_of_holder(&self) -> Arc<dyn Clock> {
        Arc::new(self.holder.clone())
    }

    /// Lets this much time go by everywhere, in steps that tasks can keep up with.
    async fn pass(&self, time: Duration) {
        let step = Duration::from_millis(10);
        for _ in 0..time.as_millis() / 10 {
            self.clock.advance(step);
            self.holder.advance(step);
            tokio::time::sleep(step).await;
        }
    }

    async fn lock_as(&self, signee: &str, level: i64, options: LockOptions) -> LockResponse {
        let request =
            LockRequest { signature: "a".into(), signee: signee.into(), level: Some(level) };
        self.service.locks.lock(request, options).await.unwrap()
    }

    async fn is_free(&self) -> bool {
        let read = self.service.locks.check("a".into(), ReadOptions::default()).await;
        matches!(read, Err(Error::NotFound { .. }))
    }
}

#[tokio::test(start_paused = true)]
async fn a_guard_renews_at_a_third_and_stays_safe() {
    let world = World::new();
    let guard = world.acquire().await;
    let token = guard.token();
    for _ in 0..40 {
        world.pass(SECOND / 2).await;
        assert_eq!(guard.state(), GuardState::Safe);
    }
    let renewals = world.service.renewals.load(Ordering::SeqCst);
    // At a third, or up to a tenth of that earlier.
    assert!((19..=22).contains(&renewals), "{renewals} renewals in 20 seconds");
    let held = world.lock_as("other", 0, LockOptions::default()).await;
    assert_eq!(held.forbidden().unwrap().holders[0].token, token, "one grant all along");
    assert!(guard.release().await.unwrap().ok());
    assert!(world.is_free().await);
    world.pass(5 * SECOND).await;
    assert_eq!(world.service.renewals.load(Ordering::SeqCst), renewals, "none after the release");
}

#[tokio::test(start_paused = true)]
async fn a_guard_that_cannot_renew_is_in_danger_and_then_lost_before_the_lock_is_free() {
    for hangs in [false, true] {
        let world = World::new();
        let guard = world.acquire().await;
        let lost = tokio::spawn(guard.lost());
        world.service.cut.store(true, Ordering::SeqCst);
        world.service.hangs.store(hangs, Ordering::SeqCst);
        world.pass(Duration::from_millis(1970)).await;
        assert_eq!(guard.state(), GuardState::Safe);
        world.pass(Duration::from_millis(20)).await;
        assert_eq!(guard.state(), GuardState::Danger);
        world.pass(Duration::from_millis(970)).await;
        assert_eq!(guard.state(), GuardState::Danger);
        world.pass(Duration::from_millis(10)).await;
        assert_eq!(guard.state(), GuardState::Lost(LostReason::Unreachable));
        let held = world.lock_as("other", 0, LockOptions::default()).await;
        assert!(!held.ok(), "the holder stops before another can have it");
        assert_eq!(lost.await.unwrap(), LostReason::Unreachable);
        world.service.cut.store(false, Ordering::SeqCst);
        world.service.hangs.store(false, Ordering::SeqCst);
        world.pass(SECOND).await;
        assert_eq!(guard.state(), GuardState::Lost(LostReason::Unreachable), "for good");
        assert_eq!(guard.remaining(), Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn a_short_cut_is_survived() {
    let world = World::new();
    let guard = world.acquire().await;
    world.pass(SECOND / 2).await;
    world.service.cut.store(true, Ordering::SeqCst);
    world.pass(2 * SECOND).await;
    assert_eq!(guard.state(), GuardState::Danger);
    world.service.cut.store(false, Ordering::SeqCst);
    world.pass(SECOND / 2).await;
    assert_eq!(guard.state(), GuardState::Safe);
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_slept_knows_before_any_task_has_run() {
    let world = World::new();
    let guard = world.acquire().await;
    world.clock.advance(60 * SECOND);
    world.holder.advance(60 * SECOND);
    assert_eq!(guard.state(), GuardState::Lost(LostReason::Unreachable));
    assert_eq!(guard.lost().await, LostReason::Unreachable);
}

#[tokio::test(start_paused = true)]
async fn a_lost_grant_and_a_preempted_one_are_told_apart() {
    let world = World::new();
    let guard = world.acquire().await;
    assert!(world.lock_as("boss", 1, LockOptions::default()).await.created());
    world.pass(2 * SECOND).await;
    assert_eq!(guard.lost().await, LostReason::Preempted);

    let world = World::new();
    let guard = world.acquire().await;
    let forced = LockOptions { force: true, ..LockOptions::default() };
    assert!(world.lock_as("thief", 0, forced).await.created());
    let (reason, ()) = tokio::join!(guard.lost(), world.pass(2 * SECOND));
    assert_eq!(reason, LostReason::Lost);

    let world = World::new();
    let guard = world.acquire().await;
    let request = UnlockRequest { signature: "a".into(), signee: "me".into() };
    world.service.locks.unlock(request, UnlockOptions::default()).await.unwrap();
    world.pass(2 * SECOND).await;
    assert_eq!(guard.state(), GuardState::Lost(LostReason::Lost));
    drop(guard);
    assert!(world.is_free().await);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_never_takes_what_another_has_or_nobody_has() {
    let world = World::new();
    let guard = world.acquire().await;
    let request = UnlockRequest { signature: "a".into(), signee: "me".into() };
    world.service.locks.unlock(request, UnlockOptions::default()).await.unwrap();
    world.pass(10 * SECOND).await;
    assert!(world.is_free().await, "renewals revive nothing");
    assert!(guard.release().await.unwrap().ok(), "no_lock is a success");
}

#[tokio::test(start_paused = true)]
async fn dropping_a_guard_releases_in_the_background() {
    let world = World::new();
    let guard = world.acquire().await;
    let mut states = guard.states();
    drop(guard);
    world.pass(SECOND / 10).await;
    assert!(world.is_free().await);
    assert_eq!(*states.borrow_and_update(), GuardState::Released);

    let guard = world.acquire().await;
    // Also outside of the runtime, where nothing may be awaited.
    std::thread::spawn(move || drop(guard)).join().unwrap();
    world.pass(SECOND / 10).await;
    assert!(world.is_free().await);
}

#[tokio::test(start_paused = true)]
async fn the_same_owner_waits_for_the_release_of_its_dropped_guard() {
    let world = World::new();
    world.service.slow_release.store(400, Ordering::SeqCst);
    let common = Common::new(world.clock_of_holder());
    let ask = |request| Guard::acquire_with(world.service.clone(), common.clone(), request, None);
    let mine = || Acquire::new("a", "me").duration(3 * SECOND);
    let first = ask(mine()).await.unwrap();
    let token = first.token();
    drop(first);
    let others = tokio::time::timeout(SECOND / 10, ask(Acquire::new("b", "me"))).await;
    others.expect("another lock does not wait").unwrap();
    let (second, ()) = tokio::join!(ask(mine()), world.pass(SECOND));
    let second = second.unwrap();
    assert_ne!(second.token(), token, "the first grant was given back before");
    world.pass(4 * SECOND).await;
    assert_eq!(second.state(), GuardState::Safe);
    assert!(!world.is_free().await);
}

#[tokio::test(start_paused = true)]
async fn a_release_that_is_never_answered_is_waited_for_only_so_long() {
    let world = World::new();
    let common = Common::new(world.clock_of_holder());
    let ask = |request| Guard::acquire_with(world.service.clone(), common.clone(), request, None);
    let first = ask(Acquire::new("a", "me").duration(60 * SECOND)).await.unwrap();
    world.service.hangs.store(true, Ordering::SeqCst);
    drop(first);
    world.pass(SECOND).await;
    world.service.hangs.store(false, Ordering::SeqCst);
    let again = ask(Acquire::new("a", "me").duration(60 * SECOND));
    let (again, ()) = tokio::join!(again, world.pass(5 * SECOND));
    assert_eq!(again.unwrap().state(), GuardState::Safe);
}

#[test]
fn a_release_in_a_runtime_that_nobody_polls_is_waited_for_only_so_long() {
    let world = World::new();
    let common = Common::new(world.clock_of_holder());
    let ask = || {
        let request = Acquire::new("a", "me").duration(60 * SECOND);
        Guard::acquire_with(world.service.clone(), common.clone(), request, None)
    };
    let build = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().start_paused(true).build().unwrap()
    };
    let (idle, other) = (build(), build());
    drop(idle.block_on(ask()).unwrap());
    assert_eq!(other.block_on(ask()).unwrap().state(), GuardState::Safe);
}

#[test]
fn a_guard_may_outlive_its_runtime() {
    let world = World::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let guard = runtime.block_on(world.acquire());
    drop(runtime);
    world.holder.advance(4 * SECOND);
    assert_eq!(guard.state(), GuardState::Lost(LostReason::Unreachable));
    drop(guard);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_an_error_and_waiting_ends_with_the_lock_or_with_patience() {
    let world = World::new();
    let guard = world.acquire().await;
    let other = || Acquire::new("a", "other");
    let Err(Error::Forbidden(Forbidden { holders, .. })) = world.ask(other()).await else {
        panic!("two holders");
    };
    assert_eq!(holders[0].signee, "me");
    let wait = |patience| {
        Guard::acquire_within(world.service.clone(), world.clock_of_holder(), other(), patience)
    };
    let (ended, ()) = tokio::join!(wait(2 * SECOND), world.pass(3 * SECOND));
    assert!(matches!(ended, Err(Error::Forbidden(_))), "{ended:?}");
    let release = async {
        world.pass(2 * SECOND).await;
        guard.release().await.unwrap();
        world.pass(2 * SECOND).await;
    };
    let (ended, ()) = tokio::join!(wait(10 * SECOND), release);
    assert_eq!(ended.unwrap().state(), GuardState::Safe);
}

#[tokio::test(start_paused = true)]
async fn a_wait_lasts_as_long_as_it_says_and_asks_once_more_at_its_end() {
    let world = World::new();
    let guard = world.acquire().await;
    let wait = Guard::acquire_within(
        world.service.clone(),
        world.clock_of_holder(),
        Acquire::new("a", "other"),
        2 * SECOND,
    );
    let release = async {
        world.pass(Duration::from_millis(1990)).await;
        guard.release().await.unwrap();
        world.pass(SECOND).await;
    };
    let (ended, ()) = tokio::join!(wait, release);
    assert_eq!(ended.unwrap().state(), GuardState::Safe, "it was free before the time was up");
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_in_its_time_though_nobody_answers() {
    let world = World::new();
    world.service.hangs.store(true, Ordering::SeqCst);
    let timeouts = [None, Some(60 * SECOND)];
    for timeout in timeouts {
        let mut request = Acquire::new("a", "me");
        request.options.call.timeout = timeout;
        let wait = Guard::acquire_within(
            Bounded(world.service.clone()),
            world.clock_of_holder(),
            request,
            SECOND,
        );
        let ended = tokio::time::timeout(SECOND + SECOND / 2, wait).await;
        let ended = ended.expect("a second, and a quarter for the last answer");
        assert!(matches!(ended, Err(Error::Unknown { .. })), "{ended:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_open_once_is_open_at_the_end_of_a_wait_unless_it_was_decided() {
    let world = World::new();
    world.service.hangs.store(true, Ordering::SeqCst);
    let wait = |service| {
        let mut request = Acquire::new("a", "me");
        request.options.call.timeout = Some(SECOND);
        Guard::acquire_within(service, world.clock_of_holder(), request, 4 * SECOND)
    };
    let change = async {
        world.pass(2 * SECOND).await;
        world.service.cut.store(true, Ordering::SeqCst);
        world.service.hangs.store(false, Ordering::SeqCst);
        world.pass(3 * SECOND).await;
    };
    let (ended, ()) = tokio::join!(wait(Bounded(world.service.clone())), change);
    assert!(matches!(ended, Err(Error::Unknown { .. })), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn a_request_id_of_the_callers_does_not_repeat_a_refusal_for_ever() {
    let world = World::new();
    let guard = world.acquire().await;
    let mut request = Acquire::new("a", "other");
    request.options.request_id = Some(RequestId { lane: 77, seq: 1 });
    let wait =
        Guard::acquire_within(world.service.clone(), world.clock_of_holder(), request, 10 * SECOND);
    let release = async {
        world.pass(SECOND).await;
        guard.release().await.unwrap();
        world.pass(4 * SECOND).await;
    };
    let (ended, ()) = tokio::join!(wait, release);
    assert_eq!(ended.unwrap().state(), GuardState::Safe, "the lock is free");
}

#[tokio::test(start_paused = true)]
async fn two_instances_of_one_name_exclude_each_other() {
    let world = World::new();
    let first = world.ask(Acquire::new("a", "me").instance("1")).await.unwrap();
    assert!(world.ask(Acquire::new("a", "me").instance("2")).await.is_err());
    let again = world.ask(Acquire::new("a", "me").instance("1")).await.unwrap();
    assert_eq!(again.token(), first.token(), "one owner is one holder");
}
