//! `keyward serve`: one node of a cluster.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use rustix::process::Signal;

use crate::audit::{Audit, OnFailure, Target};
use crate::cli::exit::{self, Failure, Outcome};
use crate::cli::log_writer;
use crate::cli::logging::{self, LogArgs};
use crate::cli::member::{self, Listeners, Plan, Running};
use crate::cli::output;
use crate::cli::settings::{AuditFailure, ClientCertificates, Declared, Profile, Settings};
use crate::cli::signals::Signals;
use crate::files::Unusable;
use crate::jwt::Issuers;
use crate::node;
use crate::tls::{ClientAuth, Files, NodeName, Tls};

const HELP: &str = "\
Examples:
  Three machines a, b and c; the same members everywhere, each with its own id:
    keyward serve --id 1 --members 1=a:7421,2=b:7421,3=c:7421 --data-dir /var/lib/keyward \\
      --tls-cert node-1.pem --tls-key node-1.key \\
      --peer-cert node-1.pem --peer-key node-1.key --peer-ca ca.pem
  The same from a file:
    keyward serve --config /etc/keyward.toml

Configuration file (TOML; a flag wins over a variable, a variable over the file):
  id = 1
  data_dir = \"/var/lib/keyward\"
  members = { 1 = \"a:7421\", 2 = \"b:7421\", 3 = \"c:7421\" }
  # client_listen, peer_listen, advertise_client, allowed_hosts, idle_timeout, buffer_mib,
  # address_connections, address_rate, identity_rate, profile, rho, snapshot_every, audit,
  # audit_max_mib, audit_kept, audit_failure, shutdown_timeout, bootstrap_token_file, jwt_issuers,
  # open_metrics, tls_cert, tls_key, tls_client_ca, tls_client_auth, peer_cert, peer_key, peer_ca,
  # insecure, log, log_format: as the options, with _ for -

The first start of a cluster waits until every member has been started once, in any order. After
that a majority is enough. A node refuses the data folder of another node or another cluster.

Addresses that other machines can reach need TLS, or --insecure: without it, whoever reaches the
client port can overhear and take what is sent there, and whoever reaches the peer port can damage
the cluster. `keyward cert --help` makes certificates to try out. The files of TLS are read again
when they have changed; connections go on, and files that cannot be used change nothing. So are
those of --jwt-issuers.
Without access control, whoever is let in can take and release any lock. `keyward access --help`
switches it on.

Prints one line when it listens and one when it is ready; logs go to standard error.

Signals:
  SIGTERM, SIGINT   stop: /readyz fails, requests under way are answered, leadership moves on
  again             stop at once
  SIGHUP            read the files of TLS and of JWTs again now; without any, stop
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
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Declared,
    #[command(flatten)]
    debug: DebugArgs,
}

/// The options for tests, which are no settings of a node.
#[derive(Clone, Debug, Default, Args)]
#[allow(clippy::struct_field_names, reason = "the names of the options")]
struct DebugArgs {
    /// For tests: clients may move the clock with POST /debug/advance, and so end every lock
    #[arg(long)]
    debug_clock: bool,
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
    debug_clock_rate: i64,
    /// For tests: a segment of the log has so many bytes
    #[arg(
        long,
        hide = true,
        value_name = "BYTES",
        value_parser = clap::value_parser!(u64).range(16_384..=1 << 30)
    )]
    debug_segment_bytes: Option<u64>,
}

/// Runs the node until a signal stops it, or until it stops itself.
pub(crate) fn run(args: ServeArgs, logging: &LogArgs) -> Outcome {
    let settings = Settings::resolve(args.settings, args.config.as_deref())?;
    log_writer::start();
    logging::start(&settings.log(logging), "info")?;
    member::end_on_panic();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(exit::BROKEN, format!("cannot start: {error}")))?;
    let outcome = runtime.block_on(serve(&settings, &args.debug));
    // Tasks that still run after the stop are past its timeout.
    runtime.shutdown_background();
    log_writer::flush();
    outcome
}

async fn serve(settings: &Settings, debug: &DebugArgs) -> Outcome {
    let mut signals = Signals::to_stop()?;
    let listeners = Listeners::bind(settings.client_listen, settings.peer_listen)?;
    let (clients, peers) = listeners.addresses()?;
    warn_of_strangers(settings, debug, clients, peers);
    let mut plan = plan(settings, debug, clients.port())?;
    plan.config.audit = open_audit(settings)?;
    let mut running = Running::start(plan, listeners).await?;
    output::announce(&format!(
        "keyward {} node {}: clients on {}://{clients}, peers on {peers}\n",
        env!("CARGO_PKG_VERSION"),
        settings.id,
        scheme(settings),
    ));
    let node = running.node().clone();
    let ready = async {
        node.wait_ready().await;
        let status = node.status();
        let leader = output::cell(status.leader);
        output::announce(&format!("ready: term {}, leader {leader}\n", status.term));
        std::future::pending::<()>().await;
    };
    tokio::pin!(ready);
    let has_files = settings.client_tls.is_some()
        || settings.peer_tls.is_some()
        || settings.declared.jwt_issuers().is_some();
    let signal = loop {
        tokio::select! {
            () = &mut ready => unreachable!("it never ends"),
            failure = running.broken() => return Err(failure),
            signal = signals.next() => match signal {
                Signal::HUP if has_files => running.look_at_files(),
                signal => break signal,
            }
        }
    };
    tracing::info!(?signal, "stopping; a second signal stops at once");
    let mut stop = std::pin::pin!(running.stop(settings.shutdown_timeout()));
    loop {
        tokio::select! {
            () = &mut stop => break tracing::info!("stopped"),
            signal = signals.next() => match signal {
                // New files are of no use any more.
                Signal::HUP if has_files => {}
                signal => break tracing::warn!(?signal, "stopped at once"),
            }
        }
    }
    Ok(exit::OK)
}

/// Opens the audit, if one is to be written.
fn open_audit(settings: &Settings) -> Result<Option<Arc<Audit>>, Failure> {
    let declared = &settings.declared;
    let Some(path) = declared.audit() else { return Ok(None) };
    let target = if path.as_os_str() == "-" {
        Target::Stdout
    } else {
        let max_bytes = declared.audit_max_mib() << 20;
        Target::File { path: path.clone(), max_bytes, kept: declared.audit_kept() }
    };
    let on_failure = match declared.audit_failure() {
        AuditFailure::Refuse => OnFailure::Refuse,
        AuditFailure::Drop => OnFailure::Drop,
    };
    let audit = Audit::open(target, on_failure).map_err(|error| {
        let why = format!("cannot open the audit {}: {error}", path.display());
        Failure::new(exit::UNAVAILABLE, why).advise(
            "Choose a file that this user may write with --audit, or - for standard output.",
        )
    })?;
    Ok(Some(audit))
}

/// The scheme of the client port's URLs.
fn scheme(settings: &Settings) -> &'static str {
    if settings.client_tls.is_some() { "https" } else { "http" }
}

fn plan(settings: &Settings, debug: &DebugArgs, client_port: u16) -> Result<Plan, Failure> {
    let Settings { declared, .. } = settings;
    let mut plan = Plan::new(settings.id, &settings.members, &settings.data_dir);
    plan.terms.tls = client_tls(settings)?;
    plan.config.peer_tls = peer_tls(settings)?;
    let own = || format!("{}://{}:{client_port}", scheme(settings), settings.own_host);
    plan.config.client_addr = Some(declared.advertise_client().cloned().unwrap_or_else(own));
    plan.config.profile = match declared.profile() {
        Profile::Stable => node::Profile::Stable,
        Profile::Fast => node::Profile::Fast,
    };
    plan.config.rho_ppm = settings.rho_ppm();
    plan.config.snapshot_every = settings.snapshot_every();
    // A setting for frequent snapshots asks for a short log, too.
    plan.config.log_kept = plan.config.log_kept.min(settings.snapshot_every());
    let buffer_bytes = declared.buffer_mib().saturating_mul(1 << 20);
    plan.config.buffer_bytes = usize::try_from(buffer_bytes).unwrap_or(usize::MAX);
    plan.terms.limits.head_timeout = declared.idle_timeout().0;
    plan.terms.limits.address_connections =
        declared.address_connections().map(|&most| usize::try_from(most).unwrap_or(usize::MAX));
    plan.rates.address = declared.address_rate().map(|rate| rate.0);
    plan.rates.identity = declared.identity_rate().map(|rate| rate.0);
    plan.hosts = settings.hosts();
    plan.bootstrap.clone_from(&settings.bootstrap);
    plan.issuers = issuers(settings)?;
    plan.open_metrics = declared.open_metrics();
    if let Some(bytes) = debug.debug_segment_bytes {
        plan.config.segment_bytes = bytes;
    }
    plan.debug_clock = debug.debug_clock;
    plan.debug_clock_rate = debug.debug_clock_rate;
    Ok(plan)
}

/// The TLS for clients, from its files.
fn client_tls(settings: &Settings) -> Result<Option<Arc<Tls>>, Failure> {
    let auth = match settings.declared.tls_client_auth().copied().unwrap_or_default() {
        ClientCertificates::Optional => ClientAuth::Optional,
        ClientCertificates::Required => ClientAuth::Required,
    };
    let files = settings.client_tls.clone();
    files.map(|files| Tls::for_clients(files, auth)).transpose().map_err(Failure::from)
}

/// The TLS between nodes, from its files.
fn peer_tls(settings: &Settings) -> Result<Option<Arc<Tls>>, Failure> {
    let own = NodeName::new(settings.id, &settings.members, None);
    let files = settings.peer_tls.clone();
    files.map(|files| Tls::for_peers(files, own)).transpose().map_err(Failure::from)
}

/// The issuers of JWTs, from their file.
fn issuers(settings: &Settings) -> Result<Option<Arc<Issuers>>, Failure> {
    let path = settings.declared.jwt_issuers();
    path.map(|path| Issuers::load(path)).transpose().map_err(|error| {
        Failure::usage(format!("the issuers of JWTs (jwt_issuers) cannot be used: {error}"))
            .advise("Nothing was started. docs/access.md says what each file must be.")
    })
}

impl From<Unusable> for Failure {
    fn from(error: Unusable) -> Self {
        Self::usage(format!("the TLS files cannot be used: {error}"))
            .advise("Nothing was started. docs/tls.md says what each file must be.")
    }
}

/// Warns about ports that are open to others, and about a clock that can be moved.
fn warn_of_strangers(
    settings: &Settings,
    args: &DebugArgs,
    clients: SocketAddr,
    peers: SocketAddr,
) {
    let is_open = |address: SocketAddr, tls: &Option<Files>| {
        tls.is_none() && !address.ip().to_canonical().is_loopback()
    };
    if is_open(clients, &settings.client_tls) || is_open(peers, &settings.peer_tls) {
        tracing::warn!(
            %clients,
            %peers,
            "--insecure: a port without TLS can be reached by others: keep it in a network that you \
             trust"
        );
    }
    if args.debug_clock {
        tracing::warn!("--debug-clock: any client can move the clock and so end every lock");
    }
    if args.debug_clock_rate != 0 {
        tracing::warn!(ppm = args.debug_clock_rate, "--debug-clock-rate: the clock is wrong");
    }
}
