//! Entries, membership and peer messages as bytes.
//!
//! Our own encodings, not those of the consensus library: what stands on a disk or crosses the
//! wire must be readable by later versions of this program, whatever the library does to its types.
//! Integers are little-endian and of fixed width; texts and byte strings carry a 32-bit length;
//! an optional value is preceded by one byte, 0 or 1. Every payload and message begins with its tag
//! and a version.
//!
//! Decoding is total: hostile bytes give a [`DecodeError`], never a panic, and allocate no more
//! than a small multiple of their own length.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};

use crate::lock::{DecodeError, Proposal};
use crate::raft::types::{
    Data, Entry, LogId, MemberNode, Membership, Payload, SnapshotMeta, StoredMembership,
    TypeConfig, Vote, raft_log_id, raft_vote, stored_log_id, stored_vote,
};
use crate::storage::{self, Uuid};

/// The version of every encoding below. A reader refuses a later one: guessing what a newer
/// program meant would be worse than stopping.
const VERSION: u8 = 1;

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
}

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

/// An entry's payload as the log keeps it.
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

/// What [`encode_payload`] wrote. The commands of a normal entry are not looked at: they are
/// decoded where they are applied.
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

/// An append request.
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

/// An append request from a peer. Proposals in it are checked to be decodable, so that nothing
/// that would stop every node at apply gets into a log.
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

/// Entries of one request are consecutive and begin right after the previous log id; openraft
/// relies on it.
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

/// The answer to an append request.
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

/// What [`encode_appended`] wrote.
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

/// A vote or pre-vote request.
pub(crate) fn encode_vote_request(request: &VoteRequest<TypeConfig>) -> Bytes {
    let mut out = Writer::tagged(message_tag::VOTE);
    out.vote(&request.vote);
    out.optional_log_id(request.last_log_id.as_ref());
    out.bool(request.leadership_transfer);
    out.finish()
}

/// What [`encode_vote_request`] wrote.
pub(crate) fn decode_vote_request(bytes: Bytes) -> Result<VoteRequest<TypeConfig>, DecodeError> {
    let mut input = Reader::tagged(bytes, message_tag::VOTE, "vote request")?;
    let vote = input.vote()?;
    let last_log_id = input.optional_log_id()?;
    let leadership_transfer = input.bool("leadership transfer")?;
    input.end("vote request")?;
    Ok(VoteRequest { vote, last_log_id, leadership_transfer })
}

/// The answer to a vote or pre-vote request.
pub(crate) fn encode_vote_response(response: &VoteResponse<TypeConfig>) -> Bytes {
    let mut out = Writer::tagged(message_tag::VOTED);
    out.vote(&response.vote);
    out.bool(response.vote_granted);
    out.optional_log_id(response.last_log_id.as_ref());
    out.finish()
}

/// What [`encode_vote_response`] wrote.
pub(crate) fn decode_vote_response(bytes: Bytes) -> Result<VoteResponse<TypeConfig>, DecodeError> {
    let mut input = Reader::tagged(bytes, message_tag::VOTED, "vote answer")?;
    let vote = input.vote()?;
    let vote_granted = input.bool("vote granted")?;
    let last_log_id = input.optional_log_id()?;
    input.end("vote answer")?;
    Ok(VoteResponse { vote, vote_granted, last_log_id })
}

/// A request to take over the leadership.
pub(crate) fn encode_transfer(request: &TransferLeaderRequest<TypeConfig>) -> Bytes {
    let mut out = Writer::tagged(message_tag::TRANSFER);
    out.vote(request.from_leader());
    out.u64(*request.to_node_id());
    out.optional_log_id(request.last_log_id());
    out.finish()
}

/// What [`encode_transfer`] wrote.
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

/// The answer to a request to take over the leadership.
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

/// What [`encode_transferred`] wrote.
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

/// What precedes a snapshot's bytes on the wire: the leader's vote and what the snapshot holds.
pub(crate) fn encode_snapshot_header(vote: &Vote, meta: &SnapshotMeta) -> Bytes {
    let mut out = Writer::tagged(message_tag::SNAPSHOT);
    out.vote(vote);
    out.bytes(&encode_snapshot_meta(meta));
    out.finish()
}

/// What [`encode_snapshot_header`] wrote.
pub(crate) fn decode_snapshot_header(bytes: Bytes) -> Result<(Vote, SnapshotMeta), DecodeError> {
    let mut input = Reader::tagged(bytes, message_tag::SNAPSHOT, "snapshot header")?;
    let vote = input.vote()?;
    let meta = decode_snapshot_meta(input.bytes("snapshot meta")?)?;
    input.end("snapshot header")?;
    Ok((vote, meta))
}

/// The answer to a snapshot.
pub(crate) fn encode_installed(response: &SnapshotResponse<TypeConfig>) -> Bytes {
    let mut out = Writer::tagged(message_tag::INSTALLED);
    out.vote(&response.vote);
    out.finish()
}

/// What [`encode_installed`] wrote.
pub(crate) fn decode_installed(bytes: Bytes) -> Result<SnapshotResponse<TypeConfig>, DecodeError> {
    let mut input = Reader::tagged(bytes, message_tag::INSTALLED, "snapshot answer")?;
    let vote = input.vote()?;
    input.end("snapshot answer")?;
    Ok(SnapshotResponse::new(vote))
}

/// Which entries and which membership a state contains: stands before a snapshot and in the
/// checkpoint.
pub(crate) fn encode_snapshot_meta(meta: &SnapshotMeta) -> Bytes {
    let mut out = Writer::tagged(message_tag::SNAPSHOT_META);
    out.optional_log_id(meta.last_log_id.as_ref());
    out.optional_log_id(meta.last_membership.log_id().as_ref());
    out.membership(meta.last_membership.membership());
    out.finish()
}

/// What [`encode_snapshot_meta`] wrote.
pub(crate) fn decode_snapshot_meta(bytes: Bytes) -> Result<SnapshotMeta, DecodeError> {
    let mut input = Reader::tagged(bytes, message_tag::SNAPSHOT_META, "snapshot meta")?;
    let last_log_id = input.optional_log_id()?;
    let membership_log_id = input.optional_log_id()?;
    let membership = input.membership()?;
    input.end("snapshot meta")?;
    let last_membership = StoredMembership::new(membership_log_id, membership);
    Ok(SnapshotMeta { last_log_id, last_membership })
}

/// Collects an encoding.
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn tagged(tag: u8) -> Self {
        Self(vec![tag, VERSION])
    }

    pub(crate) fn finish(self) -> Bytes {
        Bytes::from(self.0)
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(crate) fn bool(&mut self, value: bool) {
        self.u8(u8::from(value));
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.raw(&value.to_le_bytes());
    }

    pub(crate) fn uuid(&mut self, value: Uuid) {
        self.raw(&value.0.to_le_bytes());
    }

    pub(crate) fn count(&mut self, value: usize) {
        let value = u32::try_from(value).expect("lengths in memory stay below 4 GiB");
        self.raw(&value.to_le_bytes());
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) {
        self.count(value.len());
        self.raw(value);
    }

    pub(crate) fn optional_text(&mut self, value: Option<&str>) {
        self.bool(value.is_some());
        if let Some(value) = value {
            self.bytes(value.as_bytes());
        }
    }

    fn log_id(&mut self, id: &LogId) {
        let id = stored_log_id(id);
        self.u64(id.term);
        self.u64(id.index);
    }

    fn optional_log_id(&mut self, id: Option<&LogId>) {
        self.bool(id.is_some());
        if let Some(id) = id {
            self.log_id(id);
        }
    }

    fn vote(&mut self, vote: &Vote) {
        let vote = stored_vote(vote);
        self.u64(vote.term);
        self.u64(vote.node);
        self.bool(vote.committed);
    }

    pub(crate) fn membership(&mut self, membership: &Membership) {
        self.count(membership.get_joint_config().len());
        for voters in membership.get_joint_config() {
            self.count(voters.len());
            for id in voters {
                self.u64(*id);
            }
        }
        self.count(membership.nodes().count());
        for (id, node) in membership.nodes() {
            self.u64(*id);
            self.uuid(node.uuid);
            self.bytes(node.peer_addr.as_bytes());
            self.optional_text(node.client_addr.as_deref());
        }
    }
}

/// Takes an encoding apart.
pub(crate) struct Reader(Bytes);

impl Reader {
    pub(crate) fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// Begins after the tag, which must be this one, and the version.
    pub(crate) fn tagged(bytes: Bytes, tag: u8, what: &'static str) -> Result<Self, DecodeError> {
        let mut reader = Self(bytes);
        if reader.u8(what)? != tag {
            return Err(DecodeError::Invalid(what));
        }
        reader.version()?;
        Ok(reader)
    }

    pub(crate) fn version(&mut self) -> Result<(), DecodeError> {
        if self.u8("version")? != VERSION {
            return Err(DecodeError::Invalid("version: a newer program wrote this"));
        }
        Ok(())
    }

    /// Nothing may be left: a longer encoding is another one.
    pub(crate) fn end(&self, what: &'static str) -> Result<(), DecodeError> {
        if self.0.is_empty() { Ok(()) } else { Err(DecodeError::Invalid(what)) }
    }

    pub(crate) fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.0)
    }

    fn take(&mut self, count: usize, what: &'static str) -> Result<Bytes, DecodeError> {
        if self.0.len() < count {
            return Err(DecodeError::Truncated(what));
        }
        Ok(self.0.split_to(count))
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        let bytes = self.take(N, what)?;
        Ok(bytes[..].try_into().expect("exactly N bytes were taken"))
    }

    pub(crate) fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        self.array::<1>(what).map(|[byte]| byte)
    }

    pub(crate) fn bool(&mut self, what: &'static str) -> Result<bool, DecodeError> {
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Invalid(what)),
        }
    }

    pub(crate) fn u64(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        self.array(what).map(u64::from_le_bytes)
    }

    pub(crate) fn uuid(&mut self) -> Result<Uuid, DecodeError> {
        self.array("uuid").map(|bytes| Uuid(u128::from_le_bytes(bytes)))
    }

    /// A number of things that take at least `size` bytes each, so that a false number cannot ask
    /// for more memory than there are bytes.
    pub(crate) fn count(&mut self, size: usize, what: &'static str) -> Result<usize, DecodeError> {
        let count = usize::try_from(u32::from_le_bytes(self.array(what)?))
            .map_err(|_| DecodeError::Invalid(what))?;
        if count > self.0.len() / size {
            return Err(DecodeError::Truncated(what));
        }
        Ok(count)
    }

    pub(crate) fn bytes(&mut self, what: &'static str) -> Result<Bytes, DecodeError> {
        let count = self.count(1, what)?;
        self.take(count, what)
    }

    pub(crate) fn text(&mut self, what: &'static str) -> Result<String, DecodeError> {
        let bytes = self.bytes(what)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| DecodeError::Invalid(what))
    }

    pub(crate) fn optional_text(
        &mut self,
        what: &'static str,
    ) -> Result<Option<String>, DecodeError> {
        self.bool(what)?.then(|| self.text(what)).transpose()
    }

    fn log_id(&mut self) -> Result<LogId, DecodeError> {
        let term = self.u64("term")?;
        let index = self.u64("log index")?;
        // openraft computes the next index; no cluster gets there in this universe.
        if index == u64::MAX {
            return Err(DecodeError::Invalid("log index"));
        }
        Ok(raft_log_id(storage::LogId { term, index }))
    }

    fn optional_log_id(&mut self) -> Result<Option<LogId>, DecodeError> {
        self.bool("log id")?.then(|| self.log_id()).transpose()
    }

    fn vote(&mut self) -> Result<Vote, DecodeError> {
        let term = self.u64("term")?;
        let node = self.u64("node id")?;
        let committed = self.bool("committed vote")?;
        Ok(raft_vote(storage::Vote { term, node, committed }))
    }

    pub(crate) fn membership(&mut self) -> Result<Membership, DecodeError> {
        let mut configs = Vec::new();
        for _ in 0..self.count(4, "voter sets")? {
            let mut voters = BTreeSet::new();
            for _ in 0..self.count(8, "voters")? {
                voters.insert(self.u64("voter")?);
            }
            configs.push(voters);
        }
        let mut nodes = BTreeMap::new();
        for _ in 0..self.count(8 + 16 + 4 + 1, "members")? {
            let id = self.u64("member")?;
            let uuid = self.uuid()?;
            let peer_addr = self.text("peer address")?;
            let client_addr = self.optional_text("client address")?;
            nodes.insert(id, MemberNode { uuid, peer_addr, client_addr });
        }
        if configs.is_empty() && nodes.is_empty() {
            // Before the cluster is formed there is no membership; openraft's own check refuses
            // to build that one.
            return Ok(Membership::default());
        }
        Membership::new(configs, nodes).map_err(|_| DecodeError::Invalid("membership"))
    }
}

#[cfg(test)]
mod tests;
