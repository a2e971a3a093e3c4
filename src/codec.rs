//! The primitives that the binary encodings are made of.
//!
//! Integers are LEB128 varints in their shortest form, signed ones zigzag; texts and parts are
//! length-prefixed. One value has one encoding, so equal values give equal bytes. Decoding is
//! total: hostile bytes give a [`DecodeError`], never a panic, and allocations are bounded by the
//! bytes at hand. Names are not validated: a name that was once accepted stays readable, also when
//! the limits of `limits.rs` change.

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
pub(crate) fn put_u64(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// Appends `value` as a zigzag varint, so that small negative numbers stay short.
pub(crate) fn put_i64(out: &mut Vec<u8>, value: i64) {
    put_u64(out, ((value << 1) ^ (value >> 63)).cast_unsigned());
}

/// Appends bytes after their length.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u64(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends a text after its length.
pub(crate) fn put_str(out: &mut Vec<u8>, text: &str) {
    put_bytes(out, text.as_bytes());
}

/// Packs one bit per part that is present or true, the first part lowest.
pub(crate) fn flags<const N: usize>(parts: [bool; N]) -> u8 {
    const { assert!(N <= 8, "flags fit a byte") };
    parts.iter().rev().fold(0, |bits, part| bits << 1 | u8::from(*part))
}

/// Reads the encodings that the functions above write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    /// The name of the data being read, for the error.
    what: &'static str,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { rest: bytes, what }
    }

    /// The bytes that are not read yet.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) =
            self.rest.split_at_checked(count).ok_or(DecodeError::Truncated(self.what))?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) =
            self.rest.split_first_chunk::<N>().ok_or(DecodeError::Truncated(self.what))?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
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

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        u32::try_from(self.u64()?).map_err(|_| self.invalid())
    }

    pub(crate) fn i64(&mut self) -> Result<i64, DecodeError> {
        let value = self.u64()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let count = self.u64()?;
        // A length beyond the address space is beyond the data, too.
        self.take(usize::try_from(count).unwrap_or(usize::MAX))
    }

    pub(crate) fn str(&mut self) -> Result<&'a str, DecodeError> {
        let bytes = self.bytes()?;
        std::str::from_utf8(bytes).map_err(|_| self.invalid())
    }

    /// One bit per part, see [`flags`]; an unknown bit is refused.
    pub(crate) fn flags<const N: usize>(&mut self) -> Result<[bool; N], DecodeError> {
        let bits = u32::from(self.u8()?);
        if bits >> N != 0 {
            return Err(self.invalid());
        }
        Ok(std::array::from_fn(|part| bits >> part & 1 == 1))
    }

    /// Refuses versions that this program does not know.
    pub(crate) fn version(&mut self, known: u8) -> Result<(), DecodeError> {
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
    pub(crate) fn end(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Trailing(self.what)) }
    }

    pub(crate) fn invalid(&self) -> DecodeError {
        DecodeError::Invalid(self.what)
    }
}

/// A 128-bit digest that is the same on every machine and in every version: FNV-1a with the
/// published offset and prime. It detects the mistakes of an honest client. It need not resist
/// forgery: a collision deceives only a lane whose secret number the forger knows.
pub(crate) fn digest(bytes: &[u8]) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    bytes.iter().fold(OFFSET, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME))
}
