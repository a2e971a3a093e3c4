//! Clients that wait for their turn, share locks, and live in sessions.
//!
//! Each is one task that asks for few locks in all modes, so that readers, writers and permits meet
//! in one queue. It gives up some of its requests while they wait, lets some of its sessions die,
//! moves grants between them, and sometimes acts as an operator. Everything is recorded but what
//! concerns a table with settings of its own, of which only the log tells.

use std::time::Duration;

use super::world::{Dice, FIRST_CLIENT, World};
use keyward::LockService;
use keyward::client::Client;
use keyward::types::{
    CallOptions, DecidedAt, Liveness, LockOptions, LockRequest, LockResponse, Mode, ReadOptions,
    RequestId, Seen, SessionId, SessionLocksRequest, SessionOptions, SessionRequest, SessionStatus,
    TableDefaults, TableOptions, Token, UnlockOptions, UnlockRequest,
};

use super::schedule::Schedule;
use crate::history::{Recorded, Recorder};

/// The number of these clients on each machine.
const CLIENTS: u64 = 2;

/// The table with a lock-delay and a longest hold.
const STRICT_TABLE: &str = "strict";

/// The sessions that one client keeps.
const SESSIONS: usize = 2;

/// The largest limit that a request names.
const PERMITS: u64 = 3;

/// Starts the clients; they go on until the faults are over.
pub(super) fn start(world: &World, schedule: &Schedule, recorder: &Recorder) {
    for at in 0..schedule.clients * CLIENTS {
        let name = format!("turns {at}");
        let mut dice = world.dice(&name);
        let machine = FIRST_CLIENT + at % schedule.clients;
        let first = dice.within(1..=schedule.nodes);
        let timeout = Duration::from_millis(dice.within(400..=4_000));
        let client = world.client(machine, first, timeout);
        let lanes = u128::from(dice.number()) << 64 | u128::from(dice.number());
        let service = Recorded::new(client, recorder.clone(), name).with_lanes(lanes);
        let worker = Worker {
            service,
            signee: format!("turn {}", at % 4),
            instance: (at >= 4).then(|| format!("run {at}")),
            locks: schedule.locks.min(3),
            sessions: Vec::new(),
            held: Vec::new(),
            last: None,
            dice,
        };
        let pause = schedule.pause_ms / 2;
        world.spawn_on(machine, worker.run(world.clone(), pause, schedule.length_ms));
    }
}

struct Worker {
    service: Recorded<Client>,
    dice: Dice,
    signee: String,
    instance: Option<String>,
    locks: u64,
    /// Its sessions, with the last item of the inbox of each that it has seen.
    sessions: Vec<(SessionId, Option<DecidedAt>)>,
    /// The latest grants and places that it was told of.
    held: Vec<Held>,
    /// Its last request, to be repeated unchanged.
    last: Option<(LockRequest, LockOptions)>,
}

#[derive(Clone)]
struct Held {
    signature: String,
    instance: Option<String>,
    token: Option<Token>,
    place: Option<DecidedAt>,
}

impl Worker {
    async fn run(mut self, world: World, pause_ms: u64, length_ms: u64) {
        while world.now() < Duration::from_millis(length_ms) {
            let pause = self.dice.within(1..=pause_ms);
            world.sleep(Duration::from_millis(pause)).await;
            // Some requests are given up while they are in flight, and some places with them.
            let patience = if self.dice.hits(80_000) { 400 } else { 20_000 };
            let patience = Duration::from_millis(self.dice.within(1..=patience));
            let _ = tokio::time::timeout(patience, self.step()).await;
        }
    }

    async fn step(&mut self) {
        match self.dice.within(0..=99) {
            0..=31 => self.lock().await,
            32..=44 => self.renew().await,
            45..=62 => self.unlock().await,
            63..=81 => self.sessions().await,
            82..=87 => self.look().await,
            88..=91 => self.repeat().await,
            92..=95 => self.operate().await,
            _ => self.strict().await,
        }
    }

    fn some_lock(&mut self) -> String {
        format!("turn {}", self.dice.within(1..=self.locks))
    }

    fn some_session(&mut self) -> Option<SessionId> {
        if self.sessions.is_empty() { None } else { Some(self.dice.pick(&self.sessions).0) }
    }

    fn length(&mut self, longest: &[u64]) -> Duration {
        let longest = *self.dice.pick(longest);
        Duration::from_millis(self.dice.within(20..=longest))
    }

    async fn lock(&mut self) {
        let signature = self.some_lock();
        let (request, options) = self.request(signature);
        self.ask(request, options).await;
    }

    /// A request for a turn.
    fn request(&mut self, signature: String) -> (LockRequest, LockOptions) {
        let level = self.dice.hits(250_000).then(|| self.dice.within(0..=2).cast_signed());
        let mode = *self.dice.pick(&[
            None,
            Some(Mode::Exclusive),
            Some(Mode::Shared),
            Some(Mode::Shared),
            Some(Mode::Permits),
        ]);
        let is_permits = mode == Some(Mode::Permits);
        let usual = if self.dice.hits(900_000) { 2 } else { self.dice.within(1..=PERMITS) };
        let limit = u32::try_from(usual).ok().filter(|_| is_permits);
        let session = if self.dice.hits(500_000) { self.some_session() } else { None };
        let waits = self.dice.hits(750_000);
        let lane = u128::from(self.dice.number()) << 64 | u128::from(self.dice.number());
        let options = LockOptions {
            mode,
            limit,
            session,
            duration: session.is_none().then(|| self.length(&[150, 1_500, 4_000])),
            force: !waits && self.dice.hits(80_000),
            wait: waits.then(|| self.length(&[300, 4_000, 15_000])),
            queued: waits && (session.is_some() || self.dice.hits(200_000)),
            lock_delay: self.dice.hits(200_000).then(|| self.length(&[100, 2_000])),
            instance: self.instance.clone(),
            request_id: Some(RequestId { lane, seq: 1 }),
            ..LockOptions::default()
        };
        (LockRequest { signature, signee: self.signee.clone(), level }, options)
    }

    async fn ask(&mut self, request: LockRequest, options: LockOptions) {
        self.last = Some((request.clone(), options.clone()));
        let (signature, instance) = (request.signature.clone(), options.instance.clone());
        let answer = self.service.lock(request, options).await;
        if let Ok(answer) = answer {
            self.note(signature, instance, &answer);
        }
    }

    fn note(&mut self, signature: String, instance: Option<String>, answer: &LockResponse) {
        let token = answer.grant().map(|grant| grant.token);
        let place = answer.waiting().map(|waiting| waiting.place);
        if token.is_some() || place.is_some() {
            self.held.push(Held { signature, instance, token, place });
            if self.held.len() > 4 {
                self.held.remove(0);
            }
        }
    }

    fn some_held(&mut self) -> Option<Held> {
        if self.held.is_empty() { None } else { Some(self.dice.pick(&self.held).clone()) }
    }

    /// Renews a grant by its token: as it is, in another mode, or in another session.
    async fn renew(&mut self) {
        let Some(held) = self.some_held() else { return self.lock().await };
        let level = self.dice.hits(150_000).then(|| self.dice.within(0..=2).cast_signed());
        let mode = match self.dice.within(0..=9) {
            0..=1 => Some(Mode::Exclusive),
            2..=3 => Some(Mode::Shared),
            _ => None,
        };
        let session = if self.dice.hits(300_000) { self.some_session() } else { None };
        let duration =
            (session.is_none() && self.dice.hits(600_000)).then(|| self.length(&[150, 3_000]));
        let options = LockOptions {
            token: held.token.filter(|_| self.dice.hits(700_000)),
            instance: held.instance,
            mode,
            session,
            duration,
            ..LockOptions::default()
        };
        let request = LockRequest { signature: held.signature, signee: self.signee.clone(), level };
        self.ask(request, options).await;
    }

    async fn unlock(&mut self) {
        let (signature, token, instance) = match self.some_held() {
            Some(held) if self.dice.hits(850_000) => {
                (held.signature, held.token.filter(|_| self.dice.hits(500_000)), held.instance)
            }
            _ => (self.some_lock(), None, self.instance.clone()),
        };
        let request = UnlockRequest { signature, signee: self.signee.clone() };
        let options = UnlockOptions { token, instance, ..UnlockOptions::default() };
        // The outcome is in the history.
        let _ = self.service.unlock(request, options).await;
    }

    async fn sessions(&mut self) {
        match self.dice.within(0..=9) {
            0..=2 if self.sessions.len() < SESSIONS => self.open().await,
            3 if self.dice.hits(500_000) => self.close().await,
            // A session that is dropped so ends by itself.
            4 if self.dice.hits(200_000) => drop(self.sessions.pop()),
            _ => self.keep_alive().await,
        }
    }

    async fn open(&mut self) {
        let ttl = Duration::from_millis(self.dice.within(1_000..=6_000));
        let request = SessionRequest { signee: self.signee.clone(), ttl };
        let instance = self.instance.clone();
        let options = SessionOptions { instance, ..SessionOptions::default() };
        if let Ok(SessionStatus::Open(session)) = self.service.open_session(request, options).await
        {
            self.sessions.push((session.id, None));
        }
    }

    async fn close(&mut self) {
        let Some((session, _)) = self.sessions.pop() else { return };
        let _ = self.service.close_session(session, SessionOptions::default()).await;
    }

    /// Keeps one session or all of them alive, and reads their inboxes.
    async fn keep_alive(&mut self) {
        let alone = self.dice.hits(400_000).then(|| self.some_session()).flatten();
        let asked: Vec<Seen> = self
            .sessions
            .iter()
            .filter(|(session, _)| alone.is_none_or(|alone| alone == *session))
            .map(|(session, seen)| Seen { session: *session, seen: *seen })
            .collect();
        if asked.is_empty() {
            return;
        }
        let answer = self.service.keep_alive(asked.clone(), CallOptions::default()).await;
        for (asked, state) in asked.iter().zip(answer.unwrap_or_default()) {
            match state {
                Liveness::Alive { inbox, .. } => {
                    // What an answer said may be forgotten by its reader: it is told again then.
                    let last = inbox.last().filter(|_| self.dice.hits(800_000));
                    let known = self.sessions.iter_mut().find(|(id, _)| *id == asked.session);
                    if let (Some(last), Some((_, seen))) = (last, known) {
                        *seen = Some(last.position);
                    }
                }
                // Its name is kept now and then, to be used when it has long ended.
                Liveness::Lost if self.dice.hits(700_000) => {
                    self.sessions.retain(|(id, _)| *id != asked.session);
                }
                Liveness::Lost => {}
            }
        }
    }

    async fn look(&mut self) {
        let signature = self.some_lock();
        let options = ReadOptions::default();
        // Only checks are in the history; the others must not break anything.
        match (self.dice.within(0..=7), self.some_held(), self.some_session()) {
            (0, Some(Held { signature, token: Some(token), .. }), _) => {
                let _ = self.service.verify(signature, token, options).await;
            }
            (1, ..) => drop(self.service.deadlocks(options).await),
            (2, _, Some(session)) => {
                let request = SessionLocksRequest { session, after: None, limit: 2 };
                let _ = self.service.session_locks(request, options).await;
            }
            _ => drop(self.service.check(signature, options).await),
        }
    }

    /// Repeats the last request under its id, or as a new one: its place passes to that.
    async fn repeat(&mut self) {
        let Some((request, mut options)) = self.last.clone() else { return };
        if self.dice.hits(300_000) {
            options.request_id = None;
        } else if options.wait.is_some() {
            // How long it waits is not part of what was asked.
            options.wait = Some(self.length(&[300, 8_000]));
        }
        self.ask(request, options).await;
    }

    /// Releases exactly one grant or place.
    async fn operate(&mut self) {
        let Some(held) = self.some_held() else { return };
        let request = UnlockRequest { signature: held.signature, signee: "operator".to_owned() };
        let place = held.place.filter(|_| held.token.is_none());
        let options =
            UnlockOptions { token: held.token, place, force: true, ..UnlockOptions::default() };
        let _ = self.service.unlock(request, options).await;
    }

    /// Asks for a turn in a table with a lock-delay and a longest hold, beside the locks that are
    /// judged by what clients saw; sets or deletes the table now and then.
    async fn strict(&mut self) {
        let table = Some(STRICT_TABLE.to_owned());
        let named = TableOptions { table: table.clone(), ..TableOptions::default() };
        let (signature, instance) = (self.some_lock(), self.instance.clone());
        match self.dice.within(0..=11) {
            0 => drop(self.service.service().delete_table(named).await),
            1..=3 => {
                let settings = TableDefaults {
                    lock_delay: Some(self.length(&[20, 1_000])),
                    max_hold: Some(self.length(&[500, 3_000])),
                    ..TableDefaults::default()
                };
                let _ = self.service.service().configure_table(settings, named).await;
            }
            4 => {
                let limit = u32::try_from(self.dice.within(1..=PERMITS)).expect("it is small");
                let _ = self.service.service().set_limit(signature, limit, named).await;
            }
            5..=8 => {
                let (request, options) = self.request(signature);
                let options = LockOptions { table, ..options };
                let _ = self.service.service().lock(request, options).await;
            }
            _ => {
                let request = UnlockRequest { signature, signee: self.signee.clone() };
                let options = UnlockOptions { table, instance, ..UnlockOptions::default() };
                let _ = self.service.service().unlock(request, options).await;
            }
        }
    }
}
