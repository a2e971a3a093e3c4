//! Workloads on lock services, and their measurement.
//!
//! `keyward bench` runs them on Keyward; anything that implements [`Target`] can be measured by the
//! same workloads, in the same run.

mod target;

pub use target::{Failure, Session, Target};
