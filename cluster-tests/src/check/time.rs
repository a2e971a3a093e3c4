//! The bounds that real time sets to a cluster clock.
//!
//! No history shows the clock that decides. But its rate is bounded, so that a grant cannot end
//! before its duration has passed between the moment at which its last renewal was *invoked* and
//! the moment at which the answer that shows the end had *returned*, both on the recorder's clock.
//! Nothing here requires that a grant has ended: its delay is a figure, see [`lateness`].

use super::model::{Grant, Life, Lock, Terms};
use crate::history::{Clocks, Operation};

const NANOS_PER_MS: u64 = 1_000_000;

/// The possible states of the lock's grant at some moment no later than `now`.
pub(super) fn lives(lock: &Lock, now: u64, clocks: Clocks) -> impl Iterator<Item = Life> {
    let mut lives = [Some(Life::Live), None, None];
    if let Some(grant) = &lock.grant {
        let may_end = grant.dead || now >= earliest(grant, grant.terms.duration_ms, clocks);
        let removed = grant.terms.time_to_live_ms;
        let may_go = removed.is_some_and(|length| now >= earliest(grant, length, clocks));
        lives = [
            (!grant.dead).then_some(Life::Live),
            may_end.then_some(Life::Expired),
            may_go.then_some(Life::Gone),
        ];
    }
    lives.into_iter().flatten()
}

/// The earliest moment at which this much of the grant's time can be over.
pub(super) fn earliest(grant: &Grant, length_ms: u64, clocks: Clocks) -> u64 {
    grant.terms.invoked.saturating_add(shortened(length_ms, clocks))
}

/// A length in nanoseconds, less the error that is allowed.
pub(super) fn shortened(length_ms: u64, clocks: Clocks) -> u64 {
    let nanos = u128::from(length_ms) * u128::from(NANOS_PER_MS);
    let kept = nanos * u128::from(1_000_000 - clocks.epsilon_ppm.min(1_000_000)) / 1_000_000;
    u64::try_from(kept).unwrap_or(u64::MAX)
}

/// The terms of a grant according to this operation.
pub(super) fn terms(operation: &Operation, duration_ms: u64, ttl_ms: Option<u64>) -> Terms {
    Terms {
        invoked: operation.invoked,
        returned: operation.returned.unwrap_or(u64::MAX),
        duration_ms,
        time_to_live_ms: ttl_ms,
        left: None,
    }
}

/// Whether a live grant can have this remaining time in an answer to the operation: no more than
/// its duration, and no less than real time has left of it.
pub(super) fn may_be_left(terms: &Terms, left_ms: u64, seen: &Operation, clocks: Clocks) -> bool {
    let returned = seen.returned.unwrap_or(u64::MAX);
    let passed = returned.saturating_sub(terms.invoked);
    let least = shortened(terms.duration_ms, clocks).saturating_sub(passed);
    // Rounded down to whole milliseconds.
    left_ms <= terms.duration_ms && (left_ms + 1).saturating_mul(NANOS_PER_MS) > least
}

/// Whether the remaining time is consistent with earlier ones, along the log: it never grows, and
/// never decreases faster than time passes.
pub(super) fn may_follow(terms: &Terms, left_ms: u64, seen: &Operation, clocks: Clocks) -> bool {
    let Some((before_ms, asked)) = terms.left else { return true };
    let passed = seen.returned.unwrap_or(u64::MAX).saturating_sub(asked);
    let fallen = before_ms.saturating_sub(left_ms).saturating_sub(1);
    left_ms <= before_ms && shortened(fallen, clocks) <= passed
}

/// The least time by which this grant had outlived its duration when it was seen live.
pub(super) fn lateness(terms: &Terms, seen: &Operation) -> u64 {
    let length = terms.duration_ms.saturating_mul(NANOS_PER_MS);
    seen.invoked.saturating_sub(terms.returned.saturating_add(length))
}
