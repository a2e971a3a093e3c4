//! Calls between members: HTTP/1.1 with keep-alive, with a handshake in every call.
//!
//! Every call and every answer identifies its sender, and the other end judges it; see
//! [`super::handshake`].
//!
//! Heartbeats and votes, appends, snapshots and forwarded requests use connections of their own:
//! HTTP/1.1 answers in order, and a heartbeat must not wait behind a snapshot.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::HeaderValue;

use crate::client::carrier::{Cause, SendError, describe, is_of_a_certificate};
use crate::lock::DecodeError;
use crate::raft::handshake::{
    HANDSHAKE_HEADER, Handshake, NotAHandshake, OTHER_CERTIFICATE, OTHER_RHO, REFUSAL_HEADER,
    Refusal, STALE_BOOT, Signature,
};
use crate::raft::levels::Levels;
use crate::raft::said::Said;
use crate::raft::stop::StopSignal;
use crate::raft::ways::Ways;
use crate::storage::identity::Seen;
use crate::storage::{Identity, Uuid};
use crate::task::{blocking, of_host};
use crate::tls::{NodeName, Tls};

/// The path of each kind of call on the peer listener.
pub mod paths {
    pub(crate) const IDENTITY: &str = "/peer/v1/identity";
    pub(crate) const APPEND: &str = "/peer/v1/append";
    pub(crate) const APPEND_STREAM: &str = "/peer/v2/append-stream";
    pub(crate) const VOTE: &str = "/peer/v1/vote";
    pub(crate) const PRE_VOTE: &str = "/peer/v1/pre-vote";
    pub(crate) const CONFIRM: &str = "/peer/v1/confirm";
    pub(crate) const TRANSFER: &str = "/peer/v1/transfer-leader";
    pub(crate) const SNAPSHOT: &str = "/peer/v2/snapshot";
    /// Requests of clients, for the leader.
    pub const FORWARD: &str = "/peer/v2/forward";
}

/// The largest message between members in bytes: appends are bounded by the size of a read from the
/// log.
pub(crate) const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// The errors of a call.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// Connecting failed: no byte of the request was sent.
    #[error("cannot connect to {addr}: {}", describe(.source.as_ref()))]
    Connect {
        addr: String,
        #[source]
        source: Cause,
    },
    /// The connection failed: part of the request may have arrived.
    #[error("the connection to {addr} failed: {}", describe(.source.as_ref()))]
    Broken {
        addr: String,
        #[source]
        source: Cause,
    },
    /// The peer did not answer in time.
    #[error("{addr} did not answer within {timeout:?}")]
    Timeout { addr: String, timeout: Duration },
    /// The peer refused the call; nothing was done.
    #[error("{addr} refused the call ({code}): {reason}")]
    Refused { addr: String, code: String, reason: String },
    /// The peer's answer is not accepted: it runs on an old copy of its data folder, or on another
    /// one.
    #[error("the answer of {addr} is not accepted: {reason}")]
    Distrusted { addr: String, reason: String },
    /// The peer's answer does not decode.
    #[error("the answer of {addr} does not decode: {source}")]
    Answer {
        addr: String,
        #[source]
        source: DecodeError,
    },
    /// The peer answered with a status that this protocol does not have.
    #[error("{addr} answered with status {status}")]
    Status { addr: String, status: u16 },
}

/// The connections that a call uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Channel {
    /// Heartbeats, votes, identity: small messages for which late is as bad as lost.
    Control,
    /// The log.
    Append,
    /// Snapshots: large, and not urgent.
    Snapshot,
    /// Clients' requests, forwarded to the leader.
    Forward,
}

/// The description of this node that its peers receive.
pub(crate) struct Own {
    pub(crate) id: u64,
    pub(crate) identity: Identity,
    pub(crate) client_addr: Option<String>,
    /// The address of each member in this node's configuration. It takes precedence over the
    /// address in the log, because an operator can change it.
    pub(crate) addrs: BTreeMap<u64, String>,
    /// The bound on clock drift, in parts per million.
    pub(crate) rho_ppm: u32,
    /// The feature level of this program.
    pub(crate) level: u32,
}

/// Sends calls to the other members.
pub(crate) struct Peers {
    own: Own,
    /// Each member's reported address for clients.
    client_addrs: Mutex<BTreeMap<u64, String>>,
    /// The differences of each member that was started with other members or addresses, as text.
    differences: Mutex<BTreeMap<u64, String>>,
    ways: Ways,
    stop: StopSignal,
    /// Whether this node's folder must not be used any more.
    retired: AtomicBool,
    /// The messages about refusals that were logged recently.
    said: Said,
    /// The time since a majority followed this node, if it leads.
    majority: OnceLock<Majority>,
    /// The feature levels of the other members' programs.
    pub(crate) levels: Levels,
}

/// Returns the time since a majority followed this node; `None` if it does not lead, or no majority
/// has followed it yet.
pub(crate) type Majority = Box<dyn Fn() -> Option<Duration> + Send + Sync>;

impl Peers {
    /// Creates the peers. `stop` is triggered when a peer reports that this node's folder must not
    /// be used.
    pub(crate) fn new(own: Own, ways: Ways, stop: StopSignal) -> Self {
        Self {
            own,
            client_addrs: Mutex::default(),
            differences: Mutex::default(),
            ways,
            stop,
            retired: AtomicBool::new(false),
            said: Said::default(),
            majority: OnceLock::new(),
            levels: Levels::default(),
        }
    }

    /// Reports to the members, from now on, the time since a majority followed this node. Called
    /// once.
    pub(crate) fn tell_of_majority(&self, majority: Majority) {
        let told = self.majority.set(majority);
        debug_assert!(told.is_ok(), "there is one core");
    }

    /// The TLS between members, if there is one.
    pub(crate) fn tls(&self) -> Option<&Arc<Tls>> {
        self.ways.tls()
    }

    /// This node's description of itself.
    pub(crate) fn own(&self) -> &Own {
        &self.own
    }

    /// A member's address; `logged` is its address in the log's membership.
    pub(crate) fn addr<'a>(&'a self, node: u64, logged: Option<&'a str>) -> Option<&'a str> {
        self.own.addrs.get(&node).map(String::as_str).or(logged)
    }

    /// A member's address for clients, if it has reported one to this node.
    pub(crate) fn client_addr(&self, node: u64) -> Option<String> {
        if node == self.own.id {
            return self.own.client_addr.clone();
        }
        self.lock_client_addrs().get(&node).cloned()
    }

    /// Records a member's address for clients.
    pub(crate) fn note_client_addr(&self, node: u64, addr: Option<&str>) {
        let Some(addr) = addr else { return };
        let mut known = self.lock_client_addrs();
        if known.get(&node).is_none_or(|known| known != addr) {
            known.insert(node, addr.to_owned());
        }
    }

    /// Compares the members and addresses that a member was started with to this node's. A
    /// difference is logged once, and kept until it is resolved.
    pub(crate) fn compare_members(&self, node: u64, configured: &BTreeMap<u64, String>) {
        let difference = difference(node, configured, &self.own.addrs);
        let mut known = self.differences.lock().expect("nothing panics while it holds them");
        if known.get(&node) == difference.as_ref() {
            return;
        }
        match difference {
            Some(text) => {
                tracing::warn!("{text}");
                known.insert(node, text);
            }
            None => drop(known.remove(&node)),
        }
    }

    /// The differences of all members that were started with other members or addresses.
    pub(crate) fn differences(&self) -> Vec<String> {
        let known = self.differences.lock().expect("nothing panics while it holds them");
        known.values().cloned().collect()
    }

    /// Stops this node, whose data folder is an old copy, and marks the folder so that no later
    /// start uses it. The work goes on when the caller is dropped.
    pub(crate) async fn retire(&self, reason: String) {
        if self.retired.swap(true, Ordering::SeqCst) {
            return;
        }
        let (identity, stop) = (self.own.identity.clone(), self.stop.clone());
        let retiring = tokio::spawn(of_host(async move {
            let noted = reason.clone();
            match blocking(move || identity.retire(&noted)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::error!(%error, "the data folder cannot be marked as retired");
                }
                Err(error) => {
                    tracing::error!(%error, "the data folder cannot be marked as retired");
                }
            }
            stop.stop(reason);
        }));
        // The task has ended, or the runtime has.
        let _ = retiring.await;
    }

    /// Records that a member lacks an entry it had acknowledged, of which the next heartbeat
    /// informs it. Returns whether it was recorded.
    pub(crate) fn condemn(&self, member: Uuid) -> bool {
        self.own.identity.condemn(member)
    }

    /// Whether this node's folder must not be used any more: then it makes no promise.
    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::SeqCst)
    }

    /// Merges a member's knowledge of others' data folders, and of this node's own.
    pub(crate) async fn learn(&self, from: u64, known: &BTreeMap<Uuid, Seen>) {
        if let Err(stale) = self.own.identity.learn(known) {
            self.retire(format!("node {from} knows more of this data folder: {stale}")).await;
        }
    }

    /// Logs why a member is refused, at most once in a few seconds.
    pub(crate) fn say_once(&self, refusal: &Refusal) {
        let text = refusal.to_string();
        if self.said.is_due(&text) {
            tracing::error!("{text}");
        }
    }

    /// Logs, at most once in a few seconds, that TLS with a member fails for a certificate.
    fn say_of_tls(&self, node: u64, error: &CallError) {
        let text = error.to_string();
        if self.said.is_due(&text) {
            tracing::error!("no TLS connection to node {node}: {text}");
        }
    }

    fn lock_client_addrs(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, String>> {
        self.client_addrs.lock().expect("nothing panics while it holds the addresses")
    }

    /// Sends a call to `node`, and waits for the head of the response; `uuid` is the folder that
    /// must receive it.
    pub(crate) async fn send(
        &self,
        channel: Channel,
        target: (u64, Option<Uuid>, &str),
        path: &str,
        body: reqwest::Body,
    ) -> Result<reqwest::Response, CallError> {
        let request = self.request(channel, target, path, body)?;
        let (node, _, addr) = target;
        let way = self.ways.of(channel, || NodeName::new(node, &self.own.addrs, Some(addr)));
        let way = way.map_err(|error| unsendable(addr, error.into()))?;
        let response = way.send(request).await;
        self.accepted(target, response).await
    }

    fn request(
        &self,
        channel: Channel,
        (node, uuid, addr): (u64, Option<Uuid>, &str),
        path: &str,
        body: reqwest::Body,
    ) -> Result<reqwest::Request, CallError> {
        let own = &self.own;
        // A vote, too, uses this channel: heartbeats carry these fields to all members.
        let is_heartbeat = channel == Channel::Control;
        let handshake = Handshake {
            level: own.level,
            cluster: own.identity.facts().cluster,
            from: own.id,
            start: own.identity.start(),
            to: node,
            to_uuid: uuid,
            client_addr: own.client_addr.clone(),
            rho_ppm: Some(own.rho_ppm),
            majority_ms: is_heartbeat.then(|| self.majority_ms()).flatten(),
            known: if is_heartbeat { own.identity.remembered() } else { BTreeMap::new() },
        };
        let url = reqwest::Url::parse(&format!("{}://{addr}{path}", self.ways.scheme()));
        let url = url.map_err(|error| unsendable(addr, error.into()))?;
        let handshake = HeaderValue::try_from(handshake.to_string());
        let handshake = handshake.map_err(|error| unsendable(addr, error.into()))?;
        let mut request = reqwest::Request::new(reqwest::Method::POST, url);
        request.headers_mut().insert(HANDSHAKE_HEADER, handshake);
        *request.body_mut() = Some(body);
        Ok(request)
    }

    fn majority_ms(&self) -> Option<u64> {
        let silence = (self.majority.get()?)()?;
        u64::try_from(silence.as_millis()).ok()
    }

    /// Sends one message and waits for its answer.
    pub(crate) async fn call(
        &self,
        channel: Channel,
        target: (u64, Option<Uuid>, &str),
        path: &str,
        message: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, CallError> {
        let addr = target.2;
        let exchange = async {
            let response = self.send(channel, target, path, message.into()).await?;
            whole(response, addr).await
        };
        match tokio::time::timeout(timeout, exchange).await {
            Ok(result) => result,
            Err(_) => Err(CallError::Timeout { addr: addr.to_owned(), timeout }),
        }
    }

    /// Returns the response if the call was accepted, by the intended folder and its newest start.
    async fn accepted(
        &self,
        (node, uuid, addr): (u64, Option<Uuid>, &str),
        response: Result<reqwest::Response, SendError>,
    ) -> Result<reqwest::Response, CallError> {
        let addr = addr.to_owned();
        let response = match response {
            Ok(response) => response,
            Err(SendError::Connect(source)) => {
                let is_refused = is_of_a_certificate(source.as_ref());
                let error = CallError::Connect { addr, source };
                if is_refused {
                    self.say_of_tls(node, &error);
                }
                return Err(error);
            }
            Err(SendError::Broken(source)) => return Err(CallError::Broken { addr, source }),
        };
        if response.status() == reqwest::StatusCode::OK {
            let Some(asked) = uuid else { return Ok(response) };
            return match judge_answer(&response, asked, &self.own.identity).await {
                Ok(level) => {
                    self.levels.note(node, level);
                    Ok(response)
                }
                Err(reason) => {
                    if self.said.is_due(&format!("{addr}: {reason}")) {
                        tracing::error!(addr, reason, "an answer of a peer is not accepted");
                    }
                    Err(CallError::Distrusted { addr, reason })
                }
            };
        }
        let status = response.status().as_u16();
        let code = response.headers().get(REFUSAL_HEADER).and_then(|code| code.to_str().ok());
        let Some(code) = code.map(str::to_owned) else {
            return Err(CallError::Status { addr, status });
        };
        let reason = whole(response, &addr).await?;
        let reason = String::from_utf8_lossy(&reason).into_owned();
        if code == STALE_BOOT {
            self.retire(format!("node at {addr} refuses this data folder: {reason}")).await;
        }
        if [OTHER_RHO, OTHER_CERTIFICATE].contains(&code.as_str()) && self.said.is_due(&reason) {
            tracing::error!(addr, "{reason}");
        }
        Err(CallError::Refused { addr, code, reason })
    }
}

/// Reads the body of a response, which must be no longer than a message.
async fn whole(mut response: reqwest::Response, addr: &str) -> Result<Bytes, CallError> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(|source| broken(addr, source))? {
        if body.len() + chunk.len() > MAX_MESSAGE_BYTES {
            let source = DecodeError::Invalid("length of an answer");
            return Err(CallError::Answer { addr: addr.to_owned(), source });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

pub(crate) fn broken(addr: &str, source: reqwest::Error) -> CallError {
    CallError::Broken { addr: addr.to_owned(), source: source.into() }
}

/// The signature of a response.
pub(crate) fn signature(response: &reqwest::Response) -> Result<Signature, NotAHandshake> {
    let header = response.headers().get(HANDSHAKE_HEADER).and_then(|value| value.to_str().ok());
    header.unwrap_or_default().parse()
}

/// Checks that the answer is one of the folder that was asked; returns the feature level of the
/// program that gave it.
async fn judge_answer(
    response: &reqwest::Response,
    asked: Uuid,
    identity: &Identity,
) -> Result<u32, String> {
    let signature = signature(response).map_err(|error| error.to_string())?;
    let level = signature.level();
    signature.judge(asked, identity).await.map(|()| level)
}

/// The difference of a member's list of members from this node's, as text; `None` if there is none.
fn difference(
    node: u64,
    theirs: &BTreeMap<u64, String>,
    ours: &BTreeMap<u64, String>,
) -> Option<String> {
    let ids: std::collections::BTreeSet<u64> = theirs.keys().chain(ours.keys()).copied().collect();
    let place = |addr: Option<&String>| addr.map_or("nowhere".to_owned(), Clone::clone);
    let parts: Vec<String> = ids
        .into_iter()
        .filter(|id| theirs.get(id) != ours.get(id))
        .map(|id| {
            let (theirs, ours) = (place(theirs.get(&id)), place(ours.get(&id)));
            format!("node {id} at {theirs}, this node with node {id} at {ours}")
        })
        .collect();
    (!parts.is_empty())
        .then(|| format!("node {node} was started with {}: check --members", parts.join("; with ")))
}

/// The error for a call that cannot be sent, because of an invalid address or header for example.
fn unsendable(addr: &str, source: Cause) -> CallError {
    CallError::Connect { addr: addr.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_names_both_places() {
        let members = |three: &str| -> BTreeMap<u64, String> {
            [(1, "a:1".to_owned()), (3, three.to_owned())].into()
        };
        assert_eq!(difference(2, &members("c:1"), &members("c:1")), None);
        let text = difference(2, &members("c:9"), &members("c:1")).expect("they differ");
        assert!(text.contains("node 2 was started with node 3 at c:9, this node with"), "{text}");
        assert!(text.contains("node 3 at c:1"), "{text}");
        let fewer = [(1, "a:1".to_owned())].into();
        let text = difference(2, &fewer, &members("c:1")).expect("they differ");
        assert!(text.contains("node 3 at nowhere"), "{text}");
    }

    #[tokio::test]
    async fn an_answer_is_no_longer_than_a_message() {
        let answer = |bytes| {
            let response = axum::http::Response::new(vec![7; bytes]);
            whole(reqwest::Response::from(response), "a:1")
        };
        assert_eq!(answer(MAX_MESSAGE_BYTES).await.unwrap().len(), MAX_MESSAGE_BYTES);
        let refused = answer(MAX_MESSAGE_BYTES + 1).await;
        assert!(matches!(refused, Err(CallError::Answer { .. })), "{refused:?}");
    }
}
