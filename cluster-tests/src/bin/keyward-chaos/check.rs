//! `keyward-chaos check`: nodes that others started, and faults that others install.

use std::process::ExitCode;

use clap::Args;
use cluster_tests::chaos::hooks::Hook;
use cluster_tests::chaos::run;

use crate::load::{LoadArguments, usage};

/// Let clients work on a cluster that runs already, install faults by your commands, and judge
#[derive(Clone, Debug, Args)]
pub(crate) struct CheckArguments {
    /// Where the nodes are reached, such as http://a:7420,http://b:7420,http://c:7420. The workloads
    /// use locks whose names begin with mix/, rich/, register/, freeze/, handoff/ and expiry/, and
    /// take it that nobody else does and that these were never used: take a fresh cluster
    #[arg(long, value_delimiter = ',', required = true, env = "KEYWARD_ENDPOINTS")]
    endpoints: Vec<String>,
    /// A command that installs a fault, such as --fault-cmd kill='docker kill keyward-2'; may be
    /// repeated
    #[arg(long, value_name = "NAME=COMMAND", value_parser = named)]
    fault_cmd: Vec<(String, String)>,
    /// The command that takes the fault of this name back
    #[arg(long, value_name = "NAME=COMMAND", value_parser = named)]
    heal_cmd: Vec<(String, String)>,
    #[command(flatten)]
    load: LoadArguments,
}

fn named(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, command)) if !name.is_empty() && !command.is_empty() => {
            Ok((name.to_owned(), command.to_owned()))
        }
        _ => Err(format!("`{text}` is not NAME=COMMAND")),
    }
}

/// Runs and prints the summary.
pub(crate) fn check(arguments: &CheckArguments) -> ExitCode {
    let endpoints = arguments.endpoints.clone();
    if let Err(error) = keyward::client::Client::builder().endpoints(&endpoints).build() {
        return usage(&error.to_string());
    }
    let lost = arguments
        .heal_cmd
        .iter()
        .find(|(name, _)| arguments.fault_cmd.iter().all(|(fault, _)| fault != name));
    if let Some((name, _)) = lost {
        return usage(&format!("--heal-cmd {name}: there is no --fault-cmd of this name"));
    }
    let heal = |of: &str| arguments.heal_cmd.iter().find(|(name, _)| name == of);
    let hooks: Vec<Hook> = arguments
        .fault_cmd
        .iter()
        .map(|(name, fault)| Hook {
            name: name.clone(),
            fault: fault.clone(),
            heal: heal(name).map(|(_, command)| command.clone()),
        })
        .collect();
    arguments.load.run(Vec::new(), move |options| async move {
        run::endpoints(&options, endpoints, hooks).await
    })
}
