//! Faults of wall clocks.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{Attempt, Nemesis, Undo};
use crate::chaos::victim::Victim;
use crate::cluster::{Cluster, NodeId};
use crate::wait::Stopwatch;
use crate::walltime::{self, WallClock};

/// The step of a clock in seconds.
const STEP: i64 = 3600;

/// The timeout for a node to log that a connection has ended.
const TOLD: Duration = Duration::from_secs(3);

/// The text that a node logs when a connection breaks off in the middle of a request.
const ENDED: &str = "a connection ended early";

/// The argument that makes a node log it.
const LOG: &str = "--log=info,openraft=warn,keyward::http::server=debug";

/// The wall clocks of the nodes, if they can be stepped.
#[derive(Debug)]
pub struct WallClocks {
    clocks: BTreeMap<NodeId, WallClock>,
    /// The reason if there are none.
    missing: String,
}

impl Default for WallClocks {
    fn default() -> Self {
        let missing = String::from("these nodes were started with the machine's clock");
        Self { clocks: BTreeMap::new(), missing }
    }
}

impl WallClocks {
    /// Prepares a clock for each node of a cluster that was not started yet.
    pub fn prepare(cluster: &mut Cluster) -> Self {
        let mut clocks = BTreeMap::new();
        for id in cluster.ids() {
            match WallClock::new(cluster.folder().join(format!("node{id}-clock"))) {
                Ok(clock) => {
                    let own = cluster.own(id);
                    own.environment = clock.environment();
                    own.arguments.push(LOG.to_owned());
                    clocks.insert(id, clock);
                }
                Err(missing) => return Self { clocks: BTreeMap::new(), missing },
            }
        }
        Self { clocks, missing: String::new() }
    }
}

impl<V: Victim> Nemesis<V> {
    /// Steps the wall clocks of these nodes by an hour, all in one direction.
    pub(super) async fn step_clocks(&mut self, nodes: &[NodeId], random: &mut StdRng) -> Attempt {
        if nodes.iter().any(|id| !self.wall_clocks.clocks.contains_key(id)) {
            return Attempt::Skipped(self.wall_clocks.missing.clone());
        }
        let offset = if random.random_bool(0.5) { STEP } else { -STEP };
        let undo = Undo::WallClocks(nodes.to_vec());
        match self.set_clocks(nodes, offset).await {
            Ok(()) => Attempt::Installed(undo),
            Err(why) => Attempt::Indeterminate(undo, why),
        }
    }

    /// Steps the clocks back, by an hour the other way.
    pub(super) async fn set_clocks_right(&mut self, nodes: &[NodeId]) {
        if let Err(why) = self.set_clocks(nodes, 0).await {
            self.done.indeterminate += 1;
            self.recorder.event("wall clocks", why);
        }
    }

    /// Sets clocks, and checks at each node that the change has taken effect.
    async fn set_clocks(&mut self, nodes: &[NodeId], offset: i64) -> Result<(), String> {
        for id in nodes {
            if let Some(clock) = self.wall_clocks.clocks.get(id) {
                clock.set(offset).map_err(|error| error.to_string())?;
            }
        }
        let words = format!("{offset:+} s at {}", super::words(nodes));
        self.recorder.event("wall clocks", words);
        for &id in nodes {
            self.see_clock(id, offset).await?;
            self.done.clock_steps += 1;
        }
        Ok(())
    }

    /// Makes a node write a line into its log, and checks the time in it.
    async fn see_clock(&mut self, id: NodeId, offset: i64) -> Result<(), String> {
        let Some(cluster) = self.victim.cluster() else { return Ok(()) };
        if !cluster.runs(id) {
            return Err(format!("node {id} does not run"));
        }
        let seen = cluster.logged(id).len();
        let watch = Stopwatch::start();
        while watch.elapsed() < TOLD {
            break_off(&cluster.direct_endpoint(id)).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            let log = cluster.logged(id);
            // Lines already buffered were written by the old clock.
            let told = log.get(seen..).unwrap_or_default().lines();
            let mut told = told.filter(|line| line.contains(ENDED));
            if told.any(|line| walltime::is_off_by(line, offset) == Some(true)) {
                return Ok(());
            }
        }
        Err(format!("the log of node {id} does not show a wall clock that is {offset:+} s off"))
    }
}

/// Begins a request to a node, bypassing its link, and disconnects.
async fn break_off(endpoint: &str) {
    let address = endpoint.trim_start_matches("http://");
    if let Ok(mut stream) = TcpStream::connect(address).await {
        // The log shows whether that was enough.
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost").await;
    }
}
