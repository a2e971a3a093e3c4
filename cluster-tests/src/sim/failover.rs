//! Deaths of leaders, each in a world of its own: the number of terms until the next leader, and
//! the time until the next lock.
//!
//! Nothing else is wrong there, so that only the election is measured.

use std::time::Duration;

use super::world::{Death, FIRST_CLIENT, MachineId, Pace, World, WorldOptions};
use keyward::LockService;
use keyward::client::Client;
use keyward::node::Profile;
use keyward::types::{CallOptions, LockOptions, LockRequest};

/// Longer than any election.
const PATIENCE: Duration = Duration::from_secs(30);

/// The recovery from one death.
#[derive(Clone, Copy, Debug)]
pub struct Failover {
    /// The number of terms until the next leader: one, unless votes were split.
    pub terms: u64,
    /// The time from the death to the next lock, requested at the moment of the death; to the next
    /// leader if the machine has died, as the client decides how long it waits for a dead machine.
    pub took: Duration,
}

/// Simulates three nodes whose leader dies in this way. The seed chooses the leader, the time of
/// its death, and the behaviour of network and disks in between.
///
/// # Panics
/// If no other node becomes the leader in time.
pub fn failover(seed: u64, profile: Profile, death: Death) -> Failover {
    let options = WorldOptions {
        seed,
        nodes: 3,
        clients: 1,
        rho_ppm: 10_000,
        snapshot_every: 50_000,
        log_kept: 10_000,
        apply_bytes: 64 << 10,
        send_bytes: 64 << 10,
        profile,
        keep_trace: false,
    };
    super::world::run(options, |world| async move {
        let mut dice = world.dice("failover");
        for node in world.node_ids() {
            world.set_disk_pace(node, Pace { min_ms: 1, max_ms: 6 });
            world.start(node);
        }
        let chosen = *dice.pick(&world.node_ids());
        leads(&world, |_| true).await;
        let client = world.client(FIRST_CLIENT, chosen, PATIENCE);
        lock(&client, "before").await;
        while leads(&world, |_| true).await != chosen {
            world.transfer(chosen);
            world.sleep(Duration::from_millis(100)).await;
        }
        lock(&client, "between").await;
        world.sleep(Duration::from_millis(dice.within(0..=500))).await;
        // The last entry has reached the others, or not all of them.
        if dice.hits(500_000) {
            lock(&client, "last").await;
        }
        let term = world.status(chosen).expect("it runs").term;
        let died = world.now();
        world.kill(chosen, death);
        if death == Death::Killed {
            lock(&client, "after").await;
        }
        let next = leads(&world, |node| node != chosen).await;
        let took = world.now().saturating_sub(died);
        let terms = world.status(next).expect("it leads").term - term;
        Failover { terms, took }
    })
    .result
}

/// Waits until one of these leads.
async fn leads(world: &World, one_of: impl Fn(MachineId) -> bool) -> MachineId {
    let since = world.now();
    loop {
        match world.leader() {
            Some(leader) if one_of(leader) => return leader,
            _ => assert!(world.now().saturating_sub(since) < PATIENCE, "no leader"),
        }
        world.sleep(Duration::from_millis(1)).await;
    }
}

async fn lock(client: &Client, signature: &str) {
    let request =
        LockRequest { signature: signature.to_owned(), signee: "failover".to_owned(), level: None };
    let options = LockOptions {
        duration: Some(Duration::from_secs(3600)),
        call: CallOptions { timeout: Some(PATIENCE), ..CallOptions::default() },
        ..LockOptions::default()
    };
    let answer = client.lock(request, options).await.expect("there is a leader again");
    assert!(answer.ok(), "{answer:?}");
}

/// The results of many failovers.
#[derive(Clone, Debug)]
pub struct Failovers {
    /// The number of failovers that took one term, two, three, and so on.
    pub terms: Vec<usize>,
    /// Their times, in ascending order.
    pub took: Vec<Duration>,
}

impl Failovers {
    /// One failover for each seed.
    pub fn of(seeds: std::ops::Range<u64>, profile: Profile, death: Death) -> Self {
        let mut all = Self { terms: Vec::new(), took: Vec::new() };
        for seed in seeds {
            let Failover { terms, took } = failover(seed, profile, death);
            let at = usize::try_from(terms).unwrap_or(usize::MAX).saturating_sub(1).min(9);
            all.terms.resize(all.terms.len().max(at + 1), 0);
            all.terms[at] += 1;
            all.took.push(took);
        }
        all.took.sort();
        all
    }

    /// The time within which `share` per cent of them were over.
    ///
    /// # Panics
    /// If there are none.
    pub fn percentile(&self, share: usize) -> Duration {
        self.took[(self.took.len() * share).div_ceil(100).saturating_sub(1)]
    }
}
