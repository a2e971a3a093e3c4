//! The conformance suite over HTTP: through endpoints, as anyone points it at a running service.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use keyward::Error;
use keyward::clock::OffsetClock;
use keyward::conformance::{EndpointBootstrap, Options, Script, run};
use keyward::http::{ListenerSettings, LocalNode, serve};
use keyward::memory::MemoryLocks;

/// A node whose clock clients move.
struct Adjustable(OffsetClock);

impl LocalNode for Adjustable {
    fn advance(&self, by: Duration) -> BoxFuture<'_, Result<(), Error>> {
        self.0.advance(by);
        Box::pin(std::future::ready(Ok(())))
    }
}

/// Serves locks in memory over HTTP; with `debug_clock`, like a node that was started for
/// tests.
async fn serve_memory(debug_clock: bool) -> (String, JoinHandle<()>) {
    let clock = OffsetClock::default();
    let locks = MemoryLocks::with_clock(Arc::new(clock.clone()));
    let node: Arc<dyn LocalNode> = Arc::new(Adjustable(clock));
    let settings = ListenerSettings { debug_clock, ..ListenerSettings::default() };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let served = tokio::spawn(async move {
        serve(listener, Arc::new(locks), node, settings, std::future::pending()).await.unwrap();
    });
    (endpoint, served)
}

#[tokio::test]
async fn every_script_passes_over_http() {
    let (endpoint, served) = serve_memory(true).await;
    let bootstrap = EndpointBootstrap::connect([endpoint]).await.unwrap();
    assert!(!bootstrap.waits());
    let options = bootstrap.options(Options::default());
    let report = run(bootstrap, options).await;
    assert!(report.passed(), "{report}");
    served.abort();
}

#[tokio::test]
async fn a_node_that_was_not_started_for_tests_is_waited_for() {
    let (endpoint, served) = serve_memory(false).await;
    let bootstrap = EndpointBootstrap::connect([endpoint]).await.unwrap();
    assert!(bootstrap.waits());
    let text = "lock a b duration=1s time_to_live=none\nadvance 1s\ncheck a\n---\n\
                ok token=t1 expires_in=1s removed_in=never\na holder=b token=t1 expired removed_in=never\n";
    let scripts = vec![Script { name: "test".into(), text: text.into() }];
    let options = bootstrap.options(Options { scripts, parallel: 1 });
    let report = run(bootstrap, options).await;
    assert!(report.passed(), "{report}");
    served.abort();
}

#[tokio::test]
async fn nobody_there_is_said_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = EndpointBootstrap::connect([endpoint]).await.err().unwrap();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
}
