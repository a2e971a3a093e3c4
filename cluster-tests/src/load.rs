//! Makes work, and remembers what was acknowledged.
//!
//! Each worker owns its signatures, so the locks that it may hold follow from its own answers
//! alone: after an acknowledgement one state is possible, after an unknown outcome two are, and the
//! signature is then left as it is until the end. Nothing here expires.
//!
//! A history of invocations for a checker is kept by another recorder. This one checks only whether
//! the acknowledged state still exists.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use keyward::Error;
use keyward::service::LockService;
use keyward::types::{
    ListRequest, LockOptions, LockRecord, LockRequest, LockStatus, ReadOptions, Token,
    UnlockOptions, UnlockRequest, UnlockStatus,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinHandle;

use crate::cluster::ELECTION;
use crate::wait::eventually;

/// Longer than any test: a missing record was lost, and has not expired.
const DURATION: Duration = Duration::from_secs(24 * 60 * 60);

/// The signatures that one worker uses at a time.
const SIGNATURES: u64 = 24;

/// A possible state of a signature's record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Record {
    Absent,
    /// Held with exactly this token and level.
    Held {
        token: Token,
        level: i64,
    },
    /// Held with some token above this one: the answer with the token was lost.
    HeldAbove {
        floor: u64,
        level: i64,
    },
}

impl Record {
    fn allows(self, found: Option<(Token, i64)>) -> bool {
        match (self, found) {
            (Self::Absent, None) => true,
            (Self::Held { token, level }, Some(found)) => found == (token, level),
            (Self::HeldAbove { floor, level }, Some(found)) => {
                found.0.0 > floor && found.1 == level
            }
            (Self::Absent, Some(_)) | (Self::Held { .. } | Self::HeldAbove { .. }, None) => false,
        }
    }
}

/// The known facts about one signature.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Known {
    /// One state, or two after an unknown outcome.
    possible: Vec<Record>,
    /// The highest token that was acknowledged for it.
    highest: u64,
}

impl Known {
    fn new() -> Self {
        Self { possible: vec![Record::Absent], highest: 0 }
    }

    /// The one possible state, if it is known.
    fn certain(&self) -> Option<Record> {
        match self.possible.as_slice() {
            [one] => Some(*one),
            _ => None,
        }
    }
}

/// The answers that the workers received.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Acknowledged {
    signatures: BTreeMap<String, Known>,
    /// Operations that were acknowledged.
    pub operations: u64,
    /// Operations whose outcome is unknown.
    pub unknown: u64,
    /// Operations that were certainly not done.
    pub unavailable: u64,
    violations: Vec<String>,
}

/// Workers at work. Dropping it stops them.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    operations: Arc<AtomicU64>,
    workers: Vec<JoinHandle<Acknowledged>>,
}

impl Load {
    /// Starts one worker for each service, each with a choice of its own.
    pub fn start<S: LockService>(name: &str, services: Vec<S>, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let operations = Arc::new(AtomicU64::new(0));
        let workers = (0_u64..)
            .zip(services)
            .map(|(number, service)| {
                let worker = Worker {
                    service,
                    prefix: format!("load/{name}/{number}"),
                    known: Acknowledged::default(),
                    random: StdRng::seed_from_u64(seed ^ (number << 32)),
                    operations: Arc::clone(&operations),
                };
                tokio::spawn(worker.run(Arc::clone(&stop)))
            })
            .collect();
        Self { stop, operations, workers }
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
    /// If an answer contradicted an earlier one.
    pub async fn stop(mut self) -> Acknowledged {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Acknowledged::default();
        for worker in self.workers.drain(..) {
            let one = worker.await.expect("a worker does not panic");
            all.signatures.extend(one.signatures);
            all.operations += one.operations;
            all.unknown += one.unknown;
            all.unavailable += one.unavailable;
            all.violations.extend(one.violations);
        }
        assert!(all.violations.is_empty(), "{:#?}", all.violations);
        println!(
            "load: {} acknowledged, {} unknown, {} unavailable, {} signatures",
            all.operations,
            all.unknown,
            all.unavailable,
            all.signatures.len()
        );
        all
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
    /// Reads every record and compares it with what was acknowledged.
    ///
    /// # Panics
    /// If something acknowledged is lost or changed, or if the run acknowledged nothing.
    pub async fn verify(&self, service: &impl LockService) {
        assert!(self.operations > 0, "nothing was acknowledged, so nothing is shown");
        let found = records(service, "load/").await;
        let mut wrong = Vec::new();
        for (signature, known) in &self.signatures {
            let record = found.get(signature).copied();
            if !known.possible.iter().any(|possible| possible.allows(record)) {
                wrong.push(format!("{signature}: found {record:?}, acknowledged {known:?}"));
            }
        }
        assert!(wrong.is_empty(), "{} of {} lost: {wrong:#?}", wrong.len(), self.signatures.len());
    }

    /// Acquires a few of the locks by force and checks that their tokens are larger than all
    /// before.
    ///
    /// # Panics
    /// If one is not.
    pub async fn verify_tokens_grow(&mut self, service: &impl LockService) {
        const SAMPLE: usize = 50;
        for (signature, known) in self.signatures.iter_mut().take(SAMPLE) {
            let signee = String::from("successor");
            let request = LockRequest { signature: signature.clone(), signee, level: Some(1) };
            let options =
                LockOptions { force: true, duration: Some(DURATION), ..LockOptions::default() };
            let response = eventually("a lock is taken", ELECTION, || {
                service.lock(request.clone(), options.clone())
            })
            .await;
            let grant = response.grant().expect("force takes every lock");
            // A second round finds the successor's own grant: its token does not change.
            let kept = known.certain() == Some(Record::Held { token: grant.token, level: 1 });
            assert!(kept || grant.token.0 > known.highest, "{signature}: {grant:?}, {known:?}");
            known.highest = grant.token.0;
            known.possible = vec![Record::Held { token: grant.token, level: 1 }];
        }
    }
}

/// All records below a prefix: token and level by signature.
///
/// # Panics
/// If they cannot be read within the time of an election.
pub async fn records(service: &impl LockService, prefix: &str) -> BTreeMap<String, (Token, i64)> {
    let mut found = BTreeMap::new();
    let mut after = None;
    loop {
        let limit = ListRequest::MAX_LIMIT;
        let request = ListRequest {
            prefix: prefix.to_owned(),
            after: after.take(),
            limit,
            ..ListRequest::default()
        };
        let page = eventually("a page is read", ELECTION, || {
            service.list(request.clone(), ReadOptions::default())
        })
        .await;
        found.extend(page.locks.into_iter().filter_map(held));
        after = page.next;
        if after.is_none() {
            return found;
        }
    }
}

fn held(record: LockRecord) -> Option<(String, (Token, i64))> {
    let holder = record.holders.first()?;
    Some((record.signature, (holder.token, holder.level)))
}

struct Worker<S> {
    service: S,
    prefix: String,
    known: Acknowledged,
    random: StdRng,
    operations: Arc<AtomicU64>,
}

/// The outcome of one operation.
enum Outcome {
    Done(Record),
    NotDone,
    Unknown(Record),
    Wrong(String),
}

impl<S: LockService> Worker<S> {
    async fn run(mut self, stop: Arc<AtomicBool>) -> Acknowledged {
        let mut names: Vec<String> =
            (0..SIGNATURES).map(|number| format!("{}/{number}", self.prefix)).collect();
        let mut next = SIGNATURES;
        while !stop.load(Ordering::SeqCst) {
            // A service that answers at once would starve other tasks.
            tokio::task::yield_now().await;
            let place = self.random.random_range(0..names.len());
            if self.step(&names[place]).await {
                continue;
            }
            // Its state is unknown until the end: another signature replaces it.
            names[place] = format!("{}/{next}", self.prefix);
            next += 1;
        }
        self.known
    }

    /// Does one operation; returns whether the signature's state is still known.
    async fn step(&mut self, signature: &str) -> bool {
        let known = self.known.signatures.get(signature).cloned().unwrap_or_else(Known::new);
        let before = known.certain().expect("a signature in use has one possible state");
        let outcome = match before {
            Record::Held { token, .. } if self.random.random_ratio(1, 4) => {
                self.unlock(signature, token).await
            }
            Record::Absent | Record::Held { .. } | Record::HeldAbove { .. } => {
                self.lock(signature, before, known.highest).await
            }
        };
        self.note(signature, known, before, outcome)
    }

    fn note(&mut self, signature: &str, mut known: Known, before: Record, got: Outcome) -> bool {
        match got {
            Outcome::Done(after) => {
                known.possible = vec![after];
                if let Record::Held { token, .. } = after {
                    known.highest = known.highest.max(token.0);
                }
                self.known.operations += 1;
                self.operations.fetch_add(1, Ordering::SeqCst);
            }
            Outcome::NotDone => self.known.unavailable += 1,
            Outcome::Unknown(after) => {
                known.possible = vec![before, after];
                self.known.unknown += 1;
            }
            Outcome::Wrong(what) => {
                self.known.violations.push(format!("{signature}: {what}; before: {known:?}"));
            }
        }
        let certain = known.certain().is_some();
        self.known.signatures.insert(signature.to_owned(), known);
        certain
    }

    async fn lock(&mut self, signature: &str, before: Record, highest: u64) -> Outcome {
        let level = self.random.random_range(-3..=3);
        let request = LockRequest {
            signature: signature.to_owned(),
            signee: self.signee(),
            level: Some(level),
        };
        let options = LockOptions { duration: Some(DURATION), ..LockOptions::default() };
        let unknown = match before {
            Record::Held { token, .. } => Record::Held { token, level },
            Record::Absent | Record::HeldAbove { .. } => {
                Record::HeldAbove { floor: highest, level }
            }
        };
        let response = match self.service.lock(request, options).await {
            Ok(response) => response,
            Err(error) => return self.failed(error, unknown).await,
        };
        match (before, response.status) {
            (Record::Absent, LockStatus::Ok(grant)) if grant.token.0 > highest => {
                Outcome::Done(Record::Held { token: grant.token, level })
            }
            (Record::Held { token, .. }, LockStatus::Renewed(grant)) if grant.token == token => {
                Outcome::Done(Record::Held { token, level })
            }
            (_, status) => Outcome::Wrong(format!("lock answered {status:?}")),
        }
    }

    async fn unlock(&mut self, signature: &str, token: Token) -> Outcome {
        let request = UnlockRequest { signature: signature.to_owned(), signee: self.signee() };
        let options = UnlockOptions { token: Some(token), ..UnlockOptions::default() };
        match self.service.unlock(request, options).await {
            Ok(response) if response.status == UnlockStatus::Ok => Outcome::Done(Record::Absent),
            Ok(response) => Outcome::Wrong(format!("unlock answered {:?}", response.status)),
            Err(error) => self.failed(error, Record::Absent).await,
        }
    }

    async fn failed(&mut self, error: Error, after: Record) -> Outcome {
        match error {
            Error::Unavailable { .. } => {
                // There is no leader: an immediate retry would only slow the election down.
                tokio::time::sleep(Duration::from_millis(20)).await;
                Outcome::NotDone
            }
            Error::Unknown { .. } => Outcome::Unknown(after),
            Error::Forbidden(_)
            | Error::BadRequest { .. }
            | Error::NotFound { .. }
            | Error::Unauthorized { .. }
            | Error::LaneForgotten { .. } => {
                Outcome::Wrong(format!("an operation ended with {error}"))
            }
        }
    }

    fn signee(&self) -> String {
        format!("worker of {}", self.prefix)
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

    fn held_one(told: &Acknowledged) -> (String, String, Token) {
        let held = told.signatures.iter().find_map(|(signature, known)| match known.certain() {
            Some(Record::Held { token, .. }) => Some((signature.clone(), token)),
            _ => None,
        });
        let (signature, token) = held.expect("something is held");
        let (worker, _) = signature.rsplit_once('/').expect("a worker's name");
        (signature.clone(), format!("worker of {worker}"), token)
    }

    #[tokio::test]
    async fn an_honest_service_is_accepted() {
        let locks = MemoryLocks::new();
        let mut told = work(&locks).await;
        verdict(locks.clone(), told.clone()).await.expect("nothing is wrong");
        told.verify_tokens_grow(&locks).await;
        told.verify_tokens_grow(&locks).await;
        verdict(locks, told).await.expect("nothing is wrong");
    }

    #[tokio::test]
    async fn a_lost_lock_is_found() {
        let locks = MemoryLocks::new();
        let told = work(&locks).await;
        let (signature, signee, _) = held_one(&told);
        let request = UnlockRequest { signature, signee };
        locks.unlock(request, UnlockOptions::default()).await.expect("it is there");
        assert!(verdict(locks, told).await.is_err());
    }

    #[tokio::test]
    async fn a_changed_level_is_found() {
        let locks = MemoryLocks::new();
        let told = work(&locks).await;
        let (signature, signee, _) = held_one(&told);
        let request = LockRequest { signature, signee, level: Some(77) };
        locks.lock(request, LockOptions::default()).await.expect("it is there");
        assert!(verdict(locks, told).await.is_err());
    }

    #[tokio::test]
    async fn a_changed_token_is_found() {
        let locks = MemoryLocks::new();
        let mut told = work(&locks).await;
        let (signature, _, token) = held_one(&told);
        let known = told.signatures.get_mut(&signature).expect("it is known");
        known.possible = vec![Record::Held { token: Token(token.0 + 1), level: 0 }];
        assert!(verdict(locks, told).await.is_err());
    }

    #[tokio::test]
    async fn a_released_lock_that_is_back_is_found() {
        let locks = MemoryLocks::new();
        let mut told = work(&locks).await;
        let (signature, _, _) = held_one(&told);
        told.signatures.get_mut(&signature).expect("it is known").possible = vec![Record::Absent];
        assert!(verdict(locks, told).await.is_err());
    }

    #[tokio::test]
    async fn tokens_that_begin_again_are_found() {
        let mut told = work(&MemoryLocks::new()).await;
        // The same names, in a service that has forgotten which tokens it granted.
        let forgetful = MemoryLocks::new();
        let verdict = tokio::spawn(async move { told.verify_tokens_grow(&forgetful).await }).await;
        assert!(verdict.is_err());
    }

    #[tokio::test]
    async fn a_run_without_an_acknowledgement_shows_nothing() {
        assert!(verdict(MemoryLocks::new(), Acknowledged::default()).await.is_err());
    }
}
