//! Linearizability of one lock without any witness: is there *some* order, within real time, in which
//! the model gives every answer?
//!
//! The search of Wing and Gong with the memory of Lowe: an operation may come next if no other
//! remaining one had returned before it was invoked; a set of operations with a state of the lock
//! that was tried is not tried again. Operations of unknown outcome stay open for ever and need not
//! be done at all. A grant may end only when [`super::time`] allows it, so an early expiry has no
//! explanation. An answer that changes nothing is accepted at once where it fits: that never rules
//! out another order.
//!
//! A search that exceeds its budget shows nothing, in either direction.

use std::collections::HashSet;
use std::sync::Arc;

use keyward::types::RequestId;

use super::model::Lock;
use super::step::{Rules, effects, rules_beside, step};
use super::violation::{Broken, Violation};
use super::words::Words;
use crate::history::{Operation, Outcome};

/// The result of a search.
#[derive(Debug)]
pub(super) enum Searched {
    /// Some order explains every answer.
    Linearizable,
    /// None does.
    Violated(Box<Violation>),
    /// The budget was used up.
    OutOfBudget,
}

/// The operations of one lock.
#[derive(Debug, Default)]
pub(super) struct Search {
    answered: Vec<Arc<Operation>>,
    unknown: Vec<Arc<Operation>>,
    repeated: HashSet<Option<RequestId>>,
}

/// The operations that have been done.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
struct Done {
    /// All answered ones before this one are,
    base: u32,
    /// and these after it, in their order,
    ahead: Vec<u32>,
    /// and these of the unknown ones, in their order.
    unknown: Vec<u32>,
}

struct Frame {
    done: Done,
    lock: Lock,
    /// The choices that may come next and have not been tried.
    next: Vec<(Choice, Lock)>,
}

#[derive(Clone, Copy, Debug)]
enum Choice {
    Answered(u32),
    Unknown(u32),
}

impl Search {
    /// Adds an operation of the lock that was answered, or may have been done.
    pub(super) fn add(&mut self, operation: Arc<Operation>) {
        if operation.outcome == Outcome::Unknown {
            self.unknown.push(operation);
        } else {
            self.answered.push(operation);
        }
    }

    /// Adds one of several answers to one request: it was decided at one moment, so one of them is
    /// enough. Other checks compare them.
    pub(super) fn add_repeated(&mut self, operation: &Arc<Operation>, invoked: u64) {
        if !self.repeated.insert(operation.request_id) {
            return;
        }
        let mut operation = Arc::clone(operation);
        Arc::make_mut(&mut operation).invoked = invoked;
        self.add(operation);
    }

    /// Searches, for at most `budget` steps, which are subtracted from it.
    pub(super) fn run(mut self, rules: Rules, budget: &mut u64) -> Searched {
        self.answered.sort_by_key(|operation| (operation.invoked, operation.id));
        self.unknown.sort_by_key(|operation| (operation.invoked, operation.id));
        let rules = Rules { along_the_log: false, ..rules };
        let mut tried = HashSet::new();
        let mut furthest = (Done::default(), Lock::default());
        let mut frames = vec![self.frame(Done::default(), Lock::default(), rules)];
        while let Some(frame) = frames.last_mut() {
            if frame.done.base as usize == self.answered.len() {
                return Searched::Linearizable;
            }
            let Some((choice, lock)) = frame.next.pop() else {
                frames.pop();
                continue;
            };
            if *budget == 0 {
                return Searched::OutOfBudget;
            }
            *budget -= 1;
            let mut done = frame.done.clone();
            done.add(choice);
            let next = self.frame(done, lock, rules);
            if next.done.count() > furthest.0.count() {
                furthest = (next.done.clone(), next.lock.clone());
            }
            if tried.insert((next.done.clone(), next.lock.clone())) {
                frames.push(next);
            }
        }
        Searched::Violated(Box::new(self.violation(&furthest.0, &furthest.1)))
    }

    /// Accepts every answer that changes nothing, and lists the choices after that.
    fn frame(&self, mut done: Done, lock: Lock, rules: Rules) -> Frame {
        loop {
            let (candidates, now) = self.candidates(&done);
            let mut next = Vec::new();
            let mut free = None;
            for place in candidates {
                let operation = &self.answered[place as usize];
                let mut after = step(&lock, operation, now, rules);
                if after.is_empty()
                    && let Some(rules) = rules_beside(&self.unknown, operation, rules)
                {
                    after = step(&lock, operation, now, rules);
                }
                if after.contains(&lock) {
                    free = Some(place);
                    break;
                }
                next.extend(after.into_iter().map(|lock| (Choice::Answered(place), lock)));
            }
            if let Some(place) = free {
                done.add(Choice::Answered(place));
                continue;
            }
            // Tried from the end: the answer that returned first comes first, unknown operations
            // come last.
            next.sort_by_key(|(choice, _)| std::cmp::Reverse(self.returned(*choice)));
            let mut all = self.may_have_been(&done, &lock, now, rules);
            all.append(&mut next);
            return Frame { done, lock, next: all };
        }
    }

    /// The answered operations that may come next, and the time by which one of them must have been
    /// done.
    fn candidates(&self, done: &Done) -> (Vec<u32>, u64) {
        let mut now = u64::MAX;
        let mut candidates = Vec::new();
        let mut ahead = done.ahead.iter().peekable();
        for place in done.base..u32::try_from(self.answered.len()).unwrap_or(u32::MAX) {
            let operation = &self.answered[place as usize];
            if operation.invoked > now {
                break;
            }
            if ahead.next_if_eq(&&place).is_some() {
                continue;
            }
            now = now.min(operation.returned.unwrap_or(u64::MAX));
            candidates.push(place);
        }
        candidates.retain(|place| self.answered[*place as usize].invoked <= now);
        (candidates, now)
    }

    fn may_have_been(
        &self,
        done: &Done,
        lock: &Lock,
        now: u64,
        rules: Rules,
    ) -> Vec<(Choice, Lock)> {
        let mut next = Vec::new();
        for (place, operation) in (0_u32..).zip(&self.unknown) {
            if operation.invoked > now {
                break;
            }
            if done.unknown.binary_search(&place).is_err() {
                let after = effects(lock, operation, now, rules);
                next.extend(after.into_iter().map(|lock| (Choice::Unknown(place), lock)));
            }
        }
        next
    }

    fn returned(&self, choice: Choice) -> u64 {
        match choice {
            Choice::Answered(place) => self.answered[place as usize].returned.unwrap_or(u64::MAX),
            Choice::Unknown(_) => u64::MAX,
        }
    }

    /// The violation at the furthest point of any order: the operations that had to come next
    /// there, and the last change of the lock before.
    fn violation(&self, done: &Done, lock: &Lock) -> Violation {
        let (candidates, now) = self.candidates(done);
        let mut shown: Vec<Operation> = Vec::new();
        if let Some(grant) = &lock.grant {
            let all = self.answered.iter().chain(&self.unknown);
            let by = all.filter(|operation| operation.invoked == grant.terms.invoked);
            shown.extend(by.take(1).map(|operation| (**operation).clone()));
        } else {
            // The lock was free: shows the last release or, if there was none, nothing.
            let done_before = self.answered[..done.base as usize].iter().rev();
            let release = done_before.clone().find(|operation| operation.may_have_changed());
            shown.extend(release.map(|operation| (**operation).clone()));
        }
        let mut stuck: Vec<_> =
            candidates.iter().map(|place| &self.answered[*place as usize]).collect();
        stuck.sort_by_key(|operation| operation.returned);
        let found = match stuck.first() {
            Some(first) => format!(
                "whatever order is tried, at the latest this answer is wrong: {} (it is one of {} \
                 that may come next, by {})",
                Words(first),
                stuck.len(),
                super::violation::seconds(now),
            ),
            None => String::from("no order explains the answers"),
        };
        stuck.reverse();
        shown.extend(stuck.into_iter().map(|operation| (**operation).clone()));
        Violation::new(Broken::NotLinearizable, found, shown)
    }
}

impl Done {
    fn count(&self) -> usize {
        self.base as usize + self.ahead.len()
    }

    fn add(&mut self, choice: Choice) {
        match choice {
            Choice::Unknown(place) => insert(&mut self.unknown, place),
            Choice::Answered(place) if place == self.base => {
                self.base += 1;
                let reached = self.ahead.iter().zip(self.base..).take_while(|(a, b)| **a == *b);
                let reached = reached.count();
                self.ahead.drain(..reached);
                self.base += u32::try_from(reached).expect("fewer than all operations");
            }
            Choice::Answered(place) => insert(&mut self.ahead, place),
        }
    }
}

fn insert(sorted: &mut Vec<u32>, value: u32) {
    let place = sorted.partition_point(|other| *other < value);
    sorted.insert(place, value);
}
