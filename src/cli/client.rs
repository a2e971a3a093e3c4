//! What the client commands share: their options, the way they print, the way they end.

use std::io::Write as _;
use std::time::Duration;

use clap::Args;

use crate::cli::duration;

/// The options of every command that asks a cluster.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Cluster")]
pub(crate) struct ClientArgs {
    /// Where the nodes listen for clients; any of them takes any request
    #[arg(long, value_name = "URL,…", env = "KEYWARD_ENDPOINTS", hide_env_values = true)]
    #[arg(value_delimiter = ',', default_value = "http://127.0.0.1:7420")]
    pub(crate) endpoints: Vec<String>,
    /// How long to try before giving up
    #[arg(long, value_name = "DURATION", env = "KEYWARD_TIMEOUT", hide_env_values = true)]
    #[arg(value_parser = duration::parse_positive, default_value = "5s")]
    pub(crate) timeout: Duration,
    /// Print one JSON document with the fields of the HTTP API, errors too
    #[arg(long)]
    pub(crate) json: bool,
}

/// Names the table.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Cluster")]
pub(crate) struct TableArg {
    /// The set of locks that the name belongs to
    #[arg(long, env = "KEYWARD_TABLE", hide_env_values = true, default_value = "default")]
    pub(crate) table: String,
}

/// The options of every read.
#[derive(Clone, Debug, Args)]
pub(crate) struct ReadArgs {
    /// Answer from the copy of the node that is asked, however old it is. Left out, the answer
    /// holds everything that was acknowledged before the question
    #[arg(long)]
    pub(crate) stale: bool,
    #[command(flatten)]
    pub(crate) table: TableArg,
}

/// Reads a level: an integer that every JSON implementation carries exactly.
///
/// # Errors
/// It is not one.
pub(crate) fn parse_level(text: &str) -> Result<i64, String> {
    let limit = i64::try_from(crate::types::MAX_SAFE_INTEGER).unwrap_or(i64::MAX);
    match text.parse::<i64>() {
        Ok(level) if (-limit..=limit).contains(&level) => Ok(level),
        _ => Err(format!("a level is an integer from -{limit} to {limit}")),
    }
}

/// Prints to standard output. A reader that has gone away (`keyward list | head`) is no error: the
/// rest is not wanted.
pub(crate) fn print(text: &str) {
    let mut stdout = std::io::stdout().lock();
    // The only failure that matters here is the reader's going away, and it is its own choice.
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}
