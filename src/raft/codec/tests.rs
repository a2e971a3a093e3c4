//! The encodings do not change, and hostile bytes do no harm.

use proptest::prelude::*;

use std::collections::{BTreeMap, BTreeSet};

use super::bytes::VERSION;
use super::*;
use crate::lock::{ClusterTime, Command, Stamp};
use crate::raft::types::{MemberNode, Membership, raft_log_id, raft_vote};
use crate::storage::{self, Uuid};

fn log_id(term: u64, index: u64) -> LogId {
    raft_log_id(storage::LogId { term, index })
}

fn vote(term: u64, node: u64, committed: bool) -> Vote {
    raft_vote(storage::Vote { term, node, committed })
}

fn membership() -> Membership {
    let node = |uuid, client: Option<&str>| MemberNode {
        uuid: Uuid(uuid),
        peer_addr: "h:1".to_owned(),
        client_addr: client.map(str::to_owned),
    };
    let nodes = BTreeMap::from([(1, node(0x11, None)), (2, node(0x22, Some("c")))]);
    Membership::new(vec![BTreeSet::from([1, 2])], nodes).unwrap()
}

fn proposal() -> Proposal {
    let stamp = Stamp { term: 2, time: ClusterTime(77) };
    Proposal { stamp, commands: vec![Command::advance()] }
}

fn append() -> AppendEntriesRequest<TypeConfig> {
    let entry = |index, payload| Entry { log_id: log_id(2, index), payload };
    AppendEntriesRequest {
        vote: vote(2, 1, true),
        prev_log_id: Some(log_id(1, 4)),
        leader_commit: None,
        entries: vec![
            entry(5, Payload::Blank),
            entry(6, Payload::Normal(data_of(&proposal()))),
            entry(7, Payload::Membership(membership())),
        ],
    }
}

pub(crate) fn meta() -> SnapshotMeta {
    SnapshotMeta {
        last_log_id: Some(log_id(3, 9)),
        last_membership: StoredMembership::new(Some(log_id(1, 0)), membership()),
    }
}

/// One of each message, by name.
pub(crate) fn examples() -> Vec<(&'static str, Bytes)> {
    let request = VoteRequest {
        vote: vote(2, 1, false),
        last_log_id: Some(log_id(1, 4)),
        leadership_transfer: true,
    };
    let transfer = TransferLeaderRequest::new(vote(7, 1, true), 2, Some(log_id(7, 8)));
    let refused = Err(TransferLeaderError::VoteChanged {
        expected: vote(1, 1, true),
        actual: vote(2, 2, false),
    });
    let unflushed = TransferLeaderError::LogNotFlushed { expected: None, actual: None };
    vec![
        ("append", encode_append(&append())),
        ("appended", encode_appended(&Ok(Some(log_id(1, 2))))),
        (
            "append-higher-vote",
            encode_appended(&Err(StreamAppendError::HigherVote(vote(2, 1, true)))),
        ),
        ("append-conflict", encode_appended(&Err(StreamAppendError::Conflict(log_id(3, 4))))),
        ("promised", encode_promised(Promises { votes: 1, log: 300 }, &encode_appended(&Ok(None)))),
        ("vote", encode_vote_request(&request)),
        ("voted", encode_vote_response(&VoteResponse::new(vote(2, 1, true), None, true))),
        ("confirm", encode_confirm(5)),
        ("confirmed", encode_confirmed(&Confirmed { round: 5, vote: Some(vote(2, 1, true)) })),
        ("confirmed-without-vote", encode_confirmed(&Confirmed { round: 5, vote: None })),
        ("transfer", encode_transfer(&transfer)),
        ("transferred", encode_transferred(&Ok(()))),
        ("transfer-refused", encode_transferred(&refused)),
        ("transfer-unflushed", encode_transferred(&Err(unflushed))),
        ("snapshot", encode_snapshot_header(&vote(2, 1, true), &meta())),
        ("snapshot-meta", encode_snapshot_meta(&meta())),
        ("installed", encode_installed(&SnapshotResponse::new(vote(2, 1, true)))),
        ("membership-entry", encode_payload(&Payload::Membership(membership()))),
        ("proposal-entry", encode_payload(&Payload::Normal(data_of(&proposal())))),
        ("blank-entry", encode_payload(&Payload::Blank)),
    ]
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from_digit(digit.into(), 16).expect("a digit")).collect()
}

/// [`membership`] in bytes: the sets of voters, then the members.
const MEMBERSHIP: &str = concat!(
    "01020102",
    "02",
    "01",
    "00000000000000000000000000000011",
    "03683a31",
    "00",
    "02",
    "00000000000000000000000000000022",
    "03683a31",
    "010163",
);

/// [`proposal`] in bytes.
const PROPOSAL: &str = "01024d01020003";

/// The examples as the fuzzers' seeds are made of them; `UPDATE_GOLDENFILES=1` writes the file.
#[test]
fn the_golden_file_has_every_example() {
    let lines = examples().into_iter().map(|(name, bytes)| format!("{name} {}\n", hex(&bytes)));
    let text: String = lines.collect();
    let path = format!("{}/src/raft/codec/messages.hex", env!("CARGO_MANIFEST_DIR"));
    if std::env::var("UPDATE_GOLDENFILES").is_ok_and(|value| value == "1") {
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), text, "{path}");
}

#[test]
fn messages_are_written_the_same_for_ever() {
    assert_eq!(hex(&proposal().encode()), PROPOSAL);
    let meta = format!("1801010309010100{MEMBERSHIP}");
    let entries = format!("02050200010206090101{PROPOSAL}0207350201{MEMBERSHIP}");
    let golden = [
        ("append", format!("10010201010101040003{entries}")),
        ("appended", "110100010102".to_owned()),
        ("append-higher-vote", "110102020101".to_owned()),
        ("append-conflict", "1101010304".to_owned()),
        ("promised", "190101ac0211010000".to_owned()),
        ("vote", "120102010001010401".to_owned()),
        ("voted", "13010201010100".to_owned()),
        ("confirm", "1a0105".to_owned()),
        ("confirmed", "1b010501020101".to_owned()),
        ("confirmed-without-vote", "1b010500".to_owned()),
        ("transfer", "140107010102010708".to_owned()),
        ("transferred", "150100".to_owned()),
        ("transfer-refused", "150101010101020200".to_owned()),
        ("transfer-unflushed", "1501020000".to_owned()),
        ("snapshot", format!("16010201013b{meta}")),
        ("snapshot-meta", meta),
        ("installed", "1701020101".to_owned()),
        ("membership-entry", format!("0201{MEMBERSHIP}")),
        ("proposal-entry", format!("0101{PROPOSAL}")),
        ("blank-entry", "0001".to_owned()),
    ];
    let written = examples().into_iter().map(|(name, bytes)| (name, hex(&bytes)));
    assert_eq!(written.collect::<Vec<_>>(), golden);
}

/// The results of all readers.
fn read_by_all(bytes: &Bytes) -> Vec<Result<(), DecodeError>> {
    vec![
        decode_payload(bytes).map(drop),
        decode_append(bytes).map(drop),
        decode_appended(bytes).map(drop),
        decode_promised(bytes).map(drop),
        decode_vote_request(bytes).map(drop),
        decode_vote_response(bytes).map(drop),
        decode_transfer(bytes).map(drop),
        decode_transferred(bytes).map(drop),
        decode_confirm(bytes).map(drop),
        decode_confirmed(bytes).map(drop),
        decode_snapshot_header(bytes).map(drop),
        decode_snapshot_meta(bytes).map(drop),
        decode_installed(bytes).map(drop),
    ]
}

#[test]
fn each_message_has_one_reader_which_refuses_a_later_version() {
    for (name, bytes) in examples() {
        let accepted = read_by_all(&bytes).into_iter().flatten();
        assert_eq!(accepted.count(), 1, "{name}");
        let mut later = bytes.to_vec();
        later[1] = VERSION + 1;
        let results = read_by_all(&later.into());
        assert!(results.iter().all(Result::is_err), "{name}");
        let newer = |result: &Result<(), DecodeError>| {
            matches!(result, Err(DecodeError::TooNew { found: 2, known: 1, .. }))
        };
        assert!(results.iter().any(newer), "{name}: {results:?}");
    }
}

#[test]
fn the_payloads_of_a_request_are_slices_of_it() {
    let bytes = encode_append(&append());
    let request = decode_append(&bytes).unwrap();
    let Payload::Normal(data) = &request.entries[1].payload else { panic!("a proposal") };
    assert!(bytes.as_ptr_range().contains(&data.payload().as_ptr()));
}

#[test]
fn everything_reads_back_as_it_was_written() {
    let request = append();
    let read = decode_append(&encode_append(&request)).unwrap();
    assert_eq!(format!("{read:?}"), format!("{request:?}"));
    for result in [
        Ok(None),
        Ok(Some(log_id(1, 2))),
        Err(StreamAppendError::Conflict(log_id(3, 4))),
        Err(StreamAppendError::HigherVote(vote(5, 6, false))),
    ] {
        assert_eq!(decode_appended(&encode_appended(&result)), Ok(result));
    }
    assert_eq!(decode_confirm(&encode_confirm(7)), Ok(7));
    for vote in [None, Some(vote(5, 6, false))] {
        let answer = Confirmed { round: 7, vote };
        assert_eq!(decode_confirmed(&encode_confirmed(&answer)), Ok(answer));
    }
    let transfer = TransferLeaderRequest::new(vote(7, 1, true), 2, Some(log_id(7, 8)));
    assert_eq!(decode_transfer(&encode_transfer(&transfer)), Ok(transfer));
    for response in [
        Ok(()),
        Err(TransferLeaderError::VoteChanged {
            expected: vote(1, 1, true),
            actual: vote(2, 2, false),
        }),
        Err(TransferLeaderError::LogNotFlushed { expected: Some(log_id(1, 1)), actual: None }),
    ] {
        assert_eq!(decode_transferred(&encode_transferred(&response)), Ok(response));
    }
    let header = encode_snapshot_header(&vote(2, 1, true), &meta());
    assert_eq!(decode_snapshot_header(&header), Ok((vote(2, 1, true), meta())));
    let none = SnapshotMeta::default();
    assert_eq!(decode_snapshot_meta(&encode_snapshot_meta(&none)), Ok(none));
    let installed = SnapshotResponse::new(vote(2, 1, true));
    assert_eq!(decode_installed(&encode_installed(&installed)), Ok(installed));
}

#[test]
fn a_cut_or_longer_message_is_refused() {
    let bytes = encode_append(&append());
    for length in 0..bytes.len() {
        assert!(decode_append(&bytes.slice(..length)).is_err(), "{length}");
    }
    let mut longer = bytes.to_vec();
    longer.push(0);
    assert!(decode_append(&longer.into()).is_err());
}

#[test]
fn entries_that_do_not_follow_each_other_are_refused() {
    let mut request = append();
    request.prev_log_id = Some(log_id(1, 3));
    assert_eq!(
        decode_append(&encode_append(&request)).map(drop),
        Err(DecodeError::Invalid("order of entries"))
    );
}

#[test]
fn a_membership_whose_ids_are_out_of_order_is_refused() {
    let bytes = encode_payload(&Payload::Membership(membership()));
    // Tag, version, number of sets, number of voters: then the two voters.
    for voters in [[2, 1], [1, 1], [2, 2]] {
        let mut other = bytes.to_vec();
        other[4..6].copy_from_slice(&voters);
        assert!(decode_payload(&other.into()).is_err(), "{voters:?}");
    }
    // The number of members, then each after its id.
    for member in [1, 0] {
        let mut other = bytes.to_vec();
        other[7 + 1 + 16 + 4 + 1] = member;
        assert!(decode_payload(&other.into()).is_err(), "{member}");
    }
}

#[test]
fn a_proposal_that_does_not_decode_never_gets_into_a_log() {
    let mut request = append();
    let broken = Data::from_payload(Bytes::from_static(&[1, 1, 0xff, 0xff]));
    request.entries[1].payload = Payload::Normal(broken);
    assert!(decode_append(&encode_append(&request)).is_err());
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), tag in 0u8..33) {
        let mut tagged = vec![tag, VERSION];
        tagged.extend(&bytes);
        for bytes in [Bytes::from(bytes), Bytes::from(tagged)] {
            read_by_all(&bytes);
        }
    }

    #[test]
    fn a_flipped_byte_never_panics(at in 0usize..1000, with in any::<u8>()) {
        let mut bytes = encode_append(&append()).to_vec();
        let at = at % bytes.len();
        bytes[at] ^= with;
        let _ = decode_append(&bytes.into());
    }
}
