//! `keyward verify`: says whether a token is live.

use clap::Args;

use crate::api::VerifyAnswer;
use crate::cli::client::{self, ClientArgs, Ended};
use crate::cli::exit::{self, CLIENT_HELP, Outcome};
use crate::cli::logging::LogArgs;
use crate::cli::output;
use crate::service::LockService;
use crate::types::{ReadOptions, Token};

const EXAMPLES: &str = "\
Examples:
  keyward verify jobs/nightly 17 && ./publish.sh
  keyward verify jobs/nightly $KEYWARD_LOCK_TOKEN --json | jq .live
";

/// Ask whether a token is live
///
/// Exit code 0 says that the grant with this token held the lock when the cluster answered, and 1
/// that it did not: it was released, has expired, was taken, or never was. The answer holds
/// everything that was acknowledged before the question, and is old when it is read: a resource
/// that can compare tokens itself, and refuses smaller ones, is safer.
#[derive(Debug, Args)]
#[command(after_help = help())]
pub(crate) struct VerifyArgs {
    /// The lock's name
    signature: String,
    /// The token
    #[arg(value_parser = client::parse_token)]
    token: Token,
    #[command(flatten)]
    table: client::TableArg,
    #[command(flatten)]
    client: ClientArgs,
}

fn help() -> String {
    format!("{EXAMPLES}\n{CLIENT_HELP}")
}

pub(crate) fn run(args: VerifyArgs, logging: &LogArgs) -> Outcome {
    client::ask(args.client.json, logging, async {
        let service = args.client.connect()?;
        execute(&service, args).await
    })
}

async fn execute(service: &impl LockService, args: VerifyArgs) -> Result<u8, Ended> {
    let options =
        ReadOptions { table: Some(args.table.table), stale: false, call: args.client.call() };
    let response = service.verify(args.signature.clone(), args.token, options).await?;
    if args.client.json {
        output::print_json(&VerifyAnswer::from(&response));
    } else {
        let (name, token) = (output::visible(&args.signature), args.token);
        output::print(&match &response.holder {
            Some(holder) if response.live => {
                format!("token {token} of {name} is live: held by {}\n", output::holder(holder))
            }
            Some(holder) => {
                format!("token {token} of {name} is not live: it was {}\n", output::holder(holder))
            }
            None => format!("token {token} of {name} is not live\n"),
        });
    }
    Ok(if response.live { exit::OK } else { exit::REFUSED })
}
