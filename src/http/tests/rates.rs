//! Clients that ask too often, or over too many connections, and what is left to them and others.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};

use super::access::{ask as ask_as, guarded};
use super::limits::{BOUND, HEALTHZ, answer, exchange};
use super::{Ask, Failing, ListenerSettings, Server, Told};
use crate::clock::ManualClock;
use crate::http::{Limits, Rate, Rates};
use crate::memory::MemoryLocks;

const JSON: (&str, &str) = ("content-type", "application/json");
const KEEPS: (&str, &str) = ("keyward-keeps", "true");

fn rate(per_second: u32, burst: u32) -> Rate {
    Rate { per_second, burst }
}

/// A listener with this rate of each address, whose clock the test moves.
async fn with(per_second: u32, burst: u32) -> (Server, ManualClock) {
    let clock = ManualClock::default();
    let address = Some(rate(per_second, burst));
    let rates = Rates { address, identity: None, clock: Some(Arc::new(clock.clone())) };
    let settings = ListenerSettings { rates, ..ListenerSettings::default() };
    (Server::start(MemoryLocks::new(), settings).await, clock)
}

async fn post(server: &Server, path: &str, headers: &[(&str, &str)], body: &str) -> Told {
    let headers: Vec<_> = headers.iter().copied().chain([JSON]).collect();
    let body = Some(body.as_bytes());
    server.ask(Ask { method: "POST", path, headers: &headers, body }).await
}

fn lock(signature: &str) -> String {
    json!({"signature": signature, "signee": "ann"}).to_string()
}

/// Checks that a request was refused with this wait, of which it was held back for a part.
fn assert_limited(told: &Told, seconds: &str, ms: u64) {
    let ms = ms.saturating_sub(100).max(1);
    told.assert_problem(429, "too_many_requests", "nothing was done");
    assert_eq!(told.header("retry-after"), seconds, "{told:?}");
    assert_eq!(told.json()["retry_after_ms"], ms, "{told:?}");
}

#[tokio::test]
async fn who_asks_too_often_is_refused_before_the_body_is_read() {
    let (server, clock) = with(2, 3).await;
    for name in ["a", "b", "c"] {
        assert_eq!(post(&server, "/v1/lock", &[], &lock(name)).await.status, 200);
    }
    // Nothing of the body is sent, ever.
    let head = "POST /v1/lock HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                content-length: 60000\r\n\r\n";
    let told = exchange(&server, head).await;
    assert!(told.starts_with("HTTP/1.1 429 ") && told.contains("retry-after: 1\r\n"), "{told}");
    // Nor is it found out whether the path exists, or the head is good.
    assert_limited(&server.get("/nowhere").await, "1", 500);
    assert!(exchange(&server, "GET /v1/tables HTTP/1.1\r\n\r\n").await.contains(" 429 "));
    assert_limited(&post(&server, "/v1/lock", &[], &lock("d")).await, "1", 500);
    clock.advance(Duration::from_millis(499));
    assert_limited(&server.get("/v1/tables").await, "1", 1);
    clock.advance(Duration::from_millis(1));
    let told = server.get("/v1/locks").await;
    assert_eq!(told.json()["locks"].as_array().unwrap().len(), 3, "the fourth was not done");
    assert_limited(&server.get("/v1/locks").await, "1", 500);
    clock.advance(Duration::from_secs(1));
    let page = String::from_utf8(server.get("/metrics").await.body).unwrap();
    for line in [
        r#"keyward_requests_limited_total{rate_of="address"} 6"#,
        r#"keyward_requests_limited_total{rate_of="identity"} 0"#,
        r#"keyward_requests_total{method="POST",route="/v1/lock",outcome="too_many_requests"} 2"#,
    ] {
        assert!(page.contains(line), "{line} is not in {page}");
    }
}

#[tokio::test]
async fn who_may_not_ask_any_more_renews_and_releases_and_probes_are_never_refused() {
    let (server, clock) = with(1, 2).await;
    assert_eq!(post(&server, "/v1/lock", &[], &lock("a")).await.status, 200);
    let opened = post(&server, "/v1/sessions", &[], r#"{"ttl_ms":5000,"signee":"ann"}"#).await;
    let session = opened.json()["session"].as_str().unwrap().to_owned();
    assert_limited(&post(&server, "/v1/lock", &[], &lock("b")).await, "1", 1000);
    for _ in 0..10 {
        assert_eq!(server.get("/healthz").await.status, 200);
        assert_eq!(server.get("/readyz").await.status, 200);
    }
    let renew = r#"{"signature":"a","signee":"ann","token":1}"#;
    // Without the header nobody knows before the body is read that it renews.
    assert_limited(&post(&server, "/v1/lock", &[], renew).await, "1", 1000);
    assert_eq!(post(&server, "/v1/lock", &[KEEPS], renew).await.json()["status"], "renewed");
    let alive = format!(r#"{{"sessions":[{{"session":"{session}"}}]}}"#);
    let told = post(&server, "/v1/sessions/keepalive", &[], &alive).await;
    assert_eq!(told.json()["sessions"][0]["alive"], true);
    // That share has an end, too.
    let release = r#"{"signature":"a","signee":"ann"}"#;
    let told = post(&server, "/v1/unlock", &[], release).await;
    assert_limited(&told, "1", 1000);
    assert!(told.json()["detail"].as_str().unwrap().contains("renewals and releases"));
    clock.advance(Duration::from_secs(1));
    assert_eq!(post(&server, "/v1/unlock", &[], release).await.json()["status"], "ok");
}

#[tokio::test]
async fn who_says_that_it_renews_and_does_not_is_refused() {
    let (server, _clock) = with(100, 100).await;
    let told = post(&server, "/v1/lock", &[KEEPS], &lock("a")).await;
    told.assert_problem(400, "bad_request", "has a token");
    let told = post(&server, "/v1/lock", &[("keyward-keeps", "yes")], &lock("a")).await;
    told.assert_problem(400, "bad_request", "keyward-keeps");
    let twice = [KEEPS, ("keyward-keeps", "false")];
    let told = post(&server, "/v1/lock", &twice, &lock("a")).await;
    told.assert_problem(400, "bad_request", "keyward-keeps is there twice");
    let unlock = r#"{"unlock":{"signature":"x","signee":"ann"}}"#;
    let batch = format!(r#"{{"requests":[{unlock},{{"lock":{}}}]}}"#, lock("a"));
    let answers = post(&server, "/v1/batch", &[KEEPS], &batch).await.json();
    assert_eq!(answers["answers"][0]["unlock"]["status"], "no_lock");
    assert_eq!(answers["answers"][1]["problem"]["code"], "bad_request");
    assert!(server.get("/v1/locks").await.json()["locks"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn a_batch_counts_as_its_requests() {
    let (server, clock) = with(10, 2).await;
    let requests = (0..101).map(|at| format!(r#"{{"lock":{}}}"#, lock(&at.to_string())));
    let requests = requests.collect::<Vec<_>>().join(",");
    let batch = format!(r#"{{"requests":[{requests}]}}"#);
    let told = post(&server, "/v1/batch", &[], &batch).await;
    assert_eq!(told.json()["answers"].as_array().unwrap().len(), 101);
    // 101 requests take 10.1 seconds, of which the burst is 0.2; the next one is 0.1.
    assert_limited(&server.get("/v1/tables").await, "10", 10_000);
    assert_limited(&post(&server, "/v1/batch", &[], &batch).await, "10", 10_000);
    clock.advance(Duration::from_secs(10));
    assert_eq!(post(&server, "/v1/batch", &[], r#"{"requests":[]}"#).await.status, 200);
    assert_limited(&server.get("/v1/tables").await, "1", 100);
}

#[tokio::test]
async fn each_identity_has_a_rate_of_its_own_wherever_it_asks_from() {
    let clock = ManualClock::default();
    let rates =
        Rates { address: None, identity: Some(rate(1, 2)), clock: Some(Arc::new(clock.clone())) };
    let (server, _locks) = guarded(ListenerSettings { rates, ..ListenerSettings::default() }).await;
    for _ in 0..2 {
        assert_eq!(ask_as(&server, "observe", "GET", "/v1/locks", None).await.status, 200);
    }
    let told = ask_as(&server, "observe", "GET", "/v1/locks", None).await;
    assert_limited(&told, "1", 1000);
    assert!(told.json()["detail"].as_str().unwrap().contains("of this identity"));
    assert_eq!(ask_as(&server, "owner", "GET", "/v1/tables", None).await.status, 200);
    // Whoever is nobody has no rate, and is refused for that.
    for _ in 0..5 {
        assert_eq!(ask_as(&server, "stranger", "GET", "/v1/locks", None).await.status, 401);
    }
    // A batch counts for the identity, too.
    let unlock = r#"{"unlock":{"signature":"x","signee":"owner"}}"#;
    let batch = format!(r#"{{"requests":[{}]}}"#, [unlock; 10].join(","));
    assert_eq!(ask_as(&server, "owner", "POST", "/v1/batch", Some(&batch)).await.status, 200);
    let told = ask_as(&server, "owner", "GET", "/v1/tables", None).await;
    assert_limited(&told, "10", 10_000);
    clock.advance(Duration::from_secs(1));
    assert_eq!(ask_as(&server, "observe", "GET", "/v1/locks", None).await.status, 200);
}

#[tokio::test]
async fn strangers_who_try_access_tokens_are_held_up_by_their_address() {
    let rates = Rates {
        address: Some(rate(1, 5)),
        identity: None,
        clock: Some(Arc::new(ManualClock::default())),
    };
    let (server, _locks) = guarded(ListenerSettings { rates, ..ListenerSettings::default() }).await;
    for _ in 0..5 {
        assert_eq!(ask_as(&server, "stranger", "GET", "/v1/locks", None).await.status, 401);
    }
    assert_limited(&ask_as(&server, "stranger", "GET", "/v1/locks", None).await, "1", 1000);
}

/// A connection from this address of the loopback network, with a request.
async fn from(address: &str, server: &Server, request: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{address}:0").parse().unwrap()).unwrap();
    let mut stream = socket.connect(server.address).await.unwrap();
    // The other side may refuse the connection before all is written.
    let _ = stream.write_all(request.as_bytes()).await;
    stream
}

#[tokio::test]
async fn an_address_cannot_take_all_connections_even_if_all_of_them_are_at_work() {
    let limits = Limits { connections: 4, ..Limits::default() };
    let settings = ListenerSettings { terms: limits.into(), ..ListenerSettings::default() };
    let server = Server::start(Failing(None), settings).await;
    let hang = "GET /v1/tables HTTP/1.1\r\nhost: x\r\nkeyward-timeout-ms: 60000\r\n\r\n";
    let flood = async {
        let mut working = Vec::new();
        loop {
            // Until they are active, they evict each other.
            let mut stream = from("127.0.0.2", &server, hang).await;
            tokio::select! {
                told = answer(&mut stream) => if told.starts_with("HTTP/1.1 429 ") {
                    return (told, working);
                },
                () = tokio::time::sleep(Duration::from_millis(50)) => working.push(stream),
            }
        }
    };
    let (told, _working) = tokio::time::timeout(BOUND, flood).await.expect("in time");
    assert!(told.contains("\"code\":\"too_many_requests\""), "{told}");
    assert!(told.contains("retry-after: 1\r\n") && told.contains("connection: close\r\n"));
    for _ in 0..8 {
        let told = answer(&mut from("127.0.0.1", &server, HEALTHZ).await).await;
        assert!(told.starts_with("HTTP/1.1 200 "), "{told}");
    }
    let mut stream = from("127.0.0.1", &server, &HEALTHZ.replace("healthz", "metrics")).await;
    let page = answer(&mut stream).await;
    let limited = "keyward_connections_limited_total ";
    let count = page.lines().find_map(|line| line.strip_prefix(limited)).expect("a line");
    assert!(count.parse::<u64>().unwrap() >= 1, "{count}");
}

#[tokio::test]
async fn an_address_that_has_all_it_may_have_evicts_its_own_and_no_other() {
    let limits = Limits { address_connections: Some(3), ..Limits::default() };
    let settings = ListenerSettings { terms: limits.into(), ..ListenerSettings::default() };
    let server = Server::start(MemoryLocks::new(), settings).await;
    let mut other = from("127.0.0.1", &server, HEALTHZ).await;
    assert!(answer(&mut other).await.starts_with("HTTP/1.1 200 "));
    let mut crowd = Vec::new();
    for _ in 0..9 {
        let mut stream = from("127.0.0.2", &server, HEALTHZ).await;
        assert!(answer(&mut stream).await.starts_with("HTTP/1.1 200 "));
        crowd.push(stream);
    }
    for mut evicted in crowd.drain(..6) {
        assert_eq!(answer(&mut evicted).await, "");
    }
    for stream in crowd.iter_mut().chain([&mut other]) {
        stream.write_all(HEALTHZ.as_bytes()).await.unwrap();
        assert!(answer(stream).await.starts_with("HTTP/1.1 200 "), "it was left alone");
    }
}
