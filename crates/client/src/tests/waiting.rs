//! Requests that wait and requests on sessions, over HTTP.

use std::time::Duration;

use super::{Node, Step, nobody};
use crate::{Acquire, Client};
use keyward_core::clock::{Clock as _, SystemClock};
use keyward_core::error::Error;
use keyward_core::lock::{Command, Outcome, Query, View};
use keyward_core::service::LockService;
use keyward_core::types::{
    CallOptions, CloseStatus, DecidedAt, ForbiddenReason, Liveness, LockOptions, LockRequest,
    LockStatus, Mode, News, ReadOptions, Seen, SessionId, SessionOptions, SessionRequest,
    SessionStatus, TableOptions, Token,
};

const WAITING: &str = r#"{"status":"waiting","place":"7.1","position":2,"ends_in_ms":60000}"#;
const ONE: SessionId = SessionId(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);

fn waiting() -> Step {
    Step::Answer(202, "application/json", String::new(), WAITING.to_owned())
}

fn client(endpoints: Vec<String>) -> Client {
    Client::builder().endpoints(endpoints).build().unwrap()
}

fn asks(wait_ms: u64, timeout_ms: u64) -> (LockRequest, LockOptions) {
    let request = LockRequest { signature: "a".into(), signee: "x".into(), level: None };
    let timeout = Some(Duration::from_millis(timeout_ms));
    let call = CallOptions { timeout, ..CallOptions::default() };
    let wait = Some(Duration::from_millis(wait_ms));
    (request, LockOptions { wait, call, ..LockOptions::default() })
}

/// The number in a field of a request's body.
fn number(request: &str, field: &str) -> u64 {
    let (_, body) = request.split_once("\r\n\r\n").unwrap();
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    body[field].as_u64().unwrap()
}

#[tokio::test]
async fn a_request_that_waits_is_asked_again_under_its_id_until_it_is_granted() {
    let granted = r#"{"status":"ok","token":3,"level":0,"expires_in_ms":30000,"live":true,"mode":"permits","slot":1,"valid_ms":31000}"#;
    let node = Node::start([waiting(), waiting(), Step::json(granted)]).await;
    let (request, options) = asks(60_000, 65_000);
    let answer = client(vec![node.url()]).lock(request, options).await.unwrap();
    let grant = answer.grant().unwrap();
    assert_eq!((grant.token, grant.mode, grant.slot), (Token(3), Mode::Permits, Some(1)));
    assert_eq!(grant.valid, Duration::from_secs(31));
    let ids = node.request_ids();
    assert!(ids.len() == 3 && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    let waits: Vec<_> = node.asked().iter().map(|asked| number(asked, "wait_ms")).collect();
    assert!(waits.is_sorted_by(|one, next| one >= next) && waits[0] <= 60_000, "{waits:?}");
}

#[tokio::test]
async fn a_place_that_still_stands_at_the_end_of_the_call_is_the_answer() {
    let node = Node::start([waiting()]).await;
    let (request, options) = asks(60_000, 100);
    let answer = client(vec![node.url()]).lock(request, options).await.unwrap();
    let place = DecidedAt { index: 7, position: 1 };
    assert_eq!(answer.waiting().map(|waiting| (waiting.place, waiting.position)), Some((place, 2)));
}

#[tokio::test]
async fn what_may_have_a_place_is_not_said_to_be_certainly_not_done() {
    for first in [waiting(), Step::Cut] {
        let node = Node::start([first, Step::problem(503, "unavailable", "")]).await;
        let (request, options) = asks(60_000, 400);
        let error = client(vec![node.url()]).lock(request, options).await.unwrap_err();
        assert!(matches!(error, Error::Unknown { .. }), "{error}");
    }
    let (request, options) = asks(60_000, 400);
    let error = client(vec![nobody().await]).lock(request, options).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
}

#[tokio::test]
async fn a_wait_that_is_refused_ends_with_its_reason() {
    let more = r#","reason":"limit_differs","holders":[],"limit":4"#;
    let node = Node::start([waiting(), Step::problem(423, "forbidden", more)]).await;
    let (request, options) = asks(60_000, 65_000);
    let answer = client(vec![node.url()]).lock(request, options).await.unwrap();
    let LockStatus::Failed(forbidden) = answer.status else { panic!("{answer:?}") };
    assert_eq!((forbidden.reason, forbidden.limit), (ForbiddenReason::LimitDiffers, Some(4)));
}

#[tokio::test]
async fn a_turn_that_was_over_before_it_was_heard_of_is_waited_for_again() {
    let granted = |token: u64, live: bool| {
        let valid = if live { 30_000 } else { 0 };
        Step::json(&format!(
            r#"{{"status":"ok","token":{token},"level":0,"expires_in_ms":{valid},"live":{live},"valid_ms":{valid}}}"#
        ))
    };
    let node = Node::start([granted(3, false), granted(4, true)]).await;
    let request = Acquire::new("a", "x").wait(Duration::from_secs(60));
    let answer = client(vec![node.url()]).lock_in_turn(request).await.unwrap();
    assert_eq!(answer.grant().map(|grant| (grant.token, grant.live)), Some((Token(4), true)));
    let ids = node.request_ids();
    assert!(ids.len() == 2 && ids[0] != ids[1], "{ids:?}");
}

#[tokio::test]
async fn sessions_limits_and_reads_have_messages_of_their_own() {
    let open = format!(r#"{{"session":"{ONE}","ttl_ms":10000,"valid_ms":9000}}"#);
    let item = r#"{"position":"8.2","table":"t","signature":"a","signee":"x","kind":"lost","token":5,"loss":"moved"}"#;
    let alive = format!(
        r#"{{"sessions":[{{"session":"{ONE}","alive":true,"valid_ms":9000,"inbox":[{item}],"more":true,"overflow":false}}]}}"#
    );
    let steps = [
        &open,
        &alive,
        r#"{"status":"no_session"}"#,
        r#"{"status":"no_limit"}"#,
        r#"{"live":false}"#,
        r#"{"cycles":[],"cut":true}"#,
    ];
    let node = Node::start(steps.map(Step::json)).await;
    let client = client(vec![node.url()]);
    let call = CallOptions::default;

    let ttl = Duration::from_secs(10);
    let request = SessionRequest { signee: "x".into(), ttl };
    let command = Command::open_session(request, SessionOptions::default()).unwrap();
    let opened = client.decide_one(command, call()).await.unwrap().outcome;
    let Outcome::Session(SessionStatus::Open(session)) = opened else { panic!("{opened:?}") };
    assert_eq!((session.id, session.valid), (ONE, Duration::from_secs(9)));

    let seen = Some(DecidedAt { index: 7, position: 3 });
    let command = Command::keep_alive(vec![Seen { session: ONE, seen }], None);
    let kept = client.decide_one(command, call()).await.unwrap().outcome;
    let Outcome::KeptAlive(states) = kept else { panic!("{kept:?}") };
    let Liveness::Alive { inbox, more: true, .. } = &states[0] else { panic!("{states:?}") };
    assert!(matches!(inbox[0].news, News::Lost { token: Some(Token(5)), .. }), "{inbox:?}");

    let command = Command::close_session(ONE, SessionOptions::default());
    let closed = client.decide_one(command, call()).await.unwrap().outcome;
    assert_eq!(closed, Outcome::Closed(CloseStatus::NoSession));
    let command = Command::set_limit("a".into(), 7, TableOptions::default());
    let limit = client.decide_one(command, call()).await.unwrap().outcome;
    assert_eq!(limit, Outcome::NoLimit);

    let options = ReadOptions::default();
    let query = Query::verify("a".into(), Token(5), &options);
    let View::Verify(verified) = client.read(query, call()).await.unwrap() else { panic!() };
    assert!(!verified.live);
    let deadlocks = client.read(Query::deadlocks(&options), call()).await.unwrap();
    let View::Deadlocks(deadlocks) = deadlocks else { panic!() };
    assert!(deadlocks.cut);

    let asked = node.asked();
    let heads: Vec<_> = asked
        .iter()
        .map(|one| one.split(['?', ' ']).take(2).collect::<Vec<_>>().join(" "))
        .collect();
    let expected = [
        "POST /v1/sessions",
        "POST /v1/sessions/keepalive",
        "DELETE /v1/sessions",
        "PUT /v1/limit",
        "POST /v1/verify",
        "GET /v1/deadlocks",
    ];
    assert_eq!(heads, expected);
    assert!(asked[1].contains(r#""seen":"7.3""#), "{}", asked[1]);
    assert!(asked[2].contains(&format!("session={ONE}")), "{}", asked[2]);
}

#[tokio::test]
async fn a_lock_may_be_waited_for_and_left_to_its_duration() {
    let granted = r#"{"status":"ok","token":3,"level":0,"expires_in_ms":30000,"live":true}"#;
    let node = Node::start([waiting(), Step::json(granted)]).await;
    let wait = |ms| Acquire::new("a", "x").wait(Duration::from_millis(ms));
    let answer = client(vec![node.url()]).lock_in_turn(wait(120_000)).await.unwrap();
    assert_eq!(answer.grant().map(|grant| grant.token), Some(Token(3)));
    let asked = node.asked();
    assert_eq!(asked.len(), 2, "neither a renewal nor a release: {asked:?}");
    assert!(number(&asked[0], "wait_ms") <= 60_000, "{}", asked[0]);

    // A place that ended before the wait, because it was not asked for in time, is taken anew.
    let over = Step::problem(423, "forbidden", r#","reason":"timeout","holders":[]"#);
    let node = Node::start([waiting(), over, waiting(), Step::json(granted)]).await;
    let answer = client(vec![node.url()]).lock_in_turn(wait(120_000)).await.unwrap();
    assert!(answer.ok(), "{answer:?}");
    let ids = node.request_ids();
    assert!(ids[0] == ids[1] && ids[1] != ids[2] && ids[2] == ids[3], "{ids:?}");

    // A refusal is an answer.
    let node = Node::start([Step::problem(423, "forbidden", r#","reason":"held","holders":[]"#)]);
    let answer = client(vec![node.await.url()]).lock_in_turn(wait(0)).await.unwrap();
    assert_eq!(answer.forbidden().map(|refusal| refusal.reason), Some(ForbiddenReason::Held));

    // After the wait, the time for an answer is the timeout of the call.
    let node = Node::start([Step::Hang]).await;
    let mut request = wait(50);
    request.options.call.timeout = Some(Duration::from_millis(100));
    let begun = SystemClock.raw();
    let error = client(vec![node.url()]).lock_in_turn(request).await.unwrap_err();
    assert!(matches!(error, Error::Unknown { .. }), "{error}");
    assert!(SystemClock.raw().saturating_sub(begun) < Duration::from_secs(3));
}
