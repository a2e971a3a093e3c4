//! The scripts, embedded in the crate.

use std::borrow::Cow;
use std::io;
use std::path::Path;

/// A script: its name and its text, requests and expected answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Script {
    /// The name, which is that of its file.
    pub name: Cow<'static, str>,
    /// The text.
    pub text: Cow<'static, str>,
}

impl Script {
    /// Reads every file of a folder as a script, in the order of their names. Hidden files are
    /// skipped.
    ///
    /// # Errors
    /// Errors of the file system, and a file that is not UTF-8.
    pub fn read_folder(folder: &Path) -> io::Result<Vec<Self>> {
        let mut scripts = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.path().is_file() && !name.starts_with('.') {
                let text = std::fs::read_to_string(entry.path())?;
                scripts.push(Self { name: name.into(), text: text.into() });
            }
        }
        scripts.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(scripts)
    }
}

macro_rules! embed {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("scripts/", $name)))),*]
    };
}

/// Every file of the folder; a test compares the two.
const SCRIPTS: &[(&str, &str)] = embed![
    "01-a-free-lock",
    "02-mine-is-renewed",
    "03-levels",
    "04-expired-locks",
    "05-force",
    "06-unlock",
    "07-check",
    "08-instances",
    "09-durations-and-time-to-live",
    "10-service-defaults",
    "11-tokens",
    "12-renew-only",
    "13-repeated-requests",
    "14-repeated-refusals",
    "15-tables",
    "16-list",
    "17-names",
    "18-bad-requests",
    "19-take-over-chains",
    "20-queue",
    "21-asked-again",
    "22-modes",
    "23-permits",
    "24-lock-delay",
    "25-sessions",
    "26-operators",
    "27-owners-and-places",
    "28-answers-that-are-held",
    "29-hand-over",
    "30-no-barging",
    "31-force-and-the-queue",
    "32-ends-of-waits",
    "33-readers-and-writers",
    "34-permits-and-slots",
    "35-lock-delay-in-all-modes",
    "36-rules-of-sessions",
    "37-moving",
    "38-inboxes",
    "39-reads-of-queues",
    "40-verify-and-release",
    "41-refusals",
    "42-callers-that-are-gone",
    "43-bounds",
    "44-thousands",
];

/// The scripts of the contract, in their order of reading.
pub fn scripts() -> Vec<Script> {
    SCRIPTS
        .iter()
        .map(|(name, text)| Script { name: Cow::Borrowed(name), text: Cow::Borrowed(text) })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_folder_is_carried() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/conformance/scripts");
        assert_eq!(Script::read_folder(&folder).unwrap(), scripts());
    }
}
