//! Bytes that nobody wrote, given to everything that reads bytes from outside or from a disk.
//!
//! Each target takes valid bytes as its seeds, spoils them and reads the result: an error or a right
//! answer is fine, a panic never is. `cargo nextest run fuzzing` spoils each target's seeds a few
//! thousand times; `scripts/fuzz [TARGET] [SECONDS]` goes on for as long as one likes. A failure
//! prints its seed, and `KEYWARD_FUZZ_SEED` repeats it.
//!
//! The lock machine is played against its oracle in `lock/tests/histories.rs`, not here.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tower::ServiceExt as _;

use crate::clock::{Clock as _, SystemClock};
use crate::http::{Extras, clients_router};
use crate::lock::{ClusterTime, Command, LockCommand, Operation, Proposal, Stamp, State};
use crate::memory::MemoryLocks;
use crate::raft::bootstrap::decode_introduction;
use crate::raft::codec;
use crate::raft::hello::Hello;
use crate::storage::disk::{Disk, MemDisk};
use crate::storage::log::Drive;
use crate::storage::snapshots::SnapshotMeta;
use crate::storage::{
    Identity, Log, LogEntry, LogId, LogOptions, Snapshots, StorageError, Uuid, Vote,
};
use crate::types::RequestId;

/// How often each target's seeds are spoiled if nobody says for how long.
const ROUNDS: u64 = 3000;

/// Runs a target for the time that was asked for, or a fixed number of rounds.
fn fuzz(seeds: &[Vec<u8>], mut target: impl FnMut(&[u8])) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("KEYWARD_FUZZ_SEED") {
        return target(&spoiled(seeds, seed));
    }
    let limit = number("KEYWARD_FUZZ_SECONDS").map(Duration::from_secs);
    let begin = SystemClock.raw();
    let first = rand::random::<u64>() >> 16;
    for round in 0.. {
        let over = match limit {
            Some(limit) => SystemClock.raw().saturating_sub(begin) >= limit,
            None => round >= ROUNDS,
        };
        if over {
            println!("{round} rounds");
            return;
        }
        let seed = first + round;
        let bytes = spoiled(seeds, seed);
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| target(&bytes)));
        if let Err(panic) = caught {
            eprintln!("KEYWARD_FUZZ_SEED={seed} spoils it so: {}", bytes.escape_ascii());
            std::panic::resume_unwind(panic);
        }
    }
}

/// One of the seeds with a few changes; now and then with none, or nothing but chance.
fn spoiled(seeds: &[Vec<u8>], seed: u64) -> Vec<u8> {
    let mut random = StdRng::seed_from_u64(seed);
    let pick = |random: &mut StdRng| seeds[random.random_range(0..seeds.len())].clone();
    let mut bytes = pick(&mut random);
    for _ in 0..random.random_range(0..6) {
        let at = random.random_range(0..=bytes.len());
        match random.random_range(0..8) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, random.random()),
            2 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            3 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][at % 5],
            4 if at + 4 <= bytes.len() => bytes[at..at + 4].fill(random.random()),
            5 => {
                let end = random.random_range(at..=bytes.len());
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            6 => {
                let other = pick(&mut random);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[at.min(other.len())..]);
            }
            _ => {
                let end = random.random_range(at..=bytes.len());
                bytes.drain(at..end);
            }
        }
    }
    bytes
}

fn proposal() -> Proposal {
    let command = LockCommand {
        table: "default".into(),
        signature: "jobs/nightly".into(),
        signee: "worker-1".into(),
        instance: Some("i".into()),
        level: Some(-3),
        force: true,
        duration_ms: Some(30_000),
        time_to_live_ms: Some(60_000),
        token: None,
    };
    let command = Command {
        request_id: Some(RequestId { lane: 7, seq: 1 }),
        actor: Some("actor".into()),
        cause: None,
        operation: Operation::Lock(Box::new(command)),
    };
    let stamp = Stamp { term: 1, time: ClusterTime(5) };
    Proposal { stamp, commands: vec![command, Command::advance()] }
}

fn state() -> State {
    let mut state = State::new();
    state.apply(1, 1, &proposal());
    state
}

#[test]
fn messages_of_peers_never_panic() {
    let message = |rest: &[u8]| [rest, &[0; 40]].concat();
    let mut seeds: Vec<Vec<u8>> = (16..=24).map(|tag| message(&[tag, 1, 0])).collect();
    seeds.push(message(&[32, 1]));
    seeds.push(codec::data_of(&proposal()).payload().to_vec());
    seeds.push(b"1 07 1 0b 2 - 3 ff http://10.0.0.1:7420".to_vec());
    fuzz(&seeds, |input| {
        let bytes = Bytes::copy_from_slice(input);
        if let Ok(request) = codec::decode_append(bytes.clone()) {
            assert_eq!(codec::encode_append(&request), bytes, "it is written as it was read");
        }
        drop(codec::decode_appended(bytes.clone()));
        drop(codec::decode_vote_request(bytes.clone()));
        drop(codec::decode_vote_response(bytes.clone()));
        drop(codec::decode_transfer(bytes.clone()));
        drop(codec::decode_transferred(bytes.clone()));
        drop(codec::decode_snapshot_header(bytes.clone()));
        drop(codec::decode_snapshot_meta(bytes.clone()));
        drop(codec::decode_installed(bytes.clone()));
        drop(codec::decode_payload(&bytes));
        drop(decode_introduction(bytes.clone()));
        drop(crate::forward::decode_requests(&bytes));
        drop(crate::forward::decode_answers(&bytes));
        drop(String::from_utf8_lossy(input).parse::<Hello>());
    });
}

#[test]
fn proposals_and_states_never_panic_and_read_as_they_are_written() {
    let seeds = [proposal().encode().clone(), state().encode()];
    fuzz(&seeds, |input| {
        if let Ok(proposal) = Proposal::decode(input) {
            let mut state = state();
            state.apply(proposal.stamp.term, 2, &proposal);
        }
        if let Ok(mut state) = State::decode(input) {
            let again = State::decode(&state.encode());
            assert_eq!(again.as_ref(), Ok(&state), "it reads as it is written");
            state.apply(1, 2, &proposal());
        }
    });
}

fn log_options() -> LogOptions {
    LogOptions { segment_bytes: 2048, drive: Drive::Inline, seed: Some(7), ..LogOptions::default() }
}

/// A data folder with something in each of its files.
fn folder() -> (MemDisk, Vec<LogEntry>) {
    let disk = MemDisk::new(1);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    Identity::open(shared.clone(), 1).unwrap();
    let (log, _) = Log::open(shared.clone(), log_options()).unwrap();
    let payload = codec::data_of(&proposal()).payload().clone();
    let entry = |index| LogEntry { id: LogId { term: 1, index }, payload: payload.clone() };
    let entries: Vec<LogEntry> = (0..6).map(entry).collect();
    for entry in &entries {
        log.append(vec![entry.clone()], |result| result.unwrap());
    }
    log.save_vote(Vote { term: 1, node: 1, committed: true }, |result| result.unwrap());
    let meta = SnapshotMeta {
        cluster: Some(Uuid(1)),
        last: Some(LogId { term: 1, index: 3 }),
        membership: vec![1, 2],
        membership_log: None,
        feature_level: 1,
        body_bytes: 0,
    };
    Snapshots::open(shared, None).unwrap().save(meta, &state().encode()).unwrap();
    log.abandon();
    (disk, entries)
}

/// Opens everything; what the log then has must be what was written.
fn open(disk: &MemDisk, written: &[LogEntry]) -> Result<(), StorageError> {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    Identity::open(shared.clone(), 1)?;
    let (log, recovered) = Log::open(shared.clone(), log_options())?;
    let found = log.read(0, u64::MAX)?;
    assert!(written.starts_with(&found), "the log has what nobody wrote: {found:?}");
    let snapshots = Snapshots::open(shared, recovered.purged)?;
    if let Some(latest) = snapshots.latest() {
        let body = snapshots.body(&latest)?;
        assert_eq!(body, state().encode(), "the snapshot is what nobody wrote");
    }
    Ok(())
}

#[test]
fn a_spoiled_file_stops_the_node_or_makes_no_difference() {
    let (whole, entries) = folder();
    let paths = whole.paths();
    let seeds: Vec<Vec<u8>> = paths.iter().map(|path| whole.bytes(path).unwrap()).collect();
    assert!(paths.len() >= 5, "{paths:?}");
    let mut turn = 0;
    fuzz(&seeds, |input| {
        let disk = whole.fork();
        disk.set_bytes(&paths[turn % paths.len()], input.to_vec());
        turn += 1;
        // Whether it opens is for the tests of each file; here it must not panic nor be wrong.
        drop(open(&disk, &entries));
    });
}

#[test]
fn settings_never_panic() {
    let seeds = [
        b"id = 1\ndata_dir = \"/x\"\nmembers = { 1 = \"a:7421\" }\nrho = \"1%\"\n".to_vec(),
        b"profile = \"fast\"\nsnapshot_every = 5\nshutdown_timeout = \"10s\"\n".to_vec(),
        b"log = \"info\"\nlog_format = \"json\"\nclient_listen = \"0.0.0.0:1\"\n".to_vec(),
    ];
    fuzz(&seeds, |input| {
        drop(crate::cli::read_settings(&String::from_utf8_lossy(input)));
    });
}

/// One request as bytes: a line with method and path, lines with headers, an empty line, the body.
fn request(input: &[u8]) -> Option<axum::http::Request<Body>> {
    let at = input.windows(2).position(|pair| pair == b"\n\n")?;
    let (head, body) = (std::str::from_utf8(&input[..at]).ok()?, &input[at + 2..]);
    let mut lines = head.lines();
    let (method, path) = lines.next()?.split_once(' ')?;
    let mut builder = axum::http::Request::builder().method(method).uri(path);
    for line in lines {
        let (name, value) = line.split_once(':')?;
        builder = builder.header(name, value);
    }
    builder.body(Body::from(body.to_vec())).ok()
}

#[test]
fn the_http_api_answers_anything_with_what_the_contract_has() {
    let json = "content-type:application/json\n\n";
    let seeds: Vec<Vec<u8>> = [
        format!("POST /v1/lock\n{json}{{\"signature\":\"a\",\"signee\":\"b\",\"level\":1}}"),
        format!("POST /v1/lock\n{json}{{\"signature\":\"a\",\"signee\":\"c\",\"token\":1}}"),
        format!("POST /v1/unlock\n{json}{{\"signature\":\"a\",\"signee\":\"b\"}}"),
        format!("POST /v1/batch\n{json}{{\"requests\":[]}}"),
        "GET /v1/lock?signature=a\n\n".to_owned(),
        "GET /v1/locks?prefix=a&limit=3&after=b\naccept:*/*\n\n".to_owned(),
        "GET /v1/tables\n\n".to_owned(),
        "GET /metrics\n\n".to_owned(),
        "GET /openapi.json\nkeyward-timeout-ms:10\n\n".to_owned(),
    ]
    .map(String::into_bytes)
    .into();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (locks, extras) = (Arc::new(MemoryLocks::new()), Extras::default());
    let router = runtime.block_on(async { clients_router(locks, extras) });
    let mut asked = 0;
    fuzz(&seeds, |input| {
        let Some(request) = request(input) else { return };
        asked += 1;
        let answer = runtime.block_on(router.clone().oneshot(request)).unwrap();
        let status = answer.status().as_u16();
        let body = axum::body::to_bytes(answer.into_body(), 1 << 20);
        let body = runtime.block_on(body).unwrap();
        assert!(status < 500, "{status}: {}", body.escape_ascii());
    });
    assert!(asked > 0, "no request was one");
}
