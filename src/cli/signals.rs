//! The signals that the program reacts to.

use rustix::process::Signal;
use tokio::signal::unix::{self, SignalKind};

use crate::cli::exit::{self, Failure};

/// Waits for signals, each told apart.
#[derive(Debug)]
pub(crate) struct Signals {
    streams: Vec<(Signal, unix::Signal)>,
}

impl Signals {
    /// Catches these signals from now on.
    ///
    /// # Errors
    /// The system refuses.
    pub(crate) fn catch(signals: &[Signal]) -> Result<Self, Failure> {
        let streams = signals
            .iter()
            .map(|signal| Ok((*signal, unix::signal(SignalKind::from_raw(signal.as_raw()))?)))
            .collect::<std::io::Result<_>>()
            .map_err(|error| {
                Failure::new(exit::BROKEN, format!("cannot catch signals: {error}"))
            })?;
        Ok(Self { streams })
    }

    /// Catches those that ask the program to stop.
    ///
    /// # Errors
    /// The system refuses.
    pub(crate) fn to_stop() -> Result<Self, Failure> {
        Self::catch(&[Signal::INT, Signal::TERM])
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
