//! Looks at the files of TLS now and then, and when somebody says so.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};

use super::Tls;
use crate::task::blocking;

/// The interval between two looks: a certificate is renewed days before its end, so that nobody
/// waits for this.
const EVERY: Duration = Duration::from_secs(5);

/// Looks at the files of all these every few seconds, and whenever `now` is notified; never
/// resolves. May be cancelled.
pub async fn follow(all: Vec<Arc<Tls>>, now: Arc<Notify>) {
    let mut period = interval(EVERY);
    period.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = period.tick() => {}
            () = now.notified() => {}
        }
        let all = all.clone();
        let looked = blocking(move || all.iter().for_each(|tls| drop(tls.look()))).await;
        if let Err(error) = looked {
            tracing::error!(%error, "the TLS files cannot be looked at");
        }
    }
}
