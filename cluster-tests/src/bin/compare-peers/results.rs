//! The measured figures, and how they compare with the goals.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::rows::{Row, Service};

/// A figure of a row.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Figure {
    /// Operations per second, in the unit of the workload.
    PerSecond,
    /// Latency of acquiring a lock (or renewing it), in ms.
    P50Ms,
    P99Ms,
    /// Processor time of all nodes for 1000 operations, in seconds.
    CpuPer1000,
    /// The rate as a fraction of the one that it is compared with.
    Ratio,
    /// Time to acquire all locks, in seconds.
    TakenSeconds,
    /// Resident memory of the largest node, in MiB.
    ResidentMib,
    /// Time from the kill to the first new lock, in seconds.
    NextLockSeconds,
    /// The latency that one operation in a thousand exceeds, in ms.
    P999Ms,
    /// The highest latency, in ms.
    MaxMs,
    /// Failures that were not refusals.
    Failures,
}

impl Figure {
    fn title(self) -> &'static str {
        match self {
            Self::PerSecond => "per second",
            Self::P50Ms => "p50, ms",
            Self::P99Ms => "p99, ms",
            Self::CpuPer1000 => "server CPU for 1000, s",
            Self::Ratio => "ratio of the rates",
            Self::TakenSeconds => "time to take them, s",
            Self::ResidentMib => "resident, largest node, MiB",
            Self::NextLockSeconds => "to the next lock, s",
            Self::P999Ms => "p99.9, ms",
            Self::MaxMs => "max, ms",
            Self::Failures => "failures",
        }
    }

    fn show(self, value: f64) -> String {
        match self {
            Self::PerSecond if value >= 1000.0 => format!("{:.1}k", value / 1000.0),
            Self::PerSecond | Self::ResidentMib | Self::Failures => format!("{value:.0}"),
            Self::CpuPer1000 | Self::Ratio => format!("{value:.3}"),
            Self::P50Ms
            | Self::P99Ms
            | Self::TakenSeconds
            | Self::NextLockSeconds
            | Self::P999Ms
            | Self::MaxMs => format!("{value:.2}"),
        }
    }
}

/// Each round's value of each figure.
pub(crate) type Cell = BTreeMap<Figure, Vec<f64>>;

/// All results; kept in a file, so that a row measured again replaces its older self.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Results {
    /// The versions of the services.
    pub(crate) versions: BTreeMap<Service, String>,
    /// The command that started a node of each.
    pub(crate) commands: BTreeMap<Service, String>,
    pub(crate) rows: BTreeMap<Row, RowResults>,
}

/// The results of one run for a row. Ratios are taken within it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct RowResults {
    pub(crate) command: String,
    pub(crate) services: BTreeMap<Service, Cell>,
    /// The services that did not take part, with the reason.
    pub(crate) skipped: BTreeMap<Service, String>,
}

impl Results {
    /// The quantile `part` of the rounds' values of a figure.
    fn quantile(&self, row: Row, service: Service, figure: Figure, part: f64) -> Option<f64> {
        quantile(self.rows.get(&row)?.services.get(&service)?.get(&figure)?, part)
    }

    /// Everything, as Markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        text.push_str(&self.goals());
        text.push_str(
            "\nMedians of all rounds, with the smallest and the largest in brackets. Times are of \
             taking a lock, for renewals of renewing it. Where a row tells no failures, no request \
             failed.\n\n",
        );
        let services = Service::ALL.map(Service::name).join(" | ");
        let _ = writeln!(text, "| | {services} |\n|---|{}", "---|".repeat(Service::ALL.len()));
        for (row, results) in &self.rows {
            for figure in results.figures() {
                if figure == Figure::Failures && !results.has_failures() {
                    continue;
                }
                let cells = Service::ALL.map(|service| results.cell(service, figure)).join(" | ");
                let _ = writeln!(text, "| {}: {} | {cells} |", row.title(), figure.title());
            }
        }
        text.push_str("\nMeasured with:\n\n```console\n");
        for results in
            self.rows.values().map(|row| &row.command).collect::<std::collections::BTreeSet<_>>()
        {
            let _ = writeln!(text, "$ {results}");
        }
        text.push_str("```\n\nVersions and the command of a node:\n\n");
        for (service, version) in &self.versions {
            let command = self.commands.get(service).map_or("", String::as_str);
            let _ = writeln!(text, "- {} {version}: `{command}`", service.name());
        }
        text
    }

    /// The goals, each beside its measured value.
    pub(crate) fn goals(&self) -> String {
        let mut text = String::from("| goal | measured | |\n|---|---|---|\n");
        for goal in GOALS {
            let (measured, verdict) = match self.judge(goal) {
                Some((value, met)) => {
                    (format!("{value:.2}"), if met { "met" } else { "**missed**" })
                }
                None => ("–".to_owned(), "not measured"),
            };
            let _ = writeln!(text, "| {} | {measured} | {verdict} |", goal.text);
        }
        text
    }

    fn judge(&self, goal: &Goal) -> Option<(f64, bool)> {
        let ours = self.quantile(goal.row, goal.service, goal.figure, goal.part)?;
        let beside = match goal.beside {
            Some(service) => self.quantile(goal.row, service, goal.figure, goal.part)?,
            None => 1.0,
        };
        if beside <= 0.0 {
            return None;
        }
        let value = ours / beside;
        let met = match goal.bound {
            Bound::AtLeast(least) => value >= least,
            Bound::AtMost(most) => value <= most,
        };
        Some((value, met))
    }
}

impl RowResults {
    fn figures(&self) -> Vec<Figure> {
        let figures: std::collections::BTreeSet<_> =
            self.services.values().flat_map(|cell| cell.keys().copied()).collect();
        figures.into_iter().collect()
    }

    fn has_failures(&self) -> bool {
        let counts = self.services.values().filter_map(|cell| cell.get(&Figure::Failures));
        counts.flatten().any(|count| *count > 0.0)
    }

    fn cell(&self, service: Service, figure: Figure) -> String {
        if self.skipped.contains_key(&service) {
            return "not installed".to_owned();
        }
        let values = self.services.get(&service).and_then(|cell| cell.get(&figure));
        let Some(values) = values.filter(|values| !values.is_empty()) else {
            return "–".to_owned();
        };
        let show = |part| figure.show(quantile(values, part).unwrap_or(0.0));
        match values.len() {
            1 => show(0.5),
            _ => format!("{} ({} to {})", show(0.5), show(0.0), show(1.0)),
        }
    }
}

/// A goal of the documentation.
struct Goal {
    text: &'static str,
    row: Row,
    figure: Figure,
    service: Service,
    /// The service that the figure is divided by; `None`: the figure itself.
    beside: Option<Service>,
    /// The quantile of the rounds' values: the median, or for failures of the leader also a tail.
    part: f64,
    bound: Bound,
}

enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

const fn goal(
    text: &'static str,
    row: Row,
    figure: Figure,
    beside: Option<Service>,
    bound: Bound,
) -> Goal {
    Goal { text, row, figure, service: Service::Keyward, beside, part: 0.5, bound }
}

use Bound::{AtLeast, AtMost};
use Figure::{
    CpuPer1000, NextLockSeconds, P50Ms, P99Ms, PerSecond, Ratio, ResidentMib, TakenSeconds,
};
use Service::{Etcd, ZooKeeper};

const GOALS: &[Goal] = &[
    goal(
        "pairs, 1 client: p50 at most 0.75 of ZooKeeper's",
        Row::Pairs1,
        P50Ms,
        Some(ZooKeeper),
        AtMost(0.75),
    ),
    goal(
        "pairs, 1 client: p50 at most 0.55 of etcd's",
        Row::Pairs1,
        P50Ms,
        Some(Etcd),
        AtMost(0.55),
    ),
    goal(
        "pairs, 64 clients: at least 2.5 times ZooKeeper's rate",
        Row::Pairs64,
        PerSecond,
        Some(ZooKeeper),
        AtLeast(2.5),
    ),
    goal(
        "pairs, 64 clients: at least 7 times etcd's rate",
        Row::Pairs64,
        PerSecond,
        Some(Etcd),
        AtLeast(7.0),
    ),
    goal(
        "pairs, 256 clients: at least 2.5 times ZooKeeper's rate",
        Row::Pairs256,
        PerSecond,
        Some(ZooKeeper),
        AtLeast(2.5),
    ),
    goal(
        "pairs, 256 clients: at least 7 times etcd's rate",
        Row::Pairs256,
        PerSecond,
        Some(Etcd),
        AtLeast(7.0),
    ),
    goal(
        "pairs, 256 clients: p99 below ZooKeeper's",
        Row::Pairs256,
        P99Ms,
        Some(ZooKeeper),
        AtMost(1.0),
    ),
    goal("pairs, 256 clients: p99 below etcd's", Row::Pairs256, P99Ms, Some(Etcd), AtMost(1.0)),
    goal(
        "256 tasks of one client library: at least 6 times ZooKeeper's rate",
        Row::Library256,
        PerSecond,
        Some(ZooKeeper),
        AtLeast(6.0),
    ),
    goal(
        "one lock, 16 contenders: at least ZooKeeper's hand-offs",
        Row::Contended,
        PerSecond,
        Some(ZooKeeper),
        AtLeast(1.0),
    ),
    goal(
        "renewals, 256 clients: at least 3 times ZooKeeper's",
        Row::Renewals,
        PerSecond,
        Some(ZooKeeper),
        AtLeast(3.0),
    ),
    goal(
        "renewals, 256 clients: at least 3 times etcd's",
        Row::Renewals,
        PerSecond,
        Some(Etcd),
        AtLeast(3.0),
    ),
    goal(
        "100,000 held: memory at most a quarter of ZooKeeper's",
        Row::Held,
        ResidentMib,
        Some(ZooKeeper),
        AtMost(0.25),
    ),
    goal(
        "100,000 held: memory at most a quarter of etcd's",
        Row::Held,
        ResidentMib,
        Some(Etcd),
        AtMost(0.25),
    ),
    goal(
        "100,000 held: taken faster than by ZooKeeper",
        Row::Held,
        TakenSeconds,
        Some(ZooKeeper),
        AtMost(1.0),
    ),
    goal(
        "100,000 held: taken faster than by etcd",
        Row::Held,
        TakenSeconds,
        Some(Etcd),
        AtMost(1.0),
    ),
    goal(
        "leader killed, default: p50 at most ZooKeeper's",
        Row::Failover,
        NextLockSeconds,
        Some(ZooKeeper),
        AtMost(1.0),
    ),
    Goal {
        text: "leader killed, fast profile: p50 at most 0.4 s",
        row: Row::Failover,
        figure: NextLockSeconds,
        service: Service::KeywardFast,
        beside: None,
        part: 0.5,
        bound: AtMost(0.4),
    },
    Goal {
        text: "leader killed, fast profile: p99 at most 1 s",
        row: Row::Failover,
        figure: NextLockSeconds,
        service: Service::KeywardFast,
        beside: None,
        part: 0.99,
        bound: AtMost(1.0),
    },
    goal(
        "server CPU for 1000 pairs, 64 clients: at most half of ZooKeeper's",
        Row::Pairs64,
        CpuPer1000,
        Some(ZooKeeper),
        AtMost(0.5),
    ),
    goal(
        "64 clients: at least 0.4 of what HTTP alone does",
        Row::HttpAlone,
        Ratio,
        None,
        AtLeast(0.4),
    ),
    goal(
        "pairs beside 1,000,000 held locks: at least 0.85 of the rate beside none",
        Row::Million,
        Ratio,
        None,
        AtLeast(0.85),
    ),
    goal(
        "ten minutes of pairs: p99.9 at most 100 ms",
        Row::Soak,
        Figure::P999Ms,
        None,
        AtMost(100.0),
    ),
];

/// The quantile `part` of the sorted values; between two values, the upper one.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a place among a few values"
)]
fn quantile(values: &[f64], part: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    sorted.get(((last as f64) * part).ceil() as usize).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(keyward: &[f64], zookeeper: &[f64]) -> Results {
        let cell = |values: &[f64]| BTreeMap::from([(PerSecond, values.to_vec())]);
        let row = RowResults {
            command: "scripts/compare-peers".to_owned(),
            services: BTreeMap::from([
                (Service::Keyward, cell(keyward)),
                (ZooKeeper, cell(zookeeper)),
            ]),
            skipped: BTreeMap::from([(Etcd, "etcd is missing".to_owned())]),
        };
        Results { rows: BTreeMap::from([(Row::Pairs64, row)]), ..Results::default() }
    }

    #[test]
    fn a_goal_is_met_missed_or_not_measured() {
        let line = |results: &Results, with: &str| {
            let goals = results.goals();
            goals.lines().find(|line| line.contains(with)).expect("there is such a goal").to_owned()
        };
        let with = "64 clients: at least 2.5 times ZooKeeper's";
        let fast = results(&[26e3, 20e3, 25e3], &[9e3, 10e3, 11e3]);
        assert!(line(&fast, with).ends_with("| 2.50 | met |"), "{}", line(&fast, with));
        let slow = results(&[24.9e3], &[10e3]);
        assert!(line(&slow, with).ends_with("| 2.49 | **missed** |"), "{}", line(&slow, with));
        assert!(line(&slow, "7 times etcd's rate").ends_with("| – | not measured |"));
    }

    #[test]
    fn the_table_shows_spreads_and_who_is_missing() {
        let table = results(&[26e3, 20e3, 25e3], &[10e3]).markdown();
        let row = "| pairs, 64 clients: per second | 25.0k (20.0k to 26.0k) | – | 10.0k | not installed | – |";
        assert!(table.contains(row), "{table}");
    }

    #[test]
    fn a_quantile_errs_upwards() {
        let values = [3.0, 1.0, 2.0, 4.0];
        assert_eq!(quantile(&values, 0.0), Some(1.0));
        assert_eq!(quantile(&values, 0.5), Some(3.0));
        assert_eq!(quantile(&values, 0.99), Some(4.0));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
