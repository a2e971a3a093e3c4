//! `keyward-chaos`: breaks a lock service on purpose, and reports whether it kept its promises.

mod arguments;
mod check;
mod load;
mod prove;
mod run;
mod sim;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use cluster_tests::chaos::fault::Fault;

const HELP: &str = "\
Exit codes:
  0  everything that was planned was done, and every check passed
  1  a promise was broken: the report and the history show where
  2  the command line is wrong; nothing was started
  3  the harness could not do what was planned, or too little was achieved: nothing is shown";

/// Break a lock service on purpose, and see whether it keeps its promises
#[derive(Debug, Parser)]
#[command(name = "keyward-chaos", version, after_help = HELP)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::RunArguments),
    Check(check::CheckArguments),
    Prove(prove::ProveArguments),
    Sim(sim::SimArguments),
    /// List the faults and what each does
    Faults,
}

fn main() -> ExitCode {
    let Arguments { command } = Arguments::parse();
    match command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Check(arguments) => check::check(&arguments),
        Command::Prove(arguments) => prove::run(&arguments),
        Command::Sim(arguments) => sim::sim(&arguments),
        Command::Faults => {
            for (name, what) in Fault::ALL.map(Fault::describe) {
                println!("{name:<14} {what}");
            }
            ExitCode::SUCCESS
        }
    }
}
