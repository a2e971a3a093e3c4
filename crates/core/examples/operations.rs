//! Runs one operation of the lock machine or its codecs repeatedly, for
//! `scripts/count-instructions`.
//!
//! ```sh
//! cargo run --release -p keyward-core --example operations -- renew 1000
//! ```

use std::hint::black_box;
use std::time::Duration;

use keyward_core::lock::{ClusterTime, Command, Proposal, Stamp, State};
use keyward_core::types::{LockOptions, LockRequest, RequestId, UnlockOptions, UnlockRequest};

/// The operations, in the order in which the script shows them.
const OPERATIONS: [&str; 9] = [
    "lock-unlock",
    "renew",
    "renew-with-id",
    "refuse",
    "lock-expire",
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
    let mut log = Log { state: State::new(), index: 0, now: ClusterTime(1) };
    let base = if operation == "lock-expire" { count } else { LOCKS };
    log.each(base, |number| vec![lock(number, "worker", None)]);
    match operation.as_str() {
        "lock-unlock" => log.each(count, |number| {
            vec![lock(LOCKS + number, "worker", None), unlock(LOCKS + number)]
        }),
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
    let signature = format!("jobs/lock-{number:010}");
    let request = LockRequest { signature, signee: signee.to_owned(), level: None };
    let options = LockOptions {
        duration: Some(Duration::from_secs(600)),
        request_id,
        ..LockOptions::default()
    };
    Command::lock(request, options).expect("a good request")
}

fn unlock(number: u64) -> Command {
    let request =
        UnlockRequest { signature: format!("jobs/lock-{number:010}"), signee: "worker".to_owned() };
    Command::unlock(request, UnlockOptions::default())
}
