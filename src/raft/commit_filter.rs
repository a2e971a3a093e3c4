//! Suppression of commit-only append requests to followers.
//!
//! openraft sends a follower a request with nothing but the commit index as soon as an entry is
//! committed. That costs both ends as much as entries do, and the next entries, which follow soon,
//! carry the commit index, too. So such a request is held back for a moment, and dropped if entries
//! come.

use std::time::Duration;

use futures::stream::Fuse;
use futures::{Stream, StreamExt};
use openraft::raft::AppendEntriesRequest;
use tokio::time::{Interval, MissedTickBehavior};

use crate::raft::types::{LogId, TypeConfig};

/// The time, at most doubled, for which a commit-only request is held back. A follower's own
/// answers, from its copy, are that much older; everything else is answered by the leader.
const COMMIT_HELD: Duration = Duration::from_millis(10);

/// A ticking interval. Polling it repeatedly costs less than a timeout that starts anew each time.
pub(crate) fn periods(period: Duration) -> Interval {
    let mut periods = tokio::time::interval(period);
    periods.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick would be immediate.
    periods.reset();
    periods
}

/// openraft's requests to one follower, without those that only carry the commit index when entries
/// follow soon.
///
/// openraft takes an answer as one to all requests up to the entry that it names, so a dropped
/// request needs none.
pub(crate) struct CommitFilter<S> {
    input: Fuse<S>,
    /// The last entry that was sent, or the previous log id if the request had no entries.
    sent: Option<LogId>,
    /// A held commit-only request.
    held: Option<AppendEntriesRequest<TypeConfig>>,
    /// Whether a request was already held at the last tick.
    ripe: bool,
    periods: Interval,
}

impl<S> CommitFilter<S>
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin,
{
    pub(crate) fn new(input: S) -> Self {
        let input = input.fuse();
        Self { input, sent: None, held: None, ripe: false, periods: periods(COMMIT_HELD) }
    }

    /// The next request to send now; `None` after the last.
    pub(crate) async fn next(&mut self) -> Option<AppendEntriesRequest<TypeConfig>> {
        loop {
            let request = tokio::select! {
                biased;
                next = self.input.next() => match next {
                    Some(request) if self.only_commits(&request) => {
                        self.ripe &= self.held.is_some();
                        self.held = Some(request);
                        continue;
                    }
                    Some(request) => request,
                    None => self.held.take()?,
                },
                _ = self.periods.tick(), if self.held.is_some() => {
                    if !std::mem::replace(&mut self.ripe, true) {
                        continue;
                    }
                    self.held.take()?
                }
            };
            // The request being sent carries at least the same commit index.
            self.held = None;
            let last = request.entries.last().map(|entry| entry.log_id);
            self.sent = last.or(request.prev_log_id);
            return Some(request);
        }
    }

    /// Whether the request carries nothing new but the commit index.
    fn only_commits(&self, request: &AppendEntriesRequest<TypeConfig>) -> bool {
        request.entries.is_empty() && self.sent.is_some() && self.sent == request.prev_log_id
    }
}

#[cfg(test)]
mod tests {
    use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
    use tokio::time::{sleep, timeout};

    use super::*;
    use crate::raft::types::{Entry, Payload, raft_log_id, raft_vote};
    use crate::storage;

    const TERM: u64 = 2;

    type Request = AppendEntriesRequest<TypeConfig>;

    fn log_id(index: u64) -> LogId {
        raft_log_id(storage::LogId { term: TERM, index })
    }

    /// A request with the entries after `prev` up to `last` and the commit index `committed`.
    fn request(prev: u64, last: u64, committed: u64) -> Request {
        let entry = |index| Entry { log_id: log_id(index), payload: Payload::Blank };
        AppendEntriesRequest {
            vote: raft_vote(storage::Vote { term: TERM, node: 1, committed: true }),
            prev_log_id: Some(log_id(prev)),
            leader_commit: Some(log_id(committed)),
            entries: (prev + 1..=last).map(entry).collect(),
        }
    }

    /// The last entry and the commit index of the next request that is sent.
    async fn next(commit_filter: &mut CommitFilter<UnboundedReceiver<Request>>) -> (u64, u64) {
        let request = commit_filter.next().await.expect("there is another");
        let last = request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id);
        let index = |id: Option<LogId>| id.expect("there is one").index();
        (index(last), index(request.leader_commit))
    }

    fn fed<const N: usize>(
        requests: [Request; N],
    ) -> (UnboundedSender<Request>, CommitFilter<UnboundedReceiver<Request>>) {
        let (feed, input) = unbounded();
        for request in requests {
            feed.unbounded_send(request).expect("it is read below");
        }
        (feed, CommitFilter::new(input))
    }

    #[tokio::test(start_paused = true)]
    async fn a_commit_travels_with_the_next_entries() {
        let (_feed, mut commit_filter) =
            fed([request(0, 5, 0), request(5, 5, 5), request(5, 6, 5), request(6, 7, 6)]);
        assert_eq!(next(&mut commit_filter).await, (5, 0));
        assert_eq!(next(&mut commit_filter).await, (6, 5));
        assert_eq!(next(&mut commit_filter).await, (7, 6));
        assert!(
            timeout(COMMIT_HELD * 10, commit_filter.next()).await.is_err(),
            "something was left"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_commit_that_no_entries_follow_is_told_in_time_and_the_newest_alone() {
        let (feed, mut commit_filter) = fed([request(0, 5, 0), request(5, 5, 4)]);
        assert_eq!(next(&mut commit_filter).await, (5, 0));
        // The period in which it was held only partly does not count.
        assert!(timeout(COMMIT_HELD, commit_filter.next()).await.is_err(), "it was not held");
        feed.unbounded_send(request(5, 5, 5)).expect("it is read");
        let told = timeout(COMMIT_HELD, next(&mut commit_filter)).await;
        assert_eq!(told.expect("the older has waited for long enough"), (5, 5));
        // The next one waits for its full time.
        sleep(COMMIT_HELD * 10).await;
        feed.unbounded_send(request(5, 5, 5)).expect("it is read");
        assert!(timeout(COMMIT_HELD / 2, commit_filter.next()).await.is_err(), "it was not held");
        let told = timeout(COMMIT_HELD * 2, next(&mut commit_filter)).await;
        assert_eq!(told.expect("it has waited for long enough"), (5, 5));
    }

    #[tokio::test(start_paused = true)]
    async fn what_asks_where_a_follower_is_goes_out_at_once() {
        let (_feed, mut commit_filter) =
            fed([request(5, 5, 4), request(3, 3, 4), request(3, 3, 4)]);
        let (first, second) = (next(&mut commit_filter), COMMIT_HELD / 10);
        assert_eq!(timeout(second, first).await.expect("it is the first"), (5, 4));
        let second = timeout(second, next(&mut commit_filter)).await;
        assert_eq!(second.expect("it follows another entry"), (3, 4));
        assert!(timeout(COMMIT_HELD / 2, commit_filter.next()).await.is_err(), "nothing new in it");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_held_at_the_end_is_sent() {
        let (feed, mut commit_filter) = fed([request(0, 5, 0), request(5, 5, 5)]);
        drop(feed);
        assert_eq!(next(&mut commit_filter).await, (5, 0));
        assert_eq!(next(&mut commit_filter).await, (5, 5));
        assert!(commit_filter.next().await.is_none());
        assert!(commit_filter.next().await.is_none());
    }
}
