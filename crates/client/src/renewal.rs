//! The task behind a guard: renews at a third of the duration, and notices the end in time.
//!
//! It renews by token only. It ends when the lock is lost, and is stopped by the guard.

use std::sync::Arc;
use std::time::Duration;

use super::lease::{GuardState, Lease, LostReason};
use super::wake::Wake;
use crate::api::DEFAULT_TIMEOUT;
use keyward_core::error::Error;
use keyward_core::random;
use keyward_core::service::LockService;
use keyward_core::types::{Forbidden, Grant, LockOptions, LockRequest, LockResponse, LockStatus};

/// The shortest and the longest backoff after a renewal that failed.
pub(super) const SHORTEST_RETRY: Duration = Duration::from_millis(20);
pub(super) const LONGEST_RETRY: Duration = Duration::from_secs(1);

/// The largest step between the moments at which renewals become due: those of one client that are
/// close together share a message and an entry of the log.
const LONGEST_STEP: Duration = Duration::from_millis(25);
const SHORTEST_STEP: Duration = Duration::from_millis(1);
/// The number of steps between two renewals of one guard.
const STEPS: u32 = 400;

/// The renewals of one grant.
pub(super) struct Renewal<S> {
    pub(super) service: S,
    pub(super) lease: Arc<Lease>,
    pub(super) wake: Arc<Wake>,
    pub(super) request: LockRequest,
    pub(super) options: LockOptions,
    pub(super) grant: Grant,
    pub(super) every: Duration,
}

/// Rounds the time down to a moment at which other guards renew, too.
pub(super) fn in_company(time: Duration, every: Duration) -> Duration {
    let step = (every / STEPS).clamp(SHORTEST_STEP, LONGEST_STEP).as_nanos();
    let beyond = u64::try_from(time.as_nanos() % step).unwrap_or_default();
    time.saturating_sub(Duration::from_nanos(beyond))
}

impl<S: LockService> Renewal<S> {
    /// Renews until the lock is lost. `sent` is when the grant was requested.
    pub(super) async fn keep(self, sent: Duration) {
        let mut next = sent.saturating_add(self.every);
        while self.nap_until(next).await {
            let sent = self.lease.now();
            self.lease.asked(sent);
            let answer = tokio::select! {
                biased;
                // Boxed: a sleeping guard, as most are, holds no request.
                answer = Box::pin(self.ask()) => answer,
                () = self.lost() => return,
            };
            next = match answer {
                Ok(response) => match self.judge(&response) {
                    Ok(grant) => {
                        self.lease.answered(sent, grant.valid);
                        // Jitter: guards that were renewed together, after an outage for instance,
                        // do not stay together.
                        let pause = self.every.mul_f64(random::factor(0.9..=1.0));
                        in_company(sent.saturating_add(pause), self.every)
                    }
                    Err(reason) => return self.lease.end(GuardState::Lost(reason)),
                },
                Err(error) => {
                    tracing::debug!(%error, "a renewal failed");
                    let pause = (self.every / 8).clamp(SHORTEST_RETRY, LONGEST_RETRY);
                    let pause = pause.mul_f64(random::factor(0.5..=1.0));
                    let pause = pause.max(error.retry_after().unwrap_or_default());
                    self.lease.now().saturating_add(pause)
                }
            };
        }
    }

    async fn ask(&self) -> Result<LockResponse, Error> {
        let mut options = self.options.clone();
        let bound = self.options.call.timeout.unwrap_or(DEFAULT_TIMEOUT);
        options.call.timeout = Some(self.lease.remaining().min(bound));
        self.service.lock(self.request.clone(), options).await
    }

    /// The renewed grant, or the reason why there is none.
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
            | LockStatus::Waiting(_)
            | LockStatus::Failed(_) => Err(LostReason::Lost),
        }
    }

    /// Whether a holder of a higher level has the lock. One of the same or a lower level took it by
    /// force, or after it had expired.
    fn is_outranked(&self, forbidden: &Forbidden) -> bool {
        let outranks = |level| level > self.grant.level;
        let mine = self.grant.token;
        forbidden.holders.iter().any(|holder| holder.token != mine && outranks(holder.level))
    }

    /// Sleeps until this time of the clock; `false` if the lock was lost before.
    async fn nap_until(&self, time: Duration) -> bool {
        loop {
            if let GuardState::Lost(_) | GuardState::Released = self.lease.judge() {
                return false;
            }
            let left = time.saturating_sub(self.lease.now());
            if left.is_zero() {
                return true;
            }
            self.nap(left).await;
        }
    }

    /// Resolves when the lock is lost.
    async fn lost(&self) {
        while !matches!(self.lease.judge(), GuardState::Lost(_) | GuardState::Released) {
            self.nap(Duration::MAX).await;
        }
    }

    async fn nap(&self, left: Duration) {
        let mut jumped = self.wake.feel();
        // Timers have a resolution of a millisecond; a shorter nap would only spin.
        let nap = left.min(self.lease.until_change()).max(Duration::from_millis(1));
        tokio::select! {
            biased;
            () = tokio::time::sleep(nap) => {}
            // The sender lives as long as this renewal.
            _ = jumped.changed() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewals_that_come_close_together_come_at_once_and_never_later() {
        let every = Duration::from_secs(10);
        let moments: std::collections::BTreeSet<Duration> = (0..1000)
            .map(|number| {
                let time = Duration::from_micros(7_000_000 + 100 * number);
                let moment = in_company(time, every);
                assert!(
                    moment <= time && time.saturating_sub(moment) < LONGEST_STEP,
                    "{time:?} {moment:?}"
                );
                moment
            })
            .collect();
        assert_eq!(moments.len(), 4, "a tenth of a second has four of them");
        let soon = in_company(Duration::from_micros(123_456), Duration::from_millis(30));
        assert_eq!(
            soon,
            Duration::from_millis(123),
            "short grants are renewed as exactly as timers are"
        );
    }
}
