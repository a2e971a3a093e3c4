//! How a cluster comes into being, and how a node finds out whether it belongs to one.
//!
//! A node with an empty data folder takes no part in anything until it knows one of two things:
//! that *every* initial member has an empty folder too, in one and the same round of questions —
//! then they are a new cluster, named after their uuids; or that a peer's cluster lists this node's
//! uuid — then it joins that. Only the initial member with the lowest id ever initialises the log,
//! and only while its own is empty: a folder that is listed and empty has promised nothing yet. A peer's cluster that does not
//! list it is the cluster of a node that lost its folder: this node stops and says so. So no
//! majority can come into being that does not know what an earlier one has acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use crate::clock::Deadline;
use crate::lock::DecodeError;
use crate::planted::{self, Bug};
use crate::raft::codec::{Reader, Writer};
use crate::raft::peer::{Lane, Peers, paths};
use crate::storage::{StorageError, Uuid};

/// The first byte of an identity message; see [`crate::raft::codec`].
const IDENTITY_TAG: u8 = 32;

/// How long one member may take to say who it is.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// How often the members are asked.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// How often it is said for whom the node waits.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// What a member says about itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Introduction {
    pub(crate) node: u64,
    pub(crate) uuid: Uuid,
    /// The cluster it belongs to; `None`: its folder is empty.
    pub(crate) cluster: Option<Uuid>,
    /// The members of that cluster.
    pub(crate) members: BTreeMap<u64, Uuid>,
    /// The ids it was configured with.
    pub(crate) configured: BTreeSet<u64>,
    pub(crate) client_addr: Option<String>,
}

/// An introduction as a message.
pub(crate) fn encode_introduction(introduction: &Introduction) -> Bytes {
    let mut out = Writer::tagged(IDENTITY_TAG);
    out.u64(introduction.node);
    out.uuid(introduction.uuid);
    out.bool(introduction.cluster.is_some());
    if let Some(cluster) = introduction.cluster {
        out.uuid(cluster);
    }
    out.count(introduction.members.len());
    for (id, uuid) in &introduction.members {
        out.u64(*id);
        out.uuid(*uuid);
    }
    out.count(introduction.configured.len());
    for id in &introduction.configured {
        out.u64(*id);
    }
    out.optional_text(introduction.client_addr.as_deref());
    out.finish()
}

/// What [`encode_introduction`] wrote.
pub(crate) fn decode_introduction(bytes: Bytes) -> Result<Introduction, DecodeError> {
    let mut input = Reader::tagged(bytes, IDENTITY_TAG, "introduction")?;
    let node = input.u64("node id")?;
    let uuid = input.uuid()?;
    let cluster = input.bool("cluster")?.then(|| input.uuid()).transpose()?;
    let mut members = BTreeMap::new();
    for _ in 0..input.count(24, "members")? {
        let last = members.last_key_value().map(|(id, _)| *id);
        members.insert(input.id_after(last, "member")?, input.uuid()?);
    }
    let mut configured = BTreeSet::new();
    for _ in 0..input.count(8, "configured members")? {
        let last = configured.last().copied();
        configured.insert(input.id_after(last, "configured member")?);
    }
    let client_addr = input.optional_text("client address")?;
    input.end("introduction")?;
    Ok(Introduction { node, uuid, cluster, members, configured, client_addr })
}

/// The name of the cluster that these members form: 128 bits of FNV-1a over their ids and uuids.
/// The uuids are random, so no stronger hash is needed for names to be different.
pub(crate) fn cluster_id(members: &BTreeMap<u64, Uuid>) -> Uuid {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let bytes = members
        .iter()
        .flat_map(|(id, uuid)| id.to_le_bytes().into_iter().chain(uuid.0.to_le_bytes()));
    Uuid(bytes.fold(OFFSET, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME)))
}

/// What an empty node found out: the cluster it belongs to, and its initial members.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    pub(crate) cluster: Uuid,
    pub(crate) members: BTreeMap<u64, Uuid>,
}

/// Why an empty node must not go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootstrapError {
    #[error(
        "node {peer} belongs to cluster {cluster}, in which node {node} has the data folder \
         {known}, but this node's data folder is empty (its uuid is {uuid}). A member that lost \
         its data may not come back under its id: it may have promised what it no longer knows. \
         Restore the folder from the same disk, or start this machine with a new id, an empty \
         folder, and have it added to the cluster in place of node {node}",
        known = known.map_or("of nobody".to_owned(), |uuid| uuid.to_string())
    )]
    NotListed { peer: u64, node: u64, cluster: Uuid, uuid: Uuid, known: Option<Uuid> },
    /// The folder is of a cluster with other members than the node was started with.
    #[error(
        "this data folder belongs to a cluster of the members {folder:?}, but the node was started \
         with the members {configured:?}: check --data-dir and --members"
    )]
    OtherMembers { folder: Vec<u64>, configured: Vec<u64> },
    /// Most of the members that the node was started with are of another cluster.
    #[error(
        "this data folder belongs to cluster {own}, but most of the nodes that --members names \
         belong to cluster {theirs}: check --data-dir and --members"
    )]
    OtherCluster { own: Uuid, theirs: Uuid },
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// The node that asks.
pub(crate) struct Asker<'a> {
    pub(crate) id: u64,
    pub(crate) uuid: Uuid,
    /// Peer addresses of all initial members.
    pub(crate) addrs: &'a BTreeMap<u64, String>,
    pub(crate) peers: &'a Peers,
    /// Told for whom the node waits.
    pub(crate) waiting: &'a (dyn Fn(String) + Send + Sync),
}

impl Asker<'_> {
    /// Asks until it is known what this node belongs to.
    pub(crate) async fn find_out(&self) -> Result<Found, BootstrapError> {
        let mut said: Option<(String, Deadline)> = None;
        loop {
            let round = self.ask_all().await;
            if let Some(found) = self.conclude(&round)? {
                return Ok(found);
            }
            let waiting = missing(&round);
            let again = said
                .as_ref()
                .is_none_or(|(text, until)| *text != waiting || until.remaining().is_zero());
            if again {
                tracing::info!("the cluster is being formed; waiting for {waiting}");
                (self.waiting)(waiting.clone());
                said = Some((waiting, Deadline::after(SAY_EVERY)));
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// Presents this start of the data folder to the other members of its cluster, until one of
    /// them has accepted it. A member that knows a later start says so, which retires this folder
    /// (see [`Peers`]); one that cannot be reached will notice when it is called or calls.
    ///
    /// # Errors
    /// When the folder is of another cluster than the nodes at the configured addresses.
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
        let mut said: Option<Deadline> = None;
        while !others.is_empty() {
            let calls = others.iter().map(|(id, uuid, addr)| {
                let target = (*id, Some(*uuid), *addr);
                self.peers.call(Lane::Control, target, paths::IDENTITY, Bytes::new(), ASK_TIMEOUT)
            });
            let answers = futures::future::join_all(calls).await;
            if answers.iter().any(Result::is_ok) {
                break;
            }
            self.compare_clusters(cluster).await?;
            if said.is_none_or(|until| until.remaining().is_zero()) {
                tracing::info!("waiting for another member of the cluster");
                said = Some(Deadline::after(SAY_EVERY));
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
        Ok(())
    }

    /// One peer of another cluster may itself be the one with the wrong folder; most of them are
    /// not.
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

    /// One round: every other member at once.
    async fn ask_all(&self) -> BTreeMap<u64, Result<Introduction, String>> {
        let others = self.addrs.iter().filter(|(id, _)| **id != self.id);
        let asked = others.map(|(id, addr)| async move { (*id, self.ask(*id, addr).await) });
        futures::future::join_all(asked).await.into_iter().collect()
    }

    async fn ask(&self, id: u64, addr: &str) -> Result<Introduction, String> {
        let target = (id, None, addr);
        let message = Bytes::new();
        let answer = self
            .peers
            .call(Lane::Control, target, paths::IDENTITY, message, ASK_TIMEOUT)
            .await
            .map_err(|error| error.to_string())?;
        let introduction = decode_introduction(answer).map_err(|error| error.to_string())?;
        if introduction.node != id {
            return Err(format!("{addr} is node {}", introduction.node));
        }
        self.peers.note_client_addr(id, introduction.client_addr.as_deref());
        Ok(introduction)
    }

    fn conclude(
        &self,
        round: &BTreeMap<u64, Result<Introduction, String>>,
    ) -> Result<Option<Found>, BootstrapError> {
        let answers: Vec<&Introduction> = round.values().filter_map(|a| a.as_ref().ok()).collect();
        for answer in &answers {
            let Some(cluster) = answer.cluster else { continue };
            let known = answer.members.get(&self.id).copied();
            if known != Some(self.uuid) && !planted::active(Bug::IdReusedAfterWipe) {
                let (peer, node, uuid) = (answer.node, self.id, self.uuid);
                return Err(BootstrapError::NotListed { peer, node, cluster, uuid, known });
            }
            return Ok(Some(Found { cluster, members: answer.members.clone() }));
        }
        let configured: BTreeSet<u64> = self.addrs.keys().copied().collect();
        if let Some(other) = answers.iter().find(|answer| answer.configured != configured) {
            tracing::error!(
                "node {} was started with the members {:?}, this node with {configured:?}",
                other.node,
                other.configured
            );
            return Ok(None);
        }
        if answers.len() < round.len() {
            return Ok(None);
        }
        let mut members: BTreeMap<u64, Uuid> =
            answers.iter().map(|answer| (answer.node, answer.uuid)).collect();
        members.insert(self.id, self.uuid);
        Ok(Some(Found { cluster: cluster_id(&members), members }))
    }
}

/// For whom the node waits, and why.
fn missing(round: &BTreeMap<u64, Result<Introduction, String>>) -> String {
    let missing: Vec<String> = round
        .iter()
        .filter_map(|(id, answer)| Some(format!("node {id} ({})", answer.as_ref().err()?)))
        .collect();
    if missing.is_empty() {
        "all nodes to be started with the same members".to_owned()
    } else {
        missing.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn introduction() -> Introduction {
        Introduction {
            node: 2,
            uuid: Uuid(22),
            cluster: Some(Uuid(9)),
            members: BTreeMap::from([(1, Uuid(11)), (2, Uuid(22))]),
            configured: BTreeSet::from([1, 2]),
            client_addr: Some("http://b".to_owned()),
        }
    }

    #[test]
    fn an_introduction_reads_back_as_it_was_written() {
        let introduction = introduction();
        assert_eq!(decode_introduction(encode_introduction(&introduction)), Ok(introduction));
    }

    #[test]
    fn an_introduction_is_written_the_same_for_ever() {
        let hex = crate::raft::codec::tests::hex(&encode_introduction(&introduction()));
        let golden = [
            "2001",
            "0200000000000000",
            "16000000000000000000000000000000",
            "0109000000000000000000000000000000",
            "02000000",
            "0100000000000000",
            "0b000000000000000000000000000000",
            "0200000000000000",
            "16000000000000000000000000000000",
            "02000000",
            "0100000000000000",
            "0200000000000000",
            "0108000000",
            "687474703a2f2f62",
        ];
        assert_eq!(hex, golden.concat());
    }

    #[test]
    fn a_cut_introduction_is_none() {
        let bytes = encode_introduction(&introduction());
        for length in 0..bytes.len() {
            assert!(decode_introduction(bytes.slice(..length)).is_err(), "{length}");
        }
    }

    #[test]
    fn a_cluster_is_named_after_its_members() {
        let members = BTreeMap::from([(1, Uuid(11)), (2, Uuid(22))]);
        let other = BTreeMap::from([(1, Uuid(11)), (2, Uuid(23))]);
        assert_ne!(cluster_id(&members), cluster_id(&other));
        assert_eq!(cluster_id(&members).to_string(), "b18fdb1effe1813ef272bdee12e288f3");
    }
}
