//! Requests with JWTs: who makes them, when they are refused, and what becomes of those that wait.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::super::{ListenerSettings, LocalNode};
use super::access::{Guarded, guarded, put_as_admin, rule, secret};
use super::{Ask, Server, Told};
use crate::access::{Access, Change, Grantee, Right, Rule, RuleName};
use crate::clock::CredentialClock;
use crate::files::Followed as _;
use crate::jwt::tests::Folder;
use crate::jwt::tests::signer::Signer;
use crate::memory::MemoryLocks;

const NOW: u64 = 1_700_000_000;

/// A node that keeps what it hears of refused credentials.
struct Listening(Guarded, Mutex<Vec<String>>);

impl LocalNode for Listening {
    fn access(&self) -> Option<Arc<Access>> {
        self.0.access()
    }

    fn unauthorized(&self, why: &str, _: Option<SocketAddr>) {
        self.1.lock().unwrap().push(why.to_owned());
    }
}

/// A listener that takes the JWTs of the issuer `ci`.
struct Setting {
    server: Server,
    locks: MemoryLocks,
    node: Arc<Listening>,
    clock: CredentialClock,
    folder: Folder,
    issuers: Arc<crate::jwt::Issuers>,
    signer: Signer,
}

impl Setting {
    async fn new() -> Self {
        let signer = Signer::new("ES256", "one");
        let folder = Folder::new(&[&signer]);
        let (issuers, clock) = (folder.load(), CredentialClock::fixed(NOW));
        let settings = ListenerSettings {
            issuers: Some(Arc::clone(&issuers)),
            credential_clock: clock.clone(),
            ..ListenerSettings::default()
        };
        let (unused, locks) = guarded(ListenerSettings::default()).await;
        unused.stop().await;
        let node = Arc::new(Listening(Guarded(locks.clone()), Mutex::default()));
        put_as_admin(&locks, rule("jwt:ci:repo:a/b", "repo", &[Right::Acquire])).await;
        let of_group = Rule {
            name: RuleName {
                grantee: Grantee::Group("jwt:ci:deploy".into()),
                table: Some("default".into()),
                pattern: "deploy".parse().unwrap(),
            },
            rights: [Right::Acquire].into_iter().collect(),
            max_level: 0,
            signee: Some("{identity}".into()),
        };
        put_as_admin(&locks, Change::PutRule(of_group)).await;
        let server = Server::of(locks.clone(), Arc::clone(&node) as _, settings).await;
        Self { server, locks, node, clock, folder, issuers, signer }
    }

    /// A token that ends then.
    fn token(&self, ends: u64) -> String {
        self.signer.token(&json!({"iss": "https://ci.example", "aud": "keyward", "exp": ends,
            "sub": "repo:a/b", "groups": "deploy"}))
    }

    async fn ask(&self, token: &str, method: &str, path: &str, body: Option<Value>) -> Told {
        let bearer = format!("Bearer {token}");
        let headers = [("content-type", "application/json"), ("authorization", &*bearer)];
        let body = body.map(|body| body.to_string());
        let body = body.as_deref().map(str::as_bytes);
        self.server.ask(Ask { method, path, headers: &headers, body }).await
    }

    async fn lock(&self, token: &str, name: &str, signee: &str) -> Told {
        let body = json!({"signature": name, "signee": signee});
        self.ask(token, "POST", "/v1/lock", Some(body)).await
    }

    async fn whoami(&self, token: &str) -> Told {
        self.ask(token, "GET", "/v1/access/whoami", None).await
    }
}

#[tokio::test]
async fn a_jwt_is_somebody_with_rules_and_groups_until_it_ends() {
    let setting = Setting::new().await;
    let token = setting.token(NOW + 100);
    assert_eq!(
        setting.whoami(&token).await.json(),
        json!({"enabled": true, "identity": "jwt:ci:repo:a/b", "groups": ["jwt:ci:deploy"],
            "admin": false, "credential": "jwt", "expires": NOW + 160})
    );
    assert_eq!(setting.lock(&token, "repo/1", "anybody").await.status, 200);
    assert_eq!(setting.lock(&token, "deploy/1", "jwt:ci:repo:a/b").await.status, 200);
    let told = setting.lock(&token, "deploy/1", "anybody").await;
    told.assert_problem(403, "not_allowed", "for the signee \"jwt:ci:repo:a/b\" alone");
    setting.lock(&token, "other", "w").await.assert_problem(403, "not_allowed", "`acquire`");
    // The bootstrap administrator and others of this cluster are not to be had by a subject.
    let named = setting.signer.token(&json!({"iss": "https://ci.example", "aud": "keyward",
        "exp": NOW + 100, "sub": "admin", "groups": ["admin"]}));
    assert_eq!(setting.whoami(&named).await.json()["admin"], false);
    setting.clock.set(NOW + 160);
    let told = setting.lock(&token, "repo/2", "anybody").await;
    told.assert_problem(401, "unauthorized", "the JWT has expired (exp)");
    // An access token is what it was.
    let acquirer = secret("acquire");
    assert_eq!(setting.lock(acquirer.reveal(), "repo/2", "w").await.status, 200);
    let page = setting.ask(secret("admin").reveal(), "GET", "/metrics", None).await;
    let page = String::from_utf8(page.body).unwrap();
    for line in [
        "keyward_jwt_requests_total{result=\"checked\"} 2",
        "keyward_jwt_requests_total{result=\"remembered\"} 4",
        "keyward_jwt_requests_total{result=\"refused\"} 1",
        "keyward_jwt_keys{issuer=\"ci\"} 1",
        "keyward_jwt_files_unusable 0",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} is not in {page}");
    }
    setting.server.stop().await;
}

#[tokio::test]
async fn a_refused_jwt_is_noted_with_the_reason_and_without_the_token() {
    let setting = Setting::new().await;
    let forged = Signer::new("ES256", "one").token(&json!({"iss": "https://ci.example",
        "aud": "keyward", "exp": NOW + 100, "sub": "repo:a/b"}));
    let elsewhere = setting.signer.token(&json!({"iss": "https://ci.example", "aud": "vault",
        "exp": NOW + 100, "sub": "repo:a/b"}));
    let foreign = setting.signer.token(&json!({"iss": "https://other.example"}));
    let table = [
        (&*forged, "not signed by the key"),
        (&*elsewhere, "its audience (aud) is not `keyward`"),
        (&*foreign, "an issuer (iss) that is not configured here"),
        ("e30.e30.e30", "does not say who issued it"),
        ("secret", "neither an access token"),
    ];
    for (token, why) in table {
        let told = setting.lock(token, "repo/1", "w").await;
        told.assert_problem(401, "unauthorized", why);
        let noted = setting.node.1.lock().unwrap().pop().unwrap();
        assert!(noted.contains(why), "{noted}");
        let body = String::from_utf8_lossy(&told.body).into_owned();
        for text in [noted, body] {
            assert!(!text.contains(token) && !text.contains(&token[..5]), "{text}");
        }
    }
    setting.server.stop().await;
}

#[tokio::test]
async fn while_access_control_is_off_only_a_jwt_of_an_issuer_here_is_looked_at() {
    let setting = Setting::new().await;
    put_as_admin(&setting.locks, Change::Switch(false)).await;
    let foreign = setting.signer.token(&json!({"iss": "https://other.example"}));
    for ignored in [&*foreign, "abc"] {
        assert_eq!(setting.whoami(ignored).await.json(), json!({"enabled": false, "admin": false}));
        assert_eq!(setting.lock(ignored, "any", "w").await.status, 200);
    }
    let good = setting.token(NOW + 100);
    assert_eq!(setting.whoami(&good).await.json()["identity"], "jwt:ci:repo:a/b");
    let over = setting.token(NOW - 100);
    setting.lock(&over, "any", "w").await.assert_problem(401, "unauthorized", "has expired");
    setting.server.stop().await;
}

#[tokio::test]
async fn a_request_that_waits_keeps_its_place_when_its_jwt_ends_and_a_new_one_comes() {
    let setting = Setting::new().await;
    let admin = secret("admin");
    assert_eq!(setting.lock(admin.reveal(), "repo/1", "holder").await.status, 200);
    let wait = || {
        Some(json!({"signature": "repo/1", "signee": "w", "wait_ms": 60_000, "respond": "queued",
            "request_id": "00000000000000000000000000000001-1"}))
    };
    let first = setting.token(NOW + 100);
    let told = setting.ask(&first, "POST", "/v1/lock", wait()).await;
    assert_eq!(told.status, 202, "{told:?}");
    let place = told.json()["place"].clone();
    setting.clock.set(NOW + 1000);
    let told = setting.ask(&first, "POST", "/v1/lock", wait()).await;
    told.assert_problem(401, "unauthorized", "has expired");
    // Keys may have changed meanwhile, too.
    let next = Signer::new("EdDSA", "two");
    setting.folder.publish(&[&next]);
    let _ = setting.issuers.look();
    let second = next.token(&json!({"iss": "https://ci.example", "aud": "keyward",
        "exp": NOW + 2000, "sub": "repo:a/b"}));
    let told = setting.ask(&second, "POST", "/v1/lock", wait()).await;
    assert_eq!((told.status, &told.json()["place"]), (202, &place), "{told:?}");
    let release = Some(json!({"signature": "repo/1", "signee": "holder"}));
    assert_eq!(setting.ask(admin.reveal(), "POST", "/v1/unlock", release).await.status, 200);
    let told = setting.ask(&second, "POST", "/v1/lock", wait()).await;
    assert_eq!(told.status, 200, "{told:?}");
    setting.server.stop().await;
}
