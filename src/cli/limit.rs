//! `keyward limit`: changes the number of permits of a lock.

use clap::Args;

use crate::api::{LimitAnswer, LimitStatusWord};
use crate::cli::client::{self, ClientArgs, Ended};
use crate::cli::exit::{self, CLIENT_HELP, Failure, Outcome};
use crate::cli::logging::LogArgs;
use crate::cli::output;
use crate::client::Client;
use crate::service::LockService as _;
use crate::types::{MAX_PERMITS, TableOptions};

const EXAMPLES: &str = "\
Examples:
  keyward limit gpus 8
";

/// Change the number of permits of a lock
///
/// A lock has the limit that its holders and waiters named with `--limit`, until none of them is
/// left. A larger one lets those in that wait; with a smaller one all holders stay until they go.
/// Whoever asks later must name the new one. Exit code 1 says that nobody holds the lock or waits
/// for it with a limit.
#[derive(Debug, Args)]
#[command(after_help = help())]
pub(crate) struct LimitArgs {
    /// The lock's name
    signature: String,
    /// The number of permits, 1 to 65535
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_PERMITS)))]
    limit: u32,
    #[command(flatten)]
    cause: client::CauseArg,
    #[command(flatten)]
    table: client::TableArg,
    #[command(flatten)]
    client: ClientArgs,
}

fn help() -> String {
    format!("{EXAMPLES}\n{CLIENT_HELP}")
}

pub(crate) fn run(args: LimitArgs, logging: &LogArgs) -> Outcome {
    client::ask(args.client.json, logging, async {
        let client = args.client.connect()?;
        execute(&client, args).await
    })
}

async fn execute(client: &Client, args: LimitArgs) -> Result<u8, Ended> {
    let options = TableOptions {
        table: Some(args.table.table),
        request_id: None,
        call: args.cause.call(&args.client.reach),
    };
    let changed = client.set_limit(args.signature.clone(), args.limit, options).await;
    let is_changed = client::explained(client, changed).await?;
    if args.client.json {
        let status = if is_changed { LimitStatusWord::Ok } else { LimitStatusWord::NoLimit };
        output::print_json(&LimitAnswer { status });
    }
    let name = output::visible(&args.signature);
    if !is_changed {
        let why = format!("{name} has no limit: nobody holds it or waits for it with --limit");
        return Err(Failure::new(exit::REFUSED, why).into());
    }
    if !args.client.json {
        output::print(&format!("{name} has the limit {}\n", args.limit));
    }
    Ok(exit::OK)
}
