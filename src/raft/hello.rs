//! Who speaks to whom, in every call between members and in every answer.
//!
//! A call names the protocol's version, the cluster, both ends' ids and uuids, and which start of
//! its data folder the sender is. The receiver refuses a call that is not meant for it, comes from
//! another cluster, or comes from a folder that was put back from an old copy, and says so; see
//! [`Hello::judge_sender`]. Answers are signed, and judged by the caller before anything in them
//! counts; see [`Signature`].

use std::fmt;
use std::str::FromStr;

use crate::planted::{self, Bug};
use crate::storage::{Identity, StorageError, Uuid};

/// The version of the protocol between members; a member of another one is refused.
const PROTOCOL: u32 = 1;

/// The header in which a call says who speaks to whom.
pub(crate) const HELLO_HEADER: &str = "keyward-peer";

/// Who speaks to whom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Hello {
    /// The cluster, unless the sender has none yet.
    pub(crate) cluster: Option<Uuid>,
    pub(crate) from: u64,
    pub(crate) from_uuid: Uuid,
    pub(crate) to: u64,
    /// Which data folder is meant; left out only while the sender cannot know.
    pub(crate) to_uuid: Option<Uuid>,
    /// How often the sender's data folder has been started.
    pub(crate) boot: u64,
    /// The random number of that start.
    pub(crate) run: Uuid,
    /// Where clients reach the sender.
    pub(crate) client_addr: Option<String>,
}

impl fmt::Display for Hello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_dash = |uuid: Option<Uuid>| uuid.map_or("-".to_owned(), |uuid| uuid.to_string());
        write!(
            f,
            "{PROTOCOL} {} {} {} {} {} {} {} {}",
            or_dash(self.cluster),
            self.from,
            self.from_uuid,
            self.to,
            or_dash(self.to_uuid),
            self.boot,
            self.run,
            self.client_addr.as_deref().unwrap_or("-"),
        )
    }
}

/// The header is missing or not one of this protocol.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a call of peer protocol {PROTOCOL}: {0}")]
pub(crate) struct NotAHello(String);

impl NotAHello {
    /// For a forwarded request of another version: nothing was done.
    pub(crate) fn forwarded() -> Self {
        Self("a forwarded request that this version does not know".to_owned())
    }
}

impl FromStr for Hello {
    type Err = NotAHello;

    fn from_str(text: &str) -> Result<Self, NotAHello> {
        let wrong = || NotAHello(text.chars().take(200).collect());
        let words: Vec<&str> = text.split(' ').collect();
        let [version, cluster, from, from_uuid, to, to_uuid, boot, run, client_addr] = words[..]
        else {
            return Err(wrong());
        };
        if version != PROTOCOL.to_string() {
            return Err(wrong());
        }
        let number = |word: &str| word.parse::<u64>().map_err(|_| wrong());
        let uuid = |word: &str| u128::from_str_radix(word, 16).map(Uuid).map_err(|_| wrong());
        let optional = |word: &str| (word != "-").then(|| uuid(word)).transpose();
        Ok(Self {
            cluster: optional(cluster)?,
            from: number(from)?,
            from_uuid: uuid(from_uuid)?,
            to: number(to)?,
            to_uuid: optional(to_uuid)?,
            boot: number(boot)?,
            run: uuid(run)?,
            client_addr: (client_addr != "-").then(|| client_addr.to_owned()),
        })
    }
}

/// Why a call is refused. The code is what the other end decides by, the text is for its log.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("{0}")]
    NotAHello(#[from] NotAHello),
    #[error("this is node {here}, not node {meant}: check the addresses in --members")]
    WrongNode { here: u64, meant: u64 },
    #[error(
        "this is node {node} with data folder {here}, but {meant} is meant: a member's data folder \
         was lost or exchanged; add it back under a new id with an empty folder"
    )]
    WrongFolder { node: u64, here: Uuid, meant: Uuid },
    #[error("this node belongs to cluster {here}, not to {}", cluster_name(*.meant))]
    WrongCluster { here: Uuid, meant: Option<Uuid> },
    #[error("data folder {found} is not node {node} of this cluster, {known} is")]
    UnknownSender { node: u64, found: Uuid, known: Uuid },
    #[error("{0}")]
    StaleBoot(String),
    #[error("this node has not joined the cluster yet")]
    NotJoined,
    #[error("this node is shutting down")]
    Stopping,
}

fn cluster_name(cluster: Option<Uuid>) -> String {
    cluster.map_or("none".to_owned(), |cluster| format!("cluster {cluster}"))
}

/// The header in which a refusal's code is said.
pub(crate) const REFUSAL_HEADER: &str = "keyward-refusal";

/// The code of the refusal after which a node must not go on with its data folder.
pub(crate) const STALE_BOOT: &str = "stale_boot";

impl Refusal {
    /// The stable code.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::NotAHello(_) => "not_a_hello",
            Self::WrongNode { .. } => "wrong_node",
            Self::WrongFolder { .. } => "wrong_folder",
            Self::WrongCluster { .. } => "wrong_cluster",
            Self::UnknownSender { .. } => "unknown_sender",
            Self::StaleBoot(_) => STALE_BOOT,
            Self::NotJoined => "not_joined",
            Self::Stopping => "stopping",
        }
    }
}

impl Hello {
    /// Whether the call is for this node. Anybody may ask for an introduction.
    pub(crate) fn judge_target(&self, id: u64, identity: &Identity) -> Result<(), Refusal> {
        if self.to != id {
            return Err(Refusal::WrongNode { here: id, meant: self.to });
        }
        let here = identity.facts().uuid;
        match self.to_uuid {
            Some(meant) if meant != here && !planted::active(Bug::IdReusedAfterWipe) => {
                Err(Refusal::WrongFolder { node: id, here, meant })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Whether the call is from this cluster, and from the newest start of the sender's folder. A
    /// new start is noted durably before the call is answered.
    pub(crate) fn judge_sender(
        &self,
        identity: &Identity,
    ) -> Result<Result<(), Refusal>, StorageError> {
        let facts = identity.facts();
        let Some(here) = facts.cluster else { return Ok(Err(Refusal::NotJoined)) };
        if self.cluster != Some(here) {
            return Ok(Err(Refusal::WrongCluster { here, meant: self.cluster }));
        }
        if let Some(known) = facts.members.get(&self.from)
            && *known != self.from_uuid
            && !planted::active(Bug::IdReusedAfterWipe)
        {
            let (node, found) = (self.from, self.from_uuid);
            return Ok(Err(Refusal::UnknownSender { node, found, known: *known }));
        }
        let observed = identity.observe(self.from_uuid, self.boot, self.run)?;
        Ok(observed.map_err(|stale| Refusal::StaleBoot(stale.to_string())))
    }
}

/// Which start of which data folder gives an answer. It stands in the same header: whoever asks
/// refuses the answers of an old copy as it refuses its calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Signature {
    uuid: Uuid,
    boot: u64,
    run: Uuid,
}

impl Signature {
    pub(crate) fn of(identity: &Identity) -> Self {
        let facts = identity.facts();
        Self { uuid: facts.uuid, boot: facts.boot, run: identity.run() }
    }

    /// Whether the answer is from the folder that was asked, and from its newest start.
    pub(crate) fn judge(self, asked: Uuid, identity: &Identity) -> Result<(), String> {
        if self.uuid != asked && !planted::active(Bug::IdReusedAfterWipe) {
            return Err(format!("data folder {} has answered for {asked}", self.uuid));
        }
        match identity.observe(self.uuid, self.boot, self.run) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(stale)) => Err(stale.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.uuid, self.boot, self.run)
    }
}

impl FromStr for Signature {
    type Err = NotAHello;

    fn from_str(text: &str) -> Result<Self, NotAHello> {
        let wrong = || NotAHello(text.chars().take(200).collect());
        let uuid = |word: &str| u128::from_str_radix(word, 16).map(Uuid).map_err(|_| wrong());
        let words: Vec<&str> = text.split(' ').collect();
        let [folder, boot, run] = words[..] else { return Err(wrong()) };
        let boot = boot.parse().map_err(|_| wrong())?;
        Ok(Self { uuid: uuid(folder)?, boot, run: uuid(run)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            cluster: Some(Uuid(7)),
            from: 1,
            from_uuid: Uuid(11),
            to: 2,
            to_uuid: None,
            boot: 3,
            run: Uuid(u128::MAX),
            client_addr: Some("http://10.0.0.1:7420".to_owned()),
        }
    }

    #[test]
    fn a_hello_reads_back_as_it_was_written() {
        let hello = hello();
        assert_eq!(hello.to_string().parse(), Ok(hello));
    }

    #[test]
    fn a_hello_is_written_the_same_for_ever() {
        assert_eq!(
            hello().to_string(),
            "1 00000000000000000000000000000007 1 0000000000000000000000000000000b 2 - 3 \
             ffffffffffffffffffffffffffffffff http://10.0.0.1:7420"
        );
    }

    #[test]
    fn a_signature_reads_back_as_it_was_written() {
        let signature = Signature { uuid: Uuid(1), boot: 2, run: Uuid(3) };
        assert_eq!(signature.to_string().parse(), Ok(signature));
    }

    #[test]
    fn another_protocol_and_nonsense_are_no_hello() {
        for text in ["", "1", "2 - 1 b 2 - 3 f -", "1 - x b 2 - 3 f -", "1 - 1 b 2 - 3 f - -"] {
            assert!(text.parse::<Hello>().is_err(), "{text}");
        }
    }
}
