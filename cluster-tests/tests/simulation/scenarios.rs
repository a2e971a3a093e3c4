//! One interleaving each, on virtual time: its conditions are arranged, not waited for.

use std::time::Duration;

use cluster_tests::sim::world::{FIRST_CLIENT, Link, MachineId, Pace, World, WorldOptions, run};
use keyward::node::Profile;
use keyward::types::{LockOptions, LockRequest, ReadOptions};
use keyward::{Client, Error, LockService};
use tokio::sync::mpsc;

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
    // The work left over from the start is done.
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
        apply_bytes: 64 << 10,
        send_bytes: 64 << 10,
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

fn term(world: &World, node: MachineId) -> u64 {
    world.status(node).expect("it runs").term
}

/// The acknowledgements of an entry are late on their way to the leader, and all later messages of
/// the leader are lost. A read that comes now must not be confirmed by them: they are older than
/// it.
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

/// Both followers need longer for a sync than the leader's lease lasts.
fn slow_syncs(sync: u64) {
    simulated(async |world| {
        let [leader, first, second] = formed(&world).await;
        let before = term(&world, leader);
        for follower in [first, second] {
            world.set_disk_pace(follower, Pace { min_ms: sync, max_ms: sync });
        }
        let (done, mut all_done) = mpsc::channel::<()>(1);
        // Enough writers that a sync is always in progress on both.
        for writer in 0..5 {
            let (here, done) = (world.clone(), done.clone());
            let client = world.client(FIRST_CLIENT, leader, ms(8_000));
            world.spawn_on(FIRST_CLIENT, async move {
                here.sleep(ms(writer * sync / 4)).await;
                for n in 0..10 {
                    let (begun, name) = (here.now(), format!("lock {writer} {n}"));
                    lock(&client, &name).await.expect("it is slow, and it is done");
                    let read = client.check(name, ReadOptions::default()).await;
                    read.expect("a read waits for no disk");
                    let took = here.now().saturating_sub(begun);
                    // Its own sync, and the one before it that was in progress.
                    assert!(took <= ms(2 * sync + 100), "{took:?}");
                }
                drop(done);
            });
        }
        drop(done);
        assert_eq!(all_done.recv().await, None);
        assert_eq!(world.panics(), Vec::<String>::new());
        assert_eq!(term(&world, leader), before, "an election");
        assert_eq!(world.leader(), Some(leader));
    });
}

#[test]
fn followers_whose_syncs_take_400_ms_make_writes_slow_and_no_election() {
    slow_syncs(400);
}

#[test]
fn followers_whose_syncs_take_1200_ms_make_writes_slow_and_no_election() {
    slow_syncs(1_200);
}
