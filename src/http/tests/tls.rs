//! The listener with TLS: half handshakes, and the certificate of a client among its request.

use std::fs;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::routing::get;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::limits::connections;
use super::*;
use crate::client::tls::{Tls as ClientTls, http};
use crate::http::{Limits, Terms, serve_connections};
use crate::tls::issue::{Ca, Validity};
use crate::tls::{ClientAuth, Files, PeerCertificate, Tls};

/// The beginning of a handshake that is never finished.
const HALF: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00";

/// TLS with certificates that were just made, and the TLS of a client that they accept.
fn certificates() -> (TempDir, Arc<Tls>, ClientTls) {
    let folder = tempfile::tempdir().unwrap();
    let (ca, issued) = Ca::make("test CA", Validity::days(9)).unwrap();
    let node = ca.node(1, &["127.0.0.1".to_owned()], Validity::days(9)).unwrap();
    let worker = ca.client("worker-1", Validity::days(9)).unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("ca.pem", &issued.certificate);
    write("node.pem", &node.certificate);
    write("node.key", &node.key);
    let files = Files::in_folder(folder.path(), "node");
    let tls = Tls::for_clients(files, ClientAuth::Optional).unwrap();
    let client = ClientTls::default().ca_certificates(issued.certificate);
    (folder, tls, client.identity(worker.certificate, worker.key))
}

async fn with(limits: Limits) -> (Server, reqwest::Client, TempDir) {
    let (folder, tls, client) = certificates();
    let terms = Terms { limits, tls: Some(Arc::clone(&tls)) };
    let settings = ListenerSettings { terms, certificates: vec![tls], ..Default::default() };
    let server = Server::start(MemoryLocks::new(), settings).await;
    (server, http(client.config().unwrap()).build().unwrap(), folder)
}

async fn half(server: &Server, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

/// Waits until the other side has ended the connection.
async fn ended(mut stream: TcpStream) {
    let mut rest = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest));
    // A reset is an end, too.
    read.await.expect("in time").ok();
}

async fn healthz(server: &Server, client: &reqwest::Client) -> u16 {
    let url = server.url("/healthz").replace("http://", "https://");
    client.get(url).send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn a_handshake_that_is_never_finished_ends_its_connection() {
    let limits = Limits { handshake_timeout: Duration::from_millis(50), ..Limits::default() };
    let (server, client, _folder) = with(limits).await;
    for bytes in [HALF, b"\x16", b"", b"GE"] {
        ended(half(&server, bytes).await).await;
    }
    assert_eq!(healthz(&server, &client).await, 200);
    server.stop().await;
}

#[tokio::test]
async fn half_handshakes_make_room_for_newcomers() {
    let (server, client, _folder) = with(connections(2)).await;
    let slow = [half(&server, HALF).await, half(&server, HALF).await];
    assert_eq!(healthz(&server, &client).await, 200);
    let [first, _] = slow;
    ended(first).await;
    server.stop().await;
}

#[tokio::test]
async fn a_listener_that_stops_waits_for_no_handshake() {
    let (server, _, _folder) = with(Limits::default()).await;
    let slow = half(&server, HALF).await;
    server.stop().await;
    ended(slow).await;
}

#[tokio::test]
async fn the_end_of_certificates_is_among_the_metrics() {
    let (server, client, _folder) = with(Limits::default()).await;
    let url = server.url("/metrics").replace("http://", "https://");
    let page = client.get(url).send().await.unwrap().text().await.unwrap();
    for what in ["client", "client_ca"] {
        let series = format!("\nkeyward_certificate_expiry_timestamp_seconds{{use=\"{what}\"}} ");
        let end = page.split_once(&series).expect("it is there").1.lines().next().unwrap();
        let left = end.parse::<u64>().unwrap() - crate::clock::credential_time().as_secs();
        assert!((8 * 86_400..=9 * 86_400).contains(&left), "{left}");
    }
}

#[tokio::test]
async fn a_request_has_the_certificate_of_its_client() {
    let (_folder, tls, client) = certificates();
    let shown = |request: Request| async move {
        let certificate = request.extensions().get::<Arc<PeerCertificate>>();
        certificate.map_or("none".to_owned(), |shown| shown.subject.clone())
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let terms = Terms { tls: Some(tls), ..Terms::default() };
    let router = Router::new().route("/", get(shown));
    let serving = tokio::spawn(serve_connections(listener, router, terms, std::future::pending()));
    let named = http(client.config().unwrap()).build().unwrap();
    for _ in 0..2 {
        let answer = named.get(&url).send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "CN=worker-1");
    }
    serving.abort();
}
