//! The fuzz targets: arbitrary bytes, passed to everything that reads bytes from the network or
//! from a disk.
//!
//! Each target takes any bytes and asserts what must hold for them: an error or a right answer is
//! fine, a panic never is. `fuzz_targets/` has a libFuzzer program for each target and `corpus/` its
//! inputs; `scripts/fuzz` runs them, guided by coverage. `cargo nextest run -p keyward-fuzz` runs
//! every target on its corpus, and then on random mutations of it: see `tests.rs`.
//!
//! A new target is a function here, a line in [`TARGETS`], a program and at least one seed: a test
//! reports what is missing.

#![allow(clippy::missing_panics_doc, reason = "a target panics where something does not hold")]

mod certificates;
#[cfg(test)]
mod corpus;
mod http;
mod jwt;
mod log;
mod machine;
mod peers;
#[cfg(test)]
mod seeds;
mod state;
#[cfg(test)]
mod tests;
mod texts;

pub use certificates::certificate;
pub use http::{http, http_batch, http_check, http_list, http_lock, http_tables, http_unlock};
pub use jwt::jwt;
pub use log::log;
pub use machine::machine;
pub use peers::{forward, peer_messages};
pub use state::{checkpoint, proposal, snapshot};
pub use texts::{script, settings};

/// A target: asserts what must hold for these bytes.
pub type Target = fn(&[u8]);

/// Every target, by the name of its program and of its file in the corpus.
pub const TARGETS: [(&str, Target); 18] = [
    ("certificate", certificate),
    ("checkpoint", checkpoint),
    ("forward", forward),
    ("http", http),
    ("http_batch", http_batch),
    ("http_check", http_check),
    ("http_list", http_list),
    ("http_lock", http_lock),
    ("http_tables", http_tables),
    ("http_unlock", http_unlock),
    ("jwt", jwt),
    ("log", log),
    ("machine", machine),
    ("peer_messages", peer_messages),
    ("proposal", proposal),
    ("script", script),
    ("settings", settings),
    ("snapshot", snapshot),
];
