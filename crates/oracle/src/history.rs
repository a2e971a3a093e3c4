//! Random logs, applied to the machine and to its oracle: for tests and fuzzing.
//!
//! The randomness is any source of numbers: a seeded generator in `tests/histories.rs`, the bytes
//! of a fuzzer in `machine.rs`. There are few names and numbers, so that commands conflict.

use std::sync::Arc;

use rand::seq::IndexedRandom;
use rand::{Rng, RngCore};

use crate::follow::{Follower, as_said};
use crate::oracle::{Became, Oracle, Said};
use crate::watcher::Watcher;
use keyward_core::access::{
    AccessToken, Change, Grantee, Principal, Right, Rule, RuleName, Secret,
};
use keyward_core::lock::{
    ClusterTime, Command, Keep, LeaveCommand, LimitCommand, LockCommand, Operation, Outcome,
    Proposal, Query, SessionCommand, Stamp, State, Subject, TableCommand, UnlockCommand,
};
use keyward_core::types::{
    DecidedAt, Grant, ListRequest, Liveness, LockStatus, Mode, RecordState, RequestId, Seen,
    SessionId, TablesRequest, Token,
};

const TABLES: [&str; 3] = ["default", "default\u{1}", "t"];
const SIGNATURES: [&str; 5] = ["a", "a\u{1}", "ab", "b", "é"];
const SIGNEES: [&str; 3] = ["ann", "bob", "cy"];
/// Signees, and an administrator.
const IDENTITIES: [&str; 4] = ["ann", "bob", "cy", "root"];

/// One of a few access tokens.
fn access_token(number: u8) -> AccessToken {
    let identity = IDENTITIES[usize::from(number + 3) % IDENTITIES.len()];
    AccessToken {
        hash: Secret::of_bits([number; 32]).hash(),
        identity: identity.into(),
        groups: if number % 2 == 1 { vec!["g".into()] } else { Vec::new() },
        expires: None,
    }
}

/// Applies a history to the machine and to the oracle for as long as `more` returns true, and
/// asserts that both give the same result for every command and the same reads afterwards, and that
/// the events tell of every grant and place. `then` sees the state after each entry.
pub fn play<R: RngCore>(
    history: &mut History<R>,
    mut more: impl FnMut(&R) -> bool,
    mut then: impl FnMut(&State),
) {
    let mut state = State::new();
    state.tell_steps(true);
    state.tell_events(true);
    let mut watcher = Watcher::default();
    let mut follower = Follower::default();
    while more(&history.random) {
        let (term, index, proposal) = history.entry();
        let decisions = state.apply(term, index, &proposal);
        if let Err(difference) = follower.entry((term, index), &proposal, &decisions) {
            panic!("{difference}");
        }
        let steps = state.take_steps().into_iter().map(|step| Became {
            place: step.place,
            ask: step.ask,
            request_id: step.request_id,
            outcome: step.outcome,
        });
        let steps: Vec<_> = steps.collect();
        assert_eq!(steps, follower.became(), "entry {index}: {:?}", proposal.commands);
        watcher.hear(state.take_events(), proposal.commands.len());
        for (command, decision) in proposal.commands.iter().zip(decisions) {
            history.note(command, &as_said(decision));
        }
        assert_same_reads(history, &state, &follower.oracle);
        for (table, signature) in TABLES.iter().flat_map(|it| SIGNATURES.map(|name| (*it, name))) {
            watcher.assert_sees(&state, table, signature);
        }
        then(&state);
    }
}

fn assert_same_reads<R: RngCore>(history: &mut History<R>, state: &State, oracle: &Oracle) {
    for table in TABLES {
        for signature in SIGNATURES {
            assert_eq!(state.check(table, signature), oracle.check(table, signature));
            let places = state.check_places(table, signature, 0);
            let places = places.map(|record| record.places).unwrap_or_default();
            assert_eq!(places, oracle.places(table, signature));
        }
        let request = history.list_request();
        let shown = state.list(table, &request);
        assert_eq!(shown, oracle.list(table, &request), "{request:?}");
        if history.is_guarded {
            let reader = history.principal();
            let query = Query {
                principal: reader.clone(),
                stale: false,
                subject: Subject::Locks { table: table.into(), page: request.clone() },
            };
            let page = query.view(state, None).ok().map(|view| {
                let page = view.into_list().expect("a page");
                (page.locks, page.next)
            });
            let expected = oracle.list_for(reader.as_deref(), table, &request);
            assert_eq!(page, expected, "{reader:?} {request:?}");
        }
    }
    let request = history.tables_request();
    assert_eq!(state.tables(&request), oracle.tables(&request), "{request:?}");
    assert_eq!(state.feature_level(), oracle.feature_level());
}

/// Generates a log.
pub struct History<R> {
    pub(crate) random: R,
    index: u64,
    time: u64,
    /// Commands with ids that were generated before, to be repeated.
    drawn: Vec<Command>,
    tokens: u64,
    /// Whether it has requests of feature level 2.
    is_new: bool,
    /// Whether it has principals, rules and tokens, of feature level 3.
    is_guarded: bool,
    /// Names of sessions that were opened, and the last fact that each was told.
    sessions: Vec<(SessionId, Option<DecidedAt>)>,
    /// Places that were told, with the position of the ask.
    places: Vec<(DecidedAt, DecidedAt)>,
}

impl<R: RngCore> History<R> {
    /// A history of the requests of feature level 1.
    pub fn new(random: R) -> Self {
        Self {
            random,
            index: 0,
            time: 0,
            drawn: Vec::new(),
            tokens: 4,
            is_new: false,
            is_guarded: false,
            sessions: Vec::new(),
            places: Vec::new(),
        }
    }

    /// A history that begins by raising the feature level, and then waits, shares and lives in
    /// sessions.
    pub fn of_turns(random: R) -> Self {
        Self { is_new: true, ..Self::new(random) }
    }

    /// A history as [`History::of_turns`], with principals, rules and tokens.
    pub fn of_access(random: R) -> Self {
        Self { is_guarded: true, ..Self::of_turns(random) }
    }

    /// The next entry: its term, its index and its payload.
    pub(crate) fn entry(&mut self) -> (u64, u64, Proposal) {
        self.index += self.random.random_range(1..3);
        self.time += match self.random.random_range(0..10) {
            0..3 => 0,
            3..6 => self.random.random_range(0..2_000),
            6..9 => self.random.random_range(0..20_000_000),
            _ => self.random.random_range(0..700_000_000),
        };
        let back = if self.chance(10) { self.random.random_range(0..30_000_000) } else { 0 };
        let time = ClusterTime(self.time.saturating_sub(back));
        let term = 5;
        let stamp = Stamp { term: if self.chance(5) { 4 } else { term }, time };
        if self.is_new && self.index < 3 {
            let stamp = Stamp { term, time };
            let level = if self.is_guarded { 3 } else { 2 };
            let commands = vec![Operation::RaiseFeatureLevel(level).into()];
            return (term, self.index, Proposal { stamp, commands });
        }
        let count = self.random.random_range(0..5);
        let commands = (0..count).map(|_| self.command()).collect();
        (term, self.index, Proposal { stamp, commands })
    }

    pub(crate) fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) >= 100 - percent
    }

    fn some<T>(&mut self, percent: u32, draw: impl FnOnce(&mut Self) -> T) -> Option<T> {
        if self.chance(percent) { Some(draw(self)) } else { None }
    }

    fn one_of<T: Copy>(&mut self, choice: &[T]) -> T {
        *choice.choose(&mut self.random).expect("there is a choice")
    }

    fn command(&mut self) -> Command {
        if !self.drawn.is_empty() && self.chance(20) {
            let repeated = self.random.random_range(0..self.drawn.len());
            let mut command = self.drawn[repeated].clone();
            if let Operation::Lock(lock) = &mut command.operation
                && self.is_new
                && self.chance(30)
            {
                // How long a caller waits is not part of what it asks.
                lock.wait_ms = self.one_of(&[0, 1000, 60_000]);
            }
            return command;
        }
        let request_id = self.some(40, |history| RequestId {
            lane: history.random.random_range(0..4),
            seq: match history.random.random_range(0..4) {
                0 => history.random.random_range(0..3),
                _ => history.index / 4 + history.random.random_range(0..3),
            },
        });
        let principal = self.principal();
        let operation = self.operation();
        let is_access = matches!(operation, Operation::Access(_));
        let request_id = request_id.filter(|_| !is_access);
        let command = Command { request_id, principal, cause: None, operation };
        if request_id.is_some() {
            self.drawn.push(command.clone());
        }
        command
    }

    /// Mostly one who may do something, sometimes nobody.
    fn principal(&mut self) -> Option<Arc<Principal>> {
        if !self.is_guarded {
            return self.some(20, |_| Arc::new(Principal::named("actor")));
        }
        self.some(93, |history| {
            let mut principal = Principal::named(history.one_of(&IDENTITIES));
            if history.chance(25) {
                let number = history.random.random_range(0..4);
                let token = access_token(number);
                principal.token = Some(token.id());
                if history.chance(90) {
                    principal.identity = token.identity;
                }
            } else if history.chance(20) {
                principal.groups = vec!["g".into()];
            }
            Arc::new(principal)
        })
    }

    fn change(&mut self) -> Change {
        match self.random.random_range(0..100) {
            0..45 => Change::PutRule(self.rule()),
            45..65 => Change::RemoveRule(self.rule().name),
            65..75 => Change::PutToken(access_token(self.random.random_range(0..4))),
            75..83 => Change::RevokeToken(access_token(self.random.random_range(0..4)).id()),
            83..92 => Change::Switch(self.chance(75)),
            _ => {
                let token = access_token(self.random.random_range(0..4));
                Change::Bootstrap { token, on: self.chance(70) }
            }
        }
    }

    fn rule(&mut self) -> Rule {
        let grantee = if self.chance(20) {
            Grantee::Group("g".into())
        } else {
            Grantee::Identity(self.one_of(&IDENTITIES).into())
        };
        if self.chance(15) {
            return Rule::admin(grantee);
        }
        let patterns = ["*", "a", "a*", "a\u{1}", "b*", "ab", "é", "a/"];
        let table = self.some(75, |history| history.one_of(&TABLES).into());
        let name = RuleName {
            grantee,
            table,
            pattern: self.one_of(&patterns).parse().expect("a pattern"),
        };
        let mut rights = Vec::new();
        for right in &Right::ALL[..5] {
            rights.extend(self.some(35, |_| *right));
        }
        if rights.is_empty() {
            rights.push(Right::Acquire);
        }
        let preempts = rights.contains(&Right::Preempt);
        let signee = self.some(25, |_| Rule::IDENTITY.into());
        let max_level = if preempts { self.one_of(&[1, 2]) } else { 0 };
        Rule { name, rights: rights.into_iter().collect(), max_level, signee }
    }

    fn operation(&mut self) -> Operation {
        if self.is_guarded && self.chance(15) {
            return Operation::Access(Box::new(self.change()));
        }
        if self.is_new && self.chance(25) {
            return self.session_operation();
        }
        match self.random.random_range(0..100) {
            0..55 => Operation::Lock(Box::new(self.lock())),
            55..80 => Operation::Unlock(Box::new(self.unlock())),
            80..88 => Operation::Advance,
            88..94 => Operation::ConfigureTable(Box::new(TableCommand {
                table: self.one_of(&TABLES).into(),
                duration_ms: self.some(60, Self::duration),
                time_to_live: self.some(60, Self::keep),
                lock_delay_ms: self.new_field(30, |history| history.one_of(&[0, 1000, 30_000])),
                max_hold_ms: self.new_field(30, |history| history.one_of(&[1, 5000, 60_000])),
            })),
            94..98 => Operation::DeleteTable { table: self.one_of(&TABLES).into() },
            _ => Operation::RaiseFeatureLevel(self.random.random_range(0..2)),
        }
    }

    fn new_field<T>(&mut self, percent: u32, draw: impl FnOnce(&mut Self) -> T) -> Option<T> {
        if self.is_new { self.some(percent, draw) } else { None }
    }

    fn a_session(&mut self) -> SessionId {
        let number = self.random.random_range(0..self.sessions.len() + 1);
        self.sessions.get(number).map_or(SessionId(99), |(id, _)| *id)
    }

    fn session_operation(&mut self) -> Operation {
        match self.random.random_range(0..100) {
            0..25 => {
                let id = SessionId(self.sessions.len() as u128 + 1);
                self.sessions.push((id, None));
                Operation::OpenSession(Box::new(SessionCommand {
                    id: Some(id),
                    ttl_ms: self.one_of(&[1000, 10_000, 60_000]),
                    signee: self.one_of(&SIGNEES).into(),
                    instance: self.some(50, |history| history.one_of(&["i", "j"]).into()),
                }))
            }
            25..65 => {
                let count = self.random.random_range(1..4);
                let mut sessions: Vec<Seen> = Vec::new();
                for _ in 0..count {
                    let session = self.a_session();
                    let known = self.sessions.iter().find(|(id, _)| *id == session);
                    let seen = known.and_then(|(_, seen)| *seen);
                    let seen = if self.chance(70) { seen } else { None };
                    if sessions.iter().all(|other| other.session != session) {
                        sessions.push(Seen { session, seen });
                    }
                }
                Operation::KeepAlive(sessions)
            }
            65..75 => Operation::CloseSession(self.a_session()),
            75..88 => {
                let place = self.random.random_range(0..self.places.len() + 1);
                let (place, ask) = self.places.get(place).copied().unwrap_or_default();
                Operation::Leave(Box::new(LeaveCommand {
                    table: TABLES[0].into(),
                    signature: self.one_of(&SIGNATURES[..2]).into(),
                    place,
                    ask,
                }))
            }
            _ => Operation::SetLimit(Box::new(LimitCommand {
                table: TABLES[0].into(),
                signature: self.one_of(&SIGNATURES[..2]).into(),
                limit: self.random.random_range(1..4),
            })),
        }
    }

    /// A lock request that waits, shares or lives in a session, for one of few locks.
    fn lock_in_turn(&mut self) -> LockCommand {
        let mode = self.some(60, |history| {
            history.one_of(&[Mode::Exclusive, Mode::Shared, Mode::Shared, Mode::Permits])
        });
        let session = self.some(30, Self::a_session);
        let is_permits = mode == Some(Mode::Permits);
        let table = if self.chance(85) { TABLES[0] } else { TABLES[2] };
        LockCommand {
            table: table.into(),
            signature: self.one_of(&SIGNATURES[..2]).into(),
            level: self.some(30, |history| history.one_of(&[-3, 0, 1, 2])),
            force: self.chance(6),
            duration_ms: if session.is_some() { None } else { self.some(70, Self::duration) },
            token: self.some(12, Self::token),
            mode,
            limit: if is_permits {
                self.some(80, |history| history.random_range_of(1..4))
            } else {
                None
            },
            wait_ms: if self.chance(70) { self.one_of(&[1000, 10_000, 60_000]) } else { 0 },
            queued: self.chance(20),
            session,
            lock_delay_ms: self.some(25, |history| history.one_of(&[0, 1000, 30_000])),
            signee: if session.is_some() && self.chance(50) {
                "".into()
            } else {
                self.one_of(&SIGNEES).into()
            },
            instance: self.some(20, |history| history.one_of(&["i", "j"]).into()),
            time_to_live: None,
        }
    }

    fn random_range_of(&mut self, range: std::ops::Range<u32>) -> u32 {
        self.random.random_range(range)
    }

    fn lock(&mut self) -> LockCommand {
        if self.is_new && self.chance(85) {
            return self.lock_in_turn();
        }
        LockCommand {
            table: self.one_of(&TABLES).into(),
            signature: self.one_of(&SIGNATURES).into(),
            signee: self.one_of(&SIGNEES).into(),
            instance: self.some(20, |history| history.one_of(&["i", "j"]).into()),
            level: self.some(50, |history| history.one_of(&[-3, 0, 1, 2, i64::MAX])),
            force: self.chance(10),
            duration_ms: self.some(70, Self::duration),
            time_to_live: self.some(40, Self::keep),
            token: self.some(20, Self::token),
            ..LockCommand::default()
        }
    }

    fn unlock(&mut self) -> UnlockCommand {
        let signatures: &[&str] = if self.is_new { &SIGNATURES[..2] } else { &SIGNATURES };
        let mut command = UnlockCommand {
            table: self.one_of(&TABLES).into(),
            signature: self.one_of(signatures).into(),
            signee: self.one_of(&SIGNEES).into(),
            instance: self.some(20, |history| history.one_of(&["i", "j"]).into()),
            token: self.some(40, Self::token),
            ..UnlockCommand::default()
        };
        if self.is_new && self.chance(15) {
            command.force = true;
            if self.chance(40) && !self.places.is_empty() {
                let place = self.random.random_range(0..self.places.len());
                command.place = Some(self.places[place].0);
                command.token = None;
            }
        }
        command
    }

    fn duration(&mut self) -> u64 {
        self.one_of(&[1, 2, 1_000, 10_000, 30_000, 600_000])
    }

    fn keep(&mut self) -> Keep {
        if self.chance(15) { Keep::ForEver } else { Keep::Ms(self.duration()) }
    }

    /// One of the last few tokens that were given, so that it often matches.
    fn token(&mut self) -> Token {
        let newest = self.tokens.max(4);
        Token(self.random.random_range(newest - 3..newest + 2))
    }

    /// Notes the newest token, the places, and the facts of sessions.
    fn note(&mut self, command: &Command, said: &Said) {
        if let Said::Outcome(Outcome::Lock(LockStatus::Waiting(waiting)), _) = said {
            let ask = DecidedAt { index: self.index, position: 0 };
            self.places.push((waiting.place, waiting.place));
            self.places.push((waiting.place, ask));
        }
        if let (Operation::KeepAlive(asked), Said::Outcome(Outcome::KeptAlive(told), _)) =
            (&command.operation, said)
        {
            for (seen, state) in asked.iter().zip(told) {
                let known = self.sessions.iter_mut().find(|(id, _)| *id == seen.session);
                if let (Some((_, last)), Liveness::Alive { inbox, .. }) = (known, state) {
                    *last = inbox.last().map(|item| item.position).or(*last);
                }
            }
        }
        if let Said::Outcome(Outcome::Lock(status), _) = said {
            self.tokens = self.tokens.max(granted(status).map_or(0, |grant| grant.token.0));
        }
    }

    fn list_request(&mut self) -> ListRequest {
        ListRequest {
            prefix: self.one_of(&["", "a", "ab", "b", "\u{0}"]).to_owned(),
            after: self.some(40, |history| history.one_of(&["", "a", "aa", "ab", "z"]).to_owned()),
            limit: self.random.random_range(1..4),
            state: self
                .some(40, |history| history.one_of(&[RecordState::Held, RecordState::Expired])),
        }
    }
}

impl<R: RngCore> History<R> {
    fn tables_request(&mut self) -> TablesRequest {
        TablesRequest {
            after: self.some(40, |history| history.one_of(&["", "default", "s", "t"]).to_owned()),
            limit: self.random.random_range(1..4),
        }
    }
}

pub(crate) fn granted(status: &LockStatus) -> Option<&Grant> {
    match status {
        LockStatus::Ok(grant)
        | LockStatus::Renewed(grant)
        | LockStatus::Transferred { grant, .. } => Some(grant),
        LockStatus::Waiting(_) | LockStatus::Failed(_) => None,
    }
}
