//! Whose folder it is, across crashes and mix-ups.

use super::*;
use crate::storage::disk::{MemDisk, Unsynced};
use crate::storage::log::{Drive, Log, LogOptions};

fn open(disk: &MemDisk, node: u64) -> Result<Identity, StorageError> {
    Identity::open(Arc::new(disk.clone()), node)
}

fn open_log(disk: &MemDisk) {
    let options = LogOptions { drive: Drive::Inline, segment_bytes: 4096, ..LogOptions::default() };
    Log::open(Arc::new(disk.clone()), options).unwrap().0.close();
}

#[test]
fn each_start_has_a_higher_boot_number_also_after_a_power_cut() {
    let disk = MemDisk::new(1);
    let first = open(&disk, 1).unwrap();
    let uuid = first.facts().uuid;
    for boot in 2..6 {
        disk.crash(Unsynced::Lost);
        let identity = open(&disk, 1).unwrap();
        assert_eq!((identity.facts().uuid, identity.facts().boot), (uuid, boot));
        assert_ne!(identity.run(), first.run());
    }
}

#[test]
fn a_crash_at_any_change_leaves_an_identity_that_opens() {
    for at in 0..30 {
        for seed in 0..10 {
            let disk = MemDisk::new(seed);
            disk.power_off_at(at);
            let mut acknowledged = None;
            if let Ok(identity) = open(&disk, 1) {
                acknowledged = Some(identity.facts());
                open_log_quietly(&disk);
                for change in 0..3 {
                    let done = match change {
                        0 => identity.set_cluster(Uuid(9), BTreeMap::from([(1, Uuid(4))])).is_ok(),
                        1 => identity.set_joined().is_ok(),
                        _ => matches!(identity.observe(Uuid(5), 3, Uuid(6)), Ok(Ok(()))),
                    };
                    if done {
                        acknowledged = Some(identity.facts());
                    }
                }
            }
            disk.crash(Unsynced::Torn);
            let found = open(&disk, 1).unwrap().facts();
            if let Some(facts) = acknowledged {
                assert_eq!(found.uuid, facts.uuid);
                assert!(found.boot > facts.boot && found.joined >= facts.joined);
                assert!(found.cluster >= facts.cluster && found.seen.len() >= facts.seen.len());
            }
        }
    }
}

fn open_log_quietly(disk: &MemDisk) {
    let options = LogOptions { drive: Drive::Inline, segment_bytes: 4096, ..LogOptions::default() };
    if let Ok((log, _)) = Log::open(Arc::new(disk.clone()), options) {
        log.close();
    }
}

#[test]
fn the_folder_of_another_node_or_cluster_is_refused() {
    let disk = MemDisk::new(1);
    let identity = open(&disk, 1).unwrap();
    assert!(matches!(open(&disk, 2), Err(StorageError::WrongNode { found: 1, wanted: 2 })));
    identity.set_cluster(Uuid(3), BTreeMap::new()).unwrap();
    identity.set_cluster(Uuid(3), BTreeMap::new()).unwrap();
    assert!(matches!(
        identity.set_cluster(Uuid(4), BTreeMap::new()),
        Err(StorageError::WrongCluster { found: Uuid(3), wanted: Uuid(4) })
    ));
}

#[test]
fn a_node_that_has_taken_part_never_starts_empty() {
    let disk = MemDisk::new(1);
    let identity = open(&disk, 1).unwrap();
    open_log(&disk);
    identity.set_joined().unwrap();
    for lost in ["log/manifest", "vote", "identity"] {
        let damaged = disk.fork();
        damaged.remove(lost).unwrap();
        let error = open(&damaged, 1).map(|_| ()).unwrap_err();
        assert!(matches!(&error, StorageError::Missing { file, .. } if file == lost), "{error}");
    }
    open(&disk, 1).unwrap();
}

#[test]
fn every_flipped_byte_of_the_identity_stops_the_node() {
    let disk = MemDisk::new(1);
    open(&disk, 1).unwrap();
    let bytes = disk.bytes("identity").unwrap();
    for at in 0..bytes.len() {
        let damaged = disk.fork();
        let mut bytes = bytes.clone();
        bytes[at] ^= 4;
        damaged.set_bytes("identity", bytes);
        let error = open(&damaged, 1).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("identity is damaged"), "{error}");
    }
}

#[test]
fn an_old_copy_of_a_peers_folder_is_recognised() {
    let disk = MemDisk::new(1);
    let identity = open(&disk, 1).unwrap();
    let observe =
        |identity: &Identity, boot, run| identity.observe(Uuid(8), boot, Uuid(run)).unwrap();
    assert_eq!(observe(&identity, 5, 100), Ok(()));
    let before = disk.changes();
    assert_eq!(observe(&identity, 5, 100), Ok(()));
    assert_eq!(disk.changes(), before, "a start that is known costs no write");
    assert!(observe(&identity, 5, 101).is_err(), "the same boot number from another run");
    assert!(observe(&identity, 4, 102).is_err(), "an older boot number");
    assert_eq!(observe(&identity, 6, 103), Ok(()));
    disk.crash(Unsynced::Lost);
    let identity = open(&disk, 1).unwrap();
    assert!(observe(&identity, 5, 100).is_err(), "remembered across a restart");
    assert_eq!(observe(&identity, 6, 103), Ok(()));
}

#[test]
fn a_second_process_is_kept_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    let lock = FolderLock::acquire(&path).unwrap();
    assert!(matches!(FolderLock::acquire(&path), Err(StorageError::Locked { .. })));
    drop(lock);
    FolderLock::acquire(&path).unwrap();
}
