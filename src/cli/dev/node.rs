//! One node of `keyward dev`, in a process of its own.
//!
//! Its listeners are bound by its parent, so that no port is lost between finding and using it.
//! They are inherited as standard input and output, and nothing else is inherited.

use std::fs::File;
use std::net::TcpListener as StdListener;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use tokio::net::TcpListener;

use crate::cli::exit::{self, Failure, Outcome};
use crate::cli::log_writer;
use crate::cli::logging::{self, LogArgs};
use crate::cli::member::{self, Listeners, Plan, Running};
use crate::cli::settings::Members;
use crate::cli::signals::Signals;
use crate::tls::{ClientAuth, Files, NodeName, Tls};

/// The name of the hidden command.
pub(crate) const COMMAND: &str = "__node";

/// The default log level: nodes that start and stop together log warnings about each other, which
/// are of no interest.
pub(super) const LOG_LEVEL: &str = "error";

/// The longest time for the node to stop; nobody depends on its data or its leader.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// The node, and the process that it ends with.
#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    #[arg(long)]
    id: u64,
    #[arg(long)]
    members: Members,
    #[arg(long)]
    address: String,
    #[arg(long)]
    data_dir: PathBuf,
    /// The folder of its certificate and of the CA, with TLS.
    #[arg(long)]
    certificates: Option<PathBuf>,
    #[arg(long)]
    parent: i32,
}

/// Runs the node until a signal stops it, or until its parent is gone.
pub(crate) fn run(args: &NodeArgs, logging: &LogArgs) -> Outcome {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| {
        Failure::new(exit::BROKEN, format!("cannot ask to end with the parent: {error}"))
    })?;
    // It may have died before the kernel was asked.
    if getppid().map(Pid::as_raw_pid) != Some(args.parent) {
        return Ok(exit::BROKEN);
    }
    let cannot = |error: std::io::Error| {
        Failure::new(exit::BROKEN, format!("node {} cannot start: {error}", args.id))
    };
    let (clients, peers) = inherited().map_err(cannot)?;
    log_writer::start();
    logging::start(logging, LOG_LEVEL)?;
    member::end_on_panic();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(cannot)?;
    let outcome = runtime.block_on(async {
        let clients = TcpListener::from_std(clients).map_err(cannot)?;
        let peers = TcpListener::from_std(peers).map_err(cannot)?;
        node(args, Listeners { clients, peers }).await
    });
    runtime.shutdown_background();
    log_writer::flush();
    outcome
}

async fn node(args: &NodeArgs, listeners: Listeners) -> Outcome {
    let mut signals = Signals::to_stop()?;
    let mut plan = Plan::new(args.id, &args.members.0, &args.data_dir);
    plan.config.client_addr = Some(args.address.clone());
    if let Some(folder) = &args.certificates {
        let cannot = |error| Failure::new(exit::BROKEN, format!("node {}: {error}", args.id));
        let files = Files::in_folder(folder, &format!("node-{}", args.id));
        let own = NodeName::new(args.id, &args.members.0, None);
        plan.config.peer_tls = Some(Tls::for_peers(files.clone(), own).map_err(cannot)?);
        let files = Files { ca: None, ..files };
        plan.terms.tls = Some(Tls::for_clients(files, ClientAuth::Optional).map_err(cannot)?);
    }
    let mut running = Running::start(plan, listeners).await?;
    tokio::select! {
        failure = running.broken() => return Err(failure),
        _ = signals.next() => {}
    }
    tokio::select! {
        () = running.stop(STOP_WITHIN) => {}
        _ = signals.next() => {}
    }
    Ok(exit::OK)
}

/// The listeners for clients and for peers. Their first descriptors are closed: a listener that stops
/// must not stay open under another number.
fn inherited() -> std::io::Result<(StdListener, StdListener)> {
    let clients = listener(std::io::stdin().as_fd())?;
    let peers = listener(std::io::stdout().as_fd())?;
    let nothing = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&nothing)?;
    rustix::stdio::dup2_stdout(&nothing)?;
    Ok((clients, peers))
}

fn listener(inherited: BorrowedFd<'_>) -> std::io::Result<StdListener> {
    let listener = StdListener::from(inherited.try_clone_to_owned()?);
    listener.set_nonblocking(true)?;
    Ok(listener)
}
