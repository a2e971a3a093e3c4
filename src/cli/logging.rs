//! Where the log goes: standard error, as text or as JSON lines, coloured only on a terminal.

use std::io::IsTerminal as _;

use clap::{Args, ValueEnum};
use serde::Deserialize;
use tracing_subscriber::EnvFilter;

use crate::cli::exit::Failure;

/// What is logged and how; the same for every command.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct LogArgs {
    /// What to log to standard error: error, warn, info, debug, trace, or a filter by module such
    /// as `info,keyward::http=debug` [default: info,openraft=warn for serve, error for dev, warn otherwise]
    #[arg(long, value_name = "FILTER", env = "KEYWARD_LOG", global = true)]
    #[arg(help_heading = "Logging", hide_env_values = true)]
    pub(crate) log: Option<String>,
    /// One line of text, or one JSON object, per event [default: text]
    #[arg(long, value_name = "FORMAT", env = "KEYWARD_LOG_FORMAT", global = true)]
    #[arg(help_heading = "Logging", hide_env_values = true)]
    pub(crate) log_format: Option<LogFormat>,
}

/// How an event is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LogFormat {
    /// One line of text.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

/// Starts logging with what was asked for, or with `default`.
///
/// # Errors
/// The filter does not parse.
pub(crate) fn start(args: &LogArgs, default: &str) -> Result<(), Failure> {
    let filter = args.log.as_deref().unwrap_or(default);
    let filter = EnvFilter::builder().parse(filter).map_err(|error| {
        Failure::usage(format!("--log (KEYWARD_LOG) is not a filter: {error}")).advise(
            "Write a level (error, warn, info, debug, trace) or `info,keyward::http=debug`.",
        )
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // It would say with `eprintln!` that standard error is gone, and panic.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal());
    // A second subscriber is refused: the first one then goes on, which only tests can see.
    let started = match args.log_format.unwrap_or_default() {
        LogFormat::Text => builder.with_target(true).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| Failure::new(super::exit::BROKEN, format!("cannot log: {error}")))
}
