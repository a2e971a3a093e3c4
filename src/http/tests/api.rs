//! Every endpoint, asked by our own client.

use std::time::Duration;

use super::Server;
use crate::service::LockService;
use crate::types::{LockOptions, LockRequest, LockStatus, UnlockOptions, UnlockRequest};

#[tokio::test]
async fn the_client_locks_is_refused_and_unlocks() {
    let (server, _, _) = Server::memory().await;
    let client = server.client().build().unwrap();
    let by = |signee: &str| LockRequest {
        signature: "jobs/nightly".into(),
        signee: signee.into(),
        level: None,
    };
    let first = client.lock(by("a"), LockOptions::default()).await.unwrap();
    assert!(first.created());
    assert_eq!(first.grant().unwrap().expires_in, Duration::from_secs(30));
    let second = client.lock(by("b"), LockOptions::default()).await.unwrap();
    let LockStatus::Failed(forbidden) = second.status else { panic!("{second:?}") };
    assert_eq!(forbidden.holders[0].signee, "a");
    assert!(second.decided_at.unwrap() > first.decided_at.unwrap());
    let request = UnlockRequest { signature: "jobs/nightly".into(), signee: "a".into() };
    assert!(client.unlock(request, UnlockOptions::default()).await.unwrap().ok());
    server.stop().await;
}
