//! Texts that people write: a node's settings and the scripts of the conformance suite.

use std::sync::Arc;

use keyward::cli::{Settings, read_settings};
use keyward::conformance::{MemoryBootstrap, play_here};

use crate::peers::runtime;

/// A configuration file: it gives an error with its position, or consistent settings.
pub fn settings(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match read_settings(&text) {
        Ok(settings) => assert_consistent(&settings),
        Err(problems) => {
            assert!(!problems.is_empty(), "a refusal says what is wrong");
            assert!(problems.iter().all(|problem| !problem.trim().is_empty()), "{problems:?}");
        }
    }
}

/// Asserts what a start relies on.
fn assert_consistent(settings: &Settings) {
    assert!(settings.members.contains_key(&settings.id), "{settings:?}");
    for address in settings.members.values() {
        let port = address.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
        assert!(matches!(port, Some(Ok(1..))), "{settings:?}");
    }
    assert!(settings.client_listen != settings.peer_listen || settings.client_listen.port() == 0);
    assert!((1..=100_000).contains(&settings.rho_ppm()), "{settings:?}");
    assert!(settings.snapshot_every() != 0, "{settings:?}");
    assert!(!settings.shutdown_timeout().is_zero(), "{settings:?}");
    assert!(!settings.data_dir.as_os_str().is_empty(), "{settings:?}");
}

/// The most lines and bytes of a script: longer ones find nothing new.
const MOST_LINES: usize = 200;
const MOST_BYTES: usize = 16 * 1024;

/// The word of a request that waits beside the script, in real time: neither a runtime that only
/// this thread drives nor a fuzzer has the time.
const WAITS: &str = "call=";

/// The word of a request that is asked many times over: a fuzzer would ask for billions.
const MANY: &str = "times=";

/// A script of the conformance suite, in memory: it gives an error, or the script with its answers,
/// and a second run gives the same.
pub fn script(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if text.contains(WAITS) || text.contains(MANY) {
        return;
    }
    if text.len() > MOST_BYTES || text.lines().count() > MOST_LINES {
        return;
    }
    let runtime = runtime();
    let play = |text: &str| play_here(Arc::new(MemoryBootstrap::new()), text, runtime.handle());
    if let Ok(answered) = play(text) {
        assert_eq!(play(&answered).as_ref(), Ok(&answered), "a script passes with its own answers");
    }
}
