//! The first state of a new cluster.

use super::queue::{machine, reason, waits};
use super::{Machine, by, release};
use crate::lock::{
    Command, LockCommand, Operation, Outcome, SessionCommand, State, TOKEN_GAP, TableCommand,
};
use crate::types::{
    ForbiddenReason, Liveness, LockStatus, MAX_SAFE_INTEGER, Mode, RequestId, Seen, SessionId,
    Token, UnlockStatus,
};

const SESSION: SessionId = SessionId(5);

fn open(machine: &mut Machine) {
    let command =
        SessionCommand { id: Some(SESSION), ttl_ms: 10_000, signee: "eve".into(), instance: None };
    machine.outcome(Operation::OpenSession(Box::new(command)));
}

fn named(signature: &str, signee: &str) -> LockCommand {
    LockCommand { signature: signature.into(), duration_ms: Some(60_000), ..by(signee) }
}

/// A state with something of every kind.
fn full() -> Machine {
    let mut machine = machine();
    open(&mut machine);
    machine.lock(named("plain", "ann"));
    machine.lock(LockCommand { signature: "queued".into(), ..by("ann") });
    machine.lock(LockCommand { signature: "queued".into(), ..waits("bob") });
    let session = Some(SESSION);
    machine.lock(LockCommand { session, duration_ms: None, ..named("session", "") });
    let permits = |signee| LockCommand {
        mode: Some(Mode::Permits),
        limit: Some(3),
        ..named("permits", signee)
    };
    machine.lock(permits("ann"));
    machine.lock(permits("bob"));
    machine.lock(LockCommand { session, duration_ms: None, ..permits("") });
    let defaults = TableCommand {
        table: "default".into(),
        duration_ms: Some(5000),
        time_to_live: None,
        lock_delay_ms: None,
        max_hold_ms: None,
    };
    machine.outcome(defaults);
    machine
}

fn restored(machine: &Machine, keep_locks: bool) -> Machine {
    let state = machine.state.restored(keep_locks).unwrap();
    state.assert_invariants();
    assert_eq!(State::decode(&state.encode()).unwrap(), state);
    assert_eq!(machine.state.restored(keep_locks).unwrap(), state, "the same for every member");
    // The new cluster has a log of its own.
    Machine { state, index: 0, now_ms: machine.now_ms }
}

fn holders(machine: &Machine, signature: &str) -> Vec<String> {
    let record = machine.state.check("default", signature);
    record.into_iter().flat_map(|record| record.holders).map(|holder| holder.signee).collect()
}

#[test]
fn locks_are_kept_and_sessions_and_places_are_not() {
    let before = full();
    let token = before.state.check("default", "plain").unwrap().holders[0].token;
    let mut after = restored(&before, true);
    assert_eq!(holders(&after, "plain"), ["ann"]);
    assert_eq!(holders(&after, "queued"), ["ann"]);
    assert_eq!(holders(&after, "permits"), ["ann", "bob"]);
    assert_eq!(holders(&after, "session"), Vec::<String>::new());
    let counts = after.state.counts();
    assert_eq!((counts.records, counts.waiting, counts.sessions, counts.lanes), (3, 0, 0, 0));
    assert_eq!(after.state.check("default", "permits").unwrap().limit, Some(3));

    // Whoever holds a lock goes on with it, and whoever gets one has a much larger token.
    let renewal = LockCommand { token: Some(token), ..named("plain", "ann") };
    assert!(matches!(after.lock(renewal), LockStatus::Renewed(grant) if grant.token == token));
    let LockStatus::Ok(grant) = after.lock(named("new", "ann")) else { panic!("it is free") };
    assert!(grant.token.0 > token.0 + TOKEN_GAP, "{grant:?}");
    assert_eq!(reason(&after.lock(named("plain", "bob"))), Some(ForbiddenReason::Held));

    // The session is told that it is lost.
    let outcome = after.outcome(Operation::KeepAlive(vec![Seen { session: SESSION, seen: None }]));
    assert!(matches!(outcome, Outcome::KeptAlive(ref alive) if *alive == [Liveness::Lost]));

    // The table has its defaults: five seconds.
    after.lock(LockCommand { signature: "short".into(), duration_ms: None, ..by("ann") });
    let expires = after.state.check("default", "short").unwrap().holders[0].expires_in;
    assert_eq!(expires.as_millis(), 5000);

    // A lock that was kept lives as long as it would have.
    after.pass(61_000);
    assert!(matches!(after.lock(named("plain", "bob")), LockStatus::Transferred { .. }));
}

#[test]
fn without_locks_everybody_asks_again() {
    let mut after = restored(&full(), false);
    assert_eq!(after.state.counts().records, 0);
    assert_eq!(after.state.counts().tables, 1, "with its defaults");
    let unlock = release("ann");
    assert_eq!(after.unlock(unlock), UnlockStatus::NoLock);
}

#[test]
fn a_lock_of_a_deleted_table_does_not_come_back() {
    let mut machine = machine();
    machine.lock(LockCommand { duration_ms: Some(60_000), ..by("ann") });
    for number in 0..3000 {
        machine.apply(vec![Command::from(Operation::Lock(Box::new(LockCommand {
            wait_ms: 60_000,
            ..by(&format!("{number:05}"))
        })))]);
    }
    machine.outcome(Operation::DeleteTable { table: "default".into() });
    // The deletion is not worked off, and somebody has the lock already again.
    let after = restored(&machine, true);
    assert_eq!(after.state.counts().records, 0);
    machine.lock(named("again", "bob"));
    let after = restored(&machine, true);
    assert_eq!(holders(&after, "again"), ["bob"]);
    assert_eq!(after.state.counts().records, 1);
}

#[test]
fn a_request_of_the_old_cluster_is_not_taken_for_one_of_the_new() {
    let mut machine = full();
    let request_id = Some(RequestId { lane: 9, seq: 2 });
    let first = Command { request_id: Some(RequestId { lane: 9, seq: 1 }), ..lock_command("r") };
    machine.decide(first);
    let again = Command { request_id, ..lock_command("r") };
    let mut after = restored(&machine, true);
    let decision = after.decide(again);
    assert!(matches!(decision.outcome, Outcome::Refused(_)), "{decision:?}");
}

fn lock_command(signature: &str) -> Command {
    Operation::Lock(Box::new(named(signature, "ann"))).into()
}

#[test]
fn tokens_that_are_used_up_are_an_error() {
    let mut machine = machine();
    let mut meta = machine.state.clone();
    meta.next_token = MAX_SAFE_INTEGER - TOKEN_GAP;
    machine.state = meta;
    let mut last = restored(&machine, true);
    assert!(
        matches!(last.lock(by("ann")), LockStatus::Ok(grant) if grant.token == Token(MAX_SAFE_INTEGER))
    );
    machine.state.next_token += 1;
    let error = machine.state.restored(true).unwrap_err().to_string();
    assert!(error.contains("beyond the largest"), "{error}");
}
