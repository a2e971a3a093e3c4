//! The identity in a certificate: its subject and its alternative names, as text.
//!
//! Whoever decides by these texts must be able to trust their form, although the bytes are those of
//! the other side (signed by a CA, which may be careless). So the parts of a subject are escaped as
//! RFC 4514 says, and a name is left out if it does not have the form of its kind: no host name can
//! pass for a URI.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::X509Name;

/// The owner of a certificate, which the other side of a connection has shown and proven. The
/// listener puts it into the extensions of each request, as an `Arc`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerCertificate {
    /// The subject as RFC 4514 writes it, in the order of the certificate: `O=jobs,CN=worker-1`. May
    /// be empty.
    pub subject: String,
    /// The alternative names: hosts in lower case, IP addresses, mail addresses and URIs.
    pub names: Vec<String>,
    /// Its beginning, in seconds since 1970.
    pub begin: u64,
    /// Its end likewise. A connection may outlast it.
    pub end: u64,
}

/// The error for bytes that are no certificate.
#[derive(Debug, thiserror::Error)]
#[error("the certificate cannot be read: {0}")]
pub struct Unreadable(String);

impl PeerCertificate {
    /// Reads the certificate (DER). Its signature and its time are not checked here.
    ///
    /// # Errors
    /// It is none.
    pub fn read(der: &[u8]) -> Result<Self, Unreadable> {
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|error| Unreadable(error.to_string()))?;
        let names = certificate.subject_alternative_name();
        let names = names.map_err(|error| Unreadable(error.to_string()))?;
        let names = names.map(|names| names.value.general_names.iter().filter_map(name).collect());
        let seconds = |time: i64| u64::try_from(time).unwrap_or(0);
        let validity = certificate.validity();
        Ok(Self {
            subject: subject(certificate.subject()),
            names: names.unwrap_or_default(),
            begin: seconds(validity.not_before.timestamp()),
            end: seconds(validity.not_after.timestamp()),
        })
    }

    /// The URIs among the names.
    pub(crate) fn uris(&self) -> impl Iterator<Item = &str> {
        // No name of another kind has this in it.
        self.names.iter().map(String::as_str).filter(|name| name.contains("://"))
    }

    /// The subject, or the first of the names if that is empty.
    pub(crate) fn label(&self) -> &str {
        match self.names.first() {
            Some(name) if self.subject.is_empty() => name,
            Some(_) | None => &self.subject,
        }
    }
}

/// An alternative name as text; `None` if it is of another kind, or not of the form of its kind.
fn name(name: &GeneralName<'_>) -> Option<String> {
    let plain = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    match name {
        GeneralName::DNSName(host) => is_host(host).then(|| host.to_ascii_lowercase()),
        GeneralName::RFC822Name(mail) => {
            (plain(mail) && mail.contains('@') && !mail.contains(':')).then(|| (*mail).to_owned())
        }
        GeneralName::URI(uri) => {
            let scheme = uri.split_once(':')?.0;
            let is_scheme = !scheme.is_empty()
                && scheme
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
            // With an authority, so that it is neither an IP address nor a mail address.
            (plain(uri) && is_scheme && uri.contains("://")).then(|| (*uri).to_owned())
        }
        GeneralName::IPAddress(bytes) => address(bytes).map(|address| address.to_string()),
        GeneralName::OtherName(..)
        | GeneralName::X400Address(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EDIPartyName(_)
        | GeneralName::RegisteredID(_)
        | GeneralName::Invalid(..) => None,
    }
}

/// A host name, perhaps with a wildcard as its first label.
fn is_host(text: &str) -> bool {
    let bare = text.strip_prefix("*.").unwrap_or(text);
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    // Digits and dots alone are an address, which has a kind of its own.
    !bare.is_empty() && bare.bytes().all(allowed) && bare.parse::<Ipv4Addr>().is_err()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(v4).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|v6| Ipv6Addr::from(v6).into())
}

/// The subject as RFC 4514 writes it, but in the order of the certificate.
fn subject(name: &X509Name<'_>) -> String {
    let parts = name.iter().map(|part| {
        let attributes = part.iter().map(|attribute| {
            let oid = attribute.attr_type();
            let word = oid2abbrev(oid, oid_registry()).ok().filter(|word| is_word(word));
            let word = word.map_or_else(|| oid.to_id_string(), str::to_owned);
            match attribute.as_str() {
                Ok(text) => format!("{word}={}", escaped(text)),
                Err(_) => format!("{word}=#{}", hex(attribute.as_slice())),
            }
        });
        attributes.collect::<Vec<_>>().join("+")
    });
    parts.collect::<Vec<_>>().join(",")
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let last = text.chars().count().saturating_sub(1);
    for (at, sign) in text.chars().enumerate() {
        let at_an_end = (at == 0 && matches!(sign, ' ' | '#')) || (at == last && sign == ' ');
        if sign.is_control() {
            let mut bytes = [0; 4];
            for byte in sign.encode_utf8(&mut bytes).bytes() {
                out.push('\\');
                out.push_str(&hex(&[byte]));
            }
        } else {
            if at_an_end || matches!(sign, '"' | '+' | ',' | ';' | '<' | '>' | '\\' | '=') {
                out.push('\\');
            }
            out.push(sign);
        }
    }
    out
}

fn hex(bytes: &[u8]) -> String {
    let digit = |half: u8| char::from_digit(u32::from(half), 16).expect("four bits are a digit");
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_cannot_pass_for_one_of_more_parts() {
        assert_eq!(escaped("a,O=admins"), "a\\,O\\=admins");
        assert_eq!(escaped(" #a "), "\\ #a\\ ");
        assert_eq!(escaped("#a"), "\\#a");
        assert_eq!(escaped("a\nb\\"), "a\\0ab\\\\");
        assert_eq!(escaped("Jürgen"), "Jürgen");
    }

    #[test]
    fn a_name_has_the_form_of_its_kind_or_is_left_out() {
        let table = [
            (GeneralName::DNSName("A.example"), Some("a.example")),
            (GeneralName::DNSName("*.example"), Some("*.example")),
            (GeneralName::DNSName("keyward://node/1"), None),
            (GeneralName::DNSName("10.0.0.1"), None),
            (GeneralName::DNSName(""), None),
            (GeneralName::DNSName("a b"), None),
            (GeneralName::URI("keyward://node/1"), Some("keyward://node/1")),
            (GeneralName::URI("keyward-node-1"), None),
            (GeneralName::URI("://a"), None),
            (GeneralName::URI("a://b\n"), None),
            (GeneralName::RFC822Name("me@a.example"), Some("me@a.example")),
            (GeneralName::RFC822Name("a.example"), None),
            (GeneralName::RFC822Name("x://y@a"), None),
            (GeneralName::IPAddress(&[10, 0, 0, 1]), Some("10.0.0.1")),
            (GeneralName::IPAddress(&[10, 0, 0]), None),
        ];
        for (found, expected) in table {
            assert_eq!(name(&found).as_deref(), expected, "{found:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_certificate_are_refused() {
        for bytes in [&b""[..], b"\x30\x03\x02\x01\x01", &[0xff; 64]] {
            assert!(PeerCertificate::read(bytes).is_err(), "{bytes:?}");
        }
    }
}
