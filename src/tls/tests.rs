//! Two sides of a connection in memory, with certificates that are made for each test.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;

use super::issue::{Ca, Issued, Validity};
use super::*;
use crate::client::tls::{Tls as ClientTls, words};

/// A folder with a CA and what it signs.
struct Folder {
    path: TempDir,
    ca: Ca,
    ca_pem: String,
}

impl Folder {
    fn new() -> Self {
        let path = tempfile::tempdir().unwrap();
        let (ca, issued) = Ca::make("test CA", Validity::days(90)).unwrap();
        let folder = Self { path, ca, ca_pem: issued.certificate.clone() };
        folder.write("ca", &issued);
        folder
    }

    fn path(&self) -> &Path {
        self.path.path()
    }

    fn write(&self, name: &str, issued: &Issued) {
        fs::write(self.path().join(format!("{name}.pem")), &issued.certificate).unwrap();
        fs::write(self.path().join(format!("{name}.key")), &issued.key).unwrap();
    }

    fn node(&self, id: u64, validity: Validity) -> Issued {
        self.ca.node(id, &["localhost".to_owned()], validity).unwrap()
    }

    /// A file of the node's certificate, valid for 90 days.
    fn files(&self, id: u64) -> Files {
        self.write(&format!("node-{id}"), &self.node(id, Validity::days(90)));
        Files::in_folder(self.path(), &format!("node-{id}"))
    }

    fn peer(&self, id: u64) -> Arc<Tls> {
        Tls::for_peers(self.files(id), name(id)).unwrap()
    }
}

fn name(id: u64) -> NodeName {
    NodeName::new(id, &[].into(), None)
}

/// The result of a handshake at each end: the certificate that the server has seen, and the error
/// in words.
type Ends = (Result<Option<Arc<PeerCertificate>>, String>, Result<(), String>);

async fn connect(server: &Tls, client: rustls::ClientConfig) -> Ends {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let connector = TlsConnector::from(Arc::new(client));
    let calling = async move {
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = connector.connect(name, far).await?;
        // With TLS 1.3 a client learns here whether its certificate is accepted.
        stream.write_all(b"?").await?;
        stream.read_u8().await.map(drop)
    };
    let serving = async {
        let (mut stream, certificate) = server.accept(near).await?;
        stream.read_u8().await?;
        stream.write_all(b"!").await?;
        stream.shutdown().await?;
        Ok(certificate)
    };
    let (by_server, by_client) = tokio::join!(serving, calling);
    (by_server.map_err(|error| in_words(&error)), by_client.map_err(|error| in_words(&error)))
}

fn in_words(error: &io::Error) -> String {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    cause.map_or_else(|| error.to_string(), words)
}

fn client(ca: &str) -> ClientTls {
    ClientTls::default().ca_certificates(ca)
}

#[tokio::test]
async fn members_know_each_other_by_their_certificates() {
    let folder = Folder::new();
    let (one, two) = (folder.peer(1), folder.peer(2));
    let (served, called) = connect(&two, one.to_member(name(2))).await;
    assert_eq!(called, Ok(()));
    let shown = served.unwrap().expect("a member shows its certificate");
    assert!(name(1).judge(&shown).is_ok(), "{shown:?}");
    assert!(name(2).judge(&shown).is_err(), "{shown:?}");
    assert_eq!(shown.subject, "CN=keyward-node-1");
    assert_eq!(shown.names, ["keyward-node-1", "localhost"]);

    let (_, called) = connect(&two, one.to_member(name(3))).await;
    let error = called.unwrap_err();
    assert!(error.contains("it is not for node 3"), "{error}");
}

#[tokio::test]
async fn a_member_of_another_ca_and_one_whose_time_is_over_are_refused_at_both_ends() {
    let (here, elsewhere) = (Folder::new(), Folder::new());
    let (one, stranger) = (here.peer(1), elsewhere.peer(2));
    let (served, called) = connect(&one, stranger.to_member(name(1))).await;
    assert!(called.unwrap_err().contains("signed by no CA that is trusted here"));
    assert!(served.is_err());
    let (_, called) = connect(&stranger, one.to_member(name(2))).await;
    assert!(called.unwrap_err().contains("signed by no CA that is trusted here"));

    here.write("node-2", &here.node(2, Validity::over()));
    let expired = Tls::for_peers(Files::in_folder(here.path(), "node-2"), name(2)).unwrap();
    let (_, called) = connect(&expired, one.to_member(name(2))).await;
    assert!(called.unwrap_err().contains("it has expired"));
    let (served, called) = connect(&one, expired.to_member(name(1))).await;
    assert!(served.unwrap_err().contains("it has expired"));
    assert!(called.unwrap_err().contains("has expired"));
}

#[tokio::test]
async fn clients_need_a_certificate_if_it_is_required() {
    let folder = Folder::new();
    let tls = |auth| Tls::for_clients(folder.files(1), auth).unwrap();
    let worker = folder.ca.client("worker-1", Validity::days(1)).unwrap();
    let anonymous = client(&folder.ca_pem).config().unwrap();
    let named = client(&folder.ca_pem).identity(worker.certificate, worker.key).config().unwrap();

    let (served, called) = connect(&tls(ClientAuth::Required), anonymous.clone()).await;
    assert_eq!(served.unwrap_err(), "no certificate was shown");
    assert!(called.unwrap_err().contains("it wants a certificate, and none was shown"));
    let (served, called) = connect(&tls(ClientAuth::Optional), anonymous).await;
    assert_eq!((served, called), (Ok(None), Ok(())));
    for auth in [ClientAuth::Required, ClientAuth::Optional] {
        let (served, called) = connect(&tls(auth), named.clone()).await;
        assert_eq!(called, Ok(()));
        let shown = served.unwrap().unwrap();
        assert_eq!(shown.subject, "CN=worker-1");
        assert_eq!(shown.names, ["keyward://client/worker-1"]);
        assert!(name(1).judge(&shown).is_err(), "a client is no node");
    }
    let strange = Folder::new().ca.client("worker-1", Validity::days(1)).unwrap();
    let strange = client(&folder.ca_pem).identity(strange.certificate, strange.key);
    let (served, _) = connect(&tls(ClientAuth::Optional), strange.config().unwrap()).await;
    assert!(served.unwrap_err().contains("signed by no CA"), "one that is shown is checked");
}

#[tokio::test]
async fn new_files_are_used_for_new_connections_and_unusable_ones_are_not() {
    let folder = Folder::new();
    let (one, two) = (folder.peer(1), folder.peer(2));
    assert!(matches!(one.look(), Look::Unchanged));

    // The key of another certificate, as between two writes.
    let next = folder.node(1, Validity::days(60));
    let before = one.loaded();
    fs::write(folder.path().join("node-1.pem"), &next.certificate).unwrap();
    let Look::Refused(error) = one.look() else { panic!("a key that does not fit") };
    assert!(error.to_string().contains("the key is not the certificate's"), "{error}");
    assert!(matches!(one.look(), Look::Unchanged), "it is said once");
    assert_eq!(one.loaded(), before);
    assert_eq!(connect(&one, two.to_member(name(1))).await.1, Ok(()));
    folder.write("node-1", &next);
    assert!(matches!(one.look(), Look::Taken));
    assert!(one.loaded()[0].expires < before[0].expires);
    assert_eq!(connect(&one, two.to_member(name(1))).await.1, Ok(()));

    for (what, certificate) in [
        ("not for node 1", folder.node(2, Validity::days(60))),
        ("has expired", folder.node(1, Validity::over())),
    ] {
        folder.write("node-1", &certificate);
        let Look::Refused(error) = one.look() else { panic!("{what}") };
        assert!(error.to_string().contains(what), "{error}");
        assert!(matches!(one.look(), Look::Unchanged), "it is said once");
    }
    fs::remove_file(folder.path().join("node-1.key")).unwrap();
    let Look::Refused(error) = one.look() else { panic!("a file is missing") };
    assert!(error.to_string().contains("cannot read it"), "{error}");
    assert_eq!(connect(&one, two.to_member(name(1))).await.1, Ok(()));
}

#[tokio::test]
async fn a_ca_that_has_ended_keeps_no_new_certificate_out() {
    let folder = Folder::new();
    let one = folder.peer(1);
    let (_, over) = Ca::make("an old CA", Validity::over()).unwrap();
    let bundle = format!("{}{}", folder.ca_pem, over.certificate);
    fs::write(folder.path().join("ca.pem"), bundle).unwrap();
    assert!(matches!(one.look(), Look::Taken));
    let before = one.loaded();
    folder.write("node-1", &folder.node(1, Validity::days(60)));
    assert!(matches!(one.look(), Look::Taken));
    assert!(one.loaded()[0].expires < before[0].expires);
}

#[tokio::test]
async fn a_bundle_of_cas_changes_whom_members_trust() {
    let (old, new) = (Folder::new(), Folder::new());
    let one = old.peer(1);
    let two = new.peer(2);
    assert!(connect(&one, two.to_member(name(1))).await.1.is_err());
    // First both are trusted everywhere, then certificates change, then the old one goes.
    let bundle = format!("{}{}", old.ca_pem, new.ca_pem);
    for folder in [&old, &new] {
        fs::write(folder.path().join("ca.pem"), &bundle).unwrap();
    }
    assert!(matches!(one.look(), Look::Taken));
    assert!(matches!(two.look(), Look::Taken));
    // A configuration that was made before uses what is in use now.
    assert_eq!(connect(&one, two.to_member(name(1))).await.1, Ok(()));
    assert_eq!(one.loaded().len(), 3, "its own and two of CAs");
    old.write("node-1", &new.node(1, Validity::days(9)));
    fs::write(old.path().join("ca.pem"), &new.ca_pem).unwrap();
    fs::write(new.path().join("ca.pem"), &new.ca_pem).unwrap();
    assert!(matches!(one.look(), Look::Taken));
    assert!(matches!(two.look(), Look::Taken));
    assert_eq!(connect(&one, two.to_member(name(1))).await.1, Ok(()));
    assert_eq!(connect(&two, one.to_member(name(2))).await.1, Ok(()));
}

#[test]
fn files_that_cannot_be_used_are_named_with_the_reason() {
    let folder = Folder::new();
    let files = folder.files(1);
    let refused = |files: Files| Tls::for_peers(files, name(1)).unwrap_err().to_string();
    let missing = Files { key: folder.path().join("none"), ..files.clone() };
    assert!(refused(missing).contains("/none: cannot read it"));
    let swapped = Files { key: files.certificate.clone(), ..files.clone() };
    assert!(refused(swapped).contains("there is no private key in it"));
    let swapped = Files { certificate: files.key.clone(), ..files.clone() };
    assert!(refused(swapped).contains("there is no certificate in it"));
    let other = Files { key: folder.files(2).key, ..files.clone() };
    assert!(refused(other).contains("the key is not the certificate's"));
    let other = refused(folder.files(2));
    assert!(
        other.contains("it is not for node 1: it must have the name keyward-node-1"),
        "{other}"
    );
}

#[test]
fn a_ca_that_was_read_back_signs_as_before() {
    let (_, issued) = Ca::make("again", Validity::days(9)).unwrap();
    let node = Ca::read(&issued).unwrap().node(7, &["10.0.0.1".to_owned()], Validity::days(9));
    let node = crate::client::tls::read_certificates(node.unwrap().certificate.as_bytes()).unwrap();
    let shown = PeerCertificate::read(&node[0]).unwrap();
    assert_eq!(shown.names, ["keyward-node-7", "10.0.0.1"]);
}
