//! Simulated clusters: seed after seed, and the same seed twice.
//!
//! `SIM_SEEDS=A..B` chooses the seeds, `SIM_FAILOVERS=N` the number of leaders that die.
//! `scripts/simulate` is for everything else: more seeds, and one of them with its trace.
//! [`scenarios`] are runs written by hand, with one fault each.

#[path = "simulation/scenarios.rs"]
mod scenarios;

use std::ops::Range;

use std::time::Duration;

use cluster_tests::limits::Seen;
use cluster_tests::sim::failover::Failovers;
use cluster_tests::sim::world::Death;
use cluster_tests::sim::{Schedule, command, many, run};
use keyward::node::Profile;

/// The default seeds.
const SEEDS: Range<u64> = 0..120;

/// The number of leaders that die in each way, where elections are measured alone.
const FAILOVERS: u64 = 100;

/// The seeds that are run twice.
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
    assert_eq!(sum.reached.missing(Seen::All), Vec::<String>::new(), "{}", sum.reached);
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

/// Prints the measurements, for comparison.
fn failovers(death: Death) -> Failovers {
    let seeds = std::env::var("SIM_FAILOVERS").ok().and_then(|seeds| seeds.parse().ok());
    let seen = Failovers::of(0..seeds.unwrap_or(FAILOVERS), Profile::Stable, death);
    let ms = |share| seen.percentile(share).as_millis();
    println!("{death:?}: terms {:?}, p50 {} ms, p99 {} ms", seen.terms, ms(50), ms(99));
    seen
}

#[test]
fn a_machine_that_falls_silent_costs_one_term_and_no_split_vote() {
    let seen = failovers(Death::PowerCut);
    let one = seen.terms[0];
    assert!(one * 100 >= seen.took.len() * 99, "{:?}", seen.terms);
    assert!(seen.percentile(50) <= Duration::from_millis(750), "{:?}", seen.percentile(50));
}

#[test]
fn a_process_that_ends_is_replaced_before_its_lease_runs_out() {
    let seen = failovers(Death::Killed);
    let one = seen.terms[0];
    assert!(one * 100 >= seen.took.len() * 99, "{:?}", seen.terms);
    assert!(seen.percentile(50) <= Duration::from_millis(120), "{:?}", seen.percentile(50));
    assert!(seen.percentile(99) <= Duration::from_millis(400), "{:?}", seen.percentile(99));
}
