//! Tests of the whole through public interfaces alone: one binary, one module for each interface.
//! Those of whole nodes run on real storage in temporary folders, with real HTTP between them.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic, in its helpers too")]

mod audit;
mod cli;
mod clocks;
mod cluster;
mod conformance;
mod endpoints;
mod forming;
mod forwarding;
mod house;
mod leading;
mod levels;
mod transfers;
mod waiting;
