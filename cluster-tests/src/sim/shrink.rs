//! Removes the faults that a failure does not need.

use super::{Report, Schedule, run};

/// Runs the schedule with fewer and fewer faults as long as it fails, at most `most_runs` times;
/// returns the smallest that failed. One that does not fail is returned unchanged.
pub fn shrink(report: &Report, most_runs: u32) -> Report {
    let mut smallest = report.clone();
    if report.failures.is_empty() {
        return smallest;
    }
    let numbers = |schedule: &Schedule| -> Vec<usize> {
        schedule.faults.iter().map(|timed| timed.number).collect()
    };
    let mut runs = 0;
    let mut part = smallest.schedule.faults.len().div_ceil(2);
    while part > 0 && runs < most_runs {
        let kept = numbers(&smallest.schedule);
        let mut shrunk = false;
        for from in (0..kept.len()).step_by(part) {
            if runs >= most_runs {
                break;
            }
            let to = (from + part).min(kept.len());
            let rest: Vec<usize> = kept[..from].iter().chain(&kept[to..]).copied().collect();
            let tried = run(&report.schedule.keep(&rest), false);
            runs += 1;
            if !tried.failures.is_empty() {
                smallest = tried;
                shrunk = true;
                break;
            }
        }
        if !shrunk {
            part = if part == 1 { 0 } else { part.div_ceil(2) };
        }
    }
    smallest
}
