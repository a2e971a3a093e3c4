//! Each row of the contract's table, in its order.

use super::{Machine, by, grant, holder, release};
use crate::lock::{LockCommand, UnlockCommand};
use crate::types::{Forbidden, ForbiddenReason, LockStatus, Token, TransferReason, UnlockStatus};

const NOT_EXPIRED: u64 = 999;
const EXPIRED: u64 = 1000;

/// The answer to a command when Ann has held the lock at level 5 for this long.
fn after_ann_at_5(passed_ms: u64, command: LockCommand) -> LockStatus {
    let mut machine = Machine::default();
    machine.lock(LockCommand { level: Some(5), ..by("ann") });
    machine.pass(passed_ms);
    machine.lock(command)
}

fn transferred(reason: TransferReason, level: i64) -> LockStatus {
    let previous_signee = "ann".to_owned();
    LockStatus::Transferred { grant: grant(2, level, 1000), previous_signee, reason }
}

fn held_by_ann(expires_in_ms: u64) -> LockStatus {
    let holders = vec![holder("ann", 1, 5, expires_in_ms)];
    LockStatus::Failed(Forbidden::new(ForbiddenReason::Held, holders))
}

fn lost_with_ann(expires_in_ms: u64) -> LockStatus {
    let holders = vec![holder("ann", 1, 5, expires_in_ms)];
    LockStatus::Failed(Forbidden::new(ForbiddenReason::Lost, holders))
}

#[test]
fn the_first_row_that_matches_wins() {
    let at = |signee, level| LockCommand { level, ..by(signee) };
    let force = |signee, level| LockCommand { force: true, ..at(signee, level) };
    let second_ann = || LockCommand { instance: Some("2".into()), ..by("ann") };
    let rows = [
        ("mine", NOT_EXPIRED, by("ann"), LockStatus::Renewed(grant(1, 0, 1000))),
        ("mine, level", NOT_EXPIRED, at("ann", Some(-7)), LockStatus::Renewed(grant(1, -7, 1000))),
        ("mine, force", NOT_EXPIRED, force("ann", None), LockStatus::Renewed(grant(1, 0, 1000))),
        ("mine, expired", EXPIRED, by("ann"), LockStatus::Renewed(grant(2, 0, 1000))),
        (
            "mine, expired, force",
            EXPIRED,
            force("ann", None),
            LockStatus::Renewed(grant(2, 0, 1000)),
        ),
        ("expired", EXPIRED, by("bob"), transferred(TransferReason::Expired, 0)),
        ("expired, lower", EXPIRED, at("bob", Some(-1)), transferred(TransferReason::Expired, -1)),
        ("expired, force", EXPIRED, force("bob", None), transferred(TransferReason::Expired, 0)),
        ("force", NOT_EXPIRED, force("bob", None), transferred(TransferReason::Forced, 0)),
        (
            "force, higher",
            NOT_EXPIRED,
            force("bob", Some(6)),
            transferred(TransferReason::Forced, 6),
        ),
        ("higher", NOT_EXPIRED, at("bob", Some(6)), transferred(TransferReason::Preempted, 6)),
        ("same level", NOT_EXPIRED, at("bob", Some(5)), held_by_ann(1)),
        ("lower level", NOT_EXPIRED, at("bob", Some(4)), held_by_ann(1)),
        ("no level", NOT_EXPIRED, by("bob"), held_by_ann(1)),
        ("another instance", NOT_EXPIRED, second_ann(), held_by_ann(1)),
        (
            "another instance, expired",
            EXPIRED,
            second_ann(),
            transferred(TransferReason::Expired, 0),
        ),
    ];
    for (row, passed_ms, command, expected) in rows {
        assert_eq!(after_ann_at_5(passed_ms, command), expected, "{row}");
    }
}

#[test]
fn a_free_lock_is_granted_with_a_new_token() {
    let mut machine = Machine::default();
    assert_eq!(machine.lock(by("ann")), LockStatus::Ok(grant(1, 0, 1000)));
    machine.unlock(release("ann"));
    let negative = LockCommand { level: Some(i64::MIN), ..by("bob") };
    assert_eq!(machine.lock(negative), LockStatus::Ok(grant(2, i64::MIN, 1000)));
}

#[test]
fn with_a_token_it_is_renew_only() {
    let renew = |signee, token| LockCommand { token: Some(Token(token)), ..by(signee) };
    let rows = [
        ("mine, level kept", NOT_EXPIRED, renew("ann", 1), LockStatus::Renewed(grant(1, 5, 1000))),
        (
            "mine, level changed",
            NOT_EXPIRED,
            LockCommand { level: Some(0), ..renew("ann", 1) },
            LockStatus::Renewed(grant(1, 0, 1000)),
        ),
        ("another token", NOT_EXPIRED, renew("ann", 2), lost_with_ann(1)),
        ("expired", EXPIRED, renew("ann", 1), lost_with_ann(0)),
        ("another's", NOT_EXPIRED, renew("bob", 1), lost_with_ann(1)),
        ("another's, expired", EXPIRED, renew("bob", 1), lost_with_ann(0)),
        (
            "another's, higher",
            NOT_EXPIRED,
            LockCommand { level: Some(9), ..renew("bob", 1) },
            lost_with_ann(1),
        ),
        (
            "another's, forced",
            NOT_EXPIRED,
            LockCommand { force: true, ..renew("bob", 1) },
            lost_with_ann(1),
        ),
        (
            "another instance",
            NOT_EXPIRED,
            LockCommand { instance: Some("2".into()), ..renew("ann", 1) },
            lost_with_ann(1),
        ),
    ];
    for (row, passed_ms, command, expected) in rows {
        assert_eq!(after_ann_at_5(passed_ms, command), expected, "{row}");
    }
}

#[test]
fn renew_only_never_creates_a_grant() {
    let mut machine = Machine::default();
    let renew = LockCommand { token: Some(Token(1)), ..by("ann") };
    let lost = Forbidden::new(ForbiddenReason::Lost, Vec::new());
    assert_eq!(machine.lock(renew.clone()), LockStatus::Failed(lost.clone()));
    machine.lock(by("ann"));
    machine.unlock(release("ann"));
    assert_eq!(machine.lock(renew), LockStatus::Failed(lost));
    assert_eq!(machine.holder(), None);
}

#[test]
fn unlock_releases_what_is_mine_and_nothing_else() {
    let with = |signee, token| UnlockCommand { token: Some(Token(token)), ..release(signee) };
    let second = |token| UnlockCommand { instance: Some("2".into()), token, ..release("ann") };
    let refused = |reason, expires_in_ms| {
        let holders = vec![holder("ann", 1, 0, expires_in_ms)];
        UnlockStatus::Failed(Forbidden::new(reason, holders))
    };
    let rows = [
        ("mine", NOT_EXPIRED, release("ann"), UnlockStatus::Ok),
        ("mine, expired", EXPIRED, release("ann"), UnlockStatus::Ok),
        ("mine, token", NOT_EXPIRED, with("ann", 1), UnlockStatus::Ok),
        ("mine, token, expired", EXPIRED, with("ann", 1), UnlockStatus::Ok),
        ("another token", NOT_EXPIRED, with("ann", 2), refused(ForbiddenReason::Lost, 1)),
        ("another's", NOT_EXPIRED, release("bob"), refused(ForbiddenReason::Held, 1)),
        ("another's, expired", EXPIRED, release("bob"), refused(ForbiddenReason::Held, 0)),
        ("another's, token", NOT_EXPIRED, with("bob", 1), refused(ForbiddenReason::Lost, 1)),
        ("another instance", NOT_EXPIRED, second(None), refused(ForbiddenReason::Held, 1)),
    ];
    for (row, passed_ms, command, expected) in rows {
        let mut machine = Machine::default();
        machine.lock(by("ann"));
        machine.pass(passed_ms);
        assert_eq!(machine.unlock(command), expected, "{row}");
        assert_eq!(machine.holder().is_none(), expected == UnlockStatus::Ok, "{row}");
    }
}

#[test]
fn unlocking_what_is_not_there_is_a_success() {
    let mut machine = Machine::default();
    assert_eq!(machine.unlock(release("ann")), UnlockStatus::NoLock);
    machine.lock(by("ann"));
    assert_eq!(machine.unlock(release("ann")), UnlockStatus::Ok);
    assert_eq!(machine.unlock(release("ann")), UnlockStatus::NoLock);
}

#[test]
fn a_released_token_never_releases_a_later_grant() {
    let mut machine = Machine::default();
    machine.lock(by("ann"));
    let late = UnlockCommand { token: Some(Token(1)), ..release("ann") };
    assert_eq!(machine.unlock(late.clone()), UnlockStatus::Ok);
    machine.lock(by("ann"));
    assert!(matches!(machine.unlock(late), UnlockStatus::Failed(_)));
    assert_eq!(machine.holder().unwrap().token, Token(2));
}

#[test]
fn a_refusal_changes_nothing() {
    let mut machine = Machine::default();
    machine.lock(LockCommand { level: Some(5), ..by("ann") });
    let before = machine.state.encode();
    machine.lock(by("bob"));
    machine.unlock(release("bob"));
    machine.lock(LockCommand { token: Some(Token(7)), ..by("ann") });
    assert_eq!(machine.state.encode(), before);
}
