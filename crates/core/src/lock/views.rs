//! Reads of queues and sessions: the places of a lock, one token, the locks of a session, and
//! cycles of owners that hold and wait.

use std::collections::{BTreeMap, BTreeSet};

use crate::lock::State;
use crate::lock::record::{Grant, Key, Owner, Record};
use crate::types::{
    DeadlockEdge, Holder, LockRecord, SessionId, SessionLock, SessionLocksRequest, Token,
};

/// A table and the name of a lock in it.
type TableAndSignature = (String, String);

/// The number of waits that a search for deadlocks looks at.
const MAX_EDGES: usize = 10_000;

/// The most bytes of all cycles that are told: those of many cycles may share most of their owners.
const MAX_TOLD_BYTES: usize = 4 * 1024 * 1024;

/// The size of one step of a cycle without its names.
const EDGE_BYTES: usize = 100;

impl State {
    /// Like [`State::check`], with places of the queue after this number of them.
    pub fn check_places(
        &self,
        table: &str,
        signature: &str,
        places_after: u64,
    ) -> Option<LockRecord> {
        let mut shown = self.check(table, signature)?;
        let record = self.locks.get(&Key::new(table, signature)?)?;
        let skip = usize::try_from(places_after).unwrap_or(usize::MAX);
        let places = record.queue.iter().flat_map(|queue| queue.in_order()).skip(skip);
        let numbered = places.take(LockRecord::MAX_PLACES).zip(places_after.saturating_add(1)..);
        shown.places = numbered.map(|(place, number)| place.view(number, self.clock)).collect();
        Some(shown)
    }

    /// The holder of the grant with this token.
    pub fn holder(&self, table: &str, signature: &str, token: Token) -> Option<Holder> {
        let record = self.check(table, signature)?;
        record.holders.into_iter().find(|holder| holder.token == token)
    }

    /// A page of the locks of an open session, and the value of `after` for the next one; `None`
    /// if there is no such session.
    pub fn session_locks(
        &self,
        request: &SessionLocksRequest,
    ) -> Option<(Vec<SessionLock>, Option<TableAndSignature>)> {
        let session = self.sessions.live(request.session, self.clock)?;
        let limit = request.limit.clamp(1, SessionLocksRequest::MAX_LIMIT) as usize;
        let after = request.after.as_ref();
        let after = after.map(|(table, name)| [table.as_bytes(), b"\0", name.as_bytes()].concat());
        let mut keys = session.locks(after.as_deref());
        let page: Vec<SessionLock> = keys
            .by_ref()
            .take(limit)
            .filter_map(|key| Some(self.session_lock(key, self.locks.get(key)?, request.session)))
            .collect();
        let next = page.last().map(|last| (last.table.clone(), last.signature.clone()));
        let next = next.filter(|_| keys.next().is_some());
        Some((page, next))
    }

    fn session_lock(&self, key: &Key, record: &Record, session: SessionId) -> SessionLock {
        let tokens = record.holders.in_session(session);
        let moment = self.moment(key.table());
        let holders = tokens.iter().filter_map(|token| record.holders.get(*token));
        let holders = holders.filter(|grant| !moment.has_deleted(grant));
        let holders = holders.map(|grant| grant.view(record.mode, self.clock, &self.sessions));
        let mine = |place: &&crate::lock::queue::Place| place.session() == Some(session);
        let places = record.queue.iter().flat_map(|queue| {
            queue.in_session(session).into_iter().filter_map(|at| queue.get(at)).filter(mine)
        });
        SessionLock {
            table: key.table().to_owned(),
            signature: key.signature().to_owned(),
            holders: holders.collect(),
            places: places.map(|place| place.view(0, self.clock)).collect(),
        }
    }

    /// The cycles of owners that hold and wait, and whether some may be missing because there are
    /// too many waits, or too many bytes to tell. It may take tens of milliseconds.
    pub fn deadlocks(&self) -> (Vec<Vec<DeadlockEdge>>, bool) {
        let mut waits = Waits::default();
        let (mut count, mut cut) = (0, false);
        'locks: for (key, record) in self.locks.waited_for() {
            let moment = self.moment(key.table());
            let is_live = |grant: &&Grant| !moment.is_over(grant);
            for place in record.queue.iter().flat_map(|queue| queue.in_order()) {
                for grant in record.holders.iter().filter(is_live) {
                    if count == MAX_EDGES {
                        cut = true;
                        break 'locks;
                    }
                    count += 1;
                    waits.entry(&place.owner).or_default().push((grant.owner(), key));
                }
            }
        }
        let (cycles, told_all) = cycles(&waits);
        (cycles, cut || !told_all)
    }
}

impl SessionLocksRequest {
    /// The largest page.
    pub const MAX_LIMIT: u32 = 1000;
}

/// The owners that wait, each with the holders of the locks that it waits for.
type Waits<'a> = BTreeMap<&'a Owner, Vec<(Owner, &'a Key)>>;

/// An owner that waits, and the number of one of its waits.
type Wait<'a> = (&'a Owner, usize);

/// One cycle through each owner that is in one, found depth first and told once, beginning with
/// its smallest owner; and whether all fit into [`MAX_TOLD_BYTES`].
fn cycles(waits: &Waits<'_>) -> (Vec<Vec<DeadlockEdge>>, bool) {
    let mut found: BTreeSet<Vec<Wait<'_>>> = BTreeSet::new();
    let mut done: BTreeSet<&Owner> = BTreeSet::new();
    let mut room = MAX_TOLD_BYTES;
    for start in waits.keys().copied() {
        let mut path: Vec<Wait<'_>> = vec![(start, 0)];
        // The index of each owner of the path: a path may be as long as there are edges.
        let mut on_path = BTreeMap::from([(start, 0)]);
        while let Some((owner, next)) = path.last_mut() {
            let owner = *owner;
            let step = waits.get(owner).and_then(|waits| waits.get(*next));
            *next += 1;
            let Some((to, _)) = step else {
                done.insert(owner);
                on_path.remove(owner);
                path.pop();
                continue;
            };
            let known = waits.get_key_value(to).map(|(to, _)| *to);
            if let Some(&from) = on_path.get(to) {
                let cycle = &path[from..];
                let left =
                    cycle.iter().try_fold(room, |room, wait| room.checked_sub(bytes(waits, *wait)));
                let Some(left) = left else { return (tell(waits, found), false) };
                room = left;
                let mut cycle: Vec<_> =
                    cycle.iter().map(|(owner, next)| (*owner, next - 1)).collect();
                let first = (0..cycle.len()).min_by_key(|at| cycle[*at]);
                cycle.rotate_left(first.unwrap_or(0));
                found.insert(cycle);
            } else if let Some(to) = known.filter(|to| !done.contains(to)) {
                on_path.insert(to, path.len());
                path.push((to, 0));
            }
        }
    }
    (tell(waits, found), true)
}

fn tell(waits: &Waits<'_>, cycles: BTreeSet<Vec<Wait<'_>>>) -> Vec<Vec<DeadlockEdge>> {
    let edge = |(owner, number): Wait<'_>| {
        let (_, key) = &waits[owner][number];
        DeadlockEdge {
            signee: owner.signee.to_string(),
            instance: owner.instance.as_deref().map(str::to_owned),
            table: key.table().to_owned(),
            signature: key.signature().to_owned(),
        }
    };
    cycles.into_iter().map(|cycle| cycle.into_iter().map(edge).collect()).collect()
}

/// The size of what is told of the wait before this one.
fn bytes(waits: &Waits<'_>, (owner, next): Wait<'_>) -> usize {
    let (_, key) = &waits[owner][next - 1];
    let instance = owner.instance.as_ref().map_or(0, |instance| instance.len());
    EDGE_BYTES + owner.signee.len() + instance + key.as_bytes().len()
}
