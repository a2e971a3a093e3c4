//! The listener over a real loopback connection, with locks in memory behind it.

mod access;
mod api;
mod batch;
mod jwt;
mod limits;
mod malformed;
mod node;
mod problems;
mod rates;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{ListenerSettings, LocalNode, serve};
use crate::clock::ManualClock;
use crate::error::Error;
use crate::lock::{Command, Decision, Query, View};
use crate::memory::MemoryLocks;
use crate::service::LockService;
use crate::types::CallOptions;

/// A listener on a port of its own.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Server {
    /// A listener without a node.
    pub(super) async fn start<S: LockService>(service: S, settings: ListenerSettings) -> Self {
        Self::of(service, Arc::new(()), settings).await
    }

    /// A listener of a node, with locks in memory.
    pub(super) async fn of_node(node: impl LocalNode) -> Self {
        let settings = ListenerSettings { debug_clock: true, ..ListenerSettings::default() };
        Self::of(MemoryLocks::new(), Arc::new(node), settings).await
    }

    pub(super) async fn of<S: LockService>(
        service: S,
        node: Arc<dyn LocalNode>,
        settings: ListenerSettings,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let shutdown = async move {
            // A dropped server is stopped too.
            let _ = stopped.await;
        };
        let serving = tokio::spawn(serve(listener, Arc::new(service), node, settings, shutdown));
        Self { address, stop: Some(stop), serving }
    }

    /// Locks in memory on a clock of the test.
    pub(super) async fn memory() -> (Self, ManualClock) {
        let clock = ManualClock::default();
        let locks = MemoryLocks::with_clock(Arc::new(clock.clone()));
        (Self::start(locks, ListenerSettings::default()).await, clock)
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Stops the listener and waits until it has stopped.
    pub(super) async fn stop(mut self) {
        self.tell_to_stop();
        self.stopped().await;
    }

    pub(super) fn tell_to_stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    pub(super) async fn stopped(self) {
        let bound = Duration::from_secs(10);
        tokio::time::timeout(bound, self.serving).await.expect("in time").unwrap().unwrap();
    }

    /// Waits until the listener has ended. Returns whether it ended in a panic.
    pub(super) async fn panicked(self) -> bool {
        let bound = Duration::from_secs(10);
        let ended = tokio::time::timeout(bound, self.serving).await.expect("in time");
        ended.is_err_and(|error| error.is_panic())
    }

    pub(super) async fn ask(&self, request: Ask<'_>) -> Told {
        let client = crate::client::tls::plain().build().unwrap();
        let method = request.method.parse().unwrap();
        let mut builder = client.request(method, self.url(request.path));
        for (name, value) in request.headers {
            builder = builder.header(*name, *value);
        }
        if let Some(body) = request.body {
            builder = builder.body(body.to_vec());
        }
        let response = builder.send().await.unwrap();
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let body = response.bytes().await.unwrap().to_vec();
        Told { status, headers, body }
    }

    pub(super) async fn get(&self, path: &str) -> Told {
        self.ask(Ask { path, ..Ask::default() }).await
    }

    /// Sends a JSON body.
    pub(super) async fn send(&self, method: &str, path: &str, body: &str) -> Told {
        let headers = &[("content-type", "application/json")];
        self.ask(Ask { method, path, headers, body: Some(body.as_bytes()) }).await
    }
}

/// A raw request.
#[derive(Clone, Copy)]
pub(super) struct Ask<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) headers: &'a [(&'a str, &'a str)],
    pub(super) body: Option<&'a [u8]>,
}

impl Default for Ask<'_> {
    fn default() -> Self {
        Self { method: "GET", path: "/", headers: &[], body: None }
    }
}

/// A raw answer.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) status: u16,
    pub(super) headers: reqwest::header::HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Told {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(&self.body)))
    }

    /// Panics unless it is this problem, whose detail contains this text.
    pub(super) fn assert_problem(&self, status: u16, code: &str, detail: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["status"], status, "{problem}");
        assert_eq!(problem["type"], format!("urn:keyward:problem:{code}"));
        let told = problem["detail"].as_str().unwrap();
        assert!(told.contains(detail), "{told:?} does not say {detail:?}");
    }
}

/// A service that answers everything with one error, or not at all.
#[derive(Clone)]
pub(super) struct Failing(pub(super) Option<Error>);

impl Failing {
    async fn fail<T>(&self) -> Result<T, Error> {
        match &self.0 {
            Some(error) => Err(error.clone()),
            None => std::future::pending().await,
        }
    }
}

impl LockService for Failing {
    async fn decide(&self, commands: Vec<Command>, _: CallOptions) -> Vec<Result<Decision, Error>> {
        let failed = self.fail().await;
        vec![failed; commands.len()]
    }

    async fn read(&self, _: Query, _: CallOptions) -> Result<View, Error> {
        self.fail().await
    }
}
