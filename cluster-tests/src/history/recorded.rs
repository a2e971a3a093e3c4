//! A lock service whose calls are recorded, and the translation of the contract's answers.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use keyward::Error;
use keyward::lock::{
    self, Command, Decision, Keep, LockCommand, Operation, Query, Subject, UnlockCommand, View,
};
use keyward::service::{LockService, ServiceOptions};
use keyward::types::{
    CallOptions, CheckResponse, DEFAULT_DURATION, DecidedAt, Forbidden, Holder, KEPT_AFTER_EXPIRY,
    LockStatus, RequestId, Token, UnlockStatus,
};
use smol_str::SmolStr;

use crate::limits;

use super::{
    Action, Answer, Call, Granted, HolderSeen, LockAction, LockName, OpenWrites, Outcome, Recorder,
    Refusal, Status, UnlockAction,
};

/// One client of a service, with every lock, unlock and check recorded. Retries that the service
/// makes by itself are part of one operation.
///
/// Use one for each task: a client has one request (or batch) in flight at a time, except for those
/// that were never answered. Tables must have no defaults of their own, and must not be deleted
/// while the history is recorded: neither is in it.
#[derive(Debug)]
pub struct Recorded<S> {
    service: S,
    recorder: Recorder,
    client: SmolStr,
    node: Option<SmolStr>,
    lanes: Lanes,
    last: Mutex<Last>,
    open: Option<OpenWrites>,
}

/// The last assigned id, and whether the service knows its lane: until it has judged a request on
/// it, a higher number is refused for ever.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Last {
    id: RequestId,
    judged: bool,
}

impl Last {
    fn before(lane: u128) -> Mutex<Self> {
        Mutex::new(Self { id: RequestId { lane, seq: 0 }, judged: true })
    }
}

/// The lanes of the ids that are assigned to requests without one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lanes {
    None,
    /// One lane for all: a request invalidates those before it.
    One,
    /// A lane for each request.
    Each,
}

impl<S> Recorded<S> {
    /// Records the requests of this client.
    pub fn new(service: S, recorder: Recorder, client: impl Into<SmolStr>) -> Self {
        Self {
            service,
            recorder,
            client: client.into(),
            node: None,
            lanes: Lanes::None,
            last: Last::before(0),
            open: None,
        }
    }

    /// Assigns a request id of this lane to each write that has none, so that it can be found in
    /// the service's log.
    #[must_use]
    pub fn with_lane(mut self, lane: u128) -> Self {
        self.lanes = Lanes::One;
        self.last = Last::before(lane);
        self
    }

    /// As [`Recorded::with_lane`], with a lane for each request, so that several may be in flight.
    #[must_use]
    pub fn with_lanes(mut self, first: u128) -> Self {
        self.lanes = Lanes::Each;
        self.last = Last::before(first);
        self
    }

    /// Keeps the writes there that are never answered, so that they can be repeated. A lane with
    /// such a write is abandoned for the next, as [`keyward::Client`] does by itself.
    #[must_use]
    pub fn with_open_writes(mut self, open: OpenWrites) -> Self {
        self.open = Some(open);
        self
    }

    /// Records the node to which this client sends requests first.
    #[must_use]
    pub fn with_node(mut self, node: impl Into<SmolStr>) -> Self {
        self.node = Some(node.into());
        self
    }

    /// The service underneath, for calls that are not to be recorded.
    pub fn service(&self) -> &S {
        &self.service
    }

    /// The recorder.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    fn begin(&self, action: Action, request_id: Option<RequestId>) -> Call {
        let call = self.recorder.begin(self.client.clone(), action).with_request_id(request_id);
        match &self.node {
            Some(node) => call.with_node(node.clone()),
            None => call,
        }
    }

    fn begin_write(&self, command: &Command) -> Option<Write<'_>> {
        let action = if let Operation::Lock(command) = &command.operation {
            Action::Lock(asked_lock(command))
        } else if let Operation::Unlock(command) = &command.operation {
            Action::Unlock(asked_unlock(command))
        } else {
            // Not in the history.
            return None;
        };
        let id = command.request_id;
        let open = self.open.as_ref().zip(id).map(|(writes, id)| {
            let is_first = writes.asked(id, command.clone());
            Open { writes, id, is_first }
        });
        Some(Write { call: self.begin(action, id), id, open })
    }

    fn name(&self, id: &mut Option<RequestId>) {
        if id.is_some() || self.lanes == Lanes::None {
            return;
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let RequestId { lane, seq } = last.id;
        let is_open = self.open.as_ref().is_some_and(|open| open.holds(last.id));
        if is_open || !last.judged || self.lanes == Lanes::Each {
            *last = Last { id: RequestId { lane: lane.wrapping_add(1), seq: 1 }, judged: false };
        } else {
            let judged = seq > 0;
            *last = Last { id: RequestId { lane, seq: seq + 1 }, judged };
        }
        *id = Some(last.id);
    }

    /// Updates the lane after a write has ended.
    fn ended<T>(&self, id: Option<RequestId>, result: &Result<T, Error>) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if id.is_none_or(|id| id.lane != last.id.lane) {
            return;
        }
        match result {
            Ok(_) => last.judged = true,
            Err(Error::LaneForgotten { .. }) => last.judged = false,
            Err(_) => {}
        }
    }
}

/// A write that has begun.
struct Write<'a> {
    call: Call,
    id: Option<RequestId>,
    open: Option<Open<'a>>,
}

struct Open<'a> {
    writes: &'a OpenWrites,
    id: RequestId,
    is_first: bool,
}

impl Write<'_> {
    fn finish(self, outcome: Outcome, decided_at: Option<DecidedAt>) {
        if let Some(Open { writes, id, is_first }) = self.open {
            let is_known = match &outcome {
                Outcome::Ok(_) | Outcome::Refused(_) => true,
                // An earlier copy of it may still be done.
                Outcome::Unavailable => is_first,
                Outcome::Unknown => false,
            };
            if is_known {
                writes.answered(id);
            }
        }
        self.call.finish(outcome, decided_at);
    }
}

impl<S: LockService> LockService for Recorded<S> {
    async fn decide(
        &self,
        mut commands: Vec<Command>,
        call: CallOptions,
    ) -> Vec<Result<Decision, Error>> {
        let is_write =
            |operation: &Operation| matches!(operation, Operation::Lock(_) | Operation::Unlock(_));
        for command in &mut commands {
            if is_write(&command.operation) {
                self.name(&mut command.request_id);
            }
        }
        let writes: Vec<_> = commands.iter().map(|command| self.begin_write(command)).collect();
        let of_call = limits::of_call(&call);
        let values = |command| [limits::of_command(command), of_call.clone()].concat();
        let values: Vec<_> = commands.iter().map(values).collect();
        let (size, bytes) = (commands.len(), commands.iter().map(bytes_of).sum::<usize>());
        let answers = self.service.decide(commands, call).await;
        let reach = self.recorder.reach();
        let mut answered = 0;
        // If a service returns too few answers, the others are unknown.
        for ((write, values), answer) in writes.into_iter().zip(values).zip(&answers) {
            answered += usize::from(answer.is_ok());
            let Some(write) = write else { continue };
            let (outcome, decided_at) = match answer {
                Ok(Decision { outcome, decided_at }) => (decided(outcome), *decided_at),
                Err(error) => (failed(error), None),
            };
            self.ended(write.id, answer);
            reach.note(&values, &outcome);
            write.finish(outcome, decided_at);
        }
        if answered == size && size > 0 {
            let size = i128::try_from(size).unwrap_or(i128::MAX);
            reach.note(&[(limits::BATCH, size)], &Outcome::Ok(Answer::Released));
            let most = u64::try_from(limits::BATCH_BYTES.largest).unwrap_or(u64::MAX);
            reach.worked(limits::BATCH_BYTES, bytes as u64, most);
        }
        answers
    }

    async fn read(&self, query: Query, call: CallOptions) -> Result<View, Error> {
        let checked = match &query.subject {
            Subject::Lock { table, signature, .. } => {
                let lock = LockName::new(&**table, &**signature);
                let action =
                    if query.stale { Action::StaleCheck(lock) } else { Action::Check(lock) };
                Some(self.begin(action, None))
            }
            // Pages are not in the history, nor are reads that no model judges yet.
            Subject::Locks { .. }
            | Subject::Tables(_)
            | Subject::Verify { .. }
            | Subject::SessionLocks(_)
            | Subject::Deadlocks => None,
        };
        let values = [limits::of_query(&query), limits::of_call(&call)].concat();
        let result = self.service.read(query, call).await;
        let (outcome, decided_at) = match &result {
            Ok(View::Lock(response)) => (seen_by_check(response), response.decided_at),
            Ok(
                View::Locks(_)
                | View::Tables(_)
                | View::Verify(_)
                | View::SessionLocks(_)
                | View::Deadlocks(_),
            ) => (Outcome::Ok(Answer::Record(None)), None),
            Err(error) => failed_check(error),
        };
        self.recorder.reach().note(&values, &outcome);
        if let Some(checked) = checked {
            checked.finish(outcome, decided_at);
        }
        result
    }

    fn defaults(&self) -> &ServiceOptions {
        self.service.defaults()
    }
}

/// The bytes of a command's names: its body has some more.
fn bytes_of(command: &Command) -> usize {
    if let Operation::Lock(command) = &command.operation {
        command.signature.len() + command.signee.len()
    } else if let Operation::Unlock(command) = &command.operation {
        command.signature.len() + command.signee.len()
    } else {
        0
    }
}

fn asked_lock(command: &LockCommand) -> LockAction {
    let duration_ms = command.duration_ms.unwrap_or(to_ms(DEFAULT_DURATION));
    let time_to_live_ms = match command.time_to_live {
        Some(Keep::Ms(ms)) => Some(ms),
        Some(Keep::ForEver) => None,
        None => Some(duration_ms.saturating_add(to_ms(KEPT_AFTER_EXPIRY))),
    };
    LockAction {
        lock: LockName::new(&*command.table, &*command.signature),
        signee: command.signee.as_ref().into(),
        instance: command.instance.as_deref().map(SmolStr::new),
        level: command.level,
        duration_ms,
        time_to_live_ms,
        force: command.force,
        token: command.token.map(|Token(token)| token),
    }
}

fn asked_unlock(command: &UnlockCommand) -> UnlockAction {
    UnlockAction {
        lock: LockName::new(&*command.table, &*command.signature),
        signee: command.signee.as_ref().into(),
        instance: command.instance.as_deref().map(SmolStr::new),
        token: command.token.map(|Token(token)| token),
    }
}

/// Translates a decision about a lock or unlock command.
fn decided(outcome: &lock::Outcome) -> Outcome {
    if let lock::Outcome::Lock(status) = outcome {
        answered_lock(status)
    } else if let lock::Outcome::Unlock(status) = outcome {
        answered_unlock(status)
    } else {
        // Another answer than was asked for: nothing is known.
        Outcome::Unknown
    }
}

/// Translates the answer to a lock request.
fn answered_lock(status: &LockStatus) -> Outcome {
    let (grant, status) = match status {
        LockStatus::Ok(grant) => (grant, Status::Ok),
        LockStatus::Renewed(grant) => (grant, Status::Renewed),
        LockStatus::Transferred { grant, previous_signee, reason } => {
            let previous_signee = previous_signee.as_str().into();
            (grant, Status::Transferred { previous_signee, reason: *reason })
        }
        // Whether it is granted later is not known from this answer.
        LockStatus::Waiting(_) => return Outcome::Unknown,
        LockStatus::Failed(forbidden) => return Outcome::Refused(refused(forbidden)),
    };
    Outcome::Ok(Answer::Granted(Granted {
        status,
        token: grant.token.0,
        level: grant.level,
        expires_in_ms: to_ms(grant.expires_in),
        live: grant.live,
    }))
}

/// Translates the answer to an unlock request.
fn answered_unlock(status: &UnlockStatus) -> Outcome {
    match status {
        UnlockStatus::Ok => Outcome::Ok(Answer::Released),
        // A place is no lock: leaving it releases none.
        UnlockStatus::NoLock | UnlockStatus::Left => Outcome::Ok(Answer::NoLock),
        UnlockStatus::Failed(forbidden) => Outcome::Refused(refused(forbidden)),
    }
}

/// Translates the answer to a check: a missing record is an answer, too.
pub fn answered_check(result: &Result<CheckResponse, Error>) -> (Outcome, Option<DecidedAt>) {
    match result {
        Ok(response) => (seen_by_check(response), response.decided_at),
        Err(error) => failed_check(error),
    }
}

fn seen_by_check(response: &CheckResponse) -> Outcome {
    Outcome::Ok(Answer::Record(response.record.holders.first().map(seen)))
}

fn failed_check(error: &Error) -> (Outcome, Option<DecidedAt>) {
    if let Error::NotFound { decided_at } = error {
        return (Outcome::Ok(Answer::Record(None)), *decided_at);
    }
    (failed(error), None)
}

/// Translates an error. Only requests that are certainly not done may be recorded as such.
pub(super) fn failed(error: &Error) -> Outcome {
    match error {
        Error::Unavailable { .. } | Error::Unauthorized { .. } => Outcome::Unavailable,
        Error::BadRequest { .. } => Outcome::Refused(Refusal::BadRequest),
        Error::Forbidden(forbidden) => Outcome::Refused(refused(forbidden)),
        // A write has no such answer: wherever it comes from, nothing is known.
        Error::NotFound { .. } | Error::Unknown { .. } | Error::LaneForgotten { .. } => {
            Outcome::Unknown
        }
    }
}

fn refused(forbidden: &Forbidden) -> Refusal {
    Refusal::Forbidden { reason: forbidden.reason, holder: forbidden.holders.first().map(seen) }
}

fn seen(holder: &Holder) -> HolderSeen {
    HolderSeen {
        signee: holder.signee.as_str().into(),
        instance: holder.instance.as_deref().map(SmolStr::new),
        level: holder.level,
        token: holder.token.0,
        expires_in_ms: to_ms(holder.expires_in),
        expired: holder.expired,
    }
}

fn to_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
