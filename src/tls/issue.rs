//! Certificates for trying out, and for tests: a CA, and certificates that it signs. For more than
//! that there are CAs with an audit and a revocation of their own.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};

use super::NodeName;
use crate::clock::credential_time;

/// The reason why no certificate can be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make the certificate: {0}")]
pub struct CannotIssue(#[from] rcgen::Error);

/// A certificate and its private key, both PEM.
#[derive(Clone)]
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

/// The time in which a certificate is valid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Validity {
    /// Its beginning, since 1970.
    from: Duration,
    /// Its end, since 1970.
    to: Duration,
}

/// How much earlier than now a certificate begins: the clocks of machines differ.
const EARLIER: Duration = Duration::from_secs(60 * 60);

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Validity {
    /// From now on, for this many days.
    pub fn days(days: u32) -> Self {
        let now = credential_time();
        Self { from: now.saturating_sub(EARLIER), to: now + DAY * days }
    }

    /// A time that ended yesterday.
    pub fn over() -> Self {
        let now = credential_time();
        Self { from: now.saturating_sub(DAY * 3), to: now.saturating_sub(DAY) }
    }
}

fn params(common_name: &str, validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    params.distinguished_name = name;
    let origin = date_time_ymd(1970, 1, 1);
    (params.not_before, params.not_after) = (origin + validity.from, origin + validity.to);
    params
}

/// A CA that can sign.
pub struct Ca(Issuer<'static, KeyPair>);

impl Ca {
    /// Makes a new CA with this name.
    ///
    /// # Errors
    /// The library refuses.
    pub fn make(name: &str, validity: Validity) -> Result<(Self, Issued), CannotIssue> {
        let mut params = params(name, validity);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?.pem();
        let issued = Issued { certificate, key: key.serialize_pem() };
        Ok((Self(Issuer::new(params, key)), issued))
    }

    /// Reads a CA that was made before.
    ///
    /// # Errors
    /// The texts are no certificate and key.
    pub fn read(issued: &Issued) -> Result<Self, CannotIssue> {
        let key = KeyPair::from_pem(&issued.key)?;
        Ok(Self(Issuer::from_ca_cert_pem(&issued.certificate, key)?))
    }

    /// Signs a node's certificate: for its listeners, and for its calls to other members. `hosts`
    /// are the names and IP addresses by which clients call it.
    ///
    /// # Errors
    /// A host is not one.
    pub fn node(
        &self,
        id: u64,
        hosts: &[String],
        validity: Validity,
    ) -> Result<Issued, CannotIssue> {
        let node = NodeName::dns(id);
        let names = std::iter::once(&node).chain(hosts).cloned().collect::<Vec<_>>();
        let mut params = params(&node, validity);
        params.subject_alt_names = CertificateParams::new(names)?.subject_alt_names;
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    /// Signs a client's certificate; its name is the common name and, as a URI, an alternative name.
    ///
    /// # Errors
    /// The name cannot stand in a certificate.
    pub fn client(&self, name: &str, validity: Validity) -> Result<Issued, CannotIssue> {
        let mut params = params(name, validity);
        params.subject_alt_names =
            vec![SanType::URI(format!("keyward://client/{name}").try_into()?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    fn sign(&self, mut params: CertificateParams) -> Result<Issued, CannotIssue> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.0)?.pem();
        Ok(Issued { certificate, key: key.serialize_pem() })
    }
}
