//! `keyward unlock`: releases one lock.

use clap::Args;

use crate::api::{Problem, UnlockAnswer};
use crate::cli::client::{self, ClientArgs, Ended};
use crate::cli::exit::{self, CLIENT_HELP, Failure, Outcome};
use crate::cli::logging::LogArgs;
use crate::cli::output;
use crate::service::LockService;
use crate::types::{Forbidden, Token, UnlockOptions, UnlockRequest, UnlockStatus};

const EXAMPLES: &str = "\
Examples:
  keyward unlock jobs/nightly --signee worker-1
  keyward unlock jobs/nightly --signee worker-1 --token 17     only if that grant still holds it
";

/// Release a lock
///
/// A lock that does not exist is a success: it says `no_lock`. A lock that another holds, or that
/// has another token than the one given, stays as it is. Without a token an owner that waits leaves
/// the queue.
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
    #[arg(long, value_parser = client::parse_token)]
    token: Option<Token>,
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

pub(crate) fn run(args: UnlockArgs, logging: &LogArgs) -> Outcome {
    client::ask(args.client.json, logging, async {
        let service = args.client.connect()?;
        execute(&service, args).await
    })
}

async fn execute(service: &impl LockService, args: UnlockArgs) -> Result<u8, Ended> {
    let request = UnlockRequest { signature: args.signature.clone(), signee: args.signee };
    let options = UnlockOptions {
        table: Some(args.table.table),
        token: args.token,
        instance: args.instance,
        call: args.cause.call(&args.client.reach),
        ..UnlockOptions::default()
    };
    let response = service.unlock(request, options).await?;
    let name = output::visible(&args.signature);
    let text = match response.status {
        UnlockStatus::Ok => format!("{name} is released\n"),
        UnlockStatus::NoLock => format!("{name} was not held: there is no such lock\n"),
        UnlockStatus::Left => format!("{name} is not waited for any more\n"),
        UnlockStatus::Failed(forbidden) => {
            return Err(refused(&args.signature, &forbidden, args.client.json));
        }
    };
    if args.client.json {
        output::print_json(&UnlockAnswer::new(&response));
    } else {
        output::print(&text);
    }
    Ok(exit::OK)
}

/// A refusal: a problem document if a program reads the output, and a sentence in any case.
fn refused(signature: &str, forbidden: &Forbidden, json: bool) -> Ended {
    if json {
        output::print_json(&Problem::forbidden(forbidden));
    }
    let holders = output::holders(&forbidden.holders);
    let name = output::visible(signature);
    Ended::Failed(
        Failure::new(exit::REFUSED, format!("{name} stays as it is: it is held by {holders}"))
            .advise("Only its holder releases a lock: the same signee and instance, and the token if one is given."),
    )
}
