//! The workloads of the clients of a run, each client in a loop of its own until the run ends.
//!
//! A workload is written for any service ([`super::service::Subject`]); only `mix` and `turns`
//! use Keyward's own requests, where there are any. A client that is refused or gets no answer waits a
//! moment and goes on: only the checks decide what was wrong.

mod expiry;
mod mix;
mod register;
mod turns;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use keyward::bench::{Owner, Target};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::progress::Progress;
use super::service::Subject;
use crate::history::Recorder;
use crate::register::Registers;

/// The pause of a client before it retries, which avoids a busy loop.
const MOMENT: Duration = Duration::from_millis(20);

/// A workload of the clients.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Workload {
    /// Locks, renewals, releases and checks on many locks, some contended; on Keyward with levels,
    /// force and releases by name among them.
    Mix,
    /// Read-modify-write under the lock; one holder in thirty freezes between check and write.
    Register,
    /// As `Register`, but one holder in three freezes.
    Freeze,
    /// All clients contend for one lock and release it at once.
    Handoff,
    /// No client renews or releases: every lock changes hands because it expires.
    Expiry,
    /// Queues whose holders and waiters die, readers and writers, permits, sessions; on Keyward
    /// alone.
    Turns,
}

impl Workload {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Mix, Self::Register, Self::Freeze, Self::Handoff, Self::Expiry, Self::Turns];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mix => "mix",
            Self::Register => "register",
            Self::Freeze => "freeze",
            Self::Handoff => "handoff",
            Self::Expiry => "expiry",
            Self::Turns => "turns",
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Workload {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|workload| workload.name() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            format!("there is no workload `{text}`; there are {known}")
        })
    }
}

/// The amount of work.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Size {
    /// Clients of each workload.
    pub clients: usize,
    /// Locks of each workload that has several.
    pub locks: usize,
    /// The duration of a lock.
    pub lease: Duration,
    /// Whether the registers check the service's tokens, where it has some.
    pub tokens: bool,
}

/// The state that all clients of a run share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Records the operations on the registers.
    pub recorder: Recorder,
    /// Counts the requests.
    pub progress: Progress,
    /// The registers that the locks guard.
    pub registers: Registers,
    /// The amount of work.
    pub size: Size,
}

/// Clients at work. Dropping it aborts them; the outcome of their requests in flight is unknown.
#[derive(Debug)]
pub struct Crew {
    stop: watch::Sender<bool>,
    clients: JoinSet<()>,
}

impl Crew {
    /// Starts the clients of all workloads.
    pub fn start<S: Subject>(
        workloads: &[Workload],
        subject: &S,
        shared: &Shared,
        seed: u64,
    ) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut clients = JoinSet::new();
        for (place, &workload) in workloads.iter().enumerate() {
            for index in 0..shared.size.clients {
                let number = place * shared.size.clients + index;
                let hand = Hand {
                    subject: subject.clone(),
                    shared: shared.clone(),
                    random: StdRng::seed_from_u64(seed ^ ((number as u64 + 1) << 32)),
                    stop: stopped.clone(),
                    number,
                    index,
                };
                clients.spawn(run(workload, hand));
            }
        }
        Self { stop, clients }
    }

    /// Signals the clients to stop and waits until each has finished its current request.
    ///
    /// # Panics
    /// If a client panicked.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("a client does not panic");
        }
    }
}

async fn run<S: Subject>(workload: Workload, hand: Hand<S>) {
    match workload {
        Workload::Mix => mix::run(hand).await,
        Workload::Register => register::run(hand, register::Plan::some_freeze()).await,
        Workload::Freeze => register::run(hand, register::Plan::many_freeze()).await,
        Workload::Handoff => register::run(hand, register::Plan::hand_off()).await,
        Workload::Expiry => expiry::run(hand).await,
        Workload::Turns => turns::run(hand).await,
    }
}

/// The identity and the tools of one client.
struct Hand<S> {
    subject: S,
    shared: Shared,
    random: StdRng,
    stop: watch::Receiver<bool>,
    /// Its number among all clients of the run.
    number: usize,
    /// Its index among the clients of its workload.
    index: usize,
}

impl<S: Target> Hand<S> {
    fn stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// Sleeps, but not beyond the end of the run.
    async fn sleep(&mut self, time: Duration) {
        // The sender is dropped only with the run; either way it is over.
        let _ = tokio::time::timeout(time, self.stop.wait_for(|&stop| stop)).await;
    }

    /// Sleeps for up to twice the usual pause, so that clients do not run in step.
    async fn moment(&mut self) {
        let time = MOMENT.mul_f64(self.random.random_range(0.1..2.0));
        self.sleep(time).await;
    }

    /// Connects an owner; `None` if the run ends before it is connected.
    async fn owner(&mut self) -> Option<S::Owner> {
        while !self.stopped() {
            if let Ok(owner) = self.subject.owner(self.number).await {
                return Some(owner);
            }
            self.sleep(MOMENT * 10).await;
        }
        None
    }

    /// The token to present to the register, if it checks tokens.
    fn token(&self, held: &<S::Owner as Owner>::Held) -> Option<u64> {
        if self.shared.size.tokens { S::Owner::token(held) } else { None }
    }
}
