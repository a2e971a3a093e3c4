//! Services as the workloads see them, with every call recorded.
//!
//! [`keyward::bench::Target`] is the adapter of any product: [`Watched`] wraps one and records the
//! requests and answers of its owners. Keyward has an adapter of its own here, [`Keyward`],
//! because its answers carry more than an owner returns: the place in the log, the holder that
//! caused a refusal, the request id of all attempts.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use keyward::Error;
use keyward::bench::{Failure, Owner, Target};
use keyward::client::Client;
use keyward::clock::{Clock, SystemClock};
use keyward::service::LockService;
use keyward::types::{
    CallOptions, ForbiddenReason, LockOptions, LockRequest, LockStatus, Mode, ReadOptions, Token,
    UnlockOptions, UnlockRequest, UnlockStatus,
};

use smol_str::SmolStr;

use super::access::Credentials;
use super::progress::{Ended, Progress};
use crate::history::{
    Action, Answer, Granted, LockAction, LockName, OpenWrites, Outcome, Recorded, Recorder,
    Refusal, Status, Turn, UnlockAction,
};

/// The timeout of one call, retries included. Longer than an election of the fast profile, so that
/// most calls outlast one; short enough that a client behind a dead link is not lost for the run.
pub const CALL: Duration = Duration::from_secs(2);

/// The table of services that have none.
const TABLE: &str = "default";

/// The operations that the workloads need beyond [`Target`].
pub trait Subject: Target + Clone {
    /// The same service through Keyward's own requests, for features that an owner lacks: levels,
    /// force, releases by name. `None` for any other service.
    fn locks(&self, client: usize) -> Option<Recorded<Client>>;

    /// Resolves the outcomes of requests that were never answered, once no client sends any more.
    /// `true`: all of them are known now.
    fn settle(&self) -> impl Future<Output = bool> + Send {
        std::future::ready(false)
    }
}

/// A cluster of Keyward.
#[derive(Clone, Debug)]
pub struct Keyward {
    endpoints: Vec<String>,
    recorder: Recorder,
    progress: Progress,
    open: OpenWrites,
    credentials: Option<Credentials>,
}

impl Keyward {
    /// A cluster whose nodes have these endpoints; requests are recorded and counted.
    pub fn new(endpoints: Vec<String>, recorder: Recorder, progress: Progress) -> Self {
        Self { endpoints, recorder, progress, open: OpenWrites::default(), credentials: None }
    }

    /// Clients show these credentials, and no request of theirs may be refused by access control.
    #[must_use]
    pub fn with_credentials(mut self, credentials: Option<Credentials>) -> Self {
        self.credentials = credentials;
        self
    }

    /// A client whose calls are recorded; it begins at the node of its number.
    ///
    /// # Panics
    /// If an endpoint is not a URL.
    pub fn client(&self, number: usize) -> Recorded<Client> {
        Recorded::new(self.unrecorded(number), self.recorder.clone(), name(number))
            .with_lane(rand::random())
            .with_open_writes(self.open.clone())
            .with_every_right(self.credentials.is_some())
    }

    pub(super) fn unrecorded(&self, number: usize) -> Client {
        let mut endpoints = self.endpoints.clone();
        endpoints.rotate_left(number % self.endpoints.len());
        let client = Client::builder().endpoints(endpoints).timeout(CALL);
        let client = match &self.credentials {
            Some(credentials) => credentials.client(number, client),
            None => client,
        };
        client.build().expect("endpoints are checked before a run begins")
    }

    /// A client that may repeat the requests of all others.
    fn settler(&self) -> Client {
        let client = Client::builder().endpoints(self.endpoints.clone()).timeout(CALL);
        let client = match &self.credentials {
            Some(credentials) => credentials.admin(client),
            None => client,
        };
        client.build().expect("endpoints are checked before a run begins")
    }
}

/// The name of a client, which is its signee too.
pub fn name(number: usize) -> String {
    format!("client-{number}")
}

impl Subject for Keyward {
    fn locks(&self, client: usize) -> Option<Recorded<Client>> {
        Some(self.client(client))
    }

    async fn settle(&self) -> bool {
        self.open.settle(&self.settler(), &self.recorder).await
    }
}

impl Target for Keyward {
    type Owner = KeywardOwner;

    async fn owner(&self, client: usize) -> Result<KeywardOwner, Failure> {
        let locks = self.client(client);
        Ok(KeywardOwner { locks, signee: name(client), progress: self.progress.clone() })
    }
}

/// One client of Keyward.
pub struct KeywardOwner {
    locks: Recorded<Client>,
    signee: String,
    progress: Progress,
}

impl KeywardOwner {
    async fn lock(
        &self,
        signature: &str,
        duration: Duration,
        token: Option<Token>,
    ) -> Result<Token, Failure> {
        let signee = self.signee.clone();
        let request = LockRequest { signature: signature.to_owned(), signee, level: None };
        let options =
            LockOptions { duration: Some(duration), token, call: call(), ..LockOptions::default() };
        let asked = SystemClock.raw();
        let answer = self.locks.lock(request, options).await.map_err(failure);
        let answer = answer.and_then(|response| match response.status {
            LockStatus::Ok(grant)
            | LockStatus::Renewed(grant)
            | LockStatus::Transferred { grant, .. } => Ok(grant.token),
            LockStatus::Waiting(_) | LockStatus::Failed(_) => Err(Failure::Refused),
        });
        if answer.is_ok() && token.is_none() {
            self.progress.acquired(asked);
        }
        noted(&self.progress, answer)
    }
}

impl Owner for KeywardOwner {
    type Held = Token;

    async fn acquire(&mut self, signature: &str, duration: Duration) -> Result<Token, Failure> {
        self.lock(signature, duration, None).await
    }

    async fn renew(
        &mut self,
        signature: &str,
        held: &mut Token,
        duration: Duration,
    ) -> Result<(), Failure> {
        self.lock(signature, duration, Some(*held)).await.map(|_| ())
    }

    async fn release(&mut self, signature: &str, held: Token) -> Result<(), Failure> {
        let signee = self.signee.clone();
        let request = UnlockRequest { signature: signature.to_owned(), signee };
        let options = UnlockOptions { token: Some(held), call: call(), ..UnlockOptions::default() };
        let answer = self.locks.unlock(request, options).await.map_err(failure);
        let answer = answer.and_then(|response| match response.status {
            UnlockStatus::Ok => Ok(()),
            UnlockStatus::Left | UnlockStatus::NoLock | UnlockStatus::Failed(_) => {
                Err(Failure::Refused)
            }
        });
        noted(&self.progress, answer)
    }

    async fn check(&mut self, signature: &str) -> Result<bool, Failure> {
        let options = ReadOptions { call: call(), ..ReadOptions::default() };
        let answer = match self.locks.check(signature.to_owned(), options).await {
            Ok(response) => Ok(response.record.holders.iter().any(|holder| !holder.expired)),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(failure(error)),
        };
        noted(&self.progress, answer)
    }

    fn token(held: &Token) -> Option<u64> {
        Some(held.0)
    }
}

fn call() -> CallOptions {
    CallOptions { timeout: Some(CALL), ..CallOptions::default() }
}

/// Classifies an error by whether the request was done.
pub fn failure(error: Error) -> Failure {
    match error {
        Error::Forbidden(_) => Failure::Refused,
        Error::Unknown { reason } | Error::LaneForgotten { reason } => Failure::Unknown(reason),
        other @ (Error::BadRequest { .. }
        | Error::NotFound { .. }
        | Error::Unavailable { .. }
        | Error::Unauthorized { .. }
        | Error::NotAllowed { .. }) => Failure::Unavailable(other.to_string()),
    }
}

fn noted<T>(progress: &Progress, answer: Result<T, Failure>) -> Result<T, Failure> {
    progress.note(match &answer {
        Ok(_) => Ended::Ok,
        Err(Failure::Refused) => Ended::Refused,
        Err(Failure::Unavailable(_)) => Ended::Unavailable,
        Err(Failure::Unknown(_)) => Ended::Unknown,
    });
    answer
}

/// Any service, through its adapter.
#[derive(Debug)]
pub struct Watched<T> {
    target: Arc<T>,
    recorder: Recorder,
    progress: Progress,
    refusal: OnRefusal,
    /// Numbers the grants of a service without tokens, in the order of its answers.
    next_token: Arc<AtomicU64>,
}

/// The meaning of a refusal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum OnRefusal {
    /// Another owner holds the lock.
    Held,
    /// The lock was not granted; it may be free.
    NotGiven,
}

impl<T> Watched<T> {
    /// Records the requests of an adapter's owners.
    pub fn new(target: T, recorder: Recorder, progress: Progress) -> Self {
        let (target, refusal) = (Arc::new(target), OnRefusal::Held);
        Self { target, recorder, progress, refusal, next_token: Arc::default() }
    }

    /// Declares that a refusal does not imply a holder: several clients may have tried at once, and
    /// none may have acquired the lock.
    #[must_use]
    pub fn with_vague_refusals(mut self) -> Self {
        self.refusal = OnRefusal::NotGiven;
        self
    }
}

impl<T> Clone for Watched<T> {
    fn clone(&self) -> Self {
        Self {
            target: Arc::clone(&self.target),
            recorder: self.recorder.clone(),
            progress: self.progress.clone(),
            refusal: self.refusal,
            next_token: Arc::clone(&self.next_token),
        }
    }
}

impl<T: Target> Subject for Watched<T> {
    fn locks(&self, _client: usize) -> Option<Recorded<Client>> {
        None
    }
}

impl<T: Target> Target for Watched<T> {
    type Owner = WatchedOwner<T::Owner>;

    async fn owner(&self, client: usize) -> Result<Self::Owner, Failure> {
        let owner = self.target.owner(client).await?;
        Ok(WatchedOwner {
            owner,
            signee: name(client),
            recorder: self.recorder.clone(),
            progress: self.progress.clone(),
            refusal: self.refusal,
            next_token: Arc::clone(&self.next_token),
            acquires: 0,
        })
    }
}

/// One client of any service. Each of its acquires has a new owner: only Keyward knows an owner
/// that repeats a request for a lock it holds.
#[derive(Debug)]
pub struct WatchedOwner<S> {
    owner: S,
    signee: String,
    acquires: u64,
    recorder: Recorder,
    progress: Progress,
    refusal: OnRefusal,
    next_token: Arc<AtomicU64>,
}

/// A held lock, and the number of its grant in the history.
#[derive(Debug)]
pub struct WatchedHeld<H> {
    held: H,
    owner: Acquire,
    token: u64,
}

/// The holder of a lock in the history: the number of the acquire of its client.
#[derive(Clone, Copy, Debug)]
struct Acquire(u64);

impl Acquire {
    fn instance(self) -> SmolStr {
        smol_str::format_smolstr!("acquire-{}", self.0)
    }
}

impl<S: Owner> WatchedOwner<S> {
    /// The lock request. Its record lives until its lease ends: only Keyward keeps records beyond
    /// it.
    fn asked(
        &self,
        signature: &str,
        duration: Duration,
        owner: Acquire,
        token: Option<u64>,
    ) -> Action {
        let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Action::Lock(LockAction {
            lock: LockName::new(TABLE, signature),
            signee: self.signee.as_str().into(),
            instance: Some(owner.instance()),
            level: None,
            duration_ms,
            time_to_live_ms: Some(duration_ms),
            force: false,
            token,
            turn: Turn::default(),
        })
    }

    fn granted(status: Status, token: u64, duration: Duration) -> Outcome {
        Outcome::Ok(Answer::Granted(Granted {
            status,
            token,
            level: 0,
            expires_in_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            live: true,
            mode: Mode::Exclusive,
            slot: None,
            valid_ms: None,
        }))
    }
}

impl<S: Owner> Owner for WatchedOwner<S> {
    type Held = WatchedHeld<S::Held>;

    async fn acquire(
        &mut self,
        signature: &str,
        duration: Duration,
    ) -> Result<Self::Held, Failure> {
        self.acquires += 1;
        let owner = Acquire(self.acquires);
        let action = self.asked(signature, duration, owner, None);
        let call = self.recorder.begin(self.signee.clone(), action);
        let answer = self.owner.acquire(signature, duration).await.map(|held| {
            let token = S::token(&held)
                .unwrap_or_else(|| self.next_token.fetch_add(1, Ordering::SeqCst) + 1);
            WatchedHeld { held, owner, token }
        });
        call.finish(
            match &answer {
                Ok(held) => Self::granted(Status::Ok, held.token, duration),
                Err(Failure::Refused) if self.refusal == OnRefusal::NotGiven => {
                    Outcome::Unavailable
                }
                Err(failure) => outcome(failure, ForbiddenReason::Held),
            },
            None,
        );
        noted(&self.progress, answer)
    }

    async fn renew(
        &mut self,
        signature: &str,
        held: &mut Self::Held,
        duration: Duration,
    ) -> Result<(), Failure> {
        let action = self.asked(signature, duration, held.owner, Some(held.token));
        let call = self.recorder.begin(self.signee.clone(), action);
        let answer = self.owner.renew(signature, &mut held.held, duration).await;
        call.finish(
            match &answer {
                Ok(()) => Self::granted(Status::Renewed, held.token, duration),
                Err(failure) => outcome(failure, ForbiddenReason::Lost),
            },
            None,
        );
        noted(&self.progress, answer)
    }

    async fn release(&mut self, signature: &str, held: Self::Held) -> Result<(), Failure> {
        let action = Action::Unlock(UnlockAction {
            lock: LockName::new(TABLE, signature),
            signee: self.signee.as_str().into(),
            instance: Some(held.owner.instance()),
            token: Some(held.token),
            force: false,
            place: None,
        });
        let call = self.recorder.begin(self.signee.clone(), action);
        let answer = self.owner.release(signature, held.held).await;
        call.finish(
            match &answer {
                Ok(()) => Outcome::Ok(Answer::Released),
                // Nothing was changed; an owner does not tell whether another holder or none was
                // there.
                Err(Failure::Refused) => Outcome::Unavailable,
                Err(failure) => outcome(failure, ForbiddenReason::Lost),
            },
            None,
        );
        noted(&self.progress, answer)
    }

    /// Not recorded: an owner returns whether the lock is held, not by whom.
    async fn check(&mut self, signature: &str) -> Result<bool, Failure> {
        noted(&self.progress, self.owner.check(signature).await)
    }

    fn token(held: &Self::Held) -> Option<u64> {
        S::token(&held.held)
    }
}

fn outcome(failure: &Failure, reason: ForbiddenReason) -> Outcome {
    match failure {
        Failure::Refused => Outcome::Refused(Refusal::Forbidden { reason, holder: None }),
        Failure::Unavailable(_) => Outcome::Unavailable,
        Failure::Unknown(_) => Outcome::Unknown,
    }
}
