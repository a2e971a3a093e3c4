//! Runs of any number of seeds, on any number of threads.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Report, Schedule, run};
use crate::limits::Reached;

/// The results of many runs.
#[derive(Debug, Default)]
pub struct Sum {
    /// The number of runs.
    pub runs: u64,
    /// Their total length in simulated time.
    pub simulated: Duration,
    /// The number of their clients' operations.
    pub operations: u64,
    /// The number of faults that were installed in them.
    pub faults: u64,
    /// The limits of the service that they reached.
    pub reached: Reached,
    /// Those that failed.
    pub failed: Vec<Report>,
}

/// The seeds that `N` or `A..B` names: one, or those from A to before B.
///
/// # Errors
/// The text is not a range of seeds; the message describes the format.
pub fn seeds(text: &str) -> Result<Range<u64>, String> {
    let number = |text: &str| {
        text.parse::<u64>().map_err(|_| "seeds are a number, or two as in 0..300".to_owned())
    };
    let range = if let Some((from, to)) = text.split_once("..") {
        number(from)?..number(to)?
    } else {
        let only = number(text)?;
        only..only.checked_add(1).ok_or("there is no seed after the last")?
    };
    if range.is_empty() { Err("there are no seeds in this range".to_owned()) } else { Ok(range) }
}

/// Runs the seeds, `jobs` at a time, until they are all done, enough of them have failed, or
/// `go_on` returns `false`; it is called before each run, with the sum so far.
pub fn many(
    seeds: Range<u64>,
    jobs: usize,
    most_failures: usize,
    go_on: impl Fn(&Sum) -> bool + Sync,
) -> Sum {
    let next = AtomicU64::new(seeds.start);
    let sum = Mutex::new(Sum::default());
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let enough = |sum: &Sum| sum.failed.len() >= most_failures || !go_on(sum);
            if seed >= seeds.end || enough(&lock(&sum)) {
                return;
            }
            let report = run(&Schedule::draw(seed), false);
            let mut sum = lock(&sum);
            sum.runs += 1;
            sum.simulated += report.simulated;
            sum.operations += report.history.operations().count() as u64;
            sum.faults += report.schedule.faults.len() as u64;
            sum.reached.add(&report.reached);
            if !report.failures.is_empty() {
                sum.failed.push(report);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(work);
        }
    });
    sum.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn lock(sum: &Mutex<Sum>) -> std::sync::MutexGuard<'_, Sum> {
    sum.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
