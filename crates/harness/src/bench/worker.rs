//! One client of a run: it takes the next turn, sends a request, counts the answer, and goes on.
//!
//! After a failure it goes on with a signature that it has not used: the state of the old one is
//! not known. After a failure that is no refusal it also waits a little, and connects anew
//! on the next node as a client's own retry would.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::counts::{Operation, Sample, Shard, Window};
use super::pace::counts_from;
use super::plan::{Plan, Workload};
use super::target::{Failure, Owner, Target};
use keyward_core::clock::{Clock, SystemClock};

/// The pause after a failure: enough that a cluster without a leader is not kept busy with
/// refusals.
const PAUSE: Duration = Duration::from_millis(10);

/// The number of retries for a lock that must be held before the measurement.
const PREPARE_ATTEMPTS: usize = 50;

/// The number of operations in a cycle of the mixed workload, besides taking and releasing.
const MIXED_RENEWALS_AND_CHECKS: u64 = 8;

/// State that all clients of a run share.
pub(super) struct Shared {
    pub(super) plan: Plan,
    /// The next operation's number, or the next lock to hold.
    pub(super) tickets: AtomicU64,
    /// The client that last had the contended lock.
    last_owner: AtomicUsize,
    /// Set when the run is to end early.
    pub(super) stop: AtomicBool,
}

impl Shared {
    pub(super) fn new(plan: Plan) -> Self {
        Self {
            plan,
            tickets: AtomicU64::new(0),
            last_owner: AtomicUsize::new(usize::MAX),
            stop: AtomicBool::new(false),
        }
    }
}

/// When a run begins, and what of it is measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    pub(super) start: Duration,
    pub(super) window: Window,
}

/// One client.
pub(super) struct Worker<T: Target> {
    target: Arc<T>,
    shared: Arc<Shared>,
    counter: Arc<Shard>,
    client: usize,
    owner: T::Owner,
    /// The number of failures, which determines the next node.
    failures: usize,
    signature: String,
    held: Option<<T::Owner as Owner>::Held>,
    turns: u64,
}

impl<T: Target> Worker<T> {
    pub(super) async fn open(
        target: Arc<T>,
        shared: Arc<Shared>,
        counter: Arc<Shard>,
        client: usize,
    ) -> Result<Self, Failure> {
        let owner = target.owner(client).await?;
        let mut worker = Self {
            target,
            shared,
            counter,
            client,
            owner,
            failures: 0,
            signature: String::new(),
            held: None,
            turns: 0,
        };
        worker.choose_signature();
        worker.prepare().await?;
        Ok(worker)
    }

    /// Takes the lock that is renewed or read, before anything is measured.
    async fn prepare(&mut self) -> Result<(), Failure> {
        if !matches!(self.shared.plan.workload, Workload::Renew | Workload::Check) {
            return Ok(());
        }
        let mut attempts = 0;
        loop {
            let duration = self.shared.plan.lock_duration;
            match self.owner.acquire(&self.signature, duration).await {
                Ok(held) => {
                    self.held = Some(held);
                    return Ok(());
                }
                Err(failure) if attempts == PREPARE_ATTEMPTS => return Err(failure),
                Err(_) => {
                    attempts += 1;
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Works until the window closes, and releases the lock it holds, unless the workload keeps its
    /// locks. Returns the owner: locks that are kept may depend on it.
    pub(super) async fn run(mut self, schedule: Schedule) -> T::Owner {
        while let Some(from) = self.turn(&schedule).await {
            self.step(from, schedule.window).await;
            self.turns += 1;
        }
        if let Some(held) = self.held.take() {
            // If this fails, the lock stays until it expires and hinders no one: its signature is
            // this run's alone.
            let _ = self.owner.release(&self.signature, held).await;
        }
        self.owner
    }

    /// Waits until the next operation is due; returns the time from which it is timed.
    async fn turn(&mut self, schedule: &Schedule) -> Option<Duration> {
        // A service in memory answers without a pause, and would starve the other clients.
        tokio::task::consume_budget().await;
        let free = SystemClock.raw();
        if self.shared.stop.load(Ordering::Relaxed) || free >= schedule.window.close {
            return None;
        }
        let plan = &self.shared.plan;
        if let Workload::Hold { locks } = plan.workload {
            let number = self.shared.tickets.fetch_add(1, Ordering::Relaxed);
            self.signature = format!("{}/{number}", plan.prefix);
            return (number < locks).then_some(free);
        }
        if plan.pace.due(0).is_none() {
            return Some(free);
        }
        let number = self.shared.tickets.fetch_add(1, Ordering::Relaxed);
        let due = schedule.start + plan.pace.due(number)?;
        if due >= schedule.window.close {
            return None;
        }
        let mut awake = free;
        while awake < due {
            tokio::time::sleep(due.saturating_sub(awake)).await;
            awake = SystemClock.raw();
        }
        Some(counts_from(due, free, awake))
    }

    async fn step(&mut self, from: Duration, window: Window) {
        match self.shared.plan.workload {
            Workload::Pairs => {
                self.acquire(from, window).await;
                self.release(SystemClock.raw(), window).await;
            }
            Workload::Contended | Workload::Queue => self.contend(from, window).await,
            Workload::Renew if self.held.is_none() => self.acquire(from, window).await,
            Workload::Renew => self.renew(from, window).await,
            Workload::Check => self.check(from, window).await,
            Workload::Hold { .. } => {
                self.acquire(from, window).await;
                self.held = None;
            }
            Workload::Mixed => self.mixed(from, window).await,
        }
    }

    async fn mixed(&mut self, from: Duration, window: Window) {
        if self.held.is_none() {
            // Whatever the turn was, without a lock the cycle begins again.
            self.turns = 0;
            return self.acquire(from, window).await;
        }
        match self.turns % (MIXED_RENEWALS_AND_CHECKS + 2) {
            turn if turn > MIXED_RENEWALS_AND_CHECKS => self.release(from, window).await,
            turn if turn % 2 == 1 => self.renew(from, window).await,
            _ => self.check(from, window).await,
        }
    }

    async fn acquire(&mut self, from: Duration, window: Window) {
        let duration = self.shared.plan.lock_duration;
        let answer = self.owner.acquire(&self.signature, duration).await;
        let failure = answer.map(|held| self.held = Some(held)).err();
        self.count(Operation::Acquire, from, window, failure).await;
    }

    async fn renew(&mut self, from: Duration, window: Window) {
        let Some(held) = &mut self.held else { return };
        let duration = self.shared.plan.lock_duration;
        let failure = self.owner.renew(&self.signature, held, duration).await.err();
        self.count(Operation::Renew, from, window, failure).await;
    }

    async fn check(&mut self, from: Duration, window: Window) {
        let failure = self.owner.check(&self.signature).await.err();
        self.count(Operation::Check, from, window, failure).await;
    }

    async fn release(&mut self, from: Duration, window: Window) {
        let Some(held) = self.held.take() else { return };
        let failure = self.owner.release(&self.signature, held).await.err();
        self.count(Operation::Release, from, window, failure).await;
    }

    /// Retries until the lock is acquired, or waits for its turn. A refusal is counted and is no failure here; the time is
    /// from the first attempt to the success.
    async fn contend(&mut self, from: Duration, window: Window) {
        let signature = format!("{}/one", self.shared.plan.prefix);
        loop {
            let duration = self.shared.plan.lock_duration;
            let answer = if self.shared.plan.workload == Workload::Queue {
                self.owner.acquire_in_turn(&signature, duration).await
            } else {
                self.owner.acquire(&signature, duration).await
            };
            let ended = SystemClock.raw();
            let sample = |failure| Sample { operation: Operation::Acquire, from, ended, failure };
            match answer {
                Ok(held) => {
                    let before = self.shared.last_owner.swap(self.client, Ordering::Relaxed);
                    let handover = before != self.client && before != usize::MAX;
                    self.counter.record(window, &sample(None), handover);
                    let from = SystemClock.raw();
                    let failure = self.owner.release(&signature, held).await.err();
                    return self.count(Operation::Release, from, window, failure).await;
                }
                Err(Failure::Refused) => {
                    self.counter.record(window, &sample(Some(Failure::Refused)), false);
                    if self.shared.stop.load(Ordering::Relaxed) || ended >= window.close {
                        return;
                    }
                    let retry_after = self.shared.plan.retry_after;
                    if !retry_after.is_zero() {
                        let part = rand::random_range(0.5..=1.0);
                        tokio::time::sleep(retry_after.mul_f64(part)).await;
                    }
                }
                Err(failure) => {
                    return self.count(Operation::Acquire, from, window, Some(failure)).await;
                }
            }
        }
    }

    async fn count(
        &mut self,
        operation: Operation,
        from: Duration,
        window: Window,
        failure: Option<Failure>,
    ) {
        let ended = SystemClock.raw();
        let failed = failure.is_some();
        let broken = matches!(failure, Some(Failure::Unavailable(_) | Failure::Unknown(_)));
        self.counter.record(window, &Sample { operation, from, ended, failure }, false);
        if failed {
            self.held = None;
            self.failures += 1;
            self.choose_signature();
        }
        if broken {
            tokio::time::sleep(PAUSE).await;
            // If no node can be reached, the next request on the old connection reports it.
            if let Ok(owner) = self.target.owner(self.client + self.failures).await {
                self.owner = owner;
            }
        }
    }

    fn choose_signature(&mut self) {
        self.signature = format!("{}/{}-{}", self.shared.plan.prefix, self.client, self.failures);
    }
}
