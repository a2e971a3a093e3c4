//! A measurement as sentences and tables: for a terminal, and for a page that lays them out.

use std::fmt::{self, Write as _};

use super::measurement::{IntervalFigures, Measurement, NodeFigures, OperationFigures};
use super::pace::Pace;

/// Times and rates of each operation, then failures if there were any, then the nodes.
impl fmt::Display for Measurement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { workload, pace, .. } = self;
        writeln!(f, "{workload}: {}, {pace}, {}\n", self.clients_in_words(), self.time_in_words())?;
        f.write_str(&columns(&self.operation_rows()))?;
        for failure in self.failures_in_words() {
            writeln!(f, "{failure}")?;
        }
        writeln!(f, "\n{}", self.rate_in_words())?;
        if let Some(waiting) = self.never_begun_in_words() {
            writeln!(f, "{waiting}")?;
        }
        let nodes = self.node_rows();
        if !nodes.is_empty() {
            write!(f, "\n{}", columns(&nodes))?;
        }
        for cost in self.costs_in_words() {
            writeln!(f, "{cost}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("closed loop"),
            Self::Open { per_second } => write!(f, "open loop at {}/s", rate(*per_second)),
        }
    }
}

/// The parts of the text and of a page. The first of some rows is their heading.
impl Measurement {
    /// The number of clients.
    pub fn clients_in_words(&self) -> String {
        match self.clients {
            1 => "1 client".to_owned(),
            clients => format!("{clients} clients"),
        }
    }

    /// How long it was measured, and after how much warm-up.
    pub fn time_in_words(&self) -> String {
        let early = if self.interrupted { ", ended early" } else { "" };
        let Self { measured_seconds, warmup_seconds, .. } = self;
        format!("{measured_seconds:.1} s after {warmup_seconds:.1} s of warm-up{early}")
    }

    /// The rate of this workload, with its unit.
    pub fn rate_in_words(&self) -> String {
        format!("{} {}/s", rate(self.per_second()), self.unit())
    }

    /// A row for each kind of operation.
    pub fn operation_rows(&self) -> Vec<Vec<String>> {
        let headings = [
            "OPERATION",
            "PER SECOND",
            "P50",
            "P90",
            "P99",
            "P99.9",
            "MAX",
            "REFUSED",
            "NOT DONE",
            "UNKNOWN",
        ];
        let mut rows = vec![headings.map(str::to_owned).to_vec()];
        rows.extend(self.operations.iter().map(OperationFigures::cells));
        rows
    }

    /// A sentence for each kind of operation that failed.
    pub fn failures_in_words(&self) -> Vec<String> {
        let failed = self.operations.iter().filter_map(|figures| {
            let first = figures.first_failure.as_ref()?;
            let (word, slowest) = (figures.operation.word(), time(figures.slowest_failure_us));
            Some(format!("{word}: the first failure: {first}; the slowest after {slowest}"))
        });
        failed.collect()
    }

    /// A sentence on operations that were due and never begun, if there were any.
    pub fn never_begun_in_words(&self) -> Option<String> {
        (self.never_begun > 0).then(|| {
            format!(
                "{} operations were due and never begun: the service is slower than the rate; \
                 they count with the time they had waited",
                self.never_begun
            )
        })
    }

    /// The nodes that run on this machine; no rows at all if there are none.
    pub fn node_rows(&self) -> Vec<Vec<String>> {
        if self.nodes.is_empty() {
            return Vec::new();
        }
        let headings = ["NODE", "PID", "CORES", "RESIDENT", "BEFORE", "WRITTEN"];
        let mut rows = vec![headings.map(str::to_owned).to_vec()];
        rows.extend(self.nodes.iter().map(|node| node.cells(self.seconds())));
        rows
    }

    /// Sentences on processor time: the nodes', and the load generator's own.
    pub fn costs_in_words(&self) -> Vec<String> {
        let nodes = self
            .server_cpu_per_1000()
            .map(|cpu| format!("all nodes: {cpu:.3} s of processor time for 1000 {}", self.unit()));
        let own = self.generator_cpu_seconds / self.seconds();
        nodes.into_iter().chain([format!("load generator: {own:.2} cores")]).collect()
    }

    /// The measured time, to divide by.
    fn seconds(&self) -> f64 {
        self.measured_seconds.max(f64::MIN_POSITIVE)
    }
}

impl OperationFigures {
    fn cells(&self) -> Vec<String> {
        vec![
            self.operation.word().to_owned(),
            rate(self.per_second),
            time(self.p50_us),
            time(self.p90_us),
            time(self.p99_us),
            time(self.p999_us),
            time(self.max_us),
            self.refused.to_string(),
            self.not_done.to_string(),
            self.unknown.to_string(),
        ]
    }
}

impl IntervalFigures {
    /// In a few words: `acquire 8123/s p99 12.4 ms`, and failures if there are any.
    pub fn short(&self) -> String {
        let failed = match self.failed {
            0 => String::new(),
            failed => format!(" ({failed} failed)"),
        };
        let Self { operation, per_second, p99_us, .. } = self;
        format!("{} {}/s p99 {}{failed}", operation.word(), rate(*per_second), time(*p99_us))
    }
}

impl NodeFigures {
    fn cells(&self, seconds: f64) -> Vec<String> {
        let leads = if self.leads { " (leads)" } else { "" };
        vec![
            format!("{}{leads}", self.name),
            self.pid.to_string(),
            format!("{:.2}", self.cpu_seconds / seconds),
            memory(self.resident_after_bytes),
            memory(self.resident_before_bytes),
            memory(self.written_bytes),
        ]
    }
}

/// A rate with three digits or more: `0.52`, `64.1`, `8123`.
fn rate(per_second: f64) -> String {
    match per_second {
        small if small < 10.0 => format!("{small:.2}"),
        middle if middle < 1000.0 => format!("{middle:.1}"),
        large => format!("{large:.0}"),
    }
}

/// A time with three digits: `84 µs`, `1.32 ms`, `12.4 s`.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
fn time(us: u64) -> String {
    let us = us as f64;
    let (value, unit) = match us {
        small if small < 1e3 => return format!("{small:.0} µs"),
        middle if middle < 1e6 => (middle / 1e3, "ms"),
        large => (large / 1e6, "s"),
    };
    match value {
        small if small < 10.0 => format!("{small:.2} {unit}"),
        middle if middle < 100.0 => format!("{middle:.1} {unit}"),
        large => format!("{large:.0} {unit}"),
    }
}

#[expect(clippy::cast_precision_loss, reason = "one digit is shown")]
fn memory(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / (1024.0 * 1024.0))
}

/// Rows with columns that line up, numbers to the right of the first.
fn columns(rows: &[Vec<String>]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let mut text = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            let width = width(column).unwrap_or(0);
            // Writing to a string does not fail.
            let _ = match column {
                0 => write!(text, "{cell:<width$}"),
                _ => write!(text, "  {cell:>width$}"),
            };
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        let table = [
            (84, "84 µs"),
            (1_320, "1.32 ms"),
            (12_400, "12.4 ms"),
            (412_000, "412 ms"),
            (1_240_000, "1.24 s"),
        ];
        for (us, text) in table {
            assert_eq!(time(us), text);
        }
        assert_eq!(rate(0.523), "0.52");
        assert_eq!(rate(64.08), "64.1");
        assert_eq!(rate(8123.4), "8123");
    }
}
