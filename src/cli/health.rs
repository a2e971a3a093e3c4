//! `keyward health`: whether one node can serve, for whatever watches over it.

use clap::Args;

use crate::cli::client::{self, ClientArgs};
use crate::cli::exit::{self, Outcome};
use crate::cli::logging::LogArgs;
use crate::cli::output;

const HELP: &str = "\
Examples:
  keyward health                                       the node on this machine
  HEALTHCHECK CMD [\"/keyward\", \"health\"]               in an image that has no shell

Exit codes:
  0  every node that was asked can serve requests
  2  the command line is wrong
  3  a node does not answer, or cannot serve now: the reason is printed

Environment:
  KEYWARD_ENDPOINTS, KEYWARD_TIMEOUT, KEYWARD_LOG: see the options.";

/// Ask a node whether it can serve
///
/// Asks the endpoints themselves, and no other node: `keyward cluster status` shows the cluster.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct HealthArgs {
    #[command(flatten)]
    client: ClientArgs,
}

/// Asks each endpoint and prints a line for each.
pub(crate) fn run(args: &HealthArgs, logging: &LogArgs) -> Outcome {
    client::ask(args.client.json, logging, async {
        let service = args.client.connect()?;
        let mut code = exit::OK;
        for endpoint in &args.client.reach.endpoints {
            let status = service.cluster_at(endpoint, args.client.call()).await?;
            if status.not_ready.is_some() {
                code = exit::UNAVAILABLE;
            }
            if args.client.json {
                output::print_json(&status);
            } else {
                let state = status.not_ready.map_or("ready".to_owned(), |why| {
                    format!("not ready: {}", output::visible(&why))
                });
                output::print(&format!("node {}: {state}\n", status.id));
            }
        }
        Ok(code)
    })
}
