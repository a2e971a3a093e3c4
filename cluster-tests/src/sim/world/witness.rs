//! Observes what every node applies, and checks that it is the same everywhere.
//!
//! It knows more than any node does: each entry that was ever applied anywhere, whatever happened
//! to the log since. So it can tell whether an acknowledged write is there long after its entry was
//! purged, and detects at once when two nodes disagree. When an entry is applied for the first time,
//! it looks whether a majority of disks has it; see [`super::durable`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keyward::limits::REAPPLIED_ENTRIES;
use keyward::lock::{Decision, Outcome, Proposal, State as Locks};
use keyward::raft::{AppliedEntry, Observer};
use keyward::storage::LogId;
use keyward::types::{DecidedAt, RequestId};

use super::clock::TrueTime;
use super::durable::Disks;

/// One in so many entries is looked for on the disks, besides the first of each term: a look opens
/// the files of every node.
const LOOKED_FOR: u64 = 16;

/// The entries that all nodes of a world have applied.
pub(crate) struct Witness {
    time: TrueTime,
    disks: Disks,
    state: Mutex<State>,
}

/// The largest amounts that occurred in nodes, of what has limits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Amounts {
    /// Commands of an entry.
    pub entry_commands: u64,
    /// Bytes of an entry.
    pub entry_bytes: u64,
    /// Entries that were read at once, where all of them were wanted.
    pub whole_entries: u64,
    /// Bytes of such entries.
    pub whole_bytes: u64,
    /// Segments that a log had when a node started.
    pub segments: u64,
    /// Bytes of a snapshot.
    pub snapshot_bytes: u64,
}

#[derive(Default)]
struct State {
    amounts: Amounts,
    entries: BTreeMap<u64, Seen>,
    /// A digest of the state at an index, and the node that had it.
    states: BTreeMap<u64, (u32, String)>,
    disagreements: Vec<String>,
}

struct Seen {
    term: u64,
    payload: u32,
    decisions: u32,
    by: String,
    at: Duration,
    requests: Vec<Option<RequestId>>,
    decided: Option<(Proposal, Vec<Decision>)>,
}

/// An entry that was applied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Witnessed {
    /// Its index in the log.
    pub index: u64,
    /// The term of the leader that proposed it.
    pub term: u64,
    /// When the first node applied it.
    pub at: Duration,
    /// The ids of its commands, and where each was decided.
    pub requests: Vec<(RequestId, DecidedAt)>,
    /// Its commands, and the decision on each; `None` of an entry without commands.
    pub decided: Option<(Proposal, Vec<Decision>)>,
}

impl Witness {
    pub(crate) fn new(time: TrueTime, disks: Disks) -> Arc<Self> {
        Arc::new(Self { time, disks, state: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The largest amounts that occurred in nodes.
    pub(crate) fn amounts(&self) -> Amounts {
        self.lock().amounts
    }

    /// Records the number of segments that a node's log starts with.
    pub(crate) fn segments(&self, count: u64) {
        let amounts = &mut self.lock().amounts;
        amounts.segments = amounts.segments.max(count);
    }

    /// Records a read that wanted all of its entries, with their number and bytes.
    pub(crate) fn whole_read(&self, entries: u64, bytes: u64) {
        let amounts = &mut self.lock().amounts;
        if entries >= REAPPLIED_ENTRIES {
            amounts.whole_bytes = amounts.whole_bytes.max(bytes);
        }
        amounts.whole_entries = amounts.whole_entries.max(entries);
    }

    /// The differences between nodes.
    pub(crate) fn disagreements(&self) -> Vec<String> {
        self.lock().disagreements.clone()
    }

    /// All applied entries, in the order of the log.
    pub(crate) fn entries(&self) -> Vec<Witnessed> {
        let state = self.lock();
        let entry = |(index, seen): (&u64, &Seen)| Witnessed {
            index: *index,
            term: seen.term,
            at: seen.at,
            requests: requests(*index, &seen.requests),
            decided: seen.decided.clone(),
        };
        state.entries.iter().map(entry).collect()
    }

    fn applied(&self, node: &str, entry: &AppliedEntry<'_>) {
        let AppliedEntry { index, term, proposal, decisions, .. } = *entry;
        let payload = entry.payload();
        let seen = Seen {
            term,
            payload: crc32fast::hash(&payload),
            decisions: crc32fast::hash(format!("{decisions:?}").as_bytes()),
            by: node.to_owned(),
            at: self.time.now(),
            requests: proposal.map_or_else(Vec::new, |proposal| {
                // With a stamp of another term it is refused whole, so that nothing was decided.
                let decided = proposal.stamp.term == term;
                let mut decisions = decisions.iter().map(|decision| &decision.outcome);
                let ids = proposal.commands.iter().map(|command| command.request_id);
                ids.map(|id| {
                    // A command that was refused for its form or its lane has done nothing.
                    let done = !matches!(decisions.next(), Some(Outcome::Refused(_)));
                    id.filter(|_| decided && done)
                })
                .collect()
            }),
            decided: None,
        };
        let mut state = self.lock();
        let amounts = &mut state.amounts;
        amounts.entry_commands = amounts.entry_commands.max(seen.requests.len() as u64);
        amounts.entry_bytes = amounts.entry_bytes.max(payload.len() as u64);
        let Some(known) = state.entries.get(&index) else {
            let decided = proposal.map(|proposal| (proposal.clone(), decisions.to_vec()));
            let before = index.checked_sub(1).and_then(|before| state.entries.get(&before));
            let begins = before.is_none_or(|before| before.term != term);
            if begins || index.is_multiple_of(LOOKED_FOR) {
                let durable = self.disks.have(LogId { term, index });
                state.disagreements.extend(durable.err());
            }
            state.entries.insert(index, Seen { decided, ..seen });
            return;
        };
        let same = known.term == seen.term
            && known.payload == seen.payload
            && known.decisions == seen.decisions;
        if !same {
            let what = format!(
                "{} applied another entry {index} than {}: terms {} and {}, payloads {:08x} and \
                 {:08x}, decisions {:08x} and {:08x}",
                seen.by,
                known.by,
                seen.term,
                known.term,
                seen.payload,
                known.payload,
                seen.decisions,
                known.decisions
            );
            state.disagreements.push(what);
        }
    }

    /// Records the bytes of a node's state at an index.
    fn state(&self, node: &str, index: u64, bytes: &[u8]) {
        let digest = crc32fast::hash(bytes);
        let mut state = self.lock();
        let amounts = &mut state.amounts;
        amounts.snapshot_bytes = amounts.snapshot_bytes.max(bytes.len() as u64);
        match state.states.get(&index) {
            None => drop(state.states.insert(index, (digest, node.to_owned()))),
            Some((known, _)) if *known == digest => {}
            Some((_, other)) => {
                let what = format!("{node} and {other} have different states at index {index}");
                state.disagreements.push(what);
            }
        }
    }
}

fn requests(index: u64, ids: &[Option<RequestId>]) -> Vec<(RequestId, DecidedAt)> {
    let place = |position| DecidedAt { index, position };
    let places = ids.iter().zip(0..).filter_map(|(id, at)| Some(((*id)?, place(at))));
    places.collect()
}

/// The witness as the observer of one node.
pub(crate) struct NodeWitness {
    witness: Arc<Witness>,
    node: String,
}

impl NodeWitness {
    /// The observer of the node with this name.
    pub(crate) fn new(witness: Arc<Witness>, node: String) -> Self {
        Self { witness, node }
    }
}

impl Observer for NodeWitness {
    fn applied(&self, entry: &AppliedEntry<'_>) {
        self.witness.applied(&self.node, entry);
    }

    fn snapshot(&self, index: Option<u64>, state: &Locks) {
        self.witness.state(&self.node, index.unwrap_or_default(), &state.encode());
    }
}
