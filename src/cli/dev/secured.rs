//! The certificates of `keyward dev --tls`: a CA and one of each node, in a folder beside the data.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::cli::cert::write_pair;
use crate::cli::exit::{self, Failure};
use crate::client::tls::Tls;
use crate::tls::issue::{Ca, Validity};

/// The name of the folder: one that nobody else would choose for certificates of their own.
const FOLDER: &str = "dev-certificates";

/// The number of days for which they are valid. Each start makes new ones.
const DAYS: u32 = 365;

/// The certificates of a cluster.
#[derive(Clone, Debug)]
pub(super) struct Certificates(PathBuf);

impl Certificates {
    /// Makes a CA and the certificates of this many nodes. Those of an earlier run are replaced: the
    /// nodes all start together.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(super) fn make(below: &Path, nodes: u16) -> Result<Self, Failure> {
        let folder = below.join(FOLDER);
        let cannot = |error: std::io::Error| {
            Failure::new(exit::UNAVAILABLE, format!("cannot write {}: {error}", folder.display()))
        };
        fs::create_dir_all(&folder).map_err(cannot)?;
        // Those of an earlier run alone: whatever else is there belongs to somebody.
        let nodes_of_it = (1..=u64::from(nodes))
            .flat_map(|id| ["pem", "key"].map(|kind| format!("node-{id}.{kind}")));
        for name in nodes_of_it.chain(["ca.pem".to_owned()]) {
            match fs::remove_file(folder.join(name)) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(cannot(error)),
                Ok(()) | Err(_) => {}
            }
        }
        let failed = |error| Failure::new(exit::BROKEN, format!("{error}"));
        let validity = Validity::days(DAYS);
        let (ca, issued) = Ca::make("keyward dev", validity).map_err(failed)?;
        // Nobody signs with it later, so its key is not kept.
        fs::write(folder.join("ca.pem"), issued.certificate).map_err(cannot)?;
        let hosts = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        for id in 1..=u64::from(nodes) {
            let issued = ca.node(id, &hosts, validity).map_err(failed)?;
            write_pair(&folder, &format!("node-{id}"), &issued)?;
        }
        Ok(Self(std::path::absolute(&folder).map_err(cannot)?))
    }

    /// The folder.
    pub(super) fn folder(&self) -> &Path {
        &self.0
    }

    /// The file of the CA.
    pub(super) fn ca(&self) -> PathBuf {
        self.0.join("ca.pem")
    }

    /// The TLS of a client.
    ///
    /// # Errors
    /// The CA's file is gone.
    pub(super) fn client(&self) -> Result<Tls, Failure> {
        let path = self.ca();
        let ca = fs::read(&path).map_err(|error| {
            Failure::new(exit::BROKEN, format!("cannot read {}: {error}", path.display()))
        })?;
        Ok(Tls::default().ca_certificates(ca))
    }
}
