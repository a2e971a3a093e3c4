//! Keyward: a self-hosted, Raft-replicated lock service with fencing tokens.

pub mod api;
pub mod clock;
pub mod conformance;
pub mod error;
pub mod lock;
pub mod memory;
pub mod service;
pub mod types;

pub use error::Error;
pub use memory::MemoryLocks;
pub use service::{DebugLockService, LockService, ServiceOptions};
