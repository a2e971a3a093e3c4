//! A semaphore across machines: up to so many permits at a time, each with a slot of its own.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use super::Client;
use super::guard::{Acquire, Guard};
use super::session::Session;
use super::shared::{FOR_EVER, SharedLock};
use keyward_core::clock::Clock;
use keyward_core::error::Error;
use keyward_core::service::LockService;
use keyward_core::types::UnlockResponse;

/// A semaphore: a lock in mode permits. Each permit is an owner of its own, so one program may hold
/// several.
///
/// ```
/// use std::sync::Arc;
/// use keyward_client::clock::SystemClock;
/// use keyward_client::{Acquire, MemoryLocks, Semaphore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), keyward_client::Error> {
/// let request = Acquire::new("gpus", "worker-1");
/// let gpus = Semaphore::new(MemoryLocks::new(), Arc::new(SystemClock), request, 2);
/// let first = gpus.acquire().await?;
/// let second = gpus.acquire().await?;
/// // The slot says which one: a GPU, a licence, a connection.
/// assert_eq!((first.slot(), second.slot()), (0, 1));
/// assert!(gpus.try_acquire().await.is_err());
/// first.release().await?;
/// assert_eq!(gpus.acquire().await?.slot(), 0);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Semaphore<S: LockService + Clone> {
    lock: SharedLock<S>,
    limit: u32,
}

impl<S: LockService + Clone> Semaphore<S> {
    /// A semaphore of this many permits, 1 to 65,535; each is renewed by itself. The request names
    /// the lock, its owner and what else its permits have in common. Everybody must name the same
    /// limit.
    pub fn new(service: S, clock: Arc<dyn Clock>, request: Acquire, limit: u32) -> Self {
        Self { lock: SharedLock::new(service, clock, request), limit }
    }

    /// A semaphore whose permits live in a session, which keeps all of them. The signee of each is
    /// that of the request, or of the session if it is empty, with a number.
    pub fn in_session(session: &Session<S>, request: Acquire, limit: u32) -> Self {
        Self { lock: SharedLock::in_session(session, request), limit }
    }

    /// The number of permits.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// Waits for a permit, for up to 366 days. Dropping the future leaves the queue.
    ///
    /// # Errors
    /// `Forbidden` if the lock has another limit; otherwise as [`Guard::acquire`].
    pub async fn acquire(&self) -> Result<Permit<S>, Error> {
        self.acquire_within(FOR_EVER).await
    }

    /// Waits for a permit for this long, in whole milliseconds.
    ///
    /// # Errors
    /// `Forbidden` with reason timeout if there was none; otherwise as [`Semaphore::acquire`].
    pub async fn acquire_within(&self, wait: Duration) -> Result<Permit<S>, Error> {
        let guard = self.lock.acquire(|request| request.limit(self.limit), wait).await?;
        let slot = guard.slot().ok_or_else(|| Error::unknown("the permit has no slot"))?;
        Ok(Permit { guard, slot })
    }

    /// Takes a permit if one is free and nobody waits for it.
    ///
    /// # Errors
    /// `Forbidden` if there is none; otherwise as [`Semaphore::acquire`].
    pub async fn try_acquire(&self) -> Result<Permit<S>, Error> {
        self.acquire_within(Duration::ZERO).await
    }
}

impl Client {
    /// A semaphore of this many permits, 1 to 65,535, in the cluster; see [`Semaphore::new`].
    pub fn semaphore(&self, request: Acquire, limit: u32) -> Semaphore<Self> {
        let lock = SharedLock::with_common(self.clone(), self.common.clone(), request);
        Semaphore { lock, limit }
    }
}

impl<S: LockService + Clone> std::fmt::Debug for Semaphore<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Semaphore")
            .field("signature", &self.lock.signature())
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

/// One of the permits of a [`Semaphore`]: a guard with a slot.
///
/// Tokens grow per slot: a resource that is fenced remembers the largest token of each.
pub struct Permit<S: LockService + Clone> {
    guard: Guard<S>,
    slot: u32,
}

impl<S: LockService + Clone> Permit<S> {
    /// The number of the permit: the smallest that was free, from 0 to one less than the limit.
    pub fn slot(&self) -> u32 {
        self.slot
    }

    /// Gives the permit back.
    ///
    /// # Errors
    /// As [`Guard::release`].
    pub async fn release(self) -> Result<UnlockResponse, Error> {
        self.guard.release().await
    }
}

impl<S: LockService + Clone> Deref for Permit<S> {
    type Target = Guard<S>;

    fn deref(&self) -> &Guard<S> {
        &self.guard
    }
}

impl<S: LockService + Clone> std::fmt::Debug for Permit<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Permit").field("slot", &self.slot).field("guard", &self.guard).finish()
    }
}
