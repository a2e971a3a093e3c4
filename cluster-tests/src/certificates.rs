//! Certificates of a cluster with TLS, in a folder of its own.

use std::fs;
use std::path::{Path, PathBuf};

use keyward::client::tls::Tls;
use keyward::tls::issue::{Ca, Issued, Validity};

/// The name of the client whose certificate the tests show.
const CLIENT: &str = "client-tests";

/// The file with the CAs that a node checks other nodes with.
pub fn peer_ca(id: u64) -> String {
    format!("peer-ca-{id}.pem")
}

/// The files of a CA, and of the nodes and the client that it has signed.
pub struct Certificates {
    folder: PathBuf,
    ca: Ca,
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificates").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Certificates {
    /// Makes a CA, and certificates of this many nodes and of a client, below a folder.
    ///
    /// # Panics
    /// If the folder cannot be written.
    pub fn make(below: &Path, nodes: u64) -> Self {
        let folder = below.join("certificates");
        fs::create_dir_all(&folder).expect("the folder is writable");
        let (ca, issued) = Ca::make("tests", Validity::days(90)).expect("a CA");
        let made = Self { folder, ca };
        made.write("ca", &issued);
        for id in 1..=nodes {
            made.write(&format!("node-{id}"), &made.node(id, Validity::days(90)));
            made.put(&peer_ca(id), &issued.certificate);
        }
        let client = made.ca.client("tests", Validity::days(90)).expect("a certificate");
        made.write(CLIENT, &client);
        made
    }

    /// The CA.
    pub fn ca(&self) -> &Ca {
        &self.ca
    }

    /// A new certificate of a node.
    ///
    /// # Panics
    /// Never: the names are well formed.
    pub fn node(&self, id: u64, validity: Validity) -> Issued {
        let hosts = ["localhost", "127.0.0.1"].map(str::to_owned);
        self.ca.node(id, &hosts, validity).expect("a certificate")
    }

    /// A file of the folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes a certificate and its key, in place of those of this name, each at once.
    ///
    /// # Panics
    /// If the folder cannot be written.
    pub fn write(&self, name: &str, issued: &Issued) {
        self.put(&format!("{name}.key"), &issued.key);
        self.put(&format!("{name}.pem"), &issued.certificate);
    }

    /// Writes a file at once.
    ///
    /// # Panics
    /// If the folder cannot be written.
    pub fn put(&self, name: &str, text: &str) {
        let beside = self.file(&format!("{name}.new"));
        fs::write(&beside, text).expect("the folder is writable");
        fs::rename(&beside, self.file(name)).expect("the folder is writable");
    }

    /// The arguments of `keyward serve` for a node's TLS.
    pub fn arguments(&self, id: u64) -> Vec<String> {
        let (certificate, key) = (format!("node-{id}.pem"), format!("node-{id}.key"));
        [
            ("--tls-cert", certificate.as_str()),
            ("--tls-key", &key),
            ("--tls-client-ca", "ca.pem"),
            ("--peer-cert", &certificate),
            ("--peer-key", &key),
            ("--peer-ca", &peer_ca(id)),
        ]
        .into_iter()
        .flat_map(|(option, name)| [option.to_owned(), self.file(name).display().to_string()])
        .collect()
    }

    /// The TLS of a client without a certificate.
    ///
    /// # Panics
    /// If the CA's file is gone.
    pub fn anonymous(&self) -> Tls {
        Tls::default().ca_certificates(self.read("ca.pem"))
    }

    /// The TLS of a client with its certificate.
    ///
    /// # Panics
    /// If a file is gone.
    pub fn client(&self) -> Tls {
        let [certificate, key] = ["pem", "key"].map(|kind| self.read(&format!("{CLIENT}.{kind}")));
        self.anonymous().identity(certificate, key)
    }

    /// The variables with which the program is that client.
    pub fn environment(&self) -> [(&'static str, PathBuf); 3] {
        [
            ("KEYWARD_CACERT", self.file("ca.pem")),
            ("KEYWARD_CERT", self.file(&format!("{CLIENT}.pem"))),
            ("KEYWARD_KEY", self.file(&format!("{CLIENT}.key"))),
        ]
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.file(name)).expect("the file was made")
    }
}
