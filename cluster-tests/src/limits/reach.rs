//! The limits that a run has reached: at which end, and how often.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keyward::limits::{self, Beyond, DURATION, Limit, Proof, TIME_TO_LIVE};
use serde::{Deserialize, Serialize};

use super::End;
use crate::history::{Outcome, Refusal};

/// The number of broken limits that are described.
const SHOWN: usize = 10;

/// Counts the limits that a run has reached. Clones share the counts.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    reached: Reached,
    broken: Vec<String>,
}

/// The limits whose reaching can be observed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    /// Those of clients' requests.
    Asked,
    /// Also those whose work shows in the files on a node's disk.
    FromOutside,
    /// Also all that a simulation observes.
    All,
}

/// The amounts of work that are visible outside of a node.
const FROM_OUTSIDE: [Limit; 5] = [
    limits::BATCH_BYTES,
    limits::SEGMENT,
    limits::SNAPSHOT_CHUNK,
    limits::PLACES,
    limits::TOLD_ITEMS,
];

/// The limits that one run, or many, have reached.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Reached(BTreeMap<String, Tally>);

/// The number of times that a limit was reached, by end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Requests with the smallest value, answered.
    pub smallest: u64,
    /// Requests with the largest value, answered; or the number of times that this much work was
    /// done.
    pub largest: u64,
    /// Requests with a value beyond, refused.
    pub beyond: u64,
    /// The most work that was seen.
    pub most: u64,
}

impl Reach {
    /// Counts a request with these values and its outcome. A request beyond a limit must be refused
    /// as such, and no other one may be.
    pub fn note(&self, values: &[(Limit, i128)], outcome: &Outcome) {
        let is_beyond = |(limit, value): &(Limit, i128)| {
            limit.beyond == Beyond::Refused && !limit.allows(*value)
        };
        let beyond: Vec<_> = values.iter().filter(|value| is_beyond(value)).collect();
        let refused = *outcome == Outcome::Refused(Refusal::BadRequest);
        let answered = matches!(outcome, Outcome::Ok(_) | Outcome::Refused(_)) && !refused;
        let mut shared = self.shared();
        if answered && let Some((limit, value)) = beyond.first() {
            shared.breaks(format!("a {} of {value} is beyond its limit and was taken", limit.name));
        }
        if refused && beyond.is_empty() && !is_short_lived(values) {
            let values: Vec<_> = values.iter().map(|(limit, value)| (limit.name, value)).collect();
            shared.breaks(format!("refused although it is within all limits: {values:?}"));
        }
        for (limit, value) in values {
            let tally = shared.reached.0.entry(limit.name.to_owned()).or_default();
            tally.smallest += u64::from(answered && *value == limit.smallest);
            tally.largest += u64::from(answered && *value == limit.largest);
        }
        for (limit, _) in beyond {
            let tally = shared.reached.0.entry(limit.name.to_owned()).or_default();
            tally.beyond += u64::from(refused);
        }
    }

    /// Notes that access control refused a client that has every right.
    pub fn note_refusal(&self, client: &str, error: &keyward::Error) {
        self.shared().breaks(format!("{client} has every right, and was refused: {error}"));
    }

    /// Counts an amount of a limit's work, where `enough` of it reaches the limit: in a simulation
    /// that is less than in production.
    pub fn worked(&self, limit: Limit, amount: u64, enough: u64) {
        let mut shared = self.shared();
        let tally = shared.reached.0.entry(limit.name.to_owned()).or_default();
        tally.largest += u64::from(amount >= enough);
        tally.most = tally.most.max(amount);
    }

    /// The limits that the run has reached so far.
    pub fn reached(&self) -> Reached {
        self.shared().reached.clone()
    }

    /// Limits that did not hold.
    pub fn broken(&self) -> Vec<String> {
        self.shared().broken.clone()
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn breaks(&mut self, what: String) {
        if self.broken.len() < SHOWN {
            self.broken.push(what);
        }
    }
}

/// Whether the record would be removed before its grant ends, which is refused, too.
fn is_short_lived(values: &[(Limit, i128)]) -> bool {
    let of = |wanted: Limit| values.iter().find(|(limit, _)| *limit == wanted).map(|(_, v)| *v);
    of(TIME_TO_LIVE).is_some_and(|time| of(DURATION).is_none_or(|duration| time < duration))
}

impl Reached {
    /// Adds the limits that another run has reached.
    pub fn add(&mut self, other: &Self) {
        for (name, tally) in &other.0 {
            let sum = self.0.entry(name.clone()).or_default();
            sum.smallest += tally.smallest;
            sum.largest += tally.largest;
            sum.beyond += tally.beyond;
            sum.most = sum.most.max(tally.most);
        }
    }

    /// The counts of a limit.
    pub fn of(&self, limit: Limit) -> Tally {
        self.0.get(limit.name).copied().unwrap_or_default()
    }

    /// Whether this end of a limit has been reached.
    pub fn has(&self, limit: Limit, end: End) -> bool {
        self.of(limit).at(end) > 0
    }

    /// The ends of limits that were not reached and have to be, each in words.
    pub fn missing(&self, seen: Seen) -> Vec<String> {
        let mut missing = Vec::new();
        for &limit in limits::ALL {
            for end in required(limit, seen) {
                if !self.has(limit, end) {
                    missing.push(format!("the {end} {} was not reached", limit.name));
                }
            }
        }
        missing
    }
}

/// The ends of a limit that a run has to reach.
fn required(limit: Limit, seen: Seen) -> Vec<End> {
    match limit.proof {
        Proof::Asked if limit.beyond == Beyond::Refused => {
            vec![End::Smallest, End::Largest, End::Beyond]
        }
        Proof::Asked => vec![End::Smallest, End::Largest],
        Proof::Worked if seen == Seen::All => vec![End::Largest],
        Proof::Worked if seen == Seen::FromOutside && FROM_OUTSIDE.contains(&limit) => {
            vec![End::Largest]
        }
        Proof::Worked | Proof::Tested(_) => Vec::new(),
    }
}

impl Tally {
    fn at(self, end: End) -> u64 {
        match end {
            End::Smallest => self.smallest,
            End::Largest => self.largest,
            End::Beyond => self.beyond,
            End::Odd => u64::MAX,
        }
    }
}

/// Writes a table in Markdown.
impl fmt::Display for Reached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| limit | smallest | largest | beyond, refused | most seen |\n|---|---|---|---|---|"
        )?;
        for limit in limits::ALL.iter().filter(|limit| !matches!(limit.proof, Proof::Tested(_))) {
            let Tally { smallest, largest, beyond, most } = self.of(*limit);
            if limit.proof == Proof::Worked {
                writeln!(f, "| {} | | {largest} | | {most} |", limit.name)?;
            } else if limit.beyond == Beyond::Refused {
                writeln!(f, "| {} | {smallest} | {largest} | {beyond} | |", limit.name)?;
            } else {
                writeln!(f, "| {} | {smallest} | {largest} | | |", limit.name)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use keyward::limits::{BATCH, ENTRY_COMMANDS, SIGNATURE};

    use super::*;
    use crate::history::Answer;

    const DONE: Outcome = Outcome::Ok(Answer::Released);
    const BAD: Outcome = Outcome::Refused(Refusal::BadRequest);

    #[test]
    fn only_answers_reach_a_limit_and_only_refusals_reach_beyond() {
        let reach = Reach::default();
        reach.note(&[(SIGNATURE, 1024)], &Outcome::Unknown);
        reach.note(&[(SIGNATURE, 1024)], &Outcome::Unavailable);
        reach.note(&[(SIGNATURE, 1025)], &Outcome::Unavailable);
        assert_eq!(reach.reached().of(SIGNATURE), Tally::default());
        reach.note(&[(SIGNATURE, 1)], &DONE);
        reach.note(&[(SIGNATURE, 1024)], &DONE);
        reach.note(&[(SIGNATURE, 1025)], &BAD);
        reach.note(&[(SIGNATURE, 0)], &BAD);
        let tally = Tally { smallest: 1, largest: 1, beyond: 2, most: 0 };
        assert_eq!(reach.reached().of(SIGNATURE), tally);
        assert!(reach.broken().is_empty(), "{:?}", reach.broken());
    }

    #[test]
    fn a_limit_that_does_not_hold_is_said() {
        let reach = Reach::default();
        reach.note(&[(SIGNATURE, 1025)], &DONE);
        reach.note(&[(SIGNATURE, 5)], &BAD);
        assert_eq!(reach.broken().len(), 2, "{:?}", reach.broken());
        // A record that is removed before its grant ends is rightly refused.
        reach.note(&[(TIME_TO_LIVE, 5), (DURATION, 6)], &BAD);
        assert_eq!(reach.broken().len(), 2, "{:?}", reach.broken());
    }

    #[test]
    fn what_was_not_reached_is_missing() {
        let nowhere = Reached::default();
        let asked = nowhere.missing(Seen::Asked);
        assert!(asked.contains(&"the largest signature was not reached".to_owned()));
        assert!(asked.contains(&"the beyond signature was not reached".to_owned()));
        assert!(asked.contains(&"the largest batch was not reached".to_owned()));
        assert!(!asked.iter().any(|what| what.contains("beyond batch")), "the client splits it");
        assert!(!asked.iter().any(|what| what.contains(ENTRY_COMMANDS.name)));
        assert!(nowhere.missing(Seen::All).iter().any(|what| what.contains(ENTRY_COMMANDS.name)));
        let reach = Reach::default();
        reach.note(&[(BATCH, 1000)], &DONE);
        reach.worked(ENTRY_COMMANDS, 256, 256);
        let mut sum = nowhere;
        sum.add(&reach.reached());
        assert_eq!(sum.missing(Seen::All).len(), Reached::default().missing(Seen::All).len() - 2);
    }
}
