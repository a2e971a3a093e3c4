//! The status and the figures of a node.

use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::ServerState;
use openraft::{Instant, RaftMetrics};

use crate::api::{
    ClusterStatus, HistogramFigures, MemberStatus, NodeFigures, NodeRole, PeerFigures,
};
use crate::limits::{MAX_PLACES, MAX_SESSIONS};
use crate::lock::{End, Ends, Held};
use crate::raft::compaction;
use crate::raft::member::{Member, Phase};
use crate::raft::types::{LogId, TypeConfig};
use crate::storage::log::SYNC_BOUNDS;

/// The number of leases without contact after which a node counts as out of contact: a busy machine
/// may lose one lease, and within two another leader is found.
const MISSED_LEASES: u32 = 2;

/// The state of the cluster as the node knows it.
pub(super) fn cluster_status(member: &Member) -> ClusterStatus {
    let facts = member.identity.facts();
    let metrics = member.metrics();
    let index = |log_id: &Option<LogId>| log_id.as_ref().map(LogId::index);
    ClusterStatus {
        cluster_id: facts.cluster.map(|cluster| cluster.to_string()),
        id: member.id,
        uuid: facts.uuid.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        supported_level: member.peers.own().level,
        feature_level: member.replica.figures().feature_level,
        role: role(&metrics),
        not_ready: not_ready(member),
        leader: metrics.current_leader,
        leader_address: metrics.current_leader.and_then(|leader| client_addr(member, leader)),
        term: metrics.current_term,
        vote: Some(metrics.vote.leader_id.voted_for).filter(|_| metrics.current_term > 0),
        last_log_index: metrics.last_log_index,
        committed_index: index(&metrics.local_committed),
        applied_index: index(&metrics.last_applied),
        snapshot_index: index(&metrics.snapshot),
        purged_index: index(&metrics.purged),
        members: members(member, &metrics),
        differences: member.peers.differences(),
    }
}

/// The reason why the node cannot serve requests now.
pub(super) fn not_ready(member: &Member) -> Option<String> {
    if let Some(reason) = member.stop.reason() {
        return Some(reason);
    }
    match member.phase() {
        Phase::Forming(waiting) => Some(format!("waiting for {waiting}")),
        Phase::Recovering => Some("waiting for a leader, to catch up with it".to_owned()),
        Phase::Stopping => Some("shutting down".to_owned()),
        Phase::Ready => out_of_contact(member),
    }
}

/// The reason why the node has no contact with a majority, if it has none. The leader has the
/// acknowledgements of a majority itself; a follower learns from the leader how old they are.
fn out_of_contact(member: &Member) -> Option<String> {
    let Some(leader) = member.metrics_ref(|metrics| metrics.current_leader) else {
        return Some("no leader is known".to_owned());
    };
    let silence = majority_silence(member);
    let most = member.timing.election_max.saturating_mul(MISSED_LEASES);
    if silence.is_some_and(|silence| silence <= most) {
        return None;
    }
    Some(if leader == member.id {
        "this node leads but has lost touch with the majority".to_owned()
    } else if member.leader_watch.silence().is_some_and(|silence| silence <= most) {
        format!("the leader, node {leader}, has lost touch with the majority")
    } else {
        format!("nothing is heard from the leader, node {leader}, or from a new one")
    })
}

/// The time since a majority last acknowledged the leader, as far as the node knows.
pub(super) fn majority_silence(member: &Member) -> Option<Duration> {
    match member.raft.as_leader() {
        // A leader that is the majority by itself needs no acknowledgement.
        Ok(_) if is_alone(member) => Some(Duration::ZERO),
        Ok(leader) => leader.last_quorum_acked().map(|acked| acked.elapsed()),
        Err(_) => member.leader_watch.majority_silence(),
    }
}

fn is_alone(member: &Member) -> bool {
    member.metrics_ref(|metrics| metrics.membership_config.voter_ids().count() == 1)
}

/// Figures for `/metrics`.
pub(super) fn figures(member: &Member) -> NodeFigures {
    let counts = member.replica.figures().counts;
    let ends = member.replica.ends();
    let syncs = member.log.sync_stats();
    let metrics = member.metrics();
    let index = |log_id: &Option<LogId>| log_id.as_ref().map(LogId::index);
    NodeFigures {
        locks_held: counts.unexpired,
        records: counts.records,
        expiries: counts.expiries,
        removals: counts.removals,
        held_seconds: held_seconds(&ends),
        locks_lost: locks_lost(&ends),
        places: counts.waiting,
        places_max: MAX_PLACES,
        sessions: counts.sessions,
        sessions_max: MAX_SESSIONS,
        wait_seconds: wait_seconds(&ends),
        sessions_ended: sessions_ended(&ends),
        lanes: counts.lanes,
        lanes_evicted_young: counts.lanes_evicted_young,
        term: metrics.current_term,
        leader: metrics.current_leader,
        is_leader: metrics.state == ServerState::Leader,
        committed_index: index(&metrics.local_committed),
        applied_index: index(&metrics.last_applied),
        log_bytes: compaction::log_bytes(member),
        snapshot_postponed: member.replica.compaction.is_postponed(),
        ready: not_ready(member).is_none(),
        majority_silence_seconds: majority_silence(member).map(|silence| silence.as_secs_f64()),
        leader_changes: member.leader_changes.load(Ordering::Relaxed),
        peers: peers(member, &metrics),
        // Left out if the system cannot report it.
        data_free_bytes: member.snapshots.free_bytes().ok().flatten(),
        forwarded: 0,
        fsync_seconds: Some(HistogramFigures {
            buckets: SYNC_BOUNDS.iter().map(Duration::as_secs_f64).zip(syncs.within).collect(),
            sum: syncs.total.as_secs_f64(),
            count: syncs.count,
        }),
    }
}

fn held_seconds(ends: &Ends) -> Vec<(&'static str, HistogramFigures)> {
    ends.by_end().map(|(end, held)| (end.word(), times(held))).collect()
}

fn wait_seconds(ends: &Ends) -> Vec<(&'static str, HistogramFigures)> {
    ends.by_wait_end().map(|(end, waited)| (end.word(), times(waited))).collect()
}

fn times(held: &Held) -> HistogramFigures {
    HistogramFigures {
        buckets: held.at_most().map(|(bound, count)| (bound.as_secs_f64(), count)).collect(),
        sum: held.seconds(),
        count: held.count(),
    }
}

fn sessions_ended(ends: &Ends) -> Vec<(&'static str, u64)> {
    let (closed, expired) = ends.sessions();
    vec![("closed", closed), ("expired", expired)]
}

fn locks_lost(ends: &Ends) -> Vec<(&'static str, u64)> {
    let lost = ends.by_end().filter(|(end, _)| *end != End::Released);
    let lost = lost.map(|(end, held)| (end.word(), held.count()));
    lost.chain([("table_deleted", ends.deleted())]).collect()
}

/// The other members, if this node leads.
fn peers(member: &Member, metrics: &RaftMetrics<TypeConfig>) -> Vec<PeerFigures> {
    if metrics.state != ServerState::Leader {
        return Vec::new();
    }
    let others = members(member, metrics).into_iter().filter(|peer| peer.id != member.id);
    others
        .map(|peer| PeerFigures {
            id: peer.id,
            lag: peer.lag,
            silence_seconds: peer
                .last_acknowledged_ms
                .map(|ms| Duration::from_millis(ms).as_secs_f64()),
        })
        .collect()
}

fn role(metrics: &RaftMetrics<TypeConfig>) -> NodeRole {
    match metrics.state {
        ServerState::Leader => NodeRole::Leader,
        ServerState::Follower => NodeRole::Follower,
        ServerState::Candidate => NodeRole::Candidate,
        ServerState::Learner => NodeRole::Learner,
        ServerState::Shutdown => NodeRole::Stopped,
    }
}

fn client_addr(member: &Member, id: u64) -> Option<String> {
    let logged = || {
        member.metrics_ref(|metrics| {
            metrics.membership_config.get_node(&id).and_then(|node| node.client_addr.clone())
        })
    };
    member.peers.client_addr(id).or_else(logged)
}

/// The members in the log; before there are any, those of the configuration.
fn members(member: &Member, metrics: &RaftMetrics<TypeConfig>) -> Vec<MemberStatus> {
    let membership = metrics.membership_config.membership();
    if membership.nodes().next().is_none() {
        return member.addrs.iter().map(|(id, addr)| configured(member, *id, addr)).collect();
    }
    let voters: Vec<u64> = membership.voter_ids().collect();
    membership
        .nodes()
        .map(|(id, node)| {
            let matched = matched(member, metrics, *id);
            let lag =
                matched.and_then(|matched| Some(metrics.last_log_index?.saturating_sub(matched)));
            MemberStatus {
                id: *id,
                uuid: Some(node.uuid.to_string()),
                peer_address: member
                    .peers
                    .addr(*id, Some(&node.peer_addr))
                    .unwrap_or_default()
                    .to_owned(),
                client_address: client_addr(member, *id),
                voter: voters.contains(id),
                matched_index: matched,
                lag,
                last_acknowledged_ms: last_acknowledged(metrics, *id),
            }
        })
        .collect()
}

fn configured(member: &Member, id: u64, addr: &str) -> MemberStatus {
    MemberStatus {
        id,
        uuid: None,
        peer_address: addr.to_owned(),
        client_address: member.peers.client_addr(id),
        voter: true,
        matched_index: None,
        lag: None,
        last_acknowledged_ms: None,
    }
}

/// The last entry a member is known to have; the leader has its own log.
fn matched(member: &Member, metrics: &RaftMetrics<TypeConfig>, id: u64) -> Option<u64> {
    let replication = metrics.replication.as_ref()?;
    if id == member.id {
        return metrics.last_log_index;
    }
    replication.get(&id)?.as_ref().map(LogId::index)
}

fn last_acknowledged(metrics: &RaftMetrics<TypeConfig>, id: u64) -> Option<u64> {
    let acked = metrics.heartbeat.as_ref()?.get(&id)?.as_ref()?;
    let ago: Duration = acked.elapsed();
    u64::try_from(ago.as_millis()).ok()
}
