//! Writes whose outcomes are unknown, and how they are resolved in the end.
//!
//! A service that remembers requests by their ids can be queried again: it returns the outcome, and
//! its place in the log. So once the faults are over it is not necessary to guess which of the
//! unanswered requests were done.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keyward::Error;
use keyward::clock::{Clock, SystemClock};
use keyward::lock::Command;
use keyward::service::LockService;
use keyward::types::{CallOptions, DecidedAt, RequestId};

use super::Recorder;

/// The time for which a request is certainly remembered: the service forgets a lane that was not
/// used for ten minutes of its own clock, which may be a tenth too fast.
const REMEMBERED: Duration = Duration::from_secs(8 * 60);

/// The timeout of one query.
const CALL: Duration = Duration::from_secs(2);

/// The time for which a copy of a request may still be in flight after its client's timeout.
const ON_ITS_WAY: Duration = Duration::from_secs(2);

/// The most attempts to repeat a request.
const ATTEMPTS: usize = 5;

/// The writes of a run that have no answer (yet). Clones share the same list.
#[derive(Clone, Debug, Default)]
pub struct OpenWrites {
    all: Arc<Mutex<BTreeMap<RequestId, Asked>>>,
}

#[derive(Debug)]
struct Asked {
    at: Duration,
    command: Command,
}

impl OpenWrites {
    /// The number of writes without an answer.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether all have one.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Notes a write that is sent. `true`: for the first time, as far as is known here.
    pub(super) fn asked(&self, id: RequestId, command: Command) -> bool {
        let mut all = self.lock();
        let is_first = !all.contains_key(&id);
        all.entry(id).or_insert_with(|| Asked { at: SystemClock.boottime(), command });
        is_first
    }

    pub(super) fn answered(&self, id: RequestId) {
        self.lock().remove(&id);
    }

    pub(super) fn holds(&self, id: RequestId) -> bool {
        self.lock().contains_key(&id)
    }

    /// Repeats every open write, and records its place in the log. Call it when no client sends
    /// requests any more and no fault is installed.
    ///
    /// `true`: everything that can be known is known now, so [`Recorder::finish`] may declare the
    /// log complete. Otherwise a write got no answer, or is too old to be remembered.
    pub async fn settle<S: LockService>(&self, service: &S, recorder: &Recorder) -> bool {
        if self.is_empty() {
            return true;
        }
        // The effect of a copy that arrives after the query would be missing.
        tokio::time::sleep(ON_ITS_WAY).await;
        let all = std::mem::take(&mut *self.lock());
        let mut complete = true;
        for (id, Asked { at, command }) in all {
            let is_remembered = SystemClock.boottime().saturating_sub(at) < REMEMBERED;
            let said = if is_remembered { ask(service, &command).await } else { Said::Nothing };
            match said {
                Said::Decided(place) => recorder.applied(id, place),
                Said::NeverDone => {}
                Said::Nothing => complete = false,
            }
        }
        complete
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<RequestId, Asked>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The answer of the service about a request.
enum Said {
    /// It is at this place of its log, since long ago or since just now.
    Decided(DecidedAt),
    /// It is an invalid request.
    NeverDone,
    Nothing,
}

async fn ask<S: LockService>(service: &S, command: &Command) -> Said {
    for _ in 0..ATTEMPTS {
        let decided = service.decide_one(command.clone(), CallOptions::within(CALL)).await;
        let answer = decided.map(|decision| decision.decided_at);
        match answer {
            Ok(Some(place)) => return Said::Decided(place),
            Err(Error::BadRequest { .. }) => return Said::NeverDone,
            // A service that names no places cannot tell the two cases apart.
            Ok(None)
            | Err(
                Error::Forbidden(_)
                | Error::Unauthorized { .. }
                | Error::NotAllowed { .. }
                | Error::LaneForgotten { .. },
            ) => {
                return Said::Nothing;
            }
            Err(Error::Unavailable { .. } | Error::Unknown { .. } | Error::NotFound { .. }) => {}
        }
    }
    Said::Nothing
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU8, Ordering};

    use keyward::MemoryLocks;
    use keyward::lock::{Decision, Query, View};
    use keyward::types::{LockOptions, LockRequest};

    use super::*;
    use crate::history::{Entry, Header, Recorded};

    /// Locks that do not answer every request.
    #[derive(Clone, Default)]
    struct Mumbling {
        locks: Arc<MemoryLocks>,
        manner: Arc<AtomicU8>,
    }

    const ANSWERS: u8 = 0;
    const DOES_AND_SAYS_NOTHING: u8 = 1;
    const DOES_NOTHING: u8 = 2;

    impl Mumbling {
        fn be(&self, manner: u8) {
            self.manner.store(manner, Ordering::Relaxed);
        }

        async fn told(
            &self,
            decided: impl Future<Output = Vec<Result<Decision, Error>>>,
            count: usize,
        ) -> Vec<Result<Decision, Error>> {
            match self.manner.load(Ordering::Relaxed) {
                ANSWERS => decided.await,
                DOES_AND_SAYS_NOTHING => {
                    decided.await;
                    vec![Err(Error::unknown("the answer was lost")); count]
                }
                _ => vec![Err(Error::unknown("the request was lost")); count],
            }
        }
    }

    impl LockService for Mumbling {
        async fn decide(
            &self,
            commands: Vec<Command>,
            call: CallOptions,
        ) -> Vec<Result<Decision, Error>> {
            let count = commands.len();
            self.told(self.locks.decide(commands, call), count).await
        }

        async fn read(&self, query: Query, call: CallOptions) -> Result<View, Error> {
            self.locks.read(query, call).await
        }
    }

    struct World {
        service: Mumbling,
        recorder: Recorder,
        open: OpenWrites,
        client: Recorded<Mumbling>,
    }

    impl World {
        fn new() -> Self {
            let (service, recorder) = (Mumbling::default(), Recorder::in_memory());
            let open = OpenWrites::default();
            let client = Recorded::new(service.clone(), recorder.clone(), "c")
                .with_lane(7)
                .with_open_writes(open.clone());
            Self { service, recorder, open, client }
        }

        async fn lock(&self, signature: &str) -> Option<DecidedAt> {
            let request =
                LockRequest { signature: signature.into(), signee: "x".into(), level: None };
            let answer = self.client.lock(request, LockOptions::default()).await;
            answer.ok().and_then(|response| response.decided_at)
        }

        /// The places of requests, after the open ones were repeated.
        async fn settled(self) -> (bool, Vec<(RequestId, DecidedAt)>) {
            let complete = self.open.settle(&self.service, &self.recorder).await;
            let history = self.recorder.into_history(Header::new(1, "", ""), complete);
            let applied = history.entries.iter().filter_map(|entry| match entry {
                Entry::Applied(applied) => Some((applied.request_id, applied.decided_at)),
                Entry::Operation(_)
                | Entry::Session(_)
                | Entry::Fault(_)
                | Entry::Event(_)
                | Entry::Observation(_) => None,
            });
            (complete, applied.collect())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_whose_answer_was_lost_is_where_it_was_done() {
        let world = World::new();
        let before = world.lock("a").await.expect("it answers");
        world.service.be(DOES_AND_SAYS_NOTHING);
        assert_eq!(world.lock("b").await, None);
        world.service.be(ANSWERS);
        let after = world.lock("c").await.expect("it answers");
        assert_eq!(world.open.len(), 1);
        let (complete, applied) = world.settled().await;
        assert!(complete);
        let [(id, place)] = applied[..] else { panic!("{applied:?}") };
        assert_eq!(id, RequestId { lane: 7, seq: 2 });
        assert!(before < place && place < after, "{before} {place} {after}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_was_lost_is_done_when_it_is_asked_for_again() {
        let world = World::new();
        world.service.be(DOES_NOTHING);
        assert_eq!(world.lock("a").await, None);
        world.service.be(ANSWERS);
        let after = world.lock("b").await.expect("it answers");
        let (complete, applied) = world.settled().await;
        assert!(complete);
        assert!(matches!(applied[..], [(_, place)] if after < place), "{applied:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lane_with_an_open_write_is_given_up() {
        let world = World::new();
        world.service.be(DOES_NOTHING);
        world.lock("a").await;
        world.lock("b").await;
        world.service.be(ANSWERS);
        world.lock("c").await;
        world.lock("d").await;
        let ids: Vec<RequestId> = world.open.lock().keys().copied().collect();
        assert_eq!(ids, [7, 8].map(|lane| RequestId { lane, seq: 1 }));
        let history = world.recorder.into_history(Header::new(1, "", ""), false);
        let ids: Vec<_> =
            history.operations().filter_map(|operation| operation.request_id).collect();
        assert_eq!(ids[2..], [1, 2].map(|seq| RequestId { lane: 9, seq }));
    }

    #[tokio::test(start_paused = true)]
    async fn what_gets_no_answer_is_not_known() {
        let world = World::new();
        world.service.be(DOES_NOTHING);
        world.lock("a").await;
        assert_eq!(world.settled().await, (false, Vec::new()));
    }
}
