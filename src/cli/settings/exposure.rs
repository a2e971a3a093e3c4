//! TLS in the settings, and the refusal to stand open to other machines by accident.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::Declared;
use crate::tls::Files;

/// The files of TLS for clients, if they are named.
pub(super) fn client_files(declared: &Declared, problems: &mut Vec<String>) -> Option<Files> {
    let pair = [("tls_cert", declared.tls_cert()), ("tls_key", declared.tls_key())];
    let ca = declared.tls_client_ca().cloned();
    if ca.is_some() && pair.iter().all(|(_, file)| file.is_none()) {
        problems.push("tls_client_ca needs tls_cert and tls_key: it is part of TLS".to_owned());
    }
    if ca.is_none() && declared.tls_client_auth().is_some() {
        problems.push(
            "tls_client_auth needs tls_client_ca, which clients' certificates are checked with"
                .to_owned(),
        );
    }
    let [certificate, key] = all_or_none(pair, problems)?;
    Some(Files { certificate, key, ca })
}

/// The files of TLS between nodes, if they are named.
pub(super) fn peer_files(declared: &Declared, problems: &mut Vec<String>) -> Option<Files> {
    let three = [
        ("peer_cert", declared.peer_cert()),
        ("peer_key", declared.peer_key()),
        ("peer_ca", declared.peer_ca()),
    ];
    let [certificate, key, ca] = all_or_none(three, problems)?;
    Some(Files { certificate, key, ca: Some(ca) })
}

fn all_or_none<const N: usize>(
    files: [(&str, Option<&PathBuf>); N],
    problems: &mut Vec<String>,
) -> Option<[PathBuf; N]> {
    let missing: Vec<&str> =
        files.iter().filter(|(_, file)| file.is_none()).map(|(name, _)| *name).collect();
    if missing.is_empty() {
        return Some(files.map(|(_, file)| file.cloned().unwrap_or_default()));
    }
    if missing.len() < N {
        let all = files.map(|(name, _)| name).join(", ");
        problems.push(format!("{all} belong together: {} is missing", missing.join(" and ")));
    }
    None
}

/// A listener, as far as it stands open.
pub(super) struct Listener<'a> {
    /// Those who connect to it.
    pub(super) who: &'a str,
    /// The setting of its address.
    pub(super) setting: &'a str,
    pub(super) address: SocketAddr,
    /// The settings that would secure it.
    pub(super) tls: &'a str,
    pub(super) has_tls: bool,
}

/// Refuses a listener that other machines can reach and that has no protection, unless the settings
/// say `insecure`. This is the one place that decides what protection is enough.
pub(super) fn check(declared: &Declared, listeners: &[Listener<'_>], problems: &mut Vec<String>) {
    if declared.insecure() {
        return;
    }
    let open = listeners.iter().filter(|listener| {
        let is_reachable = !listener.address.ip().to_canonical().is_loopback();
        is_reachable && !listener.has_tls
    });
    problems.extend(open.map(|Listener { who, setting, address, tls, .. }| {
        format!(
            "{who} would be answered without TLS at {address}, which other machines can reach: \
             give {tls} (`keyward cert` makes certificates to try out), listen on 127.0.0.1 with \
             {setting}, or accept it with --insecure, KEYWARD_INSECURE=yes, or insecure = true in \
             the file"
        )
    }));
}
