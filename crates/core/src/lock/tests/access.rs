//! Access control: who may ask for what, at which position of the log.

use std::sync::Arc;

use super::{Machine, TERM, by, principal, release};
use crate::access::{
    AccessToken, Change, Changed, Grantee, Pattern, Principal, Question, Right, Rule, RuleName,
    Secret,
};
use crate::error::Error;
use crate::lock::{
    ClusterTime, Command, LimitCommand, LockCommand, Operation, Outcome, Proposal, Query, Refusal,
    SessionCommand, Stamp, State, TableCommand, UnlockCommand, View,
};
use crate::types::{
    CallOptions, CloseStatus, DecidedAt, ForbiddenReason, ListRequest, Liveness, LockStatus, Mode,
    ReadOptions, RequestId, Seen, SessionId, SessionLocksRequest, TablesRequest, Token,
};

const HERS: SessionId = SessionId(0xa);

fn token(number: u8, identity: &str, groups: &[&str]) -> AccessToken {
    AccessToken {
        hash: Secret::of_bits([number; 32]).hash(),
        identity: identity.into(),
        groups: groups.iter().map(|name| (*name).into()).collect(),
        expires: None,
    }
}

pub(super) fn rule(identity: &str, pattern: &str, rights: &[Right]) -> Rule {
    Rule {
        name: RuleName {
            grantee: Grantee::Identity(identity.into()),
            table: Some("default".into()),
            pattern: pattern.parse().unwrap(),
        },
        rights: rights.iter().copied().collect(),
        max_level: if rights.contains(&Right::Preempt) { 3 } else { 0 },
        signee: None,
    }
}

fn change(change: Change) -> Operation {
    Operation::Access(Box::new(change))
}

impl Machine {
    /// A machine of level 3 with access control on, and these rules.
    fn guarded(rules: impl IntoIterator<Item = Rule>) -> Self {
        let mut machine = Self { state: State::with_level(3), ..Self::default() };
        machine.state.track_changes(true);
        let first = Change::Bootstrap { token: token(0, "root", &[]), on: true };
        assert_eq!(machine.outcome(change(first)), Outcome::Access(Changed::Done));
        for rule in rules {
            assert_eq!(machine.put(Change::PutRule(rule)), Outcome::Access(Changed::Done));
        }
        machine
    }

    fn put(&mut self, it: Change) -> Outcome {
        self.by("root", change(it))
    }

    fn by(&mut self, identity: &str, operation: impl Into<Operation>) -> Outcome {
        let command = Command::from(operation.into());
        self.decide(Command { principal: Some(principal(identity)), ..command }).outcome
    }

    fn read(&self, identity: &str, query: Query) -> Result<View, Error> {
        let at = DecidedAt { index: self.index, position: u32::MAX };
        Query { principal: Some(principal(identity)), ..query }.view(&self.state, Some(at))
    }

    fn listed(&self, identity: &str, request: &ListRequest) -> (Vec<String>, Option<String>) {
        let query = Query::list(request.clone(), &ReadOptions::default());
        let page = self.read(identity, query).unwrap().into_list().unwrap();
        (page.locks.into_iter().map(|lock| lock.signature).collect(), page.next)
    }
}

fn is_refused(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Refused(Refusal::NotAllowed(_)))
}

fn named(signature: &str, signee: &str) -> LockCommand {
    LockCommand { signature: signature.into(), ..by(signee) }
}

#[test]
fn while_it_is_off_everybody_may_do_everything_and_when_it_is_on_nobody_without_a_credential() {
    let mut machine = Machine { state: State::with_level(3), ..Machine::default() };
    assert!(matches!(machine.lock(by("ann")), LockStatus::Ok(_)));
    let first = Change::Bootstrap { token: token(0, "root", &[]), on: false };
    assert_eq!(machine.outcome(change(first)), Outcome::Access(Changed::Done));
    assert!(matches!(machine.lock(by("ann")), LockStatus::Renewed(_)));
    assert_eq!(machine.by("root", change(Change::Switch(true))), Outcome::Access(Changed::Done));
    let outcome = machine.outcome(by("ann"));
    assert!(matches!(outcome, Outcome::Refused(Refusal::Unauthorized(_))), "{outcome:?}");
    assert_eq!(machine.outcome(Operation::Advance), Outcome::Advanced, "the cluster's own");
    let check = Query::check("s".to_owned(), &ReadOptions::default());
    assert!(matches!(check.view(&machine.state, None), Err(Error::Unauthorized { .. })));
    assert!(is_refused(&machine.by("ann", by("ann"))));
    assert!(matches!(machine.by("root", by("ann")), Outcome::Lock(LockStatus::Renewed(_))));
    assert_eq!(machine.by("root", change(Change::Switch(false))), Outcome::Access(Changed::Done));
    assert!(matches!(machine.lock(by("ann")), LockStatus::Renewed(_)));
}

#[test]
fn a_rule_that_is_changed_counts_from_the_next_command_of_the_same_entry_on() {
    let mut machine = Machine::guarded([rule("ann", "s", &[Right::Acquire])]);
    let as_of = |identity: &str, operation: Operation| Command {
        principal: Some(principal(identity)),
        ..Command::from(operation)
    };
    let name = rule("ann", "s", &[Right::Acquire]).name;
    let commands = vec![
        as_of("ann", by("ann").into()),
        as_of("root", change(Change::RemoveRule(name))),
        as_of("ann", release("ann").into()),
    ];
    let stamp = Stamp { term: TERM, time: ClusterTime(1) };
    let decisions = machine.state.apply(TERM, 99, &Proposal { stamp, commands });
    assert!(matches!(decisions[0].outcome, Outcome::Lock(LockStatus::Ok(_))));
    assert!(is_refused(&decisions[2].outcome), "{:?}", decisions[2]);
    assert_eq!(machine.holder().unwrap().signee, "ann", "the rule takes no grant away");
}

#[test]
fn each_operation_needs_its_right() {
    let whole = |rights: &[Right]| rule("it", "*", rights);
    let only = |rights: &[Right]| Machine::guarded([whole(rights)]);
    let table = || TableCommand { table: "default".into(), ..TableCommand::default() };
    let limit = || LimitCommand { table: "default".into(), signature: "s".into(), limit: 2 };
    let open =
        || SessionCommand { id: Some(HERS), ttl_ms: 1000, signee: "it".into(), instance: None };
    let delete = || Operation::DeleteTable { table: "default".into() };
    let end = || UnlockCommand { force: true, token: Some(Token(1)), ..release("op") };
    let operations: [(&str, Operation, &[&[Right]]); 11] = [
        ("lock", by("it").into(), &[&[Right::Acquire], &[Right::Preempt]]),
        (
            "low",
            LockCommand { level: Some(-1), ..by("it") }.into(),
            &[&[Right::Acquire], &[Right::Preempt]],
        ),
        ("high", LockCommand { level: Some(3), ..by("it") }.into(), &[&[Right::Preempt]]),
        (
            "force",
            LockCommand { force: true, ..by("it") }.into(),
            &[&[Right::Acquire, Right::Force]],
        ),
        ("unlock", release("it").into(), &[&[Right::Acquire], &[Right::Preempt]]),
        ("end", end().into(), &[&[Right::Force]]),
        ("limit", Operation::SetLimit(Box::new(limit())), &[&[Right::Configure]]),
        ("table", table().into(), &[&[Right::Configure]]),
        ("delete", delete(), &[&[Right::Configure, Right::Force]]),
        ("open", Operation::OpenSession(Box::new(open())), &[&[Right::Acquire], &[Right::Preempt]]),
        ("rules", change(Change::Switch(false)), &[]),
    ];
    let sets: [&[Right]; 6] = [
        &[Right::Observe],
        &[Right::Acquire],
        &[Right::Preempt],
        &[Right::Force],
        &[Right::Configure],
        &[Right::Acquire, Right::Force],
    ];
    for (name, operation, enough) in operations {
        for rights in sets.into_iter().chain([&[Right::Configure, Right::Force][..]]) {
            let suffices =
                enough.iter().any(|enough| enough.iter().all(|right| rights.contains(right)));
            let outcome = only(rights).by("it", operation.clone());
            assert_eq!(is_refused(&outcome), !suffices, "{name} by {rights:?}: {outcome:?}");
        }
        let outcome = Machine::guarded([]).by("root", operation.clone());
        assert!(!matches!(outcome, Outcome::Refused(_)), "{name} by an administrator: {outcome:?}");
        assert!(is_refused(&Machine::guarded([]).by("stranger", operation)), "{name}");
    }
    // A part of a table is not the table.
    let part = || Machine::guarded([rule("it", "a*", &[Right::Configure, Right::Force])]);
    assert!(is_refused(&part().by("it", table())));
    assert!(is_refused(&part().by("it", delete())));
}

#[test]
fn a_bound_signee_is_that_of_the_identity_also_through_a_session() {
    let bound = Rule { signee: Some("{identity}".into()), ..rule("ann", "*", &[Right::Acquire]) };
    let mut machine = Machine::guarded([bound, rule("bob", "*", &[Right::Acquire])]);
    assert!(matches!(machine.by("bob", by("bob")), Outcome::Lock(LockStatus::Ok(_))));
    assert!(is_refused(&machine.by("ann", release("bob"))), "she is not bob");
    assert!(is_refused(&machine.by("ann", named("t", "bob"))));
    assert!(matches!(machine.by("ann", named("t", "ann")), Outcome::Lock(LockStatus::Ok(_))));
    let open = |id, signee: &str| {
        Operation::OpenSession(Box::new(SessionCommand {
            id: Some(SessionId(id)),
            ttl_ms: 10_000,
            signee: signee.into(),
            instance: None,
        }))
    };
    machine.by("ann", open(1, "ann"));
    machine.by("ann", open(2, "bob"));
    let within = |id, name: &str| LockCommand {
        session: Some(SessionId(id)),
        duration_ms: None,
        ..named(name, "")
    };
    assert!(matches!(machine.by("ann", within(1, "u")), Outcome::Lock(LockStatus::Ok(_))));
    assert!(is_refused(&machine.by("ann", within(2, "v"))), "the session's signee is bob");
}

#[test]
fn a_session_is_its_openers_and_an_administrator_ends_and_lists_any() {
    let all = |identity| rule(identity, "*", &[Right::Acquire]);
    let mut machine = Machine::guarded([all("ann"), all("bob")]);
    let open =
        SessionCommand { id: Some(HERS), ttl_ms: 10_000, signee: "w".into(), instance: None };
    machine.by("ann", Operation::OpenSession(Box::new(open)));
    let within = LockCommand { session: Some(HERS), duration_ms: None, ..by("") };
    let refused = machine.by("bob", within.clone());
    let Outcome::Lock(LockStatus::Failed(forbidden)) = refused else { panic!("{refused:?}") };
    assert_eq!(forbidden.reason, ForbiddenReason::SessionLost);
    assert!(matches!(machine.by("ann", within), Outcome::Lock(LockStatus::Ok(_))));
    let alive = || Operation::KeepAlive(vec![Seen { session: HERS, seen: None }]);
    assert_eq!(machine.by("bob", alive()), Outcome::KeptAlive(vec![Liveness::Lost]));
    let hers = machine.by("ann", alive());
    assert!(matches!(&hers, Outcome::KeptAlive(told) if told[0] != Liveness::Lost));
    let locks = || {
        let page = SessionLocksRequest { session: HERS, after: None, limit: 10 };
        Query::session_locks(page, &ReadOptions::default())
    };
    assert!(matches!(machine.read("bob", locks()), Err(Error::NotFound { .. })));
    for identity in ["ann", "root"] {
        let page = machine.read(identity, locks()).unwrap().into_session_locks().unwrap();
        assert_eq!(page.locks.len(), 1, "{identity}");
    }
    let close = || Operation::CloseSession(HERS);
    assert!(is_refused(&machine.by("bob", close())));
    assert_eq!(machine.by("root", close()), Outcome::Closed(CloseStatus::Ok));
    assert_eq!(machine.by("bob", close()), Outcome::Closed(CloseStatus::NoSession));
}

#[test]
fn a_place_stays_when_its_token_is_revoked_and_is_kept_by_the_identitys_new_one() {
    let mut machine = Machine::guarded([rule("ann", "*", &[Right::Acquire])]);
    let (old, new) = (token(1, "ann", &[]), token(2, "ann", &[]));
    for made in [&old, &new] {
        machine.put(Change::PutToken((*made).clone()));
    }
    let with = |token: &AccessToken, command: LockCommand| Command {
        principal: Some(Arc::new(Principal { token: Some(token.id()), ..Principal::named("ann") })),
        request_id: Some(RequestId { lane: 1, seq: 1 }),
        ..Command::from(Operation::from(command))
    };
    machine.by("root", by("other"));
    let waits = LockCommand { wait_ms: 50_000, ..by("ann") };
    let place = |outcome: &Outcome| {
        let Outcome::Lock(LockStatus::Waiting(waiting)) = outcome else { panic!("{outcome:?}") };
        waiting.place
    };
    let first = place(&machine.decide(with(&old, waits.clone())).outcome);
    assert_eq!(machine.put(Change::RevokeToken(old.id())), Outcome::Access(Changed::Done));
    let refused = machine.decide(with(&old, waits.clone())).outcome;
    assert!(matches!(refused, Outcome::Refused(Refusal::Unauthorized(_))), "{refused:?}");
    let again = place(&machine.decide(with(&new, waits)).outcome);
    assert_eq!(again, first);
    machine.by("root", release("other"));
    assert_eq!(machine.holder().unwrap().signee, "ann");
}

#[test]
fn a_repeated_answer_is_told_to_nobody_who_may_not_ask() {
    let mut machine = Machine::guarded([rule("ann", "*", &[Right::Acquire])]);
    let asked = |identity: &str| Command {
        request_id: Some(RequestId { lane: 1, seq: 1 }),
        principal: Some(principal(identity)),
        ..Command::from(Operation::from(by("ann")))
    };
    let first = machine.decide(asked("ann"));
    assert!(matches!(first.outcome, Outcome::Lock(LockStatus::Ok(_))));
    assert!(is_refused(&machine.decide(asked("eve")).outcome));
    assert_eq!(machine.decide(asked("ann")).decided_at, first.decided_at);
}

#[test]
fn lists_show_what_may_be_observed_and_tell_no_other_name() {
    let mut machine = Machine::guarded([
        rule("ann", "jobs/b", &[Right::Observe]),
        rule("ann", "jobs/d*", &[Right::Acquire]),
        rule("all", "*", &[Right::Force]),
    ]);
    let names = [
        "a", "jobs/a", "jobs/b", "jobs/b-x", "jobs/b/1", "jobs/b/2", "jobs/b0", "jobs/c", "jobs/d",
        "jobs/dd", "jobs/e", "z",
    ];
    for name in names {
        machine.by("root", named(name, "w"));
    }
    let hers = ["jobs/b", "jobs/b/1", "jobs/b/2", "jobs/d", "jobs/dd"];
    for limit in 1..=6 {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let request = ListRequest { limit, after: after.clone(), ..ListRequest::default() };
            let (page, next) = machine.listed("ann", &request);
            assert!(page.len() <= limit as usize);
            seen.extend(page);
            assert!(next.as_ref().is_none_or(|next| hers.contains(&next.as_str())), "{next:?}");
            match next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        assert_eq!(seen, hers, "pages of {limit}");
    }
    let within = |prefix: &str| ListRequest { prefix: prefix.to_owned(), ..ListRequest::default() };
    assert_eq!(machine.listed("ann", &within("jobs/c")).0, Vec::<String>::new());
    assert_eq!(machine.listed("ann", &within("jobs/b-")).0, Vec::<String>::new());
    assert_eq!(machine.listed("ann", &within("jobs/dd")).0, ["jobs/dd"]);
    for identity in ["all", "root"] {
        assert_eq!(machine.listed(identity, &ListRequest::default()).0, names);
    }
    assert_eq!(machine.listed("eve", &ListRequest::default()), (Vec::new(), None));
    let check = |name: &str| Query::check(name.to_owned(), &ReadOptions::default());
    assert!(machine.read("ann", check("jobs/b/1")).is_ok());
    let told = |name| match machine.read("ann", check(name)) {
        Err(Error::NotAllowed { reason }) => reason.replace(name, "…"),
        other => panic!("{other:?}"),
    };
    assert_eq!(told("jobs/c"), told("jobs/nothing"), "whether there is such a lock is not told");
    let verify = Query::verify("jobs/c".to_owned(), Token(1), &ReadOptions::default());
    assert!(matches!(machine.read("ann", verify), Err(Error::NotAllowed { .. })));
    let tables = |identity| {
        let query = Query::tables(TablesRequest::default(), &ReadOptions::default());
        machine.read(identity, query).unwrap().into_tables().unwrap().tables.len()
    };
    assert_eq!([tables("ann"), tables("all"), tables("root")], [0, 1, 1]);
}

#[test]
fn cycles_are_shown_to_whoever_may_observe_all_their_locks() {
    let mut machine = Machine::guarded([
        rule("both", "*", &[Right::Observe]),
        rule("one", "a", &[Right::Observe]),
    ]);
    let waits = |name, signee| LockCommand { wait_ms: 50_000, queued: true, ..named(name, signee) };
    for command in [named("a", "x"), named("b", "y"), waits("b", "x"), waits("a", "y")] {
        machine.by("root", command);
    }
    let cycles = |identity| {
        let view = machine.read(identity, Query::deadlocks(&ReadOptions::default()));
        view.unwrap().into_deadlocks().unwrap().cycles.len()
    };
    assert_eq!([cycles("root"), cycles("both"), cycles("one"), cycles("eve")], [1, 1, 0, 0]);
}

#[test]
fn questions_about_others_are_for_administrators() {
    let machine = Machine::guarded([rule("ann", "*", &[Right::Observe])]);
    let ask = |identity, question| {
        machine.read(identity, Query::access(question, &ReadOptions::default()))
    };
    let rules = || Question::Rules { after: 0, limit: 10 };
    let tokens = || Question::Tokens { after: None, limit: 10 };
    for question in [rules(), tokens()] {
        assert!(matches!(ask("ann", question.clone()), Err(Error::NotAllowed { .. })));
        assert!(ask("root", question).is_ok());
    }
    assert!(ask("ann", Question::Status).is_ok());
    let own = crate::access::Request::new(Right::Observe, "s");
    let others = crate::access::Request { principal: Some(Principal::named("ann")), ..own.clone() };
    assert!(ask("ann", Question::CanI(own)).is_ok());
    assert!(matches!(ask("ann", Question::CanI(others.clone())), Err(Error::NotAllowed { .. })));
    assert!(ask("root", Question::CanI(others)).is_ok());
}

/// A state with rules and tokens, of which some were replaced and removed.
fn example() -> Machine {
    let bound = Rule { signee: Some("{identity}".into()), ..rule("ann", "a/*", &[Right::Preempt]) };
    let everywhere = Rule {
        name: RuleName {
            grantee: Grantee::Group("ops".into()),
            table: None,
            pattern: Pattern::every(),
        },
        ..rule("", "x", &[Right::Force, Right::Configure])
    };
    let mut machine = Machine::guarded([
        rule("ann", "a", &[Right::Observe]),
        bound,
        everywhere,
        rule("bob", "b", &[Right::Observe]),
    ]);
    machine.put(Change::RemoveRule(rule("bob", "b", &[]).name));
    let expiring = AccessToken { expires: Some(2_000_000_000), ..token(1, "ann", &["ops", "dev"]) };
    machine.put(Change::PutToken(expiring));
    machine.put(Change::PutToken(token(2, "bob", &[])));
    machine.put(Change::RevokeToken(token(2, "bob", &[]).id()));
    machine.by("ann", LockCommand { mode: Some(Mode::Shared), ..named("a/1", "ann") });
    machine
}

#[test]
fn rules_and_tokens_are_part_of_snapshots_and_of_the_checkpoint() {
    let mut machine = example();
    let bytes = machine.state.encode();
    assert_eq!(State::decode(&bytes).as_ref(), Ok(&machine.state));
    let changes = machine.state.take_changes();
    let records = |changes: &crate::lock::Changes| {
        let records = changes.records.clone().into_iter();
        records
            .filter_map(|(key, value)| Some((key, value?)))
            .collect::<std::collections::BTreeMap<_, _>>()
    };
    let mut kept = records(&changes);
    assert_eq!(State::from_records(&changes.meta, &kept).as_ref(), Ok(&machine.state));
    let ann = rule("ann", "a", &[]).name;
    machine.put(Change::RemoveRule(ann));
    machine.put(Change::RevokeToken(token(1, "", &[]).id()));
    machine.put(Change::PutRule(rule("cy", "c", &[Right::Acquire])));
    machine.put(Change::Switch(false));
    let changes = machine.state.take_changes();
    for (key, value) in &changes.records {
        match value {
            Some(value) => kept.insert(key.clone(), value.clone()),
            None => kept.remove(key),
        };
    }
    assert_eq!(State::from_records(&changes.meta, &kept).as_ref(), Ok(&machine.state));
    assert!(machine.state.encoded_records().map(|(key, _)| key).is_sorted());
}

#[test]
fn a_longest_rule_and_a_longest_token_are_small_enough_for_the_checkpoint() {
    let long = |count: usize| "x".repeat(count);
    let name = RuleName {
        grantee: Grantee::Identity(long(256).into()),
        table: Some(long(1024).into()),
        pattern: format!("{}*", long(1024)).parse().unwrap(),
    };
    let rule = Rule { name, signee: Some(long(1024).into()), ..rule("", "x", &[Right::Acquire]) };
    let mut token = token(9, &long(256), &[]);
    token.groups = vec![long(64).into(); 32];
    let mut machine = Machine::guarded([]);
    for longest in [Change::PutRule(rule), Change::PutToken(token)] {
        let command = Command::access(longest.clone(), CallOptions::default());
        assert_eq!(command.validate(), Ok(()));
        let proposal = Proposal { stamp: Stamp::default(), commands: vec![command] };
        assert!(proposal.encode().len() < crate::lock::MAX_COMMAND_BYTES);
        assert_eq!(machine.put(longest), Outcome::Access(Changed::Done));
    }
    for (key, value) in machine.state.encoded_records() {
        assert!(key.len() < 2400 && value.len() < 7 * 1024, "{} {}", key.len(), value.len());
    }
}

/// A proposal with everything of feature level 3.
pub(super) fn example_of_level_3() -> Proposal {
    let token = AccessToken { expires: Some(2_000_000_000), ..token(1, "ann", &["ops", "dev"]) };
    let bound = Rule { signee: Some("{identity}".into()), ..rule("ann", "a/*", &[Right::Preempt]) };
    let grantee = Grantee::Group("ops".into());
    let everywhere = RuleName { grantee, table: None, pattern: "x".parse().unwrap() };
    let changes = [
        Change::PutRule(bound),
        Change::RemoveRule(everywhere),
        Change::PutToken(token.clone()),
        Change::RevokeToken(token.id()),
        Change::Switch(true),
        Change::Bootstrap { token: token.clone(), on: true },
    ];
    let whole = Principal {
        identity: "ann".into(),
        groups: vec!["ops".into(), "dev".into()],
        token: Some(token.id()),
    };
    let with = Command {
        principal: Some(Arc::new(whole)),
        cause: Some("why".into()),
        ..Command::from(Operation::from(release("ann")))
    };
    let commands = changes.map(|it| Command::from(change(it)));
    let commands = commands.into_iter().chain([with]).collect();
    Proposal { stamp: Stamp { term: 3, time: ClusterTime(1_000_000) }, commands }
}

pub(super) fn example_state_of_level_3() -> State {
    example().state
}

#[test]
fn a_renewal_by_token_needs_the_right_to_the_level_that_it_keeps() {
    let high = rule("ann", "s", &[Right::Acquire, Right::Preempt]);
    let mut machine = Machine::guarded([high, rule("bob", "s", &[Right::Acquire])]);
    machine.by("ann", LockCommand { level: Some(2), ..by("ann") });
    let token = machine.state.check("default", "s").unwrap().holders[0].token;
    let renewal = |level| LockCommand { token: Some(token), level, ..by("ann") };
    assert!(is_refused(&machine.by("bob", renewal(None))), "it would stay at level 2");
    let outcome = machine.by("ann", renewal(None));
    assert!(matches!(&outcome, Outcome::Lock(LockStatus::Renewed(grant)) if grant.level == 2));
    // Without the right any more, it may go on at level 0 alone.
    machine.put(Change::PutRule(rule("ann", "s", &[Right::Acquire])));
    assert!(is_refused(&machine.by("ann", renewal(None))));
    let outcome = machine.by("ann", renewal(Some(0)));
    assert!(matches!(&outcome, Outcome::Lock(LockStatus::Renewed(grant)) if grant.level == 0));
}

#[test]
fn a_page_jumps_a_bounded_number_of_times_and_misses_nothing() {
    // One observed name after each that is hidden, and none of the observed is expired.
    let count = 6000;
    let rules = (0..count).map(|number| rule("ann", &format!("{number:05}x"), &[Right::Observe]));
    let mut machine = Machine::guarded(rules);
    let take = |name: String| {
        let command = Command::from(Operation::from(named(&name, "root")));
        Command { principal: Some(principal("root")), ..command }
    };
    machine.apply((0..count).map(|number| take(format!("{number:05}"))).collect());
    machine.apply([0, 4500, count - 1].map(|number| take(format!("{number:05}x"))).into());
    let mut request = ListRequest { limit: 10, ..ListRequest::default() };
    let (mut found, mut pages) = (Vec::new(), 0);
    loop {
        let (page, next) = machine.listed("ann", &request);
        found.extend(page);
        pages += 1;
        let Some(next) = next else { break };
        assert!(Some(&next) > request.after.as_ref(), "it goes on");
        assert!(next.ends_with('x'), "{next} is hidden");
        request.after = Some(next);
    }
    assert_eq!(found, ["00000x", "04500x", "05999x"]);
    assert!((2..=3).contains(&pages), "{pages}");
}
