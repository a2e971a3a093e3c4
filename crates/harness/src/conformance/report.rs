//! The result of a run of the suite.

use std::fmt;
use std::time::Duration;

use similar::TextDiff;

/// The result of a run of the suite: one result for each script, in the scripts' order.
#[derive(Clone, Debug)]
pub struct Report {
    /// The results.
    pub results: Vec<ScriptResult>,
}

/// The result of one script.
#[derive(Clone, Debug)]
pub struct ScriptResult {
    /// The script.
    pub name: String,
    /// The outcome.
    pub outcome: Outcome,
    /// The time that it let pass.
    pub advanced: Duration,
}

/// The outcome of one script.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Every line is as expected.
    Passed,
    /// The service's answers differ from those of the script, as a unified diff from the expected
    /// lines (`-`) to those of the service (`+`).
    Mismatch {
        /// The unified diff.
        diff: String,
    },
    /// The service's lines differ, but a grant was so old when its remaining time was read that
    /// they might differ for that reason alone. Nothing was checked.
    TooSlow {
        /// The age of the grant beyond the script's assumption.
        by: Duration,
        /// The unified diff.
        diff: String,
    },
    /// The script could not be run to its end: the service failed, broke a fact that holds for
    /// every answer (tokens grow), or the script is malformed.
    Error {
        /// The description of what happened.
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
    /// Whether every script passed. `false` for an empty run, which checked nothing.
    pub fn passed(&self) -> bool {
        !self.results.is_empty() && self.failures().next().is_none()
    }

    /// The scripts that did not pass.
    pub fn failures(&self) -> impl Iterator<Item = &ScriptResult> {
        self.results.iter().filter(|result| result.outcome != Outcome::Passed)
    }

    /// The time that all scripts together let pass.
    pub fn advanced(&self) -> Duration {
        self.results.iter().map(|result| result.advanced).sum()
    }
}

impl fmt::Display for Report {
    /// One line for each script, its differences below it, and a summary.
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
