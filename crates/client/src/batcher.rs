//! Coalescing: writes of one client that wait at the same time are sent in one message.
//!
//! No write waits for others to join it: it is sent at once and alone while few messages to its
//! node are in flight. Otherwise it is queued, and the queued writes are sent together when a
//! message is answered. The busier the client, the more writes share a message, its connection and
//! its log entry. No timer delays anything.
//!
//! Each write keeps its own id, timeout and retries; only the attempt is shared. A write that is
//! cancelled while it is queued was certainly not sent; one that is cancelled later does not
//! disturb the others. A node that does not support batches gets its writes one by one for a while.
//!
//! See also [`super::transport`] (the meaning of an attempt's result) and [`super::batch`] (a batch
//! that the program itself made).

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::batch::{Batched, Item, Message, answer_of};
use super::transport::{Ask, Kind, Reply, Request, Transport};
use crate::api::BatchItemAnswer;
use keyward_core::clock::Deadline;
use keyward_core::error::Error;
use keyward_core::task;
use keyward_core::types::{CallOptions, Forbidden};

/// Messages to one node that are in flight before writes are queued, while the messages carry
/// little or take long: the node works on one while the next is in transit.
const UNDER_WAY: usize = 2;

/// The number of writes from which on a message makes the next one wait for its answer: the callers
/// that it answers are about to send again, together with the queued writes.
const MANY: usize = 3;

/// The longest wait for such an answer. Over a distance, waiting costs more than sharing saves.
const SOON: Duration = Duration::from_millis(5);

/// The time after which queued writes no longer wait for the messages before them: their connection
/// may be broken while another would work. Longer than a round trip around the world.
const STALLED: Duration = Duration::from_millis(300);

/// The maximum number of messages to one node in flight, stalled ones included.
const MOST_UNDER_WAY: usize = 8;

/// The maximum number of writes in a message: as many as share an entry of the log.
const MOST_ITEMS: usize = 256;

/// How often a sending task yields to the callers that it has just answered: enough for their tasks
/// to send again, and over at once when they do not.
const STEPS_BACK: usize = 8;

/// The queued writes of one client.
#[derive(Default)]
pub(super) struct Batcher {
    queues: Mutex<HashMap<Way, Queue>>,
}

/// The key by which writes share a message: the node, and the contents of the headers.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Way {
    endpoint: Arc<str>,
    trace_id: Option<String>,
    cause: Option<String>,
    /// Whether its writes keep to themselves because they only renew or release: those of a client
    /// that is limited do, and are limited apart.
    keeps: bool,
}

#[derive(Default)]
struct Queue {
    under_way: usize,
    waiting: VecDeque<Waiting>,
    /// The message that was sent last.
    newest: Option<Newest>,
}

struct Newest {
    carries: usize,
    /// Until then, the next message may wait for its answer.
    soon: Deadline,
}

/// A queued write.
struct Waiting {
    item: Item,
    until: Deadline,
    /// Set by the first of two: the sending task that takes the write, or the caller whose time is
    /// up.
    settled: Arc<AtomicBool>,
    told: oneshot::Sender<Told>,
}

/// The outcome of a queued write.
enum Told {
    /// The node's answer to it.
    Answered(Box<BatchItemAnswer>),
    /// The message as a whole failed; the error for the write.
    Failed(Error),
    /// It is to be sent alone. The place is released when that attempt ends.
    Alone(Option<Place>),
}

/// The permit for one message in flight. On drop it passes to the queued writes.
struct Place {
    transport: Arc<Transport>,
    way: Way,
}

impl Place {
    fn batcher(&self) -> &Batcher {
        self.transport.batcher().expect("only a client that batches has places")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(next) = self.batcher().give_back(&self.way) {
            self.transport.send_off(self.way.clone(), next);
        }
    }
}

/// One write of a client that coalesces its writes.
pub(super) struct BatchedWrite<'a, T> {
    transport: &'a Arc<Transport>,
    batcher: &'a Batcher,
    request: &'a Request,
    item: Item,
    call: &'a CallOptions,
    answer: std::marker::PhantomData<fn() -> T>,
}

impl<'a, T: Batched> BatchedWrite<'a, T> {
    /// Returns `None` if the client does not coalesce its writes.
    pub(super) fn new(
        transport: &'a Arc<Transport>,
        request: &'a Request,
        call: &'a CallOptions,
    ) -> Option<Self> {
        let batcher = transport.batcher()?;
        let item = Item { verb: T::VERB, body: request.body(), keeps: request.keeps() };
        let answer = std::marker::PhantomData;
        Some(Self { transport, batcher, request, item, call, answer })
    }
}

impl<T: Batched> Ask for BatchedWrite<'_, T> {
    type Answer = Reply<Result<T, Forbidden>>;

    fn kind(&self) -> Kind {
        Kind::Write
    }

    async fn ask(&self, endpoint: &Arc<str>, wait: Duration) -> Result<Self::Answer, Error> {
        let until = Deadline::after(wait);
        let alone = |place: Option<Place>| async move {
            let wait = until.remaining();
            let answer = self.transport.attempt(endpoint, self.request, self.call, wait).await;
            drop(place);
            answer
        };
        if !Message::room().takes(&self.item) || self.transport.asks_one_by_one(endpoint) {
            return alone(None).await;
        }
        let way = self.way(endpoint);
        let (told, settled) = match self.join(way.clone(), until) {
            Turn::Now(place) => return alone(Some(place)).await,
            Turn::Later(told, settled) => (told, settled),
        };
        let told = match self.await_turn(way, told, until).await {
            Some(Ok(told)) => told,
            Some(Err(_)) => {
                Told::Failed(Error::unknown("the attempt that it was part of has ended"))
            }
            None if settled.swap(true, Ordering::AcqRel) => {
                return Err(Error::unknown(format!("{endpoint}: no answer in time")));
            }
            None => {
                let reason = format!("{endpoint}: earlier requests were not answered in time");
                return Err(Error::unavailable(reason));
            }
        };
        match told {
            Told::Answered(answered) => answer_of(endpoint, *answered),
            Told::Failed(error) => Err(error),
            Told::Alone(place) => alone(place).await,
        }
    }
}

/// The time to send a write: now, or later from the queue.
enum Turn {
    Now(Place),
    Later(oneshot::Receiver<Told>, Arc<AtomicBool>),
}

impl<T: Batched> BatchedWrite<'_, T> {
    fn way(&self, endpoint: &Arc<str>) -> Way {
        let CallOptions { trace_id, cause, .. } = self.call;
        let keeps = self.item.keeps && self.transport.is_limited();
        let (trace_id, cause) = (trace_id.clone(), cause.clone());
        Way { endpoint: Arc::clone(endpoint), trace_id, cause, keeps }
    }

    fn join(&self, way: Way, until: Deadline) -> Turn {
        let mut queues = self.batcher.lock();
        let queue = queues.entry(way.clone()).or_default();
        if queue.has_place() && queue.waiting.is_empty() {
            queue.under_way += 1;
            queue.left(1);
            return Turn::Now(Place { transport: Arc::clone(self.transport), way });
        }
        let (told, receiver) = oneshot::channel();
        let settled = Arc::<AtomicBool>::default();
        let waiting =
            Waiting { item: self.item.clone(), until, settled: Arc::clone(&settled), told };
        queue.waiting.push_back(waiting);
        Turn::Later(receiver, settled)
    }

    /// Waits for the outcome of the write. If there is none for long, the queued writes are sent
    /// beside the messages that hold them up.
    async fn await_turn(
        &self,
        way: Way,
        mut told: oneshot::Receiver<Told>,
        until: Deadline,
    ) -> Option<Result<Told, oneshot::error::RecvError>> {
        let stalled = Deadline::after(STALLED.min(until.remaining()));
        if let Some(told) = stalled.bound(&mut told).await {
            return Some(told);
        }
        if until.remaining().is_zero() {
            return None;
        }
        if let Some(next) = self.batcher.overtake(&way) {
            self.transport.send_off(way, next);
        }
        until.bound(told).await
    }
}

impl Batcher {
    fn lock(&self) -> MutexGuard<'_, HashMap<Way, Queue>> {
        // Nothing panics in the middle of a change.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Releases a place. Returns the writes that are sent in it, if any are queued.
    fn give_back(&self, way: &Way) -> Option<Vec<Waiting>> {
        let mut queues = self.lock();
        let queue = queues.get_mut(way).expect("a place is of a queue");
        queue.under_way -= 1;
        let next = if queue.has_place() { queue.take() } else { None };
        queue.under_way += usize::from(next.is_some());
        if queue.under_way == 0 {
            queues.remove(way);
        }
        next
    }

    /// The writes that are sent next, in a place that is kept.
    fn next(&self, way: &Way) -> Option<Vec<Waiting>> {
        let mut queues = self.lock();
        let queue = queues.get_mut(way)?;
        // A place that was overtaken while it was stalled is released instead.
        if queue.under_way > queue.places() { None } else { queue.take() }
    }

    /// The writes that are sent beside stalled messages.
    fn overtake(&self, way: &Way) -> Option<Vec<Waiting>> {
        let mut queues = self.lock();
        let queue = queues.get_mut(way).filter(|queue| queue.under_way < MOST_UNDER_WAY)?;
        let next = queue.take()?;
        queue.under_way += 1;
        Some(next)
    }

    fn waiting(&self, way: &Way) -> usize {
        self.lock().get(way).map_or(0, |queue| queue.waiting.len())
    }

    /// Yields to the callers that were just answered, so that their next writes are sent together.
    /// Ends when no more of them come.
    async fn step_back(&self, way: &Way, answered: usize) {
        let mut waiting = 0;
        for step in 0..STEPS_BACK {
            tokio::task::yield_now().await;
            let now = self.waiting(way);
            if now >= answered || (step > 0 && now == waiting) {
                return;
            }
            waiting = now;
        }
    }
}

impl Queue {
    /// The number of messages that may now be in flight before writes are queued.
    fn places(&self) -> usize {
        let waits = |newest: &Newest| newest.carries >= MANY && !newest.soon.remaining().is_zero();
        if self.newest.as_ref().is_some_and(waits) { 1 } else { UNDER_WAY }
    }

    fn has_place(&self) -> bool {
        self.under_way < self.places()
    }

    fn left(&mut self, carries: usize) {
        self.newest = Some(Newest { carries, soon: Deadline::after(SOON) });
    }

    /// Takes the oldest queued writes, as many as fit in a message; drops those that were
    /// cancelled.
    fn take(&mut self) -> Option<Vec<Waiting>> {
        let mut taken = Vec::new();
        let mut room = Message::room();
        while let Some(waiting) = self.waiting.front()
            && taken.len() < MOST_ITEMS
            && room.takes(&waiting.item)
        {
            let waiting = self.waiting.pop_front().expect("it is the front one");
            if !waiting.told.is_closed() && !waiting.settled.swap(true, Ordering::AcqRel) {
                room.take(&waiting.item);
                taken.push(waiting);
            }
        }
        if taken.is_empty() {
            return None;
        }
        self.left(taken.len());
        Some(taken)
    }
}

impl Transport {
    /// Sends these writes in a place that they have already: a single one in its caller's task,
    /// several in a task of their own, so that none of them depends on another's caller.
    fn send_off(self: &Arc<Self>, way: Way, mut next: Vec<Waiting>) {
        let place = Place { transport: Arc::clone(self), way };
        if next.len() == 1
            && let Some(only) = next.pop()
        {
            // A write that was cancelled just now is not sent; its place passes to the next.
            return drop(only.told.send(Told::Alone(Some(place))));
        }
        // Without a runtime the callers find their channels closed.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(task::of_host(place.carry(next)));
        }
    }
}

impl Place {
    /// Sends these writes, and then those queued meanwhile, as long as there are any.
    async fn carry(self, mut next: Vec<Waiting>) {
        loop {
            let count = next.len();
            self.send(next).await;
            self.batcher().step_back(&self.way, count).await;
            match self.batcher().next(&self.way) {
                Some(more) if more.len() > 1 => next = more,
                Some(mut one) => {
                    if let Some(only) = one.pop() {
                        drop(only.told.send(Told::Alone(Some(self))));
                    }
                    return;
                }
                None => return,
            }
        }
    }

    async fn send(&self, batch: Vec<Waiting>) {
        let Way { endpoint, trace_id, cause, keeps: _ } = &self.way;
        let wait = batch.iter().map(|waiting| waiting.until.remaining()).max().unwrap_or_default();
        let (trace_id, cause) = (trace_id.clone(), cause.clone());
        let call = CallOptions { timeout: None, trace_id, principal: None, cause };
        let items: Vec<&Item> = batch.iter().map(|waiting| &waiting.item).collect();
        let message = Message::of(&items);
        let result = self.transport.attempt_batch(endpoint, &message, &call, wait).await;
        match result {
            Ok(Some(answers)) => {
                for (waiting, answer) in batch.into_iter().zip(answers) {
                    // A caller that was cancelled gets no answer.
                    let _ = waiting.told.send(Told::Answered(Box::new(answer)));
                }
            }
            Ok(None) => {
                for waiting in batch {
                    let _ = waiting.told.send(Told::Alone(None));
                }
            }
            Err(error) => {
                for waiting in batch {
                    let _ = waiting.told.send(Told::Failed(error.clone()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_next_message_waits_for_a_full_one_unless_that_takes_long() {
        let mut queue = Queue { under_way: 1, ..Queue::default() };
        assert!(queue.has_place(), "nothing has left yet");
        queue.left(MANY - 1);
        assert!(queue.has_place(), "the one under way carries little");
        queue.left(MANY);
        assert!(!queue.has_place(), "those that are answered soon will ask together");
        tokio::time::advance(SOON).await;
        assert!(queue.has_place(), "it takes long");
        queue.under_way = UNDER_WAY;
        assert!(!queue.has_place(), "there are enough");
    }
}
