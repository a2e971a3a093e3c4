//! The encodings of entries, membership and peer messages.
//!
//! These encodings are our own, not those of the consensus library: data on a disk or on the wire
//! must be readable by later versions of this program, whatever the library does to its types.
//! Integers are little-endian and of fixed width; texts and byte strings carry a 32-bit length; an
//! optional value is preceded by one byte, 0 or 1. Every payload and message begins with its tag
//! and a version.
//!
//! Decoding is total: hostile bytes yield a [`DecodeError`], never a panic, and allocate no more
//! than a small multiple of their own length.

mod bytes;

use ::bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};

use crate::lock::{DecodeError, Proposal};
use crate::raft::types::{
    Data, Entry, LogId, Payload, SnapshotMeta, StoredMembership, TypeConfig, Vote,
};
use crate::storage::Promises;
use crate::storage::log::MAX_PAYLOAD_BYTES;

pub(crate) use self::bytes::{Reader, Writer};

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
pub(crate) const MAX_ENTRY_BYTES: usize = 2 << 20;

/// An upper bound in bytes of an append request's overhead: for each entry, and once per request.
pub(crate) const APPEND_BYTES: usize = 64;

const _: () = assert!(MAX_ENTRY_BYTES <= MAX_PAYLOAD_BYTES, "the log takes every entry");

/// The payload of an entry that holds `proposal`, encoded once for log and wire.
pub(crate) fn data_of(proposal: &Proposal) -> Data {
    let mut out = Writer::tagged(payload_tag::NORMAL);
    out.raw(&proposal.encode());
    Data::from_payload(out.finish())
}

/// The proposal in an entry's data.
pub(crate) fn proposal_of(data: &Data) -> Result<Proposal, DecodeError> {
    let mut input = Reader::tagged(data.payload().clone(), payload_tag::NORMAL, "entry")?;
    Proposal::decode(&input.rest())
}

/// Encodes an entry's payload for the log.
pub(crate) fn encode_payload(payload: &Payload) -> Bytes {
    match payload {
        Payload::Blank => Writer::tagged(payload_tag::BLANK).finish(),
        Payload::Normal(data) => data.payload().clone(),
        Payload::Membership(membership) => {
            let mut out = Writer::tagged(payload_tag::MEMBERSHIP);
            out.membership(membership);
            out.finish()
        }
    }
}

/// Decodes the output of [`encode_payload`]. The commands of a normal entry are not checked: they
/// are decoded when they are applied.
pub(crate) fn decode_payload(bytes: &Bytes) -> Result<Payload, DecodeError> {
    let mut input = Reader::new(bytes.clone());
    let tag = input.u8("payload tag")?;
    input.version()?;
    let payload = match tag {
        payload_tag::BLANK => Payload::Blank,
        payload_tag::NORMAL => return Ok(Payload::Normal(Data::from_payload(bytes.clone()))),
        payload_tag::MEMBERSHIP => Payload::Membership(input.membership()?),
        _ => return Err(DecodeError::Invalid("payload tag")),
    };
    input.end("payload")?;
    Ok(payload)
}

/// Encodes an append request.
pub(crate) fn encode_append(request: &AppendEntriesRequest<TypeConfig>) -> Bytes {
    let mut out = Writer::tagged(message_tag::APPEND);
    out.vote(&request.vote);
    out.optional_log_id(request.prev_log_id.as_ref());
    out.optional_log_id(request.leader_commit.as_ref());
    out.count(request.entries.len());
    for entry in &request.entries {
        out.log_id(&entry.log_id);
        out.bytes(&encode_payload(&entry.payload));
    }
    out.finish()
}

/// Decodes an append request from a peer. Its proposals are checked to be decodable, so that
/// nothing that would stop every node at apply gets into a log.
pub(crate) fn decode_append(bytes: Bytes) -> Result<AppendEntriesRequest<TypeConfig>, DecodeError> {
    let mut input = Reader::tagged(bytes, message_tag::APPEND, "append request")?;
    let vote = input.vote()?;
    let prev_log_id = input.optional_log_id()?;
    let leader_commit = input.optional_log_id()?;
    // An entry takes at least a log id, a length, a tag and a version.
    let count = input.count(16 + 4 + 2, "entries")?;
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        let log_id = input.log_id()?;
        let payload = decode_payload(&input.bytes("payload")?)?;
        if let Payload::Normal(data) = &payload {
            proposal_of(data)?;
        }
        entries.push(Entry { log_id, payload });
    }
    input.end("append request")?;
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
pub(crate) fn encode_appended(result: &StreamAppendResult<TypeConfig>) -> Bytes {
    let mut out = Writer::tagged(message_tag::APPENDED);
    match result {
        Ok(log_id) => {
            out.u8(0);
            out.optional_log_id(log_id.as_ref());
        }
        Err(StreamAppendError::Conflict(log_id)) => {
            out.u8(1);
            out.log_id(log_id);
        }
        Err(StreamAppendError::HigherVote(vote)) => {
            out.u8(2);
            out.vote(vote);
        }
    }
    out.finish()
}

/// Encodes an answer of an append exchange: the follower's promises, including those of this
/// answer, and the answer.
pub(crate) fn encode_promised(promised: Promises, answer: &[u8]) -> Bytes {
    let mut out = Writer::tagged(message_tag::PROMISED);
    out.u64(promised.votes);
    out.u64(promised.log);
    out.raw(answer);
    out.finish()
}

/// Decodes the output of [`encode_promised`].
pub(crate) fn decode_promised(bytes: Bytes) -> Result<(Promises, Bytes), DecodeError> {
    let mut input = Reader::tagged(bytes, message_tag::PROMISED, "promised answer")?;
    let promised = Promises { votes: input.u64("votes")?, log: input.u64("end of the log")? };
    Ok((promised, input.rest()))
}

/// Decodes the output of [`encode_appended`].
pub(crate) fn decode_appended(bytes: Bytes) -> Result<StreamAppendResult<TypeConfig>, DecodeError> {
    let mut input = Reader::tagged(bytes, message_tag::APPENDED, "append answer")?;
    let result = match input.u8("append answer")? {
        0 => Ok(input.optional_log_id()?),
        1 => Err(StreamAppendError::Conflict(input.log_id()?)),
        2 => Err(StreamAppendError::HigherVote(input.vote()?)),
        _ => return Err(DecodeError::Invalid("append answer")),
    };
    input.end("append answer")?;
    Ok(result)
}

/// Encodes a vote or pre-vote request.
pub(crate) fn encode_vote_request(request: &VoteRequest<TypeConfig>) -> Bytes {
    let mut out = Writer::tagged(message_tag::VOTE);
    out.vote(&request.vote);
    out.optional_log_id(request.last_log_id.as_ref());
    out.bool(request.leadership_transfer);
    out.finish()
}

/// Decodes the output of [`encode_vote_request`].
pub(crate) fn decode_vote_request(bytes: Bytes) -> Result<VoteRequest<TypeConfig>, DecodeError> {
    let mut input = Reader::tagged(bytes, message_tag::VOTE, "vote request")?;
    let vote = input.vote()?;
    let last_log_id = input.optional_log_id()?;
    let leadership_transfer = input.bool("leadership transfer")?;
    input.end("vote request")?;
    Ok(VoteRequest { vote, last_log_id, leadership_transfer })
}

/// Encodes the answer to a vote or pre-vote request.
pub(crate) fn encode_vote_response(response: &VoteResponse<TypeConfig>) -> Bytes {
    let mut out = Writer::tagged(message_tag::VOTED);
    out.vote(&response.vote);
    out.bool(response.vote_granted);
    out.optional_log_id(response.last_log_id.as_ref());
    out.finish()
}

/// Decodes the output of [`encode_vote_response`].
pub(crate) fn decode_vote_response(bytes: Bytes) -> Result<VoteResponse<TypeConfig>, DecodeError> {
    let mut input = Reader::tagged(bytes, message_tag::VOTED, "vote answer")?;
    let vote = input.vote()?;
    let vote_granted = input.bool("vote granted")?;
    let last_log_id = input.optional_log_id()?;
    input.end("vote answer")?;
    Ok(VoteResponse { vote, vote_granted, last_log_id })
}

/// Encodes a request to take over the leadership.
pub(crate) fn encode_transfer(request: &TransferLeaderRequest<TypeConfig>) -> Bytes {
    let mut out = Writer::tagged(message_tag::TRANSFER);
    out.vote(request.from_leader());
    out.u64(*request.to_node_id());
    out.optional_log_id(request.last_log_id());
    out.finish()
}

/// Decodes the output of [`encode_transfer`].
pub(crate) fn decode_transfer(
    bytes: Bytes,
) -> Result<TransferLeaderRequest<TypeConfig>, DecodeError> {
    let mut input = Reader::tagged(bytes, message_tag::TRANSFER, "transfer request")?;
    let from = input.vote()?;
    let to = input.u64("node id")?;
    let last_log_id = input.optional_log_id()?;
    input.end("transfer request")?;
    Ok(TransferLeaderRequest::new(from, to, last_log_id))
}

/// Encodes the answer to a request to take over the leadership.
pub(crate) fn encode_transferred(response: &TransferLeaderResponse<TypeConfig>) -> Bytes {
    let mut out = Writer::tagged(message_tag::TRANSFERRED);
    match response {
        Ok(()) => out.u8(0),
        Err(TransferLeaderError::VoteChanged { expected, actual }) => {
            out.u8(1);
            out.vote(expected);
            out.vote(actual);
        }
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            out.u8(2);
            out.optional_log_id(expected.as_ref());
            out.optional_log_id(actual.as_ref());
        }
    }
    out.finish()
}

/// Decodes the output of [`encode_transferred`].
pub(crate) fn decode_transferred(
    bytes: Bytes,
) -> Result<TransferLeaderResponse<TypeConfig>, DecodeError> {
    let mut input = Reader::tagged(bytes, message_tag::TRANSFERRED, "transfer answer")?;
    let response = match input.u8("transfer answer")? {
        0 => Ok(()),
        1 => {
            Err(TransferLeaderError::VoteChanged { expected: input.vote()?, actual: input.vote()? })
        }
        2 => Err(TransferLeaderError::LogNotFlushed {
            expected: input.optional_log_id()?,
            actual: input.optional_log_id()?,
        }),
        _ => return Err(DecodeError::Invalid("transfer answer")),
    };
    input.end("transfer answer")?;
    Ok(response)
}

/// A member's answer to a confirmation request: the vote it holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Confirmed {
    /// The round of the request.
    pub(crate) round: u64,
    /// The vote when the request was answered, durable or not; `None` before the first.
    pub(crate) vote: Option<Vote>,
}

/// Encodes a leader's confirmation request, which asks for the vote that a member holds. The round
/// distinguishes its answer from earlier ones.
pub(crate) fn encode_confirm(round: u64) -> Bytes {
    let mut out = Writer::tagged(message_tag::CONFIRM);
    out.u64(round);
    out.finish()
}

/// Decodes the output of [`encode_confirm`].
pub(crate) fn decode_confirm(bytes: Bytes) -> Result<u64, DecodeError> {
    let mut input = Reader::tagged(bytes, message_tag::CONFIRM, "leadership question")?;
    let round = input.u64("round")?;
    input.end("leadership question")?;
    Ok(round)
}

/// Encodes the answer to a confirmation request.
pub(crate) fn encode_confirmed(answer: &Confirmed) -> Bytes {
    let mut out = Writer::tagged(message_tag::CONFIRMED);
    out.u64(answer.round);
    out.bool(answer.vote.is_some());
    if let Some(vote) = &answer.vote {
        out.vote(vote);
    }
    out.finish()
}

/// Decodes the output of [`encode_confirmed`].
pub(crate) fn decode_confirmed(bytes: Bytes) -> Result<Confirmed, DecodeError> {
    let mut input = Reader::tagged(bytes, message_tag::CONFIRMED, "leadership answer")?;
    let round = input.u64("round")?;
    let vote = input.bool("vote")?.then(|| input.vote()).transpose()?;
    input.end("leadership answer")?;
    Ok(Confirmed { round, vote })
}

/// Encodes the header that precedes a snapshot on the wire: the leader's vote and the snapshot's
/// meta data.
pub(crate) fn encode_snapshot_header(vote: &Vote, meta: &SnapshotMeta) -> Bytes {
    let mut out = Writer::tagged(message_tag::SNAPSHOT);
    out.vote(vote);
    out.bytes(&encode_snapshot_meta(meta));
    out.finish()
}

/// Decodes the output of [`encode_snapshot_header`].
pub(crate) fn decode_snapshot_header(bytes: Bytes) -> Result<(Vote, SnapshotMeta), DecodeError> {
    let mut input = Reader::tagged(bytes, message_tag::SNAPSHOT, "snapshot header")?;
    let vote = input.vote()?;
    let meta = decode_snapshot_meta(input.bytes("snapshot meta")?)?;
    input.end("snapshot header")?;
    Ok((vote, meta))
}

/// Encodes the answer to a snapshot.
pub(crate) fn encode_installed(response: &SnapshotResponse<TypeConfig>) -> Bytes {
    let mut out = Writer::tagged(message_tag::INSTALLED);
    out.vote(&response.vote);
    out.finish()
}

/// Decodes the output of [`encode_installed`].
pub(crate) fn decode_installed(bytes: Bytes) -> Result<SnapshotResponse<TypeConfig>, DecodeError> {
    let mut input = Reader::tagged(bytes, message_tag::INSTALLED, "snapshot answer")?;
    let vote = input.vote()?;
    input.end("snapshot answer")?;
    Ok(SnapshotResponse::new(vote))
}

/// Encodes the last entry and the membership of a state; used in snapshots and in the checkpoint.
pub(crate) fn encode_snapshot_meta(meta: &SnapshotMeta) -> Bytes {
    let mut out = Writer::tagged(message_tag::SNAPSHOT_META);
    out.optional_log_id(meta.last_log_id.as_ref());
    out.optional_log_id(meta.last_membership.log_id().as_ref());
    out.membership(meta.last_membership.membership());
    out.finish()
}

/// Decodes the output of [`encode_snapshot_meta`].
pub(crate) fn decode_snapshot_meta(bytes: Bytes) -> Result<SnapshotMeta, DecodeError> {
    let mut input = Reader::tagged(bytes, message_tag::SNAPSHOT_META, "snapshot meta")?;
    let last_log_id = input.optional_log_id()?;
    let membership_log_id = input.optional_log_id()?;
    let membership = input.membership()?;
    input.end("snapshot meta")?;
    let last_membership = StoredMembership::new(membership_log_id, membership);
    Ok(SnapshotMeta { last_log_id, last_membership })
}

#[cfg(test)]
pub(crate) mod tests;
