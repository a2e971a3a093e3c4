//! The state of each node when a run is over.

use std::fs;
use std::path::Path;
use std::time::Duration;

use keyward::client::Client;
use keyward::limits::{Limit, SEGMENT, SNAPSHOT_CHUNK};
use keyward::service::{LockService, all_tables};
use keyward::types::{DEFAULT_TABLE, ListRequest, LockRecord, ReadOptions};

use super::victim::Victim;
use crate::cluster::{Cluster, NodeId};
use crate::history::{LockName, Observation, RecordSeen, Recorder};
use crate::limits::Reach;
use crate::wait::Stopwatch;

/// The timeout for nodes to catch up with one another.
const CATCH_UP: Duration = Duration::from_secs(30);

/// Reads every record of every node's own copy, and records it in the history.
///
/// # Errors
/// If a node does not catch up, or cannot be read.
pub(super) async fn nodes<V: Victim>(victim: &mut V, recorder: &Recorder) -> Result<(), String> {
    let Some(cluster) = victim.cluster() else { return Ok(()) };
    caught_up(cluster).await?;
    for id in cluster.ids() {
        recorder.observe(node(cluster, id, recorder).await?);
    }
    Ok(())
}

/// Reads every record of a node's own copy, at a time of the recorder's.
///
/// # Errors
/// If it cannot be read.
pub(crate) async fn node(
    cluster: &Cluster,
    id: NodeId,
    recorder: &Recorder,
) -> Result<Observation, String> {
    let (applied, records) = read(cluster, id).await?;
    Ok(Observation {
        at: recorder.now(),
        node: format!("node {id}").into(),
        applied,
        state_hash: None,
        records: Some(records),
    })
}

/// Measures the files on the nodes' disks that have size limits.
pub(super) fn amounts(cluster: &Cluster, reach: &Reach) {
    let most = |limit: Limit| u64::try_from(limit.largest).unwrap_or(u64::MAX);
    for id in cluster.ids() {
        let data = cluster.data_dir(id);
        let log = sizes(&data.join("log"), "segment-");
        // Enough is more than one file.
        let enough = log.iter().min().copied().unwrap_or(u64::MAX).saturating_add(1);
        reach.worked(SEGMENT, log.iter().sum(), enough);
        let largest = sizes(&data.join("snapshots"), "").into_iter().max().unwrap_or(0);
        reach.worked(SNAPSHOT_CHUNK, largest, most(SNAPSHOT_CHUNK) + 1);
    }
}

/// The sizes of a folder's files whose names begin so.
fn sizes(folder: &Path, prefix: &str) -> Vec<u64> {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let files = files.filter(|file| file.file_name().to_string_lossy().starts_with(prefix));
    files.filter_map(|file| file.metadata().ok()).map(|data| data.len()).collect()
}

/// Waits until every node has applied what the leader had committed when it was first read.
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

/// All records of a node as of one index: the pages are read again until no entry was applied in
/// between.
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

/// The pages of all tables, and the first and the last index at which one was read.
async fn pages(cluster: &Cluster, id: NodeId) -> Result<(u64, u64, Vec<RecordSeen>), String> {
    let client = cluster.client(id);
    let options = ReadOptions { stale: true, ..ReadOptions::default() };
    let tables = all_tables(&client, options).await;
    let tables = tables.map_err(|error| format!("node {id} cannot be read: {error}"))?;
    let mut all = Vec::new();
    let (mut first, mut last) = (None, 0);
    for table in [DEFAULT_TABLE.to_owned()]
        .into_iter()
        .chain(tables.into_iter().map(|info| info.table).filter(|table| table != DEFAULT_TABLE))
    {
        let (from, to, records) = pages_of(&client, id, &table).await?;
        (first, last) = (first.or(Some(from)), to);
        all.extend(records);
    }
    Ok((first.unwrap_or(last), last, all))
}

async fn pages_of(
    client: &Client,
    id: NodeId,
    table: &str,
) -> Result<(u64, u64, Vec<RecordSeen>), String> {
    let mut records = Vec::new();
    let mut after = None;
    let mut first = None;
    loop {
        let limit = ListRequest::MAX_LIMIT;
        let request = ListRequest { after: after.take(), limit, ..ListRequest::default() };
        let table = Some(table.to_owned());
        let options = ReadOptions { table: table.clone(), stale: true, ..ReadOptions::default() };
        let page = client.list(request, options).await;
        let page = page.map_err(|error| format!("node {id} cannot be read: {error}"))?;
        let index = page.decided_at.map_or(0, |decided| decided.index);
        records.extend(
            page.locks
                .into_iter()
                .flat_map(|record| seen(table.as_deref().unwrap_or_default(), record)),
        );
        after = page.next;
        if after.is_none() {
            return Ok((first.unwrap_or(index), index, records));
        }
        first = first.or(Some(index));
    }
}

fn seen(table: &str, record: LockRecord) -> impl Iterator<Item = RecordSeen> + use<> {
    let lock = LockName::new(table, record.signature);
    record.holders.into_iter().map(move |holder| RecordSeen {
        lock: lock.clone(),
        signee: holder.signee.into(),
        instance: holder.instance.map(Into::into),
        level: holder.level,
        token: holder.token.0,
    })
}
