//! The log lines of locks that were taken from their holders: one each, on the node that led.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keyward::LockService;
use keyward::types::{
    CallOptions, LockOptions, LockRequest, LockResponse, LockStatus, RequestId, Token,
    UnlockOptions, UnlockRequest,
};
use serde_json::Value;

use crate::cluster::{Cluster, eventually};

/// Everything that is logged from now on, as JSON lines.
#[derive(Clone, Default)]
struct Logged(Arc<Mutex<Vec<u8>>>);

impl Logged {
    /// Starts to collect the log. Each test has a process of its own, so nothing else logs there.
    fn start() -> Self {
        let logged = Self::default();
        let writer = logged.clone();
        tracing_subscriber::fmt()
            .json()
            .flatten_event(true)
            .with_max_level(tracing::Level::INFO)
            .with_writer(move || writer.clone())
            .init();
        logged
    }

    /// The lines of locks that were taken from others.
    fn transfers(&self) -> Vec<Value> {
        let bytes = self.0.lock().unwrap().clone();
        let text = String::from_utf8(bytes).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["target"] == "keyward::node::transfers").collect()
    }
}

impl Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn lock(cluster: &Cluster, id: u64, signee: &str, options: LockOptions) -> LockResponse {
    let request = LockRequest { signature: "s".into(), signee: signee.into(), level: None };
    cluster.service(id).lock(request, options).await.unwrap()
}

#[tokio::test]
async fn a_lock_that_is_taken_away_leaves_one_line_that_says_by_whom_and_why() {
    let logged = Logged::start();
    let mut cluster = Cluster::start(3).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    assert!(lock(&cluster, leader, "ann", LockOptions::default()).await.ok());
    assert!(!lock(&cluster, leader, "bob", LockOptions::default()).await.ok());
    assert!(logged.transfers().is_empty(), "nothing was taken");

    // Through a follower, and once more with the same id.
    let forced = LockOptions {
        force: true,
        instance: Some("run\n7".into()),
        request_id: Some(RequestId { lane: 1, seq: 1 }),
        call: CallOptions {
            cause: Some("the old one hangs".into()),
            trace_id: Some("trace-1".into()),
            ..CallOptions::default()
        },
        ..LockOptions::default()
    };
    let taken = lock(&cluster, follower, "bob\u{1b}[2J\nforged", forced.clone()).await;
    let again = lock(&cluster, leader, "bob\u{1b}[2J\nforged", forced).await;
    assert_eq!(again.decided_at, taken.decided_at);
    let LockStatus::Transferred { grant, .. } = &taken.status else { panic!("{taken:?}") };
    // A line is written behind the answers.
    eventually("a line", async || !logged.transfers().is_empty()).await;
    let lines = logged.transfers();
    assert_eq!(lines.len(), 1, "{lines:?}");
    let line = &lines[0];
    assert_eq!(line["level"], "INFO");
    assert_eq!(line["message"], "a lock was taken from its holder");
    assert_eq!(line["table"], "default");
    assert_eq!(line["signature"], "s");
    assert_eq!(line["owner"], "bob\u{1b}[2J\nforged");
    assert_eq!(line["instance"], "run\n7");
    assert_eq!(line["previous_owner"], "ann");
    assert_eq!(line["reason"], "forced");
    assert_eq!(line["cause"], "the old one hangs");
    assert_eq!(line["trace_id"], "trace-1");
    assert_eq!(line["token"], grant.token.0);
    assert_eq!(line["position"], taken.decided_at.unwrap().to_string());

    let higher = LockRequest { signature: "s".into(), signee: "cy".into(), level: Some(9) };
    let higher = cluster.service(leader).lock(higher, LockOptions::default()).await.unwrap();
    assert!(higher.ok());
    eventually("another line", async || logged.transfers().len() > 1).await;
    let lines = logged.transfers();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!((&lines[1]["reason"], &lines[1]["grant_level"]), (&"preempted".into(), &9.into()));

    let lost = |cluster: &Cluster| -> u64 {
        let figures =
            cluster.nodes.values().flat_map(|running| running.node().figures().locks_lost);
        figures.map(|(_, count)| count).sum()
    };
    assert_eq!(lost(&cluster), 2, "the nodes' figures add up");

    // Entries that are applied again at a start are not logged or counted again.
    for id in 1..=3 {
        cluster.kill(id).await;
    }
    for id in 1..=3 {
        cluster.run(id).await;
    }
    cluster.ready().await;
    assert_eq!(logged.transfers().len(), 2);
    assert_eq!(lost(&cluster), 0);
}

#[tokio::test]
async fn of_many_expired_locks_that_are_taken_over_the_first_leave_lines_and_forced_ones_all() {
    let logged = Logged::start();
    let cluster = Cluster::start(1).await;
    for number in 0..50 {
        cluster.lock_for(1, &number.to_string(), "ann", Duration::from_millis(1)).await;
    }
    cluster.clock(1).advance(Duration::from_secs(60));
    for number in 0..50 {
        assert!(cluster.lock(1, &number.to_string(), "bob").await.created());
    }
    let expired = |line: &Value| line["message"] == "an expired lock was taken over";
    // The window of time in which they are counted may have ended once on a busy machine.
    let count = || logged.transfers().iter().filter(|line| expired(line)).count();
    eventually("the first lines", async || count() >= 10).await;
    let count = count();
    assert!((10..50).contains(&count), "{count}");

    for signee in ["cy", "di"].repeat(10) {
        let forced = LockOptions { force: true, ..LockOptions::default() };
        assert!(lock(&cluster, 1, signee, forced).await.ok());
    }
    let forced = || logged.transfers().iter().filter(|line| line["reason"] == "forced").count();
    eventually("a line for each but the first, which was free", async || forced() == 19).await;

    // The others are counted, with the next entry after the window.
    cluster.clock(1).advance(Duration::from_secs(60));
    cluster.lock(1, "another", "ann").await;
    let more = |line: &Value| line["message"] == "more expired locks were taken over";
    eventually("a line for the others", async || logged.transfers().iter().any(more)).await;
    let lines = logged.transfers();
    let told = lines.iter().find(|line| more(line)).unwrap();
    assert_eq!(told["locks"].as_u64().unwrap() + count as u64, 50);
}

#[tokio::test]
async fn a_release_by_an_operator_leaves_a_line_that_says_why() {
    let logged = Logged::start();
    let cluster = Cluster::start(3).await;
    let follower = cluster.follower().await;
    cluster.level_raised().await;
    let granted = lock(&cluster, follower, "ann", LockOptions::default()).await;
    let token = granted.grant().unwrap().token;
    let release = async |token: Token| {
        let request = UnlockRequest { signature: "s".into(), signee: "op".into() };
        let options = UnlockOptions {
            force: true,
            token: Some(token),
            call: CallOptions { cause: Some("host 7 is gone".into()), ..CallOptions::default() },
            ..UnlockOptions::default()
        };
        cluster.service(follower).unlock(request, options).await.unwrap()
    };
    assert!(release(token).await.ok());
    // Nothing is ended by this one.
    assert!(release(token).await.ok());
    eventually("a line", async || !logged.transfers().is_empty()).await;
    let lines = logged.transfers();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(lines[0]["message"], "a grant was ended by an operator");
    assert_eq!((&lines[0]["signature"], &lines[0]["by"]), (&"s".into(), &"op".into()));
    assert_eq!(
        (&lines[0]["token"], &lines[0]["cause"]),
        (&token.0.into(), &"host 7 is gone".into())
    );
}
