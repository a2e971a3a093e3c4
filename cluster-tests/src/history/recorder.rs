//! Records a history while it happens.

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keyward::clock::{Clock, SystemClock};
use keyward::types::{DecidedAt, RequestId};
use smol_str::SmolStr;

use super::file::write_line;
use super::{
    Action, Applied, Entry, Event, Fault, FaultState, Footer, Header, History, Observation,
    Operation, Outcome, SessionAction, SessionOperation, SessionOutcome,
};
use crate::limits::Reach;

/// Records one history, from any number of tasks. Clones record the same one.
///
/// It only reads a clock, formats a line and passes it to a buffered writer, under a mutex that is
/// held for no longer than the copy takes. An operation is written when it ends.
#[derive(Clone)]
pub struct Recorder {
    shared: Arc<Shared>,
}

struct Shared {
    reach: Reach,
    now: Box<dyn Fn() -> Duration + Send + Sync>,
    next_id: AtomicU64,
    sink: Mutex<Sink>,
}

struct Sink {
    out: Out,
    operations: u64,
    failed: Option<io::Error>,
}

enum Out {
    File(BufWriter<File>),
    Memory(Vec<Entry>),
    /// The history was finished: later entries are not part of it.
    Closed,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").finish_non_exhaustive()
    }
}

impl Recorder {
    /// Records into a new file, with the machine's clock from now on.
    ///
    /// # Errors
    /// If the file cannot be created.
    pub fn to_file(path: &Path, header: &Header) -> io::Result<Self> {
        let mut file = BufWriter::new(File::create(path)?);
        write_line(&mut file, header)?;
        Ok(Self::new(Out::File(file), system_time()))
    }

    /// As [`Recorder::to_file`], with a clock of the caller's: the time since its start.
    ///
    /// # Errors
    /// If the file cannot be created.
    pub fn to_file_with_clock(
        path: &Path,
        header: &Header,
        now: impl Fn() -> Duration + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let mut file = BufWriter::new(File::create(path)?);
        write_line(&mut file, header)?;
        Ok(Self::new(Out::File(file), Box::new(now)))
    }

    /// Keeps the history in memory, with the machine's clock from now on. It takes about 400 bytes
    /// for each operation: for short runs.
    pub fn in_memory() -> Self {
        Self::new(Out::Memory(Vec::new()), system_time())
    }

    /// Keeps the history in memory, with a clock of the caller's: the time since its start.
    pub fn in_memory_with_clock(now: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self::new(Out::Memory(Vec::new()), Box::new(now))
    }

    fn new(out: Out, now: Box<dyn Fn() -> Duration + Send + Sync>) -> Self {
        let sink = Mutex::new(Sink { out, operations: 0, failed: None });
        let reach = Reach::default();
        Self { shared: Arc::new(Shared { reach, now, next_id: AtomicU64::new(0), sink }) }
    }

    /// The limits of the service that the recorded requests reached.
    pub fn reach(&self) -> &Reach {
        &self.shared.reach
    }

    /// Nanoseconds since the start.
    pub fn now(&self) -> u64 {
        u64::try_from((self.shared.now)().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Begins an operation. Call this *before* anything is sent: its `invoked` is read here.
    pub fn begin(&self, client: impl Into<SmolStr>, action: Action) -> Call {
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        let operation = Operation {
            id,
            client: client.into(),
            action,
            request_id: None,
            node: None,
            invoked: self.now(),
            returned: None,
            gave_up: None,
            outcome: Outcome::Unknown,
            decided_at: None,
        };
        Call { recorder: self.clone(), operation: Some(operation) }
    }

    /// Begins an operation on a session, as [`Recorder::begin`] does.
    pub fn begin_session(
        &self,
        client: impl Into<SmolStr>,
        action: SessionAction,
        request_id: Option<RequestId>,
    ) -> SessionCall {
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        let operation = SessionOperation {
            id,
            client: client.into(),
            action,
            request_id,
            invoked: self.now(),
            returned: None,
            outcome: SessionOutcome::Unknown,
            decided_at: None,
        };
        SessionCall { recorder: self.clone(), operation: Some(operation) }
    }

    /// Begins the installation of a fault.
    pub fn begin_fault(&self, name: impl Into<SmolStr>, target: impl Into<SmolStr>) -> OpenFault {
        let fault = Fault {
            name: name.into(),
            target: target.into(),
            begin: self.now(),
            end: None,
            state: FaultState::Indeterminate,
            detail: String::new(),
        };
        OpenFault { recorder: self.clone(), fault: Some(fault) }
    }

    /// Records an event that happened just now; see [`Event`] for the names with a meaning.
    pub fn event(&self, name: impl Into<SmolStr>, detail: impl Into<String>) {
        let event = Event { at: self.now(), name: name.into(), detail: detail.into() };
        self.write(Entry::Event(event));
    }

    /// Adds the final state of a node.
    pub fn observe(&self, observation: Observation) {
        self.write(Entry::Observation(observation));
    }

    /// Adds the place of a request in the service's log.
    pub fn applied(&self, request_id: RequestId, decided_at: DecidedAt) {
        self.write(Entry::Applied(Applied { request_id, decided_at }));
    }

    /// Ends a history in a file. Operations that have not ended must be dropped or finished before:
    /// an operation that ends later, or is open at the end, is missing from the history.
    ///
    /// `log_complete`: see [`Footer`].
    ///
    /// # Errors
    /// If anything could not be written, then or earlier.
    pub fn finish(&self, log_complete: bool) -> io::Result<Footer> {
        let mut sink = self.sink();
        let footer = Footer { operations: sink.operations, log_complete };
        if let Some(error) = sink.failed.take() {
            return Err(error);
        }
        if let Out::File(mut file) = std::mem::replace(&mut sink.out, Out::Closed) {
            write_line(&mut file, &footer)?;
            file.flush()?;
        }
        Ok(footer)
    }

    /// Ends a history in memory and returns it, under the header.
    ///
    /// # Panics
    /// If it was not kept in memory, or was taken before.
    pub fn into_history(self, header: Header, log_complete: bool) -> History {
        let mut sink = self.sink();
        let footer = Footer { operations: sink.operations, log_complete };
        let Out::Memory(entries) = std::mem::replace(&mut sink.out, Out::Closed) else {
            panic!("the history is not in memory");
        };
        History { header, entries, footer }
    }

    /// The history in memory so far, under the header. It goes on.
    ///
    /// # Panics
    /// If it is not kept in memory, or was taken before.
    pub fn history(&self, header: Header, log_complete: bool) -> History {
        let sink = self.sink();
        let footer = Footer { operations: sink.operations, log_complete };
        let Out::Memory(entries) = &sink.out else { panic!("the history is not in memory") };
        History { header, entries: entries.clone(), footer }
    }

    fn sink(&self) -> MutexGuard<'_, Sink> {
        // A panic elsewhere leaves whole lines behind: the history is as good as before.
        self.shared.sink.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, entry: Entry) {
        let mut sink = self.sink();
        sink.operations += u64::from(entry.is_operation());
        match &mut sink.out {
            Out::Memory(entries) => entries.push(entry),
            Out::File(file) => {
                if let Err(error) = write_line(file, &entry) {
                    sink.failed.get_or_insert(error);
                }
            }
            Out::Closed => sink.operations -= u64::from(entry.is_operation()),
        }
    }
}

fn system_time() -> Box<dyn Fn() -> Duration + Send + Sync> {
    // Boot time goes on in suspend, as do the grants of a service elsewhere.
    let start = SystemClock.boottime();
    Box::new(move || SystemClock.boottime().saturating_sub(start))
}

/// An operation that has begun. If it is dropped without an end (a future that was cancelled, a
/// panic), its outcome is recorded as unknown.
#[derive(Debug)]
#[must_use = "what is dropped is recorded as unknown"]
pub struct Call {
    recorder: Recorder,
    operation: Option<Operation>,
}

impl Call {
    /// Sets the request id that it is sent with.
    pub fn with_request_id(mut self, id: Option<RequestId>) -> Self {
        if let Some(operation) = &mut self.operation {
            operation.request_id = id;
        }
        self
    }

    /// Sets the node that it is sent to.
    pub fn with_node(mut self, node: impl Into<SmolStr>) -> Self {
        if let Some(operation) = &mut self.operation {
            operation.node = Some(node.into());
        }
        self
    }

    /// The time at which it began.
    pub fn invoked(&self) -> u64 {
        self.operation.as_ref().map_or(0, |operation| operation.invoked)
    }

    /// Ends the operation. A request that may have been done and has no answer is
    /// [`Outcome::Unknown`].
    pub fn finish(mut self, outcome: Outcome, decided_at: Option<DecidedAt>) {
        self.end(outcome, decided_at);
    }

    fn end(&mut self, outcome: Outcome, decided_at: Option<DecidedAt>) {
        let Some(mut operation) = self.operation.take() else { return };
        let now = self.recorder.now();
        if outcome == Outcome::Unknown {
            operation.gave_up = Some(now);
        } else {
            operation.returned = Some(now);
        }
        operation.outcome = outcome;
        operation.decided_at = decided_at;
        self.recorder.write(Entry::Operation(operation));
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(Outcome::Unknown, None);
    }
}

/// An operation on a session that has begun; dropped without an end, its outcome is unknown.
#[derive(Debug)]
#[must_use = "what is dropped is recorded as unknown"]
pub struct SessionCall {
    recorder: Recorder,
    operation: Option<SessionOperation>,
}

impl SessionCall {
    /// Ends the operation.
    pub fn finish(mut self, outcome: SessionOutcome, decided_at: Option<DecidedAt>) {
        self.end(outcome, decided_at);
    }

    fn end(&mut self, outcome: SessionOutcome, decided_at: Option<DecidedAt>) {
        let Some(mut operation) = self.operation.take() else { return };
        let is_known = outcome != SessionOutcome::Unknown;
        operation.returned = is_known.then(|| self.recorder.now());
        (operation.outcome, operation.decided_at) = (outcome, decided_at);
        self.recorder.write(Entry::Session(operation));
    }
}

impl Drop for SessionCall {
    fn drop(&mut self) {
        self.end(SessionOutcome::Unknown, None);
    }
}

/// A fault that is being installed or is installed. If it is dropped without an end, it lasted to
/// the end, and if its installation was not reported, that is unknown.
#[derive(Debug)]
pub struct OpenFault {
    recorder: Recorder,
    fault: Option<Fault>,
}

impl OpenFault {
    /// Reports that it was installed.
    pub fn installed(&mut self) {
        self.set(FaultState::Installed, String::new());
    }

    /// Reports that it was not tried, or was not installed and left no effect.
    pub fn skipped(&mut self, why: impl Into<String>) {
        self.set(FaultState::Skipped, why.into());
    }

    /// Reports that it may have been installed.
    pub fn indeterminate(&mut self, why: impl Into<String>) {
        self.set(FaultState::Indeterminate, why.into());
    }

    /// Reports that it was removed.
    pub fn end(mut self) {
        self.write(true);
    }

    fn set(&mut self, state: FaultState, detail: String) {
        if let Some(fault) = &mut self.fault {
            fault.state = state;
            fault.detail = detail;
        }
    }

    fn write(&mut self, ended: bool) {
        let Some(mut fault) = self.fault.take() else { return };
        fault.end = ended.then(|| self.recorder.now());
        self.recorder.write(Entry::Fault(fault));
    }
}

impl Drop for OpenFault {
    fn drop(&mut self) {
        self.write(false);
    }
}
