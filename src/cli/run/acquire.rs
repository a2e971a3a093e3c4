//! The acquisition of the lock: a single request, or a place in the queue for as long as `--wait`
//! says.

use rustix::process::Signal;

use super::{Owner, RunArgs};
use crate::cli::client::TOO_OLD;
use crate::cli::exit::{self, Failure};
use crate::cli::signals::Signals;
use crate::cli::waiting::{self, Waited};
use crate::cli::{client, output, refusal};
use crate::client::{Acquire, Client, LockGuard};
use crate::error::Error;
use crate::types::ForbiddenReason;

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
    let request = Acquire::new(&args.signature, &owner.signee)
        .instance(&owner.instance)
        .level(args.level)
        .duration(args.duration)
        .table(&args.table.table);
    let mut request = args.terms.apply(request);
    request.options.force = args.force;
    request.options.call = args.cause.call(&args.reach);
    let asking = Box::pin(client.acquire(request.clone()));
    match waiting::wait(client, &request, signals, asking).await {
        Ok(Waited::Answered(Ok(guard))) => Ok(Acquired::Lock(Box::new(guard))),
        Ok(Waited::Answered(Err(error))) => Err(explain(client, args, &error).await),
        Ok(Waited::Interrupted(signal)) => Ok(Acquired::Interrupted(signal)),
        Err(error) => Err(too_old(args, &error)),
    }
}

async fn explain(client: &Client, args: &RunArgs, error: &Error) -> Failure {
    let name = output::visible(&args.signature);
    let failure = |code| Failure::new(code, format!("{name} was not acquired: {error}"));
    match error {
        Error::Forbidden(forbidden) => {
            let why = refusal::describe(&args.signature, forbidden);
            let is_taken =
                matches!(forbidden.reason, ForbiddenReason::Held | ForbiddenReason::Queued);
            let advice = if is_taken {
                Some("Wait for the lock with --wait 10m.")
            } else {
                refusal::advice(forbidden.reason)
            };
            let advice = advice.map_or(String::new(), |advice| format!(" {advice}"));
            Failure::new(exit::HELD, why).advise(format!("The command was not started.{advice}"))
        }
        Error::Unavailable { retry_after: Some(wait), .. } => {
            failure(exit::NOT_REACHED).advise(format!(
                "The command was not started: you, or others at your address, ask more often than \
                 the node allows. Try again in {}.",
                exit::waited(*wait)
            ))
        }
        Error::Unavailable { .. } => match client::too_old(client).await {
            Some(error) => too_old(args, &error),
            None => failure(exit::NOT_REACHED).advise(
                "The command was not started. Look at the nodes with `keyward cluster status`.",
            ),
        },
        Error::Unknown { .. } | Error::LaneForgotten { .. } => {
            let why = format!("{name} may have been acquired, but no node said so: {error}");
            Failure::new(exit::NOT_KNOWN, why).advise(
                "The command was not started. If the lock was acquired, it runs out by itself.",
            )
        }
        Error::BadRequest { .. }
        | Error::NotFound { .. }
        | Error::Unauthorized { .. }
        | Error::NotAllowed { .. } => {
            failure(exit::code_of(error)).advise("The command was not started.")
        }
    }
}

/// The failure of a request that the cluster does not know yet.
fn too_old(args: &RunArgs, error: &Error) -> Failure {
    let name = output::visible(&args.signature);
    Failure::new(exit::NOT_REACHED, format!("{name} was not acquired: {error}"))
        .advise(format!("The command was not started. {TOO_OLD}"))
}
