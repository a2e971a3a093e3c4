//! Runs of a simulated cluster: faults and work from a seed, recorded and judged.
//!
//! [`schedule`] draws the faults, [`nemesis`] installs them, [`workload`] requests locks meanwhile,
//! [`turns`] waits for some in queues and sessions, and [`keeper`] keeps some by guards. [`judge`]
//! checks whether the observations are allowed, and [`logged`] whether the log is what an
//! independent machine makes of it and every answer came from there. [`mod@shrink`] removes the
//! faults that a failure does not need, and [`many`] does all that for any number of seeds.
//! [`failover`] measures elections alone. The cluster itself is [`world`].
//! The same schedule gives the same run, byte for byte.

pub mod failover;
mod judge;
mod keeper;
mod logged;
pub mod many;
mod nemesis;
mod schedule;
mod shrink;
mod turns;
mod workload;
pub mod world;

use std::time::Duration;

use keyward::limits::{self, Limit};
use world::{Amounts, Digest, SEGMENT_BYTES, WorldOptions};

use crate::history::{Clocks, Header, History, Plan, Recorder};
use crate::limits::{Reach, Reached};

pub use schedule::{Fault, Schedule, Target, Timed};
pub use shrink::shrink;

/// The result of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// The schedule of the run.
    pub schedule: Schedule,
    /// The failures; empty if there were none.
    pub failures: Vec<String>,
    /// The run in short: equal for equal runs.
    pub digest: Digest,
    /// The run line by line, if requested.
    pub trace: String,
    /// Its length in simulated time.
    pub simulated: Duration,
    /// The history of its clients.
    pub history: History,
    /// The limits of the service that it reached.
    pub reached: Reached,
}

/// The command that repeats the run of a schedule.
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
        apply_bytes: schedule.apply_bytes,
        send_bytes: schedule.send_bytes,
        profile: schedule.profile,
        keep_trace,
    };
    let run = world::run(options, |world| async move {
        let clock = world.clone();
        let recorder = Recorder::in_memory_with_clock(move || clock.now());
        for node in world.node_ids() {
            world.start(node);
        }
        nemesis::set_up(&world, schedule);
        workload::start(&world, schedule, &recorder);
        turns::start(&world, schedule, &recorder);
        let kept = keeper::Kept::default();
        keeper::start(&world, schedule, &recorder, &kept);
        nemesis::run(&world, schedule, &recorder).await;
        let mut failures = judge::settle(&world, schedule, &recorder).await;
        let log = world.log();
        failures.extend(kept.failures());
        let reach = recorder.reach().clone();
        failures.extend(reach.broken());
        worked(&reach, world.amounts(), schedule);
        (recorder.into_history(header(schedule), true), log, failures, reach.reached())
    });
    let (history, log, mut failures, reached) = run.result;
    logged::judge(&log, &history, &mut failures);
    judge::history(&history, &mut failures);
    Report {
        schedule: schedule.clone(),
        failures,
        digest: run.digest,
        trace: run.trace,
        simulated: run.simulated,
        history,
        reached,
    }
}

/// Counts the work that nodes did; the simulation's own bounds are smaller than production's.
fn worked(reach: &Reach, amounts: Amounts, schedule: &Schedule) {
    let Amounts {
        entry_commands,
        entry_bytes,
        whole_entries,
        whole_bytes,
        segments,
        snapshot_bytes,
    } = amounts;
    let most = |limit: Limit| u64::try_from(limit.largest).unwrap_or(u64::MAX);
    reach.worked(limits::ENTRY_COMMANDS, entry_commands, most(limits::ENTRY_COMMANDS));
    reach.worked(limits::REAPPLIED, whole_entries, most(limits::REAPPLIED));
    reach.worked(limits::APPLIED_BYTES, whole_bytes, schedule.apply_bytes + 1);
    reach.worked(limits::SENT_BYTES, entry_bytes, schedule.send_bytes + 1);
    reach.worked(limits::SEGMENT, segments * SEGMENT_BYTES, MANY_SEGMENTS * SEGMENT_BYTES);
    reach.worked(limits::SNAPSHOT_CHUNK, snapshot_bytes, most(limits::SNAPSHOT_CHUNK) + 1);
}

/// The number of segments in a log of many.
const MANY_SEGMENTS: u64 = 4;

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
