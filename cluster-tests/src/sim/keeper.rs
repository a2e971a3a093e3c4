//! Clients that keep a lock by a guard, and write to what it guards.
//!
//! A keeper asks its guard whether it still holds, reads the register that the lock guards, works for
//! a moment and writes. Its machine may stand still anywhere in between: then the register refuses
//! the token. What [`Kept`] watches is the guard's own word: nobody may be told that it holds a lock
//! after another was told so with a later token.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use keyward::client::{Acquire, Client, Guard, GuardState};
use keyward::clock::Clock;
use keyward::sim::{Dice, FIRST_CLIENT, World};
use keyward::types::Token;

use super::schedule::Schedule;
use crate::history::{Recorded, Recorder};
use crate::register::Registers;

/// So many keepers there are, on the clients' machines in turn; each wants each of the locks.
const KEEPERS: u64 = 3;
const LOCKS: u64 = 2;

/// What keepers were told, and what they wrote.
#[derive(Clone, Default)]
pub(super) struct Kept {
    registers: Registers,
    told: Arc<Mutex<Told>>,
}

#[derive(Default)]
struct Told {
    /// The latest token of each lock whose holder was told that it holds.
    latest: BTreeMap<String, Token>,
    broken: Vec<String>,
}

impl Kept {
    /// What guards said and must not have said.
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
        let client = world.client(machine, first, timeout);
        let service = recorded(&client, recorder, &name, &mut dice);
        let keeper = Keeper {
            name,
            client,
            service,
            clock: world.clock(machine),
            recorder: recorder.clone(),
            rate_error: f64::from(schedule.rho_ppm) / 1e6,
            kept: kept.clone(),
            dice,
        };
        world.spawn_on(machine, keeper.run(world.clone(), schedule.length_ms));
    }
}

fn recorded(
    client: &Client,
    recorder: &Recorder,
    name: &str,
    dice: &mut Dice,
) -> Arc<Recorded<Client>> {
    let lane = u128::from(dice.number()) << 64 | u128::from(dice.number());
    Arc::new(Recorded::new(client.clone(), recorder.clone(), name).with_lane(lane))
}

struct Keeper {
    name: String,
    client: Client,
    service: Arc<Recorded<Client>>,
    clock: Arc<dyn Clock>,
    recorder: Recorder,
    rate_error: f64,
    kept: Kept,
    dice: Dice,
}

type Held = Guard<Arc<Recorded<Client>>>;

impl Keeper {
    async fn run(mut self, world: World, length_ms: u64) {
        let first = self.name.clone();
        for run in 1_u32.. {
            if world.now() >= Duration::from_millis(length_ms) {
                return;
            }
            world.sleep(Duration::from_millis(self.dice.within(1..=700))).await;
            let Some(guard) = self.acquire().await else { continue };
            for _ in 0..self.dice.within(1..=8) {
                if !self.update(&world, &guard).await {
                    break;
                }
            }
            if self.dice.hits(250_000) {
                // The release goes its own way, so whoever asks next is another client.
                drop(guard);
                self.name = format!("{first} run {run}");
                self.service = recorded(&self.client, &self.recorder, &self.name, &mut self.dice);
            } else {
                // What became of it is in the history.
                let _ = guard.release().await;
            }
        }
    }

    async fn acquire(&mut self) -> Option<Held> {
        let signature = format!("kept {}", self.dice.within(1..=LOCKS));
        let duration = Duration::from_millis(self.dice.within(300..=2_000));
        let request = Acquire {
            rate_error: self.rate_error,
            ..Acquire::new(signature, "keeper").instance(&*self.name).duration(duration)
        };
        let patience = Duration::from_millis(self.dice.within(1..=3_000));
        let clock = Arc::clone(&self.clock);
        Guard::acquire_within(Arc::clone(&self.service), clock, request, patience).await.ok()
    }

    /// One update, if the guard says that there may be one; whether there may be another.
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
