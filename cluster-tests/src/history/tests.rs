use std::io::Cursor;
use std::time::Duration;

use keyward::MemoryLocks;
use keyward::service::LockService;
use keyward::types::{
    CallOptions, LockOptions, LockRequest, Mode, ReadOptions, Seen, SessionOptions, SessionRequest,
    SessionStatus, UnlockOptions, UnlockRequest,
};

use super::recorded::failed;
use super::*;

fn request(signee: &str) -> LockRequest {
    LockRequest { signature: "a".into(), signee: signee.into(), level: None }
}

async fn recorded() -> History {
    let recorder = Recorder::in_memory();
    let client = Recorded::new(MemoryLocks::new(), recorder.clone(), "c1").with_lane(7);
    client.lock(request("x"), LockOptions::default()).await.unwrap();
    client.lock(request("y"), LockOptions::default()).await.unwrap();
    client.check("a".into(), ReadOptions::default()).await.unwrap();
    let unlock = UnlockRequest { signature: "a".into(), signee: "x".into() };
    client.unlock(unlock, UnlockOptions::default()).await.unwrap();
    client.check("a".into(), ReadOptions::default()).await.unwrap_err();
    let mut fault = recorder.begin_fault("kill", "node 1");
    fault.installed();
    fault.end();
    recorder.event("healed", "");
    recorder.into_history(Header::new(1, "test", "memory"), false)
}

fn read(bytes: &[u8]) -> Result<History, HistoryError> {
    let mut reader = Reader::new(Cursor::new(bytes))?;
    let entries = reader.by_ref().collect::<Result<_, _>>()?;
    let footer = reader.footer().expect("a history that was read has a footer");
    Ok(History { header: reader.header().clone(), entries, footer })
}

#[tokio::test]
async fn what_was_written_is_read() {
    let history = recorded().await;
    let mut bytes = Vec::new();
    history.write(&mut bytes).unwrap();
    assert_eq!(read(&bytes).unwrap(), history);
}

#[tokio::test]
async fn answers_are_written_in_the_words_of_the_contract() {
    let history = recorded().await;
    let outcomes: Vec<_> = history.operations().map(|operation| &operation.outcome).collect();
    assert!(matches!(outcomes[0], Outcome::Ok(Answer::Granted(granted)) if granted.token == 1));
    let held = matches!(outcomes[1], Outcome::Refused(Refusal::Forbidden { holder: Some(holder), .. })
        if holder.signee == "x");
    assert!(held, "{:?}", outcomes[1]);
    assert!(matches!(outcomes[2], Outcome::Ok(Answer::Record(Some(_)))));
    assert_eq!(*outcomes[3], Outcome::Ok(Answer::Released));
    assert_eq!(*outcomes[4], Outcome::Ok(Answer::Record(None)));
    let ids: Vec<_> = history.operations().filter_map(|operation| operation.request_id).collect();
    assert_eq!(ids.iter().map(|id| id.seq).collect::<Vec<_>>(), [1, 2, 3]);
}

#[tokio::test]
async fn a_lane_goes_on_once_a_request_on_it_was_judged() {
    let recorder = Recorder::in_memory();
    let client = Recorded::new(MemoryLocks::new(), recorder.clone(), "c1").with_lane(7);
    let wrong = LockRequest { signature: String::new(), ..request("x") };
    client.lock(wrong.clone(), LockOptions::default()).await.unwrap_err();
    client.lock(request("x"), LockOptions::default()).await.unwrap();
    client.lock(wrong, LockOptions::default()).await.unwrap_err();
    client.lock(request("x"), LockOptions::default()).await.unwrap();
    let history = recorder.into_history(Header::new(1, "", ""), false);
    let ids = history.operations().filter_map(|operation| operation.request_id);
    let ids: Vec<_> = ids.map(|id| (id.lane, id.seq)).collect();
    assert_eq!(ids, [(7, 1), (8, 1), (8, 2), (8, 3)]);
}

#[tokio::test]
async fn a_call_that_is_dropped_is_unknown_and_never_returns() {
    let recorder = Recorder::in_memory();
    let call = recorder.begin("c1", Action::Check(LockName::new("default", "a")));
    drop(call);
    let history = recorder.into_history(Header::new(1, "", ""), false);
    let operation = history.operations().next().expect("it is there");
    assert_eq!((operation.returned, &operation.outcome), (None, &Outcome::Unknown));
    assert!(operation.gave_up.is_some());
}

#[test]
fn only_what_is_certainly_not_done_is_written_so() {
    use keyward::Error;
    let unknown = [Error::unknown("a time-out"), Error::NotFound { decided_at: None }];
    for error in unknown {
        assert_eq!(failed(&error), Outcome::Unknown, "{error}");
    }
    assert_eq!(failed(&Error::unavailable("no leader")), Outcome::Unavailable);
}

#[tokio::test]
async fn a_cut_history_is_refused_at_every_byte() {
    let mut bytes = Vec::new();
    recorded().await.write(&mut bytes).unwrap();
    for length in 0..bytes.len() - 1 {
        assert!(read(&bytes[..length]).is_err(), "cut at {length} of {}", bytes.len());
    }
}

#[tokio::test]
async fn a_missing_operation_is_noticed() {
    let mut history = recorded().await;
    history.entries.remove(1);
    let mut bytes = Vec::new();
    history.write(&mut bytes).unwrap();
    assert!(matches!(read(&bytes), Err(HistoryError::Miscounted { counted: 5, found: 4 })));
}

#[tokio::test]
async fn an_unknown_operation_that_returned_is_refused() {
    let mut history = recorded().await;
    if let Entry::Operation(operation) = &mut history.entries[0] {
        operation.outcome = Outcome::Unknown;
    }
    let mut bytes = Vec::new();
    history.write(&mut bytes).unwrap();
    assert!(matches!(read(&bytes), Err(HistoryError::Operation { id: 0, .. })));
}

#[test]
fn the_first_version_is_still_read() {
    let lines = br#"{"format":"keyward-history","version":1,"seed":7,"command":"c","service":"s"}
{"operation":{"id":0,"client":"c1","action":{"lock":{"lock":{"table":"default","signature":"x"},"signee":"a","duration_ms":10000}},"invoked":1000,"returned":900000,"outcome":{"ok":{"granted":{"status":"ok","token":1,"level":0,"expires_in_ms":10000,"live":true}}},"decided_at":{"index":12,"position":0}}}
{"operations":1}
"#;
    let history = read(lines).unwrap();
    let operation = history.operations().next().expect("it is there");
    assert!(!operation.has_turns());
    assert_eq!(operation.granted().map(|granted| granted.token), Some(1));
}

#[tokio::test]
async fn turns_and_sessions_are_read_as_they_were_written() {
    let recorder = Recorder::in_memory();
    let locks = MemoryLocks::new();
    let client = Recorded::new(locks, recorder.clone(), "c1").with_lanes(7);
    let owner = SessionRequest { signee: "x".into(), ttl: Duration::from_secs(10) };
    let opened = client.open_session(owner, SessionOptions::default()).await.unwrap();
    let SessionStatus::Open(session) = opened else { panic!("{opened:?}") };
    let id = session.id;
    let shared =
        LockOptions { session: Some(id), mode: Some(Mode::Shared), ..LockOptions::default() };
    client.lock(request(""), shared).await.unwrap();
    let wait = Some(Duration::from_secs(5));
    let waits = LockOptions { wait, queued: true, ..LockOptions::default() };
    client.lock(request("y"), waits).await.unwrap();
    client.check("a".into(), ReadOptions::default()).await.unwrap();
    let seen = Seen { session: id, seen: None };
    client.keep_alive(vec![seen], CallOptions::default()).await.unwrap();
    let history = recorder.into_history(Header::new(1, "", ""), false);
    let mut bytes = Vec::new();
    history.write(&mut bytes).unwrap();
    assert_eq!(read(&bytes).unwrap(), history);
    let outcomes: Vec<_> = history.operations().map(|operation| &operation.outcome).collect();
    assert!(
        matches!(outcomes[..], [
            Outcome::Ok(Answer::Granted(granted)),
            Outcome::Ok(Answer::Waiting(_)),
            Outcome::Ok(Answer::Queue(queue)),
        ] if granted.mode == Mode::Shared && queue.holders[0].session == Some(id)),
        "{outcomes:?}"
    );
    let sessions = history.entries.iter().filter_map(|entry| match entry {
        Entry::Session(operation) => Some(&operation.outcome),
        Entry::Operation(_)
        | Entry::Fault(_)
        | Entry::Event(_)
        | Entry::Observation(_)
        | Entry::Applied(_) => None,
    });
    let sessions: Vec<_> = sessions.collect();
    let [SessionOutcome::Opened { .. }, SessionOutcome::Alive { .. }] = sessions[..] else {
        panic!("{history:?}")
    };
}

#[test]
fn a_newer_version_is_refused() {
    let mut header = Header::new(1, "", "");
    header.version += 1;
    let bytes = serde_json::to_vec(&header).unwrap();
    assert!(matches!(read(&bytes), Err(HistoryError::Format { .. })));
}

#[test]
fn a_file_reads_as_it_was_recorded_with_the_clock_that_was_given() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.jsonl");
    let header = Header::new(3, "test", "nothing");
    let clock = || Duration::from_millis(5);
    let recorder = Recorder::to_file_with_clock(&path, &header, clock).unwrap();
    let call = recorder.begin("c1", Action::Check(LockName::new("default", "a")));
    call.finish(Outcome::Ok(Answer::Record(None)), None);
    recorder.finish(true).unwrap();
    let history = History::read(&path).unwrap();
    assert_eq!(history.header, header);
    assert!(history.footer.log_complete);
    let operation = history.operations().next().expect("it is there");
    assert_eq!((operation.invoked, operation.returned), (5_000_000, Some(5_000_000)));
}
