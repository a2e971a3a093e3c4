//! The first moments of a command's process under `keyward run`.
//!
//! The watchdog must know the group, and the terminal must be the group's, *before* the command
//! begins: whatever comes between could leave a command that nobody ends. So the process begins as
//! this program, asks the kernel to be killed if its parent dies, and stops itself. Its parent tells
//! the watchdog and continues it; then it becomes the command.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use clap::Args;
use rustix::process::{
    Pid, Signal, getpid, getppid, kill_process, set_parent_process_death_signal,
};

use super::cannot_execute;
use crate::cli::exit::{self, Failure, Outcome};

/// The name of the hidden command.
pub(crate) const COMMAND: &str = "__start";

/// The parent's number and the command.
#[derive(Debug, Args)]
pub(crate) struct StarterArgs {
    parent: i32,
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// This program, about to become the command of this process.
///
/// # Errors
/// The program's own file is not known.
pub(super) fn command(command: &[OsString]) -> io::Result<Command> {
    let mut starter = Command::new(std::env::current_exe()?);
    starter.arg(COMMAND).arg(getpid().as_raw_nonzero().to_string()).arg("--").args(command);
    Ok(starter)
}

/// Waits for the parent's word, then becomes the command.
///
/// # Errors
/// The command cannot be executed.
pub(crate) fn run(args: &StarterArgs) -> Outcome {
    let broken = |what: &str, error: rustix::io::Errno| {
        Failure::new(exit::BROKEN, format!("cannot {what}: {error}"))
    };
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| broken("ask to end with the parent", error))?;
    // It may have died before the kernel was asked.
    if getppid().map(Pid::as_raw_pid) != Some(args.parent) {
        return Ok(exit::BROKEN);
    }
    kill_process(getpid(), Signal::STOP).map_err(|error| broken("wait", error))?;
    let (program, arguments) =
        args.command.split_first().expect("the command line requires a command");
    // It returns only if it fails.
    let error = Command::new(program).args(arguments).exec();
    Err(cannot_execute(program, &error))
}
