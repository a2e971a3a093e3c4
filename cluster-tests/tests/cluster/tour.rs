//! The five lines of the README, as any HTTP client sends them.

use cluster_tests::cluster::{Cluster, ClusterOptions, ELECTION, NodeId};
use cluster_tests::wait::eventually;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn five_requests_lock_and_unlock_through_any_node_before_and_after_the_leader_is_killed() {
    let mut cluster = Cluster::start(ClusterOptions::default()).await;
    for id in cluster.ids() {
        tour(&cluster, id, "before").await;
    }
    let leader = cluster.leader().await;
    cluster.kill(leader);
    let survivors = cluster.others(leader);
    // Until then a survivor may have forwarded a request to the dead leader: its outcome is
    // unknown.
    cluster.leader_among(&survivors).await;
    for &id in &survivors {
        tour(&cluster, id, "without").await;
    }
    cluster.start_all().await;
    for id in cluster.ids() {
        tour(&cluster, id, "after").await;
    }
}

async fn tour(cluster: &Cluster, id: NodeId, when: &str) {
    let signature = format!("tour/{when}/{id}");
    let lock = |signee: &str| {
        let body = json!({"signature": signature, "signee": signee, "duration_ms": 30_000});
        post(cluster, id, "/v1/lock", body)
    };
    let (status, mine) = lock("worker-1").await;
    assert_eq!((status, &mine["status"]), (200, &json!("ok")), "{mine}");
    let token = mine["token"].as_u64().expect("a token");
    let left = mine["expires_in_ms"].as_u64().expect("a remaining time");
    assert!((1..=30_000).contains(&left), "{mine}");

    let (status, refused) = lock("worker-2").await;
    assert_eq!((status, &refused["code"]), (423, &json!("forbidden")), "{refused}");
    assert_eq!(refused["holders"][0]["signee"], "worker-1", "{refused}");

    let (status, read) = check(cluster, id, &signature).await;
    assert_eq!((status, &read["holders"][0]["token"]), (200, &json!(token)), "{read}");

    let body = json!({"signature": signature, "signee": "worker-1", "token": token});
    let (status, released) = post(cluster, id, "/v1/unlock", body).await;
    assert_eq!((status, &released["status"]), (200, &json!("ok")), "{released}");

    let (status, theirs) = lock("worker-2").await;
    assert_eq!((status, &theirs["status"]), (200, &json!("ok")), "{theirs}");
    assert!(theirs["token"].as_u64().expect("a token") > token, "{theirs}");
}

/// Retries a request as long as the answer is that it was certainly not done.
async fn post(cluster: &Cluster, id: NodeId, path: &str, body: Value) -> (u16, Value) {
    eventually(&format!("{path} is answered by node {id}"), ELECTION, || async {
        let url = format!("{}{path}", cluster.endpoint(id));
        let answer = cluster.http().post(url).json(&body).send().await;
        answered(answer).await
    })
    .await
}

async fn check(cluster: &Cluster, id: NodeId, signature: &str) -> (u16, Value) {
    eventually(&format!("a check is answered by node {id}"), ELECTION, || async {
        let url = format!("{}/v1/lock?signature={signature}", cluster.endpoint(id));
        answered(cluster.http().get(url).send().await).await
    })
    .await
}

async fn answered(answer: reqwest::Result<reqwest::Response>) -> Result<(u16, Value), String> {
    let answer = answer.map_err(|error| format!("{error:?}"))?;
    let status = answer.status().as_u16();
    let body: Value = answer.json().await.map_err(|error| format!("{error:?}"))?;
    if status == 503 { Err(body.to_string()) } else { Ok((status, body)) }
}
