//! Tests of rules and tokens by themselves. That commands and queries need the right rights is
//! tested beside the lock machine.

use proptest::prelude::*;

use super::*;
use crate::codec::{Encoding, Reader};

fn identity(name: &str) -> Grantee {
    Grantee::Identity(name.into())
}

fn group(name: &str) -> Grantee {
    Grantee::Group(name.into())
}

fn rule(grantee: Grantee, table: Option<&str>, pattern: &str, rights: &[Right]) -> Rule {
    let preempts = rights.contains(&Right::Preempt);
    Rule {
        name: RuleName {
            grantee,
            table: table.map(Into::into),
            pattern: pattern.parse().expect("a pattern"),
        },
        rights: rights.iter().copied().collect(),
        max_level: if preempts { 5 } else { 0 },
        signee: None,
    }
}

fn token(number: u8, identity: &str, groups: &[&str]) -> AccessToken {
    AccessToken {
        hash: Secret::of_bits([number; 32]).hash(),
        identity: identity.into(),
        groups: groups.iter().map(|name| (*name).into()).collect(),
        expires: None,
    }
}

/// A book that is on, with an administrator and these rules.
fn book(rules: impl IntoIterator<Item = Rule>) -> Access {
    let mut book = Access::default();
    let mut change =
        |change| assert_eq!(book.change(&change, Bounds::default()), Ok(Changed::Done));
    change(Change::Bootstrap { token: token(0, "root", &[]), on: true });
    rules.into_iter().for_each(|rule| change(Change::PutRule(rule)));
    book.assert_invariants();
    book
}

fn member(identity: &str, groups: &[&str]) -> Principal {
    let groups = groups.iter().map(|name| (*name).into()).collect();
    Principal { groups, ..Principal::named(identity) }
}

fn allows(book: &Access, principal: &Principal, need: &Need<'_>) -> bool {
    let judge = book.admit(Some(principal)).expect("it is known").expect("it is on");
    judge.may(need).is_ok()
}

#[test]
fn a_prefix_ends_at_a_slash_unless_it_is_written_with_a_star() {
    let rows = [
        ("jobs/a", "jobs/a", true),
        ("jobs/a", "jobs/a/", true),
        ("jobs/a", "jobs/a/b/c", true),
        ("jobs/a", "jobs/abc", false),
        ("jobs/a", "jobs/a-b", false),
        ("jobs/a", "jobs", false),
        ("jobs/a", "Jobs/a", false),
        ("jobs/", "jobs/a", true),
        ("jobs/", "jobs/", true),
        ("jobs/", "jobs", false),
        ("jobs/a*", "jobs/a", true),
        ("jobs/a*", "jobs/abc", true),
        ("jobs/a*", "jobs/a/b", true),
        ("jobs/a*", "jobs/b", false),
        ("jobs/*", "jobs", false),
        ("*", "anything", true),
        ("a*b", "a*b/c", true),
        ("a*b", "axb", false),
        ("a**", "a*", true),
        ("a**", "ab", false),
        ("é", "é/x", true),
        ("é", "ê", false),
    ];
    for (pattern, name, expected) in rows {
        let pattern: Pattern = pattern.parse().unwrap();
        assert_eq!(pattern.matches(name), expected, "{pattern} and {name}");
        let rules = [rule(identity("ann"), Some("t"), &pattern.to_string(), &[Right::Acquire])];
        let need = Need::new(Right::Acquire, "t", name);
        assert_eq!(allows(&book(rules), &member("ann", &[]), &need), expected, "{pattern} {name}");
    }
    assert!("".parse::<Pattern>().is_err(), "nobody means every lock by nothing");
}

#[test]
fn nothing_is_allowed_without_a_rule_and_a_rule_is_for_its_grantee_and_its_table_alone() {
    let rules = [
        rule(identity("ann"), Some("t"), "*", &[Right::Acquire]),
        rule(group("ops"), None, "jobs", &[Right::Force]),
    ];
    let book = book(rules);
    let rows = [
        (member("ann", &[]), Right::Acquire, "t", "x", true),
        (member("ann", &[]), Right::Acquire, "tt", "x", false),
        (member("ann", &[]), Right::Acquire, "", "x", false),
        (member("ann", &[]), Right::Force, "t", "x", false),
        (member("an", &[]), Right::Acquire, "t", "x", false),
        (member("annabel", &[]), Right::Acquire, "t", "x", false),
        (member("bob", &["ann"]), Right::Acquire, "t", "x", false),
        (member("ops", &[]), Right::Force, "t", "jobs/1", false),
        (member("bob", &["dev", "ops"]), Right::Force, "t", "jobs/1", true),
        (member("bob", &["dev", "ops"]), Right::Force, "u", "jobs", true),
        (member("bob", &["ops"]), Right::Observe, "u", "jobs", true),
        (member("bob", &["ops"]), Right::Acquire, "u", "jobs", false),
        (member("root", &[]), Right::Force, "u", "jobs", true),
        (member("root", &[]), Right::Preempt, "u", "jobs", true),
    ];
    for (principal, right, table, name, expected) in rows {
        let need = Need::new(right, table, name);
        assert_eq!(allows(&book, &principal, &need), expected, "{principal:?} {need:?}");
    }
}

#[test]
fn levels_and_signees_are_bounded_and_the_refusal_says_by_what() {
    let bound = Rule {
        signee: Some("{identity}".into()),
        ..rule(identity("ann"), Some("t"), "own", &[Right::Preempt])
    };
    let suffixed = Rule {
        signee: Some("ci/{identity}/1".into()),
        ..rule(identity("ann"), Some("t"), "ci", &[Right::Acquire])
    };
    let book = book([bound, suffixed]);
    let ann = member("ann", &[]);
    let refusal = |need: &Need<'_>| {
        let judge = book.admit(Some(&ann)).unwrap().unwrap();
        match judge.may(need) {
            Ok(()) => String::new(),
            Err(Denied::NotAllowed(why) | Denied::Unauthorized(why)) => why,
        }
    };
    assert_eq!(refusal(&Need::acquire("t", "own", 5, Some("ann"))), "");
    assert_eq!(refusal(&Need::acquire("t", "own", -7, Some("ann"))), "");
    assert_eq!(refusal(&Need::acquire("t", "own", 0, None)), "");
    assert_eq!(refusal(&Need::acquire("t", "ci/x", 0, Some("ci/ann/1"))), "");
    let rows = [
        (
            Need::acquire("t", "own", 6, Some("ann")),
            "at level 6 to \"own\" in table \"t\": rules give it up to level 5",
        ),
        (Need::acquire("t", "own", 0, Some("bob")), "a rule gives it for the signee \"ann\" alone"),
        (
            Need::acquire("t", "ci/x", 0, Some("ann")),
            "a rule gives it for the signee \"ci/ann/1\" alone",
        ),
        (Need::acquire("t", "ci/x", 1, Some("ci/ann/1")), "`preempt` at level 1 to \"ci/x\""),
        (
            Need::acquire("t", "other", 0, Some("ann")),
            "the right `acquire` to \"other\" in table \"t\": no rule gives it",
        ),
        (Need::new(Right::Configure, "t", ""), "to the whole table \"t\""),
    ];
    for (need, expected) in rows {
        let why = refusal(&need);
        assert!(why.contains(expected), "{why:?} does not say {expected:?}");
        assert!(!why.contains("root"), "{why:?}");
    }
}

#[test]
fn the_last_administrator_is_kept_while_access_control_is_on() {
    let mut book = Access::default();
    let bounds = Bounds::default();
    let done = Ok(Changed::Done);
    assert!(book.change(&Change::Switch(true), bounds).unwrap_err().contains("bootstrap"));
    let first = token(0, "root", &[]);
    assert_eq!(book.change(&Change::Bootstrap { token: first.clone(), on: false }, bounds), done);
    let again = Change::Bootstrap { token: token(1, "eve", &[]), on: true };
    assert!(book.change(&again, bounds).unwrap_err().contains("already"));
    assert_eq!(book.change(&Change::Switch(true), bounds), done);
    let revoke = Change::RevokeToken(first.id());
    let admin = Rule::admin(identity("root"));
    let remove = Change::RemoveRule(admin.name.clone());
    let observe = Rule { rights: [Right::Observe].into_iter().collect(), ..admin.clone() };
    for change in [revoke.clone(), remove.clone(), Change::PutRule(observe)] {
        let before = book.clone();
        assert!(book.change(&change, bounds).unwrap_err().contains("last administrator"));
        assert_eq!(book, before, "a refused change changes nothing");
    }
    assert_eq!(book.change(&Change::PutToken(token(2, "ann", &["ops"])), bounds), done);
    assert_eq!(book.change(&Change::PutRule(Rule::admin(group("ops"))), bounds), done);
    assert_eq!(book.change(&revoke, bounds), done);
    assert_eq!(book.change(&revoke, bounds), Ok(Changed::Nothing));
    assert_eq!(book.change(&remove, bounds), done);
    assert_eq!(book.change(&remove, bounds), Ok(Changed::Nothing));
    assert_eq!(book.change(&Change::Switch(false), bounds), done);
    assert_eq!(book.change(&Change::RevokeToken(token(2, "", &[]).id()), bounds), done);
    book.assert_invariants();
}

#[test]
fn bounds_hold_and_what_makes_no_sense_is_refused() {
    let mut book = Access::default();
    let bounds = Bounds { rules: 1, tokens: 1 };
    let first = rule(identity("a"), None, "x", &[Right::Observe]);
    assert_eq!(book.change(&Change::PutRule(first.clone()), bounds), Ok(Changed::Done));
    let replaced = Rule { rights: [Right::Force].into_iter().collect(), ..first.clone() };
    assert_eq!(book.change(&Change::PutRule(replaced), bounds), Ok(Changed::Done));
    let second = rule(identity("b"), None, "x", &[Right::Observe]);
    assert!(book.change(&Change::PutRule(second.clone()), bounds).is_err());
    assert_eq!(book.change(&Change::PutToken(token(0, "a", &[])), bounds), Ok(Changed::Done));
    assert!(book.change(&Change::PutToken(token(0, "a", &[])), Bounds::default()).is_err());
    assert!(book.change(&Change::PutToken(token(1, "a", &[])), bounds).is_err());
    let flawed = [
        Rule { rights: Rights::default(), ..first.clone() },
        Rule { max_level: 1, ..first.clone() },
        Rule { max_level: 0, ..rule(identity("a"), None, "x", &[Right::Preempt]) },
        Rule { max_level: -1, ..rule(identity("a"), None, "x", &[Right::Preempt]) },
        rule(identity("a"), Some("t"), "*", &[Right::Admin]),
        rule(identity("a"), None, "x", &[Right::Admin]),
        Rule { signee: Some("a".into()), ..Rule::admin(identity("a")) },
        Rule { signee: Some("".into()), ..first.clone() },
        Rule { signee: Some("\0".into()), ..first.clone() },
        rule(identity("a\0b"), None, "x", &[Right::Observe]),
        rule(identity(""), None, "x", &[Right::Observe]),
        rule(identity("a"), Some(""), "x", &[Right::Observe]),
        rule(identity("a"), Some("t\0"), "x", &[Right::Observe]),
        rule(identity("a"), None, "x\0", &[Right::Observe]),
    ];
    for rule in flawed {
        assert!(rule.validate().is_err(), "{rule:?}");
        assert!(book.change(&Change::PutRule(rule), Bounds::default()).is_err());
    }
    let long = "a".repeat(257);
    assert!(rule(identity(&long), None, "x", &[Right::Observe]).validate().is_err());
    assert!(Principal::named(&long).validate().is_err());
    assert!(Principal::named("").validate().is_err());
    assert!(member("a", &["g"; 33]).validate().is_err());
    assert!(member("a", &["g"; 32]).validate().is_ok());
    assert!(member("a", &[&*"g".repeat(200); 11]).validate().is_err());
    book.assert_invariants();
}

#[test]
fn a_secret_is_recognised_and_only_its_hash_is_kept() {
    let secret = Secret::of_bits([0xab; 32]);
    let text = secret.reveal().to_owned();
    assert_eq!(text, format!("kw_{}", "ab".repeat(32)));
    assert_eq!(text.parse::<Secret>().as_ref(), Ok(&secret));
    assert!(!format!("{secret:?}").contains("ab"));
    for wrong in ["", "kw_", &text[1..], &text[..66], &text.to_uppercase(), &format!("{text}0")] {
        assert!(wrong.parse::<Secret>().is_err(), "{wrong:?}");
    }
    let kept = AccessToken { hash: secret.hash(), ..token(0, "ann", &[]) };
    assert_eq!(kept.id().to_string().parse(), Ok(kept.id()));
    let expiring = AccessToken { expires: Some(100), ..kept };
    assert!(!expiring.is_expired(|| 99) && expiring.is_expired(|| 100));
    assert!(!token(0, "ann", &[]).is_expired(|| unreachable!("no clock is asked")));
}

#[test]
fn a_revoked_token_is_nobodys_and_the_groups_are_those_of_the_state() {
    let mut book = book([rule(group("ops"), Some("t"), "*", &[Right::Acquire])]);
    let ops = token(7, "ann", &["ops"]);
    book.change(&Change::PutToken(ops.clone()), Bounds::default()).unwrap();
    let with = |groups: &[&str]| Principal { token: Some(ops.id()), ..member("ann", groups) };
    let need = Need::new(Right::Acquire, "t", "x");
    assert!(allows(&book, &with(&[]), &need));
    let other = Principal { token: Some(ops.id()), ..member("bob", &["ops"]) };
    assert!(matches!(book.admit(Some(&other)), Err(Denied::Unauthorized(_))));
    book.change(&Change::RevokeToken(ops.id()), Bounds::default()).unwrap();
    assert!(matches!(book.admit(Some(&with(&["ops"]))), Err(Denied::Unauthorized(_))));
    assert!(matches!(book.admit(None), Err(Denied::Unauthorized(_))));
    assert!(allows(&book, &member("ann", &["ops"]), &need), "a certificate names the group itself");
}

/// Few letters, so that names and prefixes meet.
fn path() -> impl Strategy<Value = String> {
    proptest::collection::vec(
        prop_oneof![Just("a"), Just("b"), Just("/"), Just("é"), Just("-")],
        1..5,
    )
    .prop_map(|parts| parts.concat())
}

fn grantee() -> impl Strategy<Value = Grantee> {
    prop_oneof![Just(identity("ann")), Just(identity("an")), Just(group("ann")), Just(group("g")),]
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let table = prop_oneof![Just(None), Just(Some("t")), Just(Some("tt"))];
    let rights = proptest::sample::subsequence(&Right::ALL[..5], 1..4);
    let signee = prop_oneof![
        2 => Just(None),
        1 => Just(Some("{identity}")),
        1 => Just(Some("x-{identity}")),
    ];
    (grantee(), table, path(), any::<bool>(), rights, signee, 1..4_i64).prop_map(
        |(grantee, table, path, open, rights, signee, level)| {
            let pattern = if open { format!("{}*", &path) } else { path };
            let rule = rule(grantee, table, &pattern, &rights);
            let max_level = if rule.max_level > 0 { level } else { 0 };
            Rule { max_level, signee: signee.map(Into::into), ..rule }
        },
    )
}

/// The same judgement, by a look at every rule.
fn by_hand(rules: &[Rule], principal: &Principal, need: &Need<'_>) -> bool {
    rules.iter().any(|rule| {
        let is_grantee = match &rule.name.grantee {
            Grantee::Identity(name) => *name == principal.identity,
            Grantee::Group(name) => principal.groups.contains(name),
        };
        let includes = |right: Right| match need.right {
            Right::Observe => true,
            Right::Acquire => matches!(right, Right::Acquire | Right::Preempt),
            Right::Preempt | Right::Force | Right::Configure | Right::Admin => right == need.right,
        };
        is_grantee
            && rule.name.table.as_deref().is_none_or(|table| table == need.table)
            && rule.name.pattern.matches(need.name)
            && rule.rights.iter().any(includes)
            && (need.right != Right::Preempt || need.level <= rule.max_level)
            && need.signee.is_none_or(|signee| {
                let bound = rule.signee.as_ref();
                bound
                    .is_none_or(|bound| *signee == bound.replace("{identity}", &principal.identity))
            })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn the_search_finds_what_a_look_at_every_rule_finds(
        rules in proptest::collection::vec(any_rule(), 0..12),
        name in path(),
        right in proptest::sample::select(&Right::ALL[..5]),
        table in proptest::sample::select(vec!["t", "tt", "u"]),
        level in 1..4_i64,
        signee in proptest::sample::select(vec![None, Some("ann"), Some("x-ann"), Some("bob")]),
    ) {
        // A later rule with the same name replaces the earlier one.
        let mut kept: Vec<Rule> = Vec::new();
        for rule in &rules {
            kept.retain(|other| other.name != rule.name);
            kept.push(rule.clone());
        }
        let book = book(rules);
        let principal = member("ann", &["g", "h"]);
        let need = Need { right, table, name: &name, level, signee };
        prop_assert_eq!(allows(&book, &principal, &need), by_hand(&kept, &principal, &need));
        let judge = book.admit(Some(&principal)).unwrap().unwrap();
        let observe = |name: &str| by_hand(&kept, &principal, &Need::new(Right::Observe, table, name));
        prop_assert_eq!(judge.observes(table, &name), observe(&name));
        if !observe(&name) {
            // Nothing that may be observed lies between the name and the next text.
            let next = judge.next_observed(table, &name);
            prop_assert!(next.as_ref().is_none_or(|next| **next > *name));
            for parts in ["", "/", "-", "a", "b", "é", "a/", "b/", "a/b", "/a", "aa", "é/", "ab/a"] {
                for other in [parts.to_owned(), format!("{name}{parts}")] {
                    let between = *other > *name && next.as_ref().is_none_or(|next| other < *next);
                    prop_assert!(!(between && !other.is_empty() && observe(&other)), "{}", other);
                }
            }
        }
    }

    #[test]
    fn rules_changes_and_answers_are_read_as_they_were_written(rules in proptest::collection::vec(any_rule(), 1..4)) {
        let mut changes: Vec<Change> = rules.iter().cloned().map(Change::PutRule).collect();
        changes.push(Change::RemoveRule(rules[0].name.clone()));
        let expiring = AccessToken { expires: Some(u64::MAX), ..token(1, "ann", &["g", "h"]) };
        changes.push(Change::PutToken(expiring.clone()));
        changes.push(Change::Bootstrap { token: expiring.clone(), on: true });
        changes.extend([Change::Switch(false), Change::RevokeToken(TokenId(1))]);
        for change in changes {
            prop_assert_eq!(again(&change), change);
        }
        let info = TokenInfo::from(&expiring);
        let answers = [
            Answer::Rules { rules, next: Some(1), decided_at: None },
            Answer::Tokens { tokens: vec![info], next: None, decided_at: Some(crate::types::DecidedAt { index: 3, position: 1 }) },
            Answer::Credential(Some(expiring)),
            Answer::CanI { refused: Some("no".to_owned()), decided_at: None },
            Answer::Status { on: true, principal: Some(member("ann", &["g"])), is_admin: false, decided_at: None },
        ];
        for answer in answers {
            prop_assert_eq!(again(&answer), answer);
        }
    }
}

fn again<T: Encoding>(value: &T) -> T {
    let mut bytes = Vec::new();
    value.put(&mut bytes);
    let mut reader = Reader::new(&bytes, "a value");
    let read = T::read(&mut reader).expect("it was written");
    reader.end().expect("nothing is left over");
    read
}
