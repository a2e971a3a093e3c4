//! Requests that wait for the end of their place: the name of one, and its fate in a state.
//!
//! A caller waits on a node that applies the log. The node learns of ends from [`Step`]s. When it
//! has not seen the steps, because it began to wait later or got its state from a snapshot, it asks
//! the state itself: lanes and grants remember most of what became of places.

use crate::lock::lanes::{Effect, Granted};
use crate::lock::record::{Grant, Key};
use crate::lock::{Decision, State, Step};
use crate::types::{DecidedAt, RequestId, Waiting};

/// A request whose answer was its place in a queue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Awaited {
    /// The table.
    pub table: Box<str>,
    /// The lock's name.
    pub signature: Box<str>,
    /// The place.
    pub place: DecidedAt,
    /// The position at which the request was decided to wait.
    pub decided_at: DecidedAt,
    /// Its id.
    pub request_id: Option<RequestId>,
}

impl Awaited {
    /// Whether this step is the end of the request: one of the place whose last ask has the id of
    /// the request, or is the request itself if it has none.
    pub fn ends_by(&self, step: &Step) -> bool {
        self.place == step.place
            && self.request_id == step.request_id
            && (self.request_id.is_some() || self.decided_at == step.ask)
    }
}

/// The fate of a request that waits, as far as a state knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It still waits.
    Waiting(Waiting),
    /// Its place has ended.
    Ended(Decision),
    /// The state does not remember it.
    Unknown,
}

impl State {
    /// The fate of a request that waits.
    pub fn fate(&self, awaited: &Awaited) -> Fate {
        let Some(key) = Key::new(&awaited.table, &awaited.signature) else { return Fate::Unknown };
        let record = self.locks.get(&key);
        let queue = record.and_then(|record| record.queue.as_ref());
        let is_asked = |ask| awaited.request_id.is_some() || awaited.decided_at == ask;
        let place = queue.and_then(|queue| queue.get(awaited.place));
        let is_same =
            place.is_some_and(|place| place.request == awaited.request_id && is_asked(place.ask));
        if is_same
            && let Some(waiting) = queue.and_then(|queue| queue.waiting(awaited.place, self.clock))
        {
            return Fate::Waiting(waiting);
        }
        let (effect, at) = if let Some(id) = awaited.request_id {
            let lane = self.lanes.get(id.lane).filter(|lane| lane.seq == id.seq);
            let Some(lane) = lane else { return Fate::Unknown };
            (lane.effect.clone(), lane.decided_at)
        } else {
            let asked = Some((awaited.place, awaited.decided_at));
            let mut grants = record.into_iter().flat_map(|record| record.holders.iter());
            let is_it = |grant: &&Grant| grant.rare.as_ref().is_some_and(|it| it.asked == asked);
            let Some(grant) = grants.find(is_it) else { return Fate::Unknown };
            let (token, level) = (grant.token, grant.level);
            (Effect::Granted { how: Granted::Ok, token, level }, awaited.decided_at)
        };
        if matches!(effect, Effect::Waiting(_)) {
            return Fate::Unknown;
        }
        let outcome = self.tell_about(&key, None, effect, self.clock);
        Fate::Ended(Decision { outcome, decided_at: Some(at) })
    }
}
