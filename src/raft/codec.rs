//! The encodings of entries, membership and peer messages.
//!
//! These encodings are our own, not those of the consensus library: data on a disk or on the wire
//! must be readable by later versions of this program, whatever the library does to its types.
//! They are made of the primitives of `codec.rs`. Every payload and message begins with its tag
//! and a version. The payloads of an append request are not copied: they are slices of it.
//!
//! Decoding is total: hostile bytes yield a [`DecodeError`], never a panic, and allocate no more
//! than a small multiple of their own length.

#![allow(clippy::missing_errors_doc, reason = "each fails on bytes that are no such message")]

mod bytes;

use ::bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};

use self::bytes::{
    VERSION, open, put_log_id, put_membership, put_optional_log_id, put_vote, read_log_id,
    read_membership, read_optional_log_id, read_vote, tagged,
};
use crate::codec::{DecodeError, Encoding as _, Reader, put_bytes, put_u64};
use crate::lock::Proposal;
use crate::raft::types::{
    Data, Entry, LogId, Payload, SnapshotMeta, StoredMembership, TypeConfig, Vote, raft_vote,
    stored_vote,
};
use crate::storage::Promises;
use crate::storage::log::MAX_PAYLOAD_BYTES;

/// The first byte of a log entry's payload. Never reused for another meaning.
mod payload_tag {
    pub(super) const BLANK: u8 = 0;
    pub(super) const NORMAL: u8 = 1;
    pub(super) const MEMBERSHIP: u8 = 2;
}

/// The first byte of a message between peers. Never reused for another meaning.
mod message_tag {
    pub(super) const APPEND: u8 = 16;
    pub(super) const APPENDED: u8 = 17;
    pub(super) const VOTE: u8 = 18;
    pub(super) const VOTED: u8 = 19;
    pub(super) const TRANSFER: u8 = 20;
    pub(super) const TRANSFERRED: u8 = 21;
    pub(super) const SNAPSHOT: u8 = 22;
    pub(super) const INSTALLED: u8 = 23;
    pub(super) const SNAPSHOT_META: u8 = 24;
    pub(super) const PROMISED: u8 = 25;
    pub(super) const CONFIRM: u8 = 26;
    pub(super) const CONFIRMED: u8 = 27;
}

/// The largest size of an entry's payload in bytes. The log and a message have room for it; the
/// proposer respects it.
pub const MAX_ENTRY_BYTES: usize = 2 << 20;

/// An upper bound in bytes of an append request's overhead: for each entry, and once per request.
pub const APPEND_BYTES: usize = 64;

const _: () = assert!(MAX_ENTRY_BYTES <= MAX_PAYLOAD_BYTES, "the log takes every entry");

/// The payload of an entry that holds `proposal`, encoded once for log and wire.
pub fn data_of(proposal: &Proposal) -> Data {
    let mut out = tagged(payload_tag::NORMAL);
    out.extend_from_slice(&proposal.encode());
    Data::from_payload(out.into())
}

/// The proposal in an entry's data.
pub fn proposal_of(data: &Data) -> Result<Proposal, DecodeError> {
    Proposal::decode(open(data.payload(), payload_tag::NORMAL, "entry")?.rest())
}

/// Encodes an entry's payload for the log.
pub fn encode_payload(payload: &Payload) -> Bytes {
    match payload {
        Payload::Blank => tagged(payload_tag::BLANK).into(),
        Payload::Normal(data) => data.payload().clone(),
        Payload::Membership(membership) => {
            let mut out = tagged(payload_tag::MEMBERSHIP);
            put_membership(&mut out, membership);
            out.into()
        }
    }
}

/// Decodes the output of [`encode_payload`]. The commands of a normal entry are not checked: they
/// are decoded when they are applied.
pub fn decode_payload(bytes: &Bytes) -> Result<Payload, DecodeError> {
    let mut input = Reader::new(bytes, "payload");
    let tag = input.u8()?;
    input.version(VERSION)?;
    let payload = match tag {
        payload_tag::BLANK => Payload::Blank,
        payload_tag::NORMAL => return Ok(Payload::Normal(Data::from_payload(bytes.clone()))),
        payload_tag::MEMBERSHIP => Payload::Membership(read_membership(&mut input)?),
        _ => return Err(input.invalid()),
    };
    input.end()?;
    Ok(payload)
}

/// Encodes an append request.
pub fn encode_append(request: &AppendEntriesRequest<TypeConfig>) -> Bytes {
    let mut out = tagged(message_tag::APPEND);
    put_vote(&mut out, &request.vote);
    put_optional_log_id(&mut out, request.prev_log_id.as_ref());
    put_optional_log_id(&mut out, request.leader_commit.as_ref());
    put_u64(&mut out, request.entries.len() as u64);
    for entry in &request.entries {
        put_log_id(&mut out, &entry.log_id);
        put_bytes(&mut out, &encode_payload(&entry.payload));
    }
    out.into()
}

/// Decodes an append request from a peer. Its proposals are checked to be decodable, so that
/// nothing that would stop every node at apply gets into a log.
pub fn decode_append(bytes: &Bytes) -> Result<AppendEntriesRequest<TypeConfig>, DecodeError> {
    let mut input = open(bytes, message_tag::APPEND, "append request")?;
    let vote = read_vote(&mut input)?;
    let prev_log_id = read_optional_log_id(&mut input)?;
    let leader_commit = read_optional_log_id(&mut input)?;
    // The count is not trusted with an allocation.
    let count = input.u64()?;
    let mut entries = Vec::new();
    for _ in 0..count {
        let log_id = read_log_id(&mut input)?;
        let payload = decode_payload(&bytes.slice_ref(input.bytes()?))?;
        if let Payload::Normal(data) = &payload {
            proposal_of(data)?;
        }
        entries.push(Entry { log_id, payload });
    }
    input.end()?;
    follow_each_other(prev_log_id.as_ref(), &entries)?;
    Ok(AppendEntriesRequest { vote, prev_log_id, leader_commit, entries })
}

/// Checks that the entries of a request are consecutive and begin right after the previous log id;
/// openraft relies on it.
fn follow_each_other(prev: Option<&LogId>, entries: &[Entry]) -> Result<(), DecodeError> {
    let mut next = match prev {
        Some(id) => id.index().checked_add(1).ok_or(DecodeError::Invalid("log index"))?,
        None => 0,
    };
    for entry in entries {
        if entry.log_id.index() != next {
            return Err(DecodeError::Invalid("order of entries"));
        }
        next = next.checked_add(1).ok_or(DecodeError::Invalid("log index"))?;
    }
    Ok(())
}

/// Encodes the answer to an append request.
pub fn encode_appended(result: &StreamAppendResult<TypeConfig>) -> Bytes {
    let mut out = tagged(message_tag::APPENDED);
    match result {
        Ok(log_id) => {
            out.push(0);
            put_optional_log_id(&mut out, log_id.as_ref());
        }
        Err(StreamAppendError::Conflict(log_id)) => {
            out.push(1);
            put_log_id(&mut out, log_id);
        }
        Err(StreamAppendError::HigherVote(vote)) => {
            out.push(2);
            put_vote(&mut out, vote);
        }
    }
    out.into()
}

/// Encodes an answer of an append exchange: the follower's promises, including those of this
/// answer, and the answer.
pub fn encode_promised(promised: Promises, answer: &[u8]) -> Bytes {
    let mut out = tagged(message_tag::PROMISED);
    promised.put(&mut out);
    out.extend_from_slice(answer);
    out.into()
}

/// Decodes the output of [`encode_promised`].
pub fn decode_promised(bytes: &Bytes) -> Result<(Promises, Bytes), DecodeError> {
    let mut input = open(bytes, message_tag::PROMISED, "promised answer")?;
    let promised = Promises::read(&mut input)?;
    Ok((promised, bytes.slice_ref(input.rest())))
}

/// Decodes the output of [`encode_appended`].
pub fn decode_appended(bytes: &[u8]) -> Result<StreamAppendResult<TypeConfig>, DecodeError> {
    let mut input = open(bytes, message_tag::APPENDED, "append answer")?;
    let result = match input.u8()? {
        0 => Ok(read_optional_log_id(&mut input)?),
        1 => Err(StreamAppendError::Conflict(read_log_id(&mut input)?)),
        2 => Err(StreamAppendError::HigherVote(read_vote(&mut input)?)),
        _ => return Err(input.invalid()),
    };
    input.end()?;
    Ok(result)
}

/// Encodes a vote or pre-vote request.
pub fn encode_vote_request(request: &VoteRequest<TypeConfig>) -> Bytes {
    let mut out = tagged(message_tag::VOTE);
    put_vote(&mut out, &request.vote);
    put_optional_log_id(&mut out, request.last_log_id.as_ref());
    request.leadership_transfer.put(&mut out);
    out.into()
}

/// Decodes the output of [`encode_vote_request`].
pub fn decode_vote_request(bytes: &[u8]) -> Result<VoteRequest<TypeConfig>, DecodeError> {
    let mut input = open(bytes, message_tag::VOTE, "vote request")?;
    let vote = read_vote(&mut input)?;
    let last_log_id = read_optional_log_id(&mut input)?;
    let leadership_transfer = bool::read(&mut input)?;
    input.end()?;
    Ok(VoteRequest { vote, last_log_id, leadership_transfer })
}

/// Encodes the answer to a vote or pre-vote request.
pub fn encode_vote_response(response: &VoteResponse<TypeConfig>) -> Bytes {
    let mut out = tagged(message_tag::VOTED);
    put_vote(&mut out, &response.vote);
    response.vote_granted.put(&mut out);
    put_optional_log_id(&mut out, response.last_log_id.as_ref());
    out.into()
}

/// Decodes the output of [`encode_vote_response`].
pub fn decode_vote_response(bytes: &[u8]) -> Result<VoteResponse<TypeConfig>, DecodeError> {
    let mut input = open(bytes, message_tag::VOTED, "vote answer")?;
    let vote = read_vote(&mut input)?;
    let vote_granted = bool::read(&mut input)?;
    let last_log_id = read_optional_log_id(&mut input)?;
    input.end()?;
    Ok(VoteResponse { vote, vote_granted, last_log_id })
}

/// Encodes a request to take over the leadership.
pub fn encode_transfer(request: &TransferLeaderRequest<TypeConfig>) -> Bytes {
    let mut out = tagged(message_tag::TRANSFER);
    put_vote(&mut out, request.from_leader());
    put_u64(&mut out, *request.to_node_id());
    put_optional_log_id(&mut out, request.last_log_id());
    out.into()
}

/// Decodes the output of [`encode_transfer`].
pub fn decode_transfer(bytes: &[u8]) -> Result<TransferLeaderRequest<TypeConfig>, DecodeError> {
    let mut input = open(bytes, message_tag::TRANSFER, "transfer request")?;
    let from = read_vote(&mut input)?;
    let to = input.u64()?;
    let last_log_id = read_optional_log_id(&mut input)?;
    input.end()?;
    Ok(TransferLeaderRequest::new(from, to, last_log_id))
}

/// Encodes the answer to a request to take over the leadership.
pub fn encode_transferred(response: &TransferLeaderResponse<TypeConfig>) -> Bytes {
    let mut out = tagged(message_tag::TRANSFERRED);
    match response {
        Ok(()) => out.push(0),
        Err(TransferLeaderError::VoteChanged { expected, actual }) => {
            out.push(1);
            put_vote(&mut out, expected);
            put_vote(&mut out, actual);
        }
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            out.push(2);
            put_optional_log_id(&mut out, expected.as_ref());
            put_optional_log_id(&mut out, actual.as_ref());
        }
    }
    out.into()
}

/// Decodes the output of [`encode_transferred`].
pub fn decode_transferred(bytes: &[u8]) -> Result<TransferLeaderResponse<TypeConfig>, DecodeError> {
    let mut input = open(bytes, message_tag::TRANSFERRED, "transfer answer")?;
    let response = match input.u8()? {
        0 => Ok(()),
        1 => Err(TransferLeaderError::VoteChanged {
            expected: read_vote(&mut input)?,
            actual: read_vote(&mut input)?,
        }),
        2 => Err(TransferLeaderError::LogNotFlushed {
            expected: read_optional_log_id(&mut input)?,
            actual: read_optional_log_id(&mut input)?,
        }),
        _ => return Err(input.invalid()),
    };
    input.end()?;
    Ok(response)
}

/// A member's answer to a confirmation request: the vote it holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Confirmed {
    /// The round of the request.
    pub round: u64,
    /// The vote when the request was answered, durable or not; `None` before the first.
    pub vote: Option<Vote>,
}

/// Encodes a leader's confirmation request, which asks for the vote that a member holds. The round
/// distinguishes its answer from earlier ones.
pub fn encode_confirm(round: u64) -> Bytes {
    let mut out = tagged(message_tag::CONFIRM);
    put_u64(&mut out, round);
    out.into()
}

/// Decodes the output of [`encode_confirm`].
pub fn decode_confirm(bytes: &[u8]) -> Result<u64, DecodeError> {
    let mut input = open(bytes, message_tag::CONFIRM, "leadership question")?;
    let round = input.u64()?;
    input.end()?;
    Ok(round)
}

/// Encodes the answer to a confirmation request.
pub fn encode_confirmed(answer: &Confirmed) -> Bytes {
    let mut out = tagged(message_tag::CONFIRMED);
    put_u64(&mut out, answer.round);
    answer.vote.as_ref().map(stored_vote).put(&mut out);
    out.into()
}

/// Decodes the output of [`encode_confirmed`].
pub fn decode_confirmed(bytes: &[u8]) -> Result<Confirmed, DecodeError> {
    let mut input = open(bytes, message_tag::CONFIRMED, "leadership answer")?;
    let round = input.u64()?;
    let vote = Option::read(&mut input)?.map(raft_vote);
    input.end()?;
    Ok(Confirmed { round, vote })
}

/// Encodes the header that precedes a snapshot on the wire: the leader's vote and the snapshot's
/// meta data.
pub fn encode_snapshot_header(vote: &Vote, meta: &SnapshotMeta) -> Bytes {
    let mut out = tagged(message_tag::SNAPSHOT);
    put_vote(&mut out, vote);
    put_bytes(&mut out, &encode_snapshot_meta(meta));
    out.into()
}

/// Decodes the output of [`encode_snapshot_header`].
pub fn decode_snapshot_header(bytes: &[u8]) -> Result<(Vote, SnapshotMeta), DecodeError> {
    let mut input = open(bytes, message_tag::SNAPSHOT, "snapshot header")?;
    let vote = read_vote(&mut input)?;
    let meta = decode_snapshot_meta(input.bytes()?)?;
    input.end()?;
    Ok((vote, meta))
}

/// Encodes the answer to a snapshot.
pub fn encode_installed(response: &SnapshotResponse<TypeConfig>) -> Bytes {
    let mut out = tagged(message_tag::INSTALLED);
    put_vote(&mut out, &response.vote);
    out.into()
}

/// Decodes the output of [`encode_installed`].
pub fn decode_installed(bytes: &[u8]) -> Result<SnapshotResponse<TypeConfig>, DecodeError> {
    let mut input = open(bytes, message_tag::INSTALLED, "snapshot answer")?;
    let vote = read_vote(&mut input)?;
    input.end()?;
    Ok(SnapshotResponse::new(vote))
}

/// Encodes the last entry and the membership of a state; used in snapshots and in the checkpoint.
pub fn encode_snapshot_meta(meta: &SnapshotMeta) -> Bytes {
    let mut out = tagged(message_tag::SNAPSHOT_META);
    put_optional_log_id(&mut out, meta.last_log_id.as_ref());
    put_optional_log_id(&mut out, meta.last_membership.log_id().as_ref());
    put_membership(&mut out, meta.last_membership.membership());
    out.into()
}

/// Decodes the output of [`encode_snapshot_meta`].
pub fn decode_snapshot_meta(bytes: &[u8]) -> Result<SnapshotMeta, DecodeError> {
    let mut input = open(bytes, message_tag::SNAPSHOT_META, "snapshot meta")?;
    let last_log_id = read_optional_log_id(&mut input)?;
    let membership_log_id = read_optional_log_id(&mut input)?;
    let membership = read_membership(&mut input)?;
    input.end()?;
    let last_membership = StoredMembership::new(membership_log_id, membership);
    Ok(SnapshotMeta { last_log_id, last_membership })
}

#[cfg(test)]
pub(crate) mod tests;
