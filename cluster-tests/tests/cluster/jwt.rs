//! JWTs on three real nodes: rules for them, keys that are replaced, and a token file that is
//! replaced under a running command.

use std::process::Command;
use std::time::Duration;

use cluster_tests::ask::{LONG, hold};
use cluster_tests::binary;
use cluster_tests::cluster::{Cluster, ClusterOptions, ELECTION};
use cluster_tests::issuer::{IssuerFiles, SigningKey, claims};
use cluster_tests::process::{Output, Process};
use cluster_tests::wait::eventually;
use keyward::access::Right;
use keyward::api::{CredentialWord, RuleBody};
use keyward::client::Client;
use keyward::clock::credential_time;
use keyward::error::Error;
use keyward::service::LockService as _;
use keyward::types::{CallOptions, ReadOptions};
use rustix::process::Signal;
use serde_json::json;

use crate::access::{change, client, is_not_allowed, is_unauthorized, lock, switch_on};

/// The identity of the service account of the tests.
const DEPLOYER: &str = "jwt:k8s:system:serviceaccount:build:deployer";

/// The timeout for nodes to look at their files, which they do every five seconds.
const LOOKED: Duration = Duration::from_secs(30);

/// The end of a token that outlives the test.
fn later() -> u64 {
    credential_time().as_secs() + 3600
}

/// A cluster with access control that takes tokens of this key, and its administrator.
async fn cluster_with(key: &SigningKey) -> (Cluster, IssuerFiles, Client) {
    let mut cluster = Cluster::prepare(ClusterOptions::default()).await;
    let files = IssuerFiles::write(cluster.folder(), &[key]);
    let path = files.path().to_str().expect("a path of text").to_owned();
    for id in cluster.ids() {
        cluster.own(id).arguments = vec!["--jwt-issuers".to_owned(), path.clone()];
    }
    cluster.start_all().await;
    let (admin, _) = switch_on(&mut cluster).await;
    for (identity, group, prefix) in
        [(Some(DEPLOYER), None, "deploy"), (None, Some("jwt:k8s:build"), "jobs")]
    {
        let body = RuleBody {
            identity: identity.map(str::to_owned),
            group: group.map(str::to_owned),
            prefix: prefix.to_owned(),
            rights: vec![Right::Acquire],
            ..RuleBody::default()
        };
        let rule = body.into_rule().expect("a rule");
        change(&admin, keyward::access::Change::PutRule(rule)).await;
    }
    (cluster, files, admin)
}

fn reason<T: std::fmt::Debug>(answer: Result<T, Error>) -> String {
    match answer {
        Err(Error::Unauthorized { reason }) => reason,
        other => panic!("it is not refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_account_may_what_rules_give_to_it_and_to_its_group() {
    let key = SigningKey::new("first");
    let (cluster, files, _) = cluster_with(&key).await;
    let deployer = key.sign(&claims("build", "deployer", later()));
    let other = key.sign(&claims("build", "other", later()));
    let outside = key.sign(&claims("default", "deployer", later()));
    for id in cluster.ids() {
        let with = |token: &str| client(vec![cluster.endpoint(id)], Some(token));
        assert!(lock(&with(&deployer), &format!("deploy/{id}"), "d").await.expect("its own").ok());
        assert!(
            lock(&with(&deployer), &format!("jobs/{id}"), "d").await.expect("its group's").ok()
        );
        assert!(lock(&with(&other), &format!("jobs/{id}-o"), "o").await.expect("its group's").ok());
        assert!(is_not_allowed(&lock(&with(&other), "deploy/x", "o").await));
        assert!(is_not_allowed(&lock(&with(&outside), "jobs/x", "o").await));
        assert!(is_not_allowed(&lock(&with(&outside), "deploy/x", "o").await));
        let mut elsewhere = claims("build", "deployer", later());
        elsewhere["aud"] = json!(["https://kubernetes.default.svc"]);
        let why = reason(lock(&with(&key.sign(&elsewhere)), "deploy/x", "d").await);
        assert!(why.contains("its audience (aud) is not `keyward`"), "{why}");
        let over = key.sign(&claims("build", "deployer", credential_time().as_secs() - 1));
        let why = reason(lock(&with(&over), "deploy/x", "d").await);
        assert!(why.contains("has expired"), "{why}");
        let forged = SigningKey::new("first").sign(&claims("build", "deployer", later()));
        let why = reason(lock(&with(&forged), "deploy/x", "d").await);
        assert!(why.contains("not signed by the key"), "{why}");
    }
    // A subject with the administrator's name is not the administrator.
    let mut named = claims("build", "deployer", later());
    named["sub"] = json!("admin");
    let admin = client(cluster.endpoints(), Some(&key.sign(&named)));
    assert!(is_not_allowed(&lock(&admin, "deploy/x", "d").await));
    let who = admin.whoami(CallOptions::default()).await.expect("it is known");
    assert_eq!(who.identity.as_deref(), Some("jwt:k8s:admin"));
    assert_eq!((who.admin, who.credential), (false, Some(CredentialWord::Jwt)));

    files.put("token", &deployer);
    let output = Command::new(binary::keyward())
        .env_clear()
        .env("KEYWARD_ENDPOINTS", cluster.endpoints().join(","))
        .env("KEYWARD_TOKEN_FILE", cluster.folder().join("token"))
        .args(["access", "whoami"])
        .output()
        .expect("the program runs");
    let printed = String::from_utf8_lossy(&output.stdout);
    let expected = format!("{DEPLOYER}, in jwt:k8s:build with a JWT, which ends in ");
    assert!(printed.starts_with(&expected), "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_replaced_without_a_restart() {
    let (old, new) = (SigningKey::new("old"), SigningKey::new("new"));
    let (mut cluster, files, _) = cluster_with(&old).await;
    let tokens = [&old, &new].map(|key| key.sign(&claims("build", "deployer", later())));
    let with = |cluster: &Cluster, id, token: &str| client(vec![cluster.endpoint(id)], Some(token));
    for id in cluster.ids() {
        assert!(lock(&with(&cluster, id, &tokens[0]), "deploy/a", "d").await.expect("known").ok());
        let why = reason(lock(&with(&cluster, id, &tokens[1]), "deploy/a", "d").await);
        assert!(why.contains("no key of that id"), "{why}");
    }
    // Nodes look by themselves.
    files.publish(&[&old, &new]);
    for id in cluster.ids() {
        let of_new = with(&cluster, id, &tokens[1]);
        eventually("the new key is known", LOOKED, || lock(&of_new, "deploy/a", "d")).await;
        lock(&with(&cluster, id, &tokens[0]), "deploy/a", "d").await.expect("the old one, too");
    }
    // A file that cannot be used is said, and changes nothing.
    files.put("k8s.jwks.json", "{\"keys\":[]}");
    for id in cluster.ids() {
        cluster.signal(id, Signal::HUP);
        eventually("the log says so", LOOKED, || async {
            let log = cluster.logged(id);
            let said = log.contains("the old ones stay in use") && log.contains("k8s.jwks.json");
            if said { Ok(()) } else { Err(log) }
        })
        .await;
        lock(&with(&cluster, id, &tokens[1]), "deploy/a", "d").await.expect("it is still known");
    }
    // A key that is gone signs nothing any more, also not what was checked with it before.
    files.publish(&[&new]);
    for id in cluster.ids() {
        cluster.signal(id, Signal::HUP);
        let of_old = with(&cluster, id, &tokens[0]);
        eventually("the old key is gone", LOOKED, || async {
            let answer = lock(&of_old, "deploy/a", "d").await;
            if is_unauthorized(&answer) { Ok(()) } else { Err(format!("{answer:?}")) }
        })
        .await;
        lock(&with(&cluster, id, &tokens[1]), "deploy/a", "d").await.expect("the new one is known");
    }
}

/// How long the token lasts that the command begins with: longer than it takes to start.
const FIRST: u64 = 6;

#[tokio::test(flavor = "multi_thread")]
async fn a_command_keeps_its_lock_when_its_token_file_is_replaced() {
    let key = SigningKey::new("one");
    let (cluster, files, admin) = cluster_with(&key).await;
    let brief = key.sign(&claims("build", "deployer", credential_time().as_secs() + FIRST));
    files.put("token", &brief);
    let output = Output::in_folder(cluster.folder(), "run");
    let stop = cluster.folder().join("stop");
    let script = format!("while [ ! -e {} ]; do sleep 0.05; done", stop.display());
    let mut command = Command::new(binary::keyward());
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").expect("a path"))
        .env("KEYWARD_ENDPOINTS", cluster.endpoints().join(","))
        .env("KEYWARD_TOKEN_FILE", cluster.folder().join("token"))
        .args(["run", "deploy/job", "--signee", "d", "--duration", "30s"])
        .args(["--", "sh", "-c", &script]);
    let mut run = Process::spawn(&mut command, output);
    let remaining = || async {
        let checked = admin.check("deploy/job".to_owned(), ReadOptions::default()).await?;
        Ok::<_, Error>((checked.record.holders[0].expires_in, checked.record.holders[0].token))
    };
    let (_, first) = eventually("the lock is taken", ELECTION, &remaining).await;
    let of_brief = client(cluster.endpoints(), Some(&brief));
    eventually("its token has ended", LOOKED, || async {
        let answer = of_brief.whoami(CallOptions::default()).await;
        if is_unauthorized(&answer) { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
    let (before, _) = remaining().await.expect("it is held");
    files.put("token", &key.sign(&claims("build", "deployer", later())));
    eventually("it is renewed with the new one", LOOKED, || async {
        let (left, token) = remaining().await.map_err(|error| error.to_string())?;
        assert_eq!(token, first, "the lock was lost meanwhile");
        if left > before { Ok(()) } else { Err(format!("{left:?} are left")) }
    })
    .await;
    std::fs::write(stop, "").expect("the folder is writable");
    let status = run.wait(LOOKED).await;
    assert!(status.success(), "{status}: {}", run.output().logged());
    hold(&admin, "deploy/job", "next", LONG).await;
}
