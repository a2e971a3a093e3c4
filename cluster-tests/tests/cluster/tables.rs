//! A table of many locks is deleted while others go on.
//!
//! `KEYWARD_DELETED_LOCKS` sets its number of locks. The longest gap is printed, not judged: no
//! entry does more than a bounded number of steps, which the lock machine's own tests show.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cluster_tests::ask;
use cluster_tests::cluster::{Cluster, ClusterOptions, ELECTION};
use cluster_tests::wait::{Stopwatch, eventually};
use keyward::client::Client;
use keyward::service::LockService;
use keyward::types::{
    BatchRequest, CallOptions, ListRequest, LockOptions, LockRequest, ReadOptions, TableOptions,
};

/// Enough that a deletion whose work grows with the table would stand out; created in about a
/// second.
const LOCKS: u64 = 20_000;

const TABLE: &str = "doomed";

/// The number of locks requested at once.
const BATCH: u64 = 1000;

/// The time for which the probe runs on after the deletion, during which the records are freed.
const AFTERWARDS: Duration = Duration::from_secs(3);

async fn fill(client: &Client, locks: u64) {
    for first in (0..locks).step_by(usize::try_from(BATCH).expect("it is small")) {
        let lock = |number: u64| {
            let request = LockRequest {
                signature: format!("lock/{number:08}"),
                signee: "worker".to_owned(),
                level: None,
            };
            let options = LockOptions {
                table: Some(TABLE.to_owned()),
                duration: Some(ask::LONG),
                ..LockOptions::default()
            };
            BatchRequest::Lock(request, options)
        };
        eventually("the table is filled", ELECTION, || async {
            let requests = (first..locks.min(first + BATCH)).map(lock).collect();
            client.batch(requests).await.into_iter().collect::<Result<Vec<_>, _>>()
        })
        .await;
    }
}

/// Acquires and releases a lock repeatedly; returns the longest time between two answers.
async fn probe(client: Client, stop: Arc<AtomicBool>) -> Duration {
    let mut longest = Duration::ZERO;
    let mut last = Stopwatch::start();
    while !stop.load(Ordering::Relaxed) {
        let timeout = Duration::from_secs(1);
        if ask::lock(&client, "probe", "probe", ask::LONG, timeout).await.is_ok() {
            longest = longest.max(last.elapsed());
            last = Stopwatch::start();
        }
    }
    longest.max(last.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_many_locks_is_deleted_while_others_are_served() {
    let locks = std::env::var("KEYWARD_DELETED_LOCKS");
    let locks = locks.map_or(LOCKS, |locks| locks.parse().expect("a number of locks"));
    let cluster = Cluster::start(ClusterOptions::default()).await;
    let client = cluster.clients();
    let filling = Stopwatch::start();
    fill(&client, locks).await;
    println!("{locks} locks were taken in {:?}", filling.elapsed());
    let before = cluster.status(cluster.leader().await).await.expect("the leader answers");

    let stop = Arc::new(AtomicBool::new(false));
    let quiet = tokio::spawn(probe(cluster.clients(), Arc::clone(&stop)));
    tokio::time::sleep(AFTERWARDS).await;
    stop.store(true, Ordering::Relaxed);
    let quiet = quiet.await.expect("the probe runs");

    stop.store(false, Ordering::Relaxed);
    let probing = tokio::spawn(probe(cluster.clients(), Arc::clone(&stop)));
    tokio::time::sleep(Duration::from_millis(200)).await;
    let deleting = Stopwatch::start();
    let options = TableOptions {
        table: Some(TABLE.to_owned()),
        request_id: None,
        call: CallOptions::default(),
    };
    client.delete_table(options).await.expect("the table is deleted");
    let deleted = deleting.elapsed();
    let read = ReadOptions { table: Some(TABLE.to_owned()), ..ReadOptions::default() };
    let left = client.list(ListRequest::default(), read.clone()).await.expect("a page");
    assert_eq!((left.locks, left.next), (vec![], None), "deleted at once and whole");
    tokio::time::sleep(AFTERWARDS).await;
    stop.store(true, Ordering::Relaxed);
    let longest = probing.await.expect("the probe runs");
    let after = cluster.status(cluster.leader().await).await.expect("the leader answers");
    println!(
        "deleted in {deleted:?}; the longest gap of a probe: {longest:?}, {quiet:?} before; term {} to {}",
        before.term, after.term
    );
    // No lock of the deleted table comes back, not even on nodes that replay.
    for id in cluster.ids() {
        eventually("every node has deleted it", ELECTION, || async {
            let stale = ReadOptions { stale: true, ..read.clone() };
            let page = cluster.client(id).list(ListRequest::default(), stale).await;
            page.map_err(|error| error.to_string())
                .and_then(|page| if page.locks.is_empty() { Ok(()) } else { Err("not yet".into()) })
        })
        .await;
    }
}
