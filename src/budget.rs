//! Admission by bytes: a bound on the memory that large bodies and answers take together.
//!
//! A node limits the number of requests and of connections; without this, each of them could hold a
//! page of megabytes for as long as its client reads slowly. A small size is not counted: the
//! number of connections bounds it. A size that does not fit is refused and never waits, so that
//! nothing holds a part while it waits for more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::Error;

/// The size up to which bytes are not counted: a connection costs about as much without them.
const SMALL: usize = 16 * 1024;

/// The number of bytes that one permit stands for.
const UNIT: usize = 1024;

/// The default budget of a node: some twenty pages of a thousand locks with the longest names, or
/// ten thousand small batches.
pub const DEFAULT_BUFFER_BYTES: usize = 64 << 20;

/// A number of bytes that large bodies and answers share. Clones share it too.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Pool>);

#[derive(Debug)]
struct Pool {
    units: Arc<Semaphore>,
    total: usize,
    refused: AtomicU64,
}

/// A part of a budget; returned when it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Share {
    units: Option<OwnedSemaphorePermit>,
}

impl Default for Budget {
    fn default() -> Self {
        Self::new(DEFAULT_BUFFER_BYTES)
    }
}

impl Budget {
    /// A budget of about this many bytes.
    pub fn new(bytes: usize) -> Self {
        let total = bytes.div_ceil(UNIT).clamp(1, Semaphore::MAX_PERMITS);
        let units = Arc::new(Semaphore::new(total));
        Self(Arc::new(Pool { units, total, refused: AtomicU64::new(0) }))
    }

    /// Takes a part; `None` if too little is left. A size larger than the whole takes all.
    pub(crate) fn take(&self, bytes: usize) -> Option<Share> {
        let mut share = Share::default();
        self.grow(&mut share, bytes).then_some(share)
    }

    /// Grows a part of this budget to this size, if it is smaller. Returns `false` if too little is
    /// left; the part then stays as it was.
    pub(crate) fn grow(&self, share: &mut Share, bytes: usize) -> bool {
        if bytes <= SMALL {
            return true;
        }
        let pool = &*self.0;
        let wanted = bytes.div_ceil(UNIT).min(pool.total);
        let held = share.units.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = u32::try_from(wanted.saturating_sub(held)).unwrap_or(u32::MAX);
        let Ok(more) = Arc::clone(&pool.units).try_acquire_many_owned(more) else {
            pool.refused.fetch_add(1, Ordering::Relaxed);
            return false;
        };
        match &mut share.units {
            Some(units) => units.merge(more),
            none => *none = Some(more),
        }
        true
    }

    /// The bytes in use.
    pub(crate) fn used(&self) -> u64 {
        ((self.0.total - self.0.units.available_permits()) * UNIT) as u64
    }

    /// How often too little was left.
    pub(crate) fn refusals(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }
}

impl Share {
    /// Whether it takes nothing from the budget.
    pub(crate) fn is_free(&self) -> bool {
        self.units.is_none()
    }
}

/// Attaches a share to the bytes until the last of them is dropped.
pub(crate) fn owned(bytes: Bytes, share: Share) -> Bytes {
    if share.is_free() { bytes } else { kept_by(bytes, &Arc::new(share)) }
}

/// Bytes that keep a value until they are dropped.
pub(crate) fn kept_by<T: Send + Sync + 'static>(bytes: Bytes, kept: &Arc<T>) -> Bytes {
    Bytes::from_owner(Keeping { bytes, _kept: Arc::clone(kept) })
}

struct Keeping<T> {
    bytes: Bytes,
    _kept: Arc<T>,
}

impl<T> AsRef<[u8]> for Keeping<T> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The error for a size that does not fit. Nothing was done.
pub(crate) fn exhausted() -> Error {
    Error::unavailable(
        "this node has no memory left for large requests and answers: others are being sent or \
         read slowly",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_large_is_refused_when_the_rest_is_in_use_and_what_is_small_never() {
        let budget = Budget::new(100 << 10);
        let first = budget.take(60 << 10).expect("it is free");
        assert_eq!(budget.used(), 60 << 10);
        assert!(budget.take(41 << 10).is_none());
        assert!(budget.take(SMALL).is_some());
        let second = budget.take(40 << 10).expect("it just fits");
        assert!(budget.take(SMALL + 1).is_none());
        drop((first, second));
        assert_eq!((budget.used(), budget.refusals()), (0, 2));
        let mut growing = Share::default();
        for (bytes, used) in [(1, 0), (SMALL, 0), (20 << 10, 20 << 10), (60 << 10, 60 << 10)] {
            assert!(budget.grow(&mut growing, bytes));
            assert_eq!(budget.used(), used);
        }
        let rest = budget.take(40 << 10).expect("it just fits");
        assert!(!budget.grow(&mut growing, 61 << 10));
        assert_eq!(budget.used(), 100 << 10, "it keeps what it has");
        drop((growing, rest));
        assert_eq!(budget.used(), 0);
        assert!(budget.take(usize::MAX).is_some(), "the largest has the whole to itself");
    }
}
