//! An upgrade: two programs side by side, of which the newer one supports a higher feature level.

use crate::cluster::{Cluster, eventually};

/// A level above that of this program.
const NEW: u32 = 2;

impl Cluster {
    fn level(&self, id: u64) -> u32 {
        self.nodes[&id].node().status().feature_level
    }
}

#[tokio::test]
async fn the_level_is_raised_when_the_last_member_is_upgraded_and_keeps_older_programs_out() {
    let mut cluster = Cluster::with(3, |config| {
        config.feature_level = if config.id == 3 { 1 } else { NEW };
        config.snapshot_every = 20;
        config.log_kept = 0;
    })
    .await;
    let leader = cluster.leader().await;
    // As long as one member does not support it, the level stays.
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert!(cluster.lock(leader, "before", "ann").await.ok());
    assert_eq!([1, 2, 3].map(|id| cluster.level(id)), [1; 3]);

    // The last member is upgraded while the others go on; it was started again, so a silence of it
    // raises nothing.
    cluster.kill(3).await;
    tokio::time::sleep(std::time::Duration::from_secs(7)).await;
    assert_eq!([1, 2].map(|id| cluster.level(id)), [1; 2], "a member that is silent may be older");
    cluster.adjust = |config| {
        config.feature_level = NEW;
        config.snapshot_every = 20;
        config.log_kept = 0;
    };
    cluster.run(3).await;
    eventually("the level is raised on all", async || {
        [1, 2, 3].iter().all(|id| cluster.level(*id) == NEW)
    })
    .await;
    let leader = cluster.leader().await;
    for number in 0..50 {
        assert!(cluster.lock(leader, &number.to_string(), "ann").await.ok());
    }

    // An older program finds out, whether it starts from what it has or from a snapshot.
    let away = cluster.follower().await;
    cluster.kill(away).await;
    cluster.adjust = |config| config.feature_level = 1;
    let reason = match cluster.try_run(away).await {
        Err(reason) => reason,
        Ok(()) => cluster.nodes[&away].node().stopped().await,
    };
    assert!(reason.contains("raised its feature level to 2"), "{reason}");
    assert!(reason.contains("start a newer one"), "{reason}");
    assert!(cluster.lock(leader, "after", "ann").await.ok());
}
