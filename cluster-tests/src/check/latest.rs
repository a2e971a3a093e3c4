//! The largest value that had been seen for certain before some moment.

use std::collections::VecDeque;

/// Values with the times at which their operations returned, in nearly that order. Memory is
/// bounded by the operations that returned within the longest latency.
#[derive(Debug, Default)]
pub(super) struct Latest {
    /// Times ascend, and so do values: a value smaller than an earlier one adds nothing.
    seen: VecDeque<Seen>,
}

/// A value, and the operation that showed it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Seen {
    pub(super) returned: u64,
    pub(super) value: u64,
    pub(super) id: u64,
}

impl Latest {
    /// The largest value of the operations that returned before this moment.
    pub(super) fn before(&self, moment: u64) -> Option<Seen> {
        let count = self.seen.partition_point(|seen| seen.returned < moment);
        count.checked_sub(1).map(|place| self.seen[place])
    }

    /// Notes the value that an operation showed.
    pub(super) fn note(&mut self, new: Seen, latency: u64) {
        let place = self.seen.partition_point(|seen| seen.returned <= new.returned);
        if place > 0 && self.seen[place - 1].value >= new.value {
            return;
        }
        let covered = self.seen.iter().skip(place).take_while(|seen| seen.value <= new.value);
        let covered = covered.count();
        self.seen.drain(place..place + covered);
        self.seen.insert(place, new);
        // A later request was invoked no earlier than this, except for one recorded late.
        let oldest = new.returned.saturating_sub(latency.saturating_mul(2));
        while self.seen.len() > 1 && self.seen[1].returned < oldest {
            self.seen.pop_front();
        }
    }
}
