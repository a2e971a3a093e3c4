//! Reads as data: the query, and the view of the state that answers it.

use crate::error::Error;
use crate::lock::State;
use crate::types::{
    CheckResponse, DEFAULT_TABLE, DecidedAt, ListRequest, ListResponse, ReadOptions, TablesRequest,
    TablesResponse,
};

/// A read of the state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Query {
    /// Answer from the local copy of the node that receives the query, however old it is. Otherwise
    /// the read is linearizable.
    pub stale: bool,
    /// The part of the state that is read.
    pub subject: Subject,
}

/// The part of the state that a query reads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Subject {
    /// The record of one lock.
    Lock {
        /// The table.
        table: Box<str>,
        /// The lock's name.
        signature: Box<str>,
    },
    /// A page of a table.
    Locks {
        /// The table.
        table: Box<str>,
        /// The page.
        page: ListRequest,
    },
    /// A page of the tables.
    Tables(TablesRequest),
}

/// The answer to a query, of the same kind as its subject.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum View {
    /// The record of one lock.
    Lock(CheckResponse),
    /// A page of a table.
    Locks(ListResponse),
    /// A page of the tables.
    Tables(TablesResponse),
}

/// Conversions of the reads of the contract. A table that is left out is [`DEFAULT_TABLE`]. The
/// values are not validated: see [`Query::validate`].
impl Query {
    /// The query of a check.
    pub fn check(signature: String, options: &ReadOptions) -> Self {
        let subject = Subject::Lock { table: table(options), signature: signature.into() };
        Self { stale: options.stale, subject }
    }

    /// The query of a list.
    pub fn list(page: ListRequest, options: &ReadOptions) -> Self {
        Self { stale: options.stale, subject: Subject::Locks { table: table(options), page } }
    }

    /// The query of a list of the tables.
    pub fn tables(page: TablesRequest, options: &ReadOptions) -> Self {
        Self { stale: options.stale, subject: Subject::Tables(page) }
    }
}

impl Subject {
    /// Reads the state as of the log position `decided_at`.
    ///
    /// # Errors
    /// `NotFound` if there is no such record.
    pub fn view(&self, state: &State, decided_at: Option<DecidedAt>) -> Result<View, Error> {
        match self {
            Self::Lock { table, signature } => match state.check(table, signature) {
                Some(record) => Ok(View::Lock(CheckResponse { record, decided_at })),
                None => Err(Error::NotFound { decided_at }),
            },
            Self::Locks { table, page } => {
                let (locks, next) = state.list(table, page);
                Ok(View::Locks(ListResponse { locks, next, decided_at }))
            }
            Self::Tables(page) => {
                let (tables, next) = state.tables(page);
                Ok(View::Tables(TablesResponse { tables, next, decided_at }))
            }
        }
    }
}

/// Conversions to the answer of each read of the contract.
impl View {
    /// The answer to a check.
    ///
    /// # Errors
    /// `Unavailable` if the view is of another kind: the service mixed up its answers, and a read
    /// has done nothing.
    pub fn into_check(self) -> Result<CheckResponse, Error> {
        if let Self::Lock(response) = self { Ok(response) } else { Err(mixed_up()) }
    }

    /// The answer to a list.
    ///
    /// # Errors
    /// As [`View::into_check`].
    pub fn into_list(self) -> Result<ListResponse, Error> {
        if let Self::Locks(response) = self { Ok(response) } else { Err(mixed_up()) }
    }

    /// The answer to a list of the tables.
    ///
    /// # Errors
    /// As [`View::into_check`].
    pub fn into_tables(self) -> Result<TablesResponse, Error> {
        if let Self::Tables(response) = self { Ok(response) } else { Err(mixed_up()) }
    }
}

fn table(options: &ReadOptions) -> Box<str> {
    options.table.as_deref().unwrap_or(DEFAULT_TABLE).into()
}

fn mixed_up() -> Error {
    Error::unavailable("the answer is one to another request")
}
