//! `keyward deadlocks`: owners that wait for each other.

use std::fmt::Write as _;

use clap::Args;

use crate::api::DeadlocksAnswer;
use crate::cli::client::{self, ClientArgs, Ended};
use crate::cli::exit::{self, CLIENT_HELP, Outcome};
use crate::cli::logging::LogArgs;
use crate::cli::output;
use crate::service::LockService;
use crate::types::{DeadlocksResponse, ReadOptions};

const EXAMPLES: &str = "\
Examples:
  keyward deadlocks
  keyward deadlocks --json | jq '.cycles[][].signature'
";

/// Show owners that wait for each other
///
/// Each owner of a cycle holds a lock that the one before it waits for, so none of them goes on
/// until a wait ends, a grant expires or `keyward release` ends one of them. Only owners of the
/// same name are the same: a program that names a new --instance for each lock is not found. Exit
/// code 0 says that there is no deadlock, and 1 that there is.
#[derive(Debug, Args)]
#[command(after_help = help())]
pub(crate) struct DeadlocksArgs {
    /// Answer from the copy of the node that is asked, however old it is
    #[arg(long)]
    stale: bool,
    #[command(flatten)]
    client: ClientArgs,
}

fn help() -> String {
    format!("{EXAMPLES}\n{CLIENT_HELP}")
}

pub(crate) fn run(args: &DeadlocksArgs, logging: &LogArgs) -> Outcome {
    client::ask(args.client.json, logging, async {
        let service = args.client.connect()?;
        execute(&service, args).await
    })
}

async fn execute(service: &impl LockService, args: &DeadlocksArgs) -> Result<u8, Ended> {
    let options = ReadOptions { table: None, stale: args.stale, call: args.client.call() };
    let found = service.deadlocks(options).await?;
    if args.client.json {
        output::print_json(&DeadlocksAnswer::from(&found));
    } else {
        output::print(&describe(&found));
    }
    Ok(if found.cycles.is_empty() { exit::OK } else { exit::REFUSED })
}

fn describe(found: &DeadlocksResponse) -> String {
    let mut text = String::new();
    for (number, cycle) in found.cycles.iter().enumerate() {
        // Writing to a string does not fail.
        let _ = writeln!(text, "deadlock {} of {}:", number + 1, found.cycles.len());
        for (edge, next) in cycle.iter().zip(cycle.iter().cycle().skip(1)) {
            let _ = writeln!(
                text,
                "  {} waits for {} (table {}), held by {}",
                output::owner(&edge.signee, edge.instance.as_deref()),
                output::visible(&edge.signature),
                output::visible(&edge.table),
                output::owner(&next.signee, next.instance.as_deref())
            );
        }
    }
    if found.cycles.is_empty() {
        text.push_str("no deadlocks\n");
    }
    if found.cut {
        text.push_str("the search ended early: there are more waits than it looks at\n");
    }
    text
}
