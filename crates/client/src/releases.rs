//! Releases of dropped guards that are still in flight.
//!
//! Two guards of one owner are one holder, so a release that is overtaken by the owner's next
//! request would end the grant of that request. An acquisition therefore waits for the release.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use keyward_core::types::{LockOptions, LockRequest, UnlockOptions, UnlockRequest};

/// A lock and its owner.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Owner {
    table: Option<String>,
    signature: String,
    signee: String,
    instance: Option<String>,
}

impl Owner {
    pub(super) fn asking(request: &LockRequest, options: &LockOptions) -> Self {
        Self {
            table: options.table.clone(),
            signature: request.signature.clone(),
            signee: request.signee.clone(),
            instance: options.instance.clone(),
        }
    }

    pub(super) fn releasing(request: &UnlockRequest, options: &UnlockOptions) -> Self {
        Self {
            table: options.table.clone(),
            signature: request.signature.clone(),
            signee: request.signee.clone(),
            instance: options.instance.clone(),
        }
    }
}

/// The releases of the guards that share this value.
#[derive(Debug, Default)]
pub(super) struct Releases {
    under_way: Mutex<HashMap<Owner, usize>>,
    ended: Notify,
}

impl Releases {
    /// Begins a release; it ends when the returned value is dropped.
    pub(super) fn begin(self: &Arc<Self>, owner: Owner) -> UnderWay {
        *self.lock().entry(owner.clone()).or_insert(0) += 1;
        UnderWay { releases: Arc::clone(self), owner }
    }

    /// Resolves when no release of this owner is in flight.
    pub(super) async fn ended(&self, owner: &Owner) {
        loop {
            // From here on an end is noticed, even before the await.
            let ended = self.ended.notified();
            if !self.lock().contains_key(owner) {
                return;
            }
            ended.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Owner, usize>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A release that has not ended.
#[derive(Debug)]
pub(super) struct UnderWay {
    releases: Arc<Releases>,
    owner: Owner,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut all = self.releases.lock();
        if let Some(count) = all.get_mut(&self.owner) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.owner);
            }
        }
        drop(all);
        self.releases.ended.notify_waiters();
    }
}
