//! Consensus: the adaptor between openraft and the rest of the program.
//!
//! Only this module and [`crate::node`] use openraft. The adaptor's own versioned encodings go to
//! the disk and over the wire; no openraft type is serialised directly. It knows nothing of the
//! lock rules.
//!
//! The main parts:
//! - [`member`]: one member, from the data folder to the running core; [`bootstrap`]: finding out
//!   which cluster it belongs to; [`config`]: openraft's configuration; [`stop`]: the signal that
//!   ends the node, with its reason.
//! - Storage: [`log_store`] and [`state_machine`] over [`crate::storage`]; [`checkpoint`] feeds the
//!   copy of the state; [`backup`] makes folders that begin with an earlier state; [`compaction`] decides when a snapshot is due and what the log keeps;
//!   [`stamper`] is the cluster clock; an [`Observer`] sees what is applied.
//! - Messages between members: [`handshake`] identifies the sender, [`peer`] sends calls, [`network`]
//!   sends openraft's requests, [`commit_filter`] suppresses those that need not be sent, [`inbound`]
//!   serves incoming requests, and [`codec`] is their encoding. [`leader_watch`] detects the end of a
//!   leader's process, [`leadership`] notifies requests that wait for a leader, [`absence`]
//!   reports the members that a leader has lost, and [`levels`] tells what all members' programs
//!   support.

pub(crate) mod absence;
pub mod backup;
pub mod bootstrap;
pub(crate) mod checkpoint;
pub mod codec;
pub(crate) mod commit_filter;
pub(crate) mod compaction;
pub(crate) mod config;
pub(crate) mod describe;
mod fields;
pub mod handshake;
pub(crate) mod inbound;
pub(crate) mod leader_watch;
pub(crate) mod leadership;
pub(crate) mod levels;
pub(crate) mod log_store;
pub(crate) mod member;
pub(crate) mod network;
mod observer;
pub(crate) mod peer;
pub mod runtime;
mod said;
pub(crate) mod stamper;
pub(crate) mod state_machine;
pub(crate) mod stop;
pub mod types;
pub(crate) mod waiters;
pub(crate) mod ways;

pub use member::{Surroundings, load};
pub use observer::{AppliedEntry, Observer};
pub use peer::{Channel, paths};
