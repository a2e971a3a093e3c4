//! The format of the log: frames, each of which is one batch, and the records in them.
//!
//! A segment is a sequence of frames. A frame is written by one write and synced before the next
//! one is written, so a frame proves that the one before it was durable. A frame contains the
//! segment it was written for (`salt`, a number that no other use of the file shares, so that the
//! old contents of a recycled file are never taken for frames), its position (`sequence`) and the
//! checksum of the header before it (`chain`). Numbers are little-endian. Version 1:
//!
//! ```text
//! header, 64 bytes                          record, 28 bytes and its payload
//!  0 magic "KWB1"    28 records              0 checksum of all that follows in the record
//!  4 version (u16)   32 body length          4 kind: 1 entry, 2 truncate after, 3 truncate all, 4 mark
//!  6 flags (u16)     36 body checksum        8 payload length
//!  8 salt (u64)      40 committed term      12 term (u64)
//! 16 sequence (u64)  48 committed index     20 index (u64)
//! 24 chain           56 zero, 60 checksum of bytes 0 to 59
//! ```
//!
//! Frames begin at multiples of 512 bytes. So no sector holds parts of two frames: writing one
//! never touches acknowledged data before it, a lost sector costs one frame, and the search for a
//! frame after a damaged one has few places to check.

use std::ops::Range;

use crate::storage::envelope::{u32_at, u64_at};
use crate::storage::{LogEntry, LogId};

/// The alignment of frames: a sector, the unit that disks write whole or not at all.
pub(super) const ALIGN: usize = 512;
/// The length of a frame's header.
pub(super) const HEADER: usize = 64;
/// The length of the header before a record's payload.
pub(super) const RECORD_HEADER: usize = 28;

const MAGIC: [u8; 4] = *b"KWB1";
/// The latest version of frames.
pub(super) const VERSION: u16 = 1;
/// The flag of a frame that carries a commit hint.
const HAS_COMMITTED: u16 = 1;

/// The header of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    pub(super) version: u16,
    pub(super) salt: u64,
    pub(super) sequence: u64,
    pub(super) chain: u32,
    pub(super) records: u32,
    pub(super) body_len: u32,
    pub(super) body_checksum: u32,
    pub(super) committed: Option<LogId>,
    /// The header's own checksum: the next frame's chain.
    pub(super) checksum: u32,
}

impl Header {
    /// Reads a header, if these bytes are one written for the segment with this salt.
    pub(super) fn parse(bytes: &[u8], salt: u64) -> Option<Self> {
        let bytes = bytes.get(..HEADER)?;
        if bytes[..4] != MAGIC || u64_at(bytes, 8) != salt {
            return None;
        }
        let checksum = u32_at(bytes, 60);
        if crc32fast::hash(&bytes[..60]) != checksum {
            return None;
        }
        let flags = u16::from_le_bytes([bytes[6], bytes[7]]);
        let committed = LogId { term: u64_at(bytes, 40), index: u64_at(bytes, 48) };
        Some(Self {
            version: u16::from_le_bytes([bytes[4], bytes[5]]),
            salt,
            sequence: u64_at(bytes, 16),
            chain: u32_at(bytes, 24),
            records: u32_at(bytes, 28),
            body_len: u32_at(bytes, 32),
            body_checksum: u32_at(bytes, 36),
            committed: (flags & HAS_COMMITTED != 0).then_some(committed),
            checksum,
        })
    }

    /// The body within `bytes`, which begin with the header, if its checksum matches.
    pub(super) fn body<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let body = bytes.get(HEADER..HEADER.checked_add(self.body_len as usize)?)?;
        let whole = crc32fast::hash(body) == self.body_checksum;
        whole.then_some(body)
    }

    /// The size of the frame in bytes.
    pub(super) fn frame_len(&self) -> usize {
        frame_len(self.body_len as usize)
    }
}

/// The size in bytes of a frame with a body of this length.
pub(super) fn frame_len(body_len: usize) -> usize {
    (HEADER + body_len).next_multiple_of(ALIGN)
}

/// The fields that a frame's header takes over from the frame before it and from its segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) salt: u64,
    pub(super) sequence: u64,
    pub(super) chain: u32,
}

/// A frame under construction.
#[derive(Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    records: u32,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.records == 0
    }

    fn body_len(&self) -> usize {
        // After a seal, the buffer still holds the previous frame.
        if self.is_empty() { 0 } else { self.bytes.len() - HEADER }
    }

    /// The size in bytes the frame would have with another record.
    pub(super) fn len_with(&self, payload: usize) -> usize {
        frame_len(self.body_len() + RECORD_HEADER + payload)
    }

    /// The size of the frame in bytes.
    pub(super) fn len(&self) -> usize {
        frame_len(self.body_len())
    }

    /// Adds an entry. Returns the offset of its record in the frame.
    pub(super) fn entry(&mut self, entry: &LogEntry) -> usize {
        self.record(1, entry.id, &entry.payload)
    }

    /// Adds the removal of all entries after one, or of all.
    pub(super) fn truncate(&mut self, after: Option<LogId>) {
        match after {
            Some(id) => self.record(2, id, &[]),
            None => self.record(3, LogId::default(), &[]),
        };
    }

    /// Adds a mark, which only proves that the frames before it were durable.
    pub(super) fn mark(&mut self) {
        self.record(4, LogId::default(), &[]);
    }

    fn record(&mut self, kind: u32, id: LogId, payload: &[u8]) -> usize {
        if self.records == 0 {
            self.bytes.clear();
            self.bytes.resize(HEADER, 0);
        }
        self.records += 1;
        let start = self.bytes.len();
        let len = u32::try_from(payload.len()).expect("the log refuses larger payloads");
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_le_bytes());
        self.bytes.extend_from_slice(&len.to_le_bytes());
        self.bytes.extend_from_slice(&id.term.to_le_bytes());
        self.bytes.extend_from_slice(&id.index.to_le_bytes());
        self.bytes.extend_from_slice(payload);
        let checksum = crc32fast::hash(&self.bytes[start + 4..]);
        self.bytes[start..start + 4].copy_from_slice(&checksum.to_le_bytes());
        start
    }

    /// Completes the frame. Returns its bytes and its header's checksum; the batch is empty
    /// afterwards.
    pub(super) fn seal(&mut self, place: Place, committed: Option<LogId>) -> (&mut Vec<u8>, u32) {
        let body_len = self.bytes.len() - HEADER;
        let body_checksum = crc32fast::hash(&self.bytes[HEADER..]);
        let flags = if committed.is_some() { HAS_COMMITTED } else { 0 };
        let committed = committed.unwrap_or_default();
        let length = u32::try_from(body_len).expect("the log refuses larger batches");
        let header = &mut self.bytes[..HEADER];
        header[..4].copy_from_slice(&MAGIC);
        header[4..6].copy_from_slice(&VERSION.to_le_bytes());
        header[6..8].copy_from_slice(&flags.to_le_bytes());
        header[8..16].copy_from_slice(&place.salt.to_le_bytes());
        header[16..24].copy_from_slice(&place.sequence.to_le_bytes());
        header[24..28].copy_from_slice(&place.chain.to_le_bytes());
        header[28..32].copy_from_slice(&self.records.to_le_bytes());
        header[32..36].copy_from_slice(&length.to_le_bytes());
        header[36..40].copy_from_slice(&body_checksum.to_le_bytes());
        header[40..48].copy_from_slice(&committed.term.to_le_bytes());
        header[48..56].copy_from_slice(&committed.index.to_le_bytes());
        header[56..60].fill(0);
        let checksum = crc32fast::hash(&header[..60]);
        header[60..64].copy_from_slice(&checksum.to_le_bytes());
        self.bytes.resize(frame_len(body_len), 0);
        self.records = 0;
        (&mut self.bytes, checksum)
    }
}

/// The meaning of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Record {
    /// Appends an entry.
    Entry(LogId),
    /// Removes the entries after this one.
    Truncate(Option<LogId>),
    /// No change; proves that the frames before it were durable.
    Mark,
}

/// A record decoded from bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Found {
    pub(super) record: Record,
    /// The range of the payload within the bytes.
    pub(super) payload: Range<usize>,
}

impl Found {
    /// Reads the record that begins at `at`, if it is whole and its checksum matches.
    pub(super) fn parse(bytes: &[u8], at: usize) -> Option<Self> {
        let header = bytes.get(at..at.checked_add(RECORD_HEADER)?)?;
        let start = at + RECORD_HEADER;
        let end = start.checked_add(u32_at(header, 8) as usize)?;
        let covered = bytes.get(at + 4..end)?;
        let whole = crc32fast::hash(covered) == u32_at(header, 0);
        if !whole {
            return None;
        }
        let id = LogId { term: u64_at(header, 12), index: u64_at(header, 20) };
        let record = match u32_at(header, 4) {
            1 => Record::Entry(id),
            2 => Record::Truncate(Some(id)),
            3 => Record::Truncate(None),
            4 => Record::Mark,
            _ => return None,
        };
        Some(Self { record, payload: start..end })
    }
}
