//! Rounds of requests, driven answer by answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use futures::{FutureExt as _, poll};
use std::task::Poll;
use tokio::sync::oneshot;

use super::*;
use crate::raft::types::{Membership, raft_vote};
use crate::storage;

const LEADER: u64 = 1;

fn vote(term: u64, node: u64) -> Vote {
    raft_vote(storage::Vote { term, node, committed: true })
}

/// A leader of term 2 and its members, with these sets of voters.
fn claim(configs: &[&[u64]]) -> Claim {
    let configs: Vec<BTreeSet<u64>> =
        configs.iter().map(|voters| voters.iter().copied().collect()).collect();
    let ids: BTreeSet<u64> = configs.iter().flatten().copied().chain([9]).collect();
    let nodes: BTreeMap<u64, MemberNode> =
        ids.into_iter().map(|id| (id, MemberNode::default())).collect();
    let membership = Membership::new(configs, nodes).expect("each voter is a member");
    Claim {
        leader: LEADER,
        vote: vote(2, LEADER),
        own: Some(vote(2, LEADER)),
        membership: Arc::new(StoredMembership::new(None, membership)),
    }
}

type Sent = (Question, oneshot::Sender<Option<Confirmed>>);

/// The unanswered requests.
#[derive(Clone, Default)]
struct Wire(Arc<Mutex<Vec<Sent>>>);

impl Wire {
    fn confirmer(&self) -> Confirmer {
        let wire = self.clone();
        Confirmer::new(Box::new(move |question| {
            let (answer, answered) = oneshot::channel();
            wire.0.lock().unwrap().push((question, answer));
            async move { answered.await.ok().flatten() }.boxed()
        }))
    }

    /// The voters with an unanswered request, and its round.
    fn asked(&self) -> BTreeSet<(u64, u64)> {
        let sent = self.0.lock().unwrap();
        sent.iter().map(|(question, _)| (question.voter, question.round)).collect()
    }

    /// Answers the request in flight to `voter` with this vote.
    fn answer(&self, voter: u64, vote: Option<Vote>) {
        let (question, answer) = self.take(voter);
        answer.send(Some(Confirmed { round: question.round, vote })).expect("it is waited for");
    }

    fn fail(&self, voter: u64) {
        self.take(voter).1.send(None).expect("it is waited for");
    }

    fn take(&self, voter: u64) -> Sent {
        let mut sent = self.0.lock().unwrap();
        let at = sent.iter().position(|(question, _)| question.voter == voter);
        sent.remove(at.expect("it was asked"))
    }
}

#[tokio::test]
async fn a_majority_that_holds_the_leaders_vote_confirms_it() {
    let (wire, claim) = (Wire::default(), claim(&[&[1, 2, 3, 4, 5]]));
    let mut confirmer = wire.confirmer();
    let mut round = Box::pin(confirmer.confirm(&claim));
    assert!(poll!(&mut round).is_pending());
    assert_eq!(wire.asked(), [2, 3, 4, 5].map(|voter| (voter, 1)).into(), "no learner is asked");
    wire.answer(2, Some(vote(2, LEADER)));
    assert!(poll!(&mut round).is_pending(), "two of five");
    wire.answer(3, Some(vote(1, 3)));
    wire.answer(4, None);
    assert!(poll!(&mut round).is_pending(), "an earlier vote and none count for nothing");
    wire.answer(5, Some(vote(2, LEADER)));
    assert_eq!(poll!(&mut round), Poll::Ready(Outcome::Leads));
}

#[tokio::test]
async fn an_answer_to_an_earlier_question_confirms_nothing() {
    let (wire, claim) = (Wire::default(), claim(&[&[1, 2, 3]]));
    let mut confirmer = wire.confirmer();
    let mut round = Box::pin(confirmer.confirm(&claim));
    assert!(poll!(&mut round).is_pending());
    wire.answer(2, Some(vote(2, LEADER)));
    assert_eq!(poll!(&mut round), Poll::Ready(Outcome::Leads));
    drop(round);
    // A read arrives. The answer from 3 is older than the read, so another leader may have been
    // elected since.
    let mut round = Box::pin(confirmer.confirm(&claim));
    assert!(poll!(&mut round).is_pending());
    assert_eq!(wire.asked(), [(2, 2), (3, 1)].into());
    wire.answer(3, Some(vote(2, LEADER)));
    assert!(poll!(&mut round).is_pending(), "the answer is older than the question");
    assert_eq!(wire.asked(), [(2, 2), (3, 2)].into(), "it is asked again");
    wire.answer(3, Some(vote(3, 2)));
    assert_eq!(poll!(&mut round), Poll::Ready(Outcome::Deposed));
}

#[tokio::test]
async fn an_answer_that_arrives_between_two_rounds_is_forgotten() {
    let (wire, claim) = (Wire::default(), claim(&[&[1, 2, 3]]));
    let mut confirmer = wire.confirmer();
    let mut round = Box::pin(confirmer.confirm(&claim));
    assert!(poll!(&mut round).is_pending());
    wire.answer(2, Some(vote(2, LEADER)));
    assert_eq!(poll!(&mut round), Poll::Ready(Outcome::Leads));
    drop(round);
    wire.answer(3, Some(vote(2, LEADER)));
    confirmer.settle().await;
    let mut round = Box::pin(confirmer.confirm(&claim));
    assert!(poll!(&mut round).is_pending());
    assert_eq!(wire.asked(), [(2, 2), (3, 2)].into());
}

#[tokio::test]
async fn a_round_that_is_dropped_leaves_its_answers_to_no_other() {
    let (wire, claim) = (Wire::default(), claim(&[&[1, 2, 3]]));
    let mut confirmer = wire.confirmer();
    assert!(confirmer.confirm(&claim).now_or_never().is_none());
    let mut round = Box::pin(confirmer.confirm(&claim));
    assert!(poll!(&mut round).is_pending());
    assert_eq!(wire.asked(), [(2, 1), (3, 1)].into(), "one question to each at a time");
    wire.answer(2, Some(vote(2, LEADER)));
    wire.answer(3, Some(vote(2, LEADER)));
    assert!(poll!(&mut round).is_pending());
    assert_eq!(wire.asked(), [(2, 2), (3, 2)].into());
}

#[tokio::test]
async fn a_later_vote_anywhere_ends_the_round() {
    let (wire, mut claim) = (Wire::default(), claim(&[&[1, 2, 3]]));
    let mut confirmer = wire.confirmer();
    let mut round = Box::pin(confirmer.confirm(&claim));
    assert!(poll!(&mut round).is_pending());
    wire.answer(2, Some(vote(3, 2)));
    assert_eq!(poll!(&mut round), Poll::Ready(Outcome::Deposed));
    drop(round);
    claim.own = Some(vote(3, 2));
    assert_eq!(confirmer.confirm(&claim).now_or_never(), Some(Outcome::Deposed));
}

#[tokio::test]
async fn a_voter_that_fails_is_asked_again() {
    let (wire, claim) = (Wire::default(), claim(&[&[1, 2, 3]]));
    let mut confirmer = wire.confirmer();
    let mut round = Box::pin(confirmer.confirm(&claim));
    assert!(poll!(&mut round).is_pending());
    wire.fail(2);
    assert!(poll!(&mut round).is_pending());
    assert_eq!(wire.take(2).0.pause, PAUSE);
}

#[tokio::test]
async fn a_joint_configuration_needs_a_majority_of_each_half() {
    let (wire, claim) = (Wire::default(), claim(&[&[1, 2, 3], &[3, 4, 5]]));
    let mut confirmer = wire.confirmer();
    let mut round = Box::pin(confirmer.confirm(&claim));
    assert!(poll!(&mut round).is_pending());
    wire.answer(2, Some(vote(2, LEADER)));
    wire.answer(4, Some(vote(2, LEADER)));
    assert!(poll!(&mut round).is_pending(), "one of the second half");
    wire.answer(5, Some(vote(2, LEADER)));
    assert_eq!(poll!(&mut round), Poll::Ready(Outcome::Leads));
}

#[tokio::test]
async fn a_leader_alone_confirms_itself_while_it_holds_its_vote() {
    let (wire, mut claim) = (Wire::default(), claim(&[&[1]]));
    let mut confirmer = wire.confirmer();
    assert_eq!(confirmer.confirm(&claim).now_or_never(), Some(Outcome::Leads));
    claim.own = None;
    assert_eq!(confirmer.confirm(&claim).now_or_never(), Some(Outcome::Deposed));
    assert!(wire.asked().is_empty());
}

#[tokio::test]
async fn a_leader_that_votes_no_more_is_no_part_of_the_majority() {
    let (wire, claim) = (Wire::default(), claim(&[&[2, 3]]));
    let mut confirmer = wire.confirmer();
    let mut round = Box::pin(confirmer.confirm(&claim));
    assert!(poll!(&mut round).is_pending());
    wire.answer(2, Some(vote(2, LEADER)));
    assert!(poll!(&mut round).is_pending(), "one of two voters");
    wire.answer(3, Some(vote(2, LEADER)));
    assert_eq!(poll!(&mut round), Poll::Ready(Outcome::Leads));
}
