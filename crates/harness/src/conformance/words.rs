//! Conversion of a script's command to the types of the contract, with the run's own tables and
//! request ids in place of those the script names.

use std::collections::BTreeMap;
use std::time::Duration;

use keyward_core::service::ServiceOptions;
use keyward_core::types::{
    BatchRequest, CallOptions, ListRequest, LockOptions, LockRequest, ReadOptions, RequestId,
    SessionId, SessionLocksRequest, SessionOptions, SessionRequest, TableDefaults, TableOptions,
    TimeToLive, Token, UnlockOptions, UnlockRequest,
};

use super::command::{Command, Id, Kept, Length, Name, TokenWord};
use super::facts::Facts;

/// The table of a handle that names none.
const OWN_TABLE: &str = "main";

/// The random values of a run.
pub(crate) struct Words {
    /// The prefix of the names of its tables.
    pub(crate) prefix: String,
    lanes: BTreeMap<String, u128>,
    sessions: BTreeMap<String, SessionId>,
}

/// The request of a command.
pub(crate) enum Asked {
    Open(ServiceOptions),
    Lock(LockRequest, LockOptions),
    Unlock(UnlockRequest, UnlockOptions),
    /// A request that is asked so many times.
    Many(BatchRequest, u32),
    /// A check, the number of places that it passes over, and whether its answer shows times.
    Check(String, u64, Timed, ReadOptions),
    List(ListRequest, ReadOptions),
    Tables,
    ConfigureTable(TableDefaults, TableOptions),
    DeleteTable(TableOptions),
    Advance(Duration),
    DefaultDuration(Duration),
    OpenSession(String, SessionRequest, SessionOptions),
    KeepAlive(SessionId),
    CloseSession(SessionId),
    ListSession(SessionLocksRequest),
    Deadlocks,
    SetLimit(String, u32),
    Verify(String, Token),
    /// A lock request that waits beside the script, by this name.
    Call(String, LockRequest, LockOptions),
    Answer(String),
    HangUp(String),
    AwaitLeave(String),
}

/// Whether a line shows ages and remaining times.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Timed {
    Yes,
    No,
}

impl Words {
    pub(crate) fn new() -> Self {
        let prefix = format!("conformance/{:016x}/", rand::random::<u64>());
        Self { prefix, lanes: BTreeMap::new(), sessions: BTreeMap::new() }
    }

    /// The options of the handle with which every script begins.
    pub(crate) fn first_handle(&self) -> ServiceOptions {
        let table = format!("{}{OWN_TABLE}", self.prefix);
        ServiceOptions { table, ..ServiceOptions::default() }
    }

    /// The request of a command. The tokens that it names must have been shown.
    pub(crate) fn ask(&mut self, command: &Command, facts: &Facts) -> Result<Asked, String> {
        Ok(match command {
            Command::Open { .. } => self.open(command),
            Command::Lock { .. } => return self.lock(command, facts),
            Command::Unlock { .. } => return self.unlock(command, facts),
            Command::Check { signature, untimed, places_after, table } => {
                let after = places_after.unwrap_or_default();
                let timed = if untimed.is_some() { Timed::No } else { Timed::Yes };
                Asked::Check(signature.text.clone(), after, timed, self.read(table.as_ref()))
            }
            Command::Answer(name) => Asked::Answer(name.text.clone()),
            Command::HangUp(name) => Asked::HangUp(name.text.clone()),
            Command::AwaitLeave(name) => Asked::AwaitLeave(name.text.clone()),
            Command::List { prefix, after, limit, state, table } => {
                let request = ListRequest {
                    prefix: text(prefix.as_ref()).unwrap_or_default(),
                    after: text(after.as_ref()),
                    limit: limit.unwrap_or(ListRequest::DEFAULT_LIMIT),
                    state: state.map(|state| state.0),
                };
                Asked::List(request, self.read(table.as_ref()))
            }
            Command::Tables => Asked::Tables,
            Command::OpenSession { name, signee, ttl, instance, id } => {
                let ttl = length(*ttl).unwrap_or(Duration::from_secs(10));
                let request = SessionRequest { signee: signee.text.clone(), ttl };
                let options = SessionOptions {
                    instance: text(instance.as_ref()),
                    request_id: self.id(id.as_ref()),
                    ..SessionOptions::default()
                };
                Asked::OpenSession(name.text.clone(), request, options)
            }
            Command::KeepAlive(name) => Asked::KeepAlive(self.session(&name.text)),
            Command::CloseSession(name) => Asked::CloseSession(self.session(&name.text)),
            Command::ListSession { name, after, limit } => {
                let table = self.first_handle().table;
                Asked::ListSession(SessionLocksRequest {
                    session: self.session(&name.text),
                    after: after.as_ref().map(|after| (table, after.text.clone())),
                    limit: limit.unwrap_or(ListRequest::DEFAULT_LIMIT),
                })
            }
            Command::Deadlocks => Asked::Deadlocks,
            Command::SetLimit { signature, limit } => {
                Asked::SetLimit(signature.text.clone(), *limit)
            }
            Command::Verify { signature, token } => {
                let token = self::token(*token, facts)?.ok_or("no token to verify")?;
                Asked::Verify(signature.text.clone(), token)
            }
            Command::ConfigureTable { table, duration, time_to_live, id, delay, max_hold } => {
                let defaults = TableDefaults {
                    duration: length(*duration),
                    time_to_live: kept(*time_to_live),
                    lock_delay: length(*delay),
                    max_hold: length(*max_hold),
                };
                Asked::ConfigureTable(defaults, self.write(table.as_ref(), id.as_ref()))
            }
            Command::DeleteTable { table, id } => {
                Asked::DeleteTable(self.write(table.as_ref(), id.as_ref()))
            }
            Command::Advance(by) => Asked::Advance(by.0),
            Command::DefaultDuration(duration) => Asked::DefaultDuration(duration.0),
        })
    }

    /// The name of a session that the script calls so; one that was not opened is unknown to the
    /// service, too.
    pub(crate) fn session(&mut self, name: &str) -> SessionId {
        *self.sessions.entry(name.to_owned()).or_insert_with(|| SessionId(rand::random()))
    }

    /// Remembers the name of a session that was opened. Returns the name by which the script knew
    /// it already.
    pub(crate) fn opened(&mut self, name: &str, id: SessionId) -> Option<String> {
        let known = self.sessions.iter().find(|(_, known)| **known == id);
        let known = known.map(|(known, _)| known.clone());
        self.sessions.insert(name.to_owned(), id);
        known
    }

    /// All sessions of the run.
    pub(crate) fn sessions(&self) -> Vec<SessionId> {
        self.sessions.values().copied().collect()
    }

    /// A line with the script's own names in place of the random values of the run.
    pub(crate) fn as_written(&self, mut line: String) -> String {
        for (name, lane) in &self.lanes {
            line = line.replace(&format!("{lane:032x}-"), &format!("{name}@"));
        }
        for (name, session) in &self.sessions {
            line = line.replace(&session.to_string(), &format!("session:{name}"));
        }
        line.replace(&self.prefix, "")
    }

    fn open(&self, command: &Command) -> Asked {
        let Command::Open { table, default_duration, default_time_to_live } = command else {
            unreachable!("only asked to open")
        };
        let table = self.table(table.as_ref()).unwrap_or_else(|| self.first_handle().table);
        Asked::Open(ServiceOptions {
            table,
            default_duration: length(*default_duration),
            default_time_to_live: kept(*default_time_to_live),
        })
    }

    fn lock(&mut self, command: &Command, facts: &Facts) -> Result<Asked, String> {
        let Command::Lock {
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
            mode,
            limit,
            wait,
            session,
            delay,
            call,
            timeout,
            times,
        } = command
        else {
            unreachable!("only asked to lock")
        };
        let request = LockRequest {
            signature: signature.text.clone(),
            signee: signee.text.clone(),
            level: *level,
        };
        let options = LockOptions {
            table: self.table(table.as_ref()),
            force: force.is_some(),
            duration: length(*duration),
            time_to_live: kept(*time_to_live),
            token: self::token(*token, facts)?,
            instance: text(instance.as_ref()),
            request_id: self.id(id.as_ref()),
            mode: mode.map(|mode| mode.0),
            limit: *limit,
            wait: length(*wait),
            queued: wait.is_some() && call.is_none(),
            session: session.as_ref().map(|name| self.session(&name.text)),
            lock_delay: length(*delay),
            call: CallOptions::within(length(*timeout)),
        };
        Ok(match (call, times) {
            (Some(_), Some(_)) => return Err("a call is one request".to_owned()),
            (Some(name), None) => Asked::Call(name.text.clone(), request, options),
            (None, Some(times)) => Asked::Many(BatchRequest::Lock(request, options), *times),
            (None, None) => Asked::Lock(request, options),
        })
    }

    fn unlock(&mut self, command: &Command, facts: &Facts) -> Result<Asked, String> {
        let Command::Unlock { signature, signee, force, token, place, instance, table, id, times } =
            command
        else {
            unreachable!("only asked to unlock")
        };
        let request =
            UnlockRequest { signature: signature.text.clone(), signee: signee.text.clone() };
        let options = UnlockOptions {
            table: self.table(table.as_ref()),
            token: self::token(*token, facts)?,
            instance: text(instance.as_ref()),
            force: force.is_some(),
            place: place.as_ref().map(|of| facts.place(&signature.text, &of.text)).transpose()?,
            request_id: self.id(id.as_ref()),
            ..UnlockOptions::default()
        };
        Ok(match times {
            Some(times) => Asked::Many(BatchRequest::Unlock(request, options), *times),
            None => Asked::Unlock(request, options),
        })
    }

    fn read(&self, table: Option<&Name>) -> ReadOptions {
        ReadOptions { table: self.table(table), ..ReadOptions::default() }
    }

    fn write(&mut self, table: Option<&Name>, id: Option<&Id>) -> TableOptions {
        TableOptions {
            table: self.table(table),
            request_id: self.id(id),
            ..TableOptions::default()
        }
    }

    fn table(&self, name: Option<&Name>) -> Option<String> {
        name.map(|name| name.table(&self.prefix))
    }

    fn id(&mut self, id: Option<&Id>) -> Option<RequestId> {
        let id = id?;
        let lane = *self.lanes.entry(id.lane.clone()).or_insert_with(rand::random);
        Some(RequestId { lane, seq: id.seq })
    }
}

fn length(length: Option<Length>) -> Option<Duration> {
    length.map(|length| length.0)
}

fn kept(kept: Option<Kept>) -> Option<TimeToLive> {
    kept.map(|kept| kept.0)
}

fn text(name: Option<&Name>) -> Option<String> {
    name.map(|name| name.text.clone())
}

fn token(word: Option<TokenWord>, facts: &Facts) -> Result<Option<Token>, String> {
    match word {
        None => Ok(None),
        Some(TokenWord::Number(number)) => Ok(Some(Token(number))),
        Some(TokenWord::Shown(number)) => {
            let token = facts.token(number);
            Ok(Some(token.ok_or_else(|| format!("the script has not shown t{number} yet"))?))
        }
    }
}
