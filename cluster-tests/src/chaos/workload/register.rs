//! Read-modify-write on a register under its lock; some holders freeze between check and write.
//!
//! A client that holds the lock reads the register, works for a moment, and writes a value that it
//! computed from what it read. A client that freezes sleeps longer than its lock's duration, as a
//! process in a long garbage collection or a machine in suspend does, and then writes as if nothing
//! had happened. It checks no clock after it wakes: a holder can always freeze once more after it
//! has checked.

use std::time::Duration;

use keyward::bench::{Failure, Owner};
use rand::Rng;

use super::Hand;
use crate::chaos::service::{Subject, name};
use crate::register::Stale;

/// A variant of the workload.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    prefix: &'static str,
    /// One holder in this many freezes; 0 means none.
    freezes: u32,
    /// Whether all clients contend for the same lock.
    one_lock: bool,
}

impl Plan {
    pub(super) fn some_freeze() -> Self {
        Self { prefix: "register", freezes: 30, one_lock: false }
    }

    pub(super) fn many_freeze() -> Self {
        Self { prefix: "freeze", freezes: 3, one_lock: false }
    }

    pub(super) fn hand_off() -> Self {
        Self { prefix: "handoff", freezes: 0, one_lock: true }
    }
}

pub(super) async fn run<S: Subject>(mut hand: Hand<S>, plan: Plan) {
    let Some(mut owner) = hand.owner().await else { return };
    while !hand.stopped() {
        let locks = if plan.one_lock { 1 } else { hand.shared.size.locks };
        let signature = format!("{}/{}", plan.prefix, hand.random.random_range(0..locks));
        match owner.acquire(&signature, hand.shared.size.lease).await {
            Ok(held) => {
                let token = hand.token(&held);
                update(&mut hand, plan, &signature, token).await;
                leave(&mut hand, plan, &mut owner, &signature, held).await;
            }
            Err(Failure::Refused) => hand.moment().await,
            Err(Failure::Unavailable(_) | Failure::Unknown(_)) => {
                hand.moment().await;
                hand.moment().await;
            }
        }
    }
}

/// Reads, computes, perhaps freezes, and writes.
async fn update<S: Subject>(hand: &mut Hand<S>, plan: Plan, signature: &str, token: Option<u64>) {
    let Ok(version) = read(hand, signature, token) else { return };
    let holder = hand.shared.registers.begins(signature);
    if plan.freezes > 0 && hand.random.random_ratio(1, plan.freezes) {
        hand.shared.progress.froze();
        let longer = hand.random.random_range(1.2..2.5);
        let sleep = hand.shared.size.lease.mul_f64(longer);
        hand.sleep(sleep).await;
    } else if hand.random.random_ratio(1, 4) {
        let work = Duration::from_micros(hand.random.random_range(0..4000));
        hand.sleep(work).await;
    }
    // Whether it was refused for its token is in the history.
    let written = write(hand, signature, token, version).is_ok();
    if hand.shared.registers.acts(signature, holder, written) {
        let name = name(hand.number);
        let what = format!("{name} writes {signature} as its holder while a later holder acts");
        hand.shared.recorder.event("two holders", what);
    }
    hand.shared.registers.ends(signature, holder);
}

/// Releases the lock; one client in ten dies instead, as far as the service can see.
async fn leave<S: Subject>(
    hand: &mut Hand<S>,
    plan: Plan,
    owner: &mut S::Owner,
    signature: &str,
    held: <S::Owner as Owner>::Held,
) {
    if plan.freezes > 0 && hand.random.random_ratio(1, 50) {
        return;
    }
    // The outcome is in the history; a lock that was not released expires.
    let _ = owner.release(signature, held).await;
}

fn read<S: Subject>(hand: &Hand<S>, signature: &str, token: Option<u64>) -> Result<u64, Stale> {
    let shared = &hand.shared;
    shared.registers.read_recorded(&shared.recorder, name(hand.number), signature, token)
}

fn write<S: Subject>(
    hand: &Hand<S>,
    signature: &str,
    token: Option<u64>,
    based_on: u64,
) -> Result<u64, Stale> {
    let shared = &hand.shared;
    let client = name(hand.number);
    shared.registers.write_recorded(&shared.recorder, client, signature, token, based_on)
}
