//! The result of a run, for people and for programs.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::access::Intruders;
use super::boundary::Death;
use super::nemesis::Done;
use super::progress::Counts;
use crate::limits::Reached;
use crate::register::Tally;

/// The verdict on a run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It did what was planned, and every check passed.
    Pass,
    /// The harness could not do what was planned, or too little was achieved: nothing is shown.
    HarnessError,
    /// A promise was broken.
    Violation,
}

impl Verdict {
    /// The exit code of the program; 2 is a wrong command line.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Pass => 0,
            Self::Violation => 1,
            Self::HarnessError => 3,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "PASS",
            Self::Violation => "VIOLATION",
            Self::HarnessError => "HARNESS ERROR",
        })
    }
}

/// The result of a run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Summary {
    /// The service under test.
    pub service: String,
    /// The seed of every choice.
    pub seed: u64,
    /// The command that repeats the run.
    pub command: String,
    /// The length of the clients' work.
    pub took: Duration,
    /// The verdict.
    pub verdict: Verdict,
    /// Broken promises.
    pub violations: Vec<String>,
    /// The number of violations that the checks of the history found; the first are in
    /// `violations`.
    pub broken: u64,
    /// The reasons for which the run shows nothing.
    pub harness_errors: Vec<String>,
    /// The result of each check, in a line.
    pub checks: Vec<String>,
    /// The numbers of requests by outcome.
    pub counts: Counts,
    /// The numbers of the faults.
    pub done: Done,
    /// The deaths of nodes at calls to their disks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deaths: Vec<Death>,
    /// The counts of the registers.
    pub registers: Tally,
    /// The number of changes of the leader.
    pub leader_changes: u64,
    /// The delays between the expiry of a lock and its next grant.
    pub lateness: Quantiles,
    /// The times from the death of each leader to the first lock that was requested and acquired
    /// after it, in milliseconds and ascending.
    pub failovers_ms: Vec<f64>,
    /// Locks of a large table that were acknowledged, and read back at the end.
    #[serde(default)]
    pub filled: u64,
    /// The requests of intruders, on a cluster with access control.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intruders: Option<Intruders>,
    /// The limits of the service that clients reached.
    #[serde(default)]
    pub reached: Reached,
}

/// Some quantiles of a distribution, in milliseconds.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Quantiles {
    /// The number of values.
    pub count: usize,
    /// Half were at most this.
    pub p50_ms: f64,
    /// All but one in a hundred were at most this.
    pub p99_ms: f64,
    /// The largest.
    pub max_ms: f64,
}

impl Quantiles {
    /// The quantiles of values in ascending order.
    pub fn of(sorted: &[Duration]) -> Self {
        let at = |share: f64| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "a place among values that are counted in memory"
            )]
            let place = (share * sorted.len() as f64).ceil() as usize;
            let value = sorted.get(place.saturating_sub(1)).copied().unwrap_or_default();
            value.as_secs_f64() * 1000.0
        };
        Self { count: sorted.len(), p50_ms: at(0.5), p99_ms: at(0.99), max_ms: at(1.0) }
    }
}

impl Summary {
    /// Sets the verdict by the lists.
    pub(super) fn judge(&mut self) {
        self.verdict = if !self.violations.is_empty() {
            Verdict::Violation
        } else if !self.harness_errors.is_empty() {
            Verdict::HarnessError
        } else {
            Verdict::Pass
        };
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { counts, done, registers, .. } = self;
        writeln!(f, "{} on {}, seed {}", self.verdict, self.service, self.seed)?;
        writeln!(
            f,
            "  requests   {} done, {} refused, {} unavailable, {} unknown in {:.1} s",
            counts.ok,
            counts.refused,
            counts.unavailable,
            counts.unknown,
            self.took.as_secs_f64()
        )?;
        writeln!(
            f,
            "  faults     {} installed, {} skipped, {} indeterminate; {} kills ({} of the leader), \
             {} power cuts, {} changes of leader",
            done.installed,
            done.skipped,
            done.indeterminate,
            done.kills,
            done.leader_kills,
            done.power_cuts,
            self.leader_changes
        )?;
        if let [first, ..] = self.deaths.as_slice() {
            writeln!(
                f,
                "  deaths     {} at calls to disks; the first: {first}",
                self.deaths.len()
            )?;
        }
        if registers.written + registers.refused > 0 {
            writeln!(
                f,
                "  registers  {} updates, {} lost; {} stale reads and writes refused; {} holders \
                 froze",
                registers.written, registers.lost, registers.refused, counts.freezes
            )?;
            writeln!(
                f,
                "  holders    {} times two acted as holders at once; {} times the earlier one's write \
                 was accepted",
                registers.two_at_once, registers.two_wrote
            )?;
        }
        if self.lateness.count > 0 {
            let Quantiles { count, p50_ms, p99_ms, max_ms } = self.lateness;
            writeln!(
                f,
                "  expiries   {count}; late by at most {p50_ms:.1} ms (p50), {p99_ms:.1} ms (p99), \
                 {max_ms:.1} ms (max)"
            )?;
        }
        if let [.., longest] = self.failovers_ms.as_slice() {
            let half = self.failovers_ms[(self.failovers_ms.len() - 1) / 2];
            let count = self.failovers_ms.len();
            writeln!(
                f,
                "  failover   {count} leaders killed; the next lock after {half:.0} ms (p50), \
                 {longest:.0} ms (max)"
            )?;
        }
        if self.filled > 0 {
            writeln!(f, "  filled     {} locks with names of full length", self.filled)?;
        }
        if let Some(intruders) = &self.intruders {
            writeln!(f, "  intruders  {intruders}")?;
        }
        for check in &self.checks {
            writeln!(f, "  check      {check}")?;
        }
        for violation in &self.violations {
            writeln!(f, "  VIOLATION  {violation}")?;
        }
        for error in &self.harness_errors {
            writeln!(f, "  HARNESS    {error}")?;
        }
        write!(f, "  again      {}", self.command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_occurred() {
        let millis: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        let quantiles = Quantiles::of(&millis);
        let shown = [quantiles.p50_ms, quantiles.p99_ms, quantiles.max_ms];
        assert_eq!(shown.map(|ms| format!("{ms:.0}")), ["100", "198", "200"]);
        assert_eq!(Quantiles::of(&[]), Quantiles::default());
    }
}
