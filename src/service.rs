//! The one trait that every lock service implements.
//!
//! Implementors: [`crate::memory::MemoryLocks`], `node::Node`, `forward::Forwarding` and
//! [`crate::client::Client`]. HTTP handlers, the conformance suite and the command line are generic
//! over it and do not know about leaders.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::types::{
    BatchAnswer, BatchRequest, CheckResponse, DEFAULT_TABLE, DeleteStatus, ListRequest,
    ListResponse, LockOptions, LockRequest, LockResponse, ReadOptions, TableDefaults, TableInfo,
    TableOptions, TablesRequest, TablesResponse, TimeToLive, UnlockOptions, UnlockRequest,
    UnlockResponse,
};

/// A service that decides lock requests.
///
/// Every method may be called by anyone at any time. When a write returns `Ok`, its effect is as
/// durable as the implementation ever makes it: for a cluster, on the disks of a majority. A future
/// that is dropped before it resolves leaves its outcome unknown.
pub trait LockService: Send + Sync + 'static {
    /// Takes, renews or takes over a lock; see [`LockOptions`] for force and renew-only.
    ///
    /// # Errors
    /// `BadRequest`, `Unavailable`, `Unknown`, `Unauthorized`, `LaneForgotten`. A refusal is an
    /// answer, not an error.
    fn lock(
        &self,
        request: LockRequest,
        options: LockOptions,
    ) -> impl Future<Output = Result<LockResponse, Error>> + Send;

    /// Releases a lock.
    ///
    /// # Errors
    /// As [`LockService::lock`].
    fn unlock(
        &self,
        request: UnlockRequest,
        options: UnlockOptions,
    ) -> impl Future<Output = Result<UnlockResponse, Error>> + Send;

    /// Sends many lock and unlock requests at once. One answer for each request, in their order.
    ///
    /// A batch saves round trips and is not a transaction: each request succeeds or fails by
    /// itself, as if it had been sent alone, and requests of others may be decided between two of
    /// them. Those that are decided are decided in the order given, so that a batch may release a
    /// lock and acquire it again, or use one lane of request ids several times. After one that
    /// failed with `Unavailable` or `Unknown`, later ones may still have been done.
    ///
    /// Each request may have its own timeout; the batch is answered as a whole, when the request
    /// with the longest timeout is answered or times out.
    fn batch(
        &self,
        requests: Vec<BatchRequest>,
    ) -> impl Future<Output = Vec<Result<BatchAnswer, Error>>> + Send {
        async move {
            let mut answers = Vec::with_capacity(requests.len());
            for request in requests {
                answers.push(match request {
                    BatchRequest::Lock(request, options) => {
                        self.lock(request, options).await.map(BatchAnswer::Lock)
                    }
                    BatchRequest::Unlock(request, options) => {
                        self.unlock(request, options).await.map(BatchAnswer::Unlock)
                    }
                });
            }
            answers
        }
    }

    /// Reads one record. It shows the *past*; a lock is held by holding it, not by looking.
    ///
    /// # Errors
    /// `NotFound`, `BadRequest`, `Unavailable`, `Unauthorized`; never `Unknown`.
    fn check(
        &self,
        signature: String,
        options: ReadOptions,
    ) -> impl Future<Output = Result<CheckResponse, Error>> + Send;

    /// Reads a page of a table in byte order. Pages are not one snapshot.
    ///
    /// # Errors
    /// `BadRequest`, `Unavailable`, `Unauthorized`; never `Unknown`.
    fn list(
        &self,
        request: ListRequest,
        options: ReadOptions,
    ) -> impl Future<Output = Result<ListResponse, Error>> + Send;

    /// Reads a page of the tables that have defaults or records, in byte order. Pages are not one
    /// snapshot. For all of them, see [`all_tables`].
    ///
    /// # Errors
    /// `BadRequest`, `Unavailable`, `Unauthorized`; never `Unknown`.
    fn tables(
        &self,
        request: TablesRequest,
        options: ReadOptions,
    ) -> impl Future<Output = Result<TablesResponse, Error>> + Send;

    /// Sets the values that a table supplies to later requests that leave them out. `options.table`
    /// names the table.
    ///
    /// # Errors
    /// As [`LockService::lock`].
    fn configure_table(
        &self,
        defaults: TableDefaults,
        options: TableOptions,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Deletes a table with its records and its defaults. `options.table` names the table. Tokens
    /// of later grants are still larger than all before. A table that does not exist is an answer,
    /// not an error.
    ///
    /// # Errors
    /// As [`LockService::lock`].
    fn delete_table(
        &self,
        options: TableOptions,
    ) -> impl Future<Output = Result<DeleteStatus, Error>> + Send;
}

/// Reads all tables, page by page.
///
/// # Errors
/// As [`LockService::tables`].
pub async fn all_tables(
    service: &impl LockService,
    options: ReadOptions,
) -> Result<Vec<TableInfo>, Error> {
    let mut request = TablesRequest { limit: TablesRequest::MAX_LIMIT, after: None };
    let mut tables = Vec::new();
    loop {
        let page = service.tables(request.clone(), options.clone()).await?;
        tables.extend(page.tables);
        match page.next {
            Some(next) => request.after = Some(next),
            None => return Ok(tables),
        }
    }
}

/// A shared service is a service.
impl<S: LockService> LockService for Arc<S> {
    async fn lock(
        &self,
        request: LockRequest,
        options: LockOptions,
    ) -> Result<LockResponse, Error> {
        (**self).lock(request, options).await
    }

    async fn unlock(
        &self,
        request: UnlockRequest,
        options: UnlockOptions,
    ) -> Result<UnlockResponse, Error> {
        (**self).unlock(request, options).await
    }

    async fn batch(&self, requests: Vec<BatchRequest>) -> Vec<Result<BatchAnswer, Error>> {
        (**self).batch(requests).await
    }

    async fn check(&self, signature: String, options: ReadOptions) -> Result<CheckResponse, Error> {
        (**self).check(signature, options).await
    }

    async fn list(
        &self,
        request: ListRequest,
        options: ReadOptions,
    ) -> Result<ListResponse, Error> {
        (**self).list(request, options).await
    }

    async fn tables(
        &self,
        request: TablesRequest,
        options: ReadOptions,
    ) -> Result<TablesResponse, Error> {
        (**self).tables(request, options).await
    }

    async fn configure_table(
        &self,
        defaults: TableDefaults,
        options: TableOptions,
    ) -> Result<(), Error> {
        (**self).configure_table(defaults, options).await
    }

    async fn delete_table(&self, options: TableOptions) -> Result<DeleteStatus, Error> {
        (**self).delete_table(options).await
    }
}

/// The operations of the conformance suite beyond those of a service. For tests alone.
pub trait DebugLockService: LockService {
    /// Changes the default duration of this handle for later requests.
    ///
    /// # Errors
    /// `BadRequest` if the duration is not one.
    fn set_default_duration(
        &self,
        duration: Duration,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Returns after the service's clock has advanced by at least `by`: at once if the clock is a
    /// manual one, otherwise by waiting.
    ///
    /// # Errors
    /// `Unavailable`, `Unknown`.
    fn advance_clock(&self, by: Duration) -> impl Future<Output = Result<(), Error>> + Send;
}

/// Options of a handle to a service: the values it supplies to requests that leave them out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceOptions {
    /// The table.
    pub table: String,
    /// The duration of a grant; `None` leaves it to the table.
    pub default_duration: Option<Duration>,
    /// The least time_to_live; `None` leaves it to the table. A length needs a `default_duration`
    /// beside it.
    pub default_time_to_live: Option<TimeToLive>,
}

impl Default for ServiceOptions {
    fn default() -> Self {
        Self { table: DEFAULT_TABLE.to_owned(), default_duration: None, default_time_to_live: None }
    }
}

impl ServiceOptions {
    /// Fills in the handle's own table and defaults where the options leave them out: a
    /// time_to_live that is left out becomes the larger of the default and the duration.
    pub fn fill_lock(&self, options: &mut LockOptions) {
        options.table.get_or_insert_with(|| self.table.clone());
        // Renew-only requests follow the same rule: a renewal gives the grant its next duration.
        if options.duration.is_none() {
            options.duration = self.default_duration;
        }
        if options.time_to_live.is_none() {
            options.time_to_live = match (self.default_time_to_live, options.duration) {
                (Some(least), Some(duration)) => Some(least.at_least(duration)),
                (Some(TimeToLive::Never), None) => Some(TimeToLive::Never),
                (Some(TimeToLive::For(_)) | None, _) => None,
            };
        }
    }

    /// Fills in each request of a batch as if it were sent alone.
    pub fn fill_batch(&self, requests: &mut [BatchRequest]) {
        for request in requests {
            match request {
                BatchRequest::Lock(_, options) => self.fill_lock(options),
                BatchRequest::Unlock(_, options) => self.fill_table(&mut options.table),
            }
        }
    }

    /// Fills in the handle's own table if the options leave it out.
    pub fn fill_table(&self, table: &mut Option<String>) {
        table.get_or_insert_with(|| self.table.clone());
    }
}
