//! Three nodes without anything in between: their own ports, no links.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use cluster_tests::binary;
use cluster_tests::process::{Output, Process, Usage};
use cluster_tests::wait::eventually;
use keyward::client::{Client, tls};
use keyward::types::CallOptions;
use tempfile::TempDir;

const NODES: u64 = 3;

/// The timeout for the nodes to be ready.
const BOOT: Duration = Duration::from_secs(60);

/// The nodes.
pub(crate) struct Direct {
    folder: TempDir,
    /// The ports for clients and for peers.
    ports: BTreeMap<u64, (u16, u16)>,
    processes: BTreeMap<u64, Process>,
    arguments: Vec<String>,
    http: reqwest::Client,
    starts: u32,
}

impl Direct {
    /// Starts them with further arguments of `keyward serve`, and waits until all are ready.
    pub(crate) async fn start(arguments: Vec<String>) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the nodes");
        // Held until all are known, so that no port is handed out twice.
        let listeners: Vec<TcpListener> = (0..2 * NODES)
            .map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port on the loopback"))
            .collect();
        let port = |at: u64| {
            let listener = &listeners[usize::try_from(at).expect("a small number")];
            listener.local_addr().expect("a listener has an address").port()
        };
        let ports = (1..=NODES).map(|id| (id, (port(2 * id - 2), port(2 * id - 1)))).collect();
        let http = tls::plain().build().expect("a client without TLS needs nothing");
        let processes = BTreeMap::new();
        let mut nodes = Self { folder, ports, processes, arguments, http, starts: 0 };
        drop(listeners);
        for id in nodes.ids() {
            nodes.spawn(id);
        }
        for id in nodes.ids() {
            nodes.wait_ready(id).await;
        }
        nodes
    }

    pub(crate) fn ids(&self) -> Vec<u64> {
        self.ports.keys().copied().collect()
    }

    pub(crate) fn endpoint(&self, id: u64) -> String {
        format!("http://127.0.0.1:{}", self.ports[&id].0)
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.ids().into_iter().map(|id| self.endpoint(id)).collect()
    }

    pub(crate) fn spawn(&mut self, id: u64) {
        let members: Vec<String> =
            self.ports.iter().map(|(id, (_, peers))| format!("{id}=127.0.0.1:{peers}")).collect();
        let (clients, peers) = self.ports[&id];
        let mut command = Command::new(binary::keyward());
        command
            .env_clear()
            .arg("serve")
            .args(["--id", &id.to_string()])
            .arg("--data-dir")
            .arg(self.folder.path().join(format!("node{id}")))
            .args(["--client-listen", &format!("127.0.0.1:{clients}")])
            .args(["--peer-listen", &format!("127.0.0.1:{peers}")])
            .args(["--members", &members.join(",")])
            .args(["--advertise-client", &self.endpoint(id)])
            .args(&self.arguments);
        self.starts += 1;
        let output = Output::in_folder(self.folder.path(), &format!("node{id}-{}", self.starts));
        self.processes.insert(id, Process::spawn(&mut command, output));
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self, id: u64) {
        self.processes.remove(&id).expect("the node runs").kill();
    }

    pub(crate) async fn wait_ready(&self, id: u64) {
        let url = format!("{}/readyz", self.endpoint(id));
        eventually("a node is ready", BOOT, || {
            let asked = self.http.get(&url).send();
            async move {
                let response = asked.await.map_err(|error| error.to_string())?;
                if response.status().is_success() { Ok(()) } else { Err("not ready".to_owned()) }
            }
        })
        .await;
    }

    /// The leader according to a majority, and its term.
    pub(crate) async fn leader(&self, client: &Client) -> (u64, u64) {
        eventually("there is a leader", BOOT, || async {
            let mut seen = BTreeMap::new();
            for id in self.processes.keys() {
                let call =
                    CallOptions { timeout: Some(Duration::from_secs(1)), ..CallOptions::default() };
                if let Ok(status) = client.cluster_at(&self.endpoint(*id), call).await
                    && let Some(leader) = status.leader
                {
                    *seen.entry((leader, status.term)).or_insert(0) += 1;
                }
            }
            let majority = seen.into_iter().find(|(_, count)| *count > NODES / 2);
            majority.map(|(leader, _)| leader).ok_or("no leader that a majority knows")
        })
        .await
    }

    /// The resource usage of each node.
    pub(crate) fn usages(&self) -> Vec<Usage> {
        let usage = |process: &Process| process.usage().expect("the node runs");
        self.processes.values().map(usage).collect()
    }
}
