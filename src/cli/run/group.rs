//! The command of `keyward run`: a process group of its own, watched by one thread.
//!
//! The command's process is left unreaped until all that is left of its group has been killed: as
//! long as it is there, even as a zombie, the number of the group cannot be given to another.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, ExitStatus};
use std::time::Duration;

use nix::sys::wait::{self, WaitPidFlag};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process_group, test_kill_process_group, waitid,
};
use tokio::sync::mpsc;

use super::starter;
use crate::cli::exit::{self, Failure};

/// An event of the command's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// It was stopped, by Ctrl-Z or because it used the terminal from the background.
    Stopped(i32),
    /// It has ended.
    Ended(Ending),
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// With this exit code.
    Exited(u8),
    /// By this signal.
    Killed(i32),
}

impl From<ExitStatus> for Ending {
    fn from(status: ExitStatus) -> Self {
        let code = |code: i32| Self::Exited(u8::try_from(code & 0xff).unwrap_or(u8::MAX));
        status.signal().map_or_else(|| code(status.code().unwrap_or_default()), Self::Killed)
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit code {code}"),
            Self::Killed(signal) => write!(f, "signal {signal}"),
        }
    }
}

impl Ending {
    /// The exit code that passes it on, as shells do.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Exited(code) => code,
            Self::Killed(signal) => exit::of_signal(signal),
        }
    }
}

/// The longest time until the process has stopped itself to wait for its start. It only has to
/// load.
const STOPS_WITHIN: Duration = Duration::from_secs(10);

/// A running command and its process group.
#[derive(Debug)]
pub(crate) struct Group {
    child: Child,
    id: Pid,
}

impl Group {
    /// Makes the process of a command, in a group of its own, stopped before the command begins:
    /// see [`super::starter`]. A variable without a value is removed. Its end, and every stop, comes
    /// through the receiver.
    ///
    /// # Errors
    /// This program cannot be started a second time.
    pub(crate) async fn make(
        command: &[OsString],
        environment: impl IntoIterator<Item = (&'static str, Option<String>)>,
    ) -> Result<(Self, mpsc::UnboundedReceiver<Event>), Failure> {
        let broken = |error: io::Error| {
            Failure::new(exit::BROKEN, format!("cannot start a process: {error}"))
        };
        let child = starter::command(command)
            .and_then(|mut starter| {
                for (name, value) in environment {
                    match value {
                        Some(value) => starter.env(name, value),
                        None => starter.env_remove(name),
                    };
                }
                starter.process_group(0).spawn()
            })
            .map_err(broken)?;
        let id = Pid::from_child(&child);
        let group = Self { child, id };
        let (sender, mut receiver) = mpsc::unbounded_channel();
        std::thread::Builder::new()
            .name("command".to_owned())
            .spawn(move || watch(id, &sender))
            .map_err(broken)?;
        match tokio::time::timeout(STOPS_WITHIN, receiver.recv()).await {
            Ok(Some(Event::Stopped(_))) => Ok((group, receiver)),
            other => {
                group.signal(Signal::KILL);
                Err(Failure::new(exit::BROKEN, format!("the command's process failed: {other:?}")))
            }
        }
    }

    /// Lets the command begin, or go on.
    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// The number of the group.
    pub(crate) fn id(&self) -> Pid {
        self.id
    }

    /// Sends a signal to every process of the group.
    pub(crate) fn signal(&self, signal: Signal) {
        match kill_process_group(self.id, signal) {
            // All have ended already.
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => {
                tracing::warn!(group = %self.id.as_raw_nonzero(), ?signal, %error, "cannot signal");
            }
        }
    }

    /// Reaps processes that have ended and whose parents have left them to this one: it is their parent
    /// in a container, where it is process 1. The command itself is left, see the module.
    pub(crate) fn reap_strangers(&self) {
        reap_all_but(self.id);
    }

    /// Kills what is left of the group once the command itself has ended.
    pub(crate) fn finish(mut self) {
        if test_kill_process_group(self.id).is_ok() {
            self.signal(Signal::KILL);
        }
        // It has ended, so this does not wait; its status has been read already.
        if let Err(error) = self.child.wait() {
            tracing::debug!(%error, "the command was reaped by another");
        }
    }
}

fn reap_all_but(kept: Pid) {
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
    // rustix does not say whose end it is.
    while let Ok(status) = wait::waitid(wait::Id::All, look | WaitPidFlag::WNOWAIT) {
        // The command's end hides those of others, but everything ends with it.
        let Some(id) = status.pid().filter(|id| id.as_raw() != kept.as_raw_pid()) else { return };
        if wait::waitid(wait::Id::Pid(id), look).is_err() {
            return;
        }
    }
}

/// The reason why a command does not start, with the exit code that shells give for it.
pub(crate) fn cannot_execute(program: &OsString, error: &io::Error) -> Failure {
    let program = program.to_string_lossy();
    if error.kind() == io::ErrorKind::NotFound {
        Failure::new(exit::NOT_FOUND, format!("there is no command {program}"))
            .advise("Name a program in PATH, or a path to one; a script needs its interpreter too.")
    } else {
        Failure::new(exit::NOT_EXECUTABLE, format!("cannot execute {program}: {error}"))
    }
}

/// Waits for the command's stops and its end. The end is looked at, not taken: see the module.
fn watch(id: Pid, events: &mpsc::UnboundedSender<Event>) {
    let look = WaitIdOptions::EXITED | WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT;
    loop {
        let event = match waitid(WaitId::Pid(id), look) {
            Ok(Some(status)) => {
                if let Some(code) = status.exit_status() {
                    Event::Ended(Ending::Exited(u8::try_from(code & 0xff).unwrap_or(u8::MAX)))
                } else if let Some(signal) = status.terminating_signal() {
                    Event::Ended(Ending::Killed(signal))
                } else {
                    // A stop is taken, or it would be reported again and again.
                    let take = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
                    match waitid(WaitId::Pid(id), take) {
                        Ok(Some(status)) => Event::Stopped(status.stopping_signal().unwrap_or(0)),
                        Ok(None) | Err(_) => continue,
                    }
                }
            }
            Ok(None) | Err(rustix::io::Errno::INTR) => continue,
            // There is no such child any more: nothing will happen to it.
            Err(_) => return,
        };
        if events.send(event).is_err() || matches!(event, Event::Ended(_)) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orphans_are_reaped_and_the_command_is_left() {
        // As process 1 of a container: a process that loses its parent becomes a child of this one.
        let own = rustix::process::getpid();
        rustix::process::set_child_subreaper(Some(own)).unwrap();
        let script = "for i in 1 2 3; do (true &) ; done";
        let mut command = std::process::Command::new("sh").arg("-c").arg(script).spawn().unwrap();
        let id = Pid::from_child(&command);
        let ended = WaitIdOptions::EXITED;
        // The command has ended and is left; it is the first that is looked at, or one of the others.
        waitid(WaitId::Pid(id), ended | WaitIdOptions::NOWAIT).unwrap();
        reap_all_but(id);
        assert!(command.wait().unwrap().success(), "it was not reaped");
        // The remaining children are orphans; each is reaped when it has ended.
        let is_left = || waitid(WaitId::All, ended | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT);
        for _ in 0..2000 {
            reap_all_but(id);
            if is_left().err() == Some(rustix::io::Errno::CHILD) {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
        panic!("orphans are left");
    }
}
