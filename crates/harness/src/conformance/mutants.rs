//! Tests that the suite can fail: services that are wrong in one way each, all of which it must
//! reject.
//!
//! Each is [`MemoryLocks`] with one operation replaced. A mutation that other tests apply to the
//! machine itself is applied here to what a caller can observe.

mod turns;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use tokio::sync::watch;

use keyward_core::clock::ManualClock;
use keyward_core::error::Error;
use keyward_core::lock::{
    Command, Decision, LockCommand, Operation, Outcome, Query, Subject, View,
};
use keyward_core::memory::MemoryLocks;
use keyward_core::service::{DebugLockService, LockService, ServiceOptions};
use keyward_core::types::{
    CallOptions, CheckResponse, CloseStatus, DecidedAt, DeleteStatus, Forbidden, ForbiddenReason,
    Grant, Holder, InboxItem, KEPT_AFTER_EXPIRY, ListRequest, ListResponse, Liveness, LockOptions,
    LockRecord, LockRequest, LockResponse, LockStatus, Loss, Mode, News, ReadOptions, RequestId,
    Seen, SessionOptions, TableDefaults, TableOptions, TablesRequest, TablesResponse, TimeToLive,
    Token, TransferReason, UnlockOptions, UnlockRequest, UnlockResponse, UnlockStatus,
    VerifyResponse,
};

use super::{Bootstrap, Options, rules, run};
use turns::{BOUND_BUGS, GONE_BUGS, OTHER_BUGS, THOUSANDS_BUGS};

type Answer<T> = Result<T, Error>;

/// A service that is wrong in one way, as the functions of its operations.
#[derive(Clone, Copy)]
struct Bug {
    name: &'static str,
    open: fn(ServiceOptions) -> ServiceOptions,
    lock: fn(&Broken, LockRequest, LockOptions) -> Answer<LockResponse>,
    unlock: fn(&Broken, UnlockRequest, UnlockOptions) -> Answer<UnlockResponse>,
    check: fn(&Broken, String, ReadOptions) -> Answer<CheckResponse>,
    list: fn(&Broken, ListRequest, ReadOptions) -> Answer<ListResponse>,
    tables: fn(&Broken, TablesRequest) -> Answer<TablesResponse>,
    configure_table: fn(&Broken, TableDefaults, TableOptions) -> Answer<()>,
    delete_table: fn(&Broken, TableOptions) -> Answer<DeleteStatus>,
    advance_clock: fn(&Broken, Duration) -> Answer<()>,
    /// Changes any lock command before it is decided, or answers it.
    before: fn(&Broken, &mut LockCommand, Option<RequestId>) -> Option<LockStatus>,
    /// Commands of the second part of the contract: with modes, waits and sessions.
    decide: fn(&Broken, Command) -> Answer<Decision>,
    read: fn(&Broken, Query) -> Answer<View>,
}

/// No mutation: every operation as in memory.
const RIGHT: Bug = Bug {
    name: "none",
    open: |options| options,
    lock: Broken::lock_rightly,
    unlock: Broken::unlock_rightly,
    check: Broken::check_rightly,
    list: |broken, request, options| now(broken.locks.list(request, options)),
    tables: |broken, request| now(broken.locks.tables(request, ReadOptions::default())),
    configure_table: |broken, defaults, options| {
        now(broken.locks.configure_table(defaults, options))
    },
    delete_table: |broken, options| now(broken.locks.delete_table(options)),
    advance_clock: |broken, by| now(broken.locks.advance_clock(by)),
    before: |_, _, _| None,
    decide: Broken::decide_rightly,
    read: |broken, query| now(broken.locks.read(query, CallOptions::default())),
};

#[derive(Clone)]
struct Broken {
    bug: Bug,
    options: ServiceOptions,
    locks: MemoryLocks,
    notes: Arc<Mutex<Notes>>,
    /// The options of the present call.
    call: CallOptions,
    /// Changes when the caller of a request that waits has gone.
    caller: Option<watch::Receiver<()>>,
}

/// The state that some mutations need, by table and signature.
#[derive(Default)]
struct Notes {
    granted: BTreeMap<String, LockResponse>,
    tokens: BTreeMap<String, Token>,
    /// The requests that were asked, and their locks.
    asked: BTreeMap<RequestId, LockCommand>,
    count: u64,
}

/// The answer of a memory service. It waits for nothing but the end of a place, and then this runs
/// on a thread that may be blocked.
fn now<T>(answer: impl Future<Output = T>) -> T {
    let mut answer = Box::pin(answer);
    let at_once = answer.as_mut().now_or_never();
    at_once.unwrap_or_else(|| tokio::runtime::Handle::current().block_on(answer))
}

impl Broken {
    /// A caller that has gone is one in memory, too.
    fn decide_rightly(&self, command: Command) -> Answer<Decision> {
        let deciding = self.locks.decide_one(command, self.call.clone());
        let Some(mut caller) = self.caller.clone() else { return now(deciding) };
        now(async move {
            tokio::select! {
                decision = deciding => decision,
                _ = caller.changed() => Err(Error::unknown("the caller has gone")),
            }
        })
    }

    /// Whether the caller of the present request has gone.
    fn is_gone(&self) -> bool {
        self.caller.as_ref().is_some_and(|caller| caller.has_changed().is_err())
    }

    fn lock_rightly(&self, request: LockRequest, options: LockOptions) -> Answer<LockResponse> {
        now(self.locks.lock(request, options))
    }

    fn unlock_rightly(
        &self,
        request: UnlockRequest,
        options: UnlockOptions,
    ) -> Answer<UnlockResponse> {
        now(self.locks.unlock(request, options))
    }

    fn check_rightly(&self, signature: String, options: ReadOptions) -> Answer<CheckResponse> {
        now(self.locks.check(signature, options))
    }

    /// The present holder of the lock that is requested.
    fn holder(&self, signature: &str, table: Option<&String>) -> Option<Holder> {
        let options = ReadOptions { table: table.cloned(), ..ReadOptions::default() };
        self.check_rightly(signature.to_owned(), options).ok()?.record.holders.pop()
    }

    /// The record of a lock that a command names.
    fn record(&self, lock: &LockCommand) -> Option<LockRecord> {
        let options = ReadOptions { table: Some(lock.table.to_string()), ..ReadOptions::default() };
        Some(self.check_rightly(lock.signature.to_string(), options).ok()?.record)
    }

    /// Ends a place as an operator does.
    fn end_place(&self, lock: &LockCommand, place: DecidedAt) {
        let request =
            UnlockRequest { signature: lock.signature.to_string(), signee: "x".to_owned() };
        let table = Some(lock.table.to_string());
        let options =
            UnlockOptions { table, force: true, place: Some(place), ..UnlockOptions::default() };
        let _ = self.unlock_rightly(request, options);
    }

    /// Leaves the owner's own place.
    fn leave(&self, lock: &LockCommand) {
        let signee = lock.signee.to_string();
        let request = UnlockRequest { signature: lock.signature.to_string(), signee };
        let options = UnlockOptions {
            table: Some(lock.table.to_string()),
            instance: lock.instance.as_deref().map(str::to_owned),
            ..UnlockOptions::default()
        };
        let _ = self.unlock_rightly(request, options);
    }

    fn lock_with(
        &self,
        mut request: LockRequest,
        mut options: LockOptions,
        change: impl FnOnce(&mut LockRequest, &mut LockOptions),
    ) -> Answer<LockResponse> {
        change(&mut request, &mut options);
        self.lock_rightly(request, options)
    }

    fn unlock_with(
        &self,
        mut request: UnlockRequest,
        mut options: UnlockOptions,
        change: impl FnOnce(&mut UnlockRequest, &mut UnlockOptions),
    ) -> Answer<UnlockResponse> {
        change(&mut request, &mut options);
        self.unlock_rightly(request, options)
    }

    /// Locks correctly, then changes the grant in the answer.
    fn lock_then(
        &self,
        request: LockRequest,
        options: LockOptions,
        change: impl FnOnce(&mut Notes, &mut Grant),
    ) -> Answer<LockResponse> {
        let mut response = self.lock_rightly(request, options)?;
        if let Some(grant) = grant_mut(&mut response) {
            change(&mut self.notes.lock().unwrap(), grant);
        }
        Ok(response)
    }
}

fn grant_mut(response: &mut LockResponse) -> Option<&mut Grant> {
    match &mut response.status {
        LockStatus::Ok(grant)
        | LockStatus::Renewed(grant)
        | LockStatus::Transferred { grant, .. } => Some(grant),
        LockStatus::Waiting(_) | LockStatus::Failed(_) => None,
    }
}

/// Mutations of granting a lock.
const LOCK_BUGS: &[Bug] = &[
    Bug {
        name: "levels are ignored",
        lock: |broken, request, options| {
            broken.lock_with(request, options, |request, _| request.level = Some(0))
        },
        ..RIGHT
    },
    Bug {
        name: "an equal level takes the lock",
        lock: |broken, request, options| {
            let holder = broken.holder(&request.signature, options.table.as_ref());
            let level = request.level.unwrap_or(0);
            let equal = holder.is_some_and(|holder| !holder.expired && holder.level == level);
            broken.lock_with(request, options, |_, options| {
                options.force |= equal && options.token.is_none();
            })
        },
        ..RIGHT
    },
    Bug {
        name: "a renewal keeps the level",
        lock: |broken, request, options| {
            let holder = broken.holder(&request.signature, options.table.as_ref());
            broken.lock_with(request, options, |request, options| {
                let mine = |holder: &Holder| {
                    holder.signee == request.signee && holder.instance == options.instance
                };
                if let Some(holder) = holder.filter(mine) {
                    request.level = Some(holder.level);
                }
            })
        },
        ..RIGHT
    },
    Bug {
        name: "a renewal that leaves the level out lowers it to 0",
        lock: |broken, request, options| {
            broken.lock_with(request, options, |request, _| {
                request.level.get_or_insert(0);
            })
        },
        ..RIGHT
    },
    Bug {
        name: "force is ignored",
        lock: |broken, request, options| {
            broken.lock_with(request, options, |_, options| options.force = false)
        },
        ..RIGHT
    },
    Bug {
        name: "every request is forced",
        lock: |broken, request, options| {
            broken.lock_with(request, options, |_, options| options.force = true)
        },
        ..RIGHT
    },
    Bug {
        name: "an expired lock stays with its owner",
        lock: |broken, request, options| {
            let holder = broken.holder(&request.signature, options.table.as_ref());
            match holder {
                Some(holder) if holder.expired && holder.signee != request.signee => {
                    let reason = ForbiddenReason::Held;
                    let holders = vec![holder];
                    Ok(LockResponse {
                        status: LockStatus::Failed(Forbidden::new(reason, holders)),
                        decided_at: None,
                    })
                }
                _ => broken.lock_rightly(request, options),
            }
        },
        ..RIGHT
    },
    Bug {
        name: "a refusal names no holder",
        lock: |broken, request, options| {
            let mut response = broken.lock_rightly(request, options)?;
            if let LockStatus::Failed(forbidden) = &mut response.status {
                forbidden.holders.clear();
            }
            Ok(response)
        },
        ..RIGHT
    },
    Bug {
        name: "a take-over names the new owner as the previous one",
        lock: |broken, request, options| {
            let signee = request.signee.clone();
            let mut response = broken.lock_rightly(request, options)?;
            if let LockStatus::Transferred { previous_signee, .. } = &mut response.status {
                *previous_signee = signee;
            }
            Ok(response)
        },
        ..RIGHT
    },
    Bug {
        name: "a forced take-over of a lower level is called preempted",
        lock: |broken, request, options| {
            let holder = broken.holder(&request.signature, options.table.as_ref());
            let level = request.level.unwrap_or(0);
            let lower = holder.is_some_and(|holder| !holder.expired && holder.level < level);
            let mut response = broken.lock_rightly(request, options)?;
            if let LockStatus::Transferred { reason, .. } = &mut response.status
                && lower
            {
                *reason = TransferReason::Preempted;
            }
            Ok(response)
        },
        ..RIGHT
    },
    Bug {
        name: "a removed record still has a former owner",
        lock: |broken, request, options| {
            broken.lock_with(request, options, |_, options| options.time_to_live = None)
        },
        ..RIGHT
    },
    Bug {
        name: "instances are ignored",
        lock: |broken, request, options| {
            broken.lock_with(request, options, |_, options| options.instance = None)
        },
        unlock: |broken, request, options| {
            broken.unlock_with(request, options, |_, options| options.instance = None)
        },
        ..RIGHT
    },
    Bug {
        name: "a time_to_live shorter than the duration is stretched",
        lock: |broken, request, options| {
            broken.lock_with(request, options, |_, options| {
                let duration = options.duration.unwrap_or_default();
                options.time_to_live = options.time_to_live.map(|time| time.at_least(duration));
            })
        },
        ..RIGHT
    },
    Bug {
        name: "an empty signee is anonymous",
        lock: |broken, request, options| {
            broken.lock_with(request, options, |request, _| {
                if request.signee.is_empty() {
                    request.signee = String::from("anonymous");
                }
            })
        },
        ..RIGHT
    },
    Bug {
        name: "an over-long signature is cut",
        lock: |broken, request, options| {
            broken.lock_with(request, options, |request, _| request.signature.truncate(1024))
        },
        ..RIGHT
    },
];

/// Mutations of tokens and of renew-only requests.
const TOKEN_BUGS: &[Bug] = &[
    Bug {
        name: "a token is used again after a release",
        lock: |broken, request, options| {
            let lock = format!("{:?}/{}", options.table, request.signature);
            let mut response = broken.lock_rightly(request, options)?;
            if let LockStatus::Ok(grant) = &mut response.status {
                let mut notes = broken.notes.lock().unwrap();
                grant.token = *notes.tokens.entry(lock).or_insert(grant.token);
            }
            Ok(response)
        },
        ..RIGHT
    },
    Bug {
        name: "tokens shrink",
        lock: |broken, request, options| {
            broken.lock_then(request, options, |_, grant| {
                grant.token = Token(1_000_000 - grant.token.0);
            })
        },
        ..RIGHT
    },
    Bug {
        name: "a renewal gives a new token",
        lock: |broken, request, options| {
            broken.lock_then(request, options, |notes, grant| {
                notes.count += 1;
                grant.token = Token(1000 + notes.count);
            })
        },
        ..RIGHT
    },
    Bug {
        name: "a renewal after expiry keeps the token",
        lock: |broken, request, options| {
            let lock = format!("{:?}/{}", options.table, request.signature);
            let mut response = broken.lock_rightly(request, options)?;
            let mut notes = broken.notes.lock().unwrap();
            match &mut response.status {
                LockStatus::Renewed(grant) => {
                    grant.token = notes.tokens.get(&lock).copied().unwrap_or(grant.token);
                }
                LockStatus::Ok(grant) | LockStatus::Transferred { grant, .. } => {
                    notes.tokens.insert(lock, grant.token);
                }
                LockStatus::Waiting(_) | LockStatus::Failed(_) => {}
            }
            drop(notes);
            Ok(response)
        },
        ..RIGHT
    },
    Bug {
        name: "a renewal only revives an expired grant",
        lock: |broken, request, options| {
            let holder = broken.holder(&request.signature, options.table.as_ref());
            let dead = holder.is_some_and(|holder| {
                holder.expired
                    && holder.signee == request.signee
                    && Some(holder.token) == options.token
            });
            broken.lock_with(request, options, |_, options| {
                if dead {
                    options.token = None;
                }
            })
        },
        ..RIGHT
    },
    Bug {
        name: "a renewal only creates a grant",
        lock: |broken, request, options| {
            let absent = broken.holder(&request.signature, options.table.as_ref()).is_none();
            broken.lock_with(request, options, |_, options| {
                if absent {
                    options.token = None;
                }
            })
        },
        ..RIGHT
    },
    Bug {
        name: "a renewal only takes any token",
        lock: |broken, request, options| {
            let holder = broken.holder(&request.signature, options.table.as_ref());
            broken.lock_with(request, options, |_, options| {
                if let (Some(token), Some(holder)) = (&mut options.token, holder) {
                    *token = holder.token;
                }
            })
        },
        ..RIGHT
    },
    Bug {
        name: "a renewal only is forced by force",
        lock: |broken, request, options| {
            broken.lock_with(request, options, |_, options| {
                if options.force {
                    options.token = None;
                }
            })
        },
        ..RIGHT
    },
    Bug {
        name: "an answer is decided before the one that it follows",
        lock: |broken, request, options| {
            let mut response = broken.lock_rightly(request, options)?;
            response.decided_at = Some(DecidedAt { index: 0, position: 0 });
            Ok(response)
        },
        ..RIGHT
    },
];

/// Mutations of releasing and of repeating.
const UNLOCK_BUGS: &[Bug] = &[
    Bug {
        name: "a lock is released by its name alone",
        unlock: |broken, request, options| {
            let holder = broken.holder(&request.signature, options.table.as_ref());
            broken.unlock_with(request, options, |request, options| {
                if let Some(holder) = holder {
                    request.signee = holder.signee;
                    options.instance = holder.instance;
                }
            })
        },
        ..RIGHT
    },
    Bug {
        name: "a release ignores its token",
        unlock: |broken, request, options| {
            broken.unlock_with(request, options, |_, options| {
                options.token = options.token.filter(|token| token.0 == 0);
            })
        },
        ..RIGHT
    },
    Bug {
        name: "a release of a missing lock is ok",
        unlock: |broken, request, options| {
            let mut response = broken.unlock_rightly(request, options)?;
            if response.status == UnlockStatus::NoLock {
                response.status = UnlockStatus::Ok;
            }
            Ok(response)
        },
        ..RIGHT
    },
    Bug {
        name: "an expired lock of mine is not released",
        unlock: |broken, request, options| {
            let holder = broken.holder(&request.signature, options.table.as_ref());
            if holder.is_some_and(|holder| holder.expired && holder.signee == request.signee) {
                return Ok(UnlockResponse { status: UnlockStatus::NoLock, decided_at: None });
            }
            broken.unlock_rightly(request, options)
        },
        ..RIGHT
    },
    Bug {
        name: "an expired lock of another's is released",
        unlock: |broken, request, options| {
            let holder = broken.holder(&request.signature, options.table.as_ref());
            broken.unlock_with(request, options, |request, _| {
                if let Some(holder) = holder.filter(|holder| holder.expired) {
                    request.signee = holder.signee;
                }
            })
        },
        ..RIGHT
    },
    Bug {
        name: "request ids are ignored by lock",
        lock: |broken, request, options| {
            broken.lock_with(request, options, |_, options| options.request_id = None)
        },
        ..RIGHT
    },
    Bug {
        name: "request ids are ignored by unlock",
        unlock: |broken, request, options| {
            broken.unlock_with(request, options, |_, options| options.request_id = None)
        },
        ..RIGHT
    },
    Bug {
        name: "a stale number is answered as a new request",
        lock: |broken, request, options| {
            let mut fresh = options.clone();
            fresh.request_id = None;
            let stale = options.request_id.is_some();
            match broken.lock_rightly(request.clone(), options) {
                Err(Error::BadRequest { reason }) if stale && reason.contains("stale") => {
                    broken.lock_rightly(request, fresh)
                }
                answer => answer,
            }
        },
        ..RIGHT
    },
    Bug {
        name: "a repeated answer has the time that was left at first",
        lock: |broken, request, options| {
            let Some(id) = options.request_id else {
                return broken.lock_rightly(request, options);
            };
            let response = broken.lock_rightly(request, options)?;
            let mut notes = broken.notes.lock().unwrap();
            Ok(notes.granted.entry(id.to_string()).or_insert(response).clone())
        },
        ..RIGHT
    },
];

/// Mutations of time.
const TIME_BUGS: &[Bug] = &[
    Bug {
        name: "the duration of the request is ignored",
        lock: |broken, request, options| {
            broken.lock_with(request, options, |_, options| {
                options.duration = options.duration.map(|_| Duration::from_secs(10));
                options.time_to_live = longer(options.time_to_live, 10 * SECOND);
            })
        },
        ..RIGHT
    },
    Bug {
        name: "a grant lasts a second longer than it was asked for",
        lock: |broken, request, options| {
            broken.lock_with(request, options, |_, options| {
                options.duration = options.duration.map(|duration| duration + SECOND);
                options.time_to_live = longer(options.time_to_live, SECOND);
            })
        },
        ..RIGHT
    },
    Bug {
        name: "more time is told than there is, by a millisecond",
        lock: |broken, request, options| {
            broken.lock_then(request, options, |_, grant| {
                grant.expires_in += Duration::from_millis(1);
            })
        },
        ..RIGHT
    },
    Bug {
        name: "a grant ends a second early",
        advance_clock: |broken, by| now(broken.locks.advance_clock(by + SECOND)),
        ..RIGHT
    },
    Bug { name: "time stands still", advance_clock: |_, _| Ok(()), ..RIGHT },
    Bug {
        name: "the default duration of the handle is ignored",
        open: |options| ServiceOptions { default_duration: None, ..options },
        ..RIGHT
    },
    Bug {
        name: "the default time_to_live of the handle is ignored",
        open: |options| ServiceOptions { default_time_to_live: None, ..options },
        ..RIGHT
    },
    Bug {
        name: "a time_to_live without a word is the duration",
        lock: |broken, request, options| {
            broken.lock_with(request, options, |_, options| {
                let duration = options.duration.map(Into::into);
                options.time_to_live = options.time_to_live.or(duration);
            })
        },
        ..RIGHT
    },
    Bug {
        name: "a record without a time_to_live is kept for ever",
        open: |options| ServiceOptions {
            default_time_to_live: options.default_time_to_live.or(Some(TimeToLive::Never)),
            ..options
        },
        ..RIGHT
    },
    Bug {
        name: "a record without a time_to_live goes an hour early",
        lock: |broken, request, options| {
            broken.lock_then(request, options, |_, grant| {
                if grant.removed_in == Some(grant.expires_in + KEPT_AFTER_EXPIRY) {
                    grant.removed_in =
                        grant.removed_in.map(|time| time.saturating_sub(3600 * SECOND));
                }
            })
        },
        ..RIGHT
    },
    Bug {
        name: "none is no time_to_live at all",
        lock: |broken, request, options| {
            broken.lock_with(request, options, |_, options| {
                options.time_to_live =
                    options.time_to_live.filter(|time| *time != TimeToLive::Never);
            })
        },
        ..RIGHT
    },
    Bug {
        name: "none as a table's time_to_live is its default",
        configure_table: |broken, mut defaults, options| {
            if defaults.time_to_live == Some(TimeToLive::Never) {
                defaults.time_to_live = None;
            }
            now(broken.locks.configure_table(defaults, options))
        },
        ..RIGHT
    },
];

const SECOND: Duration = Duration::from_secs(1);

fn longer(time_to_live: Option<TimeToLive>, by: Duration) -> Option<TimeToLive> {
    time_to_live.map(|time| time.length().map_or(TimeToLive::Never, |time| (time + by).into()))
}

/// Mutations of names, tables and reads.
const READ_BUGS: &[Bug] = &[
    Bug {
        name: "names are compared without their case",
        lock: |broken, request, options| {
            broken.lock_with(request, options, |request, _| {
                request.signature = request.signature.to_lowercase();
            })
        },
        ..RIGHT
    },
    Bug {
        name: "white space around names is cut",
        lock: |broken, request, options| {
            broken.lock_with(request, options, |request, _| {
                request.signature = request.signature.trim().to_owned();
            })
        },
        ..RIGHT
    },
    Bug {
        name: "owners are compared without their case",
        lock: |broken, request, options| {
            broken.lock_with(request, options, |request, _| {
                request.signee = request.signee.to_lowercase();
            })
        },
        ..RIGHT
    },
    Bug {
        name: "two ways to write a letter are one name",
        lock: |broken, request, options| {
            broken.lock_with(request, options, |request, _| {
                request.signature = request.signature.replace("e\u{301}", "\u{e9}");
            })
        },
        ..RIGHT
    },
    Bug {
        name: "all tables are one",
        lock: |broken, request, options| {
            broken.lock_with(request, options, |_, options| options.table = None)
        },
        unlock: |broken, request, options| {
            broken.unlock_with(request, options, |_, options| options.table = None)
        },
        check: |broken, signature, options| {
            broken.check_rightly(signature, ReadOptions { table: None, ..options })
        },
        ..RIGHT
    },
    Bug { name: "the defaults of a table are ignored", configure_table: |_, _, _| Ok(()), ..RIGHT },
    Bug { name: "a table is not deleted", delete_table: |_, _| Ok(DeleteStatus::Ok), ..RIGHT },
    Bug {
        name: "no table is told",
        tables: |_, _| Ok(TablesResponse { tables: Vec::new(), next: None, decided_at: None }),
        ..RIGHT
    },
    Bug {
        name: "an expired record is not found",
        check: |broken, signature, options| {
            let response = broken.check_rightly(signature, options)?;
            if response.record.holders.iter().all(|holder| holder.expired) {
                return Err(Error::NotFound { decided_at: None });
            }
            Ok(response)
        },
        ..RIGHT
    },
    Bug {
        name: "a check tells no level",
        check: |broken, signature, options| {
            let mut response = broken.check_rightly(signature, options)?;
            response.record.holders.iter_mut().for_each(|holder| holder.level = 0);
            Ok(response)
        },
        ..RIGHT
    },
    Bug {
        name: "a list leaves out the expired ones",
        list: |broken, request, options| {
            let mut page = now(broken.locks.list(request, options))?;
            page.locks.retain(|record| !record.holders.iter().all(|holder| holder.expired));
            Ok(page)
        },
        ..RIGHT
    },
    Bug {
        name: "a list begins at the signature it is to begin after",
        list: |broken, request, options| {
            let after = request.after.clone();
            let mut page = now(broken.locks.list(request, options.clone()))?;
            if let Some(after) = after
                && let Ok(found) = broken.check_rightly(after, options)
            {
                page.locks.insert(0, found.record);
            }
            Ok(page)
        },
        ..RIGHT
    },
    Bug {
        name: "the state that a list asks for is ignored",
        list: |broken, mut request, options| {
            request.state = None;
            now(broken.locks.list(request, options))
        },
        ..RIGHT
    },
    Bug {
        name: "a list of one state fills its page before it looks at the state",
        list: |broken, mut request, options| {
            let state = request.state.take();
            let mut page = now(broken.locks.list(request, options))?;
            page.locks.retain(|record| state.is_none_or(|state| record.state() == state));
            page.next = page.next.filter(|_| !page.locks.is_empty());
            Ok(page)
        },
        ..RIGHT
    },
    Bug {
        name: "a deletion of a missing table is ok",
        delete_table: |broken, options| {
            now(broken.locks.delete_table(options)).map(|_| DeleteStatus::Ok)
        },
        ..RIGHT
    },
    Bug {
        name: "a list has no limit",
        list: |broken, mut request, options| {
            if (1..=1000).contains(&request.limit) {
                request.limit = 1000;
            }
            now(broken.locks.list(request, options))
        },
        ..RIGHT
    },
    Bug {
        name: "a full page always has a next one",
        list: |broken, request, options| {
            let limit = request.limit as usize;
            let mut page = now(broken.locks.list(request, options))?;
            if page.locks.len() == limit {
                page.next = page.locks.last().map(|record| record.signature.clone());
            }
            Ok(page)
        },
        ..RIGHT
    },
    Bug {
        name: "a list is in the order of the alphabet",
        list: |broken, request, options| {
            let mut page = now(broken.locks.list(request, options))?;
            page.locks.sort_by_key(|record| record.signature.to_lowercase());
            Ok(page)
        },
        ..RIGHT
    },
];

impl Broken {
    fn decide_wrongly(&self, mut command: Command) -> Answer<Decision> {
        if let Operation::Lock(lock) = &mut command.operation
            && let Some(status) = (self.bug.before)(self, lock, command.request_id)
        {
            return Ok(Decision { outcome: Outcome::Lock(status), decided_at: None });
        }
        if command.operation.level() > 1 {
            return (self.bug.decide)(self, command);
        }
        let Command { request_id, operation, .. } = command;
        match operation {
            Operation::Lock(lock) => {
                let request = LockRequest {
                    signature: lock.signature.into(),
                    signee: lock.signee.into(),
                    level: lock.level,
                };
                let options = LockOptions {
                    table: Some(lock.table.into()),
                    force: lock.force,
                    duration: lock.duration_ms.map(Duration::from_millis),
                    time_to_live: lock.time_to_live.map(Into::into),
                    token: lock.token,
                    instance: lock.instance.map(Into::into),
                    request_id,
                    ..LockOptions::default()
                };
                let LockResponse { status, decided_at } = (self.bug.lock)(self, request, options)?;
                Ok(Decision { outcome: Outcome::Lock(status), decided_at })
            }
            Operation::Unlock(unlock) => {
                let request = UnlockRequest {
                    signature: unlock.signature.into(),
                    signee: unlock.signee.into(),
                };
                let options = UnlockOptions {
                    table: Some(unlock.table.into()),
                    token: unlock.token,
                    instance: unlock.instance.map(Into::into),
                    request_id,
                    ..UnlockOptions::default()
                };
                let response = (self.bug.unlock)(self, request, options)?;
                let UnlockResponse { status, decided_at } = response;
                Ok(Decision { outcome: Outcome::Unlock(status), decided_at })
            }
            Operation::ConfigureTable(table) => {
                let defaults = TableDefaults {
                    duration: table.duration_ms.map(Duration::from_millis),
                    time_to_live: table.time_to_live.map(Into::into),
                    lock_delay: table.lock_delay_ms.map(Duration::from_millis),
                    max_hold: table.max_hold_ms.map(Duration::from_millis),
                };
                let table = Some(table.table.into());
                let options = TableOptions { table, request_id, ..TableOptions::default() };
                (self.bug.configure_table)(self, defaults, options)?;
                Ok(Decision { outcome: Outcome::Table, decided_at: None })
            }
            Operation::DeleteTable { table } => {
                let table = Some(table.into());
                let options = TableOptions { table, request_id, ..TableOptions::default() };
                let outcome = match (self.bug.delete_table)(self, options)? {
                    DeleteStatus::Ok => Outcome::Table,
                    DeleteStatus::NoTable => Outcome::NoTable,
                };
                Ok(Decision { outcome, decided_at: None })
            }
            Operation::Advance
            | Operation::RaiseFeatureLevel(_)
            | Operation::Access(_)
            | Operation::OpenSession(_)
            | Operation::KeepAlive(_)
            | Operation::CloseSession(_)
            | Operation::Leave(_)
            | Operation::SetLimit(_) => {
                panic!("no script asks for {operation:?}")
            }
        }
    }
}

impl LockService for Broken {
    async fn decide(&self, commands: Vec<Command>, call: CallOptions) -> Vec<Answer<Decision>> {
        let waits = commands.iter().any(|command| {
            matches!(&command.operation, Operation::Lock(lock) if lock.wait_ms > 0 && !lock.queued)
        });
        // Dropped with this call: so the thread hears that the caller has gone.
        let (caller, gone) = watch::channel(());
        let caller = waits.then_some(caller);
        let broken = Self { call, caller: caller.is_some().then_some(gone), ..self.clone() };
        let decide = move || -> Vec<_> {
            commands.into_iter().map(|command| broken.decide_wrongly(command)).collect()
        };
        if !waits {
            return decide();
        }
        let decisions = tokio::task::spawn_blocking(decide).await.expect("no mutation panics");
        drop(caller);
        decisions
    }

    async fn read(&self, query: Query, _: CallOptions) -> Answer<View> {
        let options = |table: Box<str>| ReadOptions {
            table: Some(table.into()),
            stale: query.stale,
            ..ReadOptions::default()
        };
        let Query { stale, principal, subject } = query;
        match subject {
            Subject::Lock { table, signature, places_after: 0 } => {
                (self.bug.check)(self, signature.into(), options(table)).map(View::Lock)
            }
            Subject::Locks { table, page } => {
                (self.bug.list)(self, page, options(table)).map(View::Locks)
            }
            Subject::Tables(page) => (self.bug.tables)(self, page).map(View::Tables),
            subject @ (Subject::Lock { .. }
            | Subject::Verify { .. }
            | Subject::SessionLocks(_)
            | Subject::Access(_)
            | Subject::Deadlocks) => (self.bug.read)(self, Query { stale, principal, subject }),
        }
    }

    fn defaults(&self) -> &ServiceOptions {
        &self.options
    }
}

impl DebugLockService for Broken {
    async fn advance_clock(&self, by: Duration) -> Answer<()> {
        (self.bug.advance_clock)(self, by)
    }
}

/// Changes a lock command before it is decided.
fn lock_changed(
    broken: &Broken,
    mut command: Command,
    change: impl FnOnce(&mut LockCommand),
) -> Answer<Decision> {
    if let Operation::Lock(lock) = &mut command.operation {
        change(lock);
    }
    (RIGHT.decide)(broken, command)
}

/// Changes a decision about a command of the second part.
fn decided(
    broken: &Broken,
    command: Command,
    change: impl FnOnce(&mut Outcome),
) -> Answer<Decision> {
    let mut decision = (RIGHT.decide)(broken, command)?;
    change(&mut decision.outcome);
    Ok(decision)
}

fn inbox_changed(outcome: &mut Outcome, change: impl Fn(&mut Vec<InboxItem>)) {
    if let Outcome::KeptAlive(states) = outcome {
        for state in states {
            if let Liveness::Alive { inbox, .. } = state {
                change(inbox);
            }
        }
    }
}

/// Mutations of waiting, modes, lock-delay, sessions and the operator's tools: one a rule.
const TURN_BUGS: &[Bug] = &[
    Bug {
        name: "nobody waits",
        decide: |broken, command| {
            lock_changed(broken, command, |lock| (lock.wait_ms, lock.queued) = (0, false))
        },
        ..RIGHT
    },
    Bug {
        name: "a wait never ends",
        decide: |broken, command| {
            lock_changed(broken, command, |lock| {
                lock.wait_ms = if lock.wait_ms > 0 { 60_000 } else { 0 };
            })
        },
        ..RIGHT
    },
    Bug {
        name: "the level of a place is ignored",
        decide: |broken, command| {
            lock_changed(broken, command, |lock| {
                lock.level = lock.level.filter(|_| lock.wait_ms == 0);
            })
        },
        ..RIGHT
    },
    Bug {
        name: "a difference in duration keeps the place",
        decide: |broken, command| {
            lock_changed(broken, command, |lock| {
                if lock.wait_ms > 0 && lock.session.is_none() {
                    lock.duration_ms = Some(10_000);
                }
            })
        },
        ..RIGHT
    },
    Bug {
        name: "a request barges in",
        lock: |broken, request, options| {
            let again = (request.clone(), options.clone());
            let response = broken.lock_rightly(request, options)?;
            let is_queued = response
                .forbidden()
                .is_some_and(|forbidden| forbidden.reason == ForbiddenReason::Queued);
            if is_queued {
                broken.lock_with(again.0, again.1, |_, options| options.force = true)
            } else {
                Ok(response)
            }
        },
        ..RIGHT
    },
    Bug {
        name: "modes are ignored",
        decide: |broken, command| {
            lock_changed(broken, command, |lock| (lock.mode, lock.limit) = (None, None))
        },
        ..RIGHT
    },
    Bug {
        name: "a reader overtakes a writer",
        decide: |broken, command| {
            lock_changed(broken, command, |lock| lock.force |= lock.mode == Some(Mode::Shared))
        },
        ..RIGHT
    },
    Bug {
        name: "an upgrade takes the lock from other readers",
        decide: |broken, command| {
            lock_changed(broken, command, |lock| lock.force |= lock.mode == Some(Mode::Exclusive))
        },
        ..RIGHT
    },
    Bug {
        name: "permits have no end",
        decide: |broken, command| {
            lock_changed(broken, command, |lock| lock.limit = lock.limit.map(|_| 1000))
        },
        ..RIGHT
    },
    Bug {
        name: "slots are not told",
        decide: |broken, command| {
            decided(broken, command, |outcome| {
                if let Outcome::Lock(LockStatus::Ok(grant) | LockStatus::Renewed(grant)) = outcome {
                    grant.slot = None;
                }
            })
        },
        ..RIGHT
    },
    Bug {
        name: "a limit is not changed",
        decide: |broken, command| {
            if let Operation::SetLimit(_) = command.operation {
                return Ok(Decision { outcome: Outcome::Limit, decided_at: None });
            }
            (RIGHT.decide)(broken, command)
        },
        ..RIGHT
    },
    Bug {
        name: "lock-delay is skipped",
        decide: |broken, command| lock_changed(broken, command, |lock| lock.lock_delay_ms = None),
        ..RIGHT
    },
    Bug {
        name: "a holder renews beyond the longest hold",
        decide: |broken, mut command| {
            if let Operation::ConfigureTable(table) = &mut command.operation {
                table.max_hold_ms = None;
            }
            (RIGHT.decide)(broken, command)
        },
        ..RIGHT
    },
    Bug {
        name: "a grant in a session lasts by itself",
        decide: |broken, command| {
            lock_changed(broken, command, |lock| {
                if lock.session.take().is_some() {
                    lock.duration_ms.get_or_insert(10_000);
                    lock.instance = Some("i".into());
                    if lock.signee.is_empty() {
                        lock.signee = "ann".into();
                    }
                }
            })
        },
        ..RIGHT
    },
    Bug {
        name: "a session is revived by a late keep-alive",
        decide: |broken, command| {
            decided(broken, command, |outcome| {
                if let Outcome::KeptAlive(states) = outcome {
                    for state in states.iter_mut().filter(|state| **state == Liveness::Lost) {
                        let valid = Duration::from_secs(10);
                        let (inbox, more, overflow) = (Vec::new(), false, false);
                        *state = Liveness::Alive { valid, inbox, more, overflow };
                    }
                }
            })
        },
        ..RIGHT
    },
    Bug {
        name: "an inbox is empty",
        decide: |broken, command| {
            decided(broken, command, |outcome| inbox_changed(outcome, Vec::clear))
        },
        ..RIGHT
    },
    Bug {
        name: "what was seen is told again",
        decide: |broken, mut command| {
            if let Operation::KeepAlive(sessions) = &mut command.operation {
                for seen in sessions {
                    seen.seen = None;
                }
            }
            (RIGHT.decide)(broken, command)
        },
        ..RIGHT
    },
    Bug {
        name: "a move is not told",
        decide: |broken, command| {
            decided(broken, command, |outcome| {
                inbox_changed(outcome, |inbox| {
                    inbox.retain(|item| {
                        !matches!(item.news, News::Lost { reason: Loss::Moved, .. })
                    });
                });
            })
        },
        ..RIGHT
    },
    Bug {
        name: "a closed session lives on",
        decide: |broken, command| {
            if let Operation::CloseSession(_) = command.operation {
                let outcome = Outcome::Closed(CloseStatus::Ok);
                return Ok(Decision { outcome, decided_at: None });
            }
            (RIGHT.decide)(broken, command)
        },
        ..RIGHT
    },
    Bug {
        name: "every token is live",
        read: |broken, query| {
            let view = (RIGHT.read)(broken, query)?;
            let View::Verify(verified) = view else { return Ok(view) };
            Ok(View::Verify(VerifyResponse { live: true, ..verified }))
        },
        ..RIGHT
    },
    Bug {
        name: "an operator releases whatever is held",
        decide: |broken, mut command| {
            if let Operation::Unlock(unlock) = &mut command.operation
                && unlock.force
                && let Some(holder) =
                    broken.holder(&unlock.signature, Some(&unlock.table.to_string()))
            {
                unlock.token = Some(holder.token);
            }
            (RIGHT.decide)(broken, command)
        },
        ..RIGHT
    },
    Bug {
        name: "unlock leaves no place",
        unlock: |broken, request, options| {
            let status = broken.unlock_rightly(request, options)?;
            let was_left = status.status == UnlockStatus::Left;
            let status_told = if was_left { UnlockStatus::NoLock } else { status.status };
            Ok(UnlockResponse { status: status_told, decided_at: status.decided_at })
        },
        ..RIGHT
    },
];

/// Whether a holder is the owner that asks.
fn is_mine(lock: &LockCommand, holder: &Holder) -> bool {
    *lock.signee == *holder.signee && lock.instance.as_deref() == holder.instance.as_deref()
}

fn refused(reason: ForbiddenReason, holders: Vec<Holder>) -> LockStatus {
    LockStatus::Failed(Forbidden::new(reason, holders))
}

/// Drops what an inbox tells, by what it is.
fn untold(broken: &Broken, command: Command, is_untold: fn(&News) -> bool) -> Answer<Decision> {
    decided(broken, command, |outcome| {
        inbox_changed(outcome, |inbox| inbox.retain(|item| !is_untold(&item.news)));
    })
}

/// Mutations of waiting: places, hand-over, barging, force and the ends of waits.
const QUEUE_BUGS: &[Bug] = &[
    Bug {
        name: "nobody is held until the end of its wait",
        decide: |broken, command| {
            lock_changed(broken, command, |lock| lock.queued = lock.wait_ms > 0)
        },
        ..RIGHT
    },
    Bug {
        name: "a wait is not counted into the validity",
        decide: |broken, command| {
            decided(broken, command, |outcome| {
                if let Outcome::Lock(LockStatus::Ok(grant)) = outcome {
                    grant.valid = grant.expires_in;
                }
            })
        },
        ..RIGHT
    },
    Bug {
        name: "a request that passed its place on waits with it",
        decide: |broken, command| {
            let again = command.clone();
            let decision = (RIGHT.decide)(broken, command)?;
            if let Outcome::Lock(LockStatus::Failed(forbidden)) = &decision.outcome
                && forbidden.reason == ForbiddenReason::Superseded
            {
                return (RIGHT.decide)(broken, Command { request_id: None, ..again });
            }
            Ok(decision)
        },
        ..RIGHT
    },
    Bug {
        name: "a queue knows no instances",
        before: |_, lock, _| {
            lock.instance = lock.instance.take().filter(|_| lock.wait_ms == 0);
            None
        },
        ..RIGHT
    },
    Bug {
        name: "a try takes its owner's place away",
        before: |broken, lock, _| {
            if lock.wait_ms == 0 && lock.session.is_none() {
                let places = broken.record(lock).map(|record| record.places).unwrap_or_default();
                if places.iter().any(|place| *place.signee == *lock.signee) {
                    broken.leave(lock);
                }
            }
            None
        },
        ..RIGHT
    },
    Bug {
        name: "a time-out comes before the end of a grant",
        before: |_, lock, _| {
            lock.wait_ms = lock.wait_ms.saturating_sub(1);
            None
        },
        ..RIGHT
    },
    Bug {
        name: "a lowered level hands nothing over",
        before: |broken, lock, _| {
            let record = broken.record(lock).filter(|record| record.waiting > 0)?;
            let mine = record.holders.iter().find(|holder| is_mine(lock, holder))?;
            lock.level = lock.level.map(|level| level.max(mine.level));
            None
        },
        ..RIGHT
    },
    Bug {
        name: "a holder that others wait for keeps its mode",
        before: |broken, lock, _| {
            let record = broken.record(lock).filter(|record| record.waiting > 0)?;
            record.holders.iter().find(|holder| is_mine(lock, holder))?;
            lock.mode = None;
            None
        },
        ..RIGHT
    },
    Bug {
        name: "a renewal is queued",
        before: |broken, lock, _| {
            let record = broken.record(lock).filter(|record| record.waiting > 0)?;
            let mine = |holder: &Holder| is_mine(lock, holder) && !holder.expired;
            let is_renewal = record.holders.iter().any(mine);
            is_renewal.then(|| refused(ForbiddenReason::Queued, record.holders))
        },
        ..RIGHT
    },
    Bug {
        name: "a former owner in its lock-delay is queued",
        before: |broken, lock, _| {
            let record = broken.record(lock).filter(|record| record.waiting > 0)?;
            let mine = |holder: &Holder| is_mine(lock, holder) && holder.expired;
            let is_former = record.holders.iter().any(mine);
            is_former.then(|| refused(ForbiddenReason::Queued, record.holders))
        },
        ..RIGHT
    },
    Bug {
        name: "force empties the queue",
        before: |broken, lock, _| {
            if lock.force {
                for place in broken.record(lock)?.places {
                    broken.end_place(lock, place.place);
                }
            }
            None
        },
        ..RIGHT
    },
    Bug {
        name: "force is queued",
        before: |broken, lock, _| {
            lock.force &= broken.record(lock).is_none_or(|record| record.waiting == 0);
            None
        },
        ..RIGHT
    },
    Bug {
        name: "a place preempts a grant that was taken by force",
        before: |broken, lock, _| {
            let places = broken.record(lock)?.places;
            let preempts = |level: i64| level > lock.level.unwrap_or(0);
            let first = places.first().filter(|first| lock.force && preempts(first.level))?;
            lock.level = Some(first.level);
            lock.signee = first.signee.as_str().into();
            None
        },
        ..RIGHT
    },
    Bug {
        name: "nobody waits for more than a minute, in a session neither",
        before: |_, lock, _| {
            lock.wait_ms = lock.wait_ms.min(60_001);
            None
        },
        ..RIGHT
    },
    Bug {
        name: "asking again does not move the end of a wait",
        before: |broken, lock, id| {
            let mut notes = broken.notes.lock().unwrap();
            if notes.asked.insert(id?, lock.clone()).is_some() && lock.wait_ms > 0 {
                lock.wait_ms = 1;
            }
            None
        },
        ..RIGHT
    },
    Bug {
        name: "a later request of a lane ends the place of the one before",
        before: |broken, lock, id| {
            let RequestId { lane, seq } = id?;
            let mut notes = broken.notes.lock().unwrap();
            notes.asked.insert(RequestId { lane, seq }, lock.clone());
            let before = notes.asked.get(&RequestId { lane, seq: seq.wrapping_sub(1) }).cloned();
            drop(notes);
            broken.leave(&before?);
            None
        },
        ..RIGHT
    },
    Bug {
        name: "every refusal is that the lock is held",
        decide: |broken, command| {
            decided(broken, command, |outcome| {
                if let Outcome::Lock(LockStatus::Failed(forbidden)) = outcome {
                    forbidden.reason = ForbiddenReason::Held;
                }
            })
        },
        ..RIGHT
    },
];

/// Mutations of modes and of lock-delay.
const MODE_BUGS: &[Bug] = &[
    Bug {
        name: "who joins others takes the lock over",
        decide: |broken, command| {
            decided(broken, command, |outcome| {
                let Outcome::Lock(status) = outcome else { return };
                if let LockStatus::Ok(grant) = status
                    && grant.mode == Mode::Shared
                {
                    let (grant, reason) = (grant.clone(), TransferReason::Expired);
                    let previous_signee = String::from("nobody");
                    *status = LockStatus::Transferred { grant, previous_signee, reason };
                }
            })
        },
        ..RIGHT
    },
    Bug {
        name: "a take-over from several names the oldest",
        lock: |broken, request, options| {
            let read = ReadOptions { table: options.table.clone(), ..ReadOptions::default() };
            let before = broken.check_rightly(request.signature.clone(), read);
            let mut response = broken.lock_rightly(request, options)?;
            if let LockStatus::Transferred { previous_signee, .. } = &mut response.status
                && let Ok(before) = before
                && let Some(oldest) = before.record.holders.first()
            {
                previous_signee.clone_from(&oldest.signee);
            }
            Ok(response)
        },
        ..RIGHT
    },
    Bug {
        name: "a holder changes to any mode",
        before: |broken, lock, _| {
            let record = broken.record(lock)?;
            let mine = record.holders.iter().find(|holder| is_mine(lock, holder))?;
            if lock.mode.is_some_and(|mode| mode == Mode::Permits && mode != mine.mode) {
                broken.leave(lock);
            }
            None
        },
        ..RIGHT
    },
    Bug {
        name: "an upgrade waits",
        before: |broken, lock, _| {
            let record = broken.record(lock)?;
            let mine = record.holders.iter().find(|holder| is_mine(lock, holder))?;
            if lock.mode == Some(Mode::Exclusive) && mine.mode == Mode::Shared && lock.wait_ms > 0 {
                broken.leave(lock);
            }
            None
        },
        ..RIGHT
    },
    Bug {
        name: "a permit changes its slot",
        decide: |broken, command| {
            decided(broken, command, |outcome| {
                if let Outcome::Lock(LockStatus::Renewed(grant)) = outcome {
                    grant.slot = grant.slot.map(|slot| slot + 1);
                }
            })
        },
        ..RIGHT
    },
    Bug {
        name: "a slot is given once",
        decide: |broken, command| {
            decided(broken, command, |outcome| {
                if let Outcome::Lock(LockStatus::Ok(grant)) = outcome
                    && let Some(slot) = &mut grant.slot
                {
                    let mut notes = broken.notes.lock().unwrap();
                    *slot = u32::try_from(notes.count).unwrap();
                    notes.count += 1;
                }
            })
        },
        ..RIGHT
    },
    Bug {
        name: "a limit is not compared",
        before: |broken, lock, _| {
            lock.limit = broken.record(lock).and_then(|record| record.limit).or(lock.limit);
            None
        },
        ..RIGHT
    },
    Bug {
        name: "every lock has a limit to change",
        decide: |broken, command| {
            decided(broken, command, |outcome| {
                if *outcome == Outcome::NoLimit {
                    *outcome = Outcome::Limit;
                }
            })
        },
        ..RIGHT
    },
    Bug {
        name: "a table's lock-delay is forgotten",
        decide: |broken, mut command| {
            if let Operation::ConfigureTable(table) = &mut command.operation {
                table.lock_delay_ms = None;
            }
            (RIGHT.decide)(broken, command)
        },
        ..RIGHT
    },
    Bug {
        name: "a renewal ends the lock-delay",
        before: |broken, lock, _| {
            let record = broken.record(lock)?;
            record.holders.iter().find(|holder| is_mine(lock, holder) && !holder.expired)?;
            lock.lock_delay_ms = lock.lock_delay_ms.or(Some(0));
            None
        },
        ..RIGHT
    },
    Bug {
        name: "a lock-delay keeps readers from a reader",
        before: |broken, lock, _| {
            let record = broken.record(lock)?;
            let first = record.holders.first()?;
            let delays = first.expired && first.mode == Mode::Shared && !is_mine(lock, first);
            delays.then(|| refused(ForbiddenReason::Delay, record.holders))
        },
        ..RIGHT
    },
    Bug {
        name: "a late release does not end the lock-delay",
        unlock: |broken, request, options| {
            let holder = broken.holder(&request.signature, options.table.as_ref());
            if holder.is_some_and(|holder| holder.expired) {
                return Ok(UnlockResponse { status: UnlockStatus::Ok, decided_at: None });
            }
            broken.unlock_rightly(request, options)
        },
        ..RIGHT
    },
    Bug {
        name: "a higher level ends a lock-delay",
        before: |broken, lock, _| {
            let record = broken.record(lock)?;
            let first = record.holders.first()?;
            lock.force |= first.expired && lock.level.unwrap_or(0) > first.level;
            None
        },
        ..RIGHT
    },
    Bug {
        name: "force waits for the end of a lock-delay",
        before: |broken, lock, _| {
            let record = broken.record(lock)?;
            lock.force &= !record.holders.first()?.expired;
            None
        },
        ..RIGHT
    },
];

/// Mutations of sessions and their inboxes.
const SESSION_BUGS: &[Bug] = &[
    Bug {
        name: "a session lives twice as long",
        decide: |broken, mut command| {
            if let Operation::OpenSession(session) = &mut command.operation {
                session.ttl_ms = (session.ttl_ms * 2).min(86_400_000);
            }
            (RIGHT.decide)(broken, command)
        },
        ..RIGHT
    },
    Bug {
        name: "a repetition opens another session",
        decide: |broken, mut command| {
            if let Operation::OpenSession(_) = command.operation {
                command.request_id = None;
            }
            (RIGHT.decide)(broken, command)
        },
        ..RIGHT
    },
    Bug {
        name: "all sessions of a signee are one owner",
        decide: |broken, mut command| {
            if let Operation::OpenSession(session) = &mut command.operation {
                session.instance.get_or_insert_with(|| "one".into());
            }
            (RIGHT.decide)(broken, command)
        },
        ..RIGHT
    },
    Bug {
        name: "a lock request keeps its session alive",
        before: |broken, lock, _| {
            let seen = vec![Seen { session: lock.session?, seen: None }];
            now(broken.locks.keep_alive(seen, CallOptions::default())).unwrap();
            None
        },
        ..RIGHT
    },
    Bug {
        name: "an unknown session is no hindrance",
        decide: |broken, command| {
            let mut again = command.clone();
            let decision = (RIGHT.decide)(broken, command)?;
            if let Outcome::Lock(LockStatus::Failed(forbidden)) = &decision.outcome
                && forbidden.reason == ForbiddenReason::SessionLost
                && let Operation::Lock(lock) = &mut again.operation
            {
                (lock.session, lock.signee) = (None, "nobody".into());
                return (RIGHT.decide)(broken, Command { request_id: None, ..again });
            }
            Ok(decision)
        },
        ..RIGHT
    },
    Bug {
        name: "a renewal by token leaves its session",
        lock: |broken, request, options| {
            broken.lock_with(request, options, |_, options| {
                if options.token.take().is_some() {
                    options.duration = options.duration.or(Some(Duration::from_secs(20)));
                }
            })
        },
        ..RIGHT
    },
    Bug {
        name: "a place that moves loses its position",
        before: |broken, lock, _| {
            lock.session.filter(|_| lock.wait_ms > 0)?;
            let record = broken.record(lock)?;
            let first = record.places.first()?;
            let (signee, instance) = (first.signee.as_str().into(), first.instance.clone());
            let instance = instance.map(Into::into);
            broken.leave(&LockCommand { signee, instance, ..lock.clone() });
            None
        },
        ..RIGHT
    },
    Bug {
        name: "a session's grant is removed with it",
        before: |_, lock, _| {
            lock.time_to_live = lock.time_to_live.filter(|_| lock.session.is_none());
            None
        },
        ..RIGHT
    },
    Bug {
        name: "a grant of a place is not told",
        decide: |broken, command| {
            untold(broken, command, |news| matches!(news, News::Granted { .. }))
        },
        ..RIGHT
    },
    Bug {
        name: "the end of a place is not told",
        decide: |broken, command| untold(broken, command, |news| matches!(news, News::Ended(_))),
        ..RIGHT
    },
    Bug {
        name: "a loss by force is not told",
        decide: |broken, command| {
            untold(broken, command, |news| matches!(news, News::Lost { reason: Loss::Forced, .. }))
        },
        ..RIGHT
    },
    Bug {
        name: "a loss to a higher level is not told",
        decide: |broken, command| {
            untold(broken, command, |news| {
                matches!(news, News::Lost { reason: Loss::Preempted, .. })
            })
        },
        ..RIGHT
    },
    Bug {
        name: "an operator's release is not told",
        decide: |broken, command| {
            untold(broken, command, |news| {
                matches!(news, News::Lost { reason: Loss::Released, .. })
            })
        },
        ..RIGHT
    },
    Bug {
        name: "the end of the longest hold is not told",
        decide: |broken, command| {
            untold(broken, command, |news| matches!(news, News::Lost { reason: Loss::Expired, .. }))
        },
        ..RIGHT
    },
    Bug {
        name: "a deleted table is not told",
        decide: |broken, command| {
            untold(broken, command, |news| {
                matches!(
                    news,
                    News::Lost { reason: Loss::TableDeleted, .. }
                        | News::Ended(ForbiddenReason::TableDeleted)
                )
            })
        },
        ..RIGHT
    },
    Bug {
        name: "an inbox knows no instances",
        decide: |broken, command| {
            decided(broken, command, |outcome| {
                inbox_changed(outcome, |inbox| {
                    let mut latest = BTreeMap::new();
                    for item in inbox.drain(..) {
                        let owner = (item.signature.clone(), item.signee.clone());
                        latest.insert(owner, item);
                    }
                    inbox.extend(latest.into_values());
                    inbox.sort_by_key(|item| item.position);
                });
            })
        },
        ..RIGHT
    },
    Bug {
        name: "a told grant has no level",
        decide: |broken, command| {
            decided(broken, command, |outcome| {
                inbox_changed(outcome, |inbox| {
                    for item in inbox {
                        if let News::Granted { level, .. } = &mut item.news {
                            *level = 0;
                        }
                    }
                });
            })
        },
        ..RIGHT
    },
];

/// Mutations of reading queues and sessions, and of an operator's release.
const LOOK_BUGS: &[Bug] = &[
    Bug {
        name: "a check shows no places",
        check: |broken, signature, options| {
            let mut response = broken.check_rightly(signature, options)?;
            response.record.places.clear();
            Ok(response)
        },
        ..RIGHT
    },
    Bug {
        name: "every place has only begun to wait",
        check: |broken, signature, options| {
            let mut response = broken.check_rightly(signature, options)?;
            for place in &mut response.record.places {
                place.since = Duration::ZERO;
            }
            Ok(response)
        },
        ..RIGHT
    },
    Bug {
        name: "places are shown from the first on",
        read: |broken, mut query| {
            if let Subject::Lock { places_after, .. } = &mut query.subject {
                *places_after = 0;
            }
            (RIGHT.read)(broken, query)
        },
        ..RIGHT
    },
    Bug {
        name: "a list does not count who waits",
        list: |broken, request, options| {
            let mut page = now(broken.locks.list(request, options))?;
            for record in &mut page.locks {
                record.waiting = 0;
            }
            Ok(page)
        },
        ..RIGHT
    },
    Bug {
        name: "no deadlock is found",
        read: |broken, query| {
            let mut view = (RIGHT.read)(broken, query)?;
            if let View::Deadlocks(found) = &mut view {
                found.cycles.clear();
            }
            Ok(view)
        },
        ..RIGHT
    },
    Bug {
        name: "a session's places are not listed",
        read: |broken, query| {
            let mut view = (RIGHT.read)(broken, query)?;
            if let View::SessionLocks(page) = &mut view {
                page.locks.retain(|lock| !lock.holders.is_empty());
            }
            Ok(view)
        },
        ..RIGHT
    },
    Bug {
        name: "a session's locks are listed on one page",
        read: |broken, mut query| {
            if let Subject::SessionLocks(page) = &mut query.subject {
                page.limit = 1000;
            }
            (RIGHT.read)(broken, query)
        },
        ..RIGHT
    },
    Bug {
        name: "verify knows no slot",
        read: |broken, query| {
            let mut view = (RIGHT.read)(broken, query)?;
            if let View::Verify(verified) = &mut view
                && let Some(holder) = &mut verified.holder
            {
                holder.slot = None;
            }
            Ok(view)
        },
        ..RIGHT
    },
    Bug {
        name: "an operator ends the first place",
        decide: |broken, mut command| {
            if let Operation::Unlock(unlock) = &mut command.operation
                && let Some(place) = &mut unlock.place
            {
                let lock = LockCommand {
                    table: unlock.table.clone(),
                    signature: unlock.signature.clone(),
                    ..LockCommand::default()
                };
                let places = broken.record(&lock).map(|record| record.places).unwrap_or_default();
                *place = places.first().map_or(*place, |first| first.place);
            }
            (RIGHT.decide)(broken, command)
        },
        ..RIGHT
    },
    Bug {
        name: "a deleted table closes the sessions in it",
        delete_table: |broken, options| {
            let read = ReadOptions { table: options.table.clone(), ..ReadOptions::default() };
            let page = ListRequest { limit: 1000, ..ListRequest::default() };
            for record in now(broken.locks.list(page, read)).into_iter().flat_map(|page| page.locks)
            {
                for session in record.holders.iter().filter_map(|holder| holder.session) {
                    let close = broken.locks.close_session(session, SessionOptions::default());
                    now(close).unwrap();
                }
            }
            now(broken.locks.delete_table(options))
        },
        ..RIGHT
    },
];

struct BrokenBootstrap {
    bug: Bug,
    locks: MemoryLocks,
    notes: Arc<Mutex<Notes>>,
}

impl BrokenBootstrap {
    fn new(bug: Bug) -> Self {
        let locks = MemoryLocks::with_clock(Arc::new(ManualClock::default()));
        Self { bug, locks, notes: Arc::default() }
    }
}

impl Bootstrap for BrokenBootstrap {
    type Service = Broken;

    async fn open(&self, options: ServiceOptions) -> Answer<Broken> {
        let (locks, notes) = (self.locks.clone(), Arc::clone(&self.notes));
        let (bug, options) = (self.bug, (self.bug.open)(options));
        let (call, caller) = (CallOptions::default(), None);
        Ok(Broken { bug, options, locks, notes, call, caller })
    }

    async fn close(&self, _service: Broken) -> Answer<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_suite_passes_the_same_wrapper_without_a_bug() {
    let report = run(BrokenBootstrap::new(RIGHT), Options::default()).await;
    assert!(report.passed(), "{report}");
}

/// The number of services that are tried at a time.
const SIDE_BY_SIDE: usize = 128;

/// The scripts that take thousands of requests, or many seconds, and the mutations that need them.
const OF_THEIR_OWN: [(&str, &[Bug]); 3] = [
    ("42-callers-that-are-gone", GONE_BUGS),
    ("43-bounds", BOUND_BUGS),
    ("44-thousands", THOUSANDS_BUGS),
];

/// The scripts that reject each wrong service, by its name.
pub(super) type Rejected = BTreeMap<&'static str, Vec<String>>;

/// The scripts that a mutation is tried on.
fn scripts_for(bug: &Bug) -> Options {
    let mut options = Options::default();
    let is_one_of = |bugs: &[Bug]| bugs.iter().any(|one| one.name == bug.name);
    let own = OF_THEIR_OWN.iter().find(|(_, bugs)| is_one_of(bugs)).map(|(script, _)| *script);
    options.scripts.retain(|script| match own {
        Some(own) => script.name == own,
        None => OF_THEIR_OWN.iter().all(|(heavy, _)| script.name != *heavy),
    });
    options
}

#[tokio::test]
async fn the_suite_rejects_every_broken_service() {
    let first = [LOCK_BUGS, TOKEN_BUGS, UNLOCK_BUGS, TIME_BUGS, READ_BUGS];
    let second = [TURN_BUGS, QUEUE_BUGS, MODE_BUGS, SESSION_BUGS, LOOK_BUGS];
    let third = [BOUND_BUGS, GONE_BUGS, OTHER_BUGS, THOUSANDS_BUGS];
    let bugs = [&third[..], &first, &second].concat().concat();
    let mut rejected = Rejected::new();
    // Side by side: some of them never answer, which the suite finds out by waiting.
    let reports = futures::stream::iter(bugs).map(async |bug| {
        let report = run(BrokenBootstrap::new(bug), scripts_for(&bug)).await;
        (bug.name, report)
    });
    let mut reports = std::pin::pin!(reports.buffered(SIDE_BY_SIDE));
    while let Some((name, report)) = reports.next().await {
        let failed: Vec<_> = report.failures().map(|result| result.name.clone()).collect();
        println!("{name}: rejected by {}", failed.join(", "));
        assert!(rejected.insert(name, failed).is_none(), "two are called {name}");
    }
    let missed: Vec<_> = rejected.iter().filter(|(_, by)| by.is_empty()).collect();
    assert!(missed.is_empty(), "not rejected: {missed:#?}");
    let unproven = rules::unproven(&rejected);
    assert!(unproven.is_empty(), "rules without a wrong service: {unproven:#?}");
}
