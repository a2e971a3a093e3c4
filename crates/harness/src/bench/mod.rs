//! Workloads on lock services, and their measurement.
//!
//! `keyward bench` runs them on Keyward; anything that implements [`Target`] can be measured by the
//! same workloads, in the same run. [`run()`] takes a [`Plan`] and returns a [`Measurement`];
//! `pace` decides when an operation is due, `worker` what a client does next, `counts` what is
//! counted.
//!
//! A measurement must not flatter: an operation is timed from when it was due, an operation that
//! still waits when the time is up counts with the time it has waited, failures are classified and
//! never dropped, and the load generator's own processor time stands beside the servers'.

mod counts;
mod http;
mod keyward;
mod measurement;
mod pace;
mod plan;
mod run;
mod target;
mod text;
mod worker;

#[cfg(test)]
mod tests;

pub use crate::processes::{Usage, listener_of, usage_of};
pub use counts::Operation;
pub use http::Http;
pub use keyward::{Clients, Services};
pub use measurement::{
    Distribution, Interval, IntervalFigures, Measurement, NodeFigures, OperationFigures,
};
pub use pace::Pace;
pub use plan::{Plan, Workload};
pub use run::{NodeUsage, Observer, run};
pub use target::{Failure, Owner, Target};
