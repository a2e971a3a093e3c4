//! The terms of a request beyond its owner and its level: mode, wait and lock-delay, as `lock` and
//! `run` take them.

use std::time::Duration;

use clap::Args;

use crate::cli::duration;
use crate::client::Acquire;
use crate::types::{MAX_DURATION, MAX_PERMITS, Mode};

/// Mode, wait and lock-delay.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Waiting and sharing")]
pub(crate) struct TermArgs {
    /// Wait in the queue for as long as this, up to 366d; without a duration for as long as it
    /// takes [default: not at all]
    #[arg(long, value_name = "DURATION", value_parser = parse_wait, conflicts_with = "force")]
    #[arg(num_args = 0..=1, default_missing_value = FOR_EVER)]
    pub(crate) wait: Option<Duration>,
    /// Hold it together with all others that ask with --shared
    #[arg(long)]
    shared: bool,
    /// Take one of this many permits, 1 to 65535; all must name the same number
    #[arg(long, value_name = "PERMITS", conflicts_with = "shared")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_PERMITS)))]
    limit: Option<u32>,
    /// How long nobody else has the lock after it expired, up to 60s; a release ends that [default:
    /// the table's, or else 0s]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    lock_delay: Option<Duration>,
}

/// The value of a `--wait` without a duration.
const FOR_EVER: &str = "forever";

fn parse_wait(text: &str) -> Result<Duration, String> {
    if text == FOR_EVER {
        return Ok(Duration::MAX);
    }
    match duration::parse(text) {
        Ok(wait) if wait > MAX_DURATION => {
            Err("it must be at most 366d; without a duration it has no end".to_owned())
        }
        Ok(wait) => Ok(wait),
        Err(wrong) => Err(format!("{wrong}; put --wait without a duration after the lock's name")),
    }
}

impl TermArgs {
    /// The time to wait, if there is any.
    pub(crate) fn wait(&self) -> Option<Duration> {
        self.wait.filter(|wait| !wait.is_zero())
    }

    /// The request with these terms.
    pub(crate) fn apply(&self, mut request: Acquire) -> Acquire {
        if self.shared {
            request = request.mode(Mode::Shared);
        }
        if let Some(limit) = self.limit {
            request = request.limit(limit);
        }
        request.options.wait = self.wait();
        request.options.lock_delay = self.lock_delay;
        request
    }
}
