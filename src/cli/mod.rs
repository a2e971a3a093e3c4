//! The command line: one file per command, each with its arguments, its help and what it does.
//!
//! The output for programs (`--json`) has the fields of the HTTP API; the output for people may
//! change. Errors go to standard error: the problem, then what to do. Exit codes are in [`exit`].
//! No command decides anything about locks: that is left to the service.
//!
//! Start with [`Command`]; the longest parts are [`run`] (holding a lock while a command runs) and
//! [`settings`] (the sources of a node's configuration).

mod access;
mod arguments;
mod backup;
mod bench;
mod cert;
mod check;
mod client;
mod cluster;
mod completion;
mod conformance;
mod deadlocks;
mod dev;
mod duration;
mod exit;
mod health;
mod inspect;
mod limit;
mod list;
mod lock;
mod log_writer;
mod logging;
mod man;
mod member;
mod output;
mod refusal;
mod release;
mod restore;
mod run;
mod serve;
mod session;
mod settings;
mod show;
mod signals;
mod table;
mod terms;
mod unlock;
mod verify;
mod waiting;

use std::process::ExitCode;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Parser, Subcommand};

use exit::Outcome;
pub use settings::{Settings, read_settings};

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

const EXAMPLES: &str = "\
Try it:
  keyward dev                                      three nodes on this machine, nothing to set up
  keyward lock jobs/nightly --signee worker-1      take a lock for 30 seconds
  keyward check jobs/nightly                       who holds it
  keyward run jobs/nightly -- ./nightly.sh         hold it while a command runs
  keyward show jobs/nightly                        who holds it, and who waits for it

`keyward COMMAND --help` explains each command, with its exit codes and variables.";

/// A self-hosted, Raft-replicated lock service with fencing tokens.
///
/// Programs ask Keyward for a named lock over HTTP. A cluster of three or five nodes agrees on who
/// holds it, survives the loss of a minority, and hands every holder a token that grows with every
/// grant, so that the resource behind the lock can refuse whoever comes late.
#[derive(Debug, Parser)]
#[command(name = "keyward", version, styles = STYLES, after_help = EXAMPLES)]
#[command(propagate_version = true, max_term_width = 100, disable_help_subcommand = false)]
struct Cli {
    #[command(flatten)]
    logging: logging::LogArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(Box<serve::ServeArgs>),
    Dev(dev::DevArgs),
    Lock(lock::LockArgs),
    Unlock(unlock::UnlockArgs),
    Check(check::CheckArgs),
    List(list::ListArgs),
    Show(show::ShowArgs),
    Verify(verify::VerifyArgs),
    Session(session::SessionArgs),
    Limit(limit::LimitArgs),
    Release(release::ReleaseArgs),
    Deadlocks(deadlocks::DeadlocksArgs),
    Tables(table::TablesArgs),
    Table(table::TableArgs),
    Run(run::RunArgs),
    Access(access::AccessArgs),
    Cluster(cluster::ClusterArgs),
    Health(health::HealthArgs),
    Bench(bench::BenchArgs),
    Conformance(conformance::ConformanceArgs),
    Backup(backup::BackupArgs),
    Restore(restore::RestoreArgs),
    Inspect(inspect::InspectArgs),
    Cert(cert::CertArgs),
    Completion(completion::CompletionArgs),
    Man(man::ManArgs),
    #[command(name = run::starter::COMMAND, hide = true)]
    Start(run::starter::StarterArgs),
    #[command(name = run::watchdog::COMMAND, hide = true)]
    Watchdog,
    #[command(name = dev::node::COMMAND, hide = true)]
    DevNode(dev::node::NodeArgs),
    #[command(name = bench::limit::COMMAND, hide = true)]
    BenchLimit,
}

/// Runs the program with the arguments and environment of the process.
pub fn main() -> ExitCode {
    let code = match arguments::read(&std::env::args_os().collect::<Vec<_>>()) {
        Ok((cli, json)) => dispatch(cli).unwrap_or_else(|failure| {
            if json && failure.is_usage() && !output::has_printed() {
                output::print_json(&arguments::problem(&failure.to_string()));
            }
            failure.report()
        }),
        Err(code) => code,
    };
    ExitCode::from(output::exit_code(code))
}

fn dispatch(cli: Cli) -> Outcome {
    let logging = cli.logging;
    match cli.command {
        Command::Serve(args) => serve::run(*args, &logging),
        Command::Dev(args) => dev::run(&args, &logging),
        Command::Lock(args) => lock::run(args, &logging),
        Command::Unlock(args) => unlock::run(args, &logging),
        Command::Check(args) => check::run(args, &logging),
        Command::List(args) => list::run(args, &logging),
        Command::Show(args) => show::run(args, &logging),
        Command::Verify(args) => verify::run(args, &logging),
        Command::Session(args) => session::run(args, &logging),
        Command::Limit(args) => limit::run(args, &logging),
        Command::Release(args) => release::run(args, &logging),
        Command::Deadlocks(args) => deadlocks::run(&args, &logging),
        Command::Tables(args) => table::run_list(args, &logging),
        Command::Table(args) => table::run(args, &logging),
        Command::Run(args) => run::run(args, &logging),
        Command::Access(args) => access::run(args, &logging),
        Command::Cluster(args) => cluster::run(args, &logging),
        Command::Health(args) => health::run(&args, &logging),
        Command::Bench(args) => bench::run(&args, &logging),
        Command::Conformance(args) => conformance::run(&args, &logging),
        Command::Backup(args) => backup::run(&args, &logging),
        Command::Restore(args) => restore::run(&args, &logging),
        Command::Inspect(args) => inspect::run(&args, &logging),
        Command::Cert(args) => cert::run(&args),
        Command::Completion(args) => Ok(completion::run(&args)),
        Command::Man(args) => man::run(&args),
        Command::Start(args) => run::starter::run(&args),
        Command::Watchdog => Ok(run::watchdog::run()),
        Command::DevNode(args) => dev::node::run(&args, &logging),
        Command::BenchLimit => bench::limit::run(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }
}
