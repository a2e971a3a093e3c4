//! The requests of the clients: a few locks, by every kind of request, over and over.

use std::time::Duration;

use super::world::{Dice, FIRST_CLIENT, World};
use keyward::client::Client;
use keyward::types::{
    CallOptions, ListRequest, LockOptions, LockRequest, LockStatus, ReadOptions, RequestId,
    TableDefaults, TableOptions, TimeToLive, Token, UnlockOptions, UnlockRequest,
};
use keyward::{Error, LockService};

use super::schedule::Schedule;
use crate::history::{Recorded, Recorder};
use crate::limits::{Asker, Deck, ask};

/// The table that is configured and deleted, and whose locks are in no history.
const SIDE_TABLE: &str = "side";

/// The share of steps that go to the limits, per million.
const EDGES: u32 = 120_000;

/// The share of the heavy ones that are made, per million: each costs as much as some hundred
/// others.
const HEAVY: u32 = 80_000;

/// The places of a crowd: more than an entry hands over.
const CROWD: u64 = 300;

/// Starts one task on each client's machine; they send requests until the world ends.
pub(super) fn start(world: &World, schedule: &Schedule, recorder: &Recorder) {
    for at in 0..schedule.clients {
        let mut dice = world.dice(&format!("client {at}"));
        let first = dice.within(1..=schedule.nodes);
        let machine = FIRST_CLIENT + at;
        let timeout = Duration::from_millis(dice.within(400..=4_000));
        let client = world.client(machine, first, timeout);
        let lane = u128::from(dice.number()) << 64 | u128::from(dice.number());
        let service =
            Recorded::new(client, recorder.clone(), format!("client {at}")).with_lane(lane);
        let deck = Deck::shuffle(|below| dice.within(0..=below - 1));
        let worker = Worker {
            service,
            deck,
            dice,
            // Some share a name, and are distinguished by their instance or not at all.
            signee: format!("signee {}", at % 3),
            instance: (at >= 3).then(|| format!("run {at}")),
            locks: schedule.locks,
            held: None,
            last: None,
        };
        world.spawn_on(machine, worker.run(world.clone(), schedule.pause_ms, schedule.length_ms));
    }
}

struct Worker {
    service: Recorded<Client>,
    /// The requests at the limits.
    deck: Deck,
    dice: Dice,
    signee: String,
    instance: Option<String>,
    locks: u64,
    /// A grant that this client has had, and may still have.
    held: Option<(String, Token)>,
    /// Its last lock request, to be repeated unchanged.
    last: Option<(LockRequest, LockOptions)>,
}

impl Worker {
    async fn run(mut self, world: World, pause_ms: u64, length_ms: u64) {
        while world.now() < Duration::from_millis(length_ms) {
            let pause = self.dice.within(1..=pause_ms);
            world.sleep(Duration::from_millis(pause)).await;
            self.step().await;
        }
    }

    async fn step(&mut self) {
        if self.dice.hits(EDGES) {
            return self.edge().await;
        }
        match self.dice.within(0..=99) {
            0..=39 => self.lock().await,
            40..=57 => self.renew().await,
            58..=75 => self.unlock().await,
            76..=90 => self.check().await,
            91..=94 => self.repeat().await,
            95..=97 => self.list().await,
            _ => self.tables().await,
        }
    }

    fn some_lock(&mut self) -> String {
        format!("lock {}", self.dice.within(1..=self.locks))
    }

    fn duration(&mut self) -> Duration {
        let longest = *self.dice.pick(&[150, 1_500, 1_500, 8_000]);
        Duration::from_millis(self.dice.within(20..=longest))
    }

    /// Sends a request at a limit of the service.
    async fn edge(&mut self) {
        let card = self.deck.draw();
        if card.is_heavy() && !self.dice.hits(HEAVY) {
            return;
        }
        let duration = self.duration();
        let dice = &mut self.dice;
        let mut asker = Asker {
            signee: &self.signee,
            duration,
            call: CallOptions::default(),
            crowd: CROWD,
            below: &mut |below| dice.within(0..=below - 1),
        };
        ask(&self.service, card, &mut asker).await;
    }

    async fn lock(&mut self) {
        let signature = self.some_lock();
        let level = self.dice.hits(300_000).then(|| self.dice.within(0..=3).cast_signed());
        let request = LockRequest { signature, signee: self.signee.clone(), level };
        let duration = self.duration();
        let longer = self.dice.within(0..=4_000);
        let time_to_live = self
            .dice
            .hits(300_000)
            .then(|| TimeToLive::For(duration + Duration::from_millis(longer)));
        let options = LockOptions {
            force: self.dice.hits(30_000),
            duration: Some(duration),
            time_to_live,
            instance: self.instance.clone(),
            request_id: self.own_id(),
            ..LockOptions::default()
        };
        self.ask(request, options).await;
    }

    /// An id on a lane of its own for some requests, which can be repeated long after.
    fn own_id(&mut self) -> Option<RequestId> {
        let lane = u128::from(self.dice.number()) << 64 | u128::from(self.dice.number());
        self.dice.hits(300_000).then_some(RequestId { lane, seq: 1 })
    }

    async fn ask(&mut self, request: LockRequest, options: LockOptions) {
        let answer = self.service.lock(request.clone(), options.clone()).await;
        if let Some(token) = answer.as_ref().ok().and_then(|answer| match &answer.status {
            LockStatus::Ok(grant)
            | LockStatus::Renewed(grant)
            | LockStatus::Transferred { grant, .. } => Some(grant.token),
            LockStatus::Waiting(_) | LockStatus::Failed(_) => None,
        }) {
            self.held = Some((request.signature.clone(), token));
        }
        self.last = Some((request, options));
    }

    async fn renew(&mut self) {
        let Some((signature, token)) = self.held.clone() else { return self.lock().await };
        let level = self.dice.hits(200_000).then(|| self.dice.within(0..=3).cast_signed());
        let request = LockRequest { signature, signee: self.signee.clone(), level };
        let options = LockOptions {
            duration: Some(self.duration()),
            token: Some(token),
            instance: self.instance.clone(),
            ..LockOptions::default()
        };
        self.ask(request, options).await;
    }

    async fn unlock(&mut self) {
        let (signature, token) = match &self.held {
            Some((signature, token)) if self.dice.hits(800_000) => {
                (signature.clone(), self.dice.hits(600_000).then_some(*token))
            }
            _ => (self.some_lock(), None),
        };
        let request = UnlockRequest { signature, signee: self.signee.clone() };
        let options =
            UnlockOptions { token, instance: self.instance.clone(), ..UnlockOptions::default() };
        // Refusals and unknown outcomes are in the history; the worker goes on all the same.
        let _ = self.service.unlock(request, options).await;
    }

    async fn check(&mut self) {
        let signature = self.some_lock();
        let options = ReadOptions { stale: self.dice.hits(100_000), ..ReadOptions::default() };
        let _ = self.service.check(signature, options).await;
    }

    async fn list(&mut self) {
        let request = ListRequest { limit: 2, ..ListRequest::default() };
        let _ = self.service.list(request, ReadOptions::default()).await;
    }

    /// Repeats the last lock request: under its id, if it has one, or else as a new request.
    async fn repeat(&mut self) {
        let Some((request, options)) = self.last.clone() else { return };
        let _ = self.service.lock(request, options).await;
    }

    /// Creates and deletes a table beside the locks that are judged.
    async fn tables(&mut self) {
        let options = TableOptions {
            table: Some(SIDE_TABLE.to_owned()),
            request_id: None,
            call: CallOptions::default(),
        };
        let service = self.service.service();
        let result: Result<(), Error> = match self.dice.within(0..=2) {
            0 => service.delete_table(options).await.map(drop),
            1 => {
                let duration = Some(Duration::from_millis(self.dice.within(20..=900)));
                service
                    .configure_table(
                        TableDefaults { duration, ..TableDefaults::default() },
                        options,
                    )
                    .await
            }
            _ => {
                let request = LockRequest {
                    signature: "a".to_owned(),
                    signee: self.signee.clone(),
                    level: None,
                };
                let options =
                    LockOptions { table: Some(SIDE_TABLE.to_owned()), ..LockOptions::default() };
                service.lock(request, options).await.map(|_| ())
            }
        };
        // Its effect shows in the nodes' states, which have to be equal.
        let _ = result;
    }
}
