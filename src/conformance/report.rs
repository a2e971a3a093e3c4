//! What a run of the suite found.

use std::fmt;
use std::time::Duration;

use similar::TextDiff;

/// How a run of the suite ended: one result for each script, in the scripts' order.
#[derive(Clone, Debug)]
pub struct Report {
    /// The results.
    pub results: Vec<ScriptResult>,
}

/// How one script ended.
#[derive(Clone, Debug)]
pub struct ScriptResult {
    /// The script.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// How much time it let pass.
    pub advanced: Duration,
}

/// How one script ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Every line is as expected.
    Passed,
    /// The service answers otherwise than the script: the difference, as a unified diff from the
    /// expected lines (`-`) to those of the service (`+`).
    Mismatch {
        /// The unified diff.
        diff: String,
    },
    /// The service's lines differ, but a grant was so old when its remaining time was told that
    /// they might differ for that reason alone. Nothing was checked.
    TooSlow {
        /// How much older it was than the script believes.
        by: Duration,
        /// The unified diff.
        diff: String,
    },
    /// The script could not be run to its end: the service failed, broke a fact that holds for
    /// every answer (tokens grow), or the script is malformed.
    Error {
        /// What happened.
        reason: String,
    },
}

impl Outcome {
    pub(crate) fn compare(
        name: &str,
        expected: &str,
        found: &str,
        too_slow: Option<Duration>,
    ) -> Self {
        if expected == found {
            return Self::Passed;
        }
        let diff = TextDiff::from_lines(expected, found)
            .unified_diff()
            .header(&format!("{name} (the contract)"), &format!("{name} (this service)"))
            .to_string();
        match too_slow {
            None => Self::Mismatch { diff },
            Some(by) => Self::TooSlow { by, diff },
        }
    }
}

impl Report {
    /// Whether every script passed. An empty run passes nothing: it checked nothing.
    pub fn passed(&self) -> bool {
        !self.results.is_empty() && self.failures().next().is_none()
    }

    /// The scripts that did not pass.
    pub fn failures(&self) -> impl Iterator<Item = &ScriptResult> {
        self.results.iter().filter(|result| result.outcome != Outcome::Passed)
    }

    /// How much time all scripts together let pass.
    pub fn advanced(&self) -> Duration {
        self.results.iter().map(|result| result.advanced).sum()
    }
}

impl fmt::Display for Report {
    /// One line for each script, what differs below it, and a summary.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for result in &self.results {
            match &result.outcome {
                Outcome::Passed => writeln!(f, "passed    {}", result.name)?,
                Outcome::Mismatch { diff } => writeln!(f, "MISMATCH  {}\n{diff}", result.name)?,
                Outcome::TooSlow { by, diff } => writeln!(
                    f,
                    "TOO SLOW  {}: a remaining time was told {} ms late; not checked\n{diff}",
                    result.name,
                    by.as_millis()
                )?,
                Outcome::Error { reason } => writeln!(f, "ERROR     {}: {reason}", result.name)?,
            }
        }
        let failed = self.failures().count();
        if self.results.is_empty() {
            write!(f, "no script was run")
        } else {
            write!(f, "{} passed, {failed} failed", self.results.len() - failed)
        }
    }
}
