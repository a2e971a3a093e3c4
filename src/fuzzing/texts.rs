//! Texts that people write: a node's settings and the scripts of the conformance suite.

use std::sync::Arc;

use super::peers::runtime;
use crate::conformance::{MemoryBootstrap, play_here};

/// A configuration file: it gives an error with its position, or consistent settings.
pub fn settings(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match crate::cli::read_settings(&text) {
        Ok(settings) => settings.assert_agree(),
        Err(problems) => {
            assert!(!problems.is_empty(), "a refusal says what is wrong");
            assert!(problems.iter().all(|problem| !problem.trim().is_empty()), "{problems:?}");
        }
    }
}

/// The most lines and bytes of a script: longer ones find nothing new.
const MOST_LINES: usize = 200;
const MOST_BYTES: usize = 16 * 1024;

/// A script of the conformance suite, in memory: it gives an error, or the script with its answers,
/// and a second run gives the same.
pub fn script(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if text.len() > MOST_BYTES || text.lines().count() > MOST_LINES {
        return;
    }
    let runtime = runtime();
    let play = |text: &str| play_here(Arc::new(MemoryBootstrap::new()), text, runtime.handle());
    if let Ok(answered) = play(text) {
        assert_eq!(play(&answered).as_ref(), Ok(&answered), "a script passes with its own answers");
    }
}
