//! Three nodes of a service on the loopback interface, with the service's own default durability.
//!
//! Keyward's own nodes can be started here too, without the proxies of [`crate::cluster`]: services
//! that are compared must have the same surroundings. `commands` has each service's command,
//! `roles` queries a running node's role.
//!
//! Invariants: every process is ended through the handle that started it; if this program is
//! killed, the kernel kills its servers (`PR_SET_PDEATHSIG`, by `setpriv`); the data is in one
//! temporary folder on a real disk, removed at the end.

mod commands;
mod roles;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keyward::client::tls;
use tempfile::TempDir;

use super::{ports, until};
use crate::process::{Output, Process, Usage};

/// The number of nodes of each service.
pub const NODES: usize = 3;

/// The timeout for new nodes to elect a leader: a Java machine on two busy cores.
const BOOT: Duration = Duration::from_secs(60);

/// A service that can be started.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Keyward: the program, and further arguments of `keyward serve`.
    Keyward {
        /// The path of the program.
        program: PathBuf,
        /// Further arguments of `keyward serve`, such as `--profile fast`.
        arguments: Vec<String>,
    },
    /// etcd, as Debian's `etcd-server` has it.
    Etcd,
    /// `ZooKeeper`, as Debian's `zookeeper` has it.
    ZooKeeper,
    /// Redis, as Debian's `redis-server` has it: no append-only file, no replication.
    Redis,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Keyward { .. } => "Keyward",
            Self::Etcd => "etcd",
            Self::ZooKeeper => "ZooKeeper",
            Self::Redis => "Redis",
        })
    }
}

/// The role that a node reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// It leads.
    Leads,
    /// It serves, and another leads.
    Follows,
    /// It serves alone: the service has no leader.
    Alone,
}

/// The ports of one node.
#[derive(Clone, Copy, Debug)]
struct Ports {
    clients: u16,
    peers: u16,
    /// `ZooKeeper` elects on a port of its own.
    election: u16,
}

#[derive(Debug)]
struct Node {
    process: Option<Process>,
    runs: u32,
    ports: Ports,
}

/// Running nodes of one service. Dropping it kills them and removes their data.
#[derive(Debug)]
pub struct Servers {
    kind: Kind,
    nodes: Vec<Node>,
    http: reqwest::Client,
    /// Last, so that it is removed after the processes are gone.
    folder: TempDir,
}

impl Servers {
    /// Starts [`NODES`] nodes with their data in a new folder below `parent`, and waits until all
    /// of them serve.
    ///
    /// # Errors
    /// If the service is not installed, or `parent` is not on a disk.
    ///
    /// # Panics
    /// If the nodes do not serve in time; the message has the end of a log.
    pub async fn start(kind: Kind, parent: &Path) -> Result<Self, String> {
        kind.installed()?;
        on_a_disk(parent)?;
        let prefix = format!("peers-{}-", kind.to_string().to_lowercase());
        let folder = tempfile::Builder::new()
            .prefix(&prefix)
            .tempdir_in(parent)
            .map_err(|error| format!("no folder in {}: {error}", parent.display()))?;
        let nodes = ports::reserve(NODES * 3)
            .chunks_exact(3)
            .map(|ports| Node {
                process: None,
                runs: 0,
                ports: Ports { clients: ports[0], peers: ports[1], election: ports[2] },
            })
            .collect();
        let http = tls::plain()
            .timeout(Duration::from_secs(3))
            .build()
            .map_err(|error| format!("no HTTP client: {error}"))?;
        let mut servers = Self { kind, nodes, http, folder };
        for index in 0..NODES {
            servers.prepare(index).map_err(|error| format!("no data folder: {error}"))?;
            servers.spawn(index);
        }
        servers.wait_ready().await;
        Ok(servers)
    }

    /// The service that runs here.
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// The addresses of the nodes for clients, as `127.0.0.1:PORT`, by index.
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.ports.clients)).collect()
    }

    /// The endpoint of a node for clients, with the scheme that its client needs.
    pub fn endpoint(&self, index: usize) -> String {
        let address = format!("127.0.0.1:{}", self.nodes[index].ports.clients);
        match self.kind {
            Kind::Keyward { .. } | Kind::Etcd => format!("http://{address}"),
            Kind::ZooKeeper => address,
            Kind::Redis => format!("redis://{address}"),
        }
    }

    /// The endpoints of the nodes for clients, by index.
    pub fn endpoints(&self) -> Vec<String> {
        (0..self.nodes.len()).map(|index| self.endpoint(index)).collect()
    }

    /// Kills a node (`-9`) and waits until the process is gone. Its data stays.
    ///
    /// # Panics
    /// If it does not run.
    pub fn kill(&mut self, index: usize) {
        self.nodes[index].process.take().expect("the node runs").kill();
    }

    /// Starts a killed node again, on its ports and its data, and waits until all nodes serve.
    ///
    /// # Panics
    /// If it runs, or does not serve in time.
    pub async fn restart(&mut self, index: usize) {
        assert!(self.nodes[index].process.is_none(), "node {index} runs already");
        self.spawn(index);
        self.wait_ready().await;
    }

    /// The process of a node, unless it was killed.
    pub fn process(&mut self, index: usize) -> Option<&mut Process> {
        self.nodes[index].process.as_mut()
    }

    /// Forgets a node's process, killing it if it still runs.
    pub fn forget(&mut self, index: usize) {
        self.nodes[index].process = None;
    }

    /// Starts a node that does not run, on its ports and its data, and waits until it serves.
    ///
    /// # Errors
    /// If it does not in time, with its last error.
    pub async fn start_again(&mut self, index: usize, within: Duration) -> Result<(), String> {
        self.spawn(index);
        let watch = crate::wait::Stopwatch::start();
        loop {
            let Err(last) = self.role(index).await else { return Ok(()) };
            if watch.elapsed() > within {
                return Err(last);
            }
            tokio::time::sleep(super::POLL).await;
        }
    }

    /// The index of the leader; 0 if the service has no leader.
    ///
    /// # Panics
    /// If there is no leader within the time of a start.
    pub async fn leader(&self) -> usize {
        until(&format!("{} has a leader", self.kind), BOOT, async || {
            for index in self.running() {
                match self.role(index).await? {
                    Role::Leads | Role::Alone => return Ok(index),
                    Role::Follows => {}
                }
            }
            Err(String::from("none of the running nodes leads"))
        })
        .await
    }

    /// The role that a node reports.
    ///
    /// # Errors
    /// If it does not serve, with its answer.
    pub async fn role(&self, index: usize) -> Result<Role, String> {
        roles::ask(&self.kind, &self.http, &self.endpoint(index), index).await
    }

    /// The resource usage of a node so far.
    ///
    /// # Panics
    /// If it does not run.
    pub fn usage(&self, index: usize) -> Usage {
        let process = self.nodes[index].process.as_ref().expect("the node runs");
        process.usage().expect("the node runs")
    }

    /// The resource usage of all running nodes so far, by index.
    pub fn usages(&self) -> Vec<Usage> {
        self.running().into_iter().map(|index| self.usage(index)).collect()
    }

    /// The installed version.
    pub async fn version(&self) -> String {
        match self.kind {
            Kind::ZooKeeper => roles::zookeeper_version(&self.endpoint(0)).await,
            Kind::Keyward { .. } | Kind::Etcd | Kind::Redis => self.kind.program_version(),
        }
        .unwrap_or_else(|why| format!("unknown: {why}"))
    }

    /// The command that starts a node, as a person would type it with the data in `DIR`.
    pub fn command_line(&self, index: usize) -> String {
        let command = self.command(index);
        let program = Path::new(command.get_program()).file_name().unwrap_or_default();
        let words: Vec<_> = std::iter::once(program)
            .chain(command.get_args())
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        words.join(" ").replace(&*self.folder.path().to_string_lossy(), "DIR")
    }

    fn running(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|&index| self.nodes[index].process.is_some()).collect()
    }

    fn data_dir(&self, index: usize) -> PathBuf {
        self.folder.path().join(format!("node{index}"))
    }

    fn spawn(&mut self, index: usize) {
        let command = self.command(index);
        let folder = self.folder.path().to_owned();
        let node = &mut self.nodes[index];
        node.runs += 1;
        let output = Output::in_folder(&folder, &format!("node{index}-run{}", node.runs));
        node.process = Some(Process::spawn(&mut commands::dying_with_us(&command), output));
    }

    async fn wait_ready(&mut self) {
        for index in self.running() {
            let what = format!("node {index} of {} serves", self.kind);
            until(&what, BOOT, async || {
                let role = self.role(index).await;
                self.assert_runs(index);
                role
            })
            .await;
        }
        self.leader().await;
    }

    fn assert_runs(&mut self, index: usize) {
        let process = self.nodes[index].process.as_mut().expect("the node was started");
        if let Some(status) = process.ended() {
            let log = process.output().logged() + &process.output().printed();
            let end: Vec<&str> = log.lines().rev().take(20).collect();
            let end = end.into_iter().rev().collect::<Vec<_>>().join("\n");
            panic!("node {index} of {} ended with {status}:\n{end}", self.kind);
        }
    }
}

/// Refuses a file system in memory: a sync costs nothing there, and determines the results
/// elsewhere.
///
/// # Errors
/// If it is one, or cannot be examined.
pub fn on_a_disk(folder: &Path) -> Result<(), String> {
    const TMPFS: rustix::fs::FsWord = 0x0102_1994;
    let system = rustix::fs::statfs(folder)
        .map_err(|error| format!("{} cannot be used: {error}", folder.display()))?;
    if system.f_type == TMPFS {
        return Err(format!(
            "{} is in memory (tmpfs), where a sync costs nothing: name a folder on a disk",
            folder.display()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_in_memory_is_refused() {
        let memory = Path::new("/dev/shm");
        assert!(memory.exists(), "this test needs /dev/shm");
        assert!(on_a_disk(memory).is_err());
        assert!(on_a_disk(Path::new("/nowhere/at/all")).is_err());
    }
}
