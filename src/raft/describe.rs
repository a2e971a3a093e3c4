//! Log entries as text, for a person who inspects a data folder.

use std::fmt::Write as _;

use bytes::Bytes;

use crate::access::{AccessToken, Change, Right};
use crate::lock::{Command, DecodeError, Keep, Operation, Proposal};
use crate::raft::codec;
use crate::raft::types::{Membership, Payload};
use crate::types::TimeToLive;

/// Describes an entry's payload on one line. Names are quoted, so that none can be mistaken for
/// other text.
pub(crate) fn payload(bytes: &Bytes) -> String {
    match describe(bytes) {
        Ok(text) => text,
        Err(error) => format!("NOT READABLE: {error}"),
    }
}

fn describe(bytes: &Bytes) -> Result<String, DecodeError> {
    Ok(match codec::decode_payload(bytes)? {
        Payload::Blank => "blank, the first of a leader's term".to_owned(),
        Payload::Normal(data) => proposal(&codec::proposal_of(&data)?),
        Payload::Membership(members) => membership(&members),
    })
}

fn membership(members: &Membership) -> String {
    let voters: Vec<u64> = members.voter_ids().collect();
    let nodes = members.nodes().map(|(id, node)| {
        let voter = if voters.contains(id) { "" } else { " without a vote" };
        format!("node {id}{voter}: {node}")
    });
    format!("members: {}", nodes.collect::<Vec<_>>().join(", "))
}

fn proposal(proposal: &Proposal) -> String {
    let commands = proposal.commands.iter().map(command).collect::<Vec<_>>().join("; ");
    format!("at {} s: {commands}", proposal.stamp.time)
}

fn command(command: &Command) -> String {
    let mut text = operation(&command.operation);
    // Writing to a string does not fail.
    if let Some(id) = &command.request_id {
        let _ = write!(text, " request {id}");
    }
    if let Some(actor) = command.actor() {
        let _ = write!(text, " by {actor:?}");
    }
    if let Some(cause) = &command.cause {
        let _ = write!(text, " because {cause:?}");
    }
    text
}

fn keep(keep: Keep) -> String {
    match keep {
        Keep::Ms(ms) => format!("{ms} ms"),
        Keep::ForEver => TimeToLive::NEVER_WORD.to_owned(),
    }
}

/// A change of rules or tokens. Of a token its name is shown, and not its hash.
fn access(change: &Change) -> String {
    let token = |token: &AccessToken| format!("{} of {:?}", token.id(), token.identity);
    match change {
        Change::PutRule(rule) => {
            let rights = rule.rights.iter().map(Right::word).collect::<Vec<_>>().join(", ");
            format!("rule {} for {}: {rights}", rule.name.grantee, rule.name.locks())
        }
        Change::RemoveRule(name) => format!("remove rule {} for {}", name.grantee, name.locks()),
        Change::PutToken(made) => format!("access token {}", token(made)),
        Change::RevokeToken(id) => format!("revoke access token {id}"),
        Change::Switch(true) => "access control on".to_owned(),
        Change::Switch(false) => "access control off".to_owned(),
        Change::Bootstrap { token: first, on } => {
            let on = if *on { ", access control on" } else { "" };
            format!("first administrator {}{on}", token(first))
        }
    }
}

fn operation(operation: &Operation) -> String {
    let some = |name: &str, value: Option<String>| {
        value.map_or_else(String::new, |value| format!(" {name} {value}"))
    };
    match operation {
        Operation::Lock(lock) => format!(
            "lock {:?}/{:?} for {:?}{}{}{}{}{}{}{}{}{}",
            lock.table,
            lock.signature,
            lock.signee,
            some("instance", lock.instance.as_ref().map(|instance| format!("{instance:?}"))),
            some("level", lock.level.map(|level| level.to_string())),
            some("duration", lock.duration_ms.map(|ms| format!("{ms} ms"))),
            some("time_to_live", lock.time_to_live.map(keep)),
            some("token", lock.token.map(|token| token.to_string())),
            if lock.force { " by force" } else { "" },
            some("mode", lock.mode.map(|mode| mode.word().to_owned())),
            some("session", lock.session.map(|session| session.to_string())),
            some("wait", Some(lock.wait_ms).filter(|ms| *ms > 0).map(|ms| format!("{ms} ms"))),
        ),
        Operation::Unlock(unlock) => format!(
            "unlock {:?}/{:?} for {:?}{}{}{}{}",
            unlock.table,
            unlock.signature,
            unlock.signee,
            some("instance", unlock.instance.as_ref().map(|instance| format!("{instance:?}"))),
            some("token", unlock.token.map(|token| token.to_string())),
            some("place", unlock.place.map(|place| place.to_string())),
            if unlock.force { " by force" } else { "" },
        ),
        Operation::OpenSession(session) => {
            format!("open a session of {:?} for {} ms", session.signee, session.ttl_ms)
        }
        Operation::KeepAlive(sessions) => format!("keep {} sessions alive", sessions.len()),
        Operation::CloseSession(session) => format!("close session {session}"),
        Operation::Leave(leave) => {
            format!("leave {:?}/{:?} at {}", leave.table, leave.signature, leave.place)
        }
        Operation::SetLimit(limit) => {
            format!("limit {:?}/{:?} to {}", limit.table, limit.signature, limit.limit)
        }
        Operation::Access(change) => access(change),
        Operation::Advance => "time passes".to_owned(),
        Operation::ConfigureTable(table) => format!(
            "configure table {:?}{}{}",
            table.table,
            some("duration", table.duration_ms.map(|ms| format!("{ms} ms"))),
            some("time_to_live", table.time_to_live.map(keep)),
        ),
        Operation::DeleteTable { table } => format!("delete table {table:?}"),
        Operation::RaiseFeatureLevel(level) => format!("raise the feature level to {level}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::{ClusterTime, Stamp};
    use crate::types::{LockOptions, LockRequest};

    #[test]
    fn an_entry_is_told_on_one_line() {
        let request = LockRequest {
            signature: "jobs/\n".to_owned(),
            signee: "me".to_owned(),
            level: Some(3),
        };
        let options = LockOptions { force: true, ..LockOptions::default() };
        let proposal = Proposal {
            stamp: Stamp { term: 2, time: ClusterTime(1_500_000) },
            commands: vec![Command::lock(request, options).unwrap(), Command::advance()],
        };
        assert_eq!(
            payload(codec::data_of(&proposal).payload()),
            "at 1.500000 s: lock \"default\"/\"jobs/\\n\" for \"me\" level 3 by force; time passes"
        );
        assert_eq!(
            payload(&codec::encode_payload(&Payload::Blank)),
            "blank, the first of a leader's term"
        );
        assert!(payload(&Bytes::from_static(b"?")).starts_with("NOT READABLE"));
    }
}
