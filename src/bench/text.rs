//! A measurement as text, for a person at a terminal.

use std::fmt::{self, Write as _};

use super::measurement::{IntervalFigures, Measurement, NodeFigures, OperationFigures};
use super::pace::Pace;

/// Times and rates of each operation, then failures if there were any, then the nodes.
impl fmt::Display for Measurement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clients = match self.clients {
            1 => "1 client".to_owned(),
            clients => format!("{clients} clients"),
        };
        let pace = match self.pace {
            Pace::Closed => "closed loop".to_owned(),
            Pace::Open { per_second } => format!("open loop at {}/s", rate(per_second)),
        };
        let early = if self.interrupted { ", ended early" } else { "" };
        writeln!(
            f,
            "{}: {clients}, {pace}, {:.1} s after {:.1} s of warm-up{early}\n",
            self.workload, self.measured_seconds, self.warmup_seconds
        )?;
        f.write_str(&self.operations_table())?;
        self.write_failures(f)?;
        writeln!(f, "\n{} {}/s", rate(self.per_second()), self.unit())?;
        if self.never_begun > 0 {
            writeln!(
                f,
                "{} operations were due and never begun: the service is slower than the rate; \
                 they count with the time they had waited",
                self.never_begun
            )?;
        }
        self.write_nodes(f)
    }
}

impl Measurement {
    fn operations_table(&self) -> String {
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
        columns(&rows)
    }

    fn write_failures(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for figures in &self.operations {
            if let Some(first) = &figures.first_failure {
                writeln!(
                    f,
                    "{}: the first failure: {first}; the slowest after {}",
                    figures.operation.word(),
                    time(figures.slowest_failure_us)
                )?;
            }
        }
        Ok(())
    }

    fn write_nodes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.measured_seconds.max(f64::MIN_POSITIVE);
        if !self.nodes.is_empty() {
            let headings = ["NODE", "PID", "CORES", "RESIDENT", "BEFORE", "WRITTEN"];
            let mut rows = vec![headings.map(str::to_owned).to_vec()];
            rows.extend(self.nodes.iter().map(|node| node.cells(seconds)));
            write!(f, "\n{}", columns(&rows))?;
        }
        if let Some(cpu) = self.server_cpu_per_1000() {
            writeln!(f, "all nodes: {cpu:.3} s of processor time for 1000 {}", self.unit())?;
        }
        writeln!(f, "load generator: {:.2} cores", self.generator_cpu_seconds / seconds)
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
