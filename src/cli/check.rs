//! `keyward check`: shows one lock.

use clap::Args;

use crate::cli::client::{self, ClientArgs};
use crate::cli::exit::{CLIENT_HELP, Outcome};
use crate::cli::logging::LogArgs;

const EXAMPLES: &str = "\
Examples:
  keyward check jobs/nightly
  keyward check jobs/nightly --json | jq -r '.holders[0].signee'
";

/// Show who holds a lock
///
/// It tells what was when the cluster answered. A lock is held by holding it, not by looking: to
/// act under a lock, take it and use its token. Exit code 0 says that the lock has a record, which
/// may be expired; 1 that it has none.
#[derive(Debug, Args)]
#[command(after_help = help())]
pub(crate) struct CheckArgs {
    /// The lock's name
    signature: String,
    #[command(flatten)]
    read: client::ReadArgs,
    #[command(flatten)]
    client: ClientArgs,
}

fn help() -> String {
    format!("{EXAMPLES}\n{CLIENT_HELP}")
}

pub(crate) fn run(args: CheckArgs, logging: &LogArgs) -> Outcome {
    Err(crate::cli::exit::Failure::unbuilt(&(args, logging)))
}
