//! The binding of a certificate to a node.
//!
//! A certificate is a node's if one of its alternative names is the host `keyward-node-<id>` or the
//! URI `keyward://node/<id>`. One that names no node at all is a node's if it has the host of the
//! node's member address, and no other member has that host. Names are compared whole: a wildcard
//! names no node.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::PeerCertificate;

const HOST: &str = "keyward-node-";
const URI: &str = "keyward://node/";

/// A node as certificates name it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct NodeName {
    id: u64,
    /// The host of its member address, unless another member has it, too.
    host: Option<String>,
}

impl NodeName {
    /// The name of the node among the members' addresses (`host:port`); `logged` is its address if
    /// it is not among them.
    pub fn new(id: u64, addresses: &BTreeMap<u64, String>, logged: Option<&str>) -> Self {
        let own = addresses.get(&id).map(String::as_str).or(logged).map(host_of);
        let of_others = |host: &String| {
            addresses.iter().any(|(other, address)| *other != id && host_of(address) == *host)
        };
        Self { id, host: own.filter(|host| !of_others(host)) }
    }

    /// The host name that stands for the node in its certificate.
    pub fn dns(id: u64) -> String {
        format!("{HOST}{id}")
    }

    /// Checks that the certificate is the node's.
    ///
    /// # Errors
    /// It is not.
    pub fn judge(&self, certificate: &PeerCertificate) -> Result<(), OtherNode> {
        let mut named = certificate.names.iter().filter_map(|name| id_in(name)).peekable();
        let is_own = match named.peek() {
            Some(_) => named.any(|id| id == self.id),
            None => self.host.as_ref().is_some_and(|host| certificate.names.contains(host)),
        };
        if is_own {
            return Ok(());
        }
        Err(OtherNode {
            id: self.id,
            wanted: match &self.host {
                Some(host) => format!("{HOST}{} (or, without any such name, {host})", self.id),
                None => format!("{HOST}{}", self.id),
            },
            subject: certificate.subject.clone(),
            names: certificate.names.join(", "),
        })
    }
}

/// The error for a certificate that is not the node's.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "it is not for node {id}: it must have the name {wanted}; its subject is {subject:?}, its names are: {names}"
)]
pub struct OtherNode {
    id: u64,
    wanted: String,
    subject: String,
    names: String,
}

/// The node that an alternative name stands for.
fn id_in(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(HOST).or_else(|| name.strip_prefix(URI))?;
    // One way to write each: no sign, no zero in front.
    let id: u64 = digits.parse().ok()?;
    (id.to_string() == digits).then_some(id)
}

/// The host of an address as certificates write it.
fn host_of(address: &str) -> String {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match host.parse::<IpAddr>() {
        Ok(ip) => ip.to_string(),
        Err(_) => host.to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(names: &[&str]) -> PeerCertificate {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        PeerCertificate { subject: "CN=x".to_owned(), names, begin: 0, end: 0 }
    }

    fn name(id: u64) -> NodeName {
        let addresses = [(1, "A:1"), (2, "[::1]:1"), (3, "b:1"), (4, "b:2")];
        let addresses = addresses.map(|(id, address)| (id, address.to_owned())).into();
        NodeName::new(id, &addresses, Some("logged:9"))
    }

    #[test]
    fn a_certificate_is_bound_to_its_node() {
        let table: [(u64, &[&str], bool); 16] = [
            (1, &["keyward-node-1"], true),
            (1, &["keyward://node/1"], true),
            (1, &["x", "keyward-node-1"], true),
            (1, &["keyward-node-2", "keyward-node-1"], true),
            (1, &["keyward-node-11"], false),
            (1, &["keyward-node-01", "keyward-node-+1"], false),
            (1, &["keyward-node-1.example"], false),
            (1, &["*"], false),
            (1, &[], false),
            (1, &["a"], true),
            // A node's certificate names its host for clients; that does not make it another's.
            (1, &["a", "keyward-node-2"], false),
            (2, &["::1"], true),
            (2, &["*.1"], false),
            // The host of two members names neither.
            (3, &["b"], false),
            (4, &["b"], false),
            (5, &["logged"], true),
        ];
        for (id, names, is_own) in table {
            assert_eq!(name(id).judge(&certificate(names)).is_ok(), is_own, "{id} {names:?}");
        }
    }

    #[test]
    fn the_error_names_both() {
        let error = name(1).judge(&certificate(&["keyward-node-2", "b"])).unwrap_err().to_string();
        assert!(error.contains("not for node 1"), "{error}");
        assert!(error.contains("keyward-node-2, b"), "{error}");
    }
}
