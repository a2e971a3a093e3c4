//! A history as JSON lines.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

use serde::Serialize;

use super::{Entry, FORMAT, Footer, Header, OLDEST, Operation, VERSION};

/// The longest line that is read: an observation of a node with a million records fits.
const MAX_LINE_BYTES: usize = 512 * 1024 * 1024;

/// A whole history in memory.
#[derive(Clone, PartialEq, Debug)]
pub struct History {
    /// The first line.
    pub header: Header,
    /// The lines between.
    pub entries: Vec<Entry>,
    /// The last line.
    pub footer: Footer,
}

/// A history cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The file cannot be read.
    #[error("the history cannot be read")]
    Io(#[from] io::Error),
    /// A line is malformed.
    #[error("line {line} of the history is no {what}")]
    Line {
        /// The number of the line, from 1.
        line: u64,
        /// The expected kind of line.
        what: &'static str,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// The file has another format, or a newer version.
    #[error("this is {format} {version}; this program reads {FORMAT} {OLDEST} to {VERSION}")]
    Format {
        /// The format that it names.
        format: String,
        /// The version that it names.
        version: u32,
    },
    /// It ends without a footer: it was truncated, so operations may be missing from it.
    #[error("the history was cut after line {line}: it has no footer")]
    Cut {
        /// The last line that it has.
        line: u64,
    },
    /// The footer's count of operations is wrong.
    #[error("the footer counts {counted} operations, and there are {found}")]
    Miscounted {
        /// The count in the footer.
        counted: u64,
        /// The actual count.
        found: u64,
    },
    /// An operation contradicts itself.
    #[error("operation {id} {what}")]
    Operation {
        /// Its id.
        id: u64,
        /// The contradiction.
        what: &'static str,
    },
}

impl History {
    /// Reads a whole file.
    ///
    /// # Errors
    /// If it is not a complete history.
    pub fn read(path: &Path) -> Result<Self, HistoryError> {
        let mut reader = Reader::open(path)?;
        let entries = reader.by_ref().collect::<Result<_, _>>()?;
        let footer = reader.footer().ok_or(HistoryError::Cut { line: 0 })?;
        Ok(Self { header: reader.header, entries, footer })
    }

    /// Writes it as lines.
    ///
    /// # Errors
    /// If the writer fails.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        write_line(out, &self.header)?;
        for entry in &self.entries {
            write_line(out, entry)?;
        }
        write_line(out, &self.footer)
    }

    /// The operations, in the order in which they ended.
    pub fn operations(&self) -> impl Iterator<Item = &Operation> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::Operation(operation) => Some(operation),
            Entry::Session(_)
            | Entry::Fault(_)
            | Entry::Event(_)
            | Entry::Observation(_)
            | Entry::Applied(_) => None,
        })
    }
}

pub(super) fn write_line(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")
}

/// Reads entry after entry, with one in memory at a time.
#[derive(Debug)]
pub struct Reader<R = BufReader<File>> {
    source: R,
    header: Header,
    footer: Option<Footer>,
    buffer: Vec<u8>,
    line: u64,
    operations: u64,
    ended: bool,
}

impl Reader {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// If it is not a history.
    pub fn open(path: &Path) -> Result<Self, HistoryError> {
        Self::new(BufReader::with_capacity(1 << 20, File::open(path)?))
    }
}

impl<R: BufRead> Reader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// If it is not the header of a history.
    pub fn new(mut source: R) -> Result<Self, HistoryError> {
        let mut buffer = Vec::new();
        read_line(&mut source, &mut buffer)?;
        let header: Header = serde_json::from_slice(&buffer)
            .map_err(|source| HistoryError::Line { line: 1, what: "header", source })?;
        if header.format != FORMAT || !(OLDEST..=VERSION).contains(&header.version) {
            return Err(HistoryError::Format { format: header.format, version: header.version });
        }
        Ok(Self { source, header, footer: None, buffer, line: 1, operations: 0, ended: false })
    }

    /// The first line.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The last line, once every entry was read without an error.
    pub fn footer(&self) -> Option<Footer> {
        self.footer
    }

    fn entry(&mut self) -> Result<Option<Entry>, HistoryError> {
        self.buffer.clear();
        if read_line(&mut self.source, &mut self.buffer)? == 0 {
            return Err(HistoryError::Cut { line: self.line });
        }
        self.line += 1;
        if let Ok(footer) = serde_json::from_slice::<Footer>(&self.buffer) {
            return self.end(footer).map(|()| None);
        }
        let line = self.line;
        let entry: Entry = serde_json::from_slice(&self.buffer).map_err(|source| {
            if self.buffer.ends_with(b"\n") {
                HistoryError::Line { line, what: "entry", source }
            } else {
                HistoryError::Cut { line: line - 1 }
            }
        })?;
        self.operations += u64::from(entry.is_operation());
        if let Entry::Operation(operation) = &entry {
            validate(operation)?;
        }
        Ok(Some(entry))
    }

    fn end(&mut self, footer: Footer) -> Result<(), HistoryError> {
        if footer.operations != self.operations {
            let (counted, found) = (footer.operations, self.operations);
            return Err(HistoryError::Miscounted { counted, found });
        }
        self.footer = Some(footer);
        Ok(())
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = Result<Entry, HistoryError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.entry().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}

fn read_line(source: &mut impl BufRead, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let read = io::Read::take(&mut *source, MAX_LINE_BYTES as u64).read_until(b'\n', buffer)?;
    if read == MAX_LINE_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a line is longer than 512 MiB"));
    }
    Ok(read)
}

/// Checks the conditions that the checks rely on: an answer has an end after its beginning, an
/// unknown one has none.
fn validate(operation: &Operation) -> Result<(), HistoryError> {
    let wrong = |what| Err(HistoryError::Operation { id: operation.id, what });
    match (&operation.outcome, operation.returned) {
        (super::Outcome::Unknown, Some(_)) => wrong("is unknown and yet has returned"),
        (super::Outcome::Unknown, None) => Ok(()),
        (_, None) => wrong("has an answer and never returned"),
        (_, Some(returned)) if returned < operation.invoked => wrong("returned before it began"),
        (_, Some(_)) => Ok(()),
    }
}
