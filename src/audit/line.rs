//! The lines of an audit.
//!
//! A line has the fields that it needs, in this order: `time` (of this node's wall clock, when the
//! line was made; a file that begins otherwise is no audit), `node`, `index` and `n` (the entry of
//! the log, and the number of the change in it), `term`, `event`, then what changed, and at last who
//! asked for it. No line has a secret.

use std::borrow::Cow;
use std::net::SocketAddr;

use serde::Serialize;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use crate::access;
use crate::lock::{
    Change, Command, Decision, Event, HowLock, LockChange, Operation, Outcome, Proposal, Refusal,
    SessionChange,
};
use crate::types::RequestId;

/// An entry of the log that was applied here.
pub(crate) struct Applied<'a> {
    pub(crate) node: u64,
    pub(crate) index: u64,
    pub(crate) term: u64,
    pub(crate) proposal: Option<&'a Proposal>,
    pub(crate) events: &'a [Event],
    pub(crate) decisions: &'a [Decision],
}

/// One line.
#[derive(Serialize, Default)]
pub(crate) struct Line<'a> {
    time: Cow<'a, str>,
    node: u64,
    /// In a line that is of no entry, the last one that was applied.
    index: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    term: Option<u64>,
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signature: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signee: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    level: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    access_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    left_out: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    actor: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'a str>,
}

/// Passes each line of an entry to `write`.
pub(crate) fn lines_of(entry: &Applied<'_>, mut write: impl FnMut(&Line<'_>)) {
    let is_told = |decision: &Decision| {
        matches!(
            decision.outcome,
            Outcome::Access(access::Changed::Done)
                | Outcome::Refused(Refusal::NotAllowed(_) | Refusal::Unauthorized(_))
        )
    };
    if entry.events.is_empty() && !entry.decisions.iter().any(is_told) {
        return;
    }
    let time = now();
    let commands = entry.proposal.map(|proposal| &*proposal.commands).unwrap_or_default();
    let line = |n| Line {
        time: Cow::Borrowed(&time),
        node: entry.node,
        index: entry.index,
        n: Some(n),
        term: Some(entry.term),
        ..Line::default()
    };
    for (n, event) in entry.events.iter().enumerate() {
        let command = event.command.and_then(|number| commands.get(number as usize));
        let mut line = line(n);
        line.tell(&event.change);
        if let Some(command) = command {
            line.asked_by(command);
        }
        write(&line);
    }
    let decided = commands.iter().zip(entry.decisions).filter(|(_, decision)| is_told(decision));
    for ((command, decision), n) in decided.zip(entry.events.len()..) {
        let mut line = line(n);
        line.tell_decided(&command.operation, &decision.outcome);
        line.asked_by(command);
        write(&line);
    }
}

impl<'a> Line<'a> {
    /// Entries up to `index` whose lines may be missing here: they were applied as part of a
    /// snapshot, or by a run that did not end well.
    pub(crate) fn gap(node: u64, from: u64, index: u64) -> Self {
        Self { from: Some(from), ..Self::of_node(node, index, "gap") }
    }

    /// The end of a run that has applied the entries up to `index`: the next one goes on after it.
    pub(crate) fn stopped(node: u64, index: u64) -> Self {
        Self::of_node(node, index, "stopped")
    }

    /// A request whose maker could not be found out: it never came to the log. `left_out` is the
    /// number of further ones, of the time before, that have no line of their own.
    pub(crate) fn unauthorized(
        node: u64,
        index: u64,
        (detail, address): (&'a str, Option<SocketAddr>),
        left_out: u64,
    ) -> Self {
        let left_out = Some(left_out).filter(|number| *number > 0);
        let line = Self::of_node(node, index, "unauthorized");
        Self { detail: Some(detail), address, left_out, ..line }
    }

    fn of_node(node: u64, index: u64, event: &'static str) -> Self {
        Self { time: Cow::Owned(now()), node, index, event, ..Self::default() }
    }

    fn tell(&mut self, change: &'a Change) {
        match change {
            Change::Lock(change) => self.tell_lock(change),
            Change::Session { session, how } => {
                self.session = Some(session.to_string());
                self.event = match how {
                    SessionChange::Opened { signee } => {
                        self.signee = Some(signee);
                        "session_opened"
                    }
                    SessionChange::Closed => "session_closed",
                    SessionChange::Expired => "session_expired",
                };
            }
            Change::TableConfigured { table } => {
                (self.event, self.table) = ("table_configured", Some(&**table));
            }
            Change::TableDeleted { table } => {
                (self.event, self.table) = ("table_deleted", Some(&**table));
            }
            Change::LimitSet { table, signature, limit } => {
                (self.event, self.limit) = ("limit_set", Some(*limit));
                (self.table, self.signature) = (Some(&**table), Some(&**signature));
            }
        }
    }

    fn tell_lock(&mut self, change: &'a LockChange) {
        let LockChange { table, signature, signee, instance, session, level, how } = change;
        (self.table, self.signature) = (Some(&**table), Some(&**signature));
        (self.signee, self.instance) = (Some(&**signee), instance.as_deref());
        self.session = session.map(|session| session.to_string());
        self.level = Some(*level);
        match how {
            HowLock::Granted { token, mode } => {
                self.event = "granted";
                (self.token, self.mode) = (Some(token.0), Some(mode.word()));
            }
            HowLock::Ended { token, end } => {
                self.event = "ended";
                (self.token, self.reason) = (Some(token.0), Some(end.word()));
            }
            HowLock::Queued { place } => {
                (self.event, self.place) = ("queued", Some(place.to_string()));
            }
            HowLock::Left { place, end } => {
                self.event = "left";
                (self.place, self.reason) = (Some(place.to_string()), Some(end.word()));
            }
        }
    }

    /// Tells of a command that was refused by the rules, or that changed them.
    fn tell_decided(&mut self, operation: &'a Operation, outcome: &'a Outcome) {
        if let Outcome::Refused(Refusal::NotAllowed(why) | Refusal::Unauthorized(why)) = outcome {
            (self.event, self.detail) = ("refused", Some(&**why));
        } else if let Operation::Access(change) = operation {
            self.tell_access(change);
        }
        let lock = if let Operation::Lock(command) = operation {
            Some((&command.table, &command.signature, &command.signee))
        } else if let Operation::Unlock(command) = operation {
            Some((&command.table, &command.signature, &command.signee))
        } else {
            None
        };
        if let Some((table, signature, signee)) = lock {
            (self.table, self.signature) = (Some(&**table), Some(&**signature));
            self.signee = Some(&**signee);
        }
    }

    fn tell_access(&mut self, change: &'a access::Change) {
        let token = match change {
            access::Change::PutRule(rule) => {
                (self.event, self.rule) = ("rule_put", Some(rule.to_string()));
                return;
            }
            access::Change::RemoveRule(name) => {
                (self.event, self.rule) = ("rule_removed", Some(name.to_string()));
                return;
            }
            access::Change::Switch(on) => {
                self.event = if *on { "access_enabled" } else { "access_disabled" };
                return;
            }
            access::Change::RevokeToken(id) => {
                (self.event, self.access_token) = ("access_token_revoked", Some(id.to_string()));
                return;
            }
            access::Change::PutToken(token) => {
                self.event = "access_token_made";
                token
            }
            access::Change::Bootstrap { token, .. } => {
                self.event = "first_administrator";
                token
            }
        };
        self.access_token = Some(token.id().to_string());
        self.identity = Some(&token.identity);
    }

    fn asked_by(&mut self, command: &'a Command) {
        self.request_id = command.request_id.as_ref().map(RequestId::to_string);
        self.actor = command.actor();
        self.cause = command.cause.as_deref();
    }
}

/// The time of the wall clock, written as in the log.
fn now() -> String {
    let mut time = String::new();
    // A text takes whatever is written to it.
    let _ = SystemTime.format_time(&mut Writer::new(&mut time));
    time
}
