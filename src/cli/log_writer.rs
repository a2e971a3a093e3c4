//! Writes the log without blocking.
//!
//! Standard error may be a pipe that nobody reads, or a slow disk. A node that blocked on it would
//! stop, heartbeats included. So a node's lines go through a bounded queue to a separate thread;
//! lines that do not fit are dropped and counted, and the count is logged when there is room again.
//! Commands that end soon write directly.
//!
//! The crate `tracing-appender` is not used: it does not log how many lines it drops, it is flushed
//! only by dropping a guard, which does not happen at an exit in the middle of a panic, and it
//! depends on a calendar library.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

/// The most lines in the queue: about a megabyte.
const CAPACITY: usize = 4096;

/// The most lines that are written at once.
const TOGETHER: usize = 64;

/// The longest time that the process waits at its end for the last lines.
const FLUSH: Duration = Duration::from_secs(1);

static BACKGROUND: OnceLock<Background> = OnceLock::new();

/// Starts the thread that writes all further lines.
pub(crate) fn start() {
    let mut started = None;
    let background = BACKGROUND.get_or_init(|| {
        let (background, lines) = Background::new(CAPACITY);
        started = Some(lines);
        background
    });
    if let Some(lines) = started {
        // Without the thread the lines are dropped, and the node still serves.
        let thread = thread::Builder::new().name("log".to_owned());
        let _ = thread.spawn(move || background.write(&lines, io::stderr()));
    }
}

/// Waits for a limited time until the queued lines are written. Call it before the process ends.
pub(crate) fn flush() {
    if let Some(background) = BACKGROUND.get() {
        background.flush(FLUSH);
    }
}

/// The destination of an event's line.
pub(crate) fn writer() -> Box<dyn Write> {
    match BACKGROUND.get() {
        Some(background) => Box::new(background),
        None => Box::new(io::stderr()),
    }
}

enum Message {
    Line(Vec<u8>),
    Flush(Sender<()>),
}

/// The queue to the thread that writes.
struct Background {
    lines: Sender<Message>,
    dropped: AtomicU64,
}

impl Background {
    fn new(capacity: usize) -> (Self, Receiver<Message>) {
        let (lines, written) = bounded(capacity);
        (Self { lines, dropped: AtomicU64::new(0) }, written)
    }

    fn flush(&self, within: Duration) {
        let (flushed, done) = bounded(1);
        if self.lines.send_timeout(Message::Flush(flushed), within).is_ok() {
            // A reader that has not taken the lines by then gets no more.
            let _ = done.recv_timeout(within);
        }
    }

    /// Writes the lines from the queue until all senders are gone.
    fn write(&self, lines: &Receiver<Message>, mut out: impl Write) {
        let mut buffer = Vec::new();
        while let Ok(first) = lines.recv() {
            buffer.clear();
            let mut flushed = None;
            for message in std::iter::once(first).chain(lines.try_iter().take(TOGETHER)) {
                match message {
                    Message::Line(line) => buffer.extend_from_slice(&line),
                    Message::Flush(done) => {
                        flushed = Some(done);
                        break;
                    }
                }
            }
            // If standard error is closed, there is nowhere to report that.
            let _ = out.write_all(&buffer).and_then(|()| out.flush());
            if let Some(done) = flushed {
                let _ = done.try_send(());
            }
            if lines.is_empty() {
                self.tell_dropped();
            }
        }
    }

    fn tell_dropped(&self) {
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            tracing::warn!(dropped, "lines of the log are lost: they were not taken in time");
        }
    }
}

/// Enqueues lines; the log writes each in one call.
impl Write for &Background {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.lines.try_send(Message::Line(line.to_vec())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// A writer that blocks until it is released.
    struct Stuck {
        let_go: Receiver<()>,
        taken: Sender<Vec<u8>>,
    }

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.let_go.recv().unwrap();
            self.taken.send(bytes.to_vec()).unwrap();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_waits_for_a_writer_that_is_stuck_and_what_is_lost_is_counted() {
        let (background, lines) = Background::new(10);
        let background = Arc::new(background);
        let (let_go, waits) = bounded(1000);
        let (taken, told) = bounded(1000);
        let writing = Arc::clone(&background);
        thread::spawn(move || writing.write(&lines, Stuck { let_go: waits, taken }));
        for number in 0..1000 {
            (&*background).write_all(format!("{number}\n").as_bytes()).unwrap();
        }
        let dropped = background.dropped.load(Ordering::Relaxed);
        // Lines that wait or are being written are kept.
        assert!(dropped >= 1000 - 10 - 65, "{dropped} of 1000 were dropped");
        for _ in 0..1000 {
            let_go.send(()).unwrap();
        }
        background.flush(Duration::from_secs(60));
        let text: Vec<u8> = told.try_iter().flatten().collect();
        let text = String::from_utf8(text).unwrap();
        let kept: Vec<u64> = text.lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(kept.len() as u64, 1000 - dropped);
        assert!(kept.is_sorted(), "{kept:?}");
    }
}
