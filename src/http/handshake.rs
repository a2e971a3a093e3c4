//! TLS handshakes of a listener: each has a time, and one that fails ends its connection alone.
//!
//! A refused certificate is logged with its reason, on both ports, as an operator has to mend it.
//! Everything else, such as bytes that are no TLS, is the other side's business: it is counted, and
//! logged only when somebody looks closely.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::api::{Code, PROBLEM_MEDIA_TYPE, Problem};
use crate::client::tls::words;
use crate::clock::{Clock, SystemClock};
use crate::flood::{Flood, WINDOW};
use crate::tls::{PeerCertificate, Tls};

/// The first byte of a TLS connection: the type of its first record, a handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// The most bytes of a request that are read before it is refused for lack of TLS, and the longest
/// time for that.
const UNREAD: u64 = 64 * 1024;
const DRAINING: Duration = Duration::from_secs(1);

/// The most reasons whose lines are counted apart: further ones, which the other side may have made
/// up, are counted together.
const REASONS: usize = 64;

/// The most characters of a reason that are logged: some have bytes of the other side's certificate.
const REASON_CHARACTERS: usize = 200;

/// The handshakes of one listener.
pub(super) struct Handshakes {
    tls: Arc<Tls>,
    timeout: Duration,
    /// What limits the lines of each reason, so that many of one do not hide another.
    floods: Mutex<BTreeMap<String, Flood>>,
}

/// A connection after its handshake, with the certificate of the other side if it has shown one.
type Accepted = (TlsStream<TcpStream>, Option<Arc<PeerCertificate>>);

impl Handshakes {
    pub(super) fn new(tls: Arc<Tls>, timeout: Duration) -> Self {
        Self { tls, timeout, floods: Mutex::default() }
    }

    /// Takes part in a handshake; `None` if it fails, which was said then. May be cancelled.
    pub(super) async fn accept(&self, stream: TcpStream, from: SocketAddr) -> Option<Accepted> {
        let handshake = async {
            if is_plain(&stream).await? {
                refuse_plain(stream).await?;
                return Ok(None);
            }
            self.tls.accept(stream).await.map(Some)
        };
        match tokio::time::timeout(self.timeout, handshake).await {
            Ok(Ok(accepted)) => accepted,
            Ok(Err(error)) => {
                self.tell(&error, from);
                None
            }
            Err(_) => {
                tracing::debug!(%from, "a TLS handshake took too long");
                None
            }
        }
    }

    /// Logs why a handshake has failed.
    fn tell(&self, error: &io::Error, from: SocketAddr) {
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
        let Some(cause) = cause.filter(|cause| is_of_a_certificate(cause)) else {
            tracing::debug!(%from, %error, "a TLS handshake failed");
            return;
        };
        let reason: String = words(cause).chars().take(REASON_CHARACTERS).collect();
        let listener = self.tls.side();
        let (admitted, left_out) = self.admit(&reason);
        if left_out > 0 {
            let seconds = WINDOW.as_secs();
            tracing::warn!(connections = left_out, seconds, listener, reason, "more were refused");
        }
        if admitted {
            tracing::warn!(%from, listener, reason, "a TLS connection is refused");
        }
    }

    /// Whether a line with this reason is logged, and how many were left out before it.
    fn admit(&self, reason: &str) -> (bool, u64) {
        let mut floods = self.floods.lock().unwrap_or_else(PoisonError::into_inner);
        let is_further = floods.len() >= REASONS && !floods.contains_key(reason);
        let reason = if is_further { "" } else { reason };
        floods.entry(reason.to_owned()).or_default().admit(SystemClock.raw())
    }
}

/// Whether a handshake failed for a certificate, this side's or the other's.
fn is_of_a_certificate(error: &rustls::Error) -> bool {
    matches!(error, rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented)
        || crate::client::tls::is_refusal(error)
}

/// Whether the other side sends plain HTTP: a method begins with a capital letter.
async fn is_plain(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    let seen = stream.peek(&mut first).await?;
    Ok(seen == 1 && first[0] != TLS_HANDSHAKE && first[0].is_ascii_uppercase())
}

/// Answers plain HTTP with the reason why it is refused. The rest of the request is read first:
/// otherwise the system might discard the answer with it.
async fn refuse_plain(mut stream: TcpStream) -> io::Result<()> {
    let detail = "this port speaks TLS: use https:// in place of http://";
    let body = serde_json::to_string(&Problem::new(Code::BadRequest, detail))
        .expect("our documents have string keys only");
    let head = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: {PROBLEM_MEDIA_TYPE}\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n",
        body.len(),
    );
    stream.write_all((head + &body).as_bytes()).await?;
    stream.shutdown().await?;
    let mut rest = stream.take(UNREAD);
    let mut sink = tokio::io::sink();
    // Nothing depends on the rest.
    let _ = tokio::time::timeout(DRAINING, tokio::io::copy(&mut rest, &mut sink)).await;
    Ok(())
}
