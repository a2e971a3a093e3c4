//! Requests at the limits of queues, sessions and inboxes.
//!
//! They are not in the history: they are about tables and sessions of their own, and what is asked
//! is counted here. In a simulation the log tells how each was decided.

use std::time::Duration;

use keyward::Error;
use keyward::limits::{
    LOCK_DELAY, Limit, MAX_BATCH, MAX_HOLD, PERMITS, PLACES, SESSION_WAIT, TOLD_ITEMS, TTL, WAIT,
};
use keyward::lock::{Command, Decision};
use keyward::service::LockService;
use keyward::types::{
    BatchAnswer, BatchRequest, CallOptions, Liveness, LockOptions, LockRequest, LockStatus, Mode,
    Seen, SessionId, SessionOptions, SessionRequest, SessionStatus, TableDefaults, TableOptions,
    UnlockOptions, UnlockRequest,
};

use super::ask::{Asker, value};
use super::{End, of_command};
use crate::history::{Answer, Outcome, Recorded, Refusal};

/// The limits that [`ask`] asks at.
pub(super) const LIMITS: [Limit; 6] = [WAIT, SESSION_WAIT, PERMITS, TTL, LOCK_DELAY, MAX_HOLD];

/// How long a session of these requests lives by itself.
const TTL_OF_OWN: Duration = Duration::from_secs(60);

/// How long the places of a crowd wait, if they are not granted or deleted before.
const CROWD_WAIT: Duration = Duration::from_secs(30);

/// The times that an inbox is read until it has what it should: an earlier deletion of the table may
/// not be worked off yet, and each of these entries does a part of it.
const READS: usize = 100;

/// The client that asks.
struct Own {
    signee: String,
    duration: Duration,
    call: CallOptions,
}

impl Own {
    fn of(asker: &Asker<'_>) -> Self {
        let Asker { signee, duration, call, .. } = asker;
        Self { signee: (*signee).to_owned(), duration: *duration, call: call.clone() }
    }
}

/// Makes one request with a value at its limit, and counts it with its answer.
pub(super) async fn ask<S: LockService>(
    service: &Recorded<S>,
    limit: Limit,
    end: End,
    asker: &mut Asker<'_>,
) {
    // A length below none cannot be written.
    let at = match (value(limit, end, asker.below), end) {
        (at, End::Beyond) if at < 0 => limit.largest + 1,
        (at, _) => at,
    };
    let Ok(number) = u64::try_from(at) else { return };
    let ms = Duration::from_millis(number);
    let own = &Own::of(asker);
    let mut session = None;
    let command = if limit == TTL {
        let request = SessionRequest { signee: own.signee.clone(), ttl: ms };
        Command::open_session(request, SessionOptions::default())
    } else if limit == MAX_HOLD {
        let defaults = TableDefaults { max_hold: Some(ms), ..TableDefaults::default() };
        Command::configure_table(
            defaults,
            TableOptions { table: Some(table(own)), ..TableOptions::default() },
        )
    } else {
        let mut options = LockOptions { table: Some(table(own)), ..lock_options(own) };
        if limit == PERMITS {
            options.mode = Some(Mode::Permits);
            options.limit = Some(u32::try_from(number).unwrap_or(u32::MAX));
        } else if limit == LOCK_DELAY {
            options.lock_delay = Some(ms);
        } else {
            (options.wait, options.queued) = (Some(ms), number > 0);
            if limit == SESSION_WAIT {
                session = open(service, own).await;
                if session.is_none() {
                    return;
                }
                (options.session, options.duration) = (session, None);
            }
            hold(service, limit.name, own).await;
        }
        Command::lock(lock_request(limit.name, &own.signee), options)
    };
    let Ok(command) = command else { return };
    let values = of_command(&command);
    let decided = service.service().decide_one(command, own.call.clone()).await;
    if limit == TTL
        && let Ok(SessionStatus::Open(opened)) = decided.clone().and_then(Decision::into_session)
    {
        session = Some(opened.id);
    }
    service.recorder().reach().note(&values, &outcome(&decided));
    if let Some(session) = session {
        let _ = service.service().close_session(session, SessionOptions::default()).await;
    }
    forget(service, own).await;
}

/// Whether a request was answered, and whether with a refusal of its form.
fn outcome<T>(decided: &Result<T, Error>) -> Outcome {
    match decided {
        Ok(_) => Outcome::Ok(Answer::Released),
        Err(Error::BadRequest { .. }) => Outcome::Refused(Refusal::BadRequest),
        Err(Error::Unavailable { .. }) => Outcome::Unavailable,
        Err(_) => Outcome::Unknown,
    }
}

/// The table of one client: others neither wait in it nor delete it.
fn table(own: &Own) -> String {
    format!("edge {}", own.signee)
}

fn lock_request(signature: &str, signee: &str) -> LockRequest {
    LockRequest { signature: signature.to_owned(), signee: signee.to_owned(), level: None }
}

fn lock_options(own: &Own) -> LockOptions {
    let (duration, call) = (Some(own.duration), own.call.clone());
    LockOptions { table: Some(table(own)), duration, call, ..LockOptions::default() }
}

async fn open<S: LockService>(service: &Recorded<S>, own: &Own) -> Option<SessionId> {
    let request = SessionRequest { signee: own.signee.clone(), ttl: TTL_OF_OWN };
    let opened = service.service().open_session(request, SessionOptions::default()).await;
    match opened {
        Ok(SessionStatus::Open(session)) => Some(session.id),
        Ok(SessionStatus::Failed(_)) | Err(_) => None,
    }
}

/// Has somebody else hold a lock of the table, so that there is something to wait for.
async fn hold<S: LockService>(service: &Recorded<S>, signature: &str, own: &Own) -> bool {
    let request = lock_request(signature, "holder");
    let held = service.service().lock(request, lock_options(own)).await;
    held.is_ok_and(|response| response.ok())
}

/// Deletes the client's table: its grants and its places end.
async fn forget<S: LockService>(service: &Recorded<S>, own: &Own) {
    let options = TableOptions { table: Some(table(own)), ..TableOptions::default() };
    let _ = service.service().delete_table(options).await;
}

/// Takes as many places in one queue as are asked for, hands the lock over, and deletes what is
/// left.
pub(super) async fn crowd<S: LockService>(service: &Recorded<S>, asker: &mut Asker<'_>) {
    let (signature, most, own) = ("crowd", asker.crowd, &Own::of(asker));
    if !hold(service, signature, own).await {
        return;
    }
    let place = |number: u64| {
        let options = LockOptions {
            mode: Some(Mode::Shared),
            wait: Some(CROWD_WAIT),
            queued: true,
            ..lock_options(own)
        };
        BatchRequest::Lock(lock_request(signature, &format!("one {number}")), options)
    };
    let numbers: Vec<u64> = (1..=most).collect();
    for part in numbers.chunks(MAX_BATCH) {
        let answers = service.service().batch(part.iter().map(|n| place(*n)).collect()).await;
        for answer in answers {
            if let Ok(BatchAnswer::Lock(response)) = answer
                && let LockStatus::Waiting(waiting) = response.status
            {
                service.recorder().reach().worked(PLACES, waiting.position, most);
            }
        }
    }
    let request = UnlockRequest { signature: signature.to_owned(), signee: "holder".to_owned() };
    let options = UnlockOptions { table: Some(table(own)), ..UnlockOptions::default() };
    // The next in the queue are granted, in portions. Meanwhile the table goes.
    let _ = service.service().unlock(request, options).await;
    forget(service, own).await;
}

/// Loses more locks of a session at once than an answer tells, and reads its inbox.
pub(super) async fn inbox<S: LockService>(service: &Recorded<S>, asker: &mut Asker<'_>) {
    let own = &Own::of(asker);
    let Some(session) = open(service, own).await else { return };
    let told = u64::try_from(TOLD_ITEMS.largest).unwrap_or(u64::MAX);
    let held = |number: u64| {
        let options = LockOptions { session: Some(session), duration: None, ..lock_options(own) };
        BatchRequest::Lock(lock_request(&format!("item {number}"), ""), options)
    };
    let numbers: Vec<u64> = (1..=told + 1).collect();
    for part in numbers.chunks(MAX_BATCH) {
        let _ = service.service().batch(part.iter().map(|n| held(*n)).collect()).await;
    }
    forget(service, own).await;
    for _ in 0..READS {
        let seen = vec![Seen { session, seen: None }];
        let states = service.service().keep_alive(seen, own.call.clone()).await.unwrap_or_default();
        let Some(Liveness::Alive { inbox, .. }) = states.first() else { break };
        service.recorder().reach().worked(TOLD_ITEMS, inbox.len() as u64, told);
        if inbox.len() as u64 >= told {
            break;
        }
    }
    let _ = service.service().close_session(session, SessionOptions::default()).await;
}
