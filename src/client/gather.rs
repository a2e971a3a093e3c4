//! Writes of one client that wait at the same moment travel in one message.
//!
//! Nothing waits for company: a write leaves at once and alone while no other is under way to its
//! node. While others are, later writes gather, and leave together when one is answered; so the
//! busier the client, the more of them share a message, its connection and its log entry. There is
//! no timer that holds anything back.
//!
//! Each write keeps what it is alone: its id, its time, its repetitions. Only the attempt is shared.
//! Who gives up while waiting has certainly not been sent; who gives up afterwards does not disturb
//! the others. A node that does not know batches is asked one by one, for a while.
//!
//! Look next at [`super::transport`] (what an attempt's end means) and [`super::batch`] (a batch that
//! the program itself has made).

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::batch::{Batched, Item, Message, answer_of};
use super::transport::{Ask, Kind, Reply, Request, Transport};
use crate::api::BatchItemAnswer;
use crate::clock::Deadline;
use crate::error::Error;
use crate::task;
use crate::types::{CallOptions, Forbidden};

/// So many messages to one node are under way before writes gather, while they carry little or take
/// long: one to be worked on there, while the next is on its way.
const UNDER_WAY: usize = 2;

/// A message that carries as many writes as this has the next wait for it: those that it answers are
/// about to ask again, and leave together with what has gathered.
const MANY: usize = 3;

/// Unless it takes longer than this, as it does over a distance, where waiting for it costs more than
/// sharing saves.
const SOON: Duration = Duration::from_millis(5);

/// After this long without an answer, a message no longer holds up those that gather behind it: its
/// connection may be broken while another would do. Longer than a round trip around the world.
const STALLED: Duration = Duration::from_millis(300);

/// So many messages to one node are under way at most, stalled ones included.
const MOST_UNDER_WAY: usize = 8;

/// So many writes share a message at most: as many as share an entry of the log.
const MOST_ITEMS: usize = 256;

/// How often a carrier steps back for those that it has just answered: enough for their tasks to
/// ask again, and over at once when they do not.
const STEPS_BACK: usize = 8;

/// The writes of one client that have not left yet.
#[derive(Default)]
pub(super) struct Gathering {
    queues: Mutex<HashMap<Way, Queue>>,
}

/// What writes must have in common to share a message: the node, and what the headers say.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Way {
    endpoint: Arc<str>,
    trace_id: Option<String>,
    cause: Option<String>,
}

#[derive(Default)]
struct Queue {
    under_way: usize,
    waiting: VecDeque<Waiting>,
    /// The message that left last.
    newest: Option<Newest>,
}

struct Newest {
    carries: usize,
    /// Until then it is no wonder that it has not been answered.
    soon: Deadline,
}

/// A write that has not left.
struct Waiting {
    item: Item,
    until: Deadline,
    /// Set by whoever is first: the carrier that takes it along, or the caller that gives up.
    settled: Arc<AtomicBool>,
    told: oneshot::Sender<Told>,
}

/// What a waiting write is told.
enum Told {
    /// What the node said about it.
    Answered(Box<BatchItemAnswer>),
    /// The message had no answer of its own for each; what that means for the write.
    Failed(Error),
    /// It is to ask alone. The place is given back with that attempt's end.
    Alone(Option<Place>),
}

/// The right to have one message under way; given back when it is dropped, to those that wait.
struct Place {
    transport: Arc<Transport>,
    way: Way,
}

impl Place {
    fn gathering(&self) -> &Gathering {
        self.transport.gathering().expect("only a client that gathers has places")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(next) = self.gathering().give_back(&self.way) {
            self.transport.send_off(self.way.clone(), next);
        }
    }
}

/// One write of a client that gathers.
pub(super) struct Gathered<'a, T> {
    transport: &'a Arc<Transport>,
    gathering: &'a Gathering,
    request: &'a Request,
    item: Item,
    call: &'a CallOptions,
    answer: std::marker::PhantomData<fn() -> T>,
}

impl<'a, T: Batched> Gathered<'a, T> {
    /// `None` if the client does not gather.
    pub(super) fn new(
        transport: &'a Arc<Transport>,
        request: &'a Request,
        call: &'a CallOptions,
    ) -> Option<Self> {
        let gathering = transport.gathering()?;
        let item = Item { verb: T::VERB, body: request.body() };
        let answer = std::marker::PhantomData;
        Some(Self { transport, gathering, request, item, call, answer })
    }
}

impl<T: Batched> Ask for Gathered<'_, T> {
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
        let (told, settled) = match self.join(endpoint, until) {
            Turn::Now(place) => return alone(Some(place)).await,
            Turn::Later(told, settled) => (told, settled),
        };
        let told = match self.await_turn(endpoint, told, until).await {
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

/// When a write may leave.
enum Turn {
    Now(Place),
    Later(oneshot::Receiver<Told>, Arc<AtomicBool>),
}

impl<T: Batched> Gathered<'_, T> {
    fn way(&self, endpoint: &Arc<str>) -> Way {
        let CallOptions { trace_id, cause, .. } = self.call;
        Way { endpoint: Arc::clone(endpoint), trace_id: trace_id.clone(), cause: cause.clone() }
    }

    fn join(&self, endpoint: &Arc<str>, until: Deadline) -> Turn {
        let way = self.way(endpoint);
        let mut queues = self.gathering.lock();
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

    /// Waits for what becomes of the write. When nothing has for long, those that wait leave
    /// beside what holds them up.
    async fn await_turn(
        &self,
        endpoint: &Arc<str>,
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
        let way = self.way(endpoint);
        if let Some(next) = self.gathering.overtake(&way) {
            self.transport.send_off(way, next);
        }
        until.bound(told).await
    }
}

impl Gathering {
    fn lock(&self) -> MutexGuard<'_, HashMap<Way, Queue>> {
        // Nothing panics between two halves of a change.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a place back; those that leave in it, if any wait.
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

    /// Those that leave next, in a place that is kept.
    fn next(&self, way: &Way) -> Option<Vec<Waiting>> {
        let mut queues = self.lock();
        let queue = queues.get_mut(way)?;
        // One that was overtaken while it was stalled gives its place back instead.
        if queue.under_way > queue.places() { None } else { queue.take() }
    }

    /// Those that leave beside what is stalled.
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

    /// Lets those that were just answered ask again, so that they leave together. Ends when no
    /// more of them come.
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
    /// How many messages may be under way now before writes gather.
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

    /// The oldest that wait, as many as fit a message; those that have given up are left behind.
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
    /// Has these leave in a place that is theirs already: one alone, by its own task, and several
    /// with a task that carries them, so that none of them depends on another's caller.
    fn send_off(self: &Arc<Self>, way: Way, mut next: Vec<Waiting>) {
        let place = Place { transport: Arc::clone(self), way };
        if next.len() == 1
            && let Some(only) = next.pop()
        {
            // Whoever gave up just now has not been sent; its place goes on to the next.
            return drop(only.told.send(Told::Alone(Some(place))));
        }
        // Without a runtime those that wait are told by their closed channels.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(task::of_host(place.carry(next)));
        }
    }
}

impl Place {
    /// Sends these, and then those that have gathered meanwhile, as long as there are any.
    async fn carry(self, mut next: Vec<Waiting>) {
        loop {
            let count = next.len();
            self.send(next).await;
            self.gathering().step_back(&self.way, count).await;
            match self.gathering().next(&self.way) {
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
        let Way { endpoint, trace_id, cause } = &self.way;
        let wait = batch.iter().map(|waiting| waiting.until.remaining()).max().unwrap_or_default();
        let (trace_id, cause) = (trace_id.clone(), cause.clone());
        let call = CallOptions { timeout: None, trace_id, actor: None, cause };
        let items: Vec<&Item> = batch.iter().map(|waiting| &waiting.item).collect();
        let message = Message::of(&items);
        let result = self.transport.attempt_batch(endpoint, &message, &call, wait).await;
        match result {
            Ok(Some(answers)) => {
                for (waiting, answer) in batch.into_iter().zip(answers) {
                    // Whoever has given up is told nothing.
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
