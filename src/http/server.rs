//! The accept loop of both listeners, and the limits of a connection.
//!
//! Everything that the other side controls has a bound: connections, the size and time of a
//! request's head, idleness, and answers that nobody reads. Handlers bound the bodies, since some
//! are streamed. The bounds of one listener do not affect the other's. They share the descriptors,
//! of which [`Limits::connections`] leaves enough for files and peers.
//!
//! Invariants: an error of one connection ends that connection and nothing else; a panic in a
//! handler is a broken invariant of the program and is passed to the task that awaits the listener.

use std::future::{Future, poll_fn};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tower_service::Service;

use super::handshake::Handshakes;
use super::slots::{Slot, Slots, Working};
use super::watched::Watched;
use super::write_timeout::WriteTimeout;
use super::written::Written;
use crate::api::{Code, PROBLEM_MEDIA_TYPE, Problem};
use crate::tls::{PeerCertificate, Tls};

/// The limits on what the other side of a listener may use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The longest time for a TLS handshake.
    pub handshake_timeout: Duration,
    /// Open connections; never more than half of the descriptors that the process may have.
    pub connections: usize,
    /// Open connections of one address; never more than all. Left out, three quarters of them.
    pub address_connections: Option<usize>,
    /// The longest time for a request's head, and for idleness between requests.
    pub head_timeout: Duration,
    /// The most bytes of a request's head.
    pub head_bytes: usize,
    /// The most header fields of a request.
    pub header_fields: usize,
    /// The most bytes of a body. Handlers that stream their bodies have limits of their own.
    pub body_bytes: usize,
    /// The longest time for a body that is read whole.
    pub body_timeout: Duration,
    /// The write timeout: the longest time that an answer makes no progress because nobody reads
    /// it.
    pub write_timeout: Duration,
    /// The longest time for requests in flight when the listener shuts down.
    pub shutdown_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Two round trips and a signature. A connection in its handshake may be evicted, too.
            handshake_timeout: Duration::from_secs(10),
            connections: 4096,
            address_connections: None,
            // Longer than balancers and proxies keep an idle connection by default (60 seconds): if
            // the node closed it first, a request already sent would get no answer.
            head_timeout: Duration::from_secs(75),
            head_bytes: 16 * 1024,
            header_fields: 64,
            body_bytes: crate::api::MAX_BODY_BYTES,
            body_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(30),
            shutdown_grace: Duration::from_secs(5),
        }
    }
}

/// A service that answers the requests of a listener.
pub(crate) trait Answerer: Clone + Send + Sync + 'static {
    /// Answers a request whose connection has this slot.
    fn answer(
        &self,
        request: hyper::Request<Incoming>,
        slot: &Arc<Slot>,
    ) -> impl Future<Output = Response> + Send;
}

impl Answerer for Router {
    async fn answer(&self, request: hyper::Request<Incoming>, _: &Arc<Slot>) -> Response {
        match self.clone().call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

/// The name of the header, which the HTTP library does not define.
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// The pause after the system refused to accept: long enough not to spin, short enough not to be
/// noticed once descriptors are free again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The time after which a refused connection is tried again: a slot is free as soon as a request was
/// answered.
const REFUSED_FOR: Duration = Duration::from_secs(1);

/// The terms on which a listener accepts connections.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// The limits on what the other side may use.
    pub limits: Limits,
    /// The TLS of all connections; without it they have none.
    pub tls: Option<Arc<Tls>>,
}

impl From<Limits> for Terms {
    fn from(limits: Limits) -> Self {
        Self { limits, tls: None }
    }
}

/// Serves the router on this listener until `shutdown` resolves, then finishes the requests in
/// flight within [`Limits::shutdown_grace`].
///
/// # Errors
/// If the listener's address cannot be read, which means that it is no listener.
///
/// # Panics
/// If a handler panicked.
pub async fn serve_connections(
    listener: TcpListener,
    router: Router,
    terms: Terms,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    serve_slots(listener, router, terms, Arc::default(), shutdown).await
}

/// As [`serve_connections`], with slots that the caller shares.
pub(crate) async fn serve_slots(
    listener: TcpListener,
    answerer: impl Answerer,
    Terms { limits, tls }: Terms,
    slots: Arc<Slots>,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    let address = listener.local_addr()?;
    let most = limits.connections.min(descriptors() / 2).max(1);
    // A quarter is left for everybody else.
    let most_of_one = limits.address_connections.unwrap_or(most - most / 4);
    let limits = Arc::new(limits);
    let handshakes = tls.map(|tls| Arc::new(Handshakes::new(tls, limits.handshake_timeout)));
    let (stop, stopping) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(ended) = connections.join_next() => pass_panic_on(ended),
            (stream, from) = accept(&listener, &slots) => {
                let Some(mut evicted) = slots.make_room_for(from, most_of_one) else {
                    slots.figures().limited.fetch_add(1, Ordering::Relaxed);
                    let why = "too many connections of this address; nothing was done";
                    let problem = Problem::too_many_requests(why, REFUSED_FOR);
                    refuse(stream, handshakes.is_some(), &problem);
                    continue;
                };
                if connections.len() >= most && !evicted {
                    if !slots.evict_one() {
                        slots.figures().refused.fetch_add(1, Ordering::Relaxed);
                        let problem = Problem::new(Code::Unavailable, "too many connections");
                        refuse(stream, handshakes.is_some(), &problem);
                        continue;
                    }
                    evicted = true;
                }
                // Its descriptor is free once it has ended, which it does at once: without this wait
                // a flood is accepted faster than evicted connections end, and takes the descriptors
                // that files and peers need.
                if evicted && let Some(ended) = connections.join_next().await {
                    pass_panic_on(ended);
                }
                // Answers are small and awaited. The call fails only on a dead connection.
                let _ = stream.set_nodelay(true);
                let slot = slots.take(Some(from));
                let serving = Serving {
                    answerer: answerer.clone(),
                    limits: Arc::clone(&limits),
                    slot,
                    stopping: stopping.clone(),
                };
                match &handshakes {
                    None => drop(connections.spawn(connection(stream, serving, None))),
                    Some(handshakes) => {
                        let handshakes = Arc::clone(handshakes);
                        connections.spawn(secured(stream, from, handshakes, serving));
                    }
                }
            }
        }
    }
    // From here on the system refuses new connections; open ones finish.
    drop(listener);
    stop.send_replace(true);
    let finished = async {
        while let Some(ended) = connections.join_next().await {
            pass_panic_on(ended);
        }
    };
    if tokio::time::timeout(limits.shutdown_grace, finished).await.is_err() {
        tracing::info!(%address, left = connections.len(), "connections cut at shutdown");
    }
    connections.shutdown().await;
    Ok(())
}

/// Raises the soft limit of this process's descriptors to the hard limit, and returns it.
pub fn raise_descriptor_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
    descriptors()
}

/// The descriptors that this process may have.
pub(super) fn descriptors() -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}

/// Accepts the next connection. When the system has no descriptor left, a waiting one is evicted.
async fn accept(listener: &TcpListener, slots: &Slots) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                let evicted = slots.evict_one();
                tracing::warn!(%error, evicted, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Resumes the panic of a connection's task, which is a bug of this program.
fn pass_panic_on(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}

/// Refuses a connection for lack of a slot, without waiting: the answer fits into the buffer of a
/// new connection, and one that cannot take it is closed without an answer. So is one with TLS, for
/// which an answer would take a handshake.
fn refuse(stream: TcpStream, has_tls: bool, problem: &Problem) {
    if has_tls {
        return;
    }
    let status = if problem.code == Code::TooManyRequests {
        "429 Too Many Requests"
    } else {
        "503 Service Unavailable"
    };
    let body = serde_json::to_string(problem).expect("our documents have string keys only");
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {PROBLEM_MEDIA_TYPE}\r\n\
         content-length: {}\r\nretry-after: {}\r\nconnection: close\r\n\r\n",
        body.len(),
        REFUSED_FOR.as_secs(),
    );
    // The client may be gone already, and nothing depends on the answer.
    let _ = stream.into_std().and_then(|mut stream| stream.write_all((head + &body).as_bytes()));
}

/// The parts of a listener that one connection uses.
pub(super) struct Serving<A> {
    pub(super) answerer: A,
    pub(super) limits: Arc<Limits>,
    pub(super) slot: Arc<Slot>,
    pub(super) stopping: watch::Receiver<bool>,
}

/// Serves one connection with TLS until it ends. In its handshake it may be evicted, as one that is
/// idle, and a listener that shuts down does not wait for it.
async fn secured(
    stream: TcpStream,
    from: SocketAddr,
    handshakes: Arc<Handshakes>,
    mut serving: Serving<impl Answerer>,
) {
    let accepted = tokio::select! {
        biased;
        () = serving.slot.evicted() => return,
        accepted = handshakes.accept(stream, from) => accepted,
        // A sender that is gone has stopped too.
        _ = serving.stopping.wait_for(|stopping| *stopping) => return,
    };
    if let Some((stream, certificate)) = accepted {
        connection(stream, serving, certificate).await;
    }
}

/// Serves one connection until it ends. Each of its requests has the certificate that the other side
/// has shown among its extensions.
pub(super) async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    serving: Serving<impl Answerer>,
    certificate: Option<Arc<PeerCertificate>>,
) {
    let Serving { answerer, limits, slot, mut stopping } = serving;
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // A client that has closed its sending side still reads its answer.
        .half_close(true)
        .header_read_timeout(limits.head_timeout)
        .max_header_size(limits.head_bytes)
        .max_headers(limits.header_fields);
    let keep_alive = keep_alive(&limits);
    let requests = service_fn(|mut request: hyper::Request<Incoming>| {
        if let Some(certificate) = &certificate {
            request.extensions_mut().insert(Arc::clone(certificate));
        }
        handle(&answerer, &slot, keep_alive.as_ref(), request)
    });
    let (stream, watch) = Watched::new(stream);
    let io = TokioIo::new(WriteTimeout::new(stream, limits.write_timeout));
    let mut served = pin!(builder.serve_connection(io, requests));
    let stopped = async {
        // A sender that is gone has stopped too.
        drop(stopping.wait_for(|stopping| *stopping).await);
    };
    let gone =
        poll_fn(|context| if slot.is_watched() { watch.poll_end(context) } else { Poll::Pending });
    // The watch comes after the request, which may have asked for it in the same turn.
    let result = tokio::select! {
        biased;
        () = slot.evicted() => return,
        result = served.as_mut() => result,
        () = gone => return,
        () = stopped => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// The header with the idle timeout of a connection, so that clients and proxies close theirs
/// first.
fn keep_alive(limits: &Limits) -> Option<HeaderValue> {
    let seconds = limits.head_timeout.as_secs();
    let text = || HeaderValue::try_from(format!("timeout={seconds}")).expect("digits");
    (seconds > 0).then(text)
}

/// Passes a request to the answerer. Its connection is not evicted until the answer is written; a
/// handler that first waits for a body may allow it through the [`Slot`].
async fn handle(
    answerer: &impl Answerer,
    slot: &Arc<Slot>,
    keep_alive: Option<&HeaderValue>,
    request: hyper::Request<Incoming>,
) -> Result<hyper::Response<Written<Body, Working>>, std::convert::Infallible> {
    let working = slot.work();
    let mut response = answerer.answer(request, slot).await;
    if let Some(value) = keep_alive {
        response.headers_mut().insert(KEEP_ALIVE, value.clone());
    }
    Ok(response.map(|body| Written::new(body, working)))
}
