//! Random logs: the machine and the oracle agree, and the properties hold.
//!
//! A history is generated from one number. A failure prints it, and `KEYWARD_HISTORY=…` replays it
//! alone. `KEYWARD_SEED` is the first number of as many as without it.

use std::collections::BTreeMap;

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::history::{History, granted, play};
use keyward_core::lock::{Operation, Outcome, Proposal, State};
use keyward_core::types::{DecidedAt, Grant, LockStatus, Token};

/// The number of histories that are compared with the oracle.
const MANY: u64 = 2000;
/// The number of histories for the properties that look at the whole state after each entry.
const FEW: u64 = 500;
const ENTRIES: u64 = 60;

fn seeds(count: u64) -> Vec<u64> {
    let number = |name| {
        let text = std::env::var(name).ok()?;
        Some(text.parse::<u64>().unwrap_or_else(|_| panic!("{name} is a number")))
    };
    if let Some(alone) = number("KEYWARD_HISTORY") {
        return vec![alone];
    }
    let first = number("KEYWARD_SEED").unwrap_or_else(|| rand::random::<u64>() >> 16);
    (first..first + count).collect()
}

/// Runs the test for each seed; a failure prints the seed.
fn for_each_seed(count: u64, test: impl Fn(&mut History<StdRng>) + std::panic::RefUnwindSafe) {
    for seed in seeds(count) {
        let result =
            std::panic::catch_unwind(|| test(&mut History::new(StdRng::seed_from_u64(seed))));
        if let Err(panic) = result {
            eprintln!("the failing history is that of KEYWARD_HISTORY={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

/// Like [`for_each_seed`], with histories that wait, share and live in sessions.
fn for_each_turn(count: u64, test: impl Fn(&mut History<StdRng>) + std::panic::RefUnwindSafe) {
    for seed in seeds(count) {
        let result =
            std::panic::catch_unwind(|| test(&mut History::of_turns(StdRng::seed_from_u64(seed))));
        if let Err(panic) = result {
            eprintln!("the failing history is that of KEYWARD_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn the_oracle_agrees_on_waiting_sharing_and_sessions() {
    for_each_turn(FEW, |history| {
        let mut entries = 0..ENTRIES * 2;
        play(history, |_| entries.next().is_some(), State::assert_invariants);
    });
}

#[test]
fn the_oracle_agrees_on_who_may_do_what() {
    for seed in seeds(FEW) {
        let played = std::panic::catch_unwind(|| {
            let mut history = History::of_access(StdRng::seed_from_u64(seed));
            let mut entries = 0..ENTRIES;
            play(
                &mut history,
                |_| entries.next().is_some(),
                |state| {
                    state.assert_invariants();
                    assert_eq!(State::decode(&state.encode()).as_ref(), Ok(state));
                },
            );
        });
        if let Err(panic) = played {
            eprintln!("the failing history is that of KEYWARD_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn the_oracle_agrees_on_every_decision_and_read() {
    for_each_seed(MANY, |history| {
        let mut entries = 0..ENTRIES;
        play(history, |_| entries.next().is_some(), |_| {});
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
                // Tracked changes were taken above: nothing is lost by going on from the copy.
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
            // A lane remembers where its request was decided, so the log may only be split
            // differently when there are no ids.
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
                let is_new = decision.decided_at == Some(at);
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

#[test]
fn what_nobody_hears_leaves_the_same_bytes_and_changes() {
    for_each_seed(FEW, |history| {
        let (mut told, mut quiet) = (State::new(), State::new());
        told.track_changes(true);
        quiet.track_changes(true);
        for _ in 0..ENTRIES {
            let (term, index, proposal) = history.entry();
            told.apply(term, index, &proposal);
            quiet.apply_quietly(term, index, &proposal);
            assert_eq!(quiet, told);
            assert_eq!(quiet.encode(), told.encode());
            if history.chance(10) {
                assert_eq!(quiet.take_changes(), told.take_changes());
            }
        }
    });
}

#[test]
fn turns_come_to_the_same_bytes_from_a_snapshot_or_a_checkpoint_on() {
    for_each_turn(FEW / 5, |history| {
        let (mut whole, mut restored) = (State::new(), State::new());
        whole.track_changes(true);
        let mut checkpoint: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for _ in 0..ENTRIES {
            let (term, index, proposal) = history.entry();
            let decisions = whole.apply(term, index, &proposal);
            if history.chance(10) {
                restored = State::decode(&restored.encode()).unwrap();
            }
            assert_eq!(restored.apply(term, index, &proposal), decisions);
            assert_eq!(restored.encode(), whole.encode());
            assert_eq!(restored, whole);
            if history.chance(20) {
                let changes = whole.take_changes();
                for (key, value) in changes.records {
                    match value {
                        Some(value) => checkpoint.insert(key, value),
                        None => checkpoint.remove(&key),
                    };
                }
                let all: BTreeMap<_, _> = whole.encoded_records().collect();
                assert_eq!(checkpoint, all);
                assert_eq!(State::from_records(&changes.meta, all).as_ref(), Ok(&whole));
            }
        }
    });
}
