//! Attacks one node of three by hostile clients of each kind, and measures what another client of that
//! node notices, and the node's memory.

use std::net::SocketAddr;
use std::time::Duration;

use cluster_tests::ask;
use cluster_tests::cluster::{Cluster, ClusterOptions, client_with};
use cluster_tests::hostile::{Attack, Attackers, Honest, Seen};
use cluster_tests::wait::Stopwatch;
use futures::future::join_all;

use crate::MIB;

/// The limits that the nodes have: a rate above what the honest client asks, and far below what a loop
/// can.
const ARGUMENTS: [&str; 2] = ["--address-rate=200", "--idle-timeout=5s"];

/// The time that attackers have to open their connections before anything is measured.
const BEGINNING: Duration = Duration::from_secs(2);

/// The locks of the page that slow readers ask for.
const LOCKS: usize = 1000;

/// Measures each attack for `time`, by so many clients.
pub(crate) async fn run(clients: usize, time: Duration) {
    println!(
        "| {clients} clients | p99 in ms, before | beside it | ratio | largest resident MiB, before | beside it | \
         opened | ended | served | 429 | other | changes of term |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|"
    );
    let plain = Cluster::start(ClusterOptions::default().with(&ARGUMENTS)).await;
    fill(&plain).await;
    for attack in Attack::PLAIN {
        measure(&plain, attack, clients, time).await;
    }
    drop(plain);
    let options = ClusterOptions { tls: true, ..ClusterOptions::default() };
    let secured = Cluster::start(options.with(&ARGUMENTS)).await;
    measure(&secured, Attack::Handshakes, clients, time).await;
}

/// Fills a page whose answer is some two megabytes.
async fn fill(cluster: &Cluster) {
    let client = cluster.clients();
    join_all((0..LOCKS).map(|number| {
        let client = client.clone();
        let signature = format!("page/{number:0>1000}");
        async move { ask::hold(&client, &signature, &"s".repeat(1000), ask::LONG).await }
    }))
    .await;
}

/// What an honest client notices.
struct Noticed {
    p99: Duration,
    resident_bytes: u64,
}

async fn measure(cluster: &Cluster, attack: Attack, clients: usize, time: Duration) {
    let leader = cluster.leader().await;
    let term = cluster.status(leader).await.expect("a status").term;
    let endpoint = cluster.direct_endpoint(leader);
    let (_, address) = endpoint.split_once("://").expect("a URL");
    let address: SocketAddr = address.parse().expect("an address");
    let mut honest = Honest::new(client_with(std::slice::from_ref(&endpoint), cluster.tls()));
    let usual = notice(cluster, leader, &mut honest, time).await;
    let attackers = Attackers::start(attack, address, clients);
    tokio::time::sleep(BEGINNING).await;
    let beside = notice(cluster, leader, &mut honest, time).await;
    let Seen { opened, ended, served, limited, refused } = attackers.seen();
    drop(attackers);
    let after = cluster.status(leader).await.expect("a status").term;
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    println!(
        "| {} | {:.1} | {:.1} | {:.1} | {:.0} | {:.0} | {opened} | {ended} | {served} | {limited} | \
         {refused} | {} |",
        attack.name(),
        ms(usual.p99),
        ms(beside.p99),
        ms(beside.p99) / ms(usual.p99),
        mib(usual.resident_bytes),
        mib(beside.resident_bytes),
        after - term,
    );
}

#[expect(clippy::cast_precision_loss, reason = "bytes in MiB, rounded")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB
}

async fn notice(cluster: &Cluster, id: u64, honest: &mut Honest, time: Duration) -> Noticed {
    let watch = Stopwatch::start();
    let (mut times, mut resident_bytes) = (Vec::new(), 0);
    while watch.elapsed() < time {
        times.push(honest.pair().await);
        resident_bytes = cluster.usage(id).resident_bytes.max(resident_bytes);
    }
    times.sort_unstable();
    let p99 = times.get(times.len() * 99 / 100).copied().unwrap_or_default();
    Noticed { p99, resident_bytes }
}
