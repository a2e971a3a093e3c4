//! A process on a simulated machine: the tasks that are frozen and ended together.
//!
//! Every task that is started while one of a host's tasks is polled belongs to that host. A frozen
//! host's tasks are not polled, though timers and messages go on around it, as for a process that
//! was sent SIGSTOP. A host that has died never runs again: its tasks are dropped where they stand,
//! and nothing that they do on drop reaches disk or network.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use keyward::task::{self, Task};

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

impl Host {
    pub(crate) fn new(name: String) -> Arc<Self> {
        Arc::new(Self { name, state: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a task of this host.
    pub(crate) fn spawn<F>(self: &Arc<Self>, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let _entered = task::enter(self.clone());
        tokio::spawn(task::of_host(future));
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

impl task::Host for Host {
    fn adopt(self: Arc<Self>, future: Task) -> Task {
        Box::pin(Adopted { host: self, slot: None, future: Some(future) })
    }

    /// A short random time.
    fn before_blocking(&self) -> Task {
        let patience: u64 = keyward::random::number();
        Box::pin(tokio::time::sleep(Duration::from_millis(patience % 8)))
    }
}

/// A task that runs only while its host does.
struct Adopted {
    host: Arc<Host>,
    slot: Option<u64>,
    future: Option<Task>,
}

impl Adopted {
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
        let _entered = task::enter(self.host.clone());
        self.future = None;
        if let Some(slot) = self.slot.take() {
            self.host.lock().tasks.remove(&slot);
        }
    }
}

impl Future for Adopted {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let host = self.host.clone();
        if !self.may_run(&host, context.waker()) {
            if !host.is_alive() {
                self.end();
            }
            return Poll::Pending;
        }
        let Some(future) = &mut self.future else { return Poll::Pending };
        let polled = {
            let _entered = task::enter(host.clone());
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

impl Drop for Adopted {
    fn drop(&mut self) {
        self.end();
    }
}
