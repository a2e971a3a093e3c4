//! `keyward lock`: takes, renews or takes over one lock, once.

use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;

use crate::api::{LockAnswer, Problem, WaitingAnswer};
use crate::cli::client::{ClientArgs, Ended};
use crate::cli::exit::{self, CLIENT_HELP, Failure, Outcome};
use crate::cli::logging::LogArgs;
use crate::cli::signals::Signals;
use crate::cli::terms::TermArgs;
use crate::cli::waiting::{self, Waited};
use crate::cli::{client, duration, output, refusal};
use crate::client::{Acquire, Client};
use crate::error::Error;
use crate::service::LockService as _;
use crate::types::{
    Forbidden, ForbiddenReason, Holder, LockOptions, LockResponse, LockStatus, MAX_DURATION, Mode,
    ReadOptions, SessionId, TimeToLive, Token, TransferReason,
};

const EXAMPLES: &str = "\
Examples:
  keyward lock jobs/nightly --signee worker-1
  keyward lock jobs/nightly --signee worker-1 --duration 5m --level 10
  keyward lock jobs/nightly --signee worker-1 --new && ./job.sh     only one run of worker-1
  keyward lock jobs/nightly --signee worker-1 --token 17            renew it, never take it anew
  keyward lock jobs/nightly --signee worker-1 --wait 5m             wait in the queue
  keyward lock gpus --signee worker-1 --instance $$ --limit 4       one of four permits, with a slot
  keyward lock jobs/nightly --session $ID --wait --queued           stand in the queue and go on
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
/// exit codes are 0. Where a lock is to keep two runs apart, give each an --instance, or --new. Of
/// two runs of one owner that wait, the later has the place, and the earlier is refused.
///
/// With --wait the request stands in the queue: higher levels first, then in the order of arrival.
/// On a terminal one line shows the position, the holders and the time. A signal leaves the queue.
///
/// The token grows with every grant. Hand it to what the lock protects, and let that refuse a token
/// smaller than one it has seen.
#[derive(Debug, Args)]
#[command(after_help = help())]
pub(crate) struct LockArgs {
    /// The lock's name, 1 to 1024 bytes
    signature: String,
    /// The owner that asks: a name, never an authorisation [default: the session's]
    #[arg(long, env = "KEYWARD_SIGNEE", hide_env_values = true)]
    #[arg(required_unless_present = "session")]
    signee: Option<String>,
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
    #[arg(long, value_parser = duration::parse_positive, conflicts_with = "session")]
    duration: Option<Duration>,
    /// How long until its record is removed, not shorter than the duration; none is never [default:
    /// the table's, or else a day after it expired]
    #[arg(long, value_name = "DURATION|none", value_parser = duration::parse_time_to_live)]
    time_to_live: Option<TimeToLive>,
    /// Take it only if nobody has it, this owner neither: exit code 1 also if it is mine already
    #[arg(long, conflicts_with_all = ["token", "force"])]
    new: bool,
    /// Renew only: refused unless the lock is mine, has this token and is not expired
    #[arg(long, value_parser = client::parse_token, conflicts_with = "wait")]
    token: Option<Token>,
    /// Have a lock alone that this owner shares; its last holder may
    #[arg(long, help_heading = "Waiting and sharing")]
    #[arg(conflicts_with_all = ["shared", "limit"])]
    exclusive: bool,
    #[command(flatten)]
    terms: TermArgs,
    #[command(flatten)]
    life: SessionArg,
    #[command(flatten)]
    cause: client::CauseArg,
    #[command(flatten)]
    table: client::TableArg,
    #[command(flatten)]
    client: ClientArgs,
}

/// The session that a grant lives in.
#[derive(Debug, Args)]
#[command(next_help_heading = "Waiting and sharing")]
struct SessionArg {
    /// Hold it for as long as this session lives: see `keyward session`
    #[arg(long, value_name = "ID", value_parser = client::parse_session)]
    session: Option<SessionId>,
    /// With --session and --wait: stand in the queue and do not wait here; the session's inbox
    /// tells what becomes of it
    #[arg(long, requires = "session", requires = "wait")]
    queued: bool,
}

fn help() -> String {
    format!("{EXAMPLES}\n{CLIENT_HELP}")
}

pub(crate) fn run(args: LockArgs, logging: &LogArgs) -> Outcome {
    client::ask(args.client.json, logging, async {
        let client = args.client.connect()?;
        execute(&client, args).await
    })
}

async fn execute(client: &Client, args: LockArgs) -> Result<u8, Ended> {
    if args.new
        && let Some(holder) = own_holder(client, &args).await?
    {
        // It is not even renewed: a run that hangs must not keep its lock because others request
        // it.
        return Err(owned(&args.signature, holder, args.client.json));
    }
    let request = args.request();
    let response = match args.terms.wait().filter(|_| !args.life.queued) {
        Some(_) => {
            let mut signals = Signals::to_stop()?;
            let asking = client.lock_in_turn(request.clone());
            match Box::pin(waiting::wait(client, &request, &mut signals, asking)).await {
                Ok(Waited::Answered(response)) => response,
                Ok(Waited::Interrupted(signal)) => return Ok(exit::of_signal(signal.as_raw())),
                Err(error) => return Err(Ended::TooOld(error)),
            }
        }
        None => client.lock(request.request, request.options).await,
    };
    let response = match response {
        // The wait was over before the answer came.
        Err(Error::Forbidden(forbidden)) => {
            return Err(refused(&args.signature, &forbidden, args.client.json));
        }
        response => client::explained(client, response).await?,
    };
    match &response.status {
        LockStatus::Failed(forbidden) => {
            return Err(refused(&args.signature, forbidden, args.client.json));
        }
        // Another run of this owner acquired it a moment earlier.
        LockStatus::Renewed(grant) if args.new => {
            let holder = Holder {
                signee: args.signee.unwrap_or_default(),
                instance: args.instance,
                level: grant.level,
                token: grant.token,
                expires_in: grant.expires_in,
                removed_in: grant.removed_in,
                expired: false,
                mode: grant.mode,
                slot: grant.slot,
                session: args.life.session,
            };
            return Err(owned(&args.signature, holder, args.client.json));
        }
        LockStatus::Ok(_)
        | LockStatus::Renewed(_)
        | LockStatus::Transferred { .. }
        | LockStatus::Waiting(_) => {}
    }
    if !args.client.json {
        output::print(&describe(&args.signature, &response));
    } else if let Some(waiting) = response.waiting() {
        output::print_json(&WaitingAnswer::new(waiting));
    } else {
        output::print_json(&LockAnswer::new(&response));
    }
    Ok(exit::OK)
}

impl LockArgs {
    fn request(&self) -> Acquire {
        let signee = self.signee.clone().unwrap_or_default();
        let mut request = self.terms.apply(Acquire::new(&self.signature, signee));
        request.request.level = self.level;
        if self.exclusive {
            request = request.mode(Mode::Exclusive);
        }
        if self.life.queued {
            let wait = request.options.wait.map(|wait| wait.min(MAX_DURATION));
            request.options.wait = wait;
            request.options.queued = true;
        }
        request.options = LockOptions {
            table: Some(self.table.table.clone()),
            force: self.force,
            duration: self.duration,
            time_to_live: self.time_to_live,
            token: self.token,
            instance: self.instance.clone(),
            session: self.life.session,
            call: self.cause.call(&self.client.reach),
            ..request.options
        };
        request
    }
}

/// The grant that this owner already has, if any.
async fn own_holder(service: &Client, args: &LockArgs) -> Result<Option<Holder>, Error> {
    let table = Some(args.table.table.clone());
    let options = ReadOptions { table, stale: false, call: args.client.call() };
    let holders = match service.check(args.signature.clone(), options).await {
        Ok(response) => response.record.holders,
        Err(Error::NotFound { .. }) => Vec::new(),
        Err(error) => return Err(error),
    };
    let is_own = |holder: &Holder| {
        let of_session = args.life.session.map(|session| session.to_string());
        let is_signee = match &args.signee {
            Some(signee) => holder.signee == *signee,
            // It is the session's, as is the instance.
            None => holder.session == args.life.session,
        };
        let instance = args.instance.clone().or(of_session);
        !holder.expired && is_signee && holder.instance == instance
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
        LockStatus::Waiting(waiting) => format!(
            "{name} is waited for at position {}, place {}, for {}",
            waiting.position,
            waiting.place,
            duration::format_short(waiting.ends_in)
        ),
        LockStatus::Failed(_) => format!("{name} is not yours"),
    };
    let Some(grant) = response.grant() else { return how + "\n" };
    let left = duration::format_short(grant.expires_in);
    let mode = match (grant.mode, grant.slot) {
        (Mode::Shared, _) => "shared, ".to_owned(),
        (Mode::Permits, Some(slot)) => format!("slot {slot}, "),
        (Mode::Exclusive | Mode::Permits, _) => String::new(),
    };
    let mut text =
        format!("{how}: {mode}token {}, level {}, expires in {left}", grant.token, grant.level);
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
    if json {
        output::print_json(&Problem::forbidden(forbidden));
    }
    let failure = Failure::new(exit::REFUSED, refusal::describe(signature, forbidden));
    Ended::Failed(match refusal::advice(forbidden.reason) {
        Some(advice) => failure.advise(advice),
        None => failure,
    })
}
