//! Three nodes on this machine, each a process of its own, for the duration of a run.
//!
//! Their data is on a disk: in memory a sync costs nothing, and the figures would be too good.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::Rng as _;
use rustix::process::{Pid, Signal, kill_process};

use crate::cli::exit::{self, Failure};
use crate::client::Client;
use crate::clock::Deadline;
use crate::types::CallOptions;

const NODES: u64 = 3;

/// The ports of the nodes, below the range that the kernel uses for outgoing connections (32768 and
/// up).
const PORTS: std::ops::Range<u16> = 12_000..32_000;

/// The longest time from the start of the nodes to a leader, on a busy machine.
const BOOT: Duration = Duration::from_secs(30);

/// The longest time for the nodes to stop; nobody depends on their data or their leader.
const STOP: Duration = Duration::from_secs(5);

const POLL: Duration = Duration::from_millis(50);

/// The type that `statfs` reports for a file system in memory.
const TMPFS: rustix::fs::FsWord = 0x0102_1994;

/// The nodes.
pub(super) struct DevCluster {
    nodes: Vec<(Child, String)>,
    /// Removed after the nodes are gone; `None` if the data is kept.
    _folder: Option<tempfile::TempDir>,
}

impl DevCluster {
    /// Starts them and waits until all are ready and one leads.
    ///
    /// # Errors
    /// The folder cannot be used or is in memory, or a node does not become ready.
    pub(super) async fn start(kept: Option<&Path>, stop: &AtomicBool) -> Result<Self, Failure> {
        let (folder, temporary) = folder(kept)?;
        on_a_disk(&folder)?;
        let mut ports = free_ports(2 * usize::try_from(NODES).expect("three"))?;
        let peers: BTreeMap<u64, u16> =
            (1..=NODES).zip(std::iter::from_fn(|| ports.pop())).collect();
        let members: Vec<String> =
            peers.iter().map(|(id, port)| format!("{id}=127.0.0.1:{port}")).collect();
        let mut cluster = Self { nodes: Vec::new(), _folder: temporary };
        for id in 1..=NODES {
            let port = ports.pop().expect("two for each node");
            let child = spawn(id, &members.join(","), port, &folder)?;
            cluster.nodes.push((child, format!("http://127.0.0.1:{port}")));
        }
        cluster.wait_ready(&folder, stop).await?;
        Ok(cluster)
    }

    /// The client addresses of the nodes.
    pub(super) fn endpoints(&self) -> Vec<String> {
        self.nodes.iter().map(|(_, endpoint)| endpoint.clone()).collect()
    }

    /// Stops the nodes; those that do not stop in time are killed.
    pub(super) async fn stop(mut self) {
        for (child, _) in &self.nodes {
            if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                // It is a child that nobody has waited for: it exists, or has just ended.
                let _ = kill_process(pid, Signal::TERM);
            }
        }
        let deadline = Deadline::after(STOP);
        while !deadline.remaining().is_zero() && self.nodes.iter_mut().any(|(node, _)| runs(node)) {
            tokio::time::sleep(POLL).await;
        }
    }

    async fn wait_ready(&mut self, folder: &Path, stop: &AtomicBool) -> Result<(), Failure> {
        let client = Client::builder().endpoints(self.endpoints()).build()?;
        let deadline = Deadline::after(BOOT);
        let call = || CallOptions { timeout: Some(POLL * 10), ..CallOptions::default() };
        let mut waiting = self.endpoints();
        while let Some(endpoint) = waiting.last() {
            let status = client.cluster_at(endpoint, call()).await;
            if status.is_ok_and(|status| status.not_ready.is_none() && status.leader.is_some()) {
                waiting.pop();
                continue;
            }
            let ended = self.nodes.iter_mut().any(|(node, _)| !runs(node));
            if ended || stop.load(Ordering::Relaxed) || deadline.remaining().is_zero() {
                let log = folder.join("node-1.log");
                let log = std::fs::read_to_string(log).unwrap_or_default();
                return Err(Failure::new(exit::BROKEN, "the nodes did not become ready")
                    .advise(format!("The log of node 1:\n{log}")));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }
}

impl Drop for DevCluster {
    fn drop(&mut self) {
        for (child, _) in &mut self.nodes {
            // For nodes that have ended by themselves only the wait has an effect.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn runs(node: &mut Child) -> bool {
    matches!(node.try_wait(), Ok(None))
}

fn folder(kept: Option<&Path>) -> Result<(PathBuf, Option<tempfile::TempDir>), Failure> {
    let cannot =
        |error: std::io::Error| Failure::usage(format!("--data-dir cannot be used: {error}"));
    if let Some(path) = kept {
        std::fs::create_dir_all(path).map_err(cannot)?;
        return Ok((path.to_owned(), None));
    }
    let folder = tempfile::Builder::new().prefix("keyward-bench-").tempdir().map_err(cannot)?;
    Ok((folder.path().to_owned(), Some(folder)))
}

fn on_a_disk(folder: &Path) -> Result<(), Failure> {
    let system = rustix::fs::statfs(folder);
    let system =
        system.map_err(|error| Failure::usage(format!("{}: {error}", folder.display())))?;
    if system.f_type == TMPFS {
        let what = format!("{} is in memory (tmpfs), where a sync costs nothing", folder.display());
        return Err(Failure::usage(what).advise("Name a folder on a disk with --data-dir."));
    }
    Ok(())
}

/// Finds `count` ports of the loopback interface that were free a moment ago.
fn free_ports(count: usize) -> Result<Vec<u16>, Failure> {
    let mut random = rand::rng();
    // Each stays bound until all are found.
    let mut bound: Vec<(u16, TcpListener)> = Vec::new();
    for _ in 0..10_000 {
        if bound.len() == count {
            return Ok(bound.into_iter().map(|(port, _)| port).collect());
        }
        let port = random.random_range(PORTS);
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            bound.push((port, listener));
        }
    }
    Err(Failure::usage(format!("there are no {count} free ports in {PORTS:?}")))
}

fn spawn(id: u64, members: &str, port: u16, folder: &Path) -> Result<Child, Failure> {
    let cannot = |error: std::io::Error| {
        Failure::new(exit::BROKEN, format!("cannot start node {id}: {error}"))
    };
    let log = File::create(folder.join(format!("node-{id}.log"))).map_err(cannot)?;
    // Nothing of a node that is to be run elsewhere, its certificates among it.
    let of_a_node = std::env::vars_os()
        .map(|(name, _)| name)
        .filter(|name| name.to_string_lossy().starts_with("KEYWARD_") && name != "KEYWARD_LOG");
    let mut command = Command::new(std::env::current_exe().map_err(cannot)?);
    for name in of_a_node {
        command.env_remove(name);
    }
    command
        .args(["serve", "--id", &id.to_string(), "--members", members])
        .args(["--client-listen", &format!("127.0.0.1:{port}")])
        .arg("--data-dir")
        .arg(folder.join(format!("node-{id}")))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(cannot)
}
