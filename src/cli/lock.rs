//! `keyward lock`: takes, renews or takes over one lock, once.

use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;

use crate::api::{LockAnswer, Problem};
use crate::cli::client::{ClientArgs, Ended};
use crate::cli::exit::{self, CLIENT_HELP, Failure, Outcome};
use crate::cli::logging::LogArgs;
use crate::cli::{client, duration, output};
use crate::error::Error;
use crate::service::LockService;
use crate::types::{
    Forbidden, ForbiddenReason, Holder, LockOptions, LockRequest, LockResponse, LockStatus,
    ReadOptions, TimeToLive, Token, TransferReason,
};

const EXAMPLES: &str = "\
Examples:
  keyward lock jobs/nightly --signee worker-1
  keyward lock jobs/nightly --signee worker-1 --duration 5m --level 10
  keyward lock jobs/nightly --signee worker-1 --new && ./job.sh     only one run of worker-1
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
/// Two runs under one signee are one owner: the second one renews what the first one has, and both
/// exit codes are 0. Where a lock is to keep two runs apart, give each an --instance, or --new.
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
    /// How long until its record is removed, not shorter than the duration; none is never [default:
    /// the table's, or else a day after it expired]
    #[arg(long, value_name = "DURATION|none", value_parser = duration::parse_time_to_live)]
    time_to_live: Option<TimeToLive>,
    /// Take it only if nobody has it, this owner neither: exit code 1 also if it is mine already
    #[arg(long, conflicts_with_all = ["token", "force"])]
    new: bool,
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
    if args.new
        && let Some(holder) = own_holder(service, &args).await?
    {
        // It is not even renewed: a run that hangs must not keep its lock because others request
        // it.
        return Err(owned(&args.signature, holder, args.client.json));
    }
    let (signee, instance) = (args.signee.clone(), args.instance.clone());
    let request =
        LockRequest { signature: args.signature.clone(), signee: args.signee, level: args.level };
    let options = LockOptions {
        table: Some(args.table.table),
        force: args.force,
        duration: args.duration,
        time_to_live: args.time_to_live,
        token: args.token,
        instance: args.instance,
        call: args.client.call(),
        ..LockOptions::default()
    };
    let response = service.lock(request, options).await?;
    match &response.status {
        LockStatus::Failed(forbidden) => {
            return Err(refused(&args.signature, forbidden, args.client.json));
        }
        // Another run of this owner acquired it a moment earlier.
        LockStatus::Renewed(grant) if args.new => {
            let holder = Holder {
                signee,
                instance,
                level: grant.level,
                token: grant.token,
                expires_in: grant.expires_in,
                removed_in: grant.removed_in,
                expired: false,
                ..Holder::default()
            };
            return Err(owned(&args.signature, holder, args.client.json));
        }
        LockStatus::Ok(_)
        | LockStatus::Renewed(_)
        | LockStatus::Transferred { .. }
        | LockStatus::Waiting(_) => {}
    }
    if args.client.json {
        output::print_json(&LockAnswer::new(&response));
    } else {
        output::print(&describe(&args.signature, &response));
    }
    Ok(exit::OK)
}

/// The grant that this owner already has, if any.
async fn own_holder(service: &impl LockService, args: &LockArgs) -> Result<Option<Holder>, Error> {
    let table = Some(args.table.table.clone());
    let options = ReadOptions { table, stale: false, call: args.client.call() };
    let holders = match service.check(args.signature.clone(), options).await {
        Ok(response) => response.record.holders,
        Err(Error::NotFound { .. }) => Vec::new(),
        Err(error) => return Err(error),
    };
    let is_own = |holder: &Holder| {
        !holder.expired && holder.signee == args.signee && holder.instance == args.instance
    };
    Ok(holders.into_iter().find(is_own))
}

/// The refusal of `--new` for the owner itself.
fn owned(signature: &str, holder: Holder, json: bool) -> Ended {
    let name = output::visible(signature);
    let why = format!("{name} is held already by {}", output::holder(&holder));
    if json {
        let forbidden = Forbidden::new(ForbiddenReason::Held, vec![holder]);
        output::print_json(&Problem::forbidden(&forbidden));
    }
    let failure = Failure::new(exit::REFUSED, why);
    failure.advise("That is this owner, in another run. Without --new the lock is renewed.").into()
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
        LockStatus::Waiting(_) => format!("{name} is waited for"),
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

/// A refusal: a problem document if a program reads the output, and a sentence in any case.
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
        reason @ (ForbiddenReason::Queued
        | ForbiddenReason::Timeout
        | ForbiddenReason::Superseded
        | ForbiddenReason::SessionLost
        | ForbiddenReason::Delay
        | ForbiddenReason::Shared
        | ForbiddenReason::ModeDiffers
        | ForbiddenReason::LimitDiffers
        | ForbiddenReason::QueueFull
        | ForbiddenReason::TableDeleted) => {
            Failure::new(exit::REFUSED, format!("{name}: {}", reason.describe()))
        }
    };
    if json {
        output::print_json(&Problem::forbidden(forbidden));
    }
    Ended::Failed(failure)
}
