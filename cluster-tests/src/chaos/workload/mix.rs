//! Locks, renewals, releases and checks, at random, on locks of which some are contended.

use std::time::Duration;

use keyward::bench::{Failure, Owner};
use keyward::client::Client;
use keyward::service::LockService;
use keyward::types::{
    CallOptions, LockOptions, LockRequest, ReadOptions, UnlockOptions, UnlockRequest,
};
use rand::Rng;

use super::Hand;
use crate::chaos::progress::Ended;
use crate::chaos::service::{CALL, Subject, failure, name};
use crate::history::Recorded;
use crate::limits::{Asker, Deck, PLACES, ask};

/// One operation in this many is one that only Keyward has: with a level, by force, without a
/// token.
const RICH: u32 = 4;

/// One in this many goes to a limit of the service.
const EDGE: u32 = 50;

/// One in this many of the heavy ones is made, once the run has been at every limit.
const HEAVY: u32 = 4;

pub(super) async fn run<S: Subject>(mut hand: Hand<S>) {
    let Some(mut owner) = hand.owner().await else { return };
    let rich = hand.subject.locks(hand.number);
    let mut held: Option<(String, <S::Owner as Owner>::Held)> = None;
    let mut deck = Deck::shuffle(|below| hand.random.random_range(0..below));
    while !hand.stopped() {
        let answer = match (&rich, &mut held) {
            (Some(locks), _) if hand.random.random_ratio(1, EDGE) => {
                edge(&mut hand, locks, &mut deck).await;
                Ok(())
            }
            (Some(locks), None) if hand.random.random_ratio(1, RICH) => {
                own_words(&mut hand, locks).await
            }
            (_, None) => {
                let signature = any_lock(&mut hand);
                let lease = any_lease(&mut hand);
                match owner.acquire(&signature, lease).await {
                    Ok(grant) => {
                        held = Some((signature, grant));
                        Ok(())
                    }
                    Err(failure) => Err(failure),
                }
            }
            (_, Some(_)) => next(&mut hand, &mut owner, &mut held).await,
        };
        // A service that answers at once would starve other tasks.
        tokio::task::yield_now().await;
        match answer {
            Ok(()) => {}
            Err(Failure::Refused) if hand.random.random_ratio(3, 4) => {}
            Err(_) => hand.moment().await,
        }
    }
}

/// The next action of a holder: renew, check, sleep, release, or abandon.
async fn next<S: Subject>(
    hand: &mut Hand<S>,
    owner: &mut S::Owner,
    held: &mut Option<(String, <S::Owner as Owner>::Held)>,
) -> Result<(), Failure> {
    let Some((signature, mut grant)) = held.take() else { return Ok(()) };
    match hand.random.random_range(0..10) {
        0..3 => {
            // The lease of the grant: not every service can change it.
            let lease = hand.shared.size.lease;
            let renewed = owner.renew(&signature, &mut grant, lease).await;
            if renewed.is_ok() {
                *held = Some((signature, grant));
            }
            renewed
        }
        3 => {
            let checked = owner.check(&signature).await.map(|_| ());
            *held = Some((signature, grant));
            checked
        }
        4 => {
            let rest = Duration::from_millis(hand.random.random_range(0..20));
            hand.sleep(rest).await;
            *held = Some((signature, grant));
            Ok(())
        }
        5..9 => owner.release(&signature, grant).await,
        _ => Ok(()),
    }
}

/// Sends a request at a limit of the service, first of all at one that the run has not reached.
async fn edge<S: Subject>(hand: &mut Hand<S>, locks: &Recorded<Client>, deck: &mut Deck) {
    let missing = deck.draw_missing(&hand.shared.recorder.reach().reached());
    let card = missing.unwrap_or_else(|| deck.draw());
    if missing.is_none() && card.is_heavy() && !hand.random.random_ratio(1, HEAVY) {
        return;
    }
    let signee = name(hand.number);
    let duration = any_lease(hand);
    let call = CallOptions { timeout: Some(CALL), ..CallOptions::default() };
    let random = &mut hand.random;
    let mut below = |below| random.random_range(0..below);
    let crowd = u64::try_from(PLACES.largest).unwrap_or(u64::MAX);
    ask(locks, card, &mut Asker { signee: &signee, duration, call, crowd, below: &mut below })
        .await;
}

/// A request in Keyward's own format, on locks contended by tokens and levels.
async fn own_words<S: Subject>(
    hand: &mut Hand<S>,
    locks: &Recorded<Client>,
) -> Result<(), Failure> {
    let signature = format!("rich/{}", hand.random.random_range(0..hand.shared.size.locks));
    let signee = name(hand.number);
    let call = CallOptions { timeout: Some(CALL), ..CallOptions::default() };
    let answer = match hand.random.random_range(0..10) {
        0..6 => {
            let level = Some(hand.random.random_range(-2..=2));
            let options = LockOptions {
                duration: Some(any_lease(hand)),
                force: hand.random.random_ratio(1, 10),
                call,
                ..LockOptions::default()
            };
            let request = LockRequest { signature, signee, level };
            locks.lock(request, options).await.map(|response| response.ok())
        }
        6..9 => {
            let options = UnlockOptions { call, ..UnlockOptions::default() };
            let request = UnlockRequest { signature, signee };
            locks.unlock(request, options).await.map(|response| response.ok())
        }
        _ => {
            let options = ReadOptions { call, ..ReadOptions::default() };
            match locks.check(signature, options).await {
                Ok(_) | Err(keyward::Error::NotFound { .. }) => Ok(true),
                Err(error) => Err(error),
            }
        }
    };
    let (ended, answer) = match answer.map_err(failure) {
        Ok(true) => (Ended::Ok, Ok(())),
        Ok(false) | Err(Failure::Refused) => (Ended::Refused, Err(Failure::Refused)),
        Err(other @ Failure::Unavailable(_)) => (Ended::Unavailable, Err(other)),
        Err(other @ Failure::Unknown(_)) => (Ended::Unknown, Err(other)),
    };
    hand.shared.progress.note(ended);
    answer
}

/// A random lock. Half of all requests go to a quarter of the locks.
fn any_lock<S: Subject>(hand: &mut Hand<S>) -> String {
    let locks = hand.shared.size.locks;
    let among = if hand.random.random_bool(0.5) { (locks / 4).max(1) } else { locks };
    format!("mix/{}", hand.random.random_range(0..among))
}

/// The usual lease, or one ten times as long: some locks are held across all faults.
fn any_lease<S: Subject>(hand: &mut Hand<S>) -> Duration {
    let lease = hand.shared.size.lease;
    if hand.random.random_ratio(1, 5) { lease * 10 } else { lease }
}
