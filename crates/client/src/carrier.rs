//! The carrier of requests between machines: HTTP, or another that is handed in.
//!
//! It only transports: the senders decide what to request and what an answer means.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::sync::Arc;

use futures::future::BoxFuture;
use reqwest::{Request, Response};

use crate::tls;

/// The underlying error of a carrier.
pub type Cause = Box<dyn Error + Send + Sync>;

/// The reason why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No byte of the request was sent.
    #[error("no connection")]
    Connect(#[source] Cause),
    /// A part of the request may have arrived.
    #[error("the connection failed")]
    Broken(#[source] Cause),
}

/// A network to other machines, in place of HTTP over connections of this one.
pub trait Carry: Send + Sync + 'static {
    /// Sends the request and waits for the head of its response. Dropping the future may, but need
    /// not, keep the request from being processed.
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, SendError>>;
}

/// A carrier to other machines. Clones share its connections.
#[derive(Clone)]
pub enum Carrier {
    /// A pool of connections.
    Http(reqwest::Client),
    /// A network that whoever made the carrier has handed in.
    Given(Arc<dyn Carry>),
}

impl Carrier {
    /// Sends the request and waits for the head of its response. Dropping the future may, but need
    /// not, keep the request from being processed.
    ///
    /// # Errors
    /// If there is no response, with what is known of the request.
    pub async fn send(&self, request: Request) -> Result<Response, SendError> {
        match self {
            // Boxed, as few requests need its room.
            Self::Http(client) if request.url().scheme() == "https" => {
                Box::pin(send_with_tls(client, request)).await
            }
            Self::Http(client) => client.execute(request).await.map_err(failure),
            Self::Given(carrier) => carrier.send(request).await,
        }
    }
}

/// The attempts at a request whose connection ended before any of it was sent. A side that refuses a
/// certificate ends a connection that was established already, and the HTTP client gives the
/// reason only if it reads that before it takes up the request; the next attempt most likely does.
const ATTEMPTS: usize = 3;

async fn send_with_tls(client: &reqwest::Client, request: Request) -> Result<Response, SendError> {
    for _ in 1..ATTEMPTS {
        let Some(copy) = request.try_clone() else { break };
        match client.execute(copy).await {
            Err(error) if is_canceled(&error) => {}
            result => return result.map_err(failure),
        }
    }
    client.execute(request).await.map_err(failure)
}

fn failure(error: reqwest::Error) -> SendError {
    // A node that refuses a certificate ends the handshake, of which the client has done its part
    // already: the request was sent and not processed.
    let refused = tls_error(&error).is_some_and(tls::is_refusal);
    let unsent = error.is_connect() || refused || is_canceled(&error);
    let way = if unsent { SendError::Connect } else { SendError::Broken };
    way(error.into())
}

/// Whether the connection ended before the HTTP client took up the request.
fn is_canceled(error: &(dyn Error + 'static)) -> bool {
    let mut chain = std::iter::successors(Some(error), |&error| error.source());
    chain.any(|error| error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled))
}

/// The names that the layers of the HTTP client print; their causes say more.
const LAYERS: [&str; 6] = [
    "client error (",
    "tcp connect error",
    "dns error",
    "error resolving DNS",
    "connection error",
    "error sending request",
];

/// Formats why a request failed, in the words that a person needs: "connection refused", not the
/// names of the layers that it came through. The URL is left out, which the caller knows already.
pub fn describe(error: &(dyn Error + 'static)) -> String {
    let chain = || std::iter::successors(Some(error), |&error| error.source());
    let timed_out = |error: &(dyn Error + 'static)| {
        error.downcast_ref::<reqwest::Error>().is_some_and(reqwest::Error::is_timeout)
    };
    if chain().any(timed_out) {
        return "timed out".to_owned();
    }
    if let Some(error) = tls_error(error) {
        return tls::words(error);
    }
    if let Some(words) = chain().filter_map(|error| error.downcast_ref()).find_map(in_words) {
        return words.to_owned();
    }
    // Some causes say what their own cause says.
    let mut texts: Vec<String> = Vec::new();
    for text in chain().skip(1).map(ToString::to_string) {
        if !texts.last().is_some_and(|last| last.contains(&text)) {
            texts.push(text);
        }
    }
    let is_layer = |text: &str| LAYERS.iter().any(|layer| text.starts_with(layer));
    if let Some(last) = texts.pop() {
        texts.retain(|text| !is_layer(text));
        texts.push(last);
        return without_number(&texts.join(": ")).to_owned();
    }
    without_number(&error.to_string()).to_owned()
}

/// Whether a connection was not established because one side did not accept the other's
/// certificate, or speaks no TLS.
pub fn is_of_a_certificate(error: &(dyn Error + 'static)) -> bool {
    tls_error(error).is_some()
}

/// The failure of TLS among the causes of an error.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let chain = std::iter::successors(Some(error), |&error| error.source());
    // The source of such an I/O error is its content's source, not its content.
    chain.filter_map(|error| error.downcast_ref::<io::Error>()).find_map(|error| {
        let inner: &'a (dyn Error + Send + Sync + 'static) = error.get_ref()?;
        inner.downcast_ref::<rustls::Error>().or_else(|| {
            inner.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref::<rustls::Error>()
        })
    })
}

/// The errors of the system that a person meets.
const WORDS: [(ErrorKind, &str); 8] = [
    (ErrorKind::ConnectionRefused, "connection refused"),
    (ErrorKind::ConnectionReset, "connection reset"),
    (ErrorKind::ConnectionAborted, "connection aborted"),
    (ErrorKind::BrokenPipe, "connection closed"),
    (ErrorKind::UnexpectedEof, "connection closed"),
    (ErrorKind::HostUnreachable, "no route to host"),
    (ErrorKind::NetworkUnreachable, "network unreachable"),
    (ErrorKind::TimedOut, "timed out"),
];

fn in_words(error: &io::Error) -> Option<&'static str> {
    WORDS.iter().find(|(kind, _)| *kind == error.kind()).map(|(_, words)| *words)
}

/// The text of an error of the system without its number.
fn without_number(text: &str) -> &str {
    match text.rsplit_once(" (os error ") {
        Some((words, number)) if number.ends_with(')') => words,
        Some(_) | None => text,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

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
        let layers = ["the request", "client error (Connect)", "dns error", "name not found"];
        assert_eq!(described(&layers), "name not found");
        assert_eq!(described(&["the request", "dns error"]), "dns error");
        assert_eq!(described(&["r", "Is a directory (os error 21)"]), "Is a directory");
    }

    #[tokio::test]
    async fn real_failures_are_told_in_a_few_words() {
        let bind = || std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address =
            |listener: &std::net::TcpListener| listener.local_addr().expect("it is bound");
        let closed = address(&bind());
        // Nobody accepts, and nobody answers.
        let listener = bind();
        let silent = address(&listener);
        for (host, words) in [
            (closed.to_string(), "connection refused"),
            (silent.to_string(), "timed out"),
            ("nosuch.invalid:7420".to_owned(), "name"),
        ] {
            let client = tls::plain().timeout(std::time::Duration::from_millis(300));
            let sent = client.build().expect("a client").get(format!("http://{host}/")).send();
            let error = sent.await.expect_err("nobody answers");
            let text = describe(&error);
            let told = text == words || (words == "name" && is_of_name(&text));
            assert!(told, "{host}: {text}");
        }
    }

    #[tokio::test]
    async fn a_request_that_no_connection_took_up_is_unsent() {
        #[derive(Debug, thiserror::Error)]
        #[error("the HTTP client's")]
        struct Wrapped(#[source] hyper::Error);

        let (ours, theirs) = tokio::io::duplex(64);
        let io = hyper_util::rt::TokioIo::new(ours);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(io).await.expect("a connection");
        drop((connection, theirs));
        let request = hyper::Request::new(String::new());
        let error = sender.send_request(request).await.expect_err("the connection has ended");
        assert!(is_canceled(&Wrapped(error)));

        // An answer that is none was the answer to something sent.
        let (ours, mut theirs) = tokio::io::duplex(64);
        let io = hyper_util::rt::TokioIo::new(ours);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(io).await.expect("a connection");
        let connection = tokio::spawn(connection);
        let request = hyper::Request::new(String::new());
        let answer = sender.send_request(request);
        let end = async {
            theirs.read_u8().await.expect("the request");
            drop(theirs);
        };
        let (answer, ()) = tokio::join!(answer, end);
        assert!(!is_canceled(&Wrapped(answer.expect_err("no answer"))));
        drop(connection.await);
    }

    /// Without a name server, nobody knows whether the name exists.
    fn is_of_name(text: &str) -> bool {
        ["name not found", "timed out"].contains(&text) || text.starts_with("name lookup failed: ")
    }
}
