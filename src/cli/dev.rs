//! `keyward dev`: a cluster in one process, for a laptop or a test.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use crate::cli::exit::Outcome;
use crate::cli::logging::LogArgs;

const HELP: &str = "\
Examples:
  keyward dev                              three nodes until Ctrl-C
  keyward dev -- cargo test                three nodes while the tests run
  keyward dev --data-dir ./data            keep the locks for the next time
  keyward dev -- sh -c 'keyward lock a --signee me && keyward check a'

Exit codes:
  0        stopped by Ctrl-C or SIGTERM
  2        the command line is wrong, a port or the folder cannot be used
  126 127  the command cannot be executed, is not found
  128+n    the command was ended by signal n
  other    the command's own exit code

Environment set for the command:
  KEYWARD_ENDPOINTS  the client addresses of all nodes, separated by commas";

/// Run a whole cluster in this process, for a laptop or a test
///
/// Real nodes with real listeners on 127.0.0.1 and real files: only the three machines are missing.
/// The data is in a temporary folder that is removed at the end, unless --data-dir names one. With
/// a command, the cluster lives as long as the command and the command's exit code is returned.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct DevArgs {
    /// How many nodes: 1, 3 or 5
    #[arg(long, default_value_t = 3, value_parser = parse_nodes)]
    nodes: u64,
    /// Keep the data here, one folder per node [default: a temporary folder, removed at the end]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The first port: node 1 listens for clients here and for peers on the next, node 2 on the two
    /// that follow, and so on. Free ports are used instead if one is taken and this was left out
    #[arg(long, value_name = "PORT", default_value_t = 7420)]
    port_base: u16,
    /// A command to run against the cluster
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

fn parse_nodes(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(nodes @ (1 | 3 | 5)) => Ok(nodes),
        _ => Err("a cluster here has 1, 3 or 5 nodes".to_owned()),
    }
}

pub(crate) fn run(args: DevArgs, logging: &LogArgs) -> Outcome {
    Err(crate::cli::exit::Failure::unbuilt(&(args, logging)))
}
