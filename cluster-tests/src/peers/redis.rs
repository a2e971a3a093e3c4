//! Redis, through `redis`.
//!
//! One Redis: `SET key value NX PX`, and a script that deletes the key if the value is still the
//! holder's. Several: Redlock, the same on all at once, acquired by the client that has a majority
//! before the lock's own duration is over. One is the majority of one, so both are one adapter.
//!
//! Neither has a fencing token, and neither survives failures of clocks and disks: with Redis'
//! default durability an answer is on no disk yet, and a node that starts again has forgotten.

use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Client, Cmd, RedisError, Script, Value, cmd};
use futures::future::join_all;
use keyward::bench::{Failure, Owner, Target};

use super::{ANSWER, as_read};
use crate::wait::Stopwatch;

const RELEASE: &str = "if redis.call('get', KEYS[1]) == ARGV[1] \
     then return redis.call('del', KEYS[1]) else return 0 end";

const EXTEND: &str = "if redis.call('get', KEYS[1]) == ARGV[1] \
     then return redis.call('pexpire', KEYS[1], ARGV[2]) else return 0 end";

/// One Redis, or several independent ones.
#[derive(Clone, Debug)]
pub struct Redis {
    endpoints: Vec<String>,
    scripts: Arc<Scripts>,
}

#[derive(Debug)]
struct Scripts {
    release: Script,
    extend: Script,
}

impl Redis {
    /// Locks on a majority of these (`redis://HOST:PORT`): Redlock, if there are several.
    pub fn new(endpoints: Vec<String>) -> Self {
        let scripts = Scripts { release: Script::new(RELEASE), extend: Script::new(EXTEND) };
        Self { endpoints, scripts: Arc::new(scripts) }
    }
}

impl Target for Redis {
    type Owner = RedisOwner;

    async fn owner(&self, _client: usize) -> Result<RedisOwner, Failure> {
        let mut nodes = Vec::new();
        for endpoint in &self.endpoints {
            let client = Client::open(endpoint.as_str())
                .map_err(|error| Failure::Unavailable(format!("{endpoint}: {error}")))?;
            nodes.push(Node { client, connection: None, scripts: Arc::clone(&self.scripts) });
        }
        let reached = join_all(nodes.iter_mut().map(Node::connection)).await;
        if !reached.iter().any(Result::is_ok) {
            return Err(reached.into_iter().find_map(Result::err).unwrap_or_else(no_majority));
        }
        drop(reached);
        let name = format!("{:032x}", rand::random::<u128>());
        Ok(RedisOwner { nodes, scripts: Arc::clone(&self.scripts), name, taken: 0 })
    }
}

/// A client, with a connection to each Redis. The next request replaces a broken connection.
#[derive(Debug)]
pub struct RedisOwner {
    nodes: Vec<Node>,
    scripts: Arc<Scripts>,
    /// The prefix of each lock's value; a number follows, so that no other lock has it.
    name: String,
    taken: u64,
}

/// A held lock.
#[derive(Debug)]
pub struct RedisHeld {
    value: String,
}

/// The answers of the nodes.
#[derive(Default, Debug)]
struct Votes {
    yes: usize,
    no: usize,
    /// The worst of the failures: an unknown outcome is worse than a request not done.
    failure: Option<Failure>,
}

impl Owner for RedisOwner {
    type Held = RedisHeld;

    async fn acquire(&mut self, signature: &str, duration: Duration) -> Result<RedisHeld, Failure> {
        self.taken += 1;
        let value = format!("{}-{}", self.name, self.taken);
        let watch = Stopwatch::start();
        let mut set = cmd("SET");
        set.arg(signature).arg(&value).arg("NX").arg("PX").arg(millis(duration));
        let votes = self.ask(&set).await;
        let held = RedisHeld { value };
        if votes.yes >= self.majority() && watch.elapsed() < valid(duration) {
            return Ok(held);
        }
        let why = votes.against(self.majority());
        // A minority must not have to expire: Redlock releases what it has. If that is not known to
        // be done, the lock may still be held without a holder that knows it.
        match self.release(signature, held).await {
            Ok(()) | Err(Failure::Refused) => Err(as_read(why)),
            Err(left) if why != Failure::Refused => Err(left),
            Err(_) => Err(why),
        }
    }

    async fn renew(
        &mut self,
        signature: &str,
        held: &mut RedisHeld,
        duration: Duration,
    ) -> Result<(), Failure> {
        let watch = Stopwatch::start();
        let mut extend = cmd("EVALSHA");
        extend.arg(self.scripts.extend.get_hash()).arg(1);
        extend.arg(signature).arg(&held.value).arg(millis(duration));
        let votes = self.ask(&extend).await;
        if votes.yes >= self.majority() && watch.elapsed() < valid(duration) {
            Ok(())
        } else {
            Err(votes.against(self.majority()))
        }
    }

    async fn release(&mut self, signature: &str, held: RedisHeld) -> Result<(), Failure> {
        let mut release = cmd("EVALSHA");
        release.arg(self.scripts.release.get_hash()).arg(1).arg(signature).arg(&held.value);
        let votes = self.ask(&release).await;
        if votes.yes >= self.majority() { Ok(()) } else { Err(votes.against(self.majority())) }
    }

    async fn check(&mut self, signature: &str) -> Result<bool, Failure> {
        let votes = self.ask(cmd("EXISTS").arg(signature)).await;
        match votes {
            Votes { yes, .. } if yes >= self.majority() => Ok(true),
            Votes { no, .. } if no >= self.majority() => Ok(false),
            votes => Err(as_read(votes.failure.unwrap_or_else(no_majority))),
        }
    }

    fn token(_held: &RedisHeld) -> Option<u64> {
        None
    }
}

fn no_majority() -> Failure {
    Failure::Unavailable(String::from("no majority says the same"))
}

impl RedisOwner {
    fn majority(&self) -> usize {
        self.nodes.len() / 2 + 1
    }

    /// Sends a command to all nodes at once and counts their answers.
    async fn ask(&mut self, question: &Cmd) -> Votes {
        let mut votes = Votes::default();
        for answer in join_all(self.nodes.iter_mut().map(|node| node.ask(question))).await {
            match answer {
                Ok(true) => votes.yes += 1,
                Ok(false) => votes.no += 1,
                Err(failure) => votes.note(failure),
            }
        }
        votes
    }
}

impl Votes {
    fn note(&mut self, failure: Failure) {
        match (&self.failure, &failure) {
            (Some(Failure::Unknown(_)), _) => {}
            _ => self.failure = Some(failure),
        }
    }

    /// The reason for the lack of a majority: a refusal, unless those that did not answer could
    /// have made the difference.
    fn against(self, majority: usize) -> Failure {
        let silent = usize::from(self.failure.is_some());
        match self.failure {
            Some(failure) if self.no < majority || self.yes + silent >= majority => failure,
            _ if self.yes >= majority => {
                Failure::Unknown(String::from("the majority's answers came after the end"))
            }
            _ => Failure::Refused,
        }
    }
}

/// One Redis, and this session's connection to it.
#[derive(Debug)]
struct Node {
    client: Client,
    connection: Option<MultiplexedConnection>,
    scripts: Arc<Scripts>,
}

impl Node {
    async fn ask(&mut self, question: &Cmd) -> Result<bool, Failure> {
        let connection = self.connection().await?;
        match question.query_async::<Value>(connection).await {
            Ok(value) => Ok(matches!(value, Value::Okay | Value::Int(1))),
            Err(error) => {
                // Whether it broke or only timed out: the next bytes on it are unknown.
                self.connection = None;
                Err(failure(error))
            }
        }
    }

    async fn connection(&mut self) -> Result<&mut MultiplexedConnection, Failure> {
        if self.connection.is_none() {
            self.connection = Some(self.connect().await.map_err(failure).map_err(as_read)?);
        }
        self.connection.as_mut().ok_or_else(no_majority)
    }

    async fn connect(&self) -> Result<MultiplexedConnection, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(Duration::from_secs(2)))
            .set_response_timeout(Some(ANSWER));
        let mut connection =
            self.client.get_multiplexed_async_connection_with_config(&config).await?;
        // The server knows the scripts from now on, so that their hashes are enough.
        self.scripts.release.load_async(&mut connection).await?;
        self.scripts.extend.load_async(&mut connection).await?;
        Ok(connection)
    }
}

/// The remaining validity of a lock in Redlock: a hundredth, and 2 ms, are subtracted for clocks
/// that differ.
fn valid(duration: Duration) -> Duration {
    duration.saturating_sub(duration / 100 + Duration::from_millis(2))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[allow(clippy::needless_pass_by_value, reason = "errors are given away where they end")]
fn failure(error: RedisError) -> Failure {
    if error.is_connection_refusal() {
        Failure::Unavailable(error.to_string())
    } else {
        Failure::Unknown(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::super::checks;
    use super::super::server::{Kind, Servers};
    use super::*;

    fn votes(yes: usize, no: usize, failure: Option<Failure>) -> Votes {
        Votes { yes, no, failure }
    }

    #[test]
    fn a_minority_is_refused_unless_the_silent_might_have_agreed() {
        let unknown = || Failure::Unknown(String::from("cut"));
        assert_eq!(votes(1, 2, None).against(2), Failure::Refused);
        assert_eq!(votes(0, 2, Some(unknown())).against(2), Failure::Refused);
        assert_eq!(votes(1, 1, Some(unknown())).against(2), unknown());
        assert_eq!(votes(0, 1, Some(unknown())).against(2), unknown());
        assert!(matches!(votes(3, 0, None).against(2), Failure::Unknown(_)));
    }

    #[test]
    fn an_unknown_outcome_outweighs_one_that_was_not_done() {
        let mut votes = Votes::default();
        votes.note(Failure::Unknown(String::from("cut")));
        votes.note(Failure::Unavailable(String::from("refused")));
        assert_eq!(votes.failure, Some(Failure::Unknown(String::from("cut"))));
    }

    #[tokio::test]
    async fn redis_and_redlock_exclude_and_end_as_lock_services_must() {
        if !checks::installed(&Kind::Redis) {
            return;
        }
        let parent = std::env::temp_dir();
        let mut servers = Servers::start(Kind::Redis, &parent).await.expect("Redis starts");
        let one = Redis::new(vec![servers.endpoint(0)]);
        let three = Redis::new(servers.endpoints());
        for redis in [&one, &three] {
            checks::excludes(redis).await;
            checks::ends(redis, Duration::from_millis(500)).await;
        }
        // Redlock goes on without one of three, and a session finds a node that is back.
        let mut session = three.owner(0).await.expect("an owner");
        servers.kill(2);
        let duration = Duration::from_secs(20);
        let held = session.acquire("peers/two of three", duration).await.expect("a majority");
        servers.kill(1);
        let kept = session.release("peers/two of three", held).await;
        assert!(matches!(kept, Err(Failure::Unknown(_) | Failure::Unavailable(_))), "{kept:?}");
        servers.restart(1).await;
        let again = session.acquire("peers/another", duration).await;
        again.expect("a majority again");
    }
}
