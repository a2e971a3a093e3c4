//! Starts the built `keyward` program as real processes and tests it from outside.
//!
//! It sees the program as its users do: through the client, the HTTP API, the command line, the
//! exit code, the log and the files. Only [`sim`], whole clusters in one thread on virtual time, calls
//! into the server's code.
//!
//! One module per noun: [`ask`] builds requests, [`binary`] finds the program, [`process`] is one
//! running process, [`proxy`] is one link of the network, [`cluster`] is nodes, links and data
//! folders together, [`load`] makes work, [`history`] records
//! everything, [`check`] judges it, [`limits`] sends requests at the service's limits, [`hostile`]
//! are clients that mean harm, [`register`] is what locks guard, [`turns`] waits and shares, [`chaos`] installs faults by a schedule, [`powercut`] is a disk that loses
//! unsynced data, [`damage`] damages files, [`issuer`] signs JWTs, [`trace`] reads the output of `strace`, [`walltime`]
//! steps a process's wall clock, [`wait`] polls with a deadline.
//!
//! Invariants: every process is ended through the handle that started it, and waited for; no port
//! is fixed; nothing is left in the temporary folder unless a test failed.

pub mod ask;
pub mod binary;
pub mod certificates;
pub mod chaos;
pub mod check;
pub mod cluster;
pub mod damage;
pub mod history;
pub mod hostile;
pub mod issuer;
pub mod limits;
pub mod load;
#[cfg(feature = "model")]
pub mod model;
#[cfg(feature = "peers")]
pub mod peers;
pub mod powercut;
pub mod process;
pub mod proxy;
pub mod register;
pub mod seed;
pub mod sim;
pub mod trace;
pub mod turns;
pub mod wait;
pub mod walltime;
