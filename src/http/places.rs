//! Who has to leave when every place is taken.
//!
//! A listener has a bounded number of places. A connection whose request has not been handed to a
//! handler may be put out at any moment, because nothing was done for it: it is idle, still
//! sending its head, or still sending its body. When a newcomer finds no place, the one that has
//! waited longest of these makes room. So neither idle nor slow connections keep others out; only
//! requests at work do, and these have deadlines.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The places of one listener.
#[derive(Default)]
pub(crate) struct Places {
    waiting: Mutex<Waiting>,
    figures: PlaceFigures,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    /// By how long they wait, longest first.
    by_age: BTreeMap<u64, Arc<Notify>>,
}

/// What `/metrics` says of a listener's connections.
#[derive(Default)]
pub(crate) struct PlaceFigures {
    /// Open now.
    pub(crate) open: AtomicU64,
    /// Accepted so far.
    pub(crate) accepted: AtomicU64,
    /// Put out so far, to make room.
    pub(crate) evicted: AtomicU64,
    /// Refused so far, because every place was at work.
    pub(crate) refused: AtomicU64,
}

impl Places {
    pub(crate) fn figures(&self) -> &PlaceFigures {
        &self.figures
    }

    /// A place for a connection that waits for its first request.
    pub(crate) fn take(self: &Arc<Self>) -> Arc<Place> {
        self.figures.open.fetch_add(1, Ordering::Relaxed);
        self.figures.accepted.fetch_add(1, Ordering::Relaxed);
        let place =
            Place { places: Arc::clone(self), leave: Arc::default(), age: Mutex::new(None) };
        place.wait();
        Arc::new(place)
    }

    /// Tells the connection that waits longest to leave; `false` if none waits.
    pub(crate) fn evict_one(&self) -> bool {
        let Some((_, leave)) = lock(&self.waiting).by_age.pop_first() else { return false };
        self.figures.evicted.fetch_add(1, Ordering::Relaxed);
        leave.notify_one();
        true
    }
}

/// One connection's place; given up when it is dropped.
pub(crate) struct Place {
    places: Arc<Places>,
    leave: Arc<Notify>,
    /// Under which number it waits; `None` while a request is at work.
    age: Mutex<Option<u64>>,
}

impl Place {
    /// From now on nothing is lost by leaving.
    pub(crate) fn wait(&self) {
        let mut age = lock(&self.age);
        let mut waiting = lock(&self.places.waiting);
        if let Some(age) = *age {
            // Told to leave already: there is no coming back from that.
            if waiting.by_age.remove(&age).is_none() {
                return;
            }
        }
        waiting.next += 1;
        let next = waiting.next;
        waiting.by_age.insert(next, Arc::clone(&self.leave));
        *age = Some(next);
    }

    /// From now on a request is at work.
    pub(crate) fn work(&self) {
        let mut age = lock(&self.age);
        if let Some(waited) = age.take()
            && lock(&self.places.waiting).by_age.remove(&waited).is_none()
        {
            // Told to leave in this very moment; the connection ends at its next await.
            *age = Some(waited);
        }
    }

    /// Is ready when this connection has to make room.
    pub(crate) async fn told_to_leave(&self) {
        self.leave.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(age) = *lock(&self.age) {
            lock(&self.places.waiting).by_age.remove(&age);
        }
        self.places.figures.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Each change under these locks is whole, so what a panicking thread left is too.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn is_told(place: &Place) -> bool {
        tokio::select! {
            biased;
            () = place.told_to_leave() => true,
            () = std::future::ready(()) => false,
        }
    }

    #[tokio::test]
    async fn the_longest_waiting_leaves_and_a_working_one_stays() {
        let places = Arc::new(Places::default());
        let [first, second, third] = [(); 3].map(|()| places.take());
        first.work();
        assert!(places.evict_one());
        assert!(is_told(&second).await, "the first is at work, so the second waits longest");
        second.wait();
        first.wait();
        assert!(places.evict_one());
        assert!(is_told(&third).await && !is_told(&first).await);
        first.work();
        assert!(!places.evict_one(), "nobody waits: a place once lost is not won back");
        drop((first, second, third));
        assert_eq!(places.figures().open.load(Ordering::Relaxed), 0);
        assert_eq!(places.figures().evicted.load(Ordering::Relaxed), 2);
        assert!(lock(&places.waiting).by_age.is_empty());
    }
}
