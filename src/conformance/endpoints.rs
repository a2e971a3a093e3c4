//! The bootstrap for a running cluster: its client, and its clock if it can be advanced.

use std::sync::Arc;
use std::time::Duration;

use crate::api::{AdvanceBody, routes};
use crate::client::Client;
use crate::error::Error;
use crate::resolve::Resolver;
use crate::service::{DebugLockService as _, ServiceOptions};

use super::{Bootstrap, LiveService, Options, Time};

/// The timeout of the request that detects whether a node's clock can be advanced.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// The number of scripts that wait for their locks to expire at the same time: all of them, and
/// some to spare.
const WAITING_SCRIPTS: usize = 32;

/// Opens handles to a cluster through the nodes at these addresses.
///
/// Time passes by `POST /debug/advance` if the first node that answers was started for tests
/// (`keyward serve --debug-clock`), otherwise by waiting.
#[derive(Clone)]
pub struct EndpointBootstrap {
    client: Client,
    time: Time,
}

impl EndpointBootstrap {
    /// Detects whether the clock of the nodes can be advanced.
    ///
    /// # Errors
    /// `BadRequest` if an endpoint is not of the form `http://host:port`; `Unavailable` if no node
    /// answers.
    pub async fn connect<T: Into<String>>(
        endpoints: impl IntoIterator<Item = T>,
    ) -> Result<Self, Error> {
        let client = Client::builder().endpoints(endpoints).build()?;
        let time = if moves_clock(&client.endpoints()).await? {
            let client = client.clone();
            Time::moving(move |by| {
                let client = client.clone();
                async move { client.advance_clock(by).await }
            })
        } else {
            Time::Wait
        };
        Ok(Self { client, time })
    }

    /// Whether time passes by waiting.
    pub fn waits(&self) -> bool {
        matches!(self.time, Time::Wait)
    }

    /// The options with which these scripts finish soonest: in parallel if each has to wait by
    /// itself.
    #[must_use]
    pub fn options(&self, options: Options) -> Options {
        if self.waits() { options.in_parallel(WAITING_SCRIPTS) } else { options }
    }
}

impl Bootstrap for EndpointBootstrap {
    type Service = LiveService<Client>;

    async fn open(&self, options: ServiceOptions) -> Result<Self::Service, Error> {
        Ok(LiveService::new(Arc::new(self.client.clone()), options, self.time.clone()))
    }

    async fn close(&self, service: Self::Service) -> Result<(), Error> {
        drop(service);
        Ok(())
    }
}

/// Requests to advance the clock by nothing, which changes nothing, and which only a node that was
/// started for tests supports.
async fn moves_clock(endpoints: &[String]) -> Result<bool, Error> {
    let http = reqwest::Client::builder()
        .no_proxy()
        .dns_resolver(Resolver::default())
        .timeout(PROBE_TIMEOUT)
        .build()
        .map_err(|error| Error::unavailable(error.to_string()))?;
    let mut reasons = Vec::new();
    for endpoint in endpoints {
        let url = format!("{}{}", endpoint.trim_end_matches('/'), routes::DEBUG_ADVANCE);
        match http.post(url).json(&AdvanceBody { by_ms: 0 }).send().await {
            Ok(answer) if answer.status() == reqwest::StatusCode::NOT_FOUND => return Ok(false),
            Ok(answer) if answer.status().is_success() => return Ok(true),
            Ok(answer) => reasons.push(format!("{endpoint}: status {}", answer.status())),
            Err(error) => reasons.push(format!("{endpoint}: {error}")),
        }
    }
    Err(Error::unavailable(format!("no node answers ({})", reasons.join("; "))))
}

#[cfg(test)]
#[cfg(feature = "server")]
mod tests {
    use futures::future::BoxFuture;
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::clock::OffsetClock;
    use crate::conformance::{Script, run};
    use crate::http::{ListenerSettings, LocalNode, serve};
    use crate::memory::MemoryLocks;

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
}
