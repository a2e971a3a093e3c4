//! What each node has when a run is over.

use std::time::Duration;

use keyward::service::LockService;
use keyward::types::{ListRequest, LockRecord, ReadOptions};

use super::victim::Victim;
use crate::cluster::{Cluster, NodeId};
use crate::history::{LockName, Observation, RecordSeen, Recorder};
use crate::wait::Stopwatch;

/// How long nodes may take to catch up with one another.
const CATCH_UP: Duration = Duration::from_secs(30);

/// Reads every record of every node's own copy, and writes it into the history.
///
/// # Errors
/// If a node does not catch up, or cannot be read.
pub(super) async fn nodes<V: Victim>(victim: &mut V, recorder: &Recorder) -> Result<(), String> {
    let Some(cluster) = victim.cluster() else { return Ok(()) };
    caught_up(cluster).await?;
    for id in cluster.ids() {
        let (applied, records) = read(cluster, id).await?;
        recorder.observe(Observation {
            at: recorder.now(),
            node: format!("node {id}").into(),
            applied,
            state_hash: None,
            records: Some(records),
        });
    }
    Ok(())
}

/// Waits until every node has applied what the leader had committed when it was asked.
async fn caught_up(cluster: &Cluster) -> Result<(), String> {
    let watch = Stopwatch::start();
    let mut goal = None;
    loop {
        let mut last = String::from("nobody leads");
        if let Some(leader) = cluster.believed_leader().await {
            if goal.is_none() {
                goal = cluster.status(leader).await.ok().and_then(|status| status.committed_index);
            }
            let mut behind = 0;
            for id in cluster.ids() {
                let applied = cluster.status(id).await.ok().and_then(|status| status.applied_index);
                behind += u64::from(goal.is_none() || applied < goal);
            }
            if behind == 0 {
                return Ok(());
            }
            last = format!("{behind} nodes are behind {goal:?}");
        }
        if watch.elapsed() > CATCH_UP {
            return Err(format!("the nodes did not catch up within {CATCH_UP:?}: {last}"));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// All records of a node as of one index: the pages are read again until none was applied between.
async fn read(cluster: &Cluster, id: NodeId) -> Result<(u64, Vec<RecordSeen>), String> {
    let watch = Stopwatch::start();
    loop {
        let (first, last, records) = pages(cluster, id).await?;
        if first == last {
            return Ok((first, records));
        }
        if watch.elapsed() > CATCH_UP {
            return Err(format!("node {id} cannot be read at one index: it does not come to rest"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn pages(cluster: &Cluster, id: NodeId) -> Result<(u64, u64, Vec<RecordSeen>), String> {
    let client = cluster.client(id);
    let mut records = Vec::new();
    let mut after = None;
    let mut first = None;
    loop {
        let limit = ListRequest::MAX_LIMIT;
        let request = ListRequest { prefix: String::new(), after: after.take(), limit };
        let options = ReadOptions { stale: true, ..ReadOptions::default() };
        let page = client.list(request, options).await;
        let page = page.map_err(|error| format!("node {id} cannot be read: {error}"))?;
        let index = page.decided_at.map_or(0, |decided| decided.index);
        records.extend(page.locks.into_iter().flat_map(seen));
        after = page.next;
        if after.is_none() {
            return Ok((first.unwrap_or(index), index, records));
        }
        first = first.or(Some(index));
    }
}

fn seen(record: LockRecord) -> impl Iterator<Item = RecordSeen> {
    let lock = LockName::new(keyward::types::DEFAULT_TABLE, record.signature);
    record.holders.into_iter().map(move |holder| RecordSeen {
        lock: lock.clone(),
        signee: holder.signee.into(),
        instance: holder.instance.map(Into::into),
        level: holder.level,
        token: holder.token.0,
    })
}
