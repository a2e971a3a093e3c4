//! Limits how many lines of one kind are logged individually.
//!
//! Each of them is worth a line while there are few. When there are many, a line for each would
//! bury everything else: then a single line reports how many more there were.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The number of lines that are logged individually in each [`WINDOW`].
const ONE_BY_ONE: u32 = 10;

/// The time for which further lines are counted before their number is logged.
pub(crate) const WINDOW: Duration = Duration::from_secs(10);

/// Decides which lines are logged. Times are those of a monotonic clock.
#[derive(Default)]
pub(crate) struct Flood(Mutex<Window>);

#[derive(Default)]
struct Window {
    began: Duration,
    logged: u32,
    left_out: u64,
}

impl Flood {
    /// Whether this line is logged, and how many were suppressed in a window that has ended with
    /// it.
    pub(crate) fn admit(&self, now: Duration) -> (bool, u64) {
        self.lock().admit(now)
    }

    /// The number suppressed in a window that has ended, returned once; zero before its end.
    pub(crate) fn left_out(&self, now: Duration) -> u64 {
        self.lock().turn(now)
    }

    fn lock(&self) -> MutexGuard<'_, Window> {
        // Each change is complete, so the value is consistent even after a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Window {
    /// Starts a new window when this one is over; returns how many lines it suppressed.
    fn turn(&mut self, now: Duration) -> u64 {
        if now.saturating_sub(self.began) < WINDOW {
            return 0;
        }
        std::mem::replace(self, Self { began: now, ..Self::default() }).left_out
    }

    fn admit(&mut self, now: Duration) -> (bool, u64) {
        let left_out = self.turn(now);
        let admitted = self.logged < ONE_BY_ONE;
        if admitted {
            self.logged += 1;
        } else {
            self.left_out += 1;
        }
        (admitted, left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_flood_the_first_are_logged_and_the_others_counted() {
        let flood = Flood::default();
        let mut now = Duration::from_secs(100);
        let logged = (0..1000).filter(|_| flood.admit(now).0).count();
        assert_eq!(logged, 10);
        assert_eq!(flood.left_out(now + WINDOW / 2), 0, "it is not over");
        now += WINDOW;
        assert_eq!(flood.admit(now), (true, 990));
        assert_eq!(flood.left_out(now + WINDOW), 0, "nothing was left out");
    }
}
