//! Clients that wait for their turn, share locks, and live in sessions: [`Turns`], on virtual time.
//!
//! They give up some of their requests while these wait, and are frozen with their machines.

use std::time::Duration;

use super::schedule::Schedule;
use super::world::{FIRST_CLIENT, World};
use crate::history::{Recorded, Recorder};
use crate::turns::Turns;

/// The number of these clients on each machine.
const CLIENTS: u64 = 2;

/// Starts the clients; they go on until the faults are over.
pub(super) fn start(world: &World, schedule: &Schedule, recorder: &Recorder) {
    let (pause_ms, length) = (schedule.pause_ms / 2, Duration::from_millis(schedule.length_ms));
    for at in 0..schedule.clients * CLIENTS {
        let name = format!("turns {at}");
        let mut dice = world.dice(&name);
        let machine = FIRST_CLIENT + at % schedule.clients;
        let first = dice.within(1..=schedule.nodes);
        let timeout = Duration::from_millis(dice.within(400..=4_000));
        let client = world.client(machine, first, timeout);
        let lanes = u128::from(dice.number()) << 64 | u128::from(dice.number());
        let service = Recorded::new(client, recorder.clone(), name).with_lanes(lanes);
        let mut turns = Turns::new(service, dice.number(), at);
        let time = world.clone();
        let task = async move {
            while time.now() < length {
                time.sleep(Duration::from_millis(dice.within(1..=pause_ms))).await;
                let patience = if dice.hits(80_000) { 400 } else { 20_000 };
                let patience = Duration::from_millis(dice.within(1..=patience));
                // The outcome is in the history, also of a request that is given up.
                let _ = tokio::time::timeout(patience, turns.step()).await;
            }
        };
        world.spawn_on(machine, task);
    }
}
