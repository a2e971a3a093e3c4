//! Hostile clients at one node of three real ones: other clients go on being served, memory is
//! bounded, hostile connections are ended or refused, and the nodes' own port goes on.
//!
//! Slow readers are in `alone`; what is slow and what is refused in the small is in `src/http/tests/`.
//! Times are measured by `scripts/measure hostile`.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use cluster_tests::cluster::{BOOT, Cluster, ClusterOptions, NodeId, client_with};
use cluster_tests::hostile::{Attack, Attackers, Honest, Seen};
use cluster_tests::wait::eventually;

/// The timeout for a node to end what is slow; its own timeouts are at most 30 seconds.
const ENDED: Duration = Duration::from_secs(90);

/// Pairs of the honest client beside each attack.
const PAIRS: usize = 50;

/// The most that a node may grow by: the budget for large bodies and answers, some connections, and
/// what an allocator keeps.
const GROWTH: u64 = 160 << 20;

fn address(cluster: &Cluster, id: NodeId) -> SocketAddr {
    let endpoint = cluster.direct_endpoint(id);
    let (_, address) = endpoint.split_once("://").expect("a URL");
    address.parse().expect("an address")
}

fn honest(cluster: &Cluster, id: NodeId) -> Honest {
    Honest::new(client_with(&[cluster.direct_endpoint(id)], cluster.tls()))
}

/// The value of a figure of a node.
async fn figure(cluster: &Cluster, id: NodeId, name: &str) -> u64 {
    let url = format!("{}/metrics", cluster.direct_endpoint(id));
    let page = cluster.http().get(url).send().await.expect("a page").text().await.expect("a page");
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.expect("the figure is there").parse().expect("a number")
}

/// Attacks the leader until this holds, while an honest client of it is served; then it is said what
/// became of the attackers.
async fn attack(
    cluster: &Cluster,
    attack: Attack,
    clients: usize,
    enough: impl AsyncFn(Seen) -> bool,
) -> Seen {
    let leader = cluster.leader().await;
    let before = cluster.usage(leader).resident_bytes;
    let mut honest = honest(cluster, leader);
    honest.pair().await;
    let attackers = Attackers::start(attack, address(cluster, leader), clients);
    let mut most = 0;
    for _ in 0..PAIRS {
        honest.pair().await;
        most = most.max(cluster.usage(leader).resident_bytes);
    }
    let seen = eventually(attack.name(), ENDED, || async {
        let seen = attackers.seen();
        if enough(seen).await { Ok(seen) } else { Err(format!("{seen:?}")) }
    })
    .await;
    // Also once all of them are there.
    for _ in 0..PAIRS {
        honest.pair().await;
        most = most.max(cluster.usage(leader).resident_bytes);
    }
    let growth = most.saturating_sub(before);
    assert!(growth < GROWTH, "{}: it grew by {} MiB", attack.name(), growth >> 20);
    // Every pair was committed by way of the port of the nodes; so is what other nodes pass on.
    for id in cluster.others(leader) {
        self::honest(cluster, id).pair().await;
    }
    drop(attackers);
    let leader = cluster.leader().await;
    for id in cluster.others(leader) {
        cluster.wait_caught_up(id, leader, BOOT).await;
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_slowly_is_ended_and_holds_nobody_up() {
    let options = ClusterOptions::default().with(&["--idle-timeout=2s"]);
    let cluster = Cluster::start(options).await;
    let all_once = async |seen: Seen| seen.ended >= 200;
    let heads = attack(&cluster, Attack::SlowHeads, 200, &all_once).await;
    assert_eq!(heads.served, 0, "{heads:?}");
    let bodies = attack(&cluster, Attack::SlowBodies, 200, &all_once).await;
    assert!(bodies.refused >= 200 && bodies.served == 0, "each is told 408: {bodies:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_that_stop_in_the_middle_are_ended() {
    let options = ClusterOptions { tls: true, ..ClusterOptions::default() };
    let cluster = Cluster::start(options).await;
    let seen =
        attack(&cluster, Attack::Handshakes, 200, async |seen: Seen| seen.ended >= 200).await;
    assert_eq!(seen.served, 0, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_connections_of_one_address_evicts_itself() {
    let options = ClusterOptions::default().with(&["--address-connections=64"]);
    let cluster = Cluster::start(options).await;
    let leader = cluster.leader().await;
    let mut idle = honest(&cluster, leader);
    idle.pair().await;
    let seen =
        attack(&cluster, Attack::Connections, 300, async |seen: Seen| seen.ended >= 1000).await;
    assert!(seen.opened >= 1000, "{seen:?}");
    let attackers = Attackers::start(Attack::Connections, address(&cluster, leader), 300);
    eventually("the flood is there", ENDED, || async {
        let opened = attackers.seen().opened;
        if opened >= 300 { Ok(()) } else { Err(opened) }
    })
    .await;
    let open = figure(&cluster, leader, "keyward_connections").await;
    assert!(open < 64 + 64, "{open} connections are open");
    drop(attackers);
    idle.pair().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_requests_of_one_address_is_refused_and_no_other() {
    // The honest client has an address of its own, and asks less often.
    let options = ClusterOptions::default().with(&["--address-rate=500"]);
    let cluster = Cluster::start(options).await;
    let seen =
        attack(&cluster, Attack::Requests, 64, async |seen: Seen| seen.limited >= 2000).await;
    assert!(seen.served > 0, "up to its rate it is served: {seen:?}");
    assert_eq!(seen.ended, 0, "its connections are not ended: {seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn json_as_deep_as_a_body_may_be_long_is_refused() {
    let cluster = Cluster::start(ClusterOptions::default()).await;
    let seen = attack(&cluster, Attack::DeepJson, 32, async |seen: Seen| seen.refused >= 500).await;
    assert_eq!((seen.served, seen.limited), (0, 0), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_has_few_descriptors_goes_on_with_those_that_it_has() {
    const DESCRIPTORS: u32 = 160;
    let mut cluster = Cluster::prepare(ClusterOptions::default()).await;
    for id in cluster.ids() {
        let serve = cluster.serve_command(id);
        let mut limited = Command::new("sh");
        limited.env_clear().args(["-c", &format!("ulimit -n {DESCRIPTORS}; exec \"$@\""), "sh"]);
        limited.arg(serve.get_program()).args(serve.get_args());
        if let Some(folder) = serve.get_current_dir() {
            limited.current_dir(folder);
        }
        limited.envs(serve.get_envs().filter_map(|(name, value)| Some((name, value?))));
        cluster.spawn_with(id, limited);
    }
    for id in cluster.ids() {
        cluster.wait_listening(id).await;
    }
    cluster.wait_ready(BOOT).await;
    // Far more connections than descriptors.
    let seen =
        attack(&cluster, Attack::Connections, 400, async |seen: Seen| seen.ended >= 1000).await;
    assert!(seen.opened >= 1000, "{seen:?}");
    let leader = cluster.leader().await;
    assert_eq!(figure(&cluster, leader, "process_max_fds").await, u64::from(DESCRIPTORS));
    // It can still open files, and its peers still reach it.
    for id in cluster.ids() {
        honest(&cluster, id).pair().await;
    }
}
