//! Tests of the whole, through public doors alone: one binary, one module for each door. Those of
//! whole nodes run on real storage in temporary folders, with real HTTP between them.

mod cli;
mod cluster;
mod conformance;
mod forming;
mod leading;
