//! Refusals in a sentence, with advice where there is any.

use crate::cli::{duration, output};
use crate::types::{Forbidden, ForbiddenReason};

/// The reason why a lock was refused.
pub(crate) fn describe(signature: &str, forbidden: &Forbidden) -> String {
    let name = output::visible(signature);
    let holders = &forbidden.holders;
    let held = match output::holders(holders) {
        held if held.is_empty() => String::new(),
        held => format!("; it is held by {held}"),
    };
    match forbidden.reason {
        ForbiddenReason::Held if holders.is_empty() => format!("{name} is held by another"),
        ForbiddenReason::Held => format!("{name} is held by {}", output::holders(holders)),
        ForbiddenReason::Lost if holders.is_empty() => {
            format!("{name} is lost: the grant or the place is gone, and nobody holds the lock")
        }
        ForbiddenReason::Lost => format!(
            "{name} is lost: the grant or the place is gone or expired; the record shows {}",
            output::holders(holders)
        ),
        ForbiddenReason::Queued => format!("others wait for {name}{held}"),
        ForbiddenReason::Timeout => format!("{name} was not free in time{held}"),
        ForbiddenReason::Superseded => {
            format!("a later request of this owner has taken over its place in the queue of {name}")
        }
        ForbiddenReason::SessionLost => {
            format!("{name} was not acquired: the session is unknown or has ended")
        }
        ForbiddenReason::Delay => {
            let left =
                forbidden.delay.map(|delay| format!(" for {}", duration::format_short(delay)));
            let left = left.unwrap_or_default();
            format!("{name} is kept{left} for its former holder, which let it expire (lock-delay)")
        }
        ForbiddenReason::Shared => format!("{name} is shared with others{held}"),
        ForbiddenReason::ModeDiffers => format!("{name} is held in another mode{held}"),
        ForbiddenReason::LimitDiffers => match forbidden.limit {
            Some(limit) => format!("{name} has the limit {limit}, not the one that was asked for"),
            None => format!("{name} has another limit"),
        },
        ForbiddenReason::QueueFull => {
            format!("{name} was not acquired: there are too many places in queues, or sessions")
        }
        ForbiddenReason::TableDeleted => {
            format!("{name} was not acquired: its table was deleted meanwhile")
        }
    }
}

/// Advice on what to do, to whoever asked for the lock.
pub(crate) fn advice(reason: ForbiddenReason) -> Option<&'static str> {
    match reason {
        ForbiddenReason::Held | ForbiddenReason::Queued => Some(
            "Wait for it with --wait 10m, or take it with a higher --level or --force. `keyward show` has the queue.",
        ),
        ForbiddenReason::Timeout => Some("`keyward show` has the holders and the queue."),
        ForbiddenReason::Superseded => {
            Some("Give each run an --instance of its own, so that both stand in the queue.")
        }
        ForbiddenReason::SessionLost => Some("Open another with `keyward session open`."),
        ForbiddenReason::Delay => Some("Wait for it with --wait, or take it with --force."),
        ForbiddenReason::Shared => {
            Some("Only its last holder makes it exclusive. Release it and wait with --wait.")
        }
        ForbiddenReason::ModeDiffers => Some("Release it first, or ask in the mode that it has."),
        ForbiddenReason::LimitDiffers => {
            Some("Ask with --limit as it is, or change it with `keyward limit`.")
        }
        ForbiddenReason::QueueFull => Some("Try again when others have gone."),
        ForbiddenReason::Lost | ForbiddenReason::TableDeleted => None,
    }
}
