//! `keyward cluster`: what the nodes say about themselves.

use clap::{Args, Subcommand};

use crate::cli::client::ClientArgs;
use crate::cli::exit::Outcome;
use crate::cli::logging::LogArgs;

const STATUS_HELP: &str = "\
Examples:
  keyward cluster status --endpoints http://a:7420,http://b:7420,http://c:7420
  keyward cluster status --json | jq -r '.leader'

Exit codes:
  0  a leader is known and a majority of the members answers
  2  the command line is wrong
  3  there is no leader, or too few members answer: the cluster cannot take requests

Environment:
  KEYWARD_ENDPOINTS, KEYWARD_TIMEOUT, KEYWARD_LOG: see the options.";

/// Look at the nodes of a cluster
#[derive(Debug, Args)]
pub(crate) struct ClusterArgs {
    #[command(subcommand)]
    command: ClusterCommand,
}

#[derive(Debug, Subcommand)]
enum ClusterCommand {
    Status(StatusArgs),
}

/// Show every node: its role, term, log and lag
///
/// Asks every endpoint, and the members that they name. A node that does not answer is shown as
/// unreachable.
#[derive(Debug, Args)]
#[command(after_help = STATUS_HELP)]
struct StatusArgs {
    #[command(flatten)]
    client: ClientArgs,
}

pub(crate) fn run(args: ClusterArgs, logging: &LogArgs) -> Outcome {
    Err(crate::cli::exit::Failure::unbuilt(&(args, logging)))
}
