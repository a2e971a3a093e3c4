//! How work is started: as a task beside others, or where waiting for a disk holds up nobody.
//!
//! One place, so that a whole machine can be frozen and ended by its tasks where several of them
//! live in one process.

/// The future as a task of the machine that starts it.
pub(crate) fn of_host<F: Future>(future: F) -> F {
    future
}

/// Runs what waits for the disk or computes for long.
#[cfg(feature = "server")]
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)
}
