//! `keyward run`: holds a lock while a command runs.

mod acquire;
mod group;
mod hold;
mod holding;
pub(crate) mod starter;
mod terminal;
pub(crate) mod watchdog;

use std::ffi::OsString;
use std::time::Duration;

use clap::Args;
use rustix::process::Signal;

use crate::cli::client::{self, ReachArgs};
use crate::cli::exit::{self, Failure, Outcome};
use crate::cli::logging::{self, LogArgs};
use crate::cli::signals::Signals;
use crate::cli::terms::TermArgs;
use crate::cli::{duration, output};
use crate::client::LockGuard;
use crate::clock::{Clock as _, SystemClock};
use crate::error::Error;
use crate::types::UnlockStatus;
use acquire::Acquired;
use hold::Limits;
use holding::Holding;

pub(crate) use group::{Ending, cannot_execute};

const HELP: &str = "\
Examples:
  keyward run jobs/nightly -- ./nightly.sh
  keyward run jobs/nightly --wait 10m -- ./nightly.sh     wait in the queue for up to ten minutes
  keyward run jobs/nightly --wait -- ./nightly.sh         wait for as long as it takes
  keyward run cron/report --at-least 50s -- ./report.sh   once a minute, on the first machine
  keyward run gpus --limit 4 --wait -- ./train.sh         one of four, in $KEYWARD_LOCK_SLOT
  keyward run schema --shared --wait -- ./query.sh        beside others that share it
  keyward run deploy --level 10 --duration 2m -- make deploy
  keyward run backup -- sh -c 'pg_dump db | store --fencing-token \"$KEYWARD_LOCK_TOKEN\"'

How it waits:
  With --wait the request stands in the queue: higher levels first, then in the order of arrival.
  Its place survives a change of leader, and nodes that cannot be reached are asked again until the
  wait is over. On a terminal one line shows the position, the holders and the time; in a pipe it is
  quiet unless something is wrong. A signal leaves the queue, and the exit code is 128+n.

How it holds:
  The lock is renewed at a third of its duration, and only renewed: once it is gone, it is not taken
  again. When it cannot be renewed, the command's whole process group gets SIGTERM while the lock
  still holds, and SIGKILL --margin before the lock ends. Time is counted on a clock that runs on
  while the machine sleeps. A helper process kills the group if this program is killed or stopped.
  A lock that was taken away is noticed at the next renewal, and the group is killed at once. If the
  command ends before that, it is noticed at the release, and the exit code is 124.
  Processes that the command leaves behind in its group are killed before the lock is released.
  Processes that leave the group (setsid, daemons) are not reached: the token fences them off.
  With --at-least the lock is not released before that time, counted from when it was acquired: it
  is left to run out by then, while this program ends with its command, also by a signal. A
  --lock-delay comes after it.
  Started in the foreground of a terminal, the command has the terminal; Ctrl-Z stops the renewals
  too, so a command that is stopped for longer than the lock holds is killed.

Exit codes:
  the command's own, if it ended by itself and had the lock until then
  117      not started: no node could be reached, or none could take requests
  118      not started: the lock may have been acquired, but no node said so; it runs out by itself
  120      not started: refused (another holds the lock, or the wait was over)
  121      ended: no node could be reached in time to renew the lock
  122      ended: the lock was lost (it was released, removed, or taken by force)
  123      ended: the lock was taken by a request of a higher level
  124      the command ended by itself, but its lock had been lost before: another may have had it
  126 127  the command cannot be executed, is not found
  128+n    the command was ended by signal n
  2 5      the command line or the lock's name is wrong; unauthorized

Environment set for the command:
  KEYWARD_LOCK_SIGNATURE, KEYWARD_LOCK_TOKEN, KEYWARD_LOCK_SIGNEE, KEYWARD_LOCK_INSTANCE,
  KEYWARD_LOCK_TABLE and KEYWARD_LOCK_ENDPOINTS say which lock is held, with --limit also
  KEYWARD_LOCK_SLOT, the number of the permit from 0. None of them is a setting of this program: a
  `keyward` that the command starts locks where it would without `run`. KEYWARD_ACCESS_TOKEN and
  KEYWARD_TOKEN_FILE are removed, unless --pass-access-token is given.

Signals:
  SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1 and SIGUSR2 are passed on to the command's group. The
  lock is released when the command has ended. One that is ignored at the start, as SIGHUP under
  nohup, stays ignored here and in the command.";

/// Hold a lock while a command runs
///
/// Takes the lock, starts the command in a process group of its own, renews the lock until the
/// command ends, releases it, and returns the command's exit code. If the lock cannot be kept, the
/// command is ended before another can have it.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct RunArgs {
    /// The lock's name, 1 to 1024 bytes
    signature: String,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    /// The owner that asks [default: the host's name and the process id, as HOST:PID]
    #[arg(long, env = "KEYWARD_SIGNEE", hide_env_values = true)]
    signee: Option<String>,
    /// Tells two runs of one signee apart [default: random, so that no two runs share the lock]
    #[arg(long)]
    instance: Option<String>,
    /// Priority: a higher level takes the lock from a lower one
    #[arg(long, allow_negative_numbers = true, default_value_t = 0)]
    #[arg(value_parser = client::parse_level)]
    level: i64,
    /// Take the lock whoever holds it
    #[arg(long)]
    force: bool,
    /// How long the lock outlives a machine that dies: it is renewed at a third of this
    #[arg(long, default_value = "30s", value_parser = duration::parse_positive)]
    duration: Duration,
    /// Do not let another have the lock before this time has passed since it was acquired, also if
    /// the command ends earlier: for jobs that run once in a period on several machines
    #[arg(long, value_name = "DURATION", value_parser = duration::parse_positive)]
    at_least: Option<Duration>,
    /// How long the command gets between SIGTERM and SIGKILL when the lock cannot be kept
    /// [default: a quarter of the duration]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    kill_after: Option<Duration>,
    /// How long before the lock's end the command is dead [default: a twentieth of the duration]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    margin: Option<Duration>,
    /// Leave the variables of the access token in the environment of the command; otherwise they are
    /// removed
    #[arg(long)]
    pass_access_token: bool,
    #[command(flatten)]
    terms: TermArgs,
    #[command(flatten)]
    cause: client::CauseArg,
    #[command(flatten)]
    table: client::TableArg,
    #[command(flatten)]
    reach: ReachArgs,
}

/// Runs the command under the lock.
pub(crate) fn run(args: RunArgs, logging: &LogArgs) -> Outcome {
    logging::start(logging, "warn")?;
    let limits = Limits::new(args.duration, args.kill_after, args.margin)?;
    // Renewals must not wait for anything that this task does.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::new(exit::BROKEN, format!("cannot start: {error}")))?;
    let outcome = runtime.block_on(hold(args, limits));
    runtime.shutdown_background();
    outcome
}

async fn hold(args: RunArgs, limits: Limits) -> Outcome {
    let mut signals = Signals::catch(&[
        Signal::INT,
        Signal::TERM,
        Signal::HUP,
        Signal::QUIT,
        Signal::USR1,
        Signal::USR2,
        Signal::CONT,
        Signal::CHILD,
    ])?;
    let client = args.reach.connect()?;
    let owner = Owner::of(&args);
    let guard = match acquire::acquire(&client, &args, &owner, &mut signals).await? {
        Acquired::Lock(guard) => guard,
        Acquired::Interrupted(signal) => return Ok(Ending::Killed(signal.as_raw()).code()),
    };
    let keep_until = args.at_least.map(|time| SystemClock.boottime().saturating_add(time));
    // None of these is a variable that this program reads: see the help.
    let slot = guard.slot().map(|slot| ("KEYWARD_LOCK_SLOT", slot.to_string()));
    let environment = [
        ("KEYWARD_LOCK_SIGNATURE", args.signature.clone()),
        ("KEYWARD_LOCK_TOKEN", guard.token().to_string()),
        ("KEYWARD_LOCK_SIGNEE", owner.signee.clone()),
        ("KEYWARD_LOCK_INSTANCE", owner.instance.clone()),
        ("KEYWARD_LOCK_TABLE", args.table.table.clone()),
        ("KEYWARD_LOCK_ENDPOINTS", args.reach.endpoints().join(",")),
    ];
    let environment = environment.into_iter().chain(slot);
    let environment = environment.map(|(name, value)| (name, Some(value)));
    // The command does not become whoever holds its lock, unless that is wanted.
    let secrets = [client::TOKEN_VARIABLE, client::TOKEN_FILE_VARIABLE];
    let secrets = secrets.into_iter().filter(|_| !args.pass_access_token);
    let environment = environment.chain(secrets.map(|name| (name, None)));
    let holding = Holding::start(guard, &args.command, environment, limits).await;
    match holding {
        Ok(holding) => holding.keep(&mut signals, keep_until).await,
        Err((guard, failure)) => {
            // Nothing ran under the lock: whether it was lost is of no interest.
            release(guard, None).await;
            Err(failure)
        }
    }
}

/// The owner of the lock.
struct Owner {
    signee: String,
    instance: String,
}

impl Owner {
    fn of(args: &RunArgs) -> Self {
        let signee = args.signee.clone().unwrap_or_else(client::usual_signee);
        let random = || format!("{:016x}", rand::random::<u64>());
        Self { signee, instance: args.instance.clone().unwrap_or_else(random) }
    }
}

/// Whether the lock was there until its release, as far as anybody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Released {
    /// It was, or no node says otherwise.
    Held,
    /// It had been lost before.
    Lost,
}

/// Releases the lock, or leaves it to run out at `keep_until` of the boot-time clock if that is later.
/// If neither can be done it runs out by itself, and the command's exit code matters more.
async fn release(guard: Box<LockGuard>, keep_until: Option<Duration>) -> Released {
    let name = output::visible(guard.signature());
    let rest = keep_until.map(|until| until.saturating_sub(SystemClock.boottime()));
    let kept = match rest.filter(|rest| rest.as_millis() > 0) {
        Some(rest) => guard.expire_in(rest).await.map(|()| true),
        // A lock that has no record, or another's, had been lost before.
        None => guard.release().await.map(|response| response.status == UnlockStatus::Ok),
    };
    match kept {
        Ok(true) => Released::Held,
        Ok(false) | Err(Error::Forbidden(_)) => Released::Lost,
        Err(error) => {
            let what = if keep_until.is_some() { "kept" } else { "released" };
            output::say(&format!("{name} was not {what} and runs out by itself: {error}"));
            Released::Held
        }
    }
}
