//! Other lock services, started as real processes and driven through their own Rust clients.
//!
//! [`server`] starts and ends them; [`etcd`], [`zookeeper`] and [`redis`] translate
//! [`keyward::bench::Owner`] into the requests of each service's client. They serve the
//! comparison and the tests that freeze holders, so a lock's duration is a real lease of the
//! service, never a timer of the adapter's.
//!
//! Invariants: an adapter retries nothing and caches nothing; a missing guarantee is documented,
//! not hidden by a lenient answer. A request without an answer ends after [`ANSWER`] as
//! [`Failure::Unknown`].

pub mod etcd;
mod ports;
pub mod redis;
pub mod server;
pub mod zookeeper;

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use keyward::bench::Failure;

use crate::wait::Stopwatch;

/// The timeout of a request to a service. It is far beyond an election of any of them, so that it
/// ends only requests that would hang.
pub const ANSWER: Duration = Duration::from_secs(10);

/// The interval at which a server's readiness is polled.
const POLL: Duration = Duration::from_millis(20);

/// Waits for an answer, at most for [`ANSWER`].
async fn answered<T, E>(
    request: impl Future<Output = Result<T, E>>,
    translate: impl FnOnce(E) -> Failure,
) -> Result<T, Failure> {
    match tokio::time::timeout(ANSWER, request).await {
        Ok(answer) => answer.map_err(translate),
        Err(_) => Err(Failure::Unknown(format!("no answer within {ANSWER:?}"))),
    }
}

/// Translates the failure of a request that changes nothing: without an answer it is not done.
fn as_read(failure: Failure) -> Failure {
    match failure {
        Failure::Unknown(why) => Failure::Unavailable(why),
        other @ (Failure::Refused | Failure::Unavailable(_)) => other,
    }
}

/// The node that a client uses: clients are spread by their number.
fn spread(endpoints: &[String], client: usize) -> &str {
    &endpoints[client % endpoints.len()]
}

/// Polls until there is a value: [`crate::wait::eventually`] for a probe that changes what it
/// borrows.
async fn until<T, E: Display>(
    what: &str,
    within: Duration,
    mut probe: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let watch = Stopwatch::start();
    loop {
        let last = match probe().await {
            Ok(value) => return value,
            Err(why) => why,
        };
        assert!(watch.elapsed() < within, "{what}: not within {within:?}; the last word: {last}");
        tokio::time::sleep(POLL).await;
    }
}

/// Tests that each adapter must pass, whatever service is behind it.
#[cfg(test)]
pub(crate) mod checks {
    use keyward::bench::{Owner, Target};

    use super::*;

    /// Longer than any of these tests.
    const DURATION: Duration = Duration::from_secs(20);

    /// Whether a service is installed; if not, prints a prominent message.
    pub(crate) fn installed(kind: &super::server::Kind) -> bool {
        match kind.installed() {
            Ok(()) => true,
            Err(missing) => {
                println!("NOT TESTED: {kind}: {missing}");
                eprintln!("NOT TESTED: {kind}: {missing}");
                false
            }
        }
    }

    /// One client holds, another is refused, and after the release it acquires the lock with a
    /// larger token.
    pub(crate) async fn excludes<T: Target>(target: &T) {
        let mut one = target.owner(0).await.expect("an owner");
        let mut other = target.owner(1).await.expect("an owner");
        let signature = "peers/a lock, with signs: ü%.";
        assert_eq!(other.check(signature).await, Ok(false));
        let mut first = one.acquire(signature, DURATION).await.expect("a free lock is taken");
        assert_eq!(other.check(signature).await, Ok(true));
        let refused = other.acquire(signature, DURATION).await;
        assert_eq!(refused.map(|_| ()), Err(Failure::Refused));
        assert_eq!(one.renew(signature, &mut first, DURATION).await, Ok(()));
        let old = T::Owner::token(&first);
        assert_eq!(one.release(signature, first).await, Ok(()));
        let second = other.acquire(signature, DURATION).await.expect("it is free again");
        assert!(T::Owner::token(&second) > old || old.is_none(), "{old:?}, then {second:?}");
        assert_eq!(other.release(signature, second).await, Ok(()));
        assert_eq!(one.check(signature).await, Ok(false));
    }

    /// A holder that does nothing for longer than its duration has lost the lock to another, and
    /// learns of it when it renews or releases.
    pub(crate) async fn ends<T: Target>(target: &T, duration: Duration) {
        let mut frozen = target.owner(0).await.expect("an owner");
        let mut other = target.owner(1).await.expect("an owner");
        let signature = "peers/left alone";
        let mut held = frozen.acquire(signature, duration).await.expect("a free lock is taken");
        let watch = Stopwatch::start();
        let taken =
            until("the lock ends", duration * 4, async || other.acquire(signature, duration).await)
                .await;
        // The service counted from before the arrival of its answer.
        let least = duration.saturating_sub(Duration::from_millis(100));
        assert!(watch.elapsed() >= least, "it ended after {:?}", watch.elapsed());
        assert_eq!(frozen.renew(signature, &mut held, duration).await, Err(Failure::Refused));
        assert_eq!(frozen.release(signature, held).await, Err(Failure::Refused));
        assert_eq!(other.check(signature).await, Ok(true), "a late release took the other's lock");
        assert_eq!(other.release(signature, taken).await, Ok(()));
    }
}
