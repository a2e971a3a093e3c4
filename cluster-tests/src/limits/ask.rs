//! Sends the request of a card, and releases what it acquired.

use std::time::Duration;

use keyward::limits::{self, BATCH, Beyond, Limit, Unit};
use keyward::service::LockService;
use keyward::types::{
    BatchRequest, CallOptions, ListRequest, LockOptions, LockRequest, ReadOptions, RequestId,
    TablesRequest, Token, UnlockOptions, UnlockRequest,
};

use super::deck::text;
use super::{Card, End, turns};
use crate::history::Recorded;

/// The number of locks that clients contend for while they send requests at the limits.
const LOCKS: u64 = 3;

/// The client, and the options of its requests.
pub struct Asker<'a> {
    /// The owner.
    pub signee: &'a str,
    /// The duration of a lock where the card does not set one.
    pub duration: Duration,
    /// The options of each call.
    pub call: CallOptions,
    /// The places that it takes in one queue: in a simulation fewer than are allowed.
    pub crowd: u64,
    /// Returns a number below its argument.
    pub below: &'a mut (dyn FnMut(u64) -> u64 + Send),
}

/// Sends the request of the card. The answer is in the history, and the recorder counts it.
pub async fn ask<S: LockService>(service: &Recorded<S>, card: Card, asker: &mut Asker<'_>) {
    match card {
        Card::Value(limit, end)
            if [limits::PREFIX, limits::AFTER, limits::PAGE].contains(&limit) =>
        {
            list(service, limit, end, asker).await;
        }
        Card::Value(limit, end) if turns::LIMITS.contains(&limit) => {
            turns::ask(service, limit, end, asker).await;
        }
        Card::Value(limit, end) => lock(service, limit, end, asker).await,
        Card::Crowd => turns::crowd(service, asker).await,
        Card::Inbox => turns::inbox(service, asker).await,
        Card::Batch(size) => batch(service, size, 8, asker).await,
        Card::FullBatch(size) => {
            batch(service, size, usize::try_from(limits::SIGNATURE.largest).unwrap_or(1), asker)
                .await;
        }
    }
}

/// Acquires a lock with one value at its limit, checks it, and releases it.
async fn lock<S: LockService>(
    service: &Recorded<S>,
    limit: Limit,
    end: End,
    asker: &mut Asker<'_>,
) {
    let mut request = LockRequest {
        signature: format!("edge/{}", (asker.below)(LOCKS)),
        signee: asker.signee.to_owned(),
        level: None,
    };
    let mut options = LockOptions {
        duration: Some(asker.duration),
        call: asker.call.clone(),
        ..LockOptions::default()
    };
    set(&mut request, &mut options, limit, end, asker);
    let unlock =
        UnlockRequest { signature: request.signature.clone(), signee: request.signee.clone() };
    let release = UnlockOptions {
        table: options.table.clone(),
        instance: options.instance.clone(),
        token: options.token,
        call: asker.call.clone(),
        ..UnlockOptions::default()
    };
    let read = ReadOptions {
        table: options.table.clone(),
        call: asker.call.clone(),
        ..ReadOptions::default()
    };
    let signature = request.signature.clone();
    // A lane begins with 1: a higher number on an unknown lane is refused.
    if let Some(id) = options.request_id.filter(|id| id.seq > 1) {
        let request_id = Some(RequestId { seq: 1, ..id });
        let first = LockOptions { request_id, ..options.clone() };
        let _ = service.lock(request.clone(), first).await;
    }
    // Refusals and unknown outcomes are in the history.
    let _ = service.lock(request, options).await;
    if (asker.below)(2) == 0 {
        let _ = service.check(signature, read).await;
    }
    if (asker.below)(4) > 0 {
        let _ = service.unlock(unlock, release).await;
    }
}

fn set(
    request: &mut LockRequest,
    options: &mut LockOptions,
    limit: Limit,
    end: End,
    asker: &mut Asker<'_>,
) {
    let below = &mut *asker.below;
    match limit.name {
        "signature" => request.signature = name(limit, end, below),
        "signee" => request.signee = name(limit, end, below),
        "instance" => options.instance = Some(name(limit, end, below)),
        "table" => options.table = Some(name(limit, end, below)),
        "level" => request.level = i64::try_from(value(limit, end, below)).ok(),
        "token" => options.token = unsigned(limit, end, below).map(Token),
        "duration" => {
            options.duration = unsigned(limit, end, below).map(Duration::from_millis);
        }
        "time_to_live" => {
            let length = unsigned(limit, end, below).map(Duration::from_millis);
            options.time_to_live = length.map(Into::into);
            // A record is never removed before its grant ends.
            options.duration = options.duration.min(length);
            if end == End::Beyond {
                options.duration = Some(Duration::from_millis(1));
            }
        }
        "request_number" => {
            let lane = random_lane(below);
            options.request_id = unsigned(limit, end, below).map(|seq| RequestId { lane, seq });
        }
        // A limit that is new in the list: the run reports that it was not reached.
        _ => {}
    }
}

fn unsigned(limit: Limit, end: End, below: &mut dyn FnMut(u64) -> u64) -> Option<u64> {
    u64::try_from(value(limit, end, below)).ok()
}

pub(super) fn value(limit: Limit, end: End, below: &mut dyn FnMut(u64) -> u64) -> i128 {
    match end {
        End::Smallest => limit.smallest,
        End::Largest | End::Odd => limit.largest,
        End::Beyond if below(2) == 0 => limit.smallest - 1,
        End::Beyond => limit.largest + 1,
    }
}

fn name(limit: Limit, end: End, below: &mut dyn FnMut(u64) -> u64) -> String {
    debug_assert_eq!(limit.unit, Unit::TextBytes);
    let most = usize::try_from(limit.largest).unwrap_or(usize::MAX);
    let least = usize::try_from(limit.smallest).unwrap_or(0);
    let variant = below(4);
    match end {
        End::Smallest => text(least, variant + 1),
        End::Largest => text(most, variant),
        // From lengths that fit into a line to lengths that do not.
        End::Odd => text(least + usize::try_from(below(200)).unwrap_or(0), 2 * variant),
        End::Beyond if least > 0 && variant == 0 => text(least - 1, 0),
        End::Beyond => text(most + 1, variant),
    }
}

/// Reads a page at one of its limits, of a table or of the tables.
async fn list<S: LockService>(
    service: &Recorded<S>,
    limit: Limit,
    end: End,
    asker: &mut Asker<'_>,
) {
    let below = &mut *asker.below;
    let of_tables = limit != limits::PREFIX && below(2) == 0;
    let mut request = ListRequest { limit: 3, ..ListRequest::default() };
    match limit.name {
        "prefix" => request.prefix = name(limit, end, below),
        "after" => request.after = Some(name(limit, end, below)),
        _ => request.limit = u32::try_from(value(limit, end, below)).unwrap_or(u32::MAX),
    }
    let options = ReadOptions { call: asker.call.clone(), ..ReadOptions::default() };
    if of_tables {
        let request = TablesRequest { after: request.after, limit: request.limit };
        let _ = service.tables(request, options).await;
    } else {
        let _ = service.list(request, options).await;
    }
}

/// Sends a batch of this many requests with names of this many bytes: locks first, and then their
/// releases, or none.
async fn batch<S: LockService>(
    service: &Recorded<S>,
    size: usize,
    bytes: usize,
    asker: &mut Asker<'_>,
) {
    debug_assert_eq!(BATCH.beyond, Beyond::Split);
    let first = (asker.below)(2);
    let named = |at: usize| {
        let number = format!("batch/{first}/{at}/");
        let rest = bytes.saturating_sub(number.len());
        number + &text(rest, 1)
    };
    let signee = if bytes > 100 { text(bytes, 1) } else { asker.signee.to_owned() };
    // They expire by themselves, so that a table does not grow for ever.
    let kept = asker.duration * 4;
    let id = lanes(asker);
    let locks = (0..size).map(|at| {
        let request = LockRequest { signature: named(at), signee: signee.clone(), level: None };
        let options = LockOptions {
            duration: Some(asker.duration),
            time_to_live: Some(kept.into()),
            request_id: Some(id(at)),
            call: asker.call.clone(),
            ..LockOptions::default()
        };
        BatchRequest::Lock(request, options)
    });
    let _ = service.batch(locks.collect()).await;
    if (asker.below)(2) == 0 {
        return;
    }
    let id = lanes(asker);
    let releases = (0..size).map(|at| {
        let request = UnlockRequest { signature: named(at), signee: signee.clone() };
        let options = UnlockOptions {
            request_id: Some(id(at)),
            call: asker.call.clone(),
            ..UnlockOptions::default()
        };
        BatchRequest::Unlock(request, options)
    });
    let _ = service.batch(releases.collect()).await;
}

/// A lane for each request of a batch: on a shared lane only the last request could be repeated.
fn lanes(asker: &mut Asker<'_>) -> impl Fn(usize) -> RequestId + use<> {
    let first = random_lane(&mut *asker.below);
    move |at| RequestId { lane: first.wrapping_add(at as u128), seq: 1 }
}

fn random_lane(below: &mut dyn FnMut(u64) -> u64) -> u128 {
    u128::from(below(u64::MAX)) << 64 | u128::from(below(u64::MAX))
}
