//! Runs one script against one service.
//!
//! Every run has tables of its own, with a random prefix that the output does not show, and deletes
//! them at the end: the suite can run repeatedly on a cluster that others use.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use keyward_core::error::Error;
use keyward_core::lock::{Query, View};
use keyward_core::service::{DebugLockService as _, LockService as _, ServiceOptions, all_tables};
use keyward_core::types::{
    CallOptions, CloseStatus, DecidedAt, ListRequest, Liveness, LockOptions, LockRequest,
    LockResponse, LockStatus, ReadOptions, Seen, SessionId, SessionLocksRequest, SessionOptions,
    SessionRequest, SessionStatus, TableDefaults, TableOptions, UnlockOptions, UnlockRequest,
};

use super::Bootstrap;
use super::callers::{Call, Gone};
use super::command::Command;
use super::facts::{Asks, Facts, Granted};
use super::pace::Pace;
use super::print;
use super::words::{Asked, Timed, Words};

pub(super) type BoxError = Box<dyn StdError>;

/// The name of the sessions among the tables whose grants are timed.
const SESSION: &str = "a session";

/// The output line of a command, or the error that ends the script.
pub(super) type Line = Result<String, BoxError>;

/// The prefix of the lines that use a handle; the first handle has none.
pub(super) type HandleName<'a> = Option<&'a String>;

/// Runs a script's commands; implements goldenscript's own runner trait, which is synchronous:
/// it must be driven from a thread that may block.
pub(crate) struct Runner<B: Bootstrap> {
    bootstrap: Arc<B>,
    pub(super) runtime: Handle,
    words: Words,
    handles: BTreeMap<Option<String>, Opened<B::Service>>,
    /// The tables to be deleted at the end.
    pub(super) tables: BTreeSet<String>,
    pub(super) facts: Facts,
    pub(super) pace: Pace,
    advanced: Duration,
    /// The last fact that each session was told.
    seen: BTreeMap<SessionId, DecidedAt>,
    /// The requests that wait beside the script.
    pub(super) calls: BTreeMap<String, Call>,
    /// Those whose callers went away.
    pub(super) gone: BTreeMap<String, Gone>,
}

struct Opened<S> {
    service: Arc<S>,
    options: ServiceOptions,
}

impl<B: Bootstrap> Runner<B> {
    pub(crate) fn new(bootstrap: Arc<B>, runtime: Handle) -> Self {
        Self {
            bootstrap,
            runtime,
            words: Words::new(),
            handles: BTreeMap::new(),
            tables: BTreeSet::new(),
            facts: Facts::default(),
            pace: Pace::new(),
            seen: BTreeMap::new(),
            calls: BTreeMap::new(),
            gone: BTreeMap::new(),
            advanced: Duration::ZERO,
        }
    }

    /// The time that the script let pass.
    pub(crate) fn advanced(&self) -> Duration {
        self.advanced
    }

    /// The largest age of a grant, if it was too old to judge its remaining time.
    pub(crate) fn too_slow(&self) -> Option<Duration> {
        self.pace.too_slow()
    }

    /// Deletes the run's tables and closes its handles. Returns the first error, after everything
    /// was tried.
    pub(crate) fn clean_up(&mut self) -> Result<(), Error> {
        let mut result = Ok(());
        for call in std::mem::take(&mut self.calls).into_values() {
            call.answer.abort();
            // A call that was ended has no answer, and nobody asks for it any more.
            let _ = self.runtime.block_on(call.answer);
        }
        if let Some(opened) = self.handles.values().next() {
            let service = Arc::clone(&opened.service);
            for session in self.words.sessions() {
                let options = SessionOptions::default();
                let closed = self.runtime.block_on(service.close_session(session, options));
                result = result.and(closed.map(drop));
            }
            for table in std::mem::take(&mut self.tables) {
                let options = TableOptions { table: Some(table), ..TableOptions::default() };
                let deleted = self.runtime.block_on(service.delete_table(options));
                result = result.and(deleted.map(drop));
            }
        }
        for opened in std::mem::take(&mut self.handles).into_values() {
            result = result.and(self.close(opened));
        }
        result
    }

    fn close(&self, opened: Opened<B::Service>) -> Result<(), Error> {
        let service = Arc::into_inner(opened.service)
            .expect("a handle is used by one command at a time, and none is running");
        self.runtime.block_on(self.bootstrap.close(service))
    }

    fn perform(&mut self, command: &Command, handle: HandleName) -> Line {
        match self.words.ask(command, &self.facts)? {
            Asked::Open(options) => self.open(handle, options),
            Asked::Lock(request, options) => self.lock(handle, request, options),
            Asked::Unlock(request, options) => self.unlock(handle, request, options),
            Asked::Call(name, request, options) => self.call(handle, name, request, options),
            Asked::Answer(name) => self.answer(&name),
            Asked::HangUp(name) => self.hang_up(name),
            Asked::AwaitLeave(name) => self.await_leave(handle, &name),
            Asked::Many(one, times) => self.many(handle, &one, times),
            Asked::Check(signature, after, timed, options) => {
                self.check(handle, &signature, (after, timed), options)
            }
            Asked::List(request, options) => self.list(handle, request, options),
            Asked::Tables => self.list_tables(handle),
            Asked::ConfigureTable(defaults, options) => {
                self.configure_table(handle, defaults, options)
            }
            Asked::DeleteTable(options) => self.delete_table(handle, options),
            Asked::Advance(by) => self.advance(handle, by),
            Asked::OpenSession(name, request, options) => {
                self.open_session(handle, &name, request, options)
            }
            Asked::KeepAlive(session) => self.keep_alive(handle, session),
            Asked::CloseSession(session) => {
                let (service, table) = self.at(handle, None)?;
                let options = SessionOptions::default();
                match self.runtime.block_on(service.close_session(session, options)) {
                    Ok(CloseStatus::Ok) => Ok(String::from("ok")),
                    Ok(CloseStatus::NoSession) => Ok(String::from("no_session")),
                    Err(error) => self.refused(error, &table, ""),
                }
            }
            Asked::ListSession(page) => self.list_session(handle, page),
            Asked::Deadlocks => {
                let (service, _) = self.at(handle, None)?;
                let found = self.runtime.block_on(service.deadlocks(ReadOptions::default()))?;
                Ok(print::deadlocks(&found, &self.words.prefix))
            }
            Asked::SetLimit(signature, limit) => {
                let (service, table) = self.at(handle, None)?;
                let options =
                    TableOptions { table: Some(table.clone()), ..TableOptions::default() };
                match self.runtime.block_on(service.set_limit(signature, limit, options)) {
                    Ok(true) => Ok(String::from("ok")),
                    Ok(false) => Ok(String::from("no_limit")),
                    Err(error) => self.refused(error, &table, ""),
                }
            }
            Asked::Verify(signature, token) => {
                let (service, table) = self.at(handle, None)?;
                let options = ReadOptions { table: Some(table.clone()), ..ReadOptions::default() };
                match self.runtime.block_on(service.verify(signature.clone(), token, options)) {
                    Ok(verified) => {
                        Ok(print::verified(&verified, &signature, &mut self.facts.names(&table)))
                    }
                    Err(error) => self.refused(error, &table, &signature),
                }
            }
            Asked::DefaultDuration(duration) => {
                let options = self.opened(handle)?.options.clone();
                let options = ServiceOptions { default_duration: Some(duration), ..options };
                match options.validate() {
                    Ok(()) => self.open(handle, options),
                    Err(error) => self.refused(error, &options.table, ""),
                }
            }
        }
    }

    fn open(&mut self, handle: HandleName, options: ServiceOptions) -> Line {
        if !self.calls.is_empty() {
            return Err("a handle is opened while calls wait".into());
        }
        if let Some(old) = self.handles.remove(&handle.cloned()) {
            self.close(old)?;
        }
        let service = Arc::new(self.runtime.block_on(self.bootstrap.open(options.clone()))?);
        self.tables.insert(options.table.clone());
        self.handles.insert(handle.cloned(), Opened { service, options });
        Ok(String::from("ok"))
    }

    /// The service and the table of a line: the table it names, else the handle's.
    pub(super) fn at(
        &self,
        handle: HandleName,
        table: Option<&String>,
    ) -> Result<(Arc<B::Service>, String), BoxError> {
        let opened = self.opened(handle)?;
        Ok((Arc::clone(&opened.service), table.unwrap_or(&opened.options.table).clone()))
    }

    fn opened(&self, handle: HandleName) -> Result<&Opened<B::Service>, String> {
        let opened = self.handles.get(&handle.cloned());
        opened.ok_or_else(|| format!("no handle {handle:?} was opened"))
    }

    fn lock(&mut self, handle: HandleName, request: LockRequest, options: LockOptions) -> Line {
        let (service, table) = self.at(handle, options.table.as_ref())?;
        let repeated = self.facts.ask(options.request_id);
        let (signature, signee) = (request.signature.clone(), request.signee.clone());
        if let Some(session) = options.session {
            self.pace.tell(SESSION, &session.to_string());
        }
        let asked_at = self.pace.now();
        let response = match self.runtime.block_on(service.lock(request, options)) {
            Ok(response) => response,
            Err(error) => return self.refused(error, &table, &signature),
        };
        self.tables.insert(table.clone());
        self.decided_by_write(repeated, response.decided_at)?;
        if let LockStatus::Waiting(waiting) = &response.status {
            self.facts.placed(&signature, &signee, waiting.place);
            self.pace.granted(&table, &signature, asked_at);
        }
        if !repeated && let Some(grant) = response.grant() {
            self.pace.granted(&table, &signature, asked_at);
            // A holder that lowers its level may lose the lock by its own renewal.
            if !grant.live && response.created() {
                return Err("a grant that was just given is not live".into());
            }
            let kind = Granted::of(grant, response.created());
            self.facts.granted(&table, &signature, grant.token, kind)?;
        }
        Ok(self.lock_line(&response, &table, &signature))
    }

    pub(super) fn lock_line(
        &mut self,
        response: &LockResponse,
        table: &str,
        signature: &str,
    ) -> String {
        self.pace.tell(table, signature);
        print::lock(&response.status, signature, &mut self.facts.names(table))
    }

    fn unlock(
        &mut self,
        handle: HandleName,
        request: UnlockRequest,
        options: UnlockOptions,
    ) -> Line {
        let (service, table) = self.at(handle, options.table.as_ref())?;
        let repeated = self.facts.ask(options.request_id);
        let signature = request.signature.clone();
        match self.runtime.block_on(service.unlock(request, options)) {
            Ok(response) => {
                self.pace.tell(&table, &signature);
                self.decided_by_write(repeated, response.decided_at)?;
                Ok(print::unlock(&response.status, &signature, &mut self.facts.names(&table)))
            }
            Err(error) => self.refused(error, &table, &signature),
        }
    }

    fn check(
        &mut self,
        handle: HandleName,
        signature: &str,
        (places_after, timed): (u64, Timed),
        options: ReadOptions,
    ) -> Line {
        let (service, table) = self.at(handle, options.table.as_ref())?;
        let options = ReadOptions { table: Some(table.clone()), ..options };
        let query = Query::check_places(signature.to_owned(), places_after, &options);
        let view = self.runtime.block_on(service.read(query, options.call));
        match view.and_then(View::into_check) {
            Ok(response) => {
                self.facts.decided(response.decided_at, Asks::ToLook)?;
                if timed == Timed::Yes {
                    self.pace.tell(&table, signature);
                    let holders = response.record.holders.iter();
                    for session in holders.filter_map(|holder| holder.session) {
                        self.pace.tell(SESSION, &session.to_string());
                    }
                }
                for place in &response.record.places {
                    self.facts.placed(signature, &place.signee, place.place);
                }
                Ok(print::record(&response.record, timed, &mut self.facts.names(&table)))
            }
            Err(error) => self.refused(error, &table, signature),
        }
    }

    fn open_session(
        &mut self,
        handle: HandleName,
        name: &str,
        request: SessionRequest,
        options: SessionOptions,
    ) -> Line {
        let (service, table) = self.at(handle, None)?;
        let asked_at = self.pace.now();
        match self.runtime.block_on(service.open_session(request, options)) {
            Ok(SessionStatus::Open(session)) => {
                self.pace.granted(SESSION, &session.id.to_string(), asked_at);
                let known = self.words.opened(name, session.id);
                Ok(print::session(session.valid, known.as_deref()))
            }
            Ok(SessionStatus::Failed(forbidden)) => {
                self.refused(Error::Forbidden(forbidden), &table, "")
            }
            Err(error) => self.refused(error, &table, ""),
        }
    }

    fn list_session(&mut self, handle: HandleName, page: SessionLocksRequest) -> Line {
        let (service, table) = self.at(handle, None)?;
        match self.runtime.block_on(service.session_locks(page, ReadOptions::default())) {
            Ok(response) => {
                self.facts.decided(response.decided_at, Asks::ToLook)?;
                Ok(print::session_locks(&response, &mut self.facts.names(&table)))
            }
            Err(error) => self.refused(error, &table, ""),
        }
    }

    fn list(&mut self, handle: HandleName, request: ListRequest, options: ReadOptions) -> Line {
        let (service, table) = self.at(handle, options.table.as_ref())?;
        match self.runtime.block_on(service.list(request, options)) {
            Ok(response) => {
                for record in &response.locks {
                    self.pace.tell(&table, &record.signature);
                }
                self.facts.decided(response.decided_at, Asks::ToLook)?;
                Ok(print::list(&response, &mut self.facts.names(&table)))
            }
            Err(error) => self.refused(error, &table, ""),
        }
    }

    fn list_tables(&mut self, handle: HandleName) -> Line {
        let (service, _) = self.at(handle, None)?;
        let tables = self.runtime.block_on(all_tables(&service, ReadOptions::default()))?;
        Ok(print::tables(&tables, &self.words.prefix))
    }

    fn configure_table(
        &mut self,
        handle: HandleName,
        defaults: TableDefaults,
        options: TableOptions,
    ) -> Line {
        let (service, table) = self.at(handle, options.table.as_ref())?;
        let result = self.runtime.block_on(service.configure_table(defaults, options));
        if result.is_ok() {
            self.tables.insert(table.clone());
        }
        self.done(result, &table)
    }

    fn delete_table(&mut self, handle: HandleName, options: TableOptions) -> Line {
        let (service, table) = self.at(handle, options.table.as_ref())?;
        match self.runtime.block_on(service.delete_table(options)) {
            Ok(status) => Ok(print::deletion(status)),
            Err(error) => self.refused(error, &table, ""),
        }
    }

    /// Keeps a session alive; the facts that are shown count as seen at the next time.
    fn keep_alive(&mut self, handle: HandleName, session: SessionId) -> Line {
        let (service, table) = self.at(handle, None)?;
        let seen = self.seen.get(&session).copied();
        let asked = vec![Seen { session, seen }];
        let asked_at = self.pace.now();
        match self.runtime.block_on(service.keep_alive(asked, CallOptions::default())) {
            Ok(states) => {
                let state = states.into_iter().next().ok_or("the service gave no answer")?;
                self.pace.tell(SESSION, &session.to_string());
                self.pace.granted(SESSION, &session.to_string(), asked_at);
                if let Liveness::Alive { inbox, .. } = &state
                    && let Some(last) = inbox.last()
                {
                    self.seen.insert(session, last.position);
                }
                Ok(print::liveness(&state, &mut self.facts.names(&table)))
            }
            Err(error) => self.refused(error, &table, ""),
        }
    }

    fn advance(&mut self, handle: HandleName, by: Duration) -> Line {
        let (service, _) = self.at(handle, None)?;
        self.runtime.block_on(service.advance_clock(by))?;
        self.advanced += by;
        // An advance prints nothing: a line of its own would only repeat the command.
        Ok(String::new())
    }

    fn done(&mut self, result: Result<(), Error>, table: &str) -> Line {
        match result {
            Ok(()) => Ok(String::from("ok")),
            Err(error) => self.refused(error, table, ""),
        }
    }

    /// The line for an error of the contract, or the error that ends the script.
    pub(super) fn refused(&mut self, error: Error, table: &str, signature: &str) -> Line {
        if let Error::NotFound { decided_at } = &error {
            self.facts.decided(*decided_at, Asks::ToLook)?;
        }
        let line = print::error(&error, &mut self.facts.names(table), signature);
        line.ok_or_else(|| error.into())
    }

    pub(super) fn decided_by_write(
        &mut self,
        repeated: bool,
        decided_at: Option<DecidedAt>,
    ) -> Result<(), String> {
        // A repeated request has the answer and the place of the first one.
        if repeated { Ok(()) } else { self.facts.decided(decided_at, Asks::ToChange) }
    }
}

impl<B: Bootstrap> goldenscript::Runner for Runner<B> {
    type Command = Command;

    fn start_script(&mut self) -> Result<(), BoxError> {
        self.open(None, self.words.first_handle()).map(drop)
    }

    fn run(&mut self, command: &Command, context: &goldenscript::Context) -> Line {
        let handle = context.prefix.as_ref();
        self.pace.begin();
        let line = self.perform(command, handle).map(|line| self.words.as_written(line));
        if let Command::Advance(by) = command {
            self.pace.end_of_advance(by.0);
        } else {
            self.pace.end();
        }
        line
    }
}
