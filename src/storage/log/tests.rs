//! The log against a model, with the power cut at every change of the disk.

mod damage;
mod faults;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;

use super::{Drive, Log, LogOptions, LogState, Recovered};
use crate::storage::disk::{Fault, FaultyCall, MemDisk, Unsynced};
use crate::storage::{LogEntry, LogId, StorageError, Vote, mix};

/// The expected contents of a log.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Model {
    entries: BTreeMap<u64, LogEntry>,
    purged: Option<LogId>,
    last: Option<LogId>,
    vote: Option<Vote>,
}

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<LogEntry>),
    Truncate(Option<LogId>),
    Purge(LogId),
    Vote(Vote),
    Commit,
    /// Close cleanly and open again.
    Reopen,
}

impl Model {
    fn apply(&mut self, step: &Step) {
        match step {
            Step::Append(entries) => {
                for entry in entries {
                    self.entries.insert(entry.id.index, entry.clone());
                    self.last = Some(entry.id);
                }
            }
            Step::Truncate(last) => {
                let keep = last.map_or(0, |last| last.index + 1);
                self.entries.retain(|index, _| *index < keep);
                self.last = *last;
            }
            Step::Purge(through) => {
                self.entries.retain(|index, _| *index > through.index);
                self.last = self.last.max(Some(*through));
                self.purged = Some(*through);
            }
            Step::Vote(vote) => self.vote = Some(*vote),
            Step::Commit | Step::Reopen => {}
        }
    }

    fn of(log: &Log, recovered: &Recovered) -> Self {
        let read = log.read_all(0, u64::MAX).unwrap();
        let entries = read.into_iter().map(|entry| (entry.id.index, entry)).collect();
        let LogState { purged, last } = log.state();
        assert_eq!((purged, last), (recovered.purged, recovered.last));
        Self { entries, purged, last, vote: recovered.vote }
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0) % end
    }

    fn position(&mut self, end: usize) -> usize {
        usize::try_from(self.below(end as u64)).unwrap()
    }
}

fn entry(index: u64, term: u64, len: usize) -> LogEntry {
    let payload: Vec<u8> =
        (0..len as u64).map(|at| mix(index ^ mix(term) ^ at).to_le_bytes()[0]).collect();
    LogEntry { id: LogId { term, index }, payload: Bytes::from(payload) }
}

fn script(seed: u64, steps: usize) -> Vec<Step> {
    let mut random = Random(mix(seed));
    let mut model = Model::default();
    let mut term = 1;
    let mut script = Vec::new();
    while script.len() < steps {
        let step = match random.below(20) {
            0..=9 => {
                let next = model.last.map_or(0, |last| last.index + 1);
                let count = 1 + random.below(4);
                let entries = (next..next + count).map(|index| {
                    let len = [0, 10, 100, 300, 3000][random.position(20).min(4)];
                    entry(index, term, len + random.position(20))
                });
                Step::Append(entries.collect())
            }
            10..=12 => {
                term += 1;
                let held: Vec<_> = model.entries.values().map(|entry| Some(entry.id)).collect();
                let at = random.position(held.len() + 1);
                Step::Truncate(held.get(at).copied().unwrap_or(model.purged))
            }
            13 => {
                // A snapshot was installed.
                let next = model.last.map_or(0, |last| last.index + 1);
                term += 1;
                Step::Purge(LogId { term, index: next + random.below(5) })
            }
            14..=15 => {
                let held: Vec<_> = model.entries.values().map(|entry| entry.id).collect();
                let at = random.position(held.len() + 1);
                let Some(through) = held.get(at) else { continue };
                Step::Purge(*through)
            }
            16..=17 => {
                term += 1;
                Step::Vote(Vote { term, node: random.below(3), committed: random.below(2) == 0 })
            }
            18 => Step::Commit,
            _ => Step::Reopen,
        };
        model.apply(&step);
        script.push(step);
    }
    script
}

fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 2048,
        cache_bytes: 300,
        drive: Drive::Inline,
        seed: Some(7),
        ..LogOptions::default()
    }
}

fn open(disk: &MemDisk) -> Result<(Log, Recovered), StorageError> {
    Log::open(Arc::new(disk.clone()), options())
}

/// Runs a step. Returns whether the log reported it done.
fn run(log: &Log, step: &Step) -> bool {
    let reported = Arc::new(AtomicBool::new(false));
    let report = reported.clone();
    let done = move |result: Result<(), Arc<StorageError>>| {
        report.store(result.is_ok(), Ordering::SeqCst);
    };
    match step {
        Step::Append(entries) => log.append(entries.clone(), done),
        Step::Truncate(last) => log.truncate_after(*last, done),
        Step::Purge(through) => log.purge(*through, done),
        Step::Vote(vote) => log.save_vote(*vote, done),
        Step::Commit => {
            log.save_committed(log.state().last);
            return true;
        }
        Step::Reopen => return true,
    }
    reported.load(Ordering::SeqCst)
}

/// Runs the script until it ends or the power is cut. Returns the contents reported done, and the
/// step in progress.
fn play(disk: &MemDisk, script: &[Step]) -> (Model, Option<Step>) {
    let mut model = Model::default();
    let Ok((mut log, _)) = open(disk) else { return (model, None) };
    for step in script {
        if matches!(step, Step::Reopen) {
            log.close();
            let Ok((again, recovered)) = open(disk) else { return (model, None) };
            assert_eq!(Model::of(&again, &recovered), model);
            log = again;
        }
        if !run(&log, step) {
            log.abandon();
            return (model, Some(step.clone()));
        }
        model.apply(step);
    }
    (model, None)
}

/// The contents that may be found after a crash in the middle of a step: all of it, none, or (for
/// an append) a prefix.
fn possible(model: &Model, step: Option<&Step>) -> Vec<Model> {
    let mut possible = vec![model.clone()];
    let mut and_after = |step: &Step| {
        let mut after = model.clone();
        after.apply(step);
        possible.push(after);
    };
    match step {
        Some(Step::Append(entries)) => {
            for count in 1..=entries.len() {
                and_after(&Step::Append(entries[..count].to_vec()));
            }
        }
        Some(step) => and_after(step),
        None => {}
    }
    possible
}

#[test]
fn random_steps_match_the_model() {
    for seed in 0..30 {
        let disk = MemDisk::new(seed);
        let script = script(seed, 150);
        let (model, stopped) = play(&disk, &script);
        assert!(stopped.is_none(), "seed {seed}: stopped at {stopped:?}");
        disk.crash(Unsynced::Lost);
        let (log, recovered) = open(&disk).unwrap();
        assert_eq!(Model::of(&log, &recovered), model, "seed {seed}");
    }
}

#[test]
fn nothing_reported_is_lost_when_the_power_goes_at_any_change() {
    let mut crashes = 0;
    for seed in 0..3 {
        let script = script(seed, 40);
        let whole = MemDisk::new(seed);
        play(&whole, &script);
        for at in 0..whole.changes() {
            for unsynced in [Unsynced::Lost, Unsynced::Torn, Unsynced::Kept] {
                let disk = MemDisk::new(mix(seed ^ at));
                disk.power_off_at(at);
                let (model, step) = play(&disk, &script);
                disk.crash(unsynced);
                let case = format!("seed {seed}, power off at {at}, unsynced {unsynced:?}");
                let (log, recovered) =
                    open(&disk).unwrap_or_else(|error| panic!("{case}: {error}"));
                let found = Model::of(&log, &recovered);
                let possible = possible(&model, step.as_ref());
                assert!(
                    possible.contains(&found),
                    "{case}: found {found:?}\nexpected {model:?}\nthen {step:?}"
                );
                go_on(&disk, log, found, &case);
                crashes += 1;
            }
        }
    }
    assert!(crashes > 1000, "only {crashes} crashes");
}

/// Checks that the recovered log works, and keeps its entries through another crash.
fn go_on(disk: &MemDisk, log: Log, mut model: Model, case: &str) {
    let next = model.last.map_or(0, |last| last.index + 1);
    let term = model.last.map_or(1, |last| last.term + 1);
    for step in [
        Step::Append(vec![entry(next, term, 50), entry(next + 1, term, 500)]),
        Step::Truncate(Some(LogId { term, index: next })),
        Step::Append(vec![entry(next + 1, term + 1, 900)]),
    ] {
        assert!(run(&log, &step), "{case}: {step:?}");
        model.apply(&step);
    }
    log.abandon();
    drop(log);
    disk.crash(Unsynced::Lost);
    let (log, recovered) = open(disk).unwrap_or_else(|error| panic!("{case}, again: {error}"));
    assert_eq!(Model::of(&log, &recovered), model, "{case}, again");
}

#[test]
fn a_crash_while_recovering_changes_nothing() {
    for seed in 0..2 {
        let script = script(seed, 40);
        let whole = MemDisk::new(seed);
        play(&whole, &script);
        for at in (0..whole.changes()).step_by(3) {
            let torn = MemDisk::new(mix(seed ^ at));
            torn.power_off_at(at);
            let (model, step) = play(&torn, &script);
            torn.crash(Unsynced::Torn);
            let before = torn.changes();
            for more in 0..8 {
                let disk = torn.fork();
                disk.power_off_at(before + more);
                drop(open(&disk).map(|(log, _)| log.abandon()));
                disk.crash(Unsynced::Torn);
                let (log, recovered) = open(&disk).unwrap();
                let found = Model::of(&log, &recovered);
                let case = format!("seed {seed}, power off at {at} and {more} later");
                assert!(possible(&model, step.as_ref()).contains(&found), "{case}");
            }
        }
    }
}
