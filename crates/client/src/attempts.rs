//! One call: attempts at the nodes until one answers or the time is up.
//!
//! The first attempt is sent to the node that answered last. When an attempt fails, the next node
//! is tried. When it has no answer within [`HEDGE_AFTER`] and the request may be repeated, the
//! request is also sent to another node (a hedged request, as in "The Tail at Scale", Dean and
//! Barroso, 2013). The first decided answer wins. At most two attempts of one call are in flight.
//!
//! A node that refuses a client because it asks too often says for how long it has to wait. Then no
//! node is asked for as long, and not at all if the call has less time.
//!
//! A call is `Unavailable` only if every attempt was certainly not done. One attempt whose outcome
//! is open makes the call `Unknown`, whatever the other attempts returned, until a node answers a
//! repetition.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};

use super::transport::{Ask, Kind, Transport};
use keyward_core::clock::Deadline;
use keyward_core::error::Error;
use keyward_core::random;
use keyward_core::types::CallOptions;

/// The first and the longest backoff after every node was tried once. An election takes a few
/// hundred milliseconds: retrying less often would prolong the outage by as much, and retrying more
/// often only loads a cluster that has trouble.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(80);

/// An attempt that could be followed by another gets at least this much of the call's time.
const SHORTEST_ATTEMPT: Duration = Duration::from_millis(250);

/// The remaining time below which nothing is retried: the retry would most likely not be answered,
/// and would turn what was certainly not done into an unknown outcome.
const LEAST_REPETITION: Duration = Duration::from_millis(10);

/// The delay after which an unanswered request is also sent to another node. Longer than a round
/// trip around the world and than most syncs of a busy disk, and shorter than the cluster takes to
/// replace a leader that fell silent.
const HEDGE_AFTER: Duration = Duration::from_millis(400);

impl Transport {
    /// Makes attempts until there is an answer or the time is up.
    pub(super) async fn repeat<A: Ask>(
        &self,
        asking: &A,
        call: &CallOptions,
    ) -> Result<A::Answer, Error> {
        let deadline = Deadline::after(self.patience(call));
        let endpoint = self.endpoints().preferred();
        let wait = share_of(deadline.remaining(), asking.kind());
        let mut first = pin!(asking.ask(&endpoint, wait));
        let ended = Deadline::after(HEDGE_AFTER).bound(first.as_mut()).await;
        let failure = match ended {
            Some(Ok(reply)) => {
                self.endpoints().prefer(&endpoint);
                return Ok(reply);
            }
            Some(Err(error)) if asking.kind().may_repeat_after(&error) => Some(error),
            Some(Err(error)) => return Err(error),
            None => None,
        };
        let mut call = Call::new(self, asking, deadline, &endpoint);
        match failure {
            Some(error) => call.note(&endpoint, error),
            None => call.goes_on(&endpoint, first),
        }
        // Boxed: most calls end above, and need no room for the rest.
        Box::pin(call.finish()).await
    }
}

/// One attempt, with the node that it is sent to.
type Attempt<'a, T> = BoxFuture<'a, (Arc<str>, Result<T, Error>)>;

/// A call whose first attempt did not succeed at once.
struct Call<'a, A: Ask> {
    transport: &'a Transport,
    asking: &'a A,
    deadline: Deadline,
    in_flight: FuturesUnordered<Attempt<'a, A::Answer>>,
    /// The nodes of the attempts in flight.
    busy: Vec<Arc<str>>,
    /// The endpoint of the newest attempt, among those of the client's list. The rotation through
    /// the list continues after it, wherever hints led meanwhile.
    newest: Arc<str>,
    /// Nodes that failed since the last pause.
    failed: Vec<Arc<str>>,
    /// Whether the next attempt comes after a pause.
    paused: bool,
    /// The leader that the last refusal named.
    hint: Option<String>,
    ended: u32,
    hedges: u32,
    /// When another attempt begins; `None` if that has to wait until one in flight ends.
    next: Option<Deadline>,
    failures: Failures,
}

impl<'a, A: Ask> Call<'a, A> {
    fn new(
        transport: &'a Transport,
        asking: &'a A,
        deadline: Deadline,
        endpoint: &Arc<str>,
    ) -> Self {
        Self {
            transport,
            asking,
            deadline,
            in_flight: FuturesUnordered::new(),
            busy: Vec::new(),
            newest: Arc::clone(endpoint),
            failed: Vec::new(),
            paused: false,
            hint: None,
            ended: 0,
            hedges: 0,
            next: None,
            failures: Failures::default(),
        }
    }

    /// Keeps the first attempt in flight and sends a hedged one at once, if the request may be
    /// repeated.
    fn goes_on(
        &mut self,
        endpoint: &Arc<str>,
        attempt: impl Future<Output = Result<A::Answer, Error>> + Send + 'a,
    ) {
        self.push(endpoint, attempt);
        self.next = self.asking.kind().is_hedged().then(|| Deadline::after(Duration::ZERO));
    }

    fn push(
        &mut self,
        endpoint: &Arc<str>,
        attempt: impl Future<Output = Result<A::Answer, Error>> + Send + 'a,
    ) {
        self.busy.push(Arc::clone(endpoint));
        let endpoint = Arc::clone(endpoint);
        self.in_flight.push(Box::pin(async move { (endpoint, attempt.await) }));
    }

    async fn finish(mut self) -> Result<A::Answer, Error> {
        loop {
            let pause = self.next.map(|next| next.remaining());
            tokio::select! {
                biased;
                Some((endpoint, ended)) = self.in_flight.next() => match ended {
                    Ok(reply) => {
                        self.transport.endpoints().prefer(&endpoint);
                        return Ok(reply);
                    }
                    Err(error) if self.asking.kind().may_repeat_after(&error) => {
                        self.note(&endpoint, error);
                    }
                    Err(error) => return Err(self.definite(error)),
                },
                () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {
                    self.begin();
                }
                else => return Err(self.failures.into_error()),
            }
        }
    }

    /// The error that ends the call. A write with another attempt whose outcome is open becomes
    /// `Unknown`, unless a node decided the refusal: that attempt may take effect all the same.
    fn definite(&self, error: Error) -> Error {
        let is_open = !self.in_flight.is_empty() || !self.failures.open.is_empty();
        let decided = matches!(error, Error::Forbidden(_));
        if is_open && !decided && matches!(self.asking.kind(), Kind::Write | Kind::Patient) {
            return Error::unknown(error.to_string());
        }
        error
    }

    /// Records a failed attempt that another may follow.
    fn note(&mut self, endpoint: &Arc<str>, error: Error) {
        tracing::debug!(%error, "asking again");
        self.busy.retain(|busy| busy != endpoint);
        self.hint = leader_in(&error);
        // Every node limits by itself: asking the next one at once would only evade the limit.
        let pause = match error.retry_after() {
            Some(wait) => wait.mul_f64(random::factor(1.0..=1.1)),
            None => self.pause_after(self.hint.is_some()),
        };
        self.ended += 1;
        self.failed.push(Arc::clone(endpoint));
        self.failures.note(endpoint, error);
        let has_time = self.deadline.remaining() > pause + LEAST_REPETITION;
        self.paused = !pause.is_zero();
        self.next = has_time.then(|| Deadline::after(pause));
    }

    /// The backoff before the next attempt. It is zero until each node was tried once, and when the
    /// first failure names the leader. Then it grows, less up to a half at random, so that clients
    /// that failed together do not retry together.
    fn pause_after(&self, hinted: bool) -> Duration {
        let asked_all = self.ended as usize + 1 >= self.transport.endpoints().known().len();
        if !asked_all || (hinted && self.ended == 0) {
            return Duration::ZERO;
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << self.ended.min(8)).min(LONGEST_PAUSE);
        pause.mul_f64(random::factor(0.5..=1.0))
    }

    /// Starts an attempt at the next node, alone or beside one in flight.
    fn begin(&mut self) {
        self.next = None;
        let Some(endpoint) = self.choose() else { return };
        if std::mem::take(&mut self.paused) {
            // After a pause, nodes that failed are worth another try.
            self.failed.clear();
        }
        let (asking, kind) = (self.asking, self.asking.kind());
        let share = share_of(self.deadline.remaining(), kind);
        let is_alone = self.in_flight.is_empty();
        let wait = if is_alone {
            share
        } else {
            // A hedged attempt times out in favour of the next node, later each time: a cluster
            // that is only slow must not get more and more requests.
            self.hedges += 1;
            share.min(HEDGE_AFTER * self.hedges)
        };
        if self.transport.endpoints().known().contains(&endpoint) {
            self.newest = Arc::clone(&endpoint);
        }
        let to = Arc::clone(&endpoint);
        self.push(&endpoint, async move { asking.ask(&to, wait).await });
        self.next = (is_alone && kind.is_hedged()).then(|| Deadline::after(HEDGE_AFTER));
    }

    /// The node to try next: the hinted one or the next of the list, but none with an attempt in
    /// flight.
    fn choose(&self) -> Option<Arc<str>> {
        if self.deadline.remaining() <= LEAST_REPETITION {
            return None;
        }
        let endpoints = self.transport.endpoints();
        let avoid: Vec<Arc<str>> = self.failed.iter().chain(&self.busy).cloned().collect();
        let mut candidate = endpoints.after(&self.newest, self.hint.as_deref(), &avoid);
        for _ in endpoints.known() {
            if !self.busy.contains(&candidate) {
                return Some(candidate);
            }
            candidate = endpoints.after(&candidate, None, &avoid);
        }
        None
    }
}

/// The timeout of one attempt: half of the remaining time, as long as that is enough, so that a
/// node that hangs does not use up the time that another needs.
fn share_of(remaining: Duration, kind: Kind) -> Duration {
    match kind {
        Kind::Patient | Kind::Once => remaining,
        Kind::Read | Kind::Write => (remaining / 2).max(SHORTEST_ATTEMPT).min(remaining),
    }
}

fn leader_in(error: &Error) -> Option<String> {
    match error {
        Error::Unavailable { leader, .. } => leader.clone(),
        Error::Forbidden(_)
        | Error::BadRequest { .. }
        | Error::NotFound { .. }
        | Error::Unknown { .. }
        | Error::Unauthorized { .. }
        | Error::NotAllowed { .. }
        | Error::LaneForgotten { .. } => None,
    }
}

/// The reasons of a call's failed attempts, the last of each node.
#[derive(Default)]
struct Failures {
    /// Attempts whose outcome is open.
    open: Vec<(Arc<str>, String)>,
    /// Attempts that were certainly not done.
    not_done: Vec<(Arc<str>, String)>,
    /// The leader that was named last.
    leader: Option<String>,
    /// The wait that the last refusal asked for.
    retry_after: Option<Duration>,
}

impl Failures {
    fn note(&mut self, endpoint: &Arc<str>, error: Error) {
        let (reasons, reason) = match error {
            Error::Unknown { reason } => (&mut self.open, reason),
            Error::Unavailable { reason, leader, retry_after } => {
                self.retry_after = retry_after;
                self.leader = leader.or(self.leader.take());
                (&mut self.not_done, reason)
            }
            other @ (Error::Forbidden(_)
            | Error::BadRequest { .. }
            | Error::NotFound { .. }
            | Error::Unauthorized { .. }
            | Error::NotAllowed { .. }
            | Error::LaneForgotten { .. }) => unreachable!("it is not asked again after {other}"),
        };
        reasons.retain(|(of, _)| of != endpoint);
        reasons.push((Arc::clone(endpoint), reason));
    }

    fn into_error(self) -> Error {
        let Self { open, not_done, leader, retry_after } = self;
        if open.is_empty() {
            return Error::Unavailable { reason: in_words(not_done), leader, retry_after };
        }
        let heard = |of: &Arc<str>| open.iter().any(|(other, _)| other == of);
        let rest: Vec<_> = not_done.into_iter().filter(|(of, _)| !heard(of)).collect();
        Error::Unknown { reason: in_words(open.into_iter().chain(rest).collect()) }
    }
}

/// Formats the reasons: a single one as it is, several in one line with their nodes. Reasons that a
/// node itself gave come before failures to reach one.
fn in_words(mut reasons: Vec<(Arc<str>, String)>) -> String {
    if let [(_, reason)] = &mut reasons[..] {
        return std::mem::take(reason);
    }
    reasons.sort_by_key(|(endpoint, reason)| reason.starts_with(&**endpoint));
    let one = |(endpoint, reason): &(Arc<str>, String)| {
        if reason.starts_with(&**endpoint) {
            reason.clone()
        } else {
            format!("{endpoint}: {reason}")
        }
    };
    reasons.iter().map(one).collect::<Vec<_>>().join("; ")
}
