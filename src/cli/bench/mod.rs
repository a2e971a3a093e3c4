//! `keyward bench`: puts a load on a cluster and measures it.
//!
//! The workloads and their counters are in [`crate::bench`]. Here, [`nodes`] finds the cluster and
//! its leader, [`dev`] starts a cluster of real processes when there is none, [`limit`] measures
//! HTTP alone, and [`progress`] is the line on the terminal. The result is a [`document`], and a
//! [`report`] on request.

mod dev;
mod document;
pub(super) mod limit;
mod nodes;
mod progress;
mod report;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::bench::{
    self, Clients, Failure as Unmeasured, Http, Measurement, Pace, Plan, Services, Workload,
};
use crate::cli::client::{self, EndpointList, TlsArgs};
use crate::cli::duration;
use crate::cli::exit::{self, Failure, Outcome};
use crate::cli::logging::{self, LogArgs};
use crate::cli::signals::Signals;
use crate::client::tls::Tls;
use dev::DevCluster;
use document::{Document, OfCluster};
use limit::Limit;
use nodes::{Choice, Cluster};
use progress::Progress;
use report::ReportFile;

/// The timeout of a request, after which its outcome is unknown.
const ANSWER: Duration = Duration::from_secs(10);

/// The most clients: each has a connection, and a node has 4096 of them at most.
const MAX_CLIENTS: u64 = 4000;

/// The default number of locks that are held.
const HELD: u64 = 100_000;

/// The duration of held locks, which is longer than a run and an inspection of the cluster
/// afterwards.
const HOLD_DURATION: Duration = Duration::from_secs(24 * 60 * 60);

const HELP: &str = "\
Workloads:
  pairs      each client takes a lock of its own and releases it
  contended  all clients want one lock, and try again while they are refused
  queue      all clients want one lock, and wait for their turn
  renew      each client renews a lock of its own
  check      each client reads a lock of its own, linearizably
  hold       takes --locks locks and keeps them: the time that takes, and the memory
  mixed      of ten operations a lock, a release, four renewals and four reads

Examples:
  keyward bench --dev                                       three nodes of its own, started for this
  keyward bench pairs --endpoints http://a:7420,http://b:7420,http://c:7420
  keyward bench --dev pairs --clients 256 --node spread --duration 30s
  keyward bench --dev pairs --rate 5000                     an open loop at 5000 pairs a second
  keyward bench --dev pairs --limit                         beside what HTTP alone can do
  keyward bench --dev pairs --report pairs.html             a page with plots

In the closed loop a client asks again as soon as it is answered. With --rate operations are due at
that rate whether or not the cluster keeps up, and each counts from when it was due, so that a stall
is not hidden; what was due and never begun is counted with the time that it had waited.

Rates count answers within the measured time. Times are of all operations that were under way in it.
Refusals, failures after which nothing was done, and unknown outcomes are told apart and are no
times. Processor time and memory are shown for nodes that run on this machine.

The load is put on a table of its own, which is deleted at the end.

Exit codes:
  0  it was measured
  2  the command line is wrong
  3  the cluster does not answer, or no operation succeeded

Environment:
  KEYWARD_ENDPOINTS, KEYWARD_LOG: see the options.";

/// Put a load on a cluster and measure it
///
/// Runs a workload with a number of clients and prints rates and times, failures, and what the
/// nodes used. Without a cluster, --dev starts three real nodes on this machine for it.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct BenchArgs {
    /// What the clients do, see below
    #[arg(value_enum, default_value_t = WorkloadWord::Pairs)]
    workload: WorkloadWord,
    /// Where the nodes listen for clients
    #[arg(long, value_name = "URL,…", env = "KEYWARD_ENDPOINTS", hide_env_values = true)]
    #[arg(help_heading = "Cluster")]
    endpoints: Vec<EndpointList>,
    #[command(flatten)]
    tls: TlsArgs,
    /// Start three nodes on this machine for the run, each a process of its own, and stop them
    /// after it
    #[arg(long, help_heading = "Cluster")]
    dev: bool,
    /// With --dev: keep their data below this folder, which must be on a disk
    /// [default: a temporary folder, removed at the end]
    #[arg(long, value_name = "DIR", requires = "dev", help_heading = "Cluster")]
    data_dir: Option<PathBuf>,
    /// Whom the clients ask: `best`, the node that leads; `spread`, all endpoints in turn; or the
    /// id of one node
    #[arg(long, default_value = "best", help_heading = "Cluster")]
    node: Choice,
    /// How many clients, each with one request under way at a time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=MAX_CLIENTS))]
    clients: u64,
    /// How long it is measured; `hold` ends when all locks are taken
    #[arg(long, default_value = "10s", value_parser = duration::parse_positive)]
    duration: Duration,
    /// How long the load runs before it is measured
    #[arg(long, default_value = "2s", value_parser = duration::parse)]
    warmup: Duration,
    /// Operations a second that are due whether or not the cluster keeps up, by all clients
    /// together; for `pairs`, `contended` and `queue` a lock and its release are one
    /// [default: a closed loop]
    #[arg(long, value_name = "PER_SECOND", value_parser = parse_rate)]
    rate: Option<f64>,
    /// How many locks `hold` takes
    #[arg(long, default_value_t = HELD, value_parser = clap::value_parser!(u64).range(1..))]
    locks: u64,
    /// How the clients ask: `http`, one connection each and nothing else; `client`, the client
    /// library, which repeats and makes requests safe to repeat; or `shared`, one client of the
    /// library for all, in which requests that wait together travel together
    #[arg(long, value_enum, default_value_t = Via::Http)]
    via: Via,
    /// How long a refused contender waits before it tries again; half to all of it, by chance
    #[arg(long, value_name = "DURATION", default_value = "1ms", value_parser = duration::parse)]
    retry_after: Duration,
    /// Threads that the clients share [default: one for each processor]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=256))]
    threads: Option<u64>,
    /// Put the same load on a bare HTTP handler first, which reads the same JSON and answers at
    /// once; without a cluster, on that alone
    #[arg(long)]
    limit: bool,
    /// Print one JSON document with everything that was measured
    #[arg(long)]
    json: bool,
    /// Write a page with the figures, and plots over time and by percentile, as one HTML file. A file
    /// that is there is replaced when everything is measured, and left alone if nothing can be
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// A workload, by its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum WorkloadWord {
    Pairs,
    Contended,
    Queue,
    Renew,
    Check,
    Hold,
    Mixed,
}

/// How the clients ask.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
enum Via {
    Http,
    Client,
    Shared,
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate <= 1e7 => Ok(rate),
        _ => Err("a rate is a number of operations a second, up to 10000000".to_owned()),
    }
}

/// Measures.
pub(crate) fn run(args: &BenchArgs, logging: &LogArgs) -> Outcome {
    logging::start(logging, "warn")?;
    args.check()?;
    // A report that cannot be written is an error before the measurement, not after it.
    let report = args.report.as_deref().map(ReportFile::claim).transpose()?;
    let document = measure(args)?;
    document.print(args.json);
    if let Some(report) = report {
        report.write(&document)?;
    }
    Ok(if document.is_empty() { exit::UNAVAILABLE } else { exit::OK })
}

fn measure(args: &BenchArgs) -> Result<Document, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| Failure::new(exit::BROKEN, format!("cannot start: {error}")))?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut signals = runtime.block_on(async { Signals::to_stop() })?;
    let set = Arc::clone(&stop);
    runtime.spawn(async move {
        signals.next().await;
        set.store(true, Ordering::Relaxed);
    });
    let limit = if args.limit { Some(measure_limit(args, &stop)?) } else { None };
    let own = if args.dev {
        let folder = args.data_dir.as_deref();
        Some(runtime.block_on(DevCluster::start(folder, &stop))?)
    } else {
        None
    };
    let endpoints =
        own.as_ref().map_or_else(|| EndpointList::of(&args.endpoints), DevCluster::endpoints);
    let tls = args.tls.read()?;
    let measured = if endpoints.is_empty() {
        None
    } else {
        let cluster = runtime.block_on(Cluster::look(&endpoints, &tls))?;
        let chosen = cluster.choose(args.node)?;
        let measurement = measure_cluster(args, &runtime, &cluster, (&chosen, &tls), &stop)?;
        let elections = runtime.block_on(cluster.elections());
        Some(OfCluster { measurement, endpoints: chosen, elections })
    };
    if let Some(own) = own {
        runtime.block_on(own.stop());
    }
    Ok(Document::new(args.via, limit, measured))
}

impl BenchArgs {
    fn check(&self) -> Result<(), Failure> {
        if self.dev && !self.endpoints.is_empty() {
            return Err(Failure::usage("--dev starts a cluster, and --endpoints names another")
                .advise("Leave one of them out (KEYWARD_ENDPOINTS names endpoints too)."));
        }
        if !self.dev && self.endpoints.is_empty() && !self.limit {
            return Err(Failure::usage("there is no cluster to measure").advise(
                "Name one with --endpoints http://a:7420,http://b:7420 or KEYWARD_ENDPOINTS, \
                 or let `keyward bench --dev` start three nodes here.",
            ));
        }
        if self.workload == WorkloadWord::Hold && self.rate.is_some() {
            return Err(Failure::usage(
                "`hold` takes its locks as fast as it can: it has no --rate",
            ));
        }
        Ok(())
    }

    fn plan(&self) -> Plan {
        let hold = self.workload == WorkloadWord::Hold;
        let workload = match self.workload {
            WorkloadWord::Pairs => Workload::Pairs,
            WorkloadWord::Contended => Workload::Contended,
            WorkloadWord::Queue => Workload::Queue,
            WorkloadWord::Renew => Workload::Renew,
            WorkloadWord::Check => Workload::Check,
            WorkloadWord::Hold => Workload::Hold { locks: self.locks },
            WorkloadWord::Mixed => Workload::Mixed,
        };
        let clients = usize::try_from(self.clients).expect("it is at most 4000");
        let mut plan = Plan::new(workload, clients);
        plan.pace = self.rate.map_or(Pace::Closed, |per_second| Pace::Open { per_second });
        plan.duration = self.duration;
        plan.warmup = if hold { Duration::ZERO } else { self.warmup };
        plan.retry_after = self.retry_after;
        if hold {
            plan.lock_duration = HOLD_DURATION;
        }
        if let Some(threads) = self.threads {
            plan.threads = usize::try_from(threads).expect("it is at most 256");
        }
        plan
    }
}

fn measure_limit(args: &BenchArgs, stop: &Arc<AtomicBool>) -> Result<Measurement, Failure> {
    let server = Limit::start()?;
    let target = Http::new(&[server.endpoint()], "limit", ANSWER)?;
    let mut progress = Progress::new("HTTP alone", Arc::clone(stop), vec![server.node()]);
    let measured = bench::run(&Arc::new(target), &args.plan(), &mut progress);
    progress.clear();
    measured.map_err(|failure| unmeasured(&failure))
}

fn measure_cluster(
    args: &BenchArgs,
    runtime: &tokio::runtime::Runtime,
    cluster: &Cluster,
    (endpoints, tls): (&[String], &Tls),
    stop: &Arc<AtomicBool>,
) -> Result<Measurement, Failure> {
    let table = format!("bench-{:08x}", rand::random::<u32>());
    let mut progress = Progress::new("", Arc::clone(stop), cluster.processes());
    let plan = args.plan();
    let measured = match args.via {
        Via::Http => {
            let target = Http::new(endpoints, &*table, ANSWER)?.tls(tls)?;
            bench::run(&Arc::new(target), &plan, &mut progress)
        }
        Via::Client => {
            let target = Clients::new(endpoints.to_vec(), &*table, ANSWER)
                .tls(tls.clone())
                .with_access_token(client::token_of_environment()?);
            bench::run(&Arc::new(target), &plan, &mut progress)
        }
        Via::Shared => {
            let client = client::builder()?.endpoints(endpoints.to_vec()).timeout(ANSWER);
            let client = client.tls(tls.clone()).build()?;
            // One client's connections belong to one runtime.
            let plan = Plan { threads: 1, ..plan };
            let target = Services::new(vec![client], &*table);
            bench::run(&Arc::new(target), &plan, &mut progress)
        }
    };
    progress.clear();
    runtime.block_on(cluster.clean(&table));
    measured.map_err(|failure| unmeasured(&failure))
}

/// The failure of a run in which nothing could be measured.
fn unmeasured(failure: &Unmeasured) -> Failure {
    Failure::new(exit::UNAVAILABLE, format!("the load cannot begin: {failure}"))
        .advise("Look at the nodes with `keyward cluster status`.")
}
