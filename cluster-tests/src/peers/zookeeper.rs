//! ZooKeeper, through `zookeeper-client`.
//!
//! [`Manner::Ephemeral`] is the plain way to try for a lock: an ephemeral node is created, or
//! exists already; a release deletes it. [`Manner::Recipe`] is ZooKeeper's own recipe for waiting
//! clients: ephemeral nodes with numbers, each watching the one before it.
//!
//! A lock lasts as long as the *session* of its holder, whatever duration is requested; the
//! session's duration is an argument of [`ZooKeeper::new`] (the server allows 2 to 20 of its ticks:
//! 4 to 40 s by default). The client keeps its session alive by pings of its own as long as the
//! process runs and its runtime makes progress: a holder is frozen only with its process.
//!
//! A session is kept alive by any request, so [`Owner::renew`] reads the lock's node: a read that
//! the node answers by itself. Nothing is written and no majority is involved.

use std::time::Duration;

use keyward::bench::{Failure, Owner, Target};
use zookeeper_client::{Acls, Client, CreateMode, CreateOptions, Error, LockOptions, LockPrefix};

use super::{answered, as_read, spread};

/// The parent of all locks.
const ROOT: &str = "/locks";

const EPHEMERAL: CreateOptions<'static> = CreateMode::Ephemeral.with_acls(Acls::anyone_all());
const PERSISTENT: CreateOptions<'static> = CreateMode::Persistent.with_acls(Acls::anyone_all());
/// The way to acquire a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manner {
    /// One ephemeral node, refused at once if it exists.
    Ephemeral,
    /// The recipe: `acquire` waits for its turn, at most for [`super::ANSWER`].
    Recipe,
}

/// A cluster of ZooKeeper.
#[derive(Clone, Debug)]
pub struct ZooKeeper {
    addresses: Vec<String>,
    manner: Manner,
    session: Duration,
}

impl ZooKeeper {
    /// The nodes at these addresses (`HOST:PORT`), for clients whose sessions end after `session`.
    pub fn new(addresses: Vec<String>, manner: Manner, session: Duration) -> Self {
        Self { addresses, manner, session }
    }
}

impl Target for ZooKeeper {
    type Owner = ZooKeeperOwner;

    async fn owner(&self, client: usize) -> Result<ZooKeeperOwner, Failure> {
        let address = spread(&self.addresses, client);
        let connected = Client::connector()
            .with_session_timeout(self.session)
            .with_fail_eagerly()
            .connect(address);
        let client = answered(connected, failure).await.map_err(as_read)?;
        match answered(client.create(ROOT, b"", &PERSISTENT), failure).await {
            // Refused: another client has created it already.
            Ok(_) | Err(Failure::Refused) => {}
            Err(other) => return Err(as_read(other)),
        }
        Ok(ZooKeeperOwner { client, manner: self.manner })
    }
}

/// A session of ZooKeeper, with its own connection. Dropping it ends the session and its locks;
/// once it has ended, all its requests fail, and another session must be opened.
#[derive(Debug)]
pub struct ZooKeeperOwner {
    client: Client,
    manner: Manner,
}

/// A held lock.
#[derive(Debug)]
pub struct ZooKeeperHeld {
    path: String,
    /// The transaction that created the node (`czxid`). With the recipe, the node's number below
    /// its parent: the recipe does not return the transaction, and the parent is never removed.
    token: i64,
}

impl Owner for ZooKeeperOwner {
    type Held = ZooKeeperHeld;

    async fn acquire(
        &mut self,
        signature: &str,
        _duration: Duration,
    ) -> Result<ZooKeeperHeld, Failure> {
        match self.manner {
            Manner::Ephemeral => {
                let path = path(signature);
                let (stat, _) =
                    answered(self.client.create(&path, b"", &EPHEMERAL), failure).await?;
                Ok(ZooKeeperHeld { path, token: stat.czxid })
            }
            Manner::Recipe => self.queue(signature).await,
        }
    }

    async fn renew(
        &mut self,
        _signature: &str,
        held: &mut ZooKeeperHeld,
        _duration: Duration,
    ) -> Result<(), Failure> {
        let found = answered(self.client.check_stat(&held.path), failure_of_holder).await;
        match (found.map_err(as_read)?, self.manner) {
            (Some(stat), Manner::Ephemeral) if stat.czxid == held.token => Ok(()),
            (Some(_), Manner::Recipe) => Ok(()),
            _ => Err(Failure::Refused),
        }
    }

    async fn release(&mut self, _signature: &str, held: ZooKeeperHeld) -> Result<(), Failure> {
        answered(self.client.delete(&held.path, None), failure_of_holder).await
    }

    /// Sends `sync`, which makes the node catch up with the leader, and a read after it on the same
    /// connection. The strongest read that ZooKeeper offers, and not linearizable: the leader
    /// answers `sync` without checking with a majority that it still leads.
    async fn check(&mut self, signature: &str) -> Result<bool, Failure> {
        let path = path(signature);
        // Requests are sent when their futures are created, so both are in flight together.
        let synced = self.client.sync(&path);
        match self.manner {
            Manner::Ephemeral => {
                let read = self.client.check_stat(&path);
                answered(synced, failure).await.map_err(as_read)?;
                Ok(answered(read, failure).await.map_err(as_read)?.is_some())
            }
            Manner::Recipe => {
                let read = self.client.list_children(&path);
                answered(synced, failure).await.map_err(as_read)?;
                match answered(read, failure).await {
                    Ok(children) => Ok(!children.is_empty()),
                    Err(Failure::Refused) => Ok(false),
                    Err(other) => Err(as_read(other)),
                }
            }
        }
    }

    fn token(held: &ZooKeeperHeld) -> Option<u64> {
        u64::try_from(held.token).ok()
    }
}

impl ZooKeeperOwner {
    async fn queue(&self, signature: &str) -> Result<ZooKeeperHeld, Failure> {
        let parent = path(signature);
        let prefix = LockPrefix::new_curator(&parent, "lock-").map_err(failure)?;
        let options = LockOptions::new(Acls::anyone_all())
            .with_ancestor_options(PERSISTENT)
            .map_err(failure)?;
        let request = self.client.lock(prefix, b"", options);
        // Dropping the request removes the caller from the queue.
        let Ok(lock) = tokio::time::timeout(super::ANSWER, request).await else {
            return Err(Failure::Refused);
        };
        let lock = lock.map_err(failure)?;
        let path = lock.lock_path().to_owned();
        // Dropping it would delete the node in the background: here the release is waited for.
        std::mem::forget(lock);
        let number = path.rsplit('-').next().and_then(|number| number.parse().ok());
        let token = number.ok_or_else(|| Failure::Unknown(format!("no number in {path}")))?;
        Ok(ZooKeeperHeld { path, token })
    }
}

/// The node of a lock: a signature may contain characters that a path may not.
fn path(signature: &str) -> String {
    use std::fmt::Write as _;
    let mut path = format!("{ROOT}/");
    for byte in signature.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' {
            path.push(char::from(byte));
        } else {
            write!(path, "%{byte:02X}").expect("a string takes all");
        }
    }
    path
}

/// Classifies an error by whether the request was done.
#[expect(clippy::wildcard_enum_match_arm, reason = "another crate's errors, which may grow")]
fn failure(error: Error) -> Failure {
    match error {
        Error::NodeExists | Error::NoNode => Failure::Refused,
        Error::NoHosts
        | Error::Timeout
        | Error::SessionExpired
        | Error::Throttled
        | Error::NotReadOnly => Failure::Unavailable(error.to_string()),
        other => Failure::Unknown(other.to_string()),
    }
}

/// The same for a request of a holder, which loses its lock with its session.
#[expect(clippy::wildcard_enum_match_arm, reason = "another crate's errors, which may grow")]
fn failure_of_holder(error: Error) -> Failure {
    match error {
        Error::SessionExpired => Failure::Refused,
        other => failure(other),
    }
}

#[cfg(test)]
mod tests {
    use super::super::checks;
    use super::super::server::{Kind, Servers};
    use super::*;

    #[test]
    fn every_signature_has_a_path_of_its_own() {
        assert_eq!(path("jobs/nightly"), "/locks/jobs%2Fnightly");
        assert_eq!(path("."), "/locks/%2E");
        assert_eq!(path("%2F"), "/locks/%252F");
        assert_ne!(path("ü"), path("u"));
    }

    #[tokio::test]
    async fn zookeeper_excludes_and_ends_with_the_session() {
        if !checks::installed(&Kind::ZooKeeper) {
            return;
        }
        let parent = std::env::temp_dir();
        let servers = Servers::start(Kind::ZooKeeper, &parent).await.expect("ZooKeeper starts");
        let session = Duration::from_secs(4);
        let plain = ZooKeeper::new(servers.endpoints(), Manner::Ephemeral, session);
        checks::excludes(&plain).await;
        ends_with_its_session(&plain).await;
        queues(&ZooKeeper::new(servers.endpoints(), Manner::Recipe, session)).await;
    }

    async fn ends_with_its_session(zookeeper: &ZooKeeper) {
        let mut one = zookeeper.owner(0).await.expect("an owner");
        let mut other = zookeeper.owner(1).await.expect("an owner");
        let duration = Duration::from_secs(1);
        one.acquire("peers/session", duration).await.expect("a free lock is taken");
        assert_eq!(other.check("peers/session").await, Ok(true));
        drop(one);
        let held = super::super::until("the session ends", duration * 10, async || {
            other.acquire("peers/session", duration).await
        })
        .await;
        other.release("peers/session", held).await.expect("a release");
    }

    /// The recipe hands over to the next in the queue, with a larger token.
    async fn queues(zookeeper: &ZooKeeper) {
        let duration = Duration::from_secs(20);
        let mut one = zookeeper.owner(0).await.expect("an owner");
        let mut other = zookeeper.owner(1).await.expect("an owner");
        assert_eq!(other.check("peers/queue").await, Ok(false));
        let mut held = one.acquire("peers/queue", duration).await.expect("a free lock is taken");
        assert_eq!(one.renew("peers/queue", &mut held, duration).await, Ok(()));
        let token = ZooKeeperOwner::token(&held);
        let waiting = tokio::spawn(async move {
            let held = other.acquire("peers/queue", duration).await.expect("its turn");
            let token = ZooKeeperOwner::token(&held);
            other.release("peers/queue", held).await.expect("a release");
            token
        });
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!waiting.is_finished(), "two hold the lock");
        assert_eq!(one.check("peers/queue").await, Ok(true));
        one.release("peers/queue", held).await.expect("a release");
        let later = waiting.await.expect("the waiter has its turn");
        assert!(later > token, "{token:?}, then {later:?}");
        assert_eq!(one.check("peers/queue").await, Ok(false));
    }
}
