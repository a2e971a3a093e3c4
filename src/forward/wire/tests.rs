use std::fmt::Write as _;

use super::*;
use crate::forward::results;
use crate::lock::{Outcome, Refusal};
use crate::raft::codec::tests::hex;
use crate::types::{
    CheckResponse, DecidedAt, Forbidden, ForbiddenReason, Grant, Holder, ListResponse, LockOptions,
    LockRecord, LockRequest, LockStatus, Mode, ReadOptions, RequestId, TableDefaults, TableInfo,
    TableOptions, TablesResponse, TimeToLive, Token, TransferReason, UnlockOptions, UnlockRequest,
    UnlockStatus,
};

pub(crate) fn call() -> CallOptions {
    CallOptions {
        trace_id: Some("t".to_owned()),
        ..CallOptions::within(Duration::from_millis(1234))
    }
}

/// One command of each verb, the first with every option.
pub(crate) fn commands() -> Vec<Command> {
    let table = || Some("jobs".to_owned());
    let request_id = Some(RequestId { lane: 7, seq: 1 });
    let lock = LockRequest { signature: "s".into(), signee: "w".into(), level: Some(-3) };
    let lock_options = LockOptions {
        table: table(),
        force: true,
        duration: Some(Duration::from_secs(5)),
        time_to_live: Some(TimeToLive::Never),
        token: Some(Token(9)),
        instance: Some("i".to_owned()),
        request_id,
        call: CallOptions {
            actor: Some("a".to_owned()),
            cause: Some("c".to_owned()),
            ..CallOptions::default()
        },
        ..LockOptions::default()
    };
    let unlock = UnlockRequest { signature: "s".into(), signee: "w".into() };
    let unlock_options = UnlockOptions { table: table(), ..UnlockOptions::default() };
    let defaults = TableDefaults {
        duration: Some(Duration::from_secs(1)),
        time_to_live: Some(Duration::from_secs(2).into()),
        ..TableDefaults::default()
    };
    let tables = TableOptions { table: table(), ..TableOptions::default() };
    vec![
        Command::lock(lock, lock_options).unwrap(),
        Command::unlock(unlock, unlock_options),
        Command::configure_table(defaults, tables.clone()).unwrap(),
        Command::delete_table(tables),
    ]
}

pub(crate) fn requests() -> Vec<(&'static str, Request)> {
    let options = ReadOptions { table: Some("jobs".to_owned()), ..ReadOptions::default() };
    let page = ListRequest {
        prefix: "p".to_owned(),
        after: Some("pa".to_owned()),
        limit: 2,
        state: Some(RecordState::Held),
    };
    let tables = TablesRequest { after: Some("jobs".to_owned()), limit: 1000 };
    vec![
        ("commands", Request::Decide(commands())),
        ("check", Request::Read(Query::check("s".to_owned(), &options))),
        ("list", Request::Read(Query::list(page, &options))),
        ("list-all", Request::Read(Query::list(ListRequest::default(), &options))),
        ("tables", Request::Read(Query::tables(tables, &options))),
        ("advance", Request::Advance(Duration::from_secs(1))),
    ]
}

/// An answer of each kind.
pub(crate) fn answers() -> Vec<(&'static str, Result<Answer, Error>)> {
    let at = Some(DecidedAt { index: 300, position: 1 });
    let left = Duration::from_secs(5);
    let grant = |removed_in| Grant {
        token: Token(130),
        level: -3,
        expires_in: left,
        removed_in,
        live: true,
        mode: Mode::Exclusive,
        slot: None,
        valid: left,
    };
    let holder = Holder {
        signee: "w".to_owned(),
        instance: Some("i".to_owned()),
        level: -3,
        token: Token(130),
        expires_in: left,
        expired: false,
        removed_in: Some(left),
        ..Holder::default()
    };
    let forgetful = Holder { instance: None, removed_in: None, expired: true, ..holder.clone() };
    let forbidden = Forbidden::new(ForbiddenReason::Held, vec![holder.clone()]);
    let lost = Forbidden::new(ForbiddenReason::Lost, Vec::new());
    let transferred = |reason| LockStatus::Transferred {
        grant: grant(None),
        previous_signee: "v".to_owned(),
        reason,
    };
    let record = LockRecord {
        signature: "s".to_owned(),
        holders: vec![holder, forgetful],
        more_holders: 0,
        limit: None,
        waiting: 0,
        places: Vec::new(),
    };
    let page =
        ListResponse { locks: vec![record.clone()], next: Some("s".to_owned()), decided_at: at };
    let defaults = TableDefaults {
        duration: Some(Duration::from_secs(1)),
        time_to_live: Some(Duration::from_secs(2).into()),
        ..TableDefaults::default()
    };
    let table = |defaults| TableInfo { table: "jobs".to_owned(), defaults, locks: 128 };
    let never = TableDefaults {
        duration: None,
        time_to_live: Some(TimeToLive::Never),
        ..TableDefaults::default()
    };
    let tables = [defaults, never, TableDefaults::default()].map(table).to_vec();
    let decided = |outcome| Ok(Answer::Decision(Decision { outcome, decided_at: at }));
    let nowhere = |outcome| Ok(Answer::Decision(Decision { outcome, decided_at: None }));
    let reason = || "r".to_owned();
    vec![
        ("granted", decided(Outcome::Lock(LockStatus::Ok(grant(Some(left)))))),
        ("renewed", nowhere(Outcome::Lock(LockStatus::Renewed(grant(None))))),
        ("expired", decided(Outcome::Lock(transferred(TransferReason::Expired)))),
        ("forced", decided(Outcome::Lock(transferred(TransferReason::Forced)))),
        ("preempted", decided(Outcome::Lock(transferred(TransferReason::Preempted)))),
        ("refused", decided(Outcome::Lock(LockStatus::Failed(forbidden.clone())))),
        ("released", decided(Outcome::Unlock(UnlockStatus::Ok))),
        ("no-lock", decided(Outcome::Unlock(UnlockStatus::NoLock))),
        ("not-released", decided(Outcome::Unlock(UnlockStatus::Failed(lost)))),
        ("table", decided(Outcome::Table)),
        ("no-table", decided(Outcome::NoTable)),
        ("clock", decided(Outcome::Advanced)),
        ("level", decided(Outcome::FeatureLevel)),
        ("record", Ok(Answer::View(View::Lock(CheckResponse { record, decided_at: at })))),
        ("page", Ok(Answer::View(View::Locks(page)))),
        (
            "tables",
            Ok(Answer::View(View::Tables(TablesResponse { tables, next: None, decided_at: at }))),
        ),
        ("advanced", Ok(Answer::Advanced)),
        ("forbidden", Err(Error::Forbidden(forbidden))),
        ("bad-request", Err(Error::BadRequest { reason: reason() })),
        ("not-found", Err(Error::NotFound { decided_at: at })),
        ("unavailable", Err(Error::Unavailable { reason: reason(), leader: Some("l".into()) })),
        ("no-leader", Err(Error::unavailable("r"))),
        ("unknown", Err(Error::Unknown { reason: reason() })),
        ("unauthorized", Err(Error::Unauthorized { reason: reason() })),
        ("lane-forgotten", Err(Error::LaneForgotten { reason: reason() })),
    ]
}

/// Compares lines of names and bytes with the golden file; `UPDATE_GOLDENFILES=1` writes it.
fn assert_golden(file: &str, lines: &[(&str, Bytes)]) {
    let mut text = String::new();
    for (name, bytes) in lines {
        writeln!(text, "{name} {}", hex(bytes)).unwrap();
    }
    let path = format!("{}/src/forward/wire/{file}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var("UPDATE_GOLDENFILES").is_ok_and(|value| value == "1") {
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), text, "{path}");
}

fn encoded(request: &Request) -> Bytes {
    encode_requests([(request, &call())])
}

#[test]
fn requests_read_back_as_they_were_written_and_are_written_the_same_for_ever() {
    let requests = requests();
    let call = call();
    let bytes = encode_requests(requests.iter().map(|(_, request)| (request, &call)));
    let read = decode_requests(&bytes).unwrap();
    let expected: Vec<_> =
        requests.iter().map(|(_, request)| (request.clone(), call.clone())).collect();
    assert_eq!(read, expected);
    let lines: Vec<_> = requests.iter().map(|(name, request)| (*name, encoded(request))).collect();
    assert_golden("requests-5.hex", &lines);
}

#[test]
fn a_cut_request_and_one_of_another_version_are_refused() {
    for (name, request) in requests() {
        let bytes = encoded(&request);
        // Behind the version alone there is no request, which is a message without any.
        for length in (0..bytes.len()).filter(|length| *length != 1) {
            assert!(decode_requests(&bytes[..length]).is_err(), "{name} {length}");
        }
        for version in [VERSION - 1, VERSION + 1] {
            let mut other = bytes.to_vec();
            other[0] = version;
            assert!(matches!(decode_requests(&other), Err(WireError::Version(_))));
        }
    }
}

#[test]
fn a_request_splits_into_its_answers_and_joins_again() {
    for (name, request) in requests() {
        let parts: Vec<Request> = request.clone().split().collect();
        assert_eq!(parts.len(), request.answers(), "{name}");
        assert!(parts.iter().all(|part| part.answers() == 1), "{name}");
        assert_eq!(Request::join(parts), Some(request));
    }
    assert_eq!(Request::join(None), None);
}

#[test]
fn answers_read_back_as_they_were_written_and_are_written_the_same_for_ever() {
    let mut lines = Vec::new();
    for (name, answer) in answers() {
        let frame = encode_answer(256, &answer);
        for length in 0..9 {
            assert_eq!(frame_head(&frame[..length]).unwrap(), None);
        }
        let head = frame_head(&frame).unwrap().unwrap();
        assert_eq!((head.number, head.bytes + head.payload), (256, frame.len()));
        let payload = &frame[head.bytes..];
        assert_eq!(decode_answer(payload).unwrap(), answer, "{name}");
        for length in 0..payload.len() {
            assert!(decode_answer(&payload[..length]).is_err(), "{name} {length}");
        }
        lines.push((name, frame));
    }
    assert_golden("answers-5.hex", &lines);
}

#[test]
fn a_refusal_of_the_machine_is_sent_as_its_error() {
    let refused = Outcome::Refused(Refusal::TokensExhausted);
    let answer = Ok(Answer::Decision(Decision { outcome: refused, decided_at: None }));
    let mut payload = Vec::new();
    results::put_answer(&mut payload, &answer);
    let read = decode_answer(&payload).unwrap();
    assert_eq!(read, Err(Refusal::TokensExhausted.into()));
}

#[test]
fn a_frame_of_another_version_or_of_no_length_is_refused() {
    let mut frame = encode_answer(0, &Ok(Answer::Advanced)).to_vec();
    frame[4] = VERSION + 1;
    assert!(matches!(frame_head(&frame), Err(WireError::Version(_))));
    for length in [4, u32::MAX] {
        frame[..4].copy_from_slice(&length.to_le_bytes());
        assert!(matches!(frame_head(&frame), Err(WireError::Length(_))));
    }
}
