//! The accept loop of both listeners, and what a connection may use.

use std::future::Future;
use std::io;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;

/// What the other side of a listener may use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Open connections.
    pub connections: usize,
    /// How long a request's head may take, and a connection may be idle between requests.
    pub head_timeout: Duration,
    /// The bytes of a request's head.
    pub head_bytes: usize,
    /// The header fields of a request.
    pub header_fields: usize,
    /// The bytes of a body. Handlers that stream their bodies keep to limits of their own.
    pub body_bytes: usize,
    /// How long a body that is read whole may take.
    pub body_timeout: Duration,
    /// How long an answer may make no progress because nobody reads it.
    pub write_timeout: Duration,
    /// How long requests in flight may take when the listener shuts down.
    pub shutdown_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            head_timeout: Duration::from_secs(30),
            head_bytes: 16 * 1024,
            header_fields: 64,
            body_bytes: crate::api::MAX_BODY_BYTES,
            body_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(30),
            shutdown_grace: Duration::from_secs(5),
        }
    }
}

/// Serves the router on this listener until `shutdown` is ready.
///
/// # Errors
/// If the listener cannot be used.
pub async fn serve_connections(
    listener: TcpListener,
    router: Router,
    _limits: Limits,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    let server = axum::serve(listener, router);
    tokio::select! {
        result = server => result,
        () = shutdown => Ok(()),
    }
}
