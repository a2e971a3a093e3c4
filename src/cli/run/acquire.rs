//! The way to the lock: asked once, or again and again for as long as `--wait` says.

use rustix::process::Signal;

use super::{Owner, RunArgs};
use crate::cli::duration;
use crate::cli::exit::{self, Failure};
use crate::cli::output;
use crate::cli::signals::Signals;
use crate::client::{Acquire, Client, LockGuard};
use crate::error::Error;
use crate::service::LockService as _;
use crate::types::{Forbidden, UnlockOptions, UnlockRequest};

/// How the wait for the lock ended.
pub(crate) enum Acquired {
    /// With the lock.
    Lock(Box<LockGuard>),
    /// By a signal; whatever had been asked for is given back.
    Interrupted(Signal),
}

/// Takes the lock.
///
/// # Errors
/// It was not acquired, and why.
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
    let asking = async {
        match client.acquire(request.clone()).await {
            Err(Error::Forbidden(forbidden)) if args.wait.is_some() => {
                say_waiting(args, &forbidden);
            }
            Err(Error::Unavailable { .. } | Error::Unknown { .. }) if args.wait.is_some() => {}
            other => return other,
        }
        client.acquire_within(request.clone(), args.wait.unwrap_or_default()).await
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
            Signal::CONT | Signal::USR1 | Signal::USR2 => {}
            signal => return signal,
        }
    }
}

/// A request that was under way when the wait ended may have been granted.
async fn give_back(client: &Client, args: &RunArgs, owner: &Owner) {
    let request = UnlockRequest { signature: args.signature.clone(), signee: owner.signee.clone() };
    let options = UnlockOptions {
        table: Some(args.table.table.clone()),
        instance: Some(owner.instance.clone()),
        call: args.reach.call(),
        ..UnlockOptions::default()
    };
    if let Err(error) = client.unlock(request, options).await {
        tracing::debug!(%error, "what was asked for last runs out by itself");
    }
}

fn say_waiting(args: &RunArgs, forbidden: &Forbidden) {
    let name = output::visible(&args.signature);
    let patience = duration::format(args.wait.unwrap_or_default());
    output::say(&format!("{name} is held by {}; waiting up to {patience}", holders(forbidden)));
}

fn holders(forbidden: &Forbidden) -> String {
    forbidden.holders.iter().map(output::holder).collect::<Vec<_>>().join(", and by ")
}

fn explain(args: &RunArgs, error: &Error) -> Failure {
    let name = output::visible(&args.signature);
    let refused = |why: String| Failure::new(exit::NOT_ACQUIRED, why);
    match error {
        Error::Forbidden(forbidden) => {
            let failure = refused(format!("{name} is held by {}", holders(forbidden)));
            failure.advise(match args.wait {
                Some(_) => "It was not free in time; the command was not started.",
                None => "The command was not started. Wait for the lock with --wait 10m.",
            })
        }
        Error::BadRequest { .. }
        | Error::NotFound { .. }
        | Error::Unavailable { .. }
        | Error::Unknown { .. }
        | Error::Unauthorized { .. }
        | Error::LaneForgotten { .. } => refused(format!("{name} was not acquired: {error}"))
            .advise("The command was not started."),
    }
}
