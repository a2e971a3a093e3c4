//! Clients that send too much, too slowly or nothing at all, and their effect on other clients.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Failing, ListenerSettings, Server};
use crate::budget::Budget;
use crate::http::Limits;
use crate::memory::MemoryLocks;
use crate::service::LockService as _;
use crate::types::{LockOptions, LockRequest};

/// The time within which every expected event happens.
pub(super) const BOUND: Duration = Duration::from_secs(10);
pub(super) const HEALTHZ: &str = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";

async fn with(limits: Limits) -> Server {
    Server::start(
        MemoryLocks::new(),
        ListenerSettings { terms: limits.into(), ..ListenerSettings::default() },
    )
    .await
}

/// So many connections, which all may be of one address.
pub(super) fn connections(connections: usize) -> Limits {
    Limits { connections, address_connections: Some(usize::MAX), ..Limits::default() }
}

pub(super) async fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(server.address).await.unwrap()
}

/// Sends a request, and reads until the answer is complete or the connection ends.
pub(super) async fn exchange(server: &Server, text: &str) -> String {
    exchange_bytes(server, text.as_bytes()).await
}

/// As [`exchange`], with bytes that need not be text.
pub(super) async fn exchange_bytes(server: &Server, bytes: &[u8]) -> String {
    let mut stream = connect(server).await;
    // The other side may close the connection before all is written.
    let _ = stream.write_all(bytes).await;
    answer(&mut stream).await
}

/// Reads one answer, or the part of it that arrives before the connection ends.
pub(super) async fn answer(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    let whole = async {
        while !is_whole(&read) {
            let mut bytes = [0; 4096];
            match stream.read(&mut bytes).await {
                Ok(0) | Err(_) => break,
                Ok(count) => read.extend_from_slice(&bytes[..count]),
            }
        }
    };
    tokio::time::timeout(BOUND, whole).await.expect("an answer or an end in time");
    String::from_utf8(read).unwrap()
}

fn is_whole(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    length.is_some_and(|length| body.len() >= length.parse().unwrap())
}

#[tokio::test]
async fn a_head_that_is_never_finished_ends_its_connection() {
    let server =
        with(Limits { head_timeout: Duration::from_millis(50), ..Limits::default() }).await;
    assert_eq!(exchange(&server, "").await, "", "not even begun");
    assert_eq!(exchange(&server, "GET /healthz HTTP/1.1\r\nx: ").await, "", "begun");
    let mut stream = connect(&server).await;
    stream.write_all(HEALTHZ.as_bytes()).await.unwrap();
    assert!(answer(&mut stream).await.starts_with("HTTP/1.1 200 "));
    assert_eq!(answer(&mut stream).await, "", "idle after an answer");
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let server = with(Limits { head_bytes: 2048, header_fields: 8, ..Limits::default() }).await;
    let large = format!("GET /healthz HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(8000));
    assert!(exchange(&server, &large).await.starts_with("HTTP/1.1 431 "));
    let many = format!("GET /healthz HTTP/1.1\r\nhost: x\r\n{}\r\n", "x: y\r\n".repeat(9));
    assert!(exchange(&server, &many).await.starts_with("HTTP/1.1 431 "));
    assert!(
        exchange(&server, "\u{16}\u{3}\u{1} nonsense\r\n\r\n").await.starts_with("HTTP/1.1 400 ")
    );
    assert!(exchange(&server, HEALTHZ).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_not_waited_for() {
    let server =
        with(Limits { body_timeout: Duration::from_millis(50), ..Limits::default() }).await;
    let head = "POST /v1/lock HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                content-length: 30\r\n\r\n{\"sign";
    let told = exchange(&server, head).await;
    assert!(told.starts_with("HTTP/1.1 408 ") && told.contains("\"code\":\"timeout\""), "{told}");
}

#[tokio::test]
async fn a_length_that_is_only_declared_takes_no_memory_from_others() {
    let settings =
        ListenerSettings { budget: Budget::new(100 << 10), ..ListenerSettings::default() };
    let server = Server::start(MemoryLocks::new(), settings).await;
    let head = |length: usize| {
        format!(
            "POST /v1/batch HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n"
        )
    };
    let mut declaring = Vec::new();
    for _ in 0..8 {
        let mut stream = connect(&server).await;
        stream.write_all(format!("{}{{", head(90 << 10)).as_bytes()).await.unwrap();
        declaring.push(stream);
    }
    let body = |bytes: usize| format!("{{\"requests\":[{}]}}", " ".repeat(bytes));
    let large = body(80 << 10);
    let told = exchange(&server, &format!("{}{large}", head(large.len()))).await;
    assert!(told.starts_with("HTTP/1.1 200 "), "it is read: {told}");
    // Bytes are counted as they arrive: there is room for three of the bodies.
    let (sender, mut refused) = tokio::sync::mpsc::channel(8);
    for mut stream in declaring {
        stream.write_all(" ".repeat(30 << 10).as_bytes()).await.unwrap();
        let sender = sender.clone();
        tokio::spawn(async move { sender.send(answer(&mut stream).await).await });
    }
    for _ in 0..5 {
        let told = refused.recv().await.expect("five have no room");
        assert!(told.starts_with("HTTP/1.1 503 "), "{told}");
    }
}

#[tokio::test]
async fn a_client_that_waits_to_be_asked_is_told_before_it_sends() {
    let server = with(Limits::default()).await;
    let head = "POST /v1/lock HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                content-length: 1000000\r\nexpect: 100-continue\r\n\r\n";
    assert!(exchange(&server, head).await.starts_with("HTTP/1.1 413 "));
}

#[tokio::test]
async fn those_who_wait_longest_make_room_for_newcomers() {
    let server = with(connections(4)).await;
    let mut idle = Vec::new();
    for _ in 0..4 {
        let mut stream = connect(&server).await;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nslow: ").await.unwrap();
        idle.push(stream);
    }
    let mut newcomers = Vec::new();
    for _ in 0..4 {
        let mut stream = connect(&server).await;
        stream.write_all(HEALTHZ.as_bytes()).await.unwrap();
        assert!(answer(&mut stream).await.starts_with("HTTP/1.1 200 "));
        newcomers.push(stream);
    }
    for mut stream in idle {
        assert_eq!(answer(&mut stream).await, "", "a slow client was put out");
    }
}

#[tokio::test]
async fn when_every_place_is_at_work_newcomers_are_refused_cleanly() {
    let limits = connections(2);
    let server = Server::start(
        Failing(None),
        ListenerSettings { terms: limits.into(), ..ListenerSettings::default() },
    )
    .await;
    let hang = "GET /v1/tables HTTP/1.1\r\nhost: x\r\nkeyward-timeout-ms: 60000\r\n\r\n";
    let mut working = Vec::new();
    for _ in 0..2 {
        let mut stream = connect(&server).await;
        stream.write_all(hang.as_bytes()).await.unwrap();
        working.push(stream);
    }
    // The two are active once the listener has read them; until then they may be evicted.
    let refused = async {
        loop {
            let told = answer(&mut connect(&server).await).await;
            if told.starts_with("HTTP/1.1 503 ") {
                return told;
            }
        }
    };
    let told = tokio::time::timeout(BOUND, refused).await.unwrap();
    assert!(told.contains("\"code\":\"unavailable\""), "{told}");
    assert!(told.contains("retry-after: 1\r\n") && told.contains("connection: close\r\n"));
}

#[tokio::test]
async fn a_thousand_idle_connections_harm_nobody() {
    let server = with(connections(64)).await;
    let mut crowd = Vec::new();
    for at in 0..1000 {
        crowd.push(connect(&server).await);
        if at % 100 == 99 {
            assert!(exchange(&server, HEALTHZ).await.starts_with("HTTP/1.1 200 "));
        }
        // The test must not run out of descriptors itself.
        if crowd.len() > 200 {
            crowd.remove(0);
        }
    }
    assert!(exchange(&server, HEALTHZ).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_listener_that_stops_finishes_requests_and_closes_idle_connections() {
    let mut server = Server::start(Failing(None), ListenerSettings::default()).await;
    let mut idle = connect(&server).await;
    let mut working = connect(&server).await;
    let hang = "GET /v1/tables HTTP/1.1\r\nhost: x\r\nkeyward-timeout-ms: 300\r\n\r\n";
    working.write_all(hang.as_bytes()).await.unwrap();
    assert!(exchange(&server, HEALTHZ).await.starts_with("HTTP/1.1 200 "));
    server.tell_to_stop();
    assert!(answer(&mut working).await.starts_with("HTTP/1.1 503 "), "its answer still came");
    assert_eq!(answer(&mut idle).await, "");
    let address = server.address;
    server.stopped().await;
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_listener_that_stops_does_not_wait_for_ever() {
    let limits = Limits { shutdown_grace: Duration::from_millis(50), ..Limits::default() };
    let mut server = Server::start(
        Failing(None),
        ListenerSettings { terms: limits.into(), ..ListenerSettings::default() },
    )
    .await;
    let mut working = connect(&server).await;
    let hang = "GET /v1/tables HTTP/1.1\r\nhost: x\r\nkeyward-timeout-ms: 60000\r\n\r\n";
    working.write_all(hang.as_bytes()).await.unwrap();
    assert!(exchange(&server, HEALTHZ).await.starts_with("HTTP/1.1 200 "));
    server.tell_to_stop();
    server.stopped().await;
    assert_eq!(answer(&mut working).await, "", "cut without an answer");
}

#[tokio::test]
async fn a_client_that_has_sent_all_it_will_send_still_gets_its_answer() {
    let server = Server::start(Failing(None), ListenerSettings::default()).await;
    for version in ["1.0", "1.1"] {
        let mut stream = connect(&server).await;
        let ask =
            format!("GET /v1/tables HTTP/{version}\r\nhost: x\r\nkeyward-timeout-ms: 100\r\n\r\n");
        stream.write_all(ask.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let told = answer(&mut stream).await;
        assert!(told.starts_with(&format!("HTTP/{version} 503 ")), "{version}: {told:?}");
        assert_eq!(answer(&mut stream).await, "", "and its connection ends");
    }
}

/// A connection with a request for the lock `s` that waits.
async fn wait_for_lock(server: &Server, signee: &str) -> TcpStream {
    let body = format!(r#"{{"signature":"s","signee":"{signee}","wait_ms":50000}}"#);
    let mut stream = connect(server).await;
    let head = "POST /v1/lock HTTP/1.1\r\nhost: x\r\ncontent-type: application/json";
    let ask = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(ask.as_bytes()).await.unwrap();
    stream
}

async fn waiting(server: &Server) -> u64 {
    server.get("/v1/lock?signature=s").await.json()["waiting"].as_u64().unwrap_or(0)
}

async fn until_waiting(server: &Server, count: u64) {
    let reached = async {
        while waiting(server).await != count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(BOUND, reached).await.expect("in time");
}

#[tokio::test]
async fn who_waits_for_a_lock_and_closes_its_connection_leaves_its_place() {
    let (server, _clock) = Server::memory().await;
    server.send("POST", "/v1/lock", r#"{"signature":"s","signee":"ann"}"#).await;
    let mut stays = wait_for_lock(&server, "bob").await;
    until_waiting(&server, 1).await;
    // Who sends its next request already is not gone.
    stays.write_all(HEALTHZ.as_bytes()).await.unwrap();
    let gone = wait_for_lock(&server, "cid").await;
    let mut half_closed = wait_for_lock(&server, "dan").await;
    until_waiting(&server, 3).await;
    drop(gone);
    half_closed.shutdown().await.unwrap();
    assert_eq!(answer(&mut half_closed).await, "", "it is closed without an answer");
    until_waiting(&server, 1).await;
    server.send("POST", "/v1/unlock", r#"{"signature":"s","signee":"ann"}"#).await;
    let told = answer(&mut stays).await;
    assert!(told.starts_with("HTTP/1.1 200 ") && told.contains(r#""token":2"#), "{told}");
}

/// Locks whose names are as long as they may be, so that a page of them is about 2 MB.
pub(super) async fn long_names(count: usize) -> MemoryLocks {
    let locks = MemoryLocks::new();
    for number in 0..count {
        let signature = format!("{number:0>1024}");
        let request = LockRequest { signature, signee: "w".repeat(1024), level: None };
        locks.lock(request, LockOptions::default()).await.unwrap();
    }
    locks
}

/// A connection that requests a page and does not read it, with a small receive buffer.
pub(super) async fn slow_reader(server: &Server) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(server.address).await.unwrap();
    let page = b"GET /v1/locks?limit=1000 HTTP/1.1\r\nhost: x\r\n\r\n";
    stream.write_all(page).await.unwrap();
    // Its answer has begun.
    stream.readable().await.unwrap();
    stream
}

#[tokio::test]
async fn an_answer_that_is_being_written_is_not_cut_off_to_make_room() {
    let limits = connections(4);
    let settings = ListenerSettings { terms: limits.into(), ..ListenerSettings::default() };
    let server = Server::start(long_names(1000).await, settings).await;
    let mut reading = slow_reader(&server).await;
    for _ in 0..8 {
        assert!(exchange(&server, HEALTHZ).await.starts_with("HTTP/1.1 200 "));
    }
    let page = answer(&mut reading).await;
    assert!(is_whole(page.as_bytes()), "{} bytes came", page.len());
}

#[tokio::test]
async fn clients_are_told_how_long_a_connection_may_be_idle() {
    let server = with(Limits { head_timeout: Duration::from_secs(7), ..Limits::default() }).await;
    let told = exchange(&server, HEALTHZ).await;
    assert!(told.contains("keep-alive: timeout=7\r\n"), "{told}");
    assert!(told.ends_with("}\n"), "{told:?}");
}
