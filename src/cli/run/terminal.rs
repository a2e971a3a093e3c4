//! The terminal of `keyward run`: lent to the command, as a shell lends it.
//!
//! The command has a process group of its own, so that all of it can be ended. A group that is not
//! the terminal's foreground group is stopped when it reads from it, and gets no Ctrl-C. So when
//! `keyward run` itself is in the foreground, the command's group is put there in its place, and
//! the terminal is taken back when the command ends or is stopped by Ctrl-Z.

use std::io::{IsTerminal as _, Stdin};

use nix::sys::signal::{SigSet, SigmaskHow, Signal as NixSignal};
use rustix::process::{Pid, getpgrp};
use rustix::termios::{tcgetpgrp, tcsetpgrp};

/// The terminal on standard input.
#[derive(Debug)]
pub(crate) struct Terminal {
    input: Stdin,
    own: Pid,
    lent: bool,
}

impl Terminal {
    /// The terminal, if standard input is one.
    pub(crate) fn open() -> Option<Self> {
        let input = std::io::stdin();
        input.is_terminal().then(|| Self { input, own: getpgrp(), lent: false })
    }

    /// Puts a group into the foreground if this process is there. `false`: it is in the background,
    /// as after `keyward run … &`, and so is the command.
    pub(crate) fn lend(&mut self, group: Pid) -> bool {
        if tcgetpgrp(&self.input) == Ok(self.own) {
            self.lent = self.put(group);
        }
        self.lent
    }

    /// Whether the command has the terminal.
    pub(crate) fn is_lent(&self) -> bool {
        self.lent
    }

    /// Takes the terminal back if it is lent.
    pub(crate) fn take_back(&mut self) {
        if std::mem::take(&mut self.lent) {
            self.put(self.own);
        }
    }

    /// Puts a group into the foreground. From the background that stops the caller with SIGTTOU,
    /// unless its thread blocks the signal.
    fn put(&self, group: Pid) -> bool {
        let mut background = SigSet::empty();
        background.add(NixSignal::SIGTTOU);
        let before = background.thread_swap_mask(SigmaskHow::SIG_BLOCK);
        let put = tcsetpgrp(&self.input, group);
        if let Ok(before) = before
            && let Err(error) = before.thread_set_mask()
        {
            tracing::debug!(%error, "SIGTTOU stays blocked");
        }
        if let Err(error) = &put {
            tracing::debug!(%error, "the terminal's foreground group stays as it is");
        }
        put.is_ok()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.take_back();
    }
}
