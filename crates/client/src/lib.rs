//! A client of the HTTP API, for programs that want locks.
//!
//! [`Client`] sends lock requests to a cluster: it knows several nodes, stays with the one that
//! answers, sends a hedged request to another when a node is silent, follows the hint to a leader,
//! and retries what may be repeated under the same `request_id` until the call's time is up.
//! [`Guard`] holds a lock while a value lives.
//!
//! It never guesses: an outcome that no node reported is [`Error::Unknown`] for a write once a byte
//! was sent, and [`Error::Unavailable`] for a read.
//!
//! [`api`] is the HTTP API in data, for both ends: the server reads what the client writes. Each word
//! has its description for the OpenAPI document beside it.
//!
//! ```no_run
//! # async fn example() -> Result<(), keyward_client::Error> {
//! use keyward_client::{Acquire, Client};
//!
//! let client = Client::builder().endpoints(["http://127.0.0.1:7420"]).build()?;
//! let guard = client.acquire(Acquire::new("jobs/nightly", "worker-1")).await?;
//! // Hand guard.token() to whatever the lock guards, and stop when guard.lost() is ready.
//! guard.release().await?;
//! # Ok(())
//! # }
//! ```

pub mod api;
mod attempts;
mod backup;
mod batch;
mod batcher;
pub mod carrier;
mod credential;
mod endpoints;
mod guard;
mod lanes;
mod lease;
mod releases;
mod renewal;
mod resolve;
mod rwlock;
mod semaphore;
mod session;
mod shared;
pub mod tls;
mod transport;
mod wake;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use backup::BackupDownload;
pub use endpoints::with_port;
pub use guard::{Acquire, Guard, GuardState, LockGuard, LostReason};
pub use resolve::Resolver;
pub use rwlock::RwLock;
pub use semaphore::{Permit, Semaphore};
pub use session::{OpenSession, Session};

pub use keyward_core::{Error, MemoryLocks, access, clock, types};

use crate::api::{
    AdvanceBody, BackupQuery, BootstrapBody, CanIAnswer, CanIBody, ChangedAnswer, CheckAnswer,
    CheckQuery, CloseAnswer, CloseStatusWord, ClusterStatus, DeadlocksAnswer, DeadlocksQuery,
    DeleteAnswer, DoneAnswer, KeepAliveAnswer, KeepAliveBody, LimitAnswer, LimitBody,
    LimitStatusWord, ListAnswer, ListQuery, LockBody, LockReply, RuleBody, RuleQuery, RulesAnswer,
    RulesQuery, SessionAnswer, SessionBody, SessionQuery, SwitchBody, TableBody, TableQuery,
    TablesAnswer, TablesQuery, TokenAnswer, TokenBody, TokenQuery, TokensAnswer, TokensQuery,
    UnlockAnswer, UnlockBody, VerifyAnswer, VerifyBody, WhoamiAnswer, routes,
};
use crate::carrier::{Carrier, Carry};
use credential::Source;
use guard::{Common, Turn};
use keyward_core::access::{Answer, Change, Question};
use keyward_core::clock::{Clock, Deadline, SystemClock};
use keyward_core::lock::{
    Command, Decision, LockCommand, Operation, Outcome, Query, Subject, View,
};
use keyward_core::service::{DebugLockService, LockService, ServiceOptions};
use keyward_core::types::{
    CallOptions, CloseStatus, DeleteStatus, Forbidden, LockResponse, RequestId, SessionStatus,
};
use lanes::Lane;
use tls::Tls;
use transport::{Reply, Request, Settings, Transport};

/// The default port where a node listens for clients.
pub const DEFAULT_PORT: u16 = 7420;

/// The default endpoint where a node listens for clients.
pub const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:7420";

/// The default timeout for establishing a connection. A node that is there answers within a round
/// trip; one that is not must not use up the time of the call.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The longest time that one node is asked about a place: a node that has died without closing its
/// connections is noticed after it.
const LONGEST_ASK: Duration = Duration::from_secs(10);

/// The least time that is left for another ask, and the pause after one that failed.
const SHORTEST_ASK: Duration = Duration::from_millis(50);

/// Builds a [`Client`].
#[derive(Clone)]
pub struct ClientBuilder {
    endpoints: Vec<String>,
    options: ServiceOptions,
    timeout: Duration,
    connect_timeout: Duration,
    batching: bool,
    access_token: Source,
    clock: Arc<dyn Clock>,
    tls: Tls,
}

impl ClientBuilder {
    /// The nodes of the cluster, as `http://host:port` or `https://host:port`. The default is [`DEFAULT_ENDPOINT`]; the
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

    /// The access token or JWT that each request is sent with, for a cluster with access control. Not to be
    /// confused with the fencing token of a grant.
    #[must_use]
    pub fn access_token(mut self, secret: impl Into<String>) -> Self {
        self.access_token = Source::Text(secret.into());
        self
    }

    /// The file of the access token or JWT that each request is sent with. It is read again every few
    /// seconds and when a node refuses its content, so that a program goes on when its token is
    /// replaced, as those of Kubernetes are. [`ClientBuilder::build`] reads it for the first time.
    #[must_use]
    pub fn access_token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.access_token = Source::File(path.into());
        self
    }

    /// The clock that guards count with; tests move one by hand.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// The CA certificates that the certificates of nodes are checked with (`https://`), as PEM. By
    /// default they are those of the system.
    #[must_use]
    pub fn ca_certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.tls = self.tls.ca_certificates(pem);
        self
    }

    /// The certificate that is shown to nodes that ask for one, followed by those between it and its
    /// CA, and its private key; both as PEM.
    #[must_use]
    pub fn identity(
        mut self,
        certificates: impl Into<Vec<u8>>,
        private_key: impl Into<Vec<u8>>,
    ) -> Self {
        self.tls = self.tls.identity(certificates, private_key);
        self
    }

    /// All TLS settings at once.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = tls;
        self
    }

    /// Builds the client. Nothing is connected yet.
    ///
    /// # Errors
    /// `BadRequest` if an endpoint is no `http://host:port` or `https://host:port`, a certificate or a
    /// key cannot be used, the access token or its file cannot be used, or a default is not a value that requests
    /// may have.
    pub fn build(self) -> Result<Client, Error> {
        self.options.validate()?;
        let transport = Transport::new(&self.endpoints, &self.settings())?;
        Ok(self.build_over(transport))
    }

    /// Builds as [`ClientBuilder::build`] does, with requests that are sent by this carrier.
    ///
    /// # Errors
    /// As [`ClientBuilder::build`].
    pub fn build_with(self, carrier: Arc<dyn Carry>) -> Result<Client, Error> {
        self.options.validate()?;
        let carrier = Carrier::Given(carrier);
        let transport = Transport::over(carrier, &self.endpoints, &self.settings())?;
        Ok(self.build_over(transport))
    }

    fn settings(&self) -> Settings {
        Settings {
            connect_timeout: self.connect_timeout,
            timeout: self.timeout,
            batches: self.batching,
            tls: self.tls.clone(),
            access_token: self.access_token.clone(),
        }
    }

    fn build_over(self, transport: Transport) -> Client {
        Client {
            transport: Arc::new(transport),
            options: Arc::new(self.options),
            common: Common::new(self.clock),
        }
    }
}

/// A client of a cluster. Clones are the same handle: they share connections and defaults.
#[derive(Clone)]
pub struct Client {
    transport: Arc<Transport>,
    options: Arc<ServiceOptions>,
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
            access_token: Source::Nothing,
            clock: Arc::new(SystemClock),
            tls: Tls::default(),
        }
    }

    /// Another handle with its own table and defaults on the same connections.
    #[must_use]
    pub fn handle(&self, options: ServiceOptions) -> Self {
        Self { options: Arc::new(options), ..self.clone() }
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

    /// Acquires a lock as [`Client::acquire`] does, waiting for its turn if the request says so, and
    /// leaves the grant as it is: it is not renewed, and ends with its duration or its session.
    ///
    /// If the future is dropped while it waits, its place is left in the background.
    ///
    /// # Errors
    /// As [`LockService::lock`]. A refusal is an answer, except that of a wait that was over before
    /// its answer came: `Forbidden`.
    pub async fn lock_in_turn(&self, request: Acquire) -> Result<LockResponse, Error> {
        let request = self.complete(request);
        match request.options.wait.filter(|wait| !wait.is_zero()) {
            Some(wait) => {
                let mut turn = Turn::come(self, &self.common, &request, wait).await?;
                turn.leaving.nothing_to_leave();
                Ok(turn.answer)
            }
            None => self.lock(request.request, request.options).await,
        }
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
    ///
    /// # Errors
    /// As [`Client::acquire_within`].
    pub async fn acquire_telling(
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
        request.options.table.get_or_insert_with(|| self.options.table.clone());
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

    /// Begins to read a backup: the whole state of the cluster, in the format of a snapshot. It has
    /// everything that was acknowledged before the call, or with `stale` what the node that answers
    /// knows.
    ///
    /// # Errors
    /// `Unavailable`; `NotAllowed` and `Unauthorized` unless an administrator asks.
    pub async fn backup(&self, stale: bool, call: CallOptions) -> Result<BackupDownload, Error> {
        let request = Request::read(routes::BACKUP, &BackupQuery { stale });
        let (response, decided_at) = self.transport.download(&request, &call).await?;
        Ok(BackupDownload::new(response, decided_at))
    }

    /// Whether the node at this endpoint can serve requests now, which it tells everybody.
    ///
    /// # Errors
    /// `Unavailable`, with the reason.
    pub async fn ready_at(&self, endpoint: &str, call: CallOptions) -> Result<(), Error> {
        let request = Request::read(routes::READYZ, &());
        self.transport.ask_one::<DoneAnswer>(endpoint, &request, &call).await.map(|_| ())
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

    /// Decides one command by a request of its own.
    async fn decide_alone(&self, command: Command, call: CallOptions) -> Result<Decision, Error> {
        let Command { request_id, cause, operation, .. } = command;
        let call = CallOptions { cause: cause.map(Into::into), ..call };
        match &operation {
            Operation::Lock(command) if command.waits() => {
                let ask = |id, call| self.wait(command, id, call);
                batch::locked(self.under_id(request_id, &call, ask).await?)
            }
            Operation::Lock(command) => {
                let ask = |id, call| {
                    let body = LockBody::new(command, Some(id));
                    let request = Request::write("POST", routes::LOCK, &body);
                    let request = request.keeping(command.token.is_some());
                    async move { self.transport.write_or_refusal::<LockReply>(&request, &call).await }
                };
                batch::locked(self.under_id(request_id, &call, ask).await?)
            }
            Operation::Unlock(command) => {
                let ask = |id, call| {
                    let body = UnlockBody::new(command, Some(id));
                    let request = Request::write("POST", routes::UNLOCK, &body).keeping(true);
                    async move { self.transport.write_or_refusal::<UnlockAnswer>(&request, &call).await }
                };
                Ok(batch::unlocked(self.under_id(request_id, &call, ask).await?))
            }
            Operation::ConfigureTable(command) => {
                let ask = |id, call| {
                    let body = TableBody::new(command, Some(id));
                    let request = Request::write("PUT", routes::TABLE, &body);
                    async move { self.transport.call::<DoneAnswer>(&request, &call).await }
                };
                let (_, decided_at) = self.under_id(request_id, &call, ask).await?;
                Ok(Decision { outcome: Outcome::Table, decided_at })
            }
            Operation::DeleteTable { table } => {
                let ask = |id, call| {
                    let query = TableQuery { table: table.to_string(), request_id: Some(id) };
                    let request = Request::delete(routes::TABLE, &query);
                    async move { self.transport.call::<DeleteAnswer>(&request, &call).await }
                };
                let (answer, decided_at) = self.under_id(request_id, &call, ask).await?;
                let outcome = match answer.into() {
                    DeleteStatus::Ok => Outcome::Table,
                    DeleteStatus::NoTable => Outcome::NoTable,
                };
                Ok(Decision { outcome, decided_at })
            }
            Operation::OpenSession(_) | Operation::KeepAlive(_) | Operation::CloseSession(_) => {
                self.decide_on_session(&operation, request_id, call).await
            }
            Operation::SetLimit(command) => {
                let ask = |id, call| {
                    let request =
                        Request::write("PUT", routes::LIMIT, &LimitBody::new(command, Some(id)));
                    async move { self.transport.call::<LimitAnswer>(&request, &call).await }
                };
                let (answer, decided_at) = self.under_id(request_id, &call, ask).await?;
                let outcome = match answer.status {
                    LimitStatusWord::Ok => Outcome::Limit,
                    LimitStatusWord::NoLimit => Outcome::NoLimit,
                };
                Ok(Decision { outcome, decided_at })
            }
            Operation::Access(change) => self.change_access(change, call).await,
            Operation::Leave(_) => Err(Error::bad_request("only a node makes this command")),
            Operation::Advance | Operation::RaiseFeatureLevel(_) => {
                Err(Error::bad_request("only a leader makes this command"))
            }
        }
    }

    /// Changes rules, tokens, or whether they count. Each of these changes may be repeated as it is.
    async fn change_access(&self, change: &Change, call: CallOptions) -> Result<Decision, Error> {
        let request = match change {
            Change::PutRule(rule) => {
                Request::write("PUT", routes::ACCESS_RULES, &RuleBody::from(rule))
            }
            Change::RemoveRule(name) => {
                Request::delete(routes::ACCESS_RULES, &RuleQuery::new(name))
            }
            Change::RevokeToken(id) => {
                Request::delete(routes::ACCESS_TOKENS, &TokenQuery { id: id.to_string() })
            }
            Change::Switch(enabled) => {
                Request::write("PUT", routes::ACCESS, &SwitchBody { enabled: *enabled })
            }
            Change::PutToken(_) | Change::Bootstrap { .. } => {
                return Err(Error::bad_request(
                    "the node that is asked draws the secret of a token",
                ));
            }
        };
        let (answer, decided_at) = self.transport.call::<ChangedAnswer>(&request, &call).await?;
        Ok(Decision { outcome: Outcome::Access(answer.into()), decided_at })
    }

    /// Asks about rules, tokens, and who may do what.
    async fn ask_access(&self, question: Question, call: &CallOptions) -> Result<Answer, Error> {
        let transport = &self.transport;
        match question {
            Question::Status => {
                let request = Request::read(routes::ACCESS_WHOAMI, &());
                let (answer, at) = transport.call::<WhoamiAnswer>(&request, call).await?;
                Ok(answer.into_words(at))
            }
            Question::Rules { after, limit } => {
                let query = RulesQuery { after: Some(after), limit: Some(limit) };
                let request = Request::read(routes::ACCESS_RULES, &query);
                let (answer, at) = transport.call::<RulesAnswer>(&request, call).await?;
                answer.into_words(at).map_err(|error| not_understood(&error))
            }
            Question::Tokens { after, limit } => {
                let after = after.map(|after| after.to_string());
                let query = TokensQuery { after, limit: Some(limit) };
                let request = Request::read(routes::ACCESS_TOKENS, &query);
                let (answer, at) = transport.call::<TokensAnswer>(&request, call).await?;
                answer.into_words(at).map_err(|error| not_understood(&error))
            }
            Question::CanI(asked) => {
                let body = CanIBody::from(&asked);
                let request = Request::question("POST", routes::ACCESS_CAN_I, &body);
                let (answer, at) = transport.call::<CanIAnswer>(&request, call).await?;
                Ok(answer.into_words(at))
            }
            Question::Credential(_) => Err(Error::bad_request("only a node asks this")),
        }
    }

    /// Makes an access token. The answer has its secret, which is shown nowhere else.
    ///
    /// # Errors
    /// As [`LockService::lock`], and `NotAllowed`. After `Unknown` the token may exist although
    /// nobody knows its secret: list the tokens and revoke it.
    pub async fn create_access_token(
        &self,
        token: &TokenBody,
        call: CallOptions,
    ) -> Result<TokenAnswer, Error> {
        let request = Request::once("POST", routes::ACCESS_TOKENS, token);
        self.transport.call(&request, &call).await.map(|(answer, _)| answer)
    }

    /// The caller, as the node that is asked knows it: also the kind of its credential and when that
    /// ends.
    ///
    /// # Errors
    /// As [`LockService::read`]; `Unauthorized` if the credential is refused, with the reason.
    pub async fn whoami(&self, call: CallOptions) -> Result<WhoamiAnswer, Error> {
        let request = Request::read(routes::ACCESS_WHOAMI, &());
        self.transport.call(&request, &call).await.map(|(answer, _)| answer)
    }

    /// Makes the first administrator and its access token, once.
    ///
    /// # Errors
    /// As [`Client::create_access_token`]; `BadRequest` if there is a token, or access control is on.
    pub async fn bootstrap_access(
        &self,
        first: &BootstrapBody,
        call: CallOptions,
    ) -> Result<TokenAnswer, Error> {
        let request = Request::once("POST", routes::ACCESS_BOOTSTRAP, first);
        self.transport.call(&request, &call).await.map(|(answer, _)| answer)
    }

    /// Decides one command on sessions.
    async fn decide_on_session(
        &self,
        operation: &Operation,
        request_id: Option<RequestId>,
        call: CallOptions,
    ) -> Result<Decision, Error> {
        if let Operation::OpenSession(command) = operation {
            let ask = |id, call| {
                let request =
                    Request::write("POST", routes::SESSIONS, &SessionBody::new(command, Some(id)));
                async move { self.transport.call_or_refusal::<SessionAnswer>(&request, &call).await }
            };
            let (answer, decided_at) = self.under_id(request_id, &call, ask).await?;
            let status = match answer {
                Ok(answer) => SessionStatus::Open(answer.into()),
                Err(forbidden) => SessionStatus::Failed(forbidden),
            };
            Ok(Decision { outcome: Outcome::Session(status), decided_at })
        } else if let Operation::KeepAlive(sessions) = operation {
            let body = KeepAliveBody::new(sessions);
            let request = Request::write("POST", routes::KEEPALIVE, &body);
            let (answer, decided_at) =
                self.transport.call::<KeepAliveAnswer>(&request, &call).await?;
            let sessions = answer.into_words().filter(|told| told.len() == sessions.len());
            let sessions =
                sessions.ok_or_else(|| Error::unknown("the answer is not about these sessions"))?;
            Ok(Decision { outcome: Outcome::KeptAlive(sessions), decided_at })
        } else if let Operation::CloseSession(session) = operation {
            let ask = |id, call| {
                let query = SessionQuery { session: *session, request_id: Some(id) };
                let request = Request::delete(routes::SESSIONS, &query);
                async move { self.transport.call::<CloseAnswer>(&request, &call).await }
            };
            let (answer, decided_at) = self.under_id(request_id, &call, ask).await?;
            let status = match answer.status {
                CloseStatusWord::Ok => CloseStatus::Ok,
                CloseStatusWord::NoSession => CloseStatus::NoSession,
            };
            Ok(Decision { outcome: Outcome::Closed(status), decided_at })
        } else {
            Err(Error::bad_request("this is no command on sessions"))
        }
    }

    /// Asks for a lock until the wait is over: while the answer is a place, the request is asked
    /// again under its id, so it waits on whichever node answers.
    async fn wait(
        &self,
        command: &LockCommand,
        id: RequestId,
        call: CallOptions,
    ) -> Result<Reply<Result<LockReply, Forbidden>>, Error> {
        let wait = Duration::from_millis(command.wait_ms);
        let own = wait.saturating_add(crate::api::DEFAULT_TIMEOUT);
        let waited = Deadline::after(wait);
        let deadline = Deadline::after(call.timeout.unwrap_or(own));
        let mut open = false;
        loop {
            let mut command = command.clone();
            // With 0 it would be another request: one that does not wait.
            command.wait_ms = crate::api::to_ms(waited.remaining()).max(1);
            let request =
                Request::patient("POST", routes::LOCK, &LockBody::new(&command, Some(id)));
            let share = deadline.remaining().min(LONGEST_ASK);
            let call = CallOptions { timeout: Some(share), ..call.clone() };
            let answer = self.transport.call_or_refusal::<LockReply>(&request, &call).await;
            let is_over = deadline.remaining() < SHORTEST_ASK;
            match answer {
                Ok((Ok(LockReply::Waiting(_)), _)) if !is_over => open = true,
                Err(error @ (Error::Unavailable { .. } | Error::Unknown { .. })) if !is_over => {
                    open |= matches!(error, Error::Unknown { .. });
                    let pause = error.retry_after().unwrap_or_default().max(SHORTEST_ASK);
                    tokio::time::sleep(pause.min(deadline.remaining())).await;
                }
                // This ask was not done; the place of an earlier one may stand, or be granted.
                Err(Error::Unavailable { reason, .. }) if open => {
                    return Err(Error::unknown(reason));
                }
                answer => return answer,
            }
        }
    }

    /// Decides lock and unlock commands by one request, or by as few as they fit in.
    async fn decide_together(
        &self,
        mut commands: Vec<Command>,
        call: CallOptions,
    ) -> Vec<Result<Decision, Error>> {
        let is_ours: Vec<bool> =
            commands.iter().map(|command| command.request_id.is_none()).collect();
        let lane = |ours: &bool| ours.then(|| self.transport.lanes().take());
        let lanes = is_ours.iter().map(lane).collect();
        let deadline = Deadline::after(self.transport.patience(&call));
        let mut answers = self.batch_under(commands.clone(), lanes, &call).await;
        let is_forgotten = |(ours, answer): (&bool, &Result<_, _>)| {
            *ours && matches!(answer, Err(Error::LaneForgotten { .. }))
        };
        let forgotten: Vec<bool> = is_ours.iter().zip(&answers).map(is_forgotten).collect();
        let Some(from) = forgotten.iter().position(|forgotten| *forgotten) else { return answers };
        if forgotten[from..].iter().all(|forgotten| *forgotten) {
            // None of these took effect, and nothing after them: on new lanes they keep their
            // order.
            let again = commands.split_off(from);
            let call = CallOptions { timeout: Some(deadline.remaining()), ..call };
            let lanes = again.iter().map(|_| Some(self.transport.lanes().begin())).collect();
            answers.splice(from.., self.batch_under(again, lanes, &call).await);
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

    /// Sends commands under the ids of these lanes, and returns their answers.
    async fn batch_under(
        &self,
        mut commands: Vec<Command>,
        lanes: Vec<Option<Lane<'_>>>,
        call: &CallOptions,
    ) -> Vec<Result<Decision, Error>> {
        for (command, lane) in commands.iter_mut().zip(&lanes) {
            if let Some(lane) = lane {
                command.request_id = Some(lane.id());
            }
        }
        let answers = self.transport.batch(commands, call).await;
        for (lane, answer) in lanes.into_iter().zip(&answers) {
            settle(lane, answer);
        }
        answers
    }
}

/// The error for an answer that this client does not understand. A read has done nothing.
fn not_understood(error: &Error) -> Error {
    Error::unavailable(format!("the answer is not understood: {error}"))
}

/// Splits commands into those that are sent together, in their order: requests for locks and
/// releases share a message, and each command on a table has one of its own.
fn runs(commands: Vec<Command>) -> Vec<Vec<Command>> {
    let is_of_a_lock =
        |command: &Command| matches!(command.operation, Operation::Lock(_) | Operation::Unlock(_));
    let mut runs: Vec<Vec<Command>> = Vec::new();
    for command in commands {
        match runs.last_mut() {
            Some(run) if is_of_a_lock(&command) && is_of_a_lock(&run[0]) => run.push(command),
            Some(_) | None => runs.push(vec![command]),
        }
    }
    runs
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

impl LockService for Client {
    async fn decide(
        &self,
        commands: Vec<Command>,
        call: CallOptions,
    ) -> Vec<Result<Decision, Error>> {
        let deadline = Deadline::after(self.transport.patience(&call));
        let mut answers = Vec::with_capacity(commands.len());
        for mut run in runs(commands) {
            let call = CallOptions { timeout: Some(deadline.remaining()), ..call.clone() };
            match run.pop() {
                Some(only) if run.is_empty() => answers.push(self.decide_alone(only, call).await),
                last => {
                    run.extend(last);
                    answers.extend(self.decide_together(run, call).await);
                }
            }
        }
        answers
    }

    async fn read(&self, query: Query, call: CallOptions) -> Result<View, Error> {
        let Query { stale, principal: _, subject } = query;
        match subject {
            Subject::Lock { table, signature, places_after } => {
                let (table, signature) = (Some(table.into()), signature.into());
                let places_after = Some(places_after).filter(|count| *count > 0);
                let query = CheckQuery { signature, table, places_after, stale };
                let request = Request::read(routes::LOCK, &query);
                let (answer, at) = self.transport.call::<CheckAnswer>(&request, &call).await?;
                Ok(View::Lock(answer.into_words(at)))
            }
            Subject::Locks { table, page } => {
                let query = ListQuery {
                    prefix: page.prefix,
                    after: page.after,
                    limit: Some(page.limit),
                    state: page.state,
                    table: Some(table.into()),
                    stale,
                    session: None,
                };
                let request = Request::read(routes::LOCKS, &query);
                let (answer, at) = self.transport.call::<ListAnswer>(&request, &call).await?;
                Ok(View::Locks(answer.into_words(at)))
            }
            Subject::Tables(page) => {
                let query = TablesQuery { after: page.after, limit: Some(page.limit), stale };
                let request = Request::read(routes::TABLES, &query);
                let (answer, at) = self.transport.call::<TablesAnswer>(&request, &call).await?;
                Ok(View::Tables(answer.into_words(at)))
            }
            Subject::Verify { table, signature, token } => {
                let (table, signature) = (Some(table.into()), signature.into());
                let body = VerifyBody { signature, token: Some(token.0), table };
                let request = Request::question("POST", routes::VERIFY, &body);
                let (answer, at) = self.transport.call::<VerifyAnswer>(&request, &call).await?;
                Ok(View::Verify(answer.into_words(at)))
            }
            Subject::SessionLocks(page) => {
                let (table, after) = page.after.unzip();
                let (session, limit) = (Some(page.session), Some(page.limit));
                let query =
                    ListQuery { after, limit, table, stale, session, ..ListQuery::default() };
                let request = Request::read(routes::LOCKS, &query);
                let (answer, at) = self.transport.call::<ListAnswer>(&request, &call).await?;
                Ok(View::SessionLocks(answer.into_session_locks(at)))
            }
            Subject::Deadlocks => {
                let request = Request::read(routes::DEADLOCKS, &DeadlocksQuery { stale });
                let (answer, at) = self.transport.call::<DeadlocksAnswer>(&request, &call).await?;
                Ok(View::Deadlocks(answer.into_words(at)))
            }
            Subject::Access(question) => self.ask_access(question, &call).await.map(View::Access),
        }
    }

    fn defaults(&self) -> &ServiceOptions {
        &self.options
    }
}

impl DebugLockService for Client {
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
