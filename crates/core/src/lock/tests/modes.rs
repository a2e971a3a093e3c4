//! Modes, limits and slots; lock-delay and the longest hold; an operator's release.

use super::queue::{machine, reason, waits};
use super::{Machine, by, release};
use crate::lock::{
    LimitCommand, LockCommand, Operation, Outcome, State, TableCommand, UnlockCommand,
};
use crate::types::{
    ForbiddenReason, Holder, ListRequest, LockStatus, Mode, RecordState, Token, UnlockStatus,
};

fn shared(signee: &str) -> LockCommand {
    LockCommand { mode: Some(Mode::Shared), ..by(signee) }
}

fn permit(signee: &str) -> LockCommand {
    LockCommand { mode: Some(Mode::Permits), limit: Some(2), ..by(signee) }
}

fn token(status: &LockStatus) -> u64 {
    super::granted(status).expect("granted").token.0
}

fn slot(status: &LockStatus) -> Option<u32> {
    super::granted(status).expect("granted").slot
}

#[test]
fn a_reader_does_not_overtake_a_writer_that_waits() {
    let mut machine = machine();
    assert!(matches!(machine.lock(shared("ann")), LockStatus::Ok(_)));
    assert!(matches!(machine.lock(shared("bob")), LockStatus::Ok(_)));
    machine.lock(waits("cy"));
    assert_eq!(reason(&machine.lock(shared("dan"))), Some(ForbiddenReason::Queued));
    machine.lock(LockCommand { wait_ms: 5000, ..shared("dan") });
    machine.lock(LockCommand { wait_ms: 5000, ..shared("eve") });
    machine.unlock(release("ann"));
    assert_eq!(machine.holders(), ["bob"]);
    machine.unlock(release("bob"));
    assert_eq!(machine.holders(), ["cy"]);
    machine.unlock(release("cy"));
    assert_eq!(machine.holders(), ["dan", "eve"]);
}

#[test]
fn of_many_holders_some_are_named_and_the_others_counted() {
    let mut machine = machine();
    // One that has expired is in the way until its delay is over, and is named last.
    let delayed =
        LockCommand { duration_ms: Some(1000), lock_delay_ms: Some(60_000), ..shared("h000") };
    machine.lock(delayed);
    for number in 1..1003 {
        machine.lock(LockCommand { duration_ms: Some(60_000), ..shared(&format!("h{number:03}")) });
    }
    machine.pass(2000);
    let LockStatus::Failed(refused) = machine.lock(by("writer")) else { panic!("it is shared") };
    let tokens = |holders: &[Holder]| holders.iter().map(|it| it.token.0).collect::<Vec<_>>();
    assert_eq!(tokens(&refused.holders), (2..12).collect::<Vec<_>>());
    let seen = machine.state.check("default", "s").unwrap();
    assert_eq!(tokens(&seen.holders), (2..1002).collect::<Vec<_>>());
    assert_eq!((seen.more_holders, seen.state()), (3, RecordState::Held));
    let (listed, _) = machine.state.list("default", &ListRequest::default());
    assert_eq!((tokens(&listed[0].holders), listed[0].more_holders), ((2..12).collect(), 993));
}

#[test]
fn only_the_last_reader_becomes_a_writer_with_a_new_token() {
    let mut machine = machine();
    machine.lock(shared("ann"));
    machine.lock(shared("bob"));
    let exclusive = |signee| LockCommand { mode: Some(Mode::Exclusive), ..by(signee) };
    assert_eq!(reason(&machine.lock(exclusive("ann"))), Some(ForbiddenReason::Shared));
    machine.unlock(release("bob"));
    assert_eq!(token(&machine.lock(exclusive("ann"))), 3);
    assert_eq!(token(&machine.lock(shared("ann"))), 3, "a downgrade keeps it");
    assert_eq!(token(&machine.lock(by("ann"))), 3, "a mode that is left out is kept");
    assert!(matches!(machine.lock(shared("bob")), LockStatus::Ok(_)));
    assert_eq!(reason(&machine.lock(permit("ann"))), Some(ForbiddenReason::ModeDiffers));
}

#[test]
fn permits_have_the_smallest_free_slot_and_one_limit() {
    let mut machine = machine();
    assert_eq!(slot(&machine.lock(permit("ann"))), Some(0));
    assert_eq!(slot(&machine.lock(permit("bob"))), Some(1));
    assert_eq!(reason(&machine.lock(permit("cy"))), Some(ForbiddenReason::Held));
    machine.unlock(release("ann"));
    let unnamed = LockCommand { limit: None, ..permit("cy") };
    assert_eq!(slot(&machine.lock(unnamed)), Some(0));
    let other = machine.lock(LockCommand { limit: Some(3), ..permit("dan") });
    let LockStatus::Failed(forbidden) = other else { panic!("{other:?}") };
    assert_eq!((forbidden.reason, forbidden.limit), (ForbiddenReason::LimitDiffers, Some(2)));
    machine.lock(LockCommand { wait_ms: 5000, ..permit("dan") });
    let limit = |limit| {
        let (table, signature) = ("default".into(), "s".into());
        Operation::SetLimit(Box::new(LimitCommand { table, signature, limit }))
    };
    assert_eq!(machine.outcome(limit(1)), Outcome::Limit);
    assert_eq!(machine.holders().len(), 2, "too many stay until they go");
    machine.unlock(release("bob"));
    assert_eq!(machine.holders(), ["cy"]);
    assert_eq!(machine.outcome(limit(2)), Outcome::Limit);
    assert_eq!(machine.holders(), ["cy", "dan"]);
}

#[test]
fn of_the_permits_the_lowest_level_and_the_newest_is_preempted() {
    let mut machine = machine();
    for (signee, level) in [("ann", 1), ("bob", 0), ("cy", 0)] {
        machine.lock(LockCommand { limit: Some(3), level: Some(level), ..permit(signee) });
    }
    let higher = LockCommand { limit: None, level: Some(1), ..permit("dan") };
    let told = machine.lock(higher);
    assert!(
        matches!(&told, LockStatus::Transferred { previous_signee, .. } if previous_signee == "cy"),
        "{told:?}"
    );
    assert_eq!(machine.holders(), ["ann", "bob", "dan"]);
}

fn delayed() -> (Machine, LockCommand) {
    let mut machine = machine();
    let ann = LockCommand { lock_delay_ms: Some(5000), ..by("ann") };
    machine.lock(ann.clone());
    machine.lock(waits("bob"));
    machine.pass(1000);
    (machine, ann)
}

#[test]
fn a_lock_delay_keeps_all_but_the_former_owner_out() {
    let (mut machine, ann) = delayed();
    assert!(machine.holders().is_empty());
    let higher = machine.lock(LockCommand { level: Some(9), ..by("cy") });
    let LockStatus::Failed(forbidden) = higher else { panic!("{higher:?}") };
    assert_eq!(forbidden.reason, ForbiddenReason::Delay);
    assert_eq!(forbidden.delay.map(|left| left.as_millis()), Some(5000));
    assert!(matches!(machine.lock(ann), LockStatus::Renewed(grant) if grant.token == Token(2)));
    machine.pass(1000);
    machine.pass(4999);
    assert!(machine.holders().is_empty());
    machine.pass(1);
    assert_eq!(machine.holders(), ["bob"]);
}

#[test]
fn a_release_and_force_end_a_lock_delay() {
    let (mut machine, _) = delayed();
    assert_eq!(machine.unlock(release("ann")), UnlockStatus::Ok);
    assert_eq!(machine.holders(), ["bob"]);
    let (mut machine, _) = delayed();
    machine.lock(LockCommand { force: true, ..by("cy") });
    assert_eq!(machine.holders(), ["cy"]);
}

#[test]
fn the_longest_hold_ends_renewals_and_its_holder_waits_for_the_delay_too() {
    let mut machine = machine();
    machine.outcome(TableCommand {
        table: "default".into(),
        max_hold_ms: Some(1500),
        lock_delay_ms: Some(100),
        ..TableCommand::default()
    });
    machine.lock(by("ann"));
    machine.lock(waits("bob"));
    machine.pass(900);
    let renewed = machine.lock(by("ann"));
    let left = super::granted(&renewed).unwrap().expires_in;
    assert_eq!(left.as_millis(), 600);
    machine.pass(600);
    assert_eq!(reason(&machine.lock(by("ann"))), Some(ForbiddenReason::Queued));
    machine.pass(100);
    assert_eq!(machine.holders(), ["bob"]);
}

#[test]
fn an_operator_ends_exactly_one_grant_or_place() {
    let mut machine = machine();
    machine.lock(shared("ann"));
    machine.lock(shared("bob"));
    let LockStatus::Waiting(place) = machine.lock(waits("cy")) else { panic!() };
    let by_force = UnlockCommand { force: true, ..release("operator") };
    let grant = UnlockCommand { token: Some(Token(1)), ..by_force.clone() };
    assert_eq!(machine.unlock(grant), UnlockStatus::Ok);
    assert_eq!((machine.holders(), machine.queue()), (vec!["bob".into()], vec!["cy".into()]));
    let place = UnlockCommand { place: Some(place.place), ..by_force };
    assert_eq!(machine.unlock(place.clone()), UnlockStatus::Left);
    assert_eq!(machine.unlock(place), UnlockStatus::NoLock);
    assert_eq!(machine.holders(), ["bob"]);
}

/// Asserts that the state is the same when it comes from its bytes, which hold no free slots.
fn assert_restores(machine: &Machine) {
    assert_eq!(State::decode(&machine.state.encode()).as_ref(), Ok(&machine.state));
}

#[test]
fn slots_that_were_given_back_are_free_again_also_after_a_snapshot() {
    let mut machine = machine();
    let permit = |owner: u32| LockCommand { limit: Some(9), ..permit(&format!("o{owner}")) };
    for owner in 0..6 {
        assert_eq!(slot(&machine.lock(permit(owner))), Some(owner));
    }
    for owner in [1, 3, 0] {
        machine.unlock(release(&format!("o{owner}")));
        assert_restores(&machine);
    }
    machine.state = State::decode(&machine.state.encode()).unwrap();
    let taken: Vec<_> = (10..14).map(|owner| slot(&machine.lock(permit(owner)))).collect();
    assert_eq!(taken, [0, 1, 3, 6].map(Some));
    for owner in [4, 13, 5, 12, 11, 2, 10] {
        machine.unlock(release(&format!("o{owner}")));
        assert_restores(&machine);
    }
    assert_eq!(slot(&machine.lock(permit(20))), Some(0));
}
