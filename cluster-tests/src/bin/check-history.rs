//! Judges a recorded history, or makes one of any length to see how fast that is.
//!
//! Exit codes: 0 pass, 1 violation, 2 nothing shown (also a history that cannot be read).

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use cluster_tests::check::{Conclusion, Options, Source, check, write_report};
use cluster_tests::history::{
    Action, Answer, Granted, Header, HolderSeen, LockAction, LockName, Outcome, Recorder, Refusal,
    Status, Turn, UnlockAction,
};
use keyward::clock::{Clock, SystemClock};
use keyward::types::{DecidedAt, ForbiddenReason, Mode};

/// Judges histories of lock services.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Judges a history.
    Check {
        /// The file of JSON lines.
        history: PathBuf,
        /// Writes a page about it.
        #[arg(long)]
        report: Option<PathBuf>,
        /// Prints the verdict as JSON.
        #[arg(long)]
        json: bool,
        /// The most operations to search for an order; 0 turns the search off.
        #[arg(long, default_value_t = Options::default().search_operations)]
        search_operations: u64,
    },
    /// Writes a history without faults, to measure the checks with.
    Make {
        /// The file to write.
        history: PathBuf,
        /// The number of operations.
        #[arg(long, default_value_t = 1_000_000)]
        operations: u64,
        /// The number of locks.
        #[arg(long, default_value_t = 1000)]
        locks: u64,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Check { history, report, json, search_operations } => {
            let options = Options { search_operations, ..Options::default() };
            judge(&history, report.as_deref(), json, options)
        }
        Command::Make { history, operations, locks } => make(&history, operations, locks.max(1)),
    };
    match result {
        Ok(conclusion) => ExitCode::from(conclusion.exit_code()),
        Err(error) => {
            eprintln!("check-history: {error}");
            ExitCode::from(Conclusion::NothingShown.exit_code())
        }
    }
}

fn judge(
    history: &Path,
    report: Option<&Path>,
    json: bool,
    options: Options,
) -> Result<Conclusion, Box<dyn std::error::Error>> {
    let begin = SystemClock.raw();
    let verdict = check(Source::File(history), options)?;
    let took = SystemClock.raw().saturating_sub(begin);
    if json {
        println!("{}", serde_json::to_string_pretty(&verdict)?);
    } else {
        print!("{verdict}");
        let operations = verdict.figures.operations;
        let rate = u128::from(operations) * 1000 / took.as_millis().max(1);
        println!("{operations} operations in {} ms: {rate}/s", took.as_millis());
    }
    if let Some(report) = report {
        write_report(report, Source::File(history), &verdict)?;
    }
    Ok(verdict.conclusion)
}

/// Writes a history in which locks are acquired, requested by another client, and released, one
/// step per millisecond.
fn make(
    path: &Path,
    operations: u64,
    locks: u64,
) -> Result<Conclusion, Box<dyn std::error::Error>> {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    let now = Arc::new(AtomicU64::new(0));
    let clock = Arc::clone(&now);
    let clock = move || Duration::from_micros(100 * clock.fetch_add(1, Ordering::Relaxed));
    let header = Header::new(0, "check-history make", "made to be measured");
    let recorder = Recorder::to_file_with_clock(path, &header, clock)?;
    let mut tokens = 0;
    for number in 0..operations {
        let round = number / 3;
        let lock = LockName::new("default", format!("lock-{}", round % locks));
        let owner = format!("owner-{}", round % 16);
        let (action, outcome) = match number % 3 {
            0 => {
                tokens += 1;
                (ask(lock, &owner), given(tokens))
            }
            1 => (ask(lock, "another"), refused(&owner, tokens)),
            _ => {
                let signee = owner.as_str().into();
                let token = Some(tokens);
                let action = Action::Unlock(UnlockAction {
                    lock,
                    signee,
                    instance: None,
                    token,
                    force: false,
                    place: None,
                });
                (action, Outcome::Ok(Answer::Released))
            }
        };
        let at = DecidedAt { index: number + 1, position: 0 };
        recorder.begin(owner, action).finish(outcome, Some(at));
    }
    recorder.finish(false)?;
    Ok(Conclusion::Pass)
}

fn ask(lock: LockName, signee: &str) -> Action {
    Action::Lock(LockAction {
        lock,
        signee: signee.into(),
        instance: None,
        level: None,
        duration_ms: 10_000,
        time_to_live_ms: None,
        force: false,
        token: None,
        turn: Turn::default(),
    })
}

fn given(token: u64) -> Outcome {
    Outcome::Ok(Answer::Granted(Granted {
        status: Status::Ok,
        token,
        level: 0,
        expires_in_ms: 10_000,
        live: true,
        mode: Mode::Exclusive,
        slot: None,
        valid_ms: None,
    }))
}

fn refused(signee: &str, token: u64) -> Outcome {
    let holder = HolderSeen {
        signee: signee.into(),
        instance: None,
        level: 0,
        token,
        expires_in_ms: 9_999,
        expired: false,
        mode: Mode::Exclusive,
        slot: None,
        session: None,
    };
    Outcome::Refused(Refusal::Forbidden { reason: ForbiddenReason::Held, holder: Some(holder) })
}
