//! Random logs, applied to the machine and to its oracle: for tests and fuzzing.
//!
//! The randomness is any source of numbers: a seeded generator in `tests/histories.rs`, the bytes
//! of a fuzzer in `machine.rs`. There are few names and numbers, so that commands conflict.

use rand::seq::IndexedRandom;
use rand::{Rng, RngCore};

use crate::oracle::{Oracle, Said};
use keyward_core::lock::{
    ClusterTime, Command, Decision, Keep, LockCommand, Operation, Outcome, Proposal, Refusal,
    Stamp, State, TableCommand, UnlockCommand,
};
use keyward_core::types::{
    Grant, ListRequest, LockStatus, RecordState, RequestId, TablesRequest, Token,
};

const TABLES: [&str; 3] = ["default", "default\u{1}", "t"];
const SIGNATURES: [&str; 5] = ["a", "a\u{1}", "ab", "b", "é"];
const SIGNEES: [&str; 3] = ["ann", "bob", "cy"];

/// Applies a history to the machine and to the oracle for as long as `more` returns true, and
/// asserts that both give the same result for every command and the same reads afterwards. `then`
/// sees the state after each entry.
pub fn play<R: RngCore>(
    history: &mut History<R>,
    mut more: impl FnMut(&R) -> bool,
    mut then: impl FnMut(&State),
) {
    let mut state = State::new();
    let mut oracle = Oracle::default();
    while more(&history.random) {
        let (term, index, proposal) = history.entry();
        let decisions = state.apply(term, index, &proposal);
        let expected = oracle.apply(term, index, &proposal);
        assert_eq!(decisions.len(), expected.len());
        let judged = decisions.into_iter().zip(expected).zip(&proposal.commands);
        for ((decision, said), command) in judged {
            let given = as_said(decision);
            history.note(&given);
            assert_eq!(given, said, "entry {index}: {command:?}");
        }
        assert_same_reads(history, &state, &oracle);
        then(&state);
    }
}

fn as_said(decision: Decision) -> Said {
    match decision.outcome {
        Outcome::Refused(Refusal::BadRequest(_)) => Said::BadRequest,
        outcome @ (Outcome::Refused(_)
        | Outcome::Lock(_)
        | Outcome::Unlock(_)
        | Outcome::Table
        | Outcome::NoTable
        | Outcome::Advanced
        | Outcome::FeatureLevel) => {
            Said::Outcome(outcome, decision.decided_at.expect("the machine has a log"))
        }
    }
}

fn assert_same_reads<R: RngCore>(history: &mut History<R>, state: &State, oracle: &Oracle) {
    for table in TABLES {
        for signature in SIGNATURES {
            assert_eq!(state.check(table, signature), oracle.check(table, signature));
        }
        let request = history.list_request();
        let shown = state.list(table, &request);
        assert_eq!(shown, oracle.list(table, &request), "{request:?}");
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
}

impl<R: RngCore> History<R> {
    /// A history whose choices come from this source.
    pub fn new(random: R) -> Self {
        Self { random, index: 0, time: 0, drawn: Vec::new(), tokens: 4 }
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
            return self.drawn[repeated].clone();
        }
        let request_id = self.some(40, |history| RequestId {
            lane: history.random.random_range(0..4),
            seq: match history.random.random_range(0..4) {
                0 => history.random.random_range(0..3),
                _ => history.index / 4 + history.random.random_range(0..3),
            },
        });
        let actor = self.some(20, |_| "actor".into());
        let operation = self.operation();
        let command = Command { request_id, actor, cause: None, operation };
        if request_id.is_some() {
            self.drawn.push(command.clone());
        }
        command
    }

    fn operation(&mut self) -> Operation {
        match self.random.random_range(0..100) {
            0..55 => Operation::Lock(Box::new(self.lock())),
            55..80 => Operation::Unlock(Box::new(self.unlock())),
            80..88 => Operation::Advance,
            88..94 => Operation::ConfigureTable(Box::new(TableCommand {
                table: self.one_of(&TABLES).into(),
                duration_ms: self.some(60, Self::duration),
                time_to_live: self.some(60, Self::keep),
            })),
            94..98 => Operation::DeleteTable { table: self.one_of(&TABLES).into() },
            _ => Operation::RaiseFeatureLevel(self.random.random_range(0..2)),
        }
    }

    fn lock(&mut self) -> LockCommand {
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
        }
    }

    fn unlock(&mut self) -> UnlockCommand {
        UnlockCommand {
            table: self.one_of(&TABLES).into(),
            signature: self.one_of(&SIGNATURES).into(),
            signee: self.one_of(&SIGNEES).into(),
            instance: self.some(20, |history| history.one_of(&["i", "j"]).into()),
            token: self.some(40, Self::token),
        }
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

    /// Notes the newest token.
    fn note(&mut self, said: &Said) {
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
        LockStatus::Failed(_) => None,
    }
}
