//! The report on a real folder, intact and damaged.

use std::fs;
use std::sync::Arc;

use super::*;
use crate::storage::checkpoint::{Checkpoint, CheckpointOptions};
use crate::storage::log::{Log, LogOptions};
use crate::storage::snapshots::{SnapshotMeta, Snapshots};
use crate::storage::{FolderLock, Identity};

fn id(index: u64) -> LogId {
    LogId { term: 1, index }
}

/// A closed folder with data in every part.
fn filled() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let _lock = FolderLock::acquire(folder.path()).unwrap();
    let disk = Arc::new(RealDisk::new(folder.path()).unwrap());
    let identity = Identity::open(disk.clone(), 2).unwrap();
    identity.set_cluster(Uuid(1), BTreeMap::from([(2, identity.facts().uuid)])).unwrap();
    let options = LogOptions { segment_bytes: 4096, ..LogOptions::default() };
    let (log, _) = Log::open(disk.clone(), options).unwrap();
    let entry = |index| LogEntry { id: id(index), payload: format!("entry {index}").into() };
    log.append((0..9).map(entry).collect(), |result| result.unwrap());
    log.append((9..12).map(entry).collect(), |result| result.unwrap());
    log.truncate_after(Some(id(10)), |result| result.unwrap());
    log.save_vote(Vote { term: 4, node: 1, committed: true }, |result| result.unwrap());
    let meta = SnapshotMeta {
        cluster: Some(Uuid(1)),
        last: Some(id(5)),
        membership: vec![],
        membership_log: None,
        feature_level: 1,
        body_bytes: 0,
    };
    Snapshots::open(disk, None).unwrap().save(meta, b"state").unwrap();
    log.purge(id(5), |result| result.unwrap());
    let place = folder.path().join("checkpoint");
    let options = CheckpointOptions { folder: place, node: identity.facts().uuid };
    let (mut checkpoint, _) = Checkpoint::open(options, &log, None, |_, _| Ok(())).unwrap();
    let meta = CheckpointMeta { applied: id(8), membership: vec![], state: vec![] };
    let change = (b"a".to_vec(), Some(b"1".to_vec()));
    checkpoint.write(&meta, [change].into_iter()).unwrap();
    drop(checkpoint);
    log.close();
    folder
}

fn report(folder: &Path) -> Report {
    inspect(folder, &|entry| String::from_utf8_lossy(&entry.payload).into_owned())
}

fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for part in ["", "log", "snapshots", "checkpoint/sled-0"] {
        for entry in fs::read_dir(folder.join(part)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                files.push((path.display().to_string(), fs::read(&path).unwrap()));
            }
        }
    }
    files.sort();
    files
}

#[test]
fn it_tells_what_is_there_and_changes_nothing() {
    let folder = filled();
    let before = contents(folder.path());
    let report = report(folder.path());
    assert!(contents(folder.path()) == before);
    assert_eq!(report.damage(), Vec::<String>::new());
    let text = report.to_string();
    for expected in [
        "node 2, uuid ",
        "vote: term 4 for node 1, committed",
        "log: purged up to 5@1",
        "closed cleanly",
        "6@1  7 bytes at log/segment-0000000000:",
        "entry 10",
        "up to entry 5@1, 5 bytes of state, whole",
        "checkpoint: as of entry 8@1, 1 records, which add up",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in\n{text}");
    }
    for unexpected in ["entry 5\n", "entry 11", "in use", "DAMAGED"] {
        assert!(!text.contains(unexpected), "{unexpected:?} is in\n{text}");
    }
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["log"]["found"]["entries"].as_array().unwrap().len(), 5);
    let snapshot = &report.snapshots[0].file;
    assert_eq!(snapshot_body(folder.path(), snapshot).unwrap(), b"state");
    let loaded = load_checkpoint(folder.path(), |_, records| Ok(records.count())).unwrap();
    assert_eq!(loaded, 1);
}

#[test]
fn it_shows_damage_with_its_place() {
    let folder = filled();
    for (file, at, expected) in [
        ("identity", 30, "identity is damaged at byte 0"),
        ("log/manifest", 30, "log/manifest is damaged at byte 0"),
        ("log/segment-0000000000", 100, "no valid frame at byte 0, but a later one at byte"),
    ] {
        let path = folder.path().join(file);
        let whole = fs::read(&path).unwrap();
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        fs::write(&path, damaged).unwrap();
        let report = report(folder.path());
        assert!(report.damage()[0].contains(expected), "{:?}", report.damage());
        assert!(report.to_string().contains("DAMAGED"));
        fs::write(&path, whole).unwrap();
    }
    fs::write(folder.path().join("vote"), b"").unwrap();
    fs::remove_dir_all(folder.path().join("checkpoint")).unwrap();
    let text = report(folder.path()).to_string();
    assert!(text.contains("vote: DAMAGED"), "{text}");
    assert!(text.contains("checkpoint: absent"), "{text}");
}

#[test]
fn it_says_when_the_folder_is_in_use_and_when_there_is_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let text = report(folder.path()).to_string();
    assert!(text.contains("log: absent") && text.contains("snapshots: none"), "{text}");
    assert!(fs::read_dir(folder.path()).unwrap().next().is_none());
    let _lock = FolderLock::acquire(folder.path()).unwrap();
    assert!(report(folder.path()).in_use);
}
