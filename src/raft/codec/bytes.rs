//! The primitives of the encodings: integers, texts, log ids, votes, memberships.
//!
//! Reading is total, and allocates no more memory than the available bytes could fill.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::lock::DecodeError;
use crate::raft::types::{
    LogId, MemberNode, Membership, Vote, raft_log_id, raft_vote, stored_log_id, stored_vote,
};
use crate::storage::{self, Uuid};

/// The version of every encoding. A reader refuses a later one: guessing the meaning of newer data
/// would be worse than stopping.
pub(super) const VERSION: u8 = 1;

/// Writes an encoding.
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

    pub(super) fn log_id(&mut self, id: &LogId) {
        let id = stored_log_id(id);
        self.u64(id.term);
        self.u64(id.index);
    }

    pub(super) fn optional_log_id(&mut self, id: Option<&LogId>) {
        self.bool(id.is_some());
        if let Some(id) = id {
            self.log_id(id);
        }
    }

    pub(super) fn vote(&mut self, vote: &Vote) {
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

/// Reads an encoding.
pub(crate) struct Reader(Bytes);

impl Reader {
    pub(crate) fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// Starts after the tag, which must be this one, and the version.
    pub(crate) fn tagged(bytes: Bytes, tag: u8, what: &'static str) -> Result<Self, DecodeError> {
        let mut reader = Self(bytes);
        if reader.u8(what)? != tag {
            return Err(DecodeError::Invalid(what));
        }
        reader.version()?;
        Ok(reader)
    }

    pub(crate) fn version(&mut self) -> Result<(), DecodeError> {
        match self.u8("version")? {
            VERSION => Ok(()),
            newer if newer > VERSION => {
                Err(DecodeError::Invalid("version: a newer program wrote this"))
            }
            _ => Err(DecodeError::Invalid("version")),
        }
    }

    /// Checks that nothing is left: a longer encoding is invalid.
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

    /// Reads the next id of a set or a map. Ids are written in ascending order: another order, or a
    /// repeated id, would be a second encoding of the same value.
    pub(crate) fn id_after(
        &mut self,
        last: Option<u64>,
        what: &'static str,
    ) -> Result<u64, DecodeError> {
        let id = self.u64(what)?;
        if last.is_some_and(|last| id <= last) {
            return Err(DecodeError::Invalid(what));
        }
        Ok(id)
    }

    pub(crate) fn uuid(&mut self) -> Result<Uuid, DecodeError> {
        self.array("uuid").map(|bytes| Uuid(u128::from_le_bytes(bytes)))
    }

    /// Reads a count of items that take at least `size` bytes each, so that a false count cannot
    /// allocate more memory than there are bytes.
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

    pub(super) fn log_id(&mut self) -> Result<LogId, DecodeError> {
        let term = self.u64("term")?;
        let index = self.u64("log index")?;
        // openraft computes the next index, which must not overflow.
        if index == u64::MAX {
            return Err(DecodeError::Invalid("log index"));
        }
        Ok(raft_log_id(storage::LogId { term, index }))
    }

    pub(super) fn optional_log_id(&mut self) -> Result<Option<LogId>, DecodeError> {
        self.bool("log id")?.then(|| self.log_id()).transpose()
    }

    pub(super) fn vote(&mut self) -> Result<Vote, DecodeError> {
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
                voters.insert(self.id_after(voters.last().copied(), "voter")?);
            }
            configs.push(voters);
        }
        let mut nodes = BTreeMap::new();
        for _ in 0..self.count(8 + 16 + 4 + 1, "members")? {
            let id = self.id_after(nodes.last_key_value().map(|(id, _)| *id), "member")?;
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
