//! The state of the model, and the steps it can take.
//!
//! The log is the one that a majority has: openraft's part, that a term has one leader and that a
//! new leader has all committed entries, is assumed. A deposed leader does not know that it is one;
//! it goes on stamping, and what it has stamped can still be appended if it is elected again.
//!
//! A world keeps no part of its past that makes no difference to its future, so that as many pasts
//! as possible lead to one world: of the log its length and the newest blank entry, of grants the
//! newest.

use super::machine::{Machine, Told};
use super::{CLIENT_RATES, Cluster, DURATION_TICKS, Mutation, NODE_RATES, RHO_PERCENT, TICK_US};

/// The whole state of the model.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct World {
    /// Ticks of real time.
    pub(super) now: u8,
    /// The newest term; 0 before the first election.
    pub(super) term: u8,
    /// The number of entries in the log.
    entries: u8,
    /// The cluster clock at the newest term's blank entry.
    blank_us: u64,
    pub(super) nodes: [Node; 3],
    pub(super) clients: [Client; 2],
    pub(super) seen: Seen,
    pub(super) machine: Machine,
}

/// A stamped command.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Made {
    /// The term it was stamped in.
    pub(super) term: u8,
    /// The stamp.
    pub(super) time_us: u64,
    /// The real time at which it was stamped.
    at: u8,
    pub(super) what: What,
}

/// The request of a command.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum What {
    /// Advances the clock.
    Advance,
    /// Acquires the lock for this client.
    Lock(usize),
    /// Renews this client's grant with this token.
    Renew(usize, u64),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Node {
    /// The term in which it believes to lead; 0 if none.
    leads: u8,
    /// The cluster clock at its last election, if the mutation needs it.
    applied_us: u64,
    stamper: Option<Stamper>,
    /// A command that is stamped and not yet appended.
    made: Option<Made>,
}

/// A stamper as in the production code: `base + (1 - ρ) · (raw time since)`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Stamper {
    term: u8,
    base_us: u64,
    since: u8,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Client {
    asked: u8,
    request: Option<Request>,
    belief: Option<Belief>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Request {
    what: What,
    sent: u8,
    /// Whether a leader has stamped it.
    taken: bool,
    /// The answer in flight.
    told: Option<Told>,
}

/// The grant that a client believes to hold.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Belief {
    pub(super) token: u64,
    sent: u8,
    expires_in_us: u64,
}

/// Facts that nobody in the cluster knows, and that the properties need.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Seen {
    /// The time at which the newest stamp that had an effect was made.
    stamped_at: u8,
    /// Ticks that the cluster clock could not count, from the last stamp of one term to the first
    /// moment at which the next leader could stamp.
    lost: u8,
    /// The number of granted tokens, and the time at which the newest was last granted or renewed:
    /// the real time of the stamp.
    tokens: u8,
    granted_at: u8,
    /// Tokens that have expired, one bit each.
    dead: u8,
    /// The violations that were seen.
    pub(super) wrong: Wrong,
    /// The situations that were seen, so that a walk that never reached them does not pass.
    pub(super) met: Met,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is one property's finding")]
pub(super) struct Wrong {
    pub(super) early: bool,
    pub(super) token: bool,
    pub(super) stale: bool,
    pub(super) clock: bool,
    pub(super) revived: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is one thing that was met")]
pub(super) struct Met {
    pub(super) expiry: bool,
    pub(super) renewal: bool,
    pub(super) stale: bool,
}

/// A step.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// Real time passes.
    Tick,
    /// A node wins an election, with all of the log applied or with the state that it had applied
    /// when it last led.
    Elect {
        /// The node.
        node: usize,
        /// Whether it has applied everything.
        caught_up: bool,
        /// Whether the command that it had stamped and not appended still exists.
        holds: bool,
    },
    /// A leader applies the remaining entries, its own blank entry among them.
    Apply(usize),
    /// A node that believes to lead stamps a command.
    Stamp(usize, What),
    /// A leader stamps a command and appends it at once, and a majority has it.
    Propose(usize, What),
    /// A leader appends a command that it stamped before, perhaps in an earlier term.
    Append(usize),
    /// A client sends a request to lock or to renew.
    Send(usize),
    /// A client receives the answer.
    Hear(usize),
    /// A follower sends the leader the time; only with that mutation.
    Tell(usize),
}

impl World {
    pub(super) fn actions(&self, cluster: Cluster, actions: &mut Vec<Action>) {
        let bounds = cluster.bounds;
        // Before the first election nothing can be stamped: time would only be shifted.
        if self.term > 0 && self.now < bounds.ticks {
            actions.push(Action::Tick);
        }
        let room = self.entries < bounds.entries;
        for number in 0..self.nodes.len() {
            let node = &self.nodes[number];
            if self.term < bounds.terms && room {
                let mut elect = |caught_up| {
                    actions.push(Action::Elect { node: number, caught_up, holds: false });
                    if node.made.is_some() {
                        actions.push(Action::Elect { node: number, caught_up, holds: true });
                    }
                };
                elect(true);
                // The number of entries that a leader has applied before its blank entry is
                // irrelevant, except for one mutation.
                let asks = cluster.mutation == Some(Mutation::StampBeforeBlank);
                if asks && node.applied_us < self.machine.clock_us() {
                    elect(false);
                }
            }
            let leads_now = node.leads != 0 && node.leads == self.term;
            if leads_now && node.stamper.is_none_or(|stamper| stamper.term != self.term) {
                actions.push(Action::Apply(number));
            }
            if node.made.is_some() {
                if leads_now && room {
                    actions.push(Action::Append(number));
                }
            } else if leads_now || self.term < bounds.terms {
                // Otherwise its stamps could never be appended.
                self.stamps(number, cluster, leads_now && room, actions);
            }
            if cluster.mutation == Some(Mutation::FollowerAdvances) && !leads_now {
                actions.push(Action::Tell(number));
            }
        }
        for (number, client) in self.clients.iter().enumerate() {
            match &client.request {
                None if self.term > 0 && client.asked < bounds.requests[number] => {
                    actions.push(Action::Send(number));
                }
                Some(Request { told: Some(_), .. }) => actions.push(Action::Hear(number)),
                None | Some(_) => {}
            }
        }
    }

    fn stamps(&self, number: usize, cluster: Cluster, appends: bool, actions: &mut Vec<Action>) {
        let Some((time, _)) = self.stamp(number, cluster.mutation) else { return };
        let mut asked: Vec<What> = Vec::new();
        for client in &self.clients {
            if let Some(Request { what, taken: false, .. }) = client.request {
                asked.push(what);
            }
        }
        // Time passes without a request only while it can have an effect.
        let due = self.machine.holder().is_some_and(|holder| !holder.expired);
        if due && time > self.machine.clock_us() {
            asked.push(What::Advance);
        }
        for what in asked {
            if appends {
                actions.push(Action::Propose(number, what));
            }
            // A command that is held back makes a difference only if it is appended in a later term
            // or at a later time. One at a time is held back: two never meet in one term's queue.
            let held = self.nodes.iter().any(|node| node.made.is_some());
            if self.term < cluster.bounds.terms && !held {
                actions.push(Action::Stamp(number, what));
            }
        }
    }

    pub(super) fn after(&self, cluster: Cluster, action: Action) -> Option<Self> {
        let mut next = self.clone();
        match action {
            Action::Tick => next.now += 1,
            Action::Elect { node, caught_up, holds } => {
                next.elect(node, caught_up, cluster);
                if !holds {
                    next.nodes[node].made = None;
                }
            }
            Action::Apply(node) => next.apply(node, cluster.mutation),
            Action::Stamp(node, what) => next.make(node, what, cluster.mutation)?,
            Action::Propose(node, what) => {
                next.make(node, what, cluster.mutation)?;
                let made = next.nodes[node].made.take()?;
                next.append(&made);
            }
            Action::Append(node) => {
                let made = next.nodes[node].made.take()?;
                next.append(&made);
            }
            Action::Send(client) => next.send(client),
            Action::Hear(client) => next.hear(client, cluster.mutation),
            Action::Tell(node) => {
                let own = self.own_clock(node);
                for leader in &mut next.nodes {
                    if let Some(stamper) = leader.stamper.as_mut().filter(|_| leader.leads != 0) {
                        stamper.base_us = stamper.base_us.max(own);
                    }
                }
            }
        }
        next.forget();
        (next != *self).then_some(next)
    }

    /// Forgets state without effect on the future: a belief that is over stays over.
    fn forget(&mut self) {
        for number in 0..self.clients.len() {
            if self.believed(number).is_none() {
                self.clients[number].belief = None;
            }
        }
    }

    fn elect(&mut self, node: usize, caught_up: bool, cluster: Cluster) {
        self.term += 1;
        let clock_us = self.machine.clock_us();
        self.entries += 1;
        self.blank_us = clock_us;
        let leader = &mut self.nodes[node];
        leader.leads = self.term;
        if caught_up && cluster.mutation == Some(Mutation::StampBeforeBlank) {
            leader.applied_us = clock_us;
        }
        if self.term == cluster.bounds.terms {
            // No other node can lead again: their state makes no difference any more.
            for (number, other) in self.nodes.iter_mut().enumerate() {
                if number != node {
                    *other = Node::default();
                }
            }
        }
    }

    /// Applies all committed entries; the leader begins to stamp at its blank entry.
    fn apply(&mut self, node: usize, mutation: Option<Mutation>) {
        let term = self.term;
        let mut stamper = Stamper { term, base_us: self.blank_us, since: self.now };
        if mutation == Some(Mutation::OldBaseReused)
            && let Some(old) = self.nodes[node].stamper
        {
            stamper = Stamper { term, ..old };
        }
        self.begin(node, stamper);
    }

    /// Stamps a command without appending it.
    fn make(&mut self, node: usize, what: What, mutation: Option<Mutation>) -> Option<()> {
        let (time_us, begun) = self.stamp(node, mutation)?;
        self.begin(node, begun);
        let leader = &mut self.nodes[node];
        leader.made = Some(Made { term: leader.leads, time_us, at: self.now, what });
        if let What::Lock(client) | What::Renew(client, _) = what
            && let Some(request) = &mut self.clients[client].request
        {
            request.taken = true;
        }
        Some(())
    }

    /// Begins a term's stamper. A base never moves within its term.
    fn begin(&mut self, node: usize, stamper: Stamper) {
        let current = &mut self.nodes[node].stamper;
        if current.is_some_and(|current| current.term >= stamper.term) {
            return;
        }
        *current = Some(stamper);
        if stamper.term == self.term {
            self.seen.lost += self.now - self.seen.stamped_at;
            self.seen.stamped_at = self.now;
        }
    }

    /// The stamp that a node that believes to lead would make now, and its stamper.
    fn stamp(&self, node: usize, mutation: Option<Mutation>) -> Option<(u64, Stamper)> {
        let leader = &self.nodes[node];
        if leader.leads == 0 {
            return None;
        }
        let stamper = match leader.stamper.filter(|stamper| stamper.term == leader.leads) {
            Some(stamper) => stamper,
            None if mutation == Some(Mutation::StampBeforeBlank) => {
                Stamper { term: leader.leads, base_us: leader.applied_us, since: self.now }
            }
            None => return None,
        };
        let real_us = u64::from(self.now - stamper.since) * TICK_US;
        let raw_us = real_us * NODE_RATES[node] / 100;
        Some((stamper.base_us + raw_us * (100 - RHO_PERCENT) / 100, stamper))
    }

    /// A node's clock, which began long before the cluster did.
    fn own_clock(&self, node: usize) -> u64 {
        (100 + u64::from(self.now)) * TICK_US * NODE_RATES[node] / 100
    }

    fn append(&mut self, made: &Made) {
        let before = self.machine.clone();
        let (machine, told) = before.apply(self.term, self.entries.into(), made);
        self.entries += 1;
        self.machine = machine;
        self.judge(&before, made, told);
        if let What::Lock(client) | What::Renew(client, _) = made.what
            && let Some(request) = &mut self.clients[client].request
        {
            request.told = told;
        }
    }

    /// Updates the facts that the properties need.
    fn judge(&mut self, before: &Machine, made: &Made, told: Option<Told>) {
        let seen = &mut self.seen;
        seen.wrong.clock |= self.machine.clock_us() < before.clock_us();
        if made.term != self.term {
            seen.met.stale = true;
            seen.wrong.stale |= !self.machine.is_as(before);
        }
        if !self.machine.is_as(before) {
            seen.stamped_at = seen.stamped_at.max(made.at);
        }
        let live = |machine: &Machine| machine.holder().filter(|holder| !holder.expired);
        let (was, is) = (live(before), live(&self.machine));
        if let Some(was) = was
            && is.is_none_or(|is| is.token != was.token)
        {
            seen.met.expiry = true;
            seen.dead |= 1 << was.token;
            let lasted = self.now - seen.granted_at;
            seen.wrong.early |= u64::from(lasted) < DURATION_TICKS;
        }
        if let Some(Told::Granted { token, renewed, .. }) = told {
            seen.met.renewal |= renewed;
            let is_new = was.is_none_or(|was| was.token != token);
            if is_new && token > u64::from(seen.tokens) {
                seen.tokens += 1;
            } else {
                seen.wrong.token |= is_new && !renewed;
            }
            seen.granted_at = made.at;
        }
        seen.wrong.revived |= is.is_some_and(|is| seen.dead & (1 << is.token) != 0);
    }

    fn send(&mut self, number: usize) {
        let believed = self.believed(number).map(|belief| belief.token);
        let client = &mut self.clients[number];
        client.asked += 1;
        let what = believed.map_or(What::Lock(number), |token| What::Renew(number, token));
        client.request = Some(Request { what, sent: self.now, taken: false, told: None });
    }

    fn hear(&mut self, number: usize, mutation: Option<Mutation>) {
        let believed = self.believed(number).is_some();
        let now = self.now;
        let client = &mut self.clients[number];
        let Some(Request { what, sent, told: Some(told), .. }) = client.request.take() else {
            return;
        };
        let late = matches!(what, What::Renew(..)) && !believed;
        client.belief = match told {
            // A grant that was lost once stays lost, whatever a late answer says.
            Told::Granted { .. } if late => None,
            Told::Granted { token, expires_in_us, .. } => {
                let from_answer = mutation == Some(Mutation::CountedFromAnswer);
                let sent = if from_answer { now } else { sent };
                Some(Belief { token, sent, expires_in_us })
            }
            Told::Refused => None,
        };
    }

    /// The grant that a client believes to hold at this moment, by its own clock.
    pub(super) fn believed(&self, number: usize) -> Option<Belief> {
        self.clients[number].belief.filter(|belief| {
            let real_us = u64::from(self.now - belief.sent) * TICK_US;
            let own_us = real_us * CLIENT_RATES[number] / 100;
            own_us < belief.expires_in_us * (100 - RHO_PERCENT) / 100
        })
    }

    /// The time by which the leader's clock is behind what two slow clocks explain; `None` if no
    /// node can stamp.
    pub(super) fn behind_us(&self, mutation: Option<Mutation>) -> Option<u64> {
        let leader =
            self.nodes.iter().position(|node| node.leads == self.term && node.leads != 0)?;
        let stamper = self.nodes[leader].stamper?;
        if stamper.term != self.term {
            return None;
        }
        let (time_us, _) = self.stamp(leader, mutation)?;
        let counted = u64::from(self.now.saturating_sub(self.seen.lost)) * TICK_US;
        let slowest = counted * (100 - RHO_PERCENT) * (100 - RHO_PERCENT) / 10_000;
        Some(slowest.saturating_sub(time_us))
    }

    /// Whether all terms have had a leader that could stamp.
    pub(super) fn is_late_in_history(&self, terms: u8) -> bool {
        self.term == terms
            && self
                .nodes
                .iter()
                .any(|node| node.stamper.is_some_and(|stamper| stamper.term == terms))
    }
}
