//! Holds many locks through guards, which renew them, and measures the cost to the nodes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cluster_tests::wait::Stopwatch;
use keyward::client::{Acquire, Client, GuardState};

use crate::direct::Direct;
use crate::tasks::since;

/// Lock requests in flight at a time.
const TASKS: u64 = 256;

/// The timeout of a call while the machine is busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// Holds this many locks of this duration for `time`, and prints the cost of each second.
pub(crate) async fn run(locks: u64, duration: Duration, time: Duration) {
    let nodes = Direct::start(Vec::new()).await;
    let client = Client::builder().endpoints(nodes.endpoints()).timeout(PATIENCE).build();
    let client = client.expect("the endpoints are well formed");
    let (leader, before) = nodes.leader(&client).await;
    let to_leader = Client::builder().endpoints([nodes.endpoint(leader)]).timeout(PATIENCE);
    let to_leader = to_leader.build().expect("the endpoint is well formed");
    let next = Arc::new(AtomicU64::new(0));
    let watch = Stopwatch::start();
    let taking: Vec<_> = (0..TASKS)
        .map(|_| {
            let (client, next) = (to_leader.clone(), Arc::clone(&next));
            tokio::spawn(async move {
                let mut guards = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= locks {
                        return guards;
                    }
                    let request = Acquire::new(format!("measure/held/{number:010}"), "holder");
                    let guard = client.acquire(request.duration(duration)).await;
                    guards.push(guard.expect("a lock that nobody holds is given"));
                }
            })
        })
        .collect();
    let mut guards = Vec::new();
    for task in taking {
        guards.extend(task.await.expect("a task ends"));
    }
    println!(
        "{locks} locks of {} s taken in {:.1} s",
        duration.as_secs(),
        watch.elapsed().as_secs_f64()
    );
    // Each has been renewed once by then, at a third of its duration.
    tokio::time::sleep(duration / 3).await;
    let (usage, watch) = (nodes.usages(), Stopwatch::start());
    tokio::time::sleep(time).await;
    let used = since(&nodes.usages(), &usage);
    let seconds = watch.elapsed().as_secs_f64();
    let lost = guards.iter().filter(|guard| guard.state() != GuardState::Safe).count();
    let (_, after) = nodes.leader(&client).await;
    println!(
        "| {locks} held, each renewed every {:.0} s | over {seconds:.0} s |\n|---|---|",
        duration.as_secs_f64() / 3.0
    );
    println!("| three nodes together: share of a core | {:.2} |", used.cpu.as_secs_f64() / seconds);
    println!(
        "| bytes written per renewal | {} |",
        used.written_bytes / ((locks * time.as_secs()) / (duration.as_secs() / 3).max(1)).max(1)
    );
    println!("| largest resident MiB | {} |", used.resident_bytes >> 20);
    println!("| guards not safe | {lost} |\n| changes of term | {} |", after - before);
}
