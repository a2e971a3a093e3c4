//! Faults of links.

use std::num::NonZeroU32;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::{Attempt, Undo, any, millis};
use crate::chaos::fault::Fault;
use crate::cluster::{Cluster, NodeId};
use crate::proxy::{self, Condition};

/// Installs a fault in the links around these nodes.
#[expect(clippy::wildcard_enum_match_arm, reason = "all others are not done to links")]
pub(super) fn install(
    cluster: &Cluster,
    fault: Fault,
    nodes: &[NodeId],
    random: &mut StdRng,
) -> Attempt {
    match fault {
        Fault::Partition => partition(cluster, nodes[0], random),
        Fault::OneWay => one_way(cluster, nodes[0], random),
        Fault::Ring => ring(cluster, random),
        Fault::Delay => each_link(cluster, random, |random| Condition {
            delay: millis(random, 5..100),
            ..Condition::default()
        }),
        Fault::Loss => each_link(cluster, random, |random| Condition {
            loss_percent: random.random_range(1..20),
            ..Condition::default()
        }),
        Fault::Throttle => each_link(cluster, random, |random| Condition {
            bytes_per_second: NonZeroU32::new(random.random_range(20_000..200_000)),
            ..Condition::default()
        }),
        Fault::Reset => around(cluster, nodes[0], proxy::Fault::ResetInAnswer),
        Fault::HalfOpen => around(cluster, nodes[0], proxy::Fault::HalfOpen),
        other => return Attempt::Skipped(format!("{other} is not done to links")),
    }
    // One link in five hundred milliseconds is as far as a continent: some delays are that long.
    if fault == Fault::Delay && random.random_ratio(1, 3) {
        let far = any(random, &cluster.ids());
        let delay = millis(random, 100..500);
        for other in cluster.others(far) {
            cluster.link(far, other).set(Condition { delay, ..Condition::default() });
        }
    }
    Attempt::Installed(Undo::HealLinks)
}

/// Partitions one node, or two halves; by silence or by refusal. Clients reach every node.
fn partition(cluster: &Cluster, node: NodeId, random: &mut StdRng) {
    let fault = any(random, &[proxy::Fault::Silent, proxy::Fault::Refused]);
    let mut ids = cluster.ids();
    ids.shuffle(random);
    let alone = ids.len() < 4 || random.random_bool(0.5);
    let apart = if alone { vec![node] } else { ids[..ids.len() / 2].to_vec() };
    for from in cluster.ids() {
        for to in cluster.others(from) {
            if apart.contains(&from) != apart.contains(&to) {
                cluster.link(from, to).fault(fault);
            }
        }
    }
}

/// Drops everything that the node sends, or everything that is sent to it.
fn one_way(cluster: &Cluster, node: NodeId, random: &mut StdRng) {
    let mute = random.random_bool(0.5);
    for other in cluster.others(node) {
        let (from, to) = if mute { (node, other) } else { (other, node) };
        cut(cluster, from, to);
    }
}

/// Cuts the connection from one node to another, in this direction only.
fn cut(cluster: &Cluster, from: NodeId, to: NodeId) {
    cluster.link(from, to).fault(proxy::Fault::RequestsHeld);
    cluster.link(to, from).fault(proxy::Fault::AnswersHeld);
}

/// Lets each node reach its two neighbours in a ring, both ways. In a ring of three that is
/// everyone, so there the two ends of a line do not reach each other.
fn ring(cluster: &Cluster, random: &mut StdRng) {
    let mut ids = cluster.ids();
    ids.shuffle(random);
    let count = ids.len();
    for (place, &from) in ids.iter().enumerate() {
        for (other, &to) in ids.iter().enumerate() {
            let steps = place.abs_diff(other);
            let neighbours = steps <= 1 || (count > 3 && steps == count - 1);
            if !neighbours {
                cluster.link(from, to).fault(proxy::Fault::Silent);
            }
        }
    }
}

/// Sets a separate condition on every link between nodes, and on half of those to clients.
fn each_link(
    cluster: &Cluster,
    random: &mut StdRng,
    mut condition: impl FnMut(&mut StdRng) -> Condition,
) {
    for from in cluster.ids() {
        for to in cluster.others(from) {
            cluster.link(from, to).set(condition(random));
        }
        if random.random_bool(0.5) {
            cluster.client_link(from).set(condition(random));
        }
    }
}

/// Installs a fault in all links from and to a node, and in that of its clients.
fn around(cluster: &Cluster, node: NodeId, fault: proxy::Fault) {
    for other in cluster.others(node) {
        cluster.link(node, other).fault(fault);
        cluster.link(other, node).fault(fault);
    }
    cluster.client_link(node).fault(fault);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rand::SeedableRng;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::cluster::ClusterOptions;

    /// Whether a byte crosses a link and comes back.
    async fn carries(cluster: &Cluster, from: NodeId, to: NodeId) -> bool {
        let exchange = async {
            let mut stream = TcpStream::connect(cluster.link(from, to).address()).await?;
            stream.write_all(b"x").await?;
            stream.read_u8().await
        };
        matches!(tokio::time::timeout(Duration::from_millis(150), exchange).await, Ok(Ok(_)))
    }

    /// Links of a cluster without nodes, each to a server that answers.
    async fn links(nodes: u64) -> Cluster {
        let cluster = Cluster::prepare(ClusterOptions { nodes, ..ClusterOptions::default() }).await;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let echo = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    tokio::io::copy(&mut read, &mut write).await
                });
            }
        });
        for from in cluster.ids() {
            for to in cluster.others(from) {
                cluster.link(from, to).lead_to(Some(echo));
            }
        }
        cluster
    }

    async fn cut_links(cluster: &Cluster) -> Vec<(NodeId, NodeId)> {
        let mut cut = Vec::new();
        for from in cluster.ids() {
            for to in cluster.others(from) {
                if !carries(cluster, from, to).await {
                    cut.push((from, to));
                }
            }
        }
        cut
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_partition_of_three_cuts_one_node_off_both_ways_and_heals() {
        let cluster = links(3).await;
        let mut random = StdRng::seed_from_u64(1);
        let attempt = install(&cluster, Fault::Partition, &[2], &mut random);
        assert!(matches!(attempt, Attempt::Installed(_)));
        assert_eq!(cut_links(&cluster).await, [(1, 2), (2, 1), (2, 3), (3, 2)]);
        cluster.heal();
        assert_eq!(cut_links(&cluster).await, []);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn in_a_line_of_three_only_the_ends_do_not_reach_each_other() {
        let cluster = links(3).await;
        install(&cluster, Fault::Ring, &[1], &mut StdRng::seed_from_u64(1));
        let cut = cut_links(&cluster).await;
        assert_eq!(cut.len(), 2, "{cut:?}");
        assert_eq!(cut[0], (cut[1].1, cut[1].0));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn in_a_ring_of_five_each_reaches_two() {
        let cluster = links(5).await;
        install(&cluster, Fault::Ring, &[1], &mut StdRng::seed_from_u64(1));
        let cut = cut_links(&cluster).await;
        for id in cluster.ids() {
            assert_eq!(cut.iter().filter(|(from, _)| *from == id).count(), 2, "{cut:?}");
        }
    }
}
