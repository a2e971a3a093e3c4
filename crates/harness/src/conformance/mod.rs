//! The contract as a suite of scripts that runs on any lock service.
//!
//! The scripts are text files in `src/conformance/scripts`, one topic each, and read as the
//! specification: a comment with the contract's words, a request, `---`, the answer. They are
//! embedded in the crate, so `keyward conformance` needs no files. The same scripts run on
//! [`keyward_core::memory::MemoryLocks`], on one node, on a cluster and through HTTP; the expected answers
//! are generated from memory only, and all others must match them.
//!
//! Run the suite on a service of your own with a [`Bootstrap`], which opens and closes it. The
//! service must also be able to let time pass ([`keyward_core::DebugLockService`]).
//!
//! ```
//! use keyward_harness::conformance::{self, Bootstrap, Options};
//! use keyward_core::{Error, Handle, MemoryLocks, ServiceOptions};
//!
//! /// Opens my own service; here it is the crate's.
//! struct MyBootstrap(MemoryLocks);
//!
//! impl Bootstrap for MyBootstrap {
//!     type Service = Handle<MemoryLocks>;
//!
//!     async fn open(&self, options: ServiceOptions) -> Result<Self::Service, Error> {
//!         Ok(self.0.handle(options))
//!     }
//!
//!     async fn close(&self, _service: Self::Service) -> Result<(), Error> {
//!         Ok(())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let only = Options::default().matching(&["levels", "renew"]);
//! let report = conformance::run(MyBootstrap(MemoryLocks::new()), only).await;
//! assert!(report.passed(), "{report}");
//! # }
//! ```
//!
//! A service without a clock that tests can advance is opened by [`LiveBootstrap`], which waits.
//!
//! The suite knows nothing of how a service works. It imports the types of the contract and nothing
//! below them, except for the bootstraps of this crate's own services.
//!
//! Where to look next: `scripts/`, then `command.rs` for the commands of a script.

mod callers;
mod command;
mod endpoints;
mod facts;
#[cfg(test)]
mod golden;
mod live;
mod many;
mod memory;
#[cfg(test)]
mod mutants;
mod pace;
mod print;
mod report;
#[cfg(test)]
mod rules;
mod runner;
mod scripts;
mod words;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

pub use endpoints::EndpointBootstrap;
pub use live::{LiveBootstrap, LiveService, MoveClock, Time};
pub use memory::MemoryBootstrap;
pub use report::{Outcome, Report, ScriptResult};
pub use scripts::{Script, scripts};

use keyward_core::error::Error;
use keyward_core::service::{DebugLockService, ServiceOptions};
use runner::Runner;

/// Opens and closes a service for the suite.
///
/// All handles that one bootstrap opens must see the same locks: a script may open several.
/// Scripts use tables of their own and delete them at the end, so a service that holds other
/// locks may be used as well.
pub trait Bootstrap: Send + Sync + 'static {
    /// The service under test.
    type Service: DebugLockService;

    /// Opens a handle with these options.
    ///
    /// # Errors
    /// Any error that keeps the service from opening; it ends the script.
    fn open(
        &self,
        options: ServiceOptions,
    ) -> impl Future<Output = Result<Self::Service, Error>> + Send;

    /// Closes a handle. The locks stay.
    ///
    /// # Errors
    /// Any error that keeps the service from closing; it fails the script.
    fn close(&self, service: Self::Service) -> impl Future<Output = Result<(), Error>> + Send;
}

impl<B: Bootstrap> Bootstrap for Arc<B> {
    type Service = B::Service;

    fn open(
        &self,
        options: ServiceOptions,
    ) -> impl Future<Output = Result<Self::Service, Error>> + Send {
        (**self).open(options)
    }

    fn close(&self, service: Self::Service) -> impl Future<Output = Result<(), Error>> + Send {
        (**self).close(service)
    }
}

/// Options of a run: the scripts, and how many of them run at a time.
#[derive(Clone, Debug)]
pub struct Options {
    /// The scripts, in order.
    pub scripts: Vec<Script>,
    /// The number of scripts that run at a time. More than one only if time passes by waiting: a
    /// clock that is advanced by hand advances for every script.
    pub parallel: usize,
}

impl Default for Options {
    /// Every script, one after the other.
    fn default() -> Self {
        Self { scripts: scripts(), parallel: 1 }
    }
}

impl Options {
    /// Only the scripts whose names contain one of these words; all of them if there are none.
    #[must_use]
    pub fn matching<T: AsRef<str>>(mut self, words: &[T]) -> Self {
        if !words.is_empty() {
            self.scripts
                .retain(|script| words.iter().any(|word| script.name.contains(word.as_ref())));
        }
        self
    }

    /// Runs this many scripts at a time.
    #[must_use]
    pub fn in_parallel(mut self, scripts: usize) -> Self {
        self.parallel = scripts.max(1);
        self
    }
}

/// Runs scripts against a service and reports the result of each.
///
/// Must be called within a tokio runtime whose timers and I/O are enabled as the service needs
/// them. If the future is dropped, the scripts that are running still run to their end.
pub async fn run<B: Bootstrap>(bootstrap: B, options: Options) -> Report {
    use futures::StreamExt as _;

    let bootstrap = Arc::new(bootstrap);
    let results = futures::stream::iter(options.scripts)
        .map(|script| run_script(Arc::clone(&bootstrap), script))
        .buffered(options.parallel.max(1))
        .collect()
        .await;
    Report { results }
}

/// The number of attempts for a script whose answers came too slowly to be judged.
const ATTEMPTS: usize = 5;

async fn run_script<B: Bootstrap>(bootstrap: Arc<B>, script: Script) -> ScriptResult {
    let mut advanced = Duration::ZERO;
    let mut attempts = ATTEMPTS;
    loop {
        let played = play(Arc::clone(&bootstrap), script.clone()).await;
        advanced += played.advanced;
        attempts -= 1;
        let outcome = match played.found {
            Ok(found) => Outcome::compare(&script.name, &script.text, &found, played.too_slow),
            Err(reason) => Outcome::Error { reason },
        };
        if attempts == 0 || !matches!(outcome, Outcome::TooSlow { .. }) {
            return ScriptResult { name: script.name.into_owned(), outcome, advanced };
        }
    }
}

/// Runs one script and returns its text with the answers of this service: the contents of the
/// script's file if the service were right.
///
/// # Errors
/// The reason why the script did not run to its end.
pub async fn generate<B: Bootstrap>(bootstrap: Arc<B>, script: Script) -> Result<String, String> {
    play(bootstrap, script).await.found
}

/// The result of one run of one script.
struct Played {
    found: Result<String, String>,
    advanced: Duration,
    too_slow: Option<Duration>,
}

async fn play<B: Bootstrap>(bootstrap: Arc<B>, script: Script) -> Played {
    let runtime = Handle::current();
    // goldenscript is synchronous: it waits for each answer on a thread that may be blocked.
    let task = tokio::task::spawn_blocking(move || play_blocking(bootstrap, &script.text, runtime));
    task.await.unwrap_or_else(|error| Played {
        found: Err(format!("the service panicked: {error}")),
        advanced: Duration::ZERO,
        too_slow: None,
    })
}

fn play_blocking<B: Bootstrap>(bootstrap: Arc<B>, text: &str, runtime: Handle) -> Played {
    let mut runner = Runner::new(bootstrap, runtime);
    let found = goldenscript::generate(&mut runner, text);
    let cleaned = runner.clean_up();
    let found = match (found, cleaned) {
        (Err(error), _) => Err(error.to_string()),
        (Ok(_), Err(error)) => Err(format!("could not be cleaned up after: {error}")),
        (Ok(found), Ok(())) => Ok(found),
    };
    Played { found, advanced: runner.advanced(), too_slow: runner.too_slow() }
}

/// Like [`generate`], on this thread and without catching panics.
///
/// # Errors
/// As [`generate`].
pub fn play_here<B: Bootstrap>(
    bootstrap: Arc<B>,
    text: &str,
    runtime: &Handle,
) -> Result<String, String> {
    play_blocking(bootstrap, text, runtime.clone()).found
}
