//! Access control as it looks from outside, and the matrix: every route and method as every role.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::super::dispatch::all_routes;
use super::super::{ListenerSettings, LocalNode};
use super::{Ask, Server, Told};
use crate::access::{Access, AccessToken, Change, Grantee, Right, Rule, RuleName, Secret};
use crate::api::{ClusterStatus, routes};
use crate::clock::CredentialClock;
use crate::error::Error;
use crate::lock::Command;
use crate::memory::MemoryLocks;
use crate::service::LockService;
use crate::types::CallOptions;

/// A node whose rules are those of locks in memory.
struct Guarded(MemoryLocks);

impl LocalNode for Guarded {
    fn access(&self) -> Option<Arc<Access>> {
        Some(self.0.access())
    }

    fn status(&self) -> Option<ClusterStatus> {
        Some(super::node::status())
    }

    fn advance(&self, _: Duration) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// The secret of a role's token.
fn secret(role: &str) -> Secret {
    let mut bits = [0; 32];
    bits[..role.len()].copy_from_slice(role.as_bytes());
    Secret::of_bits(bits)
}

fn token(role: &str, expires: Option<u64>) -> AccessToken {
    let (hash, identity) = (secret(role).hash(), role.into());
    AccessToken { hash, identity, groups: Vec::new(), expires }
}

async fn put(locks: &MemoryLocks, change: Change) {
    let command = Command::access(change, CallOptions::default());
    locks.decide_one(command, CallOptions::default()).await.unwrap();
}

fn rule(role: &str, pattern: &str, rights: &[Right]) -> Change {
    Change::PutRule(Rule {
        name: RuleName {
            grantee: Grantee::Identity(role.into()),
            table: Some("default".into()),
            pattern: pattern.parse().unwrap(),
        },
        rights: rights.iter().copied().collect(),
        max_level: if rights.contains(&Right::Preempt) { 5 } else { 0 },
        signee: None,
    })
}

/// The roles of the matrix: a stranger has no token, a nobody has no rule, and the others have one
/// right each to every lock of the default table.
const ROLES: [&str; 9] =
    ["stranger", "nobody", "observe", "acquire", "preempt", "force", "configure", "owner", "admin"];

const SOURCE: &str = "the log of the test";

/// A listener with access control on, and all roles.
pub(super) async fn guarded(settings: ListenerSettings) -> (Server, MemoryLocks) {
    let locks = MemoryLocks::new();
    for role in ROLES.into_iter().filter(|role| *role != "stranger") {
        if role == "admin" {
            continue;
        }
        put(&locks, Change::PutToken(token(role, None))).await;
        if let Ok(right) = role.parse::<Right>() {
            put(&locks, rule(role, "*", &[right])).await;
        }
    }
    // One who may do everything with locks, in one table.
    let owner = [Right::Acquire, Right::Force, Right::Configure];
    put(&locks, rule("owner", "*", &owner)).await;
    put(&locks, Change::PutToken(token("admin", None))).await;
    put(&locks, Change::PutRule(Rule::admin(Grantee::Identity("admin".into())))).await;
    put(&locks, Change::Switch(true)).await;
    let node = Arc::new(Guarded(locks.clone()));
    (Server::of(locks.clone(), node, settings).await, locks)
}

pub(super) async fn ask(
    server: &Server,
    role: &str,
    method: &str,
    path: &str,
    body: Option<&str>,
) -> Told {
    let bearer = format!("Bearer {}", secret(role).reveal());
    let mut headers = vec![("content-type", "application/json")];
    if role != "stranger" {
        headers.push(("authorization", &*bearer));
    }
    server.ask(Ask { method, path, headers: &headers, body: body.map(str::as_bytes) }).await
}

/// One route and method: a request that is good but for who makes it, and the roles that may.
struct Row {
    /// The query of the path.
    query: &'static str,
    body: Option<&'static str>,
    allowed: &'static [&'static str],
}

const EVERYBODY: &[&str] = &ROLES;
const KNOWN: &[&str] =
    &["nobody", "observe", "acquire", "preempt", "force", "configure", "owner", "admin"];
const OBSERVERS: &[&str] =
    &["observe", "acquire", "preempt", "force", "configure", "owner", "admin"];
const ADMIN: &[&str] = &["admin"];

fn row(query: &'static str, body: Option<&'static str>, allowed: &'static [&'static str]) -> Row {
    Row { query, body, allowed }
}

/// The matrix. A route that is not in it fails the test.
fn matrix() -> BTreeMap<(&'static str, &'static str), Vec<Row>> {
    let lock = |extra: &'static str| -> &'static str {
        match extra {
            "" => r#"{"signature":"m","signee":"w"}"#,
            "high" => r#"{"signature":"m","signee":"w","level":5}"#,
            "higher" => r#"{"signature":"m","signee":"w","level":6}"#,
            "force" => r#"{"signature":"m","signee":"w","force":true}"#,
            other => unreachable!("{other}"),
        }
    };
    let takers: &[&str] = &["acquire", "preempt", "owner", "admin"];
    let token = r#"{"signature":"m","signee":"w","token":9007199254740991,"force":true}"#;
    BTreeMap::from([
        (
            (routes::LOCK, "POST"),
            vec![
                row("", Some(lock("")), takers),
                row("", Some(lock("high")), &["preempt", "admin"]),
                row("", Some(lock("higher")), ADMIN),
                row("", Some(lock("force")), &["owner", "admin"]),
            ],
        ),
        ((routes::LOCK, "GET"), vec![row("?signature=held", None, OBSERVERS)]),
        (
            (routes::UNLOCK, "POST"),
            vec![
                row("", Some(r#"{"signature":"none","signee":"w"}"#), takers),
                row("", Some(token), &["force", "owner", "admin"]),
            ],
        ),
        // Each request of a batch is judged by itself.
        ((routes::BATCH, "POST"), vec![row("", Some(r#"{"requests":[]}"#), KNOWN)]),
        ((routes::LOCKS, "GET"), vec![row("", None, KNOWN)]),
        ((routes::TABLES, "GET"), vec![row("", None, KNOWN)]),
        (
            (routes::SESSIONS, "POST"),
            vec![row("", Some(r#"{"ttl_ms":1000,"signee":"w"}"#), takers)],
        ),
        (
            (routes::SESSIONS, "DELETE"),
            vec![row("?session=00000000000000000000000000000001", None, KNOWN)],
        ),
        (
            (routes::KEEPALIVE, "POST"),
            vec![row(
                "",
                Some(r#"{"sessions":[{"session":"00000000000000000000000000000001"}]}"#),
                KNOWN,
            )],
        ),
        (
            (routes::VERIFY, "POST"),
            vec![row("", Some(r#"{"signature":"held","token":1}"#), OBSERVERS)],
        ),
        (
            (routes::LIMIT, "PUT"),
            vec![row("", Some(r#"{"signature":"m","limit":2}"#), &["configure", "owner", "admin"])],
        ),
        ((routes::DEADLOCKS, "GET"), vec![row("", None, KNOWN)]),
        (
            (routes::TABLE, "PUT"),
            vec![
                row("", Some(r#"{"table":"default"}"#), &["configure", "owner", "admin"]),
                row("", Some(r#"{"table":"other"}"#), ADMIN),
            ],
        ),
        (
            (routes::TABLE, "DELETE"),
            vec![
                row("?table=default", None, &["owner", "admin"]),
                row("?table=other", None, ADMIN),
            ],
        ),
        ((routes::ACCESS, "PUT"), vec![row("", Some(r#"{"enabled":true}"#), ADMIN)]),
        // With access control on nobody makes a first administrator; who may ask is told so.
        ((routes::ACCESS_BOOTSTRAP, "POST"), vec![row("", Some("{}"), ADMIN)]),
        ((routes::ACCESS_RULES, "GET"), vec![row("", None, ADMIN)]),
        (
            (routes::ACCESS_RULES, "PUT"),
            vec![row("", Some(r#"{"identity":"x","prefix":"x","rights":["observe"]}"#), ADMIN)],
        ),
        ((routes::ACCESS_RULES, "DELETE"), vec![row("?identity=x&prefix=x", None, ADMIN)]),
        ((routes::ACCESS_TOKENS, "GET"), vec![row("", None, ADMIN)]),
        ((routes::ACCESS_TOKENS, "POST"), vec![row("", Some(r#"{"identity":"x"}"#), ADMIN)]),
        ((routes::ACCESS_TOKENS, "DELETE"), vec![row("?id=0000000000000001", None, ADMIN)]),
        ((routes::ACCESS_WHOAMI, "GET"), vec![row("", None, KNOWN)]),
        (
            (routes::ACCESS_CAN_I, "POST"),
            vec![
                row("", Some(r#"{"right":"acquire","signature":"m"}"#), KNOWN),
                row("", Some(r#"{"right":"acquire","signature":"m","identity":"x"}"#), ADMIN),
            ],
        ),
        ((routes::CLUSTER, "GET"), vec![row("", None, KNOWN)]),
        ((routes::HEALTHZ, "GET"), vec![row("", None, EVERYBODY)]),
        ((routes::READYZ, "GET"), vec![row("", None, EVERYBODY)]),
        // The roles have their rights in one table; only an administrator observes all.
        ((routes::METRICS, "GET"), vec![row("", None, ADMIN)]),
        ((routes::OPENAPI, "GET"), vec![row("", None, EVERYBODY)]),
        ((routes::ROOT, "GET"), vec![row("", None, EVERYBODY)]),
        ((routes::DEBUG_ADVANCE, "POST"), vec![row("", Some(r#"{"by_ms":0}"#), ADMIN)]),
    ])
}

#[tokio::test]
async fn every_route_and_method_is_allowed_or_refused_as_the_rules_say_for_every_role() {
    let mut matrix = matrix();
    let mut asked = 0;
    for route in all_routes::<MemoryLocks, Incoming>() {
        for method in route.methods() {
            let key = (route.path, method.as_str());
            let rows =
                matrix.remove(&key).unwrap_or_else(|| panic!("{key:?} is not in the matrix"));
            for Row { query, body, allowed } in rows {
                for role in ROLES {
                    // Each request meets the same state: those of others change it.
                    let settings = ListenerSettings { debug_clock: true, ..Default::default() };
                    let (server, locks) = guarded(settings).await;
                    hold(&locks).await;
                    let path = format!("{}{query}", route.path);
                    let told = ask(&server, role, method.as_str(), &path, body).await;
                    let expected = match (allowed.contains(&role), role) {
                        (true, _) => None,
                        (false, "stranger") => Some((401, "unauthorized")),
                        (false, _) => Some((403, "not_allowed")),
                    };
                    let code = || told.json()["code"].as_str().unwrap_or_default().to_owned();
                    let case = format!("{method} {path} {body:?} as {role}: {told:?}");
                    match expected {
                        None => assert!(![401, 403].contains(&told.status), "{case}"),
                        Some((status, word)) => {
                            assert_eq!((told.status, &*code()), (status, word), "{case}");
                        }
                    }
                    let asks_for_one = told.header("www-authenticate") == "Bearer";
                    assert_eq!(asks_for_one, told.status == 401, "{case}");
                    asked += 1;
                    server.stop().await;
                }
            }
        }
    }
    assert!(matrix.is_empty(), "these routes do not exist: {:?}", matrix.keys());
    assert!(asked > 300, "{asked}");
}

/// A lock that somebody holds.
async fn hold(locks: &MemoryLocks) {
    let request =
        crate::types::LockRequest { signature: "held".into(), signee: SOURCE.into(), level: None };
    let call = CallOptions {
        principal: Some(Arc::new(crate::principal::Principal::named("admin"))),
        ..CallOptions::default()
    };
    let options = crate::types::LockOptions { call, ..crate::types::LockOptions::default() };
    assert!(locks.lock(request, options).await.unwrap().ok());
}

#[tokio::test]
async fn a_refusal_by_rule_names_the_right_and_nothing_of_the_lock() {
    let (server, locks) = guarded(ListenerSettings::default()).await;
    hold(&locks).await;
    let told = ask(&server, "nobody", "GET", "/v1/lock?signature=held", None).await;
    told.assert_problem(403, "not_allowed", "`observe` to \"held\" in table \"default\"");
    assert!(!String::from_utf8_lossy(&told.body).contains(SOURCE));
    let mine = r#"{"signature":"held","signee":"w"}"#;
    let told = ask(&server, "observe", "POST", "/v1/lock", Some(mine)).await;
    told.assert_problem(403, "not_allowed", "`acquire`");
    assert!(told.json()["holders"].is_null(), "{told:?}");
    // Whoever may take it is told who has it.
    let told = ask(&server, "acquire", "POST", "/v1/lock", Some(mine)).await;
    told.assert_problem(423, "forbidden", "");
    assert_eq!(told.json()["holders"][0]["signee"], SOURCE);
    // Within a batch each request is judged by itself.
    let batch = r#"{"requests":[{"lock":{"signature":"b","signee":"w"}},
        {"lock":{"signature":"b","signee":"w","force":true}}]}"#;
    let told = ask(&server, "acquire", "POST", "/v1/batch", Some(batch)).await.json();
    assert_eq!(told["answers"][0]["lock"]["status"], "ok", "{told}");
    assert_eq!(told["answers"][1]["problem"]["code"], "not_allowed", "{told}");
    server.stop().await;
}

#[tokio::test]
async fn credentials_that_are_none_are_refused_and_a_proxys_own_is_ignored_while_it_is_off() {
    let clock = CredentialClock::fixed(1000);
    let settings = ListenerSettings { credential_clock: clock.clone(), ..Default::default() };
    let (server, locks) = guarded(settings).await;
    put_as_admin(&locks, Change::PutToken(token("brief", Some(1010)))).await;
    let with = async |headers: &[(&str, &str)]| {
        server.ask(Ask { path: routes::ACCESS_WHOAMI, headers, ..Ask::default() }).await
    };
    let good = format!("Bearer {}", secret("nobody").reveal());
    let unknown = format!("Bearer {}", secret("made up").reveal());
    let brief = format!("bearer  {}", secret("brief").reveal());
    assert_eq!(with(&[("authorization", &brief)]).await.json()["identity"], "brief");
    clock.set(1010);
    with(&[("authorization", &brief)]).await.assert_problem(401, "unauthorized", "has expired");
    let rows: [(&[(&str, &str)], &str); 6] = [
        (&[], "no credential"),
        (&[("authorization", "Basic YTpi")], "Authorization: Bearer"),
        (&[("authorization", "Bearer")], "Authorization: Bearer"),
        (&[("authorization", "Bearer kw_123")], "kw_ and 64 hexadecimal digits"),
        (&[("authorization", &unknown)], "unknown, or was revoked"),
        (&[("authorization", &good), ("authorization", &good)], "more than one"),
    ];
    for (headers, why) in rows {
        with(headers).await.assert_problem(401, "unauthorized", why);
    }
    put_as_admin(&locks, Change::Switch(false)).await;
    assert_eq!(
        with(&[("authorization", "Basic YTpi")]).await.json(),
        json!({
            "enabled": false, "admin": false
        })
    );
    assert_eq!(with(&[("authorization", &good)]).await.json()["identity"], "nobody");
    with(&[("authorization", &unknown)]).await.assert_problem(401, "unauthorized", "unknown");
    server.stop().await;
}

async fn put_as_admin(locks: &MemoryLocks, change: Change) {
    let call = CallOptions {
        principal: Some(Arc::new(crate::principal::Principal::named("admin"))),
        ..CallOptions::default()
    };
    let command = Command::access(change, call);
    locks.decide_one(command, CallOptions::default()).await.unwrap();
}

#[tokio::test]
async fn access_control_is_set_up_over_http() {
    let locks = MemoryLocks::new();
    let node = Arc::new(Guarded(locks.clone()));
    let server = Server::of(locks.clone(), node, ListenerSettings::default()).await;
    let as_who = async |secret: &str, method: &str, path: &str, body: Option<Value>| {
        let bearer = format!("Bearer {secret}");
        let headers = [("content-type", "application/json"), ("authorization", &*bearer)];
        let body = body.map(|body| body.to_string());
        let body = body.as_deref().map(str::as_bytes);
        server.ask(Ask { method, path, headers: &headers, body }).await
    };
    let first = server.send("POST", routes::ACCESS_BOOTSTRAP, "{}").await;
    let admin = first.json()["token"].as_str().unwrap().to_owned();
    assert!(first.json()["identity"] == "admin" && admin.starts_with("kw_"), "{first:?}");
    let again = server.send("POST", routes::ACCESS_BOOTSTRAP, "{}").await;
    again.assert_problem(400, "bad_request", "a first administrator already");
    let made = json!({"identity": "ci", "groups": ["bots"], "expires_in_s": 60});
    let made = as_who(&admin, "POST", routes::ACCESS_TOKENS, Some(made)).await.json();
    let ci = made["token"].as_str().unwrap().to_owned();
    let body = json!({"group": "bots", "prefix": "jobs", "rights": ["acquire"],
        "signee": "{identity}"});
    let told = as_who(&admin, "PUT", routes::ACCESS_RULES, Some(body.clone())).await;
    assert_eq!(told.json(), json!({"status": "ok"}));
    let on = as_who(&admin, "PUT", routes::ACCESS, Some(json!({"enabled": true}))).await;
    assert_eq!(on.status, 200);
    let rules = as_who(&admin, "GET", routes::ACCESS_RULES, None).await.json();
    let mut whole = body;
    whole["table"] = json!("default");
    let listed = rules["rules"].as_array().unwrap();
    assert!(listed.contains(&whole), "{rules}");
    let lock = |name: &str, signee: &str| Some(json!({"signature": name, "signee": signee}));
    assert_eq!(as_who(&ci, "POST", "/v1/lock", lock("jobs/1", "ci")).await.status, 200);
    let told = as_who(&ci, "POST", "/v1/lock", lock("jobs/2", "other")).await;
    told.assert_problem(403, "not_allowed", "for the signee \"ci\" alone");
    let told = as_who(&ci, "POST", "/v1/lock", lock("jobsite", "ci")).await;
    told.assert_problem(403, "not_allowed", "`acquire` to \"jobsite\"");
    let seen = as_who(&ci, "GET", "/v1/locks", None).await.json();
    assert_eq!(seen["locks"].as_array().unwrap().len(), 1);
    let can = json!({"right": "preempt", "signature": "jobs/1", "level": 3});
    let can = as_who(&ci, "POST", routes::ACCESS_CAN_I, Some(can)).await.json();
    assert_eq!(can["allowed"], false);
    let who = as_who(&ci, "GET", routes::ACCESS_WHOAMI, None).await.json();
    let id = made["id"].as_str().unwrap();
    assert_eq!(
        who,
        json!({"enabled": true, "identity": "ci", "groups": ["bots"], "token": id,
        "admin": false})
    );
    let tokens = as_who(&admin, "GET", routes::ACCESS_TOKENS, None).await;
    assert!(!String::from_utf8_lossy(&tokens.body).contains("kw_"), "no secret is listed");
    assert_eq!(tokens.json()["tokens"].as_array().unwrap().len(), 2);
    let gone = as_who(&admin, "DELETE", &format!("{}?id={id}", routes::ACCESS_TOKENS), None).await;
    assert_eq!(gone.json(), json!({"status": "ok"}));
    let told = as_who(&ci, "POST", "/v1/unlock", lock("jobs/1", "ci")).await;
    told.assert_problem(401, "unauthorized", "unknown, or was revoked");
    let last = first.json()["id"].as_str().unwrap().to_owned();
    let last = format!("{}?id={last}", routes::ACCESS_TOKENS);
    let told = as_who(&admin, "DELETE", &last, None).await;
    told.assert_problem(400, "bad_request", "last administrator");
    server.stop().await;
}

#[tokio::test]
async fn nothing_is_answered_while_access_control_is_about_to_be_switched_on() {
    let locks = MemoryLocks::new();
    answers_nothing_yet(Arc::new(Guarded(locks.clone())), locks.clone()).await;
    // A cluster whose members do not all know of access control yet.
    answers_nothing_yet(Arc::new(()), locks).await;
}

async fn answers_nothing_yet(node: Arc<dyn LocalNode>, locks: MemoryLocks) {
    let required = Arc::new(AtomicBool::new(true));
    let settings =
        ListenerSettings { access_required: Arc::clone(&required), ..Default::default() };
    let server = Server::of(locks, node, settings).await;
    let lock = r#"{"signature":"s","signee":"w"}"#;
    let held = server.send("POST", "/v1/lock", lock).await;
    held.assert_problem(503, "unavailable", "being set up");
    server.get("/metrics").await.assert_problem(503, "unavailable", "being set up");
    assert_eq!(server.get("/healthz").await.status, 200);
    required.store(false, Ordering::Release);
    assert_eq!(server.send("POST", "/v1/lock", lock).await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn strangers_see_figures_only_if_that_is_wanted_and_nothing_of_the_cluster() {
    let (server, _) = guarded(ListenerSettings { open_metrics: true, ..Default::default() }).await;
    assert_eq!(server.get("/metrics").await.status, 200);
    let root = server.get("/").await;
    assert!(root.json()["cluster_id"].is_null() && root.json()["node"].is_null(), "{root:?}");
    server.get("/v1/cluster").await.assert_problem(401, "unauthorized", "");
    server.stop().await;
}
