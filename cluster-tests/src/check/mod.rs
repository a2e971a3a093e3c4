//! Judges a history: was the service a lock service?
//!
//! Eight checks, each in a module of its own, that do not rely on one another:
//!
//! | check | module | what it needs |
//! |---|---|---|
//! | witnessed linearizability, time included | [`witnessed`] | answers that name their place in the log |
//! | linearizability without a witness | [`search`] | a budget |
//! | holders never overlap, tokens only grow | [`holders`] | nothing |
//! | turns: permitted holders, no overtaking, sessions and their inboxes | [`turns`], [`sessions`] | answers that name their place in the log |
//! | the guarded register loses no update | [`register`] | reads and writes of registers |
//! | nothing acknowledged is lost, nodes are equal | [`witnessed`], [`nodes`] | observations of nodes |
//! | the run shows something | [`plan`] | the plan in the header |
//! | the service came back | [`plan`] | events named `healed` |
//!
//! A check ends in one of three ways: a pass, violations, and *nothing shown*, which is an error of
//! the harness and never a pass. `model` has the answers of the contract, and `time` the bounds
//! that real time sets to a clock; neither shares code with the service.
//!
//! [`check`] reads a file twice and keeps in memory only the operations in flight at a time, the
//! present state of each lock, and a sample for the search. [`write_report`] turns the verdict into
//! a page.

mod figures;
mod holders;
mod latest;
mod model;
mod nodes;
mod order;
mod plan;
mod register;
mod replay;
mod report;
mod run;
mod search;
mod sessions;
mod source;
mod step;
mod survey;
#[cfg(test)]
mod tests;
mod time;
mod turns;
mod verdict;
mod violation;
mod witnessed;
mod words;

pub use figures::Figures;
pub use report::{ReportError, write_report};
pub use run::{Options, check};
pub use source::Source;
pub use verdict::{Conclusion, State, Verdict};
pub use violation::{Broken, Violation};
pub use words::Words;
