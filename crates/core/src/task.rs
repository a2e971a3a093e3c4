//! The start of work: as a task beside others, or where waiting for a disk blocks nothing else.
//!
//! It has one place, so that a simulation can freeze and end a whole machine by its tasks, and run
//! all of them in one thread.

/// A value that takes long to drop: it is dropped on a thread of its own, where that blocks nothing
/// else.
pub struct DroppedAside<T: Send + 'static>(Option<T>);

impl<T: Send + 'static> DroppedAside<T> {
    /// Takes the value, to drop it aside later.
    pub fn new(value: T) -> Self {
        Self(Some(value))
    }
}

impl<T: Send + 'static> std::ops::Deref for DroppedAside<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("only drop takes it")
    }
}

impl<T: Send + 'static> std::ops::DerefMut for DroppedAside<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("only drop takes it")
    }
}

impl<T: Send + 'static> Drop for DroppedAside<T> {
    fn drop(&mut self) {
        let value = self.0.take();
        let thread = std::thread::Builder::new().name("keyward-drop".to_owned());
        if let Err(error) = thread.spawn(move || drop(value)) {
            tracing::debug!(%error, "no thread is left to drop something on, so it was done here");
        }
    }
}

/// The future as a task of the machine that starts it.
pub fn of_host<F: Future>(future: F) -> F {
    future
}

/// Runs work that waits for the disk or computes for long.
///
/// # Errors
/// If the work panicked, or the runtime is shutting down.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)
}
