//! A lock service whose calls are recorded, and the translation of the contract's answers.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use keyward::Error;
use keyward::lock::{
    self, Command, Decision, Keep, LockCommand, Operation, Query, Subject, UnlockCommand, View,
};
use keyward::service::{LockService, ServiceOptions};
use keyward::types::{
    CallOptions, CheckResponse, CloseStatus, DEFAULT_DURATION, DecidedAt, Forbidden, Holder,
    InboxItem, KEPT_AFTER_EXPIRY, Liveness, LockStatus, News, Place, RequestId, SessionStatus,
    Token, UnlockStatus,
};
use smol_str::SmolStr;

use crate::limits;

use super::{
    Action, Answer, Call, Granted, HolderSeen, ItemSeen, LockAction, LockName, NewsSeen,
    OpenWrites, Outcome, PlaceSeen, QueueSeen, Recorder, Refusal, SessionAction, SessionCall,
    SessionOutcome, Status, Turn, UnlockAction, WaitingSeen,
};

/// One client of a service, with every lock, unlock and check recorded, and all that it does with
/// sessions. Retries that the service
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
    every_right: bool,
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
            every_right: false,
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

    /// Requests of this client may do everything: one that access control refuses breaks the run.
    #[must_use]
    pub fn with_every_right(mut self, every_right: bool) -> Self {
        self.every_right = every_right;
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

    fn note_refusal(&self, error: &Error) {
        if self.every_right
            && matches!(error, Error::Unauthorized { .. } | Error::NotAllowed { .. })
        {
            self.recorder.reach().note_refusal(&self.client, error);
        }
    }

    fn begin(&self, action: Action, request_id: Option<RequestId>) -> Call {
        let call = self.recorder.begin(self.client.clone(), action).with_request_id(request_id);
        match &self.node {
            Some(node) => call.with_node(node.clone()),
            None => call,
        }
    }

    fn begin_write(&self, command: &Command) -> Begun<'_> {
        let action = match &command.operation {
            Operation::Lock(command) => Action::Lock(asked_lock(command)),
            Operation::Unlock(command) => Action::Unlock(asked_unlock(command)),
            Operation::OpenSession(_) | Operation::KeepAlive(_) | Operation::CloseSession(_) => {
                let begin = |action| {
                    let client = self.client.clone();
                    self.recorder.begin_session(client, action, command.request_id)
                };
                let actions = asked_sessions(&command.operation);
                return Begun::Sessions(actions.into_iter().map(begin).collect());
            }
            Operation::ConfigureTable(_)
            | Operation::DeleteTable { .. }
            | Operation::Leave(_)
            | Operation::SetLimit(_)
            | Operation::Access(_)
            | Operation::Advance
            | Operation::RaiseFeatureLevel(_) => return Begun::Unrecorded,
        };
        let id = command.request_id;
        let open = self.open.as_ref().zip(id).map(|(writes, id)| {
            let is_first = writes.asked(id, command.clone());
            Open { writes, id, is_first }
        });
        Begun::Write(Box::new(Write { call: self.begin(action, id), open }))
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

/// A command that has begun.
enum Begun<'a> {
    Write(Box<Write<'a>>),
    /// One operation for each session that it names.
    Sessions(Vec<SessionCall>),
    /// Not in the history.
    Unrecorded,
}

/// A write that has begun.
struct Write<'a> {
    call: Call,
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
        for command in &mut commands {
            if is_named(&command.operation) {
                self.name(&mut command.request_id);
            }
        }
        let ids: Vec<_> = commands.iter().map(|command| command.request_id).collect();
        let writes: Vec<_> = commands.iter().map(|command| self.begin_write(command)).collect();
        let of_call = limits::of_call(&call);
        let values = |command| [limits::of_command(command), of_call.clone()].concat();
        let values: Vec<_> = commands.iter().map(values).collect();
        let (size, bytes) = (commands.len(), commands.iter().map(bytes_of).sum::<usize>());
        let answers = self.service.decide(commands, call).await;
        let reach = self.recorder.reach();
        let mut answered = 0;
        // If a service returns too few answers, the others are unknown.
        for (((begun, id), values), answer) in writes.into_iter().zip(ids).zip(values).zip(&answers)
        {
            answered += usize::from(answer.is_ok());
            let (outcome, decided_at) = match answer {
                Ok(Decision { outcome, decided_at }) => (decided(outcome), *decided_at),
                Err(error) => {
                    self.note_refusal(error);
                    (failed(error), None)
                }
            };
            self.ended(id, answer);
            match begun {
                Begun::Write(write) => {
                    reach.note(&values, &outcome);
                    write.finish(outcome, decided_at);
                }
                Begun::Sessions(calls) => {
                    reach.note(&values, &outcome);
                    for (number, call) in calls.into_iter().enumerate() {
                        let outcome = match answer {
                            Ok(decision) => decided_session(&decision.outcome, number),
                            Err(error) => failed_session(error),
                        };
                        call.finish(outcome, decided_at);
                    }
                }
                Begun::Unrecorded => {}
            }
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
            | Subject::Deadlocks
            | Subject::Access(_) => None,
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
                | View::Deadlocks(_)
                | View::Access(_),
            ) => (Outcome::Ok(Answer::Record(None)), None),
            Err(error) => {
                self.note_refusal(error);
                failed_check(error)
            }
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
    let duration_ms = match command.session {
        Some(_) => 0,
        None => command.duration_ms.unwrap_or(to_ms(DEFAULT_DURATION)),
    };
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
        turn: Turn {
            mode: command.mode,
            limit: command.limit,
            wait_ms: command.wait_ms,
            queued: command.queued,
            session: command.session,
            lock_delay_ms: command.lock_delay_ms,
        },
    }
}

/// Whether a command gets an id of the lane: a keep-alive needs none.
fn is_named(operation: &Operation) -> bool {
    match operation {
        Operation::Lock(_)
        | Operation::Unlock(_)
        | Operation::OpenSession(_)
        | Operation::CloseSession(_) => true,
        Operation::KeepAlive(_)
        | Operation::ConfigureTable(_)
        | Operation::DeleteTable { .. }
        | Operation::Leave(_)
        | Operation::SetLimit(_)
        | Operation::Access(_)
        | Operation::Advance
        | Operation::RaiseFeatureLevel(_) => false,
    }
}

/// The requests about sessions in a command.
fn asked_sessions(operation: &Operation) -> Vec<SessionAction> {
    if let Operation::KeepAlive(sessions) = operation {
        let keep = |seen: &keyward::types::Seen| SessionAction::KeepAlive {
            session: seen.session,
            seen: seen.seen,
        };
        sessions.iter().map(keep).collect()
    } else if let Operation::OpenSession(command) = operation {
        vec![SessionAction::Open {
            ttl_ms: command.ttl_ms,
            signee: command.signee.as_ref().into(),
            instance: command.instance.as_deref().map(SmolStr::new),
        }]
    } else if let Operation::CloseSession(session) = operation {
        vec![SessionAction::Close { session: *session }]
    } else {
        Vec::new()
    }
}

fn asked_unlock(command: &UnlockCommand) -> UnlockAction {
    UnlockAction {
        lock: LockName::new(&*command.table, &*command.signature),
        signee: command.signee.as_ref().into(),
        instance: command.instance.as_deref().map(SmolStr::new),
        token: command.token.map(|Token(token)| token),
        force: command.force,
        place: command.place,
    }
}

/// Translates a decision about a lock or unlock command.
pub fn decided(outcome: &lock::Outcome) -> Outcome {
    if let lock::Outcome::Lock(status) = outcome {
        answered_lock(status)
    } else if let lock::Outcome::Unlock(status) = outcome {
        answered_unlock(status)
    } else {
        // Another answer than was asked for: nothing is known.
        Outcome::Unknown
    }
}

/// Translates a decision about a session, the `number`th that the command names.
pub fn decided_session(outcome: &lock::Outcome, number: usize) -> SessionOutcome {
    if let lock::Outcome::KeptAlive(sessions) = outcome {
        sessions.get(number).map_or(SessionOutcome::Unknown, kept_alive)
    } else if let lock::Outcome::Session(SessionStatus::Open(session)) = outcome {
        SessionOutcome::Opened { session: session.id }
    } else if let lock::Outcome::Session(SessionStatus::Failed(_)) = outcome {
        SessionOutcome::Refused
    } else if let lock::Outcome::Closed(status) = outcome {
        match status {
            CloseStatus::Ok => SessionOutcome::Closed,
            CloseStatus::NoSession => SessionOutcome::NoSession,
        }
    } else {
        SessionOutcome::Unknown
    }
}

fn kept_alive(state: &Liveness) -> SessionOutcome {
    match state {
        Liveness::Alive { valid, inbox, more, overflow } => SessionOutcome::Alive {
            valid_ms: to_ms(*valid),
            inbox: inbox.iter().map(item).collect(),
            cut: *more || *overflow,
        },
        Liveness::Lost => SessionOutcome::Lost,
    }
}

fn item(item: &InboxItem) -> ItemSeen {
    let news = match item.news {
        News::Granted { token, level, mode, slot } => {
            NewsSeen::Granted { token: token.0, level, mode, slot }
        }
        News::Ended(reason) => NewsSeen::Ended(reason),
        News::Lost { token, reason } => {
            NewsSeen::Lost { token: token.map(|token| token.0), reason }
        }
    };
    ItemSeen {
        position: item.position,
        lock: LockName::new(item.table.as_str(), item.signature.as_str()),
        signee: item.signee.as_str().into(),
        news,
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
        LockStatus::Waiting(waiting) => {
            return Outcome::Ok(Answer::Waiting(WaitingSeen {
                place: waiting.place,
                position: waiting.position,
                ends_in_ms: to_ms(waiting.ends_in),
            }));
        }
        LockStatus::Failed(forbidden) => return Outcome::Refused(refused(forbidden)),
    };
    Outcome::Ok(Answer::Granted(Granted {
        status,
        token: grant.token.0,
        level: grant.level,
        expires_in_ms: to_ms(grant.expires_in),
        live: grant.live,
        mode: grant.mode,
        slot: grant.slot,
        valid_ms: (grant.valid != grant.expires_in).then(|| to_ms(grant.valid)),
    }))
}

/// Translates the answer to an unlock request.
fn answered_unlock(status: &UnlockStatus) -> Outcome {
    match status {
        UnlockStatus::Ok => Outcome::Ok(Answer::Released),
        UnlockStatus::NoLock => Outcome::Ok(Answer::NoLock),
        UnlockStatus::Left => Outcome::Ok(Answer::Left),
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
    let record = &response.record;
    if record.holders.len() < 2 && record.waiting == 0 {
        return Outcome::Ok(Answer::Record(record.holders.first().map(seen)));
    }
    Outcome::Ok(Answer::Queue(QueueSeen {
        holders: record.holders.iter().map(seen).collect(),
        waiting: record.waiting,
        places: record.places.iter().map(place).collect(),
    }))
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
        Error::Unavailable { .. } | Error::Unauthorized { .. } | Error::NotAllowed { .. } => {
            Outcome::Unavailable
        }
        Error::BadRequest { .. } => Outcome::Refused(Refusal::BadRequest),
        Error::Forbidden(forbidden) => Outcome::Refused(refused(forbidden)),
        // A write has no such answer: wherever it comes from, nothing is known.
        Error::NotFound { .. } | Error::Unknown { .. } | Error::LaneForgotten { .. } => {
            Outcome::Unknown
        }
    }
}

/// Translates an error of an operation on sessions.
fn failed_session(error: &Error) -> SessionOutcome {
    match failed(error) {
        Outcome::Unavailable => SessionOutcome::Unavailable,
        Outcome::Refused(_) => SessionOutcome::Refused,
        Outcome::Ok(_) | Outcome::Unknown => SessionOutcome::Unknown,
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
        mode: holder.mode,
        slot: holder.slot,
        session: holder.session,
    }
}

fn place(place: &Place) -> PlaceSeen {
    PlaceSeen {
        place: place.place,
        signee: place.signee.as_str().into(),
        instance: place.instance.as_deref().map(SmolStr::new),
        level: place.level,
        mode: place.mode,
    }
}

fn to_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
