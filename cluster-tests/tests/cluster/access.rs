//! Access control on three real nodes: whichever is asked, however far behind it is.

use std::time::Duration;

use cluster_tests::binary;
use cluster_tests::cluster::{Cluster, ClusterOptions, ELECTION, NodeId};
use cluster_tests::process::{Output, Process};
use cluster_tests::wait::eventually;
use keyward::access::{Change, Question, Right};
use keyward::api::{BootstrapBody, RuleBody, TokenAnswer, TokenBody};
use keyward::client::Client;
use keyward::error::Error;
use keyward::lock::{Command, Query};
use keyward::service::LockService;
use keyward::types::{
    CallOptions, ListRequest, LockOptions, LockRequest, LockResponse, ReadOptions, UnlockOptions,
    UnlockRequest,
};
use rustix::process::Signal;

/// A client of these nodes with this access token.
pub(crate) fn client(endpoints: Vec<String>, token: Option<&str>) -> Client {
    let builder = Client::builder().endpoints(endpoints);
    let builder = match token {
        Some(token) => builder.access_token(token),
        None => builder,
    };
    builder.build().expect("the endpoints are well formed")
}

pub(crate) async fn change(client: &Client, change: Change) {
    let command = Command::access(change, CallOptions::default());
    let decided = client.decide_one(command, CallOptions::default()).await;
    decided.expect("the change is made");
}

fn rule(identity: &str, prefix: &str, rights: &[Right], signee: Option<&str>) -> Change {
    let body = RuleBody {
        identity: Some(identity.to_owned()),
        prefix: prefix.to_owned(),
        rights: rights.to_vec(),
        signee: signee.map(str::to_owned),
        ..RuleBody::default()
    };
    Change::PutRule(body.into_rule().expect("a rule"))
}

async fn token(client: &Client, identity: &str) -> TokenAnswer {
    let body = TokenBody { identity: identity.to_owned(), ..TokenBody::default() };
    client.create_access_token(&body, CallOptions::default()).await.expect("a token")
}

pub(crate) async fn lock(client: &Client, name: &str, signee: &str) -> Result<LockResponse, Error> {
    let request =
        LockRequest { signature: name.to_owned(), signee: signee.to_owned(), level: None };
    client.lock(request, LockOptions::default()).await
}

async fn unlock(client: &Client, name: &str, signee: &str) -> Result<(), Error> {
    let request = UnlockRequest { signature: name.to_owned(), signee: signee.to_owned() };
    client.unlock(request, UnlockOptions::default()).await.map(|_| ())
}

pub(crate) fn is_unauthorized<T>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::Unauthorized { .. }))
}

pub(crate) fn is_not_allowed<T>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::NotAllowed { .. }))
}

/// Makes the first administrator, and switches access control on; returns its client and token.
pub(crate) async fn switch_on(cluster: &mut Cluster) -> (Client, String) {
    let stranger = cluster.clients();
    let first = eventually("every member knows of access control", ELECTION, || async {
        stranger.bootstrap_access(&BootstrapBody::default(), CallOptions::default()).await
    })
    .await;
    cluster.use_access_token(&first.token);
    let admin = cluster.clients();
    change(&admin, Change::Switch(true)).await;
    (admin, first.token)
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_refuse_strangers_bind_signees_and_revoke_at_one_position() {
    let mut cluster = Cluster::start(ClusterOptions::default()).await;
    let (admin, _) = switch_on(&mut cluster).await;
    let each = |cluster: &Cluster, token: Option<&str>| {
        let of = |id: NodeId| client(vec![cluster.endpoint(id)], token);
        cluster.ids().into_iter().map(of).collect::<Vec<_>>()
    };
    for stranger in each(&cluster, None) {
        assert!(is_unauthorized(&lock(&stranger, "jobs/a", "w").await));
        let listed = stranger.list(ListRequest::default(), ReadOptions::default()).await;
        assert!(is_unauthorized(&listed));
    }
    change(&admin, rule("ann", "jobs/a", &[Right::Acquire], Some("{identity}"))).await;
    change(&admin, rule("bob", "jobs/*", &[Right::Acquire], None)).await;
    let (ann, bob) = (token(&admin, "ann").await, token(&admin, "bob").await);

    // Each node knows a token at once, also one that has not heard of it yet.
    for (number, node) in each(&cluster, Some(&ann.token)).iter().enumerate() {
        let name = format!("jobs/a/{number}");
        assert!(lock(node, &name, "ann").await.expect("her own").ok());
        assert!(is_not_allowed(&lock(node, &name, "bob").await), "she is not bob");
        assert!(is_not_allowed(&unlock(node, &name, "bob").await), "nobody unlocks as another");
        assert!(is_not_allowed(&lock(node, "jobs/abc", "ann").await), "no part of jobs/a");
        assert!(is_not_allowed(&lock(node, "jobs", "ann").await));
    }
    let bobs = client(cluster.endpoints(), Some(&bob.token));
    assert!(lock(&bobs, "jobs/b", "bob").await.expect("his own").ok());
    for stale in [false, true] {
        for node in each(&cluster, Some(&ann.token)) {
            let options = || ReadOptions { stale, ..ReadOptions::default() };
            let page = eventually("the page is whole", ELECTION, || async {
                let page = node.list(ListRequest::default(), options()).await;
                let page = page.map_err(|error| error.to_string())?;
                if page.locks.len() == 3 { Ok(page) } else { Err(format!("{page:?}")) }
            })
            .await;
            let names: Vec<_> = page.locks.iter().map(|lock| lock.signature.as_str()).collect();
            assert_eq!(names, ["jobs/a/0", "jobs/a/1", "jobs/a/2"], "and not bob's");
            assert!(is_not_allowed(&node.check("jobs/b".to_owned(), options()).await));
        }
    }

    // Once the revocation is acknowledged, no node takes the token, and the locks stay.
    change(&admin, Change::RevokeToken(ann.id.parse().expect("a name"))).await;
    for node in each(&cluster, Some(&ann.token)) {
        assert!(is_unauthorized(&lock(&node, "jobs/a/0", "ann").await));
        assert!(is_unauthorized(&node.check("jobs/a/0".to_owned(), ReadOptions::default()).await));
    }
    let kept = admin.check("jobs/a/0".to_owned(), ReadOptions::default()).await;
    assert_eq!(kept.expect("it is held").record.holders[0].signee, "ann");
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_and_tokens_outlive_restarts_and_changes_of_leader() {
    let options = ClusterOptions::default().with(&["--snapshot-every", "20"]);
    let mut cluster = Cluster::start(options).await;
    let (admin, _) = switch_on(&mut cluster).await;
    change(&admin, rule("ann", "jobs", &[Right::Acquire], None)).await;
    let ann = token(&admin, "ann").await;
    let anns = client(cluster.endpoints(), Some(&ann.token));
    for number in 0..40 {
        assert!(lock(&anns, &format!("jobs/{number}"), "ann").await.expect("allowed").ok());
    }
    cluster.kill_all();
    cluster.start_all().await;
    let held = eventually("the cluster answers again", ELECTION, || async {
        lock(&anns, "jobs/0", "ann").await
    })
    .await;
    assert!(held.ok());
    assert!(is_not_allowed(&lock(&anns, "other", "ann").await));
    let leader = cluster.leader().await;
    cluster.signal(leader, Signal::STOP);
    let after =
        eventually("another leads", ELECTION, || async { lock(&anns, "jobs/1", "ann").await })
            .await;
    assert!(after.ok());
    cluster.signal(leader, Signal::CONT);
    let stranger = client(cluster.endpoints(), None);
    assert!(is_unauthorized(&lock(&stranger, "jobs/2", "w").await));
    change(&admin, Change::Switch(false)).await;
    // The node that was stopped refuses until it has heard of it.
    let locked =
        eventually("everybody may", ELECTION, || async { lock(&stranger, "anything", "w").await })
            .await;
    assert!(locked.ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_a_file_makes_the_first_administrator_before_anybody_is_answered() {
    let secret = format!("kw_{}", "5e".repeat(32));
    let mut cluster = Cluster::prepare(ClusterOptions::default()).await;
    let file = cluster.folder().join("first.token");
    std::fs::write(&file, format!("{secret}\n")).expect("the file is written");
    let file = file.to_str().expect("a path of text").to_owned();
    for id in cluster.ids() {
        cluster.own(id).arguments = vec!["--bootstrap-token-file".to_owned(), file.clone()];
    }
    cluster.use_access_token(&secret);
    cluster.start_all().await;
    let stranger = client(cluster.endpoints(), None);
    let refused = eventually("it is switched on", ELECTION, || async {
        match lock(&stranger, "s", "w").await {
            Err(Error::Unauthorized { reason }) => Ok(reason),
            Err(Error::Unavailable { reason, .. }) => Err(reason),
            other => panic!("a stranger was answered: {other:?}"),
        }
    })
    .await;
    assert!(refused.contains("no credential"), "{refused}");
    let admin = cluster.clients();
    let locked = eventually("the administrator is known", ELECTION, || async {
        lock(&admin, "s", "w").await
    })
    .await;
    assert!(locked.ok());
    let patience = Duration::from_secs(1);
    let again =
        admin.bootstrap_access(&BootstrapBody::default(), CallOptions::within(patience)).await;
    assert!(matches!(again, Err(Error::BadRequest { .. })), "{again:?}");
}

/// The clock is moved instead of waited for; the time is that of a debug build.
const SUITE: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn the_conformance_suite_passes_with_an_administrators_token() {
    let mut cluster = Cluster::start(ClusterOptions::default().with(&["--debug-clock"])).await;
    let (_, secret) = switch_on(&mut cluster).await;
    let output = Output::in_folder(cluster.folder(), "conformance");
    let mut command = std::process::Command::new(binary::keyward());
    command.env_clear().env("KEYWARD_ACCESS_TOKEN", secret);
    command.args(["conformance", "--endpoints", &cluster.endpoint(1)]);
    let mut suite = Process::spawn(&mut command, output);
    let status = suite.wait(SUITE).await;
    let output = suite.output();
    assert!(status.success(), "{status}\n{}\n{}", output.printed(), output.logged());
    assert!(!output.printed().is_empty(), "a suite that says nothing ran nothing");
}

/// The first block of commands in `docs/access.md`, as it stands there.
#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_the_documentation_set_it_up() {
    let cluster = Cluster::start(ClusterOptions::default()).await;
    let stranger = cluster.clients();
    eventually("every member knows of access control", ELECTION, || async {
        let query = Query::access(Question::Status, &ReadOptions::default());
        stranger.read(query, CallOptions::default()).await
    })
    .await;
    let page = include_str!("../../../docs/access.md");
    let block = page.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next());
    let commands = block.expect("a block of commands").lines().filter(|line| !line.is_empty());
    let script = commands.flat_map(|line| [line, "\necho \"exit $?\"\n"]).collect::<String>();
    let program = binary::keyward().parent().expect("the program is in a folder").to_owned();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").expect("a path"));
    let output = std::process::Command::new("sh")
        .current_dir(cluster.folder())
        .env_clear()
        .env("PATH", path)
        .env("KEYWARD_ENDPOINTS", cluster.endpoints().join(","))
        .args(["-c", &script])
        .output()
        .expect("a shell");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let codes: Vec<&str> = printed.lines().filter_map(|line| line.strip_prefix("exit ")).collect();
    assert_eq!(codes, ["0", "0", "0", "0", "0", "0", "0", "5", "0"], "{printed}\n{said}");
    assert!(said.contains("the right `acquire` to \"jobsite\""), "{said}");
    assert!(printed.trim_end().contains("\nyes\n"), "{printed}");
}
