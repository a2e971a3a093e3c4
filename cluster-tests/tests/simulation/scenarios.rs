//! One interleaving each, on virtual time: what it needs is arranged, not waited for.

use std::time::Duration;

use keyward::node::Profile;
use keyward::sim::{FIRST_CLIENT, Link, MachineId, World, WorldOptions, run};
use keyward::types::{LockOptions, LockRequest, ReadOptions};
use keyward::{Client, Error, LockService};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A cluster of three that has formed, its leader first.
async fn formed(world: &World) -> [MachineId; 3] {
    for node in world.node_ids() {
        world.start(node);
    }
    let ready =
        |node: &MachineId| world.status(*node).is_some_and(|status| status.not_ready.is_none());
    while !world.node_ids().iter().all(ready) {
        world.sleep(ms(10)).await;
    }
    // What the start has left over is done.
    world.sleep(ms(1_000)).await;
    let leader = world.leader().expect("all nodes know a leader");
    let mut nodes = world.node_ids();
    nodes.sort_by_key(|node| (*node != leader, *node));
    nodes.try_into().expect("there are three nodes")
}

fn simulated<F: Future<Output = ()>>(body: impl FnOnce(World) -> F) {
    let options = WorldOptions {
        seed: 1,
        nodes: 3,
        clients: 1,
        rho_ppm: 10_000,
        snapshot_every: 10_000,
        log_kept: 1_000,
        profile: Profile::Stable,
        keep_trace: false,
    };
    run(options, body);
}

async fn lock(client: &Client, signature: &str) -> Result<(), Error> {
    let request =
        LockRequest { signature: signature.to_owned(), signee: "one".to_owned(), level: None };
    client.lock(request, LockOptions::default()).await.map(|response| {
        assert!(response.ok(), "{response:?}");
    })
}

/// The acknowledgements of an entry are late on their way to the leader, and nothing that the leader
/// says from then on arrives. A read that comes now must not be confirmed by them: they are older than it.
#[test]
fn no_acknowledgement_confirms_a_read_that_is_newer() {
    simulated(async |world| {
        let [leader, first, second] = formed(&world).await;
        let client = world.client(FIRST_CLIENT, leader, ms(2_000));
        lock(&client, "a").await.expect("the cluster is whole");
        for (follower, late) in [(first, 100), (second, 150)] {
            let late = Link { min_ms: late, max_ms: late, ..Link::default() };
            world.set_link(follower, leader, late);
        }
        let writing = client.clone();
        world.spawn_on(FIRST_CLIENT, async move {
            // It is committed when the first acknowledgement arrives.
            lock(&writing, "b").await.expect("both followers have the entry");
        });
        world.sleep(ms(20)).await;
        for follower in [first, second] {
            world.set_link(leader, follower, Link { cut: true, ..Link::default() });
        }
        let reading = world.client(FIRST_CLIENT, leader, ms(300));
        let read = reading.check("a".to_owned(), ReadOptions::default()).await;
        assert!(matches!(read, Err(Error::Unavailable { .. })), "nobody was asked: {read:?}");
    });
}
