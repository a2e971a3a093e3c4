//! What can be pointed at any lock service, Keyward's or another's.
//!
//! [`conformance`] is the contract as scripts, which run on anything that implements
//! [`keyward_core::LockService`]. [`mod@bench`] has workloads and their measurement, which run on anything
//! that implements [`bench::Target`]. [`report`] is the frame of their HTML pages.

pub mod bench;
pub mod conformance;
pub mod processes;
pub mod report;
