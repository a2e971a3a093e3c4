//! Invalid requests: each is refused with the reason, and has no other effect.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Ask, ListenerSettings, Server};
use crate::http::Limits;
use crate::memory::MemoryLocks;

const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

/// A body of `POST /v1/lock`, with the code and a part of the detail it is refused with.
const BODIES: &[(&[u8], &str, &str)] = &[
    (b"", "bad_request", "JSON object"),
    (b"   ", "bad_request", "JSON object"),
    (b"null", "bad_request", "JSON object"),
    (b"[\"a\",\"b\"]", "bad_request", "JSON object"),
    (b"\"text\"", "bad_request", "JSON object"),
    (b"{", "bad_request", "the body ends within an object"),
    (b"{}", "bad_request", "missing field `signature`"),
    (b"{\"signature\":\"a\"}", "bad_request", "signee"),
    (b"{\"signee\":\"a\"}", "bad_request", "missing field `signature`"),
    (b"{\"signature\":\"a\",\"signee\":\"b\"} x", "bad_request", "trailing characters"),
    (b"{\"signature\":\"a\",\"signee\":\"b\"}{}", "bad_request", "trailing characters"),
    (
        b"{\"signature\":\"a\",\"signature\":\"a\",\"signee\":\"b\"}",
        "bad_request",
        "duplicate field `signature`",
    ),
    (
        b"{\"signature\":\"a\",\"signee\":\"b\",\"level\":1,\"level\":1}",
        "bad_request",
        "duplicate field `level`",
    ),
    (
        b"{\"signature\":\"a\",\"signee\":\"b\",\"levle\":1}",
        "unknown_field",
        "unknown field `levle`, expected one of `signature`",
    ),
    (b"{\"signature\":\"a\",\"signee\":\"b\",\"Level\":1}", "unknown_field", "`Level`"),
    (b"{\"signature\":1,\"signee\":\"b\"}", "bad_request", "signature: invalid type: integer"),
    (b"{\"signature\":null,\"signee\":\"b\"}", "bad_request", "signature: invalid type: null"),
    (b"{\"signature\":[\"a\"],\"signee\":\"b\"}", "bad_request", "signature: invalid type"),
    (b"{\"signature\":\"\",\"signee\":\"b\"}", "bad_request", "signature"),
    (b"{\"signature\":\"a\",\"signee\":\"\"}", "bad_request", "signee"),
    (b"{\"signature\":\"a\\u0000\",\"signee\":\"b\"}", "bad_request", "signature"),
    (b"{\"signature\":\"\\ud800\",\"signee\":\"b\"}", "bad_request", "signature"),
    (b"{\"signature\":\"\xff\",\"signee\":\"b\"}", "bad_request", "not UTF-8 at byte 14"),
    (
        b"{\"signature\":\"a\",\"signee\":\"b\",\"level\":1.5}",
        "bad_request",
        "level: 1.5 is not a whole number",
    ),
    (
        b"{\"signature\":\"a\",\"signee\":\"b\",\"level\":\"1\"}",
        "bad_request",
        "level: invalid type: string",
    ),
    (
        b"{\"signature\":\"a\",\"signee\":\"b\",\"level\":9007199254740992}",
        "bad_request",
        "level is out of range",
    ),
    (
        b"{\"signature\":\"a\",\"signee\":\"b\",\"level\":-9007199254740992}",
        "bad_request",
        "level is out of range",
    ),
    (
        b"{\"signature\":\"a\",\"signee\":\"b\",\"level\":99999999999999999999}",
        "bad_request",
        "level",
    ),
    (b"{\"signature\":\"a\",\"signee\":\"b\",\"level\":1e999}", "bad_request", "out of range"),
    (b"{\"signature\":\"a\",\"signee\":\"b\",\"token\":0}", "bad_request", "token"),
    (b"{\"signature\":\"a\",\"signee\":\"b\",\"wait_ms\":-1}", "bad_request", "wait_ms"),
    (b"{\"signature\":\"a\",\"signee\":\"b\",\"wait_ms\":60001}", "bad_request", "wait"),
    (
        b"{\"signature\":\"a\",\"signee\":\"b\",\"wait_ms\":9007199254740992}",
        "bad_request",
        "wait_ms",
    ),
    (b"{\"signature\":\"a\",\"signee\":\"b\",\"mode\":\"both\"}", "bad_request", "mode"),
    (
        b"{\"signature\":\"a\",\"signee\":\"b\",\"mode\":\"permits\",\"limit\":0}",
        "bad_request",
        "limit",
    ),
    (b"{\"signature\":\"a\",\"signee\":\"b\",\"limit\":2}", "bad_request", "limit"),
    (
        b"{\"signature\":\"a\",\"signee\":\"b\",\"respond\":\"later\",\"wait_ms\":1}",
        "bad_request",
        "respond",
    ),
    (b"{\"signature\":\"a\",\"signee\":\"b\",\"respond\":\"queued\"}", "bad_request", "wait_ms"),
    (b"{\"signature\":\"a\",\"signee\":\"b\",\"session\":\"1\"}", "bad_request", "session"),
    (b"{\"signature\":\"a\",\"signee\":\"b\",\"lock_delay_ms\":60001}", "bad_request", "lock"),
    (b"{\"signature\":\"a\",\"signee\":\"b\",\"token\":1,\"wait_ms\":1}", "bad_request", "exclude"),
    (
        b"{\"signature\":\"a\",\"signee\":\"b\",\"force\":true,\"wait_ms\":1}",
        "bad_request",
        "exclude",
    ),
    (b"{\"signature\":\"a\",\"signee\":\"b\",\"token\":-1}", "bad_request", "token"),
    (b"{\"signature\":\"a\",\"signee\":\"b\",\"token\":9007199254740992}", "bad_request", "token"),
    (b"{\"signature\":\"a\",\"signee\":\"b\",\"duration_ms\":0}", "bad_request", "duration"),
    (
        b"{\"signature\":\"a\",\"signee\":\"b\",\"duration_ms\":-5}",
        "bad_request",
        "duration_ms: -5 is not a whole number, 0 or more",
    ),
    (
        b"{\"signature\":\"a\",\"signee\":\"b\",\"duration_ms\":31622400001}",
        "bad_request",
        "duration",
    ),
    (
        b"{\"signature\":\"a\",\"signee\":\"b\",\"duration_ms\":18446744073709551615}",
        "bad_request",
        "duration_ms is out of range",
    ),
    (
        b"{\"signature\":\"a\",\"signee\":\"b\",\"duration_ms\":20,\"time_to_live_ms\":10}",
        "bad_request",
        "time_to_live",
    ),
    (
        b"{\"signature\":\"a\",\"signee\":\"b\",\"force\":1}",
        "bad_request",
        "force: invalid type: integer",
    ),
    (b"{\"signature\":\"a\",\"signee\":\"b\",\"table\":\"\"}", "bad_request", "table"),
    (
        b"{\"signature\":\"a\",\"signee\":\"b\",\"request_id\":\"7\"}",
        "bad_request",
        "32 hexadecimal digits",
    ),
    (b"{\"signature\":\"a\",\"signee\":\"b\",\"request_id\":7}", "bad_request", "request_id"),
    (b"{'signature':'a'}", "bad_request", "key must be a string"),
    (b"{\"signature\":NaN}", "bad_request", "expected value"),
    (b"\xef\xbb\xbf{\"signature\":\"a\",\"signee\":\"b\"}", "bad_request", "JSON object"),
];

#[tokio::test]
async fn a_wrong_body_is_refused_and_says_what_is_wrong() {
    let (server, _) = Server::memory().await;
    for (body, code, detail) in BODIES {
        let ask = Ask { method: "POST", path: "/v1/lock", headers: JSON, body: Some(body) };
        println!("{}", String::from_utf8_lossy(body));
        server.ask(ask).await.assert_problem(400, code, detail);
    }
    let nested = format!("{{\"signature\":{}", "[".repeat(10_000));
    server.send("POST", "/v1/lock", &nested).await.assert_problem(400, "bad_request", "signature");
    let nested = format!("{{\"x\":{}", "{\"x\":".repeat(10_000));
    server.send("POST", "/v1/lock", &nested).await.assert_problem(400, "unknown_field", "`x`");
    let long = format!(r#"{{"signature":"{}","signee":"b"}}"#, "a".repeat(1025));
    server.send("POST", "/v1/lock", &long).await.assert_problem(400, "bad_request", "1024");
    let locks = server.get("/v1/locks").await.json();
    assert_eq!(locks["locks"].as_array().unwrap().len(), 0, "nothing was locked");
}

#[tokio::test]
async fn the_longest_names_are_taken_however_they_are_escaped() {
    let (server, _) = Server::memory().await;
    let escaped = "\\u0001".repeat(1024);
    let body = format!(
        r#"{{"signature":"{escaped}","signee":"{escaped}","instance":"{escaped}","table":"{escaped}"}}"#
    );
    assert_eq!(server.send("POST", "/v1/lock", &body).await.status, 200);
    let encoded = "%01".repeat(1024);
    let path = format!("/v1/lock?signature={encoded}&table={encoded}");
    assert_eq!(server.get(&path).await.status, 200);
}

#[tokio::test]
async fn a_body_that_is_not_declared_as_plain_json_is_refused() {
    let (server, _) = Server::memory().await;
    let body = Some(br#"{"signature":"a","signee":"b"}"#.as_slice());
    let wrong: &[&[(&str, &str)]] = &[
        &[],
        &[("content-type", "")],
        &[("content-type", "text/plain")],
        &[("content-type", "application/x-www-form-urlencoded")],
        &[("content-type", "application/jsonp")],
        &[("content-type", "application/json; charset=iso-8859-1")],
        &[("content-type", "application/json"), ("content-encoding", "gzip")],
    ];
    for headers in wrong {
        let ask = Ask { method: "POST", path: "/v1/lock", headers, body };
        server.ask(ask).await.assert_problem(415, "unsupported_media_type", "");
    }
    for good in ["application/json", "Application/JSON", "application/json; charset=UTF-8"] {
        let headers = &[("content-type", good)];
        let ask = Ask { method: "POST", path: "/v1/lock", headers, body };
        assert_eq!(server.ask(ask).await.status, 200, "{good}");
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_with_and_without_a_declared_length() {
    let (server, _) = Server::memory().await;
    let large = vec![b' '; 64 * 1024 + 1];
    let ask = Ask { method: "POST", path: "/v1/lock", headers: JSON, body: Some(&large) };
    server.ask(ask).await.assert_problem(413, "too_large", "65536 bytes");
    let mut full = br#"{"signature":"a","signee":"b"}"#.to_vec();
    full.resize(64 * 1024, b' ');
    let ask = Ask { method: "POST", path: "/v1/lock", headers: JSON, body: Some(&full) };
    assert_eq!(server.ask(ask).await.status, 200, "the limit itself is allowed");
    let chunk = format!("{:x}\r\n{}\r\n", 64 * 1024 + 1, " ".repeat(64 * 1024 + 1));
    let head = "POST /v1/lock HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                transfer-encoding: chunked\r\n\r\n";
    let answer = super::limits::exchange(&server, &format!("{head}{chunk}")).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn a_wrong_query_is_refused_and_says_what_is_wrong() {
    let (server, _) = Server::memory().await;
    let wrong = [
        ("/v1/lock", "bad_request", "missing field `signature`"),
        ("/v1/lock?signature=", "bad_request", "signature"),
        ("/v1/lock?signature=a&signature=b", "bad_request", "duplicate field `signature`"),
        ("/v1/lock?signature=%FF", "bad_request", "UTF-8"),
        ("/v1/lock?signature=%C3%28", "bad_request", "UTF-8"),
        ("/v1/lock?signature=a%", "bad_request", "UTF-8"),
        ("/v1/lock?signature=a%00", "bad_request", "signature"),
        ("/v1/lock?signature=a&stale=yes", "bad_request", "stale"),
        ("/v1/lock?signature=a&tabel=x", "unknown_field", "unknown field `tabel`"),
        ("/v1/locks?limit=0", "bad_request", "limit"),
        ("/v1/locks?limit=1001", "bad_request", "limit"),
        ("/v1/locks?limit=-1", "bad_request", "limit"),
        ("/v1/locks?limit=99999999999", "bad_request", "limit"),
        ("/v1/locks?limit=ten", "bad_request", "limit"),
        ("/v1/locks?limit=1.0", "bad_request", "`1.0` is not a whole number"),
        ("/v1/locks?page=2", "unknown_field", "`page`"),
        ("/v1/lock?signature=a+b", "bad_request", "%20 for a space, %2B for a plus"),
        ("/v1/tables?table=x", "unknown_field", "`table`"),
    ];
    for (path, code, detail) in wrong {
        println!("{path}");
        server.get(path).await.assert_problem(400, code, detail);
    }
    let told =
        server.send("POST", "/v1/lock?force=true", r#"{"signature":"a","signee":"b"}"#).await;
    told.assert_problem(400, "unknown_field", "query");
}

#[tokio::test]
async fn headers_of_the_api_are_checked() {
    let (server, _) = Server::memory().await;
    let path = "/v1/lock?signature=a";
    for timeout in ["0", "60001", "-1", "5s", "", "99999999999999999999"] {
        let headers = &[("keyward-timeout-ms", timeout)];
        let told = server.ask(Ask { path, headers, ..Ask::default() }).await;
        told.assert_problem(400, "bad_request", "keyward-timeout-ms");
    }
    let long = "x".repeat(257);
    let told =
        server.ask(Ask { path, headers: &[("keyward-cause", &long)], ..Ask::default() }).await;
    told.assert_problem(400, "bad_request", "keyward-cause");
    let headers = &[("keyward-timeout-ms", "60000"), ("x-request-id", "job-7/3")];
    let told = server.ask(Ask { path, headers, ..Ask::default() }).await;
    assert_eq!((told.status, told.header("x-request-id")), (404, "job-7/3"));
    let told =
        server.ask(Ask { path, headers: &[("x-request-id", "no good")], ..Ask::default() }).await;
    assert_eq!(told.header("x-request-id").len(), 32, "replaced by one that may be logged");
}

#[tokio::test]
async fn wrong_paths_and_methods_are_problems_too() {
    let (server, _) = Server::memory().await;
    for path in [
        "//",
        "/index.html",
        "/v1",
        "/v1/lock/",
        "/v1/lock/a",
        "/v2/lock",
        "/v1/cluster",
        "/debug/advance",
    ] {
        server.get(path).await.assert_problem(404, "no_such_path", "/openapi.json");
    }
    let cases = [
        ("PUT", "/v1/lock", "GET,HEAD,POST"),
        ("GET", "/v1/unlock", "POST"),
        ("POST", "/v1/table", "DELETE,PUT"),
        ("OPTIONS", "/v1/lock", "GET,HEAD,POST"),
        ("DELETE", "/healthz", "GET,HEAD"),
        ("POST", "/", "GET,HEAD"),
    ];
    for (method, path, allowed) in cases {
        let told = server.ask(Ask { method, path, ..Ask::default() }).await;
        told.assert_problem(405, "method_not_allowed", "");
        let mut methods: Vec<_> = told.header("allow").split(',').collect();
        methods.sort_unstable();
        assert_eq!(methods.join(","), allowed, "{method} {path}");
    }
    let head = Ask { method: "HEAD", path: "/healthz", ..Ask::default() };
    let told = server.ask(head).await;
    assert_eq!((told.status, told.body.len()), (200, 0));
    let length = server.get("/healthz").await.body.len().to_string();
    assert_eq!(told.header("content-length"), length, "as GET would answer");
    let told =
        server.ask(Ask { method: "HEAD", path: "/v1/lock?signature=x", ..Ask::default() }).await;
    assert_eq!((told.status, told.body.len()), (404, 0));
}

/// Heads that a proxy in between might read in another way, or that a browser was tricked into.
#[tokio::test]
async fn ambiguous_heads_are_refused() {
    let (server, _) = Server::memory().await;
    let post = "content-type: application/json\r\n";
    let body = r#"{"signature":"a","signee":"b"}"#;
    let length = format!("content-length: {}\r\n", body.len());
    let chunk = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let table = [
        (200, format!("host: x\r\n{post}{length}\r\n{body}")),
        (200, format!("host: x\r\n{post}transfer-encoding: chunked\r\n\r\n{chunk}")),
        (400, format!("{post}{length}\r\n{body}")),
        (400, format!("host: x\r\nhost: y\r\n{post}{length}\r\n{body}")),
        (400, format!("host: x\r\n{post}transfer-encoding: gzip, chunked\r\n\r\n{chunk}")),
        (400, format!("host: x\r\n{post}{length}expect: fish\r\n\r\n{body}")),
        (400, format!("host: x\r\n{post}{post}content-type: text/plain\r\n{length}\r\n{body}")),
        (
            400,
            format!(
                "host: evil.example\r\norigin: http://evil.example\r\n{post}{length}\r\n{body}"
            ),
        ),
    ];
    for (status, rest) in table {
        let told =
            super::limits::exchange(&server, &format!("POST /v1/lock HTTP/1.1\r\n{rest}")).await;
        assert!(told.starts_with(&format!("HTTP/1.1 {status} ")), "{rest:?}: {told}");
        assert_eq!(told.contains("\"code\":\"bad_request\""), status == 400, "{told}");
    }
    for path in ["/v1/locks", "/no/such/path", "/metrics"] {
        let ask = format!("GET {path} HTTP/1.1\r\n\r\n");
        let told = super::limits::exchange(&server, &ask).await;
        assert!(told.starts_with("HTTP/1.1 400 "), "{path}: {told}");
    }
}

/// Valid requests with bytes that were changed, dropped or repeated. Each ends in an answer below
/// 500 or in the end of its connection, and the listener continues to serve.
#[tokio::test]
async fn random_damage_is_refused_and_harms_nobody() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let limits = Limits { head_timeout: Duration::from_millis(20), ..Limits::default() };
    let limits = Limits { body_timeout: Duration::from_millis(20), ..limits };
    let server = Server::start(
        MemoryLocks::new(),
        ListenerSettings { terms: limits.into(), ..ListenerSettings::default() },
    )
    .await;
    let body = r#"{"signature":"a","signee":"b","level":7,"duration_ms":30000,"token":1}"#;
    let right = [
        format!(
            "POST /v1/lock HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        ),
        "GET /v1/locks?prefix=a%20b&limit=10 HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
    ];
    for _ in 0..300 {
        let mut bytes = right[random.random_range(0..right.len())].clone().into_bytes();
        for _ in 0..random.random_range(1..6) {
            let at = random.random_range(0..bytes.len());
            match random.random_range(0..4) {
                0 => bytes[at] = random.random(),
                1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, random.random()),
                _ => bytes.extend_from_within(at..),
            }
        }
        let told = super::limits::exchange_bytes(&server, &bytes).await;
        let status = told.strip_prefix("HTTP/1.1 ").map(|rest| rest[..3].parse::<u16>().unwrap());
        assert!(status.is_none_or(|status| status < 500), "{told} to {}", bytes.escape_ascii());
    }
    assert_eq!(server.get("/healthz").await.status, 200);
}
