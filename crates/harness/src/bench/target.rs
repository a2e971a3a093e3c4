//! The interface of a lock service that Keyward's own workloads measure or test.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

/// The longest wait of [`Owner::acquire_in_turn`] in a queue of Keyward.
pub(super) const WAIT: Duration = Duration::from_secs(5);

/// A lock service. An adapter translates; it adds no retries, no caching and no waiting of its own
/// beyond what the service's ordinary client does.
pub trait Target: Send + Sync + 'static {
    /// The owner that one client is.
    type Owner: Owner;

    /// Connects the owner of client number `client`. Clients are spread over the nodes by their
    /// number, if the service has several.
    ///
    /// # Errors
    /// `Unavailable` if no node can be reached.
    fn owner(&self, client: usize) -> impl Future<Output = Result<Self::Owner, Failure>> + Send;
}

/// One client of a service, with one request in flight at a time. Its name is its own: two clients
/// are two owners.
pub trait Owner: Send + 'static {
    /// The value that the service hands out to a holder and requires for renewal and release.
    type Held: Debug + Send + 'static;

    /// Takes a lock if it is free.
    ///
    /// # Errors
    /// `Refused` if another holds it; `Unavailable` if it was certainly not taken; `Unknown` if it
    /// may have been.
    fn acquire(
        &mut self,
        signature: &str,
        duration: Duration,
    ) -> impl Future<Output = Result<Self::Held, Failure>> + Send;

    /// Takes a lock when its turn comes, waiting for it in the service's own queue. A service that
    /// has none, or whose [`Owner::acquire`] waits already, does the same as that.
    ///
    /// # Errors
    /// As [`Owner::acquire`]; `Refused` if its turn did not come in time.
    fn acquire_in_turn(
        &mut self,
        signature: &str,
        duration: Duration,
    ) -> impl Future<Output = Result<Self::Held, Failure>> + Send {
        self.acquire(signature, duration)
    }

    /// Renews a held lock for `duration` from now.
    ///
    /// # Errors
    /// `Refused` if it is held no more; `Unavailable` and `Unknown` as for acquire.
    fn renew(
        &mut self,
        signature: &str,
        held: &mut Self::Held,
        duration: Duration,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Releases a lock.
    ///
    /// # Errors
    /// As [`Owner::renew`].
    fn release(
        &mut self,
        signature: &str,
        held: Self::Held,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Whether anyone holds the lock, by the strongest read that the service offers.
    ///
    /// # Errors
    /// `Unavailable`.
    fn check(&mut self, signature: &str) -> impl Future<Output = Result<bool, Failure>> + Send;

    /// The fencing token of a held lock, if the service has such a thing: a number that is larger
    /// for each later holder.
    fn token(held: &Self::Held) -> Option<u64>;
}

/// The reason why a request to a service failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Failure {
    /// The service refused: another holds the lock, or it is held no more.
    #[error("refused")]
    Refused,
    /// It was certainly not done.
    #[error("not done: {0}")]
    Unavailable(String),
    /// It may have been done.
    #[error("may have been done: {0}")]
    Unknown(String),
}
