//! A watched value whose watchers are woken in the order in which they began to wait.
//!
//! tokio's own spreads its watchers over several lists at random, from a source that is not seeded
//! here; the order in which they wake is the order in which a run goes on.

use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock, RwLockReadGuard};

use openraft::OptionalSend;
use openraft::async_runtime::watch::{self, RecvError, SendError};
use tokio::sync::Notify;

/// The channel type that openraft requires.
pub(crate) struct Watch;

struct Shared<T> {
    /// The value, and how often it has changed.
    value: RwLock<(T, u64)>,
    changed: Notify,
    senders: AtomicUsize,
    receivers: AtomicUsize,
}

/// Changes the value.
pub(crate) struct Sender<T>(Arc<Shared<T>>);

/// Observes its changes.
pub(crate) struct Receiver<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

/// The value while it is borrowed.
pub(crate) struct Ref<'a, T>(RwLockReadGuard<'a, (T, u64)>);

impl<T> Deref for Ref<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.0
    }
}

impl<T> Shared<T> {
    fn look(&self) -> Ref<'_, T> {
        Ref(self.value.read().expect("a panic ends the process that has the value"))
    }

    fn modify(&self, modify: impl FnOnce(&mut T) -> bool) -> bool {
        let changed = {
            let mut value = self.value.write().expect("a panic ends the process");
            let changed = modify(&mut value.0);
            value.1 += u64::from(changed);
            changed
        };
        if changed {
            self.changed.notify_waiters();
        }
        changed
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.senders.fetch_add(1, Ordering::Relaxed);
        Self(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.0.senders.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.changed.notify_waiters();
        }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.shared.receivers.fetch_add(1, Ordering::Relaxed);
        Self { shared: self.shared.clone(), seen: self.seen }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.receivers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl watch::Watch for Watch {
    type Sender<T: OptionalSend + openraft::OptionalSync> = Sender<T>;
    type Receiver<T: OptionalSend + openraft::OptionalSync> = Receiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = Ref<'a, T>;

    fn channel<T: OptionalSend + openraft::OptionalSync>(init: T) -> (Sender<T>, Receiver<T>) {
        let shared = Arc::new(Shared {
            value: RwLock::new((init, 0)),
            changed: Notify::new(),
            senders: AtomicUsize::new(1),
            receivers: AtomicUsize::new(1),
        });
        (Sender(shared.clone()), Receiver { shared, seen: 0 })
    }
}

impl<T: OptionalSend + openraft::OptionalSync> watch::WatchSender<Watch, T> for Sender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        if self.0.receivers.load(Ordering::Relaxed) == 0 {
            return Err(SendError(value));
        }
        self.0.modify(|current| {
            *current = value;
            true
        });
        Ok(())
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        self.0.modify(modify)
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        self.0.look()
    }

    fn subscribe(&self) -> Receiver<T> {
        self.0.receivers.fetch_add(1, Ordering::Relaxed);
        let seen = self.0.look().0.1;
        Receiver { shared: self.0.clone(), seen }
    }
}

impl<T: OptionalSend + openraft::OptionalSync> watch::WatchReceiver<Watch, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        loop {
            let changed = self.shared.changed.notified();
            let now = self.shared.look().0.1;
            if now != self.seen {
                self.seen = now;
                return Ok(());
            }
            if self.shared.senders.load(Ordering::Relaxed) == 0 {
                return Err(RecvError(()));
            }
            changed.await;
        }
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        self.shared.look()
    }

    fn borrow_and_update(&mut self) -> Ref<'_, T> {
        let look = self.shared.look();
        self.seen = look.0.1;
        look
    }
}
