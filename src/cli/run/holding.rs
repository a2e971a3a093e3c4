//! The lock and the command together: one loop that watches both and ends the one with the other.

use std::ffi::OsString;
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};
use tokio::sync::mpsc::UnboundedReceiver;

use super::group::{Ending, Event, Group};
use super::hold::{Limits, Verdict, code_of};
use super::terminal::Terminal;
use super::watchdog::Watchdog;
use super::{Released, release};
use crate::cli::duration::format_short;
use crate::cli::exit::{self, Failure, Outcome};
use crate::cli::output;
use crate::cli::signals::Signals;
use crate::client::{GuardState, LockGuard, LostReason};
use crate::clock::{Clock as _, SystemClock};

/// The longest time between two looks at the lock: timers do not count the time that the machine
/// sleeps, the lock does.
const LONGEST_NAP: Duration = Duration::from_millis(500);

/// How long a release is tried when the nodes could not be reached for long.
const LAST_WORD: Duration = Duration::from_secs(1);

/// A command that runs under a lock.
pub(crate) struct Holding {
    guard: Box<LockGuard>,
    group: Group,
    events: UnboundedReceiver<Event>,
    watchdog: Option<Watchdog>,
    terminal: Option<Terminal>,
    limits: Limits,
    name: String,
    /// When the command was asked to end because the lock could not be renewed.
    asked: Option<Duration>,
    /// The reason why the command was killed.
    killed: Option<LostReason>,
}

impl Holding {
    /// Starts the command and its watchdog.
    ///
    /// # Errors
    /// The command's process cannot be made; the lock is given back to the caller.
    pub(crate) async fn start(
        guard: Box<LockGuard>,
        command: &[OsString],
        environment: impl IntoIterator<Item = (&'static str, Option<String>)>,
        limits: Limits,
    ) -> Result<Self, (Box<LockGuard>, Failure)> {
        let watchdog = Watchdog::start()
            .inspect_err(|error| tracing::warn!(%error, "there is no watchdog for the command"))
            .ok();
        let terminal = Terminal::open();
        let (group, events) = match Group::make(command, environment).await {
            Ok(made) => made,
            Err(failure) => {
                if let Some(watchdog) = watchdog {
                    watchdog.done();
                }
                return Err((guard, failure));
            }
        };
        let name = output::visible(guard.signature());
        let (asked, killed) = (None, None);
        let mut holding =
            Self { guard, group, events, watchdog, terminal, limits, name, asked, killed };
        if let Some(watchdog) = &mut holding.watchdog {
            watchdog.group(holding.group.id());
        }
        // From here on the command is ended with its lock: it may begin.
        holding.resume();
        Ok(holding)
    }

    /// Watches until the command has ended, then releases the lock, or leaves it to run out at
    /// `keep_until` of the boot-time clock.
    pub(crate) async fn keep(
        mut self,
        signals: &mut Signals,
        keep_until: Option<Duration>,
    ) -> Outcome {
        let mut states = self.guard.states();
        let ending = loop {
            let nap = self.look();
            tokio::select! {
                event = self.events.recv() => match event {
                    Some(Event::Ended(ending)) => break ending,
                    Some(Event::Stopped(signal)) => self.stopped(signal),
                    // Nobody watches the command any more: it was reaped by another.
                    None => break Ending::Exited(exit::BROKEN),
                },
                signal = signals.next() => self.pass_on(signal),
                Ok(()) = states.changed() => {}
                () = tokio::time::sleep(nap) => {}
            }
        };
        Ok(self.finish(ending, keep_until).await)
    }

    /// Does to the command what the lock demands now; says when to look again at the latest.
    fn look(&mut self) -> Duration {
        let now = SystemClock.boottime();
        let remaining = self.guard.remaining();
        let asked = self.asked.map(|asked| now.saturating_sub(asked));
        let verdict = self.limits.judge(self.guard.state(), remaining, asked);
        if let Some(watchdog) = &mut self.watchdog
            && !matches!(verdict, Verdict::Kill(_))
        {
            // The watchdog acts after this loop would have, and before the lock ends.
            watchdog.until(now.saturating_add(remaining.saturating_sub(self.limits.margin / 2)));
        }
        match verdict {
            Verdict::Wait(time) => {
                // Timers have a resolution of a millisecond; a shorter nap would only spin.
                let often = self.limits.margin / 2;
                return time.min(often).min(LONGEST_NAP).max(Duration::from_millis(1));
            }
            Verdict::Ask => {
                self.asked = Some(now);
                self.group.signal(Signal::TERM);
                // A command that is stopped gets its SIGTERM only when it goes on.
                self.group.resume();
                output::say(&format!(
                    "no node could be reached to renew {}, which ends in {}: the command is asked \
                     to end (SIGTERM)",
                    self.name,
                    format_short(remaining)
                ));
            }
            Verdict::Kill(reason) => self.kill(reason),
        }
        LONGEST_NAP.min(self.limits.margin / 2)
    }

    fn kill(&mut self, reason: LostReason) {
        self.group.signal(Signal::KILL);
        if let Some(watchdog) = self.watchdog.take() {
            // It would do the same once more, and say that nobody else did.
            watchdog.done();
        }
        if self.killed.is_none() {
            self.killed = Some(reason);
            let why = match reason {
                LostReason::Unreachable => "cannot be renewed in time: no node could be reached",
                LostReason::Lost => "is lost: released, removed or taken by force",
                LostReason::Preempted => "is lost: taken by a request of a higher level",
                LostReason::Expired => "is lost: its longest hold is over",
                LostReason::Forced => "is lost: taken by force",
                LostReason::Moved => "is lost: its owner has moved it to another session",
                LostReason::Released => "is lost: released by an operator",
                LostReason::TableDeleted => "is lost: its table was deleted",
                LostReason::SessionEnded => "is lost: its session has ended",
            };
            output::say(&format!("{} {why}; the command is killed", self.name));
        }
    }

    fn pass_on(&mut self, signal: Signal) {
        tracing::debug!(?signal, "a signal");
        match signal {
            Signal::CONT => self.resume(),
            Signal::CHILD => {
                // Before the others: its number must stay its own while it may still be killed by it.
                if let Some(watchdog) = &mut self.watchdog {
                    watchdog.reap();
                }
                self.group.reap_strangers();
            }
            signal => self.group.signal(signal),
        }
    }

    /// The command was stopped: by Ctrl-Z, and then the shell has to learn of it, or because it
    /// used the terminal from the background.
    fn stopped(&mut self, signal: i32) {
        let Some(terminal) = &mut self.terminal else { return };
        let for_terminal = [Signal::TTIN, Signal::TTOU].iter().any(|tty| tty.as_raw() == signal);
        if for_terminal && terminal.lend(self.group.id()) {
            self.group.resume();
        } else if terminal.is_lent() {
            terminal.take_back();
            // The shell sees this process stop, as it would see the command. It goes on here when
            // the shell continues it, and `resume` is called by the signal for that.
            if let Err(error) = kill_process(getpid(), Signal::STOP) {
                tracing::warn!(%error, "cannot stop with the command");
            }
        }
    }

    /// The command begins, or this process goes on after a stop and so does the command: if its lock
    /// still holds.
    fn resume(&mut self) {
        self.look();
        if let Some(terminal) = &mut self.terminal {
            terminal.lend(self.group.id());
        }
        self.group.resume();
    }

    async fn finish(self, ending: Ending, keep_until: Option<Duration>) -> u8 {
        self.group.finish();
        drop(self.terminal);
        if let Some(watchdog) = self.watchdog {
            watchdog.done();
        }
        let reason = self.killed.or(self.asked.map(|_| LostReason::Unreachable));
        match reason {
            // There is nothing of ours to release.
            Some(
                LostReason::Lost
                | LostReason::Preempted
                | LostReason::Expired
                | LostReason::Forced
                | LostReason::Moved
                | LostReason::Released
                | LostReason::TableDeleted
                | LostReason::SessionEnded,
            ) => {}
            Some(LostReason::Unreachable) => {
                // The nodes may answer again; nobody waits for that. A job of a period keeps its lock.
                let released = async {
                    if keep_until.is_some() {
                        release(self.guard, keep_until).await;
                    } else if let Err(error) = self.guard.release().await {
                        tracing::debug!(%error, "not released after the command was ended");
                    }
                };
                if tokio::time::timeout(LAST_WORD, released).await.is_err() {
                    tracing::debug!("no node answered the release");
                }
            }
            None => {
                // It may have ended while the machine slept, and nobody else have asked for it.
                let had_ended = matches!(self.guard.state(), GuardState::Lost(_));
                let released = release(self.guard, keep_until).await;
                if had_ended || released == Released::Lost {
                    output::say(&format!(
                        "{} was lost before the command ended ({ending}): another may have had it",
                        self.name
                    ));
                    return exit::LOST_UNSEEN;
                }
            }
        }
        reason.map_or_else(|| ending.code(), code_of)
    }
}
