//! Tables: defaults, and deletion as a whole.

use std::time::Duration;

use super::{Machine, by, release, with_id};
use crate::lock::{
    ClusterTime, Command, Keep, LockCommand, Operation, Outcome, Proposal, Refusal, Stamp, State,
    TableCommand, UnlockCommand,
};
use crate::types::{
    ListRequest, LockStatus, RecordState, TableDefaults, TableInfo, TablesRequest, Token,
    UnlockStatus,
};

fn all_tables(machine: &Machine) -> Vec<TableInfo> {
    machine.state.tables(&TablesRequest::default()).0
}

fn configure(duration_ms: Option<u64>, time_to_live: Option<Keep>) -> TableCommand {
    TableCommand { table: "default".into(), duration_ms, time_to_live, ..TableCommand::default() }
}

/// The times that a request with these times of its own gets: until its expiry and until its
/// removal.
fn times(machine: &mut Machine, own: (Option<u64>, Option<Keep>)) -> (u128, Option<u128>) {
    let (duration_ms, time_to_live) = own;
    let status = machine.lock(LockCommand { duration_ms, time_to_live, ..by("ann") });
    let (LockStatus::Ok(grant) | LockStatus::Renewed(grant)) = status else {
        panic!("not granted: {status:?}")
    };
    (grant.expires_in.as_millis(), grant.removed_in.map(|left| left.as_millis()))
}

#[test]
fn a_request_takes_what_it_leaves_out_from_its_table() {
    let day = 86_400_000;
    let (ms, ever) = (|ms| Some(Keep::Ms(ms)), Some(Keep::ForEver));
    let rows = [
        ((None, None), (None, None), (30_000, Some(day + 30_000))),
        ((None, None), (Some(5), None), (5, Some(day + 5))),
        ((None, None), (Some(5), ms(5)), (5, Some(5))),
        ((None, None), (Some(5), ever), (5, None)),
        ((Some(7), None), (None, None), (7, Some(day + 7))),
        ((Some(7), ms(9)), (None, None), (7, Some(9))),
        ((Some(7), ms(9)), (Some(8), None), (8, Some(9))),
        ((Some(7), ms(9)), (Some(10), None), (10, Some(10))),
        ((Some(7), ms(9)), (None, ms(8)), (7, Some(8))),
        ((Some(7), ms(9)), (None, ever), (7, None)),
        ((None, ms(9)), (None, None), (30_000, Some(30_000))),
        ((None, ever), (None, None), (30_000, None)),
        ((Some(7), ever), (None, ms(8)), (7, Some(8))),
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
    machine.outcome(configure(Some(5), Some(Keep::Ms(5))));
    assert_eq!(machine.holder().unwrap().expires_in, Duration::from_secs(1));
    assert_eq!(times(&mut machine, (None, None)), (5, Some(5)));
    machine.outcome(configure(None, None));
    assert_eq!(times(&mut machine, (None, None)), (30_000, Some(86_430_000)));
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
    // Names with a common beginning, so that a mistake in the range would show.
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
    let names: Vec<_> = all_tables(&machine).into_iter().map(|info| info.table).collect();
    assert_eq!(names, ["tab", "table\u{1}", "table2"]);
    assert_eq!(machine.state.list("table", &ListRequest::default()), (vec![], None));
    assert_eq!(machine.state.counts().records, 6);
    let again = machine.lock(LockCommand { table: "table".into(), ..by("ann") });
    assert!(matches!(again, LockStatus::Ok(grant) if grant.token == Token(9)));
}

/// A state whose default table has this many locks, of odd durations, each removed in its time.
fn many(count: u64) -> Machine {
    let mut machine = Machine::default();
    machine.state.track_changes(true);
    let command = |number: u64| {
        let lock = LockCommand {
            signature: format!("{number:06}").into(),
            duration_ms: Some(1 + number % 7),
            time_to_live: Some(Keep::Ms(1 + number % 7)),
            ..by("ann")
        };
        Command::from(Operation::from(lock))
    };
    let stamp = Stamp { term: super::TERM, time: ClusterTime(0) };
    let commands = (0..count).map(command).collect();
    machine.state.apply(super::TERM, 0, &Proposal { stamp, commands });
    machine
}

#[test]
fn deleting_a_table_is_one_step_and_leaves_nothing_to_work_off() {
    for count in [1, 10_000] {
        let mut machine = many(count);
        machine.lock(LockCommand { table: "other".into(), ..by("bob") });
        let next = machine.state.next_deadline();
        assert_eq!(next, Some(ClusterTime(1000)));
        let delete = Operation::DeleteTable { table: "default".into() };
        assert_eq!(machine.outcome(delete.clone()), Outcome::Table);
        // Only the other table's lock is left in the counts, the listings and the deadlines.
        assert_eq!(machine.state.next_deadline(), Some(ClusterTime(1_000_000)));
        let counts = machine.state.counts();
        assert_eq!((counts.records, counts.unexpired, counts.tables), (1, 1, 1));
        assert_eq!((counts.expiries, counts.removals), (0, 0));
        assert_eq!(machine.state.encoded_records().count(), 1);
        let deleted = machine.state.take_deleted();
        assert!(!deleted.is_empty());
        assert!(machine.state.take_deleted().is_empty());
        // The deleted table plays no part in later entries while it is not freed.
        machine.pass(10);
        assert_eq!(machine.state.counts().expiries, 0);
    }
}

#[test]
fn a_lock_of_a_deleted_table_is_new_at_once_and_again_after_a_second_deletion() {
    let mut machine = many(10_000);
    let delete = || Operation::DeleteTable { table: "default".into() };
    let lock = || LockCommand { signature: "000003".into(), ..by("bob") };
    machine.outcome(delete());
    assert!(matches!(machine.lock(lock()), LockStatus::Ok(grant) if grant.token == Token(10_001)));
    assert_eq!(machine.state.counts().records, 1);
    machine.outcome(delete());
    assert_eq!(machine.state.check("default", "000003"), None);
    assert!(matches!(machine.lock(lock()), LockStatus::Ok(grant) if grant.token == Token(10_002)));
    let restored = State::decode(&machine.state.encode()).unwrap();
    assert_eq!(restored, machine.state);
}

#[test]
fn the_checkpoint_is_told_of_each_deleted_record_that_it_has_and_of_no_other() {
    let mut machine = many(100);
    let mut copy = std::collections::BTreeMap::new();
    let mut take = |machine: &mut Machine| {
        let changes = machine.state.take_changes();
        let gone = changes.records.iter().filter(|(_, value)| value.is_none()).count();
        for (key, value) in changes.records {
            match value {
                Some(value) => drop(copy.insert(key, value)),
                None => assert!(copy.remove(&key).is_some(), "never told of, or told of twice"),
            }
        }
        assert!(copy.clone().into_iter().eq(machine.state.encoded_records()));
        gone
    };
    take(&mut machine);
    // After the last take, one is renewed, one taken over, one released, and two are new.
    machine.lock(LockCommand { signature: "000001".into(), ..by("ann") });
    machine.lock(LockCommand { signature: "000002".into(), force: true, ..by("bob") });
    machine.unlock(UnlockCommand { signature: "000003".into(), ..release("ann") });
    machine.lock(LockCommand { signature: "new".into(), ..by("ann") });
    machine.lock(LockCommand { signature: "new too".into(), ..by("ann") });
    let delete = || Operation::DeleteTable { table: "default".into() };
    machine.outcome(delete());
    machine.lock(LockCommand { signature: "000001".into(), ..by("ann") });
    assert_eq!(take(&mut machine), 100);
    machine.outcome(delete());
    machine.lock(LockCommand { signature: "000001".into(), ..by("ann") });
    machine.outcome(delete());
    assert_eq!(take(&mut machine), 1);
}

#[test]
fn a_page_passes_over_a_bounded_number_of_records_and_says_where_to_go_on() {
    let mut machine = many(20_000);
    machine.lock(LockCommand { signature: "z".into(), ..by("ann") });
    // All but the last are due for removal, and one apply works off a part of them.
    machine.pass(20);
    let mut request = ListRequest { limit: 10, ..ListRequest::default() };
    let mut pages = 0;
    let found = loop {
        let (page, next) = machine.state.list("default", &request);
        pages += 1;
        match next {
            Some(next) => {
                assert!(page.is_empty());
                assert!(Some(&next) > request.after.as_ref(), "it goes on");
                request.after = Some(next);
            }
            None => break page,
        }
    };
    assert_eq!(found.len(), 1);
    assert!((3..=6).contains(&pages), "{pages}");
}

#[test]
fn deleting_what_is_no_table_says_so_and_says_it_again() {
    let mut machine = Machine::default();
    let delete = || Operation::DeleteTable { table: "default".into() };
    let none = machine.decide(with_id(delete(), 1, 1));
    assert_eq!(none.outcome, Outcome::NoTable);
    // Defaults alone make a table exist, and so do records alone.
    machine.outcome(configure(None, Some(Keep::ForEver)));
    assert_eq!(machine.decide(with_id(delete(), 2, 1)).outcome, Outcome::Table);
    machine.lock(by("ann"));
    machine.state = State::decode(&machine.state.encode()).unwrap();
    assert_eq!(machine.decide(with_id(delete(), 1, 1)), none, "a copy deletes nothing");
    assert_eq!(machine.state.counts().records, 1);
    assert_eq!(machine.outcome(delete()), Outcome::Table);
    assert_eq!(machine.outcome(delete()), Outcome::NoTable);
    machine.outcome(configure(Some(5), None));
    machine.outcome(configure(None, None));
    assert_eq!(machine.outcome(delete()), Outcome::NoTable);
}

/// Every page of one state, as the signatures of its records.
fn pages(machine: &Machine, state: RecordState, limit: u32) -> Vec<Vec<String>> {
    let mut request = ListRequest { limit, state: Some(state), ..ListRequest::default() };
    let mut pages = Vec::new();
    loop {
        let (page, next) = machine.state.list("default", &request);
        assert!(page.len() <= limit as usize);
        pages.push(page.into_iter().map(|record| record.signature).collect());
        let Some(next) = next else { return pages };
        assert!(Some(&next) > request.after.as_ref(), "it goes on");
        request.after = Some(next);
    }
}

#[test]
fn a_page_of_one_state_has_no_other_and_none_is_left_out() {
    let mut machine = Machine::default();
    for number in 0..10 {
        let duration_ms = Some(if number % 3 == 0 { 1000 } else { 5000 });
        let signature = number.to_string().into();
        machine.lock(LockCommand { signature, duration_ms, ..by("ann") });
    }
    machine.pass(1000);
    let held: Vec<String> = ["1", "2", "4", "5", "7", "8"].map(str::to_owned).into();
    let expired: Vec<String> = ["0", "3", "6", "9"].map(str::to_owned).into();
    for limit in [1, 2, 3, 6, 1000] {
        for (state, all) in [(RecordState::Held, &held), (RecordState::Expired, &expired)] {
            let pages = pages(&machine, state, limit);
            assert_eq!(pages.concat(), *all, "{limit}");
            assert_eq!(pages.len(), all.len().div_ceil(limit as usize), "none follows the last");
        }
    }
    machine.pass(5000);
    assert_eq!(pages(&machine, RecordState::Held, 2), [Vec::<String>::new()]);
}

#[test]
fn a_page_of_one_state_passes_over_a_bounded_number_of_records() {
    let mut machine = Machine::default();
    let stamp = Stamp { term: super::TERM, time: ClusterTime(0) };
    let lock = |number: u32| {
        let signature = format!("{number:06}").into();
        Command::from(Operation::from(LockCommand { signature, ..by("ann") }))
    };
    let commands = (0..20_000).map(lock).collect();
    machine.state.apply(super::TERM, 0, &Proposal { stamp, commands });
    machine.pass(1000);
    machine.lock(LockCommand { signature: "z".into(), ..by("ann") });
    let pages = pages(&machine, RecordState::Held, 10);
    assert!((5..=6).contains(&pages.len()), "{}", pages.len());
    assert_eq!(pages.concat(), ["z"]);
}

#[test]
fn tables_come_in_pages() {
    let mut machine = Machine::default();
    for table in ["b", "a", "c"] {
        machine.lock(LockCommand { table: table.into(), ..by("ann") });
    }
    let page = |after: Option<&str>, limit| {
        let request = TablesRequest { after: after.map(str::to_owned), limit };
        let (tables, next) = machine.state.tables(&request);
        (tables.into_iter().map(|info| info.table).collect::<Vec<_>>(), next)
    };
    let of = |names: &[&str], next: Option<&str>| {
        (names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>(), next.map(str::to_owned))
    };
    assert_eq!(page(None, 3), of(&["a", "b", "c"], None));
    assert_eq!(page(None, 2), of(&["a", "b"], Some("b")));
    assert_eq!(page(Some("b"), 2), of(&["c"], None));
    assert_eq!(page(Some("aa"), 0), of(&["b"], Some("b")));
}

#[test]
fn tables_lists_those_with_defaults_or_records() {
    let mut machine = Machine::default();
    assert_eq!(all_tables(&machine), []);
    machine.lock(LockCommand { table: "b".into(), ..by("ann") });
    machine.outcome(TableCommand { table: "a".into(), ..configure(Some(5), None) });
    let defaults = TableDefaults {
        duration: Some(Duration::from_millis(5)),
        time_to_live: None,
        ..TableDefaults::default()
    };
    let info =
        |table: &str, defaults, locks| TableInfo { table: table.to_owned(), defaults, locks };
    assert_eq!(
        all_tables(&machine),
        [info("a", defaults, 0), info("b", TableDefaults::default(), 1)]
    );
    machine.outcome(TableCommand { table: "a".into(), ..configure(None, None) });
    machine.unlock(UnlockCommand { table: "b".into(), ..release("ann") });
    assert_eq!(all_tables(&machine), []);
}

#[test]
fn a_page_is_in_byte_order_within_its_prefix_and_after() {
    let mut machine = Machine::default();
    for signature in ["b", "a/2", "a", "a/10", "é", "a/"] {
        machine.lock(LockCommand { signature: signature.into(), ..by("ann") });
    }
    let page = |prefix: &str, after: Option<&str>, limit| {
        let request = ListRequest {
            prefix: prefix.to_owned(),
            after: after.map(str::to_owned),
            limit,
            state: None,
        };
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
    assert_eq!(machine.outcome(Operation::DeleteTable { table: nul() }), Outcome::NoTable);
    assert_eq!(machine.state.check("a", "b\0c"), None);
}
