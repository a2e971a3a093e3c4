//! The line on a terminal while a load runs, and the usage of the nodes.

use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::nodes::NodeProcess;
use crate::bench::{Interval, NodeUsage, Observer, usage_of};

/// Watches a run for the person at the terminal.
pub(super) struct Progress {
    label: &'static str,
    stop: Arc<AtomicBool>,
    processes: Vec<NodeProcess>,
    live: bool,
}

impl Progress {
    pub(super) fn new(
        label: &'static str,
        stop: Arc<AtomicBool>,
        processes: Vec<NodeProcess>,
    ) -> Self {
        Self { label, stop, processes, live: std::io::stderr().is_terminal() }
    }

    /// Clears the line.
    pub(super) fn clear(&self) {
        self.show("");
    }

    fn show(&self, line: &str) {
        if self.live {
            // A line that is not shown is no loss.
            let _ = write!(std::io::stderr().lock(), "\r\x1b[2K{line}");
        }
    }
}

impl Observer for Progress {
    fn interval(&mut self, interval: &Interval) {
        let label = if interval.warmup { "warming up" } else { self.label };
        let mut line = format!("{:>6.0} s  {label}", interval.at_seconds + interval.seconds);
        for figures in &interval.operations {
            line.push_str("  ");
            line.push_str(&figures.short());
        }
        self.show(&line);
    }

    fn usage(&mut self) -> Vec<NodeUsage> {
        let seen = self.processes.iter().filter_map(|process| {
            let usage = usage_of(process.pid)?;
            let NodeProcess { name, leads, pid } = process.clone();
            Some(NodeUsage { name, leads, pid, usage })
        });
        seen.collect()
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}
