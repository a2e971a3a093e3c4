//! A watcher: it knows the holders and the places of all locks from events alone.
//!
//! What it knows must be what the state shows, or an event is missing, doubled or false.

use std::collections::{BTreeMap, BTreeSet};

use keyward_core::lock::{Change, Event, GrantEnd, HowLock, LockChange, SessionChange, State};
use keyward_core::types::{DecidedAt, SessionId, Token};

/// A table and a signature.
type Name = (String, String);

/// A signee and an instance.
type Owner = (String, Option<String>);

/// The holders, places and sessions that events have told of.
#[derive(Default)]
pub(crate) struct Watcher {
    grants: BTreeMap<Name, BTreeMap<Token, Owner>>,
    places: BTreeMap<Name, BTreeMap<DecidedAt, Owner>>,
    sessions: BTreeSet<SessionId>,
}

impl Watcher {
    /// Hears the events of an entry of this many commands.
    pub(crate) fn hear(&mut self, events: Vec<Event>, commands: usize) {
        let mut last = None;
        for event in events {
            assert!(event.command.is_none_or(|number| (number as usize) < commands), "{event:?}");
            assert!(event.command >= last, "what time causes comes first: {event:?}");
            last = event.command;
            self.hear_change(event.change);
        }
    }

    fn hear_change(&mut self, change: Change) {
        match change {
            Change::Lock(change) => self.hear_lock(&change),
            Change::Session { session, how } => match how {
                SessionChange::Opened { .. } => assert!(self.sessions.insert(session)),
                SessionChange::Closed | SessionChange::Expired => {
                    assert!(self.sessions.remove(&session), "{session} ends once");
                }
            },
            Change::TableDeleted { table } => {
                self.grants.retain(|(of, _), _| **of != *table);
            }
            Change::TableConfigured { .. } | Change::LimitSet { .. } => {}
        }
    }

    fn hear_lock(&mut self, change: &LockChange) {
        let name = (change.table.to_string(), change.signature.to_string());
        let owner = (change.signee.to_string(), change.instance.as_deref().map(str::to_owned));
        let grants = self.grants.entry(name.clone()).or_default();
        let places = self.places.entry(name).or_default();
        match change.how {
            HowLock::Granted { token, .. } => {
                assert!(!grants.values().any(|holder| *holder == owner), "{change:?}");
                assert!(grants.insert(token, owner).is_none(), "{change:?}");
            }
            HowLock::Ended { token, end } => {
                let ended = grants.remove(&token);
                assert!(ended == Some(owner) || end == GrantEnd::TableDeleted, "{change:?}");
            }
            HowLock::Queued { place } => {
                assert!(places.insert(place, owner).is_none(), "{change:?}");
            }
            HowLock::Left { place, .. } => {
                assert_eq!(places.remove(&place), Some(owner), "{change:?}");
            }
        }
    }

    /// Asserts that a lock is as the state shows it.
    pub(crate) fn assert_sees(&self, state: &State, table: &str, signature: &str) {
        let name = (table.to_owned(), signature.to_owned());
        let record = state.check_places(table, signature, 0);
        let record = record.as_ref();
        let holders = record.into_iter().flat_map(|record| &record.holders);
        let holders = holders.filter(|holder| !holder.expired);
        let holders = holders.map(|it| (it.token, (it.signee.clone(), it.instance.clone())));
        let holders: BTreeMap<_, _> = holders.collect();
        let mut known = self.grants.get(&name).cloned().unwrap_or_default();
        // A renewal may end at once, by the longest hold; that is worked off by the next entry.
        if state.next_deadline().is_some_and(|due| due <= state.clock()) {
            known.retain(|token, _| holders.contains_key(token));
        }
        assert_eq!(known, holders, "{name:?}");
        let places = record.into_iter().flat_map(|record| &record.places);
        let places = places.map(|it| (it.place, (it.signee.clone(), it.instance.clone())));
        let places: BTreeMap<_, _> = places.collect();
        assert_eq!(self.places.get(&name).cloned().unwrap_or_default(), places, "{name:?}");
    }
}
