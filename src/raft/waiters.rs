//! Callers that wait on this node for the end of their place in a queue.
//!
//! The state machine passes on every step as it applies the log, so a caller is answered by the node
//! that it is connected to, whoever leads. A step may be applied here before the leader's answer
//! with the place arrives: the latest steps are kept, and a caller that comes later finds its own.
//!
//! Whoever calls holds the lock of the state, for reading or for writing. So no entry is applied
//! between a look at the state and the registration.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::error::Error;
use crate::lock::{Awaited, Decision, Fate, State, Step};
use crate::types::DecidedAt;

/// The number of steps that are kept: those of one entry at most, and many more than usually happen
/// within the time in which an answer comes from the leader.
const KEPT: usize = 4096;

/// All callers that wait on this node.
#[derive(Default)]
pub(crate) struct Waiters(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    last: u64,
    waiting: BTreeMap<(DecidedAt, u64), Waiter>,
    recent: VecDeque<Step>,
    is_closed: bool,
}

struct Waiter {
    awaited: Awaited,
    answer: oneshot::Sender<Result<Decision, Error>>,
}

/// The state of a caller that has just come.
pub(crate) enum Registration {
    /// Its place has ended already.
    Ended(Result<Decision, Error>),
    /// It is told when its place ends.
    Registered(Registered),
}

/// A caller that is told when its place ends, until this is dropped.
pub(crate) struct Registered {
    waiters: Arc<Waiters>,
    key: (DecidedAt, u64),
    answer: oneshot::Receiver<Result<Decision, Error>>,
}

impl Registered {
    /// Resolves when the place has ended; `None` if this node stops before.
    pub(crate) async fn ended(&mut self) -> Option<Result<Decision, Error>> {
        (&mut self.answer).await.ok()
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.waiters.lock().waiting.remove(&self.key);
    }
}

impl Waiters {
    /// Answers the callers whose places have ended by these steps, and keeps the steps.
    pub(crate) fn tell(&self, steps: Vec<Step>) {
        if steps.is_empty() {
            return;
        }
        let mut inner = self.lock();
        for step in &steps {
            inner.tell(step);
        }
        inner.recent.extend(steps);
        let surplus = inner.recent.len().saturating_sub(KEPT);
        inner.recent.drain(..surplus);
    }

    /// Registers a caller. `state` is the one after the entry at `applied`.
    pub(crate) fn register(
        self: &Arc<Self>,
        awaited: Awaited,
        state: &State,
        applied: Option<u64>,
    ) -> Registration {
        let mut inner = self.lock();
        let step = inner.recent.iter().rev().find(|step| awaited.ends_by(step));
        if let Some(step) = step {
            return Registration::Ended(Ok(decision(step)));
        }
        // Before its entry is applied here, the state knows nothing of the request.
        if applied >= Some(awaited.decided_at.index) {
            match state.fate(&awaited) {
                Fate::Waiting(_) => {}
                Fate::Ended(decision) => return Registration::Ended(Ok(decision)),
                Fate::Unknown => return Registration::Ended(Err(forgotten())),
            }
        }
        let (answer, answered) = oneshot::channel();
        inner.last += 1;
        let key = (awaited.place, inner.last);
        if !inner.is_closed {
            inner.waiting.insert(key, Waiter { awaited, answer });
        }
        drop(inner);
        Registration::Registered(Registered { waiters: Arc::clone(self), key, answer: answered })
    }

    /// Answers the callers whose places have ended in a state that came whole, without steps.
    pub(crate) fn replaced(&self, state: &State, applied: Option<u64>) {
        let mut inner = self.lock();
        let mut ended = Vec::new();
        for (key, waiter) in &inner.waiting {
            if applied < Some(waiter.awaited.decided_at.index) {
                continue;
            }
            match state.fate(&waiter.awaited) {
                Fate::Waiting(_) => {}
                Fate::Ended(decision) => ended.push((*key, Ok(decision))),
                Fate::Unknown => ended.push((*key, Err(forgotten()))),
            }
        }
        for (key, result) in ended {
            inner.answer(key, result);
        }
    }

    /// Lets every caller go: the node stops, and their places stay.
    pub(crate) fn close(&self) {
        let mut inner = self.lock();
        inner.is_closed = true;
        inner.waiting.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Each change under the lock is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn tell(&mut self, step: &Step) {
        let of_place = self.waiting.range((step.place, 0)..=(step.place, u64::MAX));
        let ended = of_place.filter(|(_, waiter)| waiter.awaited.ends_by(step));
        let keys: Vec<_> = ended.map(|(key, _)| *key).collect();
        for key in keys {
            self.answer(key, Ok(decision(step)));
        }
    }

    fn answer(&mut self, key: (DecidedAt, u64), result: Result<Decision, Error>) {
        if let Some(waiter) = self.waiting.remove(&key) {
            // A caller that has gone away gets no answer.
            let _ = waiter.answer.send(result);
        }
    }
}

fn decision(step: &Step) -> Decision {
    Decision { outcome: step.outcome.clone(), decided_at: Some(step.at) }
}

fn forgotten() -> Error {
    Error::unknown("the place has ended, and the cluster does not remember how")
}
