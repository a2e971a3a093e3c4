//! The invariants after every run.

use std::collections::BTreeMap;
use std::time::Duration;

use super::world::{FIRST_CLIENT, World};
use keyward::LockService;
use keyward::types::{LockOptions, LockRequest};

use super::schedule::{Fault, Schedule};
use crate::check::{self, Conclusion, Source};
use crate::history::{History, Observation, Recorded, Recorder};

/// The time within which a healed cluster grants a fresh lock.
const ALIVE: Duration = Duration::from_secs(10);

/// The time within which calls made before the end are answered or time out.
const LAST_CALLS: Duration = Duration::from_secs(5);

/// The time after that within which nodes have applied the same.
const EQUAL: Duration = Duration::from_secs(10);

/// The polling interval.
const LOOK: Duration = Duration::from_millis(50);

/// Waits until the healed cluster is at rest; returns the problems it found.
pub(super) async fn settle(world: &World, schedule: &Schedule, recorder: &Recorder) -> Vec<String> {
    let mut failures = Vec::new();
    recorder.event("healed", "");
    if !is_alive(world, recorder).await {
        failures.push(format!("no fresh lock within {ALIVE:?} after healing"));
    }
    world.sleep(LAST_CALLS).await;
    if let Err(what) = become_equal(world, recorder).await {
        failures.push(what);
    }
    failures.extend(world.panics().into_iter().map(|panic| format!("a panic: {panic}")));
    failures.extend(world.disagreements());
    for stop in world.stops() {
        if !is_explained(&stop.reason, schedule) {
            failures.push(format!("node {} stopped at {:?}: {}", stop.node, stop.at, stop.reason));
        }
    }
    // A retried request is in the log again; its first place is where it was decided.
    let mut decided = BTreeMap::new();
    for (request, place) in world.log().into_iter().flat_map(|entry| entry.requests) {
        decided.entry(request).or_insert(place);
    }
    for (request, place) in decided {
        recorder.applied(request, place);
    }
    failures
}

async fn is_alive(world: &World, recorder: &Recorder) -> bool {
    let client = world.client(FIRST_CLIENT, 1, Duration::from_secs(2));
    let service = Recorded::new(client, recorder.clone(), "judge");
    let until = world.now() + ALIVE;
    for attempt in 0_u32.. {
        if world.now() >= until {
            break;
        }
        start_all(world);
        // A new lock each time: an attempt without an answer may have been done all the same.
        let signature = format!("fresh lock {attempt}");
        let request = LockRequest { signature, signee: "judge".to_owned(), level: None };
        if service.lock(request, LockOptions::default()).await.is_ok() {
            return true;
        }
        world.sleep(LOOK).await;
    }
    false
}

/// Starts every node that is down: one that was shutting down when the others were started was not.
fn start_all(world: &World) {
    world.node_ids().into_iter().for_each(|node| world.start(node));
}

/// Waits until all nodes are at the same index, with the same bytes.
async fn become_equal(world: &World, recorder: &Recorder) -> Result<(), String> {
    let until = world.now() + EQUAL;
    loop {
        start_all(world);
        let states: BTreeMap<_, _> =
            world.node_ids().into_iter().map(|node| (node, world.node_state(node))).collect();
        let mut indexes = states.values().map(|state| state.as_ref().map(|(index, _)| *index));
        let first = indexes.next().flatten();
        if first.is_some() && indexes.all(|index| index == first) {
            return observe(states, recorder);
        }
        if world.now() >= until {
            let indexes: Vec<_> = states
                .iter()
                .map(|(node, state)| (node, state.as_ref().map(|(index, _)| *index)))
                .collect();
            return Err(format!("nodes have not come to the same index: {indexes:?}"));
        }
        world.sleep(LOOK).await;
    }
}

fn observe(
    states: BTreeMap<u64, Option<(u64, Vec<u8>)>>,
    recorder: &Recorder,
) -> Result<(), String> {
    let states: Vec<_> = states.into_iter().filter_map(|(node, s)| Some((node, s?))).collect();
    for (node, (applied, bytes)) in &states {
        recorder.observe(Observation {
            at: recorder.now(),
            node: format!("node {node}").into(),
            applied: *applied,
            state_hash: Some(digest(bytes).into()),
            records: None,
        });
    }
    match states.windows(2).find(|pair| pair[0].1.1 != pair[1].1.1) {
        None => Ok(()),
        Some(pair) => Err(format!(
            "nodes {} and {} differ at index {}: {} and {}",
            pair[0].0,
            pair[1].0,
            pair[0].1.0,
            digest(&pair[0].1.1),
            digest(&pair[1].1.1)
        )),
    }
}

fn digest(bytes: &[u8]) -> String {
    // FNV-1a: a name for the bytes, which are themselves compared.
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

/// Whether a node may have stopped by itself for this reason: only a fault of its disk explains it.
fn is_explained(reason: &str, schedule: &Schedule) -> bool {
    let disk = schedule.faults.iter().any(|timed| {
        matches!(
            timed.fault,
            Fault::BrownOut(_) | Fault::FullDisk(_) | Fault::BadDisk(_) | Fault::PowerCutAt(..)
        )
    });
    // Damage, and a folder that lacks something, are never explained by a disk that reported
    // errors.
    let lost = ["damaged", "lacks", "replacing-a-node", "old copy"];
    disk && !lost.iter().any(|word| reason.contains(word))
}

/// Judges the clients' history.
pub(super) fn history(history: &History, failures: &mut Vec<String>) {
    match check::check(Source::Memory(history), check::Options::default()) {
        Ok(verdict) if verdict.conclusion == Conclusion::Pass => {}
        Ok(verdict) => failures.push(verdict.to_string()),
        Err(error) => failures.push(format!("the history cannot be checked: {error}")),
    }
}
