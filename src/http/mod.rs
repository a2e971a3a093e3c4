//! The client listener: `/v1`, health, metrics and the API's description over HTTP/1.1.
//!
//! Handlers are generic over [`LockService`] and know no leader: any node takes any request. The
//! resources that a client may use (connections, headers, bodies, time) are bounded in [`server`],
//! which the peers' listener uses too. A bad request never ends the process; a panic, which means a
//! broken invariant, always does.
//!
//! One request, step by step: [`server`] reads its head, [`rates`] refuses whoever asks too
//! often, [`dispatch`] finds its handler in the table of all routes, [`identity`] finds out who asks, [`request`] parses what it contains, [`handlers`] pass the command or the query to
//! the service, and [`observe`] adds the trace id, the access log and the metrics.
//!
//! A request is answered by its deadline, which is set once: [`request`] waits no longer for its body,
//! and [`handlers`] no longer for the service. The service gets a timeout that is a little shorter, so
//! that it can say whether anything was done, and is not trusted to keep it.

mod access;
mod answer;
mod backup;
mod batch;
mod dispatch;
mod flood;
mod handlers;
mod handshake;
mod head;
mod identity;
mod local;
mod metrics;
mod observe;
mod openapi;
pub mod peers;
mod rates;
mod request;
pub mod server;
mod slots;
mod watched;
mod welcome;
mod write_timeout;
mod written;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use axum::http::{HeaderMap, HeaderValue};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

pub use local::{LocalNode, ServedNode};
pub use openapi::document as openapi_document;
pub use rates::{Rate, Rates};
pub use server::{Limits, Terms, raise_descriptor_limit, serve_connections};

use crate::api::headers;
use crate::budget::Budget;
use crate::clock::CredentialClock;
use crate::error::Error;
use crate::jwt::Issuers;
use crate::service::LockService;
use crate::tls::Tls;
use metrics::Metrics;
use rates::Limiter;
use slots::Slots;

/// The settings of the client listener.
#[derive(Clone, Debug, Default)]
pub struct ListenerSettings {
    /// The limits on what clients may use, and their TLS.
    pub terms: Terms,
    /// The certificates whose ends are among the metrics.
    pub certificates: Vec<Arc<Tls>>,
    /// The issuers whose JWTs are taken, if there are any.
    pub issuers: Option<Arc<Issuers>>,
    /// How often an address and an identity may ask.
    pub rates: Rates,
    /// The bytes that large bodies and answers may take together.
    pub budget: Budget,
    /// The names by which browsers may call this listener, besides `localhost` and IP addresses.
    pub hosts: Vec<String>,
    /// Whether nothing is answered before access control is on: it is about to be switched on.
    pub access_required: Arc<AtomicBool>,
    /// Whether the figures of this node are shown to whoever asks, while access control is on.
    pub open_metrics: bool,
    /// The wall clock by which credentials expire.
    pub credential_clock: CredentialClock,
    /// Whether clients may move the clock of the cluster, for tests. Otherwise the path for it does
    /// not exist.
    pub debug_clock: bool,
}

/// Serves the API on this listener until `shutdown` resolves, then finishes the requests in flight
/// within [`Limits::shutdown_grace`].
///
/// # Errors
/// If the listener cannot be used.
///
/// # Panics
/// If a handler panicked: that is a broken invariant of the program, never a bad request.
pub async fn serve<S: LockService>(
    listener: TcpListener,
    service: Arc<S>,
    node: Arc<dyn LocalNode>,
    settings: ListenerSettings,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    let terms = settings.terms.clone();
    let slots = Arc::<Slots>::default();
    let context = Context::new(service, node, settings, Arc::clone(&slots));
    let upkeep = metrics::upkeep(&context);
    let served = server::serve_slots(listener, Arc::clone(&context), terms, slots, shutdown);
    tokio::pin!(upkeep);
    tokio::select! {
        result = served => result,
        never = &mut upkeep => match never {},
    }
}

/// A router that answers as [`serve`] does, without a listener and its checks of heads.
pub fn clients_router<S: LockService>(service: Arc<S>, node: Arc<dyn LocalNode>) -> axum::Router {
    let context = Context::new(service, node, ListenerSettings::default(), Arc::default());
    axum::Router::new().fallback(move |request: axum::extract::Request| {
        let context = Arc::clone(&context);
        async move { dispatch::answer(&context, request, None, Ok(())).await }
    })
}

/// Serves one connection over any stream as [`serve`] does.
pub async fn serve_one<S: LockService>(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    service: Arc<S>,
) {
    let slots = Arc::<Slots>::default();
    let settings = ListenerSettings::default();
    let limits = Arc::new(settings.terms.limits.clone());
    let answerer = Context::new(service, Arc::new(()), settings, Arc::clone(&slots));
    let (_stop, stopping) = tokio::sync::watch::channel(false);
    let serving = server::Serving { answerer, limits, slot: slots.take(None), stopping };
    server::connection(stream, serving, None).await;
}

/// The state that all handlers share.
pub(crate) struct Context<S> {
    pub(crate) service: Arc<S>,
    pub(crate) node: Arc<dyn LocalNode>,
    pub(crate) settings: ListenerSettings,
    pub(crate) metrics: Metrics,
    /// How often everybody has asked lately.
    limiter: Limiter,
    /// Permits to look for an unknown access token at the leader.
    lookups: Semaphore,
    /// The cluster's id, once it is known.
    cluster: OnceLock<HeaderValue>,
}

impl<S: LockService> Context<S> {
    fn new(
        service: Arc<S>,
        node: Arc<dyn LocalNode>,
        settings: ListenerSettings,
        slots: Arc<Slots>,
    ) -> Arc<Self> {
        let metrics = Metrics::new(
            dispatch::all_routes::<S, hyper::body::Incoming>().count(),
            slots,
            settings.budget.clone(),
        );
        let lookups = Semaphore::new(identity::LOOKUPS);
        let limiter = Limiter::new(&settings.rates);
        let cluster = OnceLock::new();
        Arc::new(Self { service, node, settings, metrics, limiter, lookups, cluster })
    }
}

impl<S> Context<S> {
    /// The cluster's id, once it is known.
    pub(crate) fn cluster(&self) -> Option<&HeaderValue> {
        if self.cluster.get().is_none() {
            let id = self.node.cluster()?;
            // Another request may have set it first, to the same id.
            let _ = self.cluster.set(HeaderValue::try_from(id).ok()?);
        }
        self.cluster.get()
    }

    /// Refuses a request that is meant for another cluster.
    pub(crate) fn judge_cluster(&self, fields: &HeaderMap) -> Result<(), Error> {
        let (Some(here), Some(meant)) = (self.cluster(), fields.get(headers::CLUSTER)) else {
            return Ok(());
        };
        if here == meant {
            return Ok(());
        }
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        Err(Error::bad_request(format!(
            "this node belongs to cluster {}, and the request is for cluster {}: the endpoints are \
             of different clusters, or the cluster was replaced by a new one",
            text(here),
            text(meant)
        )))
    }
}
