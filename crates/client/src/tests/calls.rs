//! The client's result for each way a call can end.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::{Node, Step, nobody};
use crate::{Acquire, Client};
use keyward_core::error::Error;
use keyward_core::service::{LockService, ServiceOptions};
use keyward_core::types::{
    CallOptions, DecidedAt, ForbiddenReason, ListRequest, LockOptions, LockRequest, LockResponse,
    LockStatus, ReadOptions, RecordState, RequestId, TablesRequest, TransferReason, UnlockOptions,
    UnlockRequest,
};

fn client(endpoints: &[String], timeout_ms: u64) -> Client {
    let timeout = Duration::from_millis(timeout_ms);
    Client::builder().endpoints(endpoints.to_vec()).timeout(timeout).build().unwrap()
}

async fn lock(client: &Client) -> Result<LockResponse, Error> {
    let request = LockRequest { signature: "a".into(), signee: "x".into(), level: None };
    client.lock(request, LockOptions::default()).await
}

async fn check(client: &Client) -> Result<(), Error> {
    client.check("a".into(), ReadOptions::default()).await.map(|_| ())
}

#[tokio::test]
async fn answers_are_read_into_the_words_of_the_contract() {
    let refusal = r#","reason":"lost","holders":[{"signee":"y","level":4,"token":9,"expires_in_ms":5,"new":1}],"more":{}"#;
    let node = Node::start([
        Step::granted(),
        Step::json(
            r#"{"status":"transferred","token":4,"level":2,"expires_in_ms":1,"removed_in_ms":2,
                "live":true,"previous_signee":"y","reason":"preempted","unheard_of":0}"#,
        ),
        Step::problem(423, "forbidden", refusal),
        Step::problem(423, "forbidden", refusal),
        Step::json(r#"{"status":"no_lock"}"#),
        Step::problem(404, "not_found", ""),
    ])
    .await;
    let client = client(&[node.url()], 2000);
    let first = lock(&client).await.unwrap();
    assert_eq!(first.decided_at, Some(DecidedAt { index: 7, position: 1 }));
    assert_eq!(first.grant().unwrap().token.0, 3);
    let second = lock(&client).await.unwrap();
    let LockStatus::Transferred { grant, previous_signee, reason } = second.status else {
        panic!("{second:?}");
    };
    assert_eq!((&*previous_signee, reason), ("y", TransferReason::Preempted));
    assert_eq!(grant.removed_in, Some(Duration::from_millis(2)));
    let refused = lock(&client).await.unwrap();
    let forbidden = refused.forbidden().unwrap();
    assert_eq!(forbidden.reason, ForbiddenReason::Lost);
    assert_eq!((&*forbidden.holders[0].signee, forbidden.holders[0].level), ("y", 4));
    let request = || UnlockRequest { signature: "a".into(), signee: "x".into() };
    assert!(!client.unlock(request(), UnlockOptions::default()).await.unwrap().ok());
    assert!(client.unlock(request(), UnlockOptions::default()).await.unwrap().ok());
    assert_eq!(check(&client).await, Err(Error::NotFound { decided_at: None }));
}

#[tokio::test]
async fn what_a_caller_asks_for_is_what_is_sent() {
    let node = Node::start([Step::granted()]).await;
    let client = client(&[node.url()], 2000).handle(ServiceOptions {
        table: "t".into(),
        default_duration: Some(Duration::from_millis(1500)),
        default_time_to_live: None,
    });
    let call = CallOptions {
        timeout: Some(Duration::from_secs(1)),
        trace_id: Some("trace-1".into()),
        principal: None,
        cause: Some("nightly é".into()),
    };
    let options = LockOptions { force: true, call, ..LockOptions::default() };
    let request = LockRequest { signature: "a\"\n".into(), signee: "x".into(), level: Some(-1) };
    client.lock(request, options).await.unwrap();
    let shorter = ServiceOptions {
        default_duration: Some(Duration::from_millis(7)),
        ..ServiceOptions::default()
    };
    lock(&client.handle(shorter)).await.unwrap();
    let asked = node.asked();
    for part in [
        "POST /v1/lock HTTP/1.1\r\n",
        "x-request-id: trace-1\r\n",
        "keyward-cause: nightly é\r\n",
        "content-type: application/json\r\n",
        r#"{"signature":"a\"\n","signee":"x","level":-1,"duration_ms":1500,"force":true,"table":"t","request_id":""#,
    ] {
        assert!(asked[0].contains(part), "{part} is not in {}", asked[0]);
    }
    assert!(asked[1].contains(r#""duration_ms":7"#), "{}", asked[1]);
    let given = asked[0].lines().find_map(|line| line.strip_prefix("keyward-timeout-ms: "));
    let given: u64 = given.unwrap().parse().unwrap();
    assert!((300..=450).contains(&given), "nine tenths of half of what is left, not {given}");
}

#[tokio::test]
async fn the_access_token_is_sent_with_each_request_and_is_in_no_error() {
    let node = Node::start([Step::granted()]).await;
    let build = |token: &str| {
        let client = Client::builder().endpoints([node.url()]).access_token(token);
        client.timeout(Duration::from_secs(2)).build()
    };
    lock(&build("kw_secret").unwrap()).await.unwrap();
    assert!(node.asked()[0].contains("authorization: Bearer kw_secret\r\n"), "{:?}", node.asked());
    for wrong in ["", "secret with blanks", "secret\n", "sécret"] {
        let error = build(wrong).err().unwrap().to_string();
        assert!(error.contains("access token") && !error.contains("cret"), "{error}");
    }
}

#[tokio::test]
async fn a_refused_token_of_a_file_is_read_again_and_the_request_sent_once_more() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, "old").unwrap();
    let refused = || Step::problem(401, "unauthorized", "");
    let node = Node::start([refused(), refused(), Step::granted()]).await;
    let client = Client::builder().endpoints([node.url()]).access_token_file(&path);
    let client = client.timeout(Duration::from_secs(5)).build().unwrap();
    // Nothing has changed: it is refused.
    assert!(matches!(lock(&client).await, Err(Error::Unauthorized { .. })));
    std::fs::write(&path, "new").unwrap();
    lock(&client).await.unwrap();
    let asked = node.asked();
    let sent: Vec<&str> = asked
        .iter()
        .filter_map(|asked| asked.lines().find_map(|line| line.strip_prefix("authorization: ")))
        .collect();
    assert_eq!(sent, ["Bearer old", "Bearer old", "Bearer new"]);
    assert_eq!(node.request_ids()[1], node.request_ids()[2], "it is the same request");
}

#[tokio::test]
async fn one_lane_carries_one_request_after_the_other() {
    let node = Node::start([Step::granted()]).await;
    let client = client(&[node.url()], 2000);
    for _ in 0..3 {
        lock(&client).await.unwrap();
    }
    let ids: Vec<RequestId> = node.request_ids().iter().map(|id| id.parse().unwrap()).collect();
    assert!(ids.iter().all(|id| id.lane == ids[0].lane), "{ids:?}");
    assert_eq!([ids[0].seq, ids[1].seq, ids[2].seq], [1, 2, 3]);
    let (first, second) = tokio::join!(lock(&client), lock(&client));
    first.and(second).unwrap();
    let ids = node.request_ids();
    assert_ne!(ids[3].split('-').next(), ids[4].split('-').next(), "two at once, two lanes");
}

#[tokio::test]
async fn a_write_whose_answer_is_missing_is_repeated_under_its_id() {
    let proxy = || Step::Answer(500, "text/html", String::new(), "<h1>Oops</h1>".into());
    let foreign = || {
        let body = r#"{"type":"about:blank","title":"t","status":503,"code":"unavailable"}"#;
        Step::Answer(503, "application/problem+json", String::new(), body.into())
    };
    let other = || Step::Answer(200, "text/html", String::new(), "<h1>Welcome</h1>".into());
    let script = [Step::Cut, Step::Half, proxy(), foreign(), other(), Step::granted()];
    let attempts = script.len();
    let node = Node::start(script).await;
    let client = client(&[node.url()], 10_000);
    assert!(lock(&client).await.unwrap().ok());
    let ids = node.request_ids();
    assert_eq!(ids.len(), attempts);
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    lock(&client).await.unwrap();
    assert_eq!(
        node.request_ids()[attempts].split('-').next(),
        ids[0].split('-').next(),
        "answered in the end, so the lane goes on"
    );
}

#[tokio::test]
async fn a_write_that_is_never_answered_is_unknown_and_its_lane_is_retired() {
    let cases = [
        Step::Cut,
        Step::Half,
        Step::Hang,
        Step::Answer(502, "text/html", String::new(), "<h1>Bad gateway</h1>".into()),
        Step::Answer(302, "text/html", "location: /v1/tables\r\n".into(), String::new()),
        Step::problem(504, "unknown", ""),
        Step::problem(599, "a_code_of_the_future", ""),
    ];
    for step in cases {
        let node = Node::start([step.clone()]).await;
        let client = client(&[node.url()], 120);
        let ended = lock(&client).await;
        assert!(matches!(ended, Err(Error::Unknown { .. })), "{step:?}: {ended:?}");
        let ended = check(&client).await;
        assert!(matches!(ended, Err(Error::Unavailable { .. })), "{step:?}: {ended:?}");
        let first = node.request_ids_of_writes()[0].clone();
        lock(&client).await.unwrap_err();
        let ids = node.request_ids_of_writes();
        assert_ne!(ids.last().unwrap().split('-').next(), first.split('-').next(), "{step:?}");
    }
}

#[tokio::test]
async fn what_was_unknown_once_stays_so_until_it_is_answered() {
    let node = Node::start([Step::Cut, Step::problem(503, "unavailable", "")]).await;
    let ended = lock(&client(&[node.url()], 150)).await;
    assert!(matches!(ended, Err(Error::Unknown { .. })), "{ended:?}");
    let node = Node::start([Step::problem(503, "unavailable", "")]).await;
    let ended = lock(&client(&[node.url()], 150)).await;
    assert!(matches!(ended, Err(Error::Unavailable { .. })), "{ended:?}");
    assert!(node.asked().len() > 1, "it was asked again");
    let ended = lock(&client(&[nobody().await], 150)).await;
    assert!(matches!(ended, Err(Error::Unavailable { .. })), "no connection: {ended:?}");
}

#[tokio::test]
async fn what_is_wrong_is_not_repeated() {
    let cases = [
        (Step::problem(400, "bad_request", ""), Error::bad_request("d")),
        (Step::problem(400, "unknown_field", ""), Error::bad_request("d")),
        (Step::problem(413, "too_large", ""), Error::bad_request("d")),
        (Step::problem(401, "unauthorized", ""), Error::Unauthorized { reason: "d".into() }),
        (Step::problem(403, "not_allowed", ""), Error::NotAllowed { reason: "d".into() }),
    ];
    for (step, error) in cases {
        let node = Node::start([step]).await;
        let client = client(&[node.url()], 2000);
        assert_eq!(lock(&client).await.unwrap_err(), error);
        assert_eq!(check(&client).await.unwrap_err(), error);
        assert_eq!(node.asked().len(), 2);
    }
}

#[tokio::test]
async fn the_next_node_is_asked_and_the_one_that_answers_remembered() {
    let down = nobody().await;
    let hanging = Node::start([Step::Hang]).await;
    let good = Node::start([Step::granted()]).await;
    let client = client(&[down, hanging.url(), good.url()], 1000);
    assert!(lock(&client).await.unwrap().ok());
    assert!(lock(&client).await.unwrap().ok());
    assert_eq!((hanging.asked().len(), good.asked().len()), (1, 2));
    assert_eq!(hanging.request_ids()[0], good.request_ids()[0]);
}

#[tokio::test]
async fn a_node_that_is_silent_is_not_waited_for_when_another_answers() {
    let hanging = Node::start([Step::Hang]).await;
    let good = Node::start([Step::granted()]).await;
    for batching in [true, false] {
        let client = Client::builder()
            .endpoints([hanging.url(), good.url()])
            .timeout(Duration::from_secs(60))
            .batching(batching)
            .build()
            .unwrap();
        // A call gets 60 s here, and its first attempt half of that.
        let answered = tokio::time::timeout(Duration::from_secs(15), lock(&client)).await;
        assert!(answered.expect("the other node is asked").unwrap().ok());
        assert_eq!(hanging.request_ids().last(), good.request_ids().last(), "one request");
    }
}

#[tokio::test]
async fn guards_of_one_owner_know_each_other_whether_they_name_their_table_or_not() {
    let release = Arc::new(Semaphore::new(0));
    let done = Step::json(r#"{"status":"ok"}"#);
    let node = Node::start([Step::granted(), Step::when(&release, done), Step::granted()]).await;
    let client = client(&[node.url()], 20_000);
    drop(client.acquire(Acquire::new("a", "x")).await.unwrap());
    while node.asked().len() < 2 {
        tokio::task::yield_now().await;
    }
    // The same table for this handle, and another one for a handle with another default.
    let named = client.handle(ServiceOptions { table: "t".into(), ..ServiceOptions::default() });
    let other = tokio::time::timeout(Duration::from_secs(4), named.acquire(Acquire::new("a", "x")));
    other.await.expect("another table's lock does not wait for it").unwrap();
    let mut same = Box::pin(client.acquire(Acquire::new("a", "x").table("default")));
    let early = tokio::time::timeout(Duration::from_millis(100), &mut same).await;
    assert!(early.is_err(), "it waits for the release: {early:?}");
    release.add_permits(1);
    same.await.unwrap();
}

#[tokio::test]
async fn the_hint_to_a_leader_is_followed() {
    let leader = Node::start([Step::granted()]).await;
    let bystander = Node::start([Step::Hang]).await;
    let hint = format!(r#","leader":"{}""#, leader.url());
    let follower = Node::start([Step::problem(503, "unavailable", &hint)]).await;
    let client = client(&[follower.url(), bystander.url()], 2000);
    assert!(lock(&client).await.unwrap().ok());
    assert!(lock(&client).await.unwrap().ok());
    assert_eq!(follower.asked().len(), 1);
    assert_eq!((leader.asked().len(), bystander.asked().len()), (2, 0));
}

#[tokio::test]
async fn reads_name_what_they_read() {
    let node = Node::start([
        Step::json(r#"{"signature":"a b&c/é","holders":[]}"#),
        Step::json(r#"{"locks":[{"signature":"p1","holders":[]}],"next":"p1"}"#),
        Step::json(r#"{"tables":[{"table":"t","duration_ms":5,"locks":2}]}"#),
        Step::problem(404, "no_such_path", ""),
    ])
    .await;
    let client = client(&[node.url()], 2000);
    let options = ReadOptions { table: Some("t&u".into()), stale: true, ..ReadOptions::default() };
    let read = client.check("a b&c/é".into(), options).await.unwrap();
    assert_eq!(read.record.signature, "a b&c/é");
    let request = ListRequest {
        prefix: "p".into(),
        after: Some("p0".into()),
        limit: 1,
        state: Some(RecordState::Held),
    };
    let page = client.list(request, ReadOptions::default()).await.unwrap();
    assert_eq!((page.locks.len(), page.next.as_deref()), (1, Some("p1")));
    let request = TablesRequest { after: Some("s".into()), limit: 2 };
    let page = client.tables(request, ReadOptions::default()).await.unwrap();
    assert_eq!(page.tables[0].defaults.duration, Some(Duration::from_millis(5)));
    let asked = node.asked();
    let paths: Vec<_> = asked.iter().map(|request| request.split(' ').nth(1).unwrap()).collect();
    assert_eq!(
        paths,
        [
            "/v1/lock?signature=a%20b%26c%2F%C3%A9&table=t%26u&stale=true",
            "/v1/locks?prefix=p&after=p0&limit=1&state=held&table=default",
            "/v1/tables?after=s&limit=2",
        ]
    );
    let ended = client.cluster(CallOptions::default()).await;
    assert!(matches!(ended, Err(Error::BadRequest { .. })), "{ended:?}");
}

impl Node {
    fn request_ids_of_writes(&self) -> Vec<String> {
        let id_of = |request: &String| {
            let (_, rest) = request.split_once(r#""request_id":""#)?;
            rest.split('"').next().map(str::to_owned)
        };
        self.asked().iter().filter_map(id_of).collect()
    }
}

fn ids(node: &Node) -> Vec<RequestId> {
    node.request_ids_of_writes().iter().map(|id| id.parse().unwrap()).collect()
}

#[tokio::test]
async fn a_request_that_was_never_sent_before_is_asked_again_when_its_lane_was_forgotten() {
    let forgotten = Step::problem(409, "lane_forgotten", "");
    let node = Node::start([Step::granted(), forgotten, Step::granted()]).await;
    let client = client(&[node.url()], 2000);
    lock(&client).await.unwrap();
    assert!(lock(&client).await.unwrap().ok());
    let asked = ids(&node);
    assert_eq!(asked[1], RequestId { lane: asked[0].lane, seq: 2 });
    assert_ne!(asked[2].lane, asked[0].lane);
    assert_eq!(asked[2].seq, 1);
    lock(&client).await.unwrap();
    assert_eq!(ids(&node)[3], RequestId { lane: asked[2].lane, seq: 2 }, "the new one goes on");
}

#[tokio::test]
async fn a_repetition_stays_unknown_when_its_lane_was_forgotten() {
    let forgotten = Step::problem(409, "lane_forgotten", "");
    let node = Node::start([Step::granted(), Step::Cut, forgotten, Step::granted()]).await;
    let client = client(&[node.url()], 2000);
    lock(&client).await.unwrap();
    let ended = lock(&client).await;
    assert!(matches!(ended, Err(Error::Unknown { .. })), "{ended:?}");
    let asked = ids(&node);
    assert_eq!(asked[1], asked[2], "it was repeated once, and then given up");
    assert_eq!(asked.len(), 3);
    lock(&client).await.unwrap();
    let next = ids(&node)[3];
    assert_ne!(next.lane, asked[0].lane, "a lane with an open outcome is retired");
    assert_eq!(next.seq, 1);
}

#[tokio::test]
async fn whoever_has_ids_of_his_own_is_told_that_the_lane_was_forgotten() {
    let node = Node::start([Step::problem(409, "lane_forgotten", "")]).await;
    let client = client(&[node.url()], 2000);
    let request_id = Some(RequestId { lane: 7, seq: 3 });
    let options = LockOptions { request_id, ..LockOptions::default() };
    let request = LockRequest { signature: "a".into(), signee: "x".into(), level: None };
    let ended = client.lock(request, options).await;
    assert_eq!(ended, Err(Error::LaneForgotten { reason: "d".into() }));
    assert_eq!(node.asked().len(), 1);
}
