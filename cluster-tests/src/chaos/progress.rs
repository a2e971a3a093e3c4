//! What a run has done so far: for the live view, for faults that wait for an acknowledgement, and
//! for the judgement that a run showed anything.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keyward::clock::{Clock, SystemClock};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

/// Shared by all clients of a run. Clones are the same.
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

/// Since when nobody has led, and how long that took before.
#[derive(Debug, Default)]
struct Failover {
    since: Option<Duration>,
    took: Vec<Duration>,
}

/// How requests ended.
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
    /// Holders that slept longer than their lock lasts.
    pub freezes: u64,
    /// Locks that were had because another's had expired.
    pub takeovers: u64,
}

/// How a request ended.
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
    /// A request has ended.
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

    /// A holder sleeps for longer than its lock lasts.
    pub fn froze(&self) {
        self.shared.freezes.fetch_add(1, Ordering::Relaxed);
    }

    /// A lock was had because another's had expired, at most this much later than it might have.
    pub fn took_over(&self, late: Duration) {
        self.shared.takeovers.fetch_add(1, Ordering::Relaxed);
        self.shared.lateness.lock().unwrap_or_else(PoisonError::into_inner).push(late);
    }

    /// The leader is killed now.
    pub fn leader_dies(&self) {
        self.failover().since = Some(SystemClock.raw());
    }

    /// A lock was had that was asked for at this time of the raw clock.
    pub fn acquired(&self, asked: Duration) {
        let mut failover = self.failover();
        if let Some(since) = failover.since
            && asked >= since
        {
            failover.since = None;
            failover.took.push(SystemClock.raw().saturating_sub(since));
        }
    }

    /// From the death of each leader to the first lock that was asked for and had after it, in
    /// rising order.
    pub fn failovers(&self) -> Vec<Duration> {
        let mut all = self.failover().took.clone();
        all.sort_unstable();
        all
    }

    fn failover(&self) -> MutexGuard<'_, Failover> {
        self.shared.failover.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was counted so far.
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

    /// How late each expiry was noticed, in rising order.
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
