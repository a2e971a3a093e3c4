//! The manifest: the list of the log's segment files, and the last purged entry.
//!
//! It is replaced atomically, so a crash leaves the old or the new one. A segment's file is durable
//! before the manifest names it, and is released only after the manifest that no longer names it is
//! durable.

use crate::codec::{DecodeError, Encoding, Reader};
use crate::storage::disk::{self, Disk};
use crate::storage::envelope::{self, Body, Kind, NEVER_RELEASED};
use crate::storage::{LogId, StorageError};

pub(super) const FOLDER: &str = "log";
pub(super) const FILE: &str = "log/manifest";
const KIND: Kind = Kind { magic: *b"KWMANIF\n", version: 2 };

/// The contents of the manifest.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Manifest {
    /// The last entry that was purged.
    pub(super) purged: Option<LogId>,
    /// The commit hint when the manifest was written; frames carry later ones.
    pub(super) committed: Option<LogId>,
    /// The number of the next segment file.
    pub(super) next_file: u64,
    /// The segments, oldest first; the last one is being written.
    pub(super) segments: Vec<SegmentMeta>,
}

/// A segment's entry in the manifest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SegmentMeta {
    /// The number in the file's name.
    pub(super) file: u64,
    /// The file's length.
    pub(super) bytes: u64,
    /// A number that distinguishes this use of the file from every other.
    pub(super) salt: u64,
    /// The sequence of its first frame.
    pub(super) first_sequence: u64,
    /// The chain of its first frame.
    pub(super) chain: u32,
    /// The log's last entry when the segment was begun.
    pub(super) before: Option<LogId>,
}

impl Body for Manifest {
    fn put(&self, out: &mut Vec<u8>) {
        let Self { purged, committed, next_file, segments } = self;
        purged.put(out);
        committed.put(out);
        next_file.put(out);
        segments.put(out);
    }

    fn read(version: u32, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if version < 2 {
            return Err(NEVER_RELEASED);
        }
        Ok(Self {
            purged: Option::read(reader)?,
            committed: Option::read(reader)?,
            next_file: reader.u64()?,
            segments: Vec::read(reader)?,
        })
    }
}

impl Encoding for SegmentMeta {
    fn put(&self, out: &mut Vec<u8>) {
        let Self { file, bytes, salt, first_sequence, chain, before } = self;
        file.put(out);
        bytes.put(out);
        salt.put(out);
        first_sequence.put(out);
        chain.put(out);
        before.put(out);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            file: reader.u64()?,
            bytes: reader.u64()?,
            salt: reader.u64()?,
            first_sequence: reader.u64()?,
            chain: reader.u32()?,
            before: Option::read(reader)?,
        })
    }
}

impl SegmentMeta {
    pub(super) fn path(&self) -> String {
        segment_path(self.file)
    }
}

pub(super) fn segment_path(file: u64) -> String {
    format!("{FOLDER}/segment-{file:010}")
}

impl Manifest {
    /// Reads the manifest; `None` if there is none.
    pub(super) fn load(disk: &dyn Disk) -> Result<Option<Self>, StorageError> {
        if !disk.exists(FILE).map_err(StorageError::io("look for", FILE))? {
            return Ok(None);
        }
        let bytes = disk::read_all(disk, FILE).map_err(StorageError::io("read", FILE))?;
        Ok(Some(envelope::unseal(KIND, &bytes, FILE, 0)?.0))
    }

    /// Replaces the manifest; durable when it returns.
    pub(super) fn store(&self, disk: &dyn Disk) -> Result<(), StorageError> {
        disk::replace(disk, FILE, &envelope::seal(KIND, self))
            .map_err(StorageError::io("replace", FILE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_written_the_same_for_ever() {
        let id = |term, index| Some(LogId { term, index });
        let segment = SegmentMeta {
            file: 3,
            bytes: 300,
            salt: 4,
            first_sequence: 5,
            chain: 6,
            before: id(1, 7),
        };
        let manifest =
            Manifest { purged: id(1, 2), committed: None, next_file: 4, segments: vec![segment] };
        envelope::assert_written(KIND, &manifest, "01010200040103ac02040506010107");
    }
}
