//! The current leader, for requests that wait for one.
//!
//! Requests that arrive during an election wait for its end, perhaps thousands of them. They all
//! watch one small value, which one task updates: openraft's own metrics change with every entry,
//! and each read copies all of them.

use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::metrics::RaftServerMetrics;
use tokio::sync::Notify;

use crate::raft::member::Member;
use crate::raft::types::TypeConfig;

/// The leadership as requests need it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Leadership {
    /// The leader, unless its process is known to have ended. This node is named only once its own
    /// entry of the term is applied: before that it answers nothing.
    pub(crate) leader: Option<u64>,
}

/// The known leadership, with notification of changes. Waiting tasks are woken in the order in
/// which they began to wait, so that a simulated run is the same each time.
#[derive(Default)]
pub(crate) struct Known {
    value: Mutex<Leadership>,
    changed: Notify,
}

impl Known {
    /// The leadership now.
    pub(crate) fn get(&self) -> Leadership {
        *self.lock()
    }

    fn set(&self, now: Leadership) {
        let before = std::mem::replace(&mut *self.lock(), now);
        if before != now {
            self.changed.notify_waiters();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Leadership> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Updates `member.leadership` for as long as it is polled.
pub(crate) async fn follow(member: Arc<Member>) {
    let mut metrics = member.raft.server_metrics();
    let mut last = None;
    loop {
        let now = look(&member, &metrics.borrow_watched());
        if now.leader.is_some() && now.leader != last {
            last = now.leader;
            member.leader_changes.fetch_add(1, Ordering::Relaxed);
        }
        member.leadership.set(now);
        tokio::select! {
            biased;
            changed = metrics.changed() => if changed.is_err() {
                return;
            },
            () = member.replica.term_begun.notified() => {}
            () = member.leader_watch.judged() => {}
        }
    }
}

fn look(member: &Member, metrics: &RaftServerMetrics<TypeConfig>) -> Leadership {
    let leader = metrics.current_leader.filter(|leader| {
        if *leader == member.id {
            !is_beginning(member)
        } else {
            !member.leader_watch.finds_gone(&metrics.vote)
        }
    });
    Leadership { leader }
}

/// Whether this node has won an election and its own entry of the term is not applied yet.
pub(crate) fn is_beginning(member: &Member) -> bool {
    let leader = member.raft.as_leader();
    leader.is_ok_and(|leader| !member.replica.stampers.has_begun(leader.term()))
}

/// Waits until `found` returns something, calling it at each change. Returns `None` on timeout.
pub(crate) async fn wait_for<T>(
    member: &Member,
    wait: Duration,
    mut found: impl FnMut(Leadership) -> Option<T>,
) -> Option<T> {
    let known = &member.leadership;
    let waited = async {
        loop {
            let mut changed = pin!(known.changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            if let Some(found) = found(known.get()) {
                return found;
            }
            changed.await;
        }
    };
    tokio::time::timeout(wait, waited).await.ok()
}
