//! How grants end, and how long they were held.

use super::{Machine, by, queue, release};
use crate::lock::ends::{End, Ends, HELD_BOUNDS};
use crate::lock::{LockCommand, Operation, State};
use crate::types::{LockStatus, Token};

/// The number of grants that ended in each way and the sum of their hold times in seconds, for the
/// ways that occurred.
fn ends(machine: &mut Machine) -> Vec<(&'static str, u64, f64)> {
    told(&machine.state.take_ends().unwrap_or_default())
}

fn told(ends: &Ends) -> Vec<(&'static str, u64, f64)> {
    let told = ends.by_end().map(|(end, held)| (end.word(), held.count(), held.seconds()));
    told.filter(|(_, count, _)| *count > 0).collect()
}

#[test]
fn a_hold_lasts_from_its_token_through_its_renewals_to_its_release() {
    let mut machine = Machine::default();
    machine.pass(5000);
    machine.lock(by("ann"));
    machine.pass(900);
    machine.lock(by("ann"));
    machine.pass(900);
    machine.lock(LockCommand { token: Some(Token(1)), ..by("ann") });
    assert_eq!(machine.state.take_ends(), None, "it has not ended");
    machine.pass(700);
    machine.unlock(release("ann"));
    assert_eq!(ends(&mut machine), [("released", 1, 2.5)]);
    assert_eq!(machine.state.take_ends(), None, "it is told once");
}

#[test]
fn a_hold_ends_at_its_deadline_and_not_when_somebody_looks() {
    for settled_by_a_command in [false, true] {
        let mut machine = Machine::default();
        machine.lock(by("ann"));
        if settled_by_a_command {
            machine.now_ms = 60_000;
        } else {
            machine.pass(60_000);
        }
        assert!(matches!(machine.lock(by("bob")), LockStatus::Transferred { .. }));
        machine.unlock(release("bob"));
        let expected = [("released", 1, 0.0), ("expired", 1, 1.0)];
        assert_eq!(ends(&mut machine), expected, "{settled_by_a_command}");
    }
}

#[test]
fn what_expired_ends_once_and_its_owner_begins_another_hold() {
    let mut machine = Machine::default();
    machine.lock(by("ann"));
    machine.pass(3000);
    machine.lock(by("ann"));
    machine.pass(500);
    machine.unlock(release("ann"));
    assert_eq!(ends(&mut machine), [("released", 1, 0.5), ("expired", 1, 1.0)]);
    machine.lock(by("ann"));
    machine.pass(3000);
    machine.unlock(release("ann"));
    assert_eq!(ends(&mut machine), [("expired", 1, 1.0)], "nothing was held any more");
}

#[test]
fn a_lock_that_is_taken_away_ends_its_hold_and_begins_one() {
    let mut machine = Machine::default();
    machine.lock(by("ann"));
    machine.pass(200);
    machine.lock(LockCommand { level: Some(1), ..by("bob") });
    machine.pass(300);
    machine.lock(LockCommand { force: true, ..by("cy") });
    machine.lock(by("ann"));
    machine.pass(400);
    machine.unlock(release("cy"));
    let expected = [("released", 1, 0.4), ("preempted", 1, 0.2), ("forced", 1, 0.3)];
    assert_eq!(ends(&mut machine), expected);
}

#[test]
fn of_a_deleted_table_the_unexpired_grants_are_counted() {
    let mut machine = Machine::default();
    for (signature, duration_ms) in [("a", 1), ("b", 5000), ("c", 5000)] {
        let signature = signature.into();
        machine.lock(LockCommand { signature, duration_ms: Some(duration_ms), ..by("ann") });
    }
    machine.pass(10);
    machine.outcome(Operation::DeleteTable { table: "default".into() });
    let ends = machine.state.take_ends().unwrap();
    assert_eq!(ends.deleted(), 2);
    assert_eq!(told(&ends), [("expired", 1, 0.001)]);
}

#[test]
fn a_hold_goes_on_in_a_restored_state() {
    let mut machine = Machine::default();
    machine.pass(1000);
    machine.lock(by("ann"));
    machine.pass(100);
    machine.lock(by("ann"));
    machine.state = State::decode(&machine.state.encode()).unwrap();
    machine.pass(300);
    machine.unlock(release("ann"));
    assert_eq!(ends(&mut machine), [("released", 1, 0.4)]);
}

#[test]
fn holds_are_counted_up_to_each_bound_and_add_up() {
    let mut sum = Ends::default();
    for held in HELD_BOUNDS {
        let mut ends = Ends::default();
        ends.add(End::Released, held);
        sum.merge(&ends);
    }
    sum.add(End::Released, HELD_BOUNDS[HELD_BOUNDS.len() - 1] * 2);
    sum.add(End::Forced, HELD_BOUNDS[0]);
    let (_, released) = sum.by_end().find(|(end, _)| *end == End::Released).unwrap();
    let counts: Vec<u64> = released.at_most().map(|(_, count)| count).collect();
    assert_eq!(counts, (1..=13).collect::<Vec<u64>>());
    assert_eq!(released.count(), 14);
}

/// The places that ended in each way and the sum of their wait times in seconds, for the ways that
/// occurred.
fn waits(machine: &mut Machine) -> Vec<(&'static str, u64, f64)> {
    let ends = machine.state.take_ends().unwrap_or_default();
    let told =
        ends.by_wait_end().map(|(end, waited)| (end.word(), waited.count(), waited.seconds()));
    told.filter(|(_, count, _)| *count > 0).collect()
}

fn waiting(signee: &str, wait_ms: u64) -> LockCommand {
    LockCommand { wait_ms, queued: true, ..by(signee) }
}

#[test]
fn a_wait_lasts_from_the_first_ask_to_the_end_of_its_place() {
    let mut machine = queue::machine();
    machine.lock(LockCommand { duration_ms: Some(60_000), ..by("ann") });
    machine.lock(waiting("bob", 5000));
    machine.lock(waiting("cy", 1000));
    machine.lock(waiting("dan", 9000));
    machine.lock(waiting("eve", 9000));
    machine.pass(500);
    machine.lock(waiting("bob", 5000));
    assert_eq!(waits(&mut machine), [], "asked again is no end");
    machine.unlock(release("dan"));
    machine.pass(700);
    machine.unlock(release("ann"));
    let expected = [("granted", 1, 1.2), ("timeout", 1, 1.0), ("left", 1, 0.5)];
    assert_eq!(waits(&mut machine), expected);
    machine.lock(LockCommand { level: Some(9), ..waiting("eve", 9000) });
    assert_eq!(waits(&mut machine), [("superseded", 1, 1.2)]);
    machine.lock(waiting("fay", 9000));
    machine.pass(100);
    machine.outcome(Operation::DeleteTable { table: "default".into() });
    assert_eq!(waits(&mut machine), [("table_deleted", 1, 0.1)]);
}
