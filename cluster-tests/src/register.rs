//! The resource that a lock guards in the workloads: a register of the harness's own, one for each
//! lock.
//!
//! A register that is *guarded* remembers the largest token that it was shown, by reads and by
//! writes, and refuses smaller ones. Without tokens it accepts every write, as a file or a bucket
//! does. It never fails, is never slow and knows nothing of the service: an error in it is caused
//! by the holders, or by the lock.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keyward::types::DEFAULT_TABLE;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use crate::history::{
    Action, Answer, LockName, Outcome, Recorder, Refusal, RegisterRead, RegisterWrite,
};

/// All registers of a run. Clones are the same registers.
#[derive(Clone, Debug, Default)]
pub struct Registers {
    all: Arc<Mutex<HashMap<String, Register>>>,
}

/// A client that acts as the holder of a register's lock, by its number among all who ever did.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Holder(u64);

/// A smaller token than one that was shown before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stale;

/// The counts of the registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Writes that were accepted.
    pub written: u64,
    /// Reads and writes that were refused for their token.
    pub refused: u64,
    /// Writes that were accepted although the version they were computed from was no longer the
    /// newest: each lost another's update.
    pub lost: u64,
    /// Writes of a holder while a later one, who had read already, had not released the lock: two
    /// acted as holders at once.
    #[serde(default)]
    pub two_at_once: u64,
    /// Those among them that were accepted.
    #[serde(default)]
    pub two_wrote: u64,
}

#[derive(Debug, Default)]
struct Register {
    version: u64,
    largest: u64,
    /// The clients that have begun to act as its holder and not ceased to.
    acting: BTreeSet<Holder>,
    begun: u64,
    tally: Tally,
}

impl Register {
    fn admit(&mut self, token: Option<u64>) -> Result<(), Stale> {
        let Some(token) = token else { return Ok(()) };
        if token < self.largest {
            self.tally.refused += 1;
            return Err(Stale);
        }
        self.largest = token;
        Ok(())
    }
}

impl Registers {
    /// The version of a register; 0 if it is new.
    ///
    /// # Errors
    /// If the token is smaller than one that was shown before.
    pub fn read(&self, name: &str, token: Option<u64>) -> Result<u64, Stale> {
        let mut all = self.lock();
        let register = entry(&mut all, name);
        register.admit(token)?;
        Ok(register.version)
    }

    /// Replaces the value that was computed from the version `based_on`; returns the new version,
    /// which is one more than the newest before.
    ///
    /// # Errors
    /// If the token is smaller than one that was shown before.
    pub fn write(&self, name: &str, token: Option<u64>, based_on: u64) -> Result<u64, Stale> {
        let mut all = self.lock();
        let register = entry(&mut all, name);
        register.admit(token)?;
        register.tally.written += 1;
        register.tally.lost += u64::from(register.version != based_on);
        register.version += 1;
        Ok(register.version)
    }

    /// As [`Registers::read`], recorded.
    ///
    /// # Errors
    /// As there.
    pub fn read_recorded(
        &self,
        recorder: &Recorder,
        client: impl Into<SmolStr>,
        signature: &str,
        token: Option<u64>,
    ) -> Result<u64, Stale> {
        let lock = LockName::new(DEFAULT_TABLE, signature);
        let call = recorder.begin(client, Action::Read(RegisterRead { lock, token }));
        let answer = self.read(signature, token);
        call.finish(outcome(answer.map(Answer::Value)), None);
        answer
    }

    /// As [`Registers::write`], recorded.
    ///
    /// # Errors
    /// As there.
    pub fn write_recorded(
        &self,
        recorder: &Recorder,
        client: impl Into<SmolStr>,
        signature: &str,
        token: Option<u64>,
        based_on: u64,
    ) -> Result<u64, Stale> {
        let lock = LockName::new(DEFAULT_TABLE, signature);
        let call = recorder.begin(client, Action::Write(RegisterWrite { lock, token, based_on }));
        let answer = self.write(signature, token, based_on);
        call.finish(outcome(answer.map(Answer::Written)), None);
        answer
    }

    /// Notes that a client has the lock and has read: from now on it acts as the holder.
    pub fn begins(&self, name: &str) -> Holder {
        let mut all = self.lock();
        let register = entry(&mut all, name);
        register.begun += 1;
        let holder = Holder(register.begun);
        register.acting.insert(holder);
        holder
    }

    /// Notes that this holder has just tried to write. `true`: a client that began to act after it
    /// still acts.
    pub fn acts(&self, name: &str, holder: Holder, written: bool) -> bool {
        let mut all = self.lock();
        let register = entry(&mut all, name);
        let two = register.acting.last().is_some_and(|last| *last > holder);
        register.tally.two_at_once += u64::from(two);
        register.tally.two_wrote += u64::from(two && written);
        two
    }

    /// Notes that it is about to release the lock, or has forgotten it.
    pub fn ends(&self, name: &str, holder: Holder) {
        let mut all = self.lock();
        entry(&mut all, name).acting.remove(&holder);
    }

    /// The counts of all registers together.
    pub fn tally(&self) -> Tally {
        self.lock().values().fold(Tally::default(), |sum, register| Tally {
            written: sum.written + register.tally.written,
            refused: sum.refused + register.tally.refused,
            lost: sum.lost + register.tally.lost,
            two_at_once: sum.two_at_once + register.tally.two_at_once,
            two_wrote: sum.two_wrote + register.tally.two_wrote,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Register>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn entry<'a>(all: &'a mut HashMap<String, Register>, name: &str) -> &'a mut Register {
    if !all.contains_key(name) {
        all.insert(name.to_owned(), Register::default());
    }
    all.get_mut(name).expect("it was just put there")
}

fn outcome(answer: Result<Answer, Stale>) -> Outcome {
    match answer {
        Ok(answer) => Outcome::Ok(answer),
        Err(Stale) => Outcome::Refused(Refusal::Stale),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guarded_register_refuses_whoever_comes_after_a_later_holder() {
        let registers = Registers::default();
        let old = registers.read("a", Some(1)).expect("the first holder");
        let new = registers.read("a", Some(2)).expect("a later holder");
        assert_eq!(registers.write("a", Some(1), old), Err(Stale));
        assert_eq!(registers.read("a", Some(1)), Err(Stale));
        assert_eq!(registers.write("a", Some(2), new), Ok(1));
        assert_eq!(registers.read("b", Some(1)), Ok(0), "another register knows nothing of it");
        let tally = Tally { written: 1, refused: 2, ..Tally::default() };
        assert_eq!(registers.tally(), tally);
    }

    #[test]
    fn without_tokens_the_second_of_two_writers_loses_the_first_ones_update() {
        let registers = Registers::default();
        let one = registers.read("a", None).expect("nothing is refused");
        let other = registers.read("a", None).expect("nothing is refused");
        assert_eq!(registers.write("a", None, one), Ok(1));
        assert_eq!(registers.write("a", None, other), Ok(2));
        let tally = Tally { written: 2, lost: 1, ..Tally::default() };
        assert_eq!(registers.tally(), tally);
    }

    #[test]
    fn two_act_as_holders_at_once_only_while_the_later_one_has_not_given_up() {
        let registers = Registers::default();
        let one = registers.begins("a");
        assert!(!registers.acts("a", one, true), "nobody else");
        let other = registers.begins("a");
        assert!(!registers.acts("a", other, true), "the earlier one does nothing now");
        assert!(registers.acts("a", one, false), "now it does");
        assert!(registers.acts("a", one, true));
        registers.ends("a", other);
        assert!(!registers.acts("a", one, true), "the later one has given up");
        let tally = registers.tally();
        assert_eq!((tally.two_at_once, tally.two_wrote), (2, 1));
    }
}
