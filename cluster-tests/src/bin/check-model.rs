//! Walks the model of cluster clock and leader change, and that of queue, session and leader change,
//! completely within their bounds, and shows that their properties can fail: each mutation must break
//! the property that it is meant to break.
//!
//! The mutations here are mistakes in the protocol. `scripts/find-mutations` also walks the model
//! with mistakes in the real lock machine.

use std::fmt::Debug;
use std::hash::Hash;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use cluster_tests::model::turns::{self, Queue};
use cluster_tests::model::{Bounds, Cluster, Mutation};
use cluster_tests::wait::Stopwatch;
use stateright::{Checker, Expectation, Model};

/// Checks the models of cluster clock, queues, sessions and leader change
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
    mutation: Option<Chosen>,
    /// Only the model of queue, session and leader change
    #[arg(long)]
    queue_only: bool,
    /// Only the model as it should be
    #[arg(long)]
    sound_only: bool,
    /// Gives up after this many seconds; what was not walked by then has not passed
    #[arg(long, default_value_t = 300)]
    timeout: u64,
}

/// A mutation of either model.
#[derive(Clone, Copy, Debug)]
enum Chosen {
    Clock(Mutation),
    Queue(turns::Mutation),
}

impl FromStr for Chosen {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let clock = || <Mutation as ValueEnum>::from_str(name, true).map(Self::Clock);
        <turns::Mutation as ValueEnum>::from_str(name, true).map(Self::Queue).or_else(|_| clock())
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let patience = Duration::from_secs(options.timeout);
    let passed = if let Some(chosen) = options.mutation {
        hunt_one(options.bounds(), chosen, patience)
    } else {
        let clock = options.queue_only || clock(&options, patience);
        // Both, even if the first fails.
        queue(&options, patience) && clock
    };
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Options {
    fn bounds(&self) -> Bounds {
        Bounds {
            ticks: self.ticks,
            terms: self.terms,
            entries: self.entries,
            requests: [self.slow_requests, self.fast_requests],
        }
    }
}

/// Walks the model of clock and leader change, and hunts each of its mutations.
fn clock(options: &Options, patience: Duration) -> bool {
    let bounds = options.bounds();
    let cluster = Cluster { bounds, mutation: None };
    let sound = walk(&cluster, &format!("{bounds:?}"), options.depth, patience);
    // All mutations are checked, even after one is missed, and within the model's own bounds: a
    // smaller model may be too small for a mistake to show.
    let all = Mutation::value_variants();
    let hunt = |one| hunt_one(Bounds::default(), Chosen::Clock(one), patience);
    let found = || all.iter().filter(|one| hunt(**one)).count() == all.len();
    sound && (options.sound_only || found())
}

/// The same for the model of queue, session and leader change, which is small enough to be whole.
fn queue(options: &Options, patience: Duration) -> bool {
    let queue = Queue::default();
    let sound = walk(&queue, &format!("{:?}", queue.bounds), None, patience);
    let all = turns::Mutation::value_variants();
    let hunt = |one| hunt_one(options.bounds(), Chosen::Queue(one), patience);
    let found = || all.iter().filter(|one| hunt(**one)).count() == all.len();
    sound && (options.sound_only || found())
}

/// Walks an unmutated model: every property holds, and every required situation was met.
fn walk<M>(model: &M, bounds: &str, depth: Option<usize>, patience: Duration) -> bool
where
    M: Model<State: Walked, Action: Step> + Clone + Send + Sync + 'static,
{
    let clock = Stopwatch::start();
    let mut checker = model.clone().checker().threads(2).timeout(patience);
    if let Some(depth) = depth {
        checker = checker.target_max_depth(depth);
    }
    let checker = checker.spawn_bfs().join();
    let mut passed = checker.is_done();
    for property in model.properties() {
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
        "{bounds}: {} states, {} different, depth {}, {whole}, {:.1} s",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth(),
        clock.elapsed().as_secs_f64()
    );
    passed
}

/// The state of a model that can be walked.
trait Walked: Clone + Debug + Hash + PartialEq + Send + Sync + 'static {}
impl<T: Clone + Debug + Hash + PartialEq + Send + Sync + 'static> Walked for T {}

/// A step of such a model.
trait Step: Clone + Debug + PartialEq + Send + Sync + 'static {}
impl<T: Clone + Debug + PartialEq + Send + Sync + 'static> Step for T {}

/// Applies one mutation in this process and demands that its property is found broken.
fn hunt_one(bounds: Bounds, chosen: Chosen, patience: Duration) -> bool {
    match chosen {
        Chosen::Clock(mutation) => {
            let model = Cluster { bounds, mutation: Some(mutation) };
            hunt(model, &mutation.name(), mutation.breaks(), patience)
        }
        Chosen::Queue(mutation) => {
            let model = Queue { mutation: Some(mutation), ..Queue::default() };
            hunt(model, &mutation.name(), mutation.breaks(), patience)
        }
    }
}

fn hunt<M>(model: M, mutation: &str, breaks: &'static str, patience: Duration) -> bool
where
    M: Model<State: Walked, Action: Step> + Send + Sync + 'static,
{
    let clock = Stopwatch::start();
    let checker = model
        .checker()
        .threads(2)
        .timeout(patience)
        .finish_when(stateright::HasDiscoveries::AnyOf([breaks].into()))
        .spawn_bfs()
        .join();
    let seconds = clock.elapsed().as_secs_f64();
    let found = checker.discovery(breaks);
    if let Some(path) = found {
        println!("found     {mutation}: breaks `{breaks}` ({seconds:.1} s)");
        println!("{}", told(path.into_actions()));
        return true;
    }
    println!("NOT FOUND {mutation}: `{breaks}` holds ({seconds:.1} s)");
    false
}

fn told<A: Debug>(actions: Vec<A>) -> String {
    let lines = actions.into_iter().enumerate();
    let lines = lines.map(|(number, action)| format!("    {:2}. {action:?}\n", number + 1));
    lines.collect::<Vec<_>>().concat()
}
