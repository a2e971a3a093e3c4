//! Kills the leader under load, again and again, and measures the time until the next lock is
//! granted.
//!
//! The clock starts with the kill. The request is one that begins then, through a client library
//! that has been talking to the leader; its own retries are part of the measurement.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cluster_tests::ask;
use cluster_tests::wait::Stopwatch;
use keyward::client::Client;
use keyward::service::LockService;
use keyward::types::{CallOptions, LockOptions, LockRequest};

use crate::direct::Direct;

/// Tasks that acquire and release locks all the time.
const LOAD: u64 = 8;

/// No lock expires during the measurement.
const DURATION: Duration = Duration::from_secs(3600);

/// The pause between a node's return and the next kill.
const REST: Duration = Duration::from_millis(700);

/// Runs it and prints the distribution.
pub(crate) async fn run(kills: u32, profile: &str) {
    let arguments = ["--profile", profile].map(str::to_owned).to_vec();
    let mut nodes = Direct::start(arguments).await;
    let patience = Duration::from_secs(30);
    let client = Client::builder().endpoints(nodes.endpoints()).timeout(patience).build();
    let client = client.expect("the endpoints are well formed");
    let stop = Arc::new(AtomicBool::new(false));
    let load: Vec<_> =
        (0..LOAD).map(|task| tokio::spawn(work(client.clone(), task, Arc::clone(&stop)))).collect();
    let mut took = Vec::new();
    for kill in 0..kills {
        tokio::time::sleep(REST).await;
        let (leader, _) = nodes.leader(&client).await;
        let request = LockRequest {
            signature: format!("measure/failover/{kill}"),
            signee: "measure".to_owned(),
            level: None,
        };
        let call = CallOptions { timeout: Some(patience), ..CallOptions::default() };
        let options = LockOptions { duration: Some(DURATION), call, ..LockOptions::default() };
        let watch = Stopwatch::start();
        nodes.kill(leader);
        match client.lock(request, options).await {
            Ok(answer) if answer.ok() => took.push(watch.elapsed()),
            ended => println!("kill {kill}: no lock, but {ended:?}"),
        }
        nodes.spawn(leader);
        nodes.wait_ready(leader).await;
    }
    stop.store(true, Ordering::Relaxed);
    for task in load {
        task.await.expect("the load ends");
    }
    print(profile, kills, took);
}

async fn work(client: Client, task: u64, stop: Arc<AtomicBool>) {
    let signature = format!("measure/load/{task}");
    while !stop.load(Ordering::Relaxed) {
        let grant = ask::hold(&client, &signature, "load", DURATION).await;
        ask::release(&client, &signature, "load", grant.token).await;
    }
}

fn print(profile: &str, kills: u32, mut took: Vec<Duration>) {
    took.sort();
    let at = |share: usize| took.get((took.len() * share).div_ceil(100).saturating_sub(1));
    let ms = |time: Option<&Duration>| time.map_or("-".to_owned(), |t| t.as_millis().to_string());
    println!(
        "| leader killed to next lock, ms | kills | p50 | p90 | p99 | max |\n|---|---|---|---|---|---|"
    );
    println!(
        "| profile {profile} | {} of {kills} | {} | {} | {} | {} |",
        took.len(),
        ms(at(50)),
        ms(at(90)),
        ms(at(99)),
        ms(took.last())
    );
}
