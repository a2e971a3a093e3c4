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
use crate::cli::{duration, output};
use crate::client::LockGuard;
use acquire::Acquired;
use hold::Limits;
use holding::Holding;

pub(crate) use group::{Ending, cannot_execute};

const HELP: &str = "\
Examples:
  keyward run jobs/nightly -- ./nightly.sh
  keyward run jobs/nightly --wait 10m -- ./nightly.sh       wait up to ten minutes for the lock
  keyward run deploy --level 10 --duration 2m -- make deploy
  keyward run backup -- sh -c 'pg_dump db | store --fencing-token \"$KEYWARD_TOKEN\"'

How it holds:
  The lock is renewed at a third of its duration, and only renewed: once it is gone, it is not taken
  again. When it cannot be renewed, the command's whole process group gets SIGTERM while the lock
  still holds, and SIGKILL --margin before the lock ends. Time is counted on a clock that runs on
  while the machine sleeps. A helper process kills the group if this program is killed or stopped.
  A lock that was taken away is noticed at the next renewal, and the group is killed at once.
  Processes that the command leaves behind in its group are killed before the lock is released.
  Processes that leave the group (setsid, daemons) are not reached: the token fences them off.
  Started in the foreground of a terminal, the command has the terminal; Ctrl-Z stops the renewals
  too, so a command that is stopped for longer than the lock holds is killed.

Exit codes:
  the command's own, if it ended by itself
  120      the lock was not acquired: another holds it, or the cluster cannot be reached
  121      ended: no node could be reached in time to renew the lock
  122      ended: the lock was lost (it was released, removed, or taken by force)
  123      ended: the lock was taken by a request of a higher level
  126 127  the command cannot be executed, is not found
  128+n    the command was ended by signal n
  2        the command line is wrong

Environment set for the command:
  KEYWARD_SIGNATURE, KEYWARD_TOKEN, KEYWARD_SIGNEE, KEYWARD_INSTANCE, KEYWARD_TABLE,
  KEYWARD_ENDPOINTS

Signals:
  SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1 and SIGUSR2 are passed on to the command's group. The
  lock is released when the command has ended.";

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
    /// How long to wait for the lock, asking again and again [default: not at all]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    wait: Option<Duration>,
    /// How long the command gets between SIGTERM and SIGKILL when the lock cannot be kept
    /// [default: a quarter of the duration]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    kill_after: Option<Duration>,
    /// How long before the lock's end the command is dead [default: a twentieth of the duration]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    margin: Option<Duration>,
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
    ])?;
    let client = args.reach.connect()?;
    let owner = Owner::of(&args);
    let guard = match acquire::acquire(&client, &args, &owner, &mut signals).await? {
        Acquired::Lock(guard) => guard,
        Acquired::Interrupted(signal) => return Ok(Ending::Killed(signal.as_raw()).code()),
    };
    let environment = [
        ("KEYWARD_SIGNATURE", args.signature.clone()),
        ("KEYWARD_TOKEN", guard.token().to_string()),
        ("KEYWARD_SIGNEE", owner.signee.clone()),
        ("KEYWARD_INSTANCE", owner.instance.clone()),
        ("KEYWARD_TABLE", args.table.table.clone()),
        ("KEYWARD_ENDPOINTS", args.reach.endpoints.join(",")),
    ];
    let holding = Holding::start(guard, &args.command, environment, limits).await;
    match holding {
        Ok(holding) => holding.keep(&mut signals).await,
        Err((guard, failure)) => {
            release(guard).await;
            Err(failure)
        }
    }
}

/// Who holds the lock.
struct Owner {
    signee: String,
    instance: String,
}

impl Owner {
    fn of(args: &RunArgs) -> Self {
        let signee = args.signee.clone().unwrap_or_else(|| {
            let host = rustix::system::uname();
            format!("{}:{}", host.nodename().to_string_lossy(), std::process::id())
        });
        let random = || format!("{:016x}", rand::random::<u64>());
        Self { signee, instance: args.instance.clone().unwrap_or_else(random) }
    }
}

/// Releases the lock. If that fails it runs out by itself, and the command's exit code matters more.
async fn release(guard: Box<LockGuard>) {
    let name = output::visible(guard.signature());
    if let Err(error) = guard.release().await {
        output::say(&format!("{name} was not released and runs out by itself: {error}"));
    }
}
