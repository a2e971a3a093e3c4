//! The decision when to end a command that may lose its lock, without clocks or processes.
//!
//! ```text
//!  granted        renew     renew, and again          SIGTERM          SIGKILL   the lock ends
//!     |-------------|-----------|--- … -----------------|----------------|-----------|
//!     0           1/3         2/3                       |<- kill_after ->|<- margin->|
//! ```

use std::time::Duration;

use crate::cli::duration::format;
use crate::cli::exit::{self, Failure};
use crate::client::{GuardState, LostReason};

/// The shortest duration that `run` holds a lock with: below it, a busy machine's scheduling takes a
/// noticeable share of the time for renewals.
const SHORTEST: Duration = Duration::from_millis(500);

/// How long before the lock's end the command gets which signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Between SIGTERM and SIGKILL.
    pub(crate) kill_after: Duration,
    /// Between SIGKILL and the end of the lock.
    pub(crate) margin: Duration,
}

impl Limits {
    /// The limits that were asked for, or the usual shares of the duration.
    ///
    /// # Errors
    /// They leave too little time to renew the lock.
    pub(crate) fn new(
        duration: Duration,
        kill_after: Option<Duration>,
        margin: Option<Duration>,
    ) -> Result<Self, Failure> {
        if duration < SHORTEST {
            let shortest = format(SHORTEST);
            return Err(Failure::usage(format!(
                "--duration {} is too short to be kept: at least {shortest}",
                format(duration)
            )));
        }
        let kill_after = kill_after.unwrap_or(duration / 4);
        let margin = margin.unwrap_or(duration / 20);
        if kill_after.saturating_add(margin) > duration / 2 {
            return Err(Failure::usage(format!(
                "--kill-after {} and --margin {} leave too little of --duration {} to renew it",
                format(kill_after),
                format(margin),
                format(duration)
            ))
            .advise("Together they may take half of the duration. Make it longer."));
        }
        Ok(Self { kill_after, margin })
    }

    /// Decides what to do to the command now. `remaining` is how long the lock certainly holds,
    /// `asked` how long ago the command was asked to end, if it was.
    pub(crate) fn judge(
        self,
        state: GuardState,
        remaining: Duration,
        asked: Option<Duration>,
    ) -> Verdict {
        let over = asked.is_some_and(|asked| asked >= self.kill_after);
        match state {
            // Another may hold the lock already: there is no time to be polite in.
            GuardState::Lost(reason) => Verdict::Kill(reason),
            GuardState::Released => Verdict::Wait(Duration::MAX),
            GuardState::Safe | GuardState::Danger => {
                let polite = self.margin.saturating_add(self.kill_after);
                if remaining <= self.margin || over {
                    Verdict::Kill(LostReason::Unreachable)
                } else if let Some(asked) = asked {
                    let patience = self.kill_after.saturating_sub(asked);
                    Verdict::Wait(patience.min(remaining.saturating_sub(self.margin)))
                } else if remaining <= polite {
                    Verdict::Ask
                } else {
                    Verdict::Wait(remaining.saturating_sub(polite))
                }
            }
        }
    }
}

/// The action on the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing for this long, if nothing changes.
    Wait(Duration),
    /// Ask it to end: the lock cannot be renewed and ends soon.
    Ask,
    /// End it now.
    Kill(LostReason),
}

/// The exit code that says why the command was ended.
pub(crate) fn code_of(reason: LostReason) -> u8 {
    match reason {
        LostReason::Unreachable => exit::UNREACHABLE,
        LostReason::Preempted => exit::PREEMPTED,
        LostReason::Lost
        | LostReason::Expired
        | LostReason::Forced
        | LostReason::Moved
        | LostReason::Released
        | LostReason::TableDeleted
        | LostReason::SessionEnded => exit::LOST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn limits() -> Limits {
        Limits { kill_after: 7 * S, margin: 2 * S }
    }

    #[test]
    fn a_command_is_asked_and_then_killed_before_the_lock_ends() {
        let judge = |remaining: u32, asked: Option<u32>| {
            limits().judge(GuardState::Danger, remaining * S, asked.map(|asked| asked * S))
        };
        assert_eq!(judge(20, None), Verdict::Wait(11 * S));
        assert_eq!(judge(9, None), Verdict::Ask);
        assert_eq!(judge(9, Some(0)), Verdict::Wait(7 * S));
        assert_eq!(judge(5, Some(4)), Verdict::Wait(3 * S));
        assert_eq!(judge(3, Some(1)), Verdict::Wait(S), "the lock ends before its patience");
        assert_eq!(judge(2, None), Verdict::Kill(LostReason::Unreachable));
        assert_eq!(
            judge(20, Some(7)),
            Verdict::Kill(LostReason::Unreachable),
            "a renewal that came after all does not take the request to end back"
        );
    }

    #[test]
    fn a_command_whose_lock_is_lost_is_killed_at_once() {
        for reason in [LostReason::Lost, LostReason::Preempted, LostReason::Unreachable] {
            let verdict = limits().judge(GuardState::Lost(reason), Duration::ZERO, None);
            assert_eq!(verdict, Verdict::Kill(reason));
        }
    }

    #[test]
    fn limits_leave_room_to_renew() {
        let limits = Limits::new(20 * S, None, None).unwrap();
        assert_eq!(limits, Limits { kill_after: 5 * S, margin: S });
        assert!(Limits::new(20 * S, Some(9 * S), None).is_ok());
        assert!(Limits::new(20 * S, Some(10 * S), None).is_err());
        assert!(Limits::new(20 * S, None, Some(Duration::MAX)).is_err());
        assert!(Limits::new(SHORTEST / 2, None, None).is_err());
    }
}
