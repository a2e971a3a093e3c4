//! A lock for readers and writers across machines: many read together, one writes alone.

use std::sync::Arc;
use std::time::Duration;

use super::Client;
use super::guard::{Acquire, Guard};
use super::session::Session;
use super::shared::{FOR_EVER, SharedLock};
use keyward_core::clock::Clock;
use keyward_core::error::Error;
use keyward_core::service::LockService;
use keyward_core::types::Mode;

/// A lock that is shared by readers or held by one writer. A reader does not overtake a writer that
/// waits. Each guard is an owner of its own, so one program may hold several for reading.
///
/// ```
/// use std::sync::Arc;
/// use keyward_client::clock::SystemClock;
/// use keyward_client::{Acquire, MemoryLocks, RwLock};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), keyward_client::Error> {
/// let request = Acquire::new("catalogue", "shop-1");
/// let catalogue = RwLock::new(MemoryLocks::new(), Arc::new(SystemClock), request);
/// let one = catalogue.read().await?;
/// let other = catalogue.read().await?;
/// assert!(catalogue.try_write().await.is_err());
/// one.release().await?;
/// other.release().await?;
/// let writer = catalogue.write().await?;
/// // A resource that is fenced refuses tokens smaller than the largest that a writer has shown.
/// let token = writer.token();
/// # let _ = token;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RwLock<S: LockService + Clone> {
    lock: SharedLock<S>,
}

impl<S: LockService + Clone> RwLock<S> {
    /// A lock for readers and writers; each guard is renewed by itself. The request names the lock,
    /// its owner and what else its guards have in common.
    pub fn new(service: S, clock: Arc<dyn Clock>, request: Acquire) -> Self {
        Self { lock: SharedLock::new(service, clock, request) }
    }

    /// A lock whose guards live in a session, which keeps all of them. The signee of each is that of
    /// the request, or of the session if it is empty, with a number.
    pub fn in_session(session: &Session<S>, request: Acquire) -> Self {
        Self { lock: SharedLock::in_session(session, request) }
    }

    /// Waits until it may read, for up to 366 days. Dropping the future leaves the queue.
    ///
    /// # Errors
    /// As [`Guard::acquire`].
    pub async fn read(&self) -> Result<Guard<S>, Error> {
        self.read_within(FOR_EVER).await
    }

    /// Waits until it may read for this long, in whole milliseconds.
    ///
    /// # Errors
    /// `Forbidden` with reason timeout if its turn did not come; otherwise as [`RwLock::read`].
    pub async fn read_within(&self, wait: Duration) -> Result<Guard<S>, Error> {
        self.lock.acquire(|request| request.mode(Mode::Shared), wait).await
    }

    /// Reads if nobody writes or waits to write.
    ///
    /// # Errors
    /// `Forbidden` if somebody does; otherwise as [`RwLock::read`].
    pub async fn try_read(&self) -> Result<Guard<S>, Error> {
        self.read_within(Duration::ZERO).await
    }

    /// Waits until it may write, for up to 366 days. Dropping the future leaves the queue.
    ///
    /// # Errors
    /// As [`Guard::acquire`].
    pub async fn write(&self) -> Result<Guard<S>, Error> {
        self.write_within(FOR_EVER).await
    }

    /// Waits until it may write for this long, in whole milliseconds.
    ///
    /// # Errors
    /// `Forbidden` with reason timeout if its turn did not come; otherwise as [`RwLock::write`].
    pub async fn write_within(&self, wait: Duration) -> Result<Guard<S>, Error> {
        self.lock.acquire(|request| request.mode(Mode::Exclusive), wait).await
    }

    /// Writes if nobody reads or writes, or waits for it.
    ///
    /// # Errors
    /// `Forbidden` if somebody does; otherwise as [`RwLock::write`].
    pub async fn try_write(&self) -> Result<Guard<S>, Error> {
        self.write_within(Duration::ZERO).await
    }
}

impl Client {
    /// A lock for readers and writers in the cluster; see [`RwLock::new`].
    pub fn rwlock(&self, request: Acquire) -> RwLock<Self> {
        RwLock { lock: SharedLock::with_common(self.clone(), self.common.clone(), request) }
    }
}

impl<S: LockService + Clone> std::fmt::Debug for RwLock<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RwLock").field("signature", &self.lock.signature()).finish_non_exhaustive()
    }
}
