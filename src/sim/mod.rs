//! Whole clusters in one thread, on virtual time, from one seed.
//!
//! Real are: openraft, the lock machine, stamping and expiry, the proposer and the reader, what
//! forwards, the routers of both listeners with all that they read and write, the client with its
//! retries and guards, and the log, vote, snapshot and identity code. Simulated are what is under
//! them: [`network`], [`disk`], [`clock`], and the processes themselves, [`host`]. sled is left out:
//! a node starts from snapshot and log, as it does whenever its copy of the state is not accepted.
//!
//! A [`World`] is a cluster, its clients and everything that can be done to them. It decides
//! nothing: which faults come when, and what clients ask, is up to whoever runs it; see
//! `cluster-tests/src/sim/`. The same seed and the same calls give the same run, line by line
//! of its trace; `docs/simulation.md` says what that takes, and where it ends.

pub mod chance;
mod clock;
mod disk;
pub mod host;
pub mod network;
pub(crate) mod node;
pub(crate) mod runtime;
mod trace;
mod watch;
pub(crate) mod witness;
mod world;

pub use chance::Dice;
pub use disk::Pace;
pub use host::Death;
pub use network::{FIRST_CLIENT, Link, MachineId};
pub use node::SEGMENT_BYTES;
pub use trace::Digest;
pub use witness::{Amounts, Witnessed};
pub use world::{Run, Stop, World, WorldOptions, run};
