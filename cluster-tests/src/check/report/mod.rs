//! A verdict as a page of [`keyward::report`]: the findings, in figures and in pictures.
//!
//! A picture of the whole run shows the answers over time, and the faults. Locks with violations
//! are drawn around the smallest window that shows them; a sample of the others is drawn from its
//! beginning. So the page stays small however long the run was.

mod overview;
mod page;
mod svg;
mod timeline;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use overview::Overview;
use timeline::Timeline;

use super::{Source, Verdict};
use crate::history::{Entry, Event, Fault, HistoryError, LockName, Operation};

/// The most locks with violations that are drawn.
const MAX_VIOLATED: usize = 8;
/// The number of other locks that are drawn.
const SAMPLE: usize = 4;
/// The most operations that are drawn of each lock, so that they can be told apart.
const MAX_DRAWN: usize = 240;
/// The sampled locks that are kept before the most telling ones are chosen.
const CANDIDATES: usize = 64;

/// The report cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The history cannot be read again.
    #[error("the history cannot be read for its report")]
    History(#[from] HistoryError),
    /// The file cannot be written.
    #[error("the report cannot be written")]
    Write(#[from] io::Error),
}

/// The data of the pictures.
#[derive(Debug)]
struct Drawn {
    overview: Overview,
    faults: Vec<Fault>,
    events: Vec<Event>,
    timelines: Vec<Timeline>,
}

/// Writes the report on a history that was judged.
///
/// # Errors
/// If the history cannot be read again, or the file cannot be written.
pub fn write_report(path: &Path, source: Source<'_>, verdict: &Verdict) -> Result<(), ReportError> {
    let page = page::page(verdict, &drawn(source, verdict)?);
    std::fs::write(path, page)?;
    Ok(())
}

fn drawn(source: Source<'_>, verdict: &Verdict) -> Result<Drawn, HistoryError> {
    let mut windows: BTreeMap<LockName, (u64, u64)> = BTreeMap::new();
    for violation in &verdict.violations {
        if let Some(lock) = &violation.lock
            && windows.len() < MAX_VIOLATED
        {
            windows.entry(lock.clone()).or_insert(violation.window);
        }
    }
    let mut violated: BTreeMap<LockName, Vec<Operation>> = BTreeMap::new();
    let mut sampled: BTreeMap<LockName, Vec<Operation>> = BTreeMap::new();
    let mut overview = Overview::new(verdict.figures.length);
    let (mut faults, mut events) = (Vec::new(), Vec::new());
    source.pass(|entry| match entry {
        Entry::Operation(operation) => {
            overview.count(&operation);
            let lock = operation.lock().clone();
            if let Some(window) = windows.get(&lock) {
                keep_near(violated.entry(lock).or_default(), operation, *window);
            } else if sampled.contains_key(&lock) || sampled.len() < CANDIDATES {
                let operations = sampled.entry(lock).or_default();
                if operations.len() < MAX_DRAWN {
                    operations.push(operation);
                }
            }
        }
        Entry::Fault(fault) => faults.push(fault),
        Entry::Event(event) => events.push(event),
        Entry::Session(_) | Entry::Observation(_) | Entry::Applied(_) => {}
    })?;
    let mut timelines = Vec::new();
    for (lock, operations) in violated {
        let window = windows.get(&lock).copied();
        timelines.push(Timeline::new(lock, operations, window));
    }
    for (lock, operations) in most_telling(sampled) {
        timelines.push(Timeline::new(lock, operations, None));
    }
    Ok(Drawn { overview, faults, events, timelines })
}

/// Keeps an operation before or in the window: the latest before its end are kept.
fn keep_near(operations: &mut Vec<Operation>, operation: Operation, window: (u64, u64)) {
    // Operations that ended before the window show its beginning; a third of its length beyond its
    // end shows the consequences.
    let after = window.1.saturating_add((window.1 - window.0) / 3 + 1);
    if operation.invoked > after {
        return;
    }
    operations.push(operation);
    if operations.len() > 2 * MAX_DRAWN {
        operations.drain(..MAX_DRAWN);
    }
}

/// The locks that changed hands most often.
fn most_telling(
    sampled: BTreeMap<LockName, Vec<Operation>>,
) -> impl Iterator<Item = (LockName, Vec<Operation>)> {
    let mut locks: Vec<_> = sampled.into_iter().collect();
    let hands = |operations: &[Operation]| {
        let tokens = operations.iter().filter_map(Operation::granted).map(|granted| granted.token);
        tokens.collect::<BTreeSet<_>>().len()
    };
    locks.sort_by_key(|(_, operations)| std::cmp::Reverse((hands(operations), operations.len())));
    locks.into_iter().take(SAMPLE)
}
