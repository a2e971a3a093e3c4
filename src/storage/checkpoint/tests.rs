//! The checkpoint on a real folder: kept, coalesced, refused when it does not belong, and discarded
//! when it is damaged.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::{Checkpoint, CheckpointMeta, CheckpointOptions, Opened, Records};
use crate::storage::disk::MemDisk;
use crate::storage::log::{Drive, Log, LogOptions};
use crate::storage::{LogEntry, LogId, Uuid, mix};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

fn log(entries: u64) -> Log {
    let options = LogOptions { drive: Drive::Inline, segment_bytes: 4096, ..LogOptions::default() };
    let (log, _) = Log::open(Arc::new(MemDisk::new(1)), options).unwrap();
    extend(&log, entries);
    log
}

fn extend(log: &Log, entries: u64) {
    let next = log.state().last.map_or(0, |last| last.index + 1);
    let entries =
        (next..next + entries).map(|index| LogEntry { id: id(index), payload: "x".into() });
    log.append(entries.collect(), |result| result.unwrap());
}

fn id(index: u64) -> LogId {
    LogId { term: 1, index }
}

fn meta(index: u64) -> CheckpointMeta {
    CheckpointMeta { applied: id(index), membership: vec![1, 2], state: index.to_le_bytes().into() }
}

fn options(folder: &Path) -> CheckpointOptions {
    CheckpointOptions::new(folder.join("checkpoint"), Uuid(5))
}

fn open(folder: &Path, log: &Log, snapshot: Option<LogId>) -> (Checkpoint, Opened<Map>) {
    Checkpoint::open(options(folder), log, snapshot, |_, records| {
        Ok(records.map(|(key, value)| (key.to_vec(), value.to_vec())).collect())
    })
    .unwrap()
}

fn discarded(opened: &Opened<Map>) -> &str {
    match opened {
        Opened::Discarded(reason) => reason,
        other @ (Opened::Accepted(..) | Opened::Empty) => {
            panic!("expected it to be thrown away, found {other:?}")
        }
    }
}

fn set(key: &str, value: &str) -> (Vec<u8>, Option<Vec<u8>>) {
    (key.into(), Some(value.into()))
}

/// Makes a checkpoint with some hundred records, as of entry 9. Returns the states as of each
/// entry.
fn filled(folder: &Path) -> (Log, Vec<Map>) {
    let log = log(10);
    let mut states = Vec::new();
    let (checkpoint, opened) = open(folder, &log, None);
    assert_eq!(opened, Opened::Empty);
    let mut expected = Map::new();
    for index in 0..10 {
        let mut changes = Records::new();
        for number in 0..60 {
            let key = format!("key {}", mix(index * 100 + number) % 300).into_bytes();
            let remove = mix(number ^ index).is_multiple_of(4);
            let value = (!remove).then(|| format!("value {index} {number}").repeat(5).into_bytes());
            match &value {
                Some(value) => expected.insert(key.clone(), value.clone()),
                None => expected.remove(&key),
            };
            changes.push((key, value));
        }
        checkpoint.submit(meta(index), changes).unwrap();
        if index % 3 == 0 {
            checkpoint.flush().unwrap();
        }
        states.push(expected.clone());
    }
    checkpoint.flush().unwrap();
    (log, states)
}

#[test]
fn what_was_submitted_is_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let (log, states) = filled(folder.path());
    let (_checkpoint, opened) = open(folder.path(), &log, Some(id(4)));
    assert!(opened == Opened::Accepted(meta(9), states[9].clone()));
}

#[test]
fn records_that_do_not_add_up_are_thrown_away() {
    let folder = tempfile::tempdir().unwrap();
    let (log, _) = filled(folder.path());
    let options = options(folder.path());
    let found = fs::read_dir(&options.folder).unwrap().next().unwrap().unwrap();
    let db = super::store::open_db(&options, found.file_name().to_str().unwrap()).unwrap();
    let (key, _) = db.scan_prefix(b"r").next().unwrap().unwrap();
    db.insert(key, b"what nobody submitted").unwrap();
    db.flush().unwrap();
    drop(db);
    let (_checkpoint, opened) = open(folder.path(), &log, Some(id(4)));
    assert!(discarded(&opened).contains("do not add up"), "{opened:?}");
}

#[test]
fn closing_writes_what_waits() {
    let folder = tempfile::tempdir().unwrap();
    let log = log(3);
    let (checkpoint, _) = open(folder.path(), &log, None);
    checkpoint.submit(meta(2), vec![set("a", "1")]).unwrap();
    drop(checkpoint);
    let (_checkpoint, opened) = open(folder.path(), &log, None);
    assert!(matches!(opened, Opened::Accepted(found, _) if found == meta(2)));
}

#[test]
fn nothing_is_written_before_the_log_has_synced_it() {
    let folder = tempfile::tempdir().unwrap();
    let log = log(3);
    let (checkpoint, _) = open(folder.path(), &log, None);
    checkpoint.submit(meta(2), vec![set("a", "1")]).unwrap();
    checkpoint.flush().unwrap();
    checkpoint.submit(meta(3), vec![set("a", "2")]).unwrap();
    log.abandon();
    drop(checkpoint);
    let log = super::tests::log(4);
    let (_checkpoint, opened) = open(folder.path(), &log, None);
    assert!(matches!(opened, Opened::Accepted(found, _) if found == meta(2)));
}

#[test]
fn it_is_refused_unless_snapshot_and_log_bear_it_out() {
    let cases: [(Log, Option<LogId>, &str); 4] = [
        (log(9), None, "which the log does not have"),
        (log(20), Some(id(12)), "older than the snapshot"),
        (log(0), None, "which the log does not have"),
        (other_log(), None, "the log has another entry there"),
    ];
    for (log, snapshot, expected) in cases {
        let folder = tempfile::tempdir().unwrap();
        filled(folder.path());
        let (checkpoint, opened) = open(folder.path(), &log, snapshot);
        assert!(discarded(&opened).contains(expected), "{opened:?}");
        drop(checkpoint);
    }
}

fn other_log() -> Log {
    let log = log(5);
    let entry = |index| LogEntry { id: LogId { term: 2, index }, payload: "y".into() };
    log.append((5..12).map(entry).collect(), |result| result.unwrap());
    log
}

#[test]
fn it_is_accepted_when_only_the_snapshot_has_its_entry() {
    let folder = tempfile::tempdir().unwrap();
    let (_, states) = filled(folder.path());
    let log = log(0);
    log.purge(id(9), |result| result.unwrap());
    let (_checkpoint, opened) = open(folder.path(), &log, Some(id(9)));
    assert!(opened == Opened::Accepted(meta(9), states[9].clone()));
}

#[test]
fn another_nodes_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (log, _) = filled(folder.path());
    let options = CheckpointOptions { node: Uuid(6), ..options(folder.path()) };
    let (_checkpoint, opened) =
        Checkpoint::open(options, &log, None, |_, _| Ok(Map::new())).unwrap();
    assert!(discarded(&opened).contains("another node"));
}

#[test]
fn a_refill_replaces_everything_and_later_changes_come_on_top() {
    let folder = tempfile::tempdir().unwrap();
    let (log, _) = filled(folder.path());
    let (checkpoint, _) = open(folder.path(), &log, None);
    extend(&log, 10);
    checkpoint.submit(meta(10), vec![set("gone", "1")]).unwrap();
    let record = |number: u32| (format!("new {number:05}").into_bytes(), vec![7; 100]);
    checkpoint.refill(meta(12), (0..5000).map(record)).unwrap();
    checkpoint.submit(meta(13), vec![set("on top", "2"), (record(0).0, None)]).unwrap();
    checkpoint.flush().unwrap();
    drop(checkpoint);
    let mut expected: Map = (1..5000).map(record).collect();
    expected.insert("on top".into(), "2".into());
    let (_checkpoint, opened) = open(folder.path(), &log, Some(id(12)));
    assert!(opened == Opened::Accepted(meta(13), expected));
}

#[test]
fn a_refill_cut_short_counts_for_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (log, _) = filled(folder.path());
    let (checkpoint, _) = open(folder.path(), &log, None);
    extend(&log, 10);
    let (begun, has_begun) = std::sync::mpsc::channel();
    let endless = (0..u64::MAX).map(move |number| {
        if number == 3000 {
            begun.send(()).unwrap();
        }
        (number.to_le_bytes().to_vec(), vec![1])
    });
    checkpoint.refill(meta(11), endless).unwrap();
    has_begun.recv().unwrap();
    checkpoint.submit(meta(12), vec![set("a", "1")]).unwrap();
    drop(checkpoint);
    let (_checkpoint, opened) = open(folder.path(), &log, None);
    assert!(discarded(&opened).contains("does not say"), "{opened:?}");
}

#[test]
fn many_changes_are_found_again_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (log, mut states) = filled(folder.path());
    extend(&log, 10);
    let (checkpoint, _) = open(folder.path(), &log, None);
    let mut expected = states.swap_remove(9);
    let changes: Records = (0..3000)
        .map(|number| {
            let key = format!("key {number}").into_bytes();
            (key, (number % 5 != 0).then(|| vec![7; 40]))
        })
        .collect();
    for (key, value) in changes.clone() {
        match value {
            Some(value) => expected.insert(key, value),
            None => expected.remove(&key),
        };
    }
    checkpoint.submit_many(meta(12), changes.into_iter()).unwrap();
    checkpoint.submit(meta(13), vec![set("last", "1")]).unwrap();
    expected.insert("last".into(), "1".into());
    drop(checkpoint);
    let (_checkpoint, opened) = open(folder.path(), &log, None);
    assert!(opened == Opened::Accepted(meta(13), expected));
}

#[test]
fn many_changes_that_were_cut_short_count_for_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (log, _) = filled(folder.path());
    extend(&log, 10);
    let (checkpoint, _) = open(folder.path(), &log, None);
    let torn = (0..3000).map(|number| {
        assert!(number < 2000, "the machine stops here");
        set(&format!("key {number}"), "1")
    });
    checkpoint.submit_many(meta(12), torn).unwrap();
    checkpoint.flush().unwrap_err();
    drop(checkpoint);
    let (_checkpoint, opened) = open(folder.path(), &log, None);
    assert_eq!(opened, Opened::Empty, "what failed is removed");
}

#[test]
fn a_record_that_comes_and_goes_in_between_is_never_written() {
    let folder = tempfile::tempdir().unwrap();
    let log = log(100);
    let (checkpoint, _) = open(folder.path(), &log, None);
    for index in 0..50 {
        let key = format!("key {index}");
        checkpoint.submit(meta(2 * index), vec![set(&key, "1")]).unwrap();
        checkpoint.submit(meta(2 * index + 1), vec![(key.into_bytes(), None)]).unwrap();
    }
    assert!(checkpoint.waiting() <= 50);
    checkpoint.flush().unwrap();
    drop(checkpoint);
    let (_checkpoint, opened) = open(folder.path(), &log, None);
    assert_eq!(opened, Opened::Accepted(meta(99), Map::new()));
}

#[test]
fn one_that_was_closed_when_idle_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let (log, mut states) = filled(folder.path());
    extend(&log, 10);
    // So short that it is closed after each write.
    let options =
        CheckpointOptions { park_after: std::time::Duration::ZERO, ..options(folder.path()) };
    let load = |_: &_, records: &mut dyn Iterator<Item = (bytes::Bytes, bytes::Bytes)>| {
        Ok(records.count())
    };
    let (checkpoint, _) = Checkpoint::open(options, &log, None, load).unwrap();
    let mut expected = states.pop().unwrap();
    for index in 10..20 {
        let key = format!("key {}", index * 7);
        checkpoint.submit(meta(index), vec![set(&key, "again")]).unwrap();
        checkpoint.flush().unwrap();
        expected.insert(key.into_bytes(), "again".into());
    }
    drop(checkpoint);
    let (_checkpoint, opened) = open(folder.path(), &log, None);
    assert!(opened == Opened::Accepted(meta(19), expected));
}

/// Opens a damaged checkpoint: what is accepted is exactly the state as of the entry it names.
fn right_or_thrown_away(folder: &Path, log: &Log, states: &[Map], case: &str) -> bool {
    let (checkpoint, opened) = open(folder, log, None);
    match opened {
        Opened::Accepted(found, state) => {
            let index = found.applied.index;
            assert_eq!(found, meta(index), "{case}");
            assert!(state == states[usize::try_from(index).unwrap()], "{case}, as of {index}");
            false
        }
        Opened::Discarded(_) | Opened::Empty => {
            // The replacement works.
            checkpoint.refill(meta(9), states[9].clone().into_iter()).unwrap();
            checkpoint.flush().unwrap();
            drop(checkpoint);
            let (_checkpoint, again) = open(folder, log, None);
            if let Opened::Discarded(reason) = &again {
                panic!("{case}, refilled, thrown away again: {reason}");
            }
            assert!(again == Opened::Accepted(meta(9), states[9].clone()), "{case}, refilled");
            true
        }
    }
}

#[test]
fn damage_is_thrown_away_or_harmless() {
    let origin = tempfile::tempdir().unwrap();
    let (log, states) = filled(origin.path());
    let files = sled_files(origin.path());
    let database = &files.iter().find(|(name, _)| name == "db").expect("sled has a db file").1;
    let mut thrown_away = 0;
    let mut check = |case: &str, damage: &dyn Fn(&Path)| {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = folder.path().join("checkpoint").join("sled-0");
        fs::create_dir_all(checkpoint.join("blobs")).unwrap();
        for (name, bytes) in &files {
            fs::write(checkpoint.join(name), bytes).unwrap();
        }
        damage(&checkpoint);
        thrown_away += usize::from(right_or_thrown_away(folder.path(), &log, &states, case));
    };
    check("untouched", &|_| {});
    for part in 0..8 {
        let len = database.len() * part / 8;
        let cut = &database[..len];
        check(&format!("cut to {len}"), &|path| fs::write(path.join("db"), cut).unwrap());
    }
    for number in 0..24 {
        let mut flipped = database.clone();
        let used = flipped.iter().rposition(|byte| *byte != 0).unwrap_or(0) as u64;
        let at = usize::try_from(mix(number) % used).unwrap();
        flipped[at] ^= 1 << (number % 8);
        check(&format!("flipped at {at}"), &|path| fs::write(path.join("db"), &flipped).unwrap());
    }
    check("no conf", &|path| fs::remove_file(path.join("conf")).unwrap());
    check("left-over snapshot", &|path| {
        fs::write(path.join("snap.0000000000000000.generating"), b"").unwrap();
    });
    check("zero-length blob", &|path| fs::write(path.join("blobs").join("17"), b"").unwrap());
    check("zeros", &|path| fs::write(path.join("db"), vec![0; 1 << 20]).unwrap());
    assert!(thrown_away >= 2, "only {thrown_away} were thrown away");
}

fn sled_files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder.join("checkpoint").join("sled-0")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            let name = entry.file_name().to_string_lossy().into_owned();
            files.push((name, fs::read(entry.path()).unwrap()));
        }
    }
    files
}
