//! A state as bytes.

use std::io::{self, Read, Write};

use crate::lock::{DecodeError, State};

/// Builds a state from its meta bytes and its records, in any order.
#[derive(Debug)]
pub struct Loader {
    state: State,
}

impl Loader {
    /// Begins with the meta bytes.
    ///
    /// # Errors
    /// If they are not meta bytes, or of a newer version.
    pub fn new(meta: &[u8]) -> Result<Self, DecodeError> {
        let _ = meta;
        Ok(Self { state: State::new() })
    }

    /// Adds one record.
    ///
    /// # Errors
    /// If it is not a record, or contradicts another.
    pub fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), DecodeError> {
        let _ = (key, value);
        Ok(())
    }

    /// The state.
    ///
    /// # Errors
    /// If records are missing or too many.
    pub fn finish(self) -> Result<State, DecodeError> {
        Ok(self.state)
    }
}

impl State {
    /// The state as bytes. Equal states give equal bytes.
    pub fn encode(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Writes what [`State::encode`] returns, piece by piece, so that a large state is never in
    /// memory twice.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn encode_into(&self, writer: &mut impl Write) -> io::Result<()> {
        writer.write_all(&self.encode())
    }

    /// Reads what [`State::encode`] wrote.
    ///
    /// # Errors
    /// If the bytes are not a state. It never panics.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let _ = bytes;
        Ok(Self::new())
    }

    /// Reads what [`State::encode_into`] wrote, piece by piece.
    ///
    /// # Errors
    /// Those of the reader; `InvalidData` with a [`DecodeError`] if the bytes are not a state.
    pub fn decode_from(reader: &mut impl Read) -> io::Result<Self> {
        let _ = reader;
        Ok(Self::new())
    }

    /// Builds a state from what [`State::take_changes`] gave, or from
    /// [`State::encoded_meta`] and [`State::encoded_records`].
    ///
    /// # Errors
    /// If the bytes are not a state's.
    pub fn from_records<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        meta: &[u8],
        records: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, DecodeError> {
        let mut loader = Loader::new(meta)?;
        for (key, value) in records {
            loader.add(key.as_ref(), value.as_ref())?;
        }
        loader.finish()
    }

    /// The meta bytes: everything that is not a record.
    pub fn encoded_meta(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Every record as key and value bytes, in key order: what a checkpoint is refilled with.
    pub fn encoded_records(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> + '_ {
        std::iter::empty()
    }
}
