//! `keyward tables` and `keyward table`: named sets of locks, and their defaults.

use std::time::Duration;

use clap::{Args, Subcommand};

use crate::cli::client::ClientArgs;
use crate::cli::duration;
use crate::cli::exit::{CLIENT_HELP, Outcome};
use crate::cli::logging::LogArgs;

/// List the tables
///
/// A table is a named set of locks with its own defaults. It is there as soon as a lock is taken in
/// it or its defaults are set.
#[derive(Debug, Args)]
#[command(after_help = CLIENT_HELP)]
pub(crate) struct TablesArgs {
    /// Answer from the copy of the node that is asked, however old it is
    #[arg(long)]
    stale: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// Configure or delete a table
#[derive(Debug, Args)]
#[command(after_help = CLIENT_HELP)]
pub(crate) struct TableArgs {
    #[command(subcommand)]
    command: TableCommand,
}

#[derive(Debug, Subcommand)]
enum TableCommand {
    Configure(ConfigureArgs),
    Delete(DeleteArgs),
}

/// Set what a table gives to later requests that leave it out
///
/// Both defaults are set together: one that is left out goes back to what the service gives, 30s
/// and no removal. Locks that are held keep what they have until they are renewed.
#[derive(Debug, Args)]
#[command(after_help = CLIENT_HELP)]
struct ConfigureArgs {
    /// The table's name
    table: String,
    /// The duration of a grant [default: 30s]
    #[arg(long, value_parser = duration::parse_positive)]
    duration: Option<Duration>,
    /// The least time until a record is removed [default: never]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse_positive)]
    time_to_live: Option<Duration>,
    #[command(flatten)]
    client: ClientArgs,
}

/// Delete a table: its locks, held ones too, and its defaults
///
/// Whoever holds one of its locks loses it. Tokens of later grants are larger than all before.
#[derive(Debug, Args)]
#[command(after_help = CLIENT_HELP)]
struct DeleteArgs {
    /// The table's name
    table: String,
    /// Do it: without this, nothing is deleted
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    client: ClientArgs,
}

pub(crate) fn run_list(args: TablesArgs, logging: &LogArgs) -> Outcome {
    Err(crate::cli::exit::Failure::unbuilt(&(args, logging)))
}

pub(crate) fn run(args: TableArgs, logging: &LogArgs) -> Outcome {
    Err(crate::cli::exit::Failure::unbuilt(&(args, logging)))
}
