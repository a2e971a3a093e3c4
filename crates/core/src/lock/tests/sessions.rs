//! Sessions: their grants and places, moving, keep-alive and the inbox, and how they end.

use super::queue::{machine, reason, waits};
use super::{Machine, by, principal, release};
use crate::limits;
use crate::lock::{Command, LockCommand, Operation, Outcome, SessionCommand, State, UnlockCommand};
use crate::types::{
    CloseStatus, DecidedAt, ForbiddenReason, InboxItem, Liveness, LockStatus, Loss, Mode, News,
    Seen, SessionId, SessionStatus, Token, UnlockStatus,
};

const ONE: SessionId = SessionId(1);
const TWO: SessionId = SessionId(2);

impl Machine {
    fn open(&mut self, id: SessionId, signee: &str) {
        let signee = signee.into();
        let command = SessionCommand { id: Some(id), ttl_ms: 10_000, signee, instance: None };
        self.outcome(Operation::OpenSession(Box::new(command)));
    }

    fn keep(&mut self, session: SessionId, seen: Option<DecidedAt>) -> Option<Vec<InboxItem>> {
        let outcome = self.outcome(Operation::KeepAlive(vec![Seen { session, seen }]));
        let Outcome::KeptAlive(mut states) = outcome else { panic!("{outcome:?}") };
        match states.remove(0) {
            Liveness::Alive { inbox, .. } => Some(inbox),
            Liveness::Lost => None,
        }
    }
}

fn within(session: SessionId) -> LockCommand {
    LockCommand { session: Some(session), duration_ms: None, ..by("") }
}

#[test]
fn one_keep_alive_renews_all_grants_and_a_lock_request_none() {
    let mut machine = machine();
    machine.open(ONE, "ann");
    machine.lock(within(ONE));
    let holder = machine.holder().unwrap();
    assert_eq!((&*holder.signee, holder.instance), ("ann", Some(ONE.to_string())));
    machine.pass(6000);
    machine.lock(within(ONE));
    assert_eq!(machine.holder().unwrap().expires_in.as_millis(), 4000);
    assert_eq!(machine.keep(ONE, None), Some(vec![]));
    assert_eq!(machine.holder().unwrap().expires_in.as_millis(), 10_000);
    machine.pass(10_000);
    assert_eq!(machine.keep(ONE, None), None, "it is never revived");
    assert!(machine.holders().is_empty());
    assert_eq!(machine.state.counts().sessions, 0);
    assert_eq!(reason(&machine.lock(within(ONE))), Some(ForbiddenReason::SessionLost));
}

#[test]
fn a_place_whose_session_has_ended_is_never_granted() {
    let mut machine = machine();
    machine.open(ONE, "bob");
    machine.lock(LockCommand { duration_ms: Some(20_000), ..by("ann") });
    machine.lock(LockCommand { wait_ms: 60_000, ..within(ONE) });
    machine.lock(waits("cy"));
    machine.pass(10_000);
    assert_eq!(machine.queue(), ["cy"]);
    machine.unlock(release("ann"));
    assert_eq!(machine.holders(), ["cy"]);
}

#[test]
fn closed_is_absent_and_expired_is_expired() {
    for closed in [true, false] {
        let mut machine = machine();
        machine.open(ONE, "ann");
        machine.lock(within(ONE));
        if closed {
            let outcome = machine.outcome(Operation::CloseSession(ONE));
            assert_eq!(outcome, Outcome::Closed(CloseStatus::Ok));
        } else {
            machine.pass(10_000);
        }
        let taken = machine.lock(by("bob"));
        assert_eq!(matches!(taken, LockStatus::Ok(_)), closed, "{taken:?}");
        let outcome = machine.outcome(Operation::CloseSession(ONE));
        assert_eq!(outcome, Outcome::Closed(CloseStatus::NoSession));
    }
}

#[test]
fn a_grant_moves_to_another_session_with_a_new_token_and_the_old_one_is_told() {
    let mut machine = machine();
    machine.open(ONE, "ann");
    machine.open(TWO, "ann");
    let stable = |session| LockCommand { instance: Some("i".into()), ..within(session) };
    machine.lock(stable(ONE));
    let moved = machine.lock(stable(TWO));
    assert!(matches!(&moved, LockStatus::Renewed(grant) if grant.token == Token(2)), "{moved:?}");
    let told = machine.keep(ONE, None).unwrap();
    let lost = News::Lost { token: Some(Token(1)), reason: Loss::Moved };
    assert_eq!(told[0].news, lost);
    machine.outcome(Operation::CloseSession(ONE));
    assert_eq!(machine.holders(), ["ann"], "it lives in the other session");
}

#[test]
fn the_inbox_has_what_was_not_seen_and_the_latest_of_each_lock() {
    let mut machine = machine();
    machine.open(ONE, "bob");
    machine.lock(by("ann"));
    machine.lock(LockCommand { wait_ms: 60_000, ..within(ONE) });
    machine.unlock(release("ann"));
    let first = machine.keep(ONE, None).unwrap();
    assert!(matches!(first[0].news, News::Granted { token: Token(2), .. }), "{first:?}");
    assert_eq!(machine.keep(ONE, None).unwrap(), first, "a cut answer loses nothing");
    machine.lock(LockCommand { force: true, ..by("cy") });
    let second = machine.keep(ONE, None).unwrap();
    assert_eq!(second.len(), 1);
    assert_eq!(second[0].news, News::Lost { token: Some(Token(2)), reason: Loss::Forced });
    assert_eq!(machine.keep(ONE, Some(second[0].position)), Some(vec![]));
    assert_eq!(machine.keep(ONE, None), Some(vec![]), "it was seen");
}

#[test]
fn a_session_belongs_to_the_principal_that_opened_it() {
    let mut machine = machine();
    machine.open(ONE, "ann");
    let command =
        Command { principal: Some(principal("x")), ..Operation::from(within(ONE)).into() };
    let Outcome::Lock(status) = machine.decide(command).outcome else { panic!() };
    assert_eq!(reason(&status), Some(ForbiddenReason::SessionLost));
}

#[test]
fn many_locks_of_a_session_end_in_portions_those_that_are_waited_for_first() {
    let mut machine = machine();
    machine.open(ONE, "ann");
    let lock = |number: u32| LockCommand {
        signature: format!("l{number:05}").into(),
        session: Some(ONE),
        duration_ms: None,
        ..by("")
    };
    machine.apply((0..5000).map(|number| Operation::from(lock(number)).into()).collect());
    let last = "l04999";
    machine.lock(LockCommand { signature: last.into(), ..waits("bob") });
    machine.outcome(Operation::CloseSession(ONE));
    let holder = machine.state.check("default", last).unwrap().holders.remove(0);
    assert_eq!(holder.signee, "bob");
    assert_eq!(machine.state.counts().records, 5000 - 510, "half of an entry's steps");
    assert!(machine.state.check("default", "l04998").is_none(), "closed is absent at once");
    assert_eq!(State::decode(&machine.state.encode()).as_ref(), Ok(&machine.state));
    let mut entries = 0;
    while machine.state.counts().sessions > 0 {
        machine.apply(vec![Command::advance()]);
        entries += 1;
    }
    assert_eq!((machine.state.counts().records, entries), (1, 9));
}

#[test]
fn a_lock_of_many_holders_is_settled_before_its_ended_session_is_worked_off() {
    let mut machine = machine();
    machine.open(ONE, "ann");
    let share = |number: u32, command: LockCommand| {
        let (signature, mode) = (format!("l{number:05}").into(), Some(Mode::Shared));
        Command::from(Operation::from(LockCommand { signature, mode, ..command }))
    };
    for owner in [within(ONE), by("bob")] {
        machine.apply((0..5000).map(|number| share(number, owner.clone())).collect());
    }
    machine.outcome(Operation::CloseSession(ONE));
    assert_eq!(machine.state.counts().sessions, 1, "some of its work is left");
    let last = "l04999";
    let leave = UnlockCommand { signature: last.into(), ..release("bob") };
    assert_eq!(machine.unlock(leave), UnlockStatus::Ok);
    let taken = machine.lock(LockCommand { signature: last.into(), ..by("cy") });
    assert!(matches!(taken, LockStatus::Ok(_)), "{taken:?}");
}

#[test]
fn a_deleted_table_is_told_to_each_session_of_a_shared_lock() {
    let mut machine = machine();
    for (session, owner) in [(ONE, "ann"), (TWO, "bob")] {
        machine.open(session, owner);
        machine.lock(LockCommand { mode: Some(Mode::Shared), ..within(session) });
    }
    machine.outcome(Operation::DeleteTable { table: "default".into() });
    for (session, token) in [(ONE, Token(1)), (TWO, Token(2))] {
        let lost = News::Lost { token: Some(token), reason: Loss::TableDeleted };
        assert_eq!(machine.keep(session, None).unwrap()[0].news, lost);
    }
}

#[test]
fn a_deleted_table_is_told_to_sessions_which_live_on() {
    let mut machine = machine();
    machine.open(ONE, "ann");
    machine.lock(within(ONE));
    machine.lock(waits("bob"));
    machine.state.take_steps();
    machine.outcome(Operation::DeleteTable { table: "default".into() });
    assert_eq!(machine.state.take_steps().len(), 1);
    let told = machine.keep(ONE, None).unwrap();
    let lost = News::Lost { token: Some(Token(1)), reason: Loss::TableDeleted };
    assert_eq!(told[0].news, lost);
    assert!(matches!(machine.lock(within(ONE)), LockStatus::Ok(_)));
}

#[test]
fn owners_that_wait_for_each_other_are_shown() {
    let mut machine = machine();
    let other = |command| LockCommand { signature: "t".into(), ..command };
    machine.lock(by("ann"));
    machine.lock(other(by("bob")));
    machine.lock(other(waits("ann")));
    assert_eq!(machine.state.deadlocks(), (vec![], false));
    machine.lock(waits("bob"));
    let (cycles, cut) = machine.state.deadlocks();
    assert_eq!((cycles.len(), cut), (1, false));
    let names: Vec<_> = cycles[0].iter().map(|edge| (&*edge.signee, &*edge.signature)).collect();
    assert_eq!(names, [("ann", "t"), ("bob", "s")]);
}

#[test]
fn the_locks_of_a_session_are_handed_over_in_the_order_of_their_keys() {
    for closed in [false, true] {
        let mut machine = machine();
        machine.open(ONE, "ann");
        let lock = |number: u64, command: LockCommand| LockCommand {
            signature: format!("l{number:02}").into(),
            ..command
        };
        // Asked for in another order.
        for number in (0..20).rev() {
            machine.lock(lock(number, within(ONE)));
            machine.lock(lock(number, waits("bob")));
        }
        if closed {
            machine.outcome(Operation::CloseSession(ONE));
        } else {
            machine.pass(10_000);
        }
        for number in 0..20 {
            let record = machine.state.check("default", &format!("l{number:02}")).unwrap();
            let holder = &record.holders[0];
            assert_eq!((&*holder.signee, holder.token), ("bob", Token(21 + number)));
        }
    }
}

/// Takes this many locks in a session and loses all of them with their table.
fn lose_locks(machine: &mut Machine, session: SessionId, count: u32) {
    machine.open(session, "ann");
    let lock = |number| {
        let signature = format!("{session}-{number:05}").into();
        let command = LockCommand { table: "t".into(), signature, ..within(session) };
        Command::from(Operation::Lock(Box::new(command)))
    };
    machine.apply((0..count).map(lock).collect());
    machine.outcome(Operation::DeleteTable { table: "t".into() });
    machine.work_off();
}

#[test]
fn an_inbox_is_told_in_portions_and_says_what_it_has_dropped() {
    let mut machine = machine();
    let (most, told) = (10_000, Liveness::MAX_ITEMS);
    lose_locks(&mut machine, ONE, most + 1);
    let mut seen = None;
    for portion in 0..=10 {
        let outcome = machine.outcome(Operation::KeepAlive(vec![Seen { session: ONE, seen }]));
        let Outcome::KeptAlive(states) = outcome else { panic!("{outcome:?}") };
        let Liveness::Alive { inbox, more, overflow, .. } = &states[0] else { panic!("alive") };
        assert_eq!(inbox.len(), if portion < 10 { told } else { 0 }, "portion {portion}");
        assert_eq!(*more, portion < 9, "portion {portion}");
        assert_eq!(*overflow, portion == 0, "portion {portion}");
        seen = inbox.last().map(|item| item.position).or(seen);
    }
}

#[test]
fn a_hundred_thousand_sessions_are_open_and_not_one_more() {
    let mut machine = machine();
    let open = |number: u64| {
        let (id, signee) = (Some(SessionId(number.into())), "ann".into());
        let session = SessionCommand { id, ttl_ms: 86_400_000, signee, instance: None };
        Command::from(Operation::OpenSession(Box::new(session)))
    };
    let most = limits::MAX_SESSIONS;
    for first in (0..most).step_by(1000) {
        machine.apply((first..first + 1000).map(open).collect());
    }
    assert_eq!(machine.state.counts().sessions, most);
    let is_open = |machine: &mut Machine, number| {
        let outcome = machine.decide(open(number)).outcome;
        let Outcome::Session(status) = outcome else { panic!("{outcome:?}") };
        matches!(status, SessionStatus::Open(_))
    };
    assert!(!is_open(&mut machine, most));
    machine.outcome(Operation::CloseSession(SessionId(7)));
    assert!(is_open(&mut machine, most), "one that was closed makes room");
    assert!(!is_open(&mut machine, most + 1));
}

#[test]
fn the_sessions_of_a_keep_alive_share_the_room_of_its_answer() {
    let mut machine = machine();
    for session in [ONE, TWO] {
        lose_locks(&mut machine, session, 600);
    }
    let all = [ONE, TWO].map(|session| Seen { session, seen: None });
    let outcome = machine.outcome(Operation::KeepAlive(all.to_vec()));
    let Outcome::KeptAlive(states) = outcome else { panic!("{outcome:?}") };
    let told = states.iter().map(|state| match state {
        Liveness::Alive { inbox, more, .. } => (inbox.len(), *more),
        Liveness::Lost => panic!("both are alive"),
    });
    assert_eq!(told.collect::<Vec<_>>(), [(600, false), (400, true)]);
}

/// A request of the owner with this number for the lock with this number.
fn named(number: u32, owner: u32, wait_ms: u64) -> Command {
    let (signature, signee) = (format!("{number:05}").into(), format!("o{owner:05}").into());
    let duration_ms = Some(3_600_000);
    let command = LockCommand { signature, signee, duration_ms, wait_ms, ..by("") };
    Operation::Lock(Box::new(command)).into()
}

#[test]
fn the_longest_ring_of_waits_is_found() {
    let mut machine = machine();
    let count = 10_000;
    machine.apply((0..count).map(|number| named(number, number, 0)).collect());
    machine.apply((0..count).map(|number| named((number + 1) % count, number, 60_000)).collect());
    let (cycles, cut) = machine.state.deadlocks();
    assert_eq!((cycles.len(), cut), (1, false));
    assert_eq!(cycles[0].len(), count as usize);
}

#[test]
fn cycles_that_share_most_of_their_owners_are_told_as_far_as_there_is_room() {
    let mut machine = machine();
    let count = 2000;
    machine.apply((0..count).map(|number| named(number, number, 0)).collect());
    machine.apply((1..count).map(|number| named(number, number - 1, 60_000)).collect());
    // The last one waits for all of them: as many cycles, of up to as many owners.
    machine.apply((0..count - 1).map(|number| named(number, count - 1, 60_000)).collect());
    let (cycles, cut) = machine.state.deadlocks();
    assert!(cut && !cycles.is_empty());
    assert!(cycles.iter().map(Vec::len).sum::<usize>() < 50_000);
}

#[test]
fn two_runs_of_a_signee_in_one_session_are_told_each_its_own() {
    let mut machine = machine();
    machine.open(ONE, "eve");
    machine.lock(by("bob"));
    let run = |instance: &str| LockCommand {
        wait_ms: 60_000,
        queued: true,
        instance: Some(instance.into()),
        ..within(ONE)
    };
    machine.lock(run("1"));
    machine.lock(LockCommand { wait_ms: 1000, ..run("2") });
    machine.pass(1000);
    machine.state = State::decode(&machine.state.encode()).unwrap();
    let told = machine.keep(ONE, None).unwrap();
    let told: Vec<_> = told.iter().map(|item| (item.instance.as_deref(), item.news)).collect();
    let granted = |(instance, news)| instance == Some("1") && matches!(news, News::Granted { .. });
    assert!(told.len() == 2 && told.iter().copied().any(granted), "{told:?}");
    assert!(told.contains(&(Some("2"), News::Ended(ForbiddenReason::Timeout))), "{told:?}");
}
