//! Limits how many answers with 5xx are logged one by one.
//!
//! In an outage every client is refused repeatedly; see [`crate::flood`].

use crate::clock::{Clock, SystemClock};
use crate::flood::{self, WINDOW};

/// Decides which answers are logged.
#[derive(Default)]
pub(crate) struct Flood(flood::Flood);

impl Flood {
    /// Whether this answer is logged individually.
    pub(crate) fn admits(&self) -> bool {
        let (admitted, left_out) = self.0.admit(SystemClock.raw());
        tell(left_out);
        admitted
    }

    /// Logs how many were suppressed in a window that has ended.
    pub(crate) fn tell(&self) {
        tell(self.0.left_out(SystemClock.raw()));
    }
}

fn tell(left_out: u64) {
    if left_out > 0 {
        let seconds = WINDOW.as_secs();
        tracing::info!(requests = left_out, seconds, "more were answered with 5xx");
    }
}
