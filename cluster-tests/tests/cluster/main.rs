//! Three real nodes: their promises, tested against faults.
//!
//! Each module is one kind of fault; `alone` contains the tests that measure time or usage, and
//! runs with nothing beside it. Every scenario ends by showing that nothing acknowledged is lost.

mod access;
mod alone;
mod backup;
mod boundaries;
mod conformance;
mod damage;
mod failover;
mod hooks;
mod hostile;
mod identity;
mod jwt;
mod kills;
mod limits;
mod partitions;
mod readme;
mod restarts;
mod tables;
mod tls;
mod tour;
mod wall_clock;
