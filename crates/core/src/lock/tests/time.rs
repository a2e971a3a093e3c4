//! The cluster clock, expiry, removal and stamps of another term.

use std::time::Duration;

use super::{Machine, TERM, by, grant, release, with_id};
use crate::lock::{
    ClusterTime, Command, Keep, LockCommand, Operation, Outcome, Proposal, Refusal, Stamp, State,
    TableCommand, UnlockCommand,
};
use crate::types::{DecidedAt, Grant, LockStatus, Token, TransferReason, UnlockStatus};

fn at(term: u64, time: u64, commands: Vec<Command>) -> Proposal {
    Proposal { stamp: Stamp { term, time: ClusterTime(time) }, commands }
}

#[test]
fn the_clock_never_goes_back_and_deadlines_are_reckoned_from_it() {
    let mut state = State::new();
    state.apply(TERM, 1, &at(TERM, 5_000_000, vec![]));
    let command = Command::from(Operation::from(by("ann")));
    state.apply(TERM, 2, &at(TERM, 1_000_000, vec![command]));
    assert_eq!(state.clock(), ClusterTime(5_000_000));
    assert_eq!(state.next_deadline(), Some(ClusterTime(6_000_000)));
}

#[test]
fn a_stamp_of_another_term_has_no_effect_at_all() {
    let mut state = State::new();
    let before = state.encode();
    let commands = vec![with_id(by("ann"), 1, 1), Command::advance()];
    for entry_term in [TERM - 1, TERM + 1] {
        let decisions = state.apply(entry_term, 7, &at(TERM, 9, commands.clone()));
        assert_eq!(decisions.len(), 2);
        for (position, decision) in (0..).zip(decisions) {
            assert_eq!(decision.outcome, Outcome::Refused(Refusal::StaleStamp));
            assert_eq!(decision.decided_at, Some(DecidedAt { index: 7, position }));
        }
    }
    assert_eq!(state.encode(), before);
    // The lane did not change either: the same request is judged when it arrives in its own term.
    let decisions = state.apply(TERM, 8, &at(TERM, 9, commands));
    assert_eq!(decisions[0].outcome, Outcome::Lock(LockStatus::Ok(grant(1, 0, 1000))));
}

#[test]
fn a_grant_expires_exactly_at_its_deadline_and_goes_at_its_removal_deadline() {
    let mut machine = Machine::default();
    machine.lock(LockCommand { time_to_live: Some(Keep::Ms(3000)), ..by("ann") });
    let seen = |machine: &mut Machine, now_ms| {
        machine.pass(now_ms - machine.now_ms);
        machine.holder().map(|holder| {
            (holder.expired, holder.expires_in.as_millis(), holder.removed_in.unwrap().as_millis())
        })
    };
    assert_eq!(seen(&mut machine, 999), Some((false, 1, 2001)));
    assert!(machine.state.has_unexpired());
    assert_eq!(seen(&mut machine, 1000), Some((true, 0, 2000)));
    assert!(!machine.state.has_unexpired());
    assert_eq!(machine.state.next_deadline(), Some(ClusterTime(3_000_000)));
    assert_eq!(seen(&mut machine, 2999), Some((true, 0, 1)));
    assert_eq!(seen(&mut machine, 3000), None);
    assert_eq!(machine.state.next_deadline(), None);
    let counts = machine.state.counts();
    assert_eq!((counts.expiries, counts.removals, counts.records), (1, 1, 0));
    assert_eq!(machine.unlock(release("ann")), UnlockStatus::NoLock);
    assert_eq!(machine.lock(by("bob")), LockStatus::Ok(grant(2, 0, 1000)));
}

#[test]
fn without_a_time_to_live_an_expired_record_goes_a_day_after_it_expired() {
    const DAY: u64 = 86_400_000;
    let mut machine = Machine::default();
    let lock = || LockCommand { time_to_live: None, ..by("ann") };
    let expected =
        Grant { removed_in: Some(Duration::from_millis(DAY + 1000)), ..grant(1, 0, 1000) };
    assert_eq!(machine.lock(lock()), LockStatus::Ok(expected.clone()));
    machine.pass(400);
    // Each renewal starts it anew.
    assert_eq!(machine.lock(lock()), LockStatus::Renewed(expected));
    machine.pass(1000);
    assert!(machine.holder().unwrap().expired);
    assert_eq!(machine.state.next_deadline(), Some(ClusterTime((DAY + 1400) * 1000)));
    // A snapshot and a checkpoint contain it.
    machine.state = State::decode(&machine.state.encode()).unwrap();
    machine.pass(DAY - 1);
    assert_eq!(machine.holder().unwrap().removed_in, Some(Duration::from_millis(1)));
    machine.pass(1);
    assert_eq!(machine.holder(), None);
    assert_eq!(machine.state.counts().records, 0);
    assert_eq!(machine.state.next_deadline(), None);
}

#[test]
fn with_none_as_its_time_to_live_an_expired_record_stays_for_ever() {
    let of_the_table = |machine: &mut Machine| {
        let time_to_live = Some(Keep::ForEver);
        machine.outcome(TableCommand {
            table: "default".into(),
            duration_ms: None,
            time_to_live,
            ..TableCommand::default()
        });
        machine.state = State::decode(&machine.state.encode()).unwrap();
        machine.lock(LockCommand { time_to_live: None, ..by("ann") });
    };
    let of_the_request = |machine: &mut Machine| {
        machine.lock(LockCommand { time_to_live: Some(Keep::ForEver), ..by("ann") });
    };
    for lock in [of_the_table, of_the_request] {
        let mut machine = Machine::default();
        lock(&mut machine);
        machine.pass(400 * 24 * 3600 * 1000);
        let holder = machine.holder().unwrap();
        assert!(holder.expired);
        assert_eq!(holder.removed_in, None);
        assert_eq!(machine.state.next_deadline(), None);
    }
}

#[test]
fn remaining_times_are_whole_milliseconds_rounded_down() {
    let mut state = State::new();
    let command = Command::from(Operation::from(by("ann")));
    state.apply(TERM, 1, &at(TERM, 0, vec![command]));
    state.apply(TERM, 2, &at(TERM, 999_001, vec![]));
    let holder = state.check("default", "s").unwrap().holders.remove(0);
    assert_eq!((holder.expires_in, holder.expired), (Duration::ZERO, false));
    state.apply(TERM, 3, &at(TERM, 1, vec![]));
    assert_eq!(state.check("default", "s").unwrap().holders.remove(0), holder);
}

#[test]
fn a_time_to_live_shorter_than_the_duration_is_refused_at_apply() {
    let mut machine = Machine::default();
    let command =
        LockCommand { duration_ms: None, time_to_live: Some(Keep::Ms(29_999)), ..by("ann") };
    let Outcome::Refused(Refusal::BadRequest(reason)) = machine.outcome(command) else {
        panic!("the default duration is 30 s");
    };
    assert!(reason.contains("29999") && reason.contains("30000"), "{reason}");
    assert_eq!(machine.holder(), None);
}

#[test]
fn a_late_renewal_revives_nothing() {
    let mut machine = Machine::default();
    machine.lock(by("ann"));
    machine.pass(1000);
    let late = LockCommand { token: Some(Token(1)), ..by("ann") };
    assert!(matches!(machine.lock(late), LockStatus::Failed(_)));
    assert!(machine.holder().unwrap().expired);
}

#[test]
fn no_more_than_a_portion_is_worked_off_and_nobody_can_tell() {
    let mut state = State::new();
    let many = 10_000;
    let lock = |number: u64| {
        let signature = format!("{number:05}").into();
        LockCommand { signature, time_to_live: Some(Keep::Ms(1000)), ..by("ann") }
    };
    let commands = (0..many).map(|number| Operation::from(lock(number)).into());
    state.apply(TERM, 1, &at(TERM, 0, commands.collect()));
    assert_eq!(state.counts().unexpired, many);

    state.apply(TERM, 2, &at(TERM, 1_000_000, vec![]));
    state.assert_invariants();
    assert_eq!(state.counts().expiries + state.counts().removals, 4096);
    assert_eq!(state.next_deadline(), Some(ClusterTime(1_000_000)));
    // Judged by the clock, all are gone, whether worked off, marked or untouched.
    assert_eq!(state.check("default", "09999"), None);
    let mut request = crate::types::ListRequest::default();
    while let (page, Some(next)) = state.list("default", &request) {
        assert_eq!(page, []);
        request.after = Some(next);
    }
    assert_eq!(state.list("default", &request), (vec![], None));
    let take =
        Command::from(Operation::from(LockCommand { signature: "09999".into(), ..by("bob") }));
    let decisions = state.apply(TERM, 3, &at(TERM, 1_000_000, vec![take]));
    assert_eq!(decisions[0].outcome, Outcome::Lock(LockStatus::Ok(grant(many + 1, 0, 1000))));

    let mut entries = 3;
    while state.next_deadline() == Some(ClusterTime(1_000_000)) {
        entries += 1;
        state.apply(TERM, entries, &at(TERM, 1_000_000, vec![]));
    }
    state.assert_invariants();
    assert!(entries <= 6, "{entries} entries for twice {many} deadlines");
    let counts = state.counts();
    assert_eq!((counts.expiries, counts.removals, counts.records), (many, many, 1));
}

#[test]
fn what_is_due_but_not_worked_off_is_judged_by_the_clock() {
    let name = |number: u64| -> Box<str> { format!("{number:05}").into() };
    let lock = |number: u64| LockCommand {
        signature: name(number),
        // The last ones are expired for a while before they are removed.
        time_to_live: Some(Keep::Ms(if number < 9990 { 1000 } else { 5000 })),
        ..by("ann")
    };
    let mut state = State::new();
    let commands = (0..10_000).map(|number| Operation::from(lock(number)).into()).collect();
    state.apply(TERM, 1, &at(TERM, 0, commands));
    let last = 9_999;
    let judge = |operation: Operation| {
        let mut state = state.clone();
        let command = Command::from(operation);
        let decision = state.apply(TERM, 2, &at(TERM, 1_000_000, vec![command])).remove(0);
        state.assert_invariants();
        decision.outcome
    };

    let unlock = |number| UnlockCommand { signature: name(number), ..release("ann") };
    assert_eq!(judge(unlock(9_000).into()), Outcome::Unlock(UnlockStatus::NoLock));
    assert_eq!(judge(unlock(last).into()), Outcome::Unlock(UnlockStatus::Ok));
    let take = |number| LockCommand { signature: name(number), ..by("bob") };
    let taken = judge(take(last).into());
    let reason = TransferReason::Expired;
    assert!(
        matches!(taken, Outcome::Lock(LockStatus::Transferred { reason: r, .. }) if r == reason)
    );
    assert!(matches!(judge(take(9_000).into()), Outcome::Lock(LockStatus::Ok(_))));
    let renew = LockCommand { token: Some(Token(last + 1)), ..lock(last) };
    let refused = judge(renew.into());
    assert!(matches!(refused, Outcome::Lock(LockStatus::Failed(_))), "{refused:?}");
    let again = judge(lock(last).into());
    let Outcome::Lock(LockStatus::Renewed(grant)) = again else { panic!("{again:?}") };
    assert_eq!(grant.token, Token(10_001));
}
