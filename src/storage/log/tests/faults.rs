//! A disk that fails, a log driven by its own thread, and payloads of every size.

use std::io::ErrorKind;
use std::sync::Mutex;
use std::sync::mpsc;

use super::{
    Arc, AtomicU64, Drive, Fault, FaultyCall, Log, LogEntry, LogId, LogOptions, MemDisk, Model,
    Ordering, Step, StorageError, Unsynced, Vote, entry, open, options, run,
};
use crate::storage::disk::{Disk, RealDisk};

#[test]
fn after_a_failed_write_or_sync_nothing_is_accepted_and_nothing_read() {
    for (call, path) in [
        (FaultyCall::Write, "segment"),
        (FaultyCall::Sync, "segment"),
        (FaultyCall::Write, "manifest"),
        (FaultyCall::Sync, "log"),
    ] {
        for kind in [ErrorKind::Other, ErrorKind::StorageFull] {
            for after in 0..6 {
                one_fault(&Fault { call, path: path.to_owned(), after, times: 1, kind });
            }
        }
    }
}

/// The fault hits once; later calls would succeed if they were made.
fn one_fault(fault: &Fault) {
    let disk = MemDisk::new(5);
    let fatal = Arc::new(AtomicU64::new(0));
    let count = fatal.clone();
    let options = LogOptions {
        fatal: Arc::new(move |error| {
            assert!(matches!(error, StorageError::Io { .. }), "{error}");
            count.fetch_add(1, Ordering::SeqCst);
        }),
        ..options()
    };
    let (log, _) = Log::open(Arc::new(disk.clone()), options).unwrap();
    disk.fail(fault.clone());
    let mut model = Model::default();
    let mut failed = false;
    for index in 0..20 {
        let step = Step::Append(vec![entry(index, 1, 300)]);
        let done = run(&log, &step);
        assert!(!(failed && done), "{fault:?}: accepted after a failure");
        failed |= !done;
        if done {
            model.apply(&step);
        }
    }
    assert!(failed, "{fault:?} never hit");
    assert_eq!(fatal.load(Ordering::SeqCst), 1, "{fault:?}");
    assert!(!run(&log, &Step::Vote(Vote { term: 9, node: 1, committed: false })));
    assert!(matches!(log.read_all(0, 5), Err(StorageError::Failed(_))));
    assert!(!log.wait_synced(100));
    drop(log);
    disk.heal();
    disk.crash(Unsynced::Lost);
    let (log, recovered) = open(&disk).unwrap();
    let found = Model::of(&log, &recovered);
    assert!(found == model || found.entries.len() == model.entries.len() + 1, "{fault:?}");
}

#[test]
fn a_full_disk_is_said_in_words() {
    let disk = MemDisk::new(5);
    let path = "segment".to_owned();
    let kind = ErrorKind::StorageFull;
    let (log, _) = open(&disk).unwrap();
    disk.fail(Fault { call: FaultyCall::Write, path, after: 0, times: 1, kind });
    let (send, receive) = mpsc::channel();
    log.append(vec![entry(0, 1, 10)], move |result| send.send(result).unwrap());
    let error = receive.recv().unwrap().unwrap_err().to_string();
    assert!(error.contains("the disk is full"), "{error}");
}

#[test]
fn a_read_that_fails_or_lies_is_an_error_never_another_entry() {
    let disk = MemDisk::new(5);
    let (log, _) = open(&disk).unwrap();
    for index in 0..10 {
        assert!(run(&log, &Step::Append(vec![entry(index, 1, 200)])));
    }
    let path = disk.paths().into_iter().find(|path| path.contains("segment")).unwrap();
    let mut bytes = disk.bytes(&path).unwrap();
    bytes[64 + 28 + 5] ^= 1;
    let file = disk.open(&path).unwrap();
    file.write_at(&bytes, 0).unwrap();
    assert!(matches!(log.read_all(0, 1), Err(StorageError::Damaged { .. })));
    let kind = ErrorKind::Other;
    disk.fail(Fault { call: FaultyCall::Read, path: "segment".into(), after: 0, times: 1, kind });
    assert!(matches!(log.read_all(1, 2), Err(StorageError::Io { .. })));
    assert_eq!(log.read_all(1, 2).unwrap(), [entry(1, 1, 200)]);
}

#[test]
fn payloads_of_every_size_come_back() {
    let disk = MemDisk::new(5);
    let (log, _) = open(&disk).unwrap();
    let sizes = [0, 1, 63, 64, 65, 2048, 5000, 3 << 20, 10, 9 << 20, 0];
    let entries: Vec<LogEntry> =
        sizes.iter().zip(0..).map(|(size, index)| entry(index, 1, *size)).collect();
    assert!(run(&log, &Step::Append(entries.clone())));
    log.abandon();
    disk.crash(Unsynced::Lost);
    let (log, _) = open(&disk).unwrap();
    assert!(log.read_all(0, u64::MAX).unwrap() == entries);
    let counts = |max_bytes| {
        let mut counts = Vec::new();
        let mut next = 0;
        while next < entries.len() {
            let read = log.read_some(next as u64, u64::MAX, max_bytes).unwrap();
            assert!(read[..] == entries[next..][..read.len()]);
            counts.push(read.len());
            next += read.len();
        }
        counts
    };
    assert_eq!(counts(0), [1; 11], "never none");
    assert_eq!(counts(4 << 20), [9, 1, 1]);
    assert!(run(&log, &Step::Purge(LogId { term: 1, index: 10 })));
    assert!(disk.paths().iter().filter(|path| path.contains("segment")).count() <= 1);
}

#[test]
fn what_does_not_continue_the_log_is_refused_and_changes_nothing() {
    let disk = MemDisk::new(5);
    let (log, _) = open(&disk).unwrap();
    assert!(run(&log, &Step::Append(vec![entry(0, 2, 5), entry(1, 2, 5)])));
    for refused in [
        Step::Append(vec![entry(3, 2, 5)]),
        Step::Append(vec![entry(1, 2, 5)]),
        Step::Append(vec![entry(2, 1, 5)]),
        Step::Append(vec![entry(2, 2, 5), entry(4, 2, 5)]),
        Step::Truncate(Some(LogId { term: 1, index: 0 })),
        Step::Purge(LogId { term: 1, index: 1 }),
    ] {
        assert!(!run(&log, &refused), "{refused:?}");
    }
    assert_eq!(log.state().last, Some(LogId { term: 2, index: 1 }));
    assert!(run(&log, &Step::Append(vec![entry(2, 2, 5)])));
    assert!(run(&log, &Step::Truncate(None)));
    assert!(run(&log, &Step::Append(vec![entry(0, 3, 5)])));
}

#[test]
fn a_vote_that_takes_back_the_last_is_refused() {
    let (log, _) = open(&MemDisk::new(5)).unwrap();
    let vote = |term, node, committed| Vote { term, node, committed };
    let save = |vote| run(&log, &Step::Vote(vote));
    assert!(save(vote(0, 1, false)) && save(vote(2, 1, false)));
    assert!(!save(vote(1, 1, false)) && !save(vote(0, 1, false)), "of an earlier term");
    assert!(!save(vote(2, 3, false)), "a second one in the term");
    assert!(save(vote(2, 3, true)), "a majority has given it");
    assert!(!save(vote(2, 1, false)) && !save(vote(2, 1, true)));
    assert_eq!(log.vote(), Some(vote(2, 3, true)));
    assert!(save(vote(3, 1, false)));
}

#[test]
fn a_thread_writes_in_order_on_a_real_disk() {
    let folder = tempfile::tempdir().unwrap();
    let options = LogOptions { segment_bytes: 64 << 10, cache_bytes: 4096, ..options() };
    let options = LogOptions { drive: Drive::Thread, seed: None, ..options };
    let open = || {
        let disk = Arc::new(RealDisk::new(folder.path()).unwrap());
        Log::open(disk, options.clone()).unwrap()
    };
    let (log, _) = open();
    let order = Arc::new(Mutex::new(Vec::new()));
    for index in 0..2000 {
        let order = order.clone();
        log.append(vec![entry(index, 1, 100)], move |result| {
            result.unwrap();
            order.lock().unwrap().push(index);
        });
        // Readable at once, written or not.
        assert_eq!(log.read_all(index, index + 1).unwrap(), [entry(index, 1, 100)]);
        if index % 500 == 499 {
            log.purge(LogId { term: 1, index: index - 200 }, |result| result.unwrap());
        }
    }
    let (send, receive) = mpsc::channel();
    let vote = Vote { term: 7, node: 3, committed: true };
    log.save_vote(vote, move |result| send.send(result).unwrap());
    assert!(log.wait_synced(1999));
    // The last request is called back last.
    receive.recv().unwrap().unwrap();
    assert!(*order.lock().unwrap() == (0..2000).collect::<Vec<_>>());
    assert!(log.sync_stats().count > 0);
    log.close();
    assert!(!run(&log, &Step::Append(vec![entry(2000, 1, 1)])));
    drop(log);
    let (log, recovered) = open();
    assert_eq!(recovered.last, Some(LogId { term: 1, index: 1999 }));
    assert_eq!(recovered.vote, Some(Vote { term: 7, node: 3, committed: true }));
    assert_eq!(recovered.purged, Some(LogId { term: 1, index: 1799 }));
    assert_eq!(recovered.warnings, Vec::<String>::new());
    assert_eq!(log.read_all(0, u64::MAX).unwrap().len(), 200);
}

#[test]
fn the_commit_hint_travels_with_the_next_batch() {
    let disk = MemDisk::new(5);
    let (log, _) = open(&disk).unwrap();
    assert!(run(&log, &Step::Append(vec![entry(0, 1, 5), entry(1, 1, 5)])));
    let before = disk.changes();
    log.save_committed(Some(LogId { term: 1, index: 1 }));
    assert_eq!(disk.changes(), before);
    assert!(run(&log, &Step::Append(vec![entry(2, 1, 5)])));
    log.abandon();
    disk.crash(Unsynced::Lost);
    let (_, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.committed, Some(LogId { term: 1, index: 1 }));
}

#[test]
fn many_waiting_appends_share_one_sync() {
    let disk = MemDisk::new(5);
    let options = LogOptions { drive: Drive::Manual, ..options() };
    let (log, _) = Log::open(Arc::new(disk.clone()), options).unwrap();
    run(&log, &Step::Append(vec![entry(0, 1, 5)]));
    assert!(log.drive());
    assert!(!log.drive());
    let before = disk.changes();
    for index in 1..9 {
        assert!(!run(&log, &Step::Append(vec![entry(index, 1, 5)])));
    }
    assert_eq!((log.synced(), disk.changes()), (Some(LogId { term: 1, index: 0 }), before));
    log.drive();
    assert_eq!(log.synced(), Some(LogId { term: 1, index: 8 }));
    assert_eq!(disk.changes() - before, 2, "one write and one sync");
}

#[test]
fn a_long_log_has_few_open_files_and_all_its_entries() {
    let folder = tempfile::tempdir().unwrap();
    let open_files = || {
        let files = std::fs::read_dir("/proc/self/fd").unwrap();
        let paths = files.filter_map(|file| std::fs::read_link(file.unwrap().path()).ok());
        paths.filter(|path| path.starts_with(folder.path())).count()
    };
    let options = LogOptions { segment_bytes: 4096, cache_bytes: 0, ..options() };
    let open = || {
        let disk = Arc::new(RealDisk::new(folder.path()).unwrap());
        Log::open(disk, options.clone()).unwrap().0
    };
    let log = open();
    let entries: Vec<LogEntry> = (0..200).map(|index| entry(index, 1, 1000)).collect();
    for entry in &entries {
        assert!(run(&log, &Step::Append(vec![entry.clone()])));
    }
    // The vote's file is open, too.
    assert!(open_files() < 10, "{}", open_files());
    assert!(log.read_all(0, u64::MAX).unwrap() == entries);
    assert!(open_files() < 10, "{}", open_files());
    log.close();
    drop(log);
    let log = open();
    assert!(open_files() < 10, "{}", open_files());
    for entry in entries.iter().rev() {
        let read = log.read_all(entry.id.index, entry.id.index + 1).unwrap();
        assert_eq!(read, std::slice::from_ref(entry));
    }
    // Closed segments are released as open ones are.
    assert!(run(&log, &Step::Purge(LogId { term: 1, index: 150 })));
    assert!(run(&log, &Step::Append(vec![entry(200, 1, 1000)])));
    assert!(log.read_all(0, 200).unwrap() == entries[151..]);
}

#[test]
fn the_log_knows_its_bytes() {
    let disk = MemDisk::new(5);
    let record = |payload: u64| payload + 28;
    let between = |log: &Log| {
        assert_eq!(log.bytes_between(None, 9), record(10) + record(20) + record(30));
        assert_eq!(log.bytes_between(Some(0), 1), record(20));
        assert_eq!(log.bytes_between(Some(2), 2), 0);
        assert_eq!(log.before_bytes(2, record(30)), Some(1));
        assert_eq!(log.before_bytes(2, record(30) - 1), Some(2), "none fits");
        assert_eq!(log.before_bytes(2, record(20) + record(30)), Some(0));
        assert_eq!(log.before_bytes(2, 1 << 20), None, "there is nothing before");
        assert_eq!(log.before_bytes(3, 1), None, "there is no such entry");
    };
    let (log, _) = open(&disk).unwrap();
    assert_eq!(log.bytes_between(None, 9), 0);
    let entries = [entry(0, 1, 10), entry(1, 1, 20), entry(2, 1, 30)];
    assert!(run(&log, &Step::Append(entries.to_vec())));
    between(&log);
    log.close();
    let (log, _) = open(&disk).unwrap();
    between(&log);
    assert!(run(&log, &Step::Truncate(Some(LogId { term: 1, index: 1 }))));
    assert!(run(&log, &Step::Append(vec![entry(2, 2, 7)])));
    assert!(run(&log, &Step::Purge(LogId { term: 1, index: 0 })));
    assert_eq!(log.bytes_between(None, 2), record(20) + record(7));
    assert_eq!(log.before_bytes(2, 1 << 20), None);
}
