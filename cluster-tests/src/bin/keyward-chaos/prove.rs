//! `keyward-chaos prove`: the list of runs behind docs/proof.md, in pieces.

use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use cluster_tests::chaos::prove::{self, Comparison, Item, Programs, Results};
use cluster_tests::chaos::run::{self, RunError};
use cluster_tests::chaos::summary::{Summary, Verdict};
use cluster_tests::wait::Stopwatch;

use crate::arguments;
use crate::run::service_run;

/// The length of a round: long enough for some dozens of faults, short enough to be looked at.
const ROUND: Duration = Duration::from_secs(30);

/// The length of a round in the smoke test.
const SMOKE: Duration = Duration::from_secs(6);

/// Run the list behind docs/proof.md, or a part of it, and write the page from all results so far
#[derive(Clone, Debug, Args)]
pub(crate) struct ProveArguments {
    /// The items to run: kills, power-cuts, updates, expiries, failovers, leader-changes, network,
    /// disks, upgrades, io-sweep, wall-clock, limits, access; `services` runs two commands on Keyward,
    /// etcd, Redis and Redlock; `smoke` is a little of kills, power-cuts, updates and access; `page`
    /// runs nothing [default: everything]
    #[arg(value_name = "ITEM")]
    items: Vec<String>,
    /// The amount of each, instead of its goal
    #[arg(long)]
    count: Option<u64>,
    /// The seed of the first round; each later round takes the next one [default: the one after the
    /// highest so far]
    #[arg(long)]
    seed: Option<u64>,
    /// How long a round lasts
    #[arg(long, value_parser = arguments::duration)]
    round: Option<Duration>,
    /// Stop after this long, and go on another time
    #[arg(long, value_parser = arguments::duration)]
    within: Option<Duration>,
    /// Where the results are
    #[arg(long, default_value = "target/proof")]
    results: PathBuf,
    /// Where the page is written
    #[arg(long, default_value = "docs/proof.md")]
    page: PathBuf,
    /// The keyward program [default: the one beside this program]
    #[arg(long, env = "KEYWARD_BIN", hide_env_values = true)]
    binary: Option<PathBuf>,
    /// Another keyward program, that nodes are upgraded to and back from [default: the same]
    #[arg(long, value_name = "FILE")]
    binary_b: Option<PathBuf>,
}

/// Runs the named items and writes the page.
pub(crate) fn run(arguments: &ProveArguments) -> ExitCode {
    match prove(arguments) {
        Ok(verdict) => ExitCode::from(verdict.exit_code()),
        Err(Problem::Usage(wrong)) => {
            eprintln!("error: {wrong}");
            ExitCode::from(2)
        }
        Err(Problem::Harness(why)) => {
            eprintln!("harness error: {why}");
            ExitCode::from(Verdict::HarnessError.exit_code())
        }
    }
}

enum Problem {
    Usage(String),
    Harness(String),
}

fn prove(arguments: &ProveArguments) -> Result<Verdict, Problem> {
    let smoke = arguments.items.iter().any(|item| item == "smoke");
    let items = items(&arguments.items).map_err(Problem::Usage)?;
    let results = Results::open(&arguments.results).map_err(harness)?;
    if arguments.items.iter().any(|item| item == "page") && arguments.items.len() == 1 {
        write_page(&results, &arguments.page)?;
        return Ok(Verdict::Pass);
    }
    let programs = programs(arguments).map_err(Problem::Usage)?;
    let watch = Stopwatch::start();
    let mut worst = Verdict::Pass;
    for item in items {
        let begun = Stopwatch::start();
        let goal = if smoke { 1 } else { arguments.count.unwrap_or(item.goal().1) };
        let mut rounds: Vec<Summary> =
            if smoke { Vec::new() } else { results.of(item.name()).map_err(harness)? };
        let mut seed = match arguments.seed {
            Some(seed) => seed,
            None if smoke => 1,
            None => rounds.iter().map(|round| round.seed + 1).max().unwrap_or(1),
        };
        loop {
            let done: u64 = rounds.iter().map(|round| item.done(round)).sum();
            let late = arguments.within.is_some_and(|within| watch.elapsed() >= within);
            if done >= goal || late {
                break;
            }
            let length = arguments.round.unwrap_or(if smoke { SMOKE } else { ROUND });
            let summary = round(item, seed, length, &results, &programs)?;
            println!(
                "{} seed {seed}: {}; {} of {goal} {}",
                item.name(),
                summary.verdict,
                done + item.done(&summary),
                item.goal().0
            );
            if summary.verdict != Verdict::Pass {
                println!("{summary}");
            }
            worst = worst.max(summary.verdict);
            if !smoke {
                results.keep(item.name(), &summary).map_err(harness)?;
            }
            rounds.push(summary);
            seed += 1;
            // A named seed means one round that is to be repeated.
            if arguments.seed.is_some() && arguments.count.is_none() {
                break;
            }
        }
        println!("{}: {:.0} s", item.name(), begun.elapsed().as_secs_f64());
    }
    let named = |name: &str| arguments.items.iter().any(|item| item == name);
    if named("services") || arguments.items.is_empty() {
        worst = worst.max(services(&results, &programs)?);
    }
    if !smoke {
        write_page(&results, &arguments.page)?;
    }
    Ok(worst)
}

fn programs(arguments: &ProveArguments) -> Result<Programs, String> {
    let first = arguments::program(arguments.binary.as_ref())?;
    let second = match &arguments.binary_b {
        Some(other) => arguments::program(Some(other))?,
        None => first.clone(),
    };
    Ok(Programs { first, second })
}

/// Runs the same commands on each service. A verdict other than the one known of a service is an
/// error: the service was not tested as it should be.
fn services(results: &Results, programs: &Programs) -> Result<Verdict, Problem> {
    let mut worst = Verdict::Pass;
    for comparison in Comparison::ALL {
        for service in prove::SERVICES {
            let round = comparison.round(service, ROUND, results.folder(), programs);
            let summary =
                run_one(
                    move || async move { service_run(service, &round.options, round.nodes).await },
                )?;
            println!("{service}: {summary}");
            results.keep(comparison.name(), &summary).map_err(harness)?;
            let expected = comparison.expected(service);
            if summary.verdict != expected {
                println!("{} on {service}: expected was {expected}", comparison.name());
                worst = worst.max(summary.verdict.max(Verdict::HarnessError));
            }
        }
    }
    Ok(worst)
}

/// Runs in a thread of its own: a panic there is an error of the harness.
fn run_one<R, F>(run: R) -> Result<Summary, Problem>
where
    R: FnOnce() -> F + Send + 'static,
    F: Future<Output = Result<Summary, RunError>>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(harness)?;
    match std::thread::spawn(move || runtime.block_on(run())).join() {
        Ok(Ok(summary)) => Ok(summary),
        Ok(Err(error)) => Err(harness(error)),
        Err(_) => Err(harness("the harness broke: see the message above")),
    }
}

fn write_page(results: &Results, path: &Path) -> Result<(), Problem> {
    let docs = path.parent().unwrap_or_else(|| Path::new("."));
    let page = prove::page(results, docs).map_err(harness)?;
    fs::write(path, page).map_err(harness)
}

fn harness(error: impl std::fmt::Display) -> Problem {
    Problem::Harness(error.to_string())
}

/// One round; its history is kept only if it did not pass.
fn round(
    item: Item,
    seed: u64,
    length: Duration,
    results: &Results,
    programs: &Programs,
) -> Result<Summary, Problem> {
    let round = item.round(seed, length, results.folder(), programs);
    let history = round.options.history.clone();
    let summary = run_one(move || async move { run::keyward(&round.options, &round.nodes).await })?;
    if summary.verdict == Verdict::Pass {
        // It grows with the length of the run, and shows nothing that its summary does not.
        let _ = fs::remove_file(history);
    }
    Ok(summary)
}

fn items(named: &[String]) -> Result<Vec<Item>, String> {
    let mut items = Vec::new();
    for name in named {
        match name.as_str() {
            "smoke" => items.extend([Item::Kills, Item::PowerCuts, Item::Updates, Item::Access]),
            "page" | "services" => {}
            name => {
                let found = Item::ALL.into_iter().find(|item| item.name() == name);
                items.push(found.ok_or_else(|| {
                    let known = Item::ALL.map(Item::name).join(", ");
                    format!("there is no `{name}`; there are {known}, services, smoke and page")
                })?);
            }
        }
    }
    Ok(if named.is_empty() { Item::ALL.to_vec() } else { items })
}
