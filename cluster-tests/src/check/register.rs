//! The check of the guarded register. Locks exist to guard such a resource.
//!
//! A register counts its versions. Clients acquire its lock, read it, and write a value that they
//! computed from the version they read. If two hold the lock at once, one overwrites a version it
//! has not seen: a lost update. A register that refuses tokens smaller than one it has seen
//! prevents that, whatever happens to clocks, and the run must have seen it refuse.

use std::collections::{BTreeMap, HashMap};

use super::holders::Found;
use super::latest::{Latest, Seen};
use super::violation::Broken;
use crate::history::{Action, Answer, LockName, Operation, Outcome, RegisterWrite};

/// The most violations kept for each register.
const MAX_FOUND: usize = 4;

/// The check, fed with operations in the order in which they ended.
#[derive(Debug, Default)]
pub(super) struct Registers {
    registers: HashMap<LockName, Register>,
}

#[derive(Debug, Default)]
struct Register {
    writes: BTreeMap<u64, Write>,
    /// Versions that had certainly been written.
    made: Latest,
    reads: Vec<(u64, u64)>,
    unknown: bool,
    found: Vec<Found>,
}

#[derive(Clone, Copy, Debug)]
struct Write {
    id: u64,
    based_on: u64,
    token: Option<u64>,
}

impl Registers {
    pub(super) fn feed(&mut self, operation: &Operation, latency: u64) {
        match &operation.action {
            Action::Read(read) => {
                let register = self.registers.entry(read.lock.clone()).or_default();
                if let Outcome::Ok(Answer::Value(version)) = operation.outcome {
                    register.read(operation, version, latency);
                }
            }
            Action::Write(write) => {
                let register = self.registers.entry(write.lock.clone()).or_default();
                match operation.outcome {
                    Outcome::Ok(Answer::Written(version)) => {
                        register.written(operation, write, version, latency);
                    }
                    Outcome::Unknown => register.unknown = true,
                    Outcome::Ok(_) | Outcome::Refused(_) | Outcome::Unavailable => {}
                }
            }
            Action::Lock(_) | Action::Unlock(_) | Action::Check(_) | Action::StaleCheck(_) => {}
        }
    }

    pub(super) fn finish(self) -> Vec<Found> {
        let mut registers: Vec<_> = self.registers.into_iter().collect();
        registers.sort_by(|a, b| a.0.cmp(&b.0));
        registers.into_iter().flat_map(|(_, register)| register.finish()).collect()
    }
}

impl Register {
    fn read(&mut self, operation: &Operation, version: u64, latency: u64) {
        let returned = operation.returned.unwrap_or(u64::MAX);
        if let Some(made) = self.made.before(operation.invoked)
            && version < made.value
        {
            let what = format!("version {version} was read, and {} had been made", made.value);
            self.report(Broken::RegisterRead, what, vec![made.id, operation.id]);
        }
        self.made.note(Seen { returned, value: version, id: operation.id }, latency);
        // Reads of versions that nobody wrote are found at the end; one for each version is enough.
        if version > 0 && self.reads.last().is_none_or(|(last, _)| *last != version) {
            self.reads.push((version, operation.id));
        }
    }

    fn written(&mut self, operation: &Operation, write: &RegisterWrite, version: u64, late: u64) {
        let RegisterWrite { token, based_on, .. } = *write;
        let (id, invoked) = (operation.id, operation.invoked);
        let returned = operation.returned.unwrap_or(u64::MAX);
        if let Some(other) = self.writes.insert(version, Write { id, based_on, token }) {
            let what = format!("version {version} was made twice: one of them is lost");
            self.report(Broken::LostUpdate, what, vec![other.id, id]);
        }
        if let Some(made) = self.made.before(invoked)
            && version <= made.value
        {
            let what = format!("version {version} was made after version {}", made.value);
            self.report(Broken::LostUpdate, what, vec![made.id, id]);
        }
        self.made.note(Seen { returned, value: version, id }, late);
    }

    fn finish(mut self) -> Vec<Found> {
        let writes = std::mem::take(&mut self.writes);
        let mut largest: Option<(u64, u64)> = None;
        for (version, write) in &writes {
            if write.based_on + 1 != *version {
                let lost = writes.range(write.based_on + 1..*version).next();
                let what = format!(
                    "version {version} is based on version {}: what was made between is lost",
                    write.based_on,
                );
                let ids = lost.map(|(_, lost)| lost.id).into_iter().chain([write.id]).collect();
                self.report(Broken::LostUpdate, what, ids);
            }
            if let (Some(token), Some((larger, id))) = (write.token, largest)
                && token < larger
            {
                let what = format!(
                    "version {version} was written with token {token}, after one with {larger}",
                );
                self.report(Broken::StaleWriteAccepted, what, vec![id, write.id]);
            }
            if let Some(token) = write.token
                && largest.is_none_or(|(larger, _)| larger < token)
            {
                largest = Some((token, write.id));
            }
        }
        for (version, id) in std::mem::take(&mut self.reads) {
            if !self.unknown && !writes.contains_key(&version) {
                let what = format!("version {version} was read, and nobody made it");
                self.report(Broken::RegisterRead, what, vec![id]);
            }
        }
        self.found
    }

    fn report(&mut self, broken: Broken, what: String, ids: Vec<u64>) {
        if self.found.len() < MAX_FOUND {
            self.found.push(Found { broken, what, ids });
        }
    }
}
