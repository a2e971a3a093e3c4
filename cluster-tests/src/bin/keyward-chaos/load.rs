//! The arguments that every kind of run has: how much work, how long, and where the result goes.

use std::error::Error as _;
use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use cluster_tests::chaos::fault::Fault;
use cluster_tests::chaos::run::{self, Options, RunError};
use cluster_tests::chaos::summary::{Summary, Verdict};
use cluster_tests::chaos::workload::{Size, Workload};
use tempfile::TempDir;

use crate::arguments;

/// The amount of work, and where the result goes.
#[derive(Clone, Debug, Args)]
pub(crate) struct LoadArguments {
    /// How long faults are installed and removed
    #[arg(long, default_value = "60s", value_parser = arguments::duration)]
    pub(crate) duration: Duration,
    /// The seed of every choice [default: a new one, which is printed]
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// The mean time between two faults of one kind of thing: processes, links, disks
    #[arg(long, default_value = "3s", value_parser = arguments::duration)]
    pub(crate) every: Duration,
    /// The workloads of the clients, separated by commas: mix, register, freeze, handoff, expiry,
    /// turns
    #[arg(long, value_delimiter = ',', value_name = "WORKLOAD,…", default_value = "mix,register")]
    pub(crate) workload: Vec<Workload>,
    /// Clients of each workload
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..=2000))]
    pub(crate) clients: u16,
    /// Locks of each workload that has several
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) locks: u16,
    /// How long a lock lasts
    #[arg(long, default_value = "2s", value_parser = arguments::duration)]
    pub(crate) lease: Duration,
    /// The token that the guarded register checks: the one that the lock interface of the `service`
    /// hands to its holders (Keyward's does, the others' do not), the `revision` of etcd's store,
    /// or `none`
    #[arg(long, default_value = "service", value_parser = ["service", "revision", "none"])]
    pub(crate) tokens: String,
    /// Locks with names of full length that fill a table meanwhile, on Keyward's own nodes: 2 KiB each
    #[arg(long, default_value_t = 0, value_name = "LOCKS")]
    pub(crate) fill: u64,
    /// The clock error that the nodes are configured for
    #[arg(long, default_value = "1%", value_parser = arguments::percent)]
    pub(crate) rho: u32,
    /// Where the history is written [default: nowhere, if the run passes]
    #[arg(long, value_name = "FILE")]
    pub(crate) history: Option<PathBuf>,
    /// Write an HTML page about the run: verdict, figures, and pictures of locks, holders and faults
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// Print the summary as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Show nothing while the run goes on
    #[arg(long)]
    pub(crate) quiet: bool,
}

impl LoadArguments {
    /// Runs with these arguments and prints the summary.
    pub(crate) fn run<R, F>(&self, faults: Vec<Fault>, run: R) -> ExitCode
    where
        R: FnOnce(Options) -> F + Send + 'static,
        F: Future<Output = Result<Summary, RunError>>,
    {
        // Minutes of work must not end with a report that cannot be written.
        if let Some(path) = &self.report
            && let Err(error) = std::fs::File::create(path)
        {
            return usage(&format!("--report {}: {error}", path.display()));
        }
        let folder = match tempfile::tempdir() {
            Ok(folder) => folder,
            Err(error) => return broken(&format!("there is no temporary folder: {error}")),
        };
        let options = self.options(faults, &folder);
        let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return broken(&format!("cannot start: {error}")),
        };
        // The harness' own mistakes are panics: they are reported as errors of the harness,
        // whatever they affect.
        let outcome = std::thread::spawn(move || runtime.block_on(run(options))).join();
        match outcome {
            Ok(Ok(summary)) => self.told(&summary, folder),
            Ok(Err(error)) => broken(&with_causes(&error)),
            Err(_) => broken("the harness broke: see the message above"),
        }
    }

    fn options(&self, faults: Vec<Fault>, folder: &TempDir) -> Options {
        let seed = self.seed.unwrap_or_else(|| rand::random_range(0..1_000_000));
        Options {
            seed,
            command: command_line(seed),
            duration: self.duration,
            faults,
            sweep: false,
            undisturbed: false,
            every: self.every,
            workloads: self.workload.clone(),
            size: Size {
                clients: usize::from(self.clients),
                locks: usize::from(self.locks),
                lease: self.lease,
                tokens: self.tokens != "none",
            },
            fill: self.fill,
            rho_ppm: self.rho,
            history: self.history.clone().unwrap_or_else(|| run::history_in(folder.path())),
            report: self.report.clone(),
            quiet: self.quiet,
        }
    }

    fn told(&self, summary: &Summary, folder: TempDir) -> ExitCode {
        if self.json {
            match serde_json::to_string_pretty(summary) {
                Ok(json) => println!("{json}"),
                Err(error) => return broken(&error.to_string()),
            }
        } else {
            println!("{summary}");
        }
        if summary.verdict != Verdict::Pass && self.history.is_none() {
            eprintln!("the history is kept: {}", run::history_in(&folder.keep()).display());
        }
        ExitCode::from(summary.verdict.exit_code())
    }
}

/// The command that repeats this run, with its seed.
fn command_line(seed: u64) -> String {
    let mut words = vec![String::from("keyward-chaos")];
    let mut given = std::env::args().skip(1);
    while let Some(word) = given.next() {
        if word == "--seed" {
            given.next();
        } else if !word.starts_with("--seed=") {
            words.push(word);
        }
    }
    words.push(format!("--seed {seed}"));
    words.join(" ")
}

/// Reports that the command line is wrong.
pub(crate) fn usage(wrong: &str) -> ExitCode {
    eprintln!("error: {wrong}");
    ExitCode::from(2)
}

/// An error with all its causes.
fn with_causes(error: &RunError) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    words
}

fn broken(why: &str) -> ExitCode {
    eprintln!("harness error: {why}");
    ExitCode::from(Verdict::HarnessError.exit_code())
}
