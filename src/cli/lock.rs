//! `keyward lock`: takes, renews or takes over one lock, once.

use std::time::Duration;

use clap::Args;

use crate::cli::client::ClientArgs;
use crate::cli::exit::{CLIENT_HELP, Outcome};
use crate::cli::logging::LogArgs;
use crate::cli::{client, duration};

const EXAMPLES: &str = "\
Examples:
  keyward lock jobs/nightly --signee worker-1
  keyward lock jobs/nightly --signee worker-1 --duration 5m --level 10
  keyward lock jobs/nightly --signee worker-1 --token 17            renew it, never take it anew
  keyward lock jobs/nightly --signee worker-1 --json | jq .token
";

/// Take a lock, renew it, or take it over
///
/// A free lock, an expired one, or one held at a lower level is yours; a lock that you hold already
/// is renewed; anything else is refused and says who holds it. Nothing renews the lock after this
/// command: it expires after its duration, and another may take it then. To hold a lock while a
/// command runs, use `keyward run`.
///
/// The token grows with every grant. Hand it to what the lock protects, and let that refuse a token
/// smaller than one it has seen.
#[derive(Debug, Args)]
#[command(after_help = concat_help(), after_long_help = concat_help())]
pub(crate) struct LockArgs {
    /// The lock's name, 1 to 1024 bytes
    pub(crate) signature: String,
    /// The owner that asks: a name, never an authorisation
    #[arg(long, env = "KEYWARD_SIGNEE", hide_env_values = true)]
    pub(crate) signee: String,
    /// Tells two runs of one signee apart; another instance is another owner
    #[arg(long, env = "KEYWARD_INSTANCE", hide_env_values = true)]
    pub(crate) instance: Option<String>,
    /// Priority: a higher level takes the lock from a lower one [default: 0]
    #[arg(long, allow_negative_numbers = true, value_parser = client::parse_level)]
    pub(crate) level: Option<i64>,
    /// Take the lock whoever holds it
    #[arg(long)]
    pub(crate) force: bool,
    /// How long until it expires, up to 366d [default: the table's, or else 30s]
    #[arg(long, value_parser = duration::parse_positive)]
    pub(crate) duration: Option<Duration>,
    /// How long until its record is removed; not shorter than the duration
    #[arg(long, value_name = "DURATION", value_parser = duration::parse_positive)]
    pub(crate) time_to_live: Option<Duration>,
    /// Renew only: refused unless the lock is mine, has this token and is not expired
    #[arg(long)]
    pub(crate) token: Option<u64>,
    #[command(flatten)]
    pub(crate) table: client::TableArg,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

fn concat_help() -> String {
    format!("{EXAMPLES}\n{CLIENT_HELP}")
}

pub(crate) fn run(args: LockArgs, logging: &LogArgs) -> Outcome {
    Err(crate::cli::exit::Failure::unbuilt(&(args, logging)))
}
