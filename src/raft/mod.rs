//! Consensus: the adaptor between openraft and the rest of the house.
//!
//! With [`crate::node`] the only user of openraft. Its own versioned encodings go to the disk and
//! over the wire; no openraft type is serialised as it comes. It decides nothing about locks.
//!
//! What holds it together, and where to look next:
//! - [`member`]: one member from the data folder to the running core; [`bootstrap`]: how it finds
//!   out which cluster it belongs to; [`config`]: how openraft is set up; [`stop`]: why it ends.
//! - Storage: [`log_store`] and [`state_machine`] over [`crate::storage`]; [`checkpoint`] feeds the
//!   copy of the state; [`compaction`] says when a snapshot is due and what the log keeps;
//!   [`stamper`] tells the cluster clock.
//! - Members among each other: [`hello`] says who speaks, [`peer`] calls, [`network`] is what
//!   openraft sends and [`sparing`] what of it need not go, [`inbound`] what it is asked; [`codec`] is what all that is as bytes; [`vigil`]
//!   notices a leader's end, [`leadership`] tells who waits for the next, and [`absence`] reports the
//!   members that a leader has lost.

pub(crate) mod absence;
pub(crate) mod bootstrap;
pub(crate) mod checkpoint;
pub(crate) mod codec;
pub(crate) mod compaction;
pub(crate) mod config;
pub(crate) mod describe;
mod fields;
pub(crate) mod hello;
pub(crate) mod inbound;
pub(crate) mod leadership;
pub(crate) mod log_store;
pub(crate) mod member;
pub(crate) mod network;
pub(crate) mod peer;
mod said;
pub(crate) mod sparing;
pub(crate) mod stamper;
pub(crate) mod state_machine;
pub(crate) mod stop;
pub(crate) mod types;
pub(crate) mod vigil;
