//! Tests that measure on their own clock, or in the kernel's accounting: nothing runs beside them.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use cluster_tests::ask;
use cluster_tests::cluster::{Cluster, ClusterOptions, ELECTION, NodeId};
use cluster_tests::damage::files;
use cluster_tests::wait::{Stopwatch, eventually, throughout};
use keyward::client::Client;
use keyward::types::{LockResponse, LockStatus, TransferReason};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

/// The tolerance of an expiry's bound, for what the test itself adds: a poll, an answer, a
/// scheduler with two busy cores.
const SLACK: Duration = Duration::from_millis(400);

/// The tolerance beyond the duration, for each leader change: the tick that the old leader still
/// owed.
const TICK: Duration = Duration::from_secs(1);

/// Requests the lock repeatedly until it is acquired; returns the answer, and its time.
async fn contend(client: &Client, signature: &str, watch: Stopwatch) -> (LockResponse, Duration) {
    let response = eventually("the lock is free", ELECTION + ELECTION, || async {
        let bound = Duration::from_secs(1);
        match ask::lock(client, signature, "contender", ask::LONG, bound).await {
            Ok(response) if response.ok() => Ok(response),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    (response, watch.elapsed())
}

fn assert_expired(response: &LockResponse) {
    assert!(
        matches!(
            &response.status,
            LockStatus::Transferred { previous_signee, reason: TransferReason::Expired, .. }
                if previous_signee == "holder"
        ),
        "{response:?}"
    );
}

/// (1+2ρ) of a duration, for ρ = 1 %.
fn with_rates(duration: Duration) -> Duration {
    duration + duration / 50
}

fn clients_of(cluster: &Cluster, ids: &[NodeId]) -> Client {
    let endpoints: Vec<String> = ids.iter().map(|&id| cluster.endpoint(id)).collect();
    cluster_tests::cluster::client(&endpoints)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_expires_across_a_leader_change_never_early_and_soon() {
    let mut cluster = Cluster::start(ClusterOptions::default()).await;
    for (round, duration) in [3, 6].map(Duration::from_secs).into_iter().enumerate() {
        let signature = format!("expiry/{round}");
        let leader = cluster.leader().await;
        let survivors = clients_of(&cluster, &cluster.others(leader));
        let asked = Stopwatch::start();
        ask::hold(&survivors, &signature, "holder", duration).await;
        let granted = asked.elapsed();
        cluster.kill(leader);
        let killed = Stopwatch::start();
        ask::hold(&survivors, &format!("expiry/probe/{round}"), "probe", ask::LONG).await;
        let election = killed.elapsed();
        let (response, free) = contend(&survivors, &signature, asked).await;
        assert_expired(&response);
        let late = free.saturating_sub(granted + duration);
        println!(
            "duration {duration:?}: election {election:?}, free after {free:?}, late {late:?}"
        );
        assert!(free >= duration, "free {free:?} after it was asked for, before {duration:?}");
        let bound = granted + with_rates(duration) + election + TICK + SLACK;
        assert!(free <= bound, "free only {free:?} after it was asked for, beyond {bound:?}");
        cluster.start_all().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_expires_soon_while_the_leader_stays() {
    let cluster = Cluster::start(ClusterOptions::default()).await;
    let clients = cluster.clients();
    let duration = Duration::from_secs(2);
    let mut worst = Duration::ZERO;
    for round in 0..3 {
        let signature = format!("expiry/stable/{round}");
        let asked = Stopwatch::start();
        ask::hold(&clients, &signature, "holder", duration).await;
        let granted = asked.elapsed();
        let (response, free) = contend(&clients, &signature, asked).await;
        assert_expired(&response);
        assert!(free >= duration, "free {free:?} after it was asked for, before {duration:?}");
        let bound = granted + with_rates(duration) + SLACK;
        assert!(free <= bound, "free only {free:?} after it was asked for, beyond {bound:?}");
        worst = worst.max(free.saturating_sub(granted + duration));
    }
    println!("expired at most {worst:?} late under a stable leader, of {duration:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_wakes_up_too_late_ends_no_lock() {
    let mut cluster = Cluster::start(ClusterOptions::default()).await;
    let duration = Duration::from_secs(8);
    let old = cluster.leader().await;
    let survivors = clients_of(&cluster, &cluster.others(old));
    let first = ask::hold(&survivors, "pause", "holder", duration).await;
    cluster.signal(old, Signal::STOP);
    let paused = Stopwatch::start();
    let new = cluster.leader_among(&cluster.others(old)).await;
    assert_ne!(new, old);
    ask::hold(&survivors, "pause/probe", "probe", ask::LONG).await;
    let election = paused.elapsed();
    // Until the first grant would be over by the old leader's own clock; renewed meanwhile.
    let renewed = eventually("the old deadline is near", duration, || async {
        if paused.elapsed() + Duration::from_secs(1) > duration { Ok(()) } else { Err("not yet") }
    });
    renewed.await;
    let asked = Stopwatch::start();
    let second = ask::hold(&survivors, "pause", "holder", duration).await;
    let granted = asked.elapsed();
    assert_eq!(second.token, first.token, "renewed in time, so the token is kept");
    let late = eventually("past the old deadline", duration, || async {
        if paused.elapsed() > duration { Ok(()) } else { Err("not yet") }
    });
    late.await;
    // Requests that wait at the paused process are answered first when it wakes up.
    let sleeper = cluster.client(old);
    let waiting = tokio::spawn(async move {
        let bound = Duration::from_secs(4);
        ask::lock(&sleeper, "pause", "contender", ask::LONG, bound).await
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    cluster.signal(old, Signal::CONT);
    let answer = waiting.await.expect("the request ends");
    assert!(!answer.as_ref().is_ok_and(LockResponse::ok), "taken {:?} early", asked.elapsed());
    let all = clients_of(&cluster, &[old, new]);
    let (response, free) = contend(&all, "pause", asked).await;
    assert_expired(&response);
    println!("election {election:?}; free {free:?} after it was renewed for {duration:?}");
    assert!(free >= duration, "free {free:?} after it was renewed, before {duration:?}");
    let bound = granted + with_rates(duration) + election + TICK + SLACK;
    assert!(free <= bound, "free only {free:?} after it was renewed, beyond {bound:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_stopped_hands_over_at_once() {
    let mut cluster = Cluster::start(ClusterOptions::default()).await;
    let old = cluster.leader().await;
    let survivors = clients_of(&cluster, &cluster.others(old));
    let held = ask::hold(&survivors, "stop/held", "holder", ask::LONG).await;
    let watch = Stopwatch::start();
    cluster.signal(old, Signal::TERM);
    let next = ask::hold(&survivors, "stop/next", "holder", ask::LONG).await;
    let moved = watch.elapsed();
    assert!(next.token > held.token);
    let new = cluster.leader_among(&cluster.others(old)).await;
    let changed = watch.elapsed();
    assert_ne!(new, old);
    let (status, log) = cluster.wait_end(old, Duration::from_secs(12)).await;
    println!(
        "a lock {moved:?} after SIGTERM, all agreed after {changed:?}, ended after {:?}",
        watch.elapsed()
    );
    assert!(status.success(), "{status}: {log}");
    // Sooner than any follower would have missed its leader.
    assert!(changed < Duration::from_millis(1500), "leadership moved only after {changed:?}");
}

/// The time at which each file below the data folders was last written.
fn written(cluster: &Cluster) -> BTreeMap<PathBuf, SystemTime> {
    let data = cluster.ids().into_iter().flat_map(|id| files(&cluster.data_dir(id), |_| true));
    data.map(|path| {
        let time = fs::metadata(&path).and_then(|data| data.modified()).expect("the file is there");
        (path, time)
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_cluster_without_locks_writes_nothing() {
    const IDLE: Duration = Duration::from_secs(6);
    // A node persists within ten seconds what it and others have promised.
    const REST: Duration = Duration::from_secs(11);
    // A debug build does several times the work of a release build; scripts/measure has the figure.
    const CPU_SHARE: f64 = 0.06;
    let cluster = Cluster::start(ClusterOptions::default()).await;
    let clients = cluster.clients();
    for number in 0..20 {
        let signature = format!("idle/{number}");
        let grant = ask::hold(&clients, &signature, "holder", ask::LONG).await;
        ask::release(&clients, &signature, "holder", grant.token).await;
    }
    // After this long without a write, the work that the last requests left is done.
    let mut before = written(&cluster);
    let mut quiet = Stopwatch::start();
    eventually("the cluster comes to rest", 3 * REST, || {
        let now = written(&cluster);
        if now != before {
            before = now;
            quiet = Stopwatch::start();
        }
        let rested = quiet.elapsed();
        async move { if rested > REST { Ok(()) } else { Err("files are being written") } }
    })
    .await;
    let usage: Vec<_> = cluster.ids().into_iter().map(|id| (id, cluster.usage(id))).collect();
    let watch = Stopwatch::start();
    throughout("no file is written", IDLE, || async { written(&cluster) == before }).await;
    let time = watch.elapsed();
    for (id, old) in usage {
        let used = cluster.usage(id).since(&old);
        let share = used.cpu.as_secs_f64() / time.as_secs_f64();
        println!("node {id}, idle: {:.2} % of a core (debug build)", share * 100.0);
        assert_eq!(used.written_bytes, 0, "node {id} wrote to its disk");
        assert!(share < CPU_SHARE, "node {id} uses {:.2} % of a core", share * 100.0);
    }
}

/// Memory for large answers in the test below.
const BUFFER_MIB: u64 = 16;

/// The most memory that a node may take besides: it has 20 to 30 MiB from the beginning, and pages
/// under construction on each of its threads. All the pages below together are a gigabyte.
const BESIDES_MIB: u64 = 150;

/// A connection that requests a page and reads its head only. Its kernel buffers little of the
/// rest.
async fn slow_reader(address: SocketAddr) -> (TcpStream, String) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    let mut stream = socket.connect(address).await.expect("a connection");
    let ask = "GET /v1/locks?limit=1000 HTTP/1.1\r\nhost: x\r\nkeyward-timeout-ms: 30000\r\n\r\n";
    stream.write_all(ask.as_bytes()).await.expect("it is sent");
    let mut head = vec![0; 600];
    let count = stream.read(&mut head).await.expect("an answer");
    (stream, String::from_utf8_lossy(&head[..count]).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_readers_of_large_pages_take_no_more_memory_than_they_may() {
    let buffer = BUFFER_MIB.to_string();
    let options = ClusterOptions::default().with(&["--buffer-mib", &buffer]);
    let cluster = Cluster::start(options).await;
    let leader = cluster.leader().await;
    let follower = cluster.others(leader)[0];
    let client = cluster.client(leader);
    // Escaped, a page of them is 12 MB: more than the kernel buffers for the node.
    let long = |number: u32| (format!("{number:\u{1}>1024}"), "\u{2}".repeat(1024));
    let locks = (0..1000).map(|number| {
        let ((signature, signee), client) = (long(number), client.clone());
        tokio::spawn(async move { ask::hold(&client, &signature, &signee, ask::LONG).await })
    });
    for lock in locks.collect::<Vec<_>>() {
        lock.await.expect("it is granted");
    }
    let address = cluster.direct_endpoint(follower);
    let address: SocketAddr = address.trim_start_matches("http://").parse().expect("an address");
    let readers = (0..80).map(|_| tokio::spawn(slow_reader(address))).collect::<Vec<_>>();
    let (mut reading, mut refused) = (Vec::new(), 0);
    for reader in readers {
        let (stream, head) = reader.await.expect("it was answered");
        if head.starts_with("HTTP/1.1 200 ") {
            reading.push(stream);
        } else {
            assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
            assert!(head.contains("retry-after: 1"), "{head}");
            refused += 1;
        }
    }
    println!("{} pages are being read, {refused} were refused", reading.len());
    assert!(!reading.is_empty() && refused > 0);
    for id in [leader, follower] {
        let mib = cluster.usage(id).resident_bytes >> 20;
        println!("node {id} takes {mib} MiB");
        assert!(mib < BUFFER_MIB + BESIDES_MIB, "node {id} takes {mib} MiB");
    }
    // No other client waits, and the memory is free again for the next.
    ask::hold(&cluster.client(follower), "small", "w", ask::LONG).await;
    drop(reading);
    eventually("a page is read again", ELECTION, || async {
        let url = format!("{}/v1/locks?limit=1000", cluster.endpoint(follower));
        let answer = cluster.http().get(url).send().await.map_err(|error| error.to_string())?;
        let status = answer.status();
        let bytes = answer.bytes().await.map_err(|error| error.to_string())?.len();
        if bytes > 2 << 20 { Ok(()) } else { Err(format!("{status}, {bytes} bytes")) }
    })
    .await;
}
