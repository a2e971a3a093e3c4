//! The checkpoint on a real folder: kept, refused when it does not belong, and discarded when it is
//! damaged.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::store::{self, Store};
use super::{BATCH, Change, Checkpoint, CheckpointMeta, CheckpointOptions, Opened};
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
    CheckpointOptions { folder: folder.join("checkpoint"), node: Uuid(5) }
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

fn set(key: &str, value: &str) -> Change {
    (key.into(), Some(value.into()))
}

fn write(checkpoint: &mut Checkpoint, index: u64, changes: impl IntoIterator<Item = Change>) {
    checkpoint.write(&meta(index), changes.into_iter()).unwrap();
}

fn apply(state: &mut Map, changes: impl IntoIterator<Item = Change>) {
    for (key, value) in changes {
        match value {
            Some(value) => state.insert(key, value),
            None => state.remove(&key),
        };
    }
}

/// Makes a checkpoint with some hundred records, as of entry 9. Returns the states as of each
/// entry.
fn filled(folder: &Path) -> (Log, Vec<Map>) {
    let log = log(10);
    let mut states = Vec::new();
    let (mut checkpoint, opened) = open(folder, &log, None);
    assert_eq!(opened, Opened::Empty);
    let mut expected = Map::new();
    for index in 0..10 {
        let mut changes = BTreeMap::new();
        for number in 0..60 {
            let key = format!("key {}", mix(index * 100 + number) % 300).into_bytes();
            let remove = mix(number ^ index).is_multiple_of(4);
            let value = (!remove).then(|| format!("value {index} {number}").repeat(5).into_bytes());
            changes.insert(key, value);
        }
        write(&mut checkpoint, index, changes.clone());
        apply(&mut expected, changes);
        states.push(expected.clone());
    }
    (log, states)
}

#[test]
fn what_was_written_is_found_again() {
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
    db.insert(key, b"what nobody wrote").unwrap();
    db.flush().unwrap();
    drop(db);
    let (_checkpoint, opened) = open(folder.path(), &log, Some(id(4)));
    assert!(discarded(&opened).contains("do not add up"), "{opened:?}");
}

#[test]
fn nothing_is_written_before_the_log_has_synced_it() {
    let folder = tempfile::tempdir().unwrap();
    let log = log(3);
    let (mut checkpoint, _) = open(folder.path(), &log, None);
    write(&mut checkpoint, 2, [set("a", "1")]);
    log.abandon();
    write(&mut checkpoint, 3, [set("a", "2")]);
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
fn filling_replaces_everything_and_later_changes_come_on_top() {
    let folder = tempfile::tempdir().unwrap();
    let (log, _) = filled(folder.path());
    let (mut checkpoint, _) = open(folder.path(), &log, None);
    extend(&log, 10);
    write(&mut checkpoint, 10, [set("gone", "1")]);
    let record = |number: u32| (format!("new {number:05}").into_bytes(), vec![7; 100]);
    checkpoint.fill(&meta(12), (0..5000).map(record)).unwrap();
    write(&mut checkpoint, 13, [set("on top", "2"), (record(0).0, None)]);
    drop(checkpoint);
    let mut expected: Map = (1..5000).map(record).collect();
    expected.insert("on top".into(), "2".into());
    let (_checkpoint, opened) = open(folder.path(), &log, Some(id(12)));
    assert!(opened == Opened::Accepted(meta(13), expected));
}

/// The keys and values of a long list of changes, whose source ends the process, as it were, when
/// it comes to the last of them.
fn torn(count: usize) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    (1..=count).map(move |number| {
        assert!(number < count, "the machine stops here");
        (format!("key {number}").into_bytes(), b"1".to_vec())
    })
}

/// Opens the database below a filled checkpoint, does something to it that fails half-way, and
/// opens the checkpoint again.
fn after_a_crash(act: impl FnOnce(&mut Store) -> Result<(), String>) -> (Vec<Map>, Opened<Map>) {
    let folder = tempfile::tempdir().unwrap();
    let (log, states) = filled(folder.path());
    let options = options(folder.path());
    let opened = Store::open_or_discard(&options, |_| Ok(()), |_, records| Ok(records.count()));
    let mut store = opened.unwrap().0;
    store::guarded(|| act(&mut store)).unwrap_err();
    store.close().unwrap();
    (states, open(folder.path(), &log, None).1)
}

#[test]
fn filling_cut_short_counts_for_nothing() {
    let (_, opened) = after_a_crash(|store| store.fill(&meta(11), torn(3000)));
    assert!(discarded(&opened).contains("do not add up"), "{opened:?}");
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    let mut store = Store::create(&options).unwrap();
    store::guarded(|| store.fill(&meta(2), torn(3000))).unwrap_err();
    store.close().unwrap();
    let (_checkpoint, opened) = open(folder.path(), &log(3), None);
    assert!(discarded(&opened).contains("does not say"), "{opened:?}");
}

#[test]
fn a_batch_is_written_whole_or_not_at_all_and_more_is_never_half_valid() {
    let torn = |count| torn(count).map(|(key, value)| (key, Some(value)));
    let (mut states, opened) = after_a_crash(|store| store.write(&meta(9), torn(BATCH)));
    assert!(opened == Opened::Accepted(meta(9), states.pop().unwrap()), "nothing was written");
    let (_, opened) = after_a_crash(|store| store.write(&meta(9), torn(3000)));
    assert!(discarded(&opened).contains("does not say"), "{opened:?}");
}

#[test]
fn many_changes_are_found_again_whole() {
    for count in [BATCH - 1, BATCH, BATCH + 1, 3000] {
        let folder = tempfile::tempdir().unwrap();
        let (log, mut states) = filled(folder.path());
        extend(&log, 10);
        let (mut checkpoint, _) = open(folder.path(), &log, None);
        let changes = (0..count).map(|number| {
            let key = format!("key {number}").into_bytes();
            (key, (number % 5 != 0).then(|| vec![7; 40]))
        });
        let mut expected = states.swap_remove(9);
        apply(&mut expected, changes.clone());
        write(&mut checkpoint, 12, changes);
        write(&mut checkpoint, 13, [set("last", "1")]);
        expected.insert("last".into(), "1".into());
        drop(checkpoint);
        let (_checkpoint, opened) = open(folder.path(), &log, None);
        assert!(opened == Opened::Accepted(meta(13), expected), "{count} changes");
    }
}

#[test]
fn one_that_failed_is_removed_and_stays_so() {
    let folder = tempfile::tempdir().unwrap();
    let (log, _) = filled(folder.path());
    extend(&log, 10);
    let (mut checkpoint, _) = open(folder.path(), &log, None);
    let torn = torn(2000).map(|(key, value)| (key, Some(value)));
    checkpoint.write(&meta(12), torn).unwrap_err();
    checkpoint.write(&meta(13), [set("a", "1")].into_iter()).unwrap_err();
    checkpoint.fill(&meta(13), std::iter::empty()).unwrap_err();
    checkpoint.park().unwrap_err();
    drop(checkpoint);
    let (_checkpoint, opened) = open(folder.path(), &log, None);
    assert_eq!(opened, Opened::Empty);
}

#[test]
fn one_that_was_closed_when_idle_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let (log, mut states) = filled(folder.path());
    extend(&log, 10);
    let (mut checkpoint, _) = open(folder.path(), &log, None);
    let mut expected = states.pop().unwrap();
    for index in 10..20 {
        let key = format!("key {}", index * 7);
        checkpoint.park().unwrap();
        write(&mut checkpoint, index, [set(&key, "again")]);
        expected.insert(key.into_bytes(), "again".into());
    }
    checkpoint.park().unwrap();
    drop(checkpoint);
    let (mut checkpoint, opened) = open(folder.path(), &log, None);
    assert!(opened == Opened::Accepted(meta(19), expected));
    checkpoint.park().unwrap();
    let only = Map::from([(b"a".to_vec(), b"1".to_vec())]);
    checkpoint.fill(&meta(19), only.clone().into_iter()).unwrap();
    drop(checkpoint);
    let (_checkpoint, opened) = open(folder.path(), &log, None);
    assert!(opened == Opened::Accepted(meta(19), only), "filled while it was closed");
}

/// Opens a damaged checkpoint: what is accepted is exactly the state as of the entry it names.
fn right_or_thrown_away(folder: &Path, log: &Log, states: &[Map], case: &str) -> bool {
    let (mut checkpoint, opened) = open(folder, log, None);
    match opened {
        Opened::Accepted(found, state) => {
            let index = found.applied.index;
            assert_eq!(found, meta(index), "{case}");
            assert!(state == states[usize::try_from(index).unwrap()], "{case}, as of {index}");
            false
        }
        Opened::Discarded(_) | Opened::Empty => {
            // The replacement works.
            checkpoint.fill(&meta(9), states[9].clone().into_iter()).unwrap();
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
