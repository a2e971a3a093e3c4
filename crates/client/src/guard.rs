//! A lock that is held while a value lives.
//!
//! A [`Guard`] renews its grant in the background, always by token, so that a late renewal revives
//! nothing. It decides by its own clock whether the grant can still be valid, counted from before
//! each request was sent; see [`super::lease`]. It works over anything that answers lock requests:
//! a cluster, or [`keyward_core::MemoryLocks`] within a process.
//!
//! A guard cannot stop a program that was frozen after its last check. Only fencing helps against
//! that: pass the token to the resource that the lock guards, and let it refuse smaller ones.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Client;
use super::lease::Lease;
pub use super::lease::{GuardState, LostReason};
use super::releases::{Owner, Releases};
use super::renewal::Renewal;
use super::wake::Wake;
use crate::api::DEFAULT_TIMEOUT;
use keyward_core::clock::{Clock, Deadline};
use keyward_core::error::Error;
use keyward_core::random;
use keyward_core::service::LockService;
use keyward_core::task;
use keyward_core::types::{
    Forbidden, ForbiddenReason, Grant, LockOptions, LockRequest, LockResponse, LockStatus, Token,
    UnlockOptions, UnlockRequest, UnlockResponse,
};

/// A guard of a lock in a cluster.
pub type LockGuard = Guard<Client>;

/// The default bound on the drift between the clocks of holder and cluster: 1 %, as the cluster
/// itself assumes.
const RATE_ERROR: f64 = 0.01;

/// The timeout of a dropped guard's release.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// The timeout of the last attempt of a wait, which begins when the time is up.
const LAST_ATTEMPT: Duration = Duration::from_millis(250);

/// The remaining time below which a wait ends if its last request was not decided: the client has
/// retried for as long as that makes sense.
const NEARLY_OVER: Duration = Duration::from_millis(100);

/// The first and the longest backoff between two requests for a lock that another holds.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The request for a guard.
///
/// The owner of a lock is its signee, with its instance if it has one: two guards of one owner are
/// *one* holder, and the second one gets the grant of the first. Programs that run twice under one
/// name, and want to exclude each other, need an [`Acquire::instance`] each.
#[derive(Clone, Debug)]
pub struct Acquire {
    /// The lock, its owner and its level.
    pub request: LockRequest,
    /// The options. Renewals repeat table, duration, time_to_live, instance and the audit fields.
    pub options: LockOptions,
    /// ρ: the bound on the drift between the clocks of holder and cluster, as a fraction. The guard
    /// treats a grant as lost after (1 − ρ) of its time.
    pub rate_error: f64,
}

impl Acquire {
    /// Requests this lock for this owner, with the defaults of the table.
    pub fn new(signature: impl Into<String>, signee: impl Into<String>) -> Self {
        let request =
            LockRequest { signature: signature.into(), signee: signee.into(), level: None };
        Self { request, options: LockOptions::default(), rate_error: RATE_ERROR }
    }

    /// Sets the level.
    #[must_use]
    pub fn level(mut self, level: i64) -> Self {
        self.request.level = Some(level);
        self
    }

    /// Sets the duration of each grant, which is renewed at a third of it.
    #[must_use]
    pub fn duration(mut self, duration: Duration) -> Self {
        self.options.duration = Some(duration);
        self
    }

    /// Sets the run of the owner; another instance is another owner.
    #[must_use]
    pub fn instance(mut self, instance: impl Into<String>) -> Self {
        self.options.instance = Some(instance.into());
        self
    }

    /// Sets the table.
    #[must_use]
    pub fn table(mut self, table: impl Into<String>) -> Self {
        self.options.table = Some(table.into());
        self
    }

    /// Takes the lock even if another holds it.
    #[must_use]
    pub fn force(mut self) -> Self {
        self.options.force = true;
        self
    }
}

/// State that the guards of one client share.
#[derive(Clone)]
pub(super) struct Common {
    /// The clock that holders count with.
    pub(super) clock: Arc<dyn Clock>,
    /// Wakes guards when the clock has jumped.
    pub(super) wake: Arc<Wake>,
    /// The releases of dropped guards that are in flight.
    pub(super) releases: Arc<Releases>,
}

impl Common {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { wake: Wake::new(Arc::clone(&clock)), clock, releases: Arc::default() }
    }
}

/// Holds a lock until it is released, dropped, or lost.
///
/// Dropping it stops the renewals and never blocks: the lock is released by a task of the runtime
/// in which it was acquired, if that is still there, and otherwise expires. A [`Client`] (with its
/// clones and handles) that acquires the lock again for the same owner waits for that release, for
/// five seconds at most. [`Guard::acquire`] knows of no other guard: a caller that acquires a lock
/// again at once uses [`Guard::release`] first, or a new [`Acquire::instance`].
pub struct Guard<S: LockService + Clone> {
    service: S,
    releases: Arc<Releases>,
    lease: Arc<Lease>,
    release: (UnlockRequest, UnlockOptions),
    grant: Grant,
    renewer: JoinHandle<()>,
    runtime: Handle,
    released: bool,
}

impl<S: LockService + Clone> Guard<S> {
    /// Acquires a lock and keeps it. Must be called within a tokio runtime.
    ///
    /// If the future is dropped before it resolves, or resolves to `Unknown`, the lock may have
    /// been granted; it then expires by itself.
    ///
    /// # Errors
    /// `Forbidden` if another holds it; otherwise as [`LockService::lock`].
    pub async fn acquire(
        service: S,
        clock: Arc<dyn Clock>,
        request: Acquire,
    ) -> Result<Self, Error> {
        Self::acquire_with(service, Common::new(clock), request, None).await
    }

    /// Acquires as [`Guard::acquire`] does, with state that several guards may share, and by a
    /// deadline if there is one.
    pub(super) async fn acquire_with(
        service: S,
        common: Common,
        request: Acquire,
        until: Option<Deadline>,
    ) -> Result<Self, Error> {
        let Acquire { request: asked, options, .. } = &request;
        let left = || until.map(|until| until.remaining().max(LAST_ATTEMPT));
        let owner = Owner::asking(asked, options);
        let patience = left().map_or(RELEASE_TIMEOUT, |left| left.min(RELEASE_TIMEOUT));
        // Bounded, because the runtime that makes the release may no longer be polled.
        let ended = tokio::time::timeout(patience, common.releases.ended(&owner)).await;
        if ended.is_err() && patience < RELEASE_TIMEOUT {
            return Err(Error::unavailable(
                "a dropped guard of this owner is still being released",
            ));
        }
        let mut options = options.clone();
        if let Some(left) = left() {
            options.call.timeout = Some(options.call.timeout.unwrap_or(DEFAULT_TIMEOUT).min(left));
        }
        let sent = common.clock.boottime();
        let answer = service.lock(asked.clone(), options).await?;
        let grant = granted(answer)?;
        Self::hold(service, common, request, grant, sent)
    }

    /// Retries until the lock is acquired, for this long, and once more at the end. There is no
    /// queue: the first request after the lock became free acquires it.
    ///
    /// A `request_id` of the caller is used up to the first decision: repeated after a refusal, it
    /// would get that refusal again, even when the lock is free.
    ///
    /// # Errors
    /// As [`Guard::acquire`], when the time is up; `BadRequest` and `Unauthorized` at once.
    pub async fn acquire_within(
        service: S,
        clock: Arc<dyn Clock>,
        request: Acquire,
        patience: Duration,
    ) -> Result<Self, Error> {
        let common = Common::new(clock);
        Self::acquire_within_with(service, common, request, patience, &mut |_: &Error| {}).await
    }

    /// Acquires as [`Guard::acquire_within`] does, with state that several guards may share;
    /// reports each error that does not end the wait.
    pub(super) async fn acquire_within_with(
        service: S,
        common: Common,
        mut request: Acquire,
        patience: Duration,
        tell: &mut (dyn FnMut(&Error) + Send),
    ) -> Result<Self, Error> {
        let deadline = Deadline::after(patience);
        let mut pause = FIRST_PAUSE;
        let mut open = None;
        loop {
            let (service, common) = (service.clone(), common.clone());
            let asked = Self::acquire_with(service, common, request.clone(), Some(deadline));
            let error = match asked.await {
                Ok(guard) => return Ok(guard),
                Err(error) => error,
            };
            let wait = match &error {
                Error::Forbidden(forbidden) => {
                    // Decided: this also settles an earlier outcome that was open.
                    open = None;
                    request.options.request_id = None;
                    until_free(forbidden).min(pause)
                }
                // A retry as the same owner finds out an open outcome.
                Error::Unknown { .. } => {
                    open = Some(error.clone());
                    pause
                }
                Error::Unavailable { .. } => pause,
                // An open outcome can no longer be found out.
                Error::LaneForgotten { .. }
                | Error::BadRequest { .. }
                | Error::NotFound { .. }
                | Error::Unauthorized { .. } => {
                    return Err(open.unwrap_or(error));
                }
            };
            let left = deadline.remaining();
            let was_refused = matches!(error, Error::Forbidden(_));
            if left.is_zero() || (!was_refused && left < NEARLY_OVER) {
                return Err(open.unwrap_or(error));
            }
            tell(&error);
            // The last request is sent when the time is up, not a pause before.
            tokio::time::sleep(wait.mul_f64(random::factor(0.75..=1.0)).min(left)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// The fencing token: pass it to the resource that the lock guards.
    pub fn token(&self) -> Token {
        self.grant.token
    }

    /// The level the lock is held at.
    pub fn level(&self) -> i64 {
        self.grant.level
    }

    /// The lock's name.
    pub fn signature(&self) -> &str {
        &self.release.0.signature
    }

    /// Whether the lock is still held, as far as the holder can know at this moment.
    pub fn state(&self) -> GuardState {
        self.lease.judge()
    }

    /// How long the lock is certainly held if no renewal succeeds any more.
    pub fn remaining(&self) -> Duration {
        self.lease.remaining()
    }

    /// A channel of the changes of the state. After the machine was asleep, a change is noticed
    /// within a second; call [`Guard::state`] where it matters.
    pub fn states(&self) -> watch::Receiver<GuardState> {
        self.lease.states()
    }

    /// Resolves when the lock is lost; stays pending if the guard is released first. Does not
    /// borrow the guard.
    pub fn lost(&self) -> impl Future<Output = LostReason> + Send + use<S> {
        let mut states = self.states();
        async move {
            loop {
                if let GuardState::Lost(reason) = *states.borrow_and_update() {
                    return reason;
                }
                if states.changed().await.is_err() {
                    // Released: the lock can no longer be lost.
                    std::future::pending::<()>().await;
                }
            }
        }
    }

    /// Stops the renewals and releases the lock.
    ///
    /// # Errors
    /// As [`LockService::unlock`]. The release is then tried once more in the background.
    pub async fn release(mut self) -> Result<UnlockResponse, Error> {
        self.renewer.abort();
        // The task ends at its next await; after that no renewal is sent.
        let _ = (&mut self.renewer).await;
        self.lease.end(GuardState::Released);
        let (request, options) = self.release.clone();
        let response = self.service.unlock(request, options).await?;
        self.released = true;
        Ok(response)
    }

    /// Stops the renewals and lets the lock expire this long from now, rounded down to milliseconds,
    /// instead of releasing it: for work that may be done once in a period, by any owner.
    ///
    /// # Errors
    /// `Forbidden` if the lock has been lost; otherwise as [`LockService::lock`]: it then expires
    /// at the end of the duration that it was acquired with.
    pub async fn expire_in(mut self, time: Duration) -> Result<(), Error> {
        self.renewer.abort();
        // As for a release: after that no renewal is sent.
        let _ = (&mut self.renewer).await;
        self.lease.end(GuardState::Released);
        // The lock is not released, whatever the result of this request.
        self.released = true;
        let Self { release: (request, options), .. } = &self;
        let UnlockRequest { signature, signee } = request.clone();
        let renewal = LockOptions {
            table: options.table.clone(),
            duration: Some(Duration::from_millis(crate::api::to_ms(time).max(1))),
            token: options.token,
            instance: options.instance.clone(),
            call: options.call.clone(),
            ..LockOptions::default()
        };
        let request = LockRequest { signature, signee, level: None };
        granted(self.service.lock(request, renewal).await?).map(|_| ())
    }

    fn hold(
        service: S,
        Common { clock, wake, releases }: Common,
        request: Acquire,
        grant: Grant,
        sent: Duration,
    ) -> Result<Self, Error> {
        let Acquire { request, options, rate_error } = request;
        // Renewals request the granted duration, even if the table's default has changed since.
        let duration = options.duration.unwrap_or(grant.expires_in);
        let certain = (1.0 - rate_error).clamp(0.0, 1.0);
        let lease = Arc::new(Lease::new(clock, certain, duration));
        let release = (
            UnlockRequest { signature: request.signature.clone(), signee: request.signee.clone() },
            UnlockOptions {
                table: options.table.clone(),
                token: Some(grant.token),
                instance: options.instance.clone(),
                call: options.call.clone(),
                ..UnlockOptions::default()
            },
        );
        lease.answered(sent, grant.expires_in);
        let renewal = Renewal {
            service: service.clone(),
            lease: Arc::clone(&lease),
            wake,
            request: LockRequest { level: None, ..request },
            options: LockOptions {
                force: false,
                duration: Some(duration),
                token: Some(grant.token),
                request_id: None,
                ..options
            },
            grant: grant.clone(),
            every: duration / 3,
        };
        let runtime = Handle::current();
        let renewer = runtime.spawn(task::of_host(renewal.keep(sent)));
        let guard =
            Self { service, releases, lease, release, grant, renewer, runtime, released: false };
        if let GuardState::Lost(_) = guard.state() {
            return Err(Error::unknown("the grant may have ended before its answer came"));
        }
        Ok(guard)
    }
}

impl<S: LockService + Clone> Drop for Guard<S> {
    fn drop(&mut self) {
        self.renewer.abort();
        let state = self.lease.judge();
        self.lease.end(GuardState::Released);
        let gone = matches!(state, GuardState::Lost(LostReason::Lost | LostReason::Preempted));
        if self.released || gone {
            return;
        }
        let service = self.service.clone();
        let (request, options) = self.release.clone();
        let under_way = self.releases.begin(Owner::releasing(&request, &options));
        self.runtime.spawn(task::of_host(async move {
            let _under_way = under_way;
            let release = service.unlock(request, options);
            match tokio::time::timeout(RELEASE_TIMEOUT, release).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::debug!(%error, "a dropped guard was not released"),
                Err(_) => tracing::debug!("a dropped guard was not released in time"),
            }
        }));
    }
}

impl<S: LockService + Clone> std::fmt::Debug for Guard<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard")
            .field("signature", &self.signature())
            .field("token", &self.grant.token)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

/// The live grant in an answer.
fn granted(answer: LockResponse) -> Result<Grant, Error> {
    match answer.status {
        LockStatus::Failed(forbidden) => Err(Error::Forbidden(forbidden)),
        LockStatus::Waiting(_) => Err(Error::unavailable("the lock is waited for")),
        LockStatus::Ok(grant)
        | LockStatus::Renewed(grant)
        | LockStatus::Transferred { grant, .. } => {
            // Only a repeated answer is not live: its grant has ended since.
            let lost = Forbidden::new(ForbiddenReason::Lost, Vec::new());
            if grant.live { Ok(grant) } else { Err(Error::Forbidden(lost)) }
        }
    }
}

/// The earliest time at which a retry may succeed, according to the refusal.
fn until_free(forbidden: &Forbidden) -> Duration {
    let soonest = forbidden.holders.iter().map(|holder| holder.expires_in).min();
    soonest.unwrap_or(Duration::ZERO).max(FIRST_PAUSE / 2)
}
