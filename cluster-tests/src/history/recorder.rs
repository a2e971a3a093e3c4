//! Writes a history while it happens.

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
    Operation, Outcome,
};
use crate::limits::Reach;

/// Writes one history, from as many tasks as there are. Clones write the same one.
///
/// It does no more than to read a clock, word a line and hand it to a buffered writer, under a
/// mutex that is held for no longer than the copy takes. An operation is written when it ends.
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
    /// The history was finished: what comes later is not part of it.
    Closed,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").finish_non_exhaustive()
    }
}

impl Recorder {
    /// Writes into a new file, with the machine's clock from now on.
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

    /// Where the requests that are written down have been, of the limits of the service.
    pub fn reach(&self) -> &Reach {
        &self.shared.reach
    }

    /// Nanoseconds since the start.
    pub fn now(&self) -> u64 {
        u64::try_from((self.shared.now)().as_nanos()).unwrap_or(u64::MAX)
    }

    /// An operation begins. Call this *before* anything is sent: its `invoked` is read here.
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

    /// A fault begins to be installed.
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

    /// Something happened just now; see [`Event`] for the names that mean something.
    pub fn event(&self, name: impl Into<SmolStr>, detail: impl Into<String>) {
        let event = Event { at: self.now(), name: name.into(), detail: detail.into() };
        self.write(Entry::Event(event));
    }

    /// Adds what a node had at the end.
    pub fn observe(&self, observation: Observation) {
        self.write(Entry::Observation(observation));
    }

    /// Adds what the service's log says of a request.
    pub fn applied(&self, request_id: RequestId, decided_at: DecidedAt) {
        self.write(Entry::Applied(Applied { request_id, decided_at }));
    }

    /// Ends a history in a file. Operations that have not ended must be dropped or finished
    /// before: what ends later is not part of the history, and what is open at its end is missing from it.
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

    /// Ends a history in memory and gives it, under the header.
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

    fn sink(&self) -> MutexGuard<'_, Sink> {
        // A panic elsewhere leaves whole lines behind: the history is as good as before.
        self.shared.sink.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, entry: Entry) {
        let mut sink = self.sink();
        sink.operations += u64::from(matches!(entry, Entry::Operation(_)));
        match &mut sink.out {
            Out::Memory(entries) => entries.push(entry),
            Out::File(file) => {
                if let Err(error) = write_line(file, &entry) {
                    sink.failed.get_or_insert(error);
                }
            }
            Out::Closed => sink.operations -= u64::from(matches!(entry, Entry::Operation(_))),
        }
    }
}

fn system_time() -> Box<dyn Fn() -> Duration + Send + Sync> {
    // Boot time goes on in suspend, as the grants of a service elsewhere do.
    let start = SystemClock.boottime();
    Box::new(move || SystemClock.boottime().saturating_sub(start))
}

/// An operation that has begun. Dropped without an end (a future that was cancelled, a panic), it is
/// unknown, which is what it is.
#[derive(Debug)]
#[must_use = "what is dropped is recorded as unknown"]
pub struct Call {
    recorder: Recorder,
    operation: Option<Operation>,
}

impl Call {
    /// Names the request id that it is sent with.
    pub fn with_request_id(mut self, id: Option<RequestId>) -> Self {
        if let Some(operation) = &mut self.operation {
            operation.request_id = id;
        }
        self
    }

    /// Names the node that is asked.
    pub fn with_node(mut self, node: impl Into<SmolStr>) -> Self {
        if let Some(operation) = &mut self.operation {
            operation.node = Some(node.into());
        }
        self
    }

    /// When it began.
    pub fn invoked(&self) -> u64 {
        self.operation.as_ref().map_or(0, |operation| operation.invoked)
    }

    /// The operation ends now. Whatever may have been done and has no answer is
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

/// A fault that is being installed or is installed. Dropped without an end, it lasted to the end,
/// and if nothing said whether it was installed, nobody knows.
#[derive(Debug)]
pub struct OpenFault {
    recorder: Recorder,
    fault: Option<Fault>,
}

impl OpenFault {
    /// It came about.
    pub fn installed(&mut self) {
        self.set(FaultState::Installed, String::new());
    }

    /// It was not tried, or did not come about and left nothing.
    pub fn skipped(&mut self, why: impl Into<String>) {
        self.set(FaultState::Skipped, why.into());
    }

    /// It may have come about.
    pub fn indeterminate(&mut self, why: impl Into<String>) {
        self.set(FaultState::Indeterminate, why.into());
    }

    /// It is gone.
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
