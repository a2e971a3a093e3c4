//! `keyward cluster`: the status of the nodes.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::api::{ClusterStatus, MemberStatus, NodeRole};
use crate::cli::client::{self, ClientArgs};
use crate::cli::exit::{self, Outcome};
use crate::cli::logging::LogArgs;
use crate::cli::output::{self, Table};
use crate::client::Client;
use crate::error::Error;
use crate::processes;
use crate::types::CallOptions;

const STATUS_HELP: &str = "\
Examples:
  keyward cluster status --endpoints http://a:7420,http://b:7420,http://c:7420
  keyward cluster status --json | jq -r '.leader'

Exit codes:
  0  a leader is known and a majority of the members answers
  2  the command line is wrong
  3  there is no leader, or too few members answer: the cluster cannot take requests

Environment:
  KEYWARD_ENDPOINTS, KEYWARD_TIMEOUT, KEYWARD_LOG: see the options.";

/// Look at the nodes of a cluster
#[derive(Debug, Args)]
pub(crate) struct ClusterArgs {
    #[command(subcommand)]
    command: ClusterCommand,
}

#[derive(Debug, Subcommand)]
enum ClusterCommand {
    Status(StatusArgs),
}

/// Show every node: its role, term, log and lag
///
/// Asks every endpoint, and the members that they name. A node that does not answer is shown as
/// unreachable.
#[derive(Debug, Args)]
#[command(after_help = STATUS_HELP)]
struct StatusArgs {
    #[command(flatten)]
    client: ClientArgs,
}

/// A role in a word.
pub(crate) fn role_word(role: NodeRole) -> &'static str {
    match role {
        NodeRole::Leader => "leader",
        NodeRole::Follower => "follower",
        NodeRole::Candidate => "candidate",
        NodeRole::Learner => "learner",
        NodeRole::Stopped => "stopped",
    }
}

/// Runs the subcommand.
pub(crate) fn run(args: ClusterArgs, logging: &LogArgs) -> Outcome {
    match args.command {
        ClusterCommand::Status(args) => client::ask(args.client.json, logging, async {
            let service = args.client.connect()?;
            Ok(status(&service, &args.client).await)
        }),
    }
}

/// Requests the status of every node and prints the answers.
async fn status(service: &Client, args: &ClientArgs) -> u8 {
    let mut asked = ask_all(service, args, args.reach.endpoints()).await;
    let named = unheard(&asked);
    asked.extend(ask_all(service, args, named).await);
    let view = View::of(&asked);
    if args.json {
        output::print_json(&view);
    } else {
        output::print(&view.describe());
    }
    if view.healthy() { exit::OK } else { exit::UNAVAILABLE }
}

/// The timeout for the status of a node, which it has in memory.
const PATIENCE: Duration = Duration::from_secs(1);

/// An endpoint, and its answer.
type Asked = (String, Result<ClusterStatus, Error>);

async fn ask_all(service: &Client, args: &ClientArgs, endpoints: Vec<String>) -> Vec<Asked> {
    // A slow node is shown as slow, and does not delay the others.
    let call = args.call();
    let timeout = call.timeout.map_or(PATIENCE, |timeout| timeout.min(PATIENCE));
    let call = CallOptions { timeout: Some(timeout), ..call };
    let asks = endpoints.into_iter().map(|endpoint| async {
        let answer = service.cluster_at(&endpoint, call.clone()).await;
        (endpoint, answer)
    });
    futures::future::join_all(asks).await
}

/// The client addresses of members without an answer, according to those that answered.
fn unheard(asked: &[Asked]) -> Vec<String> {
    let heard: BTreeSet<u64> = answers(asked).map(|status| status.id).collect();
    let mut unheard = BTreeSet::new();
    for member in answers(asked).flat_map(|status| &status.members) {
        if !heard.contains(&member.id)
            && let Some(address) = &member.client_address
            && asked.iter().all(|(endpoint, _)| endpoint != address)
        {
            unheard.insert(address.clone());
        }
    }
    unheard.into_iter().collect()
}

fn answers(asked: &[Asked]) -> impl Iterator<Item = &ClusterStatus> {
    asked.iter().filter_map(|(_, answer)| answer.as_ref().ok())
}

/// The cluster, combined from the answers of all nodes.
#[derive(Debug, Serialize)]
struct View {
    /// The node that leads in the highest term that any node is in.
    leader: Option<u64>,
    term: u64,
    /// Members with a vote, and how many of them answered.
    voters: usize,
    voters_reachable: usize,
    /// Whether the leader reports contact with a majority; if the leader does not answer, whether a
    /// majority of the voters reports contact with it.
    quorum: bool,
    nodes: Vec<NodeView>,
}

/// One node.
#[derive(Debug, Serialize)]
struct NodeView {
    id: Option<u64>,
    address: Option<String>,
    reachable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// The number of entries that its state is behind the newest one known to be committed.
    #[serde(skip_serializing_if = "Option::is_none")]
    lag: Option<u64>,
    /// The node's process, if it runs on this machine and belongs to the same user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    /// Its answer to `GET /v1/cluster`.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<ClusterStatus>,
}

impl NodeView {
    /// Its state in a word.
    fn state(&self) -> &'static str {
        match &self.status {
            None => "unreachable",
            Some(status) if status.not_ready.is_some() => "not ready",
            Some(_) => "ready",
        }
    }

    /// A line with the reason why it is not ready, if it is not.
    fn complaint(&self) -> Option<String> {
        let not_ready = self.status.as_ref().and_then(|status| status.not_ready.as_ref());
        let reason = output::visible(self.error.as_ref().or(not_ready)?);
        let what = if self.error.is_some() { "unreachable" } else { "not ready" };
        let who = match (self.id, &self.address) {
            (Some(id), _) => format!("node {id}"),
            (None, address) => output::visible(address.as_deref().unwrap_or("a node")),
        };
        Some(format!("{who} is {what}: {reason}\n"))
    }
}

/// The process that listens at this address, if it can be seen from here.
fn process_at(address: &str) -> Option<u32> {
    let authority = address.split_once("://")?.1.trim_end_matches('/');
    let authority = authority.replace("localhost:", "127.0.0.1:");
    let pid = processes::listener_of(authority.parse().ok()?)?;
    // It may be a proxy, such as that of a container's port.
    processes::name_of(pid).is_some_and(|name| name.starts_with("keyward")).then_some(pid)
}

impl View {
    fn of(asked: &[Asked]) -> Self {
        let term = answers(asked).map(|status| status.term).max().unwrap_or(0);
        let newest = answers(asked)
            .filter(|status| status.term == term)
            .max_by_key(|status| (status.leader.is_some(), status.role == NodeRole::Leader));
        let leader = newest.and_then(|status| status.leader);
        let members = newest.map_or(&[][..], |status| &status.members);
        let committed = answers(asked).filter_map(|status| status.committed_index).max();
        let nodes = nodes(asked, members, committed);
        let voters = members.iter().filter(|member| member.voter);
        let heard = |member: &&MemberStatus| {
            nodes.iter().any(|node| node.reachable && node.id == Some(member.id))
        };
        let voters_reachable = voters.clone().filter(heard).count();
        let voters = voters.count();
        let quorum = leader.is_some_and(|leader| has_majority(leader, members, &nodes));
        Self { leader, term, voters, voters_reachable, quorum, nodes }
    }

    fn healthy(&self) -> bool {
        self.quorum
    }

    /// A row for each node.
    fn table(&self) -> Table {
        // The process is found only on the node's own machine, by the same user.
        let here = self.nodes.iter().any(|node| node.pid.is_some());
        let mut headings = vec![
            "NODE",
            "CLIENTS",
            "ROLE",
            "TERM",
            "APPLIED",
            "COMMITTED",
            "LAG",
            "VERSION",
            "STATE",
        ];
        headings.extend(here.then_some("PID"));
        let mut table = Table::new(&headings);
        for node in &self.nodes {
            let status = node.status.as_ref();
            let mut row = vec![
                output::cell(node.id),
                output::cell(node.address.as_deref().map(output::visible)),
                output::cell(status.map(|status| role_word(status.role))),
                output::cell(status.map(|status| status.term)),
                output::cell(status.and_then(|status| status.applied_index)),
                output::cell(status.and_then(|status| status.committed_index)),
                output::cell(node.lag),
                output::cell(status.map(|status| status.version.as_str())),
                node.state().to_owned(),
            ];
            row.extend(here.then(|| output::cell(node.pid)));
            table.row(&row);
        }
        table
    }

    fn describe(&self) -> String {
        let table = self.table();
        // Reasons are on separate lines: in the table they would be wider than a terminal.
        let reasons: String = self.nodes.iter().filter_map(NodeView::complaint).collect();
        let leader = match self.leader {
            Some(leader) => format!("node {leader} leads in term {}", self.term),
            None => "no node leads".to_owned(),
        };
        let (reachable, voters) = (self.voters_reachable, self.voters);
        let verdict = match (self.quorum, voters) {
            (_, 0) => "no node that answered knows the members yet".to_owned(),
            (true, _) => format!("{leader}; {reachable} of {voters} voters answer"),
            (false, _) => format!(
                "{leader}; {reachable} of {voters} voters answer: no majority is in contact, the \
                 cluster cannot take requests"
            ),
        };
        let statuses = self.nodes.iter().filter_map(|node| node.status.as_ref());
        let differences = statuses.flat_map(|status| {
            let said = |text| format!("node {}: {}\n", status.id, output::visible(text));
            status.differences.iter().map(move |text| said(text))
        });
        let clusters: BTreeSet<&str> = self
            .nodes
            .iter()
            .filter_map(|node| node.status.as_ref()?.cluster_id.as_deref())
            .collect();
        let verdict = if clusters.len() > 1 {
            let clusters = clusters.into_iter().collect::<Vec<_>>().join(", ");
            format!("{verdict}\nthe endpoints are of different clusters: {clusters}")
        } else {
            verdict
        };
        table.render() + &reasons + &verdict + "\n" + &differences.collect::<String>()
    }
}

/// Whether the leader has a majority: by its own answer or, without one, by those of its followers.
fn has_majority(leader: u64, members: &[MemberStatus], nodes: &[NodeView]) -> bool {
    let ready = |id: u64| {
        let status = nodes.iter().find(|node| node.id == Some(id))?.status.as_ref()?;
        Some(status.not_ready.is_none())
    };
    ready(leader).unwrap_or_else(|| {
        let voters = members.iter().filter(|member| member.voter);
        let hearing = voters.clone().filter(|member| ready(member.id) == Some(true)).count();
        hearing > voters.count() / 2
    })
}

/// A row for each member, then for each endpoint that is no member or did not answer.
fn nodes(asked: &[Asked], members: &[MemberStatus], committed: Option<u64>) -> Vec<NodeView> {
    let view = |id: Option<u64>, address: Option<String>, answer: Option<&Asked>| {
        let status = answer.and_then(|(_, answer)| answer.as_ref().ok()).cloned();
        let error = match answer {
            Some((endpoint, Err(error))) => Some(reason(endpoint, error)),
            Some((_, Ok(_))) => None,
            None => Some("it has not said where clients reach it".to_owned()),
        };
        let applied = status.as_ref().and_then(|status| status.applied_index);
        let lag =
            committed.zip(applied).map(|(committed, applied)| committed.saturating_sub(applied));
        let pid = status.is_some().then(|| process_at(address.as_deref()?)).flatten();
        NodeView { id, address, reachable: status.is_some(), error, lag, pid, status }
    };
    let mut used = BTreeSet::new();
    let mut rows = Vec::new();
    for member in members {
        let said = asked
            .iter()
            .find(|(_, answer)| answer.as_ref().is_ok_and(|status| status.id == member.id));
        let tried =
            asked.iter().find(|(endpoint, _)| Some(endpoint) == member.client_address.as_ref());
        let answer = said.or(tried);
        used.extend(answer.map(|(endpoint, _)| endpoint.as_str()));
        // The endpoint that answered: the address it names may not be reachable from here.
        let address =
            said.map(|(endpoint, _)| endpoint.clone()).or_else(|| member.client_address.clone());
        rows.push(view(Some(member.id), address, answer));
    }
    let known: BTreeSet<u64> = members.iter().map(|member| member.id).collect();
    for asked in asked.iter().filter(|(endpoint, _)| !used.contains(endpoint.as_str())) {
        let id = asked.1.as_ref().ok().map(|status| status.id);
        if id.is_none_or(|id| !known.contains(&id)) {
            rows.push(view(id, Some(asked.0.clone()), Some(asked)));
        }
    }
    rows
}

/// The reason why a node did not answer, without what its row already shows.
pub(crate) fn reason(endpoint: &str, error: &Error) -> String {
    match error {
        Error::Unavailable { reason, .. }
        | Error::Unknown { reason }
        | Error::BadRequest { reason }
        | Error::Unauthorized { reason }
        | Error::NotAllowed { reason }
        | Error::LaneForgotten { reason } => {
            let reason = reason.strip_prefix(endpoint).unwrap_or(reason);
            reason.trim_start_matches(": ").to_owned()
        }
        Error::Forbidden(_) | Error::NotFound { .. } => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(id: u64, leader: Option<u64>, not_ready: Option<&str>) -> ClusterStatus {
        let members = (1..=3).map(|id| MemberStatus {
            id,
            uuid: None,
            peer_address: format!("n{id}:7421"),
            client_address: Some(format!("http://n{id}:7420")),
            voter: true,
            matched_index: None,
            lag: None,
            last_acknowledged_ms: None,
        });
        ClusterStatus {
            cluster_id: None,
            id,
            uuid: "u".into(),
            version: "0".into(),
            supported_level: 1,
            feature_level: 1,
            role: if leader == Some(id) { NodeRole::Leader } else { NodeRole::Follower },
            not_ready: not_ready.map(str::to_owned),
            leader,
            leader_address: None,
            term: 1,
            vote: None,
            last_log_index: None,
            committed_index: None,
            applied_index: None,
            snapshot_index: None,
            purged_index: None,
            members: members.collect(),
            differences: Vec::new(),
        }
    }

    fn quorum(answers: [Option<ClusterStatus>; 3]) -> bool {
        let asked: Vec<Asked> = (1..)
            .zip(answers)
            .map(|(id, answer)| {
                let silent = || Error::unavailable("no answer");
                (format!("http://n{id}:7420"), answer.ok_or_else(silent))
            })
            .collect();
        View::of(&asked).quorum
    }

    #[test]
    fn a_majority_is_what_the_leader_says_or_those_who_hear_from_it() {
        let well = |id| Some(status(id, Some(1), None));
        let lost = |id| Some(status(id, Some(1), Some("nothing is heard")));
        assert!(quorum([well(1), well(2), well(3)]));
        assert!(quorum([well(1), None, None]), "the leader has a majority, whoever is asked");
        assert!(quorum([None, well(2), well(3)]), "both hear from it");
        assert!(!quorum([lost(1), None, None]), "a leader that has lost its majority");
        assert!(!quorum([None, lost(2), lost(3)]), "it is dead, and the others cannot elect");
        assert!(!quorum([None, well(2), lost(3)]));
        assert!(!quorum([None, well(2), None]), "one of three is no majority");
        assert!(!quorum([None, None, None]));
        let unled = |id| Some(status(id, None, Some("no leader is known")));
        assert!(!quorum([unled(1), unled(2), unled(3)]));
    }
}
