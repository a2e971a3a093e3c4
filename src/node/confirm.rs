//! Confirms with the voters that this node still leads, before a read.
//!
//! A leader may have been deposed without knowing it. So it asks every voter for the vote it holds,
//! and considers itself the leader when a majority, itself included, has answered with the vote by
//! which it was elected. A voter holds a later vote, at least in memory, before it reports to
//! anyone that it has granted one. A majority that held this leader's vote *after the request was
//! sent* had therefore elected no other leader by then: everything acknowledged before the request
//! is in this leader's log, and in its state once its own first entry of the term is applied.
//!
//! An answer counts only for the round of its request, however late it arrives. openraft's own
//! confirmation is not used: it dates a follower's acknowledgement of entries by the time at which
//! a later request was made for that follower, so that an old acknowledgement can confirm a new
//! read; see decision 0013.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};

use crate::raft::codec::{self, Confirmed};
use crate::raft::member::Member;
use crate::raft::peer::{Channel, paths};
use crate::raft::types::{MemberNode, StoredMembership, Vote};

/// The pause before a request is repeated to a voter that gave no useful answer: a fraction of the
/// timeout of a round.
const PAUSE: Duration = Duration::from_millis(25);

/// A leader's claim to lead, and the members that have to agree.
pub(super) struct Claim {
    /// The leader's id.
    pub(super) leader: u64,
    /// The vote by which it was elected.
    pub(super) vote: Vote,
    /// The vote that it holds itself now.
    pub(super) own: Option<Vote>,
    /// The members, including which of them are voters.
    pub(super) membership: Arc<StoredMembership>,
}

/// A request to one voter.
pub(super) struct Question {
    pub(super) voter: u64,
    node: MemberNode,
    pub(super) round: u64,
    /// The pause before it is sent.
    pause: Duration,
}

/// Sends a request; resolves with `None` if there is no answer.
pub(super) type Ask = Box<dyn Fn(Question) -> BoxFuture<'static, Option<Confirmed>> + Send>;

/// Sends requests over the connections to the members.
pub(super) fn by_peers(member: Arc<Member>) -> Ask {
    Box::new(move |question| ask(member.clone(), question).boxed())
}

async fn ask(member: Arc<Member>, question: Question) -> Option<Confirmed> {
    let Question { voter, node, round, pause } = question;
    if !pause.is_zero() {
        tokio::time::sleep(pause).await;
    }
    let addr = member.peers.addr(voter, Some(&node.peer_addr)).unwrap_or_default();
    let (target, message) = ((voter, Some(node.uuid), addr), codec::encode_confirm(round));
    let timeout = member.timing.election_min;
    let answer =
        member.peers.call(Channel::Control, target, paths::CONFIRM, message, timeout).await;
    let answer = answer.map_err(|error| tracing::debug!(voter, %error, "no confirmation")).ok()?;
    codec::decode_confirmed(&answer)
        .map_err(|error| tracing::warn!(voter, %error, "a confirmation does not decode"))
        .ok()
}

/// The outcome of a round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// A majority holds the leader's vote.
    Leads,
    /// A voter holds a later one.
    Deposed,
}

/// Runs one round after another; at most one request to each voter is in flight.
pub(super) struct Confirmer {
    ask: Ask,
    round: u64,
    /// The requests in flight, each with the voter it was sent to.
    questions: FuturesUnordered<BoxFuture<'static, (u64, Option<Confirmed>)>>,
    in_flight: BTreeSet<u64>,
}

impl Confirmer {
    pub(super) fn new(ask: Ask) -> Self {
        Self { ask, round: 0, questions: FuturesUnordered::new(), in_flight: BTreeSet::new() }
    }

    /// Runs one round until it has an outcome. The caller bounds it, and may drop it.
    pub(super) async fn confirm(&mut self, claim: &Claim) -> Outcome {
        self.round += 1;
        let mut round = Round { number: self.round, vote: claim.vote, holders: BTreeSet::new() };
        let own = Confirmed { round: self.round, vote: claim.own };
        let mut outcome = round.take(claim.leader, &own, &claim.membership);
        let voters: BTreeMap<u64, &MemberNode> = voters(&claim.membership, claim.leader);
        for (voter, node) in &voters {
            self.question(*voter, node, Duration::ZERO);
        }
        loop {
            if let Some(outcome) = outcome {
                return outcome;
            }
            let Some((from, answer)) = self.answered().await else {
                // There is no other voter, and the leader's own vote has changed.
                return Outcome::Deposed;
            };
            let Some(node) = voters.get(&from) else { continue };
            outcome = answer.and_then(|answer| round.take(from, &answer, &claim.membership));
            if !round.holders.contains(&from) {
                let of_another_round = answer.is_some_and(|answer| answer.round != self.round);
                self.question(from, node, if of_another_round { Duration::ZERO } else { PAUSE });
            }
        }
    }

    /// Receives the answers that arrive between two rounds; never resolves while none is in flight.
    pub(super) async fn settle(&mut self) {
        if self.answered().await.is_none() {
            std::future::pending::<()>().await;
        }
    }

    /// Sends a request of the current round to a voter, unless one to it is in flight.
    fn question(&mut self, voter: u64, node: &MemberNode, pause: Duration) {
        if self.in_flight.insert(voter) {
            let question = Question { voter, node: node.clone(), round: self.round, pause };
            let answer = (self.ask)(question);
            self.questions.push(async move { (voter, answer.await) }.boxed());
        }
    }

    /// Waits for the next answer of any round; `None` when no request is in flight.
    async fn answered(&mut self) -> Option<(u64, Option<Confirmed>)> {
        let (voter, answer) = self.questions.next().await?;
        self.in_flight.remove(&voter);
        Some((voter, answer))
    }
}

/// The voters other than the leader.
fn voters(membership: &StoredMembership, leader: u64) -> BTreeMap<u64, &MemberNode> {
    let others = membership.voter_ids().filter(|id| *id != leader);
    others.filter_map(|id| Some((id, membership.get_node(&id)?))).collect()
}

/// A round, with the voters that have answered with the leader's vote.
struct Round {
    number: u64,
    vote: Vote,
    holders: BTreeSet<u64>,
}

impl Round {
    /// Records an answer. Returns the outcome of the round, if it is decided.
    fn take(
        &mut self,
        from: u64,
        answer: &Confirmed,
        membership: &StoredMembership,
    ) -> Option<Outcome> {
        let asked_now = answer.round == self.number;
        if answer.vote.is_some_and(|vote| vote > self.vote) {
            // This holds for answers of any round: a vote never goes back.
            return Some(Outcome::Deposed);
        }
        if asked_now && answer.vote == Some(self.vote) {
            self.holders.insert(from);
        }
        // In a joint configuration, a majority of each half is needed.
        let majority =
            |voters: &BTreeSet<u64>| 2 * voters.intersection(&self.holders).count() > voters.len();
        membership.get_joint_config().iter().all(majority).then_some(Outcome::Leads)
    }
}

#[cfg(test)]
mod tests;
