//! Calls to other members: their configuration, and the check that a member is the one that is
//! called.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, SignatureScheme,
};

use super::{NodeName, PeerCertificate, Tls};
use crate::client::tls::{ALPN, CredentialTime, provider};

impl Tls {
    /// The configuration of connections to this member. Each new one shows the certificate, and
    /// trusts the CAs, that are in use when it is made.
    pub(crate) fn to_member(self: &Arc<Self>, member: NodeName) -> ClientConfig {
        let verifier = MemberVerifier { tls: Arc::clone(self), member };
        let mut config = ClientConfig::builder_with_details(provider(), Arc::new(CredentialTime))
            .with_safe_default_protocol_versions()
            .expect("the algorithms are for the versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(Shown(Arc::clone(self))));
        config.alpn_protocols = vec![ALPN.to_vec()];
        // A resumed connection would not check the member again.
        config.resumption = Resumption::disabled();
        config
    }
}

/// Shows the certificate that is in use.
#[derive(Debug)]
struct Shown(Arc<Tls>);

impl ResolvesClientCert for Shown {
    fn resolve(
        &self,
        root_hint_subjects: &[&[u8]],
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        ResolvesClientCert::resolve(&*self.0.current().own, root_hint_subjects, schemes)
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Accepts the certificate of one member: signed by a CA of the peers, valid now, and the member's.
/// The host that it was called by does not matter.
#[derive(Debug)]
struct MemberVerifier {
    tls: Arc<Tls>,
    member: NodeName,
}

impl ServerCertVerifier for MemberVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.tls.current().roots,
            intermediates,
            now,
            provider().signature_verification_algorithms.all,
        )?;
        let other = |error: OtherError| Error::InvalidCertificate(CertificateError::Other(error));
        let owner = PeerCertificate::read(end_entity)
            .map_err(|error| other(OtherError(Arc::new(error))))?;
        self.member.judge(&owner).map_err(|error| other(OtherError(Arc::new(error))))?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &provider().signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &provider().signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
