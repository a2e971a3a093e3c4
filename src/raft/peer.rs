//! How members speak to each other: HTTP/1.1 with keep-alive, and who is speaking in every call.
//!
//! Who speaks is said in every call and in every answer, and judged by the other end; see
//! [`super::hello`].
//!
//! Heartbeats and votes, appends, snapshots and forwarded requests use connections of their own:
//! HTTP/1.1 answers in order, and a heartbeat must not wait behind a snapshot.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::HeaderValue;

use crate::carriage::{Carriage, Cause, SendError, describe};
use crate::lock::{DecodeError, FEATURE_LEVEL};
use crate::raft::hello::{
    HELLO_HEADER, Hello, NotAHello, OTHER_RHO, REFUSAL_HEADER, Refusal, STALE_BOOT, Signature,
};
use crate::raft::said::Said;
use crate::raft::stop::StopSignal;
use crate::resolve::Resolver;
use crate::storage::identity::Seen;
use crate::storage::{Identity, Uuid};
use crate::task::{blocking, of_host};

/// Where each kind of call is served on the peer listener.
pub(crate) mod paths {
    pub(crate) const IDENTITY: &str = "/peer/v1/identity";
    pub(crate) const APPEND: &str = "/peer/v1/append";
    pub(crate) const APPEND_STREAM: &str = "/peer/v2/append-stream";
    pub(crate) const VOTE: &str = "/peer/v1/vote";
    pub(crate) const PRE_VOTE: &str = "/peer/v1/pre-vote";
    pub(crate) const CONFIRM: &str = "/peer/v1/confirm";
    pub(crate) const TRANSFER: &str = "/peer/v1/transfer-leader";
    pub(crate) const SNAPSHOT: &str = "/peer/v2/snapshot";
    pub(crate) const FORWARD: &str = "/peer/v2/forward";
}

/// No message between members is longer: appends are bounded by what is read from the log at once.
pub(crate) const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// What goes wrong with a call.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// No byte of the request has left.
    #[error("cannot connect to {addr}: {}", describe(.source.as_ref()))]
    Connect {
        addr: String,
        #[source]
        source: Cause,
    },
    /// Something of the request may have arrived.
    #[error("the connection to {addr} failed: {}", describe(.source.as_ref()))]
    Broken {
        addr: String,
        #[source]
        source: Cause,
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
        source: DecodeError,
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

/// What this node tells its peers about itself.
pub(crate) struct Own {
    pub(crate) id: u64,
    pub(crate) identity: Identity,
    pub(crate) client_addr: Option<String>,
    /// Where this node's configuration says each member is; it goes before what the log says,
    /// because it is what a person can change.
    pub(crate) addrs: BTreeMap<u64, String>,
    /// By how much clocks may be off, in parts per million.
    pub(crate) rho_ppm: u32,
}

/// Speaks to the other members.
pub(crate) struct Peers {
    own: Own,
    /// Where each member said that clients reach it.
    client_addrs: Mutex<BTreeMap<u64, String>>,
    /// How each member that was started with other members or addresses differs, in words.
    differences: Mutex<BTreeMap<u64, String>>,
    ways: Ways,
    stop: StopSignal,
    /// Whether this node's folder must not be used any more.
    retired: AtomicBool,
    /// What was said of refusals.
    said: Said,
    /// How long ago a majority followed this node, if it leads.
    majority: OnceLock<Majority>,
}

/// Tells how long ago a majority followed this node; `None` if it does not lead, or none has yet.
pub(crate) type Majority = Box<dyn Fn() -> Option<Duration> + Send + Sync>;

impl Peers {
    /// `stop` is told when a peer says that this node's folder must not be used.
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
        }
    }

    /// Tells the members, from now on, how long ago a majority followed this node. Called once.
    pub(crate) fn tell_of_majority(&self, majority: Majority) {
        let told = self.majority.set(majority);
        debug_assert!(told.is_ok(), "there is one core");
    }

    /// This node, as it describes itself.
    pub(crate) fn own(&self) -> &Own {
        &self.own
    }

    /// Where a member is; `logged` is what the membership in the log says.
    pub(crate) fn addr<'a>(&'a self, node: u64, logged: Option<&'a str>) -> Option<&'a str> {
        self.own.addrs.get(&node).map(String::as_str).or(logged)
    }

    /// Where clients reach a member, if it has said so to this node.
    pub(crate) fn client_addr(&self, node: u64) -> Option<String> {
        if node == self.own.id {
            return self.own.client_addr.clone();
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

    /// Compares what a member was started with to what this node was; what differs is said once,
    /// and kept until it is mended.
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

    /// How members that were started with other members or addresses differ from this node.
    pub(crate) fn differences(&self) -> Vec<String> {
        let known = self.differences.lock().expect("nothing panics while it holds them");
        known.values().cloned().collect()
    }

    /// Ends this node, whose data folder is an old copy: no start on it is tried again. Goes on
    /// when the caller is dropped.
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
        // It has ended, or the runtime has.
        let _ = retiring.await;
    }

    /// Notes that a member lacks what it had acknowledged, which it is told with the next
    /// heartbeat. Whether it was to be noted.
    pub(crate) fn condemn(&self, member: Uuid) -> bool {
        self.own.identity.condemn(member)
    }

    /// Whether this node's folder must not be used any more: it makes no promise.
    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::SeqCst)
    }

    /// Takes over what a member knows of others' data folders, and of this node's own.
    pub(crate) async fn learn(&self, from: u64, known: &BTreeMap<Uuid, Seen>) {
        if let Err(stale) = self.own.identity.learn(known) {
            self.retire(format!("node {from} knows more of this data folder: {stale}")).await;
        }
    }

    /// Says why a member is refused, not more than once in a few seconds.
    pub(crate) fn say_once(&self, refusal: &Refusal) {
        let text = refusal.to_string();
        if self.said.is_due(&text) {
            tracing::error!("{text}");
        }
    }

    fn lock_client_addrs(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, String>> {
        self.client_addrs.lock().expect("nothing panics while it holds the addresses")
    }

    /// Sends a call to `node`, and waits for the head of the response; `uuid` is the folder that is
    /// meant.
    pub(crate) async fn send(
        &self,
        lane: Lane,
        target: (u64, Option<Uuid>, &str),
        path: &str,
        body: reqwest::Body,
    ) -> Result<reqwest::Response, CallError> {
        let request = self.request(lane, target, path, body)?;
        let response = self.ways.of(lane).send(request).await;
        self.accepted(target, response).await
    }

    fn request(
        &self,
        lane: Lane,
        (node, uuid, addr): (u64, Option<Uuid>, &str),
        path: &str,
        body: reqwest::Body,
    ) -> Result<reqwest::Request, CallError> {
        // What cannot be an address or a header has gone nowhere.
        let unsendable = |source: Cause| CallError::Connect { addr: addr.to_owned(), source };
        let own = &self.own;
        // Or a vote: heartbeats carry this to everybody.
        let is_heartbeat = lane == Lane::Control;
        let hello = Hello {
            level: FEATURE_LEVEL,
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
        let url = reqwest::Url::parse(&format!("http://{addr}{path}"));
        let url = url.map_err(|error| unsendable(error.into()))?;
        let hello = HeaderValue::try_from(hello.to_string());
        let hello = hello.map_err(|error| unsendable(error.into()))?;
        let mut request = reqwest::Request::new(reqwest::Method::POST, url);
        request.headers_mut().insert(HELLO_HEADER, hello);
        *request.body_mut() = Some(body);
        Ok(request)
    }

    fn majority_ms(&self) -> Option<u64> {
        let silence = (self.majority.get()?)()?;
        u64::try_from(silence.as_millis()).ok()
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
            let response = self.send(lane, target, path, message.into()).await?;
            whole(response, addr).await
        };
        match tokio::time::timeout(timeout, exchange).await {
            Ok(result) => result,
            Err(_) => Err(CallError::Timeout { addr: addr.to_owned(), timeout }),
        }
    }

    /// The response, if the call was accepted, by the folder that was meant and its newest start.
    async fn accepted(
        &self,
        (_, uuid, addr): (u64, Option<Uuid>, &str),
        response: Result<reqwest::Response, SendError>,
    ) -> Result<reqwest::Response, CallError> {
        let addr = addr.to_owned();
        let response = match response {
            Ok(response) => response,
            Err(SendError::Connect(source)) => return Err(CallError::Connect { addr, source }),
            Err(SendError::Broken(source)) => return Err(CallError::Broken { addr, source }),
        };
        if response.status() == reqwest::StatusCode::OK {
            let Some(asked) = uuid else { return Ok(response) };
            return match judge_answer(&response, asked, &self.own.identity).await {
                Ok(()) => Ok(response),
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
        if code == OTHER_RHO && self.said.is_due(&reason) {
            tracing::error!(addr, "{reason}");
        }
        Err(CallError::Refused { addr, code, reason })
    }
}

/// The body of a response, which is no longer than a message.
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

/// Who has answered.
pub(crate) fn signature(response: &reqwest::Response) -> Result<Signature, NotAHello> {
    let header = response.headers().get(HELLO_HEADER).and_then(|value| value.to_str().ok());
    header.unwrap_or_default().parse()
}

async fn judge_answer(
    response: &reqwest::Response,
    asked: Uuid,
    identity: &Identity,
) -> Result<(), String> {
    let signature = signature(response).map_err(|error| error.to_string())?;
    signature.judge(asked, identity).await
}

/// How a member's list of members differs from this node's, in words; `None` if it does not.
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

/// The way that each kind of call takes.
pub(crate) struct Ways {
    control: Carriage,
    append: Carriage,
    snapshot: Carriage,
    forward: Carriage,
}

impl Ways {
    /// A pool of connections for each.
    pub(crate) fn http() -> Result<Self, reqwest::Error> {
        Ok(Self {
            control: connections()?,
            append: connections()?,
            snapshot: connections()?,
            // As many as are used at once. All of them may be dead without a sign; then the first
            // messages stall, and those that overtake them find new connections.
            forward: connections_kept(2)?,
        })
    }

    /// A network of a simulation for all of them.
    #[cfg(feature = "simulation")]
    pub(crate) fn simulated(uplink: &std::sync::Arc<crate::sim::network::Uplink>) -> Self {
        let way = |lane| Carriage::Simulated(uplink.lane(lane));
        Self {
            control: way(Lane::Control),
            append: way(Lane::Append),
            snapshot: way(Lane::Snapshot),
            forward: way(Lane::Forward),
        }
    }

    fn of(&self, lane: Lane) -> &Carriage {
        match lane {
            Lane::Control => &self.control,
            Lane::Append => &self.append,
            Lane::Snapshot => &self.snapshot,
            Lane::Forward => &self.forward,
        }
    }
}

/// A pool of connections to peers.
fn connections() -> Result<Carriage, reqwest::Error> {
    connections_kept(usize::MAX)
}

/// As [`connections`], of which so many to a peer are kept when they are not used.
fn connections_kept(idle: usize) -> Result<Carriage, reqwest::Error> {
    let client = reqwest::Client::builder()
        // Members reach each other directly, whatever the environment says about proxies, and a
        // peer never sends a caller elsewhere.
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        // A member's machine may get another address, or its name be made known only later.
        .dns_resolver(Resolver::default())
        .http1_only()
        // Small messages, each waited for: Nagle's algorithm would hold them back.
        .tcp_nodelay(true)
        // A peer that is gone without a word is noticed by connect and call time-outs; this bounds
        // the former for callers that have a longer time-out of their own.
        .connect_timeout(Duration::from_secs(1))
        // Shorter than the other end keeps them; see http::peers.
        .pool_idle_timeout(Duration::from_secs(20))
        .pool_max_idle_per_host(idle)
        .build()?;
    Ok(Carriage::Http(client))
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
