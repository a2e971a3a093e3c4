//! The lock machine and its codecs, in time: `cargo bench`.
//!
//! `scripts/count-instructions` counts instead, which repeats exactly on a busy machine.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use keyward::api::{BatchBody, BatchItem, LockBody};
use keyward::lock::{ClusterTime, Command, Operation, Proposal, Stamp, State};
use keyward::types::{LockOptions, LockRequest, UnlockOptions, UnlockRequest};

/// Commands in an entry: what a busy leader puts into one.
const BATCH: u64 = 64;

/// Locks that are held meanwhile.
const HELD: [u64; 2] = [0, 1_000_000];

fn request(number: u64) -> LockRequest {
    LockRequest { signature: format!("jobs/{number:010}"), signee: "worker".into(), level: None }
}

fn options() -> LockOptions {
    LockOptions { duration: Some(Duration::from_secs(30)), ..LockOptions::default() }
}

fn lock(number: u64) -> Command {
    Command::lock(request(number), options()).expect("a good request")
}

fn unlock(number: u64) -> Command {
    let LockRequest { signature, signee, .. } = request(number);
    let request = UnlockRequest { signature, signee };
    Command::unlock(request, UnlockOptions::default())
}

fn entry(time: u64, commands: Vec<Command>) -> Proposal {
    Proposal { stamp: Stamp { term: 0, time: ClusterTime(time) }, commands }
}

fn holding(locks: u64) -> State {
    let mut state = State::new();
    for first in (0..locks).step_by(1000) {
        let commands = (first..locks.min(first + 1000)).map(lock).collect();
        state.apply(0, first, &entry(first / 1000, commands));
    }
    state
}

fn apply(c: &mut Criterion) {
    let mut group = c.benchmark_group("apply");
    group.throughput(Throughput::Elements(BATCH));
    for held in HELD {
        let mut state = holding(held);
        let pairs: Vec<Command> = (0..BATCH / 2)
            .flat_map(|number| [lock(held + number), unlock(held + number)])
            .collect();
        let pairs = entry(held, pairs);
        let name = format!("pairs, {held} held");
        group.bench_function(name, |b| b.iter(|| black_box(state.apply(0, held, &pairs))));
        if held > 0 {
            let renewals: Vec<Command> =
                (0..BATCH).map(|number| lock(number.wrapping_mul(15_485_863) % held)).collect();
            let renewals = entry(held, renewals);
            let name = format!("renewals, {held} held");
            group.bench_function(name, |b| b.iter(|| black_box(state.apply(0, held, &renewals))));
        }
    }
    group.finish();
}

fn whole(c: &mut Criterion) {
    let mut group = c.benchmark_group("a million locks");
    group.sample_size(10);
    let state = holding(1_000_000);
    let late = entry(10_000_000_000, vec![Command::advance()]);
    let expire = |mut state: State| {
        while state.has_unexpired() {
            state.apply(0, 1, &late);
        }
        state
    };
    group.bench_function("expire", |b| {
        b.iter_batched(|| state.clone(), expire, BatchSize::PerIteration);
    });
    let bytes = state.encode();
    group.bench_function("encode", |b| b.iter(|| black_box(state.encode())));
    group.bench_function("decode", |b| b.iter(|| black_box(State::decode(&bytes))));
    group.finish();
}

fn codecs(c: &mut Criterion) {
    let mut group = c.benchmark_group("codecs");
    group.throughput(Throughput::Elements(BATCH));
    let proposal = entry(1, (0..BATCH).map(lock).collect());
    let bytes = proposal.encode();
    group.bench_function("encode an entry", |b| b.iter(|| black_box(proposal.encode())));
    group.bench_function("decode an entry", |b| b.iter(|| black_box(Proposal::decode(&bytes))));
    let item = |number| {
        let Operation::Lock(command) = lock(number).operation else { panic!("no lock") };
        BatchItem::Lock(LockBody::new(&command, None))
    };
    let batch = BatchBody { requests: (0..BATCH).map(item).collect() };
    let json = serde_json::to_vec(&batch).expect("a batch is JSON");
    group.bench_function("write a batch", |b| b.iter(|| black_box(serde_json::to_vec(&batch))));
    group.bench_function("read a batch", |b| {
        b.iter(|| black_box(serde_json::from_slice::<BatchBody>(&json)));
    });
    group.finish();
}

criterion_group!(benches, apply, whole, codecs);
criterion_main!(benches);
