//! The acquisition of the lock: a single request, or retries for as long as `--wait` says.

use std::time::Duration;

use rustix::process::Signal;

use super::{Owner, RunArgs};
use crate::cli::duration;
use crate::cli::exit::{self, Failure};
use crate::cli::output;
use crate::cli::signals::Signals;
use crate::client::{Acquire, Client, LockGuard};
use crate::error::Error;
use crate::service::LockService as _;
use crate::types::{CallOptions, Forbidden, UnlockOptions, UnlockRequest};

/// The longest time to release a lock whose request was in flight when a signal ended the wait: the
/// person who pressed Ctrl-C wants the terminal.
const LAST_WORD: Duration = Duration::from_secs(1);

/// How the wait for the lock ended.
pub(crate) enum Acquired {
    /// With the lock.
    Lock(Box<LockGuard>),
    /// By a signal; a lock that may have been granted is released.
    Interrupted(Signal),
}

/// Takes the lock.
///
/// # Errors
/// The reason why it was not acquired.
pub(crate) async fn acquire(
    client: &Client,
    args: &RunArgs,
    owner: &Owner,
    signals: &mut Signals,
) -> Result<Acquired, Failure> {
    let mut request = Acquire::new(&args.signature, &owner.signee)
        .instance(&owner.instance)
        .level(args.level)
        .duration(args.duration)
        .table(&args.table.table);
    if args.force {
        request = request.force();
    }
    request.options.call = args.reach.call();
    let mut told = None;
    let mut tell = |error: &Error| {
        // Once for each kind of reason: a wait may be long.
        let kind = std::mem::discriminant(error);
        if told.replace(kind) != Some(kind) {
            say_waiting(args, error);
        }
    };
    let asking = async {
        match args.wait {
            Some(patience) => client.acquire_telling(request, patience, &mut tell).await,
            None => client.acquire(request).await,
        }
    };
    tokio::select! {
        acquired = asking => match acquired {
            Ok(guard) => Ok(Acquired::Lock(Box::new(guard))),
            Err(error) => Err(explain(args, &error)),
        },
        signal = interrupted(signals) => {
            give_back(client, args, owner).await;
            Ok(Acquired::Interrupted(signal))
        }
    }
}

/// The next signal that ends a wait.
async fn interrupted(signals: &mut Signals) -> Signal {
    loop {
        match signals.next().await {
            Signal::CONT | Signal::USR1 | Signal::USR2 | Signal::CHILD => {}
            signal => return signal,
        }
    }
}

/// Releases the lock, because a request in flight at the end of the wait may have been granted.
async fn give_back(client: &Client, args: &RunArgs, owner: &Owner) {
    let request = UnlockRequest { signature: args.signature.clone(), signee: owner.signee.clone() };
    let options = UnlockOptions {
        table: Some(args.table.table.clone()),
        instance: Some(owner.instance.clone()),
        call: CallOptions {
            timeout: Some(args.reach.timeout.min(LAST_WORD)),
            ..CallOptions::default()
        },
        ..UnlockOptions::default()
    };
    if let Err(error) = client.unlock(request, options).await {
        tracing::debug!(%error, "what was asked for last runs out by itself");
    }
}

fn say_waiting(args: &RunArgs, error: &Error) {
    let name = output::visible(&args.signature);
    let patience = match args.wait {
        Some(Duration::MAX) | None => "waiting".to_owned(),
        Some(patience) => format!("waiting up to {}", duration::format(patience)),
    };
    output::say(&if let Error::Forbidden(forbidden) = error {
        format!("{name} is held by {}; {patience}", holders(forbidden))
    } else {
        format!("{name} is not acquired yet: {error}; {patience}")
    });
}

fn holders(forbidden: &Forbidden) -> String {
    forbidden.holders.iter().map(output::holder).collect::<Vec<_>>().join(", and by ")
}

fn explain(args: &RunArgs, error: &Error) -> Failure {
    let name = output::visible(&args.signature);
    let failure = |code| Failure::new(code, format!("{name} was not acquired: {error}"));
    match error {
        Error::Forbidden(forbidden) => {
            let why = format!("{name} is held by {}", holders(forbidden));
            Failure::new(exit::HELD, why).advise(match args.wait {
                Some(_) => "It was not free in time; the command was not started.",
                None => "The command was not started. Wait for the lock with --wait 10m.",
            })
        }
        Error::Unavailable { .. } => failure(exit::NOT_REACHED).advise(
            "The command was not started. Look at the nodes with `keyward cluster status`.",
        ),
        Error::Unknown { .. } | Error::LaneForgotten { .. } => {
            let why = format!("{name} may have been acquired, but no node said so: {error}");
            Failure::new(exit::NOT_KNOWN, why).advise(
                "The command was not started. If the lock was acquired, it runs out by itself.",
            )
        }
        Error::BadRequest { .. } | Error::NotFound { .. } | Error::Unauthorized { .. } => {
            failure(exit::code_of(error)).advise("The command was not started.")
        }
    }
}
