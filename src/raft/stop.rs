//! The signal by which a node stops itself: the first reason is kept, and the process ends.

use tokio::sync::watch;

/// The stop signal of a node. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct StopSignal(watch::Sender<Option<String>>);

impl StopSignal {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    /// Stops the node. Only the first reason is kept; later ones follow from it.
    pub(crate) fn stop(&self, reason: impl Into<String>) {
        let reason = reason.into();
        self.0.send_if_modified(|first| {
            if first.is_some() {
                return false;
            }
            tracing::error!(reason, "this node stops");
            *first = Some(reason);
            true
        });
    }

    /// The reason, if there is one.
    pub(crate) fn reason(&self) -> Option<String> {
        self.0.borrow().clone()
    }

    /// Resolves with the reason when the node stops.
    pub(crate) async fn stopped(&self) -> String {
        let mut receiver = self.0.subscribe();
        let reason =
            receiver.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        // The sender lives as long as `self`, so there is a reason.
        reason.unwrap_or_default()
    }
}
