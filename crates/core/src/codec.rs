//! The primitives that the binary encodings are made of.
//!
//! Integers are LEB128 varints in their shortest form, signed ones zigzag; texts and parts are
//! length-prefixed. One value has one encoding, so equal values give equal bytes. Decoding is
//! total: hostile bytes give a [`DecodeError`], never a panic, and allocations are bounded by the
//! bytes at hand. Names are not validated: a name that was once accepted stays readable, also when
//! the limits of `limits.rs` change.

#![allow(
    clippy::missing_errors_doc,
    reason = "each read fails with a `DecodeError` if the bytes are no such value"
)]

use std::collections::{BTreeMap, BTreeSet};

/// An error of decoding. Data of ours that does not decode is never skipped: the node stops and
/// reports it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end too early.
    #[error("the data ends in the middle of {0}")]
    Truncated(&'static str),
    /// The bytes have no meaning.
    #[error("invalid {0}")]
    Invalid(&'static str),
    /// Bytes are left over after the end.
    #[error("there is more data after {0}")]
    Trailing(&'static str),
    /// The bytes were written by a newer program.
    #[error("{what} has version {found}; this program reads up to version {known}")]
    TooNew {
        /// The name of the data with this version.
        what: &'static str,
        /// Its version.
        found: u64,
        /// The highest version this program reads.
        known: u64,
    },
}

/// Appends `value` as a varint: seven bits to a byte, the lowest first.
pub fn put_u64(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// Appends `value` as a zigzag varint, so that small negative numbers stay short.
pub fn put_i64(out: &mut Vec<u8>, value: i64) {
    put_u64(out, ((value << 1) ^ (value >> 63)).cast_unsigned());
}

/// Appends bytes after their length.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u64(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends a text after its length.
pub fn put_str(out: &mut Vec<u8>, text: &str) {
    put_bytes(out, text.as_bytes());
}

/// Packs one bit per part that is present or true, the first part lowest.
pub fn flags<const N: usize>(parts: [bool; N]) -> u8 {
    const { assert!(N <= 8, "flags fit a byte") };
    parts.iter().rev().fold(0, |bits, part| bits << 1 | u8::from(*part))
}

/// Reads the encodings that the functions above write.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    /// The name of the data being read, for the error.
    what: &'static str,
}

impl<'a> Reader<'a> {
    /// Reads from the start of these bytes; `what` names the value in errors.
    pub fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { rest: bytes, what }
    }

    /// The bytes that are not read yet.
    pub fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// Reads this many bytes.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) =
            self.rest.split_at_checked(count).ok_or(DecodeError::Truncated(self.what))?;
        self.rest = rest;
        Ok(taken)
    }

    /// Reads as many bytes as the array has.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) =
            self.rest.split_first_chunk::<N>().ok_or(DecodeError::Truncated(self.what))?;
        self.rest = rest;
        Ok(*taken)
    }

    /// Reads one byte.
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// Reads what [`put_u64`] wrote, in its shortest form only.
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit; a last byte of zero would be a second encoding.
            if (shift == 63 && bits > 1) || (shift > 0 && byte == 0) {
                return Err(self.invalid());
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.invalid())
    }

    /// Reads a number as [`Reader::u64`] does, within 32 bits.
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        u32::try_from(self.u64()?).map_err(|_| self.invalid())
    }

    /// Reads what [`put_i64`] wrote.
    pub fn i64(&mut self) -> Result<i64, DecodeError> {
        let value = self.u64()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    /// Reads what [`put_bytes`] wrote.
    pub fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let count = self.u64()?;
        // A length beyond the address space is beyond the data, too.
        self.take(usize::try_from(count).unwrap_or(usize::MAX))
    }

    /// Reads what [`put_str`] wrote.
    pub fn str(&mut self) -> Result<&'a str, DecodeError> {
        let bytes = self.bytes()?;
        std::str::from_utf8(bytes).map_err(|_| self.invalid())
    }

    /// One bit per part, see [`flags`]; an unknown bit is refused.
    pub fn flags<const N: usize>(&mut self) -> Result<[bool; N], DecodeError> {
        let bits = u32::from(self.u8()?);
        if bits >> N != 0 {
            return Err(self.invalid());
        }
        Ok(std::array::from_fn(|part| bits >> part & 1 == 1))
    }

    /// Refuses versions that this program does not know.
    pub fn version(&mut self, known: u8) -> Result<(), DecodeError> {
        match self.u8()? {
            0 => Err(self.invalid()),
            found if found > known => Err(DecodeError::TooNew {
                what: self.what,
                found: found.into(),
                known: known.into(),
            }),
            _ => Ok(()),
        }
    }

    /// Refuses bytes that are left over.
    pub fn end(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Trailing(self.what)) }
    }

    /// The error of bytes that are no such value.
    pub fn invalid(&self) -> DecodeError {
        DecodeError::Invalid(self.what)
    }
}

/// A value that has one encoding. It has no version of its own: the message or file that it is part
/// of has one.
pub trait Encoding: Sized {
    /// Appends the value.
    fn put(&self, out: &mut Vec<u8>);

    /// Reads what [`Encoding::put`] wrote: at least one byte.
    ///
    /// # Errors
    /// If the bytes are not such a value.
    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError>;
}

impl Encoding for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(flags([*self]));
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        reader.flags().map(|[value]| value)
    }
}

impl Encoding for u64 {
    fn put(&self, out: &mut Vec<u8>) {
        put_u64(out, *self);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        reader.u64()
    }
}

impl Encoding for u32 {
    fn put(&self, out: &mut Vec<u8>) {
        put_u64(out, u64::from(*self));
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        reader.u32()
    }
}

/// Of fixed width, the highest byte first: these are hashes and random numbers.
impl Encoding for u128 {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_be_bytes());
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        reader.array().map(Self::from_be_bytes)
    }
}

impl Encoding for String {
    fn put(&self, out: &mut Vec<u8>) {
        put_str(out, self);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        reader.str().map(Into::into)
    }
}

impl<T: Encoding> Encoding for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        bool::read(reader)?.then(|| T::read(reader)).transpose()
    }
}

/// A count, which is not trusted with an allocation, and the items.
impl<T: Encoding> Encoding for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        put_u64(out, self.len() as u64);
        for item in self {
            item.put(out);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = reader.u64()?;
        let mut items = Self::new();
        for _ in 0..count {
            items.push(T::read(reader)?);
        }
        Ok(items)
    }
}

/// In ascending order: another one would be a second encoding of the same value.
impl<T: Encoding + Ord> Encoding for BTreeSet<T> {
    fn put(&self, out: &mut Vec<u8>) {
        put_u64(out, self.len() as u64);
        for item in self {
            item.put(out);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = reader.u64()?;
        let mut items = Self::new();
        for _ in 0..count {
            let item = T::read(reader)?;
            if items.last().is_some_and(|last| *last >= item) {
                return Err(reader.invalid());
            }
            items.insert(item);
        }
        Ok(items)
    }
}

/// As a set of keys, each followed by its value.
impl<K: Encoding + Ord, V: Encoding> Encoding for BTreeMap<K, V> {
    fn put(&self, out: &mut Vec<u8>) {
        put_u64(out, self.len() as u64);
        for (key, value) in self {
            key.put(out);
            value.put(out);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = reader.u64()?;
        let mut items = Self::new();
        for _ in 0..count {
            let key = K::read(reader)?;
            if items.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return Err(reader.invalid());
            }
            items.insert(key, V::read(reader)?);
        }
        Ok(items)
    }
}

/// A 128-bit digest that is the same on every machine and in every version: XXH3. It detects the
/// mistakes of an honest client and of a disk. It need not resist forgery: a collision deceives
/// only a lane whose secret number the forger knows.
pub fn digest(bytes: &[u8]) -> u128 {
    xxhash_rust::xxh3::xxh3_128(bytes)
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use super::*;

    fn put(value: &impl Encoding) -> Vec<u8> {
        let mut out = Vec::new();
        value.put(&mut out);
        out
    }

    fn read<T: Encoding>(bytes: &[u8]) -> Result<T, DecodeError> {
        let mut reader = Reader::new(bytes, "a value");
        let value = T::read(&mut reader)?;
        reader.end().map(|()| value)
    }

    fn is_encoded<T: Encoding + PartialEq + Debug>(value: T, bytes: &[u8]) {
        assert_eq!(put(&value), bytes, "{value:?}");
        assert_eq!(read::<T>(bytes), Ok(value));
        for length in 0..bytes.len() {
            assert_eq!(read::<T>(&bytes[..length]), Err(DecodeError::Truncated("a value")));
        }
    }

    #[test]
    fn values_are_written_the_same_for_ever() {
        is_encoded(true, &[1]);
        is_encoded(300_u64, &[0xac, 2]);
        is_encoded(300_u32, &[0xac, 2]);
        is_encoded(0x0102_u128, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
        is_encoded("ab".to_owned(), &[2, b'a', b'b']);
        is_encoded(None::<u64>, &[0]);
        is_encoded(Some(5_u64), &[1, 5]);
        is_encoded(vec![5_u64, 4], &[2, 5, 4]);
        is_encoded(BTreeSet::from([4_u64, 5]), &[2, 4, 5]);
        is_encoded(BTreeMap::from([(1_u64, true), (2, false)]), &[2, 1, 1, 2, 0]);
    }

    #[test]
    fn a_second_encoding_of_a_value_is_refused() {
        let invalid = DecodeError::Invalid("a value");
        assert_eq!(read::<bool>(&[2]), Err(invalid.clone()));
        assert_eq!(read::<u64>(&[0x80, 0]), Err(invalid.clone()));
        assert_eq!(read::<u32>(&[0xff, 0xff, 0xff, 0xff, 0x1f]), Err(invalid.clone()));
        assert_eq!(read::<Option<u64>>(&[2, 5]), Err(invalid.clone()));
        for items in [[2, 5, 4], [2, 4, 4]] {
            assert_eq!(read::<BTreeSet<u64>>(&items), Err(invalid.clone()));
        }
        for items in [[2, 5, 0, 4, 0], [2, 4, 0, 4, 0]] {
            assert_eq!(read::<BTreeMap<u64, bool>>(&items), Err(invalid.clone()));
        }
    }

    #[test]
    fn a_false_count_allocates_nothing() {
        let mut bytes = put(&u64::MAX);
        bytes.push(1);
        assert_eq!(read::<Vec<u64>>(&bytes), Err(DecodeError::Truncated("a value")));
        assert_eq!(read::<String>(&bytes), Err(DecodeError::Truncated("a value")));
    }

    #[test]
    fn a_digest_is_the_same_for_ever() {
        // The test vectors of the published algorithm.
        assert_eq!(digest(b""), 0x99aa_06d3_0147_98d8_6001_c324_468d_497f);
        assert_eq!(digest(b"abc"), 0x06b0_5ab6_733a_6185_78af_5f94_892f_3950);
    }
}
