//! The log on standard error, as text or as JSON lines, coloured only on a terminal.

use std::io::IsTerminal as _;

use clap::{Args, ValueEnum};
use serde::Deserialize;
use tracing_subscriber::EnvFilter;

use crate::cli::exit::Failure;
use crate::cli::log_writer;

/// The options of the log, the same for every command.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct LogArgs {
    /// What to log to standard error: error, warn, info, debug, trace, or a filter by module such
    /// as `info,keyward::http=debug` [default: info for serve, error for dev, warn otherwise, each
    /// without what the consensus library says, which `openraft=warn` adds]
    #[arg(long, value_name = "FILTER", env = "KEYWARD_LOG", global = true)]
    #[arg(help_heading = "Logging", hide_env_values = true)]
    pub(crate) log: Option<String>,
    /// One line of text, or one JSON object, per event [default: text]
    #[arg(long, value_name = "FORMAT", env = "KEYWARD_LOG_FORMAT", global = true)]
    #[arg(help_heading = "Logging", hide_env_values = true)]
    pub(crate) log_format: Option<LogFormat>,
}

impl LogArgs {
    /// The same options as arguments, for a process that this one starts.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let log = self.log.iter().map(|filter| format!("--log={filter}"));
        let format = self.log_format.map(|format| match format {
            LogFormat::Text => "--log-format=text".to_owned(),
            LogFormat::Json => "--log-format=json".to_owned(),
        });
        log.chain(format).collect()
    }
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

/// The default filter for the consensus library, which logs nothing of it. Most of its warnings are
/// single failed messages, in the terms of its source, and it reports an orderly stop as an error.
/// The node itself logs what an operator needs to know: a member that is lost, and a core that has
/// stopped.
///
/// The check of certificates against the system's CAs logs each failure, which the client reports
/// anyway.
const QUIET: &str = "openraft=off,rustls_platform_verifier=off";

/// The levels of a filter.
const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// The crates that log, by their names in a filter.
const CRATES: [&str; 11] = [
    "keyward",
    "openraft",
    "hyper",
    "hyper_util",
    "reqwest",
    "axum",
    "tower",
    "sled",
    "tokio",
    "mio",
    "rustls",
];

/// Starts logging with the given filter, or with the level `default`.
///
/// # Errors
/// The filter does not parse, or names a level or crate that does not exist.
pub(crate) fn start(args: &LogArgs, default: &str) -> Result<(), Failure> {
    let filter = filter(args.log.as_deref(), default).map_err(|error| {
        Failure::usage(format!("--log (KEYWARD_LOG) is not a filter: {error}")).advise(
            "Write a level (error, warn, info, debug, trace, off) or `info,keyward::http=debug`.",
        )
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(log_writer::writer)
        // It would report with `eprintln!` that standard error is closed, and panic.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal());
    // A second subscriber is refused and the first one stays, which happens only in tests.
    let started = match args.log_format.unwrap_or_default() {
        LogFormat::Text => builder.with_target(true).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| Failure::new(super::exit::BROKEN, format!("cannot log: {error}")))
}

fn filter(asked: Option<&str>, default: &str) -> Result<EnvFilter, String> {
    let Some(asked) = asked else {
        return Ok(EnvFilter::new(format!("{default},{QUIET}")));
    };
    known(asked)?;
    // A bare level is meant for this program's own crate.
    let about_openraft = asked.split(',').any(|part| part.trim().starts_with("openraft"));
    let filter = if about_openraft { asked.to_owned() } else { format!("{QUIET},{asked}") };
    EnvFilter::builder().parse(filter).map_err(|error| error.to_string())
}

/// Refuses levels and targets that do not exist: with a misspelt one, nothing would be logged.
fn known(filter: &str) -> Result<(), String> {
    // Spans and their fields have a grammar of their own.
    if filter.contains('[') {
        return Ok(());
    }
    for part in filter.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (target, level) = match part.split_once('=') {
            Some((target, level)) => (Some(target), Some(level)),
            None if is_level(part) => (None, Some(part)),
            None => (Some(part), None),
        };
        if let Some(level) = level.filter(|level| !is_level(level)) {
            return Err(format!("`{level}` is no level ({})", LEVELS.join(", ")));
        }
        let crate_of = |target: &str| target.split("::").next().unwrap_or_default().to_owned();
        if let Some(target) = target.filter(|target| !CRATES.contains(&crate_of(target).as_str())) {
            let (levels, crates) = (LEVELS.join(", "), CRATES.join(", "));
            return Err(format!(
                "`{target}` is neither a level ({levels}) nor a part of this program ({crates})"
            ));
        }
    }
    Ok(())
}

fn is_level(text: &str) -> bool {
    LEVELS.iter().any(|level| level.eq_ignore_ascii_case(text))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_misspelt_level_is_no_module() {
        for (filter, wrong) in [
            ("inof", "`inof` is neither a level (error, warn, info, debug, trace, off)"),
            ("keyward=inof", "`inof` is no level"),
            ("info,keywrd::http=debug", "`keywrd::http` is neither"),
            ("info, hypr=warn", "`hypr` is neither"),
            ("=", "`` is no level"),
        ] {
            let refused = super::filter(Some(filter), "info").map(|filter| filter.to_string());
            let refused = refused.expect_err(filter);
            assert!(refused.contains(wrong), "{filter}: {refused}");
        }
    }

    #[test]
    fn a_filter_that_says_nothing_of_the_consensus_library_leaves_it_out() {
        let text = |asked| super::filter(asked, "warn").expect("it is a filter").to_string();
        for asked in [None, Some("INFO"), Some("debug,keyward::http=trace"), Some("keyward")] {
            assert!(text(asked).contains("openraft=off"), "{asked:?}: {}", text(asked));
        }
        assert!(!text(Some("info,openraft=debug")).contains("off"));
        assert!(text(Some("info,[lock{a=1}]=debug")).contains("lock"));
    }
}
