//! The start of work: as a task beside others, or where waiting for a disk blocks nothing else.
//!
//! It has one place, so that a simulation can freeze and end a whole machine by its tasks, and run
//! all of them in one thread: it polls them with a [`Host`] entered. Without one, which costs a check,
//! a task is the future that it was made of.

use std::cell::RefCell;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::{BoxFuture, Either};

/// A task of a host.
pub type Task = BoxFuture<'static, ()>;

/// A process in a simulation, to which the tasks belong that are started while it is entered.
pub trait Host: Send + Sync + 'static {
    /// Makes the future a task of this host: it is polled, with the host entered, only while the host
    /// runs. It is called where the task is started.
    fn adopt(self: Arc<Self>, task: Task) -> Task;

    /// The time that work takes before it is done, on the thread that waits for it.
    fn before_blocking(&self) -> Task;
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<dyn Host>>> = const { RefCell::new(None) };
}

fn current() -> Option<Arc<dyn Host>> {
    CURRENT.with_borrow(Clone::clone)
}

/// A guard: while it lives, tasks that this thread starts belong to the host it was made for.
#[must_use = "the host is left when this is dropped"]
pub struct Entered(Option<Arc<dyn Host>>);

/// Enters a host until the guard is dropped, which returns to the host entered before.
pub fn enter(host: Arc<dyn Host>) -> Entered {
    Entered(CURRENT.replace(Some(host)))
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

/// Makes the future a task of the host that is entered, if there is one.
pub fn of_host<F>(future: F) -> Either<F, BoxFuture<'static, F::Output>>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    match current() {
        None => Either::Left(future),
        Some(host) => Either::Right(adopted(host, future)),
    }
}

fn adopted<F>(host: Arc<dyn Host>, future: F) -> BoxFuture<'static, F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let output = Arc::new(Mutex::new(None));
    let done = Arc::clone(&output);
    let task = host.adopt(Box::pin(async move {
        let output = future.await;
        *done.lock().unwrap_or_else(PoisonError::into_inner) = Some(output);
    }));
    Box::pin(async move {
        task.await;
        let output = output.lock().unwrap_or_else(PoisonError::into_inner).take();
        output.expect("a host ends a task by dropping it, or lets it come to its end")
    })
}

/// Runs work that waits for the disk or computes for long, on a thread for that.
///
/// # Errors
/// If the work has panicked, or the runtime ends.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<T> {
    if let Some(host) = current() {
        host.before_blocking().await;
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)
}

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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// A host that counts its tasks, and how often work has blocked.
    #[derive(Default)]
    struct Counting {
        tasks: AtomicU32,
        blocked: AtomicU32,
    }

    impl Host for Counting {
        fn adopt(self: Arc<Self>, task: Task) -> Task {
            self.tasks.fetch_add(1, Ordering::Relaxed);
            task
        }

        fn before_blocking(&self) -> Task {
            self.blocked.fetch_add(1, Ordering::Relaxed);
            Box::pin(async {})
        }
    }

    #[tokio::test]
    async fn a_task_belongs_to_the_host_that_is_entered_where_it_starts() {
        let [outer, inner] = [Arc::<Counting>::default(), Arc::<Counting>::default()];
        let tasks = || [&outer, &inner].map(|host| host.tasks.load(Ordering::Relaxed));
        let entered = enter(outer.clone());
        {
            let _entered = enter(inner.clone());
            assert_eq!(of_host(async { "in" }).await, "in");
        }
        assert_eq!(of_host(async { "out" }).await, "out");
        drop(entered);
        assert!(matches!(of_host(async {}), Either::Left(_)), "it is as it was");
        assert_eq!(tasks(), [1, 1]);
    }

    #[tokio::test]
    async fn a_host_decides_when_blocking_work_is_done() {
        let here = std::thread::current().id();
        let thread = || std::thread::current().id();
        assert_ne!(blocking(thread).await.unwrap(), here);
        let host = Arc::<Counting>::default();
        let _entered = enter(host.clone());
        assert_eq!(blocking(thread).await.unwrap(), here);
        assert_eq!(host.blocked.load(Ordering::Relaxed), 1);
    }
}
