//! The source of a history's entries, which can be read repeatedly.

use std::path::Path;

use crate::history::{Entry, Footer, Header, History, HistoryError, Reader};

/// A history in a file, which is read again for each pass, or in memory.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// A file of JSON lines. Memory is bounded by the operations in flight at a time, not by its
    /// length.
    File(&'a Path),
    /// A history that is in memory anyway.
    Memory(&'a History),
}

impl Source<'_> {
    pub(super) fn header(&self) -> Result<Header, HistoryError> {
        match self {
            Self::File(path) => Ok(Reader::open(path)?.header().clone()),
            Self::Memory(history) => Ok(history.header.clone()),
        }
    }

    /// Passes every entry to `each`, in the order in which they ended.
    pub(super) fn pass(&self, mut each: impl FnMut(Entry)) -> Result<Footer, HistoryError> {
        match self {
            Self::Memory(history) => {
                history.entries.iter().cloned().for_each(each);
                Ok(history.footer)
            }
            Self::File(path) => {
                let mut reader = Reader::open(path)?;
                for entry in reader.by_ref() {
                    each(entry?);
                }
                Ok(reader.footer().expect("a reader that ended without an error has a footer"))
            }
        }
    }
}
