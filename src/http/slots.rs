//! Connection slots, and which waiting connection is evicted when they run out.
//!
//! A listener has a bounded number of slots. A connection whose request has not been passed to a
//! handler may be evicted at any moment, because nothing was done for it: it is idle, still sending
//! its head, or still sending its body. When a new connection finds no free slot, the one of these
//! that has waited longest is evicted. So neither idle nor slow connections keep others out.
//!
//! A request is active until the last byte of its answer is written: if the connection were cut
//! before that, the outcome of a write would be unknown to its caller. Handlers have deadlines, an
//! answer that nobody reads is aborted by [`super::write_timeout`], and the bytes of all large answers
//! together are bounded by [`crate::budget`]; a small answer fits into the system's own buffers. A
//! long-lived stream between nodes, such as that of appends, is an answer that is still being
//! written.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The slots of one listener.
#[derive(Default)]
pub(crate) struct Slots {
    waiting: Mutex<Waiting>,
    figures: SlotFigures,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    /// The waiting connections, by how long they wait, longest first.
    by_age: BTreeMap<u64, Arc<Notify>>,
}

impl Waiting {
    /// Lets this connection be evicted from now on. Returns the number under which it waits.
    fn enter(&mut self, leave: &Arc<Notify>) -> u64 {
        self.next += 1;
        self.by_age.insert(self.next, Arc::clone(leave));
        self.next
    }
}

/// The figures of a listener's connections for `/metrics`.
#[derive(Default)]
pub(crate) struct SlotFigures {
    /// Open now.
    pub(crate) open: AtomicU64,
    /// Accepted so far.
    pub(crate) accepted: AtomicU64,
    /// Evicted so far, to make room.
    pub(crate) evicted: AtomicU64,
    /// Refused so far, because every slot was active.
    pub(crate) refused: AtomicU64,
}

impl Slots {
    pub(crate) fn figures(&self) -> &SlotFigures {
        &self.figures
    }

    /// Takes a slot for a connection that waits for its first request.
    /// `from` is the address of its client, if it has one.
    pub(crate) fn take(self: &Arc<Self>, from: Option<SocketAddr>) -> Arc<Slot> {
        self.figures.open.fetch_add(1, Ordering::Relaxed);
        self.figures.accepted.fetch_add(1, Ordering::Relaxed);
        let leave = Arc::<Notify>::default();
        let age = lock(&self.waiting).enter(&leave);
        let stand = Mutex::new(Stand { working: 0, age: Some(age) });
        let watched = AtomicBool::new(false);
        Arc::new(Slot { slots: Arc::clone(self), leave, stand, watched, from })
    }

    /// Evicts the connection that has waited longest; `false` if none waits.
    pub(crate) fn evict_one(&self) -> bool {
        let Some((_, leave)) = lock(&self.waiting).by_age.pop_first() else { return false };
        self.figures.evicted.fetch_add(1, Ordering::Relaxed);
        leave.notify_one();
        true
    }
}

/// One connection's slot; freed when it is dropped.
pub(crate) struct Slot {
    slots: Arc<Slots>,
    leave: Arc<Notify>,
    stand: Mutex<Stand>,
    /// Whether the end of the connection is watched for.
    watched: AtomicBool,
    from: Option<SocketAddr>,
}

/// The state of a slot.
#[derive(Default)]
struct Stand {
    /// Active requests, including those whose answers are not yet written. Pipelined requests
    /// overlap: the next one may begin while the previous answer is still being written.
    working: usize,
    /// The number under which it waits, or was evicted.
    age: Option<u64>,
}

impl Slot {
    /// The address of the client.
    pub(crate) fn from(&self) -> Option<SocketAddr> {
        self.from
    }

    /// Ends one piece of work. After the last one the connection may be evicted.
    fn end_work(&self) {
        let mut stand = lock(&self.stand);
        stand.working -= 1;
        if stand.working > 0 {
            return;
        }
        let mut waiting = lock(&self.slots.waiting);
        // If it is set, the connection has been evicted already, which is final.
        if stand.age.is_none() {
            stand.age = Some(waiting.enter(&self.leave));
        }
    }

    /// Begins one piece of work.
    fn begin_work(&self) {
        let mut stand = lock(&self.stand);
        stand.working += 1;
        if let Some(waited) = stand.age
            && lock(&self.slots.waiting).by_age.remove(&waited).is_some()
        {
            stand.age = None;
        }
        // Otherwise it has just been evicted; the connection ends at its next await.
    }

    /// Marks the slot as active until the guard is dropped; it is not evicted meanwhile.
    pub(crate) fn work(self: &Arc<Self>) -> Working {
        self.begin_work();
        Working(Arc::clone(self))
    }

    /// Marks the work as waiting for the other side until the guard is dropped; the connection
    /// may be evicted meanwhile.
    pub(crate) fn pause(&self) -> Pause<'_> {
        self.end_work();
        Pause(self)
    }

    /// Has the connection end, until the guard is dropped, as soon as the client has closed it: its
    /// request is of no use without it.
    pub(crate) fn watch(self: Arc<Self>) -> WatchedFor {
        self.watched.store(true, Ordering::Relaxed);
        WatchedFor(self)
    }

    /// Whether the connection ends as soon as the client has closed it.
    pub(crate) fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Relaxed)
    }

    /// Resolves when this connection is evicted.
    pub(crate) async fn evicted(&self) {
        self.leave.notified().await;
    }
}

/// Active work in a slot.
pub(crate) struct Working(Arc<Slot>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.end_work();
    }
}

/// A request that ends with its connection.
pub(crate) struct WatchedFor(Arc<Slot>);

impl Drop for WatchedFor {
    fn drop(&mut self) {
        self.0.watched.store(false, Ordering::Relaxed);
    }
}

/// A pause of the active work in a slot.
pub(crate) struct Pause<'a>(&'a Slot);

impl Drop for Pause<'_> {
    fn drop(&mut self) {
        self.0.begin_work();
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(age) = lock(&self.stand).age {
            lock(&self.slots.waiting).by_age.remove(&age);
        }
        self.slots.figures.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Locks a mutex, poisoned or not: each change under these locks is complete, also after a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn is_evicted(slot: &Slot) -> bool {
        tokio::select! {
            biased;
            () = slot.evicted() => true,
            () = std::future::ready(()) => false,
        }
    }

    #[tokio::test]
    async fn the_longest_waiting_leaves_and_a_working_one_stays() {
        let slots = Arc::new(Slots::default());
        let [first, second, third] = [(); 3].map(|()| slots.take(None));
        let at_work = first.work();
        assert!(slots.evict_one());
        assert!(is_evicted(&second).await, "the first is at work, so the second waits longest");
        drop(second.work());
        drop(at_work);
        assert!(slots.evict_one());
        assert!(is_evicted(&third).await && !is_evicted(&first).await);
        let at_work = first.work();
        assert!(!slots.evict_one(), "nobody waits: a slot once lost is not won back");
        drop(at_work);
        drop((first, second, third));
        assert_eq!(slots.figures().open.load(Ordering::Relaxed), 0);
        assert_eq!(slots.figures().evicted.load(Ordering::Relaxed), 2);
        assert!(lock(&slots.waiting).by_age.is_empty());
    }

    #[tokio::test]
    async fn a_place_waits_only_when_nothing_at_all_is_at_work() {
        let slots = Arc::new(Slots::default());
        let slot = slots.take(None);
        let answer_being_written = slot.work();
        let next_request = slot.work();
        drop(answer_being_written);
        assert!(!slots.evict_one(), "the next request is at work");
        let pause = slot.pause();
        assert_eq!(lock(&slots.waiting).by_age.len(), 1, "its body is waited for");
        drop(pause);
        assert!(!slots.evict_one(), "its body is here");
        drop(next_request);
        assert!(slots.evict_one());
    }
}
