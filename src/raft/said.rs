//! Saying the same thing not more than once in five seconds.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::Deadline;

/// How often the same is said.
const EVERY: Duration = Duration::from_secs(5);

/// No more than this many texts are remembered: they come from configurations and do not vary.
const REMEMBERED: usize = 256;

/// The texts that were said lately.
#[derive(Default)]
pub(super) struct Said(Mutex<BTreeMap<String, Deadline>>);

impl Said {
    /// Whether it is time to say `text`, perhaps again.
    pub(super) fn is_due(&self, text: &str) -> bool {
        let mut said = self.0.lock();
        if said.get(text).is_some_and(|until| !until.remaining().is_zero()) {
            return false;
        }
        if said.len() >= REMEMBERED {
            said.clear();
        }
        said.insert(text.to_owned(), Deadline::after(EVERY));
        true
    }
}
