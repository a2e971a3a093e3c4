use std::fmt::Write as _;

use super::*;
use crate::access::{
    self, AccessToken, Answer as Told, Change, Changed, Grantee, Question, Right, Rule, RuleName,
    TokenHash, TokenId, TokenInfo,
};
use crate::forward::results;
use crate::lock::{LeaveCommand, Operation, Outcome, Refusal};
use crate::raft::codec::tests::hex;
use crate::types::{
    CheckResponse, CloseStatus, DeadlockEdge, DeadlocksResponse, DecidedAt, Forbidden,
    ForbiddenReason, Grant, Holder, InboxItem, ListResponse, Liveness, LockOptions, LockRecord,
    LockRequest, LockStatus, Loss, Mode, News, Place, ReadOptions, RequestId, Seen, Session,
    SessionId, SessionLock, SessionLocksRequest, SessionLocksResponse, SessionOptions,
    SessionRequest, SessionStatus, TableDefaults, TableInfo, TableOptions, TablesResponse,
    TimeToLive, Token, TransferReason, UnlockOptions, UnlockRequest, UnlockStatus, VerifyResponse,
    Waiting,
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
            principal: Some(Arc::new(Principal::named("a"))),
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

/// One command of each verb of feature level 2, and the old verbs with every new field.
fn turn_commands() -> Vec<(&'static str, Command)> {
    let table = || Some("jobs".to_owned());
    let tables = TableOptions { table: table(), ..TableOptions::default() };
    let session = SESSION;
    let place = DecidedAt { index: 300, position: 2 };
    let request_id = Some(RequestId { lane: 7, seq: 1 });
    let lock = LockRequest { signature: "s".into(), signee: "w".into(), level: None };
    let permit = LockOptions {
        table: table(),
        mode: Some(Mode::Permits),
        limit: Some(300),
        wait: Some(Duration::from_secs(60)),
        queued: true,
        session: Some(session),
        lock_delay: Some(Duration::from_secs(1)),
        request_id,
        ..LockOptions::default()
    };
    let shared = LockOptions {
        mode: Some(Mode::Shared),
        wait: Some(Duration::from_millis(1)),
        ..LockOptions::default()
    };
    let unlock = UnlockRequest { signature: "s".into(), signee: "w".into() };
    let of_place = UnlockOptions { force: true, place: Some(place), ..UnlockOptions::default() };
    let of_token = UnlockOptions { force: true, token: Some(Token(9)), ..UnlockOptions::default() };
    let defaults = TableDefaults {
        lock_delay: Some(Duration::from_secs(1)),
        max_hold: Some(Duration::from_secs(3600)),
        ..TableDefaults::default()
    };
    let opened = SessionRequest { signee: "w".into(), ttl: Duration::from_secs(10) };
    let named = SessionOptions {
        instance: Some("i".to_owned()),
        request_id,
        call: CallOptions {
            principal: Some(Arc::new(Principal::named("a"))),
            cause: Some("c".to_owned()),
            ..CallOptions::default()
        },
    };
    let seen = |seen| Seen { session, seen };
    let leave = LeaveCommand {
        table: "jobs".into(),
        signature: "s".into(),
        place,
        ask: DecidedAt { index: 301, position: 0 },
    };
    let open = |options| Command::open_session(opened.clone(), options).unwrap();
    vec![
        ("lock-permit", Command::lock(lock.clone(), permit).unwrap()),
        ("lock-shared", Command::lock(lock, shared).unwrap()),
        ("unlock-place", Command::unlock(unlock.clone(), of_place)),
        ("unlock-token", Command::unlock(unlock, of_token)),
        ("configure-table", Command::configure_table(defaults, tables.clone()).unwrap()),
        ("open-session", open(named)),
        ("open-session-plain", open(SessionOptions::default())),
        (
            "keep-alive",
            Command::keep_alive(
                vec![seen(Some(place)), seen(None)],
                Some(Arc::new(Principal::named("a"))),
            ),
        ),
        ("close-session", Command::close_session(session, SessionOptions::default())),
        ("leave", Operation::Leave(Box::new(leave)).into()),
        ("set-limit", Command::set_limit("s".to_owned(), 65_535, tables)),
    ]
}

/// One read of each kind of feature level 2.
fn turn_queries() -> Vec<(&'static str, Query)> {
    let options = ReadOptions { table: Some("jobs".to_owned()), ..ReadOptions::default() };
    let session = SESSION;
    let after = Some(("jobs".to_owned(), "s".to_owned()));
    let page = |after| SessionLocksRequest { session, after, limit: 1000 };
    vec![
        ("check-places", Query::check_places("s".to_owned(), 300, &options)),
        ("verify", Query::verify("s".to_owned(), Token(130), &options)),
        ("session-locks", Query::session_locks(page(None), &options)),
        ("session-locks-after", Query::session_locks(page(after), &options)),
        ("deadlocks", Query::deadlocks(&options)),
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
    let first = vec![
        ("commands", Request::Decide(commands())),
        ("check", Request::Read(Query::check("s".to_owned(), &options))),
        ("list", Request::Read(Query::list(page, &options))),
        ("list-all", Request::Read(Query::list(ListRequest::default(), &options))),
        ("tables", Request::Read(Query::tables(tables, &options))),
        ("advance", Request::Advance(Duration::from_secs(1))),
    ];
    let commands = turn_commands().into_iter();
    let commands = commands.map(|(name, command)| (name, Request::Decide(vec![command])));
    let queries = turn_queries().into_iter().map(|(name, query)| (name, Request::Read(query)));
    let access = access_requests().into_iter();
    first.into_iter().chain(commands).chain(queries).chain(access).collect()
}

/// A principal with everything that one has.
fn principal() -> Principal {
    let groups = vec!["g".into(), "h".into()];
    Principal { identity: "a".into(), groups, token: Some(TokenId(0x0123)) }
}

fn access_token() -> AccessToken {
    AccessToken {
        hash: TokenHash([7; 32]),
        identity: "a".into(),
        groups: vec!["g".into()],
        expires: Some(2_000_000_000),
    }
}

fn access_rule() -> Rule {
    Rule {
        name: RuleName {
            grantee: Grantee::Group("g".into()),
            table: Some("jobs".into()),
            pattern: "a*".parse().unwrap(),
        },
        rights: [Right::Preempt, Right::Force].into_iter().collect(),
        max_level: 5,
        signee: Some("{identity}".into()),
    }
}

/// One request of each kind of feature level 3. The changes themselves have golden bytes beside the
/// lock machine.
fn access_requests() -> Vec<(&'static str, Request)> {
    let call = CallOptions { principal: Some(Arc::new(principal())), ..CallOptions::default() };
    let options = ReadOptions { call: call.clone(), ..ReadOptions::default() };
    let change = Command::access(Change::PutRule(access_rule()), call);
    let asked = access::Request {
        principal: Some(principal()),
        level: 3,
        signee: Some("w".into()),
        ..access::Request::new(Right::Preempt, "s")
    };
    let question = |question| Request::Read(Query::access(question, &options));
    vec![
        ("access-change", Request::Decide(vec![change])),
        ("check-as", Request::Read(Query::check("s".to_owned(), &options))),
        ("access-status", question(Question::Status)),
        ("access-rules", question(Question::Rules { after: 300, limit: 100 })),
        ("access-tokens", question(Question::Tokens { after: Some(TokenId(1)), limit: 100 })),
        ("access-can-i", question(Question::CanI(asked))),
        ("access-credential", question(Question::Credential(TokenHash([7; 32])))),
    ]
}

/// An answer of each kind of feature level 3.
fn access_answers() -> Vec<(&'static str, Result<Answer, Error>)> {
    let decided_at = Some(AT);
    let decided = |changed| Decision { outcome: Outcome::Access(changed), decided_at };
    let told = |answer| Ok(Answer::View(View::Access(answer)));
    let tokens = vec![TokenInfo::from(&access_token())];
    let refused = Some("r".to_owned());
    let (principal, is_admin) = (Some(principal()), true);
    vec![
        ("access-done", Ok(Answer::Decision(decided(Changed::Done)))),
        ("access-nothing", Ok(Answer::Decision(decided(Changed::Nothing)))),
        ("not-allowed", Err(Error::NotAllowed { reason: "r".to_owned() })),
        ("access-status", told(Told::Status { on: true, principal, is_admin, decided_at })),
        (
            "access-rules",
            told(Told::Rules { rules: vec![access_rule()], next: Some(1), decided_at }),
        ),
        ("access-tokens", told(Told::Tokens { tokens, next: Some(TokenId(1)), decided_at })),
        ("access-can-i", told(Told::CanI { refused, decided_at })),
        ("access-credential", told(Told::Credential(Some(access_token())))),
        ("access-no-credential", told(Told::Credential(None))),
    ]
}

const AT: DecidedAt = DecidedAt { index: 300, position: 1 };
const SESSION: SessionId = SessionId(0x0123_4567_89ab_cdef);
const LEFT: Duration = Duration::from_secs(5);

/// A grant that was waited for.
fn turn_grant(mode: Mode, slot: Option<u32>) -> Grant {
    Grant {
        token: Token(130),
        level: 3,
        expires_in: LEFT,
        removed_in: Some(LEFT),
        live: true,
        mode,
        slot,
        valid: LEFT + Duration::from_millis(1500),
    }
}

/// A holder with every field.
fn turn_holder() -> Holder {
    Holder {
        signee: "w".to_owned(),
        instance: Some("i".to_owned()),
        level: 3,
        token: Token(130),
        expires_in: LEFT,
        expired: false,
        removed_in: Some(LEFT),
        mode: Mode::Permits,
        slot: Some(200),
        session: Some(SESSION),
    }
}

/// A place with every field.
fn turn_place() -> Place {
    Place {
        place: DecidedAt { index: 299, position: 0 },
        signee: "v".to_owned(),
        instance: Some("j".to_owned()),
        session: Some(SESSION),
        level: -3,
        mode: Mode::Shared,
        since: LEFT,
        position: 128,
    }
}

fn refused(reason: ForbiddenReason) -> Forbidden {
    Forbidden::new(reason, vec![turn_holder()])
}

fn decided(outcome: Outcome) -> Answer {
    Answer::Decision(Decision { outcome, decided_at: Some(AT) })
}

/// The state of sessions: with a fact of each kind, lost, and with facts that are gone.
fn kept_alive() -> Vec<Liveness> {
    let item = |position, instance: Option<&str>, news| InboxItem {
        position: DecidedAt { index: 300, position },
        table: "jobs".to_owned(),
        signature: "s".to_owned(),
        signee: "w".to_owned(),
        instance: instance.map(str::to_owned),
        news,
    };
    let (token, level) = (Token(130), -3);
    let mut inbox = vec![
        item(2, Some("i"), News::Granted { token, level, mode: Mode::Permits, slot: Some(200) }),
        item(3, None, News::Granted { token, level, mode: Mode::Exclusive, slot: None }),
        item(4, Some("i"), News::Lost { token: None, reason: Loss::Moved }),
    ];
    inbox.extend(ForbiddenReason::ALL.map(|reason| item(5, Some("i"), News::Ended(reason))));
    let lost = |reason| item(6, Some("i"), News::Lost { token: Some(token), reason });
    inbox.extend(Loss::ALL.map(lost));
    let alive = |inbox, more, overflow| Liveness::Alive { valid: LEFT, inbox, more, overflow };
    vec![alive(inbox, true, false), Liveness::Lost, alive(Vec::new(), false, true)]
}

/// A decision of each kind of feature level 2, and the old kinds with every new field.
fn turn_decisions() -> Vec<(&'static str, Answer)> {
    let differs = Forbidden { limit: Some(300), ..refused(ForbiddenReason::LimitDiffers) };
    let delayed = Forbidden { delay: Some(LEFT), ..refused(ForbiddenReason::Delay) };
    let not_left = UnlockStatus::Failed(refused(ForbiddenReason::Lost));
    let opened = Session { id: SESSION, ttl: Duration::from_secs(10), valid: LEFT };
    let not_opened = SessionStatus::Failed(refused(ForbiddenReason::QueueFull));
    let transferred = LockStatus::Transferred {
        grant: turn_grant(Mode::Shared, None),
        previous_signee: "v".to_owned(),
        reason: TransferReason::Preempted,
    };
    let waiting = Waiting { place: turn_place().place, position: 128, ends_in: LEFT };
    let permit = |slot| turn_grant(Mode::Permits, Some(slot));
    let lock = |status| decided(Outcome::Lock(status));
    let mut answers = vec![
        ("granted-permit", lock(LockStatus::Ok(permit(200)))),
        ("renewed-permit", lock(LockStatus::Renewed(permit(0)))),
        ("transferred-shared", lock(transferred)),
        ("granted-after-a-wait", lock(LockStatus::Ok(turn_grant(Mode::Exclusive, None)))),
        ("waiting", lock(LockStatus::Waiting(waiting))),
        ("refused-limit", lock(LockStatus::Failed(differs))),
        ("refused-delay", lock(LockStatus::Failed(delayed))),
        ("left", decided(Outcome::Unlock(UnlockStatus::Left))),
        ("not-left-by-unlock", decided(Outcome::Unlock(not_left))),
        ("session", decided(Outcome::Session(SessionStatus::Open(opened)))),
        ("session-refused", decided(Outcome::Session(not_opened))),
        ("kept-alive", decided(Outcome::KeptAlive(kept_alive()))),
        ("closed", decided(Outcome::Closed(CloseStatus::Ok))),
        ("no-session", decided(Outcome::Closed(CloseStatus::NoSession))),
        ("place-left", decided(Outcome::Left)),
        ("nothing-to-leave", decided(Outcome::NotLeft)),
        ("limit", decided(Outcome::Limit)),
        ("no-limit", decided(Outcome::NoLimit)),
    ];
    let reasons = ForbiddenReason::ALL.into_iter();
    answers
        .extend(reasons.map(|reason| (reason.word(), lock(LockStatus::Failed(refused(reason))))));
    answers
}

/// A view of each kind of feature level 2, and the old kinds with every new field.
fn turn_views() -> Vec<(&'static str, View)> {
    let decided_at = Some(AT);
    let record = LockRecord {
        signature: "s".to_owned(),
        holders: vec![turn_holder()],
        more_holders: 200,
        limit: Some(300),
        waiting: 129,
        places: vec![turn_place(), Place { instance: None, session: None, ..turn_place() }],
    };
    let listed = LockRecord { places: Vec::new(), ..record.clone() };
    let page = ListResponse { locks: vec![listed], next: None, decided_at };
    let defaults = TableDefaults {
        lock_delay: Some(Duration::from_secs(1)),
        max_hold: Some(Duration::from_secs(3600)),
        ..TableDefaults::default()
    };
    let table = TableInfo { table: "jobs".to_owned(), defaults, locks: 1 };
    let locks = SessionLock {
        table: "jobs".to_owned(),
        signature: "s".to_owned(),
        holders: vec![turn_holder()],
        places: vec![turn_place()],
    };
    let next = Some(("jobs".to_owned(), "s".to_owned()));
    let edge = |instance: Option<&str>| DeadlockEdge {
        signee: "w".to_owned(),
        instance: instance.map(str::to_owned),
        table: "jobs".to_owned(),
        signature: "s".to_owned(),
    };
    let cycles = vec![vec![edge(Some("i")), edge(None)]];
    let verified = |live, holder| View::Verify(VerifyResponse { live, holder, decided_at });
    vec![
        ("record-of-a-queue", View::Lock(CheckResponse { record, decided_at })),
        ("page-of-queues", View::Locks(page)),
        (
            "tables-with-holds",
            View::Tables(TablesResponse { tables: vec![table], next: None, decided_at }),
        ),
        ("verified", verified(true, Some(turn_holder()))),
        ("not-verified", verified(false, None)),
        (
            "session-locks",
            View::SessionLocks(SessionLocksResponse { locks: vec![locks], next, decided_at }),
        ),
        ("deadlocks", View::Deadlocks(DeadlocksResponse { cycles, cut: true, decided_at })),
    ]
}

/// An answer of each kind of feature level 2, and the old kinds with every new field.
fn turn_answers() -> Vec<(&'static str, Result<Answer, Error>)> {
    let views = turn_views().into_iter().map(|(name, view)| (name, Answer::View(view)));
    let answers = turn_decisions().into_iter().chain(views);
    let mut answers: Vec<_> = answers.map(|(name, answer)| (name, Ok(answer))).collect();
    answers.push(("forbidden-queued", Err(Error::Forbidden(refused(ForbiddenReason::Queued)))));
    answers
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
    let leader = Some("l".into());
    let unavailable = Error::Unavailable { reason: reason(), leader, retry_after: None };
    let first = vec![
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
        ("unavailable", Err(unavailable)),
        ("no-leader", Err(Error::unavailable("r"))),
        ("unknown", Err(Error::Unknown { reason: reason() })),
        ("unauthorized", Err(Error::Unauthorized { reason: reason() })),
        ("lane-forgotten", Err(Error::LaneForgotten { reason: reason() })),
    ];
    first.into_iter().chain(turn_answers()).chain(access_answers()).collect()
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
