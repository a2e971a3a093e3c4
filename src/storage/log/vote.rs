//! The vote file: two slots that hold the same vote, a page apart.
//!
//! A vote is written to the first slot and synced, then to the second and synced, and only then
//! reported. So at any time one slot is intact: a crash in between leaves the old vote in the
//! second (nothing was reported) or the new one in the first. Later damage to one slot leaves the
//! other, and the result is right either way. If both are damaged, the node must not vote, because
//! it may already have voted in the term it would vote in again.

use std::sync::Arc;

use crate::codec::{DecodeError, Encoding, Reader};
use crate::storage::disk::{self, Disk, DiskFile};
use crate::storage::envelope::{self, Body, Kind, NEVER_RELEASED};
use crate::storage::error::REPLACE_NODE;
use crate::storage::{StorageError, Vote};

pub(super) const FILE: &str = "vote";
const KIND: Kind = Kind { magic: *b"KWVOTE1\n", version: 2 };
/// The slots are a page apart, so that one torn page never hits both.
const SLOT_BYTES: usize = 4096;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Slot {
    sequence: u64,
    vote: Option<Vote>,
}

impl Body for Slot {
    fn put(&self, out: &mut Vec<u8>) {
        let Self { sequence, vote } = self;
        sequence.put(out);
        vote.put(out);
    }

    fn read(version: u32, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if version < 2 {
            return Err(NEVER_RELEASED);
        }
        Ok(Self { sequence: reader.u64()?, vote: Option::read(reader)? })
    }
}

/// The open vote file.
pub(super) struct VoteFile {
    file: Arc<dyn DiskFile>,
    sequence: u64,
}

/// The contents of the vote file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Read {
    slot: Slot,
    /// The slot that cannot be read, if any.
    pub(super) bad: Option<usize>,
    /// The slot to rewrite first when the file is opened for writing. A bad one comes first,
    /// because until it is intact the other is the only copy. Otherwise it is the newer one,
    /// because the older holds the vote that is valid as long as the newer is not durable.
    rewrite_first: usize,
}

impl Read {
    pub(super) fn vote(&self) -> Option<Vote> {
        self.slot.vote
    }
}

/// Reads the vote file; `None` if there is none.
pub(super) fn read(disk: &dyn Disk) -> Result<Option<Read>, StorageError> {
    if !disk.exists(FILE).map_err(StorageError::io("look for", FILE))? {
        return Ok(None);
    }
    let bytes = disk::read_all(disk, FILE).map_err(StorageError::io("read", FILE))?;
    let slot = |number: usize| -> Result<Slot, StorageError> {
        let start = (number * SLOT_BYTES).min(bytes.len());
        Ok(envelope::unseal(KIND, &bytes[start..], FILE, start as u64)?.0)
    };
    let read = match (slot(0), slot(1)) {
        (Err(newer @ StorageError::Version { .. }), _)
        | (_, Err(newer @ StorageError::Version { .. })) => return Err(newer),
        (Ok(first), Ok(second)) if first.sequence >= second.sequence => {
            Read { slot: first, bad: None, rewrite_first: 0 }
        }
        (Ok(_), Ok(second)) => Read { slot: second, bad: None, rewrite_first: 1 },
        (Ok(first), Err(_)) => Read { slot: first, bad: Some(1), rewrite_first: 1 },
        (Err(_), Ok(second)) => Read { slot: second, bad: Some(0), rewrite_first: 0 },
        (Err(_), Err(_)) => {
            return Err(StorageError::Damaged {
                file: FILE.to_owned(),
                offset: 0,
                what: "neither of its two slots can be read".to_owned(),
                advice: REPLACE_NODE,
            });
        }
    };
    Ok(Some(read))
}

/// Creates the file, with no vote in it; durable when this returns.
pub(super) fn create(disk: &dyn Disk) -> Result<(), StorageError> {
    let mut bytes = encode(Slot { sequence: 0, vote: None });
    bytes.resize(SLOT_BYTES, 0);
    let mut both = bytes.clone();
    both.append(&mut bytes);
    disk::replace(disk, FILE, &both).map_err(StorageError::io("create", FILE))
}

impl VoteFile {
    /// Opens the file. The vote that was read is made durable in both slots: it may have come from
    /// a cache that was never written to the disk, or from one slot alone.
    pub(super) fn open(disk: &dyn Disk) -> Result<Self, StorageError> {
        let read = read(disk)?.ok_or_else(|| {
            let lost = std::io::Error::from(std::io::ErrorKind::NotFound);
            StorageError::io("open", FILE)(lost)
        })?;
        let file = disk.open(FILE).map_err(StorageError::io("open", FILE))?;
        let this = Self { file, sequence: read.slot.sequence };
        for number in [read.rewrite_first, 1 - read.rewrite_first] {
            this.write_slot(number, read.slot)?;
        }
        Ok(this)
    }

    /// The number of votes saved.
    pub(super) fn count(&self) -> u64 {
        self.sequence
    }

    /// Saves a vote; durable when it returns.
    pub(super) fn save(&mut self, vote: Vote) -> Result<(), StorageError> {
        self.sequence += 1;
        let slot = Slot { sequence: self.sequence, vote: Some(vote) };
        self.write_slot(0, slot)?;
        self.write_slot(1, slot)
    }

    fn write_slot(&self, number: usize, slot: Slot) -> Result<(), StorageError> {
        let offset = (number * SLOT_BYTES) as u64;
        let write = self.file.write_at(&encode(slot), offset);
        write.map_err(StorageError::io("write", FILE))?;
        self.file.sync_data().map_err(StorageError::io("sync", FILE))
    }
}

fn encode(slot: Slot) -> Vec<u8> {
    // Padded to a sector, so that an encoding shorter than the last one overwrites all of it.
    let mut bytes = envelope::seal(KIND, &slot);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vote_is_written_the_same_for_ever() {
        let vote = Some(Vote { term: 300, node: 2, committed: true });
        envelope::assert_written(KIND, &Slot { sequence: 7, vote }, "0701ac020201");
        envelope::assert_written(KIND, &Slot { sequence: 0, vote: None }, "0000");
    }
}
