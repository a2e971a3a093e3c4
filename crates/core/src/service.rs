//! The one trait that every lock service implements.
//!
//! A service decides commands and answers queries: [`LockService::decide`] and [`LockService::read`]
//! are all that an implementor writes, and the calls of the contract are provided from them. So a
//! wrapper (access rules, a recorder, a mutation) sees every request as a value, in one place.
//!
//! Implementors: [`crate::memory::MemoryLocks`], `node::Node`, `forward::Forwarding` and
//! the client's `Client`. HTTP handlers, the conformance suite and the command line are generic
//! over it and do not know about leaders.

use std::future::Future;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use crate::error::Error;
use crate::lock::{Command, Decision, Query, View};
use crate::types::{
    BatchAnswer, BatchRequest, CallOptions, CheckResponse, CloseStatus, DEFAULT_TABLE,
    DEFAULT_TIMEOUT, DeadlocksResponse, DeleteStatus, ListRequest, ListResponse, Liveness,
    LockOptions, LockRequest, LockResponse, ReadOptions, Seen, SessionId, SessionLocksRequest,
    SessionLocksResponse, SessionOptions, SessionRequest, SessionStatus, TableDefaults, TableInfo,
    TableOptions, TablesRequest, TablesResponse, TimeToLive, Token, UnlockOptions, UnlockRequest,
    UnlockResponse, VerifyResponse,
};

/// A service that decides lock requests.
///
/// Every method may be called by anyone at any time. When a write returns `Ok`, its effect is as
/// durable as the implementation ever makes it: for a cluster, on the disks of a majority. A future
/// that is dropped before it resolves leaves its outcome unknown.
pub trait LockService: Send + Sync + 'static {
    /// Decides commands: one answer for each, in their order. An answer is a decision about a
    /// command of its kind, never [`crate::lock::Outcome::Refused`], which is an error here.
    ///
    /// It is not a transaction: each command succeeds or fails by itself, as if it had been sent
    /// alone, and commands of others may be decided between two of them. Those that are decided are
    /// decided in the order given. After one that failed with `Unavailable` or `Unknown`, later ones
    /// may still have been done.
    ///
    /// Of the call, principal and cause are not used: they are part of each command, because the log
    /// holds them. Commands need not be valid: the service validates them.
    ///
    /// # Errors
    /// Each answer: `BadRequest`, `Unavailable`, `Unknown`, `Unauthorized`, `LaneForgotten`.
    fn decide(
        &self,
        commands: Vec<Command>,
        call: CallOptions,
    ) -> impl Future<Output = Vec<Result<Decision, Error>>> + Send;

    /// Reads the state. The view is one of the query's kind, and shows the *past*; a lock is held by
    /// holding it, not by looking.
    ///
    /// # Errors
    /// `NotFound`, `BadRequest`, `Unavailable`, `Unauthorized`; never `Unknown`.
    fn read(
        &self,
        query: Query,
        call: CallOptions,
    ) -> impl Future<Output = Result<View, Error>> + Send;

    /// The values that the calls below supply to requests that leave them out; see [`Handle`].
    fn defaults(&self) -> &ServiceOptions {
        static NONE: LazyLock<ServiceOptions> = LazyLock::new(ServiceOptions::default);
        &NONE
    }

    /// Decides one command; see [`LockService::decide`].
    ///
    /// # Errors
    /// As [`LockService::decide`].
    fn decide_one(
        &self,
        command: Command,
        call: CallOptions,
    ) -> impl Future<Output = Result<Decision, Error>> + Send {
        async move {
            let mut answers = self.decide(vec![command], call).await;
            answers.pop().unwrap_or_else(|| Err(Error::unknown("the service gave no answer")))
        }
    }

    /// Takes, renews or takes over a lock; see [`LockOptions`] for force and renew-only.
    ///
    /// # Errors
    /// As [`LockService::decide`]. A refusal is an answer, not an error.
    fn lock(
        &self,
        request: LockRequest,
        mut options: LockOptions,
    ) -> impl Future<Output = Result<LockResponse, Error>> + Send {
        async move {
            self.defaults().fill_lock(&mut options);
            let call = call_of(&mut options.call);
            let command = Command::lock(request, options)?;
            self.decide_one(command, call).await?.into_lock_response()
        }
    }

    /// Releases a lock.
    ///
    /// # Errors
    /// As [`LockService::lock`].
    fn unlock(
        &self,
        request: UnlockRequest,
        mut options: UnlockOptions,
    ) -> impl Future<Output = Result<UnlockResponse, Error>> + Send {
        async move {
            self.defaults().fill_table(&mut options.table);
            let call = call_of(&mut options.call);
            let command = Command::unlock(request, options);
            self.decide_one(command, call).await?.into_unlock_response()
        }
    }

    /// Sends many lock and unlock requests at once. One answer for each request, in their order.
    ///
    /// A batch saves round trips and is not a transaction, see [`LockService::decide`]. It may
    /// release a lock and acquire it again, or use one lane of request ids several times.
    ///
    /// The batch is one call: it is answered as a whole, when all is answered or the longest timeout
    /// of its requests is over, and its trace id is that of its first request.
    fn batch(
        &self,
        requests: Vec<BatchRequest>,
    ) -> impl Future<Output = Vec<Result<BatchAnswer, Error>>> + Send {
        async move {
            let call = common_call(&requests);
            let mut commands = Vec::with_capacity(requests.len());
            let invalid: Vec<Option<Error>> = requests
                .into_iter()
                .map(|request| {
                    let command = request.into_command(self.defaults());
                    command.map(|command| commands.push(command)).err()
                })
                .collect();
            let mut decisions = self.decide(commands, call).await.into_iter();
            let mut next = || match decisions.next() {
                Some(decision) => decision.and_then(BatchAnswer::try_from),
                None => Err(Error::unknown("the service gave no answer")),
            };
            invalid.into_iter().map(|error| error.map_or_else(&mut next, Err)).collect()
        }
    }

    /// Reads one record. It shows the *past*; a lock is held by holding it, not by looking.
    ///
    /// # Errors
    /// As [`LockService::read`].
    fn check(
        &self,
        signature: String,
        mut options: ReadOptions,
    ) -> impl Future<Output = Result<CheckResponse, Error>> + Send {
        async move {
            self.defaults().fill_table(&mut options.table);
            let query = Query::check(signature, &options);
            self.read(query, options.call).await?.into_check()
        }
    }

    /// Reads a page of a table in byte order. Pages are not one snapshot.
    ///
    /// # Errors
    /// As [`LockService::read`], without `NotFound`.
    fn list(
        &self,
        request: ListRequest,
        mut options: ReadOptions,
    ) -> impl Future<Output = Result<ListResponse, Error>> + Send {
        async move {
            self.defaults().fill_table(&mut options.table);
            let query = Query::list(request, &options);
            self.read(query, options.call).await?.into_list()
        }
    }

    /// Reads a page of the tables that have defaults or records, in byte order. Pages are not one
    /// snapshot. For all of them, see [`all_tables`].
    ///
    /// # Errors
    /// As [`LockService::read`], without `NotFound`.
    fn tables(
        &self,
        request: TablesRequest,
        options: ReadOptions,
    ) -> impl Future<Output = Result<TablesResponse, Error>> + Send {
        async move {
            let query = Query::tables(request, &options);
            self.read(query, options.call).await?.into_tables()
        }
    }

    /// Sets the values that a table supplies to later requests that leave them out. `options.table`
    /// names the table.
    ///
    /// # Errors
    /// As [`LockService::lock`].
    fn configure_table(
        &self,
        defaults: TableDefaults,
        mut options: TableOptions,
    ) -> impl Future<Output = Result<(), Error>> + Send {
        async move {
            self.defaults().fill_table(&mut options.table);
            let call = call_of(&mut options.call);
            let command = Command::configure_table(defaults, options)?;
            self.decide_one(command, call).await?.into_done()
        }
    }

    /// Opens a session: liveness that many grants and places share.
    ///
    /// # Errors
    /// As [`LockService::lock`].
    fn open_session(
        &self,
        request: SessionRequest,
        mut options: SessionOptions,
    ) -> impl Future<Output = Result<SessionStatus, Error>> + Send {
        async move {
            let call = call_of(&mut options.call);
            let command = Command::open_session(request, options)?;
            self.decide_one(command, call).await?.into_session()
        }
    }

    /// Keeps sessions alive, and reads their inboxes: one answer for each, in their order.
    ///
    /// # Errors
    /// As [`LockService::lock`].
    fn keep_alive(
        &self,
        sessions: Vec<Seen>,
        mut call: CallOptions,
    ) -> impl Future<Output = Result<Vec<Liveness>, Error>> + Send {
        async move {
            let command = Command::keep_alive(sessions, call.principal.take());
            self.decide_one(command, call).await?.into_kept_alive()
        }
    }

    /// Closes a session: its grants are released and its places left.
    ///
    /// # Errors
    /// As [`LockService::lock`].
    fn close_session(
        &self,
        session: SessionId,
        mut options: SessionOptions,
    ) -> impl Future<Output = Result<CloseStatus, Error>> + Send {
        async move {
            let call = call_of(&mut options.call);
            let command = Command::close_session(session, options);
            self.decide_one(command, call).await?.into_close_status()
        }
    }

    /// Changes the limit of a lock in mode permits; `false` if it has none.
    ///
    /// # Errors
    /// As [`LockService::lock`].
    fn set_limit(
        &self,
        signature: String,
        limit: u32,
        mut options: TableOptions,
    ) -> impl Future<Output = Result<bool, Error>> + Send {
        async move {
            self.defaults().fill_table(&mut options.table);
            let call = call_of(&mut options.call);
            let command = Command::set_limit(signature, limit, options);
            self.decide_one(command, call).await?.into_limit()
        }
    }

    /// Whether a token is live.
    ///
    /// # Errors
    /// As [`LockService::read`], without `NotFound`.
    fn verify(
        &self,
        signature: String,
        token: Token,
        mut options: ReadOptions,
    ) -> impl Future<Output = Result<VerifyResponse, Error>> + Send {
        async move {
            self.defaults().fill_table(&mut options.table);
            let query = Query::verify(signature, token, &options);
            self.read(query, options.call).await?.into_verify()
        }
    }

    /// Reads a page of the locks of a session: its grants and places.
    ///
    /// # Errors
    /// As [`LockService::read`]; `NotFound` if there is no such session.
    fn session_locks(
        &self,
        request: SessionLocksRequest,
        options: ReadOptions,
    ) -> impl Future<Output = Result<SessionLocksResponse, Error>> + Send {
        async move {
            let query = Query::session_locks(request, &options);
            self.read(query, options.call).await?.into_session_locks()
        }
    }

    /// Reads the cycles of owners that hold and wait.
    ///
    /// # Errors
    /// As [`LockService::read`], without `NotFound`.
    fn deadlocks(
        &self,
        options: ReadOptions,
    ) -> impl Future<Output = Result<DeadlocksResponse, Error>> + Send {
        async move {
            let query = Query::deadlocks(&options);
            self.read(query, options.call).await?.into_deadlocks()
        }
    }

    /// Deletes a table with its records and its defaults. `options.table` names the table. Tokens
    /// of later grants are still larger than all before. A table that does not exist is an answer,
    /// not an error.
    ///
    /// # Errors
    /// As [`LockService::lock`].
    fn delete_table(
        &self,
        mut options: TableOptions,
    ) -> impl Future<Output = Result<DeleteStatus, Error>> + Send {
        async move {
            self.defaults().fill_table(&mut options.table);
            let call = call_of(&mut options.call);
            let command = Command::delete_table(options);
            self.decide_one(command, call).await?.into_delete_status()
        }
    }
}

/// Takes from call options the part that no command holds.
fn call_of(call: &mut CallOptions) -> CallOptions {
    CallOptions { trace_id: call.trace_id.take(), ..CallOptions::within(call.timeout) }
}

/// The call of a batch: the longest timeout, and the trace id of the first request.
fn common_call(requests: &[BatchRequest]) -> CallOptions {
    let timeout = |request: &BatchRequest| request.call().timeout;
    let longest = requests.iter().map(|request| timeout(request).unwrap_or(DEFAULT_TIMEOUT)).max();
    let is_given = requests.iter().any(|request| timeout(request).is_some());
    let trace_id = requests.first().and_then(|first| first.call().trace_id.clone());
    CallOptions { trace_id, ..CallOptions::within(longest.filter(|_| is_given)) }
}

impl BatchRequest {
    /// The command of the request, with the values of a handle where it leaves them out.
    fn into_command(self, defaults: &ServiceOptions) -> Result<Command, Error> {
        match self {
            Self::Lock(request, mut options) => {
                defaults.fill_lock(&mut options);
                Command::lock(request, options)
            }
            Self::Unlock(request, mut options) => {
                defaults.fill_table(&mut options.table);
                Ok(Command::unlock(request, options))
            }
        }
    }
}

/// Reads all tables, page by page.
///
/// # Errors
/// As [`LockService::tables`].
pub async fn all_tables(
    service: &impl LockService,
    options: ReadOptions,
) -> Result<Vec<TableInfo>, Error> {
    let mut request = TablesRequest { limit: TablesRequest::MAX_LIMIT, after: None };
    let mut tables = Vec::new();
    loop {
        let page = service.tables(request.clone(), options.clone()).await?;
        tables.extend(page.tables);
        match page.next {
            Some(next) => request.after = Some(next),
            None => return Ok(tables),
        }
    }
}

/// A shared service is a service.
impl<S: LockService> LockService for Arc<S> {
    async fn decide(
        &self,
        commands: Vec<Command>,
        call: CallOptions,
    ) -> Vec<Result<Decision, Error>> {
        (**self).decide(commands, call).await
    }

    async fn read(&self, query: Query, call: CallOptions) -> Result<View, Error> {
        (**self).read(query, call).await
    }

    fn defaults(&self) -> &ServiceOptions {
        (**self).defaults()
    }
}

/// A handle to a service, with a table and defaults of its own.
#[derive(Clone, Debug)]
pub struct Handle<S> {
    service: S,
    options: Arc<ServiceOptions>,
}

impl<S> Handle<S> {
    /// A handle to this service with these options.
    pub fn new(service: S, options: ServiceOptions) -> Self {
        Self { service, options: Arc::new(options) }
    }

    /// The service.
    pub fn service(&self) -> &S {
        &self.service
    }
}

impl<S: LockService> LockService for Handle<S> {
    async fn decide(
        &self,
        commands: Vec<Command>,
        call: CallOptions,
    ) -> Vec<Result<Decision, Error>> {
        self.service.decide(commands, call).await
    }

    async fn read(&self, query: Query, call: CallOptions) -> Result<View, Error> {
        self.service.read(query, call).await
    }

    fn defaults(&self) -> &ServiceOptions {
        &self.options
    }
}

impl<S: DebugLockService> DebugLockService for Handle<S> {
    async fn advance_clock(&self, by: Duration) -> Result<(), Error> {
        self.service.advance_clock(by).await
    }
}

/// The operation of the conformance suite beyond those of a service. For tests alone.
pub trait DebugLockService: LockService {
    /// Returns after the service's clock has advanced by at least `by`: at once if the clock is a
    /// manual one, otherwise by waiting.
    ///
    /// # Errors
    /// `Unavailable`, `Unknown`.
    fn advance_clock(&self, by: Duration) -> impl Future<Output = Result<(), Error>> + Send;
}

/// Options of a handle to a service: the values it supplies to requests that leave them out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceOptions {
    /// The table.
    pub table: String,
    /// The duration of a grant; `None` leaves it to the table.
    pub default_duration: Option<Duration>,
    /// The least time_to_live; `None` leaves it to the table. A length needs a `default_duration`
    /// beside it.
    pub default_time_to_live: Option<TimeToLive>,
}

impl Default for ServiceOptions {
    fn default() -> Self {
        Self { table: DEFAULT_TABLE.to_owned(), default_duration: None, default_time_to_live: None }
    }
}

impl ServiceOptions {
    /// Checks the values, which requests would be refused for.
    ///
    /// # Errors
    /// `BadRequest`, saying what is wrong and what is allowed.
    pub fn validate(&self) -> Result<(), Error> {
        // One at a time: the default time_to_live may be shorter than the default duration.
        for (duration, time_to_live) in
            [(self.default_duration, None), (None, self.default_time_to_live)]
        {
            let defaults = TableDefaults { duration, time_to_live, ..TableDefaults::default() };
            let options =
                TableOptions { table: Some(self.table.clone()), ..TableOptions::default() };
            Command::configure_table(defaults, options)?.validate()?;
        }
        Ok(())
    }

    /// Fills in the handle's own table and defaults where the options leave them out: a
    /// time_to_live that is left out becomes the larger of the default and the duration.
    fn fill_lock(&self, options: &mut LockOptions) {
        options.table.get_or_insert_with(|| self.table.clone());
        // Renew-only requests follow the same rule: a renewal gives the grant its next duration.
        // A grant in a session lasts as long as the session.
        if options.duration.is_none() && options.session.is_none() {
            options.duration = self.default_duration;
        }
        if options.time_to_live.is_none() {
            options.time_to_live = match (self.default_time_to_live, options.duration) {
                (Some(least), Some(duration)) => Some(least.at_least(duration)),
                (Some(TimeToLive::Never), None) => Some(TimeToLive::Never),
                (Some(TimeToLive::For(_)) | None, _) => None,
            };
        }
    }

    /// Fills in the handle's own table if the options leave it out.
    fn fill_table(&self, table: &mut Option<String>) {
        table.get_or_insert_with(|| self.table.clone());
    }
}
