//! Many tasks of one client that each acquire and release a lock of their own, with batching and
//! without.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cluster_tests::ask;
use cluster_tests::process::Usage;
use cluster_tests::wait::Stopwatch;
use keyward::client::Client;

use crate::direct::Direct;

/// No lock expires during the measurement.
const DURATION: Duration = Duration::from_secs(3600);

const WARM_UP: Duration = Duration::from_secs(2);

/// Runs this many tasks for this long each way, and prints the results.
pub(crate) async fn run(tasks: u64, time: Duration) {
    let nodes = Direct::start(Vec::new()).await;
    println!(
        "| {tasks} tasks of one client | pairs/s | server CPU s per 1000 pairs | bytes written per pair | terms |"
    );
    println!("|---|---|---|---|---|");
    for batching in [false, true] {
        let client = Client::builder().endpoints(nodes.endpoints()).batching(batching).build();
        let client = client.expect("the endpoints are well formed");
        let (leader, before) = nodes.leader(&client).await;
        let to_leader = Client::builder().endpoints([nodes.endpoint(leader)]).batching(batching);
        let to_leader = to_leader.build().expect("the endpoint is well formed");
        measure(&to_leader, tasks, WARM_UP).await;
        let usage = nodes.usages();
        let (pairs, seconds) = measure(&to_leader, tasks, time).await;
        let used = since(&nodes.usages(), &usage);
        let (_, after) = nodes.leader(&client).await;
        let way = if batching { "together" } else { "each by itself" };
        let (cpu, written) = (used.cpu.as_secs_f64(), used.written_bytes);
        println!(
            "| {way} | {:.0} | {:.3} | {} | {} |",
            f64::from(pairs) / seconds,
            cpu * 1000.0 / f64::from(pairs.max(1)),
            written / u64::from(pairs.max(1)),
            after - before,
        );
    }
}

/// The usage of all nodes together.
pub(crate) fn since(now: &[Usage], earlier: &[Usage]) -> Usage {
    let each = now.iter().zip(earlier).map(|(now, earlier)| now.since(earlier));
    each.reduce(|one, other| Usage {
        cpu: one.cpu + other.cpu,
        written_bytes: one.written_bytes + other.written_bytes,
        resident_bytes: one.resident_bytes.max(other.resident_bytes),
    })
    .expect("there are nodes")
}

async fn measure(client: &Client, tasks: u64, time: Duration) -> (u32, f64) {
    let stop = Arc::new(AtomicBool::new(false));
    let pairs = Arc::new(AtomicU64::new(0));
    let watch = Stopwatch::start();
    let running: Vec<_> = (0..tasks)
        .map(|task| {
            let (client, stop, pairs) = (client.clone(), Arc::clone(&stop), Arc::clone(&pairs));
            tokio::spawn(async move {
                let signature = format!("measure/jobs/{task:010}");
                while !stop.load(Ordering::Relaxed) {
                    let grant = ask::hold(&client, &signature, "worker", DURATION).await;
                    ask::release(&client, &signature, "worker", grant.token).await;
                    pairs.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    tokio::time::sleep(time).await;
    stop.store(true, Ordering::Relaxed);
    for task in running {
        task.await.expect("a task ends");
    }
    let pairs = pairs.load(Ordering::Relaxed);
    (u32::try_from(pairs).unwrap_or(u32::MAX), watch.elapsed().as_secs_f64())
}
