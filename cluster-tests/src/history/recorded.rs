//! A lock service whose calls are recorded, and the translation of the contract's answers.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use keyward::Error;
use keyward::limits::{self, Limit};
use keyward::service::LockService;
use keyward::types::{
    BatchAnswer, BatchRequest, CheckResponse, DEFAULT_DURATION, DEFAULT_TABLE, DecidedAt,
    DeleteStatus, Forbidden, Holder, KEPT_AFTER_EXPIRY, ListRequest, ListResponse, LockOptions,
    LockRequest, LockResponse, LockStatus, ReadOptions, RequestId, TableDefaults, TableOptions,
    TablesRequest, TablesResponse, Token, UnlockOptions, UnlockRequest, UnlockResponse,
    UnlockStatus,
};
use smol_str::SmolStr;

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

    fn begin_write(
        &self,
        action: Action,
        id: Option<RequestId>,
        request: impl FnOnce() -> BatchRequest,
    ) -> Write<'_> {
        let open = self.open.as_ref().zip(id).map(|(writes, id)| {
            let is_first = writes.asked(id, request());
            Open { writes, id, is_first }
        });
        Write { call: self.begin(action, id), open }
    }

    fn begin_of_batch(&self, request: &mut BatchRequest) -> Write<'_> {
        let (action, id) = match request {
            BatchRequest::Lock(request, options) => {
                self.name(&mut options.request_id);
                (Action::Lock(asked_lock(request, options)), options.request_id)
            }
            BatchRequest::Unlock(request, options) => {
                self.name(&mut options.request_id);
                (Action::Unlock(asked_unlock(request, options)), options.request_id)
            }
        };
        self.begin_write(action, id, || request.clone())
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
    async fn lock(
        &self,
        request: LockRequest,
        mut options: LockOptions,
    ) -> Result<LockResponse, Error> {
        self.name(&mut options.request_id);
        let action = Action::Lock(asked_lock(&request, &options));
        let call = self.begin_write(action, options.request_id, || {
            BatchRequest::Lock(request.clone(), options.clone())
        });
        let (values, id) = (limits::of_lock(&request, &options), options.request_id);
        let result = self.service.lock(request, options).await;
        self.ended(id, &result);
        let (outcome, decided_at) = match &result {
            Ok(response) => (answered_lock(response), response.decided_at),
            Err(error) => (failed(error), None),
        };
        self.recorder.reach().note(&values, &outcome);
        call.finish(outcome, decided_at);
        result
    }

    async fn unlock(
        &self,
        request: UnlockRequest,
        mut options: UnlockOptions,
    ) -> Result<UnlockResponse, Error> {
        self.name(&mut options.request_id);
        let action = Action::Unlock(asked_unlock(&request, &options));
        let call = self.begin_write(action, options.request_id, || {
            BatchRequest::Unlock(request.clone(), options.clone())
        });
        let (values, id) = (limits::of_unlock(&request, &options), options.request_id);
        let result = self.service.unlock(request, options).await;
        self.ended(id, &result);
        let (outcome, decided_at) = match &result {
            Ok(response) => (answered_unlock(response), response.decided_at),
            Err(error) => (failed(error), None),
        };
        self.recorder.reach().note(&values, &outcome);
        call.finish(outcome, decided_at);
        result
    }

    async fn batch(&self, mut requests: Vec<BatchRequest>) -> Vec<Result<BatchAnswer, Error>> {
        let calls: Vec<_> =
            requests.iter_mut().map(|request| self.begin_of_batch(request)).collect();
        let values: Vec<_> =
            requests.iter().map(|request| (values_of(request), id_of(request))).collect();
        let (size, bytes) = (requests.len(), requests.iter().map(bytes_of).sum::<usize>());
        let answers = self.service.batch(requests).await;
        let reach = self.recorder.reach();
        let mut answered = 0;
        // If a service returns too few answers, the others are unknown.
        for ((call, (values, id)), answer) in calls.into_iter().zip(values).zip(&answers) {
            let (outcome, decided_at) = match answer {
                Ok(BatchAnswer::Lock(response)) => (answered_lock(response), response.decided_at),
                Ok(BatchAnswer::Unlock(response)) => {
                    (answered_unlock(response), response.decided_at)
                }
                Err(error) => (failed(error), None),
            };
            self.ended(id, answer);
            answered += usize::from(answer.is_ok());
            reach.note(&values, &outcome);
            call.finish(outcome, decided_at);
        }
        if answered == size {
            let size = i128::try_from(size).unwrap_or(i128::MAX);
            reach.note(&[(limits::BATCH, size)], &Outcome::Ok(Answer::Released));
            let most = u64::try_from(limits::BATCH_BYTES.largest).unwrap_or(u64::MAX);
            reach.worked(limits::BATCH_BYTES, bytes as u64, most);
        }
        answers
    }

    async fn check(&self, signature: String, options: ReadOptions) -> Result<CheckResponse, Error> {
        let lock = name_of(options.table.as_deref(), &signature);
        let action = if options.stale { Action::StaleCheck(lock) } else { Action::Check(lock) };
        let call = self.begin(action, None);
        let values = limits::of_check(&signature, &options);
        let result = self.service.check(signature, options).await;
        let (outcome, decided_at) = answered_check(&result);
        self.recorder.reach().note(&values, &outcome);
        call.finish(outcome, decided_at);
        result
    }

    async fn list(
        &self,
        request: ListRequest,
        options: ReadOptions,
    ) -> Result<ListResponse, Error> {
        let values = limits::of_list(&request, &options);
        let result = self.service.list(request, options).await;
        let outcome = result.as_ref().map_or_else(failed, |_| Outcome::Ok(Answer::Record(None)));
        self.recorder.reach().note(&values, &outcome);
        result
    }

    async fn tables(
        &self,
        request: TablesRequest,
        options: ReadOptions,
    ) -> Result<TablesResponse, Error> {
        let values = limits::of_tables(&request, &options);
        let result = self.service.tables(request, options).await;
        let outcome = result.as_ref().map_or_else(failed, |_| Outcome::Ok(Answer::Record(None)));
        self.recorder.reach().note(&values, &outcome);
        result
    }

    async fn configure_table(
        &self,
        defaults: TableDefaults,
        options: TableOptions,
    ) -> Result<(), Error> {
        self.service.configure_table(defaults, options).await
    }

    async fn delete_table(&self, options: TableOptions) -> Result<DeleteStatus, Error> {
        self.service.delete_table(options).await
    }
}

fn values_of(request: &BatchRequest) -> Vec<(Limit, i128)> {
    match request {
        BatchRequest::Lock(request, options) => limits::of_lock(request, options),
        BatchRequest::Unlock(request, options) => limits::of_unlock(request, options),
    }
}

fn id_of(request: &BatchRequest) -> Option<RequestId> {
    match request {
        BatchRequest::Lock(_, options) => options.request_id,
        BatchRequest::Unlock(_, options) => options.request_id,
    }
}

/// The bytes of a request's names: its body has some more.
fn bytes_of(request: &BatchRequest) -> usize {
    match request {
        BatchRequest::Lock(request, _) => request.signature.len() + request.signee.len(),
        BatchRequest::Unlock(request, _) => request.signature.len() + request.signee.len(),
    }
}

fn name_of(table: Option<&str>, signature: &str) -> LockName {
    LockName::new(table.unwrap_or(DEFAULT_TABLE), signature)
}

fn asked_lock(request: &LockRequest, options: &LockOptions) -> LockAction {
    let duration = options.duration.unwrap_or(DEFAULT_DURATION);
    let time_to_live = options.time_to_live.unwrap_or((duration + KEPT_AFTER_EXPIRY).into());
    LockAction {
        lock: name_of(options.table.as_deref(), &request.signature),
        signee: request.signee.as_str().into(),
        instance: options.instance.as_deref().map(SmolStr::new),
        level: request.level,
        duration_ms: to_ms(duration),
        time_to_live_ms: time_to_live.length().map(to_ms),
        force: options.force,
        token: options.token.map(|Token(token)| token),
    }
}

fn asked_unlock(request: &UnlockRequest, options: &UnlockOptions) -> UnlockAction {
    UnlockAction {
        lock: name_of(options.table.as_deref(), &request.signature),
        signee: request.signee.as_str().into(),
        instance: options.instance.as_deref().map(SmolStr::new),
        token: options.token.map(|Token(token)| token),
    }
}

/// Translates the answer to a lock request.
pub fn answered_lock(response: &LockResponse) -> Outcome {
    let (grant, status) = match &response.status {
        LockStatus::Ok(grant) => (grant, Status::Ok),
        LockStatus::Renewed(grant) => (grant, Status::Renewed),
        LockStatus::Transferred { grant, previous_signee, reason } => {
            let previous_signee = previous_signee.as_str().into();
            (grant, Status::Transferred { previous_signee, reason: *reason })
        }
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
pub fn answered_unlock(response: &UnlockResponse) -> Outcome {
    match &response.status {
        UnlockStatus::Ok => Outcome::Ok(Answer::Released),
        UnlockStatus::NoLock => Outcome::Ok(Answer::NoLock),
        UnlockStatus::Failed(forbidden) => Outcome::Refused(refused(forbidden)),
    }
}

/// Translates the answer to a check: a missing record is an answer, too.
pub fn answered_check(result: &Result<CheckResponse, Error>) -> (Outcome, Option<DecidedAt>) {
    match result {
        Ok(response) => {
            let holder = response.record.holders.first().map(seen);
            (Outcome::Ok(Answer::Record(holder)), response.decided_at)
        }
        Err(Error::NotFound { decided_at }) => (Outcome::Ok(Answer::Record(None)), *decided_at),
        Err(error) => (failed(error), None),
    }
}

/// Translates an error. Only requests that are certainly not done may be recorded as such.
pub fn failed(error: &Error) -> Outcome {
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
