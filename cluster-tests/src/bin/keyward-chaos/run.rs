//! `keyward-chaos run`: starts its own nodes.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use cluster_tests::chaos::fault::{Fault, Needs};
use cluster_tests::chaos::run::{self, Nodes, Options, RunError};
use cluster_tests::chaos::summary::Summary;

use crate::arguments;
use crate::load::{LoadArguments, usage};

/// Start nodes, let clients work, break things by a schedule, heal, and judge
#[derive(Clone, Debug, Args)]
pub(crate) struct RunArguments {
    /// The service under test: keyward, etcd, redis (one, SET NX PX) or redlock (three)
    #[arg(long, default_value = "keyward")]
    service: String,
    /// How many nodes of Keyward; of any other service there are three
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=9))]
    nodes: u64,
    /// The faults, separated by commas; see `keyward-chaos faults`
    #[arg(long, value_delimiter = ',', value_name = "FAULT,…")]
    faults: Vec<Fault>,
    /// The keyward program [default: the one beside this program]
    #[arg(long, env = "KEYWARD_BIN", hide_env_values = true)]
    binary: Option<PathBuf>,
    /// Another keyward program, for `--faults upgrade`
    #[arg(long)]
    binary_b: Option<PathBuf>,
    /// A further argument of `keyward serve`, such as --node-arg=--profile=fast; may be repeated
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
    node_arg: Vec<String>,
    /// How much faster each node's clock goes, from node 1 on, such as +10%,-10%,0%
    #[arg(
        long,
        value_delimiter = ',',
        value_parser = arguments::signed_percent,
        allow_hyphen_values = true
    )]
    clock_rates: Vec<i64>,
    /// Entries of the log after which nodes write a snapshot
    #[arg(long, default_value_t = 2000)]
    snapshot_every: u64,
    /// TLS on both ports and access control; intruders ask meanwhile, and nodes get new certificates
    #[arg(long)]
    secured: bool,
    #[command(flatten)]
    load: LoadArguments,
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
    let mut node_arguments = arguments.node_arg.clone();
    node_arguments.push(format!("--rho={}%", f64::from(arguments.load.rho) / 10_000.0));
    node_arguments.push(format!("--snapshot-every={}", arguments.snapshot_every));
    let nodes = Nodes {
        count: arguments.nodes,
        program,
        other_program: arguments.binary_b.clone(),
        secured: arguments.secured,
        arguments: node_arguments,
        clock_rates: arguments.clock_rates.clone(),
    };
    let service = arguments.service.clone();
    let revision = arguments.load.tokens == "revision";
    arguments.load.run(arguments.faults.clone(), move |mut options| async move {
        // Only Keyward's interface hands its holders a token; etcd's store has revisions.
        options.size.tokens &= service == "keyward" || revision;
        service_run(&service, &options, nodes).await
    })
}

/// Checks that the arguments are consistent.
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
    if arguments.secured && arguments.service != "keyward" {
        return Err(String::from("--secured is for Keyward's own nodes"));
    }
    if arguments.service == "etcd" && !arguments.load.lease.as_millis().is_multiple_of(1000) {
        return Err(String::from("leases of etcd last whole seconds, two at least"));
    }
    Ok(())
}

#[cfg(feature = "peers")]
pub(crate) async fn service_run(
    service: &str,
    options: &Options,
    nodes: Nodes,
) -> Result<Summary, RunError> {
    match service.parse() {
        Ok(peer) => run::peer(options, peer).await,
        Err(_) => run::keyward(options, &nodes).await,
    }
}

#[cfg(not(feature = "peers"))]
pub(crate) async fn service_run(
    service: &str,
    options: &Options,
    nodes: Nodes,
) -> Result<Summary, RunError> {
    if service != "keyward" {
        let why = format!("built without the adapter for {service}: build with --features peers");
        return Err(RunError::Impossible(why));
    }
    run::keyward(options, &nodes).await
}
