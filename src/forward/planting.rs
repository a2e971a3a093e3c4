//! Two planted bugs that extend the protocol between nodes: a follower that sends a time, and a
//! leader that believes it. The follower sends its own clock as the cluster clock.

use std::time::Duration;

use crate::forward::wire::{self, Request};
use crate::lock::ClusterTime;
use crate::node::Node;
use crate::planted::{self, Bug};
use crate::raft::peer::{Lane, paths};
use crate::types::CallOptions;

/// The interval at which such a follower sends its time.
const EVERY: Duration = Duration::from_millis(100);

/// The prefix of a trace id that carries the follower's stamp.
const MARK: &str = "stamped:";

fn own_time(node: &Node) -> u64 {
    u64::try_from(node.member().clock.raw().as_micros()).unwrap_or(u64::MAX)
}

/// Stamps a forwarded request.
pub(super) fn stamp(node: &Node, call: &mut CallOptions) {
    if planted::active(Bug::StampForwarded) {
        call.trace_id = Some(format!("{MARK}{}", own_time(node)));
    }
}

/// Believes the stamp of a forwarded request, and the time of a follower that advances the clock.
pub(super) fn believe(node: &Node, request: &Request) {
    let stamped = super::trace_id(request).and_then(|text| text.strip_prefix(MARK)?.parse().ok());
    let time = match request {
        Request::Advance(time) if planted::active(Bug::FollowerAdvances) => {
            u64::try_from(time.as_micros()).ok()
        }
        Request::Advance(_)
        | Request::Lock(..)
        | Request::Unlock(..)
        | Request::Check(..)
        | Request::List(..)
        | Request::Tables(..)
        | Request::ConfigureTable(..)
        | Request::DeleteTable(_) => stamped,
    };
    if let Some(time) = time {
        node.member().replica.stampers.believe(ClusterTime(time));
    }
}

/// Sends the leader this follower's time.
pub(crate) async fn advance(node: &Node) {
    if !planted::active(Bug::FollowerAdvances) {
        return;
    }
    let member = node.member();
    let leader = member.metrics_ref(|metrics| metrics.current_leader);
    let Some(leader) = leader.filter(|leader| *leader != member.id) else { return };
    tokio::time::sleep(EVERY).await;
    let found = member.metrics_ref(|metrics| metrics.membership_config.get_node(&leader).cloned());
    let logged = found.as_ref().map(|node| node.peer_addr.as_str());
    let Some(addr) = member.peers.addr(leader, logged) else { return };
    let time = Duration::from_micros(own_time(node));
    let message = wire::encode_requests(vec![(Request::Advance(time), CallOptions::default())]);
    let target = (leader, found.as_ref().map(|node| node.uuid), addr);
    let call = member.peers.call(Lane::Forward, target, paths::FORWARD, message, EVERY * 10);
    if let Err(error) = call.await {
        tracing::debug!(%error, "the planted advance did not reach the leader");
    }
}
