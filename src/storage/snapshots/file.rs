//! The format of a snapshot file, written and read chunk by chunk, because the state in it may be
//! too large to hold in memory twice.
//!
//! ```text
//! header   as in `envelope`: magic "KWSNAP1\n", version, length, CRC; SnapshotMeta
//! chunks   each: length (u32, not 0), CRC (u32), bytes
//! end      0 (u32), CRC of all bytes before the end (u32), length of the body (u64)
//! ```

use std::io::{self, Read, Write};

use super::SnapshotMeta;
use crate::limits::SNAPSHOT_CHUNK_BYTES as CHUNK_BYTES;
use crate::storage::StorageError;
use crate::storage::disk::DiskFile;
use crate::storage::envelope::{self, HEADER_BYTES, Kind, u32_at, u64_at};

pub(super) const KIND: Kind = Kind { magic: *b"KWSNAP1\n", version: 3 };
/// The length of the header before each chunk.
const CHUNK_HEADER: usize = 8;
/// A header or chunk longer than this is treated as damage, so that no memory is allocated for it.
const MAX_PART_BYTES: usize = 64 << 20;
const END_BYTES: usize = 16;

const _: () = assert!(CHUNK_BYTES <= MAX_PART_BYTES, "every chunk can be read again");

/// The place where a snapshot file is written to.
pub(super) trait Sink {
    fn append(&mut self, bytes: &[u8]) -> Result<(), StorageError>;

    /// An error that did not come from writing.
    fn unencodable(&self, error: io::Error) -> StorageError;
}

/// Writes a body.
pub(super) struct BodyWriter<S> {
    sink: S,
    whole: crc32fast::Hasher,
    /// The next chunk, after the space reserved for its header.
    chunk: Vec<u8>,
    body_bytes: u64,
}

impl<S: Sink> BodyWriter<S> {
    pub(super) fn begin(sink: S, meta: &SnapshotMeta) -> Result<Self, StorageError> {
        let mut chunk = Vec::with_capacity(CHUNK_HEADER + CHUNK_BYTES);
        chunk.resize(CHUNK_HEADER, 0);
        let whole = crc32fast::Hasher::new();
        let mut this = Self { sink, whole, chunk, body_bytes: 0 };
        let header = envelope::seal(KIND, meta);
        this.whole.update(&header);
        this.sink.append(&header)?;
        Ok(this)
    }

    fn end_chunk(&mut self) -> Result<(), StorageError> {
        let (header, bytes) = self.chunk.split_at_mut(CHUNK_HEADER);
        if bytes.is_empty() {
            return Ok(());
        }
        let len = u32::try_from(bytes.len()).expect("a chunk is small");
        header[..4].copy_from_slice(&len.to_le_bytes());
        header[4..].copy_from_slice(&crc32fast::hash(bytes).to_le_bytes());
        self.body_bytes += u64::from(len);
        self.whole.update(&self.chunk);
        self.sink.append(&self.chunk)?;
        self.chunk.truncate(CHUNK_HEADER);
        Ok(())
    }

    /// Writes the end. Returns the sink and the length of the body.
    pub(super) fn end(mut self) -> Result<(S, u64), StorageError> {
        self.end_chunk()?;
        let mut end = [0; END_BYTES];
        end[4..8].copy_from_slice(&self.whole.finalize().to_le_bytes());
        end[8..].copy_from_slice(&self.body_bytes.to_le_bytes());
        self.sink.append(&end)?;
        Ok((self.sink, self.body_bytes))
    }

    /// The reason why the body could not be written: the error of the disk, if it came from the
    /// disk.
    pub(super) fn unwritable(&self, error: io::Error) -> StorageError {
        error.downcast().unwrap_or_else(|error| self.sink.unencodable(error))
    }
}

impl<S: Sink> Write for BodyWriter<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = CHUNK_HEADER + CHUNK_BYTES - self.chunk.len();
        let taken = room.min(bytes.len());
        self.chunk.extend_from_slice(&bytes[..taken]);
        if taken == room {
            self.end_chunk().map_err(io::Error::other)?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a snapshot file chunk by chunk, checking everything.
pub(super) struct Scan<'a> {
    parts: Parts<'a>,
    /// The snapshot's meta data. The length of the body counts what was read so far.
    meta: SnapshotMeta,
}

impl<'a> Scan<'a> {
    /// Reads the header.
    pub(super) fn begin(file: &'a dyn DiskFile, path: &'a str) -> Result<Self, StorageError> {
        let mut parts = Parts { file, path, offset: 0, whole: crc32fast::Hasher::new() };
        let mut header = parts.take(HEADER_BYTES)?;
        header.extend(parts.take(u32_at(&header, 12) as usize)?);
        let (meta, _) = envelope::unseal(KIND, &header, path, 0)?;
        Ok(Self { parts, meta })
    }

    /// Reads the next chunk of the body. Returns `None` at the end of the file, once the whole file
    /// is verified.
    pub(super) fn next(&mut self) -> Result<Option<Vec<u8>>, StorageError> {
        let whole = self.parts.whole.clone().finalize();
        let head = self.parts.take(CHUNK_HEADER)?;
        let (len, crc) = (u32_at(&head, 0) as usize, u32_at(&head, 4));
        if len == 0 {
            return self.end(whole, crc).map(|()| None);
        }
        let chunk = self.parts.take(len)?;
        if crc32fast::hash(&chunk) != crc {
            let what = "the checksum of the part before that does not match";
            return Err(self.parts.damaged(what));
        }
        self.meta.body_bytes += chunk.len() as u64;
        Ok(Some(chunk))
    }

    fn end(&mut self, whole: u32, declared_crc: u32) -> Result<(), StorageError> {
        let declared = u64_at(&self.parts.take(END_BYTES - CHUNK_HEADER)?, 0);
        if declared_crc != whole || declared != self.meta.body_bytes {
            return Err(self.parts.damaged("its end does not match what is before it"));
        }
        let Parts { file, path, offset, .. } = &self.parts;
        let len = file.len().map_err(StorageError::io("look at", *path))?;
        if len != *offset {
            return Err(self.parts.damaged("there are bytes behind its end"));
        }
        Ok(())
    }
}

/// Verifies a whole file. Returns its meta data and its length.
pub(super) fn verify(file: &dyn DiskFile, path: &str) -> Result<(SnapshotMeta, u64), StorageError> {
    let mut scan = Scan::begin(file, path)?;
    while scan.next()?.is_some() {}
    Ok((scan.meta, scan.parts.offset))
}

/// The parts of a file, one after the other.
struct Parts<'a> {
    file: &'a dyn DiskFile,
    path: &'a str,
    offset: u64,
    whole: crc32fast::Hasher,
}

impl Parts<'_> {
    fn take(&mut self, len: usize) -> Result<Vec<u8>, StorageError> {
        if len > MAX_PART_BYTES {
            return Err(self.damaged("a length there is impossible"));
        }
        let mut bytes = vec![0; len];
        let read = self.file.read_at(&mut bytes, self.offset);
        let read = read.map_err(StorageError::io("read", self.path))?;
        if read < len {
            return Err(self.damaged("it ends too early"));
        }
        self.offset += len as u64;
        self.whole.update(&bytes);
        Ok(bytes)
    }

    fn damaged(&self, what: &str) -> StorageError {
        StorageError::damaged(self.path, self.offset, what)
    }
}

/// Reads the body of a snapshot file. Its end is reported only if the file is whole.
pub struct BodyReader<'a> {
    scan: Scan<'a>,
    chunk: Vec<u8>,
    at: usize,
    ended: bool,
}

impl<'a> BodyReader<'a> {
    pub(super) fn open(file: &'a dyn DiskFile, path: &'a str) -> Result<Self, StorageError> {
        let scan = Scan::begin(file, path)?;
        Ok(Self { scan, chunk: Vec::new(), at: 0, ended: false })
    }

    /// The snapshot's meta data. The length of the body is known at its end.
    pub fn meta(&self) -> &SnapshotMeta {
        &self.scan.meta
    }

    /// Verifies the rest of the file. Returns its meta data.
    pub(super) fn finish(mut self) -> Result<SnapshotMeta, StorageError> {
        while !self.ended {
            self.advance()?;
        }
        Ok(self.scan.meta)
    }

    fn advance(&mut self) -> Result<(), StorageError> {
        self.at = 0;
        self.chunk = self.scan.next()?.unwrap_or_default();
        self.ended = self.chunk.is_empty();
        Ok(())
    }
}

impl Read for BodyReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at == self.chunk.len() && !self.ended {
            self.advance().map_err(io::Error::other)?;
        }
        let rest = &self.chunk[self.at..];
        let taken = rest.len().min(out.len());
        out[..taken].copy_from_slice(&rest[..taken]);
        self.at += taken;
        Ok(taken)
    }
}

/// The reason why a body could not be used: the damage in the file, if there is any.
pub(super) fn unreadable(path: &str, error: io::Error) -> StorageError {
    error.downcast().unwrap_or_else(|error| {
        if error.kind() == io::ErrorKind::Unsupported {
            return StorageError::TooNew { file: path.to_owned(), what: error.to_string() };
        }
        StorageError::damaged(path, 0, format!("the state in it does not decode: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_is_too_new_is_not_called_damaged() {
        let newer = unreadable("file", io::Error::new(io::ErrorKind::Unsupported, "level 2"));
        assert_eq!(newer.to_string(), "file cannot be used: level 2");
        let damaged = unreadable("file", io::Error::new(io::ErrorKind::InvalidData, "a bit"));
        assert!(damaged.to_string().contains("is damaged at byte 0"), "{damaged}");
    }
}
