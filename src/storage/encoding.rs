//! The encodings of the values that several files hold.

use super::identity::Seen;
use super::{LogId, Promises, Uuid, Vote};
use crate::codec::{DecodeError, Encoding, Reader};

impl Encoding for LogId {
    fn put(&self, out: &mut Vec<u8>) {
        let Self { term, index } = self;
        term.put(out);
        index.put(out);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { term: reader.u64()?, index: reader.u64()? })
    }
}

impl Encoding for Vote {
    fn put(&self, out: &mut Vec<u8>) {
        let Self { term, node, committed } = self;
        term.put(out);
        node.put(out);
        committed.put(out);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { term: reader.u64()?, node: reader.u64()?, committed: bool::read(reader)? })
    }
}

impl Encoding for Uuid {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        u128::read(reader).map(Self)
    }
}

impl Encoding for Promises {
    fn put(&self, out: &mut Vec<u8>) {
        let Self { votes, log } = self;
        votes.put(out);
        log.put(out);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { votes: reader.u64()?, log: reader.u64()? })
    }
}

impl Encoding for Seen {
    fn put(&self, out: &mut Vec<u8>) {
        let Self { boot, run, owed, promised, lacks } = self;
        boot.put(out);
        run.put(out);
        owed.put(out);
        promised.put(out);
        lacks.put(out);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            boot: reader.u64()?,
            run: Uuid::read(reader)?,
            owed: Promises::read(reader)?,
            promised: Promises::read(reader)?,
            lacks: bool::read(reader)?,
        })
    }
}
