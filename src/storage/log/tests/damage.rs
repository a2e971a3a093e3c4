//! Damage to the files: the log opens exactly right, cuts what may have been torn, or stops.

use super::{Model, Random, Step, entry, open, options, play, run, script};
use crate::storage::disk::{MemDisk, Unsynced};
use crate::storage::log::{Log, LogOptions, Recovered};
use crate::storage::{LogEntry, LogId, StorageError, Vote, mix};

/// The effect of damage.
#[derive(PartialEq, Eq, Debug)]
enum Found {
    /// Everything is there.
    Whole,
    /// The last batch was cut, with a warning.
    Cut,
    /// The log did not open.
    Stopped,
}

/// A disk whose last frame holds exactly the last step.
fn crashed(seed: u64) -> (MemDisk, Model, Model) {
    let disk = MemDisk::new(seed);
    let steps: Vec<Step> =
        script(seed, 30).into_iter().filter(|step| !matches!(step, Step::Reopen)).collect();
    let (mut before, stopped) = play_and_abandon(&disk, &steps);
    assert!(stopped.is_none());
    let (log, recovered) = open(&disk).unwrap();
    before.vote = recovered.vote;
    let next = before.last.map_or(0, |last| last.index + 1);
    let term = before.last.map_or(1, |last| last.term);
    let step = Step::Append(vec![entry(next, term, 70)]);
    assert!(run(&log, &step));
    log.abandon();
    disk.crash(Unsynced::Lost);
    let mut after = before.clone();
    after.apply(&step);
    (disk, before, after)
}

fn play_and_abandon(disk: &MemDisk, steps: &[Step]) -> (Model, Option<Step>) {
    let (log, _) = open(disk).unwrap();
    let mut model = Model::default();
    for step in steps {
        assert!(run(&log, step), "{step:?}");
        model.apply(step);
    }
    log.abandon();
    disk.crash(Unsynced::Lost);
    (model, None)
}

fn judge(disk: &MemDisk, before: &Model, after: &Model, case: &str) -> Found {
    match open(disk) {
        Err(error) => {
            assert!(!error.to_string().is_empty());
            Found::Stopped
        }
        Ok((log, recovered)) => {
            let found = Model::of(&log, &recovered);
            log.abandon();
            if &found == after {
                Found::Whole
            } else {
                assert!(&found == before, "{case}: neither whole nor the last batch cut");
                assert!(!recovered.warnings.is_empty(), "{case}: cut without a warning");
                Found::Cut
            }
        }
    }
}

#[test]
fn every_flipped_byte_is_found_or_harmless() {
    let mut random = Random(3);
    let (mut stopped, mut cut, mut cases) = (0, 0, 0);
    for seed in 0..2 {
        let (disk, before, after) = crashed(seed);
        assert_eq!(judge(&disk.fork(), &before, &after, "untouched"), Found::Whole);
        for path in disk.paths() {
            let bytes = disk.bytes(&path).unwrap();
            let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            // Every byte of the small files, a sample of the segments.
            let step = if path.contains("segment") { 7 + random.below(9) } else { 1 };
            for at in (0..used).step_by(usize::try_from(step).unwrap()) {
                let damaged = disk.fork();
                let mut bytes = bytes.clone();
                bytes[at] ^= 1 << random.below(8);
                damaged.set_bytes(&path, bytes);
                let case = format!("seed {seed}, {path} flipped at {at}");
                match judge(&damaged, &before, &after, &case) {
                    Found::Whole => {}
                    Found::Stopped => stopped += 1,
                    Found::Cut => cut += 1,
                }
                cases += 1;
            }
        }
    }
    assert!(cases > 500 && stopped > 100 && cut > 10, "{cases}: {stopped} stopped, {cut} cut");
}

#[test]
fn a_flipped_byte_in_the_vote_file_never_changes_the_vote() {
    let disk = MemDisk::new(1);
    let (log, _) = open(&disk).unwrap();
    for term in 1..5 {
        assert!(run(&log, &Step::Vote(Vote { term, node: 2, committed: term % 2 == 0 })));
    }
    log.abandon();
    let bytes = disk.bytes("vote").unwrap();
    for at in 0..bytes.len() {
        let damaged = disk.fork();
        let mut bytes = bytes.clone();
        bytes[at] ^= 1 << (at % 8);
        damaged.set_bytes("vote", bytes);
        let (_, recovered) = open(&damaged).unwrap();
        assert_eq!(recovered.vote, Some(Vote { term: 4, node: 2, committed: true }), "at {at}");
    }
}

#[test]
fn zeroed_and_shortened_files_are_found() {
    for seed in 0..6 {
        let (disk, before, after) = crashed(seed);
        for path in disk.paths().into_iter().filter(|path| !path.contains("spare")) {
            let bytes = disk.bytes(&path).unwrap();
            for sector in 0..bytes.len().div_ceil(512) {
                let end = bytes.len().min(sector * 512 + 512);
                let case = format!("seed {seed}, {path}, sector {sector}");
                let zeroed = disk.fork();
                let mut changed = bytes.clone();
                changed[sector * 512..end].fill(0);
                let blank = changed == bytes;
                zeroed.set_bytes(&path, changed);
                let found = judge_zeroed(&zeroed, &before, &after, &case);
                assert!(!blank || found == Found::Whole, "{case}");
                let short = disk.fork();
                short.set_bytes(&path, bytes[..sector * 512].to_vec());
                if path.contains("segment") {
                    assert!(open(&short).is_err(), "{case}, shortened");
                } else {
                    judge(&short, &before, &after, &case);
                }
            }
        }
    }
}

/// Does the same as [`judge`], but a last batch whose sector came back blank cannot be
/// distinguished from one that was never written: it may be cut without a warning.
fn judge_zeroed(disk: &MemDisk, before: &Model, after: &Model, case: &str) -> Found {
    let Ok((log, recovered)) = open(disk) else { return Found::Stopped };
    let found = Model::of(&log, &recovered);
    log.abandon();
    assert!(&found == before || &found == after, "{case}");
    if &found == after { Found::Whole } else { Found::Cut }
}

#[test]
fn after_a_clean_end_damage_to_the_last_batch_stops_the_log() {
    let disk = MemDisk::new(1);
    let (log, _) = open(&disk).unwrap();
    let entries: Vec<LogEntry> = (0..3).map(|index| entry(index, 1, 40)).collect();
    for entry in entries {
        assert!(run(&log, &Step::Append(vec![entry])));
    }
    log.close();
    let path = disk.paths().into_iter().find(|path| path.contains("segment")).unwrap();
    let bytes = disk.bytes(&path).unwrap();
    let mark = bytes.iter().rposition(|byte| *byte != 0).unwrap() / 512 * 512;
    for at in 0..mark {
        let damaged = disk.fork();
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x10;
        damaged.set_bytes(&path, bytes);
        match open(&damaged) {
            Err(_) => {}
            // The padding after a body has no meaning.
            Ok((log, _)) => assert_eq!(log.state().last.unwrap().index, 2, "flipped at {at}"),
        }
    }
}

#[test]
fn a_clean_end_is_marked_behind_a_segment_that_is_full() {
    let disk = MemDisk::new(1);
    let (log, _) = open(&disk).unwrap();
    // An entry longer than a segment, which is alone in a segment of its own size.
    assert!(run(&log, &Step::Append(vec![entry(0, 1, 100_000)])));
    log.close();
    let size = |path: &String| disk.bytes(path).unwrap().len();
    let path = disk.paths().into_iter().max_by_key(size).unwrap();
    assert!(size(&path) > 100_000, "{path}");
    for at in (0..100_000).step_by(977) {
        let damaged = disk.fork();
        let mut bytes = disk.bytes(&path).unwrap();
        bytes[at] ^= 0x10;
        damaged.set_bytes(&path, bytes);
        if let Ok((log, _)) = open(&damaged) {
            assert_eq!(log.state().last.unwrap().index, 0, "flipped at {at}");
        }
    }
}

#[test]
fn each_missing_file_is_named() {
    let (disk, _, _) = crashed(2);
    for path in disk.paths().into_iter().filter(|path| !path.contains("spare")) {
        let damaged = disk.fork();
        crate::storage::Disk::remove(&damaged, &path).unwrap();
        let error = open(&damaged).map(|_| ()).unwrap_err();
        assert!(matches!(&error, StorageError::Missing { file, .. } if *file == path), "{error}");
    }
}

#[test]
fn frames_of_a_segments_former_use_never_count() {
    // Small entries, purged again and again, so that the few files are used many times.
    for seed in 0..4 {
        let disk = MemDisk::new(seed);
        let (mut log, _) = open(&disk).unwrap();
        let mut model = Model::default();
        for round in 0..300 {
            let next = model.last.map_or(0, |last| last.index + 1);
            let append = Step::Append(vec![entry(next, 1, (mix(seed ^ round) % 400) as usize)]);
            let mut steps = vec![append];
            if round % 7 == 6 {
                steps.push(Step::Purge(LogId { term: 1, index: next - 2 }));
            }
            for step in steps {
                assert!(run(&log, &step));
                model.apply(&step);
            }
            if round % 11 == 10 {
                log.abandon();
                disk.crash(Unsynced::Torn);
                let recovered: Recovered;
                (log, recovered) = open(&disk).unwrap();
                assert!(Model::of(&log, &recovered) == model, "seed {seed}, round {round}");
            }
        }
        assert!(disk.paths().len() < 12, "{:?}", disk.paths());
    }
}

#[test]
fn a_later_version_is_refused_by_name() {
    let (disk, _, _) = crashed(1);
    for path in ["log/manifest", "vote"] {
        let damaged = disk.fork();
        let mut bytes = damaged.bytes(path).unwrap();
        bytes[8..12].copy_from_slice(&3u32.to_le_bytes());
        let end = 20 + u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
        let mut crc = crc32fast::Hasher::new();
        crc.update(&bytes[..16]);
        crc.update(&bytes[20..end]);
        bytes[16..20].copy_from_slice(&crc.finalize().to_le_bytes());
        damaged.set_bytes(path, bytes);
        let error = Log::open(std::sync::Arc::new(damaged), LogOptions { ..options() })
            .map(|_| ())
            .unwrap_err();
        assert!(matches!(&error, StorageError::Version { file, .. } if file == path), "{error}");
    }
}

#[test]
fn the_played_model_is_what_is_found() {
    // The damage tests rely on this: an untouched disk gives the model back.
    for seed in 0..6 {
        let disk = MemDisk::new(seed);
        let (model, stopped) = play(&disk, &script(seed, 30));
        assert!(stopped.is_none());
        assert!(judge(&disk, &model, &model, "untouched") == Found::Whole);
    }
}
