//! Whether a service answered quickly enough for its remaining times to be judged.
//!
//! A live service's clock runs on between the commands of a script. That is no fault of its
//! answers, but once a grant is older by a second than the script believes, the remaining times
//! say nothing about it. Such a script is not checked; it has neither failed nor passed.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::{Clock as _, SystemClock};

/// How much older than a script believes a grant may be for its remaining time to be judged. Times
/// are printed rounded up to a second; the rest of it is for what `advance` goes too far.
const LIMIT: Duration = Duration::from_millis(600);

/// The real time that the commands of a script take, without what they let pass on purpose.
pub(crate) struct Pace {
    clock: SystemClock,
    running: Duration,
    /// Since when the present command runs.
    since: Option<Duration>,
    /// When each lock's grant was asked for: by table and signature.
    asked: BTreeMap<(String, String), Duration>,
    worst: Duration,
}

impl Pace {
    pub(crate) fn new() -> Self {
        Self {
            clock: SystemClock,
            running: Duration::ZERO,
            since: None,
            asked: BTreeMap::new(),
            worst: Duration::ZERO,
        }
    }

    /// A command begins that takes real time.
    pub(crate) fn begin(&mut self) {
        self.since = Some(self.clock.boottime());
    }

    /// It has ended.
    pub(crate) fn end(&mut self) {
        self.running = self.now();
        self.since = None;
    }

    /// It has ended, and was to let this much time pass: by waiting for it, or else by moving a
    /// clock, which runs on meanwhile.
    pub(crate) fn end_of_advance(&mut self, by: Duration) {
        let before = self.running;
        self.end();
        let took = self.running.saturating_sub(before);
        self.running = before + took.checked_sub(by).unwrap_or(took);
    }

    /// A lock was granted that was asked for at that time: the grant is no older than this.
    pub(crate) fn granted(&mut self, table: &str, signature: &str, asked_at: Duration) {
        self.asked.insert((table.to_owned(), signature.to_owned()), asked_at);
    }

    /// An answer tells the remaining time of this lock now.
    pub(crate) fn tell(&mut self, table: &str, signature: &str) {
        let lock = (table.to_owned(), signature.to_owned());
        if let Some(asked) = self.asked.get(&lock) {
            self.worst = self.worst.max(self.now().saturating_sub(*asked));
        }
    }

    /// The greatest age, if remaining times of such a grant cannot be judged.
    pub(crate) fn too_slow(&self) -> Option<Duration> {
        (self.worst > LIMIT).then_some(self.worst)
    }

    /// The real time that commands have taken so far.
    pub(crate) fn now(&self) -> Duration {
        let present = self.since.map(|since| self.clock.boottime().saturating_sub(since));
        self.running + present.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_was_to_pass_does_not_count() {
        let mut pace = Pace::new();
        pace.begin();
        pace.since = pace.since.map(|since| since.saturating_sub(Duration::from_secs(3)));
        pace.end_of_advance(Duration::from_secs(2));
        assert_eq!(pace.now().as_secs(), 1, "waited for two seconds, and took three");
        pace.begin();
        pace.since = pace.since.map(|since| since.saturating_sub(Duration::from_secs(3)));
        pace.end_of_advance(Duration::from_secs(10));
        assert_eq!(pace.now().as_secs(), 4, "moved a clock, and took three seconds for it");
    }

    #[test]
    fn only_a_grant_that_is_told_late_is_too_old() {
        let mut pace = Pace::new();
        pace.running = Duration::from_secs(5);
        pace.granted("t", "a", Duration::from_secs(5));
        pace.tell("t", "a");
        pace.tell("t", "never granted");
        assert_eq!(pace.too_slow(), None);
        pace.running += LIMIT + Duration::from_millis(1);
        pace.tell("t", "a");
        assert_eq!(pace.too_slow(), Some(LIMIT + Duration::from_millis(1)));
    }
}
