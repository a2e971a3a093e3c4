//! TLS of connections to nodes: whom a client trusts, and the certificate that it shows.
//!
//! The library is rustls with the algorithms of `ring`, from TLS 1.2 on. Nothing here turns the
//! check of a node's certificate off. Certificates and keys are PEM.

use std::sync::{Arc, OnceLock};

use reqwest::redirect;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, InvalidMessage,
    RootCertStore, SignatureScheme,
};
use rustls_platform_verifier::Verifier;

use crate::resolve::Resolver;
use keyward_core::clock::credential_time;
use keyward_core::error::Error;

/// The one protocol over TLS, as it is negotiated (ALPN).
pub const ALPN: &[u8] = b"http/1.1";

/// The algorithms of all connections.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(rustls::crypto::ring::default_provider())))
}

/// The wall time at which certificates are judged.
#[derive(Clone, Copy, Debug, Default)]
pub struct CredentialTime;

impl TimeProvider for CredentialTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(credential_time()))
    }
}

/// The reason why a text is not certificates or a key.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    /// It has none.
    #[error("there is no {0} in it: it must be PEM, with a line -----BEGIN …-----")]
    Missing(&'static str),
    /// A part of it cannot be read.
    #[error("it is not valid PEM: {0}")]
    Broken(pem::Error),
}

/// Reads all certificates of a PEM text.
///
/// # Errors
/// There is none, or one cannot be read.
pub fn read_certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let read = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
    let certificates = read.map_err(PemError::Broken)?;
    if certificates.is_empty() { Err(PemError::Missing("certificate")) } else { Ok(certificates) }
}

/// Reads the first private key of a PEM text.
///
/// # Errors
/// There is none, or it cannot be read.
#[allow(clippy::wildcard_enum_match_arm, reason = "errors of a library, which may get more")]
pub fn read_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, PemError> {
    PrivateKeyDer::from_pem_slice(text).map_err(|error| match error {
        pem::Error::NoItemsFound => PemError::Missing("private key"),
        error => PemError::Broken(error),
    })
}

/// The TLS settings of a client, as they were given.
#[derive(Clone, Default)]
pub struct Tls {
    ca: Option<Vec<u8>>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Nothing of a key is ever printed.
        let Self { ca, identity } = self;
        let (ca, identity) = (ca.is_some(), identity.is_some());
        f.debug_struct("Tls").field("ca", &ca).field("identity", &identity).finish()
    }
}

impl Tls {
    /// Trusts the CA certificates of this PEM text, in place of those of the system.
    #[must_use]
    pub fn ca_certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca = Some(pem.into());
        self
    }

    /// Shows this certificate, followed by those between it and its CA, to nodes that ask for one;
    /// both texts are PEM.
    #[must_use]
    pub fn identity(
        mut self,
        certificates: impl Into<Vec<u8>>,
        private_key: impl Into<Vec<u8>>,
    ) -> Self {
        self.identity = Some((certificates.into(), private_key.into()));
        self
    }

    /// The configuration of connections with these settings.
    ///
    /// # Errors
    /// `BadRequest` if a text is not what it should be, or the key is not the certificate's.
    ///
    /// # Panics
    /// Never: the algorithms are for the versions.
    pub fn config(&self) -> Result<ClientConfig, Error> {
        let wrong = |what: &str, why: &dyn std::fmt::Display| {
            Error::bad_request(format!("{what} cannot be used: {why}"))
        };
        let builder = ClientConfig::builder_with_details(provider(), Arc::new(CredentialTime))
            .with_safe_default_protocol_versions()
            .expect("the algorithms are for the versions");
        let builder = match &self.ca {
            None => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(SystemRoots::default())),
            Some(text) => {
                let wrong = |why: &dyn std::fmt::Display| wrong("the CA certificate", why);
                let mut roots = RootCertStore::empty();
                for certificate in read_certificates(text).map_err(|error| wrong(&error))? {
                    roots.add(certificate).map_err(|error| wrong(&error))?;
                }
                builder.with_root_certificates(roots)
            }
        };
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((certificates, key)) => {
                let chain = read_certificates(certificates)
                    .map_err(|error| wrong("the client's certificate", &error))?;
                let key = read_key(key).map_err(|error| wrong("the client's key", &error))?;
                builder.with_client_auth_cert(chain, key).map_err(|error| {
                    wrong("the client's certificate with its key", &words(&error))
                })?
            }
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(config)
    }
}

/// A builder of HTTP clients as they all are: connections that lead directly to the node that is
/// named, with this TLS.
pub fn http(config: ClientConfig) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .no_proxy()
        .redirect(redirect::Policy::none())
        .dns_resolver(Resolver::default())
        .http1_only()
        // Messages are small and each is awaited: Nagle's algorithm would delay them.
        .tcp_nodelay(true)
        .tls_backend_preconfigured(config)
}

/// A builder of HTTP clients as [`http`] makes them, with nothing of a client's own: nodes with TLS
/// are checked with the CAs of the system.
///
/// # Panics
/// Never: no certificate is given.
pub fn plain() -> reqwest::ClientBuilder {
    http(Tls::default().config().expect("no certificate is given"))
}

/// The roots of the system, which are read when the first certificate is to be checked: most
/// clients know a CA of their own, or use no TLS.
#[derive(Debug, Default)]
struct SystemRoots(OnceLock<Result<Verifier, rustls::Error>>);

impl ServerCertVerifier for SystemRoots {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verifier = self.0.get_or_init(|| Verifier::new(provider())).as_ref();
        let verifier = verifier.map_err(Clone::clone)?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &provider().signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &provider().signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// The alerts by which the other side refuses a certificate, with what they mean. It sends them
/// before the handshake is over, so nothing of a request was processed.
const REFUSALS: [(AlertDescription, &str); 7] = [
    (AlertDescription::CertificateRequired, "it wants a certificate, and none was shown"),
    (AlertDescription::BadCertificate, "it does not accept the certificate that was shown"),
    (AlertDescription::CertificateExpired, "the certificate that was shown has expired"),
    (AlertDescription::CertificateUnknown, "it does not accept the certificate that was shown"),
    (AlertDescription::UnknownCA, "it does not trust the CA of the certificate that was shown"),
    (AlertDescription::AccessDenied, "it does not accept the certificate that was shown"),
    (
        AlertDescription::DecryptError,
        "the signature of the certificate that was shown is not accepted",
    ),
];

/// Whether the other side refused the certificate that was shown, or that none was.
pub fn is_refusal(error: &rustls::Error) -> bool {
    matches!(error, rustls::Error::AlertReceived(alert)
        if REFUSALS.iter().any(|(refusal, _)| refusal == alert))
}

/// The words for a failure of TLS.
#[allow(clippy::wildcard_enum_match_arm, reason = "errors of a library, which may get more")]
pub fn words(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(error) => certificate_words(error),
        rustls::Error::AlertReceived(alert) => {
            match REFUSALS.iter().find(|(refusal, _)| refusal == alert) {
                Some((_, words)) => format!("refused by the other side: {words}"),
                None => format!("refused by the other side: alert {alert:?}"),
            }
        }
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "the other side does not speak TLS: is it http:// rather than https://?".to_owned()
        }
        rustls::Error::InconsistentKeys(_) => "the key is not the certificate's".to_owned(),
        rustls::Error::NoCertificatesPresented => "no certificate was shown".to_owned(),
        error => error.to_string(),
    }
}

#[allow(clippy::wildcard_enum_match_arm, reason = "errors of a library, which may get more")]
fn certificate_words(error: &CertificateError) -> String {
    let words = match error {
        CertificateError::UnknownIssuer => "it is signed by no CA that is trusted here",
        CertificateError::BadSignature => {
            "it is signed by no CA that is trusted here, although one has its CA's name"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet: is a clock wrong?"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "it is not for the name by which the node was called"
        }
        CertificateError::BadEncoding => "it is not a certificate",
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "it is not for this use (its extended key usage)"
        }
        CertificateError::Other(other) => return format!("wrong certificate: {other}"),
        error => return format!("wrong certificate: {error}"),
    };
    format!("wrong certificate: {words}")
}
