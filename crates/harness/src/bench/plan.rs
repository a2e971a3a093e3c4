//! The plan of a run.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::pace::Pace;

/// The operations that each client repeats.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Workload {
    /// Takes a lock of its own and releases it.
    Pairs,
    /// Takes the one lock that all clients want, retrying while it is refused, and releases it.
    Contended,
    /// Waits in the queue of the one lock that all clients want, and releases it.
    Queue,
    /// Renews a lock of its own.
    Renew,
    /// Reads a lock of its own, by the strongest read there is.
    Check,
    /// Takes locks until this many are held, and keeps them.
    Hold {
        /// The number of locks, held by all clients together.
        locks: u64,
    },
    /// Takes a lock of its own, renews it and reads it in turn four times each, and releases it.
    Mixed,
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pairs => "pairs",
            Self::Contended => "contended",
            Self::Queue => "queue",
            Self::Renew => "renew",
            Self::Check => "check",
            Self::Hold { .. } => "hold",
            Self::Mixed => "mixed",
        })
    }
}

/// A load, and how it is measured.
#[derive(Clone, PartialEq, Debug)]
pub struct Plan {
    /// The workload of each client.
    pub workload: Workload,
    /// The number of clients, each with one request in flight at a time.
    pub clients: usize,
    /// The number of threads that the clients share. Each has a runtime of its own, so that no
    /// client's answer has to be carried from one processor to another.
    pub threads: usize,
    /// When the next operation is due.
    pub pace: Pace,
    /// How long the load runs before it is measured.
    pub warmup: Duration,
    /// How long it is measured. [`Workload::Hold`] ends when all locks are taken.
    pub duration: Duration,
    /// The duration of each lock. It must outlast the run: there are no renewals besides.
    pub lock_duration: Duration,
    /// The longest backoff of a contender; the shortest is half of it.
    pub retry_after: Duration,
    /// The prefix of all signatures of this run: no other run may use the same one.
    pub prefix: String,
}

impl Plan {
    /// A plan for a closed loop of this many clients, measured for five seconds after one second of
    /// warm-up, on as many threads as the machine has processors.
    pub fn new(workload: Workload, clients: usize) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            workload,
            clients,
            threads: processors.min(clients),
            pace: Pace::Closed,
            warmup: Duration::from_secs(1),
            duration: Duration::from_secs(5),
            lock_duration: Duration::from_secs(60 * 60),
            retry_after: Duration::from_millis(1),
            prefix: format!("bench/{:08x}", rand::random::<u32>()),
        }
    }
}
