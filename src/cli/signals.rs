//! The signals that the program reacts to.

use rustix::process::Signal;
use tokio::signal::unix::{self, SignalKind};

use crate::cli::exit::{self, Failure};

/// A stream of the signals that the process catches.
#[derive(Debug)]
pub(crate) struct Signals {
    streams: Vec<(Signal, unix::Signal)>,
}

impl Signals {
    /// Catches these signals from now on, except ignored ones: the parent process wants them
    /// ignored, as `nohup` and shells without job control do. Child processes ignore them, too.
    ///
    /// # Errors
    /// The system refuses.
    pub(crate) fn catch(signals: &[Signal]) -> Result<Self, Failure> {
        let ignored = ignored();
        let streams = signals
            .iter()
            .filter(|signal| is_own(**signal) || !is_in(ignored, **signal))
            .map(|signal| Ok((*signal, unix::signal(SignalKind::from_raw(signal.as_raw()))?)))
            .collect::<std::io::Result<_>>()
            .map_err(|error| {
                Failure::new(exit::BROKEN, format!("cannot catch signals: {error}"))
            })?;
        Ok(Self { streams })
    }

    /// Catches the signals that request the program to stop.
    ///
    /// # Errors
    /// The system refuses.
    pub(crate) fn to_stop() -> Result<Self, Failure> {
        Self::catch(&[Signal::INT, Signal::TERM, Signal::HUP])
    }

    /// The next signal. May be cancelled: none is lost.
    pub(crate) async fn next(&mut self) -> Signal {
        std::future::poll_fn(|context| {
            for (signal, stream) in &mut self.streams {
                if stream.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(*signal);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}

/// The signals that this process ignores, one bit each from signal 1 on; none if the system does
/// not report them.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// Whether the program needs the signal even if it was ignored by the parent: the end of its
/// command, and the end of its own stop.
fn is_own(signal: Signal) -> bool {
    matches!(signal, Signal::CHILD | Signal::CONT)
}

fn is_in(mask: u64, signal: Signal) -> bool {
    mask & (1 << (signal.as_raw() - 1)) != 0
}
