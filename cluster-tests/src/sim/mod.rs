//! Runs of a simulated cluster: faults and work from a seed, recorded and judged.
//!
//! [`schedule`] draws what is done to a cluster, [`nemesis`] does it, [`workload`] asks for locks
//! meanwhile and [`keeper`] keeps some by guards, [`judge`] says whether what was seen may have been, [`shrink`] takes away what a
//! failure does not need, and [`many`] does all that for as many seeds as one likes. [`failover`] looks at elections alone. The cluster
//! itself is [`keyward::sim`]. The same schedule gives the same run, byte for byte.

pub mod failover;
mod judge;
mod keeper;
pub mod many;
mod nemesis;
mod schedule;
mod shrink;
mod workload;

use std::time::Duration;

use keyward::sim::{Digest, WorldOptions};

use crate::history::{Clocks, Header, History, Plan, Recorder};

pub use schedule::{Fault, Schedule, Target, Timed};
pub use shrink::shrink;

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was run.
    pub schedule: Schedule,
    /// What was wrong; nothing, if all was well.
    pub failures: Vec<String>,
    /// The run in short: equal for equal runs.
    pub digest: Digest,
    /// The run line by line, if it was asked for.
    pub trace: String,
    /// How long it took in the world.
    pub simulated: Duration,
    /// What clients saw.
    pub history: History,
}

/// What repeats the run of a schedule.
pub fn command(schedule: &Schedule) -> String {
    let kept = match &schedule.kept {
        None => String::new(),
        Some(kept) => {
            let kept: Vec<String> = kept.iter().map(ToString::to_string).collect();
            format!(" --keep {}", kept.join(","))
        }
    };
    format!("scripts/simulate --seeds {}{kept}", schedule.seed)
}

/// Runs a schedule.
pub fn run(schedule: &Schedule, keep_trace: bool) -> Report {
    let options = WorldOptions {
        seed: schedule.seed,
        nodes: schedule.nodes,
        clients: schedule.clients,
        rho_ppm: schedule.rho_ppm,
        snapshot_every: schedule.snapshot_every,
        log_kept: schedule.log_kept,
        profile: schedule.profile,
        keep_trace,
    };
    let run = keyward::sim::run(options, |world| async move {
        let clock = world.clone();
        let recorder = Recorder::in_memory_with_clock(move || clock.now());
        for node in world.node_ids() {
            world.start(node);
        }
        nemesis::set_up(&world, schedule);
        workload::start(&world, schedule, &recorder);
        let kept = keeper::Kept::default();
        keeper::start(&world, schedule, &recorder, &kept);
        nemesis::run(&world, schedule, &recorder).await;
        let mut failures = judge::settle(&world, schedule, &recorder).await;
        failures.extend(kept.failures());
        (recorder.into_history(header(schedule), true), failures)
    });
    let (history, mut failures) = run.result;
    judge::history(&history, &mut failures);
    Report {
        schedule: schedule.clone(),
        failures,
        digest: run.digest,
        trace: run.trace,
        simulated: run.simulated,
        history,
    }
}

fn header(schedule: &Schedule) -> Header {
    let service = format!("simulated cluster of {} nodes", schedule.nodes);
    Header {
        clocks: Clocks { rho_ppm: schedule.rho_ppm, epsilon_ppm: 0 },
        plan: Plan {
            alive_within_ms: 10_000,
            witnessed: true,
            observed_nodes: schedule.nodes,
            ..Plan::default()
        },
        ..Header::new(schedule.seed, command(schedule), service)
    }
}
