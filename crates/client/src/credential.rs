//! The credential that each request is sent with: an access token or a JWT.
//!
//! One in a file is read again while the client lives, because those of Kubernetes and of CI services
//! are replaced long before a program ends. An empty file has none. A content that cannot be a
//! credential, and one that is gone, changes nothing.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::HeaderValue;

use keyward_core::clock::Stopwatch;
use keyward_core::error::Error;
use keyward_core::task::blocking;

/// The interval between two looks at the file: a token is replaced minutes before it ends. One that
/// was refused is looked for at once.
const EVERY: Duration = Duration::from_secs(5);

/// The largest file of a token. A node takes less; this bounds what is read by mistake.
const MOST_BYTES: u64 = 64 << 10;

/// The credential of a client.
#[derive(Clone, Default)]
pub(super) enum Source {
    /// None.
    #[default]
    Nothing,
    /// This text, as long as the client lives.
    Text(String),
    /// The content of this file.
    File(PathBuf),
}

/// The credential, ready to be sent. It is in no message.
pub(super) enum Credential {
    Nothing,
    Fixed(HeaderValue),
    Followed(Followed),
}

/// A credential in a file.
pub(super) struct Followed {
    path: PathBuf,
    state: Mutex<State>,
}

struct State {
    /// `None` as long as the file was empty.
    header: Option<HeaderValue>,
    looked: Stopwatch,
    /// Whether it was said that the file cannot be used.
    is_said: bool,
}

impl Credential {
    /// The credential of this source.
    ///
    /// # Errors
    /// `BadRequest` if the file cannot be read, or it is none. It is not repeated.
    pub(super) fn new(source: &Source) -> Result<Self, Error> {
        Ok(match source {
            Source::Nothing => Self::Nothing,
            Source::Text(text) => Self::Fixed(header(text)?),
            Source::File(path) => {
                let header = read(path)?;
                let state = State { header, looked: Stopwatch::start(), is_said: false };
                Self::Followed(Followed { path: path.clone(), state: Mutex::new(state) })
            }
        })
    }
}

impl Followed {
    /// The header of a request that is sent now.
    pub(super) async fn current(&self) -> Option<HeaderValue> {
        let is_due = {
            let mut state = self.state();
            let is_due = state.looked.elapsed() >= EVERY;
            if is_due {
                // The others go on with what is known.
                state.looked = Stopwatch::start();
            }
            is_due
        };
        if is_due {
            self.look().await;
        }
        self.known()
    }

    /// Another header than this one, with which a request was refused.
    pub(super) async fn instead_of(&self, refused: Option<&HeaderValue>) -> Option<HeaderValue> {
        self.look().await;
        self.known().filter(|header| Some(header) != refused)
    }

    fn known(&self) -> Option<HeaderValue> {
        self.state().header.clone()
    }

    /// Looks at the file.
    async fn look(&self) {
        let path = self.path.clone();
        let read = blocking(move || read(&path)).await;
        let mut state = self.state();
        match read {
            Ok(Ok(Some(header))) => {
                state.header = Some(header);
                state.is_said = false;
            }
            Ok(Err(error)) if !std::mem::replace(&mut state.is_said, true) => {
                tracing::warn!(%error, "the file of the access token cannot be used; the old one is");
            }
            // An empty file may be just being written.
            Ok(Ok(None) | Err(_)) => {}
            Err(error) => tracing::warn!(%error, "the file of the access token cannot be read"),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the file; `None` if it is empty.
fn read(path: &Path) -> Result<Option<HeaderValue>, Error> {
    let wrong = |why: &dyn std::fmt::Display| {
        Error::bad_request(format!("the file of the access token, {}: {why}", path.display()))
    };
    let size = std::fs::metadata(path).map_err(|error| wrong(&error))?.len();
    if size > MOST_BYTES {
        return Err(wrong(&format!("it has more than {MOST_BYTES} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| wrong(&error))?;
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    header(text).map(Some).map_err(|_| wrong(&"it has no access token"))
}

/// The header of an access token.
fn header(token: &str) -> Result<HeaderValue, Error> {
    let is_token = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    let value = is_token.then(|| HeaderValue::from_str(&format!("Bearer {token}")).ok()).flatten();
    // The text is not repeated: it may be a secret with a blank too many.
    let mut value = value.ok_or_else(|| {
        Error::bad_request("the access token has blanks, or characters that no token has")
    })?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(header: &HeaderValue) -> &str {
        header.to_str().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_is_read_again_and_what_is_no_token_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "one\n").unwrap();
        let credential = Credential::new(&Source::File(path.clone())).unwrap();
        let Credential::Followed(credential) = credential else { panic!("it is in a file") };
        let sent = async || text(&credential.current().await.unwrap()).to_owned();
        std::fs::write(&path, "two").unwrap();
        assert_eq!(sent().await, "Bearer one", "it is not read at each request");
        tokio::time::advance(EVERY).await;
        assert_eq!(sent().await, "Bearer two");
        for wrong in ["", "two words", "\u{e9}", &"x".repeat(70_000)] {
            std::fs::write(&path, wrong).unwrap();
            tokio::time::advance(EVERY).await;
            assert_eq!(sent().await, "Bearer two", "{wrong:.9}");
        }
        std::fs::remove_file(&path).unwrap();
        tokio::time::advance(EVERY).await;
        assert_eq!(sent().await, "Bearer two");
        // One that is refused is looked for at once.
        let two = credential.current().await;
        assert_eq!(credential.instead_of(two.as_ref()).await, None);
        std::fs::write(&path, "three").unwrap();
        assert_eq!(text(&credential.instead_of(two.as_ref()).await.unwrap()), "Bearer three");
        assert_eq!(sent().await, "Bearer three");
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_file_has_no_token_until_it_has_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, " \n").unwrap();
        let credential = Credential::new(&Source::File(path.clone())).unwrap();
        let Credential::Followed(credential) = credential else { panic!("it is in a file") };
        assert_eq!(credential.current().await, None);
        assert_eq!(credential.instead_of(None).await, None);
        std::fs::write(&path, "one").unwrap();
        assert_eq!(text(&credential.instead_of(None).await.unwrap()), "Bearer one");
    }

    #[test]
    fn a_file_that_cannot_be_used_is_refused_at_first_and_not_repeated() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let refused = || Credential::new(&Source::File(path.clone())).err().unwrap().to_string();
        assert!(refused().contains("the file of the access token"), "{}", refused());
        for wrong in ["secret with blanks", "s\u{e9}cret"] {
            std::fs::write(&path, wrong).unwrap();
            let why = refused();
            assert!(why.contains("it has no access token") && !why.contains("cret"), "{why}");
        }
    }
}
