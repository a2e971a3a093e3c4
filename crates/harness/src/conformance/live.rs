//! Makes the suite's debug service out of any [`LockService`] and a way to let time pass.
//!
//! A live service's clock runs by itself and may be slower than ours by ρ. It is advanced, or
//! waited for, a little longer, so that it has advanced *at least* as far as a script says.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use keyward_core::error::Error;
use keyward_core::lock::{Command, Decision, Query, View};
use keyward_core::service::{DebugLockService, Handle, LockService, ServiceOptions};
use keyward_core::types::{CallOptions, UnlockOptions, UnlockRequest};

use super::Bootstrap;

/// The default of ρ, the rate by which a leader's stamps may lag behind real time.
const RATE_MARGIN: f64 = 0.01;

/// A margin on top of the time that a script lets pass, for a timer that fires early or a stamp
/// that is rounded down. Scripts leave a second of slack at every deadline, so this has no visible
/// effect.
const MARGIN: Duration = Duration::from_millis(2);

/// The signature of an unlock without a lock, which puts the present time into the log.
const TICK_SIGNATURE: &str = "conformance/tick";

/// The way in which time passes for a live service.
#[derive(Clone)]
pub enum Time {
    /// By waiting.
    Wait,
    /// By advancing the service's clock with the closure, which returns when the clock has
    /// advanced.
    Move(Arc<MoveClock>),
}

/// Advances a service's clock.
pub type MoveClock = dyn Fn(Duration) -> BoxFuture<'static, Result<(), Error>> + Send + Sync;

impl Time {
    /// Time that passes by advancing a clock.
    pub fn moving<F, M>(move_clock: F) -> Self
    where
        F: Fn(Duration) -> M + Send + Sync + 'static,
        M: Future<Output = Result<(), Error>> + Send + 'static,
    {
        Self::Move(Arc::new(move |by| Box::pin(move_clock(by))))
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wait => "Wait",
            Self::Move(_) => "Move",
        })
    }
}

/// A handle to any lock service: its own table and defaults, and time that can pass.
#[derive(Debug)]
pub struct LiveService<S> {
    service: Handle<Arc<S>>,
    time: Time,
}

impl<S: LockService> LiveService<S> {
    /// A handle to this service.
    pub fn new(service: Arc<S>, options: ServiceOptions, time: Time) -> Self {
        Self { service: Handle::new(service, options), time }
    }

    /// A read shows the state of the log, whose clock may stand still for up to a second between
    /// two writes. Any write brings it up to date.
    async fn tick(&self) -> Result<(), Error> {
        let request =
            UnlockRequest { signature: TICK_SIGNATURE.to_owned(), signee: "tick".to_owned() };
        self.service.unlock(request, UnlockOptions::default()).await.map(drop)
    }
}

impl<S: LockService> LockService for LiveService<S> {
    async fn decide(
        &self,
        commands: Vec<Command>,
        call: CallOptions,
    ) -> Vec<Result<Decision, Error>> {
        self.service.decide(commands, call).await
    }

    async fn read(&self, query: Query, call: CallOptions) -> Result<View, Error> {
        self.service.read(query, call).await
    }

    fn defaults(&self) -> &ServiceOptions {
        self.service.defaults()
    }
}

impl<S: LockService> DebugLockService for LiveService<S> {
    async fn advance_clock(&self, by: Duration) -> Result<(), Error> {
        let by = by.div_f64(1.0 - RATE_MARGIN) + MARGIN;
        match &self.time {
            Time::Wait => tokio::time::sleep(by).await,
            Time::Move(move_clock) => move_clock(by).await?,
        }
        self.tick().await
    }
}

/// Opens handles to one live service.
#[derive(Debug)]
pub struct LiveBootstrap<S> {
    service: Arc<S>,
    time: Time,
}

impl<S: LockService> LiveBootstrap<S> {
    /// Handles to this service, for which time passes in this way.
    pub fn new(service: Arc<S>, time: Time) -> Self {
        Self { service, time }
    }
}

impl<S: LockService> Bootstrap for LiveBootstrap<S> {
    type Service = LiveService<S>;

    async fn open(&self, options: ServiceOptions) -> Result<LiveService<S>, Error> {
        Ok(LiveService::new(Arc::clone(&self.service), options, self.time.clone()))
    }

    async fn close(&self, service: LiveService<S>) -> Result<(), Error> {
        drop(service);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{Options, Outcome, Script, run};
    use keyward_core::clock::{Clock, OffsetClock, SystemClock};
    use keyward_core::memory::MemoryLocks;

    /// A clock that runs by itself, as slow against ours as a leader's stamps may be.
    struct SlowClock<C>(C);

    impl<C: Clock> Clock for SlowClock<C> {
        fn raw(&self) -> Duration {
            self.0.raw().mul_f64(1.0 - RATE_MARGIN)
        }

        fn boottime(&self) -> Duration {
            self.0.boottime()
        }
    }

    #[tokio::test]
    async fn a_service_whose_clock_runs_on_and_is_slow_passes_when_it_is_moved() {
        let clock = OffsetClock::default();
        let locks = MemoryLocks::with_clock(Arc::new(SlowClock(clock.clone())));
        let time = Time::moving(move |by| {
            clock.advance(by);
            std::future::ready(Ok(()))
        });
        let report = run(LiveBootstrap::new(Arc::new(locks), time), Options::default()).await;
        assert!(report.passed(), "{report}");
    }

    #[tokio::test]
    async fn a_service_that_cannot_be_moved_is_waited_for() {
        let locks = MemoryLocks::with_clock(Arc::new(SlowClock(SystemClock)));
        let text = "lock a b duration=1s time_to_live=none\nadvance 1s\ncheck a\n---\n\
                    ok token=t1 expires_in=1s removed_in=never\na holder=b token=t1 expired removed_in=never\n";
        let scripts = vec![Script { name: "test".into(), text: text.into() }];
        let options = Options { scripts, parallel: 1 };
        let report = run(LiveBootstrap::new(Arc::new(locks), Time::Wait), options).await;
        assert!(report.passed(), "{report}");
    }

    #[tokio::test]
    async fn a_service_that_answers_quickly_and_is_early_is_wrong_and_not_slow() {
        // The clock advances too far, so that every grant seems a second older than it is.
        let clock = OffsetClock::default();
        let locks = MemoryLocks::with_clock(Arc::new(clock.clone()));
        let time = Time::moving(move |by| {
            clock.advance(by + Duration::from_secs(1));
            std::future::ready(Ok(()))
        });
        let text = "lock a b duration=9s\nadvance 1s\ncheck a\n---\n\
                    ok token=t1 expires_in=9s\na holder=b token=t1 expires_in=8s\n";
        let scripts = vec![Script { name: "test".into(), text: text.into() }];
        let options = Options { scripts, parallel: 1 };
        let report = run(LiveBootstrap::new(Arc::new(locks), time), options).await;
        assert!(matches!(report.results[0].outcome, Outcome::Mismatch { .. }), "{report}");
    }
}
