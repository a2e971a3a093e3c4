//! Tests of the checker: histories that it must accept, and more that it must reject.

mod random;
mod script;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::*;
use crate::history::History;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/check/tests/histories")
}

fn judge(history: &History) -> Verdict {
    check(Source::Memory(history), Options::default()).expect("it is whole")
}

/// The expected verdict in a script's first line, in addition to its name (`accept-`, `reject-`,
/// `nothing-`): the conclusion, or every invariant that was broken.
fn golden(verdict: &Verdict) -> String {
    match verdict.conclusion {
        Conclusion::Pass => String::from("pass"),
        Conclusion::NothingShown => String::from("nothing_shown"),
        Conclusion::Violation => {
            let broken = verdict.violations.iter().map(|violation| violation.broken);
            let broken: BTreeSet<_> = broken.map(|broken| format!("{broken:?}")).collect();
            broken.into_iter().collect::<Vec<_>>().join(" ")
        }
    }
}

#[test]
fn every_script_has_its_verdict() {
    let update = std::env::var_os("UPDATE_GOLDENFILES").is_some();
    let mut wrong = String::new();
    let (mut accepted, mut rejected, mut nothing) = (0, 0, 0);
    let mut paths: Vec<_> = std::fs::read_dir(folder())
        .expect("the folder is there")
        .map(|entry| entry.expect("it can be read").path())
        .collect();
    paths.sort();
    for path in paths {
        let text = std::fs::read_to_string(&path).expect("a script is text");
        let (first, rest) = text.split_once('\n').expect("a script has lines");
        let verdict = judge(&script::parse(rest));
        let found = format!("verdict: {}", golden(&verdict));
        let kind = match verdict.conclusion {
            Conclusion::Pass => (&mut accepted, "accept-"),
            Conclusion::Violation => (&mut rejected, "reject-"),
            Conclusion::NothingShown => (&mut nothing, "nothing-"),
        };
        *kind.0 += 1;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if first == found && name.starts_with(kind.1) {
            continue;
        }
        if update {
            std::fs::write(&path, format!("{found}\n{rest}")).expect("it can be written");
        }
        writeln!(wrong, "{name}: {first}\n{:width$}  {found}\n{verdict}", "", width = name.len())
            .expect("a string takes text");
    }
    println!("{accepted} accepted, {rejected} rejected, {nothing} that show nothing");
    assert!(wrong.is_empty(), "{wrong}");
    assert!(rejected > 2 * accepted, "far more must be rejected than accepted");
}

#[test]
fn a_file_is_judged_as_the_same_history_in_memory() {
    let text = std::fs::read_to_string(folder().join("reject-two-holders")).expect("it is there");
    let history = script::parse(&text);
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    history.write(&mut file.as_file()).expect("it can be written");
    let from_file = check(Source::File(file.path()), Options::default()).expect("it is whole");
    assert_eq!(from_file, judge(&history));
}

#[test]
fn a_search_without_budget_is_never_a_pass() {
    let text = "places none\n0-1 c1 lock x a -> ok 1\n2-3 c1 unlock x a -> ok";
    let history = script::parse(text);
    assert_eq!(judge(&history).conclusion, Conclusion::Pass);
    let starved = [
        Options { search_steps: 0, ..Options::default() },
        Options { all_search_steps: 1, ..Options::default() },
        Options { search_operations: 1, ..Options::default() },
    ];
    for options in starved {
        let verdict = check(Source::Memory(&history), options).expect("it is whole");
        assert_eq!(verdict.conclusion, Conclusion::NothingShown, "{options:?}");
    }
}

#[test]
fn the_model_has_at_most_150_lines() {
    let lines = include_str!("../model.rs").lines().count();
    assert!(lines <= 150, "{lines} lines");
}
