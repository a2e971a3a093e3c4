//! The chaos harness: real processes, real load, faults from a seed, and a verdict.
//!
//! `keyward-chaos` is its program; `docs/chaos.md` describes its use, on Keyward and on anything
//! else. One module per noun: [`workload`] is what clients do and [`crate::register`] what their
//! locks guard; [`service`] sends their requests and records every call;
//! [`access`] has their credentials, and the intruders who have none; [`fault`] names the
//! faults, [`plan`] draws their times, [`boundary`] the disk call at which a node dies, [`nemesis`]
//! installs them in a [`victim`]; [`progress`] counts; [`run`] puts them together and judges.
//!
//! Invariants: a run that did not do what it planned, or achieved too little, is an error of the
//! harness and never a pass; every fault is in the history with its outcome; nothing is judged here
//! that a check of the history can judge.

pub mod access;
pub mod boundary;
pub mod fault;
mod fill;
pub mod hooks;
mod live;
pub mod nemesis;
pub(crate) mod observe;
#[cfg(feature = "peers")]
pub mod peer;
pub mod plan;
pub mod progress;
pub mod prove;
pub mod run;
pub mod service;
pub mod summary;
pub mod victim;
pub mod workload;
