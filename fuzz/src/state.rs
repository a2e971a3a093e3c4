//! The bytes of the lock machine: proposals in the log, snapshots, and the records in sled.

use std::collections::BTreeMap;

use keyward::codec::{Encoding, Reader};
use keyward::lock::{
    ClusterTime, Command, FEATURE_LEVEL, Keep, LockCommand, Operation, Proposal, Stamp, State,
    TableCommand,
};
use keyward::raft::load;
use keyward::storage::checkpoint::{CheckpointMeta, Values};
use keyward::types::{ListRequest, RequestId, TablesRequest};

/// A term that no input is likely to begin with.
const TERM: u64 = 1;

/// A proposal from the log or from a peer: it has one encoding, and applying it gives one decision
/// for each command and a sound state.
pub fn proposal(bytes: &[u8]) {
    let Ok(proposal) = Proposal::decode(bytes) else { return };
    assert_eq!(proposal.encode(), bytes, "it is written as it was read");
    let mut state = example_state();
    let decisions = state.apply(proposal.stamp.term, 2, &proposal);
    assert_eq!(decisions.len(), proposal.commands.len());
    assert_sound(&state);
    // Again, as a client repeats it: a command with an id gets the same decision.
    let again = state.apply(proposal.stamp.term, 3, &proposal);
    assert_eq!(again.len(), decisions.len());
    assert_sound(&state);
}

/// A snapshot from a disk or from a peer: read at once or piece by piece it is the same state, and
/// that state applies further entries.
pub fn snapshot(bytes: &[u8]) {
    let state = State::decode(bytes);
    let streamed = State::decode_from(&mut &bytes[..]);
    assert_eq!(streamed.ok().as_ref(), state.as_ref().ok(), "piece by piece it is the same");
    let Ok(mut state) = state else { return };
    assert_sound(&state);
    goes_on(&mut state);
}

/// Asserts that the state restores from its bytes, and from its records in any order.
fn assert_sound(state: &State) {
    state.assert_invariants();
    if state.feature_level() > FEATURE_LEVEL {
        // A node with a lower feature level stops, and reads nothing of it.
        return;
    }
    assert_eq!(State::decode(&state.encode()).as_ref(), Ok(state), "it reads as it is written");
    let mut records: Vec<_> = state.encoded_records().collect();
    assert!(records.is_sorted_by(|one, next| one.0 < next.0), "records come in the order of keys");
    records.reverse();
    let restored = State::from_records(&state.encoded_meta(), records);
    assert_eq!(restored.as_ref(), Ok(state), "its records are all of it");
}

/// Asserts that a state can be read and applies further entries.
fn goes_on(state: &mut State) {
    state.track_changes(true);
    let everything = ListRequest { limit: ListRequest::MAX_LIMIT, ..ListRequest::default() };
    for info in state.tables(&TablesRequest::default()).0 {
        let (records, _) = state.list(&info.table, &everything);
        for record in records {
            let checked = state.check(&info.table, &record.signature);
            assert_eq!(checked, Some(record), "what is listed can be checked");
        }
    }
    let next = state.clock().saturating_add(std::time::Duration::from_secs(1));
    for stamp in [ClusterTime::default(), next, ClusterTime(u64::MAX / 2)] {
        let proposal = Proposal { stamp: Stamp { term: TERM, time: stamp }, ..example_proposal() };
        state.apply(TERM, u64::MAX / 2, &proposal);
        assert_sound(state);
    }
    let changes = state.take_changes();
    assert!(changes.records.iter().all(|(key, _)| key.len() <= 1 << 20), "keys are names");
}

/// The records that a node reads from sled when it starts: they are refused, or the state consists
/// of them; and no single byte of a record can differ from what was written.
///
/// The bytes are parts, each behind its length (16 bits, little-endian): the meta data, then the
/// key and the value of each record.
pub fn checkpoint(bytes: &[u8]) {
    let mut parts = parts(bytes);
    let Some(meta) = parts.next() else { return };
    let Ok(meta) = CheckpointMeta::read(&mut Reader::new(meta, "meta data")) else { return };
    let mut records = BTreeMap::new();
    while let (Some(key), Some(value)) = (parts.next(), parts.next()) {
        records.insert(key.to_vec(), value.to_vec());
    }
    let mut values = Values::new(meta, records);
    let known = |meta: &CheckpointMeta, records: &mut dyn Iterator<Item = _>| {
        load(meta, records, FEATURE_LEVEL)
    };
    let Ok((mut state, _)) = values.read(known) else { return };
    assert!(state.encoded_records().eq(values.records.clone()), "it is what its records say");
    assert_sound(&state);
    goes_on(&mut state);
    if let Some(mut entry) = values.records.last_entry()
        && let Some(byte) = entry.get_mut().last_mut()
    {
        *byte ^= 1;
        assert!(values.read(known).is_err(), "a record that was not written is believed");
    }
}

fn parts(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = bytes.split_first_chunk()?;
        let (part, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
        bytes = rest;
        Some(part)
    })
}

pub(crate) fn example_proposal() -> Proposal {
    let lock = LockCommand {
        table: "default".into(),
        signature: "jobs/nightly".into(),
        signee: "worker-1".into(),
        instance: Some("i".into()),
        level: Some(-3),
        force: true,
        duration_ms: Some(30_000),
        time_to_live: Some(Keep::Ms(60_000)),
        token: None,
        ..LockCommand::default()
    };
    let lock = Command {
        request_id: Some(RequestId { lane: 7, seq: 1 }),
        principal: Some(std::sync::Arc::new(keyward::principal::Principal::named("actor"))),
        cause: None,
        operation: Operation::Lock(Box::new(lock)),
    };
    let table = TableCommand {
        table: "t".into(),
        duration_ms: Some(5),
        time_to_live: Some(Keep::Ms(6)),
        ..TableCommand::default()
    };
    let table = Command {
        request_id: None,
        principal: None,
        cause: None,
        operation: Operation::ConfigureTable(Box::new(table)),
    };
    let stamp = Stamp { term: TERM, time: ClusterTime(5) };
    Proposal { stamp, commands: vec![lock, table, Command::advance()] }
}

pub(crate) fn example_state() -> State {
    let mut state = State::new();
    state.apply(TERM, 1, &example_proposal());
    state
}
