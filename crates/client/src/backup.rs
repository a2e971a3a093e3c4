//! A backup that is read part by part.

use std::time::Duration;

use bytes::Bytes;

use crate::carrier::describe;
use keyward_core::error::Error;
use keyward_core::types::DecidedAt;

/// The longest time without a byte, after which the node counts as gone.
const SILENCE: Duration = Duration::from_secs(60);

/// A backup as it arrives from a node.
pub struct BackupDownload {
    response: reqwest::Response,
    decided_at: Option<DecidedAt>,
}

impl BackupDownload {
    pub(super) fn new(response: reqwest::Response, decided_at: Option<DecidedAt>) -> Self {
        Self { response, decided_at }
    }

    /// The log position of the last entry in it.
    pub fn decided_at(&self) -> Option<DecidedAt> {
        self.decided_at
    }

    /// The next part; `None` at the end. Only the checksums of the file tell whether it is whole.
    ///
    /// # Errors
    /// `Unavailable` if the connection ended early.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        match tokio::time::timeout(SILENCE, self.response.chunk()).await {
            Ok(Ok(part)) => Ok(part),
            Ok(Err(error)) => {
                let why = describe(&error);
                Err(Error::unavailable(format!("the backup broke off: {why}")))
            }
            Err(_) => Err(Error::unavailable("the backup broke off: nothing came for a minute")),
        }
    }
}

impl std::fmt::Debug for BackupDownload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let decided_at = &self.decided_at;
        f.debug_struct("BackupDownload").field("decided_at", decided_at).finish_non_exhaustive()
    }
}
