//! Events: the changes that an entry made, for an audit and for whoever watches.
//!
//! They are derived where the change is made and are no part of a state's value: they are not in its
//! bytes, two states that differ in them alone are equal, and a clone tells none. Nothing is built
//! unless telling is switched on, see [`State::tell_events`](crate::lock::State::tell_events). The
//! events of an entry come in the order in which its changes happen, those that time caused before
//! those of its commands. Renewals that keep their token are none.

use crate::lock::changes::Tracker;
use crate::lock::ends::WaitEnd;
use crate::lock::queue::Place;
use crate::lock::record::{Grant, Key};
use crate::types::{DecidedAt, Mode, SessionId, Token, TransferReason};

/// A change, and what caused it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// The position within its entry of the command that caused it; `None` if time did.
    pub command: Option<u32>,
    /// The change.
    pub change: Change,
}

/// A change of the state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// A grant or a place of a lock came or went.
    Lock(LockChange),
    /// A session was opened, or ended.
    Session {
        /// The session.
        session: SessionId,
        /// Whether it was opened, or how it ended.
        how: SessionChange,
    },
    /// A table's defaults were set.
    TableConfigured {
        /// The table.
        table: Box<str>,
    },
    /// A table was deleted. The grants that nobody else hears of have ended with it, without events
    /// of their own.
    TableDeleted {
        /// The table.
        table: Box<str>,
    },
    /// The number of permits of a lock was set.
    LimitSet {
        /// The table.
        table: Box<str>,
        /// The lock's name.
        signature: Box<str>,
        /// The new limit.
        limit: u32,
    },
}

/// A grant or a place of a lock that came or went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LockChange {
    /// The table.
    pub table: Box<str>,
    /// The lock's name.
    pub signature: Box<str>,
    /// The owner of the grant or the place.
    pub signee: Box<str>,
    /// The owner's instance, if it has one.
    pub instance: Option<Box<str>>,
    /// The session that the grant or the place lived in.
    pub session: Option<SessionId>,
    /// The level of the grant or the place.
    pub level: i64,
    /// The change.
    pub how: HowLock,
}

/// The change of a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HowLock {
    /// The owner has a new grant.
    Granted {
        /// Its token.
        token: Token,
        /// Its mode.
        mode: Mode,
    },
    /// A grant ended.
    Ended {
        /// Its token.
        token: Token,
        /// How it ended.
        end: GrantEnd,
    },
    /// The owner waits.
    Queued {
        /// The name of its place.
        place: DecidedAt,
    },
    /// A place ended.
    Left {
        /// The name of the place.
        place: DecidedAt,
        /// How it ended.
        end: WaitEnd,
    },
}

/// How a grant ended, as an event tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GrantEnd {
    /// Its owner, or an operator, released it before its end.
    Released,
    /// Its deadline passed, or its session expired.
    Expired,
    /// A request of a higher level took the lock.
    Preempted,
    /// A forced request took the lock.
    Forced,
    /// Its owner has another token: the grant moved to another session, or from shared to exclusive.
    Replaced,
    /// Its session was closed.
    SessionClosed,
    /// Its table was deleted.
    TableDeleted,
}

impl GrantEnd {
    pub(super) fn of_transfer(reason: TransferReason) -> Self {
        match reason {
            TransferReason::Preempted => Self::Preempted,
            TransferReason::Forced => Self::Forced,
            TransferReason::Expired => Self::Expired,
        }
    }

    /// The word of this end.
    pub fn word(self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::Expired => "expired",
            Self::Preempted => "preempted",
            Self::Forced => "forced",
            Self::Replaced => "replaced",
            Self::SessionClosed => "session_closed",
            Self::TableDeleted => "table_deleted",
        }
    }
}

/// What happened to a session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SessionChange {
    /// It was opened for this owner.
    Opened {
        /// The signee of requests that name none.
        signee: Box<str>,
    },
    /// It was closed.
    Closed,
    /// It was not kept alive.
    Expired,
}

impl Tracker {
    /// Tells of a change, if somebody wants to hear of it.
    pub(super) fn event(&mut self, change: impl FnOnce() -> Change) {
        if let Some(events) = &mut self.events {
            events.push(Event { command: self.work.deciding(), change: change() });
        }
    }

    pub(super) fn granted(&mut self, key: &Key, grant: &Grant, mode: Mode) {
        let how = HowLock::Granted { token: grant.token, mode };
        self.event(|| of_grant(key, grant, how));
    }

    /// Tells how a grant ended, unless it had expired, which was told then.
    pub(super) fn ended(&mut self, key: &Key, grant: &Grant, end: GrantEnd) {
        if !grant.expired {
            self.event(|| of_grant(key, grant, HowLock::Ended { token: grant.token, end }));
        }
    }

    pub(super) fn queued(&mut self, key: &Key, place: &Place) {
        self.event(|| of_place(key, place, HowLock::Queued { place: place.at }));
    }

    pub(super) fn left(&mut self, key: &Key, place: &Place, end: WaitEnd) {
        self.event(|| of_place(key, place, HowLock::Left { place: place.at, end }));
    }
}

fn of_grant(key: &Key, grant: &Grant, how: HowLock) -> Change {
    Change::Lock(LockChange {
        table: key.table().into(),
        signature: key.signature().into(),
        signee: grant.signee.as_str().into(),
        instance: grant.instance().map(Into::into),
        session: grant.session(),
        level: grant.level,
        how,
    })
}

fn of_place(key: &Key, place: &Place, how: HowLock) -> Change {
    Change::Lock(LockChange {
        table: key.table().into(),
        signature: key.signature().into(),
        signee: place.owner.signee.as_str().into(),
        instance: place.owner.instance.clone(),
        session: place.session(),
        level: place.level,
        how,
    })
}
