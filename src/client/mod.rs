//! A client of the HTTP API, for programs that want locks.
//!
//! [`Client`] sends lock requests to a cluster: it knows several nodes, stays with the one that
//! answers, sends a hedged request to another when a node is silent, follows the hint to a leader,
//! and retries what may be repeated under the same `request_id` until the call's time is up.
//! [`Guard`] holds a lock while a value lives.
//!
//! It never guesses: an outcome that no node reported is [`Error::Unknown`] for a write once a byte
//! was sent, and [`Error::Unavailable`] for a read. It imports only the public types,
//! [`crate::api`] and small helpers, so that it can become a crate of its own.
//!
//! ```no_run
//! # async fn example() -> Result<(), keyward::Error> {
//! use keyward::client::{Acquire, Client};
//!
//! let client = Client::builder().endpoints(["http://127.0.0.1:7420"]).build()?;
//! let guard = client.acquire(Acquire::new("jobs/nightly", "worker-1")).await?;
//! // Hand guard.token() to whatever the lock guards, and stop when guard.lost() is ready.
//! guard.release().await?;
//! # Ok(())
//! # }
//! ```

mod attempts;
mod batch;
mod belief;
mod endpoints;
mod gather;
mod guard;
mod lanes;
mod pulse;
mod releases;
mod renewal;
mod transport;

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use crate::resolve::Resolver;
#[cfg(feature = "server")]
pub(crate) use endpoints::with_port;
pub use guard::{Acquire, Guard, GuardState, LockGuard, LostReason};

use crate::api::{
    AdvanceBody, CheckAnswer, CheckQuery, ClusterStatus, DeleteAnswer, DoneAnswer, ListAnswer,
    ListQuery, LockAnswer, LockBody, TableBody, TableQuery, TablesAnswer, TablesQuery,
    UnlockAnswer, UnlockBody, routes,
};
use crate::clock::{Clock, Deadline, SystemClock};
use crate::error::Error;
use crate::service::{DebugLockService, LockService, ServiceOptions};
use crate::types::{
    BatchAnswer, BatchRequest, CallOptions, CheckResponse, DeleteStatus, ListRequest, ListResponse,
    LockOptions, LockRequest, LockResponse, MAX_DURATION, ReadOptions, RequestId, TableDefaults,
    TableOptions, TablesRequest, TablesResponse, UnlockOptions, UnlockRequest, UnlockResponse,
};
use guard::Common;
use lanes::Lane;
use transport::{Request, Settings, Transport};

/// The default port where a node listens for clients.
pub const DEFAULT_PORT: u16 = 7420;

/// The default endpoint where a node listens for clients.
pub const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:7420";

/// The default timeout for establishing a connection. A node that is there answers within a round
/// trip; one that is not must not use up the time of the call.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Builds a [`Client`].
#[derive(Clone)]
pub struct ClientBuilder {
    endpoints: Vec<String>,
    options: ServiceOptions,
    timeout: Duration,
    connect_timeout: Duration,
    batching: bool,
    clock: Arc<dyn Clock>,
}

impl ClientBuilder {
    /// The nodes of the cluster, as `http://host:port`. The default is [`DEFAULT_ENDPOINT`]; the
    /// default port is [`DEFAULT_PORT`].
    #[must_use]
    pub fn endpoints<T: Into<String>>(mut self, endpoints: impl IntoIterator<Item = T>) -> Self {
        self.endpoints = endpoints.into_iter().map(Into::into).collect();
        self
    }

    /// The table of requests that name none.
    #[must_use]
    pub fn table(mut self, table: impl Into<String>) -> Self {
        self.options.table = table.into();
        self
    }

    /// The duration of grants whose requests name none; without it, the table decides.
    #[must_use]
    pub fn default_duration(mut self, duration: Duration) -> Self {
        self.options.default_duration = Some(duration);
        self
    }

    /// Table, default duration and default time_to_live at once.
    #[must_use]
    pub fn options(mut self, options: ServiceOptions) -> Self {
        self.options = options;
        self
    }

    /// The timeout of a call that sets none, retries included: 5 seconds by default.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The timeout for establishing a connection: [`CONNECT_TIMEOUT`] by default.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Whether writes that wait at the same time are coalesced into one message; they are by
    /// default. Each is still answered, retried and cancelled by itself, and a single one is sent
    /// at once. Without it, each has a connection of its own while it is in flight.
    #[must_use]
    pub fn batching(mut self, batching: bool) -> Self {
        self.batching = batching;
        self
    }

    /// The clock that guards count with; tests move one by hand.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Builds the client. Nothing is connected yet.
    ///
    /// # Errors
    /// `BadRequest` if an endpoint is no `http://host:port`.
    pub fn build(self) -> Result<Client, Error> {
        let transport = Transport::new(&self.endpoints, &self.settings())?;
        Ok(self.build_over(transport))
    }

    /// Builds as [`ClientBuilder::build`] does, with requests that go through a simulated network.
    #[cfg(feature = "simulation")]
    pub(crate) fn build_simulated(self, way: crate::carriage::Carriage) -> Result<Client, Error> {
        let transport = Transport::over(way, &self.endpoints, &self.settings())?;
        Ok(self.build_over(transport))
    }

    fn settings(&self) -> Settings {
        Settings {
            connect_timeout: self.connect_timeout,
            timeout: self.timeout,
            gathers: self.batching,
        }
    }

    fn build_over(self, transport: Transport) -> Client {
        Client {
            transport: Arc::new(transport),
            options: Arc::new(Mutex::new(self.options)),
            common: Common::new(self.clock),
        }
    }
}

/// A client of a cluster. Clones are the same handle: they share connections and defaults.
#[derive(Clone)]
pub struct Client {
    transport: Arc<Transport>,
    options: Arc<Mutex<ServiceOptions>>,
    common: Common,
}

impl Client {
    /// Starts a client of the node on this machine, or of the cluster that is named.
    pub fn builder() -> ClientBuilder {
        ClientBuilder {
            endpoints: vec![DEFAULT_ENDPOINT.to_owned()],
            options: ServiceOptions::default(),
            timeout: crate::api::DEFAULT_TIMEOUT,
            connect_timeout: CONNECT_TIMEOUT,
            batching: true,
            clock: Arc::new(SystemClock),
        }
    }

    /// Another handle with its own table and defaults on the same connections.
    #[must_use]
    pub fn handle(&self, options: ServiceOptions) -> Self {
        Self { options: Arc::new(Mutex::new(options)), ..self.clone() }
    }

    /// The endpoints it was given.
    pub fn endpoints(&self) -> Vec<String> {
        self.transport.endpoints().known().iter().map(ToString::to_string).collect()
    }

    /// Acquires a lock and keeps it until the guard is released or dropped.
    ///
    /// # Errors
    /// `Forbidden` if another holds it; otherwise as [`LockService::lock`].
    pub async fn acquire(&self, request: Acquire) -> Result<LockGuard, Error> {
        let request = self.complete(request);
        Guard::acquire_with(self.clone(), self.common.clone(), request, None).await
    }

    /// Retries until the lock is acquired, for this long, and once more at the end. There is no
    /// queue. The call ends within a quarter of a second after its time, whatever the nodes do.
    ///
    /// # Errors
    /// As [`Client::acquire`]; `Forbidden` names the holders when the time was up.
    pub async fn acquire_within(
        &self,
        request: Acquire,
        patience: Duration,
    ) -> Result<LockGuard, Error> {
        self.acquire_telling(request, patience, &mut |_: &Error| {}).await
    }

    /// Acquires as [`Client::acquire_within`] does; reports each error that does not end the wait.
    pub(crate) async fn acquire_telling(
        &self,
        request: Acquire,
        patience: Duration,
        tell: &mut (dyn FnMut(&Error) + Send),
    ) -> Result<LockGuard, Error> {
        let mut request = self.complete(request);
        request.options.call.timeout = Some(self.transport.patience(&request.options.call));
        let (service, common) = (self.clone(), self.common.clone());
        Guard::acquire_within_with(service, common, request, patience, tell).await
    }

    /// The request with the table of this handle, if it names none: guards of several handles know
    /// each other's releases by table.
    fn complete(&self, mut request: Acquire) -> Acquire {
        request.options.table = self.table(request.options.table);
        request
    }

    /// The cluster as any node that answers knows it.
    ///
    /// # Errors
    /// `Unavailable`; `BadRequest` if the endpoint is no node of a cluster.
    pub async fn cluster(&self, call: CallOptions) -> Result<ClusterStatus, Error> {
        let request = Request::read(routes::CLUSTER, &());
        self.transport.call(&request, &call).await.map(|(status, _)| status)
    }

    /// The cluster as the node at this endpoint knows it. No other node is tried.
    ///
    /// # Errors
    /// As [`Client::cluster`].
    pub async fn cluster_at(
        &self,
        endpoint: &str,
        call: CallOptions,
    ) -> Result<ClusterStatus, Error> {
        let request = Request::read(routes::CLUSTER, &());
        self.transport.ask_one(endpoint, &request, &call).await.map(|(status, _)| status)
    }

    fn options(&self) -> ServiceOptions {
        // The options are replaced whole, so they are intact even after a panic.
        self.options.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn table(&self, table: Option<String>) -> Option<String> {
        table.or_else(|| Some(self.options().table))
    }

    /// The caller's own request id, or the next of a lane that is reserved while the call lasts.
    fn request_id(&self, given: Option<RequestId>) -> (RequestId, Option<Lane<'_>>) {
        if let Some(id) = given {
            return (id, None);
        }
        let lane = self.transport.lanes().take();
        (lane.id(), Some(lane))
    }

    /// Sends a request under the caller's own id, or under the next of a lane. If the cluster has
    /// forgotten that lane, the request was not applied by this call, nor can it have been by
    /// another: it is sent again under the first id of a new lane.
    async fn under_id<T, F: Future<Output = Result<T, Error>>>(
        &self,
        given: Option<RequestId>,
        call: &CallOptions,
        ask: impl Fn(RequestId, CallOptions) -> F,
    ) -> Result<T, Error> {
        let deadline = Deadline::after(self.transport.patience(call));
        let (id, lane) = self.request_id(given);
        let result = ask(id, call.clone()).await;
        if lane.is_none() || !matches!(result, Err(Error::LaneForgotten { .. })) {
            settle(lane, &result);
            return result;
        }
        let lane = self.transport.lanes().begin();
        let call = CallOptions { timeout: Some(deadline.remaining()), ..call.clone() };
        let result = ask(lane.id(), call).await;
        settle(Some(lane), &result);
        result
    }

    /// Sends a batch under the ids of these lanes, and returns its answers.
    async fn batch_under(
        &self,
        mut requests: Vec<BatchRequest>,
        lanes: Vec<Option<Lane<'_>>>,
    ) -> Vec<Result<BatchAnswer, Error>> {
        for (request, lane) in requests.iter_mut().zip(&lanes) {
            if let Some(lane) = lane {
                *request_id_of(request) = Some(lane.id());
            }
        }
        let answers = self.transport.batch(requests).await;
        for (lane, answer) in lanes.into_iter().zip(&answers) {
            settle(lane, answer);
        }
        answers
    }
}

/// Returns the lane unless the outcome is open: a copy of the request may then still be in flight,
/// and must not meet a later request on its lane. A forgotten lane is not returned either.
fn settle<T>(lane: Option<Lane<'_>>, result: &Result<T, Error>) {
    if let Some(lane) = lane
        && !matches!(result, Err(Error::Unknown { .. } | Error::LaneForgotten { .. }))
    {
        lane.give_back();
    }
}

fn request_id_of(request: &mut BatchRequest) -> &mut Option<RequestId> {
    match request {
        BatchRequest::Lock(_, options) => &mut options.request_id,
        BatchRequest::Unlock(_, options) => &mut options.request_id,
    }
}

fn call_of(request: &mut BatchRequest) -> &mut CallOptions {
    match request {
        BatchRequest::Lock(_, options) => &mut options.call,
        BatchRequest::Unlock(_, options) => &mut options.call,
    }
}

impl LockService for Client {
    async fn lock(
        &self,
        request: LockRequest,
        mut options: LockOptions,
    ) -> Result<LockResponse, Error> {
        self.options().fill_lock(&mut options);
        let ask = |id, call| {
            let options = LockOptions { request_id: Some(id), ..options.clone() };
            let body = LockBody::new(request.clone(), &options);
            let request = Request::write("POST", routes::LOCK, &body);
            async move { self.transport.write_or_refusal::<LockAnswer>(&request, &call).await }
        };
        batch::locked(self.under_id(options.request_id, &options.call, ask).await?)
    }

    async fn unlock(
        &self,
        request: UnlockRequest,
        mut options: UnlockOptions,
    ) -> Result<UnlockResponse, Error> {
        options.table = self.table(options.table);
        let ask = |id, call| {
            let options = UnlockOptions { request_id: Some(id), ..options.clone() };
            let body = UnlockBody::new(request.clone(), &options);
            let request = Request::write("POST", routes::UNLOCK, &body);
            async move { self.transport.write_or_refusal::<UnlockAnswer>(&request, &call).await }
        };
        Ok(batch::unlocked(self.under_id(options.request_id, &options.call, ask).await?))
    }

    async fn batch(&self, mut requests: Vec<BatchRequest>) -> Vec<Result<BatchAnswer, Error>> {
        self.options().fill_batch(&mut requests);
        let is_ours: Vec<bool> =
            requests.iter_mut().map(|request| request_id_of(request).is_none()).collect();
        let lane = |ours: &bool| ours.then(|| self.transport.lanes().take());
        let lanes = is_ours.iter().map(lane).collect();
        let patience = |request: &BatchRequest| self.transport.patience(request.call());
        let deadlines: Vec<Deadline> =
            requests.iter().map(|request| Deadline::after(patience(request))).collect();
        let mut answers = self.batch_under(requests.clone(), lanes).await;
        let is_forgotten = |(ours, answer): (&bool, &Result<_, _>)| {
            *ours && matches!(answer, Err(Error::LaneForgotten { .. }))
        };
        let forgotten: Vec<bool> = is_ours.iter().zip(&answers).map(is_forgotten).collect();
        let Some(from) = forgotten.iter().position(|forgotten| *forgotten) else { return answers };
        if forgotten[from..].iter().all(|forgotten| *forgotten) {
            // None of these took effect, and nothing after them: on new lanes they keep their
            // order.
            let mut again = requests.split_off(from);
            for (request, deadline) in again.iter_mut().zip(&deadlines[from..]) {
                call_of(request).timeout = Some(deadline.remaining());
            }
            let lanes = again.iter().map(|_| Some(self.transport.lanes().begin())).collect();
            answers.splice(from.., self.batch_under(again, lanes).await);
        } else {
            // After one of them another was decided: it would now be decided out of order.
            for (answer, _) in answers.iter_mut().zip(forgotten).filter(|(_, forgotten)| *forgotten)
            {
                let reason = "the cluster had forgotten the lane of the request";
                *answer = Err(Error::unavailable(reason));
            }
        }
        answers
    }

    async fn check(&self, signature: String, options: ReadOptions) -> Result<CheckResponse, Error> {
        let query =
            CheckQuery { signature, table: self.table(options.table), stale: options.stale };
        let request = Request::read(routes::LOCK, &query);
        let (answer, at) = self.transport.call::<CheckAnswer>(&request, &options.call).await?;
        Ok(answer.into_words(at))
    }

    async fn list(
        &self,
        request: ListRequest,
        options: ReadOptions,
    ) -> Result<ListResponse, Error> {
        let query = ListQuery {
            prefix: request.prefix,
            after: request.after,
            limit: Some(request.limit),
            state: request.state,
            table: self.table(options.table),
            stale: options.stale,
        };
        let request = Request::read(routes::LOCKS, &query);
        let (answer, at) = self.transport.call::<ListAnswer>(&request, &options.call).await?;
        Ok(answer.into_words(at))
    }

    async fn tables(
        &self,
        request: TablesRequest,
        options: ReadOptions,
    ) -> Result<TablesResponse, Error> {
        let query =
            TablesQuery { after: request.after, limit: Some(request.limit), stale: options.stale };
        let request = Request::read(routes::TABLES, &query);
        let (answer, at) = self.transport.call::<TablesAnswer>(&request, &options.call).await?;
        Ok(answer.into_words(at))
    }

    async fn configure_table(
        &self,
        defaults: TableDefaults,
        options: TableOptions,
    ) -> Result<(), Error> {
        let table = options.table.unwrap_or_else(|| self.options().table);
        let ask = |id, call| {
            let body = TableBody::new(defaults, Some(table.clone()), Some(id));
            let request = Request::write("PUT", routes::TABLE, &body);
            async move { self.transport.call::<DoneAnswer>(&request, &call).await }
        };
        self.under_id(options.request_id, &options.call, ask).await.map(|_| ())
    }

    async fn delete_table(&self, options: TableOptions) -> Result<DeleteStatus, Error> {
        let table = options.table.unwrap_or_else(|| self.options().table);
        let ask = |id, call| {
            let query = TableQuery { table: table.clone(), request_id: Some(id) };
            let request = Request::delete(routes::TABLE, &query);
            async move { self.transport.call::<DeleteAnswer>(&request, &call).await }
        };
        let (answer, _) = self.under_id(options.request_id, &options.call, ask).await?;
        Ok(answer.into())
    }
}

impl DebugLockService for Client {
    async fn set_default_duration(&self, duration: Duration) -> Result<(), Error> {
        if duration < Duration::from_millis(1) || duration > MAX_DURATION {
            return Err(Error::bad_request("a duration is 1 ms to 366 days"));
        }
        let mut options = self.options.lock().unwrap_or_else(PoisonError::into_inner);
        options.default_duration = Some(duration);
        Ok(())
    }

    /// Requests that the node advances its clock, which only one started for tests does; otherwise
    /// waits.
    async fn advance_clock(&self, by: Duration) -> Result<(), Error> {
        let body = AdvanceBody { by_ms: crate::api::to_ms(by) };
        let request = Request::once("POST", routes::DEBUG_ADVANCE, &body);
        match self.transport.call::<DoneAnswer>(&request, &CallOptions::default()).await {
            Err(Error::BadRequest { .. }) => {
                tokio::time::sleep(by).await;
                Ok(())
            }
            result => result.map(|_| ()),
        }
    }
}
