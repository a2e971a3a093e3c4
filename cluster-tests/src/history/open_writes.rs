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
use keyward::service::LockService;
use keyward::types::{BatchRequest, CallOptions, DecidedAt, RequestId};

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
    request: BatchRequest,
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
    pub(super) fn asked(&self, id: RequestId, request: BatchRequest) -> bool {
        let mut all = self.lock();
        let is_first = !all.contains_key(&id);
        all.entry(id).or_insert_with(|| Asked { at: SystemClock.boottime(), request });
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
        for (id, Asked { at, request }) in all {
            let is_remembered = SystemClock.boottime().saturating_sub(at) < REMEMBERED;
            let said = if is_remembered { ask(service, &request).await } else { Said::Nothing };
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

async fn ask<S: LockService>(service: &S, request: &BatchRequest) -> Said {
    for _ in 0..ATTEMPTS {
        let call = CallOptions { timeout: Some(CALL), ..CallOptions::default() };
        let answer = match request.clone() {
            BatchRequest::Lock(request, mut options) => {
                options.call = call;
                service.lock(request, options).await.map(|response| response.decided_at)
            }
            BatchRequest::Unlock(request, mut options) => {
                options.call = call;
                service.unlock(request, options).await.map(|response| response.decided_at)
            }
        };
        match answer {
            Ok(Some(place)) => return Said::Decided(place),
            Err(Error::BadRequest { .. }) => return Said::NeverDone,
            // A service that names no places cannot tell the two cases apart.
            Ok(None)
            | Err(Error::Forbidden(_) | Error::Unauthorized { .. } | Error::LaneForgotten { .. }) =>
            {
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
    use keyward::types::{
        CheckResponse, DeleteStatus, ListRequest, ListResponse, LockOptions, LockRequest,
        LockResponse, ReadOptions, TableDefaults, TableOptions, TablesRequest, TablesResponse,
        UnlockOptions, UnlockRequest, UnlockResponse,
    };

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

        async fn told<T>(&self, done: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
            match self.manner.load(Ordering::Relaxed) {
                ANSWERS => done.await,
                DOES_AND_SAYS_NOTHING => {
                    done.await?;
                    Err(Error::unknown("the answer was lost"))
                }
                _ => Err(Error::unknown("the request was lost")),
            }
        }
    }

    impl LockService for Mumbling {
        async fn lock(
            &self,
            request: LockRequest,
            options: LockOptions,
        ) -> Result<LockResponse, Error> {
            self.told(self.locks.lock(request, options)).await
        }

        async fn unlock(
            &self,
            request: UnlockRequest,
            options: UnlockOptions,
        ) -> Result<UnlockResponse, Error> {
            self.told(self.locks.unlock(request, options)).await
        }

        async fn check(
            &self,
            signature: String,
            options: ReadOptions,
        ) -> Result<CheckResponse, Error> {
            self.locks.check(signature, options).await
        }

        async fn list(
            &self,
            request: ListRequest,
            options: ReadOptions,
        ) -> Result<ListResponse, Error> {
            self.locks.list(request, options).await
        }

        async fn tables(
            &self,
            request: TablesRequest,
            options: ReadOptions,
        ) -> Result<TablesResponse, Error> {
            self.locks.tables(request, options).await
        }

        async fn configure_table(
            &self,
            defaults: TableDefaults,
            options: TableOptions,
        ) -> Result<(), Error> {
            self.locks.configure_table(defaults, options).await
        }

        async fn delete_table(&self, options: TableOptions) -> Result<DeleteStatus, Error> {
            self.locks.delete_table(options).await
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
                Entry::Operation(_) | Entry::Fault(_) | Entry::Event(_) | Entry::Observation(_) => {
                    None
                }
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
