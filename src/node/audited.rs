//! The audit as an observer of the state machine.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::audit::{Applied, Audit, AuditFigures, Line, lines_of};
use crate::flood::Flood;
use crate::lock::State;
use crate::raft::{AppliedEntry, Observer};
use crate::task;

/// Passes the changes of each applied entry to the audit, once.
pub(super) struct Audited {
    audit: Arc<Audit>,
    node: u64,
    /// The index of the last entry that the audit knows of.
    last: Mutex<Option<u64>>,
    flood: Flood,
}

impl Audited {
    pub(super) fn new(audit: Arc<Audit>, node: u64) -> Self {
        let last = Mutex::new(audit.written_before());
        Self { audit, node, last, flood: Flood::default() }
    }

    /// Forgets what an earlier run has written: this node's folder is new, so its cluster is another
    /// one.
    pub(super) fn begin_anew(&self) {
        *self.last.lock().expect("an index is replaced, nothing else") = None;
    }

    /// As [`Audit::refusal`].
    pub(super) fn refusal(&self) -> Option<String> {
        self.audit.refusal()
    }

    pub(super) fn figures(&self) -> AuditFigures {
        self.audit.figures()
    }

    /// Writes that the maker of a request could not be found out. `now` is the time of the node's raw
    /// clock: of many, only some have a line.
    pub(super) fn unauthorized(&self, why: &str, address: Option<SocketAddr>, now: Duration) {
        let (admitted, left_out) = self.flood.admit(now);
        if admitted {
            let last = self.last.lock().expect("an index is replaced, nothing else");
            let index = last.unwrap_or(0);
            self.audit.write(&Line::unauthorized(self.node, index, (why, address), left_out));
        }
    }

    /// Writes how far this node has come, once it applies nothing more, and what is still queued.
    pub(super) async fn stop(&self) {
        let last = *self.last.lock().expect("an index is replaced, nothing else");
        if let Some(last) = last {
            self.audit.write(&Line::stopped(self.node, last));
        }
        let audit = Arc::clone(&self.audit);
        // It fails only with the runtime, which has no more time then.
        let _ = task::blocking(move || audit.flush()).await;
    }
}

impl Observer for Audited {
    fn hears_events(&self) -> bool {
        true
    }

    fn applied(&self, entry: &AppliedEntry<'_>) {
        let AppliedEntry { index, term, proposal, events, decisions, .. } = *entry;
        let mut last = self.last.lock().expect("an index is replaced, nothing else");
        if last.is_some_and(|last| index <= last) {
            // Applied again after a start: an earlier run has written of it.
            return;
        }
        let from = last.map_or(1, |last| last + 1);
        if from < index {
            self.audit.write(&Line::gap(self.node, from, index - 1));
        }
        *last = Some(index);
        let applied = Applied { node: self.node, index, term, proposal, events, decisions };
        lines_of(&applied, |line| self.audit.write(line));
    }

    fn snapshot(&self, _index: Option<u64>, _state: &State) {}
}
