//! As many seeds as one likes, on as many threads.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Report, Schedule, run};
use crate::limits::Reached;

/// What many runs gave.
#[derive(Debug, Default)]
pub struct Sum {
    /// How many runs there were.
    pub runs: u64,
    /// How long they took in their worlds, together.
    pub simulated: Duration,
    /// How many operations clients made in them.
    pub operations: u64,
    /// How many faults were installed in them.
    pub faults: u64,
    /// Where they went, of the limits of the service.
    pub reached: Reached,
    /// Those that failed.
    pub failed: Vec<Report>,
}

/// The seeds that `N` or `A..B` names: one, or those from A to before B.
///
/// # Errors
/// The text names no seeds; the message says what does.
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
/// `go_on` says no; it is asked before each run, with the sum so far.
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
