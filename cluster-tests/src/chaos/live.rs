//! The progress of a run: on a terminal one line that is overwritten, elsewhere a line every few
//! seconds. It goes to standard error; results go to standard output.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use super::progress::Progress;
use crate::wait::Stopwatch;

/// The interval at which the line is overwritten, and at which a new line is written where that is
/// impossible.
const TERMINAL: Duration = Duration::from_millis(250);
const PLAIN: Duration = Duration::from_secs(5);

/// A view of one run.
#[derive(Debug)]
pub(super) struct Live {
    terminal: bool,
    quiet: bool,
    watch: Stopwatch,
    total: Duration,
    progress: Progress,
    /// Whether the last line is one to be overwritten.
    line: Mutex<bool>,
}

impl Live {
    /// A view of a run with this total length.
    pub(super) fn new(progress: Progress, total: Duration, quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { terminal, quiet, watch: Stopwatch::start(), total, progress, line: Mutex::default() }
    }

    /// Writes a line that stays.
    pub(super) fn say(&self, text: &str) {
        if self.quiet {
            return;
        }
        let at = self.watch.elapsed().as_secs_f64();
        let mut over = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        let clear = if *over { "\r\x1b[2K" } else { "" };
        *over = false;
        write(&format!("{clear}{at:7.1} s  {text}\n"));
    }

    /// Shows the figures again and again. Never resolves: the caller drops it.
    pub(super) async fn show(&self) {
        loop {
            tokio::time::sleep(if self.terminal { TERMINAL } else { PLAIN }).await;
            let figures = self.figures();
            if self.quiet {
            } else if self.terminal {
                let mut over = self.line.lock().unwrap_or_else(PoisonError::into_inner);
                *over = true;
                write(&format!("\r\x1b[2K{figures}"));
            } else {
                self.say(&figures);
            }
        }
    }

    fn figures(&self) -> String {
        let counts = self.progress.counts();
        let left = self.total.saturating_sub(self.watch.elapsed());
        format!(
            "{} done, {} refused, {} unavailable, {} unknown, {} froze, {} expired; {} s left",
            counts.ok,
            counts.refused,
            counts.unavailable,
            counts.unknown,
            counts.freezes,
            counts.takeovers,
            left.as_secs()
        )
    }
}

/// A closed standard error ends no run.
fn write(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}
