//! The bootstrap that gives the expected answers: [`MemoryLocks`] on a clock that stands still
//! between the commands of a script.

use std::sync::Arc;

use keyward_core::clock::ManualClock;
use keyward_core::error::Error;
use keyward_core::memory::MemoryLocks;
use keyward_core::service::{Handle, ServiceOptions};

use super::Bootstrap;

/// Opens handles to one set of locks in memory.
#[derive(Clone, Debug)]
pub struct MemoryBootstrap {
    locks: MemoryLocks,
}

impl MemoryBootstrap {
    /// Creates a bootstrap without locks.
    pub fn new() -> Self {
        Self { locks: MemoryLocks::with_clock(Arc::new(ManualClock::default())) }
    }
}

impl Default for MemoryBootstrap {
    fn default() -> Self {
        Self::new()
    }
}

impl Bootstrap for MemoryBootstrap {
    type Service = Handle<MemoryLocks>;

    async fn open(&self, options: ServiceOptions) -> Result<Handle<MemoryLocks>, Error> {
        Ok(self.locks.handle(options))
    }

    async fn close(&self, service: Handle<MemoryLocks>) -> Result<(), Error> {
        drop(service);
        Ok(())
    }
}
