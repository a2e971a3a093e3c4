//! Locks that change hands because they expire, watched closely.
//!
//! The clients of this workload work in pairs. Each pair has locks of its own. On each lock, one of
//! the two acquires it and never renews or releases it, and the other requests it repeatedly from
//! shortly before its end until it is granted. So every end is judged: a lock granted too early is
//! granted to the requester before its end, and the delay of a later grant is measured.

use std::time::Duration;

use keyward::bench::{Failure, Owner};
use rand::Rng;

use super::Hand;
use crate::chaos::service::Subject;
use crate::wait::Stopwatch;

/// The interval of the waiting client's requests: a measured delay is too long by up to this and
/// two requests.
const ASK: Duration = Duration::from_millis(5);

/// The time before the end at which it begins to send requests, as a share of the duration.
const BEFORE: f64 = 0.05;

pub(super) async fn run<S: Subject>(mut hand: Hand<S>) {
    let Some(mut one) = hand.owner().await else { return };
    // A second owner, numbered after all other clients.
    let number = hand.number;
    hand.number += 1_000_000;
    let Some(mut other) = hand.owner().await else { return };
    hand.number = number;
    let signature = format!("expiry/{}", hand.index);
    let mut held: Option<Stopwatch> = None;
    while !hand.stopped() {
        let spread = hand.random.random_range(0.5..1.0);
        let lease = lease_of(&hand, spread);
        let before = held.take();
        let asked = Stopwatch::start();
        match one.acquire(&signature, lease).await {
            Ok(_) => {
                if let Some(end) = before {
                    hand.shared.progress.took_over(end.elapsed());
                }
                hand.sleep(lease.mul_f64(1.0 - BEFORE).saturating_sub(asked.elapsed())).await;
                // The grant was decided after its request was sent: no later end is measured too
                // late.
                held = Some(asked.after(lease));
                std::mem::swap(&mut one, &mut other);
            }
            Err(Failure::Refused) => {
                held = before;
                hand.sleep(ASK).await;
            }
            // Whether and when it was acquired is unknown: nothing is measured until the next one.
            Err(Failure::Unavailable(_) | Failure::Unknown(_)) => hand.moment().await,
        }
    }
}

fn lease_of<S: Subject>(hand: &Hand<S>, spread: f64) -> Duration {
    let millis = hand.shared.size.lease.mul_f64(spread).as_millis();
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX).max(1))
}
