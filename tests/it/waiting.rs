//! Requests that wait for their turn, through whole nodes: the caller is connected to one of them,
//! whoever leads.

use std::sync::Arc;
use std::time::Duration;

use keyward::clock::{Clock as _, SystemClock};
use keyward::forward::Forwarding;
use keyward::lock::{Command, Outcome, Query};
use keyward::types::{
    CallOptions, DecidedAt, ForbiddenReason, Liveness, LockOptions, LockRequest, LockResponse,
    LockStatus, Mode, News, ReadOptions, RequestId, Seen, SessionId, SessionOptions,
    SessionRequest, SessionStatus, TableOptions, Token,
};
use keyward::{Error, LockService};
use tokio::task::JoinHandle;

use crate::cluster::{Cluster, eventually};

/// A cluster whose level allows requests that wait.
async fn cluster() -> Cluster {
    let cluster = Cluster::start(3).await;
    cluster.level_raised().await;
    cluster
}

fn by(signee: &str) -> LockRequest {
    LockRequest { signature: "s".to_owned(), signee: signee.to_owned(), level: None }
}

fn waiting(wait: Duration) -> LockOptions {
    let duration = Some(Duration::from_secs(3600));
    LockOptions { wait: Some(wait), duration, ..LockOptions::default() }
}

const LONG: Duration = Duration::from_secs(50);

/// A request that waits through a node, under an id of its own.
fn wait_through(
    cluster: &Cluster,
    node: u64,
    signee: &str,
    lane: u128,
) -> JoinHandle<Result<LockResponse, Error>> {
    let service: Arc<Forwarding> = Arc::clone(&cluster.nodes[&node].service);
    let request_id = Some(RequestId { lane, seq: 1 });
    let options = LockOptions { request_id, ..waiting(LONG) };
    let request = by(signee);
    tokio::spawn(async move { service.lock(request, options).await })
}

/// Waits until this number of places is in the queue.
async fn queue_of(cluster: &Cluster, node: u64, count: u64) {
    eventually("the places stand in the queue", async || {
        let seen = cluster.service(node).check("s".to_owned(), ReadOptions::default()).await;
        seen.is_ok_and(|seen| seen.record.waiting == count)
    })
    .await;
}

async fn release(cluster: &Cluster, node: u64, signee: &str) {
    assert!(cluster.unlock(node, "s", signee).await.ok());
}

#[tokio::test]
async fn a_waiter_on_any_node_is_granted_when_the_holder_releases() {
    let cluster = cluster().await;
    let leader = cluster.leader().await;
    assert!(cluster.lock(leader, "s", "ann").await.ok());
    let mut waiters = Vec::new();
    for (count, id) in [1, 2, 3].into_iter().enumerate() {
        waiters.push(wait_through(&cluster, id, &format!("w{id}"), id.into()));
        queue_of(&cluster, leader, count as u64 + 1).await;
    }
    let mut holder = "ann".to_owned();
    let mut last = Token(0);
    for (id, waiter) in [1, 2, 3].into_iter().zip(waiters) {
        assert!(!waiter.is_finished());
        release(&cluster, leader, &holder).await;
        let response = waiter.await.unwrap().unwrap();
        assert!(matches!(response.status, LockStatus::Ok(_)), "{response:?}");
        let grant = response.grant().unwrap();
        assert!(grant.live && grant.token > last && grant.valid >= grant.expires_in);
        last = grant.token;
        holder = format!("w{id}");
    }
}

#[tokio::test]
async fn requests_that_wait_take_no_admission_permits() {
    let cluster = Cluster::with(3, |config| config.max_requests = 10).await;
    cluster.level_raised().await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    assert!(cluster.lock(leader, "s", "ann").await.ok());
    let mut waiters = Vec::new();
    for count in 1..=50 {
        waiters.push(wait_through(&cluster, leader, &format!("w{count}"), count.into()));
        queue_of(&cluster, leader, count).await;
    }
    // Five times as many wait as may be in flight, and others are served through both.
    for id in [leader, follower] {
        assert!(cluster.lock(id, &format!("beside {id}"), "ben").await.ok());
    }
    assert!(waiters.iter().all(|waiter| !waiter.is_finished()));
    release(&cluster, follower, "ann").await;
    assert!(waiters.remove(0).await.unwrap().unwrap().ok());
    drop_all(waiters).await;
}

#[tokio::test]
async fn a_waiter_survives_a_change_of_leader() {
    let mut cluster = cluster().await;
    let leader = cluster.leader().await;
    let followers: Vec<u64> = cluster.nodes.keys().copied().filter(|id| *id != leader).collect();
    assert!(cluster.lock(leader, "s", "ann").await.ok());
    let mut waiters = Vec::new();
    for (count, id) in followers.iter().enumerate() {
        waiters.push(wait_through(&cluster, *id, &format!("w{id}"), (*id).into()));
        queue_of(&cluster, leader, count as u64 + 1).await;
    }
    cluster.kill(leader).await;
    let next = cluster.leader().await;
    assert!(waiters.iter().all(|waiter| !waiter.is_finished()));
    let mut holder = "ann".to_owned();
    for (id, waiter) in followers.iter().zip(waiters) {
        release(&cluster, next, &holder).await;
        assert!(waiter.await.unwrap().unwrap().ok());
        holder = format!("w{id}");
    }
}

#[tokio::test]
async fn a_wait_ends_in_time_with_a_refusal() {
    let cluster = cluster().await;
    let leader = cluster.leader().await;
    assert!(cluster.lock(leader, "s", "ann").await.ok());
    for id in [leader, cluster.follower().await] {
        for wait in [1, 300].map(Duration::from_millis) {
            let begun = SystemClock.raw();
            let response = cluster.service(id).lock(by("bob"), waiting(wait)).await.unwrap();
            let LockStatus::Failed(forbidden) = &response.status else { panic!("{response:?}") };
            assert_eq!(forbidden.reason, ForbiddenReason::Timeout);
            assert_eq!(forbidden.holders[0].signee, "ann");
            assert!(SystemClock.raw().saturating_sub(begun) >= wait);
        }
    }
}

#[tokio::test]
async fn a_place_outlives_its_call_and_is_asked_for_again_on_another_node() {
    let cluster = cluster().await;
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    assert!(cluster.lock(leader, "s", "ann").await.ok());
    let request_id = Some(RequestId { lane: 9, seq: 1 });
    let call = CallOptions::within(Duration::from_millis(200));
    let options = LockOptions { request_id, call, ..waiting(LONG) };
    let first = cluster.service(follower).lock(by("bob"), options.clone()).await.unwrap();
    let second = cluster.service(leader).lock(by("bob"), options).await.unwrap();
    let places = [&first, &second].map(|response| response.waiting().copied().unwrap());
    assert_eq!(places[0].place, places[1].place);
    assert_eq!(places.map(|place| place.position), [1, 1]);
    let queued = LockOptions { queued: true, request_id, ..waiting(LONG) };
    let third = cluster.service(follower).lock(by("bob"), queued).await.unwrap();
    assert_eq!(third.waiting().unwrap().place, places[0].place);
    release(&cluster, leader, "ann").await;
    let last = wait_through(&cluster, follower, "bob", 9).await.unwrap().unwrap();
    assert!(last.ok(), "{last:?}");
}

/// Lets the callers go away.
async fn drop_all(waiters: impl IntoIterator<Item = JoinHandle<Result<LockResponse, Error>>>) {
    for waiter in waiters {
        waiter.abort();
        assert!(waiter.await.unwrap_err().is_cancelled());
    }
}

#[tokio::test]
async fn the_places_of_callers_that_have_gone_are_left_unless_they_are_asked_for_again() {
    let cluster = cluster().await;
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    assert!(cluster.lock(leader, "s", "ann").await.ok());
    let gone =
        [leader, follower].map(|id| wait_through(&cluster, id, &format!("w{id}"), id.into()));
    queue_of(&cluster, leader, 2).await;
    let comes_back = wait_through(&cluster, follower, "bob", 9);
    queue_of(&cluster, leader, 3).await;
    drop_all(gone.into_iter().chain([comes_back])).await;
    // Asked again through another node, the place stays where it was.
    let bob = wait_through(&cluster, leader, "bob", 9);
    queue_of(&cluster, leader, 1).await;
    // Who comes back too late is told that its time is over, and may take another place.
    let late = wait_through(&cluster, leader, &format!("w{leader}"), leader.into());
    let late = late.await.unwrap().unwrap();
    assert_eq!(late.forbidden().unwrap().reason, ForbiddenReason::Timeout);
    release(&cluster, leader, "ann").await;
    assert!(bob.await.unwrap().unwrap().ok());
}

#[tokio::test]
async fn a_place_in_a_session_stands_without_its_caller() {
    let cluster = cluster().await;
    let follower = cluster.follower().await;
    assert!(cluster.lock(follower, "s", "ann").await.ok());
    let session = Some(open(&cluster, follower, "bob", LONG).await);
    let service = Arc::clone(&cluster.nodes[&follower].service);
    let options = LockOptions { wait: Some(LONG), session, ..LockOptions::default() };
    let bob = tokio::spawn(async move { service.lock(by("bob"), options).await });
    queue_of(&cluster, follower, 1).await;
    // A caller that has no session, and goes away at the same time, is the measure of the time.
    let cid = wait_through(&cluster, follower, "cid", 1);
    queue_of(&cluster, follower, 2).await;
    drop_all([bob, cid]).await;
    queue_of(&cluster, follower, 1).await;
    release(&cluster, follower, "ann").await;
    let seen = cluster.service(follower).check("s".to_owned(), ReadOptions::default()).await;
    assert_eq!(seen.unwrap().record.holders[0].signee, "bob");
}

#[tokio::test]
async fn the_place_of_a_caller_that_has_gone_before_it_was_decided_is_left() {
    let cluster = cluster().await;
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    assert!(cluster.lock(leader, "s", "ann").await.ok());
    let frozen = cluster.freeze(leader).await;
    let bob = wait_through(&cluster, follower, "bob", 1);
    // It is on its way once it was forwarded.
    eventually("it is forwarded", async || cluster.service(follower).figures().forwarded > 0).await;
    drop_all([bob]).await;
    drop(frozen);
    let stale = ReadOptions { stale: true, ..ReadOptions::default() };
    let seen = async || cluster.service(follower).check("s".to_owned(), stale.clone()).await;
    for waiting in [1, 0] {
        eventually("it is decided, and then left", async || {
            seen().await.is_ok_and(|seen| seen.record.waiting == waiting)
        })
        .await;
    }
}

#[tokio::test]
async fn a_grant_that_nobody_waits_for_any_more_is_released_also_by_the_next_leader() {
    let mut cluster = cluster().await;
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    assert!(cluster.lock(leader, "s", "ann").await.ok());
    let bob = wait_through(&cluster, follower, "bob", 1);
    queue_of(&cluster, leader, 1).await;
    drop_all([bob]).await;
    release(&cluster, leader, "ann").await;
    let held = cluster.service(follower).check("s".to_owned(), ReadOptions::default()).await;
    assert_eq!(held.unwrap().record.holders[0].signee, "bob");
    cluster.kill(leader).await;
    eventually("it is released", async || {
        let seen = cluster.service(follower).check("s".to_owned(), ReadOptions::default()).await;
        matches!(seen, Err(Error::NotFound { .. }))
    })
    .await;
}

#[tokio::test]
async fn a_later_request_of_the_owner_supersedes_the_earlier_one() {
    let cluster = cluster().await;
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    assert!(cluster.lock(leader, "s", "ann").await.ok());
    let first = wait_through(&cluster, follower, "bob", 1);
    queue_of(&cluster, leader, 1).await;
    let second = wait_through(&cluster, leader, "bob", 2);
    let first = first.await.unwrap().unwrap();
    assert_eq!(first.forbidden().unwrap().reason, ForbiddenReason::Superseded);
    queue_of(&cluster, leader, 1).await;
    release(&cluster, leader, "ann").await;
    assert!(second.await.unwrap().unwrap().ok());
}

async fn open(cluster: &Cluster, node: u64, signee: &str, ttl: Duration) -> SessionId {
    let request = SessionRequest { signee: signee.to_owned(), ttl };
    let command = Command::open_session(request, SessionOptions::default()).unwrap();
    let decided = cluster.service(node).decide_one(command, CallOptions::default()).await.unwrap();
    let status = decided.into_session().unwrap();
    let SessionStatus::Open(session) = status else { panic!("{status:?}") };
    session.id
}

#[tokio::test]
async fn the_locks_of_a_session_end_with_it_and_its_waiter_is_next() {
    let cluster = cluster().await;
    let follower = cluster.follower().await;
    let service = cluster.service(follower);
    let ann = open(&cluster, follower, "ann", Duration::from_secs(1)).await;
    let bob = open(&cluster, follower, "bob", Duration::from_secs(3600)).await;
    assert_ne!(ann, bob);
    let of = |session| LockOptions { session: Some(session), ..LockOptions::default() };
    assert!(service.lock(by("ann"), of(ann)).await.unwrap().ok());
    let options = LockOptions { wait: Some(LONG), ..of(bob) };
    let granted = service.lock(by("bob"), options).await.unwrap();
    assert!(granted.ok(), "{granted:?}");
    let asked = [ann, bob].map(|session| Seen { session, seen: None }).to_vec();
    let kept = Command::keep_alive(asked, None);
    let kept = service.decide_one(kept, CallOptions::default()).await.unwrap();
    let kept = kept.into_kept_alive().unwrap();
    assert_eq!(kept[0], Liveness::Lost);
    let Liveness::Alive { inbox, .. } = &kept[1] else { panic!("{kept:?}") };
    let token = granted.grant().unwrap().token;
    assert!(
        matches!(inbox[..], [ref item] if matches!(item.news, News::Granted { token: told, .. } if told == token)),
        "{inbox:?}"
    );
}

#[tokio::test]
async fn permits_have_slots_and_a_token_is_verified_through_any_node() {
    let cluster = cluster().await;
    let leader = cluster.leader().await;
    let service = cluster.service(cluster.follower().await);
    let permit =
        LockOptions { mode: Some(Mode::Permits), limit: Some(2), ..LockOptions::default() };
    for (slot, signee) in ["ann", "bob"].into_iter().enumerate() {
        let response = service.lock(by(signee), permit.clone()).await.unwrap();
        let grant = response.grant().unwrap();
        assert_eq!((grant.mode, grant.slot), (Mode::Permits, u32::try_from(slot).ok()));
        for id in [1, 2, 3] {
            let query = Query::verify("s".to_owned(), grant.token, &ReadOptions::default());
            let view = cluster.service(id).read(query, CallOptions::default()).await.unwrap();
            let verified = view.into_verify().unwrap();
            assert!(verified.live);
            assert_eq!(verified.holder.unwrap().signee, signee);
        }
    }
    let other = LockOptions { limit: Some(3), ..permit.clone() };
    let refused = service.lock(by("cid"), other).await.unwrap();
    assert_eq!(refused.forbidden().unwrap().limit, Some(2));
    assert!(!service.lock(by("cid"), permit.clone()).await.unwrap().ok());
    let raised = Command::set_limit("s".to_owned(), 3, TableOptions::default());
    let raised = service.decide_one(raised, CallOptions::default()).await.unwrap();
    assert_eq!(raised.outcome, Outcome::Limit);
    let options = ReadOptions::default();
    assert!(service.lock(by("cid"), LockOptions { limit: None, ..permit }).await.unwrap().ok());
    let seen = cluster.service(leader).check("s".to_owned(), options).await.unwrap();
    assert_eq!((seen.record.limit, seen.record.holders.len()), (Some(3), 3));
}

#[tokio::test]
async fn owners_that_wait_for_each_other_are_a_deadlock() {
    let cluster = cluster().await;
    let service = cluster.service(cluster.follower().await);
    let of = |signature: &str, signee: &str| LockRequest {
        signature: signature.to_owned(),
        signee: signee.to_owned(),
        level: None,
    };
    for (first, second) in [("a", "ann"), ("b", "bob")] {
        assert!(service.lock(of(first, second), LockOptions::default()).await.unwrap().ok());
    }
    for (first, second) in [("b", "ann"), ("a", "bob")] {
        let options = LockOptions { queued: true, ..waiting(LONG) };
        let response = service.lock(of(first, second), options).await.unwrap();
        assert_ne!(response.waiting().unwrap().place, DecidedAt::default());
    }
    let query = Query::deadlocks(&ReadOptions::default());
    let view = service.read(query, CallOptions::default()).await.unwrap();
    let found = view.into_deadlocks().unwrap();
    assert_eq!(found.cycles.len(), 1);
    assert_eq!(found.cycles[0].len(), 2);
}

#[tokio::test]
async fn below_the_level_that_allows_it_a_new_request_is_refused_and_not_done() {
    let cluster = Cluster::with(3, |config| config.feature_level = 1).await;
    for id in [1, 2, 3] {
        let service = cluster.service(id);
        let waited = service.lock(by("ann"), waiting(LONG)).await;
        assert!(matches!(waited, Err(Error::Unavailable { .. })), "{waited:?}");
        let shared = LockOptions { mode: Some(Mode::Shared), ..LockOptions::default() };
        let shared = service.lock(by("ann"), shared).await;
        assert!(matches!(shared, Err(Error::Unavailable { .. })), "{shared:?}");
    }
    let seen = cluster.service(1).check("s".to_owned(), ReadOptions::default()).await;
    assert!(matches!(seen, Err(Error::NotFound { .. })));
}
