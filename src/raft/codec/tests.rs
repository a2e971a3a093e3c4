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
        ("append-conflict", encode_appended(&Err(StreamAppendError::Conflict(log_id(3, 4))))),
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

/// A vote of term 2 for node 1, without the byte for whether it is committed.
const VOTE: &str = "02000000000000000100000000000000";

/// [`membership`] in bytes.
const MEMBERSHIP: &str = concat!(
    "01000000",
    "02000000",
    "0100000000000000",
    "0200000000000000",
    "02000000",
    "0100000000000000",
    "11000000000000000000000000000000",
    "03000000683a31",
    "00",
    "0200000000000000",
    "22000000000000000000000000000000",
    "03000000683a31",
    "010100000063",
);

#[test]
fn payloads_are_written_the_same_for_ever() {
    assert_eq!(hex(&encode_payload(&Payload::Blank)), "0001");
    let membership = encode_payload(&Payload::Membership(membership()));
    assert_eq!(hex(&membership), format!("0201{MEMBERSHIP}"));
    let normal = encode_payload(&Payload::Normal(data_of(&proposal())));
    assert_eq!(hex(&normal), format!("0101{}", hex(&proposal().encode())));
}

#[test]
fn messages_are_written_the_same_for_ever() {
    let request = VoteRequest {
        vote: vote(2, 1, false),
        last_log_id: Some(log_id(1, 4)),
        leadership_transfer: true,
    };
    let log_id_4 = "01".to_owned() + "0100000000000000" + "0400000000000000";
    assert_eq!(hex(&encode_vote_request(&request)), format!("1201{VOTE}00{log_id_4}01"));
    let response = VoteResponse::new(vote(2, 1, true), None, true);
    assert_eq!(hex(&encode_vote_response(&response)), format!("1301{VOTE}010100"));
    assert_eq!(hex(&encode_appended(&Ok(None))), "11010000");
    let refused = Err(StreamAppendError::HigherVote(vote(2, 1, true)));
    assert_eq!(hex(&encode_appended(&refused)), format!("110102{VOTE}01"));
    let heartbeat = AppendEntriesRequest {
        vote: vote(2, 1, true),
        prev_log_id: Some(log_id(1, 4)),
        leader_commit: None,
        entries: vec![],
    };
    assert_eq!(hex(&encode_append(&heartbeat)), format!("1001{VOTE}01{log_id_4}0000000000"));
    assert_eq!(hex(&encode_confirm(5)), "1a010500000000000000");
    let confirmed = Confirmed { round: 5, vote: Some(vote(2, 1, true)) };
    assert_eq!(hex(&encode_confirmed(&confirmed)), format!("1b01050000000000000001{VOTE}01"));
    let (last, first) = (
        "01".to_owned() + "0300000000000000" + "0900000000000000",
        "01".to_owned() + "0100000000000000" + "0000000000000000",
    );
    assert_eq!(hex(&encode_snapshot_meta(&meta())), format!("1801{last}{first}{MEMBERSHIP}"));
}

#[test]
fn everything_reads_back_as_it_was_written() {
    let request = append();
    let read = decode_append(encode_append(&request)).unwrap();
    assert_eq!(format!("{read:?}"), format!("{request:?}"));
    for result in [
        Ok(None),
        Ok(Some(log_id(1, 2))),
        Err(StreamAppendError::Conflict(log_id(3, 4))),
        Err(StreamAppendError::HigherVote(vote(5, 6, false))),
    ] {
        assert_eq!(decode_appended(encode_appended(&result)), Ok(result));
    }
    assert_eq!(decode_confirm(encode_confirm(7)), Ok(7));
    for vote in [None, Some(vote(5, 6, false))] {
        let answer = Confirmed { round: 7, vote };
        assert_eq!(decode_confirmed(encode_confirmed(&answer)), Ok(answer));
    }
    let transfer = TransferLeaderRequest::new(vote(7, 1, true), 2, Some(log_id(7, 8)));
    assert_eq!(decode_transfer(encode_transfer(&transfer)), Ok(transfer));
    for response in [
        Ok(()),
        Err(TransferLeaderError::VoteChanged {
            expected: vote(1, 1, true),
            actual: vote(2, 2, false),
        }),
        Err(TransferLeaderError::LogNotFlushed { expected: Some(log_id(1, 1)), actual: None }),
    ] {
        assert_eq!(decode_transferred(encode_transferred(&response)), Ok(response));
    }
    let header = encode_snapshot_header(&vote(2, 1, true), &meta());
    assert_eq!(decode_snapshot_header(header), Ok((vote(2, 1, true), meta())));
    let none = SnapshotMeta::default();
    assert_eq!(decode_snapshot_meta(encode_snapshot_meta(&none)), Ok(none));
    let installed = SnapshotResponse::new(vote(2, 1, true));
    assert_eq!(decode_installed(encode_installed(&installed)), Ok(installed));
}

#[test]
fn a_cut_or_longer_message_is_refused() {
    let bytes = encode_append(&append());
    for length in 0..bytes.len() {
        assert!(decode_append(bytes.slice(..length)).is_err(), "{length}");
    }
    let mut longer = bytes.to_vec();
    longer.push(0);
    assert!(decode_append(longer.into()).is_err());
}

#[test]
fn entries_that_do_not_follow_each_other_are_refused() {
    let mut request = append();
    request.prev_log_id = Some(log_id(1, 3));
    assert_eq!(
        decode_append(encode_append(&request)).map(drop),
        Err(DecodeError::Invalid("order of entries"))
    );
}

#[test]
fn a_membership_whose_ids_are_out_of_order_is_refused() {
    let bytes = encode_payload(&Payload::Membership(membership()));
    // Tag, version, number of sets, number of voters: then the two voters.
    for voters in [[2, 1], [1, 1], [2, 2]] {
        let mut other = bytes.to_vec();
        (other[10], other[18]) = (voters[0], voters[1]);
        assert!(decode_payload(&other.into()).is_err(), "{voters:?}");
    }
    // The number of members, then each after its id.
    for member in [1, 0] {
        let mut other = bytes.to_vec();
        other[30 + 8 + 16 + 4 + 3 + 1] = member;
        assert!(decode_payload(&other.into()).is_err(), "{member}");
    }
}

#[test]
fn a_proposal_that_does_not_decode_never_gets_into_a_log() {
    let mut request = append();
    let broken = Data::from_payload(Bytes::from_static(&[1, 1, 0xff, 0xff]));
    request.entries[1].payload = Payload::Normal(broken);
    assert!(decode_append(encode_append(&request)).is_err());
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), tag in 0u8..33) {
        let mut tagged = vec![tag, VERSION];
        tagged.extend(&bytes);
        for bytes in [Bytes::from(bytes), Bytes::from(tagged)] {
            let _ = decode_payload(&bytes);
            let _ = decode_append(bytes.clone());
            let _ = decode_appended(bytes.clone());
            let _ = decode_vote_request(bytes.clone());
            let _ = decode_vote_response(bytes.clone());
            let _ = decode_transfer(bytes.clone());
            let _ = decode_transferred(bytes.clone());
            let _ = decode_snapshot_header(bytes.clone());
            let _ = decode_snapshot_meta(bytes.clone());
            let _ = decode_installed(bytes);
        }
    }

    #[test]
    fn a_flipped_byte_never_panics(at in 0usize..1000, with in any::<u8>()) {
        let mut bytes = encode_append(&append()).to_vec();
        let at = at % bytes.len();
        bytes[at] ^= with;
        let _ = decode_append(bytes.into());
    }
}
