//! Random logs: the machine and the oracle agree, and the properties hold.
//!
//! A history is drawn from one number. A failure prints it, and `KEYWARD_SEED=…` replays it alone.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::oracle::{Oracle, Said};
use crate::lock::{
    ClusterTime, Command, LockCommand, Operation, Outcome, Proposal, Refusal, Stamp, State,
    TableCommand, UnlockCommand,
};
use crate::types::{DecidedAt, Grant, ListRequest, LockStatus, RequestId, Token};

/// How many histories the oracle judges.
const MANY: u64 = 2000;
/// How many the properties are checked on that look at the whole state after each entry.
const FEW: u64 = 500;
const ENTRIES: u64 = 60;

const TABLES: [&str; 3] = ["default", "default\u{1}", "t"];
const SIGNATURES: [&str; 5] = ["a", "a\u{1}", "ab", "b", "é"];
const SIGNEES: [&str; 3] = ["ann", "bob", "cy"];

fn seeds(count: u64) -> Vec<u64> {
    if let Ok(seed) = std::env::var("KEYWARD_SEED") {
        return vec![seed.parse().expect("KEYWARD_SEED is a number")];
    }
    let first = rand::random::<u64>() >> 16;
    (first..first + count).collect()
}

/// Runs the test for each seed; a failure says which.
fn for_each_seed(count: u64, test: impl Fn(&mut History) + std::panic::RefUnwindSafe) {
    for seed in seeds(count) {
        let result = std::panic::catch_unwind(|| test(&mut History::new(seed)));
        if let Err(panic) = result {
            eprintln!("the failing history is that of KEYWARD_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

/// Draws a log.
struct History {
    random: StdRng,
    index: u64,
    time: u64,
    /// Commands with ids that were drawn before, to be drawn again.
    drawn: Vec<Command>,
    tokens: u64,
}

impl History {
    fn new(seed: u64) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            index: 0,
            time: 0,
            drawn: Vec::new(),
            tokens: 4,
        }
    }

    /// The next entry: its term, its index and its payload.
    fn entry(&mut self) -> (u64, u64, Proposal) {
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

    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_ratio(percent, 100)
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
            seq: history.index / 4 + history.random.random_range(0..3),
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
                time_to_live_ms: self.some(60, Self::duration),
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
            time_to_live_ms: self.some(40, Self::duration),
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

    /// One of the last few that were given, so that it often fits.
    fn token(&mut self) -> Token {
        let newest = self.tokens.max(4);
        Token(self.random.random_range(newest - 3..newest + 2))
    }

    fn list_request(&mut self) -> ListRequest {
        ListRequest {
            prefix: self.one_of(&["", "a", "ab", "b", "\u{0}"]).to_owned(),
            after: self.some(40, |history| history.one_of(&["", "a", "aa", "ab", "z"]).to_owned()),
            limit: self.random.random_range(1..4),
        }
    }
}

fn granted(status: &LockStatus) -> Option<&Grant> {
    match status {
        LockStatus::Ok(grant)
        | LockStatus::Renewed(grant)
        | LockStatus::Transferred { grant, .. } => Some(grant),
        LockStatus::Failed(_) => None,
    }
}

#[test]
fn the_oracle_agrees_on_every_decision_and_read() {
    for_each_seed(MANY, |history| {
        let mut state = State::new();
        let mut oracle = Oracle::default();
        for _ in 0..ENTRIES {
            let (term, index, proposal) = history.entry();
            let decisions = state.apply(term, index, &proposal);
            let expected = oracle.apply(term, index, &proposal);
            assert_eq!(decisions.len(), expected.len());
            for ((decision, said), command) in
                decisions.into_iter().zip(expected).zip(&proposal.commands)
            {
                let refused = matches!(decision.outcome, Outcome::Refused(Refusal::BadRequest(_)));
                let given = if refused {
                    Said::BadRequest
                } else {
                    Said::Outcome(decision.outcome, decision.decided_at)
                };
                if let Said::Outcome(Outcome::Lock(status), _) = &given {
                    let token = granted(status).map_or(0, |grant| grant.token.0);
                    history.tokens = history.tokens.max(token);
                }
                assert_eq!(given, said, "entry {index}: {command:?}");
            }
            for table in TABLES {
                for signature in SIGNATURES {
                    assert_eq!(state.check(table, signature), oracle.check(table, signature));
                }
                let request = history.list_request();
                assert_eq!(
                    state.list(table, &request),
                    oracle.list(table, &request),
                    "{request:?}"
                );
            }
            assert_eq!(state.tables(), oracle.tables());
            assert_eq!(state.feature_level(), oracle.feature_level());
        }
    });
}

#[test]
fn indexes_equal_the_records_and_bytes_restore_the_state() {
    for_each_seed(FEW, |history| {
        let mut state = State::new();
        state.track_changes(true);
        let mut checkpoint = BTreeMap::new();
        for _ in 0..ENTRIES {
            let (term, index, proposal) = history.entry();
            let bytes = proposal.encode();
            assert_eq!(Proposal::decode(&bytes).as_ref(), Ok(&proposal));
            state.apply(term, index, &proposal);
            state.assert_invariants();
            if history.chance(10) {
                assert_checkpoint_holds(&mut state, &mut checkpoint);
                assert_encoding_holds(&state);
                let mut restored = State::decode(&state.encode()).unwrap();
                restored.track_changes(true);
                // What was tracked was taken above: nothing is lost by going on from the copy.
                state = restored;
            }
        }
    });
}

#[test]
fn what_comes_and_goes_between_two_takes_leaves_nothing_to_write() {
    for_each_seed(FEW, |history| {
        let mut state = State::new();
        state.track_changes(true);
        for _ in 0..ENTRIES {
            let before: BTreeMap<_, _> = state.encoded_records().collect();
            for _ in 0..8 {
                let (term, index, proposal) = history.entry();
                state.apply(term, index, &proposal);
            }
            for (key, value) in state.take_changes().records {
                assert!(value.is_some() || before.contains_key(&key), "it was never there");
            }
        }
    });
}

fn assert_checkpoint_holds(state: &mut State, checkpoint: &mut BTreeMap<Vec<u8>, Vec<u8>>) {
    let changes = state.take_changes();
    for (key, value) in changes.records {
        match value {
            Some(value) => drop(checkpoint.insert(key, value)),
            None => drop(checkpoint.remove(&key)),
        }
    }
    assert!(checkpoint.clone().into_iter().eq(state.encoded_records()));
    let restored = State::from_records(&changes.meta, checkpoint.iter().rev()).unwrap();
    restored.assert_invariants();
    assert_eq!(restored, *state);
    assert!(state.take_changes().records.is_empty());
}

fn assert_encoding_holds(state: &State) {
    let bytes = state.encode();
    let restored = State::decode(&bytes).unwrap();
    restored.assert_invariants();
    assert_eq!(restored, *state);
    assert_eq!(restored.encode(), bytes);
    assert_eq!(State::decode_from(&mut &bytes[..]).unwrap(), *state);
    assert_eq!(restored.counts(), state.counts());
    assert_eq!(restored.next_deadline(), state.next_deadline());
}

#[test]
fn equal_logs_give_equal_bytes_also_from_a_snapshot_on_and_in_other_portions() {
    for_each_seed(FEW, |history| {
        let mut whole = State::new();
        let mut restored = State::new();
        let mut split = State::new();
        let mut split_index = 0;
        for _ in 0..ENTRIES {
            let (term, index, mut proposal) = history.entry();
            // Where a request was decided is remembered with its lane, so the log may only be cut
            // otherwise when there are no ids.
            proposal.commands.iter_mut().for_each(|command| command.request_id = None);
            let decisions = whole.apply(term, index, &proposal);
            let kept = whole.clone();
            if history.chance(10) {
                restored = State::decode(&restored.encode()).unwrap();
            }
            assert_eq!(restored.apply(term, index, &proposal), decisions);
            for command in &proposal.commands {
                split_index += 1;
                let alone = Proposal { commands: vec![command.clone()], ..proposal.clone() };
                split.apply(term, split_index, &alone);
            }
            let time_only = Proposal { commands: Vec::new(), ..proposal };
            split.apply(term, split_index, &time_only);
            assert_eq!(restored.encode(), whole.encode());
            assert_eq!(split.encode(), whole.encode());
            assert_eq!(kept, whole, "a clone does not change with what is applied to others");
        }
    });
}

#[test]
fn tokens_grow_per_lock_for_ever_and_a_lock_has_one_live_holder() {
    for_each_seed(FEW, |history| {
        let mut state = State::new();
        let mut newest: BTreeMap<(String, String), Token> = BTreeMap::new();
        for _ in 0..ENTRIES {
            let (term, index, proposal) = history.entry();
            for (position, command) in (0..).zip(proposal.commands) {
                let at = DecidedAt { index: index * 10 + position, position: 0 };
                let alone = Proposal { stamp: proposal.stamp, commands: vec![command.clone()] };
                let decision = state.apply(term, at.index, &alone).remove(0);
                let Operation::Lock(lock) = &command.operation else { continue };
                let Outcome::Lock(status) = &decision.outcome else { continue };
                let Some(Grant { token, live, .. }) = granted(status) else { continue };
                let newest = newest
                    .entry((lock.table.to_string(), lock.signature.to_string()))
                    .or_insert(Token(0));
                let is_new = decision.decided_at == at;
                assert_eq!(*live, is_new || token == newest && *live, "an old token is not live");
                if is_new && !matches!(status, LockStatus::Renewed(_)) {
                    assert!(token > newest, "{status:?} after {newest:?}");
                }
                if *live {
                    assert!(token >= newest, "{status:?} after {newest:?}");
                    let record = state.check(&lock.table, &lock.signature).unwrap();
                    assert_eq!(record.holders.len(), 1);
                    assert_eq!(record.holders[0].token, *token);
                    assert_eq!(record.holders[0].signee, *lock.signee);
                    *newest = *token;
                }
            }
        }
    });
}
