//! Other products as subjects: examples of an adapter, and the proof that the harness finds their
//! known weaknesses.

use std::fmt;
use std::str::FromStr;

use rustix::process::Signal;

use super::victim::{START, Victim};
use crate::cluster::{Cluster, NodeId};
use crate::peers::server::{Kind, Role, Servers};

/// A product that can be started here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peer {
    /// etcd: a transaction that creates a key with a lease, refused if it is there.
    Etcd,
    /// One Redis: `SET NX PX`.
    Redis,
    /// Three independent ones: Redlock.
    Redlock,
}

impl Peer {
    pub(super) fn kind(self) -> Kind {
        match self {
            Self::Etcd => Kind::Etcd,
            Self::Redis | Self::Redlock => Kind::Redis,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Etcd => "etcd",
            Self::Redis => "redis",
            Self::Redlock => "redlock",
        })
    }
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "etcd" => Ok(Self::Etcd),
            "redis" => Ok(Self::Redis),
            "redlock" => Ok(Self::Redlock),
            other => Err(format!("there is no adapter for `{other}`")),
        }
    }
}

fn index(id: NodeId) -> usize {
    usize::try_from(id).expect("one of a few") - 1
}

impl Victim for Servers {
    fn ids(&self) -> Vec<NodeId> {
        (1..=u64::try_from(self.addresses().len()).unwrap_or(0)).collect()
    }

    fn runs(&mut self, id: NodeId) -> bool {
        self.process(index(id)).is_some()
    }

    fn signal(&mut self, id: NodeId, signal: Signal) {
        if let Some(process) = self.process(index(id)) {
            process.signal(signal);
        }
    }

    async fn wait_end(&mut self, id: NodeId) -> bool {
        let ended = match self.process(index(id)) {
            Some(process) => process.end(super::victim::STOP).await,
            None => true,
        };
        self.forget(index(id));
        ended
    }

    async fn start(&mut self, id: NodeId) -> Result<(), String> {
        self.start_again(index(id), START).await
    }

    async fn leader(&mut self) -> Option<NodeId> {
        for id in self.ids() {
            if self.runs(id) && matches!(self.role(index(id)).await, Ok(Role::Leads | Role::Alone))
            {
                return Some(id);
            }
        }
        None
    }

    fn ended(&mut self) -> Vec<(NodeId, String)> {
        let mut found = Vec::new();
        for id in self.ids() {
            let status = self.process(index(id)).and_then(crate::process::Process::ended);
            if let Some(status) = status {
                self.forget(index(id));
                found.push((id, status.to_string()));
            }
        }
        found
    }

    fn cluster(&mut self) -> Option<&mut Cluster> {
        None
    }
}
