//! How requests travel between machines: over HTTP, or through the network of a simulation.
//!
//! What is asked, and what an answer means, is decided by those who send; here is only the way.

use std::error::Error;

use reqwest::{Request, Response};

/// What a way says went wrong.
pub(crate) type Cause = Box<dyn Error + Send + Sync>;

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// No byte of the request has left.
    #[error("no connection")]
    Connect(#[source] Cause),
    /// Something of the request may have arrived.
    #[error("the connection failed")]
    Broken(#[source] Cause),
}

/// A way to other machines. Clones share its connections.
#[derive(Clone)]
pub(crate) enum Carriage {
    /// Connections of a pool.
    Http(reqwest::Client),
    /// The network of a simulation.
    #[cfg(feature = "simulation")]
    Simulated(std::sync::Arc<crate::sim::network::Uplink>),
}

impl Carriage {
    /// Sends the request and waits for the head of its response. Dropping the future may, but
    /// need not, keep the request from being answered.
    pub(crate) async fn send(&self, request: Request) -> Result<Response, SendError> {
        match self {
            Self::Http(client) => client.execute(request).await.map_err(|error| {
                let way = if error.is_connect() { SendError::Connect } else { SendError::Broken };
                way(error.into())
            }),
            #[cfg(feature = "simulation")]
            Self::Simulated(uplink) => uplink.send(request).await,
        }
    }
}

/// The error's causes. The outermost error says little ("error sending request") and names the URL,
/// which whoever reports it does already.
pub(crate) fn describe(error: &(dyn Error + 'static)) -> String {
    let mut texts = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        // Some layers only repeat the next one's words.
        if texts.last() != Some(&text) {
            texts.push(text);
        }
        cause = error.source();
    }
    if texts.is_empty() { error.to_string() } else { texts.join(": ") }
}
