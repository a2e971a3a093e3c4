//! The encodings: frozen examples, sizes, and bytes from elsewhere.

use proptest::prelude::*;

use super::access::{example_of_level_3, example_state_of_level_3};
use super::{Machine, by, principal, release, with_id};
use crate::lock::{
    ClusterTime, Command, Keep, LeaveCommand, LimitCommand, LockCommand, Operation, Proposal,
    SessionCommand, Stamp, State, TableCommand, UnlockCommand,
};
use crate::types::{DecidedAt, MAX_NAME_BYTES, MAX_SAFE_INTEGER, Mode, Seen, SessionId, Token};

fn example_proposal() -> Proposal {
    let everything = LockCommand {
        instance: Some("i".into()),
        level: Some(-2),
        force: true,
        time_to_live: Some(Keep::Ms(2000)),
        token: Some(Token(300)),
        ..by("ann")
    };
    let mut audited = with_id(everything, 0x0123, 7);
    audited.principal = Some(principal("who"));
    audited.cause = Some("why".into());
    let table = TableCommand {
        table: "t".into(),
        duration_ms: Some(5),
        time_to_live: Some(Keep::Ms(6)),
        ..TableCommand::default()
    };
    let operations = [
        Operation::from(release("ann")),
        Operation::Advance,
        Operation::from(table),
        Operation::DeleteTable { table: "t".into() },
        Operation::RaiseFeatureLevel(1),
    ];
    let commands = std::iter::once(audited).chain(operations.map(Command::from)).collect();
    Proposal { stamp: Stamp { term: 3, time: ClusterTime(1_000_000) }, commands }
}

/// A state with something of every kind in it: three tables, lanes, an expired grant.
fn example_state() -> State {
    let mut machine = Machine::default();
    machine.lock(LockCommand { duration_ms: Some(1), instance: Some("i".into()), ..by("ann") });
    machine.now_ms = 5;
    let other =
        LockCommand { table: "other".into(), time_to_live: Some(Keep::Ms(9000)), ..by("bob") };
    machine.decide(with_id(other, 1, 1));
    machine.decide(with_id(release("ann"), 2, 1));
    let cy = LockCommand { force: true, time_to_live: None, ..by("cy") };
    machine.decide(with_id(cy, 3, 1));
    let table = TableCommand {
        table: "t".into(),
        duration_ms: Some(5),
        time_to_live: Some(Keep::Ms(6)),
        ..TableCommand::default()
    };
    machine.decide(with_id(table, 4, 1));
    machine.state
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// A change of these bytes makes every existing log unreadable. A new shape needs a new version,
/// and this one must stay readable.
#[test]
fn version_1_of_a_proposal_is_frozen() {
    let bytes = example_proposal().encode();
    assert_eq!(hex(&bytes), include_str!("proposal-1.hex").trim());
    assert_eq!(Proposal::decode(&bytes), Ok(example_proposal()));
}

/// A proposal with every field and operation of feature level 2.
fn example_of_level_2() -> Proposal {
    let at = |index, position| DecidedAt { index, position };
    let waits = LockCommand {
        mode: Some(Mode::Permits),
        limit: Some(3),
        wait_ms: 5000,
        queued: true,
        session: Some(SessionId(0x0123)),
        duration_ms: None,
        lock_delay_ms: Some(7),
        ..by("ann")
    };
    let by_force = UnlockCommand { force: true, place: Some(at(4, 1)), ..release("operator") };
    let names = || ("default".into(), "s".into());
    let session = |id| SessionCommand {
        id,
        ttl_ms: 10_000,
        signee: "ann".into(),
        instance: Some("i".into()),
    };
    let ((table, signature), limited) = (names(), names());
    let operations = [
        Operation::from(waits),
        Operation::from(by_force),
        Operation::from(TableCommand {
            table: "t".into(),
            lock_delay_ms: Some(1),
            max_hold_ms: Some(300),
            ..TableCommand::default()
        }),
        Operation::OpenSession(Box::new(session(Some(SessionId(0x0123))))),
        Operation::OpenSession(Box::new(session(None))),
        Operation::KeepAlive(vec![
            Seen { session: SessionId(1), seen: Some(at(5, 2)) },
            Seen { session: SessionId(2), seen: None },
        ]),
        Operation::CloseSession(SessionId(3)),
        Operation::Leave(Box::new(LeaveCommand {
            table,
            signature,
            place: at(4, 1),
            ask: at(6, 0),
        })),
        Operation::SetLimit(Box::new(LimitCommand {
            table: limited.0,
            signature: limited.1,
            limit: 2,
        })),
    ];
    let commands = operations.map(Command::from).into();
    Proposal { stamp: Stamp { term: 3, time: ClusterTime(1_000_000) }, commands }
}

/// A state with a queue, permits, sessions with facts and a lock-delay.
fn example_state_of_level_2() -> State {
    let mut machine = Machine { state: State::with_level(2), ..Machine::default() };
    machine.decide(example_of_level_2().commands.remove(2));
    machine.decide(example_of_level_2().commands.remove(3));
    let within = |signature: &str| LockCommand {
        signature: signature.into(),
        session: Some(SessionId(0x0123)),
        duration_ms: None,
        ..by("")
    };
    machine.lock(within("s"));
    machine.lock(LockCommand { lock_delay_ms: Some(60_000), signature: "d".into(), ..by("bob") });
    machine.lock(LockCommand { signature: "t".into(), ..by("bob") });
    machine.decide(with_id(LockCommand { wait_ms: 9000, ..within("t") }, 1, 1));
    let principal = Some(principal("x"));
    let waits = LockCommand { wait_ms: 9000, signature: "u".into(), ..by("cy") };
    machine.lock(LockCommand { signature: "u".into(), duration_ms: Some(50_000), ..by("bob") });
    machine.decide(Command { principal, ..with_id(waits, 2, 1) });
    let permit = |signee| LockCommand {
        signature: "p".into(),
        mode: Some(Mode::Permits),
        limit: Some(3),
        duration_ms: Some(50_000),
        ..by(signee)
    };
    machine.lock(permit("ann"));
    machine.lock(permit("bob"));
    machine.lock(LockCommand { force: true, ..by("eve") });
    machine.pass(1000);
    machine.state
}

/// Like version 1, with what came to it at feature level 2.
#[test]
fn the_bytes_of_feature_level_2_are_frozen() {
    let proposal = example_of_level_2();
    let state = example_state_of_level_2();
    if std::env::var("UPDATE_GOLDENFILES").is_ok_and(|value| value == "1") {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lock/tests");
        std::fs::write(folder.join("proposal-2.hex"), hex(&proposal.encode()) + "\n").unwrap();
        std::fs::write(folder.join("state-2.hex"), hex(&state.encode()) + "\n").unwrap();
        return;
    }
    assert_eq!(hex(&proposal.encode()), include_str!("proposal-2.hex").trim());
    assert_eq!(Proposal::decode(&proposal.encode()), Ok(proposal));
    assert_eq!(hex(&state.encode()), include_str!("state-2.hex").trim());
    assert_eq!(State::decode(&state.encode()), Ok(state));
}

/// Like the proposal above, for snapshots and checkpoints.
#[test]
fn the_bytes_of_feature_level_3_are_frozen() {
    let (proposal, state) = (example_of_level_3(), example_state_of_level_3());
    if std::env::var("UPDATE_GOLDENFILES").is_ok_and(|value| value == "1") {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lock/tests");
        std::fs::write(folder.join("proposal-3.hex"), hex(&proposal.encode()) + "\n").unwrap();
        std::fs::write(folder.join("state-3.hex"), hex(&state.encode()) + "\n").unwrap();
        return;
    }
    assert_eq!(hex(&proposal.encode()), include_str!("proposal-3.hex").trim());
    assert_eq!(Proposal::decode(&proposal.encode()), Ok(proposal));
    assert_eq!(hex(&state.encode()), include_str!("state-3.hex").trim());
    assert_eq!(State::decode(&state.encode()), Ok(state));
}

#[test]
fn version_1_of_a_state_is_frozen() {
    let bytes = example_state().encode();
    assert_eq!(hex(&bytes), include_str!("state-1.hex").trim());
    assert_eq!(State::decode(&bytes), Ok(example_state()));
}

#[test]
fn version_1_of_a_time_to_live_for_ever_is_frozen() {
    let kept = || TableCommand {
        table: "k".into(),
        duration_ms: None,
        time_to_live: Some(Keep::ForEver),
        ..TableCommand::default()
    };
    let commands = vec![Operation::from(kept()).into(), Operation::from(by("bob")).into()];
    let proposal = Proposal { stamp: Stamp { term: 3, time: ClusterTime(1) }, commands };
    let golden = [
        "010301",       // version, term, time
        "02",           // two commands
        "05000404016b", // configure k: for ever
        "13000148",     // lock: a duration, for ever
        "0764656661756c74",
        "0173",
        "03626f62",
        "e807",
    ];
    let bytes = proposal.encode();
    assert_eq!(hex(&bytes), golden.concat());
    assert_eq!(Proposal::decode(&bytes), Ok(proposal));
    // Both flags at once, a length and for ever, are invalid.
    let both = hex(&bytes).replace("05000404016b", "06000406016b07");
    let both: Vec<u8> = (0..both.len() / 2)
        .map(|at| u8::from_str_radix(&both[2 * at..2 * at + 2], 16).unwrap())
        .collect();
    assert!(Proposal::decode(&both).is_err());

    let mut machine = Machine::default();
    machine.outcome(kept());
    machine.decide(with_id(Operation::DeleteTable { table: "none".into() }, 5, 1));
    let table = machine.state.encoded_records().last();
    assert_eq!(table, Some((b"tk".to_vec(), vec![1, 4])));
    assert_eq!(State::decode(&machine.state.encode()), Ok(machine.state));
}

#[test]
fn no_value_of_the_checkpoint_is_longer_than_7_kib() {
    let long = || -> Box<str> { "n".repeat(MAX_NAME_BYTES).into() };
    let mut machine = Machine::default();
    machine.state.next_token = MAX_SAFE_INTEGER - 1;
    machine.index = u64::MAX - 10;
    machine.now_ms = u64::MAX / 2000;
    let longest = |force| LockCommand {
        table: long(),
        signature: long(),
        signee: if force { "short".into() } else { long() },
        instance: Some(long()),
        level: Some(i64::MIN),
        duration_ms: Some(MAX_SAFE_INTEGER),
        time_to_live: Some(Keep::Ms(MAX_SAFE_INTEGER)),
        force,
        token: None,
        ..LockCommand::default()
    };
    machine.decide(with_id(longest(false), u128::MAX, u64::MAX - 1));
    let one = machine.state.encoded_records().map(|(_, value)| value.len()).max();
    machine.decide(with_id(longest(true), u128::MAX, u64::MAX));
    machine.outcome(TableCommand {
        table: long(),
        duration_ms: Some(u64::MAX),
        time_to_live: Some(Keep::Ms(u64::MAX)),
        ..TableCommand::default()
    });
    let other = machine.state.encoded_records().map(|(_, value)| value.len()).max();
    assert!(one.max(other).unwrap() <= 7 * 1024, "{one:?} {other:?}");
    let longest_key = machine.state.encoded_records().map(|(key, _)| key.len()).max().unwrap();
    assert!(longest_key <= 2100, "{longest_key}");
}

#[test]
fn names_are_not_validated_when_they_are_read() {
    let long: Box<str> = "n".repeat(5 * MAX_NAME_BYTES).into();
    let mut machine = Machine::default();
    machine.lock(LockCommand { signature: long.clone(), signee: "".into(), ..by("") });
    let restored = State::decode(&machine.state.encode()).unwrap();
    assert_eq!(restored, machine.state);
    assert!(restored.check("default", &long).is_some());
}

#[test]
fn keys_come_in_the_order_of_their_bytes() {
    let keys: Vec<_> = example_state().encoded_records().map(|(key, _)| key).collect();
    assert!(keys.is_sorted_by(|a, b| a < b));
    assert_eq!(keys.len(), 7);
}

#[test]
fn every_cut_is_refused() {
    let proposal = example_proposal().encode();
    let state = example_state().encode();
    for end in 0..proposal.len() {
        assert!(Proposal::decode(&proposal[..end]).is_err(), "a proposal cut at {end}");
    }
    for end in 0..state.len() {
        assert!(State::decode(&state[..end]).is_err(), "a state cut at {end}");
        assert!(State::decode_from(&mut &state[..end]).is_err(), "a state cut at {end}");
    }
    assert!(Proposal::decode(&[&proposal[..], &[0]].concat()).is_err());
    assert!(State::decode(&[&state[..], &[0]].concat()).is_err());
    assert!(State::decode_from(&mut &[&state[..], &[0]].concat()[..]).is_err());
}

/// Bytes that decode are canonical: encoded again, they give the same bytes.
fn assert_refused_or_canonical(bytes: &[u8]) {
    if let Ok(proposal) = Proposal::decode(bytes) {
        assert_eq!(proposal.encode(), bytes);
    }
    let state = State::decode(bytes);
    if let Ok(state) = &state {
        state.assert_invariants();
        state.clone().apply(1, 1, &Proposal { stamp: Stamp::default(), commands: vec![] });
    }
    let streamed = State::decode_from(&mut &bytes[..]);
    assert_eq!(streamed.ok(), state.ok());
}

#[test]
fn every_flipped_bit_is_refused_or_means_something_else() {
    let examples = [
        example_proposal().encode(),
        example_state().encode(),
        example_of_level_3().encode(),
        example_state_of_level_3().encode(),
    ];
    for example in examples {
        for bit in 0..example.len() * 8 {
            let mut bytes = example.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_refused_or_canonical(&bytes);
        }
    }
}

#[test]
fn a_length_that_lies_costs_no_memory() {
    let mut length = Vec::new();
    crate::codec::put_u64(&mut length, u64::MAX - 1);
    let mut bytes = vec![1, 1, 1];
    bytes.extend_from_slice(&length);
    assert!(Proposal::decode(&bytes).is_err());
    bytes.extend_from_slice(&length);
    assert!(Proposal::decode(&bytes).is_err());
    let mut snapshot = b"KWLM\x01".to_vec();
    snapshot.extend_from_slice(&length);
    assert!(State::decode(&snapshot).is_err());
    assert!(State::decode_from(&mut &snapshot[..]).is_err());
}

#[test]
fn a_checkpoint_that_is_not_whole_is_refused() {
    let state = example_state();
    let records: Vec<_> = state.encoded_records().collect();
    let meta = state.encoded_meta();
    let load = |records: Vec<(Vec<u8>, Vec<u8>)>| State::from_records(&meta, records);
    assert_eq!(load(records.clone()).as_ref(), Ok(&state));
    let mut missing = records.clone();
    missing.pop();
    assert!(load(missing).is_err());
    let mut twice = records.clone();
    twice[1] = twice[0].clone();
    assert!(load(twice).is_err());
    let mut more = records.clone();
    more.push(records[0].clone());
    assert!(load(more).is_err());
}

#[test]
fn a_newer_version_is_told_apart_from_damage() {
    let mut proposal = example_proposal().encode();
    proposal[0] = 2;
    let error = Proposal::decode(&proposal).unwrap_err();
    assert_eq!(error.to_string(), "a proposal has version 2; this program reads up to version 1");
    let mut state = State::new().encode();
    state[4] += 1;
    let error = State::decode_from(&mut &state[..]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::Unsupported, "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        assert_refused_or_canonical(&bytes);
        let framed = [b"KWLM\x01", &bytes[..]].concat();
        assert_refused_or_canonical(&framed);
    }

    #[test]
    fn mixed_up_examples_never_panic(
        cuts in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        of_state: bool,
    ) {
        let mut bytes =
            if of_state { example_state().encode() } else { example_proposal().encode() };
        for (place, byte) in cuts {
            let place = place.index(bytes.len());
            match byte % 3 {
                0 => bytes[place] = byte,
                1 => bytes.insert(place, byte),
                _ => drop(bytes.remove(place)),
            }
            assert_refused_or_canonical(&bytes);
        }
    }
}
