//! `keyward dev`: a cluster on this machine, for a laptop or a test.
//!
//! Each node is a process of its own, so that it can be killed as a node of a real cluster can:
//! [`cluster`] starts the nodes and restarts those that were killed, [`node`] runs in each of them.
//! They end with this process, however it ends.

mod cluster;
pub(crate) mod node;
mod secured;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Args;
use rustix::process::{Pid, Signal, kill_process};

use crate::cli::exit::{self, Failure, Outcome};
use crate::cli::log_writer;
use crate::cli::logging::{self, LogArgs};
use crate::cli::output;
use crate::cli::run::{Ending, cannot_execute};
use crate::cli::signals::Signals;
use crate::storage::io_may_pass;
use cluster::Cluster;

/// The highest first port that leaves two ports for each of five nodes.
const MAX_PORT_BASE: i64 = 65_535 - 41;

const HELP: &str = "\
Examples:
  keyward dev                              three nodes until Ctrl-C
  kill -9 PID                              of a node, from the table that it prints: the others go on
  keyward dev -- cargo test                three nodes while the tests run
  keyward dev --data-dir ./data            keep the locks for the next time
  keyward dev --tls -- ./test.sh           both ports with TLS, by certificates made for this
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
  KEYWARD_ENDPOINTS  the client addresses of all nodes, separated by commas
  KEYWARD_CACERT     with --tls: the CA of the nodes' certificates";

/// Run a whole cluster on this machine, for a laptop or a test
///
/// Real nodes with real listeners on 127.0.0.1 and real files, each a process of its own that may be
/// killed and is started again after 5 seconds: only the three machines are missing. The nodes end with
/// this command, however it ends. The data is in a temporary folder that is removed at the end, unless
/// --data-dir names one. With a command, the cluster lives as long as the command and the command's
/// exit code is returned.
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
    /// Let the nodes speak TLS, to clients and to each other, with certificates that are made for
    /// this
    #[arg(long)]
    tls: bool,
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
    log_writer::start();
    logging::start(logging, node::LOG_LEVEL)?;
    // The runtime has only this thread: the kernel kills the nodes when the thread that started
    // them ends.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(exit::BROKEN, format!("cannot start: {error}")))?;
    let folder = Folder::open(args.data_dir.as_deref())?;
    let outcome = runtime.block_on(dev(args, logging, &folder));
    runtime.shutdown_background();
    log_writer::flush();
    folder.close();
    outcome
}

async fn dev(args: &DevArgs, logging: &LogArgs, folder: &Folder) -> Outcome {
    let mut signals = Signals::to_stop()?;
    let mut cluster = Cluster::start(args, logging, folder.path())?;
    let outcome = while_it_runs(args, &mut cluster, &mut signals).await;
    // The data in a temporary folder is not needed any more.
    let gracefully = matches!(folder, Folder::Kept(_));
    cluster.stop(gracefully, &mut signals).await;
    outcome
}

/// Waits for the nodes, then for a signal, or for the end of the command.
async fn while_it_runs(args: &DevArgs, cluster: &mut Cluster, signals: &mut Signals) -> Outcome {
    let ready = cluster.ready()?;
    let statuses = tokio::select! {
        statuses = ready => statuses,
        ended = cluster.ended() => return ended,
        _ = signals.next() => return Ok(exit::OK),
    };
    if !args.command.is_empty() {
        return run_command(&args.command, cluster, signals).await;
    }
    output::print(&cluster.describe(&statuses));
    output::print(&cluster.invite(&statuses, args.data_dir.is_some()));
    tokio::select! {
        ended = cluster.ended() => ended,
        _ = signals.next() => Ok(exit::OK),
    }
}

/// Runs the command against the cluster. It stays in this process group, so that Ctrl-C reaches it
/// directly; a SIGTERM is passed on.
async fn run_command(
    command: &[OsString],
    cluster: &mut Cluster,
    signals: &mut Signals,
) -> Outcome {
    let (program, arguments) = command.split_first().expect("it was found not to be empty");
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .env("KEYWARD_ENDPOINTS", cluster.endpoints())
        .envs(cluster.certificates().map(|made| ("KEYWARD_CACERT", made.ca())))
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
            ended = cluster.ended() => return ended,
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

/// The folder with the nodes' data.
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
