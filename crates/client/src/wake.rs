//! Wakes guards when the clock has advanced without the timers.
//!
//! Timers stop while the machine is asleep, and grants do not. One task of a client compares clock
//! and timers, so that each guard can sleep until its own next renewal instead of polling. It runs
//! while there are guards.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use keyward_core::clock::Clock;
use keyward_core::task;

/// How often the clock is compared with the timers.
const BEAT: Duration = Duration::from_millis(500);

/// The lead of the clock over the timers that means that the machine has slept; less is the delay
/// of a busy machine.
const JUMP: Duration = Duration::from_millis(400);

/// Wakes the guards of one client.
pub(super) struct Wake {
    clock: Arc<dyn Clock>,
    jumps: watch::Sender<()>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Wake {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { clock, jumps: watch::Sender::new(()), task: Mutex::default() })
    }

    /// A channel that changes when the clock has jumped. Must be called within a runtime; repeated
    /// calls start the task again if the runtime in which it ran has ended.
    pub(super) fn feel(self: &Arc<Self>) -> watch::Receiver<()> {
        let receiver = self.jumps.subscribe();
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if task.as_ref().is_none_or(JoinHandle::is_finished) {
            *task = Some(tokio::spawn(task::of_host(Arc::clone(self).beat())));
        }
        receiver
    }

    async fn beat(self: Arc<Self>) {
        loop {
            let before = self.clock.boottime();
            tokio::time::sleep(BEAT).await;
            if self.clock.boottime().saturating_sub(before) > BEAT + JUMP {
                self.jumps.send_replace(());
            }
            let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
            if self.jumps.receiver_count() == 0 {
                *task = None;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyward_core::clock::ManualClock;

    #[tokio::test(start_paused = true)]
    async fn a_jump_of_the_clock_is_felt_and_its_going_on_is_not() {
        let clock = ManualClock::default();
        let wake = Wake::new(Arc::new(clock.clone()));
        let mut felt = wake.feel();
        for _ in 0..10 {
            clock.advance(BEAT);
            tokio::time::sleep(BEAT).await;
        }
        assert!(!felt.has_changed().unwrap());
        clock.advance(3 * BEAT);
        tokio::time::timeout(2 * BEAT, felt.changed()).await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_with_the_last_guard_and_begins_again() {
        let clock = ManualClock::default();
        let wake = Wake::new(Arc::new(clock.clone()));
        drop(wake.feel());
        tokio::time::sleep(3 * BEAT).await;
        assert!(wake.task.lock().unwrap().is_none());
        let mut felt = wake.feel();
        tokio::task::yield_now().await;
        clock.advance(3 * BEAT);
        tokio::time::timeout(2 * BEAT, felt.changed()).await.unwrap().unwrap();
    }
}
