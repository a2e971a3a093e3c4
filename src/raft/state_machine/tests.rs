//! openraft's own tests of a storage, over ours.

use std::sync::Arc;

use openraft::StorageError as RaftStorageError;
use openraft::testing::log::{StoreBuilder, Suite};

use super::*;
use crate::clock::ManualClock;
use crate::raft::checkpoint;
use crate::raft::log_store::LogStore;
use crate::storage::{Disk, Log, LogOptions, MemDisk};

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine> for Builder {
    async fn build(&self) -> Result<((), LogStore, StateMachine), RaftStorageError<TypeConfig>> {
        let disk: Arc<dyn Disk> = Arc::new(MemDisk::new(1));
        let identity = Identity::open(disk.clone(), 1).unwrap();
        let (log, recovered) = Log::open(disk.clone(), LogOptions::default()).unwrap();
        let snapshots = Snapshots::open(disk, recovered.purged).unwrap();
        let clock = Arc::new(ManualClock::default());
        let replica = Arc::new(Replica::new(Machine::default(), clock, 0));
        // Nobody hears the bell: these tests are about log and state machine.
        let (bell, _) = checkpoint::bell();
        let machine = StateMachine::new(replica, snapshots, identity, bell);
        Ok(((), LogStore::new(log, None), machine))
    }
}

#[tokio::test]
async fn the_storage_passes_openrafts_own_tests() {
    Suite::test_all(Builder).await.unwrap();
}
