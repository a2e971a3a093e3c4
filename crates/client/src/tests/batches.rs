//! Coalesced writes: which of them share a message, and the outcome of each.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::{Node, Step};
use crate::Client;
use keyward_core::error::Error;
use keyward_core::lock::{Command, Outcome};
use keyward_core::service::LockService;
use keyward_core::types::{
    BatchRequest, CallOptions, DecidedAt, LockOptions, LockRequest, LockResponse, LockStatus,
    RequestId, TableDefaults, TableOptions, Token, UnlockOptions, UnlockRequest,
};

const SECOND: Duration = Duration::from_secs(1);

fn client(node: &Node) -> Client {
    Client::builder().endpoints([node.url()]).timeout(10 * SECOND).build().unwrap()
}

fn request(number: u64) -> LockRequest {
    LockRequest { signature: format!("s{number}"), signee: "x".into(), level: None }
}

async fn lock(client: &Client, number: u64) -> Result<LockResponse, Error> {
    client.lock(request(number), LockOptions::default()).await
}

async fn lock_within(client: &Client, number: u64, timeout: Duration) -> Result<(), Error> {
    let call = CallOptions { timeout: Some(timeout), ..CallOptions::default() };
    client.lock(request(number), LockOptions { call, ..LockOptions::default() }).await.map(|_| ())
}

fn ask(client: &Client, number: u64) -> JoinHandle<Result<LockResponse, Error>> {
    let client = client.clone();
    tokio::spawn(async move { lock(&client, number).await })
}

fn token(response: &LockResponse) -> Token {
    response.grant().unwrap().token
}

/// Waits until the node has received this many requests.
async fn asked(node: &Node, times: usize) {
    while node.asked().len() < times {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn path(request: &str) -> &str {
    request.split(' ').nth(1).unwrap()
}

fn body(request: &str) -> Value {
    serde_json::from_str(request.split_once("\r\n\r\n").unwrap().1).unwrap()
}

/// The signatures of a batch's requests.
fn names(request: &str) -> Vec<String> {
    let body = body(request);
    let item = |item: &Value| {
        let of_either = item.get("lock").or(item.get("unlock")).unwrap();
        of_either["signature"].as_str().unwrap().to_owned()
    };
    body["requests"].as_array().unwrap().iter().map(item).collect()
}

fn ids(request: &str) -> Vec<RequestId> {
    let items = request.split(r#""request_id":""#).skip(1);
    items.map(|rest| rest.split('"').next().unwrap().parse().unwrap()).collect()
}

/// A client with two messages in flight, which the node answers once it is released, and then four
/// more writes that are queued. The node follows the script for the messages after that.
struct Busy {
    node: Node,
    client: Client,
    let_through: Arc<Semaphore>,
    first: Vec<JoinHandle<Result<LockResponse, Error>>>,
    gathered: Vec<JoinHandle<Result<LockResponse, Error>>>,
}

impl Busy {
    async fn start(script: impl IntoIterator<Item = Step>) -> Self {
        let let_through = Arc::new(Semaphore::new(0));
        let held = || Step::when(&let_through, Step::Each);
        let node = Node::start([held(), held()].into_iter().chain(script)).await;
        let client = client(&node);
        let first = vec![ask(&client, 1), ask(&client, 2)];
        asked(&node, 2).await;
        let mut gathered = Vec::new();
        for number in 3..=6 {
            gathered.push(ask(&client, number));
            tokio::task::yield_now().await;
        }
        Self { node, client, let_through, first, gathered }
    }

    async fn gathered(self) -> (Node, Vec<Result<LockResponse, Error>>) {
        self.let_through.add_permits(2);
        for first in self.first {
            first.await.unwrap().unwrap();
        }
        let mut answers = Vec::new();
        for gathered in self.gathered {
            answers.push(gathered.await.unwrap());
        }
        (self.node, answers)
    }
}

#[tokio::test]
async fn one_that_is_alone_leaves_alone_and_at_once() {
    let node = Node::start([Step::Each]).await;
    let client = client(&node);
    for number in 1..=3 {
        assert_eq!(token(&lock(&client, number).await.unwrap()), Token(number));
    }
    assert!(node.asked().iter().all(|request| path(request) == "/v1/lock"));
}

#[tokio::test]
async fn those_that_wait_share_a_message_and_each_has_its_answer() {
    let (node, answers) = Busy::start([Step::Each]).await.gathered().await;
    for (number, answer) in (3..).zip(answers) {
        let answer = answer.unwrap();
        assert_eq!(token(&answer), Token(number));
        assert_eq!(answer.decided_at, Some(DecidedAt { index: 7, position: 1 }));
    }
    let asked = node.asked();
    let paths: Vec<_> = asked.iter().map(|request| path(request)).collect();
    assert_eq!(paths, ["/v1/lock", "/v1/lock", "/v1/batch"]);
    assert_eq!(names(&asked[2]), ["s3", "s4", "s5", "s6"]);
    let mut ids: Vec<_> = asked.iter().flat_map(|request| ids(request)).collect();
    ids.sort();
    ids.dedup_by_key(|id| id.lane);
    assert_eq!(ids.len(), 6, "each has a lane of its own");
}

#[tokio::test]
async fn each_ends_in_its_own_way() {
    let problem = |code: &str, more: Value| {
        let mut problem = json!({"type": format!("urn:keyward:problem:{code}"), "title": "t",
            "status": 1, "code": code, "detail": "d"});
        problem.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "problem": problem })
    };
    let foreign = json!({"problem": {"type": "about:blank", "title": "t", "status": 400,
        "code": "bad_request"}});
    let answers = [
        problem("forbidden", json!({"reason": "held", "holders": []})),
        problem("bad_request", json!({})),
        problem("unavailable", json!({})),
        foreign,
    ];
    let mixed = Step::json(&json!({ "answers": answers }).to_string());
    let (node, answers) = Busy::start([mixed, Step::Each]).await.gathered().await;
    assert!(answers[0].as_ref().unwrap().forbidden().is_some());
    assert_eq!(answers[1], Err(Error::bad_request("d")));
    assert_eq!(token(answers[2].as_ref().unwrap()), Token(5), "asked again");
    assert_eq!(token(answers[3].as_ref().unwrap()), Token(6), "asked again");
    let asked = node.asked();
    let first = ids(&asked[2]);
    let again: Vec<_> = asked[3..].iter().flat_map(|request| ids(request)).collect();
    assert!(again.contains(&first[2]) && again.contains(&first[3]), "under the same ids");
    assert_eq!(again.len(), 2, "and what was answered is not asked again");
}

#[tokio::test]
async fn what_happens_to_a_message_happens_to_each_in_it() {
    let too_few = || Step::json(r#"{"answers":[]}"#);
    let other = || Step::Answer(200, "text/html", String::new(), "<h1>Welcome</h1>".into());
    let cases = [Step::Cut, Step::Half, Step::problem(503, "unavailable", ""), too_few(), other()];
    for step in cases {
        let (node, answers) = Busy::start([step.clone(), Step::Each]).await.gathered().await;
        for (number, answer) in (3..).zip(answers) {
            assert_eq!(token(&answer.unwrap()), Token(number), "{step:?}");
        }
        let asked = node.asked();
        let mut before = ids(&asked[2]);
        let mut again: Vec<_> = asked[3..].iter().flat_map(|request| ids(request)).collect();
        before.sort();
        again.sort();
        assert_eq!(before, again, "{step:?}: each was repeated once, under its id");
    }
}

#[tokio::test]
async fn what_was_cut_and_never_answered_is_unknown_and_what_was_refused_is_not() {
    let refused = || Step::problem(503, "unavailable", "");
    let cases = [(vec![Step::Cut, refused()], true), (vec![refused()], false)];
    for (script, is_open) in cases {
        let busy = Busy::start(script).await;
        let client = busy.client.clone();
        let impatient =
            tokio::spawn(async move { lock_within(&client, 9, Duration::from_millis(400)).await });
        asked(&busy.node, 2).await;
        busy.let_through.add_permits(2);
        let ended = impatient.await.unwrap();
        assert_eq!(matches!(ended, Err(Error::Unknown { .. })), is_open, "{ended:?}");
        assert_eq!(matches!(ended, Err(Error::Unavailable { .. })), !is_open, "{ended:?}");
    }
}

#[tokio::test]
async fn one_that_gives_up_disturbs_no_other() {
    let let_batch = Arc::new(Semaphore::new(0));
    let mut busy = Busy::start([Step::when(&let_batch, Step::Each)]).await;
    let unsent = busy.gathered.remove(1);
    unsent.abort();
    unsent.await.unwrap_err();
    busy.let_through.add_permits(2);
    asked(&busy.node, 3).await;
    let sent = busy.gathered.remove(0);
    sent.abort();
    sent.await.unwrap_err();
    let_batch.add_permits(1);
    let (node, answers) = busy.gathered().await;
    assert_eq!(names(&node.asked()[2]), ["s3", "s5", "s6"], "what was given up was not sent");
    let tokens: Vec<_> = answers.iter().map(|answer| token(answer.as_ref().unwrap()).0).collect();
    assert_eq!(tokens, [5, 6]);
}

#[tokio::test]
async fn one_whose_time_is_up_before_it_has_left_was_certainly_not_done() {
    let busy = Busy::start([Step::Each]).await;
    let ended = lock_within(&busy.client, 7, Duration::from_millis(50)).await;
    assert!(matches!(ended, Err(Error::Unavailable { .. })), "{ended:?}");
    let (node, _) = busy.gathered().await;
    assert_eq!(names(&node.asked()[2]), ["s3", "s4", "s5", "s6"]);
}

#[tokio::test]
async fn a_message_that_hangs_holds_up_the_others_for_a_moment_only() {
    let node = Node::start([Step::Hang, Step::Hang, Step::Each]).await;
    let client = client(&node);
    let hanging = [ask(&client, 1), ask(&client, 2)];
    asked(&node, 2).await;
    let (third, fourth) = tokio::join!(lock(&client, 3), lock(&client, 4));
    assert_eq!((token(&third.unwrap()), token(&fourth.unwrap())), (Token(3), Token(4)));
    for hanging in &hanging {
        assert!(!hanging.is_finished(), "those that hang still wait");
        hanging.abort();
    }
}

#[tokio::test]
async fn a_node_that_knows_no_batches_is_asked_one_by_one() {
    let ours = Step::problem(404, "no_such_path", "");
    let (node, answers) = Busy::start([ours, Step::Each]).await.gathered().await;
    for (number, answer) in (3..).zip(answers) {
        assert_eq!(token(&answer.unwrap()), Token(number));
    }
    let asked = node.asked();
    let batches = asked.iter().filter(|request| path(request) == "/v1/batch").count();
    assert_eq!((batches, asked.len()), (1, 7));
    assert_eq!(ids(&asked[2]).len(), 4);
}

#[tokio::test]
async fn what_lets_no_batches_through_is_asked_one_by_one() {
    let proxy = Step::Answer(404, "text/html", String::new(), "<h1>Not found</h1>".into());
    let (node, answers) = Busy::start([proxy, Step::Each]).await.gathered().await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    let asked = node.asked();
    let batches = asked.iter().filter(|request| path(request) == "/v1/batch").count();
    assert_eq!((batches, asked.len()), (1, 7));
}

#[tokio::test]
async fn a_batch_that_is_refused_as_such_is_asked_one_by_one() {
    for code in ["bad_request", "unknown_field", "too_large"] {
        let refused = Step::problem(400, code, "");
        let (node, answers) = Busy::start([refused, Step::Each]).await.gathered().await;
        assert!(answers.iter().all(Result::is_ok), "{code}: {answers:?}");
        assert_eq!(node.asked().len(), 7);
    }
}

#[tokio::test]
async fn who_says_something_else_in_the_headers_has_a_message_of_its_own() {
    let busy = Busy::start([Step::Each]).await;
    let call = CallOptions { cause: Some("nightly".into()), ..CallOptions::default() };
    let options = LockOptions { call, ..LockOptions::default() };
    let told = busy.client.lock(request(9), options).await.unwrap();
    assert_eq!(token(&told), Token(9), "and does not wait for the others");
    let (node, _) = busy.gathered().await;
    let asked = node.asked();
    assert_eq!(path(&asked[2]), "/v1/lock");
    assert!(asked[2].contains("keyward-cause: nightly\r\n"));
    assert!(!asked[3].contains("keyward-cause"));
}

#[tokio::test]
async fn a_client_may_be_told_not_to_gather() {
    let let_through = Arc::new(Semaphore::new(0));
    let node = Node::start([Step::when(&let_through, Step::Each)]).await;
    let client = Client::builder().endpoints([node.url()]).batching(false).build().unwrap();
    let tasks: Vec<_> = (1..=5).map(|number| ask(&client, number)).collect();
    asked(&node, 5).await;
    let_through.add_permits(5);
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert!(node.asked().iter().all(|request| path(request) == "/v1/lock"));
}

#[tokio::test]
async fn many_tasks_at_once_are_each_answered_once() {
    let node = Node::start([Step::Each]).await;
    let client = client(&node);
    let tasks: Vec<_> = (1..=600).map(|number| ask(&client, number)).collect();
    for (number, task) in (1..).zip(tasks) {
        assert_eq!(token(&task.await.unwrap().unwrap()), Token(number));
    }
    let asked = node.asked();
    assert!(asked.len() < 60, "{} messages for 600 writes", asked.len());
    let sizes = asked.iter().filter(|request| path(request) == "/v1/batch").map(|r| names(r).len());
    assert!(sizes.max().unwrap() <= 256);
}

fn locks_and_unlock() -> Vec<BatchRequest> {
    let unlock = UnlockRequest { signature: "s1".into(), signee: "x".into() };
    vec![
        BatchRequest::Lock(request(1), LockOptions::default()),
        BatchRequest::Unlock(unlock, UnlockOptions::default()),
        BatchRequest::Lock(request(2), LockOptions::default()),
    ]
}

#[tokio::test]
async fn a_batch_of_the_program_is_one_message_in_its_order() {
    let node = Node::start([Step::Each]).await;
    let answers = client(&node).batch(locks_and_unlock()).await;
    let [first, second, third] = <[_; 3]>::try_from(answers).unwrap().map(Result::unwrap);
    assert_eq!(token(&first.lock().unwrap()), Token(1));
    assert!(second.unlock().unwrap().ok());
    assert_eq!(token(&third.lock().unwrap()), Token(2));
    let asked = node.asked();
    assert_eq!((asked.len(), path(&asked[0])), (1, "/v1/batch"));
    assert_eq!(names(&asked[0]), ["s1", "s1", "s2"]);
    assert!(client(&node).batch(Vec::new()).await.is_empty());
    assert_eq!(node.asked().len(), 1, "nothing is asked for nothing");
}

#[tokio::test]
async fn what_is_repeated_of_a_batch_is_what_comes_after_the_last_decision() {
    let unavailable = json!({"problem": {"type": "urn:keyward:problem:unavailable", "title": "t",
        "status": 503, "code": "unavailable", "detail": "d"}});
    let released = json!({"unlock": {"status": "ok"}});
    let partly = json!({ "answers": [unavailable, released, unavailable] }).to_string();
    let node = Node::start([Step::Cut, Step::json(&partly), Step::Each]).await;
    let answers = client(&node).batch(locks_and_unlock()).await;
    assert!(
        matches!(answers[0], Err(Error::Unknown { .. })),
        "it may have been done when the connection was cut: {answers:?}"
    );
    assert!(answers[1].is_ok() && answers[2].is_ok(), "{answers:?}");
    let asked = node.asked();
    assert_eq!(names(&asked[1]), ["s1", "s1", "s2"]);
    assert_eq!(names(&asked[2]), ["s2"], "the first would be decided out of turn");
    assert_eq!(ids(&asked[0]), ids(&asked[1]));
    assert_eq!(ids(&asked[1])[2], ids(&asked[2])[0]);
}

#[tokio::test]
async fn an_attempt_that_is_overtaken_leaves_open_what_the_other_did_not_decide() {
    let unavailable = json!({"problem": {"type": "urn:keyward:problem:unavailable", "title": "t",
        "status": 503, "code": "unavailable", "detail": "d"}});
    let released = json!({"unlock": {"status": "ok"}});
    let granted = json!({"lock": {"status": "ok", "token": 2, "level": 0, "expires_in_ms": 30000,
        "live": true}});
    let partly = json!({ "answers": [unavailable, released, granted] }).to_string();
    let silent = Node::start([Step::Hang]).await;
    let other = Node::start([Step::json(&partly)]).await;
    let client = Client::builder()
        .endpoints([silent.url(), other.url()])
        .timeout(60 * SECOND)
        .build()
        .unwrap();
    let answers = tokio::time::timeout(20 * SECOND, client.batch(locks_and_unlock())).await;
    let answers = answers.expect("the other node is asked");
    assert!(
        matches!(answers[0], Err(Error::Unknown { .. })),
        "the silent node may still do it: {answers:?}"
    );
    assert!(answers[1].is_ok() && answers[2].is_ok(), "{answers:?}");
    assert_eq!(ids(&silent.asked()[0]), ids(&other.asked()[0]));
}

#[tokio::test]
async fn a_batch_is_asked_one_by_one_where_there_are_none() {
    let unheard_of = Step::problem(404, "no_such_path", "");
    let unlocked = Step::json(r#"{"status":"ok"}"#);
    let node = Node::start([unheard_of, Step::Each, unlocked, Step::Each]).await;
    let answers = client(&node).batch(locks_and_unlock()).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    let asked = node.asked();
    let paths: Vec<_> = asked.iter().map(|request| path(request)).collect();
    assert_eq!(paths, ["/v1/batch", "/v1/lock", "/v1/unlock", "/v1/lock"]);
}

#[tokio::test]
async fn commands_of_other_causes_and_on_tables_have_messages_of_their_own() {
    let done = Step::json(r#"{"status":"ok"}"#);
    let steps = [Step::Each, Step::Each, done, Step::Each];
    let node = Node::start(steps).await;
    let lock = |number, cause: Option<&str>| {
        let call = CallOptions { cause: cause.map(str::to_owned), ..CallOptions::default() };
        Command::lock(request(number), LockOptions { call, ..LockOptions::default() }).unwrap()
    };
    let table = Command::configure_table(TableDefaults::default(), TableOptions::default());
    let commands = vec![
        lock(1, None),
        lock(2, None),
        lock(3, Some("nightly")),
        table.unwrap(),
        lock(4, None),
        lock(5, None),
    ];
    let answers = client(&node).decide(commands, CallOptions::default()).await;
    let tokens = answers.iter().map(|answer| {
        let outcome = &answer.as_ref().unwrap().outcome;
        if let Outcome::Lock(LockStatus::Ok(grant)) = outcome {
            return Some(grant.token.0);
        }
        assert_eq!(*outcome, Outcome::Table);
        None
    });
    assert_eq!(tokens.collect::<Vec<_>>(), [Some(1), Some(2), Some(3), None, Some(4), Some(5)]);
    let asked = node.asked();
    let paths: Vec<&str> = asked.iter().map(|request| path(request)).collect();
    assert_eq!(paths, ["/v1/batch", "/v1/batch", "/v1/table", "/v1/batch"]);
    assert_eq!([0, 1, 3].map(|at| names(&asked[at]).len()), [2, 1, 2]);
    let has_cause = asked.iter().map(|request| request.contains("keyward-cause: nightly\r\n"));
    assert_eq!(has_cause.collect::<Vec<_>>(), [false, true, false, false]);
}

#[tokio::test]
async fn a_long_batch_is_sent_in_parts() {
    let node = Node::start([Step::Each]).await;
    let requests = (1..=1500)
        .map(|number| BatchRequest::Lock(request(number), LockOptions::default()))
        .collect();
    let answers = client(&node).batch(requests).await;
    for (number, answer) in (1..).zip(answers) {
        assert_eq!(token(&answer.unwrap().lock().unwrap()), Token(number));
    }
    let sizes: Vec<_> = node.asked().iter().map(|request| names(request).len()).collect();
    assert_eq!(sizes, [1000, 500]);
}

fn forgotten() -> Value {
    json!({ "problem": {
        "type": "urn:keyward:problem:lane_forgotten", "title": "t", "status": 409,
        "code": "lane_forgotten", "detail": "d"
    } })
}

fn granted() -> Value {
    json!({ "lock": {
        "status": "ok", "token": 9, "level": 0, "expires_in_ms": 30000, "live": true
    } })
}

async fn batch(
    client: &Client,
    numbers: std::ops::RangeInclusive<u64>,
) -> Vec<Result<Token, Error>> {
    let lock = |number| BatchRequest::Lock(request(number), LockOptions::default());
    let answers = client.batch(numbers.map(lock).collect()).await;
    let token = |answer| match answer {
        keyward_core::types::BatchAnswer::Lock(response) => token(&response),
        keyward_core::types::BatchAnswer::Unlock(_) => panic!("a lock was asked for"),
    };
    answers.into_iter().map(|answer| answer.map(token)).collect()
}

#[tokio::test]
async fn the_end_of_a_batch_whose_lanes_were_forgotten_is_asked_again_in_its_order() {
    let answers = json!({ "answers": [granted(), forgotten(), forgotten()] });
    let node = Node::start([Step::json(&answers.to_string()), Step::Each]).await;
    let client = client(&node);
    assert_eq!(batch(&client, 1..=3).await, [Ok(Token(9)), Ok(Token(2)), Ok(Token(3))]);
    let asked = node.asked();
    assert_eq!(names(&asked[1]), ["s2", "s3"]);
    let (first, again) = (ids(&asked[0]), ids(&asked[1]));
    assert!(again.iter().all(|id| id.seq == 1 && !first.contains(id)), "{again:?}");
}

#[tokio::test]
async fn the_second_round_of_a_batch_has_the_time_that_is_left() {
    let answers = json!({ "answers": [forgotten()] });
    let let_through = Arc::new(Semaphore::new(0));
    let late = Step::when(&let_through, Step::json(&answers.to_string()));
    let node = Node::start([late, Step::Each]).await;
    let client = client(&node);
    let delay = async {
        tokio::time::sleep(SECOND / 4).await;
        let_through.add_permits(1);
    };
    assert_eq!(tokio::join!(batch(&client, 1..=1), delay).0, [Ok(Token(1))]);
    let timeout = |asked: &String| {
        let line = asked.lines().find_map(|line| line.strip_prefix("keyward-timeout-ms: "));
        line.unwrap().parse::<u64>().unwrap()
    };
    let timeouts: Vec<u64> = node.asked().iter().map(timeout).collect();
    // An attempt gets half of the time.
    assert!(timeouts[1] <= timeouts[0] - 100, "{timeouts:?}");
}

#[tokio::test]
async fn one_of_a_batch_whose_lane_was_forgotten_is_not_decided_behind_a_later_one() {
    let answers = json!({ "answers": [forgotten(), granted()] });
    let node = Node::start([Step::json(&answers.to_string()), Step::Each]).await;
    let answers = batch(&client(&node), 1..=2).await;
    assert!(matches!(answers[0], Err(Error::Unavailable { .. })), "{answers:?}");
    assert_eq!(answers[1], Ok(Token(9)));
    assert_eq!(node.asked().len(), 1);
}

async fn renew(client: &Client, number: u64) -> Result<LockResponse, Error> {
    let options = LockOptions { token: Some(Token(number)), ..LockOptions::default() };
    client.lock(request(number), options).await
}

/// Whether a request says that it only renews and releases.
fn keeps(request: &str) -> bool {
    request.contains("keyward-keeps: true\r\n")
}

#[tokio::test]
async fn what_only_renews_and_releases_says_so() {
    let node = Node::start([Step::Each]).await;
    let client = client(&node);
    lock(&client, 1).await.unwrap();
    renew(&client, 2).await.unwrap();
    let unlock = UnlockRequest { signature: "s3".into(), signee: "x".into() };
    client.unlock(unlock, UnlockOptions::default()).await.unwrap();
    assert_eq!(
        node.asked().iter().map(|request| keeps(request)).collect::<Vec<_>>(),
        [false, true, true]
    );
}

#[tokio::test]
async fn who_asks_too_often_sends_renewals_apart_from_then_on() {
    let let_through = Arc::new(Semaphore::new(0));
    let held = || Step::when(&let_through, Step::Each);
    let limited = Step::problem(429, "too_many_requests", r#","retry_after_ms":1"#);
    let node = Node::start([limited, Step::Each, held(), held(), Step::Each]).await;
    let client = client(&node);
    assert_eq!(token(&lock(&client, 1).await.unwrap()), Token(1), "it was asked again");
    let first = [ask(&client, 2), ask(&client, 3)];
    asked(&node, 4).await;
    let queued = [ask(&client, 4), ask(&client, 5)];
    for number in 6..=7 {
        assert_eq!(
            token(&renew(&client, number).await.unwrap()),
            Token(number),
            "nothing is ahead"
        );
    }
    let_through.add_permits(2);
    for asked in first.into_iter().chain(queued) {
        asked.await.unwrap().unwrap();
    }
    let asked = node.asked();
    let apart: Vec<_> = asked.iter().map(|request| (path(request), keeps(request))).collect();
    let (lock, batch) = ("/v1/lock", "/v1/batch");
    assert_eq!(apart[..4], [(lock, false); 4]);
    assert_eq!(apart[4..], [(lock, true), (lock, true), (batch, false)]);
}

#[tokio::test]
async fn a_wait_that_only_the_header_tells_is_honoured() {
    let document = r#"{"type":"urn:keyward:problem:too_many_requests","title":"t","status":429,"code":"too_many_requests"}"#;
    let limited = Step::Answer(
        429,
        "application/problem+json",
        "retry-after: 77\r\n".to_owned(),
        document.to_owned(),
    );
    let node = Node::start([limited]).await;
    let ended = lock(&client(&node), 1).await;
    assert_eq!(ended.as_ref().unwrap_err().retry_after(), Some(77 * SECOND), "{ended:?}");
    assert_eq!(node.asked().len(), 1, "it has no time to wait");
}
