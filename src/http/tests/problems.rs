//! The problem documents for the errors of a service, and for a service that does not answer.

use super::{Ask, Failing, ListenerSettings, LocalNode, Server};
use crate::error::Error;

const BODY: &[u8] = br#"{"signature":"a","signee":"b"}"#;

/// Every operation, as a write or a read.
const OPERATIONS: &[(&str, &str, Option<&[u8]>, bool)] = &[
    ("POST", "/v1/lock", Some(BODY), true),
    ("POST", "/v1/unlock", Some(BODY), true),
    ("PUT", "/v1/table", Some(br#"{"table":"t"}"#), true),
    ("DELETE", "/v1/table?table=t", None, true),
    ("GET", "/v1/lock?signature=a", None, false),
    ("GET", "/v1/locks", None, false),
    ("GET", "/v1/tables", None, false),
];

async fn ask_all(server: &Server, timeout: &str, check: impl Fn(&super::Told, bool)) {
    for (method, path, body, writes) in OPERATIONS {
        let headers = &[("content-type", "application/json"), ("keyward-timeout-ms", timeout)];
        let told = server.ask(Ask { method, path, headers, body: *body }).await;
        check(&told, *writes);
    }
}

#[tokio::test]
async fn unavailable_says_when_to_come_back_and_who_leads() {
    let leader = Some("http://n2:7420".to_owned());
    let error = Error::Unavailable { reason: "no leader".into(), leader, retry_after: None };
    let server = Server::start(Failing(Some(error)), ListenerSettings::default()).await;
    ask_all(&server, "1000", |told, _| {
        told.assert_problem(503, "unavailable", "no leader");
        assert_eq!(told.header("retry-after"), "1");
        assert_eq!(told.header("keyward-leader"), "http://n2:7420");
        assert_eq!(told.json()["leader"], "http://n2:7420");
    })
    .await;
}

#[tokio::test]
async fn unknown_and_unauthorized_have_their_own_codes() {
    let server =
        Server::start(Failing(Some(Error::unknown("cut"))), ListenerSettings::default()).await;
    ask_all(&server, "1000", |told, _| told.assert_problem(504, "unknown", "cut")).await;
    let error = Error::Unauthorized { reason: "who?".into() };
    let server = Server::start(Failing(Some(error)), ListenerSettings::default()).await;
    ask_all(&server, "1000", |told, _| told.assert_problem(401, "unauthorized", "who?")).await;
}

#[tokio::test]
async fn a_service_that_hangs_leaves_writes_unknown_and_reads_unavailable() {
    let server = Server::start(Failing(None), ListenerSettings::default()).await;
    ask_all(&server, "20", |told, writes| {
        if writes {
            told.assert_problem(504, "unknown", "may have been done");
        } else {
            told.assert_problem(503, "unavailable", "no answer in time");
        }
    })
    .await;
}

/// A node with a bug.
struct Broken;

impl LocalNode for Broken {
    fn ready(&self) -> Result<(), String> {
        panic!("a broken invariant")
    }
}

/// A broken invariant must end the process: the panic is passed to the task that awaits the
/// listener.
#[tokio::test]
async fn a_panic_behind_a_handler_ends_the_listener() {
    let server = Server::of_node(Broken).await;
    let mut stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let ask = b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut stream, ask).await.unwrap();
    assert!(server.panicked().await);
}
