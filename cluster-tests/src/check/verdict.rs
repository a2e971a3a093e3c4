//! The verdict on a history.

use std::fmt;

use serde::Serialize;

use super::figures::Figures;
use super::violation::Violation;
use crate::history::Header;

/// The three ways in which a checked run ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Conclusion {
    /// Everything that the run had to show was shown.
    Pass,
    /// The contract was broken.
    Violation,
    /// The run or its check shows nothing: an error of the harness.
    NothingShown,
}

impl Conclusion {
    /// The exit code of a program with this conclusion: 0, 1 and 2.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Pass => 0,
            Self::Violation => 1,
            Self::NothingShown => 2,
        }
    }
}

impl fmt::Display for Conclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "pass",
            Self::Violation => "VIOLATION",
            Self::NothingShown => "nothing shown",
        })
    }
}

/// The result of one check.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It found nothing wrong; with the amount that it checked.
    Passed(String),
    /// It found violations.
    Violated,
    /// It could not check, or not everything; with the reason.
    NotChecked(String),
}

/// The verdict on a history.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Verdict {
    /// The header of the history.
    pub header: Header,
    /// Pass, violation, or nothing shown.
    pub conclusion: Conclusion,
    /// Each check by name.
    pub checks: Vec<(&'static str, State)>,
    /// The violations of the contract.
    pub violations: Vec<Violation>,
    /// The parts of the plan that the run lacks.
    pub missing: Vec<String>,
    /// The counts and times of the run.
    pub figures: Figures,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}, seed {}", self.conclusion, self.header.service, self.header.seed)?;
        for (name, state) in &self.checks {
            match state {
                State::Passed(what) => writeln!(f, "  passed       {name}: {what}")?,
                State::Violated => writeln!(f, "  VIOLATED     {name}")?,
                State::NotChecked(why) => writeln!(f, "  not checked  {name}: {why}")?,
            }
        }
        for what in &self.missing {
            writeln!(f, "  missing      {what}")?;
        }
        for violation in &self.violations {
            writeln!(f, "\n{violation}")?;
            for operation in &violation.operations {
                let end = operation
                    .returned
                    .map_or_else(|| String::from("never"), super::violation::seconds);
                let begin = super::violation::seconds(operation.invoked);
                write!(f, "    {begin} to {end}")?;
                if let Some(place) = operation.decided_at {
                    write!(f, " at {place}")?;
                }
                writeln!(f, "  {}", super::words::Words(operation))?;
            }
        }
        if self.conclusion != Conclusion::Pass {
            writeln!(f, "\nrepeat it with: {}", self.header.command)?;
        }
        Ok(())
    }
}
