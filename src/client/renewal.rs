//! The task behind a guard: renews at a third of the duration, and notices the end in time.
//!
//! It renews by token only. It ends when the lock is lost, and is stopped by the guard.

use std::sync::Arc;
use std::time::Duration;

use super::belief::{Belief, GuardState, LostReason};
use super::pulse::Pulse;
use crate::api::DEFAULT_TIMEOUT;
use crate::error::Error;
use crate::random;
use crate::service::LockService;
use crate::types::{Forbidden, Grant, LockOptions, LockRequest, LockResponse, LockStatus};

/// The shortest and the longest pause after a renewal that failed.
const SHORTEST_RETRY: Duration = Duration::from_millis(20);
const LONGEST_RETRY: Duration = Duration::from_secs(1);

/// What is renewed, how, and how often.
pub(super) struct Renewal<S> {
    pub(super) service: S,
    pub(super) belief: Arc<Belief>,
    pub(super) pulse: Arc<Pulse>,
    pub(super) request: LockRequest,
    pub(super) options: LockOptions,
    pub(super) grant: Grant,
    pub(super) every: Duration,
}

impl<S: LockService> Renewal<S> {
    /// Renews until the lock is lost. `sent` is when the grant was asked for.
    pub(super) async fn keep(self, sent: Duration) {
        let mut next = sent.saturating_add(self.every);
        while self.nap_until(next).await {
            let sent = self.belief.now();
            self.belief.asked(sent);
            let answer = tokio::select! {
                biased;
                // Boxed: a guard that sleeps, as most do, holds no request.
                answer = Box::pin(self.ask()) => answer,
                () = self.lost() => return,
            };
            next = match answer {
                Ok(response) => match self.judge(&response) {
                    Ok(grant) => {
                        self.belief.answered(sent, grant.expires_in);
                        // Guards that were renewed together, after a cluster was away for
                        // instance, do not stay together.
                        sent.saturating_add(self.every.mul_f64(random::factor(0.9..=1.0)))
                    }
                    Err(reason) => return self.belief.end(GuardState::Lost(reason)),
                },
                Err(error) => {
                    tracing::debug!(%error, "a renewal failed");
                    let pause = (self.every / 8).clamp(SHORTEST_RETRY, LONGEST_RETRY);
                    let pause = pause.mul_f64(random::factor(0.5..=1.0));
                    self.belief.now().saturating_add(pause)
                }
            };
        }
    }

    async fn ask(&self) -> Result<LockResponse, Error> {
        let mut options = self.options.clone();
        let bound = self.options.call.timeout.unwrap_or(DEFAULT_TIMEOUT);
        options.call.timeout = Some(self.belief.remaining().min(bound));
        self.service.lock(self.request.clone(), options).await
    }

    /// The renewed grant, or why there is none.
    fn judge<'a>(&self, response: &'a LockResponse) -> Result<&'a Grant, LostReason> {
        match &response.status {
            LockStatus::Renewed(grant) if grant.token == self.grant.token && grant.live => {
                Ok(grant)
            }
            LockStatus::Failed(forbidden) if self.is_outranked(forbidden) => {
                Err(LostReason::Preempted)
            }
            LockStatus::Ok(_)
            | LockStatus::Renewed(_)
            | LockStatus::Transferred { .. }
            | LockStatus::Failed(_) => Err(LostReason::Lost),
        }
    }

    /// Whether another of a higher level has the lock. One of the same level or a lower one took
    /// it by force, or after it had expired.
    fn is_outranked(&self, forbidden: &Forbidden) -> bool {
        let outranks = |level| level > self.grant.level;
        let mine = self.grant.token;
        forbidden.holders.iter().any(|holder| holder.token != mine && outranks(holder.level))
    }

    /// Sleeps until this time of the clock; `false` if the lock was lost before.
    async fn nap_until(&self, time: Duration) -> bool {
        loop {
            if let GuardState::Lost(_) | GuardState::Released = self.belief.judge() {
                return false;
            }
            let left = time.saturating_sub(self.belief.now());
            if left.is_zero() {
                return true;
            }
            self.nap(left).await;
        }
    }

    /// Is ready when the lock is lost.
    async fn lost(&self) {
        while !matches!(self.belief.judge(), GuardState::Lost(_) | GuardState::Released) {
            self.nap(Duration::MAX).await;
        }
    }

    async fn nap(&self, left: Duration) {
        let mut jumped = self.pulse.feel();
        // Timers have a resolution of a millisecond; a shorter nap would only spin.
        let nap = left.min(self.belief.until_change()).max(Duration::from_millis(1));
        tokio::select! {
            biased;
            () = tokio::time::sleep(nap) => {}
            // Its sender is this renewal's own.
            _ = jumped.changed() => {}
        }
    }
}
