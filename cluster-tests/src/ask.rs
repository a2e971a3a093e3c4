//! Short forms of the requests that scenarios make again and again.

use std::time::Duration;

use keyward::Error;
use keyward::service::LockService;
use keyward::types::{
    CallOptions, Grant, ListRequest, ListResponse, LockOptions, LockRequest, LockResponse,
    ReadOptions, Token, UnlockOptions, UnlockRequest,
};

use crate::cluster::ELECTION;
use crate::wait::eventually;

/// A duration that no test outlasts.
pub const LONG: Duration = Duration::from_secs(60 * 60);

/// Sends one lock request at level 0, and waits at most `timeout` for the answer.
///
/// # Errors
/// As the service.
pub async fn lock(
    service: &impl LockService,
    signature: &str,
    signee: &str,
    duration: Duration,
    timeout: Duration,
) -> Result<LockResponse, Error> {
    let options = LockOptions {
        duration: Some(duration),
        call: CallOptions { timeout: Some(timeout), ..CallOptions::default() },
        ..LockOptions::default()
    };
    service.lock(request(signature, signee), options).await
}

/// Acquires a lock, or renews it. Retries while there is no leader.
///
/// # Panics
/// If another owner holds it, or no leader is elected in time.
pub async fn hold(
    service: &impl LockService,
    signature: &str,
    signee: &str,
    duration: Duration,
) -> Grant {
    let response = eventually(&format!("{signature} is locked"), ELECTION, || {
        lock(service, signature, signee, duration, ELECTION)
    })
    .await;
    response.grant().unwrap_or_else(|| panic!("{signature} is refused: {response:?}")).clone()
}

/// Releases a lock.
///
/// # Panics
/// If another owner holds it, or no leader is elected in time.
pub async fn release(service: &impl LockService, signature: &str, signee: &str, token: Token) {
    let request = UnlockRequest { signature: signature.to_owned(), signee: signee.to_owned() };
    let options = UnlockOptions { token: Some(token), ..UnlockOptions::default() };
    let response = eventually(&format!("{signature} is released"), ELECTION, || {
        service.unlock(request.clone(), options.clone())
    })
    .await;
    assert!(response.ok(), "{signature} is another's: {response:?}");
}

/// Reads all records below a prefix, in pages.
///
/// # Panics
/// If they cannot be read within the time of an election.
pub async fn pages(service: &impl LockService, prefix: &str) -> Vec<ListResponse> {
    let limit = ListRequest::MAX_LIMIT;
    let mut request = ListRequest { prefix: prefix.to_owned(), limit, ..ListRequest::default() };
    let mut pages = Vec::new();
    loop {
        let page = eventually("a page is read", ELECTION, || {
            service.list(request.clone(), reading(false))
        })
        .await;
        request.after.clone_from(&page.next);
        pages.push(page);
        if request.after.is_none() {
            return pages;
        }
    }
}

/// Reads from the node's own copy, or linearizably.
pub fn reading(stale: bool) -> ReadOptions {
    ReadOptions { stale, ..ReadOptions::default() }
}

fn request(signature: &str, signee: &str) -> LockRequest {
    LockRequest { signature: signature.to_owned(), signee: signee.to_owned(), level: Some(0) }
}
