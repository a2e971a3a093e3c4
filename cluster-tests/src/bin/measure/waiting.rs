//! Fills three nodes with sessions, places and holders, and measures their memory, the cost of keeping
//! the sessions alive, and how long another client is held up when much of it ends at once.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cluster_tests::ask;
use cluster_tests::wait::{Stopwatch, eventually};
use futures::stream::{self, StreamExt as _};
use keyward::LockService as _;
use keyward::client::Client;
use keyward::lock::{Command, Decision};
use keyward::types::{
    CallOptions, ListRequest, LockOptions, LockRecord, LockRequest, LockStatus, Mode, ReadOptions,
    RecordState, Seen, SessionId, SessionOptions, SessionRequest, SessionStatus, TableOptions,
    UnlockOptions, UnlockRequest,
};

use crate::direct::Direct;
use crate::tasks::since;

/// Requests in flight at a time.
const TASKS: usize = 64;

/// Commands in one message, and sessions in one keep-alive.
const TOGETHER: usize = 1000;

/// Nothing that is not ended on purpose ends during the measurement.
const LONG: Duration = Duration::from_secs(3600);

/// How often each session is kept alive.
const PERIOD: Duration = Duration::from_secs(10);

/// How long something may take that ends many things at once.
const PATIENCE: Duration = Duration::from_secs(120);

/// What there is of everything.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) sessions: u64,
    pub(crate) places: u64,
    /// The locks that the places wait for.
    pub(crate) queues: u64,
    /// The locks in one session, and the owners that wait to share one lock.
    pub(crate) locks: u64,
    pub(crate) readers: u64,
}

pub(crate) async fn run(sizes: Sizes, time: Duration) {
    let nodes = Direct::start(Vec::new()).await;
    let all = Client::builder().endpoints(nodes.endpoints()).timeout(PATIENCE).build();
    let all = all.expect("the endpoints are well formed");
    // The level is raised once all nodes have said that they know it.
    eventually("the feature level is raised", PATIENCE, || async {
        let status = all.cluster_at(&nodes.endpoint(1), CallOptions::default()).await;
        let level = status.map_err(|error| error.to_string())?.feature_level;
        if level >= 2 { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    let (leader, term) = nodes.leader(&all).await;
    let client = Client::builder().endpoints([nodes.endpoint(leader)]).timeout(PATIENCE);
    let client = client.batching(true).build().expect("the endpoint is well formed");
    println!("| what | node 1 | node 2 | node 3 |\n|---|---|---|---|");
    resident(&nodes, "resident MiB, nothing held");

    let watch = Stopwatch::start();
    let sessions = open(&client, sizes.sessions).await;
    println!(
        "| {} sessions opened in s | {:.1} | | |",
        sizes.sessions,
        watch.elapsed().as_secs_f64()
    );
    resident(&nodes, "resident MiB, with the sessions");
    let (usage, watch) = (nodes.usages(), Stopwatch::start());
    while watch.elapsed() < time {
        let round = Stopwatch::start();
        keep_alive(&client, &sessions, PERIOD).await;
        tokio::time::sleep(PERIOD.saturating_sub(round.elapsed())).await;
    }
    let used = since(&nodes.usages(), &usage);
    let share = used.cpu.as_secs_f64() / watch.elapsed().as_secs_f64();
    println!(
        "| kept alive every {} s, share of a core in all | {share:.2} | | |",
        PERIOD.as_secs()
    );

    let before = resident(&nodes, "resident MiB, before the places");
    let watch = Stopwatch::start();
    queue_up(&client, &sessions, sizes).await;
    let seconds = watch.elapsed().as_secs_f64();
    println!("| {} places over {} locks in s | {seconds:.1} | | |", sizes.places, sizes.queues);
    let after = resident(&nodes, "resident MiB, with the places");
    let more: Vec<String> =
        after.iter().zip(&before).map(|(after, before)| format!("{:.0}", after - before)).collect();
    println!("| resident MiB more | {} |", more.join(" | "));

    much_ends(&client, sessions, sizes).await;
    let (_, after) = nodes.leader(&all).await;
    println!("\nchanges of term: {}", after - term);
}

/// Ends much at once, again and again.
async fn much_ends(client: &Client, mut sessions: Vec<SessionId>, sizes: Sizes) {
    println!(
        "\n| what ends at once | done in s | longest gap of another client in ms |\n|---|---|---|"
    );
    let table =
        |name: &str| TableOptions { table: Some(name.to_owned()), ..TableOptions::default() };
    let names = (sizes.queues, sizes.places);
    disturbed(
        client,
        &format!("a table of {} locks with {} places is deleted", names.0, names.1),
        async {
            client.delete_table(table("queues")).await.expect("it is deleted");
            gone(client, "queues", None).await;
        },
    )
    .await;
    // There may be as many sessions as there can be: two make room for others.
    for _ in 0..2 {
        close(client, sessions.pop().expect("there are more")).await;
    }
    let one = open(client, 1).await[0];
    take(client, one, sizes.locks).await;
    disturbed(client, &format!("a session of {} locks is closed", sizes.locks), async {
        close(client, one).await;
        gone(client, "held", Some(RecordState::Held)).await;
    })
    .await;
    readers_wait(client, &sessions, sizes.readers).await;
    disturbed(
        client,
        &format!("a writer releases, {} readers are granted", sizes.readers),
        async {
            let request =
                UnlockRequest { signature: "one".to_owned(), signee: "writer".to_owned() };
            let of_table =
                UnlockOptions { table: Some("shared".to_owned()), ..UnlockOptions::default() };
            assert!(client.unlock(request, of_table).await.expect("it is released").ok());
            eventually("all readers hold the lock", PATIENCE, || async {
                let record = one_of(client, "shared").await.ok_or("there is no lock".to_owned())?;
                let holders = record.holders.len() as u64 + record.more_holders;
                if holders == sizes.readers { Ok(()) } else { Err(format!("{holders} hold it")) }
            })
            .await;
        },
    )
    .await;
    // Kept alive while the locks are taken, however long that takes.
    let ttl = Duration::from_secs(60);
    let last = open_for(client, 1, ttl).await;
    let kept = async {
        loop {
            keep_alive(client, &last, ttl / 6).await;
        }
    };
    tokio::select! {
        () = take(client, last[0], sizes.locks) => {}
        () = kept => {}
    }
    keep_alive(client, &last, Duration::ZERO).await;
    let before = Duration::from_secs(2);
    tokio::time::sleep(ttl.saturating_sub(before)).await;
    disturbed(client, &format!("a session of {} locks expires", sizes.locks), async {
        tokio::time::sleep(before).await;
        gone(client, "held", Some(RecordState::Held)).await;
    })
    .await;
    disturbed(client, &format!("{} sessions are closed", sizes.sessions), async {
        in_turn(sessions, |session| close(client, session)).await;
    })
    .await;
}

/// Does something with each, some at a time.
async fn in_turn<T, F: Future<Output = ()>>(all: Vec<T>, each: impl Fn(T) -> F) {
    stream::iter(all).map(each).buffer_unordered(TASKS).collect::<()>().await;
}

/// Decides commands in messages of many.
async fn decide(
    client: &Client,
    commands: Vec<Command>,
    is_good: impl Fn(&LockStatus) -> bool + Copy,
) {
    let mut parts = Vec::new();
    let mut rest = commands;
    while !rest.is_empty() {
        let behind = rest.split_off(rest.len().min(TOGETHER));
        parts.push(std::mem::replace(&mut rest, behind));
    }
    let each = |part| async move {
        for decided in client.decide(part, CallOptions::default()).await {
            let status = decided.and_then(Decision::into_lock_response);
            let status = status.expect("it is decided").status;
            assert!(is_good(&status), "{status:?}");
        }
    };
    stream::iter(parts).map(each).buffer_unordered(4).collect::<()>().await;
}

async fn open(client: &Client, count: u64) -> Vec<SessionId> {
    open_for(client, count, LONG).await
}

async fn open_for(client: &Client, count: u64, ttl: Duration) -> Vec<SessionId> {
    let one = |number| async move {
        let request = SessionRequest { signee: format!("worker-{number}"), ttl };
        let command = Command::open_session(request, SessionOptions::default());
        let decided = client.decide_one(command.expect("it is valid"), CallOptions::default());
        match decided.await.and_then(Decision::into_session) {
            Ok(SessionStatus::Open(session)) => session.id,
            other => panic!("no session is opened: {other:?}"),
        }
    };
    stream::iter(0..count).map(one).buffer_unordered(TASKS).collect().await
}

async fn close(client: &Client, session: SessionId) {
    let command = Command::close_session(session, SessionOptions::default());
    client.decide_one(command, CallOptions::default()).await.expect("it is closed");
}

/// Keeps all alive once, spread over the period.
async fn keep_alive(client: &Client, sessions: &[SessionId], period: Duration) {
    let messages = sessions.chunks(TOGETHER);
    let pause = period / u32::try_from(messages.len().max(1)).unwrap_or(u32::MAX);
    for message in messages {
        let seen = message.iter().map(|session| Seen { session: *session, seen: None }).collect();
        let command = Command::keep_alive(seen, None);
        let watch = Stopwatch::start();
        client.decide_one(command, CallOptions::default()).await.expect("they are alive");
        tokio::time::sleep(pause.saturating_sub(watch.elapsed())).await;
    }
}

fn lock(table: &str, signature: String, options: LockOptions) -> Command {
    let request = LockRequest { signature, signee: String::new(), level: None };
    let options = LockOptions { table: Some(table.to_owned()), ..options };
    Command::lock(request, options).expect("it is valid")
}

/// Has each of the locks held, and the same number of owners wait for each.
async fn queue_up(client: &Client, sessions: &[SessionId], sizes: Sizes) {
    let names = (0..sizes.queues).map(|number| format!("queue-{number:08}"));
    let of = |number: u64| sessions[usize::try_from(number).unwrap_or(0) % sessions.len()];
    let held = names.clone().zip(0..).map(|(name, number)| {
        lock("queues", name, LockOptions { session: Some(of(number)), ..LockOptions::default() })
    });
    decide(client, held.collect(), is_granted).await;
    let names: Vec<String> = names.collect();
    let waits = (0..sizes.places).map(|number| {
        let name = names[usize::try_from(number % sizes.queues).unwrap_or(0)].clone();
        // Another session than that of the lock's holder.
        let session = Some(of(number + number / sizes.queues + 1));
        let wait = Some(LONG);
        lock("queues", name, LockOptions { session, wait, queued: true, ..LockOptions::default() })
    });
    decide(client, waits.collect(), |status| matches!(status, LockStatus::Waiting(_))).await;
}

/// Takes this many locks in one session.
async fn take(client: &Client, session: SessionId, count: u64) {
    let of = || LockOptions { session: Some(session), ..LockOptions::default() };
    let all = (0..count).map(|number| lock("held", format!("lock-{number:08}"), of()));
    decide(client, all.collect(), is_granted).await;
}

/// Has one owner hold a lock that so many wait to share.
async fn readers_wait(client: &Client, sessions: &[SessionId], count: u64) {
    let request =
        LockRequest { signature: "one".to_owned(), signee: "writer".to_owned(), level: None };
    let table = Some("shared".to_owned());
    let options = LockOptions { duration: Some(LONG), table, ..LockOptions::default() };
    assert!(client.lock(request, options).await.expect("it is answered").ok());
    let all = (0..count).map(|number| {
        let session = sessions[usize::try_from(number).unwrap_or(0) % sessions.len()];
        let options = LockOptions {
            session: Some(session),
            instance: Some(format!("reader-{number}")),
            mode: Some(Mode::Shared),
            wait: Some(LONG),
            queued: true,
            ..LockOptions::default()
        };
        lock("shared", "one".to_owned(), options)
    });
    decide(client, all.collect(), |status| matches!(status, LockStatus::Waiting(_))).await;
}

async fn one_of(client: &Client, table: &str) -> Option<LockRecord> {
    let options = ReadOptions { table: Some(table.to_owned()), ..ReadOptions::default() };
    client.check("one".to_owned(), options).await.ok().map(|response| response.record)
}

/// Waits until a table has no lock in this state, or none at all.
async fn gone(client: &Client, table: &str, state: Option<RecordState>) {
    eventually("no such lock is left", PATIENCE, || async {
        let mut after = None;
        loop {
            let request = ListRequest { after, state, ..ListRequest::default() };
            let options = ReadOptions { table: Some(table.to_owned()), ..ReadOptions::default() };
            let page = client.list(request, options).await.map_err(|error| error.to_string())?;
            if let Some(lock) = page.locks.first() {
                return Err(format!("{} is left", lock.signature));
            }
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    })
    .await;
}

fn is_granted(status: &LockStatus) -> bool {
    matches!(status, LockStatus::Ok(_) | LockStatus::Renewed(_) | LockStatus::Transferred { .. })
}

/// Does something, and prints how long it took and the longest time in which another client
/// could neither take nor release a lock.
async fn disturbed(client: &Client, what: &str, ending: impl Future<Output = ()>) {
    let stop = Arc::new(AtomicBool::new(false));
    let longest = Arc::new(AtomicU64::new(0));
    let (other, stopped, gap) = (client.clone(), Arc::clone(&stop), Arc::clone(&longest));
    let running = tokio::spawn(async move {
        while !stopped.load(Ordering::Relaxed) {
            let watch = Stopwatch::start();
            let grant = ask::hold(&other, "measure/beside", "beside", LONG).await;
            ask::release(&other, "measure/beside", "beside", grant.token).await;
            let took = u64::try_from(watch.elapsed().as_millis()).unwrap_or(u64::MAX);
            gap.fetch_max(took, Ordering::Relaxed);
        }
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    longest.store(0, Ordering::Relaxed);
    let watch = Stopwatch::start();
    ending.await;
    let took = watch.elapsed().as_secs_f64();
    tokio::time::sleep(Duration::from_millis(500)).await;
    stop.store(true, Ordering::Relaxed);
    running.await.expect("it ends");
    println!("| {what} | {took:.2} | {} |", longest.load(Ordering::Relaxed));
}

/// Prints the resident memory of each node, in MiB.
fn resident(nodes: &Direct, what: &str) -> Vec<f64> {
    #[allow(clippy::cast_precision_loss, reason = "a figure to look at")]
    let resident: Vec<f64> =
        nodes.usages().iter().map(|usage| usage.resident_bytes as f64 / crate::MIB).collect();
    let text: Vec<String> = resident.iter().map(|mib| format!("{mib:.0}")).collect();
    println!("| {what} | {} |", text.join(" | "));
    resident
}
