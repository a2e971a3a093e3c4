//! The processes of the nodes: started together, watched, and restarted when they are killed.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::secured::Certificates;
use super::{DevArgs, node};
use crate::api::ClusterStatus;
use crate::cli::exit::{self, Failure, Outcome};
use crate::cli::logging::LogArgs;
use crate::cli::member::Listeners;
use crate::cli::output::{self, Table};
use crate::cli::signals::Signals;
use crate::client::Client;
use crate::clock::Deadline;
use crate::types::CallOptions;

/// The default first port: the default port of a single node.
const PORT_BASE: u16 = 7420;

/// The distance between the ports of one node and the next.
const PORT_STEP: u16 = 10;

/// The longest time for all nodes to stop; nobody depends on their data or their leader.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// The time until a killed node is restarted: long enough to look at the cluster without it.
const AWAY: Duration = Duration::from_secs(5);

/// The interval at which a node is polled until it is ready.
const POLL: Duration = Duration::from_millis(10);

/// The timeout of such a poll.
const ANSWER: Duration = Duration::from_millis(500);

/// The nodes of the cluster.
pub(super) struct Cluster {
    nodes: Vec<NodeProcess>,
    certificates: Option<Certificates>,
}

/// One node, with the arguments of its process.
struct NodeProcess {
    id: u64,
    clients: SocketAddr,
    peers: SocketAddr,
    members: String,
    folder: PathBuf,
    logging: LogArgs,
    certificates: Option<Certificates>,
    state: State,
}

/// The state of a node's process.
enum State {
    Runs(Child, Pid),
    /// It was killed, and is restarted at this time.
    Away(Deadline),
}

impl Cluster {
    /// Starts all nodes. Call it on the main thread: they end with the thread that started them.
    ///
    /// # Errors
    /// A port is taken, or a process cannot be started.
    pub(super) fn start(args: &DevArgs, logging: &LogArgs, folder: &Path) -> Result<Self, Failure> {
        let listeners = bind(args)?;
        let certificates = args.tls.then(|| Certificates::make(folder, args.nodes)).transpose()?;
        let mut addresses = Vec::new();
        for listener in &listeners {
            addresses.push(listener.addresses()?);
        }
        let members: BTreeMap<u64, String> =
            (1..).zip(addresses.iter().map(|(_, peers)| peers.to_string())).collect();
        let members: Vec<String> =
            members.iter().map(|(id, address)| format!("{id}={address}")).collect();
        let mut nodes = Vec::new();
        for ((id, listeners), (clients, peers)) in (1..).zip(listeners).zip(addresses) {
            let mut node = NodeProcess {
                id,
                clients,
                peers,
                members: members.join(","),
                folder: folder.join(format!("node-{id}")),
                logging: logging.clone(),
                certificates: certificates.clone(),
                state: State::Away(Deadline::after(Duration::ZERO)),
            };
            node.start(listeners)?;
            nodes.push(node);
        }
        Ok(Self { nodes, certificates })
    }

    /// The certificates, if the nodes speak TLS.
    pub(super) fn certificates(&self) -> Option<&Certificates> {
        self.certificates.as_ref()
    }

    /// The client addresses of all nodes, separated by commas.
    pub(super) fn endpoints(&self) -> String {
        self.nodes.iter().map(NodeProcess::endpoint).collect::<Vec<_>>().join(",")
    }

    /// Resolves with the status of all nodes once every one of them is ready.
    ///
    /// # Errors
    /// No client can be made.
    pub(super) fn ready(
        &self,
    ) -> Result<impl Future<Output = Vec<ClusterStatus>> + use<>, Failure> {
        let endpoints: Vec<String> = self.nodes.iter().map(NodeProcess::endpoint).collect();
        let tls = self.certificates().map(Certificates::client).transpose()?.unwrap_or_default();
        let client = Client::builder().endpoints(endpoints.clone()).tls(tls).build()?;
        Ok(async move {
            let mut statuses = Vec::new();
            for endpoint in endpoints {
                statuses.push(ready_at(&client, &endpoint).await);
            }
            statuses
        })
    }

    /// Resolves with the exit code of a node that has ended by itself; it has reported the reason
    /// on standard error. Until then, nodes that are killed are restarted. May be cancelled.
    pub(super) async fn ended(&mut self) -> Outcome {
        loop {
            let all = self.nodes.iter_mut().map(|node| Box::pin(node.changed()));
            let ((), index, _) = futures::future::select_all(all).await;
            if let Some(code) = self.nodes[index].next()? {
                return Ok(code);
            }
        }
    }

    /// A table of the nodes.
    pub(super) fn describe(&self, statuses: &[ClusterStatus]) -> String {
        let mut table = Table::new(&["NODE", "CLIENTS", "ROLE", "PID", "DATA"]);
        let leader = leader(statuses);
        for node in &self.nodes {
            let role = if leader == Some(node.id) { "leader" } else { "follower" };
            table.row(&[
                node.id.to_string(),
                node.endpoint(),
                role.to_owned(),
                output::cell(node.pid()),
                node.folder.display().to_string(),
            ]);
        }
        table.render()
    }

    /// Suggestions for the person at the terminal.
    pub(super) fn invite(&self, statuses: &[ClusterStatus], kept: bool) -> String {
        let address = self.nodes[0].endpoint();
        let data = if kept { "The data is kept." } else { "The data is removed at the end." };
        let leader = leader(statuses);
        let leading = self.nodes.iter().find(|node| Some(node.id) == leader);
        let lose = match leading.and_then(NodeProcess::pid) {
            Some(pid) if self.nodes.len() > 1 => format!(
                "\nLose the leader; the lock stays, and the node is back after {} seconds:\n  \
                 kill -9 {pid}\n  keyward check jobs/nightly\n  keyward cluster status\n",
                AWAY.as_secs()
            ),
            Some(_) | None => String::new(),
        };
        let ca = self.certificates().map(|made| made.ca().display().to_string());
        let curl_ca = ca.as_ref().map(|ca| format!("--cacert {ca} ")).unwrap_or_default();
        let export_ca = ca.map(|ca| format!("export KEYWARD_CACERT={ca}\n  ")).unwrap_or_default();
        format!(
            "\nTry it, on any node:\n  \
             curl {curl_ca}{address}/v1/lock -H 'content-type: application/json' \\\n    \
             -d '{{\"signature\":\"jobs/nightly\",\"signee\":\"me\"}}'\n  \
             {export_ca}export KEYWARD_ENDPOINTS={}\n  \
             keyward check jobs/nightly\n{lose}\nCtrl-C stops all nodes. {data}\n",
            self.endpoints()
        )
    }

    /// Ends all nodes; a second signal ends them at once.
    pub(super) async fn stop(mut self, gracefully: bool, signals: &mut Signals) {
        if gracefully {
            for pid in self.nodes.iter().filter_map(NodeProcess::pid) {
                // It is a child that nobody has waited for: it exists, or has just ended.
                let _ = kill_process(pid, Signal::TERM);
            }
            let all = futures::future::join_all(self.nodes.iter_mut().map(NodeProcess::stopped));
            tokio::select! {
                // Slower nodes are killed.
                _ = tokio::time::timeout(STOP_WITHIN * 2, all) => {}
                _ = signals.next() => {}
            }
        }
        for node in &mut self.nodes {
            if let State::Runs(child, _) = &mut node.state
                && let Err(error) = child.kill().await
            {
                tracing::debug!(%error, "node {} has ended already", node.id);
            }
        }
    }
}

/// The leader according to the node in the newest term.
fn leader(statuses: &[ClusterStatus]) -> Option<u64> {
    statuses.iter().max_by_key(|status| (status.term, status.leader.is_some()))?.leader
}

async fn ready_at(client: &Client, endpoint: &str) -> ClusterStatus {
    loop {
        let call = CallOptions { timeout: Some(ANSWER), ..CallOptions::default() };
        match client.cluster_at(endpoint, call).await {
            Ok(status) if status.not_ready.is_none() && status.leader.is_some() => return status,
            Ok(_) | Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

impl NodeProcess {
    fn endpoint(&self) -> String {
        let scheme = if self.certificates.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.clients)
    }

    /// Its process, if it runs.
    fn pid(&self) -> Option<Pid> {
        match &self.state {
            State::Runs(_, pid) => Some(*pid),
            State::Away(_) => None,
        }
    }

    /// Starts the process with listeners that are bound already. They are closed in this process:
    /// the port of a dead node must not be open.
    fn start(&mut self, listeners: Listeners) -> Result<(), Failure> {
        let id = self.id;
        let cannot = |error: std::io::Error| {
            Failure::new(exit::BROKEN, format!("cannot start node {id}: {error}"))
        };
        let clients: OwnedFd = listeners.clients.into_std().map_err(cannot)?.into();
        let peers: OwnedFd = listeners.peers.into_std().map_err(cannot)?.into();
        let mut command = Command::new(std::env::current_exe().map_err(cannot)?);
        command
            .arg(node::COMMAND)
            .args(["--id", &id.to_string(), "--members", &self.members])
            .args(["--address", &self.endpoint(), "--parent", &std::process::id().to_string()])
            .arg("--data-dir")
            .arg(&self.folder)
            .args(self.certificates.iter().flat_map(|made| {
                [OsStr::new("--certificates").to_owned(), made.folder().as_os_str().to_owned()]
            }))
            .args(self.logging.arguments())
            .stdin(Stdio::from(clients))
            .stdout(Stdio::from(peers))
            // Ctrl-C is for this process and its command, which may need the cluster a moment longer.
            .process_group(0)
            .kill_on_drop(true);
        let child = command.spawn().map_err(cannot)?;
        let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        self.state = State::Runs(child, pid.expect("a child that was just started has an id"));
        Ok(())
    }

    /// Resolves when its process has ended, or is to be restarted. May be cancelled.
    async fn changed(&mut self) {
        match &mut self.state {
            // Its status is read again, without a wait.
            State::Runs(child, _) => drop(child.wait().await),
            State::Away(until) => tokio::time::sleep(until.remaining()).await,
        }
    }

    /// Resolves when its process has ended, if it runs.
    async fn stopped(&mut self) {
        if matches!(self.state, State::Runs(..)) {
            self.changed().await;
        }
    }

    /// Handles a change: schedules the restart of a killed process, or starts one that is due.
    /// Returns an exit code if the process ended by itself.
    fn next(&mut self) -> Result<Option<u8>, Failure> {
        match &mut self.state {
            State::Runs(child, pid) => {
                let pid = *pid;
                let status = child.try_wait().map_err(|error| {
                    Failure::new(exit::BROKEN, format!("cannot wait for node {}: {error}", self.id))
                })?;
                let Some(status) = status else { return Ok(None) };
                Ok(self.after_end(pid, status))
            }
            State::Away(_) => {
                self.start_again();
                Ok(None)
            }
        }
    }

    fn after_end(&mut self, pid: Pid, status: ExitStatus) -> Option<u8> {
        let how = match (status.signal(), status.code()) {
            (Some(signal), _) => format!("was killed by signal {signal}"),
            (None, Some(0)) => "was stopped".to_owned(),
            (None, code) => {
                let code = code.and_then(|code| u8::try_from(code).ok());
                return Some(code.unwrap_or(exit::BROKEN));
            }
        };
        output::say(&format!(
            "node {} (process {pid}) {how}; it is started again after {} seconds",
            self.id,
            AWAY.as_secs()
        ));
        self.state = State::Away(Deadline::after(AWAY));
        None
    }

    /// Binds its ports again and starts it. A failure may be temporary, so it is retried.
    fn start_again(&mut self) {
        let started = Listeners::bind_for(self.clients, self.peers, ["--port-base"; 2])
            .and_then(|listeners| self.start(listeners));
        match started {
            Ok(()) => {
                let pid = output::cell(self.pid());
                output::say(&format!("node {} is started again as process {pid}", self.id));
            }
            Err(failure) => {
                output::say(&format!("node {} is not started yet: {failure}", self.id));
                self.state = State::Away(Deadline::after(AWAY));
            }
        }
    }
}

/// Binds the ports of all nodes: those of the option, or the default ones, or free ones.
fn bind(args: &DevArgs) -> Result<Vec<Listeners>, Failure> {
    let base = args.port_base.unwrap_or(PORT_BASE);
    match bind_from(base, args.nodes) {
        Err(_) if args.port_base.is_none() => {
            output::say(&format!("a port from {base} on is taken; using free ones instead"));
            bind_from(0, args.nodes)
        }
        bound => bound,
    }
}

/// Binds two ports for each node, from `base` on, or any free ones if that is 0.
fn bind_from(base: u16, nodes: u16) -> Result<Vec<Listeners>, Failure> {
    let mut listeners = Vec::new();
    for node in 0..nodes {
        let address = |offset: u16| {
            let port = if base == 0 { 0 } else { base + PORT_STEP * node + offset };
            SocketAddr::from(([127, 0, 0, 1], port))
        };
        let options = ["--port-base"; 2];
        listeners.push(Listeners::bind_for(address(0), address(1), options)?);
    }
    Ok(listeners)
}
