//! A backup as it is made: the state as of one entry, in the format of a snapshot, part by part.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::clock::Deadline;
use crate::error::Error;
use crate::raft::member::Member;
use crate::raft::state_machine::{Machine, stored_meta};
use crate::storage::snapshots;
use crate::task::{DroppedAside, blocking, of_host};
use crate::types::DecidedAt;

/// The bytes that are passed on at once.
const PART_BYTES: usize = 256 << 10;

/// The parts that wait for a reader that is slower than the disk.
const PARTS: usize = 4;

/// A backup that is being read.
pub struct BackupStream {
    /// The last entry in it.
    pub position: DecidedAt,
    /// Its bytes.
    pub parts: BoxStream<'static, io::Result<Bytes>>,
}

/// Permits to make a backup. One at a time: each keeps a state of its own in memory as the live one
/// changes.
pub(super) struct Backups(Arc<Semaphore>);

impl Default for Backups {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl Backups {
    /// Begins a backup with everything up to an entry at least, once that is applied here.
    pub(super) async fn begin(
        &self,
        member: &Arc<Member>,
        at_least: Option<u64>,
        deadline: Deadline,
    ) -> Result<BackupStream, Error> {
        let permit = Arc::clone(&self.0).try_acquire_owned().map_err(|_| {
            Error::unavailable(
                "a backup of this node is being read already: try again, or ask another",
            )
        })?;
        let behind = || Error::unavailable("this node is behind with what is committed");
        let waited = member.raft.wait(Some(deadline.remaining()));
        waited
            .applied_index_at_least(at_least, "what a backup has to have")
            .await
            .map_err(|_| behind())?;
        let look = |machine: &Machine| (machine.meta(), machine.state.clone());
        let (meta, state) = member.replica.look(look).await;
        let state = DroppedAside::new(state);
        // A cluster that is not formed yet has nothing to back up.
        let last = meta.last_log_id.ok_or_else(behind)?;
        let position = DecidedAt { index: last.index(), position: u32::MAX };
        let meta = stored_meta(&meta, member.identity.facts().cluster, state.feature_level());
        let (sender, receiver) = mpsc::channel(PARTS);
        tokio::spawn(of_host(async move {
            let parts = sender.clone();
            let written = blocking(move || {
                let mut parts = Parts { sender: parts, part: Vec::with_capacity(PART_BYTES) };
                let encode = |mut out: &mut dyn io::Write| state.encode_into(&mut out);
                snapshots::write_to(&meta, |bytes| parts.push(bytes), encode)
                    .map_err(io::Error::other)?;
                parts.flush()
            });
            // A reader that is told of no failure takes what it has for all; one that has gone away
            // is told nothing.
            if let Err(error) = written.await.and_then(|written| written) {
                let _ = sender.send(Err(error)).await;
            }
        }));
        Ok(BackupStream { position, parts: parts(receiver, permit) })
    }
}

/// The parts, and the permit for as long as they are read.
fn parts(
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    permit: OwnedSemaphorePermit,
) -> BoxStream<'static, io::Result<Bytes>> {
    Box::pin(stream::unfold((receiver, permit), |(mut receiver, permit)| async move {
        receiver.recv().await.map(|part| (part, (receiver, permit)))
    }))
}

/// Collects what is written into parts, and waits for whoever reads them.
struct Parts {
    sender: mpsc::Sender<io::Result<Bytes>>,
    part: Vec<u8>,
}

impl Parts {
    fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.part.extend_from_slice(bytes);
        if self.part.len() < PART_BYTES { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> io::Result<()> {
        let next = Vec::with_capacity(PART_BYTES);
        let part = std::mem::replace(&mut self.part, next);
        let sent = self.sender.blocking_send(Ok(part.into()));
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
