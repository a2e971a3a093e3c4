//! Work on locks for which nobody contends and which do not expire, while a test breaks something.
//!
//! Each worker has signatures of its own, and sends one request at a time. After an unknown outcome
//! it goes on with another signature, so that the checks have few possibilities to follow.
//!
//! Every request is recorded in a [`crate::history`]. [`Acknowledged`] reads everything back, and
//! [`crate::check`] judges it together with the answers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use keyward::Error;
use keyward::service::LockService;
use keyward::types::{
    CheckResponse, DEFAULT_TABLE, LockOptions, LockRequest, Token, UnlockOptions, UnlockRequest,
    UnlockStatus,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinHandle;

use crate::ask;
use crate::chaos::observe;
use crate::check::{self, Conclusion, Source};
use crate::cluster::{Cluster, ELECTION, NodeId};
use crate::history::{
    Action, Call, Header, History, LockName, Operation, Recorded, Recorder, answered_check,
};
use crate::wait::eventually;

/// Longer than any test: a missing record was lost, and has not expired.
const DURATION: Duration = Duration::from_secs(24 * 60 * 60);

/// The signatures that one worker uses at a time.
const SIGNATURES: u64 = 24;

/// Workers at work. Dropping it stops them.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    operations: Arc<AtomicU64>,
    workers: Vec<JoinHandle<()>>,
    answers: Acknowledged,
}

/// The recorded answers of a load that has ended.
#[derive(Clone, Debug)]
pub struct Acknowledged {
    prefix: String,
    seed: u64,
    recorder: Recorder,
}

impl Load {
    /// Starts workers that use all nodes of a cluster.
    pub fn on(cluster: &Cluster, name: &str, workers: usize, random: &mut StdRng) -> Self {
        let clients = (0..workers).map(|_| cluster.clients()).collect();
        Self::start(name, clients, random.random())
    }

    /// Starts one worker for each service, each with a choice of its own.
    pub fn start<S: LockService>(name: &str, services: Vec<S>, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let operations = Arc::new(AtomicU64::new(0));
        let prefix = format!("load/{name}/");
        let answers = Acknowledged { prefix, seed, recorder: Recorder::in_memory() };
        let workers = (0_u64..)
            .zip(services)
            .map(|(number, service)| {
                let signee = format!("worker {number} of {name}");
                let worker = Worker {
                    service: answers.client(service, &signee),
                    prefix: format!("{}{number}/", answers.prefix),
                    signee,
                    random: StdRng::seed_from_u64(seed ^ (number << 32)),
                    operations: Arc::clone(&operations),
                };
                tokio::spawn(worker.run(Arc::clone(&stop)))
            })
            .collect();
        Self { stop, operations, workers, answers }
    }

    /// The number of operations acknowledged so far.
    pub fn operations(&self) -> u64 {
        self.operations.load(Ordering::SeqCst)
    }

    /// Waits until this many more operations were acknowledged.
    ///
    /// # Panics
    /// If they were not in time.
    pub async fn wait_for(&self, more: u64, within: Duration) {
        let goal = self.operations() + more;
        eventually("work is acknowledged", within, || async {
            let now = self.operations();
            if now >= goal { Ok(()) } else { Err(format!("{now} of {goal} operations")) }
        })
        .await;
    }

    /// Stops the workers and returns their answers.
    ///
    /// # Panics
    /// If an answer was an error that no right request has.
    pub async fn stop(mut self) -> Acknowledged {
        self.stop.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.await.expect("a worker does not panic");
        }
        self.answers.clone()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for worker in &self.workers {
            worker.abort();
        }
    }
}

impl Acknowledged {
    /// Reads every lock of the load, in pages, and judges all that was answered so far.
    ///
    /// # Panics
    /// If an answer was wrong, something acknowledged is lost or changed, or nothing was
    /// acknowledged.
    pub async fn verify(&self, service: &impl LockService) {
        let begin = |signature: String| {
            let lock = LockName::new(DEFAULT_TABLE, signature.as_str());
            (signature, self.recorder.begin("reader", Action::Check(lock)))
        };
        let mut calls: BTreeMap<String, Call> = self.signatures().into_iter().map(begin).collect();
        for page in ask::pages(service, &self.prefix).await {
            let mut rest = page.next.as_ref().map(|next| calls.split_off(next)).unwrap_or_default();
            for record in page.locks {
                let call = calls.remove(&record.signature);
                let call = call.or_else(|| rest.remove(&record.signature));
                let response = CheckResponse { record, decided_at: page.decided_at };
                let (outcome, decided_at) = answered_check(&Ok(response));
                call.expect("the load asked for the lock").finish(outcome, decided_at);
            }
            for call in std::mem::replace(&mut calls, rest).into_values() {
                let absent = Err(Error::NotFound { decided_at: page.decided_at });
                let (outcome, decided_at) = answered_check(&absent);
                call.finish(outcome, decided_at);
            }
        }
        self.judge();
    }

    /// As [`Acknowledged::verify`], of a node's own copy. All requests for locks of the default
    /// table must be recorded here.
    ///
    /// # Panics
    /// As [`Acknowledged::verify`], or if the node does not catch up.
    pub async fn verify_copy(&self, cluster: &Cluster, id: NodeId) {
        let history = self.history();
        let last = history.operations().filter_map(|operation| operation.decided_at).max();
        let last = last.map_or(0, |place| place.index);
        let observation = eventually("the node has everything", ELECTION, || async move {
            let seen = observe::node(cluster, id, &self.recorder).await?;
            if seen.applied >= last { Ok(seen) } else { Err(format!("it is at {}", seen.applied)) }
        })
        .await;
        self.recorder.observe(observation);
        self.judge();
    }

    /// Acquires a few of the locks by force and judges the answers: their tokens must be larger
    /// than all before.
    ///
    /// # Panics
    /// As [`Acknowledged::verify`].
    pub async fn verify_tokens_grow(&self, service: impl LockService) {
        const SAMPLE: usize = 50;
        let service = self.client(service, "successor");
        for signature in self.signatures().into_iter().take(SAMPLE) {
            let signee = String::from("successor");
            let request = LockRequest { signature, signee, level: Some(1) };
            let options =
                LockOptions { force: true, duration: Some(DURATION), ..LockOptions::default() };
            let response = eventually("a lock is taken", ELECTION, || {
                service.lock(request.clone(), options.clone())
            })
            .await;
            assert!(response.ok(), "force takes every lock: {response:?}");
        }
        self.judge();
    }

    /// A client whose requests are recorded with those of the load.
    pub fn client<S: LockService>(&self, service: S, name: &str) -> Recorded<S> {
        Recorded::new(service, self.recorder.clone(), name)
    }

    fn signatures(&self) -> BTreeSet<String> {
        let history = self.history();
        let locks = history.operations().map(Operation::lock);
        let own = locks.filter(|lock| lock.signature.starts_with(&self.prefix));
        own.map(|lock| lock.signature.to_string()).collect()
    }

    fn history(&self) -> History {
        let command = format!("KEYWARD_SEED={} cargo nextest run", self.seed);
        self.recorder.history(Header::new(self.seed, command, "keyward"), false)
    }

    fn judge(&self) {
        let history = self.history();
        let verdict = check::check(Source::Memory(&history), check::Options::default());
        let verdict = verdict.expect("a history in memory is whole");
        assert!(verdict.conclusion == Conclusion::Pass, "{verdict}");
    }
}

struct Worker<S> {
    service: Recorded<S>,
    prefix: String,
    signee: String,
    random: StdRng,
    operations: Arc<AtomicU64>,
}

impl<S: LockService> Worker<S> {
    async fn run(mut self, stop: Arc<AtomicBool>) {
        let name = |number: u64| format!("{}{number}", self.prefix);
        let mut locks: Vec<_> = (0..SIGNATURES).map(|number| (name(number), None)).collect();
        let mut next = SIGNATURES;
        while !stop.load(Ordering::SeqCst) {
            // A service that answers at once would starve other tasks.
            tokio::task::yield_now().await;
            let place = self.random.random_range(0..locks.len());
            let (signature, token) = &locks[place];
            match self.step(signature, *token).await {
                Ok(token) => {
                    self.operations.fetch_add(1, Ordering::SeqCst);
                    locks[place].1 = token;
                }
                // There is no leader: an immediate retry would only slow the election down.
                Err(Error::Unavailable { .. }) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(Error::Unknown { .. }) => {
                    locks[place] = (format!("{}{next}", self.prefix), None);
                    next += 1;
                }
                Err(
                    error @ (Error::Forbidden(_)
                    | Error::BadRequest { .. }
                    | Error::NotFound { .. }
                    | Error::Unauthorized { .. }
                    | Error::NotAllowed { .. }
                    | Error::LaneForgotten { .. }),
                ) => panic!("{signature}: an operation ended with {error}"),
            }
        }
    }

    /// Acquires or renews a lock, or releases it; returns the token if it is held then.
    async fn step(
        &mut self,
        signature: &str,
        token: Option<Token>,
    ) -> Result<Option<Token>, Error> {
        let (signature, signee) = (signature.to_owned(), self.signee.clone());
        if token.is_some() && self.random.random_ratio(1, 4) {
            let options = UnlockOptions { token, ..UnlockOptions::default() };
            let response =
                self.service.unlock(UnlockRequest { signature, signee }, options).await?;
            return Ok(token.filter(|_| response.status != UnlockStatus::Ok));
        }
        let level = Some(self.random.random_range(-3..=3));
        let options = LockOptions { duration: Some(DURATION), ..LockOptions::default() };
        let response = self.service.lock(LockRequest { signature, signee, level }, options).await?;
        Ok(response.grant().map(|grant| grant.token))
    }
}

#[cfg(test)]
mod tests {
    use keyward::memory::MemoryLocks;
    use tokio::task::JoinError;

    use super::*;

    async fn work(locks: &MemoryLocks) -> Acknowledged {
        let load = Load::start("unit", vec![locks.clone(), locks.clone()], 7);
        load.wait_for(500, ELECTION).await;
        load.stop().await
    }

    /// The verdict on a service's state, in which a failure is a panic.
    async fn verdict(locks: MemoryLocks, told: Acknowledged) -> Result<(), JoinError> {
        tokio::spawn(async move { told.verify(&locks).await }).await
    }

    /// The lock that the load held, or released, at the end, and its owner.
    fn one_that_is(held: bool, told: &Acknowledged) -> UnlockRequest {
        let history = told.history();
        let mut last = BTreeMap::new();
        for operation in history.operations() {
            last.insert(operation.lock().signature.to_string(), operation);
        }
        let mut found = last.into_iter().filter_map(|(signature, operation)| {
            let signee = match (held, &operation.action) {
                (true, Action::Lock(asked)) => &asked.signee,
                (false, Action::Unlock(asked)) => &asked.signee,
                (true | false, _) => return None,
            };
            Some(UnlockRequest { signature, signee: signee.to_string() })
        });
        found.next().expect("there is one")
    }

    fn unlock(locks: &MemoryLocks, request: UnlockRequest) -> impl Future<Output = ()> {
        let answer = locks.unlock(request, UnlockOptions::default());
        async { assert!(answer.await.expect("an answer").ok()) }
    }

    async fn lock(locks: &MemoryLocks, request: UnlockRequest, level: Option<i64>) {
        let UnlockRequest { signature, signee } = request;
        let options = LockOptions { duration: Some(DURATION), ..LockOptions::default() };
        let answer = locks.lock(LockRequest { signature, signee, level }, options).await;
        assert!(answer.expect("an answer").ok());
    }

    #[tokio::test]
    async fn an_honest_service_is_accepted() {
        let locks = MemoryLocks::new();
        let told = work(&locks).await;
        verdict(locks.clone(), told.clone()).await.expect("nothing is wrong");
        told.verify_tokens_grow(locks.clone()).await;
        told.verify_tokens_grow(locks.clone()).await;
        verdict(locks, told).await.expect("nothing is wrong");
    }

    #[tokio::test]
    async fn a_lost_lock_is_found() {
        let locks = MemoryLocks::new();
        let told = work(&locks).await;
        unlock(&locks, one_that_is(true, &told)).await;
        assert!(verdict(locks, told).await.is_err());
    }

    #[tokio::test]
    async fn a_changed_level_is_found() {
        let locks = MemoryLocks::new();
        let told = work(&locks).await;
        lock(&locks, one_that_is(true, &told), Some(77)).await;
        assert!(verdict(locks, told).await.is_err());
    }

    #[tokio::test]
    async fn a_changed_token_is_found() {
        let locks = MemoryLocks::new();
        let told = work(&locks).await;
        let held = one_that_is(true, &told);
        let before = locks.check(held.signature.clone(), ask::reading(false)).await;
        let level = before.expect("it is held").record.holders[0].level;
        unlock(&locks, held.clone()).await;
        lock(&locks, held, Some(level)).await;
        assert!(verdict(locks, told).await.is_err());
    }

    #[tokio::test]
    async fn a_released_lock_that_is_back_is_found() {
        let locks = MemoryLocks::new();
        let told = work(&locks).await;
        lock(&locks, one_that_is(false, &told), None).await;
        assert!(verdict(locks, told).await.is_err());
    }

    #[tokio::test]
    async fn tokens_that_begin_again_are_found() {
        let told = work(&MemoryLocks::new()).await;
        // The same names, in a service that has forgotten which tokens it granted.
        let forgetful = MemoryLocks::new();
        let verdict = tokio::spawn(async move { told.verify_tokens_grow(forgetful).await }).await;
        assert!(verdict.is_err());
    }

    #[tokio::test]
    async fn a_run_without_an_acknowledgement_shows_nothing() {
        let services: Vec<MemoryLocks> = Vec::new();
        let told = Load::start("idle", services, 7).stop().await;
        assert!(verdict(MemoryLocks::new(), told).await.is_err());
    }
}
