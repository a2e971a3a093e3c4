//! Texts that people write: a node's settings and the scripts of the conformance suite.

use std::sync::Arc;

use super::peers::runtime;
use crate::conformance::{MemoryBootstrap, play_here};

/// A configuration file: an error that says where, or settings that agree.
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

/// So many lines are played, and so many bytes: what takes longer is not another script.
const MOST_LINES: usize = 200;
const MOST_BYTES: usize = 16 * 1024;

/// A script of the conformance suite, on memory: an error, or the script with its answers, which is
/// what a second run gives again.
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
