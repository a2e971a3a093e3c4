//! Services that are wrong about callers that go away, and about the bounds.

use std::time::Duration;

use keyward_core::error::Error;
use keyward_core::lock::{Command, Decision, LockCommand, Operation, Outcome, Query, View};
use keyward_core::service::LockService as _;
use keyward_core::types::{
    CallOptions, DecidedAt, ForbiddenReason, LEAVE_AFTER, Liveness, LockStatus, ReadOptions,
    TransferReason, UnlockStatus, Waiting,
};

use super::{Answer, Broken, Bug, RIGHT, decided, is_mine, now, refused};

impl Broken {
    /// Decides rightly, then has the caller's place left if it has gone and this is so.
    fn leave_if_gone(
        &self,
        command: Command,
        after: Duration,
        is_left: fn(&LockCommand) -> bool,
    ) -> Answer<Decision> {
        let Operation::Lock(lock) = command.operation.clone() else {
            return (RIGHT.decide)(self, command);
        };
        let answer = (RIGHT.decide)(self, command);
        if self.is_gone() && is_left(&lock) {
            now(tokio::time::sleep(after));
            self.leave(&lock);
        }
        answer
    }
}

/// Mutations of what becomes of a request whose caller goes away.
pub(super) const GONE_BUGS: &[Bug] = &[
    Bug {
        name: "a caller that goes away keeps its place",
        decide: |broken, command| now(broken.locks.decide_one(command, broken.call.clone())),
        ..RIGHT
    },
    Bug {
        name: "a place goes at once with its caller",
        decide: |broken, command| {
            broken.leave_if_gone(command, Duration::ZERO, |lock| lock.session.is_none())
        },
        ..RIGHT
    },
    Bug {
        name: "a place that was asked for again goes with its first caller",
        decide: |broken, command| {
            broken.leave_if_gone(command, LEAVE_AFTER, |lock| lock.session.is_none())
        },
        ..RIGHT
    },
    Bug {
        name: "a place in a session goes with its caller",
        decide: |broken, command| {
            broken.leave_if_gone(command, LEAVE_AFTER, |lock| lock.session.is_some())
        },
        ..RIGHT
    },
    Bug {
        name: "a grant of a caller that has gone stays",
        decide: |broken, command| {
            let Some(mut caller) = broken.caller.clone() else {
                return (RIGHT.decide)(broken, command);
            };
            let deciding = broken.locks.decide_one(command, broken.call.clone());
            // A grant that comes in time is an answer, and so nobody's to release.
            now(async move {
                tokio::select! {
                    decision = deciding => decision,
                    () = async {
                        let _ = caller.changed().await;
                        tokio::time::sleep(LEAVE_AFTER).await;
                    } => Err(Error::unknown("the caller has gone")),
                }
            })
        },
        ..RIGHT
    },
];

/// Mutations of the bounds, and of rules that take many requests to show.
pub(super) const BOUND_BUGS: &[Bug] = &[
    Bug {
        name: "only the first portion of a queue is handed over",
        unlock: |broken, request, options| {
            let read = ReadOptions { table: options.table.clone(), ..ReadOptions::default() };
            let lock = LockCommand {
                table: options.table.clone().unwrap_or_default().into(),
                signature: request.signature.as_str().into(),
                ..LockCommand::default()
            };
            let signature = request.signature.clone();
            // Before the rest is worked off, which any other request does.
            loop {
                let query = Query::check_places(signature.clone(), 256, &read);
                let view = now(broken.locks.read(query, CallOptions::default()));
                let Ok(rest) = view.and_then(View::into_check) else { break };
                let is_shared = |place: &&keyward_core::types::Place| place.signee.starts_with('r');
                let Some(last) = rest.record.places.iter().find(is_shared) else { break };
                broken.end_place(&lock, last.place);
            }
            broken.unlock_rightly(request, options)
        },
        ..RIGHT
    },
    Bug {
        name: "a limit ends at a thousand",
        decide: |broken, command| {
            if let Operation::Lock(lock) = &command.operation
                && lock.limit.is_some_and(|limit| (1001..=65_535).contains(&limit))
            {
                return Err(Error::bad_request("the limit is too large"));
            }
            (RIGHT.decide)(broken, command)
        },
        ..RIGHT
    },
    Bug {
        name: "levels have 32 bits",
        before: |_, lock, _| {
            let bits = |level: i64| level.clamp(i32::MIN.into(), i32::MAX.into());
            lock.level = lock.level.map(bits);
            None
        },
        ..RIGHT
    },
    Bug {
        name: "long names are cut",
        before: |_, lock, _| {
            let cut: String = lock.signee.chars().take(255).collect();
            lock.signee = cut.into();
            None
        },
        ..RIGHT
    },
    Bug {
        name: "a lock counts how often it was taken",
        unlock: |broken, request, options| {
            let taken = {
                let mut notes = broken.notes.lock().unwrap();
                notes.count = notes.count.saturating_sub(1);
                notes.count
            };
            let mut response = broken.unlock_rightly(request, options)?;
            if taken > 0 && response.status == UnlockStatus::Ok {
                response.status = UnlockStatus::NoLock;
            }
            Ok(response)
        },
        lock: |broken, request, options| {
            let is_counted = request.signature == "j";
            let response = broken.lock_rightly(request, options)?;
            broken.notes.lock().unwrap().count += u64::from(is_counted && response.ok());
            Ok(response)
        },
        ..RIGHT
    },
];

/// Mutations of the bounds that only thousands of requests reach.
pub(super) const THOUSANDS_BUGS: &[Bug] = &[
    Bug {
        name: "a queue has no bound",
        decide: |broken, command| {
            decided(broken, command, |outcome| {
                if let Outcome::Lock(LockStatus::Failed(forbidden)) = outcome
                    && forbidden.reason == ForbiddenReason::QueueFull
                {
                    *outcome = Outcome::Lock(LockStatus::Waiting(Waiting {
                        place: DecidedAt { index: 1, position: 0 },
                        position: 10_001,
                        ends_in: Duration::from_secs(60),
                    }));
                }
            })
        },
        ..RIGHT
    },
    Bug {
        name: "a full queue keeps its holder from renewing",
        before: |broken, lock, _| {
            let record = broken.record(lock).filter(|record| record.waiting >= 10_000)?;
            let is_full = record.holders.iter().any(|holder| is_mine(lock, holder));
            is_full.then(|| refused(ForbiddenReason::QueueFull, record.holders))
        },
        ..RIGHT
    },
    Bug {
        name: "a check shows every place",
        check: |broken, signature, options| {
            let mut response = broken.check_rightly(signature.clone(), options.clone())?;
            let query = Query::check_places(signature, 100, &options);
            let more = now(broken.locks.read(query, CallOptions::default()))?.into_check()?;
            response.record.places.extend(more.record.places);
            Ok(response)
        },
        ..RIGHT
    },
    Bug {
        name: "an inbox never says that there is more",
        decide: |broken, command| {
            decided(broken, command, |outcome| {
                if let Outcome::KeptAlive(states) = outcome {
                    for state in states {
                        if let Liveness::Alive { more, overflow, .. } = state {
                            (*more, *overflow) = (false, false);
                        }
                    }
                }
            })
        },
        ..RIGHT
    },
];

/// Mutations of rules that the scripts before had, and no wrong service.
pub(super) const OTHER_BUGS: &[Bug] = &[
    Bug {
        name: "a wait is counted into the duration",
        decide: |broken, mut command| {
            if let Operation::Lock(lock) = &mut command.operation
                && lock.wait_ms > 0
            {
                lock.duration_ms = lock.duration_ms.map(|duration| duration.saturating_sub(1000));
            }
            (RIGHT.decide)(broken, command)
        },
        ..RIGHT
    },
    Bug {
        name: "a preempted permit is the oldest",
        decide: |broken, command| {
            let before = if let Operation::Lock(lock) = &command.operation {
                broken.record(lock)
            } else {
                None
            };
            decided(broken, command, |outcome| {
                if let Outcome::Lock(LockStatus::Transferred { previous_signee, reason, .. }) =
                    outcome
                    && *reason != TransferReason::Expired
                    && let Some(oldest) = before.as_ref().and_then(|record| record.holders.first())
                    && oldest.slot.is_some()
                {
                    previous_signee.clone_from(&oldest.signee);
                }
            })
        },
        ..RIGHT
    },
    Bug {
        name: "token and wait_ms go together",
        decide: |broken, mut command| {
            if let Operation::Lock(lock) = &mut command.operation
                && (lock.token.is_some() || lock.force)
            {
                (lock.wait_ms, lock.queued) = (0, false);
            }
            (RIGHT.decide)(broken, command)
        },
        ..RIGHT
    },
    Bug {
        name: "a place outlives its session",
        before: |_, lock, _| {
            if lock.wait_ms > 0 && lock.wait_ms <= 60_000 && lock.session.take().is_some() {
                lock.duration_ms = Some(5_000);
                lock.instance = lock.instance.take().or_else(|| Some("i".into()));
                if lock.signee.is_empty() {
                    lock.signee = "gil".into();
                }
            }
            None
        },
        ..RIGHT
    },
];
