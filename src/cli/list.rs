//! `keyward list`: shows the locks of a table, page by page.

use clap::Args;

use crate::cli::client::{self, ClientArgs};
use crate::cli::exit::{CLIENT_HELP, Outcome};
use crate::cli::logging::LogArgs;

const EXAMPLES: &str = "\
Examples:
  keyward list jobs/                       locks whose names begin with jobs/
  keyward list --all --json                every lock of the table, one JSON object
  keyward list --after jobs/k --limit 10   the ten locks that follow jobs/k
";

/// List the locks of a table
///
/// In byte order of their names; expired ones are included and marked. Pages are read one after the
/// other, so that a long list is not one moment's picture.
#[derive(Debug, Args)]
#[command(after_help = help())]
pub(crate) struct ListArgs {
    /// Only locks whose names begin with this
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,
    /// At most this many, 1 to 1000
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Only locks that follow this name in byte order
    #[arg(long, value_name = "NAME")]
    after: Option<String>,
    /// All pages, not only the first
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    read: client::ReadArgs,
    #[command(flatten)]
    client: ClientArgs,
}

fn help() -> String {
    format!("{EXAMPLES}\n{CLIENT_HELP}")
}

pub(crate) fn run(args: ListArgs, logging: &LogArgs) -> Outcome {
    Err(crate::cli::exit::Failure::unbuilt(&(args, logging)))
}
