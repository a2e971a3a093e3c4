//! Offline, read-only inspection of a data folder, for an operator who must decide what to do with
//! a node that does not start.
//!
//! Damage is part of the report. The checkpoint is inspected in a copy, because sled writes when it
//! opens.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::path::Path;

use bytes::Bytes;
use fs4::fs_std::FileExt;
use serde::Serialize;

use super::checkpoint::CheckpointMeta;
use super::disk::{Disk, RealDisk};
use super::log::inspect as log_inspect;
use super::log::inspect::LogReport;
use super::{LogEntry, LogId, StorageError, Uuid, Vote, checkpoint, identity, snapshots};

/// A part of the folder.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part<T> {
    /// The part does not exist.
    Absent,
    /// The contents of the part.
    Found(T),
    /// The part cannot be read, for this reason.
    Damaged(String),
}

impl<T> Part<T> {
    pub(super) fn damaged(error: &StorageError) -> Self {
        Self::Damaged(error.to_string())
    }

    fn damage(&self) -> Option<&String> {
        match self {
            Self::Damaged(why) => Some(why),
            Self::Absent | Self::Found(_) => None,
        }
    }
}

/// The contents of a data folder.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The folder.
    pub folder: String,
    /// Whether a process has it open: then the rest may be changing.
    pub in_use: bool,
    /// The identity of the folder.
    pub identity: Part<IdentityReport>,
    /// The vote, if one was ever saved.
    pub vote: Part<Option<Vote>>,
    /// The log.
    pub log: Part<LogReport>,
    /// The snapshot files, oldest first.
    pub snapshots: Vec<SnapshotReport>,
    /// The checkpoint.
    pub checkpoint: Part<CheckpointReport>,
}

/// The identity of the folder.
#[derive(Clone, Debug, Serialize)]
pub struct IdentityReport {
    /// The node's id.
    pub node: u64,
    /// The folder's random number, in hexadecimal like all such numbers here.
    pub uuid: String,
    /// The number of times the node has started.
    pub boot: u64,
    /// The cluster, once known.
    pub cluster: Option<String>,
    /// Whether it has taken part.
    pub joined: bool,
    /// The initial members.
    pub members: BTreeMap<u64, String>,
    /// The highest boot number seen of each peer.
    pub seen: BTreeMap<String, u64>,
}

/// A snapshot file.
#[derive(Clone, Debug, Serialize)]
pub struct SnapshotReport {
    /// The file, relative to the data folder.
    pub file: String,
    /// The contents of the snapshot.
    pub contents: Part<SnapshotContents>,
}

/// The contents of a snapshot.
#[derive(Clone, Debug, Serialize)]
pub struct SnapshotContents {
    /// The cluster.
    pub cluster: Option<String>,
    /// The last entry applied to the state.
    pub last: Option<LogId>,
    /// The entry that set the membership.
    pub membership_log: Option<LogId>,
    /// The state's feature level.
    pub feature_level: u32,
    /// The size of the state in bytes.
    pub body_bytes: u64,
}

/// The meta data of a checkpoint whose records match its totals.
#[derive(Clone, Debug, Serialize)]
pub struct CheckpointReport {
    /// The node it belongs to.
    pub node: String,
    /// The last entry applied to it.
    pub applied: LogId,
    /// The number of its records.
    pub records: u64,
}

/// Reads a data folder. `describe` renders an entry's payload as text.
pub fn inspect(folder: &Path, describe: &dyn Fn(&LogEntry) -> String) -> Report {
    let disk = RealDisk::existing(folder);
    Report {
        folder: folder.display().to_string(),
        in_use: in_use(folder),
        identity: identity_report(&disk),
        vote: log_inspect::vote(&disk),
        log: log_inspect::log(&disk, describe),
        snapshots: snapshot_reports(&disk),
        checkpoint: checkpoint_report(folder),
    }
}

/// Reads the state in a snapshot file that [`Report::snapshots`] names.
///
/// # Errors
/// When it cannot be read, or its contents are not what was written.
pub fn snapshot_body(folder: &Path, file: &str) -> Result<Vec<u8>, StorageError> {
    snapshots::read_body(&snapshots::load(&RealDisk::existing(folder), file)?)
}

/// Builds a state from the records of the checkpoint, as [`checkpoint::Checkpoint::open`] does.
///
/// # Errors
/// The reason why it cannot be used.
pub fn load_checkpoint<S>(
    folder: &Path,
    load: impl FnOnce(&CheckpointMeta, &mut dyn Iterator<Item = (Bytes, Bytes)>) -> Result<S, String>,
) -> Result<S, String> {
    with_copy(&folder.join("checkpoint"), |copy| checkpoint::look(copy, load))
        .map(|(_, state)| state)
}

impl Report {
    /// The damage found, one line each; empty if the node would start. A checkpoint that will be
    /// rebuilt and a torn tail that will be cut are not damage.
    pub fn damage(&self) -> Vec<String> {
        let mut damage = Vec::new();
        let mut part = |why: Option<&String>| damage.extend(why.cloned());
        part(self.identity.damage());
        part(self.vote.damage());
        part(self.log.damage());
        for snapshot in &self.snapshots {
            part(snapshot.contents.damage());
        }
        if let Part::Found(log) = &self.log {
            for segment in &log.segments {
                let located = |why: &String| format!("{}: {why}", segment.file);
                damage.extend(segment.damage.as_ref().map(located));
            }
        }
        damage
    }
}

fn in_use(folder: &Path) -> bool {
    let Ok(file) = File::open(folder.join("LOCK")) else { return false };
    // The lock is released when the file is closed.
    !matches!(file.try_lock_exclusive(), Ok(true))
}

fn identity_report(disk: &dyn Disk) -> Part<IdentityReport> {
    let facts = match identity::load(disk) {
        Ok(None) => return Part::Absent,
        Ok(Some(facts)) => facts,
        Err(error) => return Part::damaged(&error),
    };
    Part::Found(IdentityReport {
        node: facts.node,
        uuid: facts.uuid.to_string(),
        boot: facts.boot,
        cluster: facts.cluster.as_ref().map(Uuid::to_string),
        joined: facts.joined,
        members: facts.members.iter().map(|(id, uuid)| (*id, uuid.to_string())).collect(),
        seen: facts.seen.iter().map(|(uuid, seen)| (uuid.to_string(), seen.boot)).collect(),
    })
}

fn snapshot_reports(disk: &dyn Disk) -> Vec<SnapshotReport> {
    let files = match snapshots::list(disk) {
        Ok(listing) => listing.files,
        Err(error) => {
            let file = snapshots::FOLDER.to_owned();
            return vec![SnapshotReport { file, contents: Part::damaged(&error) }];
        }
    };
    let report = |snapshots::File { path: file, .. }: snapshots::File| {
        let contents = match snapshots::load(disk, &file) {
            Err(error) => Part::damaged(&error),
            Ok(stored) => Part::Found(SnapshotContents {
                cluster: stored.meta.cluster.as_ref().map(Uuid::to_string),
                last: stored.meta.last,
                membership_log: stored.meta.membership_log,
                feature_level: stored.meta.feature_level,
                body_bytes: stored.meta.body_bytes,
            }),
        };
        SnapshotReport { file, contents }
    };
    files.into_iter().map(report).collect()
}

fn checkpoint_report(folder: &Path) -> Part<CheckpointReport> {
    let from = folder.join("checkpoint");
    if fs::read_dir(&from).is_err() {
        return Part::Absent;
    }
    let looked =
        with_copy(&from, |copy| checkpoint::look(copy, |_, records| Ok(records.count() as u64)));
    match looked {
        Ok((stored, records)) => Part::Found(CheckpointReport {
            node: stored.node.to_string(),
            applied: stored.meta.applied,
            records,
        }),
        Err(reason) => Part::Damaged(format!("{reason}; it will be rebuilt at the start")),
    }
}

/// Runs `act` on a copy of a folder, which is removed afterwards.
fn with_copy<T>(folder: &Path, act: impl FnOnce(&Path) -> Result<T, String>) -> Result<T, String> {
    let copy = std::env::temp_dir().join(format!("keyward-inspect-{}", Uuid::random()));
    let result = copy_folder(folder, &copy)
        .map_err(|error| format!("it cannot be copied to be looked at: {error}"))
        .and_then(|()| act(&copy));
    if let Err(error) = fs::remove_dir_all(&copy) {
        tracing::warn!(folder = %copy.display(), %error, "a temporary copy is left behind");
    }
    result
}

fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), &to)?;
        }
    }
    Ok(())
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let in_use = if self.in_use { " (in use: what follows may be in motion)" } else { "" };
        writeln!(f, "data folder {}{in_use}", self.folder)?;
        part(f, "identity", &self.identity, |f, identity| {
            writeln!(f, "node {}, uuid {}, boot {}", identity.node, identity.uuid, identity.boot)?;
            let joined = if identity.joined { "has taken part" } else { "has not taken part yet" };
            let cluster = identity.cluster.as_deref().unwrap_or("not known yet");
            writeln!(f, "  cluster {cluster}, {joined}")?;
            for (id, uuid) in &identity.members {
                writeln!(f, "  initial member {id}: {uuid}")?;
            }
            identity
                .seen
                .iter()
                .try_for_each(|(uuid, boot)| writeln!(f, "  seen: {uuid} with boot number {boot}"))
        })?;
        part(f, "vote", &self.vote, |f, vote| match vote {
            Some(vote) => {
                let committed = if vote.committed { ", committed" } else { "" };
                writeln!(f, "term {} for node {}{committed}", vote.term, vote.node)
            }
            None => writeln!(f, "none yet"),
        })?;
        part(f, "log", &self.log, write_log)?;
        if self.snapshots.is_empty() {
            writeln!(f, "snapshots: none")?;
        }
        for snapshot in &self.snapshots {
            part(f, &snapshot.file, &snapshot.contents, |f, contents| {
                let (last, bytes) = (shown(contents.last), contents.body_bytes);
                writeln!(f, "up to entry {last}, {bytes} bytes of state, whole")
            })?;
        }
        part(f, "checkpoint", &self.checkpoint, |f, checkpoint| {
            let CheckpointReport { applied, records, .. } = checkpoint;
            writeln!(f, "as of entry {applied}, {records} records, which add up")
        })
    }
}

fn write_log(f: &mut fmt::Formatter<'_>, log: &LogReport) -> fmt::Result {
    let (purged, committed) = (shown(log.purged), shown(log.committed));
    writeln!(f, "purged up to {purged}, committed at least up to {committed}")?;
    for segment in &log.segments {
        let closed = if segment.closed { ", closed cleanly" } else { "" };
        writeln!(
            f,
            "  {}: {} frames, ending at byte {} of {}{closed}",
            segment.file, segment.frames, segment.end, segment.bytes
        )?;
        if let Some(damage) = &segment.damage {
            writeln!(f, "    DAMAGED: {damage}")?;
        }
        if let Some(torn) = &segment.torn {
            writeln!(f, "    {torn}: it will be cut at the start")?;
        }
    }
    for entry in &log.entries {
        let (id, bytes) = (entry.id, entry.bytes);
        writeln!(f, "  {id}  {bytes} bytes at {}:{}  {}", entry.file, entry.offset, entry.payload)?;
    }
    Ok(())
}

fn part<T>(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    part: &Part<T>,
    write: impl FnOnce(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    write!(f, "{name}: ")?;
    match part {
        Part::Absent => writeln!(f, "absent"),
        Part::Found(found) => write(f, found),
        Part::Damaged(why) => writeln!(f, "DAMAGED: {why}"),
    }
}

fn shown(id: Option<LogId>) -> String {
    id.map_or_else(|| "none".to_owned(), |id| id.to_string())
}

#[cfg(test)]
mod tests;
