//! Simulated clusters: seed after seed, and the same seed twice.
//!
//! `SIM_SEEDS=A..B` chooses the seeds. `scripts/simulate` is for everything else: more of them, and
//! one of them with its trace. [`scenarios`] are runs that are written down, one fault each.

#[path = "simulation/scenarios.rs"]
mod scenarios;

use std::ops::Range;

use cluster_tests::sim::{Schedule, command, many, run};

/// What is run when nobody says.
const SEEDS: Range<u64> = 0..200;

/// These are run twice.
const TWICE: Range<u64> = 0..6;

fn seeds() -> Range<u64> {
    let text = std::env::var("SIM_SEEDS").unwrap_or_default();
    if text.is_empty() { SEEDS } else { many::seeds(&text).expect("SIM_SEEDS is A..B") }
}

#[test]
fn every_seed_keeps_the_contract() {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let sum = many::many(seeds(), jobs, 3, |_| true);
    let failed: Vec<String> = sum
        .failed
        .iter()
        .map(|report| format!("{}\n{}", command(&report.schedule), report.failures.join("\n")))
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
    assert_eq!(sum.runs, seeds().end - seeds().start);
}

#[test]
fn a_seed_gives_the_same_run_byte_for_byte() {
    for seed in TWICE {
        let schedule = Schedule::draw(seed);
        let (first, second) = (run(&schedule, true), run(&schedule, true));
        let differing = first.trace.lines().zip(second.trace.lines()).find(|(a, b)| a != b);
        assert_eq!(differing, None, "seed {seed}");
        assert_eq!(first.digest, second.digest, "seed {seed}");
        assert_eq!(first.history, second.history, "seed {seed}");
    }
}

#[test]
fn seeds_are_one_or_a_range() {
    assert_eq!(many::seeds("7"), Ok(7..8));
    assert_eq!(many::seeds("2..9"), Ok(2..9));
    for wrong in ["", "9..2", "3..3", "x", "1..", "-1", "18446744073709551615"] {
        assert!(many::seeds(wrong).is_err(), "{wrong}");
    }
}
