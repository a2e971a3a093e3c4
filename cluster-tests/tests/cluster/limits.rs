//! Every limit of the service at once, and work that grows with the data.

use std::time::Duration;

use cluster_tests::ask;
use cluster_tests::check::{self, Conclusion, Source};
use cluster_tests::cluster::{BOOT, Cluster, ClusterOptions, ELECTION};
use cluster_tests::history::{Header, Recorded, Recorder};
use cluster_tests::limits::{Asker, Card, End, PLACES, Seen, ask as ask_for};
use cluster_tests::seed::seeded;
use cluster_tests::wait::eventually;
use keyward::limits::TOLD_ITEMS;
use keyward::service::{DebugLockService, LockService};
use keyward::types::{
    BatchAnswer, BatchRequest, CallOptions, ListRequest, LockOptions, LockRequest,
};
use rand::Rng;

fn call() -> CallOptions {
    CallOptions { timeout: Some(ELECTION), ..CallOptions::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_die_after_every_limit_was_reached_and_have_everything() {
    let mut random = seeded("every limit");
    // Logs of many segments, and a start that has many entries to apply again.
    let options = ClusterOptions::default().with(&["--debug-segment-bytes=1048576"]);
    let mut cluster = Cluster::start(options).await;
    let recorder = Recorder::in_memory();
    for round in 0_u8..2 {
        let name = format!("client {round}");
        let service =
            Recorded::new(cluster.clients(), recorder.clone(), name).with_lane(random.random());
        for card in Card::all() {
            let crowd = u64::try_from(PLACES.largest).expect("it is a number of places");
            let mut below = |below| random.random_range(0..below);
            let mut asker = Asker {
                signee: "limits",
                duration: ask::LONG,
                call: call(),
                crowd,
                below: &mut below,
            };
            ask_for(&service, card, &mut asker).await;
        }
        cluster.kill_all();
        cluster.start_all().await;
        cluster.wait_ready(BOOT).await;
    }
    let reach = recorder.reach().clone();
    assert_eq!(reach.broken(), Vec::<String>::new());
    assert_eq!(reach.reached().missing(Seen::Asked), Vec::<String>::new(), "{}", reach.reached());
    let reached = reach.reached();
    assert!(
        reached.has(PLACES, End::Largest) && reached.has(TOLD_ITEMS, End::Largest),
        "{reached}"
    );
    let header = Header::new(0, "every limit", "three nodes");
    let history = recorder.into_history(header, false);
    let verdict = check::check(Source::Memory(&history), check::Options::default());
    let verdict = verdict.expect("it can be checked");
    assert_eq!(verdict.conclusion, Conclusion::Pass, "{verdict}");
}

/// A million deadlines at one moment, scaled down for a debug build on a busy machine.
#[tokio::test(flavor = "multi_thread")]
async fn locks_that_all_end_at_one_moment_go_and_leave_the_others_alone() {
    const LOCKS: usize = 20_000;
    const TOGETHER: usize = 1000;
    const DURATION: Duration = Duration::from_secs(60);
    let cluster = Cluster::start(ClusterOptions::default().with(&["--debug-clock"])).await;
    let client = cluster.clients();
    let kept = ask::hold(&client, "kept", "holder", ask::LONG).await;
    let mut highest = kept.token;
    for first in (0..LOCKS).step_by(TOGETHER) {
        let locks = (first..first + TOGETHER).map(|number| {
            let signature = format!("ends/{number}");
            let request = LockRequest { signature, signee: "gone".to_owned(), level: None };
            let options = LockOptions {
                duration: Some(DURATION),
                time_to_live: Some(DURATION.into()),
                call: call(),
                ..LockOptions::default()
            };
            BatchRequest::Lock(request, options)
        });
        for answer in client.batch(locks.collect()).await {
            let answer = answer.ok().and_then(BatchAnswer::lock).expect("an answer to a lock");
            highest = highest.max(answer.grant().expect("it was free").token);
        }
    }
    let count = |prefix: &'static str| {
        let client = &client;
        async move {
            let request =
                ListRequest { prefix: prefix.to_owned(), limit: 10, ..ListRequest::default() };
            client.list(request, ask::reading(false)).await.map(|page| page.locks.len())
        }
    };
    assert_eq!(count("ends/").await.expect("a page"), 10, "they are all there");
    // Others send requests while all of them end.
    let other = cluster.clients();
    let asking = tokio::spawn(async move {
        for _ in 0..50 {
            let grant = ask::hold(&other, "busy", "other", ask::LONG).await;
            ask::release(&other, "busy", "other", grant.token).await;
        }
    });
    client.advance_clock(DURATION * 2).await.expect("the clock is moved");
    asking.await.expect("every request was answered");
    eventually("they are all gone", BOOT, || async {
        match count("ends/").await {
            Ok(0) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let record = client.check("kept".to_owned(), ask::reading(false)).await.expect("it is there");
    assert_eq!(record.record.holders[0].token, kept.token, "it lasts longer");
    let again = ask::hold(&client, "ends/1", "later", ask::LONG).await;
    assert!(again.token > highest, "{} after {highest}", again.token);
}
