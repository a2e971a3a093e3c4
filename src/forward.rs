//! Routing: this node if it leads, else one hop to the leader.

use std::sync::Mutex;
use std::time::Duration;

use crate::error::Error;
use crate::node::Node;
use crate::service::{DebugLockService, LockService, ServiceOptions};
use crate::types::{
    CheckResponse, ListRequest, ListResponse, LockOptions, LockRequest, LockResponse, ReadOptions,
    TableDefaults, TableInfo, TableOptions, UnlockOptions, UnlockRequest, UnlockResponse,
};

/// Answers on any node: itself if it leads, else the leader in one hop.
pub struct Forwarding {
    node: Node,
    options: Mutex<ServiceOptions>,
}

impl Forwarding {
    /// With the service's own table and no defaults.
    pub fn new(node: Node) -> Self {
        Self::with_options(node, ServiceOptions::default())
    }

    /// With a table and defaults for requests that leave them out.
    pub fn with_options(node: Node, options: ServiceOptions) -> Self {
        Self { node, options: Mutex::new(options) }
    }

    /// The node behind it.
    pub fn node(&self) -> &Node {
        &self.node
    }
}

impl LockService for Forwarding {
    async fn lock(
        &self,
        request: LockRequest,
        options: LockOptions,
    ) -> Result<LockResponse, Error> {
        self.node.lock(request, options).await
    }

    async fn unlock(
        &self,
        request: UnlockRequest,
        options: UnlockOptions,
    ) -> Result<UnlockResponse, Error> {
        self.node.unlock(request, options).await
    }

    async fn check(&self, signature: String, options: ReadOptions) -> Result<CheckResponse, Error> {
        self.node.check(signature, options).await
    }

    async fn list(
        &self,
        request: ListRequest,
        options: ReadOptions,
    ) -> Result<ListResponse, Error> {
        self.node.list(request, options).await
    }

    async fn tables(&self, options: ReadOptions) -> Result<Vec<TableInfo>, Error> {
        self.node.tables(options).await
    }

    async fn configure_table(
        &self,
        defaults: TableDefaults,
        options: TableOptions,
    ) -> Result<(), Error> {
        self.node.configure_table(defaults, options).await
    }

    async fn delete_table(&self, options: TableOptions) -> Result<(), Error> {
        self.node.delete_table(options).await
    }
}

impl DebugLockService for Forwarding {
    async fn set_default_duration(&self, duration: Duration) -> Result<(), Error> {
        self.options.lock().expect("no holder panics").default_duration = Some(duration);
        Ok(())
    }

    async fn advance_clock(&self, by: Duration) -> Result<(), Error> {
        self.node.debug_advance(by).await
    }
}
