//! Requests to a node that does not lead.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use keyward::clock::Deadline;
use keyward::forward::Forwarding;
use keyward::types::{
    BatchAnswer, BatchRequest, CallOptions, ListRequest, LockOptions, LockRequest, LockResponse,
    LockStatus, ReadOptions, RequestId, UnlockOptions, UnlockRequest, UnlockStatus,
};
use keyward::{Error, LockService};

use crate::cluster::{Cluster, eventually};

fn lock(signature: &str, signee: &str) -> BatchRequest {
    let (signature, signee) = (signature.to_owned(), signee.to_owned());
    BatchRequest::Lock(LockRequest { signature, signee, level: None }, LockOptions::default())
}

fn unlock(signature: &str, signee: &str) -> BatchRequest {
    let (signature, signee) = (signature.to_owned(), signee.to_owned());
    BatchRequest::Unlock(UnlockRequest { signature, signee }, UnlockOptions::default())
}

#[tokio::test]
async fn a_batch_through_a_follower_is_decided_in_its_order() {
    let cluster = Cluster::start(3).await;
    let follower = cluster.follower().await;
    // More than one log entry can contain; each pair makes sense only in its order.
    let requests: Vec<BatchRequest> = (0..400)
        .flat_map(|turn| {
            let signee = format!("w{turn}");
            [lock("a", &signee), unlock("a", &signee)]
        })
        .collect();
    let answers = cluster.service(follower).batch(requests).await;
    assert_eq!(answers.len(), 800);
    let mut last = None;
    for answer in answers {
        let decided_at = match answer.unwrap() {
            BatchAnswer::Lock(response) => {
                assert!(matches!(response.status, LockStatus::Ok(_)), "{response:?}");
                response.decided_at
            }
            BatchAnswer::Unlock(response) => {
                assert_eq!(response.status, UnlockStatus::Ok);
                response.decided_at
            }
        };
        let decided_at = decided_at.map(|at| (at.index, at.position));
        assert!(decided_at > last, "{decided_at:?} after {last:?}");
        last = decided_at;
    }
}

#[tokio::test]
async fn what_is_wrong_in_a_forwarded_batch_fails_by_itself() {
    let cluster = Cluster::start(3).await;
    let follower = cluster.follower().await;
    let requests = vec![lock("a", "w1"), lock("", "w1"), unlock("b", "w1"), lock("a", "w2")];
    let answers = cluster.service(follower).batch(requests).await;
    assert!(matches!(&answers[0], Ok(BatchAnswer::Lock(response)) if response.ok()), "{answers:?}");
    assert!(matches!(&answers[1], Err(Error::BadRequest { .. })), "{answers:?}");
    assert!(matches!(&answers[2], Ok(BatchAnswer::Unlock(response)) if response.ok()));
    assert!(matches!(&answers[3], Ok(BatchAnswer::Lock(response)) if !response.ok()));
    assert!(cluster.service(follower).batch(Vec::new()).await.is_empty());
}

/// The signatures of all locks.
async fn held(service: &Forwarding) -> BTreeSet<String> {
    let mut held = BTreeSet::new();
    let mut after = None;
    loop {
        let page = ListRequest { after, limit: ListRequest::MAX_LIMIT, ..ListRequest::default() };
        let page = service.list(page, ReadOptions::default()).await.unwrap();
        held.extend(page.locks.into_iter().map(|record| record.signature));
        after = page.next;
        if after.is_none() {
            return held;
        }
    }
}

/// The answer to one request of the run below.
enum Told {
    Done(String),
    NotDone(String),
    Open,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_leader_dies_each_forwarded_request_is_told_what_is_true_of_it() {
    const CALLERS: usize = 16;
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let service = Arc::clone(&cluster.nodes[&follower].service);
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            tokio::spawn(async move {
                let mut told = Vec::new();
                let mut turn = 0;
                while !stop.load(Ordering::SeqCst) {
                    // Every third one in a batch of its own with two more.
                    let count = if turn % 3 == 0 { 3 } else { 1 };
                    let names: Vec<String> =
                        (0..count).map(|n| format!("{caller}/{turn}/{n}")).collect();
                    let requests = names.iter().map(|name| lock(name, "w")).collect();
                    let answers = service.batch(requests).await;
                    for (name, answer) in names.into_iter().zip(answers) {
                        told.push(match answer {
                            Ok(_) => Told::Done(name),
                            Err(Error::Unavailable { .. }) => Told::NotDone(name),
                            Err(Error::Unknown { .. }) => Told::Open,
                            Err(error) => panic!("{name}: {error}"),
                        });
                    }
                    done.fetch_add(1, Ordering::SeqCst);
                    turn += 1;
                }
                told
            })
        })
        .collect();
    let progress = async |more: usize| {
        let goal = done.load(Ordering::SeqCst) + more;
        eventually("requests are answered", async || done.load(Ordering::SeqCst) >= goal).await;
    };
    progress(20 * CALLERS).await;
    cluster.kill(leader).await;
    cluster.leader().await;
    progress(20 * CALLERS).await;
    stop.store(true, Ordering::SeqCst);
    let told = futures::future::join_all(callers).await;
    let held = held(cluster.service(follower)).await;
    let (mut granted, mut refused, mut open) = (0, 0, 0);
    for caller in told {
        for told in caller.unwrap() {
            match told {
                Told::Done(name) => {
                    granted += 1;
                    assert!(held.contains(&name), "{name} is lost");
                }
                Told::NotDone(name) => {
                    refused += 1;
                    assert!(!held.contains(&name), "{name} was told not to be done");
                }
                Told::Open => open += 1,
            }
        }
    }
    println!("{granted} granted, {refused} certainly not done, {open} open");
    assert!(refused + open > 0, "nothing was under way when the leader died");
}

/// A timeout far beyond an election, so that a request that ends before has not waited for it.
const LONG: Duration = Duration::from_secs(60);

fn patient() -> CallOptions {
    CallOptions { timeout: Some(LONG), ..CallOptions::default() }
}

async fn lock_patiently(
    service: Arc<Forwarding>,
    signature: &'static str,
    request_id: Option<RequestId>,
) -> Result<LockResponse, Error> {
    let (signature, signee) = (signature.to_owned(), "w".to_owned());
    let options = LockOptions { call: patient(), request_id, ..LockOptions::default() };
    service.lock(LockRequest { signature, signee, level: None }, options).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_gives_up_on_a_frozen_leader_as_soon_as_there_is_another() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let frozen = cluster.freeze(leader).await;
    let followers = cluster.nodes.iter().filter(|(id, _)| **id != leader);
    // One of them is the next leader, and then answers by itself.
    let mut asked = Vec::new();
    for (id, running) in followers {
        for turn in 0..3_u64 {
            let lane = u128::from(id * 10 + turn);
            let service = Arc::clone(&running.service);
            asked.push(tokio::spawn(async move {
                let id = Some(RequestId { lane, seq: 1 });
                let with_id = lock_patiently(Arc::clone(&service), "with-id", id);
                let without = lock_patiently(Arc::clone(&service), "without", None);
                let read = async {
                    let options = ReadOptions { call: patient(), ..ReadOptions::default() };
                    service.check("nothing".to_owned(), options).await
                };
                tokio::join!(with_id, without, read)
            }));
        }
    }
    let within = Deadline::after(LONG / 2);
    for asked in asked {
        let told = within.bound(asked).await.expect("long before its time is up").unwrap();
        let (with_id, without, read) = told;
        assert!(with_id.unwrap().decided_at.is_some());
        assert!(matches!(read, Err(Error::NotFound { .. })), "{read:?}");
        // It may have been sent to the new leader in the first place.
        assert!(matches!(without, Ok(_) | Err(Error::Unknown { .. })), "{without:?}");
    }
    drop(frozen);
    cluster.leader().await;
}

#[tokio::test]
async fn of_a_batch_that_is_larger_than_what_is_left_the_first_are_admitted() {
    let cluster = Cluster::with(3, |config| config.max_requests = 100).await;
    for id in [cluster.leader().await, cluster.follower().await] {
        let requests = (0..150).map(|turn| lock(&format!("{id}/{turn}"), "w")).collect();
        let answers = cluster.service(id).batch(requests).await;
        let done = answers.iter().take_while(|answer| answer.is_ok()).count();
        // A command that advances the cluster clock may be in flight, too.
        assert!((90..=100).contains(&done), "{done} of 150");
        for answer in &answers[done..] {
            assert!(matches!(answer, Err(Error::Unavailable { .. })), "{answer:?}");
        }
    }
}
