//! One running node: its listeners, its consensus and its shutdown. `serve` runs one, and so does
//! each process of `dev`.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::access::{AccessToken, Change, Secret};
use crate::advance;
use crate::api::BootstrapBody;
use crate::cli::exit::{self, Failure};
use crate::cli::log_writer;
use crate::clock::{Clock, CredentialClock, OffsetClock, SkewedClock, SystemClock};
use crate::error::Error;
use crate::files::{Followed, follow};
use crate::forward::Forwarding;
use crate::http::{self, ListenerSettings, Rates, ServedNode, Terms};
use crate::jwt::Issuers;
use crate::lock::Command;
use crate::node::{Member, Node, NodeConfig};
use crate::service::LockService as _;
use crate::tls::Tls;
use crate::types::CallOptions;

/// Two bound listeners. They are bound first, so that a port that is in use is known before a
/// folder is opened or a vote granted.
#[derive(Debug)]
pub(crate) struct Listeners {
    pub(crate) clients: TcpListener,
    pub(crate) peers: TcpListener,
}

impl Listeners {
    /// Binds both.
    ///
    /// # Errors
    /// A port is taken, or an address is not one of this machine.
    pub(crate) fn bind(clients: SocketAddr, peers: SocketAddr) -> Result<Self, Failure> {
        let options = ["--client-listen", "--peer-listen"];
        Self::bind_for(clients, peers, options)
    }

    /// As [`Listeners::bind`], for a command in which these options choose the addresses.
    ///
    /// # Errors
    /// As [`Listeners::bind`].
    pub(crate) fn bind_for(
        clients: SocketAddr,
        peers: SocketAddr,
        options: [&str; 2],
    ) -> Result<Self, Failure> {
        let clients = bind(clients, "client", options[0])?;
        let peers = bind(peers, "peer", options[1])?;
        Ok(Self { clients, peers })
    }

    /// The bound addresses: that for clients, then that for peers.
    pub(crate) fn addresses(&self) -> Result<(SocketAddr, SocketAddr), Failure> {
        let read = |listener: &TcpListener| {
            listener.local_addr().map_err(|error| Failure::new(exit::BROKEN, error.to_string()))
        };
        Ok((read(&self.clients)?, read(&self.peers)?))
    }
}

/// The most connections that wait to be accepted, unless the system allows fewer
/// (`net.core.somaxconn` on Linux). A client beyond them retries after a second: all clients of a
/// cluster connect at once when a node has restarted.
const BACKLOG: u32 = 4096;

pub(crate) fn listener(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A node that restarts must not wait until its old connections have timed out.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn bind(address: SocketAddr, what: &str, option: &str) -> Result<TcpListener, Failure> {
    listener(address).map_err(|error| {
        let kind = error.kind();
        // A port may become free and an address may come up; only a missing privilege is permanent.
        let lasts = kind == ErrorKind::PermissionDenied;
        let code = if lasts { exit::USAGE } else { exit::UNAVAILABLE };
        let why = format!("cannot listen for {what}s on {address}: {error}");
        let failure = Failure::new(code, why);
        let port = address.port();
        if kind == ErrorKind::AddrInUse {
            failure.advise(format!(
                "Another program has port {port}, perhaps another node. Stop it, or choose another \
                 with {option}."
            ))
        } else if kind == ErrorKind::AddrNotAvailable {
            failure.advise(format!(
                "This machine has no such address, or not yet. Choose one of its own with {option}, \
                 such as 0.0.0.0:{port}."
            ))
        } else if kind == ErrorKind::PermissionDenied {
            failure.advise(format!(
                "Ports below 1024 need a privilege. Choose a higher one with {option}."
            ))
        } else {
            failure
        }
    })
}

/// The settings of a node, besides its listeners.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) config: NodeConfig,
    /// Limits of the client listener, and its TLS.
    pub(crate) terms: Terms,
    /// The names by which browsers may call the node.
    pub(crate) hosts: Vec<String>,
    /// How often an address and an identity may ask.
    pub(crate) rates: Rates,
    /// The secret of the first administrator's access token, for the first start.
    pub(crate) bootstrap: Option<Secret>,
    /// The issuers whose JWTs are taken.
    pub(crate) issuers: Option<Arc<Issuers>>,
    /// Whether the figures are shown to whoever asks.
    pub(crate) open_metrics: bool,
    /// Whether clients may move the clock.
    pub(crate) debug_clock: bool,
    /// The drift of the clock in parts per million; negative is slower; for tests.
    pub(crate) debug_clock_rate: i64,
}

impl Plan {
    /// A plan with the node's own defaults.
    pub(crate) fn new(id: u64, members: &BTreeMap<u64, String>, data_dir: &Path) -> Self {
        let members = members
            .iter()
            .map(|(id, address)| (*id, Member { peer_addr: address.clone() }))
            .collect();
        let config = NodeConfig::new(id, members, PathBuf::from(data_dir));
        let terms = Terms::default();
        Self {
            config,
            terms,
            hosts: Vec::new(),
            rates: Rates::default(),
            bootstrap: None,
            issuers: None,
            open_metrics: false,
            debug_clock: false,
            debug_clock_rate: 0,
        }
    }
}

/// A running node.
pub(crate) struct Running {
    node: Node,
    served: Arc<ServedNode>,
    stop_clients: watch::Sender<bool>,
    stop_peers: watch::Sender<bool>,
    clients: JoinHandle<std::io::Result<()>>,
    peers: JoinHandle<std::io::Result<()>>,
    advance: JoinHandle<()>,
    /// Looks at the files of TLS and of JWTs now and then.
    following: JoinHandle<()>,
    look: Arc<Notify>,
    /// Makes the first administrator.
    bootstrap: Option<AbortOnDrop>,
}

impl Running {
    /// Opens the node's folder and serves on both listeners.
    ///
    /// # Errors
    /// The folder is another node's, damaged or in use.
    pub(crate) async fn start(mut plan: Plan, listeners: Listeners) -> Result<Self, Failure> {
        let clock: Arc<dyn Clock> = if plan.debug_clock {
            let clock = OffsetClock::default();
            plan.config.debug_clock = Some(clock.clone());
            Arc::new(clock)
        } else if plan.debug_clock_rate != 0 {
            Arc::new(SkewedClock::new(plan.debug_clock_rate))
        } else {
            Arc::new(SystemClock)
        };
        // Files, peers and clients share the descriptors; the default limit is too low for a
        // server.
        http::raise_descriptor_limit();
        let id = plan.config.id;
        let node = Node::start(plan.config, clock).await.map_err(|error| {
            let code = if error.may_pass() { exit::UNAVAILABLE } else { exit::USAGE };
            Failure::new(code, format!("node {id} cannot start: {error}"))
        })?;
        let service = Arc::new(Forwarding::new(node.clone()));
        let served = Arc::new(ServedNode::new(Arc::clone(&service)));
        let tls: Vec<Arc<Tls>> =
            plan.terms.tls.iter().chain(node.peer_tls()).map(Arc::clone).collect();
        let look = Arc::<Notify>::default();
        let tls_files = tls.iter().map(|tls| Arc::clone(tls) as Arc<dyn Followed>);
        let jwt_files = plan.issuers.iter().map(|all| Arc::clone(all) as Arc<dyn Followed>);
        let followed = tls_files.chain(jwt_files).collect();
        let following = tokio::spawn(follow(followed, Arc::clone(&look)));
        let access_required = Arc::new(AtomicBool::new(plan.bootstrap.is_some()));
        let settings = ListenerSettings {
            terms: plan.terms,
            certificates: tls,
            issuers: plan.issuers,
            rates: plan.rates,
            budget: node.budget().clone(),
            hosts: plan.hosts,
            access_required: Arc::clone(&access_required),
            open_metrics: plan.open_metrics,
            credential_clock: CredentialClock::default(),
            debug_clock: plan.debug_clock,
        };
        let (stop_clients, stopping) = watch::channel(false);
        let clients = tokio::spawn(http::serve(
            listeners.clients,
            Arc::clone(&service),
            Arc::clone(&served) as _,
            settings,
            told(stopping),
        ));
        let (stop_peers, stopping) = watch::channel(false);
        let peers =
            tokio::spawn(http::peers::serve(listeners.peers, Arc::clone(&service), told(stopping)));
        let advance = tokio::spawn(advance::run(node.clone()));
        let bootstrap = plan.bootstrap.map(|secret| {
            let service = Arc::clone(&service);
            AbortOnDrop(tokio::spawn(first_administrator(service, secret, access_required)))
        });
        Ok(Self {
            node,
            served,
            stop_clients,
            stop_peers,
            clients,
            peers,
            advance,
            following,
            look,
            bootstrap,
        })
    }

    /// The node.
    pub(crate) fn node(&self) -> &Node {
        &self.node
    }

    /// Looks at the files of TLS and of JWTs now, in the background.
    pub(crate) fn look_at_files(&self) {
        self.look.notify_one();
    }

    /// Resolves when the node, or one of its listeners, has stopped by itself. May be cancelled.
    pub(crate) async fn broken(&mut self) -> Failure {
        let why = tokio::select! {
            why = self.node.stopped() => why,
            end = &mut self.clients => format!("the client listener stopped: {end:?}"),
            end = &mut self.peers => format!("the peer listener stopped: {end:?}"),
        };
        tracing::error!(reason = %why, "the node stopped itself");
        Failure::new(exit::BROKEN, format!("the node stopped itself: {why}"))
    }

    /// Stops within a time: `/readyz` fails, the client listener closes when the requests in flight
    /// are answered, the leadership is handed over, and the peer listener closes last.
    pub(crate) async fn stop(self, within: Duration) {
        self.served.drain();
        let stopping = async {
            // The receivers are gone only if the listeners are.
            let _ = self.stop_clients.send(true);
            report("client", self.clients).await;
            self.advance.abort();
            self.following.abort();
            drop(self.bootstrap);
            self.node.shutdown().await;
            let _ = self.stop_peers.send(true);
            report("peer", self.peers).await;
        };
        if tokio::time::timeout(within, stopping).await.is_err() {
            tracing::warn!(?within, "the stop took too long and was forced");
        }
    }
}

/// A task that ends with its owner.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The pause before it is tried again to make the first administrator.
const BOOTSTRAP_PAUSE: Duration = Duration::from_millis(200);

/// Makes the first administrator with this secret and switches access control on, unless that was
/// done before. Until it is known to be done, no client is answered.
async fn first_administrator(service: Arc<Forwarding>, secret: Secret, required: Arc<AtomicBool>) {
    let token = AccessToken {
        hash: secret.hash(),
        identity: BootstrapBody::DEFAULT_IDENTITY.into(),
        groups: Vec::new(),
        expires: None,
    };
    loop {
        service.node().wait_ready().await;
        let first = Change::Bootstrap { token: token.clone(), on: true };
        let command = Command::access(first, CallOptions::default());
        match service.decide_one(command, CallOptions::default()).await {
            Ok(_) => {
                tracing::info!(token = %token.id(), "the first administrator is made, and access control is on");
                break;
            }
            // Another node was first, or an administrator has taken over since.
            Err(Error::BadRequest { .. } | Error::Unauthorized { .. }) => break,
            Err(error) => tracing::debug!(%error, "the first administrator is not made yet"),
        }
        tokio::time::sleep(BOOTSTRAP_PAUSE).await;
    }
    // This node may be behind the decision that it has heard of.
    while service.node().access().is_none_or(|access| access.is_empty()) {
        tokio::time::sleep(BOOTSTRAP_PAUSE).await;
    }
    required.store(false, Ordering::Release);
    if service.node().access().is_some_and(|access| !access.is_on()) {
        tracing::warn!(
            "--bootstrap-token-file changed nothing: there are access tokens already, and access \
             control is off; `keyward access enable` switches it on"
        );
    }
}

/// Waits for a listener to close. One that has ended before was reported by [`Running::broken`],
/// and its handle must not be polled again.
async fn report(which: &str, listener: JoinHandle<std::io::Result<()>>) {
    if listener.is_finished() {
        return;
    }
    match listener.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the {which} listener failed"),
        Err(error) => tracing::warn!(%error, "the {which} listener's task failed"),
    }
}

/// Resolves when the stop is signalled, or when the sender is gone.
async fn told(mut stopping: watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stop| *stop).await;
}

/// The name of sled's own threads. They panic when sled's files fail; its data is only a copy, and
/// its next use returns an error.
const CHECKPOINT_THREADS: &str = "sled";

/// Ends the process when an invariant of the program is broken anywhere: a node that continued
/// after a panic could give a wrong answer.
pub(crate) fn end_on_panic() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().name().is_some_and(|name| name.starts_with(CHECKPOINT_THREADS)) {
            tracing::warn!(%panic, "the checkpoint's database failed");
            return;
        }
        tracing::error!(%panic, "an invariant is broken: the process ends");
        default(panic);
        log_writer::flush();
        std::process::exit(i32::from(exit::BROKEN));
    }));
}
