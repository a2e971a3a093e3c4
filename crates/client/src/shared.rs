//! A lock that several tasks of one program hold together or wait for: each as an owner of its own.
//!
//! Two guards of one owner are one holder, so a semaphore or a lock for readers and writers names a
//! new owner for each guard: another instance of the signee, or in a session another signee.

use std::sync::Arc;
use std::time::Duration;

use super::guard::{Acquire, Common, Guard};
use super::session::Session;
use keyward_core::clock::Clock;
use keyward_core::error::Error;
use keyward_core::random;
use keyward_core::service::LockService;
use keyward_core::types::MAX_DURATION;

/// The wait of a request that has no end of its own: the longest of all, 366 days.
pub(super) const FOR_EVER: Duration = MAX_DURATION;

/// The service, or the session in it, that a lock is acquired from.
#[derive(Clone)]
enum Source<S: LockService + Clone> {
    Service(S, Common),
    Session(Session<S>),
}

/// A lock for many owners.
#[derive(Clone)]
pub(super) struct SharedLock<S: LockService + Clone> {
    source: Source<S>,
    template: Acquire,
}

impl<S: LockService + Clone> SharedLock<S> {
    pub(super) fn new(service: S, clock: Arc<dyn Clock>, template: Acquire) -> Self {
        Self::with_common(service, Common::new(clock), template)
    }

    pub(super) fn with_common(service: S, common: Common, template: Acquire) -> Self {
        Self { source: Source::Service(service, common), template }
    }

    pub(super) fn in_session(session: &Session<S>, template: Acquire) -> Self {
        Self { source: Source::Session(session.clone()), template }
    }

    /// The lock's name.
    pub(super) fn signature(&self) -> &str {
        &self.template.request.signature
    }

    /// Acquires the lock for a new owner, with what is changed of the request.
    pub(super) async fn acquire(
        &self,
        change: impl FnOnce(Acquire) -> Acquire,
        wait: Duration,
    ) -> Result<Guard<S>, Error> {
        let mut request = change(self.template.clone());
        request.options.wait = (!wait.is_zero()).then_some(wait);
        match &self.source {
            Source::Service(service, common) => {
                let number: u64 = random::number();
                let run = request.options.instance.take();
                let run = run.map(|run| format!("{run}-")).unwrap_or_default();
                let request = request.instance(format!("{run}{number:016x}"));
                Guard::acquire_with(service.clone(), common.clone(), request, None).await
            }
            Source::Session(session) => {
                let signee = session.another_signee(&request.request.signee);
                request.request.signee = signee;
                session.acquire(request).await
            }
        }
    }
}
