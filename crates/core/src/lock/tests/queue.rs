//! Waiting: order, hand-over, no barging, asking again, leaving, the bounds.

use super::{Machine, by, principal, release, with_id};
use crate::limits;
use crate::lock::{Command, LeaveCommand, LockCommand, Operation, Outcome, State, UnlockCommand};
use crate::types::{DecidedAt, ForbiddenReason, LockStatus, Token, TransferReason, UnlockStatus};

/// A machine of feature level 2 that tells its steps.
pub(super) fn machine() -> Machine {
    let mut state = State::with_level(2);
    state.tell_steps(true);
    Machine { state, ..Machine::default() }
}

pub(super) fn waits(signee: &str) -> LockCommand {
    LockCommand { wait_ms: 60_000, ..by(signee) }
}

pub(super) fn reason(status: &LockStatus) -> Option<ForbiddenReason> {
    if let LockStatus::Failed(forbidden) = status { Some(forbidden.reason) } else { None }
}

pub(super) fn position(status: &LockStatus) -> Option<u64> {
    if let LockStatus::Waiting(waiting) = status { Some(waiting.position) } else { None }
}

impl Machine {
    /// The owners of all places of the lock `s`, in order.
    pub(super) fn queue(&self) -> Vec<String> {
        let record = self.state.check_places("default", "s", 0);
        let places = record.map(|record| record.places).unwrap_or_default();
        places.into_iter().map(|place| place.signee).collect()
    }

    pub(super) fn holders(&self) -> Vec<String> {
        let record = self.state.check("default", "s");
        let holders = record.map(|record| record.holders).unwrap_or_default();
        let live = holders.into_iter().filter(|holder| !holder.expired);
        live.map(|holder| holder.signee).collect()
    }
}

#[test]
fn a_higher_level_is_granted_first_then_the_earlier_place() {
    let mut machine = machine();
    machine.lock(LockCommand { level: Some(9), ..by("ann") });
    for (signee, level, at) in [("bob", 0, 1), ("cy", 5, 1), ("dan", 0, 3), ("eve", 5, 2)] {
        let told = machine.lock(LockCommand { level: Some(level), ..waits(signee) });
        assert_eq!(position(&told), Some(at), "{signee}");
    }
    assert_eq!(machine.queue(), ["cy", "eve", "bob", "dan"]);
    for next in ["cy", "eve", "bob", "dan"] {
        let holder = machine.holders().remove(0);
        assert_eq!(machine.unlock(release(&holder)), UnlockStatus::Ok);
        assert_eq!(machine.holders(), [next]);
    }
}

#[test]
fn nobody_barges_in_at_the_same_or_a_lower_level() {
    let mut machine = machine();
    machine.lock(LockCommand { level: Some(3), ..by("ann") });
    machine.lock(LockCommand { level: Some(2), ..waits("bob") });
    let at = |level| LockCommand { level: Some(level), ..by("cy") };
    assert_eq!(reason(&machine.lock(at(2))), Some(ForbiddenReason::Queued));
    assert_eq!(reason(&machine.lock(at(3))), Some(ForbiddenReason::Held));
    let higher = machine.lock(at(4));
    assert!(matches!(higher, LockStatus::Transferred { .. }), "{higher:?}");
    assert_eq!(machine.queue(), ["bob"], "a preempted holder gets no place");
}

#[test]
fn an_expired_lock_is_handed_over_with_its_former_owner() {
    let mut machine = machine();
    machine.lock(by("ann"));
    machine.lock(waits("bob"));
    machine.pass(1000);
    let steps = machine.state.take_steps();
    let [step] = &steps[..] else { panic!("{steps:?}") };
    let Outcome::Lock(LockStatus::Transferred { grant, previous_signee, reason }) = &step.outcome
    else {
        panic!("{step:?}")
    };
    assert_eq!((grant.token, &**previous_signee), (Token(2), "ann"));
    assert_eq!(*reason, TransferReason::Expired);
    assert_eq!(grant.expires_in.as_millis(), 1000, "it counts from the step");
    assert_eq!(grant.valid.as_millis(), 2000, "and the client from its ask");
}

#[test]
fn a_wait_ends_in_cluster_time_after_the_ends_of_grants_at_the_same_time() {
    let mut machine = machine();
    machine.lock(by("ann"));
    machine.lock(LockCommand { wait_ms: 1000, ..waits("bob") });
    machine.lock(LockCommand { wait_ms: 1500, ..waits("cy") });
    machine.pass(1000);
    assert_eq!(machine.holders(), ["bob"]);
    machine.pass(500);
    assert!(machine.queue().is_empty());
    let last = machine.state.take_steps().pop().unwrap().outcome;
    let Outcome::Lock(last) = last else { panic!("{last:?}") };
    assert_eq!(reason(&last), Some(ForbiddenReason::Timeout));
}

#[test]
fn asked_again_under_its_id_it_is_the_same_place_and_the_answer_stays() {
    let mut machine = machine();
    machine.lock(by("ann"));
    let ask = |machine: &mut Machine, wait_ms| {
        machine.decide(with_id(LockCommand { wait_ms, ..waits("bob") }, 7, 1)).outcome
    };
    let first = ask(&mut machine, 500);
    machine.now_ms += 100;
    let again = ask(&mut machine, 60_000);
    let (Outcome::Lock(first), Outcome::Lock(again)) = (first, again) else { panic!() };
    let (LockStatus::Waiting(first), LockStatus::Waiting(again)) = (first, again) else { panic!() };
    assert_eq!(first.place, again.place);
    assert_eq!(again.ends_in.as_millis(), 60_000, "the later end");
    machine.unlock(release("ann"));
    let granted = ask(&mut machine, 0);
    assert!(matches!(granted, Outcome::Lock(LockStatus::Ok(grant)) if grant.token == Token(2)));
}

#[test]
fn a_later_request_of_the_owner_takes_over_its_place_and_another_level_stands_anew() {
    let mut machine = machine();
    machine.lock(LockCommand { level: Some(9), ..by("ann") });
    machine.lock(waits("bob"));
    machine.lock(waits("cy"));
    machine.state.take_steps();
    assert_eq!(position(&machine.lock(waits("bob"))), Some(1));
    let steps = machine.state.take_steps();
    assert!(
        matches!(&steps[..], [step] if matches!(&step.outcome,
            Outcome::Lock(status) if reason(status) == Some(ForbiddenReason::Superseded))),
        "{steps:?}"
    );
    machine.lock(LockCommand { duration_ms: Some(7), ..waits("bob") });
    assert_eq!(machine.queue(), ["cy", "bob"]);
    assert_eq!(reason(&machine.lock(by("bob"))), Some(ForbiddenReason::Queued));
    assert_eq!(machine.queue(), ["cy", "bob"], "a try changes nothing");
}

#[test]
fn unlock_leaves_a_place_and_with_a_token_never() {
    let mut machine = machine();
    machine.lock(by("ann"));
    machine.lock(waits("bob"));
    let with = UnlockCommand { token: Some(Token(1)), ..release("bob") };
    assert!(matches!(machine.unlock(with), UnlockStatus::Failed(_)));
    assert_eq!(machine.unlock(release("bob")), UnlockStatus::Left);
    assert!(matches!(machine.unlock(release("bob")), UnlockStatus::Failed(_)), "as today: held");
}

#[test]
fn a_leave_does_nothing_once_the_place_was_asked_for_again() {
    let mut machine = machine();
    machine.lock(by("ann"));
    let ask = |machine: &mut Machine| machine.decide(with_id(waits("bob"), 7, 1));
    ask(&mut machine);
    let first = DecidedAt { index: machine.index, position: 0 };
    ask(&mut machine);
    let again = DecidedAt { index: machine.index, position: 0 };
    let leave = |ask| {
        let (table, signature) = ("default".into(), "s".into());
        Operation::Leave(Box::new(LeaveCommand { table, signature, place: first, ask }))
    };
    assert_eq!(machine.outcome(leave(first)), Outcome::NotLeft);
    machine.unlock(release("ann"));
    assert_eq!(machine.holders(), ["bob"]);
    assert_eq!(machine.outcome(leave(first)), Outcome::NotLeft);
    assert_eq!(machine.outcome(leave(again)), Outcome::Left, "the grant that it became");
    assert!(machine.holders().is_empty());
}

#[test]
fn force_takes_the_lock_and_leaves_the_queue_and_no_earlier_place_preempts_it() {
    let mut machine = machine();
    machine.lock(LockCommand { level: Some(9), ..by("ann") });
    machine.lock(LockCommand { level: Some(5), ..waits("bob") });
    machine.lock(LockCommand { force: true, ..by("cy") });
    assert_eq!((machine.holders(), machine.queue()), (vec!["cy".into()], vec!["bob".into()]));
    machine.lock(LockCommand { level: Some(5), ..waits("dan") });
    assert_eq!(machine.holders(), ["cy"], "dan waits behind bob, who may not");
    machine.lock(LockCommand { level: Some(6), ..waits("eve") });
    assert_eq!(machine.holders(), ["eve"]);
}

#[test]
fn a_reader_does_not_overtake_a_writer_that_waits() {
    let mut machine = machine();
    let reads =
        |command: LockCommand| LockCommand { mode: Some(crate::types::Mode::Shared), ..command };
    machine.lock(reads(by("ann")));
    machine.lock(waits("writer"));
    assert_eq!(reason(&machine.lock(reads(by("bob")))), Some(ForbiddenReason::Queued));
    machine.lock(reads(waits("bob")));
    assert_eq!(machine.holders(), ["ann"]);
    assert_eq!(machine.queue(), ["writer", "bob"]);
    machine.unlock(release("ann"));
    assert_eq!(machine.holders(), ["writer"]);
    assert_eq!(machine.queue(), ["bob"]);
}

#[test]
fn ten_thousand_places_are_allowed_on_a_lock_and_handed_over_in_portions() {
    let mut machine = machine();
    machine.lock(by("ann"));
    let mode = Some(crate::types::Mode::Shared);
    let commands = |range: std::ops::Range<u32>| -> Vec<Command> {
        let ask = |number| LockCommand { mode, ..waits(&format!("w{number}")) };
        range.map(|number| Operation::from(ask(number)).into()).collect()
    };
    for first in (0..10_000).step_by(500) {
        machine.apply(commands(first..first + 500));
    }
    assert_eq!(machine.state.counts().waiting, 10_000);
    let one_more = machine.lock(LockCommand { mode, ..waits("x") });
    assert_eq!(reason(&one_more), Some(ForbiddenReason::QueueFull));
    machine.unlock(release("ann"));
    assert_eq!(machine.state.counts().waiting, 10_000 - 256, "a lock makes 256 steps at a time");
    let mut entries = 0;
    while machine.state.next_deadline().is_some_and(|due| due <= machine.state.clock()) {
        machine.apply(vec![Command::advance()]);
        entries += 1;
    }
    assert_eq!(machine.state.counts().waiting, 0);
    assert_eq!(machine.state.counts().unexpired, 10_000);
    assert!((10..=11).contains(&entries), "{entries}");
    machine.state.assert_invariants();
    assert_eq!(State::decode(&machine.state.encode()).as_ref(), Ok(&machine.state));
}

#[test]
fn the_places_of_a_principal_are_bounded_over_all_locks() {
    let mut machine = machine();
    let most = u32::try_from(limits::MAX_PLACES_PER_ACTOR).unwrap();
    let lock = |number: u32| {
        let signature = format!("{:03}", number % 100).into();
        LockCommand { signature, duration_ms: Some(3_600_000), ..by("ann") }
    };
    machine.apply((0..100).map(|number| Operation::from(lock(number)).into()).collect());
    let place = |number: u32, identity: &str| Command {
        principal: Some(principal(identity)),
        ..Operation::from(LockCommand {
            signee: format!("w{number}").into(),
            wait_ms: 60_000,
            ..lock(number)
        })
        .into()
    };
    for first in (0..most).step_by(1000) {
        machine.apply((first..first + 1000).map(|number| place(number, "one")).collect());
    }
    assert_eq!(machine.state.counts().waiting, most.into());
    let asked = |machine: &mut Machine, command: Command| {
        let Outcome::Lock(status) = machine.decide(command).outcome else { panic!("not judged") };
        reason(&status)
    };
    assert_eq!(asked(&mut machine, place(most, "one")), Some(ForbiddenReason::QueueFull));
    assert_eq!(asked(&mut machine, place(most + 1, "another")), None, "it has places of its own");
    // A place that is left makes room for one.
    machine.unlock(UnlockCommand { signature: "000".into(), ..release("w0") });
    assert_eq!(asked(&mut machine, place(most, "one")), None);
    assert_eq!(asked(&mut machine, place(most + 2, "one")), Some(ForbiddenReason::QueueFull));
    machine.state.assert_invariants();
}

#[test]
fn below_feature_level_2_new_fields_are_refused() {
    let mut machine = Machine::default();
    let refused = Outcome::Refused(crate::lock::Refusal::LevelTooLow);
    assert_eq!(machine.outcome(waits("ann")), refused);
    assert_eq!(machine.outcome(Operation::CloseSession(crate::types::SessionId(1))), refused);
    machine.outcome(Operation::RaiseFeatureLevel(2));
    assert!(matches!(machine.lock(waits("ann")), LockStatus::Ok(_)));
}
