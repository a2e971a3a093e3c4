//! Files that are read again when their content has changed: certificates, keys, issuers of JWTs.
//!
//! Whoever uses such files implements [`Followed`], and [`follow`] has it look at them now and then
//! and when somebody says so. A look reads the content, compares its [`fingerprint`] with the last
//! one, and takes it into use or says why not. Content that cannot be used changes nothing.

use std::fmt::Display;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};
use xxhash_rust::xxh3::Xxh3;

use crate::task::blocking;

/// The interval between two looks: a certificate is renewed days before its end and a key is
/// published long before it signs, so that nobody waits for this.
const EVERY: Duration = Duration::from_secs(5);

/// The user of files that are read again.
pub trait Followed: Send + Sync + 'static {
    /// Looks at the files and takes their content into use if it has changed. Reads files, and so
    /// blocks. What it finds is logged: the same unusable content once.
    fn look(&self) -> Look;
}

/// The result of a look at the files.
#[derive(Debug)]
pub enum Look {
    /// Their content is what it was.
    Unchanged,
    /// Their new content is in use.
    Taken,
    /// Their new content cannot be used; the old one stays in use.
    Refused(Unusable),
}

/// The reason why a file cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{path}: {why}")]
pub struct Unusable {
    path: String,
    why: String,
}

impl Unusable {
    pub(crate) fn new(path: &Path, why: impl Display) -> Self {
        Self { path: path.display().to_string(), why: why.to_string() }
    }

    /// A number for the reason, by which the same one is told from another.
    pub(crate) fn fingerprint(&self) -> u128 {
        fingerprint([self.path.as_bytes(), self.why.as_bytes()])
    }
}

/// A hash of several texts; it finds changes, and nobody's trust depends on it.
pub(crate) fn fingerprint<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u128 {
    let mut hasher = Xxh3::new();
    for part in parts {
        hasher.update(&part.len().to_le_bytes());
        hasher.update(part);
    }
    hasher.digest128()
}

/// Reads a file of at most this many bytes.
pub(crate) fn read_bounded(path: &Path, most: u64) -> Result<Vec<u8>, Unusable> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error| Unusable::new(path, format!("cannot read it: {error}")))?;
    if bytes.len() as u64 > most {
        return Err(Unusable::new(path, format!("it has more than {most} bytes")));
    }
    Ok(bytes)
}

/// Parses TOML, or returns the line of the error and its text.
pub(crate) fn parse_toml<T: DeserializeOwned>(text: &str) -> Result<T, (usize, String)> {
    toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start.min(text.len()));
        let before = text.get(..start).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        (line, error.message().to_owned())
    })
}

/// Has all these look at their files every few seconds, and whenever `now` is notified; never
/// resolves. May be cancelled.
pub async fn follow(all: Vec<Arc<dyn Followed>>, now: Arc<Notify>) {
    let mut period = interval(EVERY);
    period.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = period.tick() => {}
            () = now.notified() => {}
        }
        let all = all.clone();
        let looked = blocking(move || all.iter().for_each(|user| drop(user.look()))).await;
        if let Err(error) = looked {
            tracing::error!(%error, "files that may have changed cannot be looked at");
        }
    }
}
