//! Reads as data: the query, and the view of the state that answers it.

use std::sync::Arc;

use crate::access::{Answer, Judge, Need, Question, Right};
use crate::error::Error;
use crate::lock::authority::shows_cycle;
use crate::lock::{Command, State};
use crate::principal::Principal;
use crate::types::{
    CheckResponse, DEFAULT_TABLE, DeadlocksResponse, DecidedAt, ListRequest, ListResponse,
    ReadOptions, SessionLocksRequest, SessionLocksResponse, TablesRequest, TablesResponse, Token,
    VerifyResponse,
};

/// A read of the state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Query {
    /// Answer from the local copy of the node that receives the query, however old it is. Otherwise
    /// the read is linearizable.
    pub stale: bool,
    /// The authenticated principal that reads; `None` while access control is off.
    pub principal: Option<Arc<Principal>>,
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
        /// The number of places to pass over before those that are shown.
        places_after: u64,
    },
    /// Whether a token is live.
    Verify {
        /// The table.
        table: Box<str>,
        /// The lock's name.
        signature: Box<str>,
        /// The token.
        token: Token,
    },
    /// A page of the locks of a session.
    SessionLocks(SessionLocksRequest),
    /// The cycles of owners that hold and wait.
    Deadlocks,
    /// A page of a table.
    Locks {
        /// The table.
        table: Box<str>,
        /// The page.
        page: ListRequest,
    },
    /// A page of the tables.
    Tables(TablesRequest),
    /// Rules, tokens, and who may do what.
    Access(Question),
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
    /// Whether a token is live.
    Verify(VerifyResponse),
    /// A page of the locks of a session.
    SessionLocks(SessionLocksResponse),
    /// The cycles of owners that hold and wait.
    Deadlocks(DeadlocksResponse),
    /// Rules, tokens, and who may do what.
    Access(Answer),
}

/// Conversions of the reads of the contract. A table that is left out is [`DEFAULT_TABLE`]. The
/// values are not validated: see [`Query::validate`].
impl Query {
    /// The query of a check.
    pub fn check(signature: String, options: &ReadOptions) -> Self {
        Self::check_places(signature, 0, options)
    }

    /// The query of a check that passes over the first places of the queue.
    pub fn check_places(signature: String, places_after: u64, options: &ReadOptions) -> Self {
        let (table, signature) = (table(options), signature.into());
        Self::of(options, Subject::Lock { table, signature, places_after })
    }

    /// The query whether a token is live.
    pub fn verify(signature: String, token: Token, options: &ReadOptions) -> Self {
        let (table, signature) = (table(options), signature.into());
        Self::of(options, Subject::Verify { table, signature, token })
    }

    /// The query of the locks of a session.
    pub fn session_locks(page: SessionLocksRequest, options: &ReadOptions) -> Self {
        Self::of(options, Subject::SessionLocks(page))
    }

    /// The query of the deadlocks.
    pub fn deadlocks(options: &ReadOptions) -> Self {
        Self::of(options, Subject::Deadlocks)
    }

    /// The query of a list.
    pub fn list(page: ListRequest, options: &ReadOptions) -> Self {
        Self::of(options, Subject::Locks { table: table(options), page })
    }

    /// The query of a list of the tables.
    pub fn tables(page: TablesRequest, options: &ReadOptions) -> Self {
        Self::of(options, Subject::Tables(page))
    }
}

impl Query {
    fn of(options: &ReadOptions, subject: Subject) -> Self {
        Self { stale: options.stale, principal: options.call.principal.clone(), subject }
    }

    /// The query of a question about rules and tokens.
    pub fn access(question: Question, options: &ReadOptions) -> Self {
        Self::of(options, Subject::Access(question))
    }

    /// The feature level that the query needs.
    pub fn level(&self) -> u32 {
        let has_details = self.principal.is_some();
        self.subject.level().max(if has_details { Command::ACCESS_LEVEL } else { 1 })
    }

    /// Reads the state as of the log position `decided_at`, as far as the principal may.
    ///
    /// # Errors
    /// `NotFound` if there is no such record; `Unauthorized`, `NotAllowed`.
    pub fn view(&self, state: &State, decided_at: Option<DecidedAt>) -> Result<View, Error> {
        let principal = self.principal.as_deref();
        if let Subject::Access(question) = &self.subject {
            return state.answer_access(question, principal, decided_at).map(View::Access);
        }
        let judge = state.reader(principal)?;
        self.subject.view(state, judge.as_ref(), decided_at)
    }
}

impl Subject {
    /// The feature level that the question needs.
    fn level(&self) -> u32 {
        match self {
            Self::Lock { places_after: 0, .. } | Self::Locks { .. } | Self::Tables(_) => 1,
            Self::Lock { .. } | Self::Verify { .. } | Self::SessionLocks(_) | Self::Deadlocks => {
                Command::TURNS_LEVEL
            }
            Self::Access(_) => Command::ACCESS_LEVEL,
        }
    }

    /// Whether the view takes so long that it is better made of a copy of the state.
    pub fn takes_long(&self) -> bool {
        matches!(self, Self::Deadlocks)
    }

    fn view(
        &self,
        state: &State,
        judge: Option<&Judge<'_>>,
        decided_at: Option<DecidedAt>,
    ) -> Result<View, Error> {
        match self {
            Self::Lock { table, signature, places_after } => {
                may_observe(judge, table, signature)?;
                match state.check_places(table, signature, *places_after) {
                    Some(record) => Ok(View::Lock(CheckResponse { record, decided_at })),
                    None => Err(Error::NotFound { decided_at }),
                }
            }
            Self::Verify { table, signature, token } => {
                may_observe(judge, table, signature)?;
                let holder = state.holder(table, signature, *token);
                let live = holder.as_ref().is_some_and(|holder| !holder.expired);
                Ok(View::Verify(VerifyResponse { live, holder, decided_at }))
            }
            Self::SessionLocks(page) => {
                let is_shown = judge.is_none_or(|judge| state.shows_session(judge, page.session));
                let found = is_shown.then(|| state.session_locks(page)).flatten();
                let (locks, next) = found.ok_or(Error::NotFound { decided_at })?;
                Ok(View::SessionLocks(SessionLocksResponse { locks, next, decided_at }))
            }
            Self::Deadlocks => {
                let (mut cycles, cut) = state.deadlocks();
                if let Some(judge) = judge {
                    cycles.retain(|cycle| shows_cycle(judge, cycle));
                }
                Ok(View::Deadlocks(DeadlocksResponse { cycles, cut, decided_at }))
            }
            Self::Locks { table, page } => {
                let (locks, next) = state.list_for(judge, table, page);
                Ok(View::Locks(ListResponse { locks, next, decided_at }))
            }
            Self::Tables(page) => {
                let (tables, next) = state.tables_for(judge, page);
                Ok(View::Tables(TablesResponse { tables, next, decided_at }))
            }
            Self::Access(_) => unreachable!("answered without a judge of locks"),
        }
    }
}

/// Whether a reader may observe a lock. The refusal is the same whether there is such a lock or not.
fn may_observe(judge: Option<&Judge<'_>>, table: &str, signature: &str) -> Result<(), Error> {
    let need = Need::new(Right::Observe, table, signature);
    judge.map_or(Ok(()), |judge| judge.may(&need))?;
    Ok(())
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

    /// The answer to a question whether a token is live.
    ///
    /// # Errors
    /// As [`View::into_check`].
    pub fn into_verify(self) -> Result<VerifyResponse, Error> {
        if let Self::Verify(response) = self { Ok(response) } else { Err(mixed_up()) }
    }

    /// The answer to a list of the locks of a session.
    ///
    /// # Errors
    /// As [`View::into_check`].
    pub fn into_session_locks(self) -> Result<SessionLocksResponse, Error> {
        if let Self::SessionLocks(response) = self { Ok(response) } else { Err(mixed_up()) }
    }

    /// The answer to a question for deadlocks.
    ///
    /// # Errors
    /// As [`View::into_check`].
    pub fn into_deadlocks(self) -> Result<DeadlocksResponse, Error> {
        if let Self::Deadlocks(response) = self { Ok(response) } else { Err(mixed_up()) }
    }
}

impl View {
    /// The answer to a question about rules and tokens.
    ///
    /// # Errors
    /// As [`View::into_check`].
    pub fn into_access(self) -> Result<Answer, Error> {
        if let Self::Access(answer) = self { Ok(answer) } else { Err(mixed_up()) }
    }
}

fn table(options: &ReadOptions) -> Box<str> {
    options.table.as_deref().unwrap_or(DEFAULT_TABLE).into()
}

fn mixed_up() -> Error {
    Error::unavailable("the answer is one to another request")
}
