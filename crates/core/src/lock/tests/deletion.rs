//! Deletion of a table whose locks have places, sessions and many holders: in portions.

use std::collections::BTreeMap;

use super::queue::{machine, reason, waits};
use super::{Machine, by, release};
use crate::lock::{Command, LockCommand, Operation, Outcome, SessionCommand, State, UnlockCommand};
use crate::types::{
    ForbiddenReason, ListRequest, Liveness, LockStatus, Loss, Mode, News, RequestId, Seen,
    SessionId, TablesRequest, Token, UnlockStatus,
};

const SESSION: SessionId = SessionId(7);

/// More than an entry works off.
const MANY: u64 = 3000;

fn delete() -> Operation {
    Operation::DeleteTable { table: "default".into() }
}

fn command(command: LockCommand) -> Command {
    Operation::Lock(Box::new(command)).into()
}

/// A machine in which `ann` holds the lock `s`, and this many others wait for it.
fn with_queue(count: u64) -> Machine {
    let mut machine = machine();
    machine.state.track_changes(true);
    machine.state.tell_steps(true);
    machine.lock(LockCommand { duration_ms: Some(3_600_000), ..by("ann") });
    let place = |number| LockCommand { wait_ms: 60_000, ..by(&format!("{number:05}")) };
    machine.apply((0..count).map(|number| command(place(number))).collect());
    machine
}

/// Asserts that the state is what is read of its snapshot, and of its checkpoint.
fn assert_kept(machine: &mut Machine, copy: &mut BTreeMap<Vec<u8>, Vec<u8>>) {
    for (key, value) in machine.state.take_changes().records {
        match value {
            Some(value) => drop(copy.insert(key, value)),
            None => assert!(copy.remove(&key).is_some(), "never told of, or told of twice"),
        }
    }
    assert!(copy.clone().into_iter().eq(machine.state.encoded_records()));
    let read = State::decode(&machine.state.encode()).unwrap();
    read.assert_invariants();
    assert_eq!(read, machine.state);
}

#[test]
fn a_queue_of_a_deleted_table_ends_in_portions_and_each_place_is_told_once() {
    let mut machine = with_queue(MANY);
    let mut copy = BTreeMap::new();
    machine.state.take_steps();
    assert_kept(&mut machine, &mut copy);
    assert_eq!(machine.outcome(delete()), Outcome::Table);
    let mut told = machine.state.take_steps();
    assert!((1..1000).contains(&told.len()), "{}", told.len());
    let seen = machine.state.check("default", "s").unwrap();
    assert_eq!((seen.holders.len(), seen.waiting), (0, MANY - told.len() as u64));
    assert_eq!(machine.state.tables(&TablesRequest::default()), (vec![], None));
    assert_eq!(machine.outcome(delete()), Outcome::NoTable);
    loop {
        assert_kept(&mut machine, &mut copy);
        let steps = machine.state.take_steps();
        assert!(steps.len() < 1000, "{}", steps.len());
        told.extend(steps);
        let Some(due) = machine.state.next_deadline() else { break };
        assert!(due.reached(machine.state.clock()), "there is more to do at once");
        machine.pass(0);
    }
    assert_eq!(told.len() as u64, MANY);
    let refused = |outcome: &Outcome| {
        let Outcome::Lock(status) = outcome else { return false };
        reason(status) == Some(ForbiddenReason::TableDeleted)
    };
    assert!(told.iter().all(|step| refused(&step.outcome)), "{:?}", told[0]);
    assert_eq!(machine.state.check("default", "s"), None);
    let counts = machine.state.counts();
    assert_eq!((counts.records, counts.unexpired, counts.waiting, counts.tables), (0, 0, 0, 0));
    assert!(copy.is_empty(), "{copy:?}");
}

#[test]
fn whoever_comes_while_a_table_is_worked_off_waits_behind_and_is_granted_at_last() {
    let mut machine = with_queue(3 * MANY);
    machine.outcome(delete());
    // `07999` waits still, as its former request; asked anew it has another place.
    machine.state.take_steps();
    let LockStatus::Waiting(waiting) = machine.lock(waits("07999")) else { panic!("it waits") };
    let steps = machine.state.take_steps();
    assert!(steps.iter().all(|step| step.place != waiting.place), "the new place stands");
    assert_eq!(reason(&machine.lock(by("dan"))), Some(ForbiddenReason::Queued));
    // A deletion in the meantime ends it as well, and so on.
    machine.outcome(delete());
    let LockStatus::Waiting(_) = machine.lock(waits("eve")) else { panic!("it waits") };
    machine.work_off();
    assert_eq!(machine.holders(), ["eve"]);
    assert_eq!(machine.queue(), [""; 0]);
    let first_token_of_all = Token(2);
    assert_eq!(machine.holder().unwrap().token, first_token_of_all);
}

#[test]
fn the_holder_of_a_dying_lock_has_lost_it() {
    let mut machine = with_queue(MANY);
    machine.lock(LockCommand { duration_ms: Some(3_600_000), ..by("ann") });
    machine.outcome(delete());
    let renewal = LockCommand { token: Some(Token(1)), ..by("ann") };
    assert_eq!(reason(&machine.lock(renewal)), Some(ForbiddenReason::Lost));
    assert_eq!(machine.unlock(release("ann")), UnlockStatus::NoLock);
    // Its place, too: it was there before.
    assert_eq!(machine.unlock(release("02999")), UnlockStatus::NoLock);
    machine.work_off();
    assert_eq!(machine.state.check("default", "s"), None);
}

/// A machine in which this many owners share the lock `s`, all in one session.
fn shared(count: u64) -> Machine {
    let mut machine = machine();
    let open = SessionCommand {
        id: Some(SESSION),
        ttl_ms: 3_600_000,
        signee: "ann".into(),
        instance: None,
    };
    machine.outcome(Operation::OpenSession(Box::new(open)));
    let reader = |number: u64| LockCommand {
        session: Some(SESSION),
        duration_ms: None,
        mode: Some(Mode::Shared),
        ..by(&format!("{number:05}"))
    };
    let id = |number: u64| RequestId { lane: number.into(), seq: 1 };
    let request = |number| Command { request_id: Some(id(number)), ..command(reader(number)) };
    machine.apply((0..count).map(request).collect());
    machine
}

#[test]
fn the_holders_of_a_deleted_table_are_gone_at_once_though_worked_off_in_portions() {
    let mut machine = shared(MANY);
    assert_eq!(machine.state.check("default", "s").unwrap().more_holders, MANY - 1000);
    machine.outcome(delete());
    assert_eq!(machine.state.check("default", "s"), None);
    assert_eq!(machine.state.list("default", &ListRequest::default()).0, []);
    assert!(machine.state.counts().unexpired > 0, "they are worked off later");
    // A repeated answer says that the grant has gone.
    let reader = LockCommand {
        session: Some(SESSION),
        duration_ms: None,
        mode: Some(Mode::Shared),
        ..by(&format!("{:05}", MANY - 1))
    };
    let id = RequestId { lane: u128::from(MANY - 1), seq: 1 };
    let decision = machine.decide(Command { request_id: Some(id), ..command(reader.clone()) });
    let Outcome::Lock(LockStatus::Ok(grant)) = decision.outcome else { panic!("{decision:?}") };
    assert!(!grant.live);
    // Asked anew, it is granted beside those that are left.
    let LockStatus::Ok(grant) = machine.lock(reader) else { panic!("granted") };
    let alone = |machine: &Machine| machine.holder().map(|holder| holder.token);
    assert_eq!(alone(&machine), Some(grant.token));
    machine.work_off();
    assert_eq!(alone(&machine), Some(grant.token));
    assert_eq!(machine.state.counts().unexpired, 1);
    // The session is told of each that it lost.
    let mut lost = 0;
    let mut seen = None;
    loop {
        let outcome = machine.outcome(Operation::KeepAlive(vec![Seen { session: SESSION, seen }]));
        let Outcome::KeptAlive(mut states) = outcome else { panic!("{outcome:?}") };
        let Liveness::Alive { inbox, more, .. } = states.remove(0) else { panic!("alive") };
        let is_it = |news| matches!(news, News::Lost { reason: Loss::TableDeleted, .. });
        lost += inbox.iter().filter(|item| is_it(item.news)).count() as u64;
        seen = inbox.last().map(|item| item.position);
        if !more {
            break;
        }
    }
    assert_eq!(lost, MANY);
}

#[test]
fn other_locks_are_handed_over_while_a_table_is_worked_off() {
    let mut machine = with_queue(MANY);
    let other = |signee: &str| LockCommand { table: "other".into(), ..by(signee) };
    machine.lock(other("bob"));
    machine.lock(LockCommand { wait_ms: 60_000, ..other("cy") });
    machine.outcome(delete());
    machine.unlock(UnlockCommand { table: "other".into(), ..release("bob") });
    let record = machine.state.check("other", "s").unwrap();
    assert_eq!(record.holders[0].signee, "cy");
    assert!(machine.state.check("default", "s").is_some(), "it is not worked off yet");
}

#[test]
fn holders_that_nobody_hears_of_are_ended_in_portions_too() {
    let mut machine = machine();
    let reader = |number: u64| LockCommand {
        mode: Some(Mode::Shared),
        duration_ms: Some(3_600_000),
        ..by(&format!("{number:05}"))
    };
    machine.apply((0..3 * MANY).map(|number| command(reader(number))).collect());
    machine.lock(waits("eve"));
    machine.outcome(delete());
    let left = machine.state.counts().unexpired;
    assert!((1..3 * MANY).contains(&left), "{left}");
    assert!(machine.holders().is_empty(), "though nobody sees them");
    assert!(machine.work_off() > 1);
    assert_eq!(machine.state.counts().unexpired, 0);
    assert_eq!(machine.state.check("default", "s"), None);
}

#[test]
fn a_session_that_is_closed_while_a_table_is_worked_off_is_gone_at_once() {
    let mut machine = with_queue(3 * MANY);
    let open = SessionCommand {
        id: Some(SESSION),
        ttl_ms: 3_600_000,
        signee: "ann".into(),
        instance: None,
    };
    machine.outcome(Operation::OpenSession(Box::new(open)));
    let other = LockCommand { table: "other".into(), session: Some(SESSION), ..by("") };
    machine.lock(LockCommand { duration_ms: None, ..other });
    machine.outcome(delete());
    machine.outcome(Operation::CloseSession(SESSION));
    assert_eq!(machine.state.counts().sessions, 0);
    assert!(machine.state.check("default", "s").is_some(), "it is not worked off yet");
}
