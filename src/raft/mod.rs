//! Consensus: the adaptor between openraft and the rest of the house.
//!
//! With [`crate::node`] the only user of openraft. Its own versioned encodings go to the disk and
//! over the wire; no openraft type is serialised as it comes.

pub(crate) mod bootstrap;
pub(crate) mod checkpoint;
pub(crate) mod codec;
pub(crate) mod config;
pub(crate) mod describe;
pub(crate) mod inbound;
pub(crate) mod log_store;
pub(crate) mod member;
pub(crate) mod network;
pub(crate) mod peer;
pub(crate) mod stamper;
pub(crate) mod state_machine;
pub(crate) mod stop;
pub(crate) mod types;
