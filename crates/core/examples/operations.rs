//! Runs one operation of the lock machine or its codecs repeatedly, for
//! `scripts/count-instructions`.
//!
//! ```sh
//! cargo run --release -p keyward-core --example operations -- renew 1000
//! ```

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use keyward_core::access::{
    AccessToken, Change, Grantee, Principal, Right, Rule, RuleName, Secret,
};
use keyward_core::lock::{ClusterTime, Command, FEATURE_LEVEL, Operation, Proposal, Stamp, State};
use keyward_core::types::{
    CallOptions, LockOptions, LockRequest, Mode, RequestId, Seen, SessionId, SessionOptions,
    SessionRequest, UnlockOptions, UnlockRequest,
};

/// The operations, in the order in which the script shows them.
const OPERATIONS: [&str; 17] = [
    "lock-unlock",
    "lock-unlock-by-rule",
    "lock-unlock-by-rule-of-10000",
    "renew",
    "renew-with-id",
    "refuse",
    "lock-expire",
    "hand-over-of-10",
    "hand-over-of-10000",
    "share-with-10",
    "share-with-10000",
    "keep-alive",
    "lock-unlock-in-session",
    "encode-entry",
    "decode-entry",
    "encode-snapshot",
    "decode-snapshot",
];

/// Locks that exist before: enough for maps of several levels.
const LOCKS: u64 = 6400;

/// Commands in an entry.
const BATCH: u64 = 64;

fn main() {
    let mut words = std::env::args().skip(1);
    let operation = words.next().unwrap_or_default();
    let count = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
    if !OPERATIONS.contains(&operation.as_str()) {
        for name in OPERATIONS {
            println!("{name}");
        }
        return;
    }
    let mut log = Log { state: State::with_level(FEATURE_LEVEL), index: 0, now: ClusterTime(1) };
    let base = if operation == "lock-expire" { count } else { LOCKS };
    log.each(base, |number| vec![lock(number, "worker", None)]);
    match operation.as_str() {
        "lock-unlock" => log.each(count, |number| {
            vec![lock(LOCKS + number, "worker", None), unlock(LOCKS + number)]
        }),
        // The same, with access control on, for a principal with this many rules.
        "lock-unlock-by-rule" => log.by_rule(1, count),
        "lock-unlock-by-rule-of-10000" => log.by_rule(10_000, count),
        "renew" => log.each(count, |number| vec![lock(mixed(number), "worker", None)]),
        "renew-with-id" => log.each(count, |number| {
            let id = RequestId { lane: u128::from(number % 256), seq: number / 256 + 1 };
            vec![lock(mixed(number), "worker", Some(id))]
        }),
        "refuse" => log.each(count, |number| vec![lock(mixed(number), "another", None)]),
        "lock-expire" => {
            log.now = log.now.saturating_add(Duration::from_secs(3600));
            while log.state.has_unexpired() {
                log.apply(vec![Command::advance()]);
            }
        }
        // One owner releases the lock, the next one has it, and the first one waits again.
        "hand-over-of-10" => log.hand_over(10, count),
        "hand-over-of-10000" => log.hand_over(10_000, count),
        "share-with-10" => log.share(10, count),
        "share-with-10000" => log.share(10_000, count),
        "keep-alive" => {
            log.each(LOCKS, |number| vec![open(number)]);
            log.each(count, |number| {
                let session = session(mixed(number));
                vec![Command::keep_alive(vec![Seen { session, seen: None }], None)]
            });
        }
        "lock-unlock-in-session" => {
            log.each(LOCKS, |number| vec![open(number)]);
            log.each(count, |number| {
                let session = Some(session(mixed(number)));
                let options = LockOptions { session, ..LockOptions::default() };
                let own = UnlockOptions { instance: session.map(name), ..UnlockOptions::default() };
                vec![
                    lock_with(LOCKS + number, "worker", options),
                    unlock_with(LOCKS + number, "worker", own),
                ]
            });
        }
        "encode-entry" => {
            let entry = entry(BATCH);
            (0..count / BATCH).for_each(|_| drop(black_box(entry.encode())));
        }
        "decode-entry" => {
            let bytes = entry(BATCH).encode();
            (0..count / BATCH).for_each(|_| drop(black_box(Proposal::decode(&bytes))));
        }
        "encode-snapshot" => {
            (0..count / LOCKS).for_each(|_| drop(black_box(log.state.encode())));
        }
        "decode-snapshot" => {
            let bytes = log.state.encode();
            (0..count / LOCKS).for_each(|_| drop(black_box(State::decode(&bytes))));
        }
        _ => unreachable!("the names were checked"),
    }
    // Dropping the log is not part of the operation.
    std::mem::forget(log);
}

struct Log {
    state: State,
    index: u64,
    now: ClusterTime,
}

impl Log {
    fn each(&mut self, count: u64, commands: impl Fn(u64) -> Vec<Command>) {
        let mut batch = Vec::new();
        for number in 0..count {
            batch.extend(commands(number));
            if batch.len() as u64 >= BATCH {
                self.apply(std::mem::take(&mut batch));
            }
        }
        self.apply(batch);
    }

    /// Hands one lock over, with this number of places in its queue.
    fn hand_over(&mut self, places: u64, count: u64) {
        let waits =
            || LockOptions { wait: Some(Duration::from_secs(60)), ..LockOptions::default() };
        let ask = |number: u64| lock_with(0, &format!("w{}", number % (places + 1)), waits());
        self.each(1, |_| vec![unlock(0)]);
        self.each(places + 1, |number| vec![ask(number)]);
        self.each(count, |number| {
            let holder = format!("w{}", number % (places + 1));
            vec![unlock_with(0, &holder, UnlockOptions::default()), ask(number)]
        });
    }

    /// Has one owner more share a lock and leave it, beside this number of others.
    fn share(&mut self, holders: u64, count: u64) {
        let shared = || LockOptions { mode: Some(Mode::Shared), ..LockOptions::default() };
        self.each(1, |_| vec![unlock(0)]);
        self.each(holders, |number| vec![lock_with(0, &format!("w{number}"), shared())]);
        self.each(count, |_| {
            vec![lock_with(0, "one", shared()), unlock_with(0, "one", UnlockOptions::default())]
        });
    }

    /// Takes and releases locks as a principal with this many rules, of which one is about them.
    fn by_rule(&mut self, rules: u64, count: u64) {
        let grantee = || Grantee::Identity("worker".into());
        let rule = |number: u64| {
            let pattern = match number {
                0 => "jobs/*".to_owned(),
                // Some share the beginning of the locks' names, and are about none of them.
                other if other % 2 == 0 => format!("jobs/lock-{other:010}/*"),
                other => format!("team-{other}/jobs"),
            };
            let name = RuleName {
                grantee: grantee(),
                table: Some("default".into()),
                pattern: pattern.parse().expect("a pattern"),
            };
            let rights = [Right::Acquire].into_iter().collect();
            Rule { name, rights, max_level: 0, signee: Some(Rule::IDENTITY.into()) }
        };
        let change = |change| Command::access(change, CallOptions::default());
        self.each(rules, |number| vec![change(Change::PutRule(rule(number)))]);
        let hash = Secret::of_bits([0; 32]).hash();
        let (identity, groups, expires) = ("admin".into(), Vec::new(), None);
        let token = AccessToken { hash, identity, groups, expires };
        self.each(1, |_| vec![change(Change::Bootstrap { token: token.clone(), on: true })]);
        let principal = Arc::new(Principal::named("worker"));
        self.each(count, |number| {
            let mut commands = vec![lock(LOCKS + number, "worker", None), unlock(LOCKS + number)];
            for command in &mut commands {
                command.principal = Some(Arc::clone(&principal));
            }
            commands
        });
    }

    fn apply(&mut self, commands: Vec<Command>) {
        self.index += 1;
        self.now = self.now.saturating_add(Duration::from_micros(100));
        let stamp = Stamp { term: 0, time: self.now };
        black_box(self.state.apply(0, self.index, &Proposal { stamp, commands }));
    }
}

fn entry(count: u64) -> Proposal {
    let commands = (0..count).map(|number| lock(number, "worker", None)).collect();
    Proposal { stamp: Stamp::default(), commands }
}

/// A permutation of the same numbers: the step is a prime.
fn mixed(number: u64) -> u64 {
    number.wrapping_mul(15_485_863) % LOCKS
}

fn lock(number: u64, signee: &str, request_id: Option<RequestId>) -> Command {
    let duration = Some(Duration::from_secs(600));
    lock_with(number, signee, LockOptions { duration, request_id, ..LockOptions::default() })
}

fn lock_with(number: u64, signee: &str, options: LockOptions) -> Command {
    let signature = format!("jobs/lock-{number:010}");
    let request = LockRequest { signature, signee: signee.to_owned(), level: None };
    Command::lock(request, options).expect("a good request")
}

fn unlock(number: u64) -> Command {
    unlock_with(number, "worker", UnlockOptions::default())
}

fn unlock_with(number: u64, signee: &str, options: UnlockOptions) -> Command {
    let signature = format!("jobs/lock-{number:010}");
    Command::unlock(UnlockRequest { signature, signee: signee.to_owned() }, options)
}

fn session(number: u64) -> SessionId {
    SessionId(u128::from(number) + 1)
}

fn name(session: SessionId) -> String {
    session.to_string()
}

/// A session as its leader opens it, which draws the name.
fn open(number: u64) -> Command {
    let request = SessionRequest { signee: "worker".to_owned(), ttl: Duration::from_secs(3600) };
    let mut command =
        Command::open_session(request, SessionOptions::default()).expect("a good request");
    if let Operation::OpenSession(opened) = &mut command.operation {
        opened.id = Some(session(number));
    }
    command
}
