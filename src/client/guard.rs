//! A lock that is held while a value lives.
//!
//! A [`Guard`] renews its grant in the background, only ever by token, so that a late renewal
//! revives nothing. It tells by its own clock whether the grant can still be there, counted from
//! before each request was sent; see [`super::belief`]. It works over anything that answers lock
//! requests: a cluster, or [`crate::MemoryLocks`] within a process.
//!
//! What it cannot do: stop a program that was frozen after it last looked. Only handing the token
//! to what the lock guards, and having smaller ones refused there, helps against that.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Client;
use super::belief::Belief;
pub use super::belief::{GuardState, LostReason};
use super::pulse::Pulse;
use super::releases::{Owner, Releases};
use super::renewal::Renewal;
use crate::api::DEFAULT_TIMEOUT;
use crate::clock::{Clock, Deadline};
use crate::error::Error;
use crate::random;
use crate::service::LockService;
use crate::task;
use crate::types::{
    Forbidden, ForbiddenReason, Grant, LockOptions, LockRequest, LockResponse, LockStatus, Token,
    UnlockOptions, UnlockRequest, UnlockResponse,
};

/// A guard of a lock in a cluster.
pub type LockGuard = Guard<Client>;

/// How far the clocks of holder and cluster may drift apart, if nobody says: 1 %, as the cluster
/// itself assumes.
const RATE_ERROR: f64 = 0.01;

/// How long a dropped guard's release may take.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the last attempt of a wait may take that begins when its time is up.
const LAST_ATTEMPT: Duration = Duration::from_millis(250);

/// A wait with less than this left, in which nobody was reached, is over: a client that asked until
/// then has tried for as long as that makes sense.
const NEARLY_OVER: Duration = Duration::from_millis(100);

/// The first and the longest pause between two requests for a lock that another holds.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What a guard is asked for.
///
/// The owner of a lock is its signee, with its instance if it has one: two guards of one owner
/// are *one* holder, and the second one is given what the first one has. Programs that run twice
/// under one name, and want to exclude each other, need an [`Acquire::instance`] each.
#[derive(Clone, Debug)]
pub struct Acquire {
    /// Which lock, for whom, at which level.
    pub request: LockRequest,
    /// How. Renewals repeat table, duration, time_to_live, instance and the audit's words.
    pub options: LockOptions,
    /// ρ: how far the clocks of holder and cluster may drift apart, as a fraction. The guard
    /// gives a grant up after (1 − ρ) of its time.
    pub rate_error: f64,
}

impl Acquire {
    /// This lock for this owner, with the defaults of the table.
    pub fn new(signature: impl Into<String>, signee: impl Into<String>) -> Self {
        let request =
            LockRequest { signature: signature.into(), signee: signee.into(), level: None };
        Self { request, options: LockOptions::default(), rate_error: RATE_ERROR }
    }

    /// At this level.
    #[must_use]
    pub fn level(mut self, level: i64) -> Self {
        self.request.level = Some(level);
        self
    }

    /// With grants of this duration, renewed at a third of it.
    #[must_use]
    pub fn duration(mut self, duration: Duration) -> Self {
        self.options.duration = Some(duration);
        self
    }

    /// As this run of the owner; another instance is another owner.
    #[must_use]
    pub fn instance(mut self, instance: impl Into<String>) -> Self {
        self.options.instance = Some(instance.into());
        self
    }

    /// In this table.
    #[must_use]
    pub fn table(mut self, table: impl Into<String>) -> Self {
        self.options.table = Some(table.into());
        self
    }

    /// Whoever holds it.
    #[must_use]
    pub fn force(mut self) -> Self {
        self.options.force = true;
        self
    }
}

/// What the guards of one client have in common.
#[derive(Clone)]
pub(super) struct Common {
    /// What holders count with.
    pub(super) clock: Arc<dyn Clock>,
    /// What wakes them.
    pub(super) pulse: Arc<Pulse>,
    /// What dropped ones have not given back yet.
    pub(super) releases: Arc<Releases>,
}

impl Common {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { pulse: Pulse::new(Arc::clone(&clock)), clock, releases: Arc::default() }
    }
}

/// Holds a lock until it is released, dropped, or lost.
///
/// Dropping it stops the renewals and never blocks: the lock is released by a task of the runtime
/// in which it was acquired, if that is still there, and otherwise runs out by itself. A
/// [`Client`] (with its clones and handles) that is asked to acquire the lock again for the same owner
/// waits for that release, for five seconds at most. [`Guard::acquire`] knows of no other guard: there,
/// whoever takes a lock again at once uses [`Guard::release`] first, or a new [`Acquire::instance`].
pub struct Guard<S: LockService + Clone> {
    service: S,
    releases: Arc<Releases>,
    belief: Arc<Belief>,
    release: (UnlockRequest, UnlockOptions),
    grant: Grant,
    renewer: JoinHandle<()>,
    runtime: Handle,
    released: bool,
}

impl<S: LockService + Clone> Guard<S> {
    /// Takes a lock and keeps it. Must be called within a tokio runtime.
    ///
    /// When the future is dropped before it is ready, or ends with `Unknown`, the lock may have
    /// been granted; it then runs out by itself.
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

    /// As [`Guard::acquire`], with what several guards may share, and answered or given up by this
    /// time if there is one.
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
        // Also when nobody polls the runtime any more in which the release is to be made.
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

    /// Asks for a lock until it is free, for this long, and once more at the end. Nobody is promised
    /// a turn: whoever asks first after it became free has it.
    ///
    /// A `request_id` of the caller's is that of the first decided request: repeated after a refusal
    /// it would be told that refusal again, also when the lock is free.
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

    /// As [`Guard::acquire_within`], with what several guards may share; tells each error that does
    /// not end the wait.
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
                    // Decided: what was open before has been answered by this, too.
                    open = None;
                    request.options.request_id = None;
                    until_free(forbidden).min(pause)
                }
                // Asking again as the same owner finds out what an open outcome was.
                Error::Unknown { .. } => {
                    open = Some(error.clone());
                    pause
                }
                Error::Unavailable { .. } => pause,
                // Whether what was open was done, nobody knows any more.
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
            // The last request leaves when the time is up, not a pause before.
            tokio::time::sleep(wait.mul_f64(random::factor(0.75..=1.0)).min(left)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// The fencing token: hand it to whatever the lock guards.
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
        self.belief.judge()
    }

    /// How long the lock is certainly held if no renewal succeeds any more.
    pub fn remaining(&self) -> Duration {
        self.belief.remaining()
    }

    /// Tells each change of the state. Noticed within a second after the machine was asleep; ask
    /// [`Guard::state`] where it matters.
    pub fn states(&self) -> watch::Receiver<GuardState> {
        self.belief.states()
    }

    /// Is ready when the lock is lost; never, if it is released before. Does not borrow the guard.
    pub fn lost(&self) -> impl Future<Output = LostReason> + Send + use<S> {
        let mut states = self.states();
        async move {
            loop {
                if let GuardState::Lost(reason) = *states.borrow_and_update() {
                    return reason;
                }
                if states.changed().await.is_err() {
                    // Released: nobody is left who could lose it.
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
        // It ends at its next await, cancelled; after that no renewal is sent.
        let _ = (&mut self.renewer).await;
        self.belief.end(GuardState::Released);
        let (request, options) = self.release.clone();
        let response = self.service.unlock(request, options).await?;
        self.released = true;
        Ok(response)
    }

    /// Stops the renewals and leaves the lock to run out this long from now, instead of releasing it:
    /// for what may be done once in a period, whoever does it.
    ///
    /// # Errors
    /// `Forbidden` if the lock has been lost; otherwise as [`LockService::lock`]: it then runs out by
    /// itself, at the end of the duration that it was acquired with.
    pub async fn expire_in(mut self, time: Duration) -> Result<(), Error> {
        self.renewer.abort();
        // As for a release: after that no renewal is sent.
        let _ = (&mut self.renewer).await;
        self.belief.end(GuardState::Released);
        // Whatever comes of this request, the lock is not given back.
        self.released = true;
        let Self { release: (request, options), .. } = &self;
        let UnlockRequest { signature, signee } = request.clone();
        let renewal = LockOptions {
            table: options.table.clone(),
            duration: Some(time),
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
        Common { clock, pulse, releases }: Common,
        request: Acquire,
        grant: Grant,
        sent: Duration,
    ) -> Result<Self, Error> {
        let Acquire { request, options, rate_error } = request;
        // Renewals ask for what was granted, also when the table's default has changed since.
        let duration = options.duration.unwrap_or(grant.expires_in);
        let certain = (1.0 - rate_error).clamp(0.0, 1.0);
        let belief = Arc::new(Belief::new(clock, certain, duration));
        let release = (
            UnlockRequest { signature: request.signature.clone(), signee: request.signee.clone() },
            UnlockOptions {
                table: options.table.clone(),
                token: Some(grant.token),
                instance: options.instance.clone(),
                request_id: None,
                call: options.call.clone(),
            },
        );
        belief.answered(sent, grant.expires_in);
        let renewal = Renewal {
            service: service.clone(),
            belief: Arc::clone(&belief),
            pulse,
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
            Self { service, releases, belief, release, grant, renewer, runtime, released: false };
        if let GuardState::Lost(_) = guard.state() {
            return Err(Error::unknown("the grant may have ended before its answer came"));
        }
        Ok(guard)
    }
}

impl<S: LockService + Clone> Drop for Guard<S> {
    fn drop(&mut self) {
        self.renewer.abort();
        let state = self.belief.judge();
        self.belief.end(GuardState::Released);
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
        LockStatus::Ok(grant)
        | LockStatus::Renewed(grant)
        | LockStatus::Transferred { grant, .. } => {
            // Only a repeated answer is not live: what it gave has ended since.
            let lost = Forbidden { reason: ForbiddenReason::Lost, holders: Vec::new() };
            if grant.live { Ok(grant) } else { Err(Error::Forbidden(lost)) }
        }
    }
}

/// When asking again may help at the earliest, as the refusal tells it.
fn until_free(forbidden: &Forbidden) -> Duration {
    let soonest = forbidden.holders.iter().map(|holder| holder.expires_in).min();
    soonest.unwrap_or(Duration::ZERO).max(FIRST_PAUSE / 2)
}
