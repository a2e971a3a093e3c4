//! A lock that is held while a value lives.
//!
//! A [`Guard`] renews its grant in the background, always by token, so that a late renewal revives
//! nothing. It decides by its own clock whether the grant can still be valid, counted from before
//! each request was sent; see [`super::lease`]. It works over anything that answers lock requests:
//! a cluster, or [`keyward_core::MemoryLocks`] within a process.
//!
//! A guard cannot stop a program that was frozen after its last check. Only fencing helps against
//! that: pass the token to the resource that the lock guards, and let it refuse smaller ones.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Client;
use super::lanes::{Lane, Lanes};
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
    Forbidden, ForbiddenReason, Grant, LockOptions, LockRequest, LockResponse, LockStatus,
    MAX_WAIT, Mode, Token, UnlockOptions, UnlockRequest, UnlockResponse,
};

/// A guard of a lock in a cluster.
pub type LockGuard = Guard<Client>;

/// The default bound on the drift between the clocks of holder and cluster: 1 %, as the cluster
/// itself assumes.
const RATE_ERROR: f64 = 0.01;

/// The timeout of a dropped guard's release.
pub(super) const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// The timeout of the last attempt of a wait, which begins when the time is up.
const LAST_ATTEMPT: Duration = Duration::from_millis(250);

/// The remaining time below which a wait ends if its last request was not decided: the client has
/// retried for as long as that makes sense.
const NEARLY_OVER: Duration = Duration::from_millis(100);

/// The longest time for which one ask of a request that waits is left unanswered: half of the
/// longest wait of a request, so that it is asked again in time even if that fails for a while.
const LONGEST_ASK: Duration = Duration::from_secs(30);

/// The time for an answer to a request after its wait is over.
const AFTER_WAIT: Duration = Duration::from_secs(5);

/// The first and the longest backoff between two requests for a lock that another holds.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(50);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(1);

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

    /// Sets the mode: exclusive unless this is called.
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.options.mode = Some(mode);
        self
    }

    /// Asks for one of this many permits: 1 to 65,535. Sets the mode, too.
    #[must_use]
    pub fn limit(mut self, limit: u32) -> Self {
        self.options.mode = Some(Mode::Permits);
        self.options.limit = Some(limit);
        self
    }

    /// Waits for its turn for this long, in whole milliseconds: at most 366 days. The order is that
    /// of the levels, then that in which requests came. Without it the request is a try.
    ///
    /// The timeout of the call is the time for an answer after the wait is over.
    ///
    /// An owner that waits must not hold the lock by another guard: if the wait ends early, because
    /// its future is dropped for instance, the owner's place *and* grant are given up.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.options.wait = Some(wait);
        self
    }

    /// Sets the time for which an expired grant keeps others out: at most 60 seconds, in whole
    /// milliseconds.
    #[must_use]
    pub fn lock_delay(mut self, delay: Duration) -> Self {
        self.options.lock_delay = Some(delay);
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
    /// The ids of requests that wait, which are asked several times.
    pub(super) lanes: Arc<Lanes>,
}

impl Common {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let wake = Wake::new(Arc::clone(&clock));
        Self { clock, wake, releases: Arc::default(), lanes: Arc::default() }
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
    /// The task that renews the grant, if it is not in a session.
    renewer: Option<JoinHandle<()>>,
    runtime: Handle,
    released: bool,
    /// The session of the grant, which learns when this is dropped that nobody holds it any more.
    _session: Option<Box<dyn Any + Send + Sync>>,
}

/// A grant that was acquired in a session, which keeps it.
pub(super) struct InSession<S> {
    pub(super) service: S,
    pub(super) releases: Arc<Releases>,
    pub(super) lease: Arc<Lease>,
    pub(super) release: (UnlockRequest, UnlockOptions),
    pub(super) grant: Grant,
    pub(super) session: Box<dyn Any + Send + Sync>,
}

impl<S: LockService + Clone> Guard<S> {
    /// Acquires a lock and keeps it; with [`Acquire::wait`] it waits for its turn. Must be called
    /// within a tokio runtime.
    ///
    /// If the future is dropped before it resolves, or resolves to `Unknown`, the lock may have
    /// been granted; it then expires by itself.
    ///
    /// # Errors
    /// `Forbidden` if another holds it, or the wait is over; otherwise as [`LockService::lock`].
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
        if let Some(wait) = request.options.wait.filter(|wait| !wait.is_zero()) {
            return Self::acquire_in_turn(service, common, request, wait).await;
        }
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

    /// Waits for its turn, and holds the grant.
    async fn acquire_in_turn(
        service: S,
        common: Common,
        request: Acquire,
        wait: Duration,
    ) -> Result<Self, Error> {
        let mut turn = Turn::come(&service, &common, &request, wait).await?;
        let grant = granted(turn.answer).inspect_err(|_| turn.leaving.nothing_to_leave())?;
        let guard = Self::hold(service, common, request, grant, turn.sent)?;
        turn.leaving.nothing_to_leave();
        Ok(guard)
    }

    /// Retries until the lock is acquired, for this long, and once more at the end. There is no
    /// queue: the first request after the lock became free acquires it, if nobody waits for it by
    /// [`Acquire::wait`], which is not used here.
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
        request.options.wait = None;
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
                | Error::Unauthorized { .. }
                | Error::NotAllowed { .. } => {
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
            let wait = wait.mul_f64(random::factor(0.75..=1.0));
            let wait = wait.max(error.retry_after().unwrap_or_default());
            tokio::time::sleep(wait.min(left)).await;
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

    /// The mode the lock is held in.
    pub fn mode(&self) -> Mode {
        self.grant.mode
    }

    /// The number of the permit, from 0 to one less than the limit; `None` in other modes.
    pub fn slot(&self) -> Option<u32> {
        self.grant.slot
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
        self.lease.lost()
    }

    /// Runs the future, and drops it when the lock is lost: nothing more is done without the lock.
    /// The guard's own clock is asked before each step of the future, so that a program that was
    /// frozen does not go on with it. A step that has begun is not broken off.
    ///
    /// # Errors
    /// The reason of the loss; the future was then dropped before it was done.
    pub async fn guarded<F: Future>(&self, future: F) -> Result<F::Output, LostReason> {
        let mut lost = pin!(self.lost());
        let mut future = pin!(future);
        poll_fn(|context| {
            if let GuardState::Lost(reason) = self.state() {
                return Poll::Ready(Err(reason));
            }
            if let Poll::Ready(reason) = lost.as_mut().poll(context) {
                return Poll::Ready(Err(reason));
            }
            future.as_mut().poll(context).map(Ok)
        })
        .await
    }

    /// Stops the renewals and releases the lock.
    ///
    /// # Errors
    /// As [`LockService::unlock`]. The release is then tried once more in the background.
    pub async fn release(mut self) -> Result<UnlockResponse, Error> {
        self.stop_renewing().await;
        self.lease.end(GuardState::Released);
        let (request, options) = self.release.clone();
        let response = self.service.unlock(request, options).await?;
        self.released = true;
        Ok(response)
    }

    /// Stops the renewals and lets the lock expire this long from now, rounded down to
    /// milliseconds, instead of releasing it: for work that may be done once in a period, by any
    /// owner.
    ///
    /// # Errors
    /// `Forbidden` if the lock has been lost; otherwise as [`LockService::lock`]: it then expires
    /// at the end of the duration that it was acquired with.
    pub async fn expire_in(mut self, time: Duration) -> Result<(), Error> {
        self.stop_renewing().await;
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

    pub(super) fn hold(
        service: S,
        Common { clock, wake, releases, .. }: Common,
        request: Acquire,
        grant: Grant,
        sent: Duration,
    ) -> Result<Self, Error> {
        let release = release_of(&request, Some(grant.token));
        let Acquire { request, options, rate_error } = request;
        // Renewals request the granted duration, even if the table's default has changed since.
        let duration = options.duration.unwrap_or(grant.expires_in);
        let certain = (1.0 - rate_error).clamp(0.0, 1.0);
        let lease = Arc::new(Lease::new(clock, certain, duration));
        lease.answered(sent, grant.valid);
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
                // A holder keeps them.
                mode: None,
                limit: None,
                lock_delay: None,
                wait: None,
                ..options
            },
            grant: grant.clone(),
            every: duration / 3,
        };
        let runtime = Handle::current();
        // The grant began when its turn came, which was at the latest so long before its end.
        let since = sent.saturating_add(grant.valid.saturating_sub(duration));
        let renewer = Some(runtime.spawn(task::of_host(renewal.keep(since))));
        let guard = Self {
            service,
            releases,
            lease,
            release,
            grant,
            renewer,
            runtime,
            released: false,
            _session: None,
        };
        if let GuardState::Lost(_) = guard.state() {
            return Err(Error::unknown("the grant may have ended before its answer came"));
        }
        Ok(guard)
    }

    /// The guard of a grant that a session keeps.
    pub(super) fn in_session(parts: InSession<S>) -> Result<Self, Error> {
        let InSession { service, releases, lease, release, grant, session } = parts;
        let guard = Self {
            service,
            releases,
            lease,
            release,
            grant,
            renewer: None,
            runtime: Handle::current(),
            released: false,
            _session: Some(session),
        };
        if let GuardState::Lost(_) = guard.state() {
            return Err(Error::unknown("the grant may have ended before its answer came"));
        }
        Ok(guard)
    }

    /// After this, no renewal is sent.
    async fn stop_renewing(&mut self) {
        if let Some(renewer) = &mut self.renewer {
            renewer.abort();
            // The task ends at its next await.
            let _ = renewer.await;
        }
    }
}

impl<S: LockService + Clone> Drop for Guard<S> {
    fn drop(&mut self) {
        if let Some(renewer) = &self.renewer {
            renewer.abort();
        }
        let state = self.lease.judge();
        self.lease.end(GuardState::Released);
        let gone = match state {
            GuardState::Lost(reason) => reason != LostReason::Unreachable,
            GuardState::Safe | GuardState::Danger | GuardState::Released => false,
        };
        if self.released || gone {
            return;
        }
        let service = self.service.clone();
        let (request, options) = self.release.clone();
        release_behind(&self.runtime, service, &self.releases, (request, options));
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

/// Releases a lock, or leaves its queue, in the background.
pub(super) fn release_behind<S: LockService>(
    runtime: &Handle,
    service: S,
    releases: &Arc<Releases>,
    (request, options): (UnlockRequest, UnlockOptions),
) {
    let under_way = releases.begin(Owner::releasing(&request, &options));
    runtime.spawn(task::of_host(async move {
        let _under_way = under_way;
        let release = service.unlock(request, options);
        match tokio::time::timeout(RELEASE_TIMEOUT, release).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a dropped guard was not released"),
            Err(_) => tracing::debug!("a dropped guard was not released in time"),
        }
    }));
}

/// The place of a request that waits, or the grant that it became: left when this is dropped.
pub(super) struct Leaving<S: LockService + Clone> {
    service: S,
    releases: Arc<Releases>,
    runtime: Handle,
    release: Option<(UnlockRequest, UnlockOptions)>,
}

impl<S: LockService + Clone> Leaving<S> {
    pub(super) fn of(service: &S, releases: &Arc<Releases>, request: &Acquire) -> Self {
        let (service, releases) = (service.clone(), Arc::clone(releases));
        let release = Some(release_of(request, None));
        Self { service, releases, runtime: Handle::current(), release }
    }

    /// Notes that the request was refused, or that a guard has its grant.
    pub(super) fn nothing_to_leave(&mut self) {
        self.release = None;
    }
}

impl<S: LockService + Clone> Drop for Leaving<S> {
    fn drop(&mut self) {
        if let Some(release) = self.release.take() {
            release_behind(&self.runtime, self.service.clone(), &self.releases, release);
        }
    }
}

/// The answer to a request that waited for its turn.
pub(super) struct Turn<S: LockService + Clone> {
    pub(super) answer: LockResponse,
    /// The time at which the request was asked for the last time.
    sent: Duration,
    /// The grant, which is released when this is dropped.
    pub(super) leaving: Leaving<S>,
}

impl<S: LockService + Clone> Turn<S> {
    /// Waits for its turn: asks again under its id before its place would end, for as long as the
    /// wait lasts. A place that ended earlier, because nobody could ask for it, is taken anew. The
    /// timeout of the call is the time for an answer after that.
    pub(super) async fn come(
        service: &S,
        common: &Common,
        request: &Acquire,
        wait: Duration,
    ) -> Result<Self, Error> {
        let Acquire { request: asked, options, .. } = request;
        let deadline = Deadline::after(wait);
        let owner = Owner::asking(asked, options);
        let released = common.releases.ended(&owner);
        // As for a try, this is bounded.
        let _ = tokio::time::timeout(wait.min(RELEASE_TIMEOUT), released).await;
        let lanes = Arc::clone(&common.lanes);
        let mut lane = Some(lanes.take());
        let mut given = options.request_id;
        let mut leaving = Leaving::of(service, &common.releases, request);
        let after = options.call.timeout.unwrap_or(AFTER_WAIT);
        let mut pause = FIRST_PAUSE;
        // Whether an earlier ask may have a place, or a grant.
        let mut open = false;
        loop {
            let left = deadline.remaining();
            let mut options = LockOptions {
                wait: Some(whole_ms(left.min(MAX_WAIT))),
                request_id: given.or(lane.as_ref().map(Lane::id)),
                queued: false,
                ..options.clone()
            };
            options.call.timeout = Some(left.saturating_add(after).min(LONGEST_ASK));
            let sent = common.clock.boottime();
            let error = match service.lock(asked.clone(), options).await {
                Ok(answer) if answer.waiting().is_some() => {
                    if left.is_zero() {
                        let over = Forbidden::new(ForbiddenReason::Timeout, Vec::new());
                        return Err(Error::Forbidden(over));
                    }
                    open = true;
                    // A service that answers at once is not asked in a circle.
                    tokio::time::sleep(FIRST_PAUSE.min(deadline.remaining())).await;
                    continue;
                }
                Ok(answer) => {
                    if let Some(lane) = lane.take() {
                        lane.give_back();
                    }
                    let left = deadline.remaining();
                    let reason = answer.forbidden().map(|forbidden| forbidden.reason);
                    let has_timed_out = reason == Some(ForbiddenReason::Timeout);
                    let is_over = answer.grant().is_some_and(|grant| !grant.live);
                    if left.is_zero() || !(has_timed_out || is_over) {
                        return Ok(Self { answer, sent, leaving });
                    }
                    // It was asked again too late, after a sleep of the machine for instance, so
                    // its place, or the grant it became, has ended before the wait has: it takes
                    // another.
                    (given, open) = (None, false);
                    lane = Some(lanes.take());
                    tokio::time::sleep(FIRST_PAUSE.min(left)).await;
                    continue;
                }
                Err(error) => error,
            };
            match &error {
                Error::Unknown { .. } | Error::Unavailable { .. } if !left.is_zero() => {
                    open |= matches!(error, Error::Unknown { .. });
                    tracing::debug!(%error, "a request that waits is asked again");
                    let bounded = pause.mul_f64(random::factor(0.75..=1.0));
                    let bounded = bounded.max(error.retry_after().unwrap_or_default());
                    tokio::time::sleep(bounded.min(deadline.remaining())).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                // Under another id the owner has the same place, or the grant that it became.
                Error::LaneForgotten { .. } if !left.is_zero() => {
                    given = None;
                    lane = Some(lanes.begin());
                    tokio::time::sleep(FIRST_PAUSE.min(deadline.remaining())).await;
                }
                // The place of an earlier ask stands, whatever the rules say of this one.
                Error::Unavailable { reason, .. }
                | Error::Unauthorized { reason }
                | Error::NotAllowed { reason }
                    if open =>
                {
                    return Err(Error::unknown(reason.clone()));
                }
                Error::Unknown { .. }
                | Error::Unavailable { .. }
                | Error::LaneForgotten { .. }
                | Error::Forbidden(_) => return Err(error),
                Error::BadRequest { .. }
                | Error::NotFound { .. }
                | Error::Unauthorized { .. }
                | Error::NotAllowed { .. } => {
                    leaving.nothing_to_leave();
                    return Err(error);
                }
            }
        }
    }
}

/// The request that releases the lock of a request.
pub(super) fn release_of(
    Acquire { request, options, .. }: &Acquire,
    token: Option<Token>,
) -> (UnlockRequest, UnlockOptions) {
    let LockRequest { signature, signee, .. } = request.clone();
    let options = UnlockOptions {
        table: options.table.clone(),
        token,
        instance: options.instance.clone(),
        call: options.call.clone(),
        ..UnlockOptions::default()
    };
    (UnlockRequest { signature, signee }, options)
}

/// A wait as a request may name it.
pub(super) fn whole_ms(wait: Duration) -> Duration {
    Duration::from_millis(crate::api::to_ms(wait).max(1))
}

/// The live grant in an answer.
pub(super) fn granted(answer: LockResponse) -> Result<Grant, Error> {
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
