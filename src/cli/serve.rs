//! `keyward serve`: one node of a cluster.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use crate::cli::exit::{self, Failure, Outcome};
use crate::cli::log_writer;
use crate::cli::logging::{self, LogArgs};
use crate::cli::member::{self, Listeners, Plan, Running};
use crate::cli::output;
use crate::cli::settings::{DurationText, Members, Profile, Rho, Settings};
use crate::cli::signals::Signals;
use crate::node;

const HELP: &str = "\
Examples:
  Three machines a, b and c; the same members everywhere, each with its own id:
    keyward serve --id 1 --members 1=a:7421,2=b:7421,3=c:7421 --data-dir /var/lib/keyward
  The same from a file:
    keyward serve --config /etc/keyward.toml

Configuration file (TOML; a flag wins over a variable, a variable over the file):
  id = 1
  data_dir = \"/var/lib/keyward\"
  members = { 1 = \"a:7421\", 2 = \"b:7421\", 3 = \"c:7421\" }
  # client_listen, peer_listen, advertise_client, allowed_hosts, idle_timeout, buffer_mib,
  # profile, rho, snapshot_every, shutdown_timeout, bootstrap_token_file, open_metrics, log,
  # log_format: as the options, with _ for -

The first start of a cluster waits until every member has been started once, in any order. After
that a majority is enough. A node refuses the data folder of another node or another cluster.

Without access control nobody has to prove who they are: whoever reaches the client port can take
and release any lock. `keyward access --help` switches it on. Whoever reaches the peer port can
damage the cluster: keep it in a network that you trust.

Prints one line when it listens and one when it is ready; logs go to standard error.

Signals:
  SIGTERM, SIGINT, SIGHUP   stop: /readyz fails, requests under way are answered, leadership moves on
  again                     stop at once
  One that is ignored at the start, as SIGHUP under nohup, stays ignored.

Exit codes:
  0   stopped by a signal
  2   the command line or the configuration is wrong, or the folder is another node's or damaged:
      starting again never mends it
  3   cannot start now, starting again may help: a port is taken, an address is not there yet, the
      folder is in use, a disk is full
  70  the node stopped itself, because going on could give a wrong answer: the log says why

Environment:
  KEYWARD_CONFIG, KEYWARD_ID, KEYWARD_MEMBERS, KEYWARD_DATA_DIR, …: see the options.";

/// Run one node of a cluster
#[derive(Clone, Debug, Default, Args)]
#[command(after_help = HELP)]
pub(crate) struct ServeArgs {
    /// A TOML file with any of these settings
    #[arg(long, value_name = "FILE", env = "KEYWARD_CONFIG", hide_env_values = true)]
    pub(crate) config: Option<PathBuf>,
    /// This node's number in the cluster, from 1; never given to another machine later
    #[arg(long, env = "KEYWARD_ID", hide_env_values = true, value_parser = parse_id)]
    pub(crate) id: Option<u64>,
    /// Every node of the cluster, this one too: its id and where its peers reach it
    #[arg(long, value_name = "ID=HOST:PORT,…", env = "KEYWARD_MEMBERS", hide_env_values = true)]
    pub(crate) members: Option<Members>,
    /// The node's folder, on a disk of its own machine; made if it is not there
    #[arg(long, value_name = "DIR", env = "KEYWARD_DATA_DIR", hide_env_values = true)]
    pub(crate) data_dir: Option<PathBuf>,
    /// Where clients connect [default: port 7420 of all interfaces, or of 127.0.0.1 if this node's
    /// own member address is on it]
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        env = "KEYWARD_CLIENT_LISTEN",
        hide_env_values = true
    )]
    pub(crate) client_listen: Option<String>,
    /// Where the other nodes connect [default: the port of this node's own member address, on the
    /// interfaces as for clients]
    #[arg(long, value_name = "ADDRESS:PORT", env = "KEYWARD_PEER_LISTEN", hide_env_values = true)]
    pub(crate) peer_listen: Option<String>,
    /// Where clients are told to find this node when it leads [default: http://, the host of its
    /// own member address and the client port]
    #[arg(long, value_name = "URL", env = "KEYWARD_ADVERTISE_CLIENT", hide_env_values = true)]
    pub(crate) advertise_client: Option<String>,
    /// Names by which browsers may call this node, besides IP addresses, localhost and the hosts of
    /// all members and of --advertise-client; programs may call it by any name
    #[arg(long, value_name = "NAME,…", env = "KEYWARD_ALLOWED_HOSTS", hide_env_values = true)]
    #[arg(value_delimiter = ',')]
    pub(crate) allowed_hosts: Option<Vec<String>>,
    /// How long a client's connection may be idle; let it be longer than what a balancer in front
    /// keeps unused connections for [default: 75s]
    #[arg(long, value_name = "DURATION", env = "KEYWARD_IDLE_TIMEOUT", hide_env_values = true)]
    pub(crate) idle_timeout: Option<DurationText>,
    /// Memory for large requests, and for large answers until they are read, in MiB [default: 64]
    #[arg(long, value_name = "MIB", env = "KEYWARD_BUFFER_MIB", hide_env_values = true)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pub(crate) buffer_mib: Option<u64>,
    /// How soon a dead leader is replaced: `stable` waits longer and suits busy or distant
    /// machines, `fast` suits one quiet network [default: stable]
    #[arg(long, value_name = "PROFILE", env = "KEYWARD_PROFILE", hide_env_values = true)]
    pub(crate) profile: Option<Profile>,
    /// By how much the clocks of two machines may differ in speed, such as 1% [default: 1%]
    #[arg(long, value_name = "PERCENT", env = "KEYWARD_RHO", hide_env_values = true)]
    pub(crate) rho: Option<Rho>,
    /// Entries of the log after which a snapshot is written [default: 50000]
    #[arg(long, value_name = "N", env = "KEYWARD_SNAPSHOT_EVERY", hide_env_values = true)]
    #[arg(value_parser = parse_count)]
    pub(crate) snapshot_every: Option<u64>,
    /// A file with the access token of the first administrator, for the first start: access control
    /// is switched on before any client is answered. The same file on each node
    #[arg(long, value_name = "FILE", env = "KEYWARD_BOOTSTRAP_TOKEN_FILE", hide_env_values = true)]
    pub(crate) bootstrap_token_file: Option<PathBuf>,
    /// Show /metrics to whoever asks; otherwise, with access control on, it takes an access token
    /// that may observe every lock
    #[arg(long, env = "KEYWARD_OPEN_METRICS", hide_env_values = true)]
    pub(crate) open_metrics: bool,
    /// How long a stop may take before it is forced [default: 10s]
    #[arg(long, value_name = "DURATION", env = "KEYWARD_SHUTDOWN_TIMEOUT", hide_env_values = true)]
    pub(crate) shutdown_timeout: Option<DurationText>,
    /// For tests: clients may move the clock with POST /debug/advance, and so end every lock
    #[arg(long)]
    pub(crate) debug_clock: bool,
    /// For tests: this node's clock goes so many millionths faster; slower, if it is negative
    #[arg(
        long,
        hide = true,
        default_value_t = 0,
        allow_hyphen_values = true,
        conflicts_with = "debug_clock",
        value_name = "PPM",
        value_parser = clap::value_parser!(i64).range(-500_000..=500_000)
    )]
    pub(crate) debug_clock_rate: i64,
    /// For tests: a segment of the log has so many bytes
    #[arg(
        long,
        hide = true,
        value_name = "BYTES",
        value_parser = clap::value_parser!(u64).range(16_384..=1 << 30)
    )]
    pub(crate) debug_segment_bytes: Option<u64>,
}

fn parse_id(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(id @ 1..) => Ok(id),
        _ => Err("a node's id is a whole number from 1 on".to_owned()),
    }
}

fn parse_count(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "it must be a whole number of entries, such as 50000".to_owned())
}

/// Runs the node until a signal stops it, or until it stops itself.
pub(crate) fn run(args: ServeArgs, logging: &LogArgs) -> Outcome {
    let settings = Settings::resolve(args, logging)?;
    log_writer::start();
    logging::start(&settings.log, "info")?;
    member::end_on_panic();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(exit::BROKEN, format!("cannot start: {error}")))?;
    let outcome = runtime.block_on(serve(settings));
    // Tasks that still run after the stop are past its timeout.
    runtime.shutdown_background();
    log_writer::flush();
    outcome
}

async fn serve(settings: Settings) -> Outcome {
    let mut signals = Signals::to_stop()?;
    let listeners = Listeners::bind(settings.client_listen, settings.peer_listen)?;
    let (clients, peers) = listeners.addresses()?;
    warn_of_strangers(&settings, clients, peers);
    let plan = plan(&settings, clients.port());
    let mut running = Running::start(plan, listeners).await?;
    output::announce(&format!(
        "keyward {} node {}: clients on http://{clients}, peers on {peers}\n",
        env!("CARGO_PKG_VERSION"),
        settings.id
    ));
    let node = running.node().clone();
    let ready = async {
        node.wait_ready().await;
        let status = node.status();
        let leader = output::cell(status.leader);
        output::announce(&format!("ready: term {}, leader {leader}\n", status.term));
        std::future::pending::<()>().await;
    };
    let signal = tokio::select! {
        () = ready => unreachable!("it never ends"),
        failure = running.broken() => return Err(failure),
        signal = signals.next() => signal,
    };
    tracing::info!(?signal, "stopping; a second signal stops at once");
    tokio::select! {
        () = running.stop(settings.shutdown_timeout) => tracing::info!("stopped"),
        signal = signals.next() => tracing::warn!(?signal, "stopped at once"),
    }
    Ok(exit::OK)
}

fn plan(settings: &Settings, client_port: u16) -> Plan {
    let mut plan = Plan::new(settings.id, &settings.members, &settings.data_dir);
    let own = || format!("http://{}:{client_port}", settings.own_host);
    plan.config.client_addr = Some(settings.advertise_client.clone().unwrap_or_else(own));
    plan.config.profile = match settings.profile {
        Profile::Stable => node::Profile::Stable,
        Profile::Fast => node::Profile::Fast,
    };
    plan.config.rho_ppm = settings.rho.parts_per_million;
    if let Some(entries) = settings.snapshot_every {
        plan.config.snapshot_every = entries;
        // A setting for frequent snapshots asks for a short log, too.
        plan.config.log_kept = plan.config.log_kept.min(entries);
    }
    if let Some(mib) = settings.buffer_mib {
        plan.config.buffer_bytes = usize::try_from(mib << 20).unwrap_or(usize::MAX);
    }
    if let Some(idle) = settings.idle_timeout {
        plan.limits.head_timeout = idle;
    }
    plan.hosts = settings.hosts();
    plan.bootstrap.clone_from(&settings.bootstrap);
    plan.open_metrics = settings.open_metrics;
    if let Some(bytes) = settings.debug_segment_bytes {
        plan.config.segment_bytes = bytes;
    }
    plan.debug_clock = settings.debug_clock;
    plan.debug_clock_rate = settings.debug_clock_rate;
    plan
}

/// Warns about ports that are open to others, and about a clock that can be moved.
fn warn_of_strangers(settings: &Settings, clients: SocketAddr, peers: SocketAddr) {
    if !(clients.ip().is_loopback() && peers.ip().is_loopback()) {
        tracing::warn!(
            %clients,
            %peers,
            "without access control nobody has to prove who they are: keep both ports in a network that \
             you trust"
        );
    }
    if settings.debug_clock {
        tracing::warn!("--debug-clock: any client can move the clock and so end every lock");
    }
    if settings.debug_clock_rate != 0 {
        tracing::warn!(ppm = settings.debug_clock_rate, "--debug-clock-rate: the clock is wrong");
    }
}
