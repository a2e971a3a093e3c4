//! The cluster clock's tick: advances the time when no request does.
//!
//! It proposes only on the leader, and only while time matters: at the next deadline, and at least
//! every second while any grant is unexpired. With no locks nothing is proposed and nothing is
//! written to any disk. It decides nothing: the lock machine expires a grant when the clock has
//! passed its deadline.

use std::time::Duration;

use crate::node::Node;

/// Deadlines within this long of each other share one entry: after one was proposed, the next waits
/// this long.
const TOGETHER: Duration = Duration::from_millis(10);

/// The time after which a failed proposal is retried: the leadership is probably moving.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// Advances the cluster clock for as long as it is polled; it never resolves. Every node of a
/// cluster runs it.
pub async fn run(node: Node) {
    loop {
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
        // Leadership, deadlines and the clock may have changed while it slept.
        if node.next_advance() != Some(Duration::ZERO) {
            continue;
        }
        let pause = match node.advance().await {
            // More was due than one entry works off.
            Ok(()) if node.is_behind() => continue,
            Ok(()) => TOGETHER,
            Err(error) => {
                tracing::debug!(%error, "the clock was not moved on");
                AFTER_FAILURE
            }
        };
        tokio::time::sleep(pause).await;
    }
}
