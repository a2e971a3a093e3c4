//! The bootstrap for a running cluster: its client, and its clock if it can be advanced.

use std::sync::Arc;
use std::time::Duration;

use keyward_client::Client;
use keyward_client::api::{AdvanceBody, routes};
use keyward_client::tls::{self, Tls};
use keyward_core::error::Error;
use keyward_core::service::{DebugLockService as _, LockService as _, ServiceOptions};
use keyward_core::types::ReadOptions;

use super::{Bootstrap, LiveService, Options, Time};

/// The timeout of the request that detects whether a node's clock can be advanced.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// The time that a new cluster has to raise its feature level, which takes it a second or two.
const RAISED_WITHIN: Duration = Duration::from_secs(5);

/// The time between two questions whether it is raised.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// The number of scripts that wait for their locks to expire at the same time: all of them, and
/// some to spare.
const WAITING_SCRIPTS: usize = 48;

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
    /// Detects whether the clock of the nodes can be advanced, and gives a cluster that has just
    /// started the time to raise its feature level.
    ///
    /// # Errors
    /// `BadRequest` if an endpoint is not of the form `http://host:port`; `Unavailable` if no node
    /// answers.
    pub async fn connect<T: Into<String>>(
        endpoints: impl IntoIterator<Item = T>,
    ) -> Result<Self, Error> {
        Self::connect_with(endpoints, Tls::default(), None).await
    }

    /// As [`EndpointBootstrap::connect`], with these certificates, and with an access token: that of an
    /// administrator, because the scripts do everything.
    ///
    /// # Errors
    /// As [`EndpointBootstrap::connect`]; `BadRequest` if a certificate or the token cannot be used.
    pub async fn connect_with<T: Into<String>>(
        endpoints: impl IntoIterator<Item = T>,
        tls: Tls,
        access_token: Option<String>,
    ) -> Result<Self, Error> {
        let mut builder = Client::builder().endpoints(endpoints).tls(tls.clone());
        if let Some(token) = &access_token {
            builder = builder.access_token(token);
        }
        let client = builder.build()?;
        let time = if moves_clock(&client.endpoints(), &tls, access_token.as_deref()).await? {
            let client = client.clone();
            Time::moving(move |by| {
                let client = client.clone();
                async move { client.advance_clock(by).await }
            })
        } else {
            Time::Wait
        };
        wait_for_level(&client).await;
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

/// Waits until the members of a cluster know of each other that they have sessions, for at most
/// [`RAISED_WITHIN`]. The scripts say what a cluster of a lower level refuses.
async fn wait_for_level(client: &Client) {
    let raised = async {
        while let Err(Error::Unavailable { .. }) = client.deadlocks(ReadOptions::default()).await {
            tokio::time::sleep(ASK_AGAIN).await;
        }
    };
    // Not in time is no error here.
    let _ = tokio::time::timeout(RAISED_WITHIN, raised).await;
}

/// Requests to advance the clock by nothing, which changes nothing, and which only a node that was
/// started for tests supports.
async fn moves_clock(
    endpoints: &[String],
    tls: &Tls,
    access_token: Option<&str>,
) -> Result<bool, Error> {
    let http = tls::http(tls.config()?)
        .timeout(PROBE_TIMEOUT)
        .build()
        .map_err(|error| Error::unavailable(error.to_string()))?;
    let mut reasons = Vec::new();
    for endpoint in endpoints {
        let url = format!("{}{}", endpoint.trim_end_matches('/'), routes::DEBUG_ADVANCE);
        let mut request = http.post(url).json(&AdvanceBody { by_ms: 0 });
        if let Some(token) = access_token {
            request = request.bearer_auth(token);
        }
        match request.send().await {
            Ok(answer) if answer.status() == reqwest::StatusCode::NOT_FOUND => return Ok(false),
            Ok(answer) if answer.status().is_success() => return Ok(true),
            Ok(answer) => reasons.push(format!("{endpoint}: status {}", answer.status())),
            Err(error) => reasons.push(format!("{endpoint}: {error}")),
        }
    }
    Err(Error::unavailable(format!("no node answers ({})", reasons.join("; "))))
}
