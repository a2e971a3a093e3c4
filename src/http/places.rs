//! Who has to leave when every place is taken.
//!
//! A listener has a bounded number of places. A connection whose request has not been handed to a
//! handler may be put out at any moment, because nothing was done for it: it is idle, still
//! sending its head, or still sending its body. When a newcomer finds no place, the one that has
//! waited longest of these makes room. So neither idle nor slow connections keep others out.
//!
//! A request is at work until the last byte of its answer is written: cut off before that, a write
//! that was done would be unknown to its caller. Handlers have deadlines, an answer that nobody
//! reads is given up by [`super::stall`], and the bytes of all large answers together are bounded
//! by [`crate::budget`]; a small answer fits into the system's own buffers. An exchange between
//! nodes that goes on, such as the log's, is an answer that is still being written.

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

impl Waiting {
    /// From now on this connection may be told to leave; the number under which it waits.
    fn enter(&mut self, leave: &Arc<Notify>) -> u64 {
        self.next += 1;
        self.by_age.insert(self.next, Arc::clone(leave));
        self.next
    }
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
        let leave = Arc::<Notify>::default();
        let age = lock(&self.waiting).enter(&leave);
        let stand = Mutex::new(Stand { working: 0, age: Some(age) });
        Arc::new(Place { places: Arc::clone(self), leave, stand })
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
    stand: Mutex<Stand>,
}

/// How a place stands.
#[derive(Default)]
struct Stand {
    /// Requests at work and answers not yet written. Pipelined requests overlap: the next one may
    /// begin while the answer before it is still on its way.
    working: usize,
    /// The number under which it waits, or was told to leave.
    age: Option<u64>,
}

impl Place {
    /// One thing less is at work. After the last one nothing is lost by leaving.
    fn end_work(&self) {
        let mut stand = lock(&self.stand);
        stand.working -= 1;
        if stand.working > 0 {
            return;
        }
        let mut waiting = lock(&self.places.waiting);
        // Told to leave already: there is no coming back from that.
        if stand.age.is_none() {
            stand.age = Some(waiting.enter(&self.leave));
        }
    }

    /// One thing more is at work.
    fn begin_work(&self) {
        let mut stand = lock(&self.stand);
        stand.working += 1;
        if let Some(waited) = stand.age
            && lock(&self.places.waiting).by_age.remove(&waited).is_some()
        {
            stand.age = None;
        }
        // Otherwise it was told to leave in this very moment; the connection ends at its next await.
    }

    /// Something is at work until the guard is dropped; the place is not evicted meanwhile.
    pub(crate) fn work(self: &Arc<Self>) -> Working {
        self.begin_work();
        Working(Arc::clone(self))
    }

    /// The work waits for the other side until the guard is dropped, and nothing is lost by
    /// leaving.
    pub(crate) fn pause(&self) -> Pause<'_> {
        self.end_work();
        Pause(self)
    }

    /// Resolves when this connection has to make room.
    pub(crate) async fn told_to_leave(&self) {
        self.leave.notified().await;
    }
}

/// Something at work at a place.
pub(crate) struct Working(Arc<Place>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.end_work();
    }
}

/// A pause of what is at work at a place.
pub(crate) struct Pause<'a>(&'a Place);

impl Drop for Pause<'_> {
    fn drop(&mut self) {
        self.0.begin_work();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(age) = lock(&self.stand).age {
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
        let at_work = first.work();
        assert!(places.evict_one());
        assert!(is_told(&second).await, "the first is at work, so the second waits longest");
        drop(second.work());
        drop(at_work);
        assert!(places.evict_one());
        assert!(is_told(&third).await && !is_told(&first).await);
        let at_work = first.work();
        assert!(!places.evict_one(), "nobody waits: a place once lost is not won back");
        drop(at_work);
        drop((first, second, third));
        assert_eq!(places.figures().open.load(Ordering::Relaxed), 0);
        assert_eq!(places.figures().evicted.load(Ordering::Relaxed), 2);
        assert!(lock(&places.waiting).by_age.is_empty());
    }

    #[tokio::test]
    async fn a_place_waits_only_when_nothing_at_all_is_at_work() {
        let places = Arc::new(Places::default());
        let place = places.take();
        let answer_being_written = place.work();
        let next_request = place.work();
        drop(answer_being_written);
        assert!(!places.evict_one(), "the next request is at work");
        let pause = place.pause();
        assert_eq!(lock(&places.waiting).by_age.len(), 1, "its body is waited for");
        drop(pause);
        assert!(!places.evict_one(), "its body is here");
        drop(next_request);
        assert!(places.evict_one());
    }
}
