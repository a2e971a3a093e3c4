//! Clients that keep a lock by a guard, and write to what it guards.
//!
//! A keeper checks its guard's state, reads the register that the lock guards, works for a moment
//! and writes. Its machine may stand still anywhere in between: then the register refuses the
//! token. [`Kept`] watches the guard's own state: no guard may report that it holds a lock after
//! another did so with a later token.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::world::{Dice, FIRST_CLIENT, World};
use keyward::client::{Acquire, Client, Guard, GuardState};
use keyward::clock::Clock;
use keyward::types::Token;

use super::schedule::Schedule;
use crate::history::{Recorded, Recorder};
use crate::register::Registers;

/// The number of keepers, on the clients' machines in turn; each wants each of the locks.
const KEEPERS: u64 = 3;
const LOCKS: u64 = 2;

/// The guards' answers to keepers, and the keepers' writes.
#[derive(Clone, Default)]
pub(super) struct Kept {
    registers: Registers,
    told: Arc<Mutex<Told>>,
}

#[derive(Default)]
struct Told {
    /// The latest token of each lock whose guard reported that it holds.
    latest: BTreeMap<String, Token>,
    broken: Vec<String>,
}

impl Kept {
    /// The wrong answers of guards.
    pub(super) fn failures(&self) -> Vec<String> {
        let lost = self.registers.tally().lost;
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let lost = (lost > 0).then(|| format!("{lost} updates under a guard were lost"));
        told.broken.iter().cloned().chain(lost).collect()
    }

    fn holds(&self, at: Duration, keeper: &str, signature: &str, token: Token) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let latest = told.latest.entry(signature.to_owned()).or_insert(token);
        let later = *latest;
        *latest = later.max(token);
        if token < later {
            told.broken.push(format!(
                "at {} ms {keeper} was told that it holds {signature:?} by token {token}, after \
                 another was told so with token {later}",
                at.as_millis()
            ));
        }
    }
}

/// Starts the keepers; they go on until the world ends.
pub(super) fn start(world: &World, schedule: &Schedule, recorder: &Recorder, kept: &Kept) {
    for at in 0..KEEPERS {
        let name = format!("keeper {at}");
        let mut dice = world.dice(&name);
        let first = dice.within(1..=schedule.nodes);
        let machine = FIRST_CLIENT + at % schedule.clients;
        let timeout = Duration::from_millis(dice.within(400..=2_000));
        let lanes = u128::from(dice.number()) << 64 | u128::from(dice.number());
        let client = world.client(machine, first, timeout);
        // A guard that is dropped is released while its keeper requests the next lock.
        let service = Recorded::new(client, recorder.clone(), name.clone()).with_lanes(lanes);
        let keeper = Keeper {
            name,
            service: Arc::new(service),
            clock: world.clock(machine),
            recorder: recorder.clone(),
            rate_error: f64::from(schedule.rho_ppm) / 1e6,
            kept: kept.clone(),
            dice,
            acquired: 0,
        };
        world.spawn_on(machine, keeper.run(world.clone(), schedule.length_ms));
    }
}

struct Keeper {
    name: String,
    service: Arc<Recorded<Client>>,
    clock: Arc<dyn Clock>,
    recorder: Recorder,
    rate_error: f64,
    kept: Kept,
    dice: Dice,
    acquired: u32,
}

type Held = Guard<Arc<Recorded<Client>>>;

impl Keeper {
    async fn run(mut self, world: World, length_ms: u64) {
        while world.now() < Duration::from_millis(length_ms) {
            world.sleep(Duration::from_millis(self.dice.within(1..=700))).await;
            let Some(guard) = self.acquire().await else { continue };
            for _ in 0..self.dice.within(1..=8) {
                if !self.update(&world, &guard).await {
                    break;
                }
            }
            if self.dice.hits(250_000) {
                drop(guard);
            } else {
                // The outcome is in the history.
                let _ = guard.release().await;
            }
        }
    }

    async fn acquire(&mut self) -> Option<Held> {
        let signature = format!("kept {}", self.dice.within(1..=LOCKS));
        let duration = Duration::from_millis(self.dice.within(300..=2_000));
        // A new one each time: the release of a guard that was dropped is still in flight.
        self.acquired += 1;
        let instance = format!("{} {}", self.name, self.acquired);
        let request = Acquire {
            rate_error: self.rate_error,
            ..Acquire::new(signature, "keeper").instance(instance).duration(duration)
        };
        let patience = Duration::from_millis(self.dice.within(1..=3_000));
        let clock = Arc::clone(&self.clock);
        Guard::acquire_within(Arc::clone(&self.service), clock, request, patience).await.ok()
    }

    /// Makes one update, if the guard allows it; returns whether there may be another.
    async fn update(&mut self, world: &World, guard: &Held) -> bool {
        if !matches!(guard.state(), GuardState::Safe | GuardState::Danger) {
            return false;
        }
        let (signature, token) = (guard.signature(), guard.token());
        self.kept.holds(world.now(), &self.name, signature, token);
        let registers = &self.kept.registers;
        let client = &*self.name;
        let Ok(version) = registers.read_recorded(&self.recorder, client, signature, Some(token.0))
        else {
            return false;
        };
        world.sleep(Duration::from_millis(self.dice.within(1..=400))).await;
        let written =
            registers.write_recorded(&self.recorder, client, signature, Some(token.0), version);
        written.is_ok()
    }
}
