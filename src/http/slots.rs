//! Connection slots, and which waiting connection is evicted when they run out.
//!
//! A listener has a bounded number of slots. A connection whose request has not been passed to a
//! handler may be evicted at any moment, because nothing was done for it: it is idle, still sending
//! its head, or still sending its body. When a new connection finds no free slot, the one of these
//! that has waited longest is evicted. So neither idle nor slow connections keep others out.
//!
//! One address has a part of the slots only, so that it cannot take all of them even with requests that
//! are active. Beyond that, one of its own connections is evicted, or the new one is refused.
//!
//! A request is active until the last byte of its answer is written: if the connection were cut
//! before that, the outcome of a write would be unknown to its caller. Handlers have deadlines, an
//! answer that nobody reads is aborted by [`super::write_timeout`], and the bytes of all large answers
//! together are bounded by [`crate::budget`]; a small answer fits into the system's own buffers. A
//! long-lived stream between nodes, such as that of appends, is an answer that is still being
//! written.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::rates::Network;

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
    by_age: BTreeMap<u64, (Arc<Notify>, Option<Network>)>,
    /// The addresses that have a connection.
    by_address: HashMap<Network, OfAddress>,
}

/// The connections of one address.
#[derive(Default)]
struct OfAddress {
    open: usize,
    /// The numbers under which some of them wait.
    waiting: BTreeSet<u64>,
}

impl Waiting {
    /// Lets this connection be evicted from now on. Returns the number under which it waits.
    fn enter(&mut self, leave: &Arc<Notify>, address: Option<Network>) -> u64 {
        self.next += 1;
        self.by_age.insert(self.next, (Arc::clone(leave), address));
        if let Some(of_address) = address.and_then(|address| self.by_address.get_mut(&address)) {
            of_address.waiting.insert(self.next);
        }
        self.next
    }

    /// Keeps a connection from being evicted; `None` if it does not wait, or was evicted.
    fn leave(&mut self, age: u64) -> Option<Arc<Notify>> {
        let (leave, address) = self.by_age.remove(&age)?;
        if let Some(of_address) = address.and_then(|address| self.by_address.get_mut(&address)) {
            of_address.waiting.remove(&age);
        }
        Some(leave)
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
    /// Refused so far, because their address had as many as it may.
    pub(crate) limited: AtomicU64,
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
        let address = from.map(|from| Network::from(from.ip()));
        let mut waiting = lock(&self.waiting);
        if let Some(address) = address {
            waiting.by_address.entry(address).or_default().open += 1;
        }
        let age = waiting.enter(&leave, address);
        drop(waiting);
        let stand = Mutex::new(Stand { working: 0, age: Some(age) });
        let watched = AtomicBool::new(false);
        Arc::new(Slot { slots: Arc::clone(self), leave, stand, watched, from })
    }

    /// Evicts the connection that has waited longest; `false` if none waits.
    pub(crate) fn evict_one(&self) -> bool {
        let mut waiting = lock(&self.waiting);
        let longest = waiting.by_age.first_key_value().map(|(age, _)| *age);
        self.evict(longest.and_then(|age| waiting.leave(age)))
    }

    /// Makes room for another connection of this address, if each may have so many: when it has
    /// them all, the one of its own that has waited longest is evicted. Returns whether one was;
    /// `None` if there is no room.
    pub(crate) fn make_room_for(&self, from: SocketAddr, most: usize) -> Option<bool> {
        let mut waiting = lock(&self.waiting);
        let of_address = waiting.by_address.get(&Network::from(from.ip()));
        let Some(of_address) = of_address.filter(|of_address| of_address.open >= most) else {
            return Some(false);
        };
        let longest = of_address.waiting.first().copied();
        self.evict(longest.and_then(|age| waiting.leave(age))).then_some(true)
    }

    fn evict(&self, leave: Option<Arc<Notify>>) -> bool {
        let Some(leave) = leave else { return false };
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

    fn address(&self) -> Option<Network> {
        self.from.map(|from| Network::from(from.ip()))
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
            stand.age = Some(waiting.enter(&self.leave, self.address()));
        }
    }

    /// Begins one piece of work.
    fn begin_work(&self) {
        let mut stand = lock(&self.stand);
        stand.working += 1;
        if let Some(waited) = stand.age
            && lock(&self.slots.waiting).leave(waited).is_some()
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
        let age = lock(&self.stand).age;
        let mut waiting = lock(&self.slots.waiting);
        if let Some(age) = age {
            waiting.leave(age);
        }
        if let Some(address) = self.address()
            && let Some(of_address) = waiting.by_address.get_mut(&address)
        {
            of_address.open -= 1;
            if of_address.open == 0 {
                waiting.by_address.remove(&address);
            }
        }
        drop(waiting);
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
    async fn an_address_that_has_all_it_may_have_makes_room_by_itself() {
        let slots = Arc::new(Slots::default());
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (near, far) = (at("10.0.0.1:1"), at("10.0.0.2:1"));
        let other = slots.take(Some(far));
        let first = slots.take(Some(near));
        let second = slots.take(Some(at("[::ffff:10.0.0.1]:2")));
        assert_eq!(slots.make_room_for(near, 3), Some(false), "there is room");
        assert!(!is_evicted(&first).await);
        assert_eq!(slots.make_room_for(near, 2), Some(true));
        assert!(is_evicted(&first).await && !is_evicted(&second).await);
        assert!(!is_evicted(&other).await, "it has waited longest, and is of another address");
        let at_work = second.work();
        let room = slots.make_room_for(near, 2);
        assert_eq!(room, None, "the evicted one is not gone, the other at work");
        assert_eq!(slots.make_room_for(far, 2), Some(false));
        drop(first);
        assert_eq!(slots.make_room_for(near, 2), Some(false));
        drop(at_work);
        drop((second, other));
        assert!(lock(&slots.waiting).by_address.is_empty());
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
