//! `keyward-chaos sim`: simulated clusters, seed after seed.

use std::fs;
use std::io::{IsTerminal as _, Write as _};
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use cluster_tests::chaos::prove::{Results, Simulated};
use cluster_tests::chaos::summary::Verdict;
use cluster_tests::limits::Seen;
use cluster_tests::sim::many::{Sum, many, seeds};
use cluster_tests::sim::{Report, Schedule, command, run, shrink};
use cluster_tests::wait::Stopwatch;

use crate::arguments;

/// Run simulated clusters on virtual time, each from a seed, and judge what their clients saw
#[derive(Clone, Debug, Args)]
pub(crate) struct SimArguments {
    /// The seeds: N is one, A..B are those from A to before B
    #[arg(long, default_value = "0..300", value_parser = seeds)]
    seeds: Range<u64>,
    /// Only these of the faults that the seed draws, by their numbers
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',')]
    keep: Option<Vec<usize>>,
    /// Runs at a time [default: one for each processor]
    #[arg(long)]
    jobs: Option<usize>,
    /// Begin no run after this long
    #[arg(long, value_name = "DURATION", value_parser = arguments::duration)]
    within: Option<Duration>,
    /// Begin no run after this many have failed
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    failures: usize,
    /// Shrink the first failing schedule, with at most this many more runs
    #[arg(long, value_name = "RUNS", default_value_t = 60)]
    shrink: u32,
    /// Write every message and fault of the run here; for one seed
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Write what clients saw here, for `check-history`; for one seed
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// Keep the totals of the runs in this folder, for `keyward-chaos prove page`
    #[arg(long, value_name = "FOLDER")]
    results: Option<PathBuf>,
}

/// Runs the seeds.
pub(crate) fn sim(arguments: &SimArguments) -> ExitCode {
    let SimArguments { seeds, keep, trace, history, .. } = arguments;
    let one = seeds.end - seeds.start == 1;
    if !one && (keep.is_some() || trace.is_some() || history.is_some()) {
        eprintln!("error: --keep, --trace and --history are for one seed: name it with --seeds N");
        return ExitCode::from(2);
    }
    let done = if one { single(arguments) } else { several(arguments) };
    match done {
        Ok(verdict) => ExitCode::from(verdict.exit_code()),
        Err(why) => {
            eprintln!("harness error: {why}");
            ExitCode::from(Verdict::HarnessError.exit_code())
        }
    }
}

fn single(arguments: &SimArguments) -> Result<Verdict, String> {
    let mut schedule = Schedule::draw(arguments.seeds.start);
    if let Some(kept) = &arguments.keep {
        schedule = schedule.keep(kept);
    }
    let report = run(&schedule, true);
    if let Some(path) = &arguments.trace {
        fs::write(path, &report.trace).map_err(|why| format!("{}: {why}", path.display()))?;
    }
    if let Some(path) = &arguments.history {
        let written = fs::File::create(path).and_then(|mut file| report.history.write(&mut file));
        written.map_err(|why| format!("{}: {why}", path.display()))?;
    }
    if report.failures.is_empty() {
        println!(
            "seed {}: passed; {} operations, {} faults, {:.1} simulated seconds",
            schedule.seed,
            report.history.operations().count(),
            schedule.faults.len(),
            report.simulated.as_secs_f64()
        );
        return Ok(Verdict::Pass);
    }
    println!("{}", described(&report));
    Ok(Verdict::Violation)
}

fn several(arguments: &SimArguments) -> Result<Verdict, String> {
    let watch = Stopwatch::start();
    let jobs = arguments
        .jobs
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    let live = std::io::stderr().is_terminal();
    let in_time = |sum: &Sum| {
        if live {
            let hours = sum.simulated.as_secs_f64() / 3600.0;
            let failed = sum.failed.len();
            eprint!("\r{} runs, {hours:.2} simulated hours, {failed} failed ", sum.runs);
            // A line that cannot be shown does not matter.
            let _ = std::io::stderr().flush();
        }
        arguments.within.is_none_or(|within| watch.elapsed() < within)
    };
    let sum = many(arguments.seeds.clone(), jobs, arguments.failures, in_time);
    if live {
        eprintln!();
    }
    let took = watch.elapsed();
    let simulated = Simulated {
        first_seed: arguments.seeds.start,
        runs: sum.runs,
        operations: sum.operations,
        faults: sum.faults,
        simulated: sum.simulated,
        took,
        failed: sum.failed.iter().map(|report| report.schedule.seed).collect(),
        reached: sum.reached,
    };
    println!("{simulated}");
    if let Some(folder) = &arguments.results {
        let kept = Results::open(folder).and_then(|results| results.keep("simulation", &simulated));
        kept.map_err(|why| format!("{}: {why}", folder.display()))?;
    }
    for report in &sum.failed {
        println!("{}", described(report));
    }
    println!("{}", simulated.reached);
    let Some(first) = sum.failed.first() else {
        // Handled like a fault that was not installed: a run in which something did not happen
        // shows nothing about it.
        let missing = simulated.reached.missing(Seen::All);
        return if missing.is_empty() { Ok(Verdict::Pass) } else { Err(missing.join("; ")) };
    };
    if arguments.shrink > 0 {
        println!("leaving faults out of seed {} as long as it fails:", first.schedule.seed);
        println!("{}", described(&shrink(first, arguments.shrink)));
    }
    Ok(Verdict::Violation)
}

fn described(report: &Report) -> String {
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
