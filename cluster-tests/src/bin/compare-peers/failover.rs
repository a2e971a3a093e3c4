//! Kills the leader, and measures the time to the next lock.
//!
//! Clients on the surviving nodes send requests all the time, each for a lock that has no holder.
//! The time ends with the first grant of a request sent after the kill. An attempt that is not
//! answered soon is cancelled and retried, as these clients are only there to find the moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cluster_tests::peers::etcd::{Etcd, LeaseOf, Manner as EtcdManner};
use cluster_tests::peers::redis::Redis;
use cluster_tests::peers::server::Servers;
use cluster_tests::peers::zookeeper::{Manner as ZooKeeperManner, ZooKeeper};
use cluster_tests::wait::Stopwatch;
use keyward::bench::{Http, Owner, Target};
use tokio::sync::mpsc;

use crate::rows::Service;
use crate::{ANSWER, SESSION, say};

/// Clients that send requests meanwhile: two on each surviving node.
const CLIENTS: usize = 4;

/// The timeout of one attempt.
const ATTEMPT: Duration = Duration::from_millis(250);

/// The pause after a failed attempt.
const PAUSE: Duration = Duration::from_millis(5);

/// Longer than any election; after it the measurement has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// The pause between a node's return and the next kill, so that an election does not coincide with
/// catching up.
const SETTLE: Duration = Duration::from_secs(1);

/// The seconds from each kill to the next lock.
pub(crate) async fn kill_leaders(
    mut servers: Servers,
    service: Service,
    kills: u64,
    stop: &AtomicBool,
) -> Result<Vec<f64>, String> {
    let mut times = Vec::new();
    for kill in 0..kills {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let leader = servers.leader().await;
        let all = servers.endpoints().into_iter().enumerate();
        let others: Vec<_> =
            all.filter(|(index, _)| *index != leader).map(|(_, endpoint)| endpoint).collect();
        let prefix = format!("failover/{kill}");
        let took = match service {
            Service::Keyward | Service::KeywardFast => {
                let target = Http::new(&others, "failover", ANSWER).map_err(say)?;
                one(&mut servers, leader, target, &prefix).await?
            }
            Service::Etcd => {
                let target = Etcd::new(others, EtcdManner::Transaction, LeaseOf::TheSession);
                one(&mut servers, leader, target, &prefix).await?
            }
            Service::ZooKeeper => {
                let target = ZooKeeper::new(others, ZooKeeperManner::Ephemeral, SESSION);
                one(&mut servers, leader, target, &prefix).await?
            }
            Service::Redlock => one(&mut servers, leader, Redis::new(others), &prefix).await?,
        };
        eprintln!("   {}: next lock after {:.3} s", service.name(), took.as_secs_f64());
        times.push(took.as_secs_f64());
        servers.restart(leader).await;
        tokio::time::sleep(SETTLE).await;
    }
    Ok(times)
}

async fn one<T: Target>(
    servers: &mut Servers,
    leader: usize,
    target: T,
    prefix: &str,
) -> Result<Duration, String> {
    let target = Arc::new(target);
    // 0 before the kill, 1 after it.
    let phase = Arc::new(AtomicU64::new(0));
    let (tell, mut granted) = mpsc::channel(64);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (target, phase, tell) = (Arc::clone(&target), Arc::clone(&phase), tell.clone());
            let prefix = format!("{prefix}/{client}");
            tokio::spawn(ask(target, client, prefix, phase, tell))
        })
        .collect();
    let mut ready = 0;
    // Under load: every client has acquired locks before the kill.
    while ready < CLIENTS * 5 {
        let asked = tokio::time::timeout(PATIENCE, granted.recv()).await;
        asked.map_err(|_| "no lock before the kill".to_owned())?;
        ready += 1;
    }
    servers.kill(leader);
    let watch = Stopwatch::start();
    phase.store(1, Ordering::SeqCst);
    let took = loop {
        match tokio::time::timeout(PATIENCE, granted.recv()).await {
            Ok(Some(1)) => break Ok(watch.elapsed()),
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => break Err(format!("no lock within {PATIENCE:?} of the kill")),
        }
    };
    for client in clients {
        client.abort();
    }
    took
}

/// Acquires one lock after the other, and reports the phase in which each request was sent.
async fn ask<T: Target>(
    target: Arc<T>,
    client: usize,
    prefix: String,
    phase: Arc<AtomicU64>,
    tell: mpsc::Sender<u64>,
) {
    let duration = Duration::from_secs(60);
    let mut owner = None;
    for number in 0_u64.. {
        let asked_in = phase.load(Ordering::SeqCst);
        let attempt = async {
            let mut open = match owner.take() {
                Some(open) => open,
                None => target.owner(client).await.ok()?,
            };
            let held = open.acquire(&format!("{prefix}/{number}"), duration).await.ok()?;
            Some((open, held))
        };
        match tokio::time::timeout(ATTEMPT, attempt).await {
            Ok(Some((open, _held))) => {
                owner = Some(open);
                if tell.send(asked_in).await.is_err() {
                    return;
                }
                // Enough load, but not so much that the clients become the bottleneck.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            _ => tokio::time::sleep(PAUSE).await,
        }
    }
}
