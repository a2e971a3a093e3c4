//! `keyward conformance`: runs the script suite on anything that answers lock requests.

use std::path::PathBuf;

use clap::Args;

use crate::cli::exit::Outcome;
use crate::cli::logging::LogArgs;

const HELP: &str = "\
Examples:
  keyward conformance                                       the embedded service in memory
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
/// of their own that are deleted before and after. On a cluster that was not started with
/// --debug-clock, scripts that wait for a lock to expire really wait.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct ConformanceArgs {
    /// The cluster to run on; left out, the embedded service in memory
    #[arg(long, value_name = "URL,…", env = "KEYWARD_ENDPOINTS", hide_env_values = true)]
    #[arg(value_delimiter = ',')]
    endpoints: Vec<String>,
    /// Only scripts whose names contain this
    #[arg(value_name = "FILTER")]
    filter: Option<String>,
    /// A folder of scripts to run in place of the built-in ones
    #[arg(long, value_name = "DIR")]
    scripts: Option<PathBuf>,
    /// Print one JSON document with the result of every script
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: ConformanceArgs, logging: &LogArgs) -> Outcome {
    Err(crate::cli::exit::Failure::unbuilt(&(args, logging)))
}
