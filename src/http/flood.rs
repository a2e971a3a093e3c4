//! Limits how many answers with 5xx are logged one by one.
//!
//! Each of them is worth a line while there are few. In an outage every client is refused, again and
//! again, and a line for each would bury the reason: then a line says how many there were.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::{Clock, SystemClock};

/// Answers that are logged one by one in each [`WINDOW`].
const ONE_BY_ONE: u32 = 10;

/// How long the others are counted before their number is logged.
const WINDOW: Duration = Duration::from_secs(10);

/// Decides which answers are logged.
#[derive(Default)]
pub(crate) struct Flood(Mutex<Window>);

#[derive(Default)]
struct Window {
    began: Duration,
    logged: u32,
    left_out: u64,
}

impl Flood {
    /// Whether this answer is logged by itself.
    pub(crate) fn admits(&self) -> bool {
        let (admitted, left_out) = self.lock().admit(SystemClock.raw());
        tell(left_out);
        admitted
    }

    /// Logs how many were left out in a window that has ended.
    pub(crate) fn tell(&self) {
        let left_out = self.lock().turn(SystemClock.raw());
        tell(left_out);
    }

    fn lock(&self) -> MutexGuard<'_, Window> {
        // Each change is whole, so what a panicking thread left is too.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell(left_out: u64) {
    if left_out > 0 {
        let seconds = WINDOW.as_secs();
        tracing::info!(requests = left_out, seconds, "more were answered with 5xx");
    }
}

impl Window {
    /// Begins anew when its time is over; how many were left out of the one before.
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
        let mut window = Window::default();
        let mut now = Duration::from_secs(100);
        let logged = (0..1000).filter(|_| window.admit(now).0).count();
        assert_eq!(logged, 10);
        assert_eq!(window.turn(now + WINDOW / 2), 0, "it is not over");
        now += WINDOW;
        assert_eq!(window.admit(now), (true, 990));
        assert_eq!(window.turn(now + WINDOW), 0, "nothing was left out");
    }
}
