//! Measures whether a service answered quickly enough for its remaining times to be judged.
//!
//! A live service's clock runs on between the commands of a script. Its answers are not wrong for
//! that, but once a grant is a second older than the script assumes, the remaining times prove
//! nothing about it. Such a script is not checked; it has neither failed nor passed.

use std::collections::BTreeMap;
use std::time::Duration;

use keyward_core::clock::{Clock as _, SystemClock};

/// The limit of a grant's age, beyond the script's assumption, up to which its remaining time can
/// be judged. Times are printed rounded up to a second; the rest of the second is for the margin of
/// `advance`.
const LIMIT: Duration = Duration::from_millis(600);

/// The real time that the commands of a script take, without the time they let pass on purpose.
pub(crate) struct Pace {
    clock: SystemClock,
    running: Duration,
    /// The time at which the present command began.
    since: Option<Duration>,
    /// The time at which each lock's grant was requested, by table and signature.
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

    /// Begins a command that takes real time.
    pub(crate) fn begin(&mut self) {
        self.since = Some(self.clock.boottime());
    }

    /// Ends the command.
    pub(crate) fn end(&mut self) {
        self.running = self.now();
        self.since = None;
    }

    /// Ends a command that lets this much time pass: by waiting, or else by advancing a clock,
    /// which runs on meanwhile.
    pub(crate) fn end_of_advance(&mut self, by: Duration) {
        let before = self.running;
        self.end();
        let took = self.running.saturating_sub(before);
        self.running = before + took.checked_sub(by).unwrap_or(took);
    }

    /// Notes a grant that was requested at `asked_at`: it is no older than that.
    pub(crate) fn granted(&mut self, table: &str, signature: &str, asked_at: Duration) {
        self.asked.insert((table.to_owned(), signature.to_owned()), asked_at);
    }

    /// Notes that an answer shows the remaining time of this lock now.
    pub(crate) fn tell(&mut self, table: &str, signature: &str) {
        let lock = (table.to_owned(), signature.to_owned());
        if let Some(asked) = self.asked.get(&lock) {
            self.worst = self.worst.max(self.now().saturating_sub(*asked));
        }
    }

    /// The largest age, if it is too large for remaining times to be judged.
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
