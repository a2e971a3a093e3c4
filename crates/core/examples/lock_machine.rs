//! Measures the lock machine on this machine: memory per lock, commands per second, and the time of
//! operations that visit every lock.
//!
//! ```sh
//! cargo run --release -p keyward-core --example lock_machine -- 1000000
//! ```

use std::time::Duration;

use keyward_core::clock::{Clock, SystemClock};
use keyward_core::lock::{ClusterTime, Command, Operation, Proposal, Stamp, State};
use keyward_core::types::{LockOptions, LockRequest, RequestId, UnlockOptions, UnlockRequest};

/// Commands per entry, as for a busy leader.
const BATCH: u64 = 64;
/// The duration of a grant, in seconds.
const DURATION: u64 = 30;

/// A state and its log.
struct Log {
    state: State,
    index: u64,
    now: ClusterTime,
}

fn main() {
    let count = std::env::args().nth(1).map_or(1_000_000, |count| {
        count.parse().expect("the first argument is the number of locks")
    });
    let mut log = Log { state: State::new(), index: 0, now: ClusterTime(1) };
    let empty = resident_kib();

    log.timed("lock, names in order", count, |number| lock(number, None));
    println!("  {} bytes for each lock", (resident_kib() - empty) * 1024 / count.max(1));
    log.timed("renew, names mixed", count, |number| lock(mixed(number, count), None));
    log.timed("refused, names mixed", count, |number| refused(mixed(number, count)));
    let with_id = |number| {
        let id = RequestId { lane: u128::from(number % 1000), seq: number / 1000 + 1 };
        lock(mixed(number, count), Some(id))
    };
    log.timed("renew, with a request id", count, with_id);
    log.state.track_changes(true);
    log.timed("renew, with changes tracked", count / 10, |number| lock(number, None));
    timed("take the changes", || log.state.take_changes());
    log.state.track_changes(false);

    let snapshot = timed("clone", || log.state.clone());
    log.timed("renew, beside the clone", count / 10, |number| lock(mixed(number, count), None));
    let bytes = timed("encode", || snapshot.encode());
    println!("  {} MiB", bytes.len() >> 20);
    drop(snapshot);
    let mut restored = timed("decode", || State::decode(&bytes).expect("they were just encoded"));
    let delete = Proposal {
        stamp: Stamp::default(),
        commands: vec![Operation::DeleteTable { table: "default".into() }.into()],
    };
    timed("delete the table", || restored.apply(0, 0, &delete));
    drop((bytes, restored));

    log.now = log.now.saturating_add(Duration::from_secs(2 * DURATION));
    timed("expire all", || {
        while log.state.has_unexpired() {
            log.apply(vec![Command::advance()]);
        }
    });
    log.timed("unlock, names mixed", count, |number| unlock(mixed(number, count)));
    println!("  {} records left, {} KiB resident", log.state.counts().records, resident_kib());
}

impl Log {
    fn apply(&mut self, commands: Vec<Command>) {
        self.index += 1;
        let stamp = Stamp { term: 0, time: self.now };
        self.state.apply(0, self.index, &Proposal { stamp, commands });
    }

    /// Applies `count` commands in entries of a batch each, 100 µs apart.
    fn timed(&mut self, what: &str, count: u64, command: impl Fn(u64) -> Command) {
        let mut spent = Duration::ZERO;
        for first in (0..count).step_by(usize::try_from(BATCH).expect("a small number")) {
            let commands = (first..count.min(first + BATCH)).map(&command).collect();
            let start = SystemClock.raw();
            self.apply(commands);
            spent += SystemClock.raw().saturating_sub(start);
            self.now = self.now.saturating_add(Duration::from_micros(100));
        }
        let rate = u128::from(count) * 1_000_000 / spent.as_micros().max(1);
        println!("{what}: {count} in {spent:.2?}, {rate}/s");
    }
}

fn timed<T>(what: &str, run: impl FnOnce() -> T) -> T {
    let start = SystemClock.raw();
    let result = run();
    let spent = SystemClock.raw().saturating_sub(start);
    println!("{what}: {spent:.2?}, {} MiB resident", resident_kib() >> 10);
    result
}

/// A name of 20 bytes.
fn name(number: u64) -> String {
    format!("jobs/lock-{number:010}")
}

/// A permutation of the same numbers: the step is a prime.
fn mixed(number: u64, count: u64) -> u64 {
    number.wrapping_mul(15_485_863) % count
}

fn lock(number: u64, request_id: Option<RequestId>) -> Command {
    let request = LockRequest {
        signature: name(number),
        signee: format!("worker-{:05}", number % 100_000),
        level: None,
    };
    let options = LockOptions {
        duration: Some(Duration::from_secs(DURATION)),
        request_id,
        ..LockOptions::default()
    };
    Command::lock(request, options).expect("a good request")
}

fn refused(number: u64) -> Command {
    let request =
        LockRequest { signature: name(number), signee: "another".to_owned(), level: None };
    Command::lock(request, LockOptions::default()).expect("a good request")
}

fn unlock(number: u64) -> Command {
    let request = UnlockRequest {
        signature: name(number),
        signee: format!("worker-{:05}", number % 100_000),
    };
    Command::unlock(request, UnlockOptions::default())
}

/// The resident memory of this process, as reported by Linux; 0 elsewhere.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
