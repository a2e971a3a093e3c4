//! How members speak to each other: HTTP/1.1 with keep-alive, and who is speaking in every call.
//!
//! Every call names the protocol's version, the cluster, both ends' ids and uuids, and which start
//! of its data folder the sender is. The receiver refuses a call that is not meant for it, comes
//! from another cluster, or comes from a folder that was put back from an old copy, and says so;
//! see [`Hello::judge_sender`]. Answers are signed in the same way and judged by the caller.
//!
//! Heartbeats and votes, appends, snapshots and forwarded requests use connections of their own:
//! HTTP/1.1 answers in order, and a heartbeat must not wait behind a snapshot.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;

use crate::storage::{Identity, StorageError, Uuid};

/// The version of the protocol between members; a member of another one is refused.
const PROTOCOL: u32 = 1;

/// The header in which a call says who speaks to whom.
pub(crate) const HELLO_HEADER: &str = "keyward-peer";

/// Where each kind of call is served on the peer listener.
pub(crate) mod paths {
    pub(crate) const IDENTITY: &str = "/peer/v1/identity";
    pub(crate) const APPEND: &str = "/peer/v1/append";
    pub(crate) const APPEND_STREAM: &str = "/peer/v1/append-stream";
    pub(crate) const VOTE: &str = "/peer/v1/vote";
    pub(crate) const PRE_VOTE: &str = "/peer/v1/pre-vote";
    pub(crate) const TRANSFER: &str = "/peer/v1/transfer-leader";
    pub(crate) const SNAPSHOT: &str = "/peer/v1/snapshot";
    pub(crate) const FORWARD: &str = "/peer/v1/forward";
}

/// No message between members is longer: appends are bounded by what is read from the log at once.
pub(crate) const MAX_MESSAGE_BYTES: usize = 64 << 20;

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
    #[error("this node belongs to cluster {here}, not to {}", cluster_name(.meant))]
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

fn cluster_name(cluster: &Option<Uuid>) -> String {
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
            Some(meant) if meant != here => Err(Refusal::WrongFolder { node: id, here, meant }),
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
    fn judge(self, asked: Uuid, identity: &Identity) -> Result<(), String> {
        if self.uuid != asked {
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

/// What goes wrong with a call.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// No byte of the request has left.
    #[error("cannot connect to {addr}: {source}")]
    Connect {
        addr: String,
        #[source]
        source: reqwest::Error,
    },
    /// Something of the request may have arrived.
    #[error("the connection to {addr} failed: {source}")]
    Broken {
        addr: String,
        #[source]
        source: reqwest::Error,
    },
    /// It did not answer in time.
    #[error("{addr} did not answer within {timeout:?}")]
    Timeout { addr: String, timeout: Duration },
    /// It refused the call; nothing was done.
    #[error("{addr} refused the call ({code}): {reason}")]
    Refused { addr: String, code: String, reason: String },
    /// It may not answer: it runs on an old copy of its data folder, or on another one.
    #[error("the answer of {addr} is not accepted: {reason}")]
    Distrusted { addr: String, reason: String },
    /// Its answer is not one.
    #[error("the answer of {addr} does not decode: {source}")]
    Answer {
        addr: String,
        #[source]
        source: crate::lock::DecodeError,
    },
    /// It answered with a status that this protocol does not have.
    #[error("{addr} answered with status {status}")]
    Status { addr: String, status: u16 },
}

/// Which connections a call uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lane {
    /// Heartbeats, votes, identity: small, and late is as bad as lost.
    Control,
    /// The log.
    Append,
    /// Snapshots: large, and in no hurry.
    Snapshot,
    /// Clients' requests, passed on to the leader.
    Forward,
}

/// Speaks to the other members.
pub(crate) struct Peers {
    id: u64,
    identity: Identity,
    client_addr: Option<String>,
    /// Where this node's configuration says each member is; it goes before what the log says,
    /// because it is what a person can change.
    addrs: BTreeMap<u64, String>,
    /// Where each member said that clients reach it.
    client_addrs: Mutex<BTreeMap<u64, String>>,
    control: reqwest::Client,
    append: reqwest::Client,
    snapshot: reqwest::Client,
    forward: reqwest::Client,
    /// Called with the reason when a peer says that this node's folder must not be used.
    retire: Arc<dyn Fn(String) + Send + Sync>,
}

impl Peers {
    pub(crate) fn new(
        id: u64,
        identity: Identity,
        client_addr: Option<String>,
        addrs: BTreeMap<u64, String>,
        retire: Arc<dyn Fn(String) + Send + Sync>,
    ) -> Result<Self, reqwest::Error> {
        Ok(Self {
            id,
            identity,
            client_addr,
            addrs,
            client_addrs: Mutex::default(),
            control: connections()?,
            append: connections()?,
            snapshot: connections()?,
            forward: connections()?,
            retire,
        })
    }

    /// Where a member is; `logged` is what the membership in the log says.
    pub(crate) fn addr<'a>(&'a self, node: u64, logged: Option<&'a str>) -> Option<&'a str> {
        self.addrs.get(&node).map(String::as_str).or(logged)
    }

    /// Where clients reach a member, if it has said so to this node.
    pub(crate) fn client_addr(&self, node: u64) -> Option<String> {
        if node == self.id {
            return self.client_addr.clone();
        }
        self.lock_client_addrs().get(&node).cloned()
    }

    /// Notes where clients reach a member.
    pub(crate) fn note_client_addr(&self, node: u64, addr: Option<&str>) {
        let Some(addr) = addr else { return };
        let mut known = self.lock_client_addrs();
        if known.get(&node).is_none_or(|known| known != addr) {
            known.insert(node, addr.to_owned());
        }
    }

    fn lock_client_addrs(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, String>> {
        self.client_addrs.lock().expect("nothing panics while it holds the addresses")
    }

    /// A call to `node`, with its body still to be added; `uuid` is the folder that is meant.
    pub(crate) fn request(
        &self,
        lane: Lane,
        (node, uuid, addr): (u64, Option<Uuid>, &str),
        path: &str,
    ) -> reqwest::RequestBuilder {
        let facts = self.identity.facts();
        let hello = Hello {
            cluster: facts.cluster,
            from: self.id,
            from_uuid: facts.uuid,
            to: node,
            to_uuid: uuid,
            boot: facts.boot,
            run: self.identity.run(),
            client_addr: self.client_addr.clone(),
        };
        let client = match lane {
            Lane::Control => &self.control,
            Lane::Append => &self.append,
            Lane::Snapshot => &self.snapshot,
            Lane::Forward => &self.forward,
        };
        client.post(format!("http://{addr}{path}")).header(HELLO_HEADER, hello.to_string())
    }

    /// Sends one message and waits for the one that answers it.
    pub(crate) async fn call(
        &self,
        lane: Lane,
        target: (u64, Option<Uuid>, &str),
        path: &str,
        message: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, CallError> {
        let addr = target.2;
        let exchange = async {
            let response = self.request(lane, target, path).body(message).send().await;
            let response = self.accepted(target, response).await?;
            response.bytes().await.map_err(|source| broken(addr, source))
        };
        match tokio::time::timeout(timeout, exchange).await {
            Ok(result) => result,
            Err(_) => Err(CallError::Timeout { addr: addr.to_owned(), timeout }),
        }
    }

    /// The response, if the call was accepted, by the folder that was meant and its newest start.
    pub(crate) async fn accepted(
        &self,
        (_, uuid, addr): (u64, Option<Uuid>, &str),
        response: Result<reqwest::Response, reqwest::Error>,
    ) -> Result<reqwest::Response, CallError> {
        let addr = addr.to_owned();
        let response = match response {
            Ok(response) => response,
            Err(source) if source.is_connect() => return Err(CallError::Connect { addr, source }),
            Err(source) => return Err(CallError::Broken { addr, source }),
        };
        if response.status() == reqwest::StatusCode::OK {
            let Some(asked) = uuid else { return Ok(response) };
            return match judge_answer(&response, asked, &self.identity) {
                Ok(()) => Ok(response),
                Err(reason) => {
                    tracing::error!(addr, reason, "an answer of a peer is not accepted");
                    Err(CallError::Distrusted { addr, reason })
                }
            };
        }
        let status = response.status().as_u16();
        let code = response.headers().get(REFUSAL_HEADER).and_then(|code| code.to_str().ok());
        let Some(code) = code.map(str::to_owned) else {
            return Err(CallError::Status { addr, status });
        };
        let reason = response.text().await.map_err(|source| broken(&addr, source))?;
        if code == STALE_BOOT {
            (self.retire)(format!("node at {addr} refuses this data folder: {reason}"));
        }
        Err(CallError::Refused { addr, code, reason })
    }
}

pub(crate) fn broken(addr: &str, source: reqwest::Error) -> CallError {
    CallError::Broken { addr: addr.to_owned(), source }
}

fn judge_answer(
    response: &reqwest::Response,
    asked: Uuid,
    identity: &Identity,
) -> Result<(), String> {
    let header = response.headers().get(HELLO_HEADER).and_then(|value| value.to_str().ok());
    let signature: Signature =
        header.unwrap_or_default().parse().map_err(|error: NotAHello| error.to_string())?;
    signature.judge(asked, identity)
}

/// A pool of connections to peers.
fn connections() -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        // Members reach each other directly, whatever the environment says about proxies, and a
        // peer never sends a caller elsewhere.
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .http1_only()
        // Small messages, each waited for: Nagle's algorithm would hold them back.
        .tcp_nodelay(true)
        // A peer that is gone without a word is noticed by connect and call time-outs; this bounds
        // the former for callers that have a longer time-out of their own.
        .connect_timeout(Duration::from_secs(1))
        // Shorter than the other end keeps them; see http::peers.
        .pool_idle_timeout(Duration::from_secs(20))
        .build()
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
