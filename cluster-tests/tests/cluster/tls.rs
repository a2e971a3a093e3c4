//! Both ports with TLS: who is refused, what the log says of it, and files that change under load.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cluster_tests::ask;
use cluster_tests::binary;
use cluster_tests::certificates::{Certificates, peer_ca};
use cluster_tests::cluster::{BOOT, Cluster, ClusterOptions, ELECTION, NodeId, client_with};
use cluster_tests::process::{Output, Process};
use cluster_tests::wait::eventually;
use keyward::api::routes;
use keyward::client::tls::plain;
use keyward::tls::issue::{Ca, Validity};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The timeout for something to appear in a log.
const SAID: Duration = Duration::from_secs(20);

/// The timeout for the suite; the clock is moved instead of waited for.
const SUITE: Duration = Duration::from_secs(90);

fn secured() -> ClusterOptions {
    ClusterOptions { tls: true, ..ClusterOptions::default() }
}

/// Waits until the log of a node contains all of these words in one line.
async fn wait_logged(cluster: &Cluster, id: NodeId, words: &[&str]) {
    eventually(&format!("node {id} logs {words:?}"), SAID, || async {
        let log = cluster.logged(id);
        let said = log.lines().any(|line| words.iter().all(|word| line.contains(word)));
        if said { Ok(()) } else { Err(format!("its log is: {log}")) }
    })
    .await;
}

async fn assert_locks(cluster: &Cluster, id: NodeId, signature: &str) {
    ask::hold(&cluster.client(id), signature, "holder", ask::LONG).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_passes_over_tls() {
    let cluster = Cluster::start(secured().with(&["--debug-clock"])).await;
    let mut command = Command::new(binary::keyward());
    command.env_clear().envs(cluster.certificates().environment());
    command.args(["conformance", "--endpoints", &cluster.endpoints().join(",")]);
    let output = Output::in_folder(cluster.folder(), "conformance");
    let mut suite = Process::spawn(&mut command, output);
    let status = suite.wait(SUITE).await;
    let output = suite.output();
    assert!(status.success(), "{status}\n{}\n{}", output.printed(), output.logged());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_certificate_of_the_ca_is_refused() {
    let cluster = Cluster::start(secured()).await;
    let certificates = cluster.certificates();
    assert_locks(&cluster, 1, "tls/known").await;

    let strangers = Ca::make("strangers", Validity::days(9)).unwrap().0;
    let strange = strangers.client("me", Validity::days(9)).unwrap();
    let expired = certificates.ca().client("me", Validity::over()).unwrap();
    let anonymous = certificates.anonymous();
    let with = |issued: &keyward::tls::issue::Issued| {
        anonymous.clone().identity(issued.certificate.clone(), issued.key.clone())
    };
    let table = [
        (anonymous.clone(), "it wants a certificate, and none was shown", "no certificate"),
        (with(&strange), "it does not trust the CA of the certificate", "signed by no CA"),
        (with(&expired), "the certificate that was shown has expired", "has expired"),
    ];
    for (tls, told, logged) in table {
        let client = client_with(&[cluster.endpoint(1)], tls);
        let bound = Duration::from_secs(2);
        let answer = ask::lock(&client, "tls/refused", "stranger", ask::LONG, bound).await;
        let error = answer.expect_err("it is refused").to_string();
        assert!(error.contains(told), "{error}");
        wait_logged(&cluster, 1, &["a TLS connection is refused", logged]).await;
    }
    // A client that trusts another CA ends the connection from its side.
    let (_, other) = Ca::make("others", Validity::days(9)).unwrap();
    let tls = cluster.tls().ca_certificates(other.certificate);
    let client = client_with(&[cluster.endpoint(1)], tls);
    let bound = Duration::from_secs(2);
    let answer = ask::lock(&client, "tls/refused", "stranger", ask::LONG, bound).await;
    let error = answer.expect_err("the client refuses").to_string();
    assert!(error.contains("it is signed by no CA that is trusted here"), "{error}");
    assert_locks(&cluster, 1, "tls/known").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_another_nodes_certificate_or_another_ca_takes_no_part() {
    let mut cluster = Cluster::start(secured()).await;
    let leader = cluster.leader().await;
    let [wrong, other] = cluster.others(leader)[..] else { panic!("three nodes") };
    cluster.kill(wrong);

    // Its own certificate is checked before it starts.
    let name = format!("node-{wrong}");
    cluster.certificates().write(&name, &cluster.certificates().node(other, Validity::days(9)));
    cluster.spawn(wrong);
    let (status, log) = cluster.wait_end(wrong, BOOT).await;
    assert_eq!(status.code(), Some(2), "{log}");
    assert!(log.contains(&format!("it is not for node {wrong}")), "{log}");

    // A node that was started with a CA of its own is refused by the others, and says so.
    let (ca, issued) = Ca::make("elsewhere", Validity::days(9)).unwrap();
    let certificates = cluster.certificates();
    let all = std::fs::read_to_string(certificates.file(&peer_ca(wrong))).unwrap();
    certificates.put(&peer_ca(wrong), &issued.certificate);
    certificates
        .write(&name, &ca.node(wrong, &["127.0.0.1".to_owned()], Validity::days(9)).unwrap());
    cluster.start_node(wrong).await;
    wait_logged(&cluster, wrong, &["no TLS connection to node", "signed by no CA"]).await;
    wait_logged(&cluster, leader, &["a TLS connection is refused", "peer"]).await;
    assert!(cluster.readiness(wrong).await.is_err());
    assert_locks(&cluster, other, "tls/go-on").await;

    // With its own certificate it is one of them again.
    cluster.kill(wrong);
    certificates.put(&peer_ca(wrong), &all);
    cluster.certificates().write(&name, &cluster.certificates().node(wrong, Validity::days(9)));
    cluster.start_all().await;
    assert_locks(&cluster, wrong, "tls/back").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_says_it_is_another_node_is_refused() {
    let cluster = Cluster::start(secured()).await;
    let leader = cluster.leader().await;
    let others = cluster.others(leader);
    let (target, caller) = (others[0], others[1]);
    // A peer's certificate that is good, and a handshake that names somebody else.
    let certificates = cluster.certificates();
    let read = |kind: &str| {
        std::fs::read(certificates.file(&format!("node-{caller}.{kind}"))).expect("it was made")
    };
    let tls = certificates.anonymous().identity(read("pem"), read("key"));
    let http = keyward::client::tls::http(tls.config().unwrap()).build().unwrap();
    let url = format!("https://{}/peer/v1/vote", cluster.link(leader, target).address());
    let zero = "0".repeat(32);
    let claim = format!(
        "protocol=1 level=1 from={leader} folder={zero} boot=1 run={zero} found=0.0 promised=0.0 \
         to={target}"
    );
    let answer = http.post(url).header("keyward-peer", claim).send().await.unwrap();
    assert_eq!(answer.headers()["keyward-refusal"], "other_certificate");
    let reason = answer.text().await.unwrap();
    assert!(reason.contains(&format!("it is not for node {leader}")), "{reason}");
    wait_logged(&cluster, target, &["the certificate of a caller that says it is node"]).await;
    // A client's certificate is signed by the same CA here, and is no node's.
    let http = keyward::client::tls::http(cluster.tls().config().unwrap()).build().unwrap();
    let url = format!("https://{}/peer/v1/vote", cluster.link(leader, target).address());
    let claim = format!(
        "protocol=1 level=1 from={caller} folder={zero} boot=1 run={zero} found=0.0 promised=0.0 \
         to={target}"
    );
    let answer = http.post(url).header("keyward-peer", claim).send().await.unwrap();
    assert_eq!(answer.headers()["keyward-refusal"], "other_certificate");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_change_under_load_and_no_request_is_lost() {
    let mut cluster = Cluster::start(secured()).await;
    // Another CA: first both are trusted, then every certificate is its.
    let old = cluster.certificates();
    let fresh = Certificates::make(&cluster.folder().join("fresh"), 3);
    let read = |of: &Certificates| std::fs::read_to_string(of.file("ca.pem")).unwrap();
    let bundle = format!("{}{}", read(&old), read(&fresh));
    let both = cluster.tls().ca_certificates(bundle.clone());
    let stop = Arc::new(AtomicBool::new(false));
    let rounds = Arc::new(AtomicU64::new(0));
    let workers: Vec<_> = (0..6_u64)
        .map(|number| {
            let client = client_with(&[cluster.endpoint(number % 3 + 1)], both.clone());
            tokio::spawn(work(client, number, Arc::clone(&stop), Arc::clone(&rounds)))
        })
        .collect();
    for name in ["ca.pem".to_owned(), peer_ca(1), peer_ca(2), peer_ca(3)] {
        old.put(&name, &bundle);
    }
    taken(&mut cluster, 1).await;
    go_on(&rounds).await;
    for id in cluster.ids() {
        old.write(&format!("node-{id}"), &fresh.node(id, Validity::days(20)));
    }
    taken(&mut cluster, 2).await;
    go_on(&rounds).await;
    // An unusable file changes nothing.
    old.put("node-1.key", "nothing");
    cluster.signal(1, Signal::HUP);
    wait_logged(&cluster, 1, &["cannot be used; the old ones stay", "no private key"]).await;
    old.write("node-1", &fresh.node(1, Validity::days(21)));
    go_on(&rounds).await;
    stop.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.await.expect("no request was lost");
    }
    // The metric follows, and warns in time.
    let http = keyward::client::tls::http(both.config().unwrap()).build().unwrap();
    let url = format!("{}{}", cluster.endpoint(2), routes::METRICS);
    let page = http.get(url).send().await.unwrap().text().await.unwrap();
    for what in ["client", "client_ca", "peer", "peer_ca"] {
        let series = format!("keyward_certificate_expiry_timestamp_seconds{{use=\"{what}\"}} ");
        assert!(page.contains(&series), "{page}");
    }
    wait_logged(&cluster, 2, &["a certificate expires soon", "peer"]).await;
}

/// Waits until every node has taken files into use this often, on both ports.
async fn taken(cluster: &mut Cluster, times: usize) {
    for id in cluster.ids() {
        cluster.signal(id, Signal::HUP);
    }
    for id in cluster.ids() {
        eventually(&format!("node {id} reads its files"), SAID, || async {
            let log = cluster.logged(id);
            let taken = |side: &str| {
                let both = |line: &&str| line.contains("read anew") && line.contains(side);
                log.lines().filter(both).count() >= times
            };
            let done = taken("client") && taken("peer");
            if done { Ok(()) } else { Err(log) }
        })
        .await;
    }
}

/// Waits until the workers have done some more rounds.
async fn go_on(rounds: &AtomicU64) {
    let before = rounds.load(Ordering::Relaxed);
    eventually("the workers go on", SAID, || async {
        let done = rounds.load(Ordering::Relaxed) - before;
        if done > 24 { Ok(()) } else { Err(format!("{done} rounds")) }
    })
    .await;
}

/// Locks and unlocks until it is stopped; every request must be done.
async fn work(client: keyward::Client, number: u64, stop: Arc<AtomicBool>, rounds: Arc<AtomicU64>) {
    let signature = format!("tls/{number}");
    while !stop.load(Ordering::Relaxed) {
        let locked = ask::lock(&client, &signature, "worker", ask::LONG, ELECTION).await;
        let grant = locked.expect("it is not lost").grant().expect("nobody else has it").clone();
        ask::release(&client, &signature, "worker", grant.token).await;
        rounds.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_tls_disturb_nobody() {
    let cluster = Cluster::start(secured()).await;
    let address = cluster.client_link(1).address();
    let peers = cluster.link(2, 1).address();
    let mut half = Vec::new();
    for port in [address, peers] {
        for bytes in [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], b"\x16", b"", b"\0\xff"]
        {
            let mut stream = TcpStream::connect(port).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            half.push(stream);
        }
    }
    // Plain HTTP is told what to do, on both ports.
    for port in [address, peers] {
        let answer = plain().build().unwrap().get(format!("http://{port}/healthz")).send().await;
        let answer = answer.unwrap();
        assert_eq!(answer.status(), 400);
        assert!(answer.text().await.unwrap().contains("this port speaks TLS: use https://"));
    }
    // Bytes that no handshake begins with end their connection at once.
    let mut garbage = TcpStream::connect(address).await.unwrap();
    garbage.write_all(&[0xff; 64]).await.unwrap();
    let mut rest = Vec::new();
    let read = tokio::time::timeout(SAID, garbage.read_to_end(&mut rest)).await;
    read.expect("it is ended").ok();
    assert_locks(&cluster, 1, "tls/undisturbed").await;
    assert_eq!(cluster.leader().await, cluster.leader().await);
    drop(half);
}

#[tokio::test(flavor = "multi_thread")]
async fn https_to_a_plain_port_is_told_in_words() {
    let cluster = Cluster::start(ClusterOptions { nodes: 1, ..Default::default() }).await;
    let endpoint = cluster.endpoint(1).replace("http://", "https://");
    let client = cluster_tests::cluster::client(&[endpoint]);
    let answer = ask::lock(&client, "tls/plain", "me", ask::LONG, Duration::from_secs(2)).await;
    let error = answer.expect_err("there is no TLS").to_string();
    assert!(error.contains("does not speak TLS"), "{error}");
}
