//! The listener over a real loopback connection, with locks in memory behind it.

mod api;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{Extras, serve};
use crate::client::{Client, ClientBuilder};
use crate::clock::ManualClock;
use crate::memory::MemoryLocks;
use crate::service::LockService;

/// A listener on a port of its own.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Server {
    pub(super) async fn start<S: LockService>(service: S, extras: Extras) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let shutdown = async move {
            // A dropped server is stopped too.
            let _ = stopped.await;
        };
        let serving = tokio::spawn(serve(listener, Arc::new(service), extras, shutdown));
        Self { address, stop: Some(stop), serving }
    }

    /// Locks in memory on a clock of the test.
    pub(super) async fn memory() -> (Self, MemoryLocks, ManualClock) {
        let clock = ManualClock::default();
        let locks = MemoryLocks::with_clock(Arc::new(clock.clone()));
        (Self::start(locks.clone(), Extras::default()).await, locks, clock)
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(super) fn client(&self) -> ClientBuilder {
        Client::builder().endpoints([self.url("")]).timeout(Duration::from_secs(2))
    }

    pub(super) async fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        self.serving.await.unwrap().unwrap();
    }
}
