//! A client that waits for its turn, shares locks, and lives in sessions.
//!
//! It asks for few locks in all modes, so that readers, writers and permits meet in one queue. It
//! lets some of its sessions die, forgets some of what their inboxes tell, moves grants between
//! them, and sometimes acts as an operator. Everything is recorded but what concerns a table with
//! settings of its own, of which only the log tells. Simulation and chaos use the same one.

use std::time::Duration;

use keyward::client::Client;
use keyward::types::{
    CallOptions, DecidedAt, Liveness, LockOptions, LockRequest, LockResponse, Mode, ReadOptions,
    RequestId, Seen, SessionId, SessionLocksRequest, SessionOptions, SessionRequest, SessionStatus,
    TableDefaults, TableOptions, Token, UnlockOptions, UnlockRequest,
};
use keyward::{Error, LockService};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::history::Recorded;

/// The table with a lock-delay and a longest hold.
const STRICT_TABLE: &str = "strict";

/// The sessions that one client keeps.
const SESSIONS: usize = 2;

/// The largest limit that a request names.
const PERMITS: u32 = 3;

/// The locks that all clients ask for.
const LOCKS: u64 = 3;

/// One client, and what it remembers of its requests.
pub struct Turns {
    service: Recorded<Client>,
    random: StdRng,
    signee: String,
    instance: Option<String>,
    /// Its sessions, with the last item of the inbox of each that it has seen.
    sessions: Vec<(SessionId, Option<DecidedAt>)>,
    /// The latest grants and places that it was told of.
    held: Vec<Held>,
    /// Its last request, to be repeated unchanged.
    last: Option<(LockRequest, LockOptions)>,
}

#[derive(Clone, Debug)]
struct Held {
    signature: String,
    instance: Option<String>,
    token: Option<Token>,
    place: Option<DecidedAt>,
}

impl std::fmt::Debug for Turns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Turns").field("signee", &self.signee).finish_non_exhaustive()
    }
}

impl Turns {
    /// A client with this service, whose choices are those of the seed. Its owner is drawn from its
    /// number: some share a name, and differ by their instance.
    pub fn new(service: Recorded<Client>, seed: u64, number: u64) -> Self {
        Self {
            service,
            random: StdRng::seed_from_u64(seed),
            signee: format!("turn {}", number % 4),
            instance: (number >= 4).then(|| format!("run {number}")),
            sessions: Vec::new(),
            held: Vec::new(),
            last: None,
        }
    }

    /// Makes one request; returns whether the contract granted it. If it is dropped, the request is
    /// given up while it is in flight.
    ///
    /// # Errors
    /// Those of the request.
    pub async fn step(&mut self) -> Result<bool, Error> {
        match self.random.random_range(0..100) {
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
        format!("turn {}", self.random.random_range(1..=LOCKS))
    }

    fn some_session(&mut self) -> Option<SessionId> {
        self.sessions.choose(&mut self.random).map(|(session, _)| *session)
    }

    fn length(&mut self, longest: &[u64]) -> Duration {
        let longest = *longest.choose(&mut self.random).expect("there is a choice");
        Duration::from_millis(self.random.random_range(20..=longest))
    }

    fn hits(&mut self, percent: u32) -> bool {
        self.random.random_ratio(percent, 100)
    }

    fn some_level(&mut self, percent: u32) -> Option<i64> {
        self.hits(percent).then(|| self.random.random_range(0..=2))
    }

    async fn lock(&mut self) -> Result<bool, Error> {
        let signature = self.some_lock();
        let (request, options) = self.request(signature);
        self.ask(request, options).await
    }

    /// A request for a turn.
    fn request(&mut self, signature: String) -> (LockRequest, LockOptions) {
        let level = self.some_level(25);
        let mode = match self.random.random_range(0..5) {
            0 => None,
            1 => Some(Mode::Exclusive),
            2 => Some(Mode::Permits),
            _ => Some(Mode::Shared),
        };
        let is_permits = mode == Some(Mode::Permits);
        let usual = if self.hits(90) { 2 } else { self.random.random_range(1..=PERMITS) };
        let session = if self.hits(50) { self.some_session() } else { None };
        let waits = self.hits(75);
        let options = LockOptions {
            mode,
            limit: is_permits.then_some(usual),
            session,
            duration: session.is_none().then(|| self.length(&[150, 1_500, 4_000])),
            force: !waits && self.hits(8),
            wait: waits.then(|| self.length(&[300, 4_000, 15_000])),
            queued: waits && (session.is_some() || self.hits(20)),
            lock_delay: self.hits(20).then(|| self.length(&[100, 2_000])),
            instance: self.instance.clone(),
            request_id: Some(RequestId { lane: self.random.random(), seq: 1 }),
            ..LockOptions::default()
        };
        (LockRequest { signature, signee: self.signee.clone(), level }, options)
    }

    async fn ask(&mut self, request: LockRequest, options: LockOptions) -> Result<bool, Error> {
        self.last = Some((request.clone(), options.clone()));
        let (signature, instance) = (request.signature.clone(), options.instance.clone());
        let answer = self.service.lock(request, options).await?;
        self.note(signature, instance, &answer);
        Ok(answer.forbidden().is_none())
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
        self.held.choose(&mut self.random).cloned()
    }

    /// Renews a grant by its token: as it is, in another mode, or in another session.
    async fn renew(&mut self) -> Result<bool, Error> {
        let Some(held) = self.some_held() else { return self.lock().await };
        let level = self.some_level(15);
        let mode = match self.random.random_range(0..10) {
            0..=1 => Some(Mode::Exclusive),
            2..=3 => Some(Mode::Shared),
            _ => None,
        };
        let session = if self.hits(30) { self.some_session() } else { None };
        let duration = (session.is_none() && self.hits(60)).then(|| self.length(&[150, 3_000]));
        let options = LockOptions {
            token: held.token.filter(|_| self.hits(70)),
            instance: held.instance,
            mode,
            session,
            duration,
            ..LockOptions::default()
        };
        let request = LockRequest { signature: held.signature, signee: self.signee.clone(), level };
        self.ask(request, options).await
    }

    async fn unlock(&mut self) -> Result<bool, Error> {
        let (signature, token, instance) = match self.some_held() {
            Some(held) if self.hits(85) => {
                (held.signature, held.token.filter(|_| self.hits(50)), held.instance)
            }
            _ => (self.some_lock(), None, self.instance.clone()),
        };
        let request = UnlockRequest { signature, signee: self.signee.clone() };
        let options = UnlockOptions { token, instance, ..UnlockOptions::default() };
        self.service.unlock(request, options).await.map(|response| response.ok())
    }

    async fn sessions(&mut self) -> Result<bool, Error> {
        match self.random.random_range(0..10) {
            0..=2 if self.sessions.len() < SESSIONS => self.open().await,
            3 if self.hits(50) => self.close().await,
            _ => self.keep_alive().await,
        }
    }

    async fn open(&mut self) -> Result<bool, Error> {
        let ttl = Duration::from_millis(self.random.random_range(1_000..=6_000));
        let request = SessionRequest { signee: self.signee.clone(), ttl };
        let instance = self.instance.clone();
        let options = SessionOptions { instance, ..SessionOptions::default() };
        let SessionStatus::Open(session) = self.service.open_session(request, options).await?
        else {
            return Ok(false);
        };
        self.sessions.push((session.id, None));
        Ok(true)
    }

    async fn close(&mut self) -> Result<bool, Error> {
        let Some((session, _)) = self.sessions.pop() else { return self.open().await };
        self.service.close_session(session, SessionOptions::default()).await.map(|_| true)
    }

    /// Keeps one session or all of them alive, and reads their inboxes.
    async fn keep_alive(&mut self) -> Result<bool, Error> {
        // A session that is dropped so ends by itself.
        if self.hits(2) {
            self.sessions.pop();
        }
        let alone = self.hits(40).then(|| self.some_session()).flatten();
        let asked: Vec<Seen> = self
            .sessions
            .iter()
            .filter(|(session, _)| alone.is_none_or(|alone| alone == *session))
            .map(|(session, seen)| Seen { session: *session, seen: *seen })
            .collect();
        if asked.is_empty() {
            return self.open().await;
        }
        let answer = self.service.keep_alive(asked.clone(), CallOptions::default()).await?;
        for (asked, state) in asked.iter().zip(answer) {
            match state {
                Liveness::Alive { inbox, .. } => {
                    // What an answer said may be forgotten by its reader: it is told again then.
                    let last = inbox.last().filter(|_| self.hits(80));
                    let known = self.sessions.iter_mut().find(|(id, _)| *id == asked.session);
                    if let (Some(last), Some((_, seen))) = (last, known) {
                        *seen = Some(last.position);
                    }
                }
                // Its name is kept now and then, to be used when it has long ended.
                Liveness::Lost if self.hits(70) => {
                    self.sessions.retain(|(id, _)| *id != asked.session);
                }
                Liveness::Lost => {}
            }
        }
        Ok(true)
    }

    async fn look(&mut self) -> Result<bool, Error> {
        let signature = self.some_lock();
        let options = ReadOptions::default();
        // Only checks are in the history; the others must not break anything.
        match (self.random.random_range(0..8), self.some_held(), self.some_session()) {
            (0, Some(Held { signature, token: Some(token), .. }), _) => {
                self.service.verify(signature, token, options).await.map(|_| true)
            }
            (1, ..) => self.service.deadlocks(options).await.map(|_| true),
            (2, _, Some(session)) => {
                let request = SessionLocksRequest { session, after: None, limit: 2 };
                found(self.service.session_locks(request, options).await)
            }
            _ => found(self.service.check(signature, options).await),
        }
    }

    /// Repeats the last request under its id, or as a new one: its place passes to that.
    async fn repeat(&mut self) -> Result<bool, Error> {
        let Some((request, mut options)) = self.last.clone() else { return self.lock().await };
        if self.hits(30) {
            options.request_id = None;
        } else if options.wait.is_some() {
            // How long it waits is not part of what was asked.
            options.wait = Some(self.length(&[300, 8_000]));
        }
        self.ask(request, options).await
    }

    /// Releases exactly one grant or place.
    async fn operate(&mut self) -> Result<bool, Error> {
        let Some(held) = self.some_held() else { return self.lock().await };
        let request = UnlockRequest { signature: held.signature, signee: "operator".to_owned() };
        let place = held.place.filter(|_| held.token.is_none());
        let options =
            UnlockOptions { token: held.token, place, force: true, ..UnlockOptions::default() };
        self.service.unlock(request, options).await.map(|response| response.ok())
    }

    /// Asks for a turn in a table with a lock-delay and a longest hold, beside the locks that are
    /// judged by what clients saw; sets or deletes the table now and then.
    async fn strict(&mut self) -> Result<bool, Error> {
        let table = Some(STRICT_TABLE.to_owned());
        let named = TableOptions { table: table.clone(), ..TableOptions::default() };
        let (signature, instance) = (self.some_lock(), self.instance.clone());
        match self.random.random_range(0..12) {
            0 => self.service.service().delete_table(named).await.map(|_| true),
            1..=3 => {
                let settings = TableDefaults {
                    lock_delay: Some(self.length(&[20, 1_000])),
                    max_hold: Some(self.length(&[500, 3_000])),
                    ..TableDefaults::default()
                };
                self.service.service().configure_table(settings, named).await.map(|()| true)
            }
            4 => {
                let limit = self.random.random_range(1..=PERMITS);
                self.service.service().set_limit(signature, limit, named).await
            }
            5..=8 => {
                let (request, options) = self.request(signature);
                let options = LockOptions { table, ..options };
                let answer = self.service.service().lock(request, options).await?;
                Ok(answer.forbidden().is_none())
            }
            _ => {
                let request = UnlockRequest { signature, signee: self.signee.clone() };
                let options = UnlockOptions { table, instance, ..UnlockOptions::default() };
                let answer = self.service.service().unlock(request, options).await;
                answer.map(|response| response.ok())
            }
        }
    }
}

/// A record that is not there is an answer, too.
fn found<T>(answer: Result<T, Error>) -> Result<bool, Error> {
    match answer {
        Ok(_) | Err(Error::NotFound { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}
