//! `keyward release`: an operator ends one grant or one place, whoever has it.

use clap::{ArgGroup, Args};

use crate::api::{Problem, UnlockAnswer};
use crate::cli::client::{self, ClientArgs, Ended};
use crate::cli::exit::{self, CLIENT_HELP, Failure, Outcome};
use crate::cli::logging::LogArgs;
use crate::cli::output;
use crate::client::Client;
use crate::service::LockService as _;
use crate::types::{CallOptions, DecidedAt, Token, UnlockOptions, UnlockRequest, UnlockStatus};

const EXAMPLES: &str = "\
Examples:
  keyward show jobs/nightly                                        tokens and places
  keyward release jobs/nightly --token 17 --cause 'host 7 is gone'
  keyward release jobs/nightly --place 42.0 --cause 'stuck job'
";

/// End one grant or one place, whoever has it
///
/// For operators: it ends exactly the grant with this token, or the place of this name, and nothing
/// that came after it. `keyward show` has both. The owner learns of it at its next renewal, or in
/// the inbox of its session, and goes on working until then: only the token fences it off. The lock
/// goes to the next in the queue at once, without a lock-delay. Exit code 1 says that there is no
/// such grant or place.
#[derive(Debug, Args)]
#[command(after_help = help())]
#[command(group(ArgGroup::new("what").required(true).args(["token", "place"])))]
pub(crate) struct ReleaseArgs {
    /// The lock's name
    signature: String,
    /// The grant with this token
    #[arg(long, value_parser = client::parse_token)]
    token: Option<Token>,
    /// The place of this name
    #[arg(long, value_parser = client::parse_position)]
    place: Option<DecidedAt>,
    /// Why, for the logs of the cluster: up to 256 bytes
    #[arg(long, value_name = "TEXT", value_parser = client::parse_cause)]
    cause: String,
    #[command(flatten)]
    table: client::TableArg,
    #[command(flatten)]
    client: ClientArgs,
}

fn help() -> String {
    format!("{EXAMPLES}\n{CLIENT_HELP}")
}

pub(crate) fn run(args: ReleaseArgs, logging: &LogArgs) -> Outcome {
    client::ask(args.client.json, logging, async {
        let client = args.client.connect()?;
        execute(&client, args).await
    })
}

async fn execute(client: &Client, args: ReleaseArgs) -> Result<u8, Ended> {
    let request =
        UnlockRequest { signature: args.signature.clone(), signee: client::usual_signee() };
    let options = UnlockOptions {
        table: Some(args.table.table),
        token: args.token,
        force: true,
        place: args.place,
        call: CallOptions { cause: Some(args.cause), ..args.client.call() },
        ..UnlockOptions::default()
    };
    let response = client::explained(client, client.unlock(request, options).await).await?;
    let name = output::visible(&args.signature);
    let missing = match (args.token, args.place) {
        (Some(token), _) => format!("{name} has no grant with token {token}"),
        (None, Some(place)) => format!("{name} has no place {place}"),
        (None, None) => format!("{name} has no such grant"),
    };
    let text = match &response.status {
        UnlockStatus::Ok => format!("{name} is released\n"),
        UnlockStatus::Left => format!("the place in the queue of {name} is ended\n"),
        UnlockStatus::NoLock => {
            if args.client.json {
                output::print_json(&UnlockAnswer::new(&response));
            }
            return Err(Failure::new(exit::REFUSED, format!("{missing}: nothing was done")).into());
        }
        UnlockStatus::Failed(forbidden) => {
            if args.client.json {
                output::print_json(&Problem::forbidden(forbidden));
            }
            let holders = output::holders(&forbidden.holders);
            let why = format!("{missing}: nothing was done; the record shows {holders}");
            return Err(Failure::new(exit::REFUSED, why).into());
        }
    };
    if args.client.json {
        output::print_json(&UnlockAnswer::new(&response));
    } else {
        output::print(&text);
    }
    Ok(exit::OK)
}
