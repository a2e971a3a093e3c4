//! Forming a cluster, and finding out whether a node belongs to one.
//!
//! A node with an empty data folder takes no part in anything until it knows one of two things.
//! Either *every* initial member has an empty folder too, in one and the same round of requests:
//! then they are a new cluster, named after their uuids. Or a peer's cluster lists this node's
//! uuid: then it joins that cluster. Only the initial member with the lowest id ever initialises
//! the log, and only while its own log is empty: a folder that is listed and empty has promised
//! nothing yet. If a peer's cluster does not list this node's uuid, this node has lost its folder:
//! it stops with an error. So no majority can form that does not know what an earlier one has
//! acknowledged.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use crate::codec::{Encoding, digest};
use crate::lock::DecodeError;
use crate::raft::fields::{self, Fields, Line, escaped};
use crate::raft::handshake::percent;
use crate::raft::peer::{Channel, Peers, paths};
use crate::raft::said::Said;
use crate::storage::{StorageError, Uuid};

/// The timeout for one member's introduction.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// The pause between two rounds of requests.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// A member's introduction of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Introduction {
    /// The feature level of its program.
    pub level: u32,
    /// The id of the node.
    pub node: u64,
    /// The uuid of its data folder.
    pub uuid: Uuid,
    /// The cluster it belongs to; `None` if its folder is empty.
    pub cluster: Option<Uuid>,
    /// The members of that cluster.
    pub members: BTreeMap<u64, Uuid>,
    /// The peer addresses that it was configured with.
    pub configured: BTreeMap<u64, String>,
    /// The bound on clock drift that it assumes, in parts per million.
    pub rho_ppm: Option<u32>,
    /// Its address for clients, if it has one.
    pub client_addr: Option<String>,
    /// The digest of the state that its folder begins with, if it was restored from a backup.
    pub restored: Option<Uuid>,
}

/// Encodes an introduction as a line of `key=value` words; see [`super::fields`].
pub fn encode_introduction(introduction: &Introduction) -> Bytes {
    let mut line = Line::default();
    line.put("level", introduction.level);
    line.put("node", introduction.node);
    line.put("folder", introduction.uuid);
    line.put_some("cluster", introduction.cluster);
    let members = introduction.members.iter();
    line.put_list("members", members.map(|(id, uuid)| format!("{id}@{uuid}")));
    let configured = introduction.configured.iter();
    line.put_list("configured", configured.map(|(id, addr)| format!("{id}@{}", escaped(addr))));
    line.put_some("rho_ppm", introduction.rho_ppm);
    line.put_text("client", introduction.client_addr.as_deref());
    line.put_some("restored", introduction.restored);
    line.finish().into()
}

/// Decodes the output of [`encode_introduction`].
///
/// # Errors
/// If the bytes are no introduction.
pub fn decode_introduction(bytes: &[u8]) -> Result<Introduction, DecodeError> {
    let read = || {
        let fields = Fields::parse(std::str::from_utf8(bytes).ok()?)?;
        Some(Introduction {
            level: fields.read("level", fields::number)?,
            node: fields.read("node", fields::number)?,
            uuid: fields.read("folder", fields::uuid)?,
            cluster: fields.optional("cluster", fields::uuid)?,
            members: fields
                .list("members", |item| by_id(item, fields::uuid))?
                .into_iter()
                .collect(),
            configured: fields
                .list("configured", |item| by_id(item, fields::unescaped))?
                .into_iter()
                .collect(),
            rho_ppm: fields.optional("rho_ppm", fields::number)?,
            client_addr: fields.optional("client", fields::unescaped)?,
            restored: fields.optional("restored", fields::uuid)?,
        })
    };
    read().ok_or(DecodeError::Invalid("introduction"))
}

fn by_id<T>(item: &str, read: impl Fn(&str) -> Option<T>) -> Option<(u64, T)> {
    let (id, value) = item.split_once('@')?;
    Some((fields::number(id)?, read(value)?))
}

/// The name of the cluster that these members form: a digest of their ids and uuids. The uuids are
/// random, so no stronger hash is needed for names to be different.
pub(crate) fn cluster_id(members: &BTreeMap<u64, Uuid>) -> Uuid {
    let mut bytes = Vec::new();
    members.put(&mut bytes);
    Uuid(digest(&bytes))
}

/// The cluster that an empty node has found to be its own, and its initial members.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    pub(crate) cluster: Uuid,
    pub(crate) members: BTreeMap<u64, Uuid>,
}

/// The reason why a node must not continue.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootstrapError {
    #[error(
        "node {peer} belongs to cluster {cluster}, in which node {node} has the data folder \
         {known}, but this node's data folder is empty (its uuid is {uuid}). A member that lost \
         its data may not come back under its id: it may have promised what it no longer knows. \
         Put back the folder from the same disk, whole, or see \
         docs/operations.md#replacing-a-node",
        known = known.map_or("of nobody".to_owned(), |uuid| uuid.to_string())
    )]
    NotListed { peer: u64, node: u64, cluster: Uuid, uuid: Uuid, known: Option<Uuid> },
    /// The folder belongs to a cluster with other members than the node was started with.
    #[error(
        "this data folder belongs to a cluster of the members {folder:?}, but the node was started \
         with the members {configured:?}: check --data-dir and --members"
    )]
    OtherMembers { folder: Vec<u64>, configured: Vec<u64> },
    /// Most of the members that the node was started with belong to another cluster.
    #[error(
        "this data folder belongs to cluster {own}, but most of the nodes that --members names \
         belong to cluster {theirs}: check --data-dir and --members"
    )]
    OtherCluster { own: Uuid, theirs: Uuid },
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// The node that searches for its cluster.
pub(crate) struct Asker<'a> {
    pub(crate) id: u64,
    pub(crate) uuid: Uuid,
    pub(crate) rho_ppm: u32,
    pub(crate) restored: Option<Uuid>,
    /// This node's introduction to members of its cluster.
    pub(crate) introduction: Bytes,
    /// Peer addresses of all initial members.
    pub(crate) addrs: &'a BTreeMap<u64, String>,
    pub(crate) peers: &'a Peers,
    /// Called with the members that the node waits for.
    pub(crate) waiting: &'a (dyn Fn(String) + Send + Sync),
}

impl Asker<'_> {
    /// Queries the members until it is known which cluster this node belongs to.
    pub(crate) async fn find_out(&self) -> Result<Found, BootstrapError> {
        let said = Said::default();
        loop {
            let round = self.ask_all().await;
            if let Some(found) = self.conclude(&round, &said)? {
                self.note_members(&round, &found);
                return Ok(found);
            }
            let waiting = missing(&round);
            (self.waiting)(waiting.clone());
            if said.is_due(&waiting) {
                tracing::info!("the cluster is being formed; waiting for {waiting}");
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// Records the client addresses of those that have turned out to be members.
    fn note_members(&self, round: &Round, found: &Found) {
        for answer in round.values().flatten() {
            if found.members.get(&answer.node) == Some(&answer.uuid) {
                self.peers.note_client_addr(answer.node, answer.client_addr.as_deref());
                self.peers.compare_members(answer.node, &answer.configured);
            }
        }
    }

    /// Presents this start of the data folder to the other members of its cluster, until one of
    /// them has accepted it. A member that knows a later start answers with a refusal, which
    /// retires this folder (see [`Peers`]); an unreachable member will notice at the next call in
    /// either direction.
    ///
    /// # Errors
    /// When the folder belongs to another cluster than the nodes at the configured addresses.
    pub(crate) async fn present(
        &self,
        cluster: Uuid,
        members: &BTreeMap<u64, Uuid>,
    ) -> Result<(), BootstrapError> {
        if !members.keys().eq(self.addrs.keys()) {
            let folder = members.keys().copied().collect();
            let configured = self.addrs.keys().copied().collect();
            return Err(BootstrapError::OtherMembers { folder, configured });
        }
        let others: Vec<(u64, Uuid, &str)> = members
            .iter()
            .filter(|(id, _)| **id != self.id)
            .filter_map(|(id, uuid)| Some((*id, *uuid, self.peers.addr(*id, None)?)))
            .collect();
        let said = Said::default();
        while !others.is_empty() {
            let calls = others.iter().map(|(id, uuid, addr)| async move {
                (*id, self.introduce((*id, Some(*uuid), *addr)).await)
            });
            // All answers are awaited before any is used: each may show that this folder is an old
            // copy.
            let round: Round = futures::future::join_all(calls).await.into_iter().collect();
            for answer in round.values().flatten() {
                self.peers.compare_members(answer.node, &answer.configured);
                self.peers.note_client_addr(answer.node, answer.client_addr.as_deref());
            }
            if self.peers.is_retired() || round.values().any(Result::is_ok) {
                break;
            }
            self.compare_clusters(cluster).await?;
            let waiting = missing(&round);
            (self.waiting)(format!("another member of the cluster: {waiting}"));
            if said.is_due(&waiting) {
                tracing::info!("waiting for another member of the cluster: {waiting}");
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
        Ok(())
    }

    /// Sends this node's introduction to a member of its cluster. Returns the member's own.
    async fn introduce(&self, target: (u64, Option<Uuid>, &str)) -> Result<Introduction, String> {
        let message = self.introduction.clone();
        let answer =
            self.peers.call(Channel::Control, target, paths::IDENTITY, message, ASK_TIMEOUT);
        let answer = answer.await.map_err(|error| error.to_string())?;
        decode_introduction(&answer).map_err(|error| error.to_string())
    }

    /// Fails if most of the configured nodes belong to another cluster. A single such peer may
    /// itself be the one with the wrong folder.
    async fn compare_clusters(&self, own: Uuid) -> Result<(), BootstrapError> {
        let round = self.ask_all().await;
        let clusters = round.values().flatten().filter_map(|answer| answer.cluster);
        let theirs: Vec<Uuid> = clusters.filter(|cluster| *cluster != own).collect();
        let most = |cluster: &&Uuid| {
            theirs.iter().filter(|other| other == cluster).count() * 2 > self.addrs.len()
        };
        match theirs.iter().find(most) {
            Some(&theirs) => Err(BootstrapError::OtherCluster { own, theirs }),
            None => Ok(()),
        }
    }

    /// Runs one round: queries every other member concurrently.
    async fn ask_all(&self) -> Round {
        let others = self.addrs.iter().filter(|(id, _)| **id != self.id);
        let asked = others.map(|(id, addr)| async move { (*id, self.ask(*id, addr).await) });
        futures::future::join_all(asked).await.into_iter().collect()
    }

    async fn ask(&self, id: u64, addr: &str) -> Result<Introduction, String> {
        let target = (id, None, addr);
        let message = Bytes::new();
        let answer = self
            .peers
            .call(Channel::Control, target, paths::IDENTITY, message, ASK_TIMEOUT)
            .await
            .map_err(|error| error.to_string())?;
        let introduction = decode_introduction(&answer).map_err(|error| error.to_string())?;
        if introduction.node != id {
            return Err(format!("{addr} is node {}", introduction.node));
        }
        Ok(introduction)
    }

    fn conclude(&self, round: &Round, said: &Said) -> Result<Option<Found>, BootstrapError> {
        let answers: Vec<&Introduction> = round.values().filter_map(|a| a.as_ref().ok()).collect();
        for answer in &answers {
            let Some(cluster) = answer.cluster else { continue };
            let known = answer.members.get(&self.id).copied();
            if known != Some(self.uuid) {
                let (peer, node, uuid) = (answer.node, self.id, self.uuid);
                return Err(BootstrapError::NotListed { peer, node, cluster, uuid, known });
            }
            return Ok(Some(Found { cluster, members: answer.members.clone() }));
        }
        let differences: Vec<String> =
            answers.iter().filter_map(|answer| self.difference(answer)).collect();
        for text in &differences {
            if said.is_due(text) {
                tracing::error!("{text}");
            }
        }
        if !differences.is_empty() {
            return Ok(None);
        }
        for answer in &answers {
            self.peers.compare_members(answer.node, &answer.configured);
        }
        if answers.len() < round.len() {
            return Ok(None);
        }
        let mut members: BTreeMap<u64, Uuid> =
            answers.iter().map(|answer| (answer.node, answer.uuid)).collect();
        members.insert(self.id, self.uuid);
        Ok(Some(Found { cluster: cluster_id(&members), members }))
    }

    /// The difference that keeps this node and another from forming a cluster, as text.
    fn difference(&self, answer: &Introduction) -> Option<String> {
        let (node, here) = (answer.node, self.id);
        if !answer.configured.keys().eq(self.addrs.keys()) {
            let ids = |addrs: &BTreeMap<u64, String>| addrs.keys().copied().collect::<Vec<_>>();
            let (theirs, ours) = (ids(&answer.configured), ids(self.addrs));
            return Some(format!(
                "node {node} was started with the members {theirs:?}, node {here} with {ours:?}"
            ));
        }
        if answer.restored != self.restored {
            let state = |restored: Option<Uuid>| match restored {
                Some(digest) => format!("the restored state {digest}"),
                None => "an empty state".to_owned(),
            };
            let (theirs, ours) = (state(answer.restored), state(self.restored));
            return Some(format!(
                "node {node} begins with {theirs}, node {here} with {ours}: restore every member \
                 from the same file, in the same way"
            ));
        }
        let theirs = answer.rho_ppm.filter(|theirs| *theirs != self.rho_ppm)?;
        let (theirs, ours) = (percent(theirs), percent(self.rho_ppm));
        Some(format!("node {node} was started with --rho {theirs}, node {here} with --rho {ours}"))
    }
}

/// The answers of all other members, or the reasons why there are none.
type Round = BTreeMap<u64, Result<Introduction, String>>;

/// The members that the node waits for, and why.
fn missing(round: &Round) -> String {
    let missing: Vec<String> = round
        .iter()
        .filter_map(|(id, answer)| Some(format!("node {id} ({})", answer.as_ref().err()?)))
        .collect();
    if missing.is_empty() {
        "all nodes to be started with the same members and the same --rho".to_owned()
    } else {
        missing.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn introduction() -> Introduction {
        Introduction {
            level: 1,
            node: 2,
            uuid: Uuid(22),
            cluster: Some(Uuid(9)),
            members: BTreeMap::from([(1, Uuid(11)), (2, Uuid(22))]),
            configured: [(1, "a:7421".to_owned()), (2, "[::1]:7421".to_owned())].into(),
            rho_ppm: Some(10_000),
            client_addr: Some("http://b".to_owned()),
            restored: Some(Uuid(6)),
        }
    }

    #[test]
    fn an_introduction_reads_back_as_it_was_written() {
        let whole = introduction();
        assert_eq!(decode_introduction(&encode_introduction(&whole)), Ok(whole));
        let empty = Introduction {
            cluster: None,
            members: BTreeMap::new(),
            client_addr: None,
            restored: None,
            ..introduction()
        };
        assert_eq!(decode_introduction(&encode_introduction(&empty)), Ok(empty));
    }

    #[test]
    fn an_introduction_is_written_the_same_for_ever() {
        let golden = "level=1 node=2 folder=00000000000000000000000000000016 \
                      cluster=00000000000000000000000000000009 \
                      members=1@0000000000000000000000000000000b,2@00000000000000000000000000000016 \
                      configured=1@a:7421,2@[::1]:7421 rho_ppm=10000 client=http://b \
                      restored=00000000000000000000000000000006";
        assert_eq!(encode_introduction(&introduction()), golden);
    }

    #[test]
    fn an_introduction_of_a_later_version_may_say_more() {
        let more = [&encode_introduction(&introduction())[..], b" zone=north"].concat();
        assert_eq!(decode_introduction(&more), Ok(introduction()));
    }

    #[test]
    fn an_introduction_without_what_it_needs_is_none() {
        for wrong in ["", "level=1 node=2", "level=1 node=x folder=16", "level=1 folder=16"] {
            assert!(decode_introduction(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_cluster_is_named_after_its_members() {
        let members = BTreeMap::from([(1, Uuid(11)), (2, Uuid(22))]);
        let other = BTreeMap::from([(1, Uuid(11)), (2, Uuid(23))]);
        assert_ne!(cluster_id(&members), cluster_id(&other));
        assert_eq!(cluster_id(&members).to_string(), "6046b593a0f17bdb54b7f8e5d2fb6f8a");
    }
}
