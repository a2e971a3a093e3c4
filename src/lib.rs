//! Keyward: a self-hosted, Raft-replicated lock service with fencing tokens.

#[cfg(feature = "server")]
pub mod advance;
pub mod api;
#[cfg(feature = "bench")]
pub mod bench;
#[cfg(feature = "server")]
pub mod budget;
mod carrier;
#[cfg(feature = "server")]
pub mod cli;
pub mod client;
pub mod clock;
mod codec;
pub mod conformance;
pub mod error;
#[cfg(feature = "server")]
mod flood;
#[cfg(feature = "server")]
pub mod forward;
#[cfg(any(feature = "fuzzing", all(test, feature = "server")))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(feature = "server")]
pub mod http;
pub mod limits;
pub mod lock;
pub mod memory;
#[cfg(feature = "server")]
pub mod node;
#[cfg(feature = "bench")]
mod processes;
#[cfg(feature = "server")]
pub mod raft;
mod random;
#[cfg(feature = "bench")]
pub mod report;
mod resolve;
pub mod service;
#[cfg(feature = "simulation")]
pub mod sim;
#[cfg(feature = "server")]
pub mod storage;
mod task;
pub mod types;

pub use client::Client;
pub use error::Error;
pub use memory::MemoryLocks;
pub use service::{DebugLockService, Handle, LockService, ServiceOptions};
