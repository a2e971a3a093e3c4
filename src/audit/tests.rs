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

#[test]
fn lines_are_appended_in_order_and_the_last_index_is_known_to_the_next_run() {
    let folder = tempfile::tempdir().unwrap();
    let audit = open(&folder, 1 << 20, 3);
    assert_eq!(audit.written_before(), None);
    for index in 1..=100 {
        audit.write(&json!({"index": index, "n": 0}));
    }
    audit.write(&json!({"event": "one without an index"}));
    audit.flush();
    assert_eq!(audit.figures(), AuditFigures { lines: 101, dropped: 0, is_failing: false });
    drop(audit);
    let audit = open(&folder, 1 << 20, 3);
    assert_eq!(audit.written_before(), Some(100));
    audit.write(&json!({"index": 101}));
    audit.flush();
    let written = lines(&folder, "audit.jsonl");
    assert_eq!(written.len(), 102);
    assert_eq!((&written[0]["index"], &written[101]["index"]), (&json!(1), &json!(101)));
}

#[test]
fn a_last_line_that_was_cut_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    for (content, last, whole) in [
        ("{\"index\":7}\n{\"index\":8", Some(7), 1),
        ("{\"index\":7}\n{\"index\":8}\n", Some(8), 2),
        ("{\"ind", None, 0),
        ("", None, 0),
    ] {
        fs::write(&path, content).unwrap();
        let audit = open(&folder, 1 << 20, 3);
        assert_eq!(audit.written_before(), last, "{content}");
        assert_eq!(lines(&folder, "audit.jsonl").len(), whole, "{content}");
    }
    fs::write(&path, vec![b'x'; 100 << 10]).unwrap();
    let refused = Audit::open(file(&folder, 1, 0), OnFailure::Drop).err().unwrap();
    assert!(refused.to_string().contains("is no audit"), "{refused}");
    assert_eq!(fs::metadata(&path).unwrap().len(), 100 << 10, "it is left as it is");
}

#[test]
fn a_full_file_is_renamed_and_as_many_are_kept_as_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let audit = open(&folder, 30, 2);
    for index in 0..10 {
        // Two lines of 15 bytes fill a file.
        audit.write(&json!({"index": 1000 + index}));
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
    let audit = open(&folder, 30, 0);
    assert_eq!(audit.written_before(), Some(1009));
    for index in 0..5 {
        audit.write(&json!({"index": 2000 + index}));
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
    audit.write(&json!({"index": 1}));
    audit.flush();
    assert_eq!(audit.refusal(), None);
    audit.write(&json!({"index": 2}));
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
    assert_eq!(lines(&folder, "audit.jsonl"), [json!({"index": 2})]);
    assert_eq!(lines(&folder, "audit.jsonl.1"), [json!({"index": 1})]);
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
