//! The carrier of requests between machines: HTTP, or the network of a simulation.
//!
//! It only transports: the senders decide what to request and what an answer means.

use std::error::Error;

use reqwest::{Request, Response};

/// The underlying error of a carrier.
pub(crate) type Cause = Box<dyn Error + Send + Sync>;

/// The reason why there is no response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// No byte of the request was sent.
    #[error("no connection")]
    Connect(#[source] Cause),
    /// A part of the request may have arrived.
    #[error("the connection failed")]
    Broken(#[source] Cause),
}

/// A carrier to other machines. Clones share its connections.
#[derive(Clone)]
pub(crate) enum Carriage {
    /// A pool of connections.
    Http(reqwest::Client),
    /// The network of a simulation.
    #[cfg(feature = "simulation")]
    Simulated(std::sync::Arc<crate::sim::network::Uplink>),
}

impl Carriage {
    /// Sends the request and waits for the head of its response. Dropping the future may, but need
    /// not, keep the request from being processed.
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

/// Formats an error by its causes. The outermost error says little ("error sending request") and
/// names the URL, which the caller does already. A cause whose text is part of the previous one is
/// left out.
pub(crate) fn describe(error: &(dyn Error + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !texts.last().is_some_and(|last| last.contains(&text)) {
            texts.push(text);
        }
        cause = error.source();
    }
    if texts.is_empty() { error.to_string() } else { texts.join(": ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Said(&'static str, #[source] Option<Box<Said>>);

    fn said(texts: &[&'static str]) -> Option<Box<Said>> {
        let [first, rest @ ..] = texts else { return None };
        Some(Box::new(Said(first, said(rest))))
    }

    #[test]
    fn an_error_is_described_by_its_causes_each_once() {
        let described = |texts: &[&'static str]| describe(&*said(texts).expect("a text"));
        assert_eq!(described(&["the request"]), "the request");
        assert_eq!(described(&["the request", "connect", "refused"]), "connect: refused");
        assert_eq!(described(&["the request", "dns: no name", "no name"]), "dns: no name");
    }
}
