//! `keyward health`: whether a node can serve, for a supervisor or a monitor.

use clap::Args;
use serde::Serialize;

use crate::api::ClusterStatus;
use crate::cli::client::{self, ClientArgs};
use crate::cli::cluster;
use crate::cli::exit::{self, Outcome};
use crate::cli::logging::LogArgs;
use crate::cli::output;
use crate::error::Error;

const HELP: &str = "\
Examples:
  keyward health                                       the node on this machine
  HEALTHCHECK CMD [\"/keyward\", \"health\"]               in an image that has no shell

Exit codes:
  0  every node that was asked can serve requests
  2  the command line is wrong
  3  a node does not answer, or cannot serve now: the reason is printed
  74 standard output cannot be written

Environment:
  KEYWARD_ENDPOINTS, KEYWARD_TIMEOUT, KEYWARD_LOG: see the options.";

/// Ask a node whether it can serve
///
/// Asks the endpoints themselves, side by side, and no other node: `keyward cluster status` shows the cluster.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct HealthArgs {
    #[command(flatten)]
    client: ClientArgs,
}

/// Sends requests to all endpoints concurrently and prints a line for each.
pub(crate) fn run(args: &HealthArgs, logging: &LogArgs) -> Outcome {
    client::ask(args.client.json, logging, async {
        let service = &args.client.connect()?;
        let asks = args.client.reach.endpoints().into_iter().map(|endpoint| async {
            let answer = service.cluster_at(&endpoint, args.client.call()).await;
            let is_guarded =
                matches!(answer, Err(Error::Unauthorized { .. } | Error::NotAllowed { .. }));
            // Whether a node can serve is told to everybody.
            if is_guarded {
                let ready = service.ready_at(&endpoint, args.client.call()).await;
                return NodeHealth::without_status(endpoint, ready);
            }
            NodeHealth::new(endpoint, answer)
        });
        let nodes = futures::future::join_all(asks).await;
        let health = Health { ready: nodes.iter().all(|node| node.ready), nodes };
        if args.client.json {
            output::print_json(&health);
        } else {
            output::print(&health.nodes.iter().map(NodeHealth::describe).collect::<String>());
        }
        Ok(if health.ready { exit::OK } else { exit::UNAVAILABLE })
    })
}

/// The health of all endpoints.
#[derive(Debug, Serialize)]
struct Health {
    /// Whether each of them can serve requests.
    ready: bool,
    nodes: Vec<NodeHealth>,
}

/// The answer of one node, or the reason why there is none.
#[derive(Debug, Serialize)]
struct NodeHealth {
    endpoint: String,
    ready: bool,
    /// The reason why it cannot serve, or did not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Its answer to `GET /v1/cluster`, unless access control keeps it from the caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<ClusterStatus>,
}

impl NodeHealth {
    fn new(endpoint: String, answer: Result<ClusterStatus, Error>) -> Self {
        match answer {
            Ok(status) => {
                let reason = status.not_ready.clone();
                Self { endpoint, ready: reason.is_none(), reason, status: Some(status) }
            }
            Err(error) => {
                let reason = Some(cluster::reason(&endpoint, &error));
                Self { endpoint, ready: false, reason, status: None }
            }
        }
    }

    /// The health of a node that tells strangers nothing else.
    fn without_status(endpoint: String, ready: Result<(), Error>) -> Self {
        let reason = ready.err().map(|error| cluster::reason(&endpoint, &error));
        Self { endpoint, ready: reason.is_none(), reason, status: None }
    }

    fn describe(&self) -> String {
        let reason = output::visible(self.reason.as_deref().unwrap_or_default());
        match &self.status {
            Some(status) if self.ready => format!("node {}: ready\n", status.id),
            Some(status) => format!("node {}: not ready: {reason}\n", status.id),
            None if self.ready => format!("{}: ready\n", self.endpoint),
            None => format!("{}: no answer: {reason}\n", self.endpoint),
        }
    }
}
