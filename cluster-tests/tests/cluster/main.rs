//! Three real nodes: what they promise, held against what may happen to them.
//!
//! Each module is one kind of trouble; `alone` holds what measures time or use, and runs with
//! nothing beside it. Every scenario ends by showing that nothing acknowledged is lost.

mod alone;
mod boundaries;
mod conformance;
mod damage;
mod failover;
mod hooks;
mod identity;
mod kills;
mod limits;
mod partitions;
mod restarts;
mod tables;
mod tour;
mod wall_clock;
