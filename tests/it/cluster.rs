//! A cluster in this process, each node on a runtime of its own. Dropping the runtime has the
//! effect of `kill -9` on a process, except for data in the page cache.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use keyward::clock::{Deadline, OffsetClock};
use keyward::forward::Forwarding;
use keyward::lock::FEATURE_LEVEL;
use keyward::node::{Member, Node, NodeConfig, Profile};
use keyward::types::{
    LockOptions, LockRequest, LockResponse, ReadOptions, UnlockOptions, UnlockRequest,
    UnlockResponse,
};
use keyward::{Error, LockService, advance, http};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

/// The timeout of everything here: nothing takes longer on a working machine, however busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running node.
pub(crate) struct Running {
    pub(crate) service: Arc<Forwarding>,
    stop: Option<oneshot::Sender<()>>,
    runtime: Option<Runtime>,
}

impl Running {
    pub(crate) fn node(&self) -> &Node {
        self.service.node()
    }
}

/// A node that is frozen, as a stopped process is, until this is dropped.
pub(crate) struct Frozen {
    _thaw: std::sync::mpsc::Sender<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Nodes 1 to n; some of them run.
pub(crate) struct Cluster {
    pub(crate) nodes: BTreeMap<u64, Running>,
    members: BTreeMap<u64, Member>,
    clocks: BTreeMap<u64, OffsetClock>,
    folders: TempDir,
    /// Adjusts the configuration of the nodes that are started from now on.
    pub(crate) adjust: fn(&mut NodeConfig),
}

impl Cluster {
    /// Starts all nodes and waits until they are ready.
    pub(crate) async fn start(size: u64) -> Self {
        Self::with(size, |_| {}).await
    }

    /// As [`Cluster::start`], with another configuration.
    pub(crate) async fn with(size: u64, adjust: fn(&mut NodeConfig)) -> Self {
        let mut cluster = Self::prepare(size, adjust);
        for id in 1..=size {
            cluster.run(id).await;
        }
        cluster.ready().await;
        cluster
    }

    /// Waits until every node that runs knows that all members have this version's level.
    pub(crate) async fn level_raised(&self) {
        eventually("the level is raised", async || {
            self.nodes
                .values()
                .all(|running| running.node().status().feature_level == FEATURE_LEVEL)
        })
        .await;
    }

    /// Prepares a cluster without starting a node.
    pub(crate) fn prepare(size: u64, adjust: fn(&mut NodeConfig)) -> Self {
        let addr = |_| Member { peer_addr: free_addr() };
        Self {
            nodes: BTreeMap::new(),
            members: (1..=size).map(|id| (id, addr(id))).collect(),
            clocks: (1..=size).map(|id| (id, OffsetClock::default())).collect(),
            folders: TempDir::new().unwrap(),
            adjust,
        }
    }

    pub(crate) fn folder(&self, id: u64) -> PathBuf {
        self.folders.path().join(format!("node-{id}"))
    }

    pub(crate) fn clock(&self, id: u64) -> &OffsetClock {
        &self.clocks[&id]
    }

    /// Starts one node.
    pub(crate) async fn run(&mut self, id: u64) {
        let started = self.try_run(id).await;
        started.unwrap_or_else(|error| panic!("node {id} does not start: {error}"));
    }

    /// Starts one node, or returns why it does not start.
    pub(crate) async fn try_run(&mut self, id: u64) -> Result<(), String> {
        let mut config = NodeConfig::new(id, self.members.clone(), self.folder(id));
        config.profile = Profile::Fast;
        config.client_addr = Some(format!("http://node-{id}"));
        config.debug_clock = Some(self.clocks[&id].clone());
        (self.adjust)(&mut config);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name(format!("node-{id}"))
            .enable_all()
            .build()
            .unwrap();
        let clock = Arc::new(self.clocks[&id].clone());
        let addr = self.members[&id].peer_addr.clone();
        let (stop, stopped) = oneshot::channel();
        let starting = runtime.spawn(async move {
            // The folder's lock is released when the last task of a killed node is gone.
            let bound = Deadline::after(PATIENCE);
            let node = loop {
                match Node::start(config.clone(), clock.clone()).await {
                    Ok(node) => break node,
                    Err(error)
                        if error.to_string().contains("in use") && !bound.remaining().is_zero() =>
                    {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                    Err(error) => return Err(error.to_string()),
                }
            };
            let listener = listen(&addr).await;
            let service = Arc::new(Forwarding::new(node.clone()));
            let told = async move {
                // Dropped at a kill, which ends the listener with the runtime.
                if stopped.await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::spawn(http::peers::serve(listener, service.clone(), told));
            tokio::spawn(advance::run(node));
            Ok(service)
        });
        let service = match starting.await.unwrap() {
            Ok(service) => service,
            Err(error) => {
                runtime.shutdown_background();
                return Err(error);
            }
        };
        self.nodes.insert(id, Running { service, stop: Some(stop), runtime: Some(runtime) });
        Ok(())
    }

    /// Waits until all running nodes are ready.
    pub(crate) async fn ready(&self) {
        for (id, running) in &self.nodes {
            let ready = tokio::time::timeout(PATIENCE, running.node().wait_ready()).await;
            ready.unwrap_or_else(|_| panic!("node {id}: {:?}", running.node().status()));
        }
        self.leader().await;
    }

    /// Removes a node without a shutdown.
    pub(crate) async fn kill(&mut self, id: u64) {
        let running = self.nodes.remove(&id).expect("it runs");
        let dropping = tokio::task::spawn_blocking(move || drop(running));
        dropping.await.unwrap();
    }

    /// Freezes a node: its only worker waits. Its sockets stay open, as a stopped process's.
    pub(crate) async fn freeze(&self, id: u64) -> Frozen {
        let (thaw, thawed) = std::sync::mpsc::channel::<()>();
        let (stands, still) = oneshot::channel();
        let runtime = self.nodes[&id].runtime.as_ref().expect("it runs");
        runtime.spawn(async move {
            let _ = stands.send(());
            // Ends with an error when the other end is dropped.
            let _ = thawed.recv();
        });
        still.await.expect("its worker has come to it");
        Frozen { _thaw: thaw }
    }

    /// Stops a node as the program does.
    pub(crate) async fn shut_down(&mut self, id: u64) {
        let mut running = self.nodes.remove(&id).expect("it runs");
        let node = running.node().clone();
        let runtime = running.runtime.as_ref().expect("it runs");
        runtime.spawn(async move { node.shutdown().await }).await.unwrap();
        drop(running.stop.take());
        tokio::task::spawn_blocking(move || drop(running)).await.unwrap();
    }

    /// The leader that all running nodes agree on and that answers.
    pub(crate) async fn leader(&self) -> u64 {
        let mut leader = None;
        eventually("the nodes agree on a leader", async || {
            let leaders: Vec<Option<u64>> =
                self.nodes.values().map(|running| running.node().status().leader).collect();
            leader = leaders[0];
            let agreed = leaders.iter().all(|other| *other == leader);
            let Some(running) = leader.filter(|_| agreed).and_then(|id| self.nodes.get(&id)) else {
                return false;
            };
            running
                .node()
                .check("nothing".to_owned(), ReadOptions::default())
                .await
                .is_err_and(|error| matches!(error, Error::NotFound { .. }))
        })
        .await;
        leader.expect("the nodes agree")
    }

    /// A running node that does not lead.
    pub(crate) async fn follower(&self) -> u64 {
        let leader = self.leader().await;
        *self.nodes.keys().find(|id| **id != leader).expect("more than one node runs")
    }

    pub(crate) fn service(&self, id: u64) -> &Forwarding {
        &self.nodes[&id].service
    }

    /// Locks through a node; repeated while the cluster has no leader.
    pub(crate) async fn lock(&self, id: u64, signature: &str, signee: &str) -> LockResponse {
        self.lock_for(id, signature, signee, Duration::from_secs(3600)).await
    }

    pub(crate) async fn lock_for(
        &self,
        id: u64,
        signature: &str,
        signee: &str,
        duration: Duration,
    ) -> LockResponse {
        let bound = Deadline::after(PATIENCE);
        loop {
            let request = LockRequest {
                signature: signature.to_owned(),
                signee: signee.to_owned(),
                level: None,
            };
            let options = LockOptions { duration: Some(duration), ..LockOptions::default() };
            match self.service(id).lock(request, options).await {
                Ok(response) => return response,
                Err(Error::Unavailable { .. }) if !bound.remaining().is_zero() => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(error) => panic!("{signature} for {signee} through node {id}: {error}"),
            }
        }
    }

    pub(crate) async fn unlock(&self, id: u64, signature: &str, signee: &str) -> UnlockResponse {
        let request = UnlockRequest { signature: signature.to_owned(), signee: signee.to_owned() };
        self.service(id).unlock(request, UnlockOptions::default()).await.unwrap()
    }
}

/// Waits until the condition holds.
pub(crate) async fn eventually(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let bound = Deadline::after(PATIENCE);
    while !so().await {
        assert!(!bound.remaining().is_zero(), "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// An address without a listener. It is used again a moment later; the kernel cycles through many
/// ports for port 0, so no other process gets it meanwhile.
fn free_addr() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// Listens, as soon as the node that had the address before is gone.
async fn listen(addr: &str) -> TcpListener {
    let bound = Deadline::after(PATIENCE);
    loop {
        match TcpListener::bind(addr).await {
            Ok(listener) => return listener,
            Err(error) => assert!(!bound.remaining().is_zero(), "{addr}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
