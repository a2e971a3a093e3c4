//! The cluster clock's tick: lets time pass when no request does.
//!
//! Only on the leader, and only while there is something for time to do: at the next deadline, and
//! at least every second while any grant is unexpired. With no locks nothing is proposed and
//! nothing is written to any disk. It decides nothing: an expiry is what the lock machine finds
//! when the clock has passed a deadline.

use std::time::Duration;

use crate::node::Node;

/// Deadlines within this long of each other are worked off by one entry: after one was proposed,
/// the next waits so long.
const TOGETHER: Duration = Duration::from_millis(10);

/// A proposal that failed is tried again after this long: the leadership is probably moving.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// Moves the cluster clock on for as long as it is polled; it never ends by itself. Every node
/// of a cluster runs it.
pub async fn run(node: Node) {
    loop {
        #[cfg(feature = "planted-bugs")]
        crate::forward::planting::advance(&node).await;
        let due = node.next_advance();
        let wait = async {
            match due {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = wait => {}
            () = node.changed() => continue,
        }
        // Leadership, deadlines and the clock may have moved while it slept.
        if node.next_advance() != Some(Duration::ZERO) {
            continue;
        }
        let pause = match node.advance().await {
            Ok(()) => TOGETHER,
            Err(error) => {
                tracing::debug!(%error, "the clock was not moved on");
                AFTER_FAILURE
            }
        };
        tokio::time::sleep(pause).await;
    }
}
