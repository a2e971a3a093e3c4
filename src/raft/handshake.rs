//! The handshake: the sender and the receiver of every call between members, and the sender of
//! every answer.
//!
//! A call contains the protocol's version, the cluster, both ends' ids and uuids, the start of the
//! sender's data folder and its promises, and, where it costs nothing, the known starts of the
//! other members. The receiver refuses a call that is meant for another node, comes from another
//! cluster, or comes from a folder that was restored from an old copy, and gives the reason; see
//! [`Handshake::judge_sender`]. Answers are signed, and the caller judges the signature before it uses
//! an answer; see [`Signature`].
//!
//! Both are lines of `key=value` words (see [`super::fields`]). A reader ignores unknown keys, so
//! that a later version can add some.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::raft::fields::{self, Fields, Line};
use crate::storage::identity::{Seen, StaleFolder, Start};
use crate::storage::{Identity, StorageError, Uuid};
use crate::task::blocking;
use crate::tls::{NodeName, PeerCertificate};

/// The version of the protocol between members.
const PROTOCOL: u32 = 1;

/// The oldest version that this program still supports. Two members understand each other if each
/// supports a version that the other does.
const OLDEST_PROTOCOL: u32 = 1;

/// The HTTP header of the handshake.
pub(crate) const HANDSHAKE_HEADER: &str = "keyward-peer";

/// The handshake of a call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Handshake {
    /// The feature level of the sender's program.
    pub(crate) level: u32,
    /// The cluster, unless the sender has none yet.
    pub(crate) cluster: Option<Uuid>,
    pub(crate) from: u64,
    /// The start of the sender's data folder.
    pub(crate) start: Start,
    pub(crate) to: u64,
    /// The data folder of the receiver; omitted only while the sender cannot know it.
    pub(crate) to_uuid: Option<Uuid>,
    /// The sender's address for clients.
    pub(crate) client_addr: Option<String>,
    /// The bound on clock drift that the sender assumes, in parts per million.
    pub(crate) rho_ppm: Option<u32>,
    /// From a leader: the time since a majority followed it, in milliseconds.
    pub(crate) majority_ms: Option<u64>,
    /// The starts of other members that the sender knows.
    pub(crate) known: BTreeMap<Uuid, Seen>,
}

impl fmt::Display for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = Line::default();
        line.put("protocol", PROTOCOL);
        line.put("oldest", OLDEST_PROTOCOL);
        line.put("level", self.level);
        line.put_some("cluster", self.cluster);
        line.put("from", self.from);
        put_start(&mut line, &self.start);
        line.put("to", self.to);
        line.put_some("to_folder", self.to_uuid);
        line.put_text("client", self.client_addr.as_deref());
        line.put_some("rho_ppm", self.rho_ppm);
        line.put_some("majority_ms", self.majority_ms);
        line.put_list("known", self.known.iter().map(|(uuid, seen)| said(*uuid, seen)));
        f.write_str(&line.finish())
    }
}

fn put_start(line: &mut Line, start: &Start) {
    line.put("folder", start.uuid);
    line.put("boot", start.boot);
    line.put("run", start.run);
    line.put("found", start.found);
    line.put("promised", start.promised);
}

fn start(fields: &Fields<'_>) -> Option<Start> {
    Some(Start {
        uuid: fields.read("folder", fields::uuid)?,
        boot: fields.read("boot", fields::number)?,
        run: fields.read("run", fields::uuid)?,
        found: fields.read("found", fields::promises)?,
        promised: fields.read("promised", fields::promises)?,
    })
}

/// Formats the known start of a folder as an item of a list.
fn said(uuid: Uuid, seen: &Seen) -> String {
    let Seen { boot, run, owed, promised, lacks } = seen;
    let lacks = if *lacks { ":lacks" } else { "" };
    format!("{uuid}:{boot}:{run}:{owed}:{promised}{lacks}")
}

fn heard(item: &str) -> Option<(Uuid, Seen)> {
    let words: Vec<&str> = item.split(':').collect();
    let [uuid, boot, run, owed, promised, lacks @ ..] = &words[..] else { return None };
    let seen = Seen {
        boot: fields::number(boot)?,
        run: fields::uuid(run)?,
        owed: fields::promises(owed)?,
        promised: fields::promises(promised)?,
        lacks: lacks.contains(&"lacks"),
    };
    Some((fields::uuid(uuid)?, seen))
}

/// The error for a header that is missing or not one of this protocol.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a call of peer protocol {PROTOCOL}: {0}")]
pub struct NotAHandshake(String);

impl NotAHandshake {
    /// The error for a forwarded request of another version: nothing was done.
    pub(crate) fn forwarded() -> Self {
        Self("a forwarded request that this version does not know".to_owned())
    }

    fn line(text: &str) -> Self {
        Self(text.chars().take(200).collect())
    }
}

impl FromStr for Handshake {
    type Err = NotAHandshake;

    fn from_str(text: &str) -> Result<Self, NotAHandshake> {
        let read = || {
            let fields = Fields::parse(text)?;
            let newest: u32 = fields.read("protocol", fields::number)?;
            let oldest: u32 = fields.optional("oldest", fields::number)?.unwrap_or(newest);
            if newest < OLDEST_PROTOCOL || oldest > PROTOCOL {
                return None;
            }
            Some(Self {
                level: fields.read("level", fields::number)?,
                cluster: fields.optional("cluster", fields::uuid)?,
                from: fields.read("from", fields::number)?,
                start: start(&fields)?,
                to: fields.read("to", fields::number)?,
                to_uuid: fields.optional("to_folder", fields::uuid)?,
                client_addr: fields.optional("client", fields::unescaped)?,
                rho_ppm: fields.optional("rho_ppm", fields::number)?,
                majority_ms: fields.optional("majority_ms", fields::number)?,
                known: fields.list("known", heard)?.into_iter().collect(),
            })
        };
        read().ok_or_else(|| NotAHandshake::line(text))
    }
}

/// The reason why a call is refused. The other end decides by the code; the text is for its log.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("{0}")]
    NotAHandshake(#[from] NotAHandshake),
    #[error("this is node {here}, not node {meant}: check the addresses in --members")]
    WrongNode { here: u64, meant: u64 },
    #[error(
        "this is node {node} with data folder {here}, but {meant} is meant: a member's data folder \
         was lost or exchanged; see docs/operations.md#replacing-a-node"
    )]
    WrongFolder { node: u64, here: Uuid, meant: Uuid },
    #[error("this node belongs to cluster {here}, not to {}", cluster_name(*.meant))]
    WrongCluster { here: Uuid, meant: Option<Uuid> },
    #[error("data folder {found} is not node {node} of this cluster, {} is", folder_name(*.known))]
    UnknownSender { node: u64, found: Uuid, known: Option<Uuid> },
    #[error("{0}")]
    StaleBoot(String),
    #[error(
        "node {from} runs with --rho {}, node {node} with --rho {}: it must be the same on all \
         nodes", percent(*.theirs), percent(*.here)
    )]
    OtherRho { node: u64, here: u32, from: u64, theirs: u32 },
    #[error("the certificate of a caller that says it is node {from} is not accepted: {why}")]
    OtherCertificate { from: u64, why: String },
    #[error("this node has not joined the cluster yet")]
    NotJoined,
    #[error("this node is shutting down")]
    Stopping,
}

fn folder_name(folder: Option<Uuid>) -> String {
    folder.map_or("none".to_owned(), |folder| folder.to_string())
}

fn cluster_name(cluster: Option<Uuid>) -> String {
    cluster.map_or("none".to_owned(), |cluster| format!("cluster {cluster}"))
}

/// Formats parts per million as `--rho` accepts them.
pub(crate) fn percent(ppm: u32) -> String {
    format!("{}%", f64::from(ppm) / 10_000.0)
}

/// The HTTP header of a refusal's code.
pub(crate) const REFUSAL_HEADER: &str = "keyward-refusal";

/// The code of the refusal after which a node must not go on with its data folder.
pub(crate) const STALE_BOOT: &str = "stale_boot";

/// The code of the refusal of a node with another bound on clock drift.
pub(crate) const OTHER_RHO: &str = "other_rho";

/// The code of the refusal of a caller whose certificate is not that of its node.
pub(crate) const OTHER_CERTIFICATE: &str = "other_certificate";

impl Refusal {
    /// The stable code.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::NotAHandshake(_) => "not_a_hello",
            Self::WrongNode { .. } => "wrong_node",
            Self::WrongFolder { .. } => "wrong_folder",
            Self::WrongCluster { .. } => "wrong_cluster",
            Self::UnknownSender { .. } => "unknown_sender",
            Self::StaleBoot(_) => STALE_BOOT,
            Self::OtherRho { .. } => OTHER_RHO,
            Self::OtherCertificate { .. } => OTHER_CERTIFICATE,
            Self::NotJoined => "not_joined",
            Self::Stopping => "stopping",
        }
    }
}

impl Handshake {
    /// Checks that the certificate that the sender has shown is that of the node that it says it is.
    pub(crate) fn judge_certificate(
        &self,
        certificate: Option<&PeerCertificate>,
        addresses: &BTreeMap<u64, String>,
    ) -> Result<(), Refusal> {
        let judged = match certificate {
            None => Err("none was shown".to_owned()),
            Some(certificate) => NodeName::new(self.from, addresses, None)
                .judge(certificate)
                .map_err(|error| error.to_string()),
        };
        judged.map_err(|why| Refusal::OtherCertificate { from: self.from, why })
    }

    /// Checks that the call is for this node. Any caller may ask for an introduction.
    pub(crate) fn judge_target(&self, id: u64, identity: &Identity) -> Result<(), Refusal> {
        if self.to != id {
            return Err(Refusal::WrongNode { here: id, meant: self.to });
        }
        let here = identity.facts().uuid;
        match self.to_uuid {
            Some(meant) if meant != here => Err(Refusal::WrongFolder { node: id, here, meant }),
            Some(_) | None => Ok(()),
        }
    }

    /// Checks that the call is from this cluster, and from the newest start of the sender's folder.
    /// A new start is recorded durably before the call is answered.
    pub(crate) async fn judge_sender(
        &self,
        identity: &Identity,
    ) -> Result<Result<(), Refusal>, StorageError> {
        let facts = identity.facts();
        let Some(here) = facts.cluster else { return Ok(Err(Refusal::NotJoined)) };
        if self.cluster != Some(here) {
            return Ok(Err(Refusal::WrongCluster { here, meant: self.cluster }));
        }
        // Also an id that no member has: the start of each sender that passes is remembered for ever.
        let known = facts.members.get(&self.from).copied();
        if known != Some(self.start.uuid) {
            let (node, found) = (self.from, self.start.uuid);
            return Ok(Err(Refusal::UnknownSender { node, found, known }));
        }
        let judged = judge_start(identity, self.start).await?;
        Ok(judged.map_err(|stale| Refusal::StaleBoot(stale.to_string())))
    }

    /// Checks that the sender assumes the same bound on clock drift as this node.
    pub(crate) fn judge_rho(&self, node: u64, here: u32) -> Result<(), Refusal> {
        match self.rho_ppm {
            Some(theirs) if theirs != here => {
                Err(Refusal::OtherRho { node, here, from: self.from, theirs })
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// Judges a start of a peer's folder; a new start is durable when this returns.
async fn judge_start(
    identity: &Identity,
    start: Start,
) -> Result<Result<(), StaleFolder>, StorageError> {
    if let Some(verdict) = identity.knows(&start) {
        return Ok(verdict);
    }
    let identity = identity.clone();
    let noted = blocking(move || identity.observe(&start)).await;
    noted.map_err(StorageError::io("note a start of a peer in", "identity"))?
}

/// The start of the data folder that gives an answer. It uses the same header as a call: the caller
/// refuses the answers of an old copy as it refuses its calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Signature {
    level: u32,
    start: Start,
}

impl Signature {
    /// The signature of a node whose program has this feature level.
    pub(crate) fn of(identity: &Identity, level: u32) -> Self {
        Self { level, start: identity.start() }
    }

    /// The feature level of the program that gave the answer.
    pub(crate) fn level(&self) -> u32 {
        self.level
    }

    /// The run that gave the answer.
    pub(crate) fn run(&self) -> Uuid {
        self.start.run
    }

    /// Checks that the answer is from the folder `asked`, and from its newest start.
    pub(crate) async fn judge(self, asked: Uuid, identity: &Identity) -> Result<(), String> {
        let Self { start, .. } = self;
        if start.uuid != asked {
            return Err(format!("data folder {} has answered for {asked}", start.uuid));
        }
        match judge_start(identity, start).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(stale)) => Err(stale.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = Line::default();
        line.put("protocol", PROTOCOL);
        line.put("level", self.level);
        put_start(&mut line, &self.start);
        f.write_str(&line.finish())
    }
}

impl FromStr for Signature {
    type Err = NotAHandshake;

    fn from_str(text: &str) -> Result<Self, NotAHandshake> {
        let read = || {
            let fields = Fields::parse(text)?;
            Some(Self { level: fields.read("level", fields::number)?, start: start(&fields)? })
        };
        read().ok_or_else(|| NotAHandshake::line(text))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::storage::Promises;
    use crate::storage::disk::MemDisk;

    fn a_start() -> Start {
        Start {
            uuid: Uuid(11),
            boot: 3,
            run: Uuid(u128::MAX),
            found: Promises { votes: 4, log: 5 },
            promised: Promises { votes: 6, log: 7 },
        }
    }

    fn handshake() -> Handshake {
        let seen = Seen { owed: Promises { votes: 1, log: 2 }, ..Seen::of(9, Uuid(13)) };
        Handshake {
            level: 1,
            cluster: Some(Uuid(7)),
            from: 1,
            start: a_start(),
            to: 2,
            to_uuid: None,
            client_addr: Some("http://10.0.0.1:7420".to_owned()),
            rho_ppm: Some(10_000),
            majority_ms: Some(70),
            known: [(Uuid(12), seen), (Uuid(14), Seen { lacks: true, ..seen })].into(),
        }
    }

    #[test]
    fn a_hello_reads_back_as_it_was_written() {
        let handshake = handshake();
        assert_eq!(handshake.to_string().parse(), Ok(handshake));
    }

    #[test]
    fn a_hello_is_written_the_same_for_ever() {
        assert_eq!(
            handshake().to_string(),
            "protocol=1 oldest=1 level=1 cluster=00000000000000000000000000000007 from=1 \
             folder=0000000000000000000000000000000b boot=3 run=ffffffffffffffffffffffffffffffff \
             found=4.5 promised=6.7 to=2 client=http://10.0.0.1:7420 rho_ppm=10000 \
             majority_ms=70 known=0000000000000000000000000000000c:9:0000000000000000000000000000000d:1.2:0.0,\
             0000000000000000000000000000000e:9:0000000000000000000000000000000d:1.2:0.0:lacks"
        );
    }

    #[test]
    fn a_later_version_may_say_more() {
        let more = format!("{} console=https://10.0.0.1:7422", handshake());
        assert_eq!(more.parse(), Ok(handshake()));
        let later = more.replace("protocol=1", "protocol=2");
        assert_eq!(later.parse(), Ok(handshake()), "it still speaks this version");
        let last = later.replace("oldest=1", "oldest=2");
        assert!(last.parse::<Handshake>().is_err(), "it does not");
    }

    #[test]
    fn a_signature_reads_back_as_it_was_written_and_is_written_the_same_for_ever() {
        let signature = Signature { level: 1, start: a_start() };
        let written = signature.to_string();
        assert_eq!(
            written,
            "protocol=1 level=1 folder=0000000000000000000000000000000b boot=3 \
             run=ffffffffffffffffffffffffffffffff found=4.5 promised=6.7"
        );
        assert_eq!(written.parse(), Ok(signature));
    }

    #[test]
    fn nonsense_is_no_hello() {
        let whole = handshake().to_string();
        for missing in ["protocol", "from", "folder", "boot", "run", "found", "promised", "to"] {
            let words = whole.split(' ').filter(|word| !word.starts_with(&format!("{missing}=")));
            let line = words.collect::<Vec<_>>().join(" ");
            assert!(line.parse::<Handshake>().is_err(), "{line}");
        }
        for text in ["", "1", &whole.replace("boot=3", "boot=x"), &whole.replace("4.5", "4")] {
            assert!(text.parse::<Handshake>().is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn only_the_folders_of_members_are_let_in_and_remembered() {
        let disk = Arc::new(MemDisk::new(1));
        let identity = Identity::open(disk, 2).unwrap();
        let members = [(1, a_start().uuid), (2, identity.facts().uuid)];
        identity.set_cluster(Uuid(7), members.into()).unwrap();
        let stranger = Start { uuid: Uuid(99), ..a_start() };
        for (from, start) in [(3, a_start()), (3, stranger), (1, stranger)] {
            let judged =
                Handshake { from, start, ..handshake() }.judge_sender(&identity).await.unwrap();
            let refusal = judged.unwrap_err().to_string();
            assert!(refusal.contains(&format!("is not node {from} of this cluster")), "{refusal}");
        }
        assert!(identity.remembered().is_empty());
        assert_eq!(handshake().judge_sender(&identity).await.unwrap(), Ok(()));
        assert_eq!(identity.remembered().len(), 1);
    }

    #[test]
    fn a_certificate_is_that_of_the_node_that_calls_or_refused() {
        let named = |name: &str| PeerCertificate {
            begin: 0,
            end: 0,
            subject: "CN=x".to_owned(),
            names: vec![name.to_owned()],
        };
        let judged = |certificate: Option<&PeerCertificate>| {
            let refused = handshake().judge_certificate(certificate, &BTreeMap::new());
            refused.map_err(|refusal| (refusal.code(), refusal.to_string()))
        };
        assert_eq!(judged(Some(&named("keyward-node-1"))), Ok(()));
        let (code, why) = judged(Some(&named("keyward-node-2"))).unwrap_err();
        assert_eq!(code, "other_certificate");
        assert!(why.contains("says it is node 1 is not accepted: it is not for node 1"), "{why}");
        assert!(judged(None).unwrap_err().1.contains("none was shown"));
    }

    #[test]
    fn a_member_with_another_rho_is_told_who_has_which() {
        assert_eq!(handshake().judge_rho(2, 10_000), Ok(()));
        let refusal = handshake().judge_rho(2, 1_500).unwrap_err().to_string();
        assert!(
            refusal.contains("node 1 runs with --rho 1%, node 2 with --rho 0.15%"),
            "{refusal}"
        );
    }
}
