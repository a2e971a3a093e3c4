//! `keyward unlock`: releases one lock.

use clap::Args;

use crate::cli::client::{self, ClientArgs};
use crate::cli::exit::{CLIENT_HELP, Outcome};
use crate::cli::logging::LogArgs;

const EXAMPLES: &str = "\
Examples:
  keyward unlock jobs/nightly --signee worker-1
  keyward unlock jobs/nightly --signee worker-1 --token 17     only if that grant still holds it
";

/// Release a lock
///
/// A lock that does not exist is a success: it says `no_lock`. A lock that another holds, or that
/// has another token than the one given, stays as it is.
#[derive(Debug, Args)]
#[command(after_help = help())]
pub(crate) struct UnlockArgs {
    /// The lock's name
    signature: String,
    /// The owner that releases it
    #[arg(long, env = "KEYWARD_SIGNEE", hide_env_values = true)]
    signee: String,
    /// The run of the signee that holds it, if it named one
    #[arg(long, env = "KEYWARD_INSTANCE", hide_env_values = true)]
    instance: Option<String>,
    /// Release only the grant with this token
    #[arg(long)]
    token: Option<u64>,
    #[command(flatten)]
    table: client::TableArg,
    #[command(flatten)]
    client: ClientArgs,
}

fn help() -> String {
    format!("{EXAMPLES}\n{CLIENT_HELP}")
}

pub(crate) fn run(args: UnlockArgs, logging: &LogArgs) -> Outcome {
    Err(crate::cli::exit::Failure::unbuilt(&(args, logging)))
}
