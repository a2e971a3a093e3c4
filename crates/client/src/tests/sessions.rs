//! Sessions, waiting, semaphores and locks for readers and writers over locks in memory.
//!
//! One clock for the locks and one for the holders, both moved by hand with the runtime's timers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::{
    Acquire, Guard, GuardState, LostReason, OpenSession, Permit, RwLock, Semaphore, Session,
};
use keyward_core::clock::{Clock, ManualClock};
use keyward_core::error::Error;
use keyward_core::lock::{Command, Decision, Operation, Query, View};
use keyward_core::memory::MemoryLocks;
use keyward_core::service::LockService;
use keyward_core::types::{
    CallOptions, CloseStatus, Forbidden, ForbiddenReason, LockOptions, LockRequest, LockStatus,
    ReadOptions, Token, UnlockOptions, UnlockRequest,
};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// Locks in memory behind a link that can be cut, with counters of its requests.
#[derive(Clone)]
struct Counted {
    locks: MemoryLocks,
    cut: Arc<AtomicBool>,
    kept_alive: Arc<AtomicUsize>,
    asked: Arc<AtomicUsize>,
}

impl LockService for Counted {
    async fn decide(
        &self,
        commands: Vec<Command>,
        call: CallOptions,
    ) -> Vec<Result<Decision, Error>> {
        if self.cut.load(Ordering::SeqCst) {
            return vec![Err(Error::unavailable("the link is cut")); commands.len()];
        }
        for command in &commands {
            if let Operation::KeepAlive(_) = &command.operation {
                self.kept_alive.fetch_add(1, Ordering::SeqCst);
            } else if let Operation::Lock(_) = &command.operation {
                self.asked.fetch_add(1, Ordering::SeqCst);
            }
        }
        self.locks.decide(commands, call).await
    }

    async fn read(&self, query: Query, call: CallOptions) -> Result<View, Error> {
        self.locks.read(query, call).await
    }
}

struct World {
    service: Counted,
    clock: ManualClock,
    holder: ManualClock,
}

impl World {
    fn new() -> Self {
        let clock = ManualClock::default();
        let locks = MemoryLocks::with_clock(Arc::new(clock.clone()));
        let (cut, kept_alive, asked) = (Arc::default(), Arc::default(), Arc::default());
        let service = Counted { locks, cut, kept_alive, asked };
        Self { service, clock, holder: ManualClock::default() }
    }

    fn clock_of_holder(&self) -> Arc<dyn Clock> {
        Arc::new(self.holder.clone())
    }

    async fn open(&self, signee: &str) -> Session<Counted> {
        let request = OpenSession::new(signee).ttl(3 * SECOND);
        Session::open(self.service.clone(), self.clock_of_holder(), request).await.unwrap()
    }

    async fn guard(&self, request: Acquire) -> Result<Guard<Counted>, Error> {
        Guard::acquire(self.service.clone(), self.clock_of_holder(), request).await
    }

    /// Acquires beside the test.
    fn begin(&self, request: Acquire) -> JoinHandle<Result<Guard<Counted>, Error>> {
        tokio::spawn(Guard::acquire(self.service.clone(), self.clock_of_holder(), request))
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

    /// The numbers of grants and of places of a lock.
    async fn count(&self, signature: &str) -> (usize, u64) {
        let read = self.service.locks.check(signature.into(), ReadOptions::default()).await;
        match read {
            Ok(found) => {
                let holders = found.record.holders.iter();
                (holders.filter(|holder| !holder.expired).count(), found.record.waiting)
            }
            Err(error) => {
                assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
                (0, 0)
            }
        }
    }

    async fn take(&self, signee: &str, level: i64, options: LockOptions) -> LockStatus {
        let (signature, signee) = ("a".to_owned(), signee.to_owned());
        let request = LockRequest { signature, signee, level: Some(level) };
        self.service.locks.lock(request, options).await.unwrap().status
    }
}

/// Acquires in a session beside the test.
fn begin_in(
    session: &Session<Counted>,
    request: Acquire,
) -> JoinHandle<Result<Guard<Counted>, Error>> {
    let session = session.clone();
    tokio::spawn(async move { session.acquire(request).await })
}

fn reason_of<T: std::fmt::Debug>(result: Result<T, Error>) -> ForbiddenReason {
    match result.map(|granted| format!("{granted:?}")) {
        Err(Error::Forbidden(Forbidden { reason, .. })) => reason,
        Ok(granted) => panic!("no refusal: {granted}"),
        Err(error) => panic!("no refusal: {error:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_hundred_locks_are_kept_by_one_keep_alive() {
    let world = World::new();
    let session = world.open("me").await;
    let mut guards = Vec::new();
    for number in 0..100 {
        guards.push(session.acquire(Acquire::new(format!("{number}"), "")).await.unwrap());
    }
    world.pass(20 * SECOND).await;
    let count = world.service.kept_alive.load(Ordering::SeqCst);
    assert!((19..=23).contains(&count), "{count} keep-alives in 20 seconds");
    assert_eq!(world.service.asked.load(Ordering::SeqCst), 100, "no renewals");
    assert!(guards.iter().all(|guard| guard.state() == GuardState::Safe));
    assert_eq!(world.count("99").await, (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_cannot_be_kept_is_believed_lost_before_it_ends() {
    let world = World::new();
    let session = world.open("me").await;
    let guard = session.acquire(Acquire::new("a", "")).await.unwrap();
    let (mut states, lost) = (guard.states(), tokio::spawn(guard.lost()));
    world.service.cut.store(true, Ordering::SeqCst);
    world.pass(1970 * MS).await;
    assert_eq!(guard.state(), GuardState::Safe);
    world.pass(20 * MS).await;
    assert_eq!(*states.borrow_and_update(), GuardState::Danger);
    world.pass(970 * MS).await;
    assert_eq!(session.state(), GuardState::Danger);
    world.pass(10 * MS).await;
    assert_eq!(session.state(), GuardState::Lost(LostReason::Unreachable));
    assert_eq!(*states.borrow_and_update(), GuardState::Lost(LostReason::Unreachable));
    assert_eq!(lost.await.unwrap(), LostReason::Unreachable);
    assert_eq!(world.count("a").await, (1, 0), "the holder stops before another can have it");
    world.service.cut.store(false, Ordering::SeqCst);
    world.pass(SECOND).await;
    assert_eq!(guard.state(), GuardState::Lost(LostReason::Unreachable), "for good");
}

#[tokio::test(start_paused = true)]
async fn a_short_cut_is_survived_and_an_ended_session_is_told_apart() {
    let world = World::new();
    let session = world.open("me").await;
    let guard = session.acquire(Acquire::new("a", "")).await.unwrap();
    world.service.cut.store(true, Ordering::SeqCst);
    world.pass(2 * SECOND).await;
    world.service.cut.store(false, Ordering::SeqCst);
    world.pass(SECOND / 2).await;
    assert_eq!(guard.state(), GuardState::Safe);
    // The cluster's clock alone goes on.
    world.clock.advance(10 * SECOND);
    world.pass(2 * SECOND).await;
    assert_eq!(guard.state(), GuardState::Lost(LostReason::SessionEnded));
    assert_eq!(
        reason_of(session.acquire(Acquire::new("b", "")).await),
        ForbiddenReason::SessionLost
    );
}

#[tokio::test(start_paused = true)]
async fn the_inbox_wakes_the_waiter_whose_turn_it_is() {
    let world = World::new();
    let (holder, session) = (world.open("holder").await, world.open("me").await);
    let a = holder.acquire(Acquire::new("a", "")).await.unwrap();
    let b = holder.acquire(Acquire::new("b", "")).await.unwrap();
    let first = begin_in(&session, Acquire::new("a", "").wait(60 * SECOND));
    let second = begin_in(&session, Acquire::new("b", "").wait(60 * SECOND));
    world.pass(5 * SECOND).await;
    assert_eq!((world.count("a").await, world.count("b").await), ((1, 1), (1, 1)));
    b.release().await.unwrap();
    world.pass(1100 * MS).await;
    assert!(!first.is_finished(), "its lock is held");
    let second = second.await.unwrap().unwrap();
    assert_eq!((second.signature(), second.state()), ("b", GuardState::Safe));
    a.release().await.unwrap();
    world.pass(1100 * MS).await;
    let first = first.await.unwrap().unwrap();
    assert!(first.token() > second.token());
    let refused = session.acquire(Acquire::new("a", "")).await;
    assert!(matches!(refused, Err(Error::BadRequest { .. })), "one owner is one holder");
    first.release().await.unwrap();
    assert!(session.acquire(Acquire::new("a", "")).await.is_ok(), "old news are not of this one");
}

#[tokio::test(start_paused = true)]
async fn a_wait_in_a_session_ends_with_a_refusal_and_leaves_no_place() {
    let world = World::new();
    let (holder, session) = (world.open("holder").await, world.open("me").await);
    let _held = holder.acquire(Acquire::new("a", "")).await.unwrap();
    assert_eq!(reason_of(session.acquire(Acquire::new("a", "")).await), ForbiddenReason::Held);
    let waits = begin_in(&session, Acquire::new("a", "").wait(3 * SECOND));
    world.pass(5 * SECOND).await;
    assert_eq!(reason_of(waits.await.unwrap()), ForbiddenReason::Timeout);
    let waits = begin_in(&session, Acquire::new("a", "").wait(60 * SECOND));
    world.pass(SECOND).await;
    assert_eq!(world.count("a").await, (1, 1));
    waits.abort();
    world.pass(SECOND / 10).await;
    assert_eq!(world.count("a").await, (1, 0), "a dropped future leaves");
}

#[tokio::test(start_paused = true)]
async fn a_guard_in_a_session_is_told_how_it_was_lost() {
    let lost_by = async |level: i64, options: LockOptions| {
        let world = World::new();
        let session = world.open("me").await;
        let instance = session.id().to_string();
        let guard = session.acquire(Acquire::new("a", "")).await.unwrap();
        let options = match options.duration {
            Some(_) => LockOptions { instance: Some(instance), ..options },
            None => options,
        };
        let signee = if options.instance.is_some() { "me" } else { "other" };
        let taken = world.take(signee, level, options).await;
        assert!(!matches!(taken, LockStatus::Failed(_)), "{taken:?}");
        world.pass(2 * SECOND).await;
        assert_eq!(session.state(), GuardState::Safe);
        let GuardState::Lost(reason) = guard.state() else { panic!("{guard:?}") };
        drop(guard);
        world.pass(SECOND / 10).await;
        assert_eq!(world.count("a").await, (1, 0), "nothing of another's is released");
        reason
    };
    let options = LockOptions::default;
    assert_eq!(lost_by(1, options()).await, LostReason::Preempted);
    let forced = LockOptions { force: true, ..options() };
    assert_eq!(lost_by(0, forced).await, LostReason::Forced);
    let moved = LockOptions { duration: Some(60 * SECOND), ..options() };
    assert_eq!(lost_by(0, moved).await, LostReason::Moved);
}

#[tokio::test(start_paused = true)]
async fn an_operators_release_is_told_and_closing_loses_guards() {
    let world = World::new();
    let session = world.open("me").await;
    let guard = session.acquire(Acquire::new("a", "")).await.unwrap();
    let other = session.acquire(Acquire::new("b", "")).await.unwrap();
    let options =
        UnlockOptions { force: true, token: Some(guard.token()), ..UnlockOptions::default() };
    let request = UnlockRequest { signature: "a".into(), signee: "operator".into() };
    assert!(world.service.locks.unlock(request, options).await.unwrap().ok());
    world.pass(2 * SECOND).await;
    assert_eq!(guard.state(), GuardState::Lost(LostReason::Released));
    assert_eq!(other.state(), GuardState::Safe);
    let lost = tokio::spawn(other.lost());
    assert_eq!(session.close().await.unwrap(), CloseStatus::Ok);
    assert_eq!(lost.await.unwrap(), LostReason::SessionEnded);
    assert_eq!(world.count("b").await, (0, 0));
}

#[tokio::test(start_paused = true)]
async fn items_that_are_gone_are_found_in_the_list_of_locks() {
    let world = World::new();
    let session = world.open("me").await;
    let kept = session.acquire(Acquire::new("kept", "")).await.unwrap();
    let first = session.acquire(Acquire::new("a", "")).await.unwrap();
    world.take("thief", 0, LockOptions { force: true, ..LockOptions::default() }).await;
    // The first item is pushed out before the inbox is read.
    let me = session.id();
    for number in 0..10_001 {
        let request = |signee: &str| LockRequest {
            signature: format!("{number}"),
            signee: signee.to_owned(),
            level: None,
        };
        let mine = LockOptions { session: Some(me), ..LockOptions::default() };
        world.service.locks.lock(request(""), mine).await.unwrap();
        let forced = LockOptions { force: true, ..LockOptions::default() };
        world.service.locks.lock(request("thief"), forced).await.unwrap();
    }
    world.pass(2 * SECOND).await;
    assert_eq!(first.state(), GuardState::Lost(LostReason::Lost));
    assert_eq!(kept.state(), GuardState::Safe);
}

#[tokio::test(start_paused = true)]
async fn a_request_outside_of_a_session_waits_past_a_minute_and_is_then_safe() {
    let world = World::new();
    let held = world.guard(Acquire::new("a", "holder").duration(3 * SECOND)).await.unwrap();
    let request = Acquire::new("a", "me").duration(3 * SECOND);
    let waits = world.begin(request.clone().wait(100 * SECOND));
    let later = world.begin(Acquire::new("a", "later").wait(200 * SECOND));
    world.pass(80 * SECOND).await;
    assert_eq!(world.count("a").await, (1, 2));
    held.release().await.unwrap();
    world.pass(SECOND / 5).await;
    let guard = waits.await.unwrap().unwrap();
    assert_eq!(guard.state(), GuardState::Safe);
    world.pass(10 * SECOND).await;
    assert_eq!(guard.state(), GuardState::Safe, "it is renewed");
    assert!(!later.is_finished(), "nobody overtakes");
    later.abort();
    world.pass(SECOND / 10).await;
    assert_eq!(world.count("a").await, (1, 0), "a dropped future leaves");
    let again = world.begin(Acquire::new("a", "other").wait(40 * SECOND));
    world.pass(41 * SECOND).await;
    assert_eq!(reason_of(again.await.unwrap()), ForbiddenReason::Timeout);
}

#[tokio::test(start_paused = true)]
async fn permits_have_distinct_slots_and_wait_for_a_free_one() {
    for in_session in [false, true] {
        let world = World::new();
        let session = world.open("me").await;
        let semaphore = if in_session {
            Semaphore::in_session(&session, Acquire::new("gpus", ""), 3)
        } else {
            let request = Acquire::new("gpus", "me").duration(3 * SECOND);
            Semaphore::new(world.service.clone(), world.clock_of_holder(), request, 3)
        };
        let mut permits: Vec<Permit<_>> = Vec::new();
        for slot in 0..3 {
            let permit = semaphore.acquire().await.unwrap();
            assert_eq!(permit.slot(), slot);
            permits.push(permit);
        }
        assert_eq!(reason_of(semaphore.try_acquire().await), ForbiddenReason::Held);
        let waits = {
            let semaphore = semaphore.clone();
            tokio::spawn(async move { semaphore.acquire().await })
        };
        world.pass(5 * SECOND).await;
        assert!(permits.iter().all(|permit| permit.state() == GuardState::Safe));
        permits.remove(1).release().await.unwrap();
        world.pass(1100 * MS).await;
        let last = waits.await.unwrap().unwrap();
        assert_eq!(last.slot(), 1);
        drop((last, permits, semaphore, session));
        world.pass(SECOND / 10).await;
        assert_eq!(world.count("gpus").await, (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_writer_waits_for_readers_and_no_reader_overtakes_it() {
    for in_session in [false, true] {
        let world = World::new();
        let session = world.open("me").await;
        let lock = if in_session {
            RwLock::in_session(&session, Acquire::new("a", ""))
        } else {
            let request = Acquire::new("a", "me").duration(3 * SECOND);
            RwLock::new(world.service.clone(), world.clock_of_holder(), request)
        };
        let readers = [lock.read().await.unwrap(), lock.try_read().await.unwrap()];
        let other = lock.clone();
        let writer = tokio::spawn(async move { other.write().await });
        world.pass(SECOND).await;
        assert_eq!(reason_of(lock.try_read().await), ForbiddenReason::Queued);
        let other = lock.clone();
        let reader = tokio::spawn(async move { other.read().await });
        world.pass(SECOND).await;
        let mut token = Token::default();
        for guard in readers {
            assert!(!writer.is_finished());
            token = token.max(guard.token());
            guard.release().await.unwrap();
        }
        world.pass(1100 * MS).await;
        let writer = writer.await.unwrap().unwrap();
        assert!(writer.token() > token && !reader.is_finished());
        writer.release().await.unwrap();
        world.pass(1100 * MS).await;
        assert!(reader.await.unwrap().is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn guarded_work_is_dropped_when_the_lock_is_lost() {
    struct Dropped(Arc<AtomicBool>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let world = World::new();
    let guard = world.guard(Acquire::new("a", "me").duration(3 * SECOND)).await.unwrap();
    assert_eq!(guard.guarded(async { 7 }).await, Ok(7));
    let dropped = Arc::<AtomicBool>::default();
    let work = {
        let dropped = Dropped(Arc::clone(&dropped));
        tokio::spawn(async move {
            let result = guard.guarded(async move {
                let _dropped = dropped;
                std::future::pending::<()>().await;
            });
            (result.await, guard)
        })
    };
    world.service.cut.store(true, Ordering::SeqCst);
    world.pass(2960 * MS).await;
    assert!(!dropped.load(Ordering::SeqCst));
    world.pass(20 * MS).await;
    assert!(dropped.load(Ordering::SeqCst), "before another can have the lock");
    assert_eq!(world.count("a").await, (1, 0));
    assert_eq!(work.await.unwrap().0, Err(LostReason::Unreachable));

    // A program that was frozen does not go on: its own clock is asked before each step.
    let world = World::new();
    let guard = world.guard(Acquire::new("a", "me").duration(3 * SECOND)).await.unwrap();
    world.holder.advance(60 * SECOND);
    let result = guard.guarded(async { panic!("it has no lock") }).await;
    assert_eq!(result, Err::<(), _>(LostReason::Unreachable));
}

#[tokio::test(start_paused = true)]
async fn dropping_everything_leaves_no_lock_behind() {
    let world = World::new();
    let session = world.open("me").await;
    let held = session.acquire(Acquire::new("a", "")).await.unwrap();
    let other = world.open("other").await;
    let waits = begin_in(&other, Acquire::new("a", "").wait(60 * SECOND));
    world.pass(SECOND / 10).await;
    drop(session);
    world.pass(5 * SECOND).await;
    assert_eq!(held.state(), GuardState::Safe, "a guard keeps its session open");
    waits.abort();
    drop((held, other));
    world.pass(SECOND / 10).await;
    assert_eq!(world.count("a").await, (0, 0));
    let counts = world.service.locks.counts();
    assert_eq!((counts.records, counts.sessions), (0, 0));
    let kept = world.service.kept_alive.load(Ordering::SeqCst);
    world.pass(5 * SECOND).await;
    assert_eq!(world.service.kept_alive.load(Ordering::SeqCst), kept, "no task goes on");
}
