//! The measured cluster: its leader, the addresses of its nodes, and which of them run here.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::str::FromStr;
use std::time::Duration;

use crate::api::ClusterStatus;
use crate::bench::listener_of;
use crate::cli::client;
use crate::cli::exit::{self, Failure};
use crate::cli::output;
use crate::client::Client;
use crate::client::tls::Tls;
use crate::error::Error;
use crate::service::LockService as _;
use crate::types::{CallOptions, TableOptions};

/// The timeout for the status of a node.
const LOOK: Duration = Duration::from_secs(3);

/// The timeout for deleting the table of a run, which may have a million locks.
const CLEAN: Duration = Duration::from_secs(60);

/// The nodes to which the clients send requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Choice {
    /// The node that leads.
    Best,
    /// All endpoints in turn.
    Spread,
    /// The node with this id.
    Node(u64),
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "best" => Ok(Self::Best),
            "spread" => Ok(Self::Spread),
            id => id
                .parse()
                .map(Self::Node)
                .map_err(|_| "write `best`, `spread`, or the id of a node, such as 2".to_owned()),
        }
    }
}

/// A process that is measured.
#[derive(Clone, Debug)]
pub(super) struct NodeProcess {
    pub(super) name: String,
    pub(super) leads: bool,
    pub(super) pid: u32,
}

/// A cluster, as its nodes describe it.
pub(super) struct Cluster {
    client: Client,
    /// The given endpoints.
    endpoints: Vec<String>,
    leader: u64,
    /// The term at that time.
    term: u64,
    /// Every member whose client address is known.
    members: Vec<(u64, String)>,
}

impl Cluster {
    /// Requests the status of all endpoints.
    ///
    /// # Errors
    /// An endpoint is no URL, or none of them knows a leader.
    pub(super) async fn look(endpoints: &[String], tls: &Tls) -> Result<Self, Failure> {
        let client = client::builder()?.endpoints(endpoints.to_vec()).timeout(LOOK);
        let client = client.tls(tls.clone()).build();
        let client = client.map_err(|error| {
            Failure::usage(format!("--endpoints (KEYWARD_ENDPOINTS): {error}"))
                .advise("Give URLs separated by commas, such as http://a:7420,http://b:7420.")
        })?;
        let answers = ask_all(&client, endpoints).await;
        let mut statuses = Vec::new();
        for (endpoint, answer) in endpoints.iter().zip(answers) {
            match answer {
                Ok(status) => statuses.push((endpoint.clone(), status)),
                Err(error) => output::say(&format!("{endpoint} does not answer: {error}")),
            }
        }
        if statuses.is_empty() {
            return Err(Failure::new(exit::UNAVAILABLE, "no node answers").advise(
                "Check --endpoints, or let `keyward bench --dev` start three nodes here.",
            ));
        }
        let newest =
            statuses.iter().max_by_key(|(_, status)| (status.leader.is_some(), status.term));
        let Some((leader, term)) =
            newest.and_then(|(_, status)| status.leader.zip(Some(status.term)))
        else {
            return Err(Failure::new(exit::UNAVAILABLE, "no node leads: the cluster cannot work")
                .advise("Look at the nodes with `keyward cluster status`."));
        };
        let members = members(&statuses);
        let endpoints = statuses.into_iter().map(|(endpoint, _)| endpoint).collect();
        Ok(Self { client, endpoints, leader, term, members })
    }

    /// The endpoints that the clients ask.
    ///
    /// # Errors
    /// No node has this id, or it is not known where clients reach it.
    pub(super) fn choose(&self, choice: Choice) -> Result<Vec<String>, Failure> {
        let id = match choice {
            Choice::Spread => return Ok(self.endpoints.clone()),
            Choice::Best => self.leader,
            Choice::Node(id) => id,
        };
        if let Some((_, address)) = self.members.iter().find(|(member, _)| *member == id) {
            return Ok(vec![address.clone()]);
        }
        let known: Vec<_> = self.members.iter().map(|(id, _)| id.to_string()).collect();
        Err(Failure::usage(format!("it is not known where clients reach node {id}"))
            .advise(format!("These nodes are known: {}.", known.join(", "))))
    }

    /// The processes of the nodes that run on this machine. Nodes in one process are merged, so
    /// that its usage is counted once.
    pub(super) fn processes(&self) -> Vec<NodeProcess> {
        let mut found: Vec<NodeProcess> = Vec::new();
        for (id, address) in &self.members {
            let Some(pid) = addresses_of(address).into_iter().find_map(listener_of) else {
                continue;
            };
            let leads = *id == self.leader;
            if let Some(process) = found.iter_mut().find(|process| process.pid == pid) {
                process.name = format!("{}, {id}", process.name.replacen("node ", "nodes ", 1));
                process.leads |= leads;
            } else {
                found.push(NodeProcess { name: format!("node {id}"), leads, pid });
            }
        }
        found
    }

    /// The number of terms that have begun since [`Cluster::look`], each with an election, won or
    /// not; `None` if no node answers.
    pub(super) async fn elections(&self) -> Option<u64> {
        let answers = ask_all(&self.client, &self.endpoints).await;
        let newest = answers.into_iter().flatten().map(|status| status.term).max()?;
        Some(newest.saturating_sub(self.term))
    }

    /// Deletes the table of a run.
    pub(super) async fn clean(&self, table: &str) {
        let options = TableOptions {
            table: Some(table.to_owned()),
            call: CallOptions { timeout: Some(CLEAN), ..CallOptions::default() },
            ..TableOptions::default()
        };
        if let Err(error) = self.client.delete_table(options).await {
            output::say(&format!("the table {table} is left over: {error}"));
        }
    }
}

/// Requests the status of each endpoint.
async fn ask_all(client: &Client, endpoints: &[String]) -> Vec<Result<ClusterStatus, Error>> {
    let call = || CallOptions { timeout: Some(LOOK), ..CallOptions::default() };
    let asks = endpoints.iter().map(|endpoint| client.cluster_at(endpoint, call()));
    futures::future::join_all(asks).await
}

/// The address of each member: the endpoint that answered, or the one that other members name.
fn members(statuses: &[(String, ClusterStatus)]) -> Vec<(u64, String)> {
    let mut members: Vec<(u64, String)> =
        statuses.iter().map(|(endpoint, status)| (status.id, endpoint.clone())).collect();
    for member in statuses.iter().flat_map(|(_, status)| &status.members) {
        if let Some(address) = &member.client_address
            && members.iter().all(|(id, _)| *id != member.id)
        {
            members.push((member.id, address.clone()));
        }
    }
    members.sort();
    members
}

/// The addresses behind an endpoint; none if its name is not known here.
fn addresses_of(endpoint: &str) -> Vec<SocketAddr> {
    let rest = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest).trim_end_matches('/');
    let named = if rest.contains(':') { rest.to_owned() } else { format!("{rest}:80") };
    named.to_socket_addrs().map(Iterator::collect).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_a_word_or_an_id() {
        assert_eq!("best".parse(), Ok(Choice::Best));
        assert_eq!("spread".parse(), Ok(Choice::Spread));
        assert_eq!("3".parse(), Ok(Choice::Node(3)));
        assert!("worst".parse::<Choice>().is_err());
    }
}
