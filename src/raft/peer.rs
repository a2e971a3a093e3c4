//! How members speak to each other: HTTP/1.1 with keep-alive, and who is speaking in every call.
//!
//! Who speaks is said in every call and in every answer, and judged by the other end; see
//! [`super::hello`].
//!
//! Heartbeats and votes, appends, snapshots and forwarded requests use connections of their own:
//! HTTP/1.1 answers in order, and a heartbeat must not wait behind a snapshot.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::HeaderValue;

use crate::carriage::{Carriage, Cause, SendError, describe};
use crate::client::Resolver;
use crate::raft::hello::{HELLO_HEADER, Hello, NotAHello, REFUSAL_HEADER, STALE_BOOT, Signature};
use crate::storage::{Identity, Uuid};

/// Where each kind of call is served on the peer listener.
pub(crate) mod paths {
    pub(crate) const IDENTITY: &str = "/peer/v1/identity";
    pub(crate) const APPEND: &str = "/peer/v1/append";
    pub(crate) const APPEND_STREAM: &str = "/peer/v1/append-stream";
    pub(crate) const VOTE: &str = "/peer/v1/vote";
    pub(crate) const PRE_VOTE: &str = "/peer/v1/pre-vote";
    pub(crate) const TRANSFER: &str = "/peer/v1/transfer-leader";
    pub(crate) const SNAPSHOT: &str = "/peer/v2/snapshot";
    pub(crate) const FORWARD: &str = "/peer/v1/forward";
}

/// No message between members is longer: appends are bounded by what is read from the log at once.
pub(crate) const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// What goes wrong with a call.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// No byte of the request has left.
    #[error("cannot connect to {addr}: {}", describe(&**source))]
    Connect {
        addr: String,
        #[source]
        source: Cause,
    },
    /// Something of the request may have arrived.
    #[error("the connection to {addr} failed: {}", describe(&**source))]
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
    ways: Ways,
    /// Called with the reason when a peer says that this node's folder must not be used.
    retire: Arc<dyn Fn(String) + Send + Sync>,
}

impl Peers {
    pub(crate) fn new(
        id: u64,
        identity: Identity,
        client_addr: Option<String>,
        addrs: BTreeMap<u64, String>,
        ways: Ways,
        retire: Arc<dyn Fn(String) + Send + Sync>,
    ) -> Self {
        let client_addrs = Mutex::default();
        Self { id, identity, client_addr, addrs, client_addrs, ways, retire }
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

    /// Sends a call to `node`, and waits for the head of the response; `uuid` is the folder that is
    /// meant.
    pub(crate) async fn send(
        &self,
        lane: Lane,
        target: (u64, Option<Uuid>, &str),
        path: &str,
        body: reqwest::Body,
    ) -> Result<reqwest::Response, CallError> {
        let request = self.request(target, path, body)?;
        let response = self.ways.of(lane).send(request).await;
        self.accepted(target, response).await
    }

    fn request(
        &self,
        (node, uuid, addr): (u64, Option<Uuid>, &str),
        path: &str,
        body: reqwest::Body,
    ) -> Result<reqwest::Request, CallError> {
        // What cannot be an address or a header has gone nowhere.
        let unsendable = |source: Cause| CallError::Connect { addr: addr.to_owned(), source };
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
        let url = reqwest::Url::parse(&format!("http://{addr}{path}"));
        let url = url.map_err(|error| unsendable(error.into()))?;
        let hello = HeaderValue::try_from(hello.to_string());
        let hello = hello.map_err(|error| unsendable(error.into()))?;
        let mut request = reqwest::Request::new(reqwest::Method::POST, url);
        request.headers_mut().insert(HELLO_HEADER, hello);
        *request.body_mut() = Some(body);
        Ok(request)
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
            response.bytes().await.map_err(|source| broken(addr, source))
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
    CallError::Broken { addr: addr.to_owned(), source: source.into() }
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
            forward: connections()?,
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
        .build()?;
    Ok(Carriage::Http(client))
}
