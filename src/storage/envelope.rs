//! The envelope of small files and headers: magic, version, length, checksum, body.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::StorageError;

/// Bytes before the body: magic (8), version (4), body length (4), CRC of all of it (4).
pub(crate) const HEADER_BYTES: usize = 20;

/// A kind of file, with its latest format version.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) magic: [u8; 8],
    pub(crate) version: u32,
}

/// A body that can be read in every format it was ever written in.
pub(crate) trait Body: Serialize + Sized {
    /// Decodes a body of `version`, which is the kind's version or an earlier one. Returns `None`
    /// if it does not decode.
    fn decode(version: u32, body: &[u8]) -> Option<Self>;
}

/// Reads a body whose struct has not changed since it was written.
pub(crate) fn plain<T: DeserializeOwned>(body: &[u8]) -> Option<T> {
    postcard::from_bytes(body).ok()
}

/// Wraps a body. The CRC covers magic, version, length and body.
pub(crate) fn seal(kind: Kind, body: &impl Body) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_BYTES];
    bytes = postcard::to_extend(body, bytes).expect("plain data in memory always encodes");
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
    let body = T::decode(version, &bytes[HEADER_BYTES..end]);
    Ok((body.ok_or_else(|| damaged("its body does not decode"))?, end))
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
