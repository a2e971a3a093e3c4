//! The seeds that are not text, and those taken from other files: written by
//! `UPDATE_GOLDENFILES=1 cargo nextest run -p keyward-fuzz seeds`, compared in every other run.

use std::time::Duration;

use keyward::api::{ListQuery, LockBody};
use keyward::codec::Encoding as _;
use keyward::conformance::scripts;
use keyward::forward::wire::{
    Request, decode_answer, decode_requests, encode_answer, encode_requests, frame_head,
};
use keyward::limits::{ALL, Limit, Proof};
use keyward::lock::{Command, Operation, State};
use keyward::raft::bootstrap::{Introduction, encode_introduction};
use keyward::storage::checkpoint::CheckpointMeta;
use keyward::storage::{LogId, Uuid};
use keyward::types::{ListRequest, LockOptions, LockRequest, RequestId, Token};

use crate::{TARGETS, corpus};

/// A target, the name of one of its seeds, and the seed.
type Seed = (&'static str, String, Vec<u8>);

#[test]
fn seeds_are_what_they_are_made_of() {
    let update = std::env::var("UPDATE_GOLDENFILES").is_ok_and(|value| value == "1");
    for (target, _) in TARGETS {
        let found = corpus::read(target);
        let mut expected = found.clone();
        let own = seeds().into_iter().filter(|(of, ..)| *of == target);
        expected.extend(own.map(|(_, name, bytes)| (name, bytes)));
        if update {
            corpus::write(target, &expected);
        } else {
            let changed: Vec<&String> = expected
                .iter()
                .filter(|(name, bytes)| found.get(*name) != Some(bytes))
                .map(|(name, _)| name)
                .collect();
            assert!(changed.is_empty(), "{target}: {changed:?} changed: UPDATE_GOLDENFILES=1");
        }
    }
}

fn seeds() -> Vec<Seed> {
    let mut seeds = Vec::new();
    let is_read = |text: &str| !text.contains("call=") && !text.contains("times=");
    for script in scripts().into_iter().filter(|script| is_read(&script.text)) {
        seeds.push(("script", script.name.into_owned(), script.text.as_bytes().to_vec()));
    }
    let proposal = corpus::bytes(include_str!("../../crates/core/src/lock/tests/proposal-1.hex"));
    let state = corpus::bytes(include_str!("../../crates/core/src/lock/tests/state-1.hex"));
    let proposal_2 = corpus::bytes(include_str!("../../crates/core/src/lock/tests/proposal-2.hex"));
    let state_2 = corpus::bytes(include_str!("../../crates/core/src/lock/tests/state-2.hex"));
    let of_level_2 = || "golden-of-level-2".to_owned();
    seeds.push(("checkpoint", of_level_2(), checkpoint(&State::decode(&state_2).unwrap())));
    seeds.push(("proposal", of_level_2(), proposal_2));
    seeds.push(("snapshot", of_level_2(), state_2));
    seeds.push(("checkpoint", "golden".to_owned(), checkpoint(&State::decode(&state).unwrap())));
    seeds.push(("checkpoint", "empty".to_owned(), checkpoint(&State::new())));
    seeds.push(("proposal", "golden".to_owned(), proposal));
    seeds.push(("proposal", "empty".to_owned(), vec![1, 1, 5, 0]));
    seeds.push(("snapshot", "golden".to_owned(), state));
    seeds.push(("snapshot", "empty".to_owned(), State::new().encode()));
    let groups: [Vec<Seed>; 6] = [
        limits(),
        turns(),
        of("peer_messages", peer_messages()),
        of("forward", forward()),
        of("log", log()),
        of("machine", machine()),
    ];
    seeds.extend(groups.into_iter().flatten());
    seeds
}

fn of<N: Into<String>>(target: &'static str, seeds: Vec<(N, Vec<u8>)>) -> Vec<Seed> {
    seeds.into_iter().map(|(name, bytes)| (target, name.into(), bytes)).collect()
}

/// Bodies with the fields of waiting, modes, sessions and an operator's release.
fn turns() -> Vec<Seed> {
    let session = "00000000000000000000000000000001";
    let locks = [
        (
            "queued-permit",
            r#""mode":"permits","limit":3,"wait_ms":1,"respond":"queued""#.to_owned(),
        ),
        ("shared", r#""mode":"shared","lock_delay_ms":1000"#.to_owned()),
        ("in-a-session", format!(r#""session":"{session}","wait_ms":61000,"respond":"queued""#)),
        ("session-and-duration", format!(r#""session":"{session}","duration_ms":1"#)),
    ];
    let lock = |(name, fields): (&str, String)| {
        let body = format!(r#"{{"signature":"a","signee":"b",{fields}}}"#);
        ("http_lock", format!("turns-{name}"), body.into_bytes())
    };
    let unlocks = [
        ("token", r#""force":true,"token":1"#),
        ("place", r#""force":true,"place":"3.0""#),
        ("neither", r#""force":true"#),
    ];
    let unlock = |(name, fields): (&str, &str)| {
        let body = format!(r#"{{"signature":"a","signee":"b",{fields}}}"#);
        ("http_unlock", format!("turns-{name}"), body.into_bytes())
    };
    locks.into_iter().map(lock).chain(unlocks.into_iter().map(unlock)).collect()
}

/// Seeds for every limit in the list, at both its ends and beyond.
fn limits() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for limit in ALL.iter().filter(|limit| limit.proof == Proof::Asked) {
        let ends = [("smallest", limit.smallest), ("largest", limit.largest)];
        for (end, value) in ends.into_iter().chain([("beyond", limit.largest + 1)]) {
            let name = format!("limit-{}-{end}", limit.name);
            if let Some((request, options)) = request(*limit, value) {
                let command = Command::lock(request, options).unwrap();
                let Operation::Lock(lock) = &command.operation else { panic!("{command:?}") };
                let body = LockBody::new(lock, command.request_id);
                seeds.push(("http_lock", name, serde_json::to_vec(&body).unwrap()));
            } else if let Some(page) = page(*limit, value) {
                let query = ListQuery {
                    prefix: page.prefix,
                    after: page.after,
                    limit: Some(page.limit),
                    ..ListQuery::default()
                };
                let query = serde_urlencoded::to_string(&query).unwrap();
                seeds.push(("http_list", name, query.into_bytes()));
            }
        }
    }
    seeds
}

/// A text of this length.
fn text(value: i128) -> String {
    "x".repeat(usize::try_from(value).unwrap())
}

/// A request with this value of this limit, and everything else as is usual; `None` if a request has no
/// such value.
fn request(limit: Limit, value: i128) -> Option<(LockRequest, LockOptions)> {
    let mut request =
        LockRequest { signature: "a".to_owned(), signee: "b".to_owned(), level: None };
    let mut options = LockOptions::default();
    match limit.name {
        "signature" => request.signature = text(value),
        "signee" => request.signee = text(value),
        "instance" => options.instance = Some(text(value)),
        "table" => options.table = Some(text(value)),
        "level" => request.level = Some(i64::try_from(value).unwrap()),
        "token" => options.token = Some(Token(u64::try_from(value).unwrap())),
        "duration" => {
            options.duration = Some(Duration::from_millis(u64::try_from(value).unwrap()));
        }
        "time_to_live" => {
            let length = Duration::from_millis(u64::try_from(value).unwrap());
            options.time_to_live = Some(length.into());
        }
        "request_number" => {
            let seq = u64::try_from(value).ok()?;
            options.request_id = Some(RequestId { lane: 1, seq });
        }
        _ => return None,
    }
    Some((request, options))
}

/// A page with this value of this limit; `None` if a page has no such value.
fn page(limit: Limit, value: i128) -> Option<ListRequest> {
    let mut page = ListRequest::default();
    match limit.name {
        "prefix" => page.prefix = text(value),
        "after" => page.after = Some(text(value)),
        "limit" => page.limit = u32::try_from(value).unwrap(),
        _ => return None,
    }
    Some(page)
}

fn checkpoint(state: &State) -> Vec<u8> {
    let applied = LogId { term: 3, index: 9 };
    let membership = corpus::named(MESSAGES).find(|(name, _)| name == "snapshot-meta").unwrap().1;
    let meta = CheckpointMeta { applied, membership, state: state.encoded_meta() };
    let mut out = Vec::new();
    let mut part = |bytes: &[u8]| {
        out.extend(u16::try_from(bytes.len()).unwrap().to_le_bytes());
        out.extend(bytes);
    };
    let mut encoded = Vec::new();
    meta.put(&mut encoded);
    part(&encoded);
    for (key, value) in state.encoded_records() {
        part(&key);
        part(&value);
    }
    out
}

/// One of each message between members, from the golden file beside their encoding.
const MESSAGES: &str = include_str!("../../src/raft/codec/messages.hex");

fn peer_messages() -> Vec<(String, Vec<u8>)> {
    let introduction = Introduction {
        node: 1,
        uuid: Uuid(0x11),
        cluster: Some(Uuid(7)),
        members: [(1, Uuid(0x11)), (2, Uuid(0x22))].into(),
        configured: [(1, "a:7421".to_owned()), (2, "b:7421".to_owned())].into(),
        level: 1,
        rho_ppm: Some(10_000),
        client_addr: Some("http://a:7420".to_owned()),
        restored: Some(Uuid(6)),
    };
    let mut seeds: Vec<_> = corpus::named(MESSAGES).collect();
    seeds.push(("introduction".to_owned(), encode_introduction(&introduction).to_vec()));
    let start = "folder=0b boot=3 run=ff found=1.2 promised=3.4";
    let handshake =
        format!("protocol=1 level=1 cluster=07 from=1 {start} to=2 known=0c:9:d:1.2:3.4");
    seeds.push(("handshake".to_owned(), handshake.into_bytes()));
    seeds.push(("signature".to_owned(), format!("level=1 {start}").into_bytes()));
    seeds
}

/// Requests and answers from the golden files beside their encoding, together and changed.
fn forward() -> Vec<(String, Vec<u8>)> {
    let requests = corpus::named(include_str!("../../src/forward/wire/requests-5.hex"));
    let mut seeds: Vec<_> = requests.collect();
    let decoded = |(_, bytes): &(_, Vec<u8>)| decode_requests(bytes).unwrap().remove(0);
    let several: Vec<_> = seeds.iter().map(decoded).collect();
    let several_parts = several.iter().map(|(request, call)| (request, call));
    let (Request::Decide(commands), call) = &several[0] else { panic!("commands come first") };
    let request_id = Some(RequestId { lane: 7, seq: 2 });
    let lane_forgotten = Command { request_id, ..commands[0].clone() };
    let request = Request::Decide(vec![lane_forgotten]);
    let lane_forgotten = encode_requests([(&request, call)]).to_vec();
    seeds.push(("lock-of-a-forgotten-lane".to_owned(), lane_forgotten));
    seeds.push(("several".to_owned(), encode_requests(several_parts).to_vec()));
    let answers = corpus::named(include_str!("../../src/forward/wire/answers-5.hex")).enumerate();
    let frames = answers.flat_map(|(number, (_, frame))| {
        let head = frame_head(&frame).unwrap().unwrap();
        encode_answer(number, &decode_answer(&frame[head.bytes..]).unwrap())
    });
    seeds.push(("answers".to_owned(), frames.collect()));
    seeds
}

/// Seeds of the log: the way the node ended, then changes with kind and file, place, value.
fn log() -> Vec<(&'static str, Vec<u8>)> {
    let change = |kind: u8, file: u8, at: u16, value: u8| {
        let [low, high] = at.to_le_bytes();
        [kind + 8 * file, low, high, value]
    };
    let mut seeds = vec![
        ("crashed", vec![0]),
        ("closed", vec![2]),
        ("forged-and-equal", vec![1]),
        ("forged-and-closed", vec![3]),
    ];
    for (name, how) in [("damaged", 0), ("forged", 1)] {
        let all: Vec<u8> = (0..8).flat_map(|file| change(0, file, 70, 1)).collect();
        seeds.push((name, [vec![how], all].concat()));
    }
    for (name, file) in [("byte-of-0", 0), ("byte-of-1", 1), ("byte-of-2", 2), ("byte-of-3", 3)] {
        seeds.push((name, [vec![0], change(0, file, 520, 4).to_vec()].concat()));
    }
    seeds.push(("cut", [vec![0], change(5, 3, 600, 0).to_vec()].concat()));
    seeds.push(("sector-twice", [vec![0], change(6, 3, 1024, 0).to_vec()].concat()));
    seeds.push(("removed", [vec![2], change(7, 2, 0, 0).to_vec()].concat()));
    seeds
}

/// Random histories: their bytes are choices, and mean nothing to a reader.
fn machine() -> Vec<(&'static str, Vec<u8>)> {
    use rand::{Rng as _, SeedableRng as _};

    let history = |seed, length| -> Vec<u8> {
        let random = rand::rngs::StdRng::seed_from_u64(seed);
        random.random_iter().take(length).collect()
    };
    vec![("short", history(1, 40)), ("longer", history(2, 200)), ("long", history(3, 800))]
}
