//! `keyward conformance`: runs the script suite on any service that answers lock requests.

use std::path::PathBuf;

use clap::Args;

use crate::cli::client::{self, EndpointList, TlsArgs};
use crate::cli::exit::{self, Failure, Outcome};
use crate::cli::logging::{self, LogArgs};
use crate::cli::output;
use crate::client::tls::Tls;
use crate::conformance::{self, EndpointBootstrap, MemoryBootstrap, Options, Report, Script};

const HELP: &str = "\
Examples:
  keyward conformance                                       the embedded service in memory
  keyward conformance levels renew                          only scripts with such names
  keyward conformance --endpoints http://127.0.0.1:7420     a running cluster
  keyward dev -- keyward conformance                        three nodes, started for this

Exit codes:
  0  every script gave the expected output
  1  a script gave another output; the difference is shown
  2  the command line is wrong
  3  the cluster does not answer

Environment:
  KEYWARD_ENDPOINTS: the cluster to run on; left out, memory.";

/// Run the conformance suite
///
/// The scripts are the specification of the lock service: each is a chain of requests with the
/// answers that must come. They run on the embedded service in memory, or on a cluster, in tables
/// of their own that are deleted at the end. On a cluster that was not started with
/// --debug-clock, scripts that wait for a lock to expire really wait.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct ConformanceArgs {
    /// The cluster to run on; left out, the embedded service in memory
    #[arg(long, value_name = "URL,…", env = "KEYWARD_ENDPOINTS", hide_env_values = true)]
    endpoints: Vec<EndpointList>,
    #[command(flatten)]
    tls: TlsArgs,
    /// Only scripts whose names contain one of these words
    #[arg(value_name = "WORD")]
    words: Vec<String>,
    /// A folder of scripts to run in place of the built-in ones
    #[arg(long, value_name = "DIR")]
    scripts: Option<PathBuf>,
    /// Print one JSON document with the result of every script
    #[arg(long)]
    json: bool,
}

/// Runs the suite.
pub(crate) fn run(args: &ConformanceArgs, logging: &LogArgs) -> Outcome {
    logging::start(logging, "warn")?;
    let scripts = match &args.scripts {
        Some(folder) => Script::read_folder(folder).map_err(|error| {
            Failure::usage(format!("cannot read the scripts in {}: {error}", folder.display()))
        })?,
        None => conformance::scripts(),
    };
    let known = scripts.len();
    let options = Options { scripts, ..Options::default() }.matching(&args.words);
    if options.scripts.is_empty() {
        let words = args.words.join(", ");
        let wrong = format!("none of {known} scripts has a name that contains: {words}");
        return Err(Failure::usage(wrong));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(exit::BROKEN, format!("cannot start: {error}")))?;
    let endpoints = EndpointList::of(&args.endpoints);
    let report = if endpoints.is_empty() {
        runtime.block_on(conformance::run(MemoryBootstrap::new(), options))
    } else {
        runtime.block_on(run_on_cluster(&endpoints, args.tls.read()?, options))?
    };
    if args.json {
        output::print_json(&document(&report));
    } else {
        output::print(&format!("{report}\n"));
    }
    Ok(if report.passed() { exit::OK } else { exit::REFUSED })
}

async fn run_on_cluster(
    endpoints: &[String],
    tls: Tls,
    options: Options,
) -> Result<Report, Failure> {
    let token = client::token_of_environment()?;
    let bootstrap = EndpointBootstrap::connect_with(endpoints, tls, token).await?;
    if bootstrap.waits() {
        let cluster = endpoints.join(", ");
        let wait = "runs by itself: waiting for locks to expire";
        output::say(&format!("the clock of {cluster} {wait}"));
    }
    let options = bootstrap.options(options);
    Ok(conformance::run(bootstrap, options).await)
}

fn document(report: &Report) -> serde_json::Value {
    let scripts = report.results.iter().map(|result| {
        let (outcome, detail) = match &result.outcome {
            conformance::Outcome::Passed => ("passed", None),
            conformance::Outcome::Mismatch { diff } => ("mismatch", Some(diff)),
            conformance::Outcome::TooSlow { diff, .. } => ("too_slow", Some(diff)),
            conformance::Outcome::Error { reason } => ("error", Some(reason)),
        };
        serde_json::json!({ "name": result.name, "outcome": outcome, "detail": detail })
    });
    let scripts = scripts.collect::<Vec<_>>();
    serde_json::json!({ "passed": report.passed(), "scripts": scripts })
}
