//! The pace of a load: when an operation is due.
//!
//! In a closed loop a client sends its next request as soon as it has an answer, so a service that
//! stalls gets fewer requests: its stall shows in the rate, and as one slow answer for each client.
//! In an open loop operations are due at a rate that the service does not influence, as with users,
//! and each is timed from when it was due: an operation that waited because all clients were stuck
//! in a stall counts with that wait.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The step of the runtime's timers. A client that slept until its operation was due wakes up to
/// this much too late; that is the load generator's lateness, not the service's.
const TIMER_STEP: Duration = Duration::from_millis(2);

/// The rule for when the next operation is due.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pace {
    /// As soon as the client is free.
    Closed,
    /// At this rate, by all clients together.
    Open {
        /// Operations per second; more than zero.
        per_second: f64,
    },
}

impl Pace {
    /// When operation number `number` is due, counted from the start of the load; `None` in a
    /// closed loop.
    pub fn due(&self, number: u64) -> Option<Duration> {
        match self {
            Self::Closed => None,
            #[expect(clippy::cast_precision_loss, reason = "exact for the first 2^53 operations")]
            Self::Open { per_second } => Some(Duration::from_secs_f64(number as f64 / per_second)),
        }
    }

    /// How many operations are due before `end`, counted from the start of the load; none in a
    /// closed loop.
    pub fn due_before(&self, end: Duration) -> u64 {
        match self {
            Self::Closed => 0,
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a count, rounded up"
            )]
            Self::Open { per_second } => (end.as_secs_f64() * per_second).ceil() as u64,
        }
    }
}

/// The time from which an operation is timed: when it was due. If a client was free in time and
/// slept, it is when the timer woke it, unless that was late by more than the timer's step.
pub(super) fn counts_from(due: Duration, free: Duration, awake: Duration) -> Duration {
    if free <= due && awake <= due + TIMER_STEP { awake } else { due }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn operations_are_due_at_even_steps() {
        let pace = Pace::Open { per_second: 250.0 };
        assert_eq!(pace.due(0), Some(ms(0)));
        assert_eq!(pace.due(3), Some(ms(12)));
        assert_eq!(pace.due_before(ms(12)), 3);
        assert_eq!(pace.due_before(ms(13)), 4);
        assert_eq!(Pace::Closed.due(3), None);
        assert_eq!(Pace::Closed.due_before(ms(13)), 0);
    }

    #[test]
    fn only_the_timers_own_step_is_forgiven() {
        let table = [
            // due, free, awake, counts from
            (ms(10), ms(5), ms(11), ms(11)),
            (ms(10), ms(5), ms(12), ms(12)),
            (ms(10), ms(5), ms(13), ms(10)),
            (ms(10), ms(11), ms(11), ms(10)),
            (ms(10), ms(500), ms(500), ms(10)),
        ];
        for (due, free, awake, from) in table {
            assert_eq!(counts_from(due, free, awake), from, "{due:?} {free:?} {awake:?}");
        }
    }
}
