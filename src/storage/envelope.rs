//! The envelope of small files and headers: magic, version, length, checksum, body.

use super::StorageError;
use crate::codec::{DecodeError, Reader};

/// Bytes before the body: magic (8), version (4), body length (4), CRC of all of it (4).
pub(crate) const HEADER_BYTES: usize = 20;

/// A kind of file, with its latest format version.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) magic: [u8; 8],
    pub(crate) version: u32,
}

/// A body that can be read in every format it was ever written in since the first release.
pub(crate) trait Body: Sized {
    /// Appends the body in the format of the kind's version.
    fn put(&self, out: &mut Vec<u8>);

    /// Reads a body of `version`, which is the kind's version or an earlier one.
    ///
    /// # Errors
    /// If the bytes are not such a body.
    fn read(version: u32, reader: &mut Reader<'_>) -> Result<Self, DecodeError>;
}

/// The error for a version that no released program wrote.
pub(crate) const NEVER_RELEASED: DecodeError =
    DecodeError::Invalid("version: it was written by a build from before the first release");

/// Wraps a body. The CRC covers magic, version, length and body.
pub(crate) fn seal(kind: Kind, body: &impl Body) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_BYTES];
    body.put(&mut bytes);
    let length = u32::try_from(bytes.len() - HEADER_BYTES).expect("a small file's body is small");
    bytes[..8].copy_from_slice(&kind.magic);
    bytes[8..12].copy_from_slice(&kind.version.to_le_bytes());
    bytes[12..16].copy_from_slice(&length.to_le_bytes());
    let crc = checksum(&bytes);
    bytes[16..20].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Unwraps the output of [`seal`], found at `offset` of `file` (both are used only in messages).
/// Bytes after the body are ignored. Returns the body and the number of bytes used.
pub(crate) fn unseal<T: Body>(
    kind: Kind,
    bytes: &[u8],
    file: &str,
    offset: u64,
) -> Result<(T, usize), StorageError> {
    let damaged = |what: &str| StorageError::damaged(file, offset, what);
    if bytes.len() < HEADER_BYTES {
        return Err(damaged("it ends inside its header"));
    }
    if bytes[..8] != kind.magic {
        return Err(damaged("it does not begin as a file of its kind"));
    }
    let end = HEADER_BYTES.saturating_add(u32_at(bytes, 12) as usize);
    if end > bytes.len() {
        return Err(damaged("its header's length exceeds the file"));
    }
    if checksum(&bytes[..end]) != u32_at(bytes, 16) {
        return Err(damaged("its checksum does not match"));
    }
    let version = u32_at(bytes, 8);
    if version > kind.version {
        let file = file.to_owned();
        return Err(StorageError::Version { file, found: version, known: kind.version });
    }
    let mut reader = Reader::new(&bytes[HEADER_BYTES..end], "body");
    let body = T::read(version, &mut reader).and_then(|body| reader.end().map(|()| body));
    Ok((body.map_err(|error| damaged(&format!("its body does not decode: {error}")))?, end))
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..16]);
    hasher.update(&bytes[HEADER_BYTES..]);
    hasher.finalize()
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Asserts that a body has these bytes, in hexadecimal, and reads back from them; that one of a
/// later version is refused as such, and one from before the first release, too.
#[cfg(test)]
pub(crate) fn assert_written<T: Body + PartialEq + std::fmt::Debug>(
    kind: Kind,
    body: &T,
    golden: &str,
) {
    let bytes = seal(kind, body);
    let written = bytes[HEADER_BYTES..].iter().map(|byte| format!("{byte:02x}"));
    assert_eq!(written.collect::<Vec<_>>().concat(), golden);
    let (read, used) = unseal::<T>(kind, &bytes, "file", 0).unwrap();
    assert_eq!((&read, used), (body, bytes.len()));
    let later = seal(Kind { version: kind.version + 1, ..kind }, body);
    let error = unseal::<T>(kind, &later, "file", 0).unwrap_err();
    assert!(matches!(error, StorageError::Version { .. }), "{error}");
    let early = seal(Kind { version: 1, ..kind }, body);
    let error = unseal::<T>(kind, &early, "file", 0).unwrap_err().to_string();
    assert!(error.contains("its body does not decode: invalid version"), "{error}");
}
