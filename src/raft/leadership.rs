//! Who leads, for whoever waits to know it.
//!
//! Requests that meet an election wait for its end, thousands of them perhaps. They all watch one
//! small value, which one task feeds: openraft's own metrics change with every entry, and each
//! look at them is a copy of all of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::metrics::RaftServerMetrics;

use crate::planted::{self, Bug};
use crate::raft::member::Member;
use crate::raft::types::TypeConfig;

/// What a request must know of the leadership.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Leadership {
    /// Who leads, unless its process is known to have ended. Of this node only once its own entry
    /// of the term is applied: before that it answers nothing.
    pub(crate) leader: Option<u64>,
}

/// Feeds `member.leadership` for as long as it is polled.
pub(crate) async fn follow(member: Arc<Member>) {
    let mut metrics = member.raft.server_metrics();
    let mut last = None;
    loop {
        let now = look(&member, &metrics.borrow_watched());
        if now.leader.is_some() && now.leader != last {
            last = now.leader;
            member.leader_changes.fetch_add(1, Ordering::Relaxed);
        }
        member.leadership.send_if_modified(|known| {
            let changed = *known != now;
            *known = now;
            changed
        });
        tokio::select! {
            biased;
            changed = metrics.changed() => if changed.is_err() {
                return;
            },
            () = member.replica.term_begun.notified() => {}
            () = member.vigil.judged() => {}
        }
    }
}

fn look(member: &Member, metrics: &RaftServerMetrics<TypeConfig>) -> Leadership {
    let leader = metrics.current_leader.filter(|leader| {
        if *leader == member.id {
            !is_beginning(member)
        } else {
            !member.vigil.finds_gone(&metrics.vote)
        }
    });
    Leadership { leader }
}

/// Whether this node has won an election, and its own entry of the term is not applied yet.
pub(crate) fn is_beginning(member: &Member) -> bool {
    member.raft.as_leader().is_ok_and(|leader| {
        !planted::active(Bug::StampBeforeBlank) && !member.replica.stampers.has_begun(leader.term())
    })
}

/// Waits until `found` finds something, looking at each change; `None`: not in time.
pub(crate) async fn wait_for<T>(
    member: &Member,
    wait: Duration,
    mut found: impl FnMut(Leadership) -> Option<T>,
) -> Option<T> {
    let mut known = member.leadership.subscribe();
    let waited = async {
        loop {
            let now = *known.borrow_and_update();
            if let Some(found) = found(now) {
                return Some(found);
            }
            known.changed().await.ok()?;
        }
    };
    tokio::time::timeout(wait, waited).await.ok().flatten()
}
