//! Keyward through plain HTTP/1.1: one connection for each client, kept alive, and no more work on
//! this side than a request needs, so that the server is what is measured.
//!
//! It does the same as a program without the client library: it talks to one node, sends no
//! `request_id`, and retries nothing. The next request replaces a broken connection.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::keyward::failure;
use super::target::{Failure, Owner, Target, WAIT};
use keyward_client::CONNECT_TIMEOUT;
use keyward_client::api::{
    CheckAnswer, CheckQuery, LockAnswer, LockBody, Problem, UnlockAnswer, UnlockBody,
    UnlockStatusWord, routes, to_ms,
};
use keyward_client::tls::Tls;
use keyward_core::error::Error;

/// Nodes that are reached over plain HTTP/1.1, with TLS if their endpoints say so.
#[derive(Clone)]
pub struct Http {
    addresses: Vec<Address>,
    connector: TlsConnector,
    table: String,
    timeout: Duration,
}

impl Http {
    /// The nodes at these endpoints (`http://HOST:PORT` or `https://HOST:PORT`); clients are spread over them by their
    /// number. A request without an answer after `timeout` is unknown.
    ///
    /// # Errors
    /// `BadRequest` if there is none, or one is no such endpoint.
    pub fn new(
        endpoints: &[String],
        table: impl Into<String>,
        timeout: Duration,
    ) -> Result<Self, Error> {
        let addresses = endpoints.iter().map(|endpoint| address_of(endpoint));
        let addresses = addresses.collect::<Result<Vec<_>, _>>()?;
        if addresses.is_empty() {
            return Err(Error::bad_request("there is no endpoint to ask"));
        }
        let http = Self {
            addresses,
            table: table.into(),
            timeout,
            connector: connector(&Tls::default())?,
        };
        Ok(http)
    }

    /// The same with these certificates.
    ///
    /// # Errors
    /// `BadRequest` if one cannot be used.
    pub fn tls(mut self, tls: &Tls) -> Result<Self, Error> {
        self.connector = connector(tls)?;
        Ok(self)
    }
}

fn connector(tls: &Tls) -> Result<TlsConnector, Error> {
    Ok(TlsConnector::from(Arc::new(tls.config()?)))
}

/// The address of a node.
#[derive(Clone, Debug)]
struct Address {
    /// `HOST:PORT`.
    authority: String,
    /// The name of the node in its certificate, if it speaks TLS.
    name: Option<ServerName<'static>>,
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.authority)
    }
}

fn address_of(endpoint: &str) -> Result<Address, Error> {
    let wrong =
        || Error::bad_request(format!("`{endpoint}` is no http://host:port or https://host:port"));
    let uri: hyper::Uri = endpoint.parse().map_err(|_| wrong())?;
    let (Some(scheme), Some(host), "/") = (uri.scheme_str(), uri.host(), uri.path()) else {
        return Err(wrong());
    };
    let (port, name) = match scheme {
        "http" => (80, None),
        "https" => {
            let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            (443, Some(ServerName::try_from(bare).map_err(|_| wrong())?))
        }
        _ => return Err(wrong()),
    };
    Ok(Address { authority: format!("{host}:{}", uri.port_u16().unwrap_or(port)), name })
}

impl Target for Http {
    type Owner = HttpOwner;

    async fn owner(&self, client: usize) -> Result<HttpOwner, Failure> {
        let address = self.addresses[client % self.addresses.len()].clone();
        let mut owner = HttpOwner {
            signee: format!("client-{client}-{:08x}", rand::random::<u32>()),
            table: self.table.clone(),
            timeout: self.timeout,
            address,
            connector: self.connector.clone(),
            connection: None,
        };
        owner.connect().await?;
        Ok(owner)
    }
}

/// A client with its own connection.
pub struct HttpOwner {
    signee: String,
    table: String,
    timeout: Duration,
    address: Address,
    connector: TlsConnector,
    connection: Option<SendRequest<Full<Bytes>>>,
}

impl HttpOwner {
    async fn connect(&mut self) -> Result<SendRequest<Full<Bytes>>, Failure> {
        let not_done =
            |why: &dyn std::fmt::Display| Failure::Unavailable(format!("{}: {why}", self.address));
        let stream =
            tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(&self.address.authority));
        let stream = stream.await.map_err(|_| not_done(&"no connection in time"))?;
        let stream = stream.map_err(|error| not_done(&error))?;
        stream.set_nodelay(true).map_err(|error| not_done(&error))?;
        // The connection ends when its sender is dropped; if it fails before, the sender reports
        // it.
        let Some(name) = &self.address.name else {
            let (sender, connection) =
                handshake(TokioIo::new(stream)).await.map_err(|error| not_done(&error))?;
            tokio::spawn(connection);
            return Ok(sender);
        };
        let secured = self.connector.connect(name.clone(), stream);
        let secured = tokio::time::timeout(CONNECT_TIMEOUT, secured).await;
        let secured = secured.map_err(|_| not_done(&"no TLS handshake in time"))?;
        let secured = secured.map_err(|error| not_done(&error))?;
        let (sender, connection) =
            handshake(TokioIo::new(secured)).await.map_err(|error| not_done(&error))?;
        tokio::spawn(connection);
        Ok(sender)
    }

    /// Sends a request and reads the whole answer, whatever its status.
    async fn ask(
        &mut self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let mut sender = match self.connection.take() {
            Some(sender) if !sender.is_closed() => sender,
            _ => self.connect().await?,
        };
        let mut request =
            Request::builder().method(method).uri(path).header(HOST, &self.address.authority);
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = Full::new(Bytes::from(body.unwrap_or_default()));
        let request =
            request.body(body).map_err(|error| Failure::Unavailable(error.to_string()))?;
        let exchange = async {
            let answer = sender.send_request(request).await?;
            let status = answer.status();
            Ok::<_, hyper::Error>((status, answer.into_body().collect().await?.to_bytes()))
        };
        let answer = tokio::time::timeout(self.timeout, exchange).await;
        let answer = answer
            .map_err(|_| Failure::Unknown(format!("no answer within {:?}", self.timeout)))?
            .map_err(|error| Failure::Unknown(error.to_string()))?;
        self.connection = Some(sender);
        Ok(answer)
    }

    async fn write(&mut self, path: &str, body: &impl Serialize) -> Result<Bytes, Failure> {
        let body = serde_json::to_vec(body).expect("our bodies have string keys only");
        match self.ask(Method::POST, path, Some(body)).await? {
            (StatusCode::OK, body) => Ok(body),
            (status, body) => Err(refusal(status, &body)),
        }
    }

    fn lock_body(&self, signature: &str, duration: Duration, token: Option<u64>) -> LockBody {
        LockBody {
            signature: signature.to_owned(),
            signee: self.signee.clone(),
            duration_ms: Some(to_ms(duration)),
            token,
            table: Some(self.table.clone()),
            ..LockBody::default()
        }
    }
}

impl Owner for HttpOwner {
    type Held = u64;

    async fn acquire(&mut self, signature: &str, duration: Duration) -> Result<u64, Failure> {
        let body = self.lock_body(signature, duration, None);
        let answer: LockAnswer = parse(&self.write(routes::LOCK, &body).await?)?;
        Ok(answer.token)
    }

    async fn acquire_in_turn(
        &mut self,
        signature: &str,
        duration: Duration,
    ) -> Result<u64, Failure> {
        let body = self.lock_body(signature, duration, None);
        let body = LockBody { wait_ms: Some(to_ms(WAIT)), ..body };
        let answer: LockAnswer = parse(&self.write(routes::LOCK, &body).await?)?;
        Ok(answer.token)
    }

    async fn renew(
        &mut self,
        signature: &str,
        held: &mut u64,
        duration: Duration,
    ) -> Result<(), Failure> {
        let body = self.lock_body(signature, duration, Some(*held));
        parse::<LockAnswer>(&self.write(routes::LOCK, &body).await?).map(|_| ())
    }

    async fn release(&mut self, signature: &str, held: u64) -> Result<(), Failure> {
        let body = UnlockBody {
            signature: signature.to_owned(),
            signee: self.signee.clone(),
            token: Some(held),
            table: Some(self.table.clone()),
            ..UnlockBody::default()
        };
        let answer: UnlockAnswer = parse(&self.write(routes::UNLOCK, &body).await?)?;
        match answer.status {
            UnlockStatusWord::Ok => Ok(()),
            UnlockStatusWord::NoLock => Err(Failure::Refused),
        }
    }

    async fn check(&mut self, signature: &str) -> Result<bool, Failure> {
        let query = CheckQuery {
            places_after: None,
            signature: signature.to_owned(),
            table: Some(self.table.clone()),
            stale: false,
        };
        let query = serde_urlencoded::to_string(&query).expect("our queries are flat");
        let path = format!("{}?{query}", routes::LOCK);
        match self.ask(Method::GET, &path, None).await.map_err(as_read)? {
            (StatusCode::OK, body) => {
                let answer: CheckAnswer = parse(&body).map_err(as_read)?;
                Ok(answer.holders.iter().any(|holder| !holder.expired))
            }
            (StatusCode::NOT_FOUND, _) => Ok(false),
            (status, body) => Err(as_read(refusal(status, &body))),
        }
    }

    fn token(held: &u64) -> Option<u64> {
        Some(*held)
    }
}

fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body)
        .map_err(|error| Failure::Unknown(format!("not an answer of a Keyward node: {error}")))
}

/// The failure that an unsuccessful answer reports; only our own problem documents are trusted.
fn refusal(status: StatusCode, body: &[u8]) -> Failure {
    match serde_json::from_slice::<Problem>(body).ok().filter(Problem::is_ours) {
        Some(problem) => failure(problem.into_error(None)),
        None => Failure::Unknown(format!("status {status}, and not from a Keyward node")),
    }
}

/// The same failure for a request that changes nothing.
fn as_read(failure: Failure) -> Failure {
    match failure {
        Failure::Unknown(why) => Failure::Unavailable(why),
        other @ (Failure::Refused | Failure::Unavailable(_)) => other,
    }
}
