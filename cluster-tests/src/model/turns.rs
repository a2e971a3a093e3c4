//! A model of a queue, a session and the change of leaders, beside that of clock and leader change.
//!
//! One owner holds a lock; two wait for it, one of them in a session, through two nodes. The lock
//! machine is the real one, and so is the question that a node asks it of a place
//! ([`keyward::lock::State::fate`]). The model covers what surrounds them: entries that a node
//! applies later than others, leaders that change between a grant and its answer, and keep-alives
//! that arrive late.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use clap::ValueEnum;
use keyward::lock::{
    Awaited, ClusterTime, Command, FEATURE_LEVEL, Fate, LockCommand, Operation, Outcome, Proposal,
    SessionCommand, Stamp, State, UnlockCommand,
};
use keyward::types::{DecidedAt, Liveness, LockStatus, Seen, SessionId};
use stateright::{Model, Property};

const TABLE: &str = "default";
const SIGNATURE: &str = "s";
const HOLDER: &str = "ann";
/// The owners that wait: the first in the session, the second without one.
const WAITERS: [&str; 2] = ["bob", "cy"];
/// The node through which each waits.
const NODE_OF: [usize; 2] = [1, 2];
const NODES: usize = 3;
const SESSION: SessionId = SessionId(1);

/// The length of a tick: half of the session's time to live.
const TICK_US: u64 = 500_000;
const TTL_MS: u64 = 1000;
/// Longer than any walk: only the session ends by itself.
const LONG_MS: u64 = 60_000;

/// The bounds of the walk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Ticks of real time.
    pub ticks: u8,
    /// Elections.
    pub terms: u8,
    /// Entries of the log behind the first ones.
    pub entries: u8,
    /// Keep-alives that are sent.
    pub keep_alives: u8,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { ticks: 3, terms: 2, entries: 3, keep_alives: 1 }
    }
}

/// The model: its bounds, and its mutation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Queue {
    /// The bounds of the walk.
    pub bounds: Bounds,
    /// The mutation, if any.
    pub mutation: Option<Mutation>,
}

/// A mistake in what surrounds the lock machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Mutation {
    /// A new leader has the places that it finds asked for again, and forgets their session.
    PlaceWithoutSession,
    /// Only the leader that granted a place tells its owner, from its memory.
    GrantToldByLeader,
    /// A keep-alive of a session that has ended opens it again under its name.
    KeepAliveOpens,
}

impl Mutation {
    /// The property that must be found broken.
    pub fn breaks(self) -> &'static str {
        match self {
            Self::PlaceWithoutSession => DEAD_WAITER,
            Self::GrantToldByLeader => TOLD,
            Self::KeepAliveOpens => REVIVED,
        }
    }

    /// Its name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// At most one holder at each log position.
const ONE_HOLDER: &str = "one holder of a lock that is waited for";
/// Who waited in a session does not hold the lock once the session has ended.
const DEAD_WAITER: &str = "no place is granted to an ended session";
/// Once its node has applied the end of a place, its owner has been told, whoever leads.
const TOLD: &str = "whoever was granted is told";
/// A session that was seen ended stays so.
const REVIVED: &str = "an ended session is never alive again";
/// No two owners are told the same token.
const TOKENS: &str = "two owners are never told one token";

/// The lock machine after the log up to some entry.
#[derive(Clone)]
struct Machine {
    state: Arc<State>,
    encoded: Arc<[u8]>,
}

impl Machine {
    fn of(state: State) -> Self {
        Self { encoded: state.encode().into(), state: Arc::new(state) }
    }

    fn clock_us(&self) -> u64 {
        self.state.clock().0
    }

    /// The machine after one more entry, and the decision.
    fn after(&self, term: u8, index: u64, time_us: u64, command: Command) -> (Self, Outcome) {
        let stamp = Stamp { term: term.into(), time: ClusterTime(time_us) };
        let proposal = Proposal { stamp, commands: vec![command] };
        let mut state = State::clone(&self.state);
        let outcome = state.apply(term.into(), index, &proposal).remove(0).outcome;
        (Self::of(state), outcome)
    }

    /// The live holders and their tokens.
    fn holders(&self) -> Vec<(String, u64)> {
        let holders = self.state.check(TABLE, SIGNATURE).map(|record| record.holders);
        let live = holders.into_iter().flatten().filter(|holder| !holder.expired);
        live.map(|holder| (holder.signee, holder.token.0)).collect()
    }

    fn holds(&self, signee: &str) -> bool {
        self.holders().iter().any(|(holder, _)| holder == signee)
    }

    /// Whether the session lives at the cluster time of this position.
    fn is_alive(&self) -> bool {
        let (_, outcome) = self.after(1, u64::MAX, self.clock_us(), keep_alive());
        is_alive(&outcome)
    }
}

impl PartialEq for Machine {
    fn eq(&self, other: &Self) -> bool {
        self.encoded == other.encoded
    }
}

impl Eq for Machine {}

impl Hash for Machine {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.encoded.hash(hasher);
    }
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "C = {}, {:?}", self.clock_us(), self.holders())
    }
}

fn is_alive(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::KeptAlive(states) if matches!(states[..], [Liveness::Alive { .. }]))
}

fn keep_alive() -> Command {
    Operation::KeepAlive(vec![Seen { session: SESSION, seen: None }]).into()
}

fn open_session() -> Command {
    let (id, signee) = (Some(SESSION), WAITERS[0].into());
    let instance = Some("i".into());
    Operation::OpenSession(Box::new(SessionCommand { id, ttl_ms: TTL_MS, signee, instance })).into()
}

fn release() -> Command {
    Operation::Unlock(Box::new(UnlockCommand {
        table: TABLE.into(),
        signature: SIGNATURE.into(),
        signee: HOLDER.into(),
        ..UnlockCommand::default()
    }))
    .into()
}

fn lock(signee: &str, wait_ms: u64, session: Option<SessionId>) -> Command {
    Operation::Lock(Box::new(LockCommand {
        table: TABLE.into(),
        signature: SIGNATURE.into(),
        signee: signee.into(),
        instance: (signee == WAITERS[0]).then(|| "i".into()),
        duration_ms: session.is_none().then_some(LONG_MS),
        wait_ms,
        session,
        ..LockCommand::default()
    }))
    .into()
}

/// The whole state of the model.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct World {
    now: u8,
    term: u8,
    leader: usize,
    /// The cluster clock at the leader's blank entry, and the real time at which it applied it.
    base_us: u64,
    since: u8,
    /// The machine after each entry behind the first ones; the newest is last.
    log: Vec<Machine>,
    /// The term in which each of these entries was proposed.
    terms: Vec<u8>,
    /// How much of that log each node has applied.
    applied: [u8; NODES],
    /// The places of those that wait, by their index in the log.
    places: [u64; 2],
    /// The token that each waiter was told, or 0 for a refusal.
    told: [Option<u64>; 2],
    /// Keep-alives sent, and whether one is under way.
    sent: u8,
    is_under_way: bool,
    seen: Met,
}

/// Facts that nobody in the cluster knows, and that the properties need.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact by itself")]
struct Met {
    ended: bool,
    revived: bool,
    late_keep_alive: bool,
    told_after_change: bool,
}

/// A step of the model.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// Real time passes.
    Tick,
    /// The leader proposes the time.
    Advance,
    /// The holder releases the lock.
    Release,
    /// The session's client sends a keep-alive.
    Send,
    /// The keep-alive reaches the leader, however late.
    Arrive,
    /// A node applies its next entry, and tells what became of the places that wait there.
    Apply(usize),
    /// Another node leads.
    Elect(usize),
}

impl World {
    /// The lock is held, the session is open, and both wait.
    fn start() -> Self {
        let mut machine = Machine::of(State::with_level(FEATURE_LEVEL));
        let first = [
            lock(HOLDER, 0, None),
            open_session(),
            lock(WAITERS[0], LONG_MS, Some(SESSION)),
            lock(WAITERS[1], LONG_MS, None),
        ];
        for (index, command) in (1..).zip(first) {
            machine = machine.after(1, index, 0, command).0;
        }
        Self {
            now: 0,
            term: 1,
            leader: 0,
            base_us: 0,
            since: 0,
            log: vec![machine],
            terms: vec![1],
            applied: [1; NODES],
            places: [3, 4],
            told: [None; 2],
            sent: 0,
            is_under_way: false,
            seen: Met::default(),
        }
    }

    fn newest(&self) -> &Machine {
        self.log.last().expect("the first entries are applied")
    }

    fn index(&self) -> u64 {
        self.log.len() as u64 + 4
    }

    /// Appends a command with the leader's present stamp.
    fn append(&mut self, command: Command) -> Outcome {
        let time_us = self.base_us + u64::from(self.now - self.since) * TICK_US;
        let (machine, outcome) = self.newest().after(self.term, self.index(), time_us, command);
        self.log.push(machine);
        self.terms.push(self.term);
        // Nobody waits through the first node: that it is behind makes no difference.
        self.applied[0] += 1;
        let alive = self.newest().is_alive();
        self.seen.revived |= self.seen.ended && alive;
        self.seen.ended |= !alive;
        outcome
    }

    fn keep_alive_arrives(&mut self, mutation: Option<Mutation>) {
        self.is_under_way = false;
        let outcome = self.append(keep_alive());
        if is_alive(&outcome) {
            return;
        }
        self.seen.late_keep_alive = true;
        if mutation == Some(Mutation::KeepAliveOpens) {
            self.append(open_session());
        }
    }

    fn elect(&mut self, node: usize, mutation: Option<Mutation>) {
        self.term += 1;
        self.leader = node;
        // It has applied all that was committed before it stamps.
        while usize::from(self.applied[node]) < self.log.len() {
            self.apply(node, mutation);
        }
        self.base_us = self.newest().clock_us();
        self.since = self.now;
        if mutation == Some(Mutation::PlaceWithoutSession)
            && let Fate::Waiting(_) = self.fate(0, self.newest())
        {
            self.places[0] = self.index();
            self.append(lock(WAITERS[0], LONG_MS, None));
        }
    }

    fn fate(&self, waiter: usize, machine: &Machine) -> Fate {
        let place = DecidedAt { index: self.places[waiter], position: 0 };
        machine.state.fate(&Awaited {
            table: TABLE.into(),
            signature: SIGNATURE.into(),
            place,
            decided_at: place,
            request_id: None,
        })
    }

    /// The token that became of a place; 0 if nothing did but its end.
    fn token(&self, waiter: usize, machine: &Machine) -> Option<u64> {
        match self.fate(waiter, machine) {
            Fate::Waiting(_) => None,
            Fate::Ended(decision) => {
                let grant = if let Outcome::Lock(
                    LockStatus::Ok(grant)
                    | LockStatus::Renewed(grant)
                    | LockStatus::Transferred { grant, .. },
                ) = decision.outcome
                {
                    grant.token.0
                } else {
                    0
                };
                Some(grant)
            }
            // Without an id nothing is remembered but the grant itself.
            Fate::Unknown => {
                let holders = machine.holders();
                let own = holders.iter().find(|(holder, _)| *holder == WAITERS[waiter]);
                Some(own.map_or(0, |(_, token)| *token))
            }
        }
    }

    fn apply(&mut self, node: usize, mutation: Option<Mutation>) {
        let at = usize::from(self.applied[node]);
        self.applied[node] += 1;
        let machine = self.log[at].clone();
        for (waiter, through) in NODE_OF.into_iter().enumerate() {
            // With the mutation the answer comes from the leader's memory, and is lost with it.
            let is_teller = match mutation {
                Some(Mutation::GrantToldByLeader) => self.terms[at] == self.term,
                _ => true,
            };
            if through == node
                && self.told[waiter].is_none()
                && is_teller
                && let Some(token) = self.token(waiter, &machine)
            {
                self.told[waiter] = Some(token);
                self.seen.told_after_change |= token > 0 && self.terms[at] < self.term;
            }
        }
    }

    /// Whether everybody has been told what its node knows.
    fn is_told(&self) -> bool {
        (0..WAITERS.len()).all(|waiter| {
            let applied = usize::from(self.applied[NODE_OF[waiter]]);
            let machine = &self.log[applied - 1];
            self.told[waiter].is_some() || self.token(waiter, machine).is_none()
        })
    }
}

impl Model for Queue {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::start()]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        let Bounds { ticks, terms, entries, keep_alives } = self.bounds;
        if world.now < ticks {
            actions.push(Action::Tick);
        }
        if world.log.len() <= usize::from(entries) {
            actions.push(Action::Advance);
            if world.newest().holds(HOLDER) {
                actions.push(Action::Release);
            }
            if world.is_under_way {
                actions.push(Action::Arrive);
            }
        }
        if !world.is_under_way && world.sent < keep_alives {
            actions.push(Action::Send);
        }
        for node in 0..NODES {
            if usize::from(world.applied[node]) < world.log.len() {
                actions.push(Action::Apply(node));
            }
            if world.term < terms && node != world.leader {
                actions.push(Action::Elect(node));
            }
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        match action {
            Action::Tick => next.now += 1,
            Action::Advance => drop(next.append(Command::advance())),
            Action::Release => drop(next.append(release())),
            Action::Send => {
                next.sent += 1;
                next.is_under_way = true;
            }
            Action::Arrive => next.keep_alive_arrives(self.mutation),
            Action::Apply(node) => next.apply(node, self.mutation),
            Action::Elect(node) => next.elect(node, self.mutation),
        }
        // A step that changes nothing is none.
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONE_HOLDER, |_, world: &World| world.newest().holders().len() <= 1),
            Property::always(DEAD_WAITER, |_, world: &World| {
                !world.newest().holds(WAITERS[0]) || world.newest().is_alive()
            }),
            Property::always(TOLD, |_, world: &World| world.is_told()),
            Property::always(REVIVED, |_, world: &World| !world.seen.revived),
            Property::always(TOKENS, |_, world: &World| {
                world.told[0].is_none_or(|token| token == 0 || world.told[1] != Some(token))
            }),
            Property::sometimes(
                "the owner in the session is granted and told",
                |_, world: &World| world.told[0].is_some_and(|token| token > 0),
            ),
            Property::sometimes(
                "its session ends while it waits, and the next is told",
                |_, world: &World| {
                    world.told[0] == Some(0) && world.told[1].is_some_and(|token| token > 0)
                },
            ),
            Property::sometimes("a keep-alive comes too late", |_, world: &World| {
                world.seen.late_keep_alive
            }),
            Property::sometimes("a grant is told after a change of leader", |_, world: &World| {
                world.seen.told_after_change
            }),
            Property::sometimes(
                "the last term comes to a grant",
                |queue: &Queue, world: &World| {
                    world.term == queue.bounds.terms && world.newest().holds(WAITERS[1])
                },
            ),
        ]
    }
}
