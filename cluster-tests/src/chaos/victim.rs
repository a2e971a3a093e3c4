//! The nodes in which faults are installed.

use std::future::Future;
use std::time::Duration;

use rustix::process::Signal;

use crate::cluster::{Cluster, NodeId};

/// The time from a node's start to an open port, at most.
pub const START: Duration = Duration::from_secs(30);

/// The timeout of a graceful stop.
pub(super) const STOP: Duration = Duration::from_secs(15);

/// Nodes that run as processes of this program.
pub trait Victim: Send {
    /// The numbers of the nodes, from 1.
    fn ids(&self) -> Vec<NodeId>;

    /// Whether a node was started and not ended since; it may have ended by itself.
    fn runs(&mut self, id: NodeId) -> bool;

    /// Signals a running node.
    fn signal(&mut self, id: NodeId, signal: Signal);

    /// Waits until a node that was signalled to end has done so, and kills it after a timeout;
    /// returns whether it ended by itself.
    fn wait_end(&mut self, id: NodeId) -> impl Future<Output = bool> + Send;

    /// Starts a node that does not run, and waits until it accepts connections.
    ///
    /// # Errors
    /// If it ends instead, or does not accept connections in time, with its log.
    fn start(&mut self, id: NodeId) -> impl Future<Output = Result<(), String>> + Send;

    /// The leader, as far as it can be seen at once; `None` if there is none.
    fn leader(&mut self) -> impl Future<Output = Option<NodeId>> + Send;

    /// The nodes that ended by themselves since the last call, and how.
    fn ended(&mut self) -> Vec<(NodeId, String)>;

    /// The cluster with its links and folders, for the faults that need them.
    fn cluster(&mut self) -> Option<&mut Cluster>;
}

impl Victim for Cluster {
    fn ids(&self) -> Vec<NodeId> {
        Cluster::ids(self)
    }

    fn runs(&mut self, id: NodeId) -> bool {
        Cluster::runs(self, id)
    }

    fn signal(&mut self, id: NodeId, signal: Signal) {
        Cluster::signal(self, id, signal);
    }

    async fn wait_end(&mut self, id: NodeId) -> bool {
        self.end_node(id, STOP).await
    }

    async fn start(&mut self, id: NodeId) -> Result<(), String> {
        self.spawn(id);
        self.try_listening(id, START).await
    }

    async fn leader(&mut self) -> Option<NodeId> {
        self.believed_leader().await
    }

    fn ended(&mut self) -> Vec<(NodeId, String)> {
        let mut found = Vec::new();
        for id in Cluster::ids(self) {
            if let Some((status, log)) = self.take_ended(id) {
                found.push((id, format!("{status}: {log}")));
            }
        }
        found
    }

    fn cluster(&mut self) -> Option<&mut Cluster> {
        Some(self)
    }
}
