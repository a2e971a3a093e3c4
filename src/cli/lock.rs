//! `keyward lock`: takes, renews or takes over one lock, once.

use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;

use crate::api::{LockAnswer, Problem};
use crate::cli::client::{ClientArgs, Ended};
use crate::cli::exit::{self, CLIENT_HELP, Failure, Outcome};
use crate::cli::logging::LogArgs;
use crate::cli::{client, duration, output};
use crate::service::LockService;
use crate::types::{
    Forbidden, ForbiddenReason, LockOptions, LockRequest, LockResponse, LockStatus, Token,
    TransferReason,
};

const EXAMPLES: &str = "\
Examples:
  keyward lock jobs/nightly --signee worker-1
  keyward lock jobs/nightly --signee worker-1 --duration 5m --level 10
  keyward lock jobs/nightly --signee worker-1 --token 17            renew it, never take it anew
  keyward lock jobs/nightly --signee worker-1 --json | jq .token
";

/// Take a lock, renew it, or take it over
///
/// A free lock, an expired one, or one held at a lower level is yours; a lock that you hold already
/// is renewed; anything else is refused and says who holds it. Nothing renews the lock after this
/// command: it expires after its duration, and another may take it then. To hold a lock while a
/// command runs, use `keyward run`.
///
/// The token grows with every grant. Hand it to what the lock protects, and let that refuse a token
/// smaller than one it has seen.
#[derive(Debug, Args)]
#[command(after_help = help())]
pub(crate) struct LockArgs {
    /// The lock's name, 1 to 1024 bytes
    signature: String,
    /// The owner that asks: a name, never an authorisation
    #[arg(long, env = "KEYWARD_SIGNEE", hide_env_values = true)]
    signee: String,
    /// Tells two runs of one signee apart; another instance is another owner
    #[arg(long, env = "KEYWARD_INSTANCE", hide_env_values = true)]
    instance: Option<String>,
    /// Priority: a higher level takes the lock from a lower one [default: 0]
    #[arg(long, allow_negative_numbers = true, value_parser = client::parse_level)]
    level: Option<i64>,
    /// Take the lock whoever holds it
    #[arg(long)]
    force: bool,
    /// How long until it expires, up to 366d [default: the table's, or else 30s]
    #[arg(long, value_parser = duration::parse_positive)]
    duration: Option<Duration>,
    /// How long until its record is removed; not shorter than the duration
    #[arg(long, value_name = "DURATION", value_parser = duration::parse_positive)]
    time_to_live: Option<Duration>,
    /// Renew only: refused unless the lock is mine, has this token and is not expired
    #[arg(long, value_parser = client::parse_token)]
    token: Option<Token>,
    #[command(flatten)]
    table: client::TableArg,
    #[command(flatten)]
    client: ClientArgs,
}

fn help() -> String {
    format!("{EXAMPLES}\n{CLIENT_HELP}")
}

pub(crate) fn run(args: LockArgs, logging: &LogArgs) -> Outcome {
    client::ask(args.client.json, logging, async {
        let service = args.client.connect()?;
        execute(&service, args).await
    })
}

async fn execute(service: &impl LockService, args: LockArgs) -> Result<u8, Ended> {
    let request =
        LockRequest { signature: args.signature.clone(), signee: args.signee, level: args.level };
    let options = LockOptions {
        table: Some(args.table.table),
        force: args.force,
        duration: args.duration,
        time_to_live: args.time_to_live,
        token: args.token,
        instance: args.instance,
        request_id: None,
        call: args.client.call(),
    };
    let response = service.lock(request, options).await?;
    if let LockStatus::Failed(forbidden) = response.status {
        return Err(refused(&args.signature, &forbidden, args.client.json));
    }
    if args.client.json {
        output::print_json(&LockAnswer::new(&response));
    } else {
        output::print(&describe(&args.signature, &response));
    }
    Ok(exit::OK)
}

/// A grant in a sentence.
fn describe(signature: &str, response: &LockResponse) -> String {
    let name = output::visible(signature);
    let how = match &response.status {
        LockStatus::Ok(_) => format!("{name} is yours"),
        LockStatus::Renewed(_) => format!("{name} is yours still, renewed"),
        LockStatus::Transferred { previous_signee, reason, .. } => {
            let previous = output::visible(previous_signee);
            match reason {
                TransferReason::Expired => {
                    format!("{name} is yours; {previous} had let it expire")
                }
                TransferReason::Forced => {
                    format!("{name} is yours; taken from {previous} by force")
                }
                TransferReason::Preempted => {
                    format!("{name} is yours; taken from {previous}, whose level was lower")
                }
            }
        }
        LockStatus::Failed(_) => format!("{name} is not yours"),
    };
    let Some(grant) = response.grant() else { return how + "\n" };
    let left = duration::format_short(grant.expires_in);
    let mut text =
        format!("{how}: token {}, level {}, expires in {left}", grant.token, grant.level);
    if let Some(removed_in) = grant.removed_in {
        // Writing to a string does not fail.
        let _ = write!(text, ", removed in {}", duration::format_short(removed_in));
    }
    if !grant.live {
        text.push_str(" (repeated answer: the grant has ended since)");
    }
    text + "\n"
}

/// A refusal: the problem document if a program reads, and a sentence in any case.
fn refused(signature: &str, forbidden: &Forbidden, json: bool) -> Ended {
    let name = output::visible(signature);
    let holders =
        forbidden.holders.iter().map(output::holder).collect::<Vec<_>>().join(", and by ");
    let failure = match forbidden.reason {
        ForbiddenReason::Held => Failure::new(
            exit::REFUSED,
            format!("{name} is held by {holders}"),
        )
        .advise(
            "Wait for it with `keyward run --wait`, or take it with a higher --level or --force.",
        ),
        ForbiddenReason::Lost if holders.is_empty() => Failure::new(
            exit::REFUSED,
            format!("{name} is lost: the grant with this token is gone, and nobody holds the lock"),
        ),
        ForbiddenReason::Lost => Failure::new(
            exit::REFUSED,
            format!(
                "{name} is lost: the grant with this token is gone or expired; the record shows {holders}"
            ),
        ),
    };
    if json {
        output::print_json(&Problem::forbidden(forbidden));
    }
    Ended::Failed(failure)
}
