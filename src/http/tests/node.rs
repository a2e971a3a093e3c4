//! The answers of a node about itself.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use futures::future::BoxFuture;
use serde_json::json;

use super::super::dispatch::all_routes;
use super::super::{ListenerSettings, LocalNode, openapi_document};
use super::{Ask, Server};
use crate::api::{ClusterStatus, HistogramFigures, MemberStatus, NodeFigures, NodeRole, routes};
use crate::error::Error;
use crate::memory::MemoryLocks;
use crate::service::LockService;
use crate::types::{LockOptions, LockRequest};

/// A node that says about itself what a test wants.
#[derive(Clone, Default)]
struct Fake {
    cluster: Option<String>,
    status: Option<ClusterStatus>,
    not_ready: Arc<Mutex<Option<String>>>,
    figures: Option<NodeFigures>,
    moved: Arc<Mutex<Duration>>,
}

impl LocalNode for Fake {
    fn cluster(&self) -> Option<String> {
        self.cluster.clone()
    }

    fn status(&self) -> Option<ClusterStatus> {
        self.status.clone()
    }

    fn ready(&self) -> Result<(), String> {
        self.not_ready.lock().unwrap().clone().map_or(Ok(()), Err)
    }

    fn figures(&self) -> Option<NodeFigures> {
        self.figures.clone()
    }

    fn advance(&self, by: Duration) -> BoxFuture<'_, Result<(), Error>> {
        *self.moved.lock().unwrap() += by;
        Box::pin(std::future::ready(Ok(())))
    }
}

pub(super) fn status() -> ClusterStatus {
    ClusterStatus {
        cluster_id: Some("c".into()),
        id: 1,
        uuid: "u".into(),
        version: "0".into(),
        supported_level: 1,
        feature_level: 1,
        role: NodeRole::Leader,
        not_ready: None,
        leader: Some(1),
        leader_address: Some("http://n1:7420".into()),
        term: 3,
        vote: Some(1),
        last_log_index: Some(9),
        committed_index: Some(9),
        applied_index: Some(8),
        snapshot_index: None,
        purged_index: None,
        differences: Vec::new(),
        members: vec![MemberStatus {
            id: 1,
            uuid: Some("u".into()),
            peer_address: "n1:7421".into(),
            client_address: None,
            voter: true,
            matched_index: Some(9),
            lag: Some(0),
            last_acknowledged_ms: None,
        }],
    }
}

#[tokio::test]
async fn health_readiness_and_the_cluster_are_told() {
    let node = Fake { status: Some(status()), ..Fake::default() };
    *node.not_ready.lock().unwrap() = Some("waits for nodes 2 and 3".to_owned());
    let server = Server::of_node(node.clone()).await;
    assert_eq!(server.get("/healthz").await.json(), json!({"status": "ok"}));
    server.get("/readyz").await.assert_problem(503, "unavailable", "waits for nodes 2 and 3");
    *node.not_ready.lock().unwrap() = None;
    assert_eq!(server.get("/readyz").await.status, 200);
    let cluster: ClusterStatus =
        serde_json::from_slice(&server.get("/v1/cluster").await.body).unwrap();
    assert_eq!(cluster, status());
    let told = server.send("POST", "/debug/advance", r#"{"by_ms":1500}"#).await;
    assert_eq!((told.status, *node.moved.lock().unwrap()), (200, Duration::from_millis(1500)));
}

#[tokio::test]
async fn a_browser_sees_a_page_at_the_root_and_others_a_document() {
    let hostile = "http://a\"><script>alert('x')</script>&";
    let told = ClusterStatus {
        leader: Some(2),
        leader_address: Some(hostile.into()),
        cluster_id: Some("<b>c1</b>".into()),
        ..status()
    };
    let not_ready = Arc::new(Mutex::new(Some("waits for <i>".to_owned())));
    let node = Fake { status: Some(told), not_ready, ..Fake::default() };
    let server = Server::of_node(node).await;
    let browser = &[("accept", "text/html,application/xhtml+xml,*/*;q=0.8")];
    let page = server.ask(Ask { path: "/", headers: browser, ..Ask::default() }).await;
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    assert!(page.header("content-security-policy").starts_with("default-src 'none'"));
    let text = String::from_utf8(page.body.clone()).unwrap();
    for path in ["/readyz", "/healthz", "/metrics", "/v1/cluster", "/openapi.json"] {
        assert!(text.contains(&format!("<a href=\"{path}\">")), "{path}: {text}");
    }
    assert!(text.contains("Keyward node 1") && text.contains("&lt;b&gt;c1&lt;/b&gt;"), "{text}");
    assert!(
        text.contains("node 2 at http://a&quot;&gt;&lt;script&gt;alert(&#39;x&#39;)"),
        "{text}"
    );
    for tag in ["<script", "<b>", "<i>", "<link", "<img", " src="] {
        assert!(!text.contains(tag), "{tag}: {text}");
    }
    for headers in [&[][..], &[("accept", "*/*")], &[("accept", "application/json")]] {
        let told = server.ask(Ask { path: "/", headers, ..Ask::default() }).await;
        assert_eq!((told.status, told.header("content-type")), (200, "application/json"));
        let document = told.json();
        assert_eq!(document["service"], "keyward", "{document}");
        assert_eq!((&document["node"], &document["ready"]), (&json!(1), &json!(false)));
        assert_eq!(document["reason"], "waits for <i>", "{document}");
    }
    let (plain, _) = Server::memory().await;
    let page = plain.ask(Ask { path: "/", headers: browser, ..Ask::default() }).await;
    let text = String::from_utf8(page.body).unwrap();
    assert!(!text.contains("/v1/cluster"), "a path that this listener does not have: {text}");
}

/// A listener of a node of this cluster.
async fn of_cluster(id: &'static str) -> Server {
    Server::of_node(Fake { cluster: Some(id.to_owned()), ..Fake::default() }).await
}

#[tokio::test]
async fn answers_name_their_cluster_and_requests_for_another_one_are_refused() {
    let server = of_cluster("c1").await;
    for path in ["/healthz", "/v1/lock?signature=a", "/v1/locks", "/nothing"] {
        let told = server.get(path).await;
        assert_eq!(told.headers["keyward-cluster"], "c1", "{path}");
    }
    for (meant, status) in [("c1", 404), ("c2", 400)] {
        for path in ["/v1/lock?signature=a", "/v1/locks?limit=0"] {
            let headers = &[("keyward-cluster", meant)];
            let told = server.ask(Ask { path, headers, ..Ask::default() }).await;
            if meant == "c2" {
                told.assert_problem(400, "bad_request", "of different clusters");
            } else if !path.contains("limit") {
                assert_eq!(told.status, status, "{path}");
            }
        }
    }
}

#[tokio::test]
async fn a_client_notices_endpoints_of_different_clusters() {
    let (one, two) = (of_cluster("c1").await, of_cluster("c2").await);
    let endpoints = [one.url(""), two.url("")];
    let client = crate::Client::builder().endpoints(endpoints).build().unwrap();
    let lock = async || {
        let request = LockRequest { signature: "a".into(), signee: "s".into(), level: None };
        let duration = Some(Duration::from_secs(60));
        client.lock(request, LockOptions { duration, ..LockOptions::default() }).await
    };
    assert!(lock().await.unwrap().ok());
    one.stop().await;
    let error = lock().await.unwrap_err().to_string();
    assert!(error.contains("of different clusters") && error.contains("c2"), "{error}");
    let direct = two.get("/v1/lock?signature=a").await;
    assert_eq!(direct.status, 404, "nothing was done in the other cluster");
}

#[tokio::test]
async fn the_figures_are_in_the_format_of_prometheus() {
    let figures = NodeFigures {
        locks_held: 3,
        term: 7,
        leader: Some(2),
        applied_index: Some(41),
        log_bytes: 4096,
        snapshot_postponed: true,
        forwarded: 5,
        held_seconds: vec![(
            "expired",
            HistogramFigures { buckets: vec![(30.0, 2)], sum: 90.5, count: 3 },
        )],
        locks_lost: vec![("expired", 3), ("table_deleted", 8)],
        places: 11,
        places_max: 1_000_000,
        sessions: 4,
        sessions_max: 100_000,
        wait_seconds: vec![(
            "granted",
            HistogramFigures { buckets: vec![(5.0, 6)], sum: 7.5, count: 7 },
        )],
        sessions_ended: vec![("closed", 2), ("expired", 1)],
        fsync_seconds: Some(HistogramFigures { buckets: vec![(0.001, 2)], sum: 0.25, count: 4 }),
        ..NodeFigures::default()
    };
    let server = Server::of_node(Fake { figures: Some(figures), ..Fake::default() }).await;
    server.send("POST", "/v1/lock", r#"{"signature":"a","signee":"b"}"#).await;
    server.send("POST", "/v1/lock", r#"{"signature":"a","signee":"c"}"#).await;
    server.ask(Ask { path: "/some/path", ..Ask::default() }).await;
    let told = server.get("/metrics").await;
    assert!(told.header("content-type").starts_with("text/plain; version=0.0.4"));
    let page = String::from_utf8(told.body).unwrap();
    for line in [
        r#"keyward_requests_total{method="POST",route="/v1/lock",outcome="ok"} 1"#,
        r#"keyward_requests_total{method="POST",route="/v1/lock",outcome="forbidden"} 1"#,
        r#"keyward_requests_total{method="GET",route="other",outcome="no_such_path"} 1"#,
        r#"keyward_request_seconds_count{method="POST",route="/v1/lock"} 2"#,
        "keyward_requests_in_flight 1",
        "keyward_connections_accepted_total 4",
        "keyward_locks_held 3",
        "keyward_raft_term 7",
        "keyward_raft_leader_id 2",
        "keyward_raft_is_leader 0",
        "keyward_raft_applied_index 41",
        "keyward_log_bytes 4096",
        "keyward_snapshot_postponed 1",
        "keyward_forwarded_requests_total 5",
        r#"keyward_hold_seconds_bucket{end="expired",le="30"} 2"#,
        r#"keyward_hold_seconds_bucket{end="expired",le="+Inf"} 3"#,
        r#"keyward_hold_seconds_sum{end="expired"} 90.5"#,
        r#"keyward_hold_seconds_count{end="expired"} 3"#,
        r#"keyward_locks_lost_total{reason="expired"} 3"#,
        r#"keyward_locks_lost_total{reason="table_deleted"} 8"#,
        "keyward_places 11",
        "keyward_places_max 1000000",
        r#"keyward_wait_seconds_bucket{end="granted",le="5"} 6"#,
        r#"keyward_wait_seconds_count{end="granted"} 7"#,
        "keyward_sessions 4",
        "keyward_sessions_max 100000",
        r#"keyward_sessions_ended_total{end="closed"} 2"#,
        r#"keyward_sessions_ended_total{end="expired"} 1"#,
        r#"keyward_log_fsync_seconds_bucket{le="0.001"} 2"#,
        r#"keyward_log_fsync_seconds_bucket{le="+Inf"} 4"#,
        "keyward_log_fsync_seconds_sum 0.25",
    ] {
        assert!(page.lines().any(|told| told == line), "{line} is not in:\n{page}");
    }
    assert!(
        page.contains(
            r#"keyward_request_seconds_bucket{method="POST",route="/v1/lock",le="10"} 2"#
        )
    );
    assert!(!page.contains("keyward_raft_committed_index"), "what is not known is not told");
    for line in page.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let value = line.rsplit(' ').next().unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
}

#[tokio::test]
async fn the_description_has_every_route_and_every_field() {
    let server = Server::start(MemoryLocks::new(), ListenerSettings::default()).await;
    let document = server.get("/openapi.json").await.json();
    let made = serde_json::to_value(openapi_document()).unwrap();
    assert_eq!(document, made);
    let paths = document["paths"].as_object().unwrap();
    let described = paths.iter().flat_map(|(path, operations)| {
        operations.as_object().unwrap().keys().map(move |method| format!("{method} {path}"))
    });
    let mut dispatched: Vec<_> = all_routes::<MemoryLocks, Body>()
        .filter(|route| ![routes::ROOT, routes::DEBUG_ADVANCE].contains(&route.path))
        .flat_map(|route| {
            let methods = route.allow().to_lowercase().replace("get,head", "get");
            let named = methods.split(',').map(|method| format!("{method} {}", route.path));
            named.collect::<Vec<_>>()
        })
        .collect();
    dispatched.sort_unstable();
    let mut described: Vec<_> = described.collect();
    described.sort_unstable();
    assert_eq!(described, dispatched);
    let paths: Vec<_> = all_routes::<MemoryLocks, Body>().map(|route| route.path).collect();
    let distinct: BTreeSet<_> = paths.iter().collect();
    assert_eq!(distinct.len(), paths.len(), "operations of one path stand together: {paths:?}");
    let fields = [
        (
            "LockBody",
            "signature signee level duration_ms time_to_live_ms force token instance table request_id",
        ),
        ("UnlockBody", "signature signee token instance table request_id"),
        ("BatchBody", "requests"),
        ("BatchItemAnswer", "lock unlock problem log_position"),
        ("TableBody", "table duration_ms time_to_live_ms request_id"),
        (
            "LockAnswer",
            "status token level expires_in_ms removed_in_ms live previous_signee reason",
        ),
        ("HolderAnswer", "signee instance level token expires_in_ms expired removed_in_ms"),
        ("CheckAnswer", "signature holders"),
        ("ListAnswer", "locks next"),
        ("DeleteAnswer", "status"),
        ("Problem", "type title status code detail reason holders leader"),
        ("ClusterStatus", "id uuid role leader term members"),
    ];
    for (schema, names) in fields {
        let told = &document["components"]["schemas"][schema]["properties"];
        for name in names.split(' ') {
            assert!(told.get(name).is_some(), "{schema} has no {name}: {told}");
        }
    }
    let parameters = document["paths"]["/v1/locks"]["get"]["parameters"].as_array().unwrap();
    for name in ["prefix", "after", "limit", "table", "stale", "Keyward-Timeout-Ms", "X-Request-Id"]
    {
        assert!(parameters.iter().any(|told| told["name"] == name), "{name}: {parameters:?}");
    }
}

/// Checks rules of OpenAPI that a derive macro can miss and that generated clients depend on.
#[tokio::test]
async fn the_description_says_where_parameters_are_and_what_problems_are() {
    let document = serde_json::to_value(openapi_document()).unwrap();
    assert_eq!(document["servers"][0]["url"], "/");
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            for parameter in parameters {
                let place = parameter["in"].as_str().unwrap();
                assert!(matches!(place, "query" | "header"), "{method} {path}: {parameter}");
                let kind = &parameter["schema"]["type"];
                assert!(!kind.is_array(), "{method} {path}: nullable: {parameter}");
            }
            let responses = operation["responses"].as_object().unwrap();
            assert!(responses.contains_key("default"), "{method} {path}");
            for (status, response) in responses {
                let place = format!("{method} {path} {status}");
                assert!(response["headers"]["X-Request-Id"].is_object(), "{place}");
                let content = response["content"].as_object().unwrap();
                let problem = content.contains_key("application/problem+json");
                assert_eq!(problem, !status.starts_with('2'), "{place}: {content:?}");
            }
        }
    }
    let name = &document["components"]["schemas"]["Name"];
    assert_eq!((&name["minLength"], &name["maxLength"]), (&json!(1), &json!(1024)));
}
