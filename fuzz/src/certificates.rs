//! Certificates of the other side of a connection. Their signature is checked before they are read,
//! but a CA may be careless.

use keyward::tls::{NodeName, PeerCertificate};

/// A certificate: it gives an error, or an identity whose texts cannot pass for others.
pub fn certificate(bytes: &[u8]) {
    let Ok(shown) = PeerCertificate::read(bytes) else { return };
    assert!(!shown.subject.chars().any(char::is_control), "{shown:?}");
    for name in &shown.names {
        assert!(!name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic()), "{shown:?}");
        let is_uri = name.contains("://");
        let is_mail = name.contains('@') && !is_uri;
        let is_address = name.parse::<std::net::IpAddr>().is_ok();
        let is_host = !is_uri && !is_mail && !is_address;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.*".contains(&byte);
        assert!(!is_host || name.bytes().all(plain), "{shown:?}");
    }
    for id in [1, 2, u64::MAX] {
        if NodeName::new(id, &[].into(), None).judge(&shown).is_ok() {
            let names = [format!("keyward-node-{id}"), format!("keyward://node/{id}")];
            assert!(names.iter().any(|name| shown.names.contains(name)), "{id}: {shown:?}");
        }
    }
}
