//! Queues, readers and writers, permits and sessions: [`Turns`], on a real cluster.
//!
//! Only Keyward has them; clients of another service do nothing here. One request in eight is given
//! up while it is in flight, so that holders and waiters die.

use std::time::Duration;

use keyward::bench::{Failure, Owner};
use rand::Rng;

use super::Hand;
use crate::chaos::progress::Ended;
use crate::chaos::service::{Subject, failure};
use crate::turns::Turns;

/// The longest time after which a request is given up, if it is one of those.
const IMPATIENT: Duration = Duration::from_millis(400);

/// The longest time for which a request waits, and some more.
const PATIENT: Duration = Duration::from_secs(30);

/// One request in this many is for a lock that nobody else wants, and so shows that the service is
/// there.
const OWN: u32 = 6;

pub(super) async fn run<S: Subject>(mut hand: Hand<S>) {
    let Some(locks) = hand.subject.locks(hand.number) else { return };
    let Some(mut owner) = hand.owner().await else { return };
    let own = format!("turns/{}", hand.index);
    let mut turns = Turns::new(locks, hand.random.random(), hand.index as u64);
    while !hand.stopped() {
        if hand.random.random_ratio(1, OWN) {
            // The outcome is in the history, and counted.
            if let Ok(held) = owner.acquire(&own, hand.shared.size.lease).await {
                let _ = owner.release(&own, held).await;
            }
            hand.moment().await;
            continue;
        }
        let gives_up = hand.random.random_ratio(1, 8);
        let short = IMPATIENT.mul_f64(hand.random.random_range(0.0..1.0));
        let patience = if gives_up { short } else { PATIENT };
        let mut stop = hand.stop.clone();
        let ended = tokio::select! {
            answer = tokio::time::timeout(patience, turns.step()) => match answer {
                Ok(Ok(true)) => Ended::Ok,
                Ok(Ok(false)) => Ended::Refused,
                Ok(Err(error)) => match failure(error) {
                    Failure::Refused => Ended::Refused,
                    Failure::Unavailable(_) => Ended::Unavailable,
                    Failure::Unknown(_) => Ended::Unknown,
                },
                Err(_) => Ended::Unknown,
            },
            // A request may wait for long; one that is dropped is unknown in the history.
            _ = stop.wait_for(|&stop| stop) => return,
        };
        hand.shared.progress.note(ended);
        hand.moment().await;
    }
}
