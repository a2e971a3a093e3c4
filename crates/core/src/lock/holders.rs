//! The grants of one lock: none, one, or many.
//!
//! Nearly all locks have one. Many are kept in maps that share their structure, with an index for
//! each question that the machine asks, so that one grant more or less costs the same however many
//! there are. One grant is never kept as many: equal grants have one form.

use std::cmp::Reverse;
use std::sync::Arc;

use crate::lock::ClusterTime;
use crate::lock::record::{Grant, Owner};
use crate::lock::small::{SmallMap, SmallSet};
use crate::types::{SessionId, Token};

/// The grants of a lock.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) enum Holders {
    #[default]
    None,
    One(Grant),
    Many(Box<Many>),
}

/// Two grants or more.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Many {
    by_token: SmallMap<Token, Arc<Grant>>,
    by_owner: SmallMap<Owner, Token>,
    /// The live grants, those to be preempted first in front: the lowest level, then the newest.
    by_level: SmallSet<(i64, Reverse<Token>)>,
    dues: SmallSet<(ClusterTime, Token)>,
    by_session: SmallSet<(SessionId, Token)>,
    slots: Slots,
}

/// The numbers of permits that are taken: all below `next` that are not free.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Slots {
    next: u32,
    free: SmallSet<u32>,
}

impl Slots {
    fn smallest_free(&self) -> u32 {
        self.free.get_min().copied().unwrap_or(self.next)
    }

    fn take(&mut self, slot: u32) {
        self.free.remove(&slot);
        while self.next <= slot {
            if self.next < slot {
                self.free.insert(self.next);
            }
            self.next += 1;
        }
    }

    fn give(&mut self, slot: u32) {
        self.free.insert(slot);
        while self.next > 0 && self.free.remove(&(self.next - 1)) {
            self.next -= 1;
        }
    }
}

impl Many {
    fn insert(&mut self, grant: Grant) {
        let token = grant.token;
        self.by_owner.insert(grant.owner(), token);
        if !grant.expired {
            self.by_level.insert((grant.level, Reverse(token)));
        }
        if grant.due() != ClusterTime::NEVER {
            self.dues.insert((grant.due(), token));
        }
        if let Some(session) = grant.session() {
            self.by_session.insert((session, token));
        }
        if let Some(slot) = slot(&grant) {
            self.slots.take(slot);
        }
        self.by_token.insert(token, Arc::new(grant));
    }

    fn remove(&mut self, token: Token) -> Option<Arc<Grant>> {
        let grant = self.by_token.remove(&token)?;
        self.by_owner.remove(&grant.owner());
        self.by_level.remove(&(grant.level, Reverse(token)));
        self.dues.remove(&(grant.due(), token));
        if let Some(session) = grant.session() {
            self.by_session.remove(&(session, token));
        }
        if let Some(slot) = slot(&grant) {
            self.slots.give(slot);
        }
        Some(grant)
    }
}

fn slot(grant: &Grant) -> Option<u32> {
    grant.rare.as_ref().and_then(|rare| rare.slot)
}

impl Holders {
    pub(super) fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(_) => 1,
            Self::Many(many) => many.by_token.len(),
        }
    }

    /// The grants in the order of their tokens.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Grant> {
        let (one, many) = match self {
            Self::None => (None, None),
            Self::One(grant) => (Some(grant), None),
            Self::Many(many) => (None, Some(many.by_token.values())),
        };
        one.into_iter().chain(many.into_iter().flatten().map(|grant| &**grant))
    }

    pub(super) fn get(&self, token: Token) -> Option<&Grant> {
        match self {
            Self::None => None,
            Self::One(grant) => Some(grant).filter(|grant| grant.token == token),
            Self::Many(many) => many.by_token.get(&token).map(|grant| &**grant),
        }
    }

    pub(super) fn of(&self, owner: &Owner) -> Option<&Grant> {
        match self {
            Self::None => None,
            Self::One(grant) => Some(grant)
                .filter(|grant| grant.belongs_to(&owner.signee, owner.instance.as_deref())),
            Self::Many(many) => self.get(*many.by_owner.get(owner)?),
        }
    }

    /// The tokens of the grants that live in a session.
    pub(super) fn in_session(&self, session: SessionId) -> Vec<Token> {
        match self {
            Self::None => Vec::new(),
            Self::One(grant) => {
                if grant.session() == Some(session) {
                    vec![grant.token]
                } else {
                    Vec::new()
                }
            }
            Self::Many(many) => {
                let range = (session, Token(0))..=(session, Token(u64::MAX));
                many.by_session.range(range).map(|(_, token)| *token).collect()
            }
        }
    }

    pub(super) fn has_sessions(&self) -> bool {
        match self {
            Self::None => false,
            Self::One(grant) => grant.session().is_some(),
            Self::Many(many) => !many.by_session.is_empty(),
        }
    }

    /// The sessions that grants live in, each once.
    pub(super) fn sessions(&self) -> Vec<SessionId> {
        let mut sessions: Vec<SessionId> = match self {
            Self::None => Vec::new(),
            Self::One(grant) => grant.session().into_iter().collect(),
            Self::Many(many) => many.by_session.iter().map(|(session, _)| *session).collect(),
        };
        sessions.dedup();
        sessions
    }

    /// The number of grants that are not expired.
    pub(super) fn live(&self) -> u64 {
        match self {
            Self::None => 0,
            Self::One(grant) => u64::from(!grant.expired),
            Self::Many(many) => many.by_level.len() as u64,
        }
    }

    /// The number of grants that keep others out.
    pub(super) fn in_the_way(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(grant) => usize::from(grant.is_in_the_way()),
            // An expired grant beyond its lock-delay is not kept beside another.
            Self::Many(many) => many.by_token.len(),
        }
    }

    /// Whether no two permits have the same number.
    pub(super) fn have_own_slots(&self) -> bool {
        match self {
            Self::None => false,
            Self::One(_) => true,
            Self::Many(many) => {
                let taken = many.slots.next as usize - many.slots.free.len();
                taken == many.by_token.len()
            }
        }
    }

    /// The live grants, those to be preempted first in front: the lowest level, then the newest.
    pub(super) fn by_level(&self) -> impl DoubleEndedIterator<Item = &Grant> {
        let (one, many) = match self {
            Self::None => (None, None),
            Self::One(grant) => (Some(grant).filter(|grant| !grant.expired), None),
            Self::Many(many) => (None, Some(many)),
        };
        let many = many.into_iter().flat_map(|many| {
            let get = |(_, Reverse(token)): &(i64, Reverse<Token>)| {
                many.by_token.get(token).expect("an index has a grant")
            };
            many.by_level.iter().map(move |entry| &**get(entry))
        });
        one.into_iter().chain(many)
    }

    /// The next time at which one of the grants changes by itself.
    pub(super) fn due(&self) -> ClusterTime {
        match self {
            Self::None => ClusterTime::NEVER,
            Self::One(grant) => grant.due(),
            Self::Many(many) => many.dues.get_min().map_or(ClusterTime::NEVER, |(due, _)| *due),
        }
    }

    /// The grant that is due first.
    pub(super) fn first_due(&self) -> Option<(ClusterTime, Token)> {
        match self {
            Self::None => None,
            Self::One(grant) => Some((grant.due(), grant.token)),
            Self::Many(many) => many.dues.get_min().copied(),
        }
    }

    /// The smallest number that no permit has.
    pub(super) fn free_slot(&self) -> u32 {
        match self {
            Self::None => 0,
            Self::One(grant) => u32::from(slot(grant) == Some(0)),
            Self::Many(many) => many.slots.smallest_free(),
        }
    }

    /// Adds a grant with a new token.
    pub(super) fn insert(&mut self, grant: Grant) {
        match std::mem::take(self) {
            Self::None => *self = Self::One(grant),
            Self::One(one) => {
                let mut many = Box::<Many>::default();
                many.insert(one);
                many.insert(grant);
                *self = Self::Many(many);
            }
            Self::Many(mut many) => {
                many.insert(grant);
                *self = Self::Many(many);
            }
        }
    }

    /// Removes a grant, if there is one with this token.
    pub(super) fn remove(&mut self, token: Token) -> Option<Grant> {
        match std::mem::take(self) {
            Self::None => None,
            Self::One(grant) if grant.token == token => Some(grant),
            Self::One(grant) => {
                *self = Self::One(grant);
                None
            }
            Self::Many(mut many) => {
                let removed = many.remove(token);
                let last = many.by_token.values().next().filter(|_| many.by_token.len() == 1);
                *self = match last {
                    Some(last) => Self::One(Grant::clone(last)),
                    None => Self::Many(many),
                };
                removed.map(|grant| Grant::clone(&grant))
            }
        }
    }
}
