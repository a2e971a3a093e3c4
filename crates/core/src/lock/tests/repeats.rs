//! Request lanes.

use std::time::Duration;

use super::{Machine, by, grant, holder, principal, release, with_id};
use crate::lock::lanes::{MAX_LANES, UNUSED_LIMIT};
use crate::lock::{
    ClusterTime, Command, Keep, LockCommand, Outcome, Proposal, Refusal, Stamp, State, TableCommand,
};
use crate::types::{
    Forbidden, ForbiddenReason, Grant, LockStatus, RequestId, Token, TransferReason, UnlockStatus,
};

const LANE: u128 = 7;

fn is_bad_request(outcome: &Outcome, text: &str) -> bool {
    matches!(outcome, Outcome::Refused(Refusal::BadRequest(reason)) if reason.contains(text))
}

#[test]
fn a_repeated_grant_has_the_same_token_what_is_left_of_it_and_the_same_position() {
    let mut machine = Machine::default();
    let first = machine.decide(with_id(by("ann"), LANE, 1));
    machine.now_ms += 300;
    let again = machine.decide(with_id(by("ann"), LANE, 1));
    assert_eq!(first.outcome, Outcome::Lock(LockStatus::Ok(grant(1, 0, 1000))));
    assert_eq!(again.outcome, Outcome::Lock(LockStatus::Ok(grant(1, 0, 700))));
    assert_eq!(again.decided_at, first.decided_at);
    assert_eq!(machine.holder().unwrap().expires_in, Duration::from_millis(700), "not renewed");
}

#[test]
fn a_repeated_grant_that_has_ended_is_not_live() {
    let ended = |removed_in| {
        Outcome::Lock(LockStatus::Ok(Grant {
            expires_in: Duration::ZERO,
            removed_in,
            live: false,
            ..grant(1, 0, 0)
        }))
    };
    let gone = || ended(Some(Duration::ZERO));
    let mut machine = Machine::default();
    machine.decide(with_id(by("ann"), LANE, 1));
    let after = |end: &dyn Fn(&mut Machine)| {
        let mut machine = Machine { state: machine.state.clone(), ..Machine::default() };
        end(&mut machine);
        machine.decide(with_id(by("ann"), LANE, 1)).outcome
    };
    assert_eq!(after(&|machine| machine.pass(1000)), ended(None));
    assert_eq!(after(&|machine| drop(machine.unlock(release("ann")))), gone());
    let forced = LockCommand { force: true, ..by("bob") };
    assert_eq!(after(&|machine| drop(machine.lock(forced.clone()))), gone());
    let own_again = |machine: &mut Machine| {
        machine.unlock(release("ann"));
        machine.lock(by("ann"));
    };
    assert_eq!(after(&own_again), gone());
    // Renewed since: the grant is live, with the renewal's deadline and the level of the first
    // answer.
    let renewed = LockCommand { duration_ms: Some(5000), level: Some(3), ..by("ann") };
    let renew = |machine: &mut Machine| drop(machine.lock(renewed.clone()));
    assert_eq!(after(&renew), Outcome::Lock(LockStatus::Ok(grant(1, 0, 5000))));
}

#[test]
fn a_repeated_takeover_names_the_former_owner() {
    let mut machine = Machine::default();
    machine.lock(by("ann"));
    let take = LockCommand { force: true, ..by("bob") };
    let first = machine.decide(with_id(take.clone(), LANE, 1)).outcome;
    let expected = LockStatus::Transferred {
        grant: grant(2, 0, 1000),
        previous_signee: "ann".to_owned(),
        reason: TransferReason::Forced,
    };
    assert_eq!(first, Outcome::Lock(expected));
    assert_eq!(machine.decide(with_id(take, LANE, 1)).outcome, first);
}

#[test]
fn a_repeated_unlock_is_answered_the_same_and_frees_nothing_newer() {
    let mut machine = Machine::default();
    machine.lock(by("ann"));
    let first = machine.decide(with_id(release("ann"), LANE, 1));
    assert_eq!(first.outcome, Outcome::Unlock(UnlockStatus::Ok));
    machine.decide(with_id(by("ann"), LANE + 1, 1));
    assert_eq!(machine.decide(with_id(release("ann"), LANE, 1)), first);
    assert_eq!(machine.holder().unwrap().token, Token(2));
    // The newer grant's own answer is also the same after an unlock by another lane.
    machine.decide(with_id(release("ann"), LANE, 2));
    let again = machine.decide(with_id(by("ann"), LANE + 1, 1)).outcome;
    assert!(matches!(again, Outcome::Lock(LockStatus::Ok(Grant { live: false, .. }))));
    assert_eq!(machine.holder(), None);
}

#[test]
fn a_repeated_refusal_stays_one_and_names_who_holds_the_lock_now() {
    let mut machine = Machine::default();
    machine.lock(by("ann"));
    let first = machine.decide(with_id(by("bob"), LANE, 1));
    let refused =
        |holders| Outcome::Lock(LockStatus::Failed(Forbidden::new(ForbiddenReason::Held, holders)));
    assert_eq!(first.outcome, refused(vec![holder("ann", 1, 0, 1000)]));
    machine.unlock(release("ann"));
    let again = machine.decide(with_id(by("bob"), LANE, 1));
    assert_eq!(again.outcome, refused(Vec::new()));
    assert_eq!(again.decided_at, first.decided_at);
    assert_eq!(machine.holder(), None, "a copy that was held back takes nothing");
    let next = machine.decide(with_id(by("bob"), LANE, 2)).outcome;
    assert_eq!(next, Outcome::Lock(LockStatus::Ok(grant(2, 0, 1000))));
}

#[test]
fn another_body_or_an_older_number_is_a_bad_request_and_changes_nothing() {
    let mut machine = Machine::default();
    machine.decide(with_id(release("x"), LANE, 1));
    machine.decide(with_id(by("ann"), LANE, 5));
    let before = machine.state.encode();
    let other = LockCommand { duration_ms: Some(1001), ..by("ann") };
    assert!(is_bad_request(&machine.decide(with_id(other, LANE, 5)).outcome, "another request"));
    let other_kind = machine.decide(with_id(release("ann"), LANE, 5)).outcome;
    assert!(is_bad_request(&other_kind, "another request"));
    assert!(is_bad_request(&machine.decide(with_id(release("ann"), LANE, 4)).outcome, "stale"));
    assert_eq!(machine.state.encode(), before);
}

#[test]
fn a_refused_request_guards_its_number_too() {
    let mut machine = Machine::default();
    machine.lock(by("ann"));
    machine.decide(with_id(release("x"), LANE, 1));
    machine.decide(with_id(by("bob"), LANE, 5));
    let late = LockCommand { force: true, ..by("bob") };
    assert!(is_bad_request(&machine.decide(with_id(late, LANE, 4)).outcome, "stale"));
}

#[test]
fn who_asks_and_why_is_no_part_of_the_body() {
    let mut machine = Machine::default();
    let first = machine.decide(with_id(by("ann"), LANE, 1));
    let mut again = with_id(by("ann"), LANE, 1);
    again.principal = Some(principal("someone"));
    again.cause = Some("because".into());
    assert_eq!(machine.decide(again), first);
}

#[test]
fn a_request_that_is_wrong_by_itself_leaves_no_trace_in_its_lane() {
    let mut machine = Machine::default();
    let wrong = LockCommand { signature: "\0".into(), ..by("ann") };
    let outcome = machine.decide(with_id(wrong, LANE, 1)).outcome;
    assert!(is_bad_request(&outcome, "NUL"));
    assert_eq!(machine.state.counts().lanes, 0);
}

#[test]
fn a_bad_request_that_depends_on_the_table_is_remembered_as_one() {
    let mut machine = Machine::default();
    let default = |duration_ms| TableCommand {
        table: "default".into(),
        duration_ms: Some(duration_ms),
        time_to_live: None,
        ..TableCommand::default()
    };
    machine.outcome(default(1000));
    let short = LockCommand { duration_ms: None, time_to_live: Some(Keep::Ms(500)), ..by("ann") };
    let first = machine.decide(with_id(short.clone(), LANE, 1));
    assert!(is_bad_request(&first.outcome, "500 ms; it must not be shorter than the duration"));
    machine.outcome(default(100));
    machine.state = State::decode(&machine.state.encode()).unwrap();
    assert_eq!(machine.decide(with_id(short.clone(), LANE, 1)), first);
    assert_eq!(machine.holder(), None, "a copy that was held back takes nothing");
    let next = machine.decide(with_id(short, LANE, 2)).outcome;
    assert!(matches!(next, Outcome::Lock(LockStatus::Ok(_))), "{next:?}");
}

#[test]
fn a_number_above_one_on_a_lane_that_is_not_known_is_refused_and_changes_nothing() {
    let mut machine = Machine::default();
    machine.lock(by("ann"));
    let before = machine.state.encode();
    let forgotten = |seq| Outcome::Refused(Refusal::LaneForgotten(RequestId { lane: LANE, seq }));
    for seq in [2, 3, u64::MAX] {
        assert_eq!(machine.decide(with_id(release("ann"), LANE, seq)).outcome, forgotten(seq));
    }
    assert_eq!(machine.state.encode(), before);
    let first = machine.decide(with_id(release("ann"), LANE, 1)).outcome;
    assert_eq!(first, Outcome::Unlock(UnlockStatus::Ok));
}

#[test]
fn a_retry_on_a_lane_that_was_pushed_out_releases_no_later_grant() {
    let mut machine = Machine::default();
    machine.lock(by("ann"));
    machine.decide(with_id(release("x"), LANE, 1));
    machine.decide(with_id(release("x"), LANE, 6));
    let unlock = with_id(release("ann"), LANE, 7);
    assert_eq!(machine.decide(unlock.clone()).outcome, Outcome::Unlock(UnlockStatus::Ok));
    push_out_all(&mut machine);
    machine.lock(by("ann"));
    let id = RequestId { lane: LANE, seq: 7 };
    let again = machine.decide(unlock).outcome;
    assert_eq!(again, Outcome::Refused(Refusal::LaneForgotten(id)));
    assert!(machine.holder().is_some(), "the later grant stands");
    let counts = machine.state.counts();
    assert_eq!(counts.lanes_evicted_young, 1, "it was used a moment ago");
    let restored = State::decode(&machine.state.encode()).unwrap();
    assert_eq!(restored.counts(), counts);
}

/// Uses as many new lanes as are remembered.
fn push_out_all(machine: &mut Machine) {
    let first = u128::MAX - MAX_LANES as u128;
    let commands = (first..u128::MAX).map(|lane| with_id(release("x"), lane, 1)).collect();
    machine.index += 1;
    let stamp = Stamp { term: super::TERM, time: ClusterTime(machine.now_ms * 1000) };
    machine.state.apply(super::TERM, machine.index, &Proposal { stamp, commands });
}

#[test]
fn a_lane_is_forgotten_when_it_was_not_used_for_ten_minutes() {
    let limit_ms = u64::try_from(UNUSED_LIMIT.as_millis()).unwrap();
    let forever = LockCommand { duration_ms: Some(10 * limit_ms), ..by("ann") };
    let mut machine = Machine::default();
    let first = machine.decide(with_id(forever.clone(), LANE, 1)).outcome;
    assert!(matches!(first, Outcome::Lock(LockStatus::Ok(_))));
    // A repetition counts as a use.
    for _ in 0..2 {
        machine.now_ms += limit_ms - 1;
        let again = machine.decide(with_id(forever.clone(), LANE, 1)).outcome;
        assert!(matches!(again, Outcome::Lock(LockStatus::Ok(_))), "{again:?}");
    }
    machine.now_ms += limit_ms;
    let forgotten = machine.decide(with_id(forever, LANE, 1)).outcome;
    assert!(matches!(forgotten, Outcome::Lock(LockStatus::Renewed(_))), "{forgotten:?}");
    machine.pass(limit_ms);
    assert_eq!(machine.state.counts().lanes, 0);
}

#[test]
fn beyond_the_limit_the_least_recently_used_lane_is_forgotten() {
    let mut machine = Machine::default();
    let most = MAX_LANES as u128;
    let commands: Vec<Command> = (0..most).map(|lane| with_id(release("x"), lane, 1)).collect();
    let time = ClusterTime(0);
    let proposal = Proposal { stamp: Stamp { term: super::TERM, time }, commands };
    machine.state.apply(super::TERM, 0, &proposal);
    machine.now_ms = 1;
    machine.decide(with_id(release("x"), 0, 1));
    machine.decide(with_id(release("x"), most, 1));
    assert_eq!(machine.state.counts().lanes, MAX_LANES as u64);
    // Lane 1 was used least recently, with the smallest number; lane 0 was used since.
    assert!(machine.state.lanes.get(0).is_some());
    assert!(machine.state.lanes.get(1).is_none());
    assert!(machine.state.lanes.get(most).is_some());
}

#[test]
fn a_forged_body_of_the_same_digest_never_gets_another_kind_of_answer() {
    // Searching for two bodies with one digest cannot be prevented; the worst result is a refusal.
    let mut machine = Machine::default();
    machine.decide(with_id(by("ann"), LANE, 1));
    let forged = crate::lock::Operation::from(release("ann"));
    let lane = machine.state.lanes.get(LANE).unwrap().clone();
    let forged_lane = crate::lock::lanes::Lane { digest: forged.digest(), ..lane };
    machine.state.lanes.remember(LANE, forged_lane, &mut machine.state.tracker);
    let outcome = machine.decide(with_id(release("ann"), LANE, 1)).outcome;
    assert!(is_bad_request(&outcome, "another request"));
}
