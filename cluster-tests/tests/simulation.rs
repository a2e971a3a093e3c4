//! Simulated clusters: seed after seed, and the same seed twice.
//!
//! `SIM_SEEDS=A..B` chooses the seeds, `SIM_SEEDS=N` is one of them with its trace, `SIM_KEEP=1,4`
//! keeps only these of its faults, `SIM_JOBS` is how many run at a time. `SIM_TRACE` and
//! `SIM_HISTORY` are files for what happened in the run of one seed.

use std::ops::Range;

use cluster_tests::sim::{Report, Schedule, command, many::many, run, shrink};

/// What is run when nobody says.
const SEEDS: Range<u64> = 0..300;

/// These are run twice.
const TWICE: Range<u64> = 0..12;

/// A failure is shrunk by at most so many runs.
const SHRINKING: u32 = 60;

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

fn seeds() -> Range<u64> {
    let Some(text) = variable("SIM_SEEDS") else { return SEEDS };
    let number = |text: &str| text.parse::<u64>().expect("SIM_SEEDS is N or A..B");
    match text.split_once("..") {
        Some((from, to)) => number(from)..number(to),
        None => number(&text)..number(&text) + 1,
    }
}

fn describe(report: &Report) -> String {
    let faults: Vec<String> = report.schedule.faults.iter().map(ToString::to_string).collect();
    format!(
        "seed {} failed:\n{}\nwith {} faults:\n{}\nrepeat it with: {}\n",
        report.schedule.seed,
        report.failures.join("\n"),
        faults.len(),
        faults.join("\n"),
        command(&report.schedule)
    )
}

#[test]
fn every_seed_keeps_the_contract() {
    let seeds = seeds();
    if seeds.end - seeds.start == 1 {
        return one(seeds.start);
    }
    let jobs = variable("SIM_JOBS").map_or(2, |text| text.parse().expect("SIM_JOBS is a number"));
    let stopwatch = keyward::clock::SystemClock;
    let began = keyward::clock::Clock::raw(&stopwatch);
    let sum = many(seeds, jobs, 3, || true);
    let took = keyward::clock::Clock::raw(&stopwatch).saturating_sub(began);
    let simulated = sum.simulated.as_secs_f64();
    println!(
        "{} runs, {} operations, {} faults, {:.2} simulated hours in {:.1} s: {:.0} simulated \
         hours per hour",
        sum.runs,
        sum.operations,
        sum.faults,
        simulated / 3600.0,
        took.as_secs_f64(),
        simulated / took.as_secs_f64()
    );
    let failed: Vec<String> = sum.failed.iter().map(describe).collect();
    if let Some(first) = sum.failed.first() {
        println!("shrinking seed {}", first.schedule.seed);
        let smallest = shrink(first, SHRINKING);
        panic!("{}\nthe smallest:\n{}", failed.join("\n"), describe(&smallest));
    }
}

fn one(seed: u64) {
    let mut schedule = Schedule::draw(seed);
    if let Some(kept) = variable("SIM_KEEP") {
        let kept: Vec<usize> = kept.split(',').map(|n| n.parse().expect("SIM_KEEP")).collect();
        schedule = schedule.keep(&kept);
    }
    let report = run(&schedule, true);
    if let Some(path) = variable("SIM_TRACE") {
        std::fs::write(path, &report.trace).expect("SIM_TRACE can be written");
    }
    if let Some(path) = variable("SIM_HISTORY") {
        let mut file = std::fs::File::create(path).expect("SIM_HISTORY can be written");
        report.history.write(&mut file).expect("SIM_HISTORY can be written");
    }
    assert!(report.failures.is_empty(), "{}", describe(&report));
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
