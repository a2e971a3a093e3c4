//! Runs one script against one service.
//!
//! Every run has tables of its own, behind a random prefix that the output does not show, and
//! deletes them at the end: the suite may run again and again on a cluster that others use.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use crate::error::Error;
use crate::service::{DebugLockService as _, LockService as _, ServiceOptions};
use crate::types::{
    DecidedAt, Grant, ListRequest, LockOptions, LockRequest, ReadOptions, RequestId, TableDefaults,
    TableOptions, Token, UnlockOptions, UnlockRequest,
};

use super::Bootstrap;
use super::command::{Command, Id, Length, Name, TokenWord};
use super::facts::{Asks, Facts};
use super::pace::Pace;
use super::print;

/// The table of a handle that names none.
const OWN_TABLE: &str = "main";

type BoxError = Box<dyn StdError>;

/// Runs a script's commands; implements goldenscript's own runner trait, which is synchronous:
/// it must be driven from a thread that may block.
pub(crate) struct Runner<B: Bootstrap> {
    bootstrap: Arc<B>,
    runtime: Handle,
    prefix: String,
    lanes: BTreeMap<String, u128>,
    /// By the prefix of the lines that use them; the first one has none.
    services: BTreeMap<Option<String>, Opened<B::Service>>,
    tables: BTreeSet<String>,
    facts: Facts,
    pace: Pace,
    advanced: Duration,
}

struct Opened<S> {
    service: Arc<S>,
    table: String,
}

impl<B: Bootstrap> Runner<B> {
    pub(crate) fn new(bootstrap: Arc<B>, runtime: Handle) -> Self {
        Self {
            bootstrap,
            runtime,
            prefix: format!("conformance/{:016x}/", rand::random::<u64>()),
            lanes: BTreeMap::new(),
            services: BTreeMap::new(),
            tables: BTreeSet::new(),
            facts: Facts::default(),
            pace: Pace::new(),
            advanced: Duration::ZERO,
        }
    }

    /// How much time the script let pass.
    pub(crate) fn advanced(&self) -> Duration {
        self.advanced
    }

    /// How old a grant was, at most, if that was too old to judge its remaining time.
    pub(crate) fn too_slow(&self) -> Option<Duration> {
        self.pace.too_slow()
    }

    /// Deletes the run's tables and closes its handles; the first error is returned when all is
    /// done that can be.
    pub(crate) fn clean_up(&mut self) -> Result<(), Error> {
        let mut result = Ok(());
        if let Some(opened) = self.services.values().next() {
            let service = Arc::clone(&opened.service);
            for table in std::mem::take(&mut self.tables) {
                let options = TableOptions { table: Some(table), ..TableOptions::default() };
                result = result.and(self.runtime.block_on(service.delete_table(options)));
            }
        }
        for opened in std::mem::take(&mut self.services).into_values() {
            result = result.and(self.close(opened));
        }
        result
    }

    fn close(&self, opened: Opened<B::Service>) -> Result<(), Error> {
        let service = Arc::into_inner(opened.service)
            .expect("a handle is used by one command at a time, and none is running");
        self.runtime.block_on(self.bootstrap.close(service))
    }

    fn open(&mut self, handle: Option<&String>, options: ServiceOptions) -> Result<(), BoxError> {
        if let Some(old) = self.services.remove(&handle.cloned()) {
            self.close(old)?;
        }
        let table = options.table.clone();
        let service = Arc::new(self.runtime.block_on(self.bootstrap.open(options))?);
        self.tables.insert(table.clone());
        self.services.insert(handle.cloned(), Opened { service, table });
        Ok(())
    }

    /// The handle of a line and the table it asks in: that of the line, else the handle's.
    fn at(
        &mut self,
        handle: Option<&String>,
        table: Option<&Name>,
    ) -> Result<(Arc<B::Service>, String), BoxError> {
        let opened = self
            .services
            .get(&handle.cloned())
            .ok_or_else(|| format!("no handle {handle:?} was opened"))?;
        let service = Arc::clone(&opened.service);
        let table = table.map_or_else(|| opened.table.clone(), |name| name.table(&self.prefix));
        Ok((service, table))
    }

    /// A table that was accepted is deleted at the end.
    fn used(&mut self, table: &str) {
        self.tables.insert(table.to_owned());
    }

    fn id(&mut self, id: Option<&Id>) -> Option<RequestId> {
        let id = id?;
        let lane = *self.lanes.entry(id.lane.clone()).or_insert_with(rand::random);
        Some(RequestId { lane, seq: id.seq })
    }

    fn token(&self, word: Option<TokenWord>) -> Result<Option<Token>, BoxError> {
        match word {
            None => Ok(None),
            Some(TokenWord::Number(number)) => Ok(Some(Token(number))),
            Some(TokenWord::Shown(number)) => {
                let token = self.facts.token(number);
                Ok(Some(token.ok_or_else(|| format!("the script has not shown t{number} yet"))?))
            }
        }
    }

    /// The line for an error of the contract, or the error that ends the script.
    fn refused(&mut self, error: Error, table: &str, signature: &str) -> Result<String, BoxError> {
        if let Error::NotFound { decided_at } = &error {
            self.facts.decided(*decided_at, Asks::ToLook)?;
        }
        let line = print::error(&error, &mut self.facts.names(table), signature);
        line.map_or_else(|| Err(error.into()), |line| Ok(self.as_written(line)))
    }

    /// A reason with the script's own names in place of what the run drew at random.
    fn as_written(&self, mut line: String) -> String {
        for (name, lane) in &self.lanes {
            line = line.replace(&format!("{lane:032x}-"), &format!("{name}@"));
        }
        line.replace(&self.prefix, "")
    }

    fn decided_by_write(
        &mut self,
        repeated: bool,
        decided_at: Option<DecidedAt>,
    ) -> Result<(), String> {
        // A repeated request is answered as it was: from where it was decided the first time.
        if repeated { Ok(()) } else { self.facts.decided(decided_at, Asks::ForAGrant) }
    }

    fn lock(
        &mut self,
        (service, table): (Arc<B::Service>, String),
        request: LockRequest,
        options: LockOptions,
    ) -> Result<String, BoxError> {
        let repeated = self.facts.ask(options.request_id);
        let signature = request.signature.clone();
        let asked_at = self.pace.now();
        let response = match self.runtime.block_on(service.lock(request, options)) {
            Ok(response) => response,
            Err(error) => return self.refused(error, &table, &signature),
        };
        self.used(&table);
        self.decided_by_write(repeated, response.decided_at)?;
        if let (Some(grant), false) = (response.grant(), repeated) {
            self.pace.granted(&table, &signature, asked_at);
            self.granted(grant, &table, &signature, response.created())?;
        }
        self.pace.tell(&table, &signature);
        Ok(print::lock(&response.status, &signature, &mut self.facts.names(&table)))
    }

    fn granted(
        &mut self,
        grant: &Grant,
        table: &str,
        signature: &str,
        created: bool,
    ) -> Result<(), String> {
        if !grant.live {
            return Err(String::from("a grant that was just given is not live"));
        }
        self.facts.granted(table, signature, grant.token, created)
    }

    fn unlock(
        &mut self,
        (service, table): (Arc<B::Service>, String),
        request: UnlockRequest,
        options: UnlockOptions,
    ) -> Result<String, BoxError> {
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
        (service, table): (Arc<B::Service>, String),
        signature: &str,
        options: ReadOptions,
    ) -> Result<String, BoxError> {
        match self.runtime.block_on(service.check(signature.to_owned(), options)) {
            Ok(response) => {
                self.pace.tell(&table, signature);
                self.facts.decided(response.decided_at, Asks::ToLook)?;
                Ok(print::record(&response.record, &mut self.facts.names(&table)))
            }
            Err(error) => self.refused(error, &table, signature),
        }
    }

    fn list(
        &mut self,
        (service, table): (Arc<B::Service>, String),
        request: ListRequest,
        options: ReadOptions,
    ) -> Result<String, BoxError> {
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

    fn done(&mut self, result: Result<(), Error>, table: &str) -> Result<String, BoxError> {
        match result {
            Ok(()) => Ok(String::from("ok")),
            Err(error) => self.refused(error, table, ""),
        }
    }

    /// Commands that ask for locks or read them.
    fn ask(
        &mut self,
        command: &Command,
        handle: Option<&String>,
    ) -> Result<Option<String>, BoxError> {
        let length = |length: &Option<Length>| length.map(|length| length.0);
        let text = |name: &Option<Name>| name.as_ref().map(|name| name.text.clone());
        let line = match command {
            Command::Lock {
                signature,
                signee,
                force,
                level,
                duration,
                time_to_live,
                token,
                instance,
                table,
                id,
            } => {
                let request = LockRequest {
                    signature: signature.text.clone(),
                    signee: signee.text.clone(),
                    level: *level,
                };
                let options = LockOptions {
                    table: table.as_ref().map(|name| name.table(&self.prefix)),
                    force: force.is_some(),
                    duration: length(duration),
                    time_to_live: length(time_to_live),
                    token: self.token(*token)?,
                    instance: text(instance),
                    request_id: self.id(id.as_ref()),
                    ..LockOptions::default()
                };
                let at = self.at(handle, table.as_ref())?;
                self.lock(at, request, options)?
            }
            Command::Unlock { signature, signee, token, instance, table, id } => {
                let request = UnlockRequest {
                    signature: signature.text.clone(),
                    signee: signee.text.clone(),
                };
                let options = UnlockOptions {
                    table: table.as_ref().map(|name| name.table(&self.prefix)),
                    token: self.token(*token)?,
                    instance: text(instance),
                    request_id: self.id(id.as_ref()),
                    ..UnlockOptions::default()
                };
                let at = self.at(handle, table.as_ref())?;
                self.unlock(at, request, options)?
            }
            Command::Check { signature, table } => {
                let options = self.reading(table.as_ref());
                let at = self.at(handle, table.as_ref())?;
                self.check(at, &signature.text, options)?
            }
            Command::List { prefix, after, limit, table } => {
                let request = ListRequest {
                    prefix: text(prefix).unwrap_or_default(),
                    after: text(after),
                    limit: limit.unwrap_or(ListRequest::DEFAULT_LIMIT),
                };
                let options = self.reading(table.as_ref());
                let at = self.at(handle, table.as_ref())?;
                self.list(at, request, options)?
            }
            Command::Open { .. }
            | Command::Tables
            | Command::ConfigureTable { .. }
            | Command::DeleteTable { .. }
            | Command::Advance(_)
            | Command::DefaultDuration(_) => return Ok(None),
        };
        Ok(Some(line))
    }

    fn perform(&mut self, command: &Command, handle: Option<&String>) -> Result<String, BoxError> {
        if let Some(line) = self.ask(command, handle)? {
            return Ok(line);
        }
        let line = self.arrange(command, handle)?;
        Ok(line.expect("a command either asks or arranges"))
    }

    fn reading(&self, table: Option<&Name>) -> ReadOptions {
        let table = table.map(|name| name.table(&self.prefix));
        ReadOptions { table, ..ReadOptions::default() }
    }

    /// Commands about tables, handles and time.
    fn arrange(
        &mut self,
        command: &Command,
        handle: Option<&String>,
    ) -> Result<Option<String>, BoxError> {
        let length = |length: &Option<Length>| length.map(|length| length.0);
        let line = match command {
            Command::Open { table, default_duration, default_time_to_live } => {
                let own = OWN_TABLE.parse().expect("a plain word is a name");
                let options = ServiceOptions {
                    table: table.as_ref().unwrap_or(&own).table(&self.prefix),
                    default_duration: length(default_duration),
                    default_time_to_live: length(default_time_to_live),
                };
                self.open(handle, options)?;
                String::from("ok")
            }
            Command::Tables => {
                let (service, _) = self.at(handle, None)?;
                let tables = self.runtime.block_on(service.tables(ReadOptions::default()))?;
                print::tables(&tables, &self.prefix)
            }
            Command::ConfigureTable { table, duration, time_to_live, id } => {
                let defaults = TableDefaults {
                    duration: length(duration),
                    time_to_live: length(time_to_live),
                };
                let options = self.writing(table.as_ref(), id.as_ref());
                let (service, table) = self.at(handle, table.as_ref())?;
                let result = self.runtime.block_on(service.configure_table(defaults, options));
                if result.is_ok() {
                    self.used(&table);
                }
                self.done(result, &table)?
            }
            Command::DeleteTable { table, id } => {
                let options = self.writing(table.as_ref(), id.as_ref());
                let (service, table) = self.at(handle, table.as_ref())?;
                let result = self.runtime.block_on(service.delete_table(options));
                self.done(result, &table)?
            }
            Command::Advance(by) => {
                let (service, _) = self.at(handle, None)?;
                self.runtime.block_on(service.advance_clock(by.0))?;
                self.advanced += by.0;
                // Time passes without a word: a line of its own would only repeat the command.
                String::new()
            }
            Command::DefaultDuration(duration) => {
                let (service, table) = self.at(handle, None)?;
                let result = self.runtime.block_on(service.set_default_duration(duration.0));
                self.done(result, &table)?
            }
            Command::Lock { .. }
            | Command::Unlock { .. }
            | Command::Check { .. }
            | Command::List { .. } => return Ok(None),
        };
        Ok(Some(line))
    }

    fn writing(&mut self, table: Option<&Name>, id: Option<&Id>) -> TableOptions {
        let table = table.map(|name| name.table(&self.prefix));
        TableOptions { table, request_id: self.id(id), ..TableOptions::default() }
    }
}

impl<B: Bootstrap> goldenscript::Runner for Runner<B> {
    type Command = Command;

    fn start_script(&mut self) -> Result<(), BoxError> {
        let own: Name = OWN_TABLE.parse()?;
        let table = own.table(&self.prefix);
        self.open(None, ServiceOptions { table, ..ServiceOptions::default() })
    }

    fn run(
        &mut self,
        command: &Command,
        context: &goldenscript::Context,
    ) -> Result<String, BoxError> {
        let handle = context.prefix.as_ref();
        if matches!(command, Command::Advance(_)) {
            return self.perform(command, handle);
        }
        self.pace.begin();
        let line = self.perform(command, handle);
        self.pace.end();
        line
    }
}
