//! The audit: a line of JSON for each change of a lock, a session or a table that this node applies.
//!
//! The lines are derived from the log, so every node that writes an audit has the whole of it, and
//! the lines of two nodes about one change have the same `index` and `n`. Applying only queues them; a thread
//! of its own writes them, in order, to a file that is rotated or to standard output, see
//! `sink.rs`. `line.rs` has the fields.
//!
//! If they cannot be written, the node either refuses requests that it would propose, or goes on and
//! counts the lines that it drops: see [`OnFailure`].

mod line;
mod sink;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use serde::Serialize;

use crate::audit::sink::Sink;
use crate::clock::{Clock as _, SystemClock};
pub(crate) use line::{Applied, Line, lines_of};

/// The most bytes of lines that wait to be written. What a node applies cannot be held up, so beyond
/// this lines are dropped.
const MAX_QUEUED_BYTES: usize = 64 << 20;

/// The bytes of lines from which a node that must not lose any refuses further requests: what is in
/// flight still finds room.
const CROWDED_BYTES: usize = MAX_QUEUED_BYTES / 2;

/// The most bytes that are written at once.
const TOGETHER_BYTES: usize = 256 << 10;

/// The pause before another attempt to write, and the longest time before what is written is synced.
const PAUSE: Duration = Duration::from_secs(1);

/// The longest time that the process waits at its end for the last lines.
const FLUSH: Duration = Duration::from_secs(2);

/// The destination of the lines.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// Standard output.
    Stdout,
    /// A file. It is renamed once it is full, to its name with `.1` at the end, the one before to
    /// `.2` and so on.
    File {
        /// The file.
        path: PathBuf,
        /// The bytes from which it is full.
        max_bytes: u64,
        /// The number of renamed files that are kept.
        kept: u32,
    },
}

/// The behaviour of a node whose audit cannot be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnFailure {
    /// It refuses requests that it would propose, as `unavailable`.
    #[default]
    Refuse,
    /// It goes on, and counts the lines that are dropped.
    Drop,
}

/// The counters of an audit, for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AuditFigures {
    /// Lines that were written.
    pub lines: u64,
    /// Lines that were dropped.
    pub dropped: u64,
    /// Whether the last attempt to write failed.
    pub is_failing: bool,
}

/// An audit that is being written. It is shared by all that have something to say.
pub struct Audit {
    shared: Arc<Shared>,
    lines: Sender<Message>,
    on_failure: OnFailure,
    /// The index of the last entry that an earlier run has written of.
    written_before: Option<u64>,
}

/// The state that the writing thread shares.
#[derive(Default)]
struct Shared {
    queued_bytes: AtomicUsize,
    lines: AtomicU64,
    dropped: AtomicU64,
    is_failing: AtomicBool,
    /// The reason why the last attempt to write failed.
    trouble: Mutex<Option<String>>,
}

enum Message {
    Line(Vec<u8>),
    Flush(Sender<()>),
}

impl Audit {
    /// Opens the file and starts the thread that writes.
    ///
    /// # Errors
    /// The file cannot be opened, or it is no audit; the thread cannot be started.
    pub fn open(target: Target, on_failure: OnFailure) -> io::Result<Arc<Self>> {
        let sink = Sink::open(target)?;
        let written_before = sink.last_index();
        let shared = Arc::<Shared>::default();
        let (lines, received) = unbounded();
        let synced = SystemClock.raw();
        let batch = Batch::default();
        let writer = Writer { sink, shared: Arc::clone(&shared), batch, synced };
        thread::Builder::new().name("audit".to_owned()).spawn(move || writer.run(&received))?;
        Ok(Arc::new(Self { shared, lines, on_failure, written_before }))
    }

    /// Queues a line. It never waits.
    pub(crate) fn write(&self, line: &impl Serialize) {
        let mut bytes = serde_json::to_vec(line).expect("a line of texts and numbers is JSON");
        bytes.push(b'\n');
        let (queued, length) = (&self.shared.queued_bytes, bytes.len());
        // Counted before it is sent: the thread that writes takes it off again.
        let has_room = queued.fetch_add(length, Ordering::Relaxed) + length <= MAX_QUEUED_BYTES;
        if !has_room || self.lines.send(Message::Line(bytes)).is_err() {
            queued.fetch_sub(length, Ordering::Relaxed);
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The reason why requests must be refused now, if they must.
    pub(crate) fn refusal(&self) -> Option<String> {
        if self.on_failure == OnFailure::Drop {
            return None;
        }
        if self.shared.is_failing.load(Ordering::Relaxed) {
            let trouble = self.shared.trouble.lock().expect("a text is replaced, nothing else");
            let why = trouble.as_deref().unwrap_or("it failed a moment ago");
            return Some(format!("the audit cannot be written: {why}"));
        }
        let is_crowded = self.shared.queued_bytes.load(Ordering::Relaxed) > CROWDED_BYTES;
        is_crowded.then(|| "the audit is written too slowly".to_owned())
    }

    pub(crate) fn figures(&self) -> AuditFigures {
        AuditFigures {
            lines: self.shared.lines.load(Ordering::Relaxed),
            dropped: self.shared.dropped.load(Ordering::Relaxed),
            is_failing: self.shared.is_failing.load(Ordering::Relaxed),
        }
    }

    /// The index of the last entry that an earlier run has written of.
    pub(crate) fn written_before(&self) -> Option<u64> {
        self.written_before
    }

    /// Waits for a limited time until the queued lines are written.
    pub(crate) fn flush(&self) {
        let (flushed, done) = bounded(1);
        if self.lines.send(Message::Flush(flushed)).is_ok() {
            let _ = done.recv_timeout(FLUSH);
        }
    }
}

/// Lines that are written together.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    lines: u64,
    flushed: Vec<Sender<()>>,
}

impl Batch {
    fn add(&mut self, message: Message) {
        match message {
            Message::Line(line) => {
                self.bytes.extend_from_slice(&line);
                self.lines += 1;
            }
            Message::Flush(flushed) => self.flushed.push(flushed),
        }
    }
}

/// The thread that writes.
struct Writer {
    sink: Sink,
    shared: Arc<Shared>,
    batch: Batch,
    /// The time of the last sync.
    synced: Duration,
}

impl Writer {
    /// Writes until the audit is dropped.
    fn run(mut self, received: &Receiver<Message>) {
        loop {
            match received.recv_timeout(PAUSE) {
                Ok(message) => self.batch.add(message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            while self.batch.bytes.len() < TOGETHER_BYTES
                && let Ok(message) = received.try_recv()
            {
                self.batch.add(message);
            }
            self.write();
            self.sync();
        }
    }

    /// Syncs what was written, if that is due. What fails here fails again when it is written.
    fn sync(&mut self) {
        let now = SystemClock.raw();
        if now.saturating_sub(self.synced) >= PAUSE {
            self.synced = now;
            if let Err(error) = self.sink.sync() {
                self.fail(&error);
            }
        }
    }

    /// Writes the batch, and tries again after a pause for as long as it fails.
    fn write(&mut self) {
        while let Err(error) = self.sink.write(&self.batch.bytes) {
            self.fail(&error);
            let (_never, wait) = bounded::<()>(0);
            let _ = wait.recv_timeout(PAUSE);
        }
        if self.shared.is_failing.swap(false, Ordering::Relaxed) {
            tracing::warn!("the audit is written again");
        }
        let Batch { bytes, lines, flushed } = std::mem::take(&mut self.batch);
        self.shared.queued_bytes.fetch_sub(bytes.len(), Ordering::Relaxed);
        self.shared.lines.fetch_add(lines, Ordering::Relaxed);
        for flushed in flushed {
            // Whoever waits may have stopped waiting.
            let _ = flushed.send(());
        }
    }

    fn fail(&self, error: &io::Error) {
        let why = format!("{}: {error}", self.sink.name());
        *self.shared.trouble.lock().expect("a text is replaced, nothing else") = Some(why.clone());
        if !self.shared.is_failing.swap(true, Ordering::Relaxed) {
            tracing::error!(why, "the audit cannot be written");
        }
    }
}

#[cfg(test)]
mod tests;
