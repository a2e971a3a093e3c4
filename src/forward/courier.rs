//! Carries requests to the leader: all that wait travel in one message.
//!
//! A few messages are under way at once; while they are, the next requests gather, and the busier
//! the node is, the more of them share a message. What one caller asks in one go, a batch, is never
//! taken apart, so that the leader decides it in its order. The requests of different callers have
//! no order among each other.
//!
//! Nothing is sent twice, and nothing whose caller has given up or whose time is up: that is
//! certainly not done. What went out with a message that has no answer may have been done, unless
//! it could not have left; reads have done nothing in any case.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::wire::{self, Answer, Request};
use crate::clock::Deadline;
use crate::error::Error;
use crate::node::Node;
use crate::planted::{self, Bug};
use crate::raft::peer::{CallError, Lane, paths};
use crate::storage::Uuid;
use crate::task::of_host;
use crate::types::CallOptions;

/// So many requests may be on their way to the leader at once; more are refused as `Unavailable`.
const MAX_FORWARDED: usize = 4096;

/// So many requests share a message at most, unless one caller asks for more in one go: as many as
/// share a log entry on the other side.
const MAX_TOGETHER: usize = 256;

/// So many messages are under way at once: one is being answered while the next is on its way.
const IN_FLIGHT: usize = 2;

/// Where the leader is.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Leader {
    pub(super) id: u64,
    pub(super) uuid: Option<Uuid>,
    pub(super) addr: String,
}

/// Carries requests; clones are handles to the same courier.
#[derive(Clone)]
pub(super) struct Courier {
    node: Node,
    admission: Arc<Semaphore>,
    desks: Arc<Mutex<BTreeMap<u64, Desk>>>,
}

/// What waits for one leader, and how much is on its way. Each has its own: what a dead leader
/// does not answer must not hold up what the next one could.
#[derive(Default)]
struct Desk {
    waiting: VecDeque<Parcel>,
    under_way: usize,
}

/// What one caller asks in one go.
struct Parcel {
    leader: Leader,
    items: Vec<(Request, CallOptions)>,
    deadline: Deadline,
    receipt: Receipt,
}

/// Who waits for a parcel's answers.
struct Receipt {
    answer: oneshot::Sender<Answers>,
    /// Given back when the parcel is answered or thrown away, not when its caller gives up.
    _admitted: OwnedSemaphorePermit,
}

type Answers = Vec<Result<Answer, Error>>;

impl Courier {
    pub(super) fn new(node: Node) -> Self {
        let admission = Arc::new(Semaphore::new(MAX_FORWARDED));
        Self { node, admission, desks: Arc::default() }
    }

    /// Asks the leader all of it, in this order; one answer for each request.
    pub(super) async fn ask(
        &self,
        leader: Leader,
        items: Vec<(Request, CallOptions)>,
        deadline: Deadline,
    ) -> Answers {
        let reads = which_read(&items);
        // More than can be counted is more than is admitted.
        let count = u32::try_from(items.len()).unwrap_or(u32::MAX);
        let Ok(admitted) = Arc::clone(&self.admission).try_acquire_many_owned(count) else {
            let full = Error::unavailable("too many requests are on their way to the leader");
            return vec![Err(full); items.len()];
        };
        let (answer, answered) = oneshot::channel();
        let receipt = Receipt { answer, _admitted: admitted };
        self.hand_in(Parcel { leader, items, deadline, receipt });
        match deadline.bound(answered).await {
            Some(Ok(answers)) => answers,
            Some(Err(_)) => open(&reads, "the node stopped before the leader's answer came"),
            None => open(&reads, "the leader did not answer in time"),
        }
    }

    fn hand_in(&self, parcel: Parcel) {
        let leader = parcel.leader.id;
        let mut desks = self.desks();
        let desk = desks.entry(leader).or_default();
        desk.waiting.push_back(parcel);
        if desk.under_way < IN_FLIGHT {
            desk.under_way += 1;
            drop(desks);
            // Detached: it ends when nothing waits any more, and each message within the time of
            // those who asked.
            tokio::spawn(of_host(self.clone().run(leader)));
        }
    }

    /// Sends messages until nothing waits.
    async fn run(self, leader: u64) {
        loop {
            // Of several requests that came at the same moment the first has started this; the
            // others are handed in now.
            tokio::task::yield_now().await;
            let parcels = {
                let mut desks = self.desks();
                let desk = desks.entry(leader).or_default();
                let parcels = desk.gather();
                if parcels.is_empty() {
                    desk.under_way -= 1;
                    return;
                }
                parcels
            };
            self.deliver(parcels).await;
        }
    }

    /// Sends one message and hands out its answers.
    async fn deliver(&self, parcels: Vec<Parcel>) {
        let leader = parcels[0].leader.clone();
        let mut receipts = Vec::with_capacity(parcels.len());
        let mut items = Vec::new();
        let mut timeout = Duration::ZERO;
        for parcel in parcels {
            let remaining = parcel.deadline.remaining();
            timeout = timeout.max(remaining);
            receipts.push((parcel.items.len(), parcel.receipt));
            let left =
                |(request, call)| (request, CallOptions { timeout: Some(remaining), ..call });
            items.extend(parcel.items.into_iter().map(left));
        }
        let mut answers = self.exchange(&leader, items, timeout).await.into_iter();
        for (count, receipt) in receipts {
            // A caller that has given up is told nothing.
            let _ = receipt.answer.send(answers.by_ref().take(count).collect());
        }
    }

    #[cfg_attr(not(feature = "planted-bugs"), allow(unused_mut, reason = "only a bug changes it"))]
    async fn exchange(
        &self,
        leader: &Leader,
        mut items: Vec<(Request, CallOptions)>,
        timeout: Duration,
    ) -> Answers {
        #[cfg(feature = "planted-bugs")]
        for (_, call) in &mut items {
            super::planting::stamp(&self.node, call);
        }
        let reads = which_read(&items);
        let message = wire::encode_requests(items);
        let target = (leader.id, leader.uuid, leader.addr.as_str());
        let peers = &self.node.member().peers;
        let answer = peers.call(Lane::Forward, target, paths::FORWARD, message, timeout).await;
        match answer {
            Ok(bytes) => match wire::decode_answers(&bytes) {
                Ok(answers) if answers.len() == reads.len() => answers,
                Ok(_) => open(&reads, "the leader answered another number of questions"),
                Err(error) => open(&reads, &error.to_string()),
            },
            Err(error @ (CallError::Connect { .. } | CallError::Refused { .. })) => {
                // What cannot be reached may be gone.
                self.node.member().vigil.look();
                vec![Err(Error::unavailable(error.to_string())); reads.len()]
            }
            Err(
                error @ (CallError::Broken { .. }
                | CallError::Timeout { .. }
                | CallError::Distrusted { .. }
                | CallError::Answer { .. }
                | CallError::Status { .. }),
            ) => open(&reads, &error.to_string()),
        }
    }

    fn desks(&self) -> MutexGuard<'_, BTreeMap<u64, Desk>> {
        // Each change under the lock is whole, so what a panicking thread left is too.
        self.desks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Desk {
    /// Takes what goes into the next message, in the order it was handed in.
    fn gather(&mut self) -> Vec<Parcel> {
        let mut parcels: Vec<Parcel> = Vec::new();
        let mut count = 0;
        while let Some(next) = self.waiting.front() {
            let fits = parcels.first().is_none_or(|first| {
                first.leader == next.leader && count + next.items.len() <= MAX_TOGETHER
            });
            if !fits {
                break;
            }
            let parcel = self.waiting.pop_front().expect("it was just looked at");
            if parcel.receipt.answer.is_closed() {
                continue;
            }
            if parcel.deadline.remaining().is_zero() {
                parcel.too_late();
                continue;
            }
            count += parcel.items.len();
            parcels.push(parcel);
        }
        parcels
    }
}

impl Parcel {
    fn too_late(self) {
        let late = Error::unavailable("the time was up before the request was sent on");
        // A caller that has given up is told nothing.
        let _ = self.receipt.answer.send(vec![Err(late); self.items.len()]);
    }
}

fn which_read(items: &[(Request, CallOptions)]) -> Vec<bool> {
    items.iter().map(|(request, _)| request.is_read()).collect()
}

/// What is known of requests that may have arrived and have no answer.
fn open(reads: &[bool], reason: &str) -> Answers {
    let outcome = |is_read: &bool| {
        let not_done = *is_read || planted::active(Bug::CutOffIsUnavailable);
        Err(if not_done { Error::unavailable(reason) } else { Error::unknown(reason) })
    };
    reads.iter().map(outcome).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ReadOptions;

    fn parcel(leader: u64, name: &str, count: usize) -> (Parcel, oneshot::Receiver<Answers>) {
        let (answer, answered) = oneshot::channel();
        let admitted = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let read = || Request::Check(name.to_owned(), ReadOptions::default());
        let parcel = Parcel {
            leader: Leader { id: 1, uuid: Some(Uuid(leader.into())), addr: "a:1".to_owned() },
            items: (0..count).map(|_| (read(), CallOptions::default())).collect(),
            deadline: Deadline::after(Duration::from_secs(60)),
            receipt: Receipt { answer, _admitted: admitted },
        };
        (parcel, answered)
    }

    fn names(parcels: &[Parcel]) -> Vec<&str> {
        let mut names = Vec::new();
        for parcel in parcels {
            let Request::Check(name, _) = &parcel.items[0].0 else { panic!("not a check") };
            names.push(name.as_str());
        }
        names
    }

    #[tokio::test]
    async fn a_message_takes_what_fits_in_order_and_no_parcel_apart() {
        let sizes = [("a", 1), ("b", 254), ("c", 2), ("d", 1), ("e", 1000), ("f", 1)];
        let (parcels, answered): (VecDeque<_>, Vec<_>) =
            sizes.into_iter().map(|(name, count)| parcel(1, name, count)).unzip();
        let mut desk = Desk { waiting: parcels, under_way: 0 };
        for expected in [&["a", "b"][..], &["c", "d"], &["e"], &["f"], &[]] {
            assert_eq!(names(&desk.gather()), expected);
        }
        drop(answered);
    }

    #[tokio::test]
    async fn a_leader_that_came_back_with_another_folder_gets_a_message_of_its_own() {
        let (parcels, answered): (VecDeque<_>, Vec<_>) =
            [parcel(1, "a", 1), parcel(2, "b", 1), parcel(2, "c", 1)].into_iter().unzip();
        let mut desk = Desk { waiting: parcels, under_way: 0 };
        assert_eq!(names(&desk.gather()), ["a"]);
        assert_eq!(names(&desk.gather()), ["b", "c"]);
        drop(answered);
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_waits_for_or_is_too_late_is_not_sent() {
        let (given_up, _) = parcel(1, "given up", 1);
        let (mut late, told) = parcel(1, "late", 2);
        late.deadline = Deadline::after(Duration::from_secs(1));
        let (sent, _waiting) = parcel(1, "sent", 1);
        let mut desk = Desk { waiting: [given_up, late, sent].into(), under_way: 0 };
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(names(&desk.gather()), ["sent"]);
        let told = told.await.unwrap();
        assert_eq!(told.len(), 2);
        for answer in told {
            assert!(matches!(answer, Err(Error::Unavailable { .. })), "{answer:?}");
        }
    }

    #[test]
    fn without_an_answer_a_write_is_unknown_and_a_read_is_not_done() {
        let answers = open(&[false, true], "cut off");
        assert_eq!(answers, [Err(Error::unknown("cut off")), Err(Error::unavailable("cut off"))]);
    }
}
