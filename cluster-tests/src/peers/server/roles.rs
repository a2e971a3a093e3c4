//! Queries a running node: whether it serves, and whether it leads.

use std::time::Duration;

use keyward::api::{ClusterStatus, routes};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Kind, Role};

const LOOK: Duration = Duration::from_secs(3);

/// The role that the node at this endpoint reports.
pub(super) async fn ask(
    kind: &Kind,
    http: &reqwest::Client,
    endpoint: &str,
    index: usize,
) -> Result<Role, String> {
    match kind {
        Kind::Keyward { .. } => keyward(http, endpoint, index).await,
        Kind::Etcd => etcd(http, endpoint).await,
        Kind::ZooKeeper => zookeeper(endpoint).await,
        Kind::Redis => redis(endpoint).await,
    }
}

/// The version that a node of `ZooKeeper` reports.
pub(super) async fn zookeeper_version(address: &str) -> Result<String, String> {
    let said = say(address, "srvr").await?;
    let version = said.lines().find_map(|line| line.strip_prefix("Zookeeper version: "));
    let version = version.ok_or_else(|| format!("no version in {said:?}"))?;
    Ok(version.split(['-', ',']).next().unwrap_or(version).to_owned())
}

async fn keyward(http: &reqwest::Client, endpoint: &str, index: usize) -> Result<Role, String> {
    let ready = http.get(format!("{endpoint}{}", routes::READYZ)).send().await;
    ready.and_then(reqwest::Response::error_for_status).map_err(|error| format!("{error:?}"))?;
    let answer = http.get(format!("{endpoint}{}", routes::CLUSTER)).send().await;
    let answer = answer.map_err(|error| format!("{error:?}"))?;
    let status: ClusterStatus = answer.json().await.map_err(|error| format!("{error:?}"))?;
    let me = u64::try_from(index + 1).expect("one of three");
    match status.leader {
        Some(leader) if leader == me => Ok(Role::Leads),
        Some(_) => Ok(Role::Follows),
        None => Err(String::from("it knows no leader")),
    }
}

/// The answer of etcd's JSON gateway, which writes numbers as strings and leaves out zeros.
#[derive(Deserialize)]
struct EtcdStatus {
    header: EtcdHeader,
    leader: Option<String>,
}

#[derive(Deserialize)]
struct EtcdHeader {
    member_id: String,
}

async fn etcd(http: &reqwest::Client, endpoint: &str) -> Result<Role, String> {
    let url = format!("{endpoint}/v3/maintenance/status");
    let answer = http.post(url).body("{}").send().await;
    let answer = answer.map_err(|error| format!("{error:?}"))?;
    let status: EtcdStatus = answer.json().await.map_err(|error| format!("{error:?}"))?;
    match status.leader {
        Some(leader) if leader == status.header.member_id => Ok(Role::Leads),
        Some(_) => Ok(Role::Follows),
        None => Err(String::from("it knows no leader")),
    }
}

async fn zookeeper(address: &str) -> Result<Role, String> {
    let said = say(address, "srvr").await?;
    match said.lines().find_map(|line| line.strip_prefix("Mode: ")) {
        Some("leader") => Ok(Role::Leads),
        Some("follower") => Ok(Role::Follows),
        other => Err(format!("it says {other:?}: {said:?}")),
    }
}

async fn redis(endpoint: &str) -> Result<Role, String> {
    let address = endpoint.trim_start_matches("redis://");
    let said = say(address, "PING\r\nQUIT\r\n").await?;
    if said.starts_with("+PONG") { Ok(Role::Alone) } else { Err(format!("it says {said:?}")) }
}

/// Sends a word and reads until the node closes the connection.
async fn say(address: &str, word: &str) -> Result<String, String> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(word.as_bytes()).await?;
        let mut said = String::new();
        stream.read_to_string(&mut said).await?;
        Ok::<_, std::io::Error>(said)
    };
    match tokio::time::timeout(LOOK, exchange).await {
        Ok(said) => said.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {LOOK:?}")),
    }
}
