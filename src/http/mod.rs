//! The client listener: `/v1`, health, metrics and the API's description over HTTP/1.1.
//!
//! Handlers are generic over [`LockService`] and know no leader: any node takes any request. The
//! resources that a client may use (connections, headers, bodies, time) are bounded in [`server`],
//! which the peers' listener uses too. A bad request never ends the process; a panic, which means a
//! broken invariant, always does.
//!
//! Where to look next: [`handlers`] for the paths, [`request`] for the parsing of requests,
//! [`observe`] for the trace id, the access log and the metrics.

mod answer;
mod batch;
mod flood;
mod front;
mod handlers;
mod head;
mod metrics;
mod observe;
mod openapi;
pub mod peers;
mod places;
mod request;
pub mod server;
mod stall;
mod welcome;
mod written;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue};
use tokio::net::TcpListener;

pub use openapi::document as openapi_document;
pub use server::{Limits, raise_descriptor_limit, serve_connections};

use crate::api::{ClusterStatus, NodeFigures, headers};
use crate::budget::Budget;
use crate::error::Error;
use crate::service::LockService;
use front::Front;
use metrics::Metrics;
use places::Places;

/// Returns the node's view of itself and its cluster.
pub type StatusFn = Arc<dyn Fn() -> ClusterStatus + Send + Sync>;
/// Returns the node's figures, each time `/metrics` is read.
pub type FiguresFn = Arc<dyn Fn() -> NodeFigures + Send + Sync>;
/// Returns whether requests can be served now, or why not.
pub type ReadyFn = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;
/// Returns the cluster's id, once it is known; then it never changes.
pub type ClusterFn = Arc<dyn Fn() -> Option<String> + Send + Sync>;
/// Moves the clock of the cluster forward, for tests.
pub type AdvanceFn =
    Arc<dyn Fn(Duration) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send>> + Send + Sync>;

/// The optional parts of the client listener, besides the service.
#[derive(Clone, Default)]
pub struct Extras {
    /// Answers `GET /v1/cluster`; without it the path does not exist.
    pub status: Option<StatusFn>,
    /// Names the cluster in every answer, and refuses requests that are meant for another one.
    pub cluster: Option<ClusterFn>,
    /// Adds the node's figures to `/metrics`.
    pub figures: Option<FiguresFn>,
    /// Answers `/readyz`; without it the listener is always ready.
    pub ready: Option<ReadyFn>,
    /// Answers `POST /debug/advance`; without it the path does not exist.
    pub advance: Option<AdvanceFn>,
    /// The limits on what clients may use.
    pub limits: Limits,
    /// The bytes that large bodies and answers may take together.
    pub budget: Budget,
    /// The names by which browsers may call this listener, besides `localhost` and IP addresses.
    pub hosts: Arc<[String]>,
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
    extras: Extras,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    let limits = extras.limits.clone();
    let places = Arc::<Places>::default();
    let metrics = Metrics::new(Arc::clone(&places), extras.budget.clone());
    let context = Arc::new(Context::new(service, metrics, extras));
    let upkeep = metrics::upkeep(&context);
    let front = Front::new(Arc::clone(&context));
    let served = server::serve_places(listener, front, limits, places, shutdown);
    tokio::pin!(upkeep);
    tokio::select! {
        result = served => result,
        never = &mut upkeep => match never {},
    }
}

/// The router of [`serve`], without a listener.
#[cfg(any(test, feature = "simulation", feature = "fuzzing"))]
pub(crate) fn clients_router<S: LockService>(service: Arc<S>, extras: Extras) -> axum::Router {
    let metrics = Metrics::new(Arc::default(), extras.budget.clone());
    handlers::router(Arc::new(Context::new(service, metrics, extras)))
}

/// Serves one connection over any stream as [`serve`] does: for fuzzing.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) async fn serve_one<S: LockService>(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    service: Arc<S>,
    extras: Extras,
) {
    let limits = Arc::new(extras.limits.clone());
    let places = Arc::<Places>::default();
    let metrics = Metrics::new(Arc::clone(&places), extras.budget.clone());
    let front = Front::new(Arc::new(Context::new(service, metrics, extras)));
    let (_stop, stopping) = tokio::sync::watch::channel(false);
    server::connection(stream, front, limits, places.take(), stopping).await;
}

/// The state that all handlers share.
pub(crate) struct Context<S> {
    pub(crate) service: Arc<S>,
    pub(crate) metrics: Metrics,
    pub(crate) extras: Extras,
    /// The cluster's id, once it is known.
    cluster: OnceLock<HeaderValue>,
}

impl<S> Context<S> {
    fn new(service: Arc<S>, metrics: Metrics, extras: Extras) -> Self {
        Self { service, metrics, extras, cluster: OnceLock::new() }
    }

    /// The cluster's id, once it is known.
    pub(crate) fn cluster(&self) -> Option<&HeaderValue> {
        if self.cluster.get().is_none() {
            let id = self.extras.cluster.as_ref()?()?;
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
