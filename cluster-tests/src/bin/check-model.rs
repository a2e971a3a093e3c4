//! Walks the model of cluster clock and leader change completely within its bounds, and shows that
//! its properties can fail: each mutation must break the property that it is meant to break.
//!
//! The mutations here are mistakes in the protocol. `scripts/find-mutations` also walks the model
//! with mistakes in the real lock machine.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use cluster_tests::model::{Bounds, Cluster, Mutation};
use cluster_tests::wait::Stopwatch;
use stateright::{Checker, Expectation, Model};

/// Checks the model of cluster clock and leader change
#[derive(Debug, Parser)]
struct Options {
    /// Ticks of real time
    #[arg(long, default_value_t = Bounds::default().ticks)]
    ticks: u8,
    /// Elections
    #[arg(long, default_value_t = Bounds::default().terms)]
    terms: u8,
    /// Entries of the log
    #[arg(long, default_value_t = Bounds::default().entries)]
    entries: u8,
    /// Requests of the client whose clock is slow
    #[arg(long, default_value_t = Bounds::default().requests[0])]
    slow_requests: u8,
    /// Requests of the client whose clock is fast
    #[arg(long, default_value_t = Bounds::default().requests[1])]
    fast_requests: u8,
    /// Steps of a run: every run of this length is walked [default: all that there are]
    #[arg(long)]
    depth: Option<usize>,
    /// Applies only this mutation, and demands that it is found
    #[arg(long)]
    mutation: Option<Mutation>,
    /// Only the model as it should be
    #[arg(long)]
    sound_only: bool,
    /// Gives up after this many seconds; what was not walked by then has not passed
    #[arg(long, default_value_t = 300)]
    timeout: u64,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let bounds = Bounds {
        ticks: options.ticks,
        terms: options.terms,
        entries: options.entries,
        requests: [options.slow_requests, options.fast_requests],
    };
    let patience = Duration::from_secs(options.timeout);
    let passed = if let Some(mutation) = options.mutation {
        hunt(bounds, mutation, patience)
    } else {
        let sound = walk(bounds, options.depth, patience);
        // All mutations are checked, even after one is missed.
        let all = Mutation::value_variants();
        // Within the model's own bounds: a smaller model may be too small for a mistake to show.
        let hunt = |mutation| hunt(Bounds::default(), mutation, patience);
        let found = || all.iter().filter(|one| hunt(**one)).count() == all.len();
        sound && (options.sound_only || found())
    };
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Walks the unmutated model: every property holds, and every required situation was met.
fn walk(bounds: Bounds, depth: Option<usize>, patience: Duration) -> bool {
    let clock = Stopwatch::start();
    let cluster = Cluster { bounds, mutation: None };
    let mut checker = cluster.checker().threads(2).timeout(patience);
    if let Some(depth) = depth {
        checker = checker.target_max_depth(depth);
    }
    let checker = checker.spawn_bfs().join();
    let mut passed = checker.is_done();
    for property in cluster.properties() {
        let found = checker.discovery(property.name);
        let (holds, verdict) = match (&property.expectation, &found) {
            (Expectation::Sometimes, Some(_)) => (true, "met"),
            (Expectation::Sometimes, None) => (false, "NEVER MET"),
            (Expectation::Always | Expectation::Eventually, None) => (true, "holds"),
            (Expectation::Always | Expectation::Eventually, Some(_)) => (false, "BROKEN"),
        };
        println!("  {verdict:9} {}", property.name);
        if let (false, Some(path)) = (holds, found) {
            println!("{}", told(path.into_actions()));
        }
        passed &= holds;
    }
    let whole = if clock.elapsed() < patience { "whole" } else { "NOT WHOLE: out of time" };
    passed &= clock.elapsed() < patience;
    println!(
        "{bounds:?}: {} states, {} different, depth {}, {whole}, {:.1} s",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth(),
        clock.elapsed().as_secs_f64()
    );
    passed
}

/// Applies one mutation in this process and demands that its property is found broken.
fn hunt(bounds: Bounds, mutation: Mutation, patience: Duration) -> bool {
    let clock = Stopwatch::start();
    let cluster = Cluster { bounds, mutation: Some(mutation) };
    let name = mutation.breaks();
    let checker = cluster
        .checker()
        .threads(2)
        .timeout(patience)
        .finish_when(stateright::HasDiscoveries::AnyOf([name].into()))
        .spawn_bfs()
        .join();
    let seconds = clock.elapsed().as_secs_f64();
    let found = checker.discovery(name);
    if let Some(path) = found {
        println!("found     {}: breaks `{name}` ({seconds:.1} s)", mutation.name());
        println!("{}", told(path.into_actions()));
        return true;
    }
    println!("NOT FOUND {}: `{name}` holds ({seconds:.1} s)", mutation.name());
    false
}

fn told(actions: Vec<cluster_tests::model::Action>) -> String {
    let lines = actions.into_iter().enumerate();
    let lines = lines.map(|(number, action)| format!("    {:2}. {action:?}\n", number + 1));
    lines.collect::<Vec<_>>().concat()
}
