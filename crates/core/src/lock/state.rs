//! The lock machine, told as a short chapter.
//!
//! # What it is
//!
//! Three or five nodes agree on a log: the same entries, in the same order. Each of them feeds the
//! entries to a [`State`], and because a state reads nothing else, all come to the same locks,
//! byte for byte. An entry holds a [`Proposal`]: one stamp of time and the commands of one or more
//! requests. [`State::apply`] turns it into one [`Decision`] per command. A refused command is a
//! decision like any other; there is no such thing as an entry that fails.
//!
//! # Time
//!
//! A state has no clock; it is *told* the time. `C`, the cluster clock, is the latest time that any
//! stamp has named: apply first does `C = max(C, stamp)`, and every deadline is reckoned from `C`
//! after that. A leader stamps at its own rate from the `C` it found, so a clock that is wrong
//! cannot end a lock early; it can only fail to move `C` on. A stamp belongs to the term it was made
//! in. If the entry is of another term, its leader may have been long deposed, and the whole
//! proposal has no effect: not on `C`, not on a lane, on nothing.
//!
//! A grant is *expired* when `C` has come to its deadline, and its record is *removed* when `C` has
//! come to its removal deadline: a day after the other, unless the request or its table says
//! otherwise. No command says so; time alone does. Each apply works off a bounded
//! number of due deadlines, and lock and unlock settle their own record first, so that it makes no
//! difference to anybody how far the work has come (see `locks.rs`).
//!
//! # Who gets a lock
//!
//! `rules.rs` has the contract's table. A verdict that grants makes a new token from the one counter
//! of the state; it only ever grows, through removals, deleted tables and snapshots, so a resource
//! that refuses smaller tokens is safe from any holder of the past. A renewal keeps the token, but
//! renewing what had expired gets a new one: somebody may have acted in the gap. With a token in the
//! request it is renew only and never creates a grant, so a late renewal revives nothing.
//!
//! # Waiting
//!
//! What is above is all there is for a lock that nobody waits for or shares, outside of sessions. The
//! rest is in `turns.rs`: a request may take a place in the lock's queue (`queue.rs`), a lock may
//! have many holders (`holders.rs`), and grants and places may live in a session (`sessions.rs`).
//! Whoever changes a lock hands it over to the head of its queue, in the same step of the log.
//! What becomes of places of other requests is told by [`State::take_steps`].
//!
//! # Who may ask
//!
//! A command has the principal that makes it. While access control is on, `authority.rs` judges it
//! by the rules as they are at its position, before anything else is looked at.
//!
//! # Repeating
//!
//! A request id names a lane and a number. `lanes.rs` keeps what came of each lane's last request
//! without the time that was left, and [`State::apply`] tells every answer, the first and the
//! repeated, from that and from the locks as they are now.
//!
//! # Cloning
//!
//! The maps share their structure. A clone costs next to nothing, so that a snapshot is a clone that
//! is encoded elsewhere while apply goes on.

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use smol_str::SmolStr;

use crate::access::{Access, Changed as AccessChanged, Judge};
use crate::limits::MAX_WORK;
use crate::lock::changes::{Changed, Changes, Tracker};
use crate::lock::ends::{End, Ends};
use crate::lock::events::{Change, Event, GrantEnd};
use crate::lock::lanes::{Effect, Granted, Lane, Lanes, Recall};
use crate::lock::locks::{Defaults, Deleted, Locks};
use crate::lock::queue::Totals;
use crate::lock::record::{Grant, Key, Moment, Rare, Record};
use crate::lock::rules::{LockVerdict, UnlockVerdict, judge_lock, judge_unlock};
use crate::lock::sessions::Sessions;
use crate::lock::table::Deletion;
use crate::lock::{
    ClusterTime, Command, Decision, Keep, LockCommand, Operation, Outcome, Proposal, Refusal, Step,
    TableCommand, UnlockCommand, validate,
};
use crate::types::{
    self, CloseStatus, DecidedAt, Forbidden, ForbiddenReason, ListRequest, Liveness, LockRecord,
    LockStatus, MAX_SAFE_INTEGER, Mode, Session, SessionId, SessionStatus, TableInfo,
    TablesRequest, Token, UnlockStatus,
};

/// The highest feature level this program knows. The behaviour of apply at a level is frozen once
/// it is released: a change of behaviour gets the next level, and apply checks
/// [`State::feature_level`].
pub const FEATURE_LEVEL: u32 = 3;

/// Every lock, table and lane, and the cluster clock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    pub(super) clock: ClusterTime,
    /// The token of the next grant; beyond the largest token when all are used up.
    pub(super) next_token: u64,
    pub(super) feature_level: u32,
    pub(super) locks: Locks,
    pub(super) lanes: Lanes,
    pub(super) sessions: Sessions,
    pub(super) totals: Totals,
    /// Shared with whoever looks at it between two entries.
    pub(super) access: Arc<Access>,
    pub(super) tracker: Tracker,
}

/// The number of records that a page looks at beyond those it shows: a page is read while no entry
/// can be applied, and records that are due for removal, or not in the requested state, are skipped
/// one by one.
const MAX_PASSED_OVER: usize = 4096;

/// The sizes and counters of a state, for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Records, expired ones included.
    pub records: u64,
    /// Grants that are not expired.
    pub unexpired: u64,
    /// Grants that have expired since the cluster began.
    pub expiries: u64,
    /// Records that were removed because their time_to_live had passed.
    pub removals: u64,
    /// Lanes that are remembered.
    pub lanes: u64,
    /// Lanes that were forgotten less than a minute after their last use, because there were too
    /// many, since the cluster began.
    pub lanes_evicted_young: u64,
    /// Tables that have defaults or records.
    pub tables: u64,
    /// Places in queues.
    pub waiting: u64,
    /// Sessions that are open, and those whose end is not worked off yet.
    pub sessions: u64,
}

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    /// The state before the first entry.
    pub fn new() -> Self {
        Self {
            clock: ClusterTime::default(),
            next_token: 1,
            feature_level: 1,
            locks: Locks::default(),
            lanes: Lanes::default(),
            sessions: Sessions::default(),
            totals: Totals::default(),
            access: Arc::default(),
            tracker: Tracker::default(),
        }
    }

    /// The state before the first entry of a service that begins with this feature level.
    pub fn with_level(feature_level: u32) -> Self {
        Self { feature_level, ..Self::new() }
    }

    /// Applies the proposal of the entry at `index`, whose own term is `entry_term`: one decision
    /// per command, in their order. Total: whatever the commands say, it never panics.
    pub fn apply(&mut self, entry_term: u64, index: u64, proposal: &Proposal) -> Vec<Decision> {
        let mut decisions = Vec::with_capacity(proposal.commands.len());
        self.apply_each(entry_term, index, proposal, |judged| decisions.push(judged.decision()));
        decisions
    }

    /// Like [`State::apply`], when nobody waits for the decisions: they are not built.
    pub fn apply_quietly(&mut self, entry_term: u64, index: u64, proposal: &Proposal) {
        self.apply_each(entry_term, index, proposal, |_| {});
    }

    /// The feature level that the state would have after this proposal in an entry of this term.
    pub fn level_after(&self, entry_term: u64, proposal: &Proposal) -> u32 {
        let raised = proposal.commands.iter().filter_map(|command| {
            if let Operation::RaiseFeatureLevel(level) = command.operation {
                Some(level)
            } else {
                None
            }
        });
        let raised = if is_stale(proposal, entry_term) { None } else { raised.max() };
        self.feature_level.max(raised.unwrap_or(0))
    }

    /// Applies each command and passes its result to `hear` before the next one.
    fn apply_each(
        &mut self,
        entry_term: u64,
        index: u64,
        proposal: &Proposal,
        mut hear: impl FnMut(Judged<'_>),
    ) {
        let is_stale = is_stale(proposal, entry_term);
        self.tracker.work.begin(index, proposal.commands.len(), MAX_WORK);
        if !is_stale {
            self.clock = self.clock.max(proposal.stamp.time);
            while self.work_off_next() {}
            self.lanes.forget_unused(self.clock, MAX_WORK, &mut self.tracker);
        }
        for command in &proposal.commands {
            let at = self.tracker.work.command();
            let (verdict, at) = if is_stale {
                (Verdict::Refused(Refusal::StaleStamp), at)
            } else {
                self.decide(command, at)
            };
            hear(Judged { state: self, operation: &command.operation, verdict, at });
        }
    }

    /// The cluster clock `C`.
    pub fn clock(&self) -> ClusterTime {
        self.clock
    }

    /// The earliest deadline of any kind that is not worked off yet. It may lie in the past, when
    /// more was due than one apply works off, when a hand-over was broken off, or when the deletion of
    /// a table is not worked off: then the leader proposes an advance at once.
    pub fn next_deadline(&self) -> Option<ClusterTime> {
        if self.locks.first_dying().is_some() {
            return Some(ClusterTime(0));
        }
        let session = self.sessions.first_due().map(|(due, _)| due);
        self.locks.next_deadline().into_iter().chain(session).min()
    }

    /// Whether any grant is unexpired, any place waits or any session is open, so that the leader
    /// must keep the clock advancing.
    pub fn has_unexpired(&self) -> bool {
        self.locks.unexpired() > 0 || self.totals.places > 0 || self.sessions.len() > 0
    }

    /// Switches the telling of steps on or off, see [`State::take_steps`]. A clone tells none.
    pub fn tell_steps(&mut self, on: bool) {
        self.tracker.steps = on.then(Vec::new);
    }

    /// What became of places since the last take, in the order of the log: for the callers that
    /// wait for them. Nothing unless it is switched on. Not part of a state's value.
    pub fn take_steps(&mut self) -> Vec<Step> {
        self.tracker.steps.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Switches the telling of events on or off, see [`State::take_events`]. A clone tells none.
    pub fn tell_events(&mut self, on: bool) {
        self.tracker.events = on.then(Vec::new);
    }

    /// The events since the last take, in the order of the log. Nothing unless it is switched on.
    /// Not part of a state's value.
    pub fn take_events(&mut self) -> Vec<Event> {
        self.tracker.events.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The level of commands that may be proposed. A node whose [`FEATURE_LEVEL`] is lower must
    /// stop: it cannot know what such commands mean.
    pub fn feature_level(&self) -> u32 {
        self.feature_level
    }

    /// The rules and tokens. It is another value after each change of them, and the same until then.
    pub fn access(&self) -> &Arc<Access> {
        &self.access
    }

    /// The record of a lock, judged by `C`; `None` if there is none or its time_to_live passed.
    pub fn check(&self, table: &str, signature: &str) -> Option<LockRecord> {
        let record = self.locks.find(table, signature)?;
        record.view(signature, LockRecord::MAX_HOLDERS, self.moment(table))
    }

    /// A page of a table in byte order, and the value of `after` for the next one. A limit out of
    /// its range is clamped. The page may be shorter than its limit, and even empty, although more
    /// follows: the number of records looked at is bounded.
    pub fn list(&self, table: &str, request: &ListRequest) -> (Vec<LockRecord>, Option<String>) {
        self.list_for(None, table, request)
    }

    /// Like [`State::list`], without the locks that somebody may not observe. They are not passed
    /// over one by one: the page goes on where the next names begin that may be observed.
    pub(super) fn list_for(
        &self,
        judge: Option<&Judge<'_>>,
        table: &str,
        request: &ListRequest,
    ) -> (Vec<LockRecord>, Option<String>) {
        match judge.filter(|judge| !judge.observes_all(table)) {
            None => self.list_all(table, request),
            Some(judge) => self.list_observed(judge, table, request),
        }
    }

    fn list_all(&self, table: &str, request: &ListRequest) -> (Vec<LockRecord>, Option<String>) {
        let limit = request.limit.clamp(1, ListRequest::MAX_LIMIT) as usize;
        let moment = self.moment(table);
        let mut range = self.locks.range(table, &request.prefix, request.after.as_deref());
        let mut page: Vec<LockRecord> = Vec::new();
        let mut passed = None;
        for (key, record) in range.by_ref().take(limit + MAX_PASSED_OVER) {
            let most = LockRecord::MAX_LISTED_HOLDERS;
            let view = record.view(key.signature(), most, moment);
            match view.filter(|record| request.shows(record)) {
                Some(_) if page.len() == limit => {
                    let next = page.last().map(|last| last.signature.clone());
                    return (page, next);
                }
                Some(record) => page.push(record),
                None => {}
            }
            passed = Some(key);
        }
        // The next page need not skip the same records again.
        let next = passed.filter(|_| range.next().is_some());
        (page, next.map(|key| key.signature().to_owned()))
    }

    /// A page of the locks that may be observed. No other name is told, not even as `next`.
    fn list_observed(
        &self,
        judge: &Judge<'_>,
        table: &str,
        request: &ListRequest,
    ) -> (Vec<LockRecord>, Option<String>) {
        let limit = request.limit.clamp(1, ListRequest::MAX_LIMIT) as usize;
        let moment = self.moment(table);
        let mut page: Vec<LockRecord> = Vec::new();
        let (mut looked_at, mut passed) = (0, None);
        let mut from = request.after.clone().map_or(Bound::Unbounded, Bound::Excluded);
        loop {
            let start = from.as_ref().map(String::as_str);
            let mut hidden = None;
            for (key, record) in self.locks.range_from(table, &request.prefix, start) {
                let name = key.signature();
                if !judge.observes(table, name) {
                    hidden = Some(name);
                    break;
                }
                if looked_at >= limit + MAX_PASSED_OVER {
                    return (page, passed);
                }
                looked_at += 1;
                let most = LockRecord::MAX_LISTED_HOLDERS;
                let view = record.view(name, most, moment);
                if let Some(record) = view.filter(|record| request.shows(record)) {
                    if page.len() == limit {
                        let next = page.last().map(|last| last.signature.clone());
                        return (page, next);
                    }
                    page.push(record);
                }
                passed = Some(name.to_owned());
            }
            let Some(next) = hidden.and_then(|name| judge.next_observed(table, name)) else {
                return (page, None);
            };
            // A jump is worth as much as a record that is looked at: there may be as many as rules.
            looked_at += 1;
            if looked_at >= limit + MAX_PASSED_OVER {
                if page.len() == limit {
                    let last = page.last().map(|last| last.signature.clone());
                    return (page, last);
                }
                // What follows begins after this name, so the lock with it belongs to this page.
                let record = self.locks.find(table, &next).filter(|_| judge.observes(table, &next));
                let most = LockRecord::MAX_LISTED_HOLDERS;
                let view = record.and_then(|record| record.view(&next, most, moment));
                page.extend(view.filter(|record| request.shows(record)));
                return (page, Some(next));
            }
            from = Bound::Included(next);
        }
    }

    /// A page of the tables that have defaults or records, in byte order, and the value of `after`
    /// for the next one. Records whose removal is due are counted until it is worked off.
    pub fn tables(&self, request: &TablesRequest) -> (Vec<TableInfo>, Option<String>) {
        self.tables_for(None, request)
    }

    /// Like [`State::tables`], with those alone of which somebody may observe every lock.
    pub(super) fn tables_for(
        &self,
        judge: Option<&Judge<'_>>,
        request: &TablesRequest,
    ) -> (Vec<TableInfo>, Option<String>) {
        let limit = request.limit.clamp(1, TablesRequest::MAX_LIMIT) as usize;
        if let Some(names) = judge.and_then(Judge::observed_tables) {
            let after = request.after.as_deref();
            let names = names.into_iter().filter(|name| after.is_none_or(|after| *name > after));
            let mut tables = names.filter_map(|name| self.locks.table(name));
            let page: Vec<TableInfo> = tables.by_ref().take(limit).collect();
            let next = page.last().map(|table| table.table.clone());
            let next = next.filter(|_| tables.next().is_some());
            return (page, next);
        }
        let mut tables = self.locks.tables(request.after.as_deref());
        let page: Vec<TableInfo> = tables.by_ref().take(limit).collect();
        let next = page.last().map(|table| table.table.clone());
        let next = next.filter(|_| tables.next().is_some());
        (page, next)
    }

    /// The ends of grants since the last call; `None` if there are none. Not part of a state's
    /// value: a clone begins with none.
    pub fn take_ends(&mut self) -> Option<Ends> {
        self.tracker.ends.take()
    }

    /// Takes the deleted tables, which are freed by dropping the result.
    pub fn take_deleted(&mut self) -> Deleted {
        std::mem::take(&mut self.locks.deleted)
    }

    /// The sizes and counters. Deadlines that are due but not worked off yet are counted as if they
    /// were not due.
    pub fn counts(&self) -> Counts {
        Counts {
            records: self.locks.len(),
            unexpired: self.locks.unexpired(),
            expiries: self.locks.expiries,
            removals: self.locks.removals,
            lanes: self.lanes.len() as u64,
            lanes_evicted_young: self.lanes.evicted_young,
            tables: self.locks.table_count() as u64,
            waiting: self.totals.places,
            sessions: self.sessions.len(),
        }
    }

    /// Switches the tracking of changed records for [`State::take_changes`] on or off. It begins
    /// with no changes; a clone never tracks.
    pub fn track_changes(&mut self, on: bool) {
        self.tracker.switch(on);
    }

    /// The changes since the last take, with the values of now. Empty but for the meta bytes if
    /// changes are not tracked.
    pub fn take_changes(&mut self) -> Changes {
        self.take_changed().into()
    }

    /// Like [`State::take_changes`], to be encoded elsewhere while apply goes on.
    pub fn take_changed(&mut self) -> Changed {
        let keys = self.tracker.take();
        Changed::new(self.clone(), keys)
    }

    /// Asserts that the indexes agree with the records. It looks at every record.
    ///
    /// # Panics
    /// If they do not.
    pub fn assert_invariants(&self) {
        self.locks.assert_indexes_equal_records();
        self.lanes.assert_index_equals_lanes();
        self.sessions.assert_sound(self.clock);
        let waiting: u64 = self.locks.iter().map(|(_, record)| record.waiting()).sum();
        assert_eq!(waiting, self.totals.places);
        self.access.assert_invariants();
    }

    fn decide(&mut self, command: &Command, at: DecidedAt) -> (Verdict, DecidedAt) {
        if command.level() > self.feature_level {
            return (Verdict::Refused(Refusal::LevelTooLow), at);
        }
        if let Err(refusal) = self.authorize(command) {
            return (Verdict::Refused(refusal), at);
        }
        match &command.operation {
            Operation::Advance => (Verdict::Advanced, at),
            Operation::RaiseFeatureLevel(level) => {
                self.feature_level = self.feature_level.max(*level);
                (Verdict::FeatureLevel, at)
            }
            Operation::Lock(_)
            | Operation::Unlock(_)
            | Operation::ConfigureTable(_)
            | Operation::DeleteTable { .. }
            | Operation::OpenSession(_)
            | Operation::CloseSession(_)
            | Operation::Leave(_)
            | Operation::SetLimit(_) => {
                let judged = self.judge(command, at);
                self.hand_over_changed();
                match judged {
                    Ok(judged) => {
                        let (effect, at) = self.tracker.work.became.take().unwrap_or(judged);
                        (Verdict::Effect(effect), at)
                    }
                    Err(refusal) => (Verdict::Refused(refusal), at),
                }
            }
            Operation::KeepAlive(sessions) => {
                (Verdict::KeptAlive(self.keep_alive(command, sessions)), at)
            }
            Operation::Access(change) => match self.change_access(change) {
                Ok(changed) => (Verdict::Access(changed), at),
                Err(refusal) => (Verdict::Refused(refusal), at),
            },
        }
    }

    /// Judges a request: the result remembered by its lane, or else a new one from the locks.
    fn judge(&mut self, command: &Command, at: DecidedAt) -> Result<(Effect, DecidedAt), Refusal> {
        let operation = &command.operation;
        let Some(id) = command.request_id else { return Ok((self.perform(command)?, at)) };
        let digest = operation.digest();
        match self.lanes.recall(id, (operation, digest), self.clock, &mut self.tracker) {
            Recall::Wrong(reason) => Err(Refusal::BadRequest(reason)),
            Recall::Forgotten => Err(Refusal::LaneForgotten(id)),
            Recall::Repeat(lane) => {
                if let Operation::Lock(lock) = operation {
                    self.ask_again(lock, command, &lane.effect);
                }
                // A request that waits is asked anew: this is the ask that its place now has.
                let waits = matches!(lane.effect, Effect::Waiting(_));
                Ok((lane.effect.clone(), if waits { at } else { lane.decided_at }))
            }
            Recall::New => {
                let effect = self.perform(command)?;
                let last_used = self.clock;
                let lane =
                    Lane { seq: id.seq, digest, effect: effect.clone(), decided_at: at, last_used };
                self.lanes.remember(id.lane, lane, &mut self.tracker);
                Ok((effect, at))
            }
        }
    }

    fn perform(&mut self, request: &Command) -> Result<Effect, Refusal> {
        match &request.operation {
            Operation::Lock(command) => {
                let key = key(&command.table, &command.signature)?;
                let plainly = if command.is_new() { None } else { self.lock(&key, command) };
                Ok(plainly.unwrap_or_else(|| self.lock_in_turn(&key, request, command)))
            }
            Operation::Unlock(command) => {
                let key = key(&command.table, &command.signature)?;
                let plainly = if command.is_new() { None } else { self.unlock(&key, command) };
                Ok(plainly.unwrap_or_else(|| self.unlock_in_turn(&key, command)))
            }
            Operation::OpenSession(command) => self.open_session(request, command),
            Operation::CloseSession(session) => Ok(self.close_session(*session)),
            Operation::Leave(command) => self.leave(command),
            Operation::SetLimit(command) => self.set_limit(command),
            Operation::ConfigureTable(command) => self.configure_table(command),
            Operation::DeleteTable { table } => {
                let existed = self.locks.has_table(table);
                let next_token = Token(self.next_token);
                let deletion = Deletion { at: self.tracker.work.current, next_token };
                self.locks.delete_table(table, deletion, &mut self.tracker);
                if existed {
                    self.tracker.event(|| Change::TableDeleted { table: table.clone() });
                }
                self.work_off_deletion(table);
                Ok(if existed { Effect::Table } else { Effect::NoTable })
            }
            operation @ (Operation::Advance
            | Operation::RaiseFeatureLevel(_)
            | Operation::Access(_)
            | Operation::KeepAlive(_)) => {
                unreachable!("decided without a judgement: {operation:?}")
            }
        }
    }

    /// Whether the first part of the contract decides a request that has nothing of the second.
    fn is_decided_plainly(&self, defaults: Defaults, record: Option<&Record>) -> bool {
        let is_plain = defaults.is_plain() && record.is_none_or(Record::is_plain);
        is_plain || self.feature_level < 2
    }

    /// The effect by the first part of the contract; `None` if the second decides.
    fn lock(&mut self, key: &Key, command: &LockCommand) -> Option<Effect> {
        let (defaults, mut record) = self.locks.look(key);
        if !self.is_decided_plainly(defaults, record) {
            return None;
        }
        if record.is_some_and(|record| record.due().reached(self.clock)) {
            self.locks.settle(key, self.clock, &mut self.tracker);
            (_, record) = self.locks.look(key);
        }
        let (duration_ms, time_to_live) =
            defaults.resolve(command.duration_ms, command.time_to_live);
        if let Keep::Ms(time_to_live_ms) = time_to_live
            && time_to_live_ms < duration_ms
        {
            return Some(Effect::TooShort { time_to_live_ms, duration_ms });
        }
        let holder = record.map(Record::holder);
        let (how, kept) = match (judge_lock(holder, command), holder) {
            (LockVerdict::Refuse(reason), _) => return Some(Effect::LockRefused(reason)),
            (LockVerdict::Renew, Some(holder)) => (Granted::Renewed, Some(holder)),
            (LockVerdict::RenewExpired, _) => (Granted::Renewed, None),
            (LockVerdict::Transfer(reason), Some(holder)) => {
                if let Some(end) = End::of_transfer(reason) {
                    self.tracker.ends.add(end, self.clock.since(holder.since));
                    self.tracker.ended(key, holder, GrantEnd::of_transfer(reason));
                }
                let previous_signee = holder.signee.as_str().into();
                (Granted::Transferred { previous_signee, reason }, None)
            }
            (LockVerdict::Grant, None) => (Granted::Ok, None),
            (verdict, holder) => panic!("{verdict:?} cannot be the verdict about {holder:?}"),
        };
        // Only a renewal by token keeps a level that is left out.
        let level_kept = kept.filter(|_| command.token.is_some()).map(|holder| holder.level);
        let level = command.level.or(level_kept).unwrap_or(0);
        let token = match kept {
            Some(holder) => holder.token,
            None => match new_token(&mut self.next_token) {
                Some(token) => token,
                None => return Some(Effect::TokensExhausted),
            },
        };
        let removal = match time_to_live {
            Keep::Ms(ms) => self.clock.after_ms(ms),
            Keep::ForEver => ClusterTime::NEVER,
        };
        let since = kept.map_or(self.clock, |holder| holder.since);
        let grant = Grant {
            token,
            level,
            since,
            deadline: self.clock.after_ms(duration_ms),
            removal,
            signee: SmolStr::new(&command.signee),
            rare: Rare::of_instance(command.instance.as_deref()),
            expired: false,
        };
        if kept.is_none() {
            self.tracker.granted(key, &grant, Mode::Exclusive);
        }
        self.locks.put(key.clone(), Record::exclusive(grant), &mut self.tracker);
        Some(Effect::Granted { how, token, level })
    }

    /// As [`State::lock`].
    fn unlock(&mut self, key: &Key, command: &UnlockCommand) -> Option<Effect> {
        let (defaults, mut record) = self.locks.look(key);
        if !self.is_decided_plainly(defaults, record) {
            return None;
        }
        if record.is_some_and(|record| record.due().reached(self.clock)) {
            self.locks.settle(key, self.clock, &mut self.tracker);
            (_, record) = self.locks.look(key);
        }
        let holder = record.map(Record::holder);
        Some(match judge_unlock(holder, command) {
            UnlockVerdict::NoLock => Effect::NoLock,
            UnlockVerdict::Refuse(reason) => Effect::UnlockRefused(reason),
            UnlockVerdict::Release => {
                if let Some(holder) = holder.filter(|holder| !holder.expired) {
                    self.tracker.ends.add(End::Released, self.clock.since(holder.since));
                    self.tracker.ended(key, holder, GrantEnd::Released);
                }
                self.locks.remove(key, &mut self.tracker);
                Effect::Released
            }
        })
    }

    fn configure_table(&mut self, command: &TableCommand) -> Result<Effect, Refusal> {
        // A table that no key can have would be listed for ever and never be used.
        key(&command.table, "")?;
        let defaults = Defaults {
            duration_ms: command.duration_ms,
            time_to_live: command.time_to_live,
            lock_delay_ms: command.lock_delay_ms,
            max_hold_ms: command.max_hold_ms,
        };
        self.locks.configure(&command.table, defaults, &mut self.tracker);
        self.tracker.event(|| Change::TableConfigured { table: command.table.clone() });
        Ok(Effect::Table)
    }

    /// Builds the answer from the effect of the request and from the locks as they are now, in the
    /// same way for a first and a repeated request.
    fn tell(&self, operation: &Operation, effect: Effect) -> Outcome {
        let seen = if effect.is_told_of_lock() { self.seen(operation) } else { None };
        self.tell_with(seen, effect, self.clock)
    }

    /// The lock that the operation is about.
    fn seen(&self, operation: &Operation) -> Option<Seen<'_>> {
        let (table, signature) = if let Operation::Lock(command) = operation {
            (&command.table, &command.signature)
        } else if let Operation::Unlock(command) = operation {
            (&command.table, &command.signature)
        } else {
            return None;
        };
        let record = self.locks.find(table, signature)?;
        Some(Seen { record, moment: self.moment(table) })
    }

    /// This moment for the locks of a table.
    pub(super) fn moment(&self, table: &str) -> Moment<'_> {
        let deletion = self.locks.deletion(table);
        Moment { now: self.clock, sessions: &self.sessions, deletion }
    }

    /// Builds the answer to a request that was asked at this time from the record of its lock,
    /// which may be about to be put back.
    pub(super) fn tell_about(
        &self,
        key: &Key,
        record: Option<&Record>,
        effect: Effect,
        asked: ClusterTime,
    ) -> Outcome {
        let record = record.or_else(|| self.locks.get(key));
        let seen = record.map(|record| Seen { record, moment: self.moment(key.table()) });
        self.tell_with(seen, effect, asked)
    }

    fn tell_with(&self, seen: Option<Seen<'_>>, effect: Effect, asked: ClusterTime) -> Outcome {
        match effect {
            Effect::Granted { how, token, level } => {
                let grant = self.tell_grant(seen, token, level, asked);
                Outcome::Lock(match how {
                    Granted::Ok => LockStatus::Ok(grant),
                    Granted::Renewed => LockStatus::Renewed(grant),
                    Granted::Transferred { previous_signee, reason } => LockStatus::Transferred {
                        grant,
                        previous_signee: previous_signee.into(),
                        reason,
                    },
                })
            }
            Effect::LockRefused(reason) => {
                Outcome::Lock(LockStatus::Failed(self.tell_forbidden(seen, reason)))
            }
            Effect::UnlockRefused(reason) => {
                Outcome::Unlock(UnlockStatus::Failed(self.tell_forbidden(seen, reason)))
            }
            Effect::Waiting(place) => {
                let queue = seen.and_then(|seen| seen.record.queue.as_ref());
                let waiting = queue.and_then(|queue| queue.waiting(place, self.clock));
                let gone = || LockStatus::Failed(self.tell_forbidden(seen, ForbiddenReason::Lost));
                Outcome::Lock(waiting.map_or_else(gone, LockStatus::Waiting))
            }
            Effect::Released => Outcome::Unlock(UnlockStatus::Ok),
            Effect::NoLock => Outcome::Unlock(UnlockStatus::NoLock),
            Effect::PlaceLeft => Outcome::Unlock(UnlockStatus::Left),
            Effect::Table => Outcome::Table,
            Effect::NoTable => Outcome::NoTable,
            Effect::TooShort { time_to_live_ms, duration_ms } => Outcome::Refused(
                Refusal::BadRequest(validate::shorter(time_to_live_ms, duration_ms)),
            ),
            Effect::NoLimitNamed => Outcome::Refused(Refusal::BadRequest(
                "the lock has no limit yet, and the request names none".to_owned(),
            )),
            Effect::TokensExhausted => Outcome::Refused(Refusal::TokensExhausted),
            Effect::Opened(id) => Outcome::Session(SessionStatus::Open(self.tell_session(id))),
            Effect::OpenRefused(reason) => {
                Outcome::Session(SessionStatus::Failed(Forbidden::new(reason, Vec::new())))
            }
            Effect::Closed => Outcome::Closed(CloseStatus::Ok),
            Effect::NoSession => Outcome::Closed(CloseStatus::NoSession),
            Effect::Left => Outcome::Left,
            Effect::NotLeft => Outcome::NotLeft,
            Effect::Limit => Outcome::Limit,
            Effect::NoLimit => Outcome::NoLimit,
        }
    }

    /// The present state of a grant. A later renewal may have changed its deadlines; a grant that
    /// has expired, was replaced or is gone is not live.
    fn tell_grant(
        &self,
        seen: Option<Seen<'_>>,
        token: Token,
        level: i64,
        asked: ClusterTime,
    ) -> types::Grant {
        let found = seen.and_then(|Seen { record, moment }| {
            let grant = record.holders.get(token)?;
            (!moment.has_deleted(grant)).then_some((record, grant))
        });
        found.map_or(
            types::Grant {
                token,
                level,
                expires_in: Duration::ZERO,
                removed_in: Some(Duration::ZERO),
                live: false,
                mode: Mode::Exclusive,
                slot: None,
                valid: Duration::ZERO,
            },
            |(record, grant)| {
                let end = grant.end(&self.sessions);
                let view = grant.view(record.mode, self.clock, &self.sessions);
                types::Grant {
                    token,
                    level,
                    expires_in: view.expires_in,
                    removed_in: view.removed_in,
                    live: !end.reached(self.clock),
                    mode: record.mode,
                    slot: view.slot,
                    valid: if end.reached(self.clock) { Duration::ZERO } else { end.left(asked) },
                }
            },
        )
    }

    fn tell_forbidden(&self, seen: Option<Seen<'_>>, reason: ForbiddenReason) -> Forbidden {
        let holders = seen.map(|seen| seen.record.refusers(seen.moment));
        let record = seen.map(|seen| seen.record);
        let mut forbidden = Forbidden::new(reason, holders.unwrap_or_default());
        if reason == ForbiddenReason::LimitDiffers {
            forbidden.limit = record.map(|record| record.limit).filter(|limit| *limit > 0);
        }
        if reason == ForbiddenReason::Delay {
            let grants = record.into_iter().flat_map(|record| record.holders.iter());
            let ends = grants.filter(|grant| grant.is_delaying()).map(Grant::delay_end);
            forbidden.delay = ends.max().map(|end| end.left(self.clock));
        }
        forbidden
    }

    fn tell_session(&self, id: SessionId) -> Session {
        let session = self.sessions.get(id);
        let live = self.sessions.live(id, self.clock);
        Session {
            id,
            ttl: Duration::from_millis(session.map_or(0, |session| session.ttl_ms)),
            valid: live.map_or(Duration::ZERO, |session| session.deadline.left(self.clock)),
        }
    }
}

/// A lock that an answer tells of.
#[derive(Clone, Copy)]
struct Seen<'a> {
    record: &'a Record,
    moment: Moment<'a>,
}

/// The result of a command, before the answer is built.
enum Verdict {
    Advanced,
    FeatureLevel,
    Effect(Effect),
    KeptAlive(Vec<Liveness>),
    Access(AccessChanged),
    Refused(Refusal),
}

/// A judged command with the state right after it: an answer describes the lock as of then.
struct Judged<'a> {
    state: &'a State,
    operation: &'a Operation,
    verdict: Verdict,
    at: DecidedAt,
}

impl Judged<'_> {
    fn decision(self) -> Decision {
        let outcome = match self.verdict {
            Verdict::Advanced => Outcome::Advanced,
            Verdict::FeatureLevel => Outcome::FeatureLevel,
            Verdict::Effect(effect) => self.state.tell(self.operation, effect),
            Verdict::KeptAlive(sessions) => Outcome::KeptAlive(sessions),
            Verdict::Access(changed) => Outcome::Access(changed),
            Verdict::Refused(refusal) => Outcome::Refused(refusal),
        };
        Decision { outcome, decided_at: Some(self.at) }
    }
}

/// Whether the proposal was stamped in another term than that of its entry, and so has no effect.
fn is_stale(proposal: &Proposal, entry_term: u64) -> bool {
    proposal.stamp.term != entry_term
}

/// The edge refuses a NUL long before; apply refuses it again, because no key could hold it.
pub(super) fn key(table: &str, signature: &str) -> Result<Key, Refusal> {
    let refusal = || Refusal::BadRequest("a table or signature contains a NUL byte".to_owned());
    Key::new(table, signature).ok_or_else(refusal)
}

/// The counter stops at the largest token instead of starting over: no new grant is better than one
/// that a resource would take for an old one.
pub(super) fn new_token(next: &mut u64) -> Option<Token> {
    if *next > MAX_SAFE_INTEGER {
        return None;
    }
    let token = Token(*next);
    *next += 1;
    Some(token)
}
