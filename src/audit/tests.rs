use std::fs;

use serde_json::{Value, json};

use super::*;
use crate::access::{
    AccessToken, Change, Changed, Grantee, Principal, Right, Rule, RuleName, Secret,
};
use crate::lock::{
    ClusterTime, Command, Decision, LockCommand, Operation, Outcome, Proposal, Refusal, Stamp,
};

fn file(folder: &tempfile::TempDir, max_bytes: u64, kept: u32) -> Target {
    Target::File { path: folder.path().join("audit.jsonl"), max_bytes, kept }
}

fn open(folder: &tempfile::TempDir, max_bytes: u64, kept: u32) -> Arc<Audit> {
    Audit::open(file(folder, max_bytes, kept), OnFailure::Refuse).unwrap()
}

/// The lines of a file, each of which must be whole.
fn lines(folder: &tempfile::TempDir, name: &str) -> Vec<Value> {
    let text = fs::read_to_string(folder.path().join(name)).unwrap_or_default();
    assert!(text.is_empty() || text.ends_with('\n'), "{text:?}");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn line(index: u64) -> Line<'static> {
    Line::stopped(1, index)
}

#[test]
fn lines_are_appended_in_order_and_the_last_index_is_known_to_the_next_run() {
    let folder = tempfile::tempdir().unwrap();
    let audit = open(&folder, 1 << 20, 3);
    assert_eq!(audit.written_before(), None);
    for index in 1..=100 {
        audit.write(&line(index));
    }
    audit.flush();
    assert_eq!(audit.figures(), AuditFigures { lines: 100, dropped: 0, is_failing: false });
    drop(audit);
    let audit = open(&folder, 1 << 20, 3);
    assert_eq!(audit.written_before(), Some(100));
    audit.write(&line(101));
    audit.flush();
    let written = lines(&folder, "audit.jsonl");
    assert_eq!(written.len(), 101);
    assert_eq!((&written[0]["index"], &written[100]["index"]), (&json!(1), &json!(101)));
}

#[test]
fn a_last_line_that_was_cut_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let at = |index: u64| format!("{{\"time\":\"t\",\"index\":{index}}}");
    for (content, last, whole) in [
        (format!("{}\n{}", at(7), &at(8)[..20]), Some(7), 1),
        (format!("{}\n{}\n", at(7), at(8)), Some(8), 2),
        (at(7), None, 0),
        ("{\"ti".to_owned(), None, 0),
        (String::new(), None, 0),
    ] {
        fs::write(&path, &content).unwrap();
        let audit = open(&folder, 1 << 20, 3);
        assert_eq!(audit.written_before(), last, "{content}");
        assert_eq!(lines(&folder, "audit.jsonl").len(), whole, "{content}");
    }
}

#[test]
fn a_file_of_something_else_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let long = format!("{{\"time\":\"{}", "x".repeat(100 << 10));
    for content in ["root:x:0:0:root:/root:/bin/bash", "{\"a\":1}", "\n", &long] {
        fs::write(&path, content).unwrap();
        let refused = Audit::open(file(&folder, 1, 0), OnFailure::Drop).err().unwrap();
        assert!(refused.to_string().contains("is no audit"), "{refused}");
        assert_eq!(fs::read_to_string(&path).unwrap(), content);
    }
}

#[test]
fn a_file_that_somebody_moves_away_is_followed_by_a_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let audit = open(&folder, 1 << 20, 3);
    for (index, moved_to) in [(1, "by-hand"), (2, "again")] {
        audit.write(&line(index));
        audit.flush();
        fs::rename(folder.path().join("audit.jsonl"), folder.path().join(moved_to)).unwrap();
    }
    audit.write(&line(3));
    audit.flush();
    let indexes: [Vec<Value>; 3] = ["by-hand", "again", "audit.jsonl"]
        .map(|name| lines(&folder, name).iter().map(|line| line["index"].clone()).collect());
    assert_eq!(indexes, [vec![json!(1)], vec![json!(2)], vec![json!(3)]]);
}

#[test]
fn a_full_file_is_renamed_and_as_many_are_kept_as_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let length = serde_json::to_vec(&line(1000)).unwrap().len() as u64 + 1;
    // Two lines fill a file.
    let audit = open(&folder, 2 * length, 2);
    for index in 0..10 {
        audit.write(&line(1000 + index));
        audit.flush();
    }
    let names = ["audit.jsonl", "audit.jsonl.1", "audit.jsonl.2", "audit.jsonl.3"];
    let found = names.map(|name| {
        lines(&folder, name).iter().map(|line| line["index"].as_u64().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(found, [vec![1008, 1009], vec![1006, 1007], vec![1004, 1005], vec![]]);
    drop(audit);
    // A file that is full is renamed before the next line; its last index is found nevertheless.
    fs::rename(folder.path().join(names[0]), folder.path().join(names[1])).unwrap();
    let audit = open(&folder, 2 * length, 0);
    assert_eq!(audit.written_before(), Some(1009));
    for index in 0..5 {
        audit.write(&line(2000 + index));
        audit.flush();
    }
    assert_eq!(lines(&folder, names[0]).len(), 1, "no other is kept");
}

#[test]
fn what_cannot_be_written_is_written_later_and_requests_are_refused_until_then() {
    let folder = tempfile::tempdir().unwrap();
    // Not even root can rename a file over a folder that is not empty.
    let blocking = folder.path().join("audit.jsonl.1/full");
    fs::create_dir_all(&blocking).unwrap();
    let audit = open(&folder, 1, 1);
    let relaxed = Audit::open(Target::Stdout, OnFailure::Drop).unwrap();
    audit.write(&line(1));
    audit.flush();
    assert_eq!(audit.refusal(), None);
    audit.write(&line(2));
    while !audit.figures().is_failing {
        thread::yield_now();
    }
    let refusal = audit.refusal().unwrap();
    assert!(refusal.starts_with("the audit cannot be written: "), "{refusal}");
    assert!(refusal.contains("audit.jsonl"), "{refusal}");
    assert_eq!(relaxed.refusal(), None);
    fs::remove_dir_all(folder.path().join("audit.jsonl.1")).unwrap();
    while audit.figures().is_failing {
        thread::yield_now();
    }
    audit.flush();
    assert_eq!(audit.refusal(), None);
    for (name, index) in [("audit.jsonl", 2), ("audit.jsonl.1", 1)] {
        let lines = lines(&folder, name);
        assert_eq!((lines.len(), &lines[0]["index"]), (1, &json!(index)), "{name}");
    }
}

/// The lines of an entry without events, without their times.
fn decided(commands: Vec<(Operation, Outcome)>) -> Vec<Value> {
    let at = |outcome| Decision { outcome, decided_at: None };
    let (operations, decisions): (Vec<_>, Vec<_>) = commands.into_iter().unzip();
    let commands = operations.into_iter().map(|operation| {
        let principal = Some(Arc::new(Principal::named("root")));
        Command { principal, ..Command::from(operation) }
    });
    let stamp = Stamp { term: 1, time: ClusterTime(0) };
    let proposal = Proposal { stamp, commands: commands.collect() };
    let decisions: Vec<_> = decisions.into_iter().map(at).collect();
    let proposal = Some(&proposal);
    let entry =
        Applied { node: 1, index: 7, term: 2, proposal, events: &[], decisions: &decisions };
    let mut lines = Vec::new();
    lines_of(&entry, |line| {
        let mut line = serde_json::to_value(line).unwrap();
        line.as_object_mut().unwrap().remove("time");
        lines.push(line);
    });
    lines
}

#[test]
fn changes_of_rules_and_what_the_rules_refuse_have_lines_without_secrets() {
    let secret: Secret = format!("kw_{}", "ab".repeat(32)).parse().unwrap();
    let token = AccessToken {
        hash: secret.hash(),
        identity: "ci".into(),
        groups: Vec::new(),
        expires: None,
    };
    let name = RuleName {
        grantee: Grantee::Group("builders".into()),
        table: None,
        pattern: "jobs/*".parse().unwrap(),
    };
    let rule = Rule {
        name: name.clone(),
        rights: [Right::Acquire, Right::Force].into_iter().collect(),
        max_level: 0,
        signee: Some("{identity}".into()),
    };
    let access = |change| Operation::Access(Box::new(change));
    let done = || Outcome::Access(Changed::Done);
    let lock = LockCommand {
        table: "default".into(),
        signature: "s".into(),
        signee: "ann".into(),
        ..LockCommand::default()
    };
    let refused = Outcome::Refused(Refusal::NotAllowed("the right is missing".into()));
    let lines = decided(vec![
        (access(Change::PutRule(rule)), done()),
        (access(Change::RemoveRule(name)), Outcome::Access(Changed::Nothing)),
        (access(Change::PutToken(token.clone())), done()),
        (access(Change::Switch(true)), done()),
        (Operation::Lock(Box::new(lock)), refused),
        (Operation::Advance, Outcome::Advanced),
    ]);
    let of = |n: u64, event: &str| json!({"node": 1, "index": 7, "n": n, "term": 2, "event": event, "actor": "root"});
    let with = |mut line: Value, fields: Value| {
        line.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        line
    };
    let rule = "group \"builders\": table \"*\", \"jobs/*\": acquire, force as \"{identity}\"";
    let made = json!({"access_token": token.id().to_string(), "identity": "ci"});
    let refused = json!({
        "table": "default", "signature": "s", "signee": "ann", "detail": "the right is missing"
    });
    assert_eq!(
        lines,
        [
            with(of(0, "rule_put"), json!({"rule": rule})),
            with(of(1, "access_token_made"), made),
            of(2, "access_enabled"),
            with(of(3, "refused"), refused),
        ]
    );
    assert!(!serde_json::to_string(&lines).unwrap().contains(&"ab".repeat(8)));
}
