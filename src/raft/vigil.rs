//! Notices that the leader's process has ended before the election's timer does.
//!
//! When a process ends, its connections are closed at once, and its port refuses new ones; when a
//! machine or a network fails, there is only silence. So whenever the leader's append exchange
//! ends, this asks the leader's port who is there. Refused means that nobody listens, and then the
//! node campaigns as soon as the lease that it granted has run out, instead of waiting out its
//! timer besides. Anything else, an answer or silence, is left to the timer.
//!
//! It is a hint and no more: the campaign begins with a pre-vote, which every voter refuses while
//! its own lease lasts, or while it follows a leader that is alive.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::clock::Deadline;
use crate::raft::member::{Member, Phase};
use crate::raft::peer::{CallError, Lane, paths};

/// How long the leader's port may take to refuse: a round trip, with room for a busy machine.
const PROBE_TIMEOUT: Duration = Duration::from_millis(100);

/// How often it is asked: connections that were idle in a pool fail first.
const PROBES: u32 = 4;

/// Between two probes: a process that is being killed may close one socket before the other.
const BETWEEN: Duration = Duration::from_millis(15);

/// Beyond the lease: what had come from the leader before its end is being dealt with.
const MARGIN: Duration = Duration::from_millis(10);

/// The voters campaign one after the other, so that they do not split the votes: a campaign of two
/// rounds and a sync each is over by then, unless its log is behind.
const APART: Duration = Duration::from_millis(60);

/// Watches for as long as it is polled.
pub(crate) async fn keep(member: Arc<Member>) {
    loop {
        member.exchange_ended.notified().await;
        watch_over(&member).await;
    }
}

async fn watch_over(member: &Member) {
    let (term, leader, voters) = member.metrics_ref(|metrics| {
        let voters: Vec<u64> = metrics.membership_config.voter_ids().collect();
        (metrics.current_term, metrics.current_leader, voters)
    });
    let may_campaign = matches!(member.phase(), Phase::Recovering | Phase::Ready);
    let Some(leader) = leader.filter(|leader| *leader != member.id && may_campaign) else { return };
    let before_me = voters.iter().filter(|id| **id != leader && **id < member.id).count();
    let before_me = u32::try_from(before_me).unwrap_or(u32::MAX);
    let turn = Deadline::after(
        member.timing.election_max.saturating_add(MARGIN) + APART.saturating_mul(before_me),
    );
    if !is_gone(member, leader).await {
        return;
    }
    tracing::info!(leader, "the leader's process has ended");
    tokio::time::sleep(turn.remaining()).await;
    let unchanged = member.metrics_ref(|metrics| {
        metrics.current_term == term && metrics.current_leader == Some(leader)
    });
    // A core that has stopped is noticed elsewhere.
    if unchanged && member.raft.trigger().elect(true).await.is_err() {
        tracing::debug!("there is no core left to campaign");
    }
}

/// Whether nobody listens where the leader was.
async fn is_gone(member: &Member, leader: u64) -> bool {
    let node = member.metrics_ref(|metrics| metrics.membership_config.get_node(&leader).cloned());
    let logged = node.as_ref().map(|node| node.peer_addr.as_str());
    let Some(addr) = member.peers.addr(leader, logged) else { return false };
    let target = (leader, node.as_ref().map(|node| node.uuid), addr);
    for _ in 0..PROBES {
        let path = paths::IDENTITY;
        let asked = member.peers.call(Lane::Control, target, path, Bytes::new(), PROBE_TIMEOUT);
        match asked.await {
            Err(error) if is_refused(&error) => return true,
            // What ended with the process may be told as a broken connection first.
            Err(CallError::Broken { .. } | CallError::Connect { .. }) => {}
            Ok(_)
            | Err(
                CallError::Timeout { .. }
                | CallError::Refused { .. }
                | CallError::Distrusted { .. }
                | CallError::Answer { .. }
                | CallError::Status { .. },
            ) => return false,
        }
        tokio::time::sleep(BETWEEN).await;
    }
    false
}

/// Whether the system of the other machine said that nobody listens.
pub(super) fn is_refused(error: &CallError) -> bool {
    let CallError::Connect { source, .. } = error else { return false };
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&**source);
    while let Some(error) = cause {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        if kind == Some(io::ErrorKind::ConnectionRefused) {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refused_connection_says_that_nobody_listens() {
        #[derive(Debug, thiserror::Error)]
        #[error("tcp connect error")]
        struct Outer(#[source] io::Error);
        let connect = |kind| CallError::Connect {
            addr: "a".to_owned(),
            source: Box::new(Outer(io::Error::from(kind))),
        };
        assert!(is_refused(&connect(io::ErrorKind::ConnectionRefused)));
        for kind in [io::ErrorKind::TimedOut, io::ErrorKind::HostUnreachable] {
            assert!(!is_refused(&connect(kind)));
        }
        let source = Box::new(io::Error::from(io::ErrorKind::ConnectionRefused));
        assert!(!is_refused(&CallError::Broken { addr: "a".to_owned(), source }));
    }
}
