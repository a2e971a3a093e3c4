//! Batches over HTTP: requests that are answered one by one, and batches that are refused whole.

use serde_json::{Value, json};

use super::{Ask, Failing, Server};
use crate::api::{MAX_BATCH, MAX_BATCH_BYTES};
use crate::error::Error;
use crate::http::ListenerSettings;

const LOCK_A: &str = r#"{"lock":{"signature":"a","signee":"x"}}"#;

async fn send(server: &Server, requests: &[&str]) -> Vec<Value> {
    let body = format!(r#"{{"requests":[{}]}}"#, requests.join(","));
    let told = server.send("POST", "/v1/batch", &body).await;
    assert_eq!(told.status, 200, "{told:?}");
    assert_eq!(told.header("keyward-log-position"), "", "each answer has its own");
    told.json()["answers"].as_array().unwrap().clone()
}

#[tokio::test]
async fn each_request_is_answered_by_itself_and_in_order() {
    let (server, _) = Server::memory().await;
    let answers = send(
        &server,
        &[
            LOCK_A,
            r#"{"lock":{"signature":"a","signee":"y"}}"#,
            r#"{"lock":{"signature":"","signee":"y"}}"#,
            r#"{"unlock":{"signature":"a","signee":"x"}}"#,
            r#"{"lock":{"signature":"a","signee":"y","level":9007199254740992}}"#,
            r#"{"lock":{"signature":"a","signee":"y"}}"#,
            r#"{"unlock":{"signature":"a","signee":"x"}}"#,
            r#"{"unlock":{"signature":"b","signee":"x"}}"#,
        ],
    )
    .await;
    let granted = json!({"status": "ok", "token": 1, "level": 0, "expires_in_ms": 30000,
            "removed_in_ms": 86_430_000, "live": true, "mode": "exclusive", "valid_ms": 30000});
    assert_eq!(answers[0], json!({"lock": granted, "log_position": "1.0"}));
    assert_eq!(answers[1]["problem"]["code"], "forbidden");
    assert_eq!(answers[1]["problem"]["status"], 423);
    assert_eq!(answers[1]["problem"]["holders"][0]["signee"], "x");
    assert_eq!(answers[1]["log_position"], "2.0", "refusals are decided too");
    assert_eq!(answers[2]["problem"]["code"], "bad_request");
    assert_eq!(answers[3], json!({"unlock": {"status": "ok"}, "log_position": "3.0"}));
    assert_eq!(answers[4]["problem"]["code"], "bad_request");
    assert_eq!(answers[5]["lock"]["token"], 2, "what was released before it is free");
    assert_eq!(answers[6]["problem"]["code"], "forbidden");
    assert_eq!(answers[7]["unlock"]["status"], "no_lock");
    assert_eq!(answers.len(), 8);
    assert!(send(&server, &[]).await.is_empty());
}

#[tokio::test]
async fn a_batch_that_is_none_is_refused_whole() {
    let (server, _) = Server::memory().await;
    let wrong = [
        (r#"{"lock":{"signee":"x"}}"#, "bad_request", "requests[1].lock: missing field"),
        (r#"{"lock":{"signature":"a","signee":"x","nam":1}}"#, "unknown_field", "requests[1]"),
        (r#"{"lock":["a","x"]}"#, "bad_request", "requests[1].lock"),
        (r#"["lock",{"signature":"a","signee":"x"}]"#, "bad_request", "requests[1]"),
        (r#"{"lcok":{"signature":"a","signee":"x"}}"#, "bad_request", "requests[1]"),
        (r#"{"lock":{"signature":"a","signee":"x"},"unlock":{}}"#, "bad_request", "requests[1]"),
        (r"{}", "bad_request", "requests[1]"),
        (r#""lock""#, "bad_request", "requests[1]"),
        ("null", "bad_request", "requests[1]"),
        ("[", "bad_request", ""),
    ];
    for (request, code, detail) in wrong {
        let body = format!(r#"{{"requests":[{LOCK_A},{request}]}}"#);
        let told = server.send("POST", "/v1/batch", &body).await;
        told.assert_problem(400, code, detail);
    }
    let more = format!(r#"{{"requests":[{LOCK_A}],"atomic":true}}"#);
    server.send("POST", "/v1/batch", &more).await.assert_problem(400, "unknown_field", "atomic");
    server.send("POST", "/v1/batch", "{}").await.assert_problem(400, "bad_request", "requests");
    server.send("POST", "/v1/batch", "[]").await.assert_problem(400, "bad_request", "object");
    let query = server.send("POST", "/v1/batch?x=1", "{}").await;
    query.assert_problem(400, "unknown_field", "query");
    let get = Ask { path: "/v1/batch", ..Ask::default() };
    server.ask(get).await.assert_problem(405, "method_not_allowed", "");
    let check = server.get("/v1/lock?signature=a").await;
    check.assert_problem(404, "not_found", "");
}

#[tokio::test]
async fn a_batch_has_a_largest_number_of_requests_and_of_bytes() {
    let (server, _) = Server::memory().await;
    assert_eq!(send(&server, &vec![LOCK_A; MAX_BATCH]).await.len(), MAX_BATCH);
    let body = format!(r#"{{"requests":[{}]}}"#, vec![LOCK_A; MAX_BATCH + 1].join(","));
    let told = server.send("POST", "/v1/batch", &body).await;
    told.assert_problem(400, "bad_request", "at most 1000");
    let empty = r#"{"requests":[]}"#;
    let fits = format!("{empty}{}", " ".repeat(MAX_BATCH_BYTES - empty.len()));
    assert_eq!(server.send("POST", "/v1/batch", &fits).await.status, 200);
    let told = server.send("POST", "/v1/batch", &format!("{fits} ")).await;
    told.assert_problem(413, "too_large", "1048576");
}

#[tokio::test]
async fn what_the_service_cannot_do_is_told_for_each() {
    let leader = Some("http://l:1".into());
    let unavailable = Error::Unavailable { reason: "r".into(), leader, retry_after: None };
    let server = Server::start(Failing(Some(unavailable)), ListenerSettings::default()).await;
    for answer in send(&server, &[LOCK_A, LOCK_A]).await {
        assert_eq!(answer["problem"]["code"], "unavailable");
        assert_eq!(answer["problem"]["leader"], "http://l:1");
    }
    let server = Server::start(Failing(None), ListenerSettings::default()).await;
    let body = format!(
        r#"{{"requests":[{LOCK_A},{{"lock":{{"signature":"a","signee":"x","level":9007199254740992}}}}]}}"#
    );
    let headers = &[("content-type", "application/json"), ("keyward-timeout-ms", "50")];
    let ask = Ask { method: "POST", path: "/v1/batch", headers, body: Some(body.as_bytes()) };
    let told = server.ask(ask).await.json();
    assert_eq!(told["answers"][0]["problem"]["code"], "unknown");
    assert_eq!(told["answers"][1]["problem"]["code"], "bad_request", "it was never asked");
}
