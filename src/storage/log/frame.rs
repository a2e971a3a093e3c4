//! The bytes of the log: frames, each one batch, and the records in them.
//!
//! A segment is a row of frames. A frame is written by one write and synced before the next one is
//! written, so a frame proves that the one before it was durable. A frame says which segment it
//! was written for (`salt`, a number that no other use of the file shares, so that what a recycled
//! file held before never counts), its place (`sequence`) and the checksum of the header before
//! it (`chain`). Numbers are little-endian. Version 1:
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
//! Frames begin at multiples of 512 bytes. So no sector holds parts of two frames: writing one never
//! touches what was acknowledged before it, a lost sector costs one frame, and the search for a
//! frame behind a damaged one has few places to look at.

use std::ops::Range;

use crate::planted::{self, Bug};
use crate::storage::envelope::{u32_at, u64_at};
use crate::storage::{LogEntry, LogId};

/// Where frames begin: a sector, the unit that disks write whole or not at all.
pub(super) const ALIGN: usize = 512;
/// How long a frame's header is.
pub(super) const HEADER: usize = 64;
/// What is before a record's payload.
pub(super) const RECORD_HEADER: usize = 28;

const MAGIC: [u8; 4] = *b"KWB1";
/// The latest version of frames.
pub(super) const VERSION: u16 = 1;
/// The frame carries a commit hint.
const HAS_COMMITTED: u16 = 1;

/// What a frame is about.
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
    /// Reads a header, if these bytes are one that was written for the segment of this salt.
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

    /// The bytes of the body within `bytes`, which begin with the header, if they are whole.
    pub(super) fn body<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let body = bytes.get(HEADER..HEADER.checked_add(self.body_len as usize)?)?;
        let whole = crc32fast::hash(body) == self.body_checksum;
        (whole || planted::active(Bug::ChecksumIgnored)).then_some(body)
    }

    /// How many bytes the frame takes.
    pub(super) fn frame_len(&self) -> usize {
        frame_len(self.body_len as usize)
    }
}

/// How many bytes a frame with such a body takes.
pub(super) fn frame_len(body_len: usize) -> usize {
    (HEADER + body_len).next_multiple_of(ALIGN)
}

/// What a frame's header takes over from the frame before it and from its segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) salt: u64,
    pub(super) sequence: u64,
    pub(super) chain: u32,
}

/// A frame in the making.
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
        // After a seal the bytes are those of the frame before.
        if self.is_empty() { 0 } else { self.bytes.len() - HEADER }
    }

    /// How many bytes the frame would take with another record.
    pub(super) fn len_with(&self, payload: usize) -> usize {
        frame_len(self.body_len() + RECORD_HEADER + payload)
    }

    /// How many bytes the frame takes.
    pub(super) fn len(&self) -> usize {
        frame_len(self.body_len())
    }

    /// Adds an entry; says where in the frame its record begins.
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

    /// Adds nothing but the fact that the frames before were durable.
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

    /// Completes the frame; gives its bytes and its header's checksum. The batch is empty then.
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

/// What a record says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Record {
    /// An entry follows the last one.
    Entry(LogId),
    /// The entries after this one are gone.
    Truncate(Option<LogId>),
    /// Nothing.
    Mark,
}

/// A record found in bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Found {
    pub(super) record: Record,
    /// Where the payload is within the bytes.
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
        if !whole && !planted::active(Bug::ChecksumIgnored) {
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
