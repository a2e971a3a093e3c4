//! Tables: defaults, and deletion as a whole.

use std::time::Duration;

use super::{Machine, by, release};
use crate::lock::{LockCommand, Operation, Outcome, Refusal, TableCommand, UnlockCommand};
use crate::types::{ListRequest, LockStatus, TableDefaults, TableInfo, Token, UnlockStatus};

fn configure(duration_ms: Option<u64>, time_to_live_ms: Option<u64>) -> TableCommand {
    TableCommand { table: "default".into(), duration_ms, time_to_live_ms }
}

/// What a request without, or with these, times gets: how long it lasts and when it is removed.
fn times(machine: &mut Machine, own: (Option<u64>, Option<u64>)) -> (u128, Option<u128>) {
    let (duration_ms, time_to_live_ms) = own;
    let status = machine.lock(LockCommand { duration_ms, time_to_live_ms, ..by("ann") });
    let (LockStatus::Ok(grant) | LockStatus::Renewed(grant)) = status else {
        panic!("not granted: {status:?}")
    };
    (grant.expires_in.as_millis(), grant.removed_in.map(|left| left.as_millis()))
}

#[test]
fn a_request_takes_what_it_leaves_out_from_its_table() {
    let rows = [
        ((None, None), (None, None), (30_000, None)),
        ((None, None), (Some(5), None), (5, None)),
        ((None, None), (Some(5), Some(5)), (5, Some(5))),
        ((Some(7), None), (None, None), (7, None)),
        ((Some(7), Some(9)), (None, None), (7, Some(9))),
        ((Some(7), Some(9)), (Some(8), None), (8, Some(9))),
        ((Some(7), Some(9)), (Some(10), None), (10, Some(10))),
        ((Some(7), Some(9)), (None, Some(8)), (7, Some(8))),
        ((None, Some(9)), (None, None), (30_000, Some(30_000))),
    ];
    for ((duration, time_to_live), own, expected) in rows {
        let mut machine = Machine::default();
        assert_eq!(machine.outcome(configure(duration, time_to_live)), Outcome::Table);
        assert_eq!(times(&mut machine, own), expected, "{duration:?} {time_to_live:?} {own:?}");
    }
}

#[test]
fn defaults_hold_for_later_requests_alone() {
    let mut machine = Machine::default();
    machine.lock(by("ann"));
    machine.outcome(configure(Some(5), Some(5)));
    assert_eq!(machine.holder().unwrap().expires_in, Duration::from_secs(1));
    assert_eq!(times(&mut machine, (None, None)), (5, Some(5)));
    machine.outcome(configure(None, None));
    assert_eq!(times(&mut machine, (None, None)), (30_000, None));
}

#[test]
fn the_same_signature_in_two_tables_is_two_locks() {
    let mut machine = Machine::default();
    let other = || LockCommand { table: "other".into(), ..by("bob") };
    assert!(matches!(machine.lock(by("ann")), LockStatus::Ok(_)));
    assert!(matches!(machine.lock(other()), LockStatus::Ok(_)));
    let release_other = UnlockCommand { table: "other".into(), ..release("bob") };
    assert_eq!(machine.unlock(release_other), UnlockStatus::Ok);
    assert_eq!(machine.holder().unwrap().signee, "ann");
}

#[test]
fn a_table_is_deleted_whole_and_tokens_still_grow() {
    let mut machine = Machine::default();
    // Names that begin alike, so that a slip in the range would show.
    for table in ["tab", "table", "table\u{1}", "table2"] {
        for signature in ["a", "b"] {
            machine.lock(LockCommand {
                table: table.into(),
                signature: signature.into(),
                ..by("ann")
            });
        }
    }
    machine.outcome(TableCommand { table: "table".into(), ..configure(Some(5), None) });
    assert_eq!(machine.outcome(Operation::DeleteTable { table: "table".into() }), Outcome::Table);
    let names: Vec<_> = machine.state.tables().into_iter().map(|info| info.table).collect();
    assert_eq!(names, ["tab", "table\u{1}", "table2"]);
    assert_eq!(machine.state.list("table", &ListRequest::default()), (vec![], None));
    assert_eq!(machine.state.counts().records, 6);
    let again = machine.lock(LockCommand { table: "table".into(), ..by("ann") });
    assert!(matches!(again, LockStatus::Ok(grant) if grant.token == Token(9)));
}

#[test]
fn tables_lists_those_with_defaults_or_records() {
    let mut machine = Machine::default();
    assert_eq!(machine.state.tables(), []);
    machine.lock(LockCommand { table: "b".into(), ..by("ann") });
    machine.outcome(TableCommand { table: "a".into(), ..configure(Some(5), None) });
    let defaults = TableDefaults { duration: Some(Duration::from_millis(5)), time_to_live: None };
    let info =
        |table: &str, defaults, locks| TableInfo { table: table.to_owned(), defaults, locks };
    assert_eq!(
        machine.state.tables(),
        [info("a", defaults, 0), info("b", TableDefaults::default(), 1)]
    );
    machine.outcome(TableCommand { table: "a".into(), ..configure(None, None) });
    machine.unlock(UnlockCommand { table: "b".into(), ..release("ann") });
    assert_eq!(machine.state.tables(), []);
}

#[test]
fn a_page_is_in_byte_order_within_its_prefix_and_after() {
    let mut machine = Machine::default();
    for signature in ["b", "a/2", "a", "a/10", "é", "a/"] {
        machine.lock(LockCommand { signature: signature.into(), ..by("ann") });
    }
    let page = |prefix: &str, after: Option<&str>, limit| {
        let request =
            ListRequest { prefix: prefix.to_owned(), after: after.map(str::to_owned), limit };
        let (records, next) = machine.state.list("default", &request);
        (records.into_iter().map(|record| record.signature).collect::<Vec<_>>(), next)
    };
    let of = |names: &[&str], next: Option<&str>| {
        (names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>(), next.map(str::to_owned))
    };
    assert_eq!(page("", None, 100), of(&["a", "a/", "a/10", "a/2", "b", "é"], None));
    assert_eq!(page("", None, 2), of(&["a", "a/"], Some("a/")));
    assert_eq!(page("", Some("a/"), 2), of(&["a/10", "a/2"], Some("a/2")));
    assert_eq!(page("", Some("a/2"), 2), of(&["b", "é"], None));
    assert_eq!(page("a/", None, 100), of(&["a/", "a/10", "a/2"], None));
    assert_eq!(page("a/", Some("a"), 1), of(&["a/"], Some("a/")));
    assert_eq!(page("a/", Some("z"), 100), of(&[], None));
    assert_eq!(page("", Some("not there"), 100), of(&["é"], None));
    assert_eq!(page("a\0", Some("\0"), 100), of(&[], None));
    assert_eq!(page("", None, 0), of(&["a"], Some("a")));
}

#[test]
fn a_name_with_a_nul_is_refused_at_apply_too() {
    let mut machine = Machine::default();
    let nul = || -> Box<str> { "a\0b".into() };
    let refused = |outcome| matches!(outcome, Outcome::Refused(Refusal::BadRequest(_)));
    assert!(refused(machine.outcome(LockCommand { table: nul(), ..by("ann") })));
    assert!(refused(machine.outcome(LockCommand { signature: nul(), ..by("ann") })));
    assert!(refused(machine.outcome(UnlockCommand { signature: nul(), ..release("ann") })));
    assert!(refused(machine.outcome(TableCommand { table: nul(), ..configure(Some(1), None) })));
    assert_eq!(machine.outcome(Operation::DeleteTable { table: nul() }), Outcome::Table);
    assert_eq!(machine.state.check("a", "b\0c"), None);
}
