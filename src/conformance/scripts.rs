//! The scripts, carried in the crate.

use std::borrow::Cow;

/// A script: its name and its text, requests and expected answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Script {
    /// The name, which is its file's.
    pub name: Cow<'static, str>,
    /// The text.
    pub text: Cow<'static, str>,
}

macro_rules! embed {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("scripts/", $name)))),*]
    };
}

/// Every file of the folder; a test compares the two.
const SCRIPTS: &[(&str, &str)] = embed!["01-a-free-lock",];

/// The scripts of the contract, in the order in which they are best read.
pub fn scripts() -> Vec<Script> {
    SCRIPTS
        .iter()
        .map(|(name, text)| Script { name: Cow::Borrowed(name), text: Cow::Borrowed(text) })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_file_of_the_folder_is_carried() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/conformance/scripts");
        let files: BTreeSet<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let carried: BTreeSet<String> =
            scripts().into_iter().map(|script| script.name.into_owned()).collect();
        assert_eq!(files, carried);
    }
}
