//! Shows with `strace` that acknowledged operations were synced first, and that reads sync nothing.
//!
//! Three nodes run under `strace`, which records every sync, and every request and answer, with
//! their times. Then: between an operation's request and its acknowledgement at least two of the
//! three nodes began *and* ended an `fdatasync`; and while nothing but reads happened, none did.
//!
//! The checkpoint's store also calls `fsync` once a second, whether or not there is anything to
//! write. No answer waits for it, so it is ignored.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use cluster_tests::ask;
use cluster_tests::cluster::{BOOT, Cluster, ClusterOptions, ELECTION};
use cluster_tests::trace::{Event, parse};
use cluster_tests::wait::{Stopwatch, eventually};
use keyward::service::LockService;

const OPERATIONS: usize = 40;
const READS: usize = 40;
const MAJORITY: usize = 2;

#[tokio::main]
async fn main() -> ExitCode {
    let mut cluster = Cluster::prepare(ClusterOptions::default()).await;
    let ids = cluster.ids();
    for &id in &ids {
        let command = traced(&cluster, id);
        cluster.spawn_with(id, command);
    }
    for &id in &ids {
        cluster.wait_listening(id).await;
    }
    cluster.wait_ready(BOOT).await;
    let leader = cluster.leader().await;
    let client = cluster.client(leader);
    for number in 0..OPERATIONS / 2 {
        let signature = format!("fsync/{number}");
        let grant = ask::hold(&client, &signature, "holder", ask::LONG).await;
        ask::release(&client, &signature, "holder", grant.token).await;
    }
    rest(&cluster).await;
    for number in 0..READS {
        // Nothing is held, so the answer is that there is no such lock.
        let read = client.check(format!("fsync/{number}"), ask::reading(false)).await;
        assert!(matches!(read, Err(keyward::Error::NotFound { .. })), "{read:?}");
    }
    let traces = eventually("strace has written all", ELECTION, || async {
        let traces: BTreeMap<u64, Vec<Event>> =
            ids.iter().map(|&id| (id, events(&trace_file(&cluster, id)))).collect();
        let reads = exchanges(&traces[&leader], "GET /v1/lock?").len();
        if reads >= READS { Ok(traces) } else { Err(format!("{reads} reads")) }
    })
    .await;
    report(&traces, leader)
}

/// Waits until no sync has happened for a second: the work that the operations left is done.
async fn rest(cluster: &Cluster) {
    let mut before = 0;
    let mut quiet = Stopwatch::start();
    eventually("the nodes come to rest", ELECTION, || {
        let traces = cluster.ids().into_iter().map(|id| events(&trace_file(cluster, id)));
        let now = traces.map(|events| syncs(&events).count()).sum();
        if now != before {
            before = now;
            quiet = Stopwatch::start();
        }
        let rested = quiet.elapsed() > Duration::from_secs(1);
        async move { if rested { Ok(()) } else { Err("they sync") } }
    })
    .await;
}

fn report(traces: &BTreeMap<u64, Vec<Event>>, leader: u64) -> ExitCode {
    let mut acknowledged = exchanges(&traces[&leader], "POST /v1/lock");
    acknowledged.extend(exchanges(&traces[&leader], "POST /v1/unlock"));
    let unsynced: Vec<_> =
        acknowledged.iter().filter(|&&span| nodes_synced(traces, span) < MAJORITY).collect();
    let reads = exchanges(&traces[&leader], "GET /v1/lock?");
    let span = (
        reads.first().map_or(f64::MAX, |first| first.0),
        reads.last().map_or(f64::MIN, |last| last.1),
    );
    let synced_in_reads: usize = traces
        .values()
        .map(|events| syncs(events).filter(|sync| overlaps(*sync, span)).count())
        .sum();
    println!(
        "acknowledged operations: {}, of them without an fdatasync on a majority before: {}",
        acknowledged.len(),
        unsynced.len()
    );
    println!(
        "plain reads: {}, fdatasyncs on all nodes while they ran: {synced_in_reads}",
        reads.len()
    );
    let enough = acknowledged.len() >= OPERATIONS && reads.len() >= READS;
    if enough && unsynced.is_empty() && synced_in_reads == 0 {
        ExitCode::SUCCESS
    } else {
        eprintln!("check-fsync: FAILED {unsynced:?}");
        ExitCode::FAILURE
    }
}

/// The node's own command under `strace`, which detaches (`-D`): the process that the harness
/// started, and ends, is the node itself.
fn traced(cluster: &Cluster, id: u64) -> Command {
    let serve = cluster.serve_command(id);
    let mut command = Command::new("strace");
    command
        .args(["-D", "-f", "-ttt", "-T", "-s", "48", "-o"])
        .arg(trace_file(cluster, id))
        .args(["-e", "trace=fdatasync,recvfrom,sendto,read,write,writev"])
        .arg(serve.get_program())
        .args(serve.get_args());
    command
}

fn trace_file(cluster: &Cluster, id: u64) -> std::path::PathBuf {
    cluster.folder().join(format!("node{id}.strace"))
}

fn events(path: &Path) -> Vec<Event> {
    parse(&String::from_utf8_lossy(&fs::read(path).unwrap_or_default()))
}

/// The start and end times of each exchange whose request begins with `request`.
fn exchanges(events: &[Event], request: &str) -> Vec<(f64, f64)> {
    let mut open: BTreeMap<u64, f64> = BTreeMap::new();
    let mut found = Vec::new();
    for event in events {
        match event {
            Event::Received { descriptor, end, text, .. } if text.starts_with(request) => {
                open.insert(*descriptor, *end);
            }
            Event::Sent { descriptor, begin, text } if text.starts_with("HTTP/1.1 ") => {
                if let Some(asked) = open.remove(descriptor) {
                    found.push((asked, *begin));
                }
            }
            Event::Received { .. } | Event::Sent { .. } | Event::Synced { .. } => {}
        }
    }
    found
}

fn syncs(events: &[Event]) -> impl Iterator<Item = (f64, f64)> + '_ {
    events.iter().filter_map(|event| match event {
        Event::Synced { begin, end } => Some((*begin, *end)),
        Event::Received { .. } | Event::Sent { .. } => None,
    })
}

fn nodes_synced(traces: &BTreeMap<u64, Vec<Event>>, (asked, answered): (f64, f64)) -> usize {
    let within = |(begin, end): (f64, f64)| begin >= asked && end <= answered;
    traces.values().filter(|events| syncs(events).any(within)).count()
}

fn overlaps((begin, end): (f64, f64), span: (f64, f64)) -> bool {
    begin <= span.1 && end >= span.0
}
