//! A second lock machine, slow and simple, and random logs on which it is compared with the real one.
//!
//! [`oracle`] is written from the contract and shares no code with `keyward_core::lock` but its words.
//! [`history`] makes random logs from any source of numbers: `histories.rs`, the tests of this package,
//! plays thousands from seeds, and a fuzz target lets its bytes choose one. [`follow`] judges the log
//! of a machine that runs elsewhere.

#![allow(clippy::missing_panics_doc, reason = "it panics where the two machines differ")]

pub mod follow;
mod gate;
#[cfg(test)]
mod histories;
pub mod history;
mod oracle;
mod watcher;

pub use oracle::Became;
