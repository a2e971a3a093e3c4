//! The core of the Keyward lock service: its words, its rules, and a service in memory. No I/O.
//!
//! Start with [`types`], the words of the contract, and [`LockService`], the trait that every form of
//! the service implements: [`MemoryLocks`] here, the client in `keyward-client`, a node in `keyward`.
//! The rules themselves are [`lock`]: a pure state machine that decides commands in the order of a
//! log. [`limits`] lists each limit of the service.
//!
//! [`access`] judges who may do what; [`principal`] is who asks.
//!
//! The modules under them are for the crates of Keyward: [`codec`] (the primitives of every binary
//! encoding), [`clock`], [`random`] and [`task`] (time, chance and tasks, each in one place, so that
//! tests can hand in their own).

pub mod access;
pub mod clock;
pub mod codec;
pub mod error;
pub mod limits;
pub mod lock;
pub mod memory;
pub mod principal;
pub mod random;
pub mod service;
pub mod task;
pub mod types;

pub use error::Error;
pub use memory::MemoryLocks;
pub use service::{DebugLockService, Handle, LockService, ServiceOptions};
