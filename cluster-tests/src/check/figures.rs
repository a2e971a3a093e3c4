//! The counts and times of a run.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::history::{Action, Answer, Operation, Outcome, Refusal, Status};

/// Latencies are kept in buckets of a sixteenth of their power of two: within 6 %, in 8 KiB.
const SUBDIVISION: u32 = 4;

/// Counts and times of a run. Times are nanoseconds.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Figures {
    /// All requests.
    pub operations: u64,
    /// Requests answered with a success.
    pub successes: u64,
    /// Refusals that the contract allows.
    pub refused: u64,
    /// Requests that were certainly not done.
    pub unavailable: u64,
    /// Requests that may have been done.
    pub unknown: u64,
    /// Grants with a new token.
    pub grants: u64,
    /// Renewals that kept their token.
    pub renewals: u64,
    /// Grants that other owners took over before their time, by level or force.
    pub preemptions: u64,
    /// Different locks in requests.
    pub locks: u64,
    /// Different clients with requests.
    pub clients: u64,
    /// Updates of guarded registers.
    pub register_writes: u64,
    /// Writes that registers refused because their token was stale.
    pub stale_writes_refused: u64,
    /// Grants that were seen to have expired.
    pub expiries: u64,
    /// The 99th percentile of the time by which those were seen to outlive their duration.
    pub late_expiry_p99: u64,
    /// The maximum of that time.
    pub late_expiry_max: u64,
    /// Changes of leader.
    pub leader_changes: u64,
    /// Faults by name, and how many of them were installed.
    pub faults: BTreeMap<String, u64>,
    /// The time from each event named `healed` to the first fresh lock granted after it.
    pub alive_after: Vec<u64>,
    /// The median latency of successes.
    pub latency_p50: u64,
    /// The 99th percentile of it.
    pub latency_p99: u64,
    /// The maximum of it.
    pub latency_max: u64,
    /// The time at which the last operation ended.
    pub length: u64,
    #[serde(skip)]
    latencies: BTreeMap<u32, u64>,
    #[serde(skip)]
    seen_clients: std::collections::BTreeSet<smol_str::SmolStr>,
}

impl Figures {
    pub(super) fn count(&mut self, operation: &Operation) {
        self.operations += 1;
        if !self.seen_clients.contains(&operation.client) {
            self.seen_clients.insert(operation.client.clone());
        }
        let end = operation.returned.or(operation.gave_up).unwrap_or(operation.invoked);
        self.length = self.length.max(end);
        match &operation.outcome {
            Outcome::Ok(answer) => {
                self.successes += 1;
                self.success(operation, answer);
            }
            Outcome::Refused(refusal) => {
                self.refused += 1;
                let stale =
                    matches!((refusal, &operation.action), (Refusal::Stale, Action::Write(_)));
                self.stale_writes_refused += u64::from(stale);
            }
            Outcome::Unavailable => self.unavailable += 1,
            Outcome::Unknown => self.unknown += 1,
        }
    }

    fn success(&mut self, operation: &Operation, answer: &Answer) {
        let latency = end_of(operation) - operation.invoked;
        *self.latencies.entry(bucket(latency)).or_default() += 1;
        self.latency_max = self.latency_max.max(latency);
        match answer {
            Answer::Granted(granted) => {
                let renewed = granted.status == Status::Renewed;
                let transferred = matches!(&granted.status, Status::Transferred { reason, .. }
                    if *reason != keyward::types::TransferReason::Expired);
                self.renewals += u64::from(renewed);
                self.grants += u64::from(!renewed);
                self.preemptions += u64::from(transferred);
            }
            Answer::Written(_) => self.register_writes += 1,
            Answer::Released
            | Answer::NoLock
            | Answer::Left
            | Answer::Waiting(_)
            | Answer::Record(_)
            | Answer::Queue(_)
            | Answer::Value(_) => {}
        }
    }

    pub(super) fn finish(&mut self) {
        self.clients = self.seen_clients.len() as u64;
        self.latency_p50 = self.percentile(50).min(self.latency_max);
        self.latency_p99 = self.percentile(99).min(self.latency_max);
    }

    fn percentile(&self, percent: u64) -> u64 {
        let all: u64 = self.latencies.values().sum();
        let mut left = (all * percent).div_ceil(100);
        for (bucket, count) in &self.latencies {
            if left <= *count {
                return upper_end(*bucket);
            }
            left -= count;
        }
        0
    }
}

fn end_of(operation: &Operation) -> u64 {
    operation.returned.unwrap_or(operation.invoked)
}

/// The index of a value's bucket: its power of two, and the four bits below its highest.
fn bucket(value: u64) -> u32 {
    let power = value.max(1).ilog2();
    let below = if power >= SUBDIVISION { value >> (power - SUBDIVISION) } else { 0 };
    let below = u32::try_from(below & ((1 << SUBDIVISION) - 1)).expect("four bits");
    (power << SUBDIVISION) | below
}

fn upper_end(bucket: u32) -> u64 {
    let power = bucket >> SUBDIVISION;
    let below = u64::from(bucket & ((1 << SUBDIVISION) - 1));
    if power < SUBDIVISION {
        return (2 << power) - 1;
    }
    let first = (1 << SUBDIVISION) + below;
    ((first + 1) << (power - SUBDIVISION)) - 1
}

/// The value at a percentile of a list, which is sorted in place.
pub(super) fn percentile(values: &mut [u64], percent: usize) -> u64 {
    values.sort_unstable();
    let place = (values.len() * percent).div_ceil(100).saturating_sub(1);
    values.get(place).copied().unwrap_or(0)
}
