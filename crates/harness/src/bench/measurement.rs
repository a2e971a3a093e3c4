//! The numbers of a measurement: the contents of the JSON report, and the source of the other
//! reports.
//!
//! Times are in microseconds, processor time in seconds, memory in bytes.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::counts::{Counts, Operation, Tally};
use super::pace::Pace;
use super::plan::Workload;
use super::run::NodeUsage;

/// Bars of a distribution for each tenfold of time.
const BARS_PER_DECADE: i32 = 20;

/// A run, measured.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Measurement {
    /// The workload of each client.
    pub workload: Workload,
    /// The number of clients.
    pub clients: usize,
    /// The number of threads that the clients shared.
    pub threads: usize,
    /// When operations were due.
    pub pace: Pace,
    /// How long the load ran before it was measured.
    pub warmup_seconds: f64,
    /// How long it was measured.
    pub measured_seconds: f64,
    /// Whether it was ended early.
    pub interrupted: bool,
    /// Each kind of operation that occurred.
    pub operations: Vec<OperationFigures>,
    /// Hand-overs of a lock from one client to another, per second.
    pub handovers_per_second: f64,
    /// Open loop: operations that were due while no client was free to begin them. They are among
    /// the times of their operation with the time that they had waited by the end, a lower bound.
    pub never_begun: u64,
    /// Processor time of the load generator itself.
    pub generator_cpu_seconds: f64,
    /// The nodes that run on this machine.
    pub nodes: Vec<NodeFigures>,
    /// The curves over time, warm-up included.
    pub intervals: Vec<Interval>,
}

/// How the operations of one kind went.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct OperationFigures {
    /// The kind of operation.
    pub operation: Operation,
    /// Successes answered within the measured time, per second.
    pub per_second: f64,
    /// Successes in flight at any moment of the measured time: the times are theirs.
    pub count: u64,
    /// The mean time, in microseconds.
    pub mean_us: f64,
    /// The median, in microseconds.
    pub p50_us: u64,
    /// The 90th percentile.
    pub p90_us: u64,
    /// The 99th percentile.
    pub p99_us: u64,
    /// The 99.9th percentile.
    pub p999_us: u64,
    /// The slowest.
    pub max_us: u64,
    /// Refusals: another held the lock, or it was lost.
    pub refused: u64,
    /// Failures after which the operation was certainly not done.
    pub not_done: u64,
    /// Failures after which the operation may have been done.
    pub unknown: u64,
    /// The longest wait that ended with such a failure, in microseconds; no part of the times.
    pub slowest_failure_us: u64,
    /// The text of the first such failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_failure: Option<String>,
    /// How the times are distributed.
    pub distribution: Distribution,
}

/// A histogram of times whose bars widen with the time.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Distribution {
    /// The upper end of each bar in microseconds, rising, and how many times are in it; empty bars
    /// are left out.
    pub bars: Vec<(u64, u64)>,
}

/// One point of the curves over time.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Interval {
    /// When it began, in seconds after the start of the load.
    pub at_seconds: f64,
    /// How long it was.
    pub seconds: f64,
    /// Whether it is part of the warm-up.
    pub warmup: bool,
    /// Each kind of operation that was answered in it.
    pub operations: Vec<IntervalFigures>,
}

/// How the operations of one kind went in an interval.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct IntervalFigures {
    /// The kind of operation.
    pub operation: Operation,
    /// Successes per second.
    pub per_second: f64,
    /// The median, in microseconds, as in [`OperationFigures`].
    pub p50_us: u64,
    /// The 99th percentile.
    pub p99_us: u64,
    /// The slowest.
    pub max_us: u64,
    /// Refusals.
    pub refused: u64,
    /// Failures of either kind.
    pub failed: u64,
}

/// The resources that one node used while it was measured.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NodeFigures {
    /// The node.
    pub name: String,
    /// Whether it led at the end.
    pub leads: bool,
    /// Its process.
    pub pid: u32,
    /// Processor time.
    pub cpu_seconds: f64,
    /// Resident memory before.
    pub resident_before_bytes: u64,
    /// Resident memory after.
    pub resident_after_bytes: u64,
    /// Bytes that it caused to be written to storage.
    pub written_bytes: u64,
}

impl Measurement {
    /// The rate of this workload, per second: of pairs, hand-overs, or its operations.
    pub fn per_second(&self) -> f64 {
        let of = |operation| self.of(operation).map_or(0.0, |figures| figures.per_second);
        match self.workload {
            Workload::Pairs => of(Operation::Release),
            Workload::Contended | Workload::Queue => self.handovers_per_second,
            Workload::Renew => of(Operation::Renew),
            Workload::Check => of(Operation::Check),
            Workload::Hold { .. } => of(Operation::Acquire),
            Workload::Mixed => self.operations.iter().map(|figures| figures.per_second).sum(),
        }
    }

    /// The name of what that rate counts.
    pub fn unit(&self) -> &'static str {
        match self.workload {
            Workload::Pairs => "pairs",
            Workload::Contended | Workload::Queue => "hand-offs",
            Workload::Renew => "renewals",
            Workload::Check => "checks",
            Workload::Hold { .. } => "locks taken",
            Workload::Mixed => "operations",
        }
    }

    /// How one kind of operation went, if it occurred.
    pub fn of(&self, operation: Operation) -> Option<&OperationFigures> {
        self.operations.iter().find(|figures| figures.operation == operation)
    }

    /// Processor time of all nodes on this machine for a thousand of [`Measurement::unit`], in
    /// seconds; `None` if there are no such nodes, or nothing was done.
    pub fn server_cpu_per_1000(&self) -> Option<f64> {
        let done = self.per_second() * self.measured_seconds;
        let cpu: f64 = self.nodes.iter().map(|node| node.cpu_seconds).sum();
        (!self.nodes.is_empty() && done > 0.0).then(|| cpu / done * 1000.0)
    }

    /// The number of failures that were no refusals.
    pub fn failures(&self) -> u64 {
        self.operations.iter().map(|figures| figures.not_done + figures.unknown).sum()
    }
}

impl OperationFigures {
    pub(super) fn all(counts: &Counts, measured: Duration) -> Vec<Self> {
        Operation::ALL
            .into_iter()
            .map(|operation| (operation, counts.of(operation)))
            .filter(|(_, tally)| !tally.is_empty())
            .map(|(operation, tally)| Self::new(operation, tally, measured))
            .collect()
    }

    fn new(operation: Operation, tally: &Tally, measured: Duration) -> Self {
        let times = &tally.times;
        Self {
            operation,
            per_second: per_second(tally.answered, measured),
            count: times.len(),
            mean_us: times.mean(),
            p50_us: times.value_at_quantile(0.5),
            p90_us: times.value_at_quantile(0.9),
            p99_us: times.value_at_quantile(0.99),
            p999_us: times.value_at_quantile(0.999),
            max_us: times.max(),
            refused: tally.refused,
            not_done: tally.not_done,
            unknown: tally.unknown,
            slowest_failure_us: u64::try_from(tally.slowest_failure.as_micros())
                .unwrap_or(u64::MAX),
            first_failure: tally.first_failure.clone(),
            distribution: Distribution::of(times),
        }
    }
}

impl Distribution {
    /// The curve through the bars: the share of all, from nothing to 1, that took at most a number
    /// of microseconds. It rises evenly within a bar, and jumps over times that did not occur.
    #[expect(clippy::cast_precision_loss, reason = "a curve to look at")]
    pub fn curve(&self) -> Vec<(f64, f64)> {
        let all: u64 = self.bars.iter().map(|(_, count)| count).sum();
        let share = |count: u64| count as f64 / all as f64;
        let width = 10f64.powf(1.0 / f64::from(BARS_PER_DECADE));
        let mut curve = Vec::with_capacity(2 * self.bars.len());
        let (mut below, mut edge) = (0, 0.0);
        for &(upper, count) in &self.bars {
            let upper = upper as f64;
            curve.push((share(below), f64::max(edge, upper / width)));
            below += count;
            edge = upper;
            curve.push((share(below), upper));
        }
        curve
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an edge in µs")]
    fn of(times: &Histogram<u64>) -> Self {
        let mut bars: Vec<(u64, u64)> = Vec::new();
        let mut bar = 0;
        let mut edge = 1;
        for recorded in times.iter_recorded() {
            while edge < recorded.value_iterated_to() {
                bar += 1;
                edge = 10f64.powf(f64::from(bar) / f64::from(BARS_PER_DECADE)).ceil() as u64;
            }
            match bars.last_mut() {
                Some((last, count)) if *last == edge => {
                    *count += recorded.count_since_last_iteration();
                }
                _ => bars.push((edge, recorded.count_since_last_iteration())),
            }
        }
        Self { bars }
    }
}

impl Interval {
    /// How one kind of operation went in it, if any was answered.
    pub fn of(&self, operation: Operation) -> Option<&IntervalFigures> {
        self.operations.iter().find(|figures| figures.operation == operation)
    }

    pub(super) fn new(recent: &Counts, from: Duration, length: Duration, warmup: bool) -> Self {
        let operations = Operation::ALL
            .into_iter()
            .map(|operation| (operation, recent.of(operation)))
            .filter(|(_, tally)| !tally.is_empty())
            .map(|(operation, tally)| IntervalFigures {
                operation,
                per_second: per_second(tally.answered, length),
                p50_us: tally.times.value_at_quantile(0.5),
                p99_us: tally.times.value_at_quantile(0.99),
                max_us: tally.times.max(),
                refused: tally.refused,
                failed: tally.not_done + tally.unknown,
            })
            .collect();
        Self { at_seconds: from.as_secs_f64(), seconds: length.as_secs_f64(), warmup, operations }
    }
}

impl NodeFigures {
    /// The resources that each process used in between, if it was there before and after.
    pub(super) fn between(before: &[NodeUsage], after: &[NodeUsage]) -> Vec<Self> {
        let pairs = after.iter().filter_map(|node| {
            let earlier = before.iter().find(|earlier| earlier.pid == node.pid)?;
            Some((&earlier.usage, node))
        });
        pairs
            .map(|(earlier, node)| Self {
                name: node.name.clone(),
                leads: node.leads,
                pid: node.pid,
                cpu_seconds: node.usage.cpu.saturating_sub(earlier.cpu).as_secs_f64(),
                resident_before_bytes: earlier.resident_bytes,
                resident_after_bytes: node.usage.resident_bytes,
                written_bytes: node.usage.written_bytes.saturating_sub(earlier.written_bytes),
            })
            .collect()
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate to read")]
pub(super) fn per_second(count: u64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { count as f64 / time.as_secs_f64() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_rises_to_all_and_jumps_over_what_nothing_took() {
        let curve = Distribution { bars: vec![(100, 90), (113, 9), (1000, 1)] }.curve();
        let shares: Vec<f64> = curve.iter().map(|(share, _)| *share).collect();
        assert_eq!(shares, [0.0, 0.9, 0.9, 0.99, 0.99, 1.0]);
        let times: Vec<f64> = curve.iter().map(|(_, us)| us.round()).collect();
        assert_eq!(times, [89.0, 100.0, 101.0, 113.0, 891.0, 1000.0]);
        assert_eq!(Distribution::default().curve(), []);
    }
}
