//! Keyward: a self-hosted, Raft-replicated lock service with fencing tokens.
//!
//! This library is the program's own: its modules are public for the tests of this repository, and
//! are no stable interface. A program that wants locks uses `keyward-client`, or `keyward-core` for
//! [`MemoryLocks`] in its tests; both are re-exported here, as is `keyward-harness`, which can be
//! pointed at any lock service.

pub mod advance;
pub mod audit;
pub mod budget;
pub mod cli;
pub mod files;
mod flood;
pub mod forward;
pub mod http;
pub mod jwt;
pub mod node;
pub mod raft;
pub mod storage;
pub mod tls;

pub use keyward_client::{self as client, Client, api};
pub use keyward_core::{
    DebugLockService, Error, Handle, LockService, MemoryLocks, ServiceOptions, access, clock,
    codec, error, limits, lock, memory, principal, random, service, task, types,
};
pub use keyward_harness::{bench, conformance, processes, report};
