//! `keyward dev`: a cluster in one process, for a laptop or a test.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use rustix::process::{Pid, Signal, kill_process};

use crate::cli::cluster;
use crate::cli::exit::{self, Failure, Outcome};
use crate::cli::log_writer;
use crate::cli::logging::{self, LogArgs};
use crate::cli::member::{self, Listeners, Plan, Running};
use crate::cli::output::{self, Table};
use crate::cli::run::{Ending, cannot_execute};
use crate::cli::signals::Signals;
use crate::storage::io_may_pass;

/// The first port when none is named: that of a node alone.
const PORT_BASE: u16 = 7420;

/// Between the ports of one node and the next.
const PORT_STEP: u16 = 10;

/// The highest first port that leaves two ports for each of five nodes.
const MAX_PORT_BASE: i64 = 65_535 - 41;

/// How long the nodes may take to stop together; nobody depends on their data or their leader.
const STOP_WITHIN: Duration = Duration::from_secs(5);

const HELP: &str = "\
Examples:
  keyward dev                              three nodes until Ctrl-C
  keyward dev -- cargo test                three nodes while the tests run
  keyward dev --data-dir ./data            keep the locks for the next time
  keyward dev -- sh -c 'keyward lock a --signee me && keyward check a'

Exit codes:
  0        stopped by Ctrl-C, SIGTERM or SIGHUP
  2        the command line is wrong, or the folder is damaged or of other nodes
  3        cannot start now: a port is taken, the folder is in use, or the disk is full
  70       a node stopped itself: the reason is printed
  126 127  the command cannot be executed, is not found
  128+n    the command was ended by signal n
  other    the command's own exit code

Environment set for the command:
  KEYWARD_ENDPOINTS  the client addresses of all nodes, separated by commas";

/// Run a whole cluster in this process, for a laptop or a test
///
/// Real nodes with real listeners on 127.0.0.1 and real files: only the three machines are missing.
/// The data is in a temporary folder that is removed at the end, unless --data-dir names one. With
/// a command, the cluster lives as long as the command and the command's exit code is returned.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct DevArgs {
    /// How many nodes: 1, 3 or 5
    #[arg(long, default_value_t = 3, value_parser = parse_nodes)]
    nodes: u16,
    /// Keep the data here, one folder per node [default: a temporary folder, removed at the end]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The first port: node 1 listens for clients here and for peers on the next, node 2 on the two
    /// that are 10 higher, and so on. Free ports are used if one is taken and this was left out
    /// [default: 7420]
    #[arg(long, value_name = "PORT")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=MAX_PORT_BASE))]
    port_base: Option<u16>,
    /// A command to run against the cluster
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

fn parse_nodes(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(nodes @ (1 | 3 | 5)) => Ok(nodes),
        _ => Err("a cluster here has 1, 3 or 5 nodes".to_owned()),
    }
}

/// Runs the cluster until a signal, or until the command ends.
pub(crate) fn run(args: &DevArgs, logging: &LogArgs) -> Outcome {
    // Three nodes that start and stop together complain of each other; that is nobody's concern.
    log_writer::start();
    logging::start(logging, "error")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(exit::BROKEN, format!("cannot start: {error}")))?;
    let folder = Folder::open(args.data_dir.as_deref())?;
    member::end_on_panic();
    let outcome = runtime.block_on(dev(args, folder.path()));
    runtime.shutdown_background();
    log_writer::flush();
    folder.close();
    outcome
}

async fn dev(args: &DevArgs, folder: &Path) -> Outcome {
    let mut signals = Signals::to_stop()?;
    let mut cluster = Cluster::start(args, folder).await?;
    let ready = cluster.ready();
    tokio::select! {
        () = ready => {}
        failure = cluster.broken() => {
            cluster.stop(&mut signals).await;
            return Err(failure);
        }
        _ = signals.next() => {
            cluster.stop(&mut signals).await;
            return Ok(exit::OK);
        }
    }
    let outcome = if args.command.is_empty() {
        output::print(&cluster.describe());
        output::print(&cluster.invite(args.data_dir.is_some()));
        tokio::select! {
            failure = cluster.broken() => Err(failure),
            _ = signals.next() => Ok(exit::OK),
        }
    } else {
        run_command(&args.command, &mut cluster, &mut signals).await
    };
    cluster.stop(&mut signals).await;
    outcome
}

/// Runs the command against the cluster. It stays in this process group, so that Ctrl-C reaches it
/// as it would reach it alone; a SIGTERM is passed on.
async fn run_command(
    command: &[OsString],
    cluster: &mut Cluster,
    signals: &mut Signals,
) -> Outcome {
    let (program, arguments) = command.split_first().expect("it was found not to be empty");
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .env("KEYWARD_ENDPOINTS", cluster.endpoints())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| cannot_execute(program, &error))?;
    let id = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    loop {
        tokio::select! {
            status = child.wait() => {
                let status = status.map_err(|error| {
                    Failure::new(exit::BROKEN, format!("cannot wait for the command: {error}"))
                })?;
                return Ok(Ending::from(status).code());
            }
            failure = cluster.broken() => return Err(failure),
            signal = signals.next() => {
                if let (Some(id), Signal::TERM) = (id, signal)
                    && let Err(error) = kill_process(id, signal)
                {
                    tracing::debug!(%error, "the command has ended already");
                }
            }
        }
    }
}

/// Where the nodes keep their data.
enum Folder {
    Kept(PathBuf),
    Temporary(tempfile::TempDir),
}

impl Folder {
    fn open(kept: Option<&Path>) -> Result<Self, Failure> {
        let cannot = |what: &str, error: &std::io::Error| {
            let code = if io_may_pass(error) { exit::UNAVAILABLE } else { exit::USAGE };
            Failure::new(code, format!("cannot make the folder {what}: {error}"))
        };
        if let Some(path) = kept {
            std::fs::create_dir_all(path)
                .map_err(|error| cannot(&path.display().to_string(), &error))?;
            return Ok(Self::Kept(path.to_owned()));
        }
        let folder = tempfile::Builder::new().prefix("keyward-dev-").tempdir();
        folder.map(Self::Temporary).map_err(|error| cannot("for temporary data", &error))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Temporary(folder) => folder.path(),
        }
    }

    fn close(self) {
        if let Self::Temporary(folder) = self {
            let path = folder.path().to_owned();
            if let Err(error) = folder.close() {
                output::say(&format!("cannot remove {}: {error}", path.display()));
            }
        }
    }
}

/// The nodes of the cluster.
struct Cluster {
    nodes: Vec<(Running, String, PathBuf)>,
}

impl Cluster {
    async fn start(args: &DevArgs, folder: &Path) -> Result<Self, Failure> {
        let listeners = bind(args)?;
        let mut addresses = Vec::new();
        for listener in &listeners {
            addresses.push(listener.addresses()?);
        }
        let members: BTreeMap<u64, String> =
            (1..).zip(addresses.iter().map(|(_, peers)| peers.to_string())).collect();
        let mut nodes = Vec::new();
        for ((id, listeners), (clients, _)) in (1..).zip(listeners).zip(addresses) {
            let folder = folder.join(format!("node-{id}"));
            let address = format!("http://{clients}");
            let mut plan = Plan::new(id, &members, &folder);
            plan.config.client_addr = Some(address.clone());
            nodes.push((Running::start(plan, listeners).await?, address, folder));
        }
        Ok(Self { nodes })
    }

    fn endpoints(&self) -> String {
        self.nodes.iter().map(|(_, address, _)| address.as_str()).collect::<Vec<_>>().join(",")
    }

    /// Resolves when every node is ready.
    fn ready(&self) -> impl Future<Output = ()> + use<> {
        let nodes: Vec<_> =
            self.nodes.iter().map(|(running, _, _)| running.node().clone()).collect();
        async move {
            for node in nodes {
                node.wait_ready().await;
            }
        }
    }

    /// Waits until a node has stopped by itself. May be cancelled.
    async fn broken(&mut self) -> Failure {
        let all = self.nodes.iter_mut().map(|(running, _, _)| Box::pin(running.broken()));
        futures::future::select_all(all).await.0
    }

    /// A table of the nodes.
    fn describe(&self) -> String {
        let mut table = Table::new(["NODE", "CLIENTS", "ROLE", "DATA"]);
        for (running, address, folder) in &self.nodes {
            let status = running.node().status();
            table.row(&[
                status.id.to_string(),
                address.clone(),
                cluster::role_word(status.role).to_owned(),
                folder.display().to_string(),
            ]);
        }
        table.render()
    }

    /// What to do with it.
    fn invite(&self, kept: bool) -> String {
        let address = &self.nodes[0].1;
        let data = if kept { "The data is kept." } else { "The data is removed at the end." };
        format!(
            "\nTry it, on any node:\n  \
             curl {address}/v1/lock --json '{{\"signature\":\"jobs/nightly\",\"signee\":\"me\"}}'\n  \
             keyward check jobs/nightly --endpoints {address}\n\nCtrl-C stops it. {data}\n"
        )
    }

    /// Stops all nodes; a second signal stops them at once.
    async fn stop(self, signals: &mut Signals) {
        let all = self.nodes.into_iter().map(|(running, _, _)| running.stop(STOP_WITHIN));
        tokio::select! {
            _ = futures::future::join_all(all) => {}
            _ = signals.next() => {}
        }
    }
}

/// Binds the ports of all nodes: those that were asked for, or the usual ones, or free ones.
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
