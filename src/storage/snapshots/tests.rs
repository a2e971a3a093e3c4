//! Snapshots on a disk that loses unsynced data and is damaged.

use std::io::{ErrorKind, Read};

use super::*;
use crate::storage::disk::{Fault, FaultyCall, MemDisk, Unsynced};
use crate::storage::mix;

fn meta(index: u64) -> SnapshotMeta {
    SnapshotMeta {
        cluster: Some(Uuid(7)),
        last: Some(LogId { term: 2, index }),
        membership: vec![1, 2, 3],
        membership_log: Some(LogId { term: 1, index: 1 }),
        feature_level: 1,
        body_bytes: 0,
    }
}

#[test]
fn the_meta_data_is_written_the_same_for_ever() {
    let golden = format!("01{:032x}01020903010203010101{}", 7, "01");
    crate::storage::envelope::assert_written(file::KIND, &meta(9), &golden);
}

fn body(index: u64, len: u64) -> Vec<u8> {
    (0..len).map(|at| mix(index ^ at).to_le_bytes()[0]).collect()
}

fn open(disk: &MemDisk, purged: Option<u64>) -> Result<Snapshots, StorageError> {
    Snapshots::open(Arc::new(disk.clone()), purged.map(|index| LogId { term: 2, index }))
}

fn files(disk: &MemDisk) -> usize {
    disk.paths().len()
}

#[test]
fn the_newest_is_found_again_and_older_ones_go() {
    let disk = MemDisk::new(1);
    let snapshots = open(&disk, None).unwrap();
    assert_eq!(snapshots.latest(), None);
    for (index, len) in [(3, 0), (5, 10), (9, 300_000), (12, 262_144)] {
        let stored = snapshots.save(meta(index), &body(index, len)).unwrap();
        assert_eq!(stored.meta.body_bytes, len);
        assert_eq!(snapshots.body(&stored).unwrap(), body(index, len));
        assert_eq!((files(&disk), snapshots.latest()), (1, Some(stored)));
    }
    disk.crash(Unsynced::Lost);
    let snapshots = open(&disk, Some(12)).unwrap();
    let latest = snapshots.latest().unwrap();
    assert_eq!(latest.meta, SnapshotMeta { body_bytes: 262_144, ..meta(12) });
    assert_eq!(snapshots.body(&latest).unwrap(), body(12, 262_144));
}

#[test]
fn one_that_is_being_sent_can_be_read_to_its_end() {
    let (from, to) = (MemDisk::new(1), MemDisk::new(2));
    let (sender, receiver) = (open(&from, None).unwrap(), open(&to, None).unwrap());
    let stored = sender.save(meta(5), &body(5, 600_000)).unwrap();
    let mut receiving = receiver.receive().unwrap();
    loop {
        let piece = sender.piece(&stored, receiving.received(), 50_000).unwrap();
        if piece.is_empty() {
            break;
        }
        receiving.write(&piece).unwrap();
        // A newer snapshot replaces it meanwhile.
        sender.save(meta(6), &body(6, 10)).unwrap();
    }
    let installed = receiving.finish(Some(Uuid(7))).unwrap();
    assert_eq!(receiver.body(&installed).unwrap(), body(5, 600_000));
    to.crash(Unsynced::Lost);
    assert_eq!(open(&to, Some(5)).unwrap().latest().unwrap().meta, stored.meta);
}

#[test]
fn what_is_received_damaged_or_from_another_cluster_changes_nothing() {
    let (from, to) = (MemDisk::new(1), MemDisk::new(2));
    let (sender, receiver) = (open(&from, None).unwrap(), open(&to, None).unwrap());
    let stored = sender.save(meta(5), &body(5, 5000)).unwrap();
    let whole = sender.piece(&stored, 0, usize::MAX).unwrap();
    receiver.save(meta(2), b"before").unwrap();
    let before = receiver.latest();
    let receive = |bytes: &[u8], cluster| {
        let mut receiving = receiver.receive().unwrap();
        receiving.write(bytes).unwrap();
        receiving.finish(Some(cluster))
    };
    assert!(matches!(receive(&whole, Uuid(8)), Err(StorageError::WrongCluster { .. })));
    assert!(receive(&whole[..whole.len() - 1], Uuid(7)).is_err());
    assert!(receive(&[&whole[..], b"x"].concat(), Uuid(7)).is_err());
    assert_eq!((receiver.latest(), files(&to)), (before, 1));
    drop(receiver.receive().unwrap());
    assert_eq!(files(&to), 1);
    receive(&whole, Uuid(7)).unwrap();
    assert_eq!(receiver.latest().unwrap().meta, stored.meta);
}

#[test]
fn an_older_one_never_replaces_a_newer_one() {
    let disk = MemDisk::new(1);
    let snapshots = open(&disk, None).unwrap();
    let newer = snapshots.save(meta(9), b"newer").unwrap();
    assert_eq!(snapshots.save(meta(5), b"older").unwrap(), newer);
    assert_eq!((snapshots.latest(), files(&disk)), (Some(newer), 1));
}

#[test]
fn of_two_that_are_both_there_the_one_that_has_seen_more_counts() {
    let (from, to) = (MemDisk::new(1), MemDisk::new(2));
    let (sender, receiver) = (open(&from, None).unwrap(), open(&to, None).unwrap());
    let newer = sender.save(meta(9), b"newer").unwrap();
    // The leader's snapshot is begun first, and completes after one of the node's own.
    let mut receiving = receiver.receive().unwrap();
    receiver.save(meta(5), b"older").unwrap();
    receiving.write(&sender.piece(&newer, 0, usize::MAX).unwrap()).unwrap();
    let older = receiver.latest().unwrap().file;
    receiving.finish(Some(Uuid(7))).unwrap();
    // The removal of the older one is lost in the power cut.
    to.crash(Unsynced::Lost);
    assert!(to.paths().contains(&older), "{:?}", to.paths());
    assert_eq!(open(&to, Some(9)).unwrap().latest().unwrap().meta, newer.meta);
}

#[test]
fn a_crash_at_any_change_leaves_the_old_or_the_new_one() {
    let prepared = MemDisk::new(1);
    open(&prepared, None).unwrap().save(meta(5), &body(5, 700)).unwrap();
    let begin = prepared.changes();
    let mut seen = [0, 0];
    for at in begin..begin + 20 {
        for seed in 0..20 {
            let disk = prepared.fork();
            disk.power_off_at(at);
            let saved = open(&disk, Some(5)).and_then(|all| all.save(meta(9), &body(9, 900)));
            disk.crash(if seed == 0 { Unsynced::Lost } else { Unsynced::Torn });
            let snapshots = open(&disk, Some(5)).unwrap();
            let latest = snapshots.latest().unwrap();
            let index = latest.meta.last.unwrap().index;
            assert!(index == 9 || saved.is_err(), "reported and lost");
            assert_eq!(
                snapshots.body(&latest).unwrap(),
                body(index, if index == 5 { 700 } else { 900 })
            );
            assert_eq!(files(&disk), 1);
            seen[usize::from(index == 9)] += 1;
        }
    }
    assert!(seen[0] > 10 && seen[1] > 10, "{seen:?}");
}

#[test]
fn every_flipped_byte_stops_the_node() {
    let disk = MemDisk::new(1);
    let stored = open(&disk, None).unwrap().save(meta(5), &body(5, 900)).unwrap();
    let bytes = disk.bytes(&stored.file).unwrap();
    for at in 0..bytes.len() {
        let damaged = disk.fork();
        let mut bytes = bytes.clone();
        bytes[at] ^= 1 << (at % 8);
        damaged.set_bytes(&stored.file, bytes);
        let error = open(&damaged, Some(5)).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(&stored.file) && error.contains("replacing-a-node"), "{error}");
        let error = open(&damaged, None).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("the log still has every entry"), "{error}");
    }
    for len in 0..bytes.len() {
        let damaged = disk.fork();
        damaged.set_bytes(&stored.file, bytes[..len].to_vec());
        assert!(open(&damaged, None).is_err(), "cut to {len}");
    }
}

#[test]
fn one_that_the_log_needs_must_be_there() {
    let disk = MemDisk::new(1);
    open(&disk, None).unwrap().save(meta(5), b"state").unwrap();
    assert!(open(&disk, Some(5)).is_ok());
    assert!(matches!(open(&disk, Some(6)), Err(StorageError::Missing { .. })));
    assert!(matches!(open(&MemDisk::new(1), Some(0)), Err(StorageError::Missing { .. })));
}

#[test]
fn a_failed_write_leaves_the_one_before() {
    for call in [FaultyCall::Write, FaultyCall::Sync] {
        let disk = MemDisk::new(1);
        let snapshots = open(&disk, None).unwrap();
        let before = snapshots.save(meta(5), b"state").unwrap();
        let kind = ErrorKind::StorageFull;
        disk.fail(Fault { call, path: "tmp".into(), after: 0, times: 1, kind });
        let error = snapshots.save(meta(6), b"more").unwrap_err();
        assert!(error.to_string().contains("the disk is full"), "{error}");
        assert_eq!((snapshots.latest(), files(&disk)), (Some(before), 1));
        snapshots.save(meta(6), b"more").unwrap();
    }
}

#[test]
fn one_from_another_node_is_verified_first_and_kept_later() {
    let (from, to) = (MemDisk::new(1), MemDisk::new(2));
    let (sender, receiver) = (open(&from, None).unwrap(), open(&to, None).unwrap());
    let stored = sender.save(meta(5), &body(5, 600_000)).unwrap();
    let whole = sender.piece(&stored, 0, usize::MAX).unwrap();
    let verified = || {
        let mut receiving = receiver.receive().unwrap();
        receiving.write(&whole).unwrap();
        let read = |body: &mut BodyReader<'_>| {
            let mut bytes = Vec::new();
            body.read_to_end(&mut bytes).map(|_| bytes)
        };
        receiving.verify(Some(Uuid(7)), read).unwrap()
    };
    let (file, read) = verified();
    assert_eq!((file.meta.clone(), read), (stored.meta.clone(), body(5, 600_000)));
    assert_eq!(receiver.latest(), None);
    // Dropped without being kept.
    drop(file);
    assert_eq!(files(&to), 0);
    let (file, _) = verified();
    // Its bytes are durable before it is kept.
    let changes = to.changes();
    file.keep().unwrap();
    assert!(to.changes() <= changes + 2, "a name, and the folder's sync");
    to.crash(Unsynced::Lost);
    assert_eq!(open(&to, Some(5)).unwrap().latest().unwrap().meta, stored.meta);
}

#[test]
fn what_cannot_be_used_is_told_apart_from_damage_of_the_file() {
    let disk = MemDisk::new(1);
    let snapshots = open(&disk, None).unwrap();
    let stored = snapshots.save(meta(5), b"state").unwrap();
    let useless = |_: &mut BodyReader<'_>| Err::<(), _>(io::Error::other("of no use"));
    let error = snapshots.read(&stored, useless).unwrap_err().to_string();
    assert!(error.contains("of no use") && error.contains(&stored.file), "{error}");
    // The part that was not read is verified as well.
    let mut bytes = disk.bytes(&stored.file).unwrap();
    let end = bytes.len() - 9;
    bytes[end] ^= 1;
    disk.set_bytes(&stored.file, bytes);
    let error = snapshots.read(&stored, |_| Ok(())).unwrap_err().to_string();
    assert!(error.contains("its end does not match"), "{error}");
}
