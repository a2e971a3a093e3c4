//! The order of the house: each module of the library uses only those below it, and a comment begins
//! with the noun that it is about.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The packages of the house, from the lowest to the highest, and the modules of each in the same
/// order. A module imports only from those before it in its list; a package that imported one above
/// it would not build. The root of a library stands above all its modules.
const FLOORS: [(&str, &[&str]); 4] = [
    (
        "crates/core/src",
        &[
            "codec",
            "principal",
            "types",
            "error",
            "limits",
            "clock",
            "random",
            "task",
            "access",
            "lock",
            "service",
            "memory",
        ],
    ),
    (
        "crates/client/src",
        &[
            "resolve",
            "tls",
            "carrier",
            "api",
            "endpoints",
            "lanes",
            "wake",
            "releases",
            "lease",
            "credential",
            "transport",
            "attempts",
            "backup",
            "batch",
            "batcher",
            "renewal",
            "guard",
            "session",
            "shared",
            "semaphore",
            "rwlock",
        ],
    ),
    ("crates/harness/src", &["processes", "report", "bench", "conformance"]),
    (
        "src",
        &[
            "budget", "flood", "files", "audit", "tls", "jwt", "storage", "raft", "node",
            "forward", "advance", "http", "cli",
        ],
    ),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below a folder.
fn every_file(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            every_file(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Tells whether this is a file of tests, which may import anything.
fn is_of_tests(path: &Path) -> bool {
    path.with_extension("").iter().any(|part| part == "tests")
}

/// The code of a file without comments and without the tests at its end.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().take_while(|line| *line != "mod tests {");
    let lines = lines.map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// The modules of the library that the code names: `crate::name`, `crate::{name, name::part}`.
fn imports(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        let names: Vec<&str> = match rest.strip_prefix('{') {
            Some(group) => top_level(group),
            None => vec![rest],
        };
        for name in names {
            let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let name = name.trim_start();
            let end = name.find(|c| !word(c)).unwrap_or(name.len());
            found.insert(name[..end].to_owned());
        }
    }
    found
}

/// The parts of a group of imports, up to its closing brace.
fn top_level(group: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut from) = (Vec::new(), 0_u32, 0);
    for (at, sign) in group.char_indices() {
        match sign {
            '{' => depth += 1,
            '}' if depth == 0 => {
                parts.push(&group[from..at]);
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&group[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts
}

#[test]
fn no_import_climbs() {
    let mut climbing = BTreeSet::new();
    for (folder, order) in FLOORS {
        let source = root().join(folder);
        let mut all = Vec::new();
        every_file(&source, &mut all);
        all.retain(|path| !is_of_tests(path.strip_prefix(&source).unwrap()));
        assert!(!all.is_empty(), "{folder} is empty");
        let rank = |module: &str| order.iter().position(|known| *known == module);
        for path in &all {
            let name = path.strip_prefix(&source).unwrap().to_string_lossy().into_owned();
            let own = name.split('/').next().unwrap().trim_end_matches(".rs");
            if ["lib", "main"].contains(&own) {
                continue;
            }
            let own = rank(own).unwrap_or_else(|| panic!("{folder}/{name}: no place in the order"));
            for import in imports(&code(path)) {
                if rank(&import).is_some_and(|other| other > own) {
                    climbing.insert((format!("{folder}/{name}"), import));
                }
            }
        }
    }
    assert!(
        climbing.is_empty(),
        "these files import a module that stands above them: {climbing:?}"
    );
}

/// Of a thousand comments fewer than this many may open with one of [`INVERTED`].
const MOST_INVERTED: usize = 5;

/// Openings that hide the noun that a comment is about.
const INVERTED: [&str; 6] = ["What", "Who", "Whose", "Whoever", "So many", "So long"];

#[test]
fn a_comment_begins_with_the_noun_that_it_is_about() {
    let root = root();
    let mut all = Vec::new();
    for folder in
        ["src", "crates", "tests", "examples", "cluster-tests/src", "cluster-tests/tests", "fuzz"]
    {
        every_file(&root.join(folder), &mut all);
    }
    let (mut openings, mut inverted) = (0, Vec::new());
    for path in all {
        let text = fs::read_to_string(&path).unwrap();
        let mut goes_on = false;
        for (number, line) in text.lines().enumerate() {
            let comment = line.trim_start().strip_prefix("//");
            let comment = comment.map(|rest| rest.trim_start_matches(['/', '!']).trim());
            if let Some(comment) = comment.filter(|_| !goes_on) {
                openings += 1;
                let opens = |word: &str| {
                    let rest = comment.strip_prefix(word);
                    rest.is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
                };
                if INVERTED.iter().any(|word| opens(word)) {
                    inverted.push(format!("{}:{}: {comment}", path.display(), number + 1));
                }
            }
            goes_on = comment.is_some_and(|comment| !comment.is_empty());
        }
    }
    assert!(openings > 5000, "{openings}");
    assert!(inverted.len() * 1000 < openings * MOST_INVERTED, "{}", inverted.join("\n"));
}

#[test]
fn imports_are_read_as_they_are_written() {
    let found = imports("use crate::{a, b::{c, d}, e::f};\nuse crate::g::h; crate::i::j()");
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["a", "b", "e", "g", "i"]);
}
