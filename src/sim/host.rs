//! A process on a simulated machine: the tasks that are frozen and ended together.
//!
//! Every task that is started while one of a host's tasks is polled belongs to that host. A frozen
//! host's tasks are not polled, though timers and messages go on around it, as for a process that
//! was sent SIGSTOP. A host that has died never runs again: its tasks are dropped where they stand,
//! and nothing that they do on drop reaches disk or network.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::chance;
use super::witness::Witness;

/// The way in which a host has died.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Death {
    /// The process was killed: the machine stays up, refuses connections, and keeps what was
    /// written.
    Killed,
    /// The machine lost power: it does not respond, and loses what was not synced.
    PowerCut,
}

/// A process on a machine.
pub(crate) struct Host {
    /// The name in the trace.
    pub(crate) name: String,
    /// Observes what the host applies, if it is a node's.
    pub(crate) witness: Option<Arc<Witness>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    death: Option<Death>,
    frozen: bool,
    next: u64,
    /// The tasks, in the order they were started in.
    tasks: BTreeMap<u64, Waker>,
    panic: Option<String>,
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<Host>>> = const { RefCell::new(None) };
}

/// The host whose task is being polled.
pub(crate) fn current() -> Option<Arc<Host>> {
    CURRENT.with_borrow(Clone::clone)
}

/// Makes a host the current one until it is dropped.
struct Entered(Option<Arc<Host>>);

impl Entered {
    fn new(host: &Arc<Host>) -> Self {
        Self(CURRENT.replace(Some(host.clone())))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

impl Host {
    pub(crate) fn new(name: String, witness: Option<Arc<Witness>>) -> Arc<Self> {
        Arc::new(Self { name, witness, state: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a task of this host.
    pub(crate) fn spawn<F>(self: &Arc<Self>, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let _entered = Entered::new(self);
        tokio::spawn(of_host(future));
    }

    pub(crate) fn death(&self) -> Option<Death> {
        self.lock().death
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.death().is_none()
    }

    /// The message of the first panic of its tasks.
    pub(crate) fn panic(&self) -> Option<String> {
        self.lock().panic.clone()
    }

    /// Ends the host. The first death counts.
    pub(crate) fn die(&self, death: Death) {
        let mut state = self.lock();
        state.death.get_or_insert(death);
        wake_all(state);
    }

    /// Stops running its tasks until [`Host::thaw`].
    pub(crate) fn freeze(&self) {
        self.lock().frozen = true;
    }

    /// Lets its tasks run again.
    pub(crate) fn thaw(&self) {
        let mut state = self.lock();
        state.frozen = false;
        wake_all(state);
    }
}

fn wake_all(state: MutexGuard<'_, State>) {
    let wakers: Vec<Waker> = state.tasks.values().cloned().collect();
    drop(state);
    for waker in wakers {
        waker.wake();
    }
}

/// Wraps the future as a task of the current host; without a host it runs as it is.
pub(crate) fn of_host<F: Future>(future: F) -> OfHost<F> {
    OfHost { host: current(), slot: None, future: Some(Box::pin(future)) }
}

/// A future that runs only while its host does.
pub(crate) struct OfHost<F> {
    host: Option<Arc<Host>>,
    slot: Option<u64>,
    future: Option<Pin<Box<F>>>,
}

impl<F> OfHost<F> {
    /// Whether the host lets the task run now. It is woken when that may have changed.
    fn may_run(&mut self, host: &Host, waker: &Waker) -> bool {
        let mut state = host.lock();
        if state.death.is_some() {
            return false;
        }
        let slot = *self.slot.get_or_insert(state.next);
        state.next = state.next.max(slot + 1);
        match state.tasks.get_mut(&slot) {
            Some(known) => known.clone_from(waker),
            None => drop(state.tasks.insert(slot, waker.clone())),
        }
        !state.frozen
    }

    /// Drops the future as a task of its host, and removes the task from the host.
    fn end(&mut self) {
        let Some(host) = &self.host else { return };
        let _entered = Entered::new(host);
        self.future = None;
        if let Some(slot) = self.slot.take() {
            host.lock().tasks.remove(&slot);
        }
    }
}

impl<F: Future> Future for OfHost<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Some(host) = self.host.clone() else {
            return self.future.as_mut().expect("polled once it was ready").as_mut().poll(context);
        };
        if !self.may_run(&host, context.waker()) {
            if !host.is_alive() {
                self.end();
            }
            return Poll::Pending;
        }
        let Some(future) = &mut self.future else { return Poll::Pending };
        let polled = {
            let _entered = Entered::new(&host);
            catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context)))
        };
        match polled {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(ready) => {
                self.end();
                ready
            }
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text =
                    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                host.lock().panic.get_or_insert(text.unwrap_or_else(|| "a panic".to_owned()));
                // As in production: a panic ends the process.
                host.die(Death::Killed);
                self.end();
                resume_unwind(panic)
            }
        }
    }
}

impl<F> Drop for OfHost<F> {
    fn drop(&mut self) {
        self.end();
    }
}

/// Runs work that waits for the disk or computes for long: in a simulation on this thread, after a
/// short random delay; otherwise on a thread for blocking work.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    if !chance::is_dealt() {
        return tokio::task::spawn_blocking(work).await.map_err(io::Error::other);
    }
    let patience: u64 = crate::random::number();
    tokio::time::sleep(Duration::from_millis(patience % 8)).await;
    Ok(work())
}
