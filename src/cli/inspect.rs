//! `keyward inspect`: prints a data folder readably, offline.

use std::path::PathBuf;

use clap::Args;

use crate::cli::exit::Outcome;

const HELP: &str = "\
Examples:
  keyward inspect /var/lib/keyward
  keyward inspect /var/lib/keyward --entries 1000 --json

Exit codes:
  0  printed, and nothing is damaged
  1  printed, and something is damaged: the report says which file
  2  there is no such folder, or it cannot be read";

/// Print the log, the vote, the snapshot and the state of a data folder
///
/// Reads only, and changes nothing; the node need not be stopped, but a running one may write while
/// this reads. What is damaged is shown as damaged, never skipped.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct InspectArgs {
    /// The data folder of a node
    data_dir: PathBuf,
    /// How many of the newest log entries to show
    #[arg(long, value_name = "N", default_value_t = 20)]
    entries: u64,
    /// How many locks of the state to show
    #[arg(long, value_name = "N", default_value_t = 20)]
    locks: usize,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &InspectArgs) -> Outcome {
    Err(crate::cli::exit::Failure::unbuilt(&(args,)))
}
