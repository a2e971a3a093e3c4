//! The identity of a data folder, across crashes and mix-ups.

use super::*;
use crate::storage::disk::{Fault, FaultyCall, MemDisk, Unsynced};
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
                        _ => matches!(identity.observe(&start(5, 3, 6)), Ok(Ok(()))),
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

/// A start of a peer that has promised nothing.
fn start(uuid: u128, boot: u64, run: u128) -> Start {
    let nothing = Promises::default();
    Start { uuid: Uuid(uuid), boot, run: Uuid(run), found: nothing, promised: nothing }
}

fn promises(votes: u64, log: u64) -> Promises {
    Promises { votes, log }
}

#[test]
fn an_old_copy_of_a_peers_folder_is_recognised() {
    let disk = MemDisk::new(1);
    let identity = open(&disk, 1).unwrap();
    let observe = |identity: &Identity, boot, run| identity.observe(&start(8, boot, run)).unwrap();
    assert_eq!(observe(&identity, 5, 100), Ok(()));
    let before = disk.changes();
    assert_eq!(observe(&identity, 5, 100), Ok(()));
    assert_eq!(identity.knows(&start(8, 5, 100)), Some(Ok(())));
    assert_eq!(disk.changes(), before, "a start that is known costs no write");
    assert!(observe(&identity, 5, 101).is_err(), "the same boot number from another run");
    assert!(observe(&identity, 4, 102).is_err(), "an older boot number");
    assert_eq!(identity.knows(&start(8, 6, 103)), None, "it is to be written first");
    assert_eq!(observe(&identity, 6, 103), Ok(()));
    disk.crash(Unsynced::Lost);
    let identity = open(&disk, 1).unwrap();
    assert!(observe(&identity, 5, 100).is_err(), "remembered across a restart");
    assert_eq!(observe(&identity, 6, 103), Ok(()));
}

#[test]
fn a_copy_made_while_a_peer_ran_is_recognised_by_what_it_had_promised() {
    let identity = open(&MemDisk::new(1), 1).unwrap();
    let first = Start { found: promises(2, 10), promised: promises(2, 10), ..start(8, 5, 100) };
    assert_eq!(identity.observe(&first).unwrap(), Ok(()));
    // The copy is made here, while the node goes on.
    assert!(identity.heard(Uuid(8), Uuid(100), promises(2, 11)));
    assert!(!identity.heard(Uuid(8), Uuid(101), promises(9, 99)), "no such run is known");
    let copy = Start { found: promises(2, 10), promised: promises(7, 70), ..start(8, 6, 102) };
    let refused = identity.observe(&copy).unwrap().unwrap_err();
    assert!(refused.to_string().contains("2.10") && refused.to_string().contains("2.11"));
    let voted = Start { promised: promises(3, 11), ..first };
    assert_eq!(identity.knows(&voted), Some(Ok(())), "each message says what was promised");
    let copy = Start { found: promises(2, 11), ..copy };
    assert!(identity.observe(&copy).unwrap().is_err(), "it lacks a vote");
    let whole = Start { found: promises(3, 11), ..copy };
    assert_eq!(identity.observe(&whole).unwrap(), Ok(()));
    assert!(!identity.heard(Uuid(8), Uuid(100), promises(3, 12)), "an earlier run does not count");
    assert_eq!(
        identity.knows(&whole),
        Some(Ok(())),
        "its own promises are none it must have found"
    );
}

#[test]
fn members_tell_each_other_what_was_promised() {
    let mut members = BTreeMap::from([(3, Uuid(8))]);
    let [leader, follower] = [1, 2].map(|id| open(&MemDisk::new(id), id).unwrap());
    for (id, identity) in [(1, &leader), (2, &follower)] {
        members.insert(id, identity.facts().uuid);
    }
    for identity in [&leader, &follower] {
        identity.set_cluster(Uuid(9), members.clone()).unwrap();
    }
    leader.observe(&start(8, 5, 100)).unwrap().unwrap();
    assert!(leader.heard(Uuid(8), Uuid(100), promises(4, 40)));
    follower.learn(&leader.remembered()).unwrap();
    let copy = Start { found: promises(4, 39), ..start(8, 6, 101) };
    assert!(follower.observe(&copy).unwrap().is_err(), "the leader need not be asked");
    assert!(follower.observe(&start(8, 5, 102)).unwrap().is_err());
    assert_eq!(follower.knows(&start(8, 5, 100)), None, "a start is written before it counts");
    follower.learn(&BTreeMap::from([(Uuid(77), Seen::of(1, Uuid(1)))])).unwrap();
    assert!(!follower.remembered().contains_key(&Uuid(77)), "it is no member");
}

#[test]
fn a_node_that_is_told_of_its_own_later_promises_is_an_old_copy() {
    let disk = MemDisk::new(1);
    drop(open(&disk, 1).unwrap());
    let identity = open(&disk, 1).unwrap();
    let counter = PromiseCounter::default();
    identity.attach(counter).unwrap();
    let uuid = identity.facts().uuid;
    let told = |seen: Seen| identity.learn(&BTreeMap::from([(uuid, seen)]));
    assert_eq!(told(Seen { promised: promises(9, 9), ..Seen::of(2, identity.run()) }), Ok(()));
    assert_eq!(told(Seen::of(1, Uuid(4))), Ok(()));
    assert!(told(Seen { promised: promises(0, 1), ..Seen::of(1, Uuid(4)) }).is_err());
    assert!(told(Seen { owed: promises(1, 0), ..Seen::of(2, identity.run()) }).is_err());
    assert!(told(Seen::of(2, Uuid(5))).is_err(), "another run with this boot number");
    assert!(told(Seen { lacks: true, ..Seen::of(1, Uuid(4)) }).is_err());
}

#[test]
fn a_peer_that_lacks_what_it_acknowledged_is_never_accepted_again() {
    let disk = MemDisk::new(1);
    let identity = open(&disk, 1).unwrap();
    assert!(!identity.condemn(Uuid(8)), "nothing is known of it");
    identity.observe(&start(8, 5, 100)).unwrap().unwrap();
    assert!(identity.condemn(Uuid(8)));
    identity.keep().unwrap();
    disk.crash(Unsynced::Lost);
    let identity = open(&disk, 1).unwrap();
    assert!(identity.observe(&start(8, 6, 101)).unwrap().is_err());
}

#[test]
fn what_two_know_together_does_not_hang_on_who_heard_it_first() {
    let runs = [(1, 10), (2, 20), (3, 30)].map(|(boot, run)| Seen {
        promised: promises(boot, 10 * boot),
        owed: promises(0, boot),
        ..Seen::of(boot, Uuid(run))
    });
    for a in runs {
        for b in runs {
            assert_eq!(a.merge(&b), b.merge(&a));
            for c in runs {
                assert_eq!(a.merge(&b).merge(&c), a.merge(&b.merge(&c)));
            }
        }
    }
}

#[test]
fn what_was_promised_is_written_now_and_then_and_demanded_at_the_next_start() {
    let disk = MemDisk::new(1);
    let options =
        || LogOptions { drive: Drive::Inline, segment_bytes: 4096, ..LogOptions::default() };
    let identity = open(&disk, 1).unwrap();
    let (log, _) = Log::open(Arc::new(disk.clone()), options()).unwrap();
    identity.attach(log.promised()).unwrap();
    let vote = disk.bytes("vote").unwrap();
    log.save_vote(crate::storage::Vote { term: 1, node: 1, committed: false }, |done| {
        done.unwrap();
    });
    assert_eq!(identity.start().promised.votes, identity.start().found.votes + 1);
    let before = disk.changes();
    identity.keep().unwrap();
    assert!(disk.changes() > before);
    let before = disk.changes();
    identity.keep().unwrap();
    assert_eq!(disk.changes(), before, "nothing is new");
    log.close();
    let whole = disk.fork();
    disk.set_bytes("vote", vote);
    for (disk, is_whole) in [(whole, true), (disk, false)] {
        let identity = open(&disk, 1).unwrap();
        let (log, _) = Log::open(Arc::new(disk.clone()), options()).unwrap();
        let attached = identity.attach(log.promised());
        assert_eq!(attached.is_ok(), is_whole, "{attached:?}");
    }
}

#[test]
fn a_copy_is_accepted_only_if_it_was_made_after_a_stop_in_good_order() {
    let scratch = tempfile::tempdir().unwrap();
    let [folder, running, killed, stopped] =
        ["folder", "running", "killed", "stopped"].map(|name| scratch.path().join(name));
    let disk = |path: &Path| Arc::new(crate::storage::RealDisk::new(path).unwrap());
    if disk(&folder).born("").unwrap().is_none() {
        // This file system has no creation times: only peers can detect the copy.
        return;
    }
    let identity = Identity::open(disk(&folder), 1).unwrap();
    let options = LogOptions { drive: Drive::Inline, segment_bytes: 4096, ..LogOptions::default() };
    let (log, _) = Log::open(disk(&folder), options).unwrap();
    identity.set_joined().unwrap();
    copy(&folder, &running);
    drop(identity);
    copy(&folder, &killed);
    let identity = Identity::open(disk(&folder), 1).expect("the folder itself is always accepted");
    log.close();
    identity.close().unwrap();
    copy(&folder, &stopped);
    for old in [running, killed] {
        let error = Identity::open(disk(&old), 1).map(drop).unwrap_err();
        assert!(matches!(&error, StorageError::Copied { .. }), "{error}");
    }
    let again = Identity::open(disk(&stopped), 1).unwrap();
    assert!(!again.facts().stopped, "it runs");
    drop(again);
    Identity::open(disk(&stopped), 1).expect("it is the folder now");
    Identity::open(disk(&folder), 1).expect("what a copy was made of is none");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (from, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
        if from.is_dir() {
            copy(&from, &to.join(name));
        } else {
            fs::copy(&from, to.join(name)).unwrap();
        }
    }
}

#[test]
fn a_write_that_failed_is_the_last_one() {
    let disk = MemDisk::new(1);
    let identity = open(&disk, 1).unwrap();
    let failures = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counted = failures.clone();
    identity.on_failure(Arc::new(move |_| {
        counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }));
    disk.power_off_at(disk.changes());
    assert!(identity.set_joined().is_err());
    disk.crash(Unsynced::Kept);
    let before = disk.changes();
    assert!(identity.set_joined().is_err(), "although the disk would take it");
    assert!(identity.observe(&start(8, 5, 100)).is_err());
    assert_eq!(disk.changes(), before);
    assert_eq!(failures.load(std::sync::atomic::Ordering::SeqCst), 1);
    assert!(!identity.facts().joined, "what is not durable is not so");
}

#[test]
fn an_identity_is_written_the_same_for_ever() {
    let seen = Seen { owed: promises(1, 2), lacks: true, ..Seen::of(7, Uuid(70)) };
    let facts = Facts {
        node: 1,
        uuid: Uuid(11),
        boot: 300,
        cluster: Some(Uuid(9)),
        joined: true,
        members: BTreeMap::from([(1, Uuid(11)), (2, Uuid(22))]),
        seen: BTreeMap::from([(Uuid(22), seen)]),
        retired: Some("r".to_owned()),
        promised: promises(3, 4),
        stopped: false,
        births: Births { identity: None, vote: Some(5) },
        restored: Some(Uuid(6)),
    };
    let uuid = |number: u8| format!("{number:032x}");
    let members = format!("0201{}02{}", uuid(11), uuid(22));
    let seen = format!("01{}07{}0102000001", uuid(22), uuid(70));
    let golden = format!("01{}ac0201{}01{members}{seen}01017203040000", uuid(11), uuid(9));
    envelope::assert_written(KIND, &facts, &format!("{golden}01{}01{}", uuid(5), uuid(6)));
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

#[test]
fn a_full_disk_puts_off_what_nothing_waits_for() {
    let disk = MemDisk::new(1);
    let identity = open(&disk, 1).unwrap();
    let ended = Arc::new(Mutex::new(None));
    let note = Arc::clone(&ended);
    identity.on_failure(Arc::new(move |error| *note.lock() = Some(error.to_string())));
    identity.observe(&start(8, 5, 100)).unwrap().unwrap();
    assert!(identity.heard(Uuid(8), Uuid(100), promises(2, 11)));
    let full = |call, after| Fault {
        call,
        path: "identity".to_owned(),
        after,
        times: 1,
        kind: io::ErrorKind::StorageFull,
    };
    for (call, after) in [(FaultyCall::Write, 0), (FaultyCall::Write, 1), (FaultyCall::Sync, 0)] {
        disk.fail(full(call, after));
        let error = identity.keep().expect_err("there is no room");
        assert!(error.is_full_disk(), "{error}");
        assert_eq!(*ended.lock(), None, "{call:?}");
    }
    identity.keep().unwrap();
    disk.crash(Unsynced::Lost);
    let identity = open(&disk, 1).unwrap();
    assert_eq!(identity.facts().seen[&Uuid(8)].promised, promises(2, 11));
    // A failed write that a caller waits for ends the node, as a full log does.
    identity.on_failure(Arc::new({
        let note = Arc::clone(&ended);
        move |error| *note.lock() = Some(error.to_string())
    }));
    disk.fail(full(FaultyCall::Write, 0));
    assert!(identity.observe(&start(9, 1, 200)).is_err());
    assert!(ended.lock().as_ref().is_some_and(|said| said.contains("full")), "{ended:?}");
    assert!(identity.heard(Uuid(8), Uuid(100), promises(2, 12)));
    assert!(!identity.keep().expect_err("it was the last").is_full_disk());
}
