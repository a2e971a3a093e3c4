//! Behaviour at the limits, and on input that the edge would refuse.

use std::time::Duration;

use proptest::prelude::*;

use super::{Machine, TERM, by, principal, with_id};
use crate::error::Error;
use crate::lock::{
    ClusterTime, Command, Keep, LockCommand, Operation, Outcome, Proposal, Query, Refusal, Stamp,
    State, TableCommand, UnlockCommand,
};
use crate::types::{
    CallOptions, ListRequest, LockOptions, LockRequest, LockStatus, MAX_DURATION, MAX_NAME_BYTES,
    MAX_SAFE_INTEGER, ReadOptions, RequestId, TableDefaults, TableOptions, TablesRequest, Token,
    UnlockOptions, UnlockRequest,
};

#[test]
fn when_tokens_run_out_there_are_renewals_but_no_new_grants() {
    let mut machine = Machine::default();
    machine.state.next_token = MAX_SAFE_INTEGER;
    let last = machine.lock(by("ann"));
    assert!(matches!(last, LockStatus::Ok(grant) if grant.token == Token(MAX_SAFE_INTEGER)));
    assert!(matches!(machine.lock(by("ann")), LockStatus::Renewed(_)));
    let forced = LockCommand { force: true, ..by("bob") };
    let refused = Outcome::Refused(Refusal::TokensExhausted);
    assert_eq!(machine.decide(with_id(forced.clone(), 1, 1)).outcome, refused);
    assert_eq!(machine.holder().unwrap().signee, "ann");
    assert_eq!(State::decode(&machine.state.encode()).as_ref(), Ok(&machine.state));
    // Even if there are tokens again, a delayed copy acquires nothing.
    machine.state.next_token -= 1;
    assert_eq!(machine.decide(with_id(forced, 1, 1)).outcome, refused);
}

#[test]
fn a_deadline_at_the_end_of_time_never_comes() {
    let mut machine = Machine::default();
    machine.lock(LockCommand {
        duration_ms: Some(u64::MAX),
        time_to_live: Some(Keep::Ms(u64::MAX)),
        ..by("ann")
    });
    assert_eq!(machine.state.next_deadline(), None);
    let stamp = Stamp { term: TERM, time: ClusterTime::NEVER };
    machine.state.apply(TERM, 2, &Proposal { stamp, commands: vec![Command::advance()] });
    machine.state.assert_invariants();
    assert!(!machine.holder().unwrap().expired);
    assert_eq!(State::decode(&machine.state.encode()).as_ref(), Ok(&machine.state));
}

#[test]
fn a_feature_level_rises_and_never_falls() {
    let mut machine = Machine::default();
    assert_eq!(machine.state.feature_level(), 1);
    machine.outcome(Operation::RaiseFeatureLevel(3));
    machine.outcome(Operation::RaiseFeatureLevel(2));
    assert_eq!(machine.state.feature_level(), 3);
    let read = State::decode(&machine.state.encode()).unwrap();
    assert_eq!(read.feature_level(), 3, "who decodes it judges whether it is too new");
}

fn text() -> impl Strategy<Value = Box<str>> {
    prop_oneof![
        Just("".into()),
        Just("a".into()),
        Just("\0".into()),
        Just("a\0b".into()),
        any::<String>().prop_map(String::into_boxed_str),
        Just("x".repeat(3000).into_boxed_str()),
    ]
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(1), Just(u64::MAX), Just(u64::MAX / 1000), any::<u64>()]
}

/// Every eighth number is for ever.
fn keep(number: u64) -> Keep {
    if number % 8 == 7 { Keep::ForEver } else { Keep::Ms(number) }
}

fn lock() -> impl Strategy<Value = Operation> {
    let names = (text(), text(), text(), proptest::option::of(text()));
    let level = proptest::option::of(any::<i64>());
    let numbers = proptest::array::uniform3(proptest::option::of(number()));
    (names, level, any::<bool>(), numbers).prop_map(|(names, level, force, numbers)| {
        let (table, signature, signee, instance) = names;
        let [duration_ms, kept, token] = numbers;
        let time_to_live = kept.map(keep);
        let token = token.map(Token);
        Operation::Lock(Box::new(LockCommand {
            table,
            signature,
            signee,
            instance,
            level,
            force,
            duration_ms,
            time_to_live,
            token,
            ..LockCommand::default()
        }))
    })
}

fn operation() -> impl Strategy<Value = Operation> {
    let unlock = (text(), text(), text(), proptest::option::of(text()), number()).prop_map(
        |(table, signature, signee, instance, token)| {
            let token = Some(Token(token));
            Operation::Unlock(Box::new(UnlockCommand {
                table,
                signature,
                signee,
                instance,
                token,
                ..UnlockCommand::default()
            }))
        },
    );
    let table = (text(), proptest::option::of(number()), proptest::option::of(number())).prop_map(
        |(table, duration_ms, kept)| {
            let time_to_live = kept.map(keep);
            let command =
                TableCommand { table, duration_ms, time_to_live, ..TableCommand::default() };
            Operation::ConfigureTable(Box::new(command))
        },
    );
    prop_oneof![
        4 => lock(),
        2 => unlock,
        1 => Just(Operation::Advance),
        1 => table,
        1 => text().prop_map(|table| Operation::DeleteTable { table }),
        1 => (0..2_u32).prop_map(Operation::RaiseFeatureLevel),
    ]
}

pub(super) fn proposal() -> impl Strategy<Value = Proposal> {
    let id = proptest::option::of((0..3_u128, 0..3_u64));
    let id = id.prop_map(|id| id.map(|(lane, seq)| RequestId { lane, seq }));
    let audit = || proptest::option::of(text());
    let command =
        (id, audit(), audit(), operation()).prop_map(|(request_id, actor, cause, operation)| {
            let principal = actor.as_deref().map(principal);
            Command { request_id, principal, cause, operation }
        });
    (0..2_u64, number(), proptest::collection::vec(command, 0..6)).prop_map(
        |(term, time, commands)| {
            let stamp = Stamp { term, time: ClusterTime(time) };
            Proposal { stamp, commands }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn apply_is_total(proposals in proptest::collection::vec(proposal(), 0..12)) {
        let mut state = State::new();
        for (index, proposal) in (0..).zip(&proposals) {
            prop_assert_eq!(&Proposal::decode(&proposal.encode()).unwrap(), proposal);
            let decisions = state.apply(1, index, proposal);
            prop_assert_eq!(decisions.len(), proposal.commands.len());
            state.assert_invariants();
            let restored = State::decode(&state.encode());
            prop_assert_eq!(restored.as_ref(), Ok(&state));
            for info in state.tables(&TablesRequest::default()).0 {
                let (page, _) = state.list(&info.table, &ListRequest::default());
                for record in page {
                    prop_assert!(state.check(&info.table, &record.signature).is_some());
                }
            }
        }
    }
}

fn reason<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    let error = result.unwrap_err();
    let Error::BadRequest { reason } = error else { panic!("not a bad request: {error:?}") };
    reason
}

fn validated(request: LockRequest, options: LockOptions) -> Result<(), Error> {
    Command::lock(request, options)?.validate()
}

fn lock_request() -> (LockRequest, LockOptions) {
    let request = LockRequest { signature: "s".into(), signee: "ann".into(), level: None };
    (request, LockOptions::default())
}

#[test]
fn each_bad_lock_request_is_refused_with_its_reason() {
    type Change = fn(&mut LockRequest, &mut LockOptions);
    let rows: [(Change, &str); 17] = [
        (|r, _| r.signature.clear(), "the signature is empty; it must have 1 to 1024 bytes"),
        (|r, _| r.signee.clear(), "the signee is empty"),
        (|_, o| o.instance = Some(String::new()), "the instance is empty"),
        (|_, o| o.table = Some(String::new()), "the table is empty"),
        (|r, _| r.signature = "é".repeat(513), "the signature has 1026 bytes; at most 1024"),
        (|r, _| r.signee = "a".repeat(1025), "the signee has 1025 bytes; at most 1024"),
        (|_, o| o.table = Some("a".repeat(1025)), "the table has 1025 bytes"),
        (|r, _| r.signature = "a\0".into(), "the signature contains a NUL byte"),
        (|_, o| o.duration = Some(Duration::ZERO), "the duration is 0 ms; it must be at least 1"),
        (|_, o| o.duration = Some(Duration::from_micros(1500)), "a whole number of milliseconds"),
        (
            |_, o| o.duration = Some(MAX_DURATION + Duration::from_millis(1)),
            "the duration is 31622400001 ms; it must be 1 ms to 31622400000 ms (366 days)",
        ),
        (|_, o| o.duration = Some(Duration::MAX), "the duration is"),
        (|_, o| o.time_to_live = Some(Duration::ZERO.into()), "the time_to_live is 0 ms"),
        (|_, o| o.time_to_live = Some(Duration::from_secs(u64::MAX).into()), "the time_to_live is"),
        (
            |_, o| {
                o.duration = Some(Duration::from_millis(2));
                o.time_to_live = Some(Duration::from_millis(1).into());
            },
            "the time_to_live is 1 ms; it must not be shorter than the duration, 2 ms",
        ),
        (|_, o| o.token = Some(Token(0)), "the token is 0; it must be 1 to 9007199254740991"),
        (
            |_, o| o.call = CallOptions { cause: Some("a".repeat(1025)), ..CallOptions::default() },
            "the cause has 1025 bytes; at most 1024",
        ),
    ];
    for (change, expected) in rows {
        let (mut request, mut options) = lock_request();
        change(&mut request, &mut options);
        let reason = reason(validated(request, options));
        assert!(reason.contains(expected), "{reason:?} does not say {expected:?}");
    }
}

#[test]
fn requests_at_the_limits_are_accepted() {
    let (mut request, mut options) = lock_request();
    request.signature = "a".repeat(MAX_NAME_BYTES);
    request.signee = "\u{1}".into();
    request.level = Some(i64::MIN);
    options.duration = Some(MAX_DURATION);
    options.time_to_live = Some(Duration::from_millis(MAX_SAFE_INTEGER).into());
    options.token = Some(Token(MAX_SAFE_INTEGER));
    assert_eq!(validated(request.clone(), options.clone()), Ok(()));
    options.duration = Some(Duration::from_millis(1));
    options.time_to_live = Some(Duration::from_millis(1).into());
    assert_eq!(validated(request.clone(), options.clone()), Ok(()));
}

#[test]
fn other_bad_requests_are_refused_with_their_reasons() {
    let unlock = UnlockRequest { signature: "s".into(), signee: String::new() };
    let empty = reason(Command::unlock(unlock, UnlockOptions::default()).validate());
    assert!(empty.contains("signee"));
    let defaults = TableDefaults {
        duration: Some(Duration::from_secs(2)),
        time_to_live: Some(Duration::from_secs(1).into()),
        ..TableDefaults::default()
    };
    let table = Command::configure_table(defaults, TableOptions::default()).unwrap();
    assert!(reason(table.validate()).contains("shorter"));
    let no_table = TableOptions { table: Some(String::new()), ..TableOptions::default() };
    assert!(reason(Command::delete_table(no_table).validate()).contains("table is empty"));
    let options = ReadOptions::default();
    assert!(reason(Query::check(String::new(), &options).validate()).contains("signature"));
    let list = |page| Query::list(page, &options).validate();
    let tables = |after: Option<&str>, limit| {
        let page = TablesRequest { after: after.map(str::to_owned), limit };
        Query::tables(page, &options).validate()
    };
    for limit in [0, 1001] {
        let limit_reason = reason(list(ListRequest { limit, ..ListRequest::default() }));
        assert!(limit_reason.contains("it must be 1 to 1000"), "{limit_reason}");
        let limit_reason = reason(tables(None, limit));
        assert!(limit_reason.contains("it must be 1 to 1000"), "{limit_reason}");
    }
    assert!(reason(tables(Some("\0"), 1)).contains("after"));
    let nul = ListRequest { prefix: "\0".into(), ..ListRequest::default() };
    assert!(reason(list(nul)).contains("prefix"));
    assert_eq!(list(ListRequest::default()), Ok(()));
}

#[test]
fn commands_of_a_leader_are_refused_from_anybody_else() {
    for operation in [Operation::Advance, Operation::RaiseFeatureLevel(2)] {
        assert!(reason(Command::from(operation).validate()).contains("only a leader"));
    }
}
