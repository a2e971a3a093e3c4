//! Keyward through anything that answers lock requests: the client library, or locks in memory.

use std::time::Duration;

use super::target::{Failure, Owner, Target, WAIT};
use keyward_client::Client;
use keyward_client::tls::Tls;
use keyward_core::error::Error;
use keyward_core::service::LockService;
use keyward_core::types::{
    CallOptions, LockOptions, LockRequest, LockResponse, LockStatus, ReadOptions, Token,
    UnlockOptions, UnlockRequest, UnlockStatus,
};

/// Existing services; clients are spread over them by their number.
#[derive(Clone, Debug)]
pub struct Services<S> {
    services: Vec<S>,
    table: String,
}

impl<S> Services<S> {
    /// Locks of this table in these services, of which there is at least one.
    ///
    /// # Panics
    /// If there is none.
    pub fn new(services: Vec<S>, table: impl Into<String>) -> Self {
        assert!(!services.is_empty(), "a client needs a service");
        Self { services, table: table.into() }
    }
}

impl<S: LockService + Clone> Target for Services<S> {
    type Owner = ServiceOwner<S>;

    async fn owner(&self, client: usize) -> Result<ServiceOwner<S>, Failure> {
        let service = self.services[client % self.services.len()].clone();
        Ok(ServiceOwner::new(service, client, &self.table))
    }
}

/// A cluster through the client library, each client with connections of its own, as programs on
/// as many machines have.
#[derive(Clone, Debug)]
pub struct Clients {
    endpoints: Vec<String>,
    table: String,
    timeout: Duration,
    tls: Tls,
    access_token: Option<String>,
}

impl Clients {
    /// Clients of these nodes, each beginning with the one of its number. `timeout` bounds a
    /// request, retries included.
    pub fn new(endpoints: Vec<String>, table: impl Into<String>, timeout: Duration) -> Self {
        Self { endpoints, table: table.into(), timeout, tls: Tls::default(), access_token: None }
    }

    /// The same with this TLS.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = tls;
        self
    }

    /// The same clients with this access token.
    #[must_use]
    pub fn with_access_token(self, access_token: Option<String>) -> Self {
        Self { access_token, ..self }
    }
}

impl Target for Clients {
    type Owner = ServiceOwner<Client>;

    async fn owner(&self, client: usize) -> Result<ServiceOwner<Client>, Failure> {
        let mut endpoints = self.endpoints.clone();
        let first = client % endpoints.len().max(1);
        endpoints.rotate_left(first);
        let builder = Client::builder().endpoints(endpoints).timeout(self.timeout);
        let mut builder = builder.tls(self.tls.clone());
        if let Some(token) = &self.access_token {
            builder = builder.access_token(token);
        }
        let service = builder.build().map_err(failure)?;
        // Connecting is lazy; this is the first request.
        service.cluster(CallOptions::default()).await.map_err(failure)?;
        Ok(ServiceOwner::new(service, client, &self.table))
    }
}

/// One owner that uses a service.
#[derive(Debug)]
pub struct ServiceOwner<S> {
    service: S,
    signee: String,
    table: String,
}

impl<S> ServiceOwner<S> {
    fn new(service: S, client: usize, table: &str) -> Self {
        let signee = format!("client-{client}-{:08x}", rand::random::<u32>());
        Self { service, signee, table: table.to_owned() }
    }

    fn lock_request(&self, signature: &str) -> LockRequest {
        LockRequest { signature: signature.to_owned(), signee: self.signee.clone(), level: None }
    }

    fn lock_options(&self, duration: Duration, token: Option<Token>) -> LockOptions {
        LockOptions {
            table: Some(self.table.clone()),
            duration: Some(duration),
            token,
            ..LockOptions::default()
        }
    }
}

impl<S: LockService> Owner for ServiceOwner<S> {
    type Held = Token;

    async fn acquire(&mut self, signature: &str, duration: Duration) -> Result<Token, Failure> {
        let options = self.lock_options(duration, None);
        granted(self.service.lock(self.lock_request(signature), options).await)
    }

    async fn acquire_in_turn(
        &mut self,
        signature: &str,
        duration: Duration,
    ) -> Result<Token, Failure> {
        let options = self.lock_options(duration, None);
        let options = LockOptions { wait: Some(WAIT), ..options };
        granted(self.service.lock(self.lock_request(signature), options).await)
    }

    async fn renew(
        &mut self,
        signature: &str,
        held: &mut Token,
        duration: Duration,
    ) -> Result<(), Failure> {
        let options = self.lock_options(duration, Some(*held));
        granted(self.service.lock(self.lock_request(signature), options).await).map(|_| ())
    }

    async fn release(&mut self, signature: &str, held: Token) -> Result<(), Failure> {
        let request =
            UnlockRequest { signature: signature.to_owned(), signee: self.signee.clone() };
        let options = UnlockOptions {
            table: Some(self.table.clone()),
            token: Some(held),
            ..UnlockOptions::default()
        };
        match self.service.unlock(request, options).await.map_err(failure)?.status {
            UnlockStatus::Ok => Ok(()),
            UnlockStatus::NoLock | UnlockStatus::Left | UnlockStatus::Failed(_) => {
                Err(Failure::Refused)
            }
        }
    }

    async fn check(&mut self, signature: &str) -> Result<bool, Failure> {
        let options = ReadOptions { table: Some(self.table.clone()), ..ReadOptions::default() };
        match self.service.check(signature.to_owned(), options).await {
            Ok(response) => Ok(response.record.holders.iter().any(|holder| !holder.expired)),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(failure(error)),
        }
    }

    fn token(held: &Token) -> Option<u64> {
        Some(held.0)
    }
}

fn granted(response: Result<LockResponse, Error>) -> Result<Token, Failure> {
    match response.map_err(failure)?.status {
        LockStatus::Ok(grant)
        | LockStatus::Renewed(grant)
        | LockStatus::Transferred { grant, .. } => Ok(grant.token),
        LockStatus::Waiting(_) | LockStatus::Failed(_) => Err(Failure::Refused),
    }
}

/// Classifies an error of the contract by whether the request was done.
#[allow(clippy::needless_pass_by_value, reason = "errors are given away where they end")]
pub(super) fn failure(error: Error) -> Failure {
    match error {
        Error::Forbidden(_) => Failure::Refused,
        Error::Unknown { reason } | Error::LaneForgotten { reason } => Failure::Unknown(reason),
        Error::BadRequest { .. }
        | Error::NotFound { .. }
        | Error::Unavailable { .. }
        | Error::Unauthorized { .. }
        | Error::NotAllowed { .. } => Failure::Unavailable(error.to_string()),
    }
}
