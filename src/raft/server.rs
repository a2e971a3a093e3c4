//! The peer listener: what other members ask of this node.

use std::io;
use std::sync::Arc;

use tokio::net::TcpListener;

use crate::forward::Forwarding;

/// Answers peers until `shutdown` is ready.
///
/// # Errors
/// The listener is broken.
pub async fn serve(
    listener: TcpListener,
    service: Arc<Forwarding>,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let _ = (listener, service);
    shutdown.await;
    Ok(())
}
