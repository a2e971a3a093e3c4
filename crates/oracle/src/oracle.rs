//! A second lock machine, written from the contract alone: for tests and fuzzing.
//!
//! It shares no code with the machine it judges, only the types. It has no index, no portions of
//! work and no encodings: a record carries its two deadlines, and each read compares them with the
//! time.

use std::collections::BTreeMap;
use std::time::Duration;

use keyward_core::lock::{
    Command, Keep, LockCommand, Operation, Outcome, Proposal, Refusal, UnlockCommand,
};
use keyward_core::types::{
    DecidedAt, Forbidden, ForbiddenReason, Grant, Holder, ListRequest, LockRecord, LockStatus,
    RecordState, TableDefaults, TableInfo, TablesRequest, TimeToLive, Token, TransferReason,
    UnlockStatus,
};

/// The oracle's result of a command, without the reason of a bad request.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Said {
    Outcome(Outcome, DecidedAt),
    BadRequest,
}

#[derive(Default, Debug)]
pub(crate) struct Oracle {
    now: u64,
    tokens_given: u64,
    level: u32,
    locks: BTreeMap<(String, String), Held>,
    tables: BTreeMap<String, (Option<u64>, Option<Keep>)>,
    lanes: BTreeMap<u128, Remembered>,
}

#[derive(Clone, Debug)]
struct Held {
    signee: String,
    instance: Option<String>,
    level: i64,
    token: u64,
    expires_at: u64,
    removed_at: Option<u64>,
}

#[derive(Clone, Debug)]
struct Remembered {
    seq: u64,
    asked: Operation,
    came_of_it: CameOfIt,
    at: DecidedAt,
    used: u64,
}

/// The part of a result that a repeated request gets again, whatever happens in between.
#[derive(Clone, Debug)]
enum CameOfIt {
    Locked {
        how: How,
        token: u64,
        level: i64,
    },
    NotLocked(ForbiddenReason),
    Unlocked,
    NoLock,
    NotUnlocked(ForbiddenReason),
    TableDone,
    NoTable,
    /// A bad request that another state would have granted.
    Wrong,
}

#[derive(Clone, Debug)]
enum How {
    Free,
    Mine,
    From(String, TransferReason),
}

impl Oracle {
    pub(crate) fn apply(&mut self, term: u64, index: u64, proposal: &Proposal) -> Vec<Said> {
        let mut said = Vec::new();
        let stale = proposal.stamp.term != term;
        if !stale && self.now < proposal.stamp.time.0 {
            self.now = proposal.stamp.time.0;
        }
        for (number, command) in proposal.commands.iter().enumerate() {
            let at = DecidedAt { index, position: u32::try_from(number).expect("they are few") };
            said.push(if stale {
                Said::Outcome(Outcome::Refused(Refusal::StaleStamp), at)
            } else {
                self.one(command, at)
            });
        }
        said
    }

    pub(crate) fn feature_level(&self) -> u32 {
        self.level.max(1)
    }

    fn one(&mut self, command: &Command, at: DecidedAt) -> Said {
        match &command.operation {
            Operation::Advance => return Said::Outcome(Outcome::Advanced, at),
            Operation::RaiseFeatureLevel(level) => {
                self.level = self.level.max(*level);
                return Said::Outcome(Outcome::FeatureLevel, at);
            }
            Operation::Lock(_)
            | Operation::Unlock(_)
            | Operation::ConfigureTable(_)
            | Operation::DeleteTable { .. } => {}
        }
        let asked = &command.operation;
        let Some(id) = command.request_id else {
            let came_of_it = self.fresh(asked);
            return self.say(asked, &came_of_it, at);
        };
        let ten_minutes = 600_000_000;
        let known = self.lanes.get(&id.lane).filter(|lane| self.now < lane.used + ten_minutes);
        if let Some(lane) = known.cloned() {
            if id.seq < lane.seq || (id.seq == lane.seq && *asked != lane.asked) {
                return Said::BadRequest;
            }
            if id.seq == lane.seq {
                let used = self.lanes.get_mut(&id.lane).expect("it was found above");
                used.used = self.now;
                return self.say(asked, &lane.came_of_it, lane.at);
            }
        } else if id.seq > 1 {
            return Said::Outcome(Outcome::Refused(Refusal::LaneForgotten(id)), at);
        }
        let came_of_it = self.fresh(asked);
        let said = self.say(asked, &came_of_it, at);
        let lane = Remembered { seq: id.seq, asked: asked.clone(), came_of_it, at, used: self.now };
        self.lanes.insert(id.lane, lane);
        said
    }

    fn say(&self, asked: &Operation, came_of_it: &CameOfIt, at: DecidedAt) -> Said {
        if matches!(came_of_it, CameOfIt::Wrong) {
            return Said::BadRequest;
        }
        Said::Outcome(self.answer(asked, came_of_it), at)
    }

    fn fresh(&mut self, asked: &Operation) -> CameOfIt {
        match asked {
            Operation::Lock(command) => self.lock(command),
            Operation::Unlock(command) => self.unlock(command),
            Operation::ConfigureTable(command) => {
                let given = (command.duration_ms, command.time_to_live);
                self.tables.insert(command.table.to_string(), given);
                CameOfIt::TableDone
            }
            Operation::DeleteTable { table } => {
                let was_there = self.all_tables().iter().any(|info| info.table == **table);
                self.tables.remove(&**table);
                self.locks.retain(|(of, _), _| *of != **table);
                if was_there { CameOfIt::TableDone } else { CameOfIt::NoTable }
            }
            Operation::Advance | Operation::RaiseFeatureLevel(_) => unreachable!(),
        }
    }

    /// The record, unless its time_to_live has passed.
    fn held(&self, table: &str, signature: &str) -> Option<&Held> {
        let held = self.locks.get(&(table.to_owned(), signature.to_owned()))?;
        if held.removed_at.is_some_and(|at| self.now >= at) { None } else { Some(held) }
    }

    fn lock(&mut self, command: &LockCommand) -> CameOfIt {
        let (of_table, least) = self.tables.get(&*command.table).copied().unwrap_or_default();
        let duration = command.duration_ms.or(of_table).unwrap_or(30_000);
        let a_day = 86_400_000;
        let time_to_live = match (command.time_to_live, least) {
            (Some(Keep::Ms(explicit)), _) if explicit < duration => return CameOfIt::Wrong,
            (Some(Keep::Ms(explicit)), _) => Some(explicit),
            (Some(Keep::ForEver), _) | (None, Some(Keep::ForEver)) => None,
            (None, Some(Keep::Ms(least))) => Some(if least > duration { least } else { duration }),
            (None, None) => Some(duration + a_day),
        };
        let held = self.held(&command.table, &command.signature).cloned();
        let mine = held.as_ref().is_some_and(|held| {
            held.signee == *command.signee
                && held.instance.as_deref() == command.instance.as_deref()
        });
        let expired = held.as_ref().is_some_and(|held| self.now >= held.expires_at);
        let mut level = command.level.unwrap_or(0);

        let (how, kept) = if let Some(Token(token)) = command.token {
            match held {
                Some(held) if mine && !expired && held.token == token => {
                    level = command.level.unwrap_or(held.level);
                    (How::Mine, Some(held.token))
                }
                _ => return CameOfIt::NotLocked(ForbiddenReason::Lost),
            }
        } else {
            match held {
                None => (How::Free, None),
                Some(held) if mine && !expired => (How::Mine, Some(held.token)),
                Some(_) if mine => (How::Mine, None),
                Some(held) if expired => (How::From(held.signee, TransferReason::Expired), None),
                Some(held) if command.force => {
                    (How::From(held.signee, TransferReason::Forced), None)
                }
                Some(held) if held.level < level => {
                    (How::From(held.signee, TransferReason::Preempted), None)
                }
                Some(_) => return CameOfIt::NotLocked(ForbiddenReason::Held),
            }
        };
        let token = kept.unwrap_or_else(|| {
            self.tokens_given += 1;
            self.tokens_given
        });
        let held = Held {
            signee: command.signee.to_string(),
            instance: command.instance.as_ref().map(ToString::to_string),
            level,
            token,
            expires_at: self.now + duration * 1000,
            removed_at: time_to_live.map(|ms| self.now + ms * 1000),
        };
        self.locks.insert((command.table.to_string(), command.signature.to_string()), held);
        CameOfIt::Locked { how, token, level }
    }

    fn unlock(&mut self, command: &UnlockCommand) -> CameOfIt {
        let Some(held) = self.held(&command.table, &command.signature) else {
            return CameOfIt::NoLock;
        };
        let mine = held.signee == *command.signee
            && held.instance.as_deref() == command.instance.as_deref();
        match command.token {
            Some(token) if !mine || held.token != token.0 => {
                CameOfIt::NotUnlocked(ForbiddenReason::Lost)
            }
            None if !mine => CameOfIt::NotUnlocked(ForbiddenReason::Held),
            _ => {
                let key = (command.table.to_string(), command.signature.to_string());
                self.locks.remove(&key);
                CameOfIt::Unlocked
            }
        }
    }

    fn answer(&self, asked: &Operation, came_of_it: &CameOfIt) -> Outcome {
        let held = match asked {
            Operation::Lock(command) => self.held(&command.table, &command.signature),
            Operation::Unlock(command) => self.held(&command.table, &command.signature),
            Operation::Advance
            | Operation::ConfigureTable(_)
            | Operation::DeleteTable { .. }
            | Operation::RaiseFeatureLevel(_) => None,
        };
        let refusal = |reason| Forbidden {
            reason,
            holders: held.iter().map(|held| self.seen(held)).collect(),
        };
        match came_of_it {
            CameOfIt::Locked { how, token, level } => {
                let seen = held.filter(|held| held.token == *token).map(|held| self.seen(held));
                let grant = Grant {
                    token: Token(*token),
                    level: *level,
                    expires_in: seen.as_ref().map_or(Duration::ZERO, |seen| seen.expires_in),
                    removed_in: seen.as_ref().map_or(Some(Duration::ZERO), |seen| seen.removed_in),
                    live: seen.is_some_and(|seen| !seen.expired),
                };
                Outcome::Lock(match how.clone() {
                    How::Free => LockStatus::Ok(grant),
                    How::Mine => LockStatus::Renewed(grant),
                    How::From(previous_signee, reason) => {
                        LockStatus::Transferred { grant, previous_signee, reason }
                    }
                })
            }
            CameOfIt::NotLocked(reason) => Outcome::Lock(LockStatus::Failed(refusal(*reason))),
            CameOfIt::Unlocked => Outcome::Unlock(UnlockStatus::Ok),
            CameOfIt::NoLock => Outcome::Unlock(UnlockStatus::NoLock),
            CameOfIt::NotUnlocked(reason) => {
                Outcome::Unlock(UnlockStatus::Failed(refusal(*reason)))
            }
            CameOfIt::TableDone => Outcome::Table,
            CameOfIt::NoTable => Outcome::NoTable,
            CameOfIt::Wrong => unreachable!("a bad request has no outcome"),
        }
    }

    fn seen(&self, held: &Held) -> Holder {
        // Whole milliseconds, rounded down.
        let left = |at: u64| Duration::from_millis(at.saturating_sub(self.now) / 1000);
        Holder {
            signee: held.signee.clone(),
            instance: held.instance.clone(),
            level: held.level,
            token: Token(held.token),
            expires_in: left(held.expires_at),
            expired: self.now >= held.expires_at,
            removed_in: held.removed_at.map(left),
        }
    }

    pub(crate) fn check(&self, table: &str, signature: &str) -> Option<LockRecord> {
        let held = self.held(table, signature)?;
        Some(LockRecord { signature: signature.to_owned(), holders: vec![self.seen(held)] })
    }

    pub(crate) fn list(
        &self,
        table: &str,
        request: &ListRequest,
    ) -> (Vec<LockRecord>, Option<String>) {
        let mut all: Vec<LockRecord> = Vec::new();
        for (of, signature) in self.locks.keys() {
            let after = request.after.as_ref().is_none_or(|after| signature > after);
            if of == table && after && signature.starts_with(&request.prefix) {
                let record = self.check(table, signature);
                all.extend(record.filter(|record| match request.state {
                    None => true,
                    Some(RecordState::Held) => !record.holders[0].expired,
                    Some(RecordState::Expired) => record.holders[0].expired,
                }));
            }
        }
        let limit = request.limit as usize;
        let next = (all.len() > limit).then(|| all[limit - 1].signature.clone());
        all.truncate(limit);
        (all, next)
    }

    pub(crate) fn tables(&self, request: &TablesRequest) -> (Vec<TableInfo>, Option<String>) {
        let mut all = self.all_tables();
        all.retain(|info| request.after.as_ref().is_none_or(|after| info.table > *after));
        let limit = request.limit as usize;
        let next = (all.len() > limit).then(|| all[limit - 1].table.clone());
        all.truncate(limit);
        (all, next)
    }

    fn all_tables(&self) -> Vec<TableInfo> {
        let mut infos: BTreeMap<String, TableInfo> = BTreeMap::new();
        let info = |table: &String| TableInfo {
            table: table.clone(),
            defaults: TableDefaults::default(),
            locks: 0,
        };
        for (table, (duration, time_to_live)) in &self.tables {
            if duration.is_some() || time_to_live.is_some() {
                let defaults =
                    &mut infos.entry(table.clone()).or_insert_with(|| info(table)).defaults;
                defaults.duration = duration.map(Duration::from_millis);
                defaults.time_to_live = time_to_live.map(|keep| match keep {
                    Keep::Ms(ms) => TimeToLive::For(Duration::from_millis(ms)),
                    Keep::ForEver => TimeToLive::Never,
                });
            }
        }
        for (table, signature) in self.locks.keys() {
            if self.held(table, signature).is_some() {
                infos.entry(table.clone()).or_insert_with(|| info(table)).locks += 1;
            }
        }
        infos.into_values().collect()
    }
}
