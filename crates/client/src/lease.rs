//! A holder's view of its grant, by its own clock alone.
//!
//! The rule: a grant is certain until (1 − ρ) of its time after the request that gave it was
//! *sent*, on a clock that goes on while the machine sleeps. While a renewal is unanswered the end
//! is the earlier of the old one and the one it requested, because it may have taken effect. A lost
//! grant stays lost: an answer that arrives after the end restores nothing, since the program may
//! have been notified.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use keyward_core::clock::Clock;
use keyward_core::types::Loss;

/// Why a lock is no longer held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LostReason {
    /// No renewal was answered in time; the lock may be another's by now.
    Unreachable,
    /// The cluster reports that the grant is gone, and not why: expired, released or taken by
    /// force.
    Lost,
    /// The cluster reports that a holder of a higher level has the lock now.
    Preempted,
    /// The cluster reports that the grant has expired: the longest hold of its table was over.
    Expired,
    /// The cluster reports that a forced request has taken the lock.
    Forced,
    /// The owner has moved the grant to another session, or out of sessions.
    Moved,
    /// The cluster reports that an operator has released the grant.
    Released,
    /// The table was deleted, with the grant.
    TableDeleted,
    /// The session of the grant was closed, or the cluster reports that it has ended.
    SessionEnded,
}

impl LostReason {
    /// The reason as a person reads it, after "the lock is lost: ".
    pub fn describe(self) -> &'static str {
        match self {
            Self::Unreachable => "it was not renewed in time",
            Self::Lost => "it has expired, or was released or taken by force",
            Self::Preempted => "taken by a request of a higher level",
            Self::Expired => "its longest hold is over",
            Self::Forced => "taken by force",
            Self::Moved => "moved to another session of its owner, or out of sessions",
            Self::Released => "released by an operator",
            Self::TableDeleted => "its table was deleted",
            Self::SessionEnded => "its session has ended",
        }
    }
}

impl From<Loss> for LostReason {
    fn from(loss: Loss) -> Self {
        match loss {
            Loss::Expired => Self::Expired,
            Loss::Preempted => Self::Preempted,
            Loss::Forced => Self::Forced,
            Loss::Moved => Self::Moved,
            Loss::Released => Self::Released,
            Loss::TableDeleted => Self::TableDeleted,
        }
    }
}

/// Whether a lock is held, as far as its holder can know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GuardState {
    /// The lock is held.
    Safe,
    /// The lock is held, but less than a third of its time is left: at least one renewal has
    /// failed. Finish or stop.
    Danger,
    /// The lock may be another's. Stop.
    Lost(LostReason),
    /// The lock was released.
    Released,
}

/// The end of the grant as its holder knows it.
pub(super) struct Lease {
    clock: Arc<dyn Clock>,
    /// 1 − ρ.
    certain: f64,
    /// The duration that each renewal requests.
    duration: Duration,
    /// The lease of the session that the grant lives in: its end is the grant's.
    session: Option<Arc<Lease>>,
    inner: Mutex<Inner>,
    states: watch::Sender<GuardState>,
}

struct Inner {
    /// On the clock's boot time.
    end: Duration,
    /// Lost or released, for good.
    ended: Option<GuardState>,
}

impl Lease {
    /// A view without a grant yet.
    pub(super) fn new(clock: Arc<dyn Clock>, certain: f64, duration: Duration) -> Self {
        let inner = Mutex::new(Inner { end: Duration::MAX, ended: None });
        let (states, _) = watch::channel(GuardState::Safe);
        Self { clock, certain, duration, session: None, inner, states }
    }

    /// A view of a grant that lasts as long as a session.
    pub(super) fn within(session: Arc<Lease>) -> Self {
        let clock = Arc::clone(&session.clock);
        let lease = Self::new(clock, session.certain, session.duration);
        Self { session: Some(session), ..lease }
    }

    pub(super) fn now(&self) -> Duration {
        self.clock.boottime()
    }

    pub(super) fn states(&self) -> watch::Receiver<GuardState> {
        self.states.subscribe()
    }

    /// Records that a renewal is sent now: until it is answered, its end counts if it is the
    /// earlier one.
    pub(super) fn asked(&self, sent: Duration) {
        let asked = self.end_of(sent, self.duration);
        self.update(|inner| inner.end = inner.end.min(asked));
    }

    /// Records that a request sent at this time was granted, with this much left when it was
    /// decided.
    pub(super) fn answered(&self, sent: Duration, expires_in: Duration) {
        let end = self.end_of(sent, expires_in);
        self.update(|inner| inner.end = end);
    }

    /// Ends the grant in this state, unless it has ended before.
    pub(super) fn end(&self, state: GuardState) {
        self.update(|inner| inner.ended = Some(state));
    }

    /// Updates the state by the clock, and notifies the watchers of a change.
    pub(super) fn judge(&self) -> GuardState {
        self.update(|_| {})
    }

    /// How long the lock is certainly held; zero once it has ended.
    pub(super) fn remaining(&self) -> Duration {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.ended.is_some() {
            return Duration::ZERO;
        }
        match &self.session {
            Some(session) => session.remaining(),
            None => inner.end.saturating_sub(self.now()),
        }
    }

    /// Resolves when the grant is lost; stays pending if it is released first.
    pub(super) fn lost(&self) -> impl Future<Output = LostReason> + Send + use<> {
        let mut states = self.states();
        async move {
            loop {
                if let GuardState::Lost(reason) = *states.borrow_and_update() {
                    return reason;
                }
                if states.changed().await.is_err() {
                    // Released: the lock can no longer be lost.
                    std::future::pending::<()>().await;
                }
            }
        }
    }

    /// How long until the state changes if nothing happens.
    pub(super) fn until_change(&self) -> Duration {
        let remaining = self.remaining();
        // Danger begins just below the bound.
        let above = remaining.saturating_add(Duration::from_nanos(1));
        let until_danger = above.saturating_sub(self.danger_below());
        if until_danger.is_zero() { remaining } else { until_danger }
    }

    fn end_of(&self, sent: Duration, expires_in: Duration) -> Duration {
        sent.saturating_add(expires_in.mul_f64(self.certain))
    }

    fn danger_below(&self) -> Duration {
        self.duration.mul_f64(self.certain) / 3
    }

    /// Applies a change, unless the grant ended before it, also by the clock.
    fn update(&self, change: impl FnOnce(&mut Inner)) -> GuardState {
        let of_session = self.session.as_ref().map(|session| session.judge());
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ended @ (GuardState::Lost(_) | GuardState::Released)) = of_session {
            inner.ended.get_or_insert(ended);
        }
        self.judge_end(&mut inner);
        if inner.ended.is_none() {
            change(&mut inner);
            self.judge_end(&mut inner);
        }
        let remaining = inner.end.saturating_sub(self.now());
        let state = match (inner.ended, of_session) {
            (Some(ended), _) => ended,
            (None, Some(of_session)) => of_session,
            (None, None) if remaining < self.danger_below() => GuardState::Danger,
            (None, None) => GuardState::Safe,
        };
        self.states.send_if_modified(|told| std::mem::replace(told, state) != state);
        state
    }

    fn judge_end(&self, inner: &mut Inner) {
        if inner.ended.is_none() && self.now() >= inner.end {
            inner.ended = Some(GuardState::Lost(LostReason::Unreachable));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyward_core::clock::ManualClock;

    const MS: Duration = Duration::from_millis(1);

    fn lease() -> (ManualClock, Lease) {
        let clock = ManualClock::default();
        clock.advance(MS * 500);
        let lease = Lease::new(Arc::new(clock.clone()), 0.99, MS * 3000);
        lease.answered(MS * 500, MS * 3000);
        (clock, lease)
    }

    #[test]
    fn it_counts_from_before_the_request_was_sent_and_gives_up_at_one_minus_rho() {
        let (clock, lease) = lease();
        assert_eq!(lease.remaining(), MS * 2970);
        clock.advance(MS * 1980);
        assert_eq!(lease.judge(), GuardState::Safe);
        clock.advance(MS);
        assert_eq!(lease.judge(), GuardState::Danger);
        clock.advance(MS * 988);
        assert_eq!(lease.judge(), GuardState::Danger);
        clock.advance(MS);
        assert_eq!(lease.judge(), GuardState::Lost(LostReason::Unreachable));
    }

    #[test]
    fn an_unanswered_renewal_shortens_and_never_lengthens() {
        let clock = ManualClock::default();
        let lease = Lease::new(Arc::new(clock.clone()), 1.0, MS * 100);
        lease.answered(Duration::ZERO, MS * 1000);
        clock.advance(MS * 200);
        lease.asked(MS * 200);
        assert_eq!(lease.remaining(), MS * 100, "it may have been done: 100 ms from when it left");
        lease.asked(MS * 250);
        assert_eq!(lease.remaining(), MS * 100);
        lease.answered(MS * 200, MS * 150);
        assert_eq!(lease.remaining(), MS * 150);
    }

    #[test]
    fn an_answer_after_the_end_gives_nothing_back() {
        let (clock, lease) = lease();
        clock.advance(MS * 2970);
        lease.answered(MS * 3460, MS * 3000);
        assert_eq!(lease.judge(), GuardState::Lost(LostReason::Unreachable));
        assert_eq!(lease.remaining(), Duration::ZERO);
    }

    #[test]
    fn the_first_end_stays() {
        let (clock, lease) = lease();
        let mut states = lease.states();
        lease.end(GuardState::Lost(LostReason::Preempted));
        lease.end(GuardState::Released);
        clock.advance(MS * 10_000);
        assert_eq!(lease.judge(), GuardState::Lost(LostReason::Preempted));
        assert!(states.has_changed().unwrap());
        assert_eq!(*states.borrow_and_update(), GuardState::Lost(LostReason::Preempted));
    }

    #[test]
    fn time_on_the_way_is_taken_from_what_is_left() {
        let (clock, lease) = lease();
        let sent = lease.now();
        clock.advance(MS * 700);
        lease.answered(sent, MS * 3000);
        assert_eq!(lease.remaining(), MS * (2970 - 700));
    }
}
