//! One call: attempts at the nodes until one is answered or no time is left.
//!
//! The first attempt goes to the node that answered last. When an attempt fails, the next node is
//! asked. When it is not answered within [`HEDGE_AFTER`], and the request may be repeated, another
//! node is asked beside it (a hedged request, as in "The Tail at Scale", Dean and Barroso, 2013). The
//! first decided answer wins, and at most two attempts of one call are in flight.
//!
//! A call is `Unavailable` only if every attempt was certainly not done. One attempt whose fate is
//! open makes the call `Unknown`, whatever the others said, until a node answers a repetition.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};

use super::transport::{Ask, Kind, Transport};
use crate::clock::Deadline;
use crate::error::Error;
use crate::random;
use crate::types::CallOptions;

/// The first pause after every node was asked once, and the longest. An election takes a few
/// hundred milliseconds; asking less often than this would make it longer by as much, and asking
/// more often only loads a cluster that has trouble.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(80);

/// An attempt that could be followed by another gets at least this much of the call's time.
const SHORTEST_ATTEMPT: Duration = Duration::from_millis(250);

/// With less time than this left, nothing is repeated: the repetition would most likely not be
/// answered, and turn what was certainly not done into something unknown.
const LEAST_REPETITION: Duration = Duration::from_millis(10);

/// After this long without an answer another node is asked as well. Longer than a round trip around
/// the world and than most syncs of a busy disk, and shorter than the cluster takes to replace a
/// leader that fell silent.
const HEDGE_AFTER: Duration = Duration::from_millis(400);

impl Transport {
    /// Asks until there is an answer or no time left.
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
        // Boxed: most calls end above, and hold no room for what comes now.
        Box::pin(call.finish()).await
    }
}

/// One attempt, with the node that it asks.
type Attempt<'a, T> = BoxFuture<'a, (Arc<str>, Result<T, Error>)>;

/// A call whose first attempt was not answered at once.
struct Call<'a, A: Ask> {
    transport: &'a Transport,
    asking: &'a A,
    deadline: Deadline,
    in_flight: FuturesUnordered<Attempt<'a, A::Answer>>,
    /// The nodes that the attempts in flight ask.
    busy: Vec<Arc<str>>,
    /// The node that the newest attempt asked, of those that the client knows: others in its list
    /// have their turn after it, wherever hints led meanwhile.
    newest: Arc<str>,
    /// Nodes that failed since the last pause.
    failed: Vec<Arc<str>>,
    /// Whether the next attempt comes after a pause.
    paused: bool,
    /// The leader that the last refusal named.
    hint: Option<String>,
    ended: u32,
    hedges: u32,
    /// When another attempt begins; `None` if none does before one in flight has ended.
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

    /// The first attempt stays in flight; another node is asked now, if the request may be repeated.
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

    /// The error of an attempt that ends the call. Of a write whose other attempt is open it says
    /// nothing: that one may be done all the same.
    fn definite(&self, error: Error) -> Error {
        let is_open = !self.in_flight.is_empty() || !self.failures.open.is_empty();
        let decided = matches!(error, Error::Forbidden(_));
        if is_open && !decided && self.asking.kind() == Kind::Write {
            return Error::unknown(error.to_string());
        }
        error
    }

    /// An attempt has failed in a way that lets another follow.
    fn note(&mut self, endpoint: &Arc<str>, error: Error) {
        tracing::debug!(%error, "asking again");
        self.busy.retain(|busy| busy != endpoint);
        self.hint = leader_in(&error);
        let pause = self.pause_after(self.hint.is_some());
        self.ended += 1;
        self.failed.push(Arc::clone(endpoint));
        self.failures.note(endpoint, error);
        let has_time = self.deadline.remaining() > pause + LEAST_REPETITION;
        self.paused = !pause.is_zero();
        self.next = has_time.then(|| Deadline::after(pause));
    }

    /// None until each node was asked once; then longer and longer, less up to a half by chance,
    /// so that clients which failed together do not come back together.
    fn pause_after(&self, hinted: bool) -> Duration {
        let asked_all = self.ended as usize + 1 >= self.transport.endpoints().known().len();
        if !asked_all || (hinted && self.ended == 0) {
            return Duration::ZERO;
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << self.ended.min(8)).min(LONGEST_PAUSE);
        pause.mul_f64(random::factor(0.5..=1.0))
    }

    /// Asks the next node, alone or beside an attempt that is in flight.
    fn begin(&mut self) {
        self.next = None;
        let Some(endpoint) = self.choose() else { return };
        if std::mem::take(&mut self.paused) {
            // After a pause, whoever failed is worth another try.
            self.failed.clear();
        }
        let (asking, kind) = (self.asking, self.asking.kind());
        let share = share_of(self.deadline.remaining(), kind);
        let is_alone = self.in_flight.is_empty();
        let wait = if is_alone {
            share
        } else {
            // One that is not answered either makes room for the next node, later each time: a
            // cluster that is only slow must not be asked more and more.
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

    /// The node to ask: the hinted one or the next, but none that is being asked.
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

/// How much of the time that is left one attempt gets: half, as long as that is enough, so that a
/// node that hangs does not use up what another needs.
fn share_of(remaining: Duration, kind: Kind) -> Duration {
    match kind {
        Kind::Once => remaining,
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
        | Error::LaneForgotten { .. } => None,
    }
}

/// The reasons of a call's failed attempts, the last of each node.
#[derive(Default)]
struct Failures {
    /// Attempts whose fate is open.
    open: Vec<(Arc<str>, String)>,
    /// Attempts that were certainly not done.
    not_done: Vec<(Arc<str>, String)>,
    /// The leader that was named last.
    leader: Option<String>,
}

impl Failures {
    fn note(&mut self, endpoint: &Arc<str>, error: Error) {
        let (reasons, reason) = match error {
            Error::Unknown { reason } => (&mut self.open, reason),
            Error::Unavailable { reason, leader } => {
                self.leader = leader.or(self.leader.take());
                (&mut self.not_done, reason)
            }
            other @ (Error::Forbidden(_)
            | Error::BadRequest { .. }
            | Error::NotFound { .. }
            | Error::Unauthorized { .. }
            | Error::LaneForgotten { .. }) => unreachable!("it is not asked again after {other}"),
        };
        reasons.retain(|(of, _)| of != endpoint);
        reasons.push((Arc::clone(endpoint), reason));
    }

    fn into_error(self) -> Error {
        let Self { open, not_done, leader } = self;
        if open.is_empty() {
            return Error::Unavailable { reason: in_words(not_done), leader };
        }
        let heard = |of: &Arc<str>| open.iter().any(|(other, _)| other == of);
        let rest: Vec<_> = not_done.into_iter().filter(|(of, _)| !heard(of)).collect();
        Error::Unknown { reason: in_words(open.into_iter().chain(rest).collect()) }
    }
}

/// One node's reason as it is; several in one line, with the nodes. What a node itself said comes
/// before what happened on the way to one.
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
