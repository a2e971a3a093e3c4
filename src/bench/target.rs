//! What a lock service must be able to do to be measured, or tested, by Keyward's own workloads.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

/// A lock service. An adapter translates; it adds no retries, no caching and no waiting of its own
/// beyond what the service's ordinary client does.
pub trait Target: Send + Sync + 'static {
    /// What one client works with.
    type Session: Session;

    /// Opens what client number `client` works with. Clients are spread over the nodes by their
    /// number, if the service has several.
    ///
    /// # Errors
    /// `Unavailable` if no node can be reached.
    fn session(&self, client: usize)
    -> impl Future<Output = Result<Self::Session, Failure>> + Send;
}

/// One client of a service: it asks, waits for the answer, and asks again. Its owner name is its
/// own: two sessions are two owners.
pub trait Session: Send + 'static {
    /// What the service hands out to a holder and wants back for renewal and release.
    type Held: Debug + Send + 'static;

    /// Takes a lock without waiting for a turn.
    ///
    /// # Errors
    /// `Refused` if another holds it; `Unavailable` if it was certainly not taken; `Unknown` if it
    /// may have been.
    fn acquire(
        &mut self,
        signature: &str,
        duration: Duration,
    ) -> impl Future<Output = Result<Self::Held, Failure>> + Send;

    /// Makes a held lock last for `duration` from now.
    ///
    /// # Errors
    /// `Refused` if it is held no more; `Unavailable` and `Unknown` as for acquire.
    fn renew(
        &mut self,
        signature: &str,
        held: &mut Self::Held,
        duration: Duration,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Gives a lock back.
    ///
    /// # Errors
    /// As [`Session::renew`].
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

/// Why a request to a service did not do what was asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Failure {
    /// The service said no: another holds the lock, or it is held no more.
    #[error("refused")]
    Refused,
    /// It was certainly not done.
    #[error("not done: {0}")]
    Unavailable(String),
    /// It may have been done.
    #[error("may have been done: {0}")]
    Unknown(String),
}
