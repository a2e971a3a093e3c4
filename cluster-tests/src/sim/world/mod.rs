//! Whole clusters in one thread, on virtual time, from one seed.
//!
//! These parts are real: openraft, the lock machine, stamping and expiry, the proposer and the
//! reader, forwarding, the routers of both listeners with all that they read and write, the client
//! with its retries and guards, and the log, vote, snapshot and identity code. The layers under
//! them are simulated: [`network`], [`disk`], [`clock`], and the processes themselves, [`host`].
//! sled is left out: a node starts from snapshot and log, as it does whenever its copy of the state
//! is not accepted.
//!
//! A [`World`] is a cluster, its clients and everything that can be done to them. It decides
//! nothing: the caller chooses which faults come when, and what clients request; see
//! [`super::schedule`]. The same seed and the same calls give the same run, line by line of
//! its trace; `docs/simulation.md` describes what that takes, and where it ends.

pub mod chance;
mod clock;
mod cluster;
mod disk;
mod durable;
pub mod host;
pub mod network;
pub(crate) mod node;
mod trace;
pub(crate) mod witness;

pub use chance::Dice;
pub use cluster::{Run, Stop, World, WorldOptions, run};
pub use disk::Pace;
pub use host::Death;
pub use network::{FIRST_CLIENT, Link, MachineId};
pub use node::SEGMENT_BYTES;
pub use trace::Digest;
pub use witness::{Amounts, Witnessed};
