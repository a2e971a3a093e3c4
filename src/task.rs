//! How work is started: as a task beside others, or where waiting for a disk holds up nobody.
//!
//! One place, so that a simulation can freeze and end a whole machine by its tasks, and run all of
//! them in one thread.

#[cfg(feature = "simulation")]
pub(crate) use crate::sim::host::{blocking, of_host};

/// The future as a task of the machine that starts it.
#[cfg(not(feature = "simulation"))]
pub(crate) fn of_host<F: Future>(future: F) -> F {
    future
}

/// Runs what waits for the disk or computes for long.
#[cfg(all(feature = "server", not(feature = "simulation")))]
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)
}
