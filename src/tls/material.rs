//! The files of a TLS identity, and the configuration that they make.

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig};

use super::{ClientAuth, Loaded, PeerCertificate, Side};
use crate::client::tls::{ALPN, CredentialTime, provider, read_certificates, read_key, words};
use crate::files::{Unusable, fingerprint};

/// The files of one side's TLS, all PEM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Files {
    /// The certificate, followed by those between it and its CA.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The certificates of the CAs that the other side's certificates are checked with.
    pub ca: Option<PathBuf>,
}

/// The content of the files at one moment.
pub(super) struct Content {
    certificate: Vec<u8>,
    key: Vec<u8>,
    ca: Option<Vec<u8>>,
}

impl Content {
    /// A number for the content, by which a change is noticed.
    pub(super) fn fingerprint(&self) -> u128 {
        fingerprint([&self.certificate[..], &self.key, self.ca.as_deref().unwrap_or_default()])
    }
}

impl Files {
    /// The files of a certificate as `keyward cert` makes them, checked with the CA of the folder.
    pub fn in_folder(folder: &Path, name: &str) -> Self {
        Self {
            certificate: folder.join(format!("{name}.pem")),
            key: folder.join(format!("{name}.key")),
            ca: Some(folder.join("ca.pem")),
        }
    }

    pub(super) fn read(&self) -> Result<Content, Unusable> {
        let read = |path: &PathBuf| {
            fs::read(path).map_err(|error| Unusable::new(path, format!("cannot read it: {error}")))
        };
        Ok(Content {
            certificate: read(&self.certificate)?,
            key: read(&self.key)?,
            ca: self.ca.as_ref().map(read).transpose()?,
        })
    }

    /// The reason why the own certificate cannot be used at this time, if it cannot. A CA that has
    /// ended is in nobody's way: the others in its file count.
    pub(super) fn untimely(&self, current: &Current, now: u64) -> Option<Unusable> {
        let own = current.certificates.iter().find(|certificate| !certificate.is_ca)?;
        let why = if own.expires <= now {
            "has expired"
        } else if own.begins > now {
            "is not valid yet"
        } else {
            return None;
        };
        Some(Unusable::new(&self.certificate, format!("the certificate of {:?} {why}", own.label)))
    }
}

/// A certificate whose end is watched.
pub(super) struct Watched {
    purpose: &'static str,
    is_ca: bool,
    label: String,
    begins: u64,
    pub(super) expires: u64,
}

impl Watched {
    pub(super) fn loaded(&self) -> Loaded {
        Loaded { purpose: self.purpose, subject: self.label.clone(), expires: self.expires }
    }
}

/// The TLS that the content of the files makes.
pub(super) struct Current {
    /// The configuration of the listener.
    pub(super) server: Arc<ServerConfig>,
    /// The certificate and its key, for calls to others.
    pub(super) own: Arc<SingleCertAndKey>,
    /// The CAs of the other side.
    pub(super) roots: Arc<RootCertStore>,
    /// The own certificate, then those of the CAs.
    pub(super) certificates: Vec<Watched>,
}

impl Current {
    pub(super) fn new(files: &Files, content: &Content, side: &Side) -> Result<Self, Unusable> {
        let of_certificate = |why: &dyn Display| Unusable::new(&files.certificate, why);
        let chain =
            read_certificates(&content.certificate).map_err(|error| of_certificate(&error))?;
        let owner = PeerCertificate::read(&chain[0]).map_err(|error| of_certificate(&error))?;
        if let Side::Peers(own) = side {
            own.judge(&owner).map_err(|error| of_certificate(&error))?;
        }
        let key = read_key(&content.key).map_err(|error| Unusable::new(&files.key, error))?;
        let own = CertifiedKey::from_der(chain, key, &provider());
        let own = own.map_err(|error| Unusable::new(&files.key, words(&error)))?;
        let own = Arc::new(SingleCertAndKey::from(own));
        let mut certificates = vec![watched(side.word(), false, &owner)];
        let roots = match (&files.ca, &content.ca) {
            (Some(path), Some(text)) => {
                let purpose = match side {
                    Side::Clients(_) => "client_ca",
                    Side::Peers(_) => "peer_ca",
                };
                let roots = read_certificates(text).map_err(|error| Unusable::new(path, error))?;
                add_all(roots, purpose, &mut certificates)
                    .map_err(|error| Unusable::new(path, error))?
            }
            _ => RootCertStore::empty(),
        };
        let roots = Arc::new(roots);
        let server = server(side, files.ca.is_some().then_some(&roots), &own)
            .map_err(|error| of_certificate(&error))?;
        Ok(Self { server: Arc::new(server), own, roots, certificates })
    }
}

fn watched(purpose: &'static str, is_ca: bool, owner: &PeerCertificate) -> Watched {
    let PeerCertificate { begin, end, .. } = *owner;
    Watched { purpose, is_ca, label: owner.label().to_owned(), begins: begin, expires: end }
}

fn add_all(
    certificates: Vec<CertificateDer<'static>>,
    purpose: &'static str,
    all: &mut Vec<Watched>,
) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        let owner = PeerCertificate::read(&certificate).map_err(|error| error.to_string())?;
        all.push(watched(purpose, true, &owner));
        roots.add(certificate).map_err(|error| words(&error))?;
    }
    Ok(roots)
}

/// The configuration of the listener.
fn server(
    side: &Side,
    roots: Option<&Arc<RootCertStore>>,
    own: &Arc<SingleCertAndKey>,
) -> Result<ServerConfig, String> {
    let builder = ServerConfig::builder_with_details(provider(), Arc::new(CredentialTime))
        // TLS 1.2 and 1.3: what this library calls safe.
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match roots {
        None => builder.with_no_client_auth(),
        Some(roots) => {
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), provider());
            let verifier = match side {
                Side::Clients(ClientAuth::Optional) => verifier.allow_unauthenticated(),
                Side::Clients(ClientAuth::Required) | Side::Peers(_) => verifier,
            };
            builder.with_client_cert_verifier(verifier.build().map_err(|error| error.to_string())?)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::clone(own) as _);
    config.alpn_protocols = vec![ALPN.to_vec()];
    if roots.is_some() {
        // A resumed connection would not check the certificate of the other side again, which may
        // have ended.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(config)
}
