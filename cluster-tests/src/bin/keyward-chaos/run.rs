//! `keyward-chaos run`: nodes of its own.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use cluster_tests::chaos::fault::{Fault, Needs};
use cluster_tests::chaos::run::{self, Nodes, Options};
use cluster_tests::chaos::summary::{Summary, Verdict};
use cluster_tests::chaos::workload::{Size, Workload};

use crate::arguments;

/// Start nodes, let clients work, break things by a schedule, heal, and judge
#[derive(Clone, Debug, Args)]
pub(crate) struct RunArguments {
    /// What is tested: keyward, etcd, redis (one, SET NX PX) or redlock (three)
    #[arg(long, default_value = "keyward")]
    service: String,
    /// How many nodes of Keyward; of any other service there are three
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=9))]
    nodes: u64,
    /// How long faults are installed and removed
    #[arg(long, default_value = "60s", value_parser = arguments::duration)]
    duration: Duration,
    /// The seed of every choice [default: a new one, which is printed]
    #[arg(long)]
    seed: Option<u64>,
    /// What is done to the nodes, separated by commas; see `keyward-chaos faults`
    #[arg(long, value_delimiter = ',', value_name = "FAULT,…")]
    faults: Vec<Fault>,
    /// The mean time between two faults of one kind of thing: processes, links, disks
    #[arg(long, default_value = "3s", value_parser = arguments::duration)]
    every: Duration,
    /// What clients do, separated by commas: mix, register, freeze, handoff, expiry
    #[arg(long, value_delimiter = ',', value_name = "WORKLOAD,…", default_value = "mix,register")]
    workload: Vec<Workload>,
    /// Clients of each workload
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..=2000))]
    clients: u16,
    /// Locks of each workload that has several
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    locks: u16,
    /// How long a lock lasts
    #[arg(long, default_value = "2s", value_parser = arguments::duration)]
    lease: Duration,
    /// What the register that a lock guards looks at: `native` is the service's own fencing token,
    /// where its interface gives holders one; `none` takes every write
    #[arg(long, default_value = "native", value_parser = ["native", "none"])]
    tokens: String,
    /// The keyward program [default: the one beside this program]
    #[arg(long, env = "KEYWARD_BIN", hide_env_values = true)]
    binary: Option<PathBuf>,
    /// Another keyward program, for `--faults upgrade`
    #[arg(long)]
    binary_b: Option<PathBuf>,
    /// A further argument of `keyward serve`, such as --node-arg=--profile=fast; may be repeated
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
    node_arg: Vec<String>,
    /// Entries of the log after which nodes write a snapshot
    #[arg(long, default_value_t = 2000)]
    snapshot_every: u64,
    /// Where the history is written [default: nowhere, if the run passes]
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// Where the report is written, as a page of HTML
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
    /// Show nothing while the run goes on
    #[arg(long)]
    quiet: bool,
}

/// Runs and prints the summary.
pub(crate) fn run(arguments: &RunArguments) -> ExitCode {
    if let Err(wrong) = agree(arguments) {
        return usage(&wrong);
    }
    let program = match arguments.service.as_str() {
        "keyward" => arguments::program(arguments.binary.as_ref()),
        _ => Ok(PathBuf::new()),
    };
    let program = match program {
        Ok(program) => program,
        Err(wrong) => return usage(&wrong),
    };
    let folder = match tempfile::tempdir() {
        Ok(folder) => folder,
        Err(error) => return broken(&format!("there is no temporary folder: {error}")),
    };
    let seed = arguments.seed.unwrap_or_else(|| rand::random_range(0..1_000_000));
    let options = Options {
        seed,
        command: command_line(seed),
        duration: arguments.duration,
        faults: arguments.faults.clone(),
        every: arguments.every,
        workloads: arguments.workload.clone(),
        size: Size {
            clients: usize::from(arguments.clients),
            locks: usize::from(arguments.locks),
            lease: arguments.lease,
            tokens: arguments.tokens == "native",
        },
        rho_ppm: 10_000,
        history: arguments.history.clone().unwrap_or_else(|| run::history_in(folder.path())),
        report: arguments.report.clone(),
        quiet: arguments.quiet,
    };
    let mut node_arguments = arguments.node_arg.clone();
    node_arguments.extend(["--snapshot-every".to_owned(), arguments.snapshot_every.to_string()]);
    let nodes = Nodes {
        count: arguments.nodes,
        program,
        other_program: arguments.binary_b.clone(),
        arguments: node_arguments,
        clock_rates: Vec::new(),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return broken(&format!("cannot start: {error}")),
    };
    let service = arguments.service.clone();
    // The harness' own mistakes are panics: they are errors of the harness, whatever they hit.
    let work = move || runtime.block_on(service_run(&service, &options, nodes));
    let outcome = std::thread::spawn(work).join();
    match outcome {
        Ok(Ok(summary)) => told(&summary, arguments, folder),
        Ok(Err(error)) => broken(&error.to_string()),
        Err(_) => broken("the harness broke: see the message above"),
    }
}

/// Whether what was given fits together.
fn agree(arguments: &RunArguments) -> Result<(), String> {
    let known = ["keyward", "etcd", "redis", "redlock"];
    if !known.contains(&arguments.service.as_str()) {
        let known = known.join(", ");
        return Err(format!("there is no service `{}`; there are {known}", arguments.service));
    }
    let second = arguments.faults.iter().any(|fault| fault.needs() == Needs::SecondProgram);
    if second && arguments.binary_b.is_none() {
        return Err(String::from("upgrade needs a second program: name it with --binary-b"));
    }
    if arguments.service == "etcd" && !arguments.lease.as_millis().is_multiple_of(1000) {
        return Err(String::from("leases of etcd last whole seconds, two at least"));
    }
    Ok(())
}

#[cfg(feature = "peers")]
async fn service_run(
    service: &str,
    options: &Options,
    nodes: Nodes,
) -> Result<Summary, run::RunError> {
    match service.parse() {
        Ok(peer) => run::peer(options, peer).await,
        Err(_) => run::keyward(options, &nodes).await,
    }
}

#[cfg(not(feature = "peers"))]
async fn service_run(
    service: &str,
    options: &Options,
    nodes: Nodes,
) -> Result<Summary, run::RunError> {
    if service != "keyward" {
        let why = format!("built without the adapter for {service}: build with --features peers");
        return Err(run::RunError::Impossible(why));
    }
    run::keyward(options, &nodes).await
}

fn told(summary: &Summary, arguments: &RunArguments, folder: tempfile::TempDir) -> ExitCode {
    if arguments.json {
        match serde_json::to_string_pretty(summary) {
            Ok(json) => println!("{json}"),
            Err(error) => return broken(&error.to_string()),
        }
    } else {
        println!("{summary}");
    }
    if summary.verdict != Verdict::Pass && arguments.history.is_none() {
        println!("  history    {}", run::history_in(&folder.keep()).display());
    }
    ExitCode::from(summary.verdict.exit_code())
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

fn usage(wrong: &str) -> ExitCode {
    eprintln!("error: {wrong}");
    ExitCode::from(2)
}

fn broken(why: &str) -> ExitCode {
    eprintln!("harness error: {why}");
    ExitCode::from(Verdict::HarnessError.exit_code())
}
