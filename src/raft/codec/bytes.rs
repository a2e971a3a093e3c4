//! The shapes of the consensus library's values: log ids, votes, memberships.

use std::collections::{BTreeMap, BTreeSet};

use crate::codec::{DecodeError, Encoding, Reader, put_str, put_u64};
use crate::raft::types::{
    LogId, MemberNode, Membership, Vote, raft_log_id, raft_vote, stored_log_id, stored_vote,
};
use crate::storage::{self, Uuid};

/// The version of every encoding. A reader refuses a later one: guessing the meaning of newer data
/// would be worse than stopping.
pub(super) const VERSION: u8 = 1;

/// The beginning of an encoding.
pub(super) fn tagged(tag: u8) -> Vec<u8> {
    vec![tag, VERSION]
}

/// A reader after the tag, which must be this one, and the version.
pub(super) fn open<'a>(
    bytes: &'a [u8],
    tag: u8,
    what: &'static str,
) -> Result<Reader<'a>, DecodeError> {
    let mut reader = Reader::new(bytes, what);
    if reader.u8()? != tag {
        return Err(reader.invalid());
    }
    reader.version(VERSION)?;
    Ok(reader)
}

pub(super) fn put_log_id(out: &mut Vec<u8>, id: &LogId) {
    stored_log_id(id).put(out);
}

pub(super) fn read_log_id(reader: &mut Reader<'_>) -> Result<LogId, DecodeError> {
    let id = storage::LogId::read(reader)?;
    // openraft computes the next index, which must not overflow.
    if id.index == u64::MAX {
        return Err(DecodeError::Invalid("log index"));
    }
    Ok(raft_log_id(id))
}

pub(super) fn put_optional_log_id(out: &mut Vec<u8>, id: Option<&LogId>) {
    id.map(stored_log_id).put(out);
}

pub(super) fn read_optional_log_id(reader: &mut Reader<'_>) -> Result<Option<LogId>, DecodeError> {
    bool::read(reader)?.then(|| read_log_id(reader)).transpose()
}

pub(super) fn put_vote(out: &mut Vec<u8>, vote: &Vote) {
    stored_vote(vote).put(out);
}

pub(super) fn read_vote(reader: &mut Reader<'_>) -> Result<Vote, DecodeError> {
    storage::Vote::read(reader).map(raft_vote)
}

pub(super) fn put_membership(out: &mut Vec<u8>, membership: &Membership) {
    membership.get_joint_config().put(out);
    put_u64(out, membership.nodes().count() as u64);
    for (id, node) in membership.nodes() {
        id.put(out);
        node.put(out);
    }
}

pub(super) fn read_membership(reader: &mut Reader<'_>) -> Result<Membership, DecodeError> {
    let configs = Vec::<BTreeSet<u64>>::read(reader)?;
    let nodes = BTreeMap::<u64, MemberNode>::read(reader)?;
    if configs.is_empty() && nodes.is_empty() {
        // Before the cluster is formed there is no membership; openraft's own check refuses to
        // build that one.
        return Ok(Membership::default());
    }
    Membership::new(configs, nodes).map_err(|_| DecodeError::Invalid("membership"))
}

impl Encoding for MemberNode {
    fn put(&self, out: &mut Vec<u8>) {
        let Self { uuid, peer_addr, client_addr } = self;
        uuid.put(out);
        put_str(out, peer_addr);
        client_addr.put(out);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            uuid: Uuid::read(reader)?,
            peer_addr: String::read(reader)?,
            client_addr: Option::read(reader)?,
        })
    }
}
