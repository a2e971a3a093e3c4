//! The helper process of `keyward run`: kills the command's group if `keyward run` cannot.
//!
//! A process that is killed or stopped renews nothing and ends nothing. So a second one, in a
//! session of its own that no terminal and no job control reaches, holds the other end of a pipe:
//! it kills the group when the pipe closes without `done`, or when the last `until` has passed. It
//! knows nothing of locks.
//!
//! Its messages, one line each: `group ID`, `until MILLISECONDS` (of the boot-time clock), `done`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use crate::cli::{exit, output};
use crate::clock::{Clock as _, SystemClock};

/// The name of the hidden command.
pub(crate) const COMMAND: &str = "__watchdog";

/// The longest wait between two looks at the clock: waits do not count the time that the machine
/// sleeps, the clock does.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Ends that differ by less than this are the same: a clock is read twice to tell one.
const SAME: Duration = Duration::from_millis(2);

/// The helper, as `keyward run` holds it.
#[derive(Debug)]
pub(crate) struct Watchdog {
    process: Child,
    pipe: Option<ChildStdin>,
    /// The last time that was sent to it for killing the group.
    told: Option<Duration>,
}

impl Watchdog {
    /// Starts the helper; it does nothing until it knows a group.
    ///
    /// # Errors
    /// The program cannot be started a second time.
    pub(crate) fn start() -> std::io::Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg(COMMAND)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        let pipe = process.stdin.take();
        if let Some(pipe) = &pipe {
            // A helper that somebody has stopped reads nothing; nobody may wait for it.
            rustix::fs::fcntl_setfl(pipe, rustix::fs::OFlags::NONBLOCK)?;
        }
        Ok(Self { process, pipe, told: None })
    }

    /// Names the group to kill.
    pub(crate) fn group(&mut self, id: Pid) {
        self.tell(&format!("group {}\n", id.as_raw_nonzero()));
    }

    /// Moves the time at which the group is killed, as read from the boot-time clock.
    pub(crate) fn until(&mut self, end: Duration) {
        // The same end, as two looks at the clock tell it.
        if self.told.is_some_and(|told| told.abs_diff(end) < SAME) {
            return;
        }
        self.told = Some(end);
        self.tell(&format!("until {}\n", end.as_millis()));
    }

    /// Takes note of the helper's end, if it has ended.
    pub(crate) fn reap(&mut self) {
        if let Err(error) = self.process.try_wait() {
            tracing::debug!(%error, "the watchdog was reaped by another");
        }
    }

    /// The group is gone: the helper ends without doing anything.
    pub(crate) fn done(mut self) {
        self.tell("done\n");
        self.pipe = None;
        // It may be stopped, and then would not read that for as long as it is.
        if let Err(error) = self.process.kill() {
            tracing::debug!(%error, "the watchdog has ended already");
        }
        if let Err(error) = self.process.wait() {
            tracing::debug!(%error, "the watchdog was reaped by another");
        }
    }

    fn tell(&mut self, line: &str) {
        let Some(pipe) = &mut self.pipe else { return };
        if let Err(error) = pipe.write_all(line.as_bytes()) {
            // It was killed by somebody; the command is still ended by this process.
            tracing::warn!(%error, "the watchdog process is gone");
            self.pipe = None;
        }
    }
}

/// A message to the helper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Group(Pid),
    Until(Duration),
    Done,
}

fn read(line: &str) -> Option<Told> {
    match line.split_once(' ').unwrap_or((line, "")) {
        ("group", id) => Some(Told::Group(Pid::from_raw(id.parse().ok().filter(|id| *id > 1)?)?)),
        ("until", ms) => Some(Told::Until(Duration::from_millis(ms.parse().ok()?))),
        ("done", "") => Some(Told::Done),
        _ => None,
    }
}

/// Runs as the helper: reads messages from standard input, and ends with the group.
pub(crate) fn run() -> u8 {
    // Away from the terminal and its signals; refused only to a group's leader, which it is not.
    if let Err(error) = rustix::process::setsid() {
        output::say(&format!("the watchdog stays in its session: {error}"));
    }
    let (sender, told) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(std::io::stdin()).lines() {
            let Some(told) = line.ok().as_deref().and_then(read) else { break };
            if sender.send(told).is_err() {
                break;
            }
        }
    });
    match wait(&told) {
        Some((group, why)) => {
            // Nothing is left to do if it is gone already.
            let _ = kill_process_group(group, Signal::KILL);
            output::say(&format!("{why}; the command's process group {group} is killed"));
            exit::BROKEN
        }
        None => exit::OK,
    }
}

/// Waits until there is a reason to kill a group, or none any more.
fn wait(told: &mpsc::Receiver<Told>) -> Option<(Pid, &'static str)> {
    let clock = SystemClock;
    let (mut group, mut until) = (None, None);
    loop {
        let left = until.map_or(LOOK_EVERY, |end: Duration| end.saturating_sub(clock.boottime()));
        if left.is_zero() {
            return group.map(|group| (group, "the lock ends and `keyward run` does not act"));
        }
        match told.recv_timeout(left.min(LOOK_EVERY)) {
            Ok(Told::Group(id)) => group = Some(id),
            Ok(Told::Until(end)) => until = Some(end),
            Ok(Told::Done) => return None,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return group.map(|group| (group, "`keyward run` is gone"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn understands_what_it_is_told_and_nothing_else() {
        assert_eq!(read("group 42"), Some(Told::Group(Pid::from_raw(42).unwrap())));
        assert_eq!(read("until 1500"), Some(Told::Until(Duration::from_millis(1_500))));
        assert_eq!(read("done"), Some(Told::Done));
        for line in ["", "group", "group 0", "group 1", "group -5", "until x", "done now", "other"]
        {
            assert_eq!(read(line), None, "{line}");
        }
    }
}
