//! Kills a node's storage at every I/O boundary of a scripted life, and checks that it comes back
//! with what it promised.
//!
//! The life has everything a data folder goes through: identity, votes, appends across segments,
//! truncations, snapshots made and received, purges with recycled segments, a clean shutdown and a
//! second start. A boundary is a call that changes the disk: each write, sync, creation, rename,
//! removal and folder sync. The power is cut before each of them (which is after the previous one),
//! and then the unsynced bytes and names are all lost, all kept, or torn as a seed says, which
//! covers a write or a sync that was interrupted.
//!
//! The checkpoint is left out: sled does its own I/O, and its contents are either discarded or
//! proven whole.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::disk::{Fault, FaultyCall, MemDisk, Unsynced};
use super::identity::{Seen, Start};
use super::log::Drive;
use super::snapshots::SnapshotMeta;
use super::{
    Identity, Log, LogEntry, LogId, LogOptions, Promises, Snapshots, StorageError, Uuid, Vote, mix,
};

const NODE: u64 = 3;
const CLUSTER: Uuid = Uuid(77);
const PEER: Uuid = Uuid(5);
const SEEDS: u64 = 3;
/// The number of times a death is repeated with other unsynced sectors surviving.
const TORN: u64 = 3;

/// The contents of a folder that were reported durable.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Promised {
    cluster: Option<Uuid>,
    joined: bool,
    seen: Option<Seen>,
    vote: Option<Vote>,
    entries: BTreeMap<u64, LogEntry>,
    purged: Option<LogId>,
    last: Option<LogId>,
    snapshot: Option<(LogId, Vec<u8>)>,
}

/// An operation whose result is promised when it returns.
#[derive(Clone, Debug)]
enum Step {
    SetCluster,
    SetJoined,
    Observe(Seen),
    Vote(Vote),
    Append(Vec<LogEntry>),
    Truncate(LogId),
    /// Built here, of the last entry.
    Snapshot(LogId, Vec<u8>),
    /// Sent by another node, in pieces.
    Receive(LogId, Vec<u8>),
    Purge(LogId),
    /// Closed cleanly and started again.
    Restart,
}

impl Promised {
    fn keep(&mut self, step: &Step) {
        match step {
            Step::SetCluster => self.cluster = Some(CLUSTER),
            Step::SetJoined => self.joined = true,
            Step::Observe(seen) => self.seen = Some(*seen),
            Step::Vote(vote) => self.vote = Some(*vote),
            Step::Append(entries) => {
                for entry in entries {
                    self.entries.insert(entry.id.index, entry.clone());
                    self.last = Some(entry.id);
                }
            }
            Step::Truncate(last) => {
                self.entries.retain(|index, _| *index <= last.index);
                self.last = Some(*last);
            }
            Step::Snapshot(last, body) | Step::Receive(last, body) => {
                self.snapshot = Some((*last, body.clone()));
            }
            Step::Purge(through) => {
                self.entries.retain(|index, _| *index > through.index);
                self.last = self.last.max(Some(*through));
                self.purged = Some(*through);
            }
            Step::Restart => {}
        }
    }

    /// The contents that may be found when it died in the middle of a step: those before it, those
    /// after it, and for an append any prefix.
    fn possible(&self, step: Option<&Step>) -> Vec<Self> {
        let after = |step: &Step| {
            let mut after = self.clone();
            after.keep(step);
            after
        };
        let mut possible = vec![self.clone()];
        match step {
            Some(Step::Append(entries)) => {
                let parts = (1..=entries.len()).map(|count| entries[..count].to_vec());
                possible.extend(parts.map(|part| after(&Step::Append(part))));
            }
            Some(step) => possible.push(after(step)),
            None => {}
        }
        possible
    }
}

/// An open folder.
struct Open {
    identity: Identity,
    log: Log,
    snapshots: Snapshots,
}

impl Open {
    fn new(disk: &MemDisk) -> Result<(Self, Promised), StorageError> {
        let shared: Arc<MemDisk> = Arc::new(disk.clone());
        let identity = Identity::open(shared.clone(), NODE)?;
        let options = LogOptions {
            segment_bytes: 2048,
            cache_bytes: 200,
            drive: Drive::Inline,
            seed: Some(7),
            ..LogOptions::default()
        };
        let (log, recovered) = Log::open(shared.clone(), options)?;
        identity.attach(log.promised())?;
        let snapshots = Snapshots::open(shared, recovered.purged)?;
        let this = Self { identity, log, snapshots };
        let found = this.found(recovered.vote)?;
        Ok((this, found))
    }

    fn found(&self, vote: Option<Vote>) -> Result<Promised, StorageError> {
        let facts = self.identity.facts();
        let read = self.log.read_all(0, u64::MAX)?;
        let entries = read.into_iter().map(|entry| (entry.id.index, entry)).collect();
        let state = self.log.state();
        let snapshot = match self.snapshots.latest() {
            Some(latest) => {
                let last = latest.meta.last.unwrap_or_default();
                Some((last, self.snapshots.body(&latest)?))
            }
            None => None,
        };
        Ok(Promised {
            cluster: facts.cluster,
            joined: facts.joined,
            seen: facts.seen.get(&PEER).copied(),
            vote,
            entries,
            purged: state.purged,
            last: state.last,
            snapshot,
        })
    }

    /// Runs a step; an error if it is not promised.
    fn run(&self, step: &Step) -> Result<(), StorageError> {
        match step {
            Step::SetCluster => self.identity.set_cluster(CLUSTER, BTreeMap::new()),
            Step::SetJoined => self.identity.set_joined(),
            Step::Observe(seen) => {
                let Seen { boot, run, owed: found, promised, .. } = *seen;
                let start = Start { uuid: PEER, boot, run, found, promised };
                let observed = self.identity.observe(&start)?;
                observed.expect("it is a newer start than the one before");
                Ok(())
            }
            Step::Vote(vote) => logged(|done| self.log.save_vote(*vote, done)),
            Step::Append(entries) => logged(|done| self.log.append(entries.clone(), done)),
            Step::Truncate(last) => logged(|done| self.log.truncate_after(Some(*last), done)),
            Step::Purge(through) => logged(|done| self.log.purge(*through, done)),
            Step::Snapshot(last, body) => self.snapshots.save(meta(*last), body).map(drop),
            Step::Receive(last, body) => self.receive(*last, body),
            Step::Restart => unreachable!("whoever plays the life restarts it"),
        }
    }

    fn receive(&self, last: LogId, body: &[u8]) -> Result<(), StorageError> {
        let sender = Snapshots::open(Arc::new(MemDisk::new(1)), None)?;
        let stored = sender.save(meta(last), body)?;
        let mut receiver = self.snapshots.receive()?;
        loop {
            let piece = sender.piece(&stored, receiver.received(), 300)?;
            if piece.is_empty() {
                break receiver.finish(Some(CLUSTER)).map(drop);
            }
            receiver.write(&piece)?;
        }
    }
}

type Done = Box<dyn FnOnce(Result<(), Arc<StorageError>>) + Send>;

/// The result that the log reported before the call returned, as it does when the caller drives it.
fn logged(start: impl FnOnce(Done)) -> Result<(), StorageError> {
    let done = Arc::new(AtomicBool::new(false));
    let report = done.clone();
    start(Box::new(move |result| report.store(result.is_ok(), Ordering::SeqCst)));
    if done.load(Ordering::SeqCst) { Ok(()) } else { Err(StorageError::Closed) }
}

fn meta(last: LogId) -> SnapshotMeta {
    SnapshotMeta {
        cluster: Some(CLUSTER),
        last: Some(last),
        membership: vec![1, 2, 3],
        membership_log: Some(LogId { term: 1, index: 0 }),
        feature_level: 1,
        body_bytes: 0,
    }
}

fn bytes(number: u64, len: u64) -> Vec<u8> {
    (0..len).map(|at| mix(number ^ mix(at)).to_le_bytes()[0]).collect()
}

/// Draws a life: the order of steps is fixed, the sizes come from the seed.
struct Life {
    seed: u64,
    steps: Vec<Step>,
    term: u64,
    last: u64,
}

impl Life {
    fn of(seed: u64) -> Vec<Step> {
        let mut life = Self { seed: mix(seed), steps: Vec::new(), term: 1, last: 0 };
        let vote = |term, node, committed| Step::Vote(Vote { term, node, committed });
        let start = |boot| Step::Observe(Seen::of(boot, Uuid(boot.into())));
        life.steps.extend([Step::SetCluster, start(1), vote(0, NODE, false), Step::SetJoined]);
        life.steps.push(Step::Append(vec![LogEntry {
            id: LogId { term: 1, index: 0 },
            payload: Bytes::from_static(b"membership"),
        }]));
        life.steps.push(vote(1, NODE, true));
        life.append(6);
        life.snapshot();
        life.append(4);
        life.steps.push(Step::Purge(LogId { term: 1, index: 3 }));
        life.steps.push(vote(2, 1, false));
        life.steps.push(Step::Truncate(LogId { term: 1, index: life.last - 2 }));
        (life.last, life.term) = (life.last - 2, 2);
        life.append(5);
        life.steps.extend([start(2), Step::Restart, start(3), vote(3, 2, true)]);
        life.term = 3;
        life.append(3);
        life.snapshot();
        life.steps.push(Step::Purge(LogId { term: 3, index: life.last }));
        life.append(2);
        // The leader sends a snapshot to a node that is far behind.
        (life.term, life.last) = (4, life.last + 9);
        let last = LogId { term: 4, index: life.last };
        life.steps.push(Step::Receive(last, bytes(9, 900)));
        life.steps.push(Step::Purge(last));
        life.append(3);
        life.steps.extend([Step::Restart, vote(5, NODE, false)]);
        life.term = 5;
        life.append(1);
        life.steps
    }

    fn next(&mut self, end: u64) -> u64 {
        self.seed = mix(self.seed);
        self.seed % end
    }

    fn append(&mut self, count: u64) {
        let mut left = count;
        while left > 0 {
            let batch = 1 + self.next(left.min(3));
            left -= batch;
            let mut entries = Vec::new();
            for _ in 0..batch {
                self.last += 1;
                let len = 20 + self.next(500);
                let id = LogId { term: self.term, index: self.last };
                entries.push(LogEntry { id, payload: Bytes::from(bytes(self.last, len)) });
            }
            self.steps.push(Step::Append(entries));
        }
    }

    fn snapshot(&mut self) {
        let body = bytes(self.last, 100 + self.next(900));
        let last = LogId { term: self.term, index: self.last };
        self.steps.push(Step::Snapshot(last, body));
    }
}

/// The end of a life.
struct End {
    promised: Promised,
    /// The boot number of the last start.
    boot: u64,
    /// The promises that the log had counted.
    counted: Promises,
    /// The step that was interrupted.
    during: Option<Step>,
}

/// Lives until the end of the script, or until a step is not promised.
fn live(disk: &MemDisk, life: &[Step]) -> End {
    let mut end =
        End { promised: Promised::default(), boot: 0, counted: Promises::default(), during: None };
    let Ok((mut open, _)) = Open::new(disk) else { return end };
    end.boot = open.identity.facts().boot;
    for step in life {
        if matches!(step, Step::Restart) {
            open.log.close();
            drop(open);
            let Ok((again, found)) = Open::new(disk) else { return end };
            assert_eq!(found, end.promised, "after a clean end");
            open = again;
            end.boot = open.identity.facts().boot;
        } else if open.run(step).is_ok() {
            end.promised.keep(step);
            let counted = open.log.promised().get();
            assert!(counted.cover(end.counted), "{step:?}: {counted} after {}", end.counted);
            let promise = matches!(step, Step::Vote(_) | Step::Append(_) | Step::Truncate(_));
            assert!(!promise || counted != end.counted, "{step:?} is not counted");
            end.counted = counted;
        } else {
            open.log.abandon();
            end.during = Some(step.clone());
            return end;
        }
    }
    open.log.abandon();
    end
}

/// Starts again after a death: the folder opens, everything promised is there, nothing else is, and
/// it can be used.
fn come_back(disk: &MemDisk, end: &End, case: &str) {
    let (open, found) = Open::new(disk).unwrap_or_else(|error| panic!("{case}: {error}"));
    let possible = end.promised.possible(end.during.as_ref());
    assert!(
        possible.contains(&found),
        "{case}: found {found:?}\npromised {:?}\nthen {:?}",
        end.promised,
        end.during
    );
    let counted = open.log.promised().get();
    assert!(counted.cover(end.counted), "{case}: {counted} after {}", end.counted);
    let boot = open.identity.facts().boot;
    assert!(boot > end.boot, "{case}: boot number {boot} after {}", end.boot);
    let mut promised = found;
    let mut more = Vec::new();
    if let Some((covered, _)) = &promised.snapshot
        && promised.last < Some(*covered)
    {
        // It died between receiving a snapshot and purging the log up to it.
        more.push(Step::Purge(*covered));
        promised.last = Some(*covered);
    }
    let last = promised.last.map_or(0, |last| last.index + 1);
    let id = LogId { term: 9, index: last };
    more.extend([
        Step::Append(vec![LogEntry { id, payload: Bytes::from(bytes(last, 700)) }]),
        Step::Vote(Vote { term: 9, node: 2, committed: false }),
        Step::Snapshot(id, bytes(1, 400)),
        Step::Purge(id),
    ]);
    for step in more {
        open.run(&step).unwrap_or_else(|error| panic!("{case}, going on: {step:?}: {error}"));
        promised.keep(&step);
    }
    open.log.abandon();
    drop(open);
    disk.crash(Unsynced::Lost);
    let (_, found) = Open::new(disk).unwrap_or_else(|error| panic!("{case}, again: {error}"));
    assert_eq!(found, promised, "{case}, again");
}

/// The possible fates of unsynced data, with a seed for the disk.
fn fates(at: u64) -> impl Iterator<Item = (Unsynced, u64)> {
    let torn = (0..TORN).map(move |number| (Unsynced::Torn, mix(at) ^ number));
    [(Unsynced::Lost, 0), (Unsynced::Kept, 0)].into_iter().chain(torn)
}

#[test]
fn a_node_that_dies_at_any_boundary_comes_back_with_what_it_promised() {
    let (mut boundaries, mut deaths) = (0, 0);
    for seed in 0..SEEDS {
        let life = Life::of(seed);
        let whole = MemDisk::new(seed);
        let end = live(&whole, &life);
        assert!(end.during.is_none(), "seed {seed}: stopped at {:?}", end.during);
        boundaries += whole.changes();
        for at in 0..whole.changes() {
            for (unsynced, luck) in fates(at) {
                let disk = MemDisk::new(luck);
                disk.power_off_at(at);
                let end = live(&disk, &life);
                disk.crash(unsynced);
                come_back(&disk, &end, &format!("seed {seed}, boundary {at}, {unsynced:?}"));
                deaths += 1;
            }
        }
    }
    println!("{boundaries} boundaries, {deaths} deaths");
    assert!(boundaries > 600, "only {boundaries} boundaries");
}

#[test]
fn a_node_that_dies_again_while_it_comes_back_still_comes_back() {
    let life = Life::of(7);
    let whole = MemDisk::new(0);
    live(&whole, &life);
    let mut deaths = 0;
    for at in (0..whole.changes()).step_by(5) {
        let died = MemDisk::new(at);
        died.power_off_at(at);
        let end = live(&died, &life);
        died.crash(Unsynced::Torn);
        let before = died.changes();
        for more in 0..24 {
            let disk = died.fork();
            disk.power_off_at(before + more);
            let opened = Open::new(&disk);
            if let Ok((open, _)) = &opened {
                open.log.abandon();
            }
            drop(opened);
            disk.crash(Unsynced::Torn);
            come_back(&disk, &end, &format!("boundary {at}, and {more} later"));
            deaths += 1;
        }
    }
    assert!(deaths > 500, "only {deaths} deaths");
}

#[test]
fn a_disk_that_fails_at_any_call_loses_nothing_that_was_promised() {
    let life = Life::of(1);
    let mut failures = 0;
    for call in [FaultyCall::Write, FaultyCall::Sync] {
        for kind in [ErrorKind::Other, ErrorKind::StorageFull] {
            for after in 0.. {
                let disk = MemDisk::new(after);
                let path = String::new();
                disk.fail(Fault { call, path, after, times: 1, kind });
                let end = live(&disk, &life);
                if end.during.is_none() && end.boot == 3 {
                    break;
                }
                disk.heal();
                disk.crash(Unsynced::Torn);
                come_back(&disk, &end, &format!("{call:?} {after} fails with {kind:?}"));
                failures += 1;
            }
        }
    }
    println!("{failures} failures");
    assert!(failures > 200, "only {failures} failures");
}
