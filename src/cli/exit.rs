//! Exit codes, and failures with an explanation and advice.

use std::fmt;
use std::time::Duration;

use crate::cli::output;
use crate::error::Error;

/// Done.
pub(crate) const OK: u8 = 0;
/// Refused (another holds the lock) or not found.
pub(crate) const REFUSED: u8 = 1;
/// The command line, the configuration or the request is wrong: trying again never mends it.
pub(crate) const USAGE: u8 = 2;
/// Certainly not done; trying again later is safe, and may help. `serve`, `dev`: a port, an
/// address, the folder or the disk cannot be used now.
pub(crate) const UNAVAILABLE: u8 = 3;
/// May have been done.
pub(crate) const UNKNOWN: u8 = 4;
/// The caller is not who it must be, or may not do this.
pub(crate) const UNAUTHORIZED: u8 = 5;
/// An invariant of the program itself is broken (`EX_SOFTWARE` of sysexits.h).
pub(crate) const BROKEN: u8 = 70;
/// The command's own output could not be written (`EX_IOERR` of sysexits.h).
pub(crate) const OUTPUT: u8 = 74;
/// `run`: the lock was not acquired, because no node could be reached or none could take requests.
pub(crate) const NOT_REACHED: u8 = 117;
/// `run`: the lock may have been acquired, but no node said so; the command was not started.
pub(crate) const NOT_KNOWN: u8 = 118;
/// `run`: another holds the lock, so the command was not started.
pub(crate) const HELD: u8 = 120;
/// `run`: no node answered in time to renew the lock; the command was ended.
pub(crate) const UNREACHABLE: u8 = 121;
/// `run`: the cluster says that the grant is gone; the command was ended.
pub(crate) const LOST: u8 = 122;
/// `run`: a request of a higher level, or a forced one, took the lock; the command was ended.
pub(crate) const PREEMPTED: u8 = 123;
/// `run`: the command ended by itself, and its lock had been lost before.
pub(crate) const LOST_UNSEEN: u8 = 124;
/// `run`, `dev`: the command was found and cannot be executed.
pub(crate) const NOT_EXECUTABLE: u8 = 126;
/// `run`, `dev`: there is no such command.
pub(crate) const NOT_FOUND: u8 = 127;
/// Added to the number of the signal that ended the command of `run` or `dev`, or the wait of
/// `lock`.
pub(crate) const SIGNAL_BASE: u8 = 128;

/// The exit code of a program that a signal has ended, as shells give it.
pub(crate) fn of_signal(signal: i32) -> u8 {
    SIGNAL_BASE.saturating_add(u8::try_from(signal).unwrap_or(u8::MAX))
}

/// The table of exit codes that the help of client commands ends with.
pub(crate) const CLIENT_HELP: &str = "\
Exit codes:
  0      done
  1      refused (another holds the lock, the wait is over), or there is no such lock or table
  2      the command line or the request is wrong
  3      unavailable: certainly not done, trying again later is safe
  4      unknown: may have been done; look with `keyward check`, or repeat
  5      unauthorized: no access token or a wrong one, or no access rule allows it
  74     done, but the answer could not be written to standard output
  128+n  a wait was ended by signal n: its place in the queue was left

Environment:
  KEYWARD_ENDPOINTS, KEYWARD_TABLE, KEYWARD_TIMEOUT, KEYWARD_SIGNEE, KEYWARD_TOKEN_FILE, KEYWARD_LOG:
  see the options. KEYWARD_ACCESS_TOKEN: the access token itself.";

/// The result of a command: its exit code, or a failure.
pub(crate) type Outcome = Result<u8, Failure>;

/// A failure: a message for the person at the terminal, and an exit code for their script.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
    advice: Option<String>,
}

impl Failure {
    /// A failure with its exit code and its message.
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), advice: None }
    }

    /// The command line or the configuration is wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(USAGE, message)
    }

    /// Whether a retry can never succeed.
    pub(crate) fn is_usage(&self) -> bool {
        self.code == USAGE
    }

    /// Adds advice on what to do.
    pub(crate) fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// Prints the failure on standard error and returns the exit code.
    pub(crate) fn report(&self) -> u8 {
        output::say(&self.to_string());
        self.code
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.advice {
            Some(advice) => write!(f, "\n  {advice}"),
            None => Ok(()),
        }
    }
}

/// An error with its causes, in one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// The time to wait before asking again, in words.
pub(crate) fn waited(wait: Duration) -> String {
    // Rounded up: who asks a moment too early is refused again.
    match wait.as_nanos().div_ceil(1_000_000_000) {
        0 | 1 => "a second".to_owned(),
        seconds => format!("{seconds} seconds"),
    }
}

/// The exit code of an answer that is an error.
pub(crate) fn code_of(error: &Error) -> u8 {
    match error {
        Error::Forbidden(_) | Error::NotFound { .. } => REFUSED,
        Error::BadRequest { .. } => USAGE,
        Error::Unavailable { .. } => UNAVAILABLE,
        Error::Unknown { .. } | Error::LaneForgotten { .. } => UNKNOWN,
        Error::Unauthorized { .. } | Error::NotAllowed { .. } => UNAUTHORIZED,
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let failure = Self::new(code_of(&error), error.to_string());
        match error {
            Error::Unavailable { retry_after: Some(wait), .. } => failure.advise(format!(
                "Nothing was done: you, or others at your address, ask more often than this node \
                 allows. Try again in {}.",
                waited(wait)
            )),
            Error::Unavailable { leader: Some(leader), .. } => {
                failure.advise(format!("Nothing was done. The leader is believed to be {leader}."))
            }
            Error::Unavailable { leader: None, .. } => failure.advise(
                "Nothing was done; try again, or look at the nodes with `keyward cluster status`.",
            ),
            Error::Unknown { .. } => failure
                .advise("It may have been done. Look with `keyward check`, or repeat the command."),
            Error::Unauthorized { .. } => failure.advise(
                "Give an access token or a JWT with --token-file or in KEYWARD_ACCESS_TOKEN, or a \
                 certificate with --cert and --key.",
            ),
            Error::NotAllowed { .. } => failure.advise(
                "`keyward access whoami` says who you are; an administrator adds rules with `keyward \
                 access rule add`.",
            ),
            Error::Forbidden(_)
            | Error::BadRequest { .. }
            | Error::NotFound { .. }
            | Error::LaneForgotten { .. } => failure,
        }
    }
}
