//! Measures three nodes on this machine. Without a name: memory with many locks held, the time to be
//! ready after a restart, and what an idle cluster uses. With one: `failover`, `tasks`, `guards`,
//! `hostile` or `waiting`.
//!
//! The figures are this machine's: its clients and its three nodes share the same cores and disk.

mod direct;
mod failover;
mod guards;
mod hostile;
mod tasks;
mod waiting;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cluster_tests::ask;
use cluster_tests::cluster::{Cluster, ClusterOptions, client};
use cluster_tests::process::Usage;
use cluster_tests::wait::{Stopwatch, eventually, throughout};

/// Requests in flight at a time: enough for full batches, few enough for an undisturbed election.
const TASKS: u64 = 256;

/// No lock expires during the measurement.
const DURATION: Duration = Duration::from_secs(24 * 60 * 60);

const MIB: f64 = 1024.0 * 1024.0;

struct Arguments {
    locks: Vec<u64>,
    idle: Duration,
}

const USAGE: &str = "usage: measure [--locks N[,N...]] [--idle SECONDS]
       measure failover [--kills N] [--profile stable|fast]
       measure tasks [--tasks N] [--seconds N]
       measure guards [--locks N] [--duration SECONDS] [--seconds N]
       measure hostile [--clients N] [--seconds N]
       measure waiting [--sessions N] [--places N] [--queues N] [--locks N] [--readers N] [--seconds N]";

#[tokio::main]
async fn main() -> ExitCode {
    let name = std::env::args().nth(1).filter(|word| !word.starts_with("--"));
    if let Some(name) = name {
        return named(&name).await;
    }
    let Some(arguments) = arguments() else {
        eprintln!("{USAGE}");
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

async fn named(name: &str) -> ExitCode {
    let Some(options) = options() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let number = |option: &str, default: u64| match options.get(option) {
        Some(value) => value.parse().ok().filter(|number| *number > 0),
        None => Some(default),
    };
    let seconds = |option, default| number(option, default).map(Duration::from_secs);
    let profile = options.get("--profile").map_or("stable", String::as_str);
    match (name, number("--kills", 30), number("--tasks", 256), number("--locks", 100_000)) {
        ("failover", Some(kills), _, _) if matches!(profile, "stable" | "fast") => {
            failover::run(u32::try_from(kills).unwrap_or(u32::MAX), profile).await;
        }
        ("tasks", _, Some(tasks), _) => {
            let Some(time) = seconds("--seconds", 10) else { return ExitCode::from(2) };
            tasks::run(tasks, time).await;
        }
        ("guards", _, _, Some(locks)) => {
            let (duration, time) = (seconds("--duration", 30), seconds("--seconds", 60));
            let (Some(duration), Some(time)) = (duration, time) else { return ExitCode::from(2) };
            guards::run(locks, duration, time).await;
        }
        ("hostile", ..) => {
            let (clients, time) = (number("--clients", 200), seconds("--seconds", 10));
            let (Some(clients), Some(time)) = (clients, time) else { return ExitCode::from(2) };
            hostile::run(usize::try_from(clients).unwrap_or(usize::MAX), time).await;
        }
        ("waiting", _, _, Some(locks)) => {
            let sizes = (|| {
                Some(waiting::Sizes {
                    sessions: number("--sessions", 100_000)?,
                    places: number("--places", 100_000)?,
                    queues: number("--queues", 10_000)?,
                    locks,
                    readers: number("--readers", 10_000)?,
                })
            })();
            let (Some(sizes), Some(time)) = (sizes, seconds("--seconds", 30)) else {
                return ExitCode::from(2);
            };
            waiting::run(sizes, time).await;
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// The options after the name, each with its value.
fn options() -> Option<BTreeMap<String, String>> {
    const KNOWN: [&str; 11] = [
        "--clients",
        "--kills",
        "--profile",
        "--tasks",
        "--seconds",
        "--locks",
        "--duration",
        "--sessions",
        "--places",
        "--queues",
        "--readers",
    ];
    let mut words = std::env::args().skip(2);
    let mut options = BTreeMap::new();
    while let Some(word) = words.next() {
        if !KNOWN.contains(&word.as_str()) {
            return None;
        }
        options.insert(word, words.next()?);
    }
    Some(options)
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

/// Processor time and writes of an idle cluster. The work left over from the start is done first.
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

/// Acquires the locks with numbers from `from` to `to`; returns the seconds it took.
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

/// Kills all nodes at once and starts them again; then one node alone.
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
