//! Consensus: the adaptor between openraft and the rest of the house.
//!
//! With [`crate::node`] the only user of openraft. Its own versioned encodings go to the disk and
//! over the wire; no openraft type is serialised as it comes.

pub mod server;
