//! A filter for log messages: each text passes at most once in five seconds.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::Deadline;

/// The interval at which the same text passes again.
const EVERY: Duration = Duration::from_secs(5);

/// The most texts that are remembered. Most come from configurations and do not vary; beyond this a
/// new one does not pass before an old one is forgotten.
const REMEMBERED: usize = 256;

/// The texts that were logged recently.
#[derive(Default)]
pub(super) struct Said(Mutex<BTreeMap<String, Deadline>>);

impl Said {
    /// Whether `text` should be logged now.
    pub(super) fn is_due(&self, text: &str) -> bool {
        let mut said = self.0.lock();
        if said.get(text).is_some_and(|until| !until.remaining().is_zero()) {
            return false;
        }
        if said.len() >= REMEMBERED {
            said.retain(|_, until| !until.remaining().is_zero());
            if said.len() >= REMEMBERED {
                return false;
            }
        }
        said.insert(text.to_owned(), Deadline::after(EVERY));
        true
    }
}
