//! `keyward check`: shows one lock.

use std::fmt::Write as _;

use clap::Args;

use crate::api::{CheckAnswer, Problem};
use crate::cli::client::{self, ClientArgs, Ended};
use crate::cli::exit::{self, CLIENT_HELP, Failure, Outcome};
use crate::cli::logging::LogArgs;
use crate::cli::{duration, output};
use crate::error::Error;
use crate::service::LockService;
use crate::types::LockRecord;

const EXAMPLES: &str = "\
Examples:
  keyward check jobs/nightly
  keyward check jobs/nightly --json | jq -r '.holders[0].signee'
";

/// Show who holds a lock
///
/// It tells what was when the cluster answered. A lock is held by holding it, not by looking: to
/// act under a lock, take it and use its token. Exit code 0 says that the lock has a record, which
/// may be expired; 1 that it has none. `keyward show` has its queue, too.
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
    client::ask(args.client.json, logging, async {
        let service = args.client.connect()?;
        execute(&service, args).await
    })
}

async fn execute(service: &impl LockService, args: CheckArgs) -> Result<u8, Ended> {
    let options = args.read.options(&args.client);
    let record = match service.check(args.signature.clone(), options).await {
        Ok(response) => response.record,
        Err(error) => return Err(explain(error, &args.signature, args.client.json)),
    };
    if args.client.json {
        output::print_json(&CheckAnswer::from(&record));
    } else {
        output::print(&describe(&record));
    }
    Ok(exit::OK)
}

/// The end of a read: "not found" names the lock.
pub(crate) fn explain(error: Error, signature: &str, json: bool) -> Ended {
    if let Error::NotFound { .. } = error {
        if json {
            output::print_json(&Problem::from(&error));
        }
        let name = output::visible(signature);
        return Failure::new(exit::REFUSED, format!("there is no lock {name}: it is free")).into();
    }
    error.into()
}

fn describe(record: &LockRecord) -> String {
    let name = output::visible(&record.signature);
    let mut text = String::new();
    for holder in &record.holders {
        let had = if holder.expired { "was held by" } else { "is held by" };
        // Writing to a string does not fail.
        let _ = write!(text, "{name} {had} {}", output::holder(holder));
        if let Some(removed_in) = holder.removed_in {
            let _ = write!(text, ", removed in {}", duration::format_short(removed_in));
        }
        text.push('\n');
    }
    if record.more_holders > 0 {
        let _ = writeln!(text, "{name} is held by {} more", record.more_holders);
    }
    match record.waiting {
        0 => {}
        1 => text.push_str("1 waits for it: see `keyward show`\n"),
        many => {
            let _ = writeln!(text, "{many} wait for it: see `keyward show`");
        }
    }
    text
}
