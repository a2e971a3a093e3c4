//! The corpus of a target: one file, one line for each input, with its name and its bytes in
//! hexadecimal. `scripts/fuzz` unpacks it for libFuzzer, which reads folders.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// The inputs of a target by name.
pub(super) type Corpus = BTreeMap<String, Vec<u8>>;

fn path(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("corpus/{target}.hex"))
}

/// Reads the corpus of a target.
pub(super) fn read(target: &str) -> Corpus {
    let text = fs::read_to_string(path(target)).unwrap_or_else(|error| panic!("{target}: {error}"));
    named(&text).collect()
}

/// The bytes of each line of a name and hexadecimal digits.
pub(super) fn named(text: &str) -> impl Iterator<Item = (String, Vec<u8>)> {
    let line = |line: &str| {
        let (name, hex) = line.split_once(' ').unwrap_or((line, ""));
        (name.to_owned(), bytes(hex))
    };
    text.lines().map(line)
}

/// Writes the corpus of a target.
pub(super) fn write(target: &str, corpus: &Corpus) {
    let mut text = String::new();
    for (name, bytes) in corpus {
        text.push_str(name);
        let mut separator = " ";
        for byte in bytes {
            write!(text, "{separator}{byte:02x}").unwrap();
            separator = "";
        }
        text.push('\n');
    }
    fs::write(path(target), text).unwrap();
}

/// The bytes that hexadecimal digits stand for.
pub(super) fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.trim().chars().map(|c| c.to_digit(16).unwrap()).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap()).collect()
}
