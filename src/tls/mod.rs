//! TLS of a node: the certificates that it shows, the CAs that it trusts, and who the other side is.
//!
//! A node has up to two of them, one for clients ([`Tls::for_clients`]) and one for the other members
//! ([`Tls::for_peers`]). Between members both sides show a certificate, and each is bound to its node:
//! [`node`] has the rule. [`Followed::look`] reads the files anew when their content has changed; open
//! connections go on with what they began with, and files that cannot be used change nothing.
//!
//! This folder knows neither HTTP nor consensus. It never turns a check off: a connection has TLS
//! with all of it, or its listener has no TLS.
//!
//! Start with [`Tls`]. [`material`] reads files, [`identity`] what a certificate says of its owner,
//! [`outgoing`] checks the member that is called, and [`issue`] makes certificates for trying out.

pub mod identity;
pub mod issue;
mod material;
pub mod node;
mod outgoing;

#[cfg(test)]
mod tests;

use std::io;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

pub use identity::PeerCertificate;
pub use material::Files;
use material::{Current, Watched};
pub use node::NodeName;

use crate::clock::credential_time;
use crate::files::{Followed, Look, Unusable};

/// How long before its end the log begins to warn of a certificate.
pub const WARN_BEFORE: Duration = Duration::from_secs(30 * DAY);

const DAY: u64 = 24 * 60 * 60;

/// Whether clients need a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientAuth {
    /// A client without a certificate is served; one that is shown is checked.
    Optional,
    /// A client without a certificate is refused.
    Required,
}

/// The other side of connections.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Side {
    /// Clients, which are asked for certificates if there is a CA to check them with.
    Clients(ClientAuth),
    /// The other members, which call this one by this name.
    Peers(NodeName),
}

impl Side {
    /// The word for it in logs and metrics.
    fn word(&self) -> &'static str {
        match self {
            Self::Clients(_) => "client",
            Self::Peers(_) => "peer",
        }
    }
}

/// The TLS of one listener, and for peers of the calls to them, too.
pub struct Tls {
    side: Side,
    files: Files,
    state: RwLock<State>,
}

struct State {
    current: Arc<Current>,
    /// The content of the files that was judged last, whether it could be used or not.
    judged: u128,
    /// The content whose time was found not to be now, and that is judged again at each look.
    untimely: u128,
    /// The day, since 1970, of the last warning about an end that is near.
    warned: u64,
}

/// A loaded certificate, as metrics and warnings show it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Loaded {
    /// Its use: `client` or `peer`, and `client_ca` or `peer_ca` for a CA's.
    pub(crate) purpose: &'static str,
    /// Its subject.
    pub(crate) subject: String,
    /// Its end, in seconds since 1970.
    pub(crate) expires: u64,
}

impl Tls {
    /// Loads the TLS of the listener for clients. They are asked for certificates if a CA is named.
    ///
    /// # Errors
    /// A file cannot be used, with the reason.
    pub fn for_clients(files: Files, auth: ClientAuth) -> Result<Arc<Self>, Unusable> {
        Self::load(files, Side::Clients(auth))
    }

    /// Loads the TLS between members, in which both sides show a certificate. `own` is the name of
    /// this node, which its certificate must have.
    ///
    /// # Errors
    /// A file cannot be used, with the reason.
    pub fn for_peers(files: Files, own: NodeName) -> Result<Arc<Self>, Unusable> {
        Self::load(files, Side::Peers(own))
    }

    fn load(files: Files, side: Side) -> Result<Arc<Self>, Unusable> {
        let content = files.read()?;
        let current = Arc::new(Current::new(&files, &content, &side)?);
        let state = State { current, judged: content.fingerprint(), untimely: 0, warned: 0 };
        let tls = Arc::new(Self { side, files, state: RwLock::new(state) });
        tls.warn_of_ends();
        Ok(tls)
    }

    fn look_at_content(&self) -> Look {
        let content = match self.files.read() {
            Ok(content) => content,
            Err(error) => {
                // The reason may vary where the content does not.
                let seen = error.fingerprint();
                return self.refuse(seen, error);
            }
        };
        let seen = content.fingerprint();
        if self.read_state(|state| state.judged) == seen {
            return Look::Unchanged;
        }
        match Current::new(&self.files, &content, &self.side) {
            Ok(current) => {
                let now = credential_time().as_secs();
                if let Some(error) = self.files.untimely(&current, now) {
                    // The clock may be wrong, or its time may come.
                    let known = self
                        .write_state(|state| std::mem::replace(&mut state.untimely, seen) == seen);
                    return if known { Look::Unchanged } else { Look::Refused(error) };
                }
                self.write_state(|state| {
                    state.current = Arc::new(current);
                    state.judged = seen;
                    state.warned = 0;
                });
                Look::Taken
            }
            Err(error) => self.refuse(seen, error),
        }
    }

    fn refuse(&self, seen: u128, error: Unusable) -> Look {
        let known = self.write_state(|state| std::mem::replace(&mut state.judged, seen) == seen);
        if known { Look::Unchanged } else { Look::Refused(error) }
    }

    /// Warns, once a day, of certificates that have ended or soon will.
    fn warn_of_ends(&self) {
        let now = credential_time().as_secs();
        let day = now / DAY;
        if self.write_state(|state| std::mem::replace(&mut state.warned, day) == day) {
            return;
        }
        for Loaded { purpose, subject, expires } in self.loaded() {
            let left = expires.saturating_sub(now);
            if left == 0 {
                tracing::error!(purpose, subject, "a certificate has expired");
            } else if left <= WARN_BEFORE.as_secs() {
                let days = left / DAY;
                tracing::warn!(purpose, subject, days, "a certificate expires soon");
            }
        }
    }

    /// Takes the server's side of a new connection. The certificate of the other side is `None` if
    /// it showed none. May be cancelled; the stream is then lost.
    ///
    /// # Errors
    /// The handshake failed; the other side was told why, if it listens.
    pub(crate) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
    ) -> io::Result<(TlsStream<S>, Option<Arc<PeerCertificate>>)> {
        let config = Arc::clone(&self.current().server);
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let certificate = shown.map(|shown| PeerCertificate::read(shown)).transpose();
        let certificate = certificate.map_err(|error| io::Error::other(error.to_string()))?;
        Ok((stream, certificate.map(Arc::new)))
    }

    /// The word for the other side in logs.
    pub(crate) fn side(&self) -> &'static str {
        self.side.word()
    }

    /// The certificates in use.
    pub(crate) fn loaded(&self) -> Vec<Loaded> {
        self.current().certificates.iter().map(Watched::loaded).collect()
    }

    fn current(&self) -> Arc<Current> {
        self.read_state(|state| Arc::clone(&state.current))
    }

    fn read_state<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.state.read().expect("nothing panics while it holds the state"))
    }

    fn write_state<T>(&self, write: impl FnOnce(&mut State) -> T) -> T {
        write(&mut self.state.write().expect("nothing panics while it holds the state"))
    }
}

impl Followed for Tls {
    fn look(&self) -> Look {
        let look = self.look_at_content();
        let side = self.side.word();
        match &look {
            Look::Unchanged => {}
            Look::Taken => {
                let certificate = self.loaded().into_iter().next();
                let subject = certificate.map(|certificate| certificate.subject);
                let subject = subject.unwrap_or_default();
                tracing::info!(side, subject, "TLS files are read anew and in use");
            }
            Look::Refused(error) => {
                tracing::error!(side, %error, "TLS files cannot be used; the old ones stay in use");
            }
        }
        self.warn_of_ends();
        look
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("side", &self.side)
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}
