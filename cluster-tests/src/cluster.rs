//! A cluster: nodes, the links between them, and their data folders.
//!
//! Each node listens on ports that the kernel chose; its peers and the clients reach it through
//! [`Link`]s, whose addresses stay the same across restarts. `--members` of each node names its own
//! links, so every directed link can be cut alone.
//!
//! Everything is in one temporary folder, removed at the end; it is kept, and its path and the ends
//! of the logs are printed, if the test fails.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use keyward::api::{ClusterStatus, routes};
use keyward::client::Client;
use keyward::client::tls::{self, Tls};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::binary;
use crate::certificates::Certificates;
use crate::process::{Output, Process, Usage};
use crate::proxy::{Condition, Fault, Link};
use crate::wait::{Stopwatch, eventually};

/// A node's number, as in `--id`.
pub type NodeId = u64;

/// The timeout for three new nodes to elect a leader. Far longer than they need: two cores run a
/// debug build beside another test.
pub const BOOT: Duration = Duration::from_secs(45);

/// The timeout for a cluster with a majority to elect a leader again.
pub const ELECTION: Duration = Duration::from_secs(15);

/// The timeout of a status request.
const LOOK: Duration = Duration::from_secs(3);

/// The timeout of a status request that is sent to several nodes at once.
const GLANCE: Duration = Duration::from_millis(400);

/// The configuration of a cluster.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// The number of nodes.
    pub nodes: u64,
    /// Further arguments of `keyward serve`, for each node.
    pub arguments: Vec<String>,
    /// The program; `None` is the one that [`binary::keyward`] finds.
    pub program: Option<PathBuf>,
    /// Whether both ports speak TLS, and clients need a certificate.
    pub tls: bool,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self { nodes: 3, arguments: Vec::new(), program: None, tls: false }
    }
}

impl ClusterOptions {
    /// Adds further arguments of `keyward serve`.
    #[must_use]
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }
}

#[derive(Debug)]
struct Node {
    process: Option<Process>,
    /// The number of its starts; names its log files.
    runs: u32,
    /// The link for its clients.
    clients: Link,
    own: Own,
}

/// The settings of one node that differ from the cluster's.
#[derive(Clone, Debug, Default)]
pub struct Own {
    /// The program, instead of the cluster's.
    pub program: Option<PathBuf>,
    /// Further arguments of `keyward serve`, behind the cluster's.
    pub arguments: Vec<String>,
    /// The data folder, instead of one below the cluster's folder.
    pub data_dir: Option<PathBuf>,
    /// Variables of its environment, which has hardly any others.
    pub environment: Vec<(&'static str, OsString)>,
}

/// A running cluster. Dropping it kills every node.
#[derive(Debug)]
pub struct Cluster {
    nodes: BTreeMap<NodeId, Node>,
    links: BTreeMap<(NodeId, NodeId), Link>,
    options: ClusterOptions,
    http: reqwest::Client,
    certificates: Option<Arc<Certificates>>,
    access_token: Option<String>,
    /// Last, so that it is removed after the processes are gone.
    folder: Option<TempDir>,
}

impl Cluster {
    /// Starts a cluster and waits until it has a leader and every node is ready.
    ///
    /// # Panics
    /// If it is not ready in time.
    pub async fn start(options: ClusterOptions) -> Self {
        let mut cluster = Self::prepare(options).await;
        for id in cluster.ids() {
            cluster.spawn(id);
        }
        for id in cluster.ids() {
            cluster.wait_listening(id).await;
        }
        cluster.wait_ready(BOOT).await;
        cluster
    }

    /// Creates folders and links, and starts no node.
    ///
    /// # Panics
    /// If there is no room or no port.
    pub async fn prepare(options: ClusterOptions) -> Self {
        let folder = tempfile::Builder::new().prefix("keyward-").tempdir().expect("a folder");
        let mut nodes = BTreeMap::new();
        let mut links = BTreeMap::new();
        for id in 1..=options.nodes {
            let clients = Link::start().await.expect("a free port");
            nodes.insert(id, Node { process: None, runs: 0, clients, own: Own::default() });
            for to in 1..=options.nodes {
                links.insert((id, to), Link::start().await.expect("a free port"));
            }
        }
        let certificates =
            options.tls.then(|| Arc::new(Certificates::make(folder.path(), options.nodes)));
        let tls = certificates.as_ref().map(|of| of.client()).unwrap_or_default();
        let http = http_client(&tls, None);
        let access_token = None;
        Self { nodes, links, options, http, certificates, access_token, folder: Some(folder) }
    }

    /// The ids of all nodes.
    pub fn ids(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    /// The ids of all nodes but one.
    pub fn others(&self, id: NodeId) -> Vec<NodeId> {
        self.ids().into_iter().filter(|&other| other != id).collect()
    }

    /// The folder of everything.
    ///
    /// # Panics
    /// Never: only drop takes it.
    pub fn folder(&self) -> &Path {
        self.folder.as_ref().expect("the folder lives as long as the cluster").path()
    }

    /// The settings of a node of its own; they take effect at its next start.
    pub fn own(&mut self, id: NodeId) -> &mut Own {
        &mut self.node_mut(id).own
    }

    /// A node's data folder.
    pub fn data_dir(&self, id: NodeId) -> PathBuf {
        let own = self.nodes[&id].own.data_dir.clone();
        own.unwrap_or_else(|| self.folder().join(format!("node{id}")))
    }

    /// The command that starts a node, on ports that the kernel chooses.
    pub fn serve_command(&self, id: NodeId) -> Command {
        let members: Vec<String> = self
            .ids()
            .into_iter()
            .map(|to| format!("{to}={}", self.links[&(id, to)].address()))
            .collect();
        let own = &self.nodes[&id].own;
        let program = own.program.as_ref().or(self.options.program.as_ref());
        let mut command = Command::new(program.map_or_else(|| binary::keyward(), PathBuf::as_path));
        command
            .current_dir(self.folder())
            .env_clear()
            .env("RUST_BACKTRACE", "1")
            .envs(own.environment.iter().map(|(name, value)| (name, value)))
            .arg("serve")
            .args(["--id", &id.to_string()])
            .arg("--data-dir")
            .arg(self.data_dir(id))
            .args(["--client-listen", "127.0.0.1:0"])
            .args(["--peer-listen", "127.0.0.1:0"])
            .args(["--members", &members.join(",")])
            .args(["--advertise-client", &self.endpoint(id)])
            .args(self.certificates.iter().flat_map(|of| of.arguments(id)))
            .args(&self.options.arguments)
            .args(&own.arguments);
        command
    }

    /// Starts a node without waiting for it.
    ///
    /// # Panics
    /// If it runs already or cannot be started.
    pub fn spawn(&mut self, id: NodeId) {
        let command = self.serve_command(id);
        self.spawn_with(id, command);
    }

    /// Starts a node by a command of the test's own, such as one under `strace`.
    ///
    /// # Panics
    /// If it runs already or cannot be started.
    pub fn spawn_with(&mut self, id: NodeId, mut command: Command) {
        let folder = self.folder().to_owned();
        let node = self.node_mut(id);
        assert!(node.process.is_none(), "node {id} runs already");
        node.runs += 1;
        let output = Output::in_folder(&folder, &format!("node{id}-run{}", node.runs));
        node.process = Some(Process::spawn(&mut command, output));
    }

    /// Waits until a node has announced its addresses, and connects its links to them.
    ///
    /// # Panics
    /// If it has not in time.
    pub async fn wait_listening(&mut self, id: NodeId) {
        let process = self.node_mut(id).process.as_mut().expect("the node runs");
        let (clients, peers) = eventually(&format!("node {id} listens"), BOOT, || {
            let found = announced(&process.output().printed());
            let ended = process.ended();
            assert!(
                found.is_some() || ended.is_none(),
                "node {id} ended with {ended:?}: {}",
                process.output().logged()
            );
            async move { found.ok_or("it has not announced its addresses") }
        })
        .await;
        self.lead_to(id, Some((clients, peers)));
    }

    /// Starts a node and waits until it listens.
    ///
    /// # Panics
    /// If it has not in time.
    pub async fn start_node(&mut self, id: NodeId) {
        self.spawn(id);
        self.wait_listening(id).await;
    }

    /// Starts the nodes that do not run, and waits until all are ready.
    ///
    /// # Panics
    /// If they are not in time.
    pub async fn start_all(&mut self) {
        let down: Vec<NodeId> =
            self.ids().into_iter().filter(|id| self.nodes[id].process.is_none()).collect();
        for &id in &down {
            self.spawn(id);
        }
        for &id in &down {
            self.wait_listening(id).await;
        }
        self.wait_ready(BOOT).await;
    }

    /// `kill -9`, and waits until the process is gone.
    ///
    /// # Panics
    /// If it does not run.
    pub fn kill(&mut self, id: NodeId) {
        self.take_process(id).kill();
    }

    /// `kill -9` of all nodes at once: each is killed before any is waited for.
    ///
    /// # Panics
    /// If one does not run.
    pub fn kill_all(&mut self) {
        for id in self.ids() {
            self.signal(id, Signal::KILL);
        }
        for id in self.ids() {
            self.kill(id);
        }
    }

    /// Sends a signal to a node: `STOP` and `CONT` to pause and go on, `TERM` to end it gracefully.
    ///
    /// # Panics
    /// If it does not run.
    pub fn signal(&mut self, id: NodeId, signal: Signal) {
        self.node_mut(id).process.as_mut().expect("the node runs").signal(signal);
    }

    /// Waits until a node has ended by itself; returns its status and its log.
    ///
    /// # Panics
    /// If it does not end in time.
    pub async fn wait_end(&mut self, id: NodeId, within: Duration) -> (ExitStatus, String) {
        let mut process = self.take_process(id);
        let status = process.wait(within).await;
        (status, process.output().logged())
    }

    /// Waits until a node has ended, kills it after the timeout, and forgets it; returns whether it
    /// ended by itself.
    ///
    /// # Panics
    /// If it was not started.
    pub async fn end_node(&mut self, id: NodeId, within: Duration) -> bool {
        let mut process = self.take_process(id);
        process.end(within).await
    }

    /// Whether a node was started and not ended by this program since. It may have ended by itself.
    pub fn runs(&self, id: NodeId) -> bool {
        self.nodes[&id].process.is_some()
    }

    /// The status and the log of a node that ended by itself, if it did. The node is then
    /// forgotten.
    pub fn take_ended(&mut self, id: NodeId) -> Option<(ExitStatus, String)> {
        let status = self.node_mut(id).process.as_mut()?.ended()?;
        let process = self.take_process(id);
        Some((status, process.output().logged()))
    }

    /// Waits until a node that was started announces its addresses, and connects its links to them.
    ///
    /// # Errors
    /// If it ends instead, with its status and its log; the node is forgotten then. If it does
    /// neither in time.
    ///
    /// # Panics
    /// If it was not started.
    pub async fn try_listening(&mut self, id: NodeId, within: Duration) -> Result<(), String> {
        let watch = Stopwatch::start();
        loop {
            let process = self.node_mut(id).process.as_mut().expect("the node was started");
            if let Some((clients, peers)) = announced(&process.output().printed()) {
                self.lead_to(id, Some((clients, peers)));
                return Ok(());
            }
            if let Some((status, log)) = self.take_ended(id) {
                return Err(format!("node {id} ended with {status}: {}", last_lines(&log)));
            }
            if watch.elapsed() > within {
                return Err(format!("node {id} does not listen within {within:?}"));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The node that claims to lead, in the highest term; `None` if none does that answers at once.
    pub async fn believed_leader(&self) -> Option<NodeId> {
        let mut asked = JoinSet::new();
        for id in self.ids().into_iter().filter(|&id| self.runs(id)) {
            let url = format!("{}{}", self.endpoint(id), routes::CLUSTER);
            let request = self.http.get(url).timeout(GLANCE);
            asked.spawn(async move {
                let status: ClusterStatus = request.send().await.ok()?.json().await.ok()?;
                (status.leader == Some(id)).then_some((status.term, id))
            });
        }
        let leaders = asked.join_all().await.into_iter().flatten();
        leaders.max().map(|(_, id)| id)
    }

    /// Forgets a node that has ended; from now on its links lead nowhere.
    fn take_process(&mut self, id: NodeId) -> Process {
        self.lead_to(id, None);
        self.node_mut(id).process.take().expect("the node runs")
    }

    /// Sets the targets of the links to a node: its address for clients, and that for peers.
    fn lead_to(&self, id: NodeId, addresses: Option<(SocketAddr, SocketAddr)>) {
        self.nodes[&id].clients.lead_to(addresses.map(|(clients, _)| clients));
        for from in self.ids() {
            self.links[&(from, id)].lead_to(addresses.map(|(_, peers)| peers));
        }
    }

    /// Removes a node's data folder. The node must not run.
    ///
    /// # Panics
    /// If it runs, or the folder cannot be removed.
    pub fn wipe(&mut self, id: NodeId) {
        assert!(self.nodes[&id].process.is_none(), "node {id} runs");
        fs::remove_dir_all(self.data_dir(id)).expect("the data folder can be removed");
    }

    /// The endpoint of a node for clients, which stays the same across restarts.
    pub fn endpoint(&self, id: NodeId) -> String {
        format!("{}://{}", self.scheme(), self.nodes[&id].clients.address())
    }

    /// The address at which a node listens for clients in this run, bypassing the link: for
    /// measuring.
    ///
    /// # Panics
    /// If it does not listen.
    pub fn direct_endpoint(&self, id: NodeId) -> String {
        let (clients, _) = announced(&self.process(id).output().printed()).expect("it listens");
        format!("{}://{clients}", self.scheme())
    }

    fn scheme(&self) -> &'static str {
        if self.certificates.is_some() { "https" } else { "http" }
    }

    /// The certificates of a cluster with TLS.
    ///
    /// # Panics
    /// If it has none.
    pub fn certificates(&self) -> Arc<Certificates> {
        Arc::clone(self.certificates.as_ref().expect("the cluster has TLS"))
    }

    /// The TLS of its clients.
    pub fn tls(&self) -> Tls {
        self.certificates.as_ref().map(|of| of.client()).unwrap_or_default()
    }

    /// The endpoints of all nodes for clients.
    pub fn endpoints(&self) -> Vec<String> {
        self.ids().into_iter().map(|id| self.endpoint(id)).collect()
    }

    /// A client of one node alone.
    ///
    /// # Panics
    /// If there is no such node.
    pub fn client(&self, id: NodeId) -> Client {
        self.client_of(vec![self.endpoint(id)])
    }

    /// A client of all nodes.
    ///
    /// # Panics
    /// Never: the endpoints are well formed.
    pub fn clients(&self) -> Client {
        self.client_of(self.endpoints())
    }

    fn client_of(&self, endpoints: Vec<String>) -> Client {
        let client = Client::builder().endpoints(endpoints).tls(self.tls());
        let client = match &self.access_token {
            Some(token) => client.access_token(token),
            None => client,
        };
        client.build().expect("the endpoints are well formed")
    }

    /// Sends each request of this cluster's own, and of its clients, with this access token from now
    /// on.
    pub fn use_access_token(&mut self, token: &str) {
        self.http = http_client(&self.tls(), Some(token));
        self.access_token = Some(token.to_owned());
    }

    /// The access token of this cluster's own requests.
    pub fn access_token(&self) -> Option<&str> {
        self.access_token.as_deref()
    }

    /// The HTTP client that tests send their own requests with.
    pub fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// The link between two nodes, in one direction.
    pub fn link(&self, from: NodeId, to: NodeId) -> &Link {
        &self.links[&(from, to)]
    }

    /// The link from the clients to a node.
    pub fn client_link(&self, id: NodeId) -> &Link {
        &self.nodes[&id].clients
    }

    /// Cuts a node off from its peers, both ways. Its clients still reach it.
    pub fn isolate(&self, id: NodeId, fault: Fault) {
        for other in self.others(id) {
            self.link(id, other).fault(fault);
            self.link(other, id).fault(fault);
        }
    }

    /// Removes every fault and delay from every link.
    pub fn heal(&self) {
        for link in self.links.values().chain(self.nodes.values().map(|node| &node.clients)) {
            link.set(Condition::default());
        }
    }

    /// The status that a node reports.
    ///
    /// # Errors
    /// If it does not answer, with the reason.
    pub async fn status(&self, id: NodeId) -> Result<ClusterStatus, String> {
        let url = format!("{}{}", self.endpoint(id), routes::CLUSTER);
        let answer = self.http.get(url).timeout(LOOK).send().await;
        let answer = answer.map_err(|error| format!("{error:?}"))?;
        answer.json().await.map_err(|error| format!("{error:?}"))
    }

    /// Checks that a node reports to be ready.
    ///
    /// # Errors
    /// If it is not, with its answer.
    pub async fn readiness(&self, id: NodeId) -> Result<(), String> {
        let url = format!("{}{}", self.endpoint(id), routes::READYZ);
        let answer = self.http.get(url).timeout(LOOK).send().await;
        match answer {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => {
                Err(format!("{}: {}", answer.status(), answer.text().await.unwrap_or_default()))
            }
            Err(error) => Err(format!("{error:?}")),
        }
    }

    /// Waits until every running node is ready.
    ///
    /// # Panics
    /// If one is not in time.
    pub async fn wait_ready(&self, within: Duration) {
        for id in self.ids() {
            if self.nodes[&id].process.is_some() {
                eventually(&format!("node {id} is ready"), within, || self.readiness(id)).await;
            }
        }
    }

    /// Waits until the given nodes agree on a leader among them.
    ///
    /// # Panics
    /// If they do not in time.
    pub async fn leader_among(&self, ids: &[NodeId]) -> NodeId {
        eventually("a leader that all agree on", ELECTION, || self.agreed_leader(ids)).await
    }

    /// Waits until all nodes agree on a leader.
    ///
    /// # Panics
    /// If they do not in time.
    pub async fn leader(&self) -> NodeId {
        self.leader_among(&self.ids()).await
    }

    async fn agreed_leader(&self, ids: &[NodeId]) -> Result<NodeId, String> {
        let mut agreed = None;
        for &id in ids {
            let status = self.status(id).await.map_err(|error| format!("node {id}: {error}"))?;
            let said = (status.term, status.leader);
            match agreed {
                Some(before) if before != said => {
                    return Err(format!("node {id} says {said:?}, another {before:?}"));
                }
                _ => agreed = Some(said),
            }
        }
        match agreed {
            Some((_, Some(leader))) if ids.contains(&leader) => Ok(leader),
            other => Err(format!("all say {other:?}")),
        }
    }

    /// Waits until a node has applied at least what another had applied at the time of the call.
    ///
    /// # Panics
    /// If it has not in time.
    pub async fn wait_caught_up(&self, id: NodeId, with: NodeId, within: Duration) {
        let goal = self.status(with).await.expect("the node to catch up with answers");
        let goal = goal.applied_index;
        eventually(&format!("node {id} has caught up"), within, || async {
            let now = self.status(id).await?.applied_index;
            if now >= goal { Ok(()) } else { Err(format!("it is at {now:?}, not at {goal:?}")) }
        })
        .await;
    }

    /// The resource usage of a node so far.
    ///
    /// # Panics
    /// If it does not run.
    pub fn usage(&self, id: NodeId) -> Usage {
        self.process(id).usage().expect("the node runs")
    }

    /// The number of a node's process.
    ///
    /// # Panics
    /// If it does not run.
    pub fn process_id(&self, id: NodeId) -> u32 {
        self.process(id).id()
    }

    /// The log of a node in this run.
    ///
    /// # Panics
    /// If it does not run.
    pub fn logged(&self, id: NodeId) -> String {
        self.process(id).output().logged()
    }

    fn process(&self, id: NodeId) -> &Process {
        self.nodes[&id].process.as_ref().expect("the node runs")
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.nodes.get_mut(&id).expect("there is such a node")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in self.nodes.values_mut() {
            node.process = None;
        }
        if std::thread::panicking()
            && let Some(folder) = self.folder.take()
        {
            let path = folder.keep();
            println!("the cluster's folder is kept: {}", path.display());
            print_log_ends(&path);
        }
    }
}

/// A client of the given addresses.
///
/// # Panics
/// If an address is malformed.
pub fn client(endpoints: &[String]) -> Client {
    client_with(endpoints, Tls::default())
}

/// As [`client`], with these certificates.
///
/// # Panics
/// If an address or a certificate is malformed.
pub fn client_with(endpoints: &[String], tls: Tls) -> Client {
    let client = Client::builder().endpoints(endpoints).tls(tls).build();
    client.expect("the endpoints are well formed")
}

/// The client of the tests' own requests.
fn http_client(tls: &Tls, access_token: Option<&str>) -> reqwest::Client {
    let mut headers = reqwest::header::HeaderMap::new();
    if let Some(token) = access_token {
        let value = format!("Bearer {token}").parse().expect("a token is a header's value");
        headers.insert(reqwest::header::AUTHORIZATION, value);
    }
    // A timeout of its own: the tests time answers, and must never wait for ever themselves.
    tls::http(tls.config().expect("the certificates were just made"))
        .timeout(Duration::from_secs(15))
        .default_headers(headers)
        .build()
        .expect("a client needs nothing more")
}

/// The addresses in the line that a node prints when it listens: for clients, then for peers.
fn announced(printed: &str) -> Option<(SocketAddr, SocketAddr)> {
    let line = printed.lines().find(|line| line.contains("clients on http"))?;
    let (_, rest) = line.split_once("clients on http")?.1.split_once("://")?;
    let (clients, peers) = rest.split_once(", peers on ")?;
    Some((clients.trim().parse().ok()?, peers.trim().parse().ok()?))
}

/// The end of a log, for a message.
fn last_lines(log: &str) -> String {
    const LINES: usize = 12;
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

/// Prints the end of each log, so that a failure in CI can be read from its output alone.
fn print_log_ends(folder: &Path) {
    const LINES: usize = 25;
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.extension().is_some_and(|extension| extension == "log") {
            let text = String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            println!("--- {}", path.display());
            for line in &lines[lines.len().saturating_sub(LINES)..] {
                println!("{line}");
            }
        }
    }
}
