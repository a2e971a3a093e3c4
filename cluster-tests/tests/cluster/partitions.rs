//! Nodes that are partitioned. Their clients still reach each of them.

use std::time::Duration;

use cluster_tests::ask;
use cluster_tests::cluster::{Cluster, ClusterOptions, ELECTION, NodeId};
use cluster_tests::load::Load;
use cluster_tests::proxy::Fault;
use cluster_tests::seed::seeded;
use cluster_tests::wait::{Stopwatch, eventually};
use keyward::api::{headers, routes};
use keyward::service::LockService;
use rand::Rng;
use serde_json::{Value, json};

/// The timeout that the callers of these requests set.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The tolerance beyond it: the way there and back, on busy cores.
const SLACK: Duration = Duration::from_millis(1500);

/// A node without a majority refuses writes and reads, within the caller's timeout. The request is
/// sent to it directly: a client would go on to a node that can answer.
async fn refuses(cluster: &Cluster, id: NodeId, signature: &str) {
    let lock = json!({"signature": signature, "signee": "cut-off", "duration_ms": 60_000});
    let url = format!("{}{}", cluster.endpoint(id), routes::LOCK);
    let (status, body) = answer(cluster.http().post(&url).json(&lock)).await;
    let code = body["code"].as_str().unwrap_or_default();
    assert!(
        matches!((status, code), (503, "unavailable") | (504, "unknown")),
        "node {id} without a majority answered a lock with {status}: {body}"
    );
    let (status, body) = answer(cluster.http().get(format!("{url}?signature=isolated/kept"))).await;
    let code = body["code"].as_str().unwrap_or_default();
    assert_eq!((status, code), (503, "unavailable"), "node {id} answered a read: {body}");
}

async fn answer(request: reqwest::RequestBuilder) -> (u16, Value) {
    let watch = Stopwatch::start();
    let timeout = TIMEOUT.as_millis().to_string();
    let answer = request.header(headers::TIMEOUT_MS, timeout).send().await.expect("an answer");
    let status = answer.status().as_u16();
    let body = answer.json().await.expect("a problem document");
    let took = watch.elapsed();
    assert!(took < TIMEOUT + SLACK, "{status} came only after {took:?}: {body}");
    (status, body)
}

async fn a_follower_is_cut_off_and_comes_back(fault: Fault) {
    let mut random = seeded("a follower cut off");
    let cluster = Cluster::start(ClusterOptions::default()).await;
    let leader = cluster.leader().await;
    let term = cluster.status(leader).await.expect("it leads").term;
    let away = cluster.others(leader)[0];
    let majority = cluster.others(away);
    let endpoints: Vec<String> = majority.iter().map(|&id| cluster.endpoint(id)).collect();
    let clients = (0..3).map(|_| cluster_tests::cluster::client(&endpoints)).collect();
    let load = Load::start("cut", clients, random.random());
    load.wait_for(50, ELECTION).await;
    cluster.isolate(away, fault);
    load.wait_for(50, ELECTION).await;
    refuses(&cluster, away, "cut/refused").await;
    refuses(&cluster, away, "cut/refused").await;
    load.wait_for(50, ELECTION).await;
    cluster.heal();
    // With a pre-vote before the vote, it disturbs nobody: the same leader, the same term.
    assert_eq!(cluster.leader().await, leader);
    assert_eq!(cluster.status(leader).await.expect("it leads").term, term);
    cluster.wait_caught_up(away, leader, ELECTION).await;
    let told = load.stop().await;
    told.verify(&cluster.client(away)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_behind_silent_links_refuses_and_comes_back_without_an_election() {
    a_follower_is_cut_off_and_comes_back(Fault::Silent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_behind_refusing_links_refuses_and_comes_back_without_an_election() {
    a_follower_is_cut_off_and_comes_back(Fault::Refused).await;
}

async fn an_isolated_leader_refuses_and_the_majority_goes_on(fault: Fault) {
    let mut random = seeded("the leader isolated");
    let cluster = Cluster::start(ClusterOptions::default()).await;
    let old = cluster.leader().await;
    let before = ask::hold(&cluster.clients(), "isolated/kept", "holder", ask::LONG).await;
    let load = Load::on(&cluster, "isolated", 3, &mut random);
    load.wait_for(50, ELECTION).await;
    cluster.isolate(old, fault);
    // At once, while it still believes that it leads; and later, when it cannot.
    refuses(&cluster, old, "isolated/refused").await;
    refuses(&cluster, old, "isolated/refused").await;
    let majority = cluster.others(old);
    let new = cluster.leader_among(&majority).await;
    assert_ne!(new, old);
    let client = cluster.client(new);
    let during = ask::hold(&client, "isolated/during", "holder", ask::LONG).await;
    assert!(during.token > before.token);
    refuses(&cluster, old, "isolated/refused").await;
    load.wait_for(20, ELECTION).await;
    cluster.heal();
    let leader = cluster.leader().await;
    cluster.wait_caught_up(old, leader, ELECTION).await;
    let told = load.stop().await;
    let all = cluster.client(old);
    told.verify(&all).await;
    let found = all.check("isolated/during".to_owned(), ask::reading(false)).await;
    assert_eq!(found.expect("it was acknowledged").record.holders[0].token, during.token);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_behind_silent_links_refuses_and_the_majority_goes_on() {
    an_isolated_leader_refuses_and_the_majority_goes_on(Fault::Silent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_behind_refusing_links_refuses_and_the_majority_goes_on() {
    an_isolated_leader_refuses_and_the_majority_goes_on(Fault::Refused).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_links_delay_answers_and_lose_nothing() {
    let mut random = seeded("slow links");
    let cluster = Cluster::start(ClusterOptions::default()).await;
    for (from, to) in [(1, 2), (2, 1), (1, 3), (3, 1), (2, 3), (3, 2)] {
        let delay = Duration::from_millis(random.random_range(5..30));
        cluster.link(from, to).set(cluster_tests::proxy::Condition { delay, ..Default::default() });
    }
    let load = Load::on(&cluster, "slow", 4, &mut random);
    load.wait_for(100, ELECTION).await;
    let told = load.stop().await;
    told.verify(&cluster.clients()).await;
}

/// The connections on which a follower sends requests to the leader die silently, as when a
/// firewall forgets them; the leader goes on, and new connections are established.
#[tokio::test(flavor = "multi_thread")]
async fn requests_overtake_those_on_a_connection_that_died_without_a_sign() {
    let cluster = Cluster::start(ClusterOptions::default()).await;
    let leader = cluster.leader().await;
    let follower = cluster.others(leader)[0];
    let client = cluster.client(follower);
    // Now there are as many connections as are used at once.
    let before = (0..100).map(|turn| {
        let (client, name) = (client.clone(), format!("stalled/before/{turn}"));
        tokio::spawn(async move { ask::hold(&client, &name, "holder", ask::LONG).await })
    });
    for hold in before.collect::<Vec<_>>() {
        hold.await.expect("it is held");
    }
    cluster.link(follower, leader).fault(Fault::HalfOpen);
    // Both ends of the link have applied it.
    tokio::time::sleep(Duration::from_millis(300)).await;
    cluster.link(follower, leader).fault(Fault::None);
    let url = format!("{}{}", cluster.endpoint(follower), routes::LOCK);
    let send = |name: String, timeout: &'static str| {
        let lock = json!({"signature": name, "signee": "w", "duration_ms": 60_000});
        let request = cluster.http().post(&url).json(&lock);
        let request = request.header(headers::TIMEOUT_MS, timeout);
        request.timeout(Duration::from_secs(60)).send()
    };
    // Requests on the dead connections get no answer within their callers' timeouts.
    let mut lost = Vec::new();
    for turn in 0..4 {
        lost.push(tokio::spawn(send(format!("stalled/{turn}"), "30000")));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Far less than the timeout of those: nobody may wait for them.
    let answer = send("stalled/after".to_owned(), "10000").await.expect("an answer");
    assert_eq!(answer.status().as_u16(), 200, "{}", answer.text().await.unwrap_or_default());
    assert_eq!(cluster.status(follower).await.expect("it answers").leader, Some(leader));
    for lost in lost {
        lost.abort();
    }
}

/// Two of five are no majority, even if one of them leads and the other receives its messages.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_and_a_follower_without_the_other_three_are_not_ready() {
    let cluster = Cluster::start(ClusterOptions { nodes: 5, ..Default::default() }).await;
    let leader = cluster.leader().await;
    let follower = cluster.others(leader)[0];
    let here = [leader, follower];
    let away: Vec<NodeId> = cluster.ids().into_iter().filter(|id| !here.contains(id)).collect();
    for (&one, &other) in here.iter().flat_map(|one| away.iter().map(move |other| (one, other))) {
        cluster.link(one, other).fault(Fault::Silent);
        cluster.link(other, one).fault(Fault::Silent);
    }
    for id in here {
        let told = async || match cluster.readiness(id).await {
            Ok(()) => Err("it says that it is ready"),
            Err(_) => Ok(()),
        };
        eventually(&format!("node {id} is not ready"), ELECTION, told).await;
    }
    // The leader goes on sending for a while, more than once.
    for turn in 0..40 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        for id in here {
            assert!(cluster.readiness(id).await.is_err(), "node {id} is ready at turn {turn}");
        }
    }
    let new = cluster.leader_among(&away).await;
    assert!(cluster.readiness(new).await.is_ok());
    cluster.heal();
    cluster.wait_ready(ELECTION).await;
}
