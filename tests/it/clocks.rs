//! Effects that a wrong clock must not have.

use std::time::Duration;

use crate::cluster::Cluster;

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn a_follower_whose_clock_is_wrong_ends_no_lock() {
    let cluster = Cluster::start(3).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    assert!(cluster.lock_for(leader, "a", "w1", Duration::from_secs(100)).await.ok());
    cluster.clock(follower).advance(HOUR);
    // Requests through the follower carry no time of their own.
    assert!(cluster.lock(follower, "b", "w1").await.ok());
    assert!(!cluster.lock(follower, "a", "w2").await.ok(), "100 seconds have not passed");
}
