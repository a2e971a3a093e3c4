//! etcd, through `etcd-client`.
//!
//! [`Manner::LockService`] is etcd's own lock (`v3lock`): `Lock` creates a key below the lock's
//! name and waits until it is the oldest, `Unlock` deletes it. [`Manner::Transaction`] suits a
//! program that needs an answer at once: one transaction creates the key if it is absent, another
//! deletes it if it is still ours.
//!
//! A lock lasts as long as its lease. Leases have whole seconds, at least two, and their duration
//! cannot be changed: [`Owner::renew`] keeps one alive for the duration it was granted with.
//! Nothing here keeps a lease alive in the background: a holder that does nothing loses its locks.

use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, ConnectOptions, Error, GetOptions, LeaseKeepAliveStream,
    LeaseKeeper, LockOptions, PutOptions, Txn, TxnOp,
};
use keyward::bench::{Failure, Owner, Target};

use super::{answered, as_read, spread};
use crate::wait::Stopwatch;

/// The way to acquire a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manner {
    /// `v3lock`. It has no way to try: a caller queues, and `acquire` times out after
    /// [`super::ANSWER`], withdrawing its place in the queue. `Unlock` does not report whether the
    /// lock was still held, so a late release succeeds (and harms nobody: the key is the caller's
    /// own).
    LockService,
    /// A transaction on the key itself, refused at once if another holds it.
    Transaction,
}

/// The owner of a lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LeaseOf {
    /// The session: its locks live and die together, as with etcd's own client packages. Acquire
    /// keeps the lease alive itself once a third of it is over, so a lock lasts at least two thirds
    /// of the requested duration.
    TheSession,
    /// Each lock: granted when it is acquired, revoked when it is released, so that every lock has
    /// its whole duration. Two more requests for each pair.
    TheLock,
}

/// A cluster of etcd.
#[derive(Clone, Debug)]
pub struct Etcd {
    endpoints: Vec<String>,
    manner: Manner,
    lease_of: LeaseOf,
}

impl Etcd {
    /// The nodes at these endpoints (`http://HOST:PORT`).
    pub fn new(endpoints: Vec<String>, manner: Manner, lease_of: LeaseOf) -> Self {
        Self { endpoints, manner, lease_of }
    }
}

impl Target for Etcd {
    type Owner = EtcdOwner;

    async fn owner(&self, client: usize) -> Result<EtcdOwner, Failure> {
        let options = ConnectOptions::new().with_connect_timeout(Duration::from_secs(2));
        let endpoint = spread(&self.endpoints, client);
        let opened = async {
            let mut client = Client::connect([endpoint], Some(options)).await?;
            // Connecting is lazy; this is the first request.
            client.status().await?;
            Ok::<_, Error>(client)
        };
        let client = answered(opened, failure).await.map_err(as_read)?;
        Ok(EtcdOwner { client, manner: self.manner, lease_of: self.lease_of, lease: None })
    }
}

/// A client of etcd, with its own connection.
pub struct EtcdOwner {
    client: Client,
    manner: Manner,
    lease_of: LeaseOf,
    /// The lease of the session, if it has one.
    lease: Option<Lease>,
}

/// A lease, and the stream on which it is kept alive, once it has been.
#[derive(Debug)]
struct Lease {
    id: i64,
    /// The requested duration; the granted one is never shorter.
    duration: Duration,
    /// The time since the request that last renewed it was sent.
    age: Stopwatch,
    stream: Option<(LeaseKeeper, LeaseKeepAliveStream)>,
}

/// A held lock.
#[derive(Debug)]
pub struct EtcdHeld {
    key: Vec<u8>,
    /// The store's revision when the lock was acquired; that of the key's creation, if there was no
    /// queue.
    revision: i64,
    lease: HeldBy,
}

#[derive(Debug)]
enum HeldBy {
    /// The session's lease with this id, which may have been replaced since.
    Session(i64),
    Own(Box<Lease>),
}

impl Owner for EtcdOwner {
    type Held = EtcdHeld;

    async fn acquire(&mut self, signature: &str, duration: Duration) -> Result<EtcdHeld, Failure> {
        let lease = match self.lease_of {
            LeaseOf::TheLock => HeldBy::Own(Box::new(self.grant(duration).await?)),
            LeaseOf::TheSession => HeldBy::Session(self.session_lease(duration).await?),
        };
        let id = lease.id();
        let taken = match self.manner {
            Manner::LockService => self.lock(signature, id).await,
            Manner::Transaction => self.create(signature, id).await,
        };
        match (taken, lease) {
            (Ok((key, revision)), lease) => Ok(EtcdHeld { key, revision, lease }),
            (Err(failure), HeldBy::Own(lease)) => {
                // It would expire by itself; a failure to revoke changes no answer.
                let _ = answered(self.client.lease_revoke(lease.id), self::failure).await;
                Err(failure)
            }
            (Err(failure), HeldBy::Session(_)) => {
                if failure == lease_is_gone() {
                    self.lease = None;
                }
                Err(failure)
            }
        }
    }

    async fn renew(
        &mut self,
        _signature: &str,
        held: &mut EtcdHeld,
        duration: Duration,
    ) -> Result<(), Failure> {
        let lease = match &mut held.lease {
            HeldBy::Own(lease) => lease,
            HeldBy::Session(id) => match &mut self.lease {
                Some(lease) if lease.id == *id => lease,
                _ => return Err(Failure::Refused),
            },
        };
        if lease.duration < duration {
            let why = format!("the lease was granted for {:?}, for ever", lease.duration);
            return Err(Failure::Unavailable(why));
        }
        let kept = keep_alive(&mut self.client, lease).await;
        if kept == Err(Failure::Refused) && matches!(held.lease, HeldBy::Session(_)) {
            self.lease = None;
        }
        kept
    }

    async fn release(&mut self, _signature: &str, held: EtcdHeld) -> Result<(), Failure> {
        if let HeldBy::Own(lease) = &held.lease {
            // Revoking it deletes the key.
            let revoked = answered(self.client.lease_revoke(lease.id), failure).await;
            return match revoked {
                Err(failure) if failure == lease_is_gone() => Err(Failure::Refused),
                other => other.map(|_| ()),
            };
        }
        match self.manner {
            Manner::LockService => {
                answered(self.client.unlock(held.key), failure).await.map(|_| ())
            }
            Manner::Transaction => {
                let ours =
                    Compare::create_revision(held.key.clone(), CompareOp::Equal, held.revision);
                let delete = TxnOp::delete(held.key, None);
                let request = Txn::new().when([ours]).and_then([delete]);
                let answer = answered(self.client.txn(request), failure).await?;
                if answer.succeeded() { Ok(()) } else { Err(Failure::Refused) }
            }
        }
    }

    /// A linearizable read, which is etcd's default.
    async fn check(&mut self, signature: &str) -> Result<bool, Failure> {
        let (key, options) = match self.manner {
            Manner::Transaction => (signature.to_owned(), GetOptions::new()),
            Manner::LockService => (format!("{signature}/"), GetOptions::new().with_prefix()),
        };
        let options = options.with_keys_only().with_limit(1);
        let found = answered(self.client.get(key, Some(options)), failure).await;
        Ok(!found.map_err(as_read)?.kvs().is_empty())
    }

    fn token(held: &EtcdHeld) -> Option<u64> {
        u64::try_from(held.revision).ok()
    }
}

impl HeldBy {
    fn id(&self) -> i64 {
        match self {
            Self::Session(id) => *id,
            Self::Own(lease) => lease.id,
        }
    }
}

impl EtcdOwner {
    /// The session's lease, with at least two thirds of it left.
    async fn session_lease(&mut self, duration: Duration) -> Result<i64, Failure> {
        if let Some(lease) = &mut self.lease
            && lease.duration == duration
        {
            if lease.age.elapsed() < duration / 3 {
                return Ok(lease.id);
            }
            match keep_alive(&mut self.client, lease).await {
                Ok(()) => return Ok(lease.id),
                // It has ended: a session that goes on begins another.
                Err(Failure::Refused) => {}
                Err(other) => return Err(other),
            }
        }
        let lease = self.grant(duration).await?;
        let id = lease.id;
        self.lease = Some(lease);
        Ok(id)
    }

    async fn grant(&mut self, duration: Duration) -> Result<Lease, Failure> {
        let age = Stopwatch::start();
        let seconds = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
        let seconds = i64::try_from(seconds)
            .map_err(|_| Failure::Unavailable(format!("{duration:?} is too long")))?;
        let granted = answered(self.client.lease_grant(seconds, None), failure).await;
        // A lease that nobody knows holds no lock, so an unknown outcome counts as not done.
        let granted = granted.map_err(as_read)?;
        Ok(Lease { id: granted.id(), duration, age, stream: None })
    }

    async fn lock(&mut self, signature: &str, lease: i64) -> Result<(Vec<u8>, i64), Failure> {
        let options = LockOptions::new().with_lease(lease);
        let request = self.client.lock(signature, Some(options));
        let Ok(answer) = tokio::time::timeout(super::ANSWER, request).await else {
            // The name of the waiting key contains the lease as the server formats it.
            let queued = format!("{signature}/{lease:x}");
            answered(self.client.delete(queued, None), failure).await?;
            return Err(Failure::Refused);
        };
        let answer = answer.map_err(failure)?;
        Ok((
            answer.key().to_vec(),
            answer.header().map_or(0, etcd_client::ResponseHeader::revision),
        ))
    }

    async fn create(&mut self, signature: &str, lease: i64) -> Result<(Vec<u8>, i64), Failure> {
        let absent = Compare::create_revision(signature, CompareOp::Equal, 0);
        let put = TxnOp::put(signature, "", Some(PutOptions::new().with_lease(lease)));
        let request = Txn::new().when([absent]).and_then([put]);
        let answer = answered(self.client.txn(request), failure).await?;
        if !answer.succeeded() {
            return Err(Failure::Refused);
        }
        let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
        Ok((signature.as_bytes().to_vec(), revision))
    }
}

/// Renews a lease; `Refused` if it has ended.
async fn keep_alive(client: &mut Client, lease: &mut Lease) -> Result<(), Failure> {
    let age = Stopwatch::start();
    match lease.stream.take() {
        None => match answered(client.lease_keep_alive(lease.id), as_ended).await {
            Ok(stream) => lease.stream = Some(stream),
            Err(failure) => return Err(failure),
        },
        Some((mut keeper, mut answers)) => {
            let exchange = async {
                keeper.keep_alive().await?;
                answers.message().await
            };
            let answer = answered(exchange, failure).await?;
            let answer =
                answer.ok_or_else(|| Failure::Unknown(String::from("the stream ended")))?;
            if answer.ttl() <= 0 {
                return Err(Failure::Refused);
            }
            lease.stream = Some((keeper, answers));
        }
    }
    lease.age = age;
    Ok(())
}

/// The client's own error for an expired lease, when a stream is opened.
#[expect(clippy::wildcard_enum_match_arm, reason = "another crate's errors, which may grow")]
fn as_ended(error: Error) -> Failure {
    match error {
        Error::LeaseKeepAliveError(why) if why == "lease not found" => Failure::Refused,
        other => failure(other),
    }
}

const LEASE_NOT_FOUND: &str = "etcdserver: requested lease not found";

fn lease_is_gone() -> Failure {
    Failure::Unavailable(String::from(LEASE_NOT_FOUND))
}

/// Classifies an error by whether the request was done. gRPC has the same code for a refused
/// connection and for one that broke during a request, so its text decides.
#[allow(clippy::needless_pass_by_value, reason = "errors are given away where they end")]
fn failure(error: Error) -> Failure {
    const NOT_DONE: [&str; 4] = [
        "etcdserver: no leader",
        "etcdserver: too many requests",
        "tcp connect error",
        "Connection refused",
    ];
    if let Error::GRpcStatus(status) = &error
        && status.message() == LEASE_NOT_FOUND
    {
        return lease_is_gone();
    }
    let text = format!("{error:?}");
    if NOT_DONE.iter().any(|sign| text.contains(sign)) {
        Failure::Unavailable(text)
    } else {
        Failure::Unknown(text)
    }
}

#[cfg(test)]
#[expect(clippy::large_futures, reason = "a test's, made once")]
mod tests {
    use super::super::checks;
    use super::super::server::{Kind, Servers};
    use super::*;

    #[tokio::test]
    async fn etcd_excludes_and_ends_as_a_lock_service_must() {
        if !checks::installed(&Kind::Etcd) {
            return;
        }
        let parent = std::env::temp_dir();
        let servers = Servers::start(Kind::Etcd, &parent).await.expect("etcd starts");
        for lease_of in [LeaseOf::TheSession, LeaseOf::TheLock] {
            let etcd = Etcd::new(servers.endpoints(), Manner::Transaction, lease_of);
            checks::excludes(&etcd).await;
            checks::ends(&etcd, Duration::from_secs(3)).await;
        }
        let etcd = Etcd::new(servers.endpoints(), Manner::LockService, LeaseOf::TheSession);
        queues(&etcd).await;
    }

    /// The lock service hands over to the next in the queue, with a larger token.
    async fn queues(etcd: &Etcd) {
        let duration = Duration::from_secs(20);
        let mut one = etcd.owner(0).await.expect("an owner");
        let mut other = etcd.owner(1).await.expect("an owner");
        let held = one.acquire("peers/queue", duration).await.expect("a free lock is taken");
        assert_eq!(other.check("peers/queue").await, Ok(true));
        let token = EtcdOwner::token(&held);
        let waiting = tokio::spawn(async move {
            let held = other.acquire("peers/queue", duration).await.expect("its turn");
            let token = EtcdOwner::token(&held);
            other.release("peers/queue", held).await.expect("a release");
            token
        });
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!waiting.is_finished(), "two hold the lock");
        one.release("peers/queue", held).await.expect("a release");
        let later = waiting.await.expect("the waiter has its turn");
        assert!(later > token, "{token:?}, then {later:?}");
        assert_eq!(one.check("peers/queue").await, Ok(false));
    }
}
