//! The node behind the client listener, as far as the HTTP API shows it.

use std::future::ready;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;

use crate::access::Access;
use crate::api::{ClusterStatus, NodeFigures};
use crate::audit::AuditFigures;
use crate::clock::Deadline;
use crate::error::Error;
use crate::forward::Forwarding;
use crate::node::BackupStream;
use crate::service::DebugLockService as _;

/// A node as its own client listener shows it, besides the locks.
pub trait LocalNode: Send + Sync + 'static {
    /// The cluster's id, once it is known; then it never changes. Every answer names it, and
    /// requests that are meant for another cluster are refused.
    fn cluster(&self) -> Option<String> {
        None
    }

    /// The node's view of itself and its cluster, for `GET /v1/cluster`; without one the path does
    /// not exist.
    fn status(&self) -> Option<ClusterStatus> {
        None
    }

    /// Whether requests can be served now, or why not, for `/readyz`.
    ///
    /// # Errors
    /// The reason.
    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    /// The rules and tokens as this node knows them, without waiting; `None` if there is no access
    /// control, or not yet in the whole cluster.
    fn access(&self) -> Option<Arc<Access>> {
        None
    }

    /// The node's figures, each time `/metrics` is read.
    fn figures(&self) -> Option<NodeFigures> {
        None
    }

    /// The counters of the audit, if one is written.
    fn audit(&self) -> Option<AuditFigures> {
        None
    }

    /// Hears of a request whose maker could not be found out.
    fn unauthorized(&self, _why: &str, _address: Option<SocketAddr>) {}

    /// Begins a backup of the node's state, with the entry of this index at least.
    fn backup(
        &self,
        _at_least: Option<u64>,
        _deadline: Deadline,
    ) -> BoxFuture<'_, Result<BackupStream, Error>> {
        Box::pin(ready(Err(Error::unavailable("there is no node to back up"))))
    }

    /// Moves the clock of the cluster forward, for tests.
    fn advance(&self, _by: Duration) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(ready(Err(Error::unavailable("this clock is not moved by clients"))))
    }
}

/// Locks that belong to no node.
impl LocalNode for () {}

/// A node that is served, as every command wires it.
pub struct ServedNode {
    service: Arc<Forwarding>,
    draining: AtomicBool,
}

impl ServedNode {
    /// A node that is ready as soon as the service is.
    pub fn new(service: Arc<Forwarding>) -> Self {
        Self { service, draining: AtomicBool::new(false) }
    }

    /// Reports the node as not ready from now on, because it stops.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }
}

impl LocalNode for ServedNode {
    fn cluster(&self) -> Option<String> {
        self.service.node().cluster()
    }

    fn status(&self) -> Option<ClusterStatus> {
        Some(self.service.node().status())
    }

    fn ready(&self) -> Result<(), String> {
        if self.draining.load(Ordering::Acquire) {
            return Err("the node is stopping".to_owned());
        }
        self.service.node().not_ready().map_or(Ok(()), Err)
    }

    fn access(&self) -> Option<Arc<Access>> {
        self.service.node().access()
    }

    fn figures(&self) -> Option<NodeFigures> {
        Some(self.service.figures())
    }

    fn audit(&self) -> Option<AuditFigures> {
        self.service.node().audit_figures()
    }

    fn unauthorized(&self, why: &str, address: Option<SocketAddr>) {
        self.service.node().unauthorized(why, address);
    }

    fn backup(
        &self,
        at_least: Option<u64>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<BackupStream, Error>> {
        Box::pin(self.service.node().backup(at_least, deadline))
    }

    fn advance(&self, by: Duration) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(self.service.advance_clock(by))
    }
}
