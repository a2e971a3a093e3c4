//! Backups of real clusters, and new clusters that begin with them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cluster_tests::ask;
use cluster_tests::binary;
use cluster_tests::cluster::{BOOT, Cluster, ClusterOptions, ELECTION, NodeId};
use cluster_tests::wait::eventually;
use keyward::client::Client;
use keyward::lock::TOKEN_GAP;
use keyward::service::LockService;
use keyward::types::{
    LockOptions, LockRequest, LockStatus, ReadOptions, SessionOptions, SessionRequest,
    SessionStatus, Token,
};

/// The result of the program.
#[derive(Debug)]
struct Told {
    code: Option<i32>,
    printed: String,
    complained: String,
}

/// Runs the program to its end, on a thread that may wait.
async fn keyward(arguments: &[&str]) -> Told {
    let mut command = Command::new(binary::keyward());
    command.env_clear().args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = output.await.expect("it does not panic").expect("the program starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    Told {
        code: output.status.code(),
        printed: text(output.stdout),
        complained: text(output.stderr),
    }
}

async fn backup(cluster: &Cluster, id: NodeId, name: &str, more: &[&str]) -> PathBuf {
    let file = cluster.folder().join(name);
    let path = file.to_str().expect("a path of text").to_owned();
    let endpoint = cluster.endpoint(id);
    let mut arguments = vec!["backup", &path, "--endpoints", &endpoint];
    arguments.extend(more);
    let told = keyward(&arguments).await;
    assert_eq!(told.code, Some(0), "{told:?}");
    file
}

/// Makes the folder of a member.
async fn restore(cluster: &Cluster, id: NodeId, from: &[&str]) -> Told {
    let folder = cluster.data_dir(id).display().to_string();
    let id = id.to_string();
    let mut arguments = vec!["restore", "--data-dir", &folder, "--id", &id];
    arguments.extend(from);
    keyward(&arguments).await
}

/// A new cluster that begins with a backup.
async fn restored(from: &[&str], options: ClusterOptions) -> Cluster {
    let mut cluster = Cluster::prepare(options).await;
    for id in cluster.ids() {
        let told = restore(&cluster, id, from).await;
        assert_eq!(told.code, Some(0), "{told:?}");
    }
    cluster.start_all().await;
    cluster
}

async fn taken(client: &Client, signature: &str) -> Token {
    let answer = ask::lock(client, signature, "ann", ask::LONG, ELECTION).await;
    answer.expect("it is answered").grant().expect("it is free").token
}

async fn holder(client: &Client, signature: &str) -> Option<(String, Token)> {
    let record = client.check(signature.to_owned(), ReadOptions::default()).await;
    match record {
        Ok(answer) => {
            let holder = answer.record.holders.into_iter().next()?;
            Some((holder.signee, holder.token))
        }
        Err(keyward::Error::NotFound { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

fn path(file: &Path) -> &str {
    file.to_str().expect("a path of text")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_cluster_begins_with_a_backup_of_any_node() {
    let old = Cluster::start(ClusterOptions::default()).await;
    let client = old.clients();
    let first = taken(&client, "kept").await;
    let session = SessionRequest { signee: "eve".to_owned(), ttl: Duration::from_secs(60) };
    let session = client.open_session(session, SessionOptions::default()).await;
    let SessionStatus::Open(opened) = session.expect("it is answered") else { panic!("refused") };
    let session = opened.id;
    let within = LockOptions { session: Some(session), ..LockOptions::default() };
    let request = LockRequest { signature: "in/session".to_owned(), ..LockRequest::default() };
    let answer = client.lock(request, within).await.expect("it is answered");
    assert!(matches!(answer.status, LockStatus::Ok(_)), "{answer:?}");

    // Each node has what was acknowledged before, however far behind it was.
    let mut last = first;
    for id in old.ids() {
        last = taken(&client, &format!("before/{id}")).await;
        let file = backup(&old, id, &format!("{id}.backup"), &[]).await;
        let shown = keyward(&["inspect", path(&file), "--locks", "1000"]).await;
        assert_eq!(shown.code, Some(0), "{shown:?}");
        assert!(shown.printed.contains(&format!("before/{id}: ")), "{shown:?}");
    }
    let file = old.folder().join("3.backup");
    // The old cluster goes on.
    let after = taken(&client, "after").await;
    assert!(after > last);
    let again = keyward(&["backup", path(&file), "--endpoints", &old.endpoint(1)]).await;
    assert_eq!(again.code, Some(2), "{again:?}");
    assert!(again.complained.contains("exists already"), "{again:?}");

    let options = ClusterOptions::default().with(&["--snapshot-every", "200"]);
    let mut new = restored(&[path(&file)], options).await;
    let client = new.clients();
    assert_eq!(holder(&client, "kept").await, Some(("ann".to_owned(), first)));
    assert_eq!(holder(&client, "after").await, None);
    assert_eq!(holder(&client, "in/session").await, None);
    let fresh = taken(&client, "fresh").await;
    assert!(fresh.0 > last.0 + TOKEN_GAP, "{fresh} after {last}");

    // Before the first snapshot the state is that of the backup and of the log behind it.
    new.kill_all();
    new.start_all().await;
    let client = new.clients();
    assert_eq!(holder(&client, "kept").await, Some(("ann".to_owned(), first)));
    assert_eq!(holder(&client, "fresh").await, Some(("ann".to_owned(), fresh)));

    // A member that was away for longer than the log reaches back has it from the leader.
    let leader = new.leader().await;
    let away = new.others(leader)[0];
    new.kill(away);
    for number in 0..700 {
        taken(&client, &format!("more/{number}")).await;
    }
    eventually("the log is purged", BOOT, || async {
        let purged = new.status(leader).await?.purged_index;
        if purged > Some(100) { Ok(()) } else { Err(format!("{purged:?}")) }
    })
    .await;
    new.start_node(away).await;
    new.wait_ready(BOOT).await;
    new.wait_caught_up(away, leader, ELECTION).await;
    let stale = ReadOptions { stale: true, ..ReadOptions::default() };
    let record = new.client(away).check("kept".to_owned(), stale).await.expect("it knows of it");
    assert_eq!(record.record.holders[0].token, first);
    new.kill_all();
    new.start_all().await;
    assert_eq!(holder(&new.clients(), "kept").await, Some(("ann".to_owned(), first)));
    ask::release(&new.clients(), "kept", "ann", first).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_a_cluster_without_a_majority_goes_on_as_a_new_one() {
    let mut old =
        Cluster::start(ClusterOptions::default().with(&["--snapshot-every", "200"])).await;
    let client = old.clients();
    for number in 0..250 {
        taken(&client, &format!("many/{number}")).await;
    }
    let last = taken(&client, "last").await;
    let leader = old.leader().await;
    for other in old.others(leader) {
        old.kill(other);
        old.wipe(other);
    }
    // A stale backup needs no majority.
    let file = backup(&old, leader, "stale.backup", &["--stale"]).await;
    let refused = old.folder().join("refused.backup");
    let endpoint = old.endpoint(leader);
    let arguments = ["backup", path(&refused), "--endpoints", &endpoint, "--timeout", "1s"];
    let told = keyward(&arguments).await;
    assert_eq!(told.code, Some(3), "{told:?}");
    assert!(!refused.exists());
    let of_backup = restored(&[path(&file)], ClusterOptions::default()).await;
    assert_eq!(holder(&of_backup.clients(), "last").await, Some(("ann".to_owned(), last)));

    let left = old.data_dir(leader).display().to_string();
    let spare = Cluster::prepare(ClusterOptions::default()).await;
    let told = restore(&spare, 1, &["--from-data-dir", &left]).await;
    assert_eq!(told.code, Some(3), "the node still runs: {told:?}");
    assert!(!spare.data_dir(1).exists(), "nothing has changed");
    old.kill(leader);
    let new = restored(&["--from-data-dir", &left], ClusterOptions::default()).await;
    let client = new.clients();
    assert_eq!(holder(&client, "last").await, Some(("ann".to_owned(), last)));
    assert_eq!(holder(&client, "many/0").await.map(|(signee, _)| signee), Some("ann".to_owned()));
    assert!(taken(&client, "fresh").await.0 > last.0 + TOKEN_GAP);
    let dropped = ["--from-data-dir", &left, "--drop-locks"];
    let empty = restored(&dropped, ClusterOptions::default()).await;
    assert_eq!(holder(&empty.clients(), "last").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_begin_with_different_states_form_no_cluster_and_a_failed_restore_changes_nothing()
 {
    let old = Cluster::start(ClusterOptions::default()).await;
    taken(&old.clients(), "kept").await;
    let file = backup(&old, 1, "one.backup", &[]).await;

    let mut new = Cluster::prepare(ClusterOptions::default()).await;
    // A file that is not whole, at its beginning, in its middle and at its end.
    let whole = std::fs::read(&file).expect("the backup is there");
    for (name, bytes) in [
        ("cut", whole[..whole.len() - 1].to_vec()),
        ("longer", [&whole[..], b"x"].concat()),
        ("flipped", {
            let mut bytes = whole.clone();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            bytes
        }),
        ("empty", Vec::new()),
        ("other", b"not a backup at all, but long enough to be one".to_vec()),
    ] {
        let spoilt = old.folder().join(name);
        std::fs::write(&spoilt, bytes).expect("the folder is writable");
        let told = restore(&new, 1, &[path(&spoilt)]).await;
        assert_eq!(told.code, Some(2), "{name}: {told:?}");
        assert!(told.complained.contains("Nothing was changed"), "{name}: {told:?}");
        assert!(!new.data_dir(1).exists(), "{name}");
    }
    let missing = restore(&new, 1, &["/nowhere/at-all.backup"]).await;
    assert_eq!(missing.code, Some(2), "{missing:?}");

    assert_eq!(restore(&new, 1, &[path(&file)]).await.code, Some(0));
    let again = restore(&new, 1, &[path(&file)]).await;
    assert_eq!(again.code, Some(2), "{again:?}");
    assert!(again.complained.contains("is not empty"), "{again:?}");
    // Node 2 drops the locks, and node 3 was forgotten.
    assert_eq!(restore(&new, 2, &[path(&file), "--drop-locks"]).await.code, Some(0));
    for id in new.ids() {
        new.start_node(id).await;
    }
    eventually("node 1 says what is wrong", BOOT, || async {
        let log = new.logged(1);
        let both = ["node 2 begins with the restored state", "node 3 begins with an empty state"];
        if both.iter().all(|said| log.contains(said)) { Ok(()) } else { Err(log) }
    })
    .await;
    assert!(new.readiness(1).await.is_err());
    for id in [2, 3] {
        new.kill(id);
        new.wipe(id);
        assert_eq!(restore(&new, id, &[path(&file)]).await.code, Some(0));
        new.start_node(id).await;
    }
    new.wait_ready(BOOT).await;
    assert!(holder(&new.clients(), "kept").await.is_some());
    // The state that a folder began with must not be missing before there is a snapshot.
    new.kill(3);
    let snapshots = new.data_dir(3).join("snapshots");
    std::fs::remove_dir_all(&snapshots).expect("it is there");
    new.spawn(3);
    let (status, log) = new.wait_end(3, BOOT).await;
    assert_eq!(status.code(), Some(2), "{log}");
    assert!(log.contains("restored from a backup"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_alone_makes_a_backup_and_rules_and_tokens_outlive_the_restore() {
    let secret = format!("kw_{}", "5e".repeat(32));
    let mut old = Cluster::prepare(ClusterOptions::default()).await;
    let folder = old.folder().to_owned();
    let token = folder.join("first.token");
    std::fs::write(&token, &secret).expect("the folder is writable");
    for id in old.ids() {
        old.own(id).arguments = vec![format!("--bootstrap-token-file={}", token.display())];
    }
    old.use_access_token(&secret);
    old.start_all().await;
    let first = ask::hold(&old.clients(), "kept", "ann", ask::LONG).await.token;
    let file = folder.join("stranger.backup");
    let endpoint = old.endpoint(1);
    let refused = keyward(&["backup", path(&file), "--endpoints", &endpoint]).await;
    assert_eq!(refused.code, Some(5), "{refused:?}");
    assert!(!file.exists());
    let file = backup(&old, 1, "admin.backup", &["--token-file", path(&token)]).await;

    let mut new = Cluster::prepare(ClusterOptions::default()).await;
    for id in new.ids() {
        assert_eq!(restore(&new, id, &[path(&file)]).await.code, Some(0));
    }
    new.use_access_token(&secret);
    new.start_all().await;
    assert_eq!(holder(&new.clients(), "kept").await, Some(("ann".to_owned(), first)));
    let stranger = cluster_tests::cluster::client(&new.endpoints());
    let answer = ask::lock(&stranger, "kept", "eve", ask::LONG, ELECTION).await;
    assert!(matches!(answer, Err(keyward::Error::Unauthorized { .. })), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_go_on_in_a_folder_and_older_ones_are_removed() {
    let cluster = Cluster::start(ClusterOptions::default()).await;
    let client = cluster.clients();
    let dir = cluster.folder().join("backups");
    let once = |keep: &'static str| {
        let (dir, endpoints) = (path(&dir).to_owned(), cluster.endpoints().join(","));
        async move {
            let arguments = ["backup", "--dir", &dir, "--keep", keep, "--endpoints", &endpoints];
            let told = keyward(&arguments).await;
            assert_eq!(told.code, Some(0), "{told:?}");
        }
    };
    let names = || {
        let entries = std::fs::read_dir(&dir).expect("it is there");
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("it is read").file_name()).collect();
        names.sort();
        names
    };
    for number in 0..4 {
        taken(&client, &format!("n/{number}")).await;
        once("2").await;
    }
    let kept = names();
    assert_eq!(kept.len(), 2, "{kept:?}");
    // Nothing but ticks of the clock may have come since; the newest stays in any case.
    once("1").await;
    let newest = names();
    assert_eq!(newest.len(), 1, "{newest:?}");
    assert!(newest[0] >= kept[1], "{newest:?} {kept:?}");
}
