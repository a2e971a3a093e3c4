//! A session: one keep-alive for many locks, and an inbox that says what became of them.
//!
//! One task keeps the session alive, at a third of its time to live, and reads its inbox. A guard
//! that was acquired in the session sends nothing by itself: it is held for as long as the session
//! is, unless the inbox says otherwise. By its own clock the session is held until (1 − ρ) of its
//! time after the last keep-alive that was answered was *sent*; see [`super::lease`].
//!
//! A request that waits gets its place at once, and its turn comes by the inbox, which is read more
//! often while there is such a request. It works over anything that answers lock requests.

use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::Client;
use super::guard::{
    Acquire, Common, FIRST_PAUSE, Guard, InSession, LONGEST_PAUSE, Leaving, RELEASE_TIMEOUT,
    granted, release_of, whole_ms,
};
use super::lanes::Lane;
use super::lease::{GuardState, Lease, LostReason};
use super::releases::Owner;
use super::renewal::{LONGEST_RETRY, SHORTEST_RETRY, in_company};
use crate::api::DEFAULT_TIMEOUT;
use keyward_core::clock::{Clock, Deadline};
use keyward_core::error::Error;
use keyward_core::random;
use keyward_core::service::LockService;
use keyward_core::task;
use keyward_core::types::{
    CallOptions, CloseStatus, DecidedAt, Forbidden, ForbiddenReason, Grant, InboxItem, Liveness,
    LockOptions, Mode, News, ReadOptions, Seen, SessionId, SessionLock, SessionLocksRequest,
    SessionOptions, SessionRequest, SessionStatus, Token,
};

/// The time to live of a session that names none: as that of a grant, long enough for an election
/// between two keep-alives.
const DEFAULT_TTL: Duration = Duration::from_secs(30);

/// The default bound on the drift between the clocks of holder and cluster, as that of a guard.
const RATE_ERROR: f64 = 0.01;

/// The time between a new place and the first look for its turn; it doubles with each look.
const FIRST_LOOK: Duration = Duration::from_millis(50);

/// The longest time between two looks, if the request for the session names none.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The request for a session.
#[derive(Clone, Debug)]
pub struct OpenSession {
    /// The owner of locks that are requested in the session without naming one: 1 to 1024 bytes.
    pub signee: String,
    /// The run of the owner. Without it, it is the name of the session: only an owner with a stable
    /// instance takes over the locks of its former self.
    pub instance: Option<String>,
    /// The time for which the session lives on without a keep-alive: 1 s to 24 h, 30 s by default.
    pub ttl: Duration,
    /// ρ: the bound on the drift between the clocks of holder and cluster, as a fraction from 0 to
    /// 1. The session is believed lost after (1 − ρ) of its time.
    pub rate_error: f64,
    /// The longest time between two looks at the inbox while a request waits: 1 s by default.
    pub look_every: Duration,
    /// Time-out, trace and audit of the session's requests.
    pub call: CallOptions,
}

impl OpenSession {
    /// A session of this owner that lives for 30 seconds without a keep-alive.
    pub fn new(signee: impl Into<String>) -> Self {
        Self {
            signee: signee.into(),
            instance: None,
            ttl: DEFAULT_TTL,
            rate_error: RATE_ERROR,
            look_every: LOOK_EVERY,
            call: CallOptions::default(),
        }
    }

    /// Sets the time for which the session lives on without a keep-alive: 1 s to 24 h.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets the run of the owner.
    #[must_use]
    pub fn instance(mut self, instance: impl Into<String>) -> Self {
        self.instance = Some(instance.into());
        self
    }

    /// Sets the longest time between two looks at the inbox while a request waits. Each look is a
    /// write of the cluster.
    #[must_use]
    pub fn look_every(mut self, time: Duration) -> Self {
        self.look_every = time;
        self
    }
}

/// A session in which locks are held together, until it is closed or lost.
///
/// Clones are the same session. When the last clone and the last guard in it are dropped, it is
/// closed in the background. After [`Session::close`], guards that are left are lost.
///
/// ```
/// use std::sync::Arc;
/// use keyward_client::clock::SystemClock;
/// use keyward_client::{Acquire, MemoryLocks, OpenSession, Session};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), keyward_client::Error> {
/// let clock = Arc::new(SystemClock);
/// let session = Session::open(MemoryLocks::new(), clock, OpenSession::new("worker-1")).await?;
/// // Two locks, and one keep-alive for both.
/// let orders = session.acquire(Acquire::new("orders", "")).await?;
/// let stock = session.acquire(Acquire::new("stock", "")).await?;
/// assert!(stock.token() > orders.token());
/// session.close().await?;
/// # Ok(())
/// # }
/// ```
pub struct Session<S: LockService + Clone> {
    opened: Arc<Opened<S>>,
}

impl<S: LockService + Clone> Clone for Session<S> {
    fn clone(&self) -> Self {
        Self { opened: Arc::clone(&self.opened) }
    }
}

/// An open session; it is closed when this is dropped.
struct Opened<S: LockService + Clone> {
    shared: Arc<Shared<S>>,
    call: CallOptions,
    signee: String,
    instance: String,
    keeper: JoinHandle<()>,
    runtime: Handle,
    /// The number of owners that were named in the session.
    owners: AtomicU64,
    /// Whether the session was closed, or is being closed in the background.
    closed: AtomicBool,
}

/// The part of a session that its task shares.
struct Shared<S> {
    service: S,
    common: Common,
    id: SessionId,
    lease: Arc<Lease>,
    members: Mutex<HashMap<Key, Arc<Member>>>,
    /// The number of requests that wait for their turn.
    waiting: AtomicUsize,
    /// Wakes the task when a request begins to wait.
    kick: Notify,
}

/// A lock and its owner in a session, as the inbox names them.
type Key = (String, String, String);

/// A grant of the session, or a request for one.
struct Member {
    lease: Arc<Lease>,
    instance: String,
    inner: Mutex<Told>,
    changed: watch::Sender<()>,
}

/// The news of a member.
#[derive(Default)]
struct Told {
    /// The position of the place or the grant, once an answer has named it.
    since: Option<DecidedAt>,
    token: Option<Token>,
    latest: Option<(DecidedAt, News)>,
}

impl<S: LockService + Clone> Session<S> {
    /// Opens a session and keeps it. Must be called within a tokio runtime.
    ///
    /// If the future is dropped before it resolves, or resolves to `Unknown`, the session may have
    /// been opened; it then ends by itself.
    ///
    /// # Errors
    /// `Forbidden` if there are too many sessions; otherwise as [`LockService::open_session`].
    pub async fn open(
        service: S,
        clock: Arc<dyn Clock>,
        request: OpenSession,
    ) -> Result<Self, Error> {
        Self::open_with(service, Common::new(clock), request).await
    }

    async fn open_with(service: S, common: Common, request: OpenSession) -> Result<Self, Error> {
        let OpenSession { signee, instance, ttl, rate_error, look_every, call } = request;
        let asked = SessionRequest { signee: signee.clone(), ttl };
        let options =
            SessionOptions { instance: instance.clone(), request_id: None, call: call.clone() };
        let sent = common.clock.boottime();
        let session = match service.open_session(asked, options).await? {
            SessionStatus::Open(session) => session,
            SessionStatus::Failed(forbidden) => return Err(Error::Forbidden(forbidden)),
        };
        let certain = (1.0 - rate_error).clamp(0.0, 1.0);
        let lease = Arc::new(Lease::new(Arc::clone(&common.clock), certain, session.ttl));
        lease.answered(sent, session.valid);
        let shared = Arc::new(Shared {
            service,
            common,
            id: session.id,
            lease,
            members: Mutex::default(),
            waiting: AtomicUsize::new(0),
            kick: Notify::new(),
        });
        let keeper = Keeper {
            shared: Arc::clone(&shared),
            call: call.clone(),
            every: session.ttl / 3,
            look_every: look_every.clamp(SHORTEST_RETRY, session.ttl / 3),
            seen: None,
        };
        let runtime = Handle::current();
        let keeper = runtime.spawn(task::of_host(keeper.keep(sent)));
        let instance = instance.unwrap_or_else(|| session.id.to_string());
        let (owners, closed) = (AtomicU64::new(0), AtomicBool::new(false));
        let opened = Opened { shared, call, signee, instance, keeper, runtime, owners, closed };
        let session = Self { opened: Arc::new(opened) };
        if let GuardState::Lost(_) = session.state() {
            return Err(Error::unknown("the session may have ended before its answer came"));
        }
        Ok(session)
    }

    /// The name of the session: a name, not a secret.
    pub fn id(&self) -> SessionId {
        self.opened.shared.id
    }

    /// The owner of locks that are requested without naming one.
    pub fn signee(&self) -> &str {
        &self.opened.signee
    }

    /// Whether the session is open, as far as its owner can know at this moment. `Released` stands
    /// for no state of a session: one that was closed is lost.
    pub fn state(&self) -> GuardState {
        self.opened.shared.lease.judge()
    }

    /// The time for which the session is certainly open if no keep-alive succeeds any more.
    pub fn remaining(&self) -> Duration {
        self.opened.shared.lease.remaining()
    }

    /// A channel of the changes of the state.
    pub fn states(&self) -> watch::Receiver<GuardState> {
        self.opened.shared.lease.states()
    }

    /// Resolves when the session is lost or was closed. Does not borrow the session.
    pub fn lost(&self) -> impl Future<Output = LostReason> + Send + use<S> {
        self.opened.shared.lease.lost()
    }

    /// Acquires a lock in the session; with [`Acquire::wait`] it waits for its turn, for up to 366
    /// days. A signee that is empty and an instance that is left out are those of the session.
    ///
    /// The session keeps the grant, so the request names no duration. If the future is dropped, the
    /// place is left, or the grant that it became released, in the background. One signee has one
    /// grant or place of a lock in a session: who wants two of them names two signees.
    ///
    /// # Errors
    /// `Forbidden` if another holds the lock, the wait is over, or the session has ended;
    /// `BadRequest` if the signee has a guard of the lock in this session, or waits for it;
    /// otherwise as [`LockService::lock`].
    pub async fn acquire(&self, request: Acquire) -> Result<Guard<S>, Error> {
        let Opened { shared, .. } = &*self.opened;
        let request = self.complete(request);
        let owner = Owner::asking(&request.request, &request.options);
        let released = shared.common.releases.ended(&owner);
        // Bounded, because the runtime that makes the release may no longer be polled.
        let _ = tokio::time::timeout(RELEASE_TIMEOUT, released).await;
        let member = self.join(&request)?;
        let mut leaving = Leaving::of(&shared.service, &shared.common.releases, &request);
        let asked = tokio::select! {
            biased;
            asked = self.ask(&request, &member.member) => asked,
            reason = shared.lease.lost() => Err(of_lost_session(reason)),
        };
        let grant = match asked {
            Ok(grant) => grant,
            Err(error) => {
                if !may_be_done(&error) {
                    leaving.nothing_to_leave();
                }
                return Err(error);
            }
        };
        let guard = Guard::in_session(InSession {
            service: shared.service.clone(),
            releases: Arc::clone(&shared.common.releases),
            lease: Arc::clone(&member.member.lease),
            release: release_of(&request, Some(grant.token)),
            grant,
            session: Box::new(member) as Box<dyn Any + Send + Sync>,
        })?;
        leaving.nothing_to_leave();
        Ok(guard)
    }

    /// Closes the session: its grants are released and its places left. Guards in it are lost.
    ///
    /// # Errors
    /// As [`LockService::close_session`]. The session is then closed once more in the background,
    /// and ends by itself if that fails, too.
    pub async fn close(self) -> Result<CloseStatus, Error> {
        let Opened { shared, call, keeper, .. } = &*self.opened;
        keeper.abort();
        shared.end(LostReason::SessionEnded);
        let options = SessionOptions { call: call.clone(), ..SessionOptions::default() };
        let result = shared.service.close_session(shared.id, options).await;
        if result.is_err() {
            self.opened.close_behind();
        }
        // Its guards may be dropped later.
        self.opened.closed.store(true, Ordering::SeqCst);
        result
    }

    /// A signee of its own, for a grant beside others of the same lock.
    pub(super) fn another_signee(&self, signee: &str) -> String {
        let signee = if signee.is_empty() { &self.opened.signee } else { signee };
        format!("{signee}#{}", self.opened.owners.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// The request with its table and owner, as the inbox will name them.
    fn complete(&self, mut request: Acquire) -> Acquire {
        let Opened { shared, signee, instance, .. } = &*self.opened;
        let Acquire { request: asked, options, .. } = &mut request;
        if asked.signee.is_empty() {
            asked.signee.clone_from(signee);
        }
        options.table.get_or_insert_with(|| shared.service.defaults().table.clone());
        options.instance.get_or_insert_with(|| instance.clone());
        options.session = Some(shared.id);
        request
    }

    fn join(&self, Acquire { request, options, .. }: &Acquire) -> Result<Membership<S>, Error> {
        let shared = &self.opened.shared;
        let table = options.table.clone().unwrap_or_default();
        let key = (table, request.signature.clone(), request.signee.clone());
        let member = Arc::new(Member {
            lease: Arc::new(Lease::within(Arc::clone(&shared.lease))),
            instance: options.instance.clone().unwrap_or_default(),
            inner: Mutex::default(),
            changed: watch::Sender::new(()),
        });
        let mut members = shared.members();
        if members.contains_key(&key) {
            return Err(Error::bad_request(format!(
                "{:?} holds {:?} in this session already, or waits for it",
                key.2, key.1
            )));
        }
        members.insert(key.clone(), Arc::clone(&member));
        Ok(Membership { opened: Arc::clone(&self.opened), key, member })
    }

    /// Asks until the request is decided, and then waits for its turn.
    async fn ask(&self, request: &Acquire, member: &Member) -> Result<Grant, Error> {
        let Opened { shared, .. } = &*self.opened;
        let Acquire { request: asked, options, .. } = request;
        let wait = options.wait.filter(|wait| !wait.is_zero());
        let deadline = Deadline::after(wait.unwrap_or_default());
        let lanes = Arc::clone(&shared.common.lanes);
        let mut lane = wait.map(|_| lanes.take());
        let mut pause = FIRST_PAUSE;
        // Whether an earlier ask may have a place, or a grant.
        let mut open = false;
        loop {
            let left = deadline.remaining();
            let options = LockOptions {
                wait: wait.map(|_| whole_ms(left)),
                queued: wait.is_some(),
                request_id: options.request_id.or(lane.as_ref().map(Lane::id)),
                ..options.clone()
            };
            match shared.service.lock(asked.clone(), options).await {
                Ok(answer) => {
                    if let Some(lane) = lane.take() {
                        lane.give_back();
                    }
                    let decided_at = answer.decided_at;
                    if answer.waiting().is_some() {
                        member.places(decided_at);
                        let _waits = Waits::begin(shared);
                        return member.turn().await;
                    }
                    let grant = granted(answer)?;
                    member.holds(grant.token, decided_at);
                    return Ok(grant);
                }
                Err(error @ (Error::Unknown { .. } | Error::Unavailable { .. }))
                    if !left.is_zero() =>
                {
                    open |= matches!(error, Error::Unknown { .. });
                    let bounded = pause.mul_f64(random::factor(0.75..=1.0));
                    let bounded = bounded.max(error.retry_after().unwrap_or_default());
                    tokio::time::sleep(bounded.min(left)).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                // Under another id the owner has the same place, or the grant that it became.
                Err(Error::LaneForgotten { .. }) if !left.is_zero() => {
                    lane = Some(lanes.begin());
                    tokio::time::sleep(FIRST_PAUSE.min(left)).await;
                }
                Err(Error::Unavailable { reason, .. }) if open => {
                    return Err(Error::unknown(reason));
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Client {
    /// Opens a session in the cluster and keeps it; see [`Session::open`].
    ///
    /// # Errors
    /// As [`Session::open`].
    pub async fn session(&self, request: OpenSession) -> Result<Session<Self>, Error> {
        Session::open_with(self.clone(), self.common.clone(), request).await
    }
}

impl<S: LockService + Clone> std::fmt::Debug for Session<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("id", &self.opened.shared.id)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

impl<S: LockService + Clone> Opened<S> {
    /// Closes the session in the background.
    fn close_behind(&self) {
        let (service, id) = (self.shared.service.clone(), self.shared.id);
        let options = SessionOptions { call: self.call.clone(), ..SessionOptions::default() };
        self.runtime.spawn(task::of_host(async move {
            let close = service.close_session(id, options);
            match tokio::time::timeout(RELEASE_TIMEOUT, close).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::debug!(%error, "a dropped session was not closed"),
                Err(_) => tracing::debug!("a dropped session was not closed in time"),
            }
        }));
    }
}

impl<S: LockService + Clone> Drop for Opened<S> {
    fn drop(&mut self) {
        self.keeper.abort();
        self.shared.end(LostReason::SessionEnded);
        if !self.closed.load(Ordering::SeqCst) {
            self.close_behind();
        }
    }
}

/// The error of a request whose session was lost before it was decided.
fn of_lost_session(reason: LostReason) -> Error {
    if reason == LostReason::Unreachable {
        return Error::unknown("the session was not kept alive in time");
    }
    Error::Forbidden(Forbidden::new(ForbiddenReason::SessionLost, Vec::new()))
}

/// Whether a request with this error may have a place or a grant.
fn may_be_done(error: &Error) -> bool {
    match error {
        Error::Unknown { .. } | Error::Unavailable { .. } | Error::LaneForgotten { .. } => true,
        Error::Forbidden(_)
        | Error::BadRequest { .. }
        | Error::NotFound { .. }
        | Error::Unauthorized { .. }
        | Error::NotAllowed { .. } => false,
    }
}

/// A member of a session, which keeps it open, and is none any more once this is dropped.
struct Membership<S: LockService + Clone> {
    opened: Arc<Opened<S>>,
    key: Key,
    member: Arc<Member>,
}

impl<S: LockService + Clone> Drop for Membership<S> {
    fn drop(&mut self) {
        self.opened.shared.members().remove(&self.key);
    }
}

/// A request that waits: while there is one, the inbox is read more often.
struct Waits<'a, S>(&'a Shared<S>);

impl<'a, S> Waits<'a, S> {
    fn begin(shared: &'a Shared<S>) -> Self {
        shared.waiting.fetch_add(1, Ordering::SeqCst);
        shared.kick.notify_one();
        Self(shared)
    }
}

impl<S> Drop for Waits<'_, S> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Member {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the place of the request.
    fn places(&self, at: Option<DecidedAt>) {
        self.told().since = at;
    }

    /// Notes the grant. News of its end may have come before the answer that gave it.
    fn holds(&self, token: Token, at: Option<DecidedAt>) {
        let mut told = self.told();
        told.token = Some(token);
        told.since = at.or(told.since);
        if let Some((_, News::Lost { token: Some(gone), reason })) = told.latest
            && gone == token
        {
            self.lease.end(GuardState::Lost(reason.into()));
        }
    }

    /// Passes on news from the inbox.
    fn tell(&self, at: DecidedAt, news: News) {
        let mut told = self.told();
        told.latest = Some((at, news));
        if let News::Lost { token: Some(gone), reason } = news
            && told.token == Some(gone)
        {
            self.lease.end(GuardState::Lost(reason.into()));
        }
        self.changed.send_replace(());
    }

    /// Waits for news of the place: the grant that it became, or the reason why it did not.
    async fn turn(&self) -> Result<Grant, Error> {
        let mut changed = self.changed.subscribe();
        let refused = |reason| Err(Error::Forbidden(Forbidden::new(reason, Vec::new())));
        loop {
            changed.borrow_and_update();
            let news = {
                let told = self.told();
                // Older news are of a former grant or place of the same owner.
                told.latest.filter(|(at, _)| Some(*at) > told.since)
            };
            match news {
                Some((at, News::Granted { token, level, mode, slot })) => {
                    self.holds(token, Some(at));
                    let left = self.lease.remaining();
                    let grant = (token, level, mode, slot);
                    return Ok(grant_of(grant, left));
                }
                Some((_, News::Ended(reason))) => return refused(reason),
                // Granted and lost again between two looks, or moved to another session.
                Some((_, News::Lost { .. })) => return refused(ForbiddenReason::Lost),
                None => {}
            }
            // The sender lives as long as this member.
            let _ = changed.changed().await;
        }
    }
}

/// A grant as the inbox tells it, with the time that is left to its session.
fn grant_of((token, level, mode, slot): (Token, i64, Mode, Option<u32>), left: Duration) -> Grant {
    let (expires_in, valid) = (left, left);
    Grant { token, level, expires_in, removed_in: None, live: true, mode, slot, valid }
}

impl<S> Shared<S> {
    fn members(&self) -> MutexGuard<'_, HashMap<Key, Arc<Member>>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the session, and so all guards in it.
    fn end(&self, reason: LostReason) {
        self.lease.end(GuardState::Lost(reason));
        self.tell_state();
    }

    /// Has each guard look at the state of the session, and notify its watchers.
    fn tell_state(&self) {
        for member in self.members().values() {
            member.lease.judge();
        }
    }

    /// Passes on the items of an inbox.
    fn deliver(&self, items: Vec<InboxItem>) {
        let members = self.members();
        for InboxItem { position, table, signature, signee, instance, news } in items {
            // Another run of the same signee is another owner, even in the same session.
            if let Some(member) = members.get(&(table, signature, signee))
                && instance.as_deref() == Some(&*member.instance)
            {
                member.tell(position, news);
            }
        }
    }

    /// Tells the members what a list of the session's locks says of them, as of a log position.
    fn reconcile(&self, locks: &[SessionLock], at: DecidedAt) {
        let locks: HashMap<(&str, &str), &SessionLock> =
            locks.iter().map(|lock| ((&*lock.table, &*lock.signature), lock)).collect();
        for ((table, signature, signee), member) in &*self.members() {
            let (since, token) = {
                let told = member.told();
                (told.since, told.token)
            };
            // Members without a position, or with a later one, may not be in the list yet.
            if since.is_none_or(|since| since > at) {
                continue;
            }
            let lock = locks.get(&(&**table, &**signature));
            let is_mine = |other: &str, instance: &Option<String>| {
                other == signee && instance.as_deref() == Some(&*member.instance)
            };
            let holder = lock.and_then(|lock| {
                lock.holders.iter().find(|holder| is_mine(&holder.signee, &holder.instance))
            });
            let waits = lock.is_some_and(|lock| {
                lock.places.iter().any(|place| is_mine(&place.signee, &place.instance))
            });
            let held = holder.map(|holder| holder.token);
            match (token, holder) {
                (Some(token), _) if held != Some(token) => {
                    member.lease.end(GuardState::Lost(LostReason::Lost));
                }
                (None, Some(holder)) => {
                    let (token, level) = (holder.token, holder.level);
                    let (mode, slot) = (holder.mode, holder.slot);
                    member.tell(at, News::Granted { token, level, mode, slot });
                }
                (None, None) if !waits => member.tell(at, News::Ended(ForbiddenReason::Lost)),
                (Some(_) | None, _) => {}
            }
        }
    }
}

/// The task that keeps a session alive and reads its inbox.
struct Keeper<S> {
    shared: Arc<Shared<S>>,
    call: CallOptions,
    every: Duration,
    look_every: Duration,
    /// The last item of the inbox that was passed on.
    seen: Option<DecidedAt>,
}

/// The times at which a keeper asks, on the clock's boot time.
struct Pace {
    /// The time of the next keep-alive.
    next: Duration,
    /// The time of the last one.
    asked: Duration,
    /// The time from one to the next while a request waits.
    look: Duration,
}

impl<S: LockService> Keeper<S> {
    /// Keeps the session until it is lost. `sent` is when it was requested.
    async fn keep(mut self, sent: Duration) {
        let next = sent.saturating_add(self.every);
        let mut pace = Pace { next, asked: sent, look: FIRST_LOOK };
        while self.nap_until_due(&mut pace).await {
            let sent = self.shared.lease.now();
            let answer = tokio::select! {
                biased;
                answer = Box::pin(self.ask()) => answer,
                () = self.lost() => break,
            };
            pace.asked = sent;
            pace.look = (pace.look * 2).min(self.look_every);
            match answer {
                Ok(Liveness::Alive { valid, inbox, more, overflow }) => {
                    self.shared.lease.answered(sent, valid);
                    let pause = self.every.mul_f64(random::factor(0.9..=1.0));
                    pace.next = in_company(sent.saturating_add(pause), self.every);
                    if !inbox.is_empty() {
                        pace.look = FIRST_LOOK;
                    }
                    match self.read(inbox, overflow).await {
                        Ok(()) if more => pace.next = sent,
                        Ok(()) => {}
                        Err(error) => {
                            tracing::debug!(%error, "the locks of a session were not listed");
                            pace.next = self.after_failure();
                        }
                    }
                    self.shared.tell_state();
                }
                Ok(Liveness::Lost) => self.shared.end(LostReason::SessionEnded),
                Err(error) => {
                    tracing::debug!(%error, "a keep-alive failed");
                    pace.next = self.after_failure().max(
                        self.shared
                            .lease
                            .now()
                            .saturating_add(error.retry_after().unwrap_or_default()),
                    );
                }
            }
        }
        self.shared.tell_state();
    }

    /// The time of the next keep-alive after one that failed.
    fn after_failure(&self) -> Duration {
        let pause = (self.every / 8).clamp(SHORTEST_RETRY, LONGEST_RETRY);
        self.shared.lease.now().saturating_add(pause.mul_f64(random::factor(0.5..=1.0)))
    }

    async fn ask(&self) -> Result<Liveness, Error> {
        let bound = self.call.timeout.unwrap_or(DEFAULT_TIMEOUT);
        let timeout = Some(self.shared.lease.remaining().min(bound));
        let call = CallOptions { timeout, ..self.call.clone() };
        let seen = Seen { session: self.shared.id, seen: self.seen };
        let mut answers = self.shared.service.keep_alive(vec![seen], call).await?;
        answers.pop().ok_or_else(|| Error::unknown("the service gave no answer"))
    }

    /// Passes on the items of the inbox; if some are missing, what a list of the locks says.
    async fn read(&mut self, inbox: Vec<InboxItem>, overflow: bool) -> Result<(), Error> {
        if overflow {
            let (locks, at) = self.list().await?;
            self.shared.reconcile(&locks, at);
        }
        // Only now they are seen: after an error all of them are read again.
        self.seen = inbox.last().map(|item| item.position).or(self.seen);
        self.shared.deliver(inbox);
        Ok(())
    }

    /// All locks of the session, and the log position that none of the pages is older than.
    async fn list(&self) -> Result<(Vec<SessionLock>, DecidedAt), Error> {
        let (mut locks, mut first) = (Vec::new(), None);
        let mut request = SessionLocksRequest { session: self.shared.id, after: None, limit: 1000 };
        loop {
            let options = ReadOptions { call: self.call.clone(), ..ReadOptions::default() };
            let page = self.shared.service.session_locks(request.clone(), options).await?;
            first = first.or(page.decided_at);
            locks.extend(page.locks);
            if page.next.is_none() {
                return Ok((locks, first.unwrap_or_default()));
            }
            request.after = page.next;
        }
    }

    /// Sleeps until the session is to be asked; `false` if it was lost before.
    async fn nap_until_due(&self, pace: &mut Pace) -> bool {
        let mut state = None;
        loop {
            let now = self.shared.lease.judge();
            if let GuardState::Lost(_) | GuardState::Released = now {
                return false;
            }
            if state.replace(now) != Some(now) {
                self.shared.tell_state();
            }
            let waits = self.shared.waiting.load(Ordering::SeqCst) > 0;
            let look = pace.asked.saturating_add(pace.look);
            let due = if waits { pace.next.min(look) } else { pace.next };
            let left = due.saturating_sub(self.shared.lease.now());
            if left.is_zero() {
                return true;
            }
            if self.nap(left).await {
                pace.look = FIRST_LOOK;
            }
        }
    }

    /// Resolves when the session is lost.
    async fn lost(&self) {
        while !matches!(self.shared.lease.judge(), GuardState::Lost(_) | GuardState::Released) {
            self.nap(Duration::MAX).await;
        }
    }

    /// Sleeps for this long at most; `true` if a request has begun to wait.
    async fn nap(&self, left: Duration) -> bool {
        let mut jumped = self.shared.common.wake.feel();
        // As a guard's: timers have a resolution of a millisecond.
        let nap = left.min(self.shared.lease.until_change()).max(Duration::from_millis(1));
        tokio::select! {
            biased;
            () = self.shared.kick.notified() => true,
            () = tokio::time::sleep(nap) => false,
            // The sender lives as long as this task.
            _ = jumped.changed() => false,
        }
    }
}
