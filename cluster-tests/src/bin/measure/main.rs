//! Measures three nodes on this machine: memory with many locks held, the time to be ready after a
//! restart, and what an idle cluster uses.
//!
//! The figures are this machine's: its clients and its three nodes share the same cores and disk.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cluster_tests::ask;
use cluster_tests::cluster::{Cluster, ClusterOptions, client};
use cluster_tests::process::Usage;
use cluster_tests::wait::{Stopwatch, eventually, throughout};

/// Requests under way at a time: enough for full batches, few enough for an undisturbed election.
const TASKS: u64 = 256;

/// No lock ends while it is measured.
const DURATION: Duration = Duration::from_secs(24 * 60 * 60);

const MIB: f64 = 1024.0 * 1024.0;

struct Arguments {
    locks: Vec<u64>,
    idle: Duration,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Some(arguments) = arguments() else {
        eprintln!("usage: measure [--locks N[,N...]] [--idle SECONDS]");
        return ExitCode::from(2);
    };
    let mut cluster = Cluster::start(ClusterOptions::default()).await;
    println!("| what | node 1 | node 2 | node 3 |\n|---|---|---|---|");
    idle(&cluster, arguments.idle).await;
    resident(&cluster, "resident MiB, no locks");
    let mut held = 0;
    for locks in arguments.locks {
        let took = hold(&cluster, held, locks).await;
        row(
            &format!("{} locks taken in s, by {TASKS} clients", locks - held),
            &[format!("{took:.1}"), String::new(), String::new()],
        );
        held = locks;
        for id in cluster.ids() {
            let leader = cluster.leader().await;
            cluster.wait_caught_up(id, leader, Duration::from_secs(60)).await;
        }
        resident(&cluster, &format!("resident MiB, {held} locks"));
        restart(&mut cluster, held).await;
        resident(&cluster, &format!("resident MiB, {held} locks, after the restart"));
    }
    ExitCode::SUCCESS
}

fn arguments() -> Option<Arguments> {
    let mut parsed = Arguments { locks: vec![100_000, 1_000_000], idle: Duration::from_secs(30) };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next()?;
        match word.as_str() {
            "--locks" => {
                parsed.locks =
                    value.split(',').map(|number| number.parse().ok()).collect::<Option<_>>()?;
            }
            "--idle" => parsed.idle = Duration::from_secs(value.parse().ok()?),
            _ => return None,
        }
    }
    parsed.locks.is_sorted().then_some(parsed)
}

fn row(what: &str, cells: &[String; 3]) {
    println!("| {what} | {} |", cells.join(" | "));
}

fn usages(cluster: &Cluster) -> [Usage; 3] {
    [1, 2, 3].map(|id| cluster.usage(id))
}

#[expect(clippy::cast_precision_loss, reason = "bytes in MiB, with one digit")]
fn resident(cluster: &Cluster, what: &str) {
    row(what, &usages(cluster).map(|usage| format!("{:.1}", usage.resident_bytes as f64 / MIB)));
}

/// Processor time and writes of a cluster at rest. What starting left to do is done first.
async fn idle(cluster: &Cluster, time: Duration) {
    throughout("the cluster comes to rest", Duration::from_secs(5), || async { true }).await;
    let before = usages(cluster);
    let watch = Stopwatch::start();
    throughout("the cluster is idle", time, || async { true }).await;
    let seconds = watch.elapsed().as_secs_f64();
    let after = usages(cluster);
    let both = [0, 1, 2].map(|node| (before[node], after[node]));
    row(
        &format!("idle for {seconds:.0} s: % of a core"),
        &both.map(|(old, new)| {
            format!("{:.2}", new.since(&old).cpu.as_secs_f64() / seconds * 100.0)
        }),
    );
    row(
        &format!("idle for {seconds:.0} s: bytes written"),
        &both.map(|(old, new)| new.since(&old).written_bytes.to_string()),
    );
}

/// Takes the locks with numbers from `from` to `to`; gives the seconds it took.
async fn hold(cluster: &Cluster, from: u64, to: u64) -> f64 {
    let leader = cluster.leader().await;
    let client = Arc::new(client(&[cluster.direct_endpoint(leader)]));
    let next = Arc::new(AtomicU64::new(from));
    let watch = Stopwatch::start();
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let (client, next) = (Arc::clone(&client), Arc::clone(&next));
            tokio::spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= to {
                        return;
                    }
                    let signature = format!("measure/jobs/{number:010}");
                    ask::hold(&*client, &signature, "worker-of-measure", DURATION).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("a lock is taken");
    }
    watch.elapsed().as_secs_f64()
}

/// Kills all nodes at once and starts them again; and one alone.
async fn restart(cluster: &mut Cluster, held: u64) {
    let bound = Duration::from_secs(120);
    cluster.kill_all();
    let watch = Stopwatch::start();
    for id in cluster.ids() {
        cluster.spawn(id);
    }
    for id in cluster.ids() {
        cluster.wait_listening(id).await;
    }
    let mut ready = [const { String::new() }; 3];
    for (cell, id) in ready.iter_mut().zip([1, 2, 3]) {
        eventually("a node is ready", bound, || cluster.readiness(id)).await;
        *cell = format!("{:.1}", watch.elapsed().as_secs_f64());
    }
    row(&format!("ready again in s, all killed with {held} locks"), &ready);
    let mut alone = [const { String::new() }; 3];
    let follower = cluster.others(cluster.leader().await)[0];
    cluster.kill(follower);
    let watch = Stopwatch::start();
    cluster.start_node(follower).await;
    eventually("the node is ready", bound, || cluster.readiness(follower)).await;
    let cell = usize::try_from(follower - 1).expect("one of three");
    alone[cell] = format!("{:.1}", watch.elapsed().as_secs_f64());
    row(&format!("ready again in s, a follower killed with {held} locks"), &alone);
}
