//! The counters of a run: for the live view, for faults that wait for an acknowledgement, and for
//! the judgement that a run showed anything.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keyward::clock::{Clock, SystemClock};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

/// Counters shared by all clients of a run. Clones share the same counters.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    ok: AtomicU64,
    refused: AtomicU64,
    unavailable: AtomicU64,
    unknown: AtomicU64,
    acknowledged: Notify,
    freezes: AtomicU64,
    takeovers: AtomicU64,
    lateness: Mutex<Vec<Duration>>,
    failover: Mutex<Failover>,
}

/// The time since the leader was killed, and the lengths of earlier failovers.
#[derive(Debug, Default)]
struct Failover {
    since: Option<Duration>,
    took: Vec<Duration>,
}

/// The numbers of requests by outcome, and of other events.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Done.
    pub ok: u64,
    /// Refused by the rules of locks.
    pub refused: u64,
    /// Certainly not done.
    pub unavailable: u64,
    /// Possibly done.
    pub unknown: u64,
    /// Holders that slept longer than their lock's duration.
    pub freezes: u64,
    /// Locks acquired after another owner's had expired.
    pub takeovers: u64,
}

/// The outcome of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// Done.
    Ok,
    /// Refused by the rules of locks.
    Refused,
    /// Certainly not done.
    Unavailable,
    /// Possibly done.
    Unknown,
}

impl Progress {
    /// Counts a request that has ended.
    pub fn note(&self, ended: Ended) {
        let counter = match ended {
            Ended::Ok => &self.shared.ok,
            Ended::Refused => &self.shared.refused,
            Ended::Unavailable => &self.shared.unavailable,
            Ended::Unknown => &self.shared.unknown,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        if ended == Ended::Ok {
            self.shared.acknowledged.notify_waiters();
        }
    }

    /// Counts a holder that sleeps for longer than its lock's duration.
    pub fn froze(&self) {
        self.shared.freezes.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a lock acquired after another owner's had expired, at most this much later than
    /// possible.
    pub fn took_over(&self, late: Duration) {
        self.shared.takeovers.fetch_add(1, Ordering::Relaxed);
        self.shared.lateness.lock().unwrap_or_else(PoisonError::into_inner).push(late);
    }

    /// Notes that the leader is killed now.
    pub fn leader_dies(&self) {
        self.failover().since = Some(SystemClock.raw());
    }

    /// Notes that a lock was acquired whose request was sent at this time of the raw clock.
    pub fn acquired(&self, asked: Duration) {
        let mut failover = self.failover();
        if let Some(since) = failover.since
            && asked >= since
        {
            failover.since = None;
            failover.took.push(SystemClock.raw().saturating_sub(since));
        }
    }

    /// The times from the death of each leader to the first lock that was requested and acquired
    /// after it, in ascending order.
    pub fn failovers(&self) -> Vec<Duration> {
        let mut all = self.failover().took.clone();
        all.sort_unstable();
        all
    }

    fn failover(&self) -> MutexGuard<'_, Failover> {
        self.shared.failover.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The counts so far.
    pub fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            ok: read(&self.shared.ok),
            refused: read(&self.shared.refused),
            unavailable: read(&self.shared.unavailable),
            unknown: read(&self.shared.unknown),
            freezes: read(&self.shared.freezes),
            takeovers: read(&self.shared.takeovers),
        }
    }

    /// The delay with which each expiry was noticed, in ascending order.
    pub fn lateness(&self) -> Vec<Duration> {
        let mut all = self.shared.lateness.lock().unwrap_or_else(PoisonError::into_inner).clone();
        all.sort_unstable();
        all
    }

    /// Waits until the next request is acknowledged; `false` if none is within the time.
    pub async fn acknowledgement(&self, within: Duration) -> bool {
        tokio::time::timeout(within, self.shared.acknowledged.notified()).await.is_ok()
    }
}
